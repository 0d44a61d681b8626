"""Change bytes as an attacker would: inside the structure, keeping every length around the change right.

A random byte in a nested format mostly breaks a length, and the outermost parser
refuses what the inner ones should have met. So each format here is read into a
tree, one node is changed, and the tree is written again with right lengths; raw
changes follow now and then, so that wrong lengths come up too.
Readers here are lenient and share no code with what is under test.
"""

import binascii
import json
import random
import re
import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import brotli

MAX_DEPTH = 24
MAX_NODES = 4000

Change = Callable[[bytes, random.Random, Sequence[bytes]], bytes]


@dataclass(slots=True)
class Node:
    """One element: `head` names it, and it holds either `body` or `children`."""

    head: bytes
    body: bytes = b""
    children: "list[Node]" = field(default_factory=list)

    def below(self) -> "Iterator[tuple[Node, Node]]":
        """Every node under this one, with its parent."""
        for child in self.children:
            yield self, child
            yield from child.below()

    def copy(self) -> "Node":
        return Node(self.head, self.body, [child.copy() for child in self.children])


class NotThisFormatError(ValueError):
    """The bytes are not of the format, as far as even a lenient reader goes."""


# --- Raw bytes

_NUMBERS = (0, 1, 2, 7, 8, 15, 16, 127, 128, 255, 256, 32767, 32768, 65535, 65536)
_LARGE = (*_NUMBERS, (1 << 31) - 1, 1 << 31, (1 << 32) - 1, 1 << 32, (1 << 63) - 1, 1 << 63, (1 << 64) - 1)


def raw(data: bytes, rng: random.Random, others: Sequence[bytes]) -> bytes:
    """One change that knows no structure."""
    if not data:
        return bytes(rng.randrange(256) for _ in range(rng.randrange(1, 20)))
    out, at = bytearray(data), rng.randrange(len(data))
    span = slice(at, at + rng.choice((1, 2, 4, 8, 40, 400, len(data))))
    match rng.randrange(9):
        case 0:
            out[at] ^= 1 << rng.randrange(8)
        case 1:
            out[at] = rng.choice((0, 1, 0x7F, 0x80, 0xFF, rng.randrange(256)))
        case 2:
            width = rng.choice((2, 4, 8))
            number = (rng.choice(_LARGE) + rng.choice((0, 0, -1, 1))) % (1 << 8 * width)
            out[at : at + width] = number.to_bytes(width, rng.choice(("big", "little")))
        case 3:
            del out[span]
        case 4:
            out[at:at] = out[span] * rng.choice((1, 1, 2, 20))
        case 5:
            del out[at:]
        case 6:
            out[at:at] = bytes(rng.randrange(256) for _ in range(rng.choice((1, 2, 4, 16))))
        case 7:
            other = rng.choice(others) if others else data
            start = rng.randrange(len(other)) if other else 0
            out[at:] = other[start:]
        case _:
            out += rng.choice((b"\0", b"\xff", bytes(16), data[:64]))
    return bytes(out)


# --- Trees


@dataclass(frozen=True, slots=True)
class Format:
    """How a tree is read and written, what its nodes may be called, and what a body may hold."""

    read: Callable[[bytes], Node]
    write: Callable[[Node], bytes]
    heads: tuple[bytes, ...]
    hostile: tuple[bytes, ...]
    inner: Callable[[Node], tuple[Change, ...]]
    wrap: bytes


def in_tree(form: Format) -> Change:
    """A change of one node, with every length around it made right again."""

    def change(data: bytes, rng: random.Random, others: Sequence[bytes]) -> bytes:
        root = form.read(data)
        nodes = list(root.below())
        if not nodes:
            raise NotThisFormatError("nothing inside")
        if rng.randrange(11) < 3:
            leaves = [node for _, node in nodes if not node.children] or [nodes[-1][1]]
            leaf = rng.choice(leaves)
            inside = rng.choice((*form.inner(leaf), raw))
            leaf.body, leaf.children = changed(inside, leaf.body, rng, ()), []
        else:
            _rearrange(form, nodes, rng, others)
        return form.write(root)

    return change


