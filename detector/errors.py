"""What can keep `detector` from answering, split by whose fault it is.

A score is an answer and never raised; so is an `Abstention`.
"""

from typing import ClassVar


class Error(Exception):
    """Something kept us from estimating."""

    code: ClassVar[str] = "detector-error"
    remedy: ClassVar[str] = "Report this with the file's type and the version from 'lightseal --version'."


class UndecodableError(Error):
    """The bytes are no complete picture of the type they begin like."""

    code = "media-undecodable"
    remedy = "Copy the file again from the device; this copy cannot be read to its end."


class TooManyPixelsError(Error):
    """The picture is over the pixel limit, by its own header."""

    code = "media-too-many-pixels"
    remedy = "Pictures of more than 100 megapixels are not decoded here; treat an unknown one as hostile."


class TooManyFramesError(Error):
    """The picture has more frames than the limit."""

    code = "media-too-many-frames"
    remedy = "Pictures of more than 2,000 frames, or a thousand megapixels in all, are not decoded here."


class TooManyBytesError(Error):
    """The file is over the byte limit for decoding."""

    code = "media-too-many-bytes"
    remedy = "Pictures of more than 512 MiB are not decoded here."


class DecoderMissingError(Error):
    """The picture may be fine, but its decoder is not installed."""

    code = "decoder-missing"
    remedy = "Run: pip install 'lightseal[heic]'"


class OperatingPointError(Error):
    """The numbers of an operating point contradict each other."""

    code = "operating-point-malformed"
    remedy = "Calibrate the model again; its card cannot be used."
