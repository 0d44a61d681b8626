import hashlib
import itertools
import os
import shutil
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import sqlalchemy as sa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from authn.sealing import seal, unseal
from storage import database, postgres, sqlite
from storage.audit import audit
from storage.checkpoint import Checkpoint, open_checkpoint
from storage.cosignature import cosign
from storage.entry import Kind
from storage.errors import (
    ClockError,
    ConflictingRecordError,
    DiskFullError,
    EmptyLedgerError,
    ErasedEntryError,
    ErasureUnfinishedError,
    LedgerBusyError,
    LedgerDamagedError,
    LedgerForeignError,
    LedgerFrozenError,
    LedgerSealedError,
    MalformedEntryError,
    MalformedNoteError,
    NotRememberedError,
    ReadOnlyError,
    UnerasableError,
    UnknownEntryError,
)
from storage.growth import WAIT_SECONDS
from storage.guard import Guard, RolledBackError
from storage.keyring import Keyring, KeyringOtherError, Sealer
from storage.ledger import Ledger
from storage.merkle import leaf_hash, verify_consistency, verify_inclusion
from storage.note import Algorithm, Note, VerifierKey
from storage.receipt import Receipt
from storage.record import Record
from storage.tile import bundle

AT = datetime(2026, 11, 25, 8, tzinfo=UTC)
SALT = hashlib.sha256(b"salt of an erasure").digest()


@pytest.fixture
def ledger(create, url):
    with create(url) as opened:
        yield opened


def spec_root(leaves: list[bytes]) -> bytes:
    """RFC 6962, 2.1, from leaf hashes."""
    if len(leaves) < 2:
        return leaves[0] if leaves else hashlib.sha256().digest()
    split = 1 << (len(leaves) - 1).bit_length() - 1
    return hashlib.sha256(b"\1" + spec_root(leaves[:split]) + spec_root(leaves[split:])).digest()


def checkpoint(ledger: Ledger, log) -> Checkpoint:
    return open_checkpoint(ledger.checkpoint().encode(), [log.key], log.verify)


def test_every_entry_is_proved_after_every_append(ledger, url, means, log, make_record) -> None:
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
    report = audit(url, means)
    assert (report.size, report.root, report.findings) == (574, published[-1].root, ())


def test_a_receipt_given_out_early_stands_when_the_log_has_grown(ledger, log, make_record) -> None:
    ledger.append([make_record(0)], AT, log.sign)
    early = ledger.prove(0)
    ledger.append([make_record(number) for number in range(1, 300)], AT, log.sign)
    assert early.check([log.key], log.verify).size == 1


def test_what_was_recorded_is_found_again(ledger, log, make_record) -> None:
    same, other = hashlib.sha256(b"same").digest(), hashlib.sha256(b"other").digest()
    ledger.append([make_record(0, binding=same), make_record(1, binding=same, claim=same)], AT, log.sign)
    ledger.append([make_record(2, binding=other, kind=Kind.REVOKE)], AT, log.sign)
    assert ledger.find("binding", same) == (0, 1)
    assert ledger.find("claim", same) == (1,)
    assert ledger.find("binding", other) == (2,)
    assert ledger.find("claim", other) == ()
    assert ledger.entry(2).kind is Kind.REVOKE
    assert ledger.payload(2) == make_record(2, binding=other).payload
    assert [entry.kind for entry in ledger.entries(1, 99)] == [Kind.SIGN, Kind.REVOKE]


def test_the_same_record_keeps_its_index(ledger, log, make_record) -> None:
    first, second = make_record(1), make_record(2)
    assert ledger.append([first, second, first], AT, log.sign) == (0, 1, 0)
    note = ledger.checkpoint()
    assert ledger.append([second, first], AT, log.sign) == (1, 0)
    assert ledger.checkpoint() == note
    assert ledger.append([second, make_record(3)], AT, log.sign) == (1, 2)
    # A retry is recognised however late it comes, and asks no clock.
    ledger.append([make_record(4)], AT + timedelta(hours=1), log.sign)
    note = ledger.checkpoint()
    for hours in (-9000, 0, 1, 2, 9000):
        assert ledger.append([first, second], AT + timedelta(hours=hours), log.sign) == (0, 1)
    assert ledger.append([second, make_record(5)], AT + timedelta(hours=2), log.sign) == (1, 4)
    assert [ledger.entry(index).logged_at for index in (0, 4)] == [AT, AT + timedelta(hours=2)]
    assert note != ledger.checkpoint()


def test_the_same_content_with_fresh_salt_is_another_record(ledger, log, make_record) -> None:
    first = make_record(1)
    again = Record(first.kind, first.payload, hashlib.sha256(b"fresh").digest(), first.key)
    assert ledger.append([first, again], AT, log.sign) == (0, 1)
    assert ledger.find("claim", first.lookups[0].digest) == (0, 1)


def test_an_erased_record_that_comes_again_stays_erased(ledger, url, means, log, make_record) -> None:
    ledger.append([make_record(0), make_record(1)], AT, log.sign)
    ledger.erase(0, SALT, AT, log.sign)
    assert ledger.append([make_record(0)], AT, log.sign) == (0,)
    assert ledger.payload(0) is None
    assert ledger.find("claim", make_record(0).lookups[0].digest) == ()
    assert audit(url, means).findings == ()


