"""Enrolment against real processes: the abuse rows of the threat model that concern it, and the good way."""

import base64
import http.client
import json
import secrets
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding

from authn.attestation import android
from authn.attestation.judgement import Evidence, Judgement, Kind, Rule
from authn.attestation.status_list import StatusList
from authn.chain import read_certificate
from authn.csr import make_request
from authn.device import pseudonym, spki
from authn.evidence import Custody
from authn.identity import plan_digest, spki_of
from authn.keys import SigningKey, generate_p256
from authn.profile import Profile, check_profile
from storage.payload import parse
from storage.registry.errors import NonceExpiredError, TokenExpiredError
from storage.registry.registry import Registry
from storage.registry.rows import Device, Status, Target
from tools.founding import create_home
from tools.home import Home
from tools.issuance.authority import Authority
from tools.issuance.desk import authority_of, own_desk
from tools.issuance.enrolment import (
    Completion,
    Door,
    Enrolled,
    Opening,
    Question,
    Reception,
    Statement,
    Wish,
    renewal_text,
)
from tools.issuance.errors import (
    AttestationRefusedError,
    AuthorityUnreachableError,
    DeviceSuspectError,
    DeviceTakenError,
    PinChangedError,
    RulesError,
)
from tools.issuance.judge_again import judge_again
from tools.issuance.judging import Judging, require_rules
from tools.issuance.order import Batch, Order
from tools.issuance.own import enrol
from tools.issuance.refusals import code_of
from tools.issuance.registration import Registration
from tools.registration_app import BURST, OPENINGS_PER_SECOND


def counts(home: Home) -> tuple[int, int]:
    """How many entries there are, and how many devices."""
    with home.ledger_to_read() as ledger, home.registry() as registry:
        return ledger.size, len(registry.devices())


def leaf_of(reply: object, place: int = 0) -> x509.Certificate:
    return read_certificate(base64.b64decode(reply.body["batch"]["certificates"][place]["certificate"]))  # type: ignore[attr-defined]


def test_a_device_is_certified_and_its_entry_was_there_first(office) -> None:  # type: ignore[no-untyped-def]
    key = generate_p256()
    offer = office.begin("Test Camera")
    assert (offer.status, len(bytes.fromhex(offer.body["challenge"]))) == (201, 32)
    welcome = office.complete(offer, make_request(key))
    assert welcome.status == 201
    leaf = leaf_of(welcome)
    issuer = read_certificate(base64.b64decode(welcome.body["batch"]["issuer"]))
    assert spki(leaf) == spki_of(key.public_key)
    assert check_profile((leaf, issuer), Profile.POLICY, leaf.not_valid_before_utc) == ()
    assert (leaf.not_valid_after_utc - leaf.not_valid_before_utc).days == 30
    index = welcome.body["batch"]["certificates"][0]["entry"]
    with office.home.ledger_to_read() as ledger:
        payload = parse(ledger.payload(index) or b"")
        assert ledger.entry(index).key == pseudonym(bytes.fromhex(welcome.body["salt"]), spki(leaf))
    assert payload["certificate_plan"] == plan_digest(leaf).hex()
    assert payload["custody"] == welcome.body["custody"] == "E0"
    with office.home.registry() as registry:
        device = registry.device(welcome.body["device"])
        (evidence,) = registry.evidence(device.name)
    assert device.status is Status.ACTIVE
    assert payload["evidence"] == _sha256(evidence.data)


def test_the_name_of_a_device_stands_in_no_certificate(office) -> None:  # type: ignore[no-untyped-def]
    offer = office.begin("Test Camera", device="desk-camera-7")
    welcome = office.complete(offer, make_request(generate_p256()))
    assert welcome.body["device"] == "desk-camera-7"
    assert b"desk-camera" not in leaf_of(welcome).public_bytes(Encoding.DER)
    assert leaf_of(welcome).subject.rfc4514_string() == "CN=Test Camera,O=Test Newsroom,C=XX"


def test_subject_and_extensions_that_a_request_asks_for_are_ignored(office) -> None:  # type: ignore[no-untyped-def]
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "The President")])
    greedy = (
        x509.CertificateSigningRequestBuilder(name)
        .add_extension(x509.BasicConstraints(ca=True, path_length=3), critical=True)
        .sign(ec.generate_private_key(ec.SECP256R1()), hashes.SHA256())
    )
    leaf = leaf_of(office.complete(office.begin("Test Camera"), greedy.public_bytes(Encoding.DER)))
    assert not leaf.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    assert "President" not in leaf.subject.rfc4514_string()


