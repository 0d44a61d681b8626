"""What this machine can do for Lightseal, one line per capability.

It looks and changes nothing, and it opens no connection: an authority or a
database that cannot be reached is not seen here, nor is a wrong password. Packages
are found by their metadata; whether each of them starts is not tried.
"""

import ctypes
import importlib.util
import locale
import shutil
import stat
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path

import authn.errors
import storage.errors
import tools.errors
from tools import programs, requirements

# No correct clock shows an earlier time than this release was made.
RELEASED = datetime(2026, 11, 25, tzinfo=UTC)

FREE_BYTES = 1 << 30

OPENCV_LIBRARIES = ("libGL.so.1", "libxcb.so.1", "libgthread-2.0.so.0")
GPU_NODES = (Path("/dev/nvidiactl"), Path("/dev/dxg"))
GPU_LIBRARIES = ("libcublasLt.so.13", "libcudnn.so.9")
# What speaks to keys outside a file, by the extra that brings it.
KEEPERS = (("hsm", "python-pkcs11"), ("tpm", "tpm2-pytss"), ("kms", "boto3"))
INSTALL = "run 'python3 -m tools demo' in the checkout"


class State(StrEnum):
    """Whether a capability can be used; DEGRADED works, but not as it should."""

    OK = "ok"
    MISSING = "missing"
    DEGRADED = "degraded"


@dataclass(frozen=True, slots=True)
class Capability:
    """One thing looked for, what was found, and how to get it where it is not there."""

    name: str
    state: State
    detail: str
    remedy: str = ""


def capabilities(home: Path | None = None, *, at: datetime | None = None) -> tuple[Capability, ...]:
    """Look at this machine, and at the home where one is named."""
    return (
        _python(),
        *(_package(name) for name in requirements.required()),
        _runtime(_versions(requirements.RUNTIMES)),
        _opencv(_versions(requirements.OPENCVS), _absent(OPENCV_LIBRARIES)),
        _gpu(
            _versions(requirements.RUNTIMES),
            _absent(GPU_LIBRARIES),
            device=any(node.exists() for node in GPU_NODES),
        ),
        _heic(),
        *(_keeper(extra, package) for extra, package in KEEPERS),
        *_home(home),
        *(_program(program) for program in programs.PROGRAMS),
        _disk(shutil.disk_usage(_existing(home or Path.cwd())).free),
        _clock(at or datetime.now(UTC)),
        _locale(locale.getencoding(), sys.flags.utf8_mode),
    )


def render(found: tuple[Capability, ...]) -> str:
    """One line for each, in columns; a remedy follows an arrow."""
    width = max((len(one.name) for one in found), default=0)
    lines = (f"{one.state:<8}  {one.name:<{width}}  {one.detail}" + _arrow(one.remedy) for one in found)
    return "\n".join(" ".join(line.splitlines()) for line in lines)


def _arrow(remedy: str) -> str:
    return f" -> {remedy}" if remedy else ""


def _python() -> Capability:
    version = ".".join(map(str, sys.version_info[:3]))
    if sys.version_info < (3, 11):  # noqa: UP036 - an installation can outlive the Python it was made for
        return Capability("python", State.DEGRADED, version, "install Python 3.11 or newer")
    return Capability("python", State.OK, f"{version} in {sys.prefix}")


def _versions(distributions: tuple[str, ...]) -> dict[str, str]:
    found = {name: requirements.version(name) for name in distributions}
    return {name: version for name, version in found.items() if version is not None}


def _package(name: str) -> Capability:
    version = requirements.version(name)
    if version is None:
        return Capability(name, State.MISSING, "not installed", INSTALL)
    return Capability(name, State.OK, version)


def _runtime(found: dict[str, str]) -> Capability:
    name = "onnxruntime"
    listed = " and ".join(f"{one} {version}" for one, version in found.items())
    match len(found):
        case 0:
            return Capability(name, State.MISSING, "not installed", INSTALL)
        case 1:
            return Capability(name, State.OK, listed)
        case _:
            remedy = "uninstall both, then install one; they overwrite each other's files"
            return Capability(name, State.DEGRADED, f"conflict: {listed}", remedy)


