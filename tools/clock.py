"""The clock that our time-stamp unit relies on: what it may not lie behind, and how a step of it is seen.

The newest time on record is that of the ledger's newest entry, or by which enough witnesses
cosigned it. Nobody outside is asked here; `tools.time_server` does that.
"""

import logging
import time
from datetime import UTC, datetime

import storage.errors
from authn.keys import verify_note
from storage.ledger import Ledger
from storage.policy import open_witnessed
from tools.published import InForce

LOOK_SECONDS = 1.0
MAX_UNSEEN_SECONDS = 30.0
_log = logging.getLogger(__name__)


def steady() -> float:
    """Seconds on a clock that nobody sets, and that runs on while the machine sleeps where there is such a one."""
    boot = getattr(time, "CLOCK_BOOTTIME", None)
    return time.monotonic() if boot is None else time.clock_gettime(boot)


class Floor:
    """The newest time that is on record, below which no token may be dated. Threads may share it."""

    def __init__(self, ledger: Ledger, witnesses: InForce | None) -> None:
        """Look at `ledger`, which has to stay open; without `witnesses` nobody's cosignature counts."""
        self._ledger, self._witnesses = ledger, witnesses
        self._time: datetime | None = None
        self._seen: bytes | None = None
        self._looked: float | None = None

    def doubt(self) -> str | None:
        """Why the floor may be lower than it should be, if nobody could look yet, or not for long."""
        if self._looked is not None and steady() - self._looked <= MAX_UNSEEN_SECONDS:
            return None
        return "the times that are on record could not be read for a while"

    def __call__(self) -> datetime | None:
        """The time, as it was seen last."""
        return self._time

    def lately(self) -> datetime | None:
        """The time, as it was seen within the last second; for whoever has nobody to look meanwhile."""
        if self._looked is None or steady() - self._looked >= LOOK_SECONDS:
            self.look()
        return self._time

    def look(self) -> None:
        """Look again. What cannot be read now leaves the floor where it is: nothing is recorded then either."""
        try:
            with self._ledger.at_once() as view:
                seconds, note = int(view.head().time), view.witnessed()
            if note is not None and note != self._seen and self._witnesses is not None:
                policy = self._witnesses()
                by = policy.satisfied_at(open_witnessed(note, policy, verify_note).cosigners)
                seconds, self._seen = max(seconds, by or 0), note
        except storage.errors.Error as error:
            _log.warning("%s: %s", error.code, error)
            return
        self._looked = steady()
        found = datetime.fromtimestamp(seconds, UTC)
        if seconds and (self._time is None or found > self._time):
            self._time = found
