"""The registration authority: who may have a certificate, for which product, on what evidence.

It speaks with devices and signs approvals; it cannot sign a certificate. Evidence is judged by
`authn.attestation` and kept as it was judged, so that it can be judged again. What is not
known here: whether the device that proves itself is in the hands it was given to.
"""

import hashlib
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from typing import NoReturn, Protocol

import authn.errors
from authn.approval import MAX_KEYS, Approval
from authn.attestation.judgement import MAX_EVIDENCE, Evidence, Judgement
from authn.chain import read_certificate
from authn.csr import RequestError, RequestSignatureError, read_request
from authn.device import pseudonym, spki
from authn.errors import CertificateError, KeyNotOursError
from authn.evidence import Custody
from authn.identity import Lifetime, spki_of
from authn.keys import KeyProvider, PublicKey, algorithm_of, signature_holds
from storage.payload import canonical
from storage.registry.errors import (
    DeviceRevokedError,
    DeviceSuspendedError,
    DeviceUnknownError,
    PinConflictError,
    RefusedError,
)
from storage.registry.registry import Registry
from storage.registry.rows import Device, Product, Status, Target
from tools.home import SERVICE_PRODUCT
from tools.issuance.enrolment import (
    Completion,
    Enrolled,
    Offer,
    Opening,
    Question,
    Reception,
    Statement,
    renewal_text,
)
from tools.issuance.errors import (
    AttestationRefusedError,
    CustodyTooLowError,
    DeviceSuspectError,
    DeviceTakenError,
    Error,
    KeyUnsuitableError,
    LifetimeRefusedError,
    MalformedError,
    PinChangedError,
    ProductRefusedError,
    ProductReservedError,
    ProductRevokedError,
    RenewalError,
    RequestUnprovenError,
    TermsError,
)
from tools.issuance.order import Batch, Order
from tools.issuance.refusals import status_of
from tools.issuance.terms import Terms, Title

CHALLENGE_BYTES = 32
CHALLENGE_LIFE = timedelta(minutes=5)
TOKEN_BYTES = 32
FORGOTTEN = timedelta(days=1)
"""How long after its end it is still known that a challenge or a token was there."""
RENEWABLE = timedelta(days=90)
"""How long after its end a certificate can be renewed: a device is offline for weeks, and stays the same."""
PURPOSE = "enrolment"
MAX_STATEMENT = MAX_EVIDENCE - 2048
"""What is kept is the statement with the question it answered, in one piece of evidence."""
_OUR_FAULT = 500
_PURGED = 100


class Issuing(Protocol):
    """The issuing authority, wherever it runs."""

    def issue(self, order: Order) -> Batch:
        """Have the keys of an approved enrolment certified."""
        ...

    def recall(self, enrolment: str, requests: tuple[bytes, ...]) -> Batch | None:
        """What an enrolment was given before, for the same requests."""
        ...


Judge = Callable[[Evidence, Question, datetime], Judgement]


