"""The end of an SVG: well-formed XML from the root element to its end tag.

Entity declarations and external entities are refused before anything is
expanded or fetched. Only the form is read; what would be drawn is not known.
"""

from dataclasses import dataclass
from typing import Final, NoReturn
from xml.parsers import expat

from authn.errors import MalformedMediaError, MediaTooLargeError, TrailingBytesError, TruncatedMediaError
from authn.media import Media

BYTES: Final = 64 * 1024 * 1024
_DEPTH: Final = 256
_TAG: Final = 4096
_ELEMENTS: Final = 1_000_000
_CUT: Final = frozenset(
    expat.errors.codes[text]
    for text in (
        expat.errors.XML_ERROR_NO_ELEMENTS,
        expat.errors.XML_ERROR_UNCLOSED_TOKEN,
        expat.errors.XML_ERROR_UNCLOSED_CDATA_SECTION,
        expat.errors.XML_ERROR_PARTIAL_CHAR,
    )
)


def walk(media: Media) -> None:
    """Parse to the end, keeping nothing."""
    if media.size > BYTES:
        raise MediaTooLargeError(f"The SVG has {media.size} bytes; the limit is {BYTES}.")
    parser = expat.ParserCreate()
    outline = _Outline(parser)
    parser.StartElementHandler = outline.start
    parser.EndElementHandler = outline.end
    parser.EntityDeclHandler = _refuse_entity
    parser.ExternalEntityRefHandler = _refuse_entity
    try:
        for chunk in media.chunks(0, media.size):
            parser.Parse(chunk)
        parser.Parse(b"", True)  # noqa: FBT003 - expat has no other way to say "this was all"
    except expat.ExpatError as error:
        if outline.closing is not None:
            rest = media.size - _tag_end(media, outline.closing)
            raise TrailingBytesError(f"{rest} bytes follow the SVG element.") from error
        if error.code in _CUT:
            raise TruncatedMediaError("The SVG ends before its root element does.") from error
        raise MalformedMediaError(f"The SVG is not well-formed XML: {error}.") from error


@dataclass(slots=True)
class _Outline:
    """How deep the parser is, and where the tag that closes the root element begins."""

    parser: expat.XMLParserType
    depth: int = 0
    elements: int = 0
    closing: int | None = None

    def start(self, name: str, _attributes: object) -> None:
        if not self.depth and name.rpartition(":")[2] != "svg":
            raise MalformedMediaError("The root element is not svg.")
        self.depth += 1
        self.elements += 1
        if self.depth > _DEPTH or self.elements > _ELEMENTS:
            raise MalformedMediaError(f"The SVG nests over {_DEPTH} elements, or has over {_ELEMENTS}.")

    def end(self, _name: str) -> None:
        self.depth -= 1
        if not self.depth:
            self.closing = self.parser.CurrentByteIndex


def _tag_end(media: Media, start: int) -> int:
    return start + media.read(start, min(_TAG, media.size - start)).find(b">") + 1


def _refuse_entity(*_declaration: object) -> NoReturn:
    raise MalformedMediaError("The SVG declares an entity; none is expanded here.")
