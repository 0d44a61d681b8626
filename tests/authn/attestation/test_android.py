import base64
import hashlib
import json
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_der_public_key

from authn import cbor, der
from authn.attestation import android, key_description, roots
from authn.attestation.judgement import Evidence, Judgement, Kind
from authn.attestation.key_description import Package
from authn.attestation.status_list import Entry, StatusList
from authn.errors import EvidenceError
from authn.evidence import Custody

SET = der.set_of
INT = der.integer


def names(judgement: Judgement) -> set[str]:
    return {rule.name for rule in judgement.broken}


@pytest.fixture
def judge(maker, at):
    def run(chain, **changes) -> Judgement:
        return android.judge(android.evidence(chain), maker.expectation(**changes), at)

    return run


# What our own maker's phones show, with one thing wrong.


@pytest.mark.parametrize("provisioning", ["remote", "factory"])
def test_a_good_phone_proves_all_there_is_to_prove(provisioning: str, maker, judge) -> None:
    judgement = judge(getattr(maker, provisioning)(maker.leaf(maker.describe())))
    assert judgement.custody is Custody.E3
    assert judgement.broken == judgement.warnings == ()
    assert judgement.spki == maker.spki
    assert len(judgement.pin) == 32
    assert judgement.meets(Custody.E3)
    load_der_public_key(judgement.spki)