class Registration:
    """The registration authority of one home. Safe between threads, as far as its parts are."""

    def __init__(
        self,
        registry: Registry,
        key: KeyProvider,
        authority: Issuing,
        judge: Judge,
        now: Callable[[], datetime],
        chance: Callable[[int], bytes],
        reception: Reception,
    ) -> None:
        self._registry, self._key, self._authority, self._judge = registry, key, authority, judge
        self._now, self._chance, self._reception = now, chance, reception

    def give_token(self, product: str, expires: datetime) -> bytes:
        """Make a token that enrols one device of this product; only its digest is kept."""
        require_for_devices(self._registry.product(product).name)
        token = self._chance(TOKEN_BYTES)
        self._registry.add_bootstrap(hashlib.sha256(token).digest(), product, expires)
        return token

    def open(self, opening: Opening) -> Offer:
        """Use up the token, and give a challenge for five minutes."""
        at = self._now()
        named = opening.product
        if opening.token is None:
            named = self._registry.device(opening.device or "").product
        product = self._registry.product(named)
        self._require_standing(product)
        lifetime = opening.lifetime or Lifetime(product.lifetime)
        if lifetime is not Lifetime(product.lifetime):
            raise LifetimeRefusedError(f"certificates of {product.name} are {product.lifetime} ones")
        title = Title.RENEWAL if opening.token is None else Title.TOKEN
        if title is Title.RENEWAL:
            self._require_active(self._registry.device(opening.device or ""), product)
        elif opening.token is not None:
            require_for_devices(product.name)
            granted = self._registry.use_bootstrap(hashlib.sha256(opening.token).digest(), at)
            if granted.name != product.name:
                raise ProductRefusedError("the token is for another product, and is used up now")
        self._registry.purge(at - FORGOTTEN, _PURGED)
        challenge = self._chance(CHALLENGE_BYTES)
        digest = hashlib.sha256(challenge)
        device = opening.device or self._chance(8).hex()
        terms = Terms(digest.hexdigest(), device, product.name, lifetime, title, opening.kinds)
        expires = at + CHALLENGE_LIFE
        self._registry.add_challenge(digest.digest(), PURPOSE, terms.identity, expires)
        return Offer(challenge, terms, expires)

    def complete(self, completion: Completion) -> Enrolled:
        """Certify the keys of a device that proves what its product wants."""
        # The plan (section 4.2 of the C2PA Certificate Policy v0.2, as far as a registration authority has a part):
        # 1. Requests prove possession of their keys; an enrolment that was finished is answered again.
        # 2. The challenge is used up, whatever comes after: nobody may try twice.
        # 3. The device may enrol: product and device stand, and a renewal is signed by the key before.
        # 4. The evidence of every key is judged; a hard fault refuses, the least label counts.
        # 5. The product's minimum is met, and what was pinned first is shown again; a token alone makes nobody
        #    an existing device, unless it shows a pin that only that device can.
        # 6. Device and evidence are recorded, each piece with its key; of a certified key no other is taken.
        # 7. An approval is signed, and the issuing authority certifies.
        at = self._now().replace(microsecond=0)
        terms = completion.terms
        keys = _keys_of(completion)  # 1
        requests = tuple(wish.request for wish in completion.wishes)
        if hashlib.sha256(completion.challenge).hexdigest() != terms.challenge:
            raise TermsError("the terms are those of another challenge")
        found = self._authority.recall(terms.identity, requests)
        if found is not None:
            return self._welcomed(terms, found, None, at)
        digest = bytes.fromhex(terms.challenge)
        self._registry.use_challenge(digest, PURPOSE, terms.identity, self._now())  # 2
        product = self._registry.product(terms.product)
        before = self._applicant(completion, product, keys, at)  # 3
        statements, judgements = self._judged(completion, product, keys, at)  # 4
        custody = min(each.custody for each in judgements)
        if not all(each.meets(Custody(product.minimum)) for each in judgements):  # 5
            raise CustodyTooLowError(
                f"{product.name} wants {product.minimum}, and the evidence shows {custody.value}"
            )
        pins = {(each.pin, each.pin_is_own) for each in judgements}
        if len(pins) != 1:
            raise AttestationRefusedError("one-device", "the keys' evidence is not of one device")
        if before is not None and terms.title is Title.TOKEN:
            self._require_same(before, judgements[0])
        device = self._known(before, product, terms, judgements[0].pin, custody, at)  # 6
        approval = Approval(
            terms.identity,
            product.organisation,
            product.name,
            terms.lifetime,
            tuple(map(spki_of, keys)),
            tuple(pseudonym(device.salt, spki_of(key)) for key in keys),
            custody,
            _evidence_digest(statements),
            at,
            self._reception.origin,
        )
        try:
            for statement, judgement in zip(statements, judgements, strict=True):
                self._registry.add_evidence(
                    device.name,
                    hashlib.sha256(statement.question.spki).digest(),
                    statement.evidence.kind.value,
                    statement.encode(),
                    judgement.custody.value,
                    at,
                    broken_rules(judgement),
                )
            batch = self._authority.issue(Order(approval.sign(self._key), terms, requests))  # 7
        except (Error, RefusedError) as error:
            if device.status is Status.PENDING and status_of(error) < _OUR_FAULT:
                self._registry.set_status(device.name, Status.RETIRED, at, f"refused: {error.code}")
            raise
        return self._welcomed(terms, batch, custody, at)

    # --- Steps of the plan

    def _applicant(
        self, completion: Completion, product: Product, keys: Sequence[PublicKey], at: datetime
    ) -> Device | None:
        """The device that asks, as it is known; None for a new one."""
        self._require_standing(product)
        terms = completion.terms
        if terms.title is Title.TOKEN:
            require_for_devices(product.name)
        try:
            device = self._registry.device(terms.device)
        except DeviceUnknownError:
            if terms.title is Title.RENEWAL:
                raise
            return None
        self._require_active(device, product)
        if terms.title is Title.RENEWAL:
            self._require_own(completion, device, keys, at)
        return device

    def _require_same(self, device: Device, judgement: Judgement) -> None:
        """Only the device itself takes its name again by a token; one that never got a certificate has no name yet.

        A token is made for a product and not for a device: whoever has one must neither become
        another device nor, by naming it, harm it. So this refuses and leaves the device as it is.
        """
        untried = device.status is Status.PENDING and not self._registry.certificates(
            Target.of_device(device.name)
        )
        if untried and device.pin in (None, judgement.pin):
            return
        if not judgement.pin_is_own or not judgement.pin or judgement.pin != device.pin:
            raise DeviceTakenError(
                f"a device named {device.name} is enrolled, and nothing only it can show was shown"
            )

    def _require_own(
        self, completion: Completion, device: Device, keys: Sequence[PublicKey], at: datetime
    ) -> None:
        if completion.proof is None:
            raise RenewalError("a renewal is signed with the key that was certified before")
        digest, signature = completion.proof
        row = self._registry.certificate_by_digest(digest)
        if row is None or row.device != device.name or not row.not_before <= at <= row.not_after + RENEWABLE:
            raise RenewalError("no certificate of this device that can still be renewed was named")
        if self._registry.withdrawal_of(row) is not None:
            raise DeviceRevokedError("the certificate that is to be renewed was revoked")
        key = read_certificate(row.der).public_key()
        text = renewal_text(completion.challenge, tuple(map(spki_of, keys)))
        known = hashlib.sha256(spki(read_certificate(row.der))).digest() == row.spki_sha256
        if not known or not signature_holds(key, algorithm_of(key), signature, text):  # type: ignore[arg-type]
            raise RenewalError("the renewal was not signed with the key that it names")

    def _judged(
        self, completion: Completion, product: Product, keys: Sequence[PublicKey], at: datetime
    ) -> tuple[tuple[Statement, ...], tuple[Judgement, ...]]:
        statements = tuple(
            Statement(
                Question(
                    completion.challenge, spki_of(key), wish.request, product.rules, self._reception.door
                ),
                wish.evidence,
                at,
            )
            for key, wish in zip(keys, completion.wishes, strict=True)
        )
        judgements = []
        for statement in statements:
            if statement.evidence.kind not in completion.terms.kinds:
                raise TermsError("evidence of this kind was not announced")
            try:
                judgement = self._judge(statement.evidence, statement.question, at)
            except authn.errors.EvidenceError as error:
                raise AttestationRefusedError("unreadable", str(error)) from error
            if judgement.refused:
                first = judgement.broken[0]
                raise AttestationRefusedError(first.name, first.explanation)
            if judgement.spki not in (b"", statement.question.spki):
                raise AttestationRefusedError("attested-key", "the evidence is about another key")
            judgements.append(judgement)
        return statements, tuple(judgements)

    def _known(
        self,
        before: Device | None,
        product: Product,
        terms: Terms,
        pin: bytes,
        custody: Custody,
        at: datetime,
    ) -> Device:
        """The device as the registry has it now. The first pin stays: where the device's own key comes with
        another one, a person has to look at it."""
        if before is None:
            salt = self._chance(32)
            made = Device(terms.device, product.name, salt, Status.PENDING, pin or None, custody.value, at)
            self._registry.add_device(made)
            return made
        if pin:
            try:
                return self._registry.pin_device(before.name, pin, custody.value)
            except PinConflictError:
                self._suspect(before, at, "another attestation key answers for it")
        if before.pin is not None:
            self._suspect(before, at, "it enrols without the evidence it had before")
        return before

    def _welcomed(self, terms: Terms, batch: Batch, custody: Custody | None, at: datetime) -> Enrolled:
        """What the device is given; without a judgement at hand the label is that of the device."""
        device = self._registry.device(terms.device)
        if device.status is Status.PENDING:
            device = self._registry.set_status(device.name, Status.ACTIVE, at, "enrolled")
        label = Custody(device.custody) if custody is None else custody
        return Enrolled(device.name, device.salt, label, terms.lifetime, batch)

    def _suspect(self, device: Device, at: datetime, why: str) -> NoReturn:
        self._registry.set_status(device.name, Status.SUSPECT, at, why)
        raise PinChangedError(f"device {device.name} is suspect now: {why}")

    def _require_active(self, device: Device, product: Product) -> None:
        match device.status:
            case Status.SUSPECT:
                raise DeviceSuspectError(f"device {device.name} is suspect")
            case Status.SUSPENDED:
                raise DeviceSuspendedError(f"device {device.name} is suspended")
            case Status.REVOKED | Status.RETIRED:
                raise DeviceRevokedError(f"device {device.name} is {device.status.value}")
            case Status.PENDING | Status.ACTIVE:
                pass
        if device.product != product.name:
            raise ProductRefusedError(f"device {device.name} is of another product")
        withdrawn = {each.target for each in self._registry.withdrawals()}
        if Target.of_device(device.name) in withdrawn:
            raise DeviceRevokedError(f"device {device.name} was revoked")

    def _require_standing(self, product: Product) -> None:
        if Target.of_product(product.name) in {each.target for each in self._registry.withdrawals()}:
            raise ProductRevokedError(f"{product.name} was revoked")


