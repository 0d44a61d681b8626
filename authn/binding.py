"""Whether the media is what the hard binding hashed, and what the hash leaves out.

The SDK computes the hashes; what a binding excludes is read from the signed
assertion by us, and every excluded byte must turn out to be the signed record
itself (C2PA 2.2, 9.2 and 15.12). Does not say who bound it.
"""

import base64
import binascii
import hashlib
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from authn import cbor, jumbf
from authn.container import check_whole
from authn.errors import MediaError
from authn.evidence import Code, Content, Finding
from authn.manifest import Reading
from authn.media import Kind, Media
from authn.plain import plain

MAX_UPDATES = 16
MAX_TOP_BOXES = 10_000

CONTENT_MISMATCHES = frozenset(
    f"assertion.{kind}.mismatch" for kind in ("dataHash", "bmffHash", "boxesHash", "collectionHash")
)
CONTENT_MATCHES = frozenset(code.replace("mismatch", "match") for code in CONTENT_MISMATCHES)

_C2PA_UUID = bytes.fromhex("d8fec3d61b0e483c92975828877ec481")
# Version and flags, the purpose, and no offset of Merkle data, which only fragmented files have.
_C2PA_PURPOSE = bytes(4) + b"manifest\0" + bytes(8)
_STRUCTURE_BOXES = frozenset({"/ftyp"})
_SKIPPED_BOXES = frozenset({"/free", "/skip", "/mfra"})
_GIF_HEAD = b"\x21\xff\x0bC2PA_GIF\x01\x00\x00"


def bound_manifest(
    reading: Reading, active: jumbf.ManifestBoxes, manifests: tuple[jumbf.ManifestBoxes, ...]
) -> jumbf.ManifestBoxes | None:
    """The manifest whose hard binding speaks for the media.

    An update manifest has none of its own and rests on its parent's (C2PA 2.2,
    11.2.3). None where no manifest has exactly one, or the parents go in circles.
    """
    boxes = {box.label: box for box in manifests}
    stated = {manifest.label: manifest for manifest in reading.manifests}
    current = active
    for _ in range(MAX_UPDATES):
        match len(_bindings(current)):
            case 0:
                ingredients = stated[current.label].ingredients if current.label in stated else ()
                parents = [item.manifest for item in ingredients if item.relationship == "parentOf"]
                if len(parents) != 1 or parents[0] not in boxes:
                    return None
                current = boxes[parents[0]]
            case 1:
                return current
            case _:
                return None
    return None


def check_binding(
    media: Media, reading: Reading, bound: jumbf.ManifestBoxes | None
) -> tuple[Content, list[Finding]]:
    """State and findings of the hard binding in `bound`."""
    # A match counts only for the binding of this very manifest, not for an ingredient's.
    matched = bound is not None and any(
        status.code in CONTENT_MATCHES and f"/{bound.label}/" in status.url for status in reading.passes
    )
    refused = any(status.code in CONTENT_MISMATCHES for status in reading.failures)
    if bound is None or not matched:
        return (Content.CHANGED if refused else Content.NOT_BOUND), [
            Finding.fails(
                Code.CONTENT_MATCHES,
                "the media is not what was signed: its hash differs"
                if refused
                else "no hash binds the signed record to the media",
            )
        ]
    gaps = tuple(_gaps(media, reading, bound))
    if refused and not gaps:
        # Both at once: the hash holds, over a range that the SDK finds is not the record's place.
        gaps = ("a range that is not the record's place",)
    return (Content.PARTLY_COVERED if gaps else Content.INTACT), [
        Finding.holds(Code.CONTENT_MATCHES, "the media matches the hash that was signed"),
        Finding.fails(Code.CONTENT_COVERED, f"a part of the file was left out of the hash: {'; '.join(gaps)}")
        if gaps
        else Finding.holds(
            Code.CONTENT_COVERED,
            f"the hash leaves out nothing but the signed record's own place{_skipped(media, bound)}",
        ),
    ]


