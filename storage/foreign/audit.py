"""An audit of a foreign log: everything it serves, derived again from the bodies of its entries.

For the log that is asked over a network or from a folder what `storage.audit` is for a
database: it goes on past the first contradiction and says which entry is wrong. What it
cannot show: that others are given the same checkpoint, or that the log was not written
anew by someone with its key; for that, compare with checkpoints kept elsewhere, as
`storage.foreign.follow` does.
"""

from collections.abc import Iterator
from datetime import datetime
from enum import Enum, auto

from storage.audit import MAX_FINDINGS, AuditReport, Code, Divergence
from storage.checkpoint import Checkpoint
from storage.derivation import DerivedTile, DerivedTree
from storage.entry import Entry
from storage.errors import MalformedEntryError, MalformedError, ProofError
from storage.foreign.follow import Open
from storage.foreign.source import (
    MalformedBundleError,
    Source,
    SourceAnswerError,
    SourceMissingError,
    fetch_bodies,
    fetch_tile,
)
from storage.merkle import EMPTY_ROOT, HASH_BYTES, TILE_HEIGHT, TILE_WIDTH


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
        checkpoint = open_note(note)
    except ProofError as error:
        return _unopened(Code.CHECKPOINT_SIGNATURE, error)
    except MalformedError as error:
        return _unopened(Code.CHECKPOINT_MALFORMED, error)
    return _Audit(source, checkpoint, bodies).run()


class _Audit:
    """One pass over the bundles, with each tile compared as soon as it is complete."""

    def __init__(self, source: Source, checkpoint: Checkpoint, bodies: Bodies) -> None:
        self._source = source
        self._checkpoint = checkpoint
        self._bodies = bodies
        self._tree = DerivedTree()
        self._last: datetime | None = None
        self._findings: list[Divergence] = []
        self._omitted = 0

    def run(self) -> AuditReport:
        # The plan:
        # 1. Read the bundles in order, strictly; after one that cannot be read nothing can be derived.
        # 2. Where they are ours, entries are canonical and their times never go back.
        # 3. Where a tile is complete, compare it with the one that is served (I3), and at the end
        #    the partial ones of this checkpoint.
        # 4. Compare the root (I4).
        for body in self._read():  # 1
            if self._bodies is Bodies.OURS:
                self._entry(body)  # 2
            for tile in self._tree.append(body):  # 3
                self._compare(tile)
        if self._tree.size == self._checkpoint.size:
            for tile in self._tree.partial():
                self._compare(tile)
        size, root = self._tree.size, self._tree.root()  # 4
        if size != self._checkpoint.size:
            said = f"Checkpoint {self._checkpoint.size} was signed; {size} entries can be read."
            self._add(Code.CHECKPOINT_SIZE, size, said)
        elif root != self._checkpoint.root:
            self._add(Code.CHECKPOINT_ROOT, size, f"Checkpoint {size} has another root than its entries.")
        return AuditReport(self._checkpoint.origin, size, root, tuple(self._findings), self._omitted)

    def _add(self, code: Code, index: int, explanation: str) -> None:
        if len(self._findings) < MAX_FINDINGS:
            self._findings.append(Divergence(code, index, explanation))
        else:
            self._omitted += 1

    def _read(self) -> Iterator[bytes]:
        size = self._checkpoint.size
        for first in range(0, size, TILE_WIDTH):
            try:
                yield from fetch_bodies(self._source, first // TILE_WIDTH, min(TILE_WIDTH, size - first))
            except MalformedBundleError as error:
                index = first + error.complete
                self._add(Code.ENTRY_MISSING, index, f"Entry {index} cannot be read: {error}")
                return
            except (SourceMissingError, SourceAnswerError) as error:
                self._add(Code.ENTRY_MISSING, first, f"Entry {first} cannot be read: {error}")
                return

    def _entry(self, body: bytes) -> None:
        index = self._tree.size
        try:
            entry = Entry.parse(body)
        except MalformedEntryError:
            self._add(Code.ENTRY_MALFORMED, index, f"The body of entry {index} is not an entry.")
            return
        if self._last is not None and entry.logged_at < self._last:
            self._add(Code.ENTRY_TIME, index, f"Entry {index} is dated before its predecessor.")
        self._last = entry.logged_at

    def _compare(self, tile: DerivedTile) -> None:
        try:
            served = fetch_tile(self._source, tile.level, tile.number, tile.width)
        except (SourceMissingError, SourceAnswerError) as error:
            said = f"Tile {tile.level}/{tile.number} cannot be read: {error}"
            self._add(Code.TILE_MISSING, tile.first, said)
            return
        places = range(0, max(len(tile.hashes), len(served)), HASH_BYTES)
        wrong = [at for at in places if served[at : at + HASH_BYTES] != tile.hashes[at : at + HASH_BYTES]]
        if wrong:
            index = tile.first + (wrong[0] // HASH_BYTES << TILE_HEIGHT * tile.level)
            said = f"Tile {tile.level}/{tile.number} is not what its entries hash to, from entry {index} on."
            self._add(Code.TILE_DIFFERS, index, said)


def _unopened(code: Code, error: ProofError | MalformedError) -> AuditReport:
    return AuditReport("", 0, EMPTY_ROOT, (Divergence(code, 0, f"The checkpoint: {error}"),), 0)
