import os
import shutil
import sqlite3
import stat
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from pathlib import Path

import pytest

from storage import database, sqlite, tables
from storage.audit import audit
from storage.errors import LedgerDamagedError, LedgerMissingError, ReadOnlyError
from storage.ledger import Ledger

AT = datetime(2026, 11, 25, 8, tzinfo=UTC)


@pytest.fixture
def path(create, sqlite_url, log, make_record, tmp_path: Path) -> Path:
    """A closed ledger of three entries."""
    with create(sqlite_url) as ledger:
        ledger.append([make_record(number) for number in range(3)], AT, log.sign)
    return tmp_path / "ledger.db"


def test_every_column_has_one_type(path) -> None:
    with closing(sqlite3.connect(path)) as connection:
        rows = connection.execute(
            "SELECT name, strict FROM pragma_table_list WHERE schema = 'main'"
        ).fetchall()
    ours = {table.name for table in tables.metadata.sorted_tables if table is not tables.version}
    assert {name for name, strict in rows if strict} == ours


@pytest.mark.usefixtures("path")
def test_every_writer_waits_for_the_disk(sqlite_url) -> None:
    for opened in (database.open_writer, database.open_owner):
        engine = opened(sqlite_url)
        with database.transaction(engine) as connection:
            settings = [
                connection.exec_driver_sql(f"PRAGMA {name}").scalar()
                for name in ("journal_mode", "synchronous", "foreign_keys", "busy_timeout", "secure_delete")
            ]
        engine.dispose()
        assert settings == ["wal", 2, 1, 1000 * sqlite.LOCK_SECONDS, 1]


def test_only_the_owner_may_read_the_file(path) -> None:
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_refused_change_does_not_touch_the_file(sqlite_url, path) -> None:
    before = path.read_bytes()
    engine = database.open_writer(sqlite_url)
    with pytest.raises(LedgerDamagedError), database.transaction(engine) as connection:
        connection.exec_driver_sql("DELETE FROM entry WHERE idx = 2")
    engine.dispose()
    assert path.read_bytes() == before


def test_what_was_erased_is_nowhere_in_the_file(sqlite_url, path, sealer, log, tmp_path: Path) -> None:
    with Ledger.open(sqlite_url, sealer) as ledger:
        with ledger.at_once() as view:
            sealed = view.sealed(1)
        assert sealed in path.read_bytes()
        ledger.erase(1, bytes(32), AT, log.sign)
    assert sealed not in b"".join(each.read_bytes() for each in tmp_path.iterdir())


def test_a_ledger_that_is_not_there_is_not_made_by_opening(create, sqlite_url, means, tmp_path: Path) -> None:
    for opened in (Ledger.open, Ledger.open_read_only, lambda address: audit(address, means)):
        with pytest.raises(LedgerMissingError):
            opened(sqlite_url)
    with pytest.raises(LedgerMissingError):
        create(f"sqlite:///{tmp_path}/no/folder.db")
    assert [item.name for item in tmp_path.iterdir()] == ["keyring"]


