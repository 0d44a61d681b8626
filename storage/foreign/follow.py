"""Following a foreign log: every entry from where one stopped, proven before it is handed out.

A `Follower` keeps, in one small file, the newest checkpoint it accepted and the frontier
of the entries that were consumed. What it hands out is hashed into a checkpoint signed by
the log, and that checkpoint into one history with all before it. Bodies are opaque here.
It cannot show that others are given the same checkpoints, nor that the newest one is
recent: only witnesses and several places to ask from can.
"""

import contextlib
import fcntl
import hashlib
import os
import stat
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Final

from storage import base64text, durable
from storage.checkpoint import MAX_SIZE, Checkpoint
from storage.entry import Entry, Kind
from storage.errors import (
    Error,
    LedgerDamagedError,
    MalformedCheckpointError,
    MalformedEntryError,
    MalformedError,
    NoteSignatureError,
    ProofError,
)
from storage.foreign.proven import ProvenTiles, UnprovenTileError, perfect_root
from storage.foreign.source import (
    MAX_CHECKPOINT_BYTES,
    MalformedBundleError,
    Source,
    SourceAnswerError,
    SourceMissingError,
    fetch_bodies,
    fetch_tile,
)
from storage.merkle import TILE_WIDTH, Frontier, leaf_hash
from storage.note import Note, checkpoint_lines

Open = Callable[[bytes], Checkpoint]
"""Opens a signed checkpoint with the keys one trusts, and raises if none of them signed it."""

HEADER: Final = "lightseal/follow/v1"
KEEP_EVERY: Final = 16
"""After how many consumed chunks the state is put on the disk; so many are handed out again after a kill."""
MAX_STATE_BYTES: Final = MAX_CHECKPOINT_BYTES + 8192


class ForeignRolledBackError(ProofError):
    """The log shows fewer entries than it signed before."""

    code = "foreign-rolled-back"
    remedy = "Ask again later, as a mirror may be behind; if it stays so, keep the state file as evidence."


class ForeignOtherLogError(ProofError):
    """The checkpoint is one of another log than the one that was followed so far."""

    code = "foreign-other-log"
    remedy = "Give each log a state file of its own, and check the URL."


class EquivocationError(ProofError):
    """The log signed two checkpoints that cannot both be of one history."""

    code = "foreign-equivocation"
    remedy = "Trust nothing this log says; keep the two notes and publish them: they are its own signatures."

    def __init__(self, message: str, first: int, evidence: tuple[Path, Path]) -> None:
        super().__init__(message)
        self.first = first
        """No entry below it is known to differ."""
        self.evidence = evidence


class UnprovenEntryError(ProofError):
    """What the log serves does not lead to its checkpoint, from an entry on."""

    code = "foreign-entry-unproven"
    remedy = "Ask again or use a mirror; if it stays so, the log does not hold what it signed."

    def __init__(self, message: str, index: int) -> None:
        super().__init__(message)
        self.index = index


class ExtendedCheckpointError(Error):
    """The log signed a checkpoint that says more than we read."""

    code = "foreign-checkpoint-extended"
    remedy = (
        "Audit this log with a program that knows its extension lines; nothing speaks against the log itself."
    )


class FollowKeysError(Error):
    """The state file's own checkpoint is signed by none of the keys given."""

    code = "follow-keys"
    remedy = "Give all keys of the log, if its key was rotated; give each log a state file of its own."


class FollowBusyError(Error):
    """Another process is following with the same state file."""

    code = "follow-busy"
    remedy = "Wait until it is done, or give each its own state file."


class FollowStateError(Error):
    """The state file cannot be read or written."""

    code = "follow-state"
    remedy = (
        "Check the folder's permissions and the space left; without a state, old entries are not skipped."
    )


class MalformedStateError(MalformedError):
    """Not a state as we would write it."""

    code = "follow-state-malformed"
    remedy = "Put the state file back from a copy, or begin with a new one and read the whole log again."


