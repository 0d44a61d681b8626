import base64
import gzip
import hashlib
import http.client
import json
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import uvicorn

from authn.sealing import seal, unseal
from storage import payload
from storage.checkpoint import open_checkpoint
from storage.entry import Kind
from storage.errors import ConflictingRecordError, DiskFullError, LedgerBusyError, LedgerDamagedError
from storage.keyring import Keyring, Sealer
from storage.ledger import Ledger
from storage.log_add import MAX_BODY_BYTES, Settings
from storage.log_app import log_app
from storage.merkle import leaf_hash, verify_consistency, verify_inclusion
from storage.proof import InclusionProof
from storage.receipt import Receipt
from storage.record import Record
from storage.sequencer import Sequencer
from storage.tile import Tile

AT = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
BEARER = {"Authorization": "Bearer a-token"}
FOREVER = "public, max-age=31536000, immutable"


def fresh(number: int) -> Record:
    return Record(
        Kind.SIGN,
        payload.canonical({"claim": f"claim {number}"}),
        hashlib.sha256(b"salt %d" % number).digest(),
        hashlib.sha256(b"key").digest(),
    )


def body_of(record: Record, **changes: object) -> bytes:
    fields: dict[str, object] = {
        "kind": record.kind,
        "payload": json.loads(record.payload),
        "salt": base64.b64encode(record.salt).decode(),
        "key": base64.b64encode(record.key).decode(),
    }
    return json.dumps(fields | changes).encode()


@dataclass
class Answer:
    status: int
    headers: Any
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass
class Site:
    """A log that is served from a thread of this process."""

    ledger: Ledger
    port: int = 0
    sizes: list[int] = field(default_factory=list)

    def ask(
        self, path: str, method: str = "GET", body: bytes | None = None, headers: dict[str, str] | None = None
    ) -> Answer:
        with closing(http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)) as connection:
            connection.request(method, path, body, headers or {})
            answer = connection.getresponse()
            return Answer(answer.status, answer.headers, answer.read())

    def add(self, record: Record, query: str = "", writer: str = "a") -> Answer:
        return self.ask(f"/add{query}", "POST", body_of(record), {"Authorization": f"Bearer {writer}-token"})


@contextmanager
def served(app: Any) -> Iterator[int]:
    """Serve `app` with a real server on a free port of the loopback."""
    server = uvicorn.Server(uvicorn.Config(app, log_config=None, ws="none", lifespan="on", access_log=False))
    listening = socket.create_server(("127.0.0.1", 0))
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


class Sites:
    """Serves ledgers of a number of records, with an append or settings that differ."""

    def __init__(self, stack: ExitStack, url: str, log: Any, sealer: Sealer) -> None:
        self._stack, self._url, self._log, self._sealer = stack, url, log, sealer

    def __call__(self, count: int = 0, append: Any = None, limit: int = 4096, **settings: Any) -> Site:
        ledger = self._stack.enter_context(Ledger.create(self._url, self._log.name, self._sealer))
        if count:
            ledger.append([fresh(number) for number in range(count)], AT, self._log.sign)
        reader = self._stack.enter_context(Ledger.open_read_only(self._url, self._sealer))
        site = Site(ledger)

        def record(records: Sequence[Record]) -> tuple[int, ...]:
            site.sizes.append(len(records))
            return ledger.append(records, AT, self._log.sign)

        sequencer = self._stack.enter_context(Sequencer(append or record, limit))
        chosen = {
            "published": reader.checkpoint,
            "witnessed": None,
            "authorise": {"a-token": "a writer", "b-token": "b writer"}.get,
        } | settings
        site.port = self._stack.enter_context(served(log_app(reader, sequencer, Settings(**chosen))))
        return site


@pytest.fixture
def site_of(sqlite_url, log, sealer) -> Iterator[Sites]:
    with ExitStack() as stack:
        yield Sites(stack, sqlite_url, log, sealer)


@pytest.fixture(scope="module")
def refusing(tmp_path_factory, log) -> Iterator[Site]:
    """One log of three entries, for requests that must all be refused and change nothing."""
    with ExitStack() as stack:
        folder = tmp_path_factory.mktemp("log")
        sealer = Sealer(Keyring.create(folder / "keyring", bytes(range(32))), seal, unseal)
        site = Sites(stack, f"sqlite:///{folder / 'ledger.db'}", log, sealer)(3)
        yield site
        assert site.ledger.size == 3


