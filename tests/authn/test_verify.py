"""A verifier that lies would pass none of these: every attack is built here, and every answer is stated.

The writer is ours (`vectors/forge.py`), so that each file breaks one rule and keeps the others.
"""

import ctypes
import dataclasses
import hashlib
import importlib.util
import io
import json
import socket
import struct
import sys
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import brotli
import c2pa
import encypher_c2pa
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ed25519, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, ExtensionOID

from authn import cose, identity, jumbf, keys
from authn.evidence import Code, Content, Credentials, History, Provenance, Signature, Signer
from authn.manifest import Sdk
from authn.media import Media
from authn.profile import Profile
from authn.signer import Lists
from authn.timestamp.loopback import serving
from authn.verify import verify_media
from tools.verdict import Headline, Ledger, headline

_SPEC = importlib.util.spec_from_file_location("forge", Path(__file__).parent / "vectors" / "forge.py")
assert _SPEC is not None
assert _SPEC.loader is not None
forge: Any = sys.modules.setdefault("forge", importlib.util.module_from_spec(_SPEC))
if not hasattr(forge, "Draft"):
    _SPEC.loader.exec_module(forge)

H = Headline
NOW = datetime.now(UTC).replace(microsecond=0)
DAY = timedelta(days=1)
CLAIM_SIGNING = x509.ObjectIdentifier("1.3.6.1.4.1.62558.2.1")
DOCUMENTS = x509.ObjectIdentifier("1.3.6.1.5.5.7.3.36")


@pytest.fixture(scope="module")
def lab() -> Any:
    """The house whose root is in the signers' list; it exists for 40 days."""
    return forge.house(NOW - 40 * DAY)


@pytest.fixture(scope="module")
def dial() -> Any:
    """The clock whose root is in the time-stampers' list."""
    return forge.clock(NOW - 40 * DAY)


@pytest.fixture(scope="module")
def lists(lab: Any, dial: Any) -> Lists:
    return forge.lists([lab.root], [dial.root])


@pytest.fixture(scope="module")
def sdk() -> Iterator[Sdk]:
    with Sdk() as opened:
        yield opened


Judge = Callable[..., Provenance]


@pytest.fixture(scope="module")
def judge(sdk: Sdk, lists: Lists) -> Judge:
    def examine(data: bytes, believed: Lists = lists, at: datetime = NOW) -> Provenance:
        return verify_media(Media.of(io.BytesIO(data), "file", 1 << 30), sdk, believed, at)

    return examine


@pytest.fixture(scope="module")
def stamped(dial: Any) -> Any:
    return lambda message: dial.token(NOW, message)


@pytest.fixture(scope="module")
def draft(lab: Any, stamped: Any) -> Any:
    """A sound record with a token; tests change one thing of it."""
    return forge.Draft(forge.picture(), lab.camera, stamps=[stamped])


@pytest.fixture(scope="module")
def good(draft: Any) -> bytes:
    return draft.write()


def named(found: Provenance) -> Headline:
    return headline(found, Ledger.NOT_CHECKED)


def failed(found: Provenance) -> set[Code]:
    return {finding.code for finding in found.findings if not finding.passed}


def leaf(lab: Any, **changes: Any) -> Any:
    """The camera with another certificate from the same authority."""
    made = forge.remade(lab.camera.chain[0], lab.issuing_key, **changes)
    return dataclasses.replace(lab.camera, chain=(made, lab.issuing))


# --- What is sound


def test_a_sound_file_is_intact_and_its_signer_and_time_are_known(judge: Judge, good: bytes) -> None:
    found = judge(good)
    assert named(found) is H.INTACT_SIGNER_RECOGNISED
    assert (found.content, found.signature, found.signer) == (
        Content.INTACT,
        Signature.VALID,
        Signer.RECOGNISED,
    )
    assert found.history is History.NONE
    assert found.time.not_after == NOW + timedelta(seconds=1)
    assert found.signer_list == "lab signers"
    assert found.certificate is not None
    assert found.certificate.name == "Lab Camera"
    assert failed(found) == {Code.REVOCATION_CHECKED}


@pytest.mark.parametrize("mime", [forge.JPEG, forge.PNG, "image/webp", "image/gif", "image/tiff", forge.MP4])
def test_what_the_sdk_writes_is_intact_and_wholly_covered(judge: Judge, lab: Any, mime: str) -> None:
    kind = mime.rpartition("/")[2].upper()
    media = forge.film() if mime == forge.MP4 else forge.picture(kind)
    found = judge(forge.sdk_signed(media, lab.camera, mime))
    assert named(found) is H.INTACT_SIGNER_RECOGNISED
    assert Code.CONTENT_COVERED not in failed(found)


def test_an_svg_is_covered_around_its_encoded_record(judge: Judge, lab: Any) -> None:
    drawing = (
        b'<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"><rect width="9" height="9"/></svg>'
    )
    assert judge(forge.sdk_signed(drawing, lab.camera, "image/svg+xml")).content is Content.INTACT


def test_a_record_of_many_segments_is_covered(judge: Judge, draft: Any) -> None:
    big = forge.cbor_assertion("org.example.note", {"x": "A" * 200_000})
    data = dataclasses.replace(draft, assertions=[big]).write()
    assert data.count(b"\xff\xebEb") + data.count(b"\xff\xeb\xea") >= 3
    assert named(judge(data)) is H.INTACT_SIGNER_RECOGNISED


def test_a_token_taken_over_the_loopback_proves_the_time(judge: Judge, lab: Any, dial: Any) -> None:
    with serving(dial.authority(NOW)) as url:
        found = judge(forge.sdk_signed(forge.picture(), lab.camera, url=url))
    assert named(found) is H.INTACT_SIGNER_RECOGNISED
    assert found.time.not_after == NOW + timedelta(seconds=1)


@pytest.mark.parametrize("kind", ["ed25519", "rsa"])
def test_other_kinds_of_keys_sign_as_well(judge: Judge, lab: Any, draft: Any, kind: str) -> None:
    key = ed25519.Ed25519PrivateKey.generate() if kind == "ed25519" else rsa.generate_private_key(65537, 2048)
    own = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
    made = forge.remade(lab.camera.chain[0], lab.issuing_key, public_key=key.public_key(), put=[(own, False)])
    who = forge.Who(key, (made, lab.issuing))
    assert named(judge(dataclasses.replace(draft, who=who).write())) is H.INTACT_SIGNER_RECOGNISED


