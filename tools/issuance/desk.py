"""Where devices enrol: registration, with what a home adds to it, opened once and closed once.

The same desk serves strangers over HTTP and devices of the home itself.
"""

import secrets
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import datetime

from authn.attestation.judgement import Evidence, Judgement
from storage.errors import EmptyLedgerError
from tools.home import Home
from tools.intake_shown import Shown
from tools.issuance.authority import Authority
from tools.issuance.enrolment import Completion, Door, Offer, Opening, Question, Reception
from tools.issuance.judging import Judging
from tools.issuance.registration import Issuing, Registration
from tools.issuance.wire import TpmKeys, Welcome

REGISTRATION_KEY = "ra"


@dataclass(frozen=True, slots=True)
class Desk:
    """A registration authority of a home; its parts are open while it is."""

    home: Home
    registration: Registration
    judging: Judging
    now: Callable[[], datetime]

    def begin(self, opening: Opening, tpm: TpmKeys | None) -> tuple[Offer, bytes | None]:
        """A challenge, and for a TPM what only it can open."""
        offer = self.registration.open(opening)
        if tpm is None:
            return offer, None
        return offer, self.judging.credential(offer.challenge, tpm.ek, tpm.ak).encode()

    def complete(self, completion: Completion) -> Welcome:
        """The certificates, and the ledger that has them."""
        enrolled = self.registration.complete(completion)
        try:
            with self.home.ledger_to_read() as ledger:
                # The one that all devices are shown this hour: one of its own would tell a device's captures apart.
                checkpoint = Shown(self.home.path, ledger, lambda _: None).at(self.now())
        except EmptyLedgerError:
            checkpoint = ""
        return Welcome(enrolled, tuple(str(key) for key in self.home.own.as_saved().keys), checkpoint)


@contextmanager
def desk_of(
    home: Home, authority: Issuing, now: Callable[[], datetime], door: Door = Door.NETWORK
) -> Iterator[Desk]:
    """Open the registration authority of a home; `authority` is asked to certify."""

    def judge(evidence: Evidence, question: Question, at: datetime) -> Judgement:
        return Judging.of_home(home)(
            evidence, question, at
        )  # a new status list counts from the next device on

    with home.registry() as registry, closing(home.key(REGISTRATION_KEY)) as key:
        reception = Reception(home.own.origin, door)
        registration = Registration(registry, key, authority, judge, now, secrets.token_bytes, reception)
        yield Desk(home, registration, Judging.of_home(home), now)


@contextmanager
def authority_of(home: Home, now: Callable[[], datetime]) -> Iterator[Authority]:
    """Open the issuing authority of a home in this process: only where this user has all keys anyway."""
    with (
        closing(home.key(REGISTRATION_KEY)) as registration,
        closing(home.key(home.issuers()[-1])) as key,
        Authority(home, key, registration.public_key, now, secrets.token_bytes) as authority,
    ):
        yield authority


@contextmanager
def own_desk(home: Home, now: Callable[[], datetime]) -> Iterator[Desk]:
    """Both authorities in this process, for devices that the operator enrols himself, and vouches for."""
    with authority_of(home, now) as authority, desk_of(home, authority, now, Door.HOME) as desk:
        yield desk
