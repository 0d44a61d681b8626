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
from authn import cose, jumbf, manifest
from authn.attached import later_tokens, stapled_answers
from authn.container import check_whole
from authn.evidence import Code, Credentials, Finding, Provenance, Step
from authn.media import Kind, Media, sniff
from authn.plain import plain
from authn.revocation import NO_STATUSES, Statuses
from authn.signer import Lists, check_stamp, stamp_of
from authn.trust import Purpose, TrustList
from authn.verify import verify_media
from detector.frames import LIMITS, decode_fully, thumbnail
from detector.metadata import Metadata, read_metadata
from tools.tokens import kept
from tools.trust import ListFile
from tools.verdict import Obstacle

MAX_BYTES = 4 << 30
_HASH_STEP = 1 << 20
_WORTH_A_THREAD = 1 << 20
# How a manifest store begins (C2PA 2.2, 11.1.4.2), and the element around one in SVG, where it is text.
_MARK, _TEXT_MARK = b"jumdc2pa", b"c2pa:manifest"

OURS = (authn.errors.Error, detector.errors.Error, storage.errors.Error, tools.errors.Error)


@dataclass(frozen=True, slots=True)
class Policy:
    """What a worker needs to judge files: the lists, what is known of withdrawals, and the moment.

    `tokens` are those that came with a receipt, `token_folder` is where a home keeps others.
    """

    files: tuple[ListFile, ...]
    at: datetime
    statuses: Statuses = NO_STATUSES
    sidecar: bytes | None = None
    tokens: tuple[bytes, ...] = ()
    token_folder: Path | None = None

    def lists(self) -> Lists:
        """Parse the lists; where none is given for a purpose, nobody is recognised for it."""
        parsed = [file.parse() for file in self.files]

        def listed(purpose: Purpose) -> tuple[TrustList, ...]:
            return tuple(trusted for trusted in parsed if trusted.purpose is purpose)

        return Lists(
            listed(Purpose.SIGNING),
            listed(Purpose.TIME_STAMPING),
            listed(Purpose.IDENTITY),
            self.statuses,
            self.later,
        )

    def later(self, signature: bytes) -> tuple[bytes, ...]:
        """The tokens kept apart from the file over the signature of that SHA-256."""
        if self.token_folder is None:
            return self.tokens
        return (*self.tokens, *kept(self.token_folder, signature))


@dataclass(frozen=True, slots=True)
class KeptToken:
    """A time-stamp token and the bytes it is over; `list` and `at` only where it stands."""

    token: bytes
    message: bytes
    list: str | None
    at: datetime | None


@dataclass(frozen=True, slots=True)
class Kept:
    """What a stranger needs besides a report to check a signature again, as it stands in the file."""

    store: bytes
    claim: bytes
    message: bytes
    signature: bytes
    algorithm: int
    tokens: tuple[KeptToken, ...]


@dataclass(frozen=True, slots=True)
class Examined:
    """What the worker found in one file. `provenance` is missing only where `obstacle` says why.

    `metadata` is what the file says of itself outside any signature; `thumbnail` is ours.
    """

    path: str
    sha256: str | None
    size: int | None
    kind: str | None
    provenance: Provenance | None
    obstacle: Obstacle | None
    thumbnail: bytes | None = None
    metadata: Metadata | None = None
    kept: Kept | None = None


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
    lists, sdk, sidecar = policy.lists(), manifest.Sdk(), policy.sidecar

    def examine(path: str) -> Examined:
        return _examined(path, lists, sdk, policy.at, sidecar)

    return examine


def start_illustrated(policy: Policy) -> Callable[[str], Examined]:
    """As `start`, with our own small rendering of pictures that decode."""
    lists, sdk, sidecar = policy.lists(), manifest.Sdk(), policy.sidecar

    def examine(path: str) -> Examined:
        return _examined(path, lists, sdk, policy.at, sidecar, _illustrated)

    return examine


def start_bundled(policy: Policy) -> Callable[[str], Examined]:
    """As `start_illustrated`, with what others need to check the signature again."""
    lists, sdk, sidecar = policy.lists(), manifest.Sdk(), policy.sidecar

    def examine(path: str) -> Examined:
        return _examined(
            path,
            lists,
            sdk,
            policy.at,
            sidecar,
            lambda *found: _kept(sdk, lists, policy.at, _illustrated(*found), found[1]),
        )

    return examine


