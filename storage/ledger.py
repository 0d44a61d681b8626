"""The ledger: an append-only log of commitments in SQL, and what it can prove.

What comes out of `Ledger.prove` was checked against the checkpoint it rests on. Who
signed that checkpoint is for the reader to check, with a key from elsewhere.
"""

import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, Self

import sqlalchemy as sa

from storage import payload as payloads
from storage import tables
from storage.checkpoint import MAX_SIZE, Checkpoint
from storage.entry import Entry, Kind, commitment
from storage.errors import (
    ClockError,
    EmptyLedgerError,
    ErasedEntryError,
    LedgerDamagedError,
    LedgerError,
    LedgerForeignError,
    LedgerMissingError,
    MalformedError,
    MalformedNoteError,
    ProofError,
    UnknownEntryError,
)
from storage.merkle import (
    EMPTY_ROOT,
    HASH_BYTES,
    TILE_HEIGHT,
    TILE_WIDTH,
    Frontier,
    Node,
    Tree,
    leaf_hash,
    verify_inclusion,
)
from storage.note import Note, is_key_name
from storage.proof import InclusionProof
from storage.receipt import Receipt
from storage.tile import bundle

_CHUNK = 512


@dataclass(frozen=True, slots=True)
class Lookup:
    """A private way to find an entry: a kind of key, and the key."""

    kind: str
    key: bytes


@dataclass(frozen=True, slots=True)
class Record:
    """What is to be recorded. `key` is the pseudonym of the signing key; `salt` is fresh chance."""

    kind: Kind
    payload: bytes
    salt: bytes
    key: bytes
    lookups: tuple[Lookup, ...] = ()

    def entry(self, logged_at: datetime) -> Entry:
        """Return the entry that commits to this record."""
        return Entry(self.kind, commitment(self.salt, self.payload), self.key, logged_at)


