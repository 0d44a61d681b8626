"""Judge Apple App Attest: is it a genuine copy of our app that asks?

An attestation says that Apple holds the key to be one of the Secure Enclave, made
by the named app; an assertion, that this key signed a request. The steps are those
of Apple's "Validating apps that connect to your server".

The key it attests signs requests only. A claim is signed by another key, of which
this proves nothing: its custody is E0, and `spki` of the judgement is empty. That
the request came with the attestation is proven, by its hash in the challenge.
Apple publishes no list of withdrawn keys. The category of distribution that newer
systems add is not read, nor the receipt.
"""

import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_der_public_key

from authn import cbor, der
from authn.attestation import certificates, roots
from authn.attestation.judgement import Evidence, Judgement, Kind, Rule
from authn.errors import EvidenceError, MalformedDerError
from authn.evidence import Custody

MAX_ASSERTION = 4096
NONCE = x509.ObjectIdentifier("1.2.840.113635.100.8.2")

_APP = re.compile(r"[A-Z0-9]{10}\.[A-Za-z0-9.-]{1,155}")


class Environment(StrEnum):
    """Which of Apple's services attested the key."""

    PRODUCTION = "production"
    DEVELOPMENT = "development"


_AAGUID = {
    Environment.PRODUCTION: b"appattest".ljust(16, b"\0"),
    Environment.DEVELOPMENT: b"appattestdevelop",
}


@dataclass(frozen=True, slots=True)
class Rules:
    """Which apps a product has, each as TEAM.bundle, and from which environment it takes keys."""

    apps: frozenset[str]
    environment: Environment = Environment.PRODUCTION

    @classmethod
    def parse(cls, value: object) -> "Rules":
        """Read a product's rules as decoded JSON: apps [TEAM.bundle], environment."""
        if not isinstance(value, dict) or value.keys() - {"apps", "environment"}:
            raise EvidenceError("the product's App Attest rules have a field that is unknown")
        apps = value.get("apps")
        if not isinstance(apps, list) or not apps or not all(isinstance(app, str) for app in apps):
            raise EvidenceError("the product's App Attest rules name no app")
        if not all(_APP.fullmatch(app) for app in apps):
            raise EvidenceError("an app in the product's App Attest rules is not written TEAM.bundle")
        try:
            environment = Environment(value.get("environment", Environment.PRODUCTION))
        except ValueError as error:
            raise EvidenceError("the product's App Attest rules name an unknown environment") from error
        return cls(frozenset(apps), environment)


@dataclass(frozen=True, slots=True)
class Expectation:
    """What an attestation must show. `key_id` is the key's name, where the app gave it apart."""

    client_data_hash: bytes
    rules: Rules
    key_id: bytes | None = None
    root: x509.Certificate = field(default_factory=roots.apple_root)


@dataclass(frozen=True, slots=True)
class AssertionExpectation:
    """What an assertion must show: which attested key signed what, with a counter above `last_counter`."""

    spki: bytes
    client_data_hash: bytes
    rules: Rules
    last_counter: int


@dataclass(frozen=True, slots=True)
class AssertionJudgement:
    """Whether the attested key signed the request; `counter` is to be kept if nothing is broken."""

    counter: int
    broken: tuple[Rule, ...]


@dataclass(frozen=True, slots=True)
class _Attestation:
    leaf: x509.Certificate
    key: ec.EllipticCurvePublicKey
    intermediate: x509.Certificate
    nonce: bytes
    statement: bytes
    app: bytes
    counter: int
    aaguid: bytes
    credential: bytes


def client_data_hash(challenge: bytes, request: bytes) -> bytes:
    """What the app must have attested: our challenge with its certificate request in DER."""
    return hashlib.sha256(challenge + request).digest()


def attested_key(evidence: Evidence) -> bytes:
    """The key that signs assertions, as SubjectPublicKeyInfo in DER. Reads it; verifies nothing."""
    return roots.spki_of(_read(evidence).leaf)


def judge(evidence: Evidence, expectation: Expectation, at: datetime) -> Judgement:
    """Judge an attestation object as of `at`.

    Runs every check; raises EvidenceError for what cannot be read, and nothing else.
    """
    attestation = _read(evidence)
    broken = tuple(_attestation_rules(attestation, expectation, at))
    pin = b"" if broken else hashlib.sha256(roots.spki_of(attestation.leaf)).digest()
    return Judgement(Custody.E0, b"", pin, broken, pin_is_own=bool(pin))


def judge_assertion(data: bytes, expectation: AssertionExpectation) -> AssertionJudgement:
    """Judge one assertion. Whoever keeps the counter must compare and set it in one transaction."""
    if len(data) > MAX_ASSERTION:
        raise EvidenceError(f"the assertion has more than {MAX_ASSERTION} bytes")
    document = _map(data, "the assertion")
    signature, statement = document.get("signature"), document.get("authenticatorData")
    if not isinstance(signature, bytes) or not isinstance(statement, bytes) or len(statement) < 37:
        raise EvidenceError("the assertion lacks a signature or what was signed")
    counter = int.from_bytes(statement[33:37], "big")
    broken = list(_app_rules(statement[:32], expectation.rules))
    if counter <= expectation.last_counter:
        broken.append(Rule("counter", f"counter {counter} does not follow {expectation.last_counter}"))
    if not _signed(expectation.spki, signature, statement + expectation.client_data_hash):
        broken.append(Rule("signature", "the attested key did not sign this request"))
    return AssertionJudgement(counter, tuple(broken))


