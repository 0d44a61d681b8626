"""What is fuzzed of enrolment, capture and withdrawal: what devices, their makers and operators send."""

import base64
import functools
import hashlib
import json
import tempfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import device_seeds as seeds
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509 import ocsp
from target import Target, must

from authn import approval, capture_chain, der, jumbf
from authn.attestation import android, app_attest, key_description, tpm, tpm_structures
from authn.attestation.judgement import Evidence, Judgement, Kind
from authn.attestation.status_list import StatusList, StatusListError
from authn.attestation.tpm_credential import Activation, Credential, make_credential
from authn.chain import read_certificate
from authn.csr import RequestError, read_request
from authn.custody import uri
from authn.custody.tpm_file import WrappedKey
from authn.errors import (
    EvidenceError,
    IssuanceError,
    KeyAddressError,
    KeyFileError,
    KeyNotOursError,
    MalformedDerError,
    MediaError,
)
from authn.evidence import Custody
from authn.http_signature import Request, RequestSignatureError, claimed_key, verify_request
from authn.identity import spki_of
from authn.public_key import public_pem, read_public_key
from authn.withdrawal import MALFORMED, Reason, Standing, Withdrawn, answer, read_crl
from tools.camera.folder import CameraDamagedError, CameraMissingError, key_address, read_camera
from tools.issuance.enrolment import Question
from tools.issuance.errors import MalformedError, RulesError, ServiceError
from tools.issuance.judging import Judging, require_rules
from tools.issuance.order import order_fields, order_of
from tools.issuance.wire import (
    completion_fields,
    completion_of,
    offer_fields,
    offer_of,
    opening_fields,
    opening_of,
    welcome_fields,
    welcome_of,
)
from tools.revoking import ProposalError, Signed
from tools.trust_bundle import Bundle, BundleError

_ECDSA_SHA384 = "1.2.840.10045.4.3.3"


def _text(data: bytes) -> str:
    return data.decode("utf-8", "surrogateescape")


def _said(judgement: Judgement) -> object:
    """What an answer says; a higher label than E1 is left to whoever knows which bytes earn it."""
    must(judgement.custody is not Custody.E0 or judgement.broken or not judgement.spki, "E0 names no key")
    for rule in (*judgement.broken, *judgement.warnings):
        must(rule.explanation.isprintable() and len(rule.explanation) < 500, "a rule is one line")
    return judgement.custody, tuple(rule.name for rule in judgement.broken)


# --- Phones, apps, TPMs


@functools.cache
def _phone_expectation() -> android.Expectation:
    """By what the chains in `vectors` are judged E2: their own root, no app named."""
    chains = tuple(seeds.phone_chains())
    root = read_certificate(chains[0][-1]).public_key()
    spki = root.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    leaf = seeds.phone_leaf(0).public_key()
    return android.Expectation(
        seeds.CHALLENGE,
        leaf.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo),
        StatusList(seeds.AT),
        seeds.phone_rules(),
        frozenset({hashlib.sha256(spki).digest()}),
    )


@functools.cache
def _genuine() -> frozenset[bytes]:
    return frozenset(seeds.statements())


def _judge_phone(evidence: Evidence) -> object:
    judgement = android.judge(evidence, _phone_expectation(), seeds.AT)
    must(judgement.custody is Custody.E0 or evidence.data in _genuine(), "only the phone's own chain proves")
    return _said(judgement)


def _phone(data: bytes) -> object:
    """A chain as one DER value; where that is not to be read, all of it is the leaf's place."""
    try:
        chain = [each.encoded for each in der.parse(data).children()]
    except MalformedDerError:
        chain = [data, *next(seeds.phone_chains())[1:]]
    return _judge_phone(android.evidence(chain))


def _key_description(data: bytes) -> object:
    """A statement read alone, then inside a certificate, as a maker with a fault would write it."""
    chain = next(seeds.phone_chains())
    leaf = seeds.phone_leaf(0)
    stated = (
        x509.CertificateBuilder()
        .subject_name(leaf.subject)
        .issuer_name(leaf.issuer)
        .public_key(leaf.public_key())
        .serial_number(leaf.serial_number)
        .not_valid_before(leaf.not_valid_before_utc)
        .not_valid_after(leaf.not_valid_after_utc)
        .add_extension(x509.UnrecognizedExtension(android.STATEMENT, data), critical=False)
        .sign(_maker_key(), hashes.SHA256(), ecdsa_deterministic=True)
        .public_bytes(Encoding.DER)
    )
    described = key_description.read(data)
    must(len(repr(described)) < 1 << 20, "a description is bounded")
    return _judge_phone(android.evidence([stated, *chain[1:]]))


