"""Signing with several authorities, as real servers: some hang, some refuse, some lie, and some are right."""

import hashlib
import json
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from authn.errors import SigningError
from authn.manifest import Sdk
from authn.timestamp.authority import Authority, refusal
from authn.timestamp.loopback import Responder, serving
from authn.timestamp.relay import Need, NoTokenError
from authn.timestamp.request import TimeStampRequest
from authn.trust import Purpose
from storage.entry import Kind
from storage.receipt import Receipt
from tools import trust
from tools.capture import Desk, Signed, captured, sign_file
from tools.errors import UsageError
from tools.examine import Policy, Prepared, Tail, start, start_preparing
from tools.founding import create_home
from tools.home import Home
from tools.issuance.own import enrol
from tools.relaying import Relaying
from tools.signing import Timestamps, sign_files, signed_files
from tools.tokens import kept

Command = Callable[..., "subprocess.CompletedProcess[str]"]


def now() -> datetime:
    return datetime.now(UTC)


@pytest.fixture(scope="module")
def others(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Home]:
    """Other people's homes, each with a time-stamp unit under a root of its own."""
    folder = tmp_path_factory.mktemp("others")
    return {
        name: create_home(folder / name, f"{name} clock", "http://localhost:8461/ocsp/", now())
        for name in ("good", "second", "late", "strange")
    }


@pytest.fixture(scope="module")
def believing(others: dict[str, Home], tmp_path_factory: pytest.TempPathFactory) -> Home:
    """A home with the device `cam` that believes all of them about time, but for the strange one."""
    made = create_home(
        tmp_path_factory.mktemp("believing") / "home", "Believing Desk", "http://localhost:8461/ocsp/", now()
    )
    enrol(made, "cam", "Test Camera", now())
    for name in ("good", "second", "late"):
        root = others[name].path / "certificates" / "time-root.pem"
        trust.add(made.path / "trust", root, name, Purpose.TIME_STAMPING, None, now())
    return made


@pytest.fixture(scope="module")
def good(others: dict[str, Home]) -> Iterator[Authority]:
    with others["good"].ledger_to_read() as ledger:
        yield others["good"].authority(now, ledger)


@pytest.fixture(scope="module")
def second(others: dict[str, Home]) -> Iterator[Authority]:
    with others["second"].ledger_to_read() as ledger:
        yield others["second"].authority(now, ledger)


@pytest.fixture(scope="module")
def ahead(others: dict[str, Home]) -> Iterator[Authority]:
    """Believed, and two hours off."""
    with others["late"].ledger_to_read() as ledger:
        yield others["late"].authority(lambda: now() + timedelta(hours=2), ledger)


@pytest.fixture(scope="module")
def strange(others: dict[str, Home]) -> Iterator[Authority]:
    """In nobody's list."""
    with others["strange"].ledger_to_read() as ledger:
        yield others["strange"].authority(now, ledger)


class Refusing:
    """Always says no."""

    def respond(self, _query: bytes) -> bytes:
        return refusal(14, "the clock is being set")


class Lying:
    """Stamps something else than it was asked to, with the right nonce."""

    def __init__(self, authority: Authority) -> None:
        self.authority = authority

    def respond(self, query: bytes) -> bytes:
        asked = TimeStampRequest.parse(query)
        other = replace(asked, digest=hashlib.sha256(b"something else").digest(), imprint=b"")
        return self.authority.respond(other.encode())


