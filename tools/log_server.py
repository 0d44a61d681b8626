"""The home's log over HTTP: adding through group commit, and checkpoints that witnesses cosign.

Two things run beside the application: the sequencer's thread, and, under a policy with
a quorum, one that has each newer checkpoint cosigned. Then only what enough witnesses
saw is published; records are acknowledged as soon as they are durable.
"""

import hashlib
import json
import logging
import os
import queue
import re
import stat
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import authn.errors
import tools.errors
from authn.keys import verify_note
from storage import durable
from storage.checkpoint import Checkpoint
from storage.errors import Error, LedgerError, ProofError
from storage.growth import Sign
from storage.ledger import Ledger
from storage.merkle import verify_consistency
from storage.policy import Policy, WitnessKey
from storage.record import Record
from storage.view import parsed
from storage.witness.client import (
    Collected,
    RolledBackError,
    Submission,
    WitnessFailedError,
    collect,
    newest,
    over_http,
)
from tools.errors import HomeDamagedError, UsageError
from tools.home import Home
from tools.own_log import FILE
from tools.published import Guarded, InForce, Witnessed, counts
from tools.publisher import Publisher
from tools.serving import App

WRITERS = "writers.json"
MAX_WRITERS_BYTES = 1 << 22
WITNESS_SECONDS = 10.0
LOOK_SECONDS = 0.1
# So few that who is accepted is answered within a second, whatever else comes.
MAX_WAITING = 512
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
_log = logging.getLogger(__name__)


class RecordingFailedError(LedgerError):
    """The log's keys, or a file beside its database, could not be used."""

    code = "recording-failed"
    remedy = (
        "Look at the home's keys and the system's log; submit again then: nothing is ever recorded twice."
    )


class WritersUnreadableError(LedgerError):
    """The list of writers cannot be read, so nobody is let in."""

    code = "writers-unreadable"
    remedy = "Bring writers.json back from a backup, or remove it and make the writers anew."


class WriterExistsError(UsageError):
    """A writer of this name has a token already."""

    code = "writer-exists"
    remedy = "Choose another name, or replace the token: the old one ends then."


@dataclass(frozen=True, slots=True)
class Service:
    """What `lightseal ledger serve` was asked for."""

    policy: Policy | None
    adding: bool
    interval: float = 1.0


@contextmanager
def log_service(home: Home, service: Service) -> Iterator[App]:
    """Open everything, refuse a ledger that witnesses know to be older, and close it in the end."""
    from storage.log_add import Settings  # noqa: PLC0415 - only who serves pays for it
    from storage.log_app import log_app  # noqa: PLC0415
    from storage.sequencer import Sequencer  # noqa: PLC0415

    publisher: Publisher | None = None
    witnessed: Witnessed | None = None
    with ExitStack() as stack:
        writing = stack.enter_context(home.ledger())
        reading = stack.enter_context(home.ledger_to_read())
        guarded = Guarded(reading, home.own.guard())
        if service.policy is not None and service.policy.quorum is not None:
            policy = InForce(home.own, service.policy)
            require_not_behind(reading, policy())
            witnessed = Witnessed(reading, policy)
            publisher = stack.enter_context(
                Publisher(
                    lambda: have_cosigned(writing, guarded().encode(), policy()),
                    writing.has_published,
                    service.interval,
                )
            )
        settings = Settings(
            published=guarded if witnessed is None else witnessed,
            witnessed=None if witnessed is None else witnessed.size,
            authorise=Writers(home.path / WRITERS).named,
        )
        append = _recording(writing, home.own.signer(), publisher)
        sequencer = stack.enter_context(Sequencer(append, MAX_WAITING)) if service.adding else None
        yield log_app(reading, sequencer, settings)