def _rearrange(
    form: Format, nodes: list[tuple[Node, Node]], rng: random.Random, others: Sequence[bytes]
) -> None:
    parent, node = rng.choice(nodes)
    siblings = parent.children
    place = next(index for index, child in enumerate(siblings) if child is node)
    match rng.randrange(8):
        case 0:
            siblings[place] = form.read(rng.choice(form.hostile)).children[0]
        case 1:
            siblings[place] = rng.choice(nodes)[1].copy()
        case 2:
            del siblings[place]
        case 3:
            siblings[place:place] = [node.copy() for _ in range(rng.choice((1, 1, 1, 2, 300)))]
        case 4:
            other = rng.randrange(len(siblings))
            siblings[place], siblings[other] = siblings[other], siblings[place]
        case 5:
            node.head = rng.choice((*form.heads, rng.choice(nodes)[1].head))
        case 6:
            for _ in range(rng.choice((1, 2, 15, 16, 17, 64, 200))):
                siblings[place] = Node(form.wrap, b"", [siblings[place]])
        case _:
            siblings[place] = _of_another(form, rng, others) or node


def _of_another(form: Format, rng: random.Random, others: Sequence[bytes]) -> Node | None:
    try:
        nodes = list(form.read(rng.choice(others)).below()) if others else []
    except NotThisFormatError:
        return None
    return rng.choice(nodes)[1] if nodes else None


def changed(change: Change, data: bytes, rng: random.Random, others: Sequence[bytes]) -> bytes:
    """What `change` makes of `data`, or a raw change where the data is not of its format."""
    try:
        return change(data, rng, others)
    except (NotThisFormatError, RecursionError):
        return raw(data, rng, others)


class _Cursor:
    """Reads forward, and gives up on too much."""

    def __init__(self, data: bytes) -> None:
        self.data, self.at, self.nodes = data, 0, 0

    def take(self, count: int) -> bytes:
        if count > len(self.data) - self.at:
            raise NotThisFormatError("cut short")
        self.at += count
        return self.data[self.at - count : self.at]

    def count(self, depth: int) -> None:
        self.nodes += 1
        if depth > MAX_DEPTH or self.nodes > MAX_NODES:
            raise NotThisFormatError("too much")


def _whole(data: bytes, read: Callable[[_Cursor, int], Node]) -> Node:
    cursor = _Cursor(data)
    root = Node(b"")
    while cursor.at < len(data):
        root.children.append(read(cursor, 0))
    return root


# --- CBOR (RFC 8949)


def _read_cbor(cursor: _Cursor, depth: int) -> Node:
    cursor.count(depth)
    initial = cursor.take(1)[0]
    major, detail = initial >> 5, initial & 31
    if detail > 27 or major == 7:
        width = {25: 2, 26: 4, 27: 8, 24: 1}.get(detail, 0)
        if major != 7:
            raise NotThisFormatError("an indefinite length is only changed raw")
        return Node(bytes([initial]), cursor.take(width))
    argument = detail if detail < 24 else int.from_bytes(cursor.take(1 << detail - 24), "big")
    match major:
        case 0 | 1:
            return Node(bytes([major << 5]), argument.to_bytes(8, "big"))
        case 2 | 3:
            return Node(bytes([major << 5]), cursor.take(argument))
        case 4 | 5:
            items = min(argument * (major - 3), MAX_NODES + 1)
            return Node(bytes([major << 5]), b"", [_read_cbor(cursor, depth + 1) for _ in range(items)])
        case _:
            return Node(
                bytes([major << 5]) + argument.to_bytes(8, "big"), b"", [_read_cbor(cursor, depth + 1)]
            )


