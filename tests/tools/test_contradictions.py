"""Contradictions are found between statements and facts, told in plain sentences, and never invented."""

import dataclasses
import math
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from authn.evidence import CertificateFacts, Claims, Window
from detector.metadata import Metadata
from tools.contradictions import Contradiction, contradictions

SIGNED = datetime(2026, 5, 1, 12, tzinfo=UTC)
WINDOW = Window(None, SIGNED, "lab clocks")
CERTIFICATE = CertificateFacts(
    "Lab Camera", "Lab", "Lab Devices", "1", "", "", datetime(2026, 4, 1, tzinfo=UTC), SIGNED
)
CAPTURED = Claims(actions=("c2pa.created",), source_types=("digitalCapture",))
PARIS, ROME = (48.8584, 2.2945), (41.8902, 12.4922)
HONEST = dataclasses.replace(
    CAPTURED,
    claimed_at="2026-05-01T11:59:58Z",
    makes=("Canon",),
    models=("Canon EOS R5",),
    capture_times=("2026-05-01T13:59:58+02:00",),
    coordinates=(PARIS,),
)
OWN = Metadata(
    make="Canon",
    model="Canon EOS R5",
    software="Firmware 1.2",
    taken_at="2026:05:01 13:59:58",
    gps=(48.8590, 2.2950),
    source_type="digitalCapture",
)


def found(
    claims: Claims,
    metadata: Metadata | None = None,
    window: Window = WINDOW,
    certificate: CertificateFacts | None = CERTIFICATE,
) -> tuple[Contradiction, ...]:
    return contradictions(claims, metadata, window, certificate)


def subjects(*arguments: Any) -> list[str]:
    return [one.subject for one in found(*arguments)]


def says(claims: Claims = CAPTURED, **fields: Any) -> Claims:
    return dataclasses.replace(claims, **fields)


def test_an_honest_capture_contradicts_nothing() -> None:
    assert found(HONEST, OWN) == ()
    assert found(HONEST, Metadata()) == ()
    assert found(Claims(), OWN) == ()
    assert found(Claims(), None, Window(), None) == ()


# --- Time


@pytest.mark.parametrize("when", ["1999-01-01T00:00:00Z", "1999-01-01", "1999-01-01T00:00:00"])
def test_a_time_before_the_key_was_certified_is_told(when: str) -> None:
    """Row 24 of the attacks: `when` in 1999."""
    (one,) = found(says(claimed_at=when))
    assert one.sentence == (
        f"The signer says that the first action was at “{when}”; "
        "the signer's key was certified only from 2026-04-01 00:00:00 UTC."
    )
    assert subjects(says(capture_times=(when,))) == ["capture time"]


def test_a_day_before_the_certificate_is_within_tolerance() -> None:
    assert found(says(claimed_at="2026-03-31T00:00:00Z")) == ()
    assert subjects(says(claimed_at="2026-03-30T23:59:59Z")) == ["time"]


def test_an_older_picture_that_was_opened_may_be_older_than_the_key() -> None:
    opened = Claims(actions=("c2pa.opened", "c2pa.edited"), capture_times=("1999-01-01T00:00:00Z",))
    assert found(opened, Metadata(taken_at="1999:01:01 00:00:00")) == ()
    assert found(dataclasses.replace(opened, claimed_at="2026-05-01T00:00:00Z", capture_times=()), OWN) == ()


def test_a_time_after_the_proven_one_is_told() -> None:
    (one,) = found(says(claimed_at="2030-01-01T00:00:00Z"))
    assert one.other == "it is proven that the signature is no later than 2026-05-01 12:00:00 UTC"
    assert found(says(claimed_at="2030-01-01T00:00:00Z"), None, Window()) == ()