@dataclass(frozen=True, slots=True)
class State:
    """How far a log was followed: the frontier of what was consumed, and the newest note accepted."""

    consumed: int
    frontier: tuple[bytes, ...]
    note: bytes

    @classmethod
    def parse(cls, data: bytes) -> "State":
        """Read the text form, accepting only what `bytes` would write. Verifies nothing."""
        try:
            head, _, note = data.decode().partition("\n\n")
            header, consumed, *hashes = head.split("\n")
            state = cls(int(consumed), tuple(map(base64text.decode_hash, hashes)), note.encode())
            Frontier(state.consumed, state.frontier)
        except (ValueError, LedgerDamagedError) as error:
            raise MalformedStateError("The file is not the state of a follower.") from error
        if header != HEADER or state.consumed >= MAX_SIZE or bytes(state) != data:
            raise MalformedStateError("The file is not the state of a follower as we would write it.")
        return state

    def __bytes__(self) -> bytes:
        hashes = "".join(f"{base64text.encode(item)}\n" for item in self.frontier)
        return f"{HEADER}\n{self.consumed}\n{hashes}\n".encode() + self.note


@dataclass(frozen=True, slots=True)
class Chunk:
    """Consecutive entries, beginning at `start`, all proven under `checkpoint`."""

    start: int
    bodies: tuple[bytes, ...]
    checkpoint: Checkpoint
    before: bytes | None = None
    """The entry before `start`, proven as well, in the first chunk for an auditor; None where there is none."""


_Compare = Callable[[int, list[bytes]], None]
_Before = Callable[[ProvenTiles, int], bytes | None]


