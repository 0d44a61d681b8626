"""Whatever the network and the service do, each capture ends with one receipt or one reason, and none is lost."""

import dataclasses
import hashlib
import http.client
import json
import secrets
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import IO

import pytest

from authn.custody.opening import open_provider
from authn.evidence import AssetId
from authn.http_signature import Request
from authn.identity import Subject, pem_chain, plan_claim_signing
from authn.keys import generate_p256, store_key
from authn.locate import locate
from authn.media import Media
from storage.receipt import Receipt
from storage.registry.rows import Status
from tools.camera import queue
from tools.camera.exchange import Answer, Exchange, ServiceAnswerError
from tools.camera.folder import (
    CHECKPOINT,
    Camera,
    CameraDamagedError,
    CameraMissingError,
    add_pool,
    clear_superseded,
    create_camera,
    read_camera,
    update_camera,
)
from tools.camera.handing import Handing
from tools.camera.home_device import camera_of
from tools.camera.inside import ADDRESS, inside
from tools.camera.take import STOPPED, DeviceStoppedError, camerawork, newest_checkpoint
from tools.camera.upload import (
    ATTEMPTS,
    CaptureHeldUpError,
    Delivered,
    Outcome,
    ServiceMissingError,
    Uploader,
    require_service,
)
from tools.errors import DeviceUnknownError, HomeDamagedError, OutputExistsError, ServiceUnreachableError
from tools.founding import certificate_row, create_home
from tools.home import Home
from tools.intake import Intake
from tools.issuance.own import enrol

Shoot = Callable[..., Path]
_USUAL_SIGNATURE = (
    103  # bytes of two numbers below the order of P-384 in DER, of which one begins with a one bit
)


def now() -> datetime:
    return datetime.now(UTC)


@pytest.fixture
def intake(house: Home) -> Iterator[Intake]:
    with Intake(house, ADDRESS, now) as opened:
        yield opened


@pytest.fixture
def capture(camera: Camera, shoot: Shoot) -> Callable[[], queue.Waiting]:
    def take() -> queue.Waiting:
        with camerawork(camera, now) as work:
            return work.take(shoot())

    return take


Capture = Callable[[], queue.Waiting]


@dataclass
class Faulty:
    """A network that fails as it is told, between the device and a real intake."""

    intake: Intake
    faults: list[str | Answer] = field(default_factory=list)
    posts: int = 0
    sent: int = 0
    slept: list[float] = field(default_factory=list)

    def exchange(self, request: Request, body: IO[bytes] | None) -> Answer:
        if body is not None:
            self.posts += 1
            self.sent += int(request.header("content-length") or 0)
        fault = self.faults.pop(0) if body is not None and self.faults else None
        if isinstance(fault, Answer):
            return fault
        if fault == "lost-request":
            raise ConnectionRefusedError("nobody listens")
        answer = inside(self.intake)(request, body)
        if fault == "lost-answer":
            raise http.client.RemoteDisconnected("gone")
        return answer

    def uploader(self, camera: Camera, handing: Handing = Handing.WHOLE) -> Uploader:
        return Uploader(camera, self.exchange, now, self.slept.append, handing)


def deliver(uploader: Uploader) -> list[Delivered]:
    found = list(uploader.deliver())
    assert all(isinstance(each, Delivered) for each in found), found
    return [each for each in found if isinstance(each, Delivered)]


def refused(code: str, status: int, **headers: str) -> Answer:
    return Answer(status, headers, json.dumps({"error": code, "reason": "a test", "remedy": "none"}).encode())


def test_receipts_lie_beside_the_files_and_prove_the_entries(
    house: Home, camera: Camera, intake: Intake, capture: Capture
) -> None:
    taken = [capture() for _ in range(3)]
    done = deliver(Faulty(intake).uploader(camera))
    assert [each.outcome for each in done] == [Outcome.RECEIVED] * 3
    for waiting, each in zip(taken, done, strict=True):
        receipt = Receipt.parse(waiting.receipt.read_text())
        assert receipt.proof.index == each.entry
        assert receipt.token is not None
        assert json.loads(receipt.payload)["claim"] == waiting.claim.hex()
    assert deliver(Faulty(intake).uploader(camera)) == []
    assert not house.audit().findings


