import base64
import http.client
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from authn.keys import verify_note
from storage.checkpoint import open_checkpoint
from storage.entry import Kind
from storage.policy import Policy
from storage.receipt import Receipt
from tools import log_server
from tools.errors import HomeDamagedError, UsageError
from tools.founding import create_home
from tools.home import Home
from tools.log_server import (
    LOOK_SECONDS,
    MAX_WRITERS_BYTES,
    WRITERS,
    WriterExistsError,
    Writers,
    WritersUnreadableError,
    add_writer,
    remove_writer,
    replace_writer,
    require_not_behind,
    take_back,
    witness_once,
)
from tools.published import counts
from tools.witness_server import WitnessFolder

ROOT = Path(__file__).parents[2]
PROGRAM = "from tools.cli import main; main()"
Command = Callable[..., "subprocess.CompletedProcess[str]"]


def now() -> datetime:
    return datetime.now(UTC)


@contextmanager
def running(*arguments: object) -> Iterator[tuple[str, "subprocess.Popen[str]"]]:
    """Start the command as its users do, and read its address from its first line."""
    kept = {name: os.environ[name] for name in ("PATH", "LANG", "LD_LIBRARY_PATH") if name in os.environ}
    process = subprocess.Popen(
        [sys.executable, "-W", "error", "-c", PROGRAM, *map(str, arguments), "--port", "0"],
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
    headers: Mapping[str, str]
    body: bytes


def ask(url: str, path: str, body: bytes | None = None, token: str | None = None) -> Reply:
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=30)
    headers = {} if token is None else {"Authorization": f"Bearer {token}"}
    try:
        connection.request("GET" if body is None else "POST", path, body, headers)
        response = connection.getresponse()
        return Reply(response.status, dict(response.getheaders()), response.read())
    finally:
        connection.close()


def submission(what: str, kind: str = "sign") -> bytes:
    salt, key = (base64.b64encode(each).decode() for each in (what.encode().ljust(32, b"."), bytes(32)))
    return json.dumps({"kind": kind, "payload": {"what": what}, "salt": salt, "key": key}).encode()


