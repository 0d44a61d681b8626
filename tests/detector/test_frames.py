"""Pictures are decoded to their last pixel, within limits, by the decoder of their own type."""

import contextlib
import io
import random
import struct
import subprocess
import sys
import zlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageCms, ImageFile

from detector import errors
from detector.frames import Dimensions, Limits, decode_fully, pixels_digest, thumbnail

MIMES = {
    "JPEG": "image/jpeg",
    "PNG": "image/png",
    "WEBP": "image/webp",
    "TIFF": "image/tiff",
    "AVIF": "image/avif",
    "GIF": "image/gif",
}


def picture(form: str = "PNG", mode: str = "RGB", **options: object) -> bytes:
    noise = Image.frombytes("RGB", (40, 30), random.Random(7).randbytes(3600))  # noqa: S311 - only a picture
    return saved(noise.convert(mode), form, **options)


def saved(image: Image.Image, form: str, **options: object) -> bytes:
    out = io.BytesIO()
    image.save(out, form, **options)
    return out.getvalue()


def animation(form: str, frames: int) -> bytes:
    images = [Image.new("RGB", (8, 8), (60 * n, 255 - 60 * n, 99)) for n in range(frames)]
    return saved(images[0], form, save_all=True, append_images=images[1:], duration=40)


@pytest.fixture(autouse=True)
def pillow_is_left_as_it_was():
    before = Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES
    yield
    assert before == (Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES)
    assert not ImageFile.LOAD_TRUNCATED_IMAGES


# --- decoding ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", MIMES)
def test_a_whole_picture_is_decoded(form):
    assert decode_fully(picture(form), MIMES[form]) == Dimensions(40, 30, 1)


@pytest.mark.parametrize("form", ["GIF", "PNG", "WEBP", "TIFF", "AVIF"])
def test_every_frame_is_decoded(form):
    assert decode_fully(animation(form, 5), MIMES[form]).frames == 5


def test_a_stream_is_read_from_its_start_and_stays_open():
    stream = io.BytesIO(picture())
    stream.seek(7)
    assert decode_fully(stream, "image/png") == decode_fully(stream, "image/png")
    assert not stream.closed


@pytest.mark.parametrize("form", MIMES)
@pytest.mark.parametrize("share", [0.95, 0.5, 0.09, 0])
def test_a_picture_that_stops_early_is_undecodable(form, share):
    data = picture(form)
    with pytest.raises(errors.UndecodableError):
        decode_fully(data[: int(len(data) * share)], MIMES[form])


def test_a_flaw_in_a_late_frame_is_found():
    data = animation("PNG", 3)
    at = data.rindex(b"fdAT") + 12
    with pytest.raises(errors.UndecodableError):
        decode_fully(data[:at] + bytes([data[at] ^ 0xFF]) + data[at + 1 :], "image/png")


@pytest.mark.parametrize("form", MIMES)
@pytest.mark.parametrize("mime", MIMES.values())
def test_a_lying_file_reaches_no_other_decoder(form, mime):
    if MIMES[form] != mime:
        with pytest.raises(errors.UndecodableError):
            decode_fully(picture(form), mime)


@pytest.mark.parametrize("mime", ["video/mp4", "text/html", "image/svg+xml", ""])
def test_what_is_no_picture_has_no_decoder(mime):
    with pytest.raises(errors.UndecodableError, match="no picture decoder"):
        decode_fully(picture(), mime)


