"""A run that is stopped anywhere, in any way, ends with one row per file."""

import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path

import pytest

from tools.batch import Progress, Summary, Watch, progress_line, run_batch
from tools.confine import Limits
from tools.errors import DiskFullError, WorkerDiedError
from tools.results import Row, Run
from tools.supervisor import Reason, Supervisor, Task
from tools.walk import Skip

ENGINE = """
import os, signal, time

def start(pause):
    def run(path):
        with open(path, "rb") as file:
            said = file.read()
        if said == b"segfault":
            os.kill(os.getpid(), signal.SIGSEGV)
        if said == b"hang":
            time.sleep(3600)
        time.sleep(pause)
        return len(said), os.getpid()
    return run
"""

PROGRAM = """
import json, sys
from pathlib import Path
sys.path[:0] = sys.argv[3:5]
from tools.batch import Watch, run_batch
from tools.confine import Limits
from tools.errors import Error
from tools.results import Row, Run
from tools.supervisor import Supervisor, Task

def finish(path, answer):
    return Row("NO_CREDENTIALS", json.dumps({"pid": answer[1], "size": answer[0]}, separators=(",", ":")))

def failed_row(path, reason, detail):
    return Row("NOT_CHECKED", json.dumps({"detail": detail}))

if len(sys.argv) > 5:
    import resource
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[5]), resource.RLIM_INFINITY))
try:
    with Supervisor(Task("batch_engine:start", 0.004), 2, Limits(5, 1 << 30)) as supervisor:
        watch = Watch(lambda progress: print(progress.done, flush=True), 0)
        summary = run_batch([sys.argv[1]], Run(Path(sys.argv[2]), {"policy": "1"}), supervisor, finish,
                            failed_row, watch)
except Error as error:
    sys.exit(f"error[{error.code}]: {error}")
print("interrupted" if summary.interrupted else "finished", summary.total, flush=True)
"""


@pytest.fixture(autouse=True)
def engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "engine").mkdir()
    (tmp_path / "engine" / "batch_engine.py").write_text(ENGINE)
    monkeypatch.syspath_prepend(str(tmp_path / "engine"))


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A hundred and twenty small files in four folders."""
    for number in range(120):
        path = tmp_path / "tree" / f"folder {number % 4}" / f"{number:03}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x" * number)
    return tmp_path / "tree"


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run(tmp_path / "rows.jsonl", {"policy": "1"})


def finish(path: str, answer: object) -> Row:
    assert isinstance(answer, tuple)
    headline = "NO_CREDENTIALS" if answer[0] % 2 else "INTACT_SIGNER_RECOGNISED"
    return Row(headline, json.dumps({"name": path[-7:], "size": answer[0]}, separators=(",", ":")))


def failed_row(_path: str, reason: Reason | Skip, detail: str) -> Row:
    return Row("NOT_CHECKED", json.dumps({"detail": detail, "reason": reason}))


def batch(
    run: Run, *paths: Path | str, told: list[Progress] | None = None, total: int | None = None
) -> Summary:
    seen: list[Progress] = [] if told is None else told
    with Supervisor[str, object](Task("batch_engine:start", 0.0), 2, Limits(1.0, 1 << 30)) as supervisor:
        return run_batch(map(str, paths), run, supervisor, finish, failed_row, Watch(seen.append, 0.0, total))


def rows(run: Run) -> list[dict[str, object]]:
    return [json.loads(line) for line in run.results.read_text("ascii").splitlines()]


def names(tree: Path) -> list[str]:
    return sorted(str(path) for path in tree.rglob("*") if path.is_file())


def started(tree: Path, run: Run, *more: str) -> subprocess.Popen[str]:
    engine, root = tree.parent / "engine", Path(__file__).parents[2]
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM, tree, run.results, engine, root, *more],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def alive(pid: int) -> bool:
    """Whether the process runs; a zombie does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_every_file_gets_its_own_row(tree: Path, run: Run) -> None:
    summary = batch(run, tree)
    assert sorted(str(row["path"]) for row in rows(run)) == names(tree)
    for row in rows(run):
        size = Path(str(row["path"])).stat().st_size
        assert row["report"] == {"name": str(row["path"])[-7:], "size": size}
        assert row["headline"] == ("NO_CREDENTIALS" if size % 2 else "INTACT_SIGNER_RECOGNISED")
    assert (summary.total, summary.earlier, summary.now, summary.failed) == (120, 0, 120, 0)
    assert summary.counts == Counter(str(row["headline"]) for row in rows(run))
    assert not summary.interrupted


