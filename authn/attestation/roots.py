"""The roots that the attestation verifiers believe, pinned here by digest.

The certificates lie beside this module with their provenance. A root is
believed for its key: makers re-issue it under new dates, and anybody can make
a certificate of the same name. Who distrusts this choice gives other roots.
"""

import functools
import hashlib
import re
from dataclasses import dataclass
from datetime import date
from importlib import resources

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from authn.chain import read_certificate
from authn.errors import CertificateError

_PEM = re.compile(rb"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----\n", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Pin:
    """A root as it was taken from its publisher, by SHA-256 of the certificate and of its key."""

    name: str
    certificate: str
    key: str
    source: str
    taken: date


GOOGLE = (
    Pin(
        "Android, RSA, re-issued 2022",
        "cedb1cb6dc896ae5ec797348bce9286753c2b38ee71ce0fbe34a9a1248800dfc",
        "feb2ea7551ee316ed4bb443c8293b884dbfdea40b603ee3e4f4a897e4580fbae",
        "https://github.com/android/keyattestation (roots.json, commit 47f970d)",
        date(2026, 11, 25),
    ),
    Pin(
        "Android, P-384, Key Attestation CA1 of 2025",
        "6d9db4ce6c5c0b293166d08986e05774a8776ceb525d9e4329520de12ba4bcc0",
        "3ee44512a1af2beb39c889490c60ea3f82e43f5d5a5532f5ab9419f676cd07ec",
        "https://github.com/android/keyattestation (roots.json, commit 47f970d)",
        date(2026, 11, 25),
    ),
)
APPLE = (
    Pin(
        "Apple App Attestation Root CA",
        "1cb9823ba28ba6ad2d33a006941de2ae4f513ef1d4e831b9f7e0fa7b6242c932",
        "1ae751fd29896d0f1f13fe226c063f445d40d8938acc6245c251ecc0679330bd",
        "https://www.apple.com/certificateauthority/Apple_App_Attestation_Root_CA.pem",
        date(2026, 11, 25),
    ),
)


@functools.cache
def google_keys() -> frozenset[bytes]:
    """The SHA-256 of each key that may stand at the root of an Android chain."""
    return frozenset(key_digest(root) for root in _read("google.pem", GOOGLE))


@functools.cache
def apple_root() -> x509.Certificate:
    """The root of App Attest."""
    (root,) = _read("apple.pem", APPLE)
    return root


def spki_of(certificate: x509.Certificate) -> bytes:
    """The certified key, as a SubjectPublicKeyInfo in DER."""
    return certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def key_digest(certificate: x509.Certificate) -> bytes:
    """SHA-256 of the certified key: what a root is pinned by."""
    return hashlib.sha256(spki_of(certificate)).digest()


def parse(data: bytes, pins: tuple[Pin, ...]) -> tuple[x509.Certificate, ...]:
    """Read PEM certificates that must be exactly those of `pins`, in their order."""
    try:
        found = tuple(
            x509.load_pem_x509_certificate(block).public_bytes(Encoding.DER) for block in _PEM.findall(data)
        )
    except ValueError as error:
        raise CertificateError("a pinned root cannot be read") from error
    if [hashlib.sha256(der).hexdigest() for der in found] != [pin.certificate for pin in pins]:
        raise CertificateError("the roots are not the ones that are pinned")
    roots = tuple(read_certificate(der) for der in found)
    if [key_digest(root).hex() for root in roots] != [pin.key for pin in pins]:
        raise CertificateError("the roots' keys are not the ones that are pinned")
    return roots


def _read(name: str, pins: tuple[Pin, ...]) -> tuple[x509.Certificate, ...]:
    return parse(resources.files(__package__).joinpath(name).read_bytes(), pins)
