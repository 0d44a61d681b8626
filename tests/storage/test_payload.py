import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from storage import payload
from storage.errors import MalformedPayloadError

words = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53) + 1, 2**53 - 1) | words,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(words, inner, max_size=3),
    max_leaves=8,
)
objects = st.dictionaries(words, values, max_size=4)


@given(objects)
def test_a_payload_reads_back_as_it_was_written(fields: dict[str, object]) -> None:
    assert payload.parse(payload.canonical(fields)) == fields


@given(
    st.binary(max_size=60)
    | objects.map(payload.canonical).flatmap(
        lambda data: st.builds(
            lambda at, new: data[:at] + new + data[at + 1 :], st.integers(0, len(data)), st.binary(max_size=2)
        )
    )
)
def test_reading_accepts_what_it_would_write_or_raises_its_own_error(data: bytes) -> None:
    try:
        assert payload.canonical(payload.parse(data)) == data
    except MalformedPayloadError:
        pass


@pytest.mark.parametrize(
    "data",
    [
        b"[]",
        b"1",
        b"",
        b'{"a":1.0}',
        b'{"a":1e3}',
        b'{"a":NaN}',
        b'{"a":-Infinity}',
        b'{"a":9007199254740992}',
        b'{"a":1,"a":1}',
        b'{"b":1,"a":1}',
        b'{"a": 1}',
        b'{"a":"\xc3\xa9"}',
        b'{"a":"\\ud800"}',
        b"\xff",
        b'{"a":' * 40 + b"1" + b"}" * 40,
        b"[" * 60000,
        b'{"a":"' + b"x" * 70000 + b'"}',
    ],
)
def test_bytes_that_another_program_would_write_differently_are_refused(data: bytes) -> None:
    with pytest.raises(MalformedPayloadError):
        payload.parse(data)


def test_fields_that_json_cannot_hold_are_refused() -> None:
    for fields in ({"a": b"bytes"}, {"a": 0.5}, {"a": "\ud800"}, {"a": object()}, {1: 2, "a": 3}):
        with pytest.raises(MalformedPayloadError):
            payload.canonical(fields)  # type: ignore[dict-item]


def test_what_is_written_is_plain_json() -> None:
    assert json.loads(payload.canonical({"b": ["é", None], "a": {"z": 1}})) == {
        "a": {"z": 1},
        "b": ["é", None],
    }
