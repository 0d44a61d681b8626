"""A time-stamp authority over HTTP (RFC 3161, 3.4): one question in a POST, one answer.

An ASGI application. Who may ask, and encryption on the way, are the server's in front of it:
the answer is signed, and the question is a digest. Every token is an entry of the ledger for
ever, so all who ask together get so many a second and no more. A refusal by RFC 3161 is an answer like any
other; the errors here are about the request itself.
"""

import asyncio
import logging
import math
import time
from collections.abc import Mapping

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from authn.timestamp.loopback import Responder
from storage.log_add import Turns
from storage.sequencer import OverloadedError
from tools.errors import Error
from tools.pace import Pace

QUERY, REPLY = "application/timestamp-query", "application/timestamp-reply"
# A question has 60 to 130 bytes; long nonces and policies fit into this many times over.
MAX_QUERY_BYTES = 4096
BODY_SECONDS = 5.0
# Each waits for the disk most of its time; what waits together is recorded together.
THREADS = 32
MAX_WAITING = 512
PER_SECOND = 50.0
BURST_SECONDS = 10.0
"""For how many seconds' worth of tokens one may ask at once."""
_SAFE = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}
_log = logging.getLogger(__name__)


class QueryError(Error):
    """What was sent is no question to a time-stamp authority."""

    code = "request-malformed"
    remedy = f"POST one TimeStampReq in DER, of type {QUERY}."


class QueryTypeError(QueryError):
    """The request says that its body is something else."""

    code = "content-type-wrong"
    remedy = f"Send exactly 'Content-Type: {QUERY}'."


class QueryTooLargeError(QueryError):
    """The body is larger than any question."""

    code = "body-too-large"
    remedy = f"Send at most {MAX_QUERY_BYTES} bytes: the digest, and not what was hashed."


class SlowQueryError(QueryError):
    """The body did not come in time."""

    code = "body-too-slow"
    remedy = "Send the request in one piece."


class CrowdedError(QueryError):
    """More questions wait than are kept waiting."""

    code = "time-stamps-overloaded"
    remedy = "Ask again after the time that Retry-After gives."


class HurriedError(QueryError):
    """More tokens are asked for than the authority gives in that time."""

    code = "time-stamps-too-many"
    remedy = (
        "Ask again after the time that Retry-After gives; its operator can raise the limit (--per-second)."
    )

    def __init__(self, wait: float) -> None:
        super().__init__("More time-stamps are asked for than are given in this time.")
        self.wait = wait


_STATUSES: tuple[tuple[type[QueryError], int], ...] = (
    (QueryTypeError, 415),
    (QueryTooLargeError, 413),
    (SlowQueryError, 408),
    (CrowdedError, 503),
    (HurriedError, 429),
    (QueryError, 400),
)


def routes(unit: Responder, path: str, per_second: float = PER_SECOND) -> list[Route]:
    """The one route of an authority, for an application that has others too."""
    turns = Turns("time-stamps", THREADS, MAX_WAITING)
    pace = Pace(per_second, max(1.0, per_second * BURST_SECONDS), time.monotonic)

    async def stamp(request: Request) -> Response:
        try:
            query = await _query(request)
            if wait := pace.wait():
                raise HurriedError(wait)
            reply: bytes = await turns.run(unit.respond, query)
        except OverloadedError:
            return _refused(CrowdedError("Too many requests are waiting for a time-stamp."))
        except QueryError as error:
            return _refused(error)
        return Response(reply, media_type=REPLY, headers=_SAFE)

    return [Route(path, stamp, methods=["POST"])]


def time_app(unit: Responder, per_second: float = PER_SECOND) -> Starlette:
    """Serve one authority at the root, and nothing else."""
    app = Starlette(
        routes=routes(unit, "/", per_second),
        exception_handlers={HTTPException: _not_routed, Exception: _failed},
    )
    app.router.redirect_slashes = False
    return app


async def _query(request: Request) -> bytes:
    if request.headers.getlist("content-type") != [QUERY]:
        raise QueryTypeError("The body is not said to be a time-stamp query.")
    length = request.headers.get("content-length", "")
    if length.isascii() and length.isdigit() and (len(length) > 6 or int(length) > MAX_QUERY_BYTES):
        raise QueryTooLargeError(f"The body is larger than {MAX_QUERY_BYTES} bytes.")
    body = bytearray()
    try:
        async with asyncio.timeout(BODY_SECONDS):
            async for chunk in request.stream():
                body += chunk
                if len(body) > MAX_QUERY_BYTES:
                    raise QueryTooLargeError(f"The body is larger than {MAX_QUERY_BYTES} bytes.")
    except TimeoutError as error:
        raise SlowQueryError("The body did not come in time.") from error
    except ClientDisconnect as error:
        raise QueryError("The request broke off.") from error
    return bytes(body)


def _refused(error: QueryError) -> Response:
    status = next(status for kind, status in _STATUSES if isinstance(error, kind))
    headers = {"Connection": "close"}  # the rest of the body is not read
    if status == 503:
        headers["Retry-After"] = "1"
    if isinstance(error, HurriedError):
        headers["Retry-After"] = str(math.ceil(error.wait))
    return _line(status, error.code, str(error), error.remedy, headers)


async def _not_routed(_request: Request, error: Exception) -> Response:
    if not isinstance(error, HTTPException):
        raise error
    said = "There is nothing here for this path and method."
    return _line(error.status_code, "not-found", said, QueryError.remedy, dict(error.headers or {}))


async def _failed(_request: Request, _error: Exception) -> Response:
    """Answer for a fault of ours; the server logs the traceback, and the client sees none of it."""
    return _line(500, "internal-error", "The authority failed.", Error.remedy, {})


def _line(status: int, code: str, reason: str, remedy: str, headers: Mapping[str, str]) -> Response:
    content = {"error": code, "reason": reason, "remedy": remedy}
    return JSONResponse(content, status, headers={**_SAFE, **headers})
