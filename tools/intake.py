"""Take in what devices captured: who may, what it must be, and what is recorded of it.

The plan for one capture; whatever is refused before 6 changes nothing but the nonce's state:
1. The request's signature holds, under the one key that the registry has for its keyid.
2. The device may be heard: neither revoked nor suspended, itself or its certificate.
3. The nonce was handed out for that key, not long ago, and is used for the first time.
4. The body is no longer than allowed and hashes to what was signed. It is spooled, never held.
5. A worker that can die finds a sound capture in it, by a certificate of the same device.
6. The opening fits the claim's commitment, and its checkpoint is one that this log signed.
7. The registry takes its place in the device's chain: the first point of no return. Gaps are
   recorded; a fork makes the device suspect.
8. A token over the claim's signature; signature and token are recorded in the ledger, and only
   then is the token kept where every check finds it: what the ledger refused dates nothing.
9. The answer: the receipt. Who asks again with the same capture gets the same entry.

The service says of a capture only that it received it from a device, and when. The media is
checked and not kept. A crash between 7 and 9 leaves a capture without an entry; the device
asks again and gets it, since everything recorded follows from the capture itself.
"""

import base64
import fcntl
import hashlib
import hmac
import logging
import os
import secrets
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import TracebackType
from typing import ClassVar, Self

from authn.capture_chain import Opening
from authn.chain import read_certificate
from authn.device import pseudonym, spki
from authn.http_signature import DigestMismatchError, Request, Signed, verify_request
from authn.keys import PublicKey
from authn.timestamp.relay import Stamped, judge
from authn.timestamp.request import TimeStampRequest
from storage.entry import Kind
from storage.errors import Error as StorageError
from storage.receipt import Receipt
from storage.record import Record
from storage.registry import errors as registry_errors
from storage.registry.registry import Registry
from storage.registry.rows import Capture, IssuedCertificate, Status
from tools import tokens
from tools.capture import sign_payload, token_payload, translated
from tools.check import LIMITS
from tools.errors import Error, MediaRefusedError
from tools.examine import Policy
from tools.home import Home
from tools.intake_check import Checked, Handed, Upload
from tools.intake_errors import (
    CertificateForeignError,
    CheckpointForeignError,
    CommitmentMismatchError,
    KeyExpiredError,
)
from tools.intake_shown import Shown
from tools.output import made_once
from tools.supervisor import Supervisor, Task
from tools.verdict import Obstacle

OPENING_HEADER = "lightseal-opening"
AGAIN_HEADER = "idempotency-key"
NONCE_LIFE = timedelta(minutes=5)
MAX_BODY = 512 << 20
MAX_RECORD = 4 << 20
RECORD_TYPE = "application/c2pa"

_RECORD_SALT = b"lightseal/intake-record/v1\0"
_NONCE_DOMAIN = b"lightseal/intake-nonce/v1\0"
_SECRET_BYTES = 32
_MOST_COUNTED = 1000
_NAMED_BYTES, _RANDOM_BYTES, _MAC_BYTES = 16, 17, 16  # with eight of time, no padding in base64

_log = logging.getLogger(__name__)


class StampError(Error):
    """The home's own authority gave no token that stands."""

    code: ClassVar[str] = "timestamp-failed"
    remedy: ClassVar[str] = (
        "Hand the capture in again later; the operator should look at the clock and the authority."
    )


@dataclass(frozen=True, slots=True)
class Admitted:
    """A request whose signature holds and whose nonce is burned. The body was not read yet."""

    signed: Signed
    device: str
    handed: Handed
    mime: str
    opening: str
    again: str | None

    @property
    def limit(self) -> int:
        """How many bytes the body may have."""
        return MAX_BODY if self.handed is Handed.WHOLE else MAX_RECORD


@dataclass(frozen=True, slots=True)
class Received:
    """What was recorded of a capture, and whether it was there before."""

    capture: Capture
    entry: int
    receipt: Receipt
    known: bool


