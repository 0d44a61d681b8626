"""The Merkle tree of RFC 6962, 2: growing, proving and verifying.

Pure. `Frontier` grows a tree, `Tree` generates proofs from tiles, and the
functions at the end verify proofs by RFC 9162, 2.1.3.2 and 2.1.4.2. Generator and
verifiers share nothing but the two hash functions, so neither hides the other's
mistake. A proof says nothing of who signed a root or when; see `storage.checkpoint`.
"""

import hashlib
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from storage.errors import LedgerDamagedError, ProofError

HASH_BYTES = 32
TILE_HEIGHT = 8
TILE_WIDTH = 1 << TILE_HEIGHT
EMPTY_ROOT = hashlib.sha256().digest()


class Node(NamedTuple):
    """A perfect subtree: leaves `position << level` up to `(position + 1) << level`."""

    level: int
    position: int
    hash: bytes


def leaf_hash(body: bytes) -> bytes:
    """Hash an entry's body into its leaf."""
    return hashlib.sha256(b"\0" + body).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """Hash two children into their parent."""
    return hashlib.sha256(b"\1" + left + right).digest()


class Frontier:
    """All a log needs to grow: the roots of its perfect subtrees, largest first."""

    __slots__ = ("_nodes", "size")

    def __init__(self, size: int = 0, nodes: Iterable[bytes] = ()) -> None:
        self.size = size
        self._nodes = list(nodes)
        if size < 0 or size.bit_count() != len(self._nodes) or any(len(n) != HASH_BYTES for n in self._nodes):
            raise LedgerDamagedError(
                f"A frontier of {len(self._nodes)} hashes cannot be one of {size} leaves."
            )

    @property
    def nodes(self) -> tuple[bytes, ...]:
        """The hashes, largest subtree first."""
        return tuple(self._nodes)

    def append(self, leaf: bytes) -> list[Node]:
        """Add a leaf hash; return it and every node it completed, lowest first."""
        index, level, digest = self.size, 0, leaf
        completed = [Node(0, index, digest)]
        while index >> level & 1:
            digest = node_hash(self._nodes.pop(), digest)
            level += 1
            completed.append(Node(level, index >> level, digest))
        self._nodes.append(digest)
        self.size += 1
        return completed

    def root(self) -> bytes:
        """Fold the frontier into the tree's root."""
        return _fold(self._nodes)


