"""The home's log over HTTP: adding through group commit, and checkpoints that witnesses cosign.

Two things run beside the application: the sequencer's thread, and, under a policy with
a quorum, one that has each newer checkpoint cosigned. Then only what enough witnesses
saw is published; records are acknowledged as soon as they are durable.
"""

import hashlib
import json
import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Self

from authn.keys import verify_note
from storage.checkpoint import Checkpoint
from storage.entry import Kind
from storage.errors import EmptyLedgerError, Error, MalformedError, ProofError
from storage.ledger import Ledger
from storage.merkle import verify_consistency
from storage.policy import Policy
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
from tools.output import put_whole
from tools.serving import App

WRITERS = "writers.json"
WITNESS_SECONDS = 10.0
# So few that who is accepted is answered within a second, whatever else comes.
MAX_WAITING = 512
_log = logging.getLogger(__name__)


class KindReservedError(MalformedError):
    """A writer asked for an entry that speaks for the operator."""

    code = "kind-reserved"
    remedy = "Add entries of the kinds sign, token and revoke; the others are made by 'lightseal' itself."


@dataclass(frozen=True, slots=True)
class Service:
    """What `lightseal ledger serve` was asked for."""

    policy: Policy | None
    adding: bool
    interval: float = 1.0


@contextmanager
def log_service(home: Home, service: Service) -> Iterator[App]:
    """Open everything, refuse a ledger that witnesses know to be older, and close it in the end."""
    from storage.log_app import Settings, log_app  # noqa: PLC0415 - only who serves pays for it
    from storage.sequencer import Sequencer  # noqa: PLC0415

    witnessing = service.policy is not None and service.policy.quorum is not None
    publisher: _Publisher | None = None
    with ExitStack() as stack:
        writing = stack.enter_context(home.ledger())
        reading = stack.enter_context(home.ledger_to_read())
        if service.policy is not None and witnessing:
            require_not_behind(reading, service.policy)
            publisher = _Publisher(home, writing, service)
            stack.enter_context(publisher)
        sign = home.own.signer()

        def append(records: Sequence[Record]) -> tuple[int, ...]:
            if publisher is not None and publisher.alarm is not None:
                raise publisher.alarm
            _require_writers_own(records)
            return writing.append(records, datetime.now(UTC), sign)

        settings = Settings(
            published=reading.witnessed if witnessing else reading.checkpoint,
            witnessed=lambda: witnessed_size(reading),
            authorise=_authorise(home.path / WRITERS),
        )
        sequencer = stack.enter_context(Sequencer(append, MAX_WAITING)) if service.adding else None
        yield log_app(reading, sequencer, settings)


def _require_writers_own(records: Sequence[Record]) -> None:
    """Refuse what only the operator may say: audits and restored backups believe these kinds."""
    for record in records:
        if record.kind not in (Kind.SIGN, Kind.TOKEN, Kind.REVOKE):
            raise KindReservedError(f"An entry of kind {record.kind} is the log's own to make.")


def witness_once(ledger: Ledger, policy: Policy) -> Collected | None:
    """Have the newest checkpoint cosigned, and keep it; nothing where that was done before."""
    note = ledger.checkpoint().encode()
    size, old = parsed(note).size, witnessed_size(ledger)
    if old == size:
        return None
    submission = Submission(note, old, lambda before: ledger.consistency(before, size))
    exchange = over_http(WITNESS_SECONDS)
    collected = collect(submission, policy, exchange, verify_note, datetime.now(UTC), WITNESS_SECONDS)
    ledger.keep_witnessed(collected.note)
    return collected


def require_not_behind(ledger: Ledger, policy: Policy) -> None:
    """Refuse to go on from a ledger that forgot, or differs from, what one of its witnesses has cosigned (I7).

    A witness that does not answer says nothing; the quorum will miss it.
    """
    for witness in policy.witnesses:
        if witness.url is None:
            continue
        try:
            seen = newest(witness, ledger.origin, policy, over_http(WITNESS_SECONDS), verify_note)
        except WitnessFailedError as error:
            _log.warning("witness %s: %s", witness.name, error)
            continue
        if seen is not None and seen.size > ledger.size:
            raise RolledBackError(
                f"Witness {witness.name} cosigned {seen.size} entries, and the ledger has {ledger.size}.",
                seen.size,
                str(seen).encode(),
            )
        if seen is not None and not _leads_from(ledger, seen):
            raise RolledBackError(
                f"Witness {witness.name} cosigned another history of the first {seen.size} entries.",
                seen.size,
                str(seen).encode(),
            )


def _leads_from(ledger: Ledger, seen: Checkpoint) -> bool:
    newest = parsed(ledger.checkpoint().encode())
    proof = () if seen.size in {0, newest.size} else ledger.consistency(seen.size, newest.size)
    try:
        verify_consistency(seen.size, newest.size, proof, seen.root, newest.root)
    except ProofError:
        return False
    return True


def witnessed_size(ledger: Ledger) -> int:
    """How many entries the newest witnessed checkpoint covers."""
    try:
        return parsed(ledger.witnessed().encode()).size
    except EmptyLedgerError:
        return 0


class _Publisher:
    """A thread that has each newer checkpoint cosigned, until the block ends.

    Any proof that the log forgot what it published is fatal (I7): it sets the alarm, after
    which nothing is recorded any more.
    """

    def __init__(self, home: Home, ledger: Ledger, service: Service) -> None:
        self._home, self._ledger = home, ledger
        self._policy, self._interval = service.policy, service.interval
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="publisher")
        self.alarm: RolledBackError | None = None

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._ended.wait(self._interval):
            try:
                if self._policy is not None:
                    # The log's keys as they are now: a server outlives rotations.
                    witness_once(self._ledger, self._policy.trusting(self._home.own.as_saved().keys))
            except EmptyLedgerError:
                continue
            except RolledBackError as error:
                # Proof is what our log signed and this ledger does not hold; a claim alone stops nobody.
                if error.evidence and not self._ledger.has_published(error.evidence):
                    self.alarm = error
                    _log.critical("%s: %s %s", error.code, error, error.remedy)
                    return
                _log.warning("%s: %s", error.code, error)
            except Error as error:
                _log.warning("%s: %s", error.code, error)


def add_writer(path: Path, name: str, token: str) -> None:
    """Let whoever has `token` add entries; the file holds its digest only."""
    writers = _writers(path)
    writers[name] = hashlib.sha256(token.encode()).hexdigest()
    _put(path, writers)


def remove_writer(path: Path, name: str) -> None:
    """Take the right to add away; servers that run learn of it when they start again."""
    writers = _writers(path)
    if writers.pop(name, None) is None:
        raise UsageError(f"there is no writer named {name}")
    _put(path, writers)


def _put(path: Path, writers: dict[str, str]) -> None:
    put_whole(path, json.dumps(writers, indent=1, sort_keys=True).encode() + b"\n")
    path.chmod(0o600)


def _writers(path: Path) -> dict[str, str]:
    try:
        writers = json.loads(path.read_bytes())
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, RecursionError) as error:
        raise HomeDamagedError(f"{path} cannot be read") from error
    if not isinstance(writers, dict) or not all(isinstance(digest, str) for digest in writers.values()):
        raise HomeDamagedError(f"{path} is not a list of writers")
    return writers


def _authorise(path: Path) -> Callable[[str], str | None]:
    # Found by its digest: how long that takes says nothing of any token.
    names = {digest: name for name, digest in _writers(path).items()}
    return lambda token: names.get(hashlib.sha256(token.encode()).hexdigest())
