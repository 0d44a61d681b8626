"""Judge what a TPM 2.0 says about the key it keeps; no TPM and no TPM library is needed.

The chain of reasons, each from the one before:
  1. a certificate of the TPM's maker says: this endorsement key (EK) is in a TPM;
  2. the TPM gave back a secret that it opens only if the EK and the attestation key (AK) are both in it;
  3. the AK is restricted: it signs nothing that begins with TPM_GENERATED but what the TPM itself made;
  4. the AK certified the claim key, bound to this enrolment: made in the TPM, and never leaves it.
All four: custody E2. Only 3 and 4: the word of whoever set the device up that there is a TPM, E1, which
is worth something only if that is the operator: software can write such a statement. Less: E0.

NOT verified: which software asks the TPM to sign, and whether the machine around it booted as it should
(no PCR is looked at). Whether a maker has withdrawn the EK certificate is not asked; its serial number
is reported. TPMs whose makers' keys were broken (as ROCA, CVE-2017-15361) pass unless their root is removed.

`Evidence.data` of `Kind.TPM` is canonical JSON (sorted names, no spaces, lower-case hex):
  {"ak": TPMT_PUBLIC, "attested": TPMS_ATTEST, "certificates": [EK certificate, its issuers ...] or [],
   "claim": TPMT_PUBLIC, "ek": TPMT_PUBLIC or "", "schema": "lightseal/tpm-evidence/v1",
   "secret": what the activation gave back, or "", "signature": r and s of the AK, 32 bytes each}
"""

import hashlib
import hmac
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Self

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from authn.attestation import tpm_structures as structures
from authn.attestation.judgement import MAX_EVIDENCE, Evidence, Judgement, Kind, Rule
from authn.attestation.tpm_credential import Activation
from authn.attestation.tpm_structures import Attribute, PublicArea
from authn.chain import build_chain, read_certificate, unreadable
from authn.errors import CertificateError, EvidenceError
from authn.evidence import Custody
from authn.keys import Algorithm, signature_holds

EK_CERTIFICATE = x509.ObjectIdentifier("2.23.133.8.1")  # tcg-kp-EKCertificate

_SCHEMA = "lightseal/tpm-evidence/v1"
_COUNTER_SCHEMA = "lightseal/tpm-counter/v1"
_ENROL = b"lightseal/enrol/v1\0"
_MIN_EXPECTED = 16
_MAX_CERTIFICATES = 8
_MAX_COUNTER = 16 << 10
_HEX = re.compile(r"(?:[0-9a-f]{2})*")

# Rules that keep the label at E1 and say nothing against the key; every other one costs it all.
_LOWERING = frozenset({"ek-absent", "ek-untrusted", "ek-certificate-kind", "activation-absent"})


@dataclass(frozen=True, slots=True)
class Statement:
    """What a device sends of its TPM, each part as the TPM wrote it. Reading it verifies nothing."""

    ak: bytes
    claim: bytes
    attested: bytes
    signature: bytes
    ek: bytes = b""
    certificates: tuple[bytes, ...] = ()
    secret: bytes = b""

    def evidence(self) -> Evidence:
        """As it is sent and kept."""
        return Evidence(Kind.TPM, _write(self._fields()))

    @classmethod
    def read(cls, evidence: Evidence) -> Self:
        """Read what `evidence` wrote, and nothing else."""
        if evidence.kind is not Kind.TPM:
            raise EvidenceError("the evidence is not of a TPM")
        fields = _read(evidence.data, MAX_EVIDENCE)
        certificates = fields.get("certificates")
        if not isinstance(certificates, list) or len(certificates) > _MAX_CERTIFICATES:
            raise EvidenceError("the evidence names no list of certificates, or too many")
        names = ("ak", "claim", "attested", "signature", "ek", "secret")
        parts = {name: _hex(fields.get(name)) for name in names}
        statement = cls(**parts, certificates=tuple(map(_hex, certificates)))
        if _write(statement._fields()) != evidence.data:
            raise EvidenceError("the evidence is not written as we write it")
        return statement

    def _fields(self) -> dict[str, object]:
        return {
            "schema": _SCHEMA,
            "ak": self.ak.hex(),
            "claim": self.claim.hex(),
            "attested": self.attested.hex(),
            "signature": self.signature.hex(),
            "ek": self.ek.hex(),
            "certificates": [certificate.hex() for certificate in self.certificates],
            "secret": self.secret.hex(),
        }


