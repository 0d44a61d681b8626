"""Take an OCSP answer apart (RFC 6960, 4.2.1). Verifies nothing: whoever signed it may be anybody."""

import functools
from dataclasses import dataclass
from datetime import datetime

from authn import der
from authn.errors import MalformedDerError
from authn.statement import Refusal, Said
from authn.timestamp.request import read_algorithm

MAX_ANSWER = 64 << 10

_REMEMBERED = 1024
_MAX_CERTIFICATES = 8
_ENUMERATED = 0x0A
_BASIC = "1.3.6.1.5.5.7.48.1.1"
_NONCE = "1.3.6.1.5.5.7.48.1.2"
_ARCHIVE_CUTOFF = "1.3.6.1.5.5.7.48.1.6"
_INVALIDITY_DATE = "2.5.29.24"
_SHA1 = "1.3.14.3.2.26"
_STATUSES = {1: "malformedRequest", 2: "internalError", 3: "tryLater", 5: "sigRequired", 6: "unauthorized"}
_REASONS = {
    0: None,
    1: "keyCompromise",
    2: "cACompromise",
    3: "affiliationChanged",
    4: "superseded",
    5: "cessationOfOperation",
    6: "certificateHold",
    8: "removeFromCRL",
    9: "privilegeWithdrawn",
    10: "aACompromise",
}
# CertIDs name certificates and secure nothing, so SHA-1 may stand there (RFC 6960, 4.1.1; RFC 5019, 2.1.1).
_HASHES = {
    _SHA1: "sha1",
    "2.16.840.1.101.3.4.2.1": "sha256",
    "2.16.840.1.101.3.4.2.2": "sha384",
    "2.16.840.1.101.3.4.2.3": "sha512",
}


@dataclass(frozen=True, slots=True)
class UnverifiedSingle:
    """A SingleResponse (4.2.1); `foreign` is a critical extension that we do not know."""

    hash: str
    name_hash: bytes
    key_hash: bytes
    serial: int
    said: Said
    since: datetime | None
    reason: str | None
    this_update: datetime
    next_update: datetime | None
    remembers: datetime | None
    foreign: str | None


@dataclass(frozen=True, slots=True)
class UnverifiedAnswer:
    """A BasicOCSPResponse (4.2.1), not verified."""

    signed: bytes
    by_name: bytes | None
    by_key: bytes | None
    produced_at: datetime
    singles: tuple[UnverifiedSingle, ...]
    foreign: str | None
    algorithm: der.Element
    signature: bytes
    certificates: tuple[bytes, ...]


@functools.lru_cache(_REMEMBERED)
def parse(data: bytes) -> UnverifiedAnswer | Refusal:
    """The answer, or why it tells nothing."""
    if len(data) > MAX_ANSWER:
        return Refusal(f"is larger than {MAX_ANSWER >> 10} KiB")
    try:
        fields = der.parse(data, MAX_ANSWER).fields()
        status = _enumerated(fields.take(_ENUMERATED))
        if status != 0:
            return Refusal(f"holds no status but the error {_STATUSES.get(status, str(status))}")
        wrapped = explicit(fields.take(0xA0)).fields()
        fields.end()
        if wrapped.take(der.OID).to_oid() != _BASIC:
            return Refusal("is of a kind that is not understood")
        basic = der.parse(wrapped.take().to_octets(), MAX_ANSWER).fields()
        wrapped.end()
        return _basic(basic)
    except MalformedDerError:
        return Refusal("cannot be read")