@functools.cache
def _maker_key() -> ec.EllipticCurvePrivateKey:
    return ec.derive_private_key(17, ec.SECP256R1())


@functools.cache
def _app_expectation() -> app_attest.Expectation:
    return app_attest.Expectation(
        hashlib.sha256(seeds.APP_CHALLENGE).digest(),
        app_attest.Rules(frozenset({seeds.APP})),
        root=read_certificate(seeds.vector("app_root.der")),
    )


@functools.cache
def _app_key() -> bytes:
    return app_attest.attested_key(Evidence(Kind.APP_ATTEST, seeds.vector("app_attestation.cbor")))


def _app(data: bytes) -> object:
    """An attestation, or a request that an attested key signed."""
    expected = _app_expectation()
    with suppress(EvidenceError):
        judgement = app_attest.judge(Evidence(Kind.APP_ATTEST, data), expected, seeds.AT)
        must(judgement.custody is Custody.E0 and not judgement.spki, "an app attests no claim key")
        return _said(judgement)
    asked = app_attest.AssertionExpectation(_app_key(), expected.client_data_hash, expected.rules, 0)
    found = app_attest.judge_assertion(data, asked)
    must(found.counter < 1 << 32, "a counter is a number of 32 bits")
    return tuple(rule.name for rule in found.broken)


@functools.cache
def _tpm_expectation() -> tpm.Expectation:
    claim = tpm_structures.read_public(seeds.tpm_parts()["claim"]).key
    if claim is None:
        raise EvidenceError("the claim key in the vectors is no key")
    spki = claim.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    roots, between = seeds.tpm_makers()
    activation = Activation(seeds.SERVER_KEY, seeds.NONCE)
    return tpm.Expectation(tpm.binding(seeds.NONCE, spki), roots, between, activation, spki)


def _statement(data: bytes) -> object:
    """A statement as a device sends it: a phone's, a TPM's, or one of the parts that go between."""
    with suppress(EvidenceError):
        return _judge_phone(Evidence(Kind.ANDROID, data))
    with suppress(EvidenceError):
        judgement = tpm.judge(Evidence(Kind.TPM, data), _tpm_expectation(), seeds.AT)
        must(judgement.custody is not Custody.E2 or data in _genuine(), "only the TPM's own words prove")
        return _said(judgement)
    with suppress(EvidenceError):
        reading = tpm.CounterReading.read(data)
        must(reading.encode() == data, "a reading is written as it was read")
        count = tpm.judge_counter(reading, seeds.tpm_parts()["ak"], _tpm_expectation().expected)
        must(count.value is None or data in _genuine(), "only what the TPM signed counts")
        return tuple(rule.name for rule in count.broken)
    must(Credential.read(data).encode() == data, "a challenge is written as it was read")
    return "credential"


def _tpm_structure(data: bytes) -> object:
    read = []
    with suppress(EvidenceError):
        area = tpm_structures.read_public(data)
        must(area.encoded == data, "a public area is its bytes")
        read.append(area.kind)
        must(len(area.name) in (34, 50), "a name is an algorithm and a digest")
        read.append(area.lacks(tpm_structures.Attribute.SIGN))
        make_credential(data, seeds.tpm_parts()["ak"], bytes(32))
        read.append("challenged")
    with suppress(EvidenceError):
        read.append(tpm_structures.read_attest(data).kind)
    with suppress(EvidenceError):
        read.append(tpm_structures.read_counter_area(data).kind)
    with suppress(EvidenceError):
        read.append(tpm_structures.read_kind(data))
    if not read:
        raise EvidenceError("none of the structures of a TPM")
    return tuple(map(str, read))


def _status_list(data: bytes) -> str:
    with suppress(StatusListError):
        must(StatusList.parse(data).encode() == data, "a list is written as it was read")
        return "ours"
    published = StatusList.published(data, seeds.AT)
    must(StatusList.parse(published.encode()) == published, "a published list is kept as it was read")
    return "published"


def _wrapped_key(data: bytes) -> object:
    text = base64.encodebytes(data)
    pem = b"-----BEGIN TSS2 PRIVATE KEY-----\n" + text + b"-----END TSS2 PRIVATE KEY-----\n"
    key = WrappedKey.read(pem)
    must(WrappedKey.read(key.encode()) == key, "a key is written as it was read")
    must(b"private" not in repr(key).encode(), "a key's file shows no private part")
    return key.protected, key.area.kind, len(key.spki) > 0


