import base64
import json
import shutil
import subprocess
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

import storage.errors
from authn.errors import KeyFileError
from authn.keys import verify_note
from storage.checkpoint import Checkpoint, open_checkpoint
from storage.entry import Kind
from storage.errors import LedgerFrozenError, NoteSignatureError
from storage.guard import RolledBackError
from storage.keyring import KeyringOtherError
from storage.note import Algorithm, VerifierKey
from tools import postgres
from tools.errors import HomeDamagedError, RotationError
from tools.founding import LogPlan, create_home
from tools.home import Home, open_home
from tools.issuance.own import enrol
from tools.own_log import OwnLog
from tools.signing import sign_files

Command = Callable[..., "subprocess.CompletedProcess[str]"]


def now() -> datetime:
    return datetime.now(UTC)


def record(own: OwnLog, what: str) -> int:
    return own.record(Kind.POLICY, {"change": what}, now())


def newest(own: OwnLog) -> bytes:
    with own.reader() as ledger:
        return ledger.checkpoint().encode()


def reopened(home: Home) -> OwnLog:
    return open_home(home.path).own


def published(home: Home) -> tuple[VerifierKey, ...]:
    """What the operator tells the world: the lines of log.vkey."""
    return tuple(map(VerifierKey.parse_log, (home.path / "log.vkey").read_text().splitlines()))


def opens(note: bytes, *keys: VerifierKey) -> Checkpoint:
    return open_checkpoint(note, keys, verify_note)


def require_sound(home: Home) -> None:
    """All entries derived again, under what the home says of itself now."""
    report = reopened(home).audit()
    assert not report.findings, report.findings


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Home:
    plan = LogPlan((Algorithm.ED25519, Algorithm.ML_DSA_44))
    place = tmp_path_factory.mktemp("both") / "home"
    return create_home(place, "Later Newsroom", "http://localhost:8461/ocsp/", now(), plan)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[postgres.Server]:
    with postgres.running(tmp_path_factory.mktemp("postgres")) as server:
        yield server


