"""The log over HTTP: checkpoints, tiles and bundles as c2sp.org/tlog-tiles wants them, proofs, and adding.

Reading is for everyone and shows commitments only. Adding needs a token, and is answered
when the record is durable. What is served is no proof by itself: readers check tiles and
proofs against a checkpoint whose signature they verify. Encryption on the way, and clients
that never finish their headers, are left to the server and to what stands in front of it.
"""

import asyncio
import gzip
import json
import logging
import math
import re
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, TypeVar

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from storage import base64text
from storage.checkpoint import MAX_SIZE, Checkpoint
from storage.entry import Kind
from storage.errors import (
    ClockError,
    ConflictingRecordError,
    Error,
    LedgerDamagedError,
    LedgerError,
    LedgerFrozenError,
    MalformedError,
    ProofError,
    UnknownEntryError,
)
from storage.ledger import Ledger
from storage.merkle import TILE_WIDTH, verify_inclusion
from storage.proof import InclusionProof
from storage.record import Record
from storage.sequencer import OverloadedError, OversizeError, Sequencer
from storage.tile import MalformedTilePathError, Tile
from storage.view import parsed

MAX_BODY_BYTES = 128 << 10
READERS = 4
MAX_CACHED_TILES = 256
WITNESS_POLL_SECONDS = 0.1
RETRY_SECONDS = 5
_DECIMAL = re.compile("0|[1-9][0-9]{0,18}")
_FOREVER = "public, max-age=31536000, immutable"
_TEXT = "text/plain; charset=utf-8"
_WITNESS = b"wait=witness"
_WAITS = {b"", b"wait=receipt", _WITNESS}
_SAFE = {"X-Content-Type-Options": "nosniff", "Content-Security-Policy": "default-src 'none'; sandbox"}
_PUBLIC = {**_SAFE, "Access-Control-Allow-Origin": "*"}
_ADD_HEADERS = [
    (b"content-type", b"application/json"),
    (b"cache-control", b"no-store"),
    *((name.lower().encode(), value.encode()) for name, value in _SAFE.items()),
]
_T = TypeVar("_T")
_log = logging.getLogger(__name__)


class RequestError(Error):
    """What was asked for cannot be understood or is not allowed."""

    code = "request-malformed"
    remedy = 'Send one JSON object {"kind", "payload", "salt", "key"}, salt and key in base64.'


class UnauthorisedError(RequestError):
    """The request names no writer whom the operator knows."""

    code = "unauthorised"
    remedy = "Send the token that the log's operator gave you, as 'Authorization: Bearer TOKEN'."


class NotThereError(RequestError):
    """There is nothing under this path and method."""

    code = "not-found"
    remedy = "See c2sp.org/tlog-tiles for the paths of a log."


class BodyTooLargeError(RequestError):
    """The body is larger than is read."""

    code = "body-too-large"
    remedy = f"Send at most {MAX_BODY_BYTES} bytes; record the digest of what is larger."


class SlowBodyError(RequestError):
    """The body did not come in time."""

    code = "body-too-slow"
    remedy = "Send the request in one piece."


class RateError(OverloadedError):
    """A writer adds faster than the operator allows one writer to."""

    code = "rate-exceeded"
    remedy = "Wait as long as Retry-After says; ask the operator for more if that is too slow."


@dataclass(frozen=True, slots=True)
class Settings:
    """What the operator decides, and what the app is told by others.

    `published` returns the note that is served, `witnessed` the size that the newest witnessed
    checkpoint covers; both may block. `authorise` turns a token into the writer's name; it is
    asked on every addition and has to answer at once, in constant time.
    """

    published: Callable[[], str]
    witnessed: Callable[[], int]
    authorise: Callable[[str], str | None]
    adds_per_second: float = 5000
    burst: int = 10000
    body_seconds: float = 10
    witness_seconds: float = 30
    max_reads: int = 512


