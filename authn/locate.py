"""Find a file's manifest store without the SDK, before it is read (C2PA 2.2, Annex A).

The SDK's work grows with the square of the assertions, so they are counted first,
by our own reader and within its limits. What is found here is a hint: it decides
nothing but whether the SDK is asked at all, and `verify` compares it with what
the SDK says it read. A record in a place that is not looked at here, such as a
PDF's attachment, is left to the worker's time limit.
"""

import base64
import binascii
import re
import struct

from authn import jumbf
from authn.errors import MediaError
from authn.media import Kind, Media, id3_length

MAX_STEPS = 4096
MAX_BOXES = 100_000
MAX_SVG = 48 << 20

_UUID = bytes.fromhex("d8fec3d61b0e483c92975828877ec481")
_STORE_MARK = b"jumdc2pa"
_TIFF_TAG = 0xCD41
_SVG_STORE = re.compile(rb"<c2pa:manifest[^>]{0,4096}>([A-Za-z0-9+/=\s]*)</c2pa:manifest>")


class TooManyBoxesError(MediaError):
    """A film in more pieces than any reader should be given."""

    code = "media-too-many-boxes"
    remedy = "Treat the file as hostile, and ask for the original."


def locate(media: Media) -> bytes | None:
    """The first manifest store in the place where its kind of file keeps it, or None. Unverified."""
    if media.sidecar is not None:
        return media.sidecar
    look = _PLACES.get(media.kind)
    found = look(media) if look is not None else None
    if found is None or not _is_store(found):
        return None
    # Room that was reserved for a longer record may follow it (C2PA 2.2, A.3).
    return found[: int.from_bytes(found[:4], "big")] if found[:4] > b"\0\0\0\x01" else found


def _is_store(found: bytes) -> bool:
    return found[4:8] == b"jumb" and found[12:20] == _STORE_MARK


def _piece(media: Media, start: int, length: int) -> bytes:
    """At most `length` bytes from `start`; fewer where the file ends."""
    if start < 0 or start >= media.size:
        return b""
    return media.read(start, min(length, media.size - start))


def _in_jpeg(media: Media) -> bytes | None:
    """APP11 segments that carry pieces of a box, before the picture's data (A.3.1)."""
    pieces: dict[bytes, bytearray] = {}
    position, window, base = 2, b"", 0
    for _ in range(MAX_STEPS):
        if position + 32 > base + len(window) or position < base:
            base, window = position, _piece(media, position, 1 << 16)
        head = window[position - base : position - base + 32]
        if len(head) < 4 or head[0] != 0xFF or head[1] in (0xDA, 0xD9):
            break
        (length,) = struct.unpack_from(">H", head, 2)
        if head[1] == 0xEB and head[4:6] == b"JP" and length >= 18:
            instance = head[6:8] + head[12:20]
            data = _piece(media, position + 12, length - 10)
            held = pieces.get(instance)
            if held is None:
                pieces[instance] = bytearray(data)
            elif len(held) < jumbf.MAX_STORE:
                held += data[8:]
        position += 2 + length
    return next((bytes(held) for held in pieces.values() if _is_store(bytes(held[:32]))), None)


def _in_png(media: Media) -> bytes | None:
    position = 8
    for _ in range(MAX_STEPS):
        head = _piece(media, position, 8)
        if len(head) < 8 or head[4:] == b"IEND":
            return None
        length = int.from_bytes(head[:4], "big")
        if head[4:] == b"caBX":
            return _bounded(media, position + 8, length)
        position += 12 + length
    return None


def _in_riff(media: Media) -> bytes | None:
    position = 12
    for _ in range(MAX_STEPS):
        head = _piece(media, position, 8)
        if len(head) < 8:
            return None
        length = int.from_bytes(head[4:8], "little")
        if head[:4] == b"C2PA":
            return _bounded(media, position + 8, length)
        position += 8 + length + length % 2
    return None


