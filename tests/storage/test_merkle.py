import base64
import hashlib
import json
import math
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from storage.errors import LedgerDamagedError, ProofError
from storage.merkle import (
    EMPTY_ROOT,
    Frontier,
    Tree,
    leaf_hash,
    node_hash,
    root_from_inclusion,
    verify_consistency,
    verify_inclusion,
)

TREE = json.loads((Path(__file__).parent / "vectors" / "tree.json").read_text())
EDGES = (*range(1, 34), 255, 256, 257, 511, 512, 513, 700)


def spec_root(entries: list[bytes]) -> bytes:
    """RFC 6962, 2.1, word for word; slow, and only here."""
    if not entries:
        return hashlib.sha256().digest()
    if len(entries) == 1:
        return hashlib.sha256(b"\0" + entries[0]).digest()
    split = 1 << (len(entries) - 1).bit_length() - 1
    return hashlib.sha256(b"\1" + spec_root(entries[:split]) + spec_root(entries[split:])).digest()


class Grown(Tree):
    """A tree over stored levels that counts what is read from it."""

    def __init__(self, size: int) -> None:
        frontier = Frontier()
        self.levels: dict[int, list[bytes]] = {}
        for number in range(size):
            for node in frontier.append(leaf_hash(b"%d" % number)):
                self.levels.setdefault(node.level, []).append(node.hash)
        self.expected_root = frontier.root()
        self.tiles_read = 0
        self.nodes_read = 0
        super().__init__(size, self.read_tile)

    def read_tile(self, level: int, number: int, width: int) -> bytes:
        self.tiles_read += 1
        return b"".join(self.levels[8 * level][256 * number : 256 * number + width])

    def node(self, level: int, index: int) -> bytes:
        self.nodes_read += 1
        return super().node(level, index)


@pytest.fixture(scope="module")
def grown() -> dict[int, Grown]:
    return {size: Grown(size) for size in EDGES}


