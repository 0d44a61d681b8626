"""What keeps an authority from stamping falsely; what it answers at all is in test_timestamp_authority.py."""

import hashlib
import itertools
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone

import pytest
import rfc3161_client
from cryptography import x509
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from authn import der, keys
from authn.errors import CertificateError, KeyGoneError, MalformedRequestError, SelfCheckError
from authn.timestamp import unverified
from authn.timestamp.authority import (
    KEY_USE,
    SERIALS_AT_ONCE,
    Authority,
    Issued,
    RecordingError,
    Reserved,
    Safeguards,
    SerialsError,
    UnsafeClockError,
    never_doubt,
    no_floor,
    serials_from,
    stamping_period,
)
from authn.timestamp.request import TimeStampRequest
from authn.timestamp.token import check_token

DIGEST = hashlib.sha256(b"claim").digest()
QUERY = TimeStampRequest(DIGEST, nonce=7).encode()
POLICY = "1.3.6.1.4.1.62558.1.1"
UNWATCHED = Safeguards(never_doubt, no_floor)
REASONS = {0, 2, 5, 14, 15, 16, 25}


def token_of(reply: bytes) -> bytes:
    fields = der.parse(reply).fields()
    assert fields.take(der.SEQUENCE).encoded == der.sequence(der.integer(0))
    token = fields.take(der.SEQUENCE).encoded
    fields.end()
    return token


def failure_of(reply: bytes) -> int:
    """The one failure bit of a refusal (RFC 3161, 2.4.2), read bit by bit; it carries no token."""
    fields = der.parse(reply).fields()
    status = fields.take(der.SEQUENCE).fields()
    fields.end()
    assert status.take(der.INTEGER).to_integer() == 2
    assert status.take(der.SEQUENCE).children()[0].content.decode()
    unused, *flags = status.take(der.BIT_STRING).content
    status.end()
    bits = [8 * at + bit for at, byte in enumerate(flags) for bit in range(8) if byte & 0x80 >> bit]
    assert len(bits) == 1
    assert unused == 7 - bits[0] % 8
    return bits[0]


def unit(stamp_kit, safeguards: Safeguards, at: datetime | None = None, serials: Iterator[int] | None = None):
    return Authority(
        stamp_kit.key,
        (stamp_kit.leaf,),
        POLICY,
        lambda: at or stamp_kit.at + timedelta(days=1),
        serials or serials_from(1),
        safeguards,
    )


# --- The clock


def test_no_token_is_dated_before_what_is_on_record(stamp_kit) -> None:
    at = stamp_kit.at + timedelta(days=1)
    on_record = [at + timedelta(seconds=1)]
    authority = unit(stamp_kit, replace(UNWATCHED, floor=lambda: on_record[0]))
    assert failure_of(authority.respond(QUERY)) == 14
    on_record[0] = at
    token_of(authority.respond(QUERY))


def test_no_token_says_a_second_that_begins_before_what_is_on_record(stamp_kit) -> None:
    """The clock is past the floor, the second that the token would state is not."""
    at = stamp_kit.at + timedelta(days=1)
    floor = at + timedelta(seconds=10, milliseconds=500)
    watched = replace(UNWATCHED, floor=lambda: floor)
    early = unit(stamp_kit, watched, at + timedelta(seconds=10, milliseconds=700))
    assert failure_of(early.respond(QUERY)) == 14
    token = token_of(unit(stamp_kit, watched, at + timedelta(seconds=11)).respond(QUERY))
    assert unverified.parse(token).statement.gen_time >= floor


def test_an_authority_without_safeguards_is_not_to_be_had(stamp_kit) -> None:
    parts = (stamp_kit.key, (stamp_kit.leaf,), POLICY, lambda: stamp_kit.at, serials_from(1))
    with pytest.raises(TypeError):
        Authority(*parts)  # type: ignore[call-arg]
    with pytest.raises(TypeError):
        Safeguards()  # type: ignore[call-arg]


def test_who_asks_in_this_process_is_told_that_the_clock_is_unsafe_and_what_to_do(stamp_kit) -> None:
    at = stamp_kit.at + timedelta(days=1)
    for watched in (
        replace(UNWATCHED, floor=lambda: at + timedelta(seconds=2)),
        replace(UNWATCHED, doubt=lambda _: "the clock was set"),
    ):
        with pytest.raises(UnsafeClockError, match="no time can be given: the clock ") as caught:
            unit(stamp_kit, watched, at).require_time()
        assert caught.value.code == "clock-unsafe"
        assert "Set the clock right" in caught.value.remedy
    unit(stamp_kit, UNWATCHED, at).require_time()


def test_no_time_is_given_by_a_clock_in_doubt_and_the_reason_is_said(stamp_kit) -> None:
    doubts: list[str | None] = ["the clock was set back", None]
    authority = unit(stamp_kit, replace(UNWATCHED, doubt=lambda _: doubts.pop(0)))
    refused = authority.respond(QUERY)
    assert failure_of(refused) == 14
    assert b"the clock was set back" in refused
    token_of(authority.respond(QUERY))


