"""One piece of media as it arrived: a seekable stream, its size, and its kind by content.

The kind comes from the bytes alone; a name or a declared type is never asked.
`sniff` looks at the beginning only and proves nothing about the rest: that is
`authn.container`'s work.
"""

import os
import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import BinaryIO

from authn.errors import (
    EmptyMediaError,
    MediaTooLargeError,
    TrailingBytesError,
    TruncatedMediaError,
    UnknownMediaError,
)

HEAD = 64 * 1024
"""How much of the beginning `sniff` is given."""

CHUNK = 256 * 1024
"""How much of a payload is in memory at a time."""


class Kind(StrEnum):
    """The types that can carry credentials; the value is the MIME type."""

    JPEG = "image/jpeg"
    PNG = "image/png"
    WEBP = "image/webp"
    TIFF = "image/tiff"
    AVIF = "image/avif"
    HEIC = "image/heic"
    GIF = "image/gif"
    DNG = "image/x-adobe-dng"
    MP4 = "video/mp4"
    MOV = "video/quicktime"
    AVI = "video/x-msvideo"
    WAV = "audio/wav"
    MP3 = "audio/mpeg"
    FLAC = "audio/flac"
    PDF = "application/pdf"
    SVG = "image/svg+xml"

    @property
    def is_image(self) -> bool:
        """Whether it is a raster image, which a decoder must read in full before we sign it."""
        return self.value.startswith("image/") and self is not Kind.SVG


@dataclass(frozen=True, slots=True)
class Media:
    """A seekable stream with what is known of it; `name` is for people and decides nothing.

    `sidecar` is a manifest store that came in a file of its own (C2PA 2.2, 11.4),
    and is then read instead of what the media may carry.
    """

    stream: BinaryIO
    size: int
    kind: Kind
    name: str
    sidecar: bytes | None = None

    @classmethod
    def of(cls, stream: BinaryIO, name: str, limit: int) -> "Media":
        """Measure and sniff; nothing at all is read of what is over `limit`.

        Else only the head is read, and the four bytes behind a tag that is longer than the head.
        """
        size = stream.seek(0, os.SEEK_END)
        if size > limit:
            raise MediaTooLargeError(f"{name} has {size} bytes; the limit is {limit}.")
        stream.seek(0)
        head = stream.read(min(size, HEAD))
        kind = sniff(head)
        if kind is Kind.MP3 and (tag := id3_length(head[:10]) or 0) + 4 > len(head):
            stream.seek(tag)
            kind = Kind.FLAC if stream.read(4) == _FLAC else kind
        stream.seek(0)
        return cls(stream, size, kind, name)

    def read(self, offset: int, count: int) -> bytes:
        """Exactly `count` bytes from `offset`, or `TruncatedMediaError`."""
        self.must_hold(offset + count)
        self.stream.seek(offset)
        found = self.stream.read(count)
        if len(found) != count:
            raise TruncatedMediaError(
                f"The file became shorter than its {self.size} bytes while it was read."
            )
        return found

    def chunks(self, offset: int, end: int) -> Iterator[bytes]:
        """The bytes from `offset` to `end`, never more than `CHUNK` at a time."""
        while offset < end:
            chunk = self.read(offset, min(CHUNK, end - offset))
            offset += len(chunk)
            yield chunk

    def must_hold(self, end: int) -> None:
        """Refuse a structure that reaches past the last byte."""
        if end > self.size:
            raise TruncatedMediaError(
                f"The {self.kind.name} structure reaches to byte {end}, but the file ends after {self.size}."
            )

    def must_end_at(self, end: int) -> None:
        """Refuse a file that ends anywhere but where its structure does."""
        self.must_hold(end)
        if end < self.size:
            raise TrailingBytesError(f"{self.size - end} bytes follow the end of the {self.kind.name} data.")


def sniff(head: bytes) -> Kind:
    """The kind of the media that begins with `head`, at least the first `HEAD` bytes or all of it.

    A DNG is told from a TIFF by DNGVersion in its first directory; where that
    directory lies beyond the head, the answer is TIFF. M4A is MP4. Where an
    ID3v2 tag fills the head, the answer is MP3.
    """
    if not head:
        raise EmptyMediaError("The file has no bytes.")
    for magic, kind in _MAGIC:
        if head.startswith(magic):
            return kind
    for look in (_riff, _tiff, _bmff, _mpeg_audio, _svg):
        if kind_found := look(head):
            return kind_found
    raise UnknownMediaError("The file begins like none of the types that can carry credentials.")


def frame_length(header: bytes) -> int | None:
    """The length of the MPEG audio layer III frame with this 4-byte header, or None (ISO 11172-3, 2.4.2.3).

    Free-format frames, which do not state their length, are None too.
    """
    word = int.from_bytes(header[:4], "big")
    version, layer, rate, sampling = word >> 19 & 3, word >> 17 & 3, word >> 12 & 15, word >> 10 & 3
    if (
        len(header) < 4
        or word >> 21 != 0x7FF
        or version == 1
        or layer != 1
        or rate in {0, 15}
        or sampling == 3
    ):
        return None
    full = version == 3
    kilobits = (_KILOBITS_1 if full else _KILOBITS_2)[rate - 1]
    hertz = (44100, 48000, 32000)[sampling] // {3: 1, 2: 2, 0: 4}[version]
    return (144 if full else 72) * kilobits * 1000 // hertz + (word >> 9 & 1)


