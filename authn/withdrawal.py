"""Say which certificates were withdrawn: in revocation lists (RFC 5280, 5) and in answers to questions (RFC 6960).

The issuing side of `authn.revocation`. Decides nothing: who withdrew what and
why was decided and recorded before. Every withdrawal is told with its reason,
because without one a verifier must take everything for forged that was ever
signed with the key; and with the date since when the key cannot be trusted,
because verifiers compare the signature's time with that one date only.

Certificates are spoken of for ever and not only while they live, since media
outlive them; both forms say so.
"""

import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from authn import der
from authn.custody.adapter import private_key
from authn.errors import IssuanceError, MalformedDerError
from authn.identity import spki_of
from authn.keys import Algorithm, KeyProvider
from authn.profile import Role, check_role
from authn.statement import UNREADABLE
from authn.timestamp.request import read_algorithm

MAX_REQUEST = 8 << 10
MAX_ASKED = 16
ANSWER_LIFE = timedelta(hours=12)
LIST_LIFE = timedelta(days=7)
MAX_NONCE = 128

_BASIC = "1.3.6.1.5.5.7.48.1.1"
_NONCE = "1.3.6.1.5.5.7.48.1.2"
_ARCHIVE_CUTOFF = "1.3.6.1.5.5.7.48.1.6"
_EXPIRED_ON_CRL = x509.ObjectIdentifier("2.5.29.60")
_ENUMERATED = 0x0A
_SIGNATURES = {Algorithm.ES256: "1.2.840.10045.4.3.2", Algorithm.ES384: "1.2.840.10045.4.3.3"}
# CertIDs name certificates and secure nothing, so SHA-1 may stand there (RFC 6960, 4.1.1; RFC 5019, 2.1.1).
_HASHES = {
    "1.3.14.3.2.26": "sha1",
    "2.16.840.1.101.3.4.2.1": "sha256",
    "2.16.840.1.101.3.4.2.2": "sha384",
    "2.16.840.1.101.3.4.2.3": "sha512",
}


class Reason(StrEnum):
    """Why a certificate was withdrawn (RFC 5280, 5.3.1). None is called unspecified, and none is a hold."""

    KEY_COMPROMISE = "keyCompromise"
    CA_COMPROMISE = "cACompromise"
    AFFILIATION_CHANGED = "affiliationChanged"
    SUPERSEDED = "superseded"
    CESSATION = "cessationOfOperation"
    PRIVILEGE_WITHDRAWN = "privilegeWithdrawn"


@dataclass(frozen=True, slots=True)
class Withdrawn:
    """One certificate's withdrawal. `compromised_since` may lie long before anybody noticed."""

    serial: int
    reason: Reason
    revoked_at: datetime
    compromised_since: datetime | None = None

    @property
    def since(self) -> datetime:
        """From when on signatures do not count: an answer has one date only, so it must be this one."""
        if self.compromised_since is None:
            return self.revoked_at
        return min(self.compromised_since, self.revoked_at)


class Standing(StrEnum):
    """What there is to say of a certificate that was not withdrawn."""

    GOOD = "good"
    UNKNOWN = "unknown"


# By whom it was issued, and its serial number.
Lookup = Callable[[x509.Certificate, int], Standing | Withdrawn]


class ResponderError(IssuanceError):
    """A responder that may not answer for the issuer, or not any more."""

    code = "responder-unusable"
    remedy = "Issue a new certificate for the responder; until then clients are told to try later."


@dataclass(frozen=True, slots=True)
class Responder:
    """Who answers for `issuer`: a delegate with a key and a certificate for that and nothing else."""

    issuer: x509.Certificate
    key: KeyProvider
    certificate: x509.Certificate

    def __post_init__(self) -> None:
        if broken := check_role(self.certificate, Role.RESPONDER):
            raise ResponderError(broken[0].explanation)
        try:
            self.certificate.verify_directly_issued_by(self.issuer)
        except (InvalidSignature, ValueError, TypeError) as error:
            raise ResponderError("the responder's certificate is not one of the issuer") from error
        if _spki(self.certificate) != spki_of(self.key.public_key) or self.key.algorithm not in _SIGNATURES:
            raise ResponderError("the responder's key is not the one in its certificate")


