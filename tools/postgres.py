"""A PostgreSQL server of one's own, for tests and measurements; Linux, standard library only.

It listens on a Unix socket in a folder that only its user enters, and nowhere else, and it asks
for no password. It syncs as a real one does, because what it is asked about is durability.
Not for keeping anything: it goes with the block that made it.
"""

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from urllib.parse import quote

from tools.errors import Error

OWNER = "postgres"
"""The superuser of the server, whatever the user is called that runs it."""

_DEBIAN = Path("/usr/lib/postgresql")
_PROGRAMS = ("postgres", "initdb", "createdb")
_PATIENCE = 60.0
_SOCKET = ".s.PGSQL.5432"
_SOCKET_BYTES = 107  # sun_path of unix(7), less its final zero
_SETTINGS = {
    "listen_addresses": "",
    "fsync": "on",
    "synchronous_commit": "on",
    "full_page_writes": "on",
    "dynamic_shared_memory_type": "mmap",  # in the data folder: a kill leaves nothing in /dev/shm
    "log_timezone": "UTC",
    "timezone": "UTC",
}
_SIGNALS = {"smart": signal.SIGTERM, "fast": signal.SIGINT, "immediate": signal.SIGQUIT}


class PostgresMissingError(Error):
    """PostgreSQL is not installed here."""

    code = "postgres-missing"
    remedy = "Install it: apt-get install -y postgresql."


class PostgresError(Error):
    """PostgreSQL is installed and did not do what it was asked."""

    code = "postgres-failed"
    remedy = "Read the lines of the server's log in the sentence."


def programs() -> Path | None:
    """Return the folder of the server's programs, the newest version's where there are several."""
    on_path = shutil.which("postgres")
    folders = [Path(on_path).resolve().parent] if on_path else []
    folders += sorted(_DEBIAN.glob("*/bin"), key=lambda folder: int(f"0{folder.parent.name}"), reverse=True)
    complete = (folder for folder in folders if all(os.access(folder / name, os.X_OK) for name in _PROGRAMS))
    return next(complete, None)


@dataclass(frozen=True, slots=True)
class _Runner:
    """Who runs the server; nothing where that is whoever runs us."""

    uid: int | None = None
    gid: int | None = None

    @classmethod
    def found(cls) -> "_Runner":
        """Return ourselves or, as PostgreSQL refuses to run as root, the packaged user or nobody."""
        if os.geteuid() != 0:
            return cls()
        users = {user.pw_name: user for user in pwd.getpwall()}
        user = users.get("postgres") or users["nobody"]
        return cls(user.pw_uid, user.pw_gid)

    def own(self, folder: Path) -> None:
        """Make the folder private to the runner."""
        if self.uid is not None and self.gid is not None:
            os.chown(folder, self.uid, self.gid)
        folder.chmod(0o700)

    def reaches(self, folder: Path) -> bool:
        """Whether the runner may pass through every folder above this one."""
        return self.uid is None or all(parent.stat().st_mode & 0o001 for parent in folder.resolve().parents)

    def start(self, command: list[str], log: Path) -> "subprocess.Popen[bytes]":
        environment = {name: value for name, value in os.environ.items() if not name.startswith("PG")}
        with log.open("ab") as output:
            return subprocess.Popen(  # noqa: S603 - PostgreSQL's own programs, found above
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd="/",
                env={**environment, "LC_ALL": "C"},
                user=self.uid,
                group=self.gid,
                extra_groups=None if self.uid is None else [],
                start_new_session=True,  # an interrupt at the terminal is for us to pass on
            )


