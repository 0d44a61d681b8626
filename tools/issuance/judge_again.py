"""Judge all the evidence that is kept once more, by the rules and the status list that are there now.

A label that fell stays down: the device's until it is pinned anew, and the key's for ever.
"""

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import ClassVar

from authn.attestation.judgement import Judgement, Rule
from authn.attestation.status_list import MAX_BYTES, StatusList, StatusListError
from authn.errors import EvidenceError
from authn.evidence import Custody
from storage.registry.registry import Registry
from storage.registry.rows import Status, StoredEvidence
from tools.check import bounded
from tools.errors import UsageError
from tools.home import Home
from tools.issuance.enrolment import Statement
from tools.issuance.judging import STATUS_LIST, Judging
from tools.issuance.registration import broken_rules
from tools.output import put_whole

_STEP = 200
_STANDING = frozenset({Status.ACTIVE, Status.SUSPENDED})


class UndatedListError(UsageError):
    """Nobody says, or two say differently, of when a status list is."""

    code: ClassVar[str] = "status-list-undated"
    remedy: ClassVar[str] = (
        "Give the moment it was fetched with --fetched; a list with a date of its own needs none."
    )


class FutureListError(UsageError):
    """A status list is dated after now."""

    code = "status-list-from-future"
    remedy = (
        "Give the moment at which the list was fetched, with its time zone; and look at this machine's clock."
    )


class OlderListError(UsageError):
    """A status list is older than the one in use."""

    code = "status-list-older"
    remedy = "Fetch the list again; with --older this one is used all the same."


@dataclass(frozen=True, slots=True)
class Change:
    """That a piece of evidence proves something else than before."""

    device: str
    kind: str
    before: str
    after: str
    why: str


def read_status_list(path: Path, fetched: datetime | None, at: datetime) -> StatusList:
    """A list as its publisher writes it, of the moment it was fetched; or one as we keep them, of its own date."""
    data = bounded(path, MAX_BYTES, "status list")
    try:
        status = StatusList.parse(data)
    except StatusListError:
        status = StatusList.published(data, at if fetched is None else fetched)
        if fetched is None:
            raise UndatedListError(f"{path} has no date of its own in the form that we write") from None
    if fetched is not None and status.dated != fetched.replace(microsecond=0):
        raise UndatedListError(f"{path} says itself that it is of {_said(status.dated)}")
    if status.dated > at:
        raise FutureListError(f"{_said(status.dated)} is still to come; now is {_said(at)}")
    return status


def require_not_older(home: Home, status: StatusList) -> None:
    """Refuse to go back behind the list in use, which may withdraw what an older one does not yet."""
    if (used := Judging.of_home(home).status).dated > status.dated:
        raise OlderListError(
            f"the list is of {_said(status.dated)}, and the one in use of {_said(used.dated)}"
        )


def use_status_list(home: Home, status: StatusList) -> None:
    """Enrol and judge by this list from now on."""
    put_whole(home.path / STATUS_LIST, status.encode())


def judge_again(home: Home, at: datetime) -> tuple[Change, ...]:
    """Judge each piece as of the moment it came; a device whose evidence fell becomes suspect."""
    judging = Judging.of_home(home)
    changes = []
    with home.registry() as registry:
        after = 0
        while found := registry.evidence_after(after, _STEP):
            for stored in found:
                change = _judged(registry, judging, stored, at)
                if change is not None:
                    changes.append(change)
            after = found[-1].id
    return tuple(changes)


def _said(at: datetime) -> str:
    return f"{at:%Y-%m-%d %H:%M:%S} UTC"


def _judged(registry: Registry, judging: Judging, stored: StoredEvidence, at: datetime) -> Change | None:
    device = registry.device(stored.device)
    statement = Statement.read(stored.data, registry.product(device.product).rules)
    try:
        judgement = judging.again(statement.evidence, statement.question, statement.judged_at)
    except EvidenceError as error:
        judgement = Judgement(Custody.E0, b"", b"", (Rule("unreadable", str(error)),))
    broken = broken_rules(judgement)
    if (judgement.custody.value, broken) == (stored.custody, stored.broken):
        return None
    why = "; ".join(f"{rule.name}: {rule.explanation}" for rule in judgement.broken) or "no rule is broken"
    if judgement.custody < Custody(stored.custody) and device.status in _STANDING:
        registry.set_status(device.name, Status.SUSPECT, at, f"its evidence fell: {why}"[:200])
    # Last: what a crash leaves undone before, is found again by the next run.
    registry.rejudge(stored.id, judgement.custody.value, at, broken)
    return Change(device.name, stored.kind, stored.custody, judgement.custody.value, why)
