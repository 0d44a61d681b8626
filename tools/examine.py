"""Gather the evidence for one file (flow 2: verify).

`start` and its kin run in a worker that can die: they open the file, check its
credentials and hand back data. The worker holds no key and opens no socket, and
knows of no ledger; `tools.recorded` adds that in the parent.
"""

import contextlib
import dataclasses
import hashlib
import os
import stat
import tempfile
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import IO, BinaryIO

import authn.errors
import detector.errors
import storage.errors
import tools.errors
from authn import manifest
from authn.container import check_whole
from authn.evidence import Code, Credentials, Finding, Provenance
from authn.media import Kind, Media
from authn.plain import plain
from authn.profile import Profile
from authn.signer import Lists
from authn.trust import Purpose, TrustList
from authn.verify import verify_media
from detector.frames import LIMITS, decode_fully, thumbnail
from tools.verdict import Obstacle

MAX_BYTES = 4 << 30
_HASH_STEP = 1 << 20
_WORTH_A_THREAD = 1 << 20
# How a manifest store begins (C2PA 2.2, 11.1.4.2), and the element around one in SVG, where it is text.
_MARK, _TEXT_MARK = b"jumdc2pa", b"c2pa:manifest"

OURS = (authn.errors.Error, detector.errors.Error, storage.errors.Error, tools.errors.Error)


@dataclass(frozen=True, slots=True)
class ListFile:
    """A trust list as it travels to a worker: PEM bytes, a name, and the profile it asks of signers."""

    name: str
    pem: bytes
    profile: Profile


@dataclass(frozen=True, slots=True)
class Policy:
    """What a worker needs to judge files: the lists and the moment."""

    signers: ListFile | None
    time_stampers: ListFile | None
    at: datetime

    def lists(self) -> Lists:
        """Parse the lists; a missing list recognises nobody."""
        return Lists(
            _parsed(self.signers, Purpose.SIGNING),
            _parsed(self.time_stampers, Purpose.TIME_STAMPING),
        )


def _parsed(file: ListFile | None, purpose: Purpose) -> TrustList:
    return (
        TrustList.empty(purpose)
        if file is None
        else TrustList.parse(file.pem, file.name, purpose, file.profile)
    )


@dataclass(frozen=True, slots=True)
class Examined:
    """What the worker found in one file. `provenance` is missing only where `obstacle` says why."""

    path: str
    sha256: str | None
    size: int | None
    kind: str | None
    provenance: Provenance | None
    obstacle: Obstacle | None
    thumbnail: bytes | None = None


class Tail(StrEnum):
    """What to do with bytes after a picture's end, which some cameras leave and some attacks add."""

    REFUSED = "refused"
    SIGNED = "signed"


@dataclass(frozen=True, slots=True)
class Prepared:
    """What a file must be before it is signed: whole, decoded, of a known type.

    `note` says what could not be looked at, or was let through on request.
    """

    sha256: bytes
    size: int
    state: tuple[int, ...]
    kind: str
    credentials: Credentials
    note: str


def start(policy: Policy) -> Callable[[str], Examined]:
    """Make a worker ready; the callable it returns examines one path."""
    lists, sdk = policy.lists(), manifest.Sdk()

    def examine(path: str) -> Examined:
        return _examined(path, lists, sdk, policy.at)

    return examine


def start_illustrated(policy: Policy) -> Callable[[str], Examined]:
    """As `start`, with our own small rendering of pictures that decode."""
    lists, sdk = policy.lists(), manifest.Sdk()

    def examine(path: str) -> Examined:
        return _examined(path, lists, sdk, policy.at, _thumbnail)

    return examine


def _thumbnail(media: Media) -> bytes | None:
    media.stream.seek(0)
    with contextlib.suppress(detector.errors.Error):
        return thumbnail(media.stream, media.kind.value)
    return None


def start_preparing(tail: Tail) -> Callable[[str], Prepared | Obstacle]:
    """Make a worker ready that says whether a file may be signed."""
    sdk = manifest.Sdk()

    def prepare(path: str) -> Prepared | Obstacle:
        try:
            with _opened(path) as stream:
                before = file_state(stream)
                media = Media.of(stream, Path(path).name, MAX_BYTES)
                note = _whole(media, tail) or _decoded(media)
                reading = sdk.read(media)
                digest = bytes.fromhex(_Digest(stream).hexdigest())
                if file_state(stream) != before:
                    raise tools.errors.FileChangedError("the file changed while it was being checked")
        except OURS as error:
            return obstacle(error)
        return Prepared(digest, media.size, before, media.kind.value, reading.credentials, note)

    return prepare


def _whole(media: Media, tail: Tail) -> str:
    try:
        check_whole(media)
    except authn.errors.TrailingBytesError as error:
        if tail is Tail.REFUSED:
            raise
        _decoded(media)
        return f"{error} They are signed with it, as you asked."
    return ""


def _decoded(media: Media) -> str:
    """Decode every pixel, or say why that was not possible for a file that is whole."""
    if not media.kind.is_image:
        return ""
    media.stream.seek(0)
    try:
        decode_fully(media.stream, media.kind.value, LIMITS)
    except detector.errors.DecoderMissingError as error:
        return f"its structure is whole, but its pixels were not decoded before signing: {error.remedy}"
    if media.kind is Kind.DNG:
        return "its structure is whole, but its raw sensor data was not decoded before signing"
    return ""


