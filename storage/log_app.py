"""The log over HTTP: checkpoints, tiles and bundles as c2sp.org/tlog-tiles wants them, proofs, and adding.

Reading is for everyone and shows commitments only; adding is in `storage.log_add`. What is served
is no proof by itself: readers check tiles and proofs against a checkpoint whose signature they
verify. Encryption on the way, and clients that never finish their headers or never read their
answer, are left to the server and to what stands in front of it.
"""

import gzip
import json
import logging
import re
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import lru_cache

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from storage import base64text
from storage.checkpoint import MAX_SIZE, Checkpoint
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
from storage.log_add import (
    SAFE,
    Add,
    BodyTooLargeError,
    RequestError,
    Settings,
    SlowBodyError,
    Turns,
    UnauthorisedError,
)
from storage.merkle import TILE_WIDTH, verify_inclusion
from storage.proof import InclusionProof
from storage.sequencer import OverloadedError, OversizeError, Sequencer
from storage.tile import MalformedTilePathError, Tile
from storage.view import View, parsed

READERS = 4
MAX_CACHED_TILES = 256
RETRY_SECONDS = 5
_DECIMAL = re.compile("0|[1-9][0-9]{0,18}")
_FOREVER = "public, max-age=31536000, immutable"
_TEXT = "text/plain; charset=utf-8"
_PUBLIC = {**SAFE, "Access-Control-Allow-Origin": "*"}
_log = logging.getLogger(__name__)


class NotThereError(RequestError):
    """There is nothing under this path and method."""

    code = "not-found"
    remedy = "See c2sp.org/tlog-tiles for the paths of a log."


def log_app(ledger: Ledger, sequencer: Sequencer | None, settings: Settings) -> Starlette:
    """Serve `ledger`, opened for reading only; without a sequencer nothing can be added.

    Who opened ledger and sequencer closes them, after the server has ended.
    """
    turns = Turns("reader", READERS, settings.max_reads)
    reads = _Reads(ledger, settings, turns)
    add = None if sequencer is None else Add(sequencer, settings, reads.receipt)
    routes = [
        Route("/checkpoint", reads.checkpoint, methods=["GET"]),
        Route("/tile/{tile:path}", reads.tile, methods=["GET"]),
        Route("/proof/{index}", reads.proof, methods=["GET"]),
        Route("/consistency/{old}/{new}", reads.consistency, methods=["GET"]),
    ]
    if add is not None:
        routes.insert(0, Route("/add", add, methods=["POST"]))

    @asynccontextmanager
    async def lifespan(_app: Starlette) -> AsyncIterator[None]:
        yield
        turns.close()
        if add is not None:
            add.close()

    app = Starlette(
        routes=routes,
        lifespan=lifespan,
        exception_handlers={Error: _refused, HTTPException: _not_routed, Exception: _failed},
    )
    app.router.redirect_slashes = False
    return app


class _Reads:
    """What everyone may read, up to the published checkpoint and not an entry further."""

    def __init__(self, ledger: Ledger, settings: Settings, turns: Turns) -> None:
        self._ledger = ledger
        self._settings = settings
        self._turns = turns
        self._size = 0
        # Full tiles never change. Bounded: a tile is 8 KiB, a bundle of our entries below 64 KiB.
        self._kept = lru_cache(MAX_CACHED_TILES)(self._bytes)
        self._kept_packed = lru_cache(MAX_CACHED_TILES)(self._packed)

    async def checkpoint(self, _request: Request) -> Response:
        note, _ = await self._turns.run(self._published)
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
            await self._turns.run(read, tile), media_type="application/octet-stream", headers=headers
        )

    async def proof(self, request: Request) -> Response:
        text = await self._turns.run(self._proof, _number(request.path_params["index"]))
        return Response(text, media_type=_TEXT, headers={**_PUBLIC, "Cache-Control": "no-cache"})

    async def consistency(self, request: Request) -> Response:
        old, new = (_number(request.path_params[name]) for name in ("old", "new"))
        text = await self._turns.run(self._consistency, old, new)
        return Response(text, media_type=_TEXT, headers={**_PUBLIC, "Cache-Control": _FOREVER})

    def receipt(self, index: int) -> bytes:
        """Return the receipt for an entry under the checkpoint that is served; blocks."""
        note, checkpoint = self._covering(index)
        with self._ledger.at_once() as view:
            proof = _inclusion(view, index, note, checkpoint)
            return str(replace(self._ledger.prove(index), proof=proof)).encode()

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
        note, checkpoint = self._covering(index)
        with self._ledger.at_once() as view:
            return str(_inclusion(view, index, note, checkpoint))

    def _covering(self, index: int) -> tuple[str, Checkpoint]:
        note, checkpoint = self._published()
        if index >= checkpoint.size:
            raise UnknownEntryError(f"The published checkpoint does not cover entry {index}.")
        return note, checkpoint

    def _consistency(self, old: int, new: int) -> str:
        if new > self._size:
            self._published()
        if not old <= new <= self._size:
            raise UnknownEntryError(f"No proof leads from {old} to {new} entries, of {self._size} published.")
        return "".join(f"{base64text.encode(item)}\n" for item in self._ledger.consistency(old, new))


def _inclusion(view: View, index: int, note: str, checkpoint: Checkpoint) -> InclusionProof:
    leaf = view.entry(index).leaf
    hashes = view.tree(checkpoint.size).inclusion(index)
    try:
        verify_inclusion(leaf, index, checkpoint.size, hashes, checkpoint.root)
    except ProofError as error:
        raise LedgerDamagedError(f"Entry {index} does not lead to the published checkpoint.") from error
    return InclusionProof(index, hashes, note.encode())


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
    rules = SAFE if request.scope["path"] == "/add" else _PUBLIC
    return Response(
        text, status, media_type="application/json", headers={**rules, "Cache-Control": "no-store", **headers}
    )
