"""Real servers on this machine that misbehave, each in one way."""

import gzip
import hashlib
import ipaddress
import os
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from hypothesis import given
from hypothesis import strategies as st

from storage.errors import Error
from storage.foreign.source import (
    ATTEMPT_SECONDS,
    ATTEMPTS,
    FILE_SECONDS,
    MAX_BUNDLE_BYTES,
    MAX_CHECKPOINT_BYTES,
    MAX_WAIT,
    FolderSource,
    HttpSource,
    MalformedBundleError,
    SourceAddressError,
    SourceAnswerError,
    SourceMissingError,
    SourceUnreachableError,
    fetch_bodies,
    fetch_tile,
    unpack,
)
from storage.tile import bundle, bundle_path

Answer = Callable[["Handler"], None]


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self.server.asked.append((self.path, dict(self.headers), self.client_address))  # type: ignore[attr-defined]
        self.server.answer(self)  # type: ignore[attr-defined]

    def log_message(self, *_: object) -> None:
        pass

    def reply(self, data: bytes, status: int = 200, **headers: str) -> None:
        self.send_response(status)
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        for name, value in ({"Content-Length": str(len(data))} | named).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)


class Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def __init__(self, answer: Answer) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.answer = answer
        self.asked: list[tuple[str, dict[str, str], object]] = []

    def handle_error(self, *_: object) -> None:
        """A client that hangs up is what these tests are about."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


@contextmanager
def serving(answer: Answer) -> Iterator[Server]:
    with Server(answer) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


def in_turn(*answers: Answer) -> Answer:
    """The first answer to the first question, and the last to all that are left."""
    left = list(answers)

    def answer(handler: Handler) -> None:
        (left.pop(0) if len(left) > 1 else left[0])(handler)

    return answer


def says(data: bytes, status: int = 200, **headers: str) -> Answer:
    return lambda handler: handler.reply(data, status, **headers)


def hangs_up(handler: Handler) -> None:
    handler.close_connection = True


def breaks_off(handler: Handler) -> None:
    handler.send_response(200)
    handler.send_header("Content-Length", "100")
    handler.end_headers()
    handler.wfile.write(b"half")
    handler.close_connection = True


def trickles(handler: Handler) -> None:
    handler.send_response(200)
    handler.send_header("Content-Length", "1000")
    handler.end_headers()
    for _ in range(1000):
        handler.wfile.write(b".")
        handler.wfile.flush()
        time.sleep(0.02)


def trickles_headers(handler: Handler) -> None:
    handler.wfile.write(b"HTTP/1.1 200 OK\r\nX: ")
    for _ in range(1000):
        handler.wfile.write(b".")
        handler.wfile.flush()
        time.sleep(0.02)


def trickles_to_the_end(handler: Handler) -> None:
    """A body without a length, after which the connection ends: the client has let go of its socket."""
    handler.wfile.write(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n")
    for _ in range(1000):
        handler.wfile.write(b".")
        time.sleep(0.02)


def trickles_header_lines(handler: Handler) -> None:
    handler.wfile.write(b"HTTP/1.1 200 OK\r\n")
    for number in range(90):
        handler.wfile.write(b"X-%d: y\r\n" % number)
        time.sleep(0.05)


def goes_on_with_continue(handler: Handler) -> None:
    for _ in range(1000):
        handler.wfile.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        time.sleep(0.02)


def floods_with_continue(handler: Handler) -> None:
    while True:
        handler.wfile.write(b"HTTP/1.1 100 Continue\r\n\r\n" * 1000)


def asking(server: Server, pauses: list[float], seconds: float = 5.0) -> HttpSource:
    return HttpSource(server.url, seconds=seconds, sleep=pauses.append)


def test_each_file_is_asked_for_where_the_specification_puts_it() -> None:
    with serving(says(b"x" * 32)) as server, HttpSource(f"{server.url}/some/log/") as source:
        source.checkpoint()
        source.tile(1, 1234067, 1)
        source.bundle(255, 256)
    assert [path for path, _, _ in server.asked] == [
        "/some/log/checkpoint",
        "/some/log/tile/1/x001/x234/067.p/1",
        "/some/log/tile/entries/255",
    ]


def test_one_connection_is_kept_and_the_encodings_we_read_are_said() -> None:
    with serving(says(b"note")) as server, HttpSource(server.url) as source:
        assert [source.checkpoint() for _ in range(5)] == [b"note"] * 5
    assert len({client for _, _, client in server.asked}) == 1
    for _, headers, _ in server.asked:
        assert headers["Accept-Encoding"] == "gzip, identity"
        assert headers["User-Agent"] == "lightseal"


def test_a_connection_that_was_closed_while_idle_is_opened_again_without_a_pause() -> None:
    def once(handler: Handler) -> None:
        handler.reply(b"note")
        handler.close_connection = True  # said by closing only, as a server that restarts does

    pauses: list[float] = []
    with serving(once) as server, asking(server, pauses) as source:
        source.checkpoint()
        time.sleep(0.1)
        assert source.checkpoint() == b"note"
    assert sum(pauses) == 0


def test_a_missing_file_is_told_from_a_failure_and_asked_for_once() -> None:
    pauses: list[float] = []
    with serving(says(b"", 404)) as server, asking(server, pauses) as source:
        with pytest.raises(SourceMissingError):
            source.tile(0, 0, 256)
        assert len(server.asked) == 1
        server.answer = says(b"", 410)
        with pytest.raises(SourceMissingError):
            source.tile(0, 0, 256)
    assert pauses == []


@pytest.mark.parametrize("status", [429, 500, 502, 503, 504])
def test_a_busy_log_is_asked_again_after_the_pause_it_asks_for(status: int) -> None:
    pauses: list[float] = []
    busy = says(b"", status, Retry_After="7")
    with serving(in_turn(busy, busy, says(b"note"))) as server, asking(server, pauses) as source:
        assert source.checkpoint() == b"note"
    assert pauses == [7, 7]


def test_a_log_that_stays_busy_is_left_alone_in_the_end() -> None:
    pauses: list[float] = []
    with serving(says(b"", 503)) as server, asking(server, pauses) as source:
        with pytest.raises(SourceUnreachableError, match="503"):
            source.checkpoint()
        assert len(server.asked) == ATTEMPTS
    assert len(pauses) == ATTEMPTS - 1
    assert pauses == sorted(pauses)


def test_nobody_waits_longer_than_the_longest_pause() -> None:
    pauses: list[float] = []
    answer = says(b"", 429, Retry_After=str(int(MAX_WAIT) + 1))
    with (
        serving(answer) as server,
        asking(server, pauses) as source,
        pytest.raises(SourceUnreachableError, match="only after 61 s"),
    ):
        source.checkpoint()
    assert pauses == []


@pytest.mark.parametrize("text", ["Wed, 21 Oct 2030 07:28:00 GMT", "-1", "1e9", "", "9" * 400])
def test_a_pause_that_is_no_number_of_seconds_is_ours_to_choose(text: str) -> None:
    pauses: list[float] = []
    answer = in_turn(says(b"", 429, Retry_After=text), says(b"note"))
    with serving(answer) as server, asking(server, pauses) as source:
        assert source.checkpoint() == b"note"
    assert 0 < pauses[0] <= 1


@pytest.mark.parametrize("fault", [hangs_up, breaks_off])
def test_an_answer_that_breaks_off_is_asked_for_again(fault: Answer) -> None:
    pauses: list[float] = []
    with serving(in_turn(fault, says(b"note"))) as server, asking(server, pauses) as source:
        assert source.checkpoint() == b"note"
        server.answer = fault
        with pytest.raises(SourceUnreachableError, match="broke off"):
            source.checkpoint()


@pytest.mark.parametrize(
    "fault",
    [
        trickles,
        trickles_headers,
        trickles_header_lines,
        trickles_to_the_end,
        goes_on_with_continue,
        floods_with_continue,
    ],
)
def test_a_log_that_trickles_is_not_waited_for(fault: Answer) -> None:
    with serving(fault) as server, asking(server, [], seconds=0.2) as source:
        start = time.monotonic()
        with pytest.raises(SourceUnreachableError, match=r"within 0\.2 s"):
            source.checkpoint()
        assert time.monotonic() - start < ATTEMPTS * 0.2 + 2


@pytest.mark.parametrize("fault", [trickles_header_lines, trickles_to_the_end, goes_on_with_continue])
def test_one_file_has_one_limit_for_all_attempts(fault: Answer) -> None:
    with serving(fault) as server:
        with HttpSource(server.url, seconds=0.4, in_all=0.6, sleep=lambda _: None) as source:
            start = time.monotonic()
            with pytest.raises(SourceUnreachableError, match=r"not within 0\.6 s in all"):
                source.checkpoint()
            assert 0.5 < time.monotonic() - start < 1.4
        assert len(server.asked) == 2


def test_the_limits_that_nobody_chose_are_seconds_and_not_minutes() -> None:
    assert ATTEMPT_SECONDS <= 10
    assert FILE_SECONDS <= 30


def test_the_pauses_of_one_file_have_one_limit() -> None:
    pauses: list[float] = []
    with (
        serving(says(b"", 429, Retry_After="40")) as server,
        asking(server, pauses) as source,
        pytest.raises(SourceUnreachableError, match="only after 40 s"),
    ):
        source.checkpoint()
    assert pauses == [40]


def test_a_silent_log_is_not_waited_for() -> None:
    silent = threading.Event()
    with serving(lambda _: bool(silent.wait(10)) and None) as server:
        try:
            with (
                asking(server, [], seconds=0.1) as source,
                pytest.raises(SourceUnreachableError, match="did not"),
            ):
                source.checkpoint()
        finally:
            silent.set()


def test_nobody_at_the_port_is_a_failure() -> None:
    with serving(says(b"")) as server:
        url = server.url
    with (
        HttpSource(url, sleep=lambda _: None) as source,
        pytest.raises(SourceUnreachableError, match="reached"),
    ):
        source.checkpoint()


@pytest.mark.parametrize("status", [301, 302, 307, 308])
def test_a_redirect_is_not_followed(status: int) -> None:
    with serving(says(b"stolen")) as other, serving(says(b"", status, Location=other.url)) as server:
        with asking(server, []) as source, pytest.raises(SourceAnswerError, match="redirect"):
            source.checkpoint()
        assert other.asked == []


def test_no_proxy_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(says(b"stolen")) as proxy, serving(says(b"note")) as server:
        for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
            monkeypatch.setenv(name, proxy.url)
        with asking(server, []) as source:
            assert source.checkpoint() == b"note"
        assert proxy.asked == []


@pytest.mark.parametrize("status", [201, 204, 206, 400, 401, 403, 451, 505])
def test_any_other_status_is_no_answer(status: int) -> None:
    with serving(says(b"", status)) as server, asking(server, []) as source:
        with pytest.raises(SourceAnswerError, match=str(status)):
            source.checkpoint()
        assert len(server.asked) == 1


@pytest.mark.parametrize("encoding", ["gzip", "GZIP", " gzip "])
def test_an_answer_that_a_log_compressed_without_being_asked_is_read(encoding: str) -> None:
    answer = in_turn(says(gzip.compress(b"note"), Content_Encoding=encoding), says(b"plain"))
    with serving(answer) as server, asking(server, []) as source:
        assert source.checkpoint() == b"note"
        assert source.checkpoint() == b"plain"
        assert len({client for _, _, client in server.asked}) == 1


def test_bytes_that_do_not_shrink_are_read_compressed_too() -> None:
    full = hashlib.shake_256(b"hashes").digest(32 * 256)
    packed = gzip.compress(full, compresslevel=1)
    assert len(packed) > len(full)
    with serving(says(packed, Content_Encoding="gzip")) as server, asking(server, []) as source:
        assert source.tile(0, 0, 256) == full


def bomb(size: int) -> bytes:
    return gzip.compress(bytes(size), compresslevel=9)


WRONGLY_COMPRESSED = {
    "damaged": (b"not gzip at all", "damaged"),
    "a wrong sum": (gzip.compress(b"note")[:-8] + bytes(8), "damaged"),
    "empty": (b"", "cut short"),
    "cut short": (gzip.compress(b"note")[:-1], "cut short"),
    "cut short before its sum": (gzip.compress(b"note")[:-8], "cut short"),
    "a second member": (gzip.compress(b"note") * 2, "more behind it"),
    "trailing data": (gzip.compress(b"note") + b"\0", "more behind it"),
    "a bomb": (bomb(1 << 26), "more than"),
    "a byte too many": (bomb(MAX_CHECKPOINT_BYTES + 1), "more than"),
    "raw deflate": (gzip.compress(b"note")[10:-8], "damaged"),
}


@pytest.mark.parametrize("flaw", WRONGLY_COMPRESSED)
def test_an_answer_that_is_compressed_wrongly_is_no_answer(flaw: str) -> None:
    data, reason = WRONGLY_COMPRESSED[flaw]
    with serving(says(data, Content_Encoding="gzip")) as server, asking(server, []) as source:
        with pytest.raises(SourceAnswerError, match=f"compressed, .*{reason}"):
            source.checkpoint()
        assert len(server.asked) == 1


def test_as_much_as_the_answer_can_have_is_read_compressed() -> None:
    answer = says(bomb(MAX_CHECKPOINT_BYTES), Content_Encoding="gzip")
    with serving(answer) as server, asking(server, []) as source:
        assert source.checkpoint() == bytes(MAX_CHECKPOINT_BYTES)


@pytest.mark.parametrize("encoding", ["deflate", "br", "gzip, gzip", "x", ""])
def test_an_encoding_that_nobody_asked_for_is_refused(encoding: str) -> None:
    answer = says(gzip.compress(b"note"), Content_Encoding=encoding)
    with (
        serving(answer) as server,
        asking(server, []) as source,
        pytest.raises(SourceAnswerError, match="encoding that nobody asked for"),
    ):
        source.checkpoint()


def test_more_bytes_than_the_answer_can_have_are_not_read() -> None:
    def endless(handler: Handler) -> None:
        handler.send_response(200)
        handler.send_header("Transfer-Encoding", "chunked")
        handler.end_headers()
        while True:
            handler.wfile.write(b"10000\r\n" + bytes(1 << 16) + b"\r\n")

    with serving(says(b"", Content_Length=str(1 << 60))) as server, asking(server, []) as source:
        with pytest.raises(SourceAnswerError, match="announces"):
            source.checkpoint()
        server.answer = endless
        with pytest.raises(SourceAnswerError, match=f"more than {MAX_CHECKPOINT_BYTES} bytes"):
            source.checkpoint()
        server.answer = says(bytes(33))
        with pytest.raises(SourceAnswerError, match="more than 32 bytes"):
            source.tile(0, 0, 1)


@pytest.mark.parametrize("garbage", [b"SSH-2.0-x\r\n", b"HTTP/1.1 200 OK\r\n" + b"x" * 70000, bytes(5000)])
def test_what_is_no_http_is_a_failure(garbage: bytes) -> None:
    def answer(handler: Handler) -> None:
        handler.wfile.write(garbage)
        handler.close_connection = True

    with serving(answer) as server, asking(server, []) as source, pytest.raises(SourceUnreachableError):
        source.checkpoint()


def test_a_certificate_nobody_trusts_ends_it_and_a_trusted_one_does_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "a log")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False
        )
        .sign(key, hashes.SHA256())
    )
    pem = tmp_path / "log.pem"
    pem.write_bytes(
        certificate.public_bytes(serialization.Encoding.PEM)
        + key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pem)
    pauses: list[float] = []
    with Server(says(b"note")) as server:
        server.socket = context.wrap_socket(server.socket, server_side=True)
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            url = server.url.replace("http:", "https:")
            with (
                HttpSource(url, sleep=pauses.append) as source,
                pytest.raises(SourceUnreachableError, match="certificate"),
            ):
                source.checkpoint()
            assert pauses == []
            monkeypatch.setenv("SSL_CERT_FILE", str(pem))
            with HttpSource(url, sleep=pauses.append) as source:
                assert source.checkpoint() == b"note"
        finally:
            server.shutdown()
            thread.join()


@pytest.mark.parametrize(
    "url",
    [
        "",
        "log.example",
        "ftp://log.example",
        "file:///etc/passwd",
        "http://",
        "http:///log",
        "https://user:secret@log.example/",
        "https://log.example/?a=b",
        "https://log.example/?",
        "https://log.example/#x",
        "https://log.example/a b",
        "https://log.example/\r\nX: y",
        "https://log.example:port/",
        "https://log.example:99999/",
        "https://[::1/",
        "https://log.example/ä",
        "http://a..b/",
        "https://.example/",
        f"https://{'x' * 64}.example/",
        f"https://{'ä' * 64}.example/",
    ],
)
def test_only_the_prefix_of_a_log_is_taken_for_an_address(url: str) -> None:
    with pytest.raises(SourceAddressError):
        HttpSource(url)


def test_a_folder_is_read_as_it_would_be_served(tmp_path: Path) -> None:
    source = FolderSource(tmp_path)
    for name in ("checkpoint", "tile/0/000.p/2", "tile/entries/x001/234"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(name.encode())
    assert source.checkpoint() == b"checkpoint"
    assert source.tile(0, 0, 2) == b"tile/0/000.p/2"
    assert source.bundle(1234, 256) == b"tile/entries/x001/234"
    with pytest.raises(SourceMissingError):
        source.tile(0, 0, 3)
    with pytest.raises(SourceMissingError):
        source.tile(0, 1, 256)


def test_a_folder_that_holds_other_things_than_files_does_not_hold_us_up(tmp_path: Path) -> None:
    source = FolderSource(tmp_path)
    os.mkfifo(tmp_path / "checkpoint")
    with pytest.raises(SourceAnswerError, match="not a file"):
        source.checkpoint()
    (tmp_path / "checkpoint").unlink()
    (tmp_path / "checkpoint").symlink_to("/dev/zero")
    with pytest.raises(SourceAnswerError, match="not a file"):
        source.checkpoint()
    (tmp_path / "checkpoint").unlink()
    (tmp_path / "checkpoint").mkdir()
    with pytest.raises(SourceAnswerError, match="not a file"):
        source.checkpoint()
    (tmp_path / "tile" / "0").mkdir(parents=True)
    (tmp_path / "tile" / "0" / "000").write_bytes(bytes(8193))
    with pytest.raises(SourceAnswerError, match="more than 8192"):
        source.tile(0, 0, 256)
    with (tmp_path / "tile" / "entries").open("wb"), pytest.raises(SourceMissingError):
        source.bundle(0, 256)


def test_what_is_no_folder_is_no_source(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for path in (tmp_path / "file", tmp_path / "nothing"):
        with pytest.raises(SourceAddressError):
            FolderSource(path)


def test_the_beginning_of_the_full_file_serves_where_the_partial_one_was_removed(tmp_path: Path) -> None:
    bodies = [b"%d" % number for number in range(256)]
    path = tmp_path / bundle_path(0)
    path.parent.mkdir(parents=True)
    path.write_bytes(bundle(bodies))
    (tmp_path / "tile" / "0").mkdir()
    (tmp_path / "tile" / "0" / "000").write_bytes(bytes(range(32)) * 256)
    source = FolderSource(tmp_path)
    assert fetch_bodies(source, 0, 3) == bodies[:3]
    assert fetch_tile(source, 0, 0, 2) == bytes(range(32)) * 2
    for width in (3, 256):
        with pytest.raises(SourceMissingError):
            fetch_bodies(source, 1, width)
        with pytest.raises(SourceMissingError):
            fetch_tile(source, 0, 1, width)


@given(st.lists(st.binary(max_size=40), min_size=1, max_size=20))
def test_a_bundle_is_read_as_it_was_packed_and_in_no_other_width(bodies: list[bytes]) -> None:
    packed = bundle(bodies)
    assert unpack(packed, len(bodies)) == bodies
    with pytest.raises(MalformedBundleError) as caught:
        unpack(packed + b"\0", len(bodies))
    assert caught.value.complete == len(bodies)
    with pytest.raises(MalformedBundleError) as caught:
        unpack(packed, len(bodies) + 1)
    assert caught.value.complete == len(bodies)
    with pytest.raises(MalformedBundleError) as caught:
        unpack(packed[:-1], len(bodies))
    assert caught.value.complete == len(bodies) - 1


@given(st.binary(max_size=300), st.integers(1, 256))
def test_whatever_is_no_bundle_raises_only_its_own_error(data: bytes, width: int) -> None:
    try:
        bodies = unpack(data, width)
    except MalformedBundleError:
        return
    assert bundle(bodies) == data
    assert len(bodies) == width


def test_a_full_bundle_of_the_longest_entries_is_within_the_limit() -> None:
    assert len(bundle([bytes(0xFFFF)] * 256)) == MAX_BUNDLE_BYTES


def test_every_error_says_what_to_do() -> None:
    kinds = [SourceAddressError, SourceUnreachableError, SourceMissingError, SourceAnswerError]
    assert len({kind.code for kind in [*kinds, MalformedBundleError]}) == 5
    assert all(issubclass(kind, Error) and kind.remedy.endswith(".") for kind in kinds)
