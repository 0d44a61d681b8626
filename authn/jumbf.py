"""Read a C2PA manifest store box by box (ISO/IEC 19566-5; C2PA 2.2, section 11).

This is our own look at what the SDK judged: the claim, its signature and its
assertions, as bytes. Nothing is verified here. Sizes, depth and the number of
boxes have limits, and a label that occurs twice is refused, since two readers
could disagree about which of the two counts.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass

import brotli

from authn.errors import MediaError

MAX_STORE = 32 << 20
MAX_BOXES = 50_000
MAX_DEPTH = 16

_SUPERBOX, _DESCRIPTION, _BROTLI = b"jumb", b"jumd", b"brob"
_CLAIM_LABELS = ("c2pa.claim.v2", "c2pa.claim")


class MalformedStoreError(MediaError):
    """The signed record cannot be taken apart."""

    code = "manifest-malformed"
    remedy = "Ask for the original file; its signed record is damaged."


@dataclass(frozen=True, slots=True)
class Assertion:
    """One assertion's content, as the signer wrote it."""

    label: str
    type: bytes
    content: bytes
    box: bytes
    """Everything a hashed URI covers: the superbox without its own head (C2PA 2.2, 8.4.2)."""
    file: bytes = b""
    """The embedded file, where the assertion is one (ISO/IEC 19566-5, B.5)."""


@dataclass(frozen=True, slots=True)
class ManifestBoxes:
    """One manifest, taken apart. Unverified."""

    label: str
    claim: bytes
    claim_label: str
    signature: bytes
    assertions: tuple[Assertion, ...]

    def embedded(self, label: str, limit: int) -> bytes | None:
        """The file that the assertion `label` embeds, if there is one of at most `limit` bytes."""
        for assertion in self.assertions:
            if assertion.label == label and assertion.type == b"bfdb":
                return assertion.file if 0 < len(assertion.file) <= limit else None
        return None


def parse(store: bytes) -> tuple[ManifestBoxes, ...]:
    """Take a manifest store apart; the active manifest is the last one."""
    if len(store) > MAX_STORE:
        raise MalformedStoreError("the signed record is larger than 32 MiB")
    budget = _Budget()
    root = budget.superbox(budget.only(store), 0)
    if root.label != "c2pa" or not root.children:
        raise MalformedStoreError("the signed record is not a manifest store")
    return tuple(_manifest(child) for child in root.children)


def manifests_of(store: bytes) -> tuple[bytes, ...]:
    """The content of each manifest box of a store, as it stands there."""
    budget = _Budget()
    return tuple(content for kind, content in budget.boxes(budget.only(store)) if kind == _SUPERBOX)


def _manifest(box: "_Superbox") -> ManifestBoxes:
    claims = [child for child in box.children if child.label in _CLAIM_LABELS]
    signature, assertions = box.child("c2pa.signature"), box.child("c2pa.assertions")
    if len(claims) != 1 or signature is None or assertions is None:
        raise MalformedStoreError("a manifest lacks its one claim, its signature or its assertions")
    return ManifestBoxes(
        box.label,
        claims[0].payload(b"cbor"),
        claims[0].label,
        signature.payload(b"cbor"),
        tuple(
            Assertion(child.label, *child.first, child.content, child.file) for child in assertions.children
        ),
    )


@dataclass(frozen=True, slots=True)
class _Superbox:
    label: str
    children: "tuple[_Superbox, ...]"
    leaves: tuple[tuple[bytes, bytes], ...]
    content: bytes

    def child(self, label: str) -> "_Superbox | None":
        return next((child for child in self.children if child.label == label), None)

    @property
    def first(self) -> tuple[bytes, bytes]:
        return self.leaves[0] if self.leaves else (b"", b"")

    @property
    def file(self) -> bytes:
        return next((content for kind, content in self.leaves if kind == b"bidb"), b"")

    def payload(self, kind: bytes) -> bytes:
        found = [content for type_, content in self.leaves if type_ == kind]
        if len(found) != 1:
            raise MalformedStoreError("a claim or signature box does not hold exactly one CBOR value")
        return found[0]


