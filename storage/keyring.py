"""One key per ledger entry, each of which can be destroyed for ever.

The keys are the leaves of a tree of secrets (Goldreich, Goldwasser and Micali, "How
to construct random functions", 1986): every secret yields its two children, and
none its parent. The state file holds the fewest secrets that cover every entry not
forgotten; to forget an entry, the secret above it is replaced by the siblings along
its path. That is a puncturable pseudo-random function (Boneh and Waters; Kiayias et
al.; Boyle, Goldwasser and Ivan; all 2013): from what is left the forgotten key cannot
be computed, so its row is unreadable in every copy of the *database*, wherever it lies.

It is not unreadable to who has an older copy of *this file*: keep it out of the
database's backups, and replace each copy of it after every erasure. We overwrite the
old file in place, but a journal, a snapshot, swap or the spare cells of a flash disk
may keep it, and so may the memory of a process that read it before: a `Keyring`
looks at the file before each key, and drops the old secrets only then.

Size: forgetting one entry adds at most 39 secrets of at most 82 bytes, so the file
holds at most `erased * LEVELS` of them; neighbours share most of theirs.
"""

import hashlib
import hmac
import os
import stat
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from storage import durable
from storage.errors import ErasedEntryError, LedgerDamagedError, LedgerError, UnknownEntryError

LEVELS = 40
KEY_BYTES = 32
TAG_BYTES = 16
HEADER = "lightseal-keyring v1"

# Seal(key, plaintext, associated) gives what Unseal(key, sealed, associated) takes.
# Unseal raises ValueError unless exactly this key and associated data made it.
Seal = Callable[[bytes, bytes, bytes], bytes]
Unseal = Callable[[bytes, bytes, bytes], bytes]

# Short enough that a secret and its label are one block of SHA-256, the secret in the place of
# its key: that this is pseudo-random is what HMAC assumes of its own keys too (Bellare, 2006).
_ROOT = b"lightseal/key/v1/root"
_CHILD = (b"lightseal/key/v1/left", b"lightseal/key/v1/right")
_ASSOCIATED = b"lightseal/secret/v1\0"
_TAG = b"lightseal/lookup/v1\0"

# The secret of the entries `position << level` up to `(position + 1) << level`.
_Nodes = dict[tuple[int, int], bytes]


class KeyringError(LedgerError):
    """The keys of the ledger's entries cannot be used."""

    code = "keyring-unusable"
    remedy = "Check the keyring's path and what the system says about it."


class KeyringOtherError(KeyringError):
    """The keyring opens none of the ledger's payloads: it is another ledger's."""

    code = "keyring-other"
    remedy = (
        "Put the keyring back that was made with this ledger; what another one seals or erases is lost twice."
    )


class KeyringMissingError(KeyringError):
    """There is no keyring where one was named."""

    code = "keyring-missing"
    remedy = "Check the path, or bring the keyring's newest copy back; without it no payload can be read."


class KeyringExistsError(KeyringError):
    """A keyring lies where a new one was to be made."""

    code = "keyring-exists"
    remedy = "Open the keyring that is there, or name another path; replacing it would lose every key."


class KeyringDamagedError(KeyringError):
    """The file is not a keyring as we would write it."""

    code = "keyring-damaged"
    remedy = (
        "Bring the keyring's newest copy back, then forget again every entry that the ledger calls erased."
    )


class KeyringExposedError(KeyringError):
    """Other users of the machine can reach the keys."""

    code = "keyring-exposed"
    remedy = "Run 'chmod 600' on the keyring, and think about who may have read it."


