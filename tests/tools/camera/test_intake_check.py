"""What a worker says of a capture that was handed in late."""

from datetime import UTC, datetime, timedelta

from tools.camera.folder import Camera
from tools.camera.take import camerawork
from tools.examine import Policy
from tools.home import Home
from tools.intake_check import Checked, Handed, Upload, start


def now() -> datetime:
    return datetime.now(UTC)


def test_a_capture_whose_certificate_ended_on_the_way_is_recorded_all_the_same(
    house: Home, camera: Camera, shoot
) -> None:
    """The flaw would be to lose what a device captured where no network was for longer than a certificate lives."""
    with camerawork(camera, now) as work:
        taken = work.take(shoot())
    late = now() + timedelta(days=400)
    check = start(Policy(house.own_lists(), late))
    found = check(Upload(str(taken.media), Handed.WHOLE, "image/jpeg", late))
    assert isinstance(found, Checked), found
