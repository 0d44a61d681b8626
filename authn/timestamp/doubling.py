"""Sign twice from two copies of one key, compare, and verify some of it: the check of a unit that signs all day.

A signature with a fault in it can give the key away, so none may leave unchecked. This check is
not the one that every other key's signatures get, which is to be verified: that costs 2.7 times
what signing costs. Deterministic signatures (RFC 6979) can be compared
instead: two computations, from two copies of the key in different places of memory, come to
the same bytes unless one of them went wrong. What would go wrong twice in the same way, a
broken processor or library, is not seen at once; it is by the first signature and every
`EVERY`th after it, which are verified under the certificate's key as well; the first is made
at the start, over nothing that matters, and thrown away. In between, up to `EVERY` - 1
signatures leave that were compared and not verified. After one difference, or one signature that does
not verify, nothing is signed any more.
"""

import itertools
from collections.abc import Callable
from contextlib import suppress

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, utils

from authn.errors import KeyNotOursError, SelfCheckError
from authn.keys import Algorithm, KeyProvider, PublicKey, SigningKey

EVERY = 64
# The ways our own keys sign; a unit's key on another curve is refused.
_ECDSA = {
    Algorithm.ES256: ec.ECDSA(hashes.SHA256(), deterministic_signing=True),
    Algorithm.ES384: ec.ECDSA(hashes.SHA384(), deterministic_signing=True),
}

SignDer = Callable[[bytes], bytes]
"""Signs and returns ECDSA-Sig-Value (RFC 3279, 2.2.3); raises `SelfCheckError` where a check failed."""


def signer_of(key: KeyProvider) -> SignDer:
    """What signs with `key`: doubled for a key in this process; for any other, its own check is relied on."""
    if isinstance(key, SigningKey) and isinstance(key.private, ec.EllipticCurvePrivateKey):
        copy = key.private.private_numbers().private_key()
        doubled = Doubled(key.private.sign, copy.sign, key.public_key, _ECDSA[key.algorithm])
        with suppress(UnsupportedAlgorithm):  # a library built without RFC 6979
            doubled.sign(b"the first signature is verified before there is anything to lose")
            return doubled.sign
    return lambda data: _encoded(key.sign(data))


Sign = Callable[[bytes, ec.EllipticCurveSignatureAlgorithm], bytes]


class Doubled:
    """One key, twice. Several threads may sign at once."""

    def __init__(self, first: Sign, second: Sign, public: PublicKey, algorithm: ec.ECDSA) -> None:
        if not isinstance(public, ec.EllipticCurvePublicKey):
            raise KeyNotOursError("only ECDSA signatures can be made twice and compared here")
        self._first, self._second, self._public, self._algorithm = first, second, public, algorithm
        self._count = itertools.count()
        self._failed = False

    def sign(self, data: bytes) -> bytes:
        """Sign `data`; a signature that was not come to twice raises and is thrown away, and so do all later ones."""
        signature = self._first(data, self._algorithm)
        if self._failed or signature != self._second(data, self._algorithm):
            self._failed = True
            raise SelfCheckError("a signature came out differently when it was made a second time")
        if next(self._count) % EVERY == 0:
            self._verify(signature, data)
        return signature

    def _verify(self, signature: bytes, data: bytes) -> None:
        try:
            self._public.verify(signature, data, self._algorithm)
        except InvalidSignature as error:
            self._failed = True
            raise SelfCheckError("a signature did not verify under the key that made it") from error


def _encoded(signature: bytes) -> bytes:
    half = len(signature) // 2
    return utils.encode_dss_signature(
        int.from_bytes(signature[:half], "big"), int.from_bytes(signature[half:], "big")
    )


def bare_signer_of(key: SigningKey) -> SignDer:
    """One ECDSA signature with nothing around it: the floor that `tools.bench_time` measures us against.

    Unchecked, so nothing it signs may leave.
    """
    private = key.private
    if not isinstance(private, ec.EllipticCurvePrivateKey):
        raise KeyNotOursError("the floor is an ECDSA signature")
    algorithm = ec.ECDSA(_ECDSA[key.algorithm].algorithm)
    return lambda data: private.sign(data, algorithm)
