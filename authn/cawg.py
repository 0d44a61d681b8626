"""Who signed for statements of a record besides its signer (CAWG Identity Assertion 1.1).

An identity speaks for what it refers to and for nothing else: one that refers to the
media's hash alone can be moved into a record that says other things of the same media,
so `Identity.covers` tells what was signed for. An identity is recognised if its own
credential stands under an identity list, and by nothing else: anchors for signers or
for time-stampers recognise none, and a recognised identity says nothing of who signed
the claim. It never changes what is known of the signer, the content or the time.

Not verified here: that the claim names the assertions an identity refers to, which
`authn.claim` does; a withdrawal that none of the given statuses tells of; a time-stamp inside the
identity's own signature, so that the moment must be proven by the claim's. An
identity vouched for by an aggregator or by a kind of credential not known here is
named and never recognised. So is one that refers to an earlier version's
assertions, as that of an update manifest must.
"""

import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID

from authn import cbor, cose, jumbf
from authn.chain import build_chain
from authn.errors import CertificateError, MediaError
from authn.evidence import Code, Finding, Identity, Panel, Revocation
from authn.plain import plain
from authn.profile import check_profile
from authn.revocation import NO_STATUSES, Statuses, check_revocation
from authn.signer import certificate_facts
from authn.trust import Purpose, TrustList

MAX_IDENTITIES = 20
MAX_REFERENCES = 500
MAX_CONTENT = 64 << 10

X509_KIND = "cawg.x509.cose"
AGGREGATED_KIND = "cawg.identity_claims_aggregation"

_LABEL = re.compile(r"cawg\.identity(?:__[0-9]{1,4})?")
_PAYLOAD_KEY = b"\x6esigner_payload"
_HARD_BINDING = "c2pa.hash."
_HASHES = frozenset({"sha256", "sha384", "sha512"})
_DOCUMENT_SIGNING = x509.ObjectIdentifier("1.3.6.1.5.5.7.3.36")
# CA/Browser Forum, S/MIME requirements: the holder's name was checked, not only the mailbox.
_NAME_CHECKED = frozenset(f"2.23.140.1.5.{kind}.{form}" for kind in (2, 3, 4) for form in (2, 3))
_AGAINST = frozenset({Revocation.REVOKED, Revocation.REVOKED_TIME_UNKNOWN, Revocation.DISOWNED})
_MAIL_ENDS = datetime(2027, 4, 1, tzinfo=UTC)

_Map = dict[str | int | bytes, cbor.Value]


class _RefusedError(MediaError):
    """Why an identity assertion is not recognised, as its whole message."""


@dataclass(frozen=True, slots=True)
class _Signed:
    """What an identity assertion holds. Unverified."""

    payload: bytes
    references: list[_Map]
    kind: str
    signature: bytes


@dataclass(frozen=True, slots=True)
class _Judged:
    """What credentials are judged by, and as of when."""

    lists: tuple[TrustList, ...]
    statuses: Statuses
    proven: datetime | None
    at: datetime

    @property
    def moment(self) -> datetime:
        """When a credential had to stand."""
        return self.proven or self.at


def check_identities(
    manifest: jumbf.ManifestBoxes,
    lists: tuple[TrustList, ...],
    at: datetime,
    statuses: Statuses = NO_STATUSES,
    proven: datetime | None = None,
) -> tuple[tuple[Identity, ...], tuple[Finding, ...]]:
    """Every identity in the manifest and a finding for each, judged at the time `proven` for the claim.

    `at` is the moment of the check: without a proven time the credentials must stand
    then, and the statuses are read as of then in any case. A list for another purpose is
    an error, not a list that happens not to help.
    """
    if any(trusted.purpose is not Purpose.IDENTITY for trusted in lists):
        raise CertificateError("a list that is not for identities was given to recognise them by")
    held = [assertion for assertion in manifest.assertions if _LABEL.fullmatch(assertion.label)]
    by = _Judged(lists, statuses, proven, at)
    identities = tuple(_identity(assertion, manifest, by) for assertion in held[:MAX_IDENTITIES])
    statements = _statements(manifest)
    findings = [
        _finding(item, assertion.label, statements) for item, assertion in zip(identities, held, strict=False)
    ]
    if (left := len(held) - MAX_IDENTITIES) > 0:
        findings.append(
            Finding.fails(
                Code.IDENTITY_RECOGNISED,
                f"{left} more identities were not looked at: the record has too many",
            )
        )
    return identities, tuple(replace(finding, panel=Panel.CLAIMED) for finding in findings)


def _statements(manifest: jumbf.ManifestBoxes) -> int:
    """How many statements the record has, but for the media's hash, that an identity of it could sign for.

    An identity cannot sign for itself, so that one of several is no statement.
    """
    return sum(not item.label.startswith(_HARD_BINDING) for item in manifest.assertions) - 1


