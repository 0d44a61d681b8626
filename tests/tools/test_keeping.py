import base64
import hashlib
import json
import shutil
import sqlite3
import zipfile
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

import storage.errors
import tools.errors
from authn.keys import LogKey, generate_ed25519, open_key
from storage.audit import Code
from storage.backup.write import BackupExistsError, line
from storage.cosignature import cosign, sign_as_log
from storage.entry import Kind
from storage.errors import (
    LedgerExistsError,
    LedgerFrozenError,
    LedgerMissingError,
    NotWitnessedError,
    UnerasableError,
)
from storage.guard import GuardMissingError
from storage.note import Algorithm, Note, VerifierKey
from storage.policy import Policy
from tools.errors import BackupOldError, BackupOtherError
from tools.founding import create_home
from tools.home import Home, open_home
from tools.keeping import back_up, check_backup, put_back
from tools.signing import sign_files

REFUSED = (storage.errors.Error, tools.errors.Error)


def now() -> datetime:
    return datetime.now(UTC)


def record(home: Home, what: str) -> int:
    return home.own.record(Kind.POLICY, {"change": what}, now())


def lose_ledger(home: Home) -> None:
    for path in home.path.glob("ledger.db*"):
        path.unlink()


def receipts(home: Home, indices: Sequence[int]) -> list[str]:
    with home.ledger_to_read() as ledger:
        return [str(ledger.prove(index)) for index in indices]


def keep_cosigned(home: Home) -> Policy:
    """Let a witness cosign the newest checkpoint, keep that, and return the policy it satisfies."""
    private = LogKey(generate_ed25519())
    key = VerifierKey("witness.example/w", private.public, Algorithm.COSIGNATURE_ED25519)
    with home.ledger() as ledger:
        note = Note.parse(ledger.checkpoint().encode())
        cosignature = cosign(note.text, key, int(now().timestamp()), private.sign)
        ledger.keep_witnessed(bytes(Note(note.text, (*note.signatures, cosignature))))
    return Policy.parse(f"witness w {key}\nquorum w\n")


Members = dict[str, bytes]


def repacked(source: Path, out: Path, change: Callable[[Members], None]) -> Path:
    """A backup with members changed and all digests put right again, as a forger would."""
    with zipfile.ZipFile(source) as archive:
        content = {name: archive.read(name) for name in archive.namelist()}
    change(content)
    del content["SHA256SUMS"]
    sums = "".join(f"{hashlib.sha256(data).hexdigest()}  {name}\n" for name, data in content.items())
    with zipfile.ZipFile(out, "w") as archive:
        for name, data in (content | {"SHA256SUMS": sums.encode()}).items():
            archive.writestr(zipfile.ZipInfo(name), data)
    return out


def lines(content: Members, name: str) -> list[dict[str, Any]]:
    return [json.loads(each) for each in content[name].splitlines()]


def refused(home: Home, backup: Path, said: str, policy: Policy | None = None) -> None:
    """Both the check and the restore refuse it, and leave nothing."""
    for act in (check_backup, put_back):
        with pytest.raises(REFUSED, match=said):
            act(home, backup, policy)
        with pytest.raises(LedgerMissingError):
            home.ledger_to_read()


@pytest.fixture
def lived_in(fresh_home: Home, own_samples: Path, tmp_path: Path) -> tuple[Home, Policy]:
    """A home with a signature, an erasure, a witnessed checkpoint and something after it."""
    (signed,) = sign_files(fresh_home, [own_samples / "hills.jpg"], tmp_path / "out", "cam", now, timed=True)
    assert isinstance(signed, str), signed
    fresh_home.own.erase(4, now())
    policy = keep_cosigned(fresh_home)
    record(fresh_home, "after the witness")
    return fresh_home, policy


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> tuple[Home, Path]:
    """A home that lost its ledger, and the backup of it; nobody may change either."""
    folder = tmp_path_factory.mktemp("kept")
    home = create_home(folder / "home", "Kept", "http://localhost:8461/ocsp/", now())
    record(home, "something")
    back_up(home, folder / "kept.backup")
    lose_ledger(home)
    return home, folder / "kept.backup"