@pytest.mark.parametrize("fault", ["lost-request", "lost-answer"])
def test_what_was_lost_on_the_way_is_sent_again_and_recorded_once(
    house: Home, camera: Camera, intake: Intake, capture: Capture, fault: str
) -> None:
    waiting = capture()
    network = Faulty(intake, [fault, fault])
    (done,) = deliver(network.uploader(camera))
    assert done.outcome is Outcome.RECEIVED
    assert network.slept == [1.0, 2.0]
    with house.ledger_to_read() as ledger:
        assert ledger.find("claim", waiting.claim) == (done.entry,)


def test_without_a_network_everything_waits(camera: Camera, intake: Intake, capture: Capture) -> None:
    waiting = capture()
    with pytest.raises(ServiceUnreachableError):
        deliver(Faulty(intake, ["lost-request"] * ATTEMPTS).uploader(camera))

    def nobody(_: Request, __: IO[bytes] | None) -> Answer:
        raise ConnectionRefusedError("nobody listens")

    slept: list[float] = []
    with pytest.raises(ServiceUnreachableError):
        deliver(Uploader(camera, nobody, now, slept.append))
    assert slept == [1.0, 2.0, 4.0, 8.0]
    assert not waiting.settled
    assert deliver(Faulty(intake).uploader(camera))[0].outcome is Outcome.RECEIVED


def test_a_busy_service_is_asked_again_when_it_says(camera: Camera, intake: Intake, capture: Capture) -> None:
    capture()
    busy = refused("too-many-requests", 429, **{"retry-after": "7"})
    network = Faulty(intake, [busy, refused("disk-unusable", 503)])
    assert deliver(network.uploader(camera))[0].outcome is Outcome.RECEIVED
    assert network.slept == [7.0, 2.0]


def test_a_service_behind_a_proxy_that_says_busy_in_its_own_words_is_asked_again(
    camera: Camera, intake: Intake, capture: Capture
) -> None:
    capture()
    network = Faulty(intake, [Answer(502, {}, b"<html>Bad Gateway"), Answer(429, {}, b"")])
    assert deliver(network.uploader(camera))[0].outcome is Outcome.RECEIVED


@pytest.mark.parametrize("code", ["worker-died", "worker-timeout", "system-refused", "anything"])
def test_a_fault_of_the_service_gives_no_capture_up_and_holds_up_no_other(
    camera: Camera, intake: Intake, capture: Capture, code: str
) -> None:
    first, second = capture(), capture()
    network = Faulty(intake, [refused(code, 503)] * ATTEMPTS)
    held_up, done = network.uploader(camera).deliver()
    assert isinstance(held_up, CaptureHeldUpError)
    assert isinstance(done, Delivered)
    assert done.waiting == second
    assert not first.settled
    assert deliver(Faulty(intake).uploader(camera))[0].waiting == first


def test_a_service_that_cannot_take_two_captures_on_end_is_not_asked_for_all(
    camera: Camera, intake: Intake, capture: Capture
) -> None:
    waiting = [capture() for _ in range(3)]
    network = Faulty(intake, [refused("ledger-busy", 503)] * 3 * ATTEMPTS)
    with pytest.raises(ServiceUnreachableError):
        list(network.uploader(camera).deliver())
    assert network.posts == 2 * ATTEMPTS
    assert not any(each.settled for each in waiting)


@pytest.mark.parametrize(
    "answer",
    [
        Answer(200, {}, b"<html>Welcome to the hotel"),
        Answer(302, {"location": "http://login/"}, b""),
        Answer(403, {}, b'{"message": "Forbidden"}'),
        Answer(403, {}, b'{"error": {"code": 7}, "reason": "x", "remedy": "y"}'),
        Answer(403, {}, b"<html>Blocked"),
        Answer(404, {}, b""),
        Answer(422, {}, b"[]"),
    ],
)
def test_what_somebody_else_answers_is_no_word_about_a_capture(
    camera: Camera, intake: Intake, capture: Capture, answer: Answer
) -> None:
    waiting = capture()
    with pytest.raises(ServiceAnswerError):
        deliver(Faulty(intake, [answer]).uploader(camera))
    assert not waiting.settled
    assert deliver(Faulty(intake).uploader(camera))[0].outcome is Outcome.RECEIVED


