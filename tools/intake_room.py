"""How much of what devices hand in may lie on the disk at once: for all of them, and for each.

A body's room is taken before its first byte is read, as much as it may come to be, so that no
body that was begun is refused for another's sake. One process counts its own bodies alone:
who runs several gives each a temporary folder that holds as much.
"""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import ClassVar

from tools.errors import Error


@dataclass(frozen=True, slots=True)
class Space:
    """How many bodies at once, of one device and of all, and how many bytes they may come to."""

    bodies: int = 16
    of_one_device: int = 2
    """One more than an honest device sends: that whose connection broke is not forgotten at once."""
    size: int = 2 << 30


SPACE = Space()


class CrowdedError(Error):
    """The device, or the service, has too many captures at hand."""

    code: ClassVar[str] = "too-many-requests"
    remedy: ClassVar[str] = "Try again in some seconds; nothing is lost meanwhile."


class RoomFullError(Error):
    """No room is left for another capture at this moment."""

    code: ClassVar[str] = "intake-full"
    remedy: ClassVar[str] = "Try again in some seconds; nothing is lost meanwhile."


class Room:
    """What of the space is taken. Belongs to one thread: that of the event loop."""

    def __init__(self, space: Space) -> None:
        self._space = space
        self._bodies: Counter[str] = Counter()
        self._size = 0

    @contextmanager
    def taken(self, device: str, size: int) -> Iterator[None]:
        """Keep room for a body of at most `size` bytes, as long as the block lasts."""
        if self._bodies[device] >= self._space.of_one_device:
            raise CrowdedError(f"{self._bodies[device]} captures of this device are at hand")
        if self._bodies.total() >= self._space.bodies or self._size + size > self._space.size:
            raise RoomFullError("the service has as many captures at hand as it takes")
        self._bodies[device] += 1
        self._size += size
        try:
            yield
        finally:
            self._size -= size
            self._bodies[device] -= 1
            if not self._bodies[device]:
                del self._bodies[device]
