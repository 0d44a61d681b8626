"""Sign what the device captured: only a file that was read here, whole, decoded and without a past.

The plan for one file:
1. A worker that can die says whether the file is whole, decodes, and carries no credentials.
2. The number and the link are written down, for this media alone (`tools.camera.chain`).
3. The device's key signs `c2pa.created` as a capture, with the newest checkpoint that the
   device knows and a commitment to the link.
4. The signed file is checked as any stranger's would be.
5. It takes its place in the queue, whole: the point of no return.
6. The chain goes on from its link.

Needs no network. The time of a capture is proven later: not before the checkpoint, not
after the service received it; the device's own clock proves nothing and is not written.
"""

import contextlib
import hashlib
import io
import logging
import os
import secrets
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import ClassVar

from authn import capture_chain, manifest
from authn.device import Certificate, Device, encoded
from authn.errors import Error as AuthnError
from authn.errors import KeyFileError, KeyNotOursError, SigningError
from authn.evidence import Content, Credentials, Provenance, Signature
from authn.keys import Algorithm
from authn.media import Media
from authn.plain import plain
from authn.signer import Lists
from authn.verify import verify_media
from tools.camera import queue
from tools.camera.chain import Chain, Counter, Pending, held
from tools.camera.folder import CHECKPOINT, Camera, PoolEmptyError
from tools.capture import Output, captured_with, translated
from tools.check import LIMITS
from tools.errors import Error, MediaRefusedError, UnreadableError
from tools.examine import MAX_BYTES, Prepared, Tail, file_state
from tools.home import content_of, require_valid
from tools.supervisor import Supervisor, Task
from tools.verdict import Obstacle

STOPPED = "stopped.json"
_STRANGER = Lists()
_log = logging.getLogger(__name__)


class DeviceStoppedError(Error):
    """The service said that this device must not capture any more."""

    code: ClassVar[str] = "device-stopped"
    remedy: ClassVar[str] = (
        "Ask the operator of the service; a device that was only suspended goes on when stopped.json is removed."
    )


class AlreadyTakenError(Error):
    """This very file was captured before."""

    code: ClassVar[str] = "already-captured"
    remedy: ClassVar[str] = (
        "Nothing is to be done; its signed copy is in the device's queue, unless it was removed."
    )


@dataclass(frozen=True, slots=True)
class Camerawork:
    """What taking needs, opened once and used for many files."""

    camera: Camera
    sdk: manifest.Sdk
    worker: "Supervisor[str, Prepared | Obstacle]"
    now: Callable[[], datetime]
    counter: Counter | None = None

    def take(self, source: Path) -> queue.Waiting:
        """Sign one file and put it into the queue; what a crash left unfinished comes first."""
        require_going_on(self.camera)
        prepared = self._prepared(source)
        with held(self.camera, self.counter) as chain:
            if (before := self._finished(chain)) is not None and before.opening.media == prepared.sha256:
                return before
            if prepared.sha256 in chain.taken():
                raise AlreadyTakenError(f"{source.name} was captured before")
            # 2. The number.
            device, pooled = _signer(self.camera, chain)
            with contextlib.closing(device.key):
                _require_usable(device, self.now())
                captured_with(prepared)  # a file with a past gets no number
                pending = chain.begin(
                    prepared.sha256,
                    newest_checkpoint(self.camera),
                    secrets.token_bytes(32),
                    str(source.absolute()),
                    pooled,
                )
                try:
                    waiting = self._sign(device, source, prepared, pending)
                except (Error, AuthnError):
                    # Where it stands in the queue all the same, it is for the next one to find.
                    if not queue.place_of(self.camera, pending.opening.counter).exists():
                        chain.give_up(pending)
                    raise
                # 6. The chain goes on.
                chain.end(pending)
        return waiting

    def taken(self) -> frozenset[bytes]:
        """The SHA-256 of every file that was captured."""
        with held(self.camera, self.counter) as chain:
            return chain.taken()

    def _finished(self, chain: Chain) -> queue.Waiting | None:
        """Finish what was begun before a crash, under its own number; where that cannot be, the number stays unused."""
        begun = chain.state.pending
        if begun is None:
            return None
        place, reason = queue.place_of(self.camera, begun.opening.counter), "something else counted"
        if place.exists():
            waiting = queue.read(place)
            chain.end(begun)
            return waiting
        if (pending := chain.resume()) is not None:
            try:
                waiting = self._again(pending)
            except KeyFileError:
                if pending.pooled is None:
                    raise  # nothing can be signed now; once the key is back, this capture comes first
                reason = "the key of its one-time certificate is gone"
            except (Error, AuthnError) as error:
                reason = str(error)
            else:
                chain.end(pending)
                return waiting
            chain.void(pending)
        _log.warning("capture %d stays unused: %s", begun.opening.counter, plain(reason, 200))
        return None

    def _again(self, pending: Pending) -> queue.Waiting:
        """Sign what was begun, if its file is still there and the same."""
        source = Path(pending.source)
        prepared = self._prepared(source)
        if prepared.sha256 != pending.opening.media:
            raise UnreadableError("its file is no longer the same")
        device = self.camera.device() if pending.pooled is None else self.camera.pooled(pending.pooled)
        with contextlib.closing(device.key):
            return self._sign(device, source, prepared, pending)

    def _prepared(self, source: Path) -> Prepared:
        # 1. Whole, decoded, of a known kind.
        found = self.worker.ask(str(source))
        if isinstance(found, Obstacle):
            raise MediaRefusedError(found.reason, found.code, found.remedy)
        return found

    def _sign(self, device: Device, source: Path, prepared: Prepared, pending: Pending) -> queue.Waiting:
        statement = pending.opening.statement
        claim = captured_with(prepared, capture_chain.assertion(statement))
        name = queue.safe_name(source.name)
        place = queue.place_of(self.camera, pending.opening.counter)
        with queue.placing(self.camera, pending.opening) as building:
            with _output(building / name) as out:
                # 3. The signature. The SDK swallows what goes wrong in the key, so it is kept.
                fault: list[AuthnError] = []

                def sign(data: bytes) -> bytes:
                    try:
                        return device.key.sign(data)
                    except AuthnError as error:
                        fault.append(error)
                        raise

                with _opened(source) as stream:
                    _require_same(stream, prepared)
                    media = Media.of(stream, source.name, MAX_BYTES)
                    try:
                        manifest.write(media, out, claim, None, sign, device.chain_pem, None)
                    except SigningError as error:
                        raise (fault[0] if fault else error) from error
                    _require_same(stream, prepared)
                out.flush()
                # 4. The stranger's check.
                found = verify_media(Media.of(out, name, MAX_BYTES), self.sdk, _STRANGER, self.now())
                identity = _checked(found, device.chain[0], statement)
            waiting = queue.Waiting(place, name, pending.opening, identity, pending.pooled)
            queue.describe(building, waiting, str(source))
            # 5. The queue.
        return waiting