def id3_length(header: bytes) -> int | None:
    """The length of the ID3v2 tag with this 10-byte header, or None where there is none (ID3v2.4, 3.1)."""
    if (
        len(header) < 10
        or header[:3] != b"ID3"
        or header[3] == 0xFF
        or any(byte > 0x7F for byte in header[6:10])
    ):
        return None
    size = header[6] << 21 | header[7] << 14 | header[8] << 7 | header[9]
    return 10 + size + (10 if header[5] & 0x10 else 0)


_FLAC = b"fLaC"
_MAGIC = (
    (b"\xff\xd8\xff", Kind.JPEG),
    (b"\x89PNG\r\n\x1a\n", Kind.PNG),
    (b"GIF87a", Kind.GIF),
    (b"GIF89a", Kind.GIF),
    (_FLAC, Kind.FLAC),
    (b"%PDF-", Kind.PDF),
)
_RIFF_FORMS = {b"WEBP": Kind.WEBP, b"AVI ": Kind.AVI, b"WAVE": Kind.WAV}
_AVIF = frozenset({b"avif", b"avis"})
_HEIC = frozenset({b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs"})
_STILL = frozenset({b"mif1", b"mif2", b"msf1", b"miaf"})
_MP4 = re.compile(
    rb"iso[m2-9a-c]|mp4[12v]|avc1|M4[VABP] |f4v |3g[p2gesr].|dash|MSNV|mmp4|XAVC|cmfc", re.DOTALL
)
_OTHER_BMFF = frozenset({b"crx ", b"jp2 ", b"jpx ", b"jxl "})
_KILOBITS_1 = (32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320)
_KILOBITS_2 = (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160)
_DNG_VERSION = 0xC612
_SVG_ROOT = re.compile(rb"<(?:[A-Za-z_][\w.-]*:)?svg[\s/>]")
_PROLOG = ((b"<?", b"?>"), (b"<!--", b"-->"))


def _riff(head: bytes) -> Kind | None:
    return _RIFF_FORMS.get(head[8:12]) if head.startswith(b"RIFF") else None


def _tiff(head: bytes) -> Kind | None:
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(head[:4])
    if order is None or len(head) < 8:
        return None
    (directory,) = struct.unpack_from(order + "I", head, 4)
    if directory + 2 > len(head):
        return Kind.TIFF
    (entries,) = struct.unpack_from(order + "H", head, directory)
    for at in range(directory + 2, min(directory + 2 + 12 * entries, len(head) - 1), 12):
        if struct.unpack_from(order + "H", head, at)[0] == _DNG_VERSION:
            return Kind.DNG
    return Kind.TIFF


def _bmff(head: bytes) -> Kind | None:
    size = int.from_bytes(head[:4], "big")
    if head[4:8] != b"ftyp" or not 16 <= size <= 4096 or len(head) < 12:
        return None
    major = head[8:12]
    brands = {head[at : at + 4] for at in range(16, min(size, len(head)) - 3, 4)}
    if major in _STILL:
        return Kind.AVIF if brands & _AVIF else Kind.HEIC
    if major in _AVIF:
        return Kind.AVIF
    if major in _HEIC:
        return Kind.HEIC
    if major == b"qt  ":
        return Kind.MOV
    known = _MP4.match(major) or (major not in _OTHER_BMFF and any(map(_MP4.match, brands)))
    return Kind.MP4 if known else None


def _mpeg_audio(head: bytes) -> Kind | None:
    """What is behind an ID3v2 tag, or begins with a frame.

    A FLAC has such a tag when it carries credentials. One frame header could be
    chance, so the next frame must follow, if the head reaches that far.
    """
    tag = id3_length(head[:10])
    first = tag or 0
    if tag is not None and first + 4 > len(head):
        return Kind.MP3
    if head[first : first + 4] == _FLAC:
        return Kind.FLAC
    length = frame_length(head[first : first + 4])
    if length is None:
        return None
    following = head[first + length : first + length + 4]
    plausible = (
        len(following) < 4 or frame_length(following) is not None or following[:3] in {b"TAG", b"APE", b"LYR"}
    )
    return Kind.MP3 if plausible else None


def _svg(head: bytes) -> Kind | None:
    """The root element, behind an optional mark, declaration, comments and document type."""
    rest = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    while not _SVG_ROOT.match(rest):
        if rest[:9].upper() == b"<!DOCTYPE":
            end = _doctype_end(rest)
        else:
            end = next(
                (rest.find(close) + len(close) for start, close in _PROLOG if _opens(rest, start, close)), 0
            )
        if not end:
            return None
        rest = rest[end:].lstrip()
    return Kind.SVG


def _opens(rest: bytes, start: bytes, close: bytes) -> bool:
    return rest.startswith(start) and close in rest


def _doctype_end(rest: bytes) -> int:
    """Where the document type ends, past an internal subset; 0 where it does not."""
    subset, end = rest.find(b"["), rest.find(b">")
    if 0 <= subset < end:
        end = rest.find(b">", rest.find(b"]", subset)) if b"]" in rest[subset:] else -1
    return end + 1
