import threading
import time
from collections.abc import Sequence
from concurrent.futures import wait
from datetime import UTC, datetime
from types import SimpleNamespace

import pytest

from storage import payload
from storage.entry import Kind
from storage.errors import ClockError, ConflictingRecordError, DiskFullError, MalformedError
from storage.ledger import Ledger
from storage.record import Record
from storage.sequencer import (
    MAX_BATCH,
    MAX_RETRY_SECONDS,
    OverloadedError,
    OversizeError,
    Sequencer,
    StoppedError,
)

AT = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


def fresh(number: int, kind: Kind = Kind.SIGN) -> Record:
    return Record(
        kind, payload.canonical({"claim": f"claim {number}"}), number.to_bytes(32, "big"), bytes(32)
    )


class FakeLedger:
    """Remembers each transaction; waits at a gate, and fails where it is told to."""

    def __init__(self, fault: Exception | None = None, poison: Record | None = None) -> None:
        self.batches: list[list[Record]] = []
        self.recorded: list[Record] = []
        self.fault = fault
        self.poison = poison
        self.entered = threading.Semaphore(0)
        self.gate = threading.Event()
        self.gate.set()

    def held(self) -> "FakeLedger":
        self.gate.clear()
        return self

    def append(self, records: Sequence[Record]) -> tuple[int, ...]:
        self.entered.release()
        assert self.gate.wait(10)
        self.batches.append(list(records))
        if self.fault is not None:
            raise self.fault
        if self.poison in records:
            raise ConflictingRecordError("The salt was used before.")
        for record in records:
            if record not in self.recorded:
                self.recorded.append(record)
        return tuple(map(self.recorded.index, records))


def test_what_gathers_while_one_batch_is_recorded_becomes_the_next_batch() -> None:
    ledger = FakeLedger().held()
    with Sequencer(ledger.append) as sequencer:
        first = sequencer.submit([fresh(0)])
        assert ledger.entered.acquire(timeout=10)
        rest = [sequencer.submit([fresh(number)]) for number in range(1, 100)]
        ledger.gate.set()
        assert [future.result(10) for future in [first, *rest]] == [(number,) for number in range(100)]
    assert [len(batch) for batch in ledger.batches] == [1, 99]


def test_one_submission_is_never_split_and_a_batch_is_bounded() -> None:
    ledger = FakeLedger().held()
    with Sequencer(ledger.append, limit=10_000) as sequencer:
        sequencer.submit([fresh(0)])
        assert ledger.entered.acquire(timeout=10)
        sizes = [700, 300, 25, 3000, 1]
        start, futures = 1, []
        for size in sizes:
            futures.append(sequencer.submit([fresh(number) for number in range(start, start + size)]))
            start += size
        ledger.gate.set()
        start = 1
        for size, future in zip(sizes, futures, strict=True):
            assert future.result(10) == tuple(range(start, start + size))
            start += size
    assert [len(batch) for batch in ledger.batches] == [1, 1000, 25, 3000, 1]
    assert MAX_BATCH == 1024


def test_the_same_record_twice_in_one_batch_has_one_index(sqlite_url, log, sealer) -> None:
    with Ledger.create(sqlite_url, log.name, sealer) as ledger:
        gate = threading.Event()

        def append(records: Sequence[Record]) -> tuple[int, ...]:
            assert gate.wait(10)
            return ledger.append(records, AT, log.sign)

        with Sequencer(append) as sequencer:
            sequencer.submit([fresh(0)])
            twice = [sequencer.submit([fresh(1)]), sequencer.submit([fresh(1), fresh(2)])]
            gate.set()
            assert [future.result(10) for future in twice] == [(1,), (1, 2)]
        assert ledger.size == 3


