"""What a home offers over HTTP, as one application: status answers, enrolment, captures, time.

Each part keeps its own limits and threads (`tools.status_app`, `tools.registration_app`,
`tools.intake_app`, `tools.time_app`); here they are only put side by side. What certifies is another process.
"""

import logging
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import datetime

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from tools import intake_app, registration_app, status_app, time_app
from tools.home import Home
from tools.intake import Intake
from tools.issuance.authority import Authority
from tools.issuance.authority_server import RemoteAuthority
from tools.issuance.desk import desk_of
from tools.serving import App
from tools.status import status_desk
from tools.time_server import StampingOverError, TimeService, time_unit

_log = logging.getLogger(__name__)


@contextmanager
def service(
    home: Home,
    issuing: Authority | RemoteAuthority,
    base_url: str | None,
    now: Callable[[], datetime],
) -> Iterator[App]:
    """The application, as long as the block lasts; `base_url` is how devices reach it."""
    with ExitStack() as stack:
        status = stack.enter_context(status_desk(home, now))
        desk = stack.enter_context(desk_of(home, issuing, now))
        intake = stack.enter_context(Intake(home, base_url, now))
        timing = _timing(stack, home, now)
        routes = [
            Route("/v1/health", _health, methods=["GET"]),
            *registration_app.routes(desk),
            *intake_app.routes(intake),
            *status_app.routes(home, status, now),
            *timing,
        ]
        app = Starlette(routes=routes, exception_handlers={HTTPException: _not_routed, Exception: _failed})
        app.router.redirect_slashes = False
        yield app


def _timing(stack: ExitStack, home: Home, now: Callable[[], datetime]) -> list[Route]:
    """The home's time-stamp unit, with its own witnesses as the floor; the rest is served where it may not stamp."""
    try:
        unit = stack.enter_context(time_unit(home, TimeService(witnesses=home.witnesses()), now))
    except StampingOverError as error:
        _log.warning("no time-stamps are given: %s %s", error, error.remedy)
        return []
    return time_app.routes(unit, "/tsa/")


async def _health(_: Request) -> Response:
    return JSONResponse({"status": "ok"}, headers={"Cache-Control": "no-store"})


async def _not_routed(_request: Request, _error: Exception) -> Response:
    return _refusal(
        404, "not-there", "there is nothing under this path and method", "Look the path up again."
    )


async def _failed(_request: Request, error: Exception) -> Response:
    _log.error("a request failed", exc_info=error)
    return _refusal(500, "failed", "the service failed", "Try again; if it stays so, tell its operator.")


def _refusal(status: int, code: str, reason: str, remedy: str) -> Response:
    body = {"error": code, "reason": reason, "remedy": remedy}
    return JSONResponse(body, status, headers={"Cache-Control": "no-store"})
