"""Our witness (c2sp.org/tlog-witness): what it has seen, and what it will cosign.

A cosignature says: as of this time, this is the largest tree I have seen of this log, and
it grew out of every smaller one I cosigned. That holds while the witness keeps its
database; one that lost it must not go on with its key, and one that was restored from an
old copy cannot be told apart from one that never saw more. It reads no entry, and says
nothing of what a log holds.

The optional `sign-subtree` call is not served, and checkpoints with extension lines are
refused: nobody audits those lines.
"""

import hashlib
import os
import re
import sqlite3
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import ClassVar, Self

from storage import base64text
from storage.checkpoint import MAX_SIZE, Checkpoint
from storage.cosignature import cosign
from storage.errors import (
    LedgerError,
    MalformedError,
    NoteSignatureError,
    ProofError,
)
from storage.merkle import EMPTY_ROOT, verify_consistency
from storage.note import Note, VerifierKey, Verify, open_note

MAX_PROOF_LINES = 63
# The proof, and a note with sixteen signatures of nearly 5 kB each (signed-note), fit into it.
MAX_REQUEST_BYTES = 1 << 17
# A log that forks again and again proves no more by it, and must not fill the disk.
MAX_REFUSALS = 256

TEXT = "text/plain; charset=utf-8"
SIZE = "text/x.tlog.size"

_APPLICATION_ID = 0x4C53_5749  # "LSWI"
_OLD_LINE = re.compile(r"old (0|[1-9][0-9]{0,18})")
_SCHEMA = """
CREATE TABLE witness_self (one INTEGER PRIMARY KEY CHECK (one = 1), keys TEXT NOT NULL) STRICT;
CREATE TABLE witness_seen (
    origin TEXT PRIMARY KEY,
    size INTEGER NOT NULL CHECK (size >= 0),
    root BLOB NOT NULL CHECK (length(root) = 32),
    note BLOB NOT NULL,
    time INTEGER NOT NULL,
    cosigned BLOB
) STRICT, WITHOUT ROWID;
CREATE TABLE witness_refused (
    origin TEXT NOT NULL,
    size INTEGER NOT NULL,
    root BLOB NOT NULL,
    note BLOB NOT NULL,
    seen BLOB NOT NULL,
    fork INTEGER NOT NULL CHECK (fork IN (0, 1)),
    time INTEGER NOT NULL,
    PRIMARY KEY (origin, size, root, fork)
) STRICT, WITHOUT ROWID;
CREATE TRIGGER witness_seen_grows BEFORE UPDATE ON witness_seen
WHEN new.size < old.size OR new.time < old.time OR (new.size = old.size AND new.root <> old.root)
BEGIN SELECT RAISE(ABORT, 'a witness does not go back'); END;
CREATE TRIGGER witness_seen_stays BEFORE DELETE ON witness_seen
BEGIN SELECT RAISE(ABORT, 'a witness does not forget'); END;
CREATE TRIGGER witness_refused_fixed BEFORE UPDATE ON witness_refused
BEGIN SELECT RAISE(ABORT, 'evidence is not changed'); END;
CREATE TRIGGER witness_refused_stays BEFORE DELETE ON witness_refused
BEGIN SELECT RAISE(ABORT, 'evidence is not deleted'); END;
"""


class WitnessError(LedgerError):
    """The witness cannot use what it remembers."""

    code: ClassVar[str] = "witness-unusable"
    remedy: ClassVar[str] = (
        "Stop the witness, keep a copy of its database and see what the disk and the other processes say."
    )


class WitnessLostError(WitnessError):
    """The database of a witness is not where it was."""

    code = "witness-lost"
    remedy = (
        "Find the database; if it is gone, retire this witness key everywhere and begin with a new one:"
        " a witness that forgot could cosign a fork."
    )


class WitnessExistsError(WitnessError):
    """There is a witness already where one was to be created."""

    code = "witness-exists"
    remedy = "Open the witness that is there, or name another place for a new key."


class WitnessForeignError(WitnessError):
    """The database belongs to another witness key, or to another program."""

    code = "witness-foreign"
    remedy = "Name the database that was created with this witness key."


class WitnessKeyError(WitnessError):
    """A witness key cannot be used with these logs."""

    code = "witness-key-unusable"
    remedy = "Give the witness a key of its own, used for nothing else."


class WitnessKeyOtherError(WitnessError):
    """The private key is not the one whose public half stands beside it."""

    code = "witness-key-other"
    remedy = (
        "Put the witness's own files back together from a copy; cosignatures by another key count for nobody."
    )


class MalformedRequestError(MalformedError):
    """Not an add-checkpoint request as we would write it."""

    code = "add-checkpoint-malformed"


