"""The end of a GIF (GIF89a, appendix A): blocks to the trailer. Pixel data is not decompressed."""

from typing import Final

from authn.errors import MalformedMediaError
from authn.media import Media

_BLOCKS: Final = 100_000
_READ: Final = 8 * 1024
_EXTENSION, _IMAGE, _TRAILER = 0x21, 0x2C, 0x3B


def walk(media: Media) -> None:
    """Follow the blocks to the trailer, which must be the last byte; at least one must be an image."""
    at = 13 + _colour_table(media.read(10, 1)[0])
    images = 0
    for _ in range(_BLOCKS):
        (block,) = media.read(at, 1)
        if block == _TRAILER:
            if not images:
                raise MalformedMediaError("The GIF ends without an image.")
            media.must_end_at(at + 1)
            return
        if block == _EXTENSION:
            at = _sub_blocks_end(media, at + 2)
        elif block == _IMAGE:
            images += 1
            at = _sub_blocks_end(media, at + 11 + _colour_table(media.read(at + 9, 1)[0]))
        else:
            raise MalformedMediaError(f"A GIF block is expected at byte {at}.")
    raise MalformedMediaError(f"The GIF has more than {_BLOCKS} blocks.")


def _colour_table(packed: int) -> int:
    return 3 << (packed & 7) + 1 if packed & 0x80 else 0


def _sub_blocks_end(media: Media, at: int) -> int:
    """Past the empty sub-block that ends a chain of them (section 15 and 16)."""
    while True:
        media.must_hold(at + 1)
        chunk = media.read(at, min(_READ, media.size - at))
        place = 0
        while place < len(chunk):
            if not chunk[place]:
                return at + place + 1
            place += 1 + chunk[place]
        at += place