def test_a_busy_service_is_asked_for_its_checkpoint_again(camera: Camera, intake: Intake) -> None:
    answers = [Answer(503, {}, b"<html>"), Answer(429, {"retry-after": "3"}, b"")]
    slept: list[float] = []

    def exchange(request: Request, body: IO[bytes] | None) -> Answer:
        return answers.pop(0) if answers else inside(intake)(request, body)

    Uploader(camera, exchange, now, slept.append).refresh()
    assert slept == [1.0, 3.0]
    assert newest_checkpoint(camera)


@pytest.mark.parametrize("code", ["nonce-expired", "nonce-unknown", "signature-stale"])
def test_what_is_about_the_moment_is_tried_again_at_once(
    camera: Camera, intake: Intake, capture: Capture, code: str
) -> None:
    capture()
    network = Faulty(intake, [refused(code, 401)])
    assert deliver(network.uploader(camera))[0].outcome is Outcome.RECEIVED
    assert network.slept == []


def test_a_device_whose_clock_is_wrong_signs_by_the_services(
    camera: Camera, intake: Intake, capture: Capture
) -> None:
    capture()
    away = timedelta(hours=7)
    uploader = Uploader(camera, Faulty(intake).exchange, lambda: now() - away, lambda _: None)
    assert deliver(uploader)[0].outcome is Outcome.RECEIVED


def test_a_revoked_device_stops_and_nothing_is_called_refused(
    house: Home, camera: Camera, intake: Intake, capture: Capture, shoot: Shoot
) -> None:
    waiting = capture()
    with house.registry() as registry:
        registry.set_status("cam", Status.REVOKED, now(), "a test")
    with pytest.raises(DeviceStoppedError, match="device-revoked"):
        deliver(Faulty(intake).uploader(camera))
    assert not waiting.settled
    network = Faulty(intake)
    with pytest.raises(DeviceStoppedError):
        deliver(network.uploader(camera))
    assert network.posts == 0
    with camerawork(camera, now) as work, pytest.raises(DeviceStoppedError):
        work.take(shoot())
    assert (camera.path / STOPPED).exists()


def test_what_is_refused_keeps_nobody_else_waiting(camera: Camera, intake: Intake, capture: Capture) -> None:
    first, second = capture(), capture()
    network = Faulty(intake, [refused("action-not-allowed", 403)])
    done = deliver(network.uploader(camera))
    assert [each.outcome for each in done] == [Outcome.REFUSED, Outcome.RECEIVED]
    assert json.loads((first.folder / queue.REFUSED).read_text())["error"] == "action-not-allowed"
    assert second.receipt.exists()
    assert deliver(network.uploader(camera)) == []


def test_a_request_that_is_not_understood_is_not_the_captures_fault(
    camera: Camera, intake: Intake, capture: Capture
) -> None:
    waiting = capture()
    with pytest.raises(ServiceAnswerError, match="signature-invalid"):
        deliver(Faulty(intake, [refused("signature-invalid", 401)]).uploader(camera))
    assert not waiting.settled


@pytest.mark.parametrize(
    "spoil", [lambda data: data[:-40], lambda data: data[:-60] + bytes(60), lambda data: data + b"x"]
)
def test_the_record_of_a_spoilt_file_is_handed_in_so_that_no_gap_is_left(
    house: Home, camera: Camera, intake: Intake, capture: Capture, spoil: Callable[[bytes], bytes]
) -> None:
    first, second = capture(), capture()
    first.media.write_bytes(spoil(first.media.read_bytes()))
    done = deliver(Faulty(intake).uploader(camera))
    assert [each.outcome for each in done] == [Outcome.CHANGED, Outcome.RECEIVED]
    assert (first.folder / queue.CHANGED).exists()
    assert done[1].gap == range(0)
    with house.registry() as registry:
        assert registry.missing("cam") == ()
    assert second.receipt.exists()


