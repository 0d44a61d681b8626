"""Sign one file and record it (flow 1).

The plan:
1. A worker that can die says whether the file is whole, decodes, and carries credentials.
2. The claim: what a device may say, or what a signing service may say.
3. The device signs; a token is taken on the way, from the home's own authority or from several;
   all in a hidden partial file, which is begun anew where no token is had and none is required yet.
4. The partial file is checked as any stranger's file would be, with this home's lists.
5. The receipt's space is reserved, then the ledger records the signature: the point of no return.
6. Receipt and media take their names. Existing files are never replaced.
"""

import contextlib
import errno
import hashlib
import io
import json
import os
import secrets
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from authn import manifest
from authn.device import Device
from authn.errors import SigningError
from authn.evidence import AssetId, Code, Credentials, Provenance
from authn.media import Media
from authn.plain import plain
from authn.signer import Lists
from authn.timestamp.authority import Authority
from authn.timestamp.loopback import serving
from authn.timestamp.relay import Need, Stamped
from authn.verify import verify_media
from storage.entry import Kind as EntryKind
from storage.ledger import Ledger
from storage.payload import canonical
from storage.receipt import Receipt
from storage.record import Record
from tools.errors import (
    AlreadySignedError,
    DiskFullError,
    OutputExistsError,
    UnreadableError,
    UnwritableError,
)
from tools.examine import MAX_BYTES, Prepared, file_state
from tools.home import Home
from tools.relaying import Relaying, relayed, stamped_write
from tools.tokens import keep
from tools.verdict import Headline, headline
from tools.verdict import Ledger as LedgerState
from tools.version import VERSION

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

_RECEIPT_RESERVE = 32 << 10
_GENERATOR = {"name": "Lightseal", "version": VERSION}
_CAPTURE = "http://cv.iptc.org/newscodes/digitalsourcetype/digitalCapture"


@dataclass(frozen=True, slots=True)
class Desk:
    """What signing needs besides the file: opened once, used for many.

    With `relaying`, its authorities are asked for tokens, and `authority` is not.
    """

    home: Home
    ledger: Ledger
    lists: Lists
    sdk: manifest.Sdk
    authority: Authority | None
    relaying: Relaying | None = None


@dataclass(frozen=True, slots=True)
class Signed:
    """What was written, and where it is recorded."""

    media: Path
    receipt: Path
    provenance: Provenance
    index: int
    note: str
    tokens: tuple[Stamped, ...] = ()
    """What a relay's authorities gave. The first is in the signature; of others only the ledger's entries are kept."""
    owed: bool = False
    """Whether a token was asked for, could not be had, and is still to be taken."""


Statement = Callable[[Prepared], tuple[str, str | None]]


def captured(prepared: Prepared) -> tuple[str, str | None]:
    """Device mode: the device says that it captured this. A capture has no past."""
    return captured_with(prepared), None


def captured_with(prepared: Prepared, *more: Mapping[str, object]) -> str:
    """The claim of a capture, with `more` assertions of the device's own making; no file with a past gets one."""
    if prepared.credentials is not Credentials.NONE:
        raise AlreadySignedError("the file already carries credentials, so it is not a new capture")
    action = {"action": "c2pa.created", "digitalSourceType": _CAPTURE}
    actions = {
        "label": "c2pa.actions.v2",
        "created": True,
        "data": {"allActionsIncluded": True, "actions": [action]},
    }
    return _claim([actions, *more])


def received(_: Prepared) -> tuple[str, str | None]:
    """Service mode: the service says only that it was given this file."""
    return _claim([]), json.dumps({"title": "the file as it was received", "relationship": "parentOf"})


def _claim(assertions: Sequence[Mapping[str, object]]) -> str:
    return json.dumps({"claim_generator_info": [_GENERATOR], "assertions": assertions})