class Ledger:
    """A log in one database. Safe between threads and processes: writers take turns."""

    def __init__(self, engine: sa.Engine) -> None:
        """Take over an engine made by `storage.tables`; use `create` or `open`."""
        self._engine = engine
        self._snapshot = threading.local()
        try:
            with tables.transaction(engine) as connection:
                self.origin = _origin(connection)
        except LedgerError:
            engine.dispose()
            raise

    @classmethod
    def create(cls, url: str, origin: str) -> Self:
        """Open the ledger of `origin`, and make it first where there is none."""
        if not is_key_name(origin):
            raise LedgerForeignError(
                "An origin is one printable word without plus signs, like a host and path."
            )
        tables.create_tables(url)
        engine = tables.open_writer(url)
        try:
            with tables.transaction(engine) as connection:
                if connection.scalar(sa.select(tables.head.c.id)) is None:
                    connection.execute(
                        sa.insert(tables.head).values(
                            id=1,
                            revision=tables.REVISION,
                            origin=origin,
                            size=0,
                            root=EMPTY_ROOT,
                            frontier=b"",
                            time=0,
                        )
                    )
        except LedgerError:
            engine.dispose()
            raise
        ledger = cls(engine)
        if ledger.origin != origin:
            ledger.close()
            raise LedgerForeignError(f"The ledger is that of {ledger.origin}, not of {origin}.")
        return ledger

    @classmethod
    def open(cls, url: str) -> Self:
        """Open an existing ledger for reading and recording."""
        return cls(tables.open_writer(url))

    @classmethod
    def open_read_only(cls, url: str) -> Self:
        """Open an existing ledger for reading; needs no permission to write."""
        return cls(tables.open_reader(url))

    def close(self) -> None:
        """Let go of the database."""
        self._engine.dispose()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def append(
        self, records: Sequence[Record], at: datetime, sign: Callable[[str], bytes]
    ) -> tuple[int, ...]:
        """Record all of `records` or none, and return their indices.

        `sign` gets a checkpoint's text and returns the signed note. A record
        already there, entry for entry, keeps its index. Where another process
        recorded while this one waited for its turn, the entries carry the time of the
        newest entry instead of the slightly older `at`.
        """
        # The plan:
        # 1. Refuse what could not be proved later, before anything is locked.
        # 2. Lock the head, so that there is one writer.
        # 3. Recompute the root from the frontier; head and newest checkpoint must agree with it.
        # 4. Find the entries that are already there (I9), and refuse a clock that ran back (I8).
        # 5. Grow the tree from its frontier: O(log n) hashes an entry, two on average (RFC 6962, 2.1).
        # 6. Insert entries, secrets and lookups, at dense indices (I1).
        # 7. Complete tiles (c2sp.org/tlog-tiles).
        # 8. Move the head.
        # 9. Sign the checkpoint (c2sp.org/tlog-checkpoint), and see that it is what we asked for.
        at = at.replace(microsecond=0)
        for record in records:  # 1
            payloads.parse(record.payload)
        bodies = [record.entry(at).body for record in records]
        with tables.transaction(self._engine) as connection:
            head = connection.execute(sa.select(tables.head).with_for_update()).one()  # 2
            frontier = _frontier(connection, head)  # 3
            bodies, indices, moment = _placed(connection, records, bodies, at, head.time)  # 4
            new: list[tuple[int, bytes, bytes, Record]] = []
            nodes: list[Node] = []
            for record, body in zip(records, bodies, strict=True):  # 5
                leaf = leaf_hash(body)
                if leaf not in indices:
                    indices[leaf] = frontier.size
                    new.append((frontier.size, leaf, body, record))
                    nodes += frontier.append(leaf)
            if new:
                _insert(connection, new)  # 6
                _complete_tiles(connection, head.size, nodes)  # 7
                root = frontier.root()
                connection.execute(  # 8
                    sa.update(tables.head).values(
                        size=frontier.size, root=root, frontier=b"".join(frontier.nodes), time=moment
                    )
                )
                note = _signed(Checkpoint(self.origin, frontier.size, root), sign)  # 9
                connection.execute(
                    sa.insert(tables.checkpoint).values(size=frontier.size, note=note, time=moment)
                )
        # Committed: the point of no return. A crash before this line leaves the log as it was, and
        # the note just signed was seen by nobody; a crash after it loses only this reply.
        return tuple(indices[leaf_hash(body)] for body in bodies)

    @contextmanager
    def at_once(self) -> Iterator[None]:
        """Answer everything that this thread asks inside the block from one snapshot."""
        with tables.transaction(self._engine) as connection:
            self._snapshot.connection = connection
            try:
                yield
            finally:
                del self._snapshot.connection

    def _reading(self) -> AbstractContextManager[sa.Connection]:
        held: sa.Connection | None = getattr(self._snapshot, "connection", None)
        return tables.transaction(self._engine) if held is None else nullcontext(held)

    @property
    def size(self) -> int:
        """How many entries the newest checkpoint covers."""
        with self._reading() as connection:
            return connection.scalar(sa.select(sa.func.max(tables.checkpoint.c.size))) or 0

    def checkpoint(self) -> str:
        """Return the newest signed note."""
        with self._reading() as connection:
            note, _ = _newest(connection)
        return note.decode()

    def prove(self, index: int) -> Receipt:
        """Return a receipt for an entry under the newest checkpoint; it carries no token yet."""
        with self._reading() as connection:
            note, checkpoint = _newest(connection)
            entry = _entry(connection, index)
            opened = connection.execute(
                sa.select(tables.secret.c.salt, tables.secret.c.payload).where(tables.secret.c.idx == index)
            ).one_or_none()
            path = _tree(connection, checkpoint.size).inclusion(index)
        if opened is None:
            raise ErasedEntryError(f"Payload and salt of entry {index} were erased.")
        try:
            verify_inclusion(entry.leaf, index, checkpoint.size, path, checkpoint.root)
        except ProofError as error:
            raise LedgerDamagedError(
                f"Entry {index} does not lead to the ledger's own checkpoint."
            ) from error
        return Receipt(opened.payload, opened.salt, entry, InclusionProof(index, path, note))

    def consistency(self, old: int, new: int) -> tuple[bytes, ...]:
        """Return the proof that the first `old` entries still begin the first `new`."""
        with self._reading() as connection:
            _, checkpoint = _newest(connection)
            if not 0 <= old <= new <= checkpoint.size:
                raise UnknownEntryError(
                    f"The ledger has {checkpoint.size} entries, and {old} to {new} were asked for."
                )
            return _tree(connection, new).consistency(old)

    def find(self, kind: str, key: bytes) -> tuple[int, ...]:
        """Return the indices recorded under a lookup, oldest first."""
        found = sa.select(tables.lookup.c.idx).where(tables.lookup.c.kind == kind, tables.lookup.c.key == key)
        with self._reading() as connection:
            return tuple(connection.scalars(found.order_by(tables.lookup.c.idx)))

    def entry(self, index: int) -> Entry:
        """Return one entry, as it stands in the database."""
        with self._reading() as connection:
            return _entry(connection, index)

    def entries(self, start: int, stop: int) -> Iterator[Entry]:
        """Yield the entries from `start` up to `stop`, as far as there are any."""
        if start < 0:
            raise UnknownEntryError(f"There is no entry {start}.")
        stop = min(stop, self.size)
        for first in range(start, stop, _CHUNK):
            after = min(first + _CHUNK, stop)
            with self._reading() as connection:
                bodies = _bodies(connection, first, after)
            if len(bodies) != after - first:
                raise LedgerDamagedError(f"Between entries {first} and {after} one is missing.")
            yield from map(Entry.parse, bodies)

    def payload(self, index: int) -> bytes | None:
        """Return what an entry commits to, or nothing where it was erased."""
        with self._reading() as connection:
            _entry(connection, index)
            return connection.scalar(sa.select(tables.secret.c.payload).where(tables.secret.c.idx == index))

    def erase(self, index: int) -> None:
        """Forget payload, salt and lookups of an entry; the tree and every proof stay valid.

        The bytes are overwritten when the write-ahead log is next folded into the file,
        at the latest when the last user closes it. Does not reach backups, nor receipts
        that others hold. That it was erased is a record of its own, of kind `erase`, for
        the caller to append.
        """
        with tables.transaction(self._engine) as connection:
            _entry(connection, index)
            connection.execute(sa.delete(tables.secret).where(tables.secret.c.idx == index))
            connection.execute(sa.delete(tables.lookup).where(tables.lookup.c.idx == index))

    def tile(self, level: int, number: int, width: int = TILE_WIDTH) -> bytes:
        """Return a tile of hashes as c2sp.org/tlog-tiles wants it served."""
        with self._reading() as connection:
            _, checkpoint = _newest(connection)
            if level < 0 or number < 0 or not 0 < width <= TILE_WIDTH:
                raise UnknownEntryError("There is no such tile.")
            if number * TILE_WIDTH + width > checkpoint.size >> TILE_HEIGHT * level:
                raise UnknownEntryError(
                    f"The ledger of {checkpoint.size} entries does not fill this tile yet."
                )
            return _tile(connection, checkpoint.size, level, number, width)

    def bundle(self, number: int, width: int = TILE_WIDTH) -> bytes:
        """Return a bundle of entries as c2sp.org/tlog-tiles wants it served."""
        start = number * TILE_WIDTH
        if number < 0 or not 0 < width <= TILE_WIDTH or start + width > self.size:
            raise UnknownEntryError("The ledger does not fill this bundle yet.")
        with self._reading() as connection:
            return bundle(_bodies(connection, start, start + width))


