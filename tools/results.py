"""Keep a run's rows so that a kill at any moment loses none and doubles none.

One JSON line per file, and beside it `<results>.run.json`, which says under which lists,
policy and engine the rows were made, and `<results>.lock`. A row is handed to the kernel as
soon as it exists, and to the disk when `sync` is called. A line that was cut short is taken
away on opening, and its file is checked again.
"""

import errno
import fcntl
import hashlib
import json
import os
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

from tools.errors import (
    DiskFullError,
    OutputExistsError,
    ResultsDamagedError,
    RunBusyError,
    RunForeignError,
    UnreadableError,
    UnwritableError,
)
from tools.output import put_whole, require_plain

_FORMAT: Final = "lightseal-run/1"
_MAX_HEADER: Final = 1 << 20
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_TEXT = rb'"(?:[^"\\]|\\.)*"'
_LINE = re.compile(
    rb'\{"failed":(?P<failed>null|%b),"headline":(?P<headline>%b),"path":(?P<path>%b),"report":\{.*\}\}\n'
    % (_TEXT, _TEXT, _TEXT)
)


@dataclass(frozen=True, slots=True)
class Row:
    """What is kept about one file: its headline, and its report as one JSON object on one line."""

    headline: str
    report: str


@dataclass(frozen=True, slots=True)
class Run:
    """A run is its results file and the rules its rows are made under."""

    results: Path
    fingerprint: Mapping[str, str]

    @property
    def header(self) -> Path:
        """Where the rules are written down."""
        return self.results.with_name(f"{self.results.name}.run.json")

    @property
    def lock(self) -> Path:
        """What a process holds while it works on the run."""
        return self.results.with_name(f"{self.results.name}.lock")

    @property
    def own_paths(self) -> frozenset[str]:
        """The run's own files, which are not media even where they lie in the tree."""
        return frozenset(str(path.resolve()) for path in (self.results, self.header, self.lock))


