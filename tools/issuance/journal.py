"""What is being issued: decided, but perhaps not logged yet; and for a day what was issued.

One file for each enrolment, written whole and made durable before anything is logged: with it an
issuance is carried out after a crash exactly as it was decided.
"""

import json
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, ClassVar

import tools.errors
from authn.csr import read_request
from authn.keys import PublicKey
from storage import durable
from tools.issuance.errors import MalformedError, NotLoggedError
from tools.issuance.order import Batch, Order, batch_fields, batch_of, order_fields, order_of
from tools.output import put_whole

_MAX_BYTES = 2 << 20


class JournalDamagedError(tools.errors.Error):
    """A file of the journal is not as it was written."""

    code: ClassVar[str] = "journal-damaged"
    remedy: ClassVar[str] = (
        "See what the disk says; move the file out of the folder 'issuance', and the device enrols again."
    )


@dataclass(frozen=True, slots=True)
class Case:
    """What was decided before anything was logged, complete enough to be carried out after a crash."""

    enrolment: str
    order: Order
    organisation: str
    custody: str
    evidence: bytes
    pseudonyms: tuple[bytes, ...]
    serials: tuple[int, ...]
    salts: tuple[bytes, ...]
    issuer: str
    at: datetime

    @property
    def keys(self) -> tuple[PublicKey, ...]:
        """The keys that are certified."""
        return tuple(map(read_request, self.order.requests))


class Journal:
    """The journal of one authority, in a folder of its own. `turn` is for one writer at a time."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._turns = folder, folder / "turn"
        folder.mkdir(mode=0o700, exist_ok=True)
        self._turns.touch(mode=0o600)

    def turn(self) -> AbstractContextManager[int]:
        """One order at a time, also where another process has the journal open."""
        return durable.changing(self._turns)

    def begin(self, case: Case) -> None:
        """Keep what was decided."""
        self._put(self._place(case.enrolment, "pending"), _case_fields(case))

    def finish(self, case: Case, batch: Batch) -> None:
        """Keep what was issued, and that nothing of it is pending."""
        fields = {"requests": case.order.digest, "batch": batch_fields(batch)}
        self._put(self._place(case.enrolment, "done"), fields)
        self.drop(case)

    def drop(self, case: Case) -> None:
        """Forget what was decided."""
        self._place(case.enrolment, "pending").unlink(missing_ok=True)

    def pending(self, enrolment: str) -> Case | None:
        """What was decided for an enrolment, and not carried out."""
        return _case(self._place(enrolment, "pending"))

    def all_pending(self) -> Iterator[Case]:
        """Everything that was decided, and not carried out."""
        for place in sorted(self._folder.glob("*.pending.json")):
            if (case := _case(place)) is not None:
                yield case

    def done(self, enrolment: str, after: datetime) -> tuple[str, Batch] | None:
        """The digest of the requests of an enrolment, and what was issued for them; nothing from before `after`."""
        place = self._place(enrolment, "done")
        fields = _content(place)
        if fields is None or place.stat().st_mtime < after.timestamp():
            return None
        try:
            return str(fields["requests"]), batch_of(fields["batch"])
        except (KeyError, TypeError, MalformedError) as error:
            raise JournalDamagedError(f"{place.name} of the journal cannot be read") from error

    def forget(self, before: datetime) -> None:
        """Take away what was done before that moment."""
        for place in self._folder.glob("*.done.json"):
            if place.stat().st_mtime < before.timestamp():
                place.unlink()

    def _place(self, enrolment: str, state: str) -> Path:
        if not enrolment.isalnum() or not enrolment.isascii() or len(enrolment) > 64:
            raise MalformedError("an enrolment is named by hexadecimal digits")
        return self._folder / f"{enrolment}.{state}.json"

    @staticmethod
    def _put(place: Path, fields: dict[str, Any]) -> None:
        data = json.dumps(fields).encode()
        if len(data) > _MAX_BYTES:
            raise MalformedError(f"the order is larger than the {_MAX_BYTES} bytes that are kept of one")
        try:
            put_whole(place, data)
            durable.sync_folder(place)
        except OSError as error:
            raise NotLoggedError(f"the journal cannot be written ({error.strerror})") from error


def _case_fields(case: Case) -> dict[str, Any]:
    return {
        "enrolment": case.enrolment,
        "order": order_fields(case.order),
        "organisation": case.organisation,
        "custody": case.custody,
        "evidence": case.evidence.hex(),
        "pseudonyms": [each.hex() for each in case.pseudonyms],
        "serials": [f"{each:x}" for each in case.serials],
        "salts": [each.hex() for each in case.salts],
        "issuer": case.issuer,
        "at": case.at.isoformat(),
    }


def _case_of(fields: Any) -> Case:
    return Case(
        fields["enrolment"],
        order_of(fields["order"]),
        fields["organisation"],
        fields["custody"],
        bytes.fromhex(fields["evidence"]),
        tuple(map(bytes.fromhex, fields["pseudonyms"])),
        tuple(int(each, 16) for each in fields["serials"]),
        tuple(map(bytes.fromhex, fields["salts"])),
        fields["issuer"],
        datetime.fromisoformat(fields["at"]),
    )


def _case(place: Path) -> Case | None:
    fields = _content(place)
    try:
        return None if fields is None else _case_of(fields)
    except (KeyError, TypeError, ValueError, MalformedError) as error:
        raise JournalDamagedError(f"{place.name} of the journal cannot be read") from error


def _content(place: Path) -> Any:
    try:
        with place.open("rb") as file:
            data = file.read(_MAX_BYTES + 1)
        if len(data) > _MAX_BYTES:
            raise JournalDamagedError(f"{place.name} of the journal is larger than what is written there")
        return json.loads(data)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError) as error:
        raise JournalDamagedError(f"{place.name} of the journal cannot be read") from error
