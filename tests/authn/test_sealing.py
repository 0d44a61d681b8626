import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import given
from hypothesis import strategies as st

from authn.errors import Error
from authn.sealing import SealBrokenError, seal, unseal

KEY = bytes(range(32))
keys = st.binary(min_size=32, max_size=32)


@given(keys, st.binary(max_size=200), st.binary(max_size=60))
def test_what_is_sealed_opens_with_the_same_key_and_place(key: bytes, plain: bytes, place: bytes) -> None:
    sealed = seal(key, plain, place)
    assert unseal(key, sealed, place) == plain
    assert len(sealed) == 12 + len(plain) + 16


def test_the_form_is_a_nonce_and_then_aes_256_gcm() -> None:
    sealed = seal(KEY, b"payload", b"place")
    assert AESGCM(KEY).decrypt(sealed[:12], sealed[12:], b"place") == b"payload"


def test_a_key_used_twice_draws_another_nonce() -> None:
    assert len({seal(KEY, b"same", b"")[:12] for _ in range(200)}) == 200


@given(st.integers(0, 12 + 7 + 16 - 1), st.integers(1, 255))
def test_no_byte_can_be_changed(at: int, difference: int) -> None:
    sealed = bytearray(seal(KEY, b"payload", b"place"))
    sealed[at] ^= difference
    with pytest.raises(SealBrokenError):
        unseal(KEY, bytes(sealed), b"place")


@pytest.mark.parametrize("length", [0, 11, 12, 27, 28, 34])
def test_nothing_shorter_opens(length: int) -> None:
    with pytest.raises(SealBrokenError):
        unseal(KEY, seal(KEY, b"payload", b"place")[:length], b"place")


def test_another_key_or_place_does_not_open_it() -> None:
    sealed = seal(KEY, b"payload", b"place")
    with pytest.raises(SealBrokenError):
        unseal(KEY[::-1], sealed, b"place")
    with pytest.raises(SealBrokenError):
        unseal(KEY, sealed, b"plac")


@pytest.mark.parametrize("length", [0, 16, 24, 31, 33])
def test_a_key_of_another_length_is_a_mistake_of_the_caller(length: int) -> None:
    with pytest.raises(ValueError, match="32 bytes"):
        seal(bytes(length), b"", b"")
    with pytest.raises(ValueError, match="32 bytes"):
        unseal(bytes(length), bytes(40), b"")


def test_the_error_is_ours_and_what_storage_was_told_to_expect() -> None:
    assert issubclass(SealBrokenError, Error)
    assert issubclass(SealBrokenError, ValueError)
    assert SealBrokenError.code == "seal-broken"
    assert SealBrokenError.remedy != Error.remedy
