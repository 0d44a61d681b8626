"""The issuing authority: certify what a registration authority approved, once the ledger has it.

Judges no evidence and asks no device: that is the other authority's word, which is recorded as
such. Its own are the rules for certificates (`authn.profile`), that no key is certified twice,
and that nothing is signed which is not logged.
"""

import hashlib
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from datetime import datetime, timedelta
from typing import Self

from authn.approval import Approval, ApprovalError
from authn.chain import build_chain
from authn.csr import RequestSignatureError, read_request
from authn.device import Certificate, encoded, spki
from authn.errors import CertificateError, IssuanceError, KeyFileError, KeyNotOursError, SelfCheckError
from authn.identity import (
    CertificatePlan,
    Lifetime,
    Subject,
    key_id_of,
    plan_claim_signing,
    spki_of,
)
from authn.keys import KeyProvider, PublicKey
from authn.profile import Profile, check_profile
from storage.entry import Kind
from storage.errors import EmptyLedgerError, LedgerError
from storage.ledger import Ledger
from storage.payload import canonical
from storage.record import Record
from storage.registry.registry import Registry
from storage.registry.rows import IssuedCertificate, Target
from tools.home import Home, require_valid
from tools.issuance.errors import (
    ApprovalRefusedError,
    ClockUnsafeError,
    KeyUnavailableError,
    KeyUnsuitableError,
    NotLoggedError,
    ProductRevokedError,
    RequestUnprovenError,
    SelfCheckFailedError,
)
from tools.issuance.journal import Case, Journal
from tools.issuance.order import Batch, Issued, Order, requests_digest

JOURNAL = "issuance"
TOLERANCE = timedelta(seconds=60)
"""How far the clock may stand behind the newest entry; the ledger itself bears less."""
REMEMBERED = timedelta(days=1)
"""How long an enrolment that is done can be asked for again; its approval holds for minutes."""
COUNTRY = "XX"


