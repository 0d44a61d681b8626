"""EXIF and XMP are read from hostile bytes, in every container, without decoding or fetching anything."""

import dataclasses
import io
import math
import struct
import unicodedata
import zlib
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from detector.frames import metadata_blocks
from detector.metadata import MAX_BLOCK, MAX_TEXT, Metadata, read_metadata

KINDS = {
    "JPEG": "image/jpeg",
    "PNG": "image/png",
    "WEBP": "image/webp",
    "TIFF": "image/tiff",
    "AVIF": "image/avif",
}
SOURCE = "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"
XMP = f"""<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>
<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">
<rdf:Description rdf:about="" xmlns:xmp="http://ns.adobe.com/xap/1.0/"
 xmlns:Iptc4xmpExt="http://iptc.org/std/Iptc4xmpExt/2008-02-29/"
 xmp:CreatorTool="GIMP 2.10" xmp:CreateDate="2026-01-02T03:04:05Z">
<Iptc4xmpExt:DigitalSourceType>{SOURCE}</Iptc4xmpExt:DigitalSourceType>
</rdf:Description></rdf:RDF></x:xmpmeta>
<?xpacket end="w"?>""".encode()
WHOLE = Metadata(
    make="Canon",
    model="Canon EOS R5",
    software="Lab 1",
    artist="Jo",
    taken_at="2026:01:02 03:04:05",
    offset="+02:00",
    gps=(-48.8584, 2.2945),
    source_type="trainedAlgorithmicMedia",
    creator_tool="GIMP 2.10",
    xmp_create_date="2026-01-02T03:04:05Z",
)


def exif() -> Image.Exif:
    tags = Image.Exif()
    tags[0x010F], tags[0x0110], tags[0x0131], tags[0x013B] = "Canon", "Canon EOS R5", "Lab 1", "Jo"
    tags.get_ifd(0x8769).update({0x9003: "2026:01:02 03:04:05", 0x9011: "+02:00"})
    tags.get_ifd(0x8825).update({1: "S", 2: (48.0, 51.0, 30.24), 3: "E", 4: (2.0, 17.0, 40.2)})
    return tags


def picture(form: str, **options: object) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (16, 16), "teal").save(out, form, **options)
    return out.getvalue()


def png_with(*chunks: tuple[bytes, bytes], behind: bool = False) -> bytes:
    plain = picture("PNG")
    place = len(plain) - 12 if behind else 33
    made = b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        for kind, body in chunks
    )
    return plain[:place] + made + plain[place:]


def itxt(packet: bytes) -> tuple[bytes, bytes]:
    return b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + packet


def read(content: bytes, kind: str) -> Metadata:
    return read_metadata(io.BytesIO(content), kind)


def xmp(packet: bytes) -> Metadata:
    return read(png_with(itxt(packet)), "image/png")


def tiff(*fields: tuple[int, int, int, bytes], order: str = "<", first: int = 8) -> bytes:
    """A TIFF structure with one directory; each field is tag, type, count, and content or a place."""
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(order + "I", first)
    entries = b"".join(
        struct.pack(order + "HHI", tag, kind, count) + value for tag, kind, count, value in fields
    )
    return head + struct.pack(order + "H", len(fields)) + entries + bytes(4)


def in_png(structure: bytes) -> Metadata:
    return read(png_with((b"eXIf", structure)), "image/png")


def about(found: Metadata) -> Metadata:
    """With the position rounded to what its fractions can hold."""
    gps = found.gps and (round(found.gps[0], 6), round(found.gps[1], 6))
    return dataclasses.replace(found, gps=gps)


# --- Every container


@pytest.mark.parametrize("form", ["JPEG", "WEBP", "AVIF"])
def test_both_blocks_are_read_from_a_picture(form: str) -> None:
    made = picture(form, exif=exif().tobytes(), xmp=XMP)
    assert about(read(made, KINDS[form])) == WHOLE


