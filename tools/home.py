"""A home: one folder with a ledger, its keys, a private CA and the trust lists.

`tools.founding` makes it. Opens what is asked for and nothing else, and changes nothing by itself.
"""

import errno
import json
import os
import re
import stat
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from authn.custody.opening import open_provider
from authn.device import Certificate, Device, Enrolled, read_chain
from authn.errors import CertificateError
from authn.keys import KeyProvider, open_key
from authn.profile import Profile
from authn.timestamp.authority import Authority, Reserved, Safeguards
from authn.timestamp.clock import Tolerances, Watch
from authn.trust import Purpose
from storage.audit import AuditReport, AuditState
from storage.ledger import Ledger
from storage.note import VerifierKey
from storage.policy import Policy
from storage.registry.errors import RegistryMissingError
from storage.registry.registry import Registry
from tools import own_log
from tools.clock import Floor, steady
from tools.errors import (
    CertificateOverError,
    ClockBehindError,
    DeviceUnknownError,
    HomeDamagedError,
    HomeMissingError,
    HomeOutdatedError,
    HomeUnreadableError,
    UsageError,
)
from tools.own_log import OwnLog
from tools.published import InForce
from tools.serials import SERIALS, SerialFile
from tools.trust import ListFile, list_files

SCHEMA = "lightseal-home/1"
SERVICE = "service"
SERVICE_PRODUCT = "Lightseal Signing Service"
"""What the service's certificate names, and no device's."""
# RFC 3161 wants a policy; this one is ours alone, under the arc for examples (RFC 5612 has none for OIDs).
TIME_STAMP_POLICY = "1.3.6.1.4.1.32473.1"
MAX_PART_BYTES = 1 << 20

_CHAIN_FILE = re.compile(r"chain(-[0-9a-f]{8})?\.pem")
_DEVICE_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")


