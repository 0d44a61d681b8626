"""Other people's programs, each in an environment of its own, and a log of ours for them to judge.

What they are is in `requirements/` and `node/`, to the exact version. They are installed
once, from wherever pip and npm are configured to look, into `.venv-peers` of the checkout.
"""

import fcntl
import json
import os
import shlex
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NoReturn

import pytest

from authn.sealing import seal, unseal
from storage.keyring import Keyring, Sealer
from storage.ledger import Ledger
from storage.merkle import TILE_HEIGHT, TILE_WIDTH
from storage.receipt import Receipt
from storage.tile import bundle_path, tile_path
from tools.bootstrap import complaint_of

HERE = Path(__file__).parent
CACHE = HERE.parents[2] / ".venv-peers"
SIZES = (*range(1, 9), 255, 256, 257, 700, 70_000)
BATCH = 2048
INSTALL_SECONDS = 300


@dataclass(frozen=True)
class Peer:
    """Programs that cannot live beside ours, because they pin other versions or need another Python."""

    name: str
    python: tuple[int, int] = (3, 11)
    lock: str = ""  # a folder with package.json and package-lock.json, for what npm brings

    @property
    def requirements(self) -> Path:
        return HERE / "requirements" / f"{self.name}.txt"

    @property
    def files(self) -> tuple[Path, ...]:
        """All that decides what is installed."""
        lock = ("package.json", "package-lock.json") if self.lock else ()
        return (self.requirements, *(HERE / self.lock / name for name in lock))

    @property
    def folder(self) -> Path:
        return CACHE / self.name


AICS = Peer("aics", (3, 12))
SIGSTORE = Peer("sigstore")
NODE = Peer("node", lock="node")
SCITT = Peer("scitt")


def pythons() -> Iterator[str]:
    """Every interpreter that may be here, ours first; whether one runs is for the caller to see."""
    yield sys.executable
    yield from filter(None, (shutil.which(f"python3.{minor}") for minor in range(11, 30)))
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    uv = Path(os.environ.get("UV_PYTHON_INSTALL_DIR", Path.home() / ".local" / "share" / "uv" / "python"))
    for root in (pyenv, uv):
        yield from map(str, sorted(root.glob("*/bin/python3")))


def python_for(peer: Peer) -> str | None:
    """The first interpreter that is new enough and starts."""
    ask = f"import sys; sys.exit(sys.version_info < {peer.python})"
    for python in pythons():
        if subprocess.run([python, "-c", ask], capture_output=True, check=False).returncode == 0:
            return python
    return None


def environment() -> dict[str, str]:
    """Ours, but for what would make another Python load our packages."""
    return {name: value for name, value in os.environ.items() if name not in {"PYTHONPATH", "PYTHONHOME"}}


@contextmanager
def locked(name: str) -> Iterator[None]:
    """Let one process at a time install `name`."""
    CACHE.mkdir(exist_ok=True)
    with (CACHE / f".{name}.lock").open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def absent(reason: str) -> NoReturn:
    """Skip and say so; where CI says that nothing may be missing, fail."""
    if os.environ.get("CI") == "true":
        pytest.fail(f"CI must not skip this; {reason}", pytrace=False)
    pytest.skip(f"NOT CHECKED by other people's programs: {reason}")


def install(*command: str | Path, path: str = "") -> None:
    """Run one step of an installation, without a question asked."""
    line = [os.fspath(word) for word in command]
    told = environment()
    told["PATH"] = os.pathsep.join(filter(None, (path, told.get("PATH", os.defpath))))
    try:
        subprocess.run(
            line,
            env=told,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=True,
            timeout=INSTALL_SECONDS,
        )
    except (OSError, subprocess.SubprocessError) as error:
        said = (getattr(error, "stderr", None) or str(error)).replace("npm error", "error:")
        absent(f"{complaint_of(said)}; see what '{shlex.join(line)}' says")