class Follower:
    """An auditor of a foreign log that goes on where it stopped, in a flat amount of memory."""

    def __init__(self, source: Source, open_note: Open, state: Path) -> None:
        self._source = source
        self._open = open_note
        self._path = state
        self._staying = False

    @property
    def state(self) -> State | None:
        """How far the log was followed; None before the first time."""
        return _read_state(self._path)

    def advance(self) -> Iterator[Chunk]:
        """Yield the entries that were not consumed yet; asking for the next chunk consumes this one.

        Who breaks off is given the last chunk again, and who is killed the last `KEEP_EVERY` at most:
        each entry at least once, never not at all.
        Each chunk is proven by its own hashes and the tiles above them. The tiles of leaf hashes that
        the log also serves are not looked at; `advance_comparing_tiles` does that.
        """
        return self._advance(_compare_nothing, _nothing_before)

    def advance_comparing_tiles(self) -> Iterator[Chunk]:
        """As `advance`, for an auditor: refuse a tile of leaf hashes that differs from its entries.

        The first chunk comes with the entry before it, which was consumed earlier.
        """
        return self._advance(self._compare_tile, self._before)

    def stay(self) -> None:
        """Remember neither this chunk as consumed nor any after it: they are handed out the next time too."""
        self._staying = True

    def _advance(self, compare: _Compare, before: _Before) -> Iterator[Chunk]:
        # The plan:
        # 1. Fetch the newest checkpoint; open it with the keys we trust (tlog-checkpoint).
        # 2. Refuse it where its log is another, it is smaller than one we accepted, or equal with another root.
        # 3. Prove the tiles at its right edge (tlog-tiles), and with them that the checkpoint accepted
        #    before and the entries consumed before are both its beginning (RFC 6962, 2.1.2).
        # 4. Remember the new checkpoint before anything under it is handed out.
        # 5. For each bundle: read it strictly, hash it, find it in the proven tiles. The frontier, grown
        #    from nothing but bodies, must at last fold to the signed root. Then hand the bundle out.
        # 6. Asked for more, remember that it was consumed; on the disk now and then, and in the end.
        self._staying = False
        with _locked(self._path):
            seen = _read_state(self._path)
            note = self._source.checkpoint()
            checkpoint = open_served(note, self._open)  # 1
            if seen is None:
                seen = State(0, (), b"")
                accepted = Checkpoint(checkpoint.origin, 0, Frontier().root())
            else:
                accepted = self._accepted(seen)
                self._require_later(accepted, seen.note, checkpoint, note)  # 2
            if seen.consumed > accepted.size:
                raise MalformedStateError("The state claims more entries than its checkpoint has.")
            tiles = self._prove(checkpoint, seen.consumed)  # 3
            self._require_one_history(tiles, seen, accepted, note)
            if note != seen.note:
                self._keep(State(seen.consumed, seen.frontier, note))  # 4
            kept = State(seen.consumed, seen.frontier, note)
            last = before(tiles, seen.consumed) if seen.consumed < checkpoint.size else None
            for chunk in self._chunks(tiles, checkpoint, kept, compare):
                yield chunk if last is None else replace(chunk, before=last)
                last = None

    def _chunks(
        self, tiles: ProvenTiles, checkpoint: Checkpoint, kept: State, compare: _Compare
    ) -> Iterator[Chunk]:
        frontier, reached = Frontier(kept.consumed, kept.frontier), kept
        try:
            while frontier.size < checkpoint.size:  # 5
                start = frontier.size
                bodies = self._bodies(tiles, start, compare)
                for body in bodies:
                    frontier.append(leaf_hash(body))
                if frontier.size == checkpoint.size and frontier.root() != checkpoint.root:
                    raise UnprovenEntryError("The entries do not add up to the checkpoint.", start)
                yield Chunk(start, tuple(bodies), checkpoint)
                if self._staying:
                    continue
                reached = State(frontier.size, frontier.nodes, kept.note)  # 6
                if reached.consumed - kept.consumed >= KEEP_EVERY * TILE_WIDTH:
                    self._keep(reached)
                    kept = reached
        finally:
            if reached != kept:
                self._keep(reached)

    def _accepted(self, seen: State) -> Checkpoint:
        try:
            return self._open(seen.note)
        except NoteSignatureError as error:
            raise FollowKeysError(f"The checkpoint in {self._path} is by none of these keys.") from error
        except MalformedError as error:
            raise MalformedStateError("The state's own note is not a checkpoint.") from error

    def _require_later(self, accepted: Checkpoint, kept: bytes, checkpoint: Checkpoint, note: bytes) -> None:
        if checkpoint.origin != accepted.origin:
            raise ForeignOtherLogError(f"This is {checkpoint.origin}; {accepted.origin} was followed so far.")
        if checkpoint.size < accepted.size:
            raise ForeignRolledBackError(
                f"{checkpoint.origin} shows {checkpoint.size} entries after it signed {accepted.size}."
            )
        if checkpoint.size == accepted.size and checkpoint.root != accepted.root:
            raise EquivocationError(
                f"{checkpoint.origin} signed two roots for {checkpoint.size} entries.",
                0,
                self._evidence(kept, note),
            )

    def _prove(self, checkpoint: Checkpoint, consumed: int) -> ProvenTiles:
        with _named(consumed):
            return ProvenTiles(
                checkpoint.size,
                checkpoint.root,
                lambda level, number, width: fetch_tile(self._source, level, number, width),
            )

    def _require_one_history(
        self, tiles: ProvenTiles, seen: State, accepted: Checkpoint, note: bytes
    ) -> None:
        with _named(seen.consumed):
            before = tiles.peaks(accepted.size)
            consumed = tiles.peaks(seen.consumed)
        if Frontier(accepted.size, before).root() != accepted.root:
            raise EquivocationError(
                f"{accepted.origin} signed {tiles.size} entries that do not begin with the {accepted.size}"
                " it signed before.",
                _first_difference(seen, consumed),
                self._evidence(seen.note, note),
            )
        if consumed != seen.frontier:
            raise MalformedStateError("The state's entries are not those of the checkpoint beside them.")

    def _before(self, tiles: ProvenTiles, start: int) -> bytes | None:
        """Read again what was consumed last."""
        return self._bodies(tiles, start - 1, _compare_nothing)[0] if start else None

    def _bodies(self, tiles: ProvenTiles, start: int, compare: _Compare) -> list[bytes]:
        number, skip = divmod(start, TILE_WIDTH)
        first = start - skip
        width = min(TILE_WIDTH, tiles.size - first)
        try:
            with _named(start):
                bodies = fetch_bodies(self._source, number, width)
        except MalformedBundleError as error:
            index = max(start, first + error.complete)
            raise UnprovenEntryError(f"Entry {index} cannot be read: {error}", index) from error
        leaves = [leaf_hash(body) for body in bodies]
        with _named(start):
            if width < TILE_WIDTH or perfect_root(tuple(leaves)) != tiles.hash(1, number):
                # A full bundle that is right needs no tile of its own leaves; a wrong one shows where.
                proven = tiles.tile(0, number)
                wrong = [first + at for at, leaf in enumerate(leaves) if leaf != proven[at]]
                if wrong:
                    raise UnprovenEntryError(
                        f"Entry {wrong[0]} does not lead to the checkpoint of {tiles.size} entries.", wrong[0]
                    )
            compare(number, leaves)
        return bodies[skip:]

    def _compare_tile(self, number: int, leaves: list[bytes]) -> None:
        if fetch_tile(self._source, 0, number, len(leaves)) != b"".join(leaves):
            raise UnprovenTileError(f"Tile 0/{number} is not what its entries hash to.", number * TILE_WIDTH)

    def _keep(self, state: State) -> None:
        _replace(self._path, bytes(state))

    def _evidence(self, *notes: bytes) -> tuple[Path, Path]:
        """Keep the contradicting notes beside the state, each under a name made of its content."""
        older, newer = (
            self._path.with_name(f"{self._path.name}.evidence-{hashlib.sha256(note).hexdigest()[:16]}.note")
            for note in notes
        )
        for path, note in zip((older, newer), notes, strict=True):
            _replace(path, note)
        return older, newer