def spec_root(leaves: list[bytes]) -> bytes:
    """MTH of RFC 6962, 2.1, over leaf hashes."""
    if len(leaves) == 1:
        return leaves[0]
    split = 1 << (len(leaves) - 1).bit_length() - 1
    return hashlib.sha256(b"\1" + spec_root(leaves[:split]) + spec_root(leaves[split:])).digest()


def unpacked(bundle: bytes) -> list[bytes]:
    bodies = []
    while bundle:
        length = int.from_bytes(bundle[:2], "big")
        bodies.append(bundle[2 : 2 + length])
        assert len(bodies[-1]) == length
        bundle = bundle[2 + length :]
    return bodies


def assert_error(answer: Answer, status: int, code: str) -> None:
    assert (answer.status, answer.json["error"]) == (status, code)
    assert set(answer.json) == {"error", "message", "remedy"}
    assert answer.body.endswith(b"}\n")
    assert answer.body.count(b"\n") == 1
    assert answer.headers["Content-Type"] == "application/json"
    assert answer.headers["Cache-Control"] == "no-store"
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert b"Traceback" not in answer.body
    assert b".py" not in answer.body


def test_the_checkpoint_is_served_as_the_specification_says(site_of, log) -> None:
    site = site_of(3)
    answer = site.ask("/checkpoint")
    assert answer.body.decode() == site.ledger.checkpoint()
    assert open_checkpoint(answer.body, [log.key], log.verify).size == 3
    assert answer.headers["Content-Type"] == "text/plain; charset=utf-8"
    assert answer.headers["Cache-Control"] == "no-cache"
    assert answer.headers["Access-Control-Allow-Origin"] == "*"
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    head = site.ask("/checkpoint", "HEAD")
    assert (head.status, head.body) == (200, b"")
    assert head.headers["Content-Length"] == str(len(answer.body))


def test_a_stranger_rebuilds_the_tree_from_what_is_served(site_of, log) -> None:
    site = site_of(600)
    checkpoint = open_checkpoint(site.ask("/checkpoint").body, [log.key], log.verify)
    bodies: list[bytes] = []
    for path in ("tile/entries/000", "tile/entries/001", "tile/entries/002.p/88"):
        answer = site.ask(f"/{path}")
        assert answer.headers["Content-Type"] == "application/octet-stream"
        assert answer.headers["Cache-Control"] == FOREVER
        assert answer.headers["Access-Control-Allow-Origin"] == "*"
        bodies += unpacked(answer.body)
    leaves = [hashlib.sha256(b"\0" + body).digest() for body in bodies]
    assert (len(leaves), spec_root(leaves)) == (checkpoint.size, checkpoint.root)
    level_1 = [spec_root(leaves[:256]), spec_root(leaves[256:512])]
    for path, hashes in {
        "tile/0/000": leaves[:256],
        "tile/0/001": leaves[256:512],
        "tile/0/002.p/88": leaves[512:],
        "tile/0/002.p/1": leaves[512:513],
        "tile/0/001.p/255": leaves[256:511],
        "tile/1/000.p/2": level_1,
        "tile/1/000.p/1": level_1[:1],
    }.items():
        for _ in range(2):  # the second time from memory
            answer = site.ask(f"/{path}")
            assert (answer.status, answer.body) == (200, b"".join(hashes))
            assert answer.headers["Content-Type"] == "application/octet-stream"
            assert answer.headers["Cache-Control"] == FOREVER
    for path in ("tile/0/002", "tile/0/002.p/89", "tile/0/003.p/1", "tile/1/000", "tile/1/000.p/3"):
        assert_error(site.ask(f"/{path}"), 404, "entry-unknown")
    for path in ("tile/2/000.p/1", "tile/63/000.p/1", "tile/entries/002", "tile/entries/x999/x999/999"):
        assert_error(site.ask(f"/{path}"), 404, "entry-unknown")


def test_bundles_are_packed_for_who_asks(site_of) -> None:
    site = site_of(300)
    for path in ("/tile/entries/000", "/tile/entries/001.p/44"):
        plain = site.ask(path, headers={"Accept-Encoding": "identity, gzip;q=0"})
        packed = site.ask(path, headers={"Accept-Encoding": "br, gzip"})
        assert "Content-Encoding" not in plain.headers
        assert packed.headers["Content-Encoding"] == "gzip"
        assert plain.headers["Vary"] == packed.headers["Vary"] == "Accept-Encoding"
        assert gzip.decompress(packed.body) == plain.body
        assert len(packed.body) < len(plain.body) * 0.7
    assert "Content-Encoding" not in site.ask("/tile/0/000", headers={"Accept-Encoding": "gzip"}).headers


