import itertools
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime

import pytest
import sqlalchemy as sa

from storage import database, tables
from storage.audit import audit
from storage.errors import (
    LedgerDamagedError,
    LedgerError,
    LedgerForeignError,
    LedgerUnreachableError,
    LedgerUnsafeError,
    ReadOnlyError,
)
from storage.ledger import Ledger
from tools import postgres

pytestmark = pytest.mark.needs("postgresql")

AT = datetime(2026, 11, 25, 8, tzinfo=UTC)
_numbers = itertools.count()


@pytest.fixture
def name() -> str:
    """The name of a database; quotes, capitals and spaces must not matter to it."""
    return f'Ledger "no. {next(_numbers)}"'


@pytest.fixture
def url(server, name) -> str:
    return server.create(name)


@pytest.fixture
def filled(create, url, log, make_record) -> str:
    with create(url) as ledger:
        ledger.append([make_record(number) for number in range(3)], AT, log.sign)
        ledger.keep_witnessed(ledger.checkpoint().encode())
    return url


@pytest.fixture
def login(filled, name) -> Callable[..., str]:
    """Make a user who is a member of nothing but the roles named; return the address for it."""

    def made(*roles: str) -> str:
        user = f"user_{next(_numbers)}"
        engine = database.open_owner(filled)
        quoted = engine.dialect.identifier_preparer.quote
        with database.transaction(engine) as connection:
            connection.exec_driver_sql(f"CREATE ROLE {user} LOGIN")
            for role in roles:
                connection.exec_driver_sql(f"GRANT {quoted(f'lightseal_{role}_{name}')} TO {user}")
        engine.dispose()
        return filled.replace(f"user={postgres.OWNER}", f"user={user}")

    return made


FORBIDDEN = [
    statement
    for table in ("entry", "checkpoint", "witnessed")
    for statement in (
        f"UPDATE {table} SET {'idx' if table == 'entry' else 'size'} = 9",  # noqa: S608
        f"DELETE FROM {table}",  # noqa: S608
        f"TRUNCATE {table} CASCADE",
    )
] + ["DELETE FROM head", "TRUNCATE head"]


@pytest.mark.parametrize(
    ("opened", "error"), [(database.open_writer, ReadOnlyError), (database.open_owner, LedgerDamagedError)]
)
def test_what_is_published_stays(
    filled, opened: Callable[[str], sa.Engine], error: type[LedgerError]
) -> None:
    """For the writing role by missing rights, for the owner by triggers."""
    engine = opened(filled)
    for statement in FORBIDDEN:
        with pytest.raises(error), database.transaction(engine) as connection:
            connection.exec_driver_sql(statement)
    with database.transaction(engine) as connection:
        counts = [
            connection.scalar(sa.select(sa.func.count()).select_from(table))
            for table in (tables.entry, tables.checkpoint, tables.witnessed, tables.head)
        ]
    engine.dispose()
    assert counts == [3, 1, 1, 1]


def test_a_writer_has_no_right_to_the_schema_or_to_another_role(filled) -> None:
    engine = database.open_writer(filled)
    for statement in (
        "DROP TRIGGER entry_keeps_its_rows ON entry",
        "ALTER TABLE entry DISABLE TRIGGER ALL",
        "DROP TABLE entry CASCADE",
        "DROP FUNCTION lightseal_refuse() CASCADE",
        "UPDATE submission SET idx = 0",
        "DELETE FROM submission",
        "UPDATE secret SET sealed = ''",
        "UPDATE lookup SET idx = 0",
        "DELETE FROM tile",
        "UPDATE alembic_version SET version_num = '0001'",
        "CREATE TABLE other (a int)",
        "CREATE ROLE another",
    ):
        with pytest.raises(ReadOnlyError), database.transaction(engine) as connection:
            connection.exec_driver_sql(statement)
    engine.dispose()


def test_who_is_a_member_of_the_writing_role_may_record_and_read(
    login, sealer, means, log, make_record
) -> None:
    url = login("writer")
    with Ledger.open(url, sealer) as ledger:
        assert ledger.append([make_record(3)], AT, log.sign) == (3,)
        assert ledger.erase(0, bytes(32), AT, log.sign) == 4
        ledger.keep_witnessed(ledger.checkpoint().encode())
        assert ledger.payload(3) == make_record(3).payload
    assert audit(url, means).findings == ()
    engine = database.open_owner(url)
    for statement in FORBIDDEN:
        with pytest.raises(LedgerError), database.transaction(engine) as connection:
            connection.exec_driver_sql(statement)
    engine.dispose()


def test_who_is_a_member_of_the_reading_role_may_read(login, sealer, means, log, make_record) -> None:
    url = login("reader")
    with Ledger.open_read_only(url, sealer) as ledger:
        assert ledger.prove(2).check([log.key], log.verify).size == 3
        with pytest.raises(ReadOnlyError):
            ledger.append([make_record(3)], AT, log.sign)
    assert audit(url, means).findings == ()
    with pytest.raises(ReadOnlyError):
        Ledger.open(url, sealer)


def test_who_is_a_member_of_neither_may_not_even_look(login, sealer) -> None:
    url = login()
    for opened in (Ledger.open, Ledger.open_read_only):
        with pytest.raises(ReadOnlyError):
            opened(url, sealer)
    engine = database.open_owner(url)
    for table in tables.metadata.sorted_tables:
        with pytest.raises(ReadOnlyError), database.transaction(engine) as connection:
            connection.execute(sa.select(table))
    engine.dispose()


def test_a_database_without_tables_is_no_ledger(server, name) -> None:
    url = server.create(name)
    for opened in (Ledger.open, Ledger.open_read_only):
        with pytest.raises(LedgerForeignError):
            opened(url)