REFUSED = {
    "purpose missing": ("key-purpose", {1: None}),
    "purpose only verify": ("key-purpose", {1: SET(INT(3))}),
    "purpose also attest": ("key-purpose", {1: SET(INT(2), INT(7))}),
    "algorithm missing": ("key-algorithm", {2: None}),
    "algorithm RSA of an EC key": ("key-algorithm", {2: INT(1)}),
    "size of another key": ("key-size", {3: INT(384)}),
    "size missing": ("key-size", {3: None}),
    "curve of another key": ("key-curve", {10: INT(2)}),
    "curve missing": ("key-curve", {10: None}),
    "digest none": ("key-digest", {5: SET(INT(0))}),
    "digest SHA-1": ("key-digest", {5: SET(INT(2))}),
    "digest missing": ("key-digest", {5: None}),
    "imported": ("key-origin", {702: INT(2)}),
    "origin missing": ("key-origin", {702: None}),
}
LOWERED = {
    "unlocked": ("boot-unlocked", {704: der.sequence(
        der.octets(b"k"), der.tagged(1, b"\0"), der.tagged(10, b"\0"), der.octets(b"h"))}),
    "self-signed system": ("boot-unverified", {704: der.sequence(
        der.octets(b"k"), der.tagged(1, b"\xff"), der.tagged(10, b"\1"))}),
    "boot not stated": ("boot-unknown", {704: None}),
    "system patch four months back": ("os-patch", {706: INT(202607)}),
    "system patch of next month": ("os-patch", {706: INT(202612)}),
    "system patch of month 13": ("os-patch", {706: INT(202613)}),
    "system patch missing": ("os-patch", {706: None}),
    "vendor patch 91 days back": ("vendor-patch", {718: INT(20260821)}),
    "vendor patch of tomorrow": ("vendor-patch", {718: INT(20261121)}),
    "vendor patch without a day": ("vendor-patch", {718: INT(202611)}),
    "vendor patch of 31 February": ("vendor-patch", {718: INT(20260231)}),
    "boot patch missing": ("boot-patch", {719: None}),
    "boot patch of 2^64 - 1": ("boot-patch", {719: INT(2**64 - 1)}),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_a_key_that_breaks_the_table_is_refused_by_that_rule(case: str, maker, judge) -> None:
    rule, change = REFUSED[case]
    judgement = judge(maker.remote(maker.leaf(maker.describe(change))))
    assert names(judgement) == {rule}
    assert judgement.refused
    assert judgement.spki == judgement.pin == b""
    assert not judgement.meets(Custody.E0)


@pytest.mark.parametrize("case", LOWERED)
def test_a_phone_that_misses_e3_keeps_e2_and_says_why(case: str, maker, judge) -> None:
    rule, change = LOWERED[case]
    judgement = judge(maker.remote(maker.leaf(maker.describe(change))))
    assert names(judgement) == {rule}
    assert judgement.custody is Custody.E2
    assert judgement.spki == maker.spki
    assert judgement.meets(Custody.E2)
    assert not judgement.meets(Custody.E3)


@pytest.mark.parametrize(
    "change", [{706: INT(202608)}, {718: INT(20260822)}, {719: INT(20261120)}, {1: SET(INT(2), INT(3))}]
)
def test_the_edges_of_the_table_are_inside(change, maker, judge) -> None:
    assert judge(maker.remote(maker.leaf(maker.describe(change)))).custody is Custody.E3


def test_what_only_the_operating_system_says_counts_for_nothing(maker, judge) -> None:
    moved = {702: INT(0), 1: SET(INT(2)), 5: SET(INT(4))}
    description = maker.describe(hardware=dict.fromkeys(moved), software=moved)
    assert names(judge(maker.remote(maker.leaf(description)))) == {"key-origin", "key-purpose", "key-digest"}


@pytest.mark.parametrize("levels", [(0, 1), (1, 0), (0, 0), (3, 1)])
def test_software_at_either_level_is_refused(levels, maker, judge) -> None:
    assert names(judge(maker.remote(maker.leaf(maker.describe(levels=levels))))) == {"security-level"}


def test_another_challenge_or_another_requested_key_is_refused(maker, judge) -> None:
    chain = maker.remote(maker.leaf(maker.describe()))
    assert names(judge(chain, challenge=b"")) == {"challenge"}
    assert names(judge(chain, spki=b"")) == {"key-not-requested"}


def test_an_app_that_the_product_does_not_have_is_refused(maker, judge) -> None:
    chain = maker.remote(maker.leaf(maker.describe()))
    app = key_description.read(maker.describe()).software.application
    assert app is not None
    other = frozenset({Package("org.lightseal.camera", 8)})
    assert names(judge(chain, rules=android.Rules(other, app.signers))) == {"app-package"}
    assert names(judge(chain, rules=android.Rules(app.packages, frozenset({b"s" * 32})))) == {"app-signer"}
    unnamed = maker.remote(maker.leaf(maker.describe(software={709: None})))
    assert names(judge(unnamed)) == {"app-missing"}


def test_a_product_that_names_no_app_gets_no_e3(maker, judge) -> None:
    judgement = judge(maker.remote(maker.leaf(maker.describe())), rules=android.Rules())
    assert (judgement.custody, names(judgement)) == (Custody.E2, {"app-unnamed"})


def test_a_model_is_asked_for_only_where_the_product_names_one(maker, judge) -> None:
    base = maker.expectation().rules
    rules = android.Rules(base.packages, base.signers, b"sealed", b"Maker", b"M1")
    assert names(judge(maker.remote(maker.leaf(maker.describe())), rules=rules)) == {
        "device-brand",
        "device-manufacturer",
        "device-model",
    }
    stated = maker.describe({710: der.octets(b"sealed"), 716: der.octets(b"Maker"), 717: der.octets(b"M1")})
    assert judge(maker.remote(maker.leaf(stated)), rules=rules).custody is Custody.E3


def test_an_rsa_key_must_sign_with_pss_and_be_of_the_size_stated(maker, judge) -> None:
    key = type(maker.key)(maker.key.name, rsa.generate_private_key(65537, 2048))
    spki = key.key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)

    def stated(size: int, padding: int) -> Judgement:
        description = maker.describe({2: INT(1), 3: INT(size), 6: SET(INT(padding)), 10: None})
        statement = [x509.UnrecognizedExtension(android.STATEMENT, description)]
        leaf = maker.device.certify(key, 1, extensions=statement, authority=None)
        return judge(maker.remote(leaf), spki=spki)

    assert stated(2048, 3).custody is Custody.E3
    assert names(stated(2048, 5)) == {"key-padding"}
    assert names(stated(3072, 3)) == {"key-size"}


def test_a_curve_of_the_right_size_is_not_yet_the_right_curve(maker, judge) -> None:
    key = type(maker.key)(maker.key.name, ec.generate_private_key(ec.SECP256K1()))
    spki = key.key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    statement = [x509.UnrecognizedExtension(android.STATEMENT, maker.describe())]
    leaf = maker.device.certify(key, 1, extensions=statement, authority=None)
    assert names(judge(maker.remote(leaf), spki=spki)) == {"key-curve"}


