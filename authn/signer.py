"""Who could have signed, and by when: one claim signature against our lists.

Time is judged under the time-stampers' list alone, the certificate under the
signers' list alone, at the proven time or else at the moment asked for. Does
not ask whether a certificate was withdrawn.
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import TypeAlias

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import NameOID

from authn import cose
from authn.chain import build_chain
from authn.errors import CertificateError, MalformedDerError, TimestampError
from authn.evidence import (
    CertificateFacts,
    Code,
    Finding,
    Revocation,
    RevocationFacts,
    Signer,
    Window,
)
from authn.plain import plain
from authn.profile import Profile, Violation, check_profile
from authn.revocation import HONEST_ENDS, NO_STATUSES, Statuses, check_revocation
from authn.timestamp import unverified
from authn.timestamp.token import TimeEvidence, check_token
from authn.trust import Purpose, TrustList


def _none_kept(_: bytes) -> tuple[bytes, ...]:
    return ()


@dataclass(frozen=True, slots=True)
class Lists:
    """Whom the examiner believes: about signatures, about time, and about who a person is, each apart.

    `statuses` is what the issuers said of withdrawals, wherever it came from. `later` gives
    the tokens that somebody keeps over a signature apart from the file, by the signature's
    SHA-256: as with those in other manifests, each stands by its own signature.
    """

    signers: tuple[TrustList, ...] = ()
    time_stampers: tuple[TrustList, ...] = ()
    identities: tuple[TrustList, ...] = ()
    statuses: Statuses = NO_STATUSES
    later: Callable[[bytes], tuple[bytes, ...]] = _none_kept

    def __post_init__(self) -> None:
        for purpose, held in (
            (Purpose.SIGNING, self.signers),
            (Purpose.TIME_STAMPING, self.time_stampers),
            (Purpose.IDENTITY, self.identities),
        ):
            if any(trusted.purpose is not purpose for trusted in held):
                raise CertificateError(f"a list stands among those for {purpose} and is for something else")

    def with_answers(self, answers: tuple[bytes, ...]) -> "Lists":
        """The same lists, and what came stapled to a file besides what the examiner has."""
        if not answers:
            return self
        return replace(self, statuses=Statuses(self.statuses.crls, (*self.statuses.answers, *answers)))


UNPROVEN = Window()
# Certificates from leaf to anchor; empty where no list is reached.
Path: TypeAlias = tuple[x509.Certificate, ...]


@dataclass(frozen=True, slots=True)
class TimeAnswer:
    """What the tokens of one signature prove.

    `claim` is what a token of the older kind (`sigTst`) proves: the claim, and so
    the content's hash, existed by then. Whoever holds the key could still have
    signed it later, so it neither dates the signature nor revives a certificate.
    """

    signature: Window
    claim: Window
    token: bytes | None
    finding: Finding
    path: Path = ()
    list: str | None = None
    """The list under which the token stands, whatever it dates; and the moment it states."""
    at: datetime | None = None

    def standing(self, evidence: TimeEvidence) -> "TimeAnswer":
        """The same, with where the token stands and what it states."""
        return replace(self, list=evidence.list, at=evidence.gen_time)


def check_time(
    signed: cose.ClaimSignature, later: tuple[bytes, ...], lists: Lists, at: datetime
) -> TimeAnswer:
    """The windows that the token in the signature, and `later` ones from other manifests or places, prove."""
    answers = [_stamped(signed, lists, at)]
    kept = lists.later(hashlib.sha256(signed.signature).digest())
    answers += [check_stamp(stamp_of(signed, token), lists, at) for token in (*later, *kept)]
    proven = [answer for answer in answers if answer.signature.not_after is not None]
    best = min(proven, key=lambda answer: answer.signature.not_after or at) if proven else answers[0]
    if not proven and len(answers) > 1 and signed.stamp_count == 0:
        best = answers[1]
    return replace(best, claim=answers[0].claim, token=best.token or answers[0].token)


def stamp_of(signed: cose.ClaimSignature, token: bytes) -> cose.Stamp:
    """A token that stands apart from the signature, and which bytes it says that it is over.

    A second authority that was asked at signing dates what the first one did (`sigTst2`); one that was
    asked later dates the raw signature, as a `c2pa.time-stamp` assertion does (C2PA 2.2, 10.3.2.5).
    Either is checked as what it says it is.
    """
    raw = cose.Stamp(token, signed.signature, over_signature=True)
    if signed.stamp is None or not signed.stamp.over_signature:
        return raw
    try:
        statement = unverified.parse(token).statement
    except (MalformedDerError, TimestampError, CertificateError):
        return raw  # what cannot be read is told by the check
    beside = hashlib.sha256(signed.stamp.message).digest() == statement.digest
    return replace(signed.stamp, token=token) if beside else raw


def _stamped(signed: cose.ClaimSignature, lists: Lists, at: datetime) -> TimeAnswer:
    if signed.stamp_count > 1:
        return _undated("two time-stamp tokens contradict the format; neither counts")
    if signed.stamp is None:
        return _undated("no time-stamp token: nothing proves when this was signed")
    return check_stamp(signed.stamp, lists, at)


def _undated(why: str, token: bytes | None = None, claim: Window = UNPROVEN) -> TimeAnswer:
    return TimeAnswer(UNPROVEN, claim, token, Finding.fails(Code.TIME_PROVEN, why))


def check_stamp(stamp: cose.Stamp, lists: Lists, at: datetime) -> TimeAnswer:
    """What one token proves by itself."""
    evidence = check_token(stamp.token, stamp.message, lists.time_stampers, at)
    if not evidence.proven or evidence.gen_time is None:
        return _undated(evidence.reason, stamp.token)
    if reason := _withdrawn(evidence, lists, at):
        return _undated(reason, stamp.token)
    latest = evidence.gen_time + (evidence.accuracy or timedelta())
    authority = plain(evidence.authority, 80)
    window = Window(None, latest, f"time-stamp token by {authority}, list {evidence.list}")
    if not stamp.over_signature:
        return _undated(
            f"a time-stamp token by {authority} is of the older kind that dates the claim, not the signature",
            stamp.token,
            window,
        ).standing(evidence)
    proven = Finding.holds(Code.TIME_PROVEN, f"a time-stamp token by {authority} dates the signature")
    return TimeAnswer(window, UNPROVEN, stamp.token, proven, evidence.path).standing(evidence)


def _withdrawn(evidence: TimeEvidence, lists: Lists, at: datetime) -> str | None:
    """Why the authority's withdrawal takes the token with it, if it does (RFC 3161, section 4).

    After an honest end what the authority stamped before still counts. After any other
    reason whoever has its key can write whatever time he likes.
    """
    for path in (evidence.path, *evidence.others):
        facts = check_revocation(path, lists.statuses, evidence.gen_time, at)
        match facts.state:
            case Revocation.GOOD | Revocation.NOT_CHECKED:
                continue
            case Revocation.SIGNED_BEFORE if facts.reason in HONEST_ENDS:
                continue
            case _:
                return f"the time-stamp authority's certificate was withdrawn: {facts.explanation}"
    return None


@dataclass(frozen=True, slots=True)
class SignerAnswer:
    """Whose certificate it is by our lists, which list says so, and whether anyone withdrew it."""

    state: Signer
    list: str | None
    revocation: RevocationFacts
    findings: tuple[Finding, ...]
    path: Path


def check_signer(
    chain: tuple[x509.Certificate, ...], lists: Lists, proven: datetime | None, at: datetime
) -> SignerAnswer:
    """Judge the certificate at the proven time, or at `at` where none is proven.

    Each list judges on its own, by its own profile; the one that says most for the
    certificate counts, since the examiner believes them all. A certificate under no
    list is held to what C2PA asks of any signer: it is unknown, and rarely worse.
    """
    moment = proven or at
    when = "at the proven time" if proven else f"at {at:%Y-%m-%d %H:%M} UTC, since no time is proven"
    judged = [_under(chain, listed, moment, when) for listed in lists.signers]
    best = max(judged, key=lambda answer: _RANK[answer.state], default=None)
    if best is None or not best.paths:
        best = _under_none(chain, judged, moment, when)
    if best.state not in (Signer.RECOGNISED, Signer.EXPIRED_TIME_UNPROVEN):
        return best.answer(RevocationFacts(explanation=_UNASKED))
    facts = _withdrawal([path for answer in judged for path in answer.paths], lists, proven, at)
    return replace(best, state=_after(facts.state, best.state)).answer(facts)


def nobody() -> SignerAnswer:
    """Whose certificate it is where the signature does not hold: the chain may be copied from anywhere."""
    facts = RevocationFacts(explanation="the signature does not hold, so there is no signer to ask about")
    said = "the signature does not hold, so the certificates beside it say nothing about who signed"
    findings = (Finding.fails(Code.SIGNER_CHAIN, said), _revocation_finding(facts))
    return SignerAnswer(Signer.NOT_RECOGNISED, None, facts, findings, ())


_UNASKED = "the signer is not recognised, so nobody's word on withdrawal was looked for"
_RANK = {
    Signer.RECOGNISED: 4,
    Signer.EXPIRED_TIME_UNPROVEN: 3,
    Signer.WRONG_KIND: 2,
    Signer.REVOKED: 1,
    Signer.NOT_RECOGNISED: 0,
}
_GRAVITY = (
    Revocation.GOOD,
    Revocation.NOT_CHECKED,
    Revocation.SIGNED_BEFORE_BY_LEDGER,
    Revocation.SIGNED_BEFORE,
    Revocation.DISOWNED,
    Revocation.REVOKED_TIME_UNKNOWN,
    Revocation.REVOKED,
)


def _withdrawal(paths: list[Path], lists: Lists, proven: datetime | None, at: datetime) -> RevocationFacts:
    """The gravest that is known of any path: which of them comes first is the file's choice, or a list's name's."""

    def gravest(moment: datetime | None) -> RevocationFacts:
        found = [check_revocation(path, lists.statuses, moment, at) for path in paths]
        return max(found, key=lambda facts: _GRAVITY.index(facts.state))

    facts = gravest(proven)
    if facts.state is not Revocation.REVOKED_TIME_UNKNOWN or facts.since is None:
        return facts
    # Could a clock that others do not know still help? Only if a signature from just before would stand.
    before = gravest(facts.since - timedelta(seconds=1))
    return facts if before.state is Revocation.SIGNED_BEFORE else replace(facts, since=None)


