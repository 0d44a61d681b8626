"""Untrusted items meet real processes that die, hang and swell; nobody else is harmed."""

import itertools
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tools.confine import Confinement, Limits
from tools.errors import WorkerDiedError, WorkerTimeoutError
from tools.supervisor import Answered, Failed, Reason, Supervisor, Task, run_one

ENGINE = """
import ctypes, os, resource, signal, socket, subprocess, sys, threading, time
from dataclasses import dataclass

def start(payload):
    def run(item):
        if item == "segfault":
            os.kill(os.getpid(), signal.SIGSEGV)
        if item == "abort":
            os.abort()
        if item == "hang":
            time.sleep(3600)
        if item == "hang with the interpreter's lock":
            ctypes.PyDLL(None).sleep(3600)
        if item == "spin":
            while True:
                pass
        if item == "hog":
            return len(bytearray(8 << 30))
        if item == "raise":
            raise LookupError("no such thing")
        if item == "exit":
            os._exit(3)
        if item == "leave":
            sys.exit(3)
        if item == "print":
            print("x" * 100_000, flush=True)
            os.write(1, b"y" * 100_000)
            os.write(2, b"z" * 100_000)
        if item == "half an answer":
            for number in range(3, 64):
                try:
                    os.write(number, b"\\0" * 7 + b"\\x40abc")
                except OSError:
                    pass
            time.sleep(3600)
        if item == "forged":
            return Forged()
        if item == "big":
            return b"b" * (1 << 20)
        return f"{payload}{item}"
    return run

class Forged:
    def __reduce__(self):
        return eval, ("__import__('os')._exit(9)",)

def broken(payload):
    raise OSError("no trust list at all")

def dying(payload):
    os.kill(os.getpid(), signal.SIGKILL)

def facts(payload):
    def run(item):
        if item == "pid":
            return os.getpid()
        if item == "environment":
            return dict(os.environ)
        if item == "descriptors":
            return len(os.listdir("/proc/self/fd")) - 1
        if item == "interrupt":
            os.kill(os.getpid(), signal.SIGINT)
            return "still here"
        if item == "new privileges":
            return ctypes.CDLL(None).prctl(39, 0, 0, 0, 0)
        if item == "core":
            return resource.getrlimit(resource.RLIMIT_CORE)
        if item == "grandchild":
            return subprocess.Popen(["sleep", "3600"]).pid
        if item.startswith("write "):
            try:
                with open(item[6:], "w") as file:
                    file.write("x")
            except OSError as error:
                return error.errno
            return "written"
        if item.startswith("connect "):
            try:
                socket.create_connection(("127.0.0.1", int(item[8:])), 2).close()
            except OSError as error:
                return type(error).__name__
            return "connected"
    return run
"""
QUICK = Limits(seconds=1.0, memory=2 << 30)


@pytest.fixture(autouse=True)
def engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "supervised_engine.py").write_text(ENGINE)
    monkeypatch.syspath_prepend(str(tmp_path))


def task(function: str = "start", payload: object = "seen ") -> Task[str, object]:
    return Task(f"supervised_engine:{function}", payload)


