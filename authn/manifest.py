"""Write and read C2PA manifests; the only door to `c2pa`.

The SDK parses, hashes and signs. It does not judge: it is given no trust
anchor and no network, and its `validation_state` is never read. What it found
is handed on as status codes (C2PA 2.2, section 15.2) for `authn.verify`.
"""

import io
import json
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Any, BinaryIO, Self

import c2pa

from authn.errors import Error, SigningError, TimestampError
from authn.evidence import Credentials
from authn.media import Media
from authn.plain import plain

SDK_VERSION = str(c2pa.sdk_version())
MAX_REPORT = 64 << 20

# Certificate purposes the SDK may sign with; judging them is `authn.profile`'s task.
_PURPOSES = "1.3.6.1.5.5.7.3.4\n1.3.6.1.5.5.7.3.36\n1.3.6.1.4.1.62558.2.1"

# The SDK's defaults fetch addresses named inside a file. Nothing here may open a socket.
_READING: dict[str, Any] = {
    "trust": {"trust_config": _PURPOSES},
    "verify": {"remote_manifest_fetch": False, "ocsp_fetch": False},
    "core": {"allowed_network_hosts": []},
}

# Signing. Thumbnails cost 30 to 100 times the signature and show nothing that is proven.
# `free` boxes stay hashed, or anybody could append one. The SDK's own look at its work is
# off because ours follows, with our lists. Manifests are not compressed: the SDK then binds
# boxes instead of bytes, which leaves appended bytes unbound and reads three times slower.
_WRITING: dict[str, Any] = {
    "trust": {"trust_config": _PURPOSES},
    "verify": {"remote_manifest_fetch": False, "ocsp_fetch": False, "verify_after_sign": False},
    "core": {"allowed_network_hosts": ["127.0.0.1"]},
    "builder": {"thumbnail": {"enabled": False}, "bmff_hash_exclude_free_and_skip_boxes": False},
}


@dataclass(frozen=True, slots=True)
class Status:
    """One status code of the SDK, with the box it is about."""

    code: str
    url: str


@dataclass(frozen=True, slots=True)
class UnverifiedIngredient:
    """What a manifest says of a file it was made from, and what its signer recorded then."""

    title: str
    relationship: str
    manifest: str | None
    recorded_passes: tuple[str, ...]
    recorded_failures: tuple[str, ...]
    thumbnail: str | None = None
    told: bool = False
    """Whether the record has a place for what held, and not for failures only (C2PA 1.x)."""


@dataclass(frozen=True, slots=True)
class UnverifiedManifest:
    """One manifest as the SDK reports it, before anything is believed."""

    label: str
    ingredients: tuple[UnverifiedIngredient, ...]


@dataclass(frozen=True, slots=True)
class Reading:
    """What the SDK made of a file's credentials.

    `failures` holds codes about the active manifest and, with `history`, what
    it found to differ from the ingredients' own records.
    """

    credentials: Credentials
    reason: str
    active: str | None = None
    store: bytes = b""
    embedded: bool = True
    passes: tuple[Status, ...] = ()
    notes: tuple[Status, ...] = ()
    failures: tuple[Status, ...] = ()
    history_failures: tuple[Status, ...] = ()
    manifests: tuple[UnverifiedManifest, ...] = ()


class Sdk:
    """The SDK's reading context. One per process: it does not survive a fork."""

    def __init__(self) -> None:
        self._context = c2pa.Context.from_dict(_READING)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._context.close()

    def read(self, media: Media) -> Reading:
        """Read the credentials of `media` and let the SDK check the hashes. Judges nothing."""
        media.stream.seek(0)
        try:
            with c2pa.Reader(
                media.kind.value, media.stream, manifest_data=media.sidecar, context=self._context
            ) as reader:
                return _reading(reader, media.sidecar)
        except c2pa.C2paError as error:
            return _unread(str(error))

    def bare_read(self, media: Media) -> str:
        """The SDK's own report as text: the floor that `tools.bench` measures us against. Judges nothing."""
        media.stream.seek(0)
        with c2pa.Reader(media.kind.value, media.stream, context=self._context) as reader:
            return str(reader.json())


def _unread(reason: str) -> Reading:
    """A file without credentials must never be confused with one whose credentials are broken."""
    if reason.startswith("ManifestNotFound"):
        return Reading(Credentials.NONE, "the file carries no signed record")
    if reason.startswith("Remote"):
        return Reading(
            Credentials.ELSEWHERE,
            "the file names an address where its signed record may be; it was not contacted",
        )
    return Reading(Credentials.UNREADABLE, f"the signed record cannot be read ({plain(reason, 120)})")


