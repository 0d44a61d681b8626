"""The registry's database: made, opened, guarded; on the engines that the ledger has.

On PostgreSQL one role belongs to it, `lightseal_registry_NAME`, which may not change or
delete what only grows. The ledger's own roles have no rights here: who reads the log is not
told which certificates are one device's.
"""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import sqlalchemy as sa
from sqlalchemy.pool import ConnectionPoolEntry

from storage import database as engines
from storage.errors import (
    DiskFullError,
    DriverMissingError,
    LedgerAddressError,
    LedgerBusyError,
    LedgerDamagedError,
    LedgerError,
    LedgerForeignError,
    LedgerMissingError,
    LedgerUnreachableError,
    ReadOnlyError,
)
from storage.registry import tables
from storage.registry.errors import (
    RegistryAddressError,
    RegistryBusyError,
    RegistryDamagedError,
    RegistryDriverMissingError,
    RegistryError,
    RegistryForeignError,
    RegistryFullError,
    RegistryMissingError,
    RegistryReadOnlyError,
    RegistryUnreachableError,
    RegistryUnsafeError,
)

_TURN = 0x6C73_7265_6769
"""Any constant will do for the advisory lock of those who write."""
_NAME_BYTES = 63
_FUNCTION = "registry_refuse"
_REFUSAL = (
    " BEGIN RAISE EXCEPTION '% of % is refused', TG_OP, TG_TABLE_NAME"
    " USING ERRCODE = 'integrity_constraint_violation'; END "
)
_FAULTS: dict[type[LedgerError], type[RegistryError]] = {
    LedgerAddressError: RegistryAddressError,
    LedgerBusyError: RegistryBusyError,
    LedgerDamagedError: RegistryDamagedError,
    LedgerForeignError: RegistryForeignError,
    LedgerMissingError: RegistryMissingError,
    LedgerUnreachableError: RegistryUnreachableError,
    DiskFullError: RegistryFullError,
    DriverMissingError: RegistryDriverMissingError,
    ReadOnlyError: RegistryReadOnlyError,
}


def create(url: str) -> None:
    """Make the tables, triggers and the role, where they are not there yet."""
    with translated():
        engines.prepare(url)
        engine = engines.open_owner(url)
        try:
            with engines.transaction(engine) as connection:
                engines.alone(connection)
                known = set(sa.inspect(connection).get_table_names())
                if tables.revision.name in known:
                    _require_revision(connection)
                    return
                if known and connection.dialect.name == "sqlite":
                    raise RegistryForeignError("The file is the database of something else.")
                tables.metadata.create_all(connection)
                connection.execute(sa.insert(tables.revision).values(id=1, number=tables.REVISION))
                connection.execute(sa.insert(tables.forgotten).values(id=1, until=tables.EPOCH))
                _protect(connection)
        finally:
            engine.dispose()


def open_writer(url: str) -> sa.Engine:
    """Open for transactions that may write."""
    with translated():
        return _as_registrar(engines.open_owner(url)) if _is_server(url) else engines.open_writer(url)


def open_reader(url: str) -> sa.Engine:
    """Open for reading: one state of the database, and no waiting for those who write."""
    with translated():
        if not _is_server(url):
            return engines.open_reader(url)
        engine = _as_registrar(engines.open_owner(url))
        return engine.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)


def require(reader: sa.Engine) -> None:
    """Refuse a database that is no registry of this revision, or whose guards are not those that were made."""
    with reading(reader) as connection:
        if not sa.inspect(connection).has_table(tables.revision.name):
            raise RegistryForeignError("The database holds no registry.")
        _require_revision(connection)
        there = _found(connection)
        lost = [
            name for name, text in _protection(connection.dialect.name).items() if there.get(name) != text
        ]
    if lost:
        raise RegistryDamagedError(f"The registry lost what guards its rows: {', '.join(sorted(lost))}.")


@contextmanager
def reading(engine: sa.Engine) -> Iterator[sa.Connection]:
    """Run one transaction that reads."""
    with translated(), engines.transaction(engine) as connection:
        yield connection


@contextmanager
def writing(engine: sa.Engine) -> Iterator[sa.Connection]:
    """Run one transaction that writes, alone: all of it is durable afterwards, or nothing happened.

    SQLite gives the write lock to BEGIN IMMEDIATE, PostgreSQL to the first statement here;
    what is read after that was committed before, and stays so until the end.
    """
    with translated(), engines.transaction(engine) as connection:
        if connection.dialect.name == "postgresql":
            connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_TURN)))
        yield connection