def test_a_full_queue_refuses_with_the_time_that_the_measured_rate_needs() -> None:
    now = [0.0]
    ledger = FakeLedger().held()

    def append(records: Sequence[Record]) -> tuple[int, ...]:
        indices = ledger.append(records)
        now[0] += 2.0  # two seconds a batch
        return indices

    with Sequencer(append, limit=10, clock=lambda: now[0]) as sequencer:
        ten = sequencer.submit([fresh(number) for number in range(10)])
        with pytest.raises(OverloadedError) as unknown_rate:
            sequencer.submit([fresh(10)])
        assert unknown_rate.value.retry_after == 1
        ledger.gate.set()
        assert len(ten.result(10)) == 10
        ledger.gate.clear()
        again = [sequencer.submit([fresh(number)]) for number in range(10, 20)]
        with pytest.raises(OverloadedError) as measured:
            sequencer.submit([fresh(20)])
        assert measured.value.retry_after == 2  # ten waiting, five a second
        assert measured.value.code == "ledger-overloaded"
        ledger.gate.set()
        wait(again, 10)
    assert ledger.recorded == [fresh(number) for number in range(20)]


def test_the_time_to_wait_is_never_absurd() -> None:
    now = [0.0]
    ledger = FakeLedger()

    def append(records: Sequence[Record]) -> tuple[int, ...]:
        now[0] += 1e9
        return ledger.append(records)

    with Sequencer(append, limit=2, clock=lambda: now[0]) as sequencer:
        sequencer.submit([fresh(0)]).result(10)
        ledger.gate.clear()
        held = sequencer.submit([fresh(1), fresh(2)])
        with pytest.raises(OverloadedError) as refused:
            sequencer.submit([fresh(3)])
        assert refused.value.retry_after == MAX_RETRY_SECONDS
        ledger.gate.set()
        held.result(10)


def test_whoever_is_answered_may_submit_at_once_even_where_one_record_may_wait() -> None:
    with Sequencer(FakeLedger().append, limit=1) as sequencer:
        assert [sequencer.submit([fresh(number)]).result(10) for number in range(500)] == [
            (number,) for number in range(500)
        ]


def test_large_payloads_fill_the_queue_before_their_number_does() -> None:
    ledger = FakeLedger().held()
    large = payload.canonical({"claim": "x" * 65_000})
    with Sequencer(ledger.append, limit=1_000_000) as sequencer:
        with pytest.raises(OversizeError):
            sequencer.submit([Record(Kind.SIGN, large, bytes(32), bytes(32))] * 1100)
        futures = [sequencer.submit([Record(Kind.SIGN, large, bytes(32), bytes(32))] * 1000)]
        with pytest.raises(OverloadedError):
            sequencer.submit([Record(Kind.SIGN, large, bytes(32), bytes(32))] * 100)
        ledger.gate.set()
        wait(futures, 10)


def test_a_submission_that_could_never_wait_is_refused_for_good() -> None:
    with Sequencer(FakeLedger().append, limit=3) as sequencer, pytest.raises(OversizeError):
        sequencer.submit([fresh(number) for number in range(4)])


@pytest.mark.parametrize(
    ("content", "salt", "key"),
    [
        (b'{"claim": 1}', bytes(32), bytes(32)),
        (b'{"claim":1.5}', bytes(32), bytes(32)),
        (b"[]", bytes(32), bytes(32)),
        (b'{"claim":"' + b"x" * 70_000 + b'"}', bytes(32), bytes(32)),
        (b'{"claim":1}', bytes(31), bytes(32)),
        (b'{"claim":1}', bytes(32), bytes(33)),
    ],
)
def test_a_record_that_could_fail_its_neighbours_cannot_be_made(content, salt, key) -> None:
    with Sequencer(FakeLedger().append) as sequencer, pytest.raises(MalformedError):
        sequencer.submit([Record(Kind.SIGN, content, salt, key)])


def test_one_conflicting_record_fails_alone() -> None:
    ledger = FakeLedger(poison=fresh(13)).held()
    with Sequencer(ledger.append) as sequencer:
        futures = [sequencer.submit([fresh(number)]) for number in range(40)]
        ledger.gate.set()
        failed = [number for number, future in enumerate(futures) if future.exception(10) is not None]
        assert failed == [13]
        assert isinstance(futures[13].exception(), ConflictingRecordError)
        assert sorted(future.result()[0] for future in futures if not future.exception()) == list(range(39))
        assert len(ledger.batches) < 16  # found by halving, not one by one
        assert sequencer.submit([fresh(40)]).result(10) == (39,)