def _in_bmff(media: Media) -> bytes | None:
    """The first box of ours on the top level; the others are counted, since the SDK looks at each for long."""
    found: bytes | None = None
    position = 0
    for _ in range(MAX_BOXES):
        head = _piece(media, position, 64)
        if len(head) < 8:
            return found
        length, kind = struct.unpack_from(">I4s", head)
        offset = 8
        if length == 1 and len(head) >= 16:
            length, offset = int.from_bytes(head[8:16], "big"), 16
        elif length == 0:
            length = media.size - position
        if length < offset:
            return found
        if kind == b"uuid" and head[offset : offset + 16] == _UUID:
            # Version and flags, the purpose as a string, the offset of Merkle data (A.5.1).
            purpose = head.find(b"\0", offset + 20)
            if purpose > 0 and head[offset + 20 : purpose] == b"manifest":
                start = purpose + 1 + 8
                found = found or _bounded(media, position + start, length - start)
        position += length
    raise TooManyBoxesError(f"The file has more than {MAX_BOXES} boxes on its top level; it was not checked.")


def _in_gif(media: Media) -> bytes | None:
    head = _piece(media, 0, 13)
    if len(head) < 13:
        return None
    position = 13 + (3 << ((head[10] & 7) + 1) if head[10] & 0x80 else 0)
    for _ in range(MAX_STEPS):
        block = _piece(media, position, 14)
        if len(block) < 14 or block[0] != 0x21:
            return None
        if block[:12] == b"\x21\xff\x0bC2PA_GIF\x01":
            return _sub_blocks(media, position + 14)
        position = _after_blocks(media, position + 2)
    return None


def _sub_blocks(media: Media, position: int) -> bytes:
    found = bytearray()
    while (size := _piece(media, position, 1)) not in (b"", b"\0") and len(found) < jumbf.MAX_STORE:
        found += _piece(media, position + 1, size[0])
        position += 1 + size[0]
    return bytes(found)


def _after_blocks(media: Media, position: int) -> int:
    while (size := _piece(media, position, 1)) not in (b"", b"\0"):
        position += 1 + size[0]
    return position + 1


def _in_tiff(media: Media) -> bytes | None:
    head = _piece(media, 0, 8)
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(head[:4])
    if order is None or len(head) < 8:
        return None
    (directory,) = struct.unpack_from(order + "I", head, 4)
    count = _piece(media, directory, 2)
    if len(count) < 2:
        return None
    (entries,) = struct.unpack(order + "H", count)
    table = _piece(media, directory + 2, 12 * min(entries, MAX_STEPS))
    for at in range(0, len(table) - 11, 12):
        tag, _, length, place = struct.unpack_from(order + "HHII", table, at)
        if tag == _TIFF_TAG:
            return _bounded(media, place, length)
    return None


def _in_id3(media: Media) -> bytes | None:
    """A GEOB frame of an ID3v2 tag (A.3.6); the store stands in it as it is."""
    length = id3_length(_piece(media, 0, 10))
    if length is None:
        return None
    tag = _piece(media, 0, min(length, jumbf.MAX_STORE))
    mark = tag.find(b"jumb\0\0\0")
    while mark >= 4:
        if tag[mark + 8 : mark + 16] == _STORE_MARK:
            size = int.from_bytes(tag[mark - 4 : mark], "big")
            return tag[mark - 4 : mark - 4 + size]
        mark = tag.find(b"jumb", mark + 1)
    return None


def _in_svg(media: Media) -> bytes | None:
    found = _SVG_STORE.search(_piece(media, 0, MAX_SVG))
    if found is None:
        return None
    try:
        return base64.b64decode(found[1])
    except binascii.Error:
        return None


def _bounded(media: Media, start: int, length: int) -> bytes | None:
    return _piece(media, start, length) if 0 < length <= jumbf.MAX_STORE else None


_PLACES = {
    Kind.JPEG: _in_jpeg,
    Kind.PNG: _in_png,
    Kind.WEBP: _in_riff,
    Kind.WAV: _in_riff,
    Kind.AVI: _in_riff,
    Kind.MP4: _in_bmff,
    Kind.MOV: _in_bmff,
    Kind.HEIC: _in_bmff,
    Kind.AVIF: _in_bmff,
    Kind.GIF: _in_gif,
    Kind.TIFF: _in_tiff,
    Kind.DNG: _in_tiff,
    Kind.MP3: _in_id3,
    Kind.FLAC: _in_id3,
    Kind.SVG: _in_svg,
}
