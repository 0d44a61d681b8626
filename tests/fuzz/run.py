"""Fuzz for a given time: `python tests/fuzz/run.py --seconds 3600 --keep FOLDER`.

Each target runs in a child process, so that a crash is found like anything else:
the input being read always lies in a file that outlives the child. With atheris
installed the search is guided by coverage; without it, by how inputs are refused.
Either way inputs are changed by `mutate`. Exit status 1 says that something was
found; FOLDER/findings then holds each input and what it did. `--minimise` copies
the smallest inputs that reach every line reached so far into `tests/fuzz/corpus`.
"""

import argparse
import contextlib
import faulthandler
import hashlib
import importlib
import importlib.util
import mmap
import os
import random
import resource
import signal
import struct
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:
    from target import Target

ROOT = Path(__file__).parents[2]
CPU_SECONDS = 2.0
"""How long one input may take. Processor time: a busy machine is no hang."""
STUCK_SECONDS = 30.0
"""After this long without an end, even our own signal was not heard: the parent kills."""
MEMORY = 4 << 30
MAX_RESTARTS = 20
OWN = (
    "authn",
    "storage",
    "detector.metadata",
    "tools.acceptance",
    "tools.camera.folder",
    "tools.issuance",
    "tools.revoking",
    "tools.trust_bundle",
)
"""What is instrumented: the code of every target."""
KEPT_FILES, KEPT_BYTES = 12, 20 << 10
"""How much of what a run reached is kept for each target, all files together."""
_HEAD = struct.Struct("<QdI")


class HangError(BaseException):
    """One input took longer than it may; no reader can catch this by accident."""


def _module(name: str) -> Any:
    """A module that is imported late: beside this file, which is no package, or after instrumenting."""
    return importlib.import_module(name)


# --- One child


class Desk:
    """The file where the input that is being read lies open, whatever becomes of the reader."""

    def __init__(self, path: Path, room: int) -> None:
        path.touch()
        if path.stat().st_size < _HEAD.size + room:
            os.truncate(path, _HEAD.size + room)
        with path.open("r+b") as file:
            self._map = mmap.mmap(file.fileno(), _HEAD.size + room)

    def put(self, data: bytes, at: float) -> None:
        count, _, _ = self.read_head()
        self._map[_HEAD.size : _HEAD.size + len(data)] = data
        _HEAD.pack_into(self._map, 0, count + 1, at, len(data))

    def clear(self) -> None:
        count, _, length = self.read_head()
        _HEAD.pack_into(self._map, 0, count, 0.0, length)

    def read_head(self) -> tuple[int, float, int]:
        count, at, length = _HEAD.unpack_from(self._map)
        return count, at, length

    @property
    def input(self) -> bytes:
        return bytes(self._map[_HEAD.size : _HEAD.size + self.read_head()[2]])


def outcome(target: "Target", data: bytes) -> tuple[tuple[object, ...], str | None]:
    """How an input was answered: a shape to tell answers apart, and a report if it is a finding."""
    try:
        answer = target.run(data)
    except target.refusals as error:
        lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__)]
        return (type(error).__name__, *lines), None
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # noqa: BLE001 - whatever else comes out is what we look for
        frames = traceback.extract_tb(error.__traceback__)
        own = [frame for frame in frames if str(ROOT) in frame.filename] or list(frames)
        shape = (type(error).__name__, Path(own[-1].filename).name, own[-1].lineno)
        return shape, "".join(traceback.format_exception(error))
    return ("read", answer), None


def limited(target: "Target", data: bytes) -> tuple[tuple[object, ...], str | None]:
    """`outcome`, but a reader that takes too long is interrupted, which is a finding like another."""
    before = signal.signal(signal.SIGPROF, _too_long)
    try:
        signal.setitimer(signal.ITIMER_PROF, CPU_SECONDS, 0.5)
        return outcome(target, data)
    except HangError as error:  # between the reader's end and the timer's
        return ("HangError",), str(error)
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)


def _too_long(_signal: int, _frame: FrameType | None) -> NoReturn:
    raise HangError(f"more than {CPU_SECONDS} seconds of processor time")


class Reader:
    """Runs one target on one input after another, and keeps what it finds."""

    def __init__(self, target: "Target", keep: Path, room: int) -> None:
        self.target, self.keep = target, keep
        self.desk = Desk(keep / f"{target.name}.desk", room)
        self.room = room
        self.found: set[tuple[object, ...]] = set()
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
        warnings.simplefilter("ignore")

    def read(self, data: bytes) -> tuple[object, ...]:
        data = data[: self.room]
        self.desk.put(data, time.monotonic())
        shape, report = limited(self.target, data)
        self.desk.clear()
        if report is not None and shape not in self.found:
            self.found.add(shape)
            keep_finding(self.keep, self.target.name, data, report)
        return shape


