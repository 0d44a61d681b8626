"""Identities of every kind of falsehood: written here byte by byte, and by the SDK for agreement.

The records are not signed: whoever recognises an identity must look at the
identity's own signature, and at nothing the claim's signer could have said.
"""

import hashlib
import importlib.util
import io
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import c2pa
import cbor2
import encypher_c2pa
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509 import ocsp as x509_ocsp
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from hypothesis import given, settings
from hypothesis import strategies as st

from authn import cawg, identity, jumbf
from authn.cawg import check_identities
from authn.errors import CertificateError
from authn.evidence import Code, Finding, Identity, Panel
from authn.profile import Profile
from authn.revocation import NO_STATUSES, Statuses
from authn.trust import Purpose, TrustList

_SPEC = importlib.util.spec_from_file_location("forge", Path(__file__).parent / "vectors" / "forge.py")
assert _SPEC is not None
assert _SPEC.loader is not None
forge: Any = sys.modules.setdefault("forge", importlib.util.module_from_spec(_SPEC))
if not hasattr(forge, "Draft"):
    _SPEC.loader.exec_module(forge)

AT = datetime(2026, 5, 1, 12, tzinfo=UTC)
DAY = timedelta(days=1)
LABEL = "urn:c2pa:00000000-0000-4000-8000-000000000001"
OTHER = "urn:c2pa:00000000-0000-4000-8000-000000000002"
CLAIM_SIGNING = x509.ObjectIdentifier("1.3.6.1.4.1.62558.2.1")
DOCUMENTS = x509.ObjectIdentifier("1.3.6.1.5.5.7.3.36")
MAIL = ExtendedKeyUsageOID.EMAIL_PROTECTION

Box = tuple[str, bytes]

BINDING: Box = forge.cbor_assertion("c2pa.hash.data", forge.ANY_BINDING)
ACTIONS: Box = forge.cbor_assertion("c2pa.actions.v2", {"actions": [{"action": "c2pa.edited"}]})


# --- The writer


@dataclass
class Vouch:
    """An identity assertion that is not written yet. Every field is a way to lie."""

    who: Any
    boxes: tuple[Box, ...] = (ACTIONS, BINDING)
    label: str = "cawg.identity"
    kind: Any = "cawg.x509.cose"
    references: Any = None
    payload: dict[str, Any] = field(default_factory=dict)
    outside: dict[str, Any] = field(default_factory=dict)
    unprotected: dict[Any, Any] = field(default_factory=dict)
    protect_chain: bool = True
    tag: bool = True
    canonical: bool = False
    sign: Callable[[bytes], bytes] | None = None

    def content(self) -> bytes:
        """The CBOR of the assertion; keys in the order of the CDDL, or that of RFC 8949, 4.2.1."""
        references = self.references if self.references is not None else [refer(*box) for box in self.boxes]
        payload = {"referenced_assertions": references, "sig_type": self.kind, **self.payload}
        signed = cbor2.dumps(payload, canonical=self.canonical)
        chain = [certificate.public_bytes(Encoding.DER) for certificate in self.who.chain]
        carried: dict[Any, Any] = {33: chain if len(chain) > 1 else chain[0]}
        protected = cbor2.dumps({1: self.who.algorithm, **(carried if self.protect_chain else {})})
        unprotected = {**self.unprotected, **({} if self.protect_chain else carried)}
        signature = (self.sign or self.who.sign)(cbor2.dumps(["Signature1", protected, b"", signed]))
        cose = [protected, unprotected, None, signature]
        body = {
            "signer_payload": payload,
            "signature": cbor2.dumps(cbor2.CBORTag(18, cose) if self.tag else cose),
            "pad1": bytes(20),
        }
        return cbor2.dumps(body | self.outside, canonical=self.canonical)

    def box(self) -> Box:
        return self.label, raw(self.label, self.content())


def raw(label: str, content: bytes) -> bytes:
    return bytes(forge.superbox(b"cbor", label, forge.jumbf_box(b"cbor", content)))


