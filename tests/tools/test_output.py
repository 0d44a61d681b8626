"""A secret of a home is made once, whole, and never replaced once something was made with it."""

import os
import stat
import threading
from pathlib import Path

import pytest

from tools.errors import HomeDamagedError, UnwritableError
from tools.output import made_once


def test_every_caller_gets_the_same_secret_and_nobody_else_may_read_it(tmp_path: Path) -> None:
    place, found = tmp_path / "a.secret", []

    def ask() -> None:
        found.append(made_once(place, 32))

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(found) == {place.read_bytes()}
    assert len(found) == 8
    assert len(place.read_bytes()) == 32
    assert stat.S_IMODE(place.stat().st_mode) == 0o600
    assert [each.name for each in tmp_path.iterdir()] == ["a.secret"]
    assert made_once(tmp_path / "b.secret", 32) != made_once(place, 32)


def test_an_empty_secret_that_a_crash_left_is_made_and_not_used(tmp_path: Path) -> None:
    place = tmp_path / "a.secret"
    place.touch()
    made = made_once(place, 32)
    assert len(made) == 32
    assert made_once(place, 32) == made


@pytest.mark.parametrize("length", [1, 31, 33, 5000])
def test_a_secret_of_another_length_is_damage_and_stays_as_it_is(tmp_path: Path, length: int) -> None:
    place = tmp_path / "a.secret"
    place.write_bytes(bytes(length))
    with pytest.raises(HomeDamagedError):
        made_once(place, 32)
    assert place.read_bytes() == bytes(length)


def test_a_pipe_or_a_missing_folder_in_the_place_of_a_secret_is_said(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(HomeDamagedError):
        made_once(tmp_path / "pipe", 32)
    with pytest.raises(UnwritableError):
        made_once(tmp_path / "nowhere" / "a.secret", 32)