class Server:
    """One server with its data; start it, stop it, kill it, and start it again on the same data."""

    def __init__(self, data: Path, sockets: Path, log: Path, bin_folder: Path, runner: _Runner) -> None:
        """Describe a server whose folders exist; use `running`."""
        self.data = data
        self.log = log
        self._sockets = sockets
        self._bin = bin_folder
        self._runner = runner
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """The address of the database `ledger`, which is there and empty when `running` begins."""
        return self.url_of("ledger")

    def url_of(self, database: str) -> str:
        """The address of a database, there or not, as its owner."""
        return f"postgresql:///{quote(database)}?host={quote(str(self._sockets))}&user={OWNER}"

    def create(self, database: str, template: str = "template1") -> str:
        """Make a database, a copy of `template`, and return its address."""
        self._run("createdb", "-h", str(self._sockets), "-U", OWNER, "-T", template, database)
        return self.url_of(database)

    @property
    def pid(self) -> int:
        """The process of the postmaster."""
        if self._process is None:
            raise PostgresError("The server is not running.")
        return self._process.pid

    def start(self) -> None:
        """Start, recover where that is needed, and return when clients are let in."""
        if self._process is not None:
            raise PostgresError("The server is running already.")
        settings = [f"--{name}={value}" for name, value in _SETTINGS.items()]
        command = [str(self._bin / "postgres"), "-D", str(self.data), "-k", str(self._sockets), *settings]
        setpriv = shutil.which("setpriv")
        tied = [setpriv, "--pdeathsig", "QUIT"] if setpriv else []  # it ends when we are killed: prctl(2)
        self._process = self._runner.start([*tied, *command], self.log)
        deadline = time.monotonic() + _PATIENCE
        while not self._ready():
            if self._process.poll() is not None:
                self._process = None
                raise PostgresError(f"PostgreSQL ended while it started. {self._last_lines()}")
            if time.monotonic() > deadline:
                self.kill()
                raise PostgresError(
                    f"PostgreSQL was not ready after {_PATIENCE:.0f} seconds. {self._last_lines()}"
                )
            time.sleep(0.01)

    def stop(self, mode: Literal["smart", "fast", "immediate"]) -> None:
        """Stop in one of PostgreSQL's three ways; `immediate` leaves recovery to the next start."""
        os.kill(self.pid, _SIGNALS[mode])
        self._wait()

    def kill(self) -> None:
        """Kill the postmaster and every process it started, at once and without a chance to write."""
        pid = self.pid
        os.kill(pid, signal.SIGSTOP)  # it shall not start another, nor tend to those that die
        children = _children(pid)
        for each in (*children, pid):
            try:
                os.kill(each, signal.SIGKILL)
            except ProcessLookupError:
                continue  # it had ended by itself
        self._wait()
        deadline = time.monotonic() + _PATIENCE
        while any(_alive(child) for child in children):
            if time.monotonic() > deadline:
                raise PostgresError("A process of the server outlived being killed.")
            time.sleep(0.002)

    @property
    def is_running(self) -> bool:
        """Whether it was started, and not yet stopped or killed by us."""
        return self._process is not None

    def _wait(self) -> None:
        if self._process is not None:
            try:
                self._process.wait(timeout=_PATIENCE)
            except subprocess.TimeoutExpired as error:
                raise PostgresError(f"PostgreSQL does not end. {self._last_lines()}") from error
            self._process = None

    def _ready(self) -> bool:
        """Whether the postmaster says so in its lock file, as pg_ctl reads it (pg_ctl -w)."""
        try:
            lines = (self.data / "postmaster.pid").read_text(encoding="ascii").split("\n")
        except FileNotFoundError:
            return False
        return len(lines) > 7 and lines[0] == str(self.pid) and lines[7].strip() == "ready"

    def _run(self, program: str, *arguments: str) -> None:
        process = self._runner.start([str(self._bin / program), *arguments], self.log)
        try:
            status = process.wait(timeout=_PATIENCE)
        except subprocess.TimeoutExpired as error:
            process.kill()
            process.wait()
            raise PostgresError(f"{program} does not end. {self._last_lines()}") from error
        if status:
            raise PostgresError(f"{program} ended with status {status}. {self._last_lines()}")

    def initialise(self) -> None:
        """Fill the data folder, unsynced: a loss of power before the test begins loses no test."""
        self._run(
            "initdb", "-D", str(self.data), "-U", OWNER, "--no-sync", "--auth=trust", "--no-locale", "-EUTF8"
        )

    def _last_lines(self) -> str:
        lines = self.log.read_text(encoding="utf-8", errors="replace").splitlines()
        return "The log's last lines: " + (" | ".join(lines[-8:]) or "none") + "."


@contextmanager
def running(folder: Path) -> Iterator[Server]:
    """Make a server with an empty database `ledger`, and stop it when the block ends.

    Its data lie in `folder` where the user who runs the server can reach that, and else in a
    temporary folder beside the socket; `Server.data` says where. As root, that user is not us.
    """
    bin_folder = programs()
    if bin_folder is None:
        raise PostgresMissingError("There is no PostgreSQL server on PATH, nor under /usr/lib/postgresql.")
    runner = _Runner.found()
    folder.mkdir(parents=True, exist_ok=True)
    short = _short_folder()
    try:
        runner.own(short)
        data = (folder if runner.reaches(folder / "data") else short) / "data"
        data.mkdir()
        runner.own(data)
        server = Server(data, short, folder / "postgres.log", bin_folder, runner)
        server.initialise()
        try:
            server.start()
            server.create("ledger")
            yield server
        finally:
            if server.is_running:
                server.stop("immediate")
    finally:
        shutil.rmtree(short)


def _short_folder() -> Path:
    """Make a folder whose path leaves room for the socket's name."""
    for parent in (tempfile.gettempdir(), "/tmp"):  # noqa: S108 - mkdtemp makes what nobody else enters
        if len(os.fsencode(parent)) + len("/pg-12345678/") + len(_SOCKET) <= _SOCKET_BYTES:
            return Path(tempfile.mkdtemp(prefix="pg-", dir=parent))
    raise PostgresError("No temporary folder has a path short enough for a Unix socket.")


def _children(pid: int) -> tuple[int, ...]:
    return tuple(
        int(entry.name)
        for entry in Path("/proc").iterdir()
        if entry.name.isdigit() and _status(int(entry.name)).get("PPid") == str(pid)
    )


def _alive(pid: int) -> bool:
    """Whether a process still has anything: a dead one that nobody asked after has nothing left."""
    return _status(pid).get("State", "Z")[0] not in "ZX"


def _status(pid: int) -> dict[str, str]:
    try:
        text = Path(f"/proc/{pid}/status").read_text(encoding="utf-8", errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return {}
    return {name: value.strip() for name, _, value in (line.partition(":") for line in text.splitlines())}