def _attestation_rules(found: _Attestation, expectation: Expectation, at: datetime) -> Iterator[Rule]:
    # 1. The chain, and the moment.
    for certificate, issuer in ((found.leaf, found.intermediate), (found.intermediate, expectation.root)):
        if not certificates.issued(issuer, certificate):
            yield Rule("chain-signature", "a certificate is not signed by the one above it")
        if not certificate.not_valid_before_utc <= at <= certificate.not_valid_after_utc:
            yield Rule("chain-expired", "a certificate was not valid at that moment")
    if not certificates.authority(found.intermediate):
        yield Rule("chain-authority", "the issuing certificate may not certify others")
    # 2.-4. What Apple put into the certificate: the hash of the statement with our challenge.
    if found.nonce != hashlib.sha256(found.statement + expectation.client_data_hash).digest():
        yield Rule("nonce", "the key was not attested for this challenge and request")
    # 5. The key's name is the hash of the key.
    name = hashlib.sha256(found.key.public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)).digest()
    if expectation.key_id is not None and expectation.key_id != name:
        yield Rule("key-id", "the app named another key")
    # 6.-9. The statement itself.
    yield from _app_rules(found.app, expectation.rules)
    if found.counter != 0:
        yield Rule("counter", "the key was used before it was attested")
    if found.aaguid != _AAGUID[expectation.rules.environment]:
        yield Rule("environment", f"the key was not attested for {expectation.rules.environment}")
    if found.credential != name:
        yield Rule("credential-id", "the statement is about another key")


def _app_rules(app: bytes, rules: Rules) -> Iterator[Rule]:
    if app not in {hashlib.sha256(name.encode()).digest() for name in rules.apps}:
        yield Rule("app", "another app made the key")


def _read(evidence: Evidence) -> _Attestation:
    if evidence.kind is not Kind.APP_ATTEST:
        raise EvidenceError("the evidence is no App Attest attestation")
    document = _map(evidence.data, "the attestation")
    outer, statement = document.get("attStmt"), document.get("authData")
    chain = outer.get("x5c") if isinstance(outer, dict) else None
    if document.get("fmt") != "apple-appattest" or not isinstance(chain, list) or len(chain) != 2:
        raise EvidenceError("the attestation is not of the format apple-appattest with two certificates")
    if not isinstance(statement, bytes) or len(statement) < 55:
        raise EvidenceError("the attestation's statement is cut short")
    size = int.from_bytes(statement[53:55], "big")
    if len(statement) < 55 + size:
        raise EvidenceError("the attestation's statement is cut short")
    leaf, intermediate = (_certificate(certificate) for certificate in chain)
    key = leaf.public_key()
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
        raise EvidenceError("the attested key is not on P-256")
    return _Attestation(
        leaf=leaf,
        key=key,
        intermediate=intermediate,
        nonce=_nonce(leaf),
        statement=statement,
        app=statement[:32],
        counter=int.from_bytes(statement[33:37], "big"),
        aaguid=statement[37:53],
        credential=statement[55 : 55 + size],
    )


def _map(data: bytes, what: str) -> dict[str | int | bytes, cbor.Value]:
    try:
        document = cbor.decode(data)
    except cbor.MalformedCborError as error:
        raise EvidenceError(f"{what} is not CBOR that can be read") from error
    if not isinstance(document, dict):
        raise EvidenceError(f"{what} is not a CBOR map")
    return document


def _certificate(data: cbor.Value) -> x509.Certificate:
    if not isinstance(data, bytes):
        raise EvidenceError("a certificate of the attestation is not a byte string")
    return certificates.read(data, "a certificate of the attestation")


def _nonce(leaf: x509.Certificate) -> bytes:
    """The OCTET STRING in [1] in a SEQUENCE, the one content that Apple's extension has."""
    for extension in leaf.extensions:
        if extension.oid == NONCE and isinstance(extension.value, x509.UnrecognizedExtension):
            try:
                fields = der.parse(extension.value.value).fields()
                inner = fields.take(0xA1).fields(0xA1)
                fields.end()
                nonce = inner.take(der.OCTET_STRING).content
                inner.end()
            except MalformedDerError as error:
                raise EvidenceError("the certificate's nonce cannot be read") from error
            if len(nonce) != 32:
                raise EvidenceError("the certificate's nonce is not a SHA-256")
            return nonce
    raise EvidenceError("the certificate has no nonce")


def _signed(spki: bytes, signature: bytes, message: bytes) -> bool:
    try:
        key = load_der_public_key(spki)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise EvidenceError("the key that was kept for assertions cannot be read") from error
    if not isinstance(key, ec.EllipticCurvePublicKey):
        raise EvidenceError("the key that was kept for assertions is not on an elliptic curve")
    try:
        # Twice hashed: the nonce is SHA-256 of the message, and what is signed is the nonce.
        key.verify(signature, hashlib.sha256(message).digest(), ec.ECDSA(hashes.SHA256()))
    except InvalidSignature:
        return False
    return True