def test_a_second_verifier_agrees_on_what_is_sound_and_what_is_not(
    judge: Judge, good: bytes, draft: Any, lab: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ENCYPHER_C2PA_TELEMETRY", "off")
    written = forge.sdk_signed(forge.picture(), lab.camera)
    stranger = dataclasses.replace(draft, who=dataclasses.replace(draft.who, key=keys.generate_p256()))
    files = {
        "ours": good,
        "the SDK's": written,
        "pixel": forge.flipped(good, len(good) - 40),
        "pixel of the SDK's": forge.flipped(written, len(written) - 40),
        "other key": stranger.write(),
        "trailing": good + b"x",
    }
    for name, data in files.items():
        report = encypher_c2pa.verify(
            data,
            forge.JPEG,
            trust_pem=identity.pem_chain(lab.root).decode(),
            no_default_trust=True,
            telemetry=False,
        )
        ours = judge(data)
        sound = ours.content is Content.INTACT and ours.signature is Signature.VALID
        assert (report["integrity"] == "valid") is sound, name


# --- 1 to 7: bytes


@pytest.mark.parametrize("tail", [30, 100, 200])
def test_one_changed_byte_of_the_picture_is_a_change(judge: Judge, good: bytes, tail: int) -> None:
    found = judge(forge.flipped(good, len(good) - tail))
    assert (named(found), found.content) == (H.CHANGED_AFTER_SIGNING, Content.CHANGED)


@pytest.mark.parametrize(
    "insert",
    [
        lambda jpeg: jpeg[:2] + b"\xff\xe1\x00\x0aExif\0\0ab" + jpeg[2:],
        # The last one: the bytes of the marker may occur in the record by chance.
        lambda jpeg: b"\xff\xfe\x00\x06evil\xff\xda".join(jpeg.rsplit(b"\xff\xda", 1)),
        lambda jpeg: jpeg + b"hello",
    ],
    ids=["EXIF", "comment", "after the end"],
)
def test_inserted_bytes_are_a_change(judge: Judge, good: bytes, insert: Callable[[bytes], bytes]) -> None:
    assert named(judge(insert(good))) is H.CHANGED_AFTER_SIGNING


def test_inserted_bytes_are_a_change_in_png_and_wav_shaped_files(judge: Judge, lab: Any) -> None:
    png = forge.sdk_signed(forge.picture("PNG"), lab.camera, forge.PNG)
    assert (
        named(judge(png[:-12] + forge.chunk(b"tEXt", b"Comment\0evil") + png[-12:]))
        is H.CHANGED_AFTER_SIGNING
    )
    webp = forge.sdk_signed(forge.picture("WEBP"), lab.camera, "image/webp")
    longer = webp + b"LIST" + struct.pack("<I", 4) + b"INFO"
    longer = longer[:4] + struct.pack("<I", len(longer) - 8) + longer[8:]
    assert named(judge(longer)) is H.CHANGED_AFTER_SIGNING


def test_a_file_cut_anywhere_is_changed_or_unreadable_and_never_without_credentials(
    judge: Judge, good: bytes, lab: Any
) -> None:
    start, end = forge.record_range(good)
    png = forge.sdk_signed(forge.picture("PNG"), lab.camera, forge.PNG)
    film = forge.sdk_signed(forge.film(), lab.camera, forge.MP4)
    at = png.index(b"caBX")
    cuts = [good[:n] for n in (len(good) - 1, end + 9, end, end - 1, (start + end) // 2, start + 40)]
    cuts += [png[:n] for n in (len(png) - 1, at + 9000, at + 40)]
    cuts += [film[:n] for n in (len(film) - 1, 9000, 120)]
    for cut in cuts:
        assert named(judge(cut)) in (H.CHANGED_AFTER_SIGNING, H.CREDENTIALS_UNREADABLE), len(cut)


def test_a_record_cut_in_half_inside_a_whole_container_is_unreadable(
    judge: Judge, good: bytes, draft: Any
) -> None:
    start, end = forge.record_range(good)
    half = forge.stored(good)[:3000]
    segment = b"\xff\xeb" + struct.pack(">H", 10 + len(half)) + good[start + 4 : start + 12] + half
    assert named(judge(good[:start] + segment + good[end:])) is H.CREDENTIALS_UNREADABLE
    big = forge.cbor_assertion("org.example.note", {"x": "A" * 100_000})
    two = dataclasses.replace(draft, assertions=[big]).write()
    first = forge.record_range(two)[0]
    second = first + 2 + struct.unpack_from(">H", two, first + 2)[0]
    without = two[:second] + two[forge.record_range(two)[1] :]
    assert named(judge(without)) is H.CREDENTIALS_UNREADABLE


def test_a_stripped_file_has_no_credentials_and_is_not_called_false(judge: Judge, good: bytes) -> None:
    found = judge(forge.stripped(good))
    assert named(found) is H.NO_CREDENTIALS
    assert (found.credentials, found.identity, found.signer) == (Credentials.NONE, None, None)
    assert failed(found) == {Code.CREDENTIALS_PRESENT}


def test_a_record_moved_to_another_picture_is_a_change(judge: Judge, good: bytes) -> None:
    start, end = forge.record_range(good)
    other = forge.picture(seed=2)
    assert named(judge(other[:20] + good[start:end] + other[20:])) is H.CHANGED_AFTER_SIGNING


def test_two_records_in_one_file_are_never_intact(judge: Judge, good: bytes, draft: Any) -> None:
    foreign = dataclasses.replace(draft, media=forge.picture(seed=2), label="urn:c2pa:2").write()
    start, end = forge.record_range(good)
    there, there_end = forge.record_range(foreign)
    for data in (
        good[:end] + foreign[there:there_end] + good[end:],
        good[:start] + foreign[there:there_end] + good[start:],
    ):
        assert named(judge(data)) in (H.CHANGED_AFTER_SIGNING, H.CREDENTIALS_UNREADABLE)


def test_a_signed_picture_behind_an_unsigned_one_does_not_speak_for_it(judge: Judge, good: bytes) -> None:
    assert named(judge(forge.picture("PNG") + good)) is H.NO_CREDENTIALS


def test_bytes_in_the_padding_leave_the_file_intact_and_are_reported(judge: Judge, good: bytes) -> None:
    before, position = judge(good), good.index(bytes(1000)) + 500
    found = judge(forge.flipped(good, position))
    assert named(found) is H.INTACT_SIGNER_RECOGNISED
    assert failed(found) - failed(before) == {Code.SIGNATURE_PADDING_EMPTY}
    assert found.identity == before.identity


def test_no_flipped_byte_leaves_the_file_intact_outside_the_padding(judge: Judge, good: bytes) -> None:
    """Every 37th byte and every byte of the frames; the two regions where it may are these."""
    start, _ = forge.record_range(good)
    (manifest,) = jumbf.parse(forge.stored(good))
    signed = cose.parse(manifest.signature, manifest.claim)
    free = {
        # The box instance number (ISO/IEC 18477-3, B.2), which tells records in one file apart.
        *range(start + 6, start + 8),
        # The unprotected header: padding, and the token, which proves nothing once it is broken.
        *range(good.index(signed.protected) + len(signed.protected), good.index(signed.signature) - 3),
    }
    reached = 0
    for position in sorted({*range(3, len(good), 37), *range(start, start + 60)}):
        found = judge(forge.flipped(good, position))
        if named(found).startswith("INTACT"):
            reached += 1
            assert position in free, position
            assert position < start + 8 or failed(found) & {Code.SIGNATURE_PADDING_EMPTY, Code.TIME_PROVEN}
    assert reached > 20


# --- 8 to 14: certificates


def test_an_authority_of_the_same_name_is_not_the_same_authority(judge: Judge, draft: Any) -> None:
    double = forge.house(NOW - 40 * DAY)
    found = judge(dataclasses.replace(draft, who=double.camera).write())
    assert (named(found), found.signer) == (H.INTACT_SIGNER_UNKNOWN, Signer.NOT_RECOGNISED)
    assert found.certificate is not None
    assert found.certificate.issuer == "Lab Devices"
    assert found.signer_list is None


def test_a_chain_that_does_not_reach_the_list_is_unknown(judge: Judge, draft: Any, lab: Any) -> None:
    camera = lab.camera.chain[0]
    own = forge.remade(camera, lab.camera.key, issuer=camera.subject)
    below_key = keys.generate_p256()
    below = forge.remade(camera, lab.camera.key, issuer=camera.subject, public_key=below_key.public_key)
    late = forge.remade(lab.issuing, lab.root_key, not_after=NOW - DAY)
    for who in (
        forge.Who(lab.camera.key, (camera,)),
        forge.Who(lab.camera.key, (own,)),
        forge.Who(below_key, (below, camera, lab.issuing)),
        forge.Who(lab.camera.key, (camera, late)),
    ):
        found = judge(dataclasses.replace(draft, who=who, stamps=[]).write())
        assert (named(found), found.signer) == (H.INTACT_SIGNER_UNKNOWN, Signer.NOT_RECOGNISED)
        assert Code.SIGNER_CHAIN in failed(found)


def test_nothing_added_to_the_chain_makes_a_certificate_fit_or_unfit(
    judge: Judge, draft: Any, lab: Any
) -> None:
    """The list's path is judged; the strangers beside it are not."""
    stranger = forge.house(NOW - 40 * DAY, "Stranger")
    more = dataclasses.replace(
        lab.camera, chain=(*lab.camera.chain, stranger.camera.chain[0], stranger.issuing, stranger.root)
    )
    assert named(judge(dataclasses.replace(draft, who=more).write())) is H.INTACT_SIGNER_RECOGNISED
    borrowed = dataclasses.replace(
        stranger.camera, chain=(stranger.camera.chain[0], *lab.camera.chain, lab.root)
    )
    assert named(judge(dataclasses.replace(draft, who=borrowed).write())) is H.INTACT_SIGNER_UNKNOWN


@pytest.mark.parametrize(
    ("before", "after"), [(NOW - 30 * DAY, NOW - 2 * DAY), (NOW + 2 * DAY, NOW + 20 * DAY)]
)
def test_a_certificate_out_of_date_without_a_proven_time_is_not_recognised(
    judge: Judge, draft: Any, lab: Any, before: datetime, after: datetime
) -> None:
    who = leaf(lab, not_before=before, not_after=after)
    found = judge(dataclasses.replace(draft, who=who, stamps=[]).write())
    assert (named(found), found.signer) == (
        H.SIGNER_EXPIRED_TIME_UNPROVEN,
        Signer.EXPIRED_TIME_UNPROVEN,
    )
    assert Code.SIGNER_VALID_AT in failed(found)


def test_a_certificate_that_expired_after_the_proven_time_still_counts(
    judge: Judge, draft: Any, lab: Any, dial: Any
) -> None:
    who = leaf(lab, not_before=NOW - 30 * DAY, not_after=NOW - 2 * DAY)
    early = dataclasses.replace(draft, who=who, stamps=[lambda message: dial.token(NOW - 9 * DAY, message)])
    assert named(judge(early.write())) is H.INTACT_SIGNER_RECOGNISED
    late = dataclasses.replace(draft, who=who)
    assert named(judge(late.write())) is H.SIGNER_EXPIRED_TIME_UNPROVEN


@pytest.mark.parametrize(
    "purposes",
    [
        [],
        [ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE],
        [ExtendedKeyUsageOID.CODE_SIGNING],
        [ExtendedKeyUsageOID.OCSP_SIGNING],
        [ExtendedKeyUsageOID.TIME_STAMPING],
        [CLAIM_SIGNING, DOCUMENTS, ExtendedKeyUsageOID.OCSP_SIGNING],
        [ExtendedKeyUsageOID.EMAIL_PROTECTION],
    ],
    ids=lambda purposes: ",".join(oid.dotted_string for oid in purposes) or "none",
)
def test_a_certificate_for_another_purpose_is_refused_under_the_signers_own_root(
    judge: Judge, draft: Any, lab: Any, purposes: list[x509.ObjectIdentifier]
) -> None:
    changes: dict[str, Any] = {"put": [(x509.ExtendedKeyUsage(purposes), False)]} if purposes else {}
    who = leaf(lab, **(changes or {"drop": [ExtensionOID.EXTENDED_KEY_USAGE]}))
    found = judge(dataclasses.replace(draft, who=who).write())
    assert (named(found), found.signer) == (H.SIGNER_REJECTED, Signer.WRONG_KIND)
    assert Code.SIGNER_PROFILE in failed(found)


@pytest.mark.parametrize("bit", ["key_cert_sign", "key_agreement"])
def test_a_key_usage_beyond_signing_is_refused(judge: Judge, draft: Any, lab: Any, bit: str) -> None:
    names = ("digital_signature", "content_commitment", "key_encipherment", "data_encipherment")
    names += ("key_agreement", "key_cert_sign", "crl_sign", "encipher_only", "decipher_only")
    bits = dict.fromkeys(names, False)
    usage = x509.KeyUsage(**{**bits, "digital_signature": True, "content_commitment": True, bit: True})
    found = judge(dataclasses.replace(draft, who=leaf(lab, put=[(usage, True)])).write())
    assert named(found) is H.SIGNER_REJECTED


def test_an_authority_s_own_certificate_signs_no_claim(judge: Judge, draft: Any, lab: Any) -> None:
    key = keys.generate_p256()
    made = forge.remade(
        lab.camera.chain[0],
        lab.issuing_key,
        public_key=key.public_key,
        put=[(x509.BasicConstraints(ca=True, path_length=None), True)],
    )
    found = judge(dataclasses.replace(draft, who=forge.Who(key, (made, lab.issuing))).write())
    assert named(found) is H.SIGNER_REJECTED


def test_a_time_stamper_signs_no_claim_whichever_list_holds_its_root(
    judge: Judge, draft: Any, lab: Any, dial: Any
) -> None:
    data = dataclasses.replace(draft, who=dial.unit).write()
    assert named(judge(data)) is H.SIGNER_REJECTED
    both = forge.lists([lab.root, dial.root], [dial.root])
    assert named(judge(data, both)) is H.SIGNER_REJECTED
    own = forge.lists([lab.root, dial.root], [dial.root], Profile.SPECIFICATION)
    assert named(judge(data, own)) is H.SIGNER_REJECTED


def test_an_anchor_for_time_recognises_no_signer(judge: Judge, draft: Any, lab: Any, dial: Any) -> None:
    other = forge.house(NOW - 40 * DAY, "Other")
    crossed = forge.lists([other.root], [dial.root, lab.root])
    found = judge(draft.write(), crossed)
    assert (named(found), found.signer) == (H.INTACT_SIGNER_UNKNOWN, Signer.NOT_RECOGNISED)


def test_an_anchor_for_signers_proves_no_time(judge: Judge, draft: Any, lab: Any, dial: Any) -> None:
    crossed = forge.lists([lab.root, dial.root], [lab.root])
    found = judge(draft.write(), crossed)
    assert found.time.not_after is None
    assert Code.TIME_PROVEN in failed(found)


def test_a_signature_by_another_key_is_broken(judge: Judge, draft: Any) -> None:
    who = dataclasses.replace(draft.who, key=keys.generate_p256())
    found = judge(dataclasses.replace(draft, who=who).write())
    assert (named(found), found.signature) == (H.CHANGED_AFTER_SIGNING, Signature.BROKEN)
    assert found.time.not_after is None
    assert Code.SIGNATURE_VALID in failed(found)


# --- 15 to 18: time


def test_a_back_dating_stranger_proves_no_time_and_is_not_shown(judge: Judge, draft: Any) -> None:
    evil = forge.clock(NOW - 3000 * DAY, "Evil")
    data = dataclasses.replace(draft, stamps=[lambda message: evil.token(NOW - 200 * DAY, message)]).write()
    found = judge(data)
    assert named(found) is H.INTACT_SIGNER_RECOGNISED
    assert (found.time.not_before, found.time.not_after, found.time.source) == (None, None, None)
    assert Code.TIME_PROVEN in failed(found)
    assert found.claims.claimed_at is None


@pytest.mark.parametrize(("version", "name"), [(1, "sigTst"), (1, "sigTst2"), (2, "sigTst2"), (2, "sigTst")])
def test_an_expired_key_and_an_own_clock_are_never_recognised(
    judge: Judge, draft: Any, lab: Any, version: int, name: str
) -> None:
    evil = forge.clock(NOW - 3000 * DAY, "Evil")
    attack = dataclasses.replace(
        draft,
        who=leaf(lab, not_before=NOW - 30 * DAY, not_after=NOW - 2 * DAY),
        version=version,
        stamp_name=name,
        stamps=[lambda message: evil.token(NOW - 20 * DAY, message)],
    )
    found = judge(attack.write())
    assert named(found) in (H.SIGNER_EXPIRED_TIME_UNPROVEN, H.CHANGED_AFTER_SIGNING)
    assert found.signer is Signer.EXPIRED_TIME_UNPROVEN
    assert found.time.not_after is None


def test_the_older_token_dates_the_claim_alone_and_revives_no_expired_key(
    judge: Judge, draft: Any, lab: Any, dial: Any
) -> None:
    """A claim can be stamped while the key lives and signed after it expired."""
    attack = dataclasses.replace(
        draft,
        who=leaf(lab, not_before=NOW - 30 * DAY, not_after=NOW - 2 * DAY),
        version=1,
        stamp_name="sigTst",
        stamps=[lambda message: dial.token(NOW - 9 * DAY, message)],
    )
    assert judge(attack.write()).signer is Signer.EXPIRED_TIME_UNPROVEN


def test_a_version_one_claim_by_a_living_key_is_recognised(judge: Judge, draft: Any) -> None:
    assert named(judge(dataclasses.replace(draft, version=1).write())) is H.INTACT_SIGNER_RECOGNISED


@pytest.mark.parametrize("flaw", ["garbage", "other digest", "future", "twice", "two clocks", "empty"])
def test_a_broken_token_proves_no_time(judge: Judge, draft: Any, dial: Any, flaw: str) -> None:
    sound = draft.stamps[0]
    evil = forge.clock(NOW - 40 * DAY, "Evil")
    stamps = {
        "garbage": [lambda _: b"\x30\x03\x02\x01\x00"],
        "other digest": [lambda message: sound(message + b"x")],
        "future": [lambda message: dial.token(NOW + 9 * DAY, message)],
        "twice": [sound, sound],
        "two clocks": [sound, lambda message: evil.token(NOW, message)],
        "empty": [lambda _: b""],
    }[flaw]
    found = judge(dataclasses.replace(draft, stamps=stamps, reserve=10_000).write())
    assert found.time.not_after is None
    assert Code.TIME_PROVEN in failed(found)
    assert named(found) in (H.INTACT_SIGNER_RECOGNISED, H.CHANGED_AFTER_SIGNING)


def test_a_token_by_a_certificate_for_signers_proves_no_time(judge: Judge, draft: Any, dial: Any) -> None:
    """The authority refuses to be made of such a certificate, so the token's own is exchanged."""
    wrong = forge.remade(dial.unit.chain[0], dial.root_key, put=[(x509.ExtendedKeyUsage([DOCUMENTS]), False)])
    right_der = dial.unit.chain[0].public_bytes(forge.Encoding.DER)
    wrong_der = wrong.public_bytes(forge.Encoding.DER)

    def stamp(message: bytes) -> bytes:
        return draft.stamps[0](message).replace(right_der, wrong_der)

    found = judge(dataclasses.replace(draft, stamps=[stamp]).write())
    assert found.time.not_after is None


# --- 21 and 22: what the hash leaves out


def test_a_second_excluded_range_is_seen_before_and_after_the_edit(judge: Judge, draft: Any) -> None:
    data = dataclasses.replace(draft, exclude=[(300, 60)]).write()
    edited = forge.flipped(data, forge.record_range(data)[1] + 330, 0xFF)
    for file in (data, edited):
        found = judge(file)
        assert (named(found), found.content) == (H.SIGNED_PARTLY_COVERED, Content.PARTLY_COVERED)
        assert Code.CONTENT_COVERED in failed(found)
        assert Code.CONTENT_MATCHES not in failed(found)
    outside = forge.flipped(data, forge.record_range(data)[1] + 200)
    assert named(judge(outside)) is H.CHANGED_AFTER_SIGNING


@pytest.mark.parametrize("size", [1, 3, 60, 1500])
def test_one_range_that_reaches_past_the_record_is_seen(judge: Judge, draft: Any, size: int) -> None:
    data = dataclasses.replace(draft, enlarge=size).write()
    edited = forge.flipped(data, forge.record_range(data)[1])
    for file in (data, edited):
        assert judge(file).content is Content.PARTLY_COVERED
        assert named(judge(file)) is H.SIGNED_PARTLY_COVERED


def test_ranges_that_touch_the_record_are_one_range(judge: Judge, draft: Any) -> None:
    assert named(judge(dataclasses.replace(draft, exclude=[(0, 2)]).write())) is H.SIGNED_PARTLY_COVERED


def test_the_sdk_s_own_door_for_foreign_hashes_does_not_hide_pixels(judge: Judge, lab: Any) -> None:
    """The native functions let a signer name what is left out; they are not wrapped, so ctypes calls them."""
    picture = forge.picture()
    for extra in ((len(picture) // 2, 400), (0, 400)):
        data, size = embedded_by_hand(picture, lab.camera, extra)
        assert named(judge(data)) is H.SIGNED_PARTLY_COVERED
        at = 2 + size + extra[0] + 100
        assert named(judge(forge.flipped(data, at, 0x55))) is H.SIGNED_PARTLY_COVERED
    data, _ = embedded_by_hand(picture, lab.camera, None)
    assert named(judge(data)) is H.INTACT_SIGNER_RECOGNISED


def embedded_by_hand(media: bytes, who: Any, extra: tuple[int, int] | None) -> tuple[bytes, int]:
    native = c2pa.c2pa
    library: Any = native._lib
    for name in ("c2pa_builder_placeholder", "c2pa_builder_sign_embeddable"):
        getattr(library, name).argtypes = [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p]
        getattr(library, name).restype = ctypes.c_int64
    library.c2pa_builder_set_data_hash_exclusions.argtypes = [
        ctypes.c_void_p,
        ctypes.POINTER(ctypes.c_uint64),
        ctypes.c_size_t,
    ]
    library.c2pa_builder_update_hash_from_stream.argtypes = [
        ctypes.c_void_p,
        ctypes.c_char_p,
        ctypes.c_void_p,
    ]

    def taken(size: int, pointer: Any) -> bytes:
        content = ctypes.string_at(pointer, size)
        library.c2pa_free(pointer)
        return content

    mime = forge.JPEG.encode()
    claim = {"claim_generator_info": [{"name": "lab", "version": "1"}], "assertions": [forge.actions()]}
    signer = c2pa.Signer.from_callback(who.sign, c2pa.C2paSigningAlg.ES256, who.pem)
    with (
        c2pa.Context.from_dict(forge._WRITING, signer=signer) as context,
        c2pa.Builder(json.dumps(claim), context) as builder,
    ):
        handle, pointer = ctypes.cast(builder._handle, ctypes.c_void_p), ctypes.c_void_p()
        size = library.c2pa_builder_placeholder(handle, mime, ctypes.byref(pointer))
        assert size > 0
        out = bytearray(media[:2] + taken(size, pointer) + media[2:])
        ranges = [2, size] if extra is None else [2, size, 2 + size + extra[0], extra[1]]
        if extra and extra[0] == 0:
            ranges = [2, size + extra[1]]
        numbers = (ctypes.c_uint64 * len(ranges))(*ranges)
        assert library.c2pa_builder_set_data_hash_exclusions(handle, numbers, len(ranges) // 2) == 0
        with native.Stream(io.BytesIO(bytes(out))) as stream:
            there = ctypes.cast(stream._stream, ctypes.c_void_p)
            assert library.c2pa_builder_update_hash_from_stream(handle, mime, there) == 0
        signed = ctypes.c_void_p()
        assert library.c2pa_builder_sign_embeddable(handle, mime, ctypes.byref(signed)) == size
        out[2 : 2 + size] = taken(size, signed)
    return bytes(out), size


def test_skipped_boxes_are_counted_where_others_left_them_out(judge: Judge, lab: Any) -> None:
    open_ = {"builder": {"bmff_hash_exclude_free_and_skip_boxes": True}}
    film = forge.sdk_signed(forge.film(), lab.camera, forge.MP4, settings=open_)
    for kind in (b"free", b"skip"):
        found = judge(film + forge.atom(kind, b"evil" * 50))
        assert named(found) is H.INTACT_SIGNER_RECOGNISED
        assert any(
            "208 bytes in boxes that every player skips" in item.explanation for item in found.findings
        )


@pytest.mark.parametrize("kind", [b"free", b"skip", b"mdat", b"moov"])
def test_a_box_added_to_a_film_of_ours_is_a_change(judge: Judge, lab: Any, kind: bytes) -> None:
    film = forge.sdk_signed(forge.film(), lab.camera, forge.MP4)
    found = judge(film + forge.atom(kind, b"evil" * 50))
    assert named(found) in (H.CHANGED_AFTER_SIGNING, H.CREDENTIALS_UNREADABLE)
    assert (found.content is Content.CHANGED) is (kind != b"moov")


def test_a_second_box_that_passes_for_a_record_is_seen(judge: Judge, lab: Any) -> None:
    film = forge.sdk_signed(forge.film(), lab.camera, forge.MP4)
    mark = bytes.fromhex("d8fec3d61b0e483c92975828877ec481")
    for body in (b"evil" * 50, bytes(4) + b"evil\0" + bytes(8) + b"evil" * 50):
        assert named(judge(film + forge.atom(b"uuid", mark, body))) in (
            H.SIGNED_PARTLY_COVERED,
            H.CREDENTIALS_UNREADABLE,
            H.CHANGED_AFTER_SIGNING,
        )


# --- compressed records, which bind boxes


def test_bytes_after_the_end_are_seen_where_only_boxes_are_bound(judge: Judge, lab: Any) -> None:
    small = {"core": {"prefer_compress_manifests": True}}
    for mime, kind in ((forge.JPEG, "JPEG"), (forge.PNG, "PNG")):
        data = forge.sdk_signed(forge.picture(kind), lab.camera, mime, settings=small)
        assert named(judge(data)) is H.INTACT_SIGNER_RECOGNISED
        found = judge(data + b"hidden")
        assert named(found) in (H.SIGNED_PARTLY_COVERED, H.CHANGED_AFTER_SIGNING)
        assert named(judge(forge.flipped(data, len(data) - 40))) is H.CHANGED_AFTER_SIGNING


def test_a_compressed_record_of_ours_is_read(judge: Judge, draft: Any) -> None:
    data = dataclasses.replace(draft, compress=brotli.compress).write()
    assert named(judge(data)) is H.INTACT_SIGNER_RECOGNISED


# --- The structure of the record


def test_two_bindings_bind_nothing(judge: Judge, draft: Any) -> None:
    second = forge.cbor_assertion("c2pa.hash.data__1", forge.ANY_BINDING)
    for changed in (
        dataclasses.replace(draft, assertions=[second]),
        dataclasses.replace(draft, undeclared=[second]),
    ):
        assert named(judge(changed.write())) in (H.CHANGED_AFTER_SIGNING, H.CREDENTIALS_UNREADABLE)


def test_no_binding_binds_nothing(judge: Judge, draft: Any) -> None:
    found = judge(dataclasses.replace(draft, binding_label=None).write())
    assert named(found) in (H.CHANGED_AFTER_SIGNING, H.CREDENTIALS_UNREADABLE)


def test_a_binding_of_an_unknown_kind_binds_nothing(judge: Judge, draft: Any) -> None:
    found = judge(dataclasses.replace(draft, binding_label="c2pa.hash.future").write())
    assert named(found) in (H.CHANGED_AFTER_SIGNING, H.CREDENTIALS_UNREADABLE)


def test_an_assertion_nobody_declared_breaks_the_record(judge: Judge, draft: Any) -> None:
    extra = forge.cbor_assertion("org.example.note", {"x": 1})
    found = judge(dataclasses.replace(draft, undeclared=[extra]).write())
    assert named(found) in (H.CHANGED_AFTER_SIGNING, H.CREDENTIALS_UNREADABLE)


def test_a_changed_assertion_breaks_the_record(judge: Judge, good: bytes) -> None:
    found = judge(good.replace(b"digitalCapture", b"digitalXapture"))
    assert named(found) is H.CHANGED_AFTER_SIGNING
    assert Code.ASSERTIONS_MATCH in failed(found)


@pytest.mark.parametrize(
    "claim",
    [
        {"created_assertions": []},
        {"created_assertions": [{"url": "self#jumbf=c2pa.assertions/none", "hash": bytes(32)}]},
        {"signature": "self#jumbf=/c2pa/urn:c2pa:other/c2pa.signature"},
        {"alg": "sha1"},
    ],
    ids=["none declared", "missing", "signature elsewhere", "weak hash"],
)
def test_a_claim_that_does_not_hold_together_is_never_intact(
    judge: Judge, draft: Any, claim: dict[str, Any]
) -> None:
    found = judge(dataclasses.replace(draft, claim=claim).write())
    assert named(found) in (H.CHANGED_AFTER_SIGNING, H.CREDENTIALS_UNREADABLE)


def test_a_manifest_nothing_leads_to_is_noted_and_not_judged(judge: Judge, draft: Any) -> None:
    other = dataclasses.replace(
        draft, label="urn:c2pa:stray", who=dataclasses.replace(draft.who, key=keys.generate_p256())
    )
    stray = forge.manifest_boxes(forge.stored(other.write()))
    found = judge(dataclasses.replace(draft, before=stray).write())
    assert named(found) is H.INTACT_SIGNER_RECOGNISED
    assert Code.HISTORY_CONNECTED in failed(found)
    assert found.history is History.NONE


def test_two_records_of_one_picture_differ_in_claim_and_agree_in_binding(judge: Judge, draft: Any) -> None:
    title = {"dc:title": "another"}
    one, two = judge(draft.write()), judge(dataclasses.replace(draft, claim=title).write())
    assert named(one) is named(two) is H.INTACT_SIGNER_RECOGNISED
    assert one.identity is not None
    assert two.identity is not None
    assert one.identity.claim != two.identity.claim
    assert one.identity.signature != two.identity.signature
    assert one.identity.binding == two.identity.binding


def test_the_identity_is_what_its_definition_says(judge: Judge, good: bytes) -> None:
    (manifest,) = jumbf.parse(forge.stored(good))
    signature = cose.parse(manifest.signature, manifest.claim).signature
    start, end = forge.record_range(good)
    found = judge(good).identity
    assert found is not None
    assert found.claim == hashlib.sha256(manifest.claim).digest()
    assert found.signature == hashlib.sha256(signature).digest()
    assert found.binding == hashlib.sha256(good[:start] + good[end:]).digest()


# --- 23 to 26: what the signer says


def test_what_the_signer_says_stays_what_the_signer_says(judge: Judge, lab: Any) -> None:
    lie = {"assertions": [forge.actions(when="1999-01-01T00:00:00Z")]}
    found = judge(forge.sdk_signed(forge.picture(), lab.camera, claim=lie))
    assert named(found) is H.INTACT_SIGNER_RECOGNISED
    assert found.claims.claimed_at == "1999-01-01T00:00:00Z"
    assert found.claims.source_types == ("digitalCapture",)
    assert found.claims.actions == ("c2pa.created",)
    assert (found.time.not_before, found.time.not_after) == (None, None)
    assert all("1999" not in item.explanation for item in found.findings)


def test_hostile_text_is_made_plain(judge: Judge, lab: Any) -> None:
    hostile = "<b>\u202egpj.exe\x00\x1b[2J\u2066\n" + "A" * 10_000
    claim = {"title": hostile, "claim_generator_info": [{"name": hostile, "version": hostile}]}
    found = judge(forge.sdk_signed(forge.picture(), lab.camera, claim=claim))
    assert named(found) is H.INTACT_SIGNER_RECOGNISED
    for text in (found.claims.title, found.claims.generator):
        assert text is not None
        assert len(text) <= 200
        assert text.isprintable()
        assert "\u202e" not in text


def test_an_unknown_watermark_is_no_evidence(judge: Judge, lab: Any) -> None:
    mark = {
        "label": "c2pa.soft-binding",
        "data": {"alg": "com.example.unknown", "blocks": [{"scope": {}, "value": "00"}]},
    }
    found = judge(
        forge.sdk_signed(forge.picture(), lab.camera, claim={"assertions": [forge.actions(), mark]})
    )
    assert named(found) is H.INTACT_SIGNER_RECOGNISED


# --- 27 to 34: history


def test_an_edit_of_a_sound_file_has_a_complete_history(judge: Judge, good: bytes, lab: Any) -> None:
    found = judge(forge.sdk_signed(forge.picture(seed=2), lab.camera, parent=good))
    assert (named(found), found.history) == (H.INTACT_SIGNER_RECOGNISED, History.COMPLETE)
    (step,) = found.steps
    assert (step.recognised, step.problems) == (True, ())


def test_an_edit_of_an_unsigned_file_starts_without_credentials(judge: Judge, lab: Any) -> None:
    found = judge(forge.sdk_signed(forge.picture(seed=2), lab.camera, parent=forge.picture()))
    assert (named(found), found.history) == (H.INTACT_SIGNER_RECOGNISED, History.STARTS_WITHOUT)


def test_a_changed_parent_is_a_problem_of_the_honest_editor_s_file(
    judge: Judge, good: bytes, lab: Any
) -> None:
    changed = forge.flipped(good, len(good) - 40)
    found = judge(forge.sdk_signed(forge.picture(seed=2), lab.camera, parent=changed))
    assert (named(found), found.history) == (H.SIGNED_HISTORY_PROBLEM, History.PROBLEM)
    assert found.content is Content.INTACT
    assert Code.HISTORY_INTACT in failed(found)


def test_a_parent_nobody_checked_is_a_problem(judge: Judge, good: bytes, lab: Any) -> None:
    blind = {"verify": {"verify_after_reading": False}}
    for parent in (good, forge.flipped(good, len(good) - 40)):
        found = judge(forge.sdk_signed(forge.picture(seed=2), lab.camera, parent=parent, settings=blind))
        assert named(found) is H.SIGNED_HISTORY_PROBLEM
        assert "content-never-checked" in found.steps[0].problems


def test_a_parent_by_a_stranger_is_a_problem(judge: Judge, draft: Any, lab: Any) -> None:
    stranger = forge.house(NOW - 40 * DAY)
    parent = dataclasses.replace(draft, who=stranger.camera).write()
    found = judge(forge.sdk_signed(forge.picture(seed=2), lab.camera, parent=parent))
    assert named(found) is H.SIGNED_HISTORY_PROBLEM
    assert found.steps[0].problems == ("signer-not-recognised",)


def test_a_sound_parent_lends_nothing_to_a_stranger(judge: Judge, good: bytes) -> None:
    stranger = forge.house(NOW - 40 * DAY)
    found = judge(forge.sdk_signed(forge.picture(seed=2), stranger.camera, parent=good))
    assert (named(found), found.signer) == (H.INTACT_SIGNER_UNKNOWN, Signer.NOT_RECOGNISED)


def test_a_change_in_the_third_generation_is_found(judge: Judge, lab: Any, good: bytes) -> None:
    second = forge.sdk_signed(forge.picture(seed=2), lab.camera, parent=good)
    third = forge.sdk_signed(forge.picture(seed=3), lab.camera, parent=second)
    assert judge(third).history is History.COMPLETE
    assert third.count(b"digitalCapture") == 1
    found = judge(third.replace(b"digitalCapture", b"digitalXapture"))
    assert named(found) in (H.SIGNED_HISTORY_PROBLEM, H.CHANGED_AFTER_SIGNING)
    assert found.history is History.PROBLEM
    assert "assertion-differs" in found.steps[0].steps[0].problems


def test_a_broken_signature_in_the_history_is_found(judge: Judge, draft: Any, lab: Any) -> None:
    forged = dataclasses.replace(draft, who=dataclasses.replace(draft.who, key=keys.generate_p256()))
    found = judge(forge.sdk_signed(forge.picture(seed=2), lab.camera, parent=forged.write()))
    assert named(found) is H.SIGNED_HISTORY_PROBLEM
    assert "signature-broken" in found.steps[0].problems


def test_an_update_rests_on_the_binding_of_its_parent(judge: Judge, good: bytes, lab: Any) -> None:
    data = forge.sdk_signed(good, lab.camera, parent=good, intent="update")
    found = judge(data)
    assert (named(found), found.content) == (H.INTACT_SIGNER_RECOGNISED, Content.INTACT)
    before = judge(good).identity
    assert found.identity is not None
    assert before is not None
    assert found.identity.binding == before.binding
    assert found.identity.claim != before.claim
    assert named(judge(forge.flipped(data, len(data) - 40))) is H.CHANGED_AFTER_SIGNING


def test_an_update_covers_no_more_than_its_parent_did(judge: Judge, draft: Any, lab: Any) -> None:
    open_ = dataclasses.replace(draft, exclude=[(300, 60)]).write()
    data = forge.sdk_signed(open_, lab.camera, parent=open_, intent="update")
    assert named(judge(data)) in (H.SIGNED_PARTLY_COVERED, H.CHANGED_AFTER_SIGNING)


def test_an_update_over_changed_media_is_a_change(judge: Judge, good: bytes, lab: Any) -> None:
    changed = forge.flipped(good, len(good) - 40)
    data = forge.sdk_signed(changed, lab.camera, parent=changed, intent="update")
    assert named(judge(data)) is H.CHANGED_AFTER_SIGNING


# --- 36: resources


def test_a_deep_record_is_refused_in_time(judge: Judge, draft: Any) -> None:
    nested = b"\x81" * 5000 + b"\x01"
    box = ("org.example.deep", forge.superbox(b"cbor", "org.example.deep", forge.jumbf_box(b"cbor", nested)))
    deep: Any = 1
    for _ in range(300):
        deep = [deep]
    text = forge.jumbf_box(b"json", json.dumps(deep).encode())
    other = ("org.example.json", forge.superbox(b"json", "org.example.json", text))
    number = forge.jumbf_box(b"json", b'{"x":' + b"9" * 6000 + b"}")
    third = ("org.example.number", forge.superbox(b"json", "org.example.number", number))
    for assertion in (box, other, third):
        found = judge(dataclasses.replace(draft, assertions=[assertion]).write())
        assert found.credentials in (Credentials.PRESENT, Credentials.UNREADABLE)


def test_a_bomb_is_refused(judge: Judge, draft: Any) -> None:
    bomb = brotli.compress(bytes(100 << 20))
    data = dataclasses.replace(draft, compress=lambda _: bomb).write()
    assert named(judge(data)) is H.CREDENTIALS_UNREADABLE


# --- Credentials elsewhere


def test_an_address_in_the_file_is_reported_and_never_called(judge: Judge) -> None:
    calls: list[object] = []
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.3)

        def listen() -> None:
            try:
                while True:
                    calls.append(server.accept())
            except TimeoutError:
                return

        url = f"http://127.0.0.1:{server.getsockname()[1]}/manifest.c2pa"
        xmp = (
            b"http://ns.adobe.com/xap/1.0/\0"
            b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
            b'<rdf:Description rdf:about="" xmlns:dcterms="http://purl.org/dc/terms/" dcterms:provenance="'
            + url.encode()
            + b'"/></rdf:RDF></x:xmpmeta>'
        )
        jpeg = forge.picture()
        thread = threading.Thread(target=listen)
        thread.start()
        found = judge(jpeg[:20] + b"\xff\xe1" + struct.pack(">H", 2 + len(xmp)) + xmp + jpeg[20:])
        thread.join()
    assert named(found) is H.CREDENTIALS_ELSEWHERE
    assert calls == []
    assert all(url not in item.explanation for item in found.findings)


# --- Completeness


def test_every_code_fails_and_holds_somewhere(judge: Judge, draft: Any, good: bytes, lab: Any) -> None:
    """`MEDIA_WHOLE` and `LEDGER_INCLUDED` are found in `tools`, and nobody is asked about revocation yet."""
    stranger = dataclasses.replace(draft.who, key=keys.generate_p256())
    files = [
        good,
        forge.stripped(good),
        good[:900],
        good.replace(b"digitalCapture", b"digitalXapture"),
        forge.flipped(good, len(good) - 40),
        dataclasses.replace(draft, exclude=[(300, 60)]).write(),
        dataclasses.replace(draft, who=stranger).write(),
        forge.flipped(good, good.index(bytes(1000)) + 500),
        dataclasses.replace(draft, stamps=[]).write(),
        dataclasses.replace(draft, who=forge.house(NOW - DAY).camera).write(),
        dataclasses.replace(draft, who=leaf(lab, drop=[ExtensionOID.EXTENDED_KEY_USAGE])).write(),
        dataclasses.replace(draft, who=leaf(lab, not_after=NOW - DAY), stamps=[]).write(),
        forge.sdk_signed(forge.picture(seed=2), lab.camera, parent=forge.flipped(good, len(good) - 40)),
        dataclasses.replace(
            draft, label="urn:c2pa:b", before=forge.manifest_boxes(forge.stored(good))
        ).write(),
    ]
    seen = {(item.code, item.passed) for data in files for item in judge(data).findings}
    elsewhere = {
        Code.MEDIA_WHOLE,
        Code.LEDGER_INCLUDED,
        Code.TIME_NOT_BEFORE,
        Code.CAPTURE_CHAIN,
        Code.CUSTODY_STANDS,
        Code.POLICY_MET,
        Code.IDENTITY_RECOGNISED,
        Code.CLAIMS_CONSISTENT,
        Code.LISTS_CURRENT,
    }
    assert {code for code, passed in seen if not passed} == set(Code) - elsewhere
    assert {code for code, passed in seen if passed} == set(Code) - elsewhere - {Code.REVOCATION_CHECKED}


def test_an_empty_list_recognises_nobody(judge: Judge, good: bytes) -> None:
    stranger = forge.house(NOW - 40 * DAY)
    found = judge(good, forge.lists([stranger.root]))
    assert (found.signer, found.time.not_after) == (Signer.NOT_RECOGNISED, None)
