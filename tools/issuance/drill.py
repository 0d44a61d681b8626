"""Kill the issuing authority again and again while it issues, and count what is left.

Run by the tests in short and by `run_drill` in full. Whatever the moment, what was issued must be
what was logged, once the authority has started again, and no device may be left without an answer.
"""

import os
import random
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from authn.attestation.judgement import Evidence, Kind
from authn.chain import read_certificate
from authn.csr import make_request
from authn.identity import key_id_of, plan_digest
from authn.keys import Keeping, generate_p256
from storage import payload as payloads
from storage.entry import Kind as EntryKind
from storage.registry.errors import NonceReplayedError
from storage.registry.rows import Product, Target
from tools.home import Home
from tools.issuance.authority_server import RemoteAuthority, socket_of
from tools.issuance.desk import Desk, desk_of
from tools.issuance.enrolment import Completion, Opening, Wish
from tools.issuance.errors import AuthorityUnreachableError
from tools.issuance.judging import claim_of
from tools.issuance.wire import Welcome
from tools.own_log import operator

KILLS = 20
POOL = 8
PRODUCT = "Drill Device"
_PROGRAM = "from tools.cli import main; main()"
_PATIENCE = 120.0
_LONGEST = 0.4


@dataclass(frozen=True, slots=True)
class Drill:
    """What was found after the last restart."""

    kills: int
    enrolled: int
    """Enrolments that ended with certificates in the device's hands."""
    issued: frozenset[str]
    logged: frozenset[str]
    """Plan digests, in hex: of the certificates in the registry, and of the `issue` entries."""
    handed_out: frozenset[str]
    """Those of the certificates that devices have."""

    @property
    def holds(self) -> bool:
        """Whether issued = logged, and nobody has a certificate that is not among them."""
        return self.issued == self.logged and self.handed_out <= self.issued


def run_drill(home: Home, kills: int = KILLS, seed: int | None = None) -> Drill:
    """Kill the authority `kills` times with SIGKILL, at moments drawn at random, while devices enrol."""
    chance = random.Random(seed)  # noqa: S311 - moments to kill at, no secret
    with home.ledger_to_read() as ledger, home.registry() as registry:
        begun = ledger.size
        registry.add_product(Product(PRODUCT, home.organisation, "one-time", "E0", b"{}", _now()))
    with desk_of(home, RemoteAuthority(socket_of(home.path)), _now) as desk:
        device = _Device(desk)
        device.start()
        for _ in range(kills):
            with authority_process(home.path) as process:
                device.working.wait(_PATIENCE)
                device.working.clear()
                device.stopped.wait(chance.uniform(0.0, _LONGEST))
                process.send_signal(signal.SIGKILL)
                process.wait()
        with authority_process(home.path):
            device.stopped.set()
            device.join(_PATIENCE)
    if device.fault is not None:
        raise device.fault
    issued, logged = _counted(home, begun)
    return Drill(kills, device.enrolled, issued, logged, frozenset(device.held))


@contextmanager
def authority_process(home: Path, arguments: Sequence[str] = ()) -> "Iterator[subprocess.Popen[str]]":
    """`lightseal ca serve` as a process of its own; yields once it listens."""
    process = subprocess.Popen(  # noqa: S603 - this program
        [sys.executable, "-c", _PROGRAM, "--home", os.fspath(home), "ca", "serve", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[2],
    )
    try:
        if process.stdout is None or not process.stdout.readline():
            said = "" if process.stderr is None else process.stderr.read()
            raise AuthorityUnreachableError(f"the authority did not start: {said.strip()}")
        yield process
    finally:
        if process.poll() is None:
            process.terminate()
        process.communicate(timeout=_PATIENCE)


class _Device(threading.Thread):
    """Enrols one device after the other, and asks again wherever it got no answer."""

    def __init__(self, desk: Desk) -> None:
        super().__init__(name="drill", daemon=True)
        self._desk = desk
        self.working, self.stopped = threading.Event(), threading.Event()
        self.enrolled = 0
        self.held: set[str] = set()
        self.fault: Exception | None = None

    def run(self) -> None:
        try:
            while not self.stopped.is_set():
                self._enrol()
        except Exception as error:  # noqa: BLE001 - reported by the thread that waits for this one
            self.fault = error
            self.working.set()

    def _enrol(self) -> None:
        token = self._desk.registration.give_token(PRODUCT, _now() + timedelta(hours=1))
        offer, _ = self._desk.begin(Opening(token, PRODUCT, None, None, (Kind.NONE,)), None)
        evidence = Evidence(Kind.NONE, claim_of(Keeping.SOFTWARE))
        wishes = tuple(Wish(make_request(generate_p256()), evidence) for _ in range(POOL))
        completion = Completion(offer.challenge, offer.terms, wishes)
        welcome = self._completed(completion)
        if welcome is not None:
            self.enrolled += 1
            self.held |= {_digest(each.certificate) for each in welcome.enrolled.batch.certificates}

    def _completed(self, completion: Completion) -> Welcome | None:
        while True:
            self.working.set()
            try:
                return self._desk.complete(completion)
            except AuthorityUnreachableError:
                threading.Event().wait(0.02)
            except NonceReplayedError:
                return None  # killed before the journal had it: nobody remembers, and the device begins again


def _counted(home: Home, begun: int) -> tuple[frozenset[str], frozenset[str]]:
    key_id = key_id_of(home.certificate(home.issuers()[-1]))
    with home.registry() as registry:
        issued = frozenset(
            _digest(each.der) for each in registry.certificates(Target.of_ca(key_id)) if each.entry >= begun
        )
    logged, own = set(), operator(home.own.origin)
    with home.ledger_to_read() as ledger:
        for index, entry in enumerate(ledger.entries(begun, ledger.size), begun):
            if entry.kind is EntryKind.ISSUE and entry.key != own:  # responders are certified beside devices
                logged.add(str(payloads.parse(ledger.payload(index) or b"{}")["certificate_plan"]))
    return issued, frozenset(logged)


def _digest(der: bytes) -> str:
    return plan_digest(read_certificate(der)).hex()


def _now() -> datetime:
    return datetime.now(UTC)