def _after(state: Revocation, otherwise: Signer) -> Signer:
    match state:
        case Revocation.REVOKED | Revocation.REVOKED_TIME_UNKNOWN | Revocation.SIGNED_BEFORE_BY_LEDGER:
            return Signer.REVOKED
        case Revocation.DISOWNED:
            return Signer.NOT_RECOGNISED
        case Revocation.GOOD | Revocation.SIGNED_BEFORE | Revocation.NOT_CHECKED:
            return otherwise


@dataclass(frozen=True, slots=True)
class _Judgment:
    """What one list says."""

    state: Signer
    list: str
    paths: tuple[Path, ...]
    findings: tuple[Finding, ...]

    def answer(self, facts: RevocationFacts) -> SignerAnswer:
        listed = self.list if self.state in (Signer.RECOGNISED, Signer.REVOKED) else None
        findings = (*self.findings, _revocation_finding(facts))
        return SignerAnswer(self.state, listed, facts, findings, self.paths[0] if listed else ())


def _revocation_finding(facts: RevocationFacts) -> Finding:
    fine = facts.state in (Revocation.GOOD, Revocation.SIGNED_BEFORE)
    return Finding(Code.REVOCATION_CHECKED, fine, facts.explanation)


def _under(chain: tuple[x509.Certificate, ...], listed: TrustList, moment: datetime, when: str) -> _Judgment:
    """Judge by one list, along the path that was found, so that nothing a stranger adds to the chain matters."""
    leaf = chain[0]
    path = build_chain(leaf, chain[1:], listed.anchors, moment)
    # Out of date, perhaps, but issued by somebody we believe?
    when_issued = (
        path if path.path else build_chain(leaf, chain[1:], listed.anchors, leaf.not_valid_before_utc)
    )
    issued = when_issued.path
    if issued is None:
        missing = Finding.fails(
            Code.SIGNER_CHAIN,
            f"the certificate's chain does not end in the list {listed.name}: {path.reason}",
        )
        return _Judgment(Signer.NOT_RECOGNISED, listed.name, (), (missing,))
    dated, kind = _split(check_profile(issued, listed.profile, moment))
    findings = (
        Finding(
            Code.SIGNER_CHAIN,
            path.path is not None,
            f"the certificate's chain ends in the list {listed.name}"
            if path.path is not None
            else f"the certificate's chain does not end in the list {listed.name}: {path.reason}",
        ),
        *_profile_findings(kind, dated, when),
    )
    if kind:
        state = Signer.WRONG_KIND
    elif path.path is not None and not dated:
        state = Signer.RECOGNISED
    elif dated:
        state = Signer.EXPIRED_TIME_UNPROVEN
    else:
        state = Signer.NOT_RECOGNISED
    return _Judgment(state, listed.name, (issued, *when_issued.others), findings)


