"""Go's x/mod/sumdb opens our checkpoint, and proves from our tiles what our proofs say."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from storage import base64text
from storage.checkpoint import Checkpoint
from storage.note import Note, Signature

pytestmark = pytest.mark.needs("go")


def checkpoint(published: Any) -> Checkpoint:
    return Checkpoint.parse(Note.parse(published.note).text)


@pytest.fixture
def question(grown: Any, log: Any) -> Callable[[int], dict[str, Any]]:
    """All that we claim of our log at a size: the folder, our proofs, and every earlier checkpoint."""

    def about(size: int) -> dict[str, Any]:
        earlier = [old for old in grown.at if old < size]
        return {
            "folder": str(grown.at[size].folder),
            "key": str(log.key),
            "inclusions": [
                {
                    "index": receipt.proof.index,
                    "hashes": list(map(base64text.encode, receipt.proof.hashes)),
                    "entry": base64text.encode(receipt.entry.body),
                }
                for receipt in grown.at[size].receipts
            ],
            "olds": [
                {
                    "size": old,
                    "root": base64text.encode(checkpoint(grown.at[old]).root),
                    "hashes": list(map(base64text.encode, grown.ledger.consistency(old, size))),
                }
                for old in earlier
            ],
        }

    return about


def test_go_accepts_our_log_at_every_size(gocheck: str, ask: Any, grown: Any, question: Any) -> None:
    for size in grown.at:
        asked = question(size)
        told = ask([gocheck], asked)
        assert told["refused"] == ""
        assert told["size"] == size
        assert told["inclusion"] == (size if size <= 1000 else size // 997 + 2)
        assert told["consistency"] == len(asked["olds"])


def flipped(text: str) -> str:
    data = base64text.decode(text)
    return base64text.encode(bytes([data[0] ^ 1]) + data[1:])


@pytest.mark.parametrize("size", [7, 257, 70_000])
def test_go_refuses_our_proofs_when_they_are_altered(
    gocheck: str, ask: Any, question: Any, size: int
) -> None:
    for number in range(len(question(size)["inclusions"])):
        asked = question(size)
        claim = asked["inclusions"][number]
        claim["hashes"][0] = flipped(claim["hashes"][0])
        assert "our proof of entry" in ask([gocheck], asked)["refused"]
        asked = question(size)
        asked["inclusions"][number]["entry"] = flipped(asked["inclusions"][number]["entry"])
        assert "our proof of entry" in ask([gocheck], asked)["refused"]
    for number in range(len(question(size)["olds"])):
        asked = question(size)
        claim = asked["olds"][number]
        claim["hashes"][-1] = flipped(claim["hashes"][-1])
        assert "our proof from" in ask([gocheck], asked)["refused"]
        asked = question(size)
        asked["olds"][number]["root"] = flipped(asked["olds"][number]["root"])
        assert "the tree of" in ask([gocheck], asked)["refused"]


@pytest.fixture
def copied(grown: Any, tmp_path: Path) -> Path:
    """A copy of the published log of 700 entries, to be tampered with."""
    return Path(shutil.copytree(grown.at[700].folder, tmp_path / "copied"))


@pytest.mark.parametrize(
    "name", ["tile/0/000", "tile/0/002.p/188", "tile/1/000.p/2", "tile/entries/001", "tile/entries/002.p/188"]
)
def test_go_refuses_a_file_with_one_bit_changed(
    gocheck: str, ask: Any, question: Any, copied: Path, name: str
) -> None:
    assert ask([gocheck], {**question(700), "folder": str(copied)})["refused"] == ""
    data = bytearray((copied / name).read_bytes())
    data[40] ^= 1
    (copied / name).write_bytes(data)
    assert ask([gocheck], {**question(700), "folder": str(copied)})["refused"] != ""


def test_go_refuses_a_checkpoint_that_was_altered_or_signed_by_another_key(
    gocheck: str, ask: Any, question: Any, copied: Path, log: Any, other_log: Any
) -> None:
    note = Note.parse((copied / "checkpoint").read_bytes())
    (signature,) = note.signatures
    broken = Signature(
        signature.name, signature.key_id, bytes([signature.value[0] ^ 1]) + signature.value[1:]
    )
    for wrong, reason in (
        (bytes(Note(note.text, (broken,))), "invalid signature"),
        (bytes(Note(note.text.replace("\n700\n", "\n701\n"), note.signatures)), "invalid signature"),
        (other_log.sign(note.text), "no verifiable signatures"),
        (log.sign(str(Checkpoint(log.name, 700, bytes(32)))), "downloaded inconsistent tile"),
        (log.sign(note.text.replace(log.name, "other.example")), "the checkpoint is that of"),
    ):
        (copied / "checkpoint").write_bytes(wrong)
        assert reason in ask([gocheck], {**question(700), "folder": str(copied)})["refused"]
