"""The ledger: an append-only log of commitments in SQL, and what it can prove.

What comes out of `Ledger.prove` was checked against the checkpoint it rests on. Who
signed that checkpoint is for the reader to check, with a key from elsewhere.
"""

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import datetime
from types import TracebackType
from typing import Self

import sqlalchemy as sa

from storage import database, tables
from storage.checkpoint import Checkpoint
from storage.entry import SALT_BYTES, Entry, Kind
from storage.errors import (
    ErasedEntryError,
    ErasureUnfinishedError,
    LedgerDamagedError,
    LedgerError,
    LedgerForeignError,
    LedgerSealedError,
    MalformedError,
    MalformedPayloadError,
    NotRememberedError,
    NotWitnessedError,
    ProofError,
    ReadOnlyError,
    UnerasableError,
    UnknownEntryError,
)
from storage.growth import Locked, Sign, grow, locked
from storage.guard import Guard, GuardConflictError
from storage.keyring import KeyringOtherError, Sealer
from storage.merkle import EMPTY_ROOT, TILE_HEIGHT, TILE_WIDTH, verify_inclusion
from storage.note import Note, is_key_name
from storage.payload import canonical, parse
from storage.proof import InclusionProof
from storage.receipt import Receipt
from storage.record import Record, lookups
from storage.tile import bundle
from storage.view import CHUNK, View, parsed

_TRIED = 8