@dataclass(frozen=True, slots=True)
class Expectation:
    """What a server knows on its own, against which a statement is held."""

    expected: bytes
    """What the AK must have signed besides: `binding(nonce, spki)` at an enrolment."""
    roots: tuple[x509.Certificate, ...] = ()
    """The roots of the TPM makers that are believed."""
    intermediates: tuple[x509.Certificate, ...] = ()
    """Issuers that the TPM may not keep; configured for convenience, believed for nothing."""
    activation: Activation | None = None
    spki: bytes = b""
    """The claim key that was asked for, in DER; empty to take whichever key was certified."""

    def __post_init__(self) -> None:
        if len(self.expected) < _MIN_EXPECTED:
            raise ValueError("an attestation must be bound to something that nobody could guess")


@dataclass(frozen=True, slots=True)
class CounterReading:
    """The value of a counter in a TPM, certified by its AK. Reading it verifies nothing."""

    area: bytes
    attested: bytes
    signature: bytes

    def encode(self) -> bytes:
        """As canonical JSON with hex."""
        return _write(self._fields())

    @classmethod
    def read(cls, data: bytes) -> Self:
        """Read what `encode` wrote, and nothing else."""
        fields = _read(data, _MAX_COUNTER)
        reading = cls(*(_hex(fields.get(name)) for name in ("area", "attested", "signature")))
        if reading.encode() != data:
            raise EvidenceError("the counter's evidence is not written as we write it")
        return reading

    def _fields(self) -> dict[str, object]:
        return {
            "schema": _COUNTER_SCHEMA,
            "area": self.area.hex(),
            "attested": self.attested.hex(),
            "signature": self.signature.hex(),
        }


@dataclass(frozen=True, slots=True)
class Count:
    """The value that a TPM's counter had, or the rules that its evidence breaks.

    `counter` names the counter with its attributes, and changes if it is made anew with others. A counter
    that is deleted and made again does not go back: it goes on above the highest value that any counter of
    this TPM ever had (Part 1, 37.2.4).
    """

    value: int | None
    counter: bytes
    broken: tuple[Rule, ...] = ()


def binding(nonce: bytes, spki: bytes) -> bytes:
    """What a claim key's certification at an enrolment must be bound to."""
    return hashlib.sha256(_ENROL + nonce + spki).digest()


def judge(evidence: Evidence, expectation: Expectation, at: datetime) -> Judgement:
    """What a TPM's statement proves of the claim key's custody at `at`."""
    statement = Statement.read(evidence)
    certificates = tuple(_certificate(each) for each in statement.certificates)
    serials = tuple(f"{each.serial_number:x}" for each in certificates)
    if structures.read_kind(statement.claim) != structures.ECC:
        rule = Rule("claim-key-kind", "the claim key is not an elliptic-curve key")
        return Judgement(Custody.E0, b"", b"", (rule,), serials)
    ak, claim = structures.read_public(statement.ak), structures.read_public(statement.claim)
    broken = (
        *_signing_rules(ak, statement.attested, statement.signature),
        *_certify_rules(statement.attested, expectation.expected, claim),
        *_claim_rules(claim, expectation.spki),
        *_endorsement_rules(statement, certificates, expectation, at),
        *_activation_rules(statement, expectation.activation),
    )
    names = {rule.name for rule in broken}
    custody = Custody.E0 if names - _LOWERING else Custody.E1 if names else Custody.E2
    pin = hashlib.sha256(ak.encoded).digest()
    return Judgement(custody, _spki(claim), pin, broken, serials, pin_is_own=True)


