"""The ledger that the drills harm: its key, its records, and what must be true of it afterwards.

Imported by the drills beside it, which are run as programs. A record follows from its
claim alone, so that whoever reads a claim can say which bytes should be in the ledger.
"""

import hashlib
import itertools
import json
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from authn.sealing import seal, unseal
from storage import payload
from storage.audit import Means, audit
from storage.checkpoint import Checkpoint, open_checkpoint
from storage.entry import Kind
from storage.guard import Guard
from storage.keyring import Keyring, Sealer
from storage.ledger import Ledger
from storage.note import VerifierKey, signed_note
from storage.record import Record

_PRIVATE = Ed25519PrivateKey.from_private_bytes(hashlib.sha256(b"a key for drills").digest())
KEY = VerifierKey("log.example/drill", _PRIVATE.public_key().public_bytes_raw())
THREADS = 4
"""How many threads of one process submit to its sequencer, or to a server, at once."""

_PARTS = (1, 3, 1, 20, 2, 1, 60)
"""How many records the batches of a writer have, in turn."""


class LostError(Exception):
    """The ledger broke its word."""


def sign(text: str) -> bytes:
    return signed_note(text, KEY, _PRIVATE.sign(text.encode()))


def verify(public: bytes, signature: bytes, message: bytes) -> bool:
    try:
        Ed25519PublicKey.from_public_bytes(public).verify(signature, message)
    except InvalidSignature:
        return False
    return True


def opened(note: bytes) -> Checkpoint:
    return open_checkpoint(note, [KEY], verify)


def now() -> datetime:
    return datetime.now(UTC)


def record(claim: str) -> Record:
    text = claim.encode("ascii")
    return Record(
        Kind.SIGN,
        payload.canonical({"claim": hashlib.sha256(text).hexdigest()}),
        hashlib.sha256(b"salt" + text).digest(),
        hashlib.sha256(b"key").digest(),
    )


def batches(tag: str) -> Iterator[list[str]]:
    """Yield the claims of each batch that the writer `tag` submits, without end."""
    for number, parts in enumerate(itertools.cycle(_PARTS)):
        yield [f"{tag}.{number}.{part}" for part in range(parts)]


def tags(writer: str, way: str) -> list[str]:
    """Return the names under which a writer's threads submit; only `append` has but one."""
    return [writer] if way == "append" else [f"{writer}-{number}" for number in range(THREADS)]


def acknowledgement(indices: Sequence[int], claims: Sequence[str]) -> str:
    """Return the lines by which a writer says that it was answered."""
    return "".join(f"{index} {claim}\n" for index, claim in zip(indices, claims, strict=True))


def read_acknowledged(path: Path) -> dict[str, int]:
    """Index by claim; a last line that was cut off was not acknowledged."""
    whole, _, _ = path.read_text(encoding="ascii").rpartition("\n")
    return {claim: int(index) for index, claim in (line.split() for line in whole.splitlines())}


def in_flight(tag: str, acknowledged: Mapping[str, int]) -> list[str]:
    """Return the claims that the writer `tag` may have submitted without hearing of all of them."""
    batch = next(claims for claims in batches(tag) if claims[-1] not in acknowledged)
    return [claim for claim in batch if claim not in acknowledged]


def report(began: float, **result: object) -> None:
    """Print what a drill found; one that finds a broken word does not come here."""
    taken = round(time.monotonic() - began, 1)
    sys.stdout.write(json.dumps({**result, "lost": 0, "doubled": 0, "seconds": taken}) + "\n")


@dataclass(frozen=True)
class Settled:
    """Every claim with its index, and how many of the unanswered ones were there before they came again."""

    answered: dict[str, int]
    kept: int


