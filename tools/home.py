"""A home: one folder with a ledger, its keys, a private CA and the trust lists.

Made whole or not at all: it is built beside its place and moved there in one
step. Making it twice changes nothing. Keys are files of mode 0600.
"""

import contextlib
import dataclasses
import errno
import hashlib
import json
import os
import re
import secrets
import shutil
import stat
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from authn.device import Certificate, Device, pseudonym, read_chain
from authn.errors import CertificateError, KeyFileError
from authn.identity import (
    CertificatePlan,
    Subject,
    pem_chain,
    plan_claim_signing,
    plan_issuing_ca,
    plan_root,
    plan_time_stamping,
    plan_time_stamping_root,
)
from authn.keys import SigningKey, generate_p256, generate_p384, open_key, store_key
from authn.plain import plain
from authn.profile import Profile
from authn.revocation import host_of
from authn.timestamp.authority import Authority, serials_from
from authn.trust import Purpose, TrustList
from storage.audit import AuditReport, AuditState
from storage.checkpoint import Checkpoint
from storage.entry import Kind
from storage.ledger import Ledger
from storage.note import Algorithm, Note, VerifierKey
from storage.payload import canonical
from storage.record import Record
from tools import own_log
from tools.errors import (
    CertificateOverError,
    ClockBehindError,
    DeviceExistsError,
    DeviceUnknownError,
    DiskFullError,
    HomeDamagedError,
    HomeMissingError,
    HomeOutdatedError,
    HomeUnreadableError,
    OutputExistsError,
    UnwritableError,
    UsageError,
)
from tools.own_log import OwnLog
from tools.trust import ListFile, list_files

SCHEMA = "lightseal-home/1"
SERVICE = "service"
# RFC 3161 wants a policy; this one is ours alone, under the arc for examples (RFC 5612 has none for OIDs).
TIME_STAMP_POLICY = "1.3.6.1.4.1.32473.1"
SOFTWARE_KEY = "E0"
MAX_PART_BYTES = 1 << 20

_DEVICE_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")


@dataclass(frozen=True, slots=True)
class Home:
    """An existing home. Opens nothing until asked."""

    path: Path
    own: OwnLog
    organisation: str
    ocsp_url: str

    @property
    def log(self) -> VerifierKey:
        """The key that signs the ledger's checkpoints now."""
        return self.own.newest

    def ledger(self) -> Ledger:
        """The ledger, for writing."""
        self._require_readable()
        return self.own.writer()

    def ledger_to_read(self) -> Ledger:
        """The ledger, for looking things up."""
        self._require_readable()
        return self.own.reader()

    def lists(self) -> tuple[ListFile, ...]:
        """Whom this home believes, each about one thing only."""
        return list_files(self.path / "trust")

    def own_lists(self) -> tuple[ListFile, ListFile]:
        """The two lists that recognise what this home itself signs and dates, whoever else it believes."""
        certificates = self.path / "certificates"
        try:
            root, time_root = (_content(certificates / f"{name}.pem") for name in ("root", "time-root"))
            signers = ListFile("signers", root, Purpose.SIGNING, Profile.POLICY)
            stampers = ListFile("time-stampers", time_root, Purpose.TIME_STAMPING, Profile.TIME_STAMPING)
            for file in (signers, stampers):
                file.parse()
        except (OSError, CertificateError) as error:
            raise HomeDamagedError("a root certificate of this home cannot be read") from error
        return signers, stampers

    def sign_note(self, text: str) -> bytes:
        """Sign a checkpoint with the log's keys."""
        return self.own.signer()(text)

    def authority(self, now: datetime) -> Authority:
        """The home's own time-stamp authority, as a function from query to reply."""
        chain = (self._certificate("time-stamping"), self._certificate("time-root"))
        serials = serials_from(int(now.timestamp() * 1_000_000) * 1000)
        return Authority(
            self._key("time-stamping"), chain[:1], TIME_STAMP_POLICY, lambda: datetime.now(UTC), serials
        )

    def run_results(self, run: str) -> Path:
        """Where the rows of a batch run go."""
        require_run_name(run)
        return self.path / "runs" / f"{run}.jsonl"

    def audit(self, since: AuditState | None = None) -> AuditReport:
        """Derive the ledger again, whole or from where an earlier audit ended."""
        self._require_readable()
        return self.own.audit(since)

    def device(self, name: str) -> Device:
        """An enrolled device, or the home's own signing service."""
        folder = self._device_folder(name)
        try:
            about = json.loads(_content(folder / "device.json"))
            chain = read_chain(_content(folder / "chain.pem"))
            return Device(
                name, open_key(f"file:{folder / 'key.pem'}", None), chain, bytes.fromhex(about["salt"])
            )
        except FileNotFoundError as error:
            raise DeviceUnknownError(f"no device named {name} is enrolled in this home") from error
        except (OSError, ValueError, KeyError, TypeError, RecursionError, CertificateError) as error:
            raise HomeDamagedError(f"the record of device {name} cannot be read") from error

    def devices(self) -> tuple[str, ...]:
        """The names of all enrolled devices."""
        return tuple(
            sorted(
                folder.name for folder in (self.path / "devices").iterdir() if not folder.name.startswith(".")
            )
        )

    def enrol(self, name: str, product: str, at: datetime) -> tuple[Device, int]:
        """Make a key, log the issuance, then issue the certificate; return the entry's index too."""
        if _DEVICE_NAME.fullmatch(name) is None:
            raise UsageError("a device's name is 1 to 64 of a-z, 0-9, dot, dash and underscore")
        folder = self._device_folder(name)
        if folder.exists():
            raise DeviceExistsError(f"a device named {name} is already enrolled")
        with self.ledger() as ledger, _built_beside(folder) as building:
            index = _enrol(self, ledger, building, product, at)
        return self.device(name), index

    def _device_folder(self, name: str) -> Path:
        if _DEVICE_NAME.fullmatch(name) is None:
            raise DeviceUnknownError("a device's name is 1 to 64 of a-z, 0-9, dot, dash and underscore")
        return self.path / SERVICE if name == SERVICE else self.path / "devices" / name

    def _require_readable(self) -> None:
        place = self.path / "ledger.db"
        # Asked and not tried: closing the file would let go of locks that this process holds (POSIX fcntl).
        if place.is_file() and not os.access(place, os.R_OK):
            raise HomeUnreadableError(f"{place} cannot be read ({os.strerror(errno.EACCES)})")

    def _key(self, name: str) -> SigningKey:
        return open_key(f"file:{self.path / 'keys' / name}.pem", None)

    def _certificate(self, name: str) -> Certificate:
        try:
            return read_chain(_content(self.path / "certificates" / f"{name}.pem"))[0]
        except (OSError, CertificateError) as error:
            raise HomeDamagedError(f"the certificate {name}.pem of this home cannot be read") from error


