"""The registry's file and its place in PostgreSQL: who may do what, and what is said when it fails."""

import json
import os
import shutil
import sqlite3
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import timedelta
from pathlib import Path

import pytest
import sqlalchemy as sa

from storage import database as engines
from storage import errors as ledger_errors
from storage import sqlite
from storage.audit import audit
from storage.errors import Error
from storage.registry import database, tables
from storage.registry.errors import (
    RegistryAddressError,
    RegistryBusyError,
    RegistryDamagedError,
    RegistryError,
    RegistryForeignError,
    RegistryMissingError,
    RegistryReadOnlyError,
    RegistryUnreachableError,
)
from storage.registry.registry import Registry
from storage.registry.rows import Operator, Product, Role, Status, Target, Withdrawal

DRILLS = Path(__file__).parent / "drills"
ENGINES = ["sqlite", pytest.param("postgresql", marks=pytest.mark.needs("postgresql"))]


@pytest.fixture
def path(sqlite_url, make_filled) -> Path:
    """The file of a closed registry."""
    with Registry.create(sqlite_url) as made:
        make_filled(made)
    return Path(sqlite_url.removeprefix("sqlite:///"))


@pytest.fixture
def whole(registry, make_capture, make_certificate, at, digest) -> Registry:
    """A registry with a row in every table."""
    registry.add_bootstrap(digest("token"), "Camera 1", at + timedelta(1))
    registry.use_bootstrap(digest("token"), at)
    registry.use_nonce(digest("old nonce"), "camera", at, at + timedelta(seconds=1))
    assert registry.purge(at + timedelta(hours=1)) == 1
    registry.add_challenge(digest("challenge"), "enrolment", "camera", at)
    registry.use_nonce(digest("nonce"), "camera", at, at + timedelta(1))
    registry.pin_device("camera", digest("pin"), "E2")
    registry.add_evidence("camera", digest("key"), "tpm", b"statement", "E2", at, b"[]")
    registry.add_certificates([make_certificate(1)])
    registry.add_withdrawal(
        Withdrawal(Target.of_certificate(make_certificate(1).sha256), "superseded", at, None, ("Ada",), 1)
    )
    registry.add_operator(Operator("Ada", b"key", Role.REVOKER, at))
    registry.dismiss_operator("Ada", at)
    registry.add_capture(make_capture("camera", 1))
    registry.set_entry(make_capture("camera", 1).claim, 3)
    with pytest.raises(Error):
        registry.add_capture(make_capture("camera", 1, of=" forged"))
    registry.set_status("camera", Status.REVOKED, at, "a test")
    return registry


@contextmanager
def unprivileged() -> Iterator[None]:
    """Become nobody for a while where we are root, whom permissions do not bind."""
    if os.geteuid():
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


def test_every_error_of_the_registry_has_a_code_and_a_remedy_of_its_own() -> None:
    def below(kind: type[Error]) -> Iterator[type[Error]]:
        for child in kind.__subclasses__():
            yield child
            yield from below(child)

    mine = [kind for kind in below(Error) if kind.__module__ == "storage.registry.errors"]
    codes = [kind.code for kind in below(Error)]
    assert len(mine) > 30
    for kind in mine:
        assert codes.count(kind.code) == 1, kind
        assert kind.remedy.endswith("."), kind
        assert kind.__doc__


def test_the_file_is_its_owners_alone_and_durable(path, sqlite_url) -> None:
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    with Registry.open(sqlite_url) as registry:
        registry.purge(registry.product("Camera 1").since)
        assert registry._writer is not None
        with registry._writer.connect() as connection:
            assert connection.exec_driver_sql("PRAGMA synchronous").scalar() == 2