def test_one_token_enrols_one_device_however_many_ask_at_once(office) -> None:  # type: ignore[no-untyped-def]
    token = office.token("Test Camera")
    replies: list[object] = []
    threads = [
        threading.Thread(target=lambda: replies.append(office.begin("Test Camera", token))) for _ in range(6)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = sorted((reply.status, reply.code) for reply in replies)  # type: ignore[attr-defined]
    assert found == [(201, None), *[(409, "token-used")] * 5]


@pytest.mark.parametrize(
    ("fields", "status", "code"),
    [
        ({"token": "00" * 32}, 401, "token-unknown"),
        ({"token": None}, 400, "request-malformed"),
        ({"token": "zz"}, 400, "request-malformed"),
        ({"product": "No Such Camera"}, 403, "product-unknown"),
        ({"lifetime": "one-time"}, 403, "lifetime-refused"),
        ({"lifetime": "for ever"}, 400, "request-malformed"),
        ({"device": "../../etc"}, 400, "request-malformed"),
        ({"token": None, "device": "nobody"}, 401, "device-unknown"),
        ({"kinds": []}, 400, "request-malformed"),
        ({"kinds": ["horoscope"]}, 400, "request-malformed"),
        ({"kinds": None}, 400, "request-malformed"),
    ],
)
def test_what_does_not_begin_an_enrolment_is_refused_and_changes_nothing(
    office, fields, status, code
) -> None:  # type: ignore[no-untyped-def]
    before = counts(office.home)
    whole = {"token": "11" * 32, "product": "Test Camera", "kinds": ["none"], **fields}
    reply = office.post("/v1/enrolments", whole)
    assert (reply.status, reply.code) == (status, code)
    assert set(reply.body) == {"error", "reason", "remedy"}
    assert counts(office.home) == before


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"null", b"[" * 20000, b"\xff\xfe", b'{"kinds": 7}'])
def test_no_body_is_answered_by_anything_but_a_refusal(office, body) -> None:  # type: ignore[no-untyped-def]
    for path in ("/v1/enrolments", "/v1/enrolments/" + "0" * 64):
        reply = office.post(path, body)
        assert (reply.status, reply.code) == (400, "request-malformed")


def test_a_body_over_the_limit_is_not_read(office) -> None:  # type: ignore[no-untyped-def]
    reply = office.post("/v1/enrolments", b'"' + b"x" * (70 << 10) + b'"')
    assert (reply.status, reply.code) == (413, "too-large")


def test_a_challenge_answers_once(office) -> None:  # type: ignore[no-untyped-def]
    offer = office.begin("Test Camera")
    assert office.complete(offer, make_request(generate_p256())).status == 201
    again = office.complete(offer, make_request(generate_p256()))
    assert (again.status, again.code) == (409, "replayed-nonce")


def test_the_same_enrolment_again_gets_the_same_certificate(office) -> None:  # type: ignore[no-untyped-def]
    request = make_request(generate_p256())
    offer = office.begin("Test Camera")
    first = office.complete(offer, request)
    before = counts(office.home)
    assert office.complete(offer, request).body["batch"] == first.body["batch"]
    assert counts(office.home) == before


def test_a_challenge_is_too_old_after_five_minutes(own_office) -> None:  # type: ignore[no-untyped-def]
    at = datetime.now(UTC)
    with own_desk(own_office.home, lambda: at) as desk:
        token = desk.registration.give_token("Test Camera", at + timedelta(days=1))
        offer, _ = desk.begin(Opening(token, "Test Camera", None, None, (Kind.NONE,)), None)
        assert offer.expires - at == timedelta(minutes=5)
        at += timedelta(minutes=5)
        wish = Wish(make_request(generate_p256()), Evidence(Kind.NONE, b'{"keeping":"software"}'))
        before = counts(own_office.home)
        with pytest.raises(NonceExpiredError):
            desk.complete(Completion(offer.challenge, offer.terms, (wish,)))
        assert counts(own_office.home) == before


