import json
import warnings
from datetime import datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import AuthorityInformationAccessOID, NameOID
from cryptography.x509.oid import ExtendedKeyUsageOID as Purpose

from authn import identity, keys
from authn.chain import build_chain
from authn.profile import Profile, Role, check_profile, check_role

CLAIM = x509.ObjectIdentifier("1.3.6.1.4.1.62558.2.1")
LEVEL = x509.ObjectIdentifier("1.3.6.1.4.1.62558.3")
RECORD = x509.ObjectIdentifier("1.3.6.1.4.1.62558.4")
ANY = Purpose.ANY_EXTENDED_KEY_USAGE


def usage(*bits: str) -> x509.KeyUsage:
    names = (
        "digital_signature", "content_commitment", "key_encipherment", "data_encipherment", "key_agreement",
        "key_cert_sign", "crl_sign", "encipher_only", "decipher_only",
    )  # fmt: skip
    return x509.KeyUsage(**{name: name in bits for name in names})


def name(*attributes: tuple[x509.ObjectIdentifier, str]) -> x509.Name:
    return x509.Name([x509.NameAttribute(*attribute) for attribute in attributes])


def purposes(*oids: x509.ObjectIdentifier) -> x509.ExtendedKeyUsage:
    return x509.ExtendedKeyUsage(oids)


def ocsp(url: str) -> x509.AuthorityInformationAccess:
    location = x509.UniformResourceIdentifier(url)
    return x509.AuthorityInformationAccess(
        [x509.AccessDescription(AuthorityInformationAccessOID.OCSP, location)]
    )


def unrecognised(oid: x509.ObjectIdentifier, value: bytes) -> x509.UnrecognizedExtension:
    return x509.UnrecognizedExtension(oid, value)


LAB = ((NameOID.COUNTRY_NAME, "DE"), (NameOID.ORGANIZATION_NAME, "Lab"), (NameOID.COMMON_NAME, "Camera"))
SIGN = ("digital_signature", "content_commitment")

LEAF_FLAWS = {
    "expired": lambda kit: {
        "not_after": kit.at - timedelta(seconds=1),
        "not_before": kit.at - timedelta(days=9),
    },
    "not-yet-valid": lambda kit: {"not_before": kit.at + timedelta(seconds=1)},
    "validity-too-long": lambda kit: {"not_after": kit.at + timedelta(days=368)},
    "key-algorithm": lambda _: {"public_key": ec.generate_private_key(ec.SECP256K1()).public_key()},
    "signature-algorithm": lambda _: {"digest": hashes.SHA224()},
    "basic-constraints": lambda _: {"put": [(x509.BasicConstraints(ca=True, path_length=None), True)]},
    "key-usage-missing": lambda _: {"drop": [x509.KeyUsage.oid]},
    "key-usage-authority": lambda _: {"put": [(usage(*SIGN, "key_cert_sign"), True)]},
    "key-usage-critical": lambda _: {"put": [(usage(*SIGN), False)]},
    "key-usage-bits": lambda _: {"put": [(usage("digital_signature"), True)]},
    "purpose-missing": lambda _: {"drop": [x509.ExtendedKeyUsage.oid]},
    "purpose-any": lambda _: {"put": [(purposes(CLAIM, Purpose.EMAIL_PROTECTION, ANY), False)]},
    "purpose": lambda _: {"put": [(purposes(Purpose.EMAIL_PROTECTION), False)]},
    "purpose-companion": lambda _: {"put": [(purposes(CLAIM), False)]},
    "purpose-mixed": lambda _: {
        "put": [(purposes(CLAIM, Purpose.EMAIL_PROTECTION, Purpose.TIME_STAMPING), False)]
    },
    "certificate-policy": lambda _: {"drop": [x509.CertificatePolicies.oid]},
    "subject-key-id": lambda _: {"put": [(x509.SubjectKeyIdentifier(b"x" * 20), False)]},
    "authority-key-id": lambda _: {"drop": [x509.AuthorityKeyIdentifier.oid]},
    "status-address": lambda _: {"put": [(ocsp("https://example.org/"), False)]},
    "assurance-level": lambda _: {"put": [(unrecognised(LEVEL, b"\x05\x00"), False)]},
    "product-record": lambda _: {"put": [(unrecognised(RECORD, b"\x0c\x03abc"), False)]},
    "unknown-critical-extension": lambda _: {
        "put": [(unrecognised(x509.ObjectIdentifier("1.2.3.4"), b"\x05\x00"), True)]
    },
    "subject-names": lambda _: {"subject": name(LAB[2])},
    "subject-extra": lambda _: {"subject": name(*LAB, (NameOID.SERIAL_NUMBER, "IMEI-1"))},
    "subject-ascii": lambda _: {"subject": name(*LAB[:2], (NameOID.COMMON_NAME, "Cam\u00e9ra"))},
}

