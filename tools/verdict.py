"""Evidence to headline; pure.

The worst proven fact decides. A detector's score is no argument of anything
here: it cannot raise or lower what is proven, because it is not in the room.
"""

from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum
from typing import NoReturn

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
    Window,
)


class Headline(StrEnum):
    """One stable code for one file."""

    INTACT_SIGNER_RECOGNISED = "INTACT_SIGNER_RECOGNISED"
    INTACT_SIGNER_UNKNOWN = "INTACT_SIGNER_UNKNOWN"
    SIGNED_PARTLY_COVERED = "SIGNED_PARTLY_COVERED"
    SIGNED_HISTORY_PROBLEM = "SIGNED_HISTORY_PROBLEM"
    SIGNER_EXPIRED_TIME_UNPROVEN = "SIGNER_EXPIRED_TIME_UNPROVEN"
    SIGNER_REVOKED = "SIGNER_REVOKED"
    SIGNER_REJECTED = "SIGNER_REJECTED"
    CHANGED_AFTER_SIGNING = "CHANGED_AFTER_SIGNING"
    MATCHES_RECORDED_CAPTURE = "MATCHES_RECORDED_CAPTURE"
    CREDENTIALS_ELSEWHERE = "CREDENTIALS_ELSEWHERE"
    CREDENTIALS_UNREADABLE = "CREDENTIALS_UNREADABLE"
    NO_CREDENTIALS = "NO_CREDENTIALS"
    NOT_CHECKED = "NOT_CHECKED"


class Ledger(StrEnum):
    """What our ledger, or a receipt, says of this asset."""

    INCLUDED = "included"
    SIMILAR = "similar capture known"
    UNKNOWN = "unknown"
    CONFLICTING = "conflicting entry"
    NOT_CHECKED = "not checked"


@dataclass(frozen=True, slots=True)
class Recorded:
    """What was found in a ledger, and where."""

    state: Ledger
    index: int | None = None
    logged_at: datetime | None = None
    origin: str | None = None
    issued_index: int | None = None
    custody: Custody | None = None
    findings: tuple[Finding, ...] = ()
    not_before: datetime | None = None
    not_before_source: str | None = None
    withdrawn_since: datetime | None = None
    """Since when this home itself says that the certificate is not to be believed, whatever lists are at hand."""
    place: str | None = None
    """Where in its device's chain of captures the file stands, in words; only the device's own service knows."""


@dataclass(frozen=True, slots=True)
class Obstacle:
    """Why a file could not be checked at all, and what to do."""

    code: str
    reason: str
    remedy: str


@dataclass(frozen=True, slots=True)
class Verdict:
    """Evidence and the headline it leads to."""

    headline: Headline
    provenance: Provenance | None
    recorded: Recorded
    obstacle: Obstacle | None

    def __bool__(self) -> NoReturn:
        """A verdict has no truth value."""
        raise TypeError("a verdict is not a yes or no; read its headline")


def decide(provenance: Provenance | None, recorded: Recorded, obstacle: Obstacle | None) -> Verdict:
    """Put the headline beside the evidence it follows from."""
    if provenance is None:
        return Verdict(Headline.NOT_CHECKED, None, recorded, obstacle)
    provenance = _withdrawn_here(_bracketed(provenance, recorded), recorded)
    provenance = _by_ledger(provenance, recorded)
    return Verdict(headline(provenance, recorded.state), provenance, recorded, obstacle)


