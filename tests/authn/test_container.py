"""Every cut and every addition is refused where the format can show it; the exceptions are listed by name."""

import contextlib
import io
import itertools
import struct
import time
import wave
import zipfile
import zlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from authn.container import check_whole
from authn.errors import (
    EmptyMediaError,
    MalformedMediaError,
    MediaError,
    MediaTooLargeError,
    TrailingBytesError,
    TruncatedMediaError,
    UnknownMediaError,
)
from authn.media import CHUNK, Kind, Media

EVIL = b"PK\x03\x04evil"


def check(data: bytes) -> None:
    check_whole(Media.of(io.BytesIO(data), "photo.jpg", 1 << 30))


# --- one small whole file of each kind ---------------------------------------------------------


def picture(form: str, size: tuple[int, int] = (24, 16), **options: object) -> bytes:
    out = io.BytesIO()
    image = Image.linear_gradient("L").resize(size).convert("RGB")
    image.save(out, form, **options)
    return out.getvalue()


def animated_gif() -> bytes:
    colours = [Image.new("RGB", (9, 9), colour) for colour in ("red", "green", "blue")]
    out = io.BytesIO()
    colours[0].save(out, "GIF", save_all=True, append_images=colours[1:], duration=50)
    return out.getvalue()


def two_pictures() -> bytes:
    first, second = Image.new("RGB", (16, 16), "red"), Image.new("L", (8, 8), 40)
    out = io.BytesIO()
    first.save(out, "MPO", save_all=True, append_images=[second])
    return out.getvalue()


def chunk(name: bytes, data: bytes) -> bytes:
    return name + struct.pack("<I", len(data)) + data + bytes(len(data) % 2)


def wav() -> bytes:
    out = io.BytesIO()
    with wave.open(out, "wb") as sound:
        sound.setnchannels(1)
        sound.setsampwidth(2)
        sound.setframerate(8000)
        sound.writeframes(bytes(range(200)))
    return out.getvalue()


def avi(continuations: int = 1) -> bytes:
    first = b"AVI " + chunk(b"LIST", b"hdrl" + bytes(8)) + chunk(b"LIST", b"movi" + chunk(b"00dc", b"frame!"))
    more = b"AVIX" + chunk(b"LIST", b"movi" + chunk(b"00dc", b"more.."))
    return chunk(b"RIFF", first) + chunk(b"RIFF", more) * continuations