@pytest.mark.parametrize("behind", [False, True])
def test_a_png_is_read_before_and_behind_its_pixels(behind: bool) -> None:  # noqa: FBT001
    made = png_with((b"eXIf", exif().tobytes()[6:]), itxt(XMP), behind=behind)
    assert about(read(made, "image/png")) == WHOLE


@pytest.mark.parametrize("kind", ["image/tiff", "image/x-adobe-dng"])
def test_a_tiff_is_read_in_place(kind: str) -> None:
    tags = Image.Exif()
    tags.load(exif().tobytes())
    tags[700] = XMP
    assert about(read(picture("TIFF", exif=tags), kind)) == WHOLE


def test_a_heic_is_read() -> None:
    heif = pytest.importorskip("pillow_heif", reason="the decoder for HEIC is not installed")
    heif.register_heif_opener()
    assert about(read(picture("HEIF", exif=exif().tobytes(), xmp=XMP), "image/heic")) == WHOLE


@pytest.mark.parametrize("form", KINDS)
def test_a_picture_without_either_says_nothing(form: str) -> None:
    assert read(picture(form), KINDS[form]) in (Metadata(), Metadata(software="Pillow"))


@pytest.mark.parametrize("kind", ["video/mp4", "audio/wav", "image/svg+xml", "", "x/y"])
def test_what_is_no_picture_of_ours_is_not_read(kind: str) -> None:
    assert read(picture("JPEG", exif=exif().tobytes()), kind) == Metadata()


def test_the_other_byte_order_reads_the_same() -> None:
    for order in "<>":
        made = tiff((0x010F, 2, 4, b"Abc\0"), (0x0110, 2, 3, b"R5\0\0"), order=order)
        assert in_png(made) == Metadata(make="Abc", model="R5")


def test_no_pixel_is_decoded() -> None:
    """A header that promises more pixels than we would decode, and none behind it, is still read."""
    made = picture("JPEG", exif=exif().tobytes(), xmp=XMP)
    frame = made.index(b"\xff\xc0")
    huge = made[: frame + 5] + struct.pack(">HH", 12_000, 14_000) + made[frame + 9 :]
    cut = huge[: huge.index(b"\xff\xda") + 14]
    assert about(read(cut, "image/jpeg")) == WHOLE
    assert metadata_blocks(cut, "image/jpeg").xmp == XMP


def test_camera_originals_name_their_camera(shared: Path) -> None:
    folder = shared / "samples" / "jpeg_camera"
    found = [read(path.read_bytes(), "image/jpeg") for path in sorted(folder.glob("*.jpg"))]
    assert found
    assert all(one.make and one.model and one.problem is None for one in found)


# --- Positions


def rational(*pairs: tuple[int, int]) -> bytes:
    return b"".join(struct.pack("<II", *pair) for pair in pairs)


def positioned(latitude: bytes, longitude: bytes, north: bytes = b"N", east: bytes = b"E") -> Metadata:
    """A structure whose GPS directory stands at 26, and whose fractions stand behind it at 80 and 104."""
    head = tiff((0x8825, 4, 1, struct.pack("<I", 26)))
    fields = [
        (1, 2, 2, north + bytes(3)),
        (2, 5, 3, struct.pack("<I", 80)),
        (3, 2, 2, east + bytes(3)),
        (4, 5, 3, struct.pack("<I", 104)),
    ]
    return in_png(head + tiff(*fields)[8:] + latitude + longitude)


def test_a_position_has_a_side() -> None:
    here = rational((48, 1), (30, 1), (0, 1)), rational((2, 1), (0, 1), (36, 1))
    assert positioned(*here).gps == (48.5, pytest.approx(2.01))
    assert positioned(*here, b"S", b"W").gps == (-48.5, pytest.approx(-2.01))