class _Budget:
    """Bounds the number of boxes, and of unpacked bytes, over one whole store."""

    def __init__(self) -> None:
        self.left = MAX_BOXES
        self.unpacked = 0

    def only(self, data: bytes) -> bytes:
        """The content of the one superbox that `data` is."""
        found = tuple(self.boxes(data))
        if len(found) != 1 or found[0][0] != _SUPERBOX:
            raise MalformedStoreError("the signed record is not one manifest store")
        return found[0][1]

    def boxes(self, data: bytes) -> Iterator[tuple[bytes, bytes]]:
        position = 0
        while position < len(data):
            self.left -= 1
            if self.left < 0:
                raise MalformedStoreError("the signed record holds too many boxes")
            if position + 8 > len(data):
                raise MalformedStoreError("a box of the signed record is cut short")
            length, kind = struct.unpack_from(">I4s", data, position)
            header = 8
            if length == 1:
                if position + 16 > len(data):
                    raise MalformedStoreError("a box of the signed record is cut short")
                (length,) = struct.unpack_from(">Q", data, position + 8)
                header = 16
            elif length == 0:
                length = len(data) - position
            if length < header or position + length > len(data):
                raise MalformedStoreError("a box of the signed record is cut short")
            yield kind, data[position + header : position + length]
            position += length

    def superbox(self, content: bytes, depth: int) -> _Superbox:
        if depth > MAX_DEPTH:
            raise MalformedStoreError("the signed record is nested too deep")
        label: str | None = None
        children: list[_Superbox] = []
        leaves: list[tuple[bytes, bytes]] = []
        boxes = tuple(self.boxes(content))
        if [kind for kind, _ in boxes] == [_DESCRIPTION, _BROTLI]:
            return self._inflated(_label(boxes[0][1]), boxes[1][1], depth)
        for kind, body in boxes:
            if kind == _DESCRIPTION and label is None:
                label = _label(body)
            elif label is None:
                raise MalformedStoreError("a box of the signed record has no description")
            elif kind == _SUPERBOX:
                children.append(self.superbox(body, depth + 1))
            elif kind in (_BROTLI, _DESCRIPTION):
                raise MalformedStoreError("a box of the signed record has a second content")
            else:
                leaves.append((kind, body))
        labels = [child.label for child in children]
        if len(set(labels)) != len(labels):
            raise MalformedStoreError("two boxes of the signed record share a label")
        return _Superbox(label or "", tuple(children), tuple(leaves), content)

    def _inflated(self, label: str, packed: bytes, depth: int) -> _Superbox:
        """C2PA 2.2, 11.2.1: a compressed manifest is one Brotli box with the real superbox inside."""
        unpacked = _inflate(packed, MAX_STORE - self.unpacked)
        self.unpacked += len(unpacked)
        inner = self.superbox(self.only(unpacked), depth + 1)
        if inner.label != label:
            raise MalformedStoreError("a compressed manifest has another label than its box")
        return inner


def _label(description: bytes) -> str:
    if len(description) < 17 or not description[16] & 2:
        return ""
    text, separator, _ = description[17:].partition(b"\0")
    if not separator or len(text) > 512:
        raise MalformedStoreError("a label of the signed record does not end")
    try:
        return text.decode()
    except UnicodeDecodeError as error:
        raise MalformedStoreError("a label of the signed record is not UTF-8") from error


def _inflate(packed: bytes, limit: int) -> bytes:
    decompressor = brotli.Decompressor()
    out = bytearray()
    try:
        piece = decompressor.process(packed, output_buffer_limit=1 << 20)
        while piece or not decompressor.is_finished():
            out += piece
            if len(out) > limit:
                raise MalformedStoreError("the signed record unpacks to more than 32 MiB")
            if not piece and decompressor.can_accept_more_data():
                raise MalformedStoreError("the compressed record is cut short")
            piece = decompressor.process(b"", output_buffer_limit=1 << 20)
    except brotli.error as error:
        raise MalformedStoreError("the compressed record does not unpack") from error
    return bytes(out)
