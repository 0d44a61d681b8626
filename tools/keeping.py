"""Back a home's ledger up, and put it back: what a restored ledger must still know is what the guard knows."""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from authn.keys import verify_note
from storage.audit import Means
from storage.auditing.payloads import is_end
from storage.auditing.terms import Terms
from storage.backup.database import DatabaseSnapshot, refill
from storage.backup.read import Entries, Head, Part, Published, Secrets, Witnessed, check, read
from storage.backup.write import BackupFacts, SealedSecret, write
from storage.checkpoint import Checkpoint
from storage.entry import SALT_BYTES, Entry, Kind, commitment
from storage.errors import (
    LedgerDamagedError,
    LedgerExistsError,
    LedgerForeignError,
    LedgerMissingError,
    MalformedError,
)
from storage.keyring import Sealer
from storage.ledger import Ledger
from storage.merkle import EMPTY_ROOT
from storage.note import VerifierKey, open_note
from storage.payload import parse
from storage.policy import Policy, open_witnessed
from tools.errors import BackupOldError, BackupOtherError
from tools.home import Home

WITNESSED_LEFT_OUT = "Witnessed checkpoints come back only under a policy that says whose cosignatures count."


def back_up(home: Home, out: Path) -> BackupFacts:
    """Write the ledger as it is now into one file, and read that file back before saying so.

    One that is behind the guard is refused: its backups would push out the good ones.
    """
    with home.own.guarded_reader() as ledger, ledger.at_once() as view:
        write(DatabaseSnapshot(view), out)
    return check(out, home.own.open_note)


def check_backup(home: Home, source: Path, policy: Policy | None = None) -> BackupFacts:
    """Hold a backup against the home's keys, its keyring and its guard, as far as `put_back` will; writes nothing.

    Cosignatures are verified where a policy is given, and by nobody where none is.
    """
    return _judged(home, source, policy).facts


def put_back(home: Home, source: Path, policy: Policy | None = None) -> BackupFacts:
    """Make the ledger's database from the backup, where it is missing, and audit what was made before it stands.

    Witnessed checkpoints are left out where no policy is given: they would be shown as
    witnessed, and nobody verified it. What the backup calls erased and the keyring still
    opens is forgotten for good.
    """
    try:
        Ledger.open_read_only(home.own.url).close()
    except (LedgerMissingError, LedgerForeignError):
        pass
    else:
        raise LedgerExistsError("There is a ledger already; a backup never replaces one.")
    judged, sealer = _judged(home, source, policy), home.own.sealer()
    for index in judged.unfinished():
        sealer.forget(index)
    means = Means(home.own.keys, verify_note, sealer, _remembered(home))
    refill(home.own.url, read(source, home.own.open_note), sealer, means, _about(home, policy))
    return judged.facts


def _judged(home: Home, source: Path, policy: Policy | None) -> "_Judge":
    # Two readings of one file at once: entries and checkpoints from one, the sealed rows, which
    # stand at its end, from the other. So each row meets its entry in flat memory.
    judge = _Judge(home, _about(home, policy), _rows(read(source, home.own.open_note)))
    for part in read(source, judge.open_note):
        judge.take(part)
    judge.require_whole()
    return judge


def _rows(parts: Iterable[Part]) -> Iterator[SealedSecret]:
    for part in parts:
        if isinstance(part, Secrets):
            yield from part.rows


def _about(home: Home, policy: Policy | None) -> Policy | None:
    return None if policy is None else policy.trusting(home.own.keys)


def _remembered(home: Home) -> tuple[Checkpoint, ...]:
    return tuple(map(home.own.open_note, home.own.guard().notes()))


