"""What devices and those who pose as devices send to a real server process, and what is answered.

Every refusal has its own code, leaves ledger and chain as they were, and leaves a line in the
log. Numbers in names are those of the abuse table that this service was designed against.
"""

import base64
import contextlib
import hashlib
import hmac
import http.client
import io
import json
import os
import queue as queues
import secrets
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from authn.device import Device, encoded
from authn.http_signature import Request, content_digest_header, sign_request
from authn.identity import Subject, pem_chain, plan_claim_signing
from authn.keys import generate_p256, generate_p384, store_key
from authn.locate import locate
from authn.media import Media
from storage.entry import Kind
from storage.registry.rows import Capture as CaptureRow
from storage.registry.rows import Status
from tools import intake_shown
from tools.camera import queue
from tools.camera.chain import held
from tools.camera.folder import Camera, add_pool
from tools.camera.home_device import camera_of
from tools.camera.take import camerawork
from tools.captures import describe
from tools.check import Chosen, beliefs, check_files
from tools.founding import certificate_row, create_home
from tools.home import Home
from tools.intake import NONCE_LIFE, Intake
from tools.issuance.own import enrol
from tools.signing import sign_files

ROOT = Path(__file__).parents[3]
Shoot = Callable[..., Path]

_SERVER = """
import sys
from datetime import UTC, datetime
from pathlib import Path
from tools.home import open_home
from tools.intake_app import Patience, intake_service
from tools.serving import serve
with intake_service(open_home(Path(sys.argv[1])), None, lambda: datetime.now(UTC), Patience(4, 1)) as app:
    serve(app, "127.0.0.1", 0, print)
"""


def now() -> datetime:
    return datetime.now(UTC)


@dataclass
class Server:
    """A server process of its own, for one home."""

    home: Home
    log: Path
    process: "subprocess.Popen[bytes] | None" = None
    url: str = ""

    def start(self) -> None:
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-W", "error", "-c", _SERVER, str(self.home.path)],
                env={**os.environ, "PYTHONPATH": str(ROOT)},
                stdout=subprocess.PIPE,
                stderr=log,
            )
        assert self.process.stdout is not None
        self.url = self.process.stdout.readline().decode().strip().rstrip("/")
        assert self.url, self.log.read_text()

    def stop(self, number: signal.Signals = signal.SIGTERM) -> None:
        if self.process is not None:
            self.process.send_signal(number)
            self.process.wait(20)
            assert self.process.stdout is not None
            self.process.stdout.close()
            self.process = None


@pytest.fixture
def server(house: Home, tmp_path: Path) -> Iterator[Server]:
    running = Server(house, tmp_path / "server.log")
    running.start()
    yield running
    running.stop()
    assert "Traceback" not in running.log.read_text(), running.log.read_text()


Said = tuple[int, dict[str, object]]


@dataclass
class Sender:
    """A device that can be made to send anything."""

    server: Server
    device: Device
    key_id: str = field(init=False)

    def __post_init__(self) -> None:
        self.key_id = hashlib.sha256(encoded(self.device.chain[0])).hexdigest()

    def nonce(self, key_id: str | None = None) -> str:
        status, said = self.exchange("GET", f"/v1/checkpoint?key={key_id or self.key_id}", {}, b"")
        assert status == 200, said
        return str(said["nonce"])

    def request(
        self,
        waiting: queue.Waiting,
        body: bytes | None = None,
        mime: str = "image/jpeg",
        again: bytes | None = None,
    ) -> tuple[Request, bytes]:
        """What an honest device would send, not signed yet."""
        body = waiting.media.read_bytes() if body is None else body
        lines = [
            ("Host", urlsplit(self.server.url).netloc),
            ("Content-Type", mime),
            ("Content-Length", str(len(body))),
            ("Content-Digest", content_digest_header(hashlib.sha256(body).digest())),
            ("Lightseal-Opening", str(waiting.opening)),
            ("Idempotency-Key", (waiting.claim if again is None else again).hex()),
        ]
        return Request("POST", f"{self.server.url}/v1/captures", tuple(lines)), body

    def signed(self, request: Request, nonce: str | None = None, at: datetime | None = None) -> Request:
        given = nonce or self.nonce()
        return sign_request(request, self.device.key, self.key_id, given, at or now(), ("lightseal-opening",))

    def send(self, waiting: queue.Waiting, body: bytes | None = None, **how: object) -> Said:
        request, sent = self.request(waiting, body, **how)  # type: ignore[arg-type]
        return self.post(self.signed(request), sent)

    def patiently(self, waiting: queue.Waiting) -> Said:
        """Send until the service is not too busy for it."""
        while (said := self.send(waiting))[0] == 429:
            time.sleep(0.02)
        return said

    def post(self, request: Request, body: bytes) -> Said:
        parts = urlsplit(request.url)
        return self.exchange(request.method, parts.path, dict(request.headers), body)

    def exchange(self, method: str, path: str, headers: dict[str, str], body: bytes) -> Said:
        parts = urlsplit(self.server.url)
        with contextlib.closing(
            http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=30)
        ) as http_:
            http_.putrequest(method, path, skip_host="Host" in headers, skip_accept_encoding=True)
            for name, value in headers.items():
                http_.putheader(name, value)
            http_.endheaders()
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                http_.send(body)
            answer = http_.getresponse()
            found = json.loads(answer.read())
            assert isinstance(found, dict)
            return answer.status, found