def _opencv(found: dict[str, str], absent: tuple[str, ...]) -> Capability:
    name = "opencv"
    listed = " and ".join(f"{one} {version}" for one, version in found.items())
    if not found:
        return Capability(name, State.MISSING, "not installed", INSTALL)
    if len(found) > 1:
        remedy = "uninstall all of them, then install one; they overwrite each other's files"
        return Capability(name, State.DEGRADED, f"conflict: {listed}", remedy)
    if listed.partition(" ")[0].endswith("-headless"):
        return Capability(name, State.OK, f"{listed} (without windows, none are opened)")
    if sys.platform == "linux" and absent:
        remedy = (
            "apt-get install -y libgl1 libglib2.0-0 libxcb1, or install opencv-python-headless in its place"
        )
        return Capability(name, State.DEGRADED, f"{listed}, which cannot load {', '.join(absent)}", remedy)
    return Capability(name, State.OK, listed)


def _gpu(runtimes: dict[str, str], absent: tuple[str, ...], *, device: bool) -> Capability:
    """Whether a GPU could be used. Never having one is no fault: the CPU is the default."""
    name = "gpu"
    if "onnxruntime-gpu" not in runtimes:
        return Capability(name, State.OK, "not used: onnxruntime-gpu is not installed; the CPU does the work")
    if not device:
        return Capability(name, State.OK, "not used: no NVIDIA driver on this machine; the CPU does the work")
    if absent:
        remedy = "pip install 'lightseal[gpu]', or stay on the CPU"
        return Capability(name, State.DEGRADED, f"not used: {', '.join(absent)} cannot be loaded", remedy)
    return Capability(name, State.OK, "a driver and CUDA are here; used where the CPU is not asked for")


