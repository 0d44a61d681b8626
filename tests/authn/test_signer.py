"""Several lists at once: each judges by its own rules, and a purpose is never borrowed."""

import dataclasses
import importlib.util
import io
import json
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import c2pa
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import ocsp
from cryptography.x509.oid import ExtensionOID

from authn import identity
from authn.errors import CertificateError
from authn.evidence import Code, Content, Credentials, Provenance, Revocation, Signature, Signer
from authn.manifest import Sdk
from authn.media import Media
from authn.profile import Profile
from authn.revocation import Statuses
from authn.signer import Lists
from authn.trust import Purpose, TrustList
from authn.verify import verify_media
from tools.verdict import Headline, Ledger, Recorded, decide

_SPEC = importlib.util.spec_from_file_location("forge", Path(__file__).parent / "vectors" / "forge.py")
assert _SPEC is not None
assert _SPEC.loader is not None
forge: Any = sys.modules.setdefault("forge", importlib.util.module_from_spec(_SPEC))
if not hasattr(forge, "Draft"):
    _SPEC.loader.exec_module(forge)

NOW = datetime.now(UTC).replace(microsecond=0)
DAY = timedelta(days=1)


@pytest.fixture(scope="module")
def lab() -> Any:
    return forge.house(NOW - 40 * DAY)


@pytest.fixture(scope="module")
def dial() -> Any:
    return forge.clock(NOW - 40 * DAY)


@pytest.fixture(scope="module")
def sdk() -> Iterator[Sdk]:
    with Sdk() as opened:
        yield opened


def judged(sdk: Sdk, data: bytes, lists: Lists, sidecar: bytes | None = None) -> Provenance:
    media = dataclasses.replace(Media.of(io.BytesIO(data), "file", 1 << 30), sidecar=sidecar)
    return verify_media(media, sdk, lists, NOW + timedelta(hours=1))  # builders of answers read the clock


def listed(name: str, root: Any, profile: Profile = Profile.POLICY) -> TrustList:
    return TrustList.parse(identity.pem_chain(root), name, Purpose.SIGNING, profile)


def test_the_list_that_knows_the_signer_is_named_wherever_it_stands(lab: Any, sdk: Sdk) -> None:
    strangers = [listed(f"others {number}", forge.house(NOW - DAY).root) for number in range(2)]
    data = forge.Draft(forge.picture(), lab.camera).write()
    for place in range(3):
        lists = [*strangers]
        lists.insert(place, listed("ours", lab.root))
        found = judged(sdk, data, Lists(tuple(lists)))
        assert (found.signer, found.signer_list) == (Signer.RECOGNISED, "ours")
    unknown = judged(sdk, data, Lists(tuple(strangers)))
    assert (unknown.signer, unknown.signer_list) == (Signer.NOT_RECOGNISED, None)
    (chain,) = (finding for finding in unknown.findings if finding.code is Code.SIGNER_CHAIN)
    assert "others 0, others 1" in chain.explanation


def test_a_lenient_list_speaks_for_itself_and_makes_no_strict_one_lenient(lab: Any, sdk: Sdk) -> None:
    """Without a policy a certificate is none of the strict kind; the specification does not ask for one."""
    loose = forge.remade(lab.camera.chain[0], lab.issuing_key, drop=[ExtensionOID.CERTIFICATE_POLICIES])
    data = forge.Draft(forge.picture(), dataclasses.replace(lab.camera, chain=(loose, lab.issuing))).write()
    strict, lenient = listed("strict", lab.root), listed("lenient", lab.root, Profile.SPECIFICATION)
    assert judged(sdk, data, Lists((strict,))).signer is Signer.WRONG_KIND
    found = judged(sdk, data, Lists((strict, lenient)))
    assert (found.signer, found.signer_list) == (Signer.RECOGNISED, "lenient")


@pytest.mark.parametrize("field", ["signers", "time_stampers", "identities"])
def test_a_list_among_those_for_another_purpose_is_an_error(lab: Any, field: str) -> None:
    purposes = {
        "signers": (Purpose.TIME_STAMPING, Profile.TIME_STAMPING),
        "time_stampers": (Purpose.IDENTITY, Profile.SPECIFICATION),
        "identities": (Purpose.SIGNING, Profile.POLICY),
    }
    wrong = TrustList.parse(identity.pem_chain(lab.root), "wrong", *purposes[field])
    with pytest.raises(CertificateError, match="something else"):
        Lists(**{field: (wrong,)})