@dataclass(frozen=True, slots=True)
class Request:
    """What a log asks of a witness: this checkpoint follows the one of size `old`."""

    old: int
    proof: tuple[bytes, ...]
    note: Note

    @classmethod
    def parse(cls, body: bytes) -> "Request":
        """Read a request, accepting only what `bytes` would write. Verifies nothing."""
        if len(body) > MAX_REQUEST_BYTES:
            raise MalformedRequestError(f"The request is larger than {MAX_REQUEST_BYTES} bytes.")
        head, blank, note = body.partition(b"\n\n")
        try:
            first, *lines = head.decode("ascii").split("\n")
        except UnicodeDecodeError as error:
            raise MalformedRequestError("The old size and the proof are not ASCII.") from error
        matched = _OLD_LINE.fullmatch(first)
        if not blank or matched is None or int(matched[1]) >= MAX_SIZE:
            raise MalformedRequestError("The request does not begin with the old size.")
        if len(lines) > MAX_PROOF_LINES:
            raise MalformedRequestError(f"The proof has more than {MAX_PROOF_LINES} lines.")
        try:
            proof = tuple(base64text.decode_hash(line) for line in lines)
        except ValueError as error:
            raise MalformedRequestError("A line of the proof is not a hash.") from error
        return cls(int(matched[1]), proof, Note.parse(note))

    def __bytes__(self) -> bytes:
        lines = "".join(f"{base64text.encode(item)}\n" for item in self.proof)
        return f"old {self.old}\n{lines}\n".encode() + bytes(self.note)


@dataclass(frozen=True, slots=True)
class CosigningKey:
    """A key of the witness, and the callable that signs with it, from several threads at once."""

    key: VerifierKey
    sign: Callable[[bytes], bytes]


@dataclass(frozen=True, slots=True)
class Fork:
    """Two notes that one log signed, of one size and with different roots: it lied to somebody."""

    origin: str
    refused: bytes
    seen: bytes


@dataclass(frozen=True, slots=True)
class Answer:
    """What the witness says, in the words of HTTP, and the evidence that it kept in saying so."""

    status: int
    content_type: str
    body: bytes
    kept: Fork | None = None
    """A fork that was not known before; for whoever runs the witness, not for whoever asked."""


@dataclass(frozen=True, slots=True)
class _Seen:
    size: int
    root: bytes
    note: bytes


_NOTHING = _Seen(0, EMPTY_ROOT, b"")


