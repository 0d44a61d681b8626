"""The end of a PNG (PNG specification, third edition, clause 5): chunks, in order, to IEND.

The check sum of every critical chunk is computed; those of ancillary chunks
are not, because a broken colour profile or comment leaves the picture whole.
Pixel data is not inflated.
"""

import zlib
from typing import Final

from authn.errors import MalformedMediaError
from authn.media import Media

_CHUNKS: Final = 100_000


def walk(media: Media) -> None:
    """Follow the chunks from IHDR through at least one IDAT to IEND, which must be last."""
    at, seen = 8, set[bytes]()
    for _ in range(_CHUNKS):
        header = media.read(at, 8)
        length, name = int.from_bytes(header[:4], "big"), header[4:]
        if length > 0x7FFFFFFF or not name.isalpha():
            raise MalformedMediaError(f"A PNG chunk is expected at byte {at}.")
        if not seen and (name != b"IHDR" or length != 13):
            raise MalformedMediaError("The PNG does not begin with its header.")
        seen.add(name)
        end = at + 12 + length
        media.must_hold(end)
        if name[:1].isupper():
            _check_sum(media, at + 4, end - 4)
        at = end
        if name == b"IEND":
            if b"IDAT" not in seen or length:
                raise MalformedMediaError("The PNG ends without image data.")
            media.must_end_at(at)
            return
    raise MalformedMediaError(f"The PNG has more than {_CHUNKS} chunks.")


def _check_sum(media: Media, start: int, end: int) -> None:
    """CRC over the chunk's type and data (clause 5.5)."""
    crc = 0
    for chunk in media.chunks(start, end):
        crc = zlib.crc32(chunk, crc)
    if crc != int.from_bytes(media.read(end, 4), "big"):
        raise MalformedMediaError(f"The PNG chunk at byte {start - 4} does not match its check sum.")
