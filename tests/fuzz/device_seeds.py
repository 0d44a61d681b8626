"""What fuzzing of the readers of devices starts from: requests, statements, proposals, folders.

The same bytes every time: what is signed here is signed with Ed25519 under a fixed key, or is not part of
the input. What cannot be made so (a phone's chain, a TPM's statement) lies in `vectors`, made once.
"""

import base64
import functools
import json
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import cbor2
import seeds
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509 import ocsp

from authn import capture_chain, der, identity
from authn.approval import Approval
from authn.attestation import android
from authn.attestation.judgement import Evidence, Kind
from authn.attestation.status_list import Entry, StatusList
from authn.chain import read_certificate
from authn.csr import make_request
from authn.device import read_chain
from authn.evidence import Custody
from authn.http_signature import Request, content_digest_header, sign_request
from authn.identity import Lifetime, Subject, spki_of
from authn.keys import Keeping, SigningKey
from authn.profile import Profile
from authn.public_key import public_pem
from authn.trust import Purpose
from authn.withdrawal import Reason, Responder, Withdrawn, build_crl
from storage.registry.rows import Target
from tools.issuance.enrolment import Completion, Enrolled, Offer, Opening, Wish
from tools.issuance.judging import claim_of
from tools.issuance.order import Batch, Issued, Order, order_fields
from tools.issuance.terms import Terms, Title
from tools.issuance.wire import (
    TpmKeys,
    Welcome,
    completion_fields,
    offer_fields,
    opening_fields,
    welcome_fields,
)
from tools.revoking import Proposal, Signature, Signed
from tools.trust_bundle import Bundle, NamedList

VECTORS = Path(__file__).parent / "vectors"
AT = datetime(2026, 11, 26, tzinfo=UTC)
"""When the statements in `vectors` are good."""
NONCE = bytes(range(32))
SERVER_KEY = b"k" * 32
CHALLENGE = b"a challenge of thirty-two bytes.."
APP_CHALLENGE = b"challenge and request"
APP = "TEAM123456.org.lightseal.camera"


def vector(name: str) -> bytes:
    return (VECTORS / name).read_bytes()


# --- Keys and certificates


@functools.cache
def device_key() -> SigningKey:
    return SigningKey.of(ed25519.Ed25519PrivateKey.from_private_bytes(bytes(range(32))))


@functools.cache
def curve_key(number: int) -> SigningKey:
    curve = (ec.SECP256R1(), ec.SECP384R1())[number % 2]
    return SigningKey.of(ec.derive_private_key(number, curve))


@functools.cache
def issuing() -> x509.Certificate:
    """An authority with a key on P-384."""
    subject = Subject("DE", "Lightseal Lab", "Lab Root")
    return identity.plan_root(subject, curve_key(11).public_key, 1 << 80, AT).sign(curve_key(11))


@functools.cache
def responder() -> Responder:
    plan = identity.plan_responder(
        Subject("DE", "Lightseal Lab", "Lab Answers"),
        curve_key(12).public_key,
        (1 << 80) + 1,
        AT,
        issuer=issuing(),
    )
    return Responder(issuing(), curve_key(12), plan.sign(curve_key(11)))


def key_requests() -> Iterator[bytes]:
    yield make_request(device_key())
    for key in (curve_key(12), curve_key(13)):
        builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
        digest = hashes.SHA384() if key is curve_key(13) else hashes.SHA256()
        private = key.private
        if isinstance(private, ec.EllipticCurvePrivateKey):
            yield builder.sign(private, digest, ecdsa_deterministic=True).public_bytes(Encoding.DER)


def list_bodies() -> Iterator[bytes]:
    """What an issuer signs of a list: empty, and with an entry of each kind."""
    gone = Withdrawn(77, Reason.KEY_COMPROMISE, AT - timedelta(days=1), AT - timedelta(days=9))
    other = Withdrawn(78, Reason.SUPERSEDED, AT - timedelta(days=1))
    for entries in ((), (gone,), (gone, other)):
        data = build_crl(entries, issuer=issuing(), key=curve_key(11), number=7, at=AT)
        yield x509.load_der_x509_crl(data).tbs_certlist_bytes


def status_questions() -> Iterator[bytes]:
    leaf = responder().certificate
    for digest in (hashes.SHA1(), hashes.SHA256()):  # noqa: S303 - names certificates, secures nothing
        builder = ocsp.OCSPRequestBuilder().add_certificate(leaf, issuing(), digest)
        yield builder.build().public_bytes(Encoding.DER)
        with_nonce = builder.add_extension(x509.OCSPNonce(b"n" * 16), critical=False)
        yield with_nonce.build().public_bytes(Encoding.DER)


def public_keys() -> Iterator[bytes]:
    for key in (device_key(), curve_key(12), curve_key(13)):
        yield public_pem(key.public_key)
        yield key.public_key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


# --- Statements of phones, apps and TPMs


def phone_chains() -> Iterator[tuple[bytes, ...]]:
    for name in ("phone_remote.json", "phone_factory.json"):
        yield tuple(base64.b64decode(text) for text in json.loads(vector(name))["x5c"])