def test_nothing_beyond_the_published_checkpoint_is_served(site_of, log) -> None:
    notes: list[str] = []
    site = site_of(258, published=lambda: notes[-1])
    notes.append(site.ledger.checkpoint())
    site.ledger.append([fresh(number) for number in range(258, 600)], AT, log.sign)
    assert site.ask("/tile/0/001.p/2").status == 200
    assert site.ask("/proof/257").status == 200
    assert site.ask("/consistency/0/258").status == 200
    unseen = ("/tile/0/001.p/3", "/tile/0/001", "/tile/entries/001.p/3", "/tile/1/000.p/2", "/proof/258")
    for path in (*unseen, "/consistency/1/259"):
        assert_error(site.ask(path), 404, "entry-unknown")
    notes.append(site.ledger.checkpoint())
    for path in (*unseen, "/consistency/1/259"):
        assert site.ask(path).status == 200
    assert open_checkpoint(site.ask("/checkpoint").body, [log.key], log.verify).size == 600


@pytest.mark.parametrize(
    "path",
    [
        "/tile/0/0",
        "/tile/0/x000/067",
        "/tile/00/000",
        "/tile/64/000",
        "/tile/0/000.p/0",
        "/tile/0/000.p/01",
        "/tile/0/000.p/256",
        "/tile/0/000.p/1/",
        "/tile/0/000/",
        "/tile/0/%30%30%30",
        "/tile/0/000%2Ep/1",
        "/tile/entries/",
        "/tile/",
        "/tile/0/..%2f..%2fetc",
        "/tile/0/../../checkpoint",
    ],
)
def test_a_tile_has_one_path(refusing, path) -> None:
    assert_error(refusing.ask(path), 404, "tile-path-malformed")


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/tile",
        "/checkpoint/",
        "/Checkpoint",
        "/proof/",
        "/proof/00",
        "/proof/-1",
        "/proof/1.0",
        "/proof/%D9%A1",
        "/proof/9223372036854775808",
        "/proof/" + "9" * 5000,
        "/consistency/1",
        "/consistency/01/2",
        "/consistency/1/2/3",
        "/add/",
        "/metrics",
        "//checkpoint",
    ],
)
def test_any_other_path_is_not_found(refusing, path) -> None:
    assert_error(refusing.ask(path), 404, "not-found")


@pytest.mark.parametrize(
    ("path", "allowed"),
    [
        ("/checkpoint", {"GET", "HEAD"}),
        ("/tile/0/000.p/3", {"GET", "HEAD"}),
        ("/proof/0", {"GET", "HEAD"}),
        ("/consistency/1/2", {"GET", "HEAD"}),
        ("/add", {"POST"}),
    ],
)
def test_a_path_has_its_methods_and_no_others(refusing, path, allowed) -> None:
    for method in {"GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS"} - allowed:
        answer = refusing.ask(path, method)
        assert answer.status == 405
        assert set(answer.headers["Allow"].split(", ")) == allowed
        if method != "HEAD":
            assert_error(answer, 405, "not-found")


@pytest.mark.parametrize("count", [1, 2, 255, 256, 257, 600])
def test_a_proof_leads_to_the_served_checkpoint(site_of, log, count) -> None:
    site = site_of(count)
    for index in {0, 1, 200, 255, 256, 511, 512, count - 1} & set(range(count)):
        answer = site.ask(f"/proof/{index}")
        assert answer.headers["Content-Type"] == "text/plain; charset=utf-8"
        assert answer.headers["Cache-Control"] == "no-cache"
        proof = InclusionProof.parse(answer.body.decode())
        assert proof.note == site.ask("/checkpoint").body
        checkpoint = open_checkpoint(proof.note, [log.key], log.verify)
        leaf = leaf_hash(fresh(index).entry(AT).body)
        verify_inclusion(leaf, proof.index, checkpoint.size, proof.hashes, checkpoint.root)
        assert proof.index == index
    assert_error(site.ask(f"/proof/{count}"), 404, "entry-unknown")


def test_an_erased_entry_keeps_its_proof(site_of, log) -> None:
    site = site_of(9)
    assert site.ledger.erase(4, bytes(32), AT, log.sign) == 9
    assert site.ledger.payload(4) is None
    proof = InclusionProof.parse(site.ask("/proof/4").body.decode())
    checkpoint = open_checkpoint(proof.note, [log.key], log.verify)
    leaf = leaf_hash(fresh(4).entry(AT).body)
    verify_inclusion(leaf, proof.index, checkpoint.size, proof.hashes, checkpoint.root)


