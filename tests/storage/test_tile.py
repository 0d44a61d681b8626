import base64
import hashlib

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from storage.checkpoint import Checkpoint, open_checkpoint
from storage.merkle import Frontier, leaf_hash
from storage.note import VerifierKey, signed_note
from storage.tile import MalformedTilePathError, Tile, bundle, bundle_path, tile_path


def test_paths_are_those_of_the_specification() -> None:
    assert tile_path(0, 0) == "tile/0/000"
    assert tile_path(1, 1234067) == "tile/1/x001/x234/067"
    assert tile_path(0, 273, 112) == "tile/0/273.p/112"
    assert bundle_path(1000, 1) == "tile/entries/x001/000.p/1"


def test_a_bundle_gives_each_entry_its_length() -> None:
    assert bundle([b"", b"ab", bytes(65535)]) == b"\0\0" + b"\0\2ab" + b"\xff\xff" + bytes(65535)


def test_a_log_made_by_another_program_is_rebuilt_byte_for_byte(shared, log) -> None:
    vector = shared("tessera-log.json")
    seed = base64.b64decode(vector["private_key"].split("+", 4)[4])[1:]
    private = Ed25519PrivateKey.from_private_bytes(seed)
    key = VerifierKey(vector["origin"], private.public_key().public_bytes_raw())
    assert str(key) == vector["vkey"]
    assert VerifierKey.parse(vector["vkey"]) == key
    entries = [entry.encode() for entry in vector["entries"]]
    for expected in vector["sizes"]:
        size = expected["size"]
        frontier = Frontier()
        for entry in entries[:size]:
            frontier.append(leaf_hash(entry))
        checkpoint = Checkpoint(vector["origin"], size, frontier.root())
        note = signed_note(str(checkpoint), key, private.sign(str(checkpoint).encode()))
        assert note.decode() == expected["checkpoint"]
        assert open_checkpoint(note, [key], log.verify) == checkpoint
        if size:
            leaves = b"".join(hashlib.sha256(b"\0" + entry).digest() for entry in entries[:size])
            assert leaves.hex() == expected["tile_0_000_hex"]
            assert bundle(entries[:size]).hex() == expected["entries_000_hex"]
    assert len(vector["sizes"]) == 9


@given(
    st.one_of(st.none(), st.integers(0, 63)),
    st.one_of(st.integers(0, 2000), st.integers(0, 10**18 - 1)),
    st.integers(1, 256),
)
def test_what_is_written_is_read_again(level, number, width) -> None:
    tile = Tile(level, number, width)
    assert Tile.parse(str(tile)) == tile
    assert str(tile) == (bundle_path(number, width) if level is None else tile_path(level, number, width))


@given(st.one_of(st.text(), st.text("tile/enrsx0123456789.p", max_size=40).map("tile/".__add__)))
def test_what_is_read_would_be_written_the_same(path) -> None:
    try:
        tile = Tile.parse(path)
    except MalformedTilePathError:
        return
    assert str(tile) == path


@pytest.mark.parametrize(
    "path",
    [
        "tile/0/0",
        "tile/0/00",
        "tile/0/0000",
        "tile/00/000",
        "tile/01/000",
        "tile/64/000",
        "tile/100/000",
        "tile/-1/000",
        "tile/data/000",
        "tile/entries",
        "tile/entries/",
        "tile/0/x000/067",
        "tile/0/x000/x001/067",
        "tile/0/001/067",
        "tile/0/x001/x067",
        "tile/0/x001",
        "tile/0/x001x234/067",
        "tile/0/X001/067",
        "tile/0/x001/067/",
        "/tile/0/000",
        "tile//0/000",
        "tile/0/000.p/0",
        "tile/0/000.p/01",
        "tile/0/000.p/256",
        "tile/0/000.p/999",
        "tile/0/000.p/1000",
        "tile/0/000.p/",
        "tile/0/000.p",
        "tile/0/000.p/1/",
        "tile/0/000.p/+1",
        "tile/0/000\n",
        "tile/0/\u0660\u0660\u0660",
        "tile/0/000.p/\u0661",
        "tile/0/" + "x001/" * 6 + "000",
        "tile/0/../0/000",
        "tile/0/%30%30%30",
    ],
)
def test_a_path_that_we_would_not_write_is_refused(path) -> None:
    with pytest.raises(MalformedTilePathError):
        Tile.parse(path)


def spec_widths(size: int) -> dict[int, list[int]]:
    """The widths of all tiles of a tree, level by level (c2sp.org/tlog-tiles, "Partial Tiles")."""
    widths = {}
    for level in range(64):
        full, partial = divmod(size // 256**level, 256)
        widths[level] = [256] * full + [partial] * (partial > 0)
    return widths


@pytest.mark.parametrize("size", [0, 1, 255, 256, 257, 70_000])
def test_a_log_has_the_tiles_that_the_specification_counts(size) -> None:
    for level, widths in spec_widths(size).items():
        for number, width in enumerate([*widths, 0]):
            fitting = [w for w in range(1, 257) if Tile(level, number, w).fits(size)]
            assert fitting == list(range(1, width + 1))
            if level == 0:
                assert fitting == [w for w in range(1, 257) if Tile(None, number, w).fits(size)]


def test_the_example_of_the_specification_has_its_tiles() -> None:
    widths = spec_widths(70_000)
    assert (len(widths[0]), widths[0][-1], widths[1], widths[2]) == (274, 112, [256, 17], [1])
