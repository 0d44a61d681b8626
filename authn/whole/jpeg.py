"""The end of a JPEG (ITU-T T.81, annex B), its padding, and its further pictures (CIPA DC-007).

After the end of the image (EOI) exactly two things are accepted:

- pictures that the file's own Multi-Picture index accounts for: previews and
  gain maps of cameras and telephones;
- padding: up to 64 KiB of only 0x00 or only 0xFF. Cameras of the block-storage
  era round the file up to a block, and those are originals. One repeated byte
  can carry neither a second file nor a message.

Anything else is refused, also a video that a telephone appends ("motion
photo") without an index: it would be signed unseen. Entropy-coded data is
searched for markers, not decoded.
"""

import re
import struct
from dataclasses import dataclass
from typing import Final

from authn.errors import MalformedMediaError, TrailingBytesError, TruncatedMediaError
from authn.media import CHUNK, Media

PADDING: Final = 64 * 1024
_SEGMENTS: Final = 8_192
_FILL: Final = 256
_PICTURES: Final = 64

_SOI, _EOI, _SOS, _APP2 = 0xD8, 0xD9, 0xDA, 0xE2
_FRAMES: Final = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_STANDALONE: Final = frozenset({0x01})
_FORBIDDEN: Final = frozenset({0x00, _SOI, *range(0xD0, 0xD8)})
_MARKER_IN_SCAN: Final = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")
_MPF_ENTRIES: Final = 0xB002


@dataclass(frozen=True, slots=True)
class _Image:
    """Where one picture ends, and where its Multi-Picture index starts, if it has one."""

    end: int
    index: int | None
    index_size: int


def walk(media: Media) -> None:
    """Follow the picture to its end, and account for every byte behind it."""
    first = _image(media, 0)
    end = first.end
    for start, size in _further_pictures(media, first) if first.index is not None else ():
        if start < end or not _is_padding(media, end, start):
            raise MalformedMediaError(
                "The Multi-Picture index does not describe the bytes after the first picture."
            )
        media.must_hold(start + size)
        end = _image(media, start).end
        if end > start + size or not _is_padding(media, end, start + size):
            raise MalformedMediaError("A further picture does not end where the Multi-Picture index says.")
        end = start + size
    if not _is_padding(media, end, media.size):
        raise TrailingBytesError(f"{media.size - end} bytes follow the end of the JPEG image.")


def _image(media: Media, start: int) -> _Image:
    """Walk markers from SOI to EOI; a frame header and a scan must lie between."""
    if media.read(start, 2) != b"\xff\xd8":
        raise MalformedMediaError("A JPEG image does not begin with its start marker.")
    at, index, index_size, seen = start + 2, None, 0, set[int]()
    for _ in range(_SEGMENTS):
        marker, at = _marker(media, at)
        if marker == _EOI:
            if _SOS not in seen or not seen & _FRAMES:
                raise MalformedMediaError("The JPEG image ends without a frame and a scan.")
            return _Image(at, index, index_size)
        if marker in _FORBIDDEN:
            raise MalformedMediaError(f"The JPEG marker 0x{marker:02X} stands where none of its kind may.")
        seen.add(marker)
        if marker in _STANDALONE:
            continue
        length = int.from_bytes(media.read(at, 2), "big")
        if length < 2:
            raise MalformedMediaError(f"The JPEG segment 0x{marker:02X} has no room for its own length.")
        media.must_hold(at + length)
        if marker == _APP2 and index is None and length > 6 and media.read(at + 2, 4) == b"MPF\0":
            index, index_size = at + 6, length - 6
        at += length
        if marker == _SOS:
            at = _scan_end(media, at)
    raise MalformedMediaError(f"The JPEG image has more than {_SEGMENTS} segments.")


def _marker(media: Media, at: int) -> tuple[int, int]:
    """The marker at `at`, past fill bytes (B.1.1.2), and where it ends."""
    found = media.read(at, max(2, min(_FILL, media.size - at)))
    fill = len(found) - len(found.lstrip(b"\xff"))
    if not fill:
        raise MalformedMediaError(f"A JPEG marker is expected at byte {at}.")
    if fill == len(found):
        media.must_hold(at + fill + 1)
        raise MalformedMediaError("A JPEG marker is preceded by too many fill bytes.")
    return found[fill], at + fill + 1


def _scan_end(media: Media, at: int) -> int:
    """Where the next marker that is no restart stands in entropy-coded data (B.1.1.5)."""
    while at + 1 < media.size:
        chunk = media.read(at, min(CHUNK, media.size - at))
        if found := _MARKER_IN_SCAN.search(chunk):
            return at + found.start()
        at += len(chunk) - 1  # a marker may lie across two chunks
    raise TruncatedMediaError("The JPEG scan goes on to the end of the file: its end marker is missing.")


def _further_pictures(media: Media, first: _Image) -> list[tuple[int, int]]:
    """(offset, size) of the pictures behind the first, in file order (DC-007, 5.2.3.3)."""
    if first.index is None:
        return []
    index = media.read(first.index, first.index_size)
    try:
        order = {b"II*\0": "<", b"MM\0*": ">"}[index[:4]]
        (directory,) = struct.unpack_from(order + "I", index, 4)
        (count,) = struct.unpack_from(order + "H", index, directory)
        fields = [struct.unpack_from(order + "HHII", index, directory + 2 + 12 * n) for n in range(count)]
        _, _, size, offset = next(field for field in fields if field[0] == _MPF_ENTRIES)
        entries = [struct.unpack_from(order + "IIIHH", index, offset + 16 * n) for n in range(size // 16)]
    except (KeyError, StopIteration, struct.error) as error:
        raise MalformedMediaError("The Multi-Picture index cannot be read.") from error
    if len(entries) > _PICTURES:
        raise MalformedMediaError(f"The Multi-Picture index names more than {_PICTURES} pictures.")
    # The first picture has offset 0 and is the file itself; the others count from the index.
    return sorted((first.index + place, length) for _, length, place, _, _ in entries if place)


def _is_padding(media: Media, start: int, end: int) -> bool:
    if start == end:
        return True
    if not 0 < end - start <= PADDING:
        return False
    gap = media.read(start, end - start)
    return gap[0] in {0x00, 0xFF} and gap.count(gap[:1]) == len(gap)
