"""An audit: everything a ledger claims, derived again from the bodies of its entries.

Shares the tables with `storage.ledger` and none of its reasoning. What it cannot
show: that the whole ledger was not written anew, consistently, by someone with the
log's key; for that, compare `AuditReport.root` with a checkpoint kept elsewhere.
"""

import itertools
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

import sqlalchemy as sa

from storage import payload as payloads
from storage import tables
from storage.checkpoint import Checkpoint, open_checkpoint
from storage.entry import Entry, commitment
from storage.errors import LedgerForeignError, LedgerMissingError, MalformedError, NoteSignatureError
from storage.merkle import HASH_BYTES, TILE_HEIGHT, TILE_WIDTH, Frontier, leaf_hash
from storage.note import VerifierKey, Verify

MAX_FINDINGS = 1000
INDEXED = ("binding", "claim", "media", "spki")
"""Payload fields that hold a SHA-256 in hex and by which an entry must be found."""

_HEX = re.compile(r"[0-9a-f]{64}")
_CHUNK = 1024


class Code(StrEnum):
    """The stable name of one way in which a ledger contradicts itself."""

    ENTRY_MISSING = "entry.missing"
    ENTRY_LEAF = "entry.leaf"
    ENTRY_MALFORMED = "entry.malformed"
    ENTRY_TIME = "entry.time"
    SECRET_COMMITMENT = "secret.commitment"  # noqa: S105 - a name
    SECRET_ORPHAN = "secret.orphan"  # noqa: S105 - a name
    LOOKUP_ORPHAN = "lookup.orphan"
    LOOKUP_FALSE = "lookup.false"
    LOOKUP_MISSING = "lookup.missing"
    TILE_MISSING = "tile.missing"
    TILE_DIFFERS = "tile.differs"
    TILE_EXTRA = "tile.extra"
    CHECKPOINT_MALFORMED = "checkpoint.malformed"
    CHECKPOINT_SIGNATURE = "checkpoint.signature"
    CHECKPOINT_SIZE = "checkpoint.size"
    CHECKPOINT_ROOT = "checkpoint.root"
    CHECKPOINT_TIME = "checkpoint.time"
    CHECKPOINT_MISSING = "checkpoint.missing"
    HEAD_SIZE = "head.size"
    HEAD_ROOT = "head.root"
    HEAD_FRONTIER = "head.frontier"
    HEAD_TIME = "head.time"


@dataclass(frozen=True, slots=True)
class Divergence:
    """One contradiction. `index` is the entry's, the checkpoint's size, or the tile's first leaf."""

    code: Code
    index: int
    explanation: str


@dataclass(frozen=True, slots=True)
class AuditReport:
    """What the entries add up to, and where the ledger says otherwise, in order of discovery."""

    origin: str
    size: int
    root: bytes
    findings: tuple[Divergence, ...]
    omitted: int

    @property
    def first(self) -> Divergence | None:
        """The first divergence; those after it may only be its consequences."""
        return self.findings[0] if self.findings else None


def audit(url: str, keys: Sequence[VerifierKey], verify: Verify) -> AuditReport:
    """Derive the ledger again and report every divergence, reading one snapshot in a flat amount of memory.

    Reads only. Verifies every checkpoint ever published with `keys`; does not
    verify time-stamp tokens, nor what payloads say.
    """
    engine = tables.open_reader(url)
    try:
        with tables.transaction(engine) as connection:
            return _Audit(connection, keys, verify).run()
    finally:
        engine.dispose()


