"""The service's side of handing captures in, over HTTP: `POST /v1/captures` and `GET /v1/checkpoint`.

The process that listens parses headers and nothing else: what is sent goes to the disk, counted
and hashed on the way, and a worker without a network looks at it. Headers have limits before
anything is taken apart, and the signature holds before the first byte of the body is read.
Whoever is refused gets a code, a reason and a remedy, and a line in the log says so, without
names of files, places or media.
"""

import asyncio
import hashlib
import json
import logging
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import IO, Any, ClassVar

from starlette.applications import Starlette
from starlette.requests import ClientDisconnect
from starlette.requests import Request as Received
from starlette.responses import Response
from starlette.routing import Route

import authn.errors
import detector.errors
import storage.errors
import tools.errors
from authn.http_signature import Request, require_plain_headers
from tools.errors import Error
from tools.home import Home
from tools.intake import MAX_BODY, Admitted, Intake
from tools.intake_answers import receipt_of, refusal, status_of, status_of_receipt
from tools.intake_room import SPACE, CrowdedError, Room, Space
from tools.serving import App

THREADS = 2
MAX_WAITING = 64
_OURSELVES = frozenset({"localhost", "127.0.0.1", "[::1]"})
NONCE_HEADER = "lightseal-nonce"
_OURS = (authn.errors.Error, detector.errors.Error, storage.errors.Error, tools.errors.Error)
_HEADERS = {
    "cache-control": "no-store",
    "content-security-policy": "default-src 'none'; sandbox",
    "x-content-type-options": "nosniff",
}
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Patience:
    """How long a body may take, and how long nothing of it may come."""

    body_seconds: float = 120.0
    piece_seconds: float = 20.0


class LengthMismatchError(Error):
    """The body has not the length that was announced."""

    code: ClassVar[str] = "length-mismatch"
    remedy: ClassVar[str] = "Send the whole body, exactly as long as Content-Length says."


class TooLargeError(Error):
    """The body is larger than is taken."""

    code: ClassVar[str] = "too-large"
    remedy: ClassVar[str] = "Hand in the signed record alone: --hash-only."


class TooSlowError(Error):
    """The body did not come in time."""

    code: ClassVar[str] = "too-slow"
    remedy: ClassVar[str] = (
        "Try again over a better network, or hand in the signed record alone: --hash-only."
    )


class SpoolError(Error):
    """The body cannot be written to the disk."""

    code: ClassVar[str] = "disk-unusable"
    remedy: ClassVar[str] = "Try again later; the operator should see to the disk of temporary files."


class KeyIdError(Error):
    """The query does not name a key."""

    code: ClassVar[str] = "key-id-malformed"
    remedy: ClassVar[str] = "Ask with key=, the SHA-256 of the device's certificate in lower-case hex."


def routes(intake: Intake, patience: Patience = Patience(), space: Space = SPACE) -> list[Route]:
    """The two routes; whoever composes them closes `intake` afterwards."""
    desk = _Desk(intake, patience, Room(space))
    return [
        Route("/v1/captures", desk.captures, methods=["POST"]),
        Route("/v1/checkpoint", desk.checkpoint, methods=["GET"]),
    ]


@contextmanager
def intake_service(
    home: Home,
    base_url: str | None,
    now: Callable[[], datetime],
    patience: Patience = Patience(),
    space: Space = SPACE,
) -> Iterator[App]:
    """The two routes alone as an application, as long as the block lasts."""
    with Intake(home, base_url, now) as intake:
        yield Starlette(routes=routes(intake, patience, space))