@pytest.mark.parametrize(
    ("latitude", "north"),
    [
        (rational((48, 0), (0, 1), (0, 1)), b"N"),
        (rational((48, 1), (0, 1), (0, 0)), b"N"),
        (rational((91, 1), (0, 1), (0, 1)), b"N"),
        (rational((2**32 - 1, 1), (0, 1), (0, 1)), b"N"),
        (rational((48, 1), (0, 1), (0, 1)), b"E"),
        (rational((48, 1), (0, 1), (0, 1)), b"\0"),
    ],
)
def test_a_position_that_is_none_on_earth_is_not_told(latitude: bytes, north: bytes) -> None:
    assert positioned(latitude, rational((2, 1), (0, 1), (0, 1)), north).gps is None


# --- Hostile EXIF


@pytest.mark.parametrize(
    ("structure", "problem"),
    [
        (b"", ""),
        (b"\0" * 40, "no TIFF"),
        (b"II", "cut short"),
        (b"II+\0" + bytes(40), "no TIFF"),
        (tiff(first=9000), "cut short"),
        (tiff((0x010F, 2, 2**20, b"\xff\xff\xff\x7f")), "cut short"),
        (tiff((0x010F, 2, 2**32 - 1, bytes(4))), "larger"),
        (tiff((0x8769, 4, 1, b"\xff\xff\xff\xff")), "cut short"),
        (tiff(*[(0x010F, 2, 1, b"A\0\0\0")] * 1001), "too many"),
    ],
)
def test_exif_that_breaks_its_format_says_nothing_and_why(structure: bytes, problem: str) -> None:
    found = in_png(structure)
    assert dataclasses.replace(found, problem=None) == Metadata()
    assert problem in (found.problem or "")
    assert bool(found.problem) == bool(problem)


def test_a_directory_that_points_to_itself_ends() -> None:
    loop = tiff((0x8769, 4, 1, struct.pack("<I", 8)), (0x8825, 4, 1, struct.pack("<I", 8)))
    assert in_png(loop) == Metadata()


def test_broken_exif_leaves_the_xmp() -> None:
    found = read(png_with((b"eXIf", b"II*\0"), itxt(XMP)), "image/png")
    assert found.creator_tool == "GIMP 2.10"
    assert found.problem == "the picture's EXIF is cut short"


def test_what_is_over_the_limit_is_not_parsed() -> None:
    tags = exif()
    tags[700] = XMP + b" " * MAX_BLOCK
    assert "larger than 1 MiB" in (read(picture("TIFF", exif=tags), "image/tiff").problem or "")
    packed = b"XML:com.adobe.xmp\0\1\0\0\0" + zlib.compress(b" " * (64 << 20))
    assert "larger than 1 MiB" in (read(png_with((b"iTXt", packed)), "image/png").problem or "")


def test_what_hides_or_floods_is_taken_out_of_every_text() -> None:
    evil = "a\u202eb\x1b[31m\r\n" + "x" * 10_000
    tags = Image.Exif()
    tags[0x010F] = tags[0x0110] = tags[0x0131] = tags[0x013B] = evil.encode()
    packet = XMP.replace(b"GIMP 2.10", "a\u202eb &#10;[31m ".encode() + b"x" * 10_000)
    found = read(png_with((b"eXIf", tags.tobytes()[6:]), itxt(packet)), "image/png")
    for text in (found.make, found.model, found.software, found.artist, found.creator_tool):
        assert text is not None
        assert text.startswith("ab [31m")
        assert len(text) == MAX_TEXT


# --- XMP


def test_a_property_counts_as_attribute_element_or_resource() -> None:
    namespace = b'xmlns:r="http://www.w3.org/1999/02/22-rdf-syntax-ns#" xmlns:i="http://iptc.org/std/Iptc4xmpExt/2008-02-29/"'
    source = SOURCE.encode()
    for body in (
        b'<r:Description i:DigitalSourceType="%s"/>' % source,
        b"<i:DigitalSourceType>%s</i:DigitalSourceType>" % source,
        b'<i:DigitalSourceType r:resource="%s"/>' % source,
        b"<i:DigitalSourceType><r:Alt><r:li>%s</r:li></r:Alt></i:DigitalSourceType>" % source,
    ):
        packet = b"<r:RDF %s>%s</r:RDF>" % (namespace, body)
        assert xmp(packet).source_type == "trainedAlgorithmicMedia"
        foreign = packet.replace(b"Iptc4xmpExt/2008", b"Iptc4xmpExt/2009")
        assert xmp(foreign).source_type is None