def _recording(
    ledger: Ledger, sign: Sign, publisher: Publisher | None
) -> Callable[[Sequence[Record]], tuple[int, ...]]:
    def append(records: Sequence[Record]) -> tuple[int, ...]:
        if publisher is not None:
            publisher.require_sound()
        try:
            return ledger.append(records, datetime.now(UTC), sign)
        except (authn.errors.Error, tools.errors.Error) as error:
            raise RecordingFailedError(f"{error.code}: {error}") from error
        except OSError as error:  # such as no descriptor being left
            raise RecordingFailedError(str(error)) from error

    return append


def witness_once(ledger: Ledger, policy: Policy) -> Collected | None:
    """Have the newest checkpoint cosigned, and keep it; nothing where it satisfies this very policy already."""
    return have_cosigned(ledger, ledger.checkpoint().encode(), policy)


def have_cosigned(ledger: Ledger, note: bytes, policy: Policy) -> Collected | None:
    """Have a checkpoint of the ledger cosigned as `policy` wants it; what was kept for another is kept as well."""
    size = parsed(note).size
    with ledger.at_once() as view:
        kept = next((each for each in view.witnessed_notes() if parsed(each).size <= size), None)
    old = 0 if kept is None else parsed(kept).size
    if kept is not None and old == size and counts(kept, policy):
        return None
    submission = Submission(note, old, lambda before: ledger.consistency(before, size))
    exchange = over_http(WITNESS_SECONDS)
    collected = collect(submission, policy, exchange, verify_note, datetime.now(UTC), WITNESS_SECONDS)
    ledger.keep_witnessed(collected.note)
    return collected


def require_not_behind(ledger: Ledger, policy: Policy) -> None:
    """Refuse to go on from a ledger that forgot, or differs from, what one of its witnesses has cosigned (I7).

    All are asked at once. One that does not answer in time says nothing; the quorum will miss it.
    """
    for name, seen in _all_at_once(ledger.origin, policy):
        match seen:
            case Checkpoint():
                _require_held(ledger, name, seen)
            case WitnessFailedError():
                _log.warning("witness %s: %s", name, seen)
            case Error():
                raise seen
            case None:
                continue  # it saw nothing of this log yet


def _all_at_once(origin: str, policy: Policy) -> Iterator[tuple[str, Checkpoint | Error | None]]:
    """What each witness saw last, as far as they answer in time."""
    asked = [witness for witness in policy.witnesses if witness.url is not None]
    answers: queue.SimpleQueue[tuple[str, Checkpoint | Error | None]] = queue.SimpleQueue()

    def ask(witness: WitnessKey) -> None:
        try:
            seen = newest(witness, origin, policy, over_http(WITNESS_SECONDS), verify_note)
        except Error as error:
            answers.put((witness.name, error))
        else:
            answers.put((witness.name, seen))

    for witness in asked:
        # Daemons: one that hangs keeps nobody waiting.
        threading.Thread(target=ask, args=(witness,), daemon=True).start()
    deadline = time.monotonic() + WITNESS_SECONDS
    for _ in asked:
        try:
            yield answers.get(timeout=max(0.0, deadline - time.monotonic()))
        except queue.Empty:
            _log.warning("not every witness answered in time")
            return


def _require_held(ledger: Ledger, name: str, seen: Checkpoint) -> None:
    if seen.size > ledger.size:
        said = f"Witness {name} cosigned {seen.size} entries, and the ledger has {ledger.size}."
    elif not _leads_from(ledger, seen):
        said = f"Witness {name} cosigned another history of the first {seen.size} entries."
    else:
        return
    raise RolledBackError(said, seen.size, str(seen).encode())


def _leads_from(ledger: Ledger, seen: Checkpoint) -> bool:
    newest = parsed(ledger.checkpoint().encode())
    proof = () if seen.size in {0, newest.size} else ledger.consistency(seen.size, newest.size)
    try:
        verify_consistency(seen.size, newest.size, proof, seen.root, newest.root)
    except ProofError:
        return False
    return True


def require_writer_name(name: str) -> None:
    """Refuse a name that would not stay on its line."""
    if _NAME.fullmatch(name) is None:
        raise UsageError("a writer's name is 1 to 64 of a-z, 0-9, dot, dash and underscore")