def _finding(identity: Identity, label: str, statements: int) -> Finding:
    if identity.problem is not None:
        return Finding.fails(
            Code.IDENTITY_RECOGNISED, f"the identity in {label} is not recognised: {identity.problem}"
        )
    holder = ", ".join(filter(None, (identity.name, identity.organisation))) or "a holder without a name"
    return Finding.holds(
        Code.IDENTITY_RECOGNISED,
        f"{holder} signed for {_covered(identity, statements)},"
        f" by a credential that the list {identity.list} recognises",
    )


def _covered(identity: Identity, statements: int) -> str:
    others = sum(not label.startswith(_HARD_BINDING) for label in identity.covers)
    return (
        f"the media's hash and {others} of the record's {statements} statements"
        if others
        else ("the media's hash, and for none of the record's statements")
    )


def _identity(assertion: jumbf.Assertion, manifest: jumbf.ManifestBoxes, by: _Judged) -> Identity:
    """One identity. A name is given only once its key has signed for assertions of this very manifest."""
    kind = "unreadable"
    try:
        # 1. Its shape, and the exact bytes that were signed (CAWG 1.1, sections 5 and 7.1).
        signed = _parse(assertion)
        kind = plain(signed.kind, 80)
        # 2. What it signs for: this manifest's assertions, and its one hard binding (section 5.1).
        covers = _check_references(signed.references, assertion, manifest)
        # 3. The signature over it, by the key of the credential it came with (section 8.2).
        chain = _signers(signed)
    except MediaError as error:
        return Identity(kind, "", "", "", None, str(error))
    # 4. The credential under a list of identities, and of a kind that names its holder (section 8.2.3).
    facts = certificate_facts(chain[0])
    recognised, problem = _recognised(chain, by)
    return Identity(kind, facts.name, facts.organisation, facts.issuer, recognised, problem, covers)


# --- 1. Shape


def _parse(assertion: jumbf.Assertion) -> _Signed:
    if assertion.type != b"cbor" or len(assertion.content) > MAX_CONTENT:
        raise _RefusedError("its record is not CBOR, or is too long")
    match cbor.decode(assertion.content):
        case {"signer_payload": dict(), "signature": bytes(signature), "pad1": bytes(pad1), **rest}:
            pass
        case _:
            raise _RefusedError("its record lacks what every identity holds")
    pad2 = rest.get("pad2", b"")
    if not isinstance(pad2, bytes) or any(pad1) or any(pad2):
        raise _RefusedError("its padding, which nobody signed, is not empty")
    payload = _payload(assertion.content)
    # What is judged is read from what was signed, and from nowhere else.
    match cbor.decode(payload):
        case {"referenced_assertions": [_, *_] as references, "sig_type": str(kind), **rest} if kind:
            pass
        case _:
            raise _RefusedError("what it signs lacks its references or its kind")
    if "role" in rest:
        match rest["role"]:
            case [_, *_] as roles if all(isinstance(role, str) and role for role in roles):
                pass
            case _:
                raise _RefusedError("its roles are not a list of names")
    maps = [item for item in references if isinstance(item, dict)]
    if len(maps) != len(references) or len(maps) > MAX_REFERENCES:
        raise _RefusedError("what it refers to is not a list of assertions, or is too long")
    return _Signed(payload, maps, kind, signature)


def _payload(content: bytes) -> bytes:
    """The bytes of `signer_payload` as they stand in an assertion that decodes.

    Nothing is encoded again: writers differ in the order of keys, and the order that
    stands here must be the order that was signed.
    """
    major, pairs, position = _head(content, 0)
    if major == 5:
        for _ in range(pairs):
            value = _end(content, position)
            end = _end(content, value)
            if content[position:value] == _PAYLOAD_KEY:
                return content[value:end]
            position = end
    raise _RefusedError("its record is not in the form that has one encoding")


def _end(data: bytes, position: int) -> int:
    """Where the item at `position` ends, in CBOR known to be well formed."""
    waiting = 1
    while waiting:
        major, argument, position = _head(data, position)
        waiting -= 1
        match major:
            case 2 | 3:
                position += argument
            case 4:
                waiting += argument
            case 5:
                waiting += 2 * argument
            case 6:
                waiting += 1
            case _:  # a number or a simple value is its head alone
                pass
    return position


def _head(data: bytes, position: int) -> tuple[int, int, int]:
    """Major type, argument, and where the head ends (RFC 8949, section 3)."""
    major, detail = divmod(data[position], 32)
    if detail > 27:  # RFC 8949, 4.2.1 has no indefinite lengths
        raise _RefusedError("its record is not in the form that has one encoding")
    end = position + 1 + (0 if detail < 24 else 1 << (detail - 24))
    return major, detail if detail < 24 else int.from_bytes(data[position + 1 : end], "big"), end


# --- 2. References