@contextlib.contextmanager
def camerawork(
    camera: Camera, now: Callable[[], datetime], tail: Tail = Tail.REFUSED, counter: Counter | None = None
) -> Iterator[Camerawork]:
    """Open what taking needs, and close it in the end."""
    task: Task[str, Prepared | Obstacle] = Task("tools.examine:start_preparing", tail)
    with manifest.Sdk() as sdk, Supervisor(task, 1, LIMITS) as worker:
        yield Camerawork(camera, sdk, worker, now, counter)


def require_going_on(camera: Camera) -> None:
    """Refuse where the service said that this device must stop."""
    if (camera.path / STOPPED).exists():
        raise DeviceStoppedError(f"the device {camera.name} was told to stop")


def newest_checkpoint(camera: Camera) -> str:
    """The newest checkpoint that the device was shown; empty where it never was online."""
    try:
        return content_of(camera.path / CHECKPOINT).decode()
    except FileNotFoundError:
        return ""
    except UnicodeDecodeError as error:
        raise UnreadableError("the newest checkpoint cannot be read") from error


def _signer(camera: Camera, chain: Chain) -> tuple[Device, int | None]:
    if not camera.one_time:
        return camera.device(), None
    unused = [number for number in camera.pool() if number > chain.state.pooled]
    if not unused:
        raise PoolEmptyError(f"the device {camera.name} has used all its one-time certificates")
    return camera.pooled(unused[0]), unused[0]


def _require_usable(device: Device, at: datetime) -> None:
    require_valid(device.chain, at)
    if device.key.algorithm is not Algorithm.ES256:
        raise KeyNotOursError("a capture is signed with a P-256 key, and the device's is another")
    if device.chain[0].public_key() != device.key.public_key:
        raise KeyNotOursError("the device's certificate is not for its key")


def _checked(found: Provenance, leaf: Certificate, statement: object) -> bytes:
    """The claim's digest, if a stranger would find the file intact, signed by us, saying what we meant."""
    sound = (
        found.credentials is Credentials.PRESENT
        and found.content is Content.INTACT
        and found.signature is Signature.VALID
        and found.certificate is not None
        and found.certificate.sha256 == hashlib.sha256(encoded(leaf)).hexdigest()
        and found.capture == statement
    )
    if not sound or found.identity is None:
        failed = "; ".join(finding.explanation for finding in found.findings if not finding.passed)
        raise SigningError(f"our own check of the signed file does not hold ({plain(failed, 200)})")
    return found.identity.claim


def _opened(source: Path) -> io.FileIO:
    try:
        return io.FileIO(source)
    except OSError as error:
        raise UnreadableError(f"the file cannot be read ({error.strerror or 'unknown reason'})") from error


def _require_same(stream: io.FileIO, prepared: Prepared) -> None:
    if file_state(stream) != prepared.state:
        raise SigningError("the file changed while it was being signed")


@contextlib.contextmanager
def _output(path: Path) -> Iterator[io.BufferedRandom]:
    raw = Output(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "w+")
    try:
        with io.BufferedRandom(raw) as stream:
            yield stream
    except OSError as error:
        raise translated(error, path) from error
    except SigningError as error:
        if raw.fault is not None:
            raise translated(raw.fault, path) from error
        raise