def _write_cbor(node: Node) -> bytes:
    if not node.head:
        return b"".join(map(_write_cbor, node.children))
    major = node.head[0] >> 5
    match major:
        case 0 | 1:
            return _cbor_head(major, int.from_bytes(node.body[:8], "big"))
        case 2 | 3:
            return _cbor_head(major, len(node.body)) + node.body
        case 4 | 5:
            content = b"".join(map(_write_cbor, node.children))
            return _cbor_head(major, len(node.children) // (major - 3)) + content
        case 6:
            return _cbor_head(6, int.from_bytes(node.head[1:], "big")) + b"".join(
                map(_write_cbor, node.children)
            )
        case _:
            return node.head + node.body


def _cbor_head(major: int, argument: int) -> bytes:
    if argument < 24:
        return bytes([major << 5 | argument])
    for detail, width in ((24, 1), (25, 2), (26, 4), (27, 8)):
        if argument < 1 << 8 * width:
            return bytes([major << 5 | detail]) + argument.to_bytes(width, "big")
    raise NotThisFormatError("a number over 64 bits")


_CBOR_HOSTILE = (
    b"\xa0",
    b"\x80",
    b"\x81\x01",
    b"\x81\x80",
    b"\xa1\x01\x02",
    b"\xf4",
    b"\xf5",
    b"\xf6",
    b"\xf9\x7e\x00",
    b"\xfb\x7f\xf0\0\0\0\0\0\0",
    b"\x00",
    b"\x20",
    b"\x1b\xff\xff\xff\xff\xff\xff\xff\xff",
    b"\x3b\xff\xff\xff\xff\xff\xff\xff\xff",
    b"\x1b\x7f\xff\xff\xff\xff\xff\xff\xff",
    b"\x40",
    b"\x60",
    b"\x58\x20" + bytes(32),
    b"\x66sha256",
    b"\x63md5",
    b"\x6aself#jumbf",
    b"\x63\xe2\x80\xae",
    b"\xc0\x60",
    b"\xd2\x81\x01",
    b"\xc1\xf9\x7c\x00",
)


def _in_cbor(node: Node) -> tuple[Change, ...]:
    if node.head == b"\x40" and len(node.body) > 2:
        return (cbor, der)
    return (text,) if node.head == b"\x60" else ()


CBOR = Format(
    lambda data: _whole(data, _read_cbor),
    _write_cbor,
    (b"\x00", b"\x20", b"\x40", b"\x60", b"\x80", b"\xa0", b"\xf6"),
    _CBOR_HOSTILE,
    _in_cbor,
    b"\x80",
)
cbor = in_tree(CBOR)


# --- DER (ITU-T X.690)


def _read_der(cursor: _Cursor, depth: int) -> Node:
    cursor.count(depth)
    tag, size = cursor.take(2)
    if size >= 0x80:
        size = int.from_bytes(cursor.take(size & 0x7F), "big")
    body = cursor.take(size)
    if tag & 0x20 or (tag in (0x03, 0x04) and len(body) > 2):
        prefix = body[:1] if tag == 0x03 else b""
        try:
            inner = _Cursor(body[len(prefix) :])
            children = []
            while inner.at < len(inner.data):
                children.append(_read_der(inner, depth + 1))
            return Node(bytes([tag]) + prefix, b"", children)
        except NotThisFormatError:
            pass
    return Node(bytes([tag]), body)


def _write_der(node: Node) -> bytes:
    content = b"".join(map(_write_der, node.children))
    if not node.head:
        return content
    return _der_element(node.head[0], node.head[1:] + (content if node.children else node.body))


def _der_element(tag: int, content: bytes) -> bytes:
    size = len(content)
    if size < 0x80:
        return bytes([tag, size]) + content
    length = size.to_bytes((size.bit_length() + 7) // 8, "big")
    return bytes([tag, 0x80 | len(length)]) + length + content


_DER_HOSTILE = (
    b"\x05\x00",
    b"\x30\x00",
    b"\x31\x00",
    b"\x02\x00",
    b"\x02\x01\x00",
    b"\x02\x01\xff",
    b"\x02\x09\x00" + b"\xff" * 8,
    b"\x02\x41\x01" + bytes(64),
    b"\x06\x00",
    b"\x06\x01\x80",
    b"\x06\x03\x88\x37\x03",
    b"\x06\x0b" + b"\xff" * 10 + b"\x7f",
    b"\x06\x09\x60\x86\x48\x01\x65\x03\x04\x02\x01",
    b"\x17\x0d500101000000Z",
    b"\x18\x0f99991231235959Z",
    b"\x18\x0f00000101000000Z",
    b"\x18\x1320200101000000.999Z",
    b"\x01\x01\xff",
    b"\x03\x01\x00",
    b"\x03\x02\x08\x00",
    b"\x04\x00",
    b"\x0c\x03\xe2\x80\xae",
    b"\x13\x01\xff",
    b"\x1e\x01A",
    b"\x16\x00",
    b"\xa0\x00",
    b"\x80\x01\x7f",
    b"\x86\x05\xff://x",
    b"\x87\x03\x01\x02\x03",
)

DER = Format(
    lambda data: _whole(data, _read_der),
    _write_der,
    tuple(
        bytes([tag]) for tag in (1, 2, 3, 4, 5, 6, 10, 12, 19, 22, 23, 24, 0x30, 0x31, 0x80, 0xA0, 0xA1, 0xA3)
    ),
    _DER_HOSTILE,
    lambda node: (text,) if node.head in (b"\x0c", b"\x13", b"\x16", b"\x17", b"\x18", b"\x86") else (),
    b"\x30",
)
der = in_tree(DER)


# --- Boxes: JUMBF (ISO/IEC 19566-5) and ISO base media files (ISO/IEC 14496-12)

_HOLDERS = frozenset(b"jumb moov trak mdia minf stbl moof traf mvex udta".split())
_C2PA_UUID = bytes.fromhex("d8fec3d61b0e483c92975828877ec481")


def _read_box(cursor: _Cursor, depth: int) -> Node:
    cursor.count(depth)
    length, kind = struct.unpack(">I4s", cursor.take(8))
    if length == 0:
        length = len(cursor.data) - cursor.at + 8
    if length < 8:
        raise NotThisFormatError("a long or broken box is only changed raw")
    return _boxed(kind, cursor.take(length - 8), depth)


def _boxed(kind: bytes, body: bytes, depth: int) -> Node:
    skipped = 0
    if kind == b"uuid" and body.startswith(_C2PA_UUID):
        skipped = 16 + 4 + 9 + 8
    elif kind == b"meta":
        skipped = 4
    elif kind not in _HOLDERS:
        return Node(kind, body)
    inner = _Cursor(body[skipped:])
    children = []
    try:
        while inner.at < len(inner.data):
            children.append(_read_box(inner, depth + 1))
    except NotThisFormatError:
        return Node(kind, body)
    return Node(kind + body[:skipped], b"", children)


def _write_box(node: Node) -> bytes:
    if not node.head:
        return b"".join(map(_write_box, node.children))
    content = node.head[4:] + (b"".join(map(_write_box, node.children)) if node.children else node.body)
    return struct.pack(">I", (8 + len(content)) % (1 << 32)) + node.head[:4] + content


_BOX_HOSTILE = (
    b"\0\0\0\x08jumb",
    b"\0\0\0\x08free",
    b"\0\0\0\x08brob",
    b"\0\0\0\x09cbor\xf6",
    b"\0\0\0\x09cbor\xa0",
    b"\0\0\0\x0ccbor\x81\x81\x81\x01",
    b"\0\0\0\x19jumd" + bytes(17),
    b"\0\0\0\x1ejumd" + bytes(16) + b"\x03c2pa\0",
    b"\0\0\0\x0ajson{}",
    b"\0\0\0\x10ftypisom\0\0\0\0",
    b"\0\0\0\x18uuid" + _C2PA_UUID,
)


def _in_box(node: Node) -> tuple[Change, ...]:
    inner: dict[bytes, tuple[Change, ...]] = {
        b"cbor": (cbor, cbor, cbor),
        b"json": (text,),
        b"brob": (_compressed,),
        b"jumd": (text, raw),
    }
    return inner.get(node.head[:4], ())


def _compressed(data: bytes, rng: random.Random, others: Sequence[bytes]) -> bytes:
    try:
        opened: bytes = brotli.decompress(data)
    except brotli.error as error:
        raise NotThisFormatError("not Brotli") from error
    packed: bytes = brotli.compress(changed(boxes, opened, rng, others), quality=1)
    return packed


BOXES = Format(
    lambda data: _whole(data, _read_box),
    _write_box,
    (
        b"jumb",
        b"jumd",
        b"cbor",
        b"json",
        b"brob",
        b"uuid",
        b"free",
        b"ftyp",
        b"mdat",
        b"moov",
        b"meta",
        b"iloc",
    ),
    _BOX_HOSTILE,
    _in_box,
    b"jumb",
)
boxes = in_tree(BOXES)


# --- Media: the record inside, or the container around it


def media(data: bytes, rng: random.Random, others: Sequence[bytes]) -> bytes:
    """A change of the record in a file, framed again as it was, or of the file's own structure."""
    if data.startswith(b"\xff\xd8"):
        return _jpeg(data, rng, others)
    if data.startswith(b"\x89PNG"):
        return _png(data, rng)
    if data.startswith((b"RIFF", b"RIFX")):
        return _riff(data, rng)
    if data[4:8] == b"ftyp":
        return boxes(data, rng, others)
    if data[:1] == b"<" or data.startswith(b"%PDF"):
        return text(data, rng, others)
    return raw(data, rng, others)


def _jpeg(data: bytes, rng: random.Random, others: Sequence[bytes]) -> bytes:
    pieces, at = [], 2
    while data[at : at + 1] == b"\xff" and at + 4 <= len(data):
        length = struct.unpack_from(">H", data, at + 2)[0]
        pieces.append(data[at : at + 2 + length])
        at += 2 + length
        if pieces[-1][1] == 0xDA:
            break
    own = [index for index, piece in enumerate(pieces) if piece[:2] == b"\xff\xeb" and piece[4:6] == b"JP"]
    if own and rng.randrange(4):
        head = pieces[own[0]][12:20]
        record = head + b"".join(pieces[index][20:] for index in own)
        stored = [_record(other) for other in others]
        record = changed(boxes, record, rng, [other for other in stored if other])
        pieces[own[0] : own[-1] + 1] = list(_segments(record))
    elif pieces:
        index = rng.randrange(len(pieces))
        match rng.randrange(4):
            case 0:
                del pieces[index]
            case 1:
                pieces.insert(rng.randrange(len(pieces)), pieces[index])
            case 2:
                body = raw(pieces[index][4:], rng, ())[:65_000]
                pieces[index] = pieces[index][:2] + struct.pack(">H", len(body) + 2) + body
            case _:
                return raw(data, rng, others)
    return data[:2] + b"".join(pieces) + data[at:]


def _record(jpeg: bytes) -> bytes:
    at = jpeg.find(b"\xff\xeb")
    return (
        jpeg[at + 12 : at + 2 + struct.unpack_from(">H", jpeg, at + 2)[0]] if 0 <= at < len(jpeg) - 4 else b""
    )


def _segments(record: bytes) -> Iterator[bytes]:
    for number, at in enumerate(range(8, max(len(record), 9), 60_000), 1):
        body = b"JP" + struct.pack(">HI", 1, number) + record[:8] + record[at : at + 60_000]
        yield b"\xff\xeb" + struct.pack(">H", 2 + len(body)) + body


def _png(data: bytes, rng: random.Random) -> bytes:
    chunks, at = [], 8
    while at + 12 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, at)
        chunks.append((kind, data[at + 8 : at + 8 + length]))
        at += 12 + length
    if not chunks:
        raise NotThisFormatError("no chunk")
    own = next((index for index, (kind, _) in enumerate(chunks) if kind == b"caBX"), None)
    index = own if own is not None and rng.randrange(3) else rng.randrange(len(chunks))
    kind, body = chunks[index]
    match rng.randrange(5):
        case 0:
            chunks.insert(rng.randrange(len(chunks)), (kind, body))
        case 1:
            del chunks[index]
        case _:
            chunks[index] = kind, changed(boxes if kind == b"caBX" else raw, body, rng, ())
    return data[:8] + b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", binascii.crc32(kind + body))
        for kind, body in chunks
    )