def test_a_second_list_of_time_stampers_proves_the_time_too(lab: Any, dial: Any, sdk: Sdk) -> None:
    data = forge.Draft(
        forge.picture(), lab.camera, stamps=[lambda message: dial.token(NOW - DAY, message)]
    ).write()
    clocks = [
        TrustList.parse(identity.pem_chain(root), name, Purpose.TIME_STAMPING, Profile.TIME_STAMPING)
        for name, root in (("others", forge.clock(NOW - DAY).root), ("ours", dial.root))
    ]
    found = judged(sdk, data, Lists((listed("l", lab.root),), tuple(clocks)))
    assert found.time.not_after == NOW - DAY + timedelta(seconds=1)
    assert "list ours" in str(found.time.source)


def test_the_older_token_says_when_the_claim_existed_and_not_when_it_was_signed(
    lab: Any, dial: Any, sdk: Sdk
) -> None:
    draft = forge.Draft(
        forge.picture(),
        lab.camera,
        version=1,
        stamp_name="sigTst",
        stamps=[lambda message: dial.token(NOW - DAY, message)],
    )
    found = judged(sdk, draft.write(), forge.lists([lab.root], [dial.root]))
    assert found.time.not_after is None
    assert found.claim_time.not_after == NOW - DAY + timedelta(seconds=1)
    alone = judged(sdk, draft.write(), forge.lists([lab.root]))
    assert alone.claim_time.not_after is None


def test_withdrawal_is_asked_of_nobody_where_the_signer_is_unknown(lab: Any, sdk: Sdk) -> None:
    found = judged(sdk, forge.Draft(forge.picture(), lab.camera).write(), Lists())
    assert found.revocation.state is Revocation.NOT_CHECKED
    assert "not recognised" in found.revocation.explanation
    assert found.paths == ()


# --- A record in a file of its own


def sidecar_of(lab: Any, media: bytes) -> bytes:
    """A record that is kept apart from the media it binds."""
    body = {"claim_generator_info": [{"name": "lab"}], "assertions": [forge.actions()]}
    with (
        c2pa.Context.from_dict(forge._WRITING) as context,
        c2pa.Signer.from_callback(lab.camera.sign, c2pa.C2paSigningAlg.ES256, lab.camera.pem, None) as signer,
        c2pa.Builder(json.dumps(body), context) as builder,
    ):
        builder.set_no_embed()
        return bytes(builder.sign(signer, forge.JPEG, io.BytesIO(media), io.BytesIO()))


def test_a_sidecar_binds_the_media_it_was_made_for_and_no_other(lab: Any, sdk: Sdk) -> None:
    picture, other = forge.picture(), forge.picture(seed=2)
    record, lists = sidecar_of(lab, picture), Lists((listed("ours", lab.root),))
    found = judged(sdk, picture, lists, record)
    assert (found.content, found.signer) == (Content.INTACT, Signer.RECOGNISED)
    assert "a file of its own" in found.findings[0].explanation
    assert judged(sdk, other, lists, record).content is Content.CHANGED
    assert judged(sdk, forge.flipped(picture, -40), lists, record).content is Content.CHANGED
    assert judged(sdk, picture + b"tail", lists, record).content is Content.CHANGED


@pytest.mark.parametrize("record", [b"", b"nothing of the kind", bytes(100)])
def test_a_sidecar_that_is_none_is_unreadable_and_says_nothing(lab: Any, sdk: Sdk, record: bytes) -> None:
    found = judged(sdk, forge.picture(), Lists((listed("ours", lab.root),)), record)
    assert found.credentials is Credentials.UNREADABLE


# --- Withdrawals, along every path


def answer(
    certificate: x509.Certificate,
    issuer: x509.Certificate,
    key: Any,
    since: datetime,
    reason: x509.ReasonFlags = x509.ReasonFlags.key_compromise,
) -> bytes:
    """The issuer's own word that a certificate is not to be believed `since`."""
    builder = ocsp.OCSPResponseBuilder().add_response(
        certificate,
        issuer,
        hashes.SHA256(),
        ocsp.OCSPCertStatus.REVOKED,
        NOW - timedelta(minutes=5),
        NOW + DAY,
        since,
        reason,
    )
    named = builder.responder_id(ocsp.OCSPResponderEncoding.HASH, issuer)
    return named.sign(key.private, hashes.SHA384()).public_bytes(Encoding.DER)


def crossed(lab: Any, other: Any) -> x509.Certificate:
    """The issuing authority's key, certified by another root as well."""
    builder = (
        x509.CertificateBuilder()
        .subject_name(lab.issuing.subject)
        .issuer_name(other.root.subject)
        .public_key(lab.issuing.public_key())
        .serial_number(forge.serial())
        .not_valid_before(lab.issuing.not_valid_before_utc)
        .not_valid_after(lab.issuing.not_valid_after_utc)
    )
    for extension in lab.issuing.extensions:
        value = extension.value
        if isinstance(value, x509.AuthorityKeyIdentifier):
            value = x509.AuthorityKeyIdentifier.from_issuer_public_key(other.root.public_key())
        builder = builder.add_extension(value, extension.critical)
    return builder.sign(other.root_key.private, hashes.SHA384())


