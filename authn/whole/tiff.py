"""The reach of a TIFF or DNG (TIFF 6.0): every directory, value, strip, tile and preview lies in the file.

Bytes after the end cannot be defined for TIFF: any byte may belong to a
maker's private structure, so appended bytes are not seen here. Nor is a cut
that removes only bytes nothing points to. BigTIFF is not taken.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from authn.errors import MalformedMediaError
from authn.media import Media

_WORK: Final = 1 << 21
_WIDTHS: Final = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4}
_DATA: Final = ((273, 279), (324, 325), (513, 514))
_DIRECTORY_TAGS: Final = (330, 34665, 34853, 40965)


def walk(media: Media) -> None:
    """Visit every directory once, and check the reach of everything it points to."""
    head = media.read(0, 8)
    directories = _Directories(media, "<" if head[:2] == b"II" else ">")
    waiting = [struct.unpack(directories.order + "I", head[4:])[0]]
    visited = set[int]()
    images = 0
    while waiting:
        at = waiting.pop()
        if at in visited:
            raise MalformedMediaError("The TIFF directories form a loop.")
        visited.add(at)
        fields, following = directories.at(at)
        waiting += [following] if following else []
        for tag in _DIRECTORY_TAGS:
            waiting += [place for place in directories.values(fields.get(tag)) if place]
        for places, lengths in _DATA:
            images += places in fields
            for place, length in directories.extents(fields.get(places), fields.get(lengths)):
                media.must_hold(place + length)
    if not images:
        raise MalformedMediaError("No TIFF directory points to image data.")


@dataclass(frozen=True, slots=True)
class _Field:
    """One directory entry: its type, how many values, and where they lie."""

    type: int
    count: int
    at: int


@dataclass(slots=True)
class _Directories:
    """Reads directories and values, as long as the work in all of them together is bounded."""

    media: Media
    order: str
    left: int = _WORK

    def at(self, offset: int) -> tuple[dict[int, _Field], int]:
        """The fields of one directory (section 2), and the offset of the next."""
        (count,) = struct.unpack(self.order + "H", self.media.read(offset, 2))
        if not count:
            raise MalformedMediaError("A TIFF directory is empty.")
        self._spend(count)
        table = self.media.read(offset + 2, 12 * count + 4)
        fields = {}
        for entry in range(count):
            tag, kind, number, place = struct.unpack_from(self.order + "HHII", table, 12 * entry)
            length = _WIDTHS.get(kind, 0) * number  # unknown types are to be skipped
            if length > 4:
                self.media.must_hold(place + length)
            fields[tag] = _Field(kind, number, place if length > 4 else offset + 2 + 12 * entry + 8)
        return fields, struct.unpack_from(self.order + "I", table, 12 * count)[0]

    def values(self, field: _Field | None) -> tuple[int, ...]:
        """The whole numbers of a field; none for an absent one or another type."""
        if field is None or field.type not in {3, 4, 13}:
            return ()
        self._spend(field.count)
        code, width = ("H", 2) if field.type == 3 else ("I", 4)
        return struct.unpack(
            f"{self.order}{field.count}{code}", self.media.read(field.at, width * field.count)
        )

    def extents(self, places: _Field | None, lengths: _Field | None) -> Iterator[tuple[int, int]]:
        """Offset and length of each strip, tile or preview."""
        starts, sizes = self.values(places), self.values(lengths)
        if len(starts) != len(sizes):
            raise MalformedMediaError("A TIFF directory has not as many lengths as offsets.")
        return zip(starts, sizes, strict=True)

    def _spend(self, work: int) -> None:
        self.left -= work
        if self.left < 0:
            raise MalformedMediaError(f"The TIFF directories have more than {_WORK} entries and values.")
