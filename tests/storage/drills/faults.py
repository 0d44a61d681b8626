"""Let each system call of one append fail once, or be the last; the ledger must keep its word.

The calls are counted in a run without faults, from the moment when the records are made
and the ledger is open. Then, for each call, on a fresh copy: it answers EIO, or ENOSPC
where it asks for room, or the process is killed as it makes it. Afterwards the ledger is
audited, everything is submitted again, and the log must go on. With `--at backend` it is
the calls of PostgreSQL's own processes that fail. Needs strace.

    PYTHONPATH=. python tests/storage/drills/faults.py --engine sqlite

Prints one line of JSON, or the broken word and status 1.
"""

import argparse
import ctypes
import itertools
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import subject

from storage.errors import Error, LedgerUnreachableError
from tools import postgres

BASE = [f"base.{number}" for number in range(250)]
NEW = [f"new.{number}" for number in range(10)]
"""Ten records on 250: a tile is completed as well."""
ASK_FOR_ROOM = frozenset(
    {"write", "pwrite64", "pwritev", "writev", "ftruncate", "fallocate", "fsync", "fdatasync"}
)
HUNG = 124
"""The status of a process that was killed because it did not end, as timeout(1) has it."""

_PATIENCE = 3.0
_STARTING = 60.0
_CALL = re.compile(r"^(\d+) +(\w+)\(")
_PR_SET_PTRACER = 0x59616D61  # prctl(2): let any process trace us, where Yama would not


@dataclass(frozen=True)
class Fault:
    """What happens to the n-th of one kind of system call."""

    call: str
    number: int
    happens: str

    def __str__(self) -> str:
        return f"{self.call}:{self.happens}:when={self.number}"


@dataclass(frozen=True)
class Place:
    """Where fresh ledgers come from, and whose calls fail."""

    fresh: Callable[[], subject.Subject]
    victims: Callable[[str, int], list[int]]


@dataclass(frozen=True)
class Outcome:
    """What the process under fault said before it ended."""

    answered: dict[str, int]
    refused: tuple[str, ...]
    raised: tuple[str, ...]
    status: int


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--engine", choices=["sqlite", "postgres"], default="sqlite")
    parser.add_argument("--at", choices=["client", "backend"], default="client")
    parser.add_argument("--every", type=int, default=1, help="take only every n-th fault")
    parser.add_argument("--seconds", type=float, default=float("inf"))
    arguments = parser.parse_args()
    if arguments.at == "backend" and arguments.engine == "sqlite":
        parser.error("SQLite has no process of its own.")
    began = time.monotonic()
    with place(arguments.engine, arguments.at) as where:
        try:
            result = drill(where, arguments.every, began + arguments.seconds)
        except subject.LostError as error:
            sys.exit(str(error))
    subject.report(began, drill="faults", engine=arguments.engine, at=arguments.at, **result)


def drill(where: Place, every: int, until: float) -> dict[str, object]:
    """Count the calls, let each fail, and see what is left each time."""
    calls = counted(where)
    faults = list(planned(calls))
    random.Random(7).shuffle(faults)  # noqa: S311 - so that every n-th is of every kind
    ended: Counter[str] = Counter()
    unnamed: dict[str, str] = {}
    runs = 0
    for fault in faults[::every]:
        if time.monotonic() > until:
            break
        drilled = where.fresh()
        outcome = attempt(where, drilled, ["-e", f"trace={fault.call}", "-e", f"inject={fault}"], os.devnull)
        settle(drilled)
        unanswered = [claim for claim in (*NEW, f"after.{runs}") if claim not in outcome.answered]
        try:
            drilled.require(dict(zip(BASE, range(len(BASE)), strict=True)) | outcome.answered, unanswered)
        except (subject.LostError, Error) as error:
            raise subject.LostError(f"After {fault} ({outcome}): {error}") from error
        ended.update(summary(outcome))
        if outcome.raised or outcome.status == HUNG:
            unnamed[str(fault)] = ", ".join(outcome.raised) or "hung"
        runs += 1
    return {
        "calls": sum(calls.values()),
        "kinds": len(calls),
        "faults": len(faults),
        "runs": runs,
        "ended": dict(sorted(ended.items())),
        "unnamed": unnamed,
    }


def summary(outcome: Outcome) -> Iterator[str]:
    """Say in a word or two how a run ended."""
    yield from (f"refused {code}" for code in outcome.refused)
    yield from (f"raised {name}" for name in outcome.raised)
    if outcome.answered:
        yield "answered after it was refused" if outcome.refused else "answered"
    if outcome.status:
        yield {-signal.SIGKILL: "killed", HUNG: "hung"}.get(outcome.status, f"status {outcome.status}")


def counted(where: Place) -> Counter[str]:
    """Return how often an append without faults makes each system call."""
    with tempfile.NamedTemporaryFile("r", suffix=".strace") as trace:
        outcome = attempt(where, where.fresh(), [], trace.name)
        if len(outcome.answered) != len(NEW) or outcome.status:
            raise subject.LostError(f"Without a fault, an append ended so: {outcome}.")
        made = Counter((found[2], found[1]) for line in trace if (found := _CALL.match(line)))
    calls: Counter[str] = Counter()
    for (call, _process), count in made.items():  # strace counts in each process for itself
        calls[call] = max(calls[call], count)
    return calls


