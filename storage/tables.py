"""The ledger's tables, and the transactions in which they are read and written.

`entry` and `checkpoint` only ever grow, and `head` never shrinks: triggers refuse
anything else. They stop mistakes, not someone who owns the file; `storage.audit` and
checkpoints kept elsewhere are for that one.
"""

import os
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from urllib.parse import quote

import sqlalchemy as sa
from sqlalchemy.pool import ConnectionPoolEntry

from storage.errors import (
    DiskFullError,
    Error,
    LedgerBusyError,
    LedgerDamagedError,
    LedgerError,
    LedgerForeignError,
    LedgerMissingError,
    ReadOnlyError,
)

REVISION = 1
LOCK_SECONDS = 10

_metadata = sa.MetaData()
_Integer = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def _hash(name: str) -> sa.Column[bytes]:
    return sa.Column(name, sa.LargeBinary, sa.CheckConstraint(f"length({name}) = 32"), nullable=False)


# One row per entry, dense from 0. `leaf` is unique: the same body has one index.
entry = sa.Table(
    "entry",
    _metadata,
    sa.Column("idx", _Integer, primary_key=True, autoincrement=False),
    sa.Column("leaf", sa.LargeBinary, sa.CheckConstraint("length(leaf) = 32"), nullable=False, unique=True),
    sa.Column("body", sa.LargeBinary, sa.CheckConstraint("length(body) <= 65535"), nullable=False),
    sqlite_strict=True,
)
# Hashes in tiles of 256. Level 0 is stored when full; higher levels grow by a hash at a time.
tile = sa.Table(
    "tile",
    _metadata,
    sa.Column("level", _Integer, primary_key=True, autoincrement=False),
    sa.Column("number", _Integer, primary_key=True, autoincrement=False),
    sa.Column("data", sa.LargeBinary, sa.CheckConstraint("length(data) <= 8192"), nullable=False),
    sqlite_strict=True,
)
# The one row that a writer locks, and all that it needs to go on.
head = sa.Table(
    "head",
    _metadata,
    sa.Column("id", _Integer, sa.CheckConstraint("id = 1"), primary_key=True, autoincrement=False),
    sa.Column("revision", _Integer, nullable=False),
    sa.Column("origin", sa.Text, nullable=False),
    sa.Column("size", _Integer, nullable=False),
    _hash("root"),
    sa.Column("frontier", sa.LargeBinary, nullable=False),
    sa.Column("time", _Integer, nullable=False),
    sqlite_strict=True,
)
# Every note that was ever signed, as it was signed.
checkpoint = sa.Table(
    "checkpoint",
    _metadata,
    sa.Column("size", _Integer, primary_key=True, autoincrement=False),
    sa.Column("note", sa.LargeBinary, nullable=False),
    sa.Column("time", _Integer, nullable=False),
    sqlite_strict=True,
)
# What the commitments hide. Erasable, and never hashed into the tree.
secret = sa.Table(
    "secret",
    _metadata,
    sa.Column("idx", _Integer, sa.ForeignKey(entry.c.idx), primary_key=True, autoincrement=False),
    _hash("salt"),
    sa.Column("payload", sa.LargeBinary, nullable=False),
    sqlite_strict=True,
)
# Private ways to find an entry; they can be made again from the payloads.
lookup = sa.Table(
    "lookup",
    _metadata,
    sa.Column("kind", sa.Text, primary_key=True),
    sa.Column("key", sa.LargeBinary, primary_key=True),
    sa.Column("idx", _Integer, sa.ForeignKey(entry.c.idx), primary_key=True, autoincrement=False, index=True),
    sqlite_strict=True,
    sqlite_with_rowid=False,
)