# The chain.


def test_the_leafs_dates_are_never_read(maker, judge) -> None:
    for days in ((-19000, -18000), (10, 20)):
        leaf = maker.leaf(maker.describe(), days)
        assert judge(maker.remote(leaf)).custody is Custody.E3


def test_a_remotely_provisioned_certificate_must_be_of_its_days(maker, judge) -> None:
    leaf = maker.leaf(maker.describe())
    assert names(judge(maker.remote(leaf, days=(-20, -1)))) == {"chain-expired"}
    assert names(judge(maker.remote(leaf, days=(1, 20)))) == {"chain-not-yet-valid"}


def test_a_factory_certificate_may_be_past_its_days_but_not_before(maker, judge) -> None:
    leaf = maker.leaf(maker.describe())
    assert judge(maker.factory(leaf, days=(-4000, -1))).custody is Custody.E3
    assert names(judge(maker.factory(leaf, days=(1, 20)))) == {"chain-not-yet-valid"}


def test_an_attested_key_cannot_vouch_for_another(maker, judge) -> None:
    """With a statement of its own, a copied one or none: the one nearest the root counts."""
    real = maker.remote(maker.leaf(maker.describe()))
    for statement in ([], [x509.UnrecognizedExtension(android.STATEMENT, maker.describe())]):
        forged = maker.key.certify(maker.other, 2, extensions=statement, authority=None)
        stolen = roots.spki_of(x509.load_der_x509_certificate(forged))
        for chain in ([forged, *real], [forged, real[0], *real[2:]], [forged, *real[:3], real[4]]):
            judgement = judge(chain, spki=stolen)
            assert {"chain-extended", "key-not-requested"} <= names(judgement)
            assert judgement.refused


def test_a_root_is_believed_for_its_key_and_not_its_name(maker, judge) -> None:
    leaf = maker.leaf(maker.describe())
    impostor = type(maker.root)(maker.root.name, maker.other.key)
    chain = maker.remote(leaf)
    swapped = [*chain[:3], impostor.certify(maker.upper, 0xA1), impostor.certify(impostor, 0xF9)]
    assert names(judge(swapped)) == {"root-unknown"}
    assert names(judge([*swapped[:4], chain[4]])) == {"chain-signature"}
    reissued = [*chain[:4], maker.root.certify(maker.root, 0xFA, (-9000, -8000))]
    assert judge(reissued).custody is Custody.E3


@pytest.mark.parametrize("keep", [slice(0, 1), slice(0, 3), slice(1, 5), slice(0, 4)])
def test_a_chain_of_another_length_is_refused(keep: slice, maker, judge) -> None:
    chain = maker.remote(maker.leaf(maker.describe()))[keep]
    assert judge(chain).refused


def test_a_leaf_signed_by_another_key_is_refused(maker, judge) -> None:
    forged = type(maker.device)(maker.device.name, maker.other.key).certify(
        maker.key,
        1,
        extensions=[x509.UnrecognizedExtension(android.STATEMENT, maker.describe())],
        authority=None,
    )
    assert names(judge(maker.remote(forged))) == {"chain-signature"}


def test_a_remote_authority_must_be_one(maker, judge) -> None:
    chain = maker.remote(maker.leaf(maker.describe()))
    chain[1] = maker.lower.certify(maker.device, 0xC0FFEE, authority=False)
    assert names(judge(chain)) == {"chain-authority"}


@pytest.mark.parametrize("place", [2, 3])
def test_only_the_device_certificate_of_a_factory_is_excused_from_being_an_authority(
    place: int, maker, judge
) -> None:
    chain = maker.factory(maker.leaf(maker.describe()))
    assert judge(chain).custody is Custody.E3
    above = [None, None, (maker.root, maker.batch), (maker.root, maker.root)][place]
    assert above is not None
    chain[place] = above[0].certify(above[1], 7, (-4000, -400), authority=False)
    assert names(judge(chain)) == {"chain-authority"}


def test_a_signature_over_a_weak_hash_is_refused(maker, judge) -> None:
    chain = maker.remote(maker.leaf(maker.describe()))
    chain[1] = maker.lower.certify(maker.device, 0xC0FFEE, digest=hashes.SHA224())
    judgement = judge(chain)
    assert names(judgement) == {"chain-weak"}
    assert judgement.refused


