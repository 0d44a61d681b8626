import dataclasses
import hashlib
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from storage import payload
from storage.entry import Kind
from storage.errors import MalformedEntryError, MalformedPayloadError
from storage.record import INDEXED, Lookup, Record, lookups

AT = datetime(2026, 11, 25, 8, tzinfo=UTC)
digests = st.binary(min_size=32, max_size=32)


@given(st.dictionaries(st.sampled_from(INDEXED), digests))
def test_a_payload_is_found_by_the_digests_it_names(named: dict[str, bytes]) -> None:
    fields = {"other": "a" * 64, **{name: digest.hex() for name, digest in named.items()}}
    assert set(lookups(payload.canonical(fields))) == set(named.items())


@pytest.mark.parametrize(
    "value",
    ["", "a" * 63, "a" * 65, "A" * 64, "g" * 64, " " + "a" * 63, "a" * 64 + "\n", 7, ["a" * 64], None],
)
def test_what_is_no_digest_is_not_looked_up(value: object) -> None:
    assert lookups(payload.canonical({"media": value, "within": {"claim": "a" * 64}})) == ()


@given(digests, digests)
def test_a_record_commits_to_its_salt_and_payload(salt: bytes, key: bytes) -> None:
    text = payload.canonical({"claim": "ab" * 32})
    record = Record(Kind.REVOKE, text, salt, key)
    assert record.commitment == hashlib.sha256(b"lightseal/commit/v1\0" + salt + text).digest()
    assert record.lookups == (Lookup("claim", b"\xab" * 32),)
    entry = record.entry(AT)
    assert (entry.kind, entry.commitment, entry.key, entry.logged_at) == (
        Kind.REVOKE,
        record.commitment,
        key,
        AT,
    )
    # The commitment is to content alone: another time, kind or key is another entry with the same one.
    assert record.entry(AT + timedelta(hours=1)).commitment == entry.commitment


def test_what_could_not_be_proved_later_is_no_record(make_record) -> None:
    for flaw, error in (
        ({"payload": b"raw"}, MalformedPayloadError),
        ({"payload": b'{"b":1, "a":2}'}, MalformedPayloadError),
        ({"salt": b"short"}, MalformedEntryError),
        ({"key": b"short"}, MalformedEntryError),
    ):
        with pytest.raises(error):
            dataclasses.replace(make_record(1), **flaw)
