"""The end of an MP3: an optional ID3v2 tag, layer III frames, optional tags of the known kinds.

A stream of frames has no end mark. A cut between two frames is seen only
where the first frame states how many follow (Xing, Info); otherwise a shorter
file is a whole file. Audio is not decoded.
"""

from typing import Final

from authn.errors import MalformedMediaError, TrailingBytesError, TruncatedMediaError
from authn.media import CHUNK, Media, frame_length, id3_length

_TAGS: Final = 16
_LYRICS: Final = 1 << 20


def walk(media: Media) -> None:
    """Walk frame by frame, then tag by tag, to the end of the file."""
    start = id3_length(media.read(0, min(10, media.size))) or 0
    media.must_hold(start)
    end, frames = _frames_end(media, start)
    if not frames:
        raise MalformedMediaError("No MPEG audio frame follows the tag.")
    stated = _stated_frames(media, start)
    if stated is not None and frames - 1 < stated:
        raise TruncatedMediaError(f"The MP3 has {frames - 1} frames of the {stated} it announces.")
    for _ in range(_TAGS):
        if end == media.size:
            return
        end = _tag_end(media, end)
    raise MalformedMediaError(f"The MP3 has more than {_TAGS} tags at its end.")


def _frames_end(media: Media, at: int) -> tuple[int, int]:
    """Where the run of frames ends, and how many it has; the last must be whole."""
    frames = 0
    while True:
        chunk = media.read(at, min(CHUNK, media.size - at))
        place = 0
        while place + 4 <= len(chunk):
            length = frame_length(chunk[place : place + 4])
            if length is None:
                return at + place, frames
            frames += 1
            place += length
        at += place
        media.must_hold(at)
        if media.size - at < 4:
            return at, frames


def _stated_frames(media: Media, at: int) -> int | None:
    """The number of frames after the first, if the first is an index (Xing or Info) and says so."""
    length = frame_length(media.read(at, 4))
    head = media.read(at, min(length or 0, 64))
    for name in (b"Xing", b"Info"):
        place = head.find(name, 4)
        if 0 < place <= len(head) - 12 and head[place + 7] & 1:
            return int.from_bytes(head[place + 8 : place + 12], "big")
    return None


def _tag_end(media: Media, at: int) -> int:
    """Where the tag at `at` ends: ID3v1, APEv2, Lyrics3 or a late ID3v2."""
    left = media.size - at
    head = media.read(at, min(32, left))
    if head.startswith(b"TAG") and left == 128:
        return at + 128
    if head.startswith(b"APETAGEX") and len(head) == 32:
        # The size counts items and footer, not this header.
        return _held(media, at + 32 + int.from_bytes(head[12:16], "little"))
    if head.startswith(b"LYRICSBEGIN"):
        text = media.read(at, min(left, _LYRICS))
        ends = [text.find(mark) + len(mark) for mark in (b"LYRICS200", b"LYRICSEND") if mark in text]
        if ends:
            return at + min(ends)
    if length := id3_length(head[:10]):
        return _held(media, at + length)
    if head.startswith(b"\xff") and left < 4:
        raise TruncatedMediaError("The last MPEG audio frame is not whole.")
    raise TrailingBytesError(f"{left} bytes follow the last MPEG audio frame.")


def _held(media: Media, end: int) -> int:
    media.must_hold(end)
    return end
