import json
import subprocess
import sys
from dataclasses import replace
from datetime import timedelta
from importlib.util import find_spec
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID

from authn import der, identity, keys
from authn.chain import build_chain
from authn.errors import IssuanceError, KeyNotOursError
from authn.profile import Profile, Role, check_profile, check_role

URL = "http://127.0.0.1:8888/ocsp/"
NAME = identity.Subject("DE", "Lightseal Lab", "Lab Camera 2")


def serial() -> int:
    return x509.random_serial_number() | 1 << 64


def test_our_certificates_fit_our_own_strict_profile(signer_kit) -> None:
    chain = build_chain(signer_kit.leaf, (signer_kit.issuing,), (signer_kit.root,), signer_kit.at)
    assert chain.path == (signer_kit.leaf, signer_kit.issuing, signer_kit.root)
    assert check_profile(chain.path, Profile.POLICY, signer_kit.at) == ()
    assert check_profile(chain.path, Profile.SPECIFICATION, signer_kit.at) == ()


def test_our_time_stamp_unit_fits_its_profile(stamp_kit) -> None:
    chain = build_chain(stamp_kit.leaf, (), (stamp_kit.root,), stamp_kit.at)
    assert chain.path == (stamp_kit.leaf, stamp_kit.root)
    assert check_profile(chain.path, Profile.TIME_STAMPING, stamp_kit.at) == ()


def test_neither_kind_of_leaf_passes_for_the_other(signer_kit, stamp_kit) -> None:
    assert "purpose" in [
        violation.rule for violation in check_profile((stamp_kit.leaf,), Profile.SPECIFICATION, stamp_kit.at)
    ]
    assert "purpose" in [
        violation.rule
        for violation in check_profile((signer_kit.leaf,), Profile.TIME_STAMPING, signer_kit.at)
    ]


def test_the_digest_is_known_before_the_certificate_exists(signer_kit) -> None:
    key = keys.generate_p256()
    plan = identity.plan_claim_signing(
        NAME, key.public_key, serial(), signer_kit.at, issuer=signer_kit.issuing, ocsp_url=URL
    )
    logged = plan.digest
    certificate = plan.sign(signer_kit.issuing_key)
    assert identity.plan_digest(certificate) == logged == plan.digest


@pytest.mark.parametrize("field", ["serial", "subject", "not_after", "spki", "ocsp_url"])
def test_every_field_of_a_plan_is_in_its_digest(signer_kit, field: str) -> None:
    plan = identity.plan_claim_signing(
        NAME,
        keys.generate_p256().public_key,
        serial(),
        signer_kit.at,
        issuer=signer_kit.issuing,
        ocsp_url=URL,
    )
    other = {
        "serial": plan.serial + 1,
        "subject": identity.Subject("DE", "Lightseal Lab", "Lab Camera 3"),
        "not_after": plan.not_after - timedelta(days=1),
        "spki": identity.spki_of(keys.generate_p256().public_key),
        "ocsp_url": "http://127.0.0.1:8889/ocsp/",
    }
    assert replace(plan, **{field: other[field]}).digest != plan.digest


def test_only_the_planned_issuer_signs(signer_kit) -> None:
    plan = identity.plan_claim_signing(
        NAME,
        keys.generate_p256().public_key,
        serial(),
        signer_kit.at,
        issuer=signer_kit.issuing,
        ocsp_url=URL,
    )
    for wrong in (signer_kit.root_key, keys.generate_p384(), keys.generate_p256(), keys.generate_ed25519()):
        with pytest.raises(IssuanceError):
            plan.sign(wrong)


def test_dates_start_on_the_hour_and_never_in_the_future(signer_kit) -> None:
    leaf = signer_kit.leaf
    assert leaf.not_valid_before_utc <= signer_kit.at
    assert (leaf.not_valid_before_utc.minute, leaf.not_valid_before_utc.second) == (0, 0)
    assert leaf.not_valid_after_utc - leaf.not_valid_before_utc == timedelta(days=90)


@pytest.mark.parametrize(
    ("flaw", "change"),
    [
        ("a year and two days", {"days": 367}),
        ("no time at all", {"days": 0}),
        ("https", {"ocsp_url": "https://example.org/ocsp/"}),
        ("no slash at the end", {"ocsp_url": "http://example.org/ocsp"}),
        ("space in the address", {"ocsp_url": "http://example.org/a b/"}),
    ],
)
def test_what_the_policy_forbids_is_not_planned(signer_kit, flaw: str, change: dict) -> None:
    wanted = {"issuer": signer_kit.issuing, "ocsp_url": URL} | change
    with pytest.raises(IssuanceError):
        identity.plan_claim_signing(NAME, keys.generate_p256().public_key, serial(), signer_kit.at, **wanted)
    assert flaw


