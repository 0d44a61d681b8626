"""A witness over HTTP (c2sp.org/tlog-witness): the two calls, as plain text.

An ASGI application. Transport security, rate limits and who may connect are the
server's in front of it; the protocol itself asks for no more than the log's signature.
"""

import asyncio
import logging
from collections.abc import Callable
from datetime import datetime

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from storage.errors import Error
from storage.witness.memory import MAX_REQUEST_BYTES, TEXT, Answer, Witness

BODY_SECONDS = 10.0

_log = logging.getLogger(__name__)


def witness_app(
    witness: Witness, now: Callable[[], datetime], body_seconds: float = BODY_SECONDS
) -> Starlette:
    """Serve `POST /add-checkpoint` and `GET /<SHA-256 of the origin, in hex>/checkpoint`.

    Both prefixes of the specification are the application's root. What a request calls
    its body is not asked: the specification names no type for it.
    """

    async def add_checkpoint(request: Request) -> Response:
        try:
            async with asyncio.timeout(body_seconds):
                body = await _bounded_body(request)
        except TimeoutError:
            return _closing(Answer(408, TEXT, b"The request did not arrive in time.\n"))
        except ClientDisconnect:
            return _closing(Answer(400, TEXT, b"The request broke off.\n"))
        if body is None:
            reason = f"The request is larger than {MAX_REQUEST_BYTES} bytes.\n"
            return _closing(Answer(413, TEXT, reason.encode()))
        return await _answered(lambda: witness.add_checkpoint(body, now()))

    async def checkpoint(request: Request) -> Response:
        return await _answered(lambda: witness.newest(request.path_params["origin_hash"]))

    return Starlette(
        routes=[
            Route("/add-checkpoint", add_checkpoint, methods=["POST"]),
            Route("/{origin_hash}/checkpoint", checkpoint, methods=["GET"]),
        ]
    )


async def _bounded_body(request: Request) -> bytes | None:
    """Read the body, or stop at the limit."""
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_REQUEST_BYTES:
            return None
    return bytes(body)


async def _answered(ask: Callable[[], Answer]) -> Response:
    """Answer from a thread: the database waits for the disk."""
    try:
        answer = await run_in_threadpool(ask)
    except Error as error:
        _log.error("%s: %s %s", error.code, error, error.remedy)
        return _response(Answer(503, TEXT, b"The witness cannot answer now.\n"))
    if answer.status >= 500:
        _log.error("refused with %d: %s", answer.status, answer.body.decode().strip())
    if answer.kept is not None:
        _log.error(
            "%s signed two trees of one size; both notes are kept, and 'lightseal witness forks' prints them",
            answer.kept.origin,
        )
    return _response(answer)


def _response(answer: Answer) -> Response:
    headers = {"content-type": answer.content_type, "cache-control": "no-store"}
    return Response(answer.body, answer.status, headers)


def _closing(answer: Answer) -> Response:
    """Answer before the request was read to its end, and hear no more of it."""
    response = _response(answer)
    response.headers["connection"] = "close"
    return response
