import os
import shutil
import signal
import sys
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import pytest

from authn.keys import LogKey, generate_ed25519
from storage.entry import Kind
from storage.note import Algorithm, VerifierKey
from tools.cli import main
from tools.home import Home, open_home
from tools.signing import sign_files

OUTDATED = Path(__file__).with_name("vectors") / "home-0001.tar.gz"


def now() -> datetime:
    return datetime.now(UTC)


@dataclass(frozen=True)
class Said:
    """How a command ended, and what it printed."""

    status: int
    out: str
    err: str


Command = Callable[..., Said]


@pytest.fixture
def command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> Iterator[Command]:
    """The command from its first line on, in this process; `home` is any home or none."""
    monkeypatch.setenv("HOME", str(tmp_path / "nobody"))
    monkeypatch.delenv("LIGHTSEAL_HOME", raising=False)
    monkeypatch.delenv("XDG_DATA_HOME", raising=False)
    before = signal.getsignal(signal.SIGTERM)

    def run(*arguments: object, home: Path | None = None) -> Said:
        chosen = [] if home is None else ["--home", str(home)]
        monkeypatch.setattr(sys, "argv", ["lightseal", *chosen, *map(str, arguments)])
        capsys.readouterr()
        status: object = 0
        try:
            main()
        except SystemExit as ended:
            status = ended.code or 0
        assert isinstance(status, int)
        out, err = capsys.readouterr()
        return Said(status, out, err)

    yield run
    signal.signal(signal.SIGTERM, before)


def require_error(said: Said, code: str, status: int = 1) -> None:
    """One sentence with its code, one line with what to do, and nothing else."""
    assert said.status == status, said
    assert len(said.err.splitlines()) == 2, said.err
    what, remedy = said.err.splitlines()
    assert what.startswith(f"error[{code}]: "), what
    assert remedy.startswith("  next: ")
    assert "Traceback" not in said.err
    assert said.out == ""


@pytest.fixture
def picture(fresh_home: Home, own_samples: Path, tmp_path: Path) -> Path:
    """A picture signed in the fresh home, as entries 6 and 7; its receipt lies beside it."""
    (line,) = sign_files(fresh_home, [own_samples / "hills.jpg"], tmp_path / "out", "cam", now, timed=True)
    assert isinstance(line, str), line
    return tmp_path / "out" / "hills.jpg"