def test_a_commitment_belongs_to_one_kind_and_one_key(ledger, url, means, log, make_record) -> None:
    first = make_record(1)
    otherwise = [
        Record(Kind.REVOKE, first.payload, first.salt, first.key),
        Record(first.kind, first.payload, first.salt, hashlib.sha256(b"another key").digest()),
    ]
    for other in otherwise:
        with pytest.raises(ConflictingRecordError):
            ledger.append([make_record(0), first, other], AT, log.sign)
    assert ledger.size == 0
    ledger.append([first], AT, log.sign)
    for other in otherwise:
        with pytest.raises(ConflictingRecordError):
            ledger.append([make_record(0), other], AT, log.sign)
    assert (ledger.size, audit(url, means).findings) == (1, ())


def test_a_commitment_that_leads_to_another_entry_is_not_believed(
    ledger, url, log, make_record, tamper
) -> None:
    """The flaw it would catch: a record taken for recorded that is nowhere in the tree."""
    ledger.append([make_record(0), make_record(1)], AT, log.sign)
    tamper(url, "UPDATE submission SET idx = 0 WHERE idx = 1")
    with pytest.raises(LedgerDamagedError):
        ledger.append([make_record(1)], AT, log.sign)


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
        ledger.append([make_record(1)], AT - timedelta(seconds=WAIT_SECONDS + 1), log.sign)
    assert ledger.size == 1


def test_waiting_for_the_lock_does_not_date_an_entry_back(ledger, url, means, log, make_record) -> None:
    ledger.append([make_record(0)], AT, log.sign)
    late = AT - timedelta(seconds=WAIT_SECONDS)
    assert ledger.append([make_record(1)], late, log.sign) == (1,)
    assert ledger.append([make_record(1)], late, log.sign) == (1,)
    assert ledger.entry(1).logged_at == AT
    assert audit(url, means).first is None


def test_the_time_must_say_its_zone_and_loses_its_fraction(ledger, log, make_record) -> None:
    with pytest.raises(MalformedEntryError):
        ledger.append([make_record(0)], AT.replace(tzinfo=None), log.sign)
    ledger.append([make_record(0)], AT.replace(microsecond=999_999), log.sign)
    assert ledger.entry(0).logged_at == AT


def test_nothing_is_kept_when_signing_fails(ledger, url, means, log, make_record) -> None:
    ledger.append([make_record(0)], AT, log.sign)
    before = ledger.checkpoint()

    def broken(_text: str) -> bytes:
        raise ConnectionError("the key is away")

    with pytest.raises(ConnectionError):
        ledger.append([make_record(1)], AT, broken)
    assert ledger.checkpoint() == before
    assert ledger.find("claim", make_record(1).lookups[0].digest) == ()
    report = audit(url, means)
    assert (report.size, report.findings) == (1, ())


def test_a_signer_that_signs_something_else_is_refused(ledger, log, make_record) -> None:
    with pytest.raises(MalformedNoteError):
        ledger.append([make_record(0)], AT, lambda text: log.sign(text.replace("1", "2")))
    assert ledger.size == 0


def test_an_erased_payload_is_gone_and_every_proof_stays(ledger, url, means, log, make_record) -> None:
    ledger.append([make_record(number) for number in range(5)], AT, log.sign)
    kept = ledger.prove(3)
    assert ledger.erase(3, SALT, AT, log.sign) == 5
    assert ledger.payload(3) is None
    assert ledger.find("claim", make_record(3).lookups[0].digest) == ()
    with pytest.raises(ErasedEntryError):
        ledger.prove(3)
    assert kept.check([log.key], log.verify).size == 5
    assert ledger.prove(2).check([log.key], log.verify).size == 6
    # What is left of the entry can still be proved, by itself and by whoever kept its receipt.
    proof, entry = ledger.inclusion(3), ledger.entry(3)
    opened = open_checkpoint(proof.note, [log.key], log.verify)
    verify_inclusion(leaf_hash(kept.entry.body), 3, 6, proof.hashes, opened.root)
    assert entry == kept.entry
    assert audit(url, means).findings == ()


def test_an_erasure_is_a_record_of_its_own(ledger, log, make_record) -> None:
    ledger.append([make_record(0), make_record(1)], AT, log.sign)
    index = ledger.erase(1, SALT, AT + timedelta(hours=1), log.sign)
    entry = ledger.entry(index)
    text = b'{"erased":1}'
    assert (entry.kind, entry.key, entry.logged_at) == (
        Kind.ERASE,
        make_record(1).key,
        AT + timedelta(hours=1),
    )
    assert entry.commitment == hashlib.sha256(b"lightseal/commit/v1\0" + SALT + text).digest()
    receipt = ledger.prove(index)
    assert (receipt.payload, receipt.salt) == (text, SALT)
    assert receipt.check([log.key], log.verify).size == 3
    with pytest.raises(UnerasableError):
        ledger.erase(index, bytes(32), AT, log.sign)
    assert ledger.erase(1, bytes(32), AT + timedelta(hours=2), log.sign) is None
    assert ledger.size == 3


