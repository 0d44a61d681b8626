"""The list in which Google names the Android attestation certificates it withdrew.

A dated file: the publisher's list has no date of its own, so whoever fetches it
adds when. Each entry withdraws, whatever its status: SUSPENDED like REVOKED, and
a status nobody knew when this was written. The list is not signed; what it says
is as good as the way it came. Fetching it is left to others.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from types import MappingProxyType

from authn.errors import StatusError
from authn.plain import plain

SOURCE = "https://android.googleapis.com/attestation/status"
MAX_BYTES = 32 << 20
STALE_AFTER = timedelta(days=30)

_SERIAL = re.compile(r"[1-9a-f][0-9a-f]{0,127}")  # hexadecimal also where it looks decimal
_FORM = "%Y-%m-%dT%H:%M:%SZ"


class StatusListError(StatusError):
    """The list of withdrawn attestation certificates cannot be read."""

    code = "attestation-status-unreadable"
    remedy = f"Fetch the list again from {SOURCE}, and give the moment it was fetched."


@dataclass(frozen=True, slots=True)
class Entry:
    """What the publisher says of one certificate."""

    status: str
    reason: str


@dataclass(frozen=True, slots=True)
class StatusList:
    """Who was withdrawn, as of `dated`."""

    dated: datetime
    entries: Mapping[str, Entry] = field(default_factory=lambda: MappingProxyType({}))

    @classmethod
    def published(cls, data: bytes, dated: datetime) -> "StatusList":
        """Read the list as its publisher writes it, fetched at `dated`."""
        return cls(dated.astimezone(UTC).replace(microsecond=0), _entries(_object(data)))

    @classmethod
    def parse(cls, data: bytes) -> "StatusList":
        """Read the dated file, accepting only what `encode` would write."""
        document = _object(data)
        text = document.get("dated")
        if not isinstance(text, str):
            raise StatusListError("the status list has no date")
        try:
            dated = datetime.strptime(text, _FORM).replace(tzinfo=UTC)
        except ValueError as error:
            raise StatusListError("the status list has no date that can be read") from error
        parsed = cls(dated, _entries(document))
        if parsed.encode() != data:
            raise StatusListError("the status list is not in the form that we write")
        return parsed

    def encode(self) -> bytes:
        """The dated file, canonical JSON."""
        document = {
            "dated": self.dated.strftime(_FORM),
            "entries": {
                serial: {"reason": entry.reason, "status": entry.status}
                for serial, entry in self.entries.items()
            },
        }
        return json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=True).encode("ascii")

    def of(self, serial: str) -> Entry | None:
        """What is said of a serial number, written by `serial_text`; None if nothing is."""
        return self.entries.get(serial)

    def stale(self, at: datetime) -> bool:
        """Whether the list is too old to be believed complete. One younger than `at` never is."""
        return at - self.dated > STALE_AFTER


def serial_text(serial: int) -> str:
    """A serial number as the list writes it: lower-case hex without leading zeros."""
    return format(serial, "x")


def _object(data: bytes) -> dict[str, object]:
    if len(data) > MAX_BYTES:
        raise StatusListError(f"the status list has more than {MAX_BYTES} bytes")
    try:
        document = json.loads(data, object_pairs_hook=_once)
    except (ValueError, RecursionError) as error:
        raise StatusListError("the status list is not JSON without repeated names") from error
    if not isinstance(document, dict):
        raise StatusListError("the status list is not a JSON object")
    return document


def _once(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name occurs twice")
    return found


def _entries(document: dict[str, object]) -> Mapping[str, Entry]:
    entries = document.get("entries")
    if not isinstance(entries, dict):
        raise StatusListError("the status list has no entries")
    return MappingProxyType({_serial(serial): _entry(value) for serial, value in entries.items()})


def _serial(serial: str) -> str:
    if not _SERIAL.fullmatch(serial):
        raise StatusListError("a serial in the status list is not lower-case hex without leading zeros")
    return serial


def _entry(value: object) -> Entry:
    status = value.get("status") if isinstance(value, dict) else None
    reason = value.get("reason", "") if isinstance(value, dict) else None
    if not isinstance(status, str) or not isinstance(reason, str):
        raise StatusListError("an entry of the status list has no status")
    return Entry(plain(status, 40), plain(reason, 60))
