"""One state of a ledger, as one transaction sees it. Reads only, and believes nothing it hands out as proven."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from storage import database, tables
from storage.checkpoint import MAX_SIZE, Checkpoint
from storage.entry import Entry
from storage.errors import (
    EmptyLedgerError,
    LedgerDamagedError,
    LedgerMissingError,
    MalformedError,
    UnknownEntryError,
)
from storage.merkle import HASH_BYTES, TILE_WIDTH, Frontier, Tree
from storage.note import Note

CHUNK = 512


@dataclass(frozen=True, slots=True)
class View:
    """What stands in the tables at one moment."""

    connection: sa.Connection

    def head(self) -> sa.Row[Any]:
        """The head."""
        row = self.connection.execute(sa.select(tables.head)).one_or_none()
        if row is None:
            raise LedgerMissingError("The ledger was begun and never finished.")
        return row

    def newest(self) -> tuple[bytes, Checkpoint]:
        """The newest signed note, and its checkpoint."""
        note = self._scalar("SELECT note FROM checkpoint ORDER BY size DESC LIMIT 1")
        if note is None:
            if self.head().size:
                raise LedgerDamagedError("The newest checkpoint is missing.")
            raise EmptyLedgerError("Nothing was recorded yet.")
        return note, parsed(note)

    def witnessed(self) -> bytes | None:
        """The newest note that enough witnesses cosigned."""
        return self.connection.scalar(
            sa.select(tables.witnessed.c.note).order_by(tables.witnessed.c.size.desc()).limit(1)
        )

    def newest_within(self, size: int) -> bytes | None:
        """The newest signed note of at most `size` entries."""
        here = tables.checkpoint.c.size
        return self.connection.scalar(
            sa.select(tables.checkpoint.c.note).where(here <= size).order_by(here.desc()).limit(1)
        )

    def witnessed_notes(self) -> Iterator[bytes]:
        """Yield every note that is kept with cosignatures, newest first, whichever policy it satisfied then."""
        here, most = tables.witnessed.c.size, MAX_SIZE - 1
        while found := self.connection.execute(
            sa.select(tables.witnessed).where(here <= most).order_by(here.desc()).limit(CHUNK)
        ).all():
            yield from (row.note for row in found)
            most = found[-1].size - 1

    def published(self, checkpoint: Checkpoint) -> int | None:
        """When this very checkpoint was signed, in seconds since 1970; nothing where it never was."""
        there = tables.checkpoint.c.size == checkpoint.size
        row = self.connection.execute(sa.select(tables.checkpoint).where(there)).one_or_none()
        return row.time if row is not None and parsed(row.note) == checkpoint else None

    def covering(self, index: int) -> tuple[bytes, Checkpoint]:
        """The first witnessed note whose tree holds the entry, which dates it best; else the newest note."""
        if not 0 <= index < MAX_SIZE:
            raise UnknownEntryError(f"There is no entry {index}.")
        note = self._scalar("SELECT note FROM witnessed WHERE size > ? ORDER BY size LIMIT 1", index)
        return self.newest() if note is None else (note, parsed(note))

    def entry(self, index: int) -> Entry:
        """One entry."""
        bodies = self.bodies(index, index + 1) if 0 <= index < MAX_SIZE - 1 else []
        if not bodies:
            raise UnknownEntryError(f"There is no entry {index}.")
        try:
            return Entry.parse(bodies[0])
        except MalformedError as error:
            raise LedgerDamagedError(f"Entry {index} is not one.") from error

    def bodies(self, start: int, stop: int) -> list[bytes]:
        """The bodies from `start` up to `stop`; fewer where some are missing."""
        query = "SELECT body FROM entry WHERE idx >= ? AND idx < ? ORDER BY idx"
        return self._column(query, start, stop)

    def sealed(self, index: int) -> bytes | None:
        """Salt and payload of an entry as they are kept, or nothing where they were erased."""
        return self._scalar("SELECT sealed FROM secret WHERE idx = ?", index)

    def find(self, tag: bytes) -> tuple[int, ...]:
        """The entries under a tag, oldest first."""
        query = sa.select(tables.lookup.c.idx).where(tables.lookup.c.tag == tag)
        return tuple(self.connection.scalars(query.order_by(tables.lookup.c.idx)))

    def tree(self, size: int) -> Tree:
        """The tree of the first `size` entries."""
        return Tree(size, lambda level, number, width: self.tile(size, level, number, width))

    def tile(self, size: int, level: int, number: int, width: int) -> bytes:
        """The first `width` hashes of a tile in the tree of `size` entries."""
        if level == 0 and (number + 1) * TILE_WIDTH > size:
            return self.leaves(number, width)
        data = self._scalar("SELECT data FROM tile WHERE level = ? AND number = ?", level, number)
        if data is None:
            raise LedgerDamagedError(f"Tile {level}/{number} is missing.")
        return bytes(data[: HASH_BYTES * width])

    def leaves(self, number: int, width: int) -> bytes:
        """The leaf hashes of a tile of level 0 from the entries themselves, joined."""
        start = number * TILE_WIDTH
        query = "SELECT leaf FROM entry WHERE idx >= ? AND idx < ? ORDER BY idx"
        return b"".join(self._column(query, start, start + width))

    def rows(self, table: sa.Table, start: int = 0) -> Iterator[sa.Row[Any]]:
        """Yield the rows of a table that counts by `idx` or `size`, in order, a chunk at a time."""
        position = table.c.idx if "idx" in table.c else table.c.size
        while found := self.connection.execute(
            sa.select(table).where(position >= start).order_by(position).limit(CHUNK)
        ).all():
            yield from found
            start = getattr(found[-1], position.name) + 1

    def _column(self, query: str, *values: int) -> list[bytes]:
        return database.column(self.connection, query, values)

    def _scalar(self, query: str, *values: int) -> bytes | None:
        return next(iter(self._column(query, *values)), None)


def parsed(note: bytes) -> Checkpoint:
    """Read a checkpoint of our own from its note."""
    try:
        return Checkpoint.parse(Note.parse(note).text)
    except MalformedError as error:
        raise LedgerDamagedError("A checkpoint of the ledger is not one.") from error


def frontier_of(size: int, joined: bytes) -> Frontier:
    """Read a frontier as the head keeps it."""
    return Frontier(size, split(joined))


def split(joined: bytes) -> Sequence[bytes]:
    """Split joined hashes."""
    return [joined[at : at + HASH_BYTES] for at in range(0, len(joined), HASH_BYTES)]
