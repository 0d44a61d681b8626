"""Where a log's tiles lie, and how entries are packed into bundles (c2sp.org/tlog-tiles).

Pure. The bytes of a tile prove nothing by themselves; readers check them
against a signed checkpoint.
"""

from collections.abc import Iterable

from storage.merkle import TILE_WIDTH

MAX_ENTRY_BYTES = 0xFFFF


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
