import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from pathlib import Path

import pytest

import storage.errors
import tools.errors
from authn.keys import LogKey, generate_ed25519
from storage.entry import Kind
from storage.foreign.audit import Bodies
from storage.foreign.follow import ForeignRolledBackError, Unreadable, Use
from storage.note import VerifierKey
from tools.auditing import audit_foreign, audit_home, counted, told, uses
from tools.founding import create_home
from tools.home import Home, open_home
from tools.issuance.own import enrol

ROOT = Path(__file__).parents[2]
PROGRAM = "from tools.cli import main; main()"
REFUSED = (storage.errors.Error, tools.errors.Error)
Command = Callable[..., "subprocess.CompletedProcess[str]"]


def now() -> datetime:
    return datetime.now(UTC)


@contextmanager
def running(*arguments: object) -> Iterator[tuple[str, "subprocess.Popen[str]"]]:
    """Start the command as its users do, and read its address from its first line."""
    kept = {name: os.environ[name] for name in ("PATH", "LANG", "LD_LIBRARY_PATH") if name in os.environ}
    process = subprocess.Popen(
        [sys.executable, "-W", "error", "-c", PROGRAM, *map(str, arguments)],
        env={**kept, "PYTHONPATH": str(ROOT), "HOME": "/nonexistent"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        yield process.stdout.readline().strip(), process
    finally:
        process.terminate()
        process.communicate(timeout=60)


def record(home: Home, what: str) -> int:
    return home.own.record(Kind.POLICY, {"change": what}, now())


def copied(home: Home, to: Path) -> Home:
    return open_home(Path(shutil.copytree(home.path, to)))


def size_of(home: Home) -> int:
    with home.ledger_to_read() as ledger:
        return ledger.size


@contextmanager
def served(home: Home) -> Iterator[str]:
    with running("--home", home.path, "ledger", "serve", "--port", 0) as (url, _):
        yield url


@pytest.fixture(scope="module")
def lived_in(tmp_path_factory: pytest.TempPathFactory) -> Home:
    """A home with more entries than one bundle holds; nobody changes it."""
    home = create_home(
        tmp_path_factory.mktemp("lived") / "home", "Lived", "http://localhost:8461/ocsp/", now()
    )
    enrol(home, "mine", "My Camera", now())
    enrol(home, "theirs", "Their Camera", now())
    records = [home.own.own_record(Kind.POLICY, {"change": f"change {number}"}) for number in range(300)]
    with home.ledger() as ledger:
        ledger.append(records, now(), home.sign_note)
    return home


@pytest.fixture(scope="module")
def url(lived_in: Home) -> Iterator[str]:
    with served(lived_in) as address:
        yield address


class TestOwn:
    def test_a_sound_ledger_is_derived_again_whole(self, lived_in: Home) -> None:
        report = audit_home(lived_in, None)
        assert (report.findings, report.size, report.start) == ((), size_of(lived_in), 0)

    def test_with_a_state_it_goes_on_where_the_last_clean_one_ended(
        self, fresh_home: Home, tmp_path: Path
    ) -> None:
        state = tmp_path / "state"
        whole = audit_home(fresh_home, state)
        assert state.exists()
        assert audit_home(fresh_home, state).start == whole.size
        record(fresh_home, "more")
        more = audit_home(fresh_home, state)
        assert (more.findings, more.start, more.size) == ((), whole.size, whole.size + 1)
        assert more.root == audit_home(fresh_home, None).root

    def test_a_divergence_is_found_from_a_state_too_and_the_state_stays(
        self, fresh_home: Home, tmp_path: Path
    ) -> None:
        # What was audited is the longer history; the database and its guard went back to the shorter.
        state = tmp_path / "state"
        older = copied(fresh_home, tmp_path / "older")
        record(fresh_home, "audited")
        audit_home(fresh_home, state)
        kept = state.read_bytes()
        report = audit_home(older, state)
        assert report.findings
        assert state.read_bytes() == kept
        record(older, "another in its place")
        report = audit_home(older, state)
        assert report.findings
        assert state.read_bytes() == kept

    @pytest.mark.parametrize("content", [b"", b"nonsense", b"\xff" * 50, b"x" * (1 << 21), b"[" * 100_000])
    def test_a_state_that_is_none_is_refused_and_kept(
        self, home: Home, tmp_path: Path, content: bytes
    ) -> None:
        (tmp_path / "state").write_bytes(content)
        with pytest.raises(REFUSED):
            audit_home(home, tmp_path / "state")
        assert (tmp_path / "state").read_bytes() == content

    def test_a_state_of_another_log_is_named(self, home: Home, lived_in: Home, tmp_path: Path) -> None:
        audit_home(lived_in, tmp_path / "state")
        kept = (tmp_path / "state").read_bytes()
        try:
            assert audit_home(home, tmp_path / "state").findings
        except REFUSED:
            pass
        assert (tmp_path / "state").read_bytes() == kept


class TestForeign:
    def test_it_is_read_whole_with_nothing_but_its_key(self, lived_in: Home, url: str) -> None:
        report = audit_foreign(url, str(lived_in.log), None, Bodies.OURS)
        assert (report.findings, report.size, report.start) == ((), size_of(lived_in), 0)
        assert report.root == audit_home(lived_in, None).root

    def test_what_is_new_is_read_from_the_state_on(self, fresh_home: Home, tmp_path: Path) -> None:
        state, key = tmp_path / "state", str(fresh_home.log)
        with served(fresh_home) as address:
            whole = audit_foreign(address, key, state, Bodies.OURS)
            assert whole.size == size_of(fresh_home)
            assert audit_foreign(address, key, state, Bodies.OURS).start == whole.size
            record(fresh_home, "more")
            more = audit_foreign(address, key, state, Bodies.OURS)
            assert (more.start, more.size) == (whole.size, whole.size + 1)
            assert more.root == audit_home(fresh_home, None).root

    def test_another_key_of_the_same_name_opens_nothing(
        self, lived_in: Home, url: str, tmp_path: Path
    ) -> None:
        other = str(VerifierKey(lived_in.log.name, LogKey(generate_ed25519()).public))
        assert audit_foreign(url, other, None, Bodies.OURS).findings
        assert audit_foreign(url, other, tmp_path / "state", Bodies.OURS).findings
        assert not (tmp_path / "state").exists()
        assert audit_foreign(url, f"{other} {lived_in.log}", None, Bodies.OURS).findings == ()

    def test_a_server_that_went_back_is_named(self, fresh_home: Home, tmp_path: Path) -> None:
        state, key = tmp_path / "state", str(fresh_home.log)
        older = copied(fresh_home, tmp_path / "older")
        record(fresh_home, "read by the auditor")
        with served(fresh_home) as address:
            audit_foreign(address, key, state, Bodies.OURS)
        kept = state.read_bytes()
        with served(older) as address, pytest.raises(ForeignRolledBackError) as caught:
            audit_foreign(address, key, state, Bodies.OURS)
        assert caught.value.remedy
        assert state.read_bytes() == kept

    @pytest.mark.parametrize("longer", [0, 3])
    def test_a_fork_is_named(self, fresh_home: Home, tmp_path: Path, lightseal: Command, longer: int) -> None:
        state, key = tmp_path / "state", str(fresh_home.log)
        fork = copied(fresh_home, tmp_path / "fork")
        record(fresh_home, "shown to the auditor")
        for number in range(1 + longer):
            record(fork, f"shown to others {number}")
        with served(fresh_home) as address:
            audit_foreign(address, key, state, Bodies.OURS)
        with served(fork) as address:
            said = lightseal("ledger", "audit", "--url", address, "--log-key", key, "--state", state)
        assert said.returncode == 4
        assert said.stderr.startswith("error[foreign-"), said.stderr
        assert len(said.stderr.splitlines()) == 2

    @pytest.mark.parametrize(
        "address", ["", "nonsense", "file:///etc/passwd", "http://", "http://u:p@127.0.0.1/"]
    )
    def test_an_address_that_is_none_is_an_error_and_no_finding(self, home: Home, address: str) -> None:
        with pytest.raises(REFUSED):
            audit_foreign(address, str(home.log), None, Bodies.OURS)


class TestStatus:
    """0 nothing diverges, 4 something does; 1 and 2 are for audits that could not be made."""

    def test_a_divergence_is_told_from_a_failure(
        self, fresh_home: Home, tmp_path: Path, lightseal: Command
    ) -> None:
        assert lightseal("ledger", "audit", home=fresh_home).returncode == 0
        with closing(sqlite3.connect(fresh_home.path / "ledger.db")) as database:
            for (name,) in database.execute(
                "SELECT name FROM sqlite_master WHERE type = 'trigger'"
            ).fetchall():
                database.execute(f"DROP TRIGGER {name}")
            database.execute("UPDATE entry SET leaf = zeroblob(32) WHERE idx = 2")
            database.commit()
        found = lightseal("ledger", "audit", home=fresh_home)
        assert found.returncode == 4, (found.stdout, found.stderr)
        assert "first divergence: " in found.stdout
        assert lightseal("--home", tmp_path / "nothing", "ledger", "audit").returncode == 1

    def test_a_foreign_log_that_diverges_has_the_same_status_with_and_without_a_state(
        self, lived_in: Home, url: str, tmp_path: Path, lightseal: Command
    ) -> None:
        other = VerifierKey(lived_in.log.name, LogKey(generate_ed25519()).public)
        asked = ["ledger", "audit", "--url", url, "--log-key"]
        for more in ([], ["--state", tmp_path / "state"]):
            assert lightseal(*asked, lived_in.log, *more).returncode == 0
        for more in ([], ["--state", tmp_path / "other"]):
            found = lightseal(*asked, other, *more)
            assert (found.returncode, found.stderr) == (4, "")
            assert "first divergence: The checkpoint: " in found.stdout
        unreachable = lightseal("ledger", "audit", "--url", "http://a..b/", "--log-key", lived_in.log)
        assert unreachable.returncode == 1
        assert unreachable.stderr.startswith("error[source-address]: ")

    def test_it_stands_in_the_help(self, lightseal: Command) -> None:
        assert "4 if something does" in " ".join(lightseal("ledger", "audit", "--help").stdout.split())


class TestWatching:
    def test_what_cannot_be_read_is_counted_apart(self) -> None:
        use = Use(3, Kind.SIGN, now(), bytes(32))
        one, two = bytes(32), bytes([1]) * 32
        assert counted([], [one]) == "0 new uses of 1 key"
        assert counted([use], [one, one]) == "1 new use of 1 key"
        assert counted([use, use], [one, two]) == "2 new uses of 2 keys"
        assert counted([Unreadable(1)], [one]) == "0 new uses of 1 key; 1 entry could not be read"
        assert counted([Unreadable(1), use, Unreadable(2)], [one]) == (
            "1 new use of 1 key; 2 entries could not be read"
        )
        assert told(Unreadable(7)).startswith("entry 7 cannot be read")

    def test_every_use_of_my_key_is_said_and_nobody_elses(self, fresh_home: Home, tmp_path: Path) -> None:
        mine = fresh_home.device("cam").pseudonym
        enrol(fresh_home, "theirs", "Their Camera", now())
        state = tmp_path / "state"
        (line,) = map(told, uses(fresh_home, None, None, state, [mine]))
        assert line.startswith("entry 5 issue ")
        assert line.endswith(f" key {mine.hex()}")
        # It goes on where it ended.
        assert list(uses(fresh_home, None, None, state, [mine])) == []
        index = fresh_home.own.erase(5, now())
        (line,) = map(told, uses(fresh_home, None, None, state, [mine]))
        assert line.startswith(f"entry {index} erase ")

    def test_over_http_it_says_the_same(self, lived_in: Home, url: str, tmp_path: Path) -> None:
        mine = lived_in.device("mine").pseudonym
        over_http = list(uses(None, url, str(lived_in.log), tmp_path / "a", [mine]))
        assert over_http == list(uses(lived_in, None, None, tmp_path / "b", [mine]))
        assert len(over_http) == 1
        assert list(uses(None, url, str(lived_in.log), tmp_path / "a", [mine])) == []
        assert list(uses(None, url, str(lived_in.log), tmp_path / "c", [bytes(32)])) == []

    def test_the_command_tells_by_its_status(
        self, lived_in: Home, url: str, tmp_path: Path, lightseal: Command
    ) -> None:
        state = tmp_path / "state"
        found = lightseal("ledger", "watch", "--state", state, "--device", "mine", home=lived_in)
        assert (found.returncode, len(found.stdout.splitlines())) == (3, 1), found.stderr
        assert found.stderr == "1 new use of 1 key\n"
        again = lightseal("ledger", "watch", "--state", state, "--device", "mine", home=lived_in)
        assert (again.returncode, again.stdout) == (0, ""), again.stderr
        key = lived_in.device("mine").pseudonym.hex()
        arguments = ["--url", url, "--log-key", lived_in.log, "--key", key, "--state", tmp_path / "other"]
        foreign = lightseal("ledger", "watch", *arguments)
        assert (foreign.returncode, foreign.stdout) == (3, found.stdout), foreign.stderr

    def test_a_log_that_forgot_a_use_is_named(self, fresh_home: Home, tmp_path: Path) -> None:
        state = tmp_path / "state"
        older = copied(fresh_home, tmp_path / "older")
        enrol(fresh_home, "more", "Another Camera", now())
        mine = fresh_home.device("more").pseudonym
        assert len(list(uses(fresh_home, None, None, state, [mine]))) == 1
        with pytest.raises(ForeignRolledBackError):
            list(uses(older, None, None, state, [mine]))
