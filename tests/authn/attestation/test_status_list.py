import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from authn.attestation.status_list import Entry, StatusList, StatusListError, serial_text

DATED = datetime(2026, 11, 20, 12, 30, 15, tzinfo=UTC)
SERIALS = st.integers(1, 2**160 - 1).map(serial_text)
TEXTS = st.text("ABCDEFGHIJKLMNOPQRSTUVWXYZ_", min_size=1, max_size=30)


@given(st.dictionaries(SERIALS, st.builds(Entry, TEXTS, TEXTS), max_size=5))
def test_a_dated_list_reads_back_as_it_was_written(entries: dict[str, Entry]) -> None:
    written = StatusList(DATED, entries)
    assert StatusList.parse(written.encode()) == written


@given(st.binary(max_size=60) | st.text(max_size=60).map(str.encode))
def test_anything_else_raises_only_its_own_error(data: bytes) -> None:
    for read in (StatusList.parse, lambda value: StatusList.published(value, DATED)):
        try:
            read(data)
        except StatusListError:
            continue
        assert b"entries" in data


@given(st.data())
def test_a_damaged_list_raises_only_its_own_error(data: st.DataObject) -> None:
    written = StatusList(DATED, {"c0ffee": Entry("REVOKED", "KEY_COMPROMISE")}).encode()
    place = data.draw(st.integers(0, len(written) - 1))
    damaged = written[:place] + data.draw(st.binary(max_size=3)) + written[place + 1 :]
    try:
        assert StatusList.parse(damaged).encode() == damaged
    except StatusListError:
        pass


def published(text: str) -> StatusList:
    return StatusList.published(text.encode(), DATED)


def test_a_serial_is_looked_up_as_hex_also_where_it_looks_decimal() -> None:
    listed = published(
        '{"entries": {"6681152659205225093": {"status": "REVOKED", "reason": "KEY_COMPROMISE"}}}'
    )
    assert listed.of(serial_text(0x6681152659205225093)) == Entry("REVOKED", "KEY_COMPROMISE")
    assert listed.of(serial_text(6681152659205225093)) is None


def test_a_serial_has_no_leading_zero() -> None:
    assert serial_text(0x0B2) == "b2"


@pytest.mark.parametrize("serial", ["", "0b2", "B2", "0xb2", "b2 ", "b:2", "a" * 129])
def test_a_list_with_a_serial_in_another_form_is_refused(serial: str) -> None:
    with pytest.raises(StatusListError):
        published(json.dumps({"entries": {serial: {"status": "REVOKED"}}}))


@pytest.mark.parametrize(
    "text",
    ["", "[]", "{}", '{"entries": []}', '{"entries": {"b2": "REVOKED"}}', '{"entries": {"b2": {}}}', "[" * 100_000,
     '{"entries": {"b2": {"status": 1}}}', '{"entries": {"b2": {"status": "REVOKED", "reason": 1}}}',
     '{"entries": {"b2": {"status": "REVOKED"}, "b2": {"status": "REVOKED"}}}', '{"entries": {}, "entries": {}}'],
)  # fmt: skip
def test_a_list_that_could_be_misread_is_refused(text: str) -> None:
    with pytest.raises(StatusListError):
        published(text)


@pytest.mark.parametrize("dated", ["", "2026-11-20", "2026-13-20T12:00:00Z", "2026-11-20T12:00:00+00:00"])
def test_a_dated_list_has_its_date_in_one_form(dated: str) -> None:
    with pytest.raises(StatusListError):
        StatusList.parse(json.dumps({"dated": dated, "entries": {}}, separators=(",", ":")).encode())
    with pytest.raises(StatusListError):
        StatusList.parse(b'{"entries":{}}')


def test_a_list_is_stale_after_thirty_days_and_never_before_its_day() -> None:
    listed = StatusList(DATED)
    assert not listed.stale(DATED - timedelta(days=100))
    assert not listed.stale(DATED + timedelta(days=30))
    assert listed.stale(DATED + timedelta(days=30, seconds=1))


def test_the_sample_of_the_publisher_is_read(attestation_vectors: Path) -> None:
    data = (attestation_vectors / "android_real" / "status_sample.json").read_bytes()
    listed = StatusList.published(data, DATED)
    assert len(listed.entries) == 5
    assert listed.of("cc66e9a93713b6e643b26c15879786f7") == Entry("SUSPENDED", "KEY_COMPROMISE")
    assert StatusList.parse(listed.encode()) == listed