def test_a_token_ends_when_it_was_said_to(own_office) -> None:  # type: ignore[no-untyped-def]
    at = datetime.now(UTC)
    with own_desk(own_office.home, lambda: at) as desk:
        token = desk.registration.give_token("Test Camera", at + timedelta(hours=1))
        at += timedelta(hours=1)
        with pytest.raises(TokenExpiredError):
            desk.begin(Opening(token, "Test Camera", None, None, (Kind.NONE,)), None)


@dataclass
class Forgetful:
    """An issuing authority that certifies, and whose answer is lost on the way as long as `lost` says so."""

    inner: Authority
    lost: bool = False

    def issue(self, order: Order) -> Batch:
        batch = self.inner.issue(order)
        if self.lost:
            raise AuthorityUnreachableError("the answer was lost")
        return batch

    def recall(self, enrolment: str, requests: tuple[bytes, ...]) -> Batch | None:
        return self.inner.recall(enrolment, requests)


@dataclass
class Staged:
    """A registration whose evidence is judged as the test says next."""

    home: Home
    registry: Registry
    desk: Registration
    judgements: list[Judgement]
    authority: Forgetful

    def shows(self, pin: bytes, *, own: bool) -> "Staged":
        self.judgements.append(Judgement(Custody.E2, b"", pin, pin_is_own=own))
        return self

    def by_token(self, name: str = "phone") -> tuple[Enrolled, SigningKey]:
        key = generate_p256()
        token = self.desk.give_token("Proven Camera", datetime.now(UTC) + timedelta(hours=1))
        offer = self.desk.open(Opening(token, "Proven Camera", name, None, (Kind.TPM,)))
        wish = Wish(make_request(key), Evidence(Kind.TPM, b"fresh"))
        return self.desk.complete(Completion(offer.challenge, offer.terms, (wish,))), key

    def by_renewal(self, before: tuple[Enrolled, SigningKey]) -> Enrolled:
        enrolled, present = before
        key = generate_p256()
        offer = self.desk.open(Opening(None, "", enrolled.device, None, (Kind.TPM,)))
        text = renewal_text(offer.challenge, (spki_of(key.public_key),))
        certificate = bytes.fromhex(_sha256(enrolled.batch.certificates[0].certificate))
        wish = Wish(make_request(key), Evidence(Kind.TPM, b"fresh"))
        proof = (certificate, present.sign(text))
        return self.desk.complete(Completion(offer.challenge, offer.terms, (wish,), proof))


@pytest.fixture
def staged(own_office) -> Iterator[Staged]:  # type: ignore[no-untyped-def]
    judgements: list[Judgement] = []

    def judge(_evidence: Evidence, question: Question, _at: datetime) -> Judgement:
        return replace(judgements.pop(0), spki=question.spki)

    home, moment = own_office.home, lambda: datetime.now(UTC)
    reception = Reception(home.own.origin, Door.NETWORK)
    with authority_of(home, moment) as issuing, home.registry() as registry, closing(home.key("ra")) as key:
        authority = Forgetful(issuing)
        desk = Registration(registry, key, authority, judge, moment, secrets.token_bytes, reception)
        yield Staged(home, registry, desk, judgements, authority)


def test_a_token_and_a_pin_of_its_own_are_the_same_device(staged: Staged) -> None:
    first, _ = staged.shows(b"1" * 32, own=True).by_token()
    again, _ = staged.shows(b"1" * 32, own=True).by_token()
    assert (first.device, again.device, again.custody) == ("phone", "phone", Custody.E2)


@pytest.mark.parametrize(
    ("before", "shown", "own"),
    [
        (b"1" * 32, b"2" * 32, True),
        (b"1" * 32, b"1" * 32, False),
        (b"1" * 32, b"", False),
        (b"", b"", False),
        (b"", b"1" * 32, True),
    ],
)
def test_a_token_makes_nobody_another_device_and_harms_none(
    staged: Staged, before: bytes, shown: bytes, *, own: bool
) -> None:
    """Not with another pin, nor with one that every phone of a line has, nor with none."""
    mine = staged.shows(before, own=bool(before) and own).by_token()
    device, count = staged.registry.device("phone"), counts(staged.home)
    with pytest.raises(DeviceTakenError):
        staged.shows(shown, own=own).by_token()
    assert counts(staged.home) == count
    assert staged.registry.device("phone") == device
    assert device.status is Status.ACTIVE, "whoever holds a token cannot make a device suspect by naming it"
    assert staged.shows(before, own=own).by_renewal(mine).device == "phone"