def test_a_signature_by_a_weak_key_is_refused(maker, judge) -> None:
    lower = type(maker.lower)(maker.lower.name, ec.generate_private_key(ec.SECP224R1()))
    chain = maker.remote(maker.leaf(maker.describe()))
    chain[1:3] = [lower.certify(maker.device, 0xC0FFEE), maker.upper.certify(lower, 0xB2)]
    judgement = judge(chain)
    assert names(judgement) == {"chain-weak"}
    assert judgement.refused


def test_a_chain_without_a_statement_is_refused(maker, judge) -> None:
    assert names(judge(maker.remote(maker.leaf(None)))) == {"no-statement"}


# Withdrawal, and judging again.


@pytest.mark.parametrize("status", ["REVOKED", "SUSPENDED", "SOMETHING_NEW"])
def test_kept_evidence_is_judged_again_by_a_newer_list(status: str, maker, at) -> None:
    evidence = android.evidence(maker.remote(maker.leaf(maker.describe())))
    before = android.judge(evidence, maker.expectation(), at)
    assert before.custody is Custody.E3
    assert before.serials == ("1", "c0ffee", "b2", "a1", "f9")
    newer = StatusList(at + timedelta(days=400), {"c0ffee": Entry(status, "KEY_COMPROMISE")})
    assert any(newer.of(serial) for serial in before.serials)
    after = android.judge(evidence, maker.expectation(status=newer), at)
    assert names(after) == {"revoked"}
    assert after.refused
    assert after.warnings == ()


def test_a_list_over_thirty_days_old_warns_and_lowers_nothing(maker, judge, at) -> None:
    chain = maker.remote(maker.leaf(maker.describe()))
    assert judge(chain, status=StatusList(at - timedelta(days=30))).warnings == ()
    judgement = judge(chain, status=StatusList(at - timedelta(days=30, seconds=1)))
    assert [rule.name for rule in judgement.warnings] == ["status-list-stale"]
    assert judgement.custody is Custody.E3


# The pin.


def test_a_phone_that_comes_back_has_its_pin_and_another_has_not(maker, judge) -> None:
    leaf = maker.leaf(maker.describe())
    again = maker.leaf(maker.describe(), (-1, 1))
    assert judge(maker.factory(leaf)).pin == judge(maker.factory(again, (-3000, 30))).pin
    assert judge(maker.remote(leaf)).pin == judge(maker.remote(again, (-1, 1))).pin
    assert judge(maker.remote(leaf)).pin != judge(maker.factory(leaf)).pin
    strongbox = maker.leaf(maker.describe(levels=(2, 2)))
    assert judge(maker.remote(leaf)).pin != judge(maker.remote(strongbox)).pin


@pytest.mark.parametrize("key", [b"", bytes(32), b"\xff" * 32, b"\0"])
def test_a_boot_key_that_is_none_pins_nothing(key: bytes, maker, judge) -> None:
    """Unlocked phones of every maker, and test devices, state 32 zeros."""
    judgement = judge(maker.remote(maker.leaf(maker.describe(maker.boot(key)))))
    assert judgement.custody is Custody.E3
    assert judgement.pin == b""
    stated = judge(maker.remote(maker.leaf(maker.describe(maker.boot(bytes(31) + b"\1")))))
    assert len(stated.pin) == 32


def test_no_pin_of_a_phone_is_its_own(maker, judge) -> None:
    """A batch of phones shares the factory's key, a line of phones the key of its system."""
    leaf = maker.leaf(maker.describe())
    assert not judge(maker.factory(leaf)).pin_is_own
    assert not judge(maker.remote(leaf)).pin_is_own


def test_no_public_phone_is_pinned_by_zeros(attestation_vectors: Path) -> None:
    """Phones of four kinds and two makers once had one and the same pin."""
    pins = []
    for path in sorted((attestation_vectors / "android_real").glob("*.pem")):
        chain = [x509.load_der_x509_certificate(each) for each in chain_of(path)]
        try:
            description = key_description.read(statement_of(chain_of(path)))
        except EvidenceError:
            continue
        root = description.hardware.root_of_trust
        if len(chain) > 1 and root is not None:
            pins.append((root.boot_key, android._provisioning(chain), android._pin(chain, description)))
    zeros = [pin for key, way, pin in pins if not any(key) and way is not android.Provisioning.FACTORY]
    assert len(zeros) >= 2
    assert set(zeros) == {b""}
    assert any(pin for _, _, pin in pins)