@pytest.mark.parametrize(
    ("when", "told"),
    [
        ("2026-05-01T12:05:00Z", False),
        ("2026-05-01T12:05:01Z", True),
        ("2026-05-01T14:05:00+02:00", False),
        ("2026-05-01T12:30:00-01:00", True),
        ("2026-05-02T12:00:00", False),
        ("2026-05-02T12:00:01", True),
        ("2026-05-02", False),
        ("2026-05-03", True),
    ],
)
def test_a_time_without_a_zone_is_given_a_day_and_one_with_a_zone_minutes(when: str, told: bool) -> None:  # noqa: FBT001
    assert bool(found(says(claimed_at=when))) is told


@pytest.mark.parametrize(
    "when",
    [
        "",
        "yesterday",
        "0000-01-01",
        "0000-00-00T00:00:00Z",
        "2026-02-30",
        "2026-01-01T25:00:00Z",
        "\u0662\u0660\u0662\u0666-\u0660\u0661-\u0660\u0661",
        "2026-01-01T00:00:00+99:99",
        "2026",
        "99999-01-01",
        "1999-01-01T00:00:00Z; DROP",
    ],
)
def test_what_is_no_time_contradicts_nothing(when: str) -> None:
    assert found(says(claimed_at=when, capture_times=(when,)), Metadata(taken_at=when)) == ()


def test_the_edges_of_the_calendar_are_times_too() -> None:
    for when in ("0001-01-01T00:00:00Z", "0001-01-01", "9999-12-31T23:59:59Z", "9999-12-31"):
        assert subjects(says(claimed_at=when)) == ["time"]
    for beyond in ("0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-12:00"):
        assert found(says(claimed_at=beyond)) == ()


def test_a_time_that_exif_tells_otherwise_is_told() -> None:
    claims = says(capture_times=("2026-04-20T10:00:00Z",))
    (one,) = found(claims, Metadata(taken_at="2026:04:18 10:00:00"))
    assert one.sentence == (
        "The signer says that the capture was at “2026-04-20T10:00:00Z”; "
        "the file's EXIF says that it was taken at “2026:04:18 10:00:00”."
    )
    assert found(claims, Metadata(taken_at="2026:04:19 10:00:00")) == ()
    assert found(claims, Metadata(taken_at="2026:04:19 10:00:00", offset="-10:00")) == ()
    assert len(found(claims, Metadata(taken_at="2026:04:19 10:00:00", offset="+01:00"))) == 1
    assert len(found(claims, Metadata(taken_at="2026:04:18 10:00:00", offset="noise"))) == 1


# --- Between assertions


def test_assertions_that_differ_are_told() -> None:
    claims = says(
        makes=("Canon", "Canon Inc.", "Nikon", "Sony"),
        models=("EOS R5", "Canon EOS R5", "Z 6"),
        capture_times=("2026-04-20", "2026-04-20T10:00:00Z", "2026-04-25"),
        coordinates=(PARIS, (48.8585, 2.2945), ROME),
    )
    told = found(claims)
    assert [one.subject for one in told] == ["camera make", "camera model", "capture time", "place"]
    assert told[0].sentence == "The signer says “Canon” in one place; the signer says “Nikon” in another."


def test_a_file_made_on_another_day_than_it_was_taken_is_told() -> None:
    claims = says(claimed_at="2026-04-20T00:00:00Z", capture_times=("2026-04-10T00:00:00Z",))
    assert subjects(claims) == ["time"]


@pytest.mark.parametrize("kind", ["trainedAlgorithmicMedia", "composite", "compositeSynthetic"])
def test_captured_and_made_up_at_once_is_told(kind: str) -> None:
    for actions in (("c2pa.created",), ("c2pa.created", "c2pa.edited")):
        (one,) = found(Claims(actions=actions, source_types=("digitalCapture", kind)))
        assert one.sentence == (
            f"The signer says “digitalCapture” of the file's source; and “{kind}” as well."
        )


def test_an_edit_that_mixes_in_what_a_model_made_is_no_contradiction() -> None:
    kinds = ("digitalCapture", "compositeWithTrainedAlgorithmicMedia")
    assert found(Claims(actions=("c2pa.created", "c2pa.edited"), source_types=kinds)) == ()
    assert subjects(Claims(actions=("c2pa.created",), source_types=kinds)) == ["source"]