def _product_rules(data: bytes) -> object:
    """Rules, and every statement that there is held against them."""
    require_rules(data)
    judging = Judging(StatusList(seeds.AT), seeds.SERVER_KEY)
    expected = _tpm_expectation()
    question = Question(seeds.NONCE, expected.spki, b"request", data)
    said: list[object] = []
    for kind, name in (
        (Kind.ANDROID, "phone_factory.json"),
        (Kind.TPM, "tpm_statement.json"),
        (Kind.APP_ATTEST, "app_attestation.cbor"),
    ):
        with suppress(EvidenceError):
            said.append(_said(judging.again(Evidence(kind, seeds.vector(name)), question, seeds.AT)))
    return tuple(said)


# --- Requests, approvals, enrolment


def _key_request(data: bytes) -> str:
    key = read_request(data)
    must(spki_of(key)[-32:] in data, "a request is for the key in it")
    return type(key).__name__


def _approval(data: bytes) -> object:
    """What a registration authority would have signed; unsigned, it is refused before it is read."""
    key = seeds.device_key()
    signature = base64.b64encode(key.sign(approval._CONTEXT + data))
    signed = data + b"\n" + signature + b"\n"
    found = approval.Approval.parse(signed, key.public_key, seeds.AT)
    must(found.sign(key) == signed, "an approval is written as it was read")
    return found.lifetime, len(found.keys), found.custody


_Reader = Callable[[Any], Any]
_WIRE: tuple[tuple[str, _Reader, _Reader], ...] = (
    ("opening", opening_of, lambda said: opening_fields(*said)),
    ("offer", offer_of, lambda said: offer_fields(*said)),
    ("completion", completion_of, completion_fields),
    ("welcome", welcome_of, welcome_fields),
    ("order", order_of, order_fields),
)


def _wire(data: bytes) -> object:
    try:
        fields = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise MalformedError("no JSON") from error
    said = []
    for name, read, write in _WIRE:
        with suppress(MalformedError, ServiceError):
            message = read(fields)
            must(read(json.loads(json.dumps(write(message)))) == message, f"one {name} is read in one way")
            said.append(name)
    if not said:
        raise MalformedError("none of the messages")
    return tuple(said)


@functools.cache
def _camera_folder() -> "tempfile.TemporaryDirectory[str]":
    return tempfile.TemporaryDirectory(prefix="lightseal-fuzz-")


def _camera(data: bytes) -> object:
    folder = Path(_camera_folder().name)
    (folder / "device.json").write_bytes(data)
    camera = read_camera(folder)
    must(camera == read_camera(folder), "a folder is read in one way")
    must(camera.pool() == (), "there is no pool")
    with suppress(KeyAddressError):
        return type(uri.parse(key_address(folder, camera.key))).__name__, camera.one_time
    return camera.one_time


# --- Captures


def _http(data: bytes) -> object:
    first, *lines = _text(data).split("\n")
    method, _, url = first.partition(" ")
    headers = tuple(tuple(line.partition(": ")[::2]) for line in lines if line)
    request = Request(method, url, headers)  # type: ignore[arg-type]
    named = claimed_key(request)
    signed = verify_request(
        request, lambda name: seeds.device_key().public_key if name == "ab" * 32 else None, seeds.AT
    )
    must(named == signed.key_id == "ab" * 32, "a signature counts for the key that it names")
    must((method, url) == ("POST", "https://media.example/v1/captures"), "what is signed is what was sent")
    must(signed.content == bytes(32) and signed.nonce == "n" * 22, "the body is the one that was signed for")
    return len(signed.components)


def _opening(data: bytes) -> None:
    text, _, checkpoint = _text(data).partition("\n")
    opening = capture_chain.Opening.parse(text, checkpoint)
    must(str(opening) == text, "an opening is written as it was read")
    must(opening.opens(opening.statement), "an opening opens what was made of it")
    other = replace(opening, salt=hashlib.sha256(opening.salt).digest())
    must(not other.opens(opening.statement), "and nothing else")


def _capture(data: bytes) -> object:
    said = [capture_chain.read_statement(manifest) for manifest in jumbf.parse(data)]
    for each in said:
        if each is not None:
            must(len(each.commitment) == 32, "a commitment is a digest")
            must(each.checkpoint is None or len(each.checkpoint) <= capture_chain.MAX_CHECKPOINT, "bounded")
            again = capture_chain.assertion(each)["data"]
            must(again == {"checkpoint": each.checkpoint or "", "commitment": each.commitment.hex()}, "same")
    return tuple(each is not None for each in said)


# --- Withdrawal, keys and lists