def require_run_name(run: str) -> None:
    """Refuse a name that would not be a file's, or would not stay on its line."""
    if _DEVICE_NAME.fullmatch(run) is None:
        raise UsageError("a run's name is 1 to 64 of a-z, 0-9, dot, dash and underscore")


def require_valid(chain: Sequence[Certificate], at: datetime) -> None:
    """Refuse to sign under a certificate that is not valid at `at`; every verifier would."""
    begins = max(certificate.not_valid_before_utc for certificate in chain)
    ends = min(certificate.not_valid_after_utc for certificate in chain)
    if at < begins:
        raise ClockBehindError(
            f"the clock shows {at:%Y-%m-%d %H:%M} UTC, before {begins:%Y-%m-%d %H:%M} UTC"
            " when the certificate begins"
        )
    if at > ends:
        raise CertificateOverError(f"the certificate ended on {ends:%Y-%m-%d %H:%M} UTC")


def default_path(environment: Mapping[str, str]) -> Path:
    """`LIGHTSEAL_HOME`, else the platform's folder for user data."""
    if chosen := environment.get("LIGHTSEAL_HOME"):
        return Path(chosen)
    if environment.get("HOME") == "":
        raise UsageError("HOME is empty, so there is no folder for user data; name a home with --home")
    try:
        if sys.platform == "darwin":
            return Path.home() / "Library" / "Application Support" / "lightseal"
        if sys.platform == "win32":
            return Path(environment.get("LOCALAPPDATA") or Path.home()) / "lightseal"
        return Path(environment.get("XDG_DATA_HOME") or Path.home() / ".local" / "share") / "lightseal"
    except RuntimeError as error:  # neither the environment nor the system's list of users knows one
        raise UsageError(
            "nothing says where user data belongs; set HOME or name a home with --home"
        ) from error


def open_home(path: Path) -> Home:
    """An existing home; nothing is created."""
    try:
        about = json.loads(_content(path / "home.json"))
    except (FileNotFoundError, NotADirectoryError) as error:
        raise HomeMissingError(f"there is no home at {path}") from error
    except (OSError, ValueError, RecursionError) as error:
        raise HomeDamagedError(f"the home at {path} cannot be read") from error
    try:
        if about["schema"] != SCHEMA:
            raise HomeDamagedError(f"the home at {path} was made by another version of Lightseal")
        organisation, ocsp_url = (str(about[name]) for name in ("organisation", "ocsp_url"))
        return Home(path, _own_log(path), organisation, ocsp_url)
    except (KeyError, TypeError, RecursionError) as error:
        raise HomeDamagedError(f"the home at {path} cannot be read") from error