def test_readers_see_one_state_and_writers_the_newest(filled) -> None:
    for opened, expected in (
        (database.open_reader, ["repeatable read", "on", "on"]),
        (database.open_writer, ["read committed", "off", "on"]),
    ):
        engine = opened(filled)
        with database.transaction(engine) as connection:
            settings = [
                connection.exec_driver_sql(f"SHOW {setting}").scalar()
                for setting in ("transaction_isolation", "transaction_read_only", "synchronous_commit")
            ]
        engine.dispose()
        assert settings == expected


def test_every_connection_asks_for_durable_commits(server, name, create, log, make_record) -> None:
    """Whatever the database's own default is."""
    url = server.create(name)
    engine = database.open_owner(url)
    with database.transaction(engine) as connection:
        quoted = engine.dialect.identifier_preparer.quote(name)
        connection.exec_driver_sql(f"ALTER DATABASE {quoted} SET synchronous_commit = off")
    engine.dispose()
    with create(url) as ledger:
        ledger.append([make_record(0)], AT, log.sign)
        with database.transaction(ledger._writing) as connection:
            assert connection.exec_driver_sql("SHOW synchronous_commit").scalar() == "on"


@pytest.fixture(scope="module")
def own_server(tmp_path_factory) -> Iterator[postgres.Server]:
    """A server that these tests may stop."""
    with postgres.running(tmp_path_factory.mktemp("own")) as running:
        yield running


def test_a_server_that_went_away_is_named_and_the_ledger_goes_on(
    own_server, sealer, create, means, log, make_record
) -> None:
    url = own_server.create("away")
    with create(url) as ledger:
        ledger.append([make_record(0)], AT, log.sign)
        own_server.kill()
        for attempt in (
            lambda: ledger.append([make_record(1)], AT, log.sign),
            lambda: ledger.size,
            lambda: ledger.erase(0, bytes(32), AT, log.sign),
            lambda: Ledger.open(url, sealer),
            lambda: Ledger.open_read_only(url),
            lambda: create(url),
            lambda: audit(url, means),
        ):
            with pytest.raises(LedgerUnreachableError):
                attempt()
        own_server.start()
        assert ledger.append([make_record(0), make_record(1)], AT, log.sign) == (0, 1)
        assert ledger.prove(1).check([log.key], log.verify).size == 2
    assert audit(url, means).findings == ()


def test_a_connection_cut_in_the_middle_records_nothing(own_server, create, means, log, make_record) -> None:
    url = own_server.create("cut")
    with create(url) as ledger:
        ledger.append([make_record(0)], AT, log.sign)

        def cut(text: str) -> bytes:
            engine = database.open_owner(url)
            with database.transaction(engine) as connection:
                connection.exec_driver_sql(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                    "WHERE datname = current_database() AND pid <> pg_backend_pid()"
                )
            engine.dispose()
            return log.sign(text)

        with pytest.raises(LedgerUnreachableError):
            ledger.append([make_record(1)], AT, cut)
        assert ledger.size == 1
        assert ledger.append([make_record(1)], AT, log.sign) == (1,)
    assert audit(url, means).findings == ()


@pytest.mark.parametrize("setting", ["fsync", "full_page_writes"])
def test_a_server_that_may_lose_what_it_wrote_is_refused(
    own_server, create, log, make_record, sealer, monkeypatch, setting: str
) -> None:
    url = own_server.create(f"unsafe_{setting}")
    with create(url) as ledger:
        ledger.append([make_record(0)], AT, log.sign)
    own_server.stop("fast")
    with monkeypatch.context() as patched:
        patched.setitem(postgres._SETTINGS, setting, "off")
        own_server.start()
    try:
        for opened in (Ledger.open, Ledger.open_read_only):
            with pytest.raises(LedgerUnsafeError, match=setting):
                opened(url, sealer)
        with pytest.raises(LedgerUnsafeError):
            create(url)
    finally:
        own_server.stop("fast")
        own_server.start()
    with Ledger.open(url, sealer) as ledger:
        assert ledger.append([make_record(1)], AT, log.sign) == (1,)


def test_a_schema_named_after_the_user_is_no_obstacle(server, create, log, make_record, means) -> None:
    """The flaw it would catch: "$user" in the search path means another schema under another role."""
    url = server.create(f"schema_{next(_numbers)}")
    engine = database.open_owner(url)
    with database.transaction(engine) as connection:
        connection.exec_driver_sql(f"CREATE SCHEMA {postgres.OWNER}")
    engine.dispose()
    with create(url) as ledger:
        assert ledger.append([make_record(0)], AT, log.sign) == (0,)
    assert audit(url, means).findings == ()


def test_rights_in_an_earlier_database_are_none_in_this_one(server, create) -> None:
    """The flaw it would catch: roles belong to the whole server and outlive the database they were made for."""
    name = f"again_{next(_numbers)}"
    url = server.create(name)
    create(url).close()
    engine = database.open_owner(server.url)
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.exec_driver_sql(f"CREATE ROLE mallory_{name} LOGIN")
        connection.exec_driver_sql(f"GRANT lightseal_writer_{name} TO mallory_{name}")
        connection.exec_driver_sql(f"DROP DATABASE {name} WITH (FORCE)")
    engine.dispose()
    with pytest.raises(LedgerForeignError, match=f"mallory_{name}"):
        create(server.create(name))


def test_those_who_keep_cosignatures_at_once_do_not_damage_anything(create, url, log, make_record) -> None:
    with create(url) as ledger:
        ledger.append([make_record(0)], AT, log.sign)
        note = ledger.checkpoint().encode()
        with ThreadPoolExecutor(8) as threads:
            assert list(threads.map(ledger.keep_witnessed, [note] * 16)) == [None] * 16
        assert ledger.witnessed().encode() == note
