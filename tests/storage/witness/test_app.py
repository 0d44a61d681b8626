import contextlib
import hashlib
import http.client
import logging
import socket
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import uvicorn
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from storage.checkpoint import Checkpoint, open_checkpoint
from storage.cosignature import cosigners
from storage.merkle import leaf_hash
from storage.note import Algorithm, Note, Signature, VerifierKey
from storage.witness.app import witness_app
from storage.witness.memory import MAX_REQUEST_BYTES, CosigningKey, Request, Witness

NOON = datetime(2026, 11, 25, 12, tzinfo=UTC)
LOG_SECRET = Ed25519PrivateKey.from_private_bytes(hashlib.sha256(b"log").digest())
WITNESS_SECRET = Ed25519PrivateKey.from_private_bytes(hashlib.sha256(b"witness").digest())
LOG = VerifierKey("log.example", LOG_SECRET.public_key().public_bytes_raw())
KEY = VerifierKey(
    "witness.example", WITNESS_SECRET.public_key().public_bytes_raw(), Algorithm.COSIGNATURE_ED25519
)
TEXT = str(Checkpoint(LOG.name, 1, leaf_hash(b"the only entry")))
NOTE = Note(TEXT, (Signature(LOG.name, LOG.key_id, LOG_SECRET.sign(TEXT.encode())),))
BODY = bytes(Request(0, (), NOTE))
CHECKPOINT_PATH = f"/{hashlib.sha256(LOG.name.encode()).hexdigest()}/checkpoint"


def verify(public: bytes, signature: bytes, message: bytes) -> bool:
    try:
        Ed25519PublicKey.from_public_bytes(public).verify(signature, message)
    except InvalidSignature:
        return False
    return True


@contextlib.contextmanager
def serving(
    path: Path, now: Callable[[], datetime], sign: Callable[[bytes], bytes], body_seconds: float = 10.0
) -> Iterator[tuple[int, Witness]]:
    """A witness behind a real server; its port, and the witness itself."""
    with Witness.create(path, [CosigningKey(KEY, sign)], {LOG.name: [LOG]}, verify) as witness:
        listening = socket.create_server(("127.0.0.1", 0))
        app = witness_app(witness, now, body_seconds)
        server = uvicorn.Server(uvicorn.Config(app, log_config=None, lifespan="off"))
        thread = threading.Thread(target=server.run, args=([listening],))
        thread.start()
        try:
            while not server.started:
                time.sleep(0.005)
            yield listening.getsockname()[1], witness
        finally:
            server.should_exit = True
            thread.join()
            listening.close()


@pytest.fixture
def port(tmp_path: Path) -> Iterator[int]:
    with serving(tmp_path / "witness.db", lambda: NOON, WITNESS_SECRET.sign) as (port, _):
        yield port


@contextlib.contextmanager
def connected(port: int) -> Iterator[http.client.HTTPConnection]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    try:
        yield connection
    finally:
        connection.close()


def ask(connection: http.client.HTTPConnection, method: str, path: str, body: bytes | None = None):
    connection.request(method, path, body)
    response = connection.getresponse()
    return response.status, response.headers, response.read()


def test_a_checkpoint_is_cosigned_and_served_to_monitors_over_one_connection(port: int) -> None:
    with connected(port) as connection:
        status, _, body = ask(connection, "GET", CHECKPOINT_PATH)
        assert (status, body.count(b"\n")) == (404, 1)
        first = connection.sock
        status, headers, body = ask(connection, "POST", "/add-checkpoint", BODY)
        assert (status, headers["content-type"]) == (200, "text/plain; charset=utf-8")
        assert [signer.key for signer in cosigners(bytes(NOTE) + body, [KEY], verify)] == [KEY]
        status, headers, served = ask(connection, "GET", CHECKPOINT_PATH)
        assert (status, headers["content-type"]) == (200, "text/plain; charset=utf-8")
        assert headers["cache-control"] == "no-store"
        assert served == bytes(NOTE) + body
        assert open_checkpoint(served, [LOG], verify).size == 1
        assert connection.sock is first


def test_a_conflict_is_answered_with_the_size_and_exactly_its_type(port: int) -> None:
    with connected(port) as connection:
        ask(connection, "POST", "/add-checkpoint", BODY)
        status, headers, body = ask(connection, "POST", "/add-checkpoint", BODY)
    assert (status, headers["content-type"], body) == (409, "text/x.tlog.size", b"1\n")


def test_refusals_are_a_line_of_plain_text(port: int) -> None:
    stranger = BODY.replace(b"log.example", b"who.example")
    cases = {
        ("POST", "/add-checkpoint", b"\xff\x00"): 400,
        ("POST", "/add-checkpoint", b""): 400,
        ("POST", "/add-checkpoint", stranger): 404,
        ("POST", "/add-checkpoint", BODY.replace(b"example\n1\n", b"example\n2\n")): 403,
        ("GET", "/add-checkpoint", None): 405,
        ("POST", CHECKPOINT_PATH, b""): 405,
        ("GET", "/", None): 404,
        ("GET", "/..%2f..%2fwitness.db/checkpoint", None): 404,
        ("GET", "/%00/checkpoint", None): 404,
        ("POST", "/sign-subtree", b""): 404,
    }
    with connected(port) as connection:
        for (method, path, body), expected in cases.items():
            status, headers, said = ask(connection, method, path, body)
            assert (status, headers.get_content_type()) == (expected, "text/plain"), (method, path, said)
            assert len(said) < 200
            assert b"Traceback" not in said