@pytest.mark.parametrize(
    "declared",
    [
        b'<!DOCTYPE x [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;&a;&a;">]>',
        b'<!DOCTYPE x [<!ENTITY a SYSTEM "file:///etc/passwd">]>',
        b'<!DOCTYPE x SYSTEM "http://127.0.0.1:9/x.dtd">',
        b'<!DOCTYPE x [<!ENTITY % p SYSTEM "http://127.0.0.1:9/x"> %p;]>',
    ],
)
def test_no_entity_is_expanded_and_no_address_opened(declared: bytes) -> None:
    found = xmp(declared + b'<x xmlns:m="http://ns.adobe.com/xap/1.0/" m:CreatorTool="A"/>')
    assert found.creator_tool is None
    assert "document type" in (found.problem or "")


@pytest.mark.parametrize("packet", [b"<x", b"<x></y>", b"\xff\xfe<\0x\0", b"&amp;", b"<x>&a;</x>"])
def test_xmp_that_is_no_xml_says_nothing_and_why(packet: bytes) -> None:
    assert xmp(packet) == Metadata(problem="the picture's XMP is no well-formed XML")


def test_deep_and_long_xmp_ends() -> None:
    deep = b"<x>" * 100_000 + b"</x>" * 100_000
    assert xmp(deep) == Metadata()
    many = (
        b'<m:CreatorTool xmlns:m="http://ns.adobe.com/xap/1.0/">' + b"A&#10;" * 100_000 + b"</m:CreatorTool>"
    )
    assert len(xmp(many).creator_tool or "") == MAX_TEXT


# --- Nothing raises


def sound(found: Metadata) -> bool:
    """Whether every text is one bounded line, and a position is one."""
    texts = [value for value in dataclasses.astuple(found) if isinstance(value, str)]
    odd = any(unicodedata.category(letter)[0] == "C" for text in texts for letter in text)
    there = found.gps is None or all(math.isfinite(part) and abs(part) <= 180 for part in found.gps)
    return not odd and there and all(len(text) <= 2 * MAX_TEXT for text in texts)


FILES = {
    form: picture(form, exif=exif().tobytes(), **({} if form == "TIFF" else {"xmp": XMP}))
    for form in KINDS
    if form != "PNG"
} | {"PNG": png_with((b"eXIf", exif().tobytes()[6:]), itxt(XMP))}


@settings(deadline=None)
@given(st.sampled_from([*KINDS.values(), "image/x-adobe-dng", "image/heic"]), st.binary(max_size=200))
def test_no_bytes_raise(kind: str, content: bytes) -> None:
    assert sound(read(content, kind))


@settings(max_examples=200, deadline=None)
@given(st.sampled_from(sorted(KINDS)), st.data())
def test_no_damage_raises(form: str, data: st.DataObject) -> None:
    damaged = bytearray(FILES[form])
    for _ in range(data.draw(st.integers(1, 4))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    length = data.draw(st.integers(0, len(damaged)) | st.just(len(damaged)))
    assert sound(read(bytes(damaged[:length]), KINDS[form]))


@settings(deadline=None)
@given(st.binary(max_size=120), st.sampled_from([b"II*\0\x08\0\0\0", b"MM\0*\0\0\0\x08"]))
def test_no_tiff_structure_raises(body: bytes, head: bytes) -> None:
    assert sound(in_png(head + body))


@settings(deadline=None)
@given(st.text(max_size=80) | st.sampled_from([XMP.decode(), XMP.decode()[:-40]]), st.integers(0, 200))
def test_no_xmp_raises(text: str, cut: int) -> None:
    assert sound(xmp(text.encode(errors="replace")[cut:]))
