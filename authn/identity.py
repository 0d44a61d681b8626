"""Plan certificates for devices and authorities, and make them once the plan is logged.

A planted certificate is only found if every certificate is in the ledger before
it exists. So nothing here signs at once: a `CertificatePlan` has the digest of
the very bytes that will be signed, to be logged first. Anyone can compute the
same digest from the finished certificate.

Follows the C2PA Certificate Policy v0.2 with two departures a private authority
cannot avoid. It has no record in the list of conforming products, so it names
none. Its assurance level 1 says that the key is in software and nothing else;
only the conformance programme assigns levels that mean more, and no list but
the operator's own should hold its root.
"""

import hashlib
import re
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_der_public_key
from cryptography.x509.oid import AuthorityInformationAccessOID, ExtendedKeyUsageOID, NameOID

from authn import der
from authn.errors import IssuanceError
from authn.keys import PublicKey, SigningKey, algorithm_of

CLAIM_SIGNING = x509.ObjectIdentifier("1.3.6.1.4.1.62558.2.1")
DOCUMENT_SIGNING = x509.ObjectIdentifier("1.3.6.1.5.5.7.3.36")
POLICY = x509.ObjectIdentifier("1.3.6.1.4.1.62558.1.1")
ASSURANCE_LEVEL = x509.ObjectIdentifier("1.3.6.1.4.1.62558.3")
LEVEL_1 = der.oid("1.3.6.1.4.1.62558.3.10")

_NAME = re.compile(r"[ -~]{1,64}")
_COUNTRY = re.compile(r"[A-Z]{2}")
_OCSP_URL = re.compile(r"http://[!-~]{1,200}/")


class Kind(StrEnum):
    """What a certificate is for."""

    ROOT = "root"
    ISSUING_CA = "issuing-ca"
    CLAIM_SIGNING = "claim-signing"
    TIME_STAMPING_ROOT = "time-stamping-root"
    TIME_STAMPING = "time-stamping"


_MAX_DAYS = {
    Kind.ROOT: 7305,
    Kind.ISSUING_CA: 1827,
    Kind.CLAIM_SIGNING: 366,
    Kind.TIME_STAMPING_ROOT: 7305,
    Kind.TIME_STAMPING: 4110,
}
_PATH_LENGTH = {Kind.ROOT: 1, Kind.ISSUING_CA: 0, Kind.TIME_STAMPING_ROOT: 0}


@dataclass(frozen=True, slots=True)
class Subject:
    """Whom a certificate names: a product and its maker, never one unit of it."""

    country: str
    organisation: str
    common_name: str

    def __post_init__(self) -> None:
        if not _COUNTRY.fullmatch(self.country):
            raise IssuanceError("a country is two capital letters")
        for text in (self.organisation, self.common_name):
            if not _NAME.fullmatch(text) or text != text.strip():
                raise IssuanceError("a name is 1 to 64 printable ASCII characters")

    def to_name(self) -> x509.Name:
        """The distinguished name."""
        return x509.Name(
            [
                x509.NameAttribute(NameOID.COUNTRY_NAME, self.country),
                x509.NameAttribute(NameOID.ORGANIZATION_NAME, self.organisation),
                x509.NameAttribute(NameOID.COMMON_NAME, self.common_name),
            ]
        )


@dataclass(frozen=True, slots=True)
class Issuer:
    """Who will sign a certificate."""

    name: x509.Name
    key_id: bytes
    spki: bytes