def _bracketed(found: Provenance, recorded: Recorded) -> Provenance:
    """The window's lower side. Where it contradicts the upper one neither counts: nobody knows which clock was wrong."""
    since, until = recorded.not_before, found.time.not_after
    if since is None or found.signature is not Signature.VALID:
        return found
    if until is not None and since > until:
        said = (
            f"the claim holds a checkpoint of {since:%Y-%m-%d %H:%M:%S} UTC, and its time-stamp token"
            f" is of before, {until:%Y-%m-%d %H:%M:%S} UTC: one of the two clocks was wrong"
        )
        undated = replace(
            found, time=Window(), findings=(*found.findings, Finding.fails(Code.TIME_NOT_BEFORE, said))
        )
        if found.revocation.state is not Revocation.SIGNED_BEFORE:
            return undated
        facts = replace(found.revocation, state=Revocation.REVOKED_TIME_UNKNOWN)
        return replace(undated, signer=Signer.REVOKED, revocation=facts)
    window = replace(found.time, not_before=since, source_before=recorded.not_before_source)
    return replace(found, time=window)


def _withdrawn_here(found: Provenance, recorded: Recorded) -> Provenance:
    """What the home's own registry says, where the lists that were at hand do not say it yet, or no longer."""
    since, until = recorded.withdrawn_since, found.time.not_after
    if since is None or found.signer is not Signer.RECOGNISED:
        return found
    if found.revocation.state not in (Revocation.GOOD, Revocation.NOT_CHECKED):
        return found
    said = (
        f"by this home's own registry the certificate was withdrawn and is not to be believed since"
        f" {since:%Y-%m-%d %H:%M:%S} UTC"
    )
    facts = replace(found.revocation, since=since, explanation=said, source="this home's registry")
    if until is not None and until < since:
        return replace(found, revocation=replace(facts, state=Revocation.SIGNED_BEFORE))
    state = Revocation.REVOKED_TIME_UNKNOWN if until is None else Revocation.REVOKED
    return replace(found, signer=Signer.REVOKED, revocation=replace(facts, state=state))


def _by_ledger(found: Provenance, recorded: Recorded) -> Provenance:
    """A withdrawn certificate's signature that the ledger recorded before, where no token says when it was made.

    Our own rule, and shown as such: the ledger's clock is its operator's word, and other verifiers,
    which do not know the ledger, will say that the signer was withdrawn.
    """
    facts, since, logged_at = found.revocation, found.revocation.since, recorded.logged_at
    if facts.state is not Revocation.REVOKED_TIME_UNKNOWN or recorded.state is not Ledger.INCLUDED:
        return found
    if since is None or logged_at is None or logged_at >= since:
        return found
    said = (
        f"the certificate was withdrawn and is not to be believed since {since:%Y-%m-%d %H:%M:%S} UTC; the ledger"
        f" recorded this signature before, on {logged_at:%Y-%m-%d %H:%M:%S} UTC by its own clock"
    )
    return replace(
        found,
        signer=Signer.RECOGNISED,
        revocation=replace(facts, state=Revocation.SIGNED_BEFORE_BY_LEDGER, explanation=said),
    )


def headline(found: Provenance, ledger: Ledger) -> Headline:
    """Name the worst proven fact. The ledger speaks only where the file itself is silent."""
    match found.credentials:
        case Credentials.NONE:
            if ledger in (Ledger.INCLUDED, Ledger.SIMILAR):
                return Headline.MATCHES_RECORDED_CAPTURE
            return Headline.NO_CREDENTIALS
        case Credentials.ELSEWHERE:
            return Headline.CREDENTIALS_ELSEWHERE
        case Credentials.UNREADABLE:
            return Headline.CREDENTIALS_UNREADABLE
        case Credentials.PRESENT:
            return _signed(found)


def _signed(found: Provenance) -> Headline:
    if found.signature is not Signature.VALID or found.content in (Content.CHANGED, Content.NOT_BOUND, None):
        return Headline.CHANGED_AFTER_SIGNING
    match found.signer:
        case Signer.REVOKED:
            return Headline.SIGNER_REVOKED
        case Signer.WRONG_KIND:
            return Headline.SIGNER_REJECTED
        case Signer.EXPIRED_TIME_UNPROVEN:
            return _flawed(found) or Headline.SIGNER_EXPIRED_TIME_UNPROVEN
        case Signer.NOT_RECOGNISED | None:
            return _flawed(found) or Headline.INTACT_SIGNER_UNKNOWN
        case Signer.RECOGNISED:
            return _flawed(found) or Headline.INTACT_SIGNER_RECOGNISED


