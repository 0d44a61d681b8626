"""Entries: what is hashed into the tree, which is a commitment and never content.

Pure. An entry shows that something of a kind was recorded under a key's pseudonym.
What it was stays hidden until somebody shows the payload and its salt, and for ever
once both are erased.
"""

import hashlib
import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum

from storage import base64text
from storage.errors import MalformedEntryError
from storage.merkle import leaf_hash
from storage.tile import MAX_ENTRY_BYTES

SALT_BYTES = 32
_DOMAIN = b"lightseal/commit/v1\x00"
_BODY = re.compile(
    rb'\{"commit":"([A-Za-z0-9+/=]{44})","key":"([A-Za-z0-9+/=]{44})","kind":"([a-z]+)",'
    rb'"time":"([0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}Z)","v":1\}'
)


class Kind(StrEnum):
    """What an entry records."""

    ISSUE = "issue"
    SIGN = "sign"
    TOKEN = "token"  # noqa: S105 - a time-stamp token, nothing secret
    REVOKE = "revoke"
    POLICY = "policy"
    ERASE = "erase"


@dataclass(frozen=True, slots=True)
class Entry:
    """A commitment, the pseudonym of the key it concerns, and when the log says it took it.

    `logged_at` is the operator's clock. The pseudonym lets an owner who knows it
    watch the log for uses of the key, and nobody else link two of them to a person.
    """

    kind: Kind
    commitment: bytes
    key: bytes
    logged_at: datetime

    def __post_init__(self) -> None:
        if len(self.commitment) != 32 or len(self.key) != 32:
            raise MalformedEntryError("An entry's commitment and key have 32 bytes each.")
        if self.logged_at.utcoffset() != timedelta() or self.logged_at.microsecond:
            raise MalformedEntryError("An entry's time is in UTC and in whole seconds.")

    @classmethod
    def parse(cls, body: bytes) -> "Entry":
        """Read a body, accepting only what `body` would return."""
        matched = _BODY.fullmatch(body) if len(body) <= MAX_ENTRY_BYTES else None
        if matched is None:
            raise MalformedEntryError("The bytes are not an entry as we would write it.")
        commitment, key, kind, time = (group.decode("ascii") for group in matched.groups())
        try:
            return cls(
                Kind(kind),
                base64text.decode_hash(commitment),
                base64text.decode_hash(key),
                datetime.fromisoformat(time).astimezone(UTC),
            )
        except ValueError as error:
            raise MalformedEntryError("A field of the entry is malformed.") from error

    @property
    def body(self) -> bytes:
        """The bytes in the tree: JSON with sorted keys, without spaces, in ASCII (version 1)."""
        time = self.logged_at.replace(tzinfo=None).isoformat()
        return (
            f'{{"commit":"{base64text.encode(self.commitment)}","key":"{base64text.encode(self.key)}",'
            f'"kind":"{self.kind}","time":"{time}Z","v":1}}'
        ).encode("ascii")

    @property
    def leaf(self) -> bytes:
        """The leaf hash of the body."""
        return leaf_hash(self.body)


def commitment(salt: bytes, payload: bytes) -> bytes:
    """Commit to `payload`; whoever lacks the salt cannot test a guess against the result."""
    if len(salt) != SALT_BYTES:
        raise MalformedEntryError(f"A salt has {SALT_BYTES} bytes.")
    return hashlib.sha256(_DOMAIN + salt + payload).digest()
