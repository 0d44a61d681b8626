from contextlib import suppress
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from authn import der
from authn.errors import MalformedDerError


def test_lengths_are_written_in_the_fewest_bytes() -> None:
    assert der.octets(b"x" * 127)[:2] == b"\x04\x7f"
    assert der.octets(b"x" * 128)[:3] == b"\x04\x81\x80"
    assert der.octets(b"x" * 256)[:4] == b"\x04\x82\x01\x00"


@pytest.mark.parametrize(
    ("value", "encoded"),
    [
        (0, "020100"),
        (127, "02017f"),
        (128, "02020080"),
        (256, "02020100"),
        (-128, "020180"),
        (-129, "0202ff7f"),
    ],
)
def test_integers_are_written_as_the_standard_shows_them(value: int, encoded: str) -> None:
    assert der.integer(value).hex() == encoded
    assert der.parse(der.integer(value)).to_integer() == value


@given(st.integers(-(2**511), 2**511 - 1))
def test_an_integer_comes_back(value: int) -> None:
    assert der.parse(der.integer(value)).to_integer() == value


@given(st.binary(max_size=400))
def test_octets_come_back(value: bytes) -> None:
    assert der.parse(der.octets(value)).to_octets() == value


def test_an_object_identifier_comes_back() -> None:
    assert der.parse(der.oid("1.2.840.113549.1.9.16.1.4")).to_oid() == "1.2.840.113549.1.9.16.1.4"


def test_a_set_is_sorted() -> None:
    assert der.set_of(der.integer(2), der.integer(1)) == der.set_of(der.integer(1), der.integer(2))


@given(st.datetimes(datetime(1950, 1, 1), datetime(9999, 12, 31), timezones=st.just(UTC)))  # noqa: DTZ001
def test_a_time_comes_back_in_whole_seconds(moment: datetime) -> None:
    assert der.parse(der.generalized_time(moment)).to_time() == moment.replace(microsecond=0)


@pytest.mark.parametrize(
    ("flaw", "data"),
    [
        ("empty", b""),
        ("header alone", b"\x30"),
        ("indefinite length", b"\x30\x80\x00\x00"),
        ("length with a leading zero", b"\x04\x82\x00\x80" + b"x" * 128),
        ("long form for a short length", b"\x04\x81\x01x"),
        ("length of five bytes", b"\x04\x85\x00\x00\x00\x00\x01x"),
        ("length cut", b"\x04\x82\x01"),
        ("content cut", b"\x04\x02x"),
        ("trailing byte", b"\x04\x01xx"),
        ("high tag number", b"\x1f\x81\x01\x00"),
        ("over the limit", der.octets(b"x" * der.MAX_BYTES)),
    ],
)
def test_anything_but_the_one_encoding_is_refused(flaw: str, data: bytes) -> None:
    with pytest.raises(MalformedDerError):
        der.parse(data)
    assert flaw


@pytest.mark.parametrize(
    "data",
    [
        b"\x02\x00",
        b"\x02\x02\x00\x01",
        b"\x02\x02\xff\x80",
        der.octets(b"1"),
        der.tagged(der.INTEGER, b"\x01" * 65),
    ],
)
def test_an_integer_that_is_not_minimal_or_not_bounded_is_refused(data: bytes) -> None:
    with pytest.raises(MalformedDerError):
        der.parse(data).to_integer()


@pytest.mark.parametrize(
    "text",
    ["20260101000000", "20260101000000.0Z", "20260101000000.10Z", "20260101000000.Z", "20261301000000Z",
     "20260101000060Z", "2026010100000Z", "20260101000000+0100", "20260101000000.1234567Z"],
)  # fmt: skip
def test_a_time_in_another_form_is_refused(text: str) -> None:
    with pytest.raises(MalformedDerError):
        der.parse(der.tagged(der.GENERALIZED_TIME, text.encode())).to_time()


def test_a_two_digit_year_turns_in_1950() -> None:
    assert der.parse(der.tagged(der.UTC_TIME, b"500101000000Z")).to_time().year == 1950
    assert der.parse(der.tagged(der.UTC_TIME, b"491231235959Z")).to_time().year == 2049


def test_a_field_that_nobody_took_is_refused() -> None:
    fields = der.parse(der.sequence(der.integer(1), der.integer(2))).fields()
    assert fields.take(der.INTEGER).to_integer() == 1
    with pytest.raises(MalformedDerError):
        fields.end()


def test_too_many_children_are_refused() -> None:
    with pytest.raises(MalformedDerError):
        der.parse(der.sequence(*[der.integer(1)] * 257)).children()


def test_deep_nesting_costs_nothing() -> None:
    data = b""
    for _ in range(5000):
        data = der.sequence(data)
    assert len(der.parse(data).children()) == 1


@given(st.binary(max_size=60))
def test_hostile_bytes_raise_only_our_own_error(data: bytes) -> None:
    for read in (
        lambda element: element.children(),
        lambda element: element.to_integer(),
        lambda element: element.to_oid(),
        lambda element: element.to_time(),
        lambda element: element.to_boolean(),
        lambda element: element.to_octets(),
    ):
        for encoded in (data, *(der.tagged(tag, data) for tag in (*range(1, 0x1F), der.SEQUENCE, der.SET))):
            with suppress(MalformedDerError):
                read(der.parse(encoded))