def test_what_was_put_back_answers_as_before(lived_in: tuple[Home, Policy], tmp_path: Path) -> None:
    home, policy = lived_in
    with home.ledger_to_read() as ledger:
        size, checkpoint, witnessed = ledger.size, ledger.checkpoint(), ledger.witnessed()
        media = next(ledger.payload(index) for index in range(size) if ledger.entry(index).kind is Kind.SIGN)
    assert media is not None
    not_erased = [index for index in range(size) if index != 4]
    before = receipts(home, not_erased)
    digest = bytes.fromhex(media.decode().partition('"media":"')[2][:64])
    with home.ledger_to_read() as ledger:
        found = ledger.find("media", digest)
    made = back_up(home, tmp_path / "kept.backup")
    lose_ledger(home)
    assert put_back(home, tmp_path / "kept.backup", policy) == made
    assert receipts(home, not_erased) == before
    with home.ledger_to_read() as ledger:
        assert (ledger.size, ledger.checkpoint(), ledger.witnessed()) == (size, checkpoint, witnessed)
        assert ledger.find("media", digest) == found
        assert len(found) == 1
        assert ledger.payload(4) is None
        assert not ledger.frozen
    assert not home.audit().findings
    assert record(home, "it goes on") == size


def test_a_frozen_ledger_comes_back_frozen(fresh_home: Home, tmp_path: Path) -> None:
    last = fresh_home.own.freeze("the end", now())
    back_up(fresh_home, tmp_path / "kept.backup")
    lose_ledger(fresh_home)
    put_back(fresh_home, tmp_path / "kept.backup")
    with pytest.raises(LedgerFrozenError):
        record(fresh_home, "one more")
    with fresh_home.ledger_to_read() as ledger:
        assert (ledger.frozen, ledger.size) == (True, last + 1)


def test_what_a_frozen_ledger_forgot_stays_forgotten(fresh_home: Home, tmp_path: Path) -> None:
    # It records no erasure, so only the keyring knows of those after the backup.
    last = fresh_home.own.freeze("the end", now())
    fresh_home.own.erase(2, now())
    back_up(fresh_home, tmp_path / "kept.backup")
    fresh_home.own.erase(3, now())
    lose_ledger(fresh_home)
    put_back(fresh_home, tmp_path / "kept.backup")
    with fresh_home.ledger_to_read() as ledger:
        assert [index for index in range(last + 1) if ledger.payload(index) is None] == [2, 3]
        assert ledger.frozen
    assert not fresh_home.audit().findings


def test_what_froze_a_ledger_cannot_be_erased(fresh_home: Home) -> None:
    # A backup would come back as a ledger that goes on.
    last = fresh_home.own.freeze("the end", now())
    with pytest.raises(UnerasableError):
        fresh_home.own.erase(last, now())
    with fresh_home.ledger_to_read() as ledger:
        assert ledger.payload(last) is not None


def test_a_rotated_ledger_comes_back_with_all_its_checkpoints(fresh_home: Home, tmp_path: Path) -> None:
    fresh_home.own.begin_rotation(now()).end_rotation(now())
    home = open_home(fresh_home.path)
    record(home, "after")
    before = receipts(home, range(8))
    back_up(home, tmp_path / "kept.backup")
    lose_ledger(home)
    put_back(home, tmp_path / "kept.backup")
    assert receipts(home, range(8)) == before


def test_without_a_policy_nothing_comes_back_as_witnessed(
    lived_in: tuple[Home, Policy], tmp_path: Path
) -> None:
    home, _ = lived_in
    assert back_up(home, tmp_path / "kept.backup").witnessed == 1
    lose_ledger(home)
    put_back(home, tmp_path / "kept.backup")
    with home.ledger_to_read() as ledger, pytest.raises(NotWitnessedError):
        ledger.witnessed()
    assert not home.audit().findings