def test_consistency_is_proved_between_any_two_published_sizes(site_of) -> None:
    site = site_of(300)
    leaves = [leaf_hash(fresh(number).entry(AT).body) for number in range(300)]
    for old, new in [(1, 2), (3, 7), (6, 8), (255, 256), (256, 257), (100, 300), (300, 300)]:
        answer = site.ask(f"/consistency/{old}/{new}")
        assert answer.headers["Cache-Control"] == FOREVER
        hashes = [base64.b64decode(line, validate=True) for line in answer.body.decode().splitlines()]
        verify_consistency(old, new, hashes, spec_root(leaves[:old]), spec_root(leaves[:new]))
    assert site.ask("/consistency/0/300").body == b""
    assert_error(site.ask("/consistency/2/1"), 404, "entry-unknown")


def test_an_empty_log_says_that_it_is_empty(site_of) -> None:
    site = site_of()
    for path in ("/checkpoint", "/tile/0/000.p/1", "/tile/entries/000.p/1", "/proof/0", "/consistency/0/1"):
        assert_error(site.ask(path), 404, "ledger-empty")


def test_the_log_of_another_program_is_served_under_the_same_paths(shared) -> None:
    vector = shared("tessera-log.json")
    largest = vector["sizes"][-1]
    bodies = unpacked(bytes.fromhex(largest["entries_000_hex"]))

    class Tessera:
        def tile(self, level: int, number: int, width: int) -> bytes:
            assert (level, number) == (0, 0)
            return bytes.fromhex(largest["tile_0_000_hex"])[: 32 * width]

        def bundle(self, number: int, width: int) -> bytes:
            assert number == 0
            return b"".join(len(body).to_bytes(2, "big") + body for body in bodies[:width])

    now = [vector["sizes"][0]]
    nobody = Settings(lambda: now[0]["checkpoint"], None, lambda _token: None)
    app = log_app(Tessera(), None, nobody)
    with served(app) as port:
        site = Site(app, port)
        for expected in vector["sizes"]:
            now[0] = expected
            size = expected["size"]
            assert site.ask("/checkpoint").body.decode() == expected["checkpoint"]
            assert_error(site.ask(f"/{Tile(0, 0, size + 1)}"), 404, "entry-unknown")
            if size:
                assert site.ask(f"/{Tile(0, 0, size)}").body.hex() == expected["tile_0_000_hex"]
                assert site.ask(f"/{Tile(None, 0, size)}").body.hex() == expected["entries_000_hex"]
    assert len(vector["sizes"]) == 9


def test_a_record_is_added_once_however_often_it_is_sent(site_of) -> None:
    site = site_of(5)
    for _ in range(3):
        answer = site.add(fresh(5))
        assert answer.status == 201
        assert answer.json == {
            "index": 5,
            "commitment": base64.b64encode(fresh(5).commitment).decode(),
        }
        assert answer.headers["Cache-Control"] == "no-store"
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert "Access-Control-Allow-Origin" not in answer.headers
    assert site.ledger.size == 6
    assert site.ledger.payload(5) == fresh(5).payload


def test_the_order_of_names_in_a_body_does_not_matter(site_of) -> None:
    site = site_of()
    record = Record(
        Kind.TOKEN, payload.canonical({"a": [1, {"ä": None}], "z": "\u2028"}), bytes(32), bytes(32)
    )
    salt = base64.b64encode(record.salt).decode()
    sent = (
        f'{{"salt":"{salt}", "payload": {{"z":"\u2028","a":[1,{{"ä":null}}]}},"key":"{salt}","kind":"token"}}'
    )
    assert site.ask("/add", "POST", sent.encode(), BEARER).status == 201
    assert site.ledger.payload(0) == record.payload


def test_a_receipt_proves_what_was_added(site_of, log) -> None:
    site = site_of(5)
    answer = site.add(fresh(5), "?wait=receipt")
    assert answer.status == 201
    receipt = Receipt.parse(answer.body.decode())
    assert receipt.check([log.key], log.verify).size == 6
    assert (receipt.payload, receipt.proof.index) == (fresh(5).payload, 5)