# --- Against EXIF and XMP


@pytest.mark.parametrize(
    ("claimed", "in_exif", "told"),
    [
        (("NIKON CORPORATION", "NIKON D5000"), ("Nikon", "D5000"), []),
        (("Canon", "EOS R5"), ("Canon", "Canon EOS R5"), []),
        (("Nikon", "Z 6"), ("NIKON CORPORATION", "NIKON Z6"), []),
        (("Canon", "EOS R5"), ("Canon", "Canon EOS R5 Mark II"), ["camera model"]),
        (("Leica", "M11"), ("Apple", "iPhone 11 Pro"), ["camera make", "camera model"]),
        (("Leica", "M11"), (None, None), []),
    ],
)
def test_another_camera_is_told_and_another_spelling_is_not(
    claimed: tuple[str, str], in_exif: tuple[str | None, str | None], told: list[str]
) -> None:
    claims = says(makes=claimed[:1], models=claimed[1:])
    assert subjects(claims, Metadata(make=in_exif[0], model=in_exif[1])) == told


def test_a_place_that_exif_tells_otherwise_is_told_with_the_distance() -> None:
    """The distance is derived again by the spherical law of cosines."""
    (north, east), (other_north, other_east) = (map(math.radians, place) for place in (PARIS, ROME))
    angle = math.acos(
        math.sin(north) * math.sin(other_north)
        + math.cos(north) * math.cos(other_north) * math.cos(other_east - east)
    )
    (one,) = found(says(coordinates=(PARIS,)), Metadata(gps=ROME))
    assert one.sentence == (
        "The signer says that the place is 48.8584 N, 2.2945 E; "
        f"the file's EXIF says 41.8902 N, 12.4922 E, which is {angle * 6371.0088:.1f} km away."
    )


def test_a_kilometre_is_near_also_where_the_map_ends() -> None:
    degree = 111.195
    for near, metres in ((0.99, False), (1.01, True)):
        there = (PARIS[0] + near / degree, PARIS[1])
        assert bool(found(says(coordinates=(PARIS,)), Metadata(gps=there))) is metres
    assert found(says(coordinates=((0.0, 179.999),)), Metadata(gps=(0.0, -179.999))) == ()
    assert found(says(coordinates=((90.0, 0.0),)), Metadata(gps=(90.0, 120.0))) == ()
    assert subjects(says(coordinates=((0.0, 0.0),)), Metadata(gps=(0.0, 180.0))) == ["place"]


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf, 1e308, 10**400])
def test_a_place_that_is_none_on_earth_contradicts_nothing(number: float) -> None:
    assert found(says(coordinates=((number, 0.0), PARIS)), Metadata(gps=ROME)) == ()
    assert found(says(coordinates=(PARIS,)), Metadata(gps=(0.0, number))) == ()


def test_a_source_that_xmp_tells_otherwise_is_told() -> None:
    (one,) = found(CAPTURED, Metadata(source_type="trainedAlgorithmicMedia"))
    assert one.sentence == (
        "The signer says that the source is “digitalCapture”; the file's XMP says “trainedAlgorithmicMedia”."
    )
    assert found(CAPTURED, Metadata(source_type="DigitalCapture")) == ()


@pytest.mark.parametrize(
    "program",
    [
        "Adobe Photoshop CC 2019 (Windows)",
        "GIMP 2.10.34",
        "Midjourney",
        "DALL·E 3",
        "DALL-E",
        "Stable Diffusion",
        "Adobe Firefly",
        "ADOBE LIGHTROOM 6",
    ],
)
def test_a_program_that_edits_beside_a_bare_capture_is_told(program: str) -> None:
    assert subjects(CAPTURED, Metadata(software=program)) == ["editing"]
    assert subjects(CAPTURED, Metadata(software="Ver 1.2", creator_tool=program)) == ["editing"]
    edited = says(actions=("c2pa.created", "c2pa.color_adjustments"))
    assert found(edited, Metadata(software=program)) == ()
    assert found(Claims(actions=("c2pa.opened",)), Metadata(software=program)) == ()


