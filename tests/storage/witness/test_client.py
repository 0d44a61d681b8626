import contextlib
import hashlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import uvicorn
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.mldsa import MLDSA44PrivateKey, MLDSA44PublicKey

from storage.checkpoint import Checkpoint, open_checkpoint
from storage.cosignature import cosign, cosigners
from storage.errors import LedgerDamagedError, NoteSignatureError
from storage.merkle import TILE_WIDTH, Frontier, Tree, leaf_hash
from storage.note import Algorithm, Note, Signature, VerifierKey, statement
from storage.policy import Policy, open_witnessed
from storage.witness.app import witness_app
from storage.witness.client import (
    MAX_ANSWER_BYTES,
    Collected,
    Failure,
    Reply,
    RolledBackError,
    Submission,
    WitnessAddressError,
    WitnessesMissingError,
    WitnessFailedError,
    collect,
    newest,
    over_http,
)
from storage.witness.memory import CosigningKey, Witness

NOON = datetime(2026, 11, 25, 12, tzinfo=UTC)
# More than any test needs; a test that must be quick says so itself.
PATIENCE = 20.0


def private(name: str) -> Ed25519PrivateKey:
    return Ed25519PrivateKey.from_private_bytes(hashlib.sha256(name.encode()).digest())


def verify(public: bytes, signature: bytes, message: bytes) -> bool:
    try:
        Ed25519PublicKey.from_public_bytes(public).verify(signature, message)
    except InvalidSignature:
        return False
    return True


def root_of(leaves: list[bytes]) -> bytes:
    frontier = Frontier()
    for leaf in leaves:
        frontier.append(leaf)
    return frontier.root()


@dataclass
class ToyLog:
    """A log of 300 entries that can tell another history from some entry on."""

    forked_at: int = 300
    name: str = "log.example"
    leaves: list[bytes] = field(default_factory=list)
    proofs_asked: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.leaves = [leaf_hash(f"{n >= self.forked_at} {n}".encode()) for n in range(300)]

    @property
    def key(self) -> VerifierKey:
        return VerifierKey(self.name, private(self.name).public_key().public_bytes_raw())

    def note(self, size: int) -> bytes:
        text = str(Checkpoint(self.name, size, root_of(self.leaves[:size])))
        signature = private(self.name).sign(text.encode())
        return bytes(Note(text, (Signature(self.name, self.key.key_id, signature),)))

    def submission(self, old: int, size: int) -> Submission:
        def tile(level: int, number: int, width: int) -> bytes:
            span = TILE_WIDTH**level
            starts = range(number * TILE_WIDTH * span, (number * TILE_WIDTH + width) * span, span)
            return b"".join(root_of(self.leaves[start : start + span]) for start in starts)

        def proof_from(smaller: int) -> Sequence[bytes]:
            self.proofs_asked.append(smaller)
            return Tree(size, tile).consistency(smaller)

        return Submission(self.note(size), old, proof_from)


def cosigning_key(name: str) -> CosigningKey:
    secret = private(name)
    public = secret.public_key().public_bytes_raw()
    return CosigningKey(VerifierKey(name, public, Algorithm.COSIGNATURE_ED25519), secret.sign)


def create(path: Path, name: str) -> Witness:
    return Witness.create(path, [cosigning_key(name)], {"log.example": [ToyLog().key]}, verify)


@contextlib.contextmanager
def served(witness: Witness, at: datetime = NOON) -> Iterator[str]:
    """The URL of a real server in front of a witness."""
    listening = socket.create_server(("127.0.0.1", 0))
    config = uvicorn.Config(witness_app(witness, lambda: at), log_config=None, lifespan="off")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, args=([listening],))
    thread.start()
    try:
        while not server.started:
            time.sleep(0.005)
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()
        listening.close()


