"""Read what EXIF and XMP say of a picture.

Anybody can write both, and a signature covers them only where the check of the
binding says so. Nothing is decoded, inflated beyond a limit, fetched or
expanded: XMP with a document type is refused. What is malformed says nothing,
and `problem` says so. Not read: maker notes, IPTC-IIM, extended XMP, BigTIFF,
the text chunks of older PNG writers, and films.
"""

import io
import struct
import unicodedata
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import islice
from typing import BinaryIO, Final
from xml.parsers import expat

from detector.errors import Error
from detector.frames import MetadataBlocks, metadata_blocks

MAX_BLOCK: Final = 1 << 20
MAX_TEXT: Final = 120


@dataclass(frozen=True, slots=True)
class Metadata:
    """What EXIF (the first seven) and XMP (the last three) say; unsigned unless shown otherwise.

    `taken_at` and `offset` stand as in EXIF, `gps` is latitude and longitude in
    degrees, `source_type` the last part of IPTC's term.
    """

    make: str | None = None
    model: str | None = None
    software: str | None = None
    artist: str | None = None
    taken_at: str | None = None
    offset: str | None = None
    gps: tuple[float, float] | None = None
    source_type: str | None = None
    creator_tool: str | None = None
    xmp_create_date: str | None = None
    problem: str | None = None
    """Why something that may be there was not read."""


class _MalformedError(Exception):
    """A block of metadata that does not follow its format; becomes `Metadata.problem`."""


_BY_PILLOW: Final = {"image/jpeg", "image/webp", "image/heic", "image/avif"}
_TIFF: Final = {"image/tiff", "image/x-adobe-dng"}

# TIFF 6.0 and EXIF 3.0 tags.
_MAKE, _MODEL, _SOFTWARE, _ARTIST, _XMP = 0x010F, 0x0110, 0x0131, 0x013B, 0x02BC
_EXIF, _GPS, _TAKEN, _OFFSET = 0x8769, 0x8825, 0x9003, 0x9011
_WIDTHS: Final = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 7: 1, 129: 1}
_MAX_ENTRIES: Final = 1000
_MAX_CHUNKS: Final = 10_000

_XMP_NAMES: Final = {
    "http://iptc.org/std/Iptc4xmpExt/2008-02-29/ DigitalSourceType": "source_type",
    "http://ns.adobe.com/xap/1.0/ CreatorTool": "creator_tool",
    "http://ns.adobe.com/xap/1.0/ CreateDate": "xmp_create_date",
}
_RESOURCE: Final = "http://www.w3.org/1999/02/22-rdf-syntax-ns# resource"


def read_metadata(stream: BinaryIO, kind: str) -> Metadata:
    """What a picture of the media type `kind` says of itself; empty for a type that is not read.

    Raises nothing for what the bytes are. Belongs in a worker, as all reading of hostile bytes.
    """
    exif, xmp = Metadata(), dict[str, str]()
    problems: list[str] = []
    try:
        tiff, packet = _sources(stream, kind)
    except (Error, _MalformedError, OSError) as error:
        return Metadata(problem=_plain(str(error)))
    try:
        exif = _read_exif(tiff) if tiff else exif
    except _MalformedError as error:
        problems.append(str(error))
    try:
        xmp = _read_xmp(packet)
    except _MalformedError as error:
        problems.append(str(error))
    return replace(
        exif,
        source_type=xmp.get("source_type", "").rsplit("/", 1)[-1] or None,
        creator_tool=xmp.get("creator_tool"),
        xmp_create_date=xmp.get("xmp_create_date"),
        problem="; ".join(problems) or None,
    )


def _sources(stream: BinaryIO, kind: str) -> tuple[BinaryIO | None, bytes]:
    """Where the TIFF structure of the EXIF begins, if there is one, and the XMP packet."""
    stream.seek(0)
    if kind in _TIFF:
        tiff = _Tiff(stream)
        return stream, tiff.content(tiff.first(), _XMP)
    if kind in _BY_PILLOW:
        blocks = metadata_blocks(stream, kind)
    elif kind == "image/png":
        blocks = _png_blocks(stream)
    else:
        return None, b""
    if len(blocks.exif) > MAX_BLOCK or len(blocks.xmp) > MAX_BLOCK:
        raise _MalformedError("the picture's EXIF or XMP is larger than 1 MiB")
    return io.BytesIO(blocks.exif) if blocks.exif else None, blocks.xmp