class Intake:
    """What one service process takes captures in with. Threads may call it at once."""

    def __init__(self, home: Home, base_url: str | None, now: Callable[[], datetime]) -> None:
        """Take in for `home`, at the address that devices sign for; None where it is the one that is listened at."""
        self.base_url = None if base_url is None else base_url.rstrip("/")
        self._home = home
        self._now = now
        self._secret = made_once(home.path / "intake.secret", _SECRET_BYTES)
        self._ledger = home.ledger()
        try:
            self._registry: Registry = home.registry()
        except BaseException:
            self._ledger.close()
            raise
        try:
            self._authority = home.authority(now, self._ledger)
            self._lists = Policy(home.own_lists(), now())
            self._warn_of_unlogged()
        except BaseException:
            self._registry.close()
            self._ledger.close()
            raise
        self._workers = threading.local()
        self._opened: list[Supervisor[Upload, Checked | Obstacle]] = []
        self._shown = Shown(home.path, self._ledger, self._registry.purge)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the workers and let go of the databases."""
        for worker in self._opened:
            worker.close()
        self._registry.close()
        self._ledger.close()

    def checkpoint(self) -> str:
        """The checkpoint that devices are shown: the same for all of them, an hour long."""
        return self._shown.at(self._now())

    def _warn_of_unlogged(self) -> None:
        """Say how many captures a crash left between 7 and 8: only their devices can have them recorded."""
        if waiting := len(self._registry.unlogged(_MOST_COUNTED)):
            more = " or more" if waiting == _MOST_COUNTED else ""
            _log.warning("captures without an entry: %d%s; their devices have to ask again", waiting, more)

    def clock(self) -> datetime:
        """This service's time, by which a device can sign its requests; it proves nothing."""
        return self._now()

    def nonce(self, key_id: str) -> str:
        """A nonce for one key, which this process and its successors know again; nothing is kept for it."""
        expires = int((self._now() + NONCE_LIFE).timestamp()).to_bytes(8, "big")
        body = expires + _named(key_id) + secrets.token_bytes(_RANDOM_BYTES)
        return base64.urlsafe_b64encode(body + self._mac(body)).decode()

    def admit(self, request: Request) -> Admitted:
        """Steps 1 to 3."""
        at = self._now()
        found: list[IssuedCertificate] = []
        signed = verify_request(request, lambda key_id: self._key(key_id, found), at, (OPENING_HEADER,))
        (certificate,) = found
        self._require_heard(certificate)
        if not certificate.not_before <= at <= certificate.not_after:
            raise KeyExpiredError("the certificate of the key that signed the request is not valid now")
        self._burn(signed, certificate.device, at)
        mime = (request.header("content-type") or "").strip().lower()
        return Admitted(
            signed,
            certificate.device,
            Handed.RECORD if mime == RECORD_TYPE else Handed.WHOLE,
            mime,
            request.header(OPENING_HEADER) or "",
            request.header(AGAIN_HEADER),
        )

    def receive(self, admitted: Admitted, spooled: Path, sha256: bytes) -> Received:
        """Steps 4 to 9, once the body is on the disk."""
        # 4. The body.
        if sha256 != admitted.signed.content:
            raise DigestMismatchError("the body does not hash to the Content-Digest that was signed")
        # 5. What it is, and that it is by the same device.
        at = self._now()
        checked = self._checked(Upload(str(spooled), admitted.handed, admitted.mime, at))
        certificate = self._registry.certificate_by_digest(bytes.fromhex(checked.certificate))
        if certificate is None or certificate.device != admitted.device:
            raise CertificateForeignError(
                "the capture was signed with a certificate that is not this device's"
            )
        self._require_heard(certificate)
        # 6. Its place.
        opening = Opening.parse(admitted.opening, checked.statement.checkpoint or "")
        if not opening.opens(checked.statement):
            raise CommitmentMismatchError("the opening does not fit the claim's commitment")
        self._require_own(opening.checkpoint)
        capture = Capture(
            device=admitted.device,
            counter=opening.counter,
            link=opening.link,
            previous=opening.previous,
            claim=checked.identity.claim,
            media=opening.media,
            binding=checked.identity.binding,
            signature=checked.identity.signature,
            commitment=checked.statement.commitment,
            certificate=certificate.sha256,
            at=at,
        )
        with self._turn():
            known = self._registry.capture_by_claim(capture.claim)
            if known is not None and admitted.again != capture.claim.hex():
                raise registry_errors.CounterReusedError(
                    f"The capture {capture.counter} of this device was received before."
                )
            # 7. The chain: the first point of no return.
            accepted = self._registry.add_capture(capture)
            # 8. Token and ledger. Whatever is recorded follows from the capture, so that to repeat it adds nothing.
            entry = self._record(accepted, checked, certificate, opening.salt, at)
            accepted = self._registry.set_entry(accepted.claim, entry)
        # 9. The answer.
        receipt = self._ledger.prove(entry)
        token = next(iter(tokens.kept(self._home.path / "tokens", checked.identity.signature)), None)
        whole = Receipt(receipt.payload, receipt.salt, receipt.entry, receipt.proof, token)
        return Received(accepted, entry, whole, known is not None)

    def _key(self, key_id: str, found: list[IssuedCertificate]) -> PublicKey | None:
        certificate = self._registry.certificate_by_digest(bytes.fromhex(key_id))
        if certificate is None:
            return None
        found.append(certificate)
        public: PublicKey = read_certificate(certificate.der).public_key()  # type: ignore[assignment]
        return public

    def _require_heard(self, certificate: IssuedCertificate) -> None:
        # 2. Withdrawn by its own name, its device's, its product's or its issuer's; or held back.
        if self._registry.withdrawal_of(certificate) is not None:
            raise registry_errors.DeviceRevokedError("The certificate, its device or its product is revoked.")
        match self._registry.device(certificate.device).status:
            case Status.REVOKED:
                raise registry_errors.DeviceRevokedError("The device is revoked.")
            case Status.RETIRED:
                raise registry_errors.DeviceRetiredError("The device is retired.")
            case Status.SUSPENDED:
                raise registry_errors.DeviceSuspendedError("The device is suspended.")
            case Status.PENDING:
                raise registry_errors.DevicePendingError("The device is not enrolled yet.")
            case Status.ACTIVE | Status.SUSPECT:
                pass

    def _burn(self, signed: Signed, device: str, at: datetime) -> None:
        # 3. Recomputed, not remembered; what is remembered is only that it was used.
        try:
            raw = base64.b64decode(signed.nonce, b"-_", validate=True)
        except ValueError as error:
            raise registry_errors.NonceUnknownError("The nonce was not handed out here.") from error
        body, mac = raw[:-_MAC_BYTES], raw[-_MAC_BYTES:]
        if not hmac.compare_digest(mac, self._mac(body)):
            raise registry_errors.NonceUnknownError("The nonce was not handed out here.")
        if body[8 : 8 + _NAMED_BYTES] != _named(signed.key_id):
            raise registry_errors.NonceWrongDeviceError("The nonce was handed out to another device.")
        expires = datetime.fromtimestamp(int.from_bytes(body[:8], "big"), UTC)
        if at > expires:
            raise registry_errors.NonceExpiredError("The nonce was handed out too long ago.")
        self._registry.use_nonce(hashlib.sha256(raw).digest(), device, at, expires)

    def _mac(self, body: bytes) -> bytes:
        return hmac.digest(self._secret, _NONCE_DOMAIN + body, "sha256")[:_MAC_BYTES]

    def _checked(self, upload: Upload) -> Checked:
        worker: Supervisor[Upload, Checked | Obstacle] | None = getattr(self._workers, "one", None)
        if worker is None:
            worker = Supervisor(Task("tools.intake_check:start", self._lists), 1, LIMITS)
            self._workers.one = (
                worker  # one per thread: the kernel ends a worker with the thread that started it
            )
            self._opened.append(worker)
        found = worker.ask(upload)
        if isinstance(found, Obstacle):
            raise MediaRefusedError(found.reason, found.code, found.remedy)
        return found

    def _require_own(self, checkpoint: str) -> None:
        """A checkpoint bounds the time only if this log signed and published it."""
        if not checkpoint:
            return
        try:
            self._home.own.open_note(checkpoint.encode())
            published = self._ledger.has_published(checkpoint.encode())
        except StorageError as error:
            raise CheckpointForeignError(f"the claim's checkpoint cannot be read: {error}") from error
        if not published:
            raise CheckpointForeignError("the claim's checkpoint was never published by this log")

    def _record(
        self, capture: Capture, checked: Checked, certificate: IssuedCertificate, salt: bytes, at: datetime
    ) -> int:
        if capture.entry is not None:
            return capture.entry
        key = pseudonym(self._registry.device(capture.device).salt, spki(read_certificate(certificate.der)))
        signed = Record(
            Kind.SIGN,
            sign_payload(checked.identity, checked.certificate, capture.media),
            _salt(salt, b"sign"),
            key,
        )

        def dated(token: bytes) -> Record:
            return Record(Kind.TOKEN, token_payload(checked.identity, token), _salt(salt, b"token"), key)

        kept, signature = self._home.path / "tokens", checked.identity.signature
        aside, place = self._home.path / "tokens-aside", tokens.place(self._home.path / "tokens", signature)
        try:
            # The token that dates this signature already; or one laid aside by a call that died after the
            # ledger took it. One that the ledger has not is of a call that failed, perhaps under a wrong clock.
            found = (
                *tokens.kept(kept, signature),
                *(each for each in tokens.kept(aside, signature) if self._has(capture, dated(each))),
            )
            if not found:
                tokens.place(aside, signature).unlink(missing_ok=True)
                tokens.keep(aside, signature, self._token(signature))
                found = tokens.kept(aside, signature)
            index, *_ = self._ledger.append((signed, dated(found[0])), at, self._home.own.signer())
            tokens.keep(kept, signature, found[0])
            tokens.place(aside, signature).unlink(missing_ok=True)
        except OSError as error:
            raise translated(error, place) from error
        return index

    def _has(self, capture: Capture, dated: Record) -> bool:
        """Whether the ledger took that token with the capture: it stands behind the signature, as one batch."""
        return any(
            entry.commitment == dated.commitment
            for index in self._ledger.find("claim", capture.claim)
            for entry in self._ledger.entries(index + 1, index + 2)
        )

    def _token(self, signature: bytes) -> bytes:
        """A new token, verified."""
        self._authority.require_time()
        request = TimeStampRequest(signature, nonce=secrets.randbits(64))
        answer = self._authority.respond(request.encode())
        lists = self._lists.lists().time_stampers
        stamped = judge("this home", answer, request, lists, self._now())
        if not isinstance(stamped, Stamped):
            raise StampError(str(stamped))
        return stamped.token

    @contextmanager
    def _turn(self) -> Iterator[None]:
        """One capture at a time takes its place and its entry, whichever process it came to."""
        descriptor = os.open(self._home.path / "intake.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)


def _named(key_id: str) -> bytes:
    """What of a nonce says whom it was given to."""
    return hashlib.sha256(key_id.encode()).digest()[:_NAMED_BYTES]


def _salt(opening: bytes, purpose: bytes) -> bytes:
    """A record's salt: as secret as the opening's, and the same whenever the capture is recorded again."""
    return hashlib.sha256(_RECORD_SALT + purpose + b"\0" + opening).digest()