def obstacle(error: Exception) -> Obstacle:
    """One of our errors as data: code, reason, remedy."""
    code, remedy = getattr(error, "code", "unexpected"), getattr(error, "remedy", "Report this.")
    return Obstacle(code, plain(str(error), 300), remedy)


def _examined(
    path: str,
    lists: Lists,
    sdk: manifest.Sdk,
    at: datetime,
    illustrate: Callable[[Media], bytes | None] = lambda _: None,
) -> Examined:
    try:
        with _opened(path) as stream:
            before = file_state(stream)
            media = Media.of(stream, Path(path).name, MAX_BYTES)
            digest = _Digest(stream)
            provenance = verify_media(media, sdk, lists, at)
            sha256 = digest.hexdigest()
            provenance = _with_wholeness(provenance, media)
            picture = illustrate(media)
            if file_state(stream) != before:
                raise tools.errors.FileChangedError("the file changed while it was being checked")
            return Examined(path, sha256, media.size, media.kind.value, provenance, None, picture)
    except OURS as error:
        return Examined(path, None, None, None, None, obstacle(error))


def file_state(stream: BinaryIO) -> tuple[int, ...]:
    """What differs when a file is replaced or written to. The change time cannot be set by its writer."""
    now = os.fstat(stream.fileno())
    return now.st_dev, now.st_ino, now.st_size, now.st_mtime_ns, now.st_ctime_ns


def _with_wholeness(provenance: Provenance, media: Media) -> Provenance:
    """Where nothing binds the bytes, at least say whether the file is all there."""
    if provenance.credentials is Credentials.PRESENT:
        return provenance
    fault: authn.errors.MediaError | None = None
    try:
        check_whole(media)
    except authn.errors.MediaError as error:
        fault = error
    marked = _marked(media)
    if provenance.credentials is Credentials.UNREADABLE and not marked:
        reason = "its structure cannot be read" if fault is None else str(fault)
        raise tools.errors.UnreadableMediaError(f"{reason.rstrip('.')}; it holds no trace of a signed record")
    if provenance.credentials is Credentials.NONE and marked:
        remains = "the file carries no signed record that can be read, though the beginning of one stands in its bytes"
        provenance = _plus(provenance, Finding.fails(Code.CREDENTIALS_READABLE, remains))
    if fault is None:
        return _plus(provenance, Finding.holds(Code.MEDIA_WHOLE, "the file is complete by its own structure"))
    return _plus(provenance, Finding.fails(Code.MEDIA_WHOLE, str(fault)))


def _marked(media: Media) -> bool:
    """Whether the bytes hold what a signed record begins with. Asked only where no record was read."""
    mark, tail = _TEXT_MARK if media.kind is Kind.SVG else _MARK, b""
    for piece in media.chunks(0, media.size):
        if mark in piece or mark in tail + piece[: len(mark)]:
            return True
        tail = piece[-len(mark) :]
    return False


def _plus(provenance: Provenance, finding: Finding) -> Provenance:
    return dataclasses.replace(provenance, findings=(*provenance.findings, finding))


@contextlib.contextmanager
def _opened(path: str) -> Iterator[BinaryIO]:
    """A regular file, open for reading; a pipe or a device would hang or never end."""
    if "\0" in path:
        raise tools.errors.UnreadableError("the file cannot be read (its name holds a NUL)")
    try:
        mode = Path(path).stat().st_mode
        if stat.S_ISDIR(mode):
            raise tools.errors.NotAFileError("this is a folder")
        if not stat.S_ISREG(mode):
            raise tools.errors.NotAFileError("this is not a regular file")
        with Path(path).open("rb", buffering=0) as stream:
            yield stream
    except OSError as error:
        reason = error.strerror or "unknown reason"
        raise tools.errors.UnreadableError(f"the file cannot be read ({reason})") from error


@contextlib.contextmanager
def spooled(stream: IO[bytes]) -> Iterator[str]:
    """The path of a private file with everything `stream` gives, up to the limit."""
    with tempfile.NamedTemporaryFile(prefix="lightseal-") as file:
        size = 0
        while piece := stream.read(_HASH_STEP):
            size += len(piece)
            if size > MAX_BYTES:
                raise tools.errors.UsageError(f"standard input gave more than {MAX_BYTES} bytes")
            file.write(piece)
        file.flush()
        yield file.name


class _Digest:
    """The file's SHA-256; a large one's is computed beside the SDK's own hashing, which lets go of the interpreter."""

    def __init__(self, stream: BinaryIO) -> None:
        self._descriptor = stream.fileno()
        self._digest = hashlib.sha256()
        self._error: OSError | None = None
        self._thread: threading.Thread | None = None
        if os.fstat(self._descriptor).st_size >= _WORTH_A_THREAD:
            self._descriptor = os.dup(self._descriptor)  # the stream may be closed before the thread is done
            self._thread = threading.Thread(target=self._apart, daemon=True)
            self._thread.start()

    def hexdigest(self) -> str:
        """Wait for the digest; a small file's is computed only now."""
        if self._thread is None:
            self._read()
        else:
            self._thread.join()
        if self._error is not None:
            raise self._error
        return self._digest.hexdigest()

    def _apart(self) -> None:
        try:
            self._read()
        except OSError as error:
            self._error = error
        finally:
            os.close(self._descriptor)

    def _read(self) -> None:
        """Read by position: the descriptor's offset is shared with the SDK's reader."""
        offset = 0
        while piece := os.pread(self._descriptor, _HASH_STEP, offset):
            self._digest.update(piece)
            offset += len(piece)