class TestRotation:
    def test_checkpoints_from_before_during_and_after_open_with_the_published_keys(
        self, fresh_home: Home
    ) -> None:
        notes = [newest(fresh_home.own)]
        begun = fresh_home.own.begin_rotation(now())
        record(begun, "during")
        notes.append(newest(begun))
        ended = begun.end_rotation(now())
        record(ended, "after")
        notes.append(newest(ended))
        keys = published(fresh_home)
        sizes = [opens(note, *keys).size for note in notes]
        assert len(keys) == 2
        assert sizes == sorted(set(sizes))
        require_sound(fresh_home)

    def test_each_key_alone_opens_exactly_what_it_signed(self, fresh_home: Home) -> None:
        before = newest(fresh_home.own)
        begun = fresh_home.own.begin_rotation(now())
        announced = newest(begun)
        record(begun, "during")
        during = newest(begun)
        ended = begun.end_rotation(now())
        retired = newest(ended)
        record(ended, "after")
        after = newest(ended)
        old, new = published(fresh_home)
        for note in (before, announced, during, retired):
            assert opens(note, old)
        for note in (during, retired, after):
            assert opens(note, new)
        with pytest.raises(NoteSignatureError):
            opens(after, old)
        for note in (before, announced):
            with pytest.raises(NoteSignatureError):
                opens(note, new)

    def test_a_receipt_from_before_still_checks_after(self, fresh_home: Home) -> None:
        with fresh_home.ledger_to_read() as ledger:
            receipt = ledger.prove(2)
        fresh_home.own.begin_rotation(now()).end_rotation(now())
        assert receipt.check(published(fresh_home), verify_note).size == 6

    def test_what_was_opened_before_a_rotation_still_records_after_it_began(self, fresh_home: Home) -> None:
        fresh_home.own.begin_rotation(now())
        index = record(fresh_home.own, "by a process that was started before")
        assert opens(newest(fresh_home.own), published(fresh_home)[0]).size == index + 1
        require_sound(fresh_home)

    def test_a_server_that_outlives_a_rotation_goes_on_with_the_new_key(self, fresh_home: Home) -> None:
        own = fresh_home.own
        sign = own.signer()
        with own.writer() as ledger:
            begun = own.begin_rotation(now())
            ledger.append([own.own_record(Kind.POLICY, {"change": "both"})], now(), sign)
            both = ledger.checkpoint().encode()
            ended = begun.end_rotation(now())
            record(ended, "by somebody who knows the new key alone")
            ledger.append([own.own_record(Kind.POLICY, {"change": "new"})], now(), sign)
            after = ledger.checkpoint().encode()
        old, new = published(fresh_home)
        assert opens(both, old) == opens(both, new)
        assert opens(after, new)
        with pytest.raises(NoteSignatureError):
            opens(after, old)
        require_sound(fresh_home)

    def test_a_second_beginning_and_an_end_without_beginning_change_nothing(self, fresh_home: Home) -> None:
        about = (fresh_home.path / "ledger.json").read_bytes()
        with pytest.raises(RotationError):
            fresh_home.own.end_rotation(now())
        assert (fresh_home.path / "ledger.json").read_bytes() == about
        begun = fresh_home.own.begin_rotation(now())
        note = newest(begun)
        with pytest.raises(RotationError):
            begun.begin_rotation(now())
        assert newest(begun) == note
        assert len(list((fresh_home.path / "keys").glob("log-*.pem"))) == 2

    def test_it_can_be_done_twice(self, fresh_home: Home) -> None:
        own = fresh_home.own
        for _ in range(2):
            own = own.begin_rotation(now()).end_rotation(now())
        assert own == reopened(fresh_home)
        assert len(published(fresh_home)) == 3
        assert own.signing == published(fresh_home)[-1:]
        require_sound(fresh_home)

    @pytest.mark.parametrize("kept", [["ledger.json", "log.vkey"], ["ledger.json"]])
    def test_a_beginning_that_was_interrupted_is_done_again(self, fresh_home: Home, kept: list[str]) -> None:
        # The entry is there; then came the crash, before one file was replaced or between the two.
        old = {name: (fresh_home.path / name).read_bytes() for name in kept}
        fresh_home.own.begin_rotation(now())
        for name, content in old.items():
            (fresh_home.path / name).write_bytes(content)
        own = reopened(fresh_home)
        assert own.signing == fresh_home.own.signing
        own = own.begin_rotation(now()).end_rotation(now())
        record(own, "after")
        assert opens(newest(own), own.newest)
        assert published(fresh_home) == own.keys
        require_sound(fresh_home)

    @pytest.mark.parametrize("kept", [["ledger.json", "log.vkey"], ["ledger.json"]])
    def test_an_end_that_was_interrupted_is_done_again(self, fresh_home: Home, kept: list[str]) -> None:
        begun = fresh_home.own.begin_rotation(now())
        old = {name: (fresh_home.path / name).read_bytes() for name in kept}
        begun.end_rotation(now())
        for name, content in old.items():
            (fresh_home.path / name).write_bytes(content)
        own = reopened(fresh_home)
        record(own, "both still sign")
        assert opens(newest(own), own.keys[0])
        own = own.end_rotation(now())
        record(own, "after")
        with pytest.raises(NoteSignatureError):
            opens(newest(own), own.keys[0])
        require_sound(fresh_home)

    def test_a_key_whose_entry_was_never_written_signs_nothing(self, fresh_home: Home) -> None:
        # The first step alone: a key file that nobody announced.
        stray = fresh_home.path / "keys" / "log-00000000.pem"
        shutil.copy(next((fresh_home.path / "keys").glob("log-*.pem")), stray)
        own = reopened(fresh_home).begin_rotation(now())
        assert "00000000" not in {key.key_id.hex() for key in own.keys}
        require_sound(fresh_home)

    def test_a_frozen_log_gets_no_new_key(self, fresh_home: Home) -> None:
        fresh_home.own.freeze("the end", now())
        about = (fresh_home.path / "ledger.json").read_bytes()
        with pytest.raises(LedgerFrozenError):
            fresh_home.own.begin_rotation(now())
        assert (fresh_home.path / "ledger.json").read_bytes() == about
        assert len(list((fresh_home.path / "keys").glob("log-*.pem"))) == 1
        require_sound(fresh_home)