@contextlib.contextmanager
def hostile(behave: Callable[[socket.socket, bytes], None]) -> Iterator[str]:
    """The URL of a server that reads each request whole, and then behaves as it likes."""
    listening = socket.create_server(("127.0.0.1", 0))
    threads: list[threading.Thread] = []

    def one(accepted: socket.socket) -> None:
        with accepted, contextlib.suppress(OSError):
            accepted.settimeout(PATIENCE)
            request = b""
            while b"\r\n\r\n" not in request:
                request += accepted.recv(4096)
            head, _, body = request.partition(b"\r\n\r\n")
            for line in head.lower().split(b"\r\n"):
                if line.startswith(b"content-length:"):
                    while len(body) < int(line.partition(b":")[2]):
                        body += accepted.recv(4096)
            behave(accepted, head + b"\r\n\r\n" + body)

    def accept() -> None:
        while True:
            try:
                accepted, _ = listening.accept()
            except OSError:
                return
            threads.append(threading.Thread(target=one, args=(accepted,)))
            threads[-1].start()

    acceptor = threading.Thread(target=accept)
    acceptor.start()
    try:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
    finally:
        listening.shutdown(socket.SHUT_RDWR)
        listening.close()
        for thread in [acceptor, *threads]:
            thread.join()


def answer(status: int, body: bytes, *headers: str) -> bytes:
    lines = [f"HTTP/1.1 {status} So", f"Content-Length: {len(body)}", "Connection: close", *headers]
    return "\r\n".join([*lines, "", ""]).encode() + body


def policy(quorum: str, **urls: str | None) -> Policy:
    """Of the witnesses named, `quorum` must cosign: all, any or a number."""
    lines = [f"log {ToyLog().key}"]
    lines += [f"witness {name} {cosigning_key(name).key} {url or ''}" for name, url in urls.items()]
    lines += [f"group enough {quorum} {' '.join(urls)}", "quorum enough"]
    return Policy.parse("".join(f"{line}\n" for line in lines))


def ask(submission: Submission, by: Policy, at: datetime = NOON, seconds: float = PATIENCE) -> Collected:
    return collect(submission, by, over_http(PATIENCE), verify, at, seconds)


@pytest.fixture
def one(tmp_path: Path) -> Iterator[Witness]:
    with create(tmp_path / "one.db", "one") as witness:
        yield witness


@pytest.fixture
def two(tmp_path: Path) -> Iterator[Witness]:
    with create(tmp_path / "two.db", "two") as witness:
        yield witness


@pytest.fixture
def three(tmp_path: Path) -> Iterator[Witness]:
    with create(tmp_path / "three.db", "three") as witness:
        yield witness


@pytest.fixture
def url_one(one: Witness) -> Iterator[str]:
    with served(one) as url:
        yield url


@pytest.fixture
def url_two(two: Witness) -> Iterator[str]:
    with served(two) as url:
        yield url


@pytest.fixture
def url_three(three: Witness) -> Iterator[str]:
    with served(three) as url:
        yield url


@dataclass(frozen=True)
class Honest:
    """Two good witnesses that many tests share; all show them the same tree."""

    two: str
    three: str


@pytest.fixture(scope="module")
def honest(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Honest]:
    folder = tmp_path_factory.mktemp("honest")
    with (
        create(folder / "two.db", "two") as two,
        create(folder / "three.db", "three") as three,
        served(two) as url_two,
        served(three) as url_three,
    ):
        yield Honest(url_two, url_three)


def test_a_quorum_cosigns_a_log_as_it_grows(url_one: str, url_two: str) -> None:
    log, both, old = ToyLog(), policy("all", one=url_one, two=url_two), 0
    for size in (1, 7, 8, 260, 300):
        collected = ask(log.submission(old, size), both)
        witnessed = open_witnessed(collected.note, both, verify)
        assert witnessed.checkpoint == open_checkpoint(log.note(size), [log.key], verify)
        assert {signer.key.name for signer in collected.cosigners} == {"one", "two"}
        assert set(witnessed.cosigners) == set(collected.cosigners)
        assert collected.failures == ()
        old = size
    # Every guess was right: one request, and one proof, each.
    assert log.proofs_asked == [1, 1, 7, 7, 8, 8, 260, 260]