def sign_file(
    desk: Desk,
    device: Device,
    source: Path,
    target: Path,
    prepared: Prepared,
    statement: Statement,
    now: Callable[[], datetime],
) -> Signed:
    """Sign `source` as `target` and write `target`.receipt; on any error nothing is left behind."""
    receipt_path = target.with_name(target.name + ".receipt")
    for path in (target, receipt_path):
        _require_free(path)
    # 2. The claim.
    claim, parent = statement(prepared)
    with (
        _folder(target.parent) as folder,
        _partial(target) as (out, partial),
        _partial(receipt_path) as (receipt_out, receipt_partial),
    ):
        # 3. Signature and token.
        with _opened(source) as stream:
            media = Media.of(stream, source.name, MAX_BYTES)
            _require_same(stream, prepared)

            def write(url: str | None) -> None:
                out.seek(0)
                out.truncate()
                manifest.write(media, out, claim, parent, device.key.sign, device.chain_pem, url)

            tokens = _written(desk, write, now)
            _require_same(stream, prepared)
        out.flush()
        os.fsync(out.fileno())
        # 4. The stranger's check.
        provenance = verify_media(Media.of(out, target.name, MAX_BYTES), desk.sdk, desk.lists, now())
        _require_intact(provenance, desk, statement, tokens)
        # 5. Reserve, then record.
        receipt_out.write(bytes(_RECEIPT_RESERVE))
        os.fsync(receipt_out.fileno())
        _keep(desk, provenance, tokens[1:])
        index, *_ = desk.ledger.append(
            _records(device, provenance, prepared, tokens[1:]), now(), desk.home.sign_note
        )
        # Recorded. A crash from here on leaves an entry without a file, which claims nothing
        # false: the signature was made. Signing again makes another entry.
        proved = desk.ledger.prove(index)
        text = str(
            Receipt(proved.payload, proved.salt, proved.entry, proved.proof, provenance.token)
        ).encode()
        receipt_out.seek(0)
        receipt_out.write(text)
        receipt_out.truncate()  # after, and never before: the room that was reserved is not given back first
        receipt_out.flush()
        os.fsync(receipt_out.fileno())
        # 6. The names.
        _publish_all(folder, ((receipt_partial, receipt_path), (partial, target)))
    owed = desk.relaying is not None and not tokens
    return Signed(target, receipt_path, provenance, index, prepared.note, tokens, owed)


def _keep(desk: Desk, provenance: Provenance, more: Sequence[Stamped]) -> None:
    """Keep the token that the signature has no room for; a verdict counts both."""
    if more and provenance.identity is not None:
        keep(desk.home.path / "tokens", provenance.identity.signature, more[0].token)


def _require_free(path: Path) -> None:
    try:
        path.lstat()
    except FileNotFoundError:
        return
    except OSError as error:
        raise translated(error, path) from error
    raise OutputExistsError(f"{path.name} is already there")


def _opened(source: Path) -> BinaryIO:
    try:
        return source.open("rb", buffering=0)
    except OSError as error:
        raise UnreadableError(f"the file cannot be read ({error.strerror or 'unknown reason'})") from error


def _require_same(stream: BinaryIO, prepared: Prepared) -> None:
    """What is signed and recorded must be what the worker looked at."""
    if file_state(stream) != prepared.state:
        raise SigningError("the file changed while it was being signed")


def _require_intact(
    provenance: Provenance, desk: Desk, statement: Statement, tokens: tuple[Stamped, ...]
) -> None:
    """A capture must be beyond doubt; a service only says what it received, whatever that file's past."""
    found = headline(provenance, LedgerState.NOT_CHECKED)
    allowed = {Headline.INTACT_SIGNER_RECOGNISED}
    if statement is received:
        allowed.add(Headline.SIGNED_HISTORY_PROBLEM)
    if found not in allowed:
        failed = "; ".join(finding.explanation for finding in provenance.findings if not finding.passed)
        raise SigningError(f"our own check of the signed file says {found.value} ({plain(failed, 200)})")
    timed = any(finding.code is Code.TIME_PROVEN and finding.passed for finding in provenance.findings)
    if _must_be_timed(desk, tokens) and not timed:
        raise SigningError("the signed file's time is not proven although a token was asked for")


def _must_be_timed(desk: Desk, tokens: tuple[Stamped, ...]) -> bool:
    """Whether the signed file may not be without a proven time."""
    if desk.relaying is None:
        return desk.authority is not None
    return bool(tokens) or desk.relaying.need is not Need.LATER


