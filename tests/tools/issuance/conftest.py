"""A home whose two authorities run as processes of their own, as its users start them."""

import base64
import hashlib
import http.client
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from authn.attestation.status_list import StatusList
from storage.registry.rows import Product
from tools.founding import create_home
from tools.home import Home
from tools.issuance.judging import STATUS_LIST
from tools.softhsm import SoftHsm
from tools.swtpm import Swtpm

ROOT = Path(__file__).parents[3]
PROGRAM = "from tools.cli import main; main()"


def now() -> datetime:
    return datetime.now(UTC)


@dataclass(frozen=True)
class Reply:
    status: int
    body: dict[str, Any]

    @property
    def code(self) -> str | None:
        return self.body.get("error")


@dataclass
class Office:
    """A home with its products, and the address of its registration authority while that runs."""

    home: Home
    url: str = ""
    folder: Path = field(default_factory=Path)

    def command(self, *arguments: object) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [
                sys.executable,
                "-W",
                "error",
                "-c",
                PROGRAM,
                "--home",
                str(self.home.path),
                *map(str, arguments),
            ],
            env=environment(),
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    @contextmanager
    def running(self, *arguments: object) -> Iterator[tuple[str, "subprocess.Popen[str]"]]:
        # To a file: what a pipe holds and nobody reads stops the process when it is full.
        said = os.open(self._saying(arguments), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        process = subprocess.Popen(
            [
                sys.executable,
                "-W",
                "error",
                "-c",
                PROGRAM,
                "--home",
                str(self.home.path),
                *map(str, arguments),
            ],
            env=environment(),
            stdout=subprocess.PIPE,
            stderr=said,
            text=True,
        )
        try:
            assert process.stdout is not None
            line = process.stdout.readline().strip()
            assert line or process.poll() is None, self.said(*arguments)
            yield line, process
        finally:
            if process.poll() is None:
                process.terminate()
            process.communicate(timeout=60)
            os.close(said)

    def said(self, *arguments: object) -> str:
        """What a command that ran, or still runs, wrote to standard error."""
        return self._saying(arguments).read_text()

    def _saying(self, arguments: tuple[object, ...]) -> Path:
        return self.folder / f"said-{'-'.join(map(str, arguments[:2]))}"

    def token(self, product: str) -> str:
        """A token as `device token` makes it; the command itself is tested where a device joins."""
        token = os.urandom(32)
        with self.home.registry() as registry:
            registry.add_bootstrap(hashlib.sha256(token).digest(), product, now() + timedelta(hours=1))
        return token.hex()

    def post(self, path: str, fields: object) -> Reply:
        connection = http.client.HTTPConnection(urlsplit(self.url).netloc, timeout=90)
        try:
            body = fields if isinstance(fields, bytes) else json.dumps(fields).encode()
            connection.request("POST", path, body)
            response = connection.getresponse()
            text = response.read()
            assert b"Traceback" not in text
            return Reply(response.status, json.loads(text))
        finally:
            connection.close()

    def begin(self, product: str, token: str | None = None, **more: object) -> Reply:
        chosen = self.token(product) if token is None else token
        fields = {"token": chosen, "product": product, "kinds": ["none"], **more}
        return self.post("/v1/enrolments", fields)

    def complete(self, offer: Reply, *requests: bytes, evidence: object = None, **more: object) -> Reply:
        said = {"kind": "none", "data": base64.b64encode(b'{"keeping":"software"}').decode()}
        keys = [
            {"request": base64.b64encode(request).decode(), "evidence": evidence or said}
            for request in requests
        ]
        fields = {"challenge": offer.body["challenge"], "terms": offer.body["terms"], "keys": keys, **more}
        return self.post(f"/v1/enrolments/{offer.body['id']}", fields)


def environment() -> dict[str, str]:
    kept = ("PATH", "LANG", "LD_LIBRARY_PATH", "SOFTHSM2_CONF")
    return {name: os.environ[name] for name in kept if name in os.environ} | {
        "PYTHONPATH": str(ROOT),
        "HOME": "/nonexistent",
    }


def furnished(folder: Path) -> Office:
    home = create_home(folder / "h", "Test Newsroom", "http://127.0.0.1:8461/ocsp/", now())
    since = now()
    with home.registry() as registry:
        for name, lifetime, minimum, rules in (
            ("Test Camera", "standard", "E0", b"{}"),
            ("Pool Camera", "one-time", "E0", b"{}"),
            ("Bare Camera", "standard", "E1", b"{}"),
            ("Token Camera", "standard", "E1", b'{"operator-vouches":true}'),
            ("Proven Camera", "standard", "E2", b"{}"),
        ):
            registry.add_product(Product(name, home.organisation, lifetime, minimum, rules, since))
    (home.path / STATUS_LIST).write_bytes(StatusList(since.replace(microsecond=0)).encode())
    return Office(home, folder=folder)


@pytest.fixture(scope="session")
def office(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Office]:
    """Both authorities, running, for tests that do not stop them."""
    made = furnished(tmp_path_factory.mktemp("o"))
    with made.running("ca", "serve"), made.running("ra", "serve", "--port", "0") as (url, _):
        made.url = url
        yield made


@pytest.fixture
def own_office(tmp_path: Path) -> Office:
    """A home of its own, whose authorities the test starts and harms."""
    return furnished(tmp_path)


@pytest.fixture(scope="session")
def later() -> Callable[[int], datetime]:
    return lambda hours: now() + timedelta(hours=hours)


@pytest.fixture(scope="module")
def softhsm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SoftHsm]:
    """A token of the module's own, made of software; its tests are marked `needs("softhsm2")`."""
    with SoftHsm(tmp_path_factory.mktemp("token")) as token:
        yield token


@pytest.fixture(scope="module")
def swtpm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Swtpm]:
    """A TPM of the module's own, made of software; its tests are marked `needs("swtpm")`."""
    with Swtpm(tmp_path_factory.mktemp("tpm")) as tpm:
        yield tpm
