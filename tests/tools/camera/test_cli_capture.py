"""The commands of a capturer: what they print, how they end, and that a watched folder is captured as it fills."""

import http.server
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from storage.registry.rows import Status
from tools.camera import queue
from tools.camera.folder import Camera, update_camera
from tools.cli import sign
from tools.cli_capture import capture, captures, upload
from tools.errors import UsageError
from tools.home import Home

ROOT = Path(__file__).parents[3]
Shoot = Callable[..., Path]
_WATCHER = """
import sys
from pathlib import Path
from tools.cli_capture import capture
capture.main(sys.argv[2:], obj=Path(sys.argv[1]))
"""


def run(home: Home, command: object, *arguments: object) -> Result:
    return CliRunner().invoke(command, [str(each) for each in arguments], obj=home.path)  # type: ignore[arg-type]


def received(camera: Camera) -> list[queue.Waiting]:
    found = [each for each in queue.queued(camera) if isinstance(each, queue.Waiting)]
    return [each for each in found if each.receipt.exists()]


def test_capture_signs_and_hands_in_to_its_own_home(house: Home, camera: Camera, shoot: Shoot) -> None:
    first, second = shoot(), shoot()
    said = run(house, capture, first, second, "--device", "cam")
    assert said.exit_code == 0, said.output
    lines = said.output.splitlines()
    assert lines[0].startswith(f"{first} -> ")
    assert [line.split(",")[0] for line in lines[2:]] == ["capture 1 received", "capture 2 received"]
    assert len(received(camera)) == 2
    shown = run(house, captures, "cam").output.splitlines()
    assert shown[0] == "cam\tactive\t2 captures received, 0 missing, 0 forks"
    assert [line.split("\t")[0] for line in shown[1:3]] == ["1", "2"]
    assert shown[-1] == "after the last capture: nobody here knows whether there are more"


def test_one_bad_file_keeps_nobody_else_from_being_captured(
    house: Home, camera: Camera, shoot: Shoot
) -> None:
    bad, good = shoot(), shoot()
    bad.write_bytes(b"no picture")
    said = run(house, capture, bad, good, "--device", "cam")
    assert said.exit_code == 1
    assert f"error[media-type-unknown]: {bad}" in said.output
    assert "  next: " in said.output
    assert [each.opening.counter for each in received(camera)] == [1]


def test_bytes_after_the_picture_are_refused_with_advice_that_can_be_taken(
    house: Home, camera: Camera, shoot: Shoot
) -> None:
    tailed = shoot()
    tailed.write_bytes(tailed.read_bytes() + b"more")
    said = run(house, capture, tailed, "--device", "cam")
    assert (said.exit_code, received(camera)) == (1, [])
    assert "error[media-trailing-bytes]" in said.output
    (advised,) = re.findall(r"'lightseal (\w+) (--[a-z-]+)'", said.output)
    assert advised == ("sign", "--with-trailing-bytes")
    assert any("--with-trailing-bytes" in each.opts for each in sign.params)
    assert not any("--with-trailing-bytes" in each.opts for each in capture.params)


def test_offline_asks_nobody_and_upload_hands_in_later(house: Home, camera: Camera, shoot: Shoot) -> None:
    said = run(house, capture, shoot(), "--device", "cam", "--offline")
    assert said.exit_code == 0, said.output
    assert received(camera) == []
    said = run(house, upload, "--device", "cam", "--hash-only")
    assert (said.exit_code, len(received(camera))) == (0, 1), said.output


def test_the_device_is_named_once_and_so_are_the_files(house: Home, shoot: Shoot, tmp_path: Path) -> None:
    wrong = [
        (capture, (shoot(),)),
        (capture, ("--device", "cam")),
        (capture, (shoot(), "--watch", tmp_path, "--device", "cam")),
        (upload, ("--device", "cam", "--folder", tmp_path)),
        (upload, ()),
    ]
    for command, arguments in wrong:
        assert isinstance(run(house, command, *arguments).exception, UsageError)


def test_a_revoked_device_is_told_so_and_captures_no_more(house: Home, shoot: Shoot) -> None:
    assert run(house, capture, shoot(), "--device", "cam", "--offline").exit_code == 0
    with house.registry() as registry:
        registry.set_status("cam", Status.REVOKED, datetime.now(UTC), "a test")
    for command in (upload, capture):
        said = run(house, command, *([shoot()] if command is capture else []), "--device", "cam")
        assert getattr(said.exception, "code", None) == "device-stopped", said