def test_a_receipt_under_witnesses_is_worth_a_bounded_wait(site_of) -> None:
    covered = [0]
    site = site_of(5, witnessed=lambda: covered[0], witness_seconds=0.3)
    began = time.monotonic()
    late = site.add(fresh(5), "?wait=witness")
    assert (late.status, late.json["index"], late.headers["Retry-After"]) == (202, 5, "1")
    assert 0.3 <= time.monotonic() - began < 5
    covered[0] = 5  # entries 0 to 4
    assert site.add(fresh(5), "?wait=witness").status == 202
    covered[0] = 6
    again = site.add(fresh(5), "?wait=witness")
    assert again.status == 201
    assert Receipt.parse(again.body.decode()).proof.index == 5
    assert site.ledger.size == 6


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Authorization": "Bearer wrong"},
        {"Authorization": "Bearer "},
        {"Authorization": "a-token"},
        {"Authorization": "Basic a-token"},
        {"Authorization": "Bearer \xff"},
        {"X-Authorization": "Bearer a-token"},
    ],
)
def test_nobody_adds_without_a_token(refusing, headers) -> None:
    answer = refusing.ask("/add", "POST", body_of(fresh(5)), headers)
    assert_error(answer, 401, "unauthorised")
    assert answer.headers["WWW-Authenticate"] == "Bearer"
    assert answer.headers["Connection"] == "close"


SALT = base64.b64encode(bytes(32)).decode()


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"null",
        b"[]",
        b"\xff",
        b"{}",
        b"[" * 100_000,
        b'{"kind":' * 10_000,
        body_of(fresh(0), kind="other"),
        body_of(fresh(0), kind=None),
        body_of(fresh(0), kind=[]),
        body_of(fresh(0), salt=SALT[:-1]),
        body_of(fresh(0), salt=f"{SALT}\n"),
        body_of(fresh(0), salt=None),
        body_of(fresh(0), salt=base64.b64encode(bytes(31)).decode()),
        body_of(fresh(0), key=base64.b64encode(bytes(33)).decode()),
        body_of(fresh(0), more=1),
        body_of(fresh(0))[:-1] + b',"kind":"sign"}',
        body_of(fresh(0)) + b"x",
    ],
)
def test_a_body_that_is_no_record_is_refused(refusing, body) -> None:
    assert_error(refusing.ask("/add", "POST", body, BEARER), 400, "request-malformed")


@pytest.mark.parametrize(
    "text",
    [
        "[]",
        '"text"',
        "null",
        '{"a":1.5}',
        '{"a":1e400}',
        '{"a":NaN}',
        '{"a":9007199254740993}',
        '{"a":"\\ud800"}',
        '{"a":' * 40 + "1" + "}" * 40,
        json.dumps({"a": "x" * 66_000}),
    ],
)
def test_a_payload_without_canonical_form_is_refused(refusing, text) -> None:
    body = f'{{"kind":"sign","payload":{text},"salt":"{SALT}","key":"{SALT}"}}'.encode()
    assert_error(refusing.ask("/add", "POST", body, BEARER), 400, "payload-malformed")


@pytest.mark.parametrize("query", ["?wait=", "?wait=receipt&wait=witness", "?wait=Receipt", "?other"])
def test_a_query_that_is_not_known_is_refused(refusing, query) -> None:
    assert_error(refusing.add(fresh(9), query), 400, "request-malformed")


def dialogue(port: int, parts: Sequence[bytes], pause: float = 0) -> bytes:
    """Send pieces as they are, and return all that comes back until the other side closes."""
    with socket.create_connection(("127.0.0.1", port), timeout=20) as connection:
        try:
            for part in parts:
                connection.sendall(part)
                time.sleep(pause)
        except ConnectionError:
            pass  # refused while we were still sending
        received = b""
        try:
            while more := connection.recv(65536):
                received += more
        except ConnectionResetError:
            pass
        return received


HEAD = b"POST /add HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer a-token\r\n"


def test_a_huge_body_is_refused_before_it_is_sent(site_of) -> None:
    site = site_of()
    said = dialogue(site.port, [HEAD + b"Content-Length: %d\r\n\r\n" % (MAX_BODY_BYTES + 1)])
    assert said.startswith(b"HTTP/1.1 413 ")
    assert b'"body-too-large"' in said


