"""The door to the picture decoders: bytes in, decoded pixels or one of our own errors out.

A picture is opened by the one decoder of its sniffed type, so a file that lies
about its type reaches no other. The header is asked for the pixel count before
anything is decoded. Decoding is strict: a picture that stops early is refused,
never filled up. A broken colour profile or camera tag is not the picture and
refuses nothing.

Not verified: that the bytes end with the picture (see the container's own
check), and damage that a format has no check sum against, such as a flipped
bit in JPEG scan data. The HEIC decoder silently fills tiles that are missing,
so there only the container's check sees a cut. Of a DNG, Pillow decodes the
previews it can; raw sensor data is not decoded. Memory and time are limited
by the worker that calls.
"""

import hashlib
import importlib
import io
import struct
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import BinaryIO, Final

from PIL import Image, ImageCms, ImageOps, UnidentifiedImageError

from detector.errors import (
    DecoderMissingError,
    TooManyBytesError,
    TooManyFramesError,
    TooManyPixelsError,
    UndecodableError,
)


@dataclass(frozen=True, slots=True)
class Limits:
    """What a picture may cost. `pixels` is per frame, `total_pixels` for all frames together.

    Pillow's own ceiling of some 179 million pixels stays, whatever is set here.
    """

    pixels: int = 100_000_000
    frames: int = 2_000
    bytes: int = 512 * 1024 * 1024
    total_pixels: int = 1_000_000_000


@dataclass(frozen=True, slots=True)
class Dimensions:
    """Width and height as stored, before any orientation tag, and the frames that were decoded.

    All three are 0 for a DNG of which Pillow can decode nothing.
    """

    width: int
    height: int
    frames: int


@dataclass(frozen=True, slots=True)
class MetadataBlocks:
    """What stands beside the pixels, unread: a TIFF structure and an XMP packet, each empty if there is none."""

    exif: bytes
    xmp: bytes


LIMITS: Final = Limits()
_HEADERS: Final = Limits(pixels=1 << 40)

_DNG: Final = "image/x-adobe-dng"
_HEIC: Final = "image/heic"
_FORMATS: Final = {
    "image/jpeg": "JPEG",
    "image/png": "PNG",
    "image/webp": "WEBP",
    "image/tiff": "TIFF",
    "image/avif": "AVIF",
    "image/gif": "GIF",
    _DNG: "TIFF",
    _HEIC: "HEIF",
}
# What Pillow's decoders are seen to raise on hostile bytes. Not `MemoryError`:
# that one belongs to the worker and its limit.
_FAULTS: Final = (
    OSError,
    SyntaxError,
    ValueError,
    TypeError,
    AttributeError,
    LookupError,
    ArithmeticError,
    RuntimeError,
    EOFError,
    struct.error,
    zlib.error,
)


def decode_fully(content: bytes | BinaryIO, mime: str, limits: Limits = LIMITS) -> Dimensions:
    """Decode every pixel of every frame and keep none."""
    try:
        with _opened(content, mime, limits) as image:
            size, frames = image.size, sum(1 for _ in _frames(image, limits))
    except UndecodableError:
        if mime == _DNG:
            return Dimensions(0, 0, 0)
        raise
    return Dimensions(*size, frames)


def pixels_digest(content: bytes | BinaryIO, mime: str, limits: Limits = LIMITS) -> bytes:
    """SHA-256 over mode, size, palette and decoded pixels of every frame; metadata is not in it."""
    digest = hashlib.sha256()
    with _opened(content, mime, limits) as image:
        for frame in _frames(image, limits):
            digest.update(f"{frame.mode} {frame.width} {frame.height}\n".encode())
            digest.update(bytes(frame.getpalette("RGBA") or ()) if frame.mode == "P" else b"")
            digest.update(frame.tobytes())
    return digest.digest()


def thumbnail(content: bytes | BinaryIO, mime: str, longest: int = 320, limits: Limits = LIMITS) -> bytes:
    """A small upright sRGB JPEG of the first frame, on white, without any metadata of the original."""
    with _opened(content, mime, limits) as image:
        profile = image.info.get("icc_profile")
        if image.mode in {"P", "PA", "LA", "La", "RGBa"} or "transparency" in image.info:
            image = image.convert("RGBA")  # noqa: PLW2901 - the opened one is closed by its manager
        image.thumbnail((longest, longest))
        upright = _in_srgb(_on_white(_upright(image)), profile)
        small = Image.frombytes("RGB", upright.size, upright.tobytes())
        out = io.BytesIO()
        small.save(out, "JPEG", quality=80)
        return out.getvalue()


