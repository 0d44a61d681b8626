"""Check many files in workers and report on each; what `verify`, `batch` and `demo` share."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from datetime import datetime
from importlib import metadata
from pathlib import Path
from types import TracebackType
from typing import Self

from authn.profile import Profile
from storage.note import VerifierKey
from storage.receipt import Receipt
from tools.confine import Limits
from tools.errors import Error, UnreadableError, UsageError, WorkerDiedError, WorkerTimeoutError
from tools.examine import Examined, ListFile, Policy, obstacle
from tools.home import Home
from tools.recorded import Book, weigh
from tools.report import Engine, Report
from tools.supervisor import Supervisor, Task
from tools.verdict import decide
from tools.version import VERSION

MAX_LIST_BYTES = 1 << 20
MAX_RECEIPT_BYTES = 256 << 10
LIMITS = Limits(seconds=60.0, memory=4 << 30)


@dataclass(frozen=True, slots=True)
class Beliefs:
    """Lists, the ledger and its key: everything a verdict is relative to."""

    policy: Policy
    book: Book | None
    key: VerifierKey | None
    engine: Engine

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.book is not None:
            self.book.ledger.close()


def beliefs(
    home: Home | None,
    signers: Path | None,
    time_stampers: Path | None,
    profile: Profile,
    log_key: str | None,
    at: datetime,
    now: datetime,
) -> Beliefs:
    """Lists named on the command line, else the home's; the ledger is always the home's."""
    policy = Policy(
        _read_list(signers, profile) if signers else home.signers() if home else None,
        _read_list(time_stampers, Profile.TIME_STAMPING)
        if time_stampers
        else home.time_stampers()
        if home
        else None,
        at,
    )
    lists = policy.lists()  # a list that does not parse is an error now, not once per file
    key = VerifierKey.parse(log_key) if log_key else home.log if home else None
    described = (
        (lists.signers.name, f"signing, {lists.signers.profile.value}", lists.signers.sha256.hex()),
        (lists.time_stampers.name, "time-stamping", lists.time_stampers.sha256.hex()),
    )
    engine = Engine(VERSION, metadata.version("c2pa-python"), described, now, at)
    return Beliefs(policy, Book(home.ledger_to_read(), home.log) if home else None, key, engine)


def _read_list(path: Path, profile: Profile) -> ListFile:
    return ListFile(path.stem, _bounded(path, MAX_LIST_BYTES, "trust list"), profile)


def read_receipt(path: Path) -> Receipt:
    """A receipt file, parsed; not yet checked."""
    try:
        return Receipt.parse(_bounded(path, MAX_RECEIPT_BYTES, "receipt").decode("ascii"))
    except UnicodeDecodeError as error:
        raise UnreadableError(f"the receipt {path} is not ASCII text") from error


def _bounded(path: Path, limit: int, what: str) -> bytes:
    """The bytes of a regular file, if they are not too many; a pipe would never end."""
    try:
        if not path.is_file():
            raise UnreadableError(f"the {what} {path} is not a file that can be read")
        with path.open("rb") as stream:
            data = stream.read(limit + 1)
    except OSError as error:
        raise UnreadableError(f"the {what} {path} cannot be read ({error.strerror})") from error
    if len(data) > limit:
        raise UsageError(f"{path} is too large to be a {what}")
    return data


def task(entry: str, held: Beliefs) -> Task[str, Examined]:
    """The worker's part of a check."""
    return Task(f"tools.examine:{entry}", held.policy)


def check_files(
    paths: Iterable[str], held: Beliefs, receipt: Receipt | None, entry: str
) -> Iterator[tuple[Report, bytes | None]]:
    """Report on each path, in order, with our own thumbnail where the worker made one."""
    with Supervisor(task(entry, held), 1, LIMITS) as supervisor:
        for path in paths:
            try:
                found = supervisor.ask(path)
            except (WorkerDiedError, WorkerTimeoutError) as error:
                found = died(path, error)
            yield reported(found, held, receipt), found.thumbnail


def died(path: str, error: Error) -> Examined:
    """A worker's death on a file, as what was found in it."""
    return Examined(path, None, None, None, None, obstacle(error))


def reported(found: Examined, held: Beliefs, receipt: Receipt | None) -> Report:
    """Add what the ledger knows, and decide."""
    recorded = weigh(found, held.book, receipt, held.key)
    verdict = decide(found.provenance, recorded, found.obstacle)
    return Report(found.path, found.sha256, found.size, found.kind, verdict, held.engine)


def renamed(report: Report, name: str) -> Report:
    """The same report under the name the user gave."""
    return replace(report, file=name)