def _origin(connection: sa.Connection) -> str:
    row = connection.execute(sa.select(tables.head.c.revision, tables.head.c.origin)).one_or_none()
    if row is None:
        raise LedgerMissingError("The ledger was begun and never finished.")
    if row.revision != tables.REVISION:
        raise LedgerForeignError(f"The ledger has schema revision {row.revision}, not {tables.REVISION}.")
    return str(row.origin)


def _frontier(connection: sa.Connection, head: sa.Row[Any]) -> Frontier:
    hashes = [head.frontier[at : at + HASH_BYTES] for at in range(0, len(head.frontier), HASH_BYTES)]
    frontier = Frontier(head.size, hashes)
    if frontier.root() != head.root:
        raise LedgerDamagedError("The head's root is not that of its frontier.")
    newest = connection.execute(
        sa.select(tables.checkpoint).order_by(tables.checkpoint.c.size.desc()).limit(1)
    ).one_or_none()
    if newest is None:
        if head.size:
            raise LedgerDamagedError("The newest checkpoint is missing.")
    elif _checkpoint(newest.note) != Checkpoint(head.origin, head.size, head.root):
        raise LedgerDamagedError("The newest checkpoint is not that of the head.")
    return frontier


def _placed(
    connection: sa.Connection, records: Sequence[Record], bodies: list[bytes], at: datetime, last: int
) -> tuple[list[bytes], dict[bytes, int], int]:
    """Return the bodies to record, the indices of those already there, and the new head's time."""
    moment = int(at.timestamp())
    indices = _known(connection, map(leaf_hash, bodies))
    missing = [number for number, body in enumerate(bodies) if leaf_hash(body) not in indices]
    if moment >= last or not missing:
        return bodies, indices, moment
    # `at` was read before the wait for the lock, so it may be that much behind, and no more.
    if last - moment > tables.LOCK_SECONDS:
        raise ClockError(f"The clock is {last - moment} seconds behind the newest entry.")
    for number in missing:
        bodies[number] = records[number].entry(datetime.fromtimestamp(last, UTC)).body
    indices |= _known(connection, (leaf_hash(bodies[number]) for number in missing))
    return bodies, indices, last