@dataclass(frozen=True)
class Subject:
    """One ledger, and the folder with what lies outside its database: keyring and guard."""

    url: str
    folder: Path

    def create(self) -> Ledger:
        guard = Guard.create(self.folder / "guard", KEY.name, opened)
        keyring = Keyring.create(self.folder / "keyring", hashlib.sha256(b"a seed for drills").digest())
        return Ledger.create(self.url, KEY.name, Sealer(keyring, seal, unseal), guard)

    def reopen(self) -> Ledger:
        return Ledger.open(self.url, self.sealer, self.guard)

    @property
    def guard(self) -> Guard:
        return Guard.open(self.folder / "guard", KEY.name, opened)

    @property
    def sealer(self) -> Sealer:
        return Sealer(Keyring.open(self.folder / "keyring"), seal, unseal)

    def require(self, acknowledged: Mapping[str, int], unanswered: Sequence[str]) -> Settled:
        """See that the ledger kept its word, submit everything again, and see it once more.

        The two together have to be all that was ever submitted.
        """
        # 1. The ledger agrees with itself, and with its guard.
        # 2. What was acknowledged is where it was said to be, with its payload; nothing is there twice.
        # 3. Submitted again, what is there keeps its index, and the ledger does not grow. Now all of
        #    that is acknowledged, so that the guard has to know of it (I7).
        # 4. What was not there is recorded exactly once.
        # 5. And all of 1 and 2 again; every entry is now somebody's, and the indices have no gap.
        before = self._require_whole()  # 1
        there = self._require_there(acknowledged)  # 2
        kept = {claim: there[made] for claim in unanswered if (made := record(claim).commitment) in there}
        answered = {**acknowledged, **kept}
        with self.reopen() as ledger:
            again = list(answered)
            for start in range(0, len(again), 500):  # 3
                claims = again[start : start + 500]
                indices = ledger.append([record(claim) for claim in claims], now(), sign)
                if list(indices) != [answered[claim] for claim in claims]:
                    raise LostError(f"One of {claims[0]} to {claims[-1]} was recorded a second time.")
            if ledger.size != before:
                raise LostError("Submitting again what was there made the ledger grow.")
            self._require_guarded(answered)
            lacking = [claim for claim in unanswered if claim not in kept]
            first = ledger.append([record(claim) for claim in lacking], now(), sign)  # 4
            second = ledger.append([record(claim) for claim in lacking], now(), sign)
            if first != second or ledger.size != before + len(lacking):
                raise LostError("An unanswered record was not recorded exactly once.")
        answered.update(zip(lacking, first, strict=True))
        if self._require_whole() != before + len(lacking):  # 5
            raise LostError("The ledger has another size than its entries.")
        self._require_there(answered)
        if sorted(answered.values()) != list(range(before + len(lacking))):
            raise LostError("The ledger holds an entry that nobody submitted.")
        return Settled(answered, len(kept))

    def _require_whole(self) -> int:
        means = Means([KEY], verify, self.sealer, self.guard.newest())
        report = audit(self.url, means)
        if report.first is not None or report.unopened:
            raise LostError(f"The audit found {report.first}, and {report.unopened} payloads sealed.")
        return report.size

    def _require_guarded(self, acknowledged: Mapping[str, int]) -> None:
        newest = self.guard.newest()
        if acknowledged and (newest is None or newest.size <= max(acknowledged.values())):
            raise LostError(f"Entry {max(acknowledged.values())} was acknowledged; the guard knows {newest}.")

    def _require_there(self, acknowledged: Mapping[str, int]) -> dict[bytes, int]:
        self._require_guarded(acknowledged)
        with self.reopen() as ledger:
            entries = list(ledger.entries(0, ledger.size))
            counted = Counter(entry.commitment for entry in entries)
            if counted and counted.most_common(1)[0][1] != 1:
                raise LostError("A commitment is in the ledger twice.")
            there = {entry.commitment: index for index, entry in enumerate(entries)}
            for claim, index in acknowledged.items():
                made = record(claim)
                if there.get(made.commitment) != index:
                    raise LostError(f"Claim {claim} was acknowledged at {index} and is not there.")
                if entries[index] != made.entry(entries[index].logged_at):
                    raise LostError(f"The entry of claim {claim} has another key or kind.")
            for claim, index in list(acknowledged.items())[-50:]:  # the audit opened every one
                if ledger.payload(index) != record(claim).payload:
                    raise LostError(f"The payload of claim {claim} is not what was submitted.")
        return there
