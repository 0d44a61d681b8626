"""Canonical base64: one byte string, one text."""

import base64


def encode(data: bytes) -> str:
    """Write standard, padded base64 (RFC 4648, 4)."""
    return base64.b64encode(data).decode("ascii")


def decode(text: str) -> bytes:
    """Read what `encode` would write; anything else is a `ValueError`."""
    data = base64.b64decode(text, validate=True)
    if encode(data) != text:
        raise ValueError("base64 is not canonical")
    return data


def decode_hash(text: str) -> bytes:
    """Read exactly 32 bytes; anything else is a `ValueError`."""
    data = decode(text)
    if len(data) != 32:
        raise ValueError(f"{len(data)} bytes where 32 belong")
    return data
