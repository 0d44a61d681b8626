"""The tree derived again from bodies, with the tiles (c2sp.org/tlog-tiles) as they are completed.

Pure, in a flat amount of memory: what an audit or a backup derives from bodies, to be
held against the tiles that somebody keeps.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from storage.merkle import HASH_BYTES, TILE_HEIGHT, TILE_WIDTH, Frontier, leaf_hash


@dataclass(frozen=True, slots=True)
class DerivedTile:
    """The hashes of one tile, joined."""

    level: int
    number: int
    hashes: bytes

    @property
    def width(self) -> int:
        """How many hashes it holds."""
        return len(self.hashes) // HASH_BYTES

    @property
    def first(self) -> int:
        """The first entry that it stands for."""
        return self.number * TILE_WIDTH << TILE_HEIGHT * self.level


class DerivedTree:
    """The tree of the bodies so far; `frontier` and `tiles`, those in growth, say where it goes on."""

    def __init__(self, frontier: Frontier | None = None, tiles: Mapping[int, bytes] | None = None) -> None:
        self._frontier = frontier or Frontier()
        self._open = {level: bytearray(hashes) for level, hashes in (tiles or {}).items()}

    @property
    def size(self) -> int:
        """How many bodies there were."""
        return self._frontier.size

    def root(self) -> bytes:
        """Return the root of the tree."""
        return self._frontier.root()

    @property
    def frontier(self) -> tuple[bytes, ...]:
        """The roots of its perfect subtrees, largest first."""
        return self._frontier.nodes

    def append(self, body: bytes) -> list[DerivedTile]:
        """Add an entry; return each full tile that it completed, lowest first."""
        full = []
        for node in self._frontier.append(leaf_hash(body)):
            level, height = divmod(node.level, TILE_HEIGHT)
            if height == 0:
                hashes = self._open.setdefault(level, bytearray())
                hashes += node.hash
                if len(hashes) == HASH_BYTES * TILE_WIDTH:
                    full.append(DerivedTile(level, node.position // TILE_WIDTH, bytes(hashes)))
                    hashes.clear()
        return full

    def partial(self) -> list[DerivedTile]:
        """Return the tiles at the right edge, which are not full, lowest first."""
        return [
            DerivedTile(level, (self.size >> TILE_HEIGHT * level) // TILE_WIDTH, bytes(hashes))
            for level, hashes in sorted(self._open.items())
            if hashes
        ]
