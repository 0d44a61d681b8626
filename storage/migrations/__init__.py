"""Steps from one schema revision to the next, by Alembic, in one transaction.

A step may add and change tables, and never a body, a leaf, or a note that was published.
`migrate` compares the root of all entries, the head and every note before and after, and
takes the whole step back where they differ. Released steps are frozen: they name tables
and columns themselves and import nothing of `storage.tables`.
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from alembic import command
from alembic.config import Config

from storage import database, tables
from storage.errors import LedgerDamagedError, LedgerForeignError
from storage.keyring import Sealer
from storage.merkle import Frontier, leaf_hash

BASELINE = "0001"
"""The schema before there were migrations; its databases do not name a revision."""


@dataclass(frozen=True, slots=True)
class Migrated:
    """What a migration started from and ended with; `size` and `root` are those before and after."""

    before: str
    after: str
    size: int
    root: bytes


def migrate(url: str, sealer: Sealer) -> Migrated:
    """Bring a ledger to this version's revision; does nothing where it is there already."""
    engine = database.open_owner(url)
    try:
        with database.transaction(engine) as connection:
            before = _revision(connection)
            if before == tables.REVISION:
                size, root, *_ = _history(connection)
                return Migrated(before, before, size, root)
            if before > tables.REVISION:
                raise LedgerForeignError(f"The ledger has schema revision {before}, not {tables.REVISION}.")
            history = _history(connection)
            config = _config(connection, sealer)
            database.unprotect(connection)
            if not sa.inspect(connection).has_table(tables.version.name):
                command.stamp(config, BASELINE)
            command.upgrade(config, tables.REVISION)
            database.protect(connection)
            if _history(connection) != history:
                raise LedgerDamagedError(
                    "The migration would have changed what was recorded; nothing was changed."
                )
            done = Migrated(before, _revision(connection), history[0], history[1])
        database.settle(url)
        return done
    finally:
        engine.dispose()


def begin(url: str, revision: str) -> None:
    """Make the tables of an earlier revision in an empty database, as that version did."""
    database.prepare(url)
    engine = database.open_owner(url)
    try:
        with database.transaction(engine) as connection:
            command.upgrade(_config(connection, None), revision)
    finally:
        engine.dispose()


def _config(connection: sa.Connection, sealer: Sealer | None) -> Config:
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "steps").replace("%", "%%"))
    config.attributes |= {"connection": connection, "sealer": sealer}
    return config


def _revision(connection: sa.Connection) -> str:
    inspector = sa.inspect(connection)
    if not inspector.has_table("entry"):
        raise LedgerForeignError("The database holds no ledger.")
    if not inspector.has_table(tables.version.name):
        return BASELINE
    found = connection.scalars(sa.select(tables.version.c.version_num)).all()
    if len(found) != 1:
        raise LedgerForeignError(f"The ledger names {len(found)} schema revisions.")
    return str(found[0])


def _history(connection: sa.Connection) -> tuple[int, bytes, bytes, Any]:
    """What no migration may change: size and root of the entries, a digest of all notes, and the head."""
    frontier, notes = Frontier(), hashlib.sha256()
    entries = sa.text("SELECT idx, leaf, body FROM entry ORDER BY idx")
    with connection.execute(entries, execution_options={"yield_per": 512}) as rows:
        for row in rows:
            if row.idx != frontier.size or leaf_hash(row.body) != row.leaf:
                raise LedgerDamagedError(f"Entry {row.idx} is damaged; nothing was changed.")
            frontier.append(bytes(row.leaf))
    for row in connection.execute(sa.text("SELECT size, note, time FROM checkpoint ORDER BY size")):
        notes.update(b"%d %d %d %b" % (row.size, row.time, len(row.note), row.note))
    head = connection.execute(sa.text("SELECT origin, size, root, frontier, time FROM head")).one_or_none()
    return frontier.size, frontier.root(), notes.digest(), head and tuple(map(_as_bytes, head))


def _as_bytes(value: Any) -> Any:
    """Make bytes of a view of bytes, and nothing of anything else."""
    return bytes(value) if isinstance(value, memoryview) else value
