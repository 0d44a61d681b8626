"""Sign several files with one opened home; each succeeds or fails alone."""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from datetime import datetime
from pathlib import Path

from authn.manifest import Sdk
from tools.capture import Desk, Signed, captured, received, sign_file
from tools.check import LIMITS
from tools.errors import MediaRefusedError, OutputExistsError, UnwritableError
from tools.examine import OURS, Policy, Prepared, Tail
from tools.home import SERVICE, Home, require_valid
from tools.report import iso_no_later, shown
from tools.supervisor import Supervisor, Task
from tools.verdict import Obstacle


def sign_files(
    home: Home,
    files: Sequence[Path],
    out: Path | None,
    device_name: str | None,
    now: Callable[[], datetime],
    *,
    timed: bool,
    tail: Tail = Tail.REFUSED,
) -> Iterator[str | Exception]:
    """Sign each file; yield a line on what was written, or the error that kept it from being written."""
    for outcome, source in zip(
        signed_files(home, files, out, device_name, now, timed=timed, tail=tail), files, strict=True
    ):
        yield outcome if isinstance(outcome, Exception) else _line(source, outcome)


def signed_files(
    home: Home,
    files: Sequence[Path],
    out: Path | None,
    device_name: str | None,
    now: Callable[[], datetime],
    *,
    timed: bool,
    tail: Tail = Tail.REFUSED,
) -> Iterator[Signed | Exception]:
    """As `sign_files`, with the evidence instead of a line."""
    device = home.device(device_name or SERVICE)
    require_valid(device.chain, now())
    statement = captured if device_name else received
    policy = Policy(home.own_lists(), now())
    if out is not None:
        _make_folder(out)
    with ExitStack() as stack:
        ledger = stack.enter_context(home.ledger())
        sdk = stack.enter_context(Sdk())
        desk = Desk(home, ledger, policy.lists(), sdk, home.authority(now()) if timed else None)
        worker: Supervisor[str, Prepared | Obstacle] = stack.enter_context(
            Supervisor(Task("tools.examine:start_preparing", tail), 1, LIMITS)
        )
        for source in files:
            try:
                prepared = _allowed(worker.ask(str(source)))
                yield sign_file(desk, device, source, _target(source, out), prepared, statement, now)
            except OURS as error:
                yield _named(error, source)


def _make_folder(out: Path) -> None:
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UnwritableError(f"the folder {out} cannot be made ({error.strerror})") from error


def _named(error: Exception, source: Path) -> Exception:
    """The same error, saying which file it is about."""
    error.args = (f"{shown(source)}: {error}", *error.args[1:])
    return error


def _allowed(found: Prepared | Obstacle) -> Prepared:
    if isinstance(found, Obstacle):
        raise MediaRefusedError(found.reason, found.code, found.remedy)
    return found


def _target(source: Path, out: Path | None) -> Path:
    if out is None:
        return source.with_name(f"{source.stem}.signed{source.suffix}")
    target = out / source.name
    with contextlib.suppress(OSError):  # what keeps the target from being made is said where it is made
        if target.samefile(source):
            raise OutputExistsError(f"{target} is the file to be signed itself")
    return target


def _line(source: Path, signed: Signed) -> str:
    proven = signed.provenance.time.not_after
    time = f"signed no later than {iso_no_later(proven)}" if proven else "no proven time"
    lines = [
        f"{shown(source)} -> {shown(signed.media)}",
        f"  {time}, entry {signed.index} of the ledger, receipt {shown(signed.receipt)}",
    ]
    if signed.note:
        lines.append(f"  note: {signed.note}")
    return "\n".join(lines)
