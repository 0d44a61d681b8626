"""The box reader: exact about what it reads, and bounded whatever it is given."""

import struct
from pathlib import Path

import brotli
import pytest
from hypothesis import given
from hypothesis import strategies as st

from authn import jumbf
from authn.jumbf import MalformedStoreError

SOUND = (Path(__file__).parent / "vectors" / "sound.jpg").read_bytes()
START = SOUND.index(b"\xff\xeb") + 12
STORE = SOUND[START : START + struct.unpack_from(">I", SOUND, START)[0]]


def box(kind: bytes, *content: bytes) -> bytes:
    body = b"".join(content)
    return struct.pack(">I", 8 + len(body)) + kind + body


def superbox(label: str | None, *children: bytes) -> bytes:
    named = bytes([3]) + label.encode() + b"\0" if label is not None else bytes([0])
    return box(b"jumb", box(b"jumd", bytes(16), named), *children)


def manifest(label: str = "m", *more: bytes, claim: str = "c2pa.claim.v2") -> bytes:
    return superbox(
        label,
        superbox("c2pa.assertions", superbox("a", box(b"cbor", b"\xa0"))),
        superbox(claim, box(b"cbor", b"\xa1")),
        superbox("c2pa.signature", box(b"cbor", b"\xa2")),
        *more,
    )


def test_a_manifest_is_taken_apart() -> None:
    (found,) = jumbf.parse(superbox("c2pa", manifest()))
    assert (found.label, found.claim, found.claim_label, found.signature) == (
        "m",
        b"\xa1",
        "c2pa.claim.v2",
        b"\xa2",
    )
    (assertion,) = found.assertions
    assert (assertion.label, assertion.type, assertion.content) == ("a", b"cbor", b"\xa0")
    assert superbox("a", box(b"cbor", b"\xa0")) == box(b"jumb", assertion.box)


def test_the_stored_file_holds_what_its_writer_put_there() -> None:
    (found,) = jumbf.parse(STORE)
    assert [assertion.label for assertion in found.assertions] == ["c2pa.actions.v2", "c2pa.hash.data"]
    assert jumbf.manifests_of(STORE) == (STORE[46:],)


def test_the_last_manifest_is_the_last_one_found() -> None:
    found = jumbf.parse(superbox("c2pa", manifest("one"), manifest("two")))
    assert [item.label for item in found] == ["one", "two"]


def test_a_compressed_manifest_is_unpacked() -> None:
    packed = superbox("m", box(b"brob", brotli.compress(manifest())))
    assert jumbf.parse(superbox("c2pa", packed)) == jumbf.parse(superbox("c2pa", manifest()))


def test_a_long_length_is_read() -> None:
    content = superbox("c2pa", manifest())[8:]
    assert jumbf.parse(struct.pack(">I4sQ", 1, b"jumb", 16 + len(content)) + content)


@pytest.mark.parametrize(
    "store",
    [
        b"",
        b"\0",
        superbox("c2pa"),
        superbox("other", manifest()),
        superbox(None, manifest()),
        superbox("c2pa", manifest()) * 2,
        superbox("c2pa", manifest()) + b"\0",
        superbox("c2pa", manifest(), manifest()),
        superbox("c2pa", manifest("m", superbox("c2pa.claim", box(b"cbor", b"")))),
        superbox("c2pa", manifest("m", superbox("c2pa.signature", box(b"cbor", b"")))),
        superbox("c2pa", manifest("m", superbox("c2pa.assertions"))),
        superbox("c2pa", manifest(claim="c2pa.claim.v9")),
        superbox("c2pa", superbox("m", superbox("c2pa.claim", box(b"cbor", b"")))),
        superbox("c2pa", manifest("m", box(b"brob", brotli.compress(manifest())))),
        superbox("c2pa", superbox("x", box(b"brob", brotli.compress(manifest("m"))))),
        superbox("c2pa", superbox("m", box(b"brob", brotli.compress(manifest() * 2)))),
        superbox("c2pa", superbox("m", box(b"brob", brotli.compress(b"")))),
        superbox("c2pa", superbox("m", box(b"brob", brotli.compress(manifest())[:-2]))),
        superbox("c2pa", superbox("m", box(b"brob", b"garbage"))),
        box(b"jumb", box(b"cbor", b"")),
        box(b"jumb", box(b"jumd", bytes(16), b"\x03never ends")),
        box(b"jumb", box(b"jumd", bytes(16), b"\x03\xff\0")),
        box(b"jumb", box(b"jumd", bytes(16), b"\x03c2pa\0"), box(b"jumd", bytes(16), b"\x03c2pa\0")),
        struct.pack(">I4s", 4, b"jumb"),
        struct.pack(">I4sQ", 1, b"jumb", 3),
        struct.pack(">I4s", 1, b"jumb"),
    ],
)
def test_what_two_readers_could_read_differently_is_refused(store: bytes) -> None:
    with pytest.raises(MalformedStoreError) as caught:
        jumbf.parse(store)
    assert caught.value.code == "manifest-malformed"


def test_size_depth_and_number_have_limits() -> None:
    deep = superbox("x")
    for _ in range(jumbf.MAX_DEPTH + 1):
        deep = superbox("x", deep)
    nested = manifest()
    for _ in range(jumbf.MAX_DEPTH + 1):
        nested = superbox("m", box(b"brob", brotli.compress(nested)))
    bomb = superbox("m", box(b"brob", brotli.compress(bytes(jumbf.MAX_STORE + 1))))
    half = brotli.compress(box(b"jumb", box(b"jumd", bytes(16), b"\x03m\0"), bytes(jumbf.MAX_STORE // 2)))
    twice = [superbox(label, box(b"brob", half)) for label in ("m", "n", "o")]
    for store in (
        bytes(jumbf.MAX_STORE + 1),
        superbox("c2pa", manifest("m", deep)),
        superbox("c2pa", manifest("m", box(b"free") * jumbf.MAX_BOXES)),
        superbox("c2pa", nested),
        superbox("c2pa", bomb),
        superbox("c2pa", *twice),
    ):
        with pytest.raises(MalformedStoreError):
            jumbf.parse(store)


@given(st.binary(max_size=300))
def test_any_bytes_are_refused_with_our_own_error(data: bytes) -> None:
    for store in (data, superbox("c2pa", data), superbox("c2pa", superbox("m", box(b"brob", data)))):
        with pytest.raises(MalformedStoreError):
            jumbf.parse(store)


@given(st.integers(0, len(STORE) - 1), st.integers(0, 255))
def test_a_changed_byte_is_read_or_refused_with_our_own_error(position: int, value: int) -> None:
    try:
        jumbf.parse(STORE[:position] + bytes([value]) + STORE[position + 1 :])
    except MalformedStoreError:
        pass


@given(st.integers(0, len(STORE) - 1))
def test_a_cut_store_is_refused(length: int) -> None:
    with pytest.raises(MalformedStoreError):
        jumbf.parse(STORE[:length])