@pytest.mark.parametrize("number", [0, 1, (1 << 64) - 1, 1 << 159, -5])
def test_a_serial_number_must_be_long_and_random(signer_kit, number: int) -> None:
    with pytest.raises(IssuanceError):
        identity.plan_root(NAME, keys.generate_p384().public_key, number, signer_kit.at)


@pytest.mark.parametrize(
    "name", [("de", "Lab", "X"), ("DEU", "Lab", "X"), ("DE", "", "X"), ("DE", "Caméra", "X"), ("DE", "Lab", "x" * 65),
             ("DE", "Lab", "a\nb"), ("DE", " Lab", "X")]
)  # fmt: skip
def test_a_name_is_printable_ascii(name: tuple[str, str, str]) -> None:
    with pytest.raises(IssuanceError):
        identity.Subject(*name)


def test_an_authority_certifies_only_what_it_is_for(signer_kit, stamp_kit) -> None:
    key, at = keys.generate_p256().public_key, signer_kit.at
    for issuer in (signer_kit.root, stamp_kit.root, stamp_kit.leaf, signer_kit.leaf):
        with pytest.raises(IssuanceError):
            identity.plan_claim_signing(NAME, key, serial(), at, issuer=issuer, ocsp_url=URL)
    for issuer in (signer_kit.root, signer_kit.issuing, signer_kit.leaf):
        with pytest.raises(IssuanceError):
            identity.plan_time_stamping(NAME, key, serial(), at, issuer=issuer, ocsp_url=URL, days=90)
    for issuer in (stamp_kit.root, signer_kit.issuing):
        with pytest.raises(IssuanceError):
            identity.plan_issuing_ca(
                NAME, keys.generate_p384().public_key, serial(), at, issuer=issuer, ocsp_url=URL
            )


def test_an_authority_has_a_p384_key(signer_kit) -> None:
    for key in (keys.generate_p256(), keys.generate_ed25519()):
        with pytest.raises(IssuanceError):
            identity.plan_root(NAME, key.public_key, serial(), signer_kit.at)
    with pytest.raises(IssuanceError):
        identity.plan_time_stamping_root(NAME, keys.generate_p256().public_key, serial(), signer_kit.at)


def test_a_weak_device_key_is_not_certified(signer_kit) -> None:
    weak = ec.generate_private_key(ec.SECP256K1()).public_key()
    with pytest.raises(KeyNotOursError):
        identity.plan_claim_signing(
            NAME, weak, serial(), signer_kit.at, issuer=signer_kit.issuing, ocsp_url=URL
        )


def test_nothing_outlives_its_issuer(signer_kit) -> None:
    late = signer_kit.issuing.not_valid_after_utc - timedelta(days=30)
    with pytest.raises(IssuanceError):
        identity.plan_claim_signing(
            NAME, keys.generate_p256().public_key, serial(), late, issuer=signer_kit.issuing, ocsp_url=URL
        )
    after = signer_kit.issuing.not_valid_after_utc + timedelta(days=1)
    with pytest.raises(IssuanceError):
        identity.plan_claim_signing(
            NAME,
            keys.generate_p256().public_key,
            serial(),
            after,
            issuer=signer_kit.issuing,
            ocsp_url=URL,
            days=1,
        )


def test_an_issuer_does_not_certify_its_own_key_or_name_again(signer_kit) -> None:
    same_name = identity.Subject("DE", "Lightseal Lab", "Lab Devices 1")
    for name, key in ((NAME, signer_kit.issuing_key), (same_name, keys.generate_p256())):
        with pytest.raises(IssuanceError):
            identity.plan_claim_signing(
                name, key.public_key, serial(), signer_kit.at, issuer=signer_kit.issuing, ocsp_url=URL
            )


def test_a_leaf_says_exactly_what_the_policy_wants(signer_kit) -> None:
    found = {extension.oid.dotted_string: extension for extension in signer_kit.leaf.extensions}
    assert set(found) == {
        "2.5.29.19", "2.5.29.15", "2.5.29.14", "2.5.29.35", "2.5.29.32", "1.3.6.1.5.5.7.1.1", "2.5.29.37",
        "1.3.6.1.4.1.62558.3",
    }  # fmt: skip
    assert {oid for oid, extension in found.items() if extension.critical} == {"2.5.29.19", "2.5.29.15"}
    assert found["1.3.6.1.4.1.62558.3"].value.value == bytes.fromhex("060a2b0601040183e85e030a")


