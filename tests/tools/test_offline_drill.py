"""The drill: twenty photographs without a network, one tampered with, one deleted, and then everything handed in."""

import contextlib
import os
import shutil
import socket
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from PIL import Image, ImageDraw

from tools.camera.folder import Camera, create_camera, read_camera
from tools.check import Chosen, beliefs, check_files
from tools.cli_capture import capture, captures, upload
from tools.founding import create_home
from tools.home import Home
from tools.issuance.own import enrol
from tools.verdict import Headline

ROOT = Path(__file__).parents[2]
TAMPERED, DELETED = 12, 7

_SERVER = """
import sys
from datetime import UTC, datetime
from pathlib import Path
from tools.home import open_home
from tools.intake_app import intake_service
from tools.serving import serve
with intake_service(open_home(Path(sys.argv[1])), None, lambda: datetime.now(UTC)) as app:
    serve(app, "127.0.0.1", int(sys.argv[2]), print)
"""


def now() -> datetime:
    return datetime.now(UTC)


@contextlib.contextmanager
def network(home: Home, port: int) -> Iterator[None]:
    """The service can be reached as long as the block lasts."""
    command = [sys.executable, "-W", "error", "-c", _SERVER, str(home.path), str(port)]
    with subprocess.Popen(
        command, env={**os.environ, "PYTHONPATH": str(ROOT)}, stdout=subprocess.PIPE
    ) as server:
        assert server.stdout is not None
        assert server.stdout.readline().startswith(b"http://")
        try:
            yield
        finally:
            server.terminate()


@pytest.fixture
def port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


@pytest.fixture
def newsroom(tmp_path: Path) -> Home:
    made = create_home(tmp_path / "newsroom", "Newsroom", "http://localhost:8461/ocsp/", now())
    enrol(made, "field-3", "Field Camera", now())
    return made


@pytest.fixture
def field(newsroom: Home, port: int, tmp_path: Path) -> Path:
    """The folder of the device, as it lies on the device."""
    device, own = newsroom.device("field-3"), newsroom.path / "devices" / "field-3"
    folder = tmp_path / "field"
    camera = Camera(
        folder,
        "field-3",
        "file:key.pem",
        device.salt,
        "standard",
        f"http://127.0.0.1:{port}",
        newsroom.own.keys,
    )
    create_camera(camera, (own / "chain.pem").read_bytes(), [("key.pem", (own / "key.pem").read_bytes())])
    assert read_camera(folder) == camera
    return folder


@pytest.fixture
def photographs(tmp_path: Path) -> list[Path]:
    card = tmp_path / "card"
    card.mkdir()
    paths = []
    for number in range(1, 21):
        image = Image.radial_gradient("L").resize((320, 240)).convert("RGB")
        ImageDraw.Draw(image).text((20, 20), f"photograph {number}")
        paths.append(card / f"DSC_{number:04}.JPG")
        image.save(paths[-1], "JPEG")
    return paths


def run(command: object, *arguments: object, home: Home | None = None) -> Result:
    """A command as its user starts it, but in this process."""
    found = CliRunner().invoke(
        command, [str(each) for each in arguments], obj=None if home is None else home.path
    )  # type: ignore[arg-type]
    assert found.exception is None or isinstance(found.exception, SystemExit), found.exception
    return found


def test_eighteen_are_intact_with_windows_one_is_changed_and_one_gap_is_named(
    newsroom: Home, field: Path, port: int, photographs: list[Path]
) -> None:
    # Before the journey: the device is shown a checkpoint.
    with network(newsroom, port):
        assert run(upload, "--folder", field).exit_code == 0
    departed = now()

    # Weeks without a network.
    taken = run(capture, *photographs, "--folder", field, "--offline")
    assert taken.exit_code == 0, taken.output
    queue = field / "queue"
    assert len(list(queue.iterdir())) == 20

    # Somebody tampers with one, and deletes one.
    victim = queue / f"{TAMPERED:016}" / f"DSC_{TAMPERED:04}.JPG"
    content = bytearray(victim.read_bytes())
    content[-300] ^= 0x40
    victim.write_bytes(content)
    shutil.rmtree(queue / f"{DELETED:016}")

    # Back in the network.
    with network(newsroom, port):
        handed = run(upload, "--folder", field)
        again = run(upload, "--folder", field)
    assert handed.exit_code == 1, "something was not what it was"
    lines = handed.output.splitlines()
    assert sum("received" in line for line in lines) == 18, handed.output
    assert [line for line in lines if "CHANGED" in line] == [
        line for line in lines if line.startswith(f"capture {TAMPERED} CHANGED")
    ]
    assert [line for line in lines if "missing" in line] == [
        f"missing before capture {DELETED + 1}: {DELETED}"
    ]
    assert (again.exit_code, again.output) == (0, ""), "nothing waits any more"

    # What anybody who has the newsroom's lists finds in the files.
    files = sorted(queue.rglob("*.JPG"))
    with beliefs(newsroom, Chosen(), now()) as held:
        reports = {Path(report.file): report for report, _ in check_files(map(str, files), held, None)}
    found = Counter(report.verdict.headline for report in reports.values())
    assert found == {Headline.INTACT_SIGNER_RECOGNISED: 18, Headline.CHANGED_AFTER_SIGNING: 1}
    assert reports[victim].verdict.headline is Headline.CHANGED_AFTER_SIGNING
    for path, report in reports.items():
        if path == victim:
            continue
        assert path.with_name(f"{path.name}.receipt").exists()
        assert report.verdict.provenance is not None
        window = report.verdict.provenance.time
        assert window.not_before is not None, "the checkpoint of the departure"
        assert window.not_after is not None, "the token of the return"
        assert window.not_before <= departed <= window.not_after

    # What the newsroom sees of the device.
    chain = run(captures, "field-3", home=newsroom)
    assert chain.exit_code == 0
    assert [line for line in chain.output.splitlines() if "MISSING" in line] == [
        f"{DELETED}\tMISSING: never handed in"
    ]
    assert "19 captures received, 1 missing, 0 forks" in chain.output.splitlines()[0]
    assert not newsroom.audit().findings