AUTHORITY_FLAWS = {
    "authority-validity-too-long": lambda kit: {"not_after": kit.at + timedelta(days=1830)},
    "authority-key-algorithm": lambda _: {"public_key": keys.generate_p256().public_key},
    "authority-basic-constraints": lambda _: {
        "put": [(x509.BasicConstraints(ca=True, path_length=0), False)]
    },
    "authority-path-length": lambda _: {"put": [(x509.BasicConstraints(ca=True, path_length=1), True)]},
    "authority-key-usage": lambda _: {"put": [(usage("key_cert_sign"), True)]},
    "authority-purpose": lambda _: {"drop": [x509.ExtendedKeyUsage.oid]},
    "certificate-policy": lambda _: {"drop": [x509.CertificatePolicies.oid]},
    "authority-status-address": lambda _: {"drop": [x509.AuthorityInformationAccess.oid]},
    "subject-key-id": lambda _: {"drop": [x509.SubjectKeyIdentifier.oid]},
    "authority-key-id": lambda _: {"drop": [x509.AuthorityKeyIdentifier.oid]},
}

STAMPER_FLAWS = {
    "purpose-critical": lambda _: {"put": [(purposes(Purpose.TIME_STAMPING), False)]},
    "purpose": lambda _: {"put": [(purposes(Purpose.TIME_STAMPING, Purpose.CODE_SIGNING), True)]},
    "key-usage-missing": lambda _: {"drop": [x509.KeyUsage.oid]},
    "key-usage-bits": lambda _: {"put": [(usage("key_agreement"), True)]},
    "key-usage-authority": lambda _: {"put": [(usage(*SIGN, "key_cert_sign"), True)]},
    "basic-constraints": lambda _: {"put": [(x509.BasicConstraints(ca=True, path_length=None), True)]},
    "key-algorithm": lambda _: {"public_key": ed25519.Ed25519PrivateKey.generate().public_key()},
    "expired": lambda kit: {
        "not_after": kit.at - timedelta(seconds=1),
        "not_before": kit.at - timedelta(days=9),
    },
}


def rules(chain, profile: Profile, at: datetime) -> set[str]:
    return {violation.rule for violation in check_profile(chain, profile, at)}


@pytest.mark.parametrize("rule", LEAF_FLAWS)
def test_one_flaw_in_a_leaf_breaks_its_one_rule(rule: str, signer_kit, remake) -> None:
    change = LEAF_FLAWS[rule](signer_kit)
    if "public_key" in change:
        change["put"] = [(x509.SubjectKeyIdentifier.from_public_key(change["public_key"]), False)]
    flawed = remake(signer_kit.leaf, signer_kit.issuing_key, **change)
    assert rules((flawed, signer_kit.issuing, signer_kit.root), Profile.POLICY, signer_kit.at) == {rule}


@pytest.mark.parametrize("rule", AUTHORITY_FLAWS)
def test_one_flaw_in_an_authority_breaks_its_one_rule(rule: str, signer_kit, remake) -> None:
    change = AUTHORITY_FLAWS[rule](signer_kit)
    if "public_key" in change:
        change["put"] = [(x509.SubjectKeyIdentifier.from_public_key(change["public_key"]), False)]
    flawed = remake(signer_kit.issuing, signer_kit.root_key, **change)
    assert rules((signer_kit.leaf, flawed, signer_kit.root), Profile.POLICY, signer_kit.at) == {rule}


