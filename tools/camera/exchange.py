"""Send one request and get one answer: what a device's talk with its service is made of.

An answer counts as the service's only where it has the form of one. A hotel's log-in page, a proxy
that speaks for somebody else or a page of errors is none, whatever its status: nothing follows
from it about a capture.
"""

import http.client
import json
import ssl
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass
from typing import IO, ClassVar
from urllib.parse import urlsplit

from authn.http_signature import Request
from tools.errors import Error

SECONDS = 30.0
MAX_ANSWER = 1 << 20
_STEP = 1 << 20


class ServiceAnswerError(Error):
    """What answered is not the service, or said something that cannot be relied on; it is not kept."""

    code: ClassVar[str] = "service-answer"
    remedy: ClassVar[str] = (
        "See whether the network wants a log-in, then ask the operator of the service; the captures wait."
    )


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    def fields(self) -> dict[str, object]:
        """The body, which is an object of JSON."""
        try:
            found = json.loads(self.body)
        except (ValueError, RecursionError) as error:
            raise ServiceAnswerError(f"the service answered {self.status} with what is no JSON") from error
        if not isinstance(found, dict):
            raise ServiceAnswerError(f"the service answered {self.status} with what is no object")
        return found

    def fault(self) -> dict[str, object]:
        """Why the service refused, if it did: empty, or with the code, the reason and the remedy that it always gives."""
        if 200 <= self.status < 300:
            return {}
        found = self.fields()
        if not all(isinstance(found.get(name), str) for name in ("error", "reason", "remedy")):
            raise ServiceAnswerError(f"what answered {self.status} gave no reason as the service does")
        return found


# Sends a request with a body, if any, and returns what comes back; OSError where nothing does.
Exchange = Callable[[Request, IO[bytes] | None], Answer]


def over_http(seconds: float = SECONDS) -> Exchange:
    """Requests over a connection each; no redirect is followed and no proxy used."""

    def exchange(request: Request, body: IO[bytes] | None) -> Answer:
        parts = urlsplit(request.url)
        host, port = parts.hostname or "", parts.port
        if parts.scheme == "https":
            connection: http.client.HTTPConnection = http.client.HTTPSConnection(
                host, port, timeout=seconds, context=ssl.create_default_context()
            )
        else:
            connection = http.client.HTTPConnection(host, port, timeout=seconds)
        target = f"{parts.path}{'?' if parts.query else ''}{parts.query}"
        with closing(connection):
            connection.putrequest(request.method, target, skip_host=True, skip_accept_encoding=True)
            for name, value in request.headers:
                connection.putheader(name, value)
            connection.endheaders()
            refused: OSError | None = None
            try:
                while body is not None and (piece := body.read(_STEP)):
                    connection.send(piece)
            except (BrokenPipeError, ConnectionResetError) as error:
                refused = error  # it may have been refused before all of it was read: the answer says why
            try:
                response = connection.getresponse()
            except (OSError, http.client.HTTPException):
                raise refused or ConnectionResetError("no answer came") from None
            content = response.read(MAX_ANSWER + 1)
            if len(content) > MAX_ANSWER:
                raise ServiceAnswerError("the service's answer is longer than any we expect")
            headers = {name.lower(): value for name, value in response.getheaders()}
            return Answer(response.status, headers, content)

    return exchange
