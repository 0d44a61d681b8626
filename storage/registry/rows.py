"""What the registry holds, row by row; frozen, complete, times aware and in UTC.

A row is what somebody decided to record. That a certificate parses, that evidence proves
what its label says, and that a signature holds, was found elsewhere and is not checked here.
"""

import re
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from storage.registry.errors import MalformedRowError

DIGEST_BYTES = 32
GENESIS = bytes(DIGEST_BYTES)
"""What the first capture of a chain names as its predecessor, whatever its counter is."""
MAX_COUNTER = (1 << 63) - 1
MAX_NAME_CHARACTERS = 200
MAX_DATA_BYTES = 256 << 10
TWO_PEOPLE = 2
ONE_TIME = "one-time"
"""The lifetime of a certificate that signs one capture."""
_SERIAL = re.compile("[1-9a-f][0-9a-f]{0,39}")


class Status(StrEnum):
    """How far a device is believed."""

    PENDING = "pending"
    ACTIVE = "active"
    SUSPECT = "suspect"
    SUSPENDED = "suspended"
    REVOKED = "revoked"
    RETIRED = "retired"


TRANSITIONS: dict[Status, frozenset[Status]] = {
    Status.PENDING: frozenset({Status.ACTIVE, Status.REVOKED, Status.RETIRED}),
    Status.ACTIVE: frozenset({Status.SUSPECT, Status.SUSPENDED, Status.REVOKED, Status.RETIRED}),
    Status.SUSPECT: frozenset({Status.ACTIVE, Status.SUSPENDED, Status.REVOKED, Status.RETIRED}),
    Status.SUSPENDED: frozenset({Status.ACTIVE, Status.SUSPECT, Status.REVOKED, Status.RETIRED}),
    Status.RETIRED: frozenset({Status.REVOKED}),
    Status.REVOKED: frozenset(),
}
"""From each status to which others; revoked is for ever, and the same status again is no change."""


class Contradiction(StrEnum):
    """What two captures cannot both have."""

    PLACE = "place"
    CERTIFICATE = "certificate"


class TargetKind(StrEnum):
    """What can be withdrawn."""

    CERTIFICATE = "certificate"
    DEVICE = "device"
    PRODUCT = "product"
    CA = "ca"


class Role(StrEnum):
    """What an operator may do; who may, and who signed, is decided elsewhere."""

    VIEWER = "viewer"
    SUBMITTER = "submitter"
    DEVICE_ADMIN = "device-admin"
    REVOKER = "revoker"
    CA_OPERATOR = "ca-operator"


@dataclass(frozen=True, slots=True)
class Product:
    """A kind of device, and what one must prove to be enrolled as it."""

    name: str
    organisation: str
    lifetime: str
    """Of its certificates: "standard", "session" or "one-time"."""
    minimum: str
    """The least custody label, "E0" to "E3"."""
    rules: bytes
    """Canonical JSON, read elsewhere."""
    since: datetime

    def __post_init__(self) -> None:
        require_names(self.name, self.organisation, self.lifetime, self.minimum)
        require_data(self.rules)
        require_time(self.since)


@dataclass(frozen=True, slots=True)
class Device:
    """One device; its name and its salt stand nowhere but here and with the device."""

    name: str
    product: str
    salt: bytes
    status: Status
    pin: bytes | None
    """SHA-256 of what its first attestation showed; None before, and where there is none."""
    custody: str
    """The least that any judgement said since it was last pinned; of one key, its evidence says it."""
    enrolled: datetime

    def __post_init__(self) -> None:
        require_names(self.name, self.product, self.custody)
        require_digests(self.salt, *([] if self.pin is None else [self.pin]))
        require_time(self.enrolled)


@dataclass(frozen=True, slots=True)
class StatusChange:
    """That a device went from one status to another, and why."""

    device: str
    before: Status
    after: Status
    at: datetime
    why: str


@dataclass(frozen=True, slots=True)
class StoredEvidence:
    """What a device showed, as it sent it, with one judgement of it."""

    id: int
    device: str
    spki_sha256: bytes
    """Of the key that it is about."""
    kind: str
    data: bytes
    custody: str
    judged_at: datetime
    broken: bytes
    """Canonical JSON: the rules that did not hold."""


@dataclass(frozen=True, slots=True)
class IssuedCertificate:
    """A certificate, whose it is, and where the ledger has its issuance."""

    sha256: bytes
    der: bytes
    serial: str
    """Lower-case hex without leading zeros."""
    spki_sha256: bytes
    device: str
    product: str
    lifetime: str
    issuer_key_id: bytes
    not_before: datetime
    not_after: datetime
    entry: int

    def __post_init__(self) -> None:
        require_names(self.device, self.product, self.lifetime)
        require_digests(self.sha256, self.spki_sha256)
        require_data(self.der)
        require_time(self.not_before, self.not_after)
        if not _SERIAL.fullmatch(self.serial):
            raise MalformedRowError("A serial is not written as lower-case hex without leading zeros.")
        if not 1 <= len(self.issuer_key_id) <= 64 or self.entry < 0:
            raise MalformedRowError("A certificate names no issuer's key, or no entry.")


