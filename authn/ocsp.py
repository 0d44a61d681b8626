"""Read what an OCSP answer says of one certificate, and write the question (RFC 6960).

An answer counts if the issuer signed it, or a delegate that the issuer itself
certified for this and for nothing else. The nonce is not looked at: only
whoever asked could judge it, and an answer is as fresh as its dates.
"""

import functools
import hashlib
from dataclasses import dataclass
from datetime import datetime

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID

from authn import answer, der
from authn.answer import UnverifiedAnswer, UnverifiedSingle
from authn.chain import read_certificate, unknown_critical, unreadable, weak_key, weak_signature
from authn.errors import CertificateError, MalformedDerError, StatusError
from authn.statement import TOLERANCE, UNREADABLE, Refusal, Statement, dating_fault, moment, name_of
from authn.timestamp.request import read_algorithm

_REMEMBERED = 1024
_SHA1 = "1.3.14.3.2.26"
_DIGESTS: dict[str, hashes.SHA256 | hashes.SHA384 | hashes.SHA512] = {
    "2.16.840.1.101.3.4.2.1": hashes.SHA256(),
    "2.16.840.1.101.3.4.2.2": hashes.SHA384(),
    "2.16.840.1.101.3.4.2.3": hashes.SHA512(),
    "1.2.840.10045.4.3.2": hashes.SHA256(),
    "1.2.840.10045.4.3.3": hashes.SHA384(),
    "1.2.840.10045.4.3.4": hashes.SHA512(),
    "1.2.840.113549.1.1.11": hashes.SHA256(),
    "1.2.840.113549.1.1.12": hashes.SHA384(),
    "1.2.840.113549.1.1.13": hashes.SHA512(),
}
_ECDSA, _RSA = "1.2.840.10045.4.3.", "1.2.840.113549.1.1."
_PSS, _MGF1, _ED25519 = "1.2.840.113549.1.1.10", "1.2.840.113549.1.1.8", "1.3.101.112"


def check_readable(data: bytes) -> None:
    """Raise a `StatusError` unless `data` is an OCSP answer that tells something. Verifies nothing."""
    parsed = answer.parse(data)
    if isinstance(parsed, Refusal):
        raise StatusError(f"an OCSP answer {parsed.reason}")


def dated(data: bytes) -> datetime | None:
    """The newest thisUpdate that an answer claims, not verified; None if it cannot be read."""
    parsed = answer.parse(data)
    return None if isinstance(parsed, Refusal) else max(single.this_update for single in parsed.singles)


def said_of(
    data: bytes, certificate: x509.Certificate, issuer: x509.Certificate, at: datetime
) -> tuple[Statement, ...] | Refusal | None:
    """What the answer says of `certificate`, which `issuer` issued; None if it is about others.

    Of an answer that contradicts itself, the worst, and each withdrawal if there are several.
    """
    # 1. It is about this certificate (RFC 6960, 3.2, 1).
    parsed = answer.parse(data)
    if isinstance(parsed, Refusal):
        return Refusal(f"an OCSP answer {parsed.reason}")
    try:
        names = _Named.of(certificate, issuer)
    except CertificateError:
        return Refusal("its own encoding cannot be compared with an OCSP answer")
    about = [single for single in parsed.singles if names.match(single)]
    if not about:
        return None
    said = max(single.said for single in about)
    about = [single for single in about if single.said is said]

    # 2. Its dates can be (3.2, 5 and 6; 4.2.2.1), and nothing in it is beyond us (4.4).
    faults = [_single_fault(parsed, single, at) for single in about]
    about = [single for single, fault in zip(about, faults, strict=True) if fault is None]
    if not about:
        return Refusal(f"an OCSP answer {faults[0]}")

    # 3. Whoever signed it may speak for the issuer (3.2, 2 to 4; 4.2.2.2).
    responder = _responder(data, issuer)
    if isinstance(responder, Refusal):
        return Refusal(f"an OCSP answer {responder.reason}")
    if responder == certificate:
        return Refusal("an OCSP answer was signed by the very certificate that it is about")
    delegate = None if responder == issuer else responder
    return tuple(
        Statement(
            single.said,
            single.this_update,
            _end(single, delegate),
            f"OCSP answer by {name_of(responder.subject)}",
            single.since,
            single.reason,
            single.remembers,
            delegate,
        )
        for single in about
    )