@dataclass(frozen=True, slots=True)
class CertificatePlan:
    """A certificate that does not exist yet, complete but for the signature."""

    kind: Kind
    serial: int
    subject: Subject
    spki: bytes
    issuer: Issuer
    not_before: datetime
    not_after: datetime
    ocsp_url: str | None

    @property
    def digest(self) -> bytes:
        """SHA-256 of the TBSCertificate to come (RFC 5280, 4.1.1.1): what is logged first.

        The bytes do not depend on the signing key, only on its algorithm, so a
        key made for this purpose stands in for the authority's.
        """
        preview = self._builder().sign(ec.generate_private_key(ec.SECP384R1()), hashes.SHA384())
        return plan_digest(preview)

    def sign(self, issuer_key: SigningKey) -> x509.Certificate:
        """Make the certificate. Log `digest` before; this cannot be taken back."""
        private = issuer_key.private
        if not isinstance(private, ec.EllipticCurvePrivateKey) or private.curve.name != "secp384r1":
            raise IssuanceError("an authority signs with a P-384 key")
        if spki_of(issuer_key.public_key) != self.issuer.spki:
            raise IssuanceError("the key is not the one of the issuer in the plan")
        return self._builder().sign(private, hashes.SHA384())

    def _builder(self) -> x509.CertificateBuilder:
        public_key = load_der_public_key(self.spki)
        if not isinstance(public_key, PublicKey):
            raise IssuanceError("a key of a kind that is not certified")
        builder = (
            x509.CertificateBuilder()
            .subject_name(self.subject.to_name())
            .issuer_name(self.issuer.name)
            .public_key(public_key)
            .serial_number(self.serial)
            .not_valid_before(self.not_before)
            .not_valid_after(self.not_after)
            .add_extension(
                x509.BasicConstraints(ca=self.kind in _PATH_LENGTH, path_length=_PATH_LENGTH.get(self.kind)),
                critical=True,
            )
            .add_extension(_AUTHORITY_USAGE if self.kind in _PATH_LENGTH else _SIGNER_USAGE, critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier(self.issuer.key_id, None, None), critical=False)
        )
        if self.kind in (Kind.ROOT, Kind.TIME_STAMPING_ROOT):
            return builder
        builder = builder.add_extension(
            x509.CertificatePolicies([x509.PolicyInformation(POLICY, None)]), critical=False
        ).add_extension(_status_address(self.ocsp_url or ""), critical=False)
        if self.kind is Kind.TIME_STAMPING:
            return builder.add_extension(
                x509.ExtendedKeyUsage([ExtendedKeyUsageOID.TIME_STAMPING]), critical=True
            )
        builder = builder.add_extension(
            x509.ExtendedKeyUsage([CLAIM_SIGNING, DOCUMENT_SIGNING]), critical=False
        )
        if self.kind is Kind.CLAIM_SIGNING:
            builder = builder.add_extension(
                x509.UnrecognizedExtension(ASSURANCE_LEVEL, LEVEL_1), critical=False
            )
        return builder


def plan_digest(certificate: x509.Certificate) -> bytes:
    """The digest that must have been logged before `certificate` was made."""
    return hashlib.sha256(certificate.tbs_certificate_bytes).digest()


def plan_root(subject: Subject, public_key: PublicKey, serial: int, at: datetime) -> CertificatePlan:
    """A root for claim signing, signed by itself; keep its key offline."""
    return _plan(Kind.ROOT, subject, public_key, serial, at, None, 7300, None)


def plan_issuing_ca(
    subject: Subject,
    public_key: PublicKey,
    serial: int,
    at: datetime,
    *,
    issuer: x509.Certificate,
    ocsp_url: str,
) -> CertificatePlan:
    """The authority that certifies devices, under a root."""
    return _plan(Kind.ISSUING_CA, subject, public_key, serial, at, issuer, 1826, ocsp_url)


def plan_claim_signing(
    subject: Subject,
    public_key: PublicKey,
    serial: int,
    at: datetime,
    *,
    issuer: x509.Certificate,
    ocsp_url: str,
    days: int = 90,
) -> CertificatePlan:
    """A certificate that signs claims. The private key is never seen here."""
    return _plan(Kind.CLAIM_SIGNING, subject, public_key, serial, at, issuer, days, ocsp_url)


def plan_time_stamping_root(
    subject: Subject, public_key: PublicKey, serial: int, at: datetime
) -> CertificatePlan:
    """A root for time-stamp units, apart from the root for claim signing."""
    return _plan(Kind.TIME_STAMPING_ROOT, subject, public_key, serial, at, None, 7300, None)


def plan_time_stamping(
    subject: Subject,
    public_key: PublicKey,
    serial: int,
    at: datetime,
    *,
    issuer: x509.Certificate,
    ocsp_url: str,
    days: int = 4110,
) -> CertificatePlan:
    """A certificate that signs time-stamp tokens and nothing else."""
    return _plan(Kind.TIME_STAMPING, subject, public_key, serial, at, issuer, days, ocsp_url)


def spki_of(public_key: PublicKey) -> bytes:
    """A public key as SubjectPublicKeyInfo."""
    return public_key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def pem_chain(*certificates: x509.Certificate) -> bytes:
    """Certificates as PEM, in the order given."""
    return b"".join(certificate.public_bytes(Encoding.PEM) for certificate in certificates)