def test_witnesses_that_are_behind_get_the_proof_from_what_they_saw(url_one: str, url_two: str) -> None:
    log, both = ToyLog(), policy("all", one=url_one, two=url_two)
    ask(log.submission(0, 5), policy("all", one=url_one))
    ask(log.submission(0, 9), policy("all", two=url_two))
    log.proofs_asked.clear()
    collected = ask(log.submission(9, 20), both)
    assert open_witnessed(collected.note, both, verify).checkpoint.size == 20
    assert sorted(log.proofs_asked) == [5, 9, 9]
    assert open_witnessed(ask(log.submission(0, 20), both).note, both, verify).checkpoint.size == 20


def test_a_trailing_slash_of_a_url_is_not_doubled(url_one: str) -> None:
    assert ask(ToyLog().submission(0, 5), policy("all", one=f"{url_one}/")).failures == ()


@pytest.mark.parametrize("quorum", ["any", "all"])
def test_a_restored_snapshot_is_found_out_by_what_the_log_signed_before(
    url_one: str, url_two: str, quorum: str
) -> None:
    log, both = ToyLog(), policy(quorum, one=url_one, two=url_two)
    ask(log.submission(0, 20), policy("all", one=url_one, two=url_two))
    with pytest.raises(RolledBackError) as found:
        ask(log.submission(0, 12), both)
    assert found.value.size == 20
    assert open_checkpoint(found.value.evidence, [log.key], verify).size == 20
    assert "restore the newest backup" in found.value.remedy


@pytest.mark.parametrize("size", [20, 21, 40])
def test_a_restored_snapshot_that_grew_again_is_found_out(one: Witness, url_one: str, size: int) -> None:
    by = policy("all", one=url_one)
    ask(ToyLog().submission(0, 20), by)
    with pytest.raises(RolledBackError) as found:
        ask(ToyLog(forked_at=12).submission(12, size), by)
    assert found.value.size == 20
    seen = open_checkpoint(found.value.evidence, [ToyLog().key], verify)
    assert seen == open_checkpoint(ToyLog().note(20), [ToyLog().key], verify)
    assert len(one.forks()) == (1 if size == 20 else 0)
    assert len(one.unproven()) == (0 if size == 20 else 1)


def test_a_log_that_tells_two_clients_two_stories_has_one_of_them_witnessed(
    one: Witness, two: Witness, url_one: str, url_two: str, url_three: str
) -> None:
    everyone = policy("2", one=url_one, two=url_two, three=url_three)
    honest, lie = ToyLog(), ToyLog(forked_at=0)
    ask(honest.submission(0, 10), policy("all", one=url_one, two=url_two))
    with pytest.raises(RolledBackError) as found:
        ask(lie.submission(0, 10), everyone)
    # The third witness saw only the lie, and is no quorum.
    assert found.value.size == 10
    forks = [*one.forks(), *two.forks()]
    assert forks
    for fork in forks:
        told = {open_checkpoint(note, [honest.key], verify).root for note in (fork.seen, fork.refused)}
        assert told == {root_of(honest.leaves[:10]), root_of(lie.leaves[:10])}


def says_it_saw(size: bytes) -> Callable[[socket.socket, bytes], None]:
    """A witness that claims a size and shows nothing, as one without the monitoring call."""

    def behave(client: socket.socket, request: bytes) -> None:
        if request.startswith(b"GET "):
            client.sendall(answer(404, b"no\n", "Content-Type: text/plain"))
        else:
            client.sendall(answer(409, size, "Content-Type: text/x.tlog.size"))

    return behave


def test_a_witness_that_only_says_it_saw_more_stops_a_log_without_a_quorum() -> None:
    with hostile(says_it_saw(b"20\n")) as url, pytest.raises(RolledBackError) as found:
        ask(ToyLog().submission(0, 12), policy("all", one=url))
    assert (found.value.size, found.value.evidence) == (20, b"")


def test_a_witness_that_only_says_it_saw_more_does_not_break_a_quorum(honest: Honest) -> None:
    with hostile(says_it_saw(b"9223372036854775807\n")) as url:
        by = policy("2", one=url, two=honest.two, three=honest.three)
        collected = ask(ToyLog().submission(0, 12), by)
    assert {signer.key.name for signer in open_witnessed(collected.note, by, verify).cosigners} == {
        "two",
        "three",
    }