def test_the_time_stamp_unit_is_for_nothing_else(stamp_kit) -> None:
    purpose = stamp_kit.leaf.extensions.get_extension_for_class(x509.ExtendedKeyUsage)
    assert purpose.critical
    assert list(purpose.value) == [ExtendedKeyUsageOID.TIME_STAMPING]


@pytest.fixture
def linter() -> list[str]:
    assert find_spec("pkilint"), "the test extra is not installed: pip install pkilint"
    return [sys.executable, "-m", "pkilint.bin.lint_pkix_cert", "lint", "-f", "JSON", "-s", "WARNING"]


def lint(linter: list[str], certificate: x509.Certificate, path: Path) -> list[object]:
    path.write_bytes(certificate.public_bytes(Encoding.PEM))
    done = subprocess.run([*linter, str(path)], capture_output=True, text=True, check=False, timeout=60)
    return json.loads(done.stdout)["results"]


def test_an_independent_linter_finds_no_error(linter, signer_kit, stamp_kit, tmp_path) -> None:
    answers = responder_plan(signer_kit).sign(signer_kit.issuing_key)
    for certificate in (*signer_kit.chain, signer_kit.root, stamp_kit.leaf, stamp_kit.root, answers):
        assert lint(linter, certificate, tmp_path / "certificate.pem") == []


def test_the_linter_would_have_found_one(linter, signer_kit, remake, tmp_path) -> None:
    flawed = remake(signer_kit.leaf, signer_kit.issuing_key, drop=[x509.AuthorityKeyIdentifier.oid])
    assert lint(linter, flawed, tmp_path / "certificate.pem") != []


# --- Responders


def responder_plan(kit, key=None, issuer=None, **wanted) -> identity.CertificatePlan:
    return identity.plan_responder(
        identity.Subject("DE", "Lightseal Lab", "Lab Answers"),
        (key or keys.generate_p256()).public_key,
        serial(),
        kit.at,
        issuer=issuer or kit.issuing,
        **wanted,
    )


def test_a_responder_is_for_answers_and_nothing_else_and_nobody_is_asked_about_it(signer_kit) -> None:
    made = responder_plan(signer_kit).sign(signer_kit.issuing_key)
    found = {extension.oid.dotted_string: extension for extension in made.extensions}
    assert set(found) == {
        "2.5.29.19",
        "2.5.29.15",
        "2.5.29.14",
        "2.5.29.35",
        "2.5.29.37",
        "1.3.6.1.5.5.7.48.1.5",
    }
    assert list(found["2.5.29.37"].value) == [ExtendedKeyUsageOID.OCSP_SIGNING]
    usage = found["2.5.29.15"].value
    assert (usage.digital_signature, usage.content_commitment) == (True, False)
    assert not usage.key_cert_sign
    assert made.not_valid_after_utc - made.not_valid_before_utc == timedelta(days=14)
    assert check_role(made, Role.RESPONDER) == ()
    assert {violation.rule for violation in check_profile((made,), Profile.POLICY, signer_kit.at)} >= {
        "purpose"
    }


def test_a_responder_has_no_ed25519_key_and_no_long_life(signer_kit) -> None:
    with pytest.raises(IssuanceError):
        responder_plan(signer_kit, keys.generate_ed25519())
    with pytest.raises(IssuanceError):
        responder_plan(signer_kit, days=32)


def test_every_authority_has_its_own_responder(signer_kit, stamp_kit) -> None:
    for issuer, key in (
        (signer_kit.root, signer_kit.root_key),
        (signer_kit.issuing, signer_kit.issuing_key),
        (stamp_kit.root, stamp_kit.root_key),
    ):
        responder_plan(signer_kit, issuer=issuer).sign(key).verify_directly_issued_by(issuer)
    with pytest.raises(IssuanceError):
        responder_plan(signer_kit, issuer=signer_kit.leaf)


# --- The check before it is let out


def leaf_plan(kit, key=None, **wanted) -> identity.CertificatePlan:
    return identity.plan_claim_signing(
        NAME,
        (key or keys.generate_p256()).public_key,
        serial(),
        kit.at,
        **({"issuer": kit.issuing, "ocsp_url": URL} | wanted),
    )


def flawed_plans(kit) -> dict[str, identity.CertificatePlan]:
    plan = leaf_plan(kit)
    return {
        "validity-too-long": replace(plan, not_after=plan.not_before + timedelta(days=367)),
        "not-before-hour": replace(plan, not_before=plan.not_before + timedelta(minutes=7)),
        "serial-number": replace(plan, serial=5),
        "status-address": replace(plan, ocsp_url="http://127.0.0.1:8888/ocsp"),
        "status-address over https": replace(plan, ocsp_url="https://127.0.0.1:8888/ocsp/"),
        "key-usage": replace(responder_plan(kit), kind=identity.Kind.TIME_STAMPING),
        "responder": replace(responder_plan(kit), spki=identity.spki_of(keys.generate_ed25519().public_key)),
        "authority-key-algorithm": replace(
            identity.plan_root(NAME, keys.generate_p384().public_key, serial(), kit.at),
            spki=identity.spki_of(keys.generate_p256().public_key),
        ),
    }


