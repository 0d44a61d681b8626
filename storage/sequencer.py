"""Group commit: many callers, one thread that records all that is waiting in one transaction.

The batch adapts by itself: while one is made durable, the next one gathers. Nothing is
acknowledged that `append` did not return an index for. This queue is memory only:
what was accepted and not answered when the process dies may or may not be recorded, and
submitting it again finds its index.
"""

import math
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

from storage.errors import ClockError, Error, LedgerError
from storage.record import Record

MAX_BATCH = 1024
MAX_OUTSTANDING_BYTES = 64 << 20
MAX_RETRY_SECONDS = 60


class OverloadedError(LedgerError):
    """More is waiting to be recorded than may wait; nothing of this submission was accepted."""

    code = "ledger-overloaded"
    remedy = "Submit it again after the time given."

    def __init__(self, message: str, retry_after: int) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class OversizeError(LedgerError):
    """A submission that is larger than all that may wait, and so would never be accepted."""

    code = "submission-too-large"
    remedy = "Submit fewer records at once."


class StoppedError(LedgerError):
    """Nobody records any more: the sequencer was closed, or an unforeseen fault ended it."""

    code = "sequencer-stopped"
    remedy = "Start the service again and submit again; what was recorded already keeps its index."


@dataclass(frozen=True, slots=True)
class _Submission:
    records: tuple[Record, ...]
    size: int
    future: Future[tuple[int, ...]] = field(default_factory=Future)


class Sequencer:
    """One thread that takes all that is queued, calls `append` once, and answers every caller.

    `append` records all it is given, durably, or raises. `limit` bounds the records that
    are accepted and not answered. Usable as a context manager.
    """

    def __init__(
        self,
        append: Callable[[Sequence[Record]], tuple[int, ...]],
        limit: int = 4096,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._append = append
        self._limit = limit
        self._clock = clock
        self._changed = threading.Condition()
        self._accepting = True
        self._waiting: deque[_Submission] = deque()
        self._taken: list[_Submission] = []
        self._records = 0
        self._bytes = 0
        self._rate = 0.0
        self._thread = threading.Thread(target=self._run, name="sequencer", daemon=True)
        self._thread.start()

    @property
    def accepting(self) -> bool:
        """Whether submissions are taken; false for ever after `close` or an unforeseen fault."""
        return self._accepting

    def require_room(self) -> None:
        """Raise what `submit` would raise for one small record now; takes no room."""
        with self._changed:
            self._require_room(1, 0)

    def submit(self, records: Sequence[Record]) -> Future[tuple[int, ...]]:
        """Queue `records` for one transaction; the future gives their indices once they are durable.

        A `Record` that exists is well-formed, so none can fail its neighbours by its form. The
        future cannot be cancelled: what is accepted is recorded.
        """
        submission = _Submission(tuple(records), sum(len(record.payload) for record in records))
        submission.future.set_running_or_notify_cancel()
        if len(records) > self._limit or submission.size > MAX_OUTSTANDING_BYTES:
            raise OversizeError(f"{len(records)} records at once are more than may ever wait.")
        with self._changed:
            self._require_room(len(records), submission.size)
            self._records += len(records)
            self._bytes += submission.size
            self._waiting.append(submission)
            self._changed.notify()
        return submission.future

    def close(self) -> None:
        """Refuse what comes from now on, and return when all that was accepted is answered."""
        with self._changed:
            self._accepting = False
            self._changed.notify()
        self._thread.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _require_room(self, count: int, size: int) -> None:
        if not self._accepting:
            raise StoppedError("The sequencer no longer records.")
        if self._records + count > self._limit or self._bytes + size > MAX_OUTSTANDING_BYTES:
            raise OverloadedError(
                f"{self._records} records are waiting to be recorded.", self._seconds_to_drain()
            )

    def _seconds_to_drain(self) -> int:
        if not self._rate:
            return 1
        return min(max(1, math.ceil(self._records / self._rate)), MAX_RETRY_SECONDS)

    def _run(self) -> None:
        try:
            while self._take():
                self._record(self._taken)
                self._taken.clear()
        finally:
            # After `close` nothing is left. After a fault that nobody foresaw, whose traceback
            # `threading.excepthook` prints, no caller may wait for ever.
            with self._changed:
                self._accepting = False
                left = [*self._taken, *self._waiting]
                self._waiting.clear()
            for submission in left:
                if not submission.future.done():
                    submission.future.set_exception(
                        StoppedError("The sequencer ended; whether this was recorded is not known.")
                    )

    def _take(self) -> bool:
        """Take whole submissions, oldest first; false where none is left and none will come."""
        with self._changed:
            while not self._waiting and self._accepting:
                self._changed.wait()
            count = 0
            while self._waiting and (not count or count + len(self._waiting[0].records) <= MAX_BATCH):
                self._taken.append(self._waiting.popleft())
                count += len(self._taken[-1].records)
            return bool(self._taken)

    def _record(self, batch: Sequence[_Submission]) -> None:
        began = self._clock()
        try:
            indices = iter(self._append([record for submission in batch for record in submission.records]))
        except Error as error:
            # The batch was not recorded. Where one record is at fault, and not the ledger, find which.
            if len(batch) > 1 and not isinstance(error, LedgerError | ClockError):
                self._record(batch[: len(batch) // 2])
                self._record(batch[len(batch) // 2 :])
                return
            self._make_room(batch)
            for submission in batch:
                submission.future.set_exception(error)
            return
        # Durable. Room is made first: whoever is answered may submit the next one at once.
        self._learn(self._make_room(batch), self._clock() - began)
        for submission in batch:
            submission.future.set_result(tuple(next(indices) for _ in submission.records))

    def _make_room(self, batch: Sequence[_Submission]) -> int:
        count = sum(len(submission.records) for submission in batch)
        with self._changed:
            self._records -= count
            self._bytes -= sum(submission.size for submission in batch)
        return count

    def _learn(self, count: int, seconds: float) -> None:
        """Follow the rate at which records become durable; a bad moment is forgotten in some ten batches."""
        if seconds > 0:
            measured = count / seconds
            self._rate = measured if not self._rate else 0.8 * self._rate + 0.2 * measured
