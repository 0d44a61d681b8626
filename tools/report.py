"""One verdict as text, JSON or HTML.

Each form says the same in the same order: what is proven, what the signer says,
what a detector estimates. The JSON is described by `report.schema.json`.
"""

import errno
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from authn.evidence import Credentials, Custody, History, Signature, Signer, Step
from authn.plain import plain
from tools.errors import DiskFullError, OutputExistsError, UnwritableError
from tools.verdict import Headline, Verdict, not_proven, sentence

SCHEMA = "lightseal-report/1"
_PAGE_MARK = b"Lightseal report"


@dataclass(frozen=True, slots=True)
class Engine:
    """What it takes to compute the verdict again: versions, lists by digest, the moment."""

    version: str
    sdk: str
    lists: tuple[tuple[str, str, str], ...]
    checked_at: datetime
    judged_at: datetime


@dataclass(frozen=True, slots=True)
class Report:
    """One file's verdict, ready to hand on."""

    file: str
    sha256: str | None
    size: int | None
    kind: str | None
    verdict: Verdict
    engine: Engine


def iso(moment: datetime | None) -> str | None:
    """RFC 3339, UTC."""
    return None if moment is None else moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def iso_no_later(moment: datetime | None) -> str | None:
    """As `iso`, rounded up: a bound that was cut off would claim more than is proven."""
    return None if moment is None else iso(moment + timedelta(microseconds=999_999))


def shown(name: str | Path) -> str:
    """A file's name on one line: nothing hides or reorders it, and bytes that are no UTF-8 show as escapes."""
    return plain(str(name).encode("utf-8", "backslashreplace").decode(), 1000)


# --- JSON


def as_dict(report: Report) -> dict[str, Any]:
    """The report in the shape of `report.schema.json`."""
    verdict = report.verdict
    found, recorded = verdict.provenance, verdict.recorded
    findings = [*(found.findings if found else ()), *recorded.findings]
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
        "detector": {"state": "not run", "reason": "no model is installed"},
        "not_proven": list(not_proven(verdict.headline)),
        "findings": [
            {
                "code": finding.code.value,
                "passed": finding.passed,
                "panel": finding.panel.value,
                "explanation": finding.explanation,
            }
            for finding in findings
        ],
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
        },
    }


def _proven(report: Report) -> dict[str, Any]:
    found, recorded = report.verdict.provenance, report.verdict.recorded
    certificate = found.certificate if found else None
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
        "time": {
            "not_before": iso(found.time.not_before) if found else None,
            "not_after": iso_no_later(found.time.not_after) if found else None,
            "source": found.time.source if found else None,
        },
        "revocation": found.revocation.value if found else "not checked",
        "history": {
            "state": found.history.value if found else "none",
            "steps": [_step(step) for step in found.steps] if found else [],
        },
        "ledger": {
            "state": recorded.state.value,
            "entry": recorded.index,
            "logged_at": iso(recorded.logged_at),
            "origin": recorded.origin,
            "issuance": recorded.issued_index,
        },
        "custody": recorded.custody.value if recorded.custody else None,
        "asset": {
            "claim_sha256": found.identity.claim.hex(),
            "binding": found.identity.binding.hex(),
        }
        if found and found.identity
        else None,
    }


def _step(step: Step) -> dict[str, Any]:
    return {
        "title": step.title,
        "relationship": step.relationship,
        "credentials": step.credentials.value,
        "signer": step.signer.name if step.signer else None,
        "recognised": step.recognised,
        "problems": list(step.problems),
        "steps": [_step(inner) for inner in step.steps],
    }


def _claims(report: Report) -> dict[str, Any] | None:
    found = report.verdict.provenance
    if found is None or found.credentials is not Credentials.PRESENT:
        return None
    return {
        "speaker": _speaker(report.verdict),
        "title": found.claims.title,
        "generator": found.claims.generator,
        "actions": list(found.claims.actions),
        "source_types": list(found.claims.source_types),
        "when": found.claims.claimed_at,
    }


