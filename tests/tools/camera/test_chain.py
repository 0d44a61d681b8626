"""No number is given twice, whatever ends the process, and no link is lost."""

import itertools
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from authn.capture_chain import FIRST, Link, Opening
from tools.camera.chain import Chain, State, held
from tools.camera.folder import Camera, CameraDamagedError

ROOT = Path(__file__).parents[3]


@dataclass
class Hardware:
    """A counter that only goes up, and may die before or after it counted."""

    value: int = 600
    dies_before: bool = False

    def read(self) -> int:
        return self.value

    def advance(self) -> int:
        if self.dies_before:
            raise SystemExit
        self.value += 1
        return self.value


@pytest.fixture
def lone(tmp_path: Path) -> Camera:
    folder = tmp_path / "camera"
    folder.mkdir(mode=0o700)
    return Camera(folder, "cam", "file:key.pem", bytes(32))


def begun(chain: Chain, media: bytes) -> Opening:
    return chain.begin(media, "", os.urandom(32), "x.jpg", None).opening


def test_each_link_names_the_one_before(lone: Camera) -> None:
    openings = []
    for number in range(1, 6):
        with held(lone) as chain:
            pending = chain.begin(bytes([number]) * 32, f"note {number}", os.urandom(32), "x.jpg", None)
            chain.end(pending)
            openings.append(pending.opening)
    head = FIRST
    for number, opening in enumerate(openings, 1):
        assert (opening.counter, opening.previous) == (number, head)
        head = Link(head, number, bytes([number]) * 32, f"note {number}").digest
    with held(lone) as chain:
        assert chain.state == State(5, head)
        assert chain.taken() == {bytes([number]) * 32 for number in range(1, 6)}


def test_what_was_begun_is_found_as_it_was_and_nothing_else_gets_its_number(lone: Camera) -> None:
    with held(lone) as chain:
        opening = begun(chain, b"a" * 32)
    with held(lone) as chain:  # the process died in between
        pending = chain.resume()
        assert pending is not None
        assert pending.opening == opening
        chain.void(pending)  # it could not be finished: the number stays unused
        assert begun(chain, b"b" * 32).counter == 2
        assert chain.taken() == frozenset(), "a file that was never captured may be captured yet"


def test_a_number_whose_signature_nobody_got_is_given_again(lone: Camera) -> None:
    with held(lone) as chain:
        pending = chain.begin(b"a" * 32, "", bytes(32), "x.jpg", None)
        chain.give_up(pending)
        again = begun(chain, b"b" * 32)
        assert (again.counter, again.previous) == (1, FIRST)


def test_hardware_decides_the_number(lone: Camera) -> None:
    hardware = Hardware()
    with held(lone, hardware) as chain:
        pending = chain.begin(b"a" * 32, "", bytes(32), "x.jpg", None)
        assert pending.opening.counter == hardware.value == 601
        chain.end(pending)
    hardware.value += 3  # something else counted, or the folder was put back from a copy
    with held(lone, hardware) as chain:
        assert begun(chain, b"b" * 32).counter == 605


def test_hardware_that_died_before_it_counted_counts_when_the_capture_is_taken_up_again(lone: Camera) -> None:
    hardware = Hardware(dies_before=True)
    with pytest.raises(SystemExit), held(lone, hardware) as chain:
        begun(chain, b"a" * 32)
    hardware.dies_before = False
    with held(lone, hardware) as chain:
        pending = chain.resume()
        assert pending is not None
        assert pending.opening.counter == 601 == hardware.value
        chain.give_up(pending)
        assert chain.state.pending == pending, "what hardware counted is not taken back"


def test_a_number_that_hardware_gave_to_something_else_is_not_used(lone: Camera) -> None:
    hardware = Hardware()
    with held(lone, hardware) as chain:
        begun(chain, b"a" * 32)
    hardware.value += 1
    with held(lone, hardware) as chain:
        assert chain.resume() is None
        assert begun(chain, b"b" * 32).counter == 603


def test_a_folder_put_back_from_a_copy_does_not_put_hardware_back(lone: Camera) -> None:
    hardware, state = Hardware(), lone.path / "chain" / "state.json"
    with held(lone, hardware) as chain:
        chain.end(chain.begin(b"a" * 32, "", bytes(32), "x.jpg", None))
    copy = state.read_bytes()
    with held(lone, hardware) as chain:
        chain.end(chain.begin(b"b" * 32, "", bytes(32), "x.jpg", None))
    state.write_bytes(copy)
    with held(lone, hardware) as chain:
        assert begun(chain, b"c" * 32).counter == 603


@pytest.mark.parametrize("damage", [b"", b"{}", b"[]", b"\xff", b'{"schema": "lightseal-chain/2"}'])
def test_a_damaged_state_is_an_error_and_never_a_new_beginning(lone: Camera, damage: bytes) -> None:
    with held(lone) as chain:
        begun(chain, b"a" * 32)
    (lone.path / "chain" / "state.json").write_bytes(damage)
    with pytest.raises(CameraDamagedError), held(lone):
        pass


def test_eight_threads_and_one_chain(lone: Camera) -> None:
    openings: list[Opening] = []

    def work(name: int) -> None:
        for number in range(10):
            with held(lone) as chain:
                pending = chain.begin(bytes([name, number]) * 16, "", os.urandom(32), "x.jpg", None)
                openings.append(pending.opening)
                chain.end(pending)

    threads = [threading.Thread(target=work, args=(name,)) for name in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [each.counter for each in openings] == list(range(1, 81))
    assert all(later.previous == earlier.link for earlier, later in itertools.pairwise(openings))


_WORKER = """
import os, sys
from pathlib import Path
from tools.camera.chain import held
from tools.camera.folder import Camera
camera = Camera(Path(sys.argv[1]), "cam", "file:key.pem", bytes(32))
out = os.open(sys.argv[2], os.O_WRONLY | os.O_APPEND)
while True:
    with held(camera) as chain:
        pending = chain.resume()
        if pending is not None:
            chain.end(pending)
        pending = chain.begin(os.urandom(32), "", os.urandom(32), "x.jpg", None)
        opening = pending.opening
        os.write(out, f"{opening.counter} {opening.previous.hex()} {opening.link.hex()}\\n".encode())
        chain.end(pending)
"""


def test_no_number_is_given_twice_when_the_process_is_killed(lone: Camera, tmp_path: Path) -> None:
    """Every line is a number that left the chain; a killed process may lose one, and none may come again."""
    record = tmp_path / "record"
    record.touch()
    for round_ in range(10):
        worker = subprocess.Popen(
            [sys.executable, "-c", _WORKER, str(lone.path), str(record)], env={"PYTHONPATH": str(ROOT)}
        )
        before = record.stat().st_size
        while record.stat().st_size == before:
            assert worker.poll() is None, "the worker ended by itself"
            time.sleep(0.002)
        time.sleep(0.003 * round_)
        worker.send_signal(signal.SIGKILL)
        worker.wait()
    lines = [line.split() for line in record.read_text().splitlines()]
    numbers = [int(line[0]) for line in lines]
    assert len(set(numbers)) == len(numbers) >= 10
    assert numbers == sorted(numbers)
    for earlier, later in itertools.pairwise(lines):
        if int(later[0]) == int(earlier[0]) + 1:
            assert later[1] == earlier[2], "the chain goes on from the link that was given"