@pytest.mark.usefixtures("whole")
def test_no_row_that_is_to_stay_can_be_changed_or_deleted(url) -> None:
    """Not even by the owner of the database, by mistake."""
    engine = engines.open_owner(url)
    for table in tables.metadata.sorted_tables:
        once, mutable = tables.SET_ONCE.get(table), tables.MUTABLE.get(table, ())
        with engine.connect() as connection:
            rows = connection.scalar(sa.select(sa.func.count()).select_from(table))
            assert rows, table.name
        statements = [
            f'UPDATE {table.name} SET "{column.name}" = "{column.name}"'  # noqa: S608 - our own names
            for column in table.c
            if column.name not in mutable
        ]
        statements += [] if table in tables.EXPIRING else [f"DELETE FROM {table.name}"]  # noqa: S608
        if url.startswith("sqlite"):
            statements.append(f"INSERT OR REPLACE INTO {table.name} SELECT * FROM {table.name}")  # noqa: S608
        else:
            statements.append(f"TRUNCATE {table.name} CASCADE")
        if table is tables.challenge:
            statements.remove(f'UPDATE {table.name} SET "{once}" = "{once}"')  # noqa: S608 - it was not used yet
        for statement in statements:
            with pytest.raises(sa.exc.IntegrityError), engine.begin() as connection:
                connection.exec_driver_sql(statement)
    with pytest.raises(sa.exc.IntegrityError), engine.begin() as connection:
        connection.exec_driver_sql("UPDATE registry_device SET status = 'active' WHERE name = 'camera'")
    engine.dispose()


def test_replacing_by_another_key_is_no_way_around_the_triggers(path) -> None:
    with (
        closing(sqlite3.connect(path)) as connection,
        pytest.raises(sqlite3.IntegrityError, match="replaced"),
    ):
        connection.execute(
            "INSERT OR REPLACE INTO registry_device SELECT 'eve', product, salt, 'active', pin, custody, enrolled"
            " FROM registry_device WHERE name = 'camera'"
        )


@pytest.mark.usefixtures("filled_url")
def test_a_registry_without_its_guards_is_not_used(url) -> None:
    engine = engines.open_owner(url)
    with engine.begin() as connection:
        where = "" if url.startswith("sqlite") else " ON registry_capture"
        connection.exec_driver_sql(f"DROP TRIGGER registry_capture_is_never_changed{where}")
    engine.dispose()
    with pytest.raises(RegistryDamagedError, match="registry_capture_is_never_changed"):
        Registry.open(url)


@pytest.mark.parametrize(
    "text",
    [
        "{name} BEFORE UPDATE ON {table} BEGIN SELECT 1; END",
        "{name} BEFORE UPDATE ON registry_device BEGIN SELECT RAISE(ABORT, 'x'); END",
        "{name} {when} BEGIN SELECT 1; END",
        "{name} {when} WHEN 0 BEGIN SELECT RAISE(ABORT, 'registry capture is never changed'); END",
    ],
)
def test_guards_that_only_have_the_right_names_are_none(path, sqlite_url, text: str) -> None:
    name, table = "registry_capture_is_never_changed", "registry_capture"
    with closing(sqlite3.connect(path)) as connection:
        ((said,),) = connection.execute("SELECT sql FROM sqlite_master WHERE name = ?", [name]).fetchall()
        when = said.removeprefix(f"CREATE TRIGGER {name} ").partition(" BEGIN")[0]
        connection.execute(f"DROP TRIGGER {name}")
        connection.execute(f"CREATE TRIGGER {text.format(name=name, table=table, when=when)}")
        connection.commit()
    with pytest.raises(RegistryDamagedError, match=name):
        Registry.open(sqlite_url)
    with closing(sqlite3.connect(path)) as connection:
        connection.execute(f"DROP TRIGGER {name}")
        connection.execute(said)
    Registry.open(sqlite_url).close()


_WEAKER = {
    "another function": "CREATE FUNCTION calm() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';"
    " CREATE OR REPLACE TRIGGER registry_capture_is_never_deleted BEFORE DELETE ON registry_capture"
    " FOR EACH ROW EXECUTE FUNCTION calm()",
    "another table": "DROP TRIGGER registry_capture_is_never_deleted ON registry_capture;"
    " CREATE TRIGGER registry_capture_is_never_deleted BEFORE DELETE ON registry_device"
    " FOR EACH ROW EXECUTE FUNCTION registry_refuse()",
    "a condition": "CREATE OR REPLACE TRIGGER registry_capture_is_never_deleted BEFORE DELETE ON registry_capture"
    " FOR EACH ROW WHEN (false) EXECUTE FUNCTION registry_refuse()",
    "afterwards, by statement": "CREATE OR REPLACE TRIGGER registry_capture_is_never_deleted AFTER DELETE"
    " ON registry_capture FOR EACH STATEMENT EXECUTE FUNCTION registry_refuse()",
    "fewer columns": "CREATE OR REPLACE TRIGGER registry_capture_is_never_changed BEFORE UPDATE OF device"
    " ON registry_capture FOR EACH ROW EXECUTE FUNCTION registry_refuse()",
    "a function that lets all pass": "CREATE OR REPLACE FUNCTION registry_refuse() RETURNS trigger"
    " LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END'",
    "switched off": "ALTER TABLE registry_capture DISABLE TRIGGER registry_capture_is_never_deleted",
}


