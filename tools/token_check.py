"""Check a time-stamp token against a file, by the home's lists of time-stampers, line by line."""

import hashlib
from datetime import datetime, timedelta
from pathlib import Path

from authn.errors import MalformedDerError, TimestampError
from authn.plain import plain
from authn.timestamp.relay import MAX_REPLY, token_of
from authn.timestamp.token import TimeEvidence, check_stamped
from authn.trust import Purpose
from tools.check import bounded
from tools.errors import UnreadableError
from tools.home import Home
from tools.report import iso_no_later


def checked(file: Path, token: Path, home: Home, now: datetime) -> tuple[list[str], bool]:
    """What to say of the token at `token`, and whether it proves when the bytes of `file` existed."""
    content = bounded(token, MAX_REPLY, "time-stamp token")
    try:
        content = token_of(content)
    except TimestampError as error:
        return [f"does not hold  the reply grants no token: {error}"], False
    except MalformedDerError:
        pass  # no reply, so it is to be a bare token, or is found to be neither
    lists = [each for each in home.lists() if each.purpose is Purpose.TIME_STAMPING]
    stampers = tuple(each.parse() for each in lists)
    evidence = check_stamped(content, lambda name: _digest(file, name), stampers, now)
    return _lines(evidence), evidence.proven


def _digest(file: Path, name: str) -> bytes:
    try:
        with file.open("rb") as stream:
            return hashlib.file_digest(stream, name).digest()
    except OSError as error:
        raise UnreadableError(f"{file} cannot be read ({error.strerror})") from error


def _lines(evidence: TimeEvidence) -> list[str]:
    lines = [
        f"{'holds         ' if finding.passed else 'does not hold '} {plain(finding.explanation, 200)}"
        for finding in evidence.findings
    ]
    if evidence.proven and evidence.gen_time is not None:
        latest = evidence.gen_time + (evidence.accuracy or timedelta())
        lines.append(
            f"proves         the file existed by {iso_no_later(latest)},"
            f" says {plain(evidence.authority, 80)} of the list {plain(evidence.list or '', 80)}"
        )
    return lines