def test_nothing_is_erased_when_the_erasure_cannot_be_recorded(ledger, log, make_record) -> None:
    ledger.append([make_record(0)], AT, log.sign)

    def broken(_text: str) -> bytes:
        raise ConnectionError("the key is away")

    with pytest.raises(ConnectionError):
        ledger.erase(0, SALT, AT, broken)
    with pytest.raises(ClockError):
        ledger.erase(0, SALT, AT - timedelta(hours=1), log.sign)
    assert (ledger.size, ledger.payload(0)) == (1, make_record(0).payload)
    assert ledger.find("claim", make_record(0).lookups[0].digest) == (0,)


def test_a_copy_made_before_the_erasure_is_as_blind(
    ledger, url, means, sealer, log, make_record, ask, tamper, snapshot
) -> None:
    """The flaw it would catch: a backup that brings back what somebody had the right to see forgotten."""
    ledger.append([make_record(number) for number in range(5)], AT, log.sign)
    copy = snapshot(url)
    kept = ledger.prove(3)
    ledger.erase(3, SALT, AT, log.sign)
    assert ask(url, "SELECT sealed FROM secret WHERE idx = 3") == []
    tamper(url, *copy)
    assert len(ask(url, "SELECT sealed FROM secret WHERE idx = 3")) == 1
    with Ledger.open_read_only(url, sealer) as restored:
        for asked in (restored.payload, restored.prove):
            with pytest.raises(ErasedEntryError):
                asked(3)
        for index in (0, 1, 2, 4):
            assert restored.payload(index) == make_record(index).payload
    assert kept.check([log.key], log.verify).size == 5
    # No entry of the copy says why it is gone.
    assert [(each.code.value, each.index) for each in audit(url, means).findings] == [
        ("secret.missing", 3),
        ("lookup.false", 3),
    ]


def test_a_file_copied_before_the_erasure_is_as_blind(create, sqlite_url, sealer, log, make_record) -> None:
    with create(sqlite_url) as ledger:
        ledger.append([make_record(0), make_record(1)], AT, log.sign)
    path = sqlite_url.removeprefix("sqlite:///")
    shutil.copy(path, path + ".copy")
    with Ledger.open(sqlite_url, sealer) as ledger:
        with ledger.at_once() as view:
            sealed = view.sealed(0)
        ledger.erase(0, SALT, AT, log.sign)
    assert sealed in Path(path + ".copy").read_bytes()
    assert sealed not in Path(path).read_bytes(), "the row was deleted and its bytes are still there"
    with Ledger.open_read_only(f"{sqlite_url}.copy", sealer) as copy, pytest.raises(ErasedEntryError):
        copy.payload(0)


class CrashError(Exception):
    """The process ended here."""


class CrashingSealer(Sealer):
    """Dies before it forgets."""

    def forget(self, index: int) -> None:
        raise CrashError(index)


class LateSealer(Sealer):
    """Forgets, and dies before the database learns of it."""

    def forget(self, index: int) -> None:
        Sealer.forget(self, index)
        raise CrashError(index)


@pytest.mark.parametrize("kind", [CrashingSealer, LateSealer])
def test_an_erasure_cut_short_is_finished_by_asking_again(
    create, url, means, sealer, log, make_record, kind: type[Sealer]
) -> None:
    """The flaw it would catch: a crash between database and keyring, after which the payload is readable for ever."""
    with create(url) as ledger:
        ledger.append([make_record(0), make_record(1)], AT, log.sign)
    with Ledger.open(url, kind(sealer.keyring, seal, unseal)) as ledger, pytest.raises(CrashError):
        ledger.erase(0, SALT, AT, log.sign)
    assert sealer.keyring.holds(0) == (kind is CrashingSealer)
    assert bool(audit(url, means).findings) == (kind is LateSealer)
    with Ledger.open(url, sealer) as ledger:
        assert ledger.size == 2
        assert ledger.erase(0, bytes(32), AT, log.sign) == 2
        assert ledger.payload(0) is None
        assert ledger.erase(0, bytes(32), AT, log.sign) is None
    assert not sealer.keyring.holds(0)
    assert audit(url, means).findings == ()


def test_what_was_lost_is_erased_all_the_same(ledger, url, means, sealer, log, make_record, tamper) -> None:
    """A row that somebody deleted may lie in a backup: only a destroyed key says that it was erased."""
    ledger.append([make_record(0), make_record(1)], AT, log.sign)
    tamper(url, "DELETE FROM secret WHERE idx = 0")
    assert ledger.erase(0, SALT, AT, log.sign) == 2
    assert ledger.find(*make_record(0).lookups[0]) == ()
    assert not sealer.holds(0)
    assert audit(url, means).findings == ()


def test_a_database_put_back_under_a_running_writer_is_noticed(
    create, url, sealer, log, make_record, make_end, snapshot, tamper, tmp_path
) -> None:
    """The flaw it would catch: a standby that lags takes over, and acknowledged indices are given out twice."""
    guard = Guard.create(
        tmp_path / "guard", log.name, lambda note: open_checkpoint(note, [log.key], log.verify)
    )
    create(url).close()
    with Ledger.open(url, sealer, guard) as ledger:
        ledger.append([make_record(number) for number in range(10)], AT, log.sign)
        before = snapshot(url)
        ledger.append([make_record(number) for number in range(10, 20)], AT, log.sign)
        tamper(url, *before)
        for attempt in (
            lambda: ledger.append([make_record(99)], AT, log.sign),
            lambda: ledger.erase(0, SALT, AT, log.sign),
            lambda: ledger.freeze(make_end(99), AT, log.sign),
        ):
            with pytest.raises(RolledBackError):
                attempt()
        assert ledger.size == 10


