"""The time-stamp unit as a service: over HTTP, in its ledger, across crashes, and under clocks that are wrong."""

import asyncio
import hashlib
import http.client
import json
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, MutableMapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from pathlib import Path
from urllib.parse import urlsplit

import c2pa
import pytest
import rfc3161_client

from authn import der, manifest
from authn.identity import pem_chain
from authn.keys import LogKey, open_key, verify_note
from authn.media import Media
from authn.timestamp import unverified
from authn.timestamp.authority import SerialsError
from authn.timestamp.relay import token_of
from authn.timestamp.request import TimeStampRequest
from authn.timestamp.token import check_token
from authn.trust import Purpose, TrustList
from storage.entry import Kind
from storage.note import Note
from storage.payload import parse
from storage.policy import Policy
from storage.witness.memory import CosigningKey, Request, Witness
from tools.errors import UsageError
from tools.founding import create_home
from tools.home import Home
from tools.issuance.own import enrol
from tools.serials import SERIALS, SerialFile
from tools.time_app import MAX_QUERY_BYTES, time_app
from tools.time_server import StampingOverError, TimeService, time_unit
from tools.witness_server import WitnessFolder

ROOT = Path(__file__).parents[2]
PROGRAM = "from tools.cli import main; main()"
QUERY = TimeStampRequest(hashlib.sha256(b"claim").digest(), nonce=7).encode()
HEADERS = {"Content-Type": "application/timestamp-query"}


def now() -> datetime:
    return datetime.now(UTC)


