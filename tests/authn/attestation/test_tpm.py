"""What a TPM says is judged from its bytes; a TPM of software keys writes the same wire format here."""

import hashlib
import hmac
import json
import struct
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.decrepit.ciphers.modes import CFB
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa, utils
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import NameOID
from hypothesis import given
from hypothesis import strategies as st

from authn.attestation.judgement import Evidence, Judgement, Kind
from authn.attestation.tpm import (
    EK_CERTIFICATE,
    Count,
    CounterReading,
    Expectation,
    Statement,
    binding,
    judge,
    judge_counter,
)
from authn.attestation.tpm_credential import Activation, Credential, make_credential
from authn.attestation.tpm_structures import read_public
from authn.errors import EvidenceError
from authn.evidence import Custody

AT = datetime(2026, 11, 25, 12, tzinfo=UTC)
NONCE = bytes(range(32))
SERVER_KEY = b"k" * 32

# TPMA_OBJECT, TPM 2.0 Library, Part 2, 8.3.2
FIXED_TPM, FIXED_PARENT, ORIGIN, RESTRICTED, DECRYPT, SIGN = 1 << 1, 1 << 4, 1 << 5, 1 << 16, 1 << 17, 1 << 18
OWN = FIXED_TPM | FIXED_PARENT | ORIGIN | 1 << 6

UNSAID = "no key usage at all"

EcKey = ec.EllipticCurvePrivateKey
EkKey = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey


def tpm2b(data: bytes) -> bytes:
    return struct.pack(">H", len(data)) + data


def ecc_public(key: EcKey, attributes: int, *, name_algorithm: int = 0x0B, aes: int = 0) -> bytes:
    """TPMT_PUBLIC, Part 2, 12.2.4: with ECDSA and SHA-256, or AES in CFB for a storage key."""
    size = (key.curve.key_size + 7) // 8
    numbers = key.public_key().public_numbers()
    symmetric = struct.pack(">HHH", 0x06, aes, 0x43) if aes else struct.pack(">H", 0x10)
    scheme = struct.pack(">H", 0x10) if aes else struct.pack(">HH", 0x18, 0x0B)
    return (
        struct.pack(">HHI", 0x23, name_algorithm, attributes)
        + tpm2b(b"")
        + symmetric
        + scheme
        + struct.pack(">HH", 3 if size == 32 else 4, 0x10)
        + tpm2b(numbers.x.to_bytes(size, "big"))
        + tpm2b(numbers.y.to_bytes(size, "big"))
    )


def rsa_public(key: rsa.RSAPrivateKey, attributes: int) -> bytes:
    return (
        struct.pack(">HHI", 0x01, 0x0B, attributes)
        + tpm2b(b"")
        + struct.pack(">HHHH", 0x06, 128, 0x43, 0x10)
        + struct.pack(">HI", key.key_size, 0)
        + tpm2b(key.public_key().public_numbers().n.to_bytes(key.key_size // 8, "big"))
    )


def name_of(public: bytes) -> bytes:
    return b"\0\x0b" + hashlib.sha256(public).digest()


def attest(kind: int, extra: bytes, body: bytes, magic: bytes = b"\xffTCG") -> bytes:
    return magic + struct.pack(">H", kind) + tpm2b(b"\0\x0b" + b"q" * 32) + tpm2b(extra) + b"c" * 25 + body


def raw_signature(key: EcKey, data: bytes) -> bytes:
    r, s = utils.decode_dss_signature(key.sign(data, ec.ECDSA(hashes.SHA256())))
    return r.to_bytes(32, "big") + s.to_bytes(32, "big")


def spki(key: EkKey) -> bytes:
    return key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


@cache
def maker() -> tuple[EcKey, x509.Certificate]:
    key = ec.generate_private_key(ec.SECP384R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "A maker of TPMs")])
    built = (
        x509.CertificateBuilder(name, name, key.public_key(), 1)
        .not_valid_before(AT - timedelta(days=900))
        .not_valid_after(AT + timedelta(days=9000))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
    )
    return key, built.sign(key, hashes.SHA384())


