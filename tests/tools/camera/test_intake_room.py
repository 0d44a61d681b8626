"""However many bodies are begun, they and their bytes stay within what the disk was meant to hold."""

from contextlib import ExitStack

import pytest

from tools.intake_room import CrowdedError, Room, RoomFullError, Space

SMALL = Space(bodies=3, of_one_device=2, size=1000)


def test_one_device_does_not_take_the_room_of_all() -> None:
    room = Room(SMALL)
    with ExitStack() as stack:
        for _ in range(2):
            stack.enter_context(room.taken("a", 10))
        with pytest.raises(CrowdedError), room.taken("a", 10):
            pass
        with room.taken("b", 10):
            pass
    with room.taken("a", 10):
        pass


def test_all_devices_together_have_an_end_in_number_and_in_bytes() -> None:
    room = Room(SMALL)
    with ExitStack() as stack:
        for name in "abc":
            stack.enter_context(room.taken(name, 1))
        with pytest.raises(RoomFullError), room.taken("d", 1):
            pass
    with room.taken("a", 600):
        with pytest.raises(RoomFullError), room.taken("b", 401):
            pass
        with room.taken("b", 400):
            pass
    with room.taken("a", 1000):
        pass


def test_room_is_free_again_whatever_ended_the_body() -> None:
    room = Room(SMALL)
    for _ in range(5):
        with pytest.raises(KeyError), room.taken("a", 1000):
            raise KeyError