class TestTwoAlgorithms:
    def test_every_checkpoint_opens_with_either_key(self, both: Home) -> None:
        ed25519, ml_dsa = published(both)
        assert (ed25519.algorithm, ml_dsa.algorithm) == (Algorithm.ED25519, Algorithm.ML_DSA_44)
        note = newest(both.own)
        assert opens(note, ed25519) == opens(note, ml_dsa)
        require_sound(both)

    def test_a_reader_that_knows_ed25519_only_reads_past_the_other_line(self, both: Home) -> None:
        # As x/mod's sumdb/note does: lines by name and key hash, unknown ones left out.
        text, _, lines = newest(both.own).decode().partition("\n\n")
        (key, _) = published(both)
        verified = 0
        for line in lines.splitlines():
            dash, name, encoded = line.split(" ")
            signature = base64.b64decode(encoded, validate=True)
            assert (dash, name) == ("—", key.name)
            if signature[:4] == key.key_id:
                assert verify_note(key.public, signature[4:], f"{text}\n".encode())
                verified += 1
        assert verified == 1
        assert len(lines.splitlines()) == 2

    def test_neither_signature_stands_in_for_the_other(self, both: Home) -> None:
        note = newest(both.own).decode()
        text, _, lines = note.partition("\n\n")
        first, second = lines.splitlines(keepends=True)
        ed25519, ml_dsa = published(both)
        assert opens(f"{text}\n\n{first}".encode(), ed25519)
        with pytest.raises(NoteSignatureError):
            opens(f"{text}\n\n{first}".encode(), ml_dsa)
        with pytest.raises(NoteSignatureError):
            opens(f"{text}\n\n{second}".encode(), ed25519)

    def test_a_rotation_leaves_the_ml_dsa_key_signing(self, tmp_path: Path) -> None:
        plan = LogPlan((Algorithm.ED25519, Algorithm.ML_DSA_44))
        made = create_home(tmp_path / "home", "Later", "http://localhost:8461/ocsp/", now(), plan)
        own = made.own.begin_rotation(now()).end_rotation(now())
        record(own, "after")
        old, ml_dsa, new = published(made)
        note = newest(own)
        assert opens(note, ml_dsa) == opens(note, new)
        with pytest.raises(NoteSignatureError):
            opens(note, old)
        require_sound(made)


class TestWhatItIsMadeOf:
    @pytest.mark.parametrize(
        "content",
        [
            b"",
            b"\xff",
            b"[]",
            b"null",
            b"[" * 100_000,
            b'{"schema": "lightseal-ledger/2"}',
            b'{"schema": "lightseal-ledger/1"}',
            b'{"schema": "lightseal-ledger/1", "keys": [], "signing": [], "database": null, "guard": null}',
            b'{"schema": "lightseal-ledger/1", "keys": [7], "signing": [7], "database": null, "guard": null}',
            b'{"schema": "lightseal-ledger/1", "keys": [null], "signing": [], "database": null, "guard": null}',
        ],
    )
    def test_a_file_that_is_none_is_named_as_damage(self, tmp_path: Path, content: bytes) -> None:
        with pytest.raises(HomeDamagedError):
            OwnLog.open(tmp_path, content)

    def test_keys_that_do_not_belong_together_are_refused(self, home: Home, tmp_path: Path) -> None:
        about = json.loads((home.path / "ledger.json").read_bytes())
        own = home.own.newest
        other = str(VerifierKey("elsewhere.example/log", own.public))
        for change in (
            {"keys": [str(own), other]},
            {"signing": []},
            {"signing": [other]},
            {"database": 7},
            {"guard": ["x"]},
        ):
            with pytest.raises(HomeDamagedError):
                OwnLog.open(tmp_path, json.dumps({**about, **change}).encode())
        assert OwnLog.open(home.path, json.dumps(about).encode()) == home.own

    def test_what_was_saved_is_what_is_opened(self, fresh_home: Home) -> None:
        fresh_home.own.begin_rotation(now()).end_rotation(now())
        own = reopened(fresh_home)
        own.save()
        assert reopened(fresh_home) == own

    def test_a_key_file_under_another_keys_name_signs_nothing(self, fresh_home: Home) -> None:
        begun = fresh_home.own.begin_rotation(now())
        old, new = (fresh_home.path / "keys" / f"log-{key.key_id.hex()}.pem" for key in begun.keys)
        shutil.copy(old, new)
        with pytest.raises(HomeDamagedError):
            begun.signer()

    def test_without_its_key_file_nothing_is_recorded(self, fresh_home: Home) -> None:
        note = newest(fresh_home.own)
        for path in (fresh_home.path / "keys").glob("log-*.pem"):
            path.unlink()
        with pytest.raises(KeyFileError):
            record(fresh_home.own, "nothing")
        assert newest(fresh_home.own) == note

    def test_the_files_of_its_keys_are_for_their_owner_alone(self, fresh_home: Home) -> None:
        fresh_home.own.begin_rotation(now())
        paths = [*(fresh_home.path / "keys").iterdir(), fresh_home.own.guard_path]
        assert len(paths) >= 7
        assert {path.stat().st_mode & 0o777 for path in paths} == {0o600}

    def test_a_guard_elsewhere_is_asked_there(self, tmp_path: Path) -> None:
        plan = LogPlan(guard=str(tmp_path / "elsewhere.guard"))
        made = create_home(tmp_path / "home", "Guarded", "http://localhost:8461/ocsp/", now(), plan)
        old = (made.path / "ledger.db").read_bytes()
        record(made.own, "more")
        assert not (made.path / "ledger.guard").exists()
        (made.path / "ledger.db").write_bytes(old)
        for rest in made.path.glob("ledger.db-*"):
            rest.unlink()
        with pytest.raises(RolledBackError):
            record(made.own, "even more")