def _reading(reader: Any, sidecar: bytes | None) -> Reading:
    text = reader.json()
    if len(text) > MAX_REPORT:
        return Reading(Credentials.UNREADABLE, "the signed record is larger than can be reported")
    try:
        report = json.loads(text)
    except (ValueError, RecursionError):
        return Reading(Credentials.UNREADABLE, "the signed record holds what no report can show")
    active = report.get("active_manifest")
    if not isinstance(active, str):
        return Reading(Credentials.UNREADABLE, "the signed record has no active manifest")
    store = io.BytesIO()
    reader.resource_to_stream(active, store)
    results = report.get("validation_results", {})
    state = results.get("activeManifest", {})
    deltas = [delta.get("validationDeltas", {}) for delta in results.get("ingredientDeltas", [])]
    return Reading(
        Credentials.PRESENT,
        "the file carries a signed record"
        if sidecar is None
        else "the signed record came in a file of its own; one inside the media, if any, was not read",
        active,
        store.getvalue(),
        sidecar is None and bool(reader.is_embedded()),
        _statuses(state.get("success", [])),
        _statuses(state.get("informational", [])),
        _statuses(state.get("failure", [])),
        tuple(status for delta in deltas for status in _statuses(delta.get("failure", []))),
        tuple(_manifest(label, body) for label, body in report.get("manifests", {}).items()),
    )


def _statuses(items: list[dict[str, Any]]) -> tuple[Status, ...]:
    return tuple(Status(str(item.get("code", "")), str(item.get("url", ""))) for item in items)


def _manifest(label: str, body: dict[str, Any]) -> UnverifiedManifest:
    ingredients = (item for item in _list(body.get("ingredients")) if isinstance(item, dict))
    return UnverifiedManifest(label, tuple(map(_ingredient, ingredients)))


def _ingredient(body: dict[str, Any]) -> UnverifiedIngredient:
    recorded = _dict(_dict(body.get("validation_results")).get("activeManifest"))
    older = _list(body.get("validation_status"))
    return UnverifiedIngredient(
        plain(str(body.get("title") or "untitled"), 120),
        plain(str(body.get("relationship") or "componentOf"), 30),
        str(body["active_manifest"]) if body.get("active_manifest") else None,
        tuple(status.code for status in _statuses(_list(recorded.get("success")))),
        tuple(status.code for status in _statuses([*_list(recorded.get("failure")), *older])),
        str(_dict(body.get("thumbnail")).get("identifier") or "").rpartition("/")[2] or None,
        isinstance(body.get("validation_results"), dict),
    )


def _dict(value: object) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _list(value: object) -> list[Any]:
    return value if isinstance(value, list) else []


def write(
    media: Media,
    out: BinaryIO,
    claim: str,
    parent: str | None,
    sign: Callable[[bytes], bytes],
    chain_pem: str,
    authority_url: str | None,
) -> None:
    """Copy `media` to `out` with a manifest embedded, signed by `sign` (ES256, raw r || s).

    `claim` is the SDK's manifest definition as JSON; `parent`, if given, the
    ingredient JSON under which `media` itself is recorded as what was opened.
    `out` must be open for reading and writing. Verifies nothing.
    """
    media.stream.seek(0)
    context = c2pa.Context.from_dict(_WRITING)
    keeper = _Keeper(sign)
    try:
        with (
            c2pa.Signer.from_callback(keeper, c2pa.C2paSigningAlg.ES256, chain_pem, authority_url) as signer,
            c2pa.Builder(claim, context) as builder,
        ):
            if parent is not None:
                builder.set_intent(c2pa.C2paBuilderIntent.EDIT)
                builder.add_ingredient(parent, media.kind.value, media.stream)
                media.stream.seek(0)
            builder.sign(signer, media.kind.value, media.stream, out)
    except c2pa.C2paError as error:
        if keeper.fault is not None:
            raise keeper.fault from error
        reason = plain(str(error), 160)
        if "imestamp" in reason or "ime stamp" in reason or "TimeStamp" in reason:
            raise TimestampError(f"the authority gave no token that stands ({reason})") from error
        raise SigningError(f"the file cannot carry a signed record ({reason})") from error
    finally:
        context.close()


class _Keeper:
    """Remembers why a key did not sign: the SDK swallows it, and calls the signature invalid."""

    def __init__(self, sign: Callable[[bytes], bytes]) -> None:
        self._sign = sign
        self.fault: Error | None = None

    def __call__(self, data: bytes) -> bytes:
        try:
            return self._sign(data)
        except Error as error:
            self.fault = error
            raise