def alive(pid: int) -> bool:
    """Whether the process runs; a zombie does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def descriptors() -> list[str]:
    return sorted(entry.name for entry in Path("/proc/self/fd").iterdir())


def wait_until_dead(pids: list[int]) -> list[int]:
    """Those that are still alive after ten seconds."""
    end = time.monotonic() + 10
    while (left := [pid for pid in pids if alive(pid)]) and time.monotonic() < end:
        time.sleep(0.02)
    return left


@pytest.mark.parametrize(
    ("bad", "reason", "word"),
    [
        ("segfault", Reason.CRASHED, "SIGSEGV"),
        ("abort", Reason.CRASHED, "SIGABRT"),
        ("exit", Reason.CRASHED, "status 3"),
        ("hang", Reason.TIMED_OUT, "1 s"),
        ("hang with the interpreter's lock", Reason.TIMED_OUT, "1 s"),
        ("half an answer", Reason.TIMED_OUT, "1 s"),
        ("hog", Reason.OUT_OF_MEMORY, "memory"),
        ("raise", Reason.RAISED, "LookupError: no such thing"),
        ("leave", Reason.RAISED, "SystemExit: 3"),
        ("forged", Reason.ANSWER_REFUSED, "eval"),
    ],
)
def test_a_bad_item_is_named_and_all_others_are_answered(bad: str, reason: Reason, word: str) -> None:
    good = [f"{number}.jpg" for number in range(40)]
    with Supervisor(task(), 2, QUICK) as supervisor:
        outcomes = list(supervisor.run([*good[:25], bad, *good[25:]]))
    failed = [each for each in outcomes if isinstance(each, Failed)]
    assert [(each.item, each.reason) for each in failed] == [(bad, reason)]
    assert word in failed[0].detail
    answered = [(each.item, each.answer) for each in outcomes if isinstance(each, Answered)]
    assert sorted(answered) == sorted((name, f"seen {name}") for name in good)


def test_nothing_but_bad_items_still_comes_to_an_end() -> None:
    with Supervisor(task(), 2, QUICK) as supervisor:
        outcomes = list(supervisor.run(["segfault"] * 5))
    assert [each.reason for each in outcomes if isinstance(each, Failed)] == [Reason.CRASHED] * 5


def test_processor_time_ends_an_item_even_when_nobody_watches() -> None:
    with Supervisor(task(), 1, Limits(seconds=60, memory=2 << 30, cpu_seconds=1)) as supervisor:
        (outcome,) = supervisor.run(["spin"])
    assert isinstance(outcome, Failed)
    assert (outcome.reason, "processor" in outcome.detail) == (Reason.TIMED_OUT, True)


@pytest.mark.parametrize("moment", [0, 20, 100, 390])
def test_a_worker_killed_from_outside_costs_no_answer(moment: int) -> None:
    items = [str(number) for number in range(400)]
    answered: list[str] = []
    with Supervisor(task(), 2, QUICK) as supervisor:
        for number, outcome in enumerate(supervisor.run(items)):
            assert isinstance(outcome, Answered)
            answered.append(outcome.item)
            if number == moment:
                os.kill(supervisor.pids()[0], signal.SIGKILL)
    assert sorted(answered) == sorted(items)


def test_items_are_pulled_as_they_are_needed() -> None:
    pulled = 0

    def endless() -> Iterator[str]:
        nonlocal pulled
        for pulled in itertools.count(1):
            yield str(pulled)

    with Supervisor(task(), 2, QUICK) as supervisor:
        outcomes = supervisor.run(endless())
        seen = [next(outcomes) for _ in range(1000)]
        assert len({each.item for each in seen}) == 1000
        assert pulled < 1000 + 2 * 2 * 32 + 2


def test_a_slow_consumer_does_not_make_an_item_late() -> None:
    with Supervisor(task(), 1, Limits(seconds=0.3, memory=2 << 30)) as supervisor:
        for number, outcome in enumerate(supervisor.run([str(each) for each in range(80)])):
            assert isinstance(outcome, Answered)
            if number % 20 == 0:
                time.sleep(0.5)


def test_large_items_and_answers_pass_the_pipes() -> None:
    with Supervisor(task(), 1, Limits(seconds=20, memory=2 << 30)) as supervisor:
        big = "x" * (3 << 20)
        assert supervisor.ask(big) == f"seen {big}"
        assert supervisor.ask("big") == b"b" * (1 << 20)


def test_what_a_worker_prints_goes_nowhere(capfd: pytest.CaptureFixture[str]) -> None:
    assert run_one(task(), "print", QUICK) == "seen print"
    assert tuple(capfd.readouterr()) == ("", "")


def test_nothing_is_left_behind() -> None:
    before = descriptors()
    pids: set[int] = set()
    with Supervisor(task(), 2, QUICK) as supervisor:
        for _ in supervisor.run(["a", "b", "segfault", "c", "hang", "d"]):
            pids.update(supervisor.pids())
    outcomes = (supervisor := Supervisor(task(), 2, QUICK)).run(["a", "hang"])
    next(outcomes)
    pids.update(supervisor.pids())
    outcomes.close()
    supervisor.close()
    assert descriptors() == before
    assert len(pids) > 2
    for pid in pids:  # reaped, too: a signal can be sent to a zombie
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


def test_what_a_worker_started_dies_with_it() -> None:
    child = run_one(task("facts"), "grandchild", QUICK)
    assert isinstance(child, int)
    assert wait_until_dead([child]) == []


def test_one_item_raises_what_went_wrong() -> None:
    with pytest.raises(WorkerDiedError, match="SIGSEGV"):
        run_one(task(), "segfault", QUICK)
    with pytest.raises(WorkerTimeoutError, match="1 s"):
        run_one(task(), "hang", QUICK)
    with pytest.raises(WorkerDiedError, match="no such thing"):
        run_one(task(), "raise", QUICK)


@pytest.mark.parametrize(
    ("function", "word"),
    [("broken", "no trust list at all"), ("dying", "SIGKILL"), ("missing", "missing")],
)
def test_an_engine_that_cannot_start_is_an_error_and_no_answer(function: str, word: str) -> None:
    with pytest.raises(WorkerDiedError, match=word):
        run_one(task(function), "a", QUICK)


def test_a_worker_cannot_reach_the_network(socket_enabled: None) -> None:  # noqa: ARG001
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        with Supervisor(task("facts"), 1, QUICK) as supervisor:
            refusal = supervisor.ask(f"connect {port}")
            assert refusal != "connected"
            if supervisor.confinement is Confinement.PYTHON_ONLY:
                assert refusal == "PermissionError"
        listener.setblocking(False)  # noqa: FBT003
        with pytest.raises(BlockingIOError):
            listener.accept()
        with socket.create_connection(("127.0.0.1", port), 5):  # we can, so the worker was refused
            listener.accept()[0].close()


def test_the_weaker_confinement_refuses_in_python() -> None:
    program = """
