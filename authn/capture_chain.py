"""The chain that a device's captures form, and how one capture is tied to it without showing it.

A link hashes the link before it, a number, the media and the newest checkpoint that the
device knew. In the file stands only a salted commitment to the link, so nobody can tell
from two files that one device made both; who is given the opening can check all of it.

Proves order and completeness to whoever holds the openings: a capture that was left out,
swapped or taken back shows in the next one. Does not prove that the newest captures were
handed in: the end of a chain is known only to the device. The media's hash and the number
are the device's word.
"""

import base64
import hashlib
import re
from dataclasses import dataclass
from typing import TypeAlias

from authn import cbor
from authn.errors import MediaError
from authn.evidence import CaptureStatement
from authn.jumbf import Assertion, ManifestBoxes

LABEL = "org.lightseal.capture"
FIRST = bytes(32)
"""What stands in the place of the link before the first."""
MAX_COUNTER = (1 << 53) - 1
MAX_CHECKPOINT = 16 << 10
MAX_OPENING = 512

_LINK = b"lightseal/capture/v1\0"
_COMMITMENT = b"lightseal/capture-commitment/v1\0"
_SHA256 = 32
_BYTES = r":([A-Za-z0-9+/]{43}=):"
_OPENING = re.compile(
    rf"counter=([1-9][0-9]{{0,15}}), media={_BYTES}, previous={_BYTES}, salt={_BYTES}", re.ASCII
)
_HEX = re.compile(r"[0-9a-f]{64}", re.ASCII)
_INSIDE = ("self#jumbf=c2pa.assertions/", "self#jumbf=/c2pa/{}/c2pa.assertions/")

Fields: TypeAlias = dict[str | int | bytes, cbor.Value]


class MalformedCaptureError(MediaError):
    """What should tie a capture to its device's chain cannot be read."""

    code = "capture-malformed"
    remedy = "Send the capture as the device wrote it, with the opening that was kept beside it."


@dataclass(frozen=True, slots=True)
class Link:
    """One step of a chain: what came before, the number, the media, and the checkpoint the device knew."""

    previous: bytes
    counter: int
    media: bytes
    checkpoint: str

    def __post_init__(self) -> None:
        if len(self.previous) != _SHA256 or len(self.media) != _SHA256:
            raise MalformedCaptureError("a link holds two SHA-256 digests")
        if not 1 <= self.counter <= MAX_COUNTER:
            raise MalformedCaptureError("a capture's number is at least 1")
        require_checkpoint(self.checkpoint)

    @property
    def digest(self) -> bytes:
        """What the next link names as its previous one."""
        return hashlib.sha256(
            _LINK
            + self.previous
            + self.counter.to_bytes(8, "big")
            + self.media
            + hashlib.sha256(self.checkpoint.encode()).digest()
        ).digest()


@dataclass(frozen=True, slots=True)
class Opening:
    """A link and the salt that opens the commitment to it; for the service and the ledger, never in a file."""

    salt: bytes
    previous: bytes
    counter: int
    media: bytes
    checkpoint: str

    def __post_init__(self) -> None:
        if len(self.salt) != _SHA256:
            raise MalformedCaptureError("a salt has 32 bytes")
        Link(self.previous, self.counter, self.media, self.checkpoint)

    @classmethod
    def parse(cls, text: str, checkpoint: str) -> "Opening":
        """Read the text form, accepting only what `str` would write; the checkpoint comes from the claim."""
        found = _OPENING.fullmatch(text) if len(text) <= MAX_OPENING else None
        if found is None:
            raise MalformedCaptureError("an opening is counter, media, previous and salt, in this order")
        media, previous, salt = (base64.b64decode(part) for part in found.groups()[1:])
        opening = cls(salt, previous, int(found[1]), media, checkpoint)
        if str(opening) != text:
            raise MalformedCaptureError("an opening is not as we would write it")
        return opening

    @property
    def link(self) -> bytes:
        """The digest of the link that this opens."""
        return Link(self.previous, self.counter, self.media, self.checkpoint).digest

    @property
    def statement(self) -> CaptureStatement:
        """What the claim says of it."""
        return CaptureStatement(commitment(self.salt, self.link), self.checkpoint or None)

    def opens(self, statement: CaptureStatement) -> bool:
        """Whether this is the opening of what a claim says."""
        return self.statement == statement

    def __str__(self) -> str:
        """A dictionary of RFC 9651, without the checkpoint, which stands in the claim."""
        return (
            f"counter={self.counter}, media={_bytes(self.media)},"
            f" previous={_bytes(self.previous)}, salt={_bytes(self.salt)}"
        )


def commitment(salt: bytes, link: bytes) -> bytes:
    """What hides a link: without the salt it says nothing of it."""
    return hashlib.sha256(_COMMITMENT + salt + link).digest()


def require_checkpoint(text: str) -> None:
    """Refuse a checkpoint that is too long; whose it is, and whether it is one, is not looked at."""
    try:
        size = len(text.encode())
    except UnicodeEncodeError as error:
        raise MalformedCaptureError("a checkpoint is not text") from error
    if size > MAX_CHECKPOINT:
        raise MalformedCaptureError("a checkpoint is longer than a note with its cosignatures can be")


def assertion(statement: CaptureStatement) -> dict[str, object]:
    """The assertion that says it, as a claim's definition holds it."""
    data = {"checkpoint": statement.checkpoint or "", "commitment": statement.commitment.hex()}
    return {"label": LABEL, "created": True, "data": data}


def read_statement(manifest: ManifestBoxes) -> CaptureStatement | None:
    """What the claim of `manifest` says of its place in a chain; nothing where it says nothing readable.

    Counts only where the claim lists the assertion, once, among those that its signer made
    (C2PA 2.2, 10.3.2). Whether its hash matches is checked elsewhere (`assertions.match`).
    Never raises for what a file holds, and verifies nothing.
    """
    found = [each for each in manifest.assertions if each.label.partition("__")[0] == LABEL]
    try:
        if len(found) != 1 or found[0].label != LABEL or not _listed(manifest):
            return None
        fields = _fields(found[0])
        match fields:
            case {"commitment": str(digest), "checkpoint": str(checkpoint)} if len(fields) == 2:
                require_checkpoint(checkpoint)
                if _HEX.fullmatch(digest):
                    return CaptureStatement(bytes.fromhex(digest), checkpoint or None)
    except MediaError:
        return None
    return None


def _fields(assertion: Assertion) -> Fields:
    if assertion.type != b"cbor" or len(assertion.content) > 2 * MAX_CHECKPOINT:
        raise MalformedCaptureError("the statement about a capture is not CBOR, or too long")
    value = cbor.decode(assertion.content)
    if not isinstance(value, dict):
        raise MalformedCaptureError("the statement about a capture is not a map")
    return value


def _listed(manifest: ManifestBoxes) -> bool:
    claim = cbor.decode(manifest.claim)
    made = claim.get("created_assertions") if isinstance(claim, dict) else None
    urls = [item.get("url") for item in made if isinstance(item, dict)] if isinstance(made, list) else []
    places = [start.format(manifest.label) + LABEL for start in _INSIDE]
    return sum(url in places for url in urls) == 1


def _bytes(value: bytes) -> str:
    return f":{base64.b64encode(value).decode()}:"