@pytest.mark.parametrize(
    "size", [b"12", b"012\n", b"-1\n", b"9223372036854775808\n", b"", b"1\n2\n", b"9" * 5000 + b"\n"]
)
def test_a_size_that_is_none_is_a_failure_of_the_witness(size: bytes) -> None:
    with hostile(says_it_saw(size)) as url, pytest.raises(WitnessesMissingError) as missing:
        ask(ToyLog().submission(0, 12), policy("all", one=url))
    assert "size that is none" in missing.value.failures[0].reason


def test_a_witness_that_changes_its_mind_is_asked_twice_and_no_more() -> None:
    asked: list[bytes] = []

    def behave(client: socket.socket, request: bytes) -> None:
        if request.startswith(b"POST "):
            asked.append(request)
        says_it_saw(b"%d\n" % len(asked))(client, request)

    with hostile(behave) as url, pytest.raises(WitnessesMissingError):
        ask(ToyLog().submission(0, 12), policy("all", one=url))
    assert [request.partition(b"\r\n\r\n")[2].partition(b"\n")[0] for request in asked] == [
        b"old 0",
        b"old 1",
    ]


def line(name: str, key: CosigningKey, text: str, at: datetime = NOON) -> bytes:
    return str(
        cosign(text, VerifierKey(name, key.key.public, key.key.algorithm), int(at.timestamp()), key.sign)
    ).encode()


TEXT = Note.parse(ToyLog().note(12)).text
LATER_TEXT = Note.parse(ToyLog().note(13)).text
MINE = cosigning_key("one")
FOREIGN = cosigning_key("foreign")
FORGED = str(Signature("one", MINE.key.key_id, int(NOON.timestamp()).to_bytes(8, "big") + bytes(64))).encode()


def hang(client: socket.socket, _request: bytes) -> None:
    """Say nothing until the other side goes."""
    client.recv(1)


def trickle(client: socket.socket, _request: bytes) -> None:
    """Say one byte of an endless header at a time."""
    client.sendall(b"HTTP/1.1 200 So\r\nX: ")
    while True:
        client.sendall(b"x")
        time.sleep(0.05)


HOSTILE: dict[str, tuple[bytes, str]] = {
    "garbage": (os.urandom(100), "did not answer"),
    "silence": (b"", "did not answer"),
    "half": (b"HTTP/1.1 200 So\r\nContent-Length: 500\r\n\r\n\xe2\x80\x94 one", "did not answer"),
    "chunks": (b"HTTP/1.1 200 So\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", "did not answer"),
    "headers": (b"HTTP/1.1 200 So\r\n" + b"X: y\r\n" * 500 + b"\r\n", "did not answer"),
    "error": (answer(500, b"no\n"), "status 500"),
    "empty": (answer(200, b""), "malformed"),
    "binary": (answer(200, os.urandom(100)), "malformed"),
    "large": (answer(200, b"\xe2\x80\x94" + b"x" * 10_000_000), "larger than"),
    "endless": (
        b"HTTP/1.1 200 So\r\nTransfer-Encoding: chunked\r\n\r\n"
        + 200 * (b"10000\r\n" + b"x" * 65536 + b"\r\n"),
        "larger than",
    ),
    "crowd": (answer(200, 101 * line("foreign", FOREIGN, TEXT)), "malformed"),
    "foreign": (answer(200, line("foreign", FOREIGN, TEXT)), "no cosignature by the key"),
    "impostor": (answer(200, line("one", FOREIGN, TEXT)), "no cosignature by the key"),
    "renamed": (answer(200, line("alias", MINE, TEXT)), "no cosignature by the key"),
    "forged": (answer(200, FORGED), "cosignature is wrong"),
    "short": (answer(200, str(Signature("one", MINE.key.key_id, bytes(8))).encode()), "cosignature is wrong"),
    "other tree": (answer(200, line("one", MINE, LATER_TEXT)), "cosignature is wrong"),
    "two texts": (answer(200, TEXT.encode() + b"\n" + line("one", MINE, TEXT)), "signature lines"),
    "ahead": (answer(200, line("one", MINE, TEXT, NOON + timedelta(seconds=3601))), "3601 seconds ahead"),
    "conflict without a size": (answer(409, b"12\n", "Content-Type: text/plain"), "does not follow"),
}


