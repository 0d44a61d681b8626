"""Between a ledger's database and its backup: one snapshot out, one transaction in."""

from collections.abc import Iterable, Iterator

import sqlalchemy as sa

from storage import database, tables
from storage import payload as payloads
from storage.audit import Means, audit_within
from storage.auditing.lines import by_others
from storage.auditing.payloads import is_end
from storage.backup.read import BackupProofError, Entries, Head, Part, Published, Secrets, Witnessed
from storage.backup.write import DatedNote, SealedSecret
from storage.entry import SALT_BYTES, Entry, Kind
from storage.errors import ErasedEntryError, LedgerDamagedError, LedgerForeignError, MalformedError
from storage.growth import complete_tiles
from storage.keyring import Sealer
from storage.merkle import Frontier, leaf_hash
from storage.policy import Policy, open_witnessed
from storage.record import lookups
from storage.view import View


class DatabaseSnapshot:
    """A ledger as `storage.backup.write` wants it, from one transaction."""

    def __init__(self, view: View) -> None:
        self._view = view
        head = view.head()
        self.origin, self.size, self.revision = str(head.origin), int(head.size), tables.REVISION

    def notes(self) -> Iterator[DatedNote]:
        """Every checkpoint ever signed, by size."""
        return (DatedNote(row.note, row.time) for row in self._view.rows(tables.checkpoint))

    def witnessed(self) -> Iterator[DatedNote]:
        """The checkpoints with cosignatures, by size; not those that a policy let pass without any."""
        for row in self._view.rows(tables.witnessed):
            try:
                cosigned = by_others(row.note, self.origin)
            except MalformedError as error:
                raise LedgerDamagedError(f"The witnessed checkpoint {row.size} is not one.") from error
            if cosigned:
                yield DatedNote(row.note, row.time)

    def entries(self, start: int, stop: int) -> list[bytes]:
        """The bodies of some entries."""
        return self._view.bodies(start, stop)

    def secrets(self, start: int, stop: int) -> Iterator[SealedSecret]:
        """The rows that were not erased, of some entries, by index."""
        idx = tables.secret.c.idx
        query = sa.select(tables.secret).where(idx >= start, idx < stop).order_by(idx)
        return (SealedSecret(row.idx, row.sealed) for row in self._view.connection.execute(query))

    def tile(self, level: int, number: int, width: int) -> bytes:
        """A tile of hashes, as the database keeps it."""
        return self._view.tile(self.size, level, number, width)


def refill(
    url: str, parts: Iterable[Part], sealer: Sealer, means: Means, policy: Policy | None = None
) -> None:
    """Make a ledger from the parts of a backup, whole or not at all; only where there is none.

    What was erased after the backup was made stays erased: its key is gone, and its row is left
    out. Witnessed notes come back only as far as a policy is given, and must satisfy it.
    """
    database.create(url)
    engine = database.open_writer(url)
    try:
        with database.transaction(engine) as connection:
            database.require_revision(connection)
            if connection.scalar(sa.select(tables.head.c.id)) is not None:
                raise LedgerForeignError("There is a ledger already; a backup never replaces one.")
            filler = _Filler(connection, sealer, means, policy)
            for part in parts:
                filler.take(part)
            filler.finish()
            report = audit_within(connection, means)
            if report.first is not None:
                raise BackupProofError(f"What would be restored does not hold: {report.first.explanation}")
        # Committed, and audited before: what does not hold never stands in a database.
    finally:
        engine.dispose()


class _Filler:
    def __init__(
        self, connection: sa.Connection, sealer: Sealer, means: Means, policy: Policy | None
    ) -> None:
        self._connection, self._sealer, self._means, self._policy = connection, sealer, means, policy
        self._head = Head("", "", 0)
        self._frontier = Frontier()
        self._time = self._frozen = 0
        self._last: Entry | None = None

    def take(self, part: Part) -> None:
        match part:
            case Head():
                self._head = part
            case Entries(start, bodies):
                self._entries(start, bodies)
            case Published(checkpoint, signed):
                database.insert(
                    self._connection, tables.checkpoint, [(checkpoint.size, signed.note, signed.at)]
                )
                self._time = signed.at
            case Witnessed(checkpoint, signed) if self._policy is not None:
                open_witnessed(signed.note, self._policy, self._means.verify)
                database.insert(
                    self._connection, tables.witnessed, [(checkpoint.size, signed.note, signed.at)]
                )
            case Witnessed():
                pass
            case Secrets(rows):
                self._secrets(rows)

    def finish(self) -> None:
        """The head comes last; without it there is no ledger."""
        head = (
            1,
            self._head.origin,
            self._frontier.size,
            self._frontier.root(),
            b"".join(self._frontier.nodes),
            self._time,
            self._frozen,
        )
        database.insert(self._connection, tables.head, [head])

    def _entries(self, start: int, bodies: Iterable[bytes]) -> None:
        parsed = [(index, body, Entry.parse(body)) for index, body in enumerate(bodies, start)]
        rows = [(index, leaf_hash(body), body) for index, body, _ in parsed]
        database.insert(self._connection, tables.entry, rows)
        # The first version told two records apart by their times; the first of them is the record.
        first: dict[bytes, int] = {}
        for index, _, entry in parsed:
            first.setdefault(entry.commitment, index)
        there = database.known(self._connection, first)
        fresh = sorted((commitment, index) for commitment, index in first.items() if commitment not in there)
        database.insert(self._connection, tables.submission, fresh)
        nodes = [node for _, leaf, _ in rows for node in self._frontier.append(leaf)]
        complete_tiles(self._connection, start, nodes)
        self._last = parsed[-1][2]

    def _secrets(self, rows: Iterable[SealedSecret]) -> None:
        kept: list[tuple[int, bytes]] = []
        tagged: list[tuple[bytes, int]] = []
        for row in rows:
            try:
                payload = self._sealer.unseal(row.index, row.sealed, self._head.origin)[SALT_BYTES:]
            except ErasedEntryError:
                continue
            kept.append((row.index, row.sealed))
            tagged += {(self._sealer.tag(*each), row.index) for each in lookups(payload)}
            if row.index == self._head.size - 1 and self._last is not None and self._last.kind is Kind.POLICY:
                self._frozen = int(is_end(payloads.parse(payload)))
        database.insert(self._connection, tables.secret, kept)
        database.insert(self._connection, tables.lookup, sorted(tagged))