def _speaker(verdict: Verdict) -> str:
    """In whose name a claim is repeated; a name counts only when a list recognises it."""
    found = verdict.provenance
    if found is None or found.certificate is None or found.signature is not Signature.VALID:
        return "somebody whose signature does not hold"
    if found.signer is not Signer.RECOGNISED:
        return "an unrecognised signer"
    if verdict.headline is Headline.CHANGED_AFTER_SIGNING:
        return f"{found.certificate.name} (about the file as it was signed)"
    return found.certificate.name


# Plain words for what signers say most (C2PA 2.2, 18.14; IPTC digital source types).
_WORDS = {
    "c2pa.created": "created",
    "c2pa.opened": "opened",
    "c2pa.placed": "placed into another",
    "c2pa.edited": "edited",
    "c2pa.cropped": "cropped",
    "c2pa.color_adjustments": "colours adjusted",
    "c2pa.resized": "resized",
    "c2pa.published": "published",
    "digitalCapture": "captured with a camera or recorder",
    "trainedAlgorithmicMedia": "made by generative AI",
    "compositeWithTrainedAlgorithmicMedia": "partly made by generative AI",
}


def in_words(term: str) -> str:
    """A term of the standard in plain words, with the term itself."""
    return f"{_WORDS[term]} ({term})" if term in _WORDS else term


def as_json(report: Report) -> str:
    """One line of ASCII: any file name survives, even one that is not UTF-8."""
    return json.dumps(as_dict(report), separators=(",", ":"))


# --- Text


def as_text(report: Report) -> str:
    """The report as an examiner reads it on a terminal."""
    verdict = report.verdict
    lines = [f"{shown(report.file)}: {sentence(verdict.headline)}  [{verdict.headline.value}]"]
    lines += [f"  {label:<10} {text}" for label, text in (*proven_lines(report), *claimed_lines(report))]
    lines.append("  estimate   no detector was run; an estimate could not change what is proven")
    lines.append(f"  not proven: {'; '.join(not_proven(verdict.headline))}")
    if verdict.obstacle is not None:
        lines.append(f"  why        {verdict.obstacle.reason}  [{verdict.obstacle.code}]")
        lines.append(f"  next       {verdict.obstacle.remedy}")
    return "\n".join(lines)


def proven_lines(report: Report) -> tuple[tuple[str, str], ...]:
    """Label and sentence of each proven fact, best evidence first."""
    found, recorded = report.verdict.provenance, report.verdict.recorded
    if found is None:
        return ()
    lines: list[tuple[str, str]] = []
    if found.credentials is Credentials.PRESENT:
        lines.append(("content", found.content.value if found.content else "not known"))
        lines.append(("signature", found.signature.value if found.signature else "not known"))
        lines.append(("signer", _signer_line(report)))
        lines.append(("time", _time_line(report)))
        lines.append(("history", _HISTORY[found.history]))
        lines.append(("revocation", found.revocation.value))
    lines += [
        ("", finding.explanation)
        for finding in found.findings
        if not finding.passed and _worth_a_line(finding.code)
    ]
    if recorded.state.value != "not checked":
        why = "".join(f": {finding.explanation}" for finding in recorded.findings[:1])
        logged = f", logged {iso(recorded.logged_at)}" if recorded.logged_at else ""
        lines.append(("ledger", f"{recorded.state.value}{why}{logged}"))
    if found.credentials is Credentials.PRESENT:
        lines.append(("custody", _CUSTODY[recorded.custody]))
    return tuple(lines)


_HISTORY = {
    History.COMPLETE: "complete: every earlier version checks out",
    History.STARTS_WITHOUT: "starts with a file without credentials",
    History.PARTIAL: "some earlier versions carried no credentials",
    History.PROBLEM: "an earlier version does not check out",
    History.NONE: "no earlier version is recorded",
}
_CUSTODY = {
    None: "no evidence of where the key is kept",
    Custody.E0: "E0: a key in software, which can be copied",
    Custody.E1: "E1: a key in hardware, by the operator's word alone",
    Custody.E2: "E2: a key proven to be in hardware",
    Custody.E3: "E3: a key proven to be in hardware, used by a known application on a locked system",
}