def test_a_plan_that_breaks_a_rule_has_neither_a_digest_nor_a_certificate(signer_kit) -> None:
    for flaw, plan in flawed_plans(signer_kit).items():
        with pytest.raises(IssuanceError):
            assert not plan.digest, flaw
        issued = replace(
            plan, issuer=replace(plan.issuer, spki=identity.spki_of(signer_kit.issuing_key.public_key))
        )
        with pytest.raises(IssuanceError):
            assert not issued.sign(signer_kit.issuing_key), flaw


def test_what_is_issued_is_held_to_more_than_the_profile(signer_kit, stamp_kit, remake) -> None:
    for certificate, role in (
        (signer_kit.root, Role.ROOT),
        (signer_kit.issuing, Role.ISSUING),
        (signer_kit.leaf, Role.CLAIM_SIGNER),
        (stamp_kit.root, Role.TIME_STAMPING_ROOT),
        (stamp_kit.leaf, Role.TIME_STAMPER),
    ):
        assert check_role(certificate, role) == ()
        others = set(Role) - {role, *({Role.ROOT, Role.TIME_STAMPING_ROOT} if "root" in role else ())}
        assert all(check_role(certificate, other) for other in others)
    named = x509.SubjectAlternativeName([x509.DNSName("device-17.example")])
    marked = remake(signer_kit.leaf, signer_kit.issuing_key, put=[(named, False)])
    assert check_profile((marked,), Profile.POLICY, signer_kit.at) == ()
    assert [violation.rule for violation in check_role(marked, Role.CLAIM_SIGNER)] == ["extensions"]


# --- Several authorities


def test_a_new_authority_has_a_name_and_a_key_of_its_own(signer_kit) -> None:
    wanted = {"issuer": signer_kit.root, "ocsp_url": URL, "predecessors": [signer_kit.issuing]}
    again = identity.Subject("DE", "Lightseal Lab", "Lab Devices 1")
    other = identity.Subject("DE", "Lightseal Lab", "Lab Devices 2")
    key = keys.generate_p384()
    for name, public_key in ((again, key.public_key), (other, signer_kit.issuing_key.public_key)):
        with pytest.raises(IssuanceError, match="before this one"):
            identity.plan_issuing_ca(name, public_key, serial(), signer_kit.at, **wanted)
    second = identity.plan_issuing_ca(other, key.public_key, serial(), signer_kit.at, **wanted).sign(
        signer_kit.root_key
    )
    leaf = leaf_plan(signer_kit, issuer=second).sign(key)
    for chain in ((leaf, second), (signer_kit.leaf, signer_kit.issuing)):
        built = build_chain(chain[0], (second, signer_kit.issuing), (signer_kit.root,), signer_kit.at)
        assert built.path == (*chain, signer_kit.root)
    assert identity.key_id_of(second) != identity.key_id_of(signer_kit.issuing)


# --- Lifetimes


@pytest.mark.parametrize(("lifetime", "days"), [("standard", 30), ("session", 1), ("one-time", 7)])
def test_a_lifetime_is_counted_from_the_hour(signer_kit, lifetime: str, days: int) -> None:
    made = leaf_plan(signer_kit, days=identity.Lifetime(lifetime).days).sign(signer_kit.issuing_key)
    assert made.not_valid_after_utc - made.not_valid_before_utc == timedelta(days=days)
    assert timedelta(0) <= signer_kit.at - made.not_valid_before_utc < timedelta(hours=1)


def test_two_one_time_certificates_differ_in_chance_and_in_nothing_else(signer_kit) -> None:
    """Serial, key, the key's identifier, signature: whatever else differs would link or identify."""
    pair = []
    for _ in range(2):
        key = keys.generate_p256()
        made = leaf_plan(signer_kit, key, days=identity.Lifetime.ONE_TIME.days).sign(signer_kit.issuing_key)
        spki = identity.spki_of(key.public_key)
        chance = [
            der.integer(made.serial_number),
            spki,
            made.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value.digest,
        ]
        body = made.tbs_certificate_bytes
        for part in chance:
            assert body.count(part) == 1
            body = body.replace(part, b"?")
        pair.append((body[4:], spki, made.serial_number, made.signature))
    (body, *one), (other_body, *another) = pair
    assert body == other_body
    assert all(mine != theirs for mine, theirs in zip(one, another, strict=True))