@contextmanager
def hanging() -> Iterator[str]:
    """The kernel takes the call, and nobody ever answers."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}/"


@contextmanager
def served(*responders: Responder) -> Iterator[tuple[str, ...]]:
    with ExitStack() as stack:
        yield tuple(stack.enter_context(serving(each)) for each in responders)


@pytest.fixture
def failing(good: Authority, ahead: Authority, strange: Authority) -> Iterator[tuple[str, ...]]:
    """Five authorities, none of which is of any use."""
    with hanging() as silent, served(Refusing(), Lying(good), ahead, strange) as rest:
        yield silent, *rest


def tokens_logged(home: Home, start: int) -> list[dict[str, str]]:
    """The payloads of all entries since `start` that are about tokens."""
    with home.ledger_to_read() as ledger:
        return [
            json.loads(ledger.payload(start + offset) or b"")
            for offset, entry in enumerate(ledger.entries(start, ledger.size))
            if entry.kind is Kind.TOKEN
        ]


def size(home: Home) -> int:
    with home.ledger_to_read() as ledger:
        return ledger.size


def test_a_picture_is_signed_within_two_seconds_when_four_of_five_hang_refuse_lie_or_are_hours_off(
    believing: Home, own_samples: Path, tmp_path: Path, good: Authority, ahead: Authority
) -> None:
    with hanging() as silent, served(Refusing(), Lying(good), ahead, good) as rest:
        began = time.monotonic()
        (done,) = signed_files(
            believing, [own_samples / "hills.jpg"], tmp_path / "out", "cam", now,
            timed=Timestamps((silent, *rest)),
        )  # fmt: skip
        took = time.monotonic() - began
    assert isinstance(done, Signed), done
    assert took < 2, took
    assert done.provenance.time.source is not None
    assert "list good" in done.provenance.time.source
    assert not done.owed
    assert Receipt.parse(done.receipt.read_text()).token == done.tokens[0].token == done.provenance.token
    (logged,) = tokens_logged(believing, done.index)
    assert logged["token"] == hashlib.sha256(done.tokens[0].token).hexdigest()


def test_where_all_fail_nothing_is_written_nothing_is_recorded_and_the_others_are_tried(
    believing: Home, own_samples: Path, tmp_path: Path, failing: tuple[str, ...]
) -> None:
    before = size(believing)
    files = [own_samples / "hills.jpg", own_samples / "street.jpg"]
    outcomes = list(signed_files(believing, files, tmp_path / "out", "cam", now, timed=Timestamps(failing)))
    for outcome, source in zip(outcomes, files, strict=True):
        assert isinstance(outcome, NoTokenError)
        said = str(outcome)
        assert said.startswith(str(source))
        for reason in (
            "did not answer in time",
            "the clock is being set",
            "about other bytes",
            "ahead of ours",
        ):
            assert reason in said
    assert list((tmp_path / "out").iterdir()) == []
    assert size(believing) == before


def test_the_command_says_by_a_code_that_no_authority_gave_a_token(
    lightseal: Command, believing: Home, own_samples: Path, tmp_path: Path, failing: tuple[str, ...]
) -> None:
    named = [part for url in failing for part in ("--authority", url)]
    picture = own_samples / "hills.jpg"
    done = lightseal("sign", picture, "--device", "cam", "--out", tmp_path / "out", *named, home=believing)
    assert done.returncode == 1
    assert done.stderr.startswith("error[timestamp-authorities-failed]")
    assert list((tmp_path / "out").iterdir()) == []


def test_what_was_signed_without_a_token_is_owed_one_and_a_stamp_later_proves_a_time(
    lightseal: Command,
    believing: Home,
    own_samples: Path,
    tmp_path: Path,
    failing: tuple[str, ...],
    second: Authority,
) -> None:
    named = [part for url in failing for part in ("--authority", url)]
    copy = tmp_path / "out" / "hills.jpg"
    signed = lightseal(
        "sign", own_samples / "hills.jpg", "--device", "cam", "--out", copy.parent,
        "--timestamps", "later", *named, home=believing,
    )  # fmt: skip
    assert signed.returncode == 0, signed.stderr
    assert f"a token is owed: run lightseal stamp {copy} later" in signed.stdout
    assert "no proven time" in lightseal("verify", copy, home=believing).stdout
    content = copy.read_bytes()

    with served(Refusing(), second) as urls:
        named = [part for url in urls for part in ("--authority", url)]
        stamped = lightseal("stamp", copy, *named, home=believing)
    assert stamped.returncode == 0, stamped.stderr
    told = lightseal("verify", copy, home=believing)
    assert told.returncode == 0
    assert "signed no later than" in told.stdout
    assert "list second" in told.stdout
    assert copy.read_bytes() == content
    assert believing.audit().findings == ()


def test_a_token_that_can_be_had_is_taken_although_later_would_do(
    believing: Home, own_samples: Path, tmp_path: Path, good: Authority
) -> None:
    with served(Refusing(), good) as urls:
        (done,) = signed_files(
            believing, [own_samples / "hills.jpg"], tmp_path, None, now, timed=Timestamps(urls, Need.LATER)
        )
    assert isinstance(done, Signed), done
    assert not done.owed
    assert done.provenance.time.not_after is not None


def test_a_file_begun_twice_holds_one_signature_and_no_rest_of_the_first(
    believing: Home, own_samples: Path, tmp_path: Path
) -> None:
    before = size(believing)
    with served(Refusing()) as urls:
        (owed,) = signed_files(
            believing, [own_samples / "hills.jpg"], tmp_path / "owed", "cam", now,
            timed=Timestamps(urls, Need.LATER),
        )  # fmt: skip
    assert isinstance(owed, Signed), owed
    assert size(believing) == before + 1, "a signature, and no token"
    (plain,) = signed_files(
        believing, [own_samples / "hills.jpg"], tmp_path / "plain", "cam", now, timed=False
    )
    assert isinstance(plain, Signed), plain
    assert owed.media.stat().st_size == plain.media.stat().st_size
    assert sorted(path.name for path in owed.media.parent.iterdir()) == ["hills.jpg", "hills.jpg.receipt"]


def test_of_two_tokens_one_is_in_the_file_and_both_are_in_the_ledger(
    believing: Home, own_samples: Path, tmp_path: Path, good: Authority, second: Authority
) -> None:
    with hanging() as silent, served(good, Refusing(), second) as rest:
        (done,) = signed_files(
            believing, [own_samples / "hills.jpg"], tmp_path, "cam", now,
            timed=Timestamps((silent, *rest), Need.TWO),
        )  # fmt: skip
    assert isinstance(done, Signed), done
    assert {each.evidence.list for each in done.tokens} == {"good", "second"}
    logged = tokens_logged(believing, done.index)
    assert [each["token"] for each in logged] == [
        hashlib.sha256(each.token).hexdigest() for each in done.tokens
    ]
    assert done.provenance.identity is not None
    assert {each["signature"] for each in logged} == {done.provenance.identity.signature.hex()}
    place = believing.path / "tokens"
    assert kept(place, done.provenance.identity.signature) == (done.tokens[1].token,)
    # Whoever stops believing the first authority still has the word of the second.
    others = tuple(file for file in believing.lists() if file.name != done.tokens[0].evidence.list)
    alone = start(Policy(others, now(), token_folder=place))(str(done.media))
    assert alone.provenance is not None
    assert alone.provenance.time.not_after is not None
    assert str(done.tokens[1].evidence.list) in str(alone.provenance.time.source)
    nobody = start(Policy(others, now()))(str(done.media))
    assert nobody.provenance is not None
    assert nobody.provenance.time.not_after is None
    assert believing.audit().findings == ()


def test_two_tokens_are_told_by_the_names_of_who_gave_them(
    believing: Home, own_samples: Path, tmp_path: Path, good: Authority, second: Authority
) -> None:
    with served(good, second) as urls:
        (line,) = sign_files(
            believing, [own_samples / "hills.jpg"], tmp_path, None, now, timed=Timestamps(urls, Need.TWO)
        )
    assert isinstance(line, str), line
    assert "2 tokens, each an entry of the ledger: " in line
    assert "good clock" in line
    assert "second clock" in line


def test_one_good_authority_is_not_two(
    believing: Home, own_samples: Path, tmp_path: Path, good: Authority, ahead: Authority
) -> None:
    before = size(believing)
    with served(good, Refusing(), ahead) as urls:
        (outcome,) = signed_files(
            believing, [own_samples / "hills.jpg"], tmp_path / "out", "cam", now,
            timed=Timestamps(urls, Need.TWO),
        )  # fmt: skip
    assert isinstance(outcome, NoTokenError)
    assert list((tmp_path / "out").iterdir()) == []
    assert size(believing) == before


def test_an_authority_that_no_list_names_dates_nothing(
    believing: Home, own_samples: Path, tmp_path: Path, strange: Authority
) -> None:
    with served(strange) as urls:
        (outcome,) = signed_files(
            believing, [own_samples / "hills.jpg"], tmp_path / "out", "cam", now, timed=Timestamps(urls)
        )
    assert isinstance(outcome, NoTokenError)
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize("need", [Need.REQUIRE, Need.LATER])
def test_a_token_that_only_the_relay_believes_is_found_out_by_our_own_check(
    believing: Home, plain_jpeg: Path, tmp_path: Path, good: Authority, need: Need
) -> None:
    before, out = size(believing), tmp_path / "out"
    out.mkdir()
    prepared = start_preparing(Tail.REFUSED)(str(plain_jpeg))
    assert isinstance(prepared, Prepared)
    listed = Policy(believing.lists(), now()).lists().time_stampers
    lists = Policy(believing.own_lists(), now()).lists()
    with served(good) as urls, believing.ledger() as ledger, Sdk() as sdk:
        desk = Desk(believing, ledger, lists, sdk, None, Relaying(urls, listed, need))
        with pytest.raises(SigningError, match="time is not proven although a token was asked for"):
            sign_file(desk, believing.device("cam"), plain_jpeg, out / "a.jpg", prepared, captured, now)
    assert list(out.iterdir()) == []
    assert size(believing) == before


@pytest.mark.parametrize(
    "asked",
    [
        Timestamps(("ftp://a.example/",)),
        Timestamps(("http://a.example/", "http://a.example/")),
        Timestamps(("http://a.example/",), Need.TWO),
        Timestamps((), Need.TWO),
    ],
)
def test_what_cannot_be_asked_is_refused_before_even_a_folder_is_made(
    believing: Home, own_samples: Path, tmp_path: Path, asked: Timestamps
) -> None:
    with pytest.raises(UsageError):
        list(signed_files(believing, [own_samples / "hills.jpg"], tmp_path / "out", "cam", now, timed=asked))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("option", [("--authority", "http://127.0.0.1:1/"), ("--timestamps", "later")])
def test_who_wants_no_token_names_nobody_to_ask(
    lightseal: Command, believing: Home, plain_jpeg: Path, option: tuple[str, str]
) -> None:
    done = lightseal("sign", plain_jpeg, "--no-timestamp", *option, home=believing)
    assert done.returncode == 2
    assert done.stderr.startswith("error[usage]")
    assert list(plain_jpeg.parent.glob("plain.*")) == [plain_jpeg]