def test_a_body_beyond_the_limit_is_not_read_to_its_end(port: int) -> None:
    with socket.create_connection(("127.0.0.1", port), timeout=20) as raw:
        raw.sendall(b"POST /add-checkpoint HTTP/1.1\r\nHost: w\r\nTransfer-Encoding: chunked\r\n\r\n")
        sent = 0
        answered = b""
        raw.settimeout(0.01)
        while not answered and sent < 100 * MAX_REQUEST_BYTES:
            raw.sendall(b"400\r\n" + b"x" * 1024 + b"\r\n")
            sent += 1024
            with contextlib.suppress(TimeoutError):
                answered = raw.recv(4096)
    assert answered.startswith(b"HTTP/1.1 413 ")
    assert b"connection: close" in answered.lower()
    assert sent > MAX_REQUEST_BYTES


def test_a_body_that_does_not_come_is_not_waited_for(tmp_path: Path) -> None:
    with (
        serving(tmp_path / "witness.db", lambda: NOON, WITNESS_SECRET.sign, 0.1) as (port, _),
        socket.create_connection(("127.0.0.1", port), timeout=20) as raw,
    ):
        raw.sendall(b"POST /add-checkpoint HTTP/1.1\r\nHost: w\r\nContent-Length: 500\r\n\r\nold 0\n")
        assert raw.recv(4096).startswith(b"HTTP/1.1 408 ")


def test_a_clock_that_ran_back_is_logged_and_answered_without_a_cosignature(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    clock = [NOON, NOON - timedelta(hours=1)]
    with (
        serving(tmp_path / "witness.db", lambda: clock.pop(0), WITNESS_SECRET.sign) as (port, _),
        connected(port) as connection,
        caplog.at_level(logging.ERROR),
    ):
        ask(connection, "POST", "/add-checkpoint", BODY)
        status, _, said = ask(connection, "POST", "/add-checkpoint", bytes(Request(1, (), NOTE)))
    assert status == 503
    assert b"\xe2\x80\x94" not in said
    assert "ran back by 3600 seconds" in caplog.text


def test_a_fork_is_logged_when_it_is_kept_and_the_log_is_told_no_more(
    port: int, caplog: pytest.LogCaptureFixture
) -> None:
    text = str(Checkpoint(LOG.name, 1, leaf_hash(b"another only entry")))
    other = Note(text, (Signature(LOG.name, LOG.key_id, LOG_SECRET.sign(text.encode())),))
    with caplog.at_level(logging.ERROR), connected(port) as connection:
        ask(connection, "POST", "/add-checkpoint", BODY)
        assert caplog.messages == []
        for _ in range(3):
            status, _, body = ask(connection, "POST", "/add-checkpoint", bytes(Request(1, (), other)))
            assert (status, body) == (409, b"1\n")
    (said,) = caplog.messages
    assert said.startswith("log.example signed two trees of one size")


def test_a_witness_that_cannot_reach_its_database_says_no_more_than_that(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with (
        serving(tmp_path / "witness.db", lambda: NOON, WITNESS_SECRET.sign) as (port, witness),
        connected(port) as connection,
    ):
        witness.close()
        for method, path, body in (("POST", "/add-checkpoint", BODY), ("GET", CHECKPOINT_PATH, None)):
            status, _, said = ask(connection, method, path, body)
            assert (status, said) == (503, b"The witness cannot answer now.\n")
    assert "witness-unusable" in caplog.text


class KeyUnpluggedError(Exception):
    pass


def test_an_unforeseen_failure_shows_nothing_of_the_program(tmp_path: Path) -> None:
    def unplugged(_message: bytes) -> bytes:
        raise KeyUnpluggedError("secret detail")

    with (
        serving(tmp_path / "witness.db", lambda: NOON, unplugged) as (port, _),
        connected(port) as connection,
    ):
        status, headers, said = ask(connection, "POST", "/add-checkpoint", BODY)
    assert (status, headers.get_content_type(), said) == (500, "text/plain", b"Internal Server Error")


def test_a_slow_key_does_not_keep_others_waiting(tmp_path: Path) -> None:
    signing, release = threading.Event(), threading.Event()

    def slow(message: bytes) -> bytes:
        signing.set()
        assert release.wait(20)
        return WITNESS_SECRET.sign(message)

    with (
        serving(tmp_path / "witness.db", lambda: NOON, slow) as (port, _),
        connected(port) as first,
        connected(port) as second,
    ):
        first.request("POST", "/add-checkpoint", BODY)
        assert signing.wait(20)
        assert ask(second, "GET", CHECKPOINT_PATH)[0] == 404
        assert ask(second, "POST", "/add-checkpoint", BODY)[0] == 409
        release.set()
        assert first.getresponse().status == 200
