"""Sign and verify the requests of devices (RFC 9421, RFC 9530), by one narrow profile.

The package behind this accepts by itself a replay, a changed body and a signature that
covers the method alone. Here: one signature, one tag, a set of components that must be
covered, sixty seconds, and the algorithm of the key that the registry names, which the
message must repeat and can never choose.

Does not burn the nonce, which is handed out for that, and does not see the body: whoever
reads it compares its SHA-256 with `Signed.content`. Who the key belongs to is the caller's
to know. A signature for another address fails like any forged one, unless the message
says itself to whom it was sent.
"""

import base64
import datetime as dt
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, ClassVar

import http_message_signatures as messages
from http_message_signatures import algorithms

from authn.errors import Error
from authn.keys import Algorithm, KeyProvider, PublicKey, algorithm_of

TAG = "lightseal-capture"
LABEL = "device"
COVERED = ("@method", "@authority", "@target-uri", "content-digest", "content-type")
MAX_AGE = timedelta(seconds=60)
SKEW = timedelta(seconds=5)
MAX_HEADER = 4 << 10
MAX_HEADERS = 16 << 10
MAX_COUNT = 64

_NAMES: dict[Algorithm, type[algorithms.HTTPSignatureAlgorithm]] = {
    Algorithm.ES256: algorithms.ECDSA_P256_SHA256,
    Algorithm.ES384: algorithms.ECDSA_P384_SHA384,
    Algorithm.EDDSA: algorithms.ED25519,
}
# Two of any of these and two readers could disagree about which counts.
_ONCE = frozenset(
    {
        "content-digest",
        "content-encoding",
        "content-length",
        "content-type",
        "host",
        "signature",
        "signature-input",
        "transfer-encoding",
    }
)
_SIGNATURE = re.compile(r"([a-z*][a-z0-9_.*-]{0,31})=:([A-Za-z0-9+/]+={0,2}):", re.ASCII)
_DIGEST = re.compile(r"sha-256=:([A-Za-z0-9+/]{43}=):", re.ASCII)
_KEY_ID = re.compile(r"[0-9a-f]{64}", re.ASCII)
_NONCE = re.compile(r"[A-Za-z0-9_-]{16,128}", re.ASCII)
# What `_Input` takes apart: RFC 9651 inner list of strings, then parameters; no escapes, no component parameters.
_LIST = re.compile(r'([a-z*][a-z0-9_.*-]{0,31})=\(((?:"[a-z0-9@-]+"(?: "[a-z0-9@-]+")*)?)\)(.*)', re.ASCII)
_PARAMETER = re.compile(r';([a-z]+)=(?:([0-9]{1,12})|"([^"\\]*)")', re.ASCII)
_KNOWN = frozenset({"alg", "created", "expires", "keyid", "nonce", "tag"})


class RequestSignatureError(Error):
    """The request's signature does not say what it must."""

    code: ClassVar[str] = "signature-invalid"
    remedy: ClassVar[str] = (
        "Sign this very request, for this very address, with the key of the certificate that keyid names."
    )


class MissingSignatureError(RequestSignatureError):
    """There is no signature, or not exactly one."""

    code = "signature-missing"
    remedy = "Send one Signature-Input and one Signature, with one label in each (RFC 9421)."


class CoverageError(RequestSignatureError):
    """The signature leaves out what it must cover."""

    code = "signature-coverage"
    remedy = f"Cover at least {', '.join(COVERED)}, and sign with created, keyid, alg, nonce and tag."


class TargetError(RequestSignatureError):
    """The request was sent to another address than this one."""

    code = "signature-target"
    remedy = "Sign for the address that the service was enrolled under; nothing is forwarded from others."


class StaleError(RequestSignatureError):
    """The signature is older than is accepted."""

    code = "signature-stale"
    remedy = "Set the device's clock, and sign the request again right before sending it."


class FutureError(RequestSignatureError):
    """The signature says that it was made later than now."""

    code = "signature-from-future"
    remedy = "Set the device's clock; it runs ahead of the service's."


class AlgorithmError(RequestSignatureError):
    """The message names no algorithm, or another one than that of the registered key."""

    code = "signature-algorithm"
    remedy = "Name the one algorithm of the registered key in alg; it is never chosen by the message."


class KeyUnknownError(RequestSignatureError):
    """No key of that name is registered."""

    code = "device-unknown"
    remedy = "Enrol the device first; keyid is the SHA-256 of its certificate, in hex."


class DigestUnsupportedError(RequestSignatureError):
    """There is no Content-Digest with SHA-256, or there is something else beside it."""

    code = "content-digest-unsupported"
    remedy = "Send Content-Digest: sha-256=:…: (RFC 9530), and no other digest."


class DigestMismatchError(RequestSignatureError):
    """The body is not the one that was signed for."""

    code = "content-digest-mismatch"
    remedy = "Send the file as it was when its digest was taken."


class HeaderError(RequestSignatureError):
    """A header is there twice, is too long, or holds what no header may."""

    code = "header-refused"
    remedy = f"Send each header once, at most {MAX_HEADER} bytes each and {MAX_HEADERS} in all."


