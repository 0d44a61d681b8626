"""What the signer says is repeated in plain and bounded text, whatever they wrote; nothing of it is believed."""

import dataclasses
import importlib.util
import io
import json
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import cbor2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from authn import jumbf
from authn.claims import MAX_ACTIONS, MAX_ASSERTION, MAX_OTHERS, read_claims
from authn.evidence import Claims
from authn.jumbf import Assertion, ManifestBoxes
from authn.manifest import Sdk
from authn.media import Media
from authn.plain import plain

_SPEC = importlib.util.spec_from_file_location("forge", Path(__file__).parent / "vectors" / "forge.py")
assert _SPEC
assert _SPEC.loader
forge: Any = sys.modules.setdefault("forge", importlib.util.module_from_spec(_SPEC))
if not hasattr(forge, "Draft"):
    _SPEC.loader.exec_module(forge)

LABEL = "urn:c2pa:1"
CONTEXT = {"exif": "http://ns.adobe.com/exif/1.0/", "tiff": "http://ns.adobe.com/tiff/1.0/"}
RIGHT_TO_LEFT = "\u202e"


def manifest(
    *assertions: tuple[str, Any], claim: dict[Any, Any] | None = None, version: int = 2, field: str = ""
) -> ManifestBoxes:
    """A manifest in memory that lists all its assertions; text content is JSON, all else CBOR."""
    held = tuple(
        Assertion(label, b"json" if isinstance(content, str) else b"cbor", encoded(content), b"")
        for label, content in assertions
    )
    field = field or ("created_assertions" if version == 2 else "assertions")
    listed = [{"url": f"self#jumbf=c2pa.assertions/{label}", "hash": bytes(32)} for label, _ in assertions]
    body = cbor2.dumps({field: listed} | (claim or {}))
    return ManifestBoxes(LABEL, body, "c2pa.claim.v2" if version == 2 else "c2pa.claim", b"", held)


def encoded(content: Any) -> bytes:
    if isinstance(content, bytes):
        return content
    return content.encode("utf-8", "surrogatepass") if isinstance(content, str) else cbor2.dumps(content)


def metadata(**fields: Any) -> str:
    """JSON-LD with `prefix_Name` as `prefix:Name`."""
    return json.dumps(
        {"@context": CONTEXT, **{key.replace("_", ":"): value for key, value in fields.items()}}
    )


def said(*assertions: tuple[str, Any], **options: Any) -> Claims:
    return read_claims(manifest(*assertions, **options))


# --- The same words as the SDK


@pytest.fixture(scope="module")
def lab() -> Any:
    return forge.house(datetime.now(UTC) - timedelta(days=30))


CREATIVE_WORK = {
    "label": "stds.schema-org.CreativeWork",
    "data": {
        "@context": "http://schema.org/",
        "@type": "CreativeWork",
        "author": [{"@type": "Person", "name": "Jo"}],
    },
}
FILES: dict[str, dict[str, Any]] = {
    "as our own signer writes": {},
    "edits, and a time": {
        "title": f"IMG{RIGHT_TO_LEFT}gpj.exe\n<b>" + "long " * 100,
        "assertions": [
            forge.actions(
                {
                    "action": "c2pa.edited",
                    "when": "2026-01-02T03:04:05Z",
                    "digitalSourceType": "http://x.org/y/composite",
                },
                {"action": f"org.{RIGHT_TO_LEFT}lab.cut", "when": "2027-01-02T03:04:05Z"},
            )
        ],
    },
    "another generator": {
        "claim_generator_info": [{"name": "Lab & <i>", "version": "2.1 beta", "other": "x"}],
        "assertions": [forge.actions(), CREATIVE_WORK],
    },
    "version 1": {
        "claim_version": 1,
        "title": "one",
        "assertions": [
            {
                "label": "c2pa.actions",
                "data": {
                    "actions": [
                        {
                            "action": "c2pa.created",
                            "when": "2025-01-02T03:04:05Z",
                            "digitalSourceType": forge.CAPTURE,
                        }
                    ]
                },
            },
            CREATIVE_WORK,
        ],
    },
}