@pytest.mark.parametrize("content", [b"", b"nothing of a picture", None])
def test_a_file_without_its_record_is_a_gap_and_said_to_be_lost(
    house: Home, camera: Camera, intake: Intake, capture: Capture, content: bytes | None
) -> None:
    first, _ = capture(), capture()
    first.media.unlink()
    if content is not None:
        first.media.write_bytes(content)
    done = deliver(Faulty(intake).uploader(camera))
    assert [each.outcome for each in done] == [Outcome.REFUSED, Outcome.RECEIVED]
    assert done[1].gap == range(1, 2)
    with house.registry() as registry:
        assert registry.missing("cam") == (range(1, 2),)


def test_hash_only_sends_no_media(camera: Camera, intake: Intake, capture: Capture) -> None:
    waiting = capture()
    with waiting.media.open("rb") as stream:
        store = locate(Media.of(stream, waiting.file, 1 << 30))
    network = Faulty(intake)
    assert deliver(network.uploader(camera, Handing.HASH_ONLY))[0].outcome is Outcome.RECEIVED
    assert store is not None
    assert network.sent == len(store)


def test_a_file_that_is_too_large_is_handed_in_as_its_record(
    camera: Camera, intake: Intake, capture: Capture
) -> None:
    capture()
    done = deliver(Faulty(intake, [refused("too-large", 413)]).uploader(camera))
    assert [each.outcome for each in done] == [Outcome.RECEIVED]


def test_a_receipt_that_proves_nothing_is_not_kept(
    house: Home, camera: Camera, intake: Intake, capture: Capture, tmp_path: Path
) -> None:
    waiting, other = capture(), capture()
    honest = Faulty(intake)
    deliver(honest.uploader(camera))
    right, wrong = waiting.receipt.read_text(), other.receipt.read_text()
    waiting.receipt.unlink()
    lies = [
        wrong,
        right.replace('"index"', '"x"') if '"index"' in right else right[:-2],
        right.replace("A", "B", 1),
        "",
    ]
    for lie in lies:
        body = json.dumps({"receipt": lie, "entry": 1, "gap": None}).encode()
        with pytest.raises(ServiceAnswerError):
            deliver(Faulty(intake, [Answer(201, {}, body)]).uploader(camera))
        assert not waiting.receipt.exists()
    foreign = dataclasses.replace(camera, log_keys=elsewhere(tmp_path).own.keys)
    with pytest.raises(ServiceAnswerError):
        deliver(Faulty(intake).uploader(foreign))
    assert deliver(honest.uploader(camera))[0].outcome is Outcome.RECEIVED
    assert not house.audit().findings


@pytest.mark.parametrize(
    "body",
    [
        *(b"", b"[]", b"<html>", b"{}", b"[" * 100_000, b'{"at": "x", "checkpoint": "y"}'),
        b'{"at": "0001-01-01T00:00:00+23:59", "checkpoint": "y"}',
        b'{"at": "9999-12-31T23:59:59+00:00", "checkpoint": "y"}',
    ],
)
def test_an_answer_that_is_none_is_an_error_of_ours(camera: Camera, body: bytes) -> None:
    uploader = Uploader(camera, lambda _, __: Answer(200, {}, body), now, lambda _: None)
    with pytest.raises(ServiceAnswerError):
        uploader.refresh()


def test_an_older_checkpoint_does_not_replace_a_newer_one(
    house: Home, camera: Camera, intake: Intake, capture: Capture
) -> None:
    with house.ledger_to_read() as ledger:
        older = ledger.checkpoint()
    capture()
    deliver(Faulty(intake).uploader(camera))
    with house.ledger_to_read() as ledger:
        newer = ledger.checkpoint()

    def showing(note: str) -> Exchange:
        about = json.dumps({"at": now().isoformat(), "checkpoint": note}).encode()
        return lambda _, __: Answer(200, {}, about)

    Uploader(camera, showing(newer), now, lambda _: None).refresh()
    assert newest_checkpoint(camera) == newer
    with pytest.raises(ServiceAnswerError, match="behind"):
        Uploader(camera, showing(older), now, lambda _: None).refresh()
    assert (camera.path / CHECKPOINT).read_text() == newer