def test_an_erasure_that_could_not_be_recorded_says_what_is_gone(
    create, url, sealer, log, make_record
) -> None:
    """The flaw it would catch: "the disk is full" alone, as if nothing had happened."""
    with create(url) as ledger:
        ledger.append([make_record(0), make_record(1)], AT, log.sign)

    def full(_: sa.Connection) -> None:
        raise DiskFullError("There is no room.")

    with Ledger.open(url, sealer) as ledger:
        sa.event.listen(ledger._writing, "commit", full)
        with pytest.raises(ErasureUnfinishedError, match="destroyed"):
            ledger.erase(0, SALT, AT, log.sign)
    with Ledger.open(url, sealer) as ledger:
        assert ledger.erase(0, SALT, AT, log.sign) == 2


def test_what_the_guard_was_not_told_is_recorded_and_said_so(
    create, url, sealer, log, make_record, tmp_path
) -> None:
    path = tmp_path / "guard"
    guard = Guard.create(path, log.name, lambda note: open_checkpoint(note, [log.key], log.verify))
    create(url).close()
    with Ledger.open(url, sealer, guard) as ledger:
        ledger.append([make_record(0)], AT, log.sign)

        def signing_while_the_disk_goes(text: str) -> bytes:
            path.rename(tmp_path / "away")
            return log.sign(text)

        with pytest.raises(NotRememberedError):
            ledger.append([make_record(1)], AT, signing_while_the_disk_goes)
        (tmp_path / "away").rename(path)
        assert ledger.append([make_record(1)], AT, log.sign) == (1,)
    assert guard.newest().size == 2


def test_a_snapshot_inside_a_snapshot_is_the_outer_one(ledger, log, make_record) -> None:
    ledger.append([make_record(0)], AT, log.sign)
    with ledger.at_once():
        with ledger.at_once():
            assert ledger.size == 1
        ledger.append([make_record(1)], AT, log.sign)
        assert ledger.size == 1


def test_a_record_does_not_show_what_it_hides(make_record) -> None:
    shown = repr(make_record(7))
    assert "claim" not in shown
    assert repr(make_record(7).salt)[2:10] not in shown


def test_those_who_erase_at_once_record_it_once(ledger, url, means, log, make_record) -> None:
    ledger.append([make_record(number) for number in range(3)], AT, log.sign)

    def erase(number: int) -> int | None:
        return ledger.erase(1, number.to_bytes(32, "big"), AT, log.sign)

    with ThreadPoolExecutor(4) as threads:
        answers = list(threads.map(erase, range(8)))
    assert sorted(answer for answer in answers if answer is not None) == [3]
    assert (ledger.size, audit(url, means).findings) == (4, ())


def test_a_frozen_ledger_takes_nothing_more_and_proves_all(
    ledger, url, means, log, make_record, make_end
) -> None:
    ledger.append([make_record(number) for number in range(3)], AT, log.sign)
    last = make_end(3)
    assert not ledger.frozen
    assert ledger.freeze(last, AT, log.sign) == 3
    assert ledger.frozen
    note = ledger.checkpoint()
    for attempt in (
        lambda: ledger.append([make_record(4)], AT, log.sign),
        lambda: ledger.append([make_record(0), make_record(4)], AT, log.sign),
        lambda: ledger.freeze(make_end(4), AT, log.sign),
    ):
        with pytest.raises(LedgerFrozenError):
            attempt()
    assert ledger.append([make_record(2), last], AT + timedelta(days=1), log.sign) == (2, 3)
    assert ledger.freeze(last, AT, log.sign) == 3
    assert (ledger.checkpoint(), ledger.payload(0)) == (note, make_record(0).payload)
    for index in range(4):
        assert ledger.prove(index).check([log.key], log.verify).size == 4
    with pytest.raises(LedgerDamagedError), database.transaction(ledger._writing) as connection:
        connection.execute(sa.text("UPDATE head SET frozen = 0"))
    assert ledger.frozen
    assert audit(url, means).findings == ()


def test_a_frozen_ledger_forgets_and_cannot_say_so(ledger, url, means, log, make_record, make_end) -> None:
    """Whoever has a right to be forgotten has it after the end as well."""
    ledger.append([make_record(number) for number in range(3)], AT, log.sign)
    kept = ledger.prove(1)
    ledger.freeze(make_end(3), AT, log.sign)
    assert ledger.erase(1, SALT, AT, log.sign) is None
    assert (ledger.size, ledger.payload(1)) == (4, None)
    with pytest.raises(ErasedEntryError):
        ledger.prove(1)
    kept.check([log.key], log.verify)
    assert audit(url, means).findings == ()


def test_what_is_damaged_can_be_forgotten_too(ledger, url, means, log, make_record, tamper) -> None:
    ledger.append([make_record(number) for number in range(3)], AT, log.sign)
    tamper(url, "UPDATE secret SET sealed = zeroblob(64) WHERE idx = 1")
    assert ledger.erase(1, SALT, AT, log.sign) == 3
    assert ledger.payload(1) is None
    assert audit(url, means).findings == ()