class _Desk:
    """The requests of one process, with a few threads for everything that blocks."""

    def __init__(self, intake: Intake, patience: Patience, room: Room) -> None:
        self._intake = intake
        self._patience = patience
        self._room = room
        self._threads = ThreadPoolExecutor(THREADS, "intake")
        self._waiting = 0

    async def checkpoint(self, received: Received) -> Response:
        """The checkpoint that devices are shown now, and, for a key, a nonce."""
        key_id = received.query_params.get("key")
        try:
            if key_id is not None and (len(key_id) != 64 or not _is_hex(key_id)):
                raise KeyIdError("key is not a SHA-256 in hex")
            note = await self._run(self._intake.checkpoint)
        except _OURS as error:
            return self._refusal(error, None, None)
        about: dict[str, object] = {"at": self._intake.clock().isoformat(), "checkpoint": note}
        if key_id is not None:
            about["nonce"] = self._intake.nonce(key_id)
        return _json(200, about)

    async def captures(self, received: Received) -> Response:
        """One capture, by the plan of `tools.intake`."""
        key_id: str | None = None
        admitted: Admitted | None = None
        try:
            request = self._request(received)
            length = _length(request)
            admitted = await self._run(self._intake.admit, request)
            key_id = admitted.signed.key_id
            if length is not None and length > admitted.limit:
                raise TooLargeError(f"a body of {length} bytes was announced, and {admitted.limit} are taken")
            most = admitted.limit if length is None else length
            with (
                self._room.taken(admitted.device, most),
                tempfile.NamedTemporaryFile(prefix="lightseal-intake-") as file,
            ):
                digest = await self._spool(received, file.file, length, most)
                taken = await self._run(self._intake.receive, admitted, Path(file.name), digest)
        except _OURS as error:
            return self._refusal(error, admitted, key_id)
        _log.info("capture %d of %s received, entry %d", taken.capture.counter, admitted.device, taken.entry)
        return _json(status_of_receipt(taken), receipt_of(taken), self._next(key_id))

    def _request(self, received: Received) -> Request:
        """The request with our own address in the place of what its Host header says, as far as that is not ours."""
        headers = tuple(
            (name.decode("latin-1"), value.decode("latin-1")) for name, value in received.headers.raw
        )
        require_plain_headers(headers)
        query = received.scope["query_string"].decode("latin-1")
        path = received.scope["raw_path"].decode("latin-1")
        base = self._intake.base_url or _listening(received)
        return Request(received.method, f"{base}{path}{'?' if query else ''}{query}", headers)

    async def _spool(self, received: Received, file: IO[bytes], length: int | None, limit: int) -> bytes:
        """Write the body to the disk, no more of it than was announced or is taken, and return its SHA-256."""
        digest, size = hashlib.sha256(), 0
        try:
            async with asyncio.timeout(self._patience.body_seconds):
                async for piece in self._pieces(received):
                    size += len(piece)
                    if size > limit:
                        raise TooLargeError(f"the body has more than {limit} bytes")
                    digest.update(piece)
                    await asyncio.to_thread(file.write, piece)
                await asyncio.to_thread(file.flush)
        except TimeoutError as error:
            raise TooSlowError(f"the body did not come in time; {size} bytes of it did") from error
        except ClientDisconnect as error:
            raise LengthMismatchError(f"the body ended after {size} bytes") from error
        except OSError as error:
            raise SpoolError(f"the body cannot be kept ({error.strerror or 'unknown reason'})") from error
        if length is not None and size != length:
            raise LengthMismatchError(f"the body has {size} bytes, and {length} were announced")
        return digest.digest()

    async def _pieces(self, received: Received) -> AsyncIterator[bytes]:
        stream = received.stream()
        while True:
            async with asyncio.timeout(self._patience.piece_seconds):
                try:
                    piece = await anext(stream)
                except StopAsyncIteration:
                    return
            yield piece

    async def _run(self, do: Callable[..., Any], *arguments: object) -> Any:
        if self._waiting >= MAX_WAITING:
            raise CrowdedError(f"{self._waiting} captures are being looked at")
        self._waiting += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._threads, do, *arguments)
        finally:
            self._waiting -= 1

    def _next(self, key_id: str | None) -> dict[str, str]:
        return {} if key_id is None else {NONCE_HEADER: self._intake.nonce(key_id)}

    def _refusal(self, error: Exception, admitted: Admitted | None, key_id: str | None) -> Response:
        about = refusal(error)
        code, status = str(about["error"]), status_of(str(about["error"]))
        said = (
            logging.ERROR
            if status >= 500 or code in ("chain-fork", "certificate-reused")
            else logging.WARNING
        )
        device = "-" if admitted is None else admitted.device
        _log.log(said, "capture refused: %s, device %s, key %s", code, device, key_id or "-")
        more = self._next(key_id)
        if status in (429, 503):
            more["retry-after"] = "5"
        # What was not read of the body must not be taken for the next request.
        return _json(status, about, {**more, "connection": "close"})


def _length(request: Request) -> int | None:
    """How long the body is said to be; None where it comes in chunks (RFC 9112, 6.3: never both)."""
    text, encoding = request.header("content-length"), request.header("transfer-encoding")
    if encoding is not None:
        if text is not None:
            raise LengthMismatchError("the request has a Content-Length and a Transfer-Encoding")
        return None
    if text is None or not text.isascii() or not text.isdigit() or len(text) > 15:
        raise LengthMismatchError("Content-Length is no number")
    if int(text) > MAX_BODY:
        raise TooLargeError(f"a body of {text} bytes was announced")
    return int(text)


def _listening(received: Received) -> str:
    """The address that was connected to, where no other is said to be ours.

    Of what the Host header says only this counts: by which of its names this machine reached itself.
    """
    host, port = received.scope["server"]
    shown, tail = f"[{host}]" if ":" in host else host, "" if port in {80, 443} else f":{port}"
    here = f"{shown}{tail}"
    named = [each.lower() for each in received.headers.getlist("host")]
    if shown in _OURSELVES and named in [[f"{name}{tail}"] for name in _OURSELVES]:
        (here,) = named
    return f"{received.scope['scheme']}://{here}"


def _is_hex(text: str) -> bool:
    return all(each in "0123456789abcdef" for each in text)


def _json(status: int, about: dict[str, object], more: dict[str, str] | None = None) -> Response:
    body = json.dumps(about, sort_keys=True).encode() + b"\n"
    return Response(body, status, {**_HEADERS, **(more or {})}, media_type="application/json")