@pytest.mark.parametrize("rule", STAMPER_FLAWS)
def test_one_flaw_in_a_time_stamper_breaks_its_one_rule(rule: str, stamp_kit, remake) -> None:
    flawed = remake(stamp_kit.leaf, stamp_kit.root_key, **STAMPER_FLAWS[rule](stamp_kit))
    assert rules((flawed, stamp_kit.root), Profile.TIME_STAMPING, stamp_kit.at) == {rule}


def test_a_remade_certificate_without_a_flaw_breaks_nothing(signer_kit, stamp_kit, remake) -> None:
    leaf = remake(signer_kit.leaf, signer_kit.issuing_key)
    issuing = remake(signer_kit.issuing, signer_kit.root_key)
    assert rules((leaf, issuing, signer_kit.root), Profile.POLICY, signer_kit.at) == set()
    assert rules((remake(stamp_kit.leaf, stamp_kit.root_key),), Profile.TIME_STAMPING, stamp_kit.at) == set()


def test_a_leaf_is_valid_in_its_first_and_its_last_second(signer_kit) -> None:
    leaf = signer_kit.leaf
    for moment in (leaf.not_valid_before_utc, leaf.not_valid_after_utc):
        assert rules((leaf,), Profile.POLICY, moment) == set()
    assert rules((leaf,), Profile.POLICY, leaf.not_valid_after_utc + timedelta(seconds=1)) == {"expired"}


def test_level_two_lives_ninety_days(signer_kit, remake) -> None:
    level = [(unrecognised(LEVEL, bytes.fromhex("060a2b0601040183e85e0314")), False)]
    start = signer_kit.leaf.not_valid_before_utc
    for days, broken in ((90, set()), (91, {"validity-too-long"})):
        leaf = remake(
            signer_kit.leaf, signer_kit.issuing_key, put=level, not_after=start + timedelta(days=days)
        )
        assert rules((leaf,), Profile.POLICY, signer_kit.at) == broken


def test_a_product_record_in_its_form_is_accepted(signer_kit, remake) -> None:
    record = unrecognised(RECORD, b"\x0c\x240197aa34-665b-7811-9bbc-317cfd988d0a")
    leaf = remake(signer_kit.leaf, signer_kit.issuing_key, put=[(record, False)])
    assert rules((leaf,), Profile.POLICY, signer_kit.at) == set()
    leaf = remake(signer_kit.leaf, signer_kit.issuing_key, put=[(record, True)])
    assert "product-record" in rules((leaf,), Profile.POLICY, signer_kit.at)


def test_the_specification_is_milder_than_the_policy_but_not_blind(signer_kit, remake) -> None:
    mild = remake(
        signer_kit.leaf,
        signer_kit.issuing_key,
        put=[(purposes(Purpose.EMAIL_PROTECTION), False), (usage("digital_signature"), True)],
        drop=[LEVEL, x509.CertificatePolicies.oid, x509.AuthorityInformationAccess.oid],
        not_after=signer_kit.at + timedelta(days=1000),
    )
    assert rules((mild,), Profile.SPECIFICATION, signer_kit.at) == set()
    for change, rule in (
        ({"put": [(purposes(Purpose.TIME_STAMPING), True)]}, "purpose"),
        ({"put": [(purposes(Purpose.EMAIL_PROTECTION, Purpose.OCSP_SIGNING), False)]}, "purpose-mixed"),
        ({"put": [(purposes(Purpose.EMAIL_PROTECTION, ANY), False)]}, "purpose-any"),
        ({"put": [(usage("content_commitment"), True)]}, "key-usage-bits"),
        ({"drop": [x509.AuthorityKeyIdentifier.oid]}, "authority-key-id"),
    ):
        flawed = remake(mild, signer_kit.issuing_key, **change)
        assert rules((flawed,), Profile.SPECIFICATION, signer_kit.at) == {rule}


def test_an_authority_for_time_stamping_certifies_no_signer_and_the_other_way_round(
    signer_kit, stamp_kit, remake
):
    clock = remake(signer_kit.issuing, signer_kit.root_key, put=[(purposes(Purpose.TIME_STAMPING), False)])
    assert "authority-purpose" in rules((signer_kit.leaf, clock), Profile.SPECIFICATION, signer_kit.at)
    assert "authority-purpose" in rules(
        (stamp_kit.leaf, signer_kit.issuing), Profile.TIME_STAMPING, stamp_kit.at
    )