def test_nothing_is_frozen_when_the_last_record_fails(ledger, log, make_record, make_end) -> None:
    ledger.append([make_record(0)], AT, log.sign)
    with pytest.raises(ClockError):
        ledger.freeze(make_end(1), AT - timedelta(hours=1), log.sign)
    assert not ledger.frozen
    assert ledger.append([make_record(1)], AT, log.sign) == (1,)


WITNESS = Ed25519PrivateKey.from_private_bytes(hashlib.sha256(b"a witness for tests").digest())
WITNESS_KEY = VerifierKey(
    "witness.example", WITNESS.public_key().public_bytes_raw(), Algorithm.COSIGNATURE_ED25519
)


def cosigned(note: str, at: datetime = AT) -> bytes:
    parsed = Note.parse(note.encode())
    signature = cosign(parsed.text, WITNESS_KEY, int(at.timestamp()), WITNESS.sign)
    return bytes(Note(parsed.text, (*parsed.signatures, signature)))


def test_a_proof_rests_on_the_first_witnessed_checkpoint(ledger, url, means, log, make_record) -> None:
    notes = []
    for number in range(5):
        ledger.append([make_record(10 * number + part) for part in range(60)], AT, log.sign)
        notes.append(ledger.checkpoint())
    sizes = [open_checkpoint(note.encode(), [log.key], log.verify).size for note in notes]

    def under(index: int) -> int:
        return ledger.prove(index).check([log.key], log.verify).size

    newest = sizes[-1]
    with pytest.raises(EmptyLedgerError):
        ledger.witnessed()
    assert [under(index) for index in (0, sizes[0], newest - 1)] == [newest, newest, newest]
    ledger.keep_witnessed(cosigned(notes[2]))
    assert [under(index) for index in (0, sizes[2] - 1, sizes[2])] == [sizes[2], sizes[2], newest]
    assert ledger.witnessed().encode() == cosigned(notes[2])
    # One that was collected late dates what it covers all the better.
    ledger.keep_witnessed(cosigned(notes[0]))
    ledger.keep_witnessed(cosigned(notes[4]))
    assert [under(index) for index in (0, sizes[0], sizes[2], newest - 1)] == [
        sizes[0],
        sizes[2],
        newest,
        newest,
    ]
    assert ledger.prove(0).proof.note == cosigned(notes[0])
    assert ledger.inclusion(0).note == cosigned(notes[0])
    assert ledger.witnessed().encode() == cosigned(notes[4])
    # What was published stays as it was signed, and the first cosignatures stay what was handed out.
    assert ledger.checkpoint() == notes[4]
    ledger.keep_witnessed(cosigned(notes[0], AT + timedelta(days=1)))
    assert ledger.prove(0).proof.note == cosigned(notes[0])
    assert audit(url, means).findings == ()


def test_only_what_was_published_is_kept_as_witnessed(ledger, log, make_record) -> None:
    ledger.append([make_record(0), make_record(1)], AT, log.sign)
    foreign = [
        log.sign(str(Checkpoint("log.example", 1, bytes(32)))),
        log.sign(str(Checkpoint("log.example", 2, bytes(32)))),
        log.sign(ledger.checkpoint().partition("\n\n")[0].replace("log.", "blog.") + "\n"),
        b"not a note",
    ]
    for note in foreign:
        with pytest.raises(LedgerDamagedError):
            ledger.keep_witnessed(note)
    with pytest.raises(EmptyLedgerError):
        ledger.witnessed()


def test_without_the_keys_everything_is_proved_and_nothing_is_shown(
    ledger, url, log, make_record, make_end
) -> None:
    ledger.append([make_record(number) for number in range(300)], AT, log.sign)
    digest = make_record(7).lookups[0].digest
    with Ledger.open(url) as blind:
        for attempt in (
            lambda: blind.payload(7),
            lambda: blind.prove(7),
            lambda: blind.find("claim", digest),
            lambda: blind.append([make_record(300)], AT, log.sign),
            lambda: blind.erase(7, SALT, AT, log.sign),
            lambda: blind.freeze(make_end(300), AT, log.sign),
        ):
            with pytest.raises(LedgerSealedError):
                attempt()
        assert blind.entry(7) == ledger.entry(7)
        assert blind.inclusion(7) == ledger.inclusion(7) == ledger.prove(7).proof
        assert blind.checkpoint() == ledger.checkpoint()
        assert blind.consistency(100, 300) == ledger.consistency(100, 300)
        assert (blind.tile(0, 0), blind.bundle(0)) == (ledger.tile(0, 0), ledger.bundle(0))
        assert not blind.frozen
    assert ledger.size == 300


def test_the_keys_of_another_ledger_open_nothing(ledger, url, log, make_record, tmp_path: Path) -> None:
    ledger.append([make_record(0)], AT, log.sign)
    other = Sealer(Keyring.create(tmp_path / "other", bytes(32)), seal, unseal)
    for opened in (Ledger.open, Ledger.open_read_only):
        with pytest.raises(KeyringOtherError):
            opened(url, other)


def stolen(folder: Path, since: float) -> bytes:
    """All that was written there meanwhile, but for the keys, which are kept elsewhere."""
    found = bytearray()
    for path in folder.rglob("*"):
        with suppress(FileNotFoundError):  # a server makes and drops files of its own meanwhile
            if path.is_file() and path.name != "keyring" and path.stat().st_mtime >= since:
                found += path.read_bytes()
    return bytes(found)


