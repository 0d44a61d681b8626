"""Hand captures in: one signed request each, the whole file or its signed record alone, until a receipt is here.

In the order of their numbers, so that what is missing is missing at the service too. Asking
again is harmless: the service answers the same capture with the same entry. A receipt is kept
only if it proves that this very claim is recorded by the log that the device was enrolled
with. Where the service says that the device is revoked, the device stops, here and in `take`.

The device's clock may be wrong: requests are signed by the service's, captures by none.
"""

import hashlib
import http.client
import json
from collections.abc import Callable, Iterator
from contextlib import closing
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
from authn.plain import plain
from storage.checkpoint import open_checkpoint
from storage.payload import parse as parse_payload
from storage.receipt import Receipt
from tools.camera import queue
from tools.camera.exchange import Answer, Exchange, ServiceAnswerError
from tools.camera.folder import CHECKPOINT, Camera, PoolEmptyError, put_private
from tools.camera.handing import Handing, body_of
from tools.camera.take import (
    STOPPED,
    DeviceStoppedError,
    newest_checkpoint,
    require_going_on,
)
from tools.errors import Error, ServiceUnreachableError, UnreadableError, UsageError

ATTEMPTS = 5
MAX_WAIT = 60.0
OPENING, AGAIN, NONCE = "lightseal-opening", "idempotency-key", "lightseal-nonce"
_STOPPING = frozenset(
    {"device-revoked", "device-retired", "device-suspended", "chain-fork", "certificate-reused"}
)
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
_ABOUT_IT = frozenset({403, 409, 413, 415, 422})
"""Only with one of these a refusal is about the capture, and stands; every other is about the moment or the request."""
_BUSY = frozenset({408, 429})
_NO_ANSWER = "no-answer"
_NOTHING = Answer(503, {}, b"")
_MOST_AHEAD = timedelta(days=36525)


class CaptureHeldUpError(Error):
    """The service cannot take this capture now, for a reason of its own; the capture waits."""

    code: ClassVar[str] = "capture-held-up"
    remedy: ClassVar[str] = (
        "Run 'lightseal upload' again later; if it stays so, ask the operator of the service."
    )


