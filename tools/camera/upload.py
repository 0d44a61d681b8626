"""Hand captures in: one signed request each, the whole file or its signed record alone, until a receipt is here.

In the order of their numbers, so that what is missing is missing at the service too. Asking
again is harmless: the service answers the same capture with the same entry. A receipt is kept
only if it proves that this very claim is recorded by the log that the device was enrolled
with. Where the service says that the device is revoked, the device stops, here and in `take`.

The device's clock may be wrong: requests are signed by the service's, captures by none.
"""

import hashlib
import http.client
import io
import json
import ssl
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import IO, ClassVar
from urllib.parse import urlsplit

import storage.errors
from authn.device import Device, encoded
from authn.errors import MediaError
from authn.http_signature import Request, content_digest_header, sign_request
from authn.keys import verify_note
from authn.locate import locate
from authn.media import Media
from authn.plain import plain
from storage.checkpoint import open_checkpoint
from storage.payload import parse as parse_payload
from storage.receipt import Receipt
from tools.camera import queue
from tools.camera.folder import Camera, PoolEmptyError, put_private
from tools.camera.take import (
    CHECKPOINT,
    STOPPED,
    DeviceStoppedError,
    newest_checkpoint,
    require_going_on,
)
from tools.errors import Error, UnreadableError, UsageError
from tools.examine import MAX_BYTES

SECONDS = 30.0
ATTEMPTS = 5
MAX_ANSWER = 1 << 20
MAX_WAIT = 60.0
OPENING, AGAIN, NONCE = "lightseal-opening", "idempotency-key", "lightseal-nonce"
RECORD_TYPE = "application/c2pa"
_STEP = 1 << 20
_STOPPING = frozenset({"device-revoked", "device-retired", "device-suspended", "chain-fork"})
_AGAIN = frozenset(
    {"nonce-expired", "nonce-unknown", "replayed-nonce", "signature-stale", "signature-from-future"}
)
_SPOILT = frozenset(
    {
        "credentials-missing",
        "file-unreadable",
        "manifest-malformed",
        "media-changed",
        "media-empty",
        "media-incomplete",
        "media-malformed",
        "media-trailing-data",
        "media-truncated",
        "media-type-mismatch",
        "media-type-unknown",
    }
)
"""The file is no longer the one that was signed; its signed record may still be whole."""
_NOT_ABOUT_IT = frozenset({400, 401, 404, 405})
_BUSY = frozenset({408, 429, 500, 502, 503, 504})


class ServiceUnreachableError(Error):
    """The service did not answer; everything waits where it is."""

    code: ClassVar[str] = "service-unreachable"
    remedy: ClassVar[str] = "Run 'lightseal upload' again when there is a network; nothing is lost meanwhile."


class ServiceAnswerError(Error):
    """The service answered with something that cannot be relied on; it is not kept."""

    code: ClassVar[str] = "service-answer"
    remedy: ClassVar[str] = (
        "Ask the operator of the service; the captures wait, and a wrong receipt proves nothing."
    )


class ServiceMissingError(UsageError):
    """The device was enrolled with no service, or with none whose log it could check."""

    code: ClassVar[str] = "service-missing"
    remedy: ClassVar[str] = "Enrol the device with its service: 'lightseal device join'."


class Handing(StrEnum):
    """What is handed in."""

    WHOLE = "whole"
    HASH_ONLY = "hash-only"


class Outcome(StrEnum):
    """What became of a capture."""

    RECEIVED = "received"
    CHANGED = "changed"
    """Its record was taken, and its file is no longer the one that was signed."""
    REFUSED = "refused"


@dataclass(frozen=True, slots=True)
class Delivered:
    """One capture that needs no more handing in. `gap` are the numbers right before it that never arrived."""

    waiting: queue.Waiting
    outcome: Outcome
    entry: int | None
    gap: range
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    def fields(self) -> dict[str, object]:
        """The body, which is an object of JSON."""
        try:
            found = json.loads(self.body)
        except (ValueError, RecursionError) as error:
            raise ServiceAnswerError(f"the service answered {self.status} with what is no JSON") from error
        if not isinstance(found, dict):
            raise ServiceAnswerError(f"the service answered {self.status} with what is no object")
        return found