class Witness:
    """The memory of one witness. Safe to use from several threads and processes."""

    def __init__(
        self,
        path: Path,
        keys: Sequence[CosigningKey],
        logs: Mapping[str, Sequence[VerifierKey]],
        verify: Verify,
    ) -> None:
        """Use `create` or `open`."""
        _require_own_keys(keys, logs)
        self._keys = tuple(keys)
        self._logs = {origin: tuple(trusted) for origin, trusted in logs.items()}
        self._origins = {hashlib.sha256(origin.encode()).hexdigest(): origin for origin in logs}
        self._verify = verify
        self._lock = threading.Lock()
        self._database = _connect(path)

    @classmethod
    def create(
        cls,
        path: Path,
        keys: Sequence[CosigningKey],
        logs: Mapping[str, Sequence[VerifierKey]],
        verify: Verify,
    ) -> Self:
        """Begin a new witness with new keys; refuse where one is, or where one was lost."""
        _require_own_keys(keys, logs)
        if path.exists():
            raise WitnessExistsError(f"{path.name} is there already.")
        if _marker(path).exists():
            raise WitnessLostError(f"{path.name} was here once, and is gone.")
        path.touch(mode=0o600, exist_ok=False)
        database = _connect(path)
        try:
            # The schema and whose it is are one transaction: a crash leaves no witness, or a whole one.
            with _translated():
                database.executescript(
                    f"BEGIN IMMEDIATE;\n{_SCHEMA}\nPRAGMA application_id = {_APPLICATION_ID};"
                )
                database.execute("INSERT INTO witness_self VALUES (1, ?)", (_names(keys),))
                database.execute("COMMIT")
        finally:
            database.close()
        return cls.open(path, keys, logs, verify)

    @classmethod
    def open(
        cls,
        path: Path,
        keys: Sequence[CosigningKey],
        logs: Mapping[str, Sequence[VerifierKey]],
        verify: Verify,
    ) -> Self:
        """Go on with a witness; one whose database is missing does not begin anew."""
        if not path.is_file():
            raise WitnessLostError(f"The witness's database {path.name} is missing.")
        witness = cls(path, keys, logs, verify)
        try:
            witness._require_mine(path)
            _mark(path, _names(keys))
        except BaseException:
            witness.close()
            raise
        return witness

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the database."""
        with self._lock:
            self._database.close()

    def add_checkpoint(self, body: bytes, at: datetime) -> Answer:
        """Answer an `add-checkpoint` request (c2sp.org/tlog-witness) that arrived at `at`.

        Numbered as the specification orders its checks:

        1. the request and the checkpoint are well-formed, else 400
        2. the origin is known, else 404
        3. a key trusted for the origin signed, and no trusted key's signature is wrong, else 403
        4. the old size is not above the checkpoint's, else 400
        5. the old size is the one last seen, else 409 with that size
        6. the consistency proof leads from what was seen to the checkpoint, else 422
        7. a checkpoint of the size seen has the root seen, else 409 with that size
        8. the clock did not run back, else 503; then the checkpoint is kept
        9. only now: cosign, and keep the cosigned note for monitors
        """
        # 1.
        try:
            request = Request.parse(body)
            checkpoint = Checkpoint.parse(request.note.text)
        except MalformedError as error:
            return _refuse(400, str(error))
        # 2.
        trusted = self._logs.get(checkpoint.origin)
        if trusted is None:
            return _refuse(404, "The origin is unknown here.")
        # 3.
        try:
            note = _signed_by(request.note, trusted, self._verify)
        except NoteSignatureError as error:
            return _refuse(403, str(error))
        # 4.
        if request.old > checkpoint.size:
            return _refuse(400, "The old size is larger than the checkpoint.")
        # 5 to 8, in one transaction: nobody comes between the check and the keeping.
        time = int(at.timestamp())
        with self._lock, _transaction(self._database):
            refusal = self._judge(checkpoint, request, note, time)
            if refusal is not None:
                return refusal
            self._database.execute(
                "INSERT INTO witness_seen VALUES (?, ?, ?, ?, ?, NULL) ON CONFLICT (origin) DO UPDATE"
                " SET size = excluded.size, root = excluded.root, note = excluded.note, time = excluded.time",
                (checkpoint.origin, checkpoint.size, checkpoint.root, bytes(note), time),
            )
        # Committed, and on the disk: no smaller and no other tree will be cosigned from here on. A
        # crash before the answer costs the log one more request, with the size it is told by 409.
        # 9.
        lines = tuple(cosign(note.text, item.key, time, item.sign) for item in self._keys)
        cosigned = bytes(Note(note.text, (*note.signatures, *lines)))
        with self._lock, _transaction(self._database):
            # A request that came later may have been faster.
            self._database.execute(
                "UPDATE witness_seen SET cosigned = ? WHERE origin = ? AND size = ? AND time = ?",
                (cosigned, checkpoint.origin, checkpoint.size, time),
            )
        return Answer(200, TEXT, "".join(map(str, lines)).encode())

    def newest(self, origin_hash: str) -> Answer:
        """Answer a monitor: the newest cosigned note of the log whose origin has this SHA-256, else 404.

        The note has the log's signatures that were verified, and ours. This is the monitoring
        call of the specification's draft after 1.0.
        """
        origin = self._origins.get(origin_hash)
        with self._lock, _translated():
            row = self._database.execute(
                "SELECT cosigned FROM witness_seen WHERE origin = ? AND cosigned IS NOT NULL", (origin,)
            ).fetchone()
        if row is None:
            return _refuse(404, "No checkpoint of such a log was cosigned here.")
        return Answer(200, TEXT, row[0])

    def forks(self) -> tuple[Fork, ...]:
        """Return the evidence: every fork that was refused, oldest first. At most 256 a log are kept."""
        return self._refused(1)

    def unproven(self) -> tuple[Fork, ...]:
        """Return what was refused for its proof: perhaps a fork, perhaps only a wrong proof."""
        return self._refused(0)

    def _refused(self, fork: int) -> tuple[Fork, ...]:
        with self._lock, _translated():
            rows = self._database.execute(
                "SELECT origin, note, seen FROM witness_refused WHERE fork = ? ORDER BY time, origin, size, root",
                (fork,),
            ).fetchall()
        return tuple(Fork(*row) for row in rows)

    def _judge(self, checkpoint: Checkpoint, request: Request, note: Note, time: int) -> Answer | None:
        """Checks 5 to 8, inside the transaction; what is kept of a refusal is kept by its commit."""
        row = self._database.execute(
            "SELECT size, root, note FROM witness_seen WHERE origin = ?", (checkpoint.origin,)
        ).fetchone()
        seen = _NOTHING if row is None else _Seen(*row)
        forked = row is not None and checkpoint.size == seen.size and checkpoint.root != seen.root
        kept = self._keep_refused(checkpoint, note, seen, 1, time) if forked else None
        # 5.
        if request.old != seen.size:
            return Answer(409, SIZE, f"{seen.size}\n".encode(), kept)
        # 6 and 7; an equal size needs no proof, so only another root or too long a proof can fail there.
        try:
            verify_consistency(request.old, checkpoint.size, request.proof, seen.root, checkpoint.root)
        except ProofError as error:
            if forked and not request.proof:
                # 1.0 asks for 409; later drafts for 422. Naming the very size that was asked says which case it is.
                return Answer(409, SIZE, f"{seen.size}\n".encode(), kept)
            if row is not None and not forked and checkpoint.size > seen.size:
                self._keep_refused(checkpoint, note, seen, 0, time)
            return Answer(422, TEXT, f"{error}\n".encode(), kept)
        # 8.
        (last,) = self._database.execute("SELECT coalesce(max(time), 1) FROM witness_seen").fetchone()
        if time < last:
            return _refuse(503, f"The witness's clock ran back by {last - time} seconds; it does not cosign.")
        return None

    def _keep_refused(
        self, checkpoint: Checkpoint, note: Note, seen: _Seen, fork: int, time: int
    ) -> Fork | None:
        """Keep both notes, and return them where they were not known before and there was room."""
        (held,) = self._database.execute(
            "SELECT count(*) FROM witness_refused WHERE origin = ? AND fork = ?", (checkpoint.origin, fork)
        ).fetchone()
        if held >= MAX_REFUSALS:
            return None
        added = self._database.execute(
            "INSERT OR IGNORE INTO witness_refused VALUES (?, ?, ?, ?, ?, ?, ?)",
            (checkpoint.origin, checkpoint.size, checkpoint.root, bytes(note), seen.note, fork, time),
        ).rowcount
        return Fork(checkpoint.origin, bytes(note), seen.note) if added else None

    def _require_mine(self, path: Path) -> None:
        with _translated():
            (application,) = self._database.execute("PRAGMA application_id").fetchone()
            if application != _APPLICATION_ID:
                raise WitnessForeignError(f"{path.name} is not the database of a witness.")
            row = self._database.execute("SELECT keys FROM witness_self").fetchone()
        if row is None or row[0] != _names(self._keys):
            raise WitnessForeignError(f"{path.name} was not created with this witness key.")


def _signed_by(note: Note, trusted: Sequence[VerifierKey], verify: Verify) -> Note:
    """Return the note with the trusted signatures alone: nobody else's lines are kept or handed on."""
    signers = open_note(bytes(note), trusted, verify).signers
    kept = {}
    for signature in note.signatures:
        meant = (signature.name, signature.key_id)
        if meant not in kept and any(meant == (key.name, key.key_id) for key in signers):
            kept[meant] = signature
    return Note(note.text, tuple(kept.values()))