# --- EXIF


def _read_exif(stream: BinaryIO) -> Metadata:
    tiff = _Tiff(stream)
    main = tiff.first()
    detail, gps = tiff.below(main, _EXIF), tiff.below(main, _GPS)
    latitude = _degrees(tiff.rationals(gps, 2), tiff.text(gps, 1), "NS", 90)
    longitude = _degrees(tiff.rationals(gps, 4), tiff.text(gps, 3), "EW", 180)
    return Metadata(
        tiff.text(main, _MAKE),
        tiff.text(main, _MODEL),
        tiff.text(main, _SOFTWARE),
        tiff.text(main, _ARTIST),
        tiff.text(detail, _TAKEN),
        tiff.text(detail, _OFFSET),
        None if latitude is None or longitude is None else (latitude, longitude),
    )


@dataclass(frozen=True, slots=True)
class _Entry:
    """A field of a TIFF directory: its type, how many values it has, and they, or where they are."""

    type: int
    count: int
    inline: bytes


class _Tiff:
    """A TIFF structure, of which only the named fields are read (TIFF 6.0, section 2)."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        head = self._read(0, 4)
        self._order = {b"II*\0": "<", b"MM\0*": ">"}.get(head, "")
        if not self._order:
            raise _MalformedError("the picture's EXIF is no TIFF structure")

    def first(self) -> dict[int, _Entry]:
        """The first directory; later ones describe other pictures."""
        return self._directory(self._number(self._read(4, 4)))

    def below(self, directory: Mapping[int, _Entry], tag: int) -> dict[int, _Entry]:
        """The directory that a field points to; empty without one."""
        entry = directory.get(tag)
        return self._directory(self._number(entry.inline)) if entry and entry.type in (4, 13) else {}

    def content(self, directory: Mapping[int, _Entry], tag: int) -> bytes:
        """The bytes of a field; none if it is absent, or of a type that we have no use for."""
        entry = directory.get(tag)
        if entry is None or entry.type not in _WIDTHS:
            return b""
        size = entry.count * _WIDTHS[entry.type]
        if size > MAX_BLOCK:
            raise _MalformedError("a field of the picture's EXIF is larger than 1 MiB")
        return entry.inline[:size] if size <= 4 else self._read(self._number(entry.inline), size)

    def text(self, directory: Mapping[int, _Entry], tag: int) -> str | None:
        """The text of a field up to its first NUL; blank is none."""
        return _plain(self.content(directory, tag).split(b"\0", 1)[0].decode(errors="replace")) or None

    def rationals(self, directory: Mapping[int, _Entry], tag: int) -> tuple[float, ...]:
        """The fractions of a field; none at all if one divides by zero."""
        entry = directory.get(tag)
        if entry is None or entry.type != 5 or entry.count > 3:
            return ()
        pairs = list(struct.iter_unpack(self._order + "II", self.content(directory, tag)))
        return tuple(over / under for over, under in pairs) if all(under for _, under in pairs) else ()

    def _directory(self, position: int) -> dict[int, _Entry]:
        (count,) = struct.unpack(self._order + "H", self._read(position, 2))
        if count > _MAX_ENTRIES:
            raise _MalformedError("the picture's EXIF has too many fields")
        table = self._read(position + 2, 12 * count)
        fields = struct.iter_unpack(self._order + "HHI4s", table)
        return {tag: _Entry(type_, values, inline) for tag, type_, values, inline in fields}

    def _number(self, field: bytes) -> int:
        return int.from_bytes(field, "little" if self._order == "<" else "big")

    def _read(self, position: int, size: int) -> bytes:
        self._stream.seek(position)
        piece = self._stream.read(size)
        if len(piece) != size:
            raise _MalformedError("the picture's EXIF is cut short")
        return piece


def _degrees(parts: tuple[float, ...], side: str | None, letters: str, most: int) -> float | None:
    """Degrees, minutes and seconds on one axis; `None` without a side, or beyond what there is."""
    degrees = sum(part / 60.0**power for power, part in enumerate(parts))
    letter = (side or "").upper()
    if not parts or letter not in tuple(letters) or degrees > most:
        return None
    return -degrees if letter == letters[1] else degrees


# --- PNG


def _png_blocks(stream: BinaryIO) -> MetadataBlocks:
    """`eXIf`, and XMP's `iTXt`, wherever they stand: writers put them behind the pixels too (PNG 3, 11.3)."""
    if stream.read(8) != b"\x89PNG\r\n\x1a\n":
        raise _MalformedError("the bytes are no PNG")
    found: dict[bytes, bytes] = {}
    for kind, size in islice(_png_chunks(stream), _MAX_CHUNKS):
        if kind not in (b"eXIf", b"iTXt") or size > MAX_BLOCK:
            continue
        content = stream.read(size)
        if kind == b"eXIf":
            found.setdefault(kind, content)
        elif content.startswith(b"XML:com.adobe.xmp\0"):
            found.setdefault(kind, _international_text(content))
    return MetadataBlocks(found.get(b"eXIf", b""), found.get(b"iTXt", b""))


