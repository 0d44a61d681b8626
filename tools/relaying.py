"""Ask several time-stamp authorities at once, and hand on what counts (policy: `authn.timestamp.relay`).

One address on this machine stands for all of them while one file is signed; its path is a
secret, so nobody else's question gets in between. Each authority has `SECONDS` for everything,
and nobody is waited for once there is enough. Authorities are asked over HTTP or HTTPS as their
addresses say, without redirects and without a proxy; they learn a digest, and who asks.
"""

import contextlib
import http.client
import queue
import secrets
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from urllib.parse import SplitResult, urlsplit

from authn.errors import SigningError, TimestampError
from authn.timestamp.authority import SYSTEM_FAILURE, refusal
from authn.timestamp.loopback import serving
from authn.timestamp.relay import (
    MAX_REPLY,
    Need,
    NoTokenError,
    Refused,
    Stamped,
    enough,
    granting,
    judge,
    read_query,
)
from authn.trust import TrustList
from tools.errors import UsageError

SECONDS = 1.5
MAX_AUTHORITIES = 16
_QUERY, _REPLY = "application/timestamp-query", "application/timestamp-reply"


@dataclass(frozen=True, slots=True)
class Relaying:
    """Whom to ask, whom to believe, and what is enough."""

    authorities: tuple[str, ...]
    time_stampers: tuple[TrustList, ...]
    need: Need = Need.REQUIRE
    seconds: float = SECONDS

    def __post_init__(self) -> None:
        if not 0 < len(self.authorities) <= MAX_AUTHORITIES:
            raise UsageError(f"name 1 to {MAX_AUTHORITIES} time-stamp authorities")
        if len(set(self.authorities)) != len(self.authorities):
            raise UsageError("a time-stamp authority is named twice")
        if self.need is Need.TWO and len(self.authorities) < 2:
            raise UsageError("two tokens need two authorities")
        for url in self.authorities:
            address_of(url)


class Relay:
    """Answers one question after the other from several authorities, and remembers how the last one went."""

    def __init__(self, relaying: Relaying, now: Callable[[], datetime]) -> None:
        self._relaying = relaying
        self._now = now
        self.url = ""
        self.failure: NoTokenError | None = None
        """Why the last question got no token; nothing where it did, or where none was asked."""
        self.tokens: tuple[Stamped, ...] = ()
        """What satisfied the policy; the first is the one that was handed on."""
        self.refused: tuple[Refused, ...] = ()
        """Who was heard, and did not count. Who came too late is not told apart from who never came."""

    @property
    def need(self) -> Need:
        """What is enough."""
        return self._relaying.need

    @property
    def extra(self) -> tuple[Stamped, ...]:
        """The tokens besides the one in the signature, over the same imprint."""
        return self.tokens[1:]

    def respond(self, query: bytes) -> bytes:
        """Answer a TimeStampReq with the first token that counts, once there is enough."""
        try:
            self.ask(query)
        except TimestampError as error:
            return refusal(SYSTEM_FAILURE, str(error))
        return granting(self.tokens[0].token)

    def ask(self, query: bytes) -> tuple[Stamped, ...]:
        """Ask everybody; returns what satisfies the policy, or raises `NoTokenError`."""
        self.begin()
        try:
            return self._ask(query)
        except NoTokenError as error:
            self.failure = error
            raise

    def begin(self) -> None:
        """Forget how the last question went."""
        self.tokens, self.refused, self.failure = (), (), None

    def _ask(self, query: bytes) -> tuple[Stamped, ...]:
        request = read_query(query)
        if request is None:
            raise NoTokenError("the question to the authorities cannot be read")
        answers: queue.SimpleQueue[tuple[str, bytes | Refused]] = queue.SimpleQueue()
        deadline = time.monotonic() + self._relaying.seconds
        for url in self._relaying.authorities:
            # Daemons: one that hangs, even in the resolver, keeps neither us nor the end of the program waiting.
            threading.Thread(target=_put, args=(url, query, deadline, answers), daemon=True).start()
        stamped: list[Stamped] = []
        refused: list[Refused] = []
        waiting = set(self._relaying.authorities)
        while waiting:
            try:
                url, heard = answers.get(timeout=max(0.0, deadline - time.monotonic()))
            except queue.Empty:
                break
            waiting.discard(url)
            judged = (
                heard
                if isinstance(heard, Refused)
                else judge(_shown(url), heard, request, self._relaying.time_stampers, self._now())
            )
            if isinstance(judged, Refused):
                refused.append(judged)
                continue
            stamped.append(judged)
            if (tokens := enough(stamped, self.need)) is not None:
                self.tokens, self.refused = tokens, tuple(refused)
                return tokens
        refused += [Refused(_shown(url), "it did not answer in time") for url in sorted(waiting)]
        self.refused = tuple(refused)
        raise NoTokenError(self._failure(len(stamped)))

    def _failure(self, good: int) -> str:
        told = "; ".join(map(str, self.refused))
        if good:
            alike = told or "the same key signed or certified for all that did"
            return f"no two authorities that are independent of each other gave a token ({alike})"
        return f"no authority gave a token that stands ({told})"