@dataclass(frozen=True, slots=True)
class Use:
    """The log records, at `index`, something of a kind done with the key of this pseudonym.

    `logged_at` is the log's own clock. What was done, the entry does not say.
    """

    index: int
    kind: Kind
    logged_at: datetime
    key: bytes


@dataclass(frozen=True, slots=True)
class Unreadable:
    """The log holds something at `index` that is no entry of ours: whose key it concerns is not known."""

    index: int


def watch(follower: Follower, keys: Collection[bytes]) -> Iterator[Use | Unreadable]:
    """Yield the uses of an owner's pseudonyms since the last time, at least once each.

    The state moves on only when the consumer asks for what follows the last use in a chunk.
    An entry that cannot be read is yielded too, as it could hide a use.
    """
    watched = frozenset(keys)
    for chunk in follower.advance():
        for index, body in enumerate(chunk.bodies, chunk.start):
            try:
                entry = Entry.parse(body)
            except MalformedEntryError:
                yield Unreadable(index)
                continue
            if entry.key in watched:
                yield Use(index, entry.kind, entry.logged_at, entry.key)


def _first_difference(seen: State, consumed: tuple[bytes, ...]) -> int:
    """The first entry below which the consumed ones are known to be the same in both histories."""
    first, left = 0, seen.consumed
    for ours, theirs in zip(seen.frontier, consumed, strict=True):
        if ours != theirs:
            break
        first += 1 << left.bit_length() - 1
        left = seen.consumed - first
    return first


def _compare_nothing(number: int, leaves: list[bytes]) -> None:
    """The log's other tiles are not asked for."""


def _nothing_before(tiles: ProvenTiles, start: int) -> None:
    """What was consumed is not read again."""


def open_served(note: bytes, open_note: Open) -> Checkpoint:
    """Open what a log serves as its checkpoint; where it has extension lines, say that we do not read them.

    The specification (tlog-checkpoint, Note text) lets a log write them, so they are no flaw of it.
    """
    try:
        return open_note(note)
    except (
        MalformedCheckpointError
    ) as error:  # its signature was good, or another error would have come first
        origin, size, _, extension = checkpoint_lines(Note.parse(note).text)
        if not extension:
            raise
        raise ExtendedCheckpointError(
            f"The checkpoint of {origin} at {size} entries has {len(extension)} extension lines, which are not read here."
        ) from error


@contextlib.contextmanager
def _named(index: int) -> Iterator[None]:
    """Say from which entry on nothing is proven, where a file of the log is missing or wrong."""
    try:
        yield
    except UnprovenTileError as error:
        first = max(index, error.first)
        raise UnprovenEntryError(f"From entry {first} on nothing is proven: {error}", first) from error
    except (SourceMissingError, SourceAnswerError) as error:
        raise UnprovenEntryError(f"From entry {index} on nothing is proven: {error}", index) from error


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Follow alone: two at once could move the state back. The empty lock file stays."""
    try:
        descriptor = os.open(
            path.with_name(f"{path.name}.lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600
        )
    except OSError as error:
        raise _unusable(path, error) from error
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise FollowBusyError(f"Another process follows with {path}.") from error
        yield
    finally:
        os.close(descriptor)


def _read_state(path: Path) -> State | None:
    try:
        # A pipe or a device must neither keep us waiting nor be woken.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
        try:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise FollowStateError(f"{path} is not a file.")
            with os.fdopen(descriptor, "rb", closefd=False) as file:
                data = file.read(MAX_STATE_BYTES + 1)
        finally:
            os.close(descriptor)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise _unusable(path, error) from error
    if len(data) > MAX_STATE_BYTES:
        raise MalformedStateError(f"The state is larger than {MAX_STATE_BYTES} bytes.")
    return State.parse(data)


def _replace(path: Path, data: bytes) -> None:
    try:
        durable.replace(path, data)
    except OSError as error:
        raise _unusable(path, error) from error


def _unusable(path: Path, error: OSError) -> FollowStateError:
    return FollowStateError(f"{path} cannot be used ({error.strerror or 'unknown reason'}).")
