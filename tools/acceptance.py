"""What somebody requires beyond the headline, held against what was proven.

A policy is a small TOML file of the examiner's own:

    [require]
    time = true                     # a proven time window
    ledger = "included"             # an entry for this very signature, proven
    revocation = "checked"          # or "good"
    custody = "E1"                  # at least; E0, E1, E2 or E3
    history = "complete"            # or "no problem"
    signer-lists = ["newsroom"]     # the signer is recognised by one of these

Every key is optional, one at least must require something, and an unknown key is
refused: a requirement that was misspelt must not pass for one that is met.
`revocation = "good"` wants the issuers' word that nothing below the anchor was withdrawn; "checked"
also takes a signature that is older than the withdrawal, even if only the ledger's
clock says so. `history = "complete"` wants every earlier version judged, or none
recorded; "no problem" also takes versions without credentials.

Pure. A policy never changes the headline, and meeting one proves nothing more than
the findings it names.
"""

import hashlib
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, TypeVar

from authn.evidence import (
    Code,
    Content,
    Credentials,
    Custody,
    Finding,
    History,
    Provenance,
    Revocation,
    Signature,
    Signer,
)
from authn.plain import plain
from tools.errors import UsageError
from tools.verdict import Ledger as LedgerState
from tools.verdict import Recorded

MAX_POLICY_BYTES = 64 << 10
MAX_LISTS = 64
MAX_LIST_NAME = 100


class PolicyError(UsageError):
    """The policy file cannot be used, so nothing was held against it."""

    code = "policy-malformed"
    remedy = (
        "Mend the policy file as the sentence says: under [require] it may have time, ledger, revocation,"
        " custody, history and signer-lists."
    )


class RequiredRevocation(StrEnum):
    """How much must be known of withdrawals."""

    GOOD = "good"
    CHECKED = "checked"


class RequiredHistory(StrEnum):
    """How much must be known of earlier versions."""

    COMPLETE = "complete"
    NO_PROBLEM = "no problem"


class RequiredLedger(StrEnum):
    """What the ledger must say."""

    INCLUDED = "included"


@dataclass(frozen=True, slots=True)
class AcceptancePolicy:
    """What is required; `sha256` is the digest of the file it came from. None and empty require nothing."""

    name: str
    sha256: bytes
    time: bool = False
    ledger: RequiredLedger | None = None
    revocation: RequiredRevocation | None = None
    custody: Custody | None = None
    history: RequiredHistory | None = None
    signer_lists: tuple[str, ...] = ()

    @classmethod
    def parse(cls, data: bytes, name: str) -> "AcceptancePolicy":
        """Read a policy; whatever it does not define is refused."""
        required = _required(data)
        unknown = sorted(set(required) - _KEYS)
        if unknown:
            raise PolicyError(
                f"the policy has a key {unknown[0][:40]!r}, which is none of {', '.join(sorted(_KEYS))}"
            )
        policy = cls(
            plain(name, MAX_LIST_NAME),
            hashlib.sha256(data).digest(),
            _flag(required, "time"),
            _choice(required, "ledger", RequiredLedger),
            _choice(required, "revocation", RequiredRevocation),
            _choice(required, "custody", Custody),
            _choice(required, "history", RequiredHistory),
            _names(required, "signer-lists"),
        )
        if not any(_requirements(policy)):
            raise PolicyError("the policy requires nothing, so every file would meet it")
        return policy


_KEYS = frozenset({"time", "ledger", "revocation", "custody", "history", "signer-lists"})


# What was found instead of what is required; empty where the requirement is met.
_Check = Callable[[Provenance, Recorded], str]


def unmet(policy: AcceptancePolicy, provenance: Provenance | None, recorded: Recorded) -> tuple[Finding, ...]:
    """One failing finding for each requirement that is not met, or one that holds."""
    missing: list[Finding] = []
    for wanted, check in _requirements(policy):
        if provenance is None:
            instead = "the file was not checked"
        else:
            instead = _groundless(provenance) or check(provenance, recorded)
        if instead:
            said = f"the policy {policy.name} requires {wanted}; {instead}"
            missing.append(Finding.fails(Code.POLICY_MET, said))
    return tuple(missing) or (
        Finding.holds(Code.POLICY_MET, f"every requirement of the policy {policy.name} is met"),
    )


def _groundless(found: Provenance) -> str:
    """Why nothing can be met: what stands beside a signature that does not hold is nobody's."""
    if found.credentials is not Credentials.PRESENT:
        return "the file has no signed record that could be read"
    if found.signature is not Signature.VALID:
        return "the file's signature does not hold"
    if found.content in (Content.CHANGED, Content.NOT_BOUND, None):
        return "the file is not what was signed"
    return ""


