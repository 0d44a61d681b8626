from collections.abc import Iterator
from datetime import UTC, datetime

import pytest
import sqlalchemy as sa

from storage import database, tables
from storage.audit import audit
from storage.errors import (
    LedgerAddressError,
    LedgerDamagedError,
    LedgerForeignError,
    LedgerMissingError,
    LedgerOutdatedError,
    ReadOnlyError,
)
from storage.ledger import Ledger

AT = datetime(2026, 11, 25, 8, tzinfo=UTC)


@pytest.fixture
def filled(create, url, log, make_record, make_end) -> str:
    """The address of a closed ledger of three entries, the last of them its end."""
    with create(url) as ledger:
        ledger.append([make_record(number) for number in range(2)], AT, log.sign)
        ledger.freeze(make_end(2), AT, log.sign)
        ledger.keep_witnessed(ledger.checkpoint().encode())
    return url


@pytest.fixture
def owner(filled) -> Iterator[sa.Engine]:
    engine = database.open_owner(filled)
    yield engine
    engine.dispose()


def everything(engine: sa.Engine) -> list[list[tuple[object, ...]]]:
    with database.transaction(engine) as connection:
        return [
            sorted(map(tuple, connection.execute(sa.select(table))))
            for table in tables.metadata.sorted_tables
        ]


def test_the_database_refuses_to_forget(owner) -> None:
    """Even its owner, who would first have to take the triggers away."""
    before = everything(owner)
    for statement in (
        "UPDATE entry SET body = leaf",
        "UPDATE entry SET idx = 9 WHERE idx = 2",
        "DELETE FROM entry WHERE idx = 2",
        "UPDATE checkpoint SET time = 0",
        "DELETE FROM checkpoint",
        "UPDATE witnessed SET time = 0",
        "DELETE FROM witnessed",
        "UPDATE head SET size = 2",
        "UPDATE head SET origin = 'other.example'",
        "UPDATE head SET frozen = 0",
        "UPDATE head SET id = 2",
        "DELETE FROM head",
    ):
        with pytest.raises(LedgerDamagedError), database.transaction(owner) as connection:
            connection.exec_driver_sql(statement)
    assert everything(owner) == before


def test_the_database_refuses_what_no_writer_of_ours_would_say(owner) -> None:
    before = everything(owner)
    for statement in (
        "INSERT INTO entry SELECT 2, leaf, body FROM entry WHERE idx = 0",
        "INSERT INTO entry SELECT 9, body, body FROM entry WHERE idx = 0",
        "INSERT INTO lookup SELECT tag, 99 FROM lookup",
        "INSERT INTO lookup SELECT commitment, 1 FROM submission",
        "INSERT INTO secret SELECT 99, sealed FROM secret WHERE idx = 0",
        "INSERT INTO submission SELECT commitment, 9 FROM submission",
        "INSERT INTO head SELECT 2, origin, size, root, frontier, time, frozen FROM head",
        "UPDATE head SET root = frontier",
        "UPDATE head SET frozen = 2",
        "INSERT INTO checkpoint SELECT size, note, time FROM checkpoint",
    ):
        with pytest.raises(LedgerDamagedError), database.transaction(owner) as connection:
            connection.exec_driver_sql(statement)
    assert everything(owner) == before


def test_a_transaction_is_whole_or_nothing(owner) -> None:
    before = everything(owner)

    def fail() -> None:
        with database.transaction(owner) as connection:
            database.insert(connection, tables.submission, [(bytes(32), 7)])
            connection.exec_driver_sql("UPDATE head SET time = 7")
            raise ConnectionError("the caller failed")

    with pytest.raises(ConnectionError):
        fail()
    assert everything(owner) == before