def test_a_stolen_database_tells_nothing_of_what_is_in_it(
    ledger, url, log, make_record, request, tmp_path: Path
) -> None:
    """Neither a payload, nor whether a picture one has is in it; in its files and its log of writes alike."""
    begun = time.time() - 1
    numbers = range(987_650_000, 987_650_300)
    ledger.append([make_record(number) for number in numbers], AT, log.sign)
    ledger.erase(7, SALT, AT, log.sign)
    postgresql = url.startswith("postgresql")
    content = stolen(request.getfixturevalue("server").data if postgresql else tmp_path, begun)
    # Some of them whole: the pages of a log of writes may cut one in two.
    assert any(ledger.entry(index).body in content for index in range(20)), "we looked in the wrong place"
    for number in numbers[::60]:
        record = make_record(number)
        (lookup,) = record.lookups
        for secret in (record.payload, record.salt, lookup.digest, b"%d" % number):
            assert secret not in content
            assert secret.hex().encode() not in content
    assert b'"erased"' not in content


def test_there_is_no_entry_beyond_the_end(ledger, log, make_record) -> None:
    ledger.append([make_record(0)], AT, log.sign)
    for index in (-1, 1, 2**62, 2**63 - 1, 2**70):
        for asked in (ledger.entry, ledger.payload, ledger.prove, ledger.inclusion):
            with pytest.raises(UnknownEntryError):
                asked(index)
        with pytest.raises(UnknownEntryError):
            ledger.erase(index, SALT, AT, log.sign)
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
    sa.event.listen(
        ledger._reading_engine, "before_cursor_execute", lambda *event: statements.append(event[2])
    )
    sa.event.listen(ledger._writing, "before_cursor_execute", lambda *event: statements.append(event[2]))
    ledger.prove(700)
    assert 1 <= sum("FROM tile" in text or "entry.leaf" in text for text in statements) <= 4
    statements.clear()
    ledger.append([make_record(-1)], AT, log.sign)
    assert 1 <= len(statements) <= 12


def test_the_work_of_an_append_does_not_grow_with_the_log(ledger, log, make_record) -> None:
    counted = []
    sa.event.listen(ledger._writing, "before_cursor_execute", lambda *event: counted.append(event[2]))
    counts = []
    for start in (0, 512, 1024):
        ledger.append([make_record(start + number) for number in range(511)], AT, log.sign)
        counted.clear()
        ledger.append([make_record(start + 511)], AT, log.sign)
        counts.append(len(counted))
    assert min(counts) > 0
    assert max(counts) - min(counts) <= 1


def test_creating_twice_opens_what_is_there(create, url, log, make_record) -> None:
    with create(url) as ledger:
        ledger.append([make_record(0)], AT, log.sign)
    with create(url) as ledger:
        assert ledger.size == 1
    with pytest.raises(LedgerForeignError):
        create(url, "other.example")


@pytest.mark.parametrize("origin", ["", "two words", "a+b", "line\nbreak"])
def test_an_origin_must_be_able_to_name_a_key(create, sqlite_url, origin: str) -> None:
    with pytest.raises(LedgerForeignError):
        create(sqlite_url, origin)


def test_a_damaged_head_is_not_built_upon(ledger, url, log, make_record, ask, tamper) -> None:
    ledger.append([make_record(number) for number in range(3)], AT, log.sign)
    [(root, frontier, size)] = ask(url, "SELECT root, frontier, size FROM head")
    for damage in (
        "root = zeroblob(32)",
        "frontier = zeroblob(64)",
        "frontier = x''",
        "size = 4",
        "size = 2, frontier = zeroblob(32)",
    ):
        tamper(url, f"UPDATE head SET {damage}")  # noqa: S608
        with pytest.raises(LedgerDamagedError):
            ledger.append([make_record(9)], AT, log.sign)
        tamper(
            url,
            f"UPDATE head SET root = x'{root.hex()}', frontier = x'{frontier.hex()}', size = {size}",  # noqa: S608
        )
    assert ledger.append([make_record(9)], AT, log.sign) == (3,)


def test_a_head_rewound_behind_its_checkpoint_is_not_built_upon(
    ledger, url, log, make_record, snapshot, tamper
) -> None:
    ledger.append([make_record(0)], AT, log.sign)
    before = [text for text in snapshot(url) if "checkpoint" not in text]
    ledger.append([make_record(1)], AT, log.sign)
    tamper(url, *before)
    with pytest.raises(LedgerDamagedError):
        ledger.append([make_record(2), make_record(3)], AT, log.sign)


def test_a_head_without_its_checkpoint_is_not_built_upon(ledger, url, log, make_record, tamper) -> None:
    ledger.append([make_record(0)], AT, log.sign)
    tamper(url, "DELETE FROM checkpoint")
    with pytest.raises(LedgerDamagedError):
        ledger.append([make_record(1)], AT, log.sign)


def test_a_proof_that_does_not_lead_to_the_checkpoint_is_not_handed_out(
    ledger, url, log, make_record, tamper
) -> None:
    ledger.append([make_record(number) for number in range(300)], AT, log.sign)
    tamper(url, "UPDATE tile SET data = zeroblob(8192) WHERE level = 0")
    for asked in (ledger.prove, ledger.inclusion):
        with pytest.raises(LedgerDamagedError):
            asked(5)


