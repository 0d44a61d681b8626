"""What lies behind the commitments: whether it is there, opens, is found, and what it says of the log itself."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import sqlalchemy as sa

from storage import payload as payloads
from storage import tables
from storage.auditing.report import Code, Findings
from storage.auditing.terms import Say, Terms
from storage.entry import SALT_BYTES, Entry, Kind, commitment
from storage.errors import LedgerDamagedError, MalformedError, UnknownEntryError
from storage.keyring import Sealer
from storage.record import lookups
from storage.view import CHUNK, View


class Payloads:
    """The sealed rows, entry by entry; without a `sealer` they are only counted.

    Which entries were erased is told by payloads, so without keys nobody can say of a missing
    one whether it may be. An erasure that is under way at this moment is reported as unfinished.
    """

    def __init__(self, view: View, sealer: Sealer | None, terms: Terms, findings: Findings) -> None:
        self._view, self._sealer, self._terms, self._findings = view, sealer, terms, findings
        self._head = view.head()
        self._expected_lookups = 0
        self._erased: set[int] = set()
        self._silent: set[int] = set()
        self._closed: set[int] = set()
        self._end: int | None = None
        self._followed = self._unread_end = False
        self.unopened = 0

    def begin(self, start: int) -> None:
        """Look at the entry before the first one: it may be the end of the log."""
        if start:
            self._tail(rows_from(self._view.connection, start - 1, 1), start - 1)

    def take(self, rows: Sequence[sa.Row[Any]], entries: Sequence[Entry | None], say: Say) -> None:
        """Open the rows of consecutive entries, and take in what they say."""
        expected: list[tuple[bytes, int, str]] = []
        for row, entry in zip(rows, entries, strict=True):
            payload = self._payload(row, entry)
            fields = None if payload is None else payloads.parse(payload)
            self._told(row.idx, None if entry is None else entry.kind, fields, say)
            if payload is not None and self._sealer is not None:
                expected += [(self._sealer.tag(*each), row.idx, each.kind) for each in lookups(payload)]
        self._expected_lookups += len({(tag, index) for tag, index, _ in expected})
        found = self._found([tag for tag, _, _ in expected])
        for tag, index, kind in expected:
            if (tag, index) not in found:
                said = f"The index does not know the {kind} of entry {index}."
                self._findings.add(Code.LOOKUP_MISSING, index, said)

    def close(self, size: int) -> None:
        """Name what is gone and may not be, what is there and may not be, and an end that is none."""
        if self._sealer is not None:
            self._missing(self._sealer)
            self._unfinished(self._sealer, size)
        self._frozen(size)

    def lookups(self) -> None:
        """Name rows of the index that lead astray. It is no evidence, but a false one hides what was recorded."""
        sealer = self._sealer
        if sealer is None:
            return
        connection = self._view.connection
        count = connection.scalar(sa.select(sa.func.count()).select_from(tables.lookup))
        missing = any(each.code is Code.LOOKUP_MISSING for each in self._findings.kept)
        if count == self._expected_lookups and not missing:
            return
        query = sa.select(tables.lookup, tables.secret.c.sealed).select_from(
            tables.lookup.outerjoin(tables.secret, tables.secret.c.idx == tables.lookup.c.idx)
        )
        for row in connection.execute(query.order_by(tables.lookup.c.idx).execution_options(yield_per=CHUNK)):
            if row.tag not in self._tags(sealer, row):
                self._findings.add(Code.LOOKUP_FALSE, row.idx, f"The index misnames entry {row.idx}.")

    def _payload(self, row: sa.Row[Any], entry: Entry | None) -> bytes | None:
        if row.sealed is None:
            self._silent.add(row.idx)
        elif self._sealer is None:
            self.unopened += 1
        else:
            return self._opened(self._sealer, row, entry)
        return None

    def _opened(self, sealer: Sealer, row: sa.Row[Any], entry: Entry | None) -> bytes | None:
        try:
            opened = sealer.unseal(row.idx, row.sealed, self._head.origin)
            salt, payload = opened[:SALT_BYTES], opened[SALT_BYTES:]
            payloads.parse(payload)
            good = entry is None or commitment(salt, payload) == entry.commitment
        except UnknownEntryError:  # its key was destroyed, so it is as good as gone
            self._silent.add(row.idx)
            self._closed.add(row.idx)
            return None
        except (MalformedError, LedgerDamagedError):
            good, payload = False, b""
        if not good:
            said = f"The payload of entry {row.idx} is not what was recorded."
            self._findings.add(Code.SECRET_COMMITMENT, row.idx, said)
        return payload if good else None

    def _told(self, index: int, kind: Kind | None, fields: Mapping[str, Any] | None, say: Say) -> None:
        """What the entry says of the log: an erasure, a key, its end."""
        if self._end is not None and not self._followed:
            self._followed = True
            said = f"Entry {index} follows entry {self._end}, which froze the ledger."
            self._findings.add(Code.HEAD_FROZEN, index, said)
        self._unread_end = kind is Kind.POLICY and fields is None
        if kind is Kind.ERASE and fields is not None:
            erased = fields.get("erased")
            self._erased |= {erased} if type(erased) is int and 0 <= erased < index else set()
        if kind is Kind.POLICY:
            self._terms.policy(index, fields, say)
            if is_end(fields):
                self._end, self._followed = index, False

    def _tail(self, rows: Sequence[sa.Row[Any]], index: int) -> None:
        """Whether the one entry ended the log; what is wrong with it was said by an earlier audit."""
        for row in rows:
            try:
                if row.idx != index or Entry.parse(row.body).kind is not Kind.POLICY:
                    continue
                self._unread_end = True
                if row.sealed is not None and self._sealer is not None:
                    opened = self._sealer.unseal(index, row.sealed, self._head.origin)
                    self._unread_end = False
                    self._end = index if is_end(payloads.parse(opened[SALT_BYTES:])) else None
            except (MalformedError, LedgerDamagedError, UnknownEntryError):
                continue

    def _missing(self, sealer: Sealer) -> None:
        for index in sorted(self._silent - self._erased):
            # A frozen ledger forgets and cannot record it; then the key must be gone as well.
            if self._head.frozen and not sealer.holds(index):
                if index in self._closed:
                    said = f"The key of entry {index} was destroyed; its row is still there."
                    self._findings.add(Code.ERASURE_UNFINISHED, index, said)
                continue
            said = f"The payload of entry {index} is gone; no entry says it was erased."
            self._findings.add(Code.SECRET_MISSING, index, said)

    def _unfinished(self, sealer: Sealer, size: int) -> None:
        erased = sorted(index for index in self._erased if index < size)
        rows = set(self._there(erased))
        for index in erased:
            left = ["key"] if sealer.holds(index) else []
            left += ["row"] if index in rows else []
            if left:
                said = f"Entry {index} was erased; its {' and its '.join(left)} can still be found."
                self._findings.add(Code.ERASURE_UNFINISHED, index, said)

    def _frozen(self, size: int) -> None:
        ended = self._end is not None and self._end == size - 1
        if self._head.frozen and not ended and not (self._unread_end and self._sealer is None):
            said = "The head says that the ledger is frozen; its last entry does not."
            self._findings.add(Code.HEAD_FROZEN, size, said)
        if ended and not self._head.frozen:
            said = f"Entry {self._end} froze the ledger; the head does not say so."
            self._findings.add(Code.HEAD_FROZEN, size, said)

    def _there(self, indices: Sequence[int]) -> Iterator[int]:
        for at in range(0, len(indices), CHUNK):
            query = sa.select(tables.secret.c.idx).where(tables.secret.c.idx.in_(indices[at : at + CHUNK]))
            yield from self._view.connection.scalars(query)

    def _found(self, tags: Sequence[bytes]) -> set[tuple[bytes, int]]:
        found: set[tuple[bytes, int]] = set()
        for at in range(0, len(tags), CHUNK):
            query = sa.select(tables.lookup).where(tables.lookup.c.tag.in_(tags[at : at + CHUNK]))
            found |= {(row.tag, row.idx) for row in self._view.connection.execute(query)}
        return found

    def _tags(self, sealer: Sealer, row: sa.Row[Any]) -> set[bytes]:
        if row.sealed is None:
            return set()
        try:
            opened = sealer.unseal(row.idx, row.sealed, self._head.origin)
            return {sealer.tag(*each) for each in lookups(opened[SALT_BYTES:])}
        except (MalformedError, LedgerDamagedError, UnknownEntryError):
            return set()  # reported where the entries were walked


def is_end(fields: Mapping[str, Any] | None) -> bool:
    """Whether a `policy` entry with these fields ends the log."""
    return fields is not None and fields.get("change") == "freeze"


def rows_from(connection: sa.Connection, start: int, limit: int) -> Sequence[sa.Row[Any]]:
    """Entries with their sealed secrets, by index."""
    query = (
        sa.select(tables.entry, tables.secret.c.sealed)
        .select_from(tables.entry.outerjoin(tables.secret, tables.secret.c.idx == tables.entry.c.idx))
        .order_by(tables.entry.c.idx)
    )
    return connection.execute(query.where(tables.entry.c.idx >= start).limit(limit)).all()