def test_another_attestation_key_makes_the_device_suspect_and_nothing_is_issued(staged: Staged) -> None:
    """Where the device's own key comes with it: by a token alone anybody could."""
    mine = staged.shows(b"1" * 32, own=True).by_token()
    assert staged.shows(b"1" * 32, own=True).by_renewal(mine).device == "phone"
    before = counts(staged.home)
    with pytest.raises(PinChangedError):
        staged.shows(b"2" * 32, own=True).by_renewal(mine)
    assert counts(staged.home) == before
    assert staged.registry.device("phone").status is Status.SUSPECT
    assert staged.registry.device("phone").pin == b"1" * 32
    with pytest.raises(DeviceSuspectError):
        staged.shows(b"1" * 32, own=True).by_renewal(mine)


def test_a_name_with_a_certificate_is_somebodys_though_he_never_heard_of_it(staged: Staged) -> None:
    staged.authority.lost = True
    with pytest.raises(AuthorityUnreachableError):
        staged.shows(b"", own=False).by_token()
    staged.authority.lost = False
    assert staged.registry.device("phone").status is Status.PENDING
    assert len(staged.registry.certificates(Target.of_device("phone"))) == 1
    with pytest.raises(DeviceTakenError):
        staged.shows(b"", own=False).by_token()


def test_a_name_that_never_got_a_certificate_can_be_tried_again(staged: Staged) -> None:
    """As when the issuing authority was down; a name with a certificate is somebody's, whatever its status."""
    at = datetime.now(UTC)
    for name, pin in (("unpinned", None), ("pinned", b"1" * 32)):
        waiting = Device(name, "Proven Camera", secrets.token_bytes(32), Status.PENDING, pin, "E2", at)
        staged.registry.add_device(waiting)
        if pin is not None:
            with pytest.raises(DeviceTakenError):
                staged.shows(b"2" * 32, own=True).by_token(name)
        enrolled, _ = staged.shows(b"1" * 32, own=False).by_token(name)
        assert enrolled.device == name
        with pytest.raises(DeviceTakenError):
            staged.shows(b"1" * 32, own=False).by_token(name)


@pytest.mark.parametrize("rule", ["challenge", "chain-extended", "boot-state"])
def test_evidence_that_breaks_a_rule_is_refused_by_the_rules_name(own_office, rule: str) -> None:  # type: ignore[no-untyped-def]
    def judge(_evidence: Evidence, question: Question, _at: datetime) -> Judgement:
        return Judgement(Custody.E0, question.spki, b"1" * 32, (Rule(rule, "it does not hold"),))

    home, moment = own_office.home, lambda: datetime.now(UTC)
    reception = Reception(home.own.origin, Door.NETWORK)
    with authority_of(home, moment) as authority, home.registry() as registry:
        desk = Registration(
            registry, home.key("ra"), authority, judge, moment, secrets.token_bytes, reception
        )
        token = desk.give_token("Test Camera", moment() + timedelta(hours=1))
        offer = desk.open(Opening(token, "Test Camera", None, None, (Kind.ANDROID,)))
        before = counts(home)
        wish = Wish(make_request(generate_p256()), Evidence(Kind.ANDROID, b"{}"))
        with pytest.raises(AttestationRefusedError) as caught:
            desk.complete(Completion(offer.challenge, offer.terms, (wish,)))
    assert code_of(caught.value) == f"attestation:{rule}"
    assert counts(home) == before


def test_an_android_device_is_not_enrolled_by_an_old_status_list(own_office) -> None:  # type: ignore[no-untyped-def]
    at = datetime.now(UTC)
    judging = Judging(StatusList(at - timedelta(days=31)), bytes(32))
    question = Question(bytes(32), b"key", b"", b"{}")
    with pytest.raises(AttestationRefusedError, match="status-list-stale"):
        judging(Evidence(Kind.ANDROID, b"{}"), question, at)
    assert counts(own_office.home)[1] >= 1