def test_a_body_of_unknown_length_is_not_read_to_its_end(site_of) -> None:
    site = site_of()
    chunk = b"1000\r\n" + b" " * 4096 + b"\r\n"
    said = dialogue(site.port, [HEAD + b"Transfer-Encoding: chunked\r\n\r\n", *[chunk] * 33], pause=0.005)
    assert said.startswith(b"HTTP/1.1 413 ")
    record = body_of(fresh(0))
    parts = [b"%x\r\n%s\r\n" % (len(part), part) for part in (record[:9], record[9:])] + [b"0\r\n\r\n"]
    closed = HEAD + b"Connection: close\r\nTransfer-Encoding: chunked\r\n\r\n"
    assert dialogue(site.port, [closed, *parts], pause=0.01).startswith(b"HTTP/1.1 201 ")


def test_a_slow_body_is_given_up(site_of) -> None:
    site = site_of(body_seconds=0.3)
    began = time.monotonic()
    said = dialogue(site.port, [HEAD + b"Content-Length: 100\r\n\r\n{"])
    assert said.startswith(b"HTTP/1.1 408 ")
    assert 0.3 <= time.monotonic() - began < 5
    assert site.add(fresh(0)).status == 201


def test_a_client_that_goes_away_leaves_its_record_and_no_trouble(sqlite_url, site_of, log, sealer) -> None:
    gate = threading.Event()
    entered = threading.Event()

    def append(records: Sequence[Record]) -> tuple[int, ...]:
        entered.set()
        assert gate.wait(20)
        with Ledger.open(sqlite_url, sealer) as ledger:
            return ledger.append(records, AT, log.sign)

    site = site_of(append=append)
    body = body_of(fresh(0))
    with socket.create_connection(("127.0.0.1", site.port), timeout=20) as connection:
        connection.sendall(HEAD + b"Content-Length: %d\r\n\r\n%s" % (len(body), body))
        assert entered.wait(20)
    gate.set()
    assert site.add(fresh(1)).json["index"] == 1
    assert site.add(fresh(0)).json["index"] == 0


def test_overload_is_told_with_a_time_and_loses_nothing(sqlite_url, site_of, log, sealer) -> None:
    gate = threading.Event()

    def append(records: Sequence[Record]) -> tuple[int, ...]:
        assert gate.wait(20)
        with Ledger.open(sqlite_url, sealer) as ledger:
            return ledger.append(records, AT, log.sign)

    site = site_of(append=append, limit=4)
    with ThreadPoolExecutor(12) as pool:
        asked = [pool.submit(site.add, fresh(number)) for number in range(12)]
        refused = 0
        while refused < 8:  # four wait at the gate, eight are sent away at once
            refused = sum(future.done() for future in asked)
            time.sleep(0.01)
        answers_before = [future.result() for future in asked if future.done()]
        gate.set()
        answers = [future.result(20) for future in asked]
    for answer in answers_before:
        assert_error(answer, 429, "ledger-overloaded")
        assert int(answer.headers["Retry-After"]) >= 1
    kept = {number: answer.json["index"] for number, answer in enumerate(answers) if answer.status == 201}
    assert len(kept) == 4
    assert sorted(kept.values()) == [0, 1, 2, 3]
    assert site.ledger.size == 4
    for number, index in kept.items():
        assert site.ledger.payload(index) == fresh(number).payload
    assert sorted(site.add(fresh(number)).json["index"] for number in range(12)) == list(range(12))


def test_more_reads_than_may_wait_are_sent_away(site_of) -> None:
    gate, entered = threading.Event(), threading.Semaphore(0)

    def published() -> str:
        entered.release()
        assert gate.wait(20)
        return site.ledger.checkpoint()

    site = site_of(3, published=published, max_reads=2)
    with ThreadPoolExecutor(2) as pool:
        waiting = [pool.submit(site.ask, "/checkpoint") for _ in range(2)]
        assert all(entered.acquire(timeout=20) for _ in waiting)
        answer = site.ask("/proof/0")
        gate.set()
        assert [future.result(20).status for future in waiting] == [200, 200]
    assert_error(answer, 429, "ledger-overloaded")
    assert answer.headers["Retry-After"] == "1"
    assert site.ask("/proof/0").status == 200


def test_a_writer_who_adds_too_fast_waits_and_others_do_not(site_of) -> None:
    site = site_of(adds_per_second=0.1, burst=3)
    assert [site.add(fresh(number)).status for number in range(3)] == [201] * 3
    answer = site.add(fresh(3))
    assert_error(answer, 429, "rate-exceeded")
    assert 1 <= int(answer.headers["Retry-After"]) <= 10
    assert site.add(fresh(3), writer="b").status == 201
    assert site.ledger.size == 4


