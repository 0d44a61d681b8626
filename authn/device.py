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
from authn.keys import SigningKey

Certificate: TypeAlias = x509.Certificate


@dataclass(frozen=True, slots=True)
class Device:
    """An enrolled signer; `salt` keeps strangers from linking its entries."""

    name: str
    key: SigningKey
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


def pseudonym(salt: bytes, key: bytes) -> bytes:
    """A salted SHA-256 of a public key (DER)."""
    return hashlib.sha256(b"lightseal/key/v1\0" + salt + key).digest()


def read_chain(pem: bytes) -> tuple[Certificate, ...]:
    """The certificates of a PEM file, in its order."""
    try:
        return tuple(x509.load_pem_x509_certificates(pem))
    except ValueError as error:
        raise CertificateError("the chain is not PEM certificates") from error
