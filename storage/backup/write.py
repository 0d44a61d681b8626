"""Backups: a whole ledger in one file that any auditor can read.

A stored (never compressed) zip of a static log (c2sp.org/tlog-tiles), with every note
the log ever signed, the witnessed notes, the secret rows as they were sealed, and the
SHA-256 of each member. Unpacked, it is a log that `storage.foreign.source.FolderSource` and other
people's tools follow. No key is in it: without the keyring, which is backed up apart, the
secret rows stay closed, and whatever was erased stays erased.

`storage.backup.read` reads and checks it. A backup does not show that it is the newest one: an
old one is as sound as on its first day, and only the guard and witnesses refuse to go back.
"""

import contextlib
import hashlib
import itertools
import json
import os
import secrets
import stat
import zipfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

from storage import base64text, durable
from storage.checkpoint import Checkpoint
from storage.derivation import DerivedTile, DerivedTree
from storage.errors import EmptyLedgerError, Error, LedgerDamagedError, MalformedError
from storage.merkle import TILE_HEIGHT, TILE_WIDTH
from storage.note import Note
from storage.tile import bundle, bundle_path, tile_path

FORMAT: Final = "lightseal/backup/v1"
MAX_SEALED_BYTES: Final = 1 << 18
MAX_MEMBERS: Final = 1 << 20
"""The list of members is held in memory; this many hold some 130 million entries."""


README = b"""\
A backup of a Lightseal ledger.

checkpoint, tile/ and tile/entries/ are a transparency log as in c2sp.org/tlog-tiles.
notes.jsonl holds every checkpoint the log signed, and when; witnessed.jsonl those with cosignatures.
secrets.jsonl holds payloads and salts SEALED: they open only with the keyring, which is not in here.
SHA256SUMS is checked by 'sha256sum --check SHA256SUMS' in the unpacked folder.
"""


class BackupExistsError(Error):
    """Something stands where the backup should be written."""

    code = "backup-exists"
    remedy = "Name another file; a backup is never written over anything."


class BackupUnwritableError(Error):
    """The backup could not be written, and nothing of it was left."""

    code = "backup-unwritable"
    remedy = "Free some space or name another folder, and write the backup again."


class BackupTooLargeError(Error):
    """The ledger is too large for one file of this kind."""

    code = "backup-too-large"
    remedy = "Back the database up with its own tools, and mirror the log's tiles."


@dataclass(frozen=True, slots=True)
class DatedNote:
    """A signed checkpoint, and when the database says it took it, in seconds since 1970."""

    note: bytes
    at: int


@dataclass(frozen=True, slots=True)
class SealedSecret:
    """The sealed payload and salt of the entry at `index`. Opaque; not verified by anything here."""

    index: int
    sealed: bytes


class Snapshot(Protocol):
    """A ledger as it was at one moment, whatever is appended meanwhile."""

    @property
    def origin(self) -> str:
        """The log's name."""

    @property
    def revision(self) -> str:
        """The revision of the database's schema."""

    @property
    def size(self) -> int:
        """How many entries the newest checkpoint covers."""

    def notes(self) -> Iterable[DatedNote]:
        """Every checkpoint ever signed, by size."""

    def witnessed(self) -> Iterable[DatedNote]:
        """The checkpoints with cosignatures, by size."""

    def entries(self, start: int, stop: int) -> Iterable[bytes]:
        """The bodies of some entries."""

    def secrets(self, start: int, stop: int) -> Iterable[SealedSecret]:
        """The rows that were not erased, of some entries, by index."""

    def tile(self, level: int, number: int, width: int) -> bytes:
        """A tile of hashes, as the database keeps it."""


@dataclass(frozen=True, slots=True)
class BackupFacts:
    """What a backup holds. `root` was derived from the bodies and is that of its newest checkpoint."""

    origin: str
    revision: str
    size: int
    root: bytes
    notes: int
    witnessed: int
    secrets: int


