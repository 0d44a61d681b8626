"""Adding to the log over HTTP: who may, what is taken, and what is answered once it is durable.

Adding needs a token. Nothing of what reading costs stands in its way: it has threads and a
count of its own, and what is durable is answered with its index, whatever else fails. Whether
a payload is true is not checked; the kinds that only the operator may record are refused.
"""

import asyncio
import json
import logging
import math
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

from starlette.types import Receive, Scope, Send

from storage import base64text
from storage.entry import Kind
from storage.errors import ErasedEntryError, Error, UnknownEntryError
from storage.record import Record
from storage.sequencer import OverloadedError, Sequencer

MAX_BODY_BYTES = 128 << 10
RECEIPT_THREADS = 2
MAX_RECEIPTS = 512
WITNESS_POLL_SECONDS = 0.1
# An issuance says how a key is kept, a policy speaks for the log, and an erasure is the log's own to make.
WRITERS_KINDS = frozenset({Kind.SIGN, Kind.TOKEN, Kind.REVOKE})
SAFE = {"X-Content-Type-Options": "nosniff", "Content-Security-Policy": "default-src 'none'; sandbox"}
_RECEIPT, _WITNESS = b"wait=receipt", b"wait=witness"
_HEADERS = [
    (b"content-type", b"application/json"),
    (b"cache-control", b"no-store"),
    *((name.lower().encode(), value.encode()) for name, value in SAFE.items()),
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


class KindReservedError(RequestError):
    """A writer asked for an entry that speaks for the operator."""

    code = "kind-reserved"
    remedy = "Add entries of the kinds sign, token and revoke; the others are made by 'lightseal' itself."


class UnwitnessedLogError(RequestError):
    """A receipt under witnesses was asked for, and this log has none."""

    code = "log-unwitnessed"
    remedy = "Ask with wait=receipt; whoever needs witnesses has to ask the log's operator for them."


@dataclass(frozen=True, slots=True)
class Settings:
    """What the operator decides, and what the app is told by others.

    `published` returns the note that is served, `witnessed` the size that the newest witnessed
    checkpoint covers, where witnesses are waited for at all; both may block. `authorise` turns a
    token into the writer's name; it is asked on every addition and has to answer at once, in
    constant time. `kinds` are what writers may add.
    """

    published: Callable[[], str]
    witnessed: Callable[[], int] | None
    authorise: Callable[[str], str | None]
    adds_per_second: float = 5000
    burst: int = 10000
    body_seconds: float = 10
    witness_seconds: float = 30
    max_reads: int = 512
    kinds: frozenset[Kind] = WRITERS_KINDS


class Turns:
    """A few threads for what blocks, and a count of who waits for one: what is too much is sent away."""

    def __init__(self, name: str, threads: int, most: int) -> None:
        self._pool = ThreadPoolExecutor(threads, name)
        self._most = most
        self._waiting = 0

    async def run(self, read: Callable[..., _T], *arguments: object) -> _T:
        """Run `read` in a thread."""
        if self._waiting >= self._most:
            raise OverloadedError(f"{self._waiting} requests are waiting to be answered.", 1)
        self._waiting += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._pool, read, *arguments)
        finally:
            self._waiting -= 1

    def close(self) -> None:
        """Return when all that was begun is done."""
        self._pool.shutdown()