@dataclass(frozen=True, slots=True)
class Target:
    """What is withdrawn: `Target.of_certificate(sha256)` and its like say it right."""

    kind: TargetKind
    name: str

    def __post_init__(self) -> None:
        require_names(self.name)
        if self.kind in (TargetKind.CERTIFICATE, TargetKind.CA):
            try:
                written = bytes.fromhex(self.name).hex()
            except ValueError:
                written = ""
            if written != self.name:
                raise MalformedRowError(f"A {self.kind} is named by lower-case hex.")

    @property
    def digest(self) -> bytes | None:
        """What the name of a certificate or a CA stands for; None for names that people give."""
        return bytes.fromhex(self.name) if self.kind in (TargetKind.CERTIFICATE, TargetKind.CA) else None

    @classmethod
    def of_certificate(cls, sha256: bytes) -> "Target":
        """One certificate, by the SHA-256 of its DER."""
        return cls(TargetKind.CERTIFICATE, sha256.hex())

    @classmethod
    def of_device(cls, name: str) -> "Target":
        """Every certificate of a device."""
        return cls(TargetKind.DEVICE, name)

    @classmethod
    def of_product(cls, name: str) -> "Target":
        """Every certificate of every device of a product."""
        return cls(TargetKind.PRODUCT, name)

    @classmethod
    def of_ca(cls, issuer_key_id: bytes) -> "Target":
        """Everything that an issuing key signed."""
        return cls(TargetKind.CA, issuer_key_id.hex())


@dataclass(frozen=True, slots=True)
class Withdrawal:
    """That a target is no longer believed, since when, and who said so."""

    target: Target
    reason: str
    """By its name in RFC 5280, 5.3.1."""
    revoked_at: datetime
    compromised_since: datetime | None
    by: tuple[str, ...]
    entry: int

    def __post_init__(self) -> None:
        require_names(self.reason, *self.by)
        require_time(self.revoked_at, *([] if self.compromised_since is None else [self.compromised_since]))
        if not self.by or self.entry < 0:
            raise MalformedRowError("A withdrawal names nobody who decided it, or no entry.")
        if self.since > self.revoked_at:
            raise MalformedRowError(
                "A withdrawal says since when it counts, and that is after it was decided."
            )

    @property
    def since(self) -> datetime:
        """From when on a signature counts for nothing: the compromise, else the withdrawal itself."""
        return self.revoked_at if self.compromised_since is None else self.compromised_since


@dataclass(frozen=True, slots=True)
class Withdrawn:
    """A certificate that is withdrawn, and what counts of the withdrawals of it: `gravity.gravest`."""

    certificate: IssuedCertificate
    withdrawal: Withdrawal


@dataclass(frozen=True, slots=True)
class Operator:
    """A person with a key of their own; no two share one."""

    name: str
    spki: bytes
    role: Role
    since: datetime
    until: datetime | None = None

    def __post_init__(self) -> None:
        require_names(self.name)
        require_data(self.spki)
        require_time(self.since)


@dataclass(frozen=True, slots=True)
class Head:
    """The newest link of a device's chain that has arrived."""

    counter: int
    link: bytes


@dataclass(frozen=True, slots=True)
class Capture:
    """One link of a device's chain, and where the ledger has it."""

    device: str
    counter: int
    link: bytes
    previous: bytes
    claim: bytes
    media: bytes
    binding: bytes
    signature: bytes
    commitment: bytes
    certificate: bytes
    """All of these are SHA-256 digests; the last is that of the certificate, in DER, that signed it."""
    at: datetime
    """When it arrived."""
    entry: int | None = None
    """None until `set_entry`: the gap is part of what is logged, so the chain comes first."""
    gap: range = range(0)
    """The numbers missing right before it when it arrived; `Registry.missing` has those that still are."""

    def __post_init__(self) -> None:
        require_names(self.device)
        require_digests(*self.contents)
        require_time(self.at)
        if not 1 <= self.counter <= MAX_COUNTER or self.link == GENESIS:
            raise MalformedRowError("A capture's counter or link is out of range.")

    @property
    def contents(self) -> tuple[bytes, ...]:
        """What makes it this capture and no other, together with device and counter."""
        return (
            self.link,
            self.previous,
            self.claim,
            self.media,
            self.binding,
            self.signature,
            self.commitment,
            self.certificate,
        )


@dataclass(frozen=True, slots=True)
class Fork:
    """The evidence of a fork: the capture that was refused, the claim of one that contradicts it, and in what."""

    refused: Capture
    against: bytes
    about: Contradiction


def require_time(*times: datetime) -> None:
    """Refuse a time that does not say which moment it is."""
    if any(at.tzinfo is None for at in times):
        raise MalformedRowError("A time has no time zone.")


def require_names(*names: str) -> None:
    """Refuse what could not be shown in a line."""
    if any(not 1 <= len(name) <= MAX_NAME_CHARACTERS or not name.isprintable() for name in names):
        raise MalformedRowError(f"A name is not between 1 and {MAX_NAME_CHARACTERS} printable characters.")


def require_digests(*digests: bytes) -> None:
    """Refuse what is no SHA-256."""
    if any(len(digest) != DIGEST_BYTES for digest in digests):
        raise MalformedRowError(f"A digest does not have {DIGEST_BYTES} bytes.")


def require_data(*data: bytes) -> None:
    """Refuse nothing, and too much."""
    if any(not 1 <= len(each) <= MAX_DATA_BYTES for each in data):
        raise MalformedRowError(f"There is nothing to record, or more than {MAX_DATA_BYTES} bytes.")
