"""What a check of one file found: types only, no opinion.

A check is a `Finding`. The states below are computed from findings and never
assigned on the way. Nothing here knows of a detector, a database or a page.
"""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum


class Panel(StrEnum):
    """The three kinds of statement, which are never merged."""

    PROVEN = "proven"
    CLAIMED = "claimed"
    ESTIMATED = "estimated"


class Code(StrEnum):
    """The stable name of one check; `Finding.passed` says how it went."""

    CREDENTIALS_PRESENT = "credentials.present"
    CREDENTIALS_READABLE = "credentials.readable"
    ASSERTIONS_MATCH = "assertions.match"
    CONTENT_MATCHES = "content.matches"
    CONTENT_COVERED = "content.covered"
    SIGNATURE_VALID = "signature.valid"
    SIGNATURE_PADDING_EMPTY = "signature.padding_empty"
    TIME_PROVEN = "time.proven"
    TIME_NOT_BEFORE = "time.not_before"
    SIGNER_CHAIN = "signer.chain"
    SIGNER_PROFILE = "signer.profile"
    SIGNER_VALID_AT = "signer.valid_at"
    REVOCATION_CHECKED = "revocation.checked"
    HISTORY_INTACT = "history.intact"
    HISTORY_CONNECTED = "history.connected"
    LEDGER_INCLUDED = "ledger.included"
    CAPTURE_CHAIN = "capture.chain"
    CUSTODY_STANDS = "custody.stands"
    MEDIA_WHOLE = "media.whole"
    LISTS_CURRENT = "lists.current"
    CLAIMS_CONSISTENT = "claims.consistent"
    IDENTITY_RECOGNISED = "identity.recognised"
    POLICY_MET = "policy.met"


@dataclass(frozen=True, slots=True)
class Finding:
    """How one check went, in one sentence."""

    code: Code
    passed: bool
    explanation: str
    panel: Panel = Panel.PROVEN

    @classmethod
    def holds(cls, code: Code, explanation: str) -> "Finding":
        """A check that went well."""
        return cls(code, passed=True, explanation=explanation)

    @classmethod
    def fails(cls, code: Code, explanation: str) -> "Finding":
        """A check that did not go well, or could not be made."""
        return cls(code, passed=False, explanation=explanation)


class Credentials(StrEnum):
    """Whether the file carries a signed record we can read."""

    PRESENT = "present"
    NONE = "none"
    ELSEWHERE = "elsewhere"
    UNREADABLE = "unreadable"


class Content(StrEnum):
    """How the media relates to what was signed."""

    INTACT = "intact"
    PARTLY_COVERED = "partly covered"
    CHANGED = "changed"
    NOT_BOUND = "not bound"


class Signature(StrEnum):
    """Whether the claim's signature verifies under the certificate's key."""

    VALID = "valid"
    BROKEN = "broken"


class Signer(StrEnum):
    """What our signer list says of the certificate, at the proven time."""

    RECOGNISED = "recognised"
    NOT_RECOGNISED = "not recognised"
    EXPIRED_TIME_UNPROVEN = "expired, time unproven"
    REVOKED = "revoked"
    WRONG_KIND = "wrong kind of certificate"


class Revocation(StrEnum):
    """Whether anyone withdrew a certificate that the signature rests on."""

    GOOD = "good"
    REVOKED = "revoked"
    REVOKED_TIME_UNKNOWN = "revoked, and no time proves that the signature is older"
    SIGNED_BEFORE = "signed before revocation"
    SIGNED_BEFORE_BY_LEDGER = "signed before revocation, by the ledger's clock"
    DISOWNED = "unknown to its issuer"
    NOT_CHECKED = "not checked"


class History(StrEnum):
    """What is known of the files this one was made from."""

    COMPLETE = "complete"
    STARTS_WITHOUT = "starts without credentials"
    PARTIAL = "partial"
    PROBLEM = "problem"
    NONE = "none"


class Custody(StrEnum):
    """How well it is known where the device keeps its key."""

    E0 = "E0"
    E1 = "E1"
    E2 = "E2"
    E3 = "E3"


@dataclass(frozen=True, slots=True)
class Window:
    """When the signature was made: not a moment, a bracket.

    `None` on a side means nothing proves that side. `source` names the
    evidence for `not_after`, `source_before` that for `not_before`.
    """

    not_before: datetime | None = None
    not_after: datetime | None = None
    source: str | None = None
    source_before: str | None = None


@dataclass(frozen=True, slots=True)
class CertificateFacts:
    """What a signer's certificate says of itself; a name proves nothing without a list."""

    name: str
    organisation: str
    issuer: str
    serial: str
    sha256: str
    key_sha256: str
    not_before: datetime
    not_after: datetime


