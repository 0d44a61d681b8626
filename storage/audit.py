"""An audit: everything a ledger claims, derived again from the bodies of its entries.

Shares the tables with `storage.ledger` and none of its reasoning. What it cannot
show: that the whole ledger was not written anew, consistently, by someone with the
log's key; for that, give it the guard, or compare `AuditReport.root` with a checkpoint
kept elsewhere. A later audit may go on where an earlier one ended: it then derives
nothing of what stood there before, and does not see old rows that were changed since.
"""

import dataclasses
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Self

import sqlalchemy as sa

from storage import base64text, database, tables
from storage import payload as payloads
from storage.checkpoint import Checkpoint, open_checkpoint
from storage.derivation import DerivedTile, DerivedTree
from storage.entry import SALT_BYTES, Entry, Kind, commitment
from storage.errors import (
    LedgerDamagedError,
    LedgerMissingError,
    MalformedError,
    NoteSignatureError,
    ProofError,
    UnknownEntryError,
)
from storage.keyring import Sealer
from storage.merkle import HASH_BYTES, TILE_HEIGHT, TILE_WIDTH, Frontier, leaf_hash, verify_consistency
from storage.note import Note, VerifierKey, Verify
from storage.record import lookups
from storage.view import View, split

MAX_FINDINGS = 1000


class Code(StrEnum):
    """The stable name of one way in which a ledger contradicts itself."""

    ENTRY_MISSING = "entry.missing"
    ENTRY_LEAF = "entry.leaf"
    ENTRY_MALFORMED = "entry.malformed"
    ENTRY_TIME = "entry.time"
    SUBMISSION_DIFFERS = "submission.differs"
    SUBMISSION_EXTRA = "submission.extra"
    SECRET_COMMITMENT = "secret.commitment"  # noqa: S105 - a name
    SECRET_MISSING = "secret.missing"  # noqa: S105 - a name
    SECRET_ORPHAN = "secret.orphan"  # noqa: S105 - a name
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
    WITNESSED_DIFFERS = "witnessed.differs"
    HEAD_SIZE = "head.size"
    HEAD_ROOT = "head.root"
    HEAD_FRONTIER = "head.frontier"
    HEAD_TIME = "head.time"
    HISTORY_FORGOTTEN = "history.forgotten"


@dataclass(frozen=True, slots=True)
class Divergence:
    """One contradiction. `index` is the entry's, the checkpoint's size, or the tile's first leaf."""

    code: Code
    index: int
    explanation: str