def test_a_damaged_capture_is_said_to_be_so_and_the_others_go_on(
    camera: Camera, intake: Intake, capture: Capture
) -> None:
    first, _ = capture(), capture()
    (first.folder / queue.ABOUT).write_text("{}")
    found = list(Faulty(intake).uploader(camera).deliver())
    assert [type(each) for each in found] == [queue.QueueDamagedError, Delivered]


@pytest.mark.parametrize("service", [None, "", "ftp://x", "http://"])
def test_a_device_without_a_service_cannot_hand_in(camera: Camera, service: str | None) -> None:
    with pytest.raises(ServiceMissingError):
        require_service(dataclasses.replace(camera, service=service))


def test_a_crash_between_chain_and_key_leaves_the_device_its_old_key_and_chain(
    house: Home, camera: Camera, shoot: Shoot
) -> None:
    """The second of the two files cannot be written: as if the power went between them."""
    key = generate_p256()
    plan = plan_claim_signing(
        Subject("XX", house.organisation, "Field Camera"),
        key.public_key,
        secrets.randbits(127) | 1 << 126,
        now(),
        issuer=house.certificate("issuing"),
        ocsp_url=house.ocsp_url,
        days=7,
    )
    chain = pem_chain(plan.sign(house.key("issuing")), house.certificate("issuing"))
    unwritable = dataclasses.replace(camera, key="file:key-00000000.pem", service=b"no text")  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        update_camera(unwritable, chain)
    with camerawork(camera, now) as work:
        work.take(shoot())
    house.device("cam").key.close()
    store_key(camera.path / "key-00000000.pem", key, None)
    renewed = update_camera(dataclasses.replace(camera, key="file:key-00000000.pem", service=None), chain)
    clear_superseded(renewed)
    found = sorted(each.name for each in camera.path.iterdir() if each.suffix == ".pem")
    assert found == sorted(["key-00000000.pem", renewed.chain]), "what is not in use is gone"
    assert house.device("cam").chain == renewed.device().chain
    assert renewed.device().chain[0].public_key() == key.public_key


@pytest.mark.parametrize("name", ["../chain.pem", "/etc/chain.pem", "key.pem", 7, "chain-x.pem"])
def test_a_chain_that_lies_elsewhere_is_not_read(house: Home, camera: Camera, name: object) -> None:
    place = camera.path / "device.json"
    place.write_text(json.dumps({**json.loads(place.read_text()), "chain": name}))
    with pytest.raises(CameraDamagedError):
        read_camera(camera.path)
    with pytest.raises(HomeDamagedError):
        house.enrolled("cam")


def test_a_camera_folder_is_read_as_it_was_written(house: Home, tmp_path: Path) -> None:
    camera = Camera(
        tmp_path / "new",
        "cam",
        "file:key.pem",
        secrets.token_bytes(32),
        "one-time",
        "https://x/",
        house.own.keys,
        7,
    )
    create_camera(camera, b"chain", [("key.pem", b"key")])
    assert read_camera(camera.path) == camera
    assert camera.path.stat().st_mode & 0o777 == 0o700
    assert all(each.stat().st_mode & 0o077 == 0 for each in camera.path.iterdir())
    with pytest.raises(OutputExistsError):
        create_camera(camera, b"chain")
    assert [each.name for each in tmp_path.iterdir() if each.name.startswith(".new")] == []
    (camera.path / "device.json").write_text("{}")
    with pytest.raises(CameraDamagedError):
        read_camera(camera.path)
    with pytest.raises(CameraMissingError):
        read_camera(tmp_path / "nowhere")


@pytest.mark.parametrize("name", ["service", "nobody", "../cam"])
def test_only_an_enrolled_device_is_a_camera(house: Home, name: str) -> None:
    with pytest.raises((DeviceUnknownError, Exception)) as caught:
        camera_of(house, name)
    assert caught.value.code in ("device-unknown", "usage")  # type: ignore[attr-defined]


def elsewhere(tmp_path: Path) -> Home:
    made = create_home(tmp_path / "elsewhere", "Elsewhere", "http://localhost:8461/ocsp/", now())
    enrol(made, "cam", "Their Camera", now())
    return made


