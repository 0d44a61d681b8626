"""Publish whom a home believes, as one versioned object that its log signs and its ledger has.

A bundle is a folder: `bundle.note` names every list by its digest and is signed by the log's
key, `receipt.json` proves that this version was recorded, and the lists lie beside. Who was
once given a bundle can refuse an older one, and with the ledger sees whether another bundle of
the same version exists. Nothing here says that a list is worth belief.
"""

import hashlib
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import ClassVar

from authn.errors import CertificateError
from authn.keys import verify_note
from authn.plain import plain
from authn.profile import Profile
from authn.trust import MAX_LIST_BYTES, Purpose
from storage.entry import Kind
from storage.errors import Error as StorageError
from storage.note import VerifierKey, open_note, signed_note
from storage.payload import canonical
from storage.receipt import MAX_RECEIPT_BYTES, Receipt
from tools.check import bounded
from tools.errors import Error, UnreadableError, UsageError
from tools.home import Home
from tools.output import built_beside, put_whole
from tools.trust import ListFile

NOTE, RECEIPT = "bundle.note", "receipt.json"
MAX_LISTS = 100

_FIRST = "lightseal trust bundle 1"
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
_LINE = re.compile(r"list (\S{1,64}) (\S{1,32}) (\S{1,64}) ([0-9a-f]{64})")

SignText = Callable[[str], bytes]


class BundleError(Error):
    """A trust bundle that does not hold together, or is older than one that is known."""

    code: ClassVar[str] = "trust-bundle-refused"
    remedy: ClassVar[str] = (
        "Get the newest bundle from its publisher again; until then keep the lists you have."
    )


@dataclass(frozen=True, slots=True)
class NamedList:
    """A list as the bundle names it."""

    name: str
    purpose: Purpose
    profile: Profile
    sha256: str