def test_a_second_time_there_is_nothing_to_do(tree: Path, run: Run) -> None:
    batch(run, tree)
    before = run.results.read_bytes()
    (tree / "new.jpg").write_bytes(b"xx")
    summary = batch(run, tree, tree / "folder 1", tree / "new.jpg", tree / ".." / tree.name)
    assert (summary.total, summary.earlier, summary.now) == (121, 120, 1)
    assert run.results.read_bytes().startswith(before)
    assert sorted(str(row["path"]) for row in rows(run)) == names(tree)


def test_bad_files_are_rows_and_nothing_is_passed_over(tree: Path, run: Run) -> None:
    (tree / "folder 0" / "crash.jpg").write_bytes(b"segfault")
    (tree / "folder 2" / "slow.jpg").write_bytes(b"hang")
    (tree / "out.jpg").symlink_to("/")
    os.mkfifo(tree / "pipe")
    summary = batch(run, tree, tree / "gone.jpg")
    failed = {str(row["path"]): row["failed"] for row in rows(run) if row["failed"]}
    assert failed == {
        str(tree / "folder 0" / "crash.jpg"): "crashed",
        str(tree / "folder 2" / "slow.jpg"): "timed-out",
        str(tree / "gone.jpg"): "missing",
        str(tree / "out.jpg"): "link-leaves-tree",
        str(tree / "pipe"): "not-a-file",
    }
    assert (summary.total, summary.failed, summary.counts["NOT_CHECKED"]) == (125, 5, 5)


def test_names_that_are_no_text_survive(tmp_path: Path, run: Run) -> None:
    wanted = [b"\xff.jpg", b"\xfe.jpg", "\u00e9.jpg".encode(), "e\u0301.jpg".encode(), b'"\\\n\x01.jpg']
    (tmp_path / "odd").mkdir()
    for name in wanted:
        Path(os.fsdecode(os.fsencode(tmp_path / "odd") + b"/" + name)).touch()
    for _ in range(2):
        batch(run, tmp_path / "odd")
        found = [
            os.fsencode(str(row["path"])).removeprefix(os.fsencode(tmp_path / "odd") + b"/")
            for row in rows(run)
        ]
        assert sorted(found) == sorted(wanted)


def test_a_run_inside_the_tree_does_not_check_itself(tree: Path) -> None:
    files = names(tree)
    run = Run(tree / "rows.jsonl", {})
    batch(run, tree)
    batch(run, tree)
    assert sorted(str(row["path"]) for row in rows(run)) == files


def test_a_killed_run_goes_on_where_it_was(tree: Path, run: Run) -> None:
    chance = random.Random(os.environ.get("PYTEST_SEED", "lightseal"))  # noqa: S311
    for _ in range(6):
        with started(tree, run) as parent:
            time.sleep(chance.uniform(0.03, 0.35))
            parent.kill()
        pids = {row["report"]["pid"] for row in whole_rows(run)}
        end = time.monotonic() + 10
        while any(map(alive, pids)) and time.monotonic() < end:
            time.sleep(0.02)
        assert not [pid for pid in pids if alive(pid)]
    with started(tree, run) as parent:
        out, err = parent.communicate(timeout=60)
    assert (out.splitlines()[-1], err) == ("finished 120", "")
    assert sorted(str(row["path"]) for row in rows(run)) == names(tree)


def whole_rows(run: Run) -> list[dict[str, dict[str, int]]]:
    """The rows that were written to their end."""
    if not run.results.exists():
        return []
    lines = run.results.read_text("ascii").splitlines(keepends=True)
    return [json.loads(line) for line in lines if line.endswith("\n")]