def _status_question(data: bytes) -> object:
    """Whatever comes in, an answer goes out that others can read."""
    known = seeds.responder().certificate.serial_number
    gone = Withdrawn(known, Reason.KEY_COMPROMISE, seeds.AT, None)
    said = answer(
        data, (seeds.responder(),), lambda _, serial: gone if serial == known else Standing.UNKNOWN, seeds.AT
    )
    response = ocsp.load_der_ocsp_response(said)
    if response.response_status is ocsp.OCSPResponseStatus.SUCCESSFUL:
        must(len(list(response.responses)) >= 1, "an answer answers")
        return tuple(each.certificate_status for each in response.responses)
    must(said != MALFORMED or data not in set(seeds.status_questions()), "a sound question is understood")
    return response.response_status


def _own_list(data: bytes) -> object:
    """A list's body as an issuer of ours would have signed it; unsigned, it is refused before it is read."""
    private = seeds.curve_key(11).private
    if not isinstance(private, ec.EllipticCurvePrivateKey):
        raise IssuanceError("the issuer's key is on a curve")
    signature = private.sign(data, ec.ECDSA(hashes.SHA384(), deterministic_signing=True))
    algorithm = der.sequence(der.oid(_ECDSA_SHA384))
    signed = der.sequence(data, algorithm, der.tagged(der.BIT_STRING, b"\0" + signature))
    listed = read_crl(signed, seeds.issuing())
    must(listed.this_update.tzinfo is not None, "a list is dated")
    must(len(listed.entries) < len(data), "entries are counted")
    return len(listed.entries), tuple(entry.reason for entry in listed.entries)


def _proposal(data: bytes) -> object:
    signed = Signed.parse(data)
    must(Signed.parse(signed.encode()) == signed, "a proposal is written as it was read")
    must(signed.proposal.text.startswith(b"lightseal/"), "what is signed says what it is")
    return signed.proposal.target.kind, signed.proposal.reason, len(signed.signatures)


def _key_uri(data: bytes) -> str:
    address = uri.parse(_text(data))
    must(uri.parse(str(address)) == address, "a key's address is written as it was read")
    return type(address).__name__


def _public_key(data: bytes) -> str:
    key = read_public_key(data)
    must(public_pem(read_public_key(public_pem(key))) == public_pem(key), "a key is written as it was read")
    return type(key).__name__


def _bundle(data: bytes) -> int:
    """A note is UTF-8 before anybody asks what it says."""
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        raise BundleError("no text") from error
    bundle = Bundle.parse(text)
    must(str(bundle) == text, "a bundle is written as it was read")
    bundle.recorded()
    return len(bundle.lists)


_EVIDENCE = (EvidenceError,)
DEVICE_TARGETS = (
    Target("phone", _phone, _EVIDENCE, "der", seeds.phones, cost=5),
    Target("key_description", _key_description, _EVIDENCE, "der", seeds.descriptions, cost=5),
    Target("app", _app, _EVIDENCE, "cbor", seeds.apps, cost=2),
    Target("device_statement", _statement, _EVIDENCE, "text", seeds.statements, cost=4),
    Target("tpm_structure", _tpm_structure, _EVIDENCE, "raw", seeds.tpm_structures, cost=2),
    Target("status_list", _status_list, (StatusListError,), "text", seeds.status_lists),
    Target("wrapped_key", _wrapped_key, (KeyFileError,), "der", seeds.wrapped_keys),
    Target("product_rules", _product_rules, (RulesError,), "text", seeds.product_rules, cost=5),
    Target("key_request", _key_request, (RequestError, KeyNotOursError), "der", seeds.key_requests),
    Target("approval", _approval, (approval.ApprovalError,), "text", seeds.approvals),
    Target("wire", _wire, (MalformedError,), "text", seeds.messages, cost=2),
    Target("camera", _camera, (CameraDamagedError, CameraMissingError), "text", seeds.cameras, cost=2),
    Target("http_signature", _http, (RequestSignatureError,), "text", seeds.requests_over_http),
    Target("opening", _opening, (capture_chain.MalformedCaptureError,), "text", seeds.openings),
    Target("capture", _capture, (MediaError,), "boxes", seeds.captures),
    Target("status_question", _status_question, (), "der", seeds.status_questions, cost=2),
    Target("own_list", _own_list, (IssuanceError,), "der", seeds.list_bodies, cost=3),
    Target("proposal", _proposal, (ProposalError,), "text", seeds.proposals),
    Target("key_uri", _key_uri, (KeyAddressError,), "text", seeds.key_uris),
    Target("public_key", _public_key, (KeyNotOursError,), "text", seeds.public_keys),
    Target("bundle", _bundle, (BundleError,), "text", seeds.bundles),
)
