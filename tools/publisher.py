"""A thread that has each newer checkpoint cosigned, until the block ends."""

import logging
import threading
from collections.abc import Callable
from enum import Enum, auto
from types import TracebackType
from typing import Self

import authn.errors
import storage.errors
import tools.errors
from storage.errors import EmptyLedgerError, LedgerError
from storage.witness.client import RolledBackError

_log = logging.getLogger(__name__)


class PublisherEndedError(LedgerError):
    """Nobody has checkpoints cosigned any more: a fault that nobody foresaw ended it."""

    code = "publisher-ended"
    remedy = "Start the service again, and report what it wrote to its log; until then nothing is recorded."


class _Judged(Enum):
    """Whether the ledger holds what a witness showed."""

    HELD = auto()
    PROVEN = auto()
    UNDECIDED = auto()


class Publisher:
    """Calls `cosign` again and again, and says when nothing may be recorded any more (I7).

    Proof that the log signed what this ledger does not hold (`holds`) is fatal. Where that cannot
    be decided now, nothing is recorded until it can. A claim alone stops nobody.
    """

    def __init__(self, cosign: Callable[[], object], holds: Callable[[bytes], bool], interval: float) -> None:
        self._cosign, self._holds, self._interval = cosign, holds, interval
        self._alarm: RolledBackError | None = None
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="publisher")

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        self._thread.join()

    def require_sound(self) -> None:
        """Raise, a new error each time, where nothing may be recorded."""
        alarm = self._alarm
        if alarm is not None:
            raise RolledBackError(str(alarm), alarm.size, alarm.evidence)
        if not self._thread.is_alive():
            raise PublisherEndedError("Checkpoints are not cosigned any more.")

    def _run(self) -> None:
        suspicion: RolledBackError | None = None
        while not self._ended.wait(self._interval):
            suspicion = suspicion or self._cosigned()
            if suspicion is None:
                continue
            match self._judged(suspicion):
                case _Judged.HELD:
                    self._alarm = suspicion = None
                case _Judged.UNDECIDED:
                    self._alarm = suspicion
                case _Judged.PROVEN:
                    self._alarm = suspicion
                    _log.critical("%s: %s %s", suspicion.code, suspicion, suspicion.remedy)
                    return

    def _cosigned(self) -> RolledBackError | None:
        """Have the newest checkpoint cosigned, and return what a witness showed against it."""
        try:
            self._cosign()
        except EmptyLedgerError:
            return None
        except RolledBackError as error:
            _log.warning("%s: %s", error.code, error)
            return error if error.evidence else None
        except (storage.errors.Error, tools.errors.Error, authn.errors.Error) as error:
            _log.warning("%s: %s", error.code, error)
        except OSError as error:
            _log.warning("the system: %s", error)
        return None

    def _judged(self, suspicion: RolledBackError) -> _Judged:
        try:
            return _Judged.HELD if self._holds(suspicion.evidence) else _Judged.PROVEN
        except (storage.errors.Error, OSError) as error:
            _log.error("whether the ledger holds what a witness showed is not known yet: %s", error)
            return _Judged.UNDECIDED