def _png_chunks(stream: BinaryIO) -> Iterator[tuple[bytes, int]]:
    """Type and length of each chunk, with the stream at its content."""
    position = 8
    while len(head := stream.read(8)) == 8:
        size, kind = struct.unpack(">I4s", head)
        yield kind, size
        position += 12 + size
        stream.seek(position)


def _international_text(content: bytes) -> bytes:
    """The text of an `iTXt` chunk, inflated within the limit."""
    try:
        _, rest = content.split(b"\0", 1)
        packed, (_, _, text) = rest[0], rest[2:].split(b"\0", 2)
        return zlib.decompressobj().decompress(text, MAX_BLOCK + 1) if packed else text
    except (ValueError, IndexError, zlib.error) as error:
        raise _MalformedError("the picture's XMP cannot be unpacked") from error


# --- XMP


def _read_xmp(packet: bytes) -> dict[str, str]:
    text = packet.strip(b"\0 \t\r\n")
    reader = _Xmp()
    parser = expat.ParserCreate("utf-8", " ")
    parser.StartElementHandler, parser.EndElementHandler = reader.begins, reader.ends
    parser.CharacterDataHandler = reader.reads
    parser.StartDoctypeDeclHandler = parser.EntityDeclHandler = reader.refuses
    try:
        if text:
            parser.Parse(text, True)  # noqa: FBT003 - expat's own flag: nothing follows
    except expat.ExpatError as error:
        raise _MalformedError("the picture's XMP is no well-formed XML") from error
    return {name: value for name, value in reader.found.items() if value}


class _Xmp:
    """The first value of each property we know, written as an attribute or as an element (XMP 1, 7.4)."""

    def __init__(self) -> None:
        self.found: dict[str, str] = {}
        self._inside = ""
        self._pieces: list[str] = []

    def begins(self, name: str, attributes: dict[str, str]) -> None:
        for key, value in attributes.items():
            self._keep(key, value)
        if name in _XMP_NAMES and not self._inside:
            self._inside, self._pieces = name, [attributes.get(_RESOURCE, "")]

    def reads(self, piece: str) -> None:
        if self._inside and len(self._pieces) < _MAX_ENTRIES:
            self._pieces.append(piece)

    def ends(self, name: str) -> None:
        if self._inside == name:
            self._keep(name, "".join(self._pieces))
            self._inside = ""

    def refuses(self, *_: object) -> None:
        """Entities could grow without limit, or name a file or an address."""
        raise _MalformedError("the picture's XMP declares a document type, which is not read")

    def _keep(self, name: str, value: str) -> None:
        if name in _XMP_NAMES:
            self.found.setdefault(_XMP_NAMES[name], _plain(value))


def _plain(text: str) -> str:
    """One line in at most `MAX_TEXT` characters, without control or formatting characters (UAX 9)."""
    kept = "".join(
        " " if unicodedata.category(character) in {"Cc", "Zl", "Zp"} else character
        for character in text[: 8 * MAX_TEXT]
        if unicodedata.category(character) not in {"Cf", "Cs", "Co", "Cn"}
    )
    joined = " ".join(kept.split())
    return joined if len(joined) <= MAX_TEXT else joined[: MAX_TEXT - 1] + "…"