class Keyring:
    """The keys of all entries but the forgotten ones; for several threads and processes."""

    def __init__(self, path: Path) -> None:
        self._file = Path(os.path.realpath(path))
        self._lock = threading.Lock()
        self._stamp: tuple[int, int, int] | None = None
        self._nodes: _Nodes = {}
        self._path: list[tuple[int, int, bytes]] = []

    @classmethod
    def create(cls, path: Path, seed: bytes) -> "Keyring":
        """Make a keyring that holds every key, from 32 secret bytes that nobody keeps."""
        if len(seed) != KEY_BYTES:
            raise ValueError(f"a seed has {KEY_BYTES} bytes, not {len(seed)}")
        keyring = cls(path)
        nodes = {(LEVELS, 0): _derive(seed, _ROOT)}
        try:
            with (
                durable.explaining(keyring._file, KeyringMissingError),
                durable.creating(keyring._file),
            ):
                durable.replace(keyring._file, _format(nodes))
        except FileExistsError as error:
            raise KeyringExistsError(f"There is a keyring at {path} already.") from error
        return keyring

    @classmethod
    def open(cls, path: Path) -> "Keyring":
        """Use the keyring that lies at `path`."""
        keyring = cls(path)
        with keyring._lock:
            keyring._refresh()
        return keyring

    def key(self, index: int) -> bytes:
        """Return the entry's key; about two hashes where the index follows the one before."""
        _require_index(index)
        with self._lock:
            self._refresh()
            path = self._path
            while path and index >> path[-1][0] != path[-1][1]:
                path.pop()
            if not path:
                path.append(self._covering(index))
            level, _, secret = path[-1]
            while level:
                level -= 1
                position = index >> level
                secret = _derive(secret, _CHILD[position & 1])
                path.append((level, position, secret))
            return secret

    def holds(self, index: int) -> bool:
        """Whether the entry's key was not forgotten."""
        _require_index(index)
        with self._lock:
            self._refresh()
            return _level_above(self._nodes, index) is not None

    def forget(self, *indices: int) -> None:
        """Destroy the entries' keys; durable when this returns, and no error if done before."""
        for index in indices:
            _require_index(index)
        with self._lock, durable.explaining(self._file, KeyringMissingError):
            try:
                with durable.changing(self._file) as descriptor:
                    self._puncture(descriptor, indices)
            finally:
                self._drop()

    def _puncture(self, descriptor: int, indices: tuple[int, ...]) -> None:
        # 1. What counts is the file: another process may have forgotten more than we know.
        data = durable.read(descriptor)
        nodes = _parse(data, self._file)
        # 2. Replace each secret above a forgotten entry by those beside its path.
        for index in indices:
            _forget(nodes, index)
        # 3. The new state is durable before the old one goes. Where nothing changed, the one
        #    who changed it may not have come to sync the folder: do it in their place.
        if (new := _format(nodes)) == data:
            durable.sync_folder(self._file)
            return
        durable.replace(self._file, new)
        # Forgotten: a crash from here on leaves at worst the old bytes in free blocks of the disk.
        # 4. Overwrite those as well; a file system that writes elsewhere keeps them all the same.
        os.pwrite(descriptor, bytes(len(data)), 0)
        os.fsync(descriptor)

    def _covering(self, index: int) -> tuple[int, int, bytes]:
        level = _level_above(self._nodes, index)
        if level is None:
            raise ErasedEntryError(f"The key of entry {index} was destroyed.")
        return level, index >> level, self._nodes[level, index >> level]

    def _refresh(self) -> None:
        """Read the file again if another was put in its place."""
        try:
            unchanged = self._stamp == _stamp(self._file.stat())
        except OSError:
            unchanged = False  # The opening below says why, in our words.
        if unchanged:
            return
        self._drop()
        with durable.explaining(self._file, KeyringMissingError), durable.reading(self._file) as descriptor:
            status = os.fstat(descriptor)
            if stat.S_IMODE(status.st_mode) & 0o077:
                raise KeyringExposedError(f"Others than its owner may use {self._file}.")
            self._nodes = _parse(durable.read(descriptor), self._file)
            self._stamp = _stamp(status)

    def _drop(self) -> None:
        self._stamp = None
        self._nodes = {}
        self._path.clear()