@contextmanager
def relayed(relaying: Relaying, now: Callable[[], datetime]) -> Iterator[Relay]:
    """A relay with the URL, for the block, at which it answers as one authority would."""
    relay = Relay(relaying, now)
    with serving(relay, f"/{secrets.token_urlsafe(16)}") as relay.url:
        yield relay


def stamped_write(relay: Relay, write: Callable[[str | None], None]) -> tuple[Stamped, ...]:
    """Call `write` with the relay's URL; under `later`, once more with none where no token was had.

    Returns the tokens; without any, the signature is still to be stamped. `write` must be able to
    begin anew. The error says what each authority did.
    """
    relay.begin()
    try:
        write(relay.url)
    except (SigningError, TimestampError) as error:
        # The SDK cannot read a refusal, so it is the relay that knows whether it is at fault.
        if relay.failure is None:
            raise
        if relay.need is not Need.LATER:
            raise relay.failure from error
        write(None)
        return ()
    return relay.tokens


def address_of(url: str) -> SplitResult:
    """The parts of an address that can be asked; `UsageError` where it is none."""
    try:
        address = urlsplit(url)
        (address.hostname or "").encode("idna")
        sound = url.isascii() and url.isprintable() and " " not in url and address.port != 0
    except ValueError as error:
        raise UsageError("the address of a time-stamp authority or time source cannot be read") from error
    if not sound or address.scheme not in ("http", "https") or not address.hostname:
        raise UsageError("a time-stamp authority or time source is named by an http or https address")
    if "@" in address.netloc or "#" in url:
        raise UsageError("the address of a time-stamp authority or time source names no user and no fragment")
    return address


@dataclass(frozen=True, slots=True)
class Heard:
    """What a server answered: at most `MAX_REPLY` bytes of it, and its Date."""

    status: int
    content_type: str
    date: str
    body: bytes


def exchange(method: str, url: str, body: bytes | None, deadline: float) -> Heard:
    """Ask once and be done at the deadline, however the other side behaves; raises OSError or HTTPException."""
    address = address_of(url)
    connection = _connection(address, max(0.01, deadline - time.monotonic()))
    target = address.path or "/"
    headers = {"Connection": "close", "Accept": _REPLY}
    if body is not None:
        headers["Content-Type"] = _QUERY
    try:
        # Connecting: each of a host's addresses, and the handshake, begins a time-out anew.
        with _hanging_up(connection, deadline):
            connection.connect()
            connection.request(
                method, f"{target}?{address.query}" if address.query else target, body, headers
            )
            with connection.getresponse() as response:
                data = response.read(MAX_REPLY + 1)
                # What is cut off, `http.client` takes for whole.
                if len(data) <= MAX_REPLY and response.length and method != "HEAD":
                    raise http.client.IncompleteRead(data)
                kind, date = response.headers.get("Content-Type", ""), response.headers.get("Date", "")
    finally:
        connection.close()
    if time.monotonic() >= deadline:
        raise TimeoutError("it did not answer to the end in time")
    return Heard(response.status, kind.partition(";")[0].strip().lower(), date, data)


def _put(
    url: str, query: bytes, deadline: float, answers: "queue.SimpleQueue[tuple[str, bytes | Refused]]"
) -> None:
    try:
        heard = exchange("POST", url, query, deadline)
    except (OSError, http.client.HTTPException) as error:
        late = isinstance(error, TimeoutError) or time.monotonic() >= deadline
        reason = "it did not answer in time" if late else f"it cannot be reached ({type(error).__name__})"
        answers.put((url, Refused(_shown(url), reason)))
        return
    if heard.status != 200 or heard.content_type != _REPLY:
        reason = f"it answered with status {heard.status} and no time-stamp reply"
    elif len(heard.body) > MAX_REPLY:
        reason = f"its answer is larger than {MAX_REPLY} bytes"
    else:
        answers.put((url, heard.body))
        return
    answers.put((url, Refused(_shown(url), reason)))


def _shown(url: str) -> str:
    """An authority's name in a sentence: without what may be a password in its path or query."""
    address = urlsplit(url)
    return address.netloc


def _connection(address: SplitResult, seconds: float) -> http.client.HTTPConnection:
    host = address.hostname or ""
    if address.scheme == "https":
        return http.client.HTTPSConnection(
            host, address.port, timeout=seconds, context=ssl.create_default_context()
        )
    return http.client.HTTPConnection(host, address.port, timeout=seconds)


@contextmanager
def _hanging_up(connection: http.client.HTTPConnection, deadline: float) -> Iterator[None]:
    """End the conversation at the deadline: a socket's own time-out begins anew with each byte that trickles in."""

    def hang_up() -> None:
        if isinstance(connected := connection.sock, socket.socket):
            with contextlib.suppress(OSError):  # closed meanwhile, which is all we want
                connected.shutdown(socket.SHUT_RDWR)

    watchdog = threading.Timer(max(0.0, deadline - time.monotonic()), hang_up)
    watchdog.daemon = True
    watchdog.start()
    try:
        yield
    finally:
        watchdog.cancel()
