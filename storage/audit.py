"""An audit: everything a ledger claims, derived again from the bodies of its entries.

Shares the tables with `storage.ledger` and none of its reasoning. What it cannot
show: that the whole ledger was not written anew, consistently, by someone with the
log's key; for that, give it the guard, or compare `AuditReport.root` with a checkpoint
kept elsewhere. A later audit may go on where an earlier one ended: it then derives
nothing of what stood there before, and does not see old rows that were changed since,
but for the checkpoint where it begins.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from storage import database, tables
from storage.auditing.notes import Notes
from storage.auditing.payloads import Payloads, rows_from
from storage.auditing.report import MAX_FINDINGS, AuditReport, Code, Divergence, Findings
from storage.auditing.state import AuditState
from storage.auditing.terms import Terms
from storage.checkpoint import Checkpoint
from storage.derivation import DerivedTile, DerivedTree
from storage.entry import Entry
from storage.errors import LedgerDamagedError, LedgerMissingError, MalformedError, UnknownEntryError
from storage.keyring import Sealer
from storage.merkle import TILE_HEIGHT, TILE_WIDTH, Frontier, leaf_hash
from storage.note import VerifierKey, Verify
from storage.view import CHUNK, View

__all__ = [
    "MAX_FINDINGS",
    "AuditReport",
    "AuditState",
    "Code",
    "Divergence",
    "Means",
    "audit",
    "audit_within",
]

_MAX_LEVEL = 7


@dataclass(frozen=True, slots=True)
class Means:
    """What an audit is given: whose signatures count, and what else it may look into.

    `keys` are all keys that ever signed for the log: those that no entry announced must have
    signed every checkpoint. `remembered` is what the guard knew before the audit began, for the
    log goes on meanwhile; each was published.
    """

    keys: Sequence[VerifierKey]
    verify: Verify
    sealer: Sealer | None = None
    remembered: Checkpoint | Sequence[Checkpoint] | None = None
    since: AuditState | None = None


def audit(url: str, means: Means) -> AuditReport:
    """Derive the ledger again and report every divergence, reading one snapshot in a flat amount of memory.

    Reads only. Verifies every checkpoint ever published; does not verify time-stamp
    tokens or cosignatures, nor what payloads say but for what they say of the log itself.
    """
    engine = database.open_reader(url)
    try:
        with database.transaction(engine) as connection:
            return audit_within(connection, means)
    finally:
        engine.dispose()


def audit_within(connection: sa.Connection, means: Means) -> AuditReport:
    """Audit what a transaction sees, so that it can still be taken back."""
    database.require_revision(connection)
    return _Audit(View(connection), means).run()


class _Audit:
    """One pass over the entries, with everything else merged in by position."""

    def __init__(self, view: View, means: Means) -> None:
        self._view, self._means = view, means
        self._head = view.head()
        state = means.since or AuditState(self._head.origin)
        if state.origin != self._head.origin:
            raise LedgerMissingError(
                f"The state is of an audit of {state.origin}, not of {self._head.origin}."
            )
        self._start = state.size
        self._tree = DerivedTree(Frontier(state.size, state.frontier), state.tiles)
        self._last = state.time
        self._doubled = 0
        self._findings = Findings()
        self._add = self._findings.add
        own = [key for key in means.keys if key.name == state.origin]
        self._terms = Terms(own, state.terms, state.untold)
        self._notes = Notes(view, own, means.verify, self._terms, self._findings)
        self._payloads = Payloads(view, means.sealer, self._terms, self._findings)

    def run(self) -> AuditReport:
        # The plan:
        # 1. Walk the entries: dense (I1), canonical, hashing to their leaves (I2), opened by their
        #    secrets, found by their commitments (I9) and lookups.
        # 2. Where a tile is complete, compare it (I3).
        # 3. Where a checkpoint was published, verify its signatures, and compare root and time. All
        #    then describe prefixes of one history, which is what consistency means (I5).
        # 4. Compare what is left: tiles in growth, the head and its frontier (I4), rows beyond the end,
        #    what was erased, and what the guard knows (I7).
        notes = self._notes.published(self._start)
        published = self._first(next(notes, None), notes)
        self._payloads.begin(self._start)
        for rows in self._batches():
            entries = [self._entry(row) for row in rows]  # 1
            self._submissions(rows, entries)
            self._payloads.take(rows, entries, self._notes.signed)
            for row, entry in zip(rows, entries, strict=True):
                for tile in self._tree.append(row.body):  # 2
                    self._compare_tile(tile)
                while published is not None and published.size <= self._tree.size:  # 3
                    self._notes.compare(published, self._tree, None if entry is None else _seconds(entry))
                    published = next(notes, None)
        size = self._tree.size
        if size < self._head.size:
            self._add(
                Code.ENTRY_MISSING, size, f"Entry {size} is missing below the head's {self._head.size}."
            )
        while published is not None:
            self._notes.compare(published, self._tree, None)
            published = next(notes, None)
        self._terms.close(self._notes.signed)
        self._payloads.close(size)
        self._tiles()  # 4
        self._check_head()
        self._beyond()
        if not self._start:
            self._payloads.lookups()
        kept = self._means.remembered
        self._notes.remembered([kept] if isinstance(kept, Checkpoint) else kept or (), self._tree)
        for name in database.unguarded(self._view.connection):
            said = f"The database's own protection is not as it was made: {name}."
            self._add(Code.PROTECTION_DIFFERS, self._tree.size, said)
        return self._report()

    def _report(self) -> AuditReport:
        state = AuditState(
            str(self._head.origin),
            self._tree.size,
            self._last,
            self._tree.frontier,
            {tile.level: tile.hashes for tile in self._tree.partial()},
            self._terms.known,
            self._terms.untold,
        )
        return AuditReport(
            state.origin,
            state.size,
            self._tree.root(),
            tuple(self._findings.kept),
            self._findings.omitted,
            self._start,
            self._payloads.unopened,
            state,
        )

    def _first(self, row: sa.Row[Any] | None, rest: Iterator[sa.Row[Any]]) -> sa.Row[Any] | None:
        """Compare the checkpoint that the audit goes on from; it may be the one that is served."""
        if not self._start:
            return row
        if row is None or row.size != self._start:
            said = f"Checkpoint {self._start}, where an earlier audit ended, is missing."
            self._add(Code.CHECKPOINT_MISSING, self._start, said)
            return row
        self._notes.compare(row, self._tree, self._last)
        return next(rest, None)

    def _batches(self) -> Iterator[list[sa.Row[Any]]]:
        """Yield entries with their sealed secrets, as long as no index is missing."""
        start = self._start
        while rows := rows_from(self._view.connection, start, CHUNK):
            dense = [row for place, row in enumerate(rows, start) if row.idx == place]
            yield dense
            if len(dense) < len(rows):
                return  # reported by the caller; nothing after a gap can be derived
            start += len(rows)

    def _entry(self, row: sa.Row[Any]) -> Entry | None:
        if leaf_hash(row.body) != row.leaf:
            self._add(Code.ENTRY_LEAF, row.idx, f"The body of entry {row.idx} does not hash to its leaf.")
        try:
            entry = Entry.parse(row.body)
        except MalformedError:
            self._add(Code.ENTRY_MALFORMED, row.idx, f"The body of entry {row.idx} is not an entry.")
            return None
        moment = _seconds(entry)
        if moment < self._last:
            self._add(Code.ENTRY_TIME, row.idx, f"Entry {row.idx} is dated before its predecessor.")
        self._last = moment
        return entry

    def _submissions(self, rows: Sequence[sa.Row[Any]], entries: Sequence[Entry | None]) -> None:
        """The index of commitments: without it, a record sent again would be doubled."""
        known = database.known(self._view.connection, [entry.commitment for entry in entries if entry])
        for row, entry in zip(rows, entries, strict=True):
            if entry is None or (found := known.get(entry.commitment)) == row.idx:
                continue
            if found is not None and found < row.idx and self._commitment(found) == entry.commitment:
                self._doubled += 1  # the first version told two records apart by their times
                continue
            said = f"The commitment of entry {row.idx} does not lead to it."
            self._add(Code.SUBMISSION_DIFFERS, row.idx, said)

    def _commitment(self, index: int) -> bytes | None:
        try:
            return self._view.entry(index).commitment
        except (UnknownEntryError, LedgerDamagedError):
            return None

    def _compare_tile(self, tile: DerivedTile) -> None:
        here = sa.and_(tables.tile.c.level == tile.level, tables.tile.c.number == tile.number)
        stored = self._view.connection.scalar(sa.select(tables.tile.c.data).where(here))
        if stored is None:
            self._add(Code.TILE_MISSING, tile.first, f"Tile {tile.level}/{tile.number} is missing.")
        elif stored != tile.hashes:
            said = f"Tile {tile.level}/{tile.number} is not what its entries hash to."
            self._add(Code.TILE_DIFFERS, tile.first, said)

    def _tiles(self) -> None:
        size, level, number = self._tree.size, tables.tile.c.level, tables.tile.c.number
        for tile in self._tree.partial():
            if tile.level:
                self._compare_tile(tile)
        levels = max(1, -(-size.bit_length() // TILE_HEIGHT))
        self._extra_tiles(sa.or_(level < 0, number < 0))
        for each in range(levels):
            hashes = size >> TILE_HEIGHT * each
            count = hashes // TILE_WIDTH + (1 if each and hashes % TILE_WIDTH else 0)
            self._extra_tiles(sa.and_(level == each, number >= count))
        self._extra_tiles(sa.and_(level >= levels, number >= 0))

    def _extra_tiles(self, where: sa.ColumnElement[bool]) -> None:
        query = sa.select(tables.tile.c.level, tables.tile.c.number).where(where)
        for row in self._view.connection.execute(query.execution_options(yield_per=CHUNK)):
            placed = 0 <= row.level <= _MAX_LEVEL and row.number >= 0
            first = DerivedTile(row.level, row.number, b"").first if placed else 0
            self._add(Code.TILE_EXTRA, first, f"Tile {row.level}/{row.number} has no entries.")

    def _check_head(self) -> None:
        head, size, notes = self._head, self._tree.size, self._notes
        if head.size != size:
            self._add(Code.HEAD_SIZE, size, f"The head counts {head.size} entries; there are {size}.")
        if head.root != self._tree.root():
            self._add(Code.HEAD_ROOT, size, "The head's root is not that of the entries.")
        if head.frontier != b"".join(self._tree.frontier):
            self._add(Code.HEAD_FRONTIER, size, "The head's frontier is not that of the entries.")
        if head.size != notes.newest:
            self._add(Code.CHECKPOINT_MISSING, head.size, f"The head's {head.size} has no checkpoint.")
        if size and not self._last == head.time == notes.newest_at:
            self._add(Code.HEAD_TIME, size, "The head's time is not that of the last entry and checkpoint.")

    def _beyond(self) -> None:
        """Rows that belong to no entry, and witnessed notes that no published one stands behind."""
        connection, size, idx = self._view.connection, self._tree.size, tables.entry.c.idx
        for where, said in (
            (idx < 0, "before entry 0"),
            (idx >= size, f"after the {size} that follow one another"),
        ):
            first, count = connection.execute(sa.select(sa.func.min(idx), sa.func.count()).where(where)).one()
            if count:
                self._add(Code.ENTRY_EXTRA, first, f"{count} entries stand {said}, the first as {first}.")
        there = sa.exists().where(tables.entry.c.idx == tables.secret.c.idx)
        orphans = sa.select(tables.secret.c.idx).where(~there).order_by(tables.secret.c.idx)
        for index in connection.scalars(orphans.execution_options(yield_per=CHUNK)):
            self._add(
                Code.SECRET_ORPHAN, index, f"A row of secret points to entry {index}, which is not there."
            )
        submitted = tables.submission.c.idx
        nowhere = sa.or_(submitted < 0, submitted >= size)
        astray = 0
        for index in connection.scalars(
            sa.select(submitted).where(nowhere).order_by(submitted).execution_options(yield_per=CHUNK)
        ):
            astray += 1
            self._add(
                Code.SUBMISSION_EXTRA, index, f"A commitment leads to entry {index}, which is not there."
            )
        count = connection.scalar(sa.select(sa.func.count()).select_from(tables.submission)) or 0
        if count - astray > size - self._doubled:
            said = f"{count - astray} commitments are indexed; {size} entries need fewer."
            self._add(Code.SUBMISSION_EXTRA, size, said)
        self._notes.beyond()
        self._notes.witnessed(self._start)


def _seconds(entry: Entry) -> int:
    return int(entry.logged_at.timestamp())
