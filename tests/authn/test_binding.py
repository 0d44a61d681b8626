"""What the hash leaves out must be the record itself, byte for byte."""

import base64
import io
import struct
from binascii import crc32
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path

import cbor2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from authn import jumbf
from authn.binding import binding_hash, bound_manifest, check_binding
from authn.evidence import Code, Content, Credentials, History
from authn.jumbf import Assertion, ManifestBoxes
from authn.manifest import Reading, Sdk, Status, UnverifiedIngredient, UnverifiedManifest
from authn.media import Kind, Media
from authn.profile import Profile
from authn.signer import Lists
from authn.trust import Purpose, TrustList
from authn.verify import verify_media
from tools.verdict import Headline, Ledger, headline

VECTORS = Path(__file__).parent / "vectors"
STORE = struct.pack(">I4s", 400, b"jumb") + bytes(range(196)) * 2


@pytest.fixture(scope="module")
def sdk() -> Iterator[Sdk]:
    with Sdk() as opened:
        yield opened


@pytest.mark.parametrize(
    ("name", "expected", "content", "history"),
    [
        ("sound.jpg", Headline.INTACT_SIGNER_RECOGNISED, Content.INTACT, History.NONE),
        ("two_tokens.jpg", Headline.INTACT_SIGNER_RECOGNISED, Content.INTACT, History.NONE),
        ("updated.jpg", Headline.INTACT_SIGNER_RECOGNISED, Content.INTACT, History.COMPLETE),
        ("film.mp4", Headline.INTACT_SIGNER_RECOGNISED, Content.INTACT, History.NONE),
        ("film_by_others.mp4", Headline.INTACT_SIGNER_RECOGNISED, Content.INTACT, History.NONE),
        ("stray_manifest.jpg", Headline.INTACT_SIGNER_RECOGNISED, Content.INTACT, History.NONE),
        ("excludes_pixels.jpg", Headline.SIGNED_PARTLY_COVERED, Content.PARTLY_COVERED, History.NONE),
        ("edit_of_changed.jpg", Headline.SIGNED_HISTORY_PROBLEM, Content.INTACT, History.PROBLEM),
        ("pixel_changed.jpg", Headline.CHANGED_AFTER_SIGNING, Content.CHANGED, History.NONE),
        ("two_bindings.jpg", Headline.CHANGED_AFTER_SIGNING, Content.CHANGED, History.NONE),
    ],
)
def test_the_stored_files_are_judged_as_their_names_say(
    sdk: Sdk, name: str, expected: Headline, content: Content, history: History
) -> None:
    signers = TrustList.parse((VECTORS / "signers.pem").read_bytes(), "lab", Purpose.SIGNING, Profile.POLICY)
    clocks = TrustList.parse(
        (VECTORS / "clocks.pem").read_bytes(), "clocks", Purpose.TIME_STAMPING, Profile.TIME_STAMPING
    )
    at = datetime.fromisoformat((VECTORS / "signed_at.txt").read_text().strip()) + timedelta(days=1)
    media = Media.of(io.BytesIO((VECTORS / name).read_bytes()), name, 1 << 20)
    found = verify_media(media, sdk, Lists((signers,), (clocks,)), at)
    assert (headline(found, Ledger.NOT_CHECKED), found.content, found.history) == (
        expected,
        content,
        history,
    )


# --- Every way a record is framed, with synthetic media


def manifest(label: str, *bindings: Assertion) -> ManifestBoxes:
    return ManifestBoxes(label, b"", "c2pa.claim.v2", b"", bindings)


def assertion(label: str, body: object, kind: bytes = b"cbor") -> Assertion:
    return Assertion(label, kind, cbor2.dumps(body), b"")


def data_hash(*ranges: tuple[object, object]) -> Assertion:
    stated = [{"start": start, "length": length} for start, length in ranges]
    return assertion("c2pa.hash.data", {"exclusions": stated, "hash": b"h" * 32})


def reading(code: str = "assertion.dataHash.match", label: str = "m", store: bytes = STORE) -> Reading:
    url = f"self#jumbf=/c2pa/{label}/c2pa.assertions/x"
    return Reading(Credentials.PRESENT, "", "m", store, passes=(Status(code, url),))


def media(data: bytes, kind: Kind) -> Media:
    return Media(io.BytesIO(data), len(data), kind, "file")


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", crc32(kind + content))


def segment(number: int, payload: bytes) -> bytes:
    return b"\xff\xeb" + struct.pack(">H2sHI", 10 + len(payload), b"JP", 1, number) + payload