import errno, socket, sys, tools.confine
class Forbidden:
    def unshare(self, flags): return -1
tools.confine.ctypes.CDLL = lambda *a, **k: Forbidden()
print(tools.confine.leave_network())
for attempt in (lambda s: s.connect(("127.0.0.1", 9)), lambda s: s.bind(("127.0.0.1", 0)),
                lambda s: socket.getaddrinfo("localhost", 1)):
    with socket.socket() as s:
        try: attempt(s)
        except PermissionError as e: print(e)
"""
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=root, capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines() == ["python-only", *["a worker may not use the network"] * 3]


def test_a_worker_has_little_to_misuse(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("DATABASE_PASSWORD", "secret")
    with Supervisor(task("facts"), 1, QUICK) as supervisor:
        environment = supervisor.ask("environment")
        assert isinstance(environment, dict)
        assert "PATH" in environment
        assert "DATABASE_PASSWORD" not in environment
        assert supervisor.ask("descriptors") == 5  # three standard ones and its two pipes
        assert supervisor.ask("new privileges") == 1
        assert supervisor.ask("core") == (0, 0)
        assert supervisor.ask("interrupt") == "still here"
        assert supervisor.ask(f"write {tmp_path / 'file'}") != "written"
        assert len({supervisor.ask("pid") for _ in range(3)}) == 1


def test_no_worker_outlives_a_killed_parent() -> None:
    program = """
import sys
from tools.confine import Limits
from tools.supervisor import Supervisor, Task
with Supervisor(Task("supervised_engine:start", ""), 2, Limits(600, 2 << 30)) as supervisor:
    for _ in supervisor.run(["a", "b", "hang", "hang with the interpreter's lock"]):
        print(*supervisor.pids(), flush=True)
"""
    path = os.pathsep.join(sys.path)
    with subprocess.Popen(
        [sys.executable, "-c", program],
        env={**os.environ, "PYTHONPATH": path},
        stdout=subprocess.PIPE,
        text=True,
    ) as parent:
        assert parent.stdout is not None
        pids = [int(pid) for pid in (parent.stdout.readline() + parent.stdout.readline()).split()]
        assert len(pids) >= 2
        time.sleep(0.2)
        parent.kill()
    assert wait_until_dead(pids) == []