def _flawed(found: Provenance) -> Headline | None:
    """A flaw of the record itself is worse than a signer whom no list names."""
    if found.content is Content.PARTLY_COVERED:
        return Headline.SIGNED_PARTLY_COVERED
    if found.history is History.PROBLEM:
        return Headline.SIGNED_HISTORY_PROBLEM
    return None


def exit_status(head: Headline) -> int:
    """The process's answer, so that a script need not read the sentence."""
    match head:
        case Headline.INTACT_SIGNER_RECOGNISED:
            return 0
        case Headline.NO_CREDENTIALS | Headline.MATCHES_RECORDED_CAPTURE:
            return 10
        case Headline.INTACT_SIGNER_UNKNOWN | Headline.SIGNER_EXPIRED_TIME_UNPROVEN:
            return 11
        case (
            Headline.CHANGED_AFTER_SIGNING | Headline.SIGNED_PARTLY_COVERED | Headline.SIGNED_HISTORY_PROBLEM
        ):
            return 12
        case Headline.SIGNER_REVOKED | Headline.SIGNER_REJECTED:
            return 13
        case Headline.CREDENTIALS_UNREADABLE | Headline.CREDENTIALS_ELSEWHERE:
            return 14
        case Headline.NOT_CHECKED:
            return 15


def sentence(head: Headline) -> str:
    """The headline in plain words."""
    return _SENTENCES[head]


_SENTENCES = {
    Headline.INTACT_SIGNER_RECOGNISED: "Unchanged since it was signed",
    Headline.INTACT_SIGNER_UNKNOWN: "Unchanged since it was signed, but we do not know the signer",
    Headline.SIGNED_PARTLY_COVERED: "Signed, but the signature does not cover the whole file",
    Headline.SIGNED_HISTORY_PROBLEM: "Unchanged since it was signed, but an earlier version of it does not check out",
    Headline.SIGNER_EXPIRED_TIME_UNPROVEN: (
        "Unchanged, but the certificate is out of date and no time is proven at which it was valid"
    ),
    Headline.SIGNER_REVOKED: "Signed, but the signer was withdrawn",
    Headline.SIGNER_REJECTED: "Signed with a certificate that may not sign media",
    Headline.CHANGED_AFTER_SIGNING: "Changed after it was signed, or damaged",
    Headline.MATCHES_RECORDED_CAPTURE: "No signed record in this file, but the ledger knows these exact bytes",
    Headline.CREDENTIALS_ELSEWHERE: "The signed record is kept elsewhere and was not fetched",
    Headline.CREDENTIALS_UNREADABLE: "The signed record is damaged and cannot be read",
    Headline.NO_CREDENTIALS: "No signed record in this file; that says nothing about truth",
    Headline.NOT_CHECKED: "This file was not checked",
}


def not_proven(head: Headline) -> tuple[str, ...]:
    """What the headline does not say; it stands beside it, always."""
    match head:
        case (
            Headline.NO_CREDENTIALS
            | Headline.CREDENTIALS_ELSEWHERE
            | Headline.CREDENTIALS_UNREADABLE
            | Headline.NOT_CHECKED
        ):
            return (
                "that the picture shows what happened, or that it does not",
                "where the file comes from",
                "that it was ever signed, or never was",
            )
        case Headline.CHANGED_AFTER_SIGNING:
            return (
                "who changed it, why, or whether the change matters: an edit, a new save or damage look the same",
                "that the picture shows what happened, or that it does not",
            )
        case Headline.MATCHES_RECORDED_CAPTURE:
            return (
                "that the scene is true",
                "who removed the signed record, or why; many sites remove it",
                "the place and the device's own clock",
            )
        case _:
            return (
                "that the scene is true",
                "who held the device",
                "the place",
                "the device's own clock",
            )
