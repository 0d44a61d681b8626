"""Let `cryptography` build certificates, requests, CRLs and OCSP answers with a key that it cannot see.

Its builders sign with any object of the right class that has `sign`; ours asks the provider, which
verifies each signature before it returns it. The builder's hash must be the one the provider signs
with (SHA-256 for P-256, SHA-384 for P-384), else it is refused: nothing is signed by surprise.
"""

from dataclasses import dataclass
from typing import NoReturn, Self

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, utils
from cryptography.utils import Buffer

from authn.errors import KeyNotOursError
from authn.keys import Algorithm, KeyProvider, PrivateKey

_HASHES: dict[Algorithm, type[hashes.HashAlgorithm]] = {
    Algorithm.ES256: hashes.SHA256,
    Algorithm.ES384: hashes.SHA384,
}


def private_key(provider: KeyProvider) -> PrivateKey:
    """The provider as a key that `cryptography` signs with; it exports nothing and agrees on no secret.

    An elliptic-curve key for ECDSA, an Ed25519 key for Ed25519. An error of the provider leaves the
    builder as it is. Anything that a builder made has been signed by a verified signature.
    """
    if isinstance(provider.public_key, ed25519.Ed25519PublicKey):
        return _EdwardsKey(provider, provider.public_key)
    return _CurveKey(provider, provider.public_key)


@dataclass(frozen=True)
class _CurveKey(ec.EllipticCurvePrivateKey):
    """A provider's key on P-256 or P-384; `cryptography` asks for the class, not for a protocol."""

    provider: KeyProvider
    public: ec.EllipticCurvePublicKey

    def public_key(self) -> ec.EllipticCurvePublicKey:
        return self.public

    @property
    def curve(self) -> ec.EllipticCurve:
        return self.public.curve

    @property
    def key_size(self) -> int:
        return self.public.curve.key_size

    def sign(self, data: Buffer, signature_algorithm: ec.EllipticCurveSignatureAlgorithm) -> bytes:
        """Sign, and write r and s in DER, as X.509 has them (RFC 3279, 2.2.3)."""
        if not isinstance(signature_algorithm.algorithm, _HASHES[self.provider.algorithm]):
            raise KeyNotOursError(f"a key signs as {self.provider.algorithm} and was asked for another hash")
        signature = self.provider.sign(bytes(data))
        half = len(signature) // 2
        r, s = int.from_bytes(signature[:half], "big"), int.from_bytes(signature[half:], "big")
        return utils.encode_dss_signature(r, s)

    def exchange(self, *_: object) -> NoReturn:
        _refuse()

    def private_numbers(self) -> NoReturn:
        _refuse()

    def private_bytes(self, *_: object) -> NoReturn:
        _refuse()

    def __copy__(self) -> Self:
        return self

    def __deepcopy__(self, memo: object) -> Self:
        return self


@dataclass(frozen=True)
class _EdwardsKey(ed25519.Ed25519PrivateKey):
    """A provider's Ed25519 key."""

    provider: KeyProvider
    public: ed25519.Ed25519PublicKey

    def public_key(self) -> ed25519.Ed25519PublicKey:
        return self.public

    def sign(self, data: Buffer) -> bytes:
        return self.provider.sign(bytes(data))

    def private_bytes(self, *_: object) -> NoReturn:
        _refuse()

    def private_bytes_raw(self) -> NoReturn:
        _refuse()

    def __copy__(self) -> Self:
        return self

    def __deepcopy__(self, memo: object) -> Self:
        return self


def _refuse() -> NoReturn:
    raise KeyNotOursError("a key signs, and is neither exported nor used for key agreement")
