"""The guard of the log: the newest checkpoint it ever acknowledged, outside the database.

A database that was put back to an older state looks sound from within. The guard is
a second place, best on another disk, that every checkpoint reaches before the log
answers for it; who opens the log compares the two and refuses to go on from less
(invariant I7: nothing acknowledged is forgotten).

It does not help where somebody puts the guard back together with the database, or
cuts its end off: only witnesses see that. Two roots of one size are named as long as
it remembers that size; it keeps the `KEPT` largest at least, and drops the others at times.

The file: a header, then records, each a length, a digest and a signed note. A record
at the end that a crash cut short was never acknowledged; it is left out, and cut off
by the next who writes.
"""

import hashlib
import os
import re
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from storage import durable
from storage.checkpoint import Checkpoint
from storage.errors import LedgerError, MalformedError, MalformedNoteError, ProofError
from storage.merkle import verify_consistency

HEADER = "lightseal-guard v1"
MAX_NOTE_BYTES = 16_000
KEPT = 64
# Opening a guard checks every note in it, so there are never many more than this.
MAX_NOTES = 512

# The checkpoint in a signed note; raises MalformedError or ProofError unless the log signed it.
OpenNote = Callable[[bytes], Checkpoint]

_NUMBER = re.compile(rb"0|[1-9][0-9]{0,17}")
_FRAME = re.compile(rb"([1-9][0-9]{0,4}) ([0-9a-f]{64})\n")
_FRAME_BYTES = 5 + 1 + 64 + 1


class GuardError(LedgerError):
    """The guard cannot be used, so nobody can say whether the ledger is whole."""

    code = "guard-unusable"
    remedy = "Check the guard's path and what the system says about it."


class GuardMissingError(GuardError):
    """There is no guard where one is expected."""

    code = "guard-missing"
    remedy = (
        "Mount the disk it lies on, or bring the file back; make a new one only after a witness or a receipt"
        " showed that the ledger has lost nothing."
    )


class GuardExistsError(GuardError):
    """A guard lies where a new one was to be made."""

    code = "guard-exists"
    remedy = "Open the guard that is there, or name another path."


class GuardForeignError(GuardError):
    """The guard is that of another log."""

    code = "guard-foreign"
    remedy = "Name the guard that was made with this ledger."


class GuardDamagedError(GuardError):
    """The file is not a guard as we would write it, or holds a note the log did not sign."""

    code = "guard-damaged"
    remedy = (
        "Keep a copy of the guard; make a new one only after a witness or a receipt showed that the ledger"
        " has lost nothing."
    )


class GuardConflictError(GuardError):
    """The log signed two different trees of one size."""

    code = "guard-conflict"
    remedy = (
        "Stop the log and keep the guard: both signed notes are in it. Either a restored ledger went on, or the"
        " log's key is in other hands."
    )


class RolledBackError(LedgerError):
    """The ledger does not contain all that was acknowledged: it was put back, or rewritten."""

    code = "ledger-rolled-back"
    remedy = "Do not write to it. Restore the newest backup, or freeze this log and begin a new origin."


