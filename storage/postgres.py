"""The ledger on PostgreSQL: row locks, COPY, and roles that have no right to forget.

Two roles belong to each database: `lightseal_writer_NAME` may add entries and cannot
change or delete one, `lightseal_reader_NAME` may look. Every connection takes on one of
them, so that not even the owner's own process works with the owner's rights; who else
is to record or to read is made a member of one by the database's owner.
"""

import hashlib
import re
from collections.abc import Sequence
from typing import Any

import psycopg
import psycopg.sql
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
    LedgerUnreachableError,
    LedgerUnsafeError,
    ReadOnlyError,
)

FAULT = psycopg.Error
LOCK_SECONDS = 10
_NAME_BYTES = 63
_NO_DATABASE = re.compile(r'database ".*" does not exist')
_CREATION = 0x6C69676874  # any constant will do for the advisory lock of those who create at once

# table -> what a writer may do with it beyond reading
_RIGHTS = {
    "entry": "INSERT",
    "submission": "INSERT",
    "checkpoint": "INSERT",
    "witnessed": "INSERT, UPDATE (note)",
    "tile": "INSERT, UPDATE",
    "head": "INSERT, UPDATE",
    "secret": "INSERT, DELETE",
    "lookup": "INSERT, DELETE",
}
# trigger -> when it refuses
_GUARDS = {
    **{
        f"{table.name}_keeps_its_rows": f"BEFORE {changes} ON {table.name} FOR EACH ROW"
        for table in tables.KEPT
        for changes in ["UPDATE OR DELETE" if table in tables.APPEND_ONLY else "DELETE"]
    },
    **{f"{table.name}_keeps_all": f"BEFORE TRUNCATE ON {table.name}" for table in tables.KEPT},
    "witnessed_keeps_its_place": "BEFORE UPDATE ON witnessed FOR EACH ROW "
    "WHEN (NEW.size <> OLD.size OR NEW.time <> OLD.time)",
    "head_never_goes_back": "BEFORE UPDATE ON head FOR EACH ROW WHEN (NEW.size < OLD.size "
    "OR NEW.frozen < OLD.frozen OR NEW.id <> OLD.id OR NEW.origin <> OLD.origin)",
}
# SQLSTATE, whole or its class (postgresql.org/docs/current/errcodes-appendix.html).
_FAULTS: dict[str, type[LedgerError]] = {
    "53100": DiskFullError,
    "55P03": LedgerBusyError,
    "40001": LedgerBusyError,
    "40P01": LedgerBusyError,
    "25006": ReadOnlyError,
    "42501": ReadOnlyError,
    "42P01": LedgerForeignError,
    "42703": LedgerForeignError,
    "3D000": LedgerMissingError,
    "23": LedgerDamagedError,
    "XX": LedgerDamagedError,
    "08": LedgerUnreachableError,
    "57": LedgerUnreachableError,
    "53": LedgerUnreachableError,
    "28": LedgerUnreachableError,
}
_COPIED = {sa.LargeBinary: "bytea", sa.BigInteger: "int8", sa.Text: "text"}


def prepare(url: str) -> None:
    """The database itself is its administrator's to make."""
    _address(url)


def owner(url: str) -> sa.Engine:
    """Work with the connecting user's own rights, to make tables and roles."""
    return _engine(url, "READ COMMITTED", None)


def writer(url: str) -> sa.Engine:
    """Work as the writing role; writers queue at the row lock on the head."""
    return _engine(url, "READ COMMITTED", "writer")


def reader(url: str) -> sa.Engine:
    """Work as the reading role, in snapshots."""
    return _engine(url, "REPEATABLE READ", "reader")


def alone(connection: sa.Connection) -> None:
    """Let those who create at once take turns."""
    connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_CREATION)))


