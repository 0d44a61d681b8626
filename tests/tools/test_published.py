"""What the log publishes, whatever was kept before."""

from datetime import UTC, datetime

import pytest

from authn.keys import LogKey, generate_ed25519, verify_note
from storage.checkpoint import open_checkpoint
from storage.cosignature import cosign
from storage.entry import Kind
from storage.errors import NotWitnessedError
from storage.ledger import Ledger
from storage.note import Algorithm, Note, VerifierKey
from storage.policy import Policy
from tools.home import Home
from tools.published import Guarded, InForce, Witnessed, counts


def now() -> datetime:
    return datetime.now(UTC)


class FakeWitness:
    """Cosigns whatever it is shown."""

    def __init__(self, name: str) -> None:
        self._signing = LogKey(generate_ed25519())
        self.key = VerifierKey(name, self._signing.public, Algorithm.COSIGNATURE_ED25519)

    def on(self, note: str) -> bytes:
        parsed = Note.parse(note.encode())
        line = cosign(parsed.text, self.key, int(now().timestamp()), self._signing.sign)
        return bytes(Note(parsed.text, (*parsed.signatures, line)))

    def policy(self) -> Policy:
        return Policy.parse(f"witness w {self.key}\nquorum w\n")


def record(home: Home, what: str) -> None:
    home.own.record(Kind.POLICY, {"change": what}, now())


def test_a_note_kept_under_one_policy_is_not_published_under_another(fresh_home: Home) -> None:
    a, b = FakeWitness("a.example"), FakeWitness("b.example")
    with fresh_home.ledger() as ledger, fresh_home.ledger_to_read() as reading:
        under_a, under_b = (Witnessed(reading, InForce(fresh_home.own, each.policy())) for each in (a, b))
        first = ledger.checkpoint()
        ledger.keep_witnessed(a.on(first))
        assert counts(under_a().encode(), a.policy().trusting(fresh_home.own.keys))
        with pytest.raises(NotWitnessedError) as refused:
            under_b()
        assert "cosign" in refused.value.remedy
        assert (under_a.size(), under_b.size()) == (ledger.size, 0)
        # Cosigned for the other policy as well, it counts under both.
        ledger.keep_witnessed(b.on(first))
        assert under_a.size() == under_b.size() == ledger.size
        assert under_a() == under_b()
        # A newer one that only satisfies the first does not take the second's away.
        record(fresh_home, "newer")
        ledger.keep_witnessed(a.on(ledger.checkpoint()))
        assert (under_a.size(), under_b.size()) == (ledger.size, ledger.size - 1)
        # Nor for a server that starts now.
        again = Witnessed(reading, InForce(fresh_home.own, b.policy()))
        assert again() == under_b()


def test_a_policy_in_force_follows_the_logs_keys_and_outlives_a_file_that_cannot_be_read(
    fresh_home: Home,
) -> None:
    witness = FakeWitness("w.example")
    policy = InForce(fresh_home.own, witness.policy())
    assert set(policy().logs) == set(fresh_home.own.keys)
    fresh_home.own.begin_rotation(now())
    rotated = fresh_home.own.as_saved().end_rotation(now())
    with fresh_home.ledger() as ledger, fresh_home.ledger_to_read() as reading:
        ledger.keep_witnessed(witness.on(ledger.checkpoint()))
        witnessed = Witnessed(reading, policy)
        assert witnessed.size() == ledger.size
        assert set(policy().logs) == set(rotated.keys) > set(fresh_home.own.keys)
        (fresh_home.path / "ledger.json").write_bytes(b"{")
        assert set(policy().logs) == set(rotated.keys)
        assert witnessed.size() == ledger.size


def test_a_checkpoint_that_the_guard_does_not_know_is_not_published(fresh_home: Home) -> None:
    own = fresh_home.own
    guard = own.guard_path.read_bytes()
    with fresh_home.ledger_to_read() as reading:
        published = Guarded(reading, own.guard())
        before = published()
        assert before == reading.checkpoint()
        # A writer that crashed between the commit and the guard.
        with Ledger.open(own.url, own.sealer()) as unguarded:
            unguarded.append([own.own_record(Kind.POLICY, {"change": "unknown"})], now(), own.signer())
        assert reading.checkpoint() != before
        assert published() == before
        # Without its guard it publishes nothing newer, and takes nothing back.
        own.guard_path.rename(own.guard_path.with_suffix(".away"))
        assert published() == before
        own.guard_path.with_suffix(".away").rename(own.guard_path)
        assert own.guard_path.read_bytes() == guard
        own.guard().remember(reading.checkpoint().encode())
        assert published() == reading.checkpoint()
        assert open_checkpoint(published().encode(), own.keys, verify_note)