@pytest.mark.parametrize("how", HOSTILE)
def test_a_hostile_witness_is_named_and_breaks_no_quorum(how: str, honest: Honest) -> None:
    said, reason = HOSTILE[how]
    log = ToyLog()
    with hostile(lambda client, _: client.sendall(said)) as url:
        alone = policy("all", one=url)
        with pytest.raises((WitnessesMissingError, RolledBackError)) as missing:
            ask(log.submission(0, 12), alone)
        assert reason in str(missing.value)
        by = policy("2", one=url, two=honest.two, three=honest.three)
        collected = ask(log.submission(0, 12), by)
    witnessed = open_witnessed(collected.note, by, verify)
    assert {signer.key.name for signer in witnessed.cosigners} == {"two", "three"}
    assert {line.name for line in Note.parse(collected.note).signatures} == {"log.example", "two", "three"}


@pytest.mark.parametrize("behave", [hang, trickle])
def test_a_slow_witness_delays_no_quorum(
    behave: Callable[[socket.socket, bytes], None], honest: Honest
) -> None:
    with hostile(behave) as url:
        exchange = over_http(2.0)
        by = policy("2", one=url, two=honest.two, three=honest.three)
        started = time.monotonic()
        collected = collect(ToyLog().submission(0, 12), by, exchange, verify, NOON, PATIENCE)
        assert time.monotonic() - started < 1.5
        assert collected.failures == (Failure("one", "It did not answer in time."),)


@pytest.mark.parametrize("behave", [hang, trickle])
def test_a_slow_witness_that_is_needed_is_waited_for_so_long_and_no_longer(
    behave: Callable[[socket.socket, bytes], None], honest: Honest
) -> None:
    with hostile(behave) as url:
        by = policy("all", one=url, two=honest.two)
        for exchange_seconds, seconds in ((1.0, PATIENCE), (1.5, 0.5)):
            started = time.monotonic()
            with pytest.raises(WitnessesMissingError) as missing:
                collect(ToyLog().submission(0, 12), by, over_http(exchange_seconds), verify, NOON, seconds)
            assert time.monotonic() - started < 2.5
            assert [failure.witness for failure in missing.value.failures] == ["one"]
            assert "did not answer" in str(missing.value)


def test_a_redirect_is_not_followed() -> None:
    visits: list[bytes] = []
    with hostile(lambda _client, request: visits.append(request)) as target:
        moved = answer(307, b"", f"Location: {target}/add-checkpoint")
        with (
            hostile(lambda client, _: client.sendall(moved)) as url,
            pytest.raises(WitnessesMissingError) as missing,
        ):
            ask(ToyLog().submission(0, 12), policy("all", one=url))
    assert "status 307" in str(missing.value)
    assert visits == []


def test_a_proxy_in_the_environment_is_not_asked(url_one: str, monkeypatch: pytest.MonkeyPatch) -> None:
    visits: list[bytes] = []
    with hostile(lambda _client, request: visits.append(request)) as proxy:
        for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
            monkeypatch.setenv(name, proxy)
        ask(ToyLog().submission(0, 12), policy("all", one=url_one))
    assert visits == []


@pytest.mark.parametrize(
    "url",
    [
        "http://witness.example/",
        "http://127.0.0.1.witness.example/",
        "http://10.0.0.1/",
        "http://2130706433/",
        "ftp://127.0.0.1/",
        "file:///etc/passwd",
        "https://user:secret@witness.example/",
        "http://127.0.0.1@witness.example/",
        "https://witness.example/?q=1",
        "https://witness.example/#f",
        "https:///nowhere",
        "https://witness.example:99999/",
        "https://[::1/",
        "witness.example",
        "https://wïtness.example/",
        "https://witness.example/a b",
        "https://witness.example/\r\nX: y",
        "https://a..b/",
        "https://.example/",
        f"https://{'x' * 64}.example/",
    ],
)
def test_an_address_that_we_would_not_ask_is_not_asked(url: str) -> None:
    with pytest.raises(WitnessAddressError):
        over_http(1.0)(url, None)


