"""Inclusion proofs as text (c2sp.org/tlog-proof@v1).

Pure. Parsing proves nothing: the note has to be opened with a key one trusts
and the hashes followed to its root; `storage.receipt` does both.
"""

from dataclasses import dataclass

from storage import base64text
from storage.checkpoint import MAX_SIZE
from storage.errors import MalformedNoteError, MalformedProofError
from storage.note import Note

HEADER = "c2sp.org/tlog-proof@v1"
MAX_HASHES = 63


@dataclass(frozen=True, slots=True)
class InclusionProof:
    """The path from the leaf at `index` to the root in `note`, a signed checkpoint."""

    index: int
    hashes: tuple[bytes, ...]
    note: bytes

    @classmethod
    def parse(cls, text: str) -> "InclusionProof":
        """Read the text form, accepting only what `str` would write: no extra data. Verifies nothing."""
        try:
            head, _, note = text.partition("\n\n")
            header, index, *hashes = head.split("\n")
            label, number = index.split(" ")
            proof = cls(int(number), tuple(map(base64text.decode_hash, hashes)), note.encode())
            Note.parse(proof.note)
        except (ValueError, MalformedNoteError) as error:
            raise MalformedProofError("The text is not an inclusion proof.") from error
        if (
            (header, label) != (HEADER, "index")
            or not 0 <= proof.index < MAX_SIZE
            or len(hashes) > MAX_HASHES
        ):
            raise MalformedProofError("The text is not an inclusion proof within the limits.")
        if str(proof) != text:
            raise MalformedProofError("The text is not an inclusion proof as we would write it.")
        return proof

    def __str__(self) -> str:
        path = "".join(base64text.encode(item) + "\n" for item in self.hashes)
        return f"{HEADER}\nindex {self.index}\n{path}\n{self.note.decode()}"