# The form of the evidence and of the rules.


@pytest.mark.parametrize(
    "data",
    [b"", b"{}", b'{"x5c":[]}', b'{"x5c": ["AAAA"]}', b'{"x5c":["AAAA"]}\n', b'{"x5c":["AAAB=="]}',
     b'{"x5c":["AB=="]}', b"[" * 100_000, b'{"x5c":["AAAA"],"x5c":["AAAA"]}',
     b'{"x5c":["' + b'","'.join([b"AAAA"] * 11) + b'"]}'],
)  # fmt: skip
def test_evidence_in_another_form_cannot_be_read(data: bytes, maker, at) -> None:
    with pytest.raises(EvidenceError):
        android.judge(Evidence(Kind.ANDROID, data), maker.expectation(), at)


def test_evidence_of_another_kind_cannot_be_read(maker, at) -> None:
    data = android.evidence(maker.remote(maker.leaf(maker.describe()))).data
    with pytest.raises(EvidenceError):
        android.judge(Evidence(Kind.TPM, data), maker.expectation(), at)


def test_rules_are_read_as_they_are_written() -> None:
    rules = android.Rules.parse({"packages": {"org.a": [1, 2]}, "signers": ["ab" * 32], "brand": "b"})
    assert rules.packages == {Package("org.a", 1), Package("org.a", 2)}
    assert rules.signers == {b"\xab" * 32}
    assert (rules.brand, rules.manufacturer, rules.model) == (b"b", None, None)
    assert android.Rules.parse({}) == android.Rules()


@pytest.mark.parametrize(
    "value",
    [None, [], {"package": {}}, {"packages": {"org.a": [1]}}, {"signers": ["ab" * 32]},
     {"packages": {"org.a": []}, "signers": ["ab" * 32]}, {"packages": {"org.a": [True]}, "signers": ["ab" * 32]},
     {"packages": {"org a": [1]}, "signers": ["ab" * 32]}, {"packages": {"org.a": [1]}, "signers": ["AB" * 32]},
     {"packages": {"org.a": ["1"]}, "signers": ["ab" * 32]}, {"brand": ""}, {"model": 7},
     {"brand": "\ud800"}, {"model": "a\nb"}],
)  # fmt: skip
def test_rules_that_could_be_misread_are_refused(value: object) -> None:
    with pytest.raises(EvidenceError):
        android.Rules.parse(value)


# The shared vectors. 9 real chains, 1 malformed, 1 leaf to parse, 43 made, 1 from WebAuthn: 55 to judge.

CATEGORY = {
    "CHALLENGE": {"challenge"},
    "SECURITY_LEVEL": {"security-level"},
    "KEY_ORIGIN": {"key-origin"},
    "DEVICE_STATE": {"boot-unlocked", "boot-unverified", "boot-unknown"},
    "PATCH_LEVEL": {"os-patch", "vendor-patch", "boot-patch"},
    "KEY_PURPOSE": {"key-purpose"},
    "KEY_DIGEST": {"key-digest"},
    "KEY_CURVE": {"key-curve", "key-size"},
    "APP_ID": {"app-package", "app-signer", "app-missing"},
    "CHAIN_EXTENDED": {"chain-extended"},
    "TRUST_ANCHOR": {"root-unknown"},
    "SIGNATURE": {"chain-signature"},
    "EXPIRED": {"chain-expired"},
    "REVOKED": {"revoked"},
    "NO_EXTENSION": {"no-statement"},
    "CHAIN_LENGTH": {"chain-length"},
    "CSR_KEY": {"key-not-requested"},
}
FAILS = {
    "digest": "key-digest",
    "padding is not PSS": "key-padding",
    "algorithm": "key-algorithm",
    "bootloader unlocked": "boot-unlocked",
    "verifiedBootState": "boot-unverified",
    "osPatchLevel": "os-patch",
    "vendor_patch_level": "vendor-patch",
    "boot_patch_level": "boot-patch",
}
CHAIN = {"root-unknown", "chain-length", "chain-signature", "chain-authority", "chain-not-yet-valid",
         "chain-expired", "chain-extended", "revoked", "no-statement"}  # fmt: skip