@contextmanager
def _opened(content: bytes | BinaryIO, mime: str, limits: Limits) -> Iterator[Image.Image]:
    """Open by header only, within the limits; every fault until closing becomes `UndecodableError`."""
    stream = io.BytesIO(content) if isinstance(content, bytes) else content
    size = stream.seek(0, io.SEEK_END)
    stream.seek(0)
    if size > limits.bytes:
        raise TooManyBytesError(f"The file has {size} bytes; the limit for decoding is {limits.bytes}.")
    name = _FORMATS.get(mime)
    if name is None:
        raise UndecodableError(f"There is no picture decoder for {mime}.")
    if mime == _HEIC:
        _register_heif()
    with warnings.catch_warnings(action="ignore"):  # our own limits replace Pillow's warnings
        try:
            with Image.open(stream, formats=[name]) as image:
                _check_pixels(image, limits)
                yield image
        except Image.DecompressionBombError as error:
            raise TooManyPixelsError(f"The picture's header is over every pixel limit: {error}") from error
        except UnidentifiedImageError as error:
            raise UndecodableError(f"The bytes do not begin a {name} picture that can be decoded.") from error
        except _FAULTS as error:
            raise UndecodableError(f"The {name} picture cannot be decoded: {error}") from error


def _frames(image: Image.Image, limits: Limits) -> Iterator[Image.Image]:
    """Every frame, decoded; the limits hold for each before it is decoded."""
    total = 0
    for number in range(limits.frames + 1):
        try:
            image.seek(number)
        except EOFError:
            return
        if number == limits.frames:
            break
        _check_pixels(image, limits)
        total += image.width * image.height
        if total > limits.total_pixels:
            raise TooManyPixelsError(f"The frames have more than {limits.total_pixels} pixels together.")
        image.load()
        yield image
    raise TooManyFramesError(f"The picture has more than {limits.frames} frames.")


def _check_pixels(image: Image.Image, limits: Limits) -> None:
    if image.width * image.height > limits.pixels:
        raise TooManyPixelsError(
            f"The picture has {image.width} by {image.height} pixels; the limit is {limits.pixels}."
        )


def _register_heif() -> None:
    try:
        heif = importlib.import_module("pillow_heif")
    except ImportError as error:
        raise DecoderMissingError("The decoder for HEIC pictures is not installed.") from error
    heif.register_heif_opener()


def _upright(image: Image.Image) -> Image.Image:
    """Turned as the orientation tag says; as stored, if the tag cannot be read."""
    try:
        return ImageOps.exif_transpose(image)
    except _FAULTS:
        return image


def _on_white(image: Image.Image) -> Image.Image:
    if image.mode != "RGBA":
        return image if image.mode in {"RGB", "L", "CMYK"} else image.convert("RGB")
    white = Image.new("RGBA", image.size, "white")
    white.alpha_composite(image)
    return white.convert("RGB")


def _in_srgb(image: Image.Image, profile: bytes | None) -> Image.Image:
    """Converted from the embedded profile; plainly, if there is none or it is broken or of another kind."""
    if profile:
        try:
            source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
            converted = ImageCms.profileToProfile(
                image, source, ImageCms.createProfile("sRGB"), outputMode="RGB"
            )
        except (ImageCms.PyCMSError, *_FAULTS):
            converted = None
        if converted is not None:
            return converted
    return image.convert("RGB")


def metadata_blocks(content: bytes | BinaryIO, mime: str) -> MetadataBlocks:
    """The EXIF and XMP of a picture's header, unparsed and of any length; no pixel is decoded."""
    with _opened(content, mime, _HEADERS) as image:
        exif, xmp = image.info.get("exif"), image.info.get("xmp")
        return MetadataBlocks(
            exif.removeprefix(b"Exif\0\0") if isinstance(exif, bytes) else b"",
            xmp if isinstance(xmp, bytes) else b"",
        )
