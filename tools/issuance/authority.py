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
from storage.payload import canonical, parse
from storage.record import Record
from storage.registry.errors import DeviceRevokedError, DeviceSuspendedError, KeyReusedError
from storage.registry.registry import Registry
from storage.registry.rows import IssuedCertificate, Status, Target
from tools.home import Home, open_home, require_valid
from tools.issuance.errors import (
    ApprovalRefusedError,
    ClockUnsafeError,
    DeviceSuspectError,
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
WAITS = timedelta(hours=1)
"""How long what was approved may wait for the ledger to take it; after that the device enrols again."""
COUNTRY = "XX"


class Authority:
    """One issuing key, its certificate, and the journal of what is being issued. Safe between threads.

    `key` is the authority's own; of the registration authority it has the public key alone. When
    the home gets a newer authority, that one's key is opened where the home says, and issues from
    the next order on.
    """

    def __init__(
        self,
        home: Home,
        key: KeyProvider,
        registration: PublicKey,
        now: Callable[[], datetime],
        chance: Callable[[int], bytes],
    ) -> None:
        self._home, self._registration = home, registration
        self._now, self._chance = now, chance
        self._name = home.issuers()[-1]
        self._certificate = home.certificate(self._name)
        self._keys = {self._name: key}
        self._opened: list[KeyProvider] = []
        _require_own(key, self._name, self._certificate)
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
        """Let go of ledger and registry, and of the keys that were opened here."""
        for key in self._opened:
            key.close()
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
        # 4. What was decided is in the journal; then the keys are reserved, which succeeds once for each.
        #    An enrolment that was interrupted here goes on from 2, with what it decided and reserved.
        # 5. Every certificate is an entry of the ledger: the point of no return.
        # 6. Sign, check what was signed, and record it; then it may leave.
        with self._turn():
            at = self._now().replace(microsecond=0)
            approval = self._approved(order, at)  # 1
            done = self._journal.done(approval.enrolment, at - REMEMBERED)
            if done is not None:
                _require_same(done[0], order)
                return done[1]
            case = self._journal.pending(approval.enrolment)
            if case is not None:
                _require_same(case.order.digest, order)
                return self._resume(case, at)
            self._succeed()
            self._require_safe(order, self._certificate, at)  # 2
            case = self._decide(approval, order, at)
            _ = [plan.digest for plan in self._plans(case)]  # 3
            self._journal.begin(case)  # 4
            try:
                self._registry.reserve_keys(_digests(case), order.terms.device, at)
            except KeyReusedError:
                self._journal.drop(case)
                raise
            return self._carry_out(case)

    def recall(self, enrolment: str, requests: tuple[bytes, ...]) -> Batch | None:
        """What an enrolment was given before, for the same requests; None where there is nothing yet."""
        with self._turn():
            at = self._now().replace(microsecond=0)
            case = self._journal.pending(enrolment)
            if case is not None and case.order.requests == requests:
                return self._resume(case, at)
            done = self._journal.done(enrolment, at - REMEMBERED)
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
        if approval.origin != self._home.own.origin:
            raise ApprovalRefusedError(f"the approval is for the authority of {approval.origin}")
        terms = order.terms
        named = (terms.identity, terms.product, terms.lifetime)
        if (approval.enrolment, approval.product, approval.lifetime) != named or approval.keys != keys:
            raise ApprovalRefusedError("the approval is for other terms or other keys")
        return approval

    def _succeed(self) -> None:
        """Issue from the newest authority of the home, where another one was installed meanwhile."""
        name = self._home.issuers()[-1]
        if name == self._name:
            return
        home = open_home(self._home.path)  # it says where the new key is
        try:
            key = home.key(name)
        except KeyFileError as error:
            raise KeyUnavailableError(
                f"the key of {name}, which issues now: {error.code}: {error}"
            ) from error
        try:
            certificate = home.certificate(name)
            _require_own(key, name, certificate)
        except BaseException:
            key.close()
            raise
        self._opened.append(key)
        self._keys[name] = key
        self._home, self._name, self._certificate = home, name, certificate

    def _resume(self, case: Case, at: datetime) -> Batch:
        """Carry out what was decided before. What is not logged yet must still be right, and not have waited long."""
        if not all(self._logged(case)):
            if at - case.at > WAITS:
                self._journal.drop(case)
                raise ApprovalRefusedError(f"the approval waited for more than {WAITS}; enrol again")
            self._require_safe(case.order, self._issuer(case), at)
            try:
                self._registry.reserve_keys(_digests(case), case.order.terms.device, at)
            except KeyReusedError:
                # Its own reservation, if no certificate for one of the keys was ever logged.
                if any(self._ledger.find("spki", digest) for digest in _digests(case)):
                    self._journal.drop(case)
                    raise
        return self._carry_out(case)

    def _logged(self, case: Case) -> list[bool]:
        """Of each key, whether the ledger has the issuance that was decided here."""
        return [
            any(
                parse(self._ledger.payload(index) or b"{}").get("certificate_plan") == plan.digest.hex()
                for index in self._ledger.find("spki", digest)
            )
            for plan, digest in zip(self._plans(case), _digests(case), strict=True)
        ]

    def _require_safe(self, order: Order, issuer: Certificate, at: datetime) -> None:
        try:
            newest = self._ledger.entry(self._ledger.size - 1).logged_at
        except LedgerError as error:
            if not isinstance(error, EmptyLedgerError):
                raise NotLoggedError(f"the ledger cannot be read: {error}") from error
        else:
            if at < newest - TOLERANCE:
                raise ClockUnsafeError(
                    f"the clock shows {at:%Y-%m-%d %H:%M:%S}, and the newest entry {newest:%Y-%m-%d %H:%M:%S} UTC"
                )
        require_valid([issuer], at)
        withdrawn = {withdrawal.target for withdrawal in self._registry.withdrawals()}
        if withdrawn & {Target.of_product(order.terms.product), Target.of_ca(key_id_of(issuer))}:
            raise ProductRevokedError(f"{order.terms.product} or its authority was withdrawn")
        self._require_device(order.terms.device, withdrawn)

    def _require_device(self, name: str, withdrawn: set[Target]) -> None:
        device = self._registry.device(name)
        if Target.of_device(device.name) in withdrawn:
            raise DeviceRevokedError(f"device {device.name} was revoked")
        match device.status:
            case Status.SUSPECT:
                raise DeviceSuspectError(f"device {device.name} is suspect")
            case Status.SUSPENDED:
                raise DeviceSuspendedError(f"device {device.name} is suspended")
            case Status.REVOKED | Status.RETIRED:
                raise DeviceRevokedError(f"device {device.name} is {device.status.value}")
            case Status.PENDING | Status.ACTIVE:
                pass

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
        try:
            self._registry.add_certificates(rows)
        except KeyReusedError:
            self._journal.drop(case)  # another device's key after all: what was signed leaves nobody's hands
            raise
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
        if case.issuer in self._keys:
            return plan.sign(self._keys[case.issuer])
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
        """Finish what was logged. What was not waits until its device asks again, but not for ever."""
        for case in self._journal.all_pending():
            if all(self._logged(case)):
                with suppress(
                    KeyUnavailableError, NotLoggedError, KeyReusedError
                ):  # it stays pending, and is tried when asked for
                    self._carry_out(case)
            elif self._now() - case.at > WAITS:
                self._journal.drop(case)
        self._journal.forget(self._now() - REMEMBERED)


def _require_own(key: KeyProvider, name: str, certificate: Certificate) -> None:
    if spki_of(key.public_key) != spki(certificate):
        raise ApprovalRefusedError(f"the key is not that of the certificate {name} of this home")


def _digests(case: Case) -> list[bytes]:
    return [hashlib.sha256(spki_of(key)).digest() for key in case.keys]


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
