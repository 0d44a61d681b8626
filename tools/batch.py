"""Answer every file under some paths exactly once, however often we are stopped.

The walk feeds the supervisor, the supervisor's answers become rows, and this process alone
writes them. What is already in the results is not done again, so the same command run again
goes on where it was stopped.
"""

import contextlib
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from types import FrameType
from typing import TypeVar

from tools.results import Results, Row, Run
from tools.supervisor import Answered, Failed, Reason, Supervisor, Waiting
from tools.walk import Skip, Skipped, walk

_SYNC_SECONDS = 1.0

Answer = TypeVar("Answer")


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a run is, rows of earlier times included; `left` is in seconds, and a guess."""

    done: int
    total: int | None
    rate: float
    left: float | None
    counts: Mapping[str, int]
    failed: int


@dataclass(frozen=True, slots=True)
class Watch:
    """Who is told of progress, how many seconds apart, and how many files there will be, where known."""

    tell: Callable[[Progress], None]
    seconds: float
    total: int | None = None


@dataclass(frozen=True, slots=True)
class Summary:
    """What a run came to: `total` rows, of which `earlier` were there before and `now` were added.

    `failed` of them are files without an answer of their own. When `interrupted`, files may be missing.
    """

    total: int
    earlier: int
    now: int
    counts: Mapping[str, int]
    failed: int
    seconds: float
    interrupted: bool


def run_batch(
    paths: Iterable[str],
    run: Run,
    supervisor: Supervisor[str, Answer],
    finish: Callable[[str, Answer], Row],
    failed_row: Callable[[str, Reason | Skip, str], Row],
    watch: Watch,
) -> Summary:
    """Give each file under `paths` its row in `run.results`.

    `finish` makes the row of an answer, here in this process; `failed_row` makes that of a
    file which has none, from the reason and a detail.
    """
    began = time.monotonic()
    with Results(run) as results, _interruptible() as interrupted:
        earlier = len(results)
        wanted = _wanted(walk(paths, run.own_paths), results, failed_row, interrupted)
        told = synced = began
        with contextlib.ExitStack() as at_the_end:
            at_the_end.callback(results.sync)
            outcomes = at_the_end.enter_context(contextlib.closing(supervisor.watch(wanted)))
            for outcome in outcomes:
                match outcome:
                    case Answered(path, answer):
                        results.append(path, None, finish(path, answer))
                    case Failed(path, reason, detail):
                        results.append(path, reason, failed_row(path, reason, detail))
                    case Waiting():
                        pass
                now = time.monotonic()
                if now - synced >= _SYNC_SECONDS:
                    results.sync()
                    synced = now
                if now - told >= watch.seconds:
                    watch.tell(_progress(results, earlier, now - began, watch.total))
                    told = now
        seconds = time.monotonic() - began
        watch.tell(_progress(results, earlier, seconds, watch.total))
        return Summary(
            len(results),
            earlier,
            len(results) - earlier,
            dict(results.counts),
            results.failed,
            seconds,
            interrupted.is_set(),
        )


def progress_line(name: str, progress: Progress) -> str:
    """One line for a person; headline codes are written as words."""
    done = f"{progress.done:,}".replace(",", " ")
    if progress.total:
        total = f"{progress.total:,}".replace(",", " ")
        done += f" / {total}  {min(100, 100 * progress.done // progress.total)} %"
    pace = f"{progress.rate:.0f}/s" if progress.rate >= 10 else f"{progress.rate:.1f}/s"
    if progress.left is not None:
        pace += f" · {_duration(progress.left)} left"
    most = sorted(progress.counts.items(), key=lambda each: (-each[1], each[0]))
    counts = [f"{code.lower().replace('_', ' ')} {number:,}".replace(",", " ") for code, number in most]
    failed = [f"not processed {progress.failed}"] if progress.failed else []
    return f"{name}  {done} · {pace}   {' · '.join(counts + failed)}".rstrip()


def _duration(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.0f} s"
    if seconds < 6000:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.0f} h"


def _wanted(
    found: Iterable[str | Skipped],
    results: Results,
    failed_row: Callable[[str, Reason | Skip, str], Row],
    interrupted: threading.Event,
) -> Iterator[str]:
    """The files that want an answer, until we are interrupted; what cannot be opened gets its row here."""
    for each in found:
        if interrupted.is_set():
            return
        if isinstance(each, str):
            if results.claim(each):
                yield each
        elif results.claim(each.path):
            results.append(each.path, each.reason, failed_row(each.path, each.reason, each.detail))


def _progress(results: Results, earlier: int, seconds: float, total: int | None) -> Progress:
    rate = (len(results) - earlier) / seconds if seconds > 0 else 0.0
    left = max(0, total - len(results)) / rate if total is not None and rate > 0 else None
    return Progress(len(results), total, rate, left, dict(results.counts), results.failed)


@contextlib.contextmanager
def _interruptible() -> Iterator[threading.Event]:
    """Let the first interrupt finish what is in flight; the second one acts as it always did."""
    interrupted = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield interrupted
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    def first(_number: int, _frame: FrameType | None) -> None:
        interrupted.set()
        restore()

    try:
        for number in before:
            signal.signal(number, first)
        yield interrupted
    finally:
        restore()