@contextmanager
def running(home: Home, *arguments: object) -> Iterator[tuple[str, "subprocess.Popen[str]"]]:
    """`lightseal tsa serve`, as its users start it."""
    kept = {name: os.environ[name] for name in ("PATH", "LANG", "LD_LIBRARY_PATH") if name in os.environ}
    command = ["--home", str(home.path), "tsa", "serve", "--port", "0", *map(str, arguments)]
    process = subprocess.Popen(
        [sys.executable, "-W", "error", "-c", PROGRAM, *command],
        env={**kept, "PYTHONPATH": str(ROOT), "HOME": "/nonexistent"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        yield process.stdout.readline().strip(), process
    finally:
        process.terminate()
        process.communicate(timeout=60)


@dataclass(frozen=True)
class Reply:
    status: int
    content_type: str | None
    body: bytes


def ask(url: str, body: bytes = QUERY, headers: dict[str, str] = HEADERS, method: str = "POST") -> Reply:
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=30)
    try:
        connection.request(method, urlsplit(url).path, body, headers)
        response = connection.getresponse()
        return Reply(response.status, response.getheader("Content-Type"), response.read())
    finally:
        connection.close()


def failure_of(reply: bytes) -> tuple[int, str]:
    fields = der.parse(reply).fields()
    status = fields.take(der.SEQUENCE).fields()
    fields.end()
    assert status.take(der.INTEGER).to_integer() == 2
    text = status.take(der.SEQUENCE).children()[0].content.decode()
    _, *flags = status.take(der.BIT_STRING).content
    (bit,) = [8 * at + bit for at, byte in enumerate(flags) for bit in range(8) if byte & 0x80 >> bit]
    return bit, text


def stampers(home: Home) -> tuple[TrustList, ...]:
    return tuple(each.parse() for each in home.lists() if each.purpose is Purpose.TIME_STAMPING)


def recorded(home: Home) -> dict[str, tuple[int, dict[str, object]]]:
    """Every token in the ledger, by its digest: which entry, and what it says."""
    found = {}
    with home.ledger_to_read() as ledger:
        for index, entry in enumerate(ledger.entries(0, ledger.size)):
            if entry.kind is Kind.TOKEN:
                payload = parse(ledger.prove(index).payload)
                found[str(payload["token"])] = index, payload
    return found


@pytest.fixture(scope="module")
def clock_home(tmp_path_factory: pytest.TempPathFactory) -> Home:
    made = create_home(
        tmp_path_factory.mktemp("clock") / "home", "Clock", "http://localhost:8461/ocsp/", now()
    )
    enrol(made, "cam", "Test Camera", now())
    return made


@pytest.fixture(scope="module")
def url(clock_home: Home) -> Iterator[str]:
    with running(clock_home) as (address, _):
        assert address.startswith("http://127.0.0.1:")
        yield address


# --- The answer


def test_a_token_is_proven_and_its_hash_is_in_the_ledger_when_it_arrives(clock_home: Home, url: str) -> None:
    before = now().replace(microsecond=0)
    reply = ask(url)
    assert (reply.status, reply.content_type) == (200, "application/timestamp-reply")
    token = token_of(reply.body)
    evidence = check_token(token, b"claim", stampers(clock_home), now())
    assert evidence.proven, evidence.reason
    assert evidence.gen_time is not None
    assert before <= evidence.gen_time <= now()
    index, payload = recorded(clock_home)[hashlib.sha256(token).hexdigest()]
    assert payload["serial"] == f"{evidence.serial:x}"
    assert payload["time"] == f"{evidence.gen_time:%Y-%m-%dT%H:%M:%SZ}"
    assert payload["imprint"] == TimeStampRequest(hashlib.sha256(b"claim").digest()).imprint.hex()
    with clock_home.ledger_to_read() as ledger:
        assert evidence.gen_time <= ledger.entry(index).logged_at


def test_rfc3161_client_accepts_it(clock_home: Home, url: str) -> None:
    query = rfc3161_client.TimestampRequestBuilder().data(b"claim").build()
    read = rfc3161_client.decode_timestamp_response(ask(url, query.as_bytes()).body)
    roots = [anchor for listed in stampers(clock_home) for anchor in listed.anchors]
    verifier = rfc3161_client.VerifierBuilder.from_request(query)
    for root in roots:
        verifier = verifier.add_root_certificate(root)
    assert verifier.build().verify_message(read, b"claim")


@pytest.mark.needs("openssl")
@pytest.mark.parametrize("name", ["sha256", "sha384", "sha512"])
def test_openssl_accepts_it(clock_home: Home, url: str, tmp_path: Path, name: str) -> None:
    def run(*command: str | Path) -> str:
        done = subprocess.run(
            ["openssl", "ts", *command], capture_output=True, text=True, check=False, timeout=30
        )
        return done.stdout + done.stderr

    data, query, reply, root = (tmp_path / part for part in ("data", "q.tsq", "r.tsr", "root.pem"))
    data.write_bytes(b"claim")
    root.write_bytes(pem_chain(*(anchor for listed in stampers(clock_home) for anchor in listed.anchors)))
    run("-query", "-data", data, f"-{name}", "-cert", "-out", query)
    reply.write_bytes(ask(url, query.read_bytes()).body)
    verify = ("-verify", "-queryfile", query, "-in", reply, "-CAfile", root)
    assert "Verification: OK" in run(*verify)
    data.write_bytes(b"other")
    run("-query", "-data", data, f"-{name}", "-cert", "-out", query)
    assert "Verification: OK" not in run(*verify)


def test_the_c2pa_reader_accepts_it(clock_home: Home, url: str, own_samples: Path) -> None:
    device, out = clock_home.device("cam"), BytesIO()
    claim = json.dumps({"claim_generator_info": [{"name": "clock test"}], "assertions": []})
    with (own_samples / "harbour.jpg").open("rb") as stream:
        media = Media.of(stream, "harbour.jpg", 1 << 30)
        parent = json.dumps({"title": "as received", "relationship": "parentOf"})
        manifest.write(media, out, claim, parent, device.key.sign, device.chain_pem, url)
    anchors = [anchor for each in clock_home.lists() for anchor in each.parse().anchors]
    settings = {
        "trust": {
            "trust_anchors": pem_chain(*anchors).decode(),
            "trust_config": "1.3.6.1.5.5.7.3.4\n1.3.6.1.5.5.7.3.36\n1.3.6.1.4.1.62558.2.1\n1.3.6.1.5.5.7.3.8",
        },
        "verify": {"remote_manifest_fetch": False, "ocsp_fetch": False},
    }
    out.seek(0)
    with c2pa.Context.from_dict(settings) as context, c2pa.Reader("image/jpeg", out, context=context) as read:
        report = json.loads(read.json())
    passed = {each["code"] for each in report["validation_results"]["activeManifest"]["success"]}
    assert {"timeStamp.validated", "timeStamp.trusted"} <= passed, passed


def test_a_refusal_by_rfc_3161_is_an_answer(url: str) -> None:
    for body, bit in ((b"", 5), (b"nonsense", 5), (QUERY + b"\0", 5)):
        reply = ask(url, body)
        assert (reply.status, reply.content_type) == (200, "application/timestamp-reply")
        assert failure_of(reply.body)[0] == bit


# --- The request


@pytest.mark.parametrize(
    ("method", "body", "headers", "status", "code"),
    [
        ("POST", QUERY, {}, 415, "content-type-wrong"),
        ("POST", QUERY, {"Content-Type": "application/timestamp-query; x=y"}, 415, "content-type-wrong"),
        ("POST", QUERY, {"Content-Type": "application/octet-stream"}, 415, "content-type-wrong"),
        ("POST", bytes(MAX_QUERY_BYTES + 1), HEADERS, 413, "body-too-large"),
        ("POST", b"", {**HEADERS, "Content-Length": "99999999999"}, 413, "body-too-large"),
        ("GET", b"", {}, 405, "not-found"),
    ],
    ids=["no type", "a parameter", "another type", "too large", "said to be too large", "no post"],
)
def test_a_request_that_is_none_gets_one_json_answer(
    url: str, method: str, body: bytes, headers: dict[str, str], status: int, code: str
) -> None:
    reply = ask(url, body, headers, method)
    assert (reply.status, reply.content_type) == (status, "application/json")
    answer = json.loads(reply.body)
    assert set(answer) == {"error", "reason", "remedy"}
    assert answer["error"] == code
    assert all(answer.values())


def test_a_body_without_a_length_is_read_up_to_the_limit(url: str) -> None:
    head = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Type: application/timestamp-query\r\n"
    head += b"Transfer-Encoding: chunked\r\n\r\n"
    whole = b"9\r\n%b\r\n%x\r\n%b\r\n0\r\n\r\n" % (QUERY[:9], len(QUERY) - 9, QUERY[9:])
    endless = b"%x\r\n%b\r\n" % (MAX_QUERY_BYTES + 1, bytes(MAX_QUERY_BYTES + 1))
    for body, status in ((whole, b"200"), (endless, b"413")):
        with socket.create_connection(("127.0.0.1", urlsplit(url).port or 0), timeout=20) as connection:
            connection.sendall(head + body)
            assert connection.recv(4096).split()[1] == status


def test_clients_that_do_not_come_to_the_point_keep_nobody_waiting(url: str) -> None:
    address = ("127.0.0.1", urlsplit(url).port)
    head = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Type: application/timestamp-query\r\nContent-Length: 60\r\n\r\n\x30"
    slow = [socket.create_connection(address, timeout=20) for _ in range(40)]
    try:
        for connection in slow:
            connection.sendall(head)
        began = time.monotonic()
        assert ask(url).status == 200
        assert time.monotonic() - began < 2
        assert b" 408 " in slow[0].recv(4096).split(b"\r\n")[0] + b" "
    finally:
        for connection in slow:
            connection.close()


def test_many_clients_at_once_each_get_their_own_token(clock_home: Home, url: str) -> None:
    def one(number: int) -> tuple[bytes, int]:
        message = f"message {number}".encode()
        asked = TimeStampRequest(hashlib.sha256(message).digest(), nonce=number)
        token = token_of(ask(url, asked.encode()).body)
        statement = unverified.parse(token).statement
        assert (statement.digest, statement.nonce) == (asked.digest, number)
        return token, statement.serial

    with ThreadPoolExecutor(16) as pool:
        made = list(pool.map(one, range(160)))
    assert len({serial for _, serial in made}) == 160
    held = recorded(clock_home)
    assert all(hashlib.sha256(token).hexdigest() in held for token, _ in made)


def test_strangers_cannot_fill_the_ledger(fresh_home: Home) -> None:
    """Of 60 questions as fast as they can be asked, those beyond the burst and the rate leave no entry."""
    with running(fresh_home, "--per-second", "0.5") as (at, _):
        connection, answers = http.client.HTTPConnection(urlsplit(at).netloc, timeout=30), []
        began = time.monotonic()
        for _ in range(60):
            connection.request("POST", "/", QUERY, HEADERS)
            response = connection.getresponse()
            answers.append((response.status, response.getheader("Retry-After"), response.read()))
        connection.close()
        most = 5 + 0.5 * (time.monotonic() - began)
    given = [body for status, _, body in answers if status == 200]
    assert 5 <= len(given) <= most + 1
    assert len(recorded(fresh_home)) == len(given)
    late = [(after, json.loads(body)) for status, after, body in answers if status == 429]
    assert len(late) == 60 - len(given)
    assert all(after in {"1", "2"} and said["error"] == "time-stamps-too-many" for after, said in late)
    assert all("Retry-After" in said["remedy"] for _, said in late)


class Ready:
    """A unit that answers at once, and counts."""

    asked = 0

    def respond(self, _query: bytes) -> bytes:
        self.asked += 1
        return b"reply"


def test_unless_told_otherwise_it_gives_500_at_once_and_no_more() -> None:
    unit, statuses = Ready(), []
    app = time_app(unit)
    scope = {
        "type": "http",
        "method": "POST",
        "path": "/",
        "raw_path": b"/",
        "query_string": b"",
        "headers": [(b"content-type", b"application/timestamp-query")],
    }

    async def receive() -> dict[str, object]:
        return {"type": "http.request", "body": QUERY}

    async def send(message: MutableMapping[str, object]) -> None:
        if message["type"] == "http.response.start":
            statuses.append(message["status"])

    async def ask_often() -> float:
        began = time.monotonic()
        for _ in range(1000):
            await app(dict(scope), receive, send)
        return time.monotonic() - began

    seconds = asyncio.run(ask_often())
    assert 500 <= unit.asked <= 500 + 50 * seconds + 1
    assert statuses.count(200) == unit.asked
    assert statuses.count(429) == 1000 - unit.asked


# --- Crashes


def test_after_every_kill_each_token_that_left_is_in_the_ledger_and_no_serial_number_came_twice(
    fresh_home: Home,
) -> None:
    chance = random.Random(5)  # noqa: S311 - moments to kill at
    got: list[bytes] = []
    for _ in range(4):
        with running(fresh_home) as (url, process):
            stop = threading.Event()

            def client(url: str = url, stop: threading.Event = stop) -> None:
                while not stop.is_set():
                    try:
                        got.append(token_of(ask(url).body))
                    except (OSError, http.client.HTTPException):
                        return

            threads = [threading.Thread(target=client) for _ in range(4)]
            for thread in threads:
                thread.start()
            time.sleep(chance.uniform(0.3, 0.8))
            process.send_signal(signal.SIGKILL)
            stop.set()
            for thread in threads:
                thread.join()
    assert len(got) > 20
    held = recorded(fresh_home)
    assert {hashlib.sha256(token).hexdigest() for token in got} <= set(held)
    serials = [payload["serial"] for _, payload in held.values()]
    assert len(set(serials)) == len(serials)
    assert not fresh_home.own.audit().findings


CHILD = """
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from authn.timestamp import authority
from tools.serials import SerialFile
authority.SERIALS_AT_ONCE = 50
back = timedelta(seconds=float(sys.argv[2]))
numbers = authority.Reserved(SerialFile(Path(sys.argv[1]), lambda: datetime.now(UTC) - back))
while True:
    sys.stdout.write(f"{next(numbers)}\\n")
    sys.stdout.flush()
"""


def test_no_serial_number_comes_twice_across_kills_and_a_clock_that_is_set_back_each_time(
    tmp_path: Path,
) -> None:
    chance = random.Random(7)  # noqa: S311 - moments to kill at
    printed: list[int] = []

    def until_killed(back: float, most: int) -> list[int]:
        command = [sys.executable, "-c", CHILD, str(tmp_path / SERIALS), str(back)]
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment) as child:
            assert child.stdout is not None
            lines = [child.stdout.readline() for _ in range(most)]
            child.kill()
            lines += child.stdout.readlines()
        return [int(line) for line in lines if line.endswith(b"\n")]  # a last line that was cut is none

    for back in (0, 3600, 86400 * 400, 86400 * 9000, 86400 * 9000, 0):
        with ThreadPoolExecutor(2) as pool:
            mosts = [chance.randrange(1, 300) for _ in range(2)]
            for whole in pool.map(until_killed, [back] * 2, mosts):
                assert whole == sorted(whole)
                printed += whole
    assert len(printed) > 1000
    assert len(set(printed)) == len(printed)


