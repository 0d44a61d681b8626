"""Audits and watches, of one's own ledger or, over HTTP, of one that somebody else keeps."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from authn.keys import verify_note
from storage.audit import AuditReport, AuditState
from storage.checkpoint import Checkpoint, open_checkpoint
from storage.foreign.audit import Bodies, audit_onwards, audit_source
from storage.foreign.follow import Follower, Unreadable, Use, watch
from storage.foreign.source import HttpSource
from storage.ledger import Ledger
from storage.note import VerifierKey
from tools.check import bounded, log_keys
from tools.home import Home
from tools.output import put_whole

MAX_STATE_BYTES = 1 << 20


def audit_home(home: Home, state: Path | None) -> AuditReport:
    """Audit the home's ledger; with a state file, from where the last clean audit ended."""
    since = None
    if state is not None and state.exists():
        since = AuditState.parse(
            bounded(state, MAX_STATE_BYTES, "state of an audit").decode("ascii", "replace")
        )
    report = home.audit(since)
    if state is not None and report.state is not None and not report.findings:
        put_whole(state, str(report.state).encode())
    return report


def audit_foreign(url: str, keys: str, state: Path | None, bodies: Bodies) -> AuditReport:
    """Read somebody's log: whole, or with a state file what is new, proven to follow what was read before."""
    opened = _opener(log_keys(keys))
    with HttpSource(url) as source:
        if state is None:
            return audit_source(source, opened, bodies)
        return audit_onwards(Follower(source, opened, state), bodies)


def uses(
    home: Home | None, url: str | None, keys: str | None, state: Path, watched: Sequence[bytes]
) -> Iterator[Use | Unreadable]:
    """Find each use of these keys that the log gained since the last time."""
    if home is not None:
        with home.ledger_to_read() as ledger:
            yield from watch(Follower(_OwnSource(ledger), home.own.open_note, state), watched)
    elif url is not None and keys is not None:
        with HttpSource(url) as source:
            yield from watch(Follower(source, _opener(log_keys(keys)), state), watched)


def told(found: Use | Unreadable) -> str:
    """Say one use, or why nobody can say whether it is one."""
    if isinstance(found, Unreadable):
        return f"entry {found.index} cannot be read, so nobody can say whose key it concerns"
    moment = f"{found.logged_at:%Y-%m-%dT%H:%M:%SZ}"
    return f"entry {found.index} {found.kind.value} {moment} key {found.key.hex()}"


def counted(found: Sequence[Use | Unreadable], watched: Sequence[bytes]) -> str:
    """Say how many uses there were, apart from what could not be read."""
    uses = sum(isinstance(each, Use) for each in found)
    said = f"{_number(uses, 'new use', 'new uses')} of {_number(len(set(watched)), 'key', 'keys')}"
    unread = len(found) - uses
    return f"{said}; {_number(unread, 'entry', 'entries')} could not be read" if unread else said


def _number(count: int, one: str, many: str) -> str:
    return f"{count} {one if count == 1 else many}"


class _OwnSource:
    """The home's own ledger, read as a stranger would read it."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    def checkpoint(self) -> bytes:
        return self._ledger.checkpoint().encode()

    def tile(self, level: int, number: int, width: int) -> bytes:
        return self._ledger.tile(level, number, width)

    def bundle(self, number: int, width: int) -> bytes:
        return self._ledger.bundle(number, width)


def _opener(keys: tuple[VerifierKey, ...]) -> Callable[[bytes], Checkpoint]:
    return lambda note: open_checkpoint(note, keys, verify_note)
