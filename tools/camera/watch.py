"""Wait for a folder's new files, and say which are complete: no more bytes come, and the file is whole.

Looks again and again, since no notice comes from a card reader or a network share. A file is
given out when two looks, some time apart, found the same; whether it is whole is then seen by
who takes it. What could not be taken is given out again only after it changed. Files that
were taken are known by what they hold, so a camera may use a name again; those whose name
begins with a dot are somebody's drafts and left alone. Folders below are looked into. What is
named like a capture and cannot be one, such as a link or an empty file, is named once.
"""

import hashlib
import math
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from tools.errors import NotAFileError, UnreadableError

MAX_FILES = 100_000
_PICTURES = (".jpg", ".jpeg", ".png", ".webp", ".tif", ".tiff", ".avif", ".heic", ".heif", ".gif", ".dng")
_OTHERS = (".mp4", ".mov", ".m4v", ".avi", ".wav", ".mp3", ".flac")
_SUFFIXES = frozenset((*_PICTURES, *_OTHERS))

State = tuple[int, int, int, int]


@dataclass(slots=True)
class Watch:
    """One folder that is being watched. `look` once in a while; it never waits by itself."""

    folder: Path
    settle_seconds: float
    _seen: dict[Path, tuple[State, float]] = field(default_factory=dict)
    _done: dict[Path, State] = field(default_factory=dict)
    _odd: dict[Path, tuple[str, float]] = field(default_factory=dict)

    def look(self, at: float) -> Iterator[Path]:
        """The files that changed no more since an earlier look, by name; `at` is any clock that only goes on."""
        found = dict(_files(self.folder))
        for path in self._seen.keys() - found.keys():
            del self._seen[path]
        for path, state in sorted(found.items()):
            if self._done.get(path) == state or not state[2]:
                continue
            known = self._seen.get(path)
            if known is None or known[0] != state:
                self._seen[path] = state, at
            elif at - known[1] >= self.settle_seconds:
                self._done[path] = state
                yield path

    def passed_over(self, at: float) -> Iterator[tuple[Path, str]]:
        """What lies there as a capture would and is none, and why; each once, after it stayed so for a while."""
        found = dict(_odd_files(self.folder))
        for path in self._odd.keys() - found.keys():
            del self._odd[path]
        for path, why in sorted(found.items()):
            known = self._odd.get(path)
            if known is None or known[0] != why:
                self._odd[path] = why, at
            elif at - known[1] >= self.settle_seconds:
                self._odd[path] = why, math.inf
                yield path, why


def digest_of(path: Path) -> bytes:
    """The SHA-256 of a file, by which one that was taken is known again."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").digest()
    except OSError as error:
        raise UnreadableError(f"{path.name} cannot be read ({error.strerror})") from error


def _files(folder: Path) -> Iterator[tuple[Path, State]]:
    """Every media file under the folder; links are not followed, so nothing outside is taken for a capture."""
    for path, now in _named_like_media(folder):
        if stat.S_ISREG(now.st_mode):
            yield path, (now.st_dev, now.st_ino, now.st_size, now.st_mtime_ns)


def _odd_files(folder: Path) -> Iterator[tuple[Path, str]]:
    """Whatever is named like media and is nothing that could be captured."""
    for path, now in _named_like_media(folder):
        if stat.S_ISLNK(now.st_mode):
            yield path, "a link is not followed"
        elif not stat.S_ISREG(now.st_mode):
            yield path, "it is no file"
        elif not now.st_size:
            yield path, "it is empty"


def _named_like_media(folder: Path) -> Iterator[tuple[Path, os.stat_result]]:
    if not folder.is_dir():
        raise NotAFileError(f"{folder} is no folder that could be watched")
    count = 0
    for place, folders, names in os.walk(folder):
        folders[:] = sorted(each for each in folders if not each.startswith("."))
        for name in names:
            path = Path(place, name)
            if name.startswith(".") or path.suffix.lower() not in _SUFFIXES:
                continue
            try:
                now = path.lstat()
            except OSError:  # gone between the look and the stat
                continue
            count += 1
            if count > MAX_FILES:
                raise UnreadableError(f"there are more than {MAX_FILES} files in {folder}")
            yield path, now