def blocks(data: bytes) -> bytes:
    pieces = [data[at : at + 255] for at in range(0, len(data), 255)]
    return b"\x21\xff\x0bC2PA_GIF\x01\x00\x00" + b"".join(bytes([len(x)]) + x for x in pieces) + b"\0"


FRAMES = {
    Kind.JPEG: segment(1, STORE[:200]) + segment(2, STORE[:8] + STORE[200:]),
    Kind.PNG: chunk(b"caBX", STORE),
    Kind.WAV: b"C2PA" + struct.pack("<I", len(STORE)) + STORE,
    Kind.WEBP: b"C2PA" + struct.pack("<I", len(STORE)) + STORE,
    Kind.GIF: blocks(STORE),
    Kind.SVG: base64.b64encode(STORE),
    Kind.MP3: STORE,
    Kind.PDF: STORE,
}


@pytest.mark.parametrize("kind", FRAMES)
def test_the_record_s_own_place_is_no_gap_and_one_byte_more_is(kind: Kind) -> None:
    frame = FRAMES[kind]
    data = b"before" + frame + b"after!"
    for start, length, content in (
        (6, len(frame), Content.INTACT),
        (6, len(frame) + 1, Content.PARTLY_COVERED),
        (6, len(frame) - 1, Content.INTACT),
        (5, len(frame) + 1, Content.PARTLY_COVERED),
        (7, len(frame) - 1, Content.PARTLY_COVERED),
        (0, len(data), Content.PARTLY_COVERED),
        (len(data) + 5, 4, Content.PARTLY_COVERED),
        (-1, len(frame), Content.PARTLY_COVERED),
        (6, "all", Content.PARTLY_COVERED),
        (1 << 70, 1 << 70, Content.PARTLY_COVERED),
    ):
        found, findings = check_binding(
            media(data, kind), reading(), manifest("m", data_hash((start, length)))
        )
        assert found is content, (start, length)
        covered = next(item for item in findings if item.code is Code.CONTENT_COVERED)
        assert covered.passed is (content is Content.INTACT)


@pytest.mark.parametrize("kind", FRAMES)
@given(data=st.data())
def test_a_changed_byte_of_the_frame_is_no_record(kind: Kind, data: st.DataObject) -> None:
    frame = bytearray(FRAMES[kind])
    position = data.draw(st.integers(0, len(frame) - 1))
    frame[position] ^= data.draw(st.integers(1, 255))
    found, _ = check_binding(media(bytes(frame), kind), reading(), manifest("m", data_hash((0, len(frame)))))
    instance = kind is Kind.JPEG and position % 212 in (6, 7)
    assert found is Content.PARTLY_COVERED or instance


def test_several_ranges_are_each_explained_and_touching_ones_are_one() -> None:
    frame = FRAMES[Kind.PNG]
    data = b"before" + frame + b"after!"
    size = len(frame)
    for ranges, content in (
        (((6, 8), (14, size - 8)), Content.INTACT),
        (((6, size), (6, size)), Content.INTACT),
        (((6, size), (6, 0)), Content.INTACT),
        (((6, size), (6 + size, 1)), Content.PARTLY_COVERED),
        (((6, size), (0, 1)), Content.PARTLY_COVERED),
    ):
        bound = manifest("m", data_hash(*ranges))
        assert check_binding(media(data, Kind.PNG), reading(), bound)[0] is content, ranges


def test_a_tiff_may_leave_out_the_record_s_length_and_nothing_else() -> None:
    data = b"II" + struct.pack("<I", len(STORE)) + b"next" + STORE + b"rest"
    for first, content in ((2, Content.INTACT), (0, Content.PARTLY_COVERED)):
        bound = manifest("m", data_hash((first, 4), (10, len(STORE))))
        assert check_binding(media(data, Kind.TIFF), reading(), bound)[0] is content


def test_the_byte_that_makes_a_riff_chunk_even_must_be_empty() -> None:
    odd = STORE[:-1]
    for filler, content in ((b"\0", Content.INTACT), (b"x", Content.PARTLY_COVERED)):
        frame = b"C2PA" + struct.pack("<I", len(odd)) + odd + filler
        for length in (len(frame), len(frame) - 1):
            bound = manifest("m", data_hash((0, length)))
            found, _ = check_binding(media(frame, Kind.AVI), reading(store=odd), bound)
            assert found is content


