"""The end of a FLAC stream (RFC 9639): metadata blocks, then frames, the last of them whole.

An ID3v2 tag may stand in front; credentials are embedded in one.

FLAC has no end mark, so the last frame speaks for the end: its header is
sought backwards by its CRC-8, and its CRC-16 must close on the last byte.
If STREAMINFO states the number of samples, that frame must be the one that
completes it; if it states none, a cut between two frames is not seen. Frames
before the last are not checked, and nothing is decoded. An ID3v1 tag at the
end, which is no part of FLAC, is refused.
"""

from dataclasses import dataclass
from typing import Final

from authn.errors import MalformedMediaError, TrailingBytesError, TruncatedMediaError
from authn.media import Media, id3_length

_BLOCKS: Final = 1_000
_TAIL: Final = 1 << 19
_CANDIDATES: Final = 16


@dataclass(frozen=True, slots=True)
class _Stream:
    """What STREAMINFO (8.2) says that bears on the end."""

    block_size: int
    largest_frame: int
    samples: int


def walk(media: Media) -> None:
    """Follow the metadata, then find the last frame and close it."""
    tag = id3_length(media.read(0, min(10, media.size))) or 0
    stream, start = _metadata(media, tag + 4)
    if media.read(start, 2) not in {b"\xff\xf8", b"\xff\xf9"}:
        raise MalformedMediaError("No FLAC frame follows the metadata.")
    reach = stream.largest_frame * 2 or _TAIL
    begin = max(start, media.size - min(reach, _TAIL) - 64)
    tail = media.read(begin, media.size - begin)
    for place in _headers_backwards(tail):
        end = _closes(tail, place)
        if end is None:
            continue
        if stream.samples and _samples_by(tail[place : place + 16], stream) < stream.samples:
            break
        if end < len(tail):
            raise TrailingBytesError(f"{len(tail) - end} bytes follow the last FLAC frame.")
        return
    raise TruncatedMediaError("The last FLAC frame is not whole, or is not the last one announced.")


def _metadata(media: Media, at: int) -> tuple[_Stream, int]:
    stream = None
    for _ in range(_BLOCKS):
        header = media.read(at, 4)
        length = int.from_bytes(header[1:], "big")
        media.must_hold(at + 4 + length)
        if stream is None:
            if header[0] & 0x7F or length != 34:
                raise MalformedMediaError("The FLAC stream does not begin with STREAMINFO.")
            block = media.read(at + 4, 34)
            stream = _Stream(
                int.from_bytes(block[2:4], "big"),
                int.from_bytes(block[7:10], "big"),
                int.from_bytes(block[13:18], "big") & (1 << 36) - 1,
            )
        at += 4 + length
        if header[0] & 0x80:
            return stream, at
    raise MalformedMediaError(f"The FLAC stream has more than {_BLOCKS} metadata blocks.")


def _headers_backwards(tail: bytes) -> list[int]:
    """Where a frame header with a right CRC-8 stands, the last first."""
    found: list[int] = []
    place = len(tail)
    while len(found) < _CANDIDATES and (place := tail.rfind(b"\xff", 0, place)) >= 0:
        if tail[place + 1 : place + 2] in {b"\xf8", b"\xf9"}:
            length = _header_length(tail[place : place + 16])
            if length and _crc(tail[place : place + length], 8, 0x07) == 0:
                found.append(place)
    return found


def _number(head: bytes) -> tuple[int, int]:
    """The coded number (9.1.5) and how many bytes it takes; (0, 0) where it is none."""
    first = head[4]
    ones = 8 - (first ^ 0xFF).bit_length()
    if ones in {1, 8}:
        return 0, 0
    value = first & (0x7F >> ones)
    for byte in head[5 : 4 + ones]:
        value = value << 6 | byte & 0x3F
    return value, max(ones, 1)


def _header_length(head: bytes) -> int:
    """The length of a frame header, CRC-8 included (9.1); 0 where it is none."""
    if len(head) < 6 or not head[2] >> 4 or head[2] & 15 == 15 or head[3] & 1:
        return 0
    _, width = _number(head)
    if not width:
        return 0
    length = 4 + width + {6: 1, 7: 2}.get(head[2] >> 4, 0) + {12: 1, 13: 2, 14: 2}.get(head[2] & 15, 0) + 1
    return length if length <= len(head) else 0


def _samples_by(head: bytes, stream: _Stream) -> int:
    """How many samples the stream has by the end of this frame."""
    number, width = _number(head)
    code = head[2] >> 4
    if code in {6, 7}:
        own = int.from_bytes(head[4 + width : 4 + width + code - 5], "big") + 1
    else:
        own = 192 if code == 1 else 576 << code - 2 if code < 6 else 256 << code - 8
    return (number if head[1] & 1 else number * stream.block_size) + own


def _closes(tail: bytes, place: int) -> int | None:
    """Where the CRC-16 of the frame at `place` comes out zero, preferably at the very end."""
    crc, closed, header = 0, None, place + _header_length(tail[place : place + 16])
    for at in range(place, len(tail)):
        crc = (crc << 8 ^ _CRC16[crc >> 8 ^ tail[at]]) & 0xFFFF
        if crc == 0 and at >= header + 2:
            closed = closed or at + 1
    return len(tail) if crc == 0 else closed


def _crc(data: bytes, width: int, polynomial: int) -> int:
    crc = 0
    for byte in data:
        crc ^= byte << width - 8
        for _ in range(8):
            crc = (crc << 1 ^ (polynomial if crc >> width - 1 else 0)) & (1 << width) - 1
    return crc


_CRC16: Final = tuple(_crc(bytes([byte]), 16, 0x8005) for byte in range(256))