@dataclass(frozen=True, slots=True)
class AuditState:
    """Where an audit ended: all that a later one needs to go on from there."""

    origin: str
    size: int = 0
    time: int = 0
    frontier: tuple[bytes, ...] = ()
    tiles: Mapping[int, bytes] = field(default_factory=dict)

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read the text form, accepting only what `str` would write."""
        try:
            fields = json.loads(text)
            state = cls(
                fields["origin"],
                fields["size"],
                fields["time"],
                tuple(split(base64text.decode(fields["frontier"]))),
                {int(level): base64text.decode(hashes) for level, hashes in fields["tiles"].items()},
            )
            same = str(state) == text and state._is_possible()
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError, LedgerDamagedError) as error:
            raise MalformedError("The text is not the state of an audit.") from error
        if not same:
            raise MalformedError("The text is not the state of an audit as we would write it.")
        return state

    def _is_possible(self) -> bool:
        """Whether a tree of this size has such a frontier and such tiles in growth."""
        if type(self.origin) is not str or type(self.size) is not int or type(self.time) is not int:
            return False
        levels = range(-(-Frontier(self.size, self.frontier).size.bit_length() // TILE_HEIGHT))
        growing = {level: (self.size >> TILE_HEIGHT * level) % TILE_WIDTH for level in levels}
        return {level: len(hashes) for level, hashes in self.tiles.items()} == {
            level: HASH_BYTES * count for level, count in growing.items() if count
        }

    def __str__(self) -> str:
        fields = dataclasses.asdict(self) | {
            "frontier": base64text.encode(b"".join(self.frontier)),
            "tiles": {str(level): base64text.encode(hashes) for level, hashes in self.tiles.items()},
        }
        return json.dumps(fields, sort_keys=True) + "\n"


@dataclass(frozen=True, slots=True)
class AuditReport:
    """What the entries add up to, and where the ledger says otherwise, in order of discovery.

    `start` is where the audit began, `unopened` counts payloads that were there and for
    which it was given no keys; `state` is where a later audit may go on.
    """

    origin: str
    size: int
    root: bytes
    findings: tuple[Divergence, ...]
    omitted: int
    start: int = 0
    unopened: int = 0
    state: AuditState | None = None

    @property
    def first(self) -> Divergence | None:
        """The first divergence; those after it may only be its consequences."""
        return self.findings[0] if self.findings else None


@dataclass(frozen=True, slots=True)
class Means:
    """What an audit is given: whose signatures count, and what else it may look into.

    `remembered` is what the guard knew before the audit began, for the log goes on meanwhile.
    """

    keys: Sequence[VerifierKey]
    verify: Verify
    sealer: Sealer | None = None
    remembered: Checkpoint | None = None
    since: AuditState | None = None


def audit(url: str, means: Means) -> AuditReport:
    """Derive the ledger again and report every divergence, reading one snapshot in a flat amount of memory.

    Reads only. Verifies every checkpoint ever published; does not verify time-stamp
    tokens or cosignatures, nor what payloads say.
    """
    engine = database.open_reader(url)
    try:
        with database.transaction(engine) as connection:
            database.require_revision(connection)
            return _Audit(View(connection), means).run()
    finally:
        engine.dispose()


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
        self._published = self._published_at = 0
        self._last = state.time
        self._findings: list[Divergence] = []
        self._omitted = self._unopened = self._expected_lookups = self._doubled = 0
        self._erased: set[int] = set()
        self._silent: set[int] = set()

    def run(self) -> AuditReport:
        # The plan:
        # 1. Walk the entries: dense (I1), canonical, hashing to their leaves (I2), opened by their
        #    secrets, found by their commitments (I9) and lookups.
        # 2. Where a tile is complete, compare it (I3).
        # 3. Where a checkpoint was published, verify its signature and compare its root. All
        #    then describe prefixes of one history, which is what consistency means (I5).
        # 4. Compare what is left: tiles in growth, the head and its frontier (I4), rows beyond the end,
        #    and what the guard knows (I7).
        checkpoints = self._checkpoints()
        published = next(checkpoints, None)
        for rows in self._batches():
            entries = [self._entry(row) for row in rows]  # 1
            self._submissions(rows, entries)
            self._secrets(rows, entries)
            for row in rows:
                for tile in self._tree.append(row.body):  # 2
                    self._compare_tile(tile)
                while published is not None and published.size <= self._tree.size:  # 3
                    self._checkpoint(published)
                    published = next(checkpoints, None)
        size = self._tree.size
        if size < self._head.size:
            self._add(
                Code.ENTRY_MISSING, size, f"Entry {size} is missing below the head's {self._head.size}."
            )
        while published is not None:
            self._checkpoint(published)
            published = next(checkpoints, None)
        # Which entries were erased is told by payloads: without keys a gap may be rightly there, and
        # in a frozen ledger, which records nothing more.
        told = self._means.sealer is not None and not self._head.frozen
        for index in sorted(self._silent - self._erased if told else ()):
            self._add(
                Code.SECRET_MISSING,
                index,
                f"The payload of entry {index} is gone; no entry says it was erased.",
            )
        self._tiles()  # 4
        self._check_head()
        self._beyond()
        self._check_lookups()
        self._check_guard()
        state = AuditState(
            str(self._head.origin),
            size,
            self._last,
            self._tree.frontier,
            {tile.level: tile.hashes for tile in self._tree.partial()},
        )
        return AuditReport(
            state.origin,
            size,
            self._tree.root(),
            tuple(self._findings),
            self._omitted,
            self._start,
            self._unopened,
            state,
        )

    def _add(self, code: Code, index: int, explanation: str) -> None:
        if len(self._findings) < MAX_FINDINGS:
            self._findings.append(Divergence(code, index, explanation))
        else:
            self._omitted += 1

    def _batches(self) -> Iterator[list[sa.Row[Any]]]:
        """Yield entries with their sealed secrets, as long as no index is missing."""
        query = (
            sa.select(tables.entry, tables.secret.c.sealed)
            .select_from(tables.entry.outerjoin(tables.secret, tables.secret.c.idx == tables.entry.c.idx))
            .order_by(tables.entry.c.idx)
        )
        start = self._start
        while rows := self._view.connection.execute(
            query.where(tables.entry.c.idx >= start).limit(512)
        ).all():
            dense = [row for place, row in enumerate(rows, start) if row.idx == place]
            yield list(dense)
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
        moment = int(entry.logged_at.timestamp())
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

    def _secrets(self, rows: Sequence[sa.Row[Any]], entries: Sequence[Entry | None]) -> None:
        sealer = self._means.sealer
        expected: list[tuple[bytes, int, str]] = []
        for row, entry in zip(rows, entries, strict=True):
            if row.sealed is None:
                self._silent.add(row.idx)
            elif sealer is None:
                self._unopened += 1
            elif (payload := self._opened(sealer, row, entry)) is not None:
                if entry is not None and entry.kind is Kind.ERASE:
                    erased = payloads.parse(payload).get("erased")
                    self._erased |= {erased} if isinstance(erased, int) else set()
                expected += [(sealer.tag(*each), row.idx, each.kind) for each in lookups(payload)]
        self._expected_lookups += len({(tag, index) for tag, index, _ in expected})
        found = self._found([tag for tag, _, _ in expected])
        for tag, index, kind in expected:
            if (tag, index) not in found:
                self._add(Code.LOOKUP_MISSING, index, f"The index does not know the {kind} of entry {index}.")

    def _opened(self, sealer: Sealer, row: sa.Row[Any], entry: Entry | None) -> bytes | None:
        try:
            opened = sealer.unseal(row.idx, row.sealed, self._head.origin)
            salt, payload = opened[:SALT_BYTES], opened[SALT_BYTES:]
            payloads.parse(payload)
            good = entry is None or commitment(salt, payload) == entry.commitment
        except UnknownEntryError:  # its key was destroyed, so it is as good as gone
            self._silent.add(row.idx)
            return None
        except (MalformedError, LedgerDamagedError):
            good, payload = False, b""
        if not good:
            self._add(
                Code.SECRET_COMMITMENT, row.idx, f"The payload of entry {row.idx} is not what was recorded."
            )
        return payload if good else None

    def _found(self, tags: Sequence[bytes]) -> set[tuple[bytes, int]]:
        found: set[tuple[bytes, int]] = set()
        for at in range(0, len(tags), 512):
            query = sa.select(tables.lookup).where(tables.lookup.c.tag.in_(tags[at : at + 512]))
            found |= {(row.tag, row.idx) for row in self._view.connection.execute(query)}
        return found

    def _compare_tile(self, tile: DerivedTile) -> None:
        here = sa.and_(tables.tile.c.level == tile.level, tables.tile.c.number == tile.number)
        stored = self._view.connection.scalar(sa.select(tables.tile.c.data).where(here))
        if stored is None:
            self._add(Code.TILE_MISSING, tile.first, f"Tile {tile.level}/{tile.number} is missing.")
        elif stored != tile.hashes:
            said = f"Tile {tile.level}/{tile.number} is not what its entries hash to."
            self._add(Code.TILE_DIFFERS, tile.first, said)

    def _checkpoints(self) -> Iterator[sa.Row[Any]]:
        for row in self._view.rows(tables.checkpoint, self._start):
            if row.time < self._published_at:
                self._add(
                    Code.CHECKPOINT_TIME, row.size, f"Checkpoint {row.size} is dated before its predecessor."
                )
            self._published, self._published_at = row.size, max(row.time, self._published_at)
            if row.size > self._start or row.size == self._tree.size == 0:
                yield row

    def _checkpoint(self, row: sa.Row[Any]) -> None:
        try:
            checkpoint = open_checkpoint(row.note, self._means.keys, self._means.verify)
        except NoteSignatureError as error:
            self._add(Code.CHECKPOINT_SIGNATURE, row.size, f"Checkpoint {row.size}: {error}")
            return
        except MalformedError as error:
            self._add(Code.CHECKPOINT_MALFORMED, row.size, f"Checkpoint {row.size}: {error}")
            return
        size = self._tree.size
        if (checkpoint.size, checkpoint.origin) != (row.size, self._head.origin):
            said = f"Checkpoint {row.size} is one of another size or origin."
            self._add(Code.CHECKPOINT_MALFORMED, row.size, said)
        elif checkpoint.size != size:
            said = f"Checkpoint {row.size} was published; {size} entries are left."
            self._add(Code.CHECKPOINT_SIZE, row.size, said)
        elif checkpoint != Checkpoint(checkpoint.origin, size, self._tree.root()):
            said = f"Checkpoint {row.size} has another root than its entries."
            self._add(Code.CHECKPOINT_ROOT, row.size, said)

    def _tiles(self) -> None:
        size = self._tree.size
        for tile in self._tree.partial():
            if tile.level:
                self._compare_tile(tile)
        levels = max(1, -(-size.bit_length() // TILE_HEIGHT))
        for level in range(levels):
            hashes = size >> TILE_HEIGHT * level
            count = hashes // TILE_WIDTH + (1 if level and hashes % TILE_WIDTH else 0)
            self._extra_tiles(sa.and_(tables.tile.c.level == level, tables.tile.c.number >= count))
        self._extra_tiles(tables.tile.c.level >= levels)

    def _extra_tiles(self, where: sa.ColumnElement[bool]) -> None:
        query = sa.select(tables.tile.c.level, tables.tile.c.number).where(where)
        for row in self._view.connection.execute(query):
            first = DerivedTile(row.level, row.number, b"").first
            self._add(Code.TILE_EXTRA, first, f"Tile {row.level}/{row.number} has no entries.")

    def _check_head(self) -> None:
        head, size = self._head, self._tree.size
        if head.size != size:
            self._add(Code.HEAD_SIZE, size, f"The head counts {head.size} entries; there are {size}.")
        if head.root != self._tree.root():
            self._add(Code.HEAD_ROOT, size, "The head's root is not that of the entries.")
        if head.frontier != b"".join(self._tree.frontier):
            self._add(Code.HEAD_FRONTIER, size, "The head's frontier is not that of the entries.")
        if head.size != self._published:
            self._add(Code.CHECKPOINT_MISSING, head.size, f"The head's {head.size} has no checkpoint.")
        if size and not self._last == head.time == self._published_at:
            self._add(Code.HEAD_TIME, size, "The head's time is not that of the last entry and checkpoint.")

    def _beyond(self) -> None:
        """Rows that belong to no entry, and witnessed notes that no published one stands behind."""
        connection = self._view.connection
        there = sa.exists().where(tables.entry.c.idx == tables.secret.c.idx)
        for index in connection.scalars(
            sa.select(tables.secret.c.idx).where(~there).order_by(tables.secret.c.idx)
        ):
            self._add(
                Code.SECRET_ORPHAN, index, f"A row of secret points to entry {index}, which is not there."
            )
        count = connection.scalar(sa.select(sa.func.count()).select_from(tables.submission)) or 0
        if count > self._tree.size - self._doubled:
            said = f"{count} commitments are indexed; {self._tree.size} entries need fewer."
            self._add(Code.SUBMISSION_EXTRA, self._tree.size, said)
        same = tables.witnessed.outerjoin(
            tables.checkpoint, tables.checkpoint.c.size == tables.witnessed.c.size
        )
        query = sa.select(tables.witnessed, tables.checkpoint.c.note.label("published")).select_from(same)
        for row in connection.execute(query.where(tables.witnessed.c.size >= self._start)):
            if row.published is None or _text(row.published) != _text(row.note):
                said = f"The witnessed checkpoint {row.size} is not the one that was published."
                self._add(Code.WITNESSED_DIFFERS, row.size, said)

    def _check_lookups(self) -> None:
        """Name rows of the index that lead astray. It is no evidence, but a false one hides what was recorded."""
        sealer = self._means.sealer
        if sealer is None or self._start:
            return
        connection = self._view.connection
        count = connection.scalar(sa.select(sa.func.count()).select_from(tables.lookup))
        if count == self._expected_lookups and not any(
            each.code is Code.LOOKUP_MISSING for each in self._findings
        ):
            return
        query = sa.select(tables.lookup, tables.secret.c.sealed).select_from(
            tables.lookup.outerjoin(tables.secret, tables.secret.c.idx == tables.lookup.c.idx)
        )
        for row in connection.execute(query.order_by(tables.lookup.c.idx).execution_options(yield_per=512)):
            if row.tag not in self._tags(sealer, row):
                self._add(Code.LOOKUP_FALSE, row.idx, f"The index misnames entry {row.idx}.")

    def _tags(self, sealer: Sealer, row: sa.Row[Any]) -> set[bytes]:
        if row.sealed is None:
            return set()
        try:
            opened = sealer.unseal(row.idx, row.sealed, self._head.origin)
            return {sealer.tag(*each) for each in lookups(opened[SALT_BYTES:])}
        except (MalformedError, LedgerDamagedError, UnknownEntryError):
            return set()  # reported where the entries were walked

    def _check_guard(self) -> None:
        kept, size, root = self._means.remembered, self._tree.size, self._tree.root()
        if kept is None:
            return
        try:
            path = self._view.tree(size).consistency(kept.size)
            verify_consistency(kept.size, size, path, kept.root, root)
        except (ProofError, LedgerDamagedError):
            said = f"The ledger's {size} entries do not begin with the {kept.size} it acknowledged."
            self._add(Code.HISTORY_FORGOTTEN, size, said)


def _text(note: bytes) -> str | None:
    try:
        return Note.parse(note).text
    except MalformedError:
        return None
