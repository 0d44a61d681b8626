import hashlib
from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from storage.entry import Entry, Kind, commitment
from storage.errors import MalformedEntryError

moments = st.integers(0, 253402300799).map(lambda seconds: datetime.fromtimestamp(seconds, UTC))
digests = st.binary(min_size=32, max_size=32)
entries = st.builds(Entry, st.sampled_from(Kind), digests, digests, moments)
EIGHT = datetime(2026, 11, 25, 8, tzinfo=UTC)


@given(entries)
def test_an_entry_reads_back_as_it_was_written(entry: Entry) -> None:
    assert Entry.parse(entry.body) == entry
    assert entry.leaf == hashlib.sha256(b"\0" + entry.body).digest()


@given(
    st.binary(max_size=200)
    | entries.map(lambda entry: entry.body).flatmap(
        lambda body: st.builds(
            lambda at, new: body[:at] + new + body[at + 1 :], st.integers(0, len(body)), st.binary(max_size=2)
        )
    )
)
def test_reading_accepts_what_it_would_write_or_raises_its_own_error(body: bytes) -> None:
    try:
        assert Entry.parse(body).body == body
    except MalformedEntryError:
        pass


def test_a_body_is_canonical_json() -> None:
    body = Entry(Kind.ISSUE, bytes(32), b"k" * 32, EIGHT).body
    assert body == (
        b'{"commit":"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=",'
        b'"key":"a2tra2tra2tra2tra2tra2tra2tra2tra2tra2tra2s=",'
        b'"kind":"issue","time":"2026-11-25T08:00:00Z","v":1}'
    )
    for flawed in (
        body.replace(b'"v":1', b'"v":2'),
        body.replace(b"issue", b"other"),
        body + b"\n",
        body.replace(b",", b", "),
        body.replace(b"11-25", b"13-25"),
        body.replace(b"AAA=", b"AAB="),
        b"[" * 70000,
    ):
        with pytest.raises(MalformedEntryError):
            Entry.parse(flawed)


def test_an_entry_that_could_not_be_read_back_cannot_be_made() -> None:
    for at in (
        EIGHT.replace(tzinfo=None),
        EIGHT.replace(microsecond=1),
        EIGHT.astimezone(timezone(timedelta(hours=1))),
    ):
        with pytest.raises(MalformedEntryError):
            Entry(Kind.SIGN, bytes(32), bytes(32), at)
    for commit, key in ((bytes(31), bytes(32)), (bytes(32), bytes(33))):
        with pytest.raises(MalformedEntryError):
            Entry(Kind.SIGN, commit, key, EIGHT)


def test_a_commitment_is_the_hash_it_says() -> None:
    salt = bytes(range(32))
    assert (
        commitment(salt, b"payload") == hashlib.sha256(b"lightseal/commit/v1\0" + salt + b"payload").digest()
    )
    with pytest.raises(MalformedEntryError):
        commitment(salt[:31], b"payload")
