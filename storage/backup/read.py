"""Reading a backup back: nothing comes out of it that was not derived again.

`read` is what a restore consumes and `check` is `read` to the end, so nothing can be
restored that was not checked. The sealed rows are opaque here; whether they open is for who
has the keyring, and so is whether a note's time is that of its last entry, for whoever reads
bodies. Cosignatures are not verified: `storage.policy` does that.
"""

import contextlib
import hashlib
import heapq
import json
import os
import stat
import struct
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Final

from storage import base64text
from storage.auditing.lines import adds_to, by_others
from storage.backup.write import (
    FORMAT,
    MAX_MEMBERS,
    MAX_SEALED_BYTES,
    README,
    BackupFacts,
    DatedNote,
    SealedSecret,
    line,
    member_names,
)
from storage.checkpoint import MAX_SIZE, Checkpoint
from storage.derivation import DerivedTile, DerivedTree
from storage.errors import Error, MalformedError, ProofError
from storage.foreign.source import MAX_BUNDLE_BYTES, MAX_CHECKPOINT_BYTES, unpack
from storage.merkle import EMPTY_ROOT, TILE_WIDTH
from storage.tile import bundle_path, tile_path

_MAX_HEAD_BYTES: Final = 1 << 12
_MAX_NOTE_LINE: Final = 2 * MAX_CHECKPOINT_BYTES
_MAX_SECRET_LINE: Final = 2 * MAX_SEALED_BYTES
_MAX_DIRECTORY_BYTES: Final = MAX_MEMBERS * 256
_ZIP64_EXTRA: Final = 20


class BackupUnreadableError(Error):
    """The backup could not be read from where it lies."""

    code = "backup-unreadable"
    remedy = "Check the path and the medium, and try another copy."


class MalformedBackupError(MalformedError):
    """Not a backup as we would write it."""

    code = "backup-malformed"
    remedy = "Restore from another copy; do not repair this one by hand."


class BackupProofError(ProofError):
    """A backup whose entries do not lead to the checkpoints beside them."""

    code = "backup-unproven"
    remedy = "Do not restore it; keep it, and use another copy."


@dataclass(frozen=True, slots=True)
class Head:
    """Whose ledger it is, and how many entries follow."""

    origin: str
    revision: str
    size: int


@dataclass(frozen=True, slots=True)
class Entries:
    """Consecutive bodies, beginning at `start`."""

    start: int
    bodies: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class Published:
    """A checkpoint that the log signed; its signature and its root were checked."""

    checkpoint: Checkpoint
    signed: DatedNote


@dataclass(frozen=True, slots=True)
class Witnessed:
    """A published checkpoint with lines by others than the log; whether those are witnesses' was not checked."""

    checkpoint: Checkpoint
    signed: DatedNote


@dataclass(frozen=True, slots=True)
class Secrets:
    """Sealed rows, by index."""

    rows: tuple[SealedSecret, ...]


Part = Head | Entries | Published | Witnessed | Secrets
Open = Callable[[bytes], Checkpoint]
"""Opens a signed checkpoint with the keys one trusts, and raises if none of them signed it."""


def check(path: Path, open_note: Open) -> BackupFacts:
    """Derive the ledger in a backup again from its bodies, verify all its notes, and say what it holds.

    The sealed rows are only counted: whether they open is for who has the keyring.
    """
    head, root = Head("", "", 0), EMPTY_ROOT
    notes = witnessed = rows = 0
    for part in read(path, open_note):
        match part:
            case Head():
                head = part
            case Entries():
                pass  # the last of the notes has their root
            case Published(checkpoint, _):
                notes, root = notes + 1, checkpoint.root
            case Witnessed():
                witnessed += 1
            case Secrets(some):
                rows += len(some)
    return BackupFacts(head.origin, head.revision, head.size, root, notes, witnessed, rows)


def read(path: Path, open_note: Open) -> Iterator[Part]:
    """Yield what a backup holds, in flat memory: its head, entries with their checkpoints, then secrets.

    What was yielded is proven only once the iterator has ended without an error: restore in one
    transaction, and commit it after that.
    """
    # The plan:
    # 1. A regular file, with a list of members of bounded size, before the list is parsed.
    # 2. The members: exactly those of a ledger of this size, in order, stored, end to end. So there
    #    is no second member of a name, no path of another kind, no overlap and nothing to inflate.
    # 3. The digest of each member, before its content is parsed.
    # 4. The tree from the bodies; each tile, and each note's root when the tree has its size.
    # 5. The newest note is of this size, and is the one served as `checkpoint`.
    # 6. The secret rows.
    with _opened(path) as file:
        _require_bounded(file)  # 1
        with _malformed(), zipfile.ZipFile(file) as archive:
            reader = _Reader(archive, open_note)
            yield reader.head()  # 2, 3
            yield from reader.entries()  # 4, 5
            yield from reader.secrets()  # 6