class Results:
    """The rows of one run, held by one process; use it in a `with` block."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._answered: set[bytes] = set()
        self._claimed: set[bytes] = set()
        self.counts: Counter[str] = Counter()
        self.failed = 0
        self._unsynced = False
        require_results(run)
        self._lock = _open(run.lock, os.O_RDWR | os.O_CREAT)
        try:
            _hold(self._lock, run)
            _settle_header(run)
            self._file = _open(run.results, os.O_RDWR | os.O_CREAT | os.O_APPEND)
        except BaseException:
            os.close(self._lock)
            raise
        try:
            self._read_back()
            _sync_folder(run.results.parent)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __len__(self) -> int:
        return len(self._answered)

    def claim(self, path: str) -> bool:
        """Whether `path` has no row and nobody is at work on it; if so, the caller is from now on."""
        key = _key(path)
        if key in self._answered or key in self._claimed:
            return False
        self._claimed.add(key)
        return True

    def append(self, path: str, failed: str | None, row: Row) -> None:
        """Add the row of `path`, which must have been claimed; `failed` says why it has no answer."""
        head = json.dumps({"failed": failed, "headline": row.headline, "path": path}, separators=(",", ":"))
        line = f'{head[:-1]},"report":{row.report}}}\n'.encode("ascii")
        if not _LINE.fullmatch(line):
            raise ValueError(f"not a row: {line[:200]!r}")
        self._claimed.remove(_key(path))
        self._write(line)
        self._answered.add(_key(path))
        self._count(failed, row.headline)

    def sync(self) -> None:
        """See the rows onto the disk."""
        if self._unsynced:
            try:
                os.fsync(self._file)
            except OSError as error:
                raise _unwritten(self._run.results, error) from error
            self._unsynced = False

    def close(self) -> None:
        """Let another process work on the run."""
        os.close(self._file)
        os.close(self._lock)

    def _write(self, line: bytes) -> None:
        end = os.lseek(self._file, 0, os.SEEK_END)
        rest = memoryview(line)
        try:
            while rest:
                rest = rest[os.write(self._file, rest) :]
        except OSError as error:
            os.ftruncate(self._file, end)
            raise _unwritten(self._run.results, error) from error
        self._unsynced = True

    def _read_back(self) -> None:
        """Learn which files are answered; take away a last line that was cut short."""
        end, number, last = 0, 0, b""
        with os.fdopen(os.dup(self._file), "rb") as rows:
            rows.seek(0)
            for line in rows:
                if last:
                    self._learn(last, number)
                    end += len(last)
                number, last = number + 1, line
        if last and _is_whole(last):
            self._learn(last, number)
        elif last:
            os.ftruncate(self._file, end)

    def _learn(self, line: bytes, number: int) -> None:
        match = _LINE.fullmatch(line)
        if match is None:
            raise ResultsDamagedError(f"line {number} of {self._run.results} is not a row")
        failed, headline, path = (json.loads(match[name]) for name in ("failed", "headline", "path"))
        if _key(path) in self._answered:
            raise ResultsDamagedError(f"line {number} of {self._run.results} answers a file again")
        self._answered.add(_key(path))
        self._count(failed, headline)

    def _count(self, failed: str | None, headline: str) -> None:
        self.counts[headline] += 1
        self.failed += failed is not None


def _key(path: str) -> bytes:
    """Sixteen bytes that stand for a path, so that memory does not grow with the length of names."""
    return hashlib.blake2b(path.encode("utf-8", "surrogatepass"), digest_size=16).digest()


def _is_whole(line: bytes) -> bool:
    """Whether a line was written to its end: a kill cuts it, a power failure can also blank a part of it."""
    try:
        json.loads(line)
    except ValueError:
        return False
    return line.endswith(b"\n")


def _open(path: Path, flags: int) -> int:
    try:
        return os.open(path, flags | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise _unwritten(path, error) from error


def _hold(lock: int, run: Run) -> None:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise RunBusyError(f"another process is writing {run.results}") from error


def require_results(run: Run) -> None:
    """Refuse what is no file, and what no run made, before anything is made beside it."""
    rows = _plain(run.results)  # first, for a folder may have no name to put another beside
    _plain(run.lock)
    # The rows are looked at before the header, which another process writes before the first row.
    if not _is_begun(run) and rows and rows.st_size:
        raise OutputExistsError(f"{run.results} exists and is not the work of a run")


def _plain(path: Path) -> os.stat_result | None:
    try:
        return require_plain(path)
    except UnwritableError as error:
        raise UnreadableError(str(error)) from error


def _settle_header(run: Run) -> None:
    """Write the rules down before the first row, unless they are there and the same."""
    if _is_begun(run):
        return
    header = json.dumps({"fingerprint": _rules(run), "format": _FORMAT}, indent=1, sort_keys=True)
    try:
        put_whole(run.header, f"{header}\n".encode("ascii"))
    except OSError as error:
        raise _unwritten(run.header, error) from error
    _sync_folder(run.header.parent)


def _rules(run: Run) -> dict[str, str]:
    return dict(sorted(run.fingerprint.items()))


def _is_begun(run: Run) -> bool:
    """Whether there is a header; it is held against the rules of this run."""
    if _plain(run.header) is None:
        return False
    rules = _rules(run)
    try:
        with run.header.open("rb") as stream:
            earlier = json.loads(stream.read(_MAX_HEADER))
    except ValueError as error:
        raise ResultsDamagedError(f"{run.header} is not JSON") from error
    except OSError as error:
        raise _unwritten(run.header, error) from error
    match earlier:
        case {"format": form, "fingerprint": dict(then)} if form == _FORMAT:
            different = sorted(
                name for name in then.keys() | rules.keys() if then.get(name) != rules.get(name)
            )
            if different:
                raise RunForeignError(f"the run was begun with another {', another '.join(different)}")
        case _:
            raise ResultsDamagedError(f"{run.header} does not describe a run")
    return True


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _unwritten(path: Path, error: OSError) -> DiskFullError | UnreadableError:
    if error.errno in _NO_ROOM:
        return DiskFullError(f"no room left to write {path}")
    return UnreadableError(f"{path} cannot be opened or written ({error.strerror})")