@dataclass(frozen=True)
class Served:
    home: Home
    url: str
    token: str


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A home whose log is served, and takes entries from the writer `desk`."""
    home = create_home(
        tmp_path_factory.mktemp("served") / "home", "Served", "http://localhost:8461/ocsp/", now()
    )
    add_writer(home.path / WRITERS, "desk", "a token of the desk")
    with running("--home", home.path, "ledger", "serve", "--adding") as (url, _):
        yield Served(home, url, "a token of the desk")


def test_its_first_line_is_its_address(served: Served) -> None:
    parts = urlsplit(served.url)
    assert (parts.scheme, parts.hostname, parts.path) == ("http", "127.0.0.1", "/")
    assert parts.port


def test_the_checkpoint_it_serves_is_the_homes_newest(served: Served) -> None:
    reply = ask(served.url, "/checkpoint")
    assert reply.status == 200
    with served.home.ledger_to_read() as ledger:
        assert reply.body.decode() == ledger.checkpoint()
    assert open_checkpoint(reply.body, served.home.own.keys, verify_note)


def test_an_added_entry_is_answered_with_a_receipt_that_holds(served: Served) -> None:
    reply = ask(served.url, "/add?wait=receipt", submission("added"), served.token)
    assert reply.status == 201, reply.body
    receipt = Receipt.parse(reply.body.decode())
    checkpoint = receipt.check(served.home.own.keys, verify_note)
    assert receipt.payload == b'{"what":"added"}'
    assert receipt.proof.index < checkpoint.size
    # The same again is the same entry, and not another.
    again = ask(served.url, "/add", submission("added"), served.token)
    assert json.loads(again.body)["index"] == receipt.proof.index


def test_the_home_goes_on_beside_its_server(served: Served) -> None:
    index = served.home.own.record(Kind.POLICY, {"change": "beside the server"}, now())
    reply = ask(served.url, "/add?wait=receipt", submission("after that"), served.token)
    assert Receipt.parse(reply.body.decode()).proof.index > index
    assert not served.home.audit().findings


@pytest.mark.parametrize("token", [None, "", "another", "A token of the desk", "é"])
def test_nobody_adds_without_a_known_token(served: Served, token: str | None) -> None:
    with served.home.ledger_to_read() as ledger:
        size = ledger.size
    reply = ask(served.url, "/add", submission("unknown writer"), token)
    assert reply.status == 401
    assert json.loads(reply.body)["error"] == "unauthorised"
    with served.home.ledger_to_read() as ledger:
        assert ledger.size == size


@pytest.mark.parametrize("kind", ["policy", "erase", "issue"])
def test_a_writer_cannot_speak_for_the_operator(served: Served, kind: str) -> None:
    # An entry that says that another was erased, or that the log is frozen, is the log's own to make.
    with served.home.ledger_to_read() as ledger:
        size = ledger.size
    reply = ask(served.url, "/add", submission(f"in the operator's name: {kind}", kind), served.token)
    assert (reply.status, json.loads(reply.body)["error"]) == (400, "kind-reserved")
    with served.home.ledger_to_read() as ledger:
        assert ledger.size == size


def test_without_adding_nothing_is_taken_and_everything_is_read(home: Home) -> None:
    with running("--home", home.path, "ledger", "serve") as (url, _):
        assert ask(url, "/add", submission("x"), "a token").status in {404, 405}
        assert ask(url, "/checkpoint").status == 200


def test_a_writer_that_was_removed_adds_no_more(fresh_home: Home, lightseal: Command) -> None:
    made = lightseal("ledger", "writer", "desk", home=fresh_home)
    gone = lightseal("ledger", "writer", "gone", home=fresh_home)
    assert (made.returncode, gone.returncode) == (0, 0), made.stderr
    rights = fresh_home.path / WRITERS
    assert rights.stat().st_mode & 0o777 == 0o600
    # Who reads the file learns no token.
    assert made.stdout.strip() not in rights.read_text()
    assert lightseal("ledger", "writer", "gone", "--remove", home=fresh_home).returncode == 0
    assert rights.stat().st_mode & 0o777 == 0o600
    with running("--home", fresh_home.path, "ledger", "serve", "--adding") as (url, _):
        assert ask(url, "/add", submission("by the desk"), made.stdout.strip()).status == 201
        assert ask(url, "/add", submission("by who is gone"), gone.stdout.strip()).status == 401


@pytest.fixture
def rights(tmp_path: Path) -> Path:
    """Where the list of writers is, beside the file that is locked while it changes."""
    (tmp_path / "ledger.json").write_bytes(b"{}")
    return tmp_path / WRITERS


def test_the_list_of_writers_keeps_who_is_not_meant(rights: Path) -> None:
    for name in ("a", "b", "c"):
        add_writer(rights, name, f"token {name}")
    with pytest.raises(UsageError):
        remove_writer(rights, "d")
    remove_writer(rights, "b")
    assert sorted(json.loads(rights.read_bytes())) == ["a", "c"]
    assert rights.stat().st_mode & 0o077 == 0


@pytest.mark.parametrize("content", [b"", b"[]", b"{", b'{"desk": 7}', b"\xff", b"[" * 100_000])
def test_a_damaged_list_of_writers_lets_nobody_in(rights: Path, content: bytes) -> None:
    rights.write_bytes(content)
    with pytest.raises(HomeDamagedError):
        add_writer(rights, "desk", "token")
    assert rights.read_bytes() == content


def test_a_list_of_writers_that_is_no_file_or_too_large_does_not_hold_us_up(rights: Path) -> None:
    def require_refused() -> None:
        with pytest.raises(HomeDamagedError):
            add_writer(rights, "desk", "token")
        with pytest.raises(HomeDamagedError):
            Writers(rights)
        rights.unlink()

    os.mkfifo(rights)
    require_refused()
    rights.symlink_to("/dev/zero")
    require_refused()
    with rights.open("wb") as huge:
        huge.truncate(3 << 30)
    require_refused()


def test_no_list_of_writers_is_written_that_could_not_be_read(rights: Path) -> None:
    rights.write_text(json.dumps({"a": "0" * (MAX_WRITERS_BYTES - 20)}))
    before = rights.stat()
    with pytest.raises(UsageError, match="too many"):
        add_writer(rights, "desk", "token")
    assert rights.stat() == before


def test_changes_to_the_list_of_writers_that_overlap_are_all_kept(rights: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from tools.log_server import add_writer, remove_writer\n"
        "path, who = Path(sys.argv[1]), sys.argv[2]\n"
        "sys.stdin.read()\n"
        "for n in range(15): add_writer(path, f'{who}-{n}', f'token {who} {n}')\n"
        "for n in range(0, 15, 2): remove_writer(path, f'{who}-{n}')\n"
    )
    at_work = [
        subprocess.Popen([sys.executable, "-c", program, rights, who], stdin=subprocess.PIPE, cwd=ROOT)
        for who in "abc"
    ]
    for process in at_work:  # all have begun, and wait
        assert process.stdin is not None
        process.stdin.close()
    assert [process.wait(60) for process in at_work] == [0, 0, 0]
    kept = sorted(json.loads(rights.read_bytes()))
    assert kept == sorted(f"{who}-{number}" for who in "abc" for number in range(1, 15, 2))


def test_a_token_that_was_taken_back_leaves_what_was_before(rights: Path) -> None:
    add_writer(rights, "desk", "first")
    before = rights.read_bytes()
    take_back(rights, "desk", "second", replace_writer(rights, "desk", "second"))
    assert rights.read_bytes() == before
    add_writer(rights, "new", "unseen")
    take_back(rights, "new", "unseen", None)
    assert rights.read_bytes() == before
    # What somebody else did since then is not undone.
    took = replace_writer(rights, "desk", "second")
    replace_writer(rights, "desk", "third")
    take_back(rights, "desk", "second", took)
    assert Writers(rights).named("third") == "desk"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no device that is always full")
def test_a_token_that_could_not_be_shown_counts_nowhere(fresh_home: Home, lightseal: Command) -> None:
    rights = fresh_home.path / WRITERS

    def unseen(*arguments: str) -> None:
        with Path("/dev/full").open("w") as full:
            said = lightseal(
                "ledger",
                "writer",
                *arguments,
                home=fresh_home,
                capture_output=False,
                stdout=full,
                stderr=subprocess.PIPE,
            )
        assert said.returncode != 0
        assert said.stderr.startswith("error[disk-full]: "), said.stderr
        assert "Traceback" not in said.stderr

    unseen("desk")
    assert json.loads(rights.read_bytes()) == {}
    first = lightseal("ledger", "writer", "desk", home=fresh_home)
    assert first.returncode == 0, first.stderr
    before = rights.read_bytes()
    unseen("desk", "--replace")
    assert rights.read_bytes() == before
    assert Writers(rights).named(first.stdout.strip()) == "desk"


def test_a_port_that_is_taken_is_said(served: Served, lightseal: Command) -> None:
    port = urlsplit(served.url).port
    said = lightseal("ledger", "serve", "--port", port, home=served.home)
    assert said.returncode == 1
    taken = f"error[address-unusable]: 127.0.0.1 port {port} cannot be used (Address already in use)"
    assert said.stderr.splitlines()[0] == taken
    assert len(said.stderr.splitlines()) == 2


def test_who_asks_for_a_websocket_is_answered_and_nothing_is_logged(home: Home) -> None:
    with running("--home", home.path, "ledger", "serve") as (url, process):
        parts = urlsplit(url)
        for protocol in (b"websocket", b"h2c"):
            with socket.create_connection((parts.hostname, parts.port), timeout=30) as connection:
                connection.sendall(
                    b"GET /checkpoint HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: "
                    + protocol
                    + b"\r\n\r\n"
                )
                assert connection.recv(12) == b"HTTP/1.1 200"
        process.terminate()
        _, complaint = process.communicate(timeout=60)
    assert complaint == ""


def test_it_ends_at_a_signal_without_a_trace(home: Home) -> None:
    with running("--home", home.path, "ledger", "serve", "--adding") as (url, process):
        assert ask(url, "/checkpoint").status == 200
        process.terminate()
        _, complaint = process.communicate(timeout=60)
    assert complaint == ""
    assert process.returncode in {0, 128 + 15, -15}
    assert not home.audit().findings


def test_a_writer_that_is_removed_or_replaced_is_kept_out_by_a_server_that_runs(fresh_home: Home) -> None:
    rights = fresh_home.path / WRITERS
    for name in ("desk", "gone", "lost"):
        add_writer(rights, name, f"token of {name}")
    with running("--home", fresh_home.path, "ledger", "serve", "--adding") as (url, _):

        def added(what: str, token: str) -> int:
            return ask(url, "/add", submission(what), token).status

        assert {added(f"by {name}", f"token of {name}") for name in ("desk", "gone", "lost")} == {201}
        remove_writer(rights, "gone")
        replace_writer(rights, "lost", "another token")
        time.sleep(2 * LOOK_SECONDS)
        assert added("after it was removed", "token of gone") == 401
        assert added("after it was replaced", "token of lost") == 401
        assert added("with the new token", "another token") == 201
        assert added("as ever", "token of desk") == 201
        rights.write_bytes(b"{")
        time.sleep(2 * LOOK_SECONDS)
        reply = ask(url, "/add", submission("with a damaged list"), "token of desk")
        assert (reply.status, json.loads(reply.body)["error"]) == (503, "writers-unreadable")
        assert str(rights).encode() not in reply.body
        rights.unlink()
        assert added("with no list", "token of desk") == 401


def test_a_second_writer_of_one_name_does_not_silently_end_the_first(rights: Path) -> None:
    add_writer(rights, "desk", "first")
    before = rights.read_bytes()
    with pytest.raises(WriterExistsError):
        add_writer(rights, "desk", "second")
    assert rights.read_bytes() == before
    writers = Writers(rights)
    assert (writers.named("first"), writers.named("second")) == ("desk", None)
    replace_writer(rights, "desk", "second")
    time.sleep(2 * LOOK_SECONDS)
    assert (writers.named("first"), writers.named("second")) == (None, "desk")
    rights.write_bytes(b"[]")
    time.sleep(2 * LOOK_SECONDS)
    with pytest.raises(WritersUnreadableError):
        writers.named("second")


def test_keys_that_cannot_be_read_fail_a_batch_and_the_next_goes_on(fresh_home: Home) -> None:
    add_writer(fresh_home.path / WRITERS, "desk", "token")
    (key,) = (fresh_home.path / "keys").glob("log-*.pem")
    about = fresh_home.path / "ledger.json"
    with running("--home", fresh_home.path, "ledger", "serve", "--adding") as (url, _):
        assert ask(url, "/add", submission("before"), "token").status == 201
        content = about.read_bytes()
        about.write_bytes(content + b" ")  # read again, for it changed
        key.rename(key.with_suffix(".away"))
        during = ask(url, "/add", submission("during"), "token").status
        key.with_suffix(".away").rename(key)
        about.write_bytes(content)
        # Failed, or signed by the keys that were read last; never an end.
        assert during in {201, 503}
        assert ask(url, "/add", submission("after"), "token").status == 201
    assert not fresh_home.audit().findings


def test_a_log_that_nobody_witnessed_yet_says_so_and_records_all_the_same(
    fresh_home: Home, tmp_path: Path
) -> None:
    add_writer(fresh_home.path / WRITERS, "desk", "token")
    absent = WitnessFolder.create(tmp_path / "w", "w.example/witness")
    (tmp_path / "policy").write_text(f"witness w {absent.key} http://127.0.0.1:1/\nquorum w\n")
    arguments = ("--home", fresh_home.path, "ledger", "serve", "--adding", "--witnesses", tmp_path / "policy")
    with running(*arguments) as (url, _):
        unseen = ask(url, "/checkpoint")
        said = json.loads(unseen.body)
        assert (unseen.status, said["error"]) == (404, "ledger-not-witnessed")
        assert "cosign" in said["remedy"]
        early = ask(url, "/add?wait=receipt", submission("unwitnessed"), "token")
        assert early.status == 202, early.body
        assert "note" not in json.loads(early.body)
        with fresh_home.ledger_to_read() as ledger:
            assert json.loads(early.body)["index"] == ledger.size - 1


def test_what_another_policy_was_satisfied_with_is_cosigned_again(fresh_home: Home, tmp_path: Path) -> None:
    folders = [WitnessFolder.create(tmp_path / f"w{n}", f"w{n}.example/witness") for n in range(2)]
    with ExitStack() as stack:
        policies = []
        for folder in folders:
            url, _ = stack.enter_context(running("witness", "serve", folder.path, "--log", fresh_home.log))
            text = f"witness w {folder.key} {url}\nquorum w\n"
            policies.append(Policy.parse(text).trusting(fresh_home.own.keys))
        with fresh_home.ledger() as ledger:
            for policy in policies:
                assert witness_once(ledger, policy) is not None
                assert counts(ledger.witnessed().encode(), policy)
            # Both, and nobody is asked a third time.
            assert all(counts(ledger.witnessed().encode(), policy) for policy in policies)
            assert [witness_once(ledger, policy) for policy in policies] == [None, None]


def test_witnesses_that_hang_share_one_deadline(
    home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log_server, "WITNESS_SECONDS", 0.4)
    with ExitStack() as stack:
        lines = []
        for number in range(5):
            mute = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
            key = WitnessFolder.create(tmp_path / f"w{number}", f"w{number}.example/witness").key
            lines.append(f"witness w{number} {key} http://127.0.0.1:{mute.getsockname()[1]}/\n")
        policy = Policy.parse("".join(lines) + "group g 1 w0 w1 w2 w3 w4\nquorum g\n")
        with home.ledger_to_read() as ledger:
            began = time.monotonic()
            require_not_behind(ledger, policy.trusting(home.own.keys))
            assert time.monotonic() - began < 1.5


def test_an_answer_does_not_wait_for_the_acknowledgement_of_its_head(served: Served) -> None:
    connection = http.client.HTTPConnection(urlsplit(served.url).netloc, timeout=30)
    taken = []
    for _ in range(30):
        began = time.monotonic()
        connection.request("GET", "/checkpoint")
        assert connection.getresponse().read()
        taken.append(time.monotonic() - began)
    connection.close()
    assert sorted(taken)[len(taken) // 2] < 0.03  # a delayed acknowledgement takes 0.04 s
