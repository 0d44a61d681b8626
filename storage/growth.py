"""How one batch grows the tables, inside the transaction that `storage.ledger` opened.

Write work is O(1) an entry, amortised: a leaf, its commitment, two hashes of the tree, a
256th of a tile. The state it needs is the head's frontier, O(log n) hashes.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa

from storage import database, tables
from storage.checkpoint import Checkpoint
from storage.errors import (
    ClockError,
    ConflictingRecordError,
    EmptyLedgerError,
    LedgerDamagedError,
    LedgerFrozenError,
    LedgerMissingError,
    MalformedEntryError,
    MalformedNoteError,
    UnknownEntryError,
)
from storage.guard import Guard, RolledBackError
from storage.keyring import Sealer
from storage.merkle import TILE_HEIGHT, TILE_WIDTH, Frontier, Node, leaf_hash
from storage.note import Note
from storage.record import Record
from storage.view import View, frontier_of

WAIT_SECONDS = 10
"""How long a writer may have waited for its turn, so how much older than the newest entry its clock may be."""

Sign = Callable[[str], bytes]


@dataclass(frozen=True, slots=True)
class Grown:
    """Where records are, and a checkpoint that covers them all; nothing while the log is empty."""

    indices: tuple[int, ...]
    note: bytes | None


@dataclass(frozen=True, slots=True)
class Locked:
    """The head of a ledger that nobody else can change until the transaction ends, and what the guard knows."""

    connection: sa.Connection
    head: sa.Row[Any]
    remembered: Checkpoint | None


def locked(connection: sa.Connection, guard: Guard | None) -> Locked:
    """Lock the head, so that there is one writer, and see that nothing acknowledged is missing from it (I7).

    The guard learns of a checkpoint only once it is committed, so under the lock it is never ahead of a
    sound database; one that was put back, perhaps under a running process, is behind.
    """
    head = connection.execute(sa.select(tables.head).with_for_update()).one_or_none()
    if head is None:
        raise LedgerMissingError("The ledger was begun and never finished.")
    remembered = None if guard is None else guard.newest()
    if remembered is not None and (
        head.size < remembered.size or (head.size == remembered.size and head.root != remembered.root)
    ):
        raise RolledBackError(f"The ledger holds {head.size} entries, but acknowledged {remembered.size}.")
    return Locked(connection, head, remembered)


def grow(ledger: Locked, sealer: Sealer, records: Sequence[Record], at: datetime, sign: Sign) -> Grown:
    """Record all of `records`; those already there keep their indices."""
    # The plan:
    # 1. The head is locked, and not behind the guard.
    # 2. Recompute the root from the frontier; head and newest checkpoint must agree with it.
    # 3. Find the records that are already there (I9), and refuse a clock that ran back (I8).
    # 4. Grow the tree from its frontier: O(log n) hashes an entry, two on average (RFC 6962, 2.1).
    # 5. Insert entries, commitments, sealed secrets and lookups, at dense indices (I1).
    # 6. Complete tiles (c2sp.org/tlog-tiles).
    # 7. Move the head.
    # 8. Sign the checkpoint (c2sp.org/tlog-checkpoint), and see that it is what we asked for.
    connection, head = ledger.connection, ledger.head  # 1
    frontier = _frontier(View(connection), head)  # 2
    if not records:
        return Grown((), None)
    indices = _known(connection, records)  # 3
    fresh = list(
        {record.commitment: record for record in records if record.commitment not in indices}.values()
    )
    if not fresh:
        # Whoever recorded them may have died before the guard knew of it.
        return Grown(tuple(indices[record.commitment] for record in records), View(connection).newest()[0])
    if head.frozen:
        raise LedgerFrozenError(f"The ledger of {head.origin} is frozen at {head.size} entries.")
    moment = _moment(at, head.time)
    logged_at = datetime.fromtimestamp(moment, UTC)
    nodes: list[Node] = []
    entries: list[tuple[int, bytes, bytes]] = []
    for record in fresh:  # 4
        body = record.entry(logged_at).body
        leaf = leaf_hash(body)
        indices[record.commitment] = frontier.size
        entries.append((frontier.size, leaf, body))
        nodes += frontier.append(leaf)
    _insert(connection, sealer, head, entries, fresh)  # 5
    complete_tiles(connection, head.size, nodes)  # 6
    root = frontier.root()
    connection.execute(  # 7
        sa.update(tables.head).values(
            size=frontier.size, root=root, frontier=b"".join(frontier.nodes), time=moment
        )
    )
    note = _signed(Checkpoint(head.origin, frontier.size, root), sign)  # 8
    database.insert(connection, tables.checkpoint, [(frontier.size, note, moment)])
    return Grown(tuple(indices[record.commitment] for record in records), note)


def _frontier(view: View, head: sa.Row[Any]) -> Frontier:
    frontier = frontier_of(head.size, head.frontier)
    if frontier.root() != head.root:
        raise LedgerDamagedError("The head's root is not that of its frontier.")
    try:
        _, newest = view.newest()
    except EmptyLedgerError:
        return frontier
    if newest != Checkpoint(head.origin, head.size, head.root):
        raise LedgerDamagedError("The newest checkpoint is not that of the head.")
    return frontier


def _known(connection: sa.Connection, records: Sequence[Record]) -> dict[bytes, int]:
    """Find what is already there, and refuse what only pretends to be."""
    first: dict[bytes, Record] = {}
    for record in records:
        same = first.setdefault(record.commitment, record)
        _require_same(record, same.kind, same.key)
    found = database.known(connection, first)
    view = View(connection)
    for commitment, index in found.items():
        try:
            entry = view.entry(index)
        except UnknownEntryError as error:
            raise LedgerDamagedError(f"The index names entry {index}, which is not there.") from error
        if entry.commitment != commitment:
            raise LedgerDamagedError(f"Entry {index} is not the one that its commitment leads to.")
        _require_same(first[commitment], entry.kind, entry.key)
    return found


def _require_same(record: Record, kind: str, key: bytes) -> None:
    if (record.kind, record.key) != (kind, key):
        raise ConflictingRecordError(
            "This payload and salt were recorded as another kind or for another key."
        )


def _moment(at: datetime, last: int) -> int:
    """The time to record: `at`, or that of the newest entry where `at` was read before the wait for the lock."""
    if at.utcoffset() is None:
        raise MalformedEntryError("The time to record does not say its zone.")
    moment = int(at.timestamp())
    if last - moment > WAIT_SECONDS:
        raise ClockError(f"The clock is {last - moment} seconds behind the newest entry.")
    return max(moment, last)


def _insert(
    connection: sa.Connection,
    sealer: Sealer,
    head: sa.Row[Any],
    entries: Sequence[tuple[int, bytes, bytes]],
    records: Sequence[Record],
) -> None:
    database.insert(connection, tables.entry, entries)
    placed = [(idx, record) for (idx, _, _), record in zip(entries, records, strict=True)]
    # What is found by chance goes in sorted, so that each page of its index is visited once.
    database.insert(connection, tables.submission, sorted((record.commitment, idx) for idx, record in placed))
    secrets = [(idx, sealer.seal(idx, record.salt + record.payload, head.origin)) for idx, record in placed]
    database.insert(connection, tables.secret, secrets)
    lookups = sorted((sealer.tag(*each), idx) for idx, record in placed for each in record.lookups)
    database.insert(connection, tables.lookup, lookups)


def complete_tiles(connection: sa.Connection, old_size: int, nodes: Sequence[Node]) -> None:
    """Store the tiles that `nodes` complete or lengthen; the entries are there already."""
    size = old_size + sum(node.level == 0 for node in nodes)
    view = View(connection)
    full = range(old_size // TILE_WIDTH, size // TILE_WIDTH)
    rows = [(0, number, view.leaves(number, TILE_WIDTH)) for number in full]
    grown: dict[tuple[int, int], bytes] = {}
    for node in nodes:
        level, height = divmod(node.level, TILE_HEIGHT)
        if level and not height:
            place = level, node.position // TILE_WIDTH
            grown[place] = grown.get(place, b"") + node.hash
    for (level, number), hashes in grown.items():
        here = sa.and_(tables.tile.c.level == level, tables.tile.c.number == number)
        before = connection.scalar(sa.select(tables.tile.c.data).where(here))
        if before is None:
            rows.append((level, number, hashes))
        else:
            connection.execute(sa.update(tables.tile).where(here).values(data=before + hashes))
    database.insert(connection, tables.tile, rows)


def _signed(checkpoint: Checkpoint, sign: Sign) -> bytes:
    note = sign(str(checkpoint))
    if Note.parse(note).text != str(checkpoint):
        raise MalformedNoteError("What was signed is not the checkpoint.")
    return note