def ek_certificate(
    key: EkKey,
    *,
    purposes: tuple[x509.ObjectIdentifier, ...] = (EK_CERTIFICATE,),
    ca: bool = False,
    usage: str | None = None,
    until: datetime = AT + timedelta(days=1),
    signer: EcKey | None = None,
) -> bytes:
    usage = usage or ("key_encipherment" if isinstance(key, rsa.RSAPrivateKey) else "key_agreement")
    usages = dict.fromkeys(
        (
            "digital_signature",
            "content_commitment",
            "key_encipherment",
            "data_encipherment",
            "key_agreement",
            "key_cert_sign",
            "crl_sign",
            "encipher_only",
            "decipher_only",
        ),
        False,
    ) | ({} if usage == UNSAID else {usage: True})
    maker_key, certificate = maker()
    builder = (
        x509.CertificateBuilder(certificate.subject, x509.Name([]), key.public_key(), 0xABC)
        .not_valid_before(AT - timedelta(days=1))
        .not_valid_after(until)
        .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
    )
    if usage != UNSAID:
        builder = builder.add_extension(x509.KeyUsage(**usages), critical=True)
    if purposes:
        builder = builder.add_extension(x509.ExtendedKeyUsage(purposes), critical=False)
    return builder.sign(signer or maker_key, hashes.SHA256()).public_bytes(Encoding.DER)


@cache
def rsa_ek() -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(65537, 2048)


@dataclass
class SoftTpm:
    """Keys that say they are in a TPM; each attribute can be made a lie."""

    ek: EkKey = field(default_factory=rsa_ek)
    ak: EcKey = field(default_factory=lambda: ec.generate_private_key(ec.SECP256R1()))
    claim: EcKey = field(default_factory=lambda: ec.generate_private_key(ec.SECP256R1()))
    ak_attributes: int = OWN | RESTRICTED | SIGN
    claim_attributes: int = OWN | SIGN
    ek_attributes: int = OWN | RESTRICTED | DECRYPT

    def statement(self) -> Statement:
        if isinstance(self.ek, rsa.RSAPrivateKey):
            ek = rsa_public(self.ek, self.ek_attributes)
        else:
            ek = ecc_public(self.ek, self.ek_attributes, aes=128)
        ak, claim = ecc_public(self.ak, self.ak_attributes), ecc_public(self.claim, self.claim_attributes)
        attested = attest(0x8017, self.expected, tpm2b(name_of(claim)) + tpm2b(b"\0\x0b" + b"n" * 32))
        secret = Activation(SERVER_KEY, NONCE).secret(ek, ak)
        signature = raw_signature(self.ak, attested)
        return Statement(ak, claim, attested, signature, ek, (ek_certificate(self.ek),), secret)

    @property
    def expected(self) -> bytes:
        return hashlib.sha256(b"lightseal/enrol/v1\0" + NONCE + spki(self.claim)).digest()

    def signed(self, statement: Statement, attested: bytes) -> Statement:
        return replace(statement, attested=attested, signature=raw_signature(self.ak, attested))

    def judge(self, statement: Statement, at: datetime = AT) -> Judgement:
        activation = Activation(SERVER_KEY, NONCE)
        expectation = Expectation(self.expected, (maker()[1],), (), activation, spki(self.claim))
        return judge(statement.evidence(), expectation, at)


def rules(judgement: Judgement | Count) -> set[str]:
    return {rule.name for rule in judgement.broken}