def _check_references(
    references: list[_Map], assertion: jumbf.Assertion, manifest: jumbf.ManifestBoxes
) -> tuple[str, ...]:
    """The labels of what it refers to, each of which is there as it was signed for."""
    held = {item.label: item.box for item in manifest.assertions}
    default = _claim_hash(manifest)
    named: list[str] = []
    for label, reference in _labelled(references, manifest):
        if label == assertion.label:
            raise _RefusedError("it refers to itself")
        if label in named:
            raise _RefusedError("it refers to the same assertion twice")
        named.append(label)
        if label not in held:
            raise _RefusedError("it refers to an assertion that is not there")
        name, digest = reference.get("alg", default), reference.get("hash")
        if not isinstance(name, str) or name not in _HASHES:
            raise _RefusedError("it refers to an assertion by a hash that is not accepted")
        if hashlib.new(name, held[label]).digest() != digest:
            raise _RefusedError("an assertion it refers to is not the one that was signed for")
    # One hard binding, and the one there is: with two, readers could differ in which they hold the media to.
    bindings = {label for label in held if label.startswith(_HARD_BINDING)}
    signed_for = {label for label in named if label.startswith(_HARD_BINDING)}
    if not signed_for:
        raise _RefusedError("it does not refer to the hash that binds the record to the media")
    if len(bindings) != 1:
        raise _RefusedError("more than one hash binds the record to the media")
    return tuple(plain(label, 120) for label in named)


def _labelled(references: list[_Map], manifest: jumbf.ManifestBoxes) -> Iterator[tuple[str, _Map]]:
    """Each reference with the label of the assertion of this manifest that it points to."""
    for reference in references:
        uri = reference.get("url")
        label = uri.rpartition("/")[2] if isinstance(uri, str) else ""
        path = f"c2pa.assertions/{label}"
        if uri not in (f"self#jumbf={path}", f"self#jumbf=/c2pa/{manifest.label}/{path}"):
            raise _RefusedError("it refers to something that is no assertion of this record")
        yield label, reference


def _claim_hash(manifest: jumbf.ManifestBoxes) -> cbor.Value:
    """The hash that holds where a reference names none (C2PA 2.2, 8.4.2)."""
    claim = cbor.decode(manifest.claim)
    return claim.get("alg") if isinstance(claim, dict) else None


# --- 3. Signature


def _signers(signed: _Signed) -> tuple[x509.Certificate, ...]:
    if signed.kind == AGGREGATED_KIND:
        raise _RefusedError("somebody else vouches for it, who would have to be asked online; nobody was")
    if signed.kind != X509_KIND:
        raise _RefusedError("credentials of its kind are not checked here")
    found = cose.parse(signed.signature, signed.payload)
    if not found.verifies(signed.payload):
        raise _RefusedError("the credential's key did not sign this")
    if not found.chain_protected:
        # Else whoever has the same key certified in another name can put that name here.
        raise _RefusedError("its signature does not cover its certificate")
    if not found.padding_empty:
        raise _RefusedError("its padding, which nobody signed, is not empty")
    return found.chain


# --- 4. Recognition


def _recognised(chain: tuple[x509.Certificate, ...], by: _Judged) -> tuple[str | None, str | None]:
    """The list that knows the credential, or why none does."""
    problems: list[str] = []
    for trusted in by.lists:
        found = build_chain(chain[0], chain[1:], trusted.anchors, by.moment)
        if found.path is None:
            problems.append(f"by the list {plain(trusted.name, 80)}, {found.reason}")
            continue
        faults = [
            violation.explanation for violation in check_profile(found.path, trusted.profile, by.moment)
        ]
        faults += _unfit(chain[0], by.moment)
        faults += _withdrawn(found.path, by)
        if not faults:
            return trusted.name, None
        problems.append(f"by the list {plain(trusted.name, 80)}, {faults[0]}")
    return None, plain("; ".join(("no identity list recognises the credential", *problems)), 400)


def _withdrawn(path: tuple[x509.Certificate, ...], by: _Judged) -> Iterator[str]:
    """Why its issuer's word stands against the credential.

    The claim's signature is over the identity, so a time proven for it holds for the identity too.
    """
    facts = check_revocation(path, by.statuses, by.proven, by.at)
    if facts.state in _AGAINST:
        yield facts.explanation


def _unfit(leaf: x509.Certificate, at: datetime) -> Iterator[str]:
    """Why a certificate does not speak for its holder's name (CAWG 1.1, section 8.2.3).

    One that signs claims, and no documents, is a device's or a product's: a root that
    stands in both kinds of list must not turn it into somebody's identity.
    """
    purposes: set[x509.ObjectIdentifier] = set()
    policies: set[str] = set()
    for extension in leaf.extensions:
        if isinstance(extension.value, x509.ExtendedKeyUsage):
            purposes.update(extension.value)
        elif isinstance(extension.value, x509.CertificatePolicies):
            policies.update(policy.policy_identifier.dotted_string for policy in extension.value)
    if _DOCUMENT_SIGNING in purposes:
        return
    if ExtendedKeyUsageOID.EMAIL_PROTECTION not in purposes:
        yield "the certificate was issued neither for signing documents nor for mail"
    elif not policies & _NAME_CHECKED:
        yield "the certificate is for mail, and does not say that its holder's name was checked"
    elif at >= _MAIL_ENDS:
        yield "the certificate is for mail, which counts for identities signed until 31 March 2027 only"
