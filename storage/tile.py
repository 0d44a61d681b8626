"""Where a log's tiles lie, and how entries are packed into bundles (c2sp.org/tlog-tiles).

Pure. The bytes of a tile prove nothing by themselves; readers check them
against a signed checkpoint.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass

from storage.errors import MalformedError
from storage.merkle import TILE_HEIGHT, TILE_WIDTH

MAX_ENTRY_BYTES = 0xFFFF
MAX_LEVEL = 63
_PATH = re.compile(r"tile/(entries|[0-9]{1,2})/((?:x[0-9]{3}/){0,5}[0-9]{3})(?:\.p/([0-9]{1,3}))?")


class MalformedTilePathError(MalformedError):
    """Not the path of a tile or a bundle as we would write it."""

    code = "tile-path-malformed"
    remedy = "Ask for /tile/<level>/<number> or /tile/entries/<number> as c2sp.org/tlog-tiles writes them."


@dataclass(frozen=True, slots=True)
class Tile:
    """The first `width` hashes of a tile of a level, or of a bundle of entries where that is None."""

    level: int | None
    number: int
    width: int = TILE_WIDTH

    @classmethod
    def parse(cls, path: str) -> "Tile":
        """Read a path below the log's prefix, accepting only what `str` would write.

        Does not say that any log has this tile.
        """
        matched = _PATH.fullmatch(path)
        if matched is None:
            raise MalformedTilePathError("The path is not that of a tile.")
        level, number, width = matched.groups()
        tile = cls(
            None if level == "entries" else int(level),
            int(number.replace("x", "").replace("/", "")),
            TILE_WIDTH if width is None else int(width),
        )
        if (tile.level or 0) > MAX_LEVEL or not 0 < tile.width <= TILE_WIDTH or str(tile) != path:
            raise MalformedTilePathError("The path is not that of a tile as we would write it.")
        return tile

    def fits(self, size: int) -> bool:
        """Whether a log of `size` entries fills it."""
        return self.number * TILE_WIDTH + self.width <= size >> TILE_HEIGHT * (self.level or 0)

    def __str__(self) -> str:
        if self.level is None:
            return bundle_path(self.number, self.width)
        return tile_path(self.level, self.number, self.width)


def tile_path(level: int, number: int, width: int = TILE_WIDTH) -> str:
    """Return the path of a tile of hashes below the log's prefix."""
    return f"tile/{level}/{_numbered(number, width)}"


def bundle_path(number: int, width: int = TILE_WIDTH) -> str:
    """Return the path of a bundle of entries below the log's prefix."""
    return f"tile/entries/{_numbered(number, width)}"


def bundle(bodies: Iterable[bytes]) -> bytes:
    """Pack entries, each after its length as two bytes, big-endian."""
    return b"".join(len(body).to_bytes(2, "big") + body for body in bodies)


def _numbered(number: int, width: int) -> str:
    path = f"{number % 1000:03d}"
    while number >= 1000:
        number //= 1000
        path = f"x{number % 1000:03d}/{path}"
    return path if width == TILE_WIDTH else f"{path}.p/{width}"
