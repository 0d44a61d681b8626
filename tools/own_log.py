"""A home's log: which keys sign for it, where its database, its keyring and its guard are.

`ledger.json` names them, and changes in one step when a key is rotated. The key that
signed yesterday's checkpoints stays in it for ever, for they are still to be verified.
"""

import hashlib
import json
import secrets
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Self

from authn.errors import KeyFileError
from authn.keys import (
    LogKey,
    NoteKey,
    generate_ed25519,
    generate_ml_dsa_44,
    open_key,
    open_note_key,
    store_key,
    verify_note,
)
from authn.sealing import seal, unseal
from storage import durable
from storage.audit import AuditReport, AuditState, Means, audit
from storage.checkpoint import Checkpoint, open_checkpoint
from storage.cosignature import sign_as_log
from storage.database import remove
from storage.entry import Kind
from storage.errors import LedgerError, MalformedKeyError, NoteSignatureError
from storage.growth import Sign
from storage.guard import Guard
from storage.keyring import Keyring, Sealer
from storage.ledger import Ledger
from storage.note import Algorithm, Note, VerifierKey, statement
from storage.payload import canonical
from storage.receipt import Receipt
from storage.receipt_cose import export
from storage.record import Record
from tools.errors import Error, HomeDamagedError, RotationError
from tools.output import put_whole

SCHEMA = "lightseal-ledger/1"
FILE = "ledger.json"
_Stamp = tuple[int, int, int] | None
_OPERATOR = b"lightseal/operator/v1\0"