def refer(label: str, box: bytes, manifest: str | None = None, digest: str = "sha256") -> dict[str, Any]:
    """A hashed URI (C2PA 2.2, 8.4.2): the hash leaves out the superbox's own head."""
    path = f"c2pa.assertions/{label}"
    return {
        "url": f"self#jumbf=/c2pa/{manifest}/{path}" if manifest else f"self#jumbf={path}",
        "hash": hashlib.new(digest, box[8:]).digest(),
        **({"alg": digest} if digest != "sha256" else {}),
    }


def record(*boxes: Box, claim: bytes | None = None) -> jumbf.ManifestBoxes:
    """A manifest of these assertions. Nobody signed its claim."""
    said = claim if claim is not None else cbor2.dumps({"alg": "sha256"})
    parts = (
        forge.superbox(b"c2as", "c2pa.assertions", *(box for _, box in boxes)),
        forge.superbox(b"c2cl", "c2pa.claim.v2", forge.jumbf_box(b"cbor", said)),
        forge.superbox(b"c2cs", "c2pa.signature", forge.jumbf_box(b"cbor", b"\xf6")),
    )
    store = forge.superbox(b"c2pa", "c2pa", forge.superbox(b"c2ma", LABEL, *parts))
    return jumbf.parse(store)[-1]


def identities_of(*roots: x509.Certificate, name: str = "press") -> TrustList:
    return TrustList.parse(identity.pem_chain(*roots), name, Purpose.IDENTITY, Profile.SPECIFICATION)


# --- Who vouches


@pytest.fixture(scope="module")
def press() -> Any:
    """The house whose root is in the identity list."""
    return forge.house(AT - 40 * DAY, "Press")


@pytest.fixture(scope="module")
def stranger() -> Any:
    """A house of the same names, in no list."""
    return forge.house(AT - 40 * DAY, "Press")


@pytest.fixture(scope="module")
def listed(press: Any) -> tuple[TrustList, ...]:
    return (identities_of(press.root),)


@pytest.fixture(scope="module")
def content(press: Any) -> bytes:
    """One identity assertion that stands, for changing bytes of it."""
    return Vouch(press.camera).content()


def judged(
    vouch: Vouch, lists: tuple[TrustList, ...], *more: Box, at: datetime = AT
) -> tuple[Identity, Finding]:
    (found,), (finding,) = check_identities(record(*vouch.boxes, *more, vouch.box()), lists, at)
    assert finding.code is Code.IDENTITY_RECOGNISED
    assert finding.panel is Panel.CLAIMED
    assert finding.passed is (found.list is not None) is (found.problem is None)
    assert found.problem is None or found.problem in finding.explanation
    return found, finding


def refused(vouch: Vouch, lists: tuple[TrustList, ...], *more: Box, at: datetime = AT) -> str:
    found, _ = judged(vouch, lists, *more, at=at)
    assert found.list is None
    assert found.problem is not None
    return found.problem


def reissued(press: Any, **changes: Any) -> Any:
    """The listed holder, with a certificate that is remade."""
    leaf = forge.remade(press.camera.chain[0], press.issuing_key, **changes)
    return replace(press.camera, chain=(leaf, press.issuing))


# --- What is recognised


def test_an_identity_under_its_own_list_is_recognised_by_name(
    press: Any, listed: tuple[TrustList, ...]
) -> None:
    found, finding = judged(Vouch(press.camera), listed)
    covers = ("c2pa.actions.v2", "c2pa.hash.data")
    assert found == Identity(
        "cawg.x509.cose", "Press Camera", "Press", "Press Devices", "press", None, covers
    )
    assert finding.explanation == (
        "Press Camera, Press signed for the media's hash and 1 of the record's 1 statements,"
        " by a credential that the list press recognises"
    )


def test_an_identity_moved_beside_other_statements_is_nobody_s_word_for_them(
    press: Any, listed: tuple[TrustList, ...]
) -> None:
    invented = forge.cbor_assertion("c2pa.actions.v2", {"actions": [{"action": "c2pa.created"}]})
    box = Vouch(press.camera, references=[refer(*BINDING)]).box()
    for beside in (ACTIONS, invented):
        (found,), (finding,) = check_identities(record(beside, BINDING, box), listed, AT)
        assert (found.list, found.covers) == ("press", ("c2pa.hash.data",))
        assert "signed for the media's hash, and for none of the record's statements" in finding.explanation


