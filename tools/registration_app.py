"""Enrolment over HTTP: `POST /v1/enrolments` and `POST /v1/enrolments/{id}`, JSON both ways.

Whoever speaks with strangers: it holds no key that certifies. Encryption on the way and limits
for each address are left to what stands in front.
"""

import asyncio
import json
import logging
import time
from collections.abc import Callable
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from authn.plain import plain
from storage.log_add import Turns
from tools.decisions import AUDIT
from tools.issuance.desk import Desk
from tools.issuance.errors import (
    BodySlowError,
    BodyTooLargeError,
    FailedError,
    MalformedError,
    NotThereError,
    TooManyError,
)
from tools.issuance.refusals import OURS, code_of, refusal, status_of
from tools.issuance.wire import completion_of, offer_fields, opening_of, welcome_fields
from tools.pace import Pace

PATH = "/v1/enrolments"
MAX_OPENING = 64 << 10
MAX_COMPLETION = 4 << 20
BODY_SECONDS = 10.0
THREADS = 4
MOST = 64
OPENINGS_PER_SECOND = 20.0
BURST = 200.0
_HEADERS = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}
_log = logging.getLogger(__name__)
_audit = logging.getLogger(AUDIT)


def routes(desk: Desk) -> list[Route]:
    """The routes of a registration authority, which the caller opened and closes."""
    door = _Door(desk)
    return [
        Route(PATH, door.begin, methods=["POST"]),
        Route(PATH + "/{identity}", door.complete, methods=["POST"]),
    ]


def application(desk: Desk) -> Starlette:
    """The registration authority alone, as a process of its own."""
    app = Starlette(routes=routes(desk), exception_handlers={HTTPException: _not_routed, Exception: _failed})
    app.router.redirect_slashes = False
    return app


async def _not_routed(_request: Request, _error: Exception) -> Response:
    return _response(refusal(NotThereError("there is nothing under this path and method")), 404)


async def _failed(_request: Request, error: Exception) -> Response:
    _log.error("an enrolment failed", exc_info=error)
    return _response(refusal(FailedError("the service failed; nothing was issued that is not logged")), 500)


class _Door:
    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self._turns = Turns("enrolment", THREADS, MOST)
        self._pace = Pace(OPENINGS_PER_SECOND, BURST, time.monotonic)

    async def begin(self, request: Request) -> Response:
        return await self._answered(request, MAX_OPENING, self._begin)

    async def complete(self, request: Request) -> Response:
        identity = request.path_params["identity"]
        return await self._answered(request, MAX_COMPLETION, lambda fields: self._complete(identity, fields))

    def _begin(self, fields: Any) -> dict[str, Any]:
        if self._pace.wait():
            raise TooManyError("too many enrolments are begun at once")
        return offer_fields(*self._desk.begin(*opening_of(fields)))

    def _complete(self, identity: str, fields: Any) -> dict[str, Any]:
        completion = completion_of(fields)
        if completion.terms.identity != identity:
            raise MalformedError("the terms are not those of the enrolment in the address")
        welcome = self._desk.complete(completion)
        enrolled = welcome.enrolled
        _tell("enrolled", {"device": enrolled.device, "custody": enrolled.custody.value})
        return welcome_fields(welcome)

    async def _answered(self, request: Request, limit: int, do: Callable[[Any], dict[str, Any]]) -> Response:
        try:
            fields = await _json(request, limit)
            answer = await self._turns.run(do, fields)
        except OURS as error:
            _tell("refused", {"code": code_of(error), "path": plain(request.url.path, 100)}, logging.WARNING)
            if status_of(error) >= 500:
                _log.warning("%s: %s", error.code, error)
            response = _response(refusal(error), status_of(error))
            if isinstance(error, BodyTooLargeError | BodySlowError):
                response.headers["connection"] = "close"
            if status_of(error) in (429, 503):
                response.headers["retry-after"] = "5"
            return response
        return _response(answer, 201)


async def _json(request: Request, limit: int) -> Any:
    body = bytearray()
    try:
        async with asyncio.timeout(BODY_SECONDS):
            async for chunk in request.stream():
                body += chunk
                if len(body) > limit:
                    raise BodyTooLargeError(f"the request is larger than {limit} bytes")
    except TimeoutError as error:
        raise BodySlowError("the request did not arrive in time") from error
    except ClientDisconnect as error:
        raise MalformedError("the request broke off") from error
    try:
        return json.loads(bytes(body))
    except (ValueError, RecursionError) as error:
        raise MalformedError("the request is not JSON") from error


def _tell(event: str, fields: dict[str, str], level: int = logging.INFO) -> None:
    """One line of JSON for each decision; nothing in it can begin another line, or is a secret."""
    _audit.log(level, json.dumps({"event": event, **fields}, sort_keys=True))


def _response(fields: dict[str, Any], status: int) -> Response:
    return Response(json.dumps(fields).encode() + b"\n", status, _HEADERS, "application/json")
