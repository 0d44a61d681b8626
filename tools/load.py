"""Load a log with additions over loopback, and write down what it acknowledged.

    python3 -m tools.load http://127.0.0.1:8080 --seconds 60 --acknowledged acks.txt < token
    python3 -m tools.load http://127.0.0.1:8080 --seconds 60 --clients 5000 --rate 20000 < token

Closed loop by default: each client sends its next record when the last one is answered. With
--rate, records fall due at that rate and idle clients take them in turn, each over a connection
of its own; the loop is open as long as one is idle. Every record is different, as large as that
of a signature, and derived from --seed. The writer's token is read from standard
input, for arguments can be read by others. A client whose connection breaks sends the same record
again until the time is over. Prints one JSON object; latencies are in milliseconds, from the
sending of a request to its answer. Each line of the acknowledged file is an index and a
commitment in hex.
"""

import argparse
import asyncio
import base64
import hashlib
import json
import resource
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import SplitResult, urlsplit

MAX_SECONDS = 600
MAX_CLIENTS = 8192
MAX_ADDS = 10_000_000
_PATIENCE = 5.0
_RECONNECT_SECONDS = 0.05
_SPARE_FILES = 64
_RAMP = (
    1000  # clients that begin in a second: more at once overflow the listener's queue, and then wait for TCP
)
_DOMAIN = b"lightseal/commit/v1\x00"
_FIELDS = (b"binding", b"certificate", b"claim", b"media", b"signature")
_KEY = base64.b64encode(hashlib.sha256(b"load").digest())


@dataclass(frozen=True, slots=True)
class _Answer:
    status: int
    waits: bool
    body: bytes


class _Connection(asyncio.Protocol):
    """HTTP/1.1 with keep-alive, and no more of it than a log's answers need."""

    def __init__(self) -> None:
        self._held = b""
        self._answer: asyncio.Future[_Answer] | None = None
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)  # noqa: S101 - a TCP connection has no other
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._held += data
        head, end, rest = self._held.partition(b"\r\n\r\n")
        if not end or self._answer is None or self._answer.done():
            return
        low = head.lower()
        length = int(low[low.index(b"content-length:") + 15 :].partition(b"\r\n")[0])
        if len(rest) >= length:
            self._held = b""
            self._answer.set_result(_Answer(int(head[9:12]), b"\r\nretry-after:" in low, rest[:length]))

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(ConnectionResetError(str(exc)))

    async def ask(self, request: bytes) -> _Answer:
        if self._transport is None:
            raise ConnectionResetError("closed between two requests")
        self._answer = asyncio.get_running_loop().create_future()
        self._transport.write(request)
        return await self._answer

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()


@dataclass(slots=True)
class _Tally:
    """What came back."""

    statuses: Counter[int] = field(default_factory=Counter)
    accepted: list[float] = field(default_factory=list)
    refused: list[float] = field(default_factory=list)
    acknowledged: list[str] = field(default_factory=list)
    breaks: int = 0
    wrong: int = 0
    waits: int = 0

    def note(self, answer: _Answer, commitment: str, milliseconds: float) -> None:
        self.statuses[answer.status] += 1
        if answer.status != 201:
            self.refused.append(milliseconds)
            self.waits += answer.status == 429 and answer.waits
            return
        placed = json.loads(answer.body)
        self.accepted.append(milliseconds)
        self.acknowledged.append(f"{placed['index']} {commitment}\n")
        self.wrong += base64.b64decode(placed["commitment"]).hex() != commitment


