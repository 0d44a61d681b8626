"""`lightseal serve` as its users run it: one process for all, or the issuing authority in another one."""

import base64
import contextlib
import http.client
import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from PIL import Image

from authn.csr import make_request
from authn.evidence import Revocation
from authn.identity import key_id_of, pem_chain
from authn.keys import generate_p256
from authn.revocation import Statuses, check_revocation
from authn.withdrawal import read_crl
from storage.registry.rows import Target
from tools.camera.folder import read_camera
from tools.founding import create_home
from tools.home import Home
from tools.status_lists import authorities

ROOT = Path(__file__).parents[2]
PROGRAM = "from tools.cli import main; main()"
PRODUCT = "Field Camera"
QUERY, REPLY = "application/timestamp-query", "application/timestamp-reply"
ENDED = 128 + signal.SIGTERM
"""The exit status of a command that a signal ended, as shells give it (POSIX.1-2017, 2.8.2)."""
Shoot = Callable[[], Path]


def now() -> datetime:
    return datetime.now(UTC)


def environment() -> dict[str, str]:
    kept = {name: os.environ[name] for name in ("PATH", "LANG", "LD_LIBRARY_PATH") if name in os.environ}
    return {**kept, "PYTHONPATH": str(ROOT), "HOME": "/nonexistent"}


def argv(home: Home | None, *arguments: object) -> list[str]:
    chosen = ["--home", str(home.path)] if home is not None else []
    return [sys.executable, "-W", "error", "-c", PROGRAM, *chosen, *map(str, arguments)]


def run(home: Home | None, *arguments: object) -> "subprocess.CompletedProcess[str]":
    done = subprocess.run(
        argv(home, *arguments),
        env=environment(),
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert "Traceback" not in done.stdout + done.stderr
    return done


def succeeded(done: "subprocess.CompletedProcess[str]") -> str:
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@dataclass
class Running:
    """A command that serves: its first line says where, and its end must be clean."""

    process: "subprocess.Popen[str]"
    said: Path
    line: str

    def end(self, number: int = signal.SIGTERM) -> None:
        self.process.send_signal(number)
        self.process.wait(60)

    @property
    def complaints(self) -> str:
        """What it said besides what it decided."""
        lines = self.said.read_text().splitlines(keepends=True)
        return "".join(line for line in lines if '"level": "info"' not in line)

    @property
    def decisions(self) -> list[dict[str, object]]:
        return [json.loads(line) for line in self.said.read_text().splitlines() if line.startswith("{")]


@contextlib.contextmanager
def serving(home: Home, said: Path, *arguments: object) -> Iterator[Running]:
    with (
        said.open("w") as errors,
        subprocess.Popen(
            argv(home, *arguments),
            env=environment(),
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
        ) as process,
    ):
        try:
            assert process.stdout is not None
            line = process.stdout.readline().strip()
            assert line, said.read_text()
            yield Running(process, said, line)
        finally:
            if process.poll() is None:
                process.terminate()
                process.wait(60)


@dataclass(frozen=True)
class Reply:
    status: int
    kind: str
    body: bytes

    @property
    def fields(self) -> dict[str, object]:
        found = json.loads(self.body)
        assert isinstance(found, dict)
        return found


def ask(url: str, method: str, path: str, body: bytes = b"", kind: str | None = None) -> Reply:
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=60)
    try:
        connection.request(method, path, body or None, {} if kind is None else {"Content-Type": kind})
        response = connection.getresponse()
        return Reply(response.status, response.getheader("content-type") or "", response.read())
    finally:
        connection.close()


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


@pytest.fixture(scope="module")
def newsroom(tmp_path_factory: pytest.TempPathFactory) -> Home:
    """A home whose certificates name an address that is free on this machine."""
    folder = tmp_path_factory.mktemp("s")
    made = create_home(folder / "h", "Test Newsroom", f"http://127.0.0.1:{free_port()}/ocsp/", now())
    succeeded(run(made, "product", "add", PRODUCT))
    return made


