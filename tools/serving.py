"""Run an ASGI application until a signal ends it; the address is known before the first request.

Descriptors are kept back for the application's own files: a crowd of connections is sent away
at the door instead. Who sends no whole request head in time, or one without end, is hung up on. What is not done:
nobody limits how many of the connections are one client's, and a client that does not read its
answer keeps its connection; both are left to what stands in front.
"""

import asyncio
import logging
import os
import resource
import socket
import sys
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import TYPE_CHECKING

from tools.errors import AddressTakenError, UsageError

if TYPE_CHECKING:
    from uvicorn.protocols.http.h11_impl import H11Protocol

# An ASGI application (asgi.readthedocs.io, version 3); which framework made it is not our concern.
App = Callable[..., Awaitable[None]]

HEAD_SECONDS = 10.0
MAX_HEAD_BYTES = 64 << 10
# Open files that no connection may take: databases, guards, keys, witnesses that are asked.
KEPT_FILES = 256
_MANY_FILES = 1 << 16
_BACKLOG = 2048
_CROWDED = (
    b"HTTP/1.1 503 Service Unavailable\r\nConnection: close\r\nRetry-After: 5\r\nContent-Length: 0\r\n\r\n"
)


_TOO_LARGE = b"HTTP/1.1 431 Request Header Fields Too Large\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"


def serve(app: App, host: str, port: int, tell: Callable[[str], None]) -> None:
    """Listen, say where, and serve; on SIGTERM or SIGINT what was begun is finished first."""
    import uvicorn  # noqa: PLC0415 - only who serves pays for it

    with _listening(host, port) as listening:
        # Connections inherit it. Head and body of an answer are two packets: without it the second
        # waits until the client acknowledges the first, 40 ms each time.
        listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        shown = f"[{host}]" if ":" in host else host
        tell(f"http://{shown}:{listening.getsockname()[1]}/")
        sys.stdout.flush()
        config = uvicorn.Config(
            app,
            http=impatient(_most_connections(), HEAD_SECONDS),
            log_level="warning",
            access_log=False,
            server_header=False,
            loop="asyncio",
            ws="none",
            proxy_headers=False,
            timeout_keep_alive=30,
            timeout_graceful_shutdown=30,
            backlog=_BACKLOG,
        )
        logging.getLogger("uvicorn.error").addFilter(_of_interest)
        uvicorn.Server(config).run(sockets=[listening])


def _listening(host: str, port: int) -> socket.socket:
    if not host:
        raise UsageError("--host is empty; 0.0.0.0 listens on every interface, if that is meant")
    try:
        host.encode("idna")
    except UnicodeError as error:
        raise UsageError(f"{host} is not the name of a host") from error
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=_BACKLOG)
    except OSError as error:
        # What the resolver says has a negative number.
        number = error.errno or 0
        reason = os.strerror(number) if number > 0 else "no address of that name is known"
        raise AddressTakenError(f"{host} port {port} cannot be used ({reason})") from error


def _of_interest(record: logging.LogRecord) -> bool:
    """Anything but that somebody asked for a WebSocket: there is none, and the advice is not for our users."""
    said = record.getMessage()
    return not said.startswith(("Unsupported upgrade request", "No supported WebSocket library"))


def _most_connections() -> int:
    """As many as leave the application its files, after asking the system for as many as it gives."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _MANY_FILES if hard == resource.RLIM_INFINITY else hard
    if soft != resource.RLIM_INFINITY and soft < wanted:
        # Some systems name a limit that they do not give.
        with suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
            soft = wanted
    files = _MANY_FILES if soft == resource.RLIM_INFINITY else soft
    return max(files - KEPT_FILES, files // 2)


def impatient(most: int, head_seconds: float) -> "type[H11Protocol]":
    """The server's own protocol, for at most `most` connections, each with `head_seconds` to say what it wants."""
    from uvicorn.protocols.http.auto import AutoHTTPProtocol  # noqa: PLC0415

    class Impatient(AutoHTTPProtocol):  # type: ignore[misc, valid-type]
        """Hangs up on a crowd, and on whoever does not come to the point."""

        hanging_up: asyncio.TimerHandle | None = None
        head_bytes = 0

        def connection_made(self, transport: asyncio.Transport) -> None:
            super().connection_made(transport)
            if len(self.connections) > most:
                transport.write(_CROWDED)
                transport.close()
            else:
                self.hanging_up = self.loop.call_later(head_seconds, transport.close)

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            if self.cycle is not None and not self.cycle.response_complete:
                self._came_to_the_point()
                self.head_bytes = 0
                return
            # Not one of the servers' parsers counts what a head has so far.
            self.head_bytes += len(data)
            if self.head_bytes > MAX_HEAD_BYTES and not self.transport.is_closing():
                self.transport.write(_TOO_LARGE)
                self.transport.close()
            elif self.hanging_up is None:
                # The beginning of another request; the server itself waits for its end for ever.
                self.hanging_up = self.loop.call_later(head_seconds, self.transport.close)

        def connection_lost(self, exc: Exception | None) -> None:
            self._came_to_the_point()
            super().connection_lost(exc)

        def _came_to_the_point(self) -> None:
            if self.hanging_up is not None:
                self.hanging_up.cancel()
                self.hanging_up = None

    return Impatient