def test_what_an_identity_signed_for_is_counted_against_what_the_record_holds(
    press: Any, listed: tuple[TrustList, ...]
) -> None:
    other = forge.cbor_assertion("stds.exif", {"a": 1})
    found, finding = judged(Vouch(press.camera), listed, other)
    assert found.covers == ("c2pa.actions.v2", "c2pa.hash.data")
    assert "the media's hash and 1 of the record's 2 statements" in finding.explanation


def test_an_identity_whose_signature_does_not_hold_covers_nothing(
    press: Any, stranger: Any, listed: tuple[TrustList, ...]
) -> None:
    broken, _ = judged(Vouch(press.camera, sign=lambda _: bytes(64)), listed)
    assert broken.covers == ()
    unlisted, _ = judged(Vouch(stranger.camera), listed)
    assert unlisted.covers == ("c2pa.actions.v2", "c2pa.hash.data")


# --- What its issuer says of withdrawals


REASONS = x509.ReasonFlags


def withdrawn(
    house: Any, since: datetime | None, reason: x509.ReasonFlags = REASONS.key_compromise
) -> Statuses:
    """The issuer's list as of a day before the check, with the holder on it or without."""
    builder = (
        x509.CertificateRevocationListBuilder()
        .issuer_name(house.issuing.subject)
        .last_update(AT - DAY)
        .next_update(AT + 6 * DAY)
    )
    if since is not None:
        entry = x509.RevokedCertificateBuilder(house.camera.chain[0].serial_number, since)
        builder = builder.add_revoked_certificate(
            entry.add_extension(x509.CRLReason(reason), critical=False).build()
        )
    signed = builder.sign(house.issuing_key.private, forge.hashes.SHA384())
    return Statuses(crls=(signed.public_bytes(Encoding.DER),))


def with_statuses(
    press: Any, listed: tuple[TrustList, ...], statuses: Statuses, proven: datetime | None = None
) -> Identity:
    box = Vouch(press.camera).box()
    (found,), (finding,) = check_identities(record(ACTIONS, BINDING, box), listed, AT, statuses, proven)
    assert finding.passed is (found.list is not None)
    return found


def test_a_withdrawn_credential_is_not_recognised(press: Any, listed: tuple[TrustList, ...]) -> None:
    found = with_statuses(press, listed, withdrawn(press, AT - 2 * DAY))
    assert found.list is None
    assert found.problem is not None
    assert "withdrawn" in found.problem
    assert with_statuses(press, listed, withdrawn(press, None)).list == "press"
    assert with_statuses(press, listed, NO_STATUSES).list == "press"


def test_a_later_withdrawal_counts_from_its_own_date_where_a_time_is_proven(
    press: Any, listed: tuple[TrustList, ...]
) -> None:
    superseded = withdrawn(press, AT - 2 * DAY, REASONS.superseded)
    assert with_statuses(press, listed, superseded, AT - 3 * DAY).list == "press"
    assert with_statuses(press, listed, superseded, AT - DAY).list is None
    assert with_statuses(press, listed, superseded).list is None


@pytest.mark.parametrize(("status", "name"), [("UNKNOWN", None), ("GOOD", "press")])
def test_an_issuer_who_disowns_the_credential_is_believed(status: str, name: str | None) -> None:
    now = datetime.now(UTC).replace(microsecond=0)  # when an answer is produced cannot be chosen
    house = forge.house(now - 2 * DAY, "Press")
    answer = (
        x509_ocsp.OCSPResponseBuilder()
        .add_response(
            house.camera.chain[0],
            house.issuing,
            forge.hashes.SHA256(),
            x509_ocsp.OCSPCertStatus[status],
            now - DAY,
            now + DAY,
            None,
            None,
        )
        .responder_id(x509_ocsp.OCSPResponderEncoding.HASH, house.issuing)
        .sign(house.issuing_key.private, forge.hashes.SHA384())
    )
    statuses = Statuses(answers=(answer.public_bytes(Encoding.DER),))
    manifest = record(ACTIONS, BINDING, Vouch(house.camera).box())
    (found,), _ = check_identities(manifest, (identities_of(house.root),), now, statuses)
    assert found.list == name
    assert (found.problem is None) is (name is not None)
    assert name is not None or "does not know" in (found.problem or "")