@given(st.sampled_from(sorted(MIMES)), st.data())
@settings(max_examples=150, deadline=None)
def test_damage_raises_only_our_own_errors_and_no_warning(form, data):
    damaged = bytearray(picture(form))
    for _ in range(data.draw(st.integers(1, 5))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(errors.Error):
        assert decode_fully(bytes(damaged), MIMES[form], Limits(pixels=1_000_000)).width


@given(st.sampled_from([*MIMES.values(), "image/x-adobe-dng"]), st.binary(max_size=200))
@settings(deadline=None)
def test_arbitrary_bytes_are_no_picture(mime, data):
    try:
        assert decode_fully(data, mime).frames == 0
    except errors.UndecodableError:
        assert mime != "image/x-adobe-dng"


def test_a_broken_camera_tag_is_not_the_picture():
    data = picture("JPEG", exif=b"Exif\0\0II*\0\xff\xff\xff\x7f broken")
    assert decode_fully(data, "image/jpeg") == Dimensions(40, 30, 1)
    assert thumbnail(data, "image/jpeg")


def test_a_broken_colour_profile_is_not_the_picture():
    data = picture("PNG", icc_profile=b"no profile at all")
    assert decode_fully(data, "image/png") == Dimensions(40, 30, 1)
    assert thumbnail(data, "image/png")


def test_a_dng_of_which_nothing_can_be_decoded_says_so():
    sensor = b"II*\0" + struct.pack("<IH", 8, 2)
    sensor += struct.pack("<HHII", 256, 4, 1, 4) + struct.pack("<HHII", 262, 3, 1, 32803) + bytes(4)
    assert decode_fully(sensor, "image/x-adobe-dng") == Dimensions(0, 0, 0)
    assert decode_fully(picture("TIFF"), "image/x-adobe-dng") == Dimensions(40, 30, 1)


def test_heic_without_its_decoder_asks_for_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    with pytest.raises(errors.DecoderMissingError) as raised:
        decode_fully(b"\0\0\0\x18ftypheic", "image/heic")
    assert raised.value.code == "decoder-missing"
    assert "lightseal[heic]" in raised.value.remedy


# --- limits -----------------------------------------------------------------------------------------


def png_of(width: int, height: int) -> bytes:
    """A true black-and-white PNG of any size, compressed as it is made."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    press, row, rows = zlib.compressobj(9), bytes(1 + (width + 7) // 8), b""
    for _ in range(height):
        rows += press.compress(row)
    rows += press.flush()
    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def webp_of(side: int) -> bytes:
    """A still header that announces a large canvas over one small animated frame."""
    inner = saved(Image.new("RGB", (1, 1)), "WEBP", lossless=True)[12:]
    canvas = (side - 1).to_bytes(3, "little")
    frame = bytes(6) + bytes(6) + b"\1\0\0\0" + inner
    chunks = (
        b"VP8X" + struct.pack("<I", 10) + b"\2\0\0\0" + canvas * 2 + b"ANIM" + struct.pack("<I", 6) + bytes(6)
    )
    chunks += b"ANMF" + struct.pack("<I", len(frame)) + frame
    return b"RIFF" + struct.pack("<I", 4 + len(chunks)) + b"WEBP" + chunks


MEASURE = """
import sys, time
from detector import errors, frames
content = open(sys.argv[1], "rb").read()
started = time.perf_counter()
try:
    frames.decode_fully(content, sys.argv[2])
except errors.TooManyPixelsError as error:
    seconds = time.perf_counter() - started
    peak = next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM"))
    print(error.code, seconds, int(peak) * 1024)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="peak memory of a process is read the Linux way")
@pytest.mark.parametrize(
    ("mime", "content"),
    [("image/png", png_of(20_000, 20_000)), ("image/webp", webp_of(16_384))],
    ids=["png", "webp"],
)
def test_a_pixel_bomb_is_refused_from_its_header(tmp_path, request, mime, content):
    assert len(content) < 900_000
    bomb = tmp_path / "bomb"
    bomb.write_bytes(content)
    command = [sys.executable, "-W", "error", "-c", MEASURE, str(bomb), mime]
    done = subprocess.run(command, cwd=request.config.rootpath, capture_output=True, text=True, check=True)
    code, seconds, memory = done.stdout.split()
    assert code == "media-too-many-pixels"
    assert float(seconds) < 1
    assert int(memory) < 200_000_000