def log_app(ledger: Ledger, sequencer: Sequencer | None, settings: Settings) -> Starlette:
    """Serve `ledger`, opened for reading only; without a sequencer nothing can be added.

    Who opened ledger and sequencer closes them, after the server has ended.
    """
    pool = ThreadPoolExecutor(READERS, "reader")
    reads = _Reads(ledger, settings, pool)
    routes = [
        Route("/checkpoint", reads.checkpoint, methods=["GET"]),
        Route("/tile/{tile:path}", reads.tile, methods=["GET"]),
        Route("/proof/{index}", reads.proof, methods=["GET"]),
        Route("/consistency/{old}/{new}", reads.consistency, methods=["GET"]),
    ]
    if sequencer is not None:
        routes.insert(0, Route("/add", _Add(sequencer, settings, reads), methods=["POST"]))

    @asynccontextmanager
    async def lifespan(_app: Starlette) -> AsyncIterator[None]:
        yield
        pool.shutdown()

    app = Starlette(
        routes=routes,
        lifespan=lifespan,
        exception_handlers={Error: _refused, HTTPException: _not_routed, Exception: _failed},
    )
    app.router.redirect_slashes = False
    return app


class _Reads:
    """What everyone may read, up to the published checkpoint and not an entry further."""

    def __init__(self, ledger: Ledger, settings: Settings, pool: ThreadPoolExecutor) -> None:
        self._ledger = ledger
        self._settings = settings
        self._pool = pool
        self._pending = 0
        self._size = 0
        self._witnessed = 0
        self._next_look = 0.0
        # Full tiles never change. Bounded: a tile is 8 KiB, a bundle of our entries below 64 KiB.
        self._kept = lru_cache(MAX_CACHED_TILES)(self._bytes)
        self._kept_packed = lru_cache(MAX_CACHED_TILES)(self._packed)

    async def in_thread(self, read: Callable[..., _T], *arguments: object) -> _T:
        """Run something that blocks, as long as not too much is waiting for its turn."""
        if self._pending >= self._settings.max_reads:
            raise OverloadedError(f"{self._pending} requests are waiting to be answered.", 1)
        self._pending += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._pool, read, *arguments)
        finally:
            self._pending -= 1

    async def checkpoint(self, _request: Request) -> Response:
        note, _ = await self.in_thread(self._published)
        return Response(note, media_type=_TEXT, headers={**_PUBLIC, "Cache-Control": "no-cache"})

    async def tile(self, request: Request) -> Response:
        if b"%" in request.scope.get("raw_path", b""):
            raise MalformedTilePathError("The path of a tile needs no percent sign.")
        tile = Tile.parse(f"tile/{request.path_params['tile']}")
        headers = {**_PUBLIC, "Cache-Control": _FOREVER}
        read = self._tile
        if tile.level is None:  # bundles should be compressed (c2sp.org/tlog-tiles, "Log entries")
            headers["Vary"] = "Accept-Encoding"
            if _accepts_gzip(request.headers.get("accept-encoding", "")):
                headers["Content-Encoding"] = "gzip"
                read = self._packed_tile
        return Response(
            await self.in_thread(read, tile), media_type="application/octet-stream", headers=headers
        )

    async def proof(self, request: Request) -> Response:
        text = await self.in_thread(self._proof, _number(request.path_params["index"]))
        return Response(text, media_type=_TEXT, headers={**_PUBLIC, "Cache-Control": "no-cache"})

    async def consistency(self, request: Request) -> Response:
        old, new = (_number(request.path_params[name]) for name in ("old", "new"))
        text = await self.in_thread(self._consistency, old, new)
        return Response(text, media_type=_TEXT, headers={**_PUBLIC, "Cache-Control": _FOREVER})

    async def receipt(self, index: int) -> bytes:
        """Return the receipt for an entry, whether or not a published checkpoint covers it."""
        return await self.in_thread(lambda: str(self._ledger.prove(index)).encode())

    async def witnessed(self, index: int) -> bool:
        """Wait until a witnessed checkpoint covers `index`; false where that takes too long."""
        loop = asyncio.get_running_loop()
        until = loop.time() + self._settings.witness_seconds
        while True:
            if loop.time() >= self._next_look:  # one look for all who wait
                self._next_look = loop.time() + WITNESS_POLL_SECONDS
                self._witnessed = max(self._witnessed, await self.in_thread(self._settings.witnessed))
            if index < self._witnessed:
                return True
            if loop.time() >= until:
                return False
            await asyncio.sleep(WITNESS_POLL_SECONDS)

    def _published(self) -> tuple[str, Checkpoint]:
        note = self._settings.published()
        checkpoint = parsed(note.encode())
        self._size = max(self._size, checkpoint.size)
        return note, checkpoint

    def _require(self, tile: Tile) -> None:
        if not tile.fits(self._size):  # what was published once stays published
            self._published()
        if not tile.fits(self._size):
            raise UnknownEntryError("The published checkpoint does not cover this tile.")

    def _tile(self, tile: Tile) -> bytes:
        self._require(tile)
        return self._kept(tile) if tile.width == TILE_WIDTH else self._bytes(tile)

    def _packed_tile(self, tile: Tile) -> bytes:
        self._require(tile)
        return self._kept_packed(tile) if tile.width == TILE_WIDTH else self._packed(tile)

    def _bytes(self, tile: Tile) -> bytes:
        if tile.level is None:
            return self._ledger.bundle(tile.number, tile.width)
        return self._ledger.tile(tile.level, tile.number, tile.width)

    def _packed(self, tile: Tile) -> bytes:
        return gzip.compress(self._bytes(tile), 6, mtime=0)

    def _proof(self, index: int) -> str:
        """Prove an entry, erased or not, under the checkpoint that is served."""
        note, checkpoint = self._published()
        if index >= checkpoint.size:
            raise UnknownEntryError(f"The published checkpoint does not cover entry {index}.")
        with self._ledger.at_once() as view:
            leaf = view.entry(index).leaf
            hashes = view.tree(checkpoint.size).inclusion(index)
        try:
            verify_inclusion(leaf, index, checkpoint.size, hashes, checkpoint.root)
        except ProofError as error:
            raise LedgerDamagedError(f"Entry {index} does not lead to the published checkpoint.") from error
        return str(InclusionProof(index, hashes, note.encode()))

    def _consistency(self, old: int, new: int) -> str:
        if new > self._size:
            self._published()
        if not old <= new <= self._size:
            raise UnknownEntryError(f"No proof leads from {old} to {new} entries, of {self._size} published.")
        return "".join(f"{base64text.encode(item)}\n" for item in self._ledger.consistency(old, new))


