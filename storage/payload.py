"""Payloads: the canonical JSON object that an entry commits to.

Pure. Sorted keys, no spaces, ASCII, and within I-JSON (RFC 7493): no fractions, no
integer another language would round. So every implementation gets the same bytes.
"""

import json
from collections.abc import Mapping
from typing import Any, NoReturn

from storage.errors import MalformedPayloadError

MAX_PAYLOAD_BYTES = 1 << 16
MAX_DEPTH = 32
_MAX_INTEGER = (1 << 53) - 1


def canonical(fields: Mapping[str, object]) -> bytes:
    """Write the fields in the one form that is accepted."""
    try:
        payload = _dump(fields)
    except (TypeError, ValueError, RecursionError) as error:
        raise MalformedPayloadError("The fields cannot be written as JSON.") from error
    parse(payload)
    return payload


def parse(payload: bytes) -> dict[str, Any]:
    """Read the fields, accepting only what `canonical` would write."""
    if len(payload) > MAX_PAYLOAD_BYTES:
        raise MalformedPayloadError(f"The payload is larger than {MAX_PAYLOAD_BYTES} bytes.")
    try:
        fields = json.loads(payload, parse_float=_refuse, parse_constant=_refuse, parse_int=_integer)
        _require_shallow(fields, MAX_DEPTH)
        json.dumps(fields, ensure_ascii=False).encode()  # refuses half a surrogate pair
        same = isinstance(fields, dict) and _dump(fields) == payload
    except (ValueError, RecursionError) as error:
        raise MalformedPayloadError("The payload is not JSON within the limits of RFC 7493.") from error
    if not same:
        raise MalformedPayloadError("The payload is not a JSON object in canonical form.")
    return dict(fields)


def _dump(fields: Mapping[str, object]) -> bytes:
    return json.dumps(fields, sort_keys=True, separators=(",", ":"), allow_nan=False).encode("ascii")


def _require_shallow(value: object, levels: int) -> None:
    children = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    if levels == 0:
        raise ValueError("nested too deeply")
    for child in children:
        _require_shallow(child, levels - 1)


def _integer(digits: str) -> int:
    value = int(digits)
    if abs(value) > _MAX_INTEGER:
        raise ValueError("an integer that others would round")
    return value


def _refuse(literal: str) -> NoReturn:
    raise ValueError(f"{literal} has no canonical form")