def box(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", 8 + len(data)) + name + data


def movie(major: bytes = b"isom", *, offsets: tuple[int, ...] = (40,)) -> bytes:
    """`mdat` before `moov`, as a recorder writes."""
    table = box(b"stco", bytes(4) + struct.pack(f">I{len(offsets)}I", len(offsets), *offsets))
    tracks = box(b"trak", box(b"mdia", box(b"minf", box(b"stbl", table))))
    return box(b"ftyp", major + bytes(8)) + box(b"mdat", b"frames" * 20) + box(b"moov", tracks)


def fast_start_movie() -> bytes:
    table = box(b"co64", bytes(4) + struct.pack(">I2Q", 2, 120, 150))
    tracks = box(b"trak", box(b"mdia", box(b"minf", box(b"stbl", table))))
    return box(b"ftyp", b"mp42" + bytes(8)) + box(b"moov", tracks) + box(b"mdat", b"frames" * 20)


def heic() -> bytes:
    head = box(b"ftyp", b"heic" + bytes(4) + b"mif1")
    location = bytes([0, 0, 0, 0, 0x44, 0]) + struct.pack(">HHHHII", 1, 1, 0, 1, 0, 30)
    size = len(box(b"meta", bytes(4) + box(b"iloc", location)))
    location = bytes([0, 0, 0, 0, 0x44, 0]) + struct.pack(">HHHHII", 1, 1, 0, 1, len(head) + size + 8, 30)
    return head + box(b"meta", bytes(4) + box(b"iloc", location)) + box(b"mdat", bytes(30))


def mp3(frames: int = 4, stated: int | None = None) -> bytes:
    tag = b"ID3\4\0\0\0\0\0\5title"
    frame = b"\xff\xfb\x90\x00" + bytes(413)
    if stated is None:
        return tag + frame * frames
    index = b"\xff\xfb\x90\x00" + bytes(32) + b"Info" + struct.pack(">II", 1, stated)
    return tag + index.ljust(417, b"\0") + frame * frames


def remainder(data: bytes, width: int, polynomial: int) -> bytes:
    """RFC 9639, 9.1.8 and 9.3, as long division over single bits; slow, and only here."""
    bits = [byte >> 7 - n & 1 for byte in data for n in range(8)] + [0] * width
    divisor = [1] + [polynomial >> width - 1 - n & 1 for n in range(width)]
    for at in range(len(data) * 8):
        if bits[at]:
            for n, bit in enumerate(divisor):
                bits[at + n] ^= bit
    return int("".join(map(str, bits[-width:])), 2).to_bytes(width // 8, "big")


def flac(frames: int = 3, stated: int | None = None) -> bytes:
    """Constant subframes of 192 samples, mono, 16 bit."""
    samples = 192 * frames if stated is None else stated
    stream_info = (
        struct.pack(">HH", 192, 192)
        + bytes(6)
        + (44100 << 44 | 15 << 36 | samples).to_bytes(8, "big")
        + bytes(16)
    )
    data = b"fLaC" + b"\0" + len(stream_info).to_bytes(3, "big") + stream_info + b"\x81\0\0\x04pads"
    for number in range(frames):
        header = bytes([0xFF, 0xF8, 0x19, 0x08, number])
        frame = header + remainder(header, 8, 0x07) + b"\0" + bytes([number, 7])
        data += frame + remainder(frame, 16, 0x8005)
    return data


def pdf() -> bytes:
    body = b"%PDF-1.4\n1 0 obj\n<< /Type /Catalog >>\nendobj\n"
    table = b"xref\n0 1\n0000000000 65535 f \ntrailer\n<< /Root 1 0 R >>\n"
    return body + table + b"startxref\n%d\n%%%%EOF" % len(body)


SVG = b'<?xml version="1.0"?>\n<!-- one -->\n<svg xmlns="http://www.w3.org/2000/svg"><g><path/></g></svg>'

WHOLE = {
    "jpeg": picture("JPEG"),
    "jpeg_progressive": picture("JPEG", progressive=True),
    "jpeg_with_restarts": picture("JPEG", restart_marker_blocks=1),
    "jpeg_two_pictures": two_pictures(),
    "png": picture("PNG"),
    "webp": picture("WEBP"),
    "webp_lossless": picture("WEBP", lossless=True),
    "gif": picture("GIF"),
    "gif_animated": animated_gif(),
    "tiff": picture("TIFF"),
    "dng": picture("TIFF", tiffinfo={0xC612: b"\1\4\0\0"}),
    "avif": picture("AVIF"),
    "heic": heic(),
    "wav": wav(),
    "avi_with_continuation": avi(),
    "mp4": movie(),
    "mp4_fast_start": fast_start_movie(),
    "mov": movie(b"qt  "),
    "mp3_that_states_its_length": mp3(4, stated=4),
    "flac": flac(),
    "flac_behind_a_tag": b"ID3\4\0\0\0\0\0\5title" + flac(),
    "pdf": pdf(),
    "svg": SVG,
}
# A cut before a continuation leaves a whole file.
CUT_UNSEEN = {"avi_with_continuation": {len(avi(continuations=0))}}
ENDLESS = {"tiff", "dng"}


# --- whole, cut, appended ----------------------------------------------------------------------


@pytest.mark.parametrize("name", WHOLE)
def test_a_whole_file_passes(name):
    check(WHOLE[name])


def test_every_kind_is_walked():
    assert {Media.of(io.BytesIO(data), "", 1 << 20).kind for data in WHOLE.values()} == set(Kind)


@pytest.mark.parametrize("name", WHOLE)
def test_a_file_cut_at_any_point_never_passes(name):
    data = WHOLE[name]
    for length in set(range(len(data))) - CUT_UNSEEN.get(name, set()):
        with pytest.raises(
            (TruncatedMediaError, MalformedMediaError, TrailingBytesError, UnknownMediaError, EmptyMediaError)
        ):
            check(data[:length])


@pytest.mark.parametrize("name", WHOLE)
@pytest.mark.parametrize("share", [0.999, 0.5])
def test_a_cut_file_is_called_truncated(name, share):
    data = WHOLE[name]
    length = min(int(len(data) * share), len(data) - 1)
    if length in CUT_UNSEEN.get(name, set()):
        length -= 1
    with pytest.raises((TruncatedMediaError, MalformedMediaError, UnknownMediaError)):
        check(data[:length])


@pytest.mark.parametrize("name", sorted(WHOLE.keys() - ENDLESS))
def test_appended_bytes_are_counted_and_refused(name):
    with pytest.raises(TrailingBytesError, match=f"^{len(EVIL)} bytes"):
        check(WHOLE[name] + EVIL)


@pytest.mark.parametrize("name", sorted(ENDLESS))
def test_tiff_cannot_show_appended_bytes(name):
    check(WHOLE[name] + EVIL)


@given(st.sampled_from(sorted(WHOLE)), st.data())
@settings(max_examples=300, deadline=None)
def test_damage_raises_only_our_own_errors(name, data):
    damaged = bytearray(WHOLE[name])
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(damaged) - 1))
        damaged[at] = data.draw(st.integers(0, 255))
    with contextlib.suppress(MediaError):
        check(bytes(damaged))