def test_somebody_else_s_list_withdraws_no_credential(
    press: Any, stranger: Any, listed: tuple[TrustList, ...]
) -> None:
    forged = withdrawn(replace(press, issuing_key=stranger.issuing_key), AT - 2 * DAY)
    assert with_statuses(press, listed, forged).list == "press"


def test_a_credential_that_ended_since_stands_at_a_proven_time(
    press: Any, listed: tuple[TrustList, ...]
) -> None:
    late = AT + 200 * DAY
    box = Vouch(press.camera).box()
    for proven, name in ((AT, "press"), (None, None)):
        (found,), _ = check_identities(record(ACTIONS, BINDING, box), listed, late, NO_STATUSES, proven)
        assert found.list == name


@pytest.mark.parametrize(
    "changes",
    [
        {"canonical": True, "payload": {"role": ["cawg.creator", "cawg.editor"]}},
        {"payload": {"role": ["cawg.creator"]}},
        {"payload": {"expected_partial_claim": {"alg": "sha256", "hash": bytes(32)}}},
        {"references": [refer(*BINDING)]},
        {"references": [refer(*BINDING, LABEL), refer(*ACTIONS, digest="sha512")]},
        {"tag": False},
        {"outside": {"pad2": bytes(7)}},
        {"unprotected": {"pad": bytes(9)}},
        {"label": "cawg.identity__1"},
    ],
    ids="+".join,
)
def test_every_way_the_specification_lets_it_be_written_is_read(
    press: Any, listed: tuple[TrustList, ...], changes: dict[str, Any]
) -> None:
    found, _ = judged(Vouch(press.camera, **changes), listed)
    assert found.list == "press"


def test_any_of_several_lists_recognises_and_is_named(press: Any, stranger: Any) -> None:
    both = (identities_of(stranger.root, name="others"), identities_of(press.root))
    found, _ = judged(Vouch(press.camera), both)
    assert found.list == "press"


def test_two_identities_are_judged_apart(press: Any, stranger: Any, listed: tuple[TrustList, ...]) -> None:
    first, second = Vouch(press.camera).box(), Vouch(stranger.camera, label="cawg.identity__1").box()
    found, findings = check_identities(record(ACTIONS, BINDING, first, second), listed, AT)
    assert [item.list for item in found] == ["press", None]
    assert [finding.passed for finding in findings] == [True, False]
    assert "cawg.identity__1" in findings[1].explanation


def test_an_identity_may_vouch_for_another(press: Any, listed: tuple[TrustList, ...]) -> None:
    first = Vouch(press.camera).box()
    second = Vouch(press.camera, (BINDING, first), "cawg.identity__1").box()
    found, _ = check_identities(record(ACTIONS, BINDING, first, second), listed, AT)
    assert [item.list for item in found] == ["press", "press"]


def test_a_record_without_identities_has_none_and_nothing_failed(listed: tuple[TrustList, ...]) -> None:
    named_alike = ("cawg.identity.v2", raw("cawg.identity.v2", b"\xa0"))
    assert check_identities(record(ACTIONS, BINDING, named_alike), listed, AT) == ((), ())


# --- Who is not recognised


def test_a_self_issued_identity_is_shown_with_its_problem(
    press: Any, stranger: Any, listed: tuple[TrustList, ...]
) -> None:
    found, _ = judged(Vouch(stranger.camera), listed)
    assert (found.name, found.list) == ("Press Camera", None)
    assert found.problem is not None
    assert found.problem.startswith("no identity list recognises the credential; by the list press, ")
    alone, _ = judged(Vouch(press.camera), ())
    assert alone.problem == "no identity list recognises the credential"


@pytest.mark.parametrize("purpose", [Purpose.SIGNING, Purpose.TIME_STAMPING])
def test_a_list_for_another_purpose_is_an_error_and_never_a_help(press: Any, purpose: Purpose) -> None:
    profile = Profile.TIME_STAMPING if purpose is Purpose.TIME_STAMPING else Profile.SPECIFICATION
    wrong = TrustList.parse(identity.pem_chain(press.root), "signers", purpose, profile)
    with pytest.raises(CertificateError):
        check_identities(record(ACTIONS, BINDING, Vouch(press.camera).box()), (wrong,), AT)


