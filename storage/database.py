"""One database, two engines: opening it, transactions, and rows in bulk.

SQLite is there always; PostgreSQL where its driver is installed. Which one is said by
the address alone. What is common stands here, the rest in `storage.sqlite` and
`storage.postgres`.
"""

import functools
import importlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import sqlalchemy as sa

from storage import tables
from storage.errors import (
    DriverMissingError,
    LedgerAddressError,
    LedgerBusyError,
    LedgerForeignError,
    LedgerOutdatedError,
)

_ENGINES = {"sqlite": "storage.sqlite", "postgresql": "storage.postgres"}


def create(url: str) -> None:
    """Make the database's tables, triggers and roles, where they are not there yet."""
    prepare(url)
    engine = _module(url).owner(url)
    try:
        with transaction(engine) as connection:
            alone(connection)
            known = set(sa.inspect(connection).get_table_names())
            if known & set(tables.metadata.tables):
                if tables.version.name not in known:
                    raise LedgerOutdatedError("The ledger has schema revision 0001.")
                return
            _module(url).require_unclaimed(connection)
            tables.metadata.create_all(connection)
            connection.execute(sa.insert(tables.version).values(version_num=tables.REVISION))
            protect(connection)
    finally:
        engine.dispose()


def open_owner(url: str) -> sa.Engine:
    """Open an existing database as the one who may change its schema."""
    return _opened(_module(url).owner(url))


def open_writer(url: str) -> sa.Engine:
    """Open an existing database for transactions that may write."""
    return _opened(_module(url).writer(url))


def open_reader(url: str) -> sa.Engine:
    """Open an existing database for reading; needs no permission to write.

    Each transaction sees one state of the database and never waits for a writer.
    """
    return _opened(_module(url).reader(url))


@contextmanager
def transaction(engine: sa.Engine) -> Iterator[sa.Connection]:
    """Run one transaction: all of it is durable afterwards, or nothing happened."""
    module = _of(engine)
    try:
        with engine.begin() as connection:
            yield connection
    except sa.exc.DBAPIError as error:
        raise module.translated(error.orig) from error
    except sa.exc.TimeoutError as error:
        raise LedgerBusyError("Too many of this process's threads use the database at once.") from error
    except module.FAULT as error:  # from a driver we spoke to ourselves
        raise module.translated(error) from error


def alone(connection: sa.Connection) -> None:
    """Wait for the others who create here, until this transaction ends."""
    _of(connection.engine).alone(connection)


def prepare(url: str) -> None:
    """Make what the tables are to be made in, where that is ours to make."""
    _module(url).prepare(url)


def remove(url: str, origin: str) -> None:
    """Take away the ledger of `origin`, which was just made and will not be used; no other."""
    engine = open_owner(url)
    try:
        with transaction(engine) as connection:
            if connection.scalar(sa.select(tables.head.c.origin)) == origin:
                unprotect(connection)
                tables.metadata.drop_all(connection)
    finally:
        engine.dispose()


def protect(connection: sa.Connection) -> None:
    """Make the triggers, and where the engine has them the roles, that refuse to forget."""
    _of(connection.engine).protect(connection)


def unguarded(connection: sa.Connection) -> tuple[str, ...]:
    """Name what is missing of this protection, and what stands there that we did not make."""
    return tuple(_of(connection.engine).unguarded(connection))


def unprotect(connection: sa.Connection) -> None:
    """Take the triggers away for as long as a migration runs in this transaction."""
    _of(connection.engine).unprotect(connection)


def settle(url: str) -> None:
    """After a migration, keep no second copy of what was rewritten where that can be helped."""
    _module(url).settle(url)


def insert(connection: sa.Connection, table: sa.Table, rows: Sequence[tuple[Any, ...]]) -> None:
    """Insert rows in bulk, as fast as the engine can; each has a value for every column, in order."""
    if rows:
        _of(connection.engine).insert(connection, table, rows)


def known(connection: sa.Connection, commitments: Iterable[bytes]) -> dict[bytes, int]:
    """Return the indices of those commitments that were recorded."""
    wanted = list(commitments)
    found: dict[bytes, int] = {}
    for at in range(0, len(wanted), 512):
        part = wanted[at : at + 512]
        query = sa.select(tables.submission).where(tables.submission.c.commitment.in_(part))
        found |= {row.commitment: row.idx for row in connection.execute(query)}
    return found


def column(connection: sa.Connection, query: str, values: tuple[int, ...]) -> list[bytes]:
    """Return the first column of a query that is written out, with `?` for each value.

    The same rows as by an expression, which each newly opened engine has to compile first.
    """
    if connection.dialect.paramstyle != "qmark":
        query = query.replace("?", "%s")
    return list(connection.exec_driver_sql(query, values).scalars())


def require_revision(connection: sa.Connection) -> None:
    """Refuse a database that is no ledger of this revision."""
    present = sa.inspect(connection).get_table_names()
    if tables.version.name not in present:
        if tables.head.name in present and tables.entry.name in present:
            raise LedgerOutdatedError("The ledger has schema revision 0001.")
        raise LedgerForeignError("The database holds no ledger.")
    found = connection.scalars(sa.select(tables.version.c.version_num)).all()
    if len(found) == 1 and found[0] < tables.REVISION:
        raise LedgerOutdatedError(f"The ledger has schema revision {found[0]}, not {tables.REVISION}.")
    if found != [tables.REVISION]:
        shown = ", ".join(found) or "none"
        raise LedgerForeignError(f"The ledger has schema revision {shown}, not {tables.REVISION}.")


def _opened(engine: sa.Engine) -> sa.Engine:
    try:
        with transaction(engine) as connection:
            connection.exec_driver_sql("SELECT 1")
    except BaseException:
        engine.dispose()
        raise
    return engine


def _of(engine: sa.Engine) -> ModuleType:
    return _loaded(engine.dialect.name)


def _module(url: str) -> ModuleType:
    scheme = url.partition(":")[0]
    if scheme not in _ENGINES:
        raise LedgerAddressError(
            "The ledger's address is not of the form sqlite:///path or postgresql://host/name."
        )
    return _loaded(scheme)


@functools.cache
def _loaded(scheme: str) -> ModuleType:
    try:
        return importlib.import_module(_ENGINES[scheme])
    except ModuleNotFoundError as error:
        raise DriverMissingError(f"The package {error.name} is not installed.") from error
