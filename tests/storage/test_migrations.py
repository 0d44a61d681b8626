# ruff: noqa: S608 - the tables are filled as the first version filled them, by hand
import base64
import hashlib
import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from authn.sealing import seal, unseal
from storage import database, migrations, tables
from storage.audit import audit
from storage.entry import Kind
from storage.errors import (
    ErasedEntryError,
    LedgerDamagedError,
    LedgerError,
    LedgerForeignError,
    LedgerOutdatedError,
    MalformedEntryError,
    MalformedPayloadError,
)
from storage.keyring import Sealer
from storage.ledger import Ledger
from storage.merkle import verify_inclusion
from storage.migrations import migrate
from storage.record import Record

AT = datetime(2026, 11, 20, 8, tzinfo=UTC)
VECTOR = Path(__file__).parent / "vectors" / "ledger-0001.sql"
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
SIZES = (1, 2, 40, 300)

Row = tuple[Any, ...]


def sha256(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()


def spec_root(leaves: Sequence[bytes]) -> bytes:
    """MTH(D[n]) of RFC 6962, 2.1, from leaf hashes."""
    if len(leaves) < 2:
        return leaves[0] if leaves else sha256(b"")
    split = 1 << (len(leaves) - 1).bit_length() - 1
    return sha256(b"\1" + spec_root(leaves[:split]) + spec_root(leaves[split:]))


def spec_frontier(leaves: Sequence[bytes]) -> bytes:
    """The roots of the perfect subtrees, largest first, joined."""
    parts, start = [], 0
    for level in reversed(range(len(leaves).bit_length())):
        if len(leaves) >> level & 1:
            parts.append(spec_root(leaves[start : start + (1 << level)]))
            start += 1 << level
    return b"".join(parts)


def first_tables(
    records: Sequence[Record], sign: Callable[[str], bytes], last: bytes = b""
) -> dict[str, list[Row]]:
    """What the first version held of these records, derived from the definitions alone.

    `last` is a further body at the end, for what no version of ours would write.
    """

    def text(value: bytes) -> str:
        return base64.b64encode(value).decode()

    bodies = []
    for number, record in enumerate(records):
        at = AT + timedelta(minutes=number)
        commitment = sha256(b"lightseal/commit/v1\0" + record.salt + record.payload)
        bodies.append(
            f'{{"commit":"{text(commitment)}","key":"{text(record.key)}","kind":"{record.kind}",'
            f'"time":"{at:%Y-%m-%dT%H:%M:%SZ}","v":1}}'.encode()
        )
    bodies += [last] if last else []
    leaves = [sha256(b"\0" + body) for body in bodies]
    moments = [int((AT + timedelta(minutes=size - 1)).timestamp()) for size in range(len(bodies) + 1)]
    notes = {
        size: sign(f"log.example\n{size}\n{text(spec_root(leaves[:size]))}\n")
        for size in (*SIZES, len(bodies))
        if size <= len(bodies)
    }
    full = range(len(leaves) // 256)
    tiles = [(0, number, b"".join(leaves[256 * number : 256 * number + 256])) for number in full]
    upper = b"".join(spec_root(leaves[256 * number : 256 * number + 256]) for number in full)
    return {
        "entry": [(index, leaf, body) for index, (leaf, body) in enumerate(zip(leaves, bodies, strict=True))],
        "secret": [(index, record.salt, record.payload) for index, record in enumerate(records)],
        "lookup": [
            (kind, digest, index) for index, record in enumerate(records) for kind, digest in record.lookups
        ],
        "tile": [*tiles, *([(1, 0, upper)] if upper else [])],
        "head": [
            (
                1,
                1,
                "log.example",
                len(leaves),
                spec_root(leaves),
                spec_frontier(leaves),
                moments[-1],
            )
        ],
        "checkpoint": [(size, note, moments[size]) for size, note in sorted(notes.items())],
    }


COLUMNS = {
    "entry": "idx, leaf, body",
    "secret": "idx, salt, payload",
    "lookup": "kind, key, idx",
    "tile": "level, number, data",
    "head": "id, revision, origin, size, root, frontier, time",
    "checkpoint": "size, note, time",
}


def fill(url: str, rows: dict[str, list[Row]]) -> str:
    """Make a database of the first version, unmarked as they were, and return its address."""
    migrations.begin(url, "0001")
    engine = database.open_owner(url)
    with database.transaction(engine) as connection:
        for table, columns in COLUMNS.items():
            names = columns.split(", ")
            marks = ", ".join(f":{name}" for name in names)
            values = [dict(zip(names, row, strict=True)) for row in rows[table]]
            if values:
                connection.execute(sa.text(f"INSERT INTO {table} ({columns}) VALUES ({marks})"), values)
        connection.exec_driver_sql("DROP TABLE alembic_version")
    engine.dispose()
    return url


@pytest.fixture
def records(make_record) -> list[Record]:
    """300 records; two share a claim, one has four digests, and some have none."""
    made = [make_record(number) for number in range(300)]
    made[7] = make_record(7, claim=made[6].lookups[0].digest)
    made[8] = make_record(
        8, **{kind: sha256(kind.encode()) for kind in ("binding", "claim", "media", "spki")}
    )
    made[9] = make_record(9, kind=Kind.REVOKE, other=sha256(b"not indexed"))
    return made


@pytest.fixture
def old(url, records, log) -> str:
    """The address of a ledger of the first version."""
    return fill(url, first_tables(records, log.sign))


def test_what_was_recorded_stays_as_it_was(old, ask, sealer, means, records, log) -> None:
    expected = first_tables(records, log.sign)
    [(_, _, _, size, root, frontier, moment)] = expected["head"]
    migrated = migrate(old, sealer)
    assert (migrated.before, migrated.after) == ("0001", tables.REVISION)
    assert (
        (migrated.size, migrated.root)
        == (size, root)
        == (300, spec_root([row[1] for row in expected["entry"]]))
    )
    for table in ("entry", "tile", "checkpoint"):
        rows = ask(old, f"SELECT {COLUMNS[table]} FROM {table} ORDER BY 1, 2")
        assert [tuple(map(plain, row)) for row in rows] == expected[table]
    [head] = ask(old, "SELECT origin, size, root, frontier, time, frozen FROM head")
    assert tuple(map(plain, head)) == ("log.example", 300, root, frontier, moment, 0)
    report = audit(old, means)
    assert (report.findings, report.size, report.root, report.unopened) == ((), 300, root, 0)


def plain(value: Any) -> Any:
    return bytes(value) if isinstance(value, memoryview) else value


def test_all_that_was_found_is_found(old, sealer, records, log) -> None:
    leaves = [row[1] for row in first_tables(records, log.sign)["entry"]]
    migrate(old, sealer)
    with Ledger.open(old, sealer) as ledger, ledger.at_once():
        for index, record in enumerate(records):
            assert ledger.payload(index) == record.payload
            for kind, digest in record.lookups:
                assert index in ledger.find(kind, digest)
        assert ledger.find("claim", records[6].lookups[0].digest) == (6, 7)
        assert ledger.find("other", sha256(b"not indexed")) == ()
        for index in (0, 1, 255, 256, 299):
            receipt = ledger.prove(index)
            assert receipt.check([log.key], log.verify).root == spec_root(leaves)
            assert (receipt.salt, receipt.payload) == (records[index].salt, records[index].payload)
            verify_inclusion(leaves[index], index, 300, receipt.proof.hashes, spec_root(leaves))


def test_recording_goes_on_where_it_ended(old, sealer, means, records, log, make_record, ask) -> None:
    migrate(old, sealer)
    later = AT + timedelta(days=1)
    with Ledger.open(old, sealer) as ledger:
        assert ledger.append([records[5], records[299]], later, log.sign) == (5, 299)
        new = [make_record(number) for number in range(1000, 1300)]
        assert ledger.append(new, later, log.sign) == tuple(range(300, 600))
        assert ledger.erase(3, bytes(32), later, log.sign) == 600
        with pytest.raises(ErasedEntryError):
            ledger.prove(3)
        ledger.keep_witnessed(ledger.checkpoint().encode())
    leaves = [bytes(leaf) for (leaf,) in ask(old, "SELECT leaf FROM entry ORDER BY idx")]
    report = audit(old, means)
    assert (report.findings, report.size, report.root) == ((), 601, spec_root(leaves))


def test_nothing_in_clear_is_left_behind(old, ask, sealer, records) -> None:
    migrate(old, sealer)
    names = {table.name for table in tables.metadata.sorted_tables}
    assert set(described(old)["tables"]) == names
    content = repr([ask(old, f"SELECT * FROM {name}") for name in sorted(names)])
    for record in records[::50]:
        for secret in (record.payload, record.salt, *(digest for _, digest in record.lookups)):
            assert repr(secret)[2:-1] not in content


def described(url: str) -> dict[str, Any]:
    """All that a database says of its own schema."""
    engine = database.open_owner(url)
    with database.transaction(engine) as connection:
        inspector = sa.inspect(connection)
        found: dict[str, Any] = {"tables": {}}
        for name in inspector.get_table_names():
            found["tables"][name] = {
                "columns": [
                    (column["name"], str(column["type"]), column["nullable"], column["default"])
                    for column in inspector.get_columns(name)
                ],
                "key": inspector.get_pk_constraint(name)["constrained_columns"],
                "foreign": [
                    (key["constrained_columns"], key["referred_table"], key["referred_columns"])
                    for key in inspector.get_foreign_keys(name)
                ],
                "checks": sorted(check["sqltext"] for check in inspector.get_check_constraints(name)),
                "unique": inspector.get_unique_constraints(name),
                "indexes": inspector.get_indexes(name),
            }
        if engine.dialect.name == "sqlite":
            queries = (
                "SELECT name, strict, wr FROM pragma_table_list WHERE schema = 'main' "
                "AND name NOT LIKE 'sqlite%' ORDER BY name",
                "SELECT name, sql FROM sqlite_master WHERE type IN ('trigger', 'index') AND sql IS NOT NULL "
                "ORDER BY name",
            )
        else:
            queries = (
                "SELECT pg_get_triggerdef(oid) FROM pg_trigger WHERE NOT tgisinternal ORDER BY tgname",
                "SELECT table_name, privilege_type, replace(grantee, current_database(), '') "
                "FROM information_schema.role_table_grants WHERE grantee LIKE 'lightseal%' ORDER BY 1, 2, 3",
            )
        found["rest"] = [[tuple(row) for row in connection.execute(sa.text(query))] for query in queries]
    engine.dispose()
    return found


@pytest.fixture
def new(request, url, tmp_path_factory, sealer) -> str:
    """The address of another database, with a ledger that this version made."""
    if url.startswith("sqlite"):
        other = f"sqlite:///{tmp_path_factory.mktemp('new') / 'ledger.db'}"
    else:
        server = request.getfixturevalue("server")
        other = server.create(f"new_{os.urandom(4).hex()}")
    Ledger.create(other, "log.example", sealer).close()
    return other


def test_a_migrated_schema_is_that_of_a_new_ledger(old, new, sealer) -> None:
    before = described(old)
    migrate(old, sealer)
    after, expected = described(old), described(new)
    assert before["tables"].keys() != expected["tables"].keys()
    assert all(expected["rest"])
    assert after == expected


def test_a_schema_once_made_marked_is_migrated_all_the_same(url, sealer, means, records, log) -> None:
    """`begin` names the revision, as Alembic would; the first version itself did not."""
    fill(url, first_tables(records[:3], log.sign))
    engine = database.open_owner(url)
    with database.transaction(engine) as connection:
        tables.version.create(connection)
        connection.execute(sa.insert(tables.version).values(version_num="0001"))
    engine.dispose()
    assert migrate(url, sealer).before == "0001"
    assert audit(url, means).findings == ()


def test_migrating_again_does_nothing(old, sealer, snapshot) -> None:
    first = migrate(old, sealer)
    before, schema = snapshot(old), described(old)
    again = migrate(old, sealer)
    assert (again.before, again.after) == (tables.REVISION, tables.REVISION)
    assert (again.size, again.root) == (first.size, first.root)
    assert (snapshot(old), described(old)) == (before, schema)


def test_a_ledger_without_entries_is_migrated_too(url, sealer, means, log, make_record) -> None:
    rows = {table: list[Row]() for table in COLUMNS}
    rows["head"] = [(1, 1, "log.example", 0, sha256(b""), b"", 0)]
    fill(url, rows)
    assert (migrate(url, sealer).size, migrate(url, sealer).root) == (0, sha256(b""))
    with Ledger.open(url, sealer) as ledger:
        assert ledger.append([make_record(0)], AT, log.sign) == (0,)
    assert audit(url, means).findings == ()


def test_before_it_the_ledger_is_called_outdated(old, sealer) -> None:
    if old.startswith("sqlite"):  # there never was a first version for PostgreSQL, and it had no roles
        for opened in (Ledger.open, Ledger.open_read_only):
            with pytest.raises(LedgerOutdatedError, match="0001"):
                opened(old)
    with pytest.raises(LedgerOutdatedError, match="0001"):
        Ledger.create(old, "log.example", sealer)
    assert LedgerOutdatedError.code == "ledger-outdated"
    assert "migrate" in LedgerOutdatedError.remedy


def held(url: str) -> tuple[Any, list[list[Row]]]:
    """Schema and content, as they are."""
    engine = database.open_owner(url)
    with database.transaction(engine) as connection:
        rows = [
            [
                tuple(map(plain, row))
                for row in connection.exec_driver_sql(f"SELECT {columns} FROM {table} ORDER BY 1, 2")
            ]
            for table, columns in COLUMNS.items()
        ]
    engine.dispose()
    return described(url), rows


@pytest.mark.parametrize(
    ("script", "error"),
    [
        ("UPDATE entry SET body = x'00' WHERE idx = 30", LedgerDamagedError),
        ("UPDATE entry SET leaf = zeroblob(32) WHERE idx = 30", LedgerDamagedError),
        ("DELETE FROM entry WHERE idx = 30", LedgerDamagedError),
        ("UPDATE secret SET payload = x'00' WHERE idx = 30", MalformedPayloadError),
    ],
)
def test_a_damaged_ledger_is_left_as_it_is(
    old, sealer, tamper, script: str, error: type[LedgerError]
) -> None:
    tamper(old, script)
    before = held(old)
    with pytest.raises(error):
        migrate(old, sealer)
    assert held(old) == before


def test_an_entry_that_is_none_stops_it(url, sealer, records, log) -> None:
    fill(url, first_tables(records[:3], log.sign, last=b"not an entry"))
    before = held(url)
    with pytest.raises(MalformedEntryError):
        migrate(url, sealer)
    assert held(url) == before


class MeddlingSealer(Sealer):
    """Has the database's connection changed under the step that runs on it."""

    script: str = ""

    def seal(self, index: int, plaintext: bytes, origin: str) -> bytes:
        if index == 200:
            _running[0].exec_driver_sql(self.script)
        return super().seal(index, plaintext, origin)


_running: list[sa.Connection] = []


@pytest.fixture
def meddling(sealer, monkeypatch) -> Iterator[MeddlingSealer]:
    inner = migrations._config

    def watched(connection: sa.Connection, sealer: Sealer) -> Any:
        _running[:] = [connection]
        return inner(connection, sealer)

    monkeypatch.setattr(migrations, "_config", watched)
    yield MeddlingSealer(sealer.keyring, seal, unseal)
    _running.clear()


@pytest.mark.parametrize(
    "script",
    [
        "UPDATE checkpoint SET time = time + 1 WHERE size = 40",
        "UPDATE checkpoint SET note = (SELECT note FROM checkpoint WHERE size = 2) WHERE size = 40",
        "DELETE FROM checkpoint WHERE size = 2",
        "UPDATE head SET time = time + 1",
        "UPDATE head SET origin = 'other.example'",
        "UPDATE entry SET body = leaf WHERE idx = 0",
    ],
)
def test_a_step_that_would_change_what_was_recorded_is_taken_back(
    old, meddling, monkeypatch, script: str
) -> None:
    monkeypatch.setattr(MeddlingSealer, "script", script)
    before = held(old)
    with pytest.raises(LedgerDamagedError, match="nothing was changed"):
        migrate(old, meddling)
    assert held(old) == before


@pytest.mark.parametrize(
    "script",
    [
        "UPDATE alembic_version SET version_num = '0003'",
        "INSERT INTO alembic_version VALUES ('0001')",
        "DELETE FROM alembic_version",
    ],
)
def test_a_revision_it_does_not_know_is_refused(new, sealer, tamper, script: str) -> None:
    tamper(new, script)
    before = described(new)
    with pytest.raises(LedgerForeignError):
        migrate(new, sealer)
    assert described(new) == before


def test_what_is_no_ledger_is_not_migrated(url, sealer) -> None:
    database.prepare(url)
    with pytest.raises(LedgerForeignError):
        migrate(url, sealer)


KILLED = """
import os, signal, sys
from pathlib import Path
from authn.sealing import seal, unseal
from storage.keyring import Keyring, Sealer
from storage.migrations import migrate

def killing(key, plaintext, associated):
    if associated.endswith((200).to_bytes(8, "big")):
        os.kill(os.getpid(), signal.SIGKILL)
    return seal(key, plaintext, associated)

migrate(sys.argv[1], Sealer(Keyring.open(Path(sys.argv[2])), killing, unseal))
"""


def test_a_kill_in_the_middle_leaves_the_old_revision(old, sealer, means, tmp_path: Path) -> None:
    before = held(old)
    command = [sys.executable, "-c", KILLED, old, str(tmp_path / "keyring")]
    done = subprocess.run(command, env=ENVIRONMENT, capture_output=True, timeout=120, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr.decode()
    assert held(old) == before
    migrate(old, sealer)
    assert audit(old, means).findings == ()


@pytest.fixture
def released(sqlite_url) -> str:
    """A ledger that the first release wrote; vectors/make_ledger_0001.py says how."""
    with closing(sqlite3.connect(sqlite_url.removeprefix("sqlite:///"))) as connection:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.executescript(VECTOR.read_text(encoding="ascii"))
    return sqlite_url


def test_a_ledger_of_the_first_release_is_migrated(released, ask, sealer, means, log, make_record) -> None:
    assert str(log.key) in VECTOR.read_text(encoding="ascii").partition("\n")[0]
    leaves = [leaf for (leaf,) in ask(released, "SELECT leaf FROM entry ORDER BY idx")]
    notes = ask(released, "SELECT size, note, time FROM checkpoint ORDER BY size")
    with pytest.raises(LedgerOutdatedError):
        Ledger.open(released, sealer)
    migrated = migrate(released, sealer)
    assert (migrated.before, migrated.size, migrated.root) == ("0001", 300, spec_root(leaves))
    assert ask(released, "SELECT size, note, time FROM checkpoint ORDER BY size") == notes
    assert [size for size, *_ in notes] == [1, 2, 40, 41, 43, 256, 300]
    # Entry 41 repeats entry 3, which that release told apart by their times; entry 7 was erased.
    report = audit(released, means)
    assert (report.findings, report.unopened, report.root) == ((), 0, spec_root(leaves))
    with Ledger.open(released, sealer) as ledger:
        assert ledger.payload(7) is None
        assert ledger.entry(41).commitment == ledger.entry(3).commitment == make_record(3).commitment
        for number in (0, 3, 6, 40, 43, 255, 256, 299):
            record = make_record(number)
            digest = record.lookups[0].digest
            assert ledger.find("claim", digest) == ((3, 41) if number == 3 else (number,))
            assert ledger.prove(number).payload == record.payload
            assert ledger.prove(number).check([log.key], log.verify).size == 300
            assert ledger.append([record], AT + timedelta(days=9), log.sign) == (number,)
        assert ledger.append([make_record(300)], AT + timedelta(days=9), log.sign) == (300,)
    assert audit(released, means).findings == ()


def test_the_first_release_had_the_schema_that_its_step_makes(released, tmp_path_factory) -> None:
    """So that what the other tests fill by hand is what was really there; there was none for PostgreSQL."""
    made = f"sqlite:///{tmp_path_factory.mktemp('made') / 'ledger.db'}"
    migrations.begin(made, "0001")
    step, release = described(made)["tables"], described(released)["tables"]
    del step["alembic_version"]
    assert step == release