class Authority:
    """One issuing key, its certificate, and the journal of what is being issued. Safe between threads.

    `key` is the authority's own; of the registration authority it has the public key alone.
    """

    def __init__(
        self,
        home: Home,
        key: KeyProvider,
        registration: PublicKey,
        now: Callable[[], datetime],
        chance: Callable[[int], bytes],
    ) -> None:
        self._home, self._key, self._registration = home, key, registration
        self._now, self._chance = now, chance
        self._name = home.issuers()[-1]
        self._certificate = home.certificate(self._name)
        if spki_of(key.public_key) != spki(self._certificate):
            raise ApprovalRefusedError(f"the key is not that of the certificate {self._name} of this home")
        self._journal = Journal(home.path / JOURNAL)
        self._alone = threading.Lock()
        self._ledger: Ledger = home.ledger()
        try:
            self._registry: Registry = home.registry()
            with self._turn():
                self._recover()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Let go of ledger and registry."""
        self._ledger.close()
        registry = getattr(self, "_registry", None)
        if registry is not None:
            registry.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def issue(self, order: Order) -> Batch:
        """Certify the keys of an approved enrolment; the same enrolment again gets the same certificates."""
        # The plan (CP v0.2, 4.2 and 4.3; RFC 6962, 3.1 for the order of 5 and 6):
        # 1. The registration authority approved exactly this, within five minutes.
        # 2. The clock is not behind the ledger, and nothing that was withdrawn is certified.
        # 3. Plans with random serials; each meets the rules of the profile, or none is made.
        # 4. The keys are reserved, which succeeds once for each; what was decided is in the journal.
        # 5. Every certificate is an entry of the ledger: the point of no return.
        # 6. Sign, check what was signed, and record it; then it may leave.
        with self._turn():
            at = self._now().replace(microsecond=0)
            approval = self._approved(order, at)  # 1
            done = self._journal.done(approval.enrolment)
            if done is not None:
                _require_same(done[0], order)
                return done[1]
            case = self._journal.pending(approval.enrolment)
            if case is None:
                self._require_safe(order, at)  # 2
                case = self._decide(approval, order, at)
                _ = [plan.digest for plan in self._plans(case)]  # 3
                digests = [hashlib.sha256(key).digest() for key in approval.keys]
                self._registry.reserve_keys(digests, order.terms.device, at)  # 4
                self._journal.begin(case)
            _require_same(case.order.digest, order)
            return self._carry_out(case)

    def recall(self, enrolment: str, requests: tuple[bytes, ...]) -> Batch | None:
        """What an enrolment was given before, for the same requests; None where there is nothing yet."""
        with self._turn():
            case = self._journal.pending(enrolment)
            if case is not None and case.order.requests == requests:
                return self._carry_out(case)
            done = self._journal.done(enrolment)
            return None if done is None or done[0] != requests_digest(requests) else done[1]

    @contextmanager
    def _turn(self) -> Iterator[None]:
        """One order at a time, also where another process has the journal open."""
        with self._alone, self._journal.turn():
            yield

    # --- Steps of the plan

    def _approved(self, order: Order, at: datetime) -> Approval:
        try:
            approval = Approval.parse(order.approval, self._registration, at)
            keys = tuple(spki_of(read_request(request)) for request in order.requests)
        except RequestSignatureError as error:
            raise RequestUnprovenError(str(error)) from error
        except KeyNotOursError as error:
            raise KeyUnsuitableError(str(error)) from error
        except (ApprovalError, CertificateError) as error:
            raise ApprovalRefusedError(str(error)) from error
        terms = order.terms
        named = (terms.identity, terms.product, terms.lifetime)
        if (approval.enrolment, approval.product, approval.lifetime) != named or approval.keys != keys:
            raise ApprovalRefusedError("the approval is for other terms or other keys")
        return approval

    def _require_safe(self, order: Order, at: datetime) -> None:
        try:
            newest = self._ledger.entry(self._ledger.size - 1).logged_at
        except LedgerError as error:
            if not isinstance(error, EmptyLedgerError):
                raise NotLoggedError(f"the ledger cannot be read: {error}") from error
        else:
            if at < newest - TOLERANCE:
                raise ClockUnsafeError(
                    f"the clock shows {at:%H:%M:%S}, and the newest entry {newest:%H:%M:%S} UTC"
                )
        require_valid([self._certificate], at)
        stopped = {
            Target.of_product(order.terms.product),
            Target.of_ca(key_id_of(self._certificate)),
        }
        if any(withdrawal.target in stopped for withdrawal in self._registry.withdrawals()):
            raise ProductRevokedError(f"{order.terms.product} or its authority was withdrawn")

    def _decide(self, approval: Approval, order: Order, at: datetime) -> Case:
        count = len(approval.keys)
        return Case(
            approval.enrolment,
            order,
            approval.organisation,
            approval.custody.value,
            approval.evidence,
            approval.pseudonyms,
            tuple(int.from_bytes(self._chance(16)) >> 1 | 1 << 126 for _ in range(count)),
            tuple(self._chance(32) for _ in range(count)),
            self._name,
            at,
        )

    def _carry_out(self, case: Case) -> Batch:
        plans = self._plans(case)
        records = [_record(case, plan, number) for number, plan in enumerate(plans)]
        try:
            indices = self._ledger.append(records, max(case.at, self._now()), self._home.sign_note)  # 5
        except (LedgerError, KeyFileError, OSError) as error:
            raise NotLoggedError(f"the ledger did not take the issuance: {error}") from error
        rows = [  # 6
            self._kept(plan) or self._signed(case, plan, entry)
            for plan, entry in zip(plans, indices, strict=True)
        ]
        self._registry.add_certificates(rows)
        batch = Batch(encoded(self._issuer(case)), tuple(Issued(row.der, row.entry) for row in rows))
        self._journal.finish(case, batch)
        return batch

    def _signed(self, case: Case, plan: CertificatePlan, entry: int) -> IssuedCertificate:
        issuer = self._issuer(case)
        try:
            certificate = self._sign(case, plan)
        except (SelfCheckError, IssuanceError) as error:
            raise SelfCheckFailedError(str(error)) from error
        except KeyFileError as error:
            raise KeyUnavailableError(f"{error.code}: {error}") from error
        broken = check_profile((certificate, issuer), Profile.POLICY, plan.not_before)
        if broken:
            raise SelfCheckFailedError("; ".join(violation.explanation for violation in broken))
        chain = build_chain(certificate, (), (issuer,), plan.not_before)
        if chain.path is None:
            raise SelfCheckFailedError(f"a new certificate does not stand under its issuer: {chain.reason}")
        terms, der = case.order.terms, encoded(certificate)
        return IssuedCertificate(
            sha256=hashlib.sha256(der).digest(),
            der=der,
            serial=f"{plan.serial:x}",
            spki_sha256=hashlib.sha256(plan.spki).digest(),
            device=terms.device,
            product=terms.product,
            lifetime=terms.lifetime.value,
            issuer_key_id=plan.issuer.key_id,
            not_before=plan.not_before,
            not_after=plan.not_after,
            entry=entry,
        )

    def _sign(self, case: Case, plan: CertificatePlan) -> Certificate:
        if case.issuer == self._name:
            return plan.sign(self._key)
        with closing(self._home.key(case.issuer)) as key:  # the authority was succeeded while this waited
            return plan.sign(key)

    def _kept(self, plan: CertificatePlan) -> IssuedCertificate | None:
        """A certificate that was signed before a crash; another signature would make it another one."""
        return self._registry.certificate(plan.issuer.key_id, f"{plan.serial:x}")

    def _plans(self, case: Case) -> tuple[CertificatePlan, ...]:
        try:
            return tuple(
                plan_claim_signing(
                    Subject(COUNTRY, case.organisation, case.order.terms.product),
                    key,
                    serial,
                    case.at,
                    issuer=self._issuer(case),
                    ocsp_url=self._home.ocsp_url,
                    days=case.order.terms.lifetime.days,
                )
                for key, serial in zip(case.keys, case.serials, strict=True)
            )
        except IssuanceError as error:
            raise ApprovalRefusedError(str(error)) from error

    def _issuer(self, case: Case) -> Certificate:
        return self._certificate if case.issuer == self._name else self._home.certificate(case.issuer)

    def _recover(self) -> None:
        """Finish what was logged, and forget what was not: nobody was told of it."""
        for case in self._journal.all_pending():
            plans = self._plans(case)
            logged = [self._ledger.find("spki", hashlib.sha256(plan.spki).digest()) for plan in plans]
            if all(logged):
                with suppress(
                    KeyUnavailableError, NotLoggedError
                ):  # it stays pending, and is tried when asked for
                    self._carry_out(case)
            elif not any(logged):
                self._journal.drop(case)
        self._journal.forget(self._now() - REMEMBERED)


def _require_same(digest: str, order: Order) -> None:
    if digest != order.digest:
        raise ApprovalRefusedError("the enrolment was begun with other keys")


def _record(case: Case, plan: CertificatePlan, number: int) -> Record:
    payload = {
        "certificate_plan": plan.digest.hex(),
        "custody": case.custody,
        "evidence": _evidence_name(case, plan),
        "serial": f"{plan.serial:x}",
        "spki": hashlib.sha256(plan.spki).hexdigest(),
    }
    return Record(Kind.ISSUE, canonical(payload), case.salts[number], case.pseudonyms[number])


def _evidence_name(case: Case, plan: CertificatePlan) -> str:
    """The SHA-256 of the evidence; for a pool bound to each key, or whoever is shown two entries could link them."""
    if case.order.terms.lifetime is not Lifetime.ONE_TIME:
        return case.evidence.hex()
    return hashlib.sha256(case.evidence + hashlib.sha256(plan.spki).digest()).hexdigest()