def _absent(libraries: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(library for library in libraries if not _loads(library))


def _loads(library: str) -> bool:
    if _bundled(library):
        return True
    try:
        ctypes.CDLL(library)
    except OSError:
        return False
    return True


def _bundled(library: str) -> bool:
    """Whether a CUDA wheel brings the library, where the loader itself does not look."""
    spec = importlib.util.find_spec("nvidia")
    folders = (spec.submodule_search_locations or []) if spec else []
    return any(any(Path(folder).glob(f"*/lib/{library}")) for folder in folders)


def _keeper(extra: str, package: str) -> Capability:
    version = requirements.version(package)
    if version is None:
        return Capability(
            extra, State.MISSING, f"{package} is not installed", f"pip install 'lightseal[{extra}]'"
        )
    return Capability(extra, State.OK, f"{package} {version}")


def _heic() -> Capability:
    version = requirements.version("pillow-heif")
    if version is None:
        return Capability("heic", State.MISSING, "HEIC pixels are not read", "pip install 'lightseal[heic]'")
    return Capability("heic", State.OK, f"pillow-heif {version}")


def _home(home: Path | None) -> Iterator[Capability]:
    if home is None:
        yield Capability("home", State.MISSING, "none was named", "run 'lightseal init'")
        return
    if not home.is_dir():
        yield Capability("home", State.MISSING, f"{home} is not there", "run 'lightseal init'")
        return
    yield Capability("home", State.OK, str(home))
    yield _opening("ledger", _ledger_place(home), _open_ledger)
    yield _opening("signer list", home / "trust" / "signers.pem", _parse_signers)
    yield _opening("time-stamper list", home / "trust" / "time-stampers.pem", _parse_time_stampers)
    yield _keys(home)


def _opening(name: str, path: Path, look: Callable[[Path], str]) -> Capability:
    """Whether a part of the home is there and can be used, not only named."""
    if not path.is_file():
        return Capability(
            name, State.MISSING, f"{path} is not there", "restore it from a backup, or name another home"
        )
    try:
        return Capability(name, State.OK, f"{path}, {look(path)}")
    except OSError as error:
        return Capability(
            name, State.DEGRADED, f"{path} cannot be read ({error.strerror})", "check its mode and owner"
        )
    except (authn.errors.Error, storage.errors.Error, tools.errors.Error) as error:
        return Capability(name, State.DEGRADED, f"{path}: {error}", error.remedy)


def _ledger_place(home: Path) -> Path:
    """The database where it is a file of the home, else the file that says where it is."""
    from tools.own_log import FILE, OwnLog  # noqa: PLC0415 - doctor must also run where a package is broken

    try:
        elsewhere = OwnLog.open(home, (home / FILE).read_bytes()).database is not None
    except (OSError, tools.errors.Error):
        elsewhere = False
    return home / (FILE if elsewhere else "ledger.db")


def _open_ledger(path: Path) -> str:
    from tools.own_log import FILE, OwnLog  # noqa: PLC0415

    if not path.with_name(FILE).exists():
        raise tools.errors.HomeOutdatedError("it was made by an earlier version")
    own = OwnLog.open(path.parent, path.with_name(FILE).read_bytes())
    remembered = own.guard().newest()
    with own.reader() as ledger:
        known = f"the guard knows {remembered.size}" if remembered else "the guard knows none yet"
        return f"{ledger.size} entries of {ledger.origin}, {known}"


def _parse_signers(path: Path) -> str:
    from authn.profile import Profile  # noqa: PLC0415
    from authn.trust import Purpose, TrustList  # noqa: PLC0415

    return f"{len(TrustList.parse(path.read_bytes(), path.stem, Purpose.SIGNING, Profile.POLICY).anchors)} anchors"


def _parse_time_stampers(path: Path) -> str:
    from authn.profile import Profile  # noqa: PLC0415
    from authn.trust import Purpose, TrustList  # noqa: PLC0415

    parsed = TrustList.parse(path.read_bytes(), path.stem, Purpose.TIME_STAMPING, Profile.TIME_STAMPING)
    return f"{len(parsed.anchors)} anchors"


def _keys(home: Path) -> Capability:
    """Whether only their owner can read the keys, of devices and the service too. Does not open them."""
    places = ("keys/*.pem", "*/key.pem", "devices/*/key*.pem", "devices/*/pool/*.key")
    keys = sorted(path for place in places for path in home.glob(place))
    if not keys:
        return Capability("keys", State.MISSING, f"{home} holds none", "restore it, or name another home")
    exposed = [path for path in keys if stat.S_IMODE(path.stat().st_mode) & 0o077]
    if exposed:
        names = ", ".join(str(path.relative_to(home)) for path in exposed)
        remedy = f"chmod 600 {' '.join(map(str, exposed))}; revoke their devices if others may have read them"
        return Capability("keys", State.DEGRADED, f"others can read {names}", remedy)
    return Capability("keys", State.OK, f"{len(keys)} in {home}, readable by their owner only")


def _program(program: programs.Program) -> Capability:
    if program.path is None:
        return Capability(program.name, State.MISSING, f"{program.purpose}; for tests", program.remedy)
    return Capability(program.name, State.OK, program.path)


def _existing(path: Path) -> Path:
    return next(one for one in (path.absolute(), *path.absolute().parents) if one.exists())


def _disk(free: int) -> Capability:
    detail = f"{free / (1 << 30):.1f} GB free"
    if free < FREE_BYTES:
        return Capability("disk", State.DEGRADED, detail, "free at least 1 GB; a full disk stops the ledger")
    return Capability("disk", State.OK, detail)


def _clock(at: datetime) -> Capability:
    """Whether the clock can be right. One that is wrong by less is not noticed without a network."""
    shown = at.isoformat(timespec="seconds")
    if at < RELEASED:
        detail = f"{shown} is before this release was made ({RELEASED:%Y-%m-%d})"
        return Capability("clock", State.DEGRADED, detail, "set the clock, then keep it with an NTP client")
    return Capability("clock", State.OK, f"{shown}, not before this release")


def _locale(encoding: str, utf8_mode: int) -> Capability:
    if utf8_mode or encoding.lower().replace("-", "") == "utf8":
        return Capability("locale", State.OK, "UTF-8")
    return Capability(
        "locale", State.DEGRADED, f"{encoding}: names may be shown wrong", "export LC_ALL=C.UTF-8"
    )
