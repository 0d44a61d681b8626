"""Plan certificates for devices and authorities, and make them once the plan is logged.

A planted certificate is only found if every certificate is in the ledger before
it exists. So nothing here signs at once: a `CertificatePlan` has the digest of
the very bytes that will be signed, to be logged first. Anyone can compute the
same digest from the finished certificate. What breaks the strict rules of
`authn.profile` has neither a digest nor a certificate.

A certificate names a product, never a unit of it. Certificates of one kind that
are issued within an hour differ in their serial number and in their key alone;
the issuer still knows who got which, and can tell.

Follows the C2PA Certificate Policy v0.2 with two departures a private authority
cannot avoid. It has no record in the list of conforming products, so it names
none. Its assurance level 1 says that the key is in software and nothing else;
only the conformance programme assigns levels that mean more, and no list but
the operator's own should hold its root.
"""

import functools
import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_der_public_key
from cryptography.x509.oid import AuthorityInformationAccessOID, ExtendedKeyUsageOID, NameOID

from authn import der
from authn.custody.adapter import private_key
from authn.errors import IssuanceError
from authn.keys import Algorithm, KeyProvider, PublicKey, algorithm_of
from authn.profile import Role, check_role

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
    RESPONDER = "ocsp-responder"


class Lifetime(StrEnum):
    """How long a device's certificate is to be of use, and how far its captures can be linked by it.

    `STANDARD` links the captures of a month, `SESSION` those of a day. A
    `ONE_TIME` certificate signs one capture; it is made in advance, many at once.
    """

    STANDARD = "standard"
    SESSION = "session"
    ONE_TIME = "one-time"

    @property
    def days(self) -> int:
        """The days between the hour in which it is issued and its end."""
        return _DAYS[self]


_DAYS = {Lifetime.STANDARD: 30, Lifetime.SESSION: 1, Lifetime.ONE_TIME: 7}
_MAX_DAYS = {
    Kind.ROOT: 7305,
    Kind.ISSUING_CA: 1827,
    Kind.CLAIM_SIGNING: 366,
    Kind.TIME_STAMPING_ROOT: 7305,
    Kind.TIME_STAMPING: 4110,
    Kind.RESPONDER: 31,
}
_ROLES = {
    Kind.ROOT: Role.ROOT,
    Kind.ISSUING_CA: Role.ISSUING,
    Kind.CLAIM_SIGNING: Role.CLAIM_SIGNER,
    Kind.TIME_STAMPING_ROOT: Role.TIME_STAMPING_ROOT,
    Kind.TIME_STAMPING: Role.TIME_STAMPER,
    Kind.RESPONDER: Role.RESPONDER,
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
        key made for this purpose stands in for the authority's. A certificate
        that breaks a rule has no digest, and so is never logged.
        """
        return plan_digest(self._checked(self._builder().sign(_stand_in(), hashes.SHA384())))

    def sign(self, issuer_key: KeyProvider) -> x509.Certificate:
        """Make the certificate. Log `digest` before; this cannot be taken back."""
        if issuer_key.algorithm is not Algorithm.ES384:
            raise IssuanceError("an authority signs with a P-384 key")
        if spki_of(issuer_key.public_key) != self.issuer.spki:
            raise IssuanceError("the key is not the one of the issuer in the plan")
        return self._checked(self._builder().sign(private_key(issuer_key), hashes.SHA384()))

    def _checked(self, certificate: x509.Certificate) -> x509.Certificate:
        broken = check_role(certificate, _ROLES[self.kind])
        if broken:
            raise IssuanceError("; ".join(item.explanation for item in broken))
        return certificate

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
            .add_extension(_USAGES.get(self.kind, _SIGNER_USAGE), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier(self.issuer.key_id, None, None), critical=False)
        )
        if self.kind in (Kind.ROOT, Kind.TIME_STAMPING_ROOT):
            return builder
        if self.kind is Kind.RESPONDER:
            # Whom would one ask about the one who answers? (RFC 6960, 4.2.2.2.1)
            return builder.add_extension(
                x509.ExtendedKeyUsage([ExtendedKeyUsageOID.OCSP_SIGNING]), critical=False
            ).add_extension(x509.OCSPNoCheck(), critical=False)
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
    predecessors: Sequence[x509.Certificate] = (),
) -> CertificatePlan:
    """An authority that certifies devices, under a root.

    Its life overlaps those of its predecessors, which answer for their own
    certificates to the end: so it has a name and a key that none of them has.
    """
    name, spki = subject.to_name(), spki_of(public_key)
    for certificate in predecessors:
        theirs = certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        if certificate.subject == name or theirs == spki:
            raise IssuanceError("an authority before this one has the same name or the same key")
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
    """A certificate that signs claims for `days`, see `Lifetime`. The private key is never seen here."""
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


def plan_responder(
    subject: Subject,
    public_key: PublicKey,
    serial: int,
    at: datetime,
    *,
    issuer: x509.Certificate,
    days: int = 14,
) -> CertificatePlan:
    """A certificate that signs the status answers of `issuer` and nothing else.

    Nobody can be asked whether it was withdrawn, so it lives for days.
    """
    return _plan(Kind.RESPONDER, subject, public_key, serial, at, issuer, days, None)


def spki_of(public_key: PublicKey) -> bytes:
    """A public key as SubjectPublicKeyInfo."""
    return public_key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def key_id_of(authority: x509.Certificate) -> bytes:
    """How the certificates that `authority` issues name its key (RFC 5280, 4.2.1.2)."""
    try:
        return authority.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value.digest
    except (x509.ExtensionNotFound, x509.DuplicateExtension, ValueError) as error:
        raise IssuanceError("the issuer's certificate is not one of ours") from error


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
    if kind in (Kind.TIME_STAMPING, Kind.RESPONDER) and not isinstance(public_key, ec.EllipticCurvePublicKey):
        raise IssuanceError("a time-stamp unit or a responder has a P-256 or P-384 key")
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
        Kind.RESPONDER: True,
    }
    if not constraints.ca or not fits.get(kind, False):
        raise IssuanceError(f"the issuer may not sign certificates for {kind.value}")
    public_key = certificate.public_key()
    if not isinstance(public_key, ec.EllipticCurvePublicKey):
        raise IssuanceError("an authority signs with a P-384 key")
    return Issuer(certificate.subject, key_id, spki_of(public_key))


@functools.cache
def _stand_in() -> ec.EllipticCurvePrivateKey:
    """A key that signs previews, which nobody keeps."""
    return ec.generate_private_key(ec.SECP384R1())


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
_RESPONDER_USAGE = x509.KeyUsage(
    digital_signature=True,
    content_commitment=False,
    key_encipherment=False,
    data_encipherment=False,
    key_agreement=False,
    key_cert_sign=False,
    crl_sign=False,
    encipher_only=False,
    decipher_only=False,
)
_USAGES = {**dict.fromkeys(_PATH_LENGTH, _AUTHORITY_USAGE), Kind.RESPONDER: _RESPONDER_USAGE}