@pytest.mark.parametrize(
    ("at", "said"),
    [(AT + 90 * DAY, "expired on 2026-06-20"), (AT - 41 * DAY, "is not valid before 2026-03-22")],
    ids=["after", "before"],
)
def test_a_credential_counts_only_while_it_is_valid(
    press: Any, listed: tuple[TrustList, ...], at: datetime, said: str
) -> None:
    assert said in refused(Vouch(press.camera), listed, at=at)


def test_a_time_stamper_is_nobodys_identity() -> None:
    dial = forge.clock(AT - 40 * DAY)
    assert "by the list press, " in refused(Vouch(dial.unit), (identities_of(dial.root),))


@pytest.mark.parametrize(
    ("purposes", "policy", "at", "said"),
    [
        ((DOCUMENTS,), None, datetime(2026, 6, 1, tzinfo=UTC), None),
        ((MAIL,), "2.23.140.1.5.3.2", datetime(2027, 3, 31, 23, 59, tzinfo=UTC), None),
        ((MAIL,), "2.23.140.1.5.4.3", datetime(2027, 4, 1, tzinfo=UTC), "until 31 March 2027 only"),
        ((MAIL,), "2.23.140.1.5.1.3", AT, "does not say that its holder's name was checked"),
        ((MAIL,), None, AT, "does not say that its holder's name was checked"),
        ((CLAIM_SIGNING,), None, AT, "issued neither for signing documents nor for mail"),
    ],
    ids=["documents", "checked", "checked, too late", "only the mailbox was checked", "mail", "a device"],
)
def test_only_a_certificate_for_a_holders_name_is_an_identity(
    press: Any,
    listed: tuple[TrustList, ...],
    purposes: tuple[x509.ObjectIdentifier, ...],
    policy: str | None,
    at: datetime,
    said: str | None,
) -> None:
    """CAWG 1.1, 8.2.3; the root is the same for all of them."""
    stated = x509.PolicyInformation(x509.ObjectIdentifier(policy or "1.2.3.4"), None)
    put = [(x509.ExtendedKeyUsage(purposes), False), (x509.CertificatePolicies([stated]), False)]
    who = reissued(press, put=put, not_after=AT + 400 * DAY)
    found, _ = judged(Vouch(who), listed, at=at)
    if said is None:
        assert found.list == "press"
    else:
        assert said in (found.problem or "")


def test_a_certificate_against_the_lists_profile_is_refused(
    press: Any, listed: tuple[TrustList, ...]
) -> None:
    mixed = x509.ExtendedKeyUsage([DOCUMENTS, ExtendedKeyUsageOID.TIME_STAMPING])
    assert "mixes time-stamping" in refused(Vouch(reissued(press, put=[(mixed, False)])), listed)


@pytest.mark.parametrize("kind", ["cawg.identity_claims_aggregation", "cawg.x509.cose2", "\u202ex" * 90])
def test_a_kind_that_cannot_be_checked_here_is_named_and_never_recognised(
    press: Any, listed: tuple[TrustList, ...], kind: str
) -> None:
    found, _ = judged(Vouch(press.camera, kind=kind), listed)
    assert (found.list, found.name) == (None, "")
    assert len(found.kind) <= 80
    assert "\u202e" not in found.kind
    expected = "online" if kind.startswith("cawg.identity") else "are not checked here"
    assert expected in (found.problem or "")


# --- What it signed


def test_a_name_is_not_shown_unless_its_key_signed(
    press: Any, stranger: Any, listed: tuple[TrustList, ...]
) -> None:
    found, _ = judged(Vouch(press.camera, sign=stranger.camera.sign), listed)
    assert found == Identity("cawg.x509.cose", "", "", "", None, "the credential's key did not sign this")


def test_a_certificate_outside_the_signature_is_refused(press: Any, listed: tuple[TrustList, ...]) -> None:
    said = refused(Vouch(press.camera, protect_chain=False), listed)
    assert said == "its signature does not cover its certificate"


