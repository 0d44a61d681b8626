"""Measure the ledger: appending, growing, proving, and adding over HTTP, on SQLite and on PostgreSQL.

Every ledger is that of a home: sealed payloads, lookups, guard, and a sync for each commit.
What is measured "on one core" runs pinned to it, the database's server included.
Over HTTP the server is the command itself, in a process of its own, and so is the load;
where there are two cores, these two share them with the database.

Proofs are "cold" in a ledger opened for the one proof; what the operating system keeps of the
file stays where it is. Not measured: a cold disk, a network, several servers on one database.
"""

import hashlib
import json
import os
import resource
import secrets
import signal
import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from authn.keys import verify_note
from storage.checkpoint import open_checkpoint
from storage.entry import Kind
from storage.errors import DriverMissingError
from storage.ledger import Ledger
from storage.merkle import node_hash, verify_consistency, verify_inclusion
from storage.record import Record
from storage.sequencer import Sequencer
from tools import postgres
from tools.errors import Error
from tools.figures import Budget, Row, Side
from tools.founding import LogPlan, create_home
from tools.home import Home
from tools.log_server import WRITERS, add_writer
from tools.plot import Panel, Series, drawn
from tools.timing import NO_FLOOR, absolute, in_turn, ratio, seconds

BATCH = 1024
SQLITE, POSTGRESQL = "SQLite", "PostgreSQL"

_WINDOW = 8  # batches per sample of a rate, so that what comes every few batches is in each
_CLIENTS = 64
_OVERLOAD = 10
_OVERLOAD_CLIENTS = 2048
_OCSP = "http://localhost:8461/ocsp/"
_PATIENCE = 60.0
_SEALED = 32 + 12 + 16  # salt, nonce and tag beside a sealed payload
_HASHES = f"SHA-256 of {BATCH} leaves and as many nodes"
_SYNCED = "the same bytes appended to a file, and one sync"


@dataclass(frozen=True, slots=True)
class Plan:
    """How much is measured on one engine: sizes in entries, times in seconds."""

    engine: str
    sizes: tuple[int, ...]
    rounds: int
    singles: int
    load_rounds: int
    load_seconds: float
    overload_seconds: float


@dataclass(frozen=True, slots=True)
class Batch:
    """One append: how large the ledger was after it, of how many entries, and how long it took."""

    size: int
    entries: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Proofs:
    """What proofs took in a ledger of one size, in seconds."""

    size: int
    cold: tuple[float, ...]
    warm: tuple[float, ...]
    verified: tuple[float, ...]
    checked: tuple[float, ...]
    consistency: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Growth:
    """How one ledger grew; `stored` and `body` are bytes an entry on disk, of all and of its body."""

    engine: str
    batches: tuple[Batch, ...]
    proofs: tuple[Proofs, ...]
    stored: float
    body: float
    sealed: float


@dataclass(frozen=True, slots=True)
class Measured:
    """The rows of a run, what its chart is drawn from, and what could not be measured and why."""

    rows: tuple[Row, ...]
    growths: tuple[Growth, ...]
    not_measured: tuple[str, ...]

    def chart(self) -> str:
        """Draw entries per second and the time of a proof against the size of the log."""
        rates = Panel(
            "Entries made durable per second, one core",
            "entries in the log",
            "entries/s",
            tuple(Series(growth.engine, tuple(_curve(growth))) for growth in self.growths),
        )
        proofs = self.growths[0].proofs
        times = Panel(
            f"Time of an inclusion proof, {self.growths[0].engine}",
            "entries in the log",
            "ms",
            tuple(
                Series(
                    name,
                    tuple((each.size, 1e3 * statistics.median(getattr(each, taken))) for each in proofs),
                )
                for name, taken in (("cold", "cold"), ("warm", "warm"), ("verify", "verified"))
            ),
        )
        return drawn((rates, times))


QUICK = (
    Plan(SQLITE, (1_000, 10_000, 20_000), 11, 50, 2, 1.5, 5),
    Plan(POSTGRESQL, (1_000, 10_000, 20_000), 11, 50, 2, 1.5, 5),
)
THOROUGH = (
    Plan(SQLITE, (1_000, 10_000, 100_000, 1_000_000), 41, 300, 5, 4, 60),
    Plan(POSTGRESQL, (1_000, 10_000, 100_000, 1_000_000), 41, 300, 5, 4, 15),
)