class Tree:
    """A tree of a fixed size, read through tiles (c2sp.org/tlog-tiles).

    `fetch(level, number, width)` returns the `width` hashes of a tile, joined.
    What it returns is believed: whoever hands a proof on verifies it first.
    """

    def __init__(self, size: int, fetch: Callable[[int, int, int], bytes]) -> None:
        self.size = size
        self._fetch = fetch
        self._tiles: dict[tuple[int, int], list[list[bytes]]] = {}

    def node(self, level: int, index: int) -> bytes:
        """Return the hash of one perfect subtree."""
        height = level % TILE_HEIGHT
        number, offset = divmod(index << height, TILE_WIDTH)
        return self._tile(level // TILE_HEIGHT, number)[height][offset >> height]

    def subtree(self, start: int, stop: int) -> bytes:
        """MTH(D[start:stop]), for a range that RFC 6962, 2.1 splits off."""
        parts = []
        while start < stop:
            level = (stop - start).bit_length() - 1
            parts.append(self.node(level, start >> level))
            start += 1 << level
        return _fold(parts)

    def inclusion(self, index: int) -> tuple[bytes, ...]:
        """PATH(index, D[size]) of RFC 6962, 2.1.1, leaf side first."""
        if not 0 <= index < self.size:
            raise ProofError(f"Entry {index} is not in a tree of {self.size}.")
        start, stop, path = 0, self.size, []
        while stop - start > 1:
            middle = start + _split(stop - start)
            if index < middle:
                path.append(self.subtree(middle, stop))
                stop = middle
            else:
                path.append(self.subtree(start, middle))
                start = middle
        return tuple(reversed(path))

    def consistency(self, old: int) -> tuple[bytes, ...]:
        """PROOF(old, D[size]) of RFC 6962, 2.1.2; empty where nothing needs proof."""
        if not 0 <= old <= self.size:
            raise ProofError(f"A tree of {self.size} never had {old} entries.")
        if old in {0, self.size}:
            return ()
        start, stop, path = 0, self.size, []
        while stop != old:
            middle = start + _split(stop - start)
            if old <= middle:
                path.append(self.subtree(middle, stop))
                stop = middle
            else:
                path.append(self.subtree(start, middle))
                start = middle
        if start:
            path.append(self.subtree(start, stop))
        return tuple(reversed(path))

    def _tile(self, level: int, number: int) -> list[list[bytes]]:
        rows = self._tiles.get((level, number))
        if rows is None:
            width = min(TILE_WIDTH, (self.size >> TILE_HEIGHT * level) - number * TILE_WIDTH)
            data = self._fetch(level, number, width)
            if len(data) != HASH_BYTES * width:
                raise LedgerDamagedError(f"Tile {level}/{number} does not hold {width} hashes.")
            rows = [[data[at : at + HASH_BYTES] for at in range(0, len(data), HASH_BYTES)]]
            while len(rows[-1]) > 1:
                below = rows[-1]
                rows.append([node_hash(*below[at : at + 2]) for at in range(0, len(below) - 1, 2)])
            self._tiles[level, number] = rows
        return rows


def root_from_inclusion(leaf: bytes, index: int, size: int, path: Sequence[bytes]) -> bytes:
    """Compute the root that `path` leads to from `leaf` (RFC 9162, 2.1.3.2).

    Proves nothing until the result is compared with a root from a signed checkpoint.
    """
    if not 0 <= index < size:
        raise ProofError(f"Entry {index} is not in a tree of {size}.")
    _require_hashes(leaf, *path)
    fn, sn, root = index, size - 1, leaf
    for sibling in path:
        if sn == 0:
            raise ProofError("The inclusion proof is too long.")
        if fn & 1 or fn == sn:
            root = node_hash(sibling, root)
            while not fn & 1 and fn:
                fn >>= 1
                sn >>= 1
        else:
            root = node_hash(root, sibling)
        fn >>= 1
        sn >>= 1
    if sn:
        raise ProofError("The inclusion proof is too short.")
    return root


def verify_inclusion(leaf: bytes, index: int, size: int, path: Sequence[bytes], root: bytes) -> None:
    """Raise unless `leaf` is at `index` of the tree with this size and root."""
    if root_from_inclusion(leaf, index, size, path) != root:
        raise ProofError("The inclusion proof leads to another root.")


def verify_consistency(old: int, new: int, path: Sequence[bytes], old_root: bytes, new_root: bytes) -> None:
    """Raise unless the tree `old` is a prefix of the tree `new` (RFC 9162, 2.1.4.2)."""
    if not 0 <= old <= new:
        raise ProofError(f"A tree of {new} does not follow one of {old}.")
    _require_hashes(old_root, new_root, *path)
    if old in {0, new}:
        if path:
            raise ProofError("A consistency proof from an empty or equal tree must be empty.")
        if old_root != (new_root if old == new else EMPTY_ROOT) or (new == 0 and new_root != EMPTY_ROOT):
            raise ProofError("The roots differ where the trees cannot.")
        return
    if _roots_from_consistency(old, new, path, old_root) != (old_root, new_root):
        raise ProofError("The consistency proof leads to other roots.")


def _roots_from_consistency(
    old: int, new: int, path: Sequence[bytes], old_root: bytes
) -> tuple[bytes, bytes]:
    """Compute the two roots that `path` leads to (RFC 9162, 2.1.4.2), for 0 < old < new."""
    # Step 1.
    if not path:
        raise ProofError("The consistency proof is empty.")
    # Step 2: a perfect old tree is itself the first node.
    nodes = [old_root, *path] if old & (old - 1) == 0 else list(path)
    # Steps 3 and 4.
    fn, sn = old - 1, new - 1
    while fn & 1:
        fn >>= 1
        sn >>= 1
    # Steps 5 and 6.
    fr = sr = nodes[0]
    for node in nodes[1:]:
        if sn == 0:
            raise ProofError("The consistency proof is too long.")
        if fn & 1 or fn == sn:
            fr, sr = node_hash(node, fr), node_hash(node, sr)
            while not fn & 1 and fn:
                fn >>= 1
                sn >>= 1
        else:
            sr = node_hash(sr, node)
        fn >>= 1
        sn >>= 1
    # Step 7, but for the comparison with the roots.
    if sn:
        raise ProofError("The consistency proof is too short.")
    return fr, sr


def _split(size: int) -> int:
    """Return the largest power of two smaller than `size`."""
    return 1 << (size - 1).bit_length() - 1


def _fold(parts: Sequence[bytes]) -> bytes:
    if not parts:
        return EMPTY_ROOT
    root = parts[-1]
    for part in reversed(parts[:-1]):
        root = node_hash(part, root)
    return root


def _require_hashes(*hashes: bytes) -> None:
    if any(len(item) != HASH_BYTES for item in hashes):
        raise ProofError("A hash in the proof does not have 32 bytes.")
