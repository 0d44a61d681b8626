"""Captures that wait to be handed in, and those that were: one folder each, there whole or not at all.

    queue/0000000007/
        DSC_0042.jpg           the signed capture
        DSC_0042.jpg.receipt   what the service answered; until then the capture is waiting
        capture.json           its place in the chain, which no file shows
        refused.json           why the service will never take it, where that is so
        changed.json           that the file was no longer the one that was signed

Nothing here is removed by us. Who deletes a folder leaves a gap that the service names.
"""

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from authn.capture_chain import Opening
from authn.errors import MediaError
from storage import durable
from tools.camera.folder import OWNER_ONLY, Camera, put_private
from tools.errors import Error
from tools.home import content_of

SCHEMA = "lightseal-capture/1"
ABOUT, REFUSED, CHANGED = "capture.json", "refused.json", "changed.json"
_DIGITS = 16
_LONGEST = 120


class QueueDamagedError(Error):
    """A capture's folder cannot be read."""

    code: ClassVar[str] = "queue-damaged"
    remedy: ClassVar[str] = (
        "Keep a copy of the folder; move it out of the queue, and the others are handed in."
    )


@dataclass(frozen=True, slots=True)
class Waiting:
    """One capture of the queue."""

    folder: Path
    file: str
    opening: Opening
    claim: bytes
    pooled: int | None

    @property
    def media(self) -> Path:
        """The signed file."""
        return self.folder / self.file

    @property
    def receipt(self) -> Path:
        """Where the service's receipt goes."""
        return self.folder / f"{self.file}.receipt"

    @property
    def settled(self) -> bool:
        """Whether the service answered for good, with a receipt or a refusal."""
        return self.receipt.exists() or (self.folder / REFUSED).exists()

    def note(self, name: str, about: dict[str, object]) -> None:
        """Write what became of it beside it."""
        put_private(self.folder / name, json.dumps(about, indent=1, sort_keys=True).encode() + b"\n")
        durable.sync_folder(self.folder / name)


@contextmanager
def placing(camera: Camera, opening: Opening) -> Iterator[Path]:
    """A folder to be filled; it takes its place in the queue when the block ends well, and is gone otherwise."""
    place = place_of(camera, opening.counter)
    place.parent.mkdir(mode=OWNER_ONLY, exist_ok=True)
    building = place.with_name(f".{place.name}.partial")
    shutil.rmtree(building, ignore_errors=True)  # what a crash left: nobody was told of it
    building.mkdir(mode=OWNER_ONLY)
    try:
        yield building
        for each in building.iterdir():
            _sync(each)
        _sync(building)
        # The point of no return: before it nothing was captured, after it everything is there.
        building.rename(place)
        durable.sync_folder(place)
    finally:
        shutil.rmtree(building, ignore_errors=True)


def describe(building: Path, waiting: Waiting, source: str) -> None:
    """Write `capture.json`."""
    about = {
        "checkpoint": waiting.opening.checkpoint,
        "claim": waiting.claim.hex(),
        "file": waiting.file,
        "opening": str(waiting.opening),
        "pooled": waiting.pooled,
        "schema": SCHEMA,
        "source": source,
    }
    put_private(building / ABOUT, json.dumps(about, indent=1, sort_keys=True).encode() + b"\n")


def place_of(camera: Camera, counter: int) -> Path:
    """Where the capture of that number is, or would be."""
    return camera.path / "queue" / f"{counter:0{_DIGITS}}"


def queued(camera: Camera) -> Iterator[Waiting | QueueDamagedError]:
    """Every capture that is there, by number; a folder that cannot be read is said to be so."""
    folder = camera.path / "queue"
    names = sorted(each.name for each in folder.iterdir()) if folder.is_dir() else []
    for name in names:
        if len(name) == _DIGITS and name.isdecimal():
            try:
                yield read(folder / name)
            except QueueDamagedError as error:
                yield error


def read(folder: Path) -> Waiting:
    """One capture of the queue."""
    try:
        about = json.loads(content_of(folder / ABOUT))
        opening = Opening.parse(about["opening"], about["checkpoint"])
        pooled = about["pooled"]
        found = Waiting(folder, str(about["file"]), opening, bytes.fromhex(about["claim"]), pooled)
    except (OSError, ValueError, KeyError, TypeError, RecursionError, MediaError) as error:
        raise QueueDamagedError(f"the capture {folder.name} cannot be read") from error
    same = folder.name == f"{opening.counter:0{_DIGITS}}" and found.file == safe_name(found.file)
    if not same or not isinstance(pooled, int | None) or about.get("schema") != SCHEMA:
        raise QueueDamagedError(f"the capture {folder.name} is not as it was written")
    return found


def safe_name(name: str) -> str:
    """A name that stays in its folder, is shown, and leaves room for a suffix; the end says the type."""
    shown = name.replace("/", "_").replace("\0", "_").lstrip(".")[-_LONGEST:]
    while len(shown.encode("utf-8", "surrogateescape")) > _LONGEST:
        shown = shown[1:]
    return shown.lstrip(".") or "capture"


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
