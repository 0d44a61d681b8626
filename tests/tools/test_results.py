"""Rows survive being cut short at any byte, and are never mixed with rows of other rules."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tools.errors import (
    OutputExistsError,
    ResultsDamagedError,
    RunBusyError,
    RunForeignError,
    UnreadableError,
)
from tools.results import Results, Row, Run

RULES = {"policy": "1", "signers": "sha256:aa"}


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run(tmp_path / "rows.jsonl", RULES)


def add(run: Run, *paths: str) -> None:
    with Results(run) as results:
        for path in paths:
            if results.claim(path):
                results.append(path, None, Row("NO_CREDENTIALS", '{"a":1}'))


def paths(run: Run) -> list[str]:
    return [json.loads(line)["path"] for line in run.results.read_text("ascii").splitlines()]


def test_a_row_is_one_canonical_line(run: Run) -> None:
    with Results(run) as results:
        for path, failed in (("/b\udcff\n.jpg", None), ("/a", "crashed")):
            assert results.claim(path)
            results.append(path, failed, Row("NOT_CHECKED", '{"z":[1,{}]}'))
    lines = run.results.read_text("ascii").splitlines()
    rows = [json.loads(line) for line in lines]
    assert rows == [
        {"failed": failed, "headline": "NOT_CHECKED", "path": path, "report": {"z": [1, {}]}}
        for path, failed in (("/b\udcff\n.jpg", None), ("/a", "crashed"))
    ]
    assert lines == [json.dumps(row, sort_keys=True, separators=(",", ":")) for row in rows]


def test_what_was_answered_is_known_again(run: Run) -> None:
    with Results(run) as results:
        for path, failed in (("/a\udce9", None), ("/b", "timed-out")):
            results.claim(path)
            results.append(path, failed, Row("X", "{}"))
    with Results(run) as results:
        assert (len(results), results.failed, dict(results.counts)) == (2, 1, {"X": 2})
        assert [results.claim(path) for path in ("/a\udce9", "/b", "/c", "/c")] == [False, False, True, False]


def test_a_row_cut_at_any_byte_is_made_again(run: Run) -> None:
    add(run, "/a", "/b")
    whole = run.results.read_bytes()
    for cut in range(len(whole) + 1):
        run.results.write_bytes(whole[:cut])
        add(run, "/a", "/b")
        assert run.results.read_bytes() == whole


def test_a_last_row_that_a_power_failure_blanked_is_made_again(run: Run) -> None:
    add(run, "/a", "/b")
    whole = run.results.read_bytes()
    run.results.write_bytes(whole[:-12] + b"\0" * 11 + b"\n")
    add(run, "/a", "/b")
    assert run.results.read_bytes() == whole


@pytest.mark.parametrize("line", [b"\n", b"{}\n", b"garbage\n"])
def test_damage_that_no_kill_explains_is_not_repaired(run: Run, line: bytes) -> None:
    add(run, "/a", "/b")
    first, second = run.results.read_bytes().splitlines(keepends=True)
    for damaged in (first + line + second, first + second + first):
        run.results.write_bytes(damaged)
        with pytest.raises(ResultsDamagedError, match="line"):
            Results(run)
        assert run.results.read_bytes() == damaged


def test_rows_of_other_rules_are_not_mixed(run: Run) -> None:
    add(run, "/a")
    for other, word in (
        ({**RULES, "policy": "2"}, "another policy$"),
        ({"policy": "1"}, "another signers$"),
        ({**RULES, "x": "", "policy": ""}, "another policy, another x$"),
    ):
        run.lock.unlink(missing_ok=True)
        with pytest.raises(RunForeignError, match=word):
            Results(Run(run.results, other))
        assert not run.lock.exists()
    add(run, "/b")
    assert paths(run) == ["/a", "/b"]


def test_a_file_that_is_not_ours_is_left_alone(run: Run) -> None:
    run.results.write_text("holiday")
    with pytest.raises(OutputExistsError):
        Results(run)
    assert run.results.read_text() == "holiday"
    assert list(run.results.parent.iterdir()) == [run.results]


@pytest.mark.parametrize("place", ["results", "header", "lock"])
def test_a_pipe_is_no_file_of_a_run_and_is_not_opened(run: Run, place: str) -> None:
    pipe = getattr(run, place)
    os.mkfifo(pipe)
    with pytest.raises(OutputExistsError, match="is no file"):
        Results(run)
    assert list(pipe.parent.iterdir()) == [pipe]


@pytest.mark.parametrize("place", [".", "/", "/dev/full", "/dev/zero"])
def test_a_folder_or_a_device_is_no_place_for_rows(place: str) -> None:
    with pytest.raises(OutputExistsError):
        Results(Run(Path(place), RULES))
    assert not Path(f"{place}.lock").exists()
    assert not Path(f"{place}.run.json").exists()


@pytest.mark.parametrize("header", ["", "[]", '{"format": "x", "fingerprint": {}}'])
def test_a_damaged_header_is_said_to_be_damaged(run: Run, header: str) -> None:
    add(run, "/a")
    run.header.write_text(header)
    with pytest.raises(ResultsDamagedError):
        Results(run)


def test_one_run_has_one_writer(run: Run) -> None:
    with Results(run), pytest.raises(RunBusyError):
        Results(run)
    program = """
import sys, pathlib
from tools.results import Results, Run
Results(Run(pathlib.Path(sys.argv[1]), {"policy": "1", "signers": "sha256:aa"}))
print("open", flush=True)
sys.stdin.read()
"""
    with subprocess.Popen(
        [sys.executable, "-c", program, run.results],
        cwd=Path(__file__).parents[2],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"open\n"
        with pytest.raises(RunBusyError):
            Results(run)
        other.kill()
    add(run, "/a")
    assert paths(run) == ["/a"]


@pytest.mark.parametrize("report", ['{"a":1}\n', "{", "[]", '{"a":"é"}'])
def test_what_is_not_one_line_is_not_written(run: Run, report: str) -> None:
    with Results(run) as results:
        results.claim("/a")
        with pytest.raises(ValueError, match=r"not a row|ascii"):
            results.append("/a", None, Row("X", report))
    assert run.results.read_bytes() == b""


def test_a_folder_that_is_not_there_is_a_clear_error(tmp_path: Path) -> None:
    with pytest.raises(UnreadableError, match="No such file"):
        Results(Run(tmp_path / "gone" / "rows.jsonl", RULES))