@pytest.fixture
def shoot(tmp_path: Path) -> Shoot:
    """A small picture as a camera writes it, another one each time."""
    count = iter(range(1000))

    def picture() -> Path:
        number = next(count)
        dice = random.Random(number)  # noqa: S311 - a picture, not a secret
        path = tmp_path / f"DSC_{number:04}.jpg"
        Image.frombytes("RGB", (48, 32), dice.randbytes(48 * 32 * 3)).save(path, "JPEG", quality=80)
        return path

    return picture


def joined(home: Home, url: str, folder: Path, name: str) -> Path:
    token = folder.with_name(f"{name}.token")
    succeeded(run(home, "device", "token", PRODUCT, "--out", token))
    arguments = ("--service", url, "--token-file", token, "--product", PRODUCT, "--folder", folder)
    # Without a home, as on another machine.
    assert "Enrolled" in succeeded(run(None, "device", "join", *arguments, "--name", name))
    assert read_camera(folder).service == url
    return folder


def openssl(folder: Path, *arguments: object) -> str:
    done = subprocess.run(
        ["openssl", *map(str, arguments)],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return done.stdout + done.stderr


def handed_in(folder: Path) -> list[Path]:
    return sorted((folder / "queue").glob("*/*.jpg"))


def headlines(home: Home, *files: Path) -> list[tuple[str, str]]:
    lines = run(home, "verify", "--json", *files).stdout.splitlines()
    reports = [json.loads(line) for line in lines]
    return [(each["headline"], each["proven"]["revocation"]["state"]) for each in reports]


@pytest.mark.needs("openssl")
def test_one_process_enrols_takes_captures_answers_for_certificates_and_dates(
    newsroom: Home, shoot: Shoot, tmp_path: Path
) -> None:
    with serving(newsroom, tmp_path / "said", "serve", "--with-ca") as server:
        url = server.line
        assert urlsplit(url).port == urlsplit(newsroom.ocsp_url).port, "the address in the certificates"
        assert ask(url, "GET", "/v1/health").fields == {"status": "ok"}

        # A device joins, captures, and hands in.
        camera = joined(newsroom, url, tmp_path / "field-1", "field-1")
        pictures = [shoot(), shoot()]
        handed = succeeded(run(None, "capture", *pictures, "--folder", camera))
        assert handed.count("received, entry") == 2
        files = handed_in(camera)
        assert [headline for headline, _ in headlines(newsroom, *files)] == ["INTACT_SIGNER_RECOGNISED"] * 2
        assert all(path.with_name(f"{path.name}.receipt").exists() for path in files)

        # Its certificate is asked for at the address that stands in it.
        leaf = read_camera(camera).device().chain[0]
        issuing, root = newsroom.certificate("issuing"), newsroom.certificate("root")
        for name, content in (
            ("leaf.pem", pem_chain(leaf)),
            ("issuing.pem", pem_chain(issuing)),
            ("roots.pem", pem_chain(issuing, root)),
        ):
            (tmp_path / name).write_bytes(content)
        said = openssl(
            tmp_path,
            *("ocsp", "-issuer", "issuing.pem", "-sha256", "-cert", "leaf.pem", "-CAfile", "roots.pem"),
            *("-url", newsroom.ocsp_url, "-nonce"),
        )
        assert "Response verify OK" in said, said
        assert "leaf.pem: good" in said
        assert "WARNING" not in said.replace("WARNING: no nonce in response", ""), said

        # The lists: signed by their authorities, and read by others.
        for name in authorities(newsroom):
            reply = ask(url, "GET", f"/crl/{name}.crl")
            assert (reply.status, reply.kind) == (200, "application/pkix-crl")
            listed = read_crl(reply.body, newsroom.certificate(name))
            assert leaf.serial_number not in {entry.serial for entry in listed.entries}
            assert now() - listed.this_update < timedelta(days=2)
            (tmp_path / "list.der").write_bytes(reply.body)
            (tmp_path / "authority.pem").write_bytes(pem_chain(newsroom.certificate(name)))
            checked = openssl(
                tmp_path, "crl", "-inform", "DER", "-in", "list.der", "-CAfile", "authority.pem", "-noout"
            )
            assert "verify OK" in checked, checked

        # The clock.
        (tmp_path / "data").write_bytes(b"what is dated")
        clocks = [item.pem for item in newsroom.own_lists() if "time" in item.purpose.value]
        (tmp_path / "clocks.pem").write_bytes(b"".join(clocks))
        openssl(tmp_path, "ts", "-query", "-data", "data", "-sha384", "-cert", "-out", "query")
        reply = ask(url, "POST", "/tsa/", (tmp_path / "query").read_bytes(), QUERY)
        assert (reply.status, reply.kind) == (200, REPLY)
        (tmp_path / "reply").write_bytes(reply.body)
        verify = ("ts", "-verify", "-queryfile", "query", "-in", "reply", "-CAfile", "clocks.pem")
        assert "Verification: OK" in openssl(tmp_path, *verify)

        # It ends when it is told to, with nothing to complain of.
        server.end()
        assert server.process.returncode == ENDED
        assert server.complaints == ""
        enrolled, *received = server.decisions
        assert (enrolled["event"], enrolled["device"]) == ("enrolled", "field-1")
        assert [str(each["event"]).partition(", ")[0] for each in received] == [
            "capture 1 of field-1 received",
            "capture 2 of field-1 received",
        ]
        assert not [path for path in pictures if path.name in server.said.read_text()]
    assert not newsroom.audit().findings


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/"),
        ("GET", "/v1"),
        ("POST", "/v1/health"),
        ("GET", "/v1/enrolments"),
        ("DELETE", "/v1/enrolments/00"),
        ("GET", "/tsa"),
        ("GET", "/tsa/"),
        ("GET", "/crl/"),
        ("GET", "/crl/none.crl"),
        ("GET", "/crl/..%2f..%2fkeys%2froot.crl"),
        ("GET", "/../keys/root.pem"),
        ("GET", "/%00"),
    ],
)
def test_a_path_that_is_not_there_is_answered_as_every_error_is(idle: str, method: str, path: str) -> None:
    reply = ask(idle, method, path)
    assert reply.status == 404
    assert reply.kind == "application/json", reply.body
    assert set(reply.fields) == {"error", "reason", "remedy"}