def require_for_devices(product: str) -> None:
    """Refuse the signing service's name, however it is spaced or capitalised: certificates are told apart by it."""
    if " ".join(product.split()).casefold() == SERVICE_PRODUCT.casefold():
        raise ProductReservedError(f"{SERVICE_PRODUCT} is what the signing service is called; no device is")


def broken_rules(judgement: Judgement) -> bytes:
    """The rules that did not hold, as canonical JSON."""
    return canonical({"broken": {rule.name: rule.explanation for rule in judgement.broken}})


def _evidence_digest(statements: Sequence[Statement]) -> bytes:
    """The SHA-256 of the evidence as it is kept; of several pieces, that of their digests in order."""
    digests = [hashlib.sha256(statement.encode()).digest() for statement in statements]
    return digests[0] if len(digests) == 1 else hashlib.sha256(b"".join(digests)).digest()


def _keys_of(completion: Completion) -> tuple[PublicKey, ...]:
    most = MAX_KEYS if completion.terms.lifetime is Lifetime.ONE_TIME else 1
    if not 1 <= len(completion.wishes) <= most:
        raise MalformedError(f"certificates of this lifetime are asked for 1 to {most} at a time")
    keys = []
    for wish in completion.wishes:
        if len(wish.evidence.data) > MAX_STATEMENT:
            raise MalformedError(f"a piece of evidence has at most {MAX_STATEMENT} bytes")
        try:
            keys.append(read_request(wish.request))
        except RequestSignatureError as error:
            raise RequestUnprovenError(str(error)) from error
        except KeyNotOursError as error:
            raise KeyUnsuitableError(str(error)) from error
        except (RequestError, CertificateError) as error:
            raise MalformedError(str(error)) from error
    if len({spki_of(key) for key in keys}) != len(keys):
        raise MalformedError("one key was sent twice")
    return tuple(keys)