def binding_hash(bound: jumbf.ManifestBoxes | None) -> bytes:
    """The hash a hard binding states; of a binding that states several, the hash of them all."""
    if bound is None:
        return hashlib.sha256(b"").digest()
    (assertion,) = _bindings(bound)
    stated = (_body(assertion) or {}).get("hash")
    return (
        stated
        if isinstance(stated, bytes) and len(stated) == 32
        else hashlib.sha256(assertion.content).digest()
    )


def unjudged(media: Media, reading: Reading, bound: jumbf.ManifestBoxes | None) -> int:
    """How many manifests the file holds besides those that belong to the active one's history."""
    if bound is None:
        return 0
    for record in _records(media, reading, bound):
        if record != reading.store and _holds(record, reading.store):
            return len(set(jumbf.manifests_of(record)) - set(jumbf.manifests_of(reading.store)))
    return 0


def _records(media: Media, reading: Reading, bound: jumbf.ManifestBoxes) -> Iterator[bytes]:
    """What stands in the file where the binding says that the record stands."""
    (assertion,) = _bindings(bound)
    if assertion.label.startswith("c2pa.hash.data"):
        for start, length in _ranges(_items((_body(assertion) or {}).get("exclusions"))):
            yield _record_at(media, start, length + 2 * len(reading.store))[0]
    elif assertion.label.startswith("c2pa.hash.bmff"):
        for box in _top_boxes(media):
            if box.kind == b"uuid" and box.head == _C2PA_UUID:
                yield _in_uuid(media, box)


def _bindings(manifest: jumbf.ManifestBoxes) -> list[jumbf.Assertion]:
    return [assertion for assertion in manifest.assertions if assertion.label.startswith("c2pa.hash.")]


def _body(assertion: jumbf.Assertion) -> dict[str | int | bytes, cbor.Value] | None:
    try:
        body = cbor.decode(assertion.content) if assertion.type == b"cbor" else None
    except MediaError:
        return None
    return body if isinstance(body, dict) else None


def _items(value: cbor.Value) -> list[dict[str | int | bytes, cbor.Value]]:
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def _gaps(media: Media, reading: Reading, bound: jumbf.ManifestBoxes) -> Iterable[str]:
    """What a hard binding leaves open beyond the record's own bytes (C2PA 2.2, 9.2)."""
    (assertion,) = _bindings(bound)
    body = _body(assertion)
    if body is None:
        return ("what, cannot be read",)
    match assertion.label.split(".")[2]:
        case "data":
            return _range_gaps(media, reading, _items(body.get("exclusions")))
        case "bmff":
            return _box_gaps(media, reading, _items(body.get("exclusions")))
        case "boxes":
            return _part_gaps(media, _items(body.get("boxes")))
        case _:
            return ("everything that this kind of binding does not reach",)


# --- c2pa.hash.data: byte ranges


def _range_gaps(
    media: Media, reading: Reading, exclusions: list[dict[str | int | bytes, cbor.Value]]
) -> Iterator[str]:
    # A range may be shorter than the record: an update makes the record longer than its parent knew.
    for start, length in _ranges(exclusions):
        if length == 4 and media.kind in (Kind.TIFF, Kind.DNG) and start + 4 <= media.size:
            count = media.read(start, 4)
            if len(reading.store) in (int.from_bytes(count, "little"), int.from_bytes(count, "big")):
                continue  # the length of the record in the directory entry that points to it
        record, framed = _record_at(media, start, length + 2 * len(reading.store))
        if not _holds(record, reading.store):
            yield f"{length} bytes at {start} that are not the record itself"
        elif length > framed:
            yield f"{length} bytes at {start}, where the record has {framed}"


def _ranges(exclusions: list[dict[str | int | bytes, cbor.Value]]) -> list[tuple[int, int]]:
    """The ranges in order, those that touch joined; a range that is none is one of everything."""
    found: list[tuple[int, int]] = []
    for item in exclusions:
        start, length = item.get("start"), item.get("length")
        if not isinstance(start, int) or not isinstance(length, int) or start < 0 or length < 0:
            return [(0, 1 << 62)]
        if length:
            found.append((start, length))
    joined: list[tuple[int, int]] = []
    for start, length in sorted(found):
        if joined and sum(joined[-1]) >= start:
            first, before = joined.pop()
            joined.append((first, max(before, start + length - first)))
        else:
            joined.append((start, length))
    return joined


