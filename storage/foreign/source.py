"""Where a foreign log's bytes come from: a URL that somebody named, or a folder of static tiles.

An effect, and nothing but one: what comes back is bounded in size and time, and is
otherwise whatever the other side chose to send. `storage.foreign.follow` shows whether it
leads to a signed checkpoint. No redirect is followed, no proxy asked and no cookie
kept, so no other machine is reached than the one in the URL. Not bounded in time:
the system's look-up of the host's name, and how many addresses it has. A line too slow
for a file within one attempt cannot be told from a log that drips.
"""

import contextlib
import http.client
import os
import re
import socket
import ssl
import stat
import threading
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Final, Protocol, Self
from urllib.parse import urlsplit

from storage.errors import Error, MalformedError
from storage.merkle import HASH_BYTES, TILE_WIDTH
from storage.tile import MAX_ENTRY_BYTES, bundle_path, tile_path

MAX_CHECKPOINT_BYTES: Final = 1 << 20
MAX_BUNDLE_BYTES: Final = TILE_WIDTH * (2 + MAX_ENTRY_BYTES)
ATTEMPTS: Final = 4
MAX_WAIT: Final = 60.0
"""The longest pause, in seconds, that a log may ask for between two attempts."""
ATTEMPT_SECONDS: Final = 10.0
FILE_SECONDS: Final = 30.0
"""How long one file is asked for, all attempts together; the pauses have a limit of their own, `MAX_WAIT`."""

_AGAIN = frozenset({429, 500, 502, 503, 504})
_MISSING = frozenset({404, 410})
_FIRST_WAIT = 0.5
_GZIP_OVERHEAD = 1024
"""What gzip may add to bytes that do not shrink, besides a thousandth of them: its head, a file's name."""
_URL_PATH = re.compile(r"(?:/[!-~]*)?")


class SourceAddressError(Error):
    """The URL or folder does not name a place where a log could be."""

    code = "source-address"
    remedy = "Name the log's prefix as http(s)://HOST/PATH without user, query and fragment, or a folder."


class SourceUnreachableError(Error):
    """The log did not answer, also when it was asked again."""

    code = "source-unreachable"
    remedy = "Try again later; if it stays so, ask the log's operator or use a mirror."


class SourceMissingError(Error):
    """The log says that it has no such file."""

    code = "source-missing"
    remedy = "Ask the log's operator: what a signed checkpoint covers must be served."


class SourceAnswerError(Error):
    """The log answered, with something that is no answer to the question."""

    code = "source-answer"
    remedy = "Check the URL; redirects are not followed, and no encoding but gzip is read."


class MalformedBundleError(MalformedError):
    """Not a bundle of exactly the entries that were asked for."""

    code = "bundle-malformed"

    def __init__(self, message: str, complete: int) -> None:
        super().__init__(message)
        self.complete = complete
        """How many whole entries stand before the flaw."""


class Source(Protocol):
    """A log in the form of c2sp.org/tlog-tiles. Nothing that it returns is verified.

    A file that is not there is a `SourceMissingError`; every other failure is another error.
    """

    def checkpoint(self) -> bytes:
        """Return the newest checkpoint, a signed note."""

    def tile(self, level: int, number: int, width: int) -> bytes:
        """Return a tile of hashes."""

    def bundle(self, number: int, width: int) -> bytes:
        """Return a bundle of entries."""