# --- Lists


def build_crl(
    entries: Iterable[Withdrawn],
    *,
    issuer: x509.Certificate,
    key: KeyProvider,
    number: int,
    at: datetime,
    life: timedelta = LIST_LIFE,
) -> bytes:
    """The issuer's complete list of withdrawals, in DER: its `number`-th, which must always grow.

    `life` is until when the next one comes at the latest. Expired certificates stay listed.
    """
    begins, ends = _second(at), _second(min(at + life, issuer.not_valid_after_utc))
    if _spki(issuer) != spki_of(key.public_key) or key.algorithm is not Algorithm.ES384:
        raise IssuanceError("the key is not the one of the issuer of the list")
    if not 0 <= number < 1 << 159 or not issuer.not_valid_before_utc <= begins < ends:
        raise IssuanceError("a list needs a number and an issuer that is valid while it is")
    key_id = issuer.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    remembers = x509.UnrecognizedExtension(_EXPIRED_ON_CRL, der.generalized_time(issuer.not_valid_before_utc))
    # The builder copies its list with every entry that is added, so it gets them all at once.
    builder = (
        x509.CertificateRevocationListBuilder(revoked_certificates=_entries(entries))
        .issuer_name(issuer.subject)
        .last_update(begins)
        .next_update(ends)
        .add_extension(x509.AuthorityKeyIdentifier(key_id.digest, None, None), critical=False)
        .add_extension(x509.CRLNumber(number), critical=False)
        .add_extension(remembers, critical=False)
    )
    return builder.sign(private_key(key), hashes.SHA384()).public_bytes(Encoding.DER)


@dataclass(frozen=True, slots=True)
class Listed:
    """A list of ours, verified: what the next one goes on from."""

    number: int
    this_update: datetime
    entries: tuple[Withdrawn, ...]


def read_crl(data: bytes, issuer: x509.Certificate) -> Listed:
    """Read a list in the form of `build_crl` that `issuer` signed. Says nothing of whether a newer one exists."""
    try:
        crl = x509.load_der_x509_crl(data)
        key = issuer.public_key()
        if not isinstance(key, ec.EllipticCurvePublicKey) or not crl.is_signature_valid(key):
            raise IssuanceError("the list was not signed by the issuer")
        number = crl.extensions.get_extension_for_class(x509.CRLNumber).value.crl_number
        return Listed(number, crl.last_update_utc, tuple(map(_listed, crl)))
    except (x509.ExtensionNotFound, *UNREADABLE) as error:
        raise IssuanceError("the list is not one of ours") from error


def _listed(entry: x509.RevokedCertificate) -> Withdrawn:
    reason = entry.extensions.get_extension_for_class(x509.CRLReason).value.reason
    dates = [item.value for item in entry.extensions if isinstance(item.value, x509.InvalidityDate)]
    since = dates[0].invalidity_date_utc if dates else None
    return Withdrawn(entry.serial_number, Reason(reason.value), entry.revocation_date_utc, since)


def _entries(entries: Iterable[Withdrawn]) -> list[x509.RevokedCertificate]:
    ordered = sorted(entries, key=lambda entry: entry.serial)
    serials = [entry.serial for entry in ordered]
    if len(set(serials)) != len(serials):
        raise IssuanceError("a certificate stands in a list once")
    return [_entry(entry) for entry in ordered]


def _entry(entry: Withdrawn) -> x509.RevokedCertificate:
    builder = (
        x509.RevokedCertificateBuilder()
        .serial_number(entry.serial)
        .revocation_date(_second(entry.revoked_at))
        .add_extension(x509.CRLReason(x509.ReasonFlags(entry.reason.value)), critical=False)
    )
    if entry.compromised_since is not None:
        invalid = x509.InvalidityDate(_second(entry.compromised_since))
        builder = builder.add_extension(invalid, critical=False)
    return builder.build()