def _refuse(status: int, reason: str) -> Answer:
    return Answer(status, TEXT, f"{reason}\n".encode())


def _names(keys: Sequence[CosigningKey]) -> str:
    return "\n".join(sorted(str(item.key) for item in keys))


def _require_own_keys(keys: Sequence[CosigningKey], logs: Mapping[str, Sequence[VerifierKey]]) -> None:
    """A key that signs as a log and as its witness would witness itself (tlog-cosignature, Format)."""
    publics = [item.key.public for item in keys]
    if not publics or len(set(publics)) != len(publics):
        raise WitnessKeyError("A witness needs a key, and no key twice.")
    if any(key.public in publics for trusted in logs.values() for key in trusted):
        raise WitnessKeyError("The witness's key is the key of one of its logs.")


def _connect(path: Path) -> sqlite3.Connection:
    with _translated():
        # mode=rw: a database that went away meanwhile is not created again.
        database = sqlite3.connect(
            f"{path.absolute().as_uri()}?mode=rw",
            uri=True,
            timeout=10,
            isolation_level=None,
            check_same_thread=False,
        )
        try:
            database.execute("PRAGMA journal_mode = WAL")
            database.execute("PRAGMA synchronous = FULL")
            database.execute("PRAGMA trusted_schema = OFF")
        except sqlite3.Error:
            database.close()
            raise
    return database


@contextmanager
def _transaction(database: sqlite3.Connection) -> Iterator[None]:
    """Hold the write lock from the first read on, and commit durably at the end."""
    with _translated():
        database.execute("BEGIN IMMEDIATE")
        try:
            yield
            database.execute("COMMIT")
        except BaseException:
            if database.in_transaction:
                database.execute("ROLLBACK")
            raise


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except sqlite3.Error as error:
        raise WitnessError(f"The witness's database refused: {error}.") from error


def _marker(path: Path) -> Path:
    return path.with_name(f"{path.name}.key")


def _mark(path: Path, names: str) -> None:
    """Leave beside the database a file that says whose it was, so that its loss is noticed."""
    if _marker(path).exists():
        return
    with _marker(path).open("x", encoding="utf-8") as file:
        file.write(f"{names}\n")
        file.flush()
        os.fsync(file.fileno())
    # The names of both files are to outlive a power cut too.
    folder = os.open(path.absolute().parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