def _riff(data: bytes, rng: random.Random) -> bytes:
    chunks, at = [], 12
    while at + 8 <= len(data):
        length = struct.unpack_from("<I", data, at + 4)[0]
        chunks.append((data[at : at + 4], data[at + 8 : at + 8 + length]))
        at += 8 + length + length % 2
    if not chunks:
        raise NotThisFormatError("no chunk")
    index = rng.randrange(len(chunks))
    kind, body = chunks[index]
    match rng.randrange(5):
        case 0:
            chunks.insert(rng.randrange(len(chunks)), (kind, body))
        case 1:
            del chunks[index]
        case _:
            chunks[index] = kind, changed(boxes if kind == b"C2PA" else raw, body, rng, ())
    content = data[8:12] + b"".join(
        kind + struct.pack("<I", len(body)) + body + bytes(len(body) % 2) for kind, body in chunks
    )
    return data[:4] + struct.pack("<I", len(content)) + content


# --- Text: lines, numbers, base64, JSON

_TOKEN = re.compile(rb"[0-9]+|[A-Za-z0-9+/=]{8,}|\w+|\s|.", re.DOTALL)
_WORDS = (
    b"",
    b"\n",
    b"\n\n",
    b" ",
    b"\r\n",
    b"\0",
    b"0",
    b"-1",
    b"00",
    b"+1",
    b"1_0",
    b"9223372036854775807",
    b"9223372036854775808",
    b"1e400",
    b"9" * 5000,
    b"NaN",
    b"null",
    b"true",
    b"[]",
    b"{}",
    b'"',
    b"\\ud800",
    b"\\u0000",
    b"\xe2\x80\xa8",
    b"\xe2\x80\xae",
    b"\xed\xa0\x80",
    b"\xff",
    b"\xd9\xa1",
    b"\xe2\x80\x94 ",
    b"+",
    b"=",
    b"====",
    b"[" * 3000,
    b"<!ENTITY a 'b'>",
    b"startxref",
)