def test_a_full_disk_loses_nothing_that_was_acknowledged(
    create, sqlite_url, means, sealer, log, make_record
) -> None:
    ledger = create(sqlite_url)
    acknowledged = len(ledger.append([make_record(number) for number in range(300)], AT, log.sign))
    connected = lambda connection, _record: connection.execute("PRAGMA max_page_count=120").close()  # noqa: E731
    sa.event.listen(ledger._writing, "connect", connected)
    ledger.close()
    numbers = itertools.count(acknowledged)
    full = None
    while full is None:
        try:
            acknowledged += len(ledger.append([make_record(next(numbers)) for _ in range(50)], AT, log.sign))
        except DiskFullError as error:
            full = error
    assert ledger.size == acknowledged
    assert audit(sqlite_url, means).findings == ()
    ledger.close()
    with Ledger.open(sqlite_url, sealer) as roomy:
        assert roomy.append([make_record(-1)], AT, log.sign) == (acknowledged,)
    assert audit(sqlite_url, means).findings == ()


def test_a_writer_that_does_not_let_go_is_reported(
    ledger, url, sealer, log, make_record, monkeypatch
) -> None:
    ledger.append([make_record(0)], AT, log.sign)
    monkeypatch.setattr(sqlite, "LOCK_SECONDS", 1)
    monkeypatch.setattr(postgres, "LOCK_SECONDS", 1)
    with Ledger.open(url, sealer) as impatient:
        with database.transaction(ledger._writing) as held:
            held.execute(sa.text("UPDATE head SET time = time"))
            with pytest.raises(LedgerBusyError):
                impatient.append([make_record(1)], AT, log.sign)
        assert impatient.append([make_record(1)], AT, log.sign) == (1,)


def test_a_reader_does_not_wait_for_a_writer(ledger, url, sealer, log, make_record) -> None:
    ledger.append([make_record(0)], AT, log.sign)
    with Ledger.open_read_only(url, sealer) as reader, database.transaction(ledger._writing) as held:
        held.execute(sa.text("UPDATE head SET time = time"))
        assert reader.size == 1
        assert reader.prove(0).check([log.key], log.verify).size == 1


def test_threads_take_turns(ledger, url, means, log, make_record) -> None:
    def append(number: int) -> tuple[int, ...]:
        return ledger.append([make_record(number)], AT, log.sign)

    with ThreadPoolExecutor(4) as threads:
        indices = [index for (index,) in threads.map(append, range(40))]
    assert sorted(indices) == list(range(40))
    assert audit(url, means).findings == ()


APPEND = """
import hashlib, sys
from datetime import UTC, datetime
from pathlib import Path
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from authn.sealing import seal, unseal
from storage import payload
from storage.entry import Kind
from storage.keyring import Keyring, Sealer
from storage.ledger import Ledger
from storage.note import VerifierKey, signed_note
from storage.record import Record

url, keyring, tag = sys.argv[1:]
private = Ed25519PrivateKey.from_private_bytes(hashlib.sha256(b"a key for tests").digest())
key = VerifierKey("log.example", private.public_key().public_bytes_raw())
sign = lambda text: signed_note(text, key, private.sign(text.encode()))

def record(claim):
    digest = hashlib.sha256(claim.encode()).digest()
    return Record(Kind.SIGN, payload.canonical({"claim": digest.hex()}), digest, bytes(32))

with Ledger.open(url, Sealer(Keyring.open(Path(keyring)), seal, unseal)) as ledger:
    for number in range(25):
        claims = [f"{tag} {number}", f"shared {number}", f"{tag} {number} again"]
        indices = ledger.append([record(claim) for claim in claims], datetime.now(UTC), sign)
        for claim, index in zip(claims, indices, strict=True):
            print(f"{index}\\t{claim}", flush=True)
"""


def test_processes_take_turns_and_record_what_they_share_once(create, url, means, tmp_path: Path) -> None:
    create(url).close()
    command = [sys.executable, "-c", APPEND, url, str(tmp_path / "keyring")]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    running = [
        subprocess.Popen([*command, tag], stdout=subprocess.PIPE, env=environment, text=True)
        for tag in ("a", "b", "c", "d")
    ]
    said = [process.communicate(timeout=120)[0].splitlines() for process in running]
    assert [process.returncode for process in running] == [0, 0, 0, 0]
    acknowledged: dict[str, set[int]] = {}
    for line in itertools.chain(*said):
        index, claim = line.split("\t")
        acknowledged.setdefault(claim, set()).add(int(index))
    assert len(acknowledged) == 4 * 50 + 25
    assert sorted(index for (index,) in acknowledged.values()) == list(range(225))
    assert audit(url, means).findings == ()
    with Ledger.open_read_only(url, means.sealer) as ledger, ledger.at_once():
        for claim, indices in acknowledged.items():
            assert set(ledger.find("claim", hashlib.sha256(claim.encode()).digest())) == indices


def test_those_who_create_at_once_get_one_ledger(create, url, log, make_record) -> None:
    def work(number: int) -> tuple[int, ...]:
        with create(url) as ledger:
            return ledger.append([make_record(number)], AT, log.sign)

    with ThreadPoolExecutor(4) as threads:
        assert sorted(threads.map(work, range(8))) == [(index,) for index in range(8)]


