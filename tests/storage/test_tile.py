import base64
import hashlib

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from storage.checkpoint import Checkpoint, open_checkpoint
from storage.merkle import Frontier, leaf_hash
from storage.note import VerifierKey, signed_note
from storage.tile import bundle, bundle_path, tile_path


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
