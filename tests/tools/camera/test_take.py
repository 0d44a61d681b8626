"""A capture is signed once, whole, by the device itself, for a file without a past; nothing is lost or doubled."""

import dataclasses
import hashlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from authn.capture_chain import FIRST
from authn.device import Device
from authn.errors import KeyGoneError
from authn.evidence import Content, Credentials, Signature
from authn.keys import SigningKey
from authn.manifest import Sdk
from authn.media import Media
from authn.verify import verify_media
from tools.camera import queue
from tools.camera.chain import held
from tools.camera.folder import CHECKPOINT, Camera, PoolEmptyError
from tools.camera.take import (
    STOPPED,
    AlreadyTakenError,
    Camerawork,
    DeviceStoppedError,
    camerawork,
)
from tools.errors import AlreadySignedError, CertificateOverError, MediaRefusedError
from tools.examine import Policy
from tools.home import Home
from tools.issuance.client import renew
from tools.issuance.desk import own_desk

ROOT = Path(__file__).parents[3]
Shoot = Callable[..., Path]


def now() -> datetime:
    return datetime.now(UTC)


@pytest.fixture
def work(camera: Camera) -> Iterator[Camerawork]:
    with camerawork(camera, now) as opened:
        yield opened


def waiting(camera: Camera) -> list[queue.Waiting]:
    found = list(queue.queued(camera))
    assert all(isinstance(each, queue.Waiting) for each in found), found
    return [each for each in found if isinstance(each, queue.Waiting)]


def require_whole(house: Home, camera: Camera) -> None:
    """Every capture of the queue is intact, by the device, and the chain of all of them is unbroken."""
    head, last, lists = FIRST, 0, Policy(house.own_lists(), now()).lists()
    with Sdk() as sdk:
        for each in waiting(camera):
            with each.media.open("rb") as stream:
                found = verify_media(Media.of(stream, each.file, 1 << 30), sdk, lists, now())
            assert (found.credentials, found.content) == (Credentials.PRESENT, Content.INTACT)
            assert found.signature is Signature.VALID
            assert found.capture == each.opening.statement
            assert found.identity is not None
            assert found.identity.claim == each.claim
            assert found.claims.actions == ("c2pa.created",)
            assert found.claims.source_types == ("digitalCapture",)
            assert found.claims.claimed_at is None, "the device's clock is not written"
            assert each.opening.counter > last
            if each.opening.counter == last + 1:
                assert each.opening.previous == head
            head, last = each.opening.link, each.opening.counter


def test_captures_form_a_chain_and_say_only_that_they_were_captured(
    house: Home, camera: Camera, work: Camerawork, shoot: Shoot
) -> None:
    sources = [shoot() for _ in range(3)]
    (camera.path / CHECKPOINT).write_text("a note\n")
    taken = [work.take(source) for source in sources]
    assert [each.opening.counter for each in taken] == [1, 2, 3]
    assert waiting(camera) == taken
    for source, each in zip(sources, taken, strict=True):
        assert each.opening.media == hashlib.sha256(source.read_bytes()).digest()
        assert each.opening.checkpoint == "a note\n"
        assert each.media.stat().st_mode & 0o077 == 0
    require_whole(house, camera)


def test_the_same_file_is_taken_once_and_another_of_its_name_again(
    work: Camerawork, camera: Camera, shoot: Shoot
) -> None:
    first = work.take(shoot("DSC_0001.jpg", seed=1))
    with pytest.raises(AlreadyTakenError):
        work.take(shoot("DSC_0001.jpg", seed=1))
    second = work.take(shoot("DSC_0001.jpg", seed=2))
    assert first.file == second.file == "DSC_0001.jpg"
    assert first.folder != second.folder
    shutil.rmtree(first.folder)
    with pytest.raises(AlreadyTakenError):
        work.take(shoot("DSC_0001.jpg", seed=1))
    assert [each.opening.counter for each in waiting(camera)] == [2]


