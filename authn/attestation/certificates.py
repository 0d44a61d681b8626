"""The certificates of a device's chain, read within limits, and what one may say of another.

Nothing here builds a path: a device sends its chain in order, and it is judged in
that order. Dates, roots and withdrawal are for the verifiers.
"""

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm

from authn import der
from authn.chain import read_certificate, unreadable
from authn.errors import CertificateError, EvidenceError, MalformedDerError


def read(data: bytes, which: str) -> x509.Certificate:
    """Read a certificate in DER, in the one form that its issuer can have signed."""
    try:
        *_, signature = der.parse(data).children()
        certificate = read_certificate(data)
    except (CertificateError, MalformedDerError, ValueError) as error:
        raise EvidenceError(f"{which} cannot be read") from error
    if fault := unreadable(certificate):
        raise EvidenceError(f"{which} {fault}")
    # The count of unused bits is the one octet outside that no signature covers.
    if signature.tag != der.BIT_STRING or signature.content[:1] != b"\0":
        raise EvidenceError(f"{which} has a signature that is no whole number of bytes")
    return certificate


def issued(issuer: x509.Certificate, certificate: x509.Certificate) -> bool:
    """Whether the issuer's name and key are those that signed the certificate."""
    try:
        certificate.verify_directly_issued_by(issuer)
    except (InvalidSignature, ValueError, TypeError, UnsupportedAlgorithm):
        return False
    return True


def authority(certificate: x509.Certificate) -> bool:
    """Whether a certificate says that it may certify others."""
    return any(
        extension.value.ca
        for extension in certificate.extensions
        if isinstance(extension.value, x509.BasicConstraints)
    )