def test_a_signature_over_other_content_is_refused(press: Any, listed: tuple[TrustList, ...]) -> None:
    true, changed = Vouch(press.camera), Vouch(press.camera, payload={"role": ["cawg.creator"]})
    moved = cbor2.loads(changed.content()) | {"signature": cbor2.loads(true.content())["signature"]}
    box = ("cawg.identity", raw("cawg.identity", cbor2.dumps(moved)))
    (found,), _ = check_identities(record(ACTIONS, BINDING, box), listed, AT)
    assert found.problem == "the credential's key did not sign this"


@pytest.mark.parametrize(
    "changes",
    [
        {"outside": {"pad1": b"\0\0x"}},
        {"outside": {"pad2": b"x"}},
        {"unprotected": {"pad": b"\0x"}},
    ],
    ids=["pad1", "pad2", "within the signature"],
)
def test_padding_that_holds_something_is_refused(
    press: Any, listed: tuple[TrustList, ...], changes: dict[str, Any]
) -> None:
    said = refused(Vouch(press.camera, **changes), listed)
    assert said == "its padding, which nobody signed, is not empty"


WRONG = [refer(*BINDING) | {"hash": bytes(32)}]
BINDING_2: Box = forge.cbor_assertion("c2pa.hash.data__1", forge.ANY_BINDING)


@pytest.mark.parametrize(
    ("references", "said"),
    [
        ([refer(*ACTIONS)], "does not refer to the hash that binds"),
        (WRONG, "not the one that was signed for"),
        ([refer(*BINDING), refer(*ACTIONS) | {"hash": bytes(32)}], "not the one that was signed for"),
        ([refer(*BINDING), refer(*BINDING)], "the same assertion twice"),
        ([refer(*BINDING), refer(*BINDING, LABEL)], "the same assertion twice"),
        ([refer(*BINDING, OTHER)], "no assertion of this record"),
        ([refer(*BINDING) | {"url": "https://example.org/c2pa.assertions/c2pa.hash.data"}], "no assertion"),
        ([refer(*BINDING) | {"url": ["self#jumbf=c2pa.assertions/c2pa.hash.data"]}], "no assertion"),
        ([refer(*BINDING_2)], "that is not there"),
        ([refer(*BINDING), refer("cawg.identity", bytes(9))], "refers to itself"),
        ([refer(*BINDING) | {"alg": "md5"}], "by a hash that is not accepted"),
        ([refer(*BINDING) | {"alg": ["sha256"]}], "by a hash that is not accepted"),
        ([refer(*BINDING) | {"alg": None}], "by a hash that is not accepted"),
        ([], "lacks its references"),
        ([refer(*BINDING), "c2pa.hash.data"], "not a list of assertions"),
        ([refer(*BINDING)] * (cawg.MAX_REFERENCES + 1), "too long"),
    ],
)
def test_it_must_refer_to_this_record_and_to_its_hard_binding(
    press: Any, listed: tuple[TrustList, ...], references: list[Any], said: str
) -> None:
    found, _ = judged(Vouch(press.camera, references=references), listed)
    assert said in (found.problem or "")
    assert found.name == ""


def test_an_identity_moved_to_another_record_is_refused(press: Any, listed: tuple[TrustList, ...]) -> None:
    other = forge.cbor_assertion("c2pa.hash.data", forge.ANY_BINDING | {"hash": b"\x01" * 32})
    (found,), _ = check_identities(record(ACTIONS, other, Vouch(press.camera).box()), listed, AT)
    assert found.problem == "an assertion it refers to is not the one that was signed for"


def test_with_two_hard_bindings_nobody_knows_which_was_signed_for(
    press: Any, listed: tuple[TrustList, ...]
) -> None:
    assert refused(Vouch(press.camera), listed, BINDING_2) == (
        "more than one hash binds the record to the media"
    )


@pytest.mark.parametrize(
    "payload", [{"role": []}, {"role": ["cawg.creator", ""]}, {"role": "cawg.creator"}, {"sig_type": ""}]
)
def test_a_payload_against_the_schema_is_refused(
    press: Any, listed: tuple[TrustList, ...], payload: dict[str, Any]
) -> None:
    refused(Vouch(press.camera, payload=payload), listed)


