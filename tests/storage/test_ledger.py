import dataclasses
import hashlib
import itertools
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import sqlalchemy as sa

from storage import tables
from storage.audit import audit
from storage.checkpoint import Checkpoint, open_checkpoint
from storage.entry import Kind
from storage.errors import (
    ClockError,
    DiskFullError,
    EmptyLedgerError,
    ErasedEntryError,
    LedgerBusyError,
    LedgerDamagedError,
    LedgerForeignError,
    LedgerMissingError,
    MalformedEntryError,
    MalformedNoteError,
    MalformedPayloadError,
    UnknownEntryError,
)
from storage.ledger import Ledger, Lookup
from storage.merkle import leaf_hash, verify_consistency
from storage.note import Note
from storage.receipt import Receipt
from storage.tile import bundle

AT = datetime(2026, 11, 25, 8, tzinfo=UTC)


@pytest.fixture
def ledger(url):
    with Ledger.create(url, "log.example") as opened:
        yield opened


def spec_root(leaves: list[bytes]) -> bytes:
    """RFC 6962, 2.1, from leaf hashes."""
    if len(leaves) < 2:
        return leaves[0] if leaves else hashlib.sha256().digest()
    split = 1 << (len(leaves) - 1).bit_length() - 1
    return hashlib.sha256(b"\1" + spec_root(leaves[:split]) + spec_root(leaves[split:])).digest()


def checkpoint(ledger: Ledger, log) -> Checkpoint:
    return open_checkpoint(ledger.checkpoint().encode(), [log.key], log.verify)


