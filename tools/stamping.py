"""Take a token for what was signed without one.

The plan for each file, which succeeds or fails alone:
1. A worker that can die checks the file, as `tools.check` does. A signature that does not hold is
   not stamped, and one whose time is proven is left alone.
2. The home's own unit, or several authorities, are asked for a token over the raw signature (as
   C2PA's `c2pa.time-stamp` has it). What comes is judged before it is used.
3. The ledger records the token, so that an authority that dates back contradicts the log.
4. The token is kept in the home, where every check finds it.
5. The file is checked again: what counts is what a check says, not what was asked for.

A crash between 3 and 4 leaves an entry without a token, which claims nothing false: the token was
given. Doing it again takes another one. The file itself is never written to. A token proves that
the signature was there by then; it does not prove when it was made, nor mend a certificate that
was over before.
"""

import secrets
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import ClassVar

from authn.evidence import AssetId, Code, Credentials, Provenance
from authn.plain import plain
from authn.timestamp.authority import Authority
from authn.timestamp.relay import NoTokenError, Refused, Stamped, judge
from authn.timestamp.request import TimeStampRequest
from authn.trust import TrustList
from storage.entry import Kind
from storage.ledger import Ledger
from storage.record import Record
from tools import tokens
from tools.capture import token_payload, translated
from tools.check import Chosen, beliefs, check_files
from tools.errors import Error, MediaRefusedError
from tools.examine import OURS
from tools.home import Home
from tools.own_log import operator
from tools.relaying import Relay, Relaying
from tools.report import iso_no_later, shown
from tools.verdict import Headline, Verdict, sentence
from tools.verdict import Ledger as LedgerState


class NotStampableError(Error):
    """The file holds no signature that could be dated."""

    code: ClassVar[str] = "not-stampable"
    remedy: ClassVar[str] = (
        "See with 'lightseal verify FILE' what is wrong with it; stamp the file as it was signed."
    )


class TokenUselessError(Error):
    """A token is there, and proves no time under the home's lists."""

    code: ClassVar[str] = "token-useless"
    remedy: ClassVar[str] = (
        "See with 'lightseal verify FILE' why it does not count; then name another authority with --authority."
    )


@dataclass(frozen=True, slots=True)
class Dated:
    """What was proven of a file before and after; where `index` is missing, it was left alone."""

    file: Path
    before: Verdict
    after: Verdict
    index: int | None = None


def stamp_files(
    home: Home, files: Sequence[Path], authorities: tuple[str, ...], now: Callable[[], datetime]
) -> Iterator[str | Exception]:
    """Stamp each file; yield lines on what was proven before and after, or the error that kept it from being."""
    for outcome in stamped_files(home, files, authorities, now):
        yield outcome if isinstance(outcome, Exception) else _lines(outcome)


def stamped_files(
    home: Home, files: Sequence[Path], authorities: tuple[str, ...], now: Callable[[], datetime]
) -> Iterator[Dated | Exception]:
    """As `stamp_files`, with the evidence instead of lines."""
    with beliefs(home, Chosen(), now()) as held, home.ledger() as ledger:
        stamper = _stamper(home, authorities, held.policy.lists().time_stampers, ledger, now)
        for file, (report, _) in zip(files, check_files(map(str, files), held, None), strict=True):
            try:
                yield _stamped(home, file, report.verdict, stamper, ledger, now)
            except OURS as error:
                error.args = (f"{shown(file)}: {error}", *error.args[1:])
                yield error