@given(st.sampled_from([data[:32] for data in WHOLE.values()]), st.binary(max_size=300))
@settings(max_examples=300, deadline=None)
def test_arbitrary_bytes_behind_a_true_beginning_raise_only_our_own_errors(beginning, rest):
    for head in (beginning, beginning[:12], beginning[:4]):
        with contextlib.suppress(MediaError):
            check(head + rest)


# --- polyglots and disguises --------------------------------------------------------------------


def test_an_archive_behind_a_jpeg_is_refused():
    out = io.BytesIO(WHOLE["jpeg"])
    with zipfile.ZipFile(out, "a") as archive:
        archive.writestr("hidden.html", "<script>")
    assert zipfile.is_zipfile(out)
    with pytest.raises(TrailingBytesError):
        check(out.getvalue())


def test_a_jpeg_behind_a_png_is_refused():
    with pytest.raises(TrailingBytesError):
        check(WHOLE["png"] + WHOLE["jpeg"])


def test_a_second_jpeg_without_an_index_is_refused():
    with pytest.raises(TrailingBytesError):
        check(WHOLE["jpeg"] + WHOLE["jpeg"])


@pytest.mark.parametrize("text", [b"<html></html>", b"just words", b"#!/bin/sh\n"])
def test_a_renamed_text_is_no_media(text):
    with pytest.raises(UnknownMediaError):
        check(text)


# --- JPEG ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("byte", [b"\0", b"\xff"])
def test_block_padding_of_one_byte_is_accepted_up_to_its_limit(byte):
    check(WHOLE["jpeg"] + byte)
    check(WHOLE["jpeg"] + byte * 65536)
    with pytest.raises(TrailingBytesError):
        check(WHOLE["jpeg"] + byte * 65537)


@pytest.mark.parametrize("tail", [b"\0\xff", b"\0" * 511 + b"\1", b" " * 512, b"\0" * 100 + EVIL])
def test_padding_with_anything_in_it_is_refused(tail):
    with pytest.raises(TrailingBytesError):
        check(WHOLE["jpeg"] + tail)


def test_an_index_that_does_not_describe_the_second_picture_is_refused():
    data = WHOLE["jpeg_two_pictures"]
    second = data.index(b"\xff\xd8\xff", 2)
    with pytest.raises(MalformedMediaError):
        check(data[:second] + EVIL + data[second:])
    with pytest.raises(TrailingBytesError):
        check(data + WHOLE["jpeg"])


@pytest.mark.parametrize("at", range(-3, 3))
def test_an_end_marker_across_two_reads_is_found(at):
    head, tail = WHOLE["jpeg"][:-2], b"\xff\xd9"
    start = head.index(b"\xff\xda")
    scan = start + 2 + int.from_bytes(head[start + 2 : start + 4], "big")
    check(head + b"\x55" * (CHUNK - (len(head) - scan) + at) + tail)


def test_fill_bytes_before_a_marker_are_allowed():
    check(WHOLE["jpeg"][:-2] + b"\xff\xff\xff\xd9")


@pytest.mark.parametrize(
    "data",
    [
        b"\xff\xd8\xff\xd9",
        b"\xff\xd8\xff\xd8\xff\xd9",
        b"\xff\xd8\xff\xe0\x00\x01\xff\xd9",
        b"\xff\xd8\xff\xe0\x00\x02hello",
        b"\xff\xd8" + b"\xff" * 300,
    ],
)
def test_a_jpeg_without_a_picture_is_malformed(data):
    with pytest.raises(MalformedMediaError):
        check(data)


class Watched(io.BytesIO):
    """Remembers the largest read and the sum of all."""

    largest = total = 0

    def read(self, size=-1, /):
        found = super().read(size)
        self.largest, self.total = max(self.largest, len(found)), self.total + len(found)
        return found