def test_a_gap_is_shown_by_its_number(house: Home, camera: Camera, shoot: Shoot) -> None:
    assert run(house, capture, *(shoot() for _ in range(4)), "--device", "cam", "--offline").exit_code == 0
    for number in (2, 3):
        place = queue.place_of(camera, number)
        place.rename(place.with_name(f"lost-{number}"))
    said = run(house, upload, "--device", "cam")
    assert "missing before capture 4: 2 to 3" in said.output
    shown = run(house, captures, "cam").output.splitlines()
    assert shown[0] == "cam\tactive\t2 captures received, 2 missing, 0 forks"
    assert shown[2] == "2-3\tMISSING: never handed in"


class Hotel(http.server.BaseHTTPRequestHandler):
    """A network that answers everything itself, and wants a log-in first."""

    def do_GET(self) -> None:
        body = b"<html>Welcome to the hotel's network"
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_POST = do_GET  # noqa: N815 - the library's name

    def log_message(self, *_: object) -> None:
        """Says nothing."""


@pytest.fixture
def hotel(camera: Camera) -> Iterator[Path]:
    """The camera's folder, in such a network."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hotel) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        service = f"http://127.0.0.1:{server.server_port}"
        update_camera(replace(camera, service=service), (camera.path / camera.chain).read_bytes())
        yield camera.path
        server.shutdown()
        thread.join()


def test_a_network_that_wants_a_log_in_keeps_nobody_from_capturing(
    house: Home, hotel: Path, camera: Camera, shoot: Shoot
) -> None:
    said = run(house, capture, shoot(), shoot(), "--folder", hotel)
    assert getattr(said.exception, "code", None) == "service-answer"
    found = [each for each in queue.queued(camera) if isinstance(each, queue.Waiting)]
    assert [(each.opening.counter, each.settled) for each in found] == [(1, False), (2, False)]


def test_a_network_that_wants_a_log_in_does_not_end_a_watch(
    house: Home, hotel: Path, camera: Camera, shoot: Shoot
) -> None:
    first = shoot()
    command = [sys.executable, "-c", _WATCHER, str(house.path), "--watch", str(first.parent)]
    watcher = subprocess.Popen(
        [*command, "--settle", "0.2", "--folder", str(hotel)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    for count in (1, 2):
        deadline = time.monotonic() + 30
        while len(list(queue.queued(camera))) < count and time.monotonic() < deadline:
            time.sleep(0.05)
        assert watcher.poll() is None
        shoot()
    watcher.send_signal(signal.SIGTERM)
    watcher.wait(20)
    assert len(list(queue.queued(camera))) >= 2


@pytest.mark.parametrize("kill", [signal.SIGTERM, signal.SIGKILL])
def test_a_watched_folder_is_captured_as_it_fills_and_never_twice(
    house: Home, camera: Camera, shoot: Shoot, kill: signal.Signals, tmp_path: Path
) -> None:
    first = shoot("DSC_0001.jpg", seed=1)
    first.with_name("link.jpg").symlink_to(first)
    first.with_name("empty.jpg").touch()
    command = [sys.executable, "-c", _WATCHER, str(house.path)]
    options = ["--watch", str(first.parent), "--settle", "0.2", "--device", "cam"]

    def watch_until(count: int) -> None:
        with (tmp_path / "said").open("w") as errors:
            watcher = subprocess.Popen(
                [*command, *options],
                env={**os.environ, "PYTHONPATH": str(ROOT)},
                stdout=subprocess.DEVNULL,
                stderr=errors,
            )
        deadline = time.monotonic() + 30
        while len(received(camera)) < count and time.monotonic() < deadline:
            time.sleep(0.05)
        watcher.send_signal(kill)
        watcher.wait(20)
        said = [line for line in (tmp_path / "said").read_text().splitlines() if "passed over" in line]
        folder = first.parent
        assert said == [
            f"{folder / 'empty.jpg'} is passed over: it is empty",
            f"{folder / 'link.jpg'} is passed over: a link is not followed",
        ]

    watch_until(1)
    shoot("DSC_0001.jpg", seed=2)  # the card was formatted, and the camera counts from the beginning
    shoot("DSC_0002.jpg", seed=3)
    half = shoot("DSC_0003.jpg", seed=4)
    half.write_bytes(half.read_bytes()[:-100])
    watch_until(3)
    found = received(camera)
    assert [each.opening.counter for each in found] == [1, 2, 3]
    assert sorted(each.file for each in found) == ["DSC_0001.jpg", "DSC_0001.jpg", "DSC_0002.jpg"]
