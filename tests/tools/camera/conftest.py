"""A home with a device, its camera, and pictures as a camera would write them."""

import io
import random
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest
from PIL import Image

from tools.camera.folder import Camera
from tools.camera.home_device import camera_of
from tools.founding import create_home
from tools.home import Home
from tools.issuance.own import enrol


def now() -> datetime:
    return datetime.now(UTC)


@pytest.fixture
def house(tmp_path: Path) -> Home:
    """A home with the device `cam`."""
    made = create_home(tmp_path / "home", "Field Newsroom", "http://localhost:8461/ocsp/", now())
    enrol(made, "cam", "Field Camera", now())
    return made


@pytest.fixture
def camera(house: Home) -> Camera:
    return camera_of(house, "cam")


Shoot = Callable[..., Path]


@pytest.fixture
def shoot(tmp_path: Path) -> Shoot:
    """Writes a small picture that no other call writes, or the one of that seed."""
    card = tmp_path / "card"
    card.mkdir()
    count = iter(range(1_000_000))

    def picture(name: str | None = None, seed: int | None = None) -> Path:
        number = next(count)
        path = card / (name or f"DSC_{number:04}.jpg")
        dice = random.Random(seed if seed is not None else number)  # noqa: S311 - a picture, not a secret
        image = Image.frombytes("RGB", (48, 32), dice.randbytes(48 * 32 * 3))
        out = io.BytesIO()
        image.save(out, "JPEG", quality=80)
        path.write_bytes(out.getvalue())
        return path

    return picture
