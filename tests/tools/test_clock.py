"""What the home's own unit, in this process, may not date: behind what is on record, nor by a clock that was set."""

import hashlib
import subprocess
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from authn.keys import LogKey, open_key, verify_note
from authn.timestamp import unverified
from authn.timestamp.authority import Authority, UnsafeClockError
from authn.timestamp.relay import token_of
from authn.timestamp.request import TimeStampRequest
from storage.entry import Kind
from storage.note import Note
from storage.witness.memory import CosigningKey, Request, Witness
from tools.capture import Signed
from tools.clock import LOOK_SECONDS, Floor
from tools.home import Home
from tools.signing import signed_files
from tools.stamping import Dated, stamped_files
from tools.witness_server import WitnessFolder

QUERY = TimeStampRequest(hashlib.sha256(b"claim").digest(), nonce=7).encode()


def now() -> datetime:
    return datetime.now(UTC)


class Hands:
    """A clock whose hands the test moves."""

    def __init__(self, **moved: float) -> None:
        self.moved = timedelta(**moved)

    def __call__(self) -> datetime:
        return now() + self.moved


def record(home: Home, at: datetime) -> None:
    """As another process does, whose clock may be another."""
    home.own.record(Kind.POLICY, {"change": "a test"}, at)


def size(home: Home) -> int:
    with home.ledger_to_read() as ledger:
        return ledger.size


def require_refused(unit: Authority, why: str) -> None:
    assert why.encode() in unit.respond(QUERY)
    with pytest.raises(UnsafeClockError, match=why) as caught:
        unit.require_time()
    assert (caught.value.code, bool(caught.value.remedy)) == ("clock-unsafe", True)


def test_a_clock_behind_the_newest_entry_dates_nothing(fresh_home: Home) -> None:
    record(fresh_home, now() + timedelta(hours=30))
    with fresh_home.ledger_to_read() as ledger:
        require_refused(fresh_home.authority(now, ledger), "behind a time that is already on record")
        unit = fresh_home.authority(Hands(hours=30, seconds=1), ledger)
        unit.require_time()
        stated = unverified.parse(token_of(unit.respond(QUERY))).statement.gen_time
        assert stated >= datetime.fromtimestamp(ledger.entry(ledger.size - 1).logged_at.timestamp(), UTC)


def test_an_entry_that_came_later_is_seen_as_well(fresh_home: Home) -> None:
    with fresh_home.ledger_to_read() as ledger:
        unit = fresh_home.authority(now, ledger)
        token_of(unit.respond(QUERY))
        record(fresh_home, now() + timedelta(minutes=5))
        time.sleep(LOOK_SECONDS)
        require_refused(unit, "behind a time that is already on record")


def test_a_clock_behind_what_the_homes_witnesses_cosigned_dates_nothing(
    fresh_home: Home, tmp_path: Path
) -> None:
    folder = WitnessFolder.create(tmp_path / "w", "w.example/witness")
    private = LogKey(open_key(f"file:{folder.path / 'witness.pem'}"))
    keys, ahead = (CosigningKey(folder.key, private.sign),), now() + timedelta(minutes=30)
    with fresh_home.ledger() as ledger:
        note = Note.parse(ledger.checkpoint().encode())
        logs = {fresh_home.log.name: [fresh_home.log]}
        with Witness.open(folder.path / "witness.db", keys, logs, verify_note) as witness:
            answer = witness.add_checkpoint(bytes(Request(0, (), note)), ahead)
        assert answer.status == 200, answer
        lines = Note.parse(f"{note.text}\n".encode() + answer.body).signatures
        ledger.keep_witnessed(bytes(Note(note.text, (*note.signatures, *lines))))
        token_of(fresh_home.authority(now, ledger).respond(QUERY))  # whose cosignature it is, nobody said
        (fresh_home.path / "witnesses.policy").write_text(f"witness w {folder.key}\nquorum w\n")
        require_refused(fresh_home.authority(now, ledger), "behind a time that is already on record")
        token_of(fresh_home.authority(Hands(minutes=31), ledger).respond(QUERY))


