"""Not before: what a log's checkpoint inside a claim proves of when the claim was made.

A checkpoint depends on everybody's entries, and its cosignatures on their witnesses' keys, so a
claim that holds one was made after them. How long after, nobody can tell from it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import storage.errors
from authn.evidence import CaptureStatement, Code, Finding
from authn.keys import verify_note
from authn.plain import plain
from storage.checkpoint import Checkpoint, open_checkpoint
from storage.cosignature import Cosigner, cosigners
from storage.ledger import Ledger
from storage.note import MAX_NOTE_BYTES, VerifierKey
from storage.policy import Policy


@dataclass(frozen=True, slots=True)
class Bracket:
    """The proven lower side of a window, with who says so; `at` is None where nothing is proven."""

    at: datetime | None
    source: str | None
    finding: Finding


def bracket(
    statement: CaptureStatement | None,
    ledger: Ledger | None,
    keys: Sequence[VerifierKey],
    policy: Policy | None,
) -> Bracket | None:
    """Judge the checkpoint that a claim holds; None where it holds none.

    1. The log's key signed it.
    2. Where the ledger is at hand: this very checkpoint was published. Another of the same
       size would mean that the log showed two histories.
    3. Its time: that of enough witnesses, else that of the last entry under it, which is the
       log's own clock and said to be.
    """
    if statement is None or statement.checkpoint is None:
        return None
    note = statement.checkpoint.encode("utf-8", "surrogatepass")  # such a note no key signed
    if len(note) > MAX_NOTE_BYTES:
        return _none("the claim's checkpoint is larger than any log writes")
    if not keys:
        return _none("the claim names a log's checkpoint, and no key of that log is known here")
    try:
        checkpoint = open_checkpoint(note, keys, verify_note)
        if ledger is not None and not ledger.has_published(note):
            return _none(
                f"the claim holds a checkpoint of {checkpoint.size} entries that {checkpoint.origin}"
                " signed and never published"
            )
        return _by_witnesses(note, checkpoint, policy) or _by_log(checkpoint, ledger)
    except storage.errors.Error as error:
        return _none(f"the checkpoint in the claim cannot be relied on: {plain(str(error), 200)}")


def _by_witnesses(note: bytes, checkpoint: Checkpoint, policy: Policy | None) -> Bracket | None:
    if policy is None or policy.quorum is None:
        return None
    seen = cosigners(note, [witness.key for witness in policy.witnesses], verify_note)
    at = _latest(seen, policy)
    if at is None:
        return None
    source = f"a checkpoint of {checkpoint.size} entries of {checkpoint.origin}, by its witnesses"
    return _proven(datetime.fromtimestamp(at, UTC), source)


def _latest(seen: tuple[Cosigner, ...], policy: Policy) -> int | None:
    """The latest time that enough witnesses state, or a later one: fewer than enough cannot move it."""
    dated = {
        witness.name: each.at for witness in policy.witnesses for each in seen if each.key == witness.key
    }
    times = sorted((at for at in dated.values() if at), reverse=True)
    return next(
        (time for time in times if policy.satisfied([name for name, at in dated.items() if at >= time])), None
    )


def _by_log(checkpoint: Checkpoint, ledger: Ledger | None) -> Bracket:
    if ledger is None or not checkpoint.size:
        return _none("the claim holds a log's checkpoint that no known witness dates")
    source = f"a checkpoint of {checkpoint.size} entries of {checkpoint.origin}, by the ledger's own clock"
    return _proven(ledger.entry(checkpoint.size - 1).logged_at, source)


def _proven(at: datetime, source: str) -> Bracket:
    return Bracket(at, source, Finding.holds(Code.TIME_NOT_BEFORE, f"the claim holds {source}"))


def _none(said: str) -> Bracket:
    return Bracket(None, None, Finding.fails(Code.TIME_NOT_BEFORE, said))
