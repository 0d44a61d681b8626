"""Judge a time-stamp token, twice and independently (RFC 3161, RFC 5816, RFC 5652).

No single verifier tells a good token from a bad one: one lets the signer's
certificate be exchanged, another lets a second clock contradict the first. So
every rule is checked here, and then another implementation is asked; the time
is proven only if all agree.

Proves that `message` existed at `gen_time`, as far as the authority is
believed. Does not ask whether the authority's certificate was withdrawn, and
does not look at the nonce, which only whoever asked can know.
"""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

import rfc3161_client
from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from authn import der
from authn.chain import build_chain, unreadable
from authn.errors import CertificateError, MalformedDerError
from authn.plain import plain
from authn.profile import Profile, check_profile
from authn.timestamp import unverified
from authn.timestamp.request import HASHES, read_algorithm
from authn.timestamp.unverified import (
    CONTENT_TYPE,
    MESSAGE_DIGEST,
    SIGNING_CERTIFICATE_V2,
    SIGNING_TIME,
    TST_INFO,
    UnverifiedStatement,
    UnverifiedToken,
)
from authn.trust import Purpose, TrustList

TOLERANCE = timedelta(seconds=60)


_HASHES: dict[str, hashes.HashAlgorithm] = {
    "sha256": hashes.SHA256(),
    "sha384": hashes.SHA384(),
    "sha512": hashes.SHA512(),
}
_ECDSA = {"1.2.840.10045.4.3.2": "sha256", "1.2.840.10045.4.3.3": "sha384", "1.2.840.10045.4.3.4": "sha512"}
_RSA = {
    "1.2.840.113549.1.1.11": "sha256",
    "1.2.840.113549.1.1.12": "sha384",
    "1.2.840.113549.1.1.13": "sha512",
}
_RSA_ENCRYPTION = "1.2.840.113549.1.1.1"


@dataclass(frozen=True, slots=True)
class TimeFinding:
    """How one rule went, in one sentence."""

    rule: str
    passed: bool
    explanation: str


@dataclass(frozen=True, slots=True)
class TimeEvidence:
    """What a token says, and how far it stands. Without `proven` its fields are mere statements."""

    gen_time: datetime | None
    accuracy: timedelta | None
    authority: str
    serial: int | None
    policy: str | None
    findings: tuple[TimeFinding, ...]
    path: tuple[x509.Certificate, ...] = ()
    list: str | None = None
    others: tuple[tuple[x509.Certificate, ...], ...] = ()
    """More paths to anchors that are believed about time; a withdrawal in any of them counts."""

    @property
    def proven(self) -> bool:
        """Whether every rule passed."""
        return bool(self.findings) and all(finding.passed for finding in self.findings)

    @property
    def reason(self) -> str:
        """The first thing that is wrong; empty if nothing is."""
        return next((finding.explanation for finding in self.findings if not finding.passed), "")


def check_token(
    token: bytes, message: bytes, time_stampers: Sequence[TrustList], now: datetime
) -> TimeEvidence:
    """Judge `token` over `message` under the first time-stampers' list that knows it; hostile bytes are a finding."""
    return check_stamped(token, lambda name: hashlib.new(name, message).digest(), time_stampers, now)