def require_unclaimed(connection: sa.Connection) -> None:
    """Refuse roles that outlived an earlier database of this name: their members would have rights in this one."""
    name = str(connection.scalar(sa.select(sa.func.current_database())))
    members = sa.text(
        "SELECT DISTINCT member.rolname FROM pg_auth_members "
        "JOIN pg_roles AS granted ON granted.oid = roleid JOIN pg_roles AS member ON member.oid = pg_auth_members.member "
        "WHERE granted.rolname IN (:writer, :reader) AND member.rolname NOT IN (current_user, :writer)"
    )
    roles = {"writer": _role("writer", name), "reader": _role("reader", name)}
    if found := connection.scalars(members, roles).all():
        raise LedgerForeignError(
            f"{', '.join(found)} may already write or read here, by roles of an earlier database: drop those roles."
        )


def protect(connection: sa.Connection) -> None:
    """Make the triggers that refuse to forget, and the two roles."""
    connection.exec_driver_sql(
        "CREATE FUNCTION lightseal_refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
        "RAISE EXCEPTION '%% of %% is refused', TG_OP, TG_TABLE_NAME USING ERRCODE = 'integrity_constraint_violation'; "
        "END $$"
    )
    for name, when in _GUARDS.items():
        connection.exec_driver_sql(f"CREATE TRIGGER {name} {when} EXECUTE FUNCTION lightseal_refuse()")
    _make_roles(connection)


def unguarded(connection: sa.Connection) -> tuple[str, ...]:
    """Name the triggers that are missing, switched off, or not ours, and tables that are none."""
    triggers = sa.text(
        "SELECT tgname, tgenabled, proname FROM pg_trigger JOIN pg_proc ON pg_proc.oid = tgfoid "
        "WHERE NOT tgisinternal AND tgrelid = ANY (SELECT c.oid FROM pg_class AS c WHERE c.relname = ANY (:names) "
        "AND c.relnamespace = current_schema()::regnamespace)"
    )
    kinds = sa.text(
        "SELECT relname, relkind FROM pg_class WHERE relname = ANY (:names) "
        "AND relnamespace = current_schema()::regnamespace"
    )
    names = {"names": list(tables.metadata.tables)}
    found = {row.tgname: (row.tgenabled, row.proname) for row in connection.execute(triggers, names)}
    expected = dict.fromkeys(_GUARDS, ("O", "lightseal_refuse"))
    real = {row.relname: row.relkind for row in connection.execute(kinds, names)}
    return tuple(
        sorted(
            [name for name in expected.keys() | found.keys() if found.get(name) != expected.get(name)]
            + [name for name in tables.metadata.tables if real.get(name) not in ("r", "p")]
        )
    )


def unprotect(connection: sa.Connection) -> None:
    """Drop the triggers, inside a migration; the roles stay."""
    connection.exec_driver_sql("DROP FUNCTION IF EXISTS lightseal_refuse() CASCADE")


def settle(_url: str) -> None:
    """Dead rows are the server's to clear away."""


def insert(connection: sa.Connection, table: sa.Table, rows: Sequence[tuple[Any, ...]]) -> None:
    """Insert rows by binary COPY."""
    columns = ", ".join(column.name for column in table.columns)
    types = [_COPIED[type(column.type)] for column in table.columns]
    driver = connection.connection.driver_connection
    assert isinstance(driver, psycopg.Connection)  # noqa: S101 - this engine has no other
    with (
        driver.cursor() as cursor,
        cursor.copy(f"COPY {table.name} ({columns}) FROM STDIN (FORMAT BINARY)") as copy,
    ):
        copy.set_types(types)
        for row in rows:
            copy.write_row(row)


def translated(error: BaseException | None) -> LedgerError:
    """Say whose fault a failure of the database was."""
    state = getattr(error, "sqlstate", None) or ""
    if not state and isinstance(error, psycopg.OperationalError):
        # No connection, so nobody gave a code (libpq keeps it to itself while connecting).
        state = "3D000" if _NO_DATABASE.search(str(error)) else "08000"
    kind = _FAULTS.get(state) or _FAULTS.get(state[:2], LedgerError)
    said = str(error).strip().partition("\n")[0]
    return kind(f"The ledger's database answered: {said}.")