class Guard:
    """The newest acknowledged checkpoint of one log; for several threads and processes."""

    def __init__(self, path: Path, origin: str, open_note: OpenNote) -> None:
        self._file = Path(os.path.realpath(path))
        self._origin = origin
        self._open_note = open_note
        self._lock = threading.Lock()
        self._begin(0)

    @classmethod
    def create(cls, path: Path, origin: str, open_note: OpenNote) -> "Guard":
        """Make the guard of a new log, which remembers nothing yet."""
        guard = cls(path, origin, open_note)
        try:
            with durable.explaining(guard._file, GuardMissingError), durable.creating(guard._file):
                durable.replace(guard._file, guard._header)
        except FileExistsError as error:
            raise GuardExistsError(f"There is a guard at {path} already.") from error
        return guard

    @classmethod
    def open(cls, path: Path, origin: str, open_note: OpenNote) -> "Guard":
        """Use the guard at `path`, and never make one: a missing guard is an alarm."""
        guard = cls(path, origin, open_note)
        guard.newest()
        return guard

    def newest(self) -> Checkpoint | None:
        """The largest checkpoint that anyone remembered here; None before the first."""
        with (
            self._lock,
            durable.explaining(self._file, GuardMissingError),
            durable.reading(self._file) as descriptor,
        ):
            self._follow(descriptor)
            size = max(self._notes, default=None)
            return None if size is None else Checkpoint(self._origin, size, self._notes[size].root)

    def notes(self) -> tuple[bytes, ...]:
        """Every signed note that it still remembers, the smallest first."""
        with (
            self._lock,
            durable.explaining(self._file, GuardMissingError),
            durable.reading(self._file) as descriptor,
        ):
            self._follow(descriptor)
            return tuple(self._notes[size].note for size in sorted(self._notes))

    def remember(self, note: bytes) -> None:
        """Keep a checkpoint, durably: after the commit, and before anyone is told of it."""
        new = self._read(note)
        record = _record(note)
        with durable.explaining(self._file, GuardMissingError):
            # 1. Alone with the file, see what others wrote, and cut off what a crash left.
            with self._lock, durable.appending(self._file) as descriptor:
                self._follow(descriptor)
                if os.fstat(descriptor).st_size != self._end:
                    os.ftruncate(descriptor, self._end)
                # 2. One write. Two roots of one size are both kept, as evidence, before we refuse.
                known = self._notes.get(new.size)
                if known is None or known.root != new.root:
                    self._append(descriptor, record)
                if known is not None and known.root != new.root:
                    os.fsync(descriptor)
                    raise GuardConflictError(_two_roots(new.size))
                if known is None:
                    self._notes[new.size] = new
                    self._end += len(record)
                if len(self._notes) > MAX_NOTES:
                    self._compact()
                # 3. Let others go on before the bytes are safe. Who replaces the file meanwhile
                #    copies them first, and makes the copy durable before the old file's name goes.
                appended = os.dup(descriptor)
            try:
                os.fsync(appended)
            finally:
                os.close(appended)
        # Remembered: only now may the log answer.

    def require(self, head: Callable[[], Checkpoint], prove: Callable[[int, int], Sequence[bytes]]) -> None:
        """Raise unless the database's `head` goes on from what was remembered.

        `prove(old, new)` is the ledger's consistency proof. The head is asked for only
        after the guard was read, for another process may append between the two.
        """
        newest = self.newest()
        if newest is None:
            return
        now = head()
        if now.size < newest.size:
            raise RolledBackError(f"The ledger holds {now.size} entries, but acknowledged {newest.size}.")
        try:
            path = prove(newest.size, now.size)
            verify_consistency(newest.size, now.size, path, newest.root, now.root)
        except ProofError as error:
            raise RolledBackError(
                f"The ledger's {now.size} entries do not begin with the {newest.size} it acknowledged."
            ) from error

    @property
    def _header(self) -> bytes:
        return f"{HEADER}\n{self._origin}\n{self._generation}\n".encode()

    def _begin(self, generation: int) -> None:
        """Know nothing of the file but its header; each replacing makes a new generation."""
        self._generation = generation
        self._end = len(self._header)
        self._notes: dict[int, _Remembered] = {}

    def _read(self, note: bytes) -> "_Remembered":
        checkpoint = self._open_note(note)
        if checkpoint.origin != self._origin:
            raise GuardForeignError(f"{self._file} guards {self._origin}, not {checkpoint.origin}.")
        return _Remembered(checkpoint.size, checkpoint.root, note)

    def _append(self, descriptor: int, record: bytes) -> None:
        """Write the record, or leave no part of it."""
        try:
            rest = memoryview(record)
            while rest:
                rest = rest[os.write(descriptor, rest) :]
        except OSError:
            os.ftruncate(descriptor, self._end)
            raise

    def _compact(self) -> None:
        """Replace the file by one with the largest checkpoints; we hold the lock, and know all of it."""
        largest = [self._notes[size] for size in sorted(self._notes)[-KEPT:]]
        self._begin(self._generation + 1)
        durable.replace(self._file, self._header + b"".join(_record(kept.note) for kept in largest))

    def _follow(self, descriptor: int) -> None:
        """Take in what the file holds and we do not know yet; the caller holds a lock on it."""
        data = durable.read(descriptor)
        if not data.startswith(self._header):
            self._begin(self._generation_of(data))
        if len(data) < self._end:
            raise GuardDamagedError(f"{self._file} is shorter than it was.")
        while (note := _next_note(data, self._end, self._file)) is not None:
            try:
                new = self._read(note)
            except (MalformedError, ProofError) as error:
                raise GuardDamagedError(f"{self._file} holds a note that the log did not sign.") from error
            if self._notes.setdefault(new.size, new).root != new.root:
                raise GuardConflictError(_two_roots(new.size))
            self._end += len(_record(note))

    def _generation_of(self, data: bytes) -> int:
        match data.split(b"\n", 3):
            case [header, origin, generation, _] if header == HEADER.encode() and _NUMBER.fullmatch(
                generation
            ):
                if origin != self._origin.encode():
                    raise GuardForeignError(f"{self._file} is not the guard of {self._origin}.")
                return int(generation)
        raise GuardDamagedError(f"{self._file} does not begin like a guard.")


@dataclass(frozen=True, slots=True)
class _Remembered:
    size: int
    root: bytes
    note: bytes


def _two_roots(size: int) -> str:
    return f"The log signed two different trees of {size} entries."


def _record(note: bytes) -> bytes:
    if not 0 < len(note) <= MAX_NOTE_BYTES:
        raise MalformedNoteError(f"A checkpoint's note does not have {len(note)} bytes.")
    return b"%d %s\n%s\n" % (len(note), hashlib.sha256(note).hexdigest().encode(), note)


def _next_note(data: bytes, at: int, path: Path) -> bytes | None:
    """The note in the record at `at`; None at the end, and for a last record that was cut short."""
    rest = data[at : at + _FRAME_BYTES]
    frame = _FRAME.match(data, at)
    if frame is None:
        # Cut within its first line; or lengthened by a crash before any byte of it was safe.
        if (len(rest) < _FRAME_BYTES and b"\n" not in rest) or not data[at:].strip(b"\0"):
            return None
        raise GuardDamagedError(f"{path} is damaged at byte {at}.")
    start, stop = frame.end(), frame.end() + int(frame[1])
    if data[stop : stop + 1] == b"\n" and hashlib.sha256(data[start:stop]).hexdigest().encode() == frame[2]:
        return data[start:stop]
    # Damaged; a cut of the last record only if no other begins after it.
    if stop + 1 < len(data) or _FRAME.search(data, start):
        raise GuardDamagedError(f"{path} is damaged at byte {at}.")
    return None
