"""Read what the signer says from a manifest's assertions.

Statements only: nothing here is verified, and no answer of ours may rest on it.
An assertion counts when the claim lists it; whether its hash matches is checked
elsewhere (`assertions.match`). What cannot be read is counted and not guessed.
Pictures in assertions are never opened. Not read: locations given as shapes or
addresses, times of single actions after the first, and what a signer says in
assertions of their own making.
"""

import json
import math
import re
from collections.abc import Callable, Iterable, Iterator
from typing import TypeAlias

from authn import cbor
from authn.evidence import Claims
from authn.jumbf import Assertion, ManifestBoxes
from authn.plain import plain

MAX_ACTIONS = 50
MAX_OTHERS = 20
MAX_ASSERTION = 1 << 20

Fields: TypeAlias = dict[str, cbor.Value]

_DECLARED = {"c2pa.claim": ("assertions",), "c2pa.claim.v2": ("created_assertions", "gathered_assertions")}
_ACTIONS = ("c2pa.actions", "c2pa.actions.v2")
_METADATA = ("c2pa.metadata", "cawg.metadata", "stds.exif", "stds.iptc", "stds.iptc.photo-metadata")
_WORK = ("stds.schema-org.CreativeWork",)
_TRAINING = ("c2pa.training-mining", "cawg.training-mining")

_MAKE = ("tiff:make", "exif:make")
_MODEL = ("tiff:model", "exif:model")
_CAPTURED = ("exif:datetimeoriginal",)
_LATITUDE, _LONGITUDE = "exif:gpslatitude", "exif:gpslongitude"
_CREATOR = ("dc:creator", "iptc4xmpcore:creator", "tiff:artist", "exif:artist")
_CITY = ("photoshop:city", "iptc4xmpcore:city", "iptc4xmpext:city")
_COUNTRY = ("photoshop:country", "iptc4xmpcore:countryname", "iptc4xmpext:countryname")
_LOCATION = ("iptc4xmpext:locationcreated",)

# XMP Specification Part 1, 8.2.1.3 (GPSCoordinate): "DDD,MM,SSk" or "DDD,MM.mmk".
_COORDINATE = re.compile(
    r"(\d{1,3}),(\d{1,2}(?:\.\d{1,12})?)(?:,(\d{1,2}(?:\.\d{1,12})?))?\s?([NSEW])", re.ASCII
)
_DECIMAL = re.compile(r"([+-]?\d{1,3}(?:\.\d{1,20})?)\s?([NSEW]?)", re.ASCII)


def read_claims(manifest: ManifestBoxes) -> Claims:
    """What the signer of `manifest` says, in plain and bounded text. Never raises for what a file holds."""
    reader = _Reader(manifest)
    claim = reader.claim
    actions = reader.actions()
    metadata = [_folded(body) for body in reader.bodies(_METADATA)]
    makes = reader.distinct(_found(metadata, _MAKE), 60)
    models = reader.distinct(_found(metadata, _MODEL), 60)
    coordinates = reader.places(metadata)
    authors = reader.distinct([*_authors(reader.bodies(_WORK)), *_found(metadata, _CREATOR)], 120)
    named = [", ".join(part for part in place if part) for place in map(_named_place, metadata)]
    return Claims(
        title=_title(claim.get("dc:title")),
        generator=_generator(claim),
        actions=tuple(plain(_word(action.get("action")), 60) for action in actions),
        source_types=tuple(
            plain(_word(action["digitalSourceType"]), 120).rsplit("/", 1)[-1]
            for action in actions
            if action.get("digitalSourceType")
        ),
        claimed_at=next((plain(_word(action["when"]), 40) for action in actions if action.get("when")), None),
        device=_device(makes, models),
        place=_place(coordinates, reader.distinct(named, 120)),
        author=plain(", ".join(authors), 300) or None,
        training=reader.distinct(reader.training(), 120),
        gathered=reader.distinct(reader.gathered(), 120),
        makes=makes,
        models=models,
        capture_times=reader.distinct(_found(metadata, _CAPTURED), 40),
        coordinates=coordinates,
        left_out=reader.left_out,
    )


