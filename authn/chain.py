"""Build the path from a certificate to an anchor (RFC 5280, section 6).

Says whether a path stands, and why not. Says nothing of whether a certificate
is of the right kind for its purpose; `authn.profile` does. Policies are not
processed, and a certificate with name constraints is refused, not understood.
Nobody is asked whether a certificate was withdrawn.
"""

import functools
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import SignatureAlgorithmOID

from authn import der
from authn.errors import CertificateError, MalformedDerError

MAX_CERTIFICATE = 64 << 10
# An archive shows the same few certificates over and over; certificates compare by their bytes.
_REMEMBERED = 1024

MAX_PATH = 6
MAX_PATHS = 8
MAX_PRESENTED = 16
_MAX_STEPS = 64

_ALGORITHMS = frozenset(
    {
        SignatureAlgorithmOID.ECDSA_WITH_SHA256,
        SignatureAlgorithmOID.ECDSA_WITH_SHA384,
        SignatureAlgorithmOID.ECDSA_WITH_SHA512,
        SignatureAlgorithmOID.RSA_WITH_SHA256,
        SignatureAlgorithmOID.RSA_WITH_SHA384,
        SignatureAlgorithmOID.RSA_WITH_SHA512,
        SignatureAlgorithmOID.RSASSA_PSS,
        SignatureAlgorithmOID.ED25519,
    }
)
_CURVES = frozenset({"secp256r1", "secp384r1", "secp521r1"})
_UNDERSTOOD = (
    x509.BasicConstraints,
    x509.KeyUsage,
    x509.ExtendedKeyUsage,
    x509.SubjectKeyIdentifier,
    x509.AuthorityKeyIdentifier,
    x509.CertificatePolicies,
    x509.SubjectAlternativeName,
    x509.IssuerAlternativeName,
    x509.CRLDistributionPoints,
    x509.AuthorityInformationAccess,
    x509.OCSPNoCheck,
)


@dataclass(frozen=True, slots=True)
class Chain:
    """A path, leaf first and anchor last, or the reasons why there is none."""

    path: tuple[x509.Certificate, ...] | None
    reasons: tuple[str, ...]
    others: tuple[tuple[x509.Certificate, ...], ...] = ()
    """More paths to an anchor, by other certificates of the same authorities; which comes first is the file's choice."""

    @property
    def reason(self) -> str:
        """The reasons in one line; empty if there is a path."""
        return "; ".join(self.reasons)

    def anchor_expired(self, at: datetime) -> bool:
        """Whether the path ends in an anchor past its date.

        That breaks no path: an anchor is believed because it was configured.
        """
        return self.path is not None and self.path[-1].not_valid_after_utc < at


def build_chain(
    leaf: x509.Certificate,
    presented: Sequence[x509.Certificate],
    anchors: Sequence[x509.Certificate],
    at: datetime,
) -> Chain:
    """Find a path from `leaf` to one of `anchors`, every certificate below the anchor valid at `at`.

    The leaf itself is never its own anchor. At most 16 presented certificates,
    6 certificates in a path and 64 signature checks.
    """
    search = _Search(tuple(presented[:MAX_PRESENTED]), tuple(anchors), at)
    found = tuple(itertools.islice(search.paths((leaf,)), MAX_PATHS))
    if found:
        return Chain(found[0], (), found[1:])
    reasons = tuple(dict.fromkeys(search.reasons)) or (
        "no certificate of its issuer was presented or is listed",
    )
    return Chain(None, reasons[:8])


def read_certificate(data: bytes) -> x509.Certificate:
    """Read a certificate in DER. It may still be `unreadable` inside."""
    try:
        fields = der.parse(data, MAX_CERTIFICATE).fields().take(der.SEQUENCE).fields()
        fields.maybe(0xA0)
        serial = fields.take(der.INTEGER).to_integer()
    except MalformedDerError as error:
        raise CertificateError("a certificate is not DER") from error
    if serial <= 0:
        raise CertificateError("a certificate has a serial number that is not positive")
    try:
        return x509.load_der_x509_certificate(data)
    except (ValueError, x509.InvalidVersion) as error:
        raise CertificateError("a certificate cannot be read") from error


@functools.lru_cache(_REMEMBERED)
def unreadable(certificate: x509.Certificate) -> str | None:
    """Why a certificate cannot be taken apart, if it cannot. Everything else here relies on it."""
    try:
        certificate.public_key()
        certificate.subject.public_bytes()
        certificate.issuer.public_bytes()
        list(certificate.extensions)
        _ = certificate.not_valid_before_utc, certificate.not_valid_after_utc  # a year 0 has no date here
        if certificate.signature_algorithm_oid == SignatureAlgorithmOID.RSASSA_PSS:
            _ = certificate.signature_algorithm_parameters, certificate.signature_hash_algorithm
    except x509.DuplicateExtension:
        return "has an extension twice"
    except (ValueError, TypeError, UnsupportedAlgorithm, x509.UnsupportedGeneralNameType):
        return "cannot be taken apart"
    return None


def weak_key(certificate: x509.Certificate) -> str | None:
    """Why a certificate's key is of no use, if it is of none."""
    key = certificate.public_key()
    if isinstance(key, ec.EllipticCurvePublicKey):
        return None if key.curve.name in _CURVES else f"has a key on the curve {key.curve.name}"
    if isinstance(key, rsa.RSAPublicKey):
        return None if key.key_size >= 2048 else f"has an RSA key of only {key.key_size} bits"
    return None if isinstance(key, ed25519.Ed25519PublicKey) else "has a key of a kind that is not accepted"