def phones() -> Iterator[bytes]:
    """Chains as one DER value, so that a change inside a certificate keeps all lengths right."""
    for chain in phone_chains():
        yield der.sequence(*chain)


def descriptions() -> Iterator[bytes]:
    yield vector("phone_description.der")


def apps() -> Iterator[bytes]:
    yield vector("app_attestation.cbor")
    yield vector("app_assertion.cbor")


def statements() -> Iterator[bytes]:
    yield vector("phone_remote.json")
    yield vector("phone_factory.json")
    yield vector("tpm_statement.json")
    yield vector("tpm_counter.json")
    yield vector("tpm_credential.json")


@functools.cache
def tpm_parts() -> dict[str, bytes]:
    fields = json.loads(vector("tpm_statement.json"))
    return {
        name: bytes.fromhex(text)
        for name, text in fields.items()
        if name in ("ak", "claim", "ek", "attested")
    }


def tpm_structures() -> Iterator[bytes]:
    yield from tpm_parts().values()
    counter = json.loads(vector("tpm_counter.json"))
    yield bytes.fromhex(counter["area"])
    yield bytes.fromhex(counter["attested"])


def status_lists() -> Iterator[bytes]:
    entries = {"c0ffee": Entry("REVOKED", "KEY_COMPROMISE"), "1": Entry("SUSPENDED", "")}
    yield StatusList(AT).encode()
    yield StatusList(AT, entries).encode()
    yield json.dumps({"entries": {"c0ffee": {"status": "REVOKED", "reason": "SUPERSEDED"}}}).encode()
    yield json.dumps({"entries": {}}).encode()


def wrapped_keys() -> Iterator[bytes]:
    lines = vector("tpm_key.pem").split(b"\n")
    yield base64.b64decode(b"".join(lines[1:-2]))


def product_rules() -> Iterator[bytes]:
    phone = {"packages": {"org.lightseal.camera": [7]}, "signers": ["ab" * 32], "brand": "x", "model": "y"}
    maker = {
        "roots": [vector("tpm_maker.pem").decode()],
        "intermediates": [vector("tpm_between.pem").decode()],
    }
    app = {"apps": [APP], "environment": "production"}
    yield b"{}"
    yield json.dumps({"android": phone, "tpm": {}}).encode()
    yield json.dumps({"app-attest": app}).encode()
    yield json.dumps({"tpm": maker, "android": {}}).encode()


# --- Enrolment


def _terms() -> Terms:
    kinds = (Kind.NONE, Kind.TPM)
    return Terms("ab" * 32, "cam-1", "Test Camera", Lifetime.ONE_TIME, Title.TOKEN, kinds)


def messages() -> Iterator[bytes]:
    """One of each kind that goes between a device, its service and the issuing authority."""
    certificate = responder().certificate.public_bytes(Encoding.DER)
    none = Evidence(Kind.NONE, claim_of(Keeping.SOFTWARE))
    wishes = (Wish(make_request(device_key()), none), Wish(b"x", Evidence(Kind.TPM, b"{}")))
    opening = Opening(bytes(32), "Test Camera", "cam-1", Lifetime.SESSION, (Kind.NONE,))
    batch = Batch(issuing().public_bytes(Encoding.DER), (Issued(certificate, 7),))
    enrolled = Enrolled("cam-1", bytes(32), Custody.E2, Lifetime.STANDARD, batch)
    for fields in (
        opening_fields(opening, None),
        opening_fields(replace(opening, token=None, lifetime=None), TpmKeys(b"ek", b"ak")),
        offer_fields(Offer(bytes(32), _terms(), AT), vector("tpm_credential.json")),
        completion_fields(Completion(bytes(32), _terms(), wishes)),
        completion_fields(Completion(bytes(32), _terms(), wishes[:1], (bytes(32), b"signature"))),
        order_fields(Order(b"approval", _terms(), (b"request",))),
    ):
        yield json.dumps(fields).encode()
    small = welcome_fields(Welcome(enrolled, (str(seeds.key()),), "checkpoint"))
    yield json.dumps(small).encode()


def approvals() -> Iterator[bytes]:
    """What a registration authority signs: one key, and several for one capture each."""
    keys = tuple(spki_of(curve_key(number).public_key) for number in (12, 13, 14))
    approval = Approval(
        *("ab" * 16, "Lightseal Lab", "Lab Camera", Lifetime.STANDARD, keys[:1], (bytes(32),)),
        *(Custody.E2, bytes(32), AT, "lightseal.example/lab"),
    )
    many = replace(approval, lifetime=Lifetime.ONE_TIME, keys=keys, pseudonyms=(bytes(32),) * 3)
    for each in (approval, many):
        yield each.sign(device_key()).partition(b"\n")[0]


