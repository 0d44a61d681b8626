"""One report as an examiner reads it on a terminal."""

import re
import unicodedata

from authn.plain import plain
from tools.report import Report, shown
from tools.verdict import not_proven, sentence
from tools.wording import (
    END,
    ISOLATE,
    claimed_lines,
    estimate_line,
    note_lines,
    policy_lines,
    proven_lines,
    step_lines,
)

MAX_STEP_LINES = 60

_THEIRS = re.compile(f"{ISOLATE}([^{END}]*){END}")


def as_text(report: Report) -> str:
    """The report as lines, in the order of certainty."""
    verdict = report.verdict
    name = _isolated(f"{ISOLATE}{shown(report.file)}{END}")
    lines = [f"{name}: {sentence(verdict.headline)}  [{verdict.headline.value}]"]
    for label, text in proven_lines(report):
        lines.append(_line(label, text))
        if label == "history":
            lines += _history(report)
    lines += [_line(label, text) for label, text in claimed_lines(report)]
    lines.append(_line("estimate", estimate_line(report.estimate)))
    lines.append(f"  not proven: {'; '.join(not_proven(verdict.headline))}")
    lines += [_line(label, text) for label, text in (*policy_lines(report.acceptance), *note_lines(report))]
    if verdict.obstacle is not None:
        lines.append(_line("why", f"{plain(verdict.obstacle.reason, 1000)}  [{verdict.obstacle.code}]"))
        lines.append(_line("next", plain(verdict.obstacle.remedy, 1000)))
    return "\n".join(lines)


def _line(label: str, text: str) -> str:
    return f"  {label:<10} {_isolated(text)}"


def _isolated(text: str) -> str:
    """Isolates stay where they do something: around words with right-to-left letters."""

    def set_apart(found: re.Match[str]) -> str:
        reordered = any(unicodedata.bidirectional(each) in ("R", "AL", "AN") for each in found[1])
        return found[0] if reordered else found[1]

    return _THEIRS.sub(set_apart, text)


def _history(report: Report) -> list[str]:
    found = report.verdict.provenance
    lines = list(step_lines(found.steps)) if found else []
    more = len(lines) - MAX_STEP_LINES
    told = lines[:MAX_STEP_LINES] + (
        [f"and {more} more, which the page and the JSON list"] if more > 0 else []
    )
    return [_line("", line) for line in told]
