"""A log key, records to append, and other people's vectors."""

import hashlib
import itertools
import json
import os
import re
import sqlite3
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from authn.sealing import seal, unseal
from storage import database, payload, tables
from storage.audit import Means
from storage.entry import Kind
from storage.keyring import Keyring, Sealer
from storage.ledger import Ledger
from storage.note import VerifierKey, signed_note
from storage.record import Record
from tools import postgres


@dataclass(frozen=True)
class Log:
    """The key of a log, and what is handed to `storage` in its place."""

    private: Ed25519PrivateKey
    name: str

    @classmethod
    def named(cls, name: str, secret: bytes) -> "Log":
        return cls(Ed25519PrivateKey.from_private_bytes(hashlib.sha256(secret).digest()), name)

    @property
    def key(self) -> VerifierKey:
        return VerifierKey(self.name, self.private.public_key().public_bytes_raw())

    def sign(self, text: str) -> bytes:
        return signed_note(text, self.key, self.private.sign(text.encode()))

    @staticmethod
    def verify(public: bytes, signature: bytes, message: bytes) -> bool:
        try:
            Ed25519PublicKey.from_public_bytes(public).verify(signature, message)
        except InvalidSignature:
            return False
        return True


_numbers = itertools.count()


def digest(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()


def record(number: int, kind: Kind = Kind.SIGN, **fields: bytes) -> Record:
    """The record of that number; digests among its fields are what it is found by."""
    fields = fields or {"claim": digest(f"claim {number}")}
    return Record(
        kind,
        payload.canonical({"number": number} | {name: value.hex() for name, value in fields.items()}),
        digest(f"salt {number}"),
        digest("key"),
    )


@pytest.fixture(scope="session")
def log() -> Log:
    return Log.named("log.example", b"a key for tests")


@pytest.fixture(scope="session")
def other_log() -> Log:
    return Log.named("log.example", b"another key for tests")


@pytest.fixture(scope="session")
def make_record() -> Callable[..., Record]:
    return record


@pytest.fixture(scope="session")
def server(tmp_path_factory):
    """One private PostgreSQL server for the whole session."""
    with postgres.running(tmp_path_factory.mktemp("postgres")) as running:
        yield running


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.needs("postgresql"))])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty place for a ledger, on each of the two engines."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'ledger.db'}"
    return request.getfixturevalue("server").create(f"ledger_{next(_numbers)}")


@pytest.fixture(scope="session")
def make_end() -> Callable[[int], Record]:
    """Make the record with which a ledger may be frozen."""

    def made(number: int) -> Record:
        fields = {"change": "freeze", "number": number}
        return Record(Kind.POLICY, payload.canonical(fields), digest(f"end {number}"), digest("key"))

    return made


@pytest.fixture
def sqlite_url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'ledger.db'}"


@pytest.fixture
def sealer(tmp_path: Path) -> Sealer:
    return Sealer(Keyring.create(tmp_path / "keyring", bytes(range(32))), seal, unseal)


@pytest.fixture
def means(log, sealer) -> Means:
    """What a whole audit is given."""
    return Means((log.key,), log.verify, sealer)


def tampered(url: str, *statements: str) -> None:
    """Do what only the owner of the database can; each statement as SQLite would have it."""
    if url.startswith("sqlite"):
        with closing(sqlite3.connect(url.removeprefix("sqlite:///"))) as connection:
            guards = "SELECT name, sql FROM sqlite_master WHERE type = 'trigger'"
            triggers = connection.execute(guards).fetchall()
            for name, _ in triggers:
                connection.execute(f"DROP TRIGGER {name}")
            for statement in statements:
                connection.execute(statement)
            for _, made in triggers:  # as one would who wants it to stay unseen
                connection.execute(made)
            connection.commit()
        return
    engine = database.open_owner(url)
    with database.transaction(engine) as connection:
        database.unprotect(connection)
        connection.exec_driver_sql("SET LOCAL session_replication_role = replica")  # no foreign keys either
        for statement in statements:
            zeros = re.sub(r"zeroblob\((\d+)\)", r"decode(repeat('00', \1), 'hex')", statement)
            connection.exec_driver_sql(re.sub(r"\bx'([0-9a-f]*)'", r"decode('\1', 'hex')", zeros))
        if set(tables.metadata.tables) <= set(sa.inspect(connection).get_table_names()):
            database.protect(connection)  # as one would who wants it to stay unseen
    engine.dispose()


def asked(url: str, query: str) -> list[tuple[Any, ...]]:
    """What the database itself holds."""
    engine = database.open_owner(url)
    with database.transaction(engine) as connection:
        rows = [tuple(row) for row in connection.exec_driver_sql(query)]
    engine.dispose()
    return rows


def literal(value: bytes | int | str) -> str:
    return f"x'{value.hex()}'" if isinstance(value, bytes) else repr(value)


def snapped(url: str) -> list[str]:
    """The statements that put the whole ledger back to what it is now, for `tamper`."""
    kept = [table for table in tables.metadata.sorted_tables if table is not tables.version]
    statements = [f"DELETE FROM {table.name}" for table in reversed(kept)]  # noqa: S608
    for table in kept:
        columns = ", ".join(table.columns.keys())
        rows = asked(url, f"SELECT {columns} FROM {table.name}")  # noqa: S608
        if rows:
            values = ", ".join(f"({', '.join(map(literal, row))})" for row in rows)
            statements.append(f"INSERT INTO {table.name} ({columns}) VALUES {values}")  # noqa: S608
    return statements


@pytest.fixture(scope="session")
def tamper() -> Callable[..., None]:
    return tampered


@pytest.fixture(scope="session")
def ask() -> Callable[[str, str], list[tuple[Any, ...]]]:
    return asked


@pytest.fixture(scope="session")
def snapshot() -> Callable[[str], list[str]]:
    return snapped


@pytest.fixture
def create(sealer) -> Callable[..., Ledger]:
    """Make, or open, the ledger at an address."""
    return lambda url, origin="log.example": Ledger.create(url, origin, sealer)


@pytest.fixture(scope="session")
def shared() -> Callable[[str], Any]:
    """Read one of other people's vectors, or skip and say so."""
    beside = Path(__file__).parents[2].parent / "shared"
    folder = Path(os.environ.get("LIGHTSEAL_SHARED", beside)) / "vectors" / "tlog"

    def read(name: str) -> Any:
        if not (folder / name).is_file():
            pytest.skip(f"NOT CHECKED against other people's vectors: {name} is not beside the checkout")
        return json.loads((folder / name).read_text(encoding="utf-8"))

    return read