def test_the_pixel_limit_is_exact():
    data = picture()
    decode_fully(data, "image/png", Limits(pixels=1200))
    with pytest.raises(errors.TooManyPixelsError, match="40 by 30"):
        decode_fully(data, "image/png", Limits(pixels=1199))
    with pytest.raises(errors.TooManyPixelsError):
        thumbnail(data, "image/png", limits=Limits(pixels=1199))


def test_a_picture_between_pillows_warning_and_our_limit_gives_no_warning():
    data = png_of(9_500, 9_500)
    assert Image.MAX_IMAGE_PIXELS < 9_500**2
    assert decode_fully(data, "image/png").frames == 1


@pytest.mark.parametrize("form", ["GIF", "PNG", "TIFF"])
def test_the_frame_limits_are_exact(form):
    data = animation(form, 4)
    decode_fully(data, MIMES[form], Limits(frames=4, total_pixels=256))
    with pytest.raises(errors.TooManyFramesError):
        decode_fully(data, MIMES[form], Limits(frames=3))
    with pytest.raises(errors.TooManyPixelsError, match="together"):
        decode_fully(data, MIMES[form], Limits(total_pixels=255))


def test_a_gif_of_endless_frames_is_refused_at_the_limit():
    frame = b"\x2c" + bytes(4) + b"\1\0\1\0\0" + b"\2\2\x44\1\0"
    data = b"GIF89a\1\0\1\0\x80\0\0" + bytes(6) + frame * 200_000 + b";"
    with pytest.raises(errors.TooManyFramesError):
        decode_fully(data, "image/gif")


def test_the_byte_limit_comes_before_the_decoder():
    data = picture()
    decode_fully(data, "image/png", Limits(bytes=len(data)))
    with pytest.raises(errors.TooManyBytesError):
        decode_fully(data, "image/png", Limits(bytes=len(data) - 1))


# --- thumbnails -------------------------------------------------------------------------------------


def opened(data: bytes) -> Image.Image:
    image = Image.open(io.BytesIO(data), formats=["JPEG"])
    image.load()
    return image


def near(image: Image.Image, at: tuple[int, int], colour: tuple[int, int, int]) -> bool:
    return all(abs(a - b) < 24 for a, b in zip(image.getpixel(at), colour, strict=True))


def test_a_thumbnail_is_small_and_keeps_its_proportions_and_is_never_enlarged():
    large = saved(Image.new("RGB", (1600, 400)), "PNG")
    assert opened(thumbnail(large, "image/png")).size == (320, 80)
    assert opened(thumbnail(large, "image/png", longest=64)).size == (64, 16)
    assert opened(thumbnail(picture(), "image/png")).size == (40, 30)


# Where the stored upper left corner is seen, for each value of the tag (Exif 2.32, 4.6.4).
CORNERS = {1: "nw", 2: "ne", 3: "se", 4: "sw", 5: "nw", 6: "ne", 7: "se", 8: "sw"}


@pytest.mark.parametrize("orientation", CORNERS)
def test_a_thumbnail_is_upright_and_carries_no_metadata(orientation):
    image = Image.new("RGB", (64, 32), "white")
    image.paste("red", (0, 0, 16, 16))
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = orientation, "Maker"
    data = saved(image, "JPEG", exif=exif, quality=95, comment=b"a comment")
    small = opened(thumbnail(data, "image/jpeg"))
    assert small.size == ((64, 32) if orientation < 5 else (32, 64))
    width, height = small.size
    corners = {"nw": (4, 4), "ne": (width - 4, 4), "sw": (4, height - 4), "se": (width - 4, height - 4)}
    red = [name for name, at in corners.items() if near(small, at, (255, 0, 0))]
    assert red == [CORNERS[orientation]]
    assert not small.getexif()
    assert not {"exif", "icc_profile", "comment", "xmp"} & small.info.keys()