def test_an_allowance_fills_up_again(site_of) -> None:
    site = site_of(adds_per_second=20, burst=1)
    statuses = [site.add(fresh(0)).status for _ in range(2)]
    time.sleep(0.1)
    assert site.add(fresh(1)).status == 201
    assert statuses[0] == 201


def test_many_clients_get_dense_indices_and_share_transactions(url, log, sealer) -> None:
    with ExitStack() as stack:
        _many_clients(Sites(stack, url, log, sealer)())


def _many_clients(site: Site) -> None:
    indices: dict[int, int] = {}

    def client(numbers: range) -> None:
        with closing(http.client.HTTPConnection("127.0.0.1", site.port, timeout=20)) as connection:
            for number in numbers:
                connection.request("POST", "/add", body_of(fresh(number)), BEARER)
                answer = connection.getresponse()
                indices[number] = json.loads(answer.read())["index"]

    with ThreadPoolExecutor(32) as pool:
        for done in [pool.submit(client, range(at * 10, at * 10 + 10)) for at in range(32)]:
            done.result(60)
    assert sorted(indices.values()) == list(range(320))
    for number, index in indices.items():
        assert site.ledger.payload(index) == fresh(number).payload
    assert sum(site.sizes) == 320
    assert len(site.sizes) < 320


def test_the_load_drill_counts_what_the_log_acknowledged(site_of, tmp_path) -> None:
    site = site_of(limit=3)
    written = tmp_path / "acknowledged.txt"
    command = [sys.executable, "-m", "tools.load", f"http://127.0.0.1:{site.port}"]
    limits = ["--clients", "8", "--count", "300", "--seconds", "20", "--acknowledged", written]
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [*command, *limits], cwd=root, input=b"a-token\n", capture_output=True, timeout=60, check=True
    )
    figures = json.loads(done.stdout)
    acknowledged = [line.split() for line in written.read_text(encoding="ascii").splitlines()]
    assert figures["statuses"].get("201") == len(acknowledged) == site.ledger.size
    assert sum(figures["statuses"].values()) == 300
    assert set(figures["statuses"]) <= {"201", "429"}
    assert sorted(int(index) for index, _ in acknowledged) == list(range(site.ledger.size))
    for index, commitment in acknowledged:
        assert site.ledger.entry(int(index)).commitment.hex() == commitment


@pytest.mark.parametrize(
    ("fault", "status", "code"),
    [
        (DiskFullError("/secret/place is full"), 503, "ledger-disk-full"),
        (LedgerDamagedError("/secret/place is damaged"), 500, "ledger-damaged"),
        (ConflictingRecordError("The salt was used before."), 409, "record-conflicting"),
    ],
)
def test_what_keeps_the_log_from_recording_has_a_code(site_of, fault, status, code) -> None:
    def append(_records: Sequence[Record]) -> tuple[int, ...]:
        raise fault

    answer = site_of(append=append).add(fresh(0))
    assert_error(answer, status, code)
    assert b"secret" not in answer.body
    assert ("Retry-After" in answer.headers) == (status == 503)


def test_a_fault_that_nobody_foresaw_shows_no_trace(site_of, monkeypatch) -> None:
    monkeypatch.setattr(threading, "excepthook", lambda _fault: None)

    def append(_records: Sequence[Record]) -> tuple[int, ...]:
        raise ZeroDivisionError("/secret/place")

    def published() -> str:
        raise ZeroDivisionError("/secret/place")

    site = site_of(3, append=append, published=published)
    assert_error(site.add(fresh(3)), 503, "sequencer-stopped")
    assert_error(site.add(fresh(3)), 503, "sequencer-stopped")
    assert_error(site.ask("/checkpoint"), 500, "internal-error")
    assert b"secret" not in site.ask("/checkpoint").body


def test_a_ledger_that_was_tampered_with_gives_no_proof(sqlite_url, site_of, tamper) -> None:
    site = site_of(300)
    tamper(sqlite_url, "UPDATE tile SET data = zeroblob(8192) WHERE level = 0")
    assert_error(site.ask("/proof/0"), 500, "ledger-damaged")


def test_a_frozen_log_takes_nothing_and_is_read_on(site_of, log, make_end) -> None:
    site = site_of(3)
    site.ledger.freeze(make_end(3), AT, log.sign)
    answer = site.add(fresh(4))
    assert_error(answer, 410, "ledger-frozen")
    assert "Retry-After" not in answer.headers
    assert site.add(fresh(1)).json["index"] == 1  # is there already
    assert site.ask("/proof/3").status == 200