# Sends a request with a body, if any, and returns what comes back; OSError where nothing does.
Exchange = Callable[[Request, IO[bytes] | None], Answer]


@dataclass(slots=True)
class _Talk:
    """What the service said last: a nonce for the next request, and how far its clock is from ours."""

    nonce: str = ""
    key_id: str = ""
    ahead: timedelta = field(default_factory=timedelta)


@dataclass(frozen=True, slots=True)
class Uploader:
    """A camera, its service, and all that waiting and asking need."""

    camera: Camera
    exchange: Exchange
    now: Callable[[], datetime]
    sleep: Callable[[float], None]
    handing: Handing = Handing.WHOLE
    talk: _Talk = field(default_factory=_Talk)

    def refresh(self) -> None:
        """Keep the service's newest checkpoint, for the captures to come."""
        self._greet(None)

    def deliver(self) -> Iterator[Delivered | Error]:
        """Hand in everything that waits; what cannot be read is said to be so, and keeps nobody else waiting."""
        require_going_on(self.camera)
        self.refresh()
        for waiting in queue.queued(self.camera):
            if isinstance(waiting, Error):
                yield waiting
            elif not waiting.settled:
                yield self._one(waiting)

    def _one(self, waiting: queue.Waiting) -> Delivered:
        """One capture; raises only what keeps all the others waiting too."""
        try:
            device = self.camera.device() if waiting.pooled is None else self.camera.pooled(waiting.pooled)
        except PoolEmptyError as error:
            return self._refused(waiting, error.code, str(error))
        with closing(device.key):
            return self._handed_in(waiting, device)

    def _handed_in(self, waiting: queue.Waiting, device: Device) -> Delivered:
        outcome, answer = Outcome.RECEIVED, None
        try:
            answer = self._sent(waiting, device, self.handing)
            fault = answer.fields() if answer.status >= 400 else {}
        except (MediaError, UnreadableError) as error:
            fault = {"error": error.code, "reason": str(error)}
        if fault.get("error") in _SPOILT and self.handing is Handing.WHOLE:
            # The claim stands in the chain although its file is spoilt: without it there would be a gap.
            waiting.note(queue.CHANGED, fault)
            outcome = Outcome.CHANGED
        if fault and (outcome is Outcome.CHANGED or fault.get("error") == "too-large"):
            try:
                answer = self._sent(waiting, device, Handing.HASH_ONLY)
                fault = answer.fields() if answer.status >= 400 else {}
            except (MediaError, UnreadableError) as error:  # the record itself is gone
                fault = {"error": error.code, "reason": str(error)}
        if answer is not None and not fault:
            return self._kept(waiting, answer, outcome)
        code, reason = str(fault.get("error")), plain(str(fault.get("reason")), 300)
        if code in _STOPPING:
            about = json.dumps({"error": code, "reason": reason}, sort_keys=True).encode() + b"\n"
            put_private(self.camera.path / STOPPED, about)
            raise DeviceStoppedError(f"the service refuses the device {self.camera.name}: {code}, {reason}")
        if answer is not None and answer.status in _NOT_ABOUT_IT:
            raise ServiceAnswerError(f"the service does not hear this device: {code}, {reason}")
        return self._refused(waiting, code, reason)

    def _refused(self, waiting: queue.Waiting, code: str, reason: str) -> Delivered:
        waiting.note(queue.REFUSED, {"error": code, "reason": reason})
        return Delivered(waiting, Outcome.REFUSED, None, range(0), f"{code}: {reason}")

    def _sent(self, waiting: queue.Waiting, device: Device, handing: Handing) -> Answer:
        """The service's answer about the capture itself; what is about the moment is tried again."""
        key_id, answer = _key_id(device), None
        with _body(waiting, handing) as (body, mime, size, digest):
            for attempt in range(ATTEMPTS):
                if not self.talk.nonce or self.talk.key_id != key_id:
                    self._greet(key_id)
                request = Request(
                    "POST",
                    f"{_base(self.camera)}/v1/captures",
                    (
                        ("Host", _authority(_base(self.camera))),
                        ("Content-Type", mime),
                        ("Content-Length", str(size)),
                        ("Content-Digest", content_digest_header(digest)),
                        ("Lightseal-Opening", str(waiting.opening)),
                        ("Idempotency-Key", waiting.claim.hex()),
                    ),
                )
                at = self.now() + self.talk.ahead
                signed = sign_request(request, device.key, key_id, self.talk.nonce, at, (OPENING,))
                self.talk.nonce = ""
                body.seek(0)
                answer = self._asked(signed, body)
                self.talk.nonce = answer.headers.get(NONCE, "")
                if answer.status < 400:
                    return answer
                code = answer.fields().get("error")
                if code in _AGAIN:
                    self.talk.nonce = ""
                elif answer.status in _BUSY:
                    self.sleep(_wait(answer, attempt))
                else:
                    return answer
        said = plain(str(answer.fields().get("error")), 60) if answer else "nothing"
        raise ServiceUnreachableError(
            f"the service was asked {ATTEMPTS} times and answered {said} the last time"
        )

    def _greet(self, key_id: str | None) -> None:
        """Ask for the newest checkpoint and, for a key, for a nonce."""
        base = _base(self.camera)
        query = "" if key_id is None else f"?key={key_id}"
        request = Request("GET", f"{base}/v1/checkpoint{query}", (("Host", _authority(base)),))
        before = self.now()
        answer = self._asked(request, None)
        if answer.status != 200:
            raise ServiceAnswerError(f"the service answered {answer.status} when asked for its checkpoint")
        fields = answer.fields()
        try:
            at = datetime.fromisoformat(str(fields["at"]))
            self.talk.ahead = at.astimezone(UTC) - before if at.tzinfo else timedelta()
            self._keep(str(fields["checkpoint"]))
            if key_id is not None:
                self.talk.nonce, self.talk.key_id = str(fields["nonce"]), key_id
        except (ValueError, KeyError) as error:
            raise ServiceAnswerError("the service's checkpoint cannot be read") from error

    def _keep(self, note: str) -> None:
        """Keep a checkpoint if the service's log signed it and it is no older than ours.

        That it follows from ours is not proven here; whoever audits the log sees both in captures.
        """
        keys = self.camera.log_keys
        try:
            new = open_checkpoint(note.encode(), keys, verify_note)
            known = newest_checkpoint(self.camera)
            if known:
                old = open_checkpoint(known.encode(), keys, verify_note)
                if old.size > new.size or (old.size == new.size and old.root != new.root):
                    raise ServiceAnswerError(
                        "the service's checkpoint is behind, or contradicts, one it showed before"
                    )
        except storage.errors.Error as error:
            raise ServiceAnswerError(f"the service's checkpoint does not hold: {error}") from error
        if note != known:
            put_private(self.camera.path / CHECKPOINT, note.encode())

    def _asked(self, request: Request, body: IO[bytes] | None) -> Answer:
        """What the service answers; where it cannot be reached, after trying again for a while."""
        for attempt in range(ATTEMPTS):
            try:
                if body is not None:
                    body.seek(0)
                return self.exchange(request, body)
            except (OSError, http.client.HTTPException) as error:
                # A request may have arrived although no answer came: its nonce is used up then, so it is not sent again.
                if body is not None:
                    return Answer(503, {}, json.dumps({"error": "no-answer", "reason": str(error)}).encode())
                if attempt + 1 == ATTEMPTS:
                    reason = plain(str(error), 100)
                    raise ServiceUnreachableError(
                        f"the service at {request.url} gave no answer ({reason})"
                    ) from error
                self.sleep(float(2**attempt))
        raise ServiceUnreachableError("the service was not asked")

    def _kept(self, waiting: queue.Waiting, answer: Answer, outcome: Outcome) -> Delivered:
        """Write the receipt beside the file, if it proves what it must."""
        fields = answer.fields()
        try:
            receipt = Receipt.parse(str(fields["receipt"]))
            receipt.check(self.camera.log_keys, verify_note)
            payload = parse_payload(receipt.payload)
        except (KeyError, storage.errors.Error) as error:
            raise ServiceAnswerError(f"the service's receipt does not hold: {error}") from error
        if payload.get("claim") != waiting.claim.hex():
            raise ServiceAnswerError("the service's receipt is about another capture")
        put_private(waiting.receipt, str(receipt).encode())
        if waiting.pooled is not None:
            self.camera.drop(waiting.pooled)
        return Delivered(waiting, outcome, receipt.proof.index, _range(fields.get("gap")))