_GUARDS = {
    "entry_is_never_changed": "UPDATE ON entry",
    "entry_is_never_deleted": "DELETE ON entry",
    "checkpoint_is_never_changed": "UPDATE ON checkpoint",
    "checkpoint_is_never_deleted": "DELETE ON checkpoint",
    "head_keeps_its_origin": "UPDATE OF id, revision, origin ON head",
    "head_is_never_deleted": "DELETE ON head",
    "head_never_shrinks": "UPDATE OF size ON head WHEN NEW.size < OLD.size",
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


def create_tables(url: str) -> None:
    """Make the file, for its owner only, and the tables, where they are not there yet."""
    path = _path(url)
    try:
        os.close(os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600))
    except FileNotFoundError as error:
        raise LedgerMissingError(f"There is no folder {path.parent}.") from error
    except OSError as error:
        raise ReadOnlyError(f"{path} cannot be written: {error.strerror}.") from error
    _use_write_ahead_log(path)
    engine = open_writer(url)
    try:
        with transaction(engine) as connection:
            _metadata.create_all(connection)
            for name, change in _GUARDS.items():
                connection.exec_driver_sql(
                    f"CREATE TRIGGER IF NOT EXISTS {name} BEFORE {change} "
                    f"BEGIN SELECT RAISE(ABORT, '{name.replace('_', ' ')}'); END"
                )
    finally:
        engine.dispose()


def open_writer(url: str) -> sa.Engine:
    """Open an existing database for transactions that may write.

    Every transaction starts with BEGIN IMMEDIATE: one that reads first and
    asks for the write lock later fails at once when two do so.
    """
    return _engine(url, "rw", "BEGIN IMMEDIATE", ("synchronous=FULL", "secure_delete=ON"))


def open_reader(url: str) -> sa.Engine:
    """Open an existing database for reading; needs no permission to write.

    Readers see the last commit and never wait for a writer.
    """
    path = _path(url)
    engine = _engine(url, "ro", "BEGIN", ("query_only=ON",))
    try:
        with transaction(engine) as connection:
            connection.exec_driver_sql("SELECT count(*) FROM sqlite_master").scalar_one()
    except (LedgerMissingError, ReadOnlyError):
        engine.dispose()
        if not path.is_file() or not os.access(path, os.R_OK) or path.with_name(path.name + "-wal").exists():
            raise
        # A cleanly closed WAL database where not even the index of the log can be written,
        # as on a medium for reading only: nobody here can change it under us.
        return _engine(url, "ro&immutable=1", "BEGIN", ("query_only=ON",))
    except Error:
        engine.dispose()
        raise
    return engine


@contextmanager
def transaction(engine: sa.Engine) -> Iterator[sa.Connection]:
    """Run one transaction: all of it is durable afterwards, or nothing happened."""
    try:
        with engine.begin() as connection:
            yield connection
    except sa.exc.DBAPIError as error:
        raise _translated(error.orig) from error
    except sqlite3.Error as error:  # from the PRAGMAs of a new connection
        raise _translated(error) from error


def _engine(url: str, mode: str, begin: str, pragmas: tuple[str, ...]) -> sa.Engine:
    # As bytes: a path need not be UTF-8. Quoted: SQLite reads ? and # of a file URI, and so does SQLAlchemy.
    uri = f"file:{quote(os.fsencode(_path(url).absolute()))}"
    address = sa.URL.create("sqlite", database=uri, query={"mode": mode, "uri": "true"})
    engine = sa.create_engine(address, connect_args={"timeout": LOCK_SECONDS})

    def connected(connection: sqlite3.Connection, _record: ConnectionPoolEntry) -> None:
        connection.isolation_level = None  # the driver's own BEGIN is deferred and late; we say ours
        for pragma in (f"busy_timeout={LOCK_SECONDS * 1000}", "foreign_keys=ON", *pragmas):
            connection.execute(f"PRAGMA {pragma}").close()

    def begun(connection: sa.Connection) -> None:
        connection.exec_driver_sql(begin)

    sa.event.listen(engine, "connect", connected)
    sa.event.listen(engine, "begin", begun)
    return engine


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
                fault = _translated(error)
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
        raise LedgerMissingError("The ledger's address is not of the form sqlite:///path.")
    return Path(path)


def _translated(error: BaseException | None) -> LedgerError:
    """Say whose fault a failure of the database was (sqlite.org/rescode.html)."""
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    if code == sqlite3.SQLITE_ERROR and str(error).startswith("no such"):
        return LedgerForeignError("The file is a database, but not a ledger of this revision.")
    return _FAULTS.get(code, LedgerError)(f"The ledger's database answered: {error}.")
