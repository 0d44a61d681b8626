"""Make `.venv` and start there; standard library only, so that a fresh machine can run it.

It installs what `pyproject.toml` asks for, at the versions in `constraints.txt`, from
wherever pip is configured to look. It does not check signatures of what it installs.
"""

import fcntl
import functools
import hashlib
import os
import re
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from tools import programs, requirements

ROOT = Path(__file__).resolve().parents[1]
APT_SECONDS = 300

# A file's tests stay together: they share what is costly to start.
_AT_ONCE = ("--numprocesses", "auto", "--maxprocesses", "4", "--dist", "loadfile")
ISOLATING_VERBS = ("demo", "doctor")

# What pip was told about where packages come from, in the words that uv understands.
UV_NAMES = {
    "index-url": "UV_DEFAULT_INDEX",
    "extra-index-url": "UV_INDEX",
    "find-links": "UV_FIND_LINKS",
    "constraint": "UV_CONSTRAINT",
    "trusted-host": "UV_INSECURE_HOST",
    "cert": "SSL_CERT_FILE",
    "proxy": "ALL_PROXY",
}


class Wanted(StrEnum):
    """What `.venv` must hold; TEST includes RUNTIME."""

    RUNTIME = "runtime"
    TEST = "test"

    @property
    def requirement(self) -> str:
        """The checkout itself, with the extra this needs."""
        return "." if self is Wanted.RUNTIME else ".[test]"


class BootstrapError(Exception):
    """The first start cannot go on."""

    code = "bootstrap-failed"

    def __init__(self, reason: str, remedy: str) -> None:
        super().__init__(reason)
        self.remedy = remedy


@dataclass(frozen=True, slots=True)
class Done:
    """How a command ended."""

    status: int
    output: str = ""
    complaint: str = ""


Run = Callable[[Sequence[str], Mapping[str, str]], Done]
Command = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Checkout:
    """The places the bootstrap touches, all below one folder."""

    root: Path

    @property
    def venv(self) -> Path:
        """The environment everything is installed into."""
        return self.root / ".venv"

    @property
    def boot(self) -> Path:
        """Where uv lies while `.venv` cannot be made without it."""
        return self.root / ".venv-boot"

    @property
    def python(self) -> Path:
        """The interpreter of `.venv`."""
        return self.venv / "bin" / "python"

    @property
    def stamp(self) -> Path:
        """Written last, so that whatever was interrupted is done again."""
        return self.venv / ".stamp"

    @property
    def refused(self) -> Path:
        """The Debian packages that could not be installed and are not tried at every start."""
        return self.venv / ".refused"

    @property
    def constraints(self) -> Path:
        """The versions that are known to work together."""
        return self.root / "tools" / "constraints.txt"


def is_needed(verb: str) -> bool:
    """Whether this process is not yet where the verb can run."""
    if not (ROOT / "pyproject.toml").is_file():
        return False
    inside = Path(sys.prefix).resolve() == (ROOT / ".venv").resolve()
    return must_bootstrap(verb, inside=inside, installed=_installed)


def must_bootstrap(verb: str, *, inside: bool, installed: Callable[[], bool]) -> bool:
    """Decide it from what is known of this process."""
    if verb == "test":
        return True
    if inside:
        return False
    return verb in ISOLATING_VERBS or not installed()


def start(verb: str, arguments: list[str]) -> int:
    """Make `.venv` ready and run the verb in it; the result is an exit status.

    With `--no-system` among the arguments no Debian package is installed.
    """
    checkout = Checkout(ROOT)
    wanted = Wanted.TEST if verb == "test" else Wanted.RUNTIME
    allowed = "--no-system" not in arguments
    arguments = [argument for argument in arguments if argument != "--no-system"]
    try:
        with _locked(checkout.root):
            apt = functools.partial(_apt, _run) if allowed else _no_apt
            ensure(checkout, wanted, _run, apt)
            if verb == "test" and allowed:
                _install_programs(checkout, apt)
                install_tpm(checkout, _run)
        if verb == "test":
            return _check(checkout, arguments)
        command = [str(checkout.python), "-m", "tools", *([verb] if verb else []), *arguments]
        os.execv(command[0], command)  # noqa: S606 - our own interpreter, with the user's own arguments
    except BootstrapError as error:
        _say(f"error[{error.code}]: {error} -> {error.remedy}")
    except OSError as error:
        _say(f"error[{BootstrapError.code}]: {error} -> make it writable, with 1 GB free, and try again")
    except KeyboardInterrupt:
        _say("stopped; the same command goes on where it must")
        return 130
    return 1


