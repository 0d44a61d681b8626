"""List where the signer's statements do not go together with each other, or with what else is known; pure.

A contradiction accuses nobody: clocks are wrong, files are moved, and anybody
can write EXIF and XMP. It is listed beside what the signer says, and no
headline depends on it. Not compared: names of places and people, and what
ingredients say.
"""

import math
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

from authn.evidence import CertificateFacts, Claims, Window
from authn.plain import plain
from detector.metadata import Metadata

DAY: Final = timedelta(days=1)
CLOCK: Final = timedelta(minutes=5)
"""By how much two clocks that are both right may differ here."""
NEAR: Final = 1.0
"""Kilometres within which two positions are one place."""

_EARTH: Final = 6371.0088
_CAPTURE: Final = {"digitalcapture", "computationalcapture"}
_SYNTHETIC: Final = {"trainedalgorithmicmedia", "algorithmicmedia", "composite", "compositesynthetic"}
_MIXED: Final = "compositewithtrainedalgorithmicmedia"
_CREATED: Final = "c2pa.created"
# Actions that leave the picture as it is (C2PA 2.2, 18.14.3).
_NO_EDIT: Final = {_CREATED, "c2pa.published", "c2pa.repackaged", "c2pa.transcoded", "c2pa.converted"}
_EDITORS: Final = re.compile(
    r"\b(photoshop|lightroom|illustrator|firefly|gimp|affinity|capture one|pixelmator|paint\.net|luminar|topaz"
    r"|snapseed|picsart|facetune|canva|midjourney|dall[-·•. ]?e|stable diffusion|comfyui|automatic1111"
    r"|generative fill|imagen|gemini|chatgpt)\b",
    re.IGNORECASE,
)
_TIME: Final = re.compile(
    r"(\d{4})([-:])(\d\d)\2(\d\d)(?:[T ](\d\d):(\d\d)(?::(\d\d)(?:\.\d{1,9})?)?)? ?(Z|[+-]\d\d:\d\d)?",
    re.ASCII | re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class Contradiction:
    """Two statements that cannot both be exact; which of them is wrong is not known."""

    subject: str
    one: str
    other: str

    @property
    def sentence(self) -> str:
        """Both statements in one plain sentence."""
        return f"{self.one[:1].upper()}{self.one[1:]}; {self.other}."


def contradictions(
    claims: Claims, metadata: Metadata | None, window: Window, certificate: CertificateFacts | None
) -> tuple[Contradiction, ...]:
    """Every contradiction found; `metadata` is `None` where it was not read."""
    found = [
        *_time_against_proof(claims, window),
        *_time_against_certificate(claims, certificate),
        *_between_assertions(claims),
        *_kinds_of_source(claims),
    ]
    if metadata is not None:
        found += [
            *_time_against_exif(claims, metadata),
            *_camera_against_exif(claims, metadata),
            *_place_against_exif(claims, metadata),
            *_source_against_xmp(claims, metadata),
            *_editor_in_metadata(claims, metadata),
        ]
    return tuple(found)


# --- Time


@dataclass(frozen=True, slots=True)
class _Moment:
    """A stated time, and how far its clock may be from UTC."""

    at: datetime
    slack: timedelta

    @classmethod
    def parse(cls, text: str | None) -> "_Moment | None":
        """A time in RFC 3339 or as EXIF writes it, or a date; `None` for what is neither."""
        match = _TIME.fullmatch((text or "").strip())
        if match is None:
            return None
        year, _, month, day, hour, minute, second, zone = match.groups(default="")
        clock = f"{hour or '00'}:{minute or '00'}:{second or '00'}"
        known = zone and hour
        try:
            read = datetime.fromisoformat(
                f"{year}-{month}-{day}T{clock}{zone.upper() if known else '+00:00'}"
            )
            return cls(read.astimezone(UTC), CLOCK if known else DAY)
        except (ValueError, OverflowError):
            return None

    def apart(self, other: "_Moment") -> bool:
        """Whether more than a day lies between them; less may be the zone of a camera's clock."""
        return abs(self.at - other.at) > DAY


def _stated_times(claims: Claims) -> Iterator[tuple[str, str, _Moment]]:
    """What the signer says happened when: the subject, the statement, the moment."""
    captured = next(iter(claims.capture_times), None)
    stated = (
        ("time", "the signer says that the first action was at", claims.claimed_at),
        ("capture time", "the signer says that the capture was at", captured),
    )
    for subject, words, text in stated:
        moment = _Moment.parse(text)
        if text is not None and moment is not None:
            yield subject, f"{words} {_quoted(text)}", moment


def _time_against_proof(claims: Claims, window: Window) -> Iterator[Contradiction]:
    for subject, says, moment in _stated_times(claims):
        if window.not_after is not None and moment.at - window.not_after > moment.slack:
            yield Contradiction(
                subject, says, f"it is proven that the signature is no later than {_shown(window.not_after)}"
            )


def _time_against_certificate(
    claims: Claims, certificate: CertificateFacts | None
) -> Iterator[Contradiction]:
    """A key cannot have signed at capture before it was certified; files that were opened may be older."""
    for subject, says, moment in _stated_times(claims):
        if _made_here(claims) and certificate is not None and certificate.not_before - moment.at > DAY:
            since = _shown(certificate.not_before)
            yield Contradiction(subject, says, f"the signer's key was certified only from {since}")


def _time_against_exif(claims: Claims, metadata: Metadata) -> Iterator[Contradiction]:
    """When the picture was made, by the signer and by EXIF; the time of a later edit is neither."""
    taken = _Moment.parse(f"{metadata.taken_at or ''}{metadata.offset or ''}") or _Moment.parse(
        metadata.taken_at
    )
    for subject, says, moment in _stated_times(claims):
        comparable = subject == "capture time" or _made_here(claims)
        if taken is not None and comparable and moment.apart(taken):
            yield Contradiction(
                subject, says, f"the file's EXIF says that it was taken at {_quoted(metadata.taken_at)}"
            )


def _made_here(claims: Claims) -> bool:
    """Whether the signer says that the picture began with them, or nothing about that."""
    return "c2pa.opened" not in claims.actions and (_CREATED in claims.actions or not claims.actions)


# --- Camera, place and source


def _between_assertions(claims: Claims) -> Iterator[Contradiction]:
    """The first statement of each kind against those that differ from it."""
    says, also = "the signer says {} in one place", "the signer says {} in another"
    for subject, values, same in (
        ("camera make", claims.makes, _same_make),
        ("camera model", claims.models, lambda one, other: _same_model(one, other, claims.makes)),
        ("capture time", claims.capture_times, _same_time),
    ):
        for other in [value for value in values[1:] if not same(values[0], value)][:1]:
            yield Contradiction(subject, says.format(_quoted(values[0])), also.format(_quoted(other)))
    places = [place for place in claims.coordinates if _on_earth(place)]
    for place in [place for place in places[1:] if _kilometres(places[0], place) > NEAR][:1]:
        yield Contradiction("place", says.format(_position(places[0])), also.format(_position(place)))
    stated = {subject: moment for subject, _, moment in _stated_times(claims)}
    if len(stated) == 2 and _CREATED in claims.actions[:1] and stated["time"].apart(stated["capture time"]):
        made, taken = _quoted(claims.claimed_at), _quoted(claims.capture_times[0])
        yield Contradiction(
            "time", f"the signer says that the file was made at {made}", f"and that it was taken at {taken}"
        )


def _camera_against_exif(claims: Claims, metadata: Metadata) -> Iterator[Contradiction]:
    says, exif = "the signer says that the camera's {} is {}", "the file's EXIF says {}"
    make, model = next(iter(claims.makes), ""), next(iter(claims.models), "")
    if make and metadata.make and not _same_make(make, metadata.make):
        yield Contradiction(
            "camera make", says.format("make", _quoted(make)), exif.format(_quoted(metadata.make))
        )
    if model and metadata.model and not _same_model(model, metadata.model, (make, metadata.make or "")):
        yield Contradiction(
            "camera model", says.format("model", _quoted(model)), exif.format(_quoted(metadata.model))
        )


def _place_against_exif(claims: Claims, metadata: Metadata) -> Iterator[Contradiction]:
    place, there = next(iter(claims.coordinates), None), metadata.gps
    if place is None or there is None or not (_on_earth(place) and _on_earth(there)):
        return
    if (distance := _kilometres(place, there)) > NEAR:
        yield Contradiction(
            "place",
            f"the signer says that the place is {_position(place)}",
            f"the file's EXIF says {_position(there)}, which is {distance:.1f} km away",
        )


def _source_against_xmp(claims: Claims, metadata: Metadata) -> Iterator[Contradiction]:
    stated = {kind.casefold() for kind in claims.source_types}
    if stated and metadata.source_type and metadata.source_type.casefold() not in stated:
        yield Contradiction(
            "source",
            f"the signer says that the source is {_listed(claims.source_types)}",
            f"the file's XMP says {_quoted(metadata.source_type)}",
        )


def _kinds_of_source(claims: Claims) -> Iterator[Contradiction]:
    """Captured and made up; an edit that mixes both is no contradiction where an edit is stated."""
    made_up = _SYNTHETIC if _edits(claims) else {*_SYNTHETIC, _MIXED}
    others = [kind for kind in claims.source_types if kind.casefold() in made_up]
    captures = [kind for kind in claims.source_types if kind.casefold() in _CAPTURE]
    if captures and others:
        yield Contradiction(
            "source",
            f"the signer says {_quoted(captures[0])} of the file's source",
            f"and {_listed(others)} as well",
        )


def _editor_in_metadata(claims: Claims, metadata: Metadata) -> Iterator[Contradiction]:
    kinds = {kind.casefold() for kind in claims.source_types}
    if not kinds or not kinds <= _CAPTURE or _edits(claims):
        return
    for block, program in (("EXIF", metadata.software), ("XMP", metadata.creator_tool)):
        if program and _EDITORS.search(plain(program, 200)):
            yield Contradiction(
                "editing",
                f"the signer says {_listed(claims.source_types)} and names no edit",
                f"the file's {block} names the program {_quoted(program)}",
            )
            return


def _edits(claims: Claims) -> bool:
    return any(action not in _NO_EDIT for action in claims.actions)


# --- When two values are the same


def _words(text: str) -> list[str]:
    return re.findall(r"\w+", plain(text, 200).casefold())


def _same_make(one: str, other: str) -> bool:
    """'NIKON CORPORATION' is 'Nikon': one name is contained in the other."""
    first, second = set(_words(one)), set(_words(other))
    return first <= second or second <= first


def _same_model(one: str, other: str, makes: Iterable[str]) -> bool:
    """'Canon EOS R5' is 'EOS R5', and 'Z 6' is 'Z6'; 'EOS R5' is not 'EOS R5 II'."""
    maker = {word for make in makes for word in _words(make)}
    first, second = ("".join(word for word in _words(text) if word not in maker) for text in (one, other))
    return first == second


def _same_time(one: str, other: str) -> bool:
    first, second = _Moment.parse(one), _Moment.parse(other)
    return first is None or second is None or not first.apart(second)


def _on_earth(place: tuple[float, float]) -> bool:
    """Whether both numbers are degrees; not so for what is no number."""
    return abs(place[0]) <= 90 and abs(place[1]) <= 180


def _kilometres(one: tuple[float, float], other: tuple[float, float]) -> float:
    """The distance on a sphere (haversine)."""
    north, other_north = math.radians(one[0]), math.radians(other[0])
    half = math.sin((other_north - north) / 2) ** 2
    half += math.cos(north) * math.cos(other_north) * math.sin(math.radians(other[1] - one[1]) / 2) ** 2
    return 2 * _EARTH * math.asin(math.sqrt(min(half, 1.0)))


# --- How they are shown


def _quoted(text: str | None) -> str:
    """What a file says, in marks that it cannot close."""
    inside = plain(text or "", 60).replace("”", "'")
    return f"“{inside}”"


def _listed(texts: tuple[str, ...] | list[str]) -> str:
    return " and ".join(_quoted(text) for text in list(dict.fromkeys(texts))[:3])


def _position(place: tuple[float, float]) -> str:
    north, east = "N" if place[0] >= 0 else "S", "E" if place[1] >= 0 else "W"
    return f"{abs(place[0]):.4f} {north}, {abs(place[1]):.4f} {east}"


def _shown(at: datetime) -> str:
    return f"{at.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"