def test_a_record_that_contradicts_an_earlier_one_is_refused_alone(site_of) -> None:
    site = site_of(3)
    other = Record(Kind.TOKEN, fresh(0).payload, fresh(0).salt, fresh(0).key)
    assert_error(site.add(other), 409, "record-conflicting")
    assert site.add(fresh(3)).json["index"] == 3


def test_a_log_without_a_sequencer_takes_nothing(sqlite_url, log, sealer) -> None:
    with Ledger.create(sqlite_url, log.name, sealer) as ledger:
        ledger.append([fresh(0)], AT, log.sign)
        app = log_app(ledger, None, Settings(ledger.checkpoint, None, lambda _token: "anyone"))
        with served(app) as port:
            assert_error(Site(ledger, port).add(fresh(1)), 404, "not-found")
            assert Site(ledger, port).ask("/proof/0").status == 200


def test_readers_who_crowd_keep_no_writer_from_the_answer(site_of, log) -> None:
    gate, entered = threading.Event(), threading.Semaphore(0)
    site = None

    def published() -> str:
        if threading.current_thread().name.startswith("reader"):
            entered.release()
            assert gate.wait(20)
        return site.ledger.checkpoint()

    site = site_of(3, published=published, max_reads=4)
    with ThreadPoolExecutor(4) as pool:
        crowd = [pool.submit(site.ask, "/checkpoint") for _ in range(4)]
        assert all(entered.acquire(timeout=20) for _ in crowd)
        assert site.ask("/checkpoint").status == 429
        answer = site.add(fresh(3), "?wait=receipt")
        gate.set()
        assert [future.result(20).status for future in crowd] == [200] * 4
    assert answer.status == 201, answer.body
    assert Receipt.parse(answer.body.decode()).check([log.key], log.verify).size == 4


@pytest.mark.parametrize("fault", [LedgerBusyError("/secret/place is busy"), LedgerDamagedError("/secret/x")])
def test_what_is_durable_is_no_error_although_no_receipt_can_be_had(site_of, fault) -> None:
    def published() -> str:
        raise fault

    site = site_of(3, published=published)
    answer = site.add(fresh(3), "?wait=receipt")
    assert (answer.status, answer.json["index"], answer.headers["Retry-After"]) == (202, 3, "1")
    assert b"secret" not in answer.body
    assert site.ledger.size == 4


def test_under_witnesses_no_receipt_goes_out_before_they_saw_it(site_of, log) -> None:
    notes: list[str] = []
    site = site_of(
        5,
        published=lambda: notes[-1],
        witnessed=lambda: open_checkpoint(notes[-1].encode(), [log.key], log.verify).size,
    )
    notes.append(site.ledger.checkpoint())
    early = site.add(fresh(5), "?wait=receipt")
    assert (early.status, early.json["index"], early.headers["Retry-After"]) == (202, 5, "1")
    notes.append(site.ledger.checkpoint())
    site.ledger.append([fresh(6)], AT, log.sign)  # newer than what is published
    time.sleep(0.2)
    answer = site.add(fresh(5), "?wait=receipt")
    assert answer.status == 201
    receipt = Receipt.parse(answer.body.decode())
    assert receipt.proof.note.decode() == notes[-1]
    assert receipt.check([log.key], log.verify).size == 6


def test_who_waits_for_witnesses_that_do_not_exist_is_told_at_once(site_of) -> None:
    site = site_of(3)
    began = time.monotonic()
    assert_error(site.add(fresh(3), "?wait=witness"), 400, "log-unwitnessed")
    assert time.monotonic() - began < 5
    assert site.ledger.size == 3


@pytest.mark.parametrize("kind", sorted(set(Kind) - {Kind.SIGN, Kind.TOKEN, Kind.REVOKE}))
def test_a_reserved_kind_is_refused_before_it_can_hold_up_a_batch(site_of, kind) -> None:
    site = site_of(3)
    answer = site.ask("/add", "POST", body_of(fresh(3), kind=kind), BEARER)
    assert_error(answer, 400, "kind-reserved")
    assert site.sizes == []
    assert site.ledger.size == 3


def test_an_erased_record_that_is_sent_again_has_its_index_and_no_receipt(site_of, log) -> None:
    site = site_of(3)
    site.ledger.erase(1, bytes(32), AT, log.sign)
    answer = site.add(fresh(1), "?wait=receipt")
    assert (answer.status, answer.json["index"]) == (201, 1)
