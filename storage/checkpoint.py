"""Checkpoints (c2sp.org/tlog-checkpoint): what a log says it holds.

Pure. A signed checkpoint commits its log to every entry below `size`. It carries
no time, and without witnesses it does not show that everyone is given the same one.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from storage import base64text
from storage.errors import MalformedCheckpointError, NoteSignatureError
from storage.note import VerifierKey, Verify, open_note

MAX_SIZE = 1 << 63


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """The size and root of the log named `origin`."""

    origin: str
    size: int
    root: bytes

    @classmethod
    def parse(cls, text: str) -> "Checkpoint":
        """Read the text form, accepting only what `str` would write: no extension lines."""
        try:
            origin, size, root, rest = text.split("\n")
            parsed = cls(origin, int(size), base64text.decode_hash(root))
        except ValueError as error:
            raise MalformedCheckpointError("The text is not a checkpoint.") from error
        if (
            rest
            or not origin
            or not origin.isprintable()
            or not 0 <= parsed.size < MAX_SIZE
            or str(parsed) != text
        ):
            raise MalformedCheckpointError("The text is not a checkpoint as we would write it.")
        return parsed

    def __str__(self) -> str:
        return f"{self.origin}\n{self.size}\n{base64text.encode(self.root)}\n"


def open_checkpoint(note: bytes, keys: Sequence[VerifierKey], verify: Verify) -> Checkpoint:
    """Return the checkpoint in a signed note, if the log it names signed it with one of `keys`."""
    opened = open_note(note, keys, verify)
    checkpoint = Checkpoint.parse(opened.text)
    if all(key.name != checkpoint.origin for key in opened.signers):
        raise NoteSignatureError(f"No key of {checkpoint.origin} signed its checkpoint.")
    return checkpoint