def measure(plans: Sequence[Plan], folder: Path) -> Measured:
    """Measure every plan inside `folder`, which is made and left full."""
    rows: list[Row] = []
    growths: list[Growth] = []
    missing: list[str] = []
    for plan in plans:
        place = folder / plan.engine
        place.mkdir(parents=True)
        try:
            with _pinned(), _bed(plan.engine, place / "grown") as bed:
                grown = _grow(bed, plan)
                rows += [*_floors(bed, plan), *_growth_rows(grown)]
            growths.append(grown)
            with _bed(plan.engine, place / "served") as bed:
                rows += [_single(bed, plan), *_http(bed, plan)]
        except (postgres.PostgresMissingError, DriverMissingError) as error:
            missing.append(f"ledger on {plan.engine}: {error} {error.remedy}")
    return Measured(tuple(rows), tuple(growths), tuple(missing))


@dataclass(frozen=True, slots=True)
class _Bed:
    """A home whose log lies in the engine's database, the folder it is in, and the files of the database."""

    engine: str
    folder: Path
    home: Home
    database: Path

    def stored(self) -> int:
        """How many bytes the database's tables and indexes take."""
        return sum(path.stat().st_size for path in self.database.rglob("*") if path.is_file())


@contextmanager
def _bed(engine: str, folder: Path) -> Iterator[_Bed]:
    folder.mkdir()
    with ExitStack() as stack:
        if engine == POSTGRESQL:
            server = stack.enter_context(postgres.running(folder / "server"))
            plan, database = LogPlan(database=server.url), server.data / "base"
        else:
            plan, database = LogPlan(), folder / "home"
        home = create_home(folder / "home", "Bench", _OCSP, _now(), plan)
        yield _Bed(engine, folder, home, database)


