"""Make `ledger-0001.sql` beside this file, with the code of the first release (commit d84466c).

In a checkout of that commit: `PYTHONPATH=. python .../make_ledger_0001.py ledger-0001.sql`. It cannot be run with
the storage of today, which no longer writes this schema; keep what it once made.
"""

import hashlib
import itertools
import sqlite3
import sys
import tempfile
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from storage import payload
from storage.entry import Kind
from storage.ledger import Ledger, Lookup, Record
from storage.note import VerifierKey, signed_note

AT = datetime(2026, 11, 20, 8, tzinfo=UTC)
PRIVATE = Ed25519PrivateKey.from_private_bytes(hashlib.sha256(b"a key for tests").digest())
KEY = VerifierKey("log.example", PRIVATE.public_key().public_bytes_raw())
TABLES = ("entry", "secret", "lookup", "tile", "head", "checkpoint")


def sign(text: str) -> bytes:
    return signed_note(text, KEY, PRIVATE.sign(text.encode()))


def digest(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()


def record(number: int) -> Record:
    claim = digest(f"claim {number}")
    return Record(
        Kind.SIGN,
        payload.canonical({"number": number, "claim": claim.hex()}),
        digest(f"salt {number}"),
        digest("key"),
        (Lookup("claim", claim),),
    )


def erasure(index: int) -> Record:
    return Record(
        Kind.ERASE, payload.canonical({"erased": index}), digest(f"erase {index}"), digest("key"), ()
    )


def fill(url: str) -> None:
    """300 entries under seven checkpoints; entry 41 repeats entry 3 an hour later, and entry 7 is erased."""
    with Ledger.create(url, KEY.name) as ledger:
        sizes = (0, 1, 2, 40, 41)
        for minute, (start, stop) in enumerate(itertools.pairwise(sizes)):
            at = AT + timedelta(minutes=minute)
            ledger.append([record(number) for number in range(start, stop)], at, sign)
        again = ledger.append([record(3), erasure(7)], AT + timedelta(hours=1), sign)
        ledger.erase(7)
        rest = [record(number) for number in range(43, 256)]
        ledger.append(rest, AT + timedelta(hours=2), sign)
        ledger.append([record(number) for number in range(256, 300)], AT + timedelta(hours=3), sign)
        if (again, ledger.size) != ((41, 42), 300):
            raise SystemExit(f"This is not the first release: {again}, {ledger.size} entries.")


def literal(value: bytes | str | int) -> str:
    if isinstance(value, bytes):
        text = value.decode("ascii", errors="ignore")
        if text.encode() == value and text.isprintable() and "'" not in text:
            return f"CAST('{text}' AS BLOB)"
        return f"X'{value.hex()}'"
    return f"'{value}'" if isinstance(value, str) else str(value)


def main(target: Path) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "ledger.db"
        fill(f"sqlite:///{path}")
        with closing(sqlite3.connect(path)) as connection:
            schema = [
                sql for (sql,) in connection.execute("SELECT sql FROM sqlite_master WHERE sql IS NOT NULL")
            ]
            lines = [
                f"-- make_ledger_0001.py with commit d84466c; {KEY}",
                *(f"{' '.join(sql.split())};" for sql in schema if not sql.startswith("CREATE TRIGGER")),
            ]
            for table in TABLES:
                rows = connection.execute(f"SELECT * FROM {table} ORDER BY 1")  # noqa: S608
                values = (f"({','.join(map(literal, row))})" for row in rows)
                lines.append(f"INSERT INTO {table} VALUES\n" + ",\n".join(values) + ";")
            lines += (f"{' '.join(sql.split())};" for sql in schema if sql.startswith("CREATE TRIGGER"))
    target.write_text("\n".join(lines) + "\n", encoding="ascii")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