@dataclass(frozen=True, slots=True)
class Request:
    """A request without its body: the method, the whole URL, and every header line as it came."""

    method: str
    url: str
    headers: tuple[tuple[str, str], ...] = field(repr=False)

    def header(self, name: str) -> str | None:
        """The value of a header that stands there once."""
        found = [value for key, value in self.headers if key.lower() == name]
        return found[0] if len(found) == 1 else None


@dataclass(frozen=True, slots=True)
class Signed:
    """What a signature that held says. The nonce is not burned yet; `content` is what the body must hash to."""

    key_id: str
    nonce: str
    created: datetime
    content: bytes
    components: tuple[str, ...]


def sign_request(
    request: Request, key: KeyProvider, key_id: str, nonce: str, at: datetime, more: Sequence[str] = ()
) -> Request:
    """The request with the two headers that sign it; `more` are headers to be covered besides `COVERED`."""
    message = _Message(request.method, request.url, _Headers(request.headers))
    signer = messages.HTTPMessageSigner(signature_algorithm=_NAMES[key.algorithm])
    try:
        prepared = signer.prepare(
            message,
            key_id=key_id,
            created=at,
            nonce=nonce,
            label=LABEL,
            tag=TAG,
            covered_component_ids=(*COVERED, *more),
            use_existing_digest=True,
        )
        signer.apply(message, prepared, key.sign(prepared.signature_base))
    except messages.HTTPMessageSignaturesException as error:
        raise RequestSignatureError(f"the request cannot be signed ({error})") from error
    return Request(request.method, request.url, tuple(message.headers.items()))


def verify_request(
    request: Request,
    key_of: Callable[[str], PublicKey | None],
    at: datetime,
    more: Sequence[str] = (),
) -> Signed:
    """What the one signature of `request` says, if it holds at `at`.

    `request.url` is this service's own address and never made from the Host header;
    `key_of` is the registry's answer for a keyid.
    """
    # 1. Limits, before anything is taken apart.
    require_plain_headers(request.headers)
    # 2. One signature, for this purpose (RFC 9421, 2.3), sent to this very host.
    given = _Input.read(request)
    _require_target(request)
    # 3. What it covers (7.2.1).
    if missing := [name for name in (*COVERED, *more) if name not in given.components]:
        raise CoverageError(f"the signature does not cover {', '.join(missing)}")
    key_id, nonce = given.text("keyid", _KEY_ID), given.text("nonce", _NONCE)
    # 4. When it was made (7.2.2), by this service's clock.
    created = given.created()
    if created > at + SKEW:
        raise FutureError(
            f"the signature was made at {created:%Y-%m-%d %H:%M:%S} UTC, which is still to come"
        )
    if created < at - MAX_AGE or given.expired(at):
        raise StaleError(f"the signature was made at {created:%Y-%m-%d %H:%M:%S} UTC, more than a minute ago")
    # 5. What the body must be (RFC 9530, 2).
    content = content_digest(request.header("content-digest"))
    # 6. Whose key, and by which algorithm: the registry says, the message must agree (RFC 9421, 7.3.6).
    public = key_of(key_id)
    if public is None:
        raise KeyUnknownError("no certificate with this keyid is registered")
    algorithm = _NAMES[algorithm_of(public)]
    if given.parameters.get("alg") != algorithm.algorithm_id:
        raise AlgorithmError("the message does not name the algorithm of the registered key")
    # 7. The signature itself (3.2), in the one form that it can have.
    _require_one_form(request, given.label)
    _require_held(request, algorithm, key_id, public)
    return Signed(key_id, nonce, created, content, given.components)


def claimed_key(request: Request) -> str:
    """The keyid that a request names. Nothing is verified."""
    return _Input.read(request).text("keyid", _KEY_ID)


def content_digest(header: str | None) -> bytes:
    """The SHA-256 in a Content-Digest header, which holds nothing else."""
    found = _DIGEST.fullmatch((header or "").strip(" \t"))
    if found is None:
        raise DigestUnsupportedError("the request has no Content-Digest with SHA-256 alone")
    return _decoded(found[1], DigestUnsupportedError("Content-Digest is not in canonical base64"))


def content_digest_header(digest: bytes) -> str:
    """The header for a body with this SHA-256."""
    return f"sha-256=:{base64.b64encode(digest).decode()}:"


def require_plain_headers(headers: Sequence[tuple[str, str]]) -> None:
    """Refuse headers that are too many or too long, and those that decide something and stand there twice."""
    if len(headers) > MAX_COUNT or sum(len(name) + len(value) for name, value in headers) > MAX_HEADERS:
        raise HeaderError("the request has too many headers")
    seen = set[str]()
    for name, value in headers:
        low = name.lower()
        if len(value) > MAX_HEADER or not value.isascii() or not value.replace("\t", " ").isprintable():
            raise HeaderError(f"the header {low[:40]} is too long, or not plain ASCII")
        if low in seen and low in _ONCE:
            raise HeaderError(f"the header {low} stands there twice")
        seen.add(low)


