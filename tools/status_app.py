"""Status over HTTP: OCSP by GET and POST (RFC 6960, A.1; RFC 5019, 5), and the lists as files.

The address of the responder ends in a slash, since some clients drop what follows the last one.
Answers are believed for their signature, not for the way they came, so plain HTTP carries them.
Lists are handed out as they lie there: no request has one made (`tools.status_lists` says who makes them).
"""

import asyncio
import base64
import binascii
import logging
from collections.abc import Callable
from datetime import datetime
from urllib.parse import urlsplit

from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from authn.withdrawal import MAX_REQUEST
from storage.log_add import Turns
from storage.sequencer import OverloadedError
from tools.home import Home
from tools.status import StatusDesk
from tools.status_lists import LIST_AGE, authorities, list_path

MAX_PATH = 4 * MAX_REQUEST // 3 + 16
BODY_SECONDS = 10.0
FRESH_SECONDS = 300
THREADS = 4
MOST = 128
_OCSP = "application/ocsp-response"
_log = logging.getLogger(__name__)


def routes(home: Home, desk: StatusDesk, now: Callable[[], datetime]) -> list[Route]:
    """The responder at the path of the home's own address, and `/crl/NAME.crl`."""
    path = urlsplit(home.ocsp_url).path
    door = _Door(home, desk, now)
    return [
        Route(path, door.post, methods=["POST"]),
        Route(path + "{request:path}", door.get, methods=["GET"]),
        Route("/crl/{name}.crl", door.list, methods=["GET"]),
    ]


class _Door:
    def __init__(self, home: Home, desk: StatusDesk, now: Callable[[], datetime]) -> None:
        self._home, self._desk, self._now = home, desk, now
        self._turns = Turns("status", THREADS, MOST)
        self._told: datetime | None = None

    async def get(self, request: Request) -> Response:
        text = request.path_params["request"]
        if not text or len(text) > MAX_PATH:
            return _answered(self._desk.malformed(), 0)
        try:
            asked = base64.b64decode(text.encode("ascii"), validate=True)
        except (binascii.Error, UnicodeEncodeError):
            return _answered(self._desk.malformed(), 0)
        return await self._answer(asked, FRESH_SECONDS)

    async def post(self, request: Request) -> Response:
        body = bytearray()
        try:
            async with asyncio.timeout(BODY_SECONDS):
                async for chunk in request.stream():
                    body += chunk
                    if len(body) > MAX_REQUEST:
                        return _closing(413)
        except TimeoutError:
            return _closing(408)
        except ClientDisconnect:
            return _closing(400)
        return await self._answer(bytes(body), 0)

    async def list(self, request: Request) -> Response:
        name = request.path_params["name"]
        if name not in authorities(self._home):
            raise HTTPException(404)
        try:
            data = await self._turns.run(self._list, name)
        except OverloadedError:
            return _busy()
        except OSError as error:
            raise HTTPException(404) from error
        headers = {"Cache-Control": f"public, max-age={FRESH_SECONDS}"}
        return Response(data, headers=headers, media_type="application/pkix-crl")

    async def _answer(self, asked: bytes, seconds: int) -> Response:
        try:
            return _answered(await self._turns.run(self._desk.answer, asked), seconds)
        except OverloadedError:
            return _busy()

    def _list(self, name: str) -> bytes:
        """The list as it lies there; of one that nobody renews the operator is told, once a day."""
        path, at = list_path(self._home, name), self._now()
        data, age = path.read_bytes(), at.timestamp() - path.stat().st_mtime
        if age > 2 * LIST_AGE.total_seconds() and (self._told is None or at - self._told > LIST_AGE):
            self._told = at
            _log.warning(
                "the list of %s is %d h old: run 'lightseal ca serve', or 'revoke publish' once a day",
                *(name, age // 3600),
            )
        return data


def _answered(answer: bytes, seconds: int) -> Response:
    cached = f"public, max-age={seconds}, no-transform" if seconds else "no-store"
    return Response(answer, headers={"Cache-Control": cached}, media_type=_OCSP)


def _busy() -> Response:
    return Response(status_code=503, headers={"Retry-After": "5"})


def _closing(status: int) -> Response:
    return Response(status_code=status, headers={"Connection": "close"})
