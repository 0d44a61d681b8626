"""Read what a certificate revocation list says of one certificate (RFC 5280, sections 5 and 6.3).

Complete lists of one issuer only. Delta lists, indirect lists and lists with a
critical extension that we do not know are refused, not guessed at. Of the
entries only the one of the certificate in question is looked into.
"""

import functools
from datetime import datetime

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.x509.oid import SignatureAlgorithmOID

from authn import der
from authn.chain import weak_key
from authn.errors import MalformedDerError, StatusError
from authn.statement import UNREADABLE, Refusal, Said, Statement, dating_fault, name_of

MAX_CRL = 32 << 20
MAX_CRLS = 32

# What is read of one path is still remembered at the next file.
_REMEMBERED = 2 * MAX_CRLS
_REMEMBERED_NAMES = 256
_EXPIRED_ON_CRL = x509.ObjectIdentifier("2.5.29.60")
_UNDERSTOOD = (x509.IssuingDistributionPoint, x509.AuthorityKeyIdentifier, x509.CRLNumber)
_UNDERSTOOD_OF_ENTRIES = (x509.CRLReason, x509.InvalidityDate)
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


def check_readable(data: bytes) -> None:
    """Raise a `StatusError` unless `data` is a revocation list in DER. Verifies nothing."""
    loaded = _load(data)
    if isinstance(loaded, Refusal):
        raise StatusError(f"a revocation list {loaded.reason}")


def dated(data: bytes) -> datetime | None:
    """The thisUpdate that a list claims, not verified; None if it cannot be read."""
    loaded = _load(data)
    return None if isinstance(loaded, Refusal) else loaded.last_update_utc


@functools.lru_cache(_REMEMBERED_NAMES)
def issuer_of(data: bytes) -> x509.Name | None:
    """The issuer that a list names, not verified; None if it cannot be read."""
    loaded = _load(data)
    return None if isinstance(loaded, Refusal) else loaded.issuer


def said_of(
    data: bytes, certificate: x509.Certificate, issuer: x509.Certificate, at: datetime
) -> Statement | Refusal | None:
    """What the list says of `certificate`, which `issuer` issued; None if it is another issuer's."""
    # 1. It is a list of this issuer, which may sign lists (RFC 5280, 6.3.3 (b), (f)).
    loaded = _load(data)
    if isinstance(loaded, Refusal):
        return Refusal(f"a revocation list {loaded.reason}")
    if loaded.issuer != issuer.subject:
        return None
    source = f"revocation list of {name_of(issuer.subject)}"
    if fault := _issuer_fault(data, issuer) or dating_fault(
        loaded.last_update_utc, loaded.next_update_utc, at
    ):
        return Refusal(f"the {source} {fault}")
    try:
        # 2. Nothing in it is beyond us (5.2).
        if fault := _extension_fault(loaded):
            return Refusal(f"the {source} {fault}")
        remembers = _remembers(loaded)
        entry = loaded.get_revoked_certificate_by_serial_number(certificate.serial_number)
        # 3. It names the certificate. The issuer signed that, whatever the list's scope (5.3).
        if entry is not None:
            return _withdrawn(entry, loaded, source)
        # 4. It does not, which says something only if it would have (5.2.5; 6.3.3 (b)(2)).
        scope = _scope_fault(loaded, certificate)
    except UNREADABLE:
        return Refusal(f"the {source} has an extension that cannot be read")
    if scope:
        return Refusal(f"the {source} {scope}")
    return Statement(Said.GOOD, loaded.last_update_utc, loaded.next_update_utc, source, remembers=remembers)


@functools.lru_cache(_REMEMBERED)
def _load(data: bytes) -> x509.CertificateRevocationList | Refusal:
    if len(data) > MAX_CRL:
        return Refusal(f"is larger than {MAX_CRL >> 20} MiB")
    try:
        loaded = x509.load_der_x509_crl(data)
        # Everything that is read again later is read once here.
        _ = loaded.issuer, loaded.last_update_utc, loaded.next_update_utc, list(loaded.extensions)
        loaded.issuer.public_bytes()
    except UNREADABLE:
        return Refusal("cannot be read")
    return loaded


