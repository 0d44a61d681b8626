"""What an operator, or a thief of the log's key, may do with a whole ledger, and who refuses it.

Here the ledger, its checkpoints and a witness work together, on both engines. What one
changed byte does is in test_audit.py, and what the guard does about a ledger that was
put back is in test_ledger.py.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from storage import payload
from storage.audit import Code, audit
from storage.checkpoint import Checkpoint, open_checkpoint
from storage.entry import Kind
from storage.errors import LedgerFrozenError, ProofError
from storage.ledger import Ledger
from storage.merkle import verify_consistency
from storage.note import Algorithm, Note, VerifierKey
from storage.record import Record
from storage.witness.memory import Answer, CosigningKey, Request, Witness

AT = datetime(2026, 11, 25, 8, tzinfo=UTC)


@pytest.fixture
def witness(tmp_path: Path, log) -> Iterator[Witness]:
    """A witness that trusts the log's key."""
    private = Ed25519PrivateKey.from_private_bytes(hashlib.sha256(b"a witness").digest())
    key = VerifierKey(
        "witness.example", private.public_key().public_bytes_raw(), Algorithm.COSIGNATURE_ED25519
    )
    logs = {log.name: [log.key]}
    with Witness.create(tmp_path / "witness.db", [CosigningKey(key, private.sign)], logs, log.verify) as made:
        yield made


@dataclass
class Publisher:
    """Brings a ledger's checkpoints to the witness, as whoever holds the log's key would."""

    witness: Witness
    seen: int = 0
    minutes: Iterator[int] = field(default_factory=lambda: iter(range(1000)))

    def publish(self, ledger: Ledger) -> Answer:
        """Ask for a cosignature; what the witness has seen is asked of the witness."""
        proof = ledger.consistency(self.seen, ledger.size) if self.seen <= ledger.size else ()
        note = Note.parse(ledger.checkpoint().encode())
        at = AT + timedelta(minutes=next(self.minutes))
        answer = self.witness.add_checkpoint(bytes(Request(min(self.seen, ledger.size), proof, note)), at)
        if answer.status == 200:
            self.seen = ledger.size
        return answer


def checkpoint(ledger: Ledger, log) -> Checkpoint:
    return open_checkpoint(ledger.checkpoint().encode(), [log.key], log.verify)


def test_a_ledger_put_back_and_grown_again_is_cosigned_by_nobody(
    url, create, means, log, make_record, witness, snapshot, tamper
) -> None:
    """The audit finds nothing: the fork is consistent in itself, and only who saw the other one knows."""
    publisher = Publisher(witness)
    with create(url) as ledger:
        ledger.append([make_record(number) for number in range(5)], AT, log.sign)
        older = snapshot(url)
        ledger.append([make_record(number) for number in range(5, 9)], AT, log.sign)
        assert publisher.publish(ledger).status == 200
        kept = checkpoint(ledger, log)
    tamper(url, *older)
    with create(url) as ledger:
        # Smaller than what was seen: the witness says how large it was.
        assert publisher.publish(ledger) == Answer(409, "text/x.tlog.size", b"9\n")
        # Of the same size: two roots, signed by one key. The evidence is kept.
        ledger.append([make_record(-number) for number in range(5, 9)], AT, log.sign)
        assert publisher.publish(ledger).status == 409
        (fork,) = witness.forks()
        forked = checkpoint(ledger, log)
        assert open_checkpoint(fork.seen, [log.key], log.verify) == kept
        assert open_checkpoint(fork.refused, [log.key], log.verify) == forked
        assert (forked.size, forked.origin) == (kept.size, kept.origin)
        assert forked.root != kept.root
        # Grown further: no proof leads there from what was seen.
        ledger.append([make_record(100)], AT, log.sign)
        assert publisher.publish(ledger).status == 422
        grown = checkpoint(ledger, log)
        with pytest.raises(ProofError):
            verify_consistency(
                kept.size, grown.size, ledger.consistency(kept.size, grown.size), kept.root, grown.root
            )
    assert audit(url, means).findings == ()