@pytest.fixture
def sender(server: Server) -> Sender:
    return Sender(server, server.home.device("cam"))


@pytest.fixture
def capture(camera: Camera, shoot: Shoot) -> Callable[[], queue.Waiting]:
    """Takes a picture and puts it into the queue."""

    def take() -> queue.Waiting:
        with camerawork(camera, now) as work:
            return work.take(shoot())

    return take


def record_of(waiting: queue.Waiting) -> bytes:
    with waiting.media.open("rb") as stream:
        store = locate(Media.of(stream, waiting.file, 1 << 30))
    assert store is not None
    return store


@contextlib.contextmanager
def nothing_changes(server: Server, code: str) -> Iterator[None]:
    """The ledger, the chain and the tokens are as before; the log names the code."""

    def state() -> object:
        with server.home.ledger_to_read() as ledger, server.home.registry() as registry:
            tokens = sorted((server.home.path / "tokens").rglob("*.tst"))
            return ledger.size, registry.captures("cam"), tokens

    before, lines = state(), len(server.log.read_text().splitlines())
    yield
    assert state() == before
    assert code in "\n".join(server.log.read_text().splitlines()[lines:])


def require(said: Said, status: int, code: str) -> None:
    assert (said[0], said[1].get("error")) == (status, code), said
    assert said[1]["reason"]
    assert said[1]["remedy"]


Capture = Callable[[], queue.Waiting]


def test_a_capture_is_recorded_dated_and_answered_with_a_receipt(
    house: Home, sender: Sender, capture: Capture
) -> None:
    waiting = capture()
    status, said = sender.send(waiting)
    assert status == 201, said
    with house.ledger_to_read() as ledger, house.registry() as registry:
        (index,) = ledger.find("claim", waiting.claim)
        assert index == said["entry"]
        assert ledger.find("media", waiting.opening.media) == (index,)
        (row,) = registry.captures("cam")
    assert (row.counter, row.entry, row.link) == (1, index, waiting.opening.link)
    assert (house.path / "tokens" / row.signature.hex()[:2] / f"{row.signature.hex()}.tst").exists()
    assert not house.audit().findings
    assert house.audit().size == index + 2, "the signature, and its token"


def test_the_record_alone_is_enough(house: Home, sender: Sender, capture: Capture) -> None:
    waiting = capture()
    store = record_of(waiting)
    assert waiting.media.stat().st_size > len(store)
    status, said = sender.send(waiting, store, mime="application/c2pa")
    assert status == 201, said
    with house.ledger_to_read() as ledger:
        assert ledger.find("claim", waiting.claim) == (said["entry"],)


