"""The short forms of the drills; each drill says in its own words what it does.

The long forms are run by hand: 200 kills of each target, and a fault in every system call.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

DRILLS = Path(__file__).parent / "drills"


@pytest.fixture(scope="session")
def traced() -> None:
    """Skip where no process may be traced."""
    if subprocess.run(["strace", "-o", os.devnull, "true"], capture_output=True, check=False).returncode:
        pytest.skip("NO FAULT INJECTED into system calls: this machine forbids ptrace(2)")


def drill(name: str, *arguments: str) -> dict[str, Any]:
    """Run a drill and return its result; it fails by itself when a word was broken."""
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run(
        [sys.executable, DRILLS / f"{name}.py", *arguments],
        capture_output=True,
        text=True,
        env=environment,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    result: dict[str, Any] = json.loads(done.stdout)
    return result


@pytest.mark.parametrize("target", ["append", "sequencer", "server"])
def test_a_kill_loses_nothing_that_was_acknowledged(target: str) -> None:
    result = drill("kill", "--target", target, "--rounds", "2")
    assert result["rounds"] == 2
    assert result["acknowledged"] > 0


@pytest.mark.needs("postgresql")
@pytest.mark.parametrize("target", ["server", "database"])
def test_a_kill_loses_nothing_that_was_acknowledged_on_postgresql(target: str) -> None:
    result = drill("kill", "--engine", "postgres", "--target", target, "--rounds", "1")
    assert result["rounds"] == 1
    assert result["acknowledged"] > 0


@pytest.mark.needs("strace")
@pytest.mark.usefixtures("traced")
def test_a_fault_in_a_system_call_leaves_a_ledger_that_goes_on() -> None:
    result = drill("faults", "--every", "20")
    assert result["faults"] > 250
    assert result["runs"] == -(-result["faults"] // 20)


@pytest.mark.needs("postgresql")
@pytest.mark.needs("strace")
@pytest.mark.usefixtures("traced")
@pytest.mark.parametrize("at", ["client", "backend"])
def test_a_fault_in_a_system_call_leaves_a_ledger_that_goes_on_on_postgresql(at: str) -> None:
    result = drill("faults", "--engine", "postgres", "--at", at, "--every", "120")
    assert result["runs"] == -(-result["faults"] // 120) > 1


@pytest.mark.parametrize(
    "engine", ["sqlite", pytest.param("postgres", marks=pytest.mark.needs("postgresql"))]
)
def test_a_full_disk_is_named_and_loses_nothing(engine: str) -> None:
    namespaces = ["--mount"] if os.geteuid() == 0 else ["--user", "--map-root-user", "--mount"]
    tried = subprocess.run(
        ["unshare", *namespaces, "mount", "-t", "tmpfs", "drill", "/mnt"], capture_output=True, check=False
    )
    if tried.returncode:
        pytest.skip("NO DISK FILLED: this machine lets nobody mount a small one, not even for themselves")
    result = drill("full", "--engine", engine)
    assert result["refused"] == "ledger-disk-full"
    assert result["acknowledged"] > 0


def test_what_the_drills_look_for_would_be_found(tmp_path: Path) -> None:
    """The flaw it would catch: a drill that is content with anything."""
    script = """
import hashlib, sys, pathlib, subject
folder = pathlib.Path(sys.argv[1])
drilled = subject.Subject(f"sqlite:///{folder}/ledger.db", folder)
with drilled.create() as ledger:
    (index,) = ledger.append([subject.record("there")], subject.now(), subject.sign)
for acknowledged in ({"there": index + 1}, {"never": index}, {"there": index, "never": index}, {}):
    try:
        drilled.require(acknowledged, [])
    except subject.LostError as error:
        print(error)
    else:
        sys.exit(f"{acknowledged} went unnoticed")
if drilled.require({"there": index}, ["never", "twice"]).kept:
    sys.exit("what was not there was found")
if drilled.require({"there": index, "never": 1}, ["twice"]).kept != 1:
    sys.exit("what was unanswered was counted wrongly")
"""
    environment = {**os.environ, "PYTHONPATH": f"{Path(__file__).parents[2]}{os.pathsep}{DRILLS}"}
    done = subprocess.run(
        [sys.executable, "-c", script, tmp_path],
        capture_output=True,
        text=True,
        env=environment,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
