"""An audit of a foreign log: everything it serves, derived again from the bodies of its entries.

For the log that is asked over a network or from a folder what `storage.audit` is for a
database: it goes on past the first contradiction and says which entry is wrong. What it
cannot show: that others are given the same checkpoint, or that the log was not written
anew by someone with its key; for that, compare with checkpoints kept elsewhere, as
`storage.foreign.follow` does.
"""

from collections.abc import Iterator
from contextlib import suppress
from datetime import datetime
from enum import Enum, auto

from storage.audit import MAX_FINDINGS, AuditReport, Code, Divergence
from storage.checkpoint import Checkpoint
from storage.derivation import DerivedTile, DerivedTree
from storage.entry import Entry
from storage.errors import (
    MalformedCheckpointError,
    MalformedEntryError,
    MalformedError,
    MalformedNoteError,
    NoteSignatureError,
    ProofError,
)
from storage.foreign.follow import Follower, Open, open_served
from storage.foreign.source import (
    MalformedBundleError,
    Source,
    SourceAnswerError,
    SourceMissingError,
    fetch_bodies,
    fetch_tile,
)
from storage.merkle import EMPTY_ROOT, HASH_BYTES, TILE_HEIGHT, TILE_WIDTH, Frontier, leaf_hash
from storage.note import Note, checkpoint_lines


class Bodies(Enum):
    """What the entries of the log are."""

    OURS = auto()
    """Entries of `storage.entry`: each is canonical, and none is dated before its predecessor."""
    OPAQUE = auto()
    """Some other log's; they are hashed and not read."""


def audit_source(source: Source, open_note: Open, bodies: Bodies) -> AuditReport:
    """Read the whole log under its newest checkpoint; report every divergence, in flat memory.

    A log that cannot be reached is an error; a file that it does not have, or that is
    wrong, is a finding. Where the checkpoint itself is not signed by the log there is
    nothing to compare with, and the report holds that one finding.
    """
    note = source.checkpoint()
    try:
        checkpoint = open_served(note, open_note)
    except ProofError as error:
        return _unopened(Code.CHECKPOINT_SIGNATURE, error)
    except MalformedError as error:
        return _unopened(Code.CHECKPOINT_MALFORMED, error)
    return _Audit(source, checkpoint, bodies).run()


def audit_onwards(follower: Follower, bodies: Bodies) -> AuditReport:
    """Read what the log gained since the follower's state, proven to follow what was read before.

    Each entry is judged as `audit_source` judges it, the first one beside the last of those
    read before. Where a finding begins, the state stays: the next audit begins there again. What
    contradicts an earlier checkpoint, or does not lead to this one, is raised by the follower.
    """
    before = follower.state
    frontier = Frontier() if before is None else Frontier(before.consumed, before.frontier)
    start, judged = frontier.size, _Judged(bodies)
    try:
        for chunk in follower.advance_comparing_tiles():
            if chunk.before is not None:
                judged.follow(chunk.before)
            for index, body in enumerate(chunk.bodies, chunk.start):
                frontier.append(leaf_hash(body))
                judged.entry(index, body)
            if judged.findings:
                follower.stay()
    except NoteSignatureError as error:
        return _unopened(Code.CHECKPOINT_SIGNATURE, error)
    except (MalformedNoteError, MalformedCheckpointError) as error:
        return _unopened(Code.CHECKPOINT_MALFORMED, error)
    after = follower.state
    origin = "" if after is None else checkpoint_lines(Note.parse(after.note).text)[0]
    return AuditReport(origin, frontier.size, frontier.root(), tuple(judged.findings), judged.omitted, start)


