"""Tiles that are believed only once they lead to a root one already knows.

Pure. The tiles at the right edge of a tree hold, between them, the roots of all its
perfect subtrees; folded together they must give the root. Every other tile is a full one,
and its own root must stand in the tile above it. So whatever this module returns is
hashed into the root of the checkpoint, and nothing needs to be fetched that is not used.
Who signed that root is not asked here.
"""

from collections.abc import Callable, Iterator

from storage.errors import ProofError
from storage.merkle import HASH_BYTES, TILE_HEIGHT, TILE_WIDTH, Frontier, node_hash

Fetch = Callable[[int, int, int], bytes]
"""`fetch(level, number, width)` returns the `width` hashes of a tile, joined."""


class UnprovenTileError(ProofError):
    """A tile is not the one that the checkpoint commits to."""

    code = "tile-unproven"
    remedy = "Fetch it again or from a mirror; if it stays so, keep it and tell the log's operator."

    def __init__(self, message: str, first: int) -> None:
        super().__init__(message)
        self.first = first
        """The first entry that this tile stands for."""


class ProvenTiles:
    """The tree with this size and root, read through tiles; remembers one full tile of each level."""

    def __init__(self, size: int, root: bytes, fetch: Fetch) -> None:
        self.size = size
        self._fetch = fetch
        self._full: dict[int, tuple[int, tuple[bytes, ...]]] = {}
        self._edge = {
            level: self._read(level, (size >> TILE_HEIGHT * level) // TILE_WIDTH, width)
            for level, width in _edge(size)
        }
        peaks = [peak for level in sorted(self._edge, reverse=True) for peak in _peaks(self._edge[level])]
        if Frontier(size, peaks).root() != root:
            raise UnprovenTileError(f"The newest tiles do not lead to the checkpoint of {size} entries.", 0)

    def tile(self, level: int, number: int) -> tuple[bytes, ...]:
        """Return the hashes of a tile, as many as there are."""
        count = self.size >> TILE_HEIGHT * level
        if number == count // TILE_WIDTH and level in self._edge:
            return self._edge[level]
        kept = self._full.get(level)
        if kept is not None and kept[0] == number:
            return kept[1]
        if not 0 <= number < count // TILE_WIDTH:
            raise ProofError(f"A tree of {self.size} has no tile {level}/{number}.")
        hashes = self._read(level, number, TILE_WIDTH)
        if perfect_root(hashes) != self.hash(level + 1, number):
            first = number * TILE_WIDTH << TILE_HEIGHT * level
            raise UnprovenTileError(f"Tile {level}/{number} does not lead to the checkpoint.", first)
        self._full[level] = number, hashes
        return hashes

    def hash(self, level: int, position: int) -> bytes:
        """Return one hash of a tile at `level`."""
        return self.tile(level, position // TILE_WIDTH)[position % TILE_WIDTH]

    def peaks(self, size: int) -> tuple[bytes, ...]:
        """The frontier that the tree had at an earlier `size`, largest subtree first."""
        if not 0 <= size <= self.size:
            raise ProofError(f"A tree of {self.size} never had {size} entries.")
        found, start = [], 0
        for level in range(size.bit_length() - 1, -1, -1):
            if size >> level & 1:
                found.append(self._node(level, start >> level))
                start += 1 << level
        return tuple(found)

    def _node(self, level: int, position: int) -> bytes:
        height = level % TILE_HEIGHT
        number, offset = divmod(position << height, TILE_WIDTH)
        return perfect_root(self.tile(level // TILE_HEIGHT, number)[offset : offset + (1 << height)])

    def _read(self, level: int, number: int, width: int) -> tuple[bytes, ...]:
        data = self._fetch(level, number, width)
        if len(data) != HASH_BYTES * width:
            first = number * TILE_WIDTH << TILE_HEIGHT * level
            raise UnprovenTileError(f"Tile {level}/{number} does not hold {width} hashes.", first)
        return tuple(data[at : at + HASH_BYTES] for at in range(0, len(data), HASH_BYTES))


def perfect_root(hashes: tuple[bytes, ...]) -> bytes:
    """Hash the nodes of a perfect subtree, a power of two in number, into its root."""
    row = hashes
    while len(row) > 1:
        row = tuple(node_hash(left, right) for left, right in zip(row[::2], row[1::2], strict=True))
    return row[0]


def _edge(size: int) -> Iterator[tuple[int, int]]:
    """The level and width of every partial tile of a tree."""
    level = 0
    while size >> TILE_HEIGHT * level:
        width = (size >> TILE_HEIGHT * level) % TILE_WIDTH
        if width:
            yield level, width
        level += 1


def _peaks(hashes: tuple[bytes, ...]) -> Iterator[bytes]:
    """The roots of the perfect subtrees in a partial tile, largest first."""
    start = 0
    for height in range(TILE_HEIGHT - 1, -1, -1):
        if len(hashes) >> height & 1:
            yield perfect_root(hashes[start : start + (1 << height)])
            start += 1 << height