class _Audit:
    """One pass over the entries, with everything else merged in by position."""

    def __init__(self, connection: sa.Connection, keys: Sequence[VerifierKey], verify: Verify) -> None:
        self._connection = connection
        self._keys = keys
        self._verify = verify
        self._head = _head(connection)
        self._frontier = Frontier()
        self._published = 0
        self._published_at = 0
        self._open_tiles: dict[int, bytearray] = {}
        self._findings: list[Divergence] = []
        self._omitted = 0

    def run(self) -> AuditReport:
        # The plan:
        # 1. Walk the entries: dense (I1), canonical, hashing to their leaves (I2), opened by their secrets.
        # 2. Where a tile is complete, compare it (I3).
        # 3. Where a checkpoint was published, verify its signature and compare its root. All
        #    then describe prefixes of one history, which is what consistency means (I5).
        # 4. Compare what is left: tiles in growth, the head and its frontier (I4), rows beyond the end,
        #    and the index, which must say what the payloads say.
        checkpoints = self._checkpoints()
        published = next(checkpoints, None)
        last: datetime | None = None
        for row in _rows(self._connection, _entries()):
            if row.idx != self._frontier.size:
                break  # reported below; nothing after a gap can be derived
            last = self._entry(row, last)  # 1
            self._grow(leaf_hash(row.body))  # 2
            while published is not None and published.size <= self._frontier.size:  # 3
                self._checkpoint(published)
                published = next(checkpoints, None)
        size = self._frontier.size
        if size < self._head.size:
            self._add(
                Code.ENTRY_MISSING, size, f"Entry {size} is missing below the head's {self._head.size}."
            )
        while published is not None:
            self._checkpoint(published)
            published = next(checkpoints, None)
        self._tiles()  # 4
        self._check_head(last)
        self._orphans()
        self._lookups()
        return AuditReport(
            str(self._head.origin), size, self._frontier.root(), tuple(self._findings), self._omitted
        )

    def _add(self, code: Code, index: int, explanation: str) -> None:
        if len(self._findings) < MAX_FINDINGS:
            self._findings.append(Divergence(code, index, explanation))
        else:
            self._omitted += 1

    def _entry(self, row: sa.Row[Any], last: datetime | None) -> datetime | None:
        if leaf_hash(row.body) != row.leaf:
            self._add(Code.ENTRY_LEAF, row.idx, f"The body of entry {row.idx} does not hash to its leaf.")
        try:
            entry = Entry.parse(row.body)
        except MalformedError:
            self._add(Code.ENTRY_MALFORMED, row.idx, f"The body of entry {row.idx} is not an entry.")
            return last
        if last is not None and entry.logged_at < last:
            self._add(Code.ENTRY_TIME, row.idx, f"Entry {row.idx} is dated before its predecessor.")
        if row.salt is not None and commitment(row.salt, row.payload) != entry.commitment:
            self._add(
                Code.SECRET_COMMITMENT, row.idx, f"The payload of entry {row.idx} is not what was recorded."
            )
        return entry.logged_at

    def _grow(self, leaf: bytes) -> None:
        for node in self._frontier.append(leaf):
            level, height = divmod(node.level, TILE_HEIGHT)
            if height == 0:
                hashes = self._open_tiles.setdefault(level, bytearray())
                hashes += node.hash
                if len(hashes) == HASH_BYTES * TILE_WIDTH:
                    self._compare_tile(level, node.position // TILE_WIDTH, bytes(hashes))
                    hashes.clear()

    def _compare_tile(self, level: int, number: int, hashes: bytes) -> None:
        first_leaf = number * TILE_WIDTH << TILE_HEIGHT * level
        stored = self._connection.scalar(
            sa.select(tables.tile.c.data).where(tables.tile.c.level == level, tables.tile.c.number == number)
        )
        if stored is None:
            self._add(Code.TILE_MISSING, first_leaf, f"Tile {level}/{number} is missing.")
        elif stored != hashes:
            self._add(
                Code.TILE_DIFFERS, first_leaf, f"Tile {level}/{number} is not what its entries hash to."
            )

    def _checkpoints(self) -> Iterator[sa.Row[Any]]:
        for row in _rows(
            self._connection, sa.select(tables.checkpoint.c.size.label("idx"), tables.checkpoint)
        ):
            if row.time < self._published_at:
                self._add(
                    Code.CHECKPOINT_TIME, row.size, f"Checkpoint {row.size} is dated before its predecessor."
                )
            self._published, self._published_at = row.size, max(row.time, self._published_at)
            yield row

    def _checkpoint(self, row: sa.Row[Any]) -> None:
        try:
            checkpoint = open_checkpoint(row.note, self._keys, self._verify)
        except NoteSignatureError as error:
            self._add(Code.CHECKPOINT_SIGNATURE, row.size, f"Checkpoint {row.size}: {error}")
            return
        except MalformedError as error:
            self._add(Code.CHECKPOINT_MALFORMED, row.size, f"Checkpoint {row.size}: {error}")
            return
        size = self._frontier.size
        if (checkpoint.size, checkpoint.origin) != (row.size, self._head.origin):
            self._add(
                Code.CHECKPOINT_MALFORMED,
                row.size,
                f"Checkpoint {row.size} is one of another size or origin.",
            )
        elif checkpoint.size != size:
            self._add(
                Code.CHECKPOINT_SIZE,
                row.size,
                f"Checkpoint {row.size} was published; {size} entries are left.",
            )
        elif checkpoint != Checkpoint(checkpoint.origin, size, self._frontier.root()):
            self._add(
                Code.CHECKPOINT_ROOT, row.size, f"Checkpoint {row.size} has another root than its entries."
            )

    def _tiles(self) -> None:
        size = self._frontier.size
        levels = max(1, -(-size.bit_length() // TILE_HEIGHT))
        for level in range(levels):
            hashes = size >> TILE_HEIGHT * level
            if level and hashes % TILE_WIDTH:
                self._compare_tile(level, hashes // TILE_WIDTH, bytes(self._open_tiles[level]))
            count = hashes // TILE_WIDTH + (1 if level and hashes % TILE_WIDTH else 0)
            self._extra_tiles(sa.and_(tables.tile.c.level == level, tables.tile.c.number >= count))
        self._extra_tiles(tables.tile.c.level >= levels)

    def _extra_tiles(self, where: sa.ColumnElement[bool]) -> None:
        for row in self._connection.execute(
            sa.select(tables.tile.c.level, tables.tile.c.number).where(where)
        ):
            first_leaf = row.number * TILE_WIDTH << TILE_HEIGHT * row.level
            self._add(Code.TILE_EXTRA, first_leaf, f"Tile {row.level}/{row.number} has no entries.")

    def _check_head(self, last: datetime | None) -> None:
        head, size = self._head, self._frontier.size
        if head.size != size:
            self._add(Code.HEAD_SIZE, size, f"The head counts {head.size} entries; there are {size}.")
        if head.root != self._frontier.root():
            self._add(Code.HEAD_ROOT, size, "The head's root is not that of the entries.")
        if head.frontier != b"".join(self._frontier.nodes):
            self._add(Code.HEAD_FRONTIER, size, "The head's frontier is not that of the entries.")
        if head.size != self._published:
            self._add(Code.CHECKPOINT_MISSING, head.size, f"The head's {head.size} has no checkpoint.")
        if last is not None and not last.timestamp() == head.time == self._published_at:
            self._add(Code.HEAD_TIME, size, "The head's time is not that of the last entry and checkpoint.")

    def _orphans(self) -> None:
        for table, code in ((tables.secret, Code.SECRET_ORPHAN), (tables.lookup, Code.LOOKUP_ORPHAN)):
            there = sa.exists().where(tables.entry.c.idx == table.c.idx)
            for index in self._connection.scalars(sa.select(table.c.idx).where(~there).order_by(table.c.idx)):
                self._add(code, index, f"A row of {table.name} points to entry {index}, which is not there.")

    def _lookups(self) -> None:
        """Derive the index again. It is no evidence, but a false one hides what was recorded."""
        index = itertools.groupby(
            self._connection.execute(sa.select(tables.lookup).order_by(tables.lookup.c.idx)),
            lambda found: found.idx,
        )
        at, found = next(index, (None, iter(())))
        for row in _rows(self._connection, sa.select(tables.secret.c.idx, tables.secret.c.payload)):
            while at is not None and at < row.idx:
                at, found = next(index, (None, iter(())))
            there = {(each.kind, each.key.hex()) for each in found} if at == row.idx else set()
            try:
                payload = payloads.parse(row.payload)
            except MalformedError:
                continue  # its commitment was compared above
            stated = {
                kind: value
                for kind, value in payload.items()
                if isinstance(value, str) and _HEX.fullmatch(value)
            }
            for kind, _ in sorted(each for each in there if stated.get(each[0], each[1]) != each[1]):
                self._add(Code.LOOKUP_FALSE, row.idx, f"The index misnames the {kind} of entry {row.idx}.")
            for kind in sorted(
                kind for kind in INDEXED if kind in stated and (kind, stated[kind]) not in there
            ):
                self._add(
                    Code.LOOKUP_MISSING, row.idx, f"The index does not know the {kind} of entry {row.idx}."
                )


def _head(connection: sa.Connection) -> sa.Row[Any]:
    head = connection.execute(sa.select(tables.head)).one_or_none()
    if head is None:
        raise LedgerMissingError("The ledger was begun and never finished.")
    if head.revision != tables.REVISION:
        raise LedgerForeignError(f"The ledger has schema revision {head.revision}, not {tables.REVISION}.")
    return head


def _entries() -> sa.Select[Any]:
    return sa.select(tables.entry, tables.secret.c.salt, tables.secret.c.payload).select_from(
        tables.entry.outerjoin(tables.secret, tables.secret.c.idx == tables.entry.c.idx)
    )


def _rows(connection: sa.Connection, query: sa.Select[Any]) -> Iterator[sa.Row[Any]]:
    """Yield the rows of a query on `idx` in order, a chunk at a time."""
    position = query.selected_columns.idx
    after = -1
    while rows := connection.execute(query.where(position > after).order_by(position).limit(_CHUNK)).all():
        yield from rows
        after = rows[-1].idx