def _known(connection: sa.Connection, leaves: Iterable[bytes]) -> dict[bytes, int]:
    wanted = list(leaves)
    known: dict[bytes, int] = {}
    for at in range(0, len(wanted), _CHUNK):
        query = sa.select(tables.entry.c.leaf, tables.entry.c.idx)
        for row in connection.execute(query.where(tables.entry.c.leaf.in_(wanted[at : at + _CHUNK]))):
            known[row.leaf] = row.idx
    return known


def _insert(connection: sa.Connection, new: Sequence[tuple[int, bytes, bytes, Record]]) -> None:
    connection.execute(
        sa.insert(tables.entry), [{"idx": idx, "leaf": leaf, "body": body} for idx, leaf, body, _ in new]
    )
    connection.execute(
        sa.insert(tables.secret),
        [{"idx": idx, "salt": record.salt, "payload": record.payload} for idx, _, _, record in new],
    )
    lookups = [
        {"kind": item.kind, "key": item.key, "idx": idx}
        for idx, _, _, record in new
        for item in dict.fromkeys(record.lookups)
    ]
    if lookups:
        connection.execute(sa.insert(tables.lookup), lookups)


def _complete_tiles(connection: sa.Connection, old_size: int, nodes: Sequence[Node]) -> None:
    size = old_size + sum(node.level == 0 for node in nodes)
    full = range(old_size // TILE_WIDTH, size // TILE_WIDTH)
    rows = [
        {"level": 0, "number": number, "data": _leaves(connection, number, TILE_WIDTH)} for number in full
    ]
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
            rows.append({"level": level, "number": number, "data": hashes})
        else:
            connection.execute(sa.update(tables.tile).where(here).values(data=before + hashes))
    if rows:
        connection.execute(sa.insert(tables.tile), rows)


def _signed(checkpoint: Checkpoint, sign: Callable[[str], bytes]) -> bytes:
    note = sign(str(checkpoint))
    if Note.parse(note).text != str(checkpoint):
        raise MalformedNoteError("What was signed is not the checkpoint.")
    return note


def _newest(connection: sa.Connection) -> tuple[bytes, Checkpoint]:
    note = connection.scalar(
        sa.select(tables.checkpoint.c.note).order_by(tables.checkpoint.c.size.desc()).limit(1)
    )
    if note is None:
        raise EmptyLedgerError("Nothing was recorded yet.")
    return note, _checkpoint(note)


def _checkpoint(note: bytes) -> Checkpoint:
    try:
        return Checkpoint.parse(Note.parse(note).text)
    except MalformedError as error:
        raise LedgerDamagedError("The newest checkpoint is not one.") from error


def _entry(connection: sa.Connection, index: int) -> Entry:
    bodies = _bodies(connection, index, index + 1) if 0 <= index < MAX_SIZE - 1 else []
    if not bodies:
        raise UnknownEntryError(f"There is no entry {index}.")
    try:
        return Entry.parse(bodies[0])
    except MalformedError as error:
        raise LedgerDamagedError(f"Entry {index} is not one.") from error


def _bodies(connection: sa.Connection, start: int, stop: int) -> list[bytes]:
    idx = tables.entry.c.idx
    return list(
        connection.scalars(sa.select(tables.entry.c.body).where(idx >= start, idx < stop).order_by(idx))
    )


def _leaves(connection: sa.Connection, number: int, width: int) -> bytes:
    idx, start = tables.entry.c.idx, number * TILE_WIDTH
    query = sa.select(tables.entry.c.leaf).where(idx >= start, idx < start + width).order_by(idx)
    return b"".join(connection.scalars(query))


def _tree(connection: sa.Connection, size: int) -> Tree:
    return Tree(size, lambda level, number, width: _tile(connection, size, level, number, width))


def _tile(connection: sa.Connection, size: int, level: int, number: int, width: int) -> bytes:
    if level == 0 and (number + 1) * TILE_WIDTH > size:
        return _leaves(connection, number, width)
    data = connection.scalar(
        sa.select(tables.tile.c.data).where(tables.tile.c.level == level, tables.tile.c.number == number)
    )
    if data is None:
        raise LedgerDamagedError(f"Tile {level}/{number} is missing.")
    return bytes(data[: HASH_BYTES * width])