class FolderSource:
    """A static tree of files: a mirror, an unpacked backup, or a log before it is served."""

    def __init__(self, path: Path) -> None:
        if not path.is_dir():
            raise SourceAddressError(f"{path} is not a folder.")
        self._path = path

    def checkpoint(self) -> bytes:
        """Return the newest checkpoint, a signed note."""
        return self._read("checkpoint", MAX_CHECKPOINT_BYTES)

    def tile(self, level: int, number: int, width: int) -> bytes:
        """Return a tile of hashes."""
        return self._read(tile_path(level, number, width), HASH_BYTES * width)

    def bundle(self, number: int, width: int) -> bytes:
        """Return a bundle of entries."""
        return self._read(bundle_path(number, width), MAX_BUNDLE_BYTES)

    def _read(self, name: str, limit: int) -> bytes:
        try:
            # A pipe or a device must neither keep us waiting nor be woken.
            descriptor = os.open(self._path / name, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
            try:
                if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                    raise SourceAnswerError(f"{name} is not a file.")
                with os.fdopen(descriptor, "rb", closefd=False) as file:
                    data = file.read(limit + 1)
            finally:
                os.close(descriptor)
        except (FileNotFoundError, NotADirectoryError) as error:
            raise SourceMissingError(f"There is no {name}.") from error
        except OSError as error:
            raise SourceUnreachableError(
                f"{name} cannot be read ({error.strerror or 'unknown reason'})."
            ) from error
        if len(data) > limit:
            raise SourceAnswerError(f"{name} holds more than {limit} bytes.")
        return data


class HttpSource:
    """A log behind a URL, asked over one connection that is kept open. Not for several threads.

    `seconds` bounds each attempt, however slowly the bytes trickle in, and `in_all` the attempts for one
    file together. A log that says it is busy, or breaks off, is asked `ATTEMPTS` times at most, with the
    pauses it asks for up to `MAX_WAIT` in sum.
    """

    def __init__(
        self,
        url: str,
        *,
        seconds: float = ATTEMPT_SECONDS,
        in_all: float = FILE_SECONDS,
        sleep: Callable[[float], object] = time.sleep,
    ) -> None:
        try:
            parts = urlsplit(url)
            host, port = parts.hostname, parts.port
            # What the resolver would do, and fail at: labels that are empty or too long.
            (host or "").encode("idna")
        except ValueError as error:
            raise SourceAddressError("The address is not a URL.") from error
        if (
            parts.scheme not in {"http", "https"}
            or not host
            or "@" in parts.netloc
            or "?" in url
            or "#" in url
            or _URL_PATH.fullmatch(parts.path) is None
        ):
            raise SourceAddressError("The address is not http(s)://HOST[:PORT][/PATH].")
        kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
        try:
            self._connection = kind(host, port, timeout=seconds)
        except (http.client.InvalidURL, ValueError) as error:
            raise SourceAddressError("The address does not name a host.") from error
        self._host = host
        self._prefix = parts.path.rstrip("/")
        self._seconds = seconds
        self._in_all = in_all
        self._sleep = sleep

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the connection; the next question would open another."""
        self._connection.close()

    def checkpoint(self) -> bytes:
        """Return the newest checkpoint, a signed note."""
        return self._get("checkpoint", MAX_CHECKPOINT_BYTES)

    def tile(self, level: int, number: int, width: int) -> bytes:
        """Return a tile of hashes."""
        return self._get(tile_path(level, number, width), HASH_BYTES * width)

    def bundle(self, number: int, width: int) -> bytes:
        """Return a bundle of entries."""
        return self._get(bundle_path(number, width), MAX_BUNDLE_BYTES)

    def _get(self, name: str, limit: int) -> bytes:
        pause, fault, asked, waited = _FIRST_WAIT, "", 0.0, 0.0
        for attempt in range(ATTEMPTS):
            if attempt:
                if asked >= self._in_all:
                    raise SourceUnreachableError(
                        f"{self._host} {fault}, and not within {self._in_all:g} s in all,"
                        f" when asked for {name}."
                    )
                self._sleep(pause)
                waited += pause
                pause = _FIRST_WAIT * 2**attempt
            reused = self._connection.sock is not None
            began = time.monotonic()
            try:
                return self._ask(name, limit, min(self._seconds, self._in_all - asked))
            except _Busy as busy:
                fault = f"answered with the HTTP status {busy.status}"
                if busy.wait is not None and waited + busy.wait > MAX_WAIT:
                    raise SourceUnreachableError(
                        f"{self._host} wants to be asked for {name} again only after {busy.wait:.0f} s."
                    ) from None
                pause = pause if busy.wait is None else busy.wait
            except ssl.SSLCertVerificationError as error:
                raise SourceUnreachableError(
                    f"{self._host} shows no certificate that this machine trusts."
                ) from error
            except TimeoutError:
                fault = f"did not answer within {self._seconds:g} s"
            except (OSError, http.client.HTTPException):
                fault = "could not be reached, or broke off"
                pause = 0.0 if reused else pause  # it may only have closed a connection that lay idle
            finally:
                asked += time.monotonic() - began
        raise SourceUnreachableError(f"{self._host} {fault}, {ATTEMPTS} times, when asked for {name}.")

    def _ask(self, name: str, limit: int, seconds: float) -> bytes:
        late = threading.Event()
        begun = time.monotonic()
        connected = self._connect(seconds)
        # Each read has a time-out of its own; this is for one who sends a byte now and then.
        left = max(0.0, seconds - (time.monotonic() - begun))
        watch = threading.Timer(left, _abandon, (connected, late))
        watch.daemon = True
        watch.start()
        kept = False
        try:
            self._connection.request(
                "GET",
                f"{self._prefix}/{name}",
                headers={"Accept-Encoding": "gzip, identity", "User-Agent": "lightseal"},
            )
            with self._connection.getresponse() as response:
                data = self._read(response, name, limit)
            kept = True
        except (OSError, http.client.HTTPException, SourceAnswerError) as error:
            if late.is_set():  # what was cut short by us may look like anything
                raise TimeoutError from error
            raise
        finally:
            watch.cancel()
            if not kept or late.is_set():
                self._connection.close()
        if late.is_set():
            raise TimeoutError
        return data

    def _read(self, response: http.client.HTTPResponse, name: str, limit: int) -> bytes:
        status = response.status
        if status in _MISSING:
            raise SourceMissingError(f"{self._host} has no {name}.")
        if status in _AGAIN:
            raise _Busy(status, _seconds(response.getheader("Retry-After", "")))
        if status != http.HTTPStatus.OK:
            what = "a redirect, HTTP" if 300 <= status < 400 else "the HTTP status"
            raise SourceAnswerError(f"{self._host} answered with {what} {status} when asked for {name}.")
        # tlog-tiles, Parameters: a log may send gzip without being asked, and a client should read it.
        encoding = response.getheader("Content-Encoding", "identity").strip().lower()
        if encoding not in {"identity", "gzip"}:
            raise SourceAnswerError(f"{self._host} sent {name} in an encoding that nobody asked for.")
        longest = limit if encoding == "identity" else limit + limit // 1000 + _GZIP_OVERHEAD
        if response.length is not None and response.length > longest:
            raise SourceAnswerError(f"{self._host} announces more than {longest} bytes for {name}.")
        data = response.read(longest + 1)
        if len(data) > longest:
            raise SourceAnswerError(f"{self._host} sent more than {longest} bytes for {name}.")
        if response.length:
            raise http.client.IncompleteRead(data, response.length)
        try:
            return data if encoding == "identity" else _gunzipped(data, limit)
        except _GzipError as error:
            raise SourceAnswerError(f"{self._host} sent {name} {error}.") from error

    def _connect(self, seconds: float) -> socket.socket:
        """The socket itself: the connection forgets it as soon as an answer says that it is the last one."""
        self._connection.timeout = seconds
        if self._connection.sock is None:
            try:
                self._connection.connect()
            except BaseException:
                self._connection.close()
                raise
        connected: socket.socket = self._connection.sock
        connected.settimeout(seconds)
        return connected


def _abandon(connected: socket.socket, late: threading.Event) -> None:
    late.set()
    with contextlib.suppress(OSError):
        # Past any TLS: whoever trickles would not answer its farewell either.
        socket.socket.shutdown(connected, socket.SHUT_RDWR)


class _Busy(Exception):  # noqa: N818 - caught a few lines above, and never leaves this module
    """The log asks for patience."""

    def __init__(self, status: int, wait: float | None) -> None:
        super().__init__(status)
        self.status = status
        self.wait = wait


class _GzipError(Exception):
    """How the compressed answer is wrong, as the end of a sentence."""


def _gunzipped(data: bytes, limit: int) -> bytes:
    """Decompress exactly one member (RFC 1952), and never more than a byte beyond `limit`."""
    inflating = zlib.decompressobj(wbits=16 + zlib.MAX_WBITS)
    try:
        plain = inflating.decompress(data, limit + 1)
    except zlib.error as error:
        raise _GzipError("compressed, and damaged") from error
    if len(plain) > limit:
        raise _GzipError(f"compressed, with more than {limit} bytes in it")
    if not inflating.eof:
        raise _GzipError("compressed, and cut short")
    if inflating.unused_data:
        raise _GzipError("compressed, and more behind it")
    return plain


def fetch_tile(source: Source, level: int, number: int, width: int) -> bytes:
    """Return a tile, or the beginning of the full one where the partial one was removed (tlog-tiles)."""
    try:
        return source.tile(level, number, width)
    except SourceMissingError:
        if width == TILE_WIDTH:
            raise
        return source.tile(level, number, TILE_WIDTH)[: HASH_BYTES * width]


def fetch_bodies(source: Source, number: int, width: int) -> list[bytes]:
    """Return the bodies in a bundle, or the first ones of the full bundle where the partial was removed."""
    try:
        data = source.bundle(number, width)
    except SourceMissingError:
        if width == TILE_WIDTH:
            raise
        return unpack(source.bundle(number, TILE_WIDTH), TILE_WIDTH)[:width]
    return unpack(data, width)


def unpack(bundle: bytes, width: int) -> list[bytes]:
    """Read exactly `width` entries, each after its length as two bytes, and nothing after them."""
    bodies: list[bytes] = []
    at = 0
    while len(bodies) < width:
        start = at + 2
        stop = start + int.from_bytes(bundle[at:start], "big")
        if start > len(bundle) or stop > len(bundle):
            raise MalformedBundleError(
                f"The bundle ends within entry {len(bodies)} of its {width}.", len(bodies)
            )
        bodies.append(bundle[start:stop])
        at = stop
    if at != len(bundle):
        raise MalformedBundleError(f"The bundle goes on after its {width} entries.", width)
    return bodies


def _seconds(text: str) -> float | None:
    """The pause in a Retry-After header; one that is a date, or nothing, leaves the choice to us."""
    return float(text) if re.fullmatch(r"[0-9]{1,9}", text) else None