def test_reserved_space_after_the_record_must_be_empty() -> None:
    for filler, content in ((bytes(20), Content.INTACT), (b"x" * 20, Content.PARTLY_COVERED)):
        frame = segment(1, STORE + filler)
        bound = manifest("m", data_hash((0, len(frame))))
        assert check_binding(media(frame, Kind.JPEG), reading(), bound)[0] is content


C2PA = bytes.fromhex("d8fec3d61b0e483c92975828877ec481")


@pytest.mark.parametrize(
    ("exclusion", "content"),
    [
        ({"xpath": "/uuid", "data": [{"offset": 8, "value": C2PA}]}, Content.INTACT),
        ({"xpath": "/ftyp"}, Content.INTACT),
        ({"xpath": "/free"}, Content.INTACT),
        ({"xpath": "/uuid"}, Content.PARTLY_COVERED),
        ({"xpath": "/uuid", "data": [{"offset": 8, "value": bytes(16)}]}, Content.PARTLY_COVERED),
        ({"xpath": "/uuid", "data": [{"offset": 0, "value": C2PA}]}, Content.PARTLY_COVERED),
        ({"xpath": "/mdat"}, Content.PARTLY_COVERED),
        ({"xpath": "/moov/trak"}, Content.PARTLY_COVERED),
        ({}, Content.PARTLY_COVERED),
    ],
)
def test_only_the_record_and_what_the_format_demands_may_be_left_out_of_a_film(
    exclusion: dict[str, object], content: Content
) -> None:
    bound = manifest("m", assertion("c2pa.hash.bmff.v3", {"exclusions": [exclusion]}))
    film = (VECTORS / "film.mp4").read_bytes()
    found, _ = check_binding(
        media(film, Kind.MP4), reading("assertion.bmffHash.match", store=store_of(film)), bound
    )
    assert found is content


def store_of(film: bytes) -> bytes:
    """The record of a film, found by its mark; the C2PA box ends with it."""
    start = film.index(C2PA) + 16 + 4 + len(b"manifest\0") + 8
    return film[start : start + int.from_bytes(film[start : start + 4], "big")]


def test_a_film_s_boxes_that_nothing_hashes_hold_nothing_else() -> None:
    """The flaws they would catch: data carried by a second type box, or beside the record in its own box."""
    own = {"xpath": "/uuid", "data": [{"offset": 8, "value": C2PA}]}
    bound = manifest(
        "m", assertion("c2pa.hash.bmff.v3", {"exclusions": [own, {"xpath": "/ftyp"}, {"xpath": "/mfra"}]})
    )
    film = (VECTORS / "film.mp4").read_bytes()
    store = store_of(film)
    at = film.index(C2PA)
    longer = struct.pack(">I", int.from_bytes(film[at - 8 : at - 4], "big") + 9)
    box_end = at - 8 + int.from_bytes(film[at - 8 : at - 4], "big")
    flipped = film.index(store) + store.index(b"c2pa.assertions")
    for bad in (
        film + struct.pack(">I4s", 8 + 900, b"ftyp") + b"isom" * 225,
        film[: at - 8] + longer + film[at - 4 : box_end] + b"beside it" + film[box_end:],
        film[:flipped] + b"C" + film[flipped + 1 :],
        film[: at + 17] + b"\1" + film[at + 18 :],
    ):
        found, findings = check_binding(
            media(bad, Kind.MP4), reading("assertion.bmffHash.match", store=store), bound
        )
        assert found is Content.PARTLY_COVERED, findings
    noted = film + struct.pack(">I4s", 8 + 900, b"mfra") + bytes(900)
    found, findings = check_binding(
        media(noted, Kind.MP4), reading("assertion.bmffHash.match", store=store), bound
    )
    assert found is Content.INTACT
    assert any("908 bytes in boxes that every player skips" in finding.explanation for finding in findings)


