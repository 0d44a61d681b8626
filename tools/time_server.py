"""The home's time-stamp unit as a service: what it needs beside its key, and how it is kept from stamping falsely.

Three things run beside the application: the sequencer's thread, which records tokens in
batches; one that looks how far the ledger and its witnesses have come, below which no token
may be dated; and, where peers are named, one that asks them for the time. A token leaves when
it is in the ledger. The peers' word is the Date of an HTTP answer: good to a second and the time
that it took, of which no more counts than `authn.timestamp.clock` says, and worth what the peer
and the way to it are; plain HTTP is anybody's on the way.
"""

import concurrent.futures
import http.client
import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from email.utils import parsedate_to_datetime

import authn.errors
import storage.errors
import tools.errors
from authn.timestamp.authority import (
    Authority,
    Issued,
    RecordingError,
    Reserved,
    Safeguards,
    stamping_period,
)
from authn.timestamp.clock import Reading, Sighting, Tolerances, Watch
from storage.entry import Kind
from storage.policy import Policy
from storage.record import Record
from storage.sequencer import Sequencer
from tools.clock import LOOK_SECONDS, Floor, steady
from tools.errors import Error, UsageError
from tools.home import TIME_STAMP_POLICY, Home
from tools.published import InForce
from tools.relaying import address_of, exchange
from tools.serials import SERIALS, SerialFile

MAX_PEERS = 16
PEER_SECONDS = 3.0
ASKING_SECONDS = 60.0
# A token that waited longer to be recorded says too little of when it was asked for.
RECORD_SECONDS = 10.0
_DATE = timedelta(milliseconds=500)
_log = logging.getLogger(__name__)


class StampingOverError(Error):
    """The unit's key may not stamp now, so every answer would be a refusal."""

    code = "time-stamping-over"
    remedy = "Look at the clock first; where it is right, run 'lightseal tsa renew'. Tokens that were given stay good."


@dataclass(frozen=True, slots=True)
class TimeService:
    """What `lightseal tsa serve` was asked for: who is asked for the time, how many must agree, whose witness counts."""

    peers: tuple[str, ...] = ()
    quorum: int | None = None
    witnesses: Policy | None = None

    def __post_init__(self) -> None:
        for url in self.peers:
            address_of(url)
        if len(self.peers) > MAX_PEERS or len(set(self.peers)) != len(self.peers):
            raise UsageError(f"name at most {MAX_PEERS} peers, each once")
        if self.quorum is not None and not 0 < self.quorum <= len(self.peers):
            raise UsageError("as many peers as must agree have to be named")

    @property
    def agreeing(self) -> int:
        """How many peers have to agree: more than half, where nothing else was asked for."""
        if self.quorum is not None:
            return self.quorum
        return len(self.peers) // 2 + 1 if self.peers else 0


@contextmanager
def time_unit(home: Home, service: TimeService, now: Callable[[], datetime]) -> Iterator[Authority]:
    """Open ledger, sequencer and watches of their own, and close them in the end."""
    with ExitStack() as stack:
        writing = stack.enter_context(home.ledger())
        sign = home.own.signer()

        def append(records: Sequence[Record]) -> tuple[int, ...]:
            try:
                return writing.append(records, now(), sign)
            except (authn.errors.Error, tools.errors.Error) as error:
                raise storage.errors.LedgerError(f"{error.code}: {error}") from error
            except OSError as error:  # such as no descriptor being left
                raise storage.errors.LedgerError(str(error)) from error

        sequencer = stack.enter_context(Sequencer(append))
        yield stack.enter_context(unit_beside(home, sequencer, service, now))