def test_a_large_jpeg_is_walked_once_in_small_reads():
    head = WHOLE["jpeg"][:-2]
    noise = bytes(itertools.islice(itertools.cycle(range(255)), 999)) * 12_000  # no 0xFF in it
    stream = Watched(head + noise.replace(b"\x10\x11", b"\xff\0") + b"\xff\xd9")
    media = Media.of(stream, "large.jpg", 1 << 30)
    started = time.perf_counter()
    check_whole(media)
    assert time.perf_counter() - started < 1
    assert stream.largest <= CHUNK
    assert stream.total < media.size + 4 * CHUNK


@pytest.mark.parametrize("name", ["wav", "mp4"])
def test_a_payload_is_never_loaded(name):
    small = {"wav": wav(), "mp4": movie()}[name]
    if name == "wav":
        data = chunk(b"RIFF", b"WAVE" + chunk(b"fmt ", bytes(16)) + chunk(b"data", bytes(8 * CHUNK)))
    else:
        data = small + box(b"free", bytes(8 * CHUNK))
    stream = Watched(data)
    check_whole(Media.of(stream, "", 1 << 30))
    assert stream.total < CHUNK


# --- PNG, GIF, RIFF -------------------------------------------------------------------------------


def png_chunk(name: bytes, data: bytes, wrong: int = 0) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data) ^ wrong)


def test_a_critical_png_chunk_must_match_its_check_sum_and_an_ancillary_one_need_not():
    data = WHOLE["png"]
    before = data.index(b"IDAT") - 4
    check(data[:before] + png_chunk(b"tEXt", b"a\0b", wrong=1) + data[before:])
    with pytest.raises(MalformedMediaError, match="check sum"):
        check(data[:before] + png_chunk(b"IDAT", b"", wrong=1) + data[before:])


def test_a_png_needs_its_header_first_and_image_data():
    header, end = png_chunk(b"IHDR", bytes(13)), png_chunk(b"IEND", b"")
    for chunks in (end, header + end, png_chunk(b"tEXt", b"a\0b") + header + end):
        with pytest.raises(MalformedMediaError):
            check(b"\x89PNG\r\n\x1a\n" + chunks)


def test_many_blocks_are_refused_soon():
    without_table = b"GIF89a" + bytes(7)
    with pytest.raises(MalformedMediaError, match="more than"):
        check(without_table + b"\x21\xfe\0" * 100_001)
    with pytest.raises(MalformedMediaError, match="more than"):
        check(b"\x89PNG\r\n\x1a\n" + png_chunk(b"IHDR", bytes(13)) + png_chunk(b"tEXt", b"") * 100_001)


def test_a_missing_last_pad_byte_loses_nothing():
    body = b"WAVE" + chunk(b"fmt ", bytes(16)) + b"data" + struct.pack("<I", 3) + b"abc"
    whole = b"RIFF" + struct.pack("<I", len(body)) + body
    check(whole)
    check(whole + b"\0")
    with pytest.raises(TrailingBytesError):
        check(whole + b"\0\0")


@pytest.mark.parametrize("size", [0, 0xFFFFFFFF])
def test_a_riff_size_that_was_never_filled_in_is_malformed(size):
    with pytest.raises(MalformedMediaError):
        check(b"RIFF" + struct.pack("<I", size) + wav()[8:])


def test_a_riff_chunk_that_is_longer_than_its_file_is_malformed():
    data = bytearray(wav())
    at = data.index(b"data") + 4
    data[at : at + 4] = struct.pack("<I", 10_000)
    with pytest.raises(MalformedMediaError):
        check(bytes(data))


# --- BMFF, TIFF ------------------------------------------------------------------------------------


def test_the_last_box_may_reach_to_the_end_by_size_zero_or_by_64_bits():
    head = movie()
    check(head + bytes(4) + b"free" + bytes(99))
    check(head + struct.pack(">I", 1) + b"free" + struct.pack(">Q", 20) + bytes(4))


def test_a_chunk_offset_beyond_the_end_is_truncation():
    with pytest.raises(TruncatedMediaError):
        check(movie(offsets=(40, 1_000_000)))


def test_a_table_that_claims_two_to_the_32_chunks_is_refused_at_once():
    data = movie()
    at = data.index(b"stco") + 8
    with pytest.raises(MalformedMediaError):
        check(data[:at] + b"\xff\xff\xff\xff" + data[at + 4 :])


def test_bytes_dressed_as_a_box_are_part_of_the_format():
    check(movie() + box(b"free", EVIL))


def test_a_tiff_loop_is_malformed():
    data = b"II*\0" + struct.pack("<IH", 8, 1) + struct.pack("<HHII", 256, 4, 1, 1) + struct.pack("<I", 8)
    with pytest.raises(MalformedMediaError, match="loop"):
        check(data)