def test_a_killed_worker_costs_no_row(tree: Path, run: Run) -> None:
    with started(tree, run) as parent:
        assert parent.stdout is not None
        killed = set()
        for line in parent.stdout:
            if line.strip() in ("10", "50", "80"):
                killed.add(whole_rows(run)[-1]["report"]["pid"])
                for pid in killed:
                    try:
                        os.kill(pid, signal.SIGKILL)
                    except ProcessLookupError:
                        pass
        assert parent.stderr is not None
        assert parent.stderr.read() == ""
    assert sorted(str(row["path"]) for row in rows(run)) == names(tree)
    assert {row["failed"] for row in rows(run)} == {None}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_finishes_what_is_in_flight(tree: Path, run: Run, number: signal.Signals) -> None:
    with started(tree, run) as parent:
        assert parent.stdout is not None
        for line in parent.stdout:
            if line.strip() == "20":
                parent.send_signal(number)
                break
        out, err = parent.communicate(timeout=60)
    done = len(rows(run))
    assert (out.splitlines()[-1], err, parent.returncode) == (f"interrupted {done}", "", 0)
    assert 20 <= done < 120
    summary = batch(run, tree)
    assert (summary.earlier, summary.total) == (done, 120)
    assert sorted(str(row["path"]) for row in rows(run)) == names(tree)


def test_the_keyboard_is_given_back(tree: Path, run: Run) -> None:
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    batch(run, tree / "folder 0")
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before


def test_a_run_need_not_be_in_the_main_thread(tree: Path, run: Run) -> None:
    summaries: list[Summary] = []
    thread = threading.Thread(target=lambda: summaries.append(batch(run, tree)))
    thread.start()
    thread.join()
    assert [summary.total for summary in summaries] == [120]


def test_a_full_disk_is_said_and_the_run_goes_on_later(tree: Path, run: Run) -> None:
    with started(tree, run, "5000") as parent:
        _, err = parent.communicate(timeout=60)
    assert err.startswith("error[disk-full]: no room left to write")
    assert parent.returncode == 1
    done = len(rows(run))
    assert 0 < done < 120
    assert batch(run, tree).earlier == done
    assert sorted(str(row["path"]) for row in rows(run)) == names(tree)


def test_a_full_disk_at_the_first_byte_is_said_too(tree: Path, run: Run) -> None:
    with started(tree, run, "0") as parent:
        _, err = parent.communicate(timeout=60)
    assert err.startswith(f"error[{DiskFullError.code}]")
    assert batch(run, tree).total == 120


def test_an_engine_that_does_not_start_writes_no_rows(tree: Path, run: Run) -> None:
    with (
        Supervisor[str, object](Task("no_such_engine:start"), 2, Limits(1.0, 1 << 30)) as supervisor,
        pytest.raises(WorkerDiedError, match="no_such_engine"),
    ):
        run_batch([str(tree)], run, supervisor, finish, failed_row, Watch(lambda _: None, 1.0))
    assert run.results.read_bytes() == b""


def test_progress_only_grows_and_ends_at_the_sum(tree: Path, run: Run) -> None:
    told: list[Progress] = []
    summary = batch(run, tree, told=told, total=120)
    assert [each.done for each in told] == sorted(each.done for each in told)
    assert all(sum(each.counts.values()) == each.done for each in told)
    assert told[-1].counts == summary.counts
    assert (told[-1].done, told[-1].total, told[-1].left) == (120, 120, 0.0)


def test_a_progress_line_reads_like_one() -> None:
    counts = {"INTACT_SIGNER_RECOGNISED": 40_112, "NO_CREDENTIALS": 21_089, "NOT_CHECKED": 3}
    assert progress_line("winter", Progress(61_204, 100_000, 412.4, 94.1, counts, 3)) == (
        "winter  61 204 / 100 000  61 % · 412/s · 94 s left   intact signer recognised 40 112 · "
        "no credentials 21 089 · not checked 3 · not processed 3"
    )
    assert progress_line("w", Progress(0, None, 0.0, None, {}, 0)) == "w  0 · 0.0/s"