def test_a_challenge_given_to_another_device_is_refused(office) -> None:  # type: ignore[no-untyped-def]
    mine, theirs = office.begin("Test Camera"), office.begin("Test Camera")
    mixed = {
        "challenge": theirs.body["challenge"],
        "terms": {**mine.body["terms"], "challenge": theirs.body["terms"]["challenge"]},
    }
    identity = _identity(mixed["terms"])
    said = {"kind": "none", "data": base64.b64encode(b'{"keeping":"software"}').decode()}
    request = base64.b64encode(make_request(generate_p256())).decode()
    reply = office.post(
        f"/v1/enrolments/{identity}", {**mixed, "keys": [{"request": request, "evidence": said}]}
    )
    assert (reply.status, reply.code) == (401, "nonce-wrong-device")


@pytest.mark.parametrize("field", ["product", "device", "lifetime", "title", "kinds"])
def test_terms_that_were_changed_are_not_those_of_the_challenge(office, field) -> None:  # type: ignore[no-untyped-def]
    offer = office.begin("Test Camera")
    other = {
        "product": "Pool Camera",
        "device": "somebody",
        "lifetime": "one-time",
        "title": "renewal",
        "kinds": ["none", "tpm"],
    }[field]
    offer.body["terms"][field] = other
    kept = office.complete(offer, make_request(generate_p256()))
    assert (kept.status, kept.code) == (400, "request-malformed")
    offer.body["id"] = _identity(offer.body["terms"])
    renamed = office.complete(offer, make_request(generate_p256()))
    assert (renamed.status, renamed.code) == (401, "nonce-wrong-device")


def test_a_request_signed_with_another_key_is_refused(office) -> None:  # type: ignore[no-untyped-def]
    mine, other = (make_request(generate_p256()) for _ in range(2))
    tail = x509.load_der_x509_csr(other).signature
    forged = mine.replace(x509.load_der_x509_csr(mine).signature, tail)
    offer = office.begin("Test Camera")
    before = counts(office.home)
    if len(forged) == len(mine):
        assert office.complete(offer, forged).code == "csr-signature"
    else:  # lengths that do not add up are no request at all
        assert office.complete(offer, forged).code in {"csr-signature", "request-malformed"}
    assert counts(office.home) == before


def test_weak_keys_are_refused(office) -> None:  # type: ignore[no-untyped-def]
    name = x509.Name([])
    weak = [
        rsa.generate_private_key(65537, 1024),  # noqa: S505 - that it is weak is the point
        ec.generate_private_key(ec.SECP224R1()),
        ec.generate_private_key(ec.SECP521R1()),
    ]
    for key in weak:
        request = x509.CertificateSigningRequestBuilder(name).sign(key, hashes.SHA256())
        reply = office.complete(office.begin("Test Camera"), request.public_bytes(Encoding.DER))
        assert (reply.status, reply.code) == (400, "key-too-weak")


def test_a_key_is_certified_once_for_whomever(office) -> None:  # type: ignore[no-untyped-def]
    request = make_request(generate_p256())
    assert office.complete(office.begin("Test Camera"), request).status == 201
    before = counts(office.home)[0]
    again = office.complete(office.begin("Test Camera"), request)
    assert (again.status, again.code) == (409, "key-reused")
    assert counts(office.home)[0] == before
    with office.home.registry() as registry:
        retired = [each for each in registry.devices() if each.status is Status.RETIRED]
    assert retired, "the device that was not certified is not left as if it were"


def test_a_product_that_wants_more_refuses_a_key_in_a_file(office) -> None:  # type: ignore[no-untyped-def]
    before = counts(office.home)
    refused = office.complete(office.begin("Token Camera"), make_request(generate_p256()))
    assert (refused.status, refused.code) == (403, "custody-too-low")
    token = {"kind": "none", "data": base64.b64encode(b'{"keeping":"token"}').decode()}
    refused = office.complete(office.begin("Proven Camera"), make_request(generate_p256()), evidence=token)
    assert (refused.status, refused.code) == (403, "custody-too-low")
    assert counts(office.home) == before
    claimed = office.complete(office.begin("Token Camera"), make_request(generate_p256()), evidence=token)
    assert (claimed.status, claimed.body["custody"]) == (201, "E1")