def _plan(  # noqa: PLR0913 - a private gate that every plan passes
    kind: Kind,
    subject: Subject,
    public_key: PublicKey,
    serial: int,
    at: datetime,
    issuer: x509.Certificate | None,
    days: int,
    ocsp_url: str | None,
) -> CertificatePlan:
    algorithm_of(public_key)
    is_authority = kind in _PATH_LENGTH
    if is_authority and not (
        isinstance(public_key, ec.EllipticCurvePublicKey) and public_key.curve.name == "secp384r1"
    ):
        raise IssuanceError("an authority has a P-384 key")
    if kind is Kind.TIME_STAMPING and not isinstance(public_key, ec.EllipticCurvePublicKey):
        raise IssuanceError("a time-stamp unit has a P-256 or P-384 key")
    if not 1 << 64 <= serial < 1 << 159:
        raise IssuanceError("a serial number has between 65 and 159 bits, drawn at random")
    if not 0 < days <= _MAX_DAYS[kind]:
        raise IssuanceError(f"a certificate of this kind lives 1 to {_MAX_DAYS[kind]} days")
    if ocsp_url is not None and not _OCSP_URL.fullmatch(ocsp_url):
        raise IssuanceError("an OCSP address starts with http:// and ends in a slash")
    not_before = at.replace(minute=0, second=0, microsecond=0)
    if issuer is None:
        key_id = x509.SubjectKeyIdentifier.from_public_key(public_key).digest
        signer = Issuer(subject.to_name(), key_id, spki_of(public_key))
    else:
        signer = _issuer_of(issuer, kind)
        not_before = max(not_before, issuer.not_valid_before_utc)
        if not issuer.not_valid_before_utc <= at <= issuer.not_valid_after_utc:
            raise IssuanceError("the issuer's own certificate is not valid now")
        if not_before + timedelta(days=days) > issuer.not_valid_after_utc:
            raise IssuanceError("the certificate would outlive its issuer's")
        if signer.spki == spki_of(public_key) or signer.name == subject.to_name():
            raise IssuanceError("the issuer's own key or name is not certified again")
    return CertificatePlan(
        kind,
        serial,
        subject,
        spki_of(public_key),
        signer,
        not_before,
        not_before + timedelta(days=days),
        ocsp_url,
    )


def _issuer_of(certificate: x509.Certificate, kind: Kind) -> Issuer:
    try:
        extensions = certificate.extensions
        key_id = extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value.digest
        constraints = extensions.get_extension_for_class(x509.BasicConstraints).value
        purposes = [
            purpose
            for extension in extensions
            if isinstance(extension.value, x509.ExtendedKeyUsage)
            for purpose in extension.value
        ]
    except (x509.ExtensionNotFound, x509.DuplicateExtension, ValueError) as error:
        raise IssuanceError("the issuer's certificate is not one of ours") from error
    is_root = certificate.issuer == certificate.subject
    fits = {
        Kind.ISSUING_CA: is_root and constraints.path_length == _PATH_LENGTH[Kind.ROOT],
        Kind.CLAIM_SIGNING: CLAIM_SIGNING in purposes and constraints.path_length == 0,
        Kind.TIME_STAMPING: is_root and constraints.path_length == 0,
    }
    if not constraints.ca or not fits.get(kind, False):
        raise IssuanceError(f"the issuer may not sign certificates for {kind.value}")
    public_key = certificate.public_key()
    if not isinstance(public_key, ec.EllipticCurvePublicKey):
        raise IssuanceError("an authority signs with a P-384 key")
    return Issuer(certificate.subject, key_id, spki_of(public_key))


def _status_address(url: str) -> x509.AuthorityInformationAccess:
    return x509.AuthorityInformationAccess(
        [x509.AccessDescription(AuthorityInformationAccessOID.OCSP, x509.UniformResourceIdentifier(url))]
    )


_SIGNER_USAGE = x509.KeyUsage(
    digital_signature=True,
    content_commitment=True,
    key_encipherment=False,
    data_encipherment=False,
    key_agreement=False,
    key_cert_sign=False,
    crl_sign=False,
    encipher_only=False,
    decipher_only=False,
)
_AUTHORITY_USAGE = x509.KeyUsage(
    digital_signature=False,
    content_commitment=False,
    key_encipherment=False,
    data_encipherment=False,
    key_agreement=False,
    key_cert_sign=True,
    crl_sign=True,
    encipher_only=False,
    decipher_only=False,
)