class _Reader:
    """One manifest, opened a little at a time; `left_out` counts what was not repeated."""

    def __init__(self, manifest: ManifestBoxes) -> None:
        self.left_out = 0
        self._manifest = manifest
        self._held = {assertion.label: assertion for assertion in manifest.assertions}
        self.claim: Fields = self._opened(manifest.claim, cbor.decode) or {}
        self._declared = [label for field in _DECLARED[manifest.claim_label] for label in self.labels(field)]

    def labels(self, field: str) -> list[str]:
        """The labels of the assertions that the claim lists under `field`."""
        inside = ("self#jumbf=c2pa.assertions/", f"self#jumbf=/c2pa/{self._manifest.label}/c2pa.assertions/")
        urls = [_word(item.get("url")) for item in _dicts(self.claim.get(field))]
        return [url.removeprefix(start) for url in urls for start in inside if url.startswith(start)]

    def gathered(self) -> list[str]:
        """The assertions that the signer passes on without having made them (C2PA 2.2, 10.3.2)."""
        field = "gathered_assertions"
        return self.labels(field) if field in _DECLARED[self._manifest.claim_label] else []

    def bodies(self, kinds: tuple[str, ...]) -> list[Fields]:
        """The content of the listed assertions of some kinds; a second one of a kind is named `kind__1`."""
        wanted = [label for label in dict.fromkeys(self._declared) if label.split("__", 1)[0] in kinds]
        found = [self._held[label] for label in wanted if label in self._held]
        self.left_out += len(found[MAX_OTHERS:])
        bodies = [self._body(assertion) for assertion in found[:MAX_OTHERS]]
        return [body for body in bodies if body is not None]

    def actions(self) -> list[Fields]:
        """The actions of all assertions about actions, in the order of the claim."""
        found: list[Fields] = []
        for body in self.bodies(_ACTIONS):
            given = body.get("actions")
            readable = list(_dicts(given))
            self.left_out += len(given) - len(readable) if isinstance(given, list) else 1
            found += readable
        self.left_out += len(found[MAX_ACTIONS:])
        return found[:MAX_ACTIONS]

    def places(self, metadata: Iterable[Fields]) -> tuple[tuple[float, float], ...]:
        """Every position that the assertions give; half a position, or none on Earth, is left out."""
        found: dict[tuple[float, float], None] = {}
        for body in metadata:
            given = [body.get(_LATITUDE), body.get(_LONGITUDE)]
            latitude = _degrees(given[0], body.get(f"{_LATITUDE}ref"), "NS", 90)
            longitude = _degrees(given[1], body.get(f"{_LONGITUDE}ref"), "EW", 180)
            if latitude is not None and longitude is not None:
                found[latitude, longitude] = None
            elif given != [None, None]:
                self.left_out += 1
        self.left_out += max(len(found) - MAX_OTHERS, 0)
        return tuple(found)[:MAX_OTHERS]

    def training(self) -> Iterator[str]:
        """The uses that the signer allows or forbids (CAWG Training and Data Mining 1.1)."""
        for body in self.bodies(_TRAINING):
            entries = body.get("entries")
            if not isinstance(entries, dict):
                self.left_out += 1
                continue
            for name, entry in entries.items():
                use = entry.get("use") if isinstance(entry, dict) else None
                if isinstance(name, str) and isinstance(use, str):
                    yield f"{name.rsplit('.', 1)[-1]}: {use}"
                else:
                    self.left_out += 1

    def distinct(self, texts: Iterable[str], limit: int) -> tuple[str, ...]:
        """Each text once and plain, in the order of the file."""
        found: dict[str, None] = {}
        for text in texts:
            if len(found) == MAX_OTHERS:
                self.left_out += 1
            elif shown := plain(text, limit):
                found[shown] = None
        return tuple(found)

    def _body(self, assertion: Assertion) -> Fields | None:
        readers = {b"cbor": cbor.decode, b"json": _json}
        if assertion.type not in readers or len(assertion.content) > MAX_ASSERTION:
            self.left_out += 1
            return None
        return self._opened(assertion.content, readers[assertion.type])

    def _opened(self, content: bytes, read: Callable[[bytes], cbor.Value]) -> Fields | None:
        try:
            value = read(content)
        except (cbor.MalformedCborError, ValueError, RecursionError):
            value = None
        if isinstance(value, dict):
            return {key: item for key, item in value.items() if isinstance(key, str)}
        self.left_out += 1
        return None