def activate(ek: EkKey, name: bytes, credential: Credential, digest: str, aes_bits: int) -> bytes | None:
    """TPM2_ActivateCredential by Part 1, 24 and Annexes B.10.4 and C.6.4, word for word; None if the TPM refuses."""
    function = {"sha256": hashes.SHA256, "sha384": hashes.SHA384}[digest]()
    if isinstance(ek, rsa.RSAPrivateKey):
        seed = ek.decrypt(credential.seed, padding.OAEP(padding.MGF1(function), function, b"IDENTITY\0"))
    else:
        size = (ek.curve.key_size + 7) // 8
        assert credential.seed[:2] == credential.seed[2 + size : 4 + size] == struct.pack(">H", size)
        x, y = credential.seed[2 : 2 + size], credential.seed[4 + size :]
        point = ec.EllipticCurvePublicNumbers(
            int.from_bytes(x, "big"), int.from_bytes(y, "big"), ek.curve
        ).public_key()
        own = ek.public_key().public_numbers().x.to_bytes(size, "big")
        z = ek.exchange(ec.ECDH(), point)
        seed = hashlib.new(digest, struct.pack(">I", 1) + z + b"IDENTITY\0" + x + own).digest()
    bits = 8 * function.digest_size
    mac_key = hmac.digest(
        seed, struct.pack(">I", 1) + b"INTEGRITY\0" + b"" + b"" + struct.pack(">I", bits), digest
    )
    (size,) = struct.unpack_from(">H", credential.blob)
    mac, encrypted = credential.blob[2 : 2 + size], credential.blob[2 + size :]
    if mac != hmac.digest(mac_key, encrypted + name, digest):
        return None
    stored = hmac.digest(
        seed, struct.pack(">I", 1) + b"STORAGE\0" + name + b"" + struct.pack(">I", aes_bits), digest
    )
    decryptor = Cipher(AES(stored[: aes_bits // 8]), CFB(bytes(16))).decryptor()
    clear = decryptor.update(encrypted) + decryptor.finalize()
    (size,) = struct.unpack_from(">H", clear)
    assert len(clear) == 2 + size
    return clear[2:]


# --- the shared vectors ---------------------------------------------------------------------------------------

EXPECTED_RULES = {
    "MAGIC": {"attest-magic"},
    "TYPE": {"attest-type"},
    "NONCE": {"attest-binding"},
    "SIGNATURE": {"attest-signature"},
    "NAME": {"attest-name"},
    "AK_ATTRIBUTES": {"ak-attributes"},
    "KEY_ATTRIBUTES": {"claim-key-attributes"},
    "KEY_TYPE": {"claim-key-kind"},
}
NOT_PROVEN = {"ek-absent", "activation-absent"}


def test_the_sixteen_vectors_are_judged_as_written(shared: Path) -> None:
    vectors = json.loads((shared / "vectors/attestation/other_synthetic/tpm_certify.json").read_text())
    for vector in vectors:
        parts = {
            name.removesuffix("_hex"): bytes.fromhex(vector[name]) for name in vector if name.endswith("_hex")
        }
        statement = Statement(
            parts["ak_public"], parts["claim_key_public"], parts["attest"], parts["signature_raw"]
        )
        if vector["expect"] == "MALFORMED":
            with pytest.raises(EvidenceError):
                judge(statement.evidence(), Expectation(parts["nonce"]), AT)
            continue
        found = judge(statement.evidence(), Expectation(parts["nonce"]), AT)
        if vector["expect"] == "ACCEPT":
            assert (found.custody, rules(found)) == (Custody.E1, NOT_PROVEN), vector["name"]
            assert found.spki.endswith(parts["claim_key_public"][-32:])
            assert found.pin == hashlib.sha256(parts["ak_public"]).digest()
        else:
            assert found.custody is Custody.E0, vector["name"]
            assert rules(found) - NOT_PROVEN == EXPECTED_RULES[vector["expect"]], vector["name"]
    assert len(vectors) == 16


# --- judged whole ---------------------------------------------------------------------------------------------


def test_a_whole_statement_proves_hardware_and_names_the_key() -> None:
    for ek in (rsa_ek(), ec.generate_private_key(ec.SECP256R1())):
        tpm = SoftTpm(ek=ek)
        statement = tpm.statement()
        pin = hashlib.sha256(statement.ak).digest()
        assert tpm.judge(statement) == Judgement(
            Custody.E2, spki(tpm.claim), pin, (), ("abc",), pin_is_own=True
        )
        assert binding(NONCE, spki(tpm.claim)) == tpm.expected


@pytest.mark.parametrize(
    ("lie", "rule"),
    [
        ({"ak_attributes": OWN | SIGN}, "ak-attributes"),
        ({"ak_attributes": OWN | RESTRICTED | DECRYPT}, "ak-attributes"),
        ({"ak_attributes": OWN | RESTRICTED | SIGN | DECRYPT}, "ak-attributes"),
        ({"ak_attributes": (OWN | RESTRICTED | SIGN) & ~FIXED_TPM}, "ak-attributes"),
        ({"ak_attributes": (OWN | RESTRICTED | SIGN) & ~ORIGIN}, "ak-attributes"),
        ({"claim_attributes": (OWN | SIGN) & ~FIXED_TPM}, "claim-key-attributes"),
        ({"claim_attributes": (OWN | SIGN) & ~FIXED_PARENT}, "claim-key-attributes"),
        ({"claim_attributes": (OWN | SIGN) & ~ORIGIN}, "claim-key-attributes"),
        ({"claim_attributes": OWN}, "claim-key-attributes"),
        ({"claim_attributes": OWN | SIGN | DECRYPT}, "claim-key-attributes"),
        ({"claim_attributes": OWN | SIGN | RESTRICTED}, "claim-key-attributes"),
        ({"ek_attributes": OWN | DECRYPT}, "ek-attributes"),
        ({"ek_attributes": OWN | RESTRICTED}, "ek-attributes"),
        ({"ek_attributes": (OWN | RESTRICTED | DECRYPT) & ~FIXED_TPM}, "ek-attributes"),
    ],
)
def test_one_wrong_attribute_costs_the_whole_label(lie: dict[str, int], rule: str) -> None:
    tpm = SoftTpm(**lie)  # type: ignore[arg-type]
    found = tpm.judge(tpm.statement())
    assert (found.custody, rules(found)) == (Custody.E0, {rule})


def test_the_endorsement_decides_between_hardware_and_somebodys_word() -> None:
    tpm = SoftTpm()
    good = tpm.statement()
    stranger = ec.generate_private_key(ec.SECP256R1())
    day = timedelta(days=2)
    flaws = {
        "no certificate": (replace(good, certificates=()), AT, {"ek-absent"}),
        "no endorsement key": (replace(good, ek=b""), AT, {"ek-absent", "activation-absent"}),
        "of nobody we believe": (
            replace(good, certificates=(ek_certificate(tpm.ek, signer=stranger),)),
            AT,
            {"ek-untrusted"},
        ),
        "expired": (good, AT + day, {"ek-untrusted"}),
        "not valid yet": (good, AT - day, {"ek-untrusted"}),
        "for a web server": (
            replace(good, certificates=(ek_certificate(tpm.ek, purposes=()),)),
            AT,
            {"ek-certificate-kind"},
        ),
        "for signing": (
            replace(good, certificates=(ek_certificate(tpm.ek, usage="digital_signature"),)),
            AT,
            {"ek-certificate-kind"},
        ),
        "for it is not said what": (
            replace(good, certificates=(ek_certificate(tpm.ek, usage=UNSAID),)),
            AT,
            {"ek-certificate-kind"},
        ),
        "an authority": (
            replace(good, certificates=(ek_certificate(tpm.ek, ca=True),)),
            AT,
            {"ek-certificate-kind"},
        ),
        "no activation": (replace(good, secret=b""), AT, {"activation-absent"}),
    }
    for flaw, (statement, at, expected) in flaws.items():
        found = tpm.judge(statement, at)
        assert (found.custody, rules(found)) == (Custody.E1, expected), flaw


def test_a_contradiction_in_the_endorsement_is_a_lie_and_not_a_gap() -> None:
    tpm, other = SoftTpm(), ec.generate_private_key(ec.SECP256R1())
    good = tpm.statement()
    swapped = replace(good, certificates=(ek_certificate(other),))
    assert (tpm.judge(swapped).custody, rules(tpm.judge(swapped))) == (Custody.E0, {"ek-mismatch"})
    for secret in (b"x", b"\0" * 32, good.secret[:-1], good.secret + b"\0"):
        found = tpm.judge(replace(good, secret=secret))
        assert (found.custody, rules(found)) == (Custody.E0, {"activation-wrong"})


def test_an_answer_to_one_challenge_answers_no_other() -> None:
    tpm, other = SoftTpm(), SoftTpm()
    good, foreign = tpm.statement(), other.statement()
    secrets = {
        Activation(key, nonce).secret(ek, ak)
        for key in (SERVER_KEY, b"K" * 32)
        for nonce in (NONCE, NONCE + b"\0")
        for ek, ak in (
            (good.ek, good.ak),
            (good.ek, foreign.ak),
            (good.ak, good.ek),
            (good.ek + b"\0", good.ak[1:]),
        )
    }
    assert len(secrets) == 16
    # An AK of no TPM at all, with a real TPM's endorsement key and that TPM's answer for its own AK.
    stolen = replace(foreign, ek=good.ek, certificates=good.certificates, secret=good.secret)
    assert rules(other.judge(stolen)) == {"activation-wrong"}


def test_what_the_attestation_says_is_held_against_what_was_asked() -> None:
    tpm = SoftTpm()
    good = tpm.statement()
    named = tpm2b(name_of(good.claim)) + tpm2b(b"")
    other = tpm2b(name_of(good.ak)) + tpm2b(b"")
    cases = {
        "attest-magic": attest(0x8017, tpm.expected, named, magic=b"\xffTCH"),
        "attest-type": attest(0x8018, tpm.expected, named),
        "attest-binding": attest(0x8017, tpm.expected[:-1] + b"\0\0", named),
        "attest-name": attest(0x8017, tpm.expected, other),
    }
    for rule, attested in cases.items():
        found = tpm.judge(tpm.signed(good, attested))
        assert (found.custody, rules(found)) == (Custody.E0, {rule})
    found = tpm.judge(replace(good, signature=good.signature[:-1]))
    assert rules(found) == {"attest-signature"}
    found = tpm.judge(replace(good, signature=bytes(64)))
    assert rules(found) == {"attest-signature"}


def test_a_key_that_was_not_asked_for_is_refused() -> None:
    tpm = SoftTpm()
    statement = tpm.statement()
    expectation = Expectation(
        tpm.expected, (maker()[1],), (), Activation(SERVER_KEY, NONCE), spki(SoftTpm().claim)
    )
    found = judge(statement.evidence(), expectation, AT)
    assert (found.custody, rules(found)) == (Custody.E0, {"claim-key-other"})


def test_an_attestation_key_of_another_kind_is_refused_without_a_crash() -> None:
    tpm = SoftTpm()
    good = tpm.statement()
    wrong = {
        "on P-384": ecc_public(ec.generate_private_key(ec.SECP384R1()), OWN | RESTRICTED | SIGN),
        "RSA": rsa_public(rsa_ek(), OWN | RESTRICTED | SIGN),
        "no point": good.ak[:-1] + bytes([good.ak[-1] ^ 1]),
        "by SHA-384": good.ak.replace(b"\0\x18\0\x0b", b"\0\x18\0\x0c", 1),
    }
    for what, ak in wrong.items():
        found = tpm.judge(replace(good, ak=ak, secret=b""))
        assert found.custody is Custody.E0, what
        assert "ak-kind" in rules(found), what


# --- counters -------------------------------------------------------------------------------------------------

COUNTER = 1 << 4 | 1 << 2 | 1 << 17 | 1 << 18 | 1 << 25
WRITTEN = 1 << 29


def counter(
    ak: EcKey,
    *,
    attributes: int = COUNTER | WRITTEN,
    size: int = 8,
    value: bytes = (602).to_bytes(8, "big"),
    offset: int = 0,
    kind: int = 0x8014,
    name: bytes | None = None,
) -> CounterReading:
    area = struct.pack(">IHI", 0x01800042, 0x0B, attributes) + tpm2b(b"") + struct.pack(">H", size)
    body = tpm2b(name or name_of(area)) + struct.pack(">H", offset) + tpm2b(value)
    attested = attest(kind, b"bound", body)
    return CounterReading(area, attested, raw_signature(ak, attested))


def test_a_certified_counter_gives_its_value_and_its_name() -> None:
    tpm = SoftTpm()
    ak = tpm.statement().ak
    reading = counter(tpm.ak)
    assert CounterReading.read(reading.encode()) == reading
    assert judge_counter(reading, ak, b"bound") == Count(602, name_of(reading.area))
    assert rules(judge_counter(reading, ak, b"other")) == {"attest-binding"}
    assert rules(judge_counter(counter(SoftTpm().ak), ak, b"bound")) == {"attest-signature"}
    lax = ecc_public(tpm.ak, OWN | SIGN)
    assert rules(judge_counter(reading, lax, b"bound")) == {"ak-attributes"}


@pytest.mark.parametrize(
    ("lie", "rule"),
    [
        ({"attributes": WRITTEN}, "counter-kind"),  # an ordinary place, which can be written back
        ({"attributes": COUNTER}, "counter-kind"),  # never counted
        ({"size": 16}, "counter-kind"),
        ({"offset": 1}, "counter-value"),
        ({"value": b"\0" * 7}, "counter-value"),
        ({"value": b""}, "counter-value"),
        ({"name": b"\0\x0b" + b"z" * 32}, "attest-name"),
    ],
)
def test_what_is_no_whole_counter_has_no_value(lie: dict[str, int], rule: str) -> None:
    tpm = SoftTpm()
    found = judge_counter(counter(tpm.ak, **lie), tpm.statement().ak, b"bound")  # type: ignore[arg-type]
    assert (found.value, rules(found)) == (None, {rule})


def test_a_certified_key_is_no_certified_counter() -> None:
    tpm = SoftTpm()
    statement = tpm.statement()
    reading = CounterReading(counter(tpm.ak).area, statement.attested, statement.signature)
    found = judge_counter(reading, statement.ak, tpm.expected)
    assert found.value is None
    assert rules(found) == {"attest-type", "attest-name", "counter-value"}


# --- challenges -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["rsa", "p256", "p384"])
def test_a_challenge_opens_for_its_two_keys_and_no_others(kind: str) -> None:
    digest, bits = ("sha384", 256) if kind == "p384" else ("sha256", 128)
    storage = OWN | RESTRICTED | DECRYPT
    if kind == "rsa":
        key: EkKey = rsa_ek()
        ek = rsa_public(rsa_ek(), storage)
    else:
        curve = ec.SECP256R1() if kind == "p256" else ec.SECP384R1()
        key = ec.generate_private_key(curve)
        ek = ecc_public(key, storage, aes=bits, name_algorithm=0x0C if kind == "p384" else 0x0B)
    ak, other = SoftTpm().statement().ak, SoftTpm().statement().ak
    secret = bytes(range(32))
    credential = make_credential(ek, ak, secret)
    assert Credential.read(credential.encode()) == credential
    assert activate(key, name_of(ak), credential, digest, bits) == secret
    assert activate(key, name_of(other), credential, digest, bits) is None
    assert make_credential(ek, ak, secret) != credential
    assert Activation(SERVER_KEY, NONCE).challenge(ek, ak) != credential


def test_no_challenge_is_made_for_a_key_that_could_leak_it() -> None:
    ak = SoftTpm().statement().ak
    for attributes in (OWN | DECRYPT, OWN | RESTRICTED, OWN | SIGN):
        with pytest.raises(EvidenceError):
            make_credential(rsa_public(rsa_ek(), attributes), ak, bytes(32))
    with pytest.raises(EvidenceError):
        make_credential(ak, ak, bytes(32))
    even = rsa_public(rsa_ek(), OWN | RESTRICTED | DECRYPT)
    with pytest.raises(EvidenceError):
        make_credential(even[:-1] + b"\0", ak, bytes(32))
    off_curve = ecc_public(ec.generate_private_key(ec.SECP256R1()), OWN | RESTRICTED | DECRYPT, aes=128)
    with pytest.raises(EvidenceError):
        make_credential(off_curve[:-1] + bytes([off_curve[-1] ^ 1]), ak, bytes(32))


def test_the_key_behind_the_challenges_is_not_shown() -> None:
    assert "k" * 8 not in repr(Activation(SERVER_KEY, NONCE))
    with pytest.raises(ValueError, match="32 bytes"):
        Activation(b"short", NONCE)


# --- hostile bytes --------------------------------------------------------------------------------------------

TPM = SoftTpm()
GOOD = TPM.statement()
PARTS = ("ak", "claim", "attested", "signature", "ek", "secret", "certificate")


def part_of(statement: Statement, name: str) -> bytes:
    return statement.certificates[0] if name == "certificate" else bytes(getattr(statement, name))


def with_part(statement: Statement, name: str, data: bytes) -> Statement:
    if name == "certificate":
        return replace(statement, certificates=(data,))
    return replace(statement, **{name: data})


@st.composite
def mutated(draw: st.DrawFn, data: bytes) -> bytes:
    """Cut, with a bit flipped, with a length that lies, or longer."""
    place = draw(st.integers(0, len(data) - 1))
    match draw(st.sampled_from(("cut", "flip", "length", "more", "gone"))):
        case "cut":
            return data[:place]
        case "flip":
            return data[:place] + bytes([data[place] ^ 1 << draw(st.integers(0, 7))]) + data[place + 1 :]
        case "length":
            lie = draw(st.sampled_from((b"\xff\xff", b"\0\0", b"\x80\0", b"\0\xff")))
            return data[:place] + lie + data[place + 2 :]
        case "more":
            return data[:place] + draw(st.binary(min_size=1, max_size=8)) + data[place:]
        case _:
            return data[:place] + data[place + draw(st.integers(1, 40)) :]


@given(st.sampled_from(PARTS), st.data())
def test_no_mutated_statement_proves_hardware_or_raises_a_foreign_error(
    name: str, data: st.DataObject
) -> None:
    original = part_of(GOOD, name)
    changed = data.draw(mutated(original))
    statement = with_part(GOOD, name, changed)
    try:
        found = TPM.judge(statement)
    except EvidenceError:
        return
    assert (found.custody is Custody.E2) == (changed == original)
    assert found.broken or changed == original


@given(st.data())
def test_a_mutated_attestation_that_its_key_signed_is_held_to_the_same_rules(data: st.DataObject) -> None:
    """The signature stands, so all that is left between a lie and the label is the reading of the bytes."""
    attested = data.draw(mutated(GOOD.attested))
    try:
        found = TPM.judge(TPM.signed(GOOD, attested))
    except EvidenceError:
        return
    if found.custody is Custody.E2:
        assert attested.startswith(b"\xffTCG\x80\x17")
        signer = struct.unpack_from(">H", attested, 6)[0]
        assert attested[8 + signer :].startswith(tpm2b(TPM.expected))
        after = 8 + signer + 34 + 25
        assert attested[after:].startswith(tpm2b(name_of(GOOD.claim)))


@given(st.data())
def test_mutated_evidence_is_read_as_it_was_or_not_at_all(data: st.DataObject) -> None:
    written = GOOD.evidence().data
    changed = data.draw(mutated(written))
    try:
        read = Statement.read(Evidence(Kind.TPM, changed))
    except EvidenceError:
        return
    assert read.evidence().data == changed


@given(st.data())
def test_mutated_counters_and_challenges_raise_only_our_error(data: st.DataObject) -> None:
    reading = counter(TPM.ak)
    changed = CounterReading(data.draw(mutated(reading.area)), reading.attested, reading.signature)
    attested = data.draw(mutated(reading.attested))
    signed = CounterReading(reading.area, attested, raw_signature(TPM.ak, attested))
    for each in (changed, signed):
        try:
            found = judge_counter(each, GOOD.ak, b"bound")
        except EvidenceError:
            continue
        assert found.value is None or each.area == reading.area
    for ek in (GOOD.ek, ecc_public(TPM.claim, OWN | RESTRICTED | DECRYPT, aes=128)):
        try:
            make_credential(data.draw(mutated(ek)), GOOD.ak, bytes(32))
        except EvidenceError:
            continue


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"[]",
        b"null",
        b"{}",
        b"[" * 100_000,
        b'{"a":' * 40_000,
        b"9" * 10_000,
        b"\xff\xfe",
        b'{"certificates":[1]}',
        b'{"certificates":[],"ak":7}',
        json.dumps({"certificates": ["00"] * 9}).encode(),
        GOOD.evidence().data + b" ",
        GOOD.evidence().data.replace(b":", b": ", 1),
        GOOD.evidence().data.replace(b"v1", b"v2", 1),
        GOOD.evidence().data.replace(b'"ak":', b'"ak":"00","ak":', 1),
        GOOD.evidence().data[:-1] + b',"z":1}',
    ],
)
def test_what_is_not_written_as_we_write_it_is_not_read(data: bytes) -> None:
    for read in (
        lambda: Statement.read(Evidence(Kind.TPM, data)),
        lambda: CounterReading.read(data),
        lambda: Credential.read(data),
    ):
        with pytest.raises(EvidenceError):
            read()


def test_evidence_of_another_kind_is_not_read() -> None:
    with pytest.raises(EvidenceError):
        Statement.read(Evidence(Kind.ANDROID, GOOD.evidence().data))


@given(st.binary(max_size=400))
def test_reading_a_public_area_raises_only_its_own_error(data: bytes) -> None:
    try:
        area = read_public(data)
    except EvidenceError:
        return
    assert area.encoded == data
