"""One verdict as data: a file's report, and its JSON, which `report.schema.json` describes.

Each form says the same in the same order: what is proven, what the signer says,
what a detector estimates. The text is `report_text`, the page is `report_page`.
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from pathlib import Path
from typing import Any

from authn.evidence import (
    CertificateFacts,
    Credentials,
    Finding,
    Identity,
    RevocationFacts,
    Signature,
    Signer,
    Step,
    Window,
)
from authn.plain import plain
from tools.contradictions import Contradiction
from tools.verdict import Headline, Verdict, not_proven, sentence

SCHEMA = "lightseal-report/1"


@dataclass(frozen=True, slots=True)
class Engine:
    """What it takes to compute the verdict again: versions, lists by digest, the moment."""

    version: str
    sdk: str
    lists: tuple[tuple[str, str, str], ...]
    checked_at: datetime
    judged_at: datetime
    statuses: str | None = None
    """SHA-256 (hex) of the CRLs and OCSP answers that were used, if any were."""
    sidecar: str | None = None
    """SHA-256 (hex) of the record that lay beside the file, if it was read from there."""


@dataclass(frozen=True, slots=True)
class Acceptance:
    """How a file stands against somebody's policy, which the digest names. It changes no headline."""

    name: str
    sha256: bytes
    findings: tuple[Finding, ...]

    @property
    def met(self) -> bool:
        """Whether nothing that the policy requires is missing."""
        return all(finding.passed for finding in self.findings)


class Signs(StrEnum):
    """What a detector may say of a picture; it has no word for the absence of doubt."""

    NOT_RUN = "not run"
    SYNTHESIS = "signs of synthesis"
    INCONCLUSIVE = "inconclusive"
    NONE_FOUND = "no signs found"
    NOT_APPLICABLE = "not applicable"


@dataclass(frozen=True, slots=True)
class Estimate:
    """A detector's answer and what it rests on, beside a verdict that was reached without it."""

    state: Signs
    reason: str


NO_ESTIMATE = Estimate(Signs.NOT_RUN, "no model is installed")


@dataclass(frozen=True, slots=True)
class Report:
    """One file's verdict, ready to hand on."""

    file: str
    sha256: str | None
    size: int | None
    kind: str | None
    verdict: Verdict
    engine: Engine
    contradictions: tuple[Contradiction, ...] = ()
    acceptance: Acceptance | None = None
    notes: tuple[Finding, ...] = ()
    """Findings about the examination itself: lists that are out of date, addresses that were asked."""
    estimate: Estimate = NO_ESTIMATE


def iso(moment: datetime | None) -> str | None:
    """RFC 3339, UTC."""
    return None if moment is None else moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def iso_no_later(moment: datetime | None) -> str | None:
    """As `iso`, rounded up: a bound that was cut off would claim more than is proven."""
    return None if moment is None else iso(moment + timedelta(microseconds=999_999))


def shown(name: str | Path) -> str:
    """A file's name on one line: nothing hides or reorders it, and bytes that are no UTF-8 show as escapes."""
    return plain(str(name).encode("utf-8", "backslashreplace").decode(), 1000)


def signer_name(certificate: CertificateFacts) -> str:
    """What a certificate calls its holder; it need not have a common name."""
    return certificate.name or certificate.organisation or "a signer without a name"


def speaker(verdict: Verdict) -> str:
    """In whose name a claim is repeated; a name counts only when a list recognises it."""
    found = verdict.provenance
    if found is None or found.certificate is None or found.signature is not Signature.VALID:
        return "somebody whose signature does not hold"
    if found.signer is not Signer.RECOGNISED:
        return "an unrecognised signer"
    if verdict.headline is Headline.CHANGED_AFTER_SIGNING:
        return f"{signer_name(found.certificate)} (about the file as it was signed)"
    return signer_name(found.certificate)


def as_json(report: Report) -> str:
    """One line of ASCII: any file name survives, even one that is not UTF-8."""
    return json.dumps(as_dict(report), separators=(",", ":"))


def as_dict(report: Report) -> dict[str, Any]:
    """The report in the shape of `report.schema.json`."""
    verdict = report.verdict
    found, recorded = verdict.provenance, verdict.recorded
    return {
        "schema": SCHEMA,
        "file": report.file,
        "sha256": report.sha256,
        "size": report.size,
        "type": report.kind,
        "headline": verdict.headline.value,
        "says": sentence(verdict.headline),
        "proven": _proven(report),
        "claims": _claims(report),
        "detector": {"state": report.estimate.state.value, "reason": report.estimate.reason},
        "not_proven": list(not_proven(verdict.headline)),
        "policy": _policy(report.acceptance),
        "findings": _findings((*(found.findings if found else ()), *recorded.findings, *report.notes)),
        "problem": None
        if verdict.obstacle is None
        else {
            "code": verdict.obstacle.code,
            "reason": verdict.obstacle.reason,
            "remedy": verdict.obstacle.remedy,
        },
        "engine": {
            "version": report.engine.version,
            "c2pa": report.engine.sdk,
            "lists": [
                {"name": name, "purpose": purpose, "sha256": digest}
                for name, purpose, digest in report.engine.lists
            ],
            "checked_at": iso(report.engine.checked_at),
            "judged_at": iso(report.engine.judged_at),
            "statuses": report.engine.statuses,
            "sidecar": report.engine.sidecar,
        },
    }