def check_stamped(
    token: bytes,
    digest_by: Callable[[str], bytes | None],
    time_stampers: Sequence[TrustList],
    now: datetime,
) -> TimeEvidence:
    """As `check_token`, for who knows no message but what its digest is by a hash of this name, or nothing."""
    for trusted in time_stampers:
        if trusted.purpose is not Purpose.TIME_STAMPING:
            raise CertificateError(f"the trust list {trusted.name} is not for time-stamping")

    # 1. Take it apart (RFC 5652, 5.1; RFC 3161, 2.4.2).
    try:
        parsed = unverified.parse(token)
    except MalformedDerError as error:
        finding = _failed("token-well-formed", f"the time-stamp token cannot be read: {error}")
        return TimeEvidence(None, None, "", None, None, (finding,))
    findings = [_passed("token-well-formed", "the time-stamp token is well formed")]
    statement = parsed.statement

    # 2. It is about this message.
    findings.append(_imprint(statement, digest_by))

    # 3. It is not from the future.
    findings.append(
        _found(
            "time-not-in-future",
            passed=statement.gen_time <= now + TOLERANCE,
            good="the time in the token is not in the future",
            bad="the time in the token lies in the future",
        )
    )

    # 4. The signer is among the certificates, and signed this statement (RFC 5652, 5.4 and 5.6).
    leaf = next((item for item in parsed.certificates if _is_signer(item, parsed)), None)
    findings += _attributes(parsed)
    if leaf is None:
        findings.append(_failed("signer-present", "the token does not hold its signer's certificate"))
        return _evidence(statement, "", findings)
    findings.append(_passed("signer-present", "the token holds its signer's certificate"))
    findings.append(
        _found(
            "signature-valid",
            passed=_signature_holds(leaf, parsed),
            good="the token's signature verifies",
            bad="the token's signature does not verify under its signer's key",
        )
    )

    # 5. The signature covers the choice of certificate (RFC 5816).
    findings.append(_certificate_named(leaf, parsed))

    # 6. The certificate is for time-stamping alone, and leads to the time-stampers' list, at that time.
    broken = check_profile((leaf,), Profile.TIME_STAMPING, statement.gen_time)
    findings.append(
        TimeFinding(
            "authority-profile",
            not broken,
            f"the time-stamp authority's certificate {broken[0].explanation.removeprefix('the certificate ')}"
            if broken
            else "the time-stamp authority's certificate is for time-stamping alone",
        )
    )
    paths, listed, chain_finding = _chain(leaf, parsed, time_stampers)
    findings.append(chain_finding)

    # 7. Another implementation agrees.
    name = HASHES.get(statement.hash_oid)
    expected = None if name is None else digest_by(name)
    findings.append(_second_opinion(token, expected or b"", listed))
    evidence = _evidence(statement, _name(leaf), findings)
    if listed is None:
        return evidence
    return replace(evidence, path=paths[0], list=listed.name, others=paths[1:])


def _evidence(statement: UnverifiedStatement, authority: str, findings: list[TimeFinding]) -> TimeEvidence:
    return TimeEvidence(
        statement.gen_time, statement.accuracy, authority, statement.serial, statement.policy, tuple(findings)
    )


def _passed(rule: str, explanation: str) -> TimeFinding:
    return TimeFinding(rule, passed=True, explanation=explanation)


def _failed(rule: str, explanation: str) -> TimeFinding:
    return TimeFinding(rule, passed=False, explanation=explanation)


def _found(rule: str, *, passed: bool, good: str, bad: str) -> TimeFinding:
    return _passed(rule, good) if passed else _failed(rule, bad)


# --- 2 to 6. The rules


def _imprint(statement: UnverifiedStatement, digest_by: Callable[[str], bytes | None]) -> TimeFinding:
    name = HASHES.get(statement.hash_oid)
    return _found(
        "imprint-matches",
        passed=name is not None and digest_by(name) == statement.digest,
        good="the token is about these bytes",
        bad="the token is about other bytes"
        if name
        else "the token's digest is made with a hash that is not accepted",
    )


def _attributes(parsed: UnverifiedToken) -> Iterator[TimeFinding]:
    kind = parsed.attributes.get(CONTENT_TYPE)
    yield _found(
        "content-type-signed",
        passed=kind is not None and kind.encoded == der.oid(TST_INFO),
        good="the signature covers what kind of statement it is",
        bad="the signature does not cover what kind of statement it is",
    )
    digest = parsed.attributes.get(MESSAGE_DIGEST)
    yield _found(
        "statement-signed",
        passed=digest is not None
        and digest.encoded == der.octets(hashlib.new(parsed.hash, parsed.content).digest()),
        good="the signature covers the statement",
        bad="the signature covers another statement",
    )
    stated = parsed.attributes.get(SIGNING_TIME)
    yield _found(
        "signing-time-agrees",
        passed=stated is None or _same_second(stated, parsed.statement.gen_time),
        good="no second clock contradicts the first",
        bad="the token gives two different times",
    )


def _same_second(element: der.Element, gen_time: datetime) -> bool:
    try:
        return element.to_time().replace(microsecond=0) == gen_time.replace(microsecond=0)
    except MalformedDerError:
        return False


def _is_signer(certificate: x509.Certificate, parsed: UnverifiedToken) -> bool:
    return (
        unreadable(certificate) is None
        and certificate.serial_number == parsed.serial
        and certificate.issuer.public_bytes() == parsed.issuer
    )


def _signature_holds(leaf: x509.Certificate, parsed: UnverifiedToken) -> bool:
    key, algorithm = leaf.public_key(), parsed.signature_algorithm
    try:
        if isinstance(key, ec.EllipticCurvePublicKey) and algorithm in _ECDSA:
            key.verify(parsed.signature, parsed.signed, ec.ECDSA(_HASHES[_ECDSA[algorithm]]))
        elif isinstance(key, rsa.RSAPublicKey) and (algorithm in _RSA or algorithm == _RSA_ENCRYPTION):
            digest = _HASHES[_RSA.get(algorithm, parsed.hash)]
            key.verify(parsed.signature, parsed.signed, padding.PKCS1v15(), digest)
        else:
            return False
    except (InvalidSignature, UnsupportedAlgorithm):
        return False
    return True