def test_a_key_stamps_for_three_years_where_its_certificate_says_nothing(stamp_kit) -> None:
    begins, ends = stamping_period(stamp_kit.leaf)
    assert begins == stamp_kit.leaf.not_valid_before_utc
    assert ends == begins + KEY_USE < stamp_kit.leaf.not_valid_after_utc
    token_of(unit(stamp_kit, UNWATCHED, ends).respond(QUERY))
    assert failure_of(unit(stamp_kit, UNWATCHED, ends + timedelta(seconds=1)).respond(QUERY)) == 14


def test_a_key_stamps_as_long_as_its_certificate_says(stamp_kit, remake) -> None:
    at = stamp_kit.at
    first, last = at + timedelta(days=10), at + timedelta(days=400)
    period = x509.PrivateKeyUsagePeriod(first.replace(tzinfo=None), last.replace(tzinfo=None))
    leaf = remake(stamp_kit.leaf, stamp_kit.root_key, put=[(period, False)])
    for moment, good in ((first, True), (last, True), (first - timedelta(seconds=1), False),
                         (last + timedelta(seconds=1), False)):  # fmt: skip
        authority = Authority(
            stamp_kit.key, (leaf,), POLICY, lambda moment=moment: moment, serials_from(1), UNWATCHED
        )
        reply = authority.respond(QUERY)
        if good:
            assert check_token(token_of(reply), b"claim", (stamp_kit.time_stampers,), moment).proven
        else:
            assert failure_of(reply) == 14


def test_a_unit_does_not_start_with_certificates_that_are_no_chain(stamp_kit, signer_kit) -> None:
    for chain in ((), (stamp_kit.leaf, signer_kit.root)):
        with pytest.raises(CertificateError):
            Authority(stamp_kit.key, chain, POLICY, lambda: stamp_kit.at, serials_from(1), UNWATCHED)
    Authority(
        stamp_kit.key,
        (stamp_kit.leaf, stamp_kit.root),
        POLICY,
        lambda: stamp_kit.at,
        serials_from(1),
        UNWATCHED,
    )


# --- The record


def test_a_token_is_on_record_before_it_leaves(stamp_kit) -> None:
    recorded: list[Issued] = []
    reply = unit(stamp_kit, replace(UNWATCHED, record=recorded.append)).respond(QUERY)
    (issued,) = recorded
    token = token_of(reply)
    assert issued.token == token
    assert issued.sha256 == hashlib.sha256(token).hexdigest()
    statement = unverified.parse(token).statement
    assert (issued.serial, issued.gen_time) == (statement.serial, statement.gen_time)
    assert issued.imprint == TimeStampRequest(DIGEST).imprint


def test_what_cannot_be_recorded_does_not_leave(stamp_kit) -> None:
    kept: list[bytes] = []

    def record(issued: Issued) -> None:
        kept.append(issued.token)
        raise RecordingError("the disk is full")

    reply = unit(stamp_kit, replace(UNWATCHED, record=record)).respond(QUERY)
    assert failure_of(reply) == 25
    assert b"disk" not in reply  # for the operator
    assert unverified.parse(kept[0]).signature not in reply


def test_a_clock_in_another_zone_gives_the_same_time(stamp_kit) -> None:
    recorded: list[Issued] = []
    east = (stamp_kit.at + timedelta(days=1)).astimezone(timezone(timedelta(hours=9)))
    token = token_of(unit(stamp_kit, replace(UNWATCHED, record=recorded.append), east).respond(QUERY))
    assert unverified.parse(token).statement.gen_time == east
    assert recorded[0].gen_time == east
    assert recorded[0].gen_time.tzinfo is UTC


# --- Serial numbers


def test_blocks_of_serial_numbers_are_used_up_in_order_and_never_twice() -> None:
    reserved: list[int] = []

    def reserve(count: int) -> int:
        reserved.append(count)
        return 5_000_000 * len(reserved)

    numbers = list(itertools.islice(Reserved(reserve), SERIALS_AT_ONCE + 2))
    assert numbers[0] == 5_000_000
    assert numbers[SERIALS_AT_ONCE - 1] == 5_000_000 + SERIALS_AT_ONCE - 1
    assert numbers[SERIALS_AT_ONCE:] == [10_000_000, 10_000_001]
    assert reserved == [SERIALS_AT_ONCE] * 2


def test_without_a_serial_number_there_is_no_token_until_there_is_one_again(stamp_kit) -> None:
    faults = [SerialsError("no room"), SerialsError("no room")]

    def reserve(count: int) -> int:
        if faults:
            raise faults.pop()
        return count << 20

    authority = unit(stamp_kit, UNWATCHED, serials=Reserved(reserve))
    assert [failure_of(authority.respond(QUERY)) for _ in range(2)] == [25, 25]
    token_of(authority.respond(QUERY))


