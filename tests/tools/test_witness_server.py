import base64
import http.client
import json
import os
import shutil
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
from storage.entry import Kind
from storage.errors import ProofError
from storage.note import Note
from storage.policy import Policy, open_witnessed
from storage.witness.client import RolledBackError, WitnessesMissingError
from storage.witness.memory import Request, WitnessKeyOtherError
from tools.errors import OutputExistsError, UsageError, WitnessMissingError
from tools.founding import create_home
from tools.home import Home, open_home
from tools.log_server import WRITERS, add_writer, require_not_behind, witness_once
from tools.receipt_check import NOT_HELD, checked
from tools.witness_server import WitnessFolder

ROOT = Path(__file__).parents[2]
PROGRAM = "from tools.cli import main; main()"
TOKEN = "a token of the desk"  # noqa: S105
Command = Callable[..., "subprocess.CompletedProcess[str]"]


def now() -> datetime:
    return datetime.now(UTC)


@contextmanager
def running(*arguments: object) -> Iterator[tuple[str, "subprocess.Popen[str]"]]:
    """Start the command as its users do, and read its address from its first line."""
    kept = {name: os.environ[name] for name in ("PATH", "LANG", "LD_LIBRARY_PATH") if name in os.environ}
    process = subprocess.Popen(
        [sys.executable, "-W", "error", "-c", PROGRAM, *map(str, arguments)],
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
class Group:
    """A home, two witnesses that are served, and the policy that asks for both."""

    home: Home
    policy_file: Path
    folders: tuple[WitnessFolder, ...]
    processes: "tuple[subprocess.Popen[str], ...]"
    urls: tuple[str, ...]

    @property
    def policy(self) -> Policy:
        return Policy.parse(self.policy_file.read_text()).trusting(self.home.own.keys)


@contextmanager
def grouped(folder: Path) -> Iterator[Group]:
    home = create_home(folder / "home", "Witnessed", "http://localhost:8461/ocsp/", now())
    add_writer(home.path / WRITERS, "desk", TOKEN)
    folders = tuple(WitnessFolder.create(folder / f"w{n}", f"w{n}.example/witness") for n in range(2))
    with ExitStack() as stack:
        running_ones = [
            stack.enter_context(running("witness", "serve", each.path, "--log", home.log, "--port", 0))
            for each in folders
        ]
        urls = tuple(url for url, _ in running_ones)
        lines = [
            f"witness w{n} {each.key} {url}" for n, (each, url) in enumerate(zip(folders, urls, strict=True))
        ]
        policy_file = folder / "policy"
        policy_file.write_text("\n".join([*lines, "group both 2 w0 w1", "quorum both", ""]))
        yield Group(home, policy_file, folders, tuple(process for _, process in running_ones), urls)


@pytest.fixture(scope="module")
def group(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Group]:
    with grouped(tmp_path_factory.mktemp("group")) as made:
        yield made


@pytest.fixture(scope="module")
def log_url(group: Group) -> Iterator[str]:
    arguments = ["--home", group.home.path, "ledger", "serve", "--adding", "--port", 0]
    arguments += ["--witnesses", group.policy_file]
    with running(*arguments) as (url, _):
        yield url


def witnessed_now(group: Group) -> None:
    """Have the newest checkpoint cosigned, whoever does it first."""
    with group.home.ledger() as ledger:
        for _ in range(20):
            try:
                witness_once(ledger, group.policy)
            except WitnessesMissingError:
                time.sleep(0.1)
            else:
                return
    raise AssertionError("the witnesses do not cosign")


def copied(home: Home, to: Path) -> Home:
    return open_home(Path(shutil.copytree(home.path, to)))


def test_an_entry_that_waits_for_witnesses_gets_a_receipt_that_anyone_can_check(
    group: Group, log_url: str, tmp_path: Path
) -> None:
    reply = ask(log_url, "/add?wait=witness", submission("waits for witnesses"), TOKEN)
    assert reply.status == 201, reply.body
    (tmp_path / "a.receipt").write_bytes(reply.body)
    policy = Policy.parse(group.policy_file.read_text())
    lines, status = checked(tmp_path / "a.receipt", str(group.home.log), None, policy, now())
    assert status == 0, lines
    assert {line.split()[2] for line in lines if line.startswith("witnessed ")} == {"w0,", "w1,"}
    assert [line for line in lines if line.startswith("not after ")]


def test_only_what_both_cosigned_is_published(group: Group, log_url: str) -> None:
    assert ask(log_url, "/add?wait=witness", submission("is published"), TOKEN).status == 201
    reply = ask(log_url, "/checkpoint")
    assert reply.status == 200
    assert len(open_witnessed(reply.body, group.policy, verify_note).cosigners) == 2


def test_a_receipt_without_them_does_not_hold_under_their_policy(group: Group, tmp_path: Path) -> None:
    other = copied(group.home, tmp_path / "other")
    index = other.own.record(Kind.POLICY, {"change": "never shown to a witness"}, now())
    with other.ledger_to_read() as ledger:
        (tmp_path / "a.receipt").write_text(str(ledger.prove(index)))
    policy = Policy.parse(group.policy_file.read_text())
    assert checked(tmp_path / "a.receipt", str(group.home.log), None, policy, now())[1] == NOT_HELD


@pytest.mark.parametrize("longer", ["same size", "longer"])
def test_who_stole_the_logs_key_gets_no_quorum_for_a_fork(group: Group, tmp_path: Path, longer: str) -> None:
    witnessed_now(group)
    stolen = copied(group.home, tmp_path / "stolen")  # key and history, up to here
    group.home.own.record(Kind.POLICY, {"change": f"what the world saw {longer}"}, now())
    witnessed_now(group)
    stolen.own.record(Kind.POLICY, {"change": "what the thief wrote instead"}, now())
    if longer == "longer":
        for number in range(30):
            stolen.own.record(Kind.POLICY, {"change": f"more of it {number}"}, now())
    with stolen.ledger() as fork, group.home.ledger_to_read() as ledger:
        note, size = Note.parse(fork.checkpoint().encode()), ledger.size
        proof = fork.consistency(size, fork.size) if fork.size > size else ()
        for url in group.urls:
            # The size that the witness saw, and the best proof that the thief can make.
            reply = ask(url, "/add-checkpoint", bytes(Request(size, proof, note)))
            assert reply.status in {409, 422}, reply
        with pytest.raises((RolledBackError, WitnessesMissingError)):
            witness_once(fork, group.policy)
        with pytest.raises(ProofError):
            open_witnessed(fork.checkpoint().encode(), group.policy, verify_note)
    # The log itself goes on.
    group.home.own.record(Kind.POLICY, {"change": f"goes on {longer}"}, now())
    witnessed_now(group)


def test_a_restored_database_is_refused_although_its_guard_was_restored_with_it(
    group: Group, tmp_path: Path, lightseal: Command
) -> None:
    witnessed_now(group)
    restored = copied(group.home, tmp_path / "restored")
    group.home.own.record(Kind.POLICY, {"change": "after the snapshot"}, now())
    witnessed_now(group)
    for command in (["serve", "--port", "0"], ["cosign"]):
        refused = lightseal("ledger", *command, "--witnesses", group.policy_file, home=restored)
        assert refused.returncode == 1, refused.stdout
        assert "error[witness-saw-more]: " in refused.stderr, refused.stderr
        assert refused.stdout == ""
        assert len(refused.stderr.splitlines()) == 2, refused.stderr
    with group.home.ledger_to_read() as ledger:
        require_not_behind(ledger, group.policy)


def test_a_restored_database_that_went_on_is_caught_when_it_asks(group: Group, tmp_path: Path) -> None:
    # It has grown past what the witnesses saw, so its size alone says nothing.
    witnessed_now(group)
    restored = copied(group.home, tmp_path / "restored")
    group.home.own.record(Kind.POLICY, {"change": "after the snapshot, and forgotten"}, now())
    witnessed_now(group)
    for number in range(3):
        restored.own.record(Kind.POLICY, {"change": f"on top of the snapshot {number}"}, now())
    with restored.ledger() as ledger:
        with pytest.raises(RolledBackError):
            require_not_behind(ledger, group.policy)
        with pytest.raises(RolledBackError) as caught:
            witness_once(ledger, group.policy)
    assert caught.value.evidence  # what the log itself signed, and does not have


def test_without_one_of_two_witnesses_the_old_checkpoint_stays_and_adding_goes_on(tmp_path: Path) -> None:
    with grouped(tmp_path) as group, ExitStack() as stack:
        arguments = ["--home", group.home.path, "ledger", "serve", "--adding", "--port", 0]
        arguments += ["--witnesses", group.policy_file]
        url, _ = stack.enter_context(running(*arguments))
        assert ask(url, "/add?wait=witness", submission("with both"), TOKEN).status == 201
        before = ask(url, "/checkpoint").body
        group.processes[1].kill()
        group.processes[1].wait(timeout=60)
        for number in range(3):
            assert ask(url, "/add", submission(f"with one {number}"), TOKEN).status == 201
        time.sleep(2.5)  # more than two rounds of asking
        assert ask(url, "/checkpoint").body == before
        with group.home.ledger_to_read() as ledger:
            grown = ledger.size
        assert grown > open_witnessed(before, group.policy, verify_note).checkpoint.size
        # Started again on the same address, it remembers, and all is published.
        port = urlsplit(group.urls[1]).port
        again = running("witness", "serve", group.folders[1].path, "--log", group.home.log, "--port", port)
        stack.enter_context(again)
        deadline = time.monotonic() + 30
        while open_witnessed(ask(url, "/checkpoint").body, group.policy, verify_note).checkpoint.size < grown:
            assert time.monotonic() < deadline
            time.sleep(0.1)


def test_a_rotation_needs_no_new_server_and_witnesses_that_know_the_new_key(tmp_path: Path) -> None:
    with grouped(tmp_path) as group, ExitStack() as stack:
        arguments = ["--home", group.home.path, "ledger", "serve", "--adding", "--port", 0]
        arguments += ["--witnesses", group.policy_file]
        url, _ = stack.enter_context(running(*arguments))
        assert ask(url, "/add?wait=witness", submission("before"), TOKEN).status == 201
        begun = group.home.own.begin_rotation(now())
        assert ask(url, "/add?wait=witness", submission("during"), TOKEN).status == 201
        published = (group.home.path / "log.vkey").read_text()
        for folder, process, address in zip(group.folders, group.processes, group.urls, strict=True):
            process.terminate()
            process.wait(timeout=60)
            port = urlsplit(address).port
            arguments = ["witness", "serve", folder.path, "--log", published, "--port", port]
            stack.enter_context(running(*arguments))
        begun.end_rotation(now())
        reply = ask(url, "/add?wait=witness", submission("after"), TOKEN)
        assert reply.status == 201, reply.body
        (tmp_path / "a.receipt").write_bytes(reply.body)
        policy = Policy.parse(group.policy_file.read_text())
        old, new = published.split()
        assert checked(tmp_path / "a.receipt", new, None, policy, now())[1] == 0
        assert checked(tmp_path / "a.receipt", old, None, policy, now())[1] == NOT_HELD


def test_a_witness_cosigns_for_no_log_that_it_was_not_told_of(group: Group, home: Home) -> None:
    with home.ledger_to_read() as ledger:
        note = Note.parse(ledger.checkpoint().encode())
    assert ask(group.urls[0], "/add-checkpoint", bytes(Request(0, (), note))).status == 404


def test_a_new_witness_keeps_its_key_to_itself(tmp_path: Path) -> None:
    folder = WitnessFolder.create(tmp_path / "w", "w.example/witness")
    assert (tmp_path / "w").stat().st_mode & 0o777 == 0o700
    assert (tmp_path / "w" / "witness.pem").stat().st_mode & 0o777 == 0o600
    assert WitnessFolder.open(tmp_path / "w") == folder


def test_a_witness_with_another_private_key_serves_nothing(tmp_path: Path, home: Home) -> None:
    folder = WitnessFolder.create(tmp_path / "w", "w.example/witness")
    WitnessFolder.create(tmp_path / "v", "w.example/witness")
    shutil.copy(tmp_path / "v" / "witness.pem", tmp_path / "w" / "witness.pem")
    with pytest.raises(WitnessKeyOtherError) as caught, folder.service(home.own.keys):
        pass
    assert caught.value.remedy
    with pytest.raises(WitnessKeyOtherError):
        folder.evidence()


def test_a_witness_is_never_made_over_something(tmp_path: Path) -> None:
    folder = WitnessFolder.create(tmp_path / "w", "w.example/witness")
    with pytest.raises(OutputExistsError):
        WitnessFolder.create(tmp_path / "w", "other.example/witness")
    assert WitnessFolder.open(tmp_path / "w") == folder
    for name in ("", "two words", "plus+sign", "a\nb"):
        with pytest.raises(UsageError):
            WitnessFolder.create(tmp_path / "v", name)
    assert not (tmp_path / "v").exists()


@pytest.mark.parametrize("content", [None, b"", b"\xff", b"w.example/witness+00000000+AAAA"])
def test_a_folder_that_holds_none_is_no_witness(tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / "witness.vkey").write_bytes(content)
    with pytest.raises(WitnessMissingError):
        WitnessFolder.open(tmp_path)