def _bare(found: Examined, _: Media) -> Examined:
    return _with_steps(found, lambda *_: None)


def _illustrated(found: Examined, media: Media) -> Examined:
    media.stream.seek(0)
    picture = _small(media.stream, media.kind.value)
    return dataclasses.replace(_with_steps(found, _small), thumbnail=picture)


def _small(content: bytes | BinaryIO, mime: str) -> bytes | None:
    with contextlib.suppress(detector.errors.Error):
        return thumbnail(content, mime)
    return None


def _with_steps(found: Examined, render: Callable[[bytes, str], bytes | None]) -> Examined:
    if found.provenance is None or not found.provenance.steps:
        return found
    steps = _rendered(found.provenance.steps, render)
    return dataclasses.replace(found, provenance=dataclasses.replace(found.provenance, steps=steps))


def _rendered(steps: tuple[Step, ...], render: Callable[[bytes, str], bytes | None]) -> tuple[Step, ...]:
    """The steps with their pictures as `render` makes them anew: nothing a signer drew is handed on."""
    return tuple(
        dataclasses.replace(
            step,
            thumbnail=None if step.thumbnail is None else _anew(step.thumbnail, render),
            steps=_rendered(step.steps, render),
        )
        for step in steps
    )


def _anew(picture: bytes, render: Callable[[bytes, str], bytes | None]) -> bytes | None:
    with contextlib.suppress(authn.errors.MediaError):
        return render(picture, sniff(picture).value)
    return None


def _kept(sdk: manifest.Sdk, lists: Lists, at: datetime, found: Examined, media: Media) -> Examined:
    """What was read, read again: the store, what was signed, and every token with the bytes it is over."""
    if found.provenance is None or found.provenance.credentials is not Credentials.PRESENT:
        return found
    reading = sdk.read(media)
    manifests = jumbf.parse(reading.store)
    active = manifests[-1]
    signed = cose.parse(active.signature, active.claim)
    stamps = [signed.stamp] if signed.stamp else []
    stamps += [
        stamp_of(signed, token)
        for token in (
            *later_tokens(manifests, active.label),
            *lists.later(hashlib.sha256(signed.signature).digest()),
        )
    ]
    lists = lists.with_answers((*signed.answers, *stapled_answers(manifests)))
    judged = [(stamp, check_stamp(stamp, lists, at)) for stamp in stamps]
    tokens = [KeptToken(stamp.token, stamp.message, answer.list, answer.at) for stamp, answer in judged]
    message = signed.message(active.claim)
    kept = Kept(reading.store, active.claim, message, signed.signature, signed.algorithm, tuple(tokens))
    return dataclasses.replace(found, kept=kept)


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
    sidecar: bytes | None,
    more: Callable[[Examined, Media], Examined] = _bare,
) -> Examined:
    try:
        with _opened(path) as stream:
            before = file_state(stream)
            media = dataclasses.replace(Media.of(stream, Path(path).name, MAX_BYTES), sidecar=sidecar)
            digest = _Digest(stream)
            provenance = verify_media(media, sdk, lists, at)
            sha256 = digest.hexdigest()
            provenance = _with_wholeness(provenance, media)
            found = more(Examined(path, sha256, media.size, media.kind.value, provenance, None), media)
            found = _with_metadata(found, media)
            if file_state(stream) != before:
                raise tools.errors.FileChangedError("the file changed while it was being checked")
            return found
    except OURS as error:
        return Examined(path, None, None, None, None, obstacle(error))


def _with_metadata(found: Examined, media: Media) -> Examined:
    """What the file says of itself, where there is a signer whose words it could contradict."""
    if found.provenance is None or found.provenance.credentials is not Credentials.PRESENT:
        return found
    media.stream.seek(0)
    return dataclasses.replace(found, metadata=read_metadata(media.stream, media.kind.value))


def file_state(stream: BinaryIO) -> tuple[int, ...]:
    """What differs when a file is replaced or written to. The change time cannot be set by its writer."""
    now = os.fstat(stream.fileno())
    return now.st_dev, now.st_ino, now.st_size, now.st_mtime_ns, now.st_ctime_ns


def _with_wholeness(provenance: Provenance, media: Media) -> Provenance:
    """Where nothing binds the bytes, at least say whether the file is all there."""
    if provenance.credentials is Credentials.PRESENT or media.sidecar is not None:
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