LEVELS = {"TRUSTED_ENVIRONMENT": 1, "STRONG_BOX": 2}
BOOT = {"VERIFIED": 0, "SELF_SIGNED": 1, "UNVERIFIED": 2}


def chain_of(path: Path) -> list[bytes]:
    return [c.public_bytes(Encoding.DER) for c in x509.load_pem_x509_certificates(path.read_bytes())]


def statement_of(chain: list[bytes]) -> bytes:
    extensions = x509.load_der_x509_certificate(chain[0]).extensions
    value = extensions.get_extension_for_oid(android.STATEMENT).value
    assert isinstance(value, x509.UnrecognizedExtension)
    return value.value


def spki(chain: list[bytes]) -> bytes:
    return roots.spki_of(x509.load_der_x509_certificate(chain[0]))


def ask(chain: list[bytes], challenge: bytes, at: datetime, **changes) -> Judgement:
    status = StatusList(at)
    return android.judge(
        android.evidence(chain),
        android.Expectation(**{"challenge": challenge, "spki": spki(chain), "status": status, **changes}),
        at,
    )


def test_every_made_chain_is_judged_as_its_manifest_says(attestation_vectors: Path) -> None:
    folder = attestation_vectors / "android_synthetic"
    manifest = json.loads((folder / "manifest.json").read_text())
    (root,) = x509.load_pem_x509_certificates((folder / "test_root.pem").read_bytes())
    at = datetime.fromisoformat(manifest["judge_at"])
    rules = android.Rules.parse(
        {"packages": manifest["allowed_packages"], "signers": manifest["allowed_signer_sha256"]}
    )
    for name, vector in manifest["vectors"].items():
        chain = chain_of(folder / f"{name}.pem")
        changes = {
            "rules": rules,
            "roots": frozenset({roots.key_digest(root)}),
            "status": StatusList.published(json.dumps({"entries": vector.get("revoked", {})}).encode(), at),
        }
        if vector.get("csr_key") == "other":
            changes["spki"] = roots.spki_of(root)
        challenge = bytes.fromhex(manifest["challenge_hex"])
        if vector["expect"] == "MALFORMED":
            with pytest.raises(EvidenceError):
                ask(chain, challenge, at, **changes)
            continue
        judgement = ask(chain, challenge, at, **changes)
        if vector["expect"] == "ACCEPT":
            assert (judgement.custody, judgement.broken) == (Custody.E3, ()), name
        else:
            assert names(judgement) & CATEGORY[vector["expect"]], (name, judgement)
            assert not judgement.meets(Custody.E3), name
    assert len(manifest["vectors"]) == 43


def test_every_real_chain_is_judged_as_its_manifest_says(attestation_vectors: Path) -> None:
    folder = attestation_vectors / "android_real"
    judged = 0
    for name, vector in json.loads((folder / "manifest.json").read_text()).items():
        if "challenge_hex" not in vector:
            continue
        chain = chain_of(folder / f"{name}.pem")
        application = key_description.read(statement_of(chain)).software.application
        assert application is not None
        assert {package.name for package in application.packages} == set(vector["packages"])
        at = datetime.fromisoformat(vector["judge_at"])
        rules = android.Rules(application.packages, application.signers)
        judgement = ask(chain, bytes.fromhex(vector["challenge_hex"]), at, rules=rules)
        result = vector["assurance_level_2"]
        if result == "meets":
            assert (judgement.custody, judgement.broken) == (Custody.E3, ()), name
        else:
            wanted = {
                rule
                for text in result.removeprefix("fails: ").split("; ")
                for prefix, rule in FAILS.items()
                if text.startswith(prefix)
            }
            assert names(judgement) == wanted, name
        assert not names(judgement) & CHAIN
        judged += 1
    assert judged == 8