def test_serial_numbers_grow_with_a_clock_that_runs_on_although_their_file_is_lost(tmp_path: Path) -> None:
    at = now()
    first = SerialFile(tmp_path / SERIALS, lambda: at)(100)
    (tmp_path / SERIALS).unlink()
    assert SerialFile(tmp_path / SERIALS, lambda: at + timedelta(seconds=1))(100) >= first + 100


@pytest.mark.parametrize("content", [b"12", b"x\n", b"-5\n", b"9" * 40 + b"\n", b"1\n2\n", "٣\n".encode()])
def test_a_damaged_file_of_serial_numbers_gives_none(tmp_path: Path, content: bytes) -> None:
    (tmp_path / SERIALS).write_bytes(content)
    with pytest.raises(SerialsError) as caught:
        SerialFile(tmp_path / SERIALS, now)(1)
    assert caught.value.remedy


def test_serial_numbers_that_cannot_be_kept_are_not_given(tmp_path: Path) -> None:
    with pytest.raises(SerialsError):
        SerialFile(tmp_path / "missing" / SERIALS, now)(1)
    (tmp_path / SERIALS).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(SerialsError):
        SerialFile(tmp_path / SERIALS, now)(1)


# --- What stops it


class Hands:
    """A clock whose hands the test moves."""

    def __init__(self) -> None:
        self.moved = timedelta()

    def __call__(self) -> datetime:
        return now() + self.moved