def test_a_device_that_says_it_has_a_token_is_believed_only_where_the_operator_vouches(office) -> None:  # type: ignore[no-untyped-def]
    """Anybody can send these bytes: they are worth E0 over the network, and E1 where the product's rules say so."""
    token = {"kind": "none", "data": base64.b64encode(b'{"keeping":"token"}').decode()}
    said = office.complete(office.begin("Test Camera"), make_request(generate_p256()), evidence=token)
    assert (said.status, said.body["custody"]) == (201, "E0")
    before = counts(office.home)
    refused = office.complete(office.begin("Bare Camera"), make_request(generate_p256()), evidence=token)
    assert (refused.status, refused.code) == (403, "custody-too-low")
    assert counts(office.home) == before
    vouched = office.complete(office.begin("Token Camera"), make_request(generate_p256()), evidence=token)
    assert (vouched.status, vouched.body["custody"]) == (201, "E1")


def test_what_the_operator_enrols_at_home_he_vouches_for_and_it_stays_so(own_office) -> None:  # type: ignore[no-untyped-def]
    at = datetime.now(UTC)
    claim = Evidence(Kind.NONE, b'{"keeping":"token"}')
    with own_desk(own_office.home, lambda: datetime.now(UTC)) as desk:
        token = desk.registration.give_token("Bare Camera", at + timedelta(hours=1))
        offer, _ = desk.begin(Opening(token, "Bare Camera", "home-cam", None, (Kind.NONE,)), None)
        wish = Wish(make_request(generate_p256()), claim)
        enrolled = desk.complete(Completion(offer.challenge, offer.terms, (wish,))).enrolled
    assert enrolled.custody is Custody.E1
    assert judge_again(own_office.home, datetime.now(UTC)) == ()
    with own_office.home.registry() as registry:
        (kept,) = registry.evidence("home-cam")
    head, _, said = kept.data.partition(b"\n")
    assert (json.loads(head)["door"], said) == ("home", claim.data)
    at_the_door = kept.data.replace(b'"door":"home",', b"")
    assert Statement.read(kept.data, b"{}").question.door is Door.HOME
    assert Statement.read(at_the_door, b"{}").question.door is Door.NETWORK


def test_rules_that_vouch_with_something_else_than_true_or_false_are_refused() -> None:
    for word in (b'"yes"', b"1", b"null", b"[]"):
        with pytest.raises(RulesError, match="operator-vouches"):
            require_rules(b'{"operator-vouches":' + word + b"}")
    for word in (b"true", b"false"):
        require_rules(b'{"operator-vouches":' + word + b"}")


def test_evidence_that_was_not_announced_or_cannot_be_read_is_refused(office) -> None:  # type: ignore[no-untyped-def]
    odd = {"kind": "none", "data": base64.b64encode(b'{"keeping":"vault"}').decode()}
    reply = office.complete(office.begin("Test Camera"), make_request(generate_p256()), evidence=odd)
    assert (reply.status, reply.code) == (403, "attestation:unreadable")
    tpm = {"kind": "tpm", "data": base64.b64encode(b"{}").decode()}
    reply = office.complete(office.begin("Test Camera"), make_request(generate_p256()), evidence=tpm)
    assert (reply.status, reply.code) == (400, "terms-changed")
    reply = office.complete(
        office.begin("Test Camera", kinds=["tpm"]), make_request(generate_p256()), evidence=tpm
    )
    assert (reply.status, reply.code) == (403, "attestation:unreadable")


def test_a_pool_of_a_hundred_comes_at_once_and_nothing_more_does(office) -> None:  # type: ignore[no-untyped-def]
    requests = [make_request(generate_p256()) for _ in range(100)]
    welcome = office.complete(office.begin("Pool Camera"), *requests)
    assert welcome.status == 201
    leaves = [leaf_of(welcome, place) for place in range(100)]
    assert len({leaf.serial_number for leaf in leaves}) == 100
    assert len({leaf.subject for leaf in leaves}) == 1
    assert {(leaf.not_valid_after_utc - leaf.not_valid_before_utc).days for leaf in leaves} == {7}
    too_many = office.complete(office.begin("Pool Camera"), *requests, make_request(generate_p256()))
    assert (too_many.status, too_many.code) == (400, "request-malformed")
    two = office.complete(office.begin("Test Camera"), *(make_request(generate_p256()) for _ in range(2)))
    assert (two.status, two.code) == (400, "request-malformed")