def add_writer(path: Path, name: str, token: str) -> None:
    """Let whoever has `token` add entries; the file holds its digest only. Servers that run learn of it."""
    with _alone(path):
        writers = _writers(path)
        if name in writers:
            raise WriterExistsError(f"there is a writer named {name} already")
        _put(path, writers | {name: _digest(token)})


def replace_writer(path: Path, name: str, token: str) -> str | None:
    """Give a writer, who may be new, this token; one that was given before ends, and its digest is returned."""
    with _alone(path):
        writers = _writers(path)
        _put(path, writers | {name: _digest(token)})
        return writers.get(name)


def take_back(path: Path, name: str, token: str, before: str | None) -> None:
    """Undo that `token` was given, which nobody learned of; what others changed since then stays."""
    with _alone(path):
        writers = _writers(path)
        if writers.get(name) != _digest(token):
            return
        del writers[name]
        _put(path, writers if before is None else writers | {name: before})


def remove_writer(path: Path, name: str) -> None:
    """Take the right to add away, also from servers that run, within `LOOK_SECONDS`."""
    with _alone(path):
        writers = _writers(path)
        if writers.pop(name, None) is None:
            raise UsageError(f"there is no writer named {name}")
        _put(path, writers)


class Writers:
    """Who may add, as the file says, or said up to `LOOK_SECONDS` ago.

    Not looked at for each request: a call to the system lets go of the interpreter and has to wait
    until the thread that records gives it back, which costs a twentieth of the rate.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._stamp: tuple[int, int, int] | None = None
        self._names: dict[str, str] = {}
        self._next_look = 0.0
        self._read()

    def named(self, token: str) -> str | None:
        """The writer whose token this is; raises where the list cannot be read, so that nobody gets in."""
        try:
            if time.monotonic() >= self._next_look:
                if self._stamp != self._stamped():
                    self._read()
                self._next_look = time.monotonic() + LOOK_SECONDS
        except (HomeDamagedError, OSError) as error:
            raise WritersUnreadableError(str(error)) from error
        # Found by its digest: how long that takes says nothing of any token.
        return self._names.get(_digest(token))

    def _read(self) -> None:
        stamp = self._stamped()  # before the file: a change in between is seen next time
        self._names = {digest: name for name, digest in _writers(self._path).items()}
        self._stamp = stamp

    def _stamped(self) -> tuple[int, int, int] | None:
        try:
            found = self._path.stat()
        except FileNotFoundError:
            return None
        return found.st_ino, found.st_size, found.st_mtime_ns


def _digest(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Change the list while nobody else does: the lock is on a file of the home that is always there."""
    with ExitStack() as stack:
        try:
            stack.enter_context(durable.changing(path.with_name(FILE)))
        except FileNotFoundError as error:
            raise HomeDamagedError(f"{path.with_name(FILE)} is missing") from error
        yield


def _put(path: Path, writers: dict[str, str]) -> None:
    data = json.dumps(writers, indent=1, sort_keys=True).encode() + b"\n"
    if len(data) > MAX_WRITERS_BYTES:
        raise UsageError("there are too many writers; remove some first")
    durable.replace(path, data)


def _writers(path: Path) -> dict[str, str]:
    try:
        writers = json.loads(_content(path))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, RecursionError) as error:
        raise HomeDamagedError(f"{path} cannot be read") from error
    if not isinstance(writers, dict) or not all(isinstance(digest, str) for digest in writers.values()):
        raise HomeDamagedError(f"{path} is not a list of writers")
    return writers


def _content(path: Path) -> bytes:
    # A pipe or a device must neither keep us waiting nor be woken.
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise HomeDamagedError(f"{path} is not a file")
        with os.fdopen(descriptor, "rb", closefd=False) as file:
            data = file.read(MAX_WRITERS_BYTES + 1)
    finally:
        os.close(descriptor)
    if len(data) > MAX_WRITERS_BYTES:
        raise HomeDamagedError(f"{path} is too large to be a list of writers")
    return data