@contextmanager
def unit_beside(
    home: Home, sequencer: Sequencer, service: TimeService, now: Callable[[], datetime]
) -> Iterator[Authority]:
    """A unit whose tokens go through a sequencer that is there already, as in `lightseal serve`."""
    begins, ends = stamping_period(home.certificate("time-stamping"))
    if not begins <= now() <= ends:
        raise StampingOverError(f"this unit's key stamps from {begins:%Y-%m-%d} to {ends:%Y-%m-%d}")
    with ExitStack() as stack:
        reading = stack.enter_context(home.ledger_to_read())
        witnesses = None if service.witnesses is None else InForce(home.own, service.witnesses)
        floor = Floor(reading, witnesses)
        floor.look()
        watch = Watch(now(), steady, Tolerances(quorum=service.agreeing))
        recorder = Recorder(home, sequencer)
        unit = Authority(
            home.key("time-stamping"),
            (home.certificate("time-stamping"),),
            TIME_STAMP_POLICY,
            now,
            Reserved(SerialFile(home.path / SERIALS, now)),
            Safeguards(lambda moment: watch.doubt(moment) or floor.doubt(), floor, recorder),
        )
        stack.enter_context(_repeated("time-floor", LOOK_SECONDS, floor.look))
        if service.peers:
            ask = _Asking(service.peers, watch, now)
            ask()
            stack.enter_context(_repeated("time-peers", ASKING_SECONDS, ask))
        yield unit


class Recorder:
    """Puts each token into the ledger before it leaves."""

    def __init__(self, home: Home, sequencer: Sequencer) -> None:
        self._own, self._sequencer = home.own, sequencer

    def __call__(self, issued: Issued) -> None:
        """Return when the token is durable; the time is in it, so that one dated back contradicts its neighbours."""
        fields = {
            "imprint": issued.imprint.hex(),
            "serial": f"{issued.serial:x}",
            "time": f"{issued.gen_time:%Y-%m-%dT%H:%M:%SZ}",
            "token": issued.sha256,
        }
        try:
            record = self._own.own_record(Kind.TOKEN, fields)
            self._sequencer.submit((record,)).result(RECORD_SECONDS)
        except storage.errors.Error as error:
            _log.error("%s: %s", error.code, error)
            raise RecordingError(str(error)) from error
        except concurrent.futures.TimeoutError as error:
            _log.error("a token was not recorded within %d s", RECORD_SECONDS)
            raise RecordingError("the token was not recorded in time") from error


class _Asking:
    """Asks every peer at once, each in a thread that nobody waits for beyond `PEER_SECONDS`."""

    def __init__(self, peers: tuple[str, ...], watch: Watch, now: Callable[[], datetime]) -> None:
        self._peers, self._watch, self._now = peers, watch, now

    def __call__(self) -> None:
        heard: list[Sighting] = []

        def ask(url: str) -> None:
            try:
                heard.append(sighted(url, self._now))
            except (OSError, http.client.HTTPException, ValueError) as error:
                _log.warning("the time source %s did not say the time: %s", url, type(error).__name__)

        threads = [threading.Thread(target=ask, args=(url,), daemon=True) for url in self._peers]
        for thread in threads:
            thread.start()
        deadline = time.monotonic() + PEER_SECONDS + 0.5
        for thread in threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        self._watch.hear(tuple(heard), self._now())


def sighted(url: str, now: Callable[[], datetime]) -> Sighting:
    """Ask one peer what time it is (RFC 9110, 6.6.1); raises OSError, HTTPException or ValueError."""
    began = steady()
    answer = exchange("HEAD", url, None, time.monotonic() + PEER_SECONDS)
    ended, wall = steady(), now()
    said = parsedate_to_datetime(answer.date)
    if said.tzinfo is None:
        raise ValueError("the date has no zone")
    travel = timedelta(seconds=(ended - began) / 2)
    # A Date is cut to its second, and was true somewhere on the way.
    return Sighting(url, said + _DATE - (wall - travel), travel + _DATE, Reading(wall, ended))


@contextmanager
def _repeated(name: str, seconds: float, act: Callable[[], None]) -> Iterator[None]:
    stop = threading.Event()

    def run() -> None:
        while not stop.wait(seconds):
            act()

    thread = threading.Thread(target=run, name=name, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
