"""Reports as one self-contained page: nothing is fetched, nothing can run, and it prints."""

import re
from base64 import b64encode
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from authn.evidence import Code, Step
from tools.output import Form, require_writable, write_whole
from tools.report import Report, as_dict, shown, speaker
from tools.verdict import Headline
from tools.wording import (
    END,
    ISOLATE,
    Line,
    estimate_line,
    identity_line,
    note_lines,
    policy_lines,
    proven_lines,
    relationship,
    said_lines,
    step_details,
    step_problems,
    step_state,
    theirs,
)

if TYPE_CHECKING:
    from markupsafe import Markup

# Everything before the first part that varies, and what follows it.
_BEGINNING = (Path(__file__).parent / "pages" / "report.html").read_bytes().partition(b"{{")[0]
_FORM = Form(
    "report",
    re.compile(re.escape(_BEGINNING) + rb"\d+ files? checked: Lightseal report</title>\n<style>\n"),
    re.compile(rb"</body>\n</html>\s*\Z"),
)
_THEIRS = re.compile(f"{ISOLATE}([^{END}]*){END}")
_MOMENT = re.compile(r"\b\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ")
_TONES = {
    "does not check out": "problem",
    "carried no credentials": "gap",
    "not fully known": "gap",
    "checks out": "sound",
}


def as_html(reports: Sequence[tuple[Report, bytes | None]]) -> str:
    """One section per report, each with our own thumbnail (JPEG) or none."""
    from jinja2 import Environment, PackageLoader, StrictUndefined  # noqa: PLC0415 (slow to import)

    environment = Environment(
        loader=PackageLoader("tools", "pages"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"say": _said, "theirs": lambda text: _said(theirs(text, 1000))}
    sections = [_section(report, thumbnail) for report, thumbnail in reports]
    asked = any(_asked(report) for report, _ in reports)
    return environment.get_template("report.html").render(sections=sections, asked=asked)


def _asked(report: Report) -> bool:
    """Whether an address was, or was to be, asked: only then do the notes speak of withdrawals."""
    return any(note.code is Code.REVOCATION_CHECKED for note in report.notes)


def _said(text: str) -> "Markup":
    """Escaped, with somebody else's words in elements that no text direction leaves."""
    from markupsafe import Markup, escape  # noqa: PLC0415 (comes with the template engine)

    apart = _THEIRS.sub(r"<bdi>\1</bdi>", str(escape(text)))
    return Markup(_MOMENT.sub(r"<time>\g<0></time>", apart))  # noqa: S704 (escaped two lines above)


def _section(report: Report, thumbnail: bytes | None) -> dict[str, Any]:
    found = report.verdict.provenance
    shape = as_dict(report)
    return {
        "report": shape,
        "name": shown(report.file),
        "tone": _tone(report.verdict.headline),
        "thumbnail": _inline(thumbnail),
        "proven": _gathered(proven_lines(report)),
        "speaker": theirs(speaker(report.verdict)),
        "said": _gathered(said_lines(report)),
        "contradictions": [theirs(each.sentence, 1000) for each in report.contradictions],
        "identities": [identity_line(identity) for identity in found.identities] if found else [],
        "steps": [_step(step) for step in found.steps] if found else [],
        "lacks": [text for _, text in policy_lines(report.acceptance)[1:]],
        "notes": [text for _, text in note_lines(report)],
        "estimate": estimate_line(report.estimate),
        "findings": [*shape["findings"], *(shape["policy"] or {"findings": []})["findings"]],
    }


def _gathered(lines: Iterable[Line]) -> list[tuple[str, list[str]]]:
    """Lines without a label go with the one before."""
    gathered: list[tuple[str, list[str]]] = []
    for label, text in lines:
        if label or not gathered:
            gathered.append((label or "note", [text]))
        else:
            gathered[-1][1].append(text)
    return gathered


def _step(step: Step) -> dict[str, Any]:
    state = step_state(step)
    return {
        "title": theirs(step.title),
        "relationship": relationship(step),
        "state": state,
        "tone": _TONES[state],
        "problems": step_problems(step),
        "details": step_details(step),
        "thumbnail": _inline(step.thumbnail),
        "steps": [_step(inner) for inner in step.steps],
    }


def _inline(picture: bytes | None) -> str | None:
    return b64encode(picture).decode() if picture else None


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


# --- Writing


def require_writable_page(path: Path) -> None:
    """Refuse now a place where `write_page` would not write."""
    require_writable(path, _FORM)


def write_page(path: Path, page: str) -> None:
    """Write the page whole or not at all; only an earlier page of ours is replaced."""
    write_whole(path, page.encode("utf-8", "backslashreplace"), _FORM)
