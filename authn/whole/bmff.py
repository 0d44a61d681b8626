"""The end of an ISO base media file (ISO/IEC 14496-12): MP4, MOV, HEIC, AVIF.

The outermost boxes must tile the file, and what the index inside points to
(`iloc` for pictures, `stco` and `co64` for tracks) must lie in it. Not seen: a
cut between two boxes that nothing points across, such as the last fragments
of a fragmented MP4 or a `free` box; and bytes dressed as a box of their own,
which the format tells every reader to skip.
"""

import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from authn.errors import MalformedMediaError, TrailingBytesError, TruncatedMediaError
from authn.media import Kind, Media

_BOXES: Final = 100_000
_ITEM_TABLE: Final = 1 << 20
_TYPE: Final = re.compile(rb"[ -~\xa9][ -~]{3}")
_NEEDED: Final = {
    Kind.AVIF: (b"ftyp", b"meta"),
    Kind.HEIC: (b"ftyp", b"meta"),
    Kind.MP4: (b"ftyp", b"moov", b"mdat"),
    Kind.MOV: (b"ftyp", b"moov", b"mdat"),
}
_OUTERMOST: Final = frozenset(
    b"ftyp moov mdat free skip wide meta uuid moof mfra sidx ssix styp pdin udta pnot prft emsg".split()
)
_TRACK_PATH: Final = (b"trak", b"mdia", b"minf", b"stbl")


@dataclass(frozen=True, slots=True)
class _Box:
    """A box's type and where its content lies."""

    name: bytes
    start: int
    end: int


def walk(media: Media) -> None:
    """Tile the file with boxes, then check that what they point to is there."""
    seen: dict[bytes, _Box] = {}
    needed = _NEEDED[media.kind]
    at = 0
    for _ in range(_BOXES):
        if at == media.size:
            break
        try:
            box = _box(media, at, media.size)
        except (TruncatedMediaError, MalformedMediaError) as error:
            if all(name in seen for name in needed) and not _begins_box(media, at):
                raise TrailingBytesError(f"{media.size - at} bytes follow the last box.") from error
            raise
        seen.setdefault(box.name, box)
        at = box.end
    else:
        raise MalformedMediaError(f"The file has more than {_BOXES} boxes.")
    for name in needed:
        if name not in seen:
            raise TruncatedMediaError(f"The {media.kind.name} file has no {name.decode()} box.")
    if media.kind in {Kind.AVIF, Kind.HEIC}:
        _check_items(media, seen[b"meta"])
    else:
        _check_tracks(media, seen[b"moov"])


def _box(media: Media, at: int, limit: int) -> _Box:
    """The box at `at`, which must end by `limit` (4.2)."""
    header = media.read(at, 8)
    size, name, start = int.from_bytes(header[:4], "big"), header[4:], at + 8
    if size == 1:
        size, start = int.from_bytes(media.read(at + 8, 8), "big"), at + 16
    elif size == 0:
        size = limit - at
    if not _TYPE.fullmatch(name) or at + size < start:
        raise MalformedMediaError(f"A box is expected at byte {at}.")
    if at + size > limit:
        reach = f"The box {name.decode('latin-1')} at byte {at} reaches to byte {at + size}, past {limit}."
        raise TruncatedMediaError(reach) if limit == media.size else MalformedMediaError(reach)
    return _Box(name, start, at + size)


def _begins_box(media: Media, at: int) -> bool:
    return at + 8 <= media.size and media.read(at + 4, 4) in _OUTERMOST


def _inside(media: Media, start: int, end: int, steps: Iterator[int]) -> Iterator[_Box]:
    for _ in steps:
        if start + 8 > end:  # QuickTime ends some containers with a 32-bit zero
            return
        box = _box(media, start, end)
        yield box
        start = box.end
    raise MalformedMediaError(f"The index has more than {_BOXES} boxes.")


def _check_tracks(media: Media, moov: _Box) -> None:
    """Every chunk of every track begins inside the file (8.7.5)."""
    boxes, steps = [moov], iter(range(_BOXES))
    for name in _TRACK_PATH:
        boxes = [
            inner
            for box in boxes
            for inner in _inside(media, box.start, box.end, steps)
            if inner.name == name
        ]
    for table in (inner for box in boxes for inner in _inside(media, box.start, box.end, steps)):
        if table.name in {b"stco", b"co64"}:
            width = 4 if table.name == b"stco" else 8
            count = int.from_bytes(media.read(table.start + 4, 4), "big")
            if table.start + 8 + width * count > table.end:
                raise MalformedMediaError("A table of chunk offsets is longer than its box.")
            for chunk in media.chunks(table.start + 8, table.start + 8 + width * count):
                offsets = struct.unpack(f">{len(chunk) // width}{'I' if width == 4 else 'Q'}", chunk)
                media.must_hold(max(offsets) + 1)


def _check_items(media: Media, meta: _Box) -> None:
    """Every extent that is stored in the file lies inside it (8.11.3)."""
    for box in _inside(media, meta.start + 4, meta.end, iter(range(_BOXES))):
        if box.name == b"iloc":
            if box.end - box.start > _ITEM_TABLE:
                raise MalformedMediaError("The item location table is too long.")
            try:
                _check_locations(media, media.read(box.start, box.end - box.start))
            except (struct.error, IndexError) as error:
                raise MalformedMediaError("The item location table cannot be read.") from error
            return
    raise MalformedMediaError("The picture has no item location table.")


def _check_locations(media: Media, table: bytes) -> None:
    version, sizes, more = table[0], table[4], table[5]
    widths = [sizes >> 4, sizes & 15, more >> 4, more & 15 if version in {1, 2} else 0]
    if version > 2 or any(width not in {0, 4, 8} for width in widths):
        raise MalformedMediaError("The item location table is of an unknown version.")
    wide = version == 2
    at = 6

    def take(width: int) -> int:
        nonlocal at
        at += width
        if at > len(table):
            raise MalformedMediaError("The item location table ends early.")
        return int.from_bytes(table[at - width : at], "big")

    offset_width, length_width, base_width, index_width = widths
    for _ in range(take(4 if wide else 2)):
        take(4 if wide else 2)
        method = take(2) & 15 if version else 0
        source = take(2)
        base = take(base_width)
        extents = take(2)
        for _ in range(extents if offset_width or length_width else 0):
            take(index_width)
            place, length = take(offset_width), take(length_width)
            if method == 0 and source == 0:
                media.must_hold(base + place + length)