def with_pool(house: Home, name: str, count: int, at: datetime | None = None) -> Camera:
    """A one-time device of the home, with certificates in its pool as the authority would issue them.

    All of one length and one moment: what differs by chance between any two would tell nothing.
    """
    camera = dataclasses.replace(camera_of(house, name), lifetime="one-time")
    issuing, authority = house.certificate("issuing"), house.key("issuing")
    pool = camera.path / "pool"
    pool.mkdir(mode=0o700)
    issued = []
    for number in range(1, count + 1):
        key = generate_p256()
        while True:
            plan = plan_claim_signing(
                Subject("XX", house.organisation, "Field Camera"),
                key.public_key,
                secrets.randbits(127) | 1 << 126,
                at or now(),
                issuer=issuing,
                ocsp_url=house.ocsp_url,
                days=7,
            )
            certificate = plan.sign(authority)
            if len(certificate.signature) == _USUAL_SIGNATURE:
                break
        store_key(pool / f"{number:06}.key.pem", key, None)
        with house.registry() as registry:
            registry.add_certificates([certificate_row(certificate, name, "Field Camera", "one-time", 0)])
        issued.append((f"file:pool/{number:06}.key.pem", pem_chain(certificate, issuing)))
    assert add_pool(camera, issued) == tuple(range(1, count + 1))
    return camera


def test_two_captures_of_a_one_time_device_share_nothing_that_another_devices_does_not(
    house: Home, intake: Intake, shoot: Shoot
) -> None:
    """Whatever both records of one device hold, a record of another device of the product holds as well."""
    enrol(house, "other", "Field Camera", now())
    records, at = [], now()
    for name, count in (("cam", 2), ("other", 1)):
        camera = with_pool(house, name, count, at)
        uploader = Faulty(intake).uploader(camera)
        uploader.refresh()
        with camerawork(camera, now) as work:
            taken = [work.take(shoot("IMG.jpg")) for _ in range(count)]
        for each in taken:
            with each.media.open("rb") as stream:
                store = locate(Media.of(stream, each.file, 1 << 30))
            assert store is not None
            records.append(store)
        assert [each.outcome for each in deliver(uploader)] == [Outcome.RECEIVED] * count
        assert camera.pool() == (), "each key is forgotten once its capture is dated"
    first, second, _ = ({store[at : at + 8] for at in range(len(store) - 7)} for store in records)
    others = {records[2][at : at + 5] for at in range(len(records[2]) - 4)}
    # Eight bytes that both hold, and of which the other device has no five in a row: not by chance.
    telling = [each for each in first & second if all(each[at : at + 5] not in others for at in range(4))]
    assert telling == []
    with house.registry() as registry:
        assert [each.counter for each in registry.captures("cam")] == [1, 2]
        assert registry.missing("cam") == ()


def test_a_pools_numbers_are_never_given_twice(house: Home) -> None:
    camera = with_pool(house, "cam", 2)
    camera.drop(2)
    assert camera.pool() == (1,)
    assert add_pool(camera, [("file:x", b"chain")]) == (3,)
    assert open_provider(f"file:{camera.path / 'pool' / '000001.key.pem'}").algorithm
    shutil.rmtree(camera.path / "pool")


def test_the_payload_of_a_capture_is_that_of_any_signature(
    house: Home, camera: Camera, intake: Intake, capture: Capture
) -> None:
    waiting = capture()
    (done,) = deliver(Faulty(intake).uploader(camera))
    assert done.entry is not None
    with house.ledger_to_read() as ledger:
        payload = json.loads(ledger.prove(done.entry).payload)
        token = json.loads(ledger.prove(done.entry + 1).payload)
    assert set(payload) == {"binding", "certificate", "claim", "media", "signature"}
    assert payload["media"] == waiting.opening.media.hex()
    identity = AssetId(*(bytes.fromhex(payload[name]) for name in ("claim", "binding", "signature")))
    place = house.path / "tokens" / payload["signature"][:2] / f"{payload['signature']}.tst"
    assert token == {
        "signature": identity.signature.hex(),
        "token": hashlib.sha256(place.read_bytes()).hexdigest(),
    }