class _Judge:
    """One pass over a backup, held against what the home knows; raises at the first that does not hold."""

    def __init__(self, home: Home, policy: Policy | None, rows: Iterator[SealedSecret]) -> None:
        self._own, self._policy, self._rows = home.own, policy, rows
        self._sealer: Sealer = home.own.sealer()
        self._remembered = {each.size: each for each in _remembered(home)}
        self._terms = Terms(home.own.keys, {}, 0)
        self._signers: dict[bytes, tuple[VerifierKey, ...]] = {}
        self._head, self._root = Head("", "", 0), EMPTY_ROOT
        self._notes = self._witnessed = self._opened = 0
        self._row: SealedSecret | None = None
        self._start, self._times = 0, list[int]()
        self._erased: set[int] = set()
        self._closed: list[int] = []
        self._missing: list[int] = []
        self._end: int | None = None

    @property
    def facts(self) -> BackupFacts:
        """What the backup holds."""
        head = self._head
        return BackupFacts(
            head.origin, head.revision, head.size, self._root, self._notes, self._witnessed, self._opened
        )

    def open_note(self, note: bytes) -> Checkpoint:
        """Open a note as the home does, and remember by whom it is signed until it is taken."""
        checkpoint = self._own.open_note(note)
        self._signers[note] = open_note(note, self._own.keys, verify_note).signers
        return checkpoint

    def take(self, part: Part) -> None:
        match part:
            case Head():
                self._begin(part)
            case Entries(start, bodies):
                self._start, self._times = start, []
                for index, body in enumerate(bodies, start):
                    self._entry(index, Entry.parse(body))
            case Published(checkpoint, signed):
                self._notes, self._root = self._notes + 1, checkpoint.root
                self._terms.checkpoint(checkpoint.size, self._signers.pop(signed.note), _refuse)
                if signed.at != self._times[checkpoint.size - 1 - self._start]:
                    _refuse(
                        checkpoint.size,
                        f"checkpoint {checkpoint.size} is dated otherwise than its last entry",
                    )
                known = self._remembered.pop(checkpoint.size, checkpoint)
                if known != checkpoint:
                    raise BackupOldError(
                        f"the backup's first {known.size} entries are not those that were acknowledged"
                    )
            case Witnessed(_, signed):
                self._witnessed += 1
                self._signers.pop(signed.note, None)
                if self._policy is not None:
                    open_witnessed(signed.note, self._policy, verify_note)
            case Secrets():
                pass  # each met its entry

    def require_whole(self) -> None:
        """Refuse a gap that nothing explains, before anything is written.

        An erasure is an entry, so one that the keyring knows and the backup does not came
        later. Only a frozen ledger forgets without one.
        """
        self._terms.close(_refuse)
        for size in sorted(self._remembered):
            raise BackupOldError(f"the backup lacks checkpoint {size}, which was acknowledged")
        frozen = self._end is not None
        if self._closed and not frozen:
            raise BackupOldError(f"entry {self._closed[0]} was erased after the backup was made")
        for index in self._missing:
            forgotten = frozen and not self._sealer.holds(index)
            if index not in self._erased and not forgotten:
                raise BackupOtherError(f"the backup lacks the payload of entry {index}, which nobody erased")
        for index in sorted(self._erased.difference(self._missing)):
            raise BackupOtherError(f"the backup holds the payload of entry {index}, which was erased")

    def unfinished(self) -> list[int]:
        """What was erased, and whose key the keyring still holds: it came back from an older copy."""
        return [index for index in sorted(self._erased) if self._sealer.holds(index)]

    def _begin(self, head: Head) -> None:
        self._head = head
        if head.origin != self._own.origin:
            raise BackupOtherError(
                f"the backup is of {head.origin}, and this home's log is {self._own.origin}"
            )
        newest = max(self._remembered, default=0)
        if head.size < newest:
            raise BackupOldError(f"the backup ends at {head.size} entries, and {newest} were acknowledged")
        self._row = next(self._rows, None)

    def _entry(self, index: int, entry: Entry) -> None:
        self._times.append(int(entry.logged_at.timestamp()))
        if self._end is not None:
            _refuse(index, f"entry {index} follows entry {self._end}, which froze the ledger")
        fields = self._payload(index, entry)
        if entry.kind is Kind.POLICY:
            self._terms.policy(index, fields, _refuse)
            self._end = index if is_end(fields) else None
        if entry.kind is Kind.ERASE and fields is not None:
            erased = fields.get("erased")
            self._erased |= {erased} if type(erased) is int and 0 <= erased < index else set()

    def _payload(self, index: int, entry: Entry) -> Mapping[str, Any] | None:
        row = self._row
        if row is None or row.index != index:
            self._missing.append(index)
            return None
        self._row, self._opened = next(self._rows, None), self._opened + 1
        if not self._sealer.holds(index):
            self._closed.append(index)
            return None
        try:
            opened = self._sealer.unseal(index, row.sealed, self._head.origin)
            salt, payload = opened[:SALT_BYTES], opened[SALT_BYTES:]
            fields, good = parse(payload), commitment(salt, payload) == entry.commitment
        except (LedgerDamagedError, MalformedError) as error:
            raise BackupOtherError(f"the payload of entry {index} is not what was recorded") from error
        if not good:
            raise BackupOtherError(f"the payload of entry {index} is not what was recorded")
        return fields


def _refuse(_: int, said: str) -> None:
    raise BackupOtherError(f"the backup does not make a ledger that holds: {said}")
