import base64
import hashlib
import sqlite3
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from storage import payload
from storage.audit import MAX_FINDINGS, Code, audit
from storage.entry import Kind
from storage.ledger import Ledger, Lookup, Record
from storage.merkle import Frontier, leaf_hash

AT = datetime(2026, 11, 25, 8, tzinfo=UTC)


@pytest.fixture
def path(url, log, make_record, tmp_path: Path) -> Path:
    """A closed ledger of 600 entries under three checkpoints."""
    with Ledger.create(url, log.name) as ledger:
        for minute, start in enumerate((0, 200, 400)):
            records = [make_record(number) for number in range(start, start + 200)]
            ledger.append(records, AT + timedelta(minutes=minute), log.sign)
    return tmp_path / "ledger.db"


def tamper(path: Path, script: str) -> None:
    """Do what only the owner of the file can."""
    with closing(sqlite3.connect(path)) as connection:
        triggers = connection.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'").fetchall()
        for (name,) in triggers:
            connection.execute(f"DROP TRIGGER {name}")
        connection.executescript(script)
        connection.commit()


BODIES_SWAPPED = """
CREATE TEMP TABLE was AS SELECT idx, body FROM entry WHERE idx IN (5, 6);
UPDATE entry SET body = (SELECT body FROM was WHERE was.idx = 11 - entry.idx) WHERE idx IN (5, 6);
"""
CHECKPOINT_REPLACED = """
UPDATE checkpoint SET note = (SELECT note FROM checkpoint WHERE size = 400) WHERE size = 200;
"""
CHECKPOINT_CHANGED = """
UPDATE checkpoint SET note = CAST(replace(CAST(note AS TEXT), 'A', 'B') AS BLOB) WHERE size = 400;
"""
HEAD_REWOUND = """
DELETE FROM entry WHERE idx >= 590;
UPDATE head SET size = 590;
"""


ENTRIES_SWAPPED = """
UPDATE entry SET idx = -1 WHERE idx = 5;
UPDATE entry SET idx = 5 WHERE idx = 6;
UPDATE entry SET idx = 6 WHERE idx = -1;
"""
SECRETS_SWAPPED = ENTRIES_SWAPPED.replace("entry", "secret")