def test_a_tiff_with_endless_values_is_refused_before_reading_them():
    values = 1 << 22
    data = b"II*\0" + struct.pack("<IH", 8, 1) + struct.pack("<HHII", 330, 4, values, 26) + bytes(4)
    with pytest.raises(MalformedMediaError, match="more than"):
        check(data + bytes(4 * values))


# --- MP3, FLAC, PDF, SVG ---------------------------------------------------------------------------


def test_an_mp3_shows_a_cut_between_frames_only_if_it_states_their_number():
    check(mp3(3))
    check(mp3(3)[:-417])
    with pytest.raises(TruncatedMediaError, match="2 frames of the 3"):
        check(mp3(3, stated=3)[:-417])


def test_known_tags_may_end_an_mp3():
    ape = b"APETAGEX" + struct.pack("<IIII", 2000, 32, 0, 1 << 31) + bytes(8)
    lyrics = b"LYRICSBEGINla la000020LYRICS200"
    old = b"TAG" + bytes(125)
    check(mp3() + ape + ape + lyrics + old)
    with pytest.raises(TrailingBytesError):
        check(mp3() + old + EVIL)


def test_a_flac_cut_between_frames_is_seen_if_the_number_of_samples_is_stated():
    one = len(flac(3)) - len(flac(2))
    with pytest.raises(TruncatedMediaError):
        check(flac(3)[:-one])
    check(flac(3, stated=0)[:-one])


def test_a_flac_whose_last_frame_is_damaged_is_refused():
    data = bytearray(flac())
    data[-3] ^= 1
    with pytest.raises(TruncatedMediaError):
        check(bytes(data))


def test_white_space_may_follow_the_end_of_a_pdf():
    check(pdf() + b"\r\n\n")


def test_a_pdf_whose_end_points_nowhere_is_malformed():
    with pytest.raises(MalformedMediaError):
        check(pdf().replace(b"startxref\n", b"startxref\n").replace(b"xref\n0 1", b"xxxx\n0 1"))


@pytest.mark.parametrize(
    "declaration",
    [
        b'<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;">',
        b'<!ENTITY a SYSTEM "file:///etc/hostname">',
        b'<!ENTITY % p SYSTEM "http://127.0.0.1/x"> %p;',
    ],
)
def test_an_svg_that_declares_entities_is_refused_unexpanded(declaration):
    with pytest.raises(MalformedMediaError, match="entity"):
        check(b"<!DOCTYPE svg [" + declaration + b"]><svg>&b;</svg>")


def test_a_deep_svg_is_refused():
    with pytest.raises(MalformedMediaError, match="nests"):
        check(b"<svg>" + b"<g>" * 300 + b"</g>" * 300 + b"</svg>")


def test_a_large_svg_is_refused_unparsed():
    with pytest.raises(MediaTooLargeError):
        check(b"<svg>" + bytes(64 * 1024 * 1024))


# --- what cameras wrote ----------------------------------------------------------------------------

# Old cameras and a file rescued from a disk: behind the end of the image lie
# leftovers of other data, in one case somebody's web mail. They are refused.
LEFTOVERS = {
    "Kodak_ProBack.jpg": 198_338,
    "Ricoh_DC-3Z_low_res_.jpg": 2_615,
    "Ricoh_DC-3Z_normal_res_.jpg": 12_333,
    "Traveler_SX330Z.jpg": 2_713,
}


@pytest.fixture
def samples(shared):
    found = [path for path in sorted((shared / "samples").rglob("*.*")) if path.suffix != ".csv"]
    assert len(found) > 50
    return found


def test_every_sample_is_whole_except_those_with_leftovers(samples):
    for path in samples:
        if path.name in LEFTOVERS:
            with pytest.raises(TrailingBytesError, match=f"^{LEFTOVERS[path.name]} bytes"):
                check(path.read_bytes())
        else:
            check(path.read_bytes())


def test_every_cut_sample_is_truncated(samples):
    for path in samples:
        data = path.read_bytes()
        for share in (0.999, 0.5, 0.09):
            wanted = (TruncatedMediaError, MalformedMediaError)
            if path.name in LEFTOVERS:
                wanted = (*wanted, TrailingBytesError)
            with pytest.raises(wanted):
                check(data[: int(len(data) * share)])


def test_every_sample_with_something_appended_is_refused(samples):
    for path in samples:
        with pytest.raises(TrailingBytesError):
            check(path.read_bytes() + EVIL)
