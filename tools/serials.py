"""Serial numbers of time-stamp tokens, across crashes, processes and clocks that are set back.

A file in the home holds a mark. Whoever needs numbers takes a block above it and moves the
mark first, so a number can be lost and never come twice. An older copy of the file must not
be brought back; without any, a clock that runs on still gives no number twice.
"""

from collections.abc import Callable
from datetime import datetime
from pathlib import Path

from authn.timestamp.authority import SerialsError
from storage import durable

SERIALS = "time-stamping.serials"
_MAX_MARK = 1 << 96


class SerialFile:
    """A mark below which every serial number may have been given; it only grows, whatever the clock does.

    Each block begins at the clock's nanoseconds or at the mark, whichever is more, so that even
    without the file a clock that runs on gives no number twice.
    """

    def __init__(self, path: Path, now: Callable[[], datetime]) -> None:
        self._path, self._now = path, now

    def __call__(self, count: int) -> int:
        """Reserve `count` numbers and return the first; durable before it returns."""
        try:
            self._begun()
            with durable.changing(self._path) as descriptor:
                mark = _mark(durable.read(descriptor))
                first = max(mark, int(self._now().timestamp() * 1_000_000) * 1000 << 16)
                durable.replace(self._path, f"{first + count}\n".encode())
        except OSError as error:
            raise SerialsError(f"no serial numbers can be reserved ({error.strerror})") from error
        return first

    def _begun(self) -> None:
        if self._path.exists():
            return
        try:
            with durable.creating(self._path):
                durable.replace(self._path, b"0\n")
        except FileExistsError:
            return  # another process was faster


def _mark(content: bytes) -> int:
    text = content.removesuffix(b"\n")
    if not content:
        return 0  # a creation that a crash cut short
    if not text.isdigit() or len(text) > 30 or int(text) >= _MAX_MARK or content == text:
        raise SerialsError("the file of serial numbers is damaged")
    return int(text)