@pytest.mark.needs("postgresql")
@pytest.mark.parametrize("weaker", _WEAKER)
def test_guards_on_a_server_that_only_have_the_right_names_are_none(server, weaker: str) -> None:
    url = server.create(f"weak{list(_WEAKER).index(weaker)}")
    Registry.create(url).close()
    engine = engines.open_owner(url)
    with engine.begin() as connection:
        connection.exec_driver_sql(_WEAKER[weaker])
    engine.dispose()
    with pytest.raises(RegistryDamagedError, match=r"registry_(capture_is_never_(changed|deleted)|refuse)"):
        Registry.open(url)


@pytest.mark.usefixtures("filled_url")
def test_a_newer_revision_is_refused_by_name(url) -> None:
    engine = engines.open_owner(url)
    with engine.begin() as connection:
        where = "" if url.startswith("sqlite") else " ON registry_revision"
        connection.exec_driver_sql(f"DROP TRIGGER registry_revision_is_never_changed{where}")
        connection.execute(sa.update(tables.revision).values(number=2))
    engine.dispose()
    for opened in (Registry.open, Registry.create):
        with pytest.raises(RegistryForeignError):
            opened(url)


def test_creating_again_changes_nothing(filled_url) -> None:
    with Registry.create(filled_url) as registry:
        assert len(registry.devices()) == 2


def test_what_is_not_there_is_not_made_by_opening(sqlite_url, tmp_path: Path) -> None:
    with pytest.raises(RegistryMissingError):
        Registry.open(sqlite_url)
    with pytest.raises(RegistryMissingError):
        Registry.create(f"sqlite:///{tmp_path}/no/registry.db")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "address", ["mysql://host/name", "sqlite://", "postgresql://u:secret@host/name", "x"]
)
@pytest.mark.needs("postgresql")
def test_an_address_that_is_none_is_refused_without_saying_it(address: str) -> None:
    for opened in (Registry.open, Registry.create):
        with pytest.raises(RegistryAddressError) as refused:
            opened(address)
        assert "secret" not in str(refused.value)
        assert "ledger" not in str(refused.value)


def test_other_files_are_not_registries(sqlite_url, tmp_path: Path, create) -> None:
    path = tmp_path / "ledger.db"
    content = b"not a database, but long enough to have a header " * 100
    path.write_bytes(content)
    for opened in (Registry.open, Registry.create):
        with pytest.raises(RegistryDamagedError):
            opened(sqlite_url)
    assert path.read_bytes() == content
    path.unlink()
    create(sqlite_url).close()
    for opened in (Registry.open, Registry.create):
        with pytest.raises(RegistryForeignError):
            opened(sqlite_url)


def test_a_damaged_file_is_reported(sqlite_url, path) -> None:
    with path.open("r+b") as file:
        file.seek(4096)
        file.write(b"\xa5" * (path.stat().st_size - 4096))
    with pytest.raises(RegistryDamagedError), Registry.open(sqlite_url) as registry:
        registry.devices()


def test_what_cannot_be_written_can_be_read(path, at) -> None:
    """A copy in a folder that nobody may write, as on a medium for reading only."""
    folder = path.parent / "sealed"
    folder.mkdir()
    sealed = Path(shutil.copy(path, folder))
    sealed.chmod(0o444)
    folder.chmod(0o555)
    for parent in [folder, *folder.parents][:5]:
        parent.chmod(parent.stat().st_mode | 0o055)
    with unprivileged(), Registry.open(f"sqlite:///{sealed}") as registry:
        assert [each.name for each in registry.devices()] == ["camera", "phone"]
        with pytest.raises(RegistryReadOnlyError):
            registry.add_product(Product("New", "Example", "standard", "E0", b"{}", at))
        assert len(registry.products()) == 2