def cameras() -> Iterator[bytes]:
    about: dict[str, Any] = {
        "schema": "lightseal-camera/1",
        "name": "cam-1",
        "key": "file:key.pem",
        "salt": "ab" * 32,
        "lifetime": "one-time",
        "service": "https://media.example",
        "log_keys": [str(seeds.key())],
        "entry": 7,
    }
    yield json.dumps(about).encode()
    yield json.dumps({"salt": "ab" * 32}).encode()
    yield json.dumps(
        {"salt": "ab" * 32, "key": "tpm:key.tss?tcti=swtpm:host=127.0.0.1,port=2321", "service": None}
    ).encode()


# --- Captures


def requests_over_http() -> Iterator[bytes]:
    """A signed request as text: method and address, then a header a line."""
    url = "https://media.example/v1/captures"
    content = content_digest_header(bytes(32))
    headers = (
        ("Host", "media.example"),
        ("Content-Digest", content),
        ("Content-Type", "image/jpeg"),
        ("Capture-Opening", "x"),
        ("Accept", "*/*"),
    )
    for more in ((), ("capture-opening",)):
        signed = sign_request(Request("POST", url, headers), device_key(), "ab" * 32, "n" * 22, AT, more=more)
        lines = "".join(f"{name}: {value}\n" for name, value in signed.headers)
        yield f"{signed.method} {signed.url}\n{lines}".encode()


def openings() -> Iterator[bytes]:
    """An opening on the first line, then the checkpoint of the claim."""
    for counter, checkpoint in ((1, ""), (capture_chain.MAX_COUNTER, "origin\n7\nx\n")):
        opening = capture_chain.Opening(bytes(32), b"p" * 32, counter, b"m" * 32, checkpoint)
        yield f"{opening}\n{checkpoint}".encode()


def captures() -> Iterator[bytes]:
    """Unsigned stores whose claim says where a capture stands, in both ways to name an assertion."""
    opening = capture_chain.Opening(bytes(32), b"p" * 32, 7, b"m" * 32, "origin\n7\nx\n")
    statement = capture_chain.assertion(opening.statement)["data"]
    box, superbox, label = seeds.forge().jumbf_box, seeds.forge().superbox, capture_chain.LABEL
    for place in ("self#jumbf=c2pa.assertions/", "self#jumbf=/c2pa/urn:c2pa:2/c2pa.assertions/"):
        listed = [{"url": place + label, "hash": bytes(32)}]
        claim = {"claim_generator_info": {"name": "x"}, "alg": "sha256", "created_assertions": listed}
        _, content = seeds.forge().cbor_assertion(label, statement)
        yield superbox(
            b"c2pa",
            "c2pa",
            superbox(
                b"c2ma",
                "urn:c2pa:2",
                superbox(b"c2as", "c2pa.assertions", content),
                superbox(b"c2cl", "c2pa.claim.v2", box(b"cbor", cbor2.dumps(claim))),
                superbox(b"c2cs", "c2pa.signature", box(b"cbor", next(seeds.signatures()))),
            ),
        )


# --- What operators hand around


def key_uris() -> Iterator[bytes]:
    yield b"file:/keys/device%20one.pem?pin-source=file:/keys/pass"
    yield b"file:key.pem"
    yield (
        b"pkcs11:token=Newsroom;object=camera;id=%01%FF?module-path=/usr/lib/softhsm/libsofthsm2.so"
        b"&pin-source=file:/keys/pin"
    )
    yield b"pkcs11:serial=00ff;id=%01;type=private?pin-source=file:/p&module-path=/l.so"
    yield b"tpm:/keys/key.tss?tcti=swtpm:host=127.0.0.1,port=2321&pin-source=file:/keys/pin"
    yield b"exec:/usr/bin/signer?key=camera"
    yield b"awskms:alias/camera?region=eu-central-1&endpoint=http://127.0.0.1:4566/&credentials=file:/k"
    yield b"awskms:arn:aws:kms:eu-central-1:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab"


def proposals() -> Iterator[bytes]:
    proposal = Proposal(
        *("example", Target.of_certificate(bytes(32)), Reason.KEY_COMPROMISE),
        *(AT - timedelta(days=3), AT, "ab" * 16),
    )
    yield Signed(proposal, (Signature("anna", b"s" * 64),)).encode()
    yield Signed(replace(proposal, target=Target.of_device("cam-1"), since=None), ()).encode()


def bundles() -> Iterator[bytes]:
    one = NamedList("cameras", Purpose.SIGNING, Profile.POLICY, "ab" * 32)
    two = NamedList("clocks", Purpose.TIME_STAMPING, Profile.TIME_STAMPING, "cd" * 32)
    for lists in ((), (one,), (one, two)):
        yield str(Bundle("example", 7, AT, lists)).encode()


@functools.cache
def phone_rules() -> android.Rules:
    return android.Rules.parse({})


@functools.cache
def tpm_makers() -> tuple[tuple[x509.Certificate, ...], tuple[x509.Certificate, ...]]:
    """The roots that are believed, and what stands between them and a TPM."""
    roots, between = (read_chain(vector(name)) for name in ("tpm_maker.pem", "tpm_between.pem"))
    return tuple(roots), tuple(between)


def phone_leaf(number: int) -> x509.Certificate:
    return read_certificate(tuple(phone_chains())[number][0])