class _Add:
    """Adding one record: the hot path, so it speaks ASGI and allocates little."""

    def __init__(self, sequencer: Sequencer, settings: Settings, reads: _Reads) -> None:
        self._sequencer = sequencer
        self._settings = settings
        self._reads = reads
        self._answers = _Answers()
        self._free_at: dict[str, float] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        # 1. Who adds, is there room, and may they add now (RFC 6750, 2.1; RFC 6585, 4)? Under overload
        #    this is all that is done for a request: nothing was read yet.
        # 2. How much is to be proved before the answer?
        # 3. The body, within limits of size and time, and the record in it.
        # 4. The record is durable, and a signed checkpoint covers it, or the client gets an error.
        # 5. The answer. A client that misses it sends the same again and gets the same index.
        writer = _writer(scope, self._settings.authorise)  # 1
        self._sequencer.require_room()
        self._spend(writer)
        wait = scope["query_string"]  # 2
        if wait not in _WAITS:
            raise RequestError("The query is not one of wait=receipt and wait=witness.")
        try:
            async with asyncio.timeout(self._settings.body_seconds):
                body = await _body(scope, receive)  # 3
        except TimeoutError as error:
            raise SlowBodyError("The body did not come in time.") from error
        record = _record(body)
        (index,) = await self._answers.to(self._sequencer.submit((record,)))  # 4
        if wait == _WITNESS and not await self._reads.witnessed(index):
            await _answer(send, 202, _placed(index, record), (b"retry-after", b"1"))
        elif wait:
            await _answer(send, 201, await self._reads.receipt(index))
        else:
            await _answer(send, 201, _placed(index, record))  # 5

    def _spend(self, writer: str) -> None:
        """Let a writer add `adds_per_second` in the long run, and at most `burst` at once."""
        now = asyncio.get_running_loop().time()
        interval = 1 / self._settings.adds_per_second
        free_at = max(self._free_at.get(writer, 0), now) + interval
        wait = free_at - now - self._settings.burst * interval
        if wait > interval / 2:  # whole steps: sums of fractions are not exact
            raise RateError(f"{writer} adds too fast.", math.ceil(wait))
        self._free_at[writer] = free_at


