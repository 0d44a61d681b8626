"""A thread that has each newer checkpoint cosigned, until the block ends."""

import logging
import threading
from collections.abc import Callable
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


class Publisher:
    """Calls `cosign` again and again, and says when nothing may be recorded any more (I7).

    Proof that the log signed what this ledger does not hold (`holds`) is fatal. Where that cannot
    be decided now, nothing is recorded until it can. A claim alone stops nobody.
    """

    def __init__(
        self, cosign: Callable[[], object], holds: Callable[[bytes], bool], interval: float
    ) -> None:
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
        while not self._ended.wait(self._interval):
            if self._alarm is not None and not self._doubted(self._alarm):
                return
            try:
                self._cosign()
            except EmptyLedgerError:
                continue
            except RolledBackError as error:
                _log.warning("%s: %s", error.code, error)
                if error.evidence:
                    self._alarm = error
            except (storage.errors.Error, tools.errors.Error, authn.errors.Error) as error:
                _log.warning("%s: %s", error.code, error)
            except OSError as error:
                _log.warning("the system: %s", error)

    def _doubted(self, alarm: RolledBackError) -> bool:
        """Decide whether the alarm stands: false where it does for ever; taken back where the ledger holds it."""
        try:
            held = self._holds(alarm.evidence)
        except (storage.errors.Error, OSError) as error:
            _log.error("whether the ledger holds what a witness showed is not known yet: %s", error)
            return True
        if held:
            self._alarm = None
            return True
        _log.critical("%s: %s %s", alarm.code, alarm, alarm.remedy)
        return False
