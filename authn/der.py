"""Write and read the little DER that time-stamp messages need (ITU-T X.690).

The writer makes one encoding of a value. The reader accepts only that one:
definite and minimal lengths, low tag numbers, nothing left over. It opens one
level at a time, so no input can make it recurse.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from cryptography.hazmat import asn1
from cryptography.x509 import ObjectIdentifier

from authn.errors import MalformedDerError

BOOLEAN = 0x01
INTEGER = 0x02
BIT_STRING = 0x03
OCTET_STRING = 0x04
NULL = 0x05
OID = 0x06
UTF8_STRING = 0x0C
UTC_TIME = 0x17
GENERALIZED_TIME = 0x18
SEQUENCE = 0x30
SET = 0x31

MAX_BYTES = 1 << 20
_MAX_CHILDREN = 256
_MAX_INTEGER_BYTES = 64
_MAX_OID_BYTES = 64


def tagged(tag: int, *parts: bytes) -> bytes:
    """One element: `tag`, the length, and `parts` as its content."""
    content = b"".join(parts)
    size = len(content)
    if size < 128:
        return bytes((tag, size)) + content
    length = size.to_bytes((size.bit_length() + 7) // 8, "big")
    return bytes((tag, 0x80 | len(length))) + length + content


def sequence(*parts: bytes) -> bytes:
    """A SEQUENCE of elements in the order given."""
    return tagged(SEQUENCE, *parts)


def set_of(*parts: bytes) -> bytes:
    """A SET OF, sorted as DER demands (X.690, 11.6)."""
    return tagged(SET, *sorted(parts))


def integer(value: int) -> bytes:
    """An INTEGER in the fewest bytes."""
    size = (value if value >= 0 else ~value).bit_length() // 8 + 1
    return tagged(INTEGER, value.to_bytes(size, "big", signed=True))


def octets(value: bytes) -> bytes:
    """An OCTET STRING."""
    return tagged(OCTET_STRING, value)


def oid(dotted: str) -> bytes:
    """An OBJECT IDENTIFIER."""
    return asn1.encode_der(ObjectIdentifier(dotted))


def generalized_time(at: datetime) -> bytes:
    """A GeneralizedTime in whole seconds, UTC."""
    return tagged(GENERALIZED_TIME, at.astimezone(UTC).strftime("%Y%m%d%H%M%SZ").encode("ascii"))


@dataclass(frozen=True, slots=True)
class Element:
    """One element as it was read; `encoded` is the whole of it, header included."""

    tag: int
    content: bytes
    encoded: bytes

    def children(self) -> tuple["Element", ...]:
        """The elements inside, if there is nothing else."""
        found: list[Element] = []
        position = 0
        while position < len(self.content):
            if len(found) == _MAX_CHILDREN:
                raise MalformedDerError(f"more than {_MAX_CHILDREN} elements stand in one")
            element = _read(self.content, position)
            found.append(element)
            position += len(element.encoded)
        return tuple(found)

    def fields(self, tag: int = SEQUENCE) -> "Fields":
        """The children, to be taken in order, if this element has `tag`."""
        if self.tag != tag:
            raise MalformedDerError(f"tag {self.tag:#x} stands where {tag:#x} must")
        return Fields(self.children())

    def to_integer(self) -> int:
        """The value of an INTEGER of at most 512 bits."""
        body = self.content
        if self.tag != INTEGER or not 0 < len(body) <= _MAX_INTEGER_BYTES:
            raise MalformedDerError("not an integer of bounded size")
        if len(body) > 1 and (body[0], body[1] >> 7) in ((0x00, 0), (0xFF, 1)):
            raise MalformedDerError("an integer has more bytes than it needs")
        return int.from_bytes(body, "big", signed=True)

    def to_octets(self) -> bytes:
        """The value of an OCTET STRING."""
        if self.tag != OCTET_STRING:
            raise MalformedDerError("not an octet string")
        return self.content

    def to_boolean(self) -> bool:
        """The value of a BOOLEAN, which DER writes as 00 or FF."""
        if self.tag != BOOLEAN or self.content not in (b"\x00", b"\xff"):
            raise MalformedDerError("not a boolean")
        return self.content == b"\xff"

    def to_oid(self) -> str:
        """The dotted text of an OBJECT IDENTIFIER."""
        if self.tag != OID or len(self.encoded) > _MAX_OID_BYTES:
            raise MalformedDerError("not an object identifier")
        try:
            return asn1.decode_der(ObjectIdentifier, self.encoded).dotted_string
        except ValueError as error:
            raise MalformedDerError("not an object identifier") from error

    def to_time(self) -> datetime:
        """The moment of a GeneralizedTime or UTCTime, in UTC, as RFC 5280 and RFC 3161 write them."""
        try:
            text = self.content.decode("ascii")
        except UnicodeDecodeError as error:
            raise MalformedDerError("a time is not ASCII") from error
        if self.tag == UTC_TIME and len(text) == 13:
            text = ("19" if text[:2] >= "50" else "20") + text
        elif self.tag != GENERALIZED_TIME:
            raise MalformedDerError("not a time")
        whole, dot, fraction = text.removesuffix("Z").partition(".")
        if not text.endswith("Z") or len(whole) != 14 or not whole.isdigit():
            raise MalformedDerError("a time is not written in whole digits and Z")
        if dot and (not fraction.isdigit() or len(fraction) > 6 or fraction.endswith("0")):
            raise MalformedDerError("a time has a fraction that is not minimal")
        try:
            moment = datetime.strptime(whole, "%Y%m%d%H%M%S").replace(tzinfo=UTC)
        except ValueError as error:
            raise MalformedDerError("a time names no moment") from error
        return moment + timedelta(microseconds=int(fraction.ljust(6, "0")) if fraction else 0)


class Fields:
    """The fields of a SEQUENCE, taken one after the other."""

    __slots__ = ("_left",)

    def __init__(self, elements: Iterable[Element]) -> None:
        self._left = list(reversed(tuple(elements)))

    def take(self, *tags: int) -> Element:
        """The next field, which must have one of `tags`; any tag will do if none is named."""
        if not self._left:
            raise MalformedDerError("a field is missing")
        if tags and self._left[-1].tag not in tags:
            raise MalformedDerError(f"tag {self._left[-1].tag:#x} stands where {tags[0]:#x} must")
        return self._left.pop()

    def maybe(self, tag: int) -> Element | None:
        """The next field if it has `tag`."""
        return self._left.pop() if self._left and self._left[-1].tag == tag else None

    def rest(self) -> tuple[Element, ...]:
        """Every field not taken yet."""
        left = tuple(reversed(self._left))
        self._left.clear()
        return left

    def end(self) -> None:
        """Refuse fields that nobody took."""
        if self._left:
            raise MalformedDerError("a field stands where none may")


def parse(data: bytes, limit: int = MAX_BYTES) -> Element:
    """Read one element that is the whole of `data`."""
    if len(data) > limit:
        raise MalformedDerError(f"more than {limit} bytes")
    element = _read(data, 0)
    if len(element.encoded) != len(data):
        raise MalformedDerError("bytes follow the element")
    return element


def _read(data: bytes, start: int) -> Element:
    if len(data) - start < 2:
        raise MalformedDerError("an element ends in its header")
    tag, size, body = data[start], data[start + 1], start + 2
    if tag & 0x1F == 0x1F:
        raise MalformedDerError("a high tag number")
    if size >= 0x80:
        count = size & 0x7F
        length = data[body : body + count]
        if not 0 < count <= 4 or len(length) != count:
            raise MalformedDerError("a length of no definite form")
        size = int.from_bytes(length, "big")
        if size < 0x80 or length[0] == 0:
            raise MalformedDerError("a length has more bytes than it needs")
        body += count
    if size > len(data) - body:
        raise MalformedDerError("an element ends early")
    return Element(tag, data[body : body + size], data[start : body + size])