def test_a_ledger_that_cannot_append_stops_it(fresh_home: Home) -> None:
    with time_unit(fresh_home, TimeService(), now) as unit:
        token_of(unit.respond(QUERY))
        fresh_home.own.freeze("for the test", now())
        before = recorded(fresh_home)
        assert failure_of(unit.respond(QUERY)) == (25, "the token could not be recorded")
        assert recorded(fresh_home) == before


def test_a_clock_behind_the_newest_entry_stops_it_from_the_start(fresh_home: Home) -> None:
    hands = Hands()
    hands.moved = timedelta(seconds=-3)
    with time_unit(fresh_home, TimeService(), hands) as unit:
        bit, why = failure_of(unit.respond(QUERY))
        assert bit == 14
        assert "behind a time that is already on record" in why
    hands.moved = timedelta()
    with time_unit(fresh_home, TimeService(), hands) as unit:
        token_of(unit.respond(QUERY))


def test_a_clock_that_is_set_while_it_is_relied_on_stops_it(fresh_home: Home) -> None:
    hands = Hands()
    with time_unit(fresh_home, TimeService(), hands) as unit:
        token_of(unit.respond(QUERY))
        for moved in (2, 7200, -1):
            hands.moved = timedelta(seconds=moved)
            assert failure_of(unit.respond(QUERY))[0] == 14
        hands.moved = timedelta()
        token_of(unit.respond(QUERY))