def test_a_history_rewritten_from_its_first_entry_passes_no_witness_and_no_reader_with_a_checkpoint(
    url, create, means, log, make_record, witness, snapshot, tamper
) -> None:
    publisher = Publisher(witness)
    with create(url) as ledger:
        empty = snapshot(url)
        ledger.append([make_record(number) for number in range(300)], AT, log.sign)
        assert publisher.publish(ledger).status == 200
        kept = checkpoint(ledger, log)
        receipt = ledger.prove(7)
    tamper(url, *empty)
    with create(url) as ledger:
        ledger.append([make_record(number if number != 7 else -7) for number in range(300)], AT, log.sign)
        assert publisher.publish(ledger).status == 409
        assert checkpoint(ledger, log).root != kept.root
        assert ledger.prove(7).entry != receipt.entry
    assert audit(url, means).findings == ()
    found = audit(url, replace(means, remembered=kept)).findings
    assert [finding.code for finding in found] == [Code.HISTORY_FORGOTTEN]


def test_of_two_histories_told_to_two_clients_one_is_cosigned(
    url, create, log, make_record, witness, tmp_path: Path
) -> None:
    publisher = Publisher(witness)
    other_url = f"sqlite:///{tmp_path / 'other.db'}"
    with create(url) as told_to_one, create(other_url) as told_to_the_other:
        told_to_one.append([make_record(1)], AT, log.sign)
        told_to_the_other.append([make_record(2)], AT, log.sign)
        assert publisher.publish(told_to_one).status == 200
        assert publisher.publish(told_to_the_other).status == 409
        told_to_one.append([make_record(3)], AT, log.sign)
        told_to_the_other.append([make_record(3)], AT, log.sign)
        assert publisher.publish(told_to_the_other).status == 422
        assert publisher.publish(told_to_one).status == 200
    assert len(witness.forks()) == 1


def test_who_steals_the_key_of_the_log_cannot_put_a_fork_in_its_place(
    url, create, sealer, log, make_record, make_end, witness, tmp_path: Path
) -> None:
    """The thief signs what he likes; nobody cosigns it. The honest log freezes, and a new one begins with it."""
    publisher = Publisher(witness)
    with create(url) as honest:
        honest.append([make_record(number) for number in range(6)], AT, log.sign)
        assert publisher.publish(honest).status == 200
        with create(f"sqlite:///{tmp_path / 'thief.db'}") as thief:
            for size in (4, 6, 8):  # smaller than what was seen, the same, and larger
                thief.append([make_record(1000 + number) for number in range(size)], AT, log.sign)
                assert publisher.publish(thief).status in {409, 422}, size
        honest.freeze(make_end(6), AT, log.sign)
        assert publisher.publish(honest).status == 200
        last = checkpoint(honest, log)
        with pytest.raises(LedgerFrozenError):
            honest.append([make_record(7)], AT, log.sign)
    link = Record(
        Kind.POLICY,
        payload.canonical({"continues": str(last)}),
        hashlib.sha256(b"salt of the link").digest(),
        hashlib.sha256(b"key").digest(),
    )
    with Ledger.create(f"sqlite:///{tmp_path / 'next.db'}", "next.example", sealer) as following:
        following.append([link], AT, type(log).named("next.example", b"a new key").sign)
        assert payload.parse(following.payload(0) or b"")["continues"] == str(last)


def test_a_clock_that_ran_back_gets_no_cosignature(url, create, log, make_record, witness) -> None:
    with create(url) as ledger:
        ledger.append([make_record(0)], AT, log.sign)
        note = Note.parse(ledger.checkpoint().encode())
        assert witness.add_checkpoint(bytes(Request(0, (), note)), AT).status == 200
        early = AT - timedelta(seconds=1)
        assert witness.add_checkpoint(bytes(Request(1, (), note)), early).status == 503
        assert witness.add_checkpoint(bytes(Request(1, (), note)), AT).status == 200
