"""Serve one authority on this machine's loopback for as long as one call takes.

The SDK that writes manifests asks for time over HTTP only. No other machine can
reach this port; other users of this one can, and would get a token, which is
no secret.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Protocol

from authn.timestamp.request import MAX_REQUEST

_SECONDS = 5.0
# How long the end of a call may have to wait; it is waited once per signature.
_POLL_SECONDS = 0.001


class Responder(Protocol):
    """Whatever answers a TimeStampReq with a TimeStampResp: an authority, or a relay to others."""

    def respond(self, query: bytes) -> bytes:
        """Answer; never raises."""
        ...


@contextmanager
def serving(authority: Responder, path: str = "/") -> Iterator[str]:
    """The URL at which `authority` answers until the block ends; under another `path` it says nothing."""

    class Handler(BaseHTTPRequestHandler):
        timeout = _SECONDS
        server_version = "lightseal"
        sys_version = ""

        def do_POST(self) -> None:
            size = self.headers.get("Content-Length", "")
            if self.path != path:
                self.send_error(404)
            elif not (size.isascii() and size.isdigit()):
                self.send_error(411)
            elif len(size) > 6 or int(size) > MAX_REQUEST:
                self.send_error(413)
            elif self.headers.get("Content-Type") != "application/timestamp-query":
                self.send_error(415)
            else:
                reply = authority.respond(self.rfile.read(int(size)))
                self.send_response(200)
                self.send_header("Content-Type", "application/timestamp-reply")
                self.send_header("Content-Length", str(len(reply)))
                self.end_headers()
                self.wfile.write(reply)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the name is given
            """Say nothing; the core does not log."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = False
        thread = threading.Thread(
            target=server.serve_forever, args=(_POLL_SECONDS,), name="loopback-authority"
        )
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}{path}"
        finally:
            server.shutdown()
            thread.join()
