"""What an issuer said about one certificate at one moment."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import IntEnum

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.x509.oid import NameOID

from authn.plain import plain

TOLERANCE = timedelta(seconds=60)
# What reading another's certificate or list can raise, at once or when a part of it is looked at.
UNREADABLE = (
    ValueError,
    TypeError,
    UnsupportedAlgorithm,
    x509.DuplicateExtension,
    x509.InvalidVersion,
    x509.UnsupportedGeneralNameType,
)

_ON_HOLD = frozenset({"certificateHold", "removeFromCRL"})


class Said(IntEnum):
    """What was said; of two statements made at the same moment the greater one counts."""

    GOOD = 0
    UNKNOWN = 1
    WITHDRAWN = 2


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a status tells nothing about a certificate, in words that go on after 'because'."""

    reason: str


@dataclass(frozen=True, slots=True)
class Statement:
    """One statement whose signature was verified. Whether it is fresh enough is not judged here.

    `since` is the date that the issuer gives for the withdrawal, `reason` its
    name in RFC 5280, 5.3.1. `remembers` says how far back certificates that
    expired are still spoken of; None if only living ones are. `delegate` is
    the responder's own certificate, if the issuer had another one speak.
    """

    said: Said
    this_update: datetime
    next_update: datetime | None
    source: str
    since: datetime | None = None
    reason: str | None = None
    remembers: datetime | None = None
    delegate: x509.Certificate | None = None

    @property
    def permanent(self) -> bool:
        """Whether no later statement can take it back: a hold can be released, nothing else can."""
        return self.said is Said.WITHDRAWN and self.reason not in _ON_HOLD

    @property
    def ends(self) -> datetime:
        """Until when it may be relied on. Without a date of its own it speaks of its moment only."""
        return self.this_update if self.next_update is None else self.next_update


def dating_fault(this_update: datetime, next_update: datetime | None, at: datetime) -> str | None:
    """What is wrong with the dates of a status, if anything is."""
    if this_update > at + TOLERANCE:
        return f"is dated in the future ({moment(this_update)})"
    if next_update is not None and next_update < this_update:
        return "ends before it begins"
    return None


def name_of(name: x509.Name) -> str:
    """What to call the bearer of a name, safe to show."""
    for kind in (NameOID.COMMON_NAME, NameOID.ORGANIZATION_NAME):
        for attribute in name.get_attributes_for_oid(kind):
            if shown := plain(str(attribute.value), 80):
                return shown
    return "an issuer without a name"


def moment(at: datetime) -> str:
    """A moment as sentences write it."""
    return f"{at:%Y-%m-%d %H:%M:%S} UTC"