def weak_signature(certificate: x509.Certificate) -> str | None:
    """Why a certificate's own signature is of no use by its algorithm, if it is of none."""
    if certificate.signature_algorithm_oid not in _ALGORITHMS:
        return "was signed with an algorithm that is not accepted"
    digest = certificate.signature_hash_algorithm
    if digest is not None and not isinstance(digest, hashes.SHA256 | hashes.SHA384 | hashes.SHA512):
        return f"was signed over {digest.name}"
    return None


def unknown_critical(certificate: x509.Certificate) -> tuple[str, ...]:
    """The extensions that forbid use by whoever does not understand them, and we do not."""
    return tuple(
        extension.oid.dotted_string
        for extension in certificate.extensions
        if isinstance(extension.value, x509.NameConstraints)
        or (extension.critical and not isinstance(extension.value, _UNDERSTOOD))
    )


class _Search:
    """One bounded search for a path, and what was in its way."""

    def __init__(
        self, presented: tuple[x509.Certificate, ...], anchors: tuple[x509.Certificate, ...], at: datetime
    ) -> None:
        self.reasons: list[str] = []
        self._presented = [certificate for certificate in presented if unreadable(certificate) is None]
        self._anchors = anchors
        self._at = at
        self._steps = 0

    def paths(self, below: tuple[x509.Certificate, ...]) -> Iterator[tuple[x509.Certificate, ...]]:
        last = below[-1]
        fault = self._fault(last, "the certificate" if len(below) == 1 else "an issuing certificate")
        if fault is not None:
            self.reasons.append(fault)
            return
        for anchor in self._anchors:
            if _subject(anchor) == _issuer(last) and anchor not in below and self._issued(anchor, below):
                yield (*below, anchor)
        if len(below) + 1 >= MAX_PATH:
            self.reasons.append(f"the path is longer than {MAX_PATH} certificates")
            return
        for issuer in self._presented:
            if _subject(issuer) == _issuer(last) and issuer not in below and self._issued(issuer, below):
                yield from self.paths((*below, issuer))

    def _fault(self, certificate: x509.Certificate, which: str) -> str | None:
        reason = unreadable(certificate) or weak_key(certificate) or weak_signature(certificate)
        if reason is not None:
            return f"{which} {reason}"
        if critical := unknown_critical(certificate):
            return f"{which} has a critical extension that is not understood ({critical[0]})"
        if self._at < certificate.not_valid_before_utc:
            return f"{which} is not valid before {certificate.not_valid_before_utc:%Y-%m-%d %H:%M:%S} UTC"
        if self._at > certificate.not_valid_after_utc:
            return f"{which} expired on {certificate.not_valid_after_utc:%Y-%m-%d %H:%M:%S} UTC"
        return None

    def _issued(self, issuer: x509.Certificate, below: tuple[x509.Certificate, ...]) -> bool:
        """Whether `issuer` may, and did, issue the last certificate below it."""
        self._steps += 1
        if self._steps > _MAX_STEPS:
            self.reasons.append(f"no path was found in {_MAX_STEPS} steps")
            return False
        fault = _authority_fault(issuer, below) or _link_fault(issuer, below[-1])
        if fault is not None:
            self.reasons.append(fault)
        return fault is None


@functools.lru_cache(_REMEMBERED)
def _subject(certificate: x509.Certificate) -> x509.Name:
    return certificate.subject


@functools.lru_cache(_REMEMBERED)
def _issuer(certificate: x509.Certificate) -> x509.Name:
    return certificate.issuer


@functools.lru_cache(_REMEMBERED)
def _powers(issuer: x509.Certificate) -> tuple[x509.BasicConstraints | None, x509.KeyUsage | None]:
    constraints = usage = None
    for extension in issuer.extensions:
        if isinstance(extension.value, x509.BasicConstraints):
            constraints = extension.value
        elif isinstance(extension.value, x509.KeyUsage):
            usage = extension.value
    return constraints, usage


def _authority_fault(issuer: x509.Certificate, below: tuple[x509.Certificate, ...]) -> str | None:
    if reason := unreadable(issuer) or weak_key(issuer):
        return f"an issuing certificate {reason}"
    constraints, usage = _powers(issuer)
    if constraints is None or not constraints.ca:
        return "a certificate that may not issue others issued one"
    if usage is not None and not usage.key_cert_sign:
        return "an issuing certificate may not sign certificates by its key usage"
    authorities = sum(certificate.issuer != certificate.subject for certificate in below[1:])
    if constraints.path_length is not None and authorities > constraints.path_length:
        return "more authorities stand in the path than an issuing certificate allows"
    return None


def _link_fault(issuer: x509.Certificate, certificate: x509.Certificate) -> str | None:
    claimed, own = _authority_key_id(certificate), _subject_key_id(issuer)
    if claimed is not None and own is not None and claimed != own:
        return "the issuer's key identifier is another one"
    return (
        None
        if _signed_by(issuer, certificate)
        else "a certificate's signature does not verify under its issuer's key"
    )


@functools.lru_cache(_REMEMBERED)
def _signed_by(issuer: x509.Certificate, certificate: x509.Certificate) -> bool:
    """Whether the issuer's key signed the certificate: arithmetic on their bytes, the same at any time."""
    try:
        certificate.verify_directly_issued_by(issuer)
    except (InvalidSignature, ValueError, TypeError, UnsupportedAlgorithm):
        return False
    return True


def _authority_key_id(certificate: x509.Certificate) -> bytes | None:
    for extension in certificate.extensions:
        if isinstance(extension.value, x509.AuthorityKeyIdentifier):
            return extension.value.key_identifier
    return None


def _subject_key_id(certificate: x509.Certificate) -> bytes | None:
    for extension in certificate.extensions:
        if isinstance(extension.value, x509.SubjectKeyIdentifier):
            return extension.value.digest
    return None
