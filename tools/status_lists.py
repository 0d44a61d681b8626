"""Say what was withdrawn where verifiers look: a list for each authority, and who answers for it.

Everything is made from the registry each time, so what a crash left undone the next run makes
good. The lists lie where `verify` with this home applies them at once. They take the authorities'
keys, so a process that speaks with strangers only reads them: `lightseal ca serve` makes them anew
once a day while it runs, since verifiers want them younger than a week, and `lightseal revoke
publish` whenever it is called. A root whose key lies elsewhere is left alone by the first.
"""

import hashlib
import logging
import secrets
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

import authn.errors
import storage.errors
import tools.errors
from authn.device import Certificate, spki
from authn.errors import IssuanceError, KeyFileError
from authn.identity import CertificatePlan, Subject, key_id_of, pem_chain, plan_responder, spki_of
from authn.keys import KeyProvider
from authn.revocation import Statuses
from authn.withdrawal import Reason, Withdrawn, build_crl
from storage import durable
from storage.entry import Kind
from storage.record import Record
from storage.registry.gravity import gravest
from storage.registry.registry import Registry
from storage.registry.rows import Target, TargetKind, Withdrawal
from tools.errors import HomeDamagedError
from tools.home import Home, open_home
from tools.output import put_whole

RESPONDER_LEFT = timedelta(days=4)
LIST_AGE = timedelta(days=1)
LOOK_SECONDS = 60.0
STATUS = "status"
_ROOTS = ("root", "time-root")
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Published:
    """A list that verifiers of this home apply at once; `fault` says why one could not be made anew."""

    authority: str
    path: Path
    fault: str | None = None


def publish(home: Home, at: datetime, names: Sequence[str] | None = None) -> tuple[Published, ...]:
    """Make the lists of these authorities anew from the registry, or all; each takes its place in one step."""
    folder = home.path / STATUS
    folder.mkdir(mode=0o755, exist_ok=True)
    chosen = authorities(home) if names is None else names
    with home.registry() as registry, _counted(folder, at) as number:
        return tuple(_publish(home, registry, name, folder, number, at) for name in chosen)


def authorities(home: Home) -> tuple[str, ...]:
    """All that certify, and so publish lists."""
    return (*home.issuers(), *_ROOTS)