@pytest.fixture(scope="module")
def idle(newsroom: Home, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The service without an issuing authority, for who asks for nothing that it has."""
    said = tmp_path_factory.mktemp("idle") / "said"
    with serving(newsroom, said, "serve", "--port", "0") as server:
        yield server.line
        server.end()
        assert server.complaints == ""


def begun(home: Home, url: str, folder: Path) -> tuple[str, bytes]:
    """An enrolment that was begun: where to complete it, and with what."""
    token = folder / "token"
    succeeded(run(home, "device", "token", PRODUCT, "--out", token))
    opening = {"token": token.read_text().strip(), "product": PRODUCT, "kinds": ["none"]}
    offer = ask(url, "POST", "/v1/enrolments", json.dumps(opening).encode())
    assert offer.status == 201, offer.body
    evidence = {"kind": "none", "data": base64.b64encode(b'{"keeping":"software"}').decode()}
    request = base64.b64encode(make_request(generate_p256())).decode()
    completion = {
        "challenge": offer.fields["challenge"],
        "terms": offer.fields["terms"],
        "keys": [{"request": request, "evidence": evidence}],
    }
    return f"/v1/enrolments/{offer.fields['id']}", json.dumps(completion).encode()


def issued(home: Home) -> int:
    key_id = key_id_of(home.certificate(home.issuers()[-1]))
    with home.registry() as registry:
        return len(registry.certificates(Target.of_ca(key_id)))


def test_while_the_issuing_authority_is_away_an_enrolment_waits_and_is_then_finished(
    newsroom: Home, shoot: Shoot, tmp_path: Path
) -> None:
    with serving(newsroom, tmp_path / "said", "serve", "--port", "0") as server:
        with serving(newsroom, tmp_path / "ca-said", "ca", "serve") as authority:
            camera = joined(newsroom, server.line, tmp_path / "field-2", "field-2")
            place, completion = begun(newsroom, server.line, tmp_path)
            before = issued(newsroom)
            authority.end(signal.SIGKILL)
        for _ in range(2):
            refused = ask(server.line, "POST", place, completion)
            assert (refused.status, refused.fields["error"]) == (503, "authority-unreachable")
            assert "lightseal ca serve" in str(refused.fields["remedy"])
        assert issued(newsroom) == before
        # Everything else goes on without it.
        assert "received, entry" in succeeded(run(None, "capture", shoot(), "--folder", camera))
        assert ask(server.line, "GET", "/v1/health").status == 200

        with serving(newsroom, tmp_path / "ca-said-again", "ca", "serve") as authority:
            finished = ask(server.line, "POST", place, completion)
            assert finished.status == 201, finished.body
            again = ask(server.line, "POST", place, completion)
            assert again.fields["batch"] == finished.fields["batch"], "asked twice, certified once"
            assert issued(newsroom) == before + 1
            authority.end()
            assert authority.process.returncode == ENDED
            assert authority.complaints == ""
        server.end()
        assert server.process.returncode == ENDED
        assert "Traceback" not in server.complaints
    assert not newsroom.audit().findings


def test_a_revoked_device_is_refused_and_its_pictures_are_called_withdrawn_at_once(
    newsroom: Home, shoot: Shoot, tmp_path: Path
) -> None:
    with serving(newsroom, tmp_path / "said", "serve", "--port", "0", "--with-ca") as server:
        camera = joined(newsroom, server.line, tmp_path / "field-3", "field-3")
        succeeded(run(None, "capture", shoot(), "--folder", camera))
        files = handed_in(camera)
        assert [headline for headline, _ in headlines(newsroom, *files)] == ["INTACT_SIGNER_RECOGNISED"]
        waits = shoot()
        succeeded(run(None, "capture", waits, "--folder", camera, "--offline"))

        since = (now() - timedelta(hours=1)).strftime("%Y-%m-%dT%H:%M:%SZ")
        arguments = ("revoke", "device", "field-3", "--reason", "key-compromise", "--since", since)
        assert "is withdrawn" in succeeded(run(newsroom, *arguments))
        revoked_at = time.monotonic()
        assert [headline for headline, _ in headlines(newsroom, *files)] == ["SIGNER_REVOKED"]

        refused = run(None, "upload", "--folder", camera)
        assert refused.returncode == 1
        assert refused.stderr.startswith("error[device-stopped]"), refused.stderr
        assert "device-revoked" in refused.stderr
        with newsroom.registry() as registry:
            assert [each.counter for each in registry.captures("field-3")] == [1]

        # The list that the running service hands out names it, too.
        listed = read_crl(ask(server.line, "GET", "/crl/issuing.crl").body, newsroom.certificate("issuing"))
        leaf = read_camera(camera).device().chain[0]
        assert leaf.serial_number in {entry.serial for entry in listed.entries}
        path = (leaf, newsroom.certificate("issuing"), newsroom.certificate("root"))
        statuses = Statuses(crls=(ask(server.line, "GET", "/crl/issuing.crl").body,))
        found = check_revocation(path, statuses, now(), now())
        assert (found.state, found.reason) == (Revocation.REVOKED, "keyCompromise")
        assert time.monotonic() - revoked_at < 60
        server.end()
        assert server.process.returncode == ENDED
    assert not newsroom.audit().findings