@pytest.mark.parametrize("name", FILES)
def test_the_sdk_and_we_read_the_same_words(lab: Any, name: str) -> None:
    signed = forge.sdk_signed(forge.picture(), lab.camera, claim=FILES[name])
    media = io.BytesIO(signed)
    with Sdk() as sdk:
        report = json.loads(sdk.bare_read(Media.of(media, "a.jpg", 1 << 30)))
    theirs = report["manifests"][report["active_manifest"]]
    actions = [
        action
        for assertion in theirs["assertions"]
        if assertion["label"].startswith("c2pa.actions")
        for action in assertion["data"]["actions"]
    ]
    generator = theirs["claim_generator_info"][0]
    ours = read_claims(jumbf.parse(forge.stored(signed))[-1])
    assert ours.title == plain(theirs["title"], 200)
    assert ours.generator == plain(f"{generator['name']} {generator['version']}", 120)
    assert ours.actions == tuple(plain(action["action"], 60) for action in actions) != ()
    types = [action["digitalSourceType"] for action in actions if "digitalSourceType" in action]
    assert ours.source_types == tuple(plain(kind, 120).rsplit("/", 1)[-1] for kind in types) != ()
    assert ours.claimed_at == next((action["when"] for action in actions if "when" in action), None)
    assert ours.left_out == 0


def test_of_a_file_by_the_sdk_every_kind_of_statement_is_read(lab: Any) -> None:
    fields = json.loads(
        metadata(
            exif_GPSLatitude="48,51.504N",
            exif_GPSLongitude="2,17.67E",
            exif_DateTimeOriginal="1999-01-01T00:00:00Z",
            tiff_Make="Canon",
            tiff_Model="Canon EOS R5",
        )
    )
    use = {"entries": {"cawg.ai_generative_training": {"use": "notAllowed"}}}
    more = [
        forge.actions(),
        CREATIVE_WORK,
        {"label": "c2pa.metadata", "kind": "Json", "data": fields},
        {"label": "cawg.training-mining", "data": use},
    ]
    signed = forge.sdk_signed(forge.picture(), lab.camera, claim={"assertions": more})
    found = read_claims(jumbf.parse(forge.stored(signed))[-1])
    assert found == Claims(
        title="t",
        generator="lab 1",
        actions=("c2pa.created",),
        source_types=("digitalCapture",),
        claimed_at=None,
        device="Canon EOS R5",
        place="48.8584 N, 2.2945 E",
        author="Jo",
        training=("ai_generative_training: notAllowed",),
        gathered=("stds.schema-org.CreativeWork", "c2pa.metadata", "cawg.training-mining"),
        makes=("Canon",),
        models=("Canon EOS R5",),
        capture_times=("1999-01-01T00:00:00Z",),
        coordinates=((pytest.approx(48.8584, abs=1e-9), pytest.approx(2.2945, abs=1e-9)),),
    )


def test_an_assertion_that_the_claim_does_not_list_says_nothing(lab: Any) -> None:
    extra = forge.cbor_assertion("c2pa.metadata", {"tiff:Make": "Nobody"})
    undeclared = forge.Draft(forge.picture(), lab.camera, undeclared=[extra])
    declared = dataclasses.replace(undeclared, undeclared=[], assertions=[extra])
    assert read_claims(jumbf.parse(forge.stored(undeclared.write()))[-1]).device is None
    assert read_claims(jumbf.parse(forge.stored(declared.write()))[-1]).device == "Nobody"


# --- Places