class _Load:
    """One run: a stream of records, and the clients that take from it."""

    def __init__(self, options: argparse.Namespace, address: SplitResult, host: str, port: int) -> None:
        self._options = options
        self._host, self._port = host, port
        self._head = (
            f"POST {address.path.rstrip('/')}/add HTTP/1.1\r\nHost: {address.netloc}\r\n"
            f"Authorization: Bearer {options.token}\r\nContent-Type: application/json\r\nContent-Length: "
        ).encode()
        self._next = 0
        self._began = self._until = 0.0
        self.tally = _Tally()

    async def run(self) -> float:
        self._began = time.monotonic()
        self._until = self._began + self._options.seconds
        await asyncio.gather(*(self._client(number / _RAMP) for number in range(self._options.clients)))
        return time.monotonic() - self._began

    async def _client(self, after: float) -> None:
        connection: _Connection | None = None
        await asyncio.sleep(min(after, self._options.seconds))
        while (number := self._next) < self._options.count and time.monotonic() < self._until:
            self._next += 1
            if self._options.rate:
                due = self._began + number / self._options.rate
                await asyncio.sleep(max(0.0, min(due, self._until) - time.monotonic()))
            connection = await self._send(number, connection)
        if connection is not None:
            connection.close()

    async def _send(self, number: int, connection: _Connection | None) -> _Connection | None:
        """Send one record until it is answered or the time is over; return the connection for the next."""
        request, commitment = self._request(number)
        loop = asyncio.get_running_loop()
        while time.monotonic() < self._until:
            try:
                if connection is None:
                    _, connection = await loop.create_connection(_Connection, self._host, self._port)
                sent = time.monotonic()
                async with asyncio.timeout(self._until + _PATIENCE - sent):
                    answer = await connection.ask(request)
            except (OSError, TimeoutError):
                self.tally.breaks += 1
                if connection is not None:
                    connection.close()
                connection = None
                await asyncio.sleep(_RECONNECT_SECONDS)
                continue
            self.tally.note(answer, commitment, (time.monotonic() - sent) * 1000)
            break
        return connection

    def _request(self, number: int) -> tuple[bytes, str]:
        """A record with the fields of a signature's, and what it commits to (computed here, not by the log)."""
        chance = hashlib.shake_256(b"%s %d" % (self._options.seed.encode(), number)).digest(32 * 6)
        values = [chance[at : at + 32].hex().encode() for at in range(0, 32 * len(_FIELDS), 32)]
        payload = b"{%s}" % b",".join(b'"%s":"%s"' % pair for pair in zip(_FIELDS, values, strict=True))
        salt = chance[-32:]
        body = b'{"kind":"sign","payload":%s,"salt":"%s","key":"%s"}' % (
            payload,
            base64.b64encode(salt),
            _KEY,
        )
        return b"%s%d\r\n\r\n%s" % (self._head, len(body), body), hashlib.sha256(
            _DOMAIN + salt + payload
        ).hexdigest()


def _quantile(values: Sequence[float], share: float) -> float | None:
    return round(sorted(values)[min(len(values) - 1, int(share * len(values)))], 3) if values else None


def main(arguments: Sequence[str] | None = None) -> int:
    """Load, and print what came back; status 1 where an answer was about something else."""
    parser = argparse.ArgumentParser(prog="load", description="Load a log with additions over loopback.")
    parser.add_argument("url")
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--count", type=int, default=MAX_ADDS)
    parser.add_argument("--rate", type=float, default=0)
    parser.add_argument("--seed", default="load")
    parser.add_argument("--acknowledged", type=Path)
    options = parser.parse_args(arguments)
    options.token = sys.stdin.readline().strip()
    options.seconds = min(options.seconds, MAX_SECONDS)
    options.clients = min(options.clients, MAX_CLIENTS, _files() - _SPARE_FILES)
    options.count = min(options.count, MAX_ADDS)
    address = urlsplit(options.url)
    if address.hostname not in {"127.0.0.1", "::1"} or address.port is None:
        parser.error("only 127.0.0.1 and ::1 are loaded, at a port that is named")
    load = _Load(options, address, address.hostname, address.port)
    seconds = asyncio.run(load.run())
    tally = load.tally
    if options.acknowledged is not None:
        options.acknowledged.write_text("".join(tally.acknowledged), encoding="ascii")
    found = {
        "clients": options.clients,
        "seconds": round(seconds, 3),
        "offered_per_second": round(tally.statuses.total() / seconds, 1),
        "accepted_per_second": round(len(tally.accepted) / seconds, 1),
        "p50_ms": _quantile(tally.accepted, 0.50),
        "p99_ms": _quantile(tally.accepted, 0.99),
        "refused_p99_ms": _quantile(tally.refused, 0.99),
        "statuses": {str(status): count for status, count in sorted(tally.statuses.items())},
        "told_when_to_retry": tally.waits,
        "broken_connections": tally.breaks,
        "wrong_commitments": tally.wrong,
    }
    sys.stdout.write(json.dumps(found) + "\n")
    return 1 if tally.wrong else 0


def _files() -> int:
    """How many files may be open at once, after asking for as many as allowed."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = 1 << 20 if most == resource.RLIM_INFINITY else most
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    return most


if __name__ == "__main__":
    sys.exit(main())
