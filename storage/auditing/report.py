"""What an audit finds: stable codes, one sentence each, and never more of them than one can read."""

from dataclasses import dataclass, field
from enum import StrEnum

from storage.auditing.state import AuditState

MAX_FINDINGS = 1000


class Code(StrEnum):
    """The stable name of one way in which a ledger contradicts itself."""

    ENTRY_MISSING = "entry.missing"
    ENTRY_EXTRA = "entry.extra"
    ENTRY_LEAF = "entry.leaf"
    ENTRY_MALFORMED = "entry.malformed"
    ENTRY_TIME = "entry.time"
    SUBMISSION_DIFFERS = "submission.differs"
    SUBMISSION_EXTRA = "submission.extra"
    SECRET_COMMITMENT = "secret.commitment"  # noqa: S105 - a name
    SECRET_MISSING = "secret.missing"  # noqa: S105 - a name
    SECRET_ORPHAN = "secret.orphan"  # noqa: S105 - a name
    ERASURE_UNFINISHED = "erasure.unfinished"
    LOOKUP_FALSE = "lookup.false"
    LOOKUP_MISSING = "lookup.missing"
    TILE_MISSING = "tile.missing"
    TILE_DIFFERS = "tile.differs"
    TILE_EXTRA = "tile.extra"
    CHECKPOINT_MALFORMED = "checkpoint.malformed"
    CHECKPOINT_SIGNATURE = "checkpoint.signature"
    CHECKPOINT_SIZE = "checkpoint.size"
    CHECKPOINT_ROOT = "checkpoint.root"
    CHECKPOINT_TIME = "checkpoint.time"
    CHECKPOINT_MISSING = "checkpoint.missing"
    WITNESSED_DIFFERS = "witnessed.differs"
    HEAD_SIZE = "head.size"
    HEAD_ROOT = "head.root"
    HEAD_FRONTIER = "head.frontier"
    HEAD_TIME = "head.time"
    HEAD_FROZEN = "head.frozen"
    HISTORY_FORGOTTEN = "history.forgotten"
    PROTECTION_DIFFERS = "protection.differs"


@dataclass(frozen=True, slots=True)
class Divergence:
    """One contradiction. `index` is the entry's, the checkpoint's size, or the tile's first leaf."""

    code: Code
    index: int
    explanation: str


@dataclass(slots=True)
class Findings:
    """What was found so far; past `MAX_FINDINGS` it only counts."""

    kept: list[Divergence] = field(default_factory=list)
    omitted: int = 0

    def add(self, code: Code, index: int, explanation: str) -> None:
        """Keep one more contradiction, or count it."""
        if len(self.kept) < MAX_FINDINGS:
            self.kept.append(Divergence(code, index, explanation))
        else:
            self.omitted += 1


@dataclass(frozen=True, slots=True)
class AuditReport:
    """What the entries add up to, and where the ledger says otherwise, in order of discovery.

    `start` is where the audit began, `unopened` counts payloads that were there and for
    which it was given no keys; `state` is where a later audit may go on. While payloads are
    unopened, nobody looked at what they say: at lookups and erasures, whether the log was frozen
    by an entry, and which keys had to sign since a rotation.
    """

    origin: str
    size: int
    root: bytes
    findings: tuple[Divergence, ...]
    omitted: int
    start: int = 0
    unopened: int = 0
    state: AuditState | None = None

    @property
    def first(self) -> Divergence | None:
        """The first divergence; those after it may only be its consequences."""
        return self.findings[0] if self.findings else None