@pytest.mark.parametrize(
    ("latitude", "longitude", "place"),
    [
        ("39,21.102N", "74,26.5737W", "39.3517 N, 74.4429 W"),
        ("33,51,24S", "151,12,54E", "33.8567 S, 151.2150 E"),
        ("48.8584", "2.2945", "48.8584 N, 2.2945 E"),
        ("-48.8584", "-2.2945", "48.8584 S, 2.2945 W"),
        ("48.8584 S", "2.2945 W", "48.8584 S, 2.2945 W"),
        (48.8584, 2, "48.8584 N, 2.0000 E"),
        (0, 0, "0.0000 N, 0.0000 E"),
        ("90,0N", "180,0W", "90.0000 N, 180.0000 W"),
    ],
)
def test_a_position_reads_the_same_however_it_is_written(latitude: Any, longitude: Any, place: str) -> None:
    found = said(("c2pa.metadata", metadata(exif_GPSLatitude=latitude, exif_GPSLongitude=longitude)))
    assert (found.place, found.left_out) == (place, 0)


@pytest.mark.parametrize(
    ("latitude", "longitude"),
    [
        ("91,0N", "2,0E"),
        ("48,60N", "2,0E"),
        ("48,0E", "2,0N"),
        ("-48.0 N", "2.0 E"),
        ("48", None),
        (None, 2),
        ("NaN", "2"),
        ("٤٨", "2"),
        (10**400, 2),
        (True, False),
        ({}, []),
        ("1e1", "2"),
        (1e308, -1e308),
    ],
)
def test_a_position_that_is_none_on_earth_is_left_out(latitude: Any, longitude: Any) -> None:
    found = said(("c2pa.metadata", metadata(exif_GPSLatitude=latitude, exif_GPSLongitude=longitude)))
    assert (found.place, found.coordinates) == (None, ())
    assert found.left_out == 1


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_no_position_comes_of_a_number_that_is_none(value: float) -> None:
    fields = {"exif:GPSLatitude": value, "exif:GPSLongitude": 2.0}
    for content in (fields, json.dumps(fields)):
        assert said(("c2pa.metadata", content)).coordinates == ()


def test_a_city_and_a_country_are_a_place() -> None:
    inside = {"Iptc4xmpExt:City": "Paris", "Iptc4xmpExt:CountryName": "France"}
    assert said(("stds.iptc", metadata(photoshop_City="Paris", photoshop_Country="France"))).place == (
        "Paris, France"
    )
    assert said(("cawg.metadata", metadata(Iptc4xmpExt_LocationCreated=[inside]))).place == "Paris, France"
    assert said(
        ("c2pa.metadata", metadata(exif_GPSLatitude=1, exif_GPSLongitude=2, photoshop_City="Paris"))
    ).place == ("1.0000 N, 2.0000 E; Paris")


# --- Other statements


def test_the_device_is_named_once() -> None:
    assert said(("stds.exif", metadata(tiff_Make="NIKON", tiff_Model="Nikon Z 6"))).device == "Nikon Z 6"
    assert said(("stds.exif", metadata(EXIF_Make="Sony", EXIF_Model="A1"))).device == "Sony A1"
    assert said(("stds.exif", metadata(tiff_Model="A1"))).device == "A1"


def test_values_that_differ_between_assertions_are_all_kept() -> None:
    found = said(
        ("c2pa.metadata", metadata(tiff_Make="Canon", exif_DateTimeOriginal="2020-01-01T00:00:00Z")),
        ("stds.exif", metadata(tiff_Make="Nikon", exif_DateTimeOriginal="2021-01-01T00:00:00Z")),
        ("c2pa.metadata__1", metadata(tiff_Make="Canon")),
    )
    assert found.makes == ("Canon", "Nikon")
    assert found.capture_times == ("2020-01-01T00:00:00Z", "2021-01-01T00:00:00Z")


def test_authors_are_found_wherever_writers_put_them() -> None:
    found = said(
        ("stds.schema-org.CreativeWork", json.dumps({"author": {"@type": "Person", "name": "Jo"}})),
        ("c2pa.metadata", metadata(dc_creator={"@list": ["Bo", {"@value": "Al"}, "Jo"]})),
    )
    assert found.author == "Jo, Bo, Al"