def test_an_authority_that_borrows_its_issuers_name_is_judged_all_the_same(signer_kit, remake) -> None:
    borrowed = remake(
        signer_kit.issuing,
        signer_kit.root_key,
        subject=signer_kit.root.subject,
        drop=[x509.ExtendedKeyUsage.oid],
    )
    found = rules((signer_kit.leaf, borrowed, signer_kit.root), Profile.POLICY, signer_kit.at)
    assert found == {"authority-purpose"}


def test_a_certificate_of_ours_that_ends_as_it_begins_is_none(signer_kit, remake) -> None:
    """Of `validity-negative` nobody else warns: no date is before the one nor after the other."""
    begins = signer_kit.leaf.not_valid_before_utc
    assert check_role(remake(signer_kit.leaf, signer_kit.issuing_key), Role.CLAIM_SIGNER) == ()
    flawed = remake(signer_kit.leaf, signer_kit.issuing_key, not_after=begins)
    assert {each.rule for each in check_role(flawed, Role.CLAIM_SIGNER)} == {"validity-negative"}


def test_a_responder_must_say_that_nobody_asks_about_itself(signer_kit, remake) -> None:
    """RFC 6960, 4.2.2.2.1: else whoever asks would have to ask about the responder first."""
    responder = identity.plan_responder(
        identity.Subject("DE", "Lightseal Lab", "Lab Status 1"),
        keys.generate_p256().public_key,
        x509.random_serial_number() | 1 << 64,
        signer_kit.at,
        issuer=signer_kit.issuing,
    ).sign(signer_kit.issuing_key)
    assert check_role(responder, Role.RESPONDER) == ()
    silent = remake(responder, signer_kit.issuing_key, drop=[x509.OCSPNoCheck.oid])
    found = {each.rule for each in check_role(silent, Role.RESPONDER)}
    assert found == {"no-check", "extensions"}


def test_a_violation_says_whose_certificate_it_is_about(signer_kit, remake) -> None:
    flawed = remake(signer_kit.issuing, signer_kit.root_key, drop=[x509.ExtendedKeyUsage.oid])
    (violation,) = check_profile((signer_kit.leaf, flawed, signer_kit.root), Profile.POLICY, signer_kit.at)
    assert violation.subject == "authority 1"
    assert violation.explanation == "the certificate is of an authority that may not certify claim signers"


def test_an_endless_chain_or_none_is_refused(signer_kit) -> None:
    assert rules((), Profile.POLICY, signer_kit.at) == {"chain-length"}
    assert rules((signer_kit.leaf,) * 17, Profile.POLICY, signer_kit.at) == {"chain-length"}


def test_a_small_rsa_key_is_refused(signer_kit, remake) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        weak = rsa.generate_private_key(65537, 1024).public_key()  # noqa: S505 - the flaw
    flawed = remake(
        signer_kit.leaf,
        signer_kit.issuing_key,
        public_key=weak,
        put=[(x509.SubjectKeyIdentifier.from_public_key(weak), False)],
    )
    assert rules((flawed,), Profile.POLICY, signer_kit.at) == {"key-algorithm"}


def test_every_published_chain_is_judged_as_the_policy_says(shared) -> None:
    folder = shared / "vectors" / "attestation" / "c2pa_certs"
    cases = json.loads((folder / "manifest.json").read_text())
    at = datetime.fromisoformat(cases.pop("_judge_at"))
    root = x509.load_pem_x509_certificate((folder / "root.pem").read_bytes())
    assert len(cases) == 39
    for case, expected in cases.items():
        presented = x509.load_pem_x509_certificates((folder / f"{case}.pem").read_bytes())
        chain = build_chain(presented[0], presented[1:], (root,), at)
        violations = check_profile(chain.path or presented, Profile.POLICY, at)
        accepted = chain.path is not None and not violations
        assert accepted is (expected["policy_v02"] == "accept"), (case, chain.reason, violations)