def _engine(url: str, isolation: str, role: str | None) -> sa.Engine:
    engine = sa.create_engine(
        _address(url),
        isolation_level=isolation,
        pool_pre_ping=True,
        connect_args={"connect_timeout": LOCK_SECONDS, "application_name": "lightseal"},
    )

    def connected(connection: psycopg.Connection[tuple[Any, ...]], _record: ConnectionPoolEntry) -> None:
        with connection.cursor() as cursor:
            cursor.execute(f"SET lock_timeout = '{LOCK_SECONDS}s'")
            cursor.execute("SET synchronous_commit = on")
            # Where the tables were made: "$user" in the path would be another one under another role.
            cursor.execute("SELECT set_config('search_path', quote_ident(current_schema()), false)")
            if role == "reader":
                cursor.execute("SET default_transaction_read_only = on")
            if role is not None:
                _require_durable(cursor)
                _take_role(cursor, _role(role, connection.info.dbname))
        connection.commit()

    sa.event.listen(engine, "connect", connected)
    return engine


def _require_durable(cursor: psycopg.Cursor[tuple[Any, ...]]) -> None:
    for setting in ("fsync", "full_page_writes"):
        if cursor.execute(f"SHOW {setting}").fetchone() == ("off",):
            raise LedgerUnsafeError(f"The server runs with {setting} = off.")


def _take_role(cursor: psycopg.Cursor[tuple[Any, ...]], name: str) -> None:
    found = cursor.execute(
        "SELECT pg_has_role(oid, 'MEMBER') FROM pg_roles WHERE rolname = %s", (name,)
    ).fetchone()
    if found is None:
        raise LedgerForeignError(f"The database holds no ledger: it has no role {name}.")
    if found != (True,):
        raise ReadOnlyError(f"The connecting user is not a member of the role {name}.")
    cursor.execute(psycopg.sql.SQL("SET ROLE {}").format(psycopg.sql.Identifier(name)))


def _make_roles(connection: sa.Connection) -> None:
    name = connection.scalar(sa.select(sa.func.current_database()))
    schema = connection.scalar(sa.select(sa.func.current_schema()))
    quoted = connection.dialect.identifier_preparer.quote
    writer_role, reader_role = quoted(_role("writer", str(name))), quoted(_role("reader", str(name)))
    for role in ("writer", "reader"):
        raw = _role(role, str(name))
        if connection.scalar(sa.text("SELECT 1 FROM pg_roles WHERE rolname = :name"), {"name": raw}) is None:
            connection.exec_driver_sql(f"CREATE ROLE {quoted(raw)} NOLOGIN")
        connection.exec_driver_sql(f"GRANT {quoted(raw)} TO current_user")
        connection.exec_driver_sql(f"GRANT USAGE ON SCHEMA {quoted(str(schema))} TO {quoted(raw)}")
    connection.exec_driver_sql(f"GRANT {reader_role} TO {writer_role}")  # who records, reads too
    every = ", ".join(tables.metadata.tables)
    connection.exec_driver_sql(f"GRANT SELECT ON {every} TO {writer_role}, {reader_role}")
    for table, rights in _RIGHTS.items():
        connection.exec_driver_sql(f"GRANT {rights} ON {table} TO {writer_role}")


def _role(role: str, database: str) -> str:
    """The role's name, which PostgreSQL would cut at 63 bytes: two long names must not become one."""
    name = f"lightseal_{role}_{database}"
    if len(name.encode()) <= _NAME_BYTES:
        return name
    return f"lightseal_{role}_{hashlib.sha256(database.encode()).hexdigest()[:32]}"


def _address(url: str) -> sa.URL:
    try:
        address = sa.make_url(url)
    except (sa.exc.ArgumentError, ValueError) as error:
        raise LedgerAddressError("The ledger's address is not of the form postgresql://host/name.") from error
    if address.drivername != "postgresql" or not address.database:
        raise LedgerAddressError("The ledger's address is not of the form postgresql://host/name.")
    if address.password is not None or {"password", "sslpassword"} & set(address.query):
        raise LedgerAddressError("The ledger's address holds a password, which others could read.")
    return address.set(drivername="postgresql+psycopg")
