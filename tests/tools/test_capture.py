"""When any step of signing fails, nothing is written and nothing is recorded that a reader could meet."""

import dataclasses
import os
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

import storage.errors
from authn.errors import SigningError
from authn.evidence import Credentials
from authn.manifest import Sdk
from storage.ledger import Ledger
from tools.capture import Desk, Signed, captured, received, sign_file
from tools.errors import AlreadySignedError, OutputExistsError, UnreadableError, UnwritableError
from tools.examine import Policy, Prepared, Tail, start_preparing
from tools.founding import create_home
from tools.home import Home
from tools.issuance.own import enrol


def now() -> datetime:
    return datetime.now(UTC)


@pytest.fixture
def ledger(fresh_home: Home) -> Iterator[Ledger]:
    with fresh_home.ledger() as opened:
        yield opened


@pytest.fixture
def desk(fresh_home: Home, ledger: Ledger) -> Iterator[Desk]:
    policy = Policy(fresh_home.lists(), now())
    with Sdk() as sdk:
        yield Desk(fresh_home, ledger, policy.lists(), sdk, fresh_home.authority(now, ledger))


def prepared(path: Path) -> Prepared:
    found = start_preparing(Tail.REFUSED)(str(path))
    assert isinstance(found, Prepared)
    return found


def attempt(desk: Desk, source: Path, target: Path, found: Prepared) -> Signed:
    return sign_file(desk, desk.home.device("cam"), source, target, found, captured, now)


def entries(home: Home) -> int:
    return home.audit().size


@pytest.fixture
def out(tmp_path: Path) -> Path:
    folder = tmp_path / "out"
    folder.mkdir()
    return folder


def test_what_is_written_is_recorded(desk: Desk, plain_jpeg: Path, out: Path) -> None:
    done = attempt(desk, plain_jpeg, out / "a.jpg", prepared(plain_jpeg))
    assert entries(desk.home) == done.index + 2 == 8, "the signature, and its token"
    assert sorted(path.name for path in out.iterdir()) == ["a.jpg", "a.jpg.receipt"]
    assert done.receipt.stat().st_size < 32 << 10
    umask = os.umask(0)
    os.umask(umask)
    assert done.media.stat().st_mode & 0o777 == 0o666 & ~umask


def test_a_file_that_changed_after_it_was_looked_at_is_not_signed(
    desk: Desk, plain_jpeg: Path, out: Path
) -> None:
    found = prepared(plain_jpeg)
    content = bytearray(plain_jpeg.read_bytes())
    content[-2000] ^= 1
    plain_jpeg.write_bytes(content)
    with pytest.raises(SigningError, match="changed"):
        attempt(desk, plain_jpeg, out / "a.jpg", found)
    assert list(out.iterdir()) == []
    assert entries(desk.home) == 6


def test_a_file_put_in_place_of_the_one_looked_at_is_not_signed(
    desk: Desk, plain_jpeg: Path, out: Path
) -> None:
    """Same size and same modification time: only the file itself is another."""
    found = prepared(plain_jpeg)
    was = plain_jpeg.stat()
    content = bytearray(plain_jpeg.read_bytes())
    content[-2000] ^= 1
    other = plain_jpeg.with_name("other")
    other.write_bytes(content)
    os.utime(other, ns=(was.st_atime_ns, was.st_mtime_ns))
    other.replace(plain_jpeg)
    assert plain_jpeg.stat().st_mtime_ns == was.st_mtime_ns
    with pytest.raises(SigningError, match="changed"):
        attempt(desk, plain_jpeg, out / "a.jpg", found)
    assert entries(desk.home) == 6


def test_a_file_that_is_gone_is_named_as_what_cannot_be_read(desk: Desk, plain_jpeg: Path, out: Path) -> None:
    found = prepared(plain_jpeg)
    plain_jpeg.unlink()
    with pytest.raises(UnreadableError):
        attempt(desk, plain_jpeg, out / "a.jpg", found)
    assert list(out.iterdir()) == []


def test_a_token_of_an_authority_nobody_listed_is_no_time(
    desk: Desk, plain_jpeg: Path, out: Path, tmp_path: Path
) -> None:
    stranger = create_home(tmp_path / "stranger", "Stranger", "http://localhost:8461/ocsp/", now())
    with stranger.ledger_to_read() as ledger:
        foreign = dataclasses.replace(desk, authority=stranger.authority(now, ledger))
        with pytest.raises(SigningError, match="time is not proven"):
            attempt(foreign, plain_jpeg, out / "a.jpg", prepared(plain_jpeg))
    assert list(out.iterdir()) == []
    assert entries(desk.home) == 6


def test_a_device_our_own_lists_do_not_know_signs_nothing(
    desk: Desk, plain_jpeg: Path, out: Path, tmp_path: Path
) -> None:
    stranger = create_home(tmp_path / "stranger", "Stranger", "http://localhost:8461/ocsp/", now())
    device, _ = enrol(stranger, "cam", "Strange Camera", now())
    with pytest.raises(SigningError, match="INTACT_SIGNER_UNKNOWN"):
        sign_file(desk, device, plain_jpeg, out / "a.jpg", prepared(plain_jpeg), captured, now)
    assert list(out.iterdir()) == []
    assert entries(desk.home) == 6


def test_a_ledger_that_refuses_leaves_no_file(desk: Desk, plain_jpeg: Path, out: Path) -> None:
    with desk.home.ledger_to_read() as read_only:
        refusing = dataclasses.replace(desk, ledger=read_only)
        with pytest.raises(storage.errors.Error):
            attempt(refusing, plain_jpeg, out / "a.jpg", prepared(plain_jpeg))
    assert list(out.iterdir()) == []
    assert entries(desk.home) == 6


@pytest.mark.parametrize("taken", ["a.jpg", "a.jpg.receipt"])
def test_neither_file_nor_receipt_replaces_another(
    desk: Desk, plain_jpeg: Path, out: Path, taken: str
) -> None:
    (out / taken).write_text("mine")
    with pytest.raises(OutputExistsError):
        attempt(desk, plain_jpeg, out / "a.jpg", prepared(plain_jpeg))
    assert [(path.name, path.read_text()) for path in out.iterdir()] == [(taken, "mine")]
    assert entries(desk.home) == 6


def test_a_folder_that_is_not_there_is_said(desk: Desk, plain_jpeg: Path, out: Path) -> None:
    with pytest.raises(UnwritableError):
        attempt(desk, plain_jpeg, out / "gone" / "a.jpg", prepared(plain_jpeg))
    assert list(out.iterdir()) == []


def test_a_name_as_long_as_names_get_is_signed_or_said(desk: Desk, plain_jpeg: Path, out: Path) -> None:
    longest = "\u6d77" * 81 + ".jpg"
    done = attempt(desk, plain_jpeg, out / longest, prepared(plain_jpeg))
    assert done.media.name == longest
    with pytest.raises(UnwritableError, match="too long"):
        attempt(desk, plain_jpeg, out / ("b" * 250 + ".jpg"), prepared(plain_jpeg))
    assert len(list(out.iterdir())) == 2


def test_a_device_claims_no_capture_of_what_has_a_past(plain_jpeg: Path) -> None:
    fresh = prepared(plain_jpeg)
    assert "digitalCapture" in captured(fresh)[0]
    for credentials in set(Credentials) - {Credentials.NONE}:
        with pytest.raises(AlreadySignedError):
            captured(dataclasses.replace(fresh, credentials=credentials))
    claim, parent = received(fresh)
    assert "digitalCapture" not in claim
    assert parent is not None