class Add:
    """Adding one record: the hot path, so it speaks ASGI and allocates little.

    `receipt(index)` makes a receipt under what is published, in a thread; it raises
    `UnknownEntryError` where that does not cover the entry.
    """

    def __init__(self, sequencer: Sequencer, settings: Settings, receipt: Callable[[int], bytes]) -> None:
        self._sequencer = sequencer
        self._settings = settings
        self._receipt_of = receipt
        self._turns = Turns("receipts", RECEIPT_THREADS, MAX_RECEIPTS)
        self._covered = None if settings.witnessed is None else _Covered(settings.witnessed, self._turns)
        self._answers = _Answers()
        self._free_at: dict[str, float] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        # 1. Who adds, is there room, and may they add now (RFC 6750, 2.1; RFC 6585, 4)? Under overload
        #    this is all that is done for a request: nothing was read yet.
        # 2. How much is to be proved before the answer?
        # 3. The body, within limits of size and time, and a record in it that this writer may add.
        # 4. The record is durable, and a signed checkpoint covers it, or the client gets an error.
        # 5. The answer: from here on no error, for it is recorded. A client that misses the answer
        #    sends the same again and gets the same index.
        writer = _writer(scope, self._settings.authorise)  # 1
        self._sequencer.require_room()
        self._spend(writer)
        wait = self._wait(scope)  # 2
        try:
            async with asyncio.timeout(self._settings.body_seconds):
                body = await _body(scope, receive)  # 3
        except TimeoutError as error:
            raise SlowBodyError("The body did not come in time.") from error
        record = _record(body)
        if record.kind not in self._settings.kinds:
            raise KindReservedError(f"An entry of kind {record.kind} is the log's own to make.")
        (index,) = await self._answers.to(self._sequencer.submit((record,)))  # 4
        receipt = await self._receipt(index, record, wait) if wait else _placed(index, record)  # 5
        if receipt is None:
            await _answer(send, 202, _placed(index, record), (b"retry-after", b"1"))
        else:
            await _answer(send, 201, receipt)

    def _wait(self, scope: Scope) -> bytes:
        wait: bytes = scope["query_string"]
        if wait not in {b"", _RECEIPT, _WITNESS}:
            raise RequestError("The query is not one of wait=receipt and wait=witness.")
        if wait == _WITNESS and self._covered is None:
            raise UnwitnessedLogError(
                "No witness cosigns this log's checkpoints, as far as its server knows."
            )
        return wait

    async def _receipt(self, index: int, record: Record, wait: bytes) -> bytes | None:
        """The receipt for what is durable; nothing where it cannot be had now."""
        seconds = self._settings.witness_seconds if wait == _WITNESS else 0
        if self._covered is not None and not await self._covered.within(index, seconds):
            return None
        try:
            return await self._turns.run(self._receipt_of, index)
        except ErasedEntryError:
            return _placed(index, record)  # sent again after it was erased: there is none any more
        except (UnknownEntryError, OverloadedError):
            return None
        except Error as error:
            _log.error("%s: %s", error.code, error)
            return None

    def close(self) -> None:
        """Let go of the threads; after the last request."""
        self._turns.close()

    def _spend(self, writer: str) -> None:
        """Let a writer add `adds_per_second` in the long run, and at most `burst` at once."""
        now = asyncio.get_running_loop().time()
        interval = 1 / self._settings.adds_per_second
        free_at = max(self._free_at.get(writer, 0), now) + interval
        wait = free_at - now - self._settings.burst * interval
        if wait > interval / 2:  # whole steps: sums of fractions are not exact
            raise RateError(f"{writer} adds too fast.", math.ceil(wait))
        self._free_at[writer] = free_at


class _Covered:
    """How far witnesses have come: one looks for all who wait."""

    def __init__(self, witnessed: Callable[[], int], turns: Turns) -> None:
        self._witnessed = witnessed
        self._turns = turns
        self._size = 0
        self._looking: asyncio.Task[None] | None = None
        self._next_look = 0.0

    async def within(self, index: int, seconds: float) -> bool:
        """Wait until a witnessed checkpoint covers `index`; false where that takes longer."""
        loop = asyncio.get_running_loop()
        until = loop.time() + seconds
        while index >= self._size:
            if self._looking is None and loop.time() >= self._next_look:
                self._next_look = loop.time() + WITNESS_POLL_SECONDS
                self._looking = loop.create_task(self._look())
            if self._looking is not None:
                await asyncio.wait({self._looking}, timeout=WITNESS_POLL_SECONDS)
            if index < self._size or loop.time() >= until:
                break
            await asyncio.sleep(WITNESS_POLL_SECONDS)
        return index < self._size

    async def _look(self) -> None:
        try:
            self._size = max(self._size, await self._turns.run(self._witnessed))
        except Error as error:
            _log.warning("%s: %s", error.code, error)
        finally:
            self._looking = None


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
    await send({"type": "http.response.start", "status": status, "headers": [*_HEADERS, length, *headers]})
    await send({"type": "http.response.body", "body": body})