# --- Answers


def answer(request: bytes, responders: Sequence[Responder], lookup: Lookup, at: datetime) -> bytes:
    """The OCSPResponse to an OCSPRequest, both in DER.

    Whatever comes in, an answer goes out: `malformedRequest` for what cannot be
    read, `unauthorized` for issuers that none of `responders` answers for. A
    responder whose own certificate is over raises; clients then get `TRY_LATER`.
    """
    # 1. What is asked (RFC 6960, 4.1.1).
    try:
        asked, nonce = _read(request)
    except MalformedDerError:
        return MALFORMED
    # 2. Who answers: one responder, so all that is asked is of one issuer (RFC 5019, 2.2.3).
    responder = next((item for item in responders if _is_issuer(item.issuer, asked[0])), None)
    if responder is None or not all(_is_issuer(responder.issuer, item) for item in asked):
        return UNAUTHORIZED
    certificate = responder.certificate
    if not certificate.not_valid_before_utc <= at < certificate.not_valid_after_utc:
        raise ResponderError("the responder's own certificate is not valid now")
    # 3. What is known (4.2.1), good until the next answer or the responder's own end.
    ends = min(at + ANSWER_LIFE, certificate.not_valid_after_utc)
    remembers = _extension(_ARCHIVE_CUTOFF, der.generalized_time(responder.issuer.not_valid_before_utc))
    singles = [
        der.sequence(
            item.encoded,
            _status(lookup(responder.issuer, item.serial)),
            der.generalized_time(at),
            der.tagged(0xA0, der.generalized_time(ends)),
            der.tagged(0xA1, der.sequence(remembers)),
        )
        for item in asked
    ]
    # 4. The same nonce as in the question (RFC 9654, 2.1).
    echoed = b"" if nonce is None else der.tagged(0xA1, der.sequence(_extension(_NONCE, der.octets(nonce))))
    said = der.sequence(
        der.tagged(0xA2, der.octets(hashlib.sha1(_key_bits(certificate), usedforsecurity=False).digest())),
        der.generalized_time(at),
        der.sequence(*singles),
        echoed,
    )
    return _signed(said, responder)


@dataclass(frozen=True, slots=True)
class _Asked:
    """A CertID (RFC 6960, 4.1.1), as it was encoded too."""

    encoded: bytes
    hash: str
    name_hash: bytes
    key_hash: bytes
    serial: int


def _read(request: bytes) -> tuple[tuple[_Asked, ...], bytes | None]:
    fields = der.parse(request, MAX_REQUEST).fields()
    body, _signature = fields.take(der.SEQUENCE).fields(), fields.maybe(0xA0)
    fields.end()
    version, _requestor = body.maybe(0xA0), body.maybe(0xA1)
    if version is not None and _inner(version).to_integer() != 0:
        raise MalformedDerError("a question of another version")
    items = body.take(der.SEQUENCE).children()
    nonce = _nonce(body.maybe(0xA2))
    body.end()
    if not 0 < len(items) <= MAX_ASKED:
        raise MalformedDerError(f"a question is about 1 to {MAX_ASKED} certificates")
    return tuple(_asked(item) for item in items), nonce


def _asked(item: der.Element) -> _Asked:
    fields = item.fields()
    cert_id = fields.take(der.SEQUENCE)
    _extensions(fields.maybe(0xA0))
    fields.end()
    named = cert_id.fields()
    algorithm, name_hash, key_hash, serial = (named.take() for _ in range(4))
    named.end()
    hash_oid = read_algorithm(algorithm)
    if hash_oid not in _HASHES:
        raise MalformedDerError("a certificate is named by a hash that is not accepted")
    return _Asked(
        cert_id.encoded, _HASHES[hash_oid], name_hash.to_octets(), key_hash.to_octets(), serial.to_integer()
    )