def installed(peer: Peer) -> Path:
    """Return the folder of a peer's environment, made anew where what it depends on has changed.

    1. Find a Python; where none is new enough, skip even in CI, with the line that installs one.
    2. Nothing to do when the stamp says so: no network.
    3. An environment without pip, which Debian makes without python3-venv too.
    4. Our pip installs there, configured as the user has it; it runs no code of the packages.
    5. npm likewise, where the peer has a lock.
    6. The stamp comes last.
    """
    python = python_for(peer)
    if python is None:
        version = ".".join(map(str, peer.python))
        pytest.skip(
            f"NOT CHECKED by {peer.name}, which needs Python {version} or newer: 'uv python install {version}'"
        )
    wanted = "\n".join([python, *(path.read_text(encoding="utf-8") for path in peer.files)])
    stamp, inside = peer.folder / ".stamp", peer.folder / "bin" / "python"
    with locked(peer.name):
        if stamp.is_file() and stamp.read_text(encoding="utf-8") == wanted and inside.exists():
            return peer.folder
        shutil.rmtree(peer.folder, ignore_errors=True)
        install(python, "-m", "venv", "--without-pip", peer.folder)
        pip = (sys.executable, "-m", "pip", "--python", inside, "--disable-pip-version-check")
        options = ("--quiet", "--only-binary", ":all:", "--requirement", peer.requirements)
        install(*pip, "install", *options)
        if peer.lock:
            for path in peer.files[1:]:
                shutil.copy(path, peer.folder)
            npm = (peer.folder / "bin" / "npm", "--prefix", peer.folder)
            install(*npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund", path=str(peer.folder / "bin"))
        stamp.write_text(wanted, encoding="utf-8")
    return peer.folder


@pytest.fixture(scope="session")
def aics() -> Path:
    """The folder of aics-tlog and aics-witness."""
    return installed(AICS) / "bin"


@pytest.fixture(scope="session")
def sigstore() -> tuple[str, ...]:
    """The command that asks sigstore-python."""
    return (str(installed(SIGSTORE) / "bin" / "python"), str(HERE / "ask_sigstore.py"))


@pytest.fixture(scope="session")
def sigstore_js() -> tuple[str, ...]:
    """The command that asks @sigstore/verify."""
    folder = installed(NODE)
    return (str(folder / "bin" / "node"), str(HERE / "ask_sigstore.mjs"), str(folder))


@pytest.fixture(scope="session")
def scitt() -> tuple[str, ...]:
    """The command that asks scitt-cose."""
    return (str(installed(SCITT) / "bin" / "python"), str(HERE / "ask_scitt.py"))


@pytest.fixture(scope="session")
def gocheck() -> str:
    """The command that asks Go's sumdb, built from what Debian installed and nothing else."""
    source, folder = HERE / "gocheck.go", CACHE / "go"
    program, stamp = folder / "gocheck", folder / ".stamp"
    told = {
        **os.environ,
        "GO111MODULE": "off",
        "GOPATH": "/usr/share/gocode",
        "GOFLAGS": "",
        "GOPROXY": "off",
        "GOCACHE": str(folder / "cache"),
        "CGO_ENABLED": "0",
    }
    version = subprocess.run(["go", "version"], env=told, capture_output=True, text=True, check=True).stdout
    wanted = version + source.read_text(encoding="utf-8")
    with locked("go"):
        if not (stamp.is_file() and stamp.read_text(encoding="utf-8") == wanted and program.exists()):
            folder.mkdir(exist_ok=True)
            stamp.unlink(missing_ok=True)
            subprocess.run(["go", "build", "-o", str(program), str(source)], env=told, check=True)
            stamp.write_text(wanted, encoding="utf-8")
    return str(program)


Ask = Callable[[Sequence[str], object], Any]


@pytest.fixture(scope="session")
def ask() -> Ask:
    """Hand a program a question as JSON and return its answer."""

    def asked(command: Sequence[str], question: object) -> Any:
        done = subprocess.run(
            command,
            input=json.dumps(question),
            env=environment(),
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    return asked


@dataclass(frozen=True)
class Published:
    """What a stranger could fetch of our log when it had this size, and the receipts of some entries."""

    size: int
    folder: Path
    receipts: tuple[Receipt, ...]

    @property
    def note(self) -> bytes:
        return (self.folder / "checkpoint").read_bytes()


@dataclass(frozen=True)
class Grown:
    """One log as it was at each of `SIZES`."""

    ledger: Ledger
    at: dict[int, Published]


@pytest.fixture(scope="session")
def ledger(tmp_path_factory: pytest.TempPathFactory, log: Any) -> Iterator[Ledger]:
    """An empty ledger: the one place of this folder where one is made."""
    folder = tmp_path_factory.mktemp("ledger")
    sealer = Sealer(Keyring.create(folder / "keyring", bytes(range(32))), seal, unseal)
    with Ledger.create(f"sqlite:///{folder / 'ledger.db'}", log.name, sealer) as made:
        yield made


@pytest.fixture(scope="session")
def grown(
    ledger: Ledger, log: Any, make_record: Callable[[int], Any], tmp_path_factory: pytest.TempPathFactory
) -> Grown:
    """Our log, appended to in batches, published at every size."""
    root = tmp_path_factory.mktemp("published")
    published = {}
    for size in SIZES:
        for start in range(ledger.size, size, BATCH):
            records = [make_record(number) for number in range(start, min(start + BATCH, size))]
            ledger.append(records, datetime.now(UTC), log.sign)
        folder = root / str(size)
        write(ledger, folder)
        chosen = sorted({0, 1, 2, size // 3, size // 2, 254, 255, 256, 65_535, 65_536, size - 2, size - 1})
        receipts = tuple(ledger.prove(index) for index in chosen if 0 <= index < size)
        published[size] = Published(size, folder, receipts)
    return Grown(ledger, published)


def write(ledger: Ledger, folder: Path) -> None:
    """Write the log as static files, as c2sp.org/tlog-tiles lays them out."""
    size = ledger.size
    files = {"checkpoint": ledger.checkpoint().encode()}
    for number, width in parts(size):
        files[bundle_path(number, width)] = ledger.bundle(number, width)
    for level in range(size.bit_length() // TILE_HEIGHT + 1):
        for number, width in parts(size >> TILE_HEIGHT * level):
            files[tile_path(level, number, width)] = ledger.tile(level, number, width)
    for name, data in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)


def parts(count: int) -> Iterator[tuple[int, int]]:
    """The number and width of every tile of a row of `count` hashes."""
    for start in range(0, count, TILE_WIDTH):
        yield start // TILE_WIDTH, min(TILE_WIDTH, count - start)


class Quiet(SimpleHTTPRequestHandler):
    """Serves files and prints nothing."""

    def log_message(self, *_: object) -> None:
        pass


Serve = Callable[[Path], AbstractContextManager[str]]


@pytest.fixture(scope="session")
def served() -> Serve:
    """Serve a folder over HTTP on this machine, while the block runs."""

    @contextmanager
    def serve(folder: Path) -> Iterator[str]:
        with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder))) as server:
            thread = threading.Thread(target=server.serve_forever)
            thread.start()
            try:
                yield f"http://127.0.0.1:{server.server_port}/"
            finally:
                server.shutdown()
                thread.join()

    return serve