@functools.lru_cache(_REMEMBERED)
def _issuer_fault(data: bytes, issuer: x509.Certificate) -> str | None:
    """Why a readable list does not count as its issuer's word: arithmetic on bytes, the same at any time."""
    loaded = _load(data)
    if isinstance(loaded, Refusal):
        return loaded.reason
    if any(
        isinstance(extension.value, x509.KeyUsage) and not extension.value.crl_sign
        for extension in issuer.extensions
    ):
        return "was signed by an authority that may not sign such lists"
    if reason := weak_key(issuer):
        return f"was signed by an authority whose certificate {reason}"
    try:
        digest = loaded.signature_hash_algorithm
        if loaded.signature_algorithm_oid not in _ALGORITHMS or not (
            digest is None or isinstance(digest, hashes.SHA256 | hashes.SHA384 | hashes.SHA512)
        ):
            return "was signed with an algorithm that is not accepted"
        # `weak_key` let only the kinds pass that can sign.
        valid = loaded.is_signature_valid(issuer.public_key())  # type: ignore[arg-type]
    except UNREADABLE:
        valid = False
    return None if valid else "does not verify under the key of the issuer that it names"


def _extension_fault(loaded: x509.CertificateRevocationList) -> str | None:
    for extension in loaded.extensions:
        value = extension.value
        if isinstance(value, x509.DeltaCRLIndicator):
            return "holds only changes to another list"
        if isinstance(value, x509.IssuingDistributionPoint) and value.indirect_crl:
            return "also speaks for other issuers, which is not understood"
        if extension.critical and not isinstance(value, _UNDERSTOOD):
            return f"has a critical extension that is not understood ({extension.oid.dotted_string})"
    return None


def _remembers(loaded: x509.CertificateRevocationList) -> datetime | None:
    """From when on certificates stay listed after they expired (ITU-T X.509, expiredCertsOnCRL)."""
    for extension in loaded.extensions:
        if extension.oid == _EXPIRED_ON_CRL and isinstance(extension.value, x509.UnrecognizedExtension):
            try:
                return der.parse(extension.value.value).to_time()
            except MalformedDerError:
                return None
    return None


def _withdrawn(
    entry: x509.RevokedCertificate, loaded: x509.CertificateRevocationList, source: str
) -> Statement | Refusal:
    since, reason = entry.revocation_date_utc, None
    for extension in entry.extensions:
        value = extension.value
        if isinstance(value, x509.CRLReason):
            reason = value.reason.value
        elif isinstance(value, x509.InvalidityDate):
            since = min(since, value.invalidity_date_utc)
        elif isinstance(value, x509.CertificateIssuer) or (
            extension.critical and not isinstance(value, _UNDERSTOOD_OF_ENTRIES)
        ):
            return Refusal(f"the {source} names it in a way that is not understood")
    return Statement(
        Said.WITHDRAWN,
        loaded.last_update_utc,
        loaded.next_update_utc,
        source,
        since,
        None if reason == x509.ReasonFlags.unspecified.value else reason,
    )


def _scope_fault(loaded: x509.CertificateRevocationList, certificate: x509.Certificate) -> str | None:
    """Why silence about a certificate means nothing, if it does."""
    point = next(
        (item.value for item in loaded.extensions if isinstance(item.value, x509.IssuingDistributionPoint)),
        None,
    )
    if point is None:
        return None
    authority = any(
        isinstance(item.value, x509.BasicConstraints) and item.value.ca for item in certificate.extensions
    )
    if (
        point.only_contains_attribute_certs
        or (point.only_contains_user_certs and authority)
        or (point.only_contains_ca_certs and not authority)
    ):
        return "is about certificates of another kind"
    if point.only_some_reasons is not None:
        return "is about some reasons for a withdrawal only"
    if point.relative_name is not None:
        return "is for a part of the certificates that cannot be determined"
    if point.full_name is not None and not set(point.full_name) & _distribution_points(certificate):
        return "is for another part of the issuer's certificates"
    return None


def _distribution_points(certificate: x509.Certificate) -> set[x509.GeneralName]:
    return {
        name
        for extension in certificate.extensions
        if isinstance(extension.value, x509.CRLDistributionPoints)
        for point in extension.value
        if point.crl_issuer is None and point.reasons is None
        for name in point.full_name or ()
    }
