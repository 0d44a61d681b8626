"""Every file of the shared samples goes the whole way: signed, recorded, checked by us and by others."""

import csv
import io
import os
import struct
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import encypher_c2pa
import pytest
from PIL import Image

from authn import cose, jumbf
from authn.evidence import History
from authn.manifest import Sdk
from authn.media import Kind, Media
from detector.frames import pixels_digest
from tools import programs
from tools.capture import Signed
from tools.check import Chosen, beliefs, check_files
from tools.examine import Tail
from tools.home import Home
from tools.report import Report
from tools.signing import signed_files

CHUNK = 64
ORIENTATION = 0x0112


def now() -> datetime:
    return datetime.now(UTC)


@dataclass(frozen=True, slots=True)
class Sealed:
    """A sample, and what signing made of it."""

    source: Path
    outcome: Signed | Exception

    @property
    def signed(self) -> Signed:
        assert isinstance(self.outcome, Signed), self.outcome
        return self.outcome


@pytest.fixture(scope="module")
def sealed(home: Home, shared: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Sealed, ...]:
    """Every sample, signed by the device as it comes; one worker reads them all."""
    sources = sorted(path for path in (shared / "samples").glob("*/*") if path.is_file())
    out = tmp_path_factory.mktemp("samples")
    outcomes = signed_files(home, sources, out, "cam", now, timed=True)
    return tuple(Sealed(source, outcome) for source, outcome in zip(sources, outcomes, strict=True))


@pytest.fixture(scope="module")
def carried(
    home: Home, sealed: tuple[Sealed, ...], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Sealed, ...]:
    """Every sample signed; those whose cameras leave bytes after the picture with the consent that needs."""
    refused = [each.source for each in sealed if isinstance(each.outcome, Exception)]
    out = tmp_path_factory.mktemp("with-trailing-bytes")
    outcomes = signed_files(home, refused, out, "cam", now, timed=True, tail=Tail.SIGNED)
    signed = tuple(Sealed(source, outcome) for source, outcome in zip(refused, outcomes, strict=True))
    assert all("signed with it" in each.signed.note for each in signed)
    return (*(each for each in sealed if isinstance(each.outcome, Signed)), *signed)


def examined(home: Home, paths: list[Path]) -> Iterator[tuple[Path, Report]]:
    with beliefs(home, Chosen(), now()) as held:
        for path, (report, _) in zip(
            paths, check_files([str(path) for path in paths], held, None), strict=True
        ):
            yield path, report


def kind_of(path: Path) -> Kind:
    with path.open("rb") as stream:
        return Media.of(stream, path.name, 1 << 32).kind


def test_every_sample_is_signed_unless_something_is_appended_to_it(
    sealed: tuple[Sealed, ...], shared: Path
) -> None:
    with (shared / "samples" / "manifest.csv").open(newline="") as table:
        assert len(sealed) >= len(list(csv.DictReader(table))) > 40
    refused = [each.outcome for each in sealed if isinstance(each.outcome, Exception)]
    assert {getattr(error, "code", repr(error)) for error in refused} <= {"media-trailing-bytes"}
    assert len(refused) < len(sealed) / 10
    for each in sealed:
        if isinstance(each.outcome, Exception):
            last = each.source.read_bytes().rfind(b"\xff\xd9")
            assert kind_of(each.source) is Kind.JPEG
            assert last + 2 != each.source.stat().st_size or b"\xff\xd9" in each.source.read_bytes()[:last]


def test_every_signed_sample_is_intact_recognised_and_dated(home: Home, carried: tuple[Sealed, ...]) -> None:
    assert len(carried) > 40
    for path, report in examined(home, [each.signed.media for each in carried]):
        found = report.verdict.provenance
        assert found is not None
        assert report.verdict.headline.value == "INTACT_SIGNER_RECOGNISED", path.name
        assert found.time.not_after is not None
        assert report.verdict.recorded.state.value == "included"
        assert found.history is History.NONE


def test_one_changed_media_byte_is_a_changed_file(
    home: Home, carried: tuple[Sealed, ...], tmp_path: Path
) -> None:
    flipped = []
    for each in carried:
        signed, original = bytearray(each.signed.media.read_bytes()), each.source.read_bytes()
        signed[place_of_media(original, bytes(signed))] ^= 1
        path = tmp_path / f"{len(flipped)}-{each.source.name}"
        path.write_bytes(signed)
        flipped.append(path)
    for path, report in examined(home, flipped):
        assert report.verdict.headline.value == "CHANGED_AFTER_SIGNING", path.name


def place_of_media(original: bytes, signed: bytes) -> int:
    """Where a piece from the later part of the original, which occurs once, lies in the signed file."""
    for share in (0.7, 0.6, 0.8, 0.5, 0.9):
        at = int(len(original) * share)
        piece = original[at : at + CHUNK]
        if len(piece) == CHUNK and signed.count(piece) == 1:
            return signed.index(piece) + CHUNK // 2
    raise AssertionError("no piece of the original occurs once in the signed file")