@pytest.mark.parametrize(
    ("flaw", "script", "code", "index"),
    [
        ("body", "UPDATE entry SET body = x'00' WHERE idx = 300", Code.ENTRY_LEAF, 300),
        ("leaf", "UPDATE entry SET leaf = zeroblob(32) WHERE idx = 300", Code.ENTRY_LEAF, 300),
        (
            "tile",
            "UPDATE tile SET data = zeroblob(8192) WHERE level = 0 AND number = 1",
            Code.TILE_DIFFERS,
            256,
        ),
        ("upper tile", "UPDATE tile SET data = zeroblob(64) WHERE level = 1", Code.TILE_DIFFERS, 0),
        ("tile gone", "DELETE FROM tile WHERE level = 0 AND number = 0", Code.TILE_MISSING, 0),
        ("tile too many", "INSERT INTO tile VALUES (0, 2, zeroblob(32))", Code.TILE_EXTRA, 512),
        ("level too many", "INSERT INTO tile VALUES (3, 0, zeroblob(32))", Code.TILE_EXTRA, 0),
        ("head root", "UPDATE head SET root = zeroblob(32)", Code.HEAD_ROOT, 600),
        ("head frontier", "UPDATE head SET frontier = zeroblob(128)", Code.HEAD_FRONTIER, 600),
        ("head time", "UPDATE head SET time = time + 1", Code.HEAD_TIME, 600),
        ("head ahead", "UPDATE head SET size = 601", Code.ENTRY_MISSING, 600),
        ("last rows deleted", "DELETE FROM entry WHERE idx >= 590", Code.ENTRY_MISSING, 590),
        ("last rows deleted and head rewound", HEAD_REWOUND, Code.CHECKPOINT_SIZE, 600),
        ("row deleted", "DELETE FROM entry WHERE idx = 7", Code.ENTRY_MISSING, 7),
        ("bodies swapped", BODIES_SWAPPED, Code.ENTRY_LEAF, 5),
        ("payload", "UPDATE secret SET payload = x'00' WHERE idx = 9", Code.SECRET_COMMITMENT, 9),
        ("salt", "UPDATE secret SET salt = zeroblob(32) WHERE idx = 9", Code.SECRET_COMMITMENT, 9),
        (
            "secret of nothing",
            "INSERT INTO secret VALUES (700, zeroblob(32), x'00')",
            Code.SECRET_ORPHAN,
            700,
        ),
        ("lookup of nothing", "INSERT INTO lookup VALUES ('claim', x'00', 700)", Code.LOOKUP_ORPHAN, 700),
        ("checkpoint replaced", CHECKPOINT_REPLACED, Code.CHECKPOINT_MALFORMED, 200),
        ("checkpoint changed", CHECKPOINT_CHANGED, Code.CHECKPOINT_SIGNATURE, 400),
        (
            "checkpoint emptied",
            "UPDATE checkpoint SET note = x'' WHERE size = 400",
            Code.CHECKPOINT_MALFORMED,
            400,
        ),
        ("checkpoint deleted", "DELETE FROM checkpoint WHERE size = 600", Code.CHECKPOINT_MISSING, 600),
        ("checkpoint redated", "UPDATE checkpoint SET time = 0 WHERE size = 400", Code.CHECKPOINT_TIME, 400),
    ],
)
def test_the_audit_names_first(url, path, log, flaw: str, script: str, code: Code, index: int) -> None:
    assert audit(url, [log.key], log.verify).first is None
    tamper(path, script)
    first = audit(url, [log.key], log.verify).first
    assert first is not None, flaw
    assert (first.code, first.index) == (code, index)


def test_entries_swapped_with_their_secrets_miss_the_next_checkpoint(url, path, log) -> None:
    for script, code, index in (
        (ENTRIES_SWAPPED, Code.SECRET_COMMITMENT, 5),
        (SECRETS_SWAPPED, Code.CHECKPOINT_ROOT, 200),
    ):
        tamper(path, script)
        first = audit(url, [log.key], log.verify).first
        assert first is not None
        assert (first.code, first.index) == (code, index)


@pytest.mark.usefixtures("path")
def test_a_checkpoint_signed_by_another_key_is_named(url, log, other_log) -> None:
    first = audit(url, [other_log.key], log.verify).first
    assert first is not None
    assert (first.code, first.index) == (Code.CHECKPOINT_SIGNATURE, 200)


@pytest.mark.usefixtures("path")
def test_a_history_rewritten_with_the_log_key_shows_only_against_a_checkpoint_kept(
    url, log, make_record, tmp_path: Path
) -> None:
    kept = audit(url, [log.key], log.verify).root
    forged = f"sqlite:///{tmp_path / 'forged.db'}"
    with Ledger.create(forged, log.name) as ledger:
        ledger.append([make_record(number if number != 300 else -1) for number in range(600)], AT, log.sign)
    report = audit(forged, [log.key], log.verify)
    assert report.findings == ()
    assert report.root != kept