@contextmanager
def _pinned() -> Iterator[None]:
    """Keep this thread, and all that it starts inside the block, on one core, where the system can."""
    if not hasattr(os, "sched_setaffinity"):
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {max(before)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def _now() -> datetime:
    return datetime.now(UTC)


def record() -> Record:
    """As large as that of a signature, with as many lookups; all of it chance."""
    chance = os.urandom(32 * 5).hex()
    names = ("binding", "certificate", "claim", "media", "signature")
    fields = (f'"{name}":"{chance[64 * at : 64 * at + 64]}"' for at, name in enumerate(names))
    payload = f"{{{','.join(fields)}}}".encode()
    return Record(Kind.SIGN, payload, secrets.token_bytes(32), secrets.token_bytes(32))


# --- Growth, floors and proofs, on one core


def _grow(bed: _Bed, plan: Plan) -> Growth:
    """Append until each size in turn is reached exactly, and prove there."""
    home, batches, proofs = bed.home, [], []
    sign, began = home.own.signer(), bed.stored()
    rng = np.random.default_rng(20260101)
    with home.ledger() as ledger:
        size = first = ledger.size
        for stop in plan.sizes:
            old = ledger.checkpoint().encode()
            while size < stop:
                records = [record() for _ in range(min(BATCH, stop - size))]
                taken = seconds(partial(ledger.append, records, _now(), sign))
                size += len(records)
                batches.append(Batch(size, len(records), taken))
            _require_follows(ledger, home, old)
            proofs.append(_prove(ledger, home, size, rng, plan.rounds))
        sample = [int(index) for index in rng.integers(first, size, plan.rounds)]
        body = statistics.mean(len(ledger.entry(index).body) for index in sample)
        sealed = statistics.mean(len(ledger.payload(index) or b"") + _SEALED for index in sample)
    return Growth(
        bed.engine,
        tuple(batches),
        tuple(proofs),
        (bed.stored() - began) / (size - first),
        body,
        sealed,
    )


def _require_follows(ledger: Ledger, home: Home, old: bytes) -> None:
    """What is fast because it is wrong must not be measured."""
    before, after = (home.own.open_note(note) for note in (old, ledger.checkpoint().encode()))
    path = ledger.consistency(before.size, after.size)
    verify_consistency(before.size, after.size, path, before.root, after.root)


def _prove(ledger: Ledger, home: Home, size: int, rng: np.random.Generator, rounds: int) -> Proofs:
    indices = [int(index) for index in rng.integers(0, size, rounds)]
    cold = []
    for index in indices:
        with home.ledger_to_read() as opened:
            cold.append(seconds(partial(opened.prove, index)))
    warm = [seconds(partial(ledger.prove, index)) for index in indices]
    keys, verified, checked = home.own.keys, [], []
    for receipt in map(ledger.prove, indices):
        proof = receipt.proof
        checkpoint = open_checkpoint(proof.note, keys, verify_note)
        path = (receipt.entry.leaf, proof.index, checkpoint.size, proof.hashes, checkpoint.root)
        verified.append(seconds(partial(verify_inclusion, *path)))
        checked.append(seconds(partial(receipt.check, keys, verify_note)))
    consistency = [seconds(partial(ledger.consistency, index + 1, size)) for index in indices]
    return Proofs(size, *map(tuple, (cold, warm, verified, checked, consistency)))


def _floors(bed: _Bed, plan: Plan) -> Iterator[Row]:
    """What a batch costs beside its hashes, and beside one durable write of its bytes."""
    batches = iter([[record() for _ in range(BATCH)] for _ in range(plan.rounds + 1)])
    at = _now().replace(microsecond=0)
    bodies = [record().entry(at).body for _ in range(BATCH)]
    written = b"".join(bodies) + secrets.token_bytes(BATCH * (_SEALED + 400))
    sign = bed.home.own.signer()

    def hashes() -> None:
        for body in bodies:
            leaf = hashlib.sha256(b"\0" + body).digest()
            node_hash(leaf, leaf)

    with bed.home.ledger() as ledger, (bed.folder / "floor").open("ab", buffering=0) as file:

        def synced() -> None:
            file.write(written)
            os.fsync(file.fileno())

        hashed, wrote, ours = in_turn(
            plan.rounds, hashes, synced, lambda: ledger.append(next(batches), _now(), sign)
        )
    name = f"{bed.engine}: a batch of {BATCH} appended, {ledger_size(plan)} entries there"
    yield ratio(name, _HASHES, hashed, ours, None)
    yield ratio(name, _SYNCED, wrote, ours, None)


def ledger_size(plan: Plan) -> str:
    """The size to which a plan lets a ledger grow, as it is shown."""
    return f"{plan.sizes[-1]:,}"


def _growth_rows(growth: Growth) -> Iterator[Row]:
    name, sizes = growth.engine, [each.size for each in growth.proofs]
    early = [batch for batch in growth.batches if batch.size <= 100_000]
    yield Row(
        f"{name}: append, durable, batches of {BATCH}, to {early[-1].size:,} entries, one core",
        NO_FLOOR,
        "entries/s",
        _rates(early),
        Budget(Side.AT_LEAST, 5000),
    )
    for start, stop in pairwise((0, *sizes)):
        decade = [batch for batch in growth.batches if start < batch.size <= stop]
        yield Row(
            f"{name}: append, from {start:,} to {stop:,} entries",
            NO_FLOOR,
            "entries/s",
            _rates(decade),
        )
    then, now = sizes[1], sizes[-1]
    at_first = [batch for batch in growth.batches if then / 2 < batch.size <= 3 * then / 2]
    at_last = [batch for batch in growth.batches if batch.size > now - max(now // 20, BATCH)]
    yield Row(
        f"{name}: time of an append, at {now:,} entries over that at {then:,}",
        NO_FLOOR,
        "x",
        tuple(_pace(at_first) / rate for rate in _rates(at_last)),
        Budget(Side.AT_MOST, 2),
    )
    for each in growth.proofs:
        largest = each is growth.proofs[-1]
        what = f"{name}, {each.size:,} entries"
        yield absolute(
            f"{what}: inclusion proof, ledger just opened", "ms", each.cold, 2 if largest else None
        )
        yield absolute(f"{what}: inclusion proof, ledger open", "ms", each.warm, None)
        yield absolute(f"{what}: proof checked, path to the root", "us", each.verified, 50)
        yield absolute(f"{what}: receipt checked, with signature", "us", each.checked, None)
        yield absolute(f"{what}: consistency proof", "ms", each.consistency, None)
    stored = f"{name}: bytes an entry on disk, at {now:,} entries"
    yield Row(stored, NO_FLOOR, "bytes", (growth.stored,))
    yield Row(f"{stored}: its body", NO_FLOOR, "bytes", (growth.body,))
    yield Row(f"{stored}: payload and salt, sealed", NO_FLOOR, "bytes", (growth.sealed,))
    overhead = growth.stored - growth.body - growth.sealed
    yield Row(f"{stored}: tree, lookups, indexes, pages", NO_FLOOR, "bytes", (overhead,))


def _pace(batches: Sequence[Batch]) -> float:
    return sum(batch.entries for batch in batches) / sum(batch.seconds for batch in batches)


def _rates(batches: Sequence[Batch]) -> tuple[float, ...]:
    """Entries per second of one window after the other; a short last window counts with the one before."""
    starts = range(0, max(1, len(batches) - _WINDOW // 2), _WINDOW)
    stops = [*starts[1:], len(batches)]
    return tuple(_pace(batches[start:stop]) for start, stop in zip(starts, stops, strict=True))


def _curve(growth: Growth) -> Iterator[tuple[float, float]]:
    """Six points a decade: the pace of all that was appended between two of them."""
    edges = [round(10 ** (step / 6)) for step in range(18, 50)]
    for start, stop in pairwise((0, *edges)):
        between = [batch for batch in growth.batches if start < batch.size <= stop]
        if between:
            yield between[-1].size, _pace(between)


# --- One submission, and many


def _single(bed: _Bed, plan: Plan) -> Row:
    sign = bed.home.own.signer()
    with (
        bed.home.ledger() as ledger,
        Sequencer(lambda records: ledger.append(records, _now(), sign)) as sequencer,
    ):

        def submit(records: Sequence[Record]) -> None:
            sequencer.submit(records).result()

        taken = [seconds(partial(submit, [each])) for each in [record() for _ in range(plan.singles)]]
    return absolute(f"{bed.engine}: one submission, durable, through the sequencer", "ms", taken, 15)


@dataclass(slots=True)
class _Site:
    """A log that is served and what it acknowledged so far: commitment in hex by index."""

    url: str
    token: str
    folder: Path
    acknowledged: Counter[tuple[int, str]] = field(default_factory=Counter)

    def load(self, clients: int, duration: float, rate: float = 0) -> dict[str, Any]:
        """Load it from another process."""
        heard = self.folder / "acknowledged"
        limits = ["--clients", f"{clients}", "--seconds", f"{duration}", "--rate", f"{rate}"]
        about = ["--seed", secrets.token_hex(8), "--acknowledged", str(heard)]
        done = subprocess.run(  # noqa: S603 -- our own interpreter and program
            [*_python("tools.load"), self.url, *limits, *about],
            input=f"{self.token}\n",
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise Error(f"the load ended with status {done.returncode}: {done.stderr.strip()[-500:]}")
        for line in heard.read_text("ascii").splitlines():
            index, _, commitment = line.partition(" ")
            self.acknowledged[int(index), commitment] += 1
        found: dict[str, Any] = json.loads(done.stdout)
        if found["p50_ms"] is None:
            raise Error(f"the log that is measured took nothing: {found['statuses']}")
        return found


def _http(bed: _Bed, plan: Plan) -> Iterator[Row]:
    with _served(bed) as site:
        alone, many = [], []
        site.load(_CLIENTS, min(1.0, plan.load_seconds))  # does not count
        for _ in range(plan.load_rounds):
            alone.append(site.load(1, plan.load_seconds / 2))
            many.append(site.load(_CLIENTS, plan.load_seconds))
        sustained = statistics.median(each["accepted_per_second"] for each in many)
        asked = _OVERLOAD * sustained
        flood = site.load(_OVERLOAD_CLIENTS, plan.overload_seconds, asked)
    name = bed.engine
    one = [each["p50_ms"] / 1e3 for each in alone]
    yield absolute(f"{name}: one submission over HTTP, durable, p50 of a run", "ms", one, 15)
    yield Row(
        f"{name}: added over HTTP by {_CLIENTS} clients",
        NO_FLOOR,
        "adds/s",
        tuple(each["accepted_per_second"] for each in many),
        Budget(Side.AT_LEAST, 2000),
    )
    for share, budget in (("p50", None), ("p99", 150)):
        taken = [each[f"{share}_ms"] / 1e3 for each in many]
        yield absolute(f"{name}: the same, {share} of a run", "ms", taken, budget)
    yield from _flood_rows(f"{name}: {_OVERLOAD} times that for {plan.overload_seconds:g} s", flood, asked)
    yield from _kept_rows(bed, site)


def _flood_rows(name: str, flood: dict[str, Any], asked: float) -> Iterator[Row]:
    statuses = {int(status): count for status, count in flood["statuses"].items()}
    refused = statuses.get(429, 0)
    told = flood["told_when_to_retry"]
    other = sum(statuses.values()) - refused - statuses.get(201, 0)
    yield Row(f"{name}: offered, of what was asked", NO_FLOOR, "x", (flood["offered_per_second"] / asked,))
    yield Row(f"{name}: added", NO_FLOOR, "adds/s", (flood["accepted_per_second"],))
    yield Row(f"{name}: refused with 429", NO_FLOOR, "%", (100 * refused / sum(statuses.values()),))
    none = Budget(Side.AT_MOST, 0)
    yield Row(f"{name}: 429 without Retry-After", NO_FLOOR, "answers", (float(refused - told),), none)
    yield Row(f"{name}: neither 201 nor 429", NO_FLOOR, "answers", (float(other),), none)
    yield Row(f"{name}: broken connections", NO_FLOOR, "", (float(flood["broken_connections"]),))
    yield absolute(f"{name}: p99 of what was added", "ms", [flood["p99_ms"] / 1e3], 1000)


def _kept_rows(bed: _Bed, site: _Site) -> Iterator[Row]:
    """Whether the ledger kept its word: all that was acknowledged is there once, where it was said to be."""
    with bed.home.ledger_to_read() as ledger:
        there = [entry.commitment.hex() for entry in ledger.entries(0, ledger.size)]
    counted = Counter(there)
    lost = sum(
        times != 1 or index >= len(there) or there[index] != commitment or counted[commitment] != 1
        for (index, commitment), times in site.acknowledged.items()
    )
    none = Budget(Side.AT_MOST, 0)
    acknowledged = f"{bed.engine}: of {len(site.acknowledged):,} acknowledged over HTTP"
    yield Row(f"{acknowledged}, not there exactly once", NO_FLOOR, "entries", (float(lost),), none)
    began = time.perf_counter()
    report = bed.home.audit()
    taken = time.perf_counter() - began
    findings = float(len(report.findings) + report.omitted + report.unopened)
    yield Row(
        f"{bed.engine}: the audit of {report.size:,} entries after it",
        NO_FLOOR,
        "findings",
        (findings,),
        none,
    )
    yield Row(f"{bed.engine}: audit", NO_FLOOR, "entries/s", (report.size / taken,))


@contextmanager
def _served(bed: _Bed) -> Iterator[_Site]:
    """Serve the home's log by the command, as an operator would who allows it enough open files."""
    token = secrets.token_urlsafe(32)
    add_writer(bed.home.path / WRITERS, "bench", token)
    command = ["--home", str(bed.home.path), "ledger", "serve", "--port", "0", "--adding"]
    said = bed.folder / "server.log"
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (limits[1], limits[1]))
    with said.open("wb") as errors:
        server = subprocess.Popen(  # noqa: S603 -- our own interpreter and program
            [*_python("tools.cli"), *command],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
        )
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        url = server.stdout.readline().strip() if server.stdout is not None else ""
        if not url:
            raise Error(f"the server that is measured did not start: {said.read_text()[-500:]}")
        yield _Site(url, token, bed.folder)
    finally:
        server.send_signal(signal.SIGTERM)
        try:
            server.wait(_PATIENCE)
        finally:
            server.kill()
            if server.stdout is not None:
                server.stdout.close()
    if server.returncode not in {-signal.SIGTERM, 128 + signal.SIGTERM}:
        raise Error(f"the server that is measured ended with status {server.returncode}")


def _python(module: str) -> list[str]:
    """Run a module of ours in another process, which finds it where we did."""
    path = [entry or str(Path.cwd()) for entry in sys.path]
    start = f"import sys; sys.path[:] = {path!r}; from {module} import main; sys.exit(main())"
    return [sys.executable, "-c", start]
