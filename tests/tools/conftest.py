"""A home with a device, pictures signed in it, and the command as its users start it."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest

from tools.founding import create_home
from tools.home import Home
from tools.issuance.own import enrol
from tools.signing import sign_files

ROOT = Path(__file__).parents[2]
PROGRAM = "from tools.cli import main; main()"


def now() -> datetime:
    return datetime.now(UTC)


@pytest.fixture(scope="session")
def own_samples() -> Path:
    """The project's own pictures."""
    return ROOT / "tools" / "samples"


@pytest.fixture(scope="session")
def home(tmp_path_factory: pytest.TempPathFactory) -> Home:
    """A home with the device `cam`; tests add to its ledger."""
    made = create_home(
        tmp_path_factory.mktemp("home") / "home", "Test Newsroom", "http://localhost:8461/ocsp/", now()
    )
    enrol(made, "cam", "Test Camera", now())
    return made


@pytest.fixture
def fresh_home(tmp_path: Path) -> Home:
    """A home of its own for a test that harms it."""
    made = create_home(tmp_path / "home", "Fresh Newsroom", "http://localhost:8461/ocsp/", now())
    enrol(made, "cam", "Fresh Camera", now())
    return made


@pytest.fixture(scope="session")
def signed(home: Home, own_samples: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """harbour.jpg, signed by `cam`, with its receipt beside it."""
    folder = tmp_path_factory.mktemp("signed")
    (line,) = sign_files(home, [own_samples / "harbour.jpg"], folder, "cam", now, timed=True)
    assert isinstance(line, str), line
    return folder / "harbour.jpg"


@pytest.fixture(scope="session")
def other_signed(home: Home, own_samples: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """street.jpg, signed by `cam`."""
    folder = tmp_path_factory.mktemp("other")
    (line,) = sign_files(home, [own_samples / "street.jpg"], folder, "cam", now, timed=True)
    assert isinstance(line, str), line
    return folder / "street.jpg"


@pytest.fixture(scope="session")
def altered(signed: Path) -> Path:
    """The signed picture with one bit of its scan data changed."""
    content = bytearray(signed.read_bytes())
    content[-2000] ^= 1
    path = signed.with_name("altered.jpg")
    path.write_bytes(content)
    return path


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """What the command sees of the machine: no home of the person who runs the tests."""
    kept = {name: os.environ[name] for name in ("PATH", "LANG", "LD_LIBRARY_PATH") if name in os.environ}
    return {**kept, "HOME": str(tmp_path), "PYTHONPATH": str(ROOT)}


Command = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def lightseal(environment: dict[str, str], tmp_path: Path) -> Command:
    """The command in a process of its own, started in `tmp_path`; `home` is any home or none."""

    def run(
        *arguments: object, home: Home | None = None, **options: object
    ) -> subprocess.CompletedProcess[str]:
        chosen = ["--home", str(home.path)] if home else []
        command = [
            sys.executable,
            "-W",
            "error",
            "-c",
            PROGRAM,
            *chosen,
            *map(os.fspath, map(_plain, arguments)),
        ]
        settings: dict[str, object] = {
            "cwd": tmp_path,
            "env": environment,
            "capture_output": True,
            "text": True,
            "errors": "surrogateescape",
            "timeout": 120,
            **options,
        }
        return subprocess.run(command, check=False, **settings)  # type: ignore[call-overload,no-any-return]

    return run


def _plain(argument: object) -> str | Path:
    return argument if isinstance(argument, str | Path) else str(argument)


@pytest.fixture
def plain_jpeg(own_samples: Path, tmp_path: Path) -> Path:
    """A copy of a picture that was never signed."""
    return Path(shutil.copy(own_samples / "hills.jpg", tmp_path / "plain.jpg"))
