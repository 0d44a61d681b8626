"""Whether a file is all there, and nothing more, by its container's own structure.

A signature over a file that was cut, or that hides a second file behind the
first, would still be valid; so both are refused before signing. The payload
is walked over, never loaded: memory stays flat whatever the size. A whole
container may still hold a picture that does not decode; `detector.frames`
answers that.
"""

from typing import Final

from authn.media import Kind, Media
from authn.whole import bmff, flac, gif, jpeg, mp3, pdf, png, riff, svg, tiff


def check_whole(media: Media) -> None:
    """Refuse media that ends early, goes on after its end, or is no container of its kind.

    Raises `TruncatedMediaError`, `TrailingBytesError` or `MalformedMediaError`.
    Each module of `authn.whole` says what its format cannot show: appended
    bytes in TIFF and DNG, a cut between frames of an MP3 or FLAC that does
    not state its length, a cut after an earlier revision of a PDF, and bytes
    that come as a box of their own in MP4, MOV, HEIC and AVIF.
    """
    _WALKS[media.kind](media)


_WALKS: Final = {
    Kind.JPEG: jpeg.walk,
    Kind.PNG: png.walk,
    Kind.WEBP: riff.walk,
    Kind.WAV: riff.walk,
    Kind.AVI: riff.walk,
    Kind.GIF: gif.walk,
    Kind.TIFF: tiff.walk,
    Kind.DNG: tiff.walk,
    Kind.AVIF: bmff.walk,
    Kind.HEIC: bmff.walk,
    Kind.MP4: bmff.walk,
    Kind.MOV: bmff.walk,
    Kind.MP3: mp3.walk,
    Kind.FLAC: flac.walk,
    Kind.PDF: pdf.walk,
    Kind.SVG: svg.walk,
}
