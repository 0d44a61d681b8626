import base64
import hashlib
import json
import re
from datetime import datetime, timedelta
from pathlib import Path

import cbor2
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_public_key

from authn import der
from authn.attestation import app_attest, roots
from authn.attestation.app_attest import AssertionExpectation, Environment, Rules
from authn.attestation.judgement import Evidence, Judgement, Kind
from authn.errors import EvidenceError
from authn.evidence import Custody

DEVELOPMENT = b"appattestdevelop"


def names(judgement) -> set[str]:
    return {rule.name for rule in judgement.broken}


@pytest.fixture
def judge(apple, at):
    def run(data: bytes, **changes) -> Judgement:
        return app_attest.judge(Evidence(Kind.APP_ATTEST, data), apple.expectation(**changes), at)

    return run


def test_a_genuine_app_is_recognised_and_its_claim_key_stays_unproven(apple, judge) -> None:
    judgement = judge(apple.attest(), key_id=apple.key_id)
    assert judgement.broken == ()
    assert not judgement.refused
    assert judgement.custody is Custody.E0
    assert judgement.spki == b""
    assert judgement.pin == hashlib.sha256(apple.spki).digest()
    assert judgement.meets(Custody.E0)
    assert not judgement.meets(Custody.E1)
    assert app_attest.attested_key(Evidence(Kind.APP_ATTEST, apple.attest())) == apple.spki


FLAWS = {
    "another app": ({"app": "TEAM123456.org.other"}, {"app"}),
    "used before": ({"counter": 1}, {"counter"}),
    "from development": ({"aaguid": DEVELOPMENT}, {"environment"}),
    "about another key": ({"credential": b"c" * 32}, {"credential-id"}),
    "expired": ({"days": (-3, -1)}, {"chain-expired"}),
    "of another request": ({"client_data_hash": b"h" * 32}, {"nonce"}),
    "issued by no authority": ({"ca": False}, {"chain-authority"}),
}


@pytest.mark.parametrize("case", FLAWS)
def test_an_attestation_with_one_flaw_breaks_one_rule(case: str, apple, judge) -> None:
    change, rules = FLAWS[case]
    judgement = judge(apple.attest(**change))
    assert names(judgement) == rules
    assert judgement.refused
    assert judgement.pin == b""


UNREADABLE = {
    "of another format": {"fmt": "packed"},
    "with one certificate": {"x5c": [b""]},
    "with certificates that are text": {"x5c": ["", ""]},
    "with certificates that are none": {"x5c": [b"0\x00", b"0\x00"]},
    "cut in the header": {"statement": b"s" * 36},
    "cut in the credential": {"statement": b"s" * 53 + b"\xff\xff"},
    "without a nonce": {"extension": b""},
    "with a short nonce": {"extension": der.sequence(der.tagged(0xA1, der.octets(b"n" * 31)))},
    "with a nonce and more": {
        "extension": der.sequence(der.tagged(0xA1, der.octets(b"n" * 32)), der.integer(1))
    },
    "with a nonce in another tag": {"extension": der.sequence(der.tagged(0xA2, der.octets(b"n" * 32)))},
}


@pytest.mark.parametrize("case", UNREADABLE)
def test_an_attestation_that_cannot_be_read_is_an_error(case: str, apple, judge) -> None:
    with pytest.raises(EvidenceError):
        judge(apple.attest(**UNREADABLE[case]))


def test_a_development_object_stands_only_where_development_is_wanted(apple, judge) -> None:
    rules = Rules(frozenset({apple.app}), Environment.DEVELOPMENT)
    assert judge(apple.attest(aaguid=DEVELOPMENT), rules=rules).broken == ()
    assert names(judge(apple.attest(), rules=rules)) == {"environment"}


def test_another_root_and_another_named_key_are_refused(apple, judge) -> None:
    assert names(judge(apple.attest(), root=roots.apple_root())) == {"chain-signature"}
    assert names(judge(apple.attest(), key_id=b"k" * 32)) == {"key-id"}


def test_the_challenge_binds_the_certificate_request() -> None:
    bound = app_attest.client_data_hash(b"challenge", b"request")
    assert bound == hashlib.sha256(b"challengerequest").digest()
    assert bound != app_attest.client_data_hash(b"challenge", b"other request")


