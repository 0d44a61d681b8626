"""Gather the evidence for one file (flow 2: verify).

`start` runs in a worker that can die: it opens the file, checks its credentials
and hands back data. `weigh` runs in the parent: it adds what the ledger, or a
receipt, knows, and lets `tools.verdict` decide. Neither opens a socket; the
worker holds no key.
"""

import contextlib
import dataclasses
import hashlib
import os
import stat
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import IO, BinaryIO

import authn.errors
import detector.errors
import storage.errors
import tools.errors
from authn import manifest
from authn.container import check_whole
from authn.evidence import Code, Credentials, Custody, Finding, Provenance
from authn.keys import verify_ed25519
from authn.media import Media
from authn.profile import Profile
from authn.signer import Lists
from authn.trust import Purpose, TrustList
from authn.verify import verify_media
from detector.frames import LIMITS, decode_fully, thumbnail
from storage.ledger import Ledger
from storage.note import VerifierKey
from storage.payload import parse as parse_payload
from storage.receipt import Receipt
from tools.verdict import Ledger as LedgerState
from tools.verdict import Obstacle, Recorded

MAX_BYTES = 4 << 30
_HASH_STEP = 1 << 20

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


@dataclass(frozen=True, slots=True)
class Prepared:
    """What a file must be before it is signed: whole, decoded, of a known type."""

    sha256: bytes
    size: int
    kind: str
    credentials: Credentials


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
        found = _examined(path, lists, sdk, policy.at)
        if found.kind is None:
            return found
        with contextlib.suppress(detector.errors.Error), _opened(path) as stream:
            return Examined(
                found.path,
                found.sha256,
                found.size,
                found.kind,
                found.provenance,
                found.obstacle,
                thumbnail(stream, found.kind),
            )
        return found

    return examine


def start_preparing(_: None) -> Callable[[str], Prepared | Obstacle]:
    """Make a worker ready that says whether a file may be signed."""
    sdk = manifest.Sdk()

    def prepare(path: str) -> Prepared | Obstacle:
        try:
            with _opened(path) as stream:
                media = Media.of(stream, Path(path).name, MAX_BYTES)
                check_whole(media)
                if media.kind.is_image:
                    stream.seek(0)
                    decode_fully(stream, media.kind.value, LIMITS)
                reading = sdk.read(media)
                stream.seek(0)
                digest = bytes.fromhex(_Digest(stream).hexdigest())
        except OURS as error:
            return obstacle(error)
        return Prepared(digest, media.size, media.kind.value, reading.credentials)

    return prepare


def obstacle(error: Exception) -> Obstacle:
    """One of our errors as data: code, reason, remedy."""
    code, remedy = getattr(error, "code", "unexpected"), getattr(error, "remedy", "Report this.")
    return Obstacle(code, str(error), remedy)


def _examined(path: str, lists: Lists, sdk: manifest.Sdk, at: datetime) -> Examined:
    try:
        with _opened(path) as stream:
            media = Media.of(stream, Path(path).name, MAX_BYTES)
            digest = _Digest(stream)
            provenance = _with_wholeness(verify_media(media, sdk, lists, at), media)
            return Examined(path, digest.hexdigest(), media.size, media.kind.value, provenance, None)
    except OURS as error:
        return Examined(path, None, None, None, None, obstacle(error))


def _with_wholeness(provenance: Provenance, media: Media) -> Provenance:
    """Where nothing binds the bytes, at least say whether the file is all there."""
    if provenance.credentials is Credentials.PRESENT:
        return provenance
    try:
        check_whole(media)
        finding = Finding.holds(Code.MEDIA_WHOLE, "the file is complete by its own structure")
    except authn.errors.MediaError as error:
        finding = Finding.fails(Code.MEDIA_WHOLE, str(error))
    return _plus(provenance, finding)


def _plus(provenance: Provenance, finding: Finding) -> Provenance:
    return dataclasses.replace(provenance, findings=(*provenance.findings, finding))


@contextlib.contextmanager
def _opened(path: str) -> Iterator[BinaryIO]:
    """A regular file, open for reading; a pipe or a device would hang or never end."""
    try:
        mode = Path(path).stat().st_mode
        if stat.S_ISDIR(mode):
            raise tools.errors.NotAFileError("this is a folder")
        if not stat.S_ISREG(mode):
            raise tools.errors.NotAFileError("this is not a regular file")
        with Path(path).open("rb", buffering=0) as stream:
            yield stream
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "its name holds a NUL"
        raise tools.errors.UnreadableError(
            f"the file cannot be read ({reason or 'unknown reason'})"
        ) from error


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


class _Digest(threading.Thread):
    """The file's SHA-256, computed beside the SDK's own hashing, which also lets go of the interpreter."""

    def __init__(self, stream: BinaryIO) -> None:
        super().__init__(daemon=True)
        self._descriptor = os.dup(stream.fileno())
        self._digest = hashlib.sha256()
        self._error: OSError | None = None
        self.start()

    def run(self) -> None:
        """Read by position: the descriptor's offset is shared with the SDK's reader."""
        try:
            offset = 0
            while piece := os.pread(self._descriptor, _HASH_STEP, offset):
                self._digest.update(piece)
                offset += len(piece)
        except OSError as error:
            self._error = error
        finally:
            os.close(self._descriptor)

    def hexdigest(self) -> str:
        """Wait for the digest."""
        self.join()
        if self._error is not None:
            raise self._error
        return self._digest.hexdigest()