def test_transparency_is_shown_on_white():
    clear = Image.new("RGBA", (20, 20), (0, 0, 0, 0))
    half = Image.new("LA", (20, 20), (0, 128))
    assert near(opened(thumbnail(saved(clear, "PNG"), "image/png")), (9, 9), (255, 255, 255))
    assert near(opened(thumbnail(saved(half, "PNG"), "image/png")), (9, 9), (127, 127, 127))
    palette = clear.convert("P")
    data = saved(palette, "PNG", transparency=palette.getpixel((0, 0)))
    assert near(opened(thumbnail(data, "image/png")), (9, 9), (255, 255, 255))


def test_an_embedded_profile_is_converted_to_srgb():
    # sRGB with the red and green primaries exchanged: its pure red is our green.
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    exchanged = profile.replace(b"rXYZ", b"????", 1).replace(b"gXYZ", b"rXYZ", 1).replace(b"????", b"gXYZ", 1)
    image = Image.new("RGB", (20, 20), (255, 0, 0))
    data = saved(image, "PNG", icc_profile=exchanged)
    assert near(opened(thumbnail(data, "image/png")), (9, 9), (0, 255, 0))
    assert near(opened(thumbnail(saved(image, "PNG"), "image/png")), (9, 9), (255, 0, 0))


@pytest.mark.parametrize("mode", ["1", "L", "I;16", "P", "RGB", "RGBA", "LA", "CMYK"])
def test_every_mode_has_a_thumbnail(mode):
    image = Image.new(mode, (20, 20))
    form = "JPEG" if mode == "CMYK" else "PNG"
    assert opened(thumbnail(saved(image, form), MIMES[form])).mode == "RGB"


def test_a_thumbnail_of_a_cut_picture_is_refused():
    with pytest.raises(errors.UndecodableError):
        thumbnail(picture("JPEG")[:-200], "image/jpeg")


# --- pixel digest -----------------------------------------------------------------------------------


def test_the_pixel_digest_ignores_metadata_and_notices_one_pixel():
    image = Image.effect_noise((40, 30), 90)
    plain = pixels_digest(saved(image, "PNG"), "image/png")
    assert plain == pixels_digest(saved(image, "PNG", dpi=(72, 72), compress_level=1), "image/png")
    image.putpixel((39, 29), image.getpixel((39, 29)) ^ 1)
    assert plain != pixels_digest(saved(image, "PNG"), "image/png")


def test_the_pixel_digest_notices_the_shape_the_palette_and_later_frames():
    digests = {
        pixels_digest(data, mime)
        for data, mime in [
            (saved(Image.new("L", (4, 6)), "PNG"), "image/png"),
            (saved(Image.new("L", (6, 4)), "PNG"), "image/png"),
            (saved(Image.new("P", (6, 4)), "PNG"), "image/png"),
            (saved(Image.new("RGB", (6, 4), "red").convert("P"), "PNG"), "image/png"),
            (animation("PNG", 2), "image/png"),
            (animation("PNG", 3), "image/png"),
        ]
    }
    assert len(digests) == 6


# --- what cameras wrote -----------------------------------------------------------------------------

FOLDERS = {"jpeg": "image/jpeg", "png": "image/png", "webp": "image/webp", "avif": "image/avif"}


def test_every_sample_picture_is_decoded_to_the_size_on_record(shared):
    rows = [line.split(",")[:4] for line in (shared / "samples/manifest.csv").read_text().splitlines()[1:]]
    seen = 0
    for path, _, width, height in rows:
        mime = FOLDERS.get(path.partition("/")[0].partition("_")[0])
        if mime:
            content = (shared / "samples" / path).read_bytes()
            found = decode_fully(content, mime)
            assert (found.width, found.height) == (int(width), int(height)), path
            assert max(opened(thumbnail(content, mime)).size) <= 320
            seen += 1
    assert seen > 40


def test_heic_samples_are_decoded_where_the_extra_is_installed(shared):
    pytest.importorskip("pillow_heif", reason="the extra 'heic' is not installed")
    for path in sorted((shared / "samples/heic").iterdir()):
        assert decode_fully(path.read_bytes(), "image/heic") == Dimensions(3024, 4032, 1)