@dataclass(frozen=True, slots=True)
class Home:
    """An existing home. Opens nothing until asked."""

    path: Path
    own: OwnLog
    organisation: str
    ocsp_url: str
    keys: Mapping[str, str] = field(default_factory=dict)
    """Where the home's own keys are that are not files of it, by their names."""

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

    def registry(self) -> Registry:
        """Which products, devices and certificates there are, and what was withdrawn."""
        try:
            return Registry.open(self.registry_url)
        except RegistryMissingError as error:
            raise HomeOutdatedError(f"the home at {self.path} has no registry of devices") from error

    def registry_if_any(self) -> Registry | None:
        """The registry, for looking things up; a home without one can still be verified with."""
        try:
            return self.registry()
        except HomeOutdatedError:
            return None

    def witnesses(self) -> Policy | None:
        """Whose cosignatures date a checkpoint for us, as `witnesses.policy` says (C2SP tlog-policy)."""
        try:
            text = content_of(self.path / "witnesses.policy")
        except FileNotFoundError:
            return None
        return Policy.parse(text.decode("utf-8", "replace"))

    @property
    def registry_url(self) -> str:
        """Where the registry is: beside a ledger in SQLite, or in the ledger's own PostgreSQL database."""
        return self.own.database or f"sqlite:///{self.path / 'registry.db'}"

    def lists(self) -> tuple[ListFile, ...]:
        """Whom this home believes, each about one thing only."""
        return list_files(self.path / "trust")

    def own_lists(self) -> tuple[ListFile, ListFile]:
        """The two lists that recognise what this home itself signs and dates, whoever else it believes."""
        certificates = self.path / "certificates"
        try:
            root, time_root = (content_of(certificates / f"{name}.pem") for name in ("root", "time-root"))
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

    def authority(self, now: Callable[[], datetime], ledger: Ledger) -> Authority:
        """The home's own time-stamp authority, as a function from query to reply.

        Refuses once `now` was set since, and behind what is on record in `ledger`, which has to stay
        open. What it gives is for the caller to record.
        """
        policy = self.witnesses()
        floor = Floor(ledger, None if policy is None else InForce(self.own, policy))
        watch = Watch(now(), steady, Tolerances())
        return Authority(
            self.key("time-stamping"),
            (self.certificate("time-stamping"),),
            TIME_STAMP_POLICY,
            now,
            Reserved(SerialFile(self.path / SERIALS, now)),
            Safeguards(lambda moment: floor.doubt() or watch.doubt(moment), floor.lately),
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
        """An enrolled device, or the home's own signing service, with its key."""
        enrolled, address = self._enrolled(name)
        return enrolled.with_key(open_key_in(self.device_folder(name), address))

    def enrolled(self, name: str) -> Enrolled:
        """The same without its key, which may be in a token that is not plugged in."""
        return self._enrolled(name)[0]

    def _enrolled(self, name: str) -> tuple[Enrolled, str]:
        folder = self.device_folder(name)
        try:
            about = json.loads(content_of(folder / "device.json"))
            chain = read_chain(content_of(folder / chain_file(about)))
            if not chain:
                raise HomeDamagedError(f"the record of device {name} holds no certificate")
            lifetime, address = str(about.get("lifetime", "standard")), str(about.get("key", "file:key.pem"))
            return Enrolled(name, chain, bytes.fromhex(about["salt"]), lifetime), address
        except FileNotFoundError as error:
            raise DeviceUnknownError(f"no device named {name} is enrolled in this home") from error
        except (
            OSError,
            ValueError,
            KeyError,
            TypeError,
            AttributeError,
            RecursionError,
            CertificateError,
        ) as error:
            raise HomeDamagedError(f"the record of device {name} cannot be read") from error

    def devices(self) -> tuple[str, ...]:
        """The names of all enrolled devices."""
        return tuple(
            sorted(
                folder.name for folder in (self.path / "devices").iterdir() if not folder.name.startswith(".")
            )
        )

    def device_folder(self, name: str) -> Path:
        """Where a device of this home is kept, or would be."""
        if _DEVICE_NAME.fullmatch(name) is None:
            raise DeviceUnknownError("a device's name is 1 to 64 of a-z, 0-9, dot, dash and underscore")
        if name == SERVICE:
            return self.path / SERVICE
        folder = self.path / "devices" / name
        if folder.is_symlink():
            raise HomeDamagedError(
                f"{folder} is a link; a device has one name, and its folder lies in the home"
            )
        return folder

    def _require_readable(self) -> None:
        place = self.path / "ledger.db"
        # Asked and not tried: closing the file would let go of locks that this process holds (POSIX fcntl).
        if place.is_file() and not os.access(place, os.R_OK):
            raise HomeUnreadableError(f"{place} cannot be read ({os.strerror(errno.EACCES)})")

    def key(self, name: str) -> KeyProvider:
        """One of the home's own keys: a file, unless `home.json` names another place by its URI."""
        return open_key_in(self.path / "keys", self.keys.get(name, f"file:{name}.pem"))

    def issuers(self) -> tuple[str, ...]:
        """The names of the authorities that certified devices, oldest first; the last one does so now."""
        found = (self.path / "certificates").glob("issuing*.pem")
        numbers = sorted(int(path.stem.partition("-")[2] or 1) for path in found)
        return tuple("issuing" if number == 1 else f"issuing-{number}" for number in numbers)

    def certificate(self, name: str) -> Certificate:
        """One of the certificates that go with these keys."""
        try:
            return read_chain(content_of(self.path / "certificates" / f"{name}.pem"))[0]
        except (OSError, CertificateError) as error:
            raise HomeDamagedError(f"the certificate {name}.pem of this home cannot be read") from error


def chain_file(about: Mapping[str, object]) -> str:
    """Which file of a device's folder holds its chain: `device.json` says so, once the device was renewed."""
    name = about.get("chain", "chain.pem")
    if not isinstance(name, str) or _CHAIN_FILE.fullmatch(name) is None:
        raise ValueError("the chain is named by a path")
    return name


def open_key_in(folder: Path, address: str) -> KeyProvider:
    """The key of a folder that may be moved: a relative `file:` or `tpm:` path is one inside it."""
    scheme, colon, rest = address.partition(":")
    if not colon or scheme not in ("file", "tpm") or rest.startswith("/"):
        return open_provider(address)
    if scheme == "file" and "?" not in rest:
        return open_key(f"file:{folder.absolute() / rest}")  # whatever the folder is called
    return open_provider(f"{scheme}:{folder.absolute() / rest}")


def require_device_name(name: str) -> None:
    """Refuse a name that would not be a folder's."""
    if _DEVICE_NAME.fullmatch(name) is None:
        raise UsageError("a device's name is 1 to 64 of a-z, 0-9, dot, dash and underscore")


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
        about = json.loads(content_of(path / "home.json"))
    except (FileNotFoundError, NotADirectoryError) as error:
        raise HomeMissingError(f"there is no home at {path}") from error
    except (OSError, ValueError, RecursionError) as error:
        raise HomeDamagedError(f"the home at {path} cannot be read") from error
    try:
        if about["schema"] != SCHEMA:
            raise HomeDamagedError(f"the home at {path} was made by another version of Lightseal")
        organisation, ocsp_url = (str(about[name]) for name in ("organisation", "ocsp_url"))
        keys = {str(name): str(uri) for name, uri in about.get("keys", {}).items()}
        return Home(path, _own_log(path), organisation, ocsp_url, keys)
    except (KeyError, TypeError, AttributeError, RecursionError) as error:
        raise HomeDamagedError(f"the home at {path} cannot be read") from error


def _own_log(path: Path) -> OwnLog:
    try:
        return OwnLog.open(path, content_of(path / own_log.FILE))
    except FileNotFoundError as error:
        if (path / "keys" / "log.pem").exists():
            raise HomeOutdatedError(f"the home at {path} was made by an earlier version") from error
        raise HomeDamagedError(f"{path / own_log.FILE} is missing") from error
    except OSError as error:
        raise HomeDamagedError(f"{path / own_log.FILE} cannot be read") from error


def content_of(path: Path, limit: int = MAX_PART_BYTES) -> bytes:
    """The bytes of a part of a home, which is a file and not large; a pipe is not waited for."""
    try:
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
    except PermissionError as error:
        raise HomeUnreadableError(f"{path} cannot be read ({error.strerror})") from error
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise HomeDamagedError(f"{path} is not a file")
        with open(descriptor, "rb", closefd=False) as file:
            content = file.read(limit + 1)
    finally:
        os.close(descriptor)
    if len(content) > limit:
        raise HomeDamagedError(f"{path} is larger than {limit} bytes")
    return content