def test_uses_in_training_are_repeated() -> None:
    entries = {
        "c2pa.ai_generative_training": {"use": "notAllowed"},
        "c2pa.data_mining": {"use": "constrained", "constraint_info": "ask"},
        "c2pa.ai_training": "no map",
    }
    found = said(("c2pa.training-mining", {"entries": entries}))
    assert found.training == ("ai_generative_training: notAllowed", "data_mining: constrained")
    assert found.left_out == 1


def test_only_a_version_2_claim_passes_assertions_on() -> None:
    one = ("c2pa.metadata", metadata(tiff_Make="Canon"))
    assert said(one, field="gathered_assertions").gathered == ("c2pa.metadata",)
    assert said(one, field="gathered_assertions", version=1) == Claims()
    assert said(one, version=1) == Claims(device="Canon", makes=("Canon",))


# --- Hostile content


def test_floods_are_cut_and_counted() -> None:
    actions = [{"action": f"org.a{number}"} for number in range(200)]
    labels = [(f"c2pa.metadata__{number}", metadata(tiff_Make=f"M{number}")) for number in range(90)]
    found = said(("c2pa.actions.v2", {"actions": actions}), *labels, field="gathered_assertions")
    assert len(found.actions) == MAX_ACTIONS
    assert len(found.makes) == len(found.gathered) == MAX_OTHERS
    assert found.left_out == (200 - MAX_ACTIONS) + (90 - MAX_OTHERS) + (91 - MAX_OTHERS)
    authors = [{"name": f"A{number}"} for number in range(1000)]
    crowd = said(("stds.schema-org.CreativeWork", json.dumps({"author": authors})))
    assert crowd.left_out == 1000 - MAX_OTHERS
    assert len(crowd.author or "") <= 300


@pytest.mark.parametrize(
    ("label", "content"),
    [
        ("c2pa.metadata", '{"tiff:Make": "A", "tiff:Make": "B"}'),
        ("c2pa.metadata", '{"tiff:Make": "A", "x": NaN}'),
        ("c2pa.metadata", '{"tiff:Make": "A"'),
        ("c2pa.metadata", "[" * 100_000),
        ("c2pa.metadata", '{"x": ' + "9" * 10_000 + "}"),
        ("c2pa.metadata", '["tiff:Make"]'),
        ("c2pa.metadata", ""),
        ("c2pa.metadata", '{"tiff:Make": "' + "A" * MAX_ASSERTION + '"}'),
        ("c2pa.metadata", b"\xa1"),
        ("c2pa.metadata", b"\x81" * 1000),
        ("c2pa.metadata", bytes(100)),
        ("c2pa.actions", {"actions": {"action": "c2pa.created"}}),
        ("c2pa.actions", {"actions": ["c2pa.created"]}),
        ("c2pa.training-mining", {"entries": []}),
    ],
)
def test_a_malformed_assertion_is_counted_and_says_nothing(label: str, content: Any) -> None:
    assert said((label, content)) == Claims(left_out=1)


@pytest.mark.parametrize("kind", [b"", b"uuid", b"bfdb", b"bidb"])
def test_an_assertion_of_another_kind_of_box_is_not_opened(kind: bytes) -> None:
    made = manifest(("c2pa.metadata", metadata(tiff_Make="Canon")))
    other = dataclasses.replace(made.assertions[0], type=kind)
    assert read_claims(dataclasses.replace(made, assertions=(other,))) == Claims(left_out=1)


def test_a_claim_that_is_no_map_says_nothing() -> None:
    for claim in (b"", b"\x80", b"\xff", cbor2.dumps("c2pa")):
        assert read_claims(dataclasses.replace(manifest(), claim=claim)) == Claims(left_out=1)