@dataclass(frozen=True, slots=True)
class _Input:
    """The one member of Signature-Input. Unverified."""

    label: str
    components: tuple[str, ...]
    parameters: Mapping[str, str | int]

    @classmethod
    def read(cls, request: Request) -> "_Input":
        text, signature = request.header("signature-input"), request.header("signature")
        if text is None or signature is None:
            raise MissingSignatureError("the request carries no signature, or several")
        found = _LIST.fullmatch(text.strip(" \t"))
        if found is None:
            raise MissingSignatureError("Signature-Input is not one list of covered components")
        components = tuple(found[2].replace('"', "").split(" ")) if found[2] else ()
        parameters: dict[str, str | int] = {}
        rest = found[3]
        while part := _PARAMETER.match(rest):
            if part[1] in parameters or part[1] not in _KNOWN:
                raise MissingSignatureError("Signature-Input has a parameter twice, or one that is not known")
            parameters[part[1]] = int(part[2]) if part[2] is not None else part[3]
            rest = rest[part.end() :]
        if rest:
            raise MissingSignatureError(
                "Signature-Input goes on after its parameters, or holds two signatures"
            )
        if len(set(components)) != len(components):
            raise CoverageError("a component is covered twice")
        if parameters.get("tag") != TAG:
            raise CoverageError("the signature was made for another purpose, or names none in its tag")
        return cls(found[1], components, parameters)

    def text(self, name: str, form: re.Pattern[str]) -> str:
        value = self.parameters.get(name)
        if not isinstance(value, str) or form.fullmatch(value) is None:
            raise CoverageError(f"the signature has no {name} of the form that is asked for")
        return value

    def created(self) -> datetime:
        value = self.parameters.get("created")
        if not isinstance(value, int):
            raise CoverageError("the signature does not say when it was created")
        return _moment(value)

    def expired(self, at: datetime) -> bool:
        value = self.parameters.get("expires")
        if isinstance(value, str):
            raise CoverageError("the signature's expires is no number")
        return value is not None and _moment(value) < at - SKEW


def _moment(seconds: int) -> datetime:
    try:
        return datetime.fromtimestamp(seconds, dt.UTC)
    except (OverflowError, ValueError, OSError) as error:
        raise FutureError("the signature was made at a time that no calendar has") from error


def _require_target(request: Request) -> None:
    """The Host header must be ours; a signature for another one would fail without saying why."""
    _, _, rest = request.url.partition("://")
    authority = rest.partition("/")[0].lower()
    if (request.header("host") or "").lower() != authority:
        raise TargetError("the request was sent to another host than this one")


def _require_one_form(request: Request, label: str) -> None:
    """One member, under the label of Signature-Input, in base64 without stray bits (RFC 4648, 3.5)."""
    found = _SIGNATURE.fullmatch((request.header("signature") or "").strip(" \t"))
    if found is None or found[1] != label:
        raise MissingSignatureError("Signature is not the one signature that Signature-Input describes")
    _decoded(found[2], RequestSignatureError("the signature is not in canonical base64"))


def _decoded(text: str, refusal: RequestSignatureError) -> bytes:
    try:
        data = base64.b64decode(text, validate=True)
    except ValueError as error:
        raise refusal from error
    if base64.b64encode(data).decode() != text:
        raise refusal
    return data


def _require_held(
    request: Request, algorithm: type[algorithms.HTTPSignatureAlgorithm], key_id: str, public: PublicKey
) -> None:
    resolver = messages.MappingKeyResolver(public_keys={key_id: public}, private_keys={})
    verifier = _Verifier(signature_algorithm=algorithm, key_resolver=resolver)
    message = _Message(request.method, request.url, _Headers(request.headers))
    try:
        held = verifier.verify(message, max_age=None, expect_tag=TAG)
    except messages.HTTPMessageSignaturesException as error:
        raise RequestSignatureError(
            "the signature does not hold for this request at this address under the registered key"
        ) from error
    if len(held) != 1:
        raise MissingSignatureError("the request carries several signatures")


class _Verifier(messages.HTTPMessageVerifier):
    """The package's verifier without its own clock: times are checked above, against the caller's."""

    def validate_created_and_expires(self, sig_input: Any, max_age: timedelta | None = None) -> None:
        """Checked already."""


class _Headers:
    """Header lines in order, as the package wants to see them."""

    def __init__(self, lines: Sequence[tuple[str, str]]) -> None:
        self._lines = list(lines)

    def items(self) -> list[tuple[str, str]]:
        """Every line."""
        return list(self._lines)

    def __iter__(self) -> Any:
        return iter([name for name, _ in self._lines])

    def __contains__(self, name: str) -> bool:
        return any(key.lower() == name.lower() for key, _ in self._lines)

    def __setitem__(self, name: str, value: str) -> None:
        self._lines.append((name, value))

    def __delitem__(self, name: str) -> None:
        self._lines = [line for line in self._lines if line[0].lower() != name.lower()]


@dataclass(slots=True)
class _Message:
    """What the package reads of a request."""

    method: str
    url: str
    headers: _Headers