def test_a_file_with_a_past_is_no_capture(work: Camerawork, shoot: Shoot) -> None:
    signed = work.take(shoot())
    with pytest.raises(AlreadySignedError):
        work.take(signed.media)
    assert work.take(shoot()).opening.counter == 2, "no number was spent on it"


@pytest.mark.parametrize(
    ("cut", "code"), [(0, "media-empty"), (30, "media-truncated"), (-20, "media-truncated")]
)
def test_what_is_not_whole_is_not_captured(
    work: Camerawork, camera: Camera, shoot: Shoot, cut: int, code: str
) -> None:
    source = shoot()
    source.write_bytes(source.read_bytes()[:cut])
    with pytest.raises(MediaRefusedError) as caught:
        work.take(source)
    assert caught.value.code == code
    assert waiting(camera) == []
    assert work.take(shoot()).opening.counter == 1


def test_a_device_that_was_told_to_stop_stops(work: Camerawork, camera: Camera, shoot: Shoot) -> None:
    (camera.path / STOPPED).write_text("{}")
    with pytest.raises(DeviceStoppedError):
        work.take(shoot())


def test_no_capture_is_made_under_a_certificate_that_is_over(camera: Camera, shoot: Shoot) -> None:
    with camerawork(camera, lambda: now() + timedelta(days=400)) as late, pytest.raises(CertificateOverError):
        late.take(shoot())
    with held(camera) as chain:
        assert (chain.state.counter, chain.state.pending) == (0, None)


class GoneKey:
    """A token that was pulled: everything about it is known, and it does not sign."""

    def __init__(self, key: SigningKey) -> None:
        self._key = key
        self.keeping, self.algorithm, self.public_key = key.keeping, key.algorithm, key.public_key

    def sign(self, data: bytes) -> bytes:
        raise KeyGoneError(f"the token is gone, with {len(data)} bytes to sign")

    def close(self) -> None:
        """Nothing is open."""


@dataclasses.dataclass(frozen=True)
class Unplugged(Camera):
    """A camera whose token was pulled after its certificate was read."""

    def device(self) -> Device:
        real = super().device()
        assert isinstance(real.key, SigningKey)
        return dataclasses.replace(real, key=GoneKey(real.key))  # type: ignore[arg-type]


def test_a_token_that_is_pulled_leaves_no_file_and_no_gap(house: Home, camera: Camera, shoot: Shoot) -> None:
    fields = {field.name: getattr(camera, field.name) for field in dataclasses.fields(camera)}
    source = shoot()
    with camerawork(Unplugged(**fields), now) as work, pytest.raises(KeyGoneError):
        work.take(source)
    assert list((camera.path / "queue").iterdir()) == []
    with camerawork(camera, now) as work:
        assert work.take(source).opening.counter == 1
    require_whole(house, camera)


def test_a_capture_that_a_crash_cut_short_is_finished_under_its_own_number(
    house: Home, work: Camerawork, camera: Camera, shoot: Shoot
) -> None:
    source, other = shoot(), shoot()
    with held(camera) as chain:
        media = hashlib.sha256(source.read_bytes()).digest()
        begun = chain.begin(media, "", bytes(32), str(source), None)
    place = queue.place_of(camera, 1)
    partial = place.with_name(f".{place.name}.partial")
    partial.mkdir(parents=True)
    (partial / "half.jpg").write_bytes(b"half")
    assert work.take(other).opening.counter == 2
    first, second = waiting(camera)
    assert first.opening == begun.opening
    assert second.opening.previous == first.opening.link
    assert not partial.exists()
    require_whole(house, camera)


def test_a_capture_whose_file_is_gone_after_a_crash_leaves_its_number_unused(
    work: Camerawork, camera: Camera, shoot: Shoot
) -> None:
    with held(camera) as chain:
        begun = chain.begin(b"m" * 32, "", bytes(32), "/nowhere/x.jpg", None)
    taken = work.take(shoot())
    assert taken.opening.counter == 2
    assert taken.opening.previous == begun.opening.link