def _under_none(
    chain: tuple[x509.Certificate, ...], judged: list[_Judgment], moment: datetime, when: str
) -> _Judgment:
    """Under no list: of the wrong kind by the specification's own rules, or unknown."""
    dated, kind = _split(check_profile(chain[:1], Profile.SPECIFICATION, moment))
    match judged:
        case []:
            unlisted = Finding.fails(Code.SIGNER_CHAIN, "no signer is listed, so none can be recognised")
        case [only]:
            unlisted = only.findings[0]
        case _:
            names = ", ".join(answer.list for answer in judged)
            unlisted = Finding.fails(
                Code.SIGNER_CHAIN, f"the certificate's chain does not end in any of the lists {names}"
            )
    state = Signer.WRONG_KIND if kind else Signer.NOT_RECOGNISED
    return _Judgment(state, "", (), (unlisted, *_profile_findings(kind, dated, when)))


def _split(violations: tuple[Violation, ...]) -> tuple[list[Violation], list[Violation]]:
    """Those about dates, and those about what kind of certificate it is."""
    dated = [violation for violation in violations if violation.rule in ("expired", "not-yet-valid")]
    return dated, [violation for violation in violations if violation not in dated]


def _profile_findings(kind: list[Violation], dated: list[Violation], when: str) -> tuple[Finding, Finding]:
    return (
        Finding(
            Code.SIGNER_PROFILE,
            not kind,
            "the certificate is of the kind that may sign claims"
            if not kind
            else "; ".join(violation.explanation for violation in kind[:3]),
        ),
        Finding(
            Code.SIGNER_VALID_AT,
            not dated,
            f"the certificate is valid {when}"
            if not dated
            else f"the certificate is not valid {when}: {dated[0].explanation}",
        ),
    )


def _name(name: x509.Name, kind: x509.ObjectIdentifier) -> str:
    values = name.get_attributes_for_oid(kind)
    return plain(str(values[0].value), 80) if values else ""


def certificate_facts(certificate: x509.Certificate) -> CertificateFacts:
    """What a certificate says of itself, made safe to show."""
    return CertificateFacts(
        _name(certificate.subject, NameOID.COMMON_NAME),
        _name(certificate.subject, NameOID.ORGANIZATION_NAME),
        _name(certificate.issuer, NameOID.COMMON_NAME),
        f"{certificate.serial_number:x}",
        certificate.fingerprint(hashes.SHA256()).hex(),
        hashlib.sha256(
            certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        ).hexdigest(),
        certificate.not_valid_before_utc,
        certificate.not_valid_after_utc,
    )