def test_a_witness_with_a_bad_address_is_named_and_breaks_no_quorum(honest: Honest) -> None:
    collected = ask(ToyLog().submission(0, 12), policy("any", two=honest.two, one="http://witness.example"))
    assert {signer.key.name for signer in collected.cosigners} == {"two"}
    with pytest.raises(WitnessesMissingError) as missing:
        ask(ToyLog().submission(0, 12), policy("all", two=honest.two, one="http://witness.example"))
    assert "neither https nor on this machine" in str(missing.value)


def test_a_witness_whose_server_is_gone_is_named(honest: Honest) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        gone = f"http://127.0.0.1:{closed.getsockname()[1]}"
    with pytest.raises(WitnessesMissingError) as missing:
        ask(ToyLog().submission(0, 12), policy("all", one=gone, two=honest.two))
    assert [failure.witness for failure in missing.value.failures] == ["one"]
    assert "ConnectionRefusedError" in str(missing.value)


def test_witnesses_without_a_url_are_not_asked_and_named_as_missing(honest: Honest) -> None:
    assert len(ask(ToyLog().submission(0, 12), policy("any", one=None, two=honest.two)).cosigners) == 1
    with pytest.raises(WitnessesMissingError) as missing:
        ask(ToyLog().submission(0, 12), policy("any", one=None))
    assert "No witness has a URL" in str(missing.value)


def test_a_cosignature_of_an_hour_ahead_still_counts(one: Witness) -> None:
    with served(one, NOON + timedelta(hours=1)) as url:
        collected = ask(ToyLog().submission(0, 12), policy("all", one=url))
    assert [signer.at for signer in collected.cosigners] == [int(NOON.timestamp()) + 3600]


def test_a_cosignature_without_a_time_does_not_count() -> None:
    secret = MLDSA44PrivateKey.from_seed_bytes(bytes(32))
    key = VerifierKey("lattice", secret.public_key().public_bytes_raw(), Algorithm.ML_DSA_44)
    by = Policy.parse(f"log {ToyLog().key}\nwitness w {key} https://w.example\nquorum w\n")

    def verify_both(public: bytes, signature: bytes, message: bytes) -> bool:
        if len(public) == 32:
            return verify(public, signature, message)
        try:
            MLDSA44PublicKey.from_public_bytes(public).verify(signature, message)
        except InvalidSignature:
            return False
        return True

    def cosigned_at(at: int) -> Collected:
        value = at.to_bytes(8, "big") + secret.sign(statement(TEXT, key, at))
        said = Reply(200, "text/plain", str(Signature("lattice", key.key_id, value)).encode())
        return collect(ToyLog().submission(0, 12), by, lambda *_: said, verify_both, NOON, PATIENCE)

    assert cosigned_at(1).cosigners[0].at == 1
    with pytest.raises(WitnessesMissingError) as missing:
        cosigned_at(0)
    assert "has no time" in str(missing.value)


def test_a_policy_that_asks_for_none_asks_none() -> None:
    log = ToyLog()
    nobody = Policy.parse(f"log {log.key}\nquorum none\n")

    def unreachable(_url: str, _body: bytes | None) -> Reply:
        raise AssertionError

    assert collect(log.submission(0, 12), nobody, unreachable, verify, NOON, 1.0) == Collected(
        log.note(12), (), ()
    )


def test_a_note_that_its_log_did_not_sign_is_not_handed_out(url_one: str) -> None:
    submission = ToyLog().submission(0, 12)
    text = Note.parse(submission.note).text
    forged = bytes(Note(text, (Signature("log.example", ToyLog().key.key_id, bytes(64)),)))
    with pytest.raises(NoteSignatureError):
        ask(Submission(forged, 0, submission.proof_from), policy("all", one=url_one))


def test_a_proof_that_we_cannot_make_is_our_fault_and_not_the_witnesses(url_one: str) -> None:
    ask(ToyLog().submission(0, 5), policy("all", one=url_one))

    def damaged(_size: int) -> Sequence[bytes]:
        raise LedgerDamagedError("a tile is missing")

    with pytest.raises(LedgerDamagedError):
        ask(Submission(ToyLog().note(12), 5, damaged), policy("all", one=url_one))