@dataclass(frozen=True, slots=True)
class Sealer:
    """Seals each entry's secret row under the entry's own key, and for its place only.

    Two rows cannot be exchanged, within a ledger or between two: origin and index are
    authenticated. An older sealing of the same entry is not told from the newest.
    """

    keyring: Keyring
    seal_with: Seal
    unseal_with: Unseal
    _tag_key: bytes = field(init=False, repr=False)

    def __post_init__(self) -> None:
        # The last index is no ledger's entry; its key blinds what entries are found by.
        object.__setattr__(self, "_tag_key", self.keyring.key((1 << LEVELS) - 1))

    def tag(self, kind: str, digest: bytes) -> bytes:
        """Return the 16 bytes under which a digest is looked up; without the key nobody can try a guess."""
        return hmac.digest(self._tag_key, _TAG + kind.encode() + b"\0" + digest, "sha256")[:TAG_BYTES]

    def holds(self, index: int) -> bool:
        """Whether the key of an entry was not destroyed."""
        return self.keyring.holds(index)

    def forget(self, index: int) -> None:
        """Destroy the key of one entry for ever."""
        self.keyring.forget(index)

    def seal(self, index: int, plaintext: bytes, origin: str) -> bytes:
        """Seal the row of the entry at `index` of the log `origin`."""
        return self.seal_with(self.keyring.key(index), plaintext, _associated(index, origin))

    def unseal(self, index: int, sealed: bytes, origin: str) -> bytes:
        """Return what was sealed for exactly this place."""
        key = self.keyring.key(index)
        try:
            return self.unseal_with(key, sealed, _associated(index, origin))
        except ValueError as error:
            raise LedgerDamagedError(f"The secret row of entry {index} was not sealed for it.") from error


def _associated(index: int, origin: str) -> bytes:
    """Domain, origin and index; unambiguous, for the first and the last have fixed lengths."""
    return _ASSOCIATED + origin.encode() + index.to_bytes(8, "big")


def _require_index(index: int) -> None:
    if not 0 <= index < 1 << LEVELS:
        raise UnknownEntryError(f"No ledger has an entry {index}.")


def _stamp(status: os.stat_result) -> tuple[int, int, int]:
    return status.st_mtime_ns, status.st_ino, status.st_size


def _derive(secret: bytes, label: bytes) -> bytes:
    return hashlib.sha256(secret + label).digest()


def _level_above(nodes: _Nodes, index: int) -> int | None:
    """The level of the one secret that covers the entry."""
    return next((level for level in range(LEVELS + 1) if (level, index >> level) in nodes), None)


def _forget(nodes: _Nodes, index: int) -> None:
    level = _level_above(nodes, index)
    if level is None:
        return
    secret = nodes.pop((level, index >> level))
    while level:
        level -= 1
        position = index >> level
        nodes[level, position ^ 1] = _derive(secret, _CHILD[position & 1 ^ 1])
        secret = _derive(secret, _CHILD[position & 1])


def _format(nodes: _Nodes) -> bytes:
    """Header, the secrets in the order of their entries, and a digest against a file cut short."""
    ordered = sorted(nodes, key=_first_entry)
    lines = [HEADER, *(f"{node[0]} {node[1]} {nodes[node].hex()}" for node in ordered)]
    text = "".join(f"{line}\n" for line in lines).encode("ascii")
    return text + f"sha256 {hashlib.sha256(text).hexdigest()}\n".encode("ascii")


def _parse(data: bytes, path: Path) -> _Nodes:
    """Read the file, accepting only what `_format` would write."""
    try:
        lines = data.decode("ascii").split("\n")
        nodes = dict(_node(line) for line in lines[1:-2])
        canonical = _format(nodes) == data
    except ValueError as error:
        raise KeyringDamagedError(f"{path} is not a keyring.") from error
    if not canonical or not _minimal(nodes):
        raise KeyringDamagedError(f"{path} is not a keyring as we would write it.")
    return nodes


def _node(line: str) -> tuple[tuple[int, int], bytes]:
    level, position, secret = line.split(" ")
    node = int(level), int(position)
    if (
        not 0 <= node[0] <= LEVELS
        or not 0 <= node[1] << node[0] < 1 << LEVELS
        or len(secret) != 2 * KEY_BYTES
    ):
        raise ValueError("no secret of this tree")
    return node, bytes.fromhex(secret)


def _minimal(nodes: _Nodes) -> bool:
    """Whether no secret covers another, and no two could be one."""
    end = 0
    for level, position in sorted(nodes, key=_first_entry):
        if position << level < end or (level, position ^ 1) in nodes:
            return False
        end = position + 1 << level
    return True


def _first_entry(node: tuple[int, int]) -> int:
    level, position = node
    return position << level
