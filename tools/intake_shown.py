"""The checkpoint that devices are shown: one for all of them, an hour long, whichever process they ask.

A claim holds the checkpoint that its device knew. One that only one device was ever shown would
tell whose captures belong together; so every process that serves a home reads the same file.
What it holds is shown only if this very ledger published it.
"""

import json
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

from storage import durable
from storage.errors import Error as StorageError
from storage.ledger import Ledger
from tools.capture import translated
from tools.home import content_of

LIFE = timedelta(hours=1)
FILE = "intake.checkpoint"

_Shown = tuple[datetime, str]


class Shown:
    """The shown checkpoint of one home. `renewed` is called by the process that chose the next."""

    def __init__(self, folder: Path, ledger: Ledger, renewed: Callable[[datetime], object]) -> None:
        self._place = folder / FILE
        self._ledger = ledger
        self._renewed = renewed
        self._known: _Shown | None = None

    def at(self, now: datetime) -> str:
        """The checkpoint for this hour."""
        if (known := self._known) is None or not _fresh(known, now):
            try:
                known = self._agreed(now)
            except OSError as error:
                raise translated(error, self._place) from error
            self._known = known
        return known[1]

    def _agreed(self, now: datetime) -> _Shown:
        """What another process chose, or what this one does, while no other chooses."""
        self._place.touch(durable.OWNER_ONLY)
        with durable.changing(self._place):
            found = self._read()
            if found is not None and _fresh(found, now):
                return found
            chosen = now.astimezone(UTC), self._ledger.checkpoint()
            about = {"at": chosen[0].isoformat(), "checkpoint": chosen[1]}
            durable.replace(self._place, json.dumps(about, sort_keys=True).encode() + b"\n")
        self._renewed(now)
        return chosen

    def _read(self) -> _Shown | None:
        """What the file holds; None where that is nothing, or is not of this ledger."""
        with suppress(StorageError, ValueError, KeyError, TypeError, RecursionError, OverflowError):
            about = json.loads(content_of(self._place))
            at, note = datetime.fromisoformat(about["at"]).astimezone(UTC), str(about["checkpoint"])
            if self._ledger.has_published(note.encode()):
                return at, note
        return None


def _fresh(shown: _Shown, now: datetime) -> bool:
    return timedelta() <= now - shown[0] < LIFE
