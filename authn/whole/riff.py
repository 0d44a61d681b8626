"""The end of a RIFF file: WebP (RFC 9649), WAV and AVI, with the further RIFFs of OpenDML.

Only the outermost chunks are walked; what lies inside a list is not. A file
may lack the pad byte after an odd last chunk: no data is missing with it.
Sizes that a recorder left open (0 or 0xFFFFFFFF) are refused as malformed.
"""

from typing import Final

from authn.errors import MalformedMediaError, TruncatedMediaError
from authn.media import Kind, Media

_CHUNKS: Final = 100_000
_FORMS: Final = 1_000
_NEEDED: Final = {
    Kind.WEBP: (frozenset({b"VP8 ", b"VP8L", b"ANMF"}),),
    Kind.WAV: (frozenset({b"fmt "}), frozenset({b"data"})),
    Kind.AVI: (frozenset({b"hdrl"}), frozenset({b"movi"})),
}


def walk(media: Media) -> None:
    """Follow the chunks of the form, and of every OpenDML continuation, to the end of the file."""
    end, seen = _form(media, 0)
    for _ in range(_FORMS):
        if media.kind is not Kind.AVI or not _continues(media, end):
            break
        end, _ = _form(media, end)
    media.must_end_at(end)
    for names in _NEEDED[media.kind]:
        if not names & seen:
            raise TruncatedMediaError(
                f"The {media.kind.name} file has no {min(names).decode().strip()} chunk."
            )


def _continues(media: Media, at: int) -> bool:
    header = media.read(at, min(12, media.size - at))
    return header[:4] == b"RIFF" and header[8:] == b"AVIX"


def _form(media: Media, start: int) -> tuple[int, set[bytes]]:
    """Where one RIFF ends, and the names of the chunks in it, lists under their own type."""
    size = int.from_bytes(media.read(start + 4, 4), "little")
    if size in {0, 0xFFFFFFFF}:
        raise MalformedMediaError("The RIFF size was never filled in.")
    end, at, seen = start + 8 + size, start + 12, set[bytes]()
    media.must_hold(end)
    for _ in range(_CHUNKS):
        if at >= end:
            return min(end + size % 2, max(end, media.size)), seen
        if at + 8 > end:
            raise MalformedMediaError(f"The RIFF chunk at byte {at} is not whole.")
        header = media.read(at, 8)
        length, name = int.from_bytes(header[4:], "little"), header[:4]
        if at + 8 + length > end:
            raise MalformedMediaError(
                f"The RIFF chunk at byte {at} is longer than the file says it is itself."
            )
        if name == b"LIST":
            name = media.read(at + 8, 4)
        seen.add(name)
        at += 8 + length + length % 2
    raise MalformedMediaError(f"The RIFF file has more than {_CHUNKS} chunks.")
