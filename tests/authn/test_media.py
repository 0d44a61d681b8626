"""What `sniff` calls a beginning, and what `Media.of` refuses before reading on."""

import contextlib
import io
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from authn.errors import EmptyMediaError, MediaError, MediaTooLargeError, UnknownMediaError
from authn.media import HEAD, Kind, Media, frame_length, id3_length, sniff

FRAME = b"\xff\xfb\x90\x00" + bytes(413)


def ftyp(major: bytes, *compatible: bytes) -> bytes:
    body = b"ftyp" + major + bytes(4) + b"".join(compatible)
    return struct.pack(">I", len(body) + 4) + body


def tiff(order: str, *tags: int) -> bytes:
    mark = b"II*\0" if order == "<" else b"MM\0*"
    entries = b"".join(struct.pack(order + "HHII", tag, 1, 4, 0) for tag in tags)
    return mark + struct.pack(order + "IH", 8, len(tags)) + entries + bytes(4)


BEGINNINGS = [
    (b"\xff\xd8\xff\xe0", Kind.JPEG),
    (b"\x89PNG\r\n\x1a\n", Kind.PNG),
    (b"GIF87a", Kind.GIF),
    (b"GIF89a", Kind.GIF),
    (b"RIFF\0\0\0\0WEBP", Kind.WEBP),
    (b"RIFF\0\0\0\0WAVE", Kind.WAV),
    (b"RIFF\0\0\0\0AVI ", Kind.AVI),
    (tiff("<", 256, 273), Kind.TIFF),
    (tiff(">", 256, 273), Kind.TIFF),
    (tiff("<", 256, 0xC612), Kind.DNG),
    (tiff(">", 256, 0xC612), Kind.DNG),
    (ftyp(b"avif", b"mif1"), Kind.AVIF),
    (ftyp(b"avis"), Kind.AVIF),
    (ftyp(b"mif1", b"avif"), Kind.AVIF),
    (ftyp(b"mif1", b"heic"), Kind.HEIC),
    (ftyp(b"heic", b"mif1"), Kind.HEIC),
    (ftyp(b"heix"), Kind.HEIC),
    (ftyp(b"qt  "), Kind.MOV),
    (ftyp(b"isom"), Kind.MP4),
    (ftyp(b"mp42"), Kind.MP4),
    (ftyp(b"M4V "), Kind.MP4),
    (ftyp(b"M4A "), Kind.MP4),
    (ftyp(b"3gp5"), Kind.MP4),
    (ftyp(b"niko", b"isom"), Kind.MP4),
    (FRAME + FRAME, Kind.MP3),
    (b"ID3\4\0\0\0\0\0\3abc" + FRAME + FRAME, Kind.MP3),
    (b"fLaC\0\0\0\x22", Kind.FLAC),
    (b"ID3\4\0\0\0\0\0\3abcfLaC", Kind.FLAC),
    (b"%PDF-1.7\n", Kind.PDF),
    (b"<svg xmlns='http://www.w3.org/2000/svg'/>", Kind.SVG),
    (b"\xef\xbb\xbf<?xml version='1.0'?>\n<!-- a > b -->\n<svg/>", Kind.SVG),
    (b'<!DOCTYPE svg PUBLIC "a" "b" [ <!ENTITY x "y"> ]>\n<s:svg xmlns:s="u">', Kind.SVG),
]


@pytest.mark.parametrize(("head", "kind"), BEGINNINGS)
def test_every_kind_is_known_by_its_beginning(head, kind):
    assert sniff(head) is kind


def test_every_kind_is_among_the_beginnings():
    assert {kind for _, kind in BEGINNINGS} == set(Kind)


@pytest.mark.parametrize(
    "head",
    [
        b"<html><body><svg></svg></body></html>",
        b"<!DOCTYPE html><html></html>",
        b"<!-- only a comment -->",
        b"<!-- never closed <svg>",
        b"<svgx/>",
        b"hello, I am named photo.jpg",
        b"PK\x03\x04",
        b"II+\0\x08\0\0\0",
        b"RIFF\0\0\0\0ACON",
        b"\xff\xfe<\0s\0v\0g\0",
        FRAME + b"no second frame follows",
        ftyp(b"crx ", b"isom"),
        ftyp(b"jp2 "),
        b"\0\0\0\x08ftyp",
        b"\xff\xd8",
        b"\0",
    ],
)
def test_a_beginning_of_no_kind_is_refused(head):
    with pytest.raises(UnknownMediaError):
        sniff(head)