def keep_finding(keep: Path, name: str, data: bytes, report: str) -> None:
    """Write an input and what it did, under a name that the same input always has."""
    folder = keep / "findings"
    folder.mkdir(exist_ok=True)
    stem = f"{name}-{hashlib.sha256(data).hexdigest()[:12]}"
    (folder / f"{stem}.bin").write_bytes(data)
    (folder / f"{stem}.txt").write_text(report, "utf-8", "backslashreplace")


def child(name: str, seconds: float, keep: Path, seed: int) -> None:
    """Fuzz one target until the time is over. Ends by itself only if nothing crashes."""
    faulthandler.enable()
    sys.path[:0] = [str(ROOT), str(Path(__file__).parent)]
    atheris: Any = _module("atheris") if importlib.util.find_spec("atheris") else None
    with atheris.instrument_imports(include=list(OWN)) if atheris else contextlib.nullcontext():
        targets, mutate = _module("targets"), _module("mutate")
    target = targets.TARGETS[name]
    reader = Reader(target, keep, targets.MAX_INPUT)
    seeds = target.seeds()
    corpus = keep / "corpus" / name
    corpus.mkdir(parents=True, exist_ok=True)
    for data in seeds:
        (corpus / hashlib.sha1(data, usedforsecurity=False).hexdigest()).write_bytes(data)
    if atheris is None:
        _unguided(reader, seeds, corpus, seconds, random.Random(seed), mutate.mutate)  # noqa: S311
        return

    def changed(data: bytes, size: int, number: int) -> bytes:
        rng = random.Random(number)  # noqa: S311 - inputs, no secrets
        # What the search keeps grows small and broken; whole files have the deeper readers to themselves.
        begin = data if rng.randrange(3) else rng.choice(seeds)
        return bytes(mutate.mutate(begin, rng, target.shape, seeds)[:size])

    def read(data: bytes) -> None:
        reader.read(data)

    options = {
        "max_total_time": int(seconds),
        "max_len": targets.MAX_INPUT,
        "len_control": 0,
        "timeout": int(STUCK_SECONDS),
        "rss_limit_mb": MEMORY >> 20,
        "seed": seed,
        "artifact_prefix": f"{keep}/{name}.",
        "print_final_stats": 1,
    }
    arguments = [sys.argv[0], str(corpus), *(f"-{option}={value}" for option, value in options.items())]
    atheris.Setup(arguments, read, custom_mutator=changed)
    atheris.Fuzz()


def _unguided(
    reader: Reader,
    seeds: list[bytes],
    corpus: Path,
    seconds: float,
    rng: random.Random,
    mutate: Callable[..., bytes],
) -> None:
    """Keep what is answered in a new way, and change that further."""
    pool, shapes = list(seeds), {reader.read(data) for data in seeds}
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        data = mutate(rng.choice(pool), rng, reader.target.shape, seeds)[: reader.room]
        shape = reader.read(data)
        if shape not in shapes:
            shapes.add(shape)
            pool.append(data)
            (corpus / hashlib.sha1(data, usedforsecurity=False).hexdigest()).write_bytes(data)


# --- The parent


@dataclass(frozen=True, slots=True)
class Ran:
    """What one target did in its share of the time."""

    name: str
    executions: int
    seconds: float
    corpus: int
    findings: tuple[Path, ...]

    def __str__(self) -> str:
        return (
            f"{self.name:<18}{self.executions:>10} executions {self.seconds:>8.1f} s"
            f" {self.corpus:>6} in corpus {len(self.findings):>4} findings"
        )


def fuzz(name: str, seconds: float, keep: Path, room: int) -> Ran:
    """Run children on one target until its time is over, a new one after each crash."""
    desk = Desk(keep / f"{name}.desk", room)
    begin = time.monotonic()
    for restart in range(MAX_RESTARTS):
        left = begin + seconds - time.monotonic()
        if left < 1:
            break
        command = [sys.executable, __file__, "--child", name, "--seconds", f"{left:.0f}"]
        command += ["--keep", str(keep), "--seed", str(random.SystemRandom().randrange(1, 1 << 31))]
        with (keep / f"{name}.log").open("ab") as log:
            running = subprocess.Popen(command, stdout=log, stderr=log, cwd=ROOT)
            fate = _fate(running, desk, begin + seconds + 2 * STUCK_SECONDS)
        if fate is not None:
            keep_finding(keep, name, desk.input, f"{fate} (child {restart}; see {name}.log)\n")
    return Ran(
        name,
        desk.read_head()[0],
        time.monotonic() - begin,
        len(list((keep / "corpus" / name).glob("*"))),
        tuple(sorted((keep / "findings").glob(f"{name}-*.bin"))),
    )


