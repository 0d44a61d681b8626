"""Kill writers, the server and PostgreSQL at random moments; nothing acknowledged may be lost or doubled.

    PYTHONPATH=. python tests/storage/drills/kill.py --engine postgres --target database

Four processes record at once, and then the target dies: the writers themselves (through
`Ledger.append` or their sequencers), the server that they speak to, or PostgreSQL. Prints
one line of JSON, or the broken word and status 1.
"""

import argparse
import multiprocessing
import os
import random
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from multiprocessing.context import ForkProcess
from pathlib import Path

import serve
import subject
import writer

from tools import postgres

WRITERS = 4
_ENOUGH = 1_000
"""Entries after which a round begins a new ledger, so that its audit stays short."""
_STARTING = 60.0


@dataclass
class Tally:
    """What happened in all rounds."""

    rounds: int = 0
    kills: int = 0
    ledgers: int = 0
    acknowledged: int = 0
    unanswered: int = 0
    unanswered_kept: int = 0


@dataclass
class Bench:
    """Where ledgers are made, and what is killed there."""

    folder: Path
    url_of: Callable[[int], str]
    database: postgres.Server | None
    chance: random.Random
    ledger: subject.Subject | None = None
    answered: dict[str, int] = field(default_factory=dict)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--engine", choices=["sqlite", "postgres"], default="sqlite")
    parser.add_argument("--target", choices=["append", "sequencer", "server", "database"], default="append")
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=float("inf"))
    parser.add_argument("--seed", type=int, default=7)
    arguments = parser.parse_args()
    if arguments.target == "database" and arguments.engine == "sqlite":
        parser.error("SQLite has no server to kill.")
    began = time.monotonic()
    tally = Tally()
    with benched(arguments.engine, random.Random(arguments.seed)) as bench:  # noqa: S311 - moments, no secrets
        while tally.rounds < arguments.rounds and time.monotonic() < began + arguments.seconds:
            try:
                play(bench, tally, arguments.target)
            except subject.LostError as error:
                said = (bench.folder / "errors").read_text(encoding="utf-8", errors="replace")
                sys.exit(f"Round {tally.rounds} with seed {arguments.seed}: {error}\n{said}")
    subject.report(began, drill="kill", engine=arguments.engine, target=arguments.target, **vars(tally))


@contextmanager
def benched(engine: str, chance: random.Random) -> Iterator[Bench]:
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="drill-")))
        if engine == "sqlite":
            yield Bench(folder, lambda number: f"sqlite:///{folder}/ledger{number}/ledger.db", None, chance)
        else:
            server = stack.enter_context(postgres.running(folder / "postgres"))
            yield Bench(folder, lambda number: server.create(f"ledger{number}"), server, chance)


def play(bench: Bench, tally: Tally, target: str) -> None:
    """One round: load, kill, restart, and see what is left."""
    if bench.ledger is None or len(bench.answered) > _ENOUGH:
        folder = bench.folder / f"ledger{tally.ledgers}"
        folder.mkdir()
        bench.ledger = subject.Subject(bench.url_of(tally.ledgers), folder)
        bench.ledger.create().close()
        bench.answered = {}
        tally.ledgers += 1
    names = [f"round{tally.rounds}-{number}" for number in range(WRITERS)]
    way = target if target != "database" else bench.chance.choice(["append", "sequencer"])
    for name in names:
        (bench.folder / name).touch()
    with ExitStack() as stack:
        spoken_to, server = bench.ledger, None
        if target == "server":
            with socket.create_server(("127.0.0.1", 0)) as listening:
                server = stack.enter_context(process(bench, serve.serve, bench.ledger, listening))
                url = f"http://127.0.0.1:{listening.getsockname()[1]}"
            spoken_to = subject.Subject(url, bench.ledger.folder)
        writers = [
            stack.enter_context(process(bench, writer.write, spoken_to, name, way, bench.folder / name))
            for name in names
        ]
        wait_for_load(bench, [bench.folder / name for name in names], writers)
        if server is not None:
            server.kill()
            require_told(writers)
        elif target == "database":
            assert bench.database is not None
            bench.database.kill()
            require_told(writers)
            bench.database.start()
        else:
            kill_one_by_one(bench.chance, writers)
    acknowledged: dict[str, int] = {}
    unanswered: list[str] = []
    for name in names:
        answered = subject.read_acknowledged(bench.folder / name)
        acknowledged |= answered
        for tag in subject.tags(name, way):
            unanswered += subject.in_flight(tag, answered)
        (bench.folder / name).unlink()
    settled = bench.ledger.require(bench.answered | acknowledged, unanswered)
    bench.answered = settled.answered
    tally.unanswered_kept += settled.kept
    tally.acknowledged += len(acknowledged)
    tally.unanswered += len(unanswered)
    tally.kills += len(writers) if target in {"append", "sequencer"} else 1
    tally.rounds += 1


@contextmanager
def process(bench: Bench, work: Callable[..., None], *arguments: object) -> Iterator[ForkProcess]:
    """Let a process of its own do something, and leave nothing of it behind.

    It is forked, with everything imported: a round costs no start of Python.
    """

    def run() -> None:
        with (bench.folder / "errors").open("ab") as errors:
            os.dup2(errors.fileno(), 2)
        work(*arguments)

    running = multiprocessing.get_context("fork").Process(target=run)
    running.start()
    try:
        yield running
    finally:
        running.kill()
        running.join()


def kill_one_by_one(chance: random.Random, writers: list[ForkProcess]) -> None:
    chance.shuffle(writers)
    for each in writers:
        each.kill()
        time.sleep(chance.choice([0, 0.01 * chance.random()]))
    for each in writers:
        each.join()
        if each.exitcode != -signal.SIGKILL:
            raise subject.LostError("A writer ended before it was killed.")


def require_told(writers: list[ForkProcess]) -> None:
    """See that those whose server died were told so by an error with a name."""
    for each in writers:
        each.join(_STARTING)
        if each.exitcode != writer.REFUSED:
            raise subject.LostError(f"A writer whose server died ended with {each.exitcode}.")


def wait_for_load(bench: Bench, outputs: list[Path], writers: list[ForkProcess]) -> None:
    """Let each writer be answered once, and then go on for a random moment."""
    deadline = time.monotonic() + _STARTING
    while not all(output.stat().st_size for output in outputs):
        if time.monotonic() > deadline or any(each.exitcode is not None for each in writers):
            raise subject.LostError("A writer did not begin.")
        time.sleep(0.005)
    time.sleep(bench.chance.random() * 0.15)


if __name__ == "__main__":
    main()