def _findings(findings: Iterable[Finding]) -> list[dict[str, Any]]:
    return [
        {
            "code": finding.code.value,
            "passed": finding.passed,
            "panel": finding.panel.value,
            "explanation": finding.explanation,
        }
        for finding in findings
    ]


def _policy(acceptance: Acceptance | None) -> dict[str, Any] | None:
    if acceptance is None:
        return None
    return {
        "name": acceptance.name,
        "sha256": acceptance.sha256.hex(),
        "met": acceptance.met,
        "findings": _findings(acceptance.findings),
    }


def _proven(report: Report) -> dict[str, Any]:
    found, recorded = report.verdict.provenance, report.verdict.recorded
    certificate = found.certificate if found else None
    claimed = found.claim_time if found else Window()
    return {
        "credentials": found.credentials.value if found else None,
        "content": found.content.value if found and found.content else None,
        "signature": found.signature.value if found and found.signature else None,
        "signer": {
            "state": found.signer.value if found and found.signer else None,
            "name": certificate.name if certificate else None,
            "organisation": certificate.organisation if certificate else None,
            "list": found.signer_list if found else None,
            "certificate_sha256": certificate.sha256 if certificate else None,
        },
        "time": _window(found.time if found else Window())
        | {"claim_not_after": iso_no_later(claimed.not_after), "claim_source": claimed.source},
        "revocation": _revocation(found.revocation if found else RevocationFacts()),
        "history": {
            "state": found.history.value if found else "none",
            "redacted": list(found.redacted) if found else [],
            "steps": [_step(step) for step in found.steps] if found else [],
        },
        "ledger": {
            "state": recorded.state.value,
            "entry": recorded.index,
            "logged_at": iso(recorded.logged_at),
            "origin": recorded.origin,
            "issuance": recorded.issued_index,
        },
        "chain": recorded.place,
        "custody": recorded.custody.value if recorded.custody else None,
        "asset": {
            "claim_sha256": found.identity.claim.hex(),
            "binding": found.identity.binding.hex(),
        }
        if found and found.identity
        else None,
    }


def _window(window: Window) -> dict[str, Any]:
    return {
        "not_before": iso(window.not_before),
        "not_after": iso_no_later(window.not_after),
        "source": window.source,
        "source_before": window.source_before,
    }


def _revocation(facts: RevocationFacts) -> dict[str, Any]:
    return {
        "state": facts.state.value,
        "as_of": iso(facts.as_of),
        "since": iso(facts.since),
        "reason": facts.reason,
        "source": facts.source,
        "explanation": facts.explanation,
        "complete": facts.complete,
    }


def _step(step: Step) -> dict[str, Any]:
    """Never with its picture, which belongs on a page."""
    return {
        "title": step.title,
        "relationship": step.relationship,
        "credentials": step.credentials.value,
        "signer": step.signer.name if step.signer else None,
        "recognised": step.recognised,
        "list": step.signer_list,
        "time": _window(step.time),
        "revocation": _revocation(step.revocation),
        "recorded": list(step.recorded),
        "recomputed": list(step.recomputed),
        "problems": list(step.problems),
        "redacted": list(step.redacted),
        "notes": list(step.notes),
        "steps": [_step(inner) for inner in step.steps],
    }


def _claims(report: Report) -> dict[str, Any] | None:
    found = report.verdict.provenance
    if found is None or found.credentials is not Credentials.PRESENT:
        return None
    claims = found.claims
    return {
        "speaker": speaker(report.verdict),
        "title": claims.title,
        "generator": claims.generator,
        "actions": list(claims.actions),
        "source_types": list(claims.source_types),
        "when": claims.claimed_at,
        "captured": list(claims.capture_times),
        "device": claims.device,
        "place": claims.place,
        "author": claims.author,
        "training": list(claims.training),
        "gathered": list(claims.gathered),
        "left_out": claims.left_out,
        "contradictions": [
            {"subject": each.subject, "one": each.one, "other": each.other, "sentence": each.sentence}
            for each in report.contradictions
        ],
        "identities": [_identity(identity) for identity in found.identities],
    }


def _identity(identity: Identity) -> dict[str, Any]:
    return {
        "kind": identity.kind,
        "name": identity.name,
        "organisation": identity.organisation,
        "issuer": identity.issuer,
        "list": identity.list,
        "problem": identity.problem,
        "covers": list(identity.covers),
    }
