"""When the log may go on recording, whatever happens to the thread that has it cosigned."""

import threading
import time
from collections.abc import Callable, Sequence

import pytest

from authn.errors import KeyFileError
from storage.errors import LedgerBusyError
from storage.witness.client import RolledBackError, WitnessesMissingError
from tools.errors import HomeDamagedError
from tools.publisher import Publisher, PublisherEndedError

EVIDENCE = b"what a witness showed"


def rolled_back(evidence: bytes = EVIDENCE) -> Exception:
    return RolledBackError("A witness saw more.", 9, evidence)


class Rounds:
    """Does each thing in turn, and the last one for ever."""

    def __init__(self, rounds: Sequence[object]) -> None:
        self.rounds, self.done = rounds, 0

    def __call__(self, *_: object) -> object:
        what = self.rounds[min(self.done, len(self.rounds) - 1)]
        self.done += 1
        if isinstance(what, BaseException):
            raise what
        return what

    def reach(self, count: int) -> None:
        eventually(lambda: self.done >= count)


def eventually(holds: Callable[[], bool]) -> None:
    until = time.monotonic() + 10
    while not holds():
        assert time.monotonic() < until
        time.sleep(0.005)


def refused(publisher: Publisher) -> bool:
    try:
        publisher.require_sound()
    except RolledBackError:
        return True
    return False


@pytest.mark.parametrize(
    "fault",
    [
        HomeDamagedError("ledger.json cannot be read"),
        KeyFileError("the key cannot be read"),
        OSError(24, "Too many open files"),
        LedgerBusyError("busy"),
        WitnessesMissingError(()),
        rolled_back(b""),  # a claim, and nothing shown
    ],
)
def test_a_fault_ends_a_round_and_not_the_publisher(fault) -> None:
    cosign = Rounds([fault])
    with Publisher(cosign, lambda _note: True, 0.005) as publisher:
        cosign.reach(3)
        publisher.require_sound()


def test_a_doubt_stops_recording_until_it_is_decided() -> None:
    cosign, holds = Rounds([rolled_back(), None]), Rounds([LedgerBusyError("busy")] * 30 + [True])
    with Publisher(cosign, holds, 0.005) as publisher:
        eventually(lambda: refused(publisher))
        holds.reach(31)
        eventually(lambda: not refused(publisher))
        cosign.reach(3)


def test_what_the_ledger_holds_is_no_alarm() -> None:
    cosign = Rounds([rolled_back()])
    with Publisher(cosign, lambda note: note == EVIDENCE, 0.005) as publisher:
        for count in range(1, 20):
            cosign.reach(count)
            publisher.require_sound()


def test_proof_of_a_rollback_ends_recording_for_ever_with_a_new_error_each_time() -> None:
    with Publisher(
        Rounds([rolled_back(), None]), Rounds([LedgerBusyError("busy"), False]), 0.005
    ) as publisher:
        eventually(lambda: refused(publisher))
        time.sleep(0.05)
        raised = []
        for _ in range(3):
            with pytest.raises(RolledBackError) as error:
                publisher.require_sound()
            raised.append(error.value)
    assert len({id(each) for each in raised}) == 3
    assert {(str(each), each.size, each.evidence) for each in raised} == {
        ("A witness saw more.", 9, EVIDENCE)
    }
    depths = set()
    for each in raised:
        depth, trace = 0, each.__traceback__
        while trace is not None:
            depth, trace = depth + 1, trace.tb_next
        depths.add(depth)
    assert len(depths) == 1


def test_nothing_is_recorded_when_the_publisher_died(monkeypatch) -> None:
    seen: list[object] = []
    monkeypatch.setattr(threading, "excepthook", lambda fault: seen.append(fault.exc_type))
    with Publisher(Rounds([ZeroDivisionError()]), lambda _note: True, 0.005) as publisher:
        eventually(lambda: bool(seen))
        time.sleep(0.1)
        with pytest.raises(PublisherEndedError):
            publisher.require_sound()
    assert seen == [ZeroDivisionError]