def test_pixels_exif_and_orientation_are_those_of_the_original(carried: tuple[Sealed, ...]) -> None:
    oriented = 0
    for each in carried:
        kind = kind_of(each.source)
        if not kind.is_image:
            continue
        before, after = each.source.read_bytes(), each.signed.media.read_bytes()
        if kind is Kind.HEIC and not can_decode_heic():
            continue
        assert pixels_digest(before, kind.value) == pixels_digest(after, kind.value), each.source.name
        with Image.open(io.BytesIO(before)) as old, Image.open(io.BytesIO(after)) as new:
            assert old.info.get("exif") == new.info.get("exif"), each.source.name
            assert old.getexif().get(ORIENTATION) == new.getexif().get(ORIENTATION), each.source.name
            oriented += old.getexif().get(ORIENTATION, 1) != 1
    assert oriented >= 5


def can_decode_heic() -> bool:
    try:
        import pillow_heif  # noqa: PLC0415 - an extra that need not be installed
    except ImportError:
        return False
    pillow_heif.register_heif_opener()
    return True


def test_another_verifier_agrees_that_every_signed_sample_is_intact(
    home: Home, carried: tuple[Sealed, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ENCYPHER_C2PA_CONFIG_DIR", str(tmp_path))
    monkeypatch.setenv("ENCYPHER_C2PA_TELEMETRY", "off")
    monkeypatch.setenv("ENCYPHER_C2PA_ONLINE", "off")
    anchors = (home.path / "trust" / "signers.pem").read_text()
    for each in carried:
        kind = kind_of(each.signed.media)
        content = each.signed.media.read_bytes()
        report = encypher_c2pa.verify(
            content, kind.value, trust_pem=anchors, no_default_trust=True, telemetry=False, online=False
        )
        assert (report["integrity"], report["signature"], report["hard_binding"]) == (
            "valid",
            "valid",
            "match",
        ), each.source.name
        flipped = bytearray(content)
        flipped[place_of_media(each.source.read_bytes(), content)] ^= 1
        changed = encypher_c2pa.verify(
            bytes(flipped), kind.value, no_default_trust=True, telemetry=False, online=False
        )
        assert changed["integrity"] != "valid", each.source.name


@pytest.mark.needs("openssl")
def test_openssl_accepts_the_token_of_every_signed_sample(
    home: Home, carried: tuple[Sealed, ...], tmp_path: Path
) -> None:
    openssl = programs.named("openssl").path
    assert openssl is not None
    data, token = tmp_path / "data", tmp_path / "token.der"
    command = [openssl, "ts", "-verify", "-data", data, "-in", token, "-token_in"]
    command += ["-CAfile", home.path / "trust" / "time-stampers.pem"]
    with Sdk() as sdk:
        for each in carried:
            stamp = stamp_of(each.signed.media, sdk)
            assert stamp.token == each.signed.provenance.token
            token.write_bytes(stamp.token)
            data.write_bytes(stamp.message)
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            assert (done.returncode, "Verification: OK" in done.stdout + done.stderr) == (0, True), (
                done.stderr
            )
    data.write_bytes(data.read_bytes() + b"\0")
    assert subprocess.run(command, capture_output=True, check=False).returncode != 0


def stamp_of(path: Path, sdk: Sdk) -> cose.Stamp:
    with path.open("rb") as stream:
        reading = sdk.read(Media.of(stream, path.name, 1 << 32))
    active = next(box for box in jumbf.parse(reading.store) if box.label == reading.active)
    stamp = cose.parse(active.signature, active.claim).stamp
    assert stamp is not None
    return stamp


# --- The types that the shared samples lack, made here


def _encoded(name: str, **options: object) -> Callable[[], bytes]:
    def make() -> bytes:
        out = io.BytesIO()
        noise = Image.frombytes("RGB", (64, 64), os.urandom(64 * 64 * 3))
        (noise.quantize(64) if name == "GIF" else noise).save(out, name, **options)
        return out.getvalue()

    return make


def _avi() -> bytes:
    def chunk(name: bytes, body: bytes) -> bytes:
        return name + struct.pack("<I", len(body)) + body + b"\0" * (len(body) % 2)

    header = chunk(b"avih", struct.pack("<14I", 40000, 0, 0, 0, 1, 0, 1, 0, 16, 16, 0, 0, 0, 0))
    stream = chunk(b"strh", b"vidsDIB " + bytes(48)) + chunk(
        b"strf", struct.pack("<IiiHHIIiiII", 40, 16, 16, 1, 24, 0, 768, 0, 0, 0, 0)
    )
    headers = chunk(b"LIST", b"hdrl" + header + chunk(b"LIST", b"strl" + stream))
    frames = chunk(b"LIST", b"movi" + chunk(b"00db", os.urandom(768)))
    return chunk(b"RIFF", b"AVI " + headers + frames)


def _pdf() -> bytes:
    out, offsets = b"%PDF-1.4\n", []
    page = b"q 0 0 1 rg " + b"".join(b"%d 0 10 10 re f " % at for at in range(90)) + b"Q"
    for number, body in enumerate(
        (
            b"<</Type/Catalog/Pages 2 0 R>>",
            b"<</Type/Pages/Kids[3 0 R]/Count 1>>",
            b"<</Type/Page/Parent 2 0 R/MediaBox[0 0 99 99]/Contents 4 0 R>>",
            b"<</Length %d>>stream\n%s\nendstream" % (len(page), page),
        ),
        1,
    ):
        offsets.append(len(out))
        out += b"%d 0 obj%s endobj\n" % (number, body)
    table = b"".join(b"%010d 00000 n \n" % offset for offset in offsets)
    end = b"xref\n0 5\n0000000000 65535 f \n%strailer<</Size 5/Root 1 0 R>>\nstartxref\n%d\n%%%%EOF\n"
    return out + end % (table, len(out))


def _svg() -> bytes:
    circles = "".join(f'<circle cx="{at}" cy="{at * 7 % 90}" r="3"/>' for at in range(90))
    return f'<svg xmlns="http://www.w3.org/2000/svg" width="90" height="90">{circles}</svg>'.encode()


def _dng() -> bytes:
    from PIL.TiffImagePlugin import ImageFileDirectory_v2  # noqa: PLC0415

    tags = ImageFileDirectory_v2()
    tags[0xC612] = bytes((1, 4, 0, 0))
    tags.tagtype[0xC612] = 1
    return _encoded("TIFF", tiffinfo=tags)()


def _flac() -> bytes:
    """One verbatim frame of 192 samples, 8 bits, one channel."""
    samples = os.urandom(192)
    info = struct.pack(">HH", 192, 192) + bytes(6)
    info += ((44100 << 44) | (0 << 41) | (7 << 36) | 192).to_bytes(8, "big") + bytes(16)
    head = bytes((0xFF, 0xF8, 0b0001_1001, 0b0000_0010, 0))
    frame = head + bytes((crc(head, 8, 0x07),)) + b"\x02" + samples
    frame += crc(frame, 16, 0x8005).to_bytes(2, "big")
    return b"fLaC" + b"\x80" + len(info).to_bytes(3, "big") + info + frame


def crc(data: bytes, bits: int, polynomial: int) -> int:
    value, top = 0, 1 << bits - 1
    for byte in data:
        value ^= byte << bits - 8
        for _ in range(8):
            value = (value << 1 ^ polynomial if value & top else value << 1) & (1 << bits) - 1
    return value


def _mov(shared: Path) -> bytes:
    movie = (shared / "samples" / "mp4" / "sample_mpeg4.mp4").read_bytes()
    size = int.from_bytes(movie[:4], "big")
    brands = b"qt  " + movie[12:16] + b"qt  " * ((size - 16) // 4)
    return movie[:8] + brands + movie[size:]


MADE = {
    Kind.TIFF: _encoded("TIFF"),
    Kind.GIF: _encoded("GIF"),
    Kind.DNG: _dng,
    Kind.AVI: _avi,
    Kind.PDF: _pdf,
    Kind.SVG: _svg,
    Kind.FLAC: _flac,
    Kind.JPEG: _encoded("JPEG"),
    Kind.PNG: _encoded("PNG"),
    Kind.WEBP: _encoded("WEBP", lossless=True),
}


def test_every_type_the_samples_lack_is_signed_too(home: Home, tmp_path: Path, shared: Path) -> None:
    contents = {kind: make() for kind, make in MADE.items()} | {Kind.MOV: _mov(shared)}
    sources = []
    for kind, content in contents.items():
        source = tmp_path / f"made.{kind.name.lower()}"
        source.write_bytes(content)
        assert kind_of(source) is kind
        sources.append(source)
    outcomes = dict(
        zip(sources, signed_files(home, sources, tmp_path / "out", "cam", now, timed=True), strict=True)
    )
    assert {
        source.name: outcome for source, outcome in outcomes.items() if isinstance(outcome, Exception)
    } == {}
    flipped = []
    for source in sources:
        signed = bytearray((tmp_path / "out" / source.name).read_bytes())
        signed[place_of_media(source.read_bytes(), bytes(signed))] ^= 1
        (tmp_path / f"flipped-{source.name}").write_bytes(signed)
        flipped.append(tmp_path / f"flipped-{source.name}")
    heads = {path.name: report.verdict.headline.value for path, report in examined(home, flipped)}
    assert set(heads.values()) <= {"CHANGED_AFTER_SIGNING"}, heads


def test_every_type_is_in_the_samples_or_made_here(shared: Path) -> None:
    kinds = {kind_of(path) for path in (shared / "samples").glob("*/*") if path.is_file()}
    assert kinds | set(MADE) | {Kind.MOV} == set(Kind)


def test_a_broken_heic_is_still_refused(home: Home, shared: Path, tmp_path: Path) -> None:
    whole = (shared / "samples" / "heic" / "IMG_2927.HEIC").read_bytes()
    (tmp_path / "cut.heic").write_bytes(whole[: len(whole) // 2])
    (outcome,) = signed_files(home, [tmp_path / "cut.heic"], tmp_path / "out", "cam", now, timed=True)
    assert isinstance(outcome, Exception)
    assert list((tmp_path / "out").iterdir()) == []