def _nonce(element: der.Element | None) -> bytes | None:
    value = _extensions(element).get(_NONCE)
    if value is None:
        return None
    nonce = der.parse(value).to_octets()
    if not 0 < len(nonce) <= MAX_NONCE:
        raise MalformedDerError(f"a nonce has 1 to {MAX_NONCE} bytes")
    return nonce


def _extensions(element: der.Element | None) -> dict[str, bytes]:
    """The extensions by name; a critical one that is not a nonce cannot be obeyed."""
    found: dict[str, bytes] = {}
    for item in () if element is None else _inner(element).fields().rest():
        fields = item.fields()
        oid, critical = fields.take(der.OID).to_oid(), fields.maybe(der.BOOLEAN)
        value = fields.take().to_octets()
        fields.end()
        if oid in found or (critical is not None and critical.to_boolean() and oid != _NONCE):
            raise MalformedDerError("an extension stands twice, or is critical and not understood")
        found[oid] = value
    return found


def _inner(element: der.Element) -> der.Element:
    fields = der.Fields(element.children())
    inner = fields.take()
    fields.end()
    return inner


def _is_issuer(issuer: x509.Certificate, asked: _Asked) -> bool:
    def digest(data: bytes) -> bytes:
        return hashlib.new(asked.hash, data, usedforsecurity=False).digest()

    return (asked.name_hash, asked.key_hash) == (
        digest(issuer.subject.public_bytes()),
        digest(_key_bits(issuer)),
    )


def _status(found: Standing | Withdrawn) -> bytes:
    match found:
        case Withdrawn():
            number = _REASONS[found.reason]
            return der.tagged(
                0xA1,
                der.generalized_time(found.since),
                der.tagged(0xA0, der.tagged(_ENUMERATED, bytes([number]))),
            )
        case Standing.GOOD:
            return der.tagged(0x80)
        case Standing.UNKNOWN:
            return der.tagged(0x82)


def _signed(said: bytes, responder: Responder) -> bytes:
    raw = responder.key.sign(said)
    half = len(raw) // 2
    signature = encode_dss_signature(int.from_bytes(raw[:half], "big"), int.from_bytes(raw[half:], "big"))
    basic = der.sequence(
        said,
        der.sequence(der.oid(_SIGNATURES[responder.key.algorithm])),
        der.tagged(der.BIT_STRING, b"\0", signature),
        der.tagged(0xA0, der.sequence(responder.certificate.public_bytes(Encoding.DER))),
    )
    wrapped = der.sequence(der.oid(_BASIC), der.octets(basic))
    return der.sequence(der.tagged(_ENUMERATED, b"\0"), der.tagged(0xA0, wrapped))


def _extension(oid: str, value: bytes) -> bytes:
    return der.sequence(der.oid(oid), der.octets(value))


def _refusal(status: int) -> bytes:
    return der.sequence(der.tagged(_ENUMERATED, bytes([status])))


def _key_bits(certificate: x509.Certificate) -> bytes:
    key = certificate.public_key()
    if not isinstance(key, ec.EllipticCurvePublicKey):
        raise ResponderError("an authority and its responder have keys on P-256 or P-384")
    return key.public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)


def _spki(certificate: x509.Certificate) -> bytes:
    return certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def _second(at: datetime) -> datetime:
    return at.replace(microsecond=0)


# Answers without a signature: anybody can make them, and they say nothing of any certificate.
MALFORMED, TRY_LATER, UNAUTHORIZED = _refusal(1), _refusal(3), _refusal(6)
_REASONS = {
    Reason.KEY_COMPROMISE: 1,
    Reason.CA_COMPROMISE: 2,
    Reason.AFFILIATION_CHANGED: 3,
    Reason.SUPERSEDED: 4,
    Reason.CESSATION: 5,
    Reason.PRIVILEGE_WITHDRAWN: 9,
}