def test_the_signed_bytes_have_one_form(press: Any, listed: tuple[TrustList, ...]) -> None:
    """An indefinite length hides the same content in other bytes (RFC 8949, 4.2.1)."""
    content = Vouch(press.camera).content()
    assert content[0] == 0xA3
    other = b"\xbf" + content[1:] + b"\xff"
    box = ("cawg.identity", raw("cawg.identity", other))
    (found,), _ = check_identities(record(ACTIONS, BINDING, box), listed, AT)
    assert found.problem == "its record is not in the form that has one encoding"


# --- Limits and hostile content


def test_no_more_than_twenty_identities_are_looked_at(press: Any, listed: tuple[TrustList, ...]) -> None:
    content = Vouch(press.camera).content()
    labels = ["cawg.identity", *(f"cawg.identity__{number}" for number in range(1, 23))]
    boxes = [(label, raw(label, content)) for label in labels]
    found, findings = check_identities(record(ACTIONS, BINDING, *boxes), listed, AT)
    assert len(found) == cawg.MAX_IDENTITIES == 20
    assert len(findings) == 21
    assert findings[-1] == Finding(
        Code.IDENTITY_RECOGNISED,
        passed=False,
        explanation="3 more identities were not looked at: the record has too many",
        panel=Panel.CLAIMED,
    )


def test_a_record_that_is_too_long_is_not_read(press: Any, listed: tuple[TrustList, ...]) -> None:
    said = refused(Vouch(press.camera, outside={"pad1": bytes(cawg.MAX_CONTENT)}), listed)
    assert said == "its record is not CBOR, or is too long"


def test_an_identity_in_another_kind_of_box_is_refused(content: bytes, listed: tuple[TrustList, ...]) -> None:
    box = forge.superbox(b"json", "cawg.identity", forge.jumbf_box(b"json", content))
    (found,), _ = check_identities(record(ACTIONS, BINDING, ("cawg.identity", box)), listed, AT)
    assert found.problem == "its record is not CBOR, or is too long"


def test_names_cannot_rearrange_the_page(press: Any) -> None:
    hostile = x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Press\u202egro\n" + "A" * 50),
            x509.NameAttribute(NameOID.COMMON_NAME, "\u200b"),
        ]
    )
    key = press.camera.key
    leaf = x509.CertificateBuilder(hostile, hostile, key.public_key, 5, AT - DAY, AT + DAY).sign(
        key.private, forge.hashes.SHA256()
    )
    found, finding = judged(Vouch(replace(press.camera, chain=(leaf,))), ())
    assert (found.name, found.organisation) == ("", "Pressgro " + "A" * 50)
    assert finding.explanation.isprintable()


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.binary(max_size=9) | st.text(max_size=9),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["referenced_assertions", "sig_type", "role", "url", "hash", "alg", "signer_payload", "pad1"]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@settings(max_examples=150, deadline=None)
@given(VALUES, VALUES, VALUES, st.binary(max_size=60))
def test_nothing_in_it_raises_and_nothing_made_up_is_recognised(
    references: Any, kind: Any, outside: Any, claim: bytes
) -> None:
    payload = {"referenced_assertions": [references, refer(*BINDING)], "sig_type": kind}
    body = {"signer_payload": payload, "signature": claim, "pad1": b"", "pad2": outside}
    for content in (cbor2.dumps(body), cbor2.dumps(outside), claim):
        box = ("cawg.identity", raw("cawg.identity", content))
        found, findings = check_identities(record(BINDING, box, claim=claim), (), AT)
        assert [item.list for item in found] == [None]
        assert [finding.passed for finding in findings] == [False]


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_a_changed_byte_is_refused_unless_nothing_that_counts_changed(
    content: bytes, listed: tuple[TrustList, ...], data: st.DataObject
) -> None:
    position = data.draw(st.integers(0, len(content) - 1))
    changed = bytearray(content)
    changed[position] ^= data.draw(st.integers(1, 255))
    box = ("cawg.identity", raw("cawg.identity", bytes(changed)))
    (found,), _ = check_identities(record(ACTIONS, BINDING, box), listed, AT)
    if found.list is not None:
        before, after = cbor2.loads(content), cbor2.loads(bytes(changed))
        assert before["signer_payload"] == after["signer_payload"]
        was, now = cbor2.loads(before["signature"]).value, cbor2.loads(after["signature"]).value
        assert (was[0], was[3]) == (now[0], now[3])