def ensure(checkout: Checkout, wanted: Wanted, run: Run, apt: Callable[[Sequence[str]], bool]) -> None:
    """Bring `.venv` to what is wanted, or raise.

    1. Nothing to do when the stamp says so: no process, no network.
    2. The stamp goes first, so that an interrupted run is seen.
    3. Keep an environment that works; otherwise make one, in the first way that does.
    4. Install, with uv where it can be had, otherwise with pip.
    5. OpenCV must import; where its system libraries are missing, the headless build takes its place.
    6. The stamp comes last.
    """
    if stamped(checkout, wanted):
        return
    checkout.stamp.unlink(missing_ok=True)
    environment = _environment(run)
    if not _usable(checkout, run):
        create(checkout, run, environment, apt)
    install(checkout, wanted, run, environment)
    replace_opencv(checkout, run, environment)
    checkout.stamp.write_text(stamp_of(checkout, wanted))
    shutil.rmtree(checkout.boot, ignore_errors=True)


def stamp_of(checkout: Checkout, wanted: Wanted) -> str:
    """Everything an installation depends on, in one line."""
    depends = hashlib.sha256()
    for part in (
        str(checkout.root).encode(),
        (checkout.root / "pyproject.toml").read_bytes(),
        checkout.constraints.read_bytes(),
        repr(sys.version_info[:2]).encode(),
    ):
        depends.update(len(part).to_bytes(8) + part)
    return f"{wanted} {depends.hexdigest()} {checkout.root}\n"


def stamped(checkout: Checkout, wanted: Wanted) -> bool:
    """Whether `.venv` was completed for this, or for more."""
    if not checkout.stamp.is_file() or not checkout.python.exists():
        return False
    return checkout.stamp.read_text() in {stamp_of(checkout, wanted), stamp_of(checkout, Wanted.TEST)}