def _stamped(
    home: Home,
    file: Path,
    before: Verdict,
    stamper: Callable[[AssetId], Stamped],
    ledger: Ledger,
    now: Callable[[], datetime],
) -> Dated:
    # 1. Something to date.
    found, identity = _require_sound(before)
    if found.time.not_after is not None:
        return Dated(file, before, before)
    folder = home.path / "tokens"
    if tokens.place(folder, identity.signature).exists():
        raise TokenUselessError(f"a token for it is kept already, and proves nothing ({_undated(found)})")
    # 2. The token.
    stamped = stamper(identity)
    # 3. On record, under the pseudonym of whoever signed, if the ledger knows the signature.
    recorded = before.recorded
    known = recorded.state is LedgerState.INCLUDED and recorded.origin == ledger.origin
    key = (
        ledger.entry(recorded.index).key if known and recorded.index is not None else operator(ledger.origin)
    )
    record = Record(Kind.TOKEN, token_payload(identity, stamped.token), secrets.token_bytes(32), key)
    (index,) = ledger.append((record,), now(), home.sign_note)
    # 4. Kept.
    place = tokens.place(folder, identity.signature)
    try:
        tokens.keep(folder, identity.signature, stamped.token)
    except OSError as error:
        raise translated(error, place) from error
    # 5. What a check says now.
    after = _checked(home, file, now())
    if after.provenance is None or after.provenance.time.not_after is None:
        if tokens.kept(folder, identity.signature) == (stamped.token,):
            place.unlink(missing_ok=True)
        raise TokenUselessError(f"the token that was given proves nothing ({_undated(after.provenance)})")
    return Dated(file, before, after, index)


def _require_sound(verdict: Verdict) -> tuple[Provenance, AssetId]:
    """The evidence on a file whose signature holds over the media as it is."""
    if verdict.obstacle is not None:
        raise MediaRefusedError(verdict.obstacle.reason, verdict.obstacle.code, verdict.obstacle.remedy)
    found = verdict.provenance
    if (
        found is None
        or found.identity is None
        or found.credentials is not Credentials.PRESENT
        or verdict.headline is Headline.CHANGED_AFTER_SIGNING
    ):
        said = sentence(verdict.headline)
        raise NotStampableError(f"nothing was stamped: {said[:1].lower()}{said[1:]}")
    return found, found.identity


def _stamper(
    home: Home,
    authorities: tuple[str, ...],
    time_stampers: tuple[TrustList, ...],
    ledger: Ledger,
    now: Callable[[], datetime],
) -> Callable[[AssetId], Stamped]:
    """What gets a judged token over a signature, or raises `TimestampError`."""
    if authorities:
        relay = Relay(Relaying(authorities, time_stampers), now)
        return lambda identity: relay.ask(_question(identity).encode())[0]
    unit = home.authority(now, ledger)
    return lambda identity: _own(unit, _question(identity), time_stampers, now)


def _question(identity: AssetId) -> TimeStampRequest:
    return TimeStampRequest(identity.signature, nonce=secrets.randbits(64))


def _own(
    unit: Authority,
    question: TimeStampRequest,
    time_stampers: tuple[TrustList, ...],
    now: Callable[[], datetime],
) -> Stamped:
    unit.require_time()
    answer = unit.respond(question.encode())
    judged = judge("the home's own unit", answer, question, time_stampers, now())
    if isinstance(judged, Refused):
        raise NoTokenError(f"no token was had ({judged})")
    return judged


def _checked(home: Home, file: Path, at: datetime) -> Verdict:
    """The verdict of a check that begins anew, with the token that is kept by then."""
    with beliefs(home, Chosen(), at) as held:
        ((report, _),) = check_files((str(file),), held, None)
    return report.verdict


def _undated(found: Provenance | None) -> str:
    if found is None:
        return "the file could not be checked again"
    said = (each.explanation for each in found.findings if each.code is Code.TIME_PROVEN and not each.passed)
    return plain(next(said, "no reason is known"), 200)


def _lines(dated: Dated) -> str:
    if dated.index is None:
        return f"{shown(dated.file)}: left alone; it has a proven time: {_told(dated.before)}"
    return "\n".join(
        (
            f"{shown(dated.file)}: stamped, entry {dated.index} of the ledger",
            f"  before  {_told(dated.before)}",
            f"  now     {_told(dated.after)}",
        )
    )


def _told(verdict: Verdict) -> str:
    window = None if verdict.provenance is None else verdict.provenance.time
    if window is None or window.not_after is None:
        return f"{sentence(verdict.headline)}; no proven time"
    source = f" ({plain(window.source, 160)})" if window.source else ""
    return f"{sentence(verdict.headline)}; signed no later than {iso_no_later(window.not_after)}{source}"
