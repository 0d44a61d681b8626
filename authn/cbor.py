"""Read the CBOR of a manifest, within limits (RFC 8949).

Accepts what C2PA writers produce: every major type, definite and indefinite
lengths, with string, integer or byte-string map keys. Tags are kept apart from
their content and mean nothing here. Refuses duplicate map keys, since two
readers could disagree about which one was signed. Does not check that an
encoding is canonical.
"""

import struct
from dataclasses import dataclass
from typing import TypeAlias

from authn.errors import MediaError

MAX_DEPTH = 64
MAX_ITEMS = 200_000

Value: TypeAlias = (
    "int | float | str | bytes | bool | None | list[Value] | dict[str | int | bytes, Value] | Tag"
)


class MalformedCborError(MediaError):
    """Bytes that claim to be CBOR and are not, or exceed a limit."""

    code = "cbor-malformed"


@dataclass(frozen=True, slots=True)
class Tag:
    """A tagged value, uninterpreted."""

    number: int
    value: Value


def decode(data: bytes) -> Value:
    """Return the one value that `data` holds; anything after it is an error."""
    reader = _Reader(data)
    try:
        value = reader.value(0)
    except (IndexError, struct.error, UnicodeDecodeError) as error:
        raise MalformedCborError("the record's CBOR is cut short or not UTF-8") from error
    if reader.position != len(data):
        raise MalformedCborError("bytes follow the record's CBOR")
    return value


def encode(value: bytes | str | list[bytes | str]) -> bytes:
    """Encode the little that a COSE Sig_structure needs (RFC 9052, 4.4)."""
    match value:
        case bytes():
            return _head(2, len(value)) + value
        case str():
            text = value.encode()
            return _head(3, len(text)) + text
        case list():
            return _head(4, len(value)) + b"".join(encode(item) for item in value)


def _head(major: int, length: int) -> bytes:
    for extra, form, limit in ((-1, "", 24), (24, ">B", 1 << 8), (25, ">H", 1 << 16), (26, ">I", 1 << 32)):
        if length < limit:
            return bytes([major << 5 | (length if extra < 0 else extra)]) + (
                struct.pack(form, length) if form else b""
            )
    return bytes([major << 5 | 27]) + struct.pack(">Q", length)


class _Reader:
    """A cursor over one CBOR item; `items` bounds the work, not the bytes."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.position = 0
        self.items = 0

    def take(self, count: int) -> bytes:
        end = self.position + count
        if count < 0 or end > len(self.data):
            raise MalformedCborError("the record's CBOR is cut short")
        piece = self.data[self.position : end]
        self.position = end
        return piece

    def value(self, depth: int) -> Value:
        self.items += 1
        if depth > MAX_DEPTH or self.items > MAX_ITEMS:
            raise MalformedCborError("the record's CBOR is nested too deep or too long")
        initial = self.take(1)[0]
        major, detail = initial >> 5, initial & 31
        if major == 7:
            return self._simple(detail)
        if detail == 31:
            return self._indefinite(major, depth)
        argument = self._argument(detail)
        match major:
            case 0:
                return argument
            case 1:
                return -1 - argument
            case 2:
                return self.take(argument)
            case 3:
                return self.take(argument).decode()
            case 4:
                return [self.value(depth + 1) for _ in range(self._count(argument))]
            case 5:
                return self._map(depth, self._count(argument))
            case _:
                return Tag(argument, self.value(depth + 1))

    def _argument(self, detail: int) -> int:
        if detail < 24:
            return detail
        if detail > 27:
            raise MalformedCborError("the record's CBOR uses a reserved length")
        return int.from_bytes(self.take(1 << (detail - 24)), "big")

    def _count(self, argument: int) -> int:
        if argument > len(self.data) - self.position:
            raise MalformedCborError("the record's CBOR promises more items than it has bytes")
        return argument

    def _map(self, depth: int, count: int) -> dict[str | int | bytes, Value]:
        result: dict[str | int | bytes, Value] = {}
        for _ in range(count):
            self._pair(result, depth)
        return result

    def _pair(self, result: dict[str | int | bytes, Value], depth: int) -> None:
        key = self.value(depth + 1)
        if isinstance(key, bool) or not isinstance(key, str | int | bytes):
            raise MalformedCborError("a key in the record is neither text, number nor bytes")
        if key in result:
            raise MalformedCborError("a key in the record occurs twice")
        result[key] = self.value(depth + 1)

    def _indefinite(self, major: int, depth: int) -> Value:
        if major in (2, 3):
            return self._chunks(major, depth)
        if major == 4:
            items: list[Value] = []
            while not self._stop():
                items.append(self.value(depth + 1))
            return items
        if major == 5:
            result: dict[str | int | bytes, Value] = {}
            while not self._stop():
                self._pair(result, depth)
            return result
        raise MalformedCborError("the record's CBOR uses a reserved length")

    def _chunks(self, major: int, depth: int) -> bytes | str:
        pieces: list[bytes] = []
        while not self._stop():
            piece = self.value(depth + 1)
            if isinstance(piece, str) and major == 3:
                pieces.append(piece.encode())
            elif isinstance(piece, bytes) and major == 2:
                pieces.append(piece)
            else:
                raise MalformedCborError("a string in the record has chunks of another type")
        joined = b"".join(pieces)
        return joined if major == 2 else joined.decode()

    def _stop(self) -> bool:
        if self.position < len(self.data) and self.data[self.position] == 0xFF:
            self.position += 1
            return True
        return False

    def _simple(self, detail: int) -> Value:
        match detail:
            case 20:
                return False
            case 21:
                return True
            case 22 | 23:
                return None
            case 25:
                return float(struct.unpack(">e", self.take(2))[0])
            case 26:
                return float(struct.unpack(">f", self.take(4))[0])
            case 27:
                return float(struct.unpack(">d", self.take(8))[0])
            case _:
                raise MalformedCborError("the record's CBOR holds a value of no known type")
