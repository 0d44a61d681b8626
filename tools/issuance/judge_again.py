"""Judge all the evidence that is kept once more, by the rules and the status list that are there now."""

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from authn.attestation.judgement import Judgement, Rule
from authn.attestation.status_list import MAX_BYTES, StatusList
from authn.errors import EvidenceError
from authn.evidence import Custody
from storage.registry.registry import Registry
from storage.registry.rows import Status, StoredEvidence
from tools.errors import UnreadableError
from tools.home import Home
from tools.issuance.enrolment import Statement
from tools.issuance.judging import STATUS_LIST, Judging
from tools.issuance.registration import broken_rules
from tools.output import put_whole

_STEP = 200
_STANDING = frozenset({Status.ACTIVE, Status.SUSPENDED})


@dataclass(frozen=True, slots=True)
class Change:
    """That a piece of evidence proves something else than before."""

    device: str
    kind: str
    before: str
    after: str
    why: str


def install_status_list(home: Home, published: Path, at: datetime) -> datetime:
    """Take a list as its publisher writes it, fetched now, and use it from now on."""
    try:
        with published.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise UnreadableError(f"{published} cannot be read ({error.strerror})") from error
    status = StatusList.published(data, at)
    put_whole(home.path / STATUS_LIST, status.encode())
    return status.dated


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
    registry.rejudge(stored.id, judgement.custody.value, at, broken)
    why = "; ".join(f"{rule.name}: {rule.explanation}" for rule in judgement.broken) or "no rule is broken"
    if judgement.custody < Custody(stored.custody) and device.status in _STANDING:
        registry.set_status(device.name, Status.SUSPECT, at, f"its evidence fell: {why}"[:200])
    return Change(device.name, stored.kind, stored.custody, judgement.custody.value, why)