def judge_counter(reading: CounterReading, ak: bytes, expected: bytes) -> Count:
    """What the TPM that holds `ak`, a TPMT_PUBLIC judged before, said of a counter, bound to `expected`."""
    area = structures.read_counter_area(reading.area)
    broken = list(_signing_rules(structures.read_public(ak), reading.attested, reading.signature))
    attest = structures.read_attest(reading.attested)
    if attest.kind != structures.ATTEST_NV:
        broken.append(Rule("attest-type", "the attestation is not about a counter"))
    if not hmac.compare_digest(attest.extra, expected):
        broken.append(Rule("attest-binding", "the attestation is bound to something else"))
    if attest.name != area.name:
        broken.append(Rule("attest-name", "the attestation is about another counter"))
    if area.kind != structures.COUNTER or not area.written or area.size != 8:
        broken.append(Rule("counter-kind", "the place in the TPM's memory is no counter that has counted"))
    if attest.offset != 0 or len(attest.contents) != 8:
        broken.append(Rule("counter-value", "the attestation does not hold the whole value"))
    value = None if broken else int.from_bytes(attest.contents, "big")
    return Count(value, area.name, tuple(broken))


def _signing_rules(ak: PublicArea, attested: bytes, signature: bytes) -> Iterator[Rule]:
    """The AK may only sign what the TPM made, and it signed this."""
    if not structures.generated(attested):
        yield Rule("attest-magic", "the attestation does not begin with what only a TPM may sign")
    wanted = (Attribute.RESTRICTED, Attribute.SIGN, Attribute.FIXED_TPM, Attribute.SENSITIVE_DATA_ORIGIN)
    if faults := _faults(ak.lacks(*wanted), ak.has(Attribute.DECRYPT)):
        yield Rule("ak-attributes", f"the attestation key {faults}")
    # ECDSA with SHA-256 on P-256 is what we ask a TPM for, and what every one of them has.
    if not isinstance(ak.key, ec.EllipticCurvePublicKey) or ak.key.curve.name != "secp256r1":
        yield Rule("ak-kind", "the attestation key is not a key on P-256")
        return
    if (ak.scheme, ak.scheme_digest) != (structures.ECDSA, structures.SHA256):
        yield Rule("ak-kind", "the attestation key does not sign by ECDSA with SHA-256")
    if not signature_holds(ak.key, Algorithm.ES256, signature, attested):
        yield Rule("attest-signature", "the attestation was not signed by the attestation key")


def _certify_rules(attested: bytes, expected: bytes, claim: PublicArea) -> Iterator[Rule]:
    """TPM2_Certify (Part 3, 18.2): about this key, bound to this enrolment."""
    attest = structures.read_attest(attested)
    if attest.kind != structures.ATTEST_CERTIFY:
        yield Rule("attest-type", "the attestation is not about a key")
    if not hmac.compare_digest(attest.extra, expected):
        yield Rule("attest-binding", "the attestation is bound to another enrolment or another key")
    if attest.kind == structures.ATTEST_CERTIFY and attest.name != claim.name:
        yield Rule("attest-name", "the attestation is about another key")


def _claim_rules(claim: PublicArea, spki: bytes) -> Iterator[Rule]:
    """Made in the TPM, never leaves it, and signs."""
    if claim.key is None:
        yield Rule("claim-key-kind", "the claim key is a point that is not on its curve")
    wanted = (
        Attribute.FIXED_TPM,
        Attribute.FIXED_PARENT,
        Attribute.SENSITIVE_DATA_ORIGIN,
        Attribute.SIGN,
    )
    if faults := _faults(claim.lacks(*wanted), claim.has(Attribute.DECRYPT, Attribute.RESTRICTED)):
        yield Rule("claim-key-attributes", f"the claim key {faults}")
    if spki and spki != _spki(claim):
        yield Rule("claim-key-other", "the certified key is not the key that a certificate was asked for")


