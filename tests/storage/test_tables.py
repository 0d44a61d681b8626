import os
import shutil
import sqlite3
import stat
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from pathlib import Path

import pytest

from storage import tables
from storage.audit import audit
from storage.errors import LedgerDamagedError, LedgerForeignError, LedgerMissingError, ReadOnlyError
from storage.ledger import Ledger

AT = datetime(2026, 11, 25, 8, tzinfo=UTC)


@pytest.fixture
def path(url, log, make_record, tmp_path: Path) -> Path:
    """A closed ledger of three entries."""
    with Ledger.create(url, log.name) as ledger:
        ledger.append([make_record(number) for number in range(3)], AT, log.sign)
    return tmp_path / "ledger.db"


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE entry SET body = x'00'",
        "DELETE FROM entry WHERE idx = 2",
        "UPDATE checkpoint SET note = x'00'",
        "DELETE FROM checkpoint",
        "UPDATE head SET size = 2",
        "UPDATE head SET origin = 'other.example'",
        "DELETE FROM head",
        "INSERT INTO lookup VALUES ('claim', x'00', 99)",
        "INSERT INTO entry SELECT 9, leaf, body FROM entry WHERE idx = 0",
    ],
)
def test_the_database_refuses_to_forget(url, path, statement: str) -> None:
    engine = tables.open_writer(url)
    before = path.read_bytes()
    with pytest.raises(LedgerDamagedError), tables.transaction(engine) as connection:
        connection.exec_driver_sql(statement)
    engine.dispose()
    assert path.read_bytes() == before


def test_every_column_has_one_type(path) -> None:
    with closing(sqlite3.connect(path)) as connection:
        rows = connection.execute(
            "SELECT name, strict FROM pragma_table_list WHERE schema = 'main'"
        ).fetchall()
    assert {name for name, strict in rows if strict} == {
        "entry",
        "tile",
        "head",
        "checkpoint",
        "secret",
        "lookup",
    }


@pytest.mark.usefixtures("path")
def test_every_writer_waits_for_the_disk(url) -> None:
    engine = tables.open_writer(url)
    with tables.transaction(engine) as connection:
        settings = [
            connection.exec_driver_sql(f"PRAGMA {name}").scalar()
            for name in ("journal_mode", "synchronous", "foreign_keys", "busy_timeout")
        ]
    engine.dispose()
    assert settings == ["wal", 2, 1, 1000 * tables.LOCK_SECONDS]


def test_only_the_owner_may_read_the_file(path) -> None:
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_another_schema_revision_is_refused(url, path, log) -> None:
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("DROP TRIGGER head_keeps_its_origin")
        connection.execute("UPDATE head SET revision = 2")
        connection.commit()
    for opened in (Ledger.open, Ledger.open_read_only, lambda address: audit(address, [log.key], log.verify)):
        with pytest.raises(LedgerForeignError):
            opened(url)
    with pytest.raises(LedgerForeignError):
        Ledger.create(url, log.name)


def test_other_files_are_not_ledgers(url, tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    path.write_bytes(b"not a database, but long enough to have a header " * 100)
    for opened in (Ledger.open, Ledger.open_read_only):
        with pytest.raises(LedgerDamagedError):
            opened(url)
    path.unlink()
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE other (a)")
        connection.commit()
    for opened in (Ledger.open, Ledger.open_read_only):
        with pytest.raises(LedgerForeignError):
            opened(url)


def test_a_ledger_that_was_begun_and_never_finished_is_missing(url) -> None:
    tables.create_tables(url)
    with pytest.raises(LedgerMissingError):
        Ledger.open(url)
    with Ledger.create(url, "log.example") as ledger:
        assert ledger.size == 0


def test_a_damaged_file_is_reported(url, path) -> None:
    size = path.stat().st_size
    with path.open("r+b") as file:
        file.seek(4096)
        file.write(b"\xa5" * (size - 4096))
    with pytest.raises(LedgerDamagedError):
        Ledger.open_read_only(url)


def test_a_reader_cannot_write(url, path, log, make_record) -> None:
    before = path.read_bytes()
    with Ledger.open_read_only(url) as reader:
        with pytest.raises(ReadOnlyError):
            reader.append([make_record(3)], AT, log.sign)
        with pytest.raises(ReadOnlyError):
            reader.erase(0)
        assert reader.size == 3
    assert path.read_bytes() == before


@contextmanager
def unprivileged():
    """Become nobody for a while where we are root, whom permissions do not bind."""
    if os.geteuid():
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.fixture
def sealed(path, tmp_path_factory):
    """A copy of the ledger, in a folder where nothing can be written."""
    folder = tmp_path_factory.mktemp("sealed")
    for parent in (folder.parent, folder.parent.parent):
        if os.geteuid() == 0:
            parent.chmod(0o755)
    copy = Path(shutil.copy(path, folder / "sealed.db"))
    copy.chmod(0o444)
    folder.chmod(0o555)
    yield copy
    folder.chmod(0o755)


def test_a_verifier_needs_no_permission_to_write(sealed, log) -> None:
    with unprivileged():
        with pytest.raises(PermissionError):
            (sealed.parent / "probe").touch()
        with Ledger.open_read_only(f"sqlite:///{sealed}") as reader:
            assert reader.prove(2).check([log.key], log.verify).size == 3
        assert audit(f"sqlite:///{sealed}", [log.key], log.verify).first is None
        with pytest.raises((ReadOnlyError, LedgerMissingError)):
            Ledger.open(f"sqlite:///{sealed}")
        with pytest.raises(ReadOnlyError):
            Ledger.create(f"sqlite:///{sealed.parent}/new.db", log.name)
    assert [item.name for item in sealed.parent.iterdir()] == ["sealed.db"]


def test_a_log_left_behind_by_a_crash_is_never_ignored(sealed) -> None:
    sealed.parent.chmod(0o755)
    (sealed.parent / "sealed.db-wal").write_bytes(b"")
    (sealed.parent / "sealed.db-wal").chmod(0o444)
    sealed.parent.chmod(0o555)
    with unprivileged(), pytest.raises(LedgerMissingError):
        Ledger.open_read_only(f"sqlite:///{sealed}")


def test_a_path_may_hold_any_character(tmp_path: Path, log, make_record) -> None:
    url = f"sqlite:///{tmp_path / 'odd #1 100% ü.db'}"
    with Ledger.create(url, log.name) as ledger:
        ledger.append([make_record(0)], AT, log.sign)
    with Ledger.open_read_only(url) as reader:
        assert reader.size == 1
    assert (tmp_path / "odd #1 100% ü.db").is_file()
