"""Have untrusted files read by processes that can die.

Each worker has two pipes of its own, so killing it harms nobody else. Items are pulled one
by one and handed out in small chunks; a worker answers in order, so when it dies the head of
its chunk is to blame and the rest is innocent. The blamed item is tried once more, alone, in
a fresh process; a second death is its answer.

Each worker is a fresh interpreter: it inherits no memory, no descriptor and almost no
environment, and starts in a third of the time of `multiprocessing`'s spawn. What workers
print is dropped, since it is written by whoever made the file.
"""

import collections
import contextlib
import enum
import itertools
import math
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Generator, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Generic, Self, TypeVar, cast

from tools.answers import RefusedAnswerError, parse
from tools.confine import Confinement, Limits
from tools.errors import WorkerDiedError, WorkerTimeoutError
from tools.worker import ANSWER, BROKEN, FRAME_LIMIT, LENGTH, OUT_OF_MEMORY_STATUS, RAISED, READY, frame

_START_SECONDS = 120.0
_START_ATTEMPTS = 3
_TICK_SECONDS = 1.0
_CHUNK_SECONDS = 0.1
_CHUNK_LIMIT = 32
_PIPE_PIECE = 1 << 16
_ENVIRONMENT = ("HOME", "LANG", "LD_LIBRARY_PATH", "PATH", "TMPDIR", "TZ")
_ENVIRONMENT_PREFIXES = ("LC_", "OMP_", "OPENCV_")

Item = TypeVar("Item")
Answer = TypeVar("Answer")


@dataclass(frozen=True, slots=True)
class Task(Generic[Item, Answer]):
    """What workers do: `start` names `module:function`, which takes `payload` and returns the callable.

    Answers may hold plain values, moments, enums and frozen slotted dataclasses from `answers`.
    """

    start: str
    payload: object = None
    answers: tuple[str, ...] = ("authn", "detector", "storage", "tools")


class Reason(enum.StrEnum):
    """Why an item has no answer."""

    CRASHED = "crashed"
    TIMED_OUT = "timed-out"
    OUT_OF_MEMORY = "out-of-memory"
    RAISED = "raised"
    ANSWER_REFUSED = "answer-refused"


@dataclass(frozen=True, slots=True)
class Answered(Generic[Item, Answer]):
    """An item and what the worker said about it."""

    item: Item
    answer: Answer


@dataclass(frozen=True, slots=True)
class Failed(Generic[Item]):
    """An item that no worker could answer."""

    item: Item
    reason: Reason
    detail: str


@dataclass(frozen=True, slots=True)
class Waiting:
    """Nothing was answered for a second; the caller may see to other things."""


@dataclass(frozen=True, slots=True)
class _Try(Generic[Item]):
    item: Item
    again: bool = False


@dataclass(slots=True, eq=False)
class _Worker(Generic[Item]):
    process: subprocess.Popen[bytes]
    orders: int
    answers: int
    deadline: float
    since: float
    ready: bool = False
    inbox: bytearray = field(default_factory=bytearray)
    outbox: bytearray = field(default_factory=bytearray)
    inflight: collections.deque[_Try[Item]] = field(default_factory=collections.deque)
    chunk: int = 1

    @property
    def waiting(self) -> bool:
        """Whether it has nothing to do."""
        return self.ready and not self.inflight

    @property
    def hungry(self) -> bool:
        """Whether more items can be handed out without the worker ever standing idle."""
        return (
            self.ready
            and len(self.inflight) <= self.chunk // 2
            and not (self.inflight and self.inflight[0].again)
        )