def test_two_entries_of_a_pool_share_no_value(office) -> None:  # type: ignore[no-untyped-def]
    welcome = office.complete(office.begin("Pool Camera"), *(make_request(generate_p256()) for _ in range(2)))
    first, second = (each["entry"] for each in welcome.body["batch"]["certificates"])
    with office.home.ledger_to_read() as ledger:
        shown = [parse(ledger.payload(index) or b"") for index in (first, second)]
        names = [ledger.entry(index).key for index in (first, second)]
    common = {"custody"}
    assert {key for key in shown[0] if shown[0][key] == shown[1][key]} == common
    assert names[0] != names[1]


def test_a_device_renews_with_the_key_it_has_and_nobody_else_does(office) -> None:  # type: ignore[no-untyped-def]
    key, fresh = generate_p256(), generate_p256()
    first = office.complete(office.begin("Test Camera"), make_request(key))
    device = first.body["device"]

    def proof(offer, signer) -> dict[str, str]:  # type: ignore[no-untyped-def]
        text = renewal_text(bytes.fromhex(offer.body["challenge"]), (spki_of(fresh.public_key),))
        certificate = _sha256(base64.b64decode(first.body["batch"]["certificates"][0]["certificate"]))
        return {"certificate": certificate, "signature": base64.b64encode(signer.sign(text)).decode()}

    def begin():  # type: ignore[no-untyped-def]
        return office.post(
            "/v1/enrolments", {"product": "", "device": device, "kinds": ["none"], "token": None}
        )

    unsigned = office.complete(begin(), make_request(fresh))
    assert (unsigned.status, unsigned.code) == (401, "renewal-unproven")
    offer = begin()
    forged = office.complete(offer, make_request(fresh), proof=proof(offer, generate_p256()))
    assert (forged.status, forged.code) == (401, "renewal-unproven")
    offer = begin()
    renewed = office.complete(offer, make_request(fresh), proof=proof(offer, key))
    assert (renewed.status, renewed.body["device"]) == (201, device)
    with office.home.registry() as registry:
        assert len(registry.certificates(Target.of_device(device))) == 2


def test_a_token_does_not_make_a_device_out_of_another(office) -> None:  # type: ignore[no-untyped-def]
    first = office.complete(office.begin("Test Camera"), make_request(generate_p256()))
    taken = office.complete(
        office.begin("Test Camera", device=first.body["device"]), make_request(generate_p256())
    )
    assert (taken.status, taken.code) == (409, "device-exists")


@pytest.mark.parametrize(
    ("status", "code"), [(Status.SUSPENDED, "device-suspended"), (Status.SUSPECT, "device-suspect")]
)
def test_a_device_that_is_held_back_gets_nothing(
    office, status, code, later: Callable[[int], object]
) -> None:  # type: ignore[no-untyped-def]
    first = office.complete(office.begin("Test Camera"), make_request(generate_p256()))
    with office.home.registry() as registry:
        registry.set_status(first.body["device"], status, later(0), "a test")  # type: ignore[arg-type]
    reply = office.post(
        "/v1/enrolments", {"product": "", "device": first.body["device"], "kinds": ["none"], "token": None}
    )
    assert (reply.status, reply.code) == (403, code)


def test_a_device_revoked_between_challenge_and_request_gets_nothing(office) -> None:  # type: ignore[no-untyped-def]
    key, fresh = generate_p256(), generate_p256()
    first = office.complete(office.begin("Test Camera"), make_request(key))
    device = first.body["device"]
    offer = office.post("/v1/enrolments", {"product": "", "device": device, "kinds": ["none"], "token": None})
    done = office.command("revoke", "device", device, "--reason", "key-compromise")
    assert done.returncode == 0, done.stderr
    text = renewal_text(bytes.fromhex(offer.body["challenge"]), (spki_of(fresh.public_key),))
    proof = {
        "certificate": _sha256(base64.b64decode(first.body["batch"]["certificates"][0]["certificate"])),
        "signature": base64.b64encode(key.sign(text)).decode(),
    }
    reply = office.complete(offer, make_request(fresh), proof=proof)
    assert (reply.status, reply.code) == (403, "device-revoked")


