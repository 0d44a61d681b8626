"""Equivalents of the public test files and of the SDK's own fixtures: what each is, and what is said of it.

The files themselves are not at hand. These are made by the same recipes
(`vectors/public.py`), with v1 claims as those have, and our own keys.
"""

import importlib.util
import io
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from authn import jumbf
from authn.errors import MediaError
from authn.evidence import Code, Content, Credentials, History, Provenance
from authn.manifest import Sdk
from authn.media import Kind, Media
from authn.verify import verify_media
from tools.verdict import Headline, Ledger, headline


def _loaded(name: str) -> Any:
    spec = importlib.util.spec_from_file_location(name, Path(__file__).parent / "vectors" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules.setdefault(name, importlib.util.module_from_spec(spec))
    if not hasattr(module, "io"):
        spec.loader.exec_module(module)
    return module


forge = _loaded("forge")
public = _loaded("public")

H = Headline
NOW = datetime.now(UTC).replace(microsecond=0)
DAY = timedelta(days=1)

Judge = Callable[[bytes], Provenance]


@pytest.fixture(scope="module")
def house() -> Any:
    return forge.house(NOW - 40 * DAY)


@pytest.fixture(scope="module")
def judge(house: Any) -> Iterator[Judge]:
    lists = forge.lists([house.root])
    with Sdk() as sdk:

        def examine(data: bytes) -> Provenance:
            return verify_media(Media.of(io.BytesIO(data), "file", 1 << 30), sdk, lists, NOW)

        yield examine


@pytest.fixture(scope="module")
def official(house: Any) -> dict[str, bytes]:
    return public.official(house)  # type: ignore[no-any-return]


@pytest.fixture(scope="module")
def fixtures(house: Any) -> dict[str, tuple[str, bytes]]:
    return public.fixtures(house)  # type: ignore[no-any-return]


def failed(found: Provenance) -> set[Code]:
    return {finding.code for finding in found.findings if not finding.passed}


def problems(found: Provenance) -> set[str]:
    def of(steps: tuple[Any, ...]) -> Iterator[str]:
        for step in steps:
            yield from step.problems
            yield from of(step.steps)

    return set(of(found.steps))


# --- The official files

FRESH, CHANGED, HISTORY = H.INTACT_SIGNER_RECOGNISED, H.CHANGED_AFTER_SIGNING, H.SIGNED_HISTORY_PROBLEM
WITHOUT = History.STARTS_WITHOUT
OFFICIAL: dict[str, tuple[Headline, History, Code | None, str | None]] = {
    "A": (H.NO_CREDENTIALS, History.NONE, Code.CREDENTIALS_PRESENT, None),
    "I": (H.NO_CREDENTIALS, History.NONE, Code.CREDENTIALS_PRESENT, None),
    "C": (FRESH, History.NONE, None, None),
    "CA": (FRESH, WITHOUT, None, None),
    "CAI": (FRESH, WITHOUT, None, None),
    "CI": (FRESH, WITHOUT, None, None),
    "CII": (FRESH, WITHOUT, None, None),
    "XCA": (CHANGED, WITHOUT, Code.CONTENT_MATCHES, None),
    "XCI": (CHANGED, WITHOUT, Code.CONTENT_MATCHES, None),
    "E-dat-CA": (CHANGED, WITHOUT, Code.CONTENT_MATCHES, None),
    "E-sig-CA": (CHANGED, WITHOUT, Code.SIGNATURE_VALID, None),
    "E-uri-CA": (CHANGED, WITHOUT, Code.ASSERTIONS_MATCH, None),
    "E-clm-CAICAI": (CHANGED, History.PROBLEM, Code.ASSERTIONS_MATCH, "record-missing"),
    "CIE-sig-CA": (HISTORY, History.PROBLEM, Code.HISTORY_INTACT, "signature-broken"),
    "E-uri-CIE-sig-CA": (HISTORY, History.PROBLEM, Code.HISTORY_INTACT, "assertion-differs"),
    "expired": (H.SIGNER_EXPIRED_TIME_UNPROVEN, History.NONE, Code.SIGNER_VALID_AT, None),
}
# A v1 claim's ingredient has a place for what failed and none for what held (C2PA 1.x,
# c2pa.ingredient and c2pa.ingredient.v2), so that a parent nobody checked looks like these.
UNTOLD = ("CACA", "CAICA", "CICA")


def test_every_official_name_is_here(official: dict[str, bytes]) -> None:
    assert set(official) == {*OFFICIAL, *UNTOLD}


@pytest.mark.parametrize("name", OFFICIAL)
def test_an_official_file_is_what_its_name_says(name: str, official: dict[str, bytes], judge: Judge) -> None:
    head, history, code, problem = OFFICIAL[name]
    found = judge(official[name])
    assert headline(found, Ledger.NOT_CHECKED) is head
    assert found.history is history
    assert code in failed(found) if code else failed(found) == {Code.TIME_PROVEN, Code.REVOCATION_CHECKED}
    assert problem is None or problem in problems(found)


@pytest.mark.parametrize("name", UNTOLD)
def test_a_parent_of_an_old_claim_that_nobody_says_was_checked_makes_the_history_partial(
    name: str, official: dict[str, bytes], judge: Judge
) -> None:
    found = judge(official[name])
    assert (headline(found, Ledger.NOT_CHECKED), found.history) == (FRESH, History.PARTIAL)
    assert problems(found) == set()
    assert any("content-check-not-recorded" in step.notes for step in found.steps)


@pytest.mark.parametrize(
    ("kinds", "history"),
    [
        (("parentOf CA",), History.PARTIAL),
        (("parentOf A", "componentOf CA"), History.PARTIAL),
        (("componentOf CA",), History.PARTIAL),
        (("parentOf C",), History.COMPLETE),
    ],
)
def test_the_same_with_claims_that_say_so_are_intact_with_as_much_history_as_there_is(
    kinds: tuple[str, ...], history: History, official: dict[str, bytes], judge: Judge, house: Any
) -> None:
    """CACA, CAICA, CICA and CC by claims of version 2, whose ingredients record what held."""
    ingredients = [(kind.split()[0], official[kind.split()[1]]) for kind in kinds]
    (kind, file), *more = ingredients
    data = (
        forge.sdk_signed(forge.picture(seed=2), house.camera, parent=file)
        if kind == "parentOf" and not more
        else forge.sdk_made(forge.picture(seed=2), house.camera, ingredients=ingredients)
    )
    found = judge(data)
    assert (headline(found, Ledger.NOT_CHECKED), found.history) == (FRESH, history), problems(found)


def test_old_claims_are_of_version_1(official: dict[str, bytes]) -> None:
    for name in set(official) - {"A", "I"}:
        for manifest in jumbf.parse(forge.stored(official[name])):
            assert manifest.claim_label == "c2pa.claim", name


# --- The SDK's own fixtures

SOUND = {
    "wrong_extension.png": Kind.JPEG,
    "compressed.jpg": Kind.JPEG,
    "compressed_by_hand.jpg": Kind.JPEG,
    "update.jpg": Kind.JPEG,
    "raw.dng": Kind.DNG,
    "sample.wav": Kind.WAV,
    "film.mp4": Kind.MP4,
}
UNSOUND = {
    "remote.jpg": {H.CREDENTIALS_ELSEWHERE},
    "no_alg.jpg": {H.CREDENTIALS_UNREADABLE},
    "unknown_alg.jpg": {CHANGED},
    "nested_moov.mp4": {H.CREDENTIALS_UNREADABLE, H.NO_CREDENTIALS},
    "nested_riff.wav": {H.NO_CREDENTIALS},
    "broken_size.wav": {CHANGED, H.CREDENTIALS_UNREADABLE},
    "broken_chunk.wav": {H.NO_CREDENTIALS, H.CREDENTIALS_UNREADABLE},
    "broken_record.wav": {H.CREDENTIALS_UNREADABLE},
}


def test_every_fixture_is_here(fixtures: dict[str, tuple[str, bytes]]) -> None:
    assert set(fixtures) == {*SOUND, *UNSOUND}


@pytest.mark.parametrize("name", SOUND)
def test_a_sound_fixture_is_intact_and_one_bit_of_it_is_not(
    name: str, fixtures: dict[str, tuple[str, bytes]], judge: Judge
) -> None:
    _, data = fixtures[name]
    media = Media.of(io.BytesIO(data), name, 1 << 30)
    assert media.kind is SOUND[name]
    found = judge(data)
    assert (headline(found, Ledger.NOT_CHECKED), found.content) == (FRESH, Content.INTACT)
    position = {Kind.WAV: 2000, Kind.DNG: 60, Kind.MP4: len(data) - 60}.get(media.kind, len(data) - 60)
    assert headline(judge(forge.flipped(data, position)), Ledger.NOT_CHECKED) is CHANGED


@pytest.mark.parametrize("name", UNSOUND)
def test_an_unsound_fixture_gets_an_answer_of_its_kind(
    name: str, fixtures: dict[str, tuple[str, bytes]], judge: Judge
) -> None:
    found = judge(fixtures[name][1])
    assert headline(found, Ledger.NOT_CHECKED) in UNSOUND[name]
    assert found.credentials is Credentials.PRESENT or found.signer is None


def test_a_record_that_was_packed_is_bound_box_by_box(fixtures: dict[str, tuple[str, bytes]]) -> None:
    """The SDK changes the hard binding where it packs (C2PA 2.2, 18.7)."""
    (manifest,) = jumbf.parse(forge.stored(fixtures["compressed.jpg"][1]))
    assert "c2pa.hash.boxes" in {assertion.label for assertion in manifest.assertions}


@pytest.mark.parametrize("kind", ["jpg", "png", "wav", "mp4"])
def test_what_is_cut_at_any_place_gets_a_typed_answer(kind: str, judge: Judge, house: Any) -> None:
    whole = {
        "jpg": lambda: forge.sdk_signed(forge.picture(), house.camera),
        "png": lambda: forge.sdk_signed(forge.picture("PNG"), house.camera, forge.PNG),
        "wav": lambda: forge.sdk_signed(forge.sound(), house.camera, forge.WAV),
        "mp4": lambda: forge.sdk_signed(forge.film(), house.camera, forge.MP4),
    }[kind]()
    for length in range(1, len(whole), 257):
        try:
            found = judge(whole[:length])
        except MediaError:
            continue
        assert headline(found, Ledger.NOT_CHECKED) in (CHANGED, H.CREDENTIALS_UNREADABLE, H.NO_CREDENTIALS)