class _Judged:
    """What is wrong so far, and what the next entry must not be dated before."""

    def __init__(self, bodies: Bodies) -> None:
        self._bodies = bodies
        self._last: datetime | None = None
        self.findings: list[Divergence] = []
        self.omitted = 0

    def add(self, code: Code, index: int, explanation: str) -> None:
        if len(self.findings) < MAX_FINDINGS:
            self.findings.append(Divergence(code, index, explanation))
        else:
            self.omitted += 1

    def follow(self, body: bytes) -> None:
        """Take the time of an entry that was judged before; one that cannot be read was reported then."""
        if self._bodies is Bodies.OURS:
            with suppress(MalformedEntryError):
                self._last = Entry.parse(body).logged_at

    def entry(self, index: int, body: bytes) -> None:
        """Where entries are ours, they are canonical and their times never go back."""
        if self._bodies is Bodies.OPAQUE:
            return
        try:
            entry = Entry.parse(body)
        except MalformedEntryError:
            self.add(Code.ENTRY_MALFORMED, index, f"The body of entry {index} is not an entry.")
            return
        if self._last is not None and entry.logged_at < self._last:
            self.add(Code.ENTRY_TIME, index, f"Entry {index} is dated before its predecessor.")
        self._last = entry.logged_at


class _Audit:
    """One pass over the bundles, with each tile compared as soon as it is complete."""

    def __init__(self, source: Source, checkpoint: Checkpoint, bodies: Bodies) -> None:
        self._source = source
        self._checkpoint = checkpoint
        self._tree = DerivedTree()
        self._judged = _Judged(bodies)

    def run(self) -> AuditReport:
        # The plan:
        # 1. Read the bundles in order, strictly; after one that cannot be read nothing can be derived.
        # 2. Where they are ours, entries are canonical and their times never go back.
        # 3. Where a tile is complete, compare it with the one that is served (I3), and at the end
        #    the partial ones of this checkpoint.
        # 4. Compare the root (I4).
        for body in self._read():  # 1
            self._judged.entry(self._tree.size, body)  # 2
            for tile in self._tree.append(body):  # 3
                self._compare(tile)
        if self._tree.size == self._checkpoint.size:
            for tile in self._tree.partial():
                self._compare(tile)
        size, root = self._tree.size, self._tree.root()  # 4
        if size != self._checkpoint.size:
            said = f"Checkpoint {self._checkpoint.size} was signed; {size} entries can be read."
            self._judged.add(Code.CHECKPOINT_SIZE, size, said)
        elif root != self._checkpoint.root:
            self._judged.add(
                Code.CHECKPOINT_ROOT, size, f"Checkpoint {size} has another root than its entries."
            )
        judged = self._judged
        return AuditReport(self._checkpoint.origin, size, root, tuple(judged.findings), judged.omitted)

    def _read(self) -> Iterator[bytes]:
        size = self._checkpoint.size
        for first in range(0, size, TILE_WIDTH):
            try:
                yield from fetch_bodies(self._source, first // TILE_WIDTH, min(TILE_WIDTH, size - first))
            except MalformedBundleError as error:
                index = first + error.complete
                self._judged.add(Code.ENTRY_MISSING, index, f"Entry {index} cannot be read: {error}")
                return
            except (SourceMissingError, SourceAnswerError) as error:
                self._judged.add(Code.ENTRY_MISSING, first, f"Entry {first} cannot be read: {error}")
                return

    def _compare(self, tile: DerivedTile) -> None:
        try:
            served = fetch_tile(self._source, tile.level, tile.number, tile.width)
        except (SourceMissingError, SourceAnswerError) as error:
            said = f"Tile {tile.level}/{tile.number} cannot be read: {error}"
            self._judged.add(Code.TILE_MISSING, tile.first, said)
            return
        places = range(0, max(len(tile.hashes), len(served)), HASH_BYTES)
        wrong = [at for at in places if served[at : at + HASH_BYTES] != tile.hashes[at : at + HASH_BYTES]]
        if wrong:
            index = tile.first + (wrong[0] // HASH_BYTES << TILE_HEIGHT * tile.level)
            said = f"Tile {tile.level}/{tile.number} is not what its entries hash to, from entry {index} on."
            self._judged.add(Code.TILE_DIFFERS, index, said)


def _unopened(code: Code, error: ProofError | MalformedError) -> AuditReport:
    return AuditReport("", 0, EMPTY_ROOT, (Divergence(code, 0, f"The checkpoint: {error}"),), 0)
