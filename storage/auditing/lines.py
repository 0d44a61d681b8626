"""Signature lines of two notes of one checkpoint: the published note, and the one with cosignatures.

Pure. Compares lines and verifies none.
"""

from storage.errors import MalformedError
from storage.note import Note


def adds_to(published: bytes, witnessed: bytes) -> bool:
    """Whether a note is the published one with nothing but further lines; notes that are none never are."""
    try:
        before, after = Note.parse(published), Note.parse(witnessed)
    except MalformedError:
        return False
    return before.text == after.text and set(before.signatures) <= set(after.signatures)


def by_others(note: bytes, origin: str) -> bool:
    """Whether anyone but the log has a line in the note; `MalformedError` where it is none."""
    return any(line.name != origin for line in Note.parse(note).signatures)