def test_one_who_holds_the_registry_is_waited_for_and_then_named(path, sqlite_url) -> None:
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with Registry.open(sqlite_url) as registry:
            product = registry.product("Camera 1")  # readers do not wait
            registry._writer = shortened(sqlite_url)
            with pytest.raises(RegistryBusyError):
                registry.add_product(product)
        other.execute("ROLLBACK")


def shortened(url: str) -> sa.Engine:
    """The writing engine, with little patience."""
    engine = sqlite.writer(url)
    sa.event.listen(
        engine, "connect", lambda connection, _: connection.execute("PRAGMA busy_timeout=50").close()
    )
    return engine


@pytest.mark.needs("postgresql")
def test_the_registry_lives_in_the_ledgers_database_and_neither_sees_the_other(
    server, create, means, log, make_record, make_filled, at
) -> None:
    url = server.create("shared")
    with create(url) as ledger:
        ledger.append([make_record(1)], at, log.sign)
    with Registry.create(url) as registry:
        make_filled(registry)
        with create(url) as ledger:
            ledger.append([make_record(2)], at, log.sign)
        assert len(registry.devices()) == 2
    assert audit(url, means).findings == ()
    engine = engines.open_reader(url)
    with pytest.raises(ledger_errors.ReadOnlyError), engines.transaction(engine) as connection:
        connection.execute(sa.select(tables.device)).all()
    engine.dispose()
    engine = database.open_writer(url)
    with pytest.raises(RegistryReadOnlyError), database.writing(engine) as connection:
        connection.exec_driver_sql("SELECT * FROM entry")
    engine.dispose()


@pytest.mark.needs("postgresql")
def test_two_who_create_at_once_both_have_it(server) -> None:
    url = server.create("both")
    found: list[int] = []

    def make() -> None:
        with Registry.create(url) as registry:
            found.append(len(registry.products()))

    threads = [threading.Thread(target=make) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [0, 0, 0, 0]


@pytest.mark.needs("postgresql")
def test_what_is_missing_on_a_server_is_named(server) -> None:
    with pytest.raises(RegistryMissingError):
        Registry.open(server.url.replace("///ledger?", "///nowhere?"))
    with pytest.raises(RegistryForeignError):
        Registry.open(server.create("empty"))
    with pytest.raises(RegistryUnreachableError):
        Registry.open("postgresql:///name?host=/nowhere")


@pytest.mark.parametrize("engine", ENGINES)
def test_a_kill_loses_nothing_that_was_acknowledged(engine, request, tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'registry.db'}"
    if engine == "postgresql":
        url = request.getfixturevalue("server").create("killed")
    done = subprocess.run(
        [sys.executable, DRILLS / "kill.py", url, "--rounds", "4"],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])},
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["captures"] >= 4


def test_a_full_disk_is_named_and_loses_nothing(tmp_path: Path) -> None:
    namespaces = ["--mount"] if os.geteuid() == 0 else ["--user", "--map-root-user", "--mount"]
    tried = subprocess.run(
        ["unshare", *namespaces, "mount", "-t", "tmpfs", "drill", tmp_path], capture_output=True, check=False
    )
    if tried.returncode:
        pytest.skip(f"NO DISK FILLED: this machine lets nobody mount a small one: {tried.stderr.decode()}")
    script = 'mount -t tmpfs -o size=2m drill "$1" && exec "$2" "$3" "$1"'
    done = subprocess.run(
        ["unshare", *namespaces, "sh", "-c", script, "sh", tmp_path, sys.executable, DRILLS / "full.py"],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])},
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["refused"] == "registry-disk-full"


def test_refusals_of_the_engines_have_a_name_in_the_registry() -> None:
    """Every error of the ledger that an engine raises is told as one of the registry's."""
    for kind in (
        ledger_errors.LedgerAddressError,
        ledger_errors.LedgerBusyError,
        ledger_errors.LedgerDamagedError,
        ledger_errors.LedgerForeignError,
        ledger_errors.LedgerMissingError,
        ledger_errors.LedgerUnreachableError,
        ledger_errors.LedgerOutdatedError,
        ledger_errors.DiskFullError,
        ledger_errors.DriverMissingError,
        ledger_errors.ReadOnlyError,
        ledger_errors.LedgerError,
    ):
        with pytest.raises(RegistryError) as told, database.translated():
            raise kind("The ledger's database answered: no.")
        assert "ledger" not in str(told.value)
        assert (type(told.value) is RegistryError) == (kind is ledger_errors.LedgerError)
