"""The numbers and links of a device's captures, kept so that no crash gives one number twice.

A number is written down together with its link before anything is signed. Who comes next,
after a crash at any point, finds it as pending: either the very same capture is finished
under it, or the number stays unused for ever and shows as a gap. One process at a time.

With a TPM, the number is that of a counter which only goes up, even if this folder is put
back from a copy. Without one, whoever copies the folder can number two captures alike; the
service then sees a fork.
"""

import json
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from authn.capture_chain import FIRST, MAX_COUNTER, Opening
from authn.errors import MediaError
from storage import durable
from tools.camera.folder import OWNER_ONLY, Camera, CameraDamagedError, put_private
from tools.errors import UnwritableError
from tools.home import content_of

SCHEMA = "lightseal-chain/1"
_MAX_TAKEN = 256 << 20
_TAKEN_LINE = 65


class Counter(Protocol):
    """A number that only goes up, whoever puts files back: a TPM's NV counter."""

    def read(self) -> int:
        """What it shows."""
        ...

    def advance(self) -> int:
        """Make it greater by one and return what it shows then."""
        ...


@dataclass(frozen=True, slots=True)
class Pending:
    """A capture that was begun: its place in the chain, the file it is of, and its one-time certificate, if any."""

    opening: Opening
    source: str
    pooled: int | None


@dataclass(frozen=True, slots=True)
class State:
    """The last number and link that were given away, and what was begun and not finished."""

    counter: int = 0
    head: bytes = FIRST
    pooled: int = 0
    pending: Pending | None = None


class Chain:
    """The chain of one camera while nobody else adds to it; made by `held`."""

    def __init__(self, folder: Path, counter: Counter | None) -> None:
        self._folder = folder
        self._counter = counter
        self.state = _read(folder / "state.json")

    def begin(self, media: bytes, checkpoint: str, salt: bytes, source: str, pooled: int | None) -> Pending:
        """Give the next number away, for this media alone."""
        # 1. The number. With a hardware counter, its own: what it counted without us is a gap.
        shown = self.state.counter if self._counter is None else self._counter.read()
        number = max(shown, self.state.counter) + 1
        if number > MAX_COUNTER:
            raise CameraDamagedError("the capture chain has no more numbers")
        opening = Opening(salt, self.state.head, number, media, checkpoint)
        pending = Pending(opening, source, pooled)
        # 2. Written down, durably, before the hardware counts and before anything is signed.
        self._write(replace(self.state, pending=pending))
        return self._counted(pending)

    def resume(self) -> Pending | None:
        """What a crash left unfinished, with its number counted by now; a number that hardware is beyond is void."""
        pending = self.state.pending
        if pending is None:
            return None
        if self._counter is not None and self._counter.read() > pending.opening.counter:
            self.void(pending)
            return None
        return self._counted(pending)

    def end(self, pending: Pending) -> None:
        """The capture stands in the queue: its file is known from now on, and the chain goes on from its link."""
        self._remember(pending.opening.media)
        self._go_on(pending)

    def void(self, pending: Pending) -> None:
        """The capture will never stand in the queue: the number is a gap, and the file may be captured under another."""
        self._go_on(pending)

    def _go_on(self, pending: Pending) -> None:
        opening = pending.opening
        pooled = self.state.pooled if pending.pooled is None else max(pending.pooled, self.state.pooled)
        self._write(State(opening.counter, opening.link, pooled))

    def give_up(self, pending: Pending) -> None:
        """Take a number back whose signature nobody got; not one that hardware counted, which the next try finishes."""
        if self._counter is None and pending == self.state.pending:
            self._write(replace(self.state, pending=None))

    def taken(self) -> frozenset[bytes]:
        """The SHA-256 of every file that was captured."""
        try:
            text = content_of(self._folder / "taken", _MAX_TAKEN)
        except FileNotFoundError:
            return frozenset()
        lines = (text[at : at + _TAKEN_LINE] for at in range(0, len(text), _TAKEN_LINE))
        try:
            return frozenset(bytes.fromhex(line[:-1].decode()) for line in lines if len(line) == _TAKEN_LINE)
        except ValueError as error:
            raise CameraDamagedError(f"{self._folder / 'taken'} cannot be read") from error

    def _counted(self, pending: Pending) -> Pending:
        """Let the hardware counter reach the number."""
        if self._counter is None:
            return pending
        while (shown := self._counter.read()) < pending.opening.counter:
            self._counter.advance()
        if shown > pending.opening.counter:
            raise CameraDamagedError("something else counts with this device's counter, at this very moment")
        return pending

    def _remember(self, media: bytes) -> None:
        if media in self.taken():
            return
        path = self._folder / "taken"
        with path.open("ab") as file:
            # What a crash cut short is overwritten by whole lines: the file's length says where they begin.
            file.truncate(file.tell() // _TAKEN_LINE * _TAKEN_LINE)
            file.write(media.hex().encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())

    def _write(self, state: State) -> None:
        put_private(self._folder / "state.json", _written(state))
        durable.sync_folder(self._folder / "state.json")
        self.state = state


@contextmanager
def held(camera: Camera, counter: Counter | None = None) -> Iterator[Chain]:
    """The camera's chain, while no other process holds it."""
    with locked(camera) as folder:
        yield Chain(folder, counter)


@contextmanager
def locked(camera: Camera) -> Iterator[Path]:
    """The folder of the camera's chain, which nobody else changes meanwhile."""
    folder = camera.path / "chain"
    lock = folder / "lock"
    with ExitStack() as stack:
        try:
            folder.mkdir(mode=OWNER_ONLY, exist_ok=True)
            lock.touch(mode=0o600)
            stack.enter_context(durable.changing(lock))
        except OSError as error:
            reason = error.strerror or "unknown reason"
            raise UnwritableError(f"the chain of {camera.name} cannot be changed ({reason})") from error
        yield folder


def _read(path: Path) -> State:
    try:
        about = json.loads(content_of(path))
        if about["schema"] != SCHEMA:
            raise CameraDamagedError(f"{path} was made by another version of Lightseal")
        pending = about["pending"]
        state = State(
            int(about["counter"]),
            bytes.fromhex(about["head"]),
            int(about["pooled"]),
            None if pending is None else _pending(pending),
        )
    except FileNotFoundError:
        return State()
    except (ValueError, KeyError, TypeError, RecursionError, MediaError) as error:
        raise CameraDamagedError(f"{path} cannot be read") from error
    if len(state.head) != len(FIRST) or not 0 <= state.counter <= MAX_COUNTER:
        raise CameraDamagedError(f"{path} holds no place in a chain")
    return state


def _pending(about: dict[str, object]) -> Pending:
    opening = Opening.parse(str(about["opening"]), str(about["checkpoint"]))
    pooled = about["pooled"]
    return Pending(opening, str(about["source"]), pooled if isinstance(pooled, int) else None)


def _written(state: State) -> bytes:
    pending = state.pending
    about = {
        "counter": state.counter,
        "head": state.head.hex(),
        "pending": None
        if pending is None
        else {
            "checkpoint": pending.opening.checkpoint,
            "opening": str(pending.opening),
            "pooled": pending.pooled,
            "source": pending.source,
        },
        "pooled": state.pooled,
        "schema": SCHEMA,
    }
    return json.dumps(about, indent=1, sort_keys=True).encode() + b"\n"
