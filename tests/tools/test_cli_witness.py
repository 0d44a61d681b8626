import hashlib
import subprocess
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest

from authn.keys import LogKey, generate_ed25519, open_key, verify_note
from storage.checkpoint import Checkpoint, open_checkpoint
from storage.note import Algorithm, Note, VerifierKey, signed_note
from storage.policy import Policy
from storage.witness.memory import CosigningKey, Request, Witness
from tools.home import Home
from tools.witness_server import WitnessFolder

Command = Callable[..., "subprocess.CompletedProcess[str]"]


def require_said(run: "subprocess.CompletedProcess[str]", status: int, code: str) -> None:
    """One sentence with its code, one line with what to do, and nothing else."""
    assert run.returncode == status, (run.stdout, run.stderr)
    what, remedy = run.stderr.splitlines()
    assert what.startswith(f"error[{code}]: ")
    assert remedy.startswith("  next: ")
    assert run.stdout == ""


def test_what_it_prints_is_a_line_of_a_policy(lightseal: Command, tmp_path: Path) -> None:
    made = lightseal("witness", "create", tmp_path / "w", "--name", "w.example/witness")
    assert made.returncode == 0, made.stderr
    line = made.stdout.splitlines()[1].replace("NAME", "w").replace("URL", "https://w.example/")
    (witness,) = Policy.parse(f"{line}\nquorum w\n").witnesses
    assert witness.key == WitnessFolder.open(tmp_path / "w").key
    assert witness.key.algorithm is Algorithm.COSIGNATURE_ED25519


def test_one_is_never_made_over_something(lightseal: Command, tmp_path: Path) -> None:
    (tmp_path / "w").mkdir()
    require_said(
        lightseal("witness", "create", tmp_path / "w", "--name", "w.example/witness"), 1, "output-exists"
    )
    require_said(lightseal("witness", "create", tmp_path / "v", "--name", "two words"), 2, "usage")
    assert not (tmp_path / "v").exists()
    (tmp_path / "file").touch()
    refused = lightseal("witness", "create", tmp_path / "file" / "w", "--name", "w.example/witness")
    assert refused.returncode == 1
    assert refused.stderr.startswith("error[")


def test_a_log_key_that_is_none_is_refused_before_anything_is_served(
    lightseal: Command, tmp_path: Path
) -> None:
    folder = WitnessFolder.create(tmp_path / "w", "w.example/witness")
    for text in ("nonsense", str(folder.key)):
        run = lightseal("witness", "serve", folder.path, "--log", text, "--port", 0)
        require_said(run, 1, "verifier-key-malformed")


def test_a_witness_that_lost_its_memory_does_not_begin_anew(
    lightseal: Command, tmp_path: Path, home: Home
) -> None:
    folder = WitnessFolder.create(tmp_path / "w", "w.example/witness")
    for path in folder.path.glob("witness.db*"):
        if path.suffix == ".db":
            path.unlink()
    run = lightseal("witness", "serve", folder.path, "--log", home.log, "--port", 0)
    require_said(run, 1, "witness-lost")


def test_a_folder_that_holds_none_is_named(lightseal: Command, tmp_path: Path, home: Home) -> None:
    run = lightseal("witness", "serve", tmp_path / "nowhere", "--log", home.log, "--port", 0)
    require_said(run, 1, "witness-missing")


def test_the_evidence_of_a_fork_is_printed(lightseal: Command, tmp_path: Path) -> None:
    folder = WitnessFolder.create(tmp_path / "w", "w.example/witness")
    none = lightseal("witness", "forks", folder.path)
    assert (none.returncode, none.stdout, none.stderr) == (0, "", "forks: 0, unproven: 0\n")

    secret = generate_ed25519()
    log = VerifierKey("log.example/forks", LogKey(secret).public)

    def note(size: int, story: str) -> Note:
        text = str(Checkpoint(log.name, size, hashlib.sha256(story.encode()).digest()))
        return Note.parse(signed_note(text, log, LogKey(secret).sign(text.encode())))

    private = LogKey(open_key(f"file:{folder.path / 'witness.pem'}"))
    keys = [CosigningKey(folder.key, private.sign)]
    at = datetime(2026, 1, 1, tzinfo=UTC)
    with Witness.open(folder.path / "witness.db", keys, {log.name: [log]}, verify_note) as witness:
        assert witness.add_checkpoint(bytes(Request(0, (), note(5, "one"))), at).status == 200
        unproven = bytes(Request(5, (bytes(32),), note(9, "longer")))
        assert witness.add_checkpoint(unproven, at).status == 422
        only_unproven = lightseal("witness", "forks", folder.path)
        assert (only_unproven.returncode, only_unproven.stderr) == (0, "forks: 0, unproven: 1\n")
        assert witness.add_checkpoint(bytes(Request(5, (), note(5, "two"))), at).status == 409
    found = lightseal("witness", "forks", folder.path)
    assert (found.returncode, found.stderr) == (4, "forks: 1, unproven: 1\n")
    fork, unproven_pair = found.stdout.split("unproven: ")
    assert fork.startswith("fork: log.example/forks signed both of these, for one size\n")
    assert fork.index(bytes(note(5, "one")).decode()) < fork.index(bytes(note(5, "two")).decode())
    assert bytes(note(9, "longer")).decode() in unproven_pair
    # Whoever has the log's key can check what was printed.
    for story in ("one", "two"):
        assert open_checkpoint(bytes(note(5, story)), [log], verify_note).size == 5
    missing = lightseal("witness", "forks", tmp_path / "nothing")
    require_said(missing, 1, "witness-missing")


@pytest.mark.parametrize("missing", ["witness.pem"])
def test_a_witness_without_its_key_cosigns_nothing(
    lightseal: Command, tmp_path: Path, home: Home, missing: str
) -> None:
    folder = WitnessFolder.create(tmp_path / "w", "w.example/witness")
    (folder.path / missing).unlink()
    run = lightseal("witness", "serve", folder.path, "--log", home.log, "--port", 0)
    assert run.returncode == 1
    assert run.stderr.startswith("error[key-")
    assert len(run.stderr.splitlines()) == 2