def test_a_photograph_whose_card_was_out_after_a_crash_is_captured_when_the_card_is_back(
    work: Camerawork, camera: Camera, shoot: Shoot, caplog: pytest.LogCaptureFixture
) -> None:
    source, other = shoot(), shoot()
    media = hashlib.sha256(source.read_bytes()).digest()
    with held(camera) as chain:
        chain.begin(media, "", bytes(32), str(source), None)  # and the power was gone
    out = source.rename(source.with_name("out"))
    assert work.take(other).opening.counter == 2
    assert "capture 1 stays unused" in caplog.text, "the gap is named"
    assert media not in work.taken()
    out.rename(source)
    assert work.take(source).opening.counter == 3
    assert [each.opening.media for each in waiting(camera)][-1] == media


def test_a_key_that_is_away_after_a_crash_does_not_cost_the_capture_its_number(
    house: Home, camera: Camera, shoot: Shoot
) -> None:
    source, other = shoot(), shoot()
    with held(camera) as chain:
        begun = chain.begin(hashlib.sha256(source.read_bytes()).digest(), "", bytes(32), str(source), None)
    fields = {field.name: getattr(camera, field.name) for field in dataclasses.fields(camera)}
    with camerawork(Unplugged(**fields), now) as unplugged, pytest.raises(KeyGoneError):
        unplugged.take(other)
    with camerawork(camera, now) as work:
        assert work.take(other).opening.counter == 2
    assert waiting(camera)[0].opening == begun.opening
    require_whole(house, camera)


def test_a_device_that_was_renewed_meanwhile_goes_on_with_its_new_key(
    house: Home, camera: Camera, shoot: Shoot
) -> None:
    with camerawork(camera, now) as work:
        work.take(shoot())
        with own_desk(house, now) as desk:
            renewed = renew(camera, desk)
        assert work.take(shoot()).opening.counter == 2
    assert renewed.key != camera.key
    require_whole(house, camera)


_TAKER = """
import sys
from datetime import UTC, datetime
from pathlib import Path
from tools.camera.home_device import camera_of
from tools.camera.take import AlreadyTakenError, camerawork
from tools.home import open_home
with camerawork(camera_of(open_home(Path(sys.argv[1])), "cam"), lambda: datetime.now(UTC)) as work:
    print("ready", flush=True)
    for source in sys.argv[2:]:
        try:
            work.take(Path(source))
        except AlreadyTakenError:
            pass
"""


def test_nothing_is_lost_or_doubled_by_kills_at_any_point(house: Home, camera: Camera, shoot: Shoot) -> None:
    sources = [shoot() for _ in range(24)]
    command = [sys.executable, "-c", _TAKER, str(house.path), *map(str, sources)]
    for round_ in range(6):
        taker = subprocess.Popen(command, env={**os.environ, "PYTHONPATH": str(ROOT)}, stdout=subprocess.PIPE)
        assert taker.stdout is not None
        taker.stdout.readline()
        time.sleep(0.25 + 0.013 * round_)
        taker.send_signal(signal.SIGKILL)
        taker.wait()
        taker.stdout.close()
    subprocess.run(command, env={**os.environ, "PYTHONPATH": str(ROOT)}, check=True, capture_output=True)
    found = waiting(camera)
    media = [each.opening.media for each in found]
    assert sorted(media) == sorted(hashlib.sha256(source.read_bytes()).digest() for source in sources)
    assert [each.opening.counter for each in found] == list(range(1, len(sources) + 1)), (
        "no number unused either"
    )
    require_whole(house, camera)


def test_a_one_time_device_without_certificates_captures_nothing(camera: Camera, shoot: Shoot) -> None:
    bare = dataclasses.replace(camera, lifetime="one-time")
    with camerawork(bare, now) as work, pytest.raises(PoolEmptyError):
        work.take(shoot())
