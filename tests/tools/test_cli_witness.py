import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from storage.note import Algorithm
from storage.policy import Policy
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
