"""What goes between a device and the registration authority; nothing here judges anything."""

import base64
import hashlib
import json
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Self

from authn.attestation.judgement import Evidence, Kind
from authn.evidence import Custody
from authn.identity import Lifetime
from storage.payload import canonical
from tools.issuance.errors import MalformedError
from tools.issuance.order import Batch
from tools.issuance.terms import Terms

_RENEWAL = b"lightseal/renewal/v1\0"


class Door(StrEnum):
    """Where a device came in. At the home its operator enrols it himself, and so vouches for what it says."""

    HOME = "home"
    NETWORK = "network"


@dataclass(frozen=True, slots=True)
class Reception:
    """Which home takes devices in, by its log's origin, and by which door."""

    origin: str
    door: Door


@dataclass(frozen=True, slots=True)
class Opening:
    """What a device begins with: a token and a product, or, to renew, only its name."""

    token: bytes | None
    product: str
    device: str | None
    lifetime: Lifetime | None
    kinds: tuple[Kind, ...]


@dataclass(frozen=True, slots=True)
class Offer:
    """The answer: a challenge, and the terms it was given for."""

    challenge: bytes
    terms: Terms
    expires: datetime


@dataclass(frozen=True, slots=True)
class Wish:
    """A key that is to be certified (a request in DER), and where it is kept."""

    request: bytes
    evidence: Evidence


@dataclass(frozen=True, slots=True)
class Completion:
    """What a device sends for its challenge; to renew, with its present key's signature over all of it."""

    challenge: bytes
    terms: Terms
    wishes: tuple[Wish, ...]
    proof: tuple[bytes, bytes] | None = None
    """SHA-256 of the certificate that is renewed, and its key's signature over `renewal_text`."""


@dataclass(frozen=True, slots=True)
class Enrolled:
    """What a device is given. `salt` is what its name in the ledger is made with."""

    device: str
    salt: bytes
    custody: Custody
    lifetime: Lifetime
    batch: Batch


@dataclass(frozen=True, slots=True)
class Question:
    """What a piece of evidence has to answer: this challenge, for this key, under these rules."""

    challenge: bytes
    spki: bytes
    request: bytes
    """The certificate request (DER), to which App Attest binds the app."""
    rules: bytes
    """The product's, canonical JSON."""
    door: Door = Door.NETWORK


@dataclass(frozen=True, slots=True)
class Statement:
    """Evidence with its question, as it is kept: its SHA-256 is what the ledger has."""

    question: Question
    evidence: Evidence
    judged_at: datetime

    def encode(self) -> bytes:
        """One line of canonical JSON, then the statement as the device sent it."""
        head = {
            "challenge": self.question.challenge.hex(),
            "door": self.question.door.value,
            "judged_at": self.judged_at.isoformat(),
            "kind": self.evidence.kind.value,
            "request": base64.b64encode(self.question.request).decode(),
            "spki": self.question.spki.hex(),
        }
        return canonical(head) + b"\n" + self.evidence.data

    @classmethod
    def read(cls, data: bytes, rules: bytes) -> Self:
        """Read what `encode` wrote."""
        head, _, statement = data.partition(b"\n")
        try:
            fields = json.loads(head)
            question = Question(
                bytes.fromhex(fields["challenge"]),
                bytes.fromhex(fields["spki"]),
                base64.b64decode(fields["request"], validate=True),
                rules,
                Door(fields.get("door", Door.NETWORK)),
            )
            evidence = Evidence(Kind(fields["kind"]), statement)
            return cls(question, evidence, datetime.fromisoformat(fields["judged_at"]))
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise MalformedError("a piece of evidence that was kept cannot be read") from error


def renewal_text(challenge: bytes, keys: tuple[bytes, ...]) -> bytes:
    """What the present key signs to have `keys` (SPKI, DER) certified after it."""
    digest = hashlib.sha256(b"".join(hashlib.sha256(key).digest() for key in keys)).digest()
    return _RENEWAL + challenge + digest