def text(data: bytes, rng: random.Random, others: Sequence[bytes]) -> bytes:
    """A change of one word, line or JSON value."""
    if data[:1] == b"{" and rng.randrange(2):
        try:
            return _json(data, rng)
        except (ValueError, RecursionError):
            pass
    words = _TOKEN.findall(data[:20_000])
    if not words:
        return rng.choice(_WORDS)
    at, other = rng.randrange(len(words)), rng.randrange(len(words))
    match rng.randrange(6):
        case 0:
            words[at] = rng.choice(_WORDS)
        case 1:
            words.insert(at, rng.choice(_WORDS))
        case 2:
            words[at], words[other] = words[other], words[at]
        case 3:
            words[at:at] = words[min(at, other) : max(at, other)][:200] * rng.choice((1, 1, 2, 30))
        case 4:
            del words[at : at + rng.choice((1, 2, 10))]
        case _:
            return raw(data, rng, others)
    return b"".join(words) + data[20_000:]


def _json(data: bytes, rng: random.Random) -> bytes:
    document = json.loads(data)
    places: list[tuple[dict[str, object] | list[object], str | int]] = []
    waiting = [document]
    while waiting:
        holder = waiting.pop()
        if isinstance(holder, dict):
            places += [(holder, key) for key in holder]
            waiting += holder.values()
        elif isinstance(holder, list):
            places += [(holder, index) for index in range(len(holder))]
            waiting += holder
    if not places:
        raise NotThisFormatError("no value")
    holder, key = rng.choice(places)
    value = holder[key]  # type: ignore[index]
    hostile: list[object] = [
        None,
        True,
        0,
        -1,
        1 << 53,
        1 << 70,
        0.5,
        "",
        [],
        {},
        [value],
        {"a": value},
        "\ud800",
        "a\nb",
    ]
    if isinstance(value, str):
        inner = text(value.encode("utf-8", "surrogatepass"), rng, ())
        hostile += [inner.decode("utf-8", "surrogateescape")] * 14
    if isinstance(value, int):
        hostile += [value + 1, -value, value << 8]
    if isinstance(holder, dict) and not rng.randrange(4):
        holder["extra"] = rng.choice(hostile)
    else:
        holder[key] = rng.choice(hostile)  # type: ignore[index]
    if b"\n" in data:
        return (json.dumps(document, indent=2, sort_keys=True) + "\n").encode()
    return json.dumps(document, separators=(",", ":"), sort_keys=True).encode()


SHAPES: dict[str, Change] = {
    "raw": raw,
    "cbor": cbor,
    "der": der,
    "boxes": boxes,
    "media": media,
    "text": text,
}


def mutate(data: bytes, rng: random.Random, shape: str, others: Sequence[bytes]) -> bytes:
    """One to four changes in a row, most of them inside the structure."""
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        data = changed(SHAPES[shape] if rng.randrange(5) else raw, data, rng, others)
    return data