def _basic(fields: der.Fields) -> UnverifiedAnswer:
    signed, algorithm = fields.take(der.SEQUENCE), fields.take(der.SEQUENCE)
    signature, presented = bits(fields.take()), fields.maybe(0xA0)
    fields.end()
    certificates = () if presented is None else explicit(presented).fields().rest()

    body = signed.fields()
    version = body.maybe(0xA0)
    if version is not None and explicit(version).to_integer() != 0:
        raise MalformedDerError("an answer of another version")
    named = body.take(0xA1, 0xA2)
    produced_at = body.take(der.GENERALIZED_TIME).to_time()
    singles = tuple(_single(item) for item in body.take(der.SEQUENCE).children())
    _, foreign = _extensions(body.maybe(0xA1), frozenset({_NONCE}))
    body.end()
    if not singles:
        raise MalformedDerError("an answer about nothing")
    return UnverifiedAnswer(
        signed.encoded,
        explicit(named).encoded if named.tag == 0xA1 else None,
        explicit(named).to_octets() if named.tag == 0xA2 else None,
        produced_at,
        singles,
        foreign,
        algorithm,
        signature,
        tuple(item.encoded for item in certificates[:_MAX_CERTIFICATES]),
    )


def _single(element: der.Element) -> UnverifiedSingle:
    fields = element.fields()
    cert_id, status = fields.take(der.SEQUENCE).fields(), fields.take(0x80, 0xA1, 0x82)
    this_update, next_update = fields.take(der.GENERALIZED_TIME).to_time(), fields.maybe(0xA0)
    known, foreign = _extensions(fields.maybe(0xA1), frozenset({_ARCHIVE_CUTOFF, _INVALIDITY_DATE}))
    fields.end()
    algorithm, name_hash, key_hash, serial = cert_id.take(), cert_id.take(), cert_id.take(), cert_id.take()
    cert_id.end()
    hash_oid = read_algorithm(algorithm)
    if hash_oid not in _HASHES:
        raise MalformedDerError("a certificate is named by a hash that is not accepted")

    said = {0x80: Said.GOOD, 0xA1: Said.WITHDRAWN, 0x82: Said.UNKNOWN}[status.tag]
    since, reason = None, None
    if said is Said.WITHDRAWN:
        revoked = status.fields(0xA1)
        since, code = revoked.take(der.GENERALIZED_TIME).to_time(), revoked.maybe(0xA0)
        revoked.end()
        number = 0 if code is None else _enumerated(explicit(code))
        if number not in _REASONS:
            raise MalformedDerError("a reason that does not exist")
        reason = _REASONS[number]
        if _INVALIDITY_DATE in known:
            since = min(since, der.parse(known[_INVALIDITY_DATE]).to_time())
    elif status.content:
        raise MalformedDerError("a NULL has content")
    return UnverifiedSingle(
        _HASHES[hash_oid],
        name_hash.to_octets(),
        key_hash.to_octets(),
        serial.to_integer(),
        said,
        since,
        reason,
        this_update,
        None if next_update is None else explicit(next_update).to_time(),
        der.parse(known[_ARCHIVE_CUTOFF]).to_time() if _ARCHIVE_CUTOFF in known else None,
        foreign,
    )


def _extensions(
    element: der.Element | None, understood: frozenset[str]
) -> tuple[dict[str, bytes], str | None]:
    """The extensions that are understood, and a critical one that is not."""
    found: dict[str, bytes] = {}
    foreign = None
    for item in () if element is None else explicit(element).fields().rest():
        fields = item.fields()
        oid, critical = fields.take(der.OID).to_oid(), fields.maybe(der.BOOLEAN)
        value = fields.take().to_octets()
        fields.end()
        if oid in found:
            raise MalformedDerError("an extension stands twice")
        if critical is not None and critical.to_boolean() and oid not in understood:
            foreign = oid
        found[oid] = value
    return found, foreign


def explicit(element: der.Element) -> der.Element:
    """The one element inside an explicit tag."""
    fields = der.Fields(element.children())
    inner = fields.take()
    fields.end()
    return inner


def _enumerated(element: der.Element) -> int:
    if element.tag != _ENUMERATED or len(element.content) != 1:
        raise MalformedDerError("not an enumerated value")
    return element.content[0]


def bits(element: der.Element) -> bytes:
    """The value of a BIT STRING of whole bytes."""
    if element.tag != der.BIT_STRING or element.content[:1] != b"\x00":
        raise MalformedDerError("not a string of whole bytes")
    return element.content[1:]