class Supervisor(Generic[Item, Answer]):
    """Workers for one task. Use it in a `with` block, from one thread at a time.

    The kernel ends a worker when the thread that started it ends; such a worker is replaced
    when it is next needed.
    """

    def __init__(self, task: Task[Item, Answer], workers: int, limits: Limits) -> None:
        self._task = task
        self._size = workers
        self._limits = limits
        self._workers: list[_Worker[Item]] = []
        self._source: Iterator[Item] = iter(())
        self._pulled: collections.deque[_Try[Item]] = collections.deque()
        self._blamed: collections.deque[_Try[Item]] = collections.deque()
        self._failed_starts = 0
        self.confinement: Confinement | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Kill and reap every worker."""
        while self._workers:
            self._reap(self._workers[-1])

    def pids(self) -> tuple[int, ...]:
        """The process ids of the workers that are now alive or not yet reaped."""
        return tuple(worker.process.pid for worker in self._workers)

    def run(self, items: Iterable[Item]) -> Iterator[Answered[Item, Answer] | Failed[Item]]:
        """Answer every item once, in the order in which answers arrive."""
        for outcome in self.watch(items):
            if not isinstance(outcome, Waiting):
                yield outcome

    def ask(self, item: Item) -> Answer:
        """Answer one item, or raise what kept the workers from it."""
        (outcome,) = self.run([item])
        match outcome:
            case Answered(_, answer):
                return answer
            case Failed(_, Reason.TIMED_OUT, detail):
                raise WorkerTimeoutError(f"reading it took too long ({detail})")
            case Failed(_, reason, detail):
                raise WorkerDiedError(f"reading it ended badly ({reason}: {detail})")

    def watch(self, items: Iterable[Item]) -> Generator[Answered[Item, Answer] | Failed[Item] | Waiting]:
        """As `run`, and say so at least once a second while nothing arrives."""
        self._source = iter(items)
        self._pulled.clear()
        self._blamed.clear()
        finished = False
        try:
            while True:
                # 1. Hear what has been said before judging who is late or dead.
                yield from self._hear()
                # 2. Kill what is over its deadline.
                now = time.monotonic()
                for worker in [w for w in self._workers if now > w.deadline]:
                    allowed = self._limits.seconds if worker.ready else _START_SECONDS
                    yield from self._bury(worker, Reason.TIMED_OUT, f"no answer within {allowed:g} s")
                # 3. Hand out, and start workers while there is work for them.
                self._hand_out()
                if not any(w.inflight for w in self._workers) and not self._has_work():
                    break
                # 4. Sleep until somebody speaks.
                if not self._sleep():
                    yield Waiting()
            finished = True
        finally:
            if not finished:  # what is in flight belongs to nobody now
                self.close()

    # --- Handing out

    def _has_work(self, count: int = 1) -> bool:
        """Whether so many items are waiting; pulls no more than that."""
        missing = count - len(self._pulled) - len(self._blamed)
        self._pulled.extend(_Try(item) for item in itertools.islice(self._source, max(0, missing)))
        return len(self._pulled) + len(self._blamed) >= count

    def _hand_out(self) -> None:
        for worker in self._workers:
            while worker.hungry and self._has_work():
                if not self._blamed:
                    self._give(worker, self._take(worker.chunk))
                elif worker.waiting:
                    self._give(worker, [self._blamed.popleft()])
                else:
                    break  # let it run dry: a blamed item is tried alone
        starting = sum(not worker.ready for worker in self._workers)
        while len(self._workers) < self._size and self._has_work(starting + 1):
            self._start()
            starting += 1

    def _take(self, count: int) -> list[_Try[Item]]:
        self._pulled.extend(
            _Try(item) for item in itertools.islice(self._source, max(0, count - len(self._pulled)))
        )
        return [self._pulled.popleft() for _ in range(min(count, len(self._pulled)))]

    def _give(self, worker: _Worker[Item], tries: list[_Try[Item]]) -> None:
        if worker.waiting:
            worker.since = time.monotonic()
            worker.deadline = worker.since + self._limits.seconds
        worker.inflight.extend(tries)
        worker.outbox += frame([each.item for each in tries])
        _push(worker)

    # --- Hearing

    def _hear(self) -> Iterator[Answered[Item, Answer] | Failed[Item]]:
        for worker in tuple(self._workers):
            try:
                while piece := _pull(worker):
                    worker.inbox += piece
                    for body in _frames(worker.inbox):
                        yield from self._understand(worker, *parse(body, self._task.answers))
            except BlockingIOError:
                continue
            except RefusedAnswerError as error:
                yield from self._bury(worker, Reason.ANSWER_REFUSED, str(error))
                continue
            yield from self._bury(worker, *_cause(self._reap(worker)))

    def _understand(
        self, worker: _Worker[Item], kind: str, content: object
    ) -> Iterator[Answered[Item, Answer] | Failed[Item]]:
        if kind == READY and not worker.ready:
            worker.ready, worker.deadline = True, math.inf
            self._failed_starts = 0
            self.confinement = Confinement(str(content))
        elif kind == BROKEN and not worker.ready:
            raise WorkerDiedError(f"the engine could not be loaded ({content})")
        elif kind in (ANSWER, RAISED) and worker.inflight:
            item = worker.inflight.popleft().item
            now = time.monotonic()
            worker.chunk = max(1, min(_CHUNK_LIMIT, int(_CHUNK_SECONDS / max(now - worker.since, 1e-6))))
            worker.since = now
            worker.deadline = now + self._limits.seconds if worker.inflight else math.inf
            if kind == ANSWER:
                yield Answered(item, cast("Answer", content))
            else:
                yield Failed(item, Reason.RAISED, str(content))
        else:
            raise RefusedAnswerError(f"a message out of turn: {kind}")

    def _sleep(self) -> bool:
        """Whether somebody spoke before a second, or the next deadline, had passed."""
        poll = select.poll()
        for worker in self._workers:
            poll.register(worker.answers, select.POLLIN)
            if worker.outbox:
                poll.register(worker.orders, select.POLLOUT)
        until = min(worker.deadline for worker in self._workers) - time.monotonic()
        spoke = poll.poll(1000 * max(0.0, min(_TICK_SECONDS, until)))
        for worker in self._workers:
            if worker.outbox:
                _push(worker)
        return bool(spoke)

    # --- Life and death

    def _start(self) -> None:
        path = [entry or os.getcwd() for entry in sys.path]  # noqa: PTH109 -- what '' means there
        program = f"import sys; sys.path[:] = {path!r}; from tools.worker import main; main({os.getpid()})"
        process = subprocess.Popen(  # noqa: S603 -- our own interpreter and program
            [sys.executable, "-I", "-X", f"utf8={sys.flags.utf8_mode}", "-c", program],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            bufsize=0,
            env=_environment(),
            start_new_session=True,  # an interrupt from the keyboard is for the parent alone
        )
        if process.stdin is None or process.stdout is None:
            raise WorkerDiedError("a worker was started without pipes")
        now = time.monotonic()
        worker: _Worker[Item] = _Worker(
            process, process.stdin.fileno(), process.stdout.fileno(), now + _START_SECONDS, now
        )
        self._workers.append(worker)
        os.set_blocking(worker.orders, False)
        os.set_blocking(worker.answers, False)
        worker.outbox += frame((self._task.start, self._task.payload, self._limits))
        _push(worker)

    def _bury(self, worker: _Worker[Item], reason: Reason, detail: str) -> Iterator[Failed[Item]]:
        """Settle whose fault the death was."""
        self._reap(worker)
        if not worker.ready:
            self._failed_starts += 1
            if self._failed_starts >= _START_ATTEMPTS:
                raise WorkerDiedError(f"a worker could not be started ({reason}: {detail})")
        if not worker.inflight:
            return
        blamed, *innocent = worker.inflight
        self._pulled.extendleft(reversed(innocent))
        # Who was too slow has had all the time there is; who died may have died of something else.
        if blamed.again or (worker.ready and reason is Reason.TIMED_OUT):
            yield Failed(blamed.item, reason, detail)
        else:
            self._blamed.append(_Try(blamed.item, again=True))

    def _reap(self, worker: _Worker[Item]) -> int:
        """Kill the worker and whatever it started, and leave nothing of it; returns its exit status."""
        if worker in self._workers:
            self._workers.remove(worker)
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(worker.process.pid, signal.SIGKILL)
            worker.process.wait()
            for pipe in (worker.process.stdin, worker.process.stdout):
                if pipe is not None:
                    pipe.close()
        return worker.process.returncode


def run_one(task: Task[Item, Answer], item: Item, limits: Limits) -> Answer:
    """Answer one item in a worker of its own, or raise what kept it from that."""
    with Supervisor(task, 1, limits) as supervisor:
        return supervisor.ask(item)


def _environment() -> dict[str, str]:
    """What a worker needs; passwords and the like stay behind."""
    return {
        name: value
        for name, value in os.environ.items()
        if name in _ENVIRONMENT or name.startswith(_ENVIRONMENT_PREFIXES)
    }


def _push(worker: _Worker[Item]) -> None:
    """Write what fits into the pipe; a worker that died is noticed where it is read."""
    try:
        while worker.outbox:
            del worker.outbox[: os.write(worker.orders, worker.outbox[:_PIPE_PIECE])]
    except BlockingIOError:
        return
    except BrokenPipeError:
        worker.outbox.clear()


def _pull(worker: _Worker[Item]) -> bytes:
    return os.read(worker.answers, _PIPE_PIECE)


def _frames(inbox: bytearray) -> Iterator[bytes]:
    """Take the complete frames out of `inbox`."""
    while len(inbox) >= LENGTH.size:
        (length,) = LENGTH.unpack_from(inbox)
        if length > FRAME_LIMIT:
            raise RefusedAnswerError(f"an answer of {length} bytes")
        end = LENGTH.size + length
        if len(inbox) < end:
            return
        body = bytes(inbox[LENGTH.size : end])
        del inbox[:end]
        yield body


def _cause(status: int) -> tuple[Reason, str]:
    """Why a process ended. A native library that finds no memory usually aborts, and reads as a crash."""
    if status == OUT_OF_MEMORY_STATUS:
        return Reason.OUT_OF_MEMORY, "over the memory limit"
    if status >= 0:
        return Reason.CRASHED, f"ended with status {status}"
    if -status == signal.SIGXCPU:
        return Reason.TIMED_OUT, "over the processor time limit"
    return Reason.CRASHED, f"killed by {signal.Signals(-status).name}"