def planned(calls: Counter[str]) -> Iterator[Fault]:
    for call, count in sorted(calls.items()):
        for number in range(1, count + 1):
            yield Fault(call, number, "error=EIO")
            if call in ASK_FOR_ROOM:
                yield Fault(call, number, "error=ENOSPC")
            yield Fault(call, number, "signal=KILL")


def attempt(where: Place, drilled: subject.Subject, strace: list[str], trace: str) -> Outcome:
    """Append in a process of its own, with strace at the victims, and return what it said."""
    from_child, to_parent = os.pipe()
    from_parent, to_child = os.pipe()
    child = os.fork()  # everything is imported already: a fault costs no start of Python
    if child == 0:
        os.close(from_child)
        os.close(to_child)
        append(drilled, from_parent, to_parent)
    os.close(to_parent)
    os.close(from_parent)
    with os.fdopen(from_child, "rb") as said:
        if said.readline() != b"ready\n":
            raise subject.LostError("The appending process did not begin.")
        victims = where.victims(drilled.url, child)
        attached = [option for victim in victims for option in ("-p", str(victim))]
        tracer = subprocess.Popen(
            ["strace", "-f", "-o", trace, *attached, *strace], stderr=subprocess.PIPE, text=True
        )
        assert tracer.stderr is not None
        for _ in victims:
            line = tracer.stderr.readline()
            if "attached" not in line:
                raise subject.LostError(f"strace may not trace: {line}")
        os.write(to_child, b"\n")
        os.close(to_child)
        status = ended(child)
        try:
            tracer.wait(timeout=_PATIENCE)
        except subprocess.TimeoutExpired:
            tracer.terminate()
            tracer.wait()
        tracer.stderr.close()
        return heard(said.read().decode("ascii"), status)


def append(drilled: subject.Subject, from_parent: int, to_parent: int) -> None:
    """Be the process under fault: append, ask for the checkpoint, close; try again when refused."""

    def say(line: str) -> None:
        os.write(to_parent, f"{line}\n".encode("ascii"))

    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # libraries tell there of what we count here
    try:
        ctypes.CDLL(None).prctl(_PR_SET_PTRACER, ctypes.c_ulong(-1), 0, 0, 0)
        records, at = [subject.record(claim) for claim in NEW], subject.now()
        ledger = drilled.reopen()
        say("ready")
        os.read(from_parent, 1)
        for _ in range(2):
            try:
                indices = ledger.append(records, at, subject.sign)
                say(subject.acknowledgement(indices, NEW).rstrip("\n"))
                ledger.checkpoint()
                break
            except Error as error:
                say(f"refused {error.code}")
        ledger.close()
    except BaseException as error:  # noqa: BLE001 - whatever it was, it is to be counted
        say(f"raised {type(error).__name__}")
        os._exit(1)
    os._exit(0)


def ended(child: int) -> int:
    """Wait for the process to end; one that hangs is killed, as its operator would."""
    deadline = time.monotonic() + _PATIENCE
    while time.monotonic() < deadline:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.002)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return HUNG


def heard(said: str, status: int) -> Outcome:
    answered: dict[str, int] = {}
    told: dict[str, list[str]] = {"refused": [], "raised": []}
    for line in said.splitlines():
        first, second = line.split()
        if first in told:
            told[first].append(second)
        else:
            answered[second] = int(first)
    return Outcome(answered, tuple(told["refused"]), tuple(told["raised"]), status)


def settle(drilled: subject.Subject) -> None:
    """Wait until the database answers: PostgreSQL restarts by itself when one of its own dies."""
    deadline = time.monotonic() + _STARTING
    while True:
        try:
            drilled.reopen().close()
        except LedgerUnreachableError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.02)
        else:
            return


@contextmanager
def place(engine: str, at: str) -> Iterator[Place]:
    """Make a base of 250 entries, and hand out copies of it."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="drill-")))
        if engine == "sqlite":
            base, run = folder / "base", folder / "run"
            base.mkdir()
            _fill(subject.Subject(f"sqlite:///{base}/ledger.db", base))

            def copied() -> subject.Subject:
                shutil.rmtree(run, ignore_errors=True)
                shutil.copytree(base, run)
                return subject.Subject(f"sqlite:///{run}/ledger.db", run)

            yield Place(copied, lambda _url, child: [child])
            return
        server = stack.enter_context(postgres.running(folder / "postgres"))
        numbers = itertools.count()

        def filled() -> subject.Subject:
            name = f"run{next(numbers)}"
            (folder / name).mkdir()
            return _fill(subject.Subject(server.create(name), folder / name))

        yield Place(filled, _backends if at == "backend" else lambda _url, child: [child])


def _fill(drilled: subject.Subject) -> subject.Subject:
    with drilled.create() as ledger:
        for start in range(0, len(BASE), 125):
            claims = BASE[start : start + 125]
            ledger.append([subject.record(claim) for claim in claims], subject.now(), subject.sign)
    return drilled


def _backends(url: str, _child: int) -> list[int]:
    """Find the server's processes that serve a database, by the titles they give themselves."""
    name = url.partition("///")[2].partition("?")[0]
    processes = (entry for entry in Path("/proc").iterdir() if entry.name.isdigit())
    found = [int(process.name) for process in processes if f" {name} " in _title(process)]
    if not found:
        raise subject.LostError(f"No process of the server serves {name}.")
    return found


def _title(process: Path) -> str:
    try:
        title = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode("utf-8", errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return ""
    return title if title.startswith("postgres:") else ""


if __name__ == "__main__":
    main()