def test_what_a_real_statement_says_is_read_as_its_publisher_read_it(attestation_vectors: Path) -> None:
    folder = attestation_vectors / "android_real"
    compared = 0
    for path in sorted(folder.glob("*_sdk*.json")):
        text = "".join(line for line in path.read_text().splitlines() if not line.lstrip().startswith("//"))
        expected = json.loads(text)
        if expected["attestationSecurityLevel"] == "SOFTWARE":
            continue
        found = key_description.read(statement_of(chain_of(path.with_suffix(".pem"))))
        hardware, stated = found.hardware, expected["hardwareEnforced"]
        assert found.level == LEVELS[expected["attestationSecurityLevel"]]
        assert found.challenge == base64.b64decode(expected["attestationChallenge"])
        assert hardware.purposes == {int(value) for value in stated["purposes"]}
        assert hardware.digests == {int(value) for value in stated.get("digests", [])}
        assert hardware.os_patch == int(stated["osPatchLevel"])
        assert hardware.vendor_patch == int(stated["vendorPatchLevel"])
        assert hardware.boot_patch == int(stated["bootPatchLevel"])
        assert hardware.root_of_trust is not None
        assert hardware.root_of_trust.locked == stated["rootOfTrust"].get("deviceLocked", False)
        assert hardware.root_of_trust.boot_state == BOOT[stated["rootOfTrust"]["verifiedBootState"]]
        application = expected["softwareEnforced"]["attestationApplicationId"]
        assert found.software.application is not None
        assert found.software.application.signers == {base64.b64decode(s) for s in application["signatures"]}
        compared += 1
    assert compared == 8


def test_the_software_chain_the_malformed_and_the_lone_leaf_prove_nothing(attestation_vectors: Path) -> None:
    folder = attestation_vectors / "android_real"
    at = datetime(2021, 1, 14, tzinfo=UTC)
    software = ask(chain_of(folder / "marlin_sdk29_TEE_EC_NONE.pem"), b"challenge", at)
    assert {"root-unknown", "chain-length", "security-level"} <= names(software)
    assert software.refused
    with pytest.raises(EvidenceError, match="not a boolean"):
        ask(chain_of(folder / "invalid_malformed_rot_device_locked.pem"), b"challenge", at)
    leaf = chain_of(folder / "parse_only_allow_while_on_body.pem")
    assert key_description.read(
        statement_of(leaf)
    ).hardware.purposes  # not in DER's order, and read all the same
    assert ask(leaf, b"challenge", at).refused


def test_the_chain_of_a_web_authentication_is_judged(attestation_vectors: Path) -> None:
    """There the challenge is the hash of the client's data."""
    vectors = json.loads((attestation_vectors / "app_attest_real" / "webauthn_real.json").read_text())
    (vector,) = (vector for vector in vectors if vector["format"] == "android-key")
    response = {
        name: base64.urlsafe_b64decode(vector["credential"]["response"][name] + "===")
        for name in ("attestationObject", "clientDataJSON")
    }
    document = cbor.decode(response["attestationObject"])
    assert isinstance(document, dict)
    outer = document["attStmt"]
    assert isinstance(outer, dict)
    chain = outer["x5c"]
    assert isinstance(chain, list)
    certificates = [value for value in chain if isinstance(value, bytes)]
    at = datetime.fromisoformat(vector["judge_at"])
    judgement = ask(certificates, hashlib.sha256(response["clientDataJSON"]).digest(), at)
    assert not names(judgement) & (CHAIN | {"challenge", "security-level", "key-origin"})
    assert ask(certificates, b"", at).refused
    assert "chain-expired" in names(ask(certificates, b"", at + timedelta(days=60)))


def test_every_vector_is_judged_within_ten_milliseconds(attestation_vectors: Path) -> None:
    folders = (attestation_vectors / "android_real", attestation_vectors / "android_synthetic")
    paths = sorted(
        path for folder in folders for path in folder.glob("*.pem") if path.name != "test_root.pem"
    )
    assert len(paths) == 54
    for path in paths:
        chain = chain_of(path)
        evidence = android.evidence(chain)
        at = datetime(2026, 11, 20, tzinfo=UTC)
        expectation = android.Expectation(b"", spki(chain), StatusList(at))
        best = min(_seconds(evidence, expectation, at) for _ in range(3))
        assert best <= 0.010, (path.name, best)


def _seconds(evidence: Evidence, expectation: android.Expectation, at: datetime) -> float:
    start = time.perf_counter()
    try:
        android.judge(evidence, expectation, at)
    except EvidenceError:
        pass
    return time.perf_counter() - start
