"""Audits and watches, of one's own ledger or, over HTTP, of one that somebody else keeps."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from authn.keys import verify_note
from storage.audit import AuditReport, AuditState
from storage.checkpoint import Checkpoint, open_checkpoint
from storage.foreign.audit import Bodies, audit_source
from storage.foreign.follow import Follower, Unreadable, watch
from storage.foreign.source import HttpSource
from storage.ledger import Ledger
from storage.merkle import Frontier, leaf_hash
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
        follower = Follower(source, opened, state)
        before = follower.state
        start = 0 if before is None else before.consumed
        frontier = Frontier() if before is None else Frontier(before.consumed, before.frontier)
        origin = log_keys(keys)[0].name
        for chunk in follower.advance_comparing_tiles():
            for body in chunk.bodies:
                frontier.append(leaf_hash(body))
        return AuditReport(origin, frontier.size, frontier.root(), (), 0, start)


def uses(
    home: Home | None, url: str | None, keys: str | None, state: Path, watched: Sequence[bytes]
) -> Iterator[str]:
    """Say each use of these keys that the log gained since the last time."""
    if home is not None:
        with home.ledger_to_read() as ledger:
            yield from _uses(Follower(_OwnSource(ledger), home.own.open_note, state), watched)
    elif url is not None and keys is not None:
        with HttpSource(url) as source:
            yield from _uses(Follower(source, _opener(log_keys(keys)), state), watched)


def _uses(follower: Follower, watched: Sequence[bytes]) -> Iterator[str]:
    for found in watch(follower, watched):
        if isinstance(found, Unreadable):
            yield f"entry {found.index} cannot be read, so nobody can say whose key it concerns"
        else:
            yield f"entry {found.index} {found.kind.value} {found.logged_at:%Y-%m-%dT%H:%M:%SZ} key {found.key.hex()}"


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