def _json(content: bytes) -> cbor.Value:
    """Strict: no key twice, no number that is none (RFC 8259; two readers could disagree about either)."""

    def once(pairs: list[tuple[str, cbor.Value]]) -> cbor.Value:
        fields: dict[str | int | bytes, cbor.Value] = dict(pairs)
        if len(fields) != len(pairs):
            raise ValueError("a key occurs twice")
        return fields

    def refused(name: str) -> float:
        raise ValueError(f"{name} is no number")

    value: cbor.Value = json.loads(content.decode(), object_pairs_hook=once, parse_constant=refused)
    return value


def _folded(body: Fields) -> Fields:
    """JSON-LD properties by lower-case name: writers disagree about `exif:` and `EXIF:`."""
    return {key.lower(): value for key, value in reversed(body.items())}


def _found(metadata: Iterable[Fields], names: tuple[str, ...]) -> list[str]:
    return [text for body in metadata for name in names for text in _texts(body.get(name))]


def _texts(value: cbor.Value, depth: int = 4) -> list[str]:
    """The texts in a JSON-LD value: alone, in a list, or with a language."""
    match value:
        case str():
            return [value]
        case list() if depth:
            return [text for item in value for text in _texts(item, depth - 1)]
        case dict() if depth:
            return [text for key in ("@value", "@list", "name") for text in _texts(value.get(key), depth - 1)]
        case cbor.Tag() if depth:
            return _texts(value.value, depth - 1)
        case _:
            return []


def _word(value: cbor.Value) -> str:
    return next(iter(_texts(value)), "")


def _dicts(value: cbor.Value) -> Iterator[Fields]:
    for item in value if isinstance(value, list) else ():
        if isinstance(item, dict):
            yield {key: content for key, content in item.items() if isinstance(key, str)}


def _title(value: cbor.Value) -> str | None:
    return plain(_word(value), 200) or None


def _generator(claim: Fields) -> str | None:
    """A version 2 claim holds one map here, a version 1 claim a list (C2PA 2.2, 10.2.1)."""
    given = claim.get("claim_generator_info")
    first = next(_dicts(given if isinstance(given, list) else [given]), {})
    named = " ".join(text for text in (_word(first.get("name")), _word(first.get("version"))) if text)
    return plain(named, 120) or _title(claim.get("claim_generator"))


def _device(makes: tuple[str, ...], models: tuple[str, ...]) -> str | None:
    make, model = next(iter(makes), ""), next(iter(models), "")
    repeated = make and model.casefold().startswith(make.casefold())
    return (model if repeated else f"{make} {model}".strip()) or None


def _authors(works: Iterable[Fields]) -> list[str]:
    return [name for body in works for name in _texts(body.get("author"))]


def _named_place(body: Fields) -> tuple[str, str]:
    """City and country, of the picture or of the location where it was made (IPTC Photo Metadata)."""
    location = body.get(_LOCATION[0])
    inner = next(map(_folded, _dicts(location if isinstance(location, list) else [location])), {})
    city, country = (_found([body, inner], names) for names in (_CITY, _COUNTRY))
    return next(iter(city), ""), next(iter(country), "")


def _place(coordinates: tuple[tuple[float, float], ...], named: tuple[str, ...]) -> str | None:
    parts = [_position(*coordinates[0])] if coordinates else []
    return "; ".join([*parts, *named[:1]]) or None


def _position(latitude: float, longitude: float) -> str:
    north, east = "N" if latitude >= 0 else "S", "E" if longitude >= 0 else "W"
    return f"{abs(latitude):.4f} {north}, {abs(longitude):.4f} {east}"


def _degrees(value: cbor.Value, reference: cbor.Value, letters: str, most: int) -> float | None:
    """Degrees on one axis, negative to the second of its two letters; `None` if it cannot be meant."""
    side = _word(reference)[:1].upper()
    degrees = _number(value) if isinstance(value, int | float) else math.nan
    for text in (text.strip() for text in _texts(value)[:1]):
        if match := _COORDINATE.fullmatch(text):
            whole, minutes, seconds, side = match[1], float(match[2]), float(match[3] or 0), match[4]
            degrees = int(whole) + minutes / 60 + seconds / 3600 if max(minutes, seconds) < 60 else math.nan
        elif match := _DECIMAL.fullmatch(text):
            degrees, side = float(match[1]), match[2] or side
    if side not in ("", *letters) or not abs(degrees) <= most or (side and degrees < 0):
        return None
    return -degrees if side == letters[1] else degrees


def _number(value: float) -> float:
    """`value` as a float; no number if it is a truth value, or an integer beyond all places."""
    return float(value) if not isinstance(value, bool) and abs(value) <= 180 else math.nan
