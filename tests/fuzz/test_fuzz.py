"""The short form of fuzzing: every kept input again, then a fixed number of changed ones for each reader.

`run.py` beside this file is the long form, with time instead of numbers.
"""

import importlib.util
import random
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).parent
EXECUTIONS = 1000
pytestmark = [
    # A hostile certificate's odd names make the library that reads it warn; nothing is refused for that.
    pytest.mark.filterwarnings("ignore:Attribute's length:UserWarning"),
    pytest.mark.filterwarnings("ignore::cryptography.utils.CryptographyDeprecationWarning"),
]


def _beside(name: str) -> Any:
    """A module of this folder, which is no package; others of it import it by that name."""
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, HERE / f"{name}.py")
        assert spec is not None
        assert spec.loader is not None
        sys.modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[name])
    return sys.modules[name]


for _first in ("target", "seeds", "device_seeds", "device_targets"):
    _beside(_first)
mutate, targets, run = map(_beside, ("mutate", "targets", "run"))
NAMES = sorted(targets.TARGETS)


def faulty(wrong: Any) -> Any:
    return targets.Target("faulty", wrong, (ValueError,), "raw", lambda: iter([b"seed"]))


@pytest.mark.parametrize("name", NAMES)
def test_every_kept_input_is_answered(name: str) -> None:
    target = targets.TARGETS[name]
    kept = target.seeds()
    reports = [run.limited(target, data)[1] for data in kept]
    assert kept
    assert [report for report in reports if report] == []


@pytest.mark.parametrize("name", NAMES)
def test_some_seed_is_read_to_the_end(name: str) -> None:
    """Or else only refusals would be tested."""
    target = targets.TARGETS[name]
    assert "read" in [run.limited(target, data)[0][0] for data in target.made()]


@pytest.mark.parametrize("name", NAMES)
def test_changed_inputs_are_answered_or_refused(name: str) -> None:
    target, rng = targets.TARGETS[name], random.Random(name)  # noqa: S311
    kept = target.seeds()
    shapes = set()
    for _ in range(EXECUTIONS // target.cost):
        data = mutate.mutate(rng.choice(kept), rng, target.shape, kept)[: targets.MAX_INPUT]
        shape, report = run.limited(target, data)
        assert report is None, f"{report}\n{data[:4000].hex()}"
        shapes.add(shape)
    assert len(shapes) > 1 or not target.refusals


def test_the_corpus_is_small_and_each_folder_is_a_reader_s() -> None:
    """What it began with is made by `seeds`; the corpus holds what a long run reached besides."""
    files = [path for path in (HERE / "corpus").rglob("*") if path.is_file()]
    folders = {path.parent for path in files}
    assert {folder.name for folder in folders} <= set(NAMES)
    assert max(len(list(folder.iterdir())) for folder in folders) < 15
    assert sum(path.stat().st_size for path in files) < 300_000


@pytest.mark.parametrize(
    ("shape", "name"), [("CBOR", "cbor"), ("DER", "der"), ("BOXES", "jumbf"), ("BOXES", "statements")]
)
def test_a_tree_that_nobody_changed_is_written_as_it_was_read(shape: str, name: str) -> None:
    form = getattr(mutate, shape)
    for data in targets.TARGETS[name].made():
        assert form.write(form.read(data)) == data


@pytest.mark.parametrize("name", ["cbor", "der", "jumbf"])
def test_a_change_inside_mostly_keeps_the_structure_readable(name: str) -> None:
    target, rng = targets.TARGETS[name], random.Random(1)  # noqa: S311
    kept = list(target.made())
    changed = [mutate.changed(mutate.SHAPES[target.shape], rng.choice(kept), rng, kept) for _ in range(200)]
    read = sum(run.outcome(target, data)[0][0] == "read" for data in changed)
    assert read > 60
    assert len(set(changed)) > 150


def test_a_foreign_exception_is_a_finding_and_a_refusal_is_none() -> None:
    _, report = run.limited(faulty(lambda data: {}[data]), b"x")
    assert "KeyError: b'x'" in report
    assert run.limited(faulty(int), b"x")[1] is None
    assert run.limited(faulty(len), b"x") == (("read", 1), None)


def test_a_reader_that_does_not_end_is_interrupted(monkeypatch: pytest.MonkeyPatch) -> None:
    def endless(_data: bytes) -> None:
        while True:
            time.process_time()

    monkeypatch.setattr(run, "CPU_SECONDS", 0.1)
    shape, report = run.limited(faulty(endless), b"x")
    assert shape[0] == "HangError"
    assert "processor time" in report


def test_the_input_of_a_reader_that_crashed_is_still_on_the_desk(tmp_path: Path) -> None:
    crash = (
        f"import sys; sys.path.insert(0, {str(HERE)!r}); import os, pathlib, run;"
        f"run.Desk(pathlib.Path({str(tmp_path / 'desk')!r}), 100).put(b'deadly', 1e18); os.abort()"
    )
    desk = run.Desk(tmp_path / "desk", 100)
    running = subprocess.Popen([sys.executable, "-c", crash], stderr=subprocess.DEVNULL)
    assert "ended with -6" in run._fate(running, desk, time.monotonic() + 60)
    assert desk.input == b"deadly"
    assert desk.read_head()[0] == 1


def test_a_finding_is_kept_with_what_it_did(tmp_path: Path) -> None:
    run.keep_finding(tmp_path, "der", b"\0\1", "KeyError")
    kept = sorted((tmp_path / "findings").iterdir())
    assert [path.suffix for path in kept] == [".bin", ".txt"]
    assert kept[0].read_bytes() == b"\0\1"
    assert kept[1].read_text() == "KeyError"


def test_the_command_fuzzes_and_says_what_it_did(tmp_path: Path) -> None:
    command = [sys.executable, str(HERE / "run.py"), "--seconds", "1.5", "--target", "entry"]
    done = subprocess.run([*command, "--keep", str(tmp_path)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    line, total, last = done.stdout.splitlines()
    assert line.split()[0] == "entry"
    assert int(line.split()[1]) > 10
    assert total.split()[:3] == ["in", "all", line.split()[1]]
    assert last.startswith("0 findings")


def test_without_the_guided_fuzzer_inputs_that_are_answered_in_a_new_way_are_kept(tmp_path: Path) -> None:
    unguided = (
        f"import sys; sys.modules['atheris'] = None; sys.path.insert(0, {str(HERE)!r});"
        f"import pathlib, run, target; target.HERE = pathlib.Path({str(tmp_path)!r}) / 'none';"
        f"run.child('checkpoint', 1.0, pathlib.Path({str(tmp_path)!r}), 1)"
    )
    done = subprocess.run([sys.executable, "-c", unguided], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    kept = list((tmp_path / "corpus" / "checkpoint").iterdir())
    assert len(kept) > len(set(targets.TARGETS["checkpoint"].made()))
    assert run.Desk(tmp_path / "checkpoint.desk", targets.MAX_INPUT).read_head()[0] > 100