@dataclass(frozen=True, slots=True)
class OwnLog:
    """One log that we keep. `keys` verify, oldest first; `signing` are those that sign now."""

    home: Path
    keys: tuple[VerifierKey, ...]
    signing: tuple[VerifierKey, ...]
    database: str | None = None
    guard_at: str | None = None

    @classmethod
    def create(
        cls,
        home: Path,
        origin: str,
        algorithms: tuple[Algorithm, ...],
        database: str | None,
        guard: str | None,
    ) -> Self:
        """Make keys, keyring and guard, and the empty ledger; the last step is `ledger.json`."""
        keys = tuple(_new_key(home, origin, algorithm) for algorithm in algorithms)
        log = cls(home, keys, keys, database, guard)
        Keyring.create(log.keyring_path, secrets.token_bytes(32))
        Guard.create(log.guard_path, origin, log.open_note)
        try:
            Ledger.create(log.url, origin, log.sealer()).close()
            log.save()
        except BaseException:
            log.remove()
            raise
        return log

    def remove(self) -> None:
        """Take away what was just made outside the home, where nobody else would: the log is not going to be used."""
        self.guard_path.unlink(missing_ok=True)
        if self.database is not None:
            with suppress(LedgerError):
                remove(self.database, self.origin)

    @classmethod
    def open(cls, home: Path, content: bytes) -> Self:
        """Read `ledger.json`."""
        try:
            about = json.loads(content)
            if about["schema"] != SCHEMA:
                raise HomeDamagedError(f"the ledger of {home} was made by another version of Lightseal")
            keys, signing = (tuple(map(VerifierKey.parse_log, about[name])) for name in ("keys", "signing"))
            log = cls(home, keys, signing, about["database"], about["guard"])
            sound = (
                {key.name for key in keys} == {log.origin}
                and set(signing) <= set(keys)
                and any(key.algorithm is Algorithm.ED25519 for key in signing)
                and all(place is None or isinstance(place, str) for place in (log.database, log.guard_at))
            )
        except (ValueError, KeyError, TypeError, IndexError, RecursionError, MalformedKeyError) as error:
            raise HomeDamagedError(f"{home / FILE} cannot be read") from error
        if not sound:
            raise HomeDamagedError(f"{home / FILE} names keys that do not belong together")
        return log

    def save(self) -> None:
        """Replace `ledger.json` and `log.vkey` as whole files."""
        about = {
            "database": self.database,
            "guard": self.guard_at,
            "keys": [str(key) for key in self.keys],
            "schema": SCHEMA,
            "signing": [str(key) for key in self.signing],
        }
        put_whole(self.home / "log.vkey", "".join(f"{key}\n" for key in self.keys).encode())
        put_whole(self.home / FILE, json.dumps(about, indent=1).encode() + b"\n")

    @property
    def origin(self) -> str:
        """The log's name."""
        return self.keys[0].name

    @property
    def newest(self) -> VerifierKey:
        """The newest Ed25519 key, which signs every checkpoint now."""
        return self.ed25519[-1]

    @property
    def url(self) -> str:
        """Where the database is."""
        return self.database or f"sqlite:///{self.home / 'ledger.db'}"

    @property
    def keyring_path(self) -> Path:
        """The keys of its payloads; never kept together with the database."""
        return self.home / "keys" / "ledger.keyring"

    @property
    def guard_path(self) -> Path:
        """What knows its newest checkpoint; best on another disk."""
        return self.home / "ledger.guard" if self.guard_at is None else Path(self.guard_at)

    def open_note(self, note: bytes) -> Checkpoint:
        """Return the checkpoint in a note that one of our keys signed, also a key that is newer than this object."""
        try:
            return open_checkpoint(note, self.keys, verify_note)
        except NoteSignatureError:
            saved = self.as_saved()
            if saved.keys == self.keys:
                raise
            return open_checkpoint(note, saved.keys, verify_note)

    def sealer(self) -> Sealer:
        """What opens and seals payloads."""
        return Sealer(Keyring.open(self.keyring_path), seal, unseal)

    def guard(self) -> Guard:
        """What knows the newest checkpoint, outside the database."""
        return Guard.open(self.guard_path, self.origin, self.open_note)

    def writer(self) -> Ledger:
        """Open the ledger for recording; not where it is older than what was acknowledged."""
        ledger = Ledger.open(self.url, self.sealer(), self.guard())
        try:
            self._require_current(ledger)
        except BaseException:
            ledger.close()
            raise
        return ledger

    def guarded_reader(self) -> Ledger:
        """Open the ledger for reading, and refuse it where it is older than what was acknowledged."""
        return Ledger.open_read_only(self.url, self.sealer(), self.guard())

    def _require_current(self, ledger: Ledger) -> None:
        """Refuse to sign by an older copy of `ledger.json`, which does not know by whom the log was signed since."""
        if not ledger.size:
            return
        known = {key.key_id for key in self.as_saved().keys}
        for line in Note.parse(ledger.checkpoint().encode()).signatures:
            if line.name == self.origin and line.key_id not in known:
                raise HomeDamagedError(
                    f"{self.home / FILE} is older than the newest checkpoint, which another key signed"
                )

    def reader(self) -> Ledger:
        """Open the ledger for looking things up."""
        return Ledger.open_read_only(self.url, self.sealer())

    def signer(self) -> Sign:
        """Return what signs a checkpoint's text by the keys that sign at that moment: a server outlives rotations."""
        opened = self._open_signing()

        def sign(text: str) -> bytes:
            nonlocal opened
            if opened[0] != _stamp(self.home / FILE):
                # A file that cannot be read for a moment takes nobody's right to sign away.
                with suppress(Error, KeyFileError, OSError):
                    opened = self._open_signing()
            return bytes(Note(text, tuple(sign_as_log(text, key, own.sign) for key, own in opened[1])))

        return sign

    def as_saved(self) -> "OwnLog":
        """This log as its file says now; as it is where it was not saved yet."""
        try:
            content = (self.home / FILE).read_bytes()
        except FileNotFoundError:
            return self
        return OwnLog.open(self.home, content)

    def _open_signing(self) -> tuple[_Stamp, tuple[tuple[VerifierKey, LogKey | NoteKey], ...]]:
        stamp = _stamp(self.home / FILE)  # before the file is read: a change in between is seen next time
        return stamp, tuple((key, _opened(self.home, key)) for key in self.as_saved().signing)

    def sign_text(self, text: str) -> bytes:
        """Sign a note's text that is no checkpoint, with the newest Ed25519 key; its first line must say what it is."""
        return _opened(self.home, self.newest).sign(statement(text, self.newest, 0))

    def cose_receipt(self, receipt: Receipt) -> bytes:
        """Sign the receipt's root once more, in the form of RFC 9942."""
        opened = _opened(self.home, self.newest)
        return bytes(export(receipt, self.newest, verify_note, opened.sign))

    def audit(self, since: AuditState | None = None) -> AuditReport:
        """Derive the ledger again, whole or from where an earlier audit ended."""
        remembered = tuple(map(self.open_note, self.guard().notes()))
        return audit(self.url, Means(self.keys, verify_note, self.sealer(), remembered, since))

    def record(self, kind: Kind, fields: Mapping[str, object], at: datetime) -> int:
        """Record something about the log itself."""
        with self.writer() as ledger:
            return ledger.append([self.own_record(kind, fields)], at, self.signer())[0]

    def own_record(self, kind: Kind, fields: Mapping[str, object]) -> Record:
        """A record whose pseudonym anyone can compute: what an operator changes is for all to watch."""
        return Record(kind, canonical(fields), secrets.token_bytes(32), operator(self.origin))

    def erase(self, index: int, at: datetime) -> int | None:
        """Forget what an entry hides, and record that."""
        with self.writer() as ledger:
            return ledger.erase(index, secrets.token_bytes(32), at, self.signer())

    def freeze(self, reason: str, at: datetime) -> int:
        """Record a last entry, and no other after it."""
        with self.writer() as ledger:
            return ledger.freeze(
                self.own_record(Kind.POLICY, {"change": "freeze", "reason": reason}), at, self.signer()
            )

    def begin_rotation(self, at: datetime) -> "OwnLog":
        """Make a new key that signs beside the old one; its entry is there before it signs."""
        with durable.changing(self.home / FILE):  # one rotation at a time
            own = self.as_saved()
            if len(own.ed25519) > 1:
                raise RotationError("a rotation has begun already, and both keys sign")
            key = own.announced_key(at)
            rotated = replace(own, keys=(*own.keys, key), signing=(*own.signing, key))
            rotated.save()
            return rotated

    def end_rotation(self, at: datetime) -> "OwnLog":
        """Let the new key sign alone; the old one's last signature is under the entry that says so."""
        with durable.changing(self.home / FILE):
            own = self.as_saved()
            *old, newest = own.ed25519
            if not old:
                raise RotationError("no rotation has begun")
            gone = [str(key) for key in old]
            own.record(Kind.POLICY, {"change": "retire-key", "keys": gone, "key": str(newest)}, at)
            ended = replace(own, signing=tuple(key for key in own.signing if key not in old))
            ended.save()
            return ended

    @property
    def ed25519(self) -> tuple[VerifierKey, ...]:
        """The Ed25519 keys that sign now, oldest first: two while a rotation goes on."""
        return tuple(key for key in self.signing if key.algorithm is Algorithm.ED25519)

    def announced_key(self, at: datetime) -> VerifierKey:
        """Make a key whose entry is recorded; where nothing was, the key is gone again."""
        with self.writer() as ledger:
            before = ledger.size
            key = _new_key(self.home, self.origin, Algorithm.ED25519)
            record = self.own_record(Kind.POLICY, {"change": "rotate-key", "key": str(key)})
            try:
                ledger.append([record], at, self.signer())
            except BaseException:
                if ledger.size == before:
                    _key_path(self.home, key).unlink(missing_ok=True)
                raise
        return key


def operator(origin: str) -> bytes:
    """The pseudonym under which a log records what concerns itself."""
    return hashlib.sha256(_OPERATOR + origin.encode()).digest()


def _new_key(home: Path, origin: str, algorithm: Algorithm) -> VerifierKey:
    if algorithm is Algorithm.ML_DSA_44:
        made: LogKey | NoteKey = generate_ml_dsa_44()
    else:
        made = LogKey(generate_ed25519())
    key = VerifierKey(origin, made.public, algorithm)
    store_key(_key_path(home, key), made.key if isinstance(made, LogKey) else made, None)
    return key


def _opened(home: Path, key: VerifierKey) -> LogKey | NoteKey:
    uri = f"file:{_key_path(home, key)}"
    opened = open_note_key(uri) if key.algorithm is Algorithm.ML_DSA_44 else LogKey(open_key(uri))
    if opened.public != key.public:
        raise HomeDamagedError(
            f"the key file {_key_path(home, key).name} is not that of the key it is named by"
        )
    return opened


def _stamp(path: Path) -> _Stamp:
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns


def _key_path(home: Path, key: VerifierKey) -> Path:
    return home / "keys" / f"log-{key.key_id.hex()}.pem"