def test_what_other_witnesses_cosigned_does_not_come_back_as_witnessed(
    lived_in: tuple[Home, Policy], tmp_path: Path
) -> None:
    home, _ = lived_in
    back_up(home, tmp_path / "kept.backup")
    lose_ledger(home)
    key = VerifierKey("other.example", LogKey(generate_ed25519()).public, Algorithm.COSIGNATURE_ED25519)
    refused(home, tmp_path / "kept.backup", "no quorum", Policy.parse(f"witness w {key}\nquorum w\n"))


def test_published_notes_are_not_put_back_as_witnessed(fresh_home: Home, tmp_path: Path) -> None:
    back_up(fresh_home, tmp_path / "kept.backup")
    lose_ledger(fresh_home)
    forged = repacked(
        tmp_path / "kept.backup",
        tmp_path / "forged",
        lambda content: content.update({"witnessed.jsonl": content["notes.jsonl"]}),
    )
    refused(fresh_home, forged, "Nobody cosigned")


def test_a_false_time_in_a_backup_is_refused_and_keeps_nobody_out(fresh_home: Home, tmp_path: Path) -> None:
    """A ledger dated ahead takes nothing more, and the true backup would find it in its place."""

    def redate(content: Members) -> None:
        rows = lines(content, "notes.jsonl")
        rows[-1]["at"] = 4_102_444_800
        content["notes.jsonl"] = b"".join(map(line, rows))

    back_up(fresh_home, tmp_path / "kept.backup")
    lose_ledger(fresh_home)
    refused(fresh_home, repacked(tmp_path / "kept.backup", tmp_path / "forged", redate), "dated otherwise")
    put_back(fresh_home, tmp_path / "kept.backup")
    record(fresh_home, "it goes on")


@pytest.mark.parametrize("what", ["garbage", "another row's", "an older record's"])
def test_sealed_rows_that_are_not_what_was_recorded_are_refused(
    fresh_home: Home, tmp_path: Path, what: str
) -> None:
    sealer, origin = fresh_home.own.sealer(), fresh_home.own.origin

    def change(content: Members) -> None:
        rows = lines(content, "secrets.jsonl")
        other = base64.b64encode(sealer.seal(2, bytes(32) + b"{}", origin)).decode()
        rows[2]["sealed"] = {"garbage": "AAAA", "another row's": rows[3]["sealed"]}.get(what, other)
        content["secrets.jsonl"] = b"".join(map(line, rows))

    back_up(fresh_home, tmp_path / "kept.backup")
    lose_ledger(fresh_home)
    forged = repacked(tmp_path / "kept.backup", tmp_path / "forged", change)
    refused(fresh_home, forged, "payload of entry 2 is not what was recorded")


def signing_alone(home: Home, key: VerifierKey) -> Callable[[str], bytes]:
    """What whoever kept the key's file can still do."""
    opened = LogKey(open_key(f"file:{home.path / 'keys' / f'log-{key.key_id.hex()}.pem'}"))
    return lambda text: bytes(Note(text, (sign_as_log(text, key, opened.sign),)))


def test_a_retired_key_that_signs_on_is_named_and_does_not_come_back(
    fresh_home: Home, tmp_path: Path
) -> None:
    old = fresh_home.own.newest
    fresh_home.own.begin_rotation(now()).end_rotation(now())
    home = open_home(fresh_home.path)
    assert not home.audit().findings
    with home.ledger() as ledger:
        entry = home.own.own_record(Kind.POLICY, {"change": "forged"})
        (index,) = ledger.append([entry], now(), signing_alone(home, old))
    [finding] = home.audit().findings
    assert (finding.code, finding.index) == (Code.CHECKPOINT_SIGNATURE, index + 1)
    back_up(home, tmp_path / "kept.backup")
    lose_ledger(home)
    refused(home, tmp_path / "kept.backup", "is not signed by key")