@contextmanager
def translated() -> Iterator[None]:
    """Say of the registry what the engines say of the ledger."""
    try:
        yield
    except LedgerError as error:
        fault = next((_FAULTS[kind] for kind in type(error).__mro__ if kind in _FAULTS), RegistryError)
        if fault is RegistryForeignError:
            raise fault("The database holds no registry of this revision.") from error
        raise fault(str(error).replace("he ledger's", "he registry's")) from error


def _is_server(url: str) -> bool:
    return url.partition(":")[0] == "postgresql"


def _require_revision(connection: sa.Connection) -> None:
    found = connection.scalars(sa.select(tables.revision.c.number)).all()
    if found != [tables.REVISION]:
        shown = ", ".join(map(str, found)) or "none"
        raise RegistryForeignError(f"The registry has schema revision {shown}, not {tables.REVISION}.")


def _as_registrar(engine: sa.Engine) -> sa.Engine:
    """Let every connection from now on work with the rights of the registry's role alone."""
    engine.dispose()
    sa.event.listen(engine, "connect", _take_role)
    return engine


def _take_role(connection: Any, _record: ConnectionPoolEntry) -> None:
    with connection.cursor() as cursor:
        for setting in ("fsync", "full_page_writes"):
            if cursor.execute(f"SHOW {setting}").fetchone() == ("off",):
                raise RegistryUnsafeError(f"The server runs with {setting} = off.")
        role = _role(connection.info.dbname)
        asked = "SELECT pg_has_role(oid, 'MEMBER') FROM pg_roles WHERE rolname = %s"
        found = cursor.execute(asked, (role,)).fetchone()
        if found is None:
            raise RegistryForeignError(f"The database holds no registry: it has no role {role}.")
        if found != (True,):
            raise RegistryReadOnlyError(f"The connecting user is not a member of the role {role}.")
        cursor.execute("SELECT set_config('role', %s, false)", (role,))
    connection.commit()


def _role(name: str) -> str:
    """The role's name, which PostgreSQL would cut at 63 bytes: two long names must not become one."""
    role = f"lightseal_registry_{name}"
    if len(role.encode()) <= _NAME_BYTES:
        return role
    return f"lightseal_registry_{hashlib.sha256(name.encode()).hexdigest()[:32]}"


def _protect(connection: sa.Connection) -> None:
    """Make the triggers, and where the engine has them the role, that refuse to forget."""
    dialect = connection.dialect.name
    if dialect == "postgresql":
        body = _REFUSAL.replace("%", "%%")  # the driver takes one for a parameter
        connection.exec_driver_sql(
            f"CREATE FUNCTION {_FUNCTION}() RETURNS trigger LANGUAGE plpgsql AS $${body}$$"
        )
    for name in _guards(dialect):
        connection.exec_driver_sql(_trigger(dialect, name))
    if dialect == "postgresql":
        _make_role(connection)


def _protection(dialect: str) -> dict[str, str]:
    """All that guards the rows, by its name: what it says, as `_found` finds it."""
    triggers = {name: _trigger(dialect, name) for name in _guards(dialect)}
    if dialect == "sqlite":
        return triggers
    return {name: _simplified(text) for name, text in triggers.items()} | {_FUNCTION: _REFUSAL}


def _found(connection: sa.Connection) -> dict[str, str]:
    """What there is of it, and switched on."""
    if connection.dialect.name == "sqlite":
        # Kept as it was written (sqlite.org/schematab.html).
        asked = "SELECT name, sql FROM sqlite_master WHERE type = 'trigger'"
        return {row.name: row.sql for row in connection.exec_driver_sql(asked)}
    # Here it is kept in parts and written anew, with names of other schemas in full.
    triggers = connection.exec_driver_sql(
        "SELECT tgname, pg_get_triggerdef(t.oid, true) FROM pg_trigger AS t JOIN pg_class AS c ON c.oid = tgrelid"
        " WHERE tgenabled = 'O' AND c.relnamespace = current_schema()::regnamespace"
    )
    found = {name: _simplified(text) for name, text in triggers}
    functions = connection.exec_driver_sql(
        "SELECT prosrc FROM pg_proc JOIN pg_language AS l ON l.oid = prolang WHERE proname = 'registry_refuse'"
        " AND lanname = 'plpgsql' AND pronamespace = current_schema()::regnamespace"
    )
    return found | dict.fromkeys([_FUNCTION], "".join(functions.scalars()))


