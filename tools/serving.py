"""Run an ASGI application until a signal ends it; the address is known before the first request."""

import socket
import sys
from collections.abc import Awaitable, Callable

from tools.errors import AddressTakenError

# An ASGI application (asgi.readthedocs.io, version 3); which framework made it is not our concern.
App = Callable[..., Awaitable[None]]

_BACKLOG = 2048


def serve(app: App, host: str, port: int, tell: Callable[[str], None]) -> None:
    """Listen, say where, and serve; on SIGTERM or SIGINT what was begun is finished first."""
    import uvicorn  # noqa: PLC0415 - only who serves pays for it

    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        listening = socket.create_server((host, port), family=family, backlog=_BACKLOG)
    except OSError as error:
        raise AddressTakenError(f"{host} port {port} cannot be used ({error.strerror or error})") from error
    with listening:
        shown = f"[{host}]" if ":" in host else host
        tell(f"http://{shown}:{listening.getsockname()[1]}/")
        sys.stdout.flush()
        config = uvicorn.Config(
            app,
            log_level="warning",
            access_log=False,
            server_header=False,
            ws="none",
            proxy_headers=False,
            timeout_keep_alive=30,
            timeout_graceful_shutdown=30,
            backlog=_BACKLOG,
        )
        uvicorn.Server(config).run(sockets=[listening])