def _single_fault(parsed: UnverifiedAnswer, single: UnverifiedSingle, at: datetime) -> str | None:
    if fault := dating_fault(single.this_update, single.next_update, at):
        return fault
    if parsed.produced_at > at + TOLERANCE:
        return f"is dated in the future ({moment(parsed.produced_at)})"
    foreign = parsed.foreign or single.foreign
    return None if foreign is None else f"has a critical extension that is not understood ({foreign})"


def _end(single: UnverifiedSingle, delegate: x509.Certificate | None) -> datetime | None:
    """Until when it is good: a delegate's word no longer than the delegate's certificate."""
    if delegate is None or single.next_update is None:
        return single.next_update
    return min(single.next_update, delegate.not_valid_after_utc)


def ocsp_request(certificate: bytes, issuer: bytes) -> bytes:
    """The OCSPRequest for a certificate, both in DER, with the SHA-1 CertID that every responder knows."""
    names = _Named.of(read_certificate(certificate), read_certificate(issuer))
    name_hash, key_hash = names.digests("sha1")
    cert_id = der.sequence(
        der.sequence(der.oid(_SHA1), der.tagged(der.NULL)),
        der.octets(name_hash),
        der.octets(key_hash),
        der.integer(names.serial),
    )
    return der.sequence(der.sequence(der.sequence(der.sequence(cert_id))))


# --- Whom an answer is about


@dataclass(frozen=True, slots=True)
class _Named:
    """What a CertID hashes: the issuer's name as the certificate writes it, and the issuer's key bits."""

    issuer_name: bytes
    issuer_key: bytes
    serial: int

    @classmethod
    @functools.lru_cache(_REMEMBERED)
    def of(cls, certificate: x509.Certificate, issuer: x509.Certificate) -> "_Named":
        """Take both from the encoded certificates: no encoder may change a byte of them."""
        return cls(_name_and_key(certificate)[0], _name_and_key(issuer)[2], certificate.serial_number)

    def digests(self, name: str) -> tuple[bytes, bytes]:
        """The hashes of the name and of the key."""
        return tuple(  # type: ignore[return-value]
            hashlib.new(name, data, usedforsecurity=False).digest()
            for data in (self.issuer_name, self.issuer_key)
        )

    def match(self, single: UnverifiedSingle) -> bool:
        """Whether the CertID is this certificate's."""
        return single.serial == self.serial and (single.name_hash, single.key_hash) == self.digests(
            single.hash
        )


def _name_and_key(certificate: x509.Certificate) -> tuple[bytes, bytes, bytes]:
    """The issuer's name, the subject's name and the bits of the public key, as they are encoded (RFC 5280, 4.1)."""
    try:
        fields = der.parse(certificate.tbs_certificate_bytes).fields()
        fields.maybe(0xA0)
        _serial, _algorithm = fields.take(der.INTEGER), fields.take(der.SEQUENCE)
        issuer, _validity, subject = (fields.take(der.SEQUENCE) for _ in range(3))
        key = fields.take(der.SEQUENCE).fields()
        key.take(der.SEQUENCE)
        return issuer.encoded, subject.encoded, answer.bits(key.take(der.BIT_STRING))
    except MalformedDerError as error:
        raise CertificateError("a certificate is not DER") from error


# --- Who gave it


@functools.lru_cache(_REMEMBERED)
def _responder(data: bytes, issuer: x509.Certificate) -> x509.Certificate | Refusal:
    """Who signed a readable answer and may: arithmetic on bytes and on the answer's own date."""
    parsed = answer.parse(data)
    if isinstance(parsed, Refusal):
        return parsed
    if _is_named(issuer, parsed) and weak_key(issuer) is None and _signed(issuer, parsed):
        return issuer
    refusal = Refusal("was signed by somebody whom the issuer did not appoint")
    for encoded in parsed.certificates:
        try:
            delegate = read_certificate(encoded)
        except CertificateError:
            continue
        if unreadable(delegate) is not None or not _is_named(delegate, parsed):
            continue
        fault = _delegate_fault(delegate, issuer, parsed)
        if fault is None:
            return delegate
        refusal = Refusal(fault)
    return refusal


