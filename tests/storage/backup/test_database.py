"""Backups of databases, put back into another database: whole, audited before they stand, or not at all."""

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from storage.audit import Means, audit
from storage.backup.database import DatabaseSnapshot, refill
from storage.backup.read import BackupProofError, Entries, Part, Published, Secrets, Witnessed, read
from storage.backup.write import DatedNote, write
from storage.checkpoint import open_checkpoint
from storage.cosignature import cosign
from storage.errors import LedgerForeignError, LedgerMissingError, NotWitnessedError
from storage.keyring import Sealer
from storage.ledger import Ledger
from storage.migrations import migrate
from storage.note import Algorithm, Note, VerifierKey
from storage.policy import Policy, QuorumMissingError

AT = datetime(2026, 11, 25, 8, tzinfo=UTC)
VECTOR = Path(__file__).parents[1] / "vectors" / "ledger-0001.sql"


@pytest.fixture
def witness(log) -> tuple[VerifierKey, Callable[[str], bytes]]:
    """The key of a witness, and what adds its line to the log's note."""
    other = type(log).named("witness.example", b"a witness")
    key = VerifierKey(other.name, other.key.public, Algorithm.COSIGNATURE_ED25519)

    def cosigned(note: str) -> bytes:
        parsed = Note.parse(note.encode())
        line = cosign(parsed.text, key, int(AT.timestamp()), other.private.sign)
        return bytes(Note(parsed.text, (*parsed.signatures, line)))

    return key, cosigned


def policy_of(log, key: VerifierKey) -> Policy:
    return Policy.parse(f"log {log.key}\nwitness w {key}\nquorum w\n")


@pytest.fixture
def parts(log, create, tmp_path, make_record, witness) -> Callable[[], Iterator[Part]]:
    """The parts of a backup of 300 entries under three checkpoints, the second of them witnessed."""
    place = tmp_path / "kept.backup"
    with create(f"sqlite:///{tmp_path / 'lost.db'}") as ledger:
        for minute, start in enumerate((0, 100, 200)):
            records = [make_record(number) for number in range(start, start + 100)]
            ledger.append(records, AT + timedelta(minutes=minute), log.sign)
            if minute == 1:
                ledger.keep_witnessed(witness[1](ledger.checkpoint()))
        ledger.keep_witnessed(ledger.checkpoint().encode())  # as a policy without a quorum would
        with ledger.at_once() as view:
            write(DatabaseSnapshot(view), place)
    return lambda: read(place, lambda note: open_checkpoint(note, [log.key], log.verify))


def test_a_ledger_comes_back_whole_and_without_what_nobody_verified(
    parts, url, sealer, means, ask, make_record
) -> None:
    refill(url, parts(), sealer, means)
    assert audit(url, means).findings == ()
    assert ask(url, "SELECT size FROM checkpoint ORDER BY size") == [(100,), (200,), (300,)]
    with Ledger.open_read_only(url, sealer) as ledger:
        assert ledger.payload(7) == make_record(7).payload
        with pytest.raises(NotWitnessedError):
            ledger.witnessed()
    with pytest.raises(LedgerForeignError):
        refill(url, parts(), sealer, means)


def test_witnessed_notes_come_back_under_the_policy_that_they_satisfy(
    parts, url, sealer, means, log, witness
) -> None:
    refill(url, parts(), sealer, means, policy_of(log, witness[0]))
    assert audit(url, means).findings == ()
    with Ledger.open_read_only(url, sealer) as ledger:
        assert ledger.witnessed().split("\n")[1] == "200"
        assert ledger.prove(7).check([log.key], log.verify).size == 200


def test_cosignatures_by_others_than_the_policy_names_are_not_taken_for_witnesses(
    parts, url, sealer, means, log
) -> None:
    stranger = VerifierKey("witness.example", log.named("x", b"x").key.public, Algorithm.COSIGNATURE_ED25519)
    with pytest.raises(QuorumMissingError):
        refill(url, parts(), sealer, means, policy_of(log, stranger))
    with pytest.raises(LedgerMissingError):
        Ledger.open_read_only(url, sealer)


def test_a_note_that_nobody_cosigned_is_not_backed_up_as_witnessed(parts) -> None:
    assert [part.checkpoint.size for part in parts() if isinstance(part, Witnessed)] == [200]


def redated(part: Part) -> Part:
    if isinstance(part, Published) and part.checkpoint.size == 300:
        return replace(part, signed=DatedNote(part.signed.note, 4_102_444_800))
    return part


def lacking(part: Part) -> Part:
    return replace(part, rows=part.rows[1:]) if isinstance(part, Secrets) else part


def put_otherwise(part: Part) -> Part:
    if isinstance(part, Entries) and part.start:
        return replace(part, bodies=part.bodies[::-1])
    return part


@pytest.mark.parametrize("change", [redated, lacking, put_otherwise])
def test_what_does_not_hold_never_stands(parts, url, sealer, means, ask, change) -> None:
    """The audit comes before the commit: after it, the true backup would find a ledger in its place."""
    with pytest.raises(BackupProofError, match="does not hold"):
        refill(url, map(change, parts()), sealer, means)
    assert [ask(url, f"SELECT count(*) FROM {name}") for name in ("head", "entry", "checkpoint")] == [  # noqa: S608
        [(0,)],
        [(0,)],
        [(0,)],
    ]
    refill(url, parts(), sealer, means)
    assert audit(url, means).findings == ()


def test_a_record_that_the_first_release_took_twice_comes_back(
    sqlite_url, target: str, tmp_path: Path, sealer: Sealer, means: Means, log, make_record
) -> None:
    """Entry 41 of the vector repeats entry 3; the first of them is the record."""
    with closing(sqlite3.connect(sqlite_url.removeprefix("sqlite:///"))) as connection:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.executescript(VECTOR.read_text(encoding="ascii"))
    migrate(sqlite_url, sealer)
    sealer.forget(7)  # erased when there were no keys yet
    with Ledger.open_read_only(sqlite_url, sealer) as ledger, ledger.at_once() as view:
        write(DatabaseSnapshot(view), tmp_path / "kept.backup")
    refill(
        target,
        read(tmp_path / "kept.backup", lambda note: open_checkpoint(note, [log.key], log.verify)),
        sealer,
        means,
    )
    assert audit(target, means).findings == ()
    with Ledger.open(target, sealer) as ledger:
        assert ledger.find("claim", make_record(3).lookups[0].digest) == (3, 41)
        assert ledger.append([make_record(3)], AT + timedelta(days=9), log.sign) == (3,)


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.needs("postgresql"))])
def target(request, tmp_path: Path) -> str:
    """An empty place beside `sqlite_url`, on each of the two engines."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'restored.db'}"
    return str(request.getfixturevalue("server").create(f"restored_{tmp_path.name[-12:].strip('_')}"))