def test_an_entry_dated_before_its_predecessor_is_named(url, log, make_record, tmp_path: Path) -> None:
    with Ledger.create(url, log.name) as ledger:
        ledger.append([make_record(0)], AT, log.sign)
    early = make_record(1).entry(AT - timedelta(days=1)).body
    with closing(sqlite3.connect(tmp_path / "ledger.db")) as connection:
        (body,) = connection.execute("SELECT body FROM entry").fetchone()
        frontier = Frontier()
        frontier.append(leaf_hash(body))
        frontier.append(leaf_hash(early))
        note = log.sign(f"{log.name}\n2\n{base64.b64encode(frontier.root()).decode()}\n")
        connection.execute("INSERT INTO entry VALUES (1, ?, ?)", [leaf_hash(early), early])
        connection.execute("INSERT INTO checkpoint SELECT 2, ?, time FROM checkpoint", [note])
        connection.execute(
            "UPDATE head SET size = 2, root = ?, frontier = ?", [frontier.root(), frontier.nodes[0]]
        )
        connection.commit()
    findings = audit(url, [log.key], log.verify).findings
    assert [(finding.code, finding.index) for finding in findings] == [
        (Code.ENTRY_TIME, 1),
        (Code.HEAD_TIME, 2),
    ]


def test_a_ledger_damaged_throughout_is_reported_without_end_of_memory(url, path, log) -> None:
    tamper(path, "UPDATE entry SET body = x'00'; UPDATE secret SET payload = x'00'")
    report = audit(url, [log.key], log.verify)
    assert len(report.findings) == MAX_FINDINGS
    assert report.omitted > 0


def test_an_empty_ledger_is_whole(url, log) -> None:
    Ledger.create(url, log.name).close()
    report = audit(url, [log.key], log.verify)
    assert (report.origin, report.size, report.root) == (log.name, 0, hashlib.sha256().digest())
    assert report.first is None


def test_what_follows_from_a_flaw_is_reported_after_it(url, path, log) -> None:
    tamper(path, "UPDATE entry SET body = x'00' WHERE idx = 300")
    codes = [finding.code for finding in audit(url, [log.key], log.verify).findings]
    assert codes[:2] == [Code.ENTRY_LEAF, Code.ENTRY_MALFORMED]
    assert {Code.CHECKPOINT_ROOT, Code.TILE_DIFFERS, Code.HEAD_ROOT} <= set(codes)
    tamper(path, "DELETE FROM entry WHERE idx >= 250")
    codes = [finding.code for finding in audit(url, [log.key], log.verify).findings]
    assert codes[:1] == [Code.ENTRY_MISSING]
    assert {Code.CHECKPOINT_SIZE, Code.HEAD_SIZE, Code.TILE_EXTRA, Code.SECRET_ORPHAN} <= set(codes)


def test_every_code_is_produced_above() -> None:
    text = Path(__file__).read_text(encoding="utf-8")
    assert [code.name for code in Code if f"Code.{code.name}" not in text] == []


@pytest.mark.parametrize(
    ("script", "code"),
    [
        ("UPDATE lookup SET key = zeroblob(32) WHERE idx = 1 AND kind = 'media'", Code.LOOKUP_FALSE),
        ("DELETE FROM lookup WHERE idx = 1 AND kind = 'media'", Code.LOOKUP_MISSING),
        ("UPDATE lookup SET idx = 0 WHERE idx = 1 AND kind = 'media'", Code.LOOKUP_FALSE),
        ("DELETE FROM lookup", Code.LOOKUP_MISSING),
    ],
)
def test_an_index_that_lies_is_named(url, tmp_path: Path, log, script: str, code: Code) -> None:
    """The flaw it would catch: entries that are there, proven, and never found again."""
    records = []
    for number in range(3):
        digests = {kind: hashlib.sha256(f"{kind} {number}".encode()).digest() for kind in ("claim", "media")}
        records.append(
            Record(
                Kind.SIGN,
                payload.canonical({kind: digest.hex() for kind, digest in digests.items()}),
                hashlib.sha256(b"salt %d" % number).digest(),
                hashlib.sha256(b"key").digest(),
                tuple(Lookup(kind, digest) for kind, digest in digests.items()),
            )
        )
    with Ledger.create(url, log.name) as ledger:
        ledger.append(records, AT, log.sign)
    assert audit(url, [log.key], log.verify).findings == ()
    tamper(tmp_path / "ledger.db", script)
    assert code in {each.code for each in audit(url, [log.key], log.verify).findings}