@pytest.mark.skipif(
    postgres.programs() is None,
    reason="NOT CHECKED against PostgreSQL; install it: apt-get install -y postgresql",
)
class TestOnPostgres:
    def test_a_home_signs_verifies_audits_and_backs_up(
        self, server: postgres.Server, tmp_path: Path, own_samples: Path, lightseal: Command
    ) -> None:
        place = tmp_path / "home"
        made = lightseal("--home", place, "init", "--ledger", server.create("newsroom"))
        assert made.returncode == 0, made.stderr
        home = open_home(place)
        assert not (place / "ledger.db").exists()
        enrol(home, "cam", "Test Camera", now())
        (line,) = sign_files(home, [own_samples / "hills.jpg"], tmp_path / "out", "cam", now, timed=True)
        assert isinstance(line, str), line
        checked = lightseal("verify", tmp_path / "out" / "hills.jpg", home=home)
        assert checked.returncode == 0, checked.stdout
        assert "INTACT_SIGNER_RECOGNISED" in checked.stdout
        assert "its inclusion was proven" in checked.stdout
        require_sound(home)
        kept = lightseal("ledger", "backup", tmp_path / "kept.zip", home=home)
        assert kept.returncode == 0, kept.stderr
        assert lightseal("ledger", "restore", "--check", tmp_path / "kept.zip", home=home).returncode == 0

    def test_a_database_with_anothers_ledger_is_refused(
        self, server: postgres.Server, tmp_path: Path
    ) -> None:
        url = server.create("taken")
        first = create_home(
            tmp_path / "a", "First", "http://localhost:8461/ocsp/", now(), LogPlan(database=url)
        )
        size = opens(newest(first.own), *first.own.keys).size
        with pytest.raises(storage.errors.LedgerForeignError):
            create_home(tmp_path / "b", "Second", "http://localhost:8461/ocsp/", now(), LogPlan(database=url))
        assert not (tmp_path / "b").exists()
        assert opens(newest(first.own), *first.own.keys).size == size

    def test_a_server_that_is_down_is_said_and_nothing_is_half_done(
        self, server: postgres.Server, tmp_path: Path, lightseal: Command
    ) -> None:
        plan = LogPlan(database=server.create("down"))
        home = create_home(tmp_path / "home", "Down", "http://localhost:8461/ocsp/", now(), plan)
        server.stop("fast")
        try:
            said = lightseal("device", "enrol", "cam", home=home)
            with pytest.raises(storage.errors.LedgerUnreachableError):
                home.audit()
        finally:
            server.start()
        assert said.returncode == 1, said.stdout
        assert "-unreachable]: " in said.stderr  # the registry lies in the same server, and is asked first
        assert len(said.stderr.splitlines()) == 2, said.stderr
        assert home.devices() == ()
        enrol(home, "cam", "Test Camera", now())
        require_sound(home)


class TestPartsOfAnother:
    """Parts put back from an older copy, or from another home: each belongs to one state of one log."""

    def test_the_keyring_of_another_home_neither_seals_nor_erases(
        self, fresh_home: Home, tmp_path: Path
    ) -> None:
        """The flaw it would catch: payloads sealed under keys that leave with the wrong file."""
        other = create_home(tmp_path / "other", "Other", "http://localhost:1/ocsp/", now())
        mine = fresh_home.own.keyring_path.read_bytes()
        fresh_home.own.keyring_path.write_bytes(other.own.keyring_path.read_bytes())
        for attempt in (
            lambda: record(fresh_home.own, "lost"),
            lambda: fresh_home.own.erase(5, now()),
            fresh_home.own.reader,
        ):
            with pytest.raises(KeyringOtherError):
                attempt()
        fresh_home.own.keyring_path.write_bytes(mine)
        require_sound(fresh_home)

    def test_an_older_list_of_keys_does_not_sign(self, fresh_home: Home) -> None:
        """The flaw it would catch: a retired key that signs alone, since a copy of ledger.json says so."""
        files = {name: (fresh_home.path / name).read_bytes() for name in ("ledger.json", "log.vkey")}
        fresh_home.own.begin_rotation(now())
        record(reopened(fresh_home), "both sign")
        reopened(fresh_home).end_rotation(now())
        for name, content in files.items():
            (fresh_home.path / name).write_bytes(content)
        size = reopened(fresh_home).audit().size
        with pytest.raises((HomeDamagedError, storage.errors.Error)):
            record(reopened(fresh_home), "by the old key")
        assert reopened(fresh_home).audit().size == size