def test_what_hides_or_floods_is_taken_out_of_every_text() -> None:
    evil = f"a{RIGHT_TO_LEFT}b\x00\r\n\x1b[31m\ud800" + "x" * 10_000
    fields = {
        f"{key}": json.loads(json.dumps(evil))
        for key in ("tiff:Make", "tiff:Model", "dc:creator", "exif:DateTimeOriginal", "photoshop:City")
    }
    shown = evil.replace("\ud800", "")
    action = {"action": shown, "when": shown, "digitalSourceType": shown}
    found = said(
        ("c2pa.metadata", json.dumps(fields)),
        ("c2pa.actions", {"actions": [action]}),
        ("c2pa.training-mining", {"entries": {shown: {"use": shown}}}),
        claim={"dc:title": shown, "claim_generator_info": {"name": shown, "version": shown}},
    )
    texts = texts_of(found)
    assert len(texts) == 12
    for text in texts:
        assert len(text) <= 300
        assert text.isprintable()
        assert text.startswith("ab [31mx")


def texts_of(claims: Claims) -> list[str]:
    values = [getattr(claims, field.name) for field in dataclasses.fields(claims)]
    single = [value for value in values if isinstance(value, str)]
    return single + [
        item for value in values if isinstance(value, tuple) for item in value if isinstance(item, str)
    ]


KEYS = st.sampled_from(
    [
        "actions",
        "action",
        "when",
        "digitalSourceType",
        "entries",
        "use",
        "author",
        "name",
        "@list",
        "@value",
        "exif:GPSLatitude",
        "exif:GPSLongitude",
        "exif:GPSLatitudeRef",
        "tiff:Make",
        "tiff:Model",
        "exif:DateTimeOriginal",
        "dc:creator",
        "Iptc4xmpExt:LocationCreated",
        "Iptc4xmpExt:City",
        "dc:title",
        "claim_generator",
        "claim_generator_info",
        "version",
        "created_assertions",
        "gathered_assertions",
        "url",
    ]
)
LEAVES = (
    st.none()
    | st.booleans()
    | st.integers(-(2**64), 2**64 - 1)
    | st.floats()
    | st.text(max_size=20)
    | st.binary(max_size=8)
    | st.sampled_from(["48,51.5N", "2,0E", "2026-01-01", "self#jumbf=c2pa.assertions/c2pa.metadata"])
)
VALUES = st.recursive(
    LEAVES,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(KEYS | st.integers(0, 9), inner, max_size=5)
        | st.builds(lambda value: cbor2.CBORTag(0, value), inner)
    ),
    max_leaves=12,
)
LABELS = st.sampled_from(
    [
        "c2pa.actions",
        "c2pa.actions.v2",
        "c2pa.metadata",
        "stds.exif__1",
        "stds.schema-org.CreativeWork",
        "cawg.training-mining",
        "c2pa.hash.data",
    ]
)
CONTENTS = st.dictionaries(KEYS, VALUES, max_size=6) | st.binary(max_size=60) | st.text(max_size=60)


@settings(max_examples=300, deadline=None)
@given(
    st.dictionaries(LABELS, CONTENTS, max_size=4),
    st.dictionaries(KEYS, VALUES, max_size=4),
    st.integers(1, 2),
)
def test_nothing_a_manifest_holds_raises(
    assertions: dict[str, Any], claim: dict[str, Any], version: int
) -> None:
    found = read_claims(manifest(*assertions.items(), claim=claim, version=version))
    assert len(found.actions) <= MAX_ACTIONS
    assert all(text.isprintable() and len(text) <= 300 for text in texts_of(found))
    assert all(abs(latitude) <= 90 and abs(longitude) <= 180 for latitude, longitude in found.coordinates)
    assert read_claims(manifest(*assertions.items(), claim=claim, version=version)) == found


@given(st.dictionaries(KEYS, st.text(max_size=20) | st.integers() | st.floats(), max_size=8))
def test_nothing_json_holds_raises(fields: dict[str, Any]) -> None:
    found = said(("c2pa.metadata", json.dumps(fields)))
    assert all(text.isprintable() for text in texts_of(found))