def test_a_missing_entry_is_not_skipped(ledger, url, log, make_record, tamper) -> None:
    ledger.append([make_record(number) for number in range(5)], AT, log.sign)
    tamper(url, "DELETE FROM entry WHERE idx = 2")
    with pytest.raises(LedgerDamagedError):
        list(ledger.entries(0, 5))


def test_the_published_note_is_the_signed_one(ledger, log, make_record) -> None:
    ledger.append([make_record(0)], AT, log.sign)
    note = Note.parse(ledger.checkpoint().encode())
    assert log.sign(note.text) == ledger.checkpoint().encode()


def test_a_snapshot_does_not_move_while_it_is_read(ledger, url, sealer, log, make_record) -> None:
    ledger.append([make_record(0)], datetime(2026, 11, 25, 8, tzinfo=UTC), log.sign)
    with Ledger.open_read_only(url, sealer) as reader:
        with reader.at_once():
            assert reader.size == 1
            ledger.append([make_record(1)], datetime(2026, 11, 25, 9, tzinfo=UTC), log.sign)
            assert reader.size == 1, "two answers about one file came from two states of the ledger"
            reader.prove(0).check((log.key,), log.verify)
        assert reader.size == 2


@pytest.fixture
def guard(log, tmp_path: Path) -> Guard:
    return Guard.create(
        tmp_path / "guard", log.name, lambda note: open_checkpoint(note, [log.key], log.verify)
    )


def test_what_was_acknowledged_stands_in_the_guard(url, sealer, guard, log, make_record, make_end) -> None:
    with Ledger.create(url, log.name, sealer, guard) as ledger:
        assert guard.newest() is None
        for number, act in enumerate(
            (
                lambda: ledger.append([make_record(0), make_record(1)], AT, log.sign),
                lambda: ledger.append([make_record(2)], AT, log.sign),
                lambda: ledger.erase(1, SALT, AT, log.sign),
                lambda: ledger.freeze(make_end(3), AT, log.sign),
            )
        ):
            act()
            assert guard.newest() == checkpoint(ledger, log), number
    Ledger.open(url, sealer, guard).close()


def test_a_ledger_put_back_to_an_older_state_does_not_open(
    url, sealer, guard, log, make_record, snapshot, tamper
) -> None:
    with Ledger.create(url, log.name, sealer, guard) as ledger:
        ledger.append([make_record(0), make_record(1)], AT, log.sign)
        older = snapshot(url)
        ledger.append([make_record(2), make_record(3)], AT, log.sign)
        now = snapshot(url)
    tamper(url, *older)
    for opened in (
        lambda: Ledger.open(url, sealer, guard),
        lambda: Ledger.create(url, log.name, sealer, guard),
    ):
        with pytest.raises(RolledBackError):
            opened()
    # Grown on to the same size, or beyond, it is another history; only the guard knows.
    for numbers in ((4, 5), (6,)):
        with Ledger.open(url, sealer) as unguarded:
            unguarded.append([make_record(number) for number in numbers], AT, log.sign)
            size = unguarded.size
        with pytest.raises(RolledBackError):
            Ledger.open(url, sealer, guard)
    assert size == 5
    tamper(url, *now)
    with Ledger.open(url, sealer, guard) as restored:
        assert restored.append([make_record(4)], AT, log.sign) == (4,)


class CrashingGuard(Guard):
    """Dies between the commit and its own note of it."""

    def remember(self, note: bytes) -> None:
        raise CrashError(note)


def test_a_retry_tells_the_guard_what_a_crash_kept_from_it(
    url, sealer, guard, log, make_record, tmp_path: Path
) -> None:
    """The flaw it would catch: an index handed out that a restored database may forget unnoticed."""
    opened = lambda note: open_checkpoint(note, [log.key], log.verify)  # noqa: E731
    with Ledger.create(url, log.name, sealer, guard) as ledger:
        ledger.append([make_record(0)], AT, log.sign)
    with (
        Ledger.open(url, sealer, CrashingGuard.open(tmp_path / "guard", log.name, opened)) as ledger,
        pytest.raises(CrashError),
    ):
        ledger.append([make_record(1)], AT, log.sign)
    assert guard.newest().size == 1
    with Ledger.open(url, sealer, guard) as ledger:
        assert ledger.append([], AT, log.sign) == ()
        assert guard.newest().size == 1
        assert ledger.append([make_record(1)], AT, log.sign) == (1,)
        assert guard.newest() == checkpoint(ledger, log)


def test_one_who_only_reads_is_told_so(ledger, url, sealer, log, make_record, make_end) -> None:
    ledger.append([make_record(0)], AT, log.sign)
    with Ledger.open_read_only(url, sealer) as reader:
        for attempt in (
            lambda: reader.append([make_record(1)], AT, log.sign),
            lambda: reader.erase(0, SALT, AT, log.sign),
            lambda: reader.freeze(make_end(1), AT, log.sign),
            lambda: reader.keep_witnessed(cosigned(reader.checkpoint())),
        ):
            with pytest.raises(ReadOnlyError):
                attempt()
        with pytest.raises(ReadOnlyError), database.transaction(reader._reading_engine) as connection:
            connection.execute(sa.text("DELETE FROM secret"))
        assert (reader.size, reader.payload(0)) == (1, make_record(0).payload)