def _trigger(dialect: str, name: str) -> str:
    refuse = f"EXECUTE FUNCTION {_FUNCTION}()"
    if dialect == "sqlite":
        refuse = f"BEGIN SELECT RAISE(ABORT, '{name.replace('_', ' ')}'); END"
    return f"CREATE TRIGGER {name} {_guards(dialect)[name]} {refuse}"


def _simplified(text: str) -> str:
    """A trigger's text without what a server adds and leaves out: case, brackets, quotes, types, defaults."""
    for part in ('"', "(", ")", "::text", "for each statement"):
        text = text.lower().replace(part, " ")
    return " ".join(text.replace(",", " , ").split())


def _guards(dialect: str) -> dict[str, str]:
    """Which changes are refused: trigger by trigger, when it does."""
    each = " FOR EACH ROW" if dialect == "postgresql" else ""
    guards = {}
    for table in tables.metadata.sorted_tables:
        once, mutable = tables.SET_ONCE.get(table), tables.MUTABLE.get(table, ())
        fixed = ", ".join(
            f'"{column.name}"' for column in table.columns if column.name not in (once, *mutable)
        )
        guards[f"{table.name}_is_never_changed"] = f"BEFORE UPDATE OF {fixed} ON {table.name}{each}"
        if once is not None:
            guards[f"{table.name}_is_set_once"] = (
                f"BEFORE UPDATE OF {once} ON {table.name}{each} WHEN (OLD.{once} IS NOT NULL)"
            )
        if table not in tables.EXPIRING:
            guards[f"{table.name}_is_never_deleted"] = f"BEFORE DELETE ON {table.name}{each}"
        if dialect == "postgresql":
            guards[f"{table.name}_keeps_all"] = f"BEFORE TRUNCATE ON {table.name}"
        else:  # INSERT OR REPLACE deletes without a word to the triggers on DELETE (sqlite.org/lang_conflict.html)
            guards[f"{table.name}_is_never_replaced"] = (
                f"BEFORE INSERT ON {table.name} WHEN {_is_there(table)}"
            )
    guards["registry_device_stays_revoked"] = (
        f"BEFORE UPDATE OF status ON {tables.device.name}{each}"
        " WHEN (OLD.status = 'revoked' AND NEW.status <> 'revoked')"
    )
    return guards


def _is_there(table: sa.Table) -> str:
    """Whether a row stands in the way of the new one, by any of its keys."""
    keys = [
        " AND ".join(f'"{column.name}" = NEW."{column.name}"' for column in constraint.columns)
        for constraint in table.constraints
        if isinstance(constraint, sa.PrimaryKeyConstraint | sa.UniqueConstraint)
    ]
    return f"EXISTS (SELECT 1 FROM {table.name} WHERE ({') OR ('.join(sorted(keys))}))"  # noqa: S608 - our own names


def _make_role(connection: sa.Connection) -> None:
    name = str(connection.scalar(sa.select(sa.func.current_database())))
    role = _role(name)
    quote = connection.dialect.identifier_preparer.quote
    if connection.scalar(sa.text("SELECT 1 FROM pg_roles WHERE rolname = :name"), {"name": role}) is None:
        connection.exec_driver_sql(f"CREATE ROLE {quote(role)} NOLOGIN")
    # A role that outlived an earlier database of this name would give its members rights in this one.
    members = sa.text(
        "SELECT member.rolname FROM pg_auth_members JOIN pg_roles AS granted ON granted.oid = roleid"
        " JOIN pg_roles AS member ON member.oid = pg_auth_members.member"
        " WHERE granted.rolname = :role AND member.rolname <> current_user"
    )
    if found := connection.scalars(members, {"role": role}).all():
        raise RegistryForeignError(
            f"{', '.join(found)} may already write here, by the role of an earlier database: drop {role}."
        )
    schema = quote(str(connection.scalar(sa.select(sa.func.current_schema()))))
    connection.exec_driver_sql(f"GRANT {quote(role)} TO current_user")
    connection.exec_driver_sql(f"GRANT USAGE ON SCHEMA {schema} TO {quote(role)}")
    for table in tables.metadata.sorted_tables:
        rights = ["SELECT", *([] if table in (tables.revision, tables.forgotten) else ["INSERT"])]
        rights += ["DELETE"] if table in tables.EXPIRING else []
        changing = [*tables.MUTABLE.get(table, ()), *filter(None, [tables.SET_ONCE.get(table)])]
        rights += [f"UPDATE ({', '.join(changing)})"] if changing else []
        connection.exec_driver_sql(f"GRANT {', '.join(rights)} ON {table.name} TO {quote(role)}")
