"""What the log publishes: at most what its guard knows and, under a policy, what enough witnesses cosigned.

A note that was kept counts only while it satisfies the policy that is in force now. What was
published stays published, also where guard or keys cannot be read for a while.
"""

import logging
from itertools import islice

import storage.errors
import tools.errors
from authn.keys import verify_note
from storage.errors import MalformedError, NotWitnessedError, ProofError
from storage.guard import Guard
from storage.ledger import Ledger
from storage.policy import Policy, open_witnessed
from storage.view import parsed
from tools.own_log import OwnLog

# Notes kept under another policy that are looked through before it is left to the next cosigning.
MAX_LOOK_BACK = 4096
_log = logging.getLogger(__name__)


class InForce:
    """A policy for the log's keys as they are now: a server outlives rotations."""

    def __init__(self, own: OwnLog, policy: Policy) -> None:
        self._own = own
        self._keys = own.keys
        self._policy = policy.trusting(own.keys)

    def __call__(self) -> Policy:
        """Return it; with the keys read last where they cannot be read."""
        try:
            keys = self._own.as_saved().keys
        except (tools.errors.Error, OSError) as error:
            _log.warning("the log's keys cannot be read: %s", error)
            return self._policy
        if keys != self._keys:
            self._policy, self._keys = self._policy.trusting(keys), keys
        return self._policy


class Guarded:
    """The newest checkpoint that the guard knows as well.

    Another process may still be making durable what it just wrote to the guard; its record
    is in the database by then.
    """

    def __init__(self, ledger: Ledger, guard: Guard) -> None:
        self._ledger, self._guard = ledger, guard
        self._known = 0

    def __call__(self) -> str:
        """Return the note; raises `EmptyLedgerError` before the first."""
        note = self._ledger.checkpoint()
        size = parsed(note.encode()).size
        if size > self._known:
            self._look()
        if size <= self._known:
            return note
        with self._ledger.at_once() as view:
            older = view.newest_within(self._known)
        if older is None:
            raise storage.errors.EmptyLedgerError("The guard knows of no checkpoint yet.")
        return older.decode()

    def _look(self) -> None:
        try:
            newest = self._guard.newest()
        except storage.errors.LedgerError as error:
            _log.error("%s: %s", error.code, error)  # nothing newer is published until it can be read
        else:
            self._known = max(self._known, 0 if newest is None else newest.size)


class Witnessed:
    """The newest kept checkpoint that satisfies the policy in force."""

    def __init__(self, ledger: Ledger, policy: InForce) -> None:
        self._ledger, self._policy = ledger, policy
        self._seen: tuple[bytes, Policy] | None = None
        self._good: bytes | None = None

    def __call__(self) -> str:
        """Return the note; raises `NotWitnessedError` where there is none."""
        note = self._newest()
        if note is None:
            raise NotWitnessedError("No checkpoint was witnessed yet as the policy wants it.")
        return note.decode()

    def size(self) -> int:
        """How many entries it covers."""
        note = self._newest()
        return 0 if note is None else parsed(note).size

    def _newest(self) -> bytes | None:
        policy = self._policy()
        with self._ledger.at_once() as view:
            newest = next(view.witnessed_notes(), None)
            if newest is None or self._seen == (newest, policy):
                return self._good
            for note in islice(view.witnessed_notes(), MAX_LOOK_BACK):
                if note == self._good or counts(note, policy):
                    self._good = note
                    break
        self._seen = (newest, policy)
        return self._good


def counts(note: bytes, policy: Policy) -> bool:
    """Whether a checkpoint is witnessed under this policy."""
    try:
        open_witnessed(note, policy, verify_note)
    except (ProofError, MalformedError):
        return False
    return True
