"""Measure what Lightseal adds to the floors it stands on, on this machine, in one run.

Floor and figure are taken in turn (A B A B), and each pair gives one ratio, so that a
machine that slows down slows both. The media is generated, everything happens in a
temporary folder, and that folder's file system decides what a durable write costs.

The ledger's rows are those of a short run of `tools.bench_ledger`. Not measured: a cold disk
(what is read was just written), the detector.
"""

import hashlib
import itertools
import os
import pickle
import platform
import sqlite3
import ssl
import statistics
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import resources
from pathlib import Path

import numpy as np

from authn import manifest
from authn.device import Device
from authn.evidence import Content
from authn.media import Media
from tools import bench_ledger
from tools.archive import check_archive, silent
from tools.bench_keys import measure_keys
from tools.bench_time import measure_time
from tools.capture import Desk, captured, sign_file
from tools.check import Chosen, beliefs
from tools.errors import Error
from tools.examine import MAX_BYTES, Examined, Policy, Prepared, Tail, start, start_preparing
from tools.figures import NOT_MEASURED, Budget, Machine, Report, Row, Side
from tools.founding import create_home
from tools.home import Home
from tools.issuance.own import enrol
from tools.report import iso
from tools.requirements import version
from tools.timing import NO_FLOOR, in_turn, ratio
from tools.version import VERSION

MEGABYTE = 1_000_000

_OCSP = "http://localhost:8461/ocsp/"
_SHA = "SHA-256 of the same file, one core"
_READER = "bare C2PA reader: its report as text, same settings"
_SIGNER = "bare C2PA signer: same claim and settings, no token, not synced"
_SYNCED = "the same signer, and one sync of its file"


@dataclass(frozen=True, slots=True)
class Plan:
    """How much is measured; sizes are in bytes."""

    jpegs: tuple[int, ...]
    film: int
    rounds: int
    signings: int
    ledger: tuple[bench_ledger.Plan, ...]
    starts: int
    archive: int
    archive_rounds: int


QUICK = Plan((3 * MEGABYTE,), 10 * MEGABYTE, 7, 5, bench_ledger.QUICK, 3, 60, 1)
THOROUGH = Plan((3 * MEGABYTE, 12 * MEGABYTE), 40 * MEGABYTE, 41, 21, bench_ledger.QUICK, 11, 300, 5)


def measure(plan: Plan) -> Report:
    """Measure every row of `plan`, in a folder that is gone afterwards."""
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="lightseal-bench-") as name, ExitStack() as stack:
        folder = Path(name)
        machine = _machine(folder)
        home = create_home(folder / "home", "Bench", _OCSP, _now())
        device, _ = enrol(home, "camera", "Bench Camera", _now())
        ledger = stack.enter_context(home.ledger())
        sdk = stack.enter_context(manifest.Sdk())
        policy = Policy(home.lists(), _now())
        desk = Desk(home, ledger, policy.lists(), sdk, home.authority(_now, ledger))
        rng = np.random.default_rng(20260101)
        rows = [
            *_media(desk, device, folder, plan, rng),
            *measure_time(home, plan.rounds),
            *_archive(desk, device, folder, plan),
            *_command(home, folder / "archive" / "0.jpg", plan),
        ]
        keys = measure_keys(folder / "keys", plan.signings, 200)
        logs = bench_ledger.measure(plan.ledger, folder / "logs")
    missing = (*keys.not_measured, *logs.not_measured, *NOT_MEASURED)
    return Report(machine, _load(), time.monotonic() - began, (*rows, *keys.rows, *logs.rows), missing)


def measure_ledger(plans: Sequence[bench_ledger.Plan]) -> tuple[Report, str]:
    """Measure the ledger alone; return its chart too."""
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="lightseal-bench-") as name:
        machine = _machine(Path(name))
        logs = bench_ledger.measure(plans, Path(name) / "logs")
    return Report(machine, _load(), time.monotonic() - began, logs.rows, logs.not_measured), logs.chart()


def _now() -> datetime:
    return datetime.now(UTC)


# --- Verify and sign