def write(snapshot: Snapshot, out: Path) -> BackupFacts:
    """Write the backup whole or not at all: beside its place, to the disk, then renamed.

    The tree is derived again while it is written, and a ledger that does not add up is refused.
    No signature is verified here; `storage.backup.read.check` does. A kill may leave a draft under a hidden name.
    """
    if snapshot.size == 0:
        raise EmptyLedgerError("Nothing was recorded yet, so there is nothing to back up.")
    if 2 * (snapshot.size // TILE_WIDTH) + snapshot.size // TILE_WIDTH**2 + 64 > MAX_MEMBERS:
        raise BackupTooLargeError(f"{snapshot.size} entries are more than one backup can hold.")
    draft = out.with_name(f".{out.name}.{secrets.token_hex(8)}.partial")
    try:
        _require_free(out)
        try:
            descriptor = os.open(draft, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            with os.fdopen(descriptor, "w+b") as file:
                with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
                    facts = _Writer(archive).run(snapshot)
                file.flush()
                os.fsync(descriptor)
            _require_free(out)
            draft.replace(out)
        finally:
            with contextlib.suppress(OSError):
                draft.unlink()
        durable.sync_folder(out)
    except OSError as error:
        reason = "no room is left" if error.errno in durable.NO_ROOM else error.strerror or "unknown reason"
        raise BackupUnwritableError(f"{out} could not be written ({reason}).") from error
    return facts


def member_names(size: int) -> Iterator[str]:
    """Name the members of a backup of this many entries, in order, without the digests."""
    yield from ("README.txt", "backup.json", "checkpoint", "notes.jsonl", "witnessed.jsonl")
    for number in range(size // TILE_WIDTH):
        yield bundle_path(number)
        level, position = 0, number
        yield tile_path(level, position)
        while position % TILE_WIDTH == TILE_WIDTH - 1:
            level, position = level + 1, position // TILE_WIDTH
            yield tile_path(level, position)
    if size % TILE_WIDTH:
        yield bundle_path(size // TILE_WIDTH, size % TILE_WIDTH)
    for level in itertools.count():
        count = size >> TILE_HEIGHT * level
        if not count:
            break
        if count % TILE_WIDTH:
            yield tile_path(level, count // TILE_WIDTH, count % TILE_WIDTH)
    yield "secrets.jsonl"


def line(fields: dict[str, object]) -> bytes:
    """Write a JSON object in its one form: sorted keys, no spaces, ASCII."""
    return json.dumps(fields, sort_keys=True, separators=(",", ":")).encode("ascii") + b"\n"


class _Writer:
    def __init__(self, archive: zipfile.ZipFile) -> None:
        self._archive = archive
        self._sums: list[str] = []

    def run(self, snapshot: Snapshot) -> BackupFacts:
        size = snapshot.size
        newest = _newest(snapshot)
        counts = dict.fromkeys(("notes.jsonl", "witnessed.jsonl", "secrets.jsonl"), 0)
        head = {"format": FORMAT, "origin": snapshot.origin, "revision": snapshot.revision, "size": size}
        self._member("README.txt", README)
        self._member("backup.json", line(head))
        self._member("checkpoint", newest)
        for name, notes in (("notes.jsonl", snapshot.notes()), ("witnessed.jsonl", snapshot.witnessed())):
            counts[name] = self._lines(name, _note_lines(notes))
        root = self._tree(snapshot)
        if _stated(newest) != Checkpoint(snapshot.origin, size, root):
            raise LedgerDamagedError("The entries do not add up to the newest checkpoint.")
        counts["secrets.jsonl"] = self._lines("secrets.jsonl", _secret_lines(snapshot))
        self._member("SHA256SUMS", "".join(self._sums).encode())
        return BackupFacts(snapshot.origin, snapshot.revision, size, root, *counts.values())

    def _tree(self, snapshot: Snapshot) -> bytes:
        tree = DerivedTree()
        for start in range(0, snapshot.size, TILE_WIDTH):
            stop = min(start + TILE_WIDTH, snapshot.size)
            bodies = list(snapshot.entries(start, stop))
            if len(bodies) != stop - start:
                raise LedgerDamagedError(f"Entries are missing between {start} and {stop}.")
            self._member(bundle_path(start // TILE_WIDTH, stop - start), bundle(bodies))
            for body in bodies:
                for tile in tree.append(body):
                    self._tile(snapshot, tile)
        for tile in tree.partial():
            self._tile(snapshot, tile)
        return tree.root()

    def _tile(self, snapshot: Snapshot, tile: DerivedTile) -> None:
        if snapshot.tile(tile.level, tile.number, tile.width) != tile.hashes:
            raise LedgerDamagedError(f"Tile {tile.level}/{tile.number} is not what its entries hash to.")
        self._member(tile_path(tile.level, tile.number, tile.width), tile.hashes)

    def _member(self, name: str, data: bytes) -> None:
        self._archive.writestr(_info(name), data)
        self._sums.append(f"{hashlib.sha256(data).hexdigest()}  {name}\n")

    def _lines(self, name: str, rows: Iterable[dict[str, object]]) -> int:
        digest, count = hashlib.sha256(), 0
        with self._archive.open(_info(name), "w", force_zip64=True) as member:
            for row in rows:
                written = line(row)
                member.write(written)
                digest.update(written)
                count += 1
        self._sums.append(f"{digest.hexdigest()}  {name}\n")
        return count


def _newest(snapshot: Snapshot) -> bytes:
    newest = b""
    for each in snapshot.notes():
        newest = each.note
    if not newest:
        raise LedgerDamagedError(f"There are {snapshot.size} entries and no checkpoint.")
    return newest


def _stated(note: bytes) -> Checkpoint:
    try:
        return Checkpoint.parse(Note.parse(note).text)
    except MalformedError as error:
        raise LedgerDamagedError("The newest checkpoint in the ledger is not one.") from error


def _note_lines(notes: Iterable[DatedNote]) -> Iterator[dict[str, object]]:
    for each in notes:
        try:
            yield {"at": each.at, "note": each.note.decode()}
        except UnicodeDecodeError as error:
            raise LedgerDamagedError("A checkpoint in the ledger is not a note.") from error


def _secret_lines(snapshot: Snapshot) -> Iterator[dict[str, object]]:
    for start in range(0, snapshot.size, TILE_WIDTH):
        for row in snapshot.secrets(start, min(start + TILE_WIDTH, snapshot.size)):
            if len(row.sealed) > MAX_SEALED_BYTES:
                raise LedgerDamagedError(f"The sealed row of entry {row.index} is larger than it can be.")
            yield {"index": row.index, "sealed": base64text.encode(row.sealed)}


def _info(name: str) -> zipfile.ZipInfo:
    """A member without a time of its own, so that the same ledger gives the same bytes."""
    info = zipfile.ZipInfo(name)
    info.create_system = 3
    info.external_attr = (stat.S_IFREG | 0o600) << 16
    return info


def _require_free(out: Path) -> None:
    if out.exists() or out.is_symlink():
        raise BackupExistsError(f"{out} is already there.")