@dataclass(frozen=True, slots=True)
class RevocationFacts:
    """What was found about withdrawal, and where; of several certificates, about the worst.

    `as_of` is when the issuer's word was given, `since` from when on the
    certificate is not to be believed, `reason` the issuer's (RFC 5280, 5.3.1).
    """

    state: Revocation = Revocation.NOT_CHECKED
    explanation: str = "nobody was asked whether the certificate was withdrawn"
    as_of: datetime | None = None
    since: datetime | None = None
    reason: str | None = None
    source: str | None = None
    complete: bool = False
    """Whether every certificate below the anchor was spoken for."""


@dataclass(frozen=True, slots=True)
class AssetId:
    """The identity of a signed asset, stable under padding (SHA-256 digests).

    Never the file's own SHA-256: most bytes of an embedded manifest can be
    changed without breaking any signature.
    """

    claim: bytes
    binding: bytes
    signature: bytes


@dataclass(frozen=True, slots=True)
class Claims:
    """What the signer says, in the signer's name; nobody else checked it."""

    title: str | None = None
    generator: str | None = None
    actions: tuple[str, ...] = ()
    source_types: tuple[str, ...] = ()
    claimed_at: str | None = None
    device: str | None = None
    place: str | None = None
    author: str | None = None
    training: tuple[str, ...] = ()
    gathered: tuple[str, ...] = ()
    left_out: int = 0
    """Statements that were too many or too long to be repeated."""
    makes: tuple[str, ...] = ()
    models: tuple[str, ...] = ()
    capture_times: tuple[str, ...] = ()
    coordinates: tuple[tuple[float, float], ...] = ()
    """Latitude and longitude. Of these four, each value that the assertions give, since they may differ."""


@dataclass(frozen=True, slots=True)
class CaptureStatement:
    """What a capture's claim says of its place in the device's chain and of the time before it. Unverified.

    `commitment` hides the place; only who is shown the opening can tell it. `checkpoint` is a log's signed
    note: if it is what it claims to be, the claim was made after it.
    """

    commitment: bytes
    checkpoint: str | None


@dataclass(frozen=True, slots=True)
class Identity:
    """Who else signed for the claim, by a credential apart from the signer's (CAWG Identity Assertion 1.1).

    `list` names the identity list that recognises the credential; without one
    the name is whatever its maker wrote, and `problem` says what is missing.
    """

    kind: str
    name: str
    organisation: str
    issuer: str
    list: str | None
    problem: str | None
    covers: tuple[str, ...] = ()
    """The labels of the assertions it signed for; empty where its signature does not hold."""


@dataclass(frozen=True, slots=True)
class Step:
    """One file in the history tree.

    `recorded` are the problems that the signer noted when the file was used,
    `recomputed` those we find in its record now. `thumbnail` is what a
    recognised signer kept of it: the signer's picture, not one of ours.
    """

    title: str
    relationship: str
    credentials: Credentials
    recorded: tuple[str, ...] = ()
    recomputed: tuple[str, ...] = ()
    signer: CertificateFacts | None = None
    recognised: bool = False
    signer_list: str | None = None
    time: Window = Window()
    revocation: RevocationFacts = RevocationFacts()
    redacted: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    """What nobody can say of this step, and that is no fault: see `authn.history`."""
    thumbnail: bytes | None = None
    steps: tuple["Step", ...] = ()

    @property
    def problems(self) -> tuple[str, ...]:
        """Everything that is wrong with this step, whoever found it."""
        return tuple(dict.fromkeys((*self.recorded, *self.recomputed)))


@dataclass(frozen=True, slots=True)
class Provenance:
    """Everything the checks of one file found. No state here is a verdict."""

    credentials: Credentials
    content: Content | None
    signature: Signature | None
    signer: Signer | None
    time: Window
    revocation: RevocationFacts
    history: History
    certificate: CertificateFacts | None
    signer_list: str | None
    identity: AssetId | None
    claims: Claims
    steps: tuple[Step, ...]
    findings: tuple[Finding, ...]
    claim_time: Window = Window()
    """By when the claim, and so the hash of the content, existed: less than a date of the signature."""
    identities: tuple[Identity, ...] = ()
    redacted: tuple[str, ...] = ()
    paths: tuple[tuple[bytes, ...], ...] = ()
    """The certificates that the verdict rests on, each from leaf to anchor: the signer's, and the time-stamper's."""
    chain: tuple[bytes, ...] = ()
    token: bytes | None = None
    capture: CaptureStatement | None = None