def test_nothing_has_no_kind():
    with pytest.raises(EmptyMediaError):
        sniff(b"")


def test_a_dng_whose_directory_lies_beyond_the_head_is_called_tiff():
    far = b"II*\0" + struct.pack("<I", HEAD + 8)
    assert sniff(far.ljust(HEAD, b"\0")) is Kind.TIFF


@given(
    st.one_of(
        st.binary(max_size=200),
        st.builds(
            lambda beginning, cut, rest: beginning[0][:cut] + rest,
            st.sampled_from(BEGINNINGS),
            st.integers(0, 40),
            st.binary(max_size=60),
        ),
    )
)
def test_sniff_raises_only_its_own_errors(head):
    with contextlib.suppress(MediaError):
        assert sniff(head) in Kind


def test_only_pictures_made_of_pixels_are_images():
    assert {kind for kind in Kind if kind.is_image} == {
        Kind.JPEG, Kind.PNG, Kind.WEBP, Kind.TIFF, Kind.AVIF, Kind.HEIC, Kind.GIF, Kind.DNG
    }  # fmt: skip


class Counting(io.BytesIO):
    """Counts what is read of it."""

    taken = 0

    def read(self, size=-1, /):
        found = super().read(size)
        self.taken += len(found)
        return found


def test_media_is_measured_without_reading_more_than_the_head():
    stream = Counting(b"%PDF-" + bytes(10 * HEAD))
    media = Media.of(stream, "lies.jpg", 1 << 30)
    assert (media.size, media.kind, media.name) == (5 + 10 * HEAD, Kind.PDF, "lies.jpg")
    assert stream.taken == HEAD


@pytest.mark.parametrize(("behind", "kind"), [(b"fLaC", Kind.FLAC), (FRAME, Kind.MP3), (b"", Kind.MP3)])
def test_a_tag_longer_than_the_head_is_looked_behind(behind, kind):
    tag = b"ID3\4\0\0\0\7\0\0" + bytes(7 << 14)
    assert len(tag) > HEAD
    assert Media.of(io.BytesIO(tag + behind), "x", 1 << 30).kind is kind


def test_what_is_over_the_limit_is_refused_unread():
    stream = Counting(b"%PDF-" + bytes(100))
    assert Media.of(stream, "x", 105).size == 105
    stream.taken = 0
    with pytest.raises(MediaTooLargeError, match="105"):
        Media.of(stream, "x", 104)
    assert stream.taken == 0


def test_an_empty_stream_is_refused():
    with pytest.raises(EmptyMediaError):
        Media.of(io.BytesIO(), "x", 10)


def test_frame_lengths_are_those_of_the_standard():
    # ISO 11172-3: 144 * bitrate / sampling + padding; ISO 13818-3 halves the slots at low rates.
    assert frame_length(b"\xff\xfb\x90\x00") == 144 * 128_000 // 44_100
    assert frame_length(b"\xff\xfb\x92\x00") == 144 * 128_000 // 44_100 + 1
    assert frame_length(b"\xff\xfb\xe8\x00") == 144 * 320_000 // 32_000
    assert frame_length(b"\xff\xf3\x80\x00") == 72 * 64_000 // 22_050
    assert frame_length(b"\xff\xe3\x18\x00") == 72 * 8_000 // 8_000
    for refused in (
        b"\xff\xfb\x00\x00",
        b"\xff\xfb\xf0\x00",
        b"\xff\xfd\x90\x00",
        b"\xff\xfb\x9c\x00",
        b"\xff",
    ):
        assert frame_length(refused) is None


def test_tag_lengths_are_seven_bits_a_byte():
    assert id3_length(b"ID3\4\0\0\0\0\1\0") == 10 + 128
    assert id3_length(b"ID3\4\0\x10\0\0\0\1") == 21
    assert id3_length(b"ID3\4\0\0\0\0\0\x80") is None
    assert id3_length(b"ID3") is None