class _Reader:
    def __init__(self, archive: zipfile.ZipFile, open_note: Open) -> None:
        self._archive = archive
        self._open = open_note
        self._members = archive.infolist()
        self._head, self._sums = Head("", "", 0), dict[str, str]()

    def head(self) -> Head:
        """Read the head and the digests; require exactly the members that a ledger of this size has."""
        self._require_stored()
        named = {member.filename: member for member in self._members}
        if "backup.json" not in named or "SHA256SUMS" not in named:
            raise MalformedBackupError("The file is no backup of a ledger.")
        raw = self._bytes("backup.json", _MAX_HEAD_BYTES)
        head = _fields(raw, format=str, origin=str, revision=str, size=int)
        if head["format"] != FORMAT:
            raise MalformedBackupError("The backup is of another format.")
        self._head = Head(head["origin"], head["revision"], head["size"])
        if not 0 < self._head.size < MAX_SIZE or self._head.size // TILE_WIDTH > len(self._members):
            raise MalformedBackupError("The backup does not hold the entries that it announces.")
        expected = [*member_names(self._head.size), "SHA256SUMS"]
        if [member.filename for member in self._members] != expected:
            raise MalformedBackupError(
                "The backup does not hold exactly the members of a ledger of its size."
            )
        limit = sum(len(name) + 67 for name in expected[:-1])
        sums = self._bytes("SHA256SUMS", limit).decode("ascii")
        self._sums = {name: each[:64] for name, each in zip(expected[:-1], sums.split("\n"), strict=False)}
        if "".join(f"{digest}  {name}\n" for name, digest in self._sums.items()) != sums:
            raise MalformedBackupError("The list of digests is not that of the members.")
        self._require_digest("backup.json", hashlib.sha256(raw))
        if self._member("README.txt", len(README)) != README:
            raise MalformedBackupError("The README is not the one we would write.")
        return self._head

    def entries(self) -> Iterator[Entries | Published | Witnessed]:
        """Grow the tree from the bodies and hold tiles and notes against it."""
        size, tree = self._head.size, DerivedTree()
        newest: Published | None = None
        notes = heapq.merge(
            self._notes("notes.jsonl", Published),
            self._notes("witnessed.jsonl", Witnessed),
            key=lambda found: found.checkpoint.size,
        )
        note = next(notes, None)
        for start in range(0, size, TILE_WIDTH):
            width = min(TILE_WIDTH, size - start)
            path = bundle_path(start // TILE_WIDTH, width)
            bodies = unpack(self._member(path, MAX_BUNDLE_BYTES), width)
            fitting: list[Published | Witnessed] = []
            for body in bodies:
                for tile in tree.append(body):
                    self._tile(tile)
                while note is not None and note.checkpoint.size <= tree.size:
                    self._require_fitting(note, tree, newest)
                    fitting.append(note)
                    newest = note if isinstance(note, Published) else newest
                    note = next(notes, None)
            yield Entries(start, tuple(bodies))
            yield from fitting
        for tile in tree.partial():
            self._tile(tile)
        if note is not None:
            raise BackupProofError(
                f"The backup holds a checkpoint of {note.checkpoint.size} entries, and only {size}."
            )
        if newest is None or newest.checkpoint.size != size:
            raise BackupProofError("The newest checkpoint does not cover all entries.")
        if self._member("checkpoint", MAX_CHECKPOINT_BYTES) != newest.signed.note:
            raise BackupProofError("The checkpoint is not the newest one that the log signed.")

    def secrets(self) -> Iterator[Secrets]:
        """Read the sealed rows."""
        last, rows = -1, list[SealedSecret]()
        for written in self._lines("secrets.jsonl", _MAX_SECRET_LINE):
            fields = _fields(written, index=int, sealed=str)
            row = SealedSecret(fields["index"], base64text.decode(fields["sealed"]))
            if not last < row.index < self._head.size or len(row.sealed) > MAX_SEALED_BYTES:
                raise MalformedBackupError("The sealed rows are not in order, or not of these entries.")
            last = row.index
            rows.append(row)
            if len(rows) == TILE_WIDTH:
                yield Secrets(tuple(rows))
                rows = []
        if rows:
            yield Secrets(tuple(rows))

    def _require_stored(self) -> None:
        """Each member is stored, and follows upon the one before it with nothing between or before."""
        ends = [*(member.header_offset for member in self._members[1:]), self._archive.start_dir]
        at = 0
        for member, end in zip(self._members, ends, strict=False):
            content = member.header_offset + 30 + len(member.filename) + member.file_size
            if (
                member.header_offset != at
                or member.compress_type != zipfile.ZIP_STORED
                or member.compress_size != member.file_size
                or member.flag_bits
                or end - content not in {0, _ZIP64_EXTRA}
            ):
                raise MalformedBackupError("A member of the file is packed otherwise than we would.")
            at = end

    def _tile(self, tile: DerivedTile) -> None:
        if self._member(tile_path(tile.level, tile.number, tile.width), len(tile.hashes)) != tile.hashes:
            raise BackupProofError(f"Tile {tile.level}/{tile.number} is not what its entries hash to.")

    def _notes(self, name: str, kind: type[Published] | type[Witnessed]) -> Iterator[Published | Witnessed]:
        last = 0
        for written in self._lines(name, _MAX_NOTE_LINE):
            fields = _fields(written, at=int, note=str)
            signed = DatedNote(fields["note"].encode(), fields["at"])
            checkpoint = self._open(signed.note)
            if checkpoint.size <= last or signed.at < 0:
                raise MalformedBackupError("The notes are not in the order of their sizes.")
            last = checkpoint.size
            yield kind(checkpoint, signed)

    def _require_fitting(
        self, note: Published | Witnessed, tree: DerivedTree, newest: Published | None
    ) -> None:
        if note.checkpoint != Checkpoint(self._head.origin, tree.size, tree.root()):
            raise BackupProofError(
                f"The checkpoint of {note.checkpoint.size} entries is not that of the entries below it."
            )
        if isinstance(note, Witnessed):
            self._require_witnessed(note, newest)

    def _require_witnessed(self, witnessed: Witnessed, published: Published | None) -> None:
        """A witnessed note is the published one and lines by others, as of the same time."""
        size, note = witnessed.checkpoint.size, witnessed.signed.note
        if (
            published is None
            or published.checkpoint != witnessed.checkpoint
            or published.signed.at != witnessed.signed.at
            or not adds_to(published.signed.note, note)
        ):
            raise BackupProofError(f"The witnessed checkpoint of {size} entries is not the one published.")
        if not by_others(note, self._head.origin):
            raise BackupProofError(f"Nobody cosigned the witnessed checkpoint of {size} entries.")

    def _bytes(self, name: str, limit: int) -> bytes:
        if self._archive.getinfo(name).file_size > limit:
            raise MalformedBackupError(f"{name} is larger than it can be.")
        return self._archive.read(name)

    def _member(self, name: str, limit: int) -> bytes:
        data = self._bytes(name, limit)
        self._require_digest(name, hashlib.sha256(data))
        return data

    def _lines(self, name: str, limit: int) -> Iterator[bytes]:
        digest = hashlib.sha256()
        with self._archive.open(name) as member:
            while written := member.readline(limit):
                if not written.endswith(b"\n"):
                    raise MalformedBackupError(f"{name} holds a line that is too long, or breaks off.")
                digest.update(written)
                yield written
        self._require_digest(name, digest)

    def _require_digest(self, name: str, digest: "hashlib._Hash") -> None:
        if digest.hexdigest() != self._sums[name]:
            raise MalformedBackupError(f"{name} does not have the digest that was written down.")


def _fields(data: bytes, **kinds: type[int] | type[str]) -> dict[str, Any]:
    """Read a line, accepting only what `line` would write, with exactly these fields."""
    try:
        fields = json.loads(data)
        same = isinstance(fields, dict) and line(fields) == data
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
    if not same or {name: type(value) for name, value in fields.items()} != kinds:
        raise MalformedBackupError("A line of the backup is not as we would write it.")
    return dict(fields)


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[IO[bytes]]:
    try:
        # A pipe or a device must neither keep us waiting nor be woken.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    except OSError as error:
        raise BackupUnreadableError(
            f"{path} cannot be read ({error.strerror or 'unknown reason'})."
        ) from error
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise BackupUnreadableError(f"{path} is not a file.")
        with os.fdopen(descriptor, "rb", closefd=False) as file:
            yield file
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _malformed() -> Iterator[None]:
    """Whatever the zip reader and the parsers stumble over is the file's fault, but for the disk's."""
    try:
        yield
    except (zipfile.BadZipFile, ValueError, NotImplementedError, EOFError, struct.error) as error:
        raise MalformedBackupError("The file is not a backup as we would write it.") from error
    except OSError as error:
        raise BackupUnreadableError(
            f"The backup cannot be read ({error.strerror or 'unknown reason'})."
        ) from error


def _require_bounded(file: IO[bytes]) -> None:
    """The list of members is read whole by whoever opens a zip, so its size is looked at before (APPNOTE, 4.3)."""
    length = file.seek(0, os.SEEK_END)
    tail = min(length, 98)
    file.seek(length - tail)
    end = file.read(tail).rjust(98, b"\0")
    if end[76:80] != b"PK\5\6" or end[96:98] != b"\0\0":
        raise MalformedBackupError("The file is no zip, or has a comment.")
    directory = int.from_bytes(end[88:92], "little")
    if end[56:60] == b"PK\6\7":  # with the locator, the 64-bit record before it counts
        directory = int.from_bytes(end[40:48], "little")
    if directory > _MAX_DIRECTORY_BYTES:
        raise MalformedBackupError("The file has more members than a backup can have.")
    file.seek(0)