# --- Agreement with other readers


@pytest.fixture(scope="module")
def written_by_sdk() -> tuple[bytes, Any, Any, datetime]:
    """A file whose signer and whose identity are of two houses; the SDK signs only with what is valid today."""
    now = datetime.now(UTC).replace(microsecond=0)
    lab, press = forge.house(now - DAY, "Lab"), forge.house(now - DAY, "Press")

    def local(who: Any, **more: Any) -> dict[str, Any]:
        secret = who.key.private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        return {"local": {"alg": "es256", "sign_cert": who.pem, "private_key": secret.decode(), **more}}

    writing = {
        "trust": {"trust_config": "1.3.6.1.5.5.7.3.36\n1.3.6.1.4.1.62558.2.1"},
        "verify": {"remote_manifest_fetch": False, "ocsp_fetch": False, "verify_after_sign": False},
        "core": {"allowed_network_hosts": []},
        "builder": {"thumbnail": {"enabled": False}},
        "signer": local(lab.camera),
        "cawg_x509_signer": local(
            press.camera, referenced_assertions=["c2pa.hash.data"], roles=["cawg.creator"]
        ),
    }
    body = {"claim_generator_info": [{"name": "lab", "version": "1"}], "assertions": [forge.actions()]}
    out = io.BytesIO()
    with c2pa.Context.from_dict(writing) as context, c2pa.Builder(json.dumps(body), context) as builder:
        builder._has_context_signer = True  # a signer in the settings is used, but not noticed
        builder.sign(forge.JPEG, io.BytesIO(forge.picture()), out)
    return out.getvalue(), lab, press, now


def store_of(media: bytes) -> jumbf.ManifestBoxes:
    return jumbf.parse(forge.stored(media))[-1]


def codes_of_sdk(media: bytes, listed: Any) -> set[str]:
    """What the SDK says with `listed` among the anchors for identities."""
    anchors = [{"trust_anchors": identity.pem_chain(listed.root).decode(), "trust_kind": "cawg"}]
    reading = {
        "trust": {"trust_config": "1.3.6.1.5.5.7.3.36\n1.3.6.1.4.1.62558.2.1", "anchors": anchors},
        "verify": {"remote_manifest_fetch": False, "ocsp_fetch": False},
        "core": {"allowed_network_hosts": []},
    }
    with (
        c2pa.Context.from_dict(reading) as context,
        c2pa.Reader(forge.JPEG, io.BytesIO(media), context=context) as reader,
    ):
        results = json.loads(reader.json())["validation_results"]["activeManifest"]
    return {status["code"] for status in (*results["success"], *results["failure"])}


def codes_of_encypher(media: bytes, listed: Any) -> set[str]:
    trusted = [{"profile": "base", "certificates_pem": identity.pem_chain(listed.root).decode()}]
    report = encypher_c2pa.verify(
        media, forge.JPEG, no_default_trust=True, telemetry=False, cawg_trust_configurations=trusted
    )
    results = report["validation_results"]
    return {status["code"] for status in (*results["success"], *results["failure"])}


def test_what_the_sdk_writes_is_read_as_the_sdk_and_another_verifier_read_it(
    written_by_sdk: tuple[bytes, Any, Any, datetime],
) -> None:
    media, lab, press, now = written_by_sdk
    manifest, untrusted = store_of(media), "cawg.x509.credential.untrusted"
    for house, list_name in ((lab, None), (press, "press")):
        (found,), _ = check_identities(manifest, (identities_of(house.root),), now)
        assert (found.name, found.list) == ("Press Camera", list_name)
        assert "cawg.x509.signature.validated" in codes_of_sdk(media, house)
        assert (untrusted in codes_of_sdk(media, house)) is (list_name is None)
        theirs = codes_of_encypher(media, house)
        assert ("cawg.identity.trusted" in theirs, untrusted in theirs) == (
            list_name is not None,
            list_name is None,
        )