class _Answers:
    """Brings results from the sequencer's thread to the event loop, waking it once for a whole batch."""

    def __init__(self) -> None:
        self._ready: deque[tuple[asyncio.Future[tuple[int, ...]], Future[tuple[int, ...]]]] = deque()
        self._woken = False

    async def to(self, future: Future[tuple[int, ...]]) -> tuple[int, ...]:
        """Wait for the indices without holding up the loop."""
        loop = asyncio.get_running_loop()
        waiter: asyncio.Future[tuple[int, ...]] = loop.create_future()

        def settled(settled: Future[tuple[int, ...]]) -> None:  # in the sequencer's thread
            self._ready.append((waiter, settled))
            if not self._woken:
                self._woken = True
                loop.call_soon_threadsafe(self._deliver)

        future.add_done_callback(settled)
        return await waiter

    def _deliver(self) -> None:
        self._woken = False  # before the queue is emptied: what comes later wakes the loop again
        while self._ready:
            waiter, settled = self._ready.popleft()
            error = settled.exception()
            if waiter.done():
                continue  # the client went away; its record is recorded all the same
            if error is None:
                waiter.set_result(settled.result())
            else:
                waiter.set_exception(error)


def _writer(scope: Scope, authorise: Callable[[str], str | None]) -> str:
    for name, value in scope["headers"]:
        if name == b"authorization" and value[:7].lower() == b"bearer ":
            writer = authorise(value[7:].decode("latin-1").strip())
            if writer is not None:
                return writer
    raise UnauthorisedError("The request carries no token that is known here.")


async def _body(scope: Scope, receive: Receive) -> bytes:
    """Read the body, and stop as soon as it is too large."""
    for name, value in scope["headers"]:
        if name == b"content-length" and int(value) > MAX_BODY_BYTES:
            raise BodyTooLargeError(f"A body of {int(value)} bytes was announced.")
    body = bytearray()
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise RequestError("The client went away before its request was complete.")
        body += message.get("body", b"")
        if len(body) > MAX_BODY_BYTES:
            raise BodyTooLargeError(f"The body has more than {MAX_BODY_BYTES} bytes.")
        if not message.get("more_body", False):
            return bytes(body)


def _record(body: bytes) -> Record:
    try:
        fields = _READER.decode(body.decode())
        kind = Kind(fields.pop("kind"))
        # Written by the standard library, then held against the canonical form by `Record`: parsed once.
        payload = _WRITER.encode(fields.pop("payload")).encode("ascii")
        salt, key = base64text.decode_hash(fields.pop("salt")), base64text.decode_hash(fields.pop("key"))
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise RequestError("The body is not a record.") from error
    if fields:
        raise RequestError("The body has fields that a record does not have.")
    return Record(kind, payload, salt, key)