def test_evidence_of_another_kind_cannot_be_read(apple, at) -> None:
    with pytest.raises(EvidenceError):
        app_attest.judge(Evidence(Kind.ANDROID, apple.attest()), apple.expectation(), at)


def test_an_assertion_counts_up_and_is_of_one_app_and_one_request(apple) -> None:
    rules = Rules(frozenset({apple.app}))

    def judge(data: bytes, last: int = 4, hashed: bytes = apple.client_data_hash):
        return app_attest.judge_assertion(data, AssertionExpectation(apple.spki, hashed, rules, last))

    good = apple.assertion(5)
    assert (judge(good).counter, judge(good).broken) == (5, ())
    assert names(judge(good, last=5)) == {"counter"}
    assert names(judge(good, last=6)) == {"counter"}
    assert names(judge(good, hashed=b"h" * 32)) == {"signature"}
    assert names(judge(apple.assertion(5, app="TEAM123456.org.other"))) == {"app"}
    for data in (
        b"",
        b"\x01",
        cbor2.dumps({}),
        cbor2.dumps({"signature": b"", "authenticatorData": b"a" * 36}),
        cbor2.dumps({"signature": "", "authenticatorData": b"a" * 37}),
        b"\x5a\x00\x00\x10\x00" + b"a" * 4096,
    ):
        with pytest.raises(EvidenceError):
            judge(data)
    for spki in (b"", b"0\x00"):
        with pytest.raises(EvidenceError):
            app_attest.judge_assertion(good, AssertionExpectation(spki, b"", rules, 0))


def test_rules_are_read_as_they_are_written() -> None:
    assert Rules.parse({"apps": ["TEAM123456.org.a"]}) == Rules(frozenset({"TEAM123456.org.a"}))
    development = Rules.parse({"apps": ["TEAM123456.org.a"], "environment": "development"})
    assert development.environment is Environment.DEVELOPMENT


@pytest.mark.parametrize(
    "value",
    [None, {}, {"apps": []}, {"apps": [1]}, {"apps": ["org.a"]}, {"apps": ["TEAM123456.org.a"], "more": 1},
     {"apps": ["TEAM123456.org.a"], "environment": "staging"}, {"apps": ["TEAM123456.org.a"], "environment": []}],
)  # fmt: skip
def test_rules_that_could_be_misread_are_refused(value: object) -> None:
    with pytest.raises(EvidenceError):
        Rules.parse(value)


# The shared vectors: 18 attestations and 5 assertions of App Attest's shape, 3 real ones, 1 of a neighbour format.

CATEGORY = {
    "NONCE": {"nonce"},
    "KEY_ID": {"key-id"},
    "APP_ID": {"app"},
    "COUNTER": {"counter"},
    "ENVIRONMENT": {"environment"},
    "CREDENTIAL_ID": {"credential-id"},
    "CERTIFICATE_TIME": {"chain-expired"},
    "SIGNATURE": {"chain-signature"},
}


@pytest.fixture
def synthetic(attestation_vectors: Path) -> dict:
    return json.loads((attestation_vectors / "other_synthetic" / "app_attest_synthetic.json").read_text())


def test_every_made_attestation_is_judged_as_it_says(synthetic: dict) -> None:
    root = x509.load_pem_x509_certificate(synthetic["root_pem"].encode())
    at = datetime.fromisoformat(synthetic["judge_at"])
    for vector in synthetic["attestations"]:
        evidence = Evidence(Kind.APP_ATTEST, base64.b64decode(vector["attestation_b64"]))
        expectation = app_attest.Expectation(
            hashlib.sha256(base64.b64decode(vector["challenge_b64"])).digest(),
            Rules.parse({"apps": [vector["app_id"]], "environment": vector["environment"]}),
            base64.b64decode(vector["key_id_b64"]),
            root,
        )
        if vector["expect"] in ("FORMAT", "MALFORMED"):
            with pytest.raises(EvidenceError):
                app_attest.judge(evidence, expectation, at)
            continue
        wanted = set() if vector["expect"] == "ACCEPT" else CATEGORY[vector["expect"]]
        judgement = app_attest.judge(evidence, expectation, at)
        assert names(judgement) == wanted, vector["name"]
        assert judgement.refused == bool(wanted)
    assert len(synthetic["attestations"]) == 18