def test_other_files_are_not_ledgers(sqlite_url, create, tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    content = b"not a database, but long enough to have a header " * 100
    path.write_bytes(content)
    for opened in (Ledger.open, Ledger.open_read_only, create):
        with pytest.raises(LedgerDamagedError):
            opened(sqlite_url)
    assert path.read_bytes() == content


def test_a_damaged_file_is_reported(sqlite_url, path) -> None:
    size = path.stat().st_size
    with path.open("r+b") as file:
        file.seek(4096)
        file.write(b"\xa5" * (size - 4096))
    with pytest.raises(LedgerDamagedError):
        Ledger.open_read_only(sqlite_url)


def test_a_reader_leaves_the_file_as_it_is(sqlite_url, path, sealer, log, make_record) -> None:
    before = path.read_bytes()
    with Ledger.open_read_only(sqlite_url, sealer) as reader:
        with pytest.raises(ReadOnlyError):
            reader.append([make_record(3)], AT, log.sign)
        with pytest.raises(ReadOnlyError):
            reader.erase(0, bytes(32), AT, log.sign)
        assert reader.size == 3
    assert path.read_bytes() == before


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


@pytest.fixture
def immutable(path, tmp_path_factory) -> Iterator[Path]:
    """A copy of the ledger, in a folder where nothing can be written."""
    folder = tmp_path_factory.mktemp("immutable")
    for parent in list(folder.parents)[:3]:  # of each test process, too
        if os.geteuid() == 0:
            parent.chmod(0o755)
    copy = Path(shutil.copy(path, folder / "copy.db"))
    copy.chmod(0o444)
    folder.chmod(0o555)
    yield copy
    folder.chmod(0o755)


def test_a_verifier_needs_no_permission_to_write(immutable, create, means) -> None:
    blind = type(means)(means.keys, means.verify)  # the keys are not nobody's to read
    with unprivileged():
        with pytest.raises(PermissionError):
            (immutable.parent / "probe").touch()
        with Ledger.open_read_only(f"sqlite:///{immutable}") as reader:
            assert reader.size == 3
            assert reader.inclusion(2).index == 2
        assert audit(f"sqlite:///{immutable}", blind).first is None
        with pytest.raises((ReadOnlyError, LedgerMissingError)):
            Ledger.open(f"sqlite:///{immutable}")
        with pytest.raises(ReadOnlyError):
            create(f"sqlite:///{immutable.parent}/new.db")
    assert [item.name for item in immutable.parent.iterdir()] == ["copy.db"]


def test_a_log_left_behind_by_a_crash_is_never_ignored(immutable) -> None:
    immutable.parent.chmod(0o755)
    (immutable.parent / "copy.db-wal").write_bytes(b"")
    (immutable.parent / "copy.db-wal").chmod(0o444)
    immutable.parent.chmod(0o555)
    with unprivileged(), pytest.raises(LedgerMissingError):
        Ledger.open_read_only(f"sqlite:///{immutable}")


def test_a_path_may_hold_any_character(create, tmp_path: Path, log, make_record) -> None:
    url = f"sqlite:///{tmp_path / 'odd #1 100% ü.db'}"
    with create(url) as ledger:
        ledger.append([make_record(0)], AT, log.sign)
    with Ledger.open_read_only(url) as reader:
        assert reader.size == 1
    assert (tmp_path / "odd #1 100% ü.db").is_file()


@pytest.mark.parametrize(
    "statement",
    [
        "INSERT OR REPLACE INTO entry SELECT 2, leaf, x'00' FROM entry WHERE idx = 0",
        "INSERT OR REPLACE INTO checkpoint SELECT size, x'00', time FROM checkpoint",
        "INSERT OR REPLACE INTO head SELECT 1, origin, 0, root, frontier, time, 0 FROM head",
    ],
)
@pytest.mark.usefixtures("path")
def test_replacing_is_no_way_around_the_triggers(sqlite_url, statement: str) -> None:
    """The flaw it would catch: REPLACE deletes a row without asking the triggers on DELETE."""
    engine = database.open_owner(sqlite_url)
    with pytest.raises(LedgerDamagedError), database.transaction(engine) as connection:
        connection.exec_driver_sql(statement)
    engine.dispose()


def test_who_may_not_lock_a_ledger_in_use_is_told_and_reads_no_mixture(path, tmp_path_factory) -> None:
    """The flaw it would catch: reading a file as unchangeable while its owner writes it."""
    folder = tmp_path_factory.mktemp("live")
    for parent in [folder, *folder.parents][:4]:
        if os.geteuid() == 0:
            parent.chmod(0o755)
    copy = Path(shutil.copy(path, folder / "live.db"))
    copy.chmod(0o644)
    folder.chmod(0o555 if os.geteuid() else 0o755)
    with unprivileged(), pytest.raises(ReadOnlyError, match="may be changed while it is read"):
        Ledger.open_read_only(f"sqlite:///{copy}")
    folder.chmod(0o755)


def test_a_pipe_in_the_place_of_a_ledger_is_not_waited_for(create, sqlite_url, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "ledger.db")
    for opened in (Ledger.open, Ledger.open_read_only, create):
        with pytest.raises(LedgerMissingError, match="not a file"):
            opened(sqlite_url)