def test_every_entry_is_proved_after_every_append(ledger, url, log, make_record) -> None:
    numbers = itertools.count()
    published = []
    for batch in (1, 2, 5, 248, 1, 300, 17):
        records = [make_record(next(numbers)) for _ in range(batch)]
        indices = ledger.append(records, AT, log.sign)
        size = ledger.size
        assert indices == tuple(range(size - batch, size))
        published.append(checkpoint(ledger, log))
        leaves = [entry.leaf for entry in ledger.entries(0, size)]
        assert published[-1] == Checkpoint("log.example", size, spec_root(leaves))
        for index in {0, size // 2, size - 1}:
            receipt = Receipt.parse(str(ledger.prove(index)))
            assert receipt.check([log.key], log.verify) == published[-1]
            assert (receipt.payload, receipt.token) == (make_record(index).payload, None)
    for old, new in itertools.combinations(published, 2):
        verify_consistency(old.size, new.size, ledger.consistency(old.size, new.size), old.root, new.root)
    report = audit(url, [log.key], log.verify)
    assert (report.size, report.root, report.findings) == (574, published[-1].root, ())


def test_a_receipt_given_out_early_stands_when_the_log_has_grown(ledger, log, make_record) -> None:
    ledger.append([make_record(0)], AT, log.sign)
    early = ledger.prove(0)
    ledger.append([make_record(number) for number in range(1, 300)], AT, log.sign)
    assert early.check([log.key], log.verify).size == 1


def test_what_was_recorded_is_found_again(ledger, log, make_record) -> None:
    shared_key = Lookup("binding", b"same")
    ledger.append([make_record(0, shared_key), make_record(1, shared_key, shared_key)], AT, log.sign)
    ledger.append([make_record(2, Lookup("binding", b"other"), kind=Kind.REVOKE)], AT, log.sign)
    assert ledger.find("binding", b"same") == (0, 1)
    assert ledger.find("binding", b"other") == (2,)
    assert ledger.find("claim", b"same") == ()
    assert ledger.entry(2).kind is Kind.REVOKE
    assert ledger.payload(2) == make_record(2).payload
    assert [entry.kind for entry in ledger.entries(1, 99)] == [Kind.SIGN, Kind.REVOKE]


def test_the_same_record_keeps_its_index(ledger, log, make_record) -> None:
    first, second = make_record(1), make_record(2)
    assert ledger.append([first, second, first], AT, log.sign) == (0, 1, 0)
    note = ledger.checkpoint()
    assert ledger.append([second, first], AT, log.sign) == (1, 0)
    assert ledger.checkpoint() == note
    assert ledger.append([second, make_record(3)], AT, log.sign) == (1, 2)
    # A retry is recognised however late it comes.
    ledger.append([make_record(4)], AT + timedelta(hours=1), log.sign)
    assert ledger.append([first, second], AT, log.sign) == (0, 1)


def test_recording_nothing_changes_nothing(ledger, log) -> None:
    assert ledger.append([], AT, log.sign) == ()
    assert ledger.size == 0
    for asked in (
        ledger.checkpoint,
        lambda: ledger.prove(0),
        lambda: ledger.consistency(0, 0),
        lambda: ledger.tile(0, 0),
    ):
        with pytest.raises(EmptyLedgerError):
            asked()


def test_a_clock_that_runs_back_is_refused(ledger, log, make_record) -> None:
    ledger.append([make_record(0)], AT, log.sign)
    with pytest.raises(ClockError):
        ledger.append([make_record(1)], AT - timedelta(seconds=tables.LOCK_SECONDS + 1), log.sign)
    assert ledger.size == 1


def test_waiting_for_the_lock_does_not_date_an_entry_back(ledger, url, log, make_record) -> None:
    ledger.append([make_record(0)], AT, log.sign)
    late = AT - timedelta(seconds=tables.LOCK_SECONDS)
    assert ledger.append([make_record(1)], late, log.sign) == (1,)
    assert ledger.append([make_record(1)], late, log.sign) == (1,)
    assert ledger.entry(1).logged_at == AT
    assert audit(url, [log.key], log.verify).first is None


def test_the_time_must_say_its_zone_and_loses_its_fraction(ledger, log, make_record) -> None:
    with pytest.raises(MalformedEntryError):
        ledger.append([make_record(0)], AT.replace(tzinfo=None), log.sign)
    ledger.append([make_record(0)], AT.replace(microsecond=999_999), log.sign)
    assert ledger.entry(0).logged_at == AT


def test_nothing_is_kept_when_signing_fails(ledger, url, log, make_record) -> None:
    ledger.append([make_record(0)], AT, log.sign)
    before = ledger.checkpoint()

    def broken(_text: str) -> bytes:
        raise ConnectionError("the key is away")

    with pytest.raises(ConnectionError):
        ledger.append([make_record(1)], AT, broken)
    assert ledger.checkpoint() == before
    assert ledger.find("claim", b"1") == ()
    report = audit(url, [log.key], log.verify)
    assert (report.size, report.findings) == (1, ())


def test_a_signer_that_signs_something_else_is_refused(ledger, log, make_record) -> None:
    with pytest.raises(MalformedNoteError):
        ledger.append([make_record(0)], AT, lambda text: log.sign(text.replace("1", "2")))
    assert ledger.size == 0


def test_what_could_not_be_proved_later_is_not_recorded(ledger, log, make_record) -> None:
    with pytest.raises(MalformedPayloadError):
        ledger.append([make_record(0), dataclasses.replace(make_record(1), payload=b"raw")], AT, log.sign)
    with pytest.raises(MalformedEntryError):
        ledger.append([dataclasses.replace(make_record(1), salt=b"short")], AT, log.sign)
    assert ledger.size == 0


def test_an_erased_payload_is_gone_and_every_proof_stays(
    ledger, url, log, make_record, tmp_path: Path
) -> None:
    ledger.append([make_record(number) for number in range(5)], AT, log.sign)
    kept = ledger.prove(3)
    ledger.erase(3)
    assert ledger.payload(3) is None
    assert ledger.find("claim", b"3") == ()
    with pytest.raises(ErasedEntryError):
        ledger.prove(3)
    kept.check([log.key], log.verify)
    ledger.prove(2).check([log.key], log.verify)
    assert audit(url, [log.key], log.verify).findings == ()
    ledger.close()
    assert kept.payload not in b"".join(path.read_bytes() for path in tmp_path.iterdir())


def test_there_is_no_entry_beyond_the_end(ledger, log, make_record) -> None:
    ledger.append([make_record(0)], AT, log.sign)
    for index in (-1, 1, 2**62, 2**63 - 1, 2**70):
        for asked in (ledger.entry, ledger.payload, ledger.prove, ledger.erase):
            with pytest.raises(UnknownEntryError):
                asked(index)
    with pytest.raises(UnknownEntryError):
        list(ledger.entries(-1, 1))
    assert list(ledger.entries(1, 2**70)) == []
    for old, new in ((0, 2), (1, 0), (-1, 1)):
        with pytest.raises(UnknownEntryError):
            ledger.consistency(old, new)


def test_tiles_and_bundles_are_those_of_the_entries(ledger, log, make_record) -> None:
    ledger.append([make_record(number) for number in range(600)], AT, log.sign)
    bodies = [entry.body for entry in ledger.entries(0, 600)]
    leaves = list(map(leaf_hash, bodies))
    assert ledger.tile(0, 1) == b"".join(leaves[256:512])
    assert ledger.tile(0, 2, 88) == b"".join(leaves[512:600])
    assert ledger.tile(0, 2, 3) == b"".join(leaves[512:515])
    assert ledger.tile(1, 0, 2) == spec_root(leaves[:256]) + spec_root(leaves[256:512])
    assert ledger.bundle(1) == bundle(bodies[256:512])
    assert ledger.bundle(2, 88) == bundle(bodies[512:])
    for level, number, width in (
        (0, 2, 89),
        (1, 0, 3),
        (0, 3, 1),
        (-1, 0, 1),
        (0, 0, 257),
        (0, 0, 0),
        (0, -1, 1),
    ):
        with pytest.raises(UnknownEntryError):
            ledger.tile(level, number, width)
    for number, width in ((2, 89), (3, 1), (-1, 256), (0, 257), (0, 0), (2**70, 1)):
        with pytest.raises(UnknownEntryError):
            ledger.bundle(number, width)


def test_a_proof_reads_a_bounded_number_of_rows(ledger, log, make_record) -> None:
    ledger.append([make_record(number) for number in range(1500)], AT, log.sign)
    statements = []
    sa.event.listen(ledger._engine, "before_cursor_execute", lambda *event: statements.append(event[2]))
    ledger.prove(700)
    assert sum("FROM tile" in text or "entry.leaf" in text for text in statements) <= 4
    statements.clear()
    ledger.append([make_record(-1)], AT, log.sign)
    assert len(statements) <= 10


def test_the_work_of_an_append_does_not_grow_with_the_log(ledger, log, make_record) -> None:
    counted = []
    sa.event.listen(ledger._engine, "before_cursor_execute", lambda *event: counted.append(event[2]))
    counts = []
    for start in (0, 512, 1024):
        ledger.append([make_record(start + number) for number in range(511)], AT, log.sign)
        counted.clear()
        ledger.append([make_record(start + 511)], AT, log.sign)
        counts.append(len(counted))
    assert max(counts) - min(counts) <= 1


def test_creating_twice_opens_what_is_there(url, log, make_record) -> None:
    with Ledger.create(url, "log.example") as ledger:
        ledger.append([make_record(0)], AT, log.sign)
    with Ledger.create(url, "log.example") as ledger:
        assert ledger.size == 1
    with pytest.raises(LedgerForeignError):
        Ledger.create(url, "other.example")


@pytest.mark.parametrize("origin", ["", "two words", "a+b", "line\nbreak"])
def test_an_origin_must_be_able_to_name_a_key(url, origin: str) -> None:
    with pytest.raises(LedgerForeignError):
        Ledger.create(url, origin)


def test_a_ledger_that_is_not_there_is_not_made_by_opening(url, tmp_path: Path) -> None:
    for opened in (Ledger.open, Ledger.open_read_only, lambda address: audit(address, [], lambda *_: True)):
        with pytest.raises(LedgerMissingError):
            opened(url)
    assert list(tmp_path.iterdir()) == []
    for address in ("sqlite://", "sqlite:///:memory:", "not a url", f"sqlite:///{tmp_path}/no/folder.db"):
        with pytest.raises(LedgerMissingError):
            Ledger.create(address, "log.example")


def test_a_damaged_head_is_not_built_upon(ledger, log, make_record) -> None:
    ledger.append([make_record(number) for number in range(3)], AT, log.sign)
    row = sa.update(tables.head)
    for damage in (
        {"root": bytes(32)},
        {"frontier": bytes(64)},
        {"frontier": b""},
        {"size": 4},
    ):
        with tables.transaction(ledger._engine) as connection:
            before = connection.execute(sa.select(tables.head)).one()._mapping
            connection.exec_driver_sql("DROP TRIGGER IF EXISTS head_never_shrinks")
            connection.execute(row.values(damage))
        with pytest.raises(LedgerDamagedError):
            ledger.append([make_record(9)], AT, log.sign)
        with tables.transaction(ledger._engine) as connection:
            connection.execute(row.values({name: before[name] for name in damage}))
    assert ledger.append([make_record(9)], AT, log.sign) == (3,)


def test_a_head_rewound_behind_its_checkpoint_is_not_built_upon(ledger, log, make_record) -> None:
    ledger.append([make_record(0)], AT, log.sign)
    with tables.transaction(ledger._engine) as connection:
        old = connection.execute(sa.select(tables.head)).one()._mapping
    ledger.append([make_record(1)], AT, log.sign)
    with tables.transaction(ledger._engine) as connection:
        connection.exec_driver_sql("DROP TRIGGER head_never_shrinks")
        connection.execute(
            sa.update(tables.head).values({name: old[name] for name in ("size", "root", "frontier")})
        )
        connection.exec_driver_sql("DROP TRIGGER entry_is_never_deleted")
        for table in (tables.secret, tables.lookup, tables.entry):
            connection.execute(sa.delete(table).where(table.c.idx == 1))
    with pytest.raises(LedgerDamagedError):
        ledger.append([make_record(2), make_record(3)], AT, log.sign)


def test_a_proof_that_does_not_lead_to_the_checkpoint_is_not_handed_out(ledger, log, make_record) -> None:
    ledger.append([make_record(number) for number in range(300)], AT, log.sign)
    with tables.transaction(ledger._engine) as connection:
        connection.execute(sa.update(tables.tile).where(tables.tile.c.level == 0).values(data=bytes(8192)))
    with pytest.raises(LedgerDamagedError):
        ledger.prove(5)


def test_a_full_disk_loses_nothing_that_was_acknowledged(ledger, url, log, make_record) -> None:
    acknowledged = len(ledger.append([make_record(number) for number in range(300)], AT, log.sign))
    connected = lambda connection, _record: connection.execute("PRAGMA max_page_count=120").close()  # noqa: E731
    sa.event.listen(ledger._engine, "connect", connected)
    ledger.close()
    numbers = itertools.count(acknowledged)
    full = None
    while full is None:
        try:
            acknowledged += len(ledger.append([make_record(next(numbers)) for _ in range(50)], AT, log.sign))
        except DiskFullError as error:
            full = error
    assert ledger.size == acknowledged
    assert audit(url, [log.key], log.verify).findings == ()
    sa.event.remove(ledger._engine, "connect", connected)
    ledger.close()
    with Ledger.open(url) as roomy:
        assert roomy.append([make_record(-1)], AT, log.sign) == (acknowledged,)
    assert audit(url, [log.key], log.verify).findings == ()


def test_a_writer_that_does_not_let_go_is_reported(ledger, url, log, make_record, monkeypatch) -> None:
    ledger.append([make_record(0)], AT, log.sign)
    monkeypatch.setattr(tables, "LOCK_SECONDS", 0)
    with Ledger.open(url) as impatient:
        with tables.transaction(ledger._engine), pytest.raises(LedgerBusyError):
            impatient.append([make_record(1)], AT, log.sign)
        assert impatient.append([make_record(1)], AT, log.sign) == (1,)


def test_a_reader_does_not_wait_for_a_writer(ledger, url, log, make_record) -> None:
    ledger.append([make_record(0)], AT, log.sign)
    with Ledger.open_read_only(url) as reader, tables.transaction(ledger._engine):
        assert reader.size == 1
        assert reader.prove(0).check([log.key], log.verify).size == 1


def test_threads_take_turns(ledger, url, log, make_record) -> None:
    def append(number: int) -> tuple[int, ...]:
        return ledger.append([make_record(number)], AT, log.sign)

    with ThreadPoolExecutor(4) as threads:
        indices = [index for (index,) in threads.map(append, range(40))]
    assert sorted(indices) == list(range(40))
    assert audit(url, [log.key], log.verify).findings == ()


def test_those_who_create_at_once_get_one_ledger(url, log, make_record) -> None:
    def create(number: int) -> tuple[int, ...]:
        with Ledger.create(url, log.name) as ledger:
            return ledger.append([make_record(number)], AT, log.sign)

    with ThreadPoolExecutor(4) as threads:
        assert sorted(threads.map(create, range(8))) == [(index,) for index in range(8)]


def test_a_missing_entry_is_not_skipped(ledger, log, make_record) -> None:
    ledger.append([make_record(number) for number in range(5)], AT, log.sign)
    with tables.transaction(ledger._engine) as connection:
        connection.exec_driver_sql("DROP TRIGGER entry_is_never_deleted")
        for table in (tables.secret, tables.lookup, tables.entry):
            connection.execute(sa.delete(table).where(table.c.idx == 2))
    with pytest.raises(LedgerDamagedError):
        list(ledger.entries(0, 5))


def test_the_published_note_is_the_signed_one(ledger, log, make_record) -> None:
    ledger.append([make_record(0)], AT, log.sign)
    note = Note.parse(ledger.checkpoint().encode())
    assert log.sign(note.text) == ledger.checkpoint().encode()


def test_a_snapshot_does_not_move_while_it_is_read(ledger, url, log, make_record) -> None:
    ledger.append([make_record(0)], datetime(2026, 11, 25, 8, tzinfo=UTC), log.sign)
    with Ledger.open_read_only(url) as reader:
        with reader.at_once():
            assert reader.size == 1
            ledger.append([make_record(1)], datetime(2026, 11, 25, 9, tzinfo=UTC), log.sign)
            assert reader.size == 1, "two answers about one file came from two states of the ledger"
            reader.prove(0).check((log.key,), log.verify)
        assert reader.size == 2
