"""What signs: a key, the chain that vouches for it, and its name in a ledger.

Reads what enrolment wrote. Does not judge the chain.
"""

import hashlib
from dataclasses import dataclass
from typing import TypeAlias

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from authn.errors import CertificateError
from authn.identity import pem_chain
from authn.keys import KeyProvider

Certificate: TypeAlias = x509.Certificate


@dataclass(frozen=True, slots=True)
class Enrolled:
    """A signer as its enrolment described it; `salt` keeps strangers from linking its entries."""

    name: str
    chain: tuple[Certificate, ...]
    salt: bytes
    lifetime: str = "standard"
    """Of its certificates; with "one-time" the lasting key here signs enrolments and no capture."""

    @property
    def pseudonym(self) -> bytes:
        """The key's name in the ledger: its owner can look for it, nobody else can link it."""
        return pseudonym(self.salt, spki(self.chain[0]))

    def with_key(self, key: KeyProvider) -> "Device":
        """The signer with its key opened."""
        return Device(self.name, key, self.chain, self.salt)


@dataclass(frozen=True, slots=True)
class Device:
    """An enrolled signer that can sign."""

    name: str
    key: KeyProvider
    chain: tuple[Certificate, ...]
    salt: bytes

    @property
    def pseudonym(self) -> bytes:
        """The key's name in the ledger: its owner can look for it, nobody else can link it."""
        return pseudonym(self.salt, spki(self.chain[0]))

    @property
    def chain_pem(self) -> str:
        """Leaf and intermediates as PEM; the root stays out, since it is the verifier's to have."""
        return pem_chain(*self.chain).decode()


def spki(certificate: Certificate) -> bytes:
    """The certificate's public key as DER (RFC 5280, SubjectPublicKeyInfo)."""
    return certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def encoded(certificate: Certificate) -> bytes:
    """The certificate as DER."""
    return certificate.public_bytes(Encoding.DER)


def issuer_key_id(certificate: Certificate) -> bytes:
    """How the certificate names its issuer's key (RFC 5280, 4.2.1.1); all of ours do."""
    try:
        found = certificate.extensions.get_extension_for_class(
            x509.AuthorityKeyIdentifier
        ).value.key_identifier
    except (x509.ExtensionNotFound, x509.DuplicateExtension, ValueError) as error:
        raise CertificateError("a certificate does not name its issuer's key") from error
    if not found:
        raise CertificateError("a certificate does not name its issuer's key")
    return found


def pseudonym(salt: bytes, key: bytes) -> bytes:
    """A salted SHA-256 of a public key (DER)."""
    return hashlib.sha256(b"lightseal/key/v1\0" + salt + key).digest()


def read_chain(pem: bytes) -> tuple[Certificate, ...]:
    """The certificates of a PEM file, in its order."""
    try:
        return tuple(x509.load_pem_x509_certificates(pem))
    except ValueError as error:
        raise CertificateError("the chain is not PEM certificates") from error
