"""Who is served, and who is hung up on."""

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import pytest
import uvicorn

from tools.errors import AddressTakenError, UsageError
from tools.serving import impatient, serve

REQUEST = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"


async def application(scope, _receive, send) -> None:
    if scope["type"] != "http":
        return
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
    await send({"type": "http.response.body", "body": b"ok"})


@contextmanager
def served(most: int, head_seconds: float) -> Iterator[int]:
    config = uvicorn.Config(
        application, http=impatient(most, head_seconds), log_config=None, ws="none", lifespan="off"
    )
    server, listening = uvicorn.Server(config), socket.create_server(("127.0.0.1", 0))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
    thread.start()
    try:
        while not server.started:
            assert thread.is_alive()
            time.sleep(0.005)
        yield listening.getsockname()[1]
    finally:
        server.should_exit = True
        thread.join(20)
        listening.close()
        assert not thread.is_alive()


@pytest.mark.parametrize("host", ["", "ü..x", "a..b", "x" * 70, "\udcff"])
def test_what_is_no_host_is_refused_before_anything_listens(host: str) -> None:
    told: list[str] = []
    with pytest.raises(UsageError):
        serve(application, host, 0, told.append)
    assert told == []


@pytest.mark.parametrize(
    ("host", "why"), [("127.0.0.1", "Address already in use"), ("::1%nowhere", "no address")]
)
def test_why_an_address_cannot_be_used_is_said_in_a_few_words(host: str, why: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(AddressTakenError) as refused:
        serve(application, host, taken.getsockname()[1], lambda _: None)
    assert f"cannot be used ({why}" in str(refused.value)
    assert "attempting" not in str(refused.value)


def connected(port: int) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), timeout=5)


def answered(connection: socket.socket) -> bool:
    connection.sendall(REQUEST)
    got = b""
    while not got.endswith(b"ok"):
        more = connection.recv(4096)
        if not more:
            return False
        got += more
    return got.startswith(b"HTTP/1.1 200 ")


def seconds_until_closed(connection: socket.socket, drip: bytes = b"") -> float:
    began = time.monotonic()
    connection.settimeout(0.1)
    for number in range(100):
        try:
            if connection.recv(4096) == b"":
                return time.monotonic() - began
        except TimeoutError:
            pass
        except ConnectionError:
            return time.monotonic() - began
        try:
            connection.sendall(drip[number % max(1, len(drip)) :][:1])
        except ConnectionError:
            return time.monotonic() - began
    raise AssertionError("it is never closed")


@pytest.mark.parametrize("drip", [b"", b"GET / HTTP/1.1\r\nX-Slow: " + b"a" * 100])
def test_who_sends_no_whole_head_in_time_is_hung_up_on(drip: bytes) -> None:
    with served(10, 0.5) as port, connected(port) as connection:
        assert 0.4 <= seconds_until_closed(connection, drip) < 5


def test_who_begins_another_request_and_does_not_end_it_is_hung_up_on() -> None:
    with served(10, 0.5) as port, connected(port) as connection:
        assert answered(connection)
        assert 0.4 <= seconds_until_closed(connection, b"GET / HTTP/1.1\r\nX-Slow: " + b"a" * 100) < 5


def test_who_asks_now_and_then_keeps_the_connection() -> None:
    with served(10, 0.3) as port, connected(port) as connection:
        for _ in range(4):
            assert answered(connection)
            time.sleep(0.4)


def test_a_crowd_is_sent_away_at_the_door_and_who_is_inside_is_served() -> None:
    with served(3, 30) as port, ExitStack() as stack:
        inside = stack.enter_context(connected(port))
        assert answered(inside)
        idle = [stack.enter_context(connected(port)) for _ in range(2)]
        time.sleep(0.1)
        for _ in range(20):
            late = stack.enter_context(connected(port))
            assert late.recv(4096).startswith(b"HTTP/1.1 503 ")
            assert late.recv(4096) == b""
        assert answered(inside)
        idle[0].close()
        time.sleep(0.2)
        assert answered(stack.enter_context(connected(port)))


def test_a_head_without_end_is_not_collected() -> None:
    """The flaw would be to keep what one stranger sends before anybody knows what he wants."""
    with served(8, 5.0) as port, connected(port) as connection:
        connection.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n")
        sent = 0
        try:
            while sent < 8 << 20:
                connection.sendall(b"X-More: " + b"a" * 8000 + b"\r\n")
                sent += 8010
        except (ConnectionResetError, BrokenPipeError):
            pass
        assert sent < 4 << 20
        with connected(port) as other:
            assert answered(other)


def test_many_requests_on_one_connection_are_no_head_without_end() -> None:
    with served(8, 5.0) as port, connected(port) as connection:
        for _ in range(200):
            connection.sendall(b"GET / HTTP/1.1\r\nHost: x\r\nX-Pad: " + b"a" * 1000 + b"\r\n\r\n")
            got = b""
            while not got.endswith(b"ok"):
                got += connection.recv(4096)
            assert got.startswith(b"HTTP/1.1 200 ")