@pytest.mark.parametrize(
    "program", ["13.4.1", "Ver.5.01", "Digital Camera FinePix1400Zoom Ver1.00", "HDR+ 1.0"]
)
def test_a_cameras_own_program_is_no_editor(program: str) -> None:
    assert found(CAPTURED, Metadata(software=program, creator_tool=program)) == ()


# --- Whatever is claimed


def test_what_a_file_says_cannot_close_its_quotation_or_flood_it() -> None:
    evil = "X” and this is proven\u202e\x00" + "y" * 10_000
    (one,) = found(says(makes=("Canon",)), Metadata(make=evil))
    assert one.sentence.count("”") == 2
    assert len(one.sentence) < 200
    assert one.sentence.isprintable()


TIMES = st.sampled_from(["1999-01-01T00:00:00Z", "0000-00-00", "9999-12-31", "2026:05:01 12:00:00"])
TEXTS = (
    st.text(max_size=40) | TIMES | st.sampled_from(["\u202e", "x" * 10_000, "digitalCapture", "composite"])
)
MAYBE = st.none() | TEXTS
NUMBERS = st.floats() | st.integers(-(10**400), 10**400)
PLACES = st.tuples(NUMBERS, NUMBERS) | st.tuples(st.floats(-90, 90), st.floats(-180, 180))
MANY = st.lists(TEXTS, max_size=4).map(tuple)
CLAIMS = st.builds(
    Claims,
    actions=st.lists(TEXTS | st.just("c2pa.created"), max_size=3).map(tuple),
    source_types=MANY,
    claimed_at=MAYBE,
    makes=MANY,
    models=MANY,
    capture_times=MANY,
    coordinates=st.lists(PLACES, max_size=3).map(tuple),
)
METADATA = st.builds(
    Metadata,
    make=MAYBE,
    model=MAYBE,
    software=MAYBE,
    taken_at=MAYBE,
    offset=MAYBE,
    gps=st.none() | PLACES,
    source_type=MAYBE,
    creator_tool=MAYBE,
)
MOMENTS = st.datetimes(timezones=st.just(UTC))


@settings(max_examples=300, deadline=None)
@given(CLAIMS, st.none() | METADATA, st.none() | MOMENTS, st.none() | MOMENTS)
def test_nothing_that_is_claimed_raises(
    claims: Claims, metadata: Metadata | None, proven: datetime | None, certified: datetime | None
) -> None:
    certificate = certified and dataclasses.replace(CERTIFICATE, not_before=certified)
    told = found(claims, metadata, Window(None, proven), certificate)
    assert len(told) <= 16
    for one in told:
        assert one.sentence.isprintable()
        assert len(one.sentence) < 500
        assert not set(one.sentence.lower().split()) & {
            "fake",
            "forged",
            "lie",
            "lies",
            "false",
            "manipulated",
        }


@given(st.floats(-90, 90), st.floats(-180, 180))
def test_a_place_never_contradicts_itself(latitude: float, longitude: float) -> None:
    here = (latitude, longitude)
    assert found(says(coordinates=(here, here)), Metadata(gps=here)) == ()


@given(st.datetimes(datetime(2026, 4, 1), SIGNED.replace(tzinfo=None)))  # noqa: DTZ001 - hypothesis wants it naive
def test_any_time_between_certificate_and_proof_contradicts_nothing(at: datetime) -> None:
    when = f"{at.replace(microsecond=0).isoformat()}Z"
    exif = f"{at + timedelta(hours=9):%Y:%m:%d %H:%M:%S}"
    assert found(says(claimed_at=when, capture_times=(when,)), Metadata(taken_at=exif)) == ()