class TestRepeated:
    def test_1_a_request_that_was_used(self, server: Server, sender: Sender, capture: Capture) -> None:
        waiting = capture()
        request, body = sender.request(waiting)
        signed = sender.signed(request)
        assert sender.post(signed, body)[0] == 201
        with nothing_changes(server, "replayed-nonce"):
            require(sender.post(signed, body), 409, "replayed-nonce")

    def test_2_the_same_capture_again_without_saying_so(
        self, server: Server, sender: Sender, capture: Capture
    ) -> None:
        waiting = capture()
        assert sender.send(waiting)[0] == 201
        with nothing_changes(server, "counter-reused"):
            require(sender.send(waiting, again=b"another"), 409, "counter-reused")

    def test_50_the_same_capture_again_saying_so(self, sender: Sender, capture: Capture) -> None:
        waiting = capture()
        first, second = sender.send(waiting), sender.send(waiting)
        assert (first[0], second[0]) == (201, 200)
        assert first[1]["entry"] == second[1]["entry"]
        assert first[1]["receipt"] == second[1]["receipt"]

    def test_30_uses_of_one_nonce_at_once_have_one_winner(self, sender: Sender, capture: Capture) -> None:
        request, body = sender.request(capture())
        signed = sender.signed(request)
        said: queues.SimpleQueue[Said] = queues.SimpleQueue()
        threads = [threading.Thread(target=lambda: said.put(sender.post(signed, body))) for _ in range(30)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        statuses = sorted(said.get()[0] for _ in threads)
        assert statuses == [201] + [409] * 29


class TestNonce:
    def test_3_that_is_too_old(self, server: Server, sender: Sender, capture: Capture) -> None:
        waiting = capture()
        before = now() - NONCE_LIFE - timedelta(minutes=1)
        with Intake(server.home, server.url, lambda: before) as earlier:
            old = earlier.nonce(sender.key_id)
        request, body = sender.request(waiting)
        with nothing_changes(server, "nonce-expired"):
            require(sender.post(sender.signed(request, old), body), 401, "nonce-expired")

    def test_4_that_another_device_was_given(self, server: Server, sender: Sender, capture: Capture) -> None:
        request, body = sender.request(capture())
        other = sender.nonce("ab" * 32)
        with nothing_changes(server, "nonce-wrong-device"):
            require(sender.post(sender.signed(request, other), body), 401, "nonce-wrong-device")

    @pytest.mark.parametrize("nonce", ["A" * 76, "A" * 16, "-" * 128])
    def test_that_nobody_was_given(
        self, server: Server, sender: Sender, capture: Capture, nonce: str
    ) -> None:
        request, body = sender.request(capture())
        with nothing_changes(server, "nonce-unknown"):
            require(sender.post(sender.signed(request, nonce), body), 401, "nonce-unknown")

    def test_that_was_given_before_the_server_was_started_again(
        self, server: Server, sender: Sender, capture: Capture
    ) -> None:
        waiting, nonce = capture(), sender.nonce()
        server.stop(signal.SIGKILL)
        server.start()
        request, body = sender.request(waiting)
        assert sender.post(sender.signed(request, nonce), body)[0] == 201


class TestSignature:
    @pytest.mark.parametrize(("away", "code"), [(-600, "signature-stale"), (600, "signature-from-future")])
    def test_5_of_another_time(
        self, server: Server, sender: Sender, capture: Capture, away: int, code: str
    ) -> None:
        request, body = sender.request(capture())
        signed = sender.signed(request, at=now() + timedelta(seconds=away))
        with nothing_changes(server, code):
            require(sender.post(signed, body), 401, code)

    def test_6_of_another_body(self, server: Server, sender: Sender, capture: Capture) -> None:
        request, body = sender.request(capture())
        with nothing_changes(server, "content-digest-mismatch"):
            other = bytes([*body[:-3], body[-3] ^ 1, *body[-2:]])
            require(sender.post(sender.signed(request), other), 400, "content-digest-mismatch")

    @pytest.mark.parametrize("digest", ["sha-512=:AAAA:", "sha-1=:AAAA:", "md5=:AAAA:"])
    def test_7_over_another_digest(
        self, server: Server, sender: Sender, capture: Capture, digest: str
    ) -> None:
        request, body = sender.request(capture())
        sha512 = hashlib.sha512(body).digest()
        value = (
            digest if "512" not in digest else f"sha-512=:{__import__('base64').b64encode(sha512).decode()}:"
        )
        lines = tuple((name, value if name == "Content-Digest" else line) for name, line in request.headers)
        with nothing_changes(server, "content-digest-unsupported"):
            try:
                signed = sender.signed(replace(request, headers=lines))
            except Exception:  # noqa: BLE001 - our own signer refuses it too; then it is sent unsigned by hand
                signed = relabelled(sender.signed(request), "content-digest", value)
            require(sender.post(signed, body), 400, "content-digest-unsupported")

    def test_8_that_covers_too_little(self, server: Server, sender: Sender, capture: Capture) -> None:
        request, body = sender.request(capture())
        signed = sender.signed(request)
        given = signed.header("signature-input") or ""
        weak = given.replace(given[given.index("(") : given.index(")") + 1], '("@method")')
        with nothing_changes(server, "signature-coverage"):
            require(sender.post(relabelled(signed, "signature-input", weak), body), 401, "signature-coverage")

    def test_9_for_another_host_or_path(self, server: Server, sender: Sender, capture: Capture) -> None:
        request, body = sender.request(capture())
        elsewhere = replace(request, url=request.url + "/other")
        with nothing_changes(server, "signature-invalid"):
            path = urlsplit(request.url).path
            signed = sender.signed(elsewhere)
            require(sender.exchange("POST", path, dict(signed.headers), body), 401, "signature-invalid")
        host = relabelled(request, "host", "evil.example")
        with nothing_changes(server, "signature-target"):
            signed = sender.signed(replace(host, url="http://evil.example/v1/captures"))
            require(sender.post(signed, body), 401, "signature-target")

    @pytest.mark.parametrize("name", ["localhost", "LOCALHOST", "[::1]"])
    def test_that_names_this_very_machine_otherwise(
        self, sender: Sender, capture: Capture, name: str
    ) -> None:
        """The server listens at 127.0.0.1; who enrolled as http://localhost:PORT signs for that."""
        request, body = sender.request(capture())
        there = f"{name}:{urlsplit(request.url).port}"
        own = replace(relabelled(request, "host", there), url=f"http://{there.lower()}/v1/captures")
        status, said = sender.post(sender.signed(own), body)
        assert status == 201, said

    @pytest.mark.parametrize(
        "host", ["localhost", "localhost:1", "localhost.evil.example:{}", "127.0.0.2:{}"]
    )
    def test_that_names_this_machine_with_another_port_or_more(
        self, server: Server, sender: Sender, capture: Capture, host: str
    ) -> None:
        request, body = sender.request(capture())
        there = host.format(urlsplit(request.url).port)
        own = replace(relabelled(request, "host", there), url=f"http://{there}/v1/captures")
        with nothing_changes(server, "signature-target"):
            require(sender.post(sender.signed(own), body), 401, "signature-target")

    @pytest.mark.parametrize("name", ['alg="hmac-sha256"', 'alg="none"', 'alg="ed25519"', ""])
    def test_10_by_an_algorithm_that_the_message_chose(
        self, server: Server, sender: Sender, capture: Capture, name: str
    ) -> None:
        request, body = sender.request(capture())
        signed = sender.signed(request)
        given = signed.header("signature-input") or ""
        old = 'alg="ecdsa-p256-sha256"' if name else ';alg="ecdsa-p256-sha256"'
        with nothing_changes(server, "signature-algorithm"):
            other = relabelled(signed, "signature-input", given.replace(old, name))
            require(sender.post(other, body), 401, "signature-algorithm")

    def test_11_by_a_key_of_another_kind(self, server: Server, sender: Sender, capture: Capture) -> None:
        request, body = sender.request(capture())
        other = replace(sender, device=replace(sender.device, key=generate_p384()))
        other.key_id = sender.key_id
        with nothing_changes(server, "signature-algorithm"):
            require(sender.post(other.signed(request), body), 401, "signature-algorithm")

    def test_that_is_missing_or_stands_there_twice(
        self, server: Server, sender: Sender, capture: Capture
    ) -> None:
        request, body = sender.request(capture())
        with nothing_changes(server, "signature-missing"):
            require(sender.post(request, body), 401, "signature-missing")
        signed = sender.signed(request)
        line = signed.header("signature-input") or ""
        with nothing_changes(server, "header-refused"):
            raw = raw_request(signed, body, f"Signature-Input: {line}\r\n")
            assert b'"header-refused"' in raw_exchange(server, raw)

    def test_43_with_headers_that_are_too_long(
        self, server: Server, sender: Sender, capture: Capture
    ) -> None:
        request, body = sender.request(capture())
        with nothing_changes(server, "header-refused"):
            long = replace(
                sender.signed(request), headers=(*sender.signed(request).headers, ("X-Long", "x" * 9000))
            )
            require(sender.post(long, body), 400, "header-refused")


class TestDevice:
    def test_12_that_nobody_knows(self, server: Server, tmp_path: Path, shoot: Shoot) -> None:
        other = create_home(tmp_path / "other", "Elsewhere", "http://localhost:8461/ocsp/", now())
        enrol(other, "cam", "Their Camera", now())
        with camerawork(camera_of(other, "cam"), now) as work:
            waiting = work.take(shoot())
        with nothing_changes(server, "device-unknown"):
            require(Sender(server, other.device("cam")).send(waiting), 401, "device-unknown")

    def test_13_that_hands_in_what_another_authority_certified(
        self, server: Server, sender: Sender, tmp_path: Path, shoot: Shoot
    ) -> None:
        """The same names in the certificate, made by somebody else's home."""
        other = create_home(tmp_path / "other", "Field Newsroom", "http://localhost:8461/ocsp/", now())
        enrol(other, "cam", "Field Camera", now())
        with camerawork(camera_of(other, "cam"), now) as work:
            waiting = work.take(shoot())
        with nothing_changes(server, "untrusted-issuer"):
            require(sender.send(waiting), 403, "untrusted-issuer")

    def test_that_hands_in_another_devices_capture(
        self, server: Server, sender: Sender, shoot: Shoot
    ) -> None:
        enrol(server.home, "other", "Field Camera", now())
        with camerawork(camera_of(server.home, "other"), now) as work:
            waiting = work.take(shoot())
        with nothing_changes(server, "certificate-foreign"):
            require(sender.send(waiting), 403, "certificate-foreign")

    @pytest.mark.parametrize(
        ("status", "code"), [(Status.SUSPENDED, "device-suspended"), (Status.REVOKED, "device-revoked")]
    )
    def test_12_and_17_that_is_not_heard_any_more(
        self, server: Server, sender: Sender, capture: Capture, status: Status, code: str
    ) -> None:
        waiting, nonce = capture(), sender.nonce()
        with server.home.registry() as registry:
            registry.set_status("cam", status, now(), "a test")
        request, body = sender.request(waiting)
        with nothing_changes(server, code):
            require(sender.post(sender.signed(request, nonce), body), 403, code)

    def test_that_is_unknown_learns_nothing_of_its_state(
        self, server: Server, sender: Sender, capture: Capture
    ) -> None:
        """Who has not the key is not told that the device is revoked."""
        waiting = capture()
        with server.home.registry() as registry:
            registry.set_status("cam", Status.REVOKED, now(), "a test")
        request, body = sender.request(waiting)
        signed = relabelled(sender.signed(request), "signature", f"device=:{'A' * 86}==:")
        with nothing_changes(server, "signature-invalid"):
            require(sender.post(signed, body), 401, "signature-invalid")


class TestChain:
    def test_23_many_captures_with_one_number_at_once(
        self, house: Home, camera: Camera, sender: Sender, shoot: Shoot
    ) -> None:
        rivals = list(alike(camera, shoot, 24))
        said: queues.SimpleQueue[Said] = queues.SimpleQueue()
        threads = [
            threading.Thread(target=lambda each=each: said.put(sender.patiently(each))) for each in rivals
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        answers = [said.get() for _ in threads]
        assert sorted(status for status, _ in answers) == [201] + [409] * 23
        assert {each["error"] for status, each in answers if status == 409} <= {
            "chain-fork",
            "counter-reused",
        }
        with house.registry() as registry, house.ledger_to_read() as ledger:
            (row,) = registry.captures("cam")
            entries = [ledger.find("claim", each.claim) for each in rivals]
        assert sorted(map(len, entries)) == [0] * 23 + [1], "only what was accepted is recorded"
        assert (row.entry,) in entries

    def test_24_a_fork_is_refused_and_makes_the_device_suspect(
        self, house: Home, server: Server, camera: Camera, sender: Sender, shoot: Shoot
    ) -> None:
        first, second = alike(camera, shoot, 2)
        assert sender.send(first)[0] == 201
        with nothing_changes(server, "chain-fork"):
            require(sender.send(second), 409, "chain-fork")
        with house.registry() as registry:
            assert registry.device("cam").status is Status.SUSPECT
            (fork,) = registry.forks("cam")
        assert fork.refused.claim == second.claim

    def test_a_one_time_certificate_that_signs_a_second_capture_is_refused_and_makes_the_device_suspect(
        self, house: Home, server: Server, camera: Camera, sender: Sender, shoot: Shoot
    ) -> None:
        """The folder was copied, the key that should be gone was kept, and the pool points to it again."""
        pooled = with_one_key_twice(house, camera)
        with camerawork(pooled, now) as work:
            first, second = work.take(shoot()), work.take(shoot())
        assert second.opening.previous == first.opening.link, "the chain itself is whole"
        status, said = sender.send(first)
        assert status == 201, said
        with nothing_changes(server, "certificate-reused"):
            require(sender.send(second), 409, "certificate-reused")
            require(sender.send(second), 409, "certificate-reused")
        with house.registry() as registry:
            assert registry.device("cam").status is Status.SUSPECT
            (fork,) = registry.forks("cam")
            (row,) = registry.captures("cam")
            shown = list(describe(registry, "cam"))
        assert (fork.refused.claim, fork.against) == (second.claim, first.claim)
        assert fork.refused.certificate == row.certificate
        assert shown[0].endswith("1 captures received, 0 missing, 1 forks")
        assert f"2\tFORK: claim {second.claim.hex()} has the one-time certificate of" in "\n".join(shown)
        again = sender.send(first)
        assert (again[0], again[1]["entry"]) == (200, said["entry"])
        with beliefs(house, Chosen(), now()) as held_:
            ((report, _),) = check_files([str(second.media)], held_, None)
        assert report.verdict.recorded.place == (
            "refused when it was handed in: its one-time certificate had been used up by another capture"
            " of the device cam"
        )

    def test_25_a_gap_is_accepted_and_named(self, house: Home, sender: Sender, capture: Capture) -> None:
        first, _, _, fourth = (capture() for _ in range(4))
        assert sender.send(first)[1]["gap"] is None
        status, said = sender.send(fourth)
        assert (status, said["gap"]) == (201, [2, 3])
        with house.registry() as registry:
            assert registry.missing("cam") == (range(2, 4),)

    def test_what_arrives_late_fills_its_gap(self, house: Home, sender: Sender, capture: Capture) -> None:
        first, second, third = (capture() for _ in range(3))
        assert [sender.send(each)[0] for each in (first, third, second)] == [201] * 3
        with house.registry() as registry:
            assert registry.missing("cam") == ()

    @pytest.mark.parametrize("part", ["salt", "previous", "media", "counter"])
    def test_an_opening_that_does_not_open(
        self, server: Server, sender: Sender, capture: Capture, part: str
    ) -> None:
        waiting = capture()
        opening = replace(waiting.opening, **{part: 9 if part == "counter" else b"x" * 32})
        with nothing_changes(server, "commitment-mismatch"):
            require(sender.send(replace(waiting, opening=opening)), 422, "commitment-mismatch")

    def test_a_checkpoint_of_another_log(
        self, server: Server, camera: Camera, sender: Sender, shoot: Shoot, tmp_path: Path
    ) -> None:
        other = create_home(tmp_path / "other", "Elsewhere", "http://localhost:8461/ocsp/", now())
        with other.ledger_to_read() as ledger:
            (camera.path / "checkpoint").write_text(ledger.checkpoint())
        with camerawork(camera, now) as work:
            waiting = work.take(shoot())
        with nothing_changes(server, "checkpoint-foreign"):
            require(sender.send(waiting), 422, "checkpoint-foreign")


class TestBody:
    def test_26_that_is_too_large(self, server: Server, sender: Sender, capture: Capture) -> None:
        waiting = capture()
        request, _ = sender.request(waiting)
        huge = relabelled(request, "content-length", str(1 << 40))
        with nothing_changes(server, "too-large"):
            require(sender.post(sender.signed(huge), b"x"), 413, "too-large")
        record = bytes((4 << 20) + 1)
        with nothing_changes(server, "too-large"):
            require(sender.send(waiting, record, mime="application/c2pa"), 413, "too-large")

    def test_26_that_never_comes(self, server: Server, sender: Sender, capture: Capture) -> None:
        request, body = sender.request(capture())
        with nothing_changes(server, "too-slow"):
            raw = raw_request(sender.signed(request), body[:100], "")
            assert b'"too-slow"' in raw_exchange(server, raw)

    def test_26_that_ends_before_its_length(self, server: Server, sender: Sender, capture: Capture) -> None:
        request, body = sender.request(capture())
        raw = raw_request(sender.signed(request), body[:100], "")
        parts = urlsplit(server.url)
        with nothing_changes(server, "length-mismatch"):
            with socket.create_connection((parts.hostname, parts.port), timeout=20) as connection:
                connection.sendall(raw)
                connection.shutdown(socket.SHUT_WR)
                with contextlib.suppress(ConnectionResetError):
                    assert b"201" not in connection.recv(65536)[:20]
            time.sleep(0.2)

    def test_26_that_is_longer_than_it_says(self, server: Server, sender: Sender, capture: Capture) -> None:
        request, body = sender.request(capture())
        short = relabelled(request, "content-length", str(len(body) - 10))
        with nothing_changes(server, ""):
            assert raw_exchange(server, raw_request(sender.signed(short), body, "")).startswith(
                b"HTTP/1.1 400"
            )

    def test_26_in_chunks_without_end(self, server: Server, sender: Sender, capture: Capture) -> None:
        request, _ = sender.request(capture())
        lines = tuple(line for line in request.headers if line[0] != "Content-Length")
        signed = sender.signed(replace(request, headers=lines))
        with nothing_changes(server, "too-slow"):
            raw = raw_request(signed, b"5\r\nhello\r\n", "Transfer-Encoding: chunked\r\n")
            assert b'"too-slow"' in raw_exchange(server, raw)

    def test_that_a_device_begins_without_end_take_no_more_room_than_two(
        self, server: Server, sender: Sender, capture: Capture
    ) -> None:
        """Twelve announcements of half a gigabyte each, of which a little comes."""
        request, body = sender.request(capture())
        huge = relabelled(request, "content-length", str(500 << 20))
        parts, answers = urlsplit(server.url), []
        with contextlib.ExitStack() as stack, nothing_changes(server, "too-many-requests"):
            for number in range(12):
                connection = stack.enter_context(
                    socket.create_connection((parts.hostname, parts.port), timeout=20)
                )
                connection.sendall(raw_request(sender.signed(huge), body, ""))
                if number >= 2:
                    answers.append(connection.recv(65536).lower())
        assert len(answers) == 10
        for answer in answers:
            assert answer.startswith(b"http/1.1 429")
            assert b"retry-after: 5" in answer

    def test_26_whose_length_is_said_twice(self, server: Server, sender: Sender, capture: Capture) -> None:
        request, body = sender.request(capture())
        raw = raw_request(sender.signed(request), body, "Transfer-Encoding: chunked\r\n")
        with nothing_changes(server, ""):
            assert raw_exchange(server, raw).startswith(b"HTTP/1.1 400")

    def test_26_that_comes_in_chunks_is_taken(self, sender: Sender, server: Server, capture: Capture) -> None:
        request, body = sender.request(capture())
        lines = tuple(line for line in request.headers if line[0] != "Content-Length")
        signed = sender.signed(replace(request, headers=lines))
        chunks = f"{len(body):x}\r\n".encode() + body + b"\r\n0\r\n\r\n"
        raw = raw_request(signed, chunks, "Transfer-Encoding: chunked\r\n")
        assert raw_exchange(server, raw).startswith(b"HTTP/1.1 201")

    @pytest.mark.parametrize(
        ("spoil", "status", "code"),
        [
            (lambda body: body[:-200], 422, "media-incomplete"),
            (lambda _: b"", 422, "media-incomplete"),
            (lambda body: body[:20], 422, "media-incomplete"),
            (lambda body: body + b"PK\3\4 a polyglot", 422, "media-trailing-data"),
            (lambda _: b"<html>no picture</html>", 415, "unsupported-media"),
            (lambda body: body[:-60] + bytes([body[-60] ^ 1]) + body[-59:], 422, "media-changed"),
        ],
    )
    def test_27_and_28_that_is_not_the_capture(
        self,
        server: Server,
        sender: Sender,
        capture: Capture,
        spoil: Callable[[bytes], bytes],
        status: int,
        code: str,
    ) -> None:
        waiting = capture()
        with nothing_changes(server, code):
            require(sender.send(waiting, spoil(waiting.media.read_bytes())), status, code)

    def test_29_of_another_type_than_announced(
        self, server: Server, sender: Sender, capture: Capture
    ) -> None:
        with nothing_changes(server, "media-type-mismatch"):
            require(sender.send(capture(), mime="image/png"), 415, "media-type-mismatch")

    def test_that_was_never_signed(
        self, server: Server, sender: Sender, capture: Capture, shoot: Shoot
    ) -> None:
        with nothing_changes(server, "credentials-missing"):
            require(sender.send(capture(), shoot().read_bytes()), 422, "credentials-missing")

    def test_32_that_is_a_malformed_record(self, server: Server, sender: Sender, capture: Capture) -> None:
        waiting = capture()
        store = record_of(waiting)
        with nothing_changes(server, "manifest-malformed"):
            said = sender.send(waiting, store[:-10], mime="application/c2pa")
            require(said, 422, "manifest-malformed")
        with nothing_changes(server, "claim-signature"):
            at = store.index(b"c2pa.created")
            changed = store[:at] + b"c2pa.opened." + store[at + 12 :]
            require(sender.send(waiting, changed, mime="application/c2pa"), 422, "claim-signature")

    def test_45_that_is_no_capture(
        self, server: Server, sender: Sender, shoot: Shoot, capture: Capture
    ) -> None:
        """The signing service of the home signs what it received; nobody hands that in as a capture."""
        waiting, out = capture(), shoot().parent / "out"
        (line,) = sign_files(server.home, [shoot()], out, None, now, timed=False)
        assert isinstance(line, str), line
        (signed,) = out.glob("*.jpg")
        request, body = sender.request(waiting, signed.read_bytes())
        with server.home.ledger_to_read() as ledger:
            before = ledger.size
        status, said = sender.post(sender.signed(request), body)
        assert status in (403, 422), said
        assert said["error"] in ("action-not-allowed", "capture-has-a-past")
        with server.home.ledger_to_read() as ledger:
            assert ledger.size == before


def test_50_kills_between_ledger_and_answer_give_one_entry(
    house: Home, server: Server, sender: Sender, capture: Capture
) -> None:
    for round_ in range(6):
        waiting = capture()
        request, body = sender.request(waiting)
        signed = sender.signed(request)

        def post(signed: Request = signed, body: bytes = body) -> None:
            with contextlib.suppress(OSError, http.client.HTTPException):
                sender.post(signed, body)

        thread = threading.Thread(target=post)
        thread.start()
        time.sleep(0.01 * 1.9**round_)
        server.stop(signal.SIGKILL)
        thread.join()
        server.start()
        status, said = sender.send(waiting)
        assert status in (200, 201), said
        with house.ledger_to_read() as ledger:
            assert ledger.find("claim", waiting.claim) == (said["entry"],)
    assert not house.audit().findings
    with house.registry() as registry:
        assert registry.unlogged(10) == ()


def test_the_checkpoint_is_the_same_for_every_device(sender: Sender, capture: Capture) -> None:
    first = sender.exchange("GET", "/v1/checkpoint", {}, b"")[1]["checkpoint"]
    assert sender.send(capture())[0] == 201
    assert sender.exchange("GET", f"/v1/checkpoint?key={sender.key_id}", {}, b"")[1]["checkpoint"] == first
    require(sender.exchange("GET", "/v1/checkpoint?key=../x", {}, b""), 400, "key-id-malformed")


def test_the_checkpoint_is_the_same_for_an_hour_whichever_process_is_asked(house: Home) -> None:
    """A checkpoint that few devices were shown would tell which captures belong together."""
    at = now()
    with Intake(house, "http://localhost", lambda: at) as first:
        shown = first.checkpoint()
    house.own.record(Kind.POLICY, {"change": "x"}, now())
    for minutes in (1, 30, 59):
        with Intake(house, "http://localhost", lambda: at + timedelta(minutes=minutes)) as other:  # noqa: B023
            assert other.checkpoint() == shown
    with Intake(house, "http://localhost", lambda: at + timedelta(minutes=61)) as later:
        new = later.checkpoint()
        assert new != shown
        assert first_size(new) > first_size(shown)


@pytest.mark.parametrize("content", ["", "{}", "[", '{"at": 7, "checkpoint": "x"}'])
def test_a_shown_checkpoint_that_is_none_is_chosen_anew(house: Home, content: str) -> None:
    (house.path / intake_shown.FILE).write_text(content)
    with Intake(house, "http://localhost", now) as intake, house.ledger_to_read() as ledger:
        assert intake.checkpoint() == ledger.checkpoint()


def test_a_shown_checkpoint_of_another_ledger_is_not_shown(house: Home, tmp_path: Path) -> None:
    other = create_home(tmp_path / "other", "Elsewhere", "http://localhost:8461/ocsp/", now())
    with Intake(other, "http://localhost", now) as intake:
        foreign = intake.checkpoint()
    place = house.path / intake_shown.FILE
    place.write_bytes((other.path / intake_shown.FILE).read_bytes())
    with Intake(house, "http://localhost", now) as intake:
        assert intake.checkpoint() != foreign


def test_nonces_are_never_made_with_an_empty_secret(house: Home) -> None:
    (house.path / "intake.secret").write_bytes(b"")
    with Intake(house, "http://localhost", now) as intake:
        nonce = intake.nonce("ab" * 32)
    body = base64.urlsafe_b64decode(nonce)
    empty = hmac.digest(b"", b"lightseal/intake-nonce/v1\0" + body[:-16], "sha256")[:16]
    assert body[-16:] != empty
    assert len((house.path / "intake.secret").read_bytes()) == 32


def test_captures_that_a_crash_left_without_an_entry_are_counted_at_the_start(
    house: Home, capture: Capture, caplog: pytest.LogCaptureFixture
) -> None:
    with Intake(house, "http://localhost", now):
        assert "without an entry" not in caplog.text
    opening = capture().opening
    with house.registry() as registry:
        some = [bytes([number]) * 32 for number in range(5)]
        row = CaptureRow(
            device="cam",
            counter=opening.counter,
            link=opening.link,
            previous=opening.previous,
            claim=some[0],
            media=opening.media,
            binding=some[1],
            signature=some[2],
            commitment=opening.statement.commitment,
            certificate=some[4],
            at=now().replace(microsecond=0),
        )
        registry.add_capture(row)
    with Intake(house, "http://localhost", now):
        assert "captures without an entry: 1;" in caplog.text


def first_size(checkpoint: str) -> int:
    return int(checkpoint.split("\n")[1])


def relabelled(request: Request, name: str, value: str) -> Request:
    lines = ((key, value if key.lower() == name else line) for key, line in request.headers)
    return replace(request, headers=tuple(lines))


def raw_request(request: Request, body: bytes, more: str) -> bytes:
    head = "".join(f"{name}: {value}\r\n" for name, value in request.headers)
    return f"{request.method} {urlsplit(request.url).path} HTTP/1.1\r\n{head}{more}\r\n".encode() + body


def raw_exchange(server: Server, raw: bytes) -> bytes:
    parts = urlsplit(server.url)
    with socket.create_connection((parts.hostname, parts.port), timeout=20) as connection:
        connection.sendall(raw)
        answer = io.BytesIO()
        with contextlib.suppress(TimeoutError, ConnectionResetError):
            while piece := connection.recv(65536):
                answer.write(piece)
                if b"\r\n\r\n" in answer.getvalue() and answer.getvalue().endswith(b"}\n"):
                    break
    return answer.getvalue()


def with_one_key_twice(house: Home, camera: Camera) -> Camera:
    """The camera with one-time certificates: two numbers of its pool, and the same key and certificate for both."""
    pooled, key = replace(camera, lifetime="one-time"), generate_p256()
    plan = plan_claim_signing(
        Subject("XX", house.organisation, "Field Camera"),
        key.public_key,
        secrets.randbits(127) | 1 << 126,
        now(),
        issuer=house.certificate("issuing"),
        ocsp_url=house.ocsp_url,
        days=7,
    )
    certificate = plan.sign(house.key("issuing"))
    with house.registry() as registry:
        registry.add_certificates([certificate_row(certificate, "cam", "Field Camera", "one-time", 0)])
    store_key(pooled.path / "kept.pem", key, None)
    chain = pem_chain(certificate, house.certificate("issuing"))
    assert add_pool(pooled, [("file:kept.pem", chain)] * 2) == (1, 2)
    return pooled


def alike(camera: Camera, shoot: Shoot, count: int) -> Iterator[queue.Waiting]:
    """Captures with one number and one predecessor, as a device with a copied folder makes them."""
    with held(camera):
        pass
    state = camera.path / "chain" / "state.json"
    with camerawork(camera, now) as work:
        for number in range(count):
            state.unlink(missing_ok=True)
            taken = work.take(shoot())
            aside = taken.folder.with_name(f"aside-{number}")
            taken.folder.rename(aside)
            yield replace(taken, folder=aside)