def places(size: int) -> list[int]:
    chosen = range(size) if size < 34 else {0, 1, 127, 254, 255, 256, size // 2, size - 2, size - 1}
    return sorted(index for index in chosen if index < size)


@given(st.lists(st.binary(max_size=40), max_size=70))
def test_the_frontier_folds_to_the_root_the_rfc_defines(entries: list[bytes]) -> None:
    frontier = Frontier()
    for entry in entries:
        frontier.append(leaf_hash(entry))
    assert frontier.root() == spec_root(entries)
    assert Frontier(len(entries), frontier.nodes).root() == spec_root(entries)


def test_our_own_vectors_agree_on_every_root_and_proof() -> None:
    leaves = [bytes.fromhex(leaf) for leaf in TREE["leaves"]]
    roots = [bytes.fromhex(root) for root in TREE["roots"]]
    hashes = [leaf_hash(leaf) for leaf in leaves]
    assert roots[0] == EMPTY_ROOT

    def tree(size: int) -> Tree:
        return Tree(size, lambda _level, _number, width: b"".join(hashes[:width]))

    for case in TREE["inclusion"]:
        path = tuple(map(bytes.fromhex, case["path"]))
        assert tree(case["size"]).inclusion(case["index"]) == path
        verify_inclusion(hashes[case["index"]], case["index"], case["size"], path, roots[case["size"]])
    for case in TREE["consistency"]:
        path = tuple(map(bytes.fromhex, case["path"]))
        assert tree(case["new"]).consistency(case["old"]) == path
        verify_consistency(case["old"], case["new"], path, roots[case["old"]], roots[case["new"]])


def test_every_generated_proof_verifies_around_the_edges_of_tiles(grown: dict[int, Grown]) -> None:
    for size, tree in grown.items():
        root = tree.expected_root
        assert tree.subtree(0, size) == root
        for index in places(size):
            verify_inclusion(tree.levels[0][index], index, size, tree.inclusion(index), root)
    for old, new in [(a, b) for a in EDGES for b in EDGES if a <= b]:
        path = grown[new].consistency(old)
        verify_consistency(old, new, path, grown[old].expected_root, grown[new].expected_root)


@given(st.data())
def test_no_changed_inclusion_proof_verifies(data: st.DataObject) -> None:
    size = data.draw(st.integers(2, 40))
    index = data.draw(st.integers(0, size - 1))
    tree = Grown(size)
    leaf, path, root = tree.levels[0][index], list(tree.inclusion(index)), tree.expected_root
    place = data.draw(st.integers(0, len(path) - 1))
    bit = data.draw(st.integers(0, 255))
    flipped = (int.from_bytes(path[place], "big") ^ 1 << bit).to_bytes(32, "big")
    for changed in (
        [*path[:place], flipped, *path[place + 1 :]],
        path[:place] + path[place + 1 :],
        [*path, path[place]],
        [*path[:place], path[place][:31], *path[place + 1 :]],
    ):
        with pytest.raises(ProofError):
            verify_inclusion(leaf, index, size, changed, root)
    for elsewhere in {*range(size)} - {index}:
        with pytest.raises(ProofError):
            verify_inclusion(leaf, elsewhere, size, path, root)


@given(st.data())
def test_no_changed_consistency_proof_verifies(data: st.DataObject) -> None:
    new = data.draw(st.integers(2, 40))
    old = data.draw(st.integers(1, new - 1))
    before, after = Grown(old), Grown(new)
    path = list(after.consistency(old))
    place = data.draw(st.integers(0, len(path) - 1))
    flipped = bytes([path[place][0] ^ 1]) + path[place][1:]
    old_root, new_root = before.expected_root, after.expected_root
    for changed in ([*path[:place], flipped, *path[place + 1 :]], path[:-1], [*path, path[0]], []):
        with pytest.raises(ProofError):
            verify_consistency(old, new, changed, old_root, new_root)
    with pytest.raises(ProofError):
        verify_consistency(old, new, path, new_root, new_root)
    with pytest.raises(ProofError):
        verify_consistency(new, old, path, new_root, old_root)


def test_the_work_of_a_proof_grows_with_the_logarithm() -> None:
    for size in (1, 2, 3, 255, 256, 257, 4095, 65535, 65536, 70001):
        tree = Grown(size)
        depth = math.log2(size)
        for index in {0, size // 3, size - 1}:
            path = tree.inclusion(index)
            assert len(path) <= depth + 1
            # One sibling at most is not perfect, and is folded from its own perfect parts.
            assert tree.nodes_read <= 2 * (depth + 1)
            assert tree.tiles_read <= 2 * (depth // 8 + 1)
            verify_inclusion(tree.levels[0][index], index, size, path, tree.expected_root)
            tree = Fresh(tree)


class Fresh(Grown):
    """The same tree with nothing read yet."""

    def __init__(self, tree: Grown) -> None:
        self.levels, self.expected_root = tree.levels, tree.expected_root
        self.tiles_read = self.nodes_read = 0
        Tree.__init__(self, tree.size, self.read_tile)


def test_an_append_completes_no_more_nodes_than_the_tree_is_high() -> None:
    frontier = Frontier()
    total = 0
    for number in range(5000):
        completed = frontier.append(leaf_hash(b"%d" % number))
        total += len(completed)
        assert len(completed) <= math.log2(number + 1) + 1
        assert len(frontier.nodes) <= math.log2(number + 1) + 1
        assert all(upper.level == lower.level + 1 for lower, upper in pairwise(completed))
    assert total < 2 * 5000


def test_a_frontier_that_cannot_be_is_refused() -> None:
    with pytest.raises(LedgerDamagedError):
        Frontier(3, [EMPTY_ROOT])
    with pytest.raises(LedgerDamagedError):
        Frontier(1, [b"short"])
    with pytest.raises(LedgerDamagedError):
        Frontier(-1, [EMPTY_ROOT])


def test_a_tile_of_the_wrong_width_is_refused() -> None:
    with pytest.raises(LedgerDamagedError):
        Tree(5, lambda *_: bytes(32)).inclusion(0)


def test_there_is_no_proof_beyond_the_tree(grown: dict[int, Grown]) -> None:
    tree = grown[7]
    for index in (-1, 7):
        with pytest.raises(ProofError):
            tree.inclusion(index)
        with pytest.raises(ProofError):
            root_from_inclusion(EMPTY_ROOT, index, 7, ())
    for old in (-1, 8):
        with pytest.raises(ProofError):
            tree.consistency(old)


def test_the_empty_tree_proves_nothing_but_itself(grown: dict[int, Grown]) -> None:
    assert grown[7].consistency(0) == ()
    verify_consistency(0, 0, (), EMPTY_ROOT, EMPTY_ROOT)
    verify_consistency(0, 7, (), EMPTY_ROOT, grown[7].expected_root)
    for old_root in (grown[7].expected_root, bytes(32)):
        with pytest.raises(ProofError):
            verify_consistency(0, 7, (), old_root, grown[7].expected_root)
    with pytest.raises(ProofError):
        verify_consistency(0, 0, (), bytes(32), bytes(32))


def test_the_published_rfc6962_hashes_come_out(shared) -> None:
    vector = shared("rfc6962.json")
    frontier = Frontier()
    levels: dict[int, list[str]] = {}
    roots = [frontier.root().hex()]
    for leaf in vector["leaf_inputs_hex"]:
        for node in frontier.append(leaf_hash(bytes.fromhex(leaf))):
            levels.setdefault(node.level, []).append(node.hash.hex())
        roots.append(frontier.root().hex())
    assert roots == vector["root_hashes_hex"]
    assert list(levels.values()) == vector["node_hashes_hex"]
    assert node_hash(*map(bytes.fromhex, levels[0][:2])).hex() == levels[1][0]


def test_every_published_proof_is_judged_as_published(shared) -> None:
    vectors = shared("merkle-proofs.json")

    def refused(verifier, *arguments) -> bool:
        try:
            verifier(*arguments)
        except ProofError:
            return True
        return False

    def decoded(items) -> list[bytes]:
        return [base64.b64decode(item or "") for item in items or []]

    disagreed = []
    for case in vectors["inclusion"]:
        leaf, root = decoded([case["leafHash"], case["root"]])
        arguments = leaf, case["leafIdx"], case["treeSize"], decoded(case["proof"]), root
        if refused(verify_inclusion, *arguments) != case["wantErr"]:
            disagreed.append(case["file"])
    for case in vectors["consistency"]:
        roots = decoded([case["root1"], case["root2"]])
        arguments = case["size1"], case["size2"], decoded(case["proof"]), *roots
        if refused(verify_consistency, *arguments) != case["wantErr"]:
            disagreed.append(case["file"])
    assert len(vectors["inclusion"]) + len(vectors["consistency"]) == 110
    # Its "roots" have nine bytes; we insist on 32.
    assert disagreed == ["consistency/additional/sizes-are-equal-one-and-proof-is-empty.json"]