def _fate(running: "subprocess.Popen[bytes]", desk: Desk, deadline: float) -> str | None:
    """Wait for a child, and say what went wrong with it, if anything did."""
    while running.poll() is None:
        time.sleep(0.2)
        at, now = desk.read_head()[1], time.monotonic()
        if (at and now - at > STUCK_SECONDS + 5) or now > deadline:
            running.kill()
            running.wait()
            return "no answer at all, not even to a signal: killed"
    return None if running.returncode == 0 else f"the reader's process ended with {running.returncode}"


def minimise(name: str, keep: Path) -> int:
    """Copy into the corpus the smallest inputs that reach each line that any input reached."""
    targets = _module("targets")
    target = targets.TARGETS[name]
    old = {data: _lines(target, data) for data in target.made()}
    reached = set().union(*old.values())
    chosen: list[tuple[int, bytes]] = []
    for path in sorted((keep / "corpus" / name).glob("*"), key=lambda path: path.stat().st_size):
        data = path.read_bytes()
        new = _lines(target, data) - reached if len(data) <= KEPT_BYTES else set()
        if new:
            reached |= new
            chosen.append((len(new), data))
    folder = targets.HERE / "corpus" / name
    folder.mkdir(parents=True, exist_ok=True)
    room = KEPT_BYTES
    kept = 0
    for _, data in sorted(chosen, key=lambda item: -item[0])[:KEPT_FILES]:
        if len(data) <= room:
            room -= len(data)
            kept += 1
            (folder / hashlib.sha256(data).hexdigest()[:12]).write_bytes(data)
    return kept


def _lines(target: "Target", data: bytes) -> set[tuple[str, int]]:
    """The lines of our own packages that reading `data` runs."""
    reached: set[tuple[str, int]] = set()
    packages = tuple(str(ROOT / package) for package in ("authn", "storage", "detector", "tools"))

    def trace(frame: FrameType, event: str, _argument: object) -> object:
        if not frame.f_code.co_filename.startswith(packages):
            return None
        if event == "line":
            reached.add((frame.f_code.co_filename, frame.f_lineno))
        return trace

    sys.settrace(trace)  # type: ignore[arg-type]
    try:
        outcome(target, data)
    finally:
        sys.settrace(None)
    return reached


def main() -> int:
    """Share the time among the targets, and say what came of it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=60.0, help="for all targets together, by one job")
    parser.add_argument("--target", action="append", help="only this one; may be given again")
    parser.add_argument("--jobs", type=int, default=1, help="children at a time")
    parser.add_argument("--keep", type=Path, help="folder for findings and grown corpus")
    parser.add_argument("--minimise", action="store_true", help="afterwards, renew tests/fuzz/corpus")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    parser.add_argument("--seed", type=int, default=1, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.child:
        child(given.child, given.seconds, given.keep, given.seed)
        return 0
    sys.path[:0] = [str(ROOT), str(Path(__file__).parent)]
    targets = _module("targets")
    keep = (given.keep or Path(tempfile.mkdtemp(prefix="fuzz-"))).absolute()
    (keep / "findings").mkdir(parents=True, exist_ok=True)
    chosen = [targets.TARGETS[name] for name in given.target or targets.TARGETS]
    shares = {target.name: min(target.cost, 4) for target in chosen}
    unit = given.seconds / sum(shares.values())
    found, executions, seconds = 0, 0, 0.0
    with ThreadPoolExecutor(given.jobs) as pool:
        for ran in _all(pool, shares, unit, keep, targets.MAX_INPUT):
            sys.stdout.write(f"{ran}\n")
            sys.stdout.flush()
            found += len(ran.findings)
            executions, seconds = executions + ran.executions, seconds + ran.seconds
    if given.minimise:
        for name in shares:
            sys.stdout.write(f"{name:<18}{minimise(name, keep):>4} kept\n")
    sys.stdout.write(f"{'in all':<18}{executions:>10} executions {seconds:>8.1f} s\n")
    sys.stdout.write(f"{found} findings; they and the corpus are in {keep}\n")
    return 1 if found else 0


def _all(
    pool: ThreadPoolExecutor, shares: dict[str, int], unit: float, keep: Path, room: int
) -> Iterator[Ran]:
    return pool.map(lambda name: fuzz(name, unit * shares[name], keep, room), shares)


if __name__ == "__main__":
    sys.exit(main())
