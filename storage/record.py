"""Records: what is handed to a ledger, known to be recordable.

Pure. A record that exists has a canonical payload, a salt and a pseudonym of the right
lengths; so nothing can be refused once others wait in the same transaction.
"""

import re
from dataclasses import dataclass, field
from datetime import datetime
from typing import NamedTuple

from storage import payload as payloads
from storage.entry import Entry, Kind, commitment
from storage.errors import MalformedEntryError

INDEXED = ("binding", "claim", "media", "spki")
"""Payload fields that hold a SHA-256 in hex and by which an entry is found."""

_HEX = re.compile(r"[0-9a-f]{64}")


class Lookup(NamedTuple):
    """A private way to find an entry: a kind of digest, and the digest."""

    kind: str
    digest: bytes


@dataclass(frozen=True, slots=True)
class Record:
    """What is to be recorded. `key` is the pseudonym of the key concerned; `salt` is fresh chance."""

    kind: Kind
    payload: bytes = field(repr=False)
    salt: bytes = field(repr=False)
    key: bytes
    commitment: bytes = field(init=False, repr=False)
    lookups: tuple[Lookup, ...] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        if len(self.key) != 32:
            raise MalformedEntryError("A key's pseudonym has 32 bytes.")
        object.__setattr__(self, "lookups", lookups(self.payload))
        object.__setattr__(self, "commitment", commitment(self.salt, self.payload))

    def entry(self, logged_at: datetime) -> Entry:
        """Return the entry that commits to this record."""
        return Entry(self.kind, self.commitment, self.key, logged_at)


def lookups(payload: bytes) -> tuple[Lookup, ...]:
    """Return by what a payload is found; `MalformedPayloadError` where it is none."""
    fields = payloads.parse(payload)
    return tuple(
        Lookup(kind, bytes.fromhex(value))
        for kind in INDEXED
        if isinstance(value := fields.get(kind), str) and _HEX.fullmatch(value)
    )
