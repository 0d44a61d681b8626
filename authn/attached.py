"""What manifests of a file carry as evidence about signatures: later tokens, stapled status answers.

C2PA 2.2: a `c2pa.time-stamp` assertion holds tokens over other manifests' signatures, and
`c2pa.certificate-status` holds OCSP answers. Only collected here, from whichever manifest has them: a token or
an answer stands by its own signature, so it does not matter who attached it. Verifies nothing.
"""

from collections.abc import Iterator, Sequence

from authn import cbor, jumbf
from authn.cose import MAX_TOKEN
from authn.errors import MediaError

MAX_TOKENS = 8
MAX_ANSWERS = 32
MAX_ANSWER = 64 << 10


def later_tokens(manifests: Sequence[jumbf.ManifestBoxes], label: str) -> tuple[bytes, ...]:
    """The time-stamp tokens that other manifests hold over the signature of the one called `label`."""
    found: list[bytes] = []
    for manifest in manifests:
        if manifest.label == label:
            continue  # nothing can hold a token over its own signature, which comes last
        for body in _bodies(manifest, "c2pa.time-stamp"):
            token = body.get(label) if isinstance(body, dict) else None
            if isinstance(token, bytes) and len(token) <= MAX_TOKEN:
                found.append(token)
    return tuple(found[:MAX_TOKENS])


def stapled_answers(manifests: Sequence[jumbf.ManifestBoxes]) -> tuple[bytes, ...]:
    """Every OCSP answer that stands in a `c2pa.certificate-status` assertion of any manifest."""
    found = [
        answer
        for manifest in manifests
        for body in _bodies(manifest, "c2pa.certificate-status")
        for answer in _answers(body)
    ]
    return tuple(found[:MAX_ANSWERS])


def _answers(body: cbor.Value) -> Iterator[bytes]:
    listed = body.get("ocspVals", body.get("ocsp_vals")) if isinstance(body, dict) else body
    for answer in listed if isinstance(listed, list) else ():
        if isinstance(answer, bytes) and len(answer) <= MAX_ANSWER:
            yield answer


def _bodies(manifest: jumbf.ManifestBoxes, label: str) -> Iterator[cbor.Value]:
    for assertion in manifest.assertions:
        if assertion.type == b"cbor" and assertion.label.partition("__")[0] == label:
            try:
                yield cbor.decode(assertion.content)
            except MediaError:
                continue