@pytest.mark.parametrize(
    ("parts", "content"),
    [
        ([{"names": ["C2PA"], "hash": b"\0"}, {"names": ["IHDR"], "hash": bytes(32)}], Content.INTACT),
        ([{"names": ["IHDR"], "hash": bytes(32)}], Content.PARTLY_COVERED),
        ([{"names": ["C2PA"]}, {"names": ["C2PA"]}], Content.PARTLY_COVERED),
        ([{"names": ["C2PA"]}, {"names": ["IDAT"], "hash": b"\0"}], Content.PARTLY_COVERED),
        (
            [{"names": ["C2PA"]}, {"names": ["IDAT"], "hash": bytes(32), "excluded": True}],
            Content.PARTLY_COVERED,
        ),
        ([{"names": ["C2PA", "IDAT"], "hash": b"\0"}], Content.PARTLY_COVERED),
        ("nothing", Content.PARTLY_COVERED),
    ],
)
def test_every_named_part_but_the_record_must_be_hashed(parts: object, content: Content) -> None:
    bound = manifest("m", assertion("c2pa.hash.boxes", {"boxes": parts}))
    png = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", bytes(13)) + chunk(b"IDAT", b"") + chunk(b"IEND", b"")
    whole = check_binding(media(png, Kind.PNG), reading("assertion.boxesHash.match"), bound)[0]
    longer = check_binding(media(png + b"x", Kind.PNG), reading("assertion.boxesHash.match"), bound)[0]
    assert (whole, longer) == (content, Content.PARTLY_COVERED)


@pytest.mark.parametrize(
    "wrong",
    [
        Assertion("c2pa.hash.data", b"cbor", b"\xff", b""),
        Assertion("c2pa.hash.data", b"json", b"{}", b""),
        assertion("c2pa.hash.data", [1]),
        assertion("c2pa.hash.future", {}),
        assertion("c2pa.hash.collection.data", {}),
    ],
)
def test_a_binding_we_cannot_read_covers_nothing_for_sure(wrong: Assertion) -> None:
    found, _ = check_binding(media(STORE, Kind.MP3), reading(), manifest("m", wrong))
    assert found is Content.PARTLY_COVERED
    assert len(binding_hash(manifest("m", wrong))) == 32


# --- Whose binding


def test_a_match_of_another_manifest_s_binding_binds_nothing() -> None:
    bound = manifest("m", data_hash((0, len(STORE))))
    sound = media(STORE, Kind.MP3)
    assert check_binding(sound, reading(), bound)[0] is Content.INTACT
    for other in ("ingredient", "mm", ""):
        assert check_binding(sound, reading(label=other), bound)[0] is Content.NOT_BOUND
    assert check_binding(sound, reading("assertion.hashedURI.match"), bound)[0] is Content.NOT_BOUND


def test_a_mismatch_beside_a_match_is_never_intact() -> None:
    found = reading()
    refused = Reading(
        found.credentials,
        "",
        "m",
        STORE,
        passes=found.passes,
        failures=(Status("assertion.dataHash.mismatch", found.passes[0].url),),
    )
    bound = manifest("m", data_hash((0, len(STORE))))
    assert check_binding(media(STORE, Kind.MP3), refused, bound)[0] is Content.PARTLY_COVERED


def stated(label: str, *parents: tuple[str | None, str]) -> UnverifiedManifest:
    ingredients = tuple(UnverifiedIngredient("t", how, of, (), ()) for of, how in parents)
    return UnverifiedManifest(label, ingredients)


def test_an_update_rests_on_its_one_parent_and_on_nobody_else() -> None:
    base = manifest("base", data_hash((0, 1)))
    update, second = manifest("u"), manifest("v")
    cases = (
        ((stated("u", ("base", "parentOf")),), base),
        ((stated("u", ("v", "parentOf")), stated("v", ("base", "parentOf"))), base),
        ((stated("u", ("base", "componentOf")),), None),
        ((stated("u", ("base", "parentOf"), ("v", "parentOf")),), None),
        ((stated("u", (None, "parentOf")),), None),
        ((stated("u", ("gone", "parentOf")),), None),
        ((stated("u", ("v", "parentOf")), stated("v", ("u", "parentOf"))), None),
        ((), None),
    )
    for manifests, expected in cases:
        found = Reading(Credentials.PRESENT, "", "u", manifests=manifests)
        assert bound_manifest(found, update, (base, second, update)) is expected


def test_two_bindings_of_one_manifest_are_none() -> None:
    both = manifest("m", data_hash((0, 1)), assertion("c2pa.hash.boxes", {}))
    found = Reading(Credentials.PRESENT, "", "m", manifests=(stated("m"),))
    assert bound_manifest(found, both, (both,)) is None


def test_the_stated_hash_is_the_identity() -> None:
    assert binding_hash(manifest("m", data_hash((0, 1)))) == b"h" * 32
    store = jumbf.parse(sound_store())
    assert len(binding_hash(store[-1])) == 32


def sound_store() -> bytes:
    data = (VECTORS / "sound.jpg").read_bytes()
    start = data.index(b"\xff\xeb") + 12
    return data[start : start + int.from_bytes(data[start : start + 4], "big")]