def _certificate_named(leaf: x509.Certificate, parsed: UnverifiedToken) -> TimeFinding:
    attribute = parsed.attributes.get(SIGNING_CERTIFICATE_V2)
    rule = "certificate-named"
    if attribute is None:
        return _failed(rule, "the signature does not name its certificate (ESSCertIDv2)")
    try:
        matches = _names(leaf, attribute, parsed)
    except MalformedDerError:
        return _failed(rule, "the signature names its certificate in a form that cannot be read")
    return _found(
        rule,
        passed=matches,
        good="the signature names its certificate",
        bad="the signature names another certificate",
    )


def _names(leaf: x509.Certificate, attribute: der.Element, parsed: UnverifiedToken) -> bool:
    """Whether the first ESSCertIDv2 is that of `leaf` (RFC 5035, section 4)."""
    certificates = attribute.fields().take(der.SEQUENCE).children()
    if not certificates:
        raise MalformedDerError("no certificate is named")
    fields = certificates[0].fields()
    algorithm = fields.maybe(der.SEQUENCE)
    digest = fields.take(der.OCTET_STRING).content
    issuer_serial = fields.maybe(der.SEQUENCE)
    fields.end()
    name = "sha256" if algorithm is None else HASHES.get(read_algorithm(algorithm))
    if name is None or hashlib.new(name, leaf.public_bytes(Encoding.DER)).digest() != digest:
        return False
    if issuer_serial is None:
        return True
    parts = issuer_serial.fields()
    names, serial = parts.take(der.SEQUENCE).children(), parts.take(der.INTEGER).to_integer()
    parts.end()
    directory_name = der.tagged(0xA4, parsed.issuer)
    return serial == leaf.serial_number and any(item.encoded == directory_name for item in names)


def _chain(
    leaf: x509.Certificate, parsed: UnverifiedToken, time_stampers: Sequence[TrustList]
) -> tuple[tuple[tuple[x509.Certificate, ...], ...], TrustList | None, TimeFinding]:
    """Every path to a list's anchors, and the first list that has one, which judges."""
    reasons: list[str] = []
    paths: list[tuple[x509.Certificate, ...]] = []
    first: TrustList | None = None
    for listed in time_stampers:
        found = build_chain(leaf, parsed.certificates, listed.anchors, parsed.statement.gen_time)
        if found.path is None:
            reasons.append(f"the time-stamp authority is not in the list {listed.name}: {found.reason}")
            continue
        paths += [found.path, *found.others]
        first = first or listed
    if first is None:
        none = "; ".join(reasons) or "no time-stamp authority is listed"
        return (), None, _failed("authority-chain", none)
    broken = check_profile(paths[0], first.profile, parsed.statement.gen_time)
    upper = [violation for violation in broken if violation.subject != "signer"]
    finding = _found(
        "authority-chain",
        passed=not upper,
        good=f"the time-stamp authority's chain ends in the list {first.name}",
        bad=f"an authority above the time-stamper does not fit: {upper[0].explanation}" if upper else "",
    )
    return tuple(paths), first, finding


def _name(leaf: x509.Certificate) -> str:
    for kind in (NameOID.COMMON_NAME, NameOID.ORGANIZATION_NAME):
        for attribute in leaf.subject.get_attributes_for_oid(kind):
            return str(attribute.value)
    return ""


# --- 7. The other implementation


def _second_opinion(token: bytes, digest: bytes, listed: TrustList | None) -> TimeFinding:
    rule = "second-implementation-agrees"
    if listed is None:
        return _failed(rule, "no list knows the time-stamp authority, so there is nothing to agree on")
    granted = der.sequence(der.sequence(der.integer(0)), token)
    verifier = rfc3161_client.VerifierBuilder(roots=list(listed.anchors)).build()
    try:
        verifier.verify(rfc3161_client.decode_timestamp_response(granted), digest)
    except (rfc3161_client.VerificationError, ValueError, UnsupportedAlgorithm) as error:
        told = plain(str(error).partition(": ErrorStack")[0], 120)
        return _failed(rule, f"another implementation refuses the token: {told}")
    return _passed(rule, "another implementation accepts the token too")