class ServiceMissingError(UsageError):
    """The device was enrolled with no service, or with none whose log it could check."""

    code: ClassVar[str] = "service-missing"
    remedy: ClassVar[str] = "Enrol the device with its service: 'lightseal device join'."


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
        held_up = False
        for waiting in queue.queued(self.camera):
            if isinstance(waiting, Error):
                yield waiting
            elif not waiting.settled:
                done = self._one(waiting)
                if held_up and isinstance(
                    done, CaptureHeldUpError
                ):  # two on end: it is not about the captures
                    raise ServiceUnreachableError(str(done)) from done
                held_up = isinstance(done, CaptureHeldUpError)
                yield done

    def _one(self, waiting: queue.Waiting) -> Delivered | CaptureHeldUpError:
        """One capture; raises only what keeps all the others waiting too."""
        try:
            device = self.camera.device() if waiting.pooled is None else self.camera.pooled(waiting.pooled)
        except PoolEmptyError as error:
            return self._refused(waiting, error.code, str(error))
        try:
            with closing(device.key):
                return self._handed_in(waiting, device)
        except CaptureHeldUpError as error:
            return error

    def _handed_in(self, waiting: queue.Waiting, device: Device) -> Delivered:
        outcome, answer = Outcome.RECEIVED, None
        try:
            answer = self._sent(waiting, device, self.handing)
            fault = answer.fault()
        except (MediaError, UnreadableError) as error:
            fault = {"error": error.code, "reason": str(error)}
        if fault.get("error") in _SPOILT and self.handing is Handing.WHOLE:
            # The claim stands in the chain although its file is spoilt: without it there would be a gap.
            waiting.note(queue.CHANGED, fault)
            outcome = Outcome.CHANGED
        if fault and (outcome is Outcome.CHANGED or fault.get("error") == "too-large"):
            try:
                answer = self._sent(waiting, device, Handing.HASH_ONLY)
                fault = answer.fault()
            except (MediaError, UnreadableError) as error:  # the record itself is gone
                fault = {"error": error.code, "reason": str(error)}
        if answer is not None and not fault:
            return self._kept(waiting, answer, outcome)
        code, reason = str(fault.get("error")), plain(str(fault.get("reason")), 300)
        if code in _STOPPING:
            about = json.dumps({"error": code, "reason": reason}, sort_keys=True).encode() + b"\n"
            put_private(self.camera.path / STOPPED, about)
            raise DeviceStoppedError(f"the service refuses the device {self.camera.name}: {code}, {reason}")
        if answer is not None and answer.status not in _ABOUT_IT:
            raise ServiceAnswerError(f"the service does not hear this device: {code}, {reason}")
        return self._refused(waiting, code, reason)

    def _refused(self, waiting: queue.Waiting, code: str, reason: str) -> Delivered:
        waiting.note(queue.REFUSED, {"error": code, "reason": reason})
        return Delivered(waiting, Outcome.REFUSED, None, range(0), f"{code}: {reason}")

    def _sent(self, waiting: queue.Waiting, device: Device, handing: Handing) -> Answer:
        """The service's answer about the capture itself; what is about the moment is tried again."""
        key_id, answer, code = _key_id(device), _NOTHING, ""
        with body_of(waiting, handing) as (body, mime, size, digest):
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
                code = _code(answer)
                if code in _AGAIN:
                    self.talk.nonce = ""
                elif _busy(answer):
                    self.sleep(_wait(answer, attempt))
                else:
                    return answer
        kind = CaptureHeldUpError if answer.status >= 500 and code != _NO_ANSWER else ServiceUnreachableError
        raise kind(
            f"the service was asked {ATTEMPTS} times about {waiting.folder.name}"
            f" and answered {plain(code, 60)} the last time"
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
            if abs(self.talk.ahead) > _MOST_AHEAD:
                raise ServiceAnswerError("the service's time is none")
            self._keep(str(fields["checkpoint"]))
            if key_id is not None:
                self.talk.nonce, self.talk.key_id = str(fields["nonce"]), key_id
        except (ValueError, KeyError, OverflowError) as error:
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
        """What the service answers; where it cannot be reached or is busy, after trying again for a while."""
        for attempt in range(ATTEMPTS):
            try:
                if body is not None:
                    body.seek(0)
                answer = self.exchange(request, body)
                if body is not None or not _busy(answer):
                    return answer
                if attempt + 1 < ATTEMPTS:
                    self.sleep(_wait(answer, attempt))
            except (OSError, http.client.HTTPException) as error:
                # A request may have arrived although no answer came: its nonce is used up then, so it is not sent again.
                if body is not None:
                    about = {"error": _NO_ANSWER, "reason": str(error), "remedy": "Ask again."}
                    return Answer(503, {}, json.dumps(about).encode())
                if attempt + 1 == ATTEMPTS:
                    reason = plain(str(error), 100)
                    raise ServiceUnreachableError(
                        f"the service at {request.url} gave no answer ({reason})"
                    ) from error
                self.sleep(float(2**attempt))
        raise ServiceUnreachableError(f"the service at {request.url} was busy {ATTEMPTS} times")

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


def _busy(answer: Answer) -> bool:
    """Whether whoever answered may do better in a moment: the service, or what stands in front of it."""
    return answer.status in _BUSY or answer.status >= 500


def _code(answer: Answer) -> str:
    """The code of a refusal; a proxy that says that the service is busy has none, and need not."""
    try:
        return str(answer.fault().get("error"))
    except ServiceAnswerError:
        if not _busy(answer):
            raise
        return _NO_ANSWER


def _wait(answer: Answer, attempt: int) -> float:
    asked = answer.headers.get("retry-after", "")
    return min(float(asked) if asked.isascii() and asked.isdigit() else float(2**attempt), MAX_WAIT)