@contextmanager
def looking_after(home: Path, now: Callable[[], datetime]) -> Iterator[None]:
    """Keep responders' certificates and lists fresh while the block lasts; they are when it begins.

    Only where the authorities' keys may be opened. A thread looks once a minute, also for
    authorities and withdrawals that were added since. What fails is said once in the log, and
    tried again.
    """
    ended, said = threading.Event(), [""]

    def look(stale: timedelta) -> None:
        try:
            faults = "; ".join(look_after(open_home(home), now(), stale))
        except (authn.errors.Error, storage.errors.Error, tools.errors.Error, OSError) as error:
            faults = str(error)
        if faults and faults != said[0]:
            _log.warning("lists and responders are not all renewed: %s", faults)
        said[0] = faults

    def run() -> None:
        while not ended.wait(LOOK_SECONDS):
            look(LIST_AGE)

    look(timedelta())
    thread = threading.Thread(target=run, name="status", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def look_after(home: Home, at: datetime, stale: timedelta = LIST_AGE) -> tuple[str, ...]:
    """Renew what is missing or `stale` of the issuing authorities, and of roots whose keys are still files here.

    Returns what could not be renewed, in words. A root whose key was put elsewhere signs when
    somebody asks it to: a token is not opened behind its keeper's back.
    """
    near = tuple(
        name
        for name in authorities(home)
        if name not in _ROOTS or (name not in home.keys and (home.path / "keys" / f"{name}.pem").exists())
    )
    faults = []
    try:
        renew_responders(home, at, near)
    except KeyFileError as error:
        faults.append(f"no responder, for the key '{STATUS}' cannot be opened: {error}")
    with home.registry() as registry:
        newest = max((each.revoked_at for each in registry.withdrawals()), default=None)
    old = tuple(name for name in near if _is_old(list_path(home, name), newest, at, stale))
    made = publish(home, at, old) if old else ()
    return (
        *faults,
        *(f"the list of {each.authority}: {each.fault}" for each in made if each.fault is not None),
    )


def _is_old(path: Path, newest: datetime | None, at: datetime, stale: timedelta) -> bool:
    """Whether a list has to be made: it is not there, is `stale`, or was made before the newest withdrawal."""
    try:
        made = path.stat().st_mtime
    except FileNotFoundError:
        return True
    return abs(at.timestamp() - made) >= stale.total_seconds() or (
        newest is not None and made < newest.timestamp()
    )


def list_path(home: Home, name: str) -> Path:
    """Where the newest list of an authority lies, so that `verify` with this home applies it."""
    return home.path / STATUS / f"own-{name}.status"


def withdrawn_of(home: Home, registry: Registry, name: str) -> list[Withdrawn]:
    """All that an authority ever certified and that was withdrawn, also what expired since."""
    authority = home.certificate(name)
    found = [
        withdrawal_fields(int(each.certificate.serial, 16), each.withdrawal)
        for each in registry.withdrawn(key_id_of(authority), authority.not_valid_before_utc)
    ]
    listed = {each.serial for each in found}
    for child in children(home, authority):
        withdrawn = withdrawn_child(registry, child)
        if withdrawn is not None and child.serial_number not in listed:
            found.append(withdrawn)
    return found


def withdrawn_child(registry: Registry, child: Certificate) -> Withdrawn | None:
    """What counts of the withdrawals of one of the home's own certificates; None where there are none."""
    target = Target.of_ca(key_id_of(child))
    found = gravest(each for each in registry.withdrawals() if each.target == target)
    if found is None:
        return None
    return Withdrawn(child.serial_number, Reason(found.reason), found.revoked_at, found.compromised_since)


def withdrawal_fields(serial: int, withdrawal: Withdrawal) -> Withdrawn:
    """A withdrawal as it concerns a device's certificate: below a lost authority every key is in doubt."""
    reason = Reason(withdrawal.reason)
    if withdrawal.target.kind is TargetKind.CA and reason is Reason.CA_COMPROMISE:
        reason = Reason.KEY_COMPROMISE
    return Withdrawn(serial, reason, withdrawal.revoked_at, withdrawal.compromised_since)


def children(home: Home, authority: Certificate) -> tuple[Certificate, ...]:
    """The home's own certificates that an authority issued, apart from devices' and the authority's own."""
    found = {}
    for place in sorted((home.path / "certificates").glob("*.pem")):
        certificate = home.certificate(place.stem)
        if certificate.issuer == authority.subject and certificate != authority:
            found[certificate.serial_number] = certificate  # while a unit is renewed, one lies there twice
    return tuple(found.values())


def responder_of(authority: str) -> str:
    """What the certificate is called by which the home's key `status` answers for an authority."""
    return "status" if authority == "issuing" else f"status-{authority}"


def renew_responders(home: Home, at: datetime, names: Sequence[str] | None = None) -> tuple[str, ...]:
    """Give the status key certificates of these authorities, or all, where missing or soon over; logged first.

    Of authorities whose keys are not here, nothing is renewed; their names are not among those returned.
    """
    renewed = []
    with closing(home.key(STATUS)) as status:
        for name in authorities(home) if names is None else names:
            place = home.path / "certificates" / f"{responder_of(name)}.pem"
            with suppress(OSError, HomeDamagedError):
                held = home.certificate(place.stem)
                if held.not_valid_after_utc - at > RESPONDER_LEFT and spki(held) == spki_of(
                    status.public_key
                ):
                    continue
            with suppress(KeyFileError), closing(home.key(name)) as key:
                _certify_responder(home, name, key, status, place, at)
                renewed.append(name)
    return tuple(renewed)


def _certify_responder(
    home: Home, name: str, key: KeyProvider, status: KeyProvider, place: Path, at: datetime
) -> None:
    issuer = home.certificate(name)
    plan = plan_responder(
        Subject("XX", home.organisation, f"{home.organisation} Status {secrets.token_hex(4)}"),
        status.public_key,
        int.from_bytes(secrets.token_bytes(16)) >> 1 | 1 << 126,
        at,
        issuer=issuer,
    )
    with home.ledger() as ledger:
        ledger.append([_issue_record(home, plan)], at, home.sign_note)
    put_whole(place, pem_chain(plan.sign(key)))


def _issue_record(home: Home, plan: CertificatePlan) -> Record:
    return home.own.own_record(
        Kind.ISSUE,
        {
            "certificate_plan": plan.digest.hex(),
            "custody": "E0",
            "serial": f"{plan.serial:x}",
            "spki": hashlib.sha256(plan.spki).hexdigest(),
        },
    )


def _publish(home: Home, registry: Registry, name: str, folder: Path, number: int, at: datetime) -> Published:
    path = folder / list_path(home, name).name
    entries = withdrawn_of(home, registry, name)
    try:
        with closing(home.key(name)) as key:
            data = build_crl(entries, issuer=home.certificate(name), key=key, number=number, at=at)
    except (KeyFileError, IssuanceError) as error:
        return Published(name, path, str(error))
    Statuses.parse_file(data)  # what we publish, we can read
    put_whole(path, data)
    durable.sync_folder(path)
    return Published(name, path)


@contextmanager
def _counted(folder: Path, at: datetime) -> Iterator[int]:
    """The next number of a list, which always grows, also where the clock does not."""
    place = folder / "crl-number"
    place.touch(mode=0o600)
    with durable.changing(place) as descriptor:
        text = durable.read(descriptor).decode("ascii", "replace")
        last = int(text) if text.strip().isdigit() else 0
        number = max(last + 1, int(at.timestamp()))
        durable.replace(place, str(number).encode())
        yield number
