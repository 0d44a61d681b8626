"""What is said of a chain whose first capture names no predecessor, and whose number says that it may have had some."""

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import pytest

from tools.camera import queue
from tools.camera.folder import Camera
from tools.camera.inside import ADDRESS, inside
from tools.camera.take import camerawork
from tools.camera.upload import Delivered, Outcome, Uploader
from tools.captures import describe
from tools.check import Chosen, beliefs, check_files
from tools.home import Home
from tools.intake import Intake

Shoot = Callable[..., Path]


@dataclass
class Hardware:
    """A counter that only goes up, whatever is deleted beside it."""

    value: int = 0

    def read(self) -> int:
        return self.value

    def advance(self) -> int:
        self.value += 1
        return self.value


def now() -> datetime:
    return datetime.now(UTC)


def taken(camera: Camera, shoot: Shoot, hardware: Hardware, count: int) -> list[queue.Waiting]:
    with camerawork(camera, now, counter=hardware) as work:
        return [work.take(shoot()) for _ in range(count)]


def handed_in(house: Home, camera: Camera) -> None:
    with Intake(house, ADDRESS, now) as intake:
        found = list(Uploader(camera, inside(intake), now, lambda _: None).deliver())
    assert all(isinstance(each, Delivered) and each.outcome is Outcome.RECEIVED for each in found), found


def place_of(house: Home, waiting: queue.Waiting) -> str | None:
    with beliefs(house, Chosen(), now()) as held:
        ((report, _),) = check_files([str(waiting.media)], held, None)
    return report.verdict.recorded.place


@pytest.mark.parametrize("kept", [0, 2])
def test_captures_that_were_deleted_with_the_chain_before_the_first_that_arrived_are_not_said_to_be_none(
    house: Home, camera: Camera, shoot: Shoot, kept: int
) -> None:
    """Queue and state are deleted on a device whose TPM counts on; nothing of before was handed in."""
    hardware = Hardware()
    assert [each.opening.counter for each in taken(camera, shoot, hardware, 4)] == [1, 2, 3, 4]
    shutil.rmtree(camera.path / "queue")
    shutil.rmtree(camera.path / "chain")
    fifth, *more = taken(camera, shoot, hardware, 1 + kept)
    assert fifth.opening.counter == 5
    handed_in(house, camera)
    said = "the chain begins with capture 5; whether there were earlier ones nobody here knows"
    with house.registry() as registry:
        shown = list(describe(registry, "cam"))
    assert shown[1] == said
    assert [line.split("\t")[0] for line in shown[2:-1]] == [str(number) for number in range(5, 6 + kept)]
    for waiting in (fifth, *more):
        assert (place_of(house, waiting) or "").endswith(f"by the registry of this home; {said}")


def test_a_chain_that_begins_with_1_is_said_nothing_of(house: Home, camera: Camera, shoot: Shoot) -> None:
    first, *_ = taken(camera, shoot, Hardware(), 2)
    handed_in(house, camera)
    with house.registry() as registry:
        shown = list(describe(registry, "cam"))
    assert not any("begins" in line for line in shown)
    assert "begins" not in (place_of(house, first) or "begins")


def test_captures_that_are_known_to_be_missing_at_the_beginning_are_missing(
    house: Home, camera: Camera, shoot: Shoot
) -> None:
    """The first that arrived names a predecessor: then it is known that there was one."""
    first, second = taken(camera, shoot, Hardware(), 2)
    shutil.rmtree(first.folder)
    handed_in(house, camera)
    with house.registry() as registry:
        shown = list(describe(registry, "cam"))
    assert "1 missing" in shown[0]
    assert shown[1] == "1\tMISSING: never handed in"
    assert "begins" not in (place_of(house, second) or "begins")