def _is_named(certificate: x509.Certificate, parsed: UnverifiedAnswer) -> bool:
    _, subject, key = _name_and_key(certificate)
    if parsed.by_name is not None:
        return parsed.by_name == subject
    return parsed.by_key == hashlib.sha1(key, usedforsecurity=False).digest()


def _delegate_fault(
    delegate: x509.Certificate, issuer: x509.Certificate, parsed: UnverifiedAnswer
) -> str | None:
    """Why a responder's certificate does not let it speak, if it does not (4.2.2.2)."""
    if weak_key(delegate) or weak_signature(delegate) or unknown_critical(delegate):
        return "was signed under a certificate that is not accepted"
    try:
        delegate.verify_directly_issued_by(issuer)
    except (InvalidSignature, *UNREADABLE):
        return "was signed by somebody whom the issuer did not appoint"
    purposes: list[x509.ObjectIdentifier] = []
    for extension in delegate.extensions:
        value = extension.value
        if isinstance(value, x509.ExtendedKeyUsage):
            purposes += value
        elif isinstance(value, x509.BasicConstraints) and value.ca:
            return "was signed by an authority, not by a responder"
        elif isinstance(value, x509.KeyUsage) and not (value.digital_signature or value.content_commitment):
            return "was signed under a certificate that may not sign by its key usage"
    if purposes != [ExtendedKeyUsageOID.OCSP_SIGNING]:
        return "was signed under a certificate that is not for OCSP answers alone"
    if not delegate.not_valid_before_utc <= parsed.produced_at <= delegate.not_valid_after_utc:
        return "was signed when the responder's certificate was not valid"
    return None if _signed(delegate, parsed) else "does not verify under its responder's key"


def _signed(certificate: x509.Certificate, parsed: UnverifiedAnswer) -> bool:
    key = certificate.public_key()
    try:
        fields = parsed.algorithm.fields()
        oid = fields.take(der.OID).to_oid()
        if oid == _PSS:
            scheme, digest = _pss(fields.take(der.SEQUENCE))
            if isinstance(key, rsa.RSAPublicKey):
                key.verify(parsed.signature, parsed.signed, scheme, digest)
                return True
            return False
        read_algorithm(parsed.algorithm)
        if oid == _ED25519 and isinstance(key, ed25519.Ed25519PublicKey):
            key.verify(parsed.signature, parsed.signed)
        elif oid.startswith(_ECDSA) and oid in _DIGESTS and isinstance(key, ec.EllipticCurvePublicKey):
            key.verify(parsed.signature, parsed.signed, ec.ECDSA(_DIGESTS[oid]))
        elif oid.startswith(_RSA) and oid in _DIGESTS and isinstance(key, rsa.RSAPublicKey):
            key.verify(parsed.signature, parsed.signed, padding.PKCS1v15(), _DIGESTS[oid])
        else:
            return False
    except (InvalidSignature, MalformedDerError, *UNREADABLE):
        return False
    return True


def _pss(parameters: der.Element) -> tuple[padding.PSS, hashes.HashAlgorithm]:
    """RSASSA-PSS with one accepted hash for both of its uses (RFC 4055, 3.1)."""
    fields = parameters.fields()
    hashed, mask, salt = (answer.explicit(fields.take(tag)) for tag in (0xA0, 0xA1, 0xA2))
    fields.end()
    mask_fields = mask.fields()
    oid = read_algorithm(hashed)
    if mask_fields.take(der.OID).to_oid() != _MGF1 or read_algorithm(mask_fields.take()) != oid:
        raise MalformedDerError("two hashes in one signature")
    if oid not in _DIGESTS or not 0 <= salt.to_integer() <= 64:
        raise MalformedDerError("a hash that is not accepted")
    return padding.PSS(padding.MGF1(_DIGESTS[oid]), salt.to_integer()), _DIGESTS[oid]