@dataclass(frozen=True, slots=True)
class Bundle:
    """Which lists a log's home believed, by its own count of versions."""

    origin: str
    version: int
    dated: datetime
    lists: tuple[NamedList, ...]

    @classmethod
    def parse(cls, text: str) -> "Bundle":
        """Read the note's text, accepting only what `str` would write. Verifies nothing."""
        try:
            first, origin, version, dated, *lines = text.removesuffix("\n").split("\n")
            found = [_LINE.fullmatch(line) for line in lines]
            bundle = cls(
                origin.removeprefix("origin "),
                int(version.removeprefix("version ")),
                datetime.strptime(dated, "dated %Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC),
                tuple(NamedList(m[1], Purpose(m[2]), Profile(m[3]), m[4]) for m in found if m),
            )
        except ValueError as error:
            raise BundleError("the note is no trust bundle") from error
        names = [item.name for item in bundle.lists]
        sound = bundle.version > 0 and len(names) <= MAX_LISTS and names == sorted(set(names))
        if str(bundle) != text or first != _FIRST or not sound or not all(map(_NAME.fullmatch, names)):
            raise BundleError("the note is not written as a trust bundle is")
        return bundle

    def __str__(self) -> str:
        lists = "".join(
            f"list {item.name} {item.purpose} {item.profile} {item.sha256}\n" for item in self.lists
        )
        dated = f"{self.dated.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}"
        return f"{_FIRST}\norigin {self.origin}\nversion {self.version}\ndated {dated}\n{lists}"

    def recorded(self) -> dict[str, object]:
        """What the ledger says of this version."""
        digest = hashlib.sha256(str(self).encode()).hexdigest()
        return {"change": "trust-bundle", "sha256": digest, "version": self.version}


def publish_bundle(home: Home, place: Path, at: datetime, sign_text: SignText) -> Bundle:
    """Record the home's lists as the next version, and put the bundle into the new folder `place`.

    1. The next version, written down before it is recorded: an interrupted run is finished first.
    2. Its digest in the ledger.
    3. The note and the receipt; the home remembers the note.
    """
    files = home.lists()
    draft, kept = home.path / "trust-bundle.draft", home.path / "trust-bundle.note"
    # 1
    bundle = _next(home, files, kept, at)
    if draft.exists():
        unfinished = Bundle.parse(draft.read_text())
        bundle = bundle if unfinished.version < bundle.version else unfinished
    if [item.sha256 for item in bundle.lists] != [_sha256(file.pem) for file in files]:
        # The lists changed since: that version is abandoned, and its number with it.
        bundle = Bundle(bundle.origin, bundle.version + 1, at.replace(microsecond=0), _named(files))
    put_whole(draft, str(bundle).encode())
    # 2
    index = home.own.record(Kind.POLICY, bundle.recorded(), at)
    # 3
    note = signed_note(str(bundle), home.log, sign_text(str(bundle)))
    with home.ledger_to_read() as ledger:
        receipt = str(ledger.prove(index))
    with built_beside(place) as building:
        for file in files:
            (building / f"{file.name}.pem").write_bytes(file.pem)
        (building / NOTE).write_bytes(note)
        (building / RECEIPT).write_text(receipt)
    put_whole(kept, note)
    draft.unlink()
    return bundle


def check_bundle(
    place: Path, keys: Sequence[VerifierKey], after: int = 0
) -> tuple[Bundle, tuple[ListFile, ...]]:
    """What a bundle says, if the log signed and recorded it, and its lists; refused unless newer than `after`.

    The ledger itself is not asked, so a log that shows another bundle to others is not noticed here.
    """
    # 1. The log signed it.
    try:
        bundle = Bundle.parse(open_note(_read(place / NOTE, MAX_LIST_BYTES), keys, verify_note).text)
        # 2. It is recorded as this version.
        receipt = Receipt.parse(_read(place / RECEIPT, MAX_RECEIPT_BYTES).decode())
        checkpoint = receipt.check(keys, verify_note)
    except (StorageError, UnicodeDecodeError) as error:
        raise BundleError(f"the bundle does not hold: {error}") from error
    if receipt.payload != canonical(bundle.recorded()) or receipt.entry.kind is not Kind.POLICY:
        raise BundleError("the receipt is for something else")
    if bundle.origin != checkpoint.origin:
        raise BundleError("the bundle is of another log")
    # 3. It is newer than what is known.
    if bundle.version <= after:
        raise BundleError(f"version {bundle.version} is not newer than version {after}, which is known")
    # 4. The lists are those that it names, and nothing else is there.
    files = []
    for item in bundle.lists:
        data = _read(place / f"{item.name}.pem", MAX_LIST_BYTES)
        if _sha256(data) != item.sha256:
            raise BundleError(f"the list {item.name} is not the one that was signed")
        file = ListFile(item.name, data, item.purpose, item.profile)
        try:
            file.parse()
        except CertificateError as error:
            raise BundleError(f"the list {item.name} cannot be read: {error}") from error
        files.append(file)
    _require_only(place, bundle)
    return bundle, tuple(files)


def _next(home: Home, files: Sequence[ListFile], kept: Path, at: datetime) -> Bundle:
    version = 1
    if kept.exists():
        version += Bundle.parse(open_note(kept.read_bytes(), home.own.keys, verify_note).text).version
    return Bundle(home.own.origin, version, at.replace(microsecond=0), _named(files))


def _named(files: Sequence[ListFile]) -> tuple[NamedList, ...]:
    found = (NamedList(file.name, file.purpose, file.profile, _sha256(file.pem)) for file in files)
    return tuple(sorted(found, key=lambda item: item.name))


def _require_only(place: Path, bundle: Bundle) -> None:
    """Nothing lies beside the lists that nobody signed: whoever takes all of the folder would take it too."""
    named = {NOTE, RECEIPT, *(f"{item.name}.pem" for item in bundle.lists)}
    for found in place.iterdir():
        if found.name not in named:
            raise BundleError(f"the folder holds {plain(found.name, 100)}, which the bundle does not name")


def _read(path: Path, limit: int) -> bytes:
    try:
        return bounded(path, limit, "bundle's file")
    except (UnreadableError, UsageError) as error:
        raise BundleError(str(error)) from error


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
