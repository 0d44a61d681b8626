"""Back a home's ledger up, and put it back: what a restored ledger must still know is what the guard knows."""

from pathlib import Path

from storage.backup.database import DatabaseSnapshot, refill
from storage.backup.read import Entries, Part, Secrets, check, read
from storage.backup.write import BackupFacts, SealedSecret, write
from storage.entry import SALT_BYTES, Entry, Kind
from storage.errors import LedgerForeignError, LedgerMissingError
from storage.keyring import Keyring
from storage.ledger import Ledger
from storage.merkle import Frontier, leaf_hash
from storage.payload import parse
from tools.errors import BackupOldError, BackupOtherError
from tools.home import Home


def back_up(home: Home, out: Path) -> BackupFacts:
    """Write the ledger as it is now into one file, and read that file back before saying so."""
    with home.ledger_to_read() as ledger, ledger.at_once() as view:
        write(DatabaseSnapshot(view), out)
    return check(out, home.own.open_note)


def check_backup(home: Home, source: Path) -> BackupFacts:
    """Derive the backup again, verify its notes with the home's keys, and compare it with the guard."""
    facts = check(source, home.own.open_note)
    if facts.origin != home.own.origin:
        raise BackupOtherError(f"the backup is of {facts.origin}, and this home's log is {home.own.origin}")
    remembered = home.own.guard().newest()
    if remembered is not None and facts.size < remembered.size:
        raise BackupOldError(
            f"the backup ends at {facts.size} entries, and {remembered.size} were acknowledged"
        )
    agreed = 0 if remembered is None else remembered.size
    frontier = Frontier()
    payloads = _Payloads(home, facts)
    for part in read(source, home.own.open_note):
        payloads.take(part)
        if isinstance(part, Entries):
            for body in part.bodies[: max(0, agreed - frontier.size)]:
                frontier.append(leaf_hash(body))
    if remembered is not None and frontier.root() != remembered.root:
        raise BackupOldError(f"the backup's first {agreed} entries are not those that were acknowledged")
    payloads.require_whole()
    return facts


class _Payloads:
    """What a backup holds of the payloads, against what its entries and the keyring say was erased."""

    def __init__(self, home: Home, facts: BackupFacts) -> None:
        self._origin, self._there = facts.origin, bytearray(facts.size)
        self._keyring, self._sealer = Keyring.open(home.own.keyring_path), home.own.sealer()
        self._telling: dict[int, Kind] = {}
        self._erased: set[object] = set()
        self._gone: list[int] = []
        self._frozen = False

    def take(self, part: Part) -> None:
        match part:
            case Entries(start, bodies):
                kinds = ((index, Entry.parse(body).kind) for index, body in enumerate(bodies, start))
                self._telling |= {index: kind for index, kind in kinds if kind in (Kind.ERASE, Kind.POLICY)}
            case Secrets(rows):
                for row in rows:
                    self._row(row)
            case _:
                pass

    def _row(self, row: SealedSecret) -> None:
        if not self._keyring.holds(row.index):
            self._gone.append(row.index)
            return
        self._there[row.index] = 1
        if (kind := self._telling.get(row.index)) is None:
            return
        said = parse(self._sealer.unseal(row.index, row.sealed, self._origin)[SALT_BYTES:])
        if kind is Kind.ERASE:
            self._erased.add(said.get("erased"))
        elif row.index == len(self._there) - 1:
            self._frozen = said.get("change") == "freeze"

    def require_whole(self) -> None:
        """Refuse a gap that nothing explains, before anything is written.

        An erasure is an entry, so one that the keyring knows and the backup does not came
        later. Only a frozen ledger forgets without one.
        """
        if self._gone and not self._frozen:
            raise BackupOldError(f"entry {self._gone[0]} was erased after the backup was made")
        index = self._there.find(0)
        while index >= 0:
            forgotten = self._frozen and not self._keyring.holds(index)
            if index not in self._erased and not forgotten:
                raise BackupOtherError(f"the backup lacks the payload of entry {index}, which nobody erased")
            index = self._there.find(0, index + 1)


def put_back(home: Home, source: Path) -> BackupFacts:
    """Make the ledger's database from the backup, where it is missing, and audit what was made."""
    try:
        Ledger.open_read_only(home.own.url).close()
    except (LedgerMissingError, LedgerForeignError):
        pass
    else:
        raise LedgerForeignError("There is a ledger already; a backup never replaces one.")
    facts = check_backup(home, source)
    refill(home.own.url, read(source, home.own.open_note), home.own.sealer())
    report = home.audit()
    if report.first is not None:
        raise BackupOtherError(f"what was restored does not hold: {report.first.explanation}")
    return facts