@pytest.mark.parametrize("seconds", [7200, 0.7])
def test_a_clock_that_is_set_while_it_is_relied_on_dates_nothing(home: Home, seconds: float) -> None:
    hands = Hands()
    with home.ledger_to_read() as ledger:
        unit = home.authority(hands, ledger)
        unit.require_time()
        hands.moved = timedelta(seconds=seconds)
        require_refused(unit, "the clock was set forward by ")
        hands.moved = timedelta()
        token_of(unit.respond(QUERY))


def test_a_floor_that_could_never_be_read_is_a_doubt_and_not_no_floor(fresh_home: Home) -> None:
    with fresh_home.ledger_to_read() as ledger:
        floor = Floor(ledger, None)
        assert floor.doubt() is not None
        ledger.close()
        (fresh_home.path / "ledger.db").rename(fresh_home.path / "elsewhere.db")
        assert floor.lately() is None
        assert floor.doubt() is not None
        (fresh_home.path / "elsewhere.db").rename(fresh_home.path / "ledger.db")
        assert floor.lately() is not None
        assert floor.doubt() is None


def test_nothing_is_signed_under_a_clock_behind_the_ledger_and_the_reason_is_said(
    fresh_home: Home, plain_jpeg: Path, tmp_path: Path
) -> None:
    record(fresh_home, now() + timedelta(hours=30))
    before = size(fresh_home)
    (outcome,) = signed_files(fresh_home, [plain_jpeg], tmp_path / "out", "cam", Hands(hours=1), timed=True)
    assert isinstance(outcome, UnsafeClockError), outcome
    assert str(outcome).startswith(f"{plain_jpeg}: no time can be given: the clock is ")
    assert list((tmp_path / "out").iterdir()) == []
    assert size(fresh_home) == before


def test_a_clock_that_is_set_between_two_files_dates_the_first_alone(
    fresh_home: Home, own_samples: Path, tmp_path: Path
) -> None:
    hands = Hands()
    files = [own_samples / "hills.jpg", own_samples / "street.jpg"]
    outcomes = signed_files(fresh_home, files, tmp_path / "out", "cam", hands, timed=True)
    assert isinstance(next(outcomes), Signed)
    hands.moved = timedelta(hours=2)
    second = next(outcomes)
    assert isinstance(second, UnsafeClockError), second
    assert "the clock was set forward by 7200" in str(second)


def test_no_token_is_taken_later_under_a_clock_behind_the_ledger(
    fresh_home: Home, plain_jpeg: Path, tmp_path: Path
) -> None:
    (done,) = signed_files(fresh_home, [plain_jpeg], tmp_path / "out", "cam", now, timed=False)
    assert isinstance(done, Signed), done
    record(fresh_home, now() + timedelta(hours=3))
    (refused,) = stamped_files(fresh_home, [done.media], (), now)
    assert isinstance(refused, UnsafeClockError), refused
    assert not list(fresh_home.path.rglob("*.tst"))
    (dated,) = stamped_files(fresh_home, [done.media], (), Hands(hours=3, seconds=1))
    assert isinstance(dated, Dated), dated


def test_no_bundle_is_sealed_under_a_clock_behind_the_ledger(
    fresh_home: Home,
    tmp_path: Path,
    plain_jpeg: Path,
    lightseal: Callable[..., "subprocess.CompletedProcess[str]"],
) -> None:
    bundle = tmp_path / "evidence.zip"
    record(fresh_home, now() + timedelta(hours=3))
    done = lightseal("verify", plain_jpeg, "--bundle", bundle, home=fresh_home)
    assert done.returncode == 1, (done.stdout, done.stderr)
    assert done.stderr.startswith("error[clock-unsafe]: no time can be given: the clock is "), done.stderr
    assert not bundle.exists()