def test_an_old_copy_of_the_keyring_opens_nothing_that_was_erased(fresh_home: Home, tmp_path: Path) -> None:
    keyring = fresh_home.own.keyring_path.read_bytes()
    fresh_home.own.erase(2, now())
    back_up(fresh_home, tmp_path / "kept.backup")
    lose_ledger(fresh_home)
    fresh_home.own.keyring_path.write_bytes(keyring)
    check_backup(fresh_home, tmp_path / "kept.backup")
    assert fresh_home.own.sealer().holds(2)
    put_back(fresh_home, tmp_path / "kept.backup")
    assert not fresh_home.own.sealer().holds(2)
    assert not fresh_home.audit().findings


def test_a_backup_without_a_checkpoint_that_was_acknowledged_is_refused(
    fresh_home: Home, tmp_path: Path
) -> None:
    """The entries are all there, and the newest note is a later one that nobody was told of."""
    remembered = fresh_home.own.guard().newest()
    assert remembered is not None
    guard = fresh_home.own.guard_path.read_bytes()
    record(fresh_home, "signed, and never acknowledged")

    def forget(content: Members) -> None:
        kept = [row for row in lines(content, "notes.jsonl") if f"\n{remembered.size}\n" not in row["note"]]
        content["notes.jsonl"] = b"".join(map(line, kept))

    back_up(fresh_home, tmp_path / "kept.backup")
    lose_ledger(fresh_home)
    fresh_home.own.guard_path.write_bytes(guard)
    forged = repacked(tmp_path / "kept.backup", tmp_path / "forged", forget)
    refused(fresh_home, forged, f"lacks checkpoint {remembered.size}")


def test_it_never_replaces_a_ledger(fresh_home: Home, tmp_path: Path) -> None:
    back_up(fresh_home, tmp_path / "kept.backup")
    record(fresh_home, "more")
    before = (fresh_home.path / "ledger.db").read_bytes()
    with pytest.raises(LedgerExistsError):
        put_back(fresh_home, tmp_path / "kept.backup")
    assert (fresh_home.path / "ledger.db").read_bytes() == before


def test_a_backup_never_replaces_a_file(fresh_home: Home, tmp_path: Path) -> None:
    place = tmp_path / "kept.backup"
    place.write_bytes(b"somebody's")
    with pytest.raises(BackupExistsError):
        back_up(fresh_home, place)
    assert place.read_bytes() == b"somebody's"


def test_one_older_than_what_was_acknowledged_is_refused(fresh_home: Home, tmp_path: Path) -> None:
    back_up(fresh_home, tmp_path / "kept.backup")
    record(fresh_home, "acknowledged after the backup")
    lose_ledger(fresh_home)
    with pytest.raises(BackupOldError):
        put_back(fresh_home, tmp_path / "kept.backup")
    with pytest.raises(LedgerMissingError):
        fresh_home.ledger_to_read()


@pytest.mark.parametrize("more", [0, 1])
def test_one_of_another_history_is_refused(fresh_home: Home, tmp_path: Path, more: int) -> None:
    # The same keys, the same size or larger, and another entry at the end.
    forked = open_home(Path(shutil.copytree(fresh_home.path, tmp_path / "forked")))
    record(fresh_home, "what was acknowledged")
    for number in range(1 + more):
        record(forked, f"what was told to somebody else {number}")
    back_up(forked, tmp_path / "forked.backup")
    lose_ledger(fresh_home)
    with pytest.raises(BackupOldError):
        put_back(fresh_home, tmp_path / "forked.backup")


def test_one_of_another_log_is_refused(home: Home, fresh_home: Home, tmp_path: Path) -> None:
    back_up(home, tmp_path / "others.backup")
    lose_ledger(fresh_home)
    with pytest.raises((BackupOtherError, storage.errors.ProofError)):
        put_back(fresh_home, tmp_path / "others.backup")
    with pytest.raises(LedgerMissingError):
        fresh_home.ledger_to_read()


