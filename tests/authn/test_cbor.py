"""The CBOR reader against RFC 8949's own examples, against another reader, and against garbage."""

import math

import cbor2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from authn import cbor
from authn.cbor import MalformedCborError

# RFC 8949, appendix A, without simple values, which no manifest uses.
EXAMPLES = {
    "00": 0,
    "17": 23,
    "1818": 24,
    "1903e8": 1000,
    "1bffffffffffffffff": 18446744073709551615,
    "20": -1,
    "3bffffffffffffffff": -18446744073709551616,
    "3903e7": -1000,
    "f90000": 0.0,
    "f93c00": 1.0,
    "fb3ff199999999999a": 1.1,
    "fa47c35000": 100000.0,
    "f90001": 5.960464477539063e-8,
    "fbc010666666666666": -4.1,
    "f97c00": math.inf,
    "f4": False,
    "f5": True,
    "f6": None,
    "f7": None,
    "c11a514b67b0": cbor.Tag(1, 1363896240),
    "40": b"",
    "4401020304": b"\1\2\3\4",
    "60": "",
    "62225c": '"\\',
    "62c3bc": "\u00fc",
    "64f0908591": "\U00010151",
    "80": [],
    "8301820203820405": [1, [2, 3], [4, 5]],
    "a0": {},
    "a201020304": {1: 2, 3: 4},
    "a26161016162820203": {"a": 1, "b": [2, 3]},
    "5f42010243030405ff": b"\1\2\3\4\5",
    "7f657374726561646d696e67ff": "streaming",
    "9fff": [],
    "9f018202039f0405ffff": [1, [2, 3], [4, 5]],
    "bf61610161629f0203ffff": {"a": 1, "b": [2, 3]},
}

SCALARS = (
    st.integers(-(1 << 64), (1 << 64) - 1)
    | st.text(max_size=20)
    | st.binary(max_size=20)
    | st.booleans()
    | st.none()
    | st.floats(allow_nan=False)
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=5)
        | st.dictionaries(st.text(max_size=8) | st.integers(-99, 99), inner, max_size=5)
    ),
    max_leaves=20,
)


@pytest.mark.parametrize(("encoded", "value"), EXAMPLES.items())
def test_the_standard_s_examples_are_read(encoded: str, value: object) -> None:
    found = cbor.decode(bytes.fromhex(encoded))
    assert (found, type(found)) == (value, type(value))


@given(VALUES)
def test_what_another_writer_wrote_is_read_as_it_was_meant(value: object) -> None:
    assert cbor.decode(cbor2.dumps(value)) == value


@given(st.binary(max_size=200))
def test_any_bytes_are_read_or_refused_with_our_own_error(data: bytes) -> None:
    try:
        value = cbor.decode(data)
    except MalformedCborError:
        return
    assert value is None or isinstance(value, int | float | str | bytes | list | dict | cbor.Tag)


@given(VALUES, st.data())
def test_a_changed_byte_is_read_or_refused_with_our_own_error(value: object, data: st.DataObject) -> None:
    encoded = bytearray(cbor2.dumps(value))
    encoded[data.draw(st.integers(0, len(encoded) - 1))] = data.draw(st.integers(0, 255))
    try:
        cbor.decode(bytes(encoded))
    except MalformedCborError:
        pass


@given(st.lists(st.text(max_size=300) | st.binary(max_size=300), max_size=30))
def test_what_we_write_another_reader_reads(value: list[str | bytes]) -> None:
    assert cbor2.loads(cbor.encode(value)) == value
    assert cbor.encode(value) == cbor2.dumps(value)


@pytest.mark.parametrize("size", [23, 24, 255, 256, 65_535, 65_536])
def test_lengths_are_written_in_the_shortest_form(size: int) -> None:
    assert cbor.encode(bytes(size)) == cbor2.dumps(bytes(size))


@pytest.mark.parametrize(
    "encoded",
    [
        "",
        "18",
        "61",
        "62c328",
        "a2616101616102",
        "a18001",
        "a1f401",
        "0000",
        "1c",
        "5f6161ff",
        "5f",
        "ff",
        "9f",
        "bf6161ff",
        "df00",
        "f8ff",
        "9b7fffffffffffffff",
        "bb7fffffffffffffff",
        "5b7fffffffffffffff",
    ],
)
def test_what_two_readers_could_read_differently_is_refused(encoded: str) -> None:
    with pytest.raises(MalformedCborError):
        cbor.decode(bytes.fromhex(encoded))


def test_depth_and_work_have_limits() -> None:
    assert cbor.decode(b"\x81" * cbor.MAX_DEPTH + b"\x00")
    for bomb in (
        b"\x81" * (cbor.MAX_DEPTH + 1) + b"\x00",
        b"\xc1" * 100_000,
        b"\x9f" * 100_000,
        b"\x9a" + (cbor.MAX_ITEMS + 9).to_bytes(4, "big") + bytes(cbor.MAX_ITEMS + 9),
    ):
        with pytest.raises(MalformedCborError):
            cbor.decode(bomb)