class Ledger:
    """A log in one database. Safe between threads and processes: writers take turns.

    Without a `sealer` it neither records nor shows payloads, and proves all the same what
    needs none. With a `guard`, it does not open behind what was acknowledged before.
    """

    def __init__(
        self, writing: sa.Engine | None, reading: sa.Engine, sealer: Sealer | None, guard: Guard | None
    ) -> None:
        """Take over engines made by `storage.database`; use `create` or `open`."""
        self._writing, self._reading_engine = writing, reading
        self._sealer, self._guard = sealer, guard
        self._snapshot = threading.local()
        try:
            with self._view() as view:
                database.require_revision(view.connection)
                self.origin = str(view.head().origin)
                if sealer is not None:
                    self._require_own(view, sealer)
            if guard is not None:
                guard.require(self._head, self.consistency)
        except BaseException:
            self.close()
            raise

    @classmethod
    def create(cls, url: str, origin: str, sealer: Sealer, guard: Guard | None = None) -> Self:
        """Open the ledger of `origin`, and make it first where there is none."""
        if not is_key_name(origin):
            raise LedgerForeignError(
                "An origin is one printable word without plus signs, like a host and path."
            )
        database.create(url)
        engine = database.open_writer(url)
        try:
            with database.transaction(engine) as connection:
                database.require_revision(connection)
                database.alone(connection)
                there = connection.scalar(sa.select(tables.head.c.origin))
                if there is None:
                    database.insert(connection, tables.head, [(1, origin, 0, EMPTY_ROOT, b"", 0, 0)])
                elif there != origin:
                    raise LedgerForeignError(f"The ledger is that of {there}, not of {origin}.")
        finally:
            engine.dispose()
        return cls.open(url, sealer, guard)

    @classmethod
    def open(cls, url: str, sealer: Sealer | None = None, guard: Guard | None = None) -> Self:
        """Open an existing ledger for reading and recording."""
        writing = database.open_writer(url)
        try:
            reading = database.open_reader(url)
        except LedgerError:
            writing.dispose()
            raise
        return cls(writing, reading, sealer, guard)

    @classmethod
    def open_read_only(cls, url: str, sealer: Sealer | None = None, guard: Guard | None = None) -> Self:
        """Open an existing ledger for reading; needs no permission to write."""
        return cls(None, database.open_reader(url), sealer, guard)

    def close(self) -> None:
        """Let go of the database."""
        self._reading_engine.dispose()
        if self._writing is not None:
            self._writing.dispose()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def append(self, records: Sequence[Record], at: datetime, sign: Sign) -> tuple[int, ...]:
        """Record all of `records` or none, and return their indices.

        `sign` gets a checkpoint's text and returns the signed note. A record
        already there keeps its index, however late it comes again. Where another process
        recorded while this one waited for its turn, the entries carry the time of the
        newest entry instead of the slightly older `at`.
        """
        with self._writes() as held:
            grown = grow(held, self._keys(), records, at, sign)
        # Committed: the point of no return. A crash before this line leaves the log as it was, and
        # the note just signed was seen by nobody; a crash after it loses only this reply.
        self._remember(grown.note)
        return grown.indices

    def freeze(self, record: Record, at: datetime, sign: Sign) -> int:
        """Record a last entry and take no other, ever; return its index. Proofs stay valid.

        The record is of kind `policy` and says `"change":"freeze"`, by which an audit knows it.
        """
        if record.kind is not Kind.POLICY or parse(record.payload).get("change") != "freeze":
            raise MalformedPayloadError("The last record of a ledger says that it is frozen.")
        with self._writes() as held:
            grown = grow(held, self._keys(), [record], at, sign)
            held.connection.execute(sa.update(tables.head).values(frozen=1))
        self._remember(grown.note)
        return grown.indices[0]

    @property
    def frozen(self) -> bool:
        """Whether nothing can be recorded any more."""
        with self._view() as view:
            return bool(view.head().frozen)

    def erase(self, index: int, salt: bytes, at: datetime, sign: Sign) -> int | None:
        """Forget payload, salt and lookups of an entry, and record that; the tree and every proof stay valid.

        Its key is destroyed, so that copies of the database elsewhere do not show payload and
        salt either. What still does: receipts that others hold, and older copies of the keyring;
        and who has copies of both, and a digest, can ask whether it was there. Returns the index
        of the `erase` entry, which names the erased one; nothing where it was erased before.
        Entries of kind `erase` and `policy` cannot be erased. A frozen ledger forgets, and
        cannot record it.
        """
        sealer = self._keys()
        note, logged, gone = None, None, False
        try:
            with self._writes() as held:
                view = View(held.connection)
                entry, sealed = view.entry(index), view.sealed(index)
                if entry.kind in (Kind.ERASE, Kind.POLICY):
                    raise UnerasableError(
                        f"Entry {index} is of kind {entry.kind}: audits rest on what it says."
                    )
                if sealed is None and not sealer.holds(index):
                    return None
                note = view.newest()[0]
                if not held.head.frozen:
                    record = Record(Kind.ERASE, canonical({"erased": index}), salt, entry.key)
                    grown = grow(held, sealer, [record], at, sign)
                    note, (logged,) = grown.note or note, grown.indices
                delete = sa.delete(tables.secret).where(tables.secret.c.idx == index)
                held.connection.execute(delete)
                held.connection.execute(sa.delete(tables.lookup).where(self._found_by(index, sealed)))
                # Before the commit: a crash in between leaves a row that nobody can open, which an audit names
                # and another erasure clears away. The other order would leave what was to be forgotten.
                sealer.forget(index)
                gone = True
        except LedgerError as error:
            if gone:
                raise ErasureUnfinishedError(
                    f"The key of entry {index} is destroyed, but: {error}"
                ) from error
            raise
        self._remember(note)
        return logged

    def _found_by(self, index: int, sealed: bytes | None) -> sa.ColumnElement[bool]:
        """The lookups of an entry: by their tags, or where its row is damaged by looking through all."""
        sealer, here = self._keys(), tables.lookup.c.idx == index
        if sealed is None:
            return here
        try:
            payload = sealer.unseal(index, sealed, self.origin)[SALT_BYTES:]
            tags = [sealer.tag(*each) for each in lookups(payload)]
        except (LedgerDamagedError, ErasedEntryError, MalformedError):
            return here
        return sa.and_(tables.lookup.c.tag.in_(tags), here)

    def has_published(self, note: bytes) -> bool:
        """Whether this very checkpoint is one that was signed here."""
        with self._view() as view:
            return view.published(parsed(note)) is not None

    def keep_witnessed(self, note: bytes) -> None:
        """Keep a published checkpoint with its witnesses' cosignatures, which the caller verified.

        Lines that were kept before stay: what satisfies one policy need not be taken from another.
        """
        checkpoint = parsed(note)
        new = Note.parse(note)
        here = tables.witnessed.c.size == checkpoint.size
        with self._writes() as held:
            published = View(held.connection).published(checkpoint)
            if published is None:
                raise LedgerDamagedError(f"The ledger never published this checkpoint of {checkpoint.size}.")
            kept = held.connection.scalar(sa.select(tables.witnessed.c.note).where(here))
            if kept is None:
                database.insert(held.connection, tables.witnessed, [(checkpoint.size, note, published)])
                return
            # Of several lines by one key the earliest stays: it says most about when.
            lines = {
                (line.name, line.key_id): line for line in (*new.signatures, *Note.parse(kept).signatures)
            }
            merged = bytes(Note(new.text, tuple(lines.values())))
            held.connection.execute(sa.update(tables.witnessed).where(here).values(note=merged))

    @contextmanager
    def at_once(self) -> Iterator[View]:
        """Answer everything that this thread asks inside the block from one snapshot, that of the outermost."""
        if (held := getattr(self._snapshot, "view", None)) is not None:
            yield held
            return
        with self._view() as view:
            self._snapshot.view = view
            try:
                yield view
            finally:
                del self._snapshot.view

    @property
    def size(self) -> int:
        """How many entries the newest checkpoint covers."""
        with self._view() as view:
            return view.connection.scalar(sa.select(sa.func.max(tables.checkpoint.c.size))) or 0

    def checkpoint(self) -> str:
        """Return the newest signed note."""
        with self._view() as view:
            note, _ = view.newest()
        return note.decode()

    def witnessed(self) -> str:
        """Return the newest note that enough witnesses cosigned."""
        with self._view() as view:
            note = view.witnessed()
        if note is None:
            raise NotWitnessedError("No checkpoint was witnessed yet.")
        return note.decode()

    def prove(self, index: int) -> Receipt:
        """Return a receipt for an entry; it carries no token yet.

        Under the first witnessed checkpoint that covers the entry, which dates it as well as
        witnesses can; where there is none, under the newest checkpoint.
        """
        with self._view() as view:
            entry, proof = self._inclusion(view, index)
            sealed = view.sealed(index)
        if sealed is None:
            raise ErasedEntryError(f"Payload and salt of entry {index} were erased.")
        opened = self._keys().unseal(index, sealed, self.origin)
        return Receipt(opened[SALT_BYTES:], opened[:SALT_BYTES], entry, proof)

    def inclusion(self, index: int) -> InclusionProof:
        """Return the proof alone, which needs no keys and stays when the payload is erased."""
        with self._view() as view:
            _, proof = self._inclusion(view, index)
        return proof

    def consistency(self, old: int, new: int) -> tuple[bytes, ...]:
        """Return the proof that the first `old` entries still begin the first `new`."""
        with self._view() as view:
            _, checkpoint = view.newest()
            if not 0 <= old <= new <= checkpoint.size:
                raise UnknownEntryError(
                    f"The ledger has {checkpoint.size} entries, and {old} to {new} were asked for."
                )
            return view.tree(new).consistency(old)

    def find(self, kind: str, digest: bytes) -> tuple[int, ...]:
        """Return the indices recorded under a digest, oldest first."""
        tag = self._keys().tag(kind, digest)
        with self._view() as view:
            return view.find(tag)

    def entry(self, index: int) -> Entry:
        """Return one entry, as it stands in the database."""
        with self._view() as view:
            return view.entry(index)

    def entries(self, start: int, stop: int) -> Iterator[Entry]:
        """Yield the entries from `start` up to `stop`, as far as there are any."""
        if start < 0:
            raise UnknownEntryError(f"There is no entry {start}.")
        stop = min(stop, self.size)
        for first in range(start, stop, CHUNK):
            after = min(first + CHUNK, stop)
            with self._view() as view:
                bodies = view.bodies(first, after)
            if len(bodies) != after - first:
                raise LedgerDamagedError(f"Between entries {first} and {after} one is missing.")
            yield from map(Entry.parse, bodies)

    def payload(self, index: int) -> bytes | None:
        """Return what an entry commits to, or nothing where it was erased."""
        with self._view() as view:
            view.entry(index)
            sealed = view.sealed(index)
        return None if sealed is None else self._keys().unseal(index, sealed, self.origin)[SALT_BYTES:]

    def tile(self, level: int, number: int, width: int = TILE_WIDTH) -> bytes:
        """Return a tile of hashes as c2sp.org/tlog-tiles wants it served."""
        with self._view() as view:
            _, checkpoint = view.newest()
            if level < 0 or number < 0 or not 0 < width <= TILE_WIDTH:
                raise UnknownEntryError("There is no such tile.")
            if number * TILE_WIDTH + width > checkpoint.size >> TILE_HEIGHT * level:
                raise UnknownEntryError(
                    f"The ledger of {checkpoint.size} entries does not fill this tile yet."
                )
            return view.tile(checkpoint.size, level, number, width)

    def bundle(self, number: int, width: int = TILE_WIDTH) -> bytes:
        """Return a bundle of entries as c2sp.org/tlog-tiles wants it served."""
        start = number * TILE_WIDTH
        if number < 0 or not 0 < width <= TILE_WIDTH or start + width > self.size:
            raise UnknownEntryError("The ledger does not fill this bundle yet.")
        with self._view() as view:
            return bundle(view.bodies(start, start + width))

    @contextmanager
    def _view(self) -> Iterator[View]:
        held: View | None = getattr(self._snapshot, "view", None)
        if held is not None:
            yield held
            return
        with database.transaction(self._reading_engine) as connection:
            yield View(connection)

    @contextmanager
    def _writes(self) -> Iterator[Locked]:
        if self._writing is None:
            raise ReadOnlyError("The ledger was opened for reading only.")
        with database.transaction(self._writing) as connection:
            yield locked(connection, self._guard)

    def _keys(self) -> Sealer:
        if self._sealer is None:
            raise LedgerSealedError("The ledger was opened without the keys of its payloads.")
        return self._sealer

    def _remember(self, note: bytes | None) -> None:
        """Tell the guard before the caller learns of it (I7)."""
        if note is None or self._guard is None:
            return
        try:
            self._guard.remember(note)
        except GuardConflictError:
            raise
        except LedgerError as error:
            raise NotRememberedError(f"What was submitted is recorded, but: {error}") from error

    @staticmethod
    def _inclusion(view: View, index: int) -> tuple[Entry, InclusionProof]:
        note, checkpoint = view.covering(index)
        entry = view.entry(index)
        path = view.tree(checkpoint.size).inclusion(index)
        try:
            verify_inclusion(entry.leaf, index, checkpoint.size, path, checkpoint.root)
        except ProofError as error:
            raise LedgerDamagedError(
                f"Entry {index} does not lead to the ledger's own checkpoint."
            ) from error
        return entry, InclusionProof(index, path, note)

    def _require_own(self, view: View, sealer: Sealer) -> None:
        """Refuse the keyring of another ledger: it opens none of the newest payloads that are there."""
        newest = sa.select(tables.secret).order_by(tables.secret.c.idx.desc()).limit(_TRIED)
        rows = view.connection.execute(newest).all()
        for row in rows:
            with suppress(LedgerDamagedError, ErasedEntryError, UnknownEntryError):
                sealer.unseal(row.idx, row.sealed, self.origin)
                return
        if rows:
            raise KeyringOtherError(f"The keyring opens none of the newest payloads of {self.origin}.")

    def _head(self) -> Checkpoint:
        with self._view() as view:
            head = view.head()
            newest = view.newest()[1] if head.size else Checkpoint(self.origin, 0, EMPTY_ROOT)
        if newest != Checkpoint(self.origin, head.size, head.root):
            raise LedgerDamagedError("The newest checkpoint is not that of the head.")
        return newest