def _requirements(policy: AcceptancePolicy) -> Iterator[tuple[str, _Check]]:
    """Each requirement in words, with the check that is made of it."""
    if policy.time:
        yield "a proven time", _check_time
    if policy.ledger is not None:
        yield "a ledger entry for this very signature", _check_ledger
    if policy.revocation is not None:
        wanted = policy.revocation
        yield f"revocation that is {wanted.value}", lambda found, _: _check_revocation(wanted, found)
    if policy.custody is not None:
        least = policy.custody
        yield f"a key of custody {least.value} or more", lambda _, recorded: _check_custody(least, recorded)
    if policy.history is not None:
        allowed = _HISTORY[policy.history]
        yield (
            f"{policy.history.value} in the history",
            lambda found, _: "" if found.history in allowed else f"the history is: {found.history.value}",
        )
    if names := policy.signer_lists:
        yield f"a signer on the list {' or '.join(names)}", lambda found, _: _check_signer(names, found)


def _check_revocation(wanted: RequiredRevocation, found: Provenance) -> str:
    facts = found.revocation
    spoken_for = facts.complete or wanted is not RequiredRevocation.GOOD
    return "" if facts.state in _REVOCATION[wanted] and spoken_for else facts.explanation


def _check_time(found: Provenance, _: Recorded) -> str:
    return "" if found.time.not_after is not None else "no time is proven"


def _check_ledger(_: Provenance, recorded: Recorded) -> str:
    return "" if recorded.state is LedgerState.INCLUDED else f"the ledger's answer is: {recorded.state.value}"


def _check_custody(least: Custody, recorded: Recorded) -> str:
    if recorded.custody is None:
        return "nothing is known of where the key is kept"
    order = list(Custody)
    held = recorded.custody
    return "" if order.index(held) >= order.index(least) else f"the evidence is for {held.value}"


def _check_signer(names: tuple[str, ...], found: Provenance) -> str:
    if found.signer is not Signer.RECOGNISED or found.signer_list is None:
        return "no list recognises the signer"
    return "" if found.signer_list in names else f"the signer is on the list {plain(found.signer_list, 100)}"


_REVOCATION = {
    RequiredRevocation.GOOD: frozenset({Revocation.GOOD}),
    RequiredRevocation.CHECKED: frozenset(
        {Revocation.GOOD, Revocation.SIGNED_BEFORE, Revocation.SIGNED_BEFORE_BY_LEDGER}
    ),
}
_HISTORY = {
    RequiredHistory.COMPLETE: frozenset({History.COMPLETE, History.NONE}),
    RequiredHistory.NO_PROBLEM: frozenset(set(History) - {History.PROBLEM}),
}


# --- Reading


def _required(data: bytes) -> dict[str, Any]:
    if len(data) > MAX_POLICY_BYTES:
        raise PolicyError(f"the policy is larger than {MAX_POLICY_BYTES} bytes")
    try:
        document = tomllib.loads(data.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise PolicyError(f"the policy is not TOML ({plain(str(error), 120)})") from error
    strays = sorted(set(document) - {"require"})
    if strays:
        raise PolicyError(f"the policy has a part {strays[0][:40]!r}; all it may have is [require]")
    required = document.get("require")
    if not isinstance(required, dict):
        raise PolicyError("the policy has no part [require]")
    return required


def _flag(required: dict[str, Any], key: str) -> bool:
    value = required.get(key, False)
    if not isinstance(value, bool):
        raise PolicyError(f"{key} in the policy is neither true nor false")
    return value


_Choice = TypeVar("_Choice", bound=StrEnum)


def _choice(required: dict[str, Any], key: str, kind: type[_Choice]) -> _Choice | None:
    value = required.get(key)
    if value is None:
        return None
    if not isinstance(value, str) or value not in {member.value for member in kind}:
        allowed = " or ".join(f'"{member.value}"' for member in kind)
        raise PolicyError(f"{key} in the policy is not {allowed}")
    return kind(value)


def _names(required: dict[str, Any], key: str) -> tuple[str, ...]:
    if key not in required:
        return ()
    value = required[key]
    # A number can be too long and a table too deep to be written out: nothing but text is looked at.
    if not isinstance(value, list) or not all(isinstance(name, str) for name in value):
        raise PolicyError(f"{key} in the policy is not a list of names")
    if not 0 < len(value) <= MAX_LISTS or len(set(value)) != len(value):
        raise PolicyError(f"{key} in the policy is not a list of 1 to {MAX_LISTS} different names")
    if any(not name or plain(name, MAX_LIST_NAME) != name for name in value):
        raise PolicyError(f"{key} in the policy has something that is no list's name")
    return tuple(value)