def _endorsement_rules(
    statement: Statement, certificates: tuple[x509.Certificate, ...], expectation: Expectation, at: datetime
) -> Iterator[Rule]:
    """A maker's certificate for the EK (TCG EK Credential Profile 2.5, 3.2)."""
    if not statement.ek or not certificates:
        yield Rule("ek-absent", "no endorsement key with a certificate was sent")
        return
    ek, leaf = structures.read_public(statement.ek), certificates[0]
    if ek.key is None or ek.key != leaf.public_key():
        yield Rule("ek-mismatch", "the endorsement certificate is for another key")
    if faults := _faults(
        ek.lacks(Attribute.RESTRICTED, Attribute.DECRYPT, Attribute.FIXED_TPM), ek.has(Attribute.SIGN)
    ):
        yield Rule("ek-attributes", f"the endorsement key {faults}")
    if fault := _certificate_fault(leaf):
        yield Rule("ek-certificate-kind", f"the endorsement certificate {fault}")
    presented = (*certificates[1:], *expectation.intermediates)
    chain = build_chain(leaf, presented, expectation.roots, at)
    if chain.path is None:
        yield Rule("ek-untrusted", f"no path leads to a TPM maker that is believed: {chain.reason}")


def _activation_rules(statement: Statement, activation: Activation | None) -> Iterator[Rule]:
    """TPM2_ActivateCredential (Part 3, 12.5) gave back what only it can."""
    if activation is None or not statement.secret or not statement.ek:
        yield Rule("activation-absent", "the TPM was not made to show that it holds both keys")
    elif not hmac.compare_digest(activation.secret(statement.ek, statement.ak), statement.secret):
        yield Rule("activation-wrong", "the TPM's answer to the challenge is not the secret")


def _certificate_fault(leaf: x509.Certificate) -> str | None:
    """Why a certificate is none for an endorsement key, by its own extensions."""
    ca, usage, purposes = False, None, None
    for extension in leaf.extensions:
        match extension.value:
            case x509.BasicConstraints() as constraints:
                ca = constraints.ca
            case x509.KeyUsage() as found:
                usage = found
            case x509.ExtendedKeyUsage() as found:
                purposes = frozenset(found)
            case _:
                pass
    if ca:
        return "is an authority's"
    if purposes is None or EK_CERTIFICATE not in purposes:
        return "does not say that it is for an endorsement key"
    if usage is None:
        return "does not say what its key is for"
    rsa_key = isinstance(leaf.public_key(), rsa.RSAPublicKey)
    if not (usage.key_encipherment if rsa_key else usage.key_agreement):
        return "does not let its key receive secrets"
    return None


def _certificate(data: bytes) -> x509.Certificate:
    try:
        certificate = read_certificate(data)
    except CertificateError as error:
        raise EvidenceError("a certificate in the evidence cannot be read") from error
    if fault := unreadable(certificate):
        raise EvidenceError(f"a certificate in the evidence {fault}")
    return certificate


def _faults(lacks: tuple[str, ...], has: tuple[str, ...]) -> str:
    """The attributes that should be there, and those that should not; empty if all is well."""
    parts = [f"lacks {', '.join(lacks)}"] if lacks else []
    parts += [f"is {', '.join(has)}"] if has else []
    return " and ".join(parts)


def _spki(area: PublicArea) -> bytes:
    return b"" if area.key is None else area.key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def _write(fields: Mapping[str, object]) -> bytes:
    return json.dumps(fields, sort_keys=True, separators=(",", ":")).encode()


def _read(data: bytes, limit: int) -> Mapping[str, object]:
    if len(data) > limit:
        raise EvidenceError(f"the evidence has more than {limit} bytes")
    try:
        fields = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise EvidenceError("the evidence is not JSON") from error
    if not isinstance(fields, dict):
        raise EvidenceError("the evidence is not a JSON object")
    return fields


def _hex(value: object) -> bytes:
    if not isinstance(value, str) or not _HEX.fullmatch(value):
        raise EvidenceError("a part of the evidence is not lower-case hex")
    return bytes.fromhex(value)