def test_without_its_guard_nobody_can_say_that_it_is_new_enough(fresh_home: Home, tmp_path: Path) -> None:
    back_up(fresh_home, tmp_path / "kept.backup")
    lose_ledger(fresh_home)
    fresh_home.own.guard_path.unlink()
    with pytest.raises(GuardMissingError):
        put_back(fresh_home, tmp_path / "kept.backup")
    with pytest.raises(LedgerMissingError):
        fresh_home.ledger_to_read()


def test_an_entry_erased_after_the_backup_stays_erased(fresh_home: Home, tmp_path: Path) -> None:
    # Database and guard went with one disk, and came back from one night; the keyring is today's.
    back_up(fresh_home, tmp_path / "kept.backup")
    guard = fresh_home.own.guard_path.read_bytes()
    fresh_home.own.erase(2, now())
    lose_ledger(fresh_home)
    fresh_home.own.guard_path.write_bytes(guard)
    with pytest.raises(BackupOldError, match="entry 2 was erased after"):
        put_back(fresh_home, tmp_path / "kept.backup")
    with pytest.raises(LedgerMissingError):
        fresh_home.ledger_to_read()


def test_one_that_lacks_a_payload_is_refused_before_anything_is_written(
    fresh_home: Home, tmp_path: Path
) -> None:
    # The entries are whole and the digests are right: only the database that it was made of lacked a row.
    with sqlite3.connect(fresh_home.path / "ledger.db") as database:
        for (trigger,) in database.execute(
            "SELECT name FROM sqlite_master WHERE type = 'trigger'"
        ).fetchall():
            database.execute(f'DROP TRIGGER "{trigger}"')
        database.execute("DELETE FROM secret WHERE idx = 3")
    database.close()
    back_up(fresh_home, tmp_path / "kept.backup")
    lose_ledger(fresh_home)
    with pytest.raises(BackupOtherError, match="payload of entry 3"):
        put_back(fresh_home, tmp_path / "kept.backup")
    with pytest.raises(LedgerMissingError):
        fresh_home.ledger_to_read()


def test_the_payloads_in_a_backup_are_sealed(lived_in: tuple[Home, Policy], tmp_path: Path) -> None:
    home, _ = lived_in
    with home.ledger_to_read() as ledger:
        payloads = [
            payload for index in range(ledger.size) if len(payload := ledger.payload(index) or b"") > 40
        ]
    back_up(home, tmp_path / "kept.backup")
    with zipfile.ZipFile(tmp_path / "kept.backup") as archive:
        members = [archive.read(name) for name in archive.namelist()]
    content = b"".join([(tmp_path / "kept.backup").read_bytes(), *members])
    assert len(payloads) > 5
    assert not [payload for payload in payloads if payload[:40] in content or payload[-40:] in content]


def test_a_flipped_bit_is_refused_or_means_nothing(kept: tuple[Home, Path], tmp_path: Path) -> None:
    home, backup = kept
    whole, facts = backup.read_bytes(), check_backup(home, backup)
    refused, tried = 0, range(3, len(whole), max(1, len(whole) // 60))
    for position in tried:
        changed = bytearray(whole)
        changed[position] ^= 0x10
        (tmp_path / "changed").write_bytes(changed)
        try:
            assert check_backup(home, tmp_path / "changed") == facts
        except REFUSED:
            refused += 1
    assert refused > len(tried) * 3 // 4


def test_a_backup_cut_short_is_refused(kept: tuple[Home, Path], tmp_path: Path) -> None:
    home, backup = kept
    whole = backup.read_bytes()
    for length in (0, 1, 100, len(whole) // 2, len(whole) - 1):
        (tmp_path / "short").write_bytes(whole[:length])
        with pytest.raises(REFUSED):
            put_back(home, tmp_path / "short")
    with pytest.raises(LedgerMissingError):
        home.ledger_to_read()


def test_checking_writes_nothing(kept: tuple[Home, Path]) -> None:
    home, backup = kept
    before = sorted((path, path.stat().st_mtime_ns) for path in home.path.rglob("*"))
    assert check_backup(home, backup).size == 6
    assert sorted((path, path.stat().st_mtime_ns) for path in home.path.rglob("*")) == before