@pytest.mark.parametrize("fault", [DiskFullError("no room"), ClockError("ran back")])
def test_a_fault_of_the_ledger_is_told_to_all_and_nothing_is_acknowledged(fault) -> None:
    ledger = FakeLedger(fault).held()
    with Sequencer(ledger.append, limit=40) as sequencer:
        futures = [sequencer.submit([fresh(number)]) for number in range(40)]
        ledger.gate.set()
        assert [future.exception(10) for future in futures] == [fault] * 40
        assert len(ledger.batches) <= 2  # the ledger is not asked forty times
        ledger.fault = None
        assert sequencer.submit([fresh(number) for number in range(40)]).result(10) == tuple(range(40))


def test_closing_records_what_was_accepted_and_refuses_what_comes() -> None:
    ledger = FakeLedger().held()
    sequencer = Sequencer(ledger.append)
    futures = [sequencer.submit([fresh(number)]) for number in range(3000)]
    closing = threading.Thread(target=sequencer.close)
    closing.start()
    while sequencer.accepting:
        time.sleep(0.001)
    with pytest.raises(StoppedError):
        sequencer.submit([fresh(3000)])
    ledger.gate.set()
    closing.join(10)
    assert not closing.is_alive()
    assert [future.result(0) for future in futures] == [(number,) for number in range(3000)]
    sequencer.close()  # again, to no effect


@pytest.mark.parametrize(
    "broken", ["raises", "too few indices"], ids=["an unforeseen error", "fewer indices than records"]
)
def test_an_unforeseen_fault_is_seen_and_leaves_nobody_waiting(broken, monkeypatch) -> None:
    seen: list[type[BaseException]] = []
    monkeypatch.setattr(threading, "excepthook", lambda fault: seen.append(fault.exc_type))
    gate = threading.Event()

    def append(_records: Sequence[Record]) -> tuple[int, ...]:
        assert gate.wait(10)
        if broken == "raises":
            raise ZeroDivisionError
        return ()

    sequencer = Sequencer(append)
    futures = [sequencer.submit([fresh(number)]) for number in range(2000)]
    gate.set()
    assert {type(future.exception(10)) for future in futures} == {StoppedError}
    with pytest.raises(StoppedError):
        sequencer.submit([fresh(0)])
    assert not sequencer.accepting
    sequencer.close()
    assert seen == [ZeroDivisionError if broken == "raises" else RuntimeError]


def test_a_caller_who_loses_interest_changes_nothing() -> None:
    ledger = FakeLedger().held()
    with Sequencer(ledger.append) as sequencer:
        futures = [sequencer.submit([fresh(number)]) for number in range(10)]
        assert not any(future.cancel() for future in futures)
        ledger.gate.set()
        assert [future.result(10) for future in futures] == [(number,) for number in range(10)]
    assert len(ledger.recorded) == 10


def test_many_threads_get_dense_indices_and_a_true_answer(url, log, sealer) -> None:
    answers: dict[int, int] = {}
    with (
        Ledger.create(url, log.name, sealer) as ledger,
        Sequencer(lambda records: ledger.append(records, AT, log.sign), limit=64) as sequencer,
    ):
        refused = SimpleNamespace(count=0)

        def client(numbers: range) -> None:
            for number in numbers:
                while True:
                    try:
                        answers[number] = sequencer.submit([fresh(number)]).result(10)[0]
                        break
                    except OverloadedError:
                        refused.count += 1
                        time.sleep(0.001)

        threads = [threading.Thread(target=client, args=(range(at * 20, at * 20 + 20),)) for at in range(16)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
        assert sorted(answers.values()) == list(range(320))
        for number, index in answers.items():
            assert ledger.entry(index).commitment == fresh(number).commitment
