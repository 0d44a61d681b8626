"""Whether the media is what the hard binding hashed, and what the hash leaves out.

The SDK computes the hashes; what a binding excludes is read from the signed
assertion by us (C2PA 2.2, 9.2 and 15.12). Does not say who bound it.
"""

import hashlib
from collections.abc import Iterable

from authn import cbor, jumbf
from authn.evidence import Code, Content, Finding
from authn.manifest import Reading
from authn.plain import plain

# What a manifest's own place in a file may cost beyond the manifest: segment
# headers in JPEG, sub-block lengths in GIF, a directory entry in TIFF.
_OVERHEAD = 96
_OVERHEAD_PER_BYTE = 1 / 200

_STANDARD_BOXES = frozenset({"/uuid", "/ftyp", "/mfra", "/free", "/skip"})


def check_binding(reading: Reading, active: jumbf.ManifestBoxes) -> tuple[Content, list[Finding]]:
    """State and findings of the hard binding of the active manifest."""
    changed = any(status.code.endswith("Hash.mismatch") for status in reading.failures)
    matched = any(status.code.endswith("Hash.match") for status in reading.passes)
    if changed:
        return Content.CHANGED, [
            Finding.fails(Code.CONTENT_MATCHES, "the media is not what was signed: its hash differs")
        ]
    if not matched:
        return Content.NOT_BOUND, [
            Finding.fails(Code.CONTENT_MATCHES, "no hash binds the signed record to the media")
        ]
    gaps = tuple(_gaps(active, len(reading.store), reading))
    return (Content.PARTLY_COVERED if gaps else Content.INTACT), [
        Finding.holds(Code.CONTENT_MATCHES, "the media matches the hash that was signed"),
        Finding(
            Code.CONTENT_COVERED,
            not gaps,
            f"a part of the file was left out of the hash: {'; '.join(gaps)}"
            if gaps
            else "the hash leaves out nothing but the signed record's own place",
        ),
    ]


def _gaps(active: jumbf.ManifestBoxes, store_size: int, reading: Reading) -> Iterable[str]:
    """What a hard binding leaves open beyond the manifest's own bytes (C2PA 2.2, 9.2)."""
    for assertion in active.assertions:
        if not assertion.label.startswith("c2pa.hash.") or assertion.type != b"cbor":
            continue
        body = cbor.decode(assertion.content)
        exclusions = body.get("exclusions") if isinstance(body, dict) else None
        ranges = (
            [item for item in exclusions if isinstance(item, dict)] if isinstance(exclusions, list) else []
        )
        if assertion.label.startswith("c2pa.hash.data"):
            lengths = [length for item in ranges if isinstance(length := item.get("length"), int)]
            allowed = store_size + _OVERHEAD + int(store_size * _OVERHEAD_PER_BYTE)
            if reading.embedded and sum(lengths) > allowed:
                yield f"{sum(lengths) - store_size} bytes beyond the record itself"
        elif assertion.label.startswith("c2pa.hash.bmff"):
            extra = {plain(str(item.get("xpath")), 40) for item in ranges} - _STANDARD_BOXES
            if extra:
                yield f"boxes {', '.join(sorted(extra))}"
    if any(status.code == "assertion.boxesHash.additionalExclusionsPresent" for status in reading.notes):
        yield "boxes of the file"


def binding_hash(active: jumbf.ManifestBoxes) -> bytes:
    """The hash a hard binding states; of a binding that states several, the hash of them all."""
    for assertion in active.assertions:
        if assertion.label.startswith("c2pa.hash.") and assertion.type == b"cbor":
            body = cbor.decode(assertion.content)
            stated = body.get("hash") if isinstance(body, dict) else None
            return (
                stated
                if isinstance(stated, bytes) and len(stated) == 32
                else hashlib.sha256(assertion.content).digest()
            )
    return hashlib.sha256(b"").digest()
