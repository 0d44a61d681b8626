"""The ledger on SQLite: one file in WAL mode, every commit synced (sqlite.org/wal.html)."""

import os
import sqlite3
import time
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.parse import quote

import sqlalchemy as sa
from sqlalchemy.pool import ConnectionPoolEntry

from storage import tables
from storage.errors import (
    DiskFullError,
    LedgerAddressError,
    LedgerBusyError,
    LedgerDamagedError,
    LedgerError,
    LedgerForeignError,
    LedgerMissingError,
    ReadOnlyError,
)

FAULT = sqlite3.Error
LOCK_SECONDS = 10
_CACHE_KIB = 256 << 10
_CHECKPOINT_PAGES = 64 << 10
"""How long the write-ahead log grows, 256 MiB, before its pages go where they belong: each then goes once."""


def _is_there(table: sa.Table) -> str:
    key = next(iter(table.primary_key)).name
    return f"EXISTS (SELECT 1 FROM {table.name} WHERE {key} = NEW.{key})"  # noqa: S608 - our own names


_GUARDS = {
    **{f"{table.name}_is_never_changed": f"UPDATE ON {table.name}" for table in tables.APPEND_ONLY},
    **{f"{table.name}_is_never_deleted": f"DELETE ON {table.name}" for table in tables.KEPT},
    # INSERT OR REPLACE deletes without a word to the triggers on DELETE (sqlite.org/lang_conflict.html).
    **{
        f"{table.name}_is_never_replaced": f"INSERT ON {table.name} WHEN {_is_there(table)}"
        for table in tables.KEPT
    },
    "witnessed_keeps_its_place": "UPDATE OF size, time ON witnessed",
    "head_keeps_its_origin": "UPDATE OF id, origin ON head",
    "head_never_shrinks": "UPDATE OF size ON head WHEN NEW.size < OLD.size",
    "head_stays_frozen": "UPDATE OF frozen ON head WHEN NEW.frozen < OLD.frozen",
}
_FAULTS: dict[int, type[LedgerError]] = {
    sqlite3.SQLITE_BUSY: LedgerBusyError,
    sqlite3.SQLITE_LOCKED: LedgerBusyError,
    sqlite3.SQLITE_FULL: DiskFullError,
    sqlite3.SQLITE_READONLY: ReadOnlyError,
    sqlite3.SQLITE_PERM: ReadOnlyError,
    sqlite3.SQLITE_CANTOPEN: LedgerMissingError,
    sqlite3.SQLITE_NOTADB: LedgerDamagedError,
    sqlite3.SQLITE_CORRUPT: LedgerDamagedError,
    sqlite3.SQLITE_CONSTRAINT: LedgerDamagedError,
}


def prepare(url: str) -> None:
    """Make the file, for its owner only, where there is none yet."""
    path = _path(url)
    try:
        os.close(os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600))
    except FileNotFoundError as error:
        raise LedgerMissingError(f"There is no folder {path.parent}.") from error
    except OSError as error:
        raise ReadOnlyError(f"{path} cannot be written: {error.strerror}.") from error
    _use_write_ahead_log(path)


def writer(url: str) -> sa.Engine:
    """Every transaction starts with BEGIN IMMEDIATE.

    One that reads first and asks for the write lock later fails at once when two do so.
    """
    pragmas = ("synchronous=FULL", "secure_delete=ON", f"wal_autocheckpoint={_CHECKPOINT_PAGES}")
    return _engine(url, "rw", "BEGIN IMMEDIATE", pragmas)


owner = writer


def reader(url: str) -> sa.Engine:
    """Readers see the last commit and never wait for a writer."""
    path = _path(url)
    engine = _engine(url, "ro", "BEGIN", ("query_only=ON",))
    try:
        with closing(engine.raw_connection()) as connection:
            connection.execute("SELECT count(*) FROM sqlite_master").close()
    except sqlite3.Error as error:
        engine.dispose()
        fault = translated(error)
        if not isinstance(fault, LedgerMissingError | ReadOnlyError):
            raise fault from error
        if not path.is_file() or not os.access(path, os.R_OK) or path.with_name(path.name + "-wal").exists():
            raise fault from error
        # A cleanly closed WAL database that nobody can change under us, as on a medium for reading only.
        if not _is_sealed(path):
            raise ReadOnlyError(
                f"{path} may be changed while it is read, and this user may not make the files that prevent it."
            ) from error
        return _engine(url, "ro&immutable=1", "BEGIN", ("query_only=ON",))
    return engine


def alone(_connection: sa.Connection) -> None:
    """The write lock is held from the first statement; there is nothing more to do."""


def require_unclaimed(_connection: sa.Connection) -> None:
    """A file's rights are its own."""


def protect(connection: sa.Connection) -> None:
    """Make the triggers that refuse to forget."""
    for statement in _statements().values():
        connection.exec_driver_sql(statement)