def test_a_clock_behind_what_witnesses_cosigned_stops_it(fresh_home: Home, tmp_path: Path) -> None:
    folder = WitnessFolder.create(tmp_path / "w", "w.example/witness")
    policy = Policy.parse(f"witness w {folder.key}\nquorum w\n")
    ahead = int((now() + timedelta(minutes=30)).timestamp())
    with fresh_home.ledger() as ledger:
        note = Note.parse(ledger.checkpoint().encode())
        cosigned = cosigned_at(folder, fresh_home, note, ahead)
        ledger.keep_witnessed(cosigned)
    with time_unit(fresh_home, TimeService(), now) as unit:
        token_of(unit.respond(QUERY))  # whose cosignature it is, nobody said
    with time_unit(fresh_home, TimeService(witnesses=policy), now) as unit:
        bit, why = failure_of(unit.respond(QUERY))
        assert bit == 14
        assert "on record" in why
    hands = Hands()
    hands.moved = timedelta(minutes=31)
    with time_unit(fresh_home, TimeService(witnesses=policy), hands) as unit:
        token_of(unit.respond(QUERY))


def cosigned_at(folder: WitnessFolder, home: Home, note: Note, at: int) -> bytes:
    """The note with the witness's cosignature as of a time of the test's choice."""
    private = LogKey(open_key(f"file:{folder.path / 'witness.pem'}"))
    keys = (CosigningKey(folder.key, private.sign),)
    with Witness.open(folder.path / "witness.db", keys, {home.log.name: [home.log]}, verify_note) as witness:
        answer = witness.add_checkpoint(bytes(Request(0, (), note)), datetime.fromtimestamp(at, UTC))
    assert answer.status == 200, answer
    line = Note.parse(f"{note.text}\n".encode() + answer.body).signatures
    return bytes(Note(note.text, (*note.signatures, *line)))


def test_it_does_not_start_once_its_keys_time_of_use_is_over(fresh_home: Home) -> None:
    for days in (-1, 3 * 366 + 1):
        hands = Hands()
        hands.moved = timedelta(days=days)
        with pytest.raises(StampingOverError), time_unit(fresh_home, TimeService(), hands):
            pass


# --- Sources outside