# --- What a ledger knows


def weigh(
    found: Examined, ledger: Ledger | None, key: VerifierKey | None, receipt: Receipt | None
) -> Recorded:
    """Ask a receipt, else the ledger, about the asset; every proof is checked before it counts."""
    if found.provenance is None:
        return Recorded(LedgerState.NOT_CHECKED)
    if receipt is not None:
        return _by_receipt(found.provenance, key, receipt)
    if ledger is None or key is None:
        return Recorded(LedgerState.NOT_CHECKED)
    if found.provenance.credentials is Credentials.PRESENT:
        return _by_ledger(found.provenance, ledger, key)
    return _by_bytes(found, ledger, key)


def _by_receipt(provenance: Provenance, key: VerifierKey | None, receipt: Receipt) -> Recorded:
    if key is None:
        finding = Finding.fails(
            Code.LEDGER_INCLUDED, "a receipt was given, but no ledger key to check it with"
        )
        return Recorded(LedgerState.NOT_CHECKED, findings=(finding,))
    try:
        receipt.check((key,), verify_ed25519)
    except storage.errors.Error as error:
        return Recorded(
            LedgerState.CONFLICTING,
            findings=(Finding.fails(Code.LEDGER_INCLUDED, f"the receipt does not hold: {error}"),),
        )
    return _compared(provenance, receipt, key)


def _by_ledger(provenance: Provenance, ledger: Ledger, key: VerifierKey) -> Recorded:
    if provenance.identity is None:
        return Recorded(LedgerState.UNKNOWN)
    indices = ledger.find("claim", provenance.identity.claim)
    if indices:
        receipt = ledger.prove(indices[0])
        receipt.check((key,), verify_ed25519)
        recorded = _compared(provenance, receipt, key)
        issued, custody = _issuance(provenance, ledger)
        return dataclasses.replace(recorded, issued_index=issued, custody=custody)
    similar = ledger.find("binding", provenance.identity.binding)
    if similar:
        finding = Finding.fails(
            Code.LEDGER_INCLUDED, f"entry {similar[0]} records the same media under another claim"
        )
        return Recorded(
            LedgerState.SIMILAR, similar[0], ledger.entry(similar[0]).logged_at, key.name, findings=(finding,)
        )
    finding = Finding.fails(Code.LEDGER_INCLUDED, f"the ledger {key.name} has no entry for this signature")
    return Recorded(LedgerState.UNKNOWN, origin=key.name, findings=(finding,))


def _by_bytes(found: Examined, ledger: Ledger, key: VerifierKey) -> Recorded:
    indices = ledger.find("media", bytes.fromhex(found.sha256)) if found.sha256 else ()
    if not indices:
        finding = Finding.fails(Code.LEDGER_INCLUDED, f"the ledger {key.name} does not know these bytes")
        return Recorded(LedgerState.UNKNOWN, origin=key.name, findings=(finding,))
    receipt = ledger.prove(indices[0])
    receipt.check((key,), verify_ed25519)
    finding = Finding.holds(
        Code.LEDGER_INCLUDED,
        f"entry {indices[0]} of {key.name} records exactly these bytes as what was signed",
    )
    return Recorded(LedgerState.SIMILAR, indices[0], receipt.entry.logged_at, key.name, findings=(finding,))


def _compared(provenance: Provenance, receipt: Receipt, key: VerifierKey) -> Recorded:
    """Whether a proven entry is about this very signature."""
    payload = parse_payload(receipt.payload)
    identity, certificate = provenance.identity, provenance.certificate
    index, logged_at = receipt.proof.index, receipt.entry.logged_at
    same = (
        identity is not None
        and certificate is not None
        and payload.get("claim") == identity.claim.hex()
        and payload.get("binding") == identity.binding.hex()
        and payload.get("signature") == identity.signature.hex()
        and payload.get("certificate") == certificate.sha256
    )
    if same:
        finding = Finding.holds(
            Code.LEDGER_INCLUDED,
            f"entry {index} of {key.name} records this signature; its inclusion was proven",
        )
        return Recorded(LedgerState.INCLUDED, index, logged_at, key.name, findings=(finding,))
    finding = Finding.fails(Code.LEDGER_INCLUDED, f"entry {index} of {key.name} is about another signature")
    return Recorded(LedgerState.CONFLICTING, index, logged_at, key.name, findings=(finding,))


def _issuance(provenance: Provenance, ledger: Ledger) -> tuple[int | None, Custody | None]:
    """Where the certificate's issuance is logged, and what was known then of its key's custody."""
    if provenance.certificate is None:
        return None, None
    indices: Sequence[int] = ledger.find("spki", bytes.fromhex(provenance.certificate.key_sha256))
    payload = ledger.payload(indices[0]) if indices else None
    if payload is None:
        return None, None
    custody = parse_payload(payload).get("custody")
    return indices[0], next((member for member in Custody if member.value == custody), None)