def unguarded(connection: sa.Connection) -> tuple[str, ...]:
    """Name the triggers that are missing, changed, or not ours, and tables that are none."""
    found = {
        row.name: row.sql if row.type == "trigger" else row.type
        for row in connection.exec_driver_sql(
            "SELECT name, type, sql FROM sqlite_master WHERE type IN ('trigger', 'table', 'view')"
        )
    }
    expected = _statements() | dict.fromkeys(tables.metadata.tables, "table")
    ours = set(tables.metadata.tables)
    return tuple(
        sorted(
            name
            for name in expected.keys() | found.keys()
            if found.get(name) != expected.get(name) and (name in ours or found.get(name) != "table")
        )
    )


def _statements() -> dict[str, str]:
    return {
        name: f"CREATE TRIGGER {name} BEFORE {change} "
        f"BEGIN SELECT RAISE(ABORT, '{name.replace('_', ' ')}'); END"
        for name, change in _GUARDS.items()
    }


def unprotect(connection: sa.Connection) -> None:
    """Drop them, inside a migration."""
    for name in (
        connection.exec_driver_sql("SELECT name FROM sqlite_master WHERE type = 'trigger'").scalars().all()
    ):
        connection.exec_driver_sql(f"DROP TRIGGER {name}")


def settle(url: str) -> None:
    """Fold the write-ahead log into the file, so that what a migration rewrote is not kept beside it."""
    engine = writer(url)
    try:
        with closing(engine.raw_connection()) as connection:
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").close()
    except sqlite3.Error as error:
        raise translated(error) from error
    finally:
        engine.dispose()


def insert(connection: sa.Connection, table: sa.Table, rows: Sequence[tuple[Any, ...]]) -> None:
    """Insert rows with one prepared statement."""
    columns = ", ".join(column.name for column in table.columns)
    marks = ", ".join("?" * len(table.columns))
    connection.exec_driver_sql(f"INSERT INTO {table.name} ({columns}) VALUES ({marks})", list(rows))  # noqa: S608


def translated(error: BaseException | None) -> LedgerError:
    """Say whose fault a failure of the database was (sqlite.org/rescode.html)."""
    extended = getattr(error, "sqlite_errorcode", 0)
    if extended == sqlite3.SQLITE_IOERR_SHMSIZE:  # opening needs some room as well
        return DiskFullError("There is no room for the index of the ledger's write-ahead log.")
    code = extended & 0xFF
    if code == sqlite3.SQLITE_ERROR and str(error).startswith("no such"):
        return LedgerForeignError("The file is a database, but not a ledger of this revision.")
    return _FAULTS.get(code, LedgerError)(f"The ledger's database answered: {error}.")


def _engine(url: str, mode: str, begin: str, pragmas: tuple[str, ...]) -> sa.Engine:
    # As bytes: a path need not be UTF-8. Quoted: SQLite reads ? and # of a file URI, and so does SQLAlchemy.
    uri = f"file:{quote(os.fsencode(_path(url).absolute()))}"
    address = sa.URL.create("sqlite", database=uri, query={"mode": mode, "uri": "true"})
    engine = sa.create_engine(address, connect_args={"timeout": LOCK_SECONDS})
    settings = (
        f"busy_timeout={LOCK_SECONDS * 1000}",
        "foreign_keys=ON",
        f"cache_size=-{_CACHE_KIB}",
        *pragmas,
    )

    def connected(connection: sqlite3.Connection, _record: ConnectionPoolEntry) -> None:
        connection.isolation_level = None  # the driver's own BEGIN is deferred and late; we say ours
        for pragma in settings:
            connection.execute(f"PRAGMA {pragma}").close()

    def begun(connection: sa.Connection) -> None:
        connection.exec_driver_sql(begin)

    sa.event.listen(engine, "connect", connected)
    sa.event.listen(engine, "begin", begun)
    return engine


def _is_sealed(path: Path) -> bool:
    """Whether nobody can write the file: by its medium, or by the modes of file and folder (root aside)."""
    if os.statvfs(path).f_flag & os.ST_RDONLY:
        return True
    return not any(place.stat().st_mode & 0o222 for place in (path, path.parent))


def _use_write_ahead_log(path: Path) -> None:
    """Set the file's journal mode, which it keeps (sqlite.org/wal.html, 3.3).

    The switch needs the file for itself, and SQLite does not wait for that to come true.
    """
    attempts = LOCK_SECONDS * 100
    with closing(sqlite3.connect(path, timeout=LOCK_SECONDS)) as connection:
        while True:
            try:
                connection.execute("PRAGMA journal_mode=WAL").close()
            except sqlite3.Error as error:
                fault = translated(error)
                attempts -= 1
                if not isinstance(fault, LedgerBusyError) or attempts <= 0:
                    raise fault from error
                time.sleep(0.01)
            else:
                return


def _path(url: str) -> Path:
    """The path after `sqlite:///`, letter for letter: what follows a ? or a # is a part of its name."""
    scheme, slashes, path = url.partition("///")
    if scheme != "sqlite:" or not slashes or not path or path == ":memory:":
        raise LedgerAddressError("The ledger's address is not of the form sqlite:///path.")
    place = Path(path)
    if place.exists() and not place.is_file():  # SQLite would wait for a pipe
        raise LedgerAddressError(f"{place} is not a file.")
    return place