def _own_log(path: Path) -> OwnLog:
    try:
        return OwnLog.open(path, _content(path / own_log.FILE))
    except FileNotFoundError as error:
        if (path / "keys" / "log.pem").exists():
            raise HomeOutdatedError(f"the home at {path} was made by an earlier version") from error
        raise HomeDamagedError(f"{path / own_log.FILE} is missing") from error
    except OSError as error:
        raise HomeDamagedError(f"{path / own_log.FILE} cannot be read") from error


@dataclass(frozen=True, slots=True)
class LogPlan:
    """How a new home's log is kept: what signs it, where its database and its guard are, what it follows."""

    algorithms: tuple[Algorithm, ...] = (Algorithm.ED25519,)
    database: str | None = None
    guard: str | None = None
    after: bytes | None = None


def create_home(
    path: Path, organisation: str, ocsp_url: str, at: datetime, plan: LogPlan = LogPlan()
) -> Home:
    """Make a home with everything it takes to sign and verify.

    The private CA's root, its issuing CA, the time-stamp root and unit, and the
    signing service are each an entry of the ledger before their certificate exists.
    """
    host = _status_host(ocsp_url)
    origin = f"lightseal.local/{secrets.token_hex(8)}"
    with _built_beside(path) as building:
        for name in ("keys", "certificates", "trust", "devices"):
            (building / name).mkdir(mode=0o700)
        own = OwnLog.create(building, origin, plan.algorithms, plan.database, plan.guard)
        home = Home(building, own, organisation, ocsp_url)
        try:
            _furnish(home, plan, host, at)
            about = {"schema": SCHEMA, "organisation": organisation, "ocsp_url": ocsp_url}
            (building / "home.json").write_text(json.dumps(about, indent=1) + "\n")
        except BaseException:
            own.remove()
            raise
    return open_home(path)


def _furnish(home: Home, plan: LogPlan, host: str, at: datetime) -> None:
    with home.ledger() as ledger:
        if plan.after is not None:
            _follow(home, ledger, plan.after, at)
        _authorities(home, ledger, host, at)
        (home.path / SERVICE).mkdir(mode=0o700)
        _enrol(home, ledger, home.path / SERVICE, "Lightseal Signing Service", at)


def _follow(home: Home, ledger: Ledger, note: bytes, at: datetime) -> None:
    """Say in the first entry which log this one goes on from: the last checkpoint that is believed."""
    followed = Checkpoint.parse(Note.parse(note).text)
    fields = {"change": "follow", "checkpoint": str(followed), "note": note.decode()}
    ledger.append([home.own.own_record(Kind.POLICY, fields)], at, home.sign_note)


def _status_host(url: str) -> str:
    """Whom to ask about withdrawals, known to be one that a trust list can name."""
    host = host_of(url)
    if host is None:
        raise UsageError(
            f"{plain(url, 200)} is no http address at which a certificate's status could be asked"
        )
    try:
        dataclasses.replace(TrustList.empty(Purpose.SIGNING), hosts=(host,)).described()
    except CertificateError as error:
        raise UsageError(f"a trust list cannot name the host {plain(host, 200)}; give one by name") from error
    return host


def _authorities(home: Home, ledger: Ledger, host: str, at: datetime) -> None:
    """Two roots that share nothing: an anchor for signers must never vouch for time."""
    root_key, issuing_key = generate_p384(), generate_p384()
    time_root_key, time_key = generate_p384(), generate_p256()
    who, ocsp = home.organisation, home.ocsp_url

    def issued(plan: CertificatePlan, issuer_key: SigningKey) -> Certificate:
        return _issue(home, ledger, plan, issuer_key, secrets.token_bytes(32), at)[1]

    def called(name: str) -> Subject:
        return Subject("XX", who, f"{who} {name}")

    root = issued(plan_root(called("Root CA"), root_key.public_key, _serial(), at), root_key)
    issuing = issued(
        plan_issuing_ca(
            called("Claim Signing CA"), issuing_key.public_key, _serial(), at, issuer=root, ocsp_url=ocsp
        ),
        root_key,
    )
    time_root = issued(
        plan_time_stamping_root(called("Time-Stamp Root"), time_root_key.public_key, _serial(), at),
        time_root_key,
    )
    time_unit = issued(
        plan_time_stamping(
            called("Time-Stamp Unit 1"), time_key.public_key, _serial(), at, issuer=time_root, ocsp_url=ocsp
        ),
        time_root_key,
    )
    for name, key, certificate in (
        ("root", root_key, root),
        ("issuing", issuing_key, issuing),
        ("time-root", time_root_key, time_root),
        ("time-stamping", time_key, time_unit),
    ):
        store_key(home.path / "keys" / f"{name}.pem", key, None)
        (home.path / "certificates" / f"{name}.pem").write_bytes(pem_chain(certificate))
    for stem, anchor, purpose, profile in (
        ("signers", root, Purpose.SIGNING, Profile.POLICY),
        ("time-stampers", time_root, Purpose.TIME_STAMPING, Profile.TIME_STAMPING),
    ):
        bare = TrustList.parse(pem_chain(anchor), stem, purpose, profile)
        described = dataclasses.replace(bare, hosts=(host,)).described()
        (home.path / "trust" / f"{stem}.pem").write_bytes(described)