def test_rows_go_in_as_they_come_out(owner) -> None:
    rows = [(number.to_bytes(32, "big"), number - 1000) for number in range(2000)]
    with database.transaction(owner) as connection:
        database.insert(connection, tables.submission, rows)
        database.insert(connection, tables.submission, [])
        database.insert(connection, tables.checkpoint, [(2**62, b"\0\xff", -(2**62))])
    with database.transaction(owner) as connection:
        wanted = [number.to_bytes(32, "big") for number in range(1990, 2010)]
        assert database.known(connection, wanted) == dict(rows[1990:])
        assert database.known(connection, (key for key, _ in rows)) == dict(rows)
        newest = connection.execute(sa.select(tables.checkpoint).where(tables.checkpoint.c.size > 99)).one()
        assert tuple(newest) == (2**62, b"\0\xff", -(2**62))


def opened(url: str, create, means) -> Iterator[object]:
    """Every way in, one after the other."""
    yield lambda: Ledger.open(url)
    yield lambda: Ledger.open_read_only(url)
    yield lambda: audit(url, means)
    yield lambda: create(url)


@pytest.mark.parametrize(
    ("script", "error", "code"),
    [
        (["UPDATE alembic_version SET version_num = '0001'"], LedgerOutdatedError, "ledger-outdated"),
        (["DROP TABLE alembic_version"], LedgerOutdatedError, "ledger-outdated"),
        (["UPDATE alembic_version SET version_num = '0003'"], LedgerForeignError, "ledger-foreign"),
        (["UPDATE alembic_version SET version_num = 'x'"], LedgerForeignError, "ledger-foreign"),
        (["INSERT INTO alembic_version VALUES ('0001')"], LedgerForeignError, "ledger-foreign"),
        (["DELETE FROM alembic_version"], LedgerForeignError, "ledger-foreign"),
    ],
)
def test_another_revision_is_refused(
    filled, create, means, tamper, script: list[str], error: type[LedgerForeignError], code: str
) -> None:
    tamper(filled, *script)
    for way in opened(filled, create, means):
        with pytest.raises(LedgerForeignError) as caught:
            way()
        assert (type(caught.value), caught.value.code) == (error, code)


def test_a_ledger_that_was_begun_and_never_finished_is_missing(url, create, means) -> None:
    database.create(url)
    *ways, finish = opened(url, create, means)
    for way in ways:
        with pytest.raises(LedgerMissingError):
            way()
    with finish() as ledger:
        assert ledger.size == 0


def test_another_database_is_no_ledger(url, create, means) -> None:
    database.prepare(url)
    engine = database.open_owner(url)
    with database.transaction(engine) as connection:
        connection.exec_driver_sql("CREATE TABLE other (a INTEGER)")
    engine.dispose()
    *ways, _ = opened(url, create, means)
    for way in ways:
        with pytest.raises(LedgerForeignError):
            way()


def test_what_a_reader_may_not_do_is_refused(filled) -> None:
    engine = database.open_reader(filled)
    for statement in ("DELETE FROM secret", "UPDATE head SET time = 0", "CREATE TABLE other (a INTEGER)"):
        with pytest.raises(ReadOnlyError), database.transaction(engine) as connection:
            connection.exec_driver_sql(statement)
    engine.dispose()


@pytest.mark.parametrize(
    "address",
    [
        "sqlite://",
        "sqlite:///",
        "sqlite:///:memory:",
        "not a url",
        "",
        "mysql://host/ledger",
        "postgresql://",
        "postgresql://host",
        "postgresql+psycopg://host/ledger",
        "postgresql://host:port/ledger",
        "postgresql://user:secret@host/ledger",
        "postgresql://user:@host/ledger",
        "postgresql:///ledger?host=/run&password=secret",
    ],
)
def test_an_address_that_names_no_database_is_refused(create, means, address: str) -> None:
    for way in opened(address, create, means):
        with pytest.raises(LedgerMissingError) as caught:
            way()
        assert "secret" not in str(caught.value)


def test_a_password_in_the_address_is_named_and_not_shown() -> None:
    with pytest.raises(LedgerAddressError, match="password") as caught:
        database.open_reader("postgresql://user:hunter2@host/ledger")
    assert "hunter2" not in str(caught.value)
    assert "PGPASSWORD" in caught.value.remedy