def _unambiguous(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) != len(pairs):
        raise ValueError("a name stands twice")
    return fields


# Made once: `json.loads` and `json.dumps` with options make them anew in every call.
_READER = json.JSONDecoder(object_pairs_hook=_unambiguous)
_WRITER = json.JSONEncoder(sort_keys=True, separators=(",", ":"))


def _placed(index: int, record: Record) -> bytes:
    return b'{"index":%d,"commitment":"%s"}\n' % (index, base64text.encode(record.commitment).encode())


async def _answer(send: Send, status: int, body: bytes, *headers: tuple[bytes, bytes]) -> None:
    length = (b"content-length", str(len(body)).encode())
    await send(
        {"type": "http.response.start", "status": status, "headers": [*_ADD_HEADERS, length, *headers]}
    )
    await send({"type": "http.response.body", "body": body})


def _number(text: str) -> int:
    if not _DECIMAL.fullmatch(text) or int(text) >= MAX_SIZE:
        raise NotThereError("The path holds no number as we would write it.")
    return int(text)


def _accepts_gzip(accepted: str) -> bool:
    """RFC 9110, 12.5.3, as far as gzip is concerned; without a word, nothing is packed."""
    for item in accepted.split(","):
        coding, _, weight = item.strip().lower().partition(";")
        if coding.strip() == "gzip":
            return weight.replace(" ", "") not in {"q=0", "q=0.0", "q=0.00", "q=0.000"}
    return False


# The first that fits. What is the operator's to repair is 5xx, and 503 where it may pass by itself.
_STATUSES: tuple[tuple[type[Error], int], ...] = (
    (OverloadedError, 429),
    (UnauthorisedError, 401),
    (NotThereError, 404),
    (SlowBodyError, 408),
    (BodyTooLargeError, 413),
    (RequestError, 400),
    (UnknownEntryError, 404),
    (MalformedTilePathError, 404),
    (ConflictingRecordError, 409),
    (OversizeError, 413),
    (MalformedError, 400),
    (LedgerFrozenError, 410),
    (LedgerDamagedError, 500),
    (LedgerError, 503),
    (ClockError, 503),
    (Error, 500),
)


async def _refused(request: Request, error: Exception) -> Response:
    """Turn an error of ours into its status, once, here."""
    if not isinstance(error, Error):
        raise error
    status = next(status for kind, status in _STATUSES if isinstance(error, kind))
    headers = {}
    if isinstance(error, OverloadedError):
        headers["Retry-After"] = str(error.retry_after)
    elif status == 503:
        headers["Retry-After"] = str(RETRY_SECONDS)
    if status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    if status in {401, 408, 413}:
        headers["Connection"] = "close"  # the rest of the body is not read
    message = str(error)
    if status >= 500:
        _log.error("%s: %s", error.code, error)
        message = "The log cannot answer this now."  # what it is may name files: for the operator only
    return _line(request, status, error.code, message, error.remedy, headers)


async def _not_routed(request: Request, error: Exception) -> Response:
    if not isinstance(error, HTTPException):
        raise error
    said = NotThereError("There is nothing here for this path and method.")
    return _line(request, error.status_code, said.code, str(said), said.remedy, dict(error.headers or {}))


async def _failed(request: Request, _error: Exception) -> Response:
    """Answer for a fault of ours; the server logs the traceback, and the client sees none of it."""
    return _line(request, 500, "internal-error", "The log failed.", Error.remedy, {})


def _line(
    request: Request, status: int, code: str, message: str, remedy: str, headers: Mapping[str, str]
) -> Response:
    text = json.dumps({"error": code, "message": message, "remedy": remedy}) + "\n"
    rules = _SAFE if request.scope["path"] == "/add" else _PUBLIC
    return Response(
        text, status, media_type="application/json", headers={**rules, "Cache-Control": "no-store", **headers}
    )