def _records(
    device: Device, provenance: Provenance, prepared: Prepared, extra: tuple[Stamped, ...]
) -> tuple[Record, ...]:
    """The signature, and each token there is, so that an authority that dates back contradicts the log."""
    identity, certificate = provenance.identity, provenance.certificate
    if identity is None or certificate is None:
        raise SigningError("the signed file has no identity to record")
    payload = sign_payload(identity, certificate.sha256, prepared.sha256)
    signed = Record(EntryKind.SIGN, payload, secrets.token_bytes(32), device.pseudonym)
    tokens = () if provenance.token is None else (provenance.token, *(each.token for each in extra))
    return signed, *(
        Record(EntryKind.TOKEN, token_payload(identity, token), secrets.token_bytes(32), device.pseudonym)
        for token in tokens
    )


def sign_payload(identity: AssetId, certificate: str, media: bytes) -> bytes:
    """What a `sign` entry commits to: `media` is the SHA-256 of the file before it was signed, as its signer says."""
    return canonical(
        {
            "binding": identity.binding.hex(),
            "certificate": certificate,
            "claim": identity.claim.hex(),
            "media": media.hex(),
            "signature": identity.signature.hex(),
        }
    )


def token_payload(identity: AssetId, token: bytes) -> bytes:
    """What a `token` entry commits to."""
    return canonical({"signature": identity.signature.hex(), "token": hashlib.sha256(token).hexdigest()})


def _written(
    desk: Desk, write: Callable[[str | None], None], now: Callable[[], datetime]
) -> tuple[Stamped, ...]:
    """Have the file written where a token can be asked for; returns those of a relay."""
    if desk.relaying is None:
        with _authority_url(desk.authority) as url:
            write(url)
        return ()
    with relayed(desk.relaying, now) as relay:
        return stamped_write(relay, write)


@contextlib.contextmanager
def _authority_url(authority: Authority | None) -> Iterator[str | None]:
    if authority is None:
        yield None
        return
    with serving(authority) as url:
        yield url


@contextlib.contextmanager
def _partial(target: Path) -> Iterator[tuple[BinaryIO, Path]]:
    """A hidden file beside `target` that is gone when the block ends, however it ends."""
    try:
        descriptor, name = tempfile.mkstemp(prefix=".lightseal-", suffix=".partial", dir=target.parent)
    except OSError as error:
        raise translated(error, target) from error
    path, raw = Path(name), Output(descriptor, "w+")
    try:
        with io.BufferedRandom(raw) as stream:
            yield stream, path
    except OSError as error:
        raise translated(error, target) from error
    except SigningError as error:
        if raw.fault is not None:
            raise translated(raw.fault, target) from error
        raise
    finally:
        path.unlink(missing_ok=True)


class Output(io.FileIO):
    """A file that remembers why it could not be written: the SDK reports a full disk as broken media."""

    fault: OSError | None = None

    def write(self, data: "ReadableBuffer") -> int:
        """Write, and remember what kept us from it."""
        try:
            return super().write(data)
        except OSError as error:
            self.fault = error
            raise


def translated(error: OSError, target: Path) -> Exception:
    """What kept a file from being written, in our words."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return DiskFullError(f"no space is left for {target.name}")
    return UnwritableError(f"{target.name} cannot be written ({error.strerror or 'unknown reason'})")


@contextlib.contextmanager
def _folder(path: Path) -> Iterator[int]:
    """The folder that gets the files, open for syncing; what keeps us from it is known before anything is made."""
    try:
        folder = os.open(path, os.O_RDONLY)
    except OSError as error:
        raise translated(error, path) from error
    try:
        yield folder
    finally:
        os.close(folder)


def _publish_all(folder: int, names: tuple[tuple[Path, Path], ...]) -> None:
    """Give all finished files their names, or none of them."""
    published: list[Path] = []
    try:
        for partial, target in names:
            _publish(partial, target)
            published.append(target)
        os.fsync(folder)
    except BaseException:
        for target in published:
            target.unlink(missing_ok=True)
        raise


def _publish(partial: Path, target: Path) -> None:
    """Give a finished file its name without ever replacing another."""
    umask = os.umask(0)
    os.umask(umask)
    partial.chmod(0o666 & ~umask)
    try:
        os.link(partial, target)
    except FileExistsError as error:
        raise OutputExistsError(f"{target.name} appeared while it was being signed") from error
    except OSError:  # a file system without hard links: reserve the name, then take it
        try:
            target.open("xb").close()
        except FileExistsError as error:
            raise OutputExistsError(f"{target.name} appeared while it was being signed") from error
        try:
            partial.replace(target)
        except OSError:
            target.unlink(missing_ok=True)
            raise