def _media(desk: Desk, device: Device, folder: Path, plan: Plan, rng: np.random.Generator) -> Iterator[Row]:
    for size in plan.jpegs:
        source = folder / f"{size}.jpg"
        source.write_bytes(noise_jpeg(size, rng))
        signed = _sign_once(desk, device, source)
        yield from _verify_rows(desk, f"JPEG of {_megabytes(signed)}", signed, 3.5, plan.rounds)
        yield from _sign_rows(desk, device, source, plan.signings)
    for suffix, noise in (("wav", noise_wav), ("mp4", noise_mp4)):
        small, large = (folder / f"{size}.{suffix}" for size in (plan.film // 10, plan.film))
        for source, size in ((small, plan.film // 10), (large, plan.film)):
            source.write_bytes(noise(size, rng))
        signed = _sign_once(desk, device, large)
        what = suffix.upper()
        yield from _verify_rows(desk, f"{what} of {_megabytes(signed)}", signed, 2.5, plan.rounds)
        if _STATUS.exists():
            yield from _memory_rows(desk, what, _sign_once(desk, device, small), signed)


def _megabytes(path: Path) -> str:
    return f"{path.stat().st_size / MEGABYTE:.3g} MB"


def _prepared(source: Path) -> Prepared:
    found = start_preparing(Tail.REFUSED)(str(source))
    if not isinstance(found, Prepared):
        raise Error(f"the generated {source.name} is refused ({found.reason})")
    return found


def _sign_once(desk: Desk, device: Device, source: Path) -> Path:
    target = source.with_name(f"signed-{source.name}")
    return sign_file(desk, device, source, target, _prepared(source), captured, _now).media


def _intact(found: Examined) -> Examined:
    """What is fast because it failed must not be measured."""
    if found.provenance is None or found.provenance.content is not Content.INTACT:
        raise Error("a file that was just signed does not verify, so nothing can be measured")
    return found


def _verify_rows(desk: Desk, what: str, signed: Path, at_most: float, rounds: int) -> Iterator[Row]:
    examine = start(Policy(desk.home.lists(), _now()))
    path = str(signed)

    def digest() -> None:
        with signed.open("rb") as stream:
            hashlib.file_digest(stream, "sha256")

    def read() -> None:
        with signed.open("rb", buffering=0) as stream:
            desk.sdk.bare_read(Media.of(stream, signed.name, MAX_BYTES))

    sha, bare, ours = in_turn(rounds, digest, read, lambda: _intact(examine(path)))
    yield ratio(f"verify, {what}", _SHA, sha, ours, at_most)
    yield ratio(f"verify, {what}", _READER, bare, ours, 1.25)


_STATUS = Path("/proc/self/status")
_PEAK = """
import pathlib, pickle, sys
from authn.manifest import Sdk
from authn.media import Media
from tools.examine import start
policy, path, ours = sys.argv[1:]
if ours == "ours":
    assert start(pickle.loads(pathlib.Path(policy).read_bytes()))(path).provenance is not None
else:
    with open(path, "rb", buffering=0) as stream, Sdk() as sdk:
        sdk.bare_read(Media.of(stream, path, 1 << 40))
# Not getrusage: what it calls the peak of a process may be its parent's, from before it was one.
(line,) = [line for line in pathlib.Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM:")]
print(line.split()[1])
"""


def _memory_rows(desk: Desk, what: str, small: Path, large: Path) -> Iterator[Row]:
    """How much more a process needs, at its peak, for a file ten times as large: the library's part, and ours."""
    policy = small.with_suffix(".policy")
    policy.write_bytes(pickle.dumps(Policy(desk.home.lists(), _now())))

    def peak(path: Path, whose: str) -> int:
        done = subprocess.run(  # noqa: S603 -- our own interpreter and program
            [sys.executable, "-c", f"import sys; sys.path[:] = {_path()!r}\n{_PEAK}", policy, path, whose],
            capture_output=True,
            text=True,
            check=True,
        )
        return int(done.stdout) * 1024

    def growth(whose: str) -> float:
        return (peak(large, whose) - peak(small, whose)) / MEGABYTE

    grown = [(growth("library"), growth("ours")) for _ in range(3)]
    name = f"{what}, peak memory, growth from {_megabytes(small)} to {_megabytes(large)}"
    yield Row(f"bare C2PA reader, {name}", NO_FLOOR, "MB", tuple(bare for bare, _ in grown))
    ours = tuple(ours - bare for bare, ours in grown)
    yield Row(f"verify, {name}", "the bare reader's growth", "MB", ours, Budget(Side.AT_MOST, 8))


def _sign_rows(desk: Desk, device: Device, source: Path, rounds: int) -> Iterator[Row]:
    prepared = _prepared(source)
    claim, parent = captured(prepared)
    numbers = itertools.count()

    def bare(finish: Callable[[int], None]) -> None:
        target = source.with_name("bare.jpg")
        with source.open("rb", buffering=0) as stream, target.open("w+b") as out:
            media = Media.of(stream, source.name, MAX_BYTES)
            manifest.write(media, out, claim, parent, device.key.sign, device.chain_pem, None)
            out.flush()
            finish(out.fileno())

    def ours() -> None:
        target = source.with_name(f"{next(numbers)}-{source.name}")
        sign_file(desk, device, source, target, prepared, captured, _now)

    floor, synced, times = in_turn(rounds, lambda: bare(lambda _: None), lambda: bare(os.fsync), ours)
    for number in range(next(numbers)):
        source.with_name(f"{number}-{source.name}").unlink()
    what = f"sign, JPEG of {_megabytes(source)}, with token, self-check and ledger"
    yield ratio(what, _SIGNER, floor, times, 1.5)
    yield ratio(what, _SYNCED, synced, times, None)


def noise_jpeg(size: int, rng: np.random.Generator) -> bytes:
    """A grey baseline JPEG of noise, about `size` bytes, that every decoder reads (ITU-T T.81).

    Each of its tables has one code: `00000000` for a DC difference of nothing, and `0` for
    an AC coefficient of ten bits, which are random. So a block is 8 + 63 * 11 bits.
    """
    side = max(1, round((size / (701 / 8)) ** 0.5))
    bits = rng.integers(0, 2, (side * side, 8 + 63 * 11), dtype=np.uint8)
    bits[:, :8] = 0
    bits[:, 8::11] = 0
    padding = np.ones(-bits.size % 8, dtype=np.uint8)
    scan = np.packbits(np.concatenate([bits.reshape(-1), padding])).tobytes().replace(b"\xff", b"\xff\x00")
    pixels = 8 * side
    return b"".join(
        (
            b"\xff\xd8",
            _segment(0xDB, b"\x00" + b"\x01" * 64),
            _segment(0xC0, struct.pack(">BHHB3B", 8, pixels, pixels, 1, 1, 0x11, 0)),
            _segment(0xC4, b"\x00" + bytes((0, 0, 0, 0, 0, 0, 0, 1)) + bytes(8) + b"\x00"),
            _segment(0xC4, b"\x10" + bytes((1,)) + bytes(15) + b"\x0a"),
            _segment(0xDA, b"\x01\x01\x00\x00\x3f\x00"),
            scan,
            b"\xff\xd9",
        )
    )


def _segment(marker: int, body: bytes) -> bytes:
    return struct.pack(">BBH", 0xFF, marker, len(body) + 2) + body


def noise_wav(size: int, rng: np.random.Generator) -> bytes:
    """A WAV of noise, `size` bytes and 44 of header: stereo, 16 bits, 48 kHz."""
    size -= size % 4
    head = struct.pack(
        "<4sI4s4sIHHIIHH", b"RIFF", 36 + size, b"WAVE", b"fmt ", 16, 1, 2, 48000, 192000, 4, 16
    )
    return head + struct.pack("<4sI", b"data", size) + rng.bytes(size)


def noise_mp4(size: int, rng: np.random.Generator) -> bytes:
    """The boxes of a film with no track and `size` bytes of media data (ISO/IEC 14496-12); nobody can play it."""

    def box(kind: bytes, *content: bytes) -> bytes:
        body = b"".join(content)
        return struct.pack(">I", 8 + len(body)) + kind + body

    header = box(b"mvhd", bytes(12), struct.pack(">II", 1000, 1000), bytes(76), struct.pack(">I", 2))
    return b"".join(
        (box(b"ftyp", b"isom", bytes(4), b"isommp41"), box(b"moov", header), box(b"mdat", rng.bytes(size)))
    )


# --- Batch and command


def _archive(desk: Desk, device: Device, folder: Path, plan: Plan) -> Iterator[Row]:
    """Small files, so that what surrounds the verify shows; starting the workers is taken off."""
    home, archive = desk.home, folder / "archive"
    archive.mkdir()
    with resources.as_file(resources.files("tools") / "samples" / "harbour.jpg") as sample:
        source = folder / "harbour.jpg"
        source.write_bytes(sample.read_bytes())
    signed = _sign_once(desk, device, source).read_bytes()
    paths = [archive / f"{number}.jpg" for number in range(plan.archive)]
    for path in paths:
        path.write_bytes(signed)
    numbers = itertools.count()
    with beliefs(home, Chosen(), _now()) as held:
        examine = start(held.policy)

        def alone() -> None:
            for path in paths:
                _intact(examine(str(path)))

        def run(count: int, workers: int) -> None:
            results = folder / f"run-{next(numbers)}.jsonl"
            outcome = check_archive(paths[:count], "bench", results, held, workers, silent())
            if outcome.exit_status or outcome.summary.now != count:
                raise Error("a batch over files that were just signed did not answer them all")

        every = plan.archive
        by_itself, one_start, one, two_start, two = in_turn(
            plan.archive_rounds,
            alone,
            lambda: run(1, 1),
            lambda: run(every, 1),
            lambda: run(2, 2),
            lambda: run(every, 2),
        )
    itself = [taken / every for taken in by_itself]
    single = [(taken - begun) / (every - 1) for taken, begun in zip(one, one_start, strict=True)]
    double = [(taken - begun) / (every - 2) for taken, begun in zip(two, two_start, strict=True)]
    yield Row(
        f"batch of {every}, one worker, per file beyond the verify itself",
        "the worker's part of the same files, in one process",
        "ms",
        tuple(1e3 * (ours - bare) for bare, ours in zip(itself, single, strict=True)),
        Budget(Side.AT_MOST, 1),
        statistics.median(itself),
        statistics.median(single),
    )
    yield Row(
        f"batch of {every}, rate of two workers over that of one",
        "one worker",
        "x",
        tuple(lone / pair for lone, pair in zip(single, double, strict=True)),
        Budget(Side.AT_LEAST, 1.8),
        statistics.median(single),
        statistics.median(double),
    )


def _path() -> list[str]:
    return [entry or str(Path.cwd()) for entry in sys.path]


def _command(home: Home, signed: Path, plan: Plan) -> Iterator[Row]:
    command = f"import sys; sys.path[:] = {_path()!r}; from tools.cli import main; main()"

    def python(*arguments: str) -> None:
        done = subprocess.run(  # noqa: S603 -- our own interpreter and program
            [sys.executable, "-c", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            check=False,
        )
        if done.returncode:
            raise Error(f"the command that is measured ended with status {done.returncode}")

    floor, shown, verified = in_turn(
        plan.starts,
        lambda: python("pass"),
        lambda: python(command, "--help"),
        lambda: python(command, "--home", str(home.path), "verify", str(signed)),
    )
    for name, times, budget in (
        ("lightseal --help, beyond the interpreter's start", shown, Budget(Side.AT_MOST, 150)),
        (f"lightseal verify, JPEG of {_megabytes(signed)}, beyond the same", verified, None),
    ):
        yield Row(
            name,
            "python -c pass",
            "ms",
            tuple(1e3 * (ours - bare) for bare, ours in zip(floor, times, strict=True)),
            budget,
            statistics.median(floor),
            statistics.median(times),
        )


# --- The machine


def _machine(folder: Path) -> Machine:
    cpu = _text(Path("/proc/cpuinfo"))
    facts: dict[str, str] = {}
    for line in cpu.splitlines():
        name, _, value = line.partition(":")
        facts[name.strip()] = value.strip()
    flags = f"{facts.get('flags', '')} {facts.get('Features', '')}".split()
    named = ("c2pa-python", "cryptography", "sqlalchemy", "rfc3161-client", "numpy")
    return Machine(
        facts.get("model name") or platform.processor() or platform.machine(),
        os.cpu_count() or 1,
        ("yes" if {"sha_ni", "sha2"} & set(flags) else "no") if flags else "unknown",
        platform.platform(),
        platform.python_version(),
        (
            ("lightseal", VERSION),
            *((name, version(name) or "not installed") for name in named),
            ("C2PA SDK", manifest.SDK_VERSION),
            ("SQLite", sqlite3.sqlite_version),
            ("hashlib's", ssl.OPENSSL_VERSION),
        ),
        _file_system(folder.resolve(), _text(Path("/proc/self/mounts"))),
        str(iso(_now())),
        _load(),
    )


def _text(path: Path) -> str:
    return path.read_text(errors="replace") if path.exists() else ""


def _load() -> tuple[float, ...]:
    return os.getloadavg() if hasattr(os, "getloadavg") else ()


def _file_system(folder: Path, mounts: str) -> str:
    """The type of the file system mounted nearest above `folder`; of two at one place, the later."""
    nearest, kind = -1, "unknown"
    for line in mounts.splitlines():
        _, place, found, *_ = line.split(" ")
        depth = len(Path(place).parts)
        if folder.is_relative_to(place) and depth >= nearest:
            nearest, kind = depth, found
    return kind
