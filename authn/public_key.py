"""Read a public key that stands alone, and write one."""

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_der_public_key,
    load_pem_public_key,
)

from authn.errors import KeyNotOursError
from authn.keys import PublicKey, algorithm_of

MAX_PUBLIC_KEY = 4096


def read_public_key(data: bytes) -> PublicKey:
    """The key in a SubjectPublicKeyInfo, in DER or PEM: P-256, P-384 or Ed25519, or a `KeyNotOursError`."""
    if len(data) > MAX_PUBLIC_KEY:
        raise KeyNotOursError("the file is too large for a public key")
    try:
        key = load_pem_public_key(data) if data.lstrip().startswith(b"-----") else load_der_public_key(data)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise KeyNotOursError("the file is no public key, in PEM or DER") from error
    if not isinstance(key, ec.EllipticCurvePublicKey | ed25519.Ed25519PublicKey):
        raise KeyNotOursError("a key is neither on P-256 nor P-384 nor Ed25519")
    algorithm_of(key)
    return key


def public_pem(key: PublicKey) -> bytes:
    """The key as PEM, to be handed on."""
    return key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
