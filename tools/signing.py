"""Sign several files with one opened home; each succeeds or fails alone."""

import contextlib
import secrets
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from authn.identity import Lifetime
from authn.manifest import Sdk
from authn.plain import plain
from authn.timestamp.loopback import serving
from authn.timestamp.relay import Need
from authn.trust import Purpose, TrustList
from storage.ledger import Ledger
from storage.registry.rows import Status
from tools.capture import Desk, Signed, captured, received, sign_file
from tools.check import LIMITS
from tools.errors import DeviceHeldError, MediaRefusedError, OutputExistsError, UnwritableError, UsageError
from tools.examine import OURS, Policy, Prepared, Tail
from tools.home import SERVICE, Home, require_valid
from tools.relaying import Relaying
from tools.report import iso_no_later, shown
from tools.supervisor import Supervisor, Task
from tools.trust import ListFile
from tools.verdict import Obstacle


@dataclass(frozen=True, slots=True)
class Timestamps:
    """Who is asked to date signatures, and what is enough; without a name it is the home's own unit."""

    authorities: tuple[str, ...] = ()
    need: Need = Need.REQUIRE


OWN_UNIT = Timestamps()


def sign_files(
    home: Home,
    files: Sequence[Path],
    out: Path | None,
    device_name: str | None,
    now: Callable[[], datetime],
    *,
    timed: Timestamps | bool,
    tail: Tail = Tail.REFUSED,
) -> Iterator[str | Exception]:
    """Sign each file; yield a line on what was written, or the error that kept it from being written.

    `timed` says who dates the signatures: true is the home's own unit, and false nobody.
    """
    outcomes = signed_files(home, files, out, device_name, now, timed=timed, tail=tail)
    for outcome, source in zip(outcomes, files, strict=True):
        yield outcome if isinstance(outcome, Exception) else _line(source, outcome)


def signed_files(
    home: Home,
    files: Sequence[Path],
    out: Path | None,
    device_name: str | None,
    now: Callable[[], datetime],
    *,
    timed: Timestamps | bool,
    tail: Tail = Tail.REFUSED,
) -> Iterator[Signed | Exception]:
    """As `sign_files`, with the evidence instead of a line."""
    if device_name is not None:
        _require_capturing(home, device_name)
    device = home.device(device_name or SERVICE)
    require_valid(device.chain, now())
    statement = captured if device_name else received
    timestamps = timed if isinstance(timed, Timestamps) else OWN_UNIT
    lists = Policy(_lists(home, timestamps), now()).lists()
    with ExitStack() as stack:
        ledger = stack.enter_context(home.ledger())
        relaying = authority = None
        if timestamps != OWN_UNIT:
            relaying = stack.enter_context(_relaying(home, timestamps, lists.time_stampers, ledger, now))
        elif timed:
            authority = home.authority(now, ledger)
        if out is not None:
            _make_folder(out)
        sdk = stack.enter_context(Sdk())
        desk = Desk(home, ledger, lists, sdk, authority, relaying)
        worker: Supervisor[str, Prepared | Obstacle] = stack.enter_context(
            Supervisor(Task("tools.examine:start_preparing", tail), 1, LIMITS)
        )
        for source in files:
            try:
                prepared = _allowed(worker.ask(str(source)))
                if authority is not None:
                    authority.require_time()  # the SDK would not say why it got no token
                yield sign_file(desk, device, source, _target(source, out), prepared, statement, now)
            except OURS as error:
                yield _named(error, source)


def _lists(home: Home, timestamps: Timestamps) -> tuple[ListFile, ...]:
    """What this home itself signs is always recognised; others date for it only if its lists name them."""
    signers, own_unit = home.own_lists()
    if not timestamps.authorities:
        return signers, own_unit
    return signers, *(file for file in home.lists() if file.purpose is Purpose.TIME_STAMPING)


@contextlib.contextmanager
def _relaying(
    home: Home,
    timestamps: Timestamps,
    time_stampers: tuple[TrustList, ...],
    ledger: Ledger,
    now: Callable[[], datetime],
) -> Iterator[Relaying]:
    """Whom to ask; the home's own unit gets an address for it, for the block."""
    if timestamps.authorities:
        yield Relaying(timestamps.authorities, time_stampers, timestamps.need)
        return
    with serving(home.authority(now, ledger), f"/{secrets.token_urlsafe(16)}") as url:
        yield Relaying((url,), time_stampers, timestamps.need)


def _require_capturing(home: Home, name: str) -> None:
    """Refuse to say *captured* in the name of whoever captures nothing, or may not at the moment."""
    if name == SERVICE:
        raise UsageError("the signing service captures nothing; leave --device away to sign as the service")
    if home.enrolled(name).lifetime == Lifetime.ONE_TIME:
        raise UsageError(
            f"{name} has a certificate for each capture, and its lasting key would link them; use 'lightseal capture'"
        )
    with home.registry() as registry:
        status = registry.device(name).status
    if status is not Status.ACTIVE:
        raise DeviceHeldError(f"the device {name} is {status.value}")


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
    if signed.owed:
        lines.append(f"  a token is owed: run lightseal stamp {shown(signed.media)} later")
    if len(signed.tokens) > 1:
        names = ", ".join(plain(each.evidence.authority, 80) for each in signed.tokens)
        lines.append(f"  {len(signed.tokens)} tokens, each an entry of the ledger: {names}")
    if signed.note:
        lines.append(f"  note: {signed.note}")
    return "\n".join(lines)
