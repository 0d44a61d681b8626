"""Whether a claim and the assertions beside it belong together (C2PA 2.2, 15.10).

Our own look, beside the SDK's, and for every manifest of a history alike.
Compares digests only: the claim itself is believed by nobody until its
signature verifies.
"""

import functools
import hashlib
from collections.abc import Iterator

from authn import cbor, jumbf
from authn.errors import MediaError
from authn.plain import plain

_HASHES = frozenset({"sha256", "sha384", "sha512"})
_REMEMBERED = 64
_LISTS = ("created_assertions", "gathered_assertions", "assertions")


def redactions(manifests: tuple[jumbf.ManifestBoxes, ...]) -> frozenset[str]:
    """The assertions that some claim says were taken out of another manifest, as absolute URIs."""
    found: set[str] = set()
    for manifest in manifests:
        listed = _decoded(manifest).get("redacted_assertions")
        own = f"self#jumbf=/c2pa/{manifest.label}/"
        found.update(
            uri
            for uri in (listed if isinstance(listed, list) else [])
            if isinstance(uri, str) and not uri.startswith(own)
        )
    return frozenset(found)


def taken_out(manifests: tuple[jumbf.ManifestBoxes, ...], label: str) -> tuple[str, ...]:
    """The labels of the assertions that later claims say were taken out of the manifest `label`."""
    own = f"self#jumbf=/c2pa/{label}/"
    return tuple(
        sorted(plain(uri.rpartition("/")[2], 60) for uri in redactions(manifests) if uri.startswith(own))
    )


def mismatches(manifest: jumbf.ManifestBoxes, redacted: frozenset[str]) -> Iterator[str]:
    """Every assertion that is not the one its claim names, by label and fault."""
    claim = _decoded(manifest)
    held = {assertion.label: assertion for assertion in manifest.assertions}
    named: set[str] = set()
    for item in (item for name in _LISTS for item in _list(claim.get(name))):
        uri, digest = item.get("url"), item.get("hash")
        label = uri.rpartition("/")[2] if isinstance(uri, str) else ""
        absolute = f"self#jumbf=/c2pa/{manifest.label}/c2pa.assertions/{label}"
        if uri not in (f"self#jumbf=c2pa.assertions/{label}", absolute):
            yield "assertion-elsewhere"
            continue
        if label in named:
            yield "assertion-named-twice"
        named.add(label)
        if absolute in redacted:
            continue
        name = item.get("alg") or claim.get("alg")
        if label not in held:
            yield "assertion-missing"
        elif not isinstance(name, str) or name not in _HASHES or _digest(name, held[label]) != digest:
            yield "assertion-differs"
    if held.keys() - named:
        yield "assertion-undeclared"


def _digest(name: str, assertion: jumbf.Assertion) -> bytes:
    return hashlib.new(name, assertion.box).digest()


def _list(value: cbor.Value) -> list[dict[str | int | bytes, cbor.Value]]:
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def _decoded(manifest: jumbf.ManifestBoxes) -> dict[str | int | bytes, cbor.Value]:
    return _claim(manifest.claim)


@functools.lru_cache(_REMEMBERED)
def _claim(encoded: bytes) -> dict[str | int | bytes, cbor.Value]:
    """Decoded once for all who look; nobody changes it."""
    try:
        claim = cbor.decode(encoded)
    except MediaError:
        return {}
    return claim if isinstance(claim, dict) else {}