def ways(checkout: Checkout, python: str) -> tuple[tuple[Command, ...], ...]:
    """How an environment with pip can be made, best first.

    Debian without python3-venv refuses the first. There pip refuses to install for
    the system (PEP 668), but not into a folder of our own, and uv needs no more.
    """
    return (
        ((python, "-m", "venv", str(checkout.venv)),),
        (
            (
                *(python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"),
                *("--target", str(checkout.boot), "--constraint", str(checkout.constraints), "uv"),
            ),
            (
                str(checkout.boot / "bin" / "uv"),
                "venv",
                "--quiet",
                "--seed",
                "--python",
                python,
                str(checkout.venv),
            ),
        ),
    )


def create(
    checkout: Checkout, run: Run, environment: Mapping[str, str], apt: Callable[[Sequence[str]], bool]
) -> None:
    """Make `.venv` in the first way that gives one with pip."""
    _say(f"making {checkout.venv}")
    plain, through_uv = ways(checkout, sys.executable)
    if _made(checkout, plain, run, environment).status == 0:
        return
    if run((sys.executable, "-m", "pip", "--version"), environment).status == 0:
        _say(
            "this Python cannot make one by itself (python3-venv is missing); taking uv instead, without root"
        )
        result = _made(checkout, through_uv, run, environment)
        if result.status == 0:
            return
        reason = f"no environment could be made: {complaint_of(result.complaint)}"
        raise BootstrapError(reason, "check the network and 'python3 -m pip config list', and try again")
    if apt(("python3-venv",)) and _made(checkout, plain, run, environment).status == 0:
        return
    remedy = "run 'apt-get install -y python3-venv' as root, and try again"
    raise BootstrapError("this Python has neither venv nor pip", remedy)


def install(checkout: Checkout, wanted: Wanted, run: Run, environment: Mapping[str, str]) -> None:
    """Install the checkout in place, so that `.venv/bin/lightseal` runs what is edited here."""
    _say(f"installing the {wanted} requirements (once; up to 900 MB on disk)")
    python, constraints = str(checkout.python), str(checkout.constraints)
    pip = (
        python,
        "-m",
        "pip",
        "install",
        "--quiet",
        "--disable-pip-version-check",
        "--constraint",
        constraints,
    )
    uv = _uv(checkout)
    if Path(uv[0]).exists() or run((*pip, "uv"), environment).status == 0:
        command = (
            *(*uv, "install", "--quiet", "--python", python),
            *(
                "--constraints",
                constraints,
                "--build-constraints",
                constraints,
                "--editable",
                wanted.requirement,
            ),
        )
        result = run(command, environment)
        if result.status == 0:
            return
        _say(f"uv could not install ({complaint_of(result.complaint)}); trying pip")
    result = run((*pip, "--editable", wanted.requirement), environment)
    if result.status != 0:
        reason = f"the dependencies could not be installed: {complaint_of(result.complaint)}"
        remedy = "check the network, the free disk space and 'python3 -m pip config list', and try again"
        raise BootstrapError(reason, remedy)


def install_tpm(checkout: Checkout, run: Run) -> None:
    """Add what speaks to a TPM where its headers are: the package is source only, and no other needs a compiler."""
    python, swtpm = str(checkout.python), programs.named("swtpm")
    if swtpm.path is None or run((python, "-c", "import tpm2_pytss"), {}).status == 0:
        return
    _say("building tpm2-pytss (once)")
    result = run(
        (
            *(*_uv(checkout), "install", "--quiet", "--python", python),
            *("--constraints", str(checkout.constraints), "--editable", ".[tpm]"),
        ),
        _environment(run),
    )
    if result.status != 0:
        _say(
            f"tests with a TPM will be skipped: tpm2-pytss cannot be built ({complaint_of(result.complaint)})"
        )


def replace_opencv(checkout: Checkout, run: Run, environment: Mapping[str, str]) -> None:
    """Take the headless OpenCV of the same version where the full one lacks system libraries."""
    probe = (str(checkout.python), "-c", "import cv2")
    result = run(probe, environment)
    if result.status == 0:
        return
    reason = complaint_of(result.complaint)
    full = "opencv-python"
    ask = f"from importlib.metadata import version; print(version('{full}'))"
    version = run((str(checkout.python), "-c", ask), environment)
    if version.status != 0:
        raise BootstrapError(f"OpenCV does not import: {reason}", f"remove {checkout.venv} and try again")
    wheel = f"{full}-headless=={version.output.strip()}"
    _say(f"OpenCV does not start here ({reason}); taking {wheel}, the same without windows")
    python = str(checkout.python)
    uv = _uv(checkout)
    if Path(uv[0]).exists():
        remove = (*uv, "uninstall", "--quiet", "--python", python, full, f"{full}-headless")
        add = (*uv, "install", "--quiet", "--python", python, "--no-deps", wheel)
    else:
        pip = (python, "-m", "pip")
        remove = (*pip, "uninstall", "--quiet", "--yes", full, f"{full}-headless")
        add = (*pip, "install", "--quiet", "--disable-pip-version-check", "--no-deps", wheel)
    for command in (remove, add, probe):
        result = run(command, environment)
    if result.status != 0:
        reason = f"OpenCV does not import: {complaint_of(result.complaint)}"
        raise BootstrapError(
            reason, "run 'apt-get install -y libgl1 libglib2.0-0 libxcb1' as root, and try again"
        )


def uv_environment(pip_config: str, environment: Mapping[str, str]) -> dict[str, str]:
    """What uv must be told to look where pip is configured to look.

    `pip_config` is the output of `pip config list`. What the user already set for uv stands.
    """
    told: dict[str, str] = {}
    for line in pip_config.splitlines():
        key, separator, value = line.partition("=")
        name = UV_NAMES.get(key.rpartition(".")[2])
        if separator and name and name not in environment:
            told[name] = " ".join(" ".join(shlex.split(value)).split())
    if "UV_INDEX" in told and "UV_INDEX_STRATEGY" not in environment:
        told["UV_INDEX_STRATEGY"] = "unsafe-best-match"  # several indices count alike, as they do for pip
    return told


def complaint_of(text: str) -> str:
    """The one line of an installer's complaint that names the cause: its first error, and uv's cause."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    errors = [line for line in lines if re.match(r"(?i)error\b|\w*Error:", line)]
    causes = [line for line in lines if line.startswith(("cause:", "Caused by:"))]
    offline = re.search(r"(?i)connection (broken|error)|dns error|name resolution", text)
    told = " ".join([*(errors or lines[-1:])[:1], *causes[:1]])
    return (f"no connection to a package index; {told}" if offline else told)[:400] or "no reason was given"


def checks(checkout: Checkout, arguments: Sequence[str]) -> tuple[tuple[str, Command], ...]:
    """The checks in the order they run; the arguments are for pytest."""
    python = str(checkout.python)
    return (
        ("format", (python, "-m", "ruff", "format", "--check", ".")),
        ("lint", (python, "-m", "ruff", "check", ".")),
        ("types", (python, "-m", "mypy")),
        ("architecture", (str(checkout.venv / "bin" / "lint-imports"),)),
        ("tests", (python, "-m", "pytest", *_AT_ONCE, *arguments)),
    )


def _check(checkout: Checkout, arguments: Sequence[str]) -> int:
    path = os.pathsep.join((str(checkout.venv / "bin"), os.environ.get("PATH", os.defpath)))
    for name, command in checks(checkout, arguments):
        _say(f"{name} ...")
        began = time.monotonic()
        status = subprocess.run(
            command, cwd=checkout.root, env={**os.environ, "PATH": path}, check=False
        ).returncode
        _say(f"{name} {'passed' if status == 0 else 'FAILED'} in {time.monotonic() - began:.1f} s")
        if status != 0:
            return status
    return 0


def _made(checkout: Checkout, way: tuple[Command, ...], run: Run, environment: Mapping[str, str]) -> Done:
    """Go one way from a clean start; what a refusal left behind is removed."""
    for leftover in (checkout.venv, checkout.boot):
        if leftover.exists():
            shutil.rmtree(leftover)
    for command in way:
        result = run(command, environment)
        if result.status != 0:
            shutil.rmtree(checkout.venv, ignore_errors=True)
            return result
    if _usable(checkout, run):
        return Done(0)
    shutil.rmtree(checkout.venv, ignore_errors=True)
    return Done(1, complaint="the environment came without pip")


def _usable(checkout: Checkout, run: Run) -> bool:
    """Whether `.venv` runs the Python it was made with, has pip, and was not moved here."""
    config = checkout.venv / "pyvenv.cfg"
    if not checkout.python.exists() or not config.is_file():
        return False
    pip = checkout.venv / "bin" / "pip"
    if not pip.is_file() or str(checkout.venv) not in pip.read_text(errors="replace"):
        return False
    made = re.search(r"^version(?:_info)?\s*=\s*(\d+)\.(\d+)", config.read_text(), re.MULTILINE)
    ask = "import pip, sys; print(*sys.version_info[:2], sep='.')"
    result = run((str(checkout.python), "-c", ask), {})
    if made is None or result.status != 0 or result.output.strip() != f"{made[1]}.{made[2]}":
        return False
    return (int(made[1]), int(made[2])) >= (3, 11)


def _environment(run: Run) -> dict[str, str]:
    listed = run((sys.executable, "-m", "pip", "config", "list"), {})
    return uv_environment(listed.output, os.environ) if listed.status == 0 else {}


def _uv(checkout: Checkout) -> Command:
    return (str(checkout.venv / "bin" / "uv"), "pip")


def _installed() -> bool:
    return all(map(requirements.version, requirements.required()))


def _install_programs(checkout: Checkout, apt: Callable[[Sequence[str]], bool]) -> None:
    """Try once for each missing program; tests that need one say what is missing themselves."""
    missing = _missing_packages()
    if not missing:
        return
    refused = set(checkout.refused.read_text().split()) if checkout.refused.is_file() else set()
    if os.environ.get("CI") == "true":
        refused = set()
    packages = sorted(missing - refused)
    if packages:
        apt(packages)  # where one is refused, the others may be there now
        missing = _missing_packages()
    if missing:
        checkout.refused.write_text("\n".join(sorted(missing)) + "\n")
        _say(f"tests that need them will be skipped; as root: apt-get install -y {' '.join(sorted(missing))}")


def _missing_packages() -> set[str]:
    return {package for program in programs.missing() for package in program.packages}


def _apt(run: Run, packages: Sequence[str]) -> bool:
    """Install Debian packages where we may without a password; False is no failure of ours."""
    apt = shutil.which("apt-get")
    prefix = _privilege(run)
    if apt is None or prefix is None:
        return False
    _say(f"installing Debian packages: {' '.join(packages)}")
    front = (*prefix, "env", "DEBIAN_FRONTEND=noninteractive", "timeout", str(APT_SECONDS), apt)
    run((*front, "update", "--quiet"), {})
    options = ("install", "--yes", "--quiet", "--no-install-recommends")
    outcomes = [
        run((*front, *options, package), {}) for package in packages
    ]  # one unknown must not stop the rest
    return all(outcome.status == 0 for outcome in outcomes)


def _no_apt(_packages: Sequence[str]) -> bool:
    return False


def _privilege(run: Run) -> Command | None:
    if os.geteuid() == 0:
        return ()
    if shutil.which("sudo") and run(("sudo", "-n", "true"), {}).status == 0:
        return ("sudo", "-n")
    return None


@contextmanager
def _locked(root: Path) -> Iterator[None]:
    """Hold the checkout, so that two first starts do not write into one `.venv`."""
    handle = os.open(root, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            _say("another start is at work here; waiting for it")
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _run(command: Sequence[str], more: Mapping[str, str]) -> Done:
    environment = {**os.environ, **more}
    done = subprocess.run(
        command,
        cwd=ROOT,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        encoding="utf-8",
        errors="replace",
        check=False,
    )
    return Done(done.returncode, done.stdout, done.stderr)


def _say(text: str) -> None:
    print(f"tools: {text}", file=sys.stderr, flush=True)