def _worth_a_line(code: str) -> bool:
    """Findings that the lines above, or the headline, already state are not said twice."""
    return code not in (
        "credentials.present",
        "history.intact",
        "revocation.checked",
        "signature.valid",
        "time.proven",
    )


def _signer_line(report: Report) -> str:
    found = report.verdict.provenance
    if found is None or found.signer is None or found.certificate is None:
        return "not known"
    named = f"{found.certificate.name or 'no name'} of {found.certificate.organisation or 'no organisation'}"
    if found.signer is Signer.RECOGNISED:
        return f"{named}, on the list {found.signer_list}"
    return f"{found.signer.value} (calls itself {named})"


def _time_line(report: Report) -> str:
    found = report.verdict.provenance
    if found is None or found.time.not_after is None:
        return "no proven time"
    return f"signed no later than {iso_no_later(found.time.not_after)} ({found.time.source})"


def claimed_lines(report: Report) -> tuple[tuple[str, str], ...]:
    """What the signer says, in the signer's name."""
    claims = _claims(report)
    if claims is None:
        return ()
    parts = [in_words(term) for term in (*claims["actions"], *claims["source_types"])]
    said = ", ".join(parts) if parts else "nothing about how it was made"
    return (("claimed", f"{claims['speaker']} says: {said}"),)


# --- HTML


def as_html(reports: Sequence[tuple[Report, bytes | None]]) -> str:
    """A self-contained page: one section per report, each with our own thumbnail (JPEG) or none."""
    from base64 import b64encode  # noqa: PLC0415 (commands that print text start without a template engine)

    from jinja2 import Environment, PackageLoader, StrictUndefined  # noqa: PLC0415

    environment = Environment(
        loader=PackageLoader("tools", "pages"), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    sections = [
        {
            "report": as_dict(report),
            "name": shown(report.file),
            "proven": proven_lines(report),
            "claimed": claimed_lines(report),
            "speaker": _speaker(report.verdict),
            "thumbnail": b64encode(thumbnail).decode() if thumbnail else None,
            "tone": _tone(report.verdict.headline),
        }
        for report, thumbnail in reports
    ]
    environment.filters["in_words"] = in_words
    return environment.get_template("report.html").render(sections=sections)


def write_page(path: Path, page: str) -> None:
    """Write the page whole or not at all; only an earlier page of ours is replaced."""
    _require_ours(path)
    partial = path.with_name(f".{path.name[:100]}.{os.getpid()}.partial")
    try:
        partial.write_text(page, encoding="utf-8", errors="backslashreplace")
        partial.replace(path)
    except OSError as error:
        partial.unlink(missing_ok=True)
        if error.errno == errno.ENOSPC:
            raise DiskFullError(f"no space is left for {path}") from error
        raise UnwritableError(f"{path} cannot be written ({error.strerror})") from error


def _require_ours(path: Path) -> None:
    try:
        with path.open("rb") as stream:
            if _PAGE_MARK not in stream.read(4096):
                raise OutputExistsError(f"{path} is already there, and is no report of ours")
    except FileNotFoundError:
        return
    except OSError as error:
        raise UnwritableError(f"{path} cannot be written ({error.strerror})") from error


def _tone(head: Headline) -> str:
    """Alarm colour only where something was changed or withdrawn; the rest is calm or neutral."""
    match head:
        case Headline.CHANGED_AFTER_SIGNING | Headline.SIGNER_REVOKED | Headline.SIGNER_REJECTED:
            return "alarm"
        case Headline.INTACT_SIGNER_RECOGNISED:
            return "proven"
        case (
            Headline.SIGNED_PARTLY_COVERED
            | Headline.SIGNED_HISTORY_PROBLEM
            | Headline.SIGNER_EXPIRED_TIME_UNPROVEN
        ):
            return "care"
        case _:
            return "neutral"