@contextmanager
def dated(away: Callable[[], timedelta] | None) -> Iterator[str]:
    """A web server whose Date is `away` from the truth; without one, it gives none."""

    class Page(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.send_response_only(200)
            if away is not None:
                self.send_header("Date", format_datetime(now() + away(), usegmt=True))
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the name is given
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Page) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/"
        finally:
            server.shutdown()
            thread.join()


def test_peers_that_agree_let_it_stamp_and_a_minority_that_lies_does_not_stop_it(fresh_home: Home) -> None:
    with (
        dated(timedelta) as one,
        dated(timedelta) as two,
        dated(lambda: timedelta(hours=-2)) as lying,
        time_unit(fresh_home, TimeService((one, two, lying)), now) as unit,
    ):
        token_of(unit.respond(QUERY))


@pytest.mark.parametrize("hours", [2, -2])
def test_peers_that_disagree_stop_it(fresh_home: Home, hours: int) -> None:
    with (
        dated(timedelta) as right,
        dated(lambda: timedelta(hours=hours)) as one,
        dated(lambda: timedelta(hours=hours)) as two,
        time_unit(fresh_home, TimeService((right, one, two)), now) as unit,
    ):
        bit, why = failure_of(unit.respond(QUERY))
        assert bit == 14
        assert "1 of 3 outside sources" in why


def test_peers_that_say_nothing_stop_it(fresh_home: Home) -> None:
    with dated(None) as silent, time_unit(fresh_home, TimeService((silent,)), now) as unit:
        bit, why = failure_of(unit.respond(QUERY))
        assert bit == 14
        assert "0 of 0 outside sources" in why


def test_nobody_is_asked_who_was_not_named(fresh_home: Home) -> None:
    calls: list[timedelta] = []

    def away() -> timedelta:
        calls.append(timedelta())
        return calls[-1]

    with dated(away):
        with time_unit(fresh_home, TimeService(), now) as unit:
            token_of(unit.respond(QUERY))
        assert calls == []


@pytest.mark.parametrize(
    ("peers", "quorum"),
    [(("ftp://a.example/",), None), (("http://a.example/",), 2), ((), 1), (("http://a.example/",) * 2, None)],
)
def test_peers_that_make_no_sense_are_refused(peers: tuple[str, ...], quorum: int | None) -> None:
    with pytest.raises(UsageError):
        TimeService(peers, quorum)


# --- The command that checks


def test_the_command_says_whether_a_token_proves_a_file(
    clock_home: Home, url: str, tmp_path: Path, lightseal: Callable[..., "subprocess.CompletedProcess[str]"]
) -> None:
    (tmp_path / "file").write_bytes(b"claim")
    (tmp_path / "other").write_bytes(b"another claim")
    reply = ask(url).body
    (tmp_path / "reply.tsr").write_bytes(reply)
    (tmp_path / "token.tst").write_bytes(token_of(reply))
    (tmp_path / "refused.tsr").write_bytes(ask(url, b"").body)
    (tmp_path / "junk").write_bytes(b"junk")
    for token in ("reply.tsr", "token.tst"):
        done = lightseal("tsa", "check", "file", token, home=clock_home)
        assert done.returncode == 0, (done.stdout, done.stderr)
        assert done.stdout.splitlines()[-1].startswith("proves         the file existed by 2")
        done = lightseal("tsa", "check", "other", token, home=clock_home)
        assert done.returncode == 15
        assert "does not hold  the token is about other bytes" in done.stdout
        assert "proves" not in done.stdout
    for token in ("refused.tsr", "junk"):
        done = lightseal("tsa", "check", "file", token, home=clock_home)
        assert done.returncode == 15, (done.stdout, done.stderr)
    missing = lightseal("tsa", "check", "nothing", "reply.tsr", home=clock_home)
    assert missing.returncode == 1
    assert missing.stderr.startswith("error[file-unreadable]")


def test_it_listens_under_no_address_that_is_none(
    clock_home: Home, lightseal: Callable[..., "subprocess.CompletedProcess[str]"]
) -> None:
    for arguments in (["--peer", "ftp://x/"], ["--agreeing", "1"], ["--host", ""]):
        done = lightseal("tsa", "serve", "--port", 0, *arguments, home=clock_home)
        assert done.returncode == 2, (done.stdout, done.stderr)
        assert done.stderr.startswith("error[usage]")


def test_a_ledger_is_used_by_server_and_command_at_once(clock_home: Home, url: str) -> None:
    for number in range(3):
        clock_home.own.record(Kind.POLICY, {"change": f"beside the server {number}"}, now())
        token_of(ask(url).body)
    assert not clock_home.own.audit().findings