def test_a_certificate_of_another_authority_renews_nothing(office, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    """One with our names and our key identifiers is not in the registry, and that is all that counts."""
    first = office.complete(office.begin("Test Camera"), make_request(generate_p256()))
    impostor = create_home(tmp_path / "h", "Test Newsroom", "http://127.0.0.1:8461/ocsp/", datetime.now(UTC))
    device, _ = enrol(impostor, "cam", "Test Camera", datetime.now(UTC))
    offer = office.post(
        "/v1/enrolments", {"product": "", "device": first.body["device"], "kinds": ["none"], "token": None}
    )
    fresh = generate_p256()
    text = renewal_text(bytes.fromhex(offer.body["challenge"]), (spki_of(fresh.public_key),))
    proof = {
        "certificate": _sha256(device.chain[0].public_bytes(Encoding.DER)),
        "signature": base64.b64encode(device.key.sign(text)).decode(),
    }
    before = counts(office.home)
    reply = office.complete(offer, make_request(fresh), proof=proof)
    assert (reply.status, reply.code) == (401, "renewal-unproven")
    assert counts(office.home) == before


def test_no_public_attestation_chain_enrols_anything(office, shared: Path) -> None:  # type: ignore[no-untyped-def]
    """Every one answers another challenge than ours, whatever else is right or wrong with it."""
    folder = shared / "vectors" / "attestation"
    vectors = sorted([*folder.glob("android_real/*.pem"), *folder.glob("android_synthetic/*.pem")])
    assert len(vectors) > 40
    before = counts(office.home)
    for vector in vectors:
        blocks = vector.read_text().split("-----END CERTIFICATE-----")[:-1]
        chain = [base64.b64decode(block.split("-----BEGIN CERTIFICATE-----")[1]) for block in blocks]
        evidence = {"kind": "android-key", "data": base64.b64encode(android.evidence(chain).data).decode()}
        offer = office.begin("Test Camera", kinds=["android-key"])
        reply = office.complete(offer, make_request(generate_p256()), evidence=evidence)
        assert reply.status == 403, vector.name
        assert str(reply.code).startswith("attestation:"), vector.name
    assert counts(office.home) == before


def test_evidence_of_apps_and_tpms_that_is_none_is_refused(office) -> None:  # type: ignore[no-untyped-def]
    for kind in ("android-key", "app-attest", "tpm"):
        for data in (b"", b"{}", b"\xa0", b"[" * 5000, bytes(3000)):
            evidence = {"kind": kind, "data": base64.b64encode(data).decode()}
            offer = office.begin("Test Camera", kinds=[kind])
            reply = office.complete(offer, make_request(generate_p256()), evidence=evidence)
            assert (reply.status, reply.code) == (403, "attestation:unreadable")


def test_who_begins_too_often_has_to_wait(own_office) -> None:  # type: ignore[no-untyped-def]
    with own_office.running("ra", "serve", "--port", "0") as (url, _):
        own_office.url = url
        fields = {"token": "00" * 32, "product": "No Such Camera", "kinds": ["none"]}
        connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=30)
        counts: dict[int, int] = {}
        began = time.monotonic()
        for _ in range(int(BURST) + 400):
            connection.request("POST", "/v1/enrolments", json.dumps(fields).encode())
            answer = connection.getresponse()
            answer.read()
            counts[answer.status] = counts.get(answer.status, 0) + 1
            assert answer.status != 429 or answer.getheader("Retry-After") == "5"
        connection.close()
        assert counts.keys() == {403, 429}
        assert BURST <= counts[403] <= BURST + OPENINGS_PER_SECOND * (time.monotonic() - began) + 1


def test_a_secret_stands_in_no_file_but_the_one_it_was_written_to(office, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    token = office.token("Test Camera")
    for path in office.home.path.rglob("*"):
        if path.is_file():
            content = path.read_bytes()
            assert token.encode() not in content
            assert bytes.fromhex(token) not in content
    assert tmp_path.exists()


def _identity(terms: object) -> str:
    text = json.dumps(terms, sort_keys=True, separators=(",", ":")).encode()
    return _sha256(b"lightseal/enrolment/v1\0" + text)


def _sha256(data: bytes) -> str:
    digest = hashes.Hash(hashes.SHA256())
    digest.update(data)
    return digest.finalize().hex()