def _enrol(home: Home, ledger: Ledger, folder: Path, product: str, at: datetime) -> int:
    key, salt = generate_p256(), secrets.token_bytes(32)
    issuing = home._certificate("issuing")  # noqa: SLF001 (this module is the home)
    require_valid([issuing], at)
    plan = plan_claim_signing(
        Subject("XX", home.organisation, product),
        key.public_key,
        _serial(),
        at,
        issuer=issuing,
        days=366,
        ocsp_url=home.ocsp_url,
    )
    index, certificate = _issue(home, ledger, plan, home._key("issuing"), salt, at)  # noqa: SLF001
    store_key(folder / "key.pem", key, None)
    (folder / "chain.pem").write_bytes(pem_chain(certificate, issuing))
    (folder / "device.json").write_text(json.dumps({"salt": salt.hex(), "entry": index}) + "\n")
    (folder / "device.json").chmod(0o600)
    return index


def _issue(
    home: Home, ledger: Ledger, plan: CertificatePlan, issuer_key: SigningKey, salt: bytes, at: datetime
) -> tuple[int, Certificate]:
    """Log first: a certificate that nobody logged must not come into the world."""
    payload = {
        "certificate_plan": plan.digest.hex(),
        "custody": SOFTWARE_KEY,
        "serial": f"{plan.serial:x}",
        "spki": hashlib.sha256(plan.spki).hexdigest(),
    }
    record = Record(
        Kind.ISSUE,
        canonical(payload),
        secrets.token_bytes(32),
        pseudonym(salt, plan.spki),
    )
    (index,) = ledger.append([record], at, home.sign_note)
    # The entry is durable. A crash from here on leaves an issuance logged that never
    # took place, which harms nobody; the other order would leave one nobody logged.
    return index, plan.sign(issuer_key)


def _serial() -> int:
    return secrets.randbits(127) | 1 << 126


def _content(path: Path) -> bytes:
    """The bytes of a part of a home, which is a file and not large; a pipe is not waited for."""
    try:
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
    except PermissionError as error:
        raise HomeUnreadableError(f"{path} cannot be read ({error.strerror})") from error
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise HomeDamagedError(f"{path} is not a file")
        with open(descriptor, "rb", closefd=False) as file:
            content = file.read(MAX_PART_BYTES + 1)
    finally:
        os.close(descriptor)
    if len(content) > MAX_PART_BYTES:
        raise HomeDamagedError(f"{path} is larger than {MAX_PART_BYTES} bytes")
    return content


def _take(building: Path, place: Path) -> None:
    try:
        building.rename(place)
    except OSError as error:
        if error.errno in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
            raise OutputExistsError(f"something else stands at {place}") from error
        raise


@contextlib.contextmanager
def _built_beside(place: Path) -> Iterator[Path]:
    """A new folder that takes its place only when it is complete, and is gone otherwise."""
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        building = Path(tempfile.mkdtemp(prefix=f".{place.name}.", dir=place.parent))
    except OSError as error:
        if _ran_full(error):
            raise DiskFullError(f"no space is left for {place}") from error
        raise UnwritableError(f"{place} cannot be made ({error.strerror})") from error
    try:
        yield building
        _take(building, place)
    except BaseException as error:
        shutil.rmtree(building, ignore_errors=True)
        if _ran_full(error):
            raise DiskFullError(f"no space is left for {place}") from error
        raise


def _ran_full(error: BaseException) -> bool:
    """Whether there was no room; a key that could not be written has the system's reason as its cause."""
    reason = error.__cause__ if isinstance(error, KeyFileError) else error
    return isinstance(reason, OSError) and reason.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