def test_the_newest_checkpoint_of_a_witness_is_checked_before_it_is_believed(url_one: str) -> None:
    by = policy("all", one=url_one)
    (known,) = by.witnesses
    exchange = over_http(PATIENCE)
    assert newest(known, "log.example", by, exchange, verify) is None
    served_note = ask(ToyLog().submission(0, 12), by).note
    found = newest(known, "log.example", by, exchange, verify)
    assert found == open_checkpoint(ToyLog().note(12), [ToyLog().key], verify)
    text = Note.parse(served_note).text
    stolen = bytes(Note(text, (Signature("log.example", ToyLog().key.key_id, bytes(64)),)))
    for said in (
        Reply(200, "text/plain", ToyLog().note(12)),
        Reply(200, "text/plain", stolen),
        Reply(200, "text/plain", b"\xff"),
        Reply(500, "text/plain", served_note),
    ):
        with pytest.raises(WitnessFailedError):
            newest(known, "log.example", by, lambda _url, _body, said=said: said, verify)
    with pytest.raises(WitnessFailedError):
        newest(known, "o.example", by, lambda _url, _body: Reply(200, "text/plain", served_note), verify)


def test_an_answer_of_the_largest_size_is_read_and_one_more_byte_is_not() -> None:
    for size, fits in ((MAX_ANSWER_BYTES, True), (MAX_ANSWER_BYTES + 1, False)):
        said = answer(200, b"x" * size)
        with hostile(lambda client, _, said=said: client.sendall(said)) as url:
            if fits:
                assert len(over_http(PATIENCE)(url, None).body) == size
            else:
                with pytest.raises(WitnessFailedError):
                    over_http(PATIENCE)(url, None)


KILLED = """
import hashlib, os, signal, socket, sys
from datetime import UTC, datetime
from pathlib import Path
import uvicorn
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from storage.note import Algorithm, VerifierKey
from storage.witness.memory import CosigningKey, Witness
from storage.witness.app import witness_app

def public(name):
    secret = Ed25519PrivateKey.from_private_bytes(hashlib.sha256(name.encode()).digest())
    return secret.public_key().public_bytes_raw()

def verify(key, signature, message):
    Ed25519PublicKey.from_public_bytes(key).verify(signature, message)
    return True

def die(message):
    os.kill(os.getpid(), signal.SIGKILL)

key = VerifierKey("one", public("one"), Algorithm.COSIGNATURE_ED25519)
logs = {"log.example": [VerifierKey("log.example", public("log.example"))]}
witness = Witness.open(Path(sys.argv[1]), [CosigningKey(key, die)], logs, verify)
listening = socket.create_server(("127.0.0.1", 0))
print(listening.getsockname()[1], flush=True)
now = datetime.fromtimestamp(int(sys.argv[2]), UTC)
uvicorn.Server(uvicorn.Config(witness_app(witness, lambda: now), log_config=None)).run([listening])
"""


def test_a_witness_killed_before_its_answer_comes_back_and_cosigns_that_tree_alone(tmp_path: Path) -> None:
    path = tmp_path / "one.db"
    create(path, "one").close()
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])}
    with subprocess.Popen(
        [sys.executable, "-c", KILLED, str(path), str(int(NOON.timestamp()))],
        stdout=subprocess.PIPE,
        env=environment,
    ) as process:
        assert process.stdout is not None
        by = policy("all", one=f"http://127.0.0.1:{int(process.stdout.readline())}")
        with pytest.raises(WitnessesMissingError):
            ask(ToyLog().submission(0, 12), by)
        assert process.wait(timeout=60) == -signal.SIGKILL
    key = cosigning_key("one")
    with (
        Witness.open(path, [key], {"log.example": [ToyLog().key]}, verify) as witness,
        served(witness) as url,
    ):
        by = policy("all", one=url)
        # It kept the tree and never cosigned it, so it cannot show it, and says so.
        with pytest.raises(RolledBackError) as found:
            ask(ToyLog(forked_at=5).submission(0, 12), by)
        assert found.value.evidence == b""
        collected = ask(ToyLog().submission(0, 12), by)
        assert len(cosigners(collected.note, [key.key], verify)) == 1
