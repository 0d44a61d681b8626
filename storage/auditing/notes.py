"""Every checkpoint that was signed: by whom, when, of which entries, and what others remember of them."""

from collections.abc import Iterator, Sequence
from typing import Any

import sqlalchemy as sa

from storage import tables
from storage.auditing.lines import adds_to
from storage.auditing.report import Code, Findings
from storage.auditing.terms import Terms
from storage.checkpoint import Checkpoint
from storage.derivation import DerivedTree
from storage.errors import LedgerDamagedError, MalformedError, NoteSignatureError, ProofError
from storage.merkle import verify_consistency
from storage.note import VerifierKey, Verify, open_note
from storage.view import CHUNK, View, parsed


class Notes:
    """The published notes in order, each held against the tree when it has their size.

    `keys` are the log's own; a note that only others signed is signed by nobody.
    """

    def __init__(
        self, view: View, keys: Sequence[VerifierKey], verify: Verify, terms: Terms, findings: Findings
    ) -> None:
        self._view, self._keys, self._verify = view, keys, verify
        self._terms, self._findings = terms, findings
        self._origin = str(view.head().origin)
        self.newest = self.newest_at = 0

    def published(self, start: int) -> Iterator[sa.Row[Any]]:
        """Yield the rows from `start` on: also the checkpoint that an earlier audit ended with, which is served."""
        for row in self._view.rows(tables.checkpoint, start):
            self.newest, self.newest_at = row.size, row.time
            yield row

    def signed(self, size: int, said: str) -> None:
        """Name a flaw in who signed the checkpoint of this size."""
        self._findings.add(Code.CHECKPOINT_SIGNATURE, size, said)

    def compare(self, row: sa.Row[Any], tree: DerivedTree, moment: int | None) -> None:
        """Hold a published row against the tree and the time of its last entry, where that is known."""
        size = row.size
        try:
            opened = open_note(row.note, self._keys, self._verify)
            checkpoint = Checkpoint.parse(opened.text)
        except NoteSignatureError as error:
            self._findings.add(Code.CHECKPOINT_SIGNATURE, size, f"Checkpoint {size}: {error}")
            return
        except MalformedError as error:
            self._findings.add(Code.CHECKPOINT_MALFORMED, size, f"Checkpoint {size}: {error}")
            return
        if (checkpoint.size, checkpoint.origin) != (size, self._origin):
            said = f"Checkpoint {size} is one of another size or origin."
            self._findings.add(Code.CHECKPOINT_MALFORMED, size, said)
            return
        self._terms.checkpoint(size, opened.signers, self.signed)
        if size != tree.size:
            said = f"Checkpoint {size} was published; {tree.size} entries are left."
            self._findings.add(Code.CHECKPOINT_SIZE, size, said)
            return
        if checkpoint.root != tree.root():
            said = f"Checkpoint {size} has another root than its entries."
            self._findings.add(Code.CHECKPOINT_ROOT, size, said)
        if moment is not None and row.time != moment:
            said = f"Checkpoint {size} is dated otherwise than its last entry."
            self._findings.add(Code.CHECKPOINT_TIME, size, said)

    def beyond(self) -> None:
        """Name checkpoints of no size at all."""
        query = sa.select(tables.checkpoint.c.size).where(tables.checkpoint.c.size < 0)
        for size in self._view.connection.scalars(query.execution_options(yield_per=CHUNK)):
            self._findings.add(Code.CHECKPOINT_SIZE, size, "A checkpoint has a negative size.")

    def witnessed(self, start: int) -> None:
        """Name witnessed notes that are not a published one, as it was published, with lines by others."""
        same = tables.witnessed.outerjoin(
            tables.checkpoint, tables.checkpoint.c.size == tables.witnessed.c.size
        )
        query = sa.select(
            tables.witnessed,
            tables.checkpoint.c.note.label("published"),
            tables.checkpoint.c.time.label("published_at"),
        ).select_from(same)
        size = tables.witnessed.c.size
        query = query.where(sa.or_(size >= start, size < 0)).order_by(size)
        for row in self._view.connection.execute(query.execution_options(yield_per=CHUNK)):
            if row.size < 0 or row.published is None or not adds_to(row.published, row.note):
                said = f"The witnessed checkpoint {row.size} is not the one that was published."
                self._findings.add(Code.WITNESSED_DIFFERS, row.size, said)
            elif row.time != row.published_at:
                said = f"The witnessed checkpoint {row.size} is dated otherwise than the published one."
                self._findings.add(Code.WITNESSED_DIFFERS, row.size, said)

    def remembered(self, kept: Sequence[Checkpoint], tree: DerivedTree) -> None:
        """Name what the guard knows and the ledger does not go on from, or does not know to have published."""
        size, root = tree.size, tree.root()
        for known in kept:
            try:
                path = self._view.tree(size).consistency(known.size)
                verify_consistency(known.size, size, path, known.root, root)
            except (ProofError, LedgerDamagedError):
                said = f"The ledger's {size} entries do not begin with the {known.size} it acknowledged."
                self._findings.add(Code.HISTORY_FORGOTTEN, size, said)
                continue
            if known.size and not self._knows(known):
                said = f"Checkpoint {known.size} was acknowledged, and is not among the published ones."
                self._findings.add(Code.CHECKPOINT_MISSING, known.size, said)

    def _knows(self, known: Checkpoint) -> bool:
        query = sa.select(tables.checkpoint.c.note).where(tables.checkpoint.c.size == known.size)
        note = self._view.connection.scalar(query)
        try:
            return note is not None and parsed(note) == known
        except LedgerDamagedError:
            return False