def over_http(seconds: float = SECONDS) -> Exchange:
    """Requests over a connection each; no redirect is followed and no proxy used."""

    def exchange(request: Request, body: IO[bytes] | None) -> Answer:
        parts = urlsplit(request.url)
        host, port = parts.hostname or "", parts.port
        if parts.scheme == "https":
            connection: http.client.HTTPConnection = http.client.HTTPSConnection(
                host, port, timeout=seconds, context=ssl.create_default_context()
            )
        else:
            connection = http.client.HTTPConnection(host, port, timeout=seconds)
        target = f"{parts.path}{'?' if parts.query else ''}{parts.query}"
        with closing(connection):
            connection.putrequest(request.method, target, skip_host=True, skip_accept_encoding=True)
            for name, value in request.headers:
                connection.putheader(name, value)
            connection.endheaders()
            refused: OSError | None = None
            try:
                while body is not None and (piece := body.read(_STEP)):
                    connection.send(piece)
            except (BrokenPipeError, ConnectionResetError) as error:
                refused = error  # it may have been refused before all of it was read: the answer says why
            try:
                response = connection.getresponse()
            except (OSError, http.client.HTTPException):
                raise refused or ConnectionResetError("no answer came") from None
            content = response.read(MAX_ANSWER + 1)
            if len(content) > MAX_ANSWER:
                raise ServiceAnswerError("the service's answer is longer than any we expect")
            headers = {name.lower(): value for name, value in response.getheaders()}
            return Answer(response.status, headers, content)

    return exchange


