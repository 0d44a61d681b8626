import hashlib
from contextlib import suppress

import pytest
import rfc3161_client
from hypothesis import given
from hypothesis import strategies as st

from authn import der
from authn.errors import MalformedRequestError
from authn.timestamp.request import DIGEST_SIZES, TimeStampRequest, UnknownHashError

DIGEST = hashlib.sha256(b"claim").digest()


@given(
    st.sampled_from(sorted(DIGEST_SIZES)),
    st.binary(min_size=64, max_size=64),
    st.none() | st.integers(0, 2**256 - 1),
    st.none() | st.just("1.3.6.1.4.1.62558.1.1"),
    st.booleans(),
)
def test_a_request_comes_back(name, body, nonce, policy, wants) -> None:
    request = TimeStampRequest(body[: DIGEST_SIZES[name]], name, nonce, policy, wants)
    assert TimeStampRequest.parse(request.encode()) == request
    assert TimeStampRequest.parse(request.encode()).encode() == request.encode()


def test_a_request_of_another_program_is_read(shared) -> None:
    data = (shared / "vectors" / "tlog" / "tsa" / "sigstage" / "request.der").read_bytes()
    assert TimeStampRequest.parse(data).encode() == data


def test_a_request_of_another_library_is_read() -> None:
    made = rfc3161_client.TimestampRequestBuilder().data(b"claim").build()
    read = TimeStampRequest.parse(made.as_bytes())
    assert (read.nonce, read.wants_certificate) == (made.nonce, True)
    assert read.digest == made.message_imprint.message
    assert read.encode() == made.as_bytes()


def imprint(oid: str, digest: bytes) -> bytes:
    return der.sequence(der.sequence(der.oid(oid)), der.octets(digest))


SHA256 = "2.16.840.1.101.3.4.2.1"


@pytest.mark.parametrize(
    ("flaw", "data"),
    [
        ("empty", b""),
        ("empty sequence", b"\x30\x00"),
        ("trailing byte", TimeStampRequest(DIGEST).encode() + b"\0"),
        ("cut", TimeStampRequest(DIGEST).encode()[:-1]),
        ("indefinite length", b"\x30\x80" + TimeStampRequest(DIGEST).encode()[2:]),
        ("version 2", der.sequence(der.integer(2), imprint(SHA256, DIGEST))),
        ("short digest", der.sequence(der.integer(1), imprint(SHA256, DIGEST[1:]))),
        ("default written", der.sequence(der.integer(1), imprint(SHA256, DIGEST), b"\x01\x01\x00")),
        ("negative nonce", der.sequence(der.integer(1), imprint(SHA256, DIGEST), der.integer(-1))),
        ("extensions", der.sequence(der.integer(1), imprint(SHA256, DIGEST), der.tagged(0xA0, b""))),
        ("over the limit", der.octets(b"x" * (64 << 10))),
    ],
)
def test_a_malformed_request_is_refused(flaw: str, data: bytes) -> None:
    with pytest.raises(MalformedRequestError):
        TimeStampRequest.parse(data)
    assert flaw


def test_a_weak_hash_is_refused_by_name() -> None:
    with pytest.raises(UnknownHashError):
        TimeStampRequest.parse(der.sequence(der.integer(1), imprint("1.3.14.3.2.26", b"x" * 20)))
    with pytest.raises(UnknownHashError):
        TimeStampRequest(b"x" * 20, "sha1")


@given(st.binary(max_size=120))
def test_hostile_requests_raise_only_our_own_error(data: bytes) -> None:
    with suppress(MalformedRequestError):
        TimeStampRequest.parse(data)


@given(st.integers(0, 500), st.integers(0, 7))
def test_a_request_with_a_flipped_bit_is_refused_or_says_something_else(position: int, bit: int) -> None:
    request = TimeStampRequest(DIGEST, nonce=0x1234567890ABCDEF)
    data = bytearray(request.encode())
    data[position % len(data)] ^= 1 << bit
    with suppress(MalformedRequestError):
        assert TimeStampRequest.parse(bytes(data)) != request
