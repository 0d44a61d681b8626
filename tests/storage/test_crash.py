import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from storage.audit import audit
from storage.ledger import Ledger

SCRIPT = Path(__file__).parent / "append_forever.py"
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}


@pytest.fixture
def empty(url, log) -> str:
    Ledger.create(url, log.name).close()
    return url


def start(url: str, tag: str, batches: int, acknowledged: Path) -> "subprocess.Popen[bytes]":
    with acknowledged.open("wb") as file:
        return subprocess.Popen(
            [sys.executable, SCRIPT, url, tag, str(batches)], stdout=file, env=ENVIRONMENT
        )


def read(acknowledged: Path) -> dict[str, int]:
    """Index by claim; a last line cut by the kill was not acknowledged."""
    whole, _, _ = acknowledged.read_text().rpartition("\n")
    return {claim: int(index) for index, claim in (line.split() for line in whole.splitlines())}


def require_all(url: str, log, acknowledged: dict[str, int]) -> int:
    """Audit, and find every acknowledged claim where it was said to be; return the size."""
    report = audit(url, [log.key], log.verify)
    assert report.findings == ()
    with Ledger.open_read_only(url) as ledger:
        assert ledger.size == report.size
        for claim, index in acknowledged.items():
            assert ledger.find("claim", claim.encode()) == (index,)
            assert ledger.payload(index) == f'{{"claim":"{claim}"}}'.encode()
    return report.size


def test_processes_that_append_at_once_leave_no_gap(empty, log, tmp_path: Path) -> None:
    running = {tag: start(empty, tag, 50, tmp_path / tag) for tag in ("a", "b", "c", "d")}
    assert [process.wait(timeout=120) for process in running.values()] == [0, 0, 0, 0]
    acknowledged = {claim: index for tag in running for claim, index in read(tmp_path / tag).items()}
    assert sorted(acknowledged.values()) == list(range(600))
    assert require_all(empty, log, acknowledged) == 600


def test_a_killed_writer_loses_nothing_it_acknowledged(empty, log, tmp_path: Path) -> None:
    acknowledged: dict[str, int] = {}
    for attempt, patience in enumerate((1, 7, 20)):
        output = tmp_path / f"round{attempt}"
        process = start(empty, f"round{attempt}", 0, output)
        deadline = time.monotonic() + 60
        while len(output.read_bytes().splitlines()) < 3 * patience:
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.002)
        process.kill()
        process.wait(timeout=60)
        acknowledged |= read(output)
        size = require_all(empty, log, acknowledged)
        assert size >= len(acknowledged) >= 3 * patience
