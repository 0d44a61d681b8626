import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest

from tools import postgres

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.needs("postgresql")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[postgres.Server]:
    with postgres.running(tmp_path_factory.mktemp("postgres")) as server:
        yield server


def ask(url: str, sql: str) -> str:
    """Ask by the server's own client, which shares nothing with our driver."""
    folder = postgres.programs()
    assert folder is not None
    asked = subprocess.run(
        [folder / "psql", url, "-XAtqc", sql], capture_output=True, text=True, timeout=60, check=False
    )
    assert asked.returncode == 0, asked.stderr
    return asked.stdout.strip()


def test_it_syncs_and_listens_on_nothing_but_a_private_socket(server: postgres.Server) -> None:
    settings = "SELECT string_agg(setting, ',' ORDER BY name) FROM pg_settings WHERE name IN ({})"
    names = "'fsync', 'full_page_writes', 'listen_addresses', 'synchronous_commit'"
    assert ask(server.url, settings.format(names)) == "on,on,,on"
    (host,) = parse_qs(urlsplit(server.url).query)["host"]
    assert sorted(path.name for path in Path(host).glob(".s.*")) == [".s.PGSQL.5432", ".s.PGSQL.5432.lock"]
    assert Path(host).stat().st_mode & 0o077 == 0
    assert server.data.stat().st_mode & 0o077 == 0


def test_it_does_not_run_as_root(server: postgres.Server) -> None:
    assert Path(f"/proc/{server.pid}").stat().st_uid != 0


@pytest.mark.parametrize(
    ("ending", "end"),
    [
        ("killed", postgres.Server.kill),
        ("stopped_at_once", lambda server: server.stop("immediate")),
        ("stopped", lambda server: server.stop("fast")),
    ],
)
def test_what_was_committed_is_there_after_it_was(
    server: postgres.Server, ending: str, end: Callable[[postgres.Server], None]
) -> None:
    url = server.create(ending)
    ask(url, "CREATE TABLE kept AS SELECT 42 AS number")
    pid = server.pid
    children = Path(f"/proc/{pid}/task/{pid}/children")
    left = [Path("/proc") / child for child in children.read_text().split()] if children.exists() else []
    end(server)
    assert not Path(f"/proc/{pid}").exists()
    assert [path for path in left if (path / "exe").exists()] == []
    server.start()
    assert ask(url, "SELECT number FROM kept") == "42"


def test_a_database_can_be_a_copy_of_another(server: postgres.Server) -> None:
    ask(server.create("original"), "CREATE TABLE word AS SELECT 'here' AS word")
    assert ask(server.create("copy", "original"), "SELECT word FROM word") == "here"


def test_a_database_there_twice_is_refused_in_the_servers_words(server: postgres.Server) -> None:
    with pytest.raises(postgres.PostgresError, match='database "ledger" already exists'):
        server.create("ledger")


def test_a_server_that_cannot_start_shows_its_log(tmp_path: Path) -> None:
    with postgres.running(tmp_path) as server:
        server.stop("fast")
        (server.data / "postgresql.conf").write_text("no such setting = 1\n")
        with pytest.raises(postgres.PostgresError, match="syntax error in file"):
            server.start()
        assert not server.is_running


def test_nothing_of_it_is_left(tmp_path: Path) -> None:
    with postgres.running(tmp_path) as server:
        pid = server.pid
        (host,) = parse_qs(urlsplit(server.url).query)["host"]
    assert not Path(f"/proc/{pid}").exists()
    assert not Path(host).exists()


@pytest.mark.skipif(shutil.which("setpriv") is None, reason="setpriv of util-linux ties the server to us")
def test_it_does_not_outlive_us_when_we_are_killed(tmp_path: Path) -> None:
    program = """
import pathlib, sys, time
from tools import postgres
with postgres.running(pathlib.Path(sys.argv[1])) as server:
    print(server.pid, server.url_of(""), flush=True)
    time.sleep(60)
"""
    with subprocess.Popen(
        [sys.executable, "-c", program, tmp_path], stdout=subprocess.PIPE, text=True, cwd=ROOT
    ) as owner:
        assert owner.stdout is not None
        pid, url = owner.stdout.readline().split()
        assert Path(f"/proc/{pid}").exists()
        owner.kill()
    deadline = time.monotonic() + 60
    while Path(f"/proc/{pid}").exists() and "zombie" not in Path(f"/proc/{pid}/status").read_text():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    (host,) = parse_qs(urlsplit(url).query)["host"]
    shutil.rmtree(host)  # the folder is all that is left


def test_a_long_temporary_folder_leaves_room_for_the_socket(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    deep = tmp_path / ("deep" * 25)
    deep.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(deep))
    with postgres.running(tmp_path / "server") as server:
        assert ask(server.url, "SELECT 1") == "1"


def test_where_there_is_no_server_the_line_that_installs_it_is_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(postgres, "_DEBIAN", tmp_path)
    assert shutil.which("postgres") is None
    with (
        pytest.raises(postgres.PostgresMissingError, match="no PostgreSQL server"),
        postgres.running(tmp_path / "data"),
    ):
        pass
    assert list(tmp_path.iterdir()) == []