def _record_at(media: Media, start: int, reach: int) -> tuple[bytes, int]:
    """The record whose frames begin at `start`, and how long it is with them; empty if there is none."""
    if start >= media.size:
        return b"", 0
    data = media.read(start, min(reach + 4096, 2 * jumbf.MAX_STORE, media.size - start))
    match media.kind:
        case Kind.JPEG:
            return _in_segments(data)
        case Kind.PNG:
            return _in_chunk(data)
        case Kind.WEBP | Kind.WAV | Kind.AVI:
            return _in_riff(data)
        case Kind.GIF:
            return _in_blocks(data)
        case Kind.SVG:
            return _in_base64(data)
        case _:
            return data[: _size(data)], _size(data)


def _holds(record: bytes, store: bytes) -> bool:
    """Whether the record is the store that was judged; the SDK leaves out manifests that nothing names."""
    if record == store:
        return True
    try:
        there, judged = jumbf.manifests_of(record), jumbf.manifests_of(store)
    except MediaError:
        return False
    description = slice(8, 8 + int.from_bytes(store[8:12], "big"))
    return (
        record[description] == store[description] and set(judged) <= set(there) and there[-1:] == judged[-1:]
    )


def _size(record: bytes | bytearray) -> int:
    """How long the superbox that begins here says it is."""
    return int.from_bytes(record[:4], "big")


def _in_segments(data: bytes) -> tuple[bytes, int]:
    """JPEG XT boxes (ISO/IEC 18477-3, Annex B): numbered APP11 segments, each repeating the box's head."""
    record, position, number = bytearray(), 0, 1
    while number == 1 or len(record) < _size(record):
        if position + 20 > len(data):
            break
        marker, length, common, _, sequence = struct.unpack_from(">HH2sHI", data, position)
        payload = data[position + 12 : position + 2 + length]
        if (
            (marker, common, sequence) != (0xFFEB, b"JP", number)
            or length < 18
            or len(payload) != length - 10
        ):
            break
        if number > 1 and payload[:8] != record[:8]:
            break
        record += payload if number == 1 else payload[8:]
        position, number = position + 2 + length, number + 1
    # Space that was reserved for a longer record may be left over, and must be empty.
    return bytes(record[: _size(record)] if not any(record[_size(record) :]) else b""), position


def _in_chunk(data: bytes) -> tuple[bytes, int]:
    length = int.from_bytes(data[:4], "big")
    right = data[4:8] == b"caBX" and data[8 + length : 12 + length] == struct.pack(
        ">I", binascii.crc32(data[4 : 8 + length])
    )
    return (data[8 : 8 + length] if right else b""), 12 + length


def _in_riff(data: bytes) -> tuple[bytes, int]:
    length = int.from_bytes(data[4:8], "little")
    padding = data[8 + length : 8 + length + length % 2]
    right = data[:4] == b"C2PA" and len(data) >= 8 + length and not any(padding)
    return (data[8 : 8 + length] if right else b""), 8 + length + length % 2


def _in_blocks(data: bytes) -> tuple[bytes, int]:
    record, position = bytearray(), len(_GIF_HEAD)
    if not data.startswith(_GIF_HEAD):
        return b"", 0
    while position < len(data) and (length := data[position]):
        record += data[position + 1 : position + 1 + length]
        position += 1 + length
    return (bytes(record) if position < len(data) else b""), position + 1


def _in_base64(data: bytes) -> tuple[bytes, int]:
    try:
        length = (_size(base64.b64decode(data[:8], validate=True)) + 2) // 3 * 4
        record = base64.b64decode(data[:length], validate=True)
    except binascii.Error:
        return b"", 0
    return (record if base64.b64encode(record) == data[:length] else b""), length