def require_service(camera: Camera) -> None:
    """Refuse to hand in where no service, or none whose log could be checked, is known."""
    parts = urlsplit(camera.service or "")
    if parts.scheme not in ("http", "https") or not parts.hostname or not camera.log_keys:
        raise ServiceMissingError(f"the device {camera.name} knows no service to hand its captures in to")


def _range(value: object) -> range:
    match value:
        case [int(first), int(last)]:
            return range(first, last + 1)
        case _:
            return range(0)


def _base(camera: Camera) -> str:
    require_service(camera)
    return (camera.service or "").rstrip("/")


def _authority(base: str) -> str:
    """As RFC 9421, 2.2.3 has it: in lower case, without the scheme's own port."""
    parts = urlsplit(base)
    host = parts.netloc.rpartition("@")[2].lower()
    return host.removesuffix({"http": ":80", "https": ":443"}[parts.scheme])


def _key_id(device: Device) -> str:
    return hashlib.sha256(encoded(device.chain[0])).hexdigest()


@contextmanager
def _body(waiting: queue.Waiting, handing: Handing) -> Iterator[tuple[IO[bytes], str, int, bytes]]:
    """What is sent, open, with its type, its length and its SHA-256."""
    try:
        with waiting.media.open("rb", buffering=0) as file:
            media = Media.of(file, waiting.file, MAX_BYTES)
            if handing is Handing.HASH_ONLY:
                store = locate(media)
                if store is None:
                    raise UnreadableError(f"the capture {waiting.file} carries no signed record any more")
                yield io.BytesIO(store), RECORD_TYPE, len(store), hashlib.sha256(store).digest()
                return
            file.seek(0)
            digest = hashlib.file_digest(file, "sha256").digest()
            yield file, media.kind.value, media.size, digest
    except OSError as error:
        reason = error.strerror or "unknown reason"
        raise UnreadableError(f"the capture {waiting.file} cannot be read ({reason})") from error


def _wait(answer: Answer, attempt: int) -> float:
    asked = answer.headers.get("retry-after", "")
    return min(float(asked) if asked.isascii() and asked.isdigit() else float(2**attempt), MAX_WAIT)