def test_threads_get_different_serial_numbers_from_blocks(stamp_kit) -> None:
    starts = itertools.count(1)
    authority = unit(stamp_kit, UNWATCHED, serials=Reserved(lambda count: next(starts) * count))
    with ThreadPoolExecutor(4) as pool:
        replies = list(pool.map(authority.respond, [QUERY] * 200))
    serials = {unverified.parse(token_of(reply)).statement.serial for reply in replies}
    assert len(serials) == 200


# --- The key


@pytest.mark.parametrize("error", [KeyGoneError("PIN 1234 at /dev/x"), SelfCheckError("secret")])
def test_a_key_that_fails_gives_a_refusal_that_says_nothing_of_it(stamp_kit, error: Exception) -> None:
    class Gone:
        keeping, algorithm = keys.Keeping.TOKEN, stamp_kit.key.algorithm
        public_key = stamp_kit.key.public_key

        def sign(self, _data: bytes) -> bytes:
            raise error

        def close(self) -> None:
            pass

    authority = Authority(Gone(), (stamp_kit.leaf,), POLICY, lambda: stamp_kit.at, serials_from(1), UNWATCHED)
    reply = authority.respond(QUERY)
    assert failure_of(reply) == 25
    assert str(error).encode() not in reply


# --- The question


@pytest.mark.parametrize(
    ("query", "bit"),
    [
        (der.sequence(der.integer(2), TimeStampRequest(DIGEST).imprint), 2),
        (der.sequence(der.integer(1), TimeStampRequest(DIGEST).imprint, der.tagged(0xA0, der.sequence())), 16),
        (der.sequence(der.integer(1), TimeStampRequest(DIGEST).imprint, der.integer(-1)), 5),
        (der.sequence(der.integer(1), TimeStampRequest(DIGEST).imprint, der.tagged(der.BOOLEAN, b"\0")), 5),
        (QUERY.replace(b"\x04\x20", b"\x04\x1f"), 5),
        (b"\x30\x80" + QUERY[2:] + b"\0\0", 5),
        (b"\x30\x81" + QUERY[1:], 5),
        (b"\x30", 5),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_question_is_named(stamp_kit, query: bytes, bit: int) -> None:
    assert failure_of(unit(stamp_kit, UNWATCHED).respond(query)) == bit


def require_answered_as_parsed(authority: Authority, query: bytes) -> None:
    """The short way through common questions must give what the strict reader gives."""
    reply = authority.respond(query)
    try:
        asked = TimeStampRequest.parse(query)
    except MalformedRequestError:
        assert failure_of(reply) in REASONS
        return
    if asked.policy not in (None, POLICY):
        assert failure_of(reply) == 15
        return
    parsed = unverified.parse(token_of(reply))
    statement = parsed.statement
    assert (statement.digest, statement.nonce, statement.policy) == (asked.digest, asked.nonce, POLICY)
    assert asked.imprint in parsed.content
    assert bool(parsed.certificates) == asked.wants_certificate


questions = st.builds(
    TimeStampRequest,
    st.binary(min_size=32, max_size=32),
    nonce=st.none() | st.integers(0, 300) | st.integers(0, (1 << 256) - 1) | st.just(0x0101FF),
    policy=st.none() | st.sampled_from([POLICY, "1.2.3"]),
    wants_certificate=st.booleans(),
    imprint=st.just(b""),
)


@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(question=questions)
def test_every_question_is_answered_as_the_strict_reader_reads_it(
    stamp_kit, question: TimeStampRequest
) -> None:
    authority = unit(stamp_kit, UNWATCHED)
    require_answered_as_parsed(authority, question.encode())
    bare = der.sequence(der.sequence(der.oid("2.16.840.1.101.3.4.2.1")), der.octets(question.digest))
    require_answered_as_parsed(
        authority, TimeStampRequest(question.digest, nonce=question.nonce, imprint=bare).encode()
    )


@settings(max_examples=400, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(question=questions, at=st.integers(0, 150), put=st.binary(max_size=4), cut=st.integers(0, 4))
def test_no_mutated_question_gets_an_exception_or_a_token_over_something_else(
    stamp_kit, question: TimeStampRequest, at: int, put: bytes, cut: int
) -> None:
    query = question.encode()
    require_answered_as_parsed(unit(stamp_kit, UNWATCHED), query[:at] + put + query[at + cut :])


@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(query=st.binary(max_size=200))
def test_no_bytes_at_all_get_an_exception(stamp_kit, query: bytes) -> None:
    assert failure_of(unit(stamp_kit, UNWATCHED).respond(query)) in REASONS


def test_another_implementation_reads_what_we_answer(stamp_kit) -> None:
    reply = unit(stamp_kit, UNWATCHED, stamp_kit.at).respond(QUERY)
    read = rfc3161_client.decode_timestamp_response(reply)
    assert read.tst_info.nonce == 7
    assert read.tst_info.gen_time == stamp_kit.at.astimezone(UTC)
    verifier = rfc3161_client.VerifierBuilder(roots=[stamp_kit.root]).nonce(7).build()
    assert verifier.verify_message(read, b"claim")