def test_every_made_assertion_is_judged_as_it_says(synthetic: dict) -> None:
    for vector in synthetic["assertions"]:
        judgement = app_attest.judge_assertion(
            base64.b64decode(vector["assertion_b64"]),
            AssertionExpectation(
                spki_of(vector["public_key_pem"]),
                hashlib.sha256(base64.b64decode(vector["client_data_b64"])).digest(),
                Rules.parse({"apps": [vector["app_id"]]}),
                vector["last_counter"],
            ),
        )
        assert names(judgement) == (
            set() if vector["expect"] == "ACCEPT" else {"SIGNATURE": {"signature"}}.get(
                vector["expect"], CATEGORY.get(vector["expect"])
            )
        ), vector["name"]  # fmt: skip
    assert len(synthetic["assertions"]) == 5


def spki_of(pem: str) -> bytes:
    return load_pem_public_key(pem.encode()).public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def test_a_real_phone_of_2021_attests_and_asserts(attestation_vectors: Path) -> None:
    text = (attestation_vectors / "app_attest_real" / "ios-14.4.yaml").read_text()
    attested, asserted = (
        dict(re.findall(r"^(\w+): '?([^'|\n]+)'?$", part, re.MULTILINE))
        for part in re.split(r"^---\n", text, flags=re.MULTILINE)
        if re.search("^type: (attestation|assertion)$", part, re.MULTILINE)
    )
    rules = Rules.parse(
        {
            "apps": [f"{attested['teamIdentifier']}.{attested['bundleIdentifier']}"],
            "environment": "development",
        }
    )
    evidence = Evidence(Kind.APP_ATTEST, base64.b64decode(attested["attestationBase64"]))
    hashed = base64.b64decode(attested["clientDataHashSha256Base64"])
    at = datetime.fromisoformat(attested["timestamp"])
    expectation = app_attest.Expectation(hashed, rules, base64.b64decode(attested["keyIdBase64"]))
    assert app_attest.judge(evidence, expectation, at).broken == ()
    assert names(app_attest.judge(evidence, expectation, at + timedelta(days=30))) == {"chain-expired"}
    production = app_attest.Expectation(hashed, Rules(rules.apps), expectation.key_id)
    assert names(app_attest.judge(evidence, production, at)) == {"environment"}
    judgement = app_attest.judge_assertion(
        base64.b64decode(asserted["assertionBase64"]),
        AssertionExpectation(
            app_attest.attested_key(evidence),
            base64.b64decode(asserted["clientDataHashSha256Base64"]),
            rules,
            int(asserted["counter"]) - 1,
        ),
    )
    assert (judgement.counter, judgement.broken) == (int(asserted["counter"]), ())


def test_a_real_phone_of_2024_attests(attestation_vectors: Path) -> None:
    path = attestation_vectors / "app_attest_real" / "attestation-development.json"
    vector = json.loads(path.read_text())
    evidence = Evidence(Kind.APP_ATTEST, base64.b64decode(vector["attestation"]))
    leaf = x509.load_der_x509_certificate(cbor2.loads(evidence.data)["attStmt"]["x5c"][0])
    rules = Rules.parse({"apps": ["V8H6LQ9448.io.uebelacker.AppAttestExample"], "environment": "development"})
    expectation = app_attest.Expectation(
        hashlib.sha256(base64.b64decode(vector["challenge"])).digest(),
        rules,
        base64.b64decode(vector["keyId"]),
    )
    at = leaf.not_valid_before_utc + timedelta(hours=1)
    assert app_attest.judge(evidence, expectation, at).broken == ()


def test_the_neighbour_formats_of_web_authentication_are_not_app_attest(
    attestation_vectors: Path, at
) -> None:
    vectors = json.loads((attestation_vectors / "app_attest_real" / "webauthn_real.json").read_text())
    assert len(vectors) == 8
    for vector in vectors:
        data = base64.urlsafe_b64decode(vector["credential"]["response"]["attestationObject"] + "===")
        with pytest.raises(EvidenceError):
            app_attest.judge(
                Evidence(Kind.APP_ATTEST, data), app_attest.Expectation(b"", Rules(frozenset())), at
            )