@pytest.mark.parametrize("first", ["the cross", "the withdrawn"])
@pytest.mark.parametrize("order", ["one list", "ours first", "theirs first"])
def test_neither_the_file_nor_a_list_s_place_chooses_the_path_that_is_asked_about(
    lab: Any, sdk: Sdk, first: str, order: str
) -> None:
    """The root withdrew the authority for a stolen key; that another root certified the same key does not help."""
    other = forge.house(NOW - 40 * DAY, "Other")
    cross, leaf = crossed(lab, other), lab.camera.chain[0]
    chain = (leaf, cross, lab.issuing) if first == "the cross" else (leaf, lab.issuing, cross)
    data = forge.Draft(forge.picture(), forge.Who(lab.camera.key, chain), reserve=9000).write()
    both = TrustList.parse(identity.pem_chain(lab.root, other.root), "both", Purpose.SIGNING, Profile.POLICY)
    ours, theirs = listed("ours", lab.root), listed("theirs", other.root)
    lists = {"one list": (both,), "ours first": (ours, theirs), "theirs first": (theirs, ours)}[order]
    statuses = Statuses(answers=(answer(lab.issuing, lab.root, lab.root_key, NOW - DAY),))
    assert judged(sdk, data, Lists(lists)).signer is Signer.RECOGNISED
    assert judged(sdk, data, Lists(lists, statuses=statuses)).signer is Signer.REVOKED


@pytest.mark.parametrize("logged", [NOW - 5 * DAY, NOW - 25 * DAY])
def test_the_ledger_s_clock_must_beat_every_withdrawal(lab: Any, sdk: Sdk, logged: datetime) -> None:
    """Of two withdrawals the earlier counts, whichever certificate of the path it is about."""
    leaf = lab.camera.chain[0]
    statuses = Statuses(
        answers=(
            answer(leaf, lab.issuing, lab.issuing_key, NOW - DAY, x509.ReasonFlags.superseded),
            answer(lab.issuing, lab.root, lab.root_key, NOW - 20 * DAY),
        )
    )
    data = forge.Draft(forge.picture(), lab.camera).write()
    found = judged(sdk, data, Lists((listed("ours", lab.root),), statuses=statuses))
    verdict = decide(found, Recorded(Ledger.INCLUDED, 1, logged, "log"), None)
    early = logged < NOW - 20 * DAY
    assert (verdict.headline is Headline.INTACT_SIGNER_RECOGNISED) is early
    assert (verdict.headline is Headline.SIGNER_REVOKED) is not early


def test_a_withdrawn_certificate_that_has_also_ended_is_called_withdrawn(lab: Any, sdk: Sdk) -> None:
    ended = forge.remade(lab.camera.chain[0], lab.issuing_key, not_after=NOW - DAY)
    who = dataclasses.replace(lab.camera, chain=(ended, lab.issuing))
    statuses = Statuses(answers=(answer(ended, lab.issuing, lab.issuing_key, NOW - 9 * DAY),))
    data = forge.Draft(forge.picture(), who).write()
    ours = (listed("ours", lab.root),)
    assert judged(sdk, data, Lists(ours)).signer is Signer.EXPIRED_TIME_UNPROVEN
    assert judged(sdk, data, Lists(ours, statuses=statuses)).signer is Signer.REVOKED


# --- Chains beside somebody else's signature


def test_a_copied_chain_names_nobody_and_dates_nothing(lab: Any, dial: Any, sdk: Sdk) -> None:
    """Anybody can put the camera's certificates beside a signature of his own."""
    thief = forge.Who(forge.keys.generate_p256(), lab.camera.chain)
    stamps = [lambda message: dial.token(NOW - DAY, message)]
    data = forge.Draft(forge.picture(), thief, stamps=stamps).write()
    found = judged(sdk, data, forge.lists([lab.root], [dial.root]))
    assert (found.signature, found.signer, found.signer_list) == (
        Signature.BROKEN,
        Signer.NOT_RECOGNISED,
        None,
    )
    failed = {finding.code for finding in found.findings if not finding.passed}
    assert {Code.SIGNATURE_VALID, Code.SIGNER_CHAIN, Code.TIME_PROVEN} <= failed
    assert (found.time.not_after, found.paths) == (None, ())
    child = forge.sdk_signed(forge.picture(seed=2), lab.camera, parent=data)
    (step,) = judged(sdk, child, forge.lists([lab.root], [dial.root])).steps
    assert (step.recognised, step.signer_list) == (False, None)
