"""A token that dates a capture is one that the ledger took: none outlives a call that failed."""

import hashlib
import json
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from authn.timestamp import unverified
from storage.entry import Kind
from storage.receipt import Receipt
from tools.camera import queue
from tools.camera.folder import Camera
from tools.camera.inside import ADDRESS, inside
from tools.camera.take import camerawork
from tools.camera.upload import Delivered, Outcome, Uploader
from tools.home import Home
from tools.intake import Intake

Shoot = Callable[..., Path]


def now() -> datetime:
    return datetime.now(UTC)


@pytest.fixture
def waiting(camera: Camera, shoot: Shoot) -> queue.Waiting:
    with camerawork(camera, now) as work:
        return work.take(shoot())


@pytest.fixture
def intake(house: Home) -> Iterator[Intake]:
    with Intake(house, ADDRESS, now) as opened:
        yield opened


def hand_in(intake: Intake, camera: Camera) -> list[Delivered | Exception]:
    return list(Uploader(camera, inside(intake), now, lambda _: None).deliver())


def require_received(outcomes: list[Delivered | Exception]) -> Delivered:
    (outcome,) = outcomes
    assert isinstance(outcome, Delivered), outcome
    assert outcome.outcome is Outcome.RECEIVED, outcome
    return outcome


def kept(house: Home) -> list[bytes]:
    return [path.read_bytes() for path in (house.path / "tokens").rglob("*.tst")]


def aside(house: Home) -> list[bytes]:
    return [path.read_bytes() for path in (house.path / "tokens-aside").rglob("*.tst")]


def recorded(house: Home) -> list[str]:
    """The digests of the tokens in the ledger."""
    with house.ledger_to_read() as ledger:
        payloads = [ledger.payload(index) for index in range(ledger.size)
                    if ledger.entry(index).kind is Kind.TOKEN]  # fmt: skip
    return [json.loads(payload)["token"] for payload in payloads if payload]


def stated(token: bytes) -> datetime:
    return unverified.parse(token).statement.gen_time


def test_a_clock_behind_the_ledger_leaves_no_token_that_a_retry_could_hand_out(
    house: Home, camera: Camera, waiting: queue.Waiting
) -> None:
    head = (now() + timedelta(hours=2)).replace(microsecond=0)
    house.own.record(Kind.POLICY, {"change": "a test"}, head)
    with Intake(house, ADDRESS, now) as behind:
        (outcome,) = hand_in(behind, camera)
    assert not isinstance(outcome, Delivered) or outcome.outcome is not Outcome.RECEIVED
    assert "clock-unsafe" in str(outcome)
    assert (kept(house), aside(house), recorded(house)) == ([], [], [])
    with Intake(house, ADDRESS, lambda: now() + timedelta(hours=2, seconds=1)) as right:
        require_received(hand_in(right, camera))
    receipt = Receipt.parse(waiting.receipt.read_text())
    assert receipt.token is not None
    assert stated(receipt.token) >= head
    assert kept(house) == [receipt.token]
    assert not house.audit().findings


def test_a_token_that_the_ledger_did_not_take_is_thrown_away(
    house: Home, camera: Camera, intake: Intake, waiting: queue.Waiting
) -> None:
    """The call dies after the token, before the ledger: here for want of the log's key."""
    (key,) = (house.path / "keys").glob("log-*.pem")
    key.rename(key.with_suffix(".away"))
    (outcome,) = hand_in(intake, camera)
    assert not isinstance(outcome, Delivered) or outcome.outcome is not Outcome.RECEIVED
    assert (kept(house), recorded(house)) == ([], [])
    (old,) = aside(house)
    key.with_suffix(".away").rename(key)
    require_received(hand_in(intake, camera))
    (token,) = kept(house)
    assert token != old
    assert recorded(house) == [hashlib.sha256(token).hexdigest()]
    assert Receipt.parse(waiting.receipt.read_text()).token == token
    assert aside(house) == []


def test_a_token_that_the_ledger_took_is_the_one_that_a_retry_keeps(
    house: Home, camera: Camera, intake: Intake, waiting: queue.Waiting
) -> None:
    """The call dies after the ledger, before the token is kept: here for want of a place."""
    (house.path / "tokens").write_bytes(b"")
    (outcome,) = hand_in(intake, camera)
    assert not isinstance(outcome, Delivered) or outcome.outcome is not Outcome.RECEIVED
    (digest,) = recorded(house)
    before = house.audit().size
    (house.path / "tokens").unlink()
    require_received(hand_in(intake, camera))
    (token,) = kept(house)
    assert hashlib.sha256(token).hexdigest() == digest
    assert Receipt.parse(waiting.receipt.read_text()).token == token
    assert house.audit().size == before, "everything recorded follows from the capture"
    assert aside(house) == []
    assert not house.audit().findings