def everything(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


class TestRotation:
    def test_receipts_of_every_stage_check_with_the_published_keys(
        self, command: Command, fresh_home: Home, tmp_path: Path
    ) -> None:
        place = fresh_home.path
        (tmp_path / "before").write_text(command("ledger", "prove", 0, home=place).out)
        assert "Both keys sign." in command("ledger", "rotate-key", home=place).out
        (tmp_path / "announced").write_text(command("ledger", "prove", 6, home=place).out)
        fresh_home = open_home(place)
        fresh_home.own.record(Kind.POLICY, {"change": "during"}, now())
        (tmp_path / "during").write_text(command("ledger", "prove", 7, home=place).out)
        ended = command("ledger", "rotate-key", "--finish", home=place)
        assert ended.out.startswith("The new key signs alone.\n")
        assert (ended.out.count("retired"), ended.out.count("signs  ")) == (1, 1)
        open_home(place).own.record(Kind.POLICY, {"change": "after"}, now())
        (tmp_path / "after").write_text(command("ledger", "prove", 9, home=place).out)
        published = (place / "log.vkey").read_text()
        old, new = published.split()
        held = {}
        for stage in ("before", "announced", "during", "after"):
            statuses = [
                command("ledger", "check", tmp_path / stage, "--log-key", key).status
                for key in (published, old, new)
            ]
            held[stage] = statuses
        assert held == {
            "before": [0, 0, 15],
            "announced": [0, 0, 15],
            "during": [0, 0, 0],
            "after": [0, 15, 0],
        }
        assert command("ledger", "audit", home=place).status == 0

    def test_what_cannot_be_rotated_is_said(self, command: Command, fresh_home: Home) -> None:
        require_error(
            command("ledger", "rotate-key", "--finish", home=fresh_home.path), "rotation-impossible"
        )
        assert command("ledger", "rotate-key", home=fresh_home.path).status == 0
        require_error(command("ledger", "rotate-key", home=fresh_home.path), "rotation-impossible")


class TestFreezing:
    def test_it_must_be_meant(self, command: Command, fresh_home: Home) -> None:
        before = everything(fresh_home.path)
        require_error(command("ledger", "freeze", "--reason", "x", home=fresh_home.path), "usage", 2)
        assert everything(fresh_home.path) == before

    def test_nothing_is_recorded_any_more_and_nothing_is_half_done(
        self, command: Command, fresh_home: Home, own_samples: Path, tmp_path: Path
    ) -> None:
        place = fresh_home.path
        frozen = command("ledger", "freeze", "--reason", "moved", "--yes", home=place)
        assert frozen.status == 0, frozen.err
        assert "entry 6 is the last" in frozen.out
        before = everything(place)
        require_error(command("device", "enrol", "late", home=place), "ledger-unavailable")
        require_error(
            command("trust", "add", place / "trust" / "signers.pem", "--name", "late", home=place),
            "ledger-frozen",
        )
        for arguments in (["rotate-key"], ["freeze", "--reason", "again", "--yes"]):
            require_error(command("ledger", *arguments, home=place), "ledger-frozen")
        out = tmp_path / "out"
        signing = command("sign", own_samples / "hills.jpg", "--device", "cam", "--out", out, home=place)
        require_error(signing, "ledger-frozen")
        assert not out.exists() or list(out.iterdir()) == []
        after = everything(place)
        # What was begun and not logged is forgotten when the authority starts again; a serial may be skipped.
        aside = (".db-", ".pending.json", "time-stamping.serials")
        changed = after.keys() ^ before.keys()
        assert {name for name in changed if not any(part in name for part in aside)} == set()
        assert {name: after[name] for name in before if ".db" not in name} == {
            name: content for name, content in before.items() if ".db" not in name
        }

    def test_proofs_go_on(self, command: Command, fresh_home: Home, picture: Path) -> None:
        place = fresh_home.path
        assert command("ledger", "freeze", "--reason", "moved", "--yes", home=place).status == 0
        picture.with_name("now").write_text(command("ledger", "prove", 6, home=place).out)
        for receipt in (picture.with_name("hills.jpg.receipt"), picture.with_name("now")):
            checked = command("ledger", "check", receipt, "--log-key", fresh_home.log, "--media", picture)
            assert checked.status == 0, checked
        assert command("ledger", "audit", home=place).status == 0
        verified = command("verify", picture, home=place)
        assert verified.status == 0, verified

    def test_it_still_forgets_and_says_that_no_entry_tells_of_it(
        self, command: Command, fresh_home: Home
    ) -> None:
        place = fresh_home.path
        assert command("ledger", "freeze", "--reason", "moved", "--yes", home=place).status == 0
        erased = command("ledger", "erase", 3, home=place)
        assert erased.status == 0, erased.err
        assert "no entry says so" in erased.out
        assert command("ledger", "show", 3, home=place).out.splitlines()[1] == "erased"
        assert command("ledger", "audit", home=place).status == 0
        require_error(command("ledger", "erase", 6, home=place), "entry-unerasable")

    def test_its_successor_begins_with_its_last_checkpoint(
        self, command: Command, fresh_home: Home, tmp_path: Path
    ) -> None:
        assert command("ledger", "freeze", "--reason", "moved", "--yes", home=fresh_home.path).status == 0
        last = command("ledger", "checkpoint", home=fresh_home.path).out
        (tmp_path / "last").write_text(last)
        begun = command("init", "--after", tmp_path / "last", home=tmp_path / "next")
        assert begun.status == 0, begun.err
        first = open_home(tmp_path / "next")
        with first.ledger_to_read() as ledger:
            receipt = ledger.prove(0)
        assert receipt.entry.kind is Kind.POLICY
        shown = command("ledger", "show", 0, home=tmp_path / "next").out
        assert '"change":"follow"' in shown
        assert last.splitlines()[2] in shown  # the root
        assert first.log.name != fresh_home.log.name
        assert command("ledger", "audit", home=tmp_path / "next").status == 0

    @pytest.mark.parametrize(
        "content", [b"", b"nonsense\n", b"\xff\xfe", b"a\n1\nAAAA\n\n", b"x" * (2 << 20)]
    )
    def test_a_predecessor_that_is_no_checkpoint_begins_nothing(
        self, command: Command, tmp_path: Path, content: bytes
    ) -> None:
        (tmp_path / "last").write_bytes(content)
        said = command("init", "--after", tmp_path / "last", home=tmp_path / "next")
        assert said.status in (1, 2), said
        assert said.err.startswith("error["), said.err
        assert len(said.err.splitlines()) == 2
        assert [path.name for path in tmp_path.iterdir()] == ["last"]

    def test_a_signed_note_that_is_no_checkpoint_begins_nothing(
        self, command: Command, fresh_home: Home, tmp_path: Path
    ) -> None:
        last = command("ledger", "checkpoint", home=fresh_home.path).out
        (tmp_path / "last").write_text(last.replace("\n6\n", "\nsix\n", 1))
        require_error(
            command("init", "--after", tmp_path / "last", home=tmp_path / "next"), "checkpoint-malformed"
        )
        assert not (tmp_path / "next").exists()

    def test_a_predecessor_that_cannot_be_read_is_said(self, command: Command, tmp_path: Path) -> None:
        require_error(
            command("init", "--after", tmp_path / "nothing", home=tmp_path / "next"), "file-unreadable"
        )
        assert list(tmp_path.iterdir()) == []


class TestErasing:
    def test_the_file_is_not_called_conflicting_and_its_receipt_still_checks(
        self, command: Command, fresh_home: Home, picture: Path
    ) -> None:
        place, receipt = fresh_home.path, picture.with_name("hills.jpg.receipt")
        before = command("verify", picture, home=place)
        assert "its inclusion was proven" in before.out
        erased = command("ledger", "erase", 6, home=place)
        assert erased.status == 0, erased.err
        assert "entry 8 says so" in erased.out
        verified = command("verify", picture, home=place)
        assert verified.status == 0, verified
        assert "INTACT_SIGNER_RECOGNISED" in verified.out
        assert "conflict" not in verified.out.lower()
        assert "its inclusion was proven" not in verified.out
        checked = command("ledger", "check", receipt, "--log-key", fresh_home.log, "--media", picture)
        assert checked.status == 0, checked
        with_receipt = command("verify", picture, "--receipt", receipt, home=place)
        assert with_receipt.status == 0
        assert "its inclusion was proven" in with_receipt.out
        assert command("ledger", "audit", home=place).status == 0

    def test_what_is_left_of_an_entry_is_shown_and_proven(
        self, command: Command, fresh_home: Home, picture: Path
    ) -> None:
        place = fresh_home.path
        proof = command("ledger", "prove", 6, "--format", "proof", home=place).out
        assert proof.startswith("c2sp.org/tlog-proof@v1\nindex 6\n")
        command("ledger", "erase", 6, home=place)
        body, what = command("ledger", "show", 6, home=place).out.splitlines()
        assert body.startswith('{"commit":"')
        assert what == "erased"
        require_error(command("ledger", "prove", 6, home=place), "entry-erased")
        require_error(command("ledger", "prove", 6, "--format", "cose", home=place), "entry-erased")
        assert command("ledger", "prove", 6, "--format", "proof", home=place).status == 0
        assert picture.exists()

    def test_what_cannot_be_erased_is_said(self, command: Command, fresh_home: Home) -> None:
        place = fresh_home.path
        assert command("ledger", "erase", 3, home=place).status == 0
        again = command("ledger", "erase", 3, home=place)
        assert again.status == 0
        assert again.out.endswith("it had been erased before.\n")
        require_error(command("ledger", "erase", 6, home=place), "entry-unerasable")
        require_error(command("ledger", "erase", 10**9, home=place), "entry-unknown")
        require_error(command("ledger", "erase", 2**70, home=place), "entry-unknown")


class TestBackups:
    def test_a_ledger_that_was_lost_comes_back(
        self, command: Command, fresh_home: Home, tmp_path: Path
    ) -> None:
        place, kept = fresh_home.path, tmp_path / "kept"
        receipt = command("ledger", "prove", 2, home=place).out
        made = command("ledger", "backup", kept, home=place)
        assert made.status == 0, made.err
        require_error(command("ledger", "backup", kept, home=place), "backup-exists")
        require_error(command("ledger", "restore", kept, home=place), "ledger-exists")
        for path in place.glob("ledger.db*"):
            path.unlink()
        require_error(command("ledger", "checkpoint", home=place), "ledger-missing")
        checked = command("ledger", "restore", "--check", kept, home=place)
        assert checked.out.endswith("The backup holds; nothing was written.\n")
        require_error(command("ledger", "checkpoint", home=place), "ledger-missing")
        restored = command("ledger", "restore", kept, home=place)
        assert restored.out.endswith("Restored, and audited: nothing diverges.\n"), restored.err
        assert command("ledger", "prove", 2, home=place).out == receipt
        assert command("ledger", "audit", home=place).status == 0

    def test_an_older_one_is_named_as_that(self, command: Command, fresh_home: Home, tmp_path: Path) -> None:
        place, kept = fresh_home.path, tmp_path / "kept"
        command("ledger", "backup", kept, home=place)
        command("device", "enrol", "after", home=place)
        for path in place.glob("ledger.db*"):
            path.unlink()
        require_error(command("ledger", "restore", "--check", kept, home=place), "backup-old")
        require_error(command("ledger", "restore", kept, home=place), "backup-old")

    def test_what_is_no_backup_is_refused(self, command: Command, home: Home, tmp_path: Path) -> None:
        os.mkfifo(tmp_path / "pipe")
        (tmp_path / "bad").write_bytes(b"PK\x05\x06" + bytes(18))
        for name in ("pipe", "bad", "nothing", "."):
            said = command("ledger", "restore", "--check", tmp_path / name, home=home.path)
            assert said.status == 1
            assert said.err.startswith("error[backup-"), said.err


class TestAskedWrongly:
    @pytest.mark.parametrize(
        ("arguments", "code", "status"),
        [
            (["audit", "--url", "http://127.0.0.1/"], "usage", 2),
            (["audit", "--url", "nonsense", "--log-key", "nonsense"], "verifier-key-malformed", 1),
            (["audit", "--log-key", "nonsense"], "usage", 2),
            (["audit", "--opaque"], "usage", 2),
            (["watch", "--state", "state"], "usage", 2),
            (["watch", "--state", "state", "--key", "00" * 32, "--log-key", "nonsense"], "usage", 2),
            (["watch", "--state", "state", "--key", "zz"], "usage", 2),
            (["watch", "--state", "state", "--key", "00" * 31], "usage", 2),
            (["watch", "--state", "state", "--device", "nobody"], "device-unknown", 1),
            (["watch", "--state", "state", "--url", "http://127.0.0.1/", "--key", "00" * 32], "usage", 2),
            (["writer", "../x"], "usage", 2),
            (["writer", "nobody", "--remove"], "usage", 2),
            (["show", "1000000000"], "entry-unknown", 1),
            (["prove", "1000000000"], "entry-unknown", 1),
            (["prove", "1000000000", "--format", "cose"], "entry-unknown", 1),
            (["checkpoint", "--witnessed"], "ledger-not-witnessed", 1),
            (["cosign", "--witnesses", "none.policy"], "usage", 2),
            (["cosign", "--witnesses", "bad.policy"], "policy-malformed", 1),
            (["cosign", "--witnesses", "binary.policy"], "file-unreadable", 1),
            (["cosign", "--witnesses", "nothing.policy"], "file-unreadable", 1),
            (["cosign", "--witnesses", "other.policy"], "policy-other-log", 1),
            (["serve", "--port", "0", "--witnesses", "bad.policy"], "policy-malformed", 1),
            (["serve", "--port", "0", "--witnesses", "none.policy"], "usage", 2),
            (["serve", "--port", "0", "--witnesses", "other.policy"], "policy-other-log", 1),
            (["check", "nothing", "--log-key", "nonsense"], "verifier-key-malformed", 1),
        ],
    )
    def test_each_mistake_is_one_sentence_and_one_remedy(
        self,
        command: Command,
        home: Home,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        arguments: list[str],
        code: str,
        status: int,
    ) -> None:
        monkeypatch.chdir(tmp_path)
        (tmp_path / "none.policy").write_text("quorum none\n")
        (tmp_path / "bad.policy").write_text("quorum nobody\n")
        (tmp_path / "binary.policy").write_bytes(b"\xff\xfe")
        log = VerifierKey("elsewhere.example/log", LogKey(generate_ed25519()).public)
        witness = VerifierKey("w.example", LogKey(generate_ed25519()).public, Algorithm.COSIGNATURE_ED25519)
        (tmp_path / "other.policy").write_text(f"log {log}\nwitness w {witness}\nquorum w\n")
        require_error(command("ledger", *arguments, home=home.path), code, status)
        assert not (tmp_path / "state").exists()

    @pytest.mark.parametrize(
        "arguments",
        [["checkpoint"], ["audit"], ["rotate-key"], ["backup", "x"], ["migrate"], ["serve", "--port", "0"]],
    )
    def test_without_a_home_it_says_so(self, command: Command, tmp_path: Path, arguments: list[str]) -> None:
        require_error(command("ledger", *arguments, home=tmp_path / "nothing"), "home-missing")
        assert list(tmp_path.iterdir()) == []

    @pytest.mark.parametrize(
        "url",
        [
            "postgresql://user:hunter2@127.0.0.1/db",
            "postgresql://127.0.0.1/db?password=hunter2",
            "postgresql:///db?host=/tmp&password=hunter2",
            "mysql://user:hunter2@127.0.0.1/db",
            "hunter2",
        ],
    )
    def test_a_database_with_a_password_is_refused_and_not_repeated(
        self, command: Command, tmp_path: Path, url: str
    ) -> None:
        said = command("init", "--ledger", url, home=tmp_path / "home")
        assert said.err.startswith(("error[ledger-address]: ", "error[ledger-missing]: ")), said
        assert (said.status, said.out, len(said.err.splitlines())) == (1, "", 2)
        assert "hunter2" not in said.err
        assert list(tmp_path.iterdir()) == []


class TestChecking:
    def test_media_that_is_not_there_is_an_error_and_no_verdict_on_the_receipt(
        self, command: Command, fresh_home: Home, picture: Path, tmp_path: Path
    ) -> None:
        receipt = picture.with_name("hills.jpg.receipt")
        asked = ["ledger", "check", receipt, "--log-key", fresh_home.log, "--media"]
        require_error(command(*asked, tmp_path / "nothing.jpg"), "file-unreadable")
        require_error(command(*asked, tmp_path), "not-a-file")
        assert command(*asked, picture).status == 0

    def test_a_cose_receipt_is_checked_with_the_body_of_its_entry(
        self, command: Command, fresh_home: Home, tmp_path: Path
    ) -> None:
        place, key = fresh_home.path, fresh_home.log
        cose, body, other = (tmp_path / name for name in ("cose", "body", "other"))
        cose.write_text(command("ledger", "prove", 2, "--format", "cose", home=place).out)
        body.write_text(command("ledger", "show", 2, home=place).out.splitlines()[0])
        other.write_text(command("ledger", "show", 3, home=place).out.splitlines()[0] + "\n")
        asked = ["ledger", "check", cose, "--format", "cose", "--log-key"]
        said = command(*asked, key, "--entry", body)
        assert said.status == 0, said
        assert said.out.splitlines()[0].startswith(f"recorded       in the tree of {key.name} with the root ")
        assert "index          2 in a tree of 6, by the word of whoever made the receipt" in said.out
        assert "others may be shown another log" in said.out
        # Another entry, and another key of the same name.
        for wrong in (
            command(*asked, key, "--entry", other),
            command(*asked, VerifierKey(key.name, LogKey(generate_ed25519()).public), "--entry", body),
        ):
            assert wrong.status == 15, wrong
            assert wrong.out.startswith("does not hold  ")
            assert "(note-unverified)" in wrong.out
        # One of two keys of a rotated log.
        rotated = f"{VerifierKey(key.name, LogKey(generate_ed25519()).public)} {key}"
        assert command(*asked, rotated, "--entry", body).status == 0
        for broken in (b"", b"!", b"AAAA", cose.read_bytes()[:-5], b"\xff" * 9, b"A" * 99_999):
            (tmp_path / "broken").write_bytes(broken)
            refused = command(
                "ledger", "check", tmp_path / "broken", "--format", "cose", "--log-key", key, "--entry", body
            )
            assert refused.status in (1, 2), refused
            assert refused.err.startswith("error["), refused
        require_error(command(*asked, key, "--entry", cose), "entry-malformed")
        require_error(command(*asked, key), "usage", 2)
        require_error(command(*asked, key, "--entry", body, "--media", body), "usage", 2)
        require_error(command("ledger", "check", cose, "--log-key", key, "--entry", body), "usage", 2)


class TestOutdated:
    @pytest.fixture
    def old(self, tmp_path: Path) -> Path:
        with tarfile.open(OUTDATED) as archive:
            archive.extractall(tmp_path, filter="tar")
        return tmp_path / "home"

    def test_every_command_says_so_until_it_is_migrated(
        self, command: Command, old: Path, tmp_path: Path
    ) -> None:
        signed = tmp_path / "signed" / "first.png"
        commands: list[list[object]] = [
            ["init"],
            ["device", "list"],
            ["device", "enrol", "third"],
            ["sign", signed],
            ["verify", signed],
            ["trust", "list"],
            ["batch", tmp_path / "signed", "--run", "x", "--workers", "1"],
            ["ledger", "checkpoint"],
            ["ledger", "prove", "0"],
            ["ledger", "audit"],
            ["ledger", "erase", "0"],
            ["ledger", "rotate-key"],
            ["ledger", "backup", tmp_path / "kept"],
            ["ledger", "serve", "--port", "0"],
            ["ledger", "freeze", "--reason", "x", "--yes"],
        ]
        before = everything(old)
        for arguments in commands:
            require_error(command(*arguments, home=old), "home-outdated")
        assert everything(old) == before
        done = command("ledger", "migrate", home=old)
        assert done.out.startswith("Migrated from revision 0001 to "), done.err
        verified = command("verify", signed, "--at", "2026-11-26T00:00:00Z", home=old)
        assert "INTACT_SIGNER_RECOGNISED" in verified.out, verified
        assert "its inclusion was proven" in verified.out
        receipt = tmp_path / "signed" / "first.png.receipt"
        key = (old / "log.vkey").read_text()
        assert command("ledger", "check", receipt, "--log-key", key, "--media", signed).status == 0
        assert command("ledger", "audit", home=old).status == 0
        assert "already" in command("ledger", "migrate", home=old).out

    def test_doctor_tells_it_too(self, command: Command, old: Path) -> None:
        said = command("doctor", home=old)
        assert said.status == 0, said
        assert "ledger migrate" in said.out


def test_a_post_quantum_home_checks_by_either_key(command: Command, tmp_path: Path) -> None:
    place = tmp_path / "home"
    assert command("init", "--ml-dsa", home=place).status == 0
    (tmp_path / "a.receipt").write_text(command("ledger", "prove", 0, home=place).out)
    keys = (place / "log.vkey").read_text().split()
    assert len(keys) == 2
    for key in (*keys, "\n".join(keys)):
        checked = command("ledger", "check", tmp_path / "a.receipt", "--log-key", key)
        assert checked.status == 0, checked
    assert command("ledger", "audit", home=place).status == 0


def test_a_home_that_could_not_be_made_leaves_no_guard_behind(command: Command, tmp_path: Path) -> None:
    url = f"postgresql:///ledger?host={tmp_path / 'nobody'}"
    said = command("init", "--ledger", url, "--guard", tmp_path / "far.guard", home=tmp_path / "home")
    require_error(said, "ledger-unreachable")
    assert list(tmp_path.iterdir()) == []


def test_a_guard_is_made_where_it_was_asked_for(command: Command, tmp_path: Path) -> None:
    assert command("init", "--guard", tmp_path / "far.guard", home=tmp_path / "home").status == 0
    assert (tmp_path / "far.guard").stat().st_mode & 0o777 == 0o600
    shutil.rmtree(tmp_path / "home")
    # A new home never takes over another's guard.
    said = command("init", "--guard", tmp_path / "far.guard", home=tmp_path / "home")
    require_error(said, "guard-exists")
    assert not (tmp_path / "home").exists()


def test_a_writer_whose_name_is_refused_is_called_a_writer(command: Command, home: Home) -> None:
    said = command("ledger", "writer", "a b", home=home.path)
    require_error(said, "usage", 2)
    assert "a writer's name is" in said.err
    assert "run" not in said.err.splitlines()[0]


def test_a_reason_that_is_not_utf_8_is_a_usage_error_and_freezes_nothing(
    command: Command, fresh_home: Home
) -> None:
    said = command("ledger", "freeze", "--reason", os.fsdecode(b"\xff\xfe"), "--yes", home=fresh_home.path)
    require_error(said, "usage", 2)
    assert "not UTF-8" in said.err
    with fresh_home.ledger_to_read() as held:
        assert not held.frozen
