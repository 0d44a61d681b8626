"""The end of a PDF (ISO 32000-2, 7.5.5): `startxref`, an offset, `%%EOF`, and nothing but white space.

A cut right after an earlier revision's `%%EOF` is that revision, whole, and
is not seen. Objects are not parsed.
"""

import re
from typing import Final

from authn.errors import MalformedMediaError, TrailingBytesError, TruncatedMediaError
from authn.media import Media

_TAIL: Final = 1024
_END: Final = re.compile(rb"startxref[\0\t\n\f\r ]+(\d{1,15})[\0\t\n\f\r ]+%%EOF")
_TABLE: Final = re.compile(rb"[\0\t\n\f\r ]*(?:xref|\d+[\0\t\n\f\r ]+\d+[\0\t\n\f\r ]+obj)")


def walk(media: Media) -> None:
    """Find the last end mark, and see that it points to a cross-reference table or stream."""
    begin = max(0, media.size - _TAIL)
    tail = media.read(begin, media.size - begin)
    ends = list(_END.finditer(tail))
    if not ends:
        raise TruncatedMediaError("The PDF has no end mark in its last 1024 bytes.")
    if rest := tail[ends[-1].end() :].strip(b"\0\t\n\f\r "):
        raise TrailingBytesError(f"{len(rest)} bytes follow the end mark of the PDF.")
    table = int(ends[-1][1])
    media.must_hold(table + 1)
    if not _TABLE.match(media.read(table, min(64, media.size - table))):
        raise MalformedMediaError("The PDF's end mark does not point to a cross-reference table.")
