"""What a device sent to show where its key is kept, with what it was found to prove.

Types only. The verifiers beside this module are pure functions of the evidence,
an expectation and a moment: evidence that is kept can be judged again with a
newer status list or other rules, and gives the same answer to the same question.
"""

import hashlib
from dataclasses import dataclass
from enum import StrEnum

from authn.errors import EvidenceError
from authn.evidence import Custody

MAX_EVIDENCE = 256 * 1024


class Kind(StrEnum):
    """Whose word the evidence is."""

    NONE = "none"
    TPM = "tpm"
    ANDROID = "android-key"
    APP_ATTEST = "app-attest"


@dataclass(frozen=True, slots=True)
class Evidence:
    """The statement as the device sent it, unread; one format per kind, at most 256 KiB."""

    kind: Kind
    data: bytes

    def __post_init__(self) -> None:
        if len(self.data) > MAX_EVIDENCE:
            raise EvidenceError(f"the evidence has more than {MAX_EVIDENCE} bytes")

    @property
    def sha256(self) -> bytes:
        """The name under which the evidence is kept."""
        return hashlib.sha256(self.data).digest()


@dataclass(frozen=True, slots=True)
class Rule:
    """A rule that the evidence breaks, by its stable name, in one sentence."""

    name: str
    explanation: str


@dataclass(frozen=True, slots=True)
class Judgement:
    """What the evidence proves, at most `custody`; each rule it breaks is named.

    Evidence that must be refused has custody E0 and at least one broken rule.
    Evidence that only misses the highest label has a lower custody, and the
    rules that kept it there. A warning lowers nothing.
    """

    custody: Custody
    spki: bytes
    """The attested claim key, a SubjectPublicKeyInfo in DER; empty where the evidence attests no claim key."""
    pin: bytes
    """SHA-256 of what stays the same when the device enrols again; empty where nothing could be pinned."""
    broken: tuple[Rule, ...] = ()
    serials: tuple[str, ...] = ()
    """The certificate serials that were looked up in status lists, in lower-case hex without leading zeros."""
    warnings: tuple[Rule, ...] = ()
    pin_is_own: bool = False
    """Whether the pin is a key that only this device has; else a whole batch or line of devices shows the same."""

    @property
    def refused(self) -> bool:
        """Whether nothing may be issued on this evidence, whatever the product asks for."""
        return self.custody is Custody.E0 and bool(self.broken)

    def meets(self, minimum: Custody) -> bool:
        """Whether the evidence stands, and proves at least `minimum`."""
        return not self.refused and self.custody >= minimum
