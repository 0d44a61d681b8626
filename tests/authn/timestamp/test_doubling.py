from collections.abc import Callable

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from authn import keys
from authn.errors import KeyGoneError, KeyNotOursError, SelfCheckError
from authn.timestamp.doubling import EVERY, Doubled, bare_signer_of, signer_of

ES256 = ec.ECDSA(hashes.SHA256(), deterministic_signing=True)


def flipped(signature: bytes) -> bytes:
    return signature[:-1] + bytes((signature[-1] ^ 1,))


class Faulty:
    """Signs right until its `n`th call, and wrong from then on, always in the same way."""

    def __init__(self, private: ec.EllipticCurvePrivateKey, right: int) -> None:
        self._private, self._right, self.calls = private, right, 0

    def __call__(self, data: bytes, algorithm: ec.EllipticCurveSignatureAlgorithm) -> bytes:
        self.calls += 1
        signature = self._private.sign(data, algorithm)
        return signature if self.calls <= self._right else flipped(signature)


@pytest.mark.parametrize("make", [keys.generate_p256, keys.generate_p384])
def test_what_it_signs_verifies(make: Callable[[], keys.SigningKey]) -> None:
    key = make()
    digest = hashes.SHA256() if key.algorithm is keys.Algorithm.ES256 else hashes.SHA384()
    sign = signer_of(key)
    for number in range(2 * EVERY):
        data = str(number).encode()
        key.public_key.verify(sign(data), data, ec.ECDSA(digest))


def test_one_fault_in_either_copy_is_seen_at_once_and_ends_all_signing() -> None:
    key = keys.generate_p256()
    for first, second in ((9, 10**6), (10**6, 9)):
        copies = Faulty(key.private, first), Faulty(key.private, second)
        doubled = Doubled(*copies, key.public_key, ES256)
        for number in range(9):
            doubled.sign(str(number).encode())
        for _ in range(3):
            with pytest.raises(SelfCheckError):
                doubled.sign(b"the tenth")
        copies[0]._right = copies[1]._right = 10**6  # the fault passes, the distrust stays
        with pytest.raises(SelfCheckError):
            doubled.sign(b"later")


def test_a_fault_that_is_the_same_twice_is_seen_by_verifying() -> None:
    key = keys.generate_p256()
    doubled = Doubled(Faulty(key.private, 0), Faulty(key.private, 0), key.public_key, ES256)
    with pytest.raises(SelfCheckError):
        doubled.sign(b"the first")
    doubled = Doubled(Faulty(key.private, 5), Faulty(key.private, 5), key.public_key, ES256)

    def sign_many() -> None:
        for number in range(EVERY + 1):
            doubled.sign(str(number).encode())

    with pytest.raises(SelfCheckError):
        sign_many()


def test_a_key_that_does_not_belong_to_its_public_half_signs_nothing() -> None:
    one, other = keys.generate_p256(), keys.generate_p256()
    with pytest.raises(SelfCheckError):
        signer_of(keys.SigningKey(one.private, other.public_key, one.algorithm))


def test_a_key_elsewhere_is_asked_once_and_its_errors_pass() -> None:
    class Elsewhere:
        """A provider whose token was pulled after one signature."""

        keeping = keys.Keeping.TOKEN

        def __init__(self) -> None:
            self.key, self.calls = keys.generate_p256(), 0
            self.algorithm, self.public_key = self.key.algorithm, self.key.public_key

        def sign(self, data: bytes) -> bytes:
            self.calls += 1
            if self.calls > 1:
                raise KeyGoneError("the token does not answer")
            return self.key.sign(data)

        def close(self) -> None:
            pass

    provider = Elsewhere()
    sign = signer_of(provider)
    provider.public_key.verify(sign(b"data"), b"data", ec.ECDSA(hashes.SHA256()))
    with pytest.raises(KeyGoneError):
        sign(b"data")


def test_only_ecdsa_is_doubled() -> None:
    key = keys.generate_ed25519()
    with pytest.raises(KeyNotOursError):
        Doubled(lambda _data, _how: b"", lambda _data, _how: b"", key.public_key, ES256)


def test_the_floor_is_one_signature_of_the_same_kind() -> None:
    key = keys.generate_p256()
    key.public_key.verify(bare_signer_of(key)(b"data"), b"data", ec.ECDSA(hashes.SHA256()))
    with pytest.raises(KeyNotOursError):
        bare_signer_of(keys.generate_ed25519())
