"""What is answered about a capture: one object of JSON, and the status that goes with a code. Pure."""

from collections.abc import Mapping

from tools.intake import Received

_STATUS: Mapping[str, int] = {
    # Who asks.
    "signature-missing": 401,
    "signature-invalid": 401,
    "signature-coverage": 401,
    "signature-target": 401,
    "signature-stale": 401,
    "signature-from-future": 401,
    "signature-algorithm": 401,
    "device-unknown": 401,
    "key-expired": 401,
    "nonce-unknown": 401,
    "nonce-expired": 401,
    "nonce-wrong-device": 401,
    "device-pending": 403,
    "device-suspended": 403,
    "device-revoked": 403,
    "device-retired": 403,
    "certificate-foreign": 403,
    "certificate-profile": 403,
    "untrusted-issuer": 403,
    "action-not-allowed": 403,
    # The request.
    "header-refused": 400,
    "content-digest-unsupported": 400,
    "content-digest-mismatch": 400,
    "length-mismatch": 400,
    "key-id-malformed": 400,
    "too-slow": 408,
    "too-large": 413,
    "too-many-requests": 429,
    # The chain.
    "replayed-nonce": 409,
    "counter-reused": 409,
    "chain-beginning": 409,
    "chain-fork": 409,
    "certificate-reused": 409,
    "claim-known": 409,
    # The media.
    "media-type-mismatch": 415,
    "unsupported-media": 415,
}
_ABOUT_THE_CAPTURE = 422
_CAPTURE = frozenset(
    {
        # The claim and its place.
        "capture-refused",
        "capture-has-a-past",
        "capture-malformed",
        "capture-unchained",
        "checkpoint-foreign",
        "claim-signature",
        "commitment-mismatch",
        "credentials-missing",
        "row-malformed",
        # The bytes.
        "cbor-malformed",
        "certificate-malformed",
        "der-malformed",
        "manifest-malformed",
        "media-changed",
        "media-empty",
        "media-incomplete",
        "media-malformed",
        "media-too-large",
        "media-too-many-boxes",
        "media-too-many-bytes",
        "media-too-many-frames",
        "media-too-many-pixels",
        "media-trailing-bytes",
        "media-trailing-data",
        "media-truncated",
        "media-type-unknown",
        "media-undecodable",
        "media-unusable",
        "signature-malformed",
    }
)
_OURS = 503


def status_of(code: str) -> int:
    """The HTTP status of a refusal by its code. What is not known to be the sender's fault is ours: to be tried again.

    Even a worker that died over the capture is: it may have died of something else.
    """
    return _STATUS.get(code, _ABOUT_THE_CAPTURE if code in _CAPTURE else _OURS)


def refusal(error: Exception) -> dict[str, object]:
    """A refusal: its code, what happened, and what to do."""
    return {
        "error": getattr(error, "code", "unexpected"),
        "reason": str(error),
        "remedy": getattr(error, "remedy", "Report this."),
    }


def receipt_of(taken: Received) -> dict[str, object]:
    """What the device keeps: where its capture is recorded, what is missing before it, and the receipt."""
    capture = taken.capture
    return {
        "counter": capture.counter,
        "entry": taken.entry,
        "gap": [capture.gap.start, capture.gap.stop - 1] if capture.gap else None,
        "receipt": str(taken.receipt),
        "received": capture.at.isoformat(),
    }


def status_of_receipt(taken: Received) -> int:
    """201 for a new entry, 200 where the capture was recorded before."""
    return 200 if taken.known else 201
