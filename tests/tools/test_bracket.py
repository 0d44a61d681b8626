"""What a checkpoint inside a claim proves, and every way in which it could lie."""

from datetime import UTC, datetime, timedelta

import pytest

from authn.evidence import CaptureStatement
from authn.keys import LogKey, generate_ed25519
from storage.checkpoint import Checkpoint
from storage.cosignature import cosign
from storage.note import Algorithm, Note, VerifierKey
from storage.policy import Policy
from tools.bracket import bracket
from tools.home import Home
from tools.own_log import OwnLog

AT = datetime(2026, 11, 1, 12, tzinfo=UTC)


def stated(note: str | bytes) -> CaptureStatement:
    return CaptureStatement(bytes(32), note if isinstance(note, str) else note.decode())


def witness(name: str) -> tuple[VerifierKey, LogKey]:
    key = LogKey(generate_ed25519())
    return VerifierKey(name, key.public, Algorithm.COSIGNATURE_ED25519), key


def cosigned(note: str, *by: tuple[tuple[VerifierKey, LogKey], datetime]) -> str:
    parsed = Note.parse(note.encode())
    lines = [cosign(parsed.text, key, int(at.timestamp()), own.sign) for (key, own), at in by]
    return bytes(Note(parsed.text, (*parsed.signatures, *lines))).decode()


def policy(own: OwnLog, quorum: int, *witnesses: VerifierKey) -> Policy:
    names = [f"w{number}" for number, _ in enumerate(witnesses)]
    lines = [f"log {own.newest}"]
    lines += [f"witness {name} {key}" for name, key in zip(names, witnesses, strict=True)]
    lines += [f"group all {quorum} {' '.join(names)}", "quorum all"]
    return Policy.parse("\n".join(lines) + "\n")


def test_without_a_witness_the_last_entry_under_the_checkpoint_dates_it_by_the_log_s_own_clock(
    home: Home,
) -> None:
    with home.ledger_to_read() as ledger:
        note = ledger.checkpoint()
        found = bracket(stated(note), ledger, home.own.keys, None)
        last = ledger.entry(ledger.size - 1).logged_at
    assert found is not None
    assert found.finding.passed
    assert found.at == last
    assert "own clock" in str(found.source)


def test_a_claim_without_a_checkpoint_has_no_lower_side(home: Home) -> None:
    assert bracket(None, None, home.own.keys, None) is None
    assert bracket(CaptureStatement(bytes(32), None), None, home.own.keys, None) is None


def test_a_checkpoint_that_the_log_signed_and_never_published_is_told_as_two_histories(home: Home) -> None:
    with home.ledger_to_read() as ledger:
        forged = home.sign_note(str(Checkpoint(home.own.origin, ledger.size, b"\1" * 32)))
        found = bracket(stated(forged), ledger, home.own.keys, None)
    assert found is not None
    assert found.at is None
    assert not found.finding.passed
    assert "never published" in found.finding.explanation


def test_another_log_s_checkpoint_dates_nothing(home: Home, fresh_home: Home) -> None:
    with fresh_home.ledger_to_read() as other:
        note = other.checkpoint()
    with home.ledger_to_read() as ledger:
        found = bracket(stated(note), ledger, home.own.keys, None)
    assert found is not None
    assert found.at is None
    assert not found.finding.passed


@pytest.mark.parametrize("note", ["", "x", "lightseal\n1\n", "\n" * 100, "\ud800", "a" * 100_000])
def test_what_is_no_note_is_an_answer_and_no_accident(home: Home, note: str) -> None:
    found = bracket(CaptureStatement(bytes(32), note), None, home.own.keys, None)
    assert found is None or not found.finding.passed


def test_fewer_witnesses_than_enough_cannot_move_the_lower_side_up(home: Home) -> None:
    """The flaw would be to take the newest time of any witness: one of them could then lie alone."""
    one, two, three = (witness(f"w{number}.example/w") for number in range(3))
    with home.ledger_to_read() as ledger:
        note = cosigned(
            ledger.checkpoint(),
            (one, AT),
            (two, AT + timedelta(minutes=1)),
            (three, AT + timedelta(days=30)),  # the liar
        )
        rule = policy(home.own, 2, one[0], two[0], three[0])
        found = bracket(stated(note), ledger, home.own.keys, rule)
    assert found is not None
    assert found.at == AT + timedelta(minutes=1)
    assert "witnesses" in str(found.source)


def test_witnesses_whom_the_policy_does_not_name_date_nothing(home: Home) -> None:
    known, stranger = witness("w.example/w"), witness("s.example/w")
    with home.ledger_to_read() as ledger:
        note = cosigned(ledger.checkpoint(), (stranger, AT))
        found = bracket(stated(note), ledger, home.own.keys, policy(home.own, 1, known[0]))
    assert found is not None
    assert found.at != AT
    assert "own clock" in str(found.source)


def test_without_the_ledger_only_witnesses_can_date_it(home: Home) -> None:
    known = witness("w.example/w")
    with home.ledger_to_read() as ledger:
        note = ledger.checkpoint()
    bare = bracket(stated(note), None, home.own.keys, None)
    assert bare is not None
    assert bare.at is None
    seen = bracket(stated(cosigned(note, (known, AT))), None, home.own.keys, policy(home.own, 1, known[0]))
    assert seen is not None
    assert seen.at == AT