# --- c2pa.hash.bmff: whole boxes


def _box_gaps(
    media: Media, reading: Reading, exclusions: list[dict[str | int | bytes, cbor.Value]]
) -> Iterator[str]:
    for item in exclusions:
        path = item.get("xpath")
        own = path == "/uuid" and any(
            part.get("offset") == 8 and part.get("value") == _C2PA_UUID for part in _items(item.get("data"))
        )
        if not own and path not in _STRUCTURE_BOXES | _SKIPPED_BOXES:
            yield f"boxes {plain(str(path), 40)}"
    boxes = list(_top_boxes(media))
    types = [box for box in boxes if box.kind == b"ftyp"]
    if len(types) != 1 or boxes[0].kind != b"ftyp":
        yield f"{sum(box.length for box in types[1:])} bytes in boxes that pass for the file's type"
    places = [box for box in boxes if box.kind == b"uuid" and box.head == _C2PA_UUID]
    if len(places) > 1:
        yield f"{len(places) - 1} more boxes that pass for a signed record"
    for box in places[:1] if reading.embedded else ():
        if not _holds(_in_uuid(media, box), reading.store):
            yield f"{box.length} bytes in the record's box that are not the record itself"
    if len(boxes) == MAX_TOP_BOXES:
        yield f"what follows after {MAX_TOP_BOXES} boxes"


def _in_uuid(media: Media, box: "_Box") -> bytes:
    """The record in a C2PA box that holds nothing besides (C2PA 2.2, A.5.1); empty if there is none."""
    start = box.payload + len(_C2PA_UUID)
    length = box.start + box.length - start
    if not len(_C2PA_PURPOSE) < length <= len(_C2PA_PURPOSE) + jumbf.MAX_STORE:
        return b""
    data = media.read(start, length)
    record = data[len(_C2PA_PURPOSE) :]
    return record if data.startswith(_C2PA_PURPOSE) and len(record) == _size(record) else b""


def _skipped(media: Media, bound: jumbf.ManifestBoxes) -> str:
    (assertion,) = _bindings(bound)
    if not assertion.label.startswith("c2pa.hash.bmff"):
        return ""
    excluded = {item.get("xpath") for item in _items((_body(assertion) or {}).get("exclusions"))}
    skipped = {path[1:].encode() for path in _SKIPPED_BOXES & excluded}
    size = sum(box.length for box in _top_boxes(media) if box.kind in skipped)
    named = ", the box that names the file's type" if "/ftyp" in excluded else ""
    return named + (f", and {size} bytes in boxes that every player skips" if size else "")


@dataclass(frozen=True, slots=True)
class _Box:
    """A box on the top level: where it starts, where its payload starts, and the first bytes of that."""

    kind: bytes
    start: int
    length: int
    payload: int
    head: bytes


def _top_boxes(media: Media) -> Iterator[_Box]:
    """Every box on the top level (ISO/IEC 14496-12, 4.2)."""
    position = 0
    for _ in range(MAX_TOP_BOXES):
        if position + 8 > media.size:
            return
        head = media.read(position, min(32, media.size - position))
        length, kind = struct.unpack_from(">I4s", head)
        offset = 8
        if length == 1 and len(head) >= 16:
            (length,), offset = struct.unpack_from(">Q", head, 8), 16
        if length == 0:
            length = media.size - position
        if length < offset or position + length > media.size:
            return
        yield _Box(kind, position, length, position + offset, head[offset : offset + 16])
        position += length


# --- c2pa.hash.boxes: named parts


def _part_gaps(media: Media, parts: list[dict[str | int | bytes, cbor.Value]]) -> Iterator[str]:
    own = 0
    for part in parts:
        names, stated = part.get("names"), part.get("hash")
        if names == ["C2PA"]:
            own += 1
        elif part.get("excluded") or not isinstance(stated, bytes) or len(stated) < 32:
            yield f"parts {plain(str(names), 60)}"
    if own != 1:
        yield "parts that pass for a signed record"
    try:
        check_whole(media)
    except MediaError as error:
        yield str(error)
