"""The first start, followed without a network: commands are answered by a machine of our own."""

import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tools import programs
from tools.bootstrap import (
    BootstrapError,
    Checkout,
    Done,
    Wanted,
    checks,
    complaint_of,
    create,
    ensure,
    install,
    must_bootstrap,
    replace_opencv,
    stamp_of,
    stamped,
    uv_environment,
    ways,
)
from tools.programs import Program

ROOT = Path(__file__).parents[2]
OK = Done(0)
REFUSED = Done(1, complaint="refused")
VERSION = f"{sys.version_info[0]}.{sys.version_info[1]}"


class Machine:
    """Answers commands as a machine with the named faults would, and remembers them."""

    def __init__(self, checkout: Checkout, *faults: str) -> None:
        self.checkout = checkout
        self.faults = set(faults)
        self.asked: list[str] = []
        self.headless = False

    def __call__(self, command: Sequence[str], _more: Mapping[str, str]) -> Done:
        words = " ".join(command)
        self.asked.append(words)
        if " -m venv " in words:
            return self._venv("no-venv")
        if "/uv venv " in words:
            return self._venv("no-uv-venv")
        if command[0] != str(self.checkout.python) and " -m pip " in words and "no-pip" in self.faults:
            return Done(1, complaint="No module named pip")
        if words.endswith(" uv"):
            return self._uv(words)
        if words.endswith("import cv2"):
            return self._opencv()
        return self._rest(words)

    def _rest(self, words: str) -> Done:
        if "sys.version_info" in words:
            return Done(0, f"{VERSION}\n")
        if "importlib.metadata" in words:
            return Done(0, "5.0.0.93\n")
        if "--no-deps opencv-python-headless" in words:
            self.headless = True
        if "--editable" in words and (
            "no-network" in self.faults or ("uv-fails" in self.faults and "/uv " in words)
        ):
            return Done(1, complaint="ERROR: no connection\nERROR: nothing matches")
        return OK

    def _venv(self, fault: str) -> Done:
        (self.checkout.venv / "bin").mkdir(parents=True)
        self.checkout.python.touch()  # a refusing venv leaves this behind
        if fault in self.faults:
            return REFUSED
        (self.checkout.venv / "pyvenv.cfg").write_text(f"version = {VERSION}.1\n")
        (self.checkout.venv / "bin" / "pip").write_text(f"#!{self.checkout.python}\n")
        return OK

    def _uv(self, words: str) -> Done:
        if "no-uv" in self.faults:
            return REFUSED
        target = self.checkout.boot if "--target" in words else self.checkout.venv
        (target / "bin").mkdir(parents=True, exist_ok=True)
        (target / "bin" / "uv").touch()
        return OK

    def _opencv(self) -> Done:
        if "no-libgl" in self.faults and not self.headless:
            return Done(1, complaint="Traceback\nImportError: libGL.so.1: cannot open shared object file")
        return OK

    def count(self, words: str) -> int:
        return sum(words in asked for asked in self.asked)


def no_apt(_packages: Sequence[str]) -> bool:
    return False


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    (tmp_path / "tools").mkdir()
    (tmp_path / "tools" / "constraints.txt").write_text("uv==1\n")
    (tmp_path / "pyproject.toml").write_text("[project]\n")
    return Checkout(tmp_path)


def test_an_old_python_is_told_in_one_sentence() -> None:
    source = (ROOT / "tools" / "__main__.py").read_text("utf-8")
    old = "import sys\nsys.version_info = (3, 9, 2)\nsys.version = '3.9.2 (main)'\n"
    done = subprocess.run([sys.executable, "-c", old + source], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert re.fullmatch(
        r"tools: Lightseal needs Python 3\.11 or newer, and this is 3\.9\.2; [^\n]+\n", done.stderr
    )


def test_a_fresh_checkout_is_installed_and_a_second_start_asks_nothing(checkout: Checkout) -> None:
    machine = Machine(checkout)
    ensure(checkout, Wanted.RUNTIME, machine, no_apt)
    assert stamped(checkout, Wanted.RUNTIME)
    assert machine.count("--editable .") == 1
    again = Machine(checkout, "no-venv", "no-pip", "no-network")
    ensure(checkout, Wanted.RUNTIME, again, no_apt)
    assert again.asked == []


def test_what_the_tests_need_is_enough_for_the_demo_but_not_the_reverse(checkout: Checkout) -> None:
    machine = Machine(checkout)
    ensure(checkout, Wanted.RUNTIME, machine, no_apt)
    assert not stamped(checkout, Wanted.TEST)
    ensure(checkout, Wanted.TEST, machine, no_apt)
    assert stamped(checkout, Wanted.RUNTIME)
    assert machine.count(" -m venv ") == 1
    assert machine.count("--editable .[test]") == 1


@pytest.mark.parametrize("changed", ["pyproject.toml", "tools/constraints.txt"])
def test_a_changed_requirement_is_installed_again(checkout: Checkout, changed: str) -> None:
    ensure(checkout, Wanted.RUNTIME, Machine(checkout), no_apt)
    before = stamp_of(checkout, Wanted.RUNTIME)
    (checkout.root / changed).write_text("changed\n")
    assert stamp_of(checkout, Wanted.RUNTIME) != before
    machine = Machine(checkout)
    ensure(checkout, Wanted.RUNTIME, machine, no_apt)
    assert machine.count("--editable .") == 1
    assert machine.count(" -m venv ") == 0


def test_an_interrupted_installation_is_done_again(checkout: Checkout) -> None:
    with pytest.raises(BootstrapError):
        ensure(checkout, Wanted.RUNTIME, Machine(checkout, "no-network"), no_apt)
    assert not checkout.stamp.exists()
    machine = Machine(checkout)
    ensure(checkout, Wanted.RUNTIME, machine, no_apt)
    assert machine.count("--editable .") == 1
    assert stamped(checkout, Wanted.RUNTIME)


def test_an_environment_that_was_moved_here_is_made_anew(checkout: Checkout) -> None:
    ensure(checkout, Wanted.RUNTIME, Machine(checkout), no_apt)
    (checkout.venv / "bin" / "pip").write_text("#!/elsewhere/.venv/bin/python\n")
    checkout.stamp.unlink()
    machine = Machine(checkout)
    ensure(checkout, Wanted.RUNTIME, machine, no_apt)
    assert machine.count(" -m venv ") == 1


def test_where_venv_refuses_uv_makes_the_environment_and_leaves_nothing_behind(checkout: Checkout) -> None:
    machine = Machine(checkout, "no-venv")
    ensure(checkout, Wanted.RUNTIME, machine, no_apt)
    assert machine.count("--target") == 1
    assert machine.count("/uv venv ") == 1
    assert stamped(checkout, Wanted.RUNTIME)
    assert not checkout.boot.exists()


def test_where_python_refuses_venv_for_real_the_first_way_fails_and_is_seen(
    checkout: Checkout, tmp_path: Path
) -> None:
    stub = tmp_path / "stub"
    stub.mkdir()
    (stub / "venv.py").write_text("import sys\nsys.exit('ensurepip is not available')\n")

    def run(command: Sequence[str], _more: Mapping[str, str]) -> Done:
        done = subprocess.run(
            command, env={"PYTHONPATH": str(stub)}, capture_output=True, text=True, check=False, cwd=tmp_path
        )
        return Done(done.returncode, done.stdout, done.stderr)

    plain, through_uv = ways(checkout, sys.executable)
    refusal = run(plain[0], {})
    assert (refusal.status, refusal.complaint.strip()) == (1, "ensurepip is not available")
    assert [command[-1] for command in through_uv] == ["uv", str(checkout.venv)]


def test_without_pip_or_venv_the_exact_line_is_named(checkout: Checkout) -> None:
    with pytest.raises(BootstrapError) as caught:
        create(checkout, Machine(checkout, "no-venv", "no-pip"), {}, no_apt)
    assert "apt-get install -y python3-venv" in caught.value.remedy
    assert not checkout.venv.exists()


def test_without_pip_or_venv_the_package_is_installed_where_we_may(checkout: Checkout) -> None:
    machine = Machine(checkout, "no-venv", "no-pip")
    installed: list[str] = []

    def apt(packages: Sequence[str]) -> bool:
        installed.extend(packages)
        machine.faults.discard("no-venv")
        return True

    create(checkout, machine, {}, apt)
    assert installed == ["python3-venv"]
    assert checkout.python.exists()


def test_pip_installs_where_uv_cannot_be_had_or_fails(checkout: Checkout) -> None:
    for fault in ("no-uv", "uv-fails"):
        machine = Machine(checkout, fault)
        install(checkout, Wanted.TEST, machine, {})
        assert machine.asked[-1].startswith(f"{checkout.python} -m pip install")
        assert machine.asked[-1].endswith("--editable .[test]")


def test_a_failed_installation_names_the_cause_in_one_line(checkout: Checkout) -> None:
    with pytest.raises(BootstrapError) as caught:
        install(checkout, Wanted.RUNTIME, Machine(checkout, "no-network"), {})
    assert "no connection" in str(caught.value)
    assert "\n" not in str(caught.value) + caught.value.remedy


def test_opencv_without_its_libraries_gives_way_to_the_headless_one_of_the_same_version(
    checkout: Checkout, capsys: pytest.CaptureFixture[str]
) -> None:
    machine = Machine(checkout, "no-libgl")
    replace_opencv(checkout, machine, {})
    assert machine.asked[-3].endswith("opencv-python opencv-python-headless")
    assert machine.asked[-2].endswith("--no-deps opencv-python-headless==5.0.0.93")
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "libGL.so.1" in said
    assert "opencv-python-headless==5.0.0.93" in said


def test_an_opencv_that_starts_is_left_alone(checkout: Checkout) -> None:
    machine = Machine(checkout)
    replace_opencv(checkout, machine, {})
    assert machine.count("install") == 0


@pytest.mark.parametrize(
    ("verb", "inside", "installed", "expected"),
    [
        ("test", True, True, True),
        ("demo", False, True, True),
        ("demo", True, True, False),
        ("doctor", False, True, True),
        ("verify", False, True, False),
        ("verify", False, False, True),
        ("verify", True, False, False),
        ("", False, True, False),
    ],
)
def test_the_bootstrap_runs_only_where_it_is_needed(
    *, verb: str, inside: bool, installed: bool, expected: bool
) -> None:
    assert must_bootstrap(verb, inside=inside, installed=lambda: installed) is expected


def test_uv_looks_where_pip_looks_and_keeps_what_the_user_told_it() -> None:
    listed = (
        "global.index-url='https://mirror.example/simple'\n"
        ":env:.extra-index-url='https://a.example/simple https://b.example/simple'\n"
        "global.timeout='60'\n"
        "global.cert='/etc/ssl/own.pem'\n"
    )
    told = uv_environment(listed, {"SSL_CERT_FILE": "set"})
    assert told == {
        "UV_DEFAULT_INDEX": "https://mirror.example/simple",
        "UV_INDEX": "https://a.example/simple https://b.example/simple",
        "UV_INDEX_STRATEGY": "unsafe-best-match",
    }


@given(st.text())
def test_any_complaint_becomes_one_short_line(text: str) -> None:
    line = complaint_of(text)
    assert line
    assert len(line.splitlines()) == 1
    assert len(line) <= 400


def test_a_complaint_leads_with_its_cause() -> None:
    pip = "WARNING: retrying\nERROR: No matching distribution found for x\nERROR: see help"
    assert complaint_of(pip) == "ERROR: No matching distribution found for x"
    offline = "WARNING: Retrying after connection broken by 'x'\nERROR: Cannot install uv"
    assert complaint_of(offline) == "no connection to a package index; ERROR: Cannot install uv"
    uv = "error: No solution found\n  cause: Because x has no wheels\n\nhint: more"
    assert complaint_of(uv) == "error: No solution found cause: Because x has no wheels"


def test_the_checks_run_in_order_and_arguments_reach_pytest(checkout: Checkout) -> None:
    steps = checks(checkout, ["-k", "merkle"])
    assert [name for name, _ in steps] == ["format", "lint", "types", "architecture", "tests"]
    assert steps[-1][1][1:3] == ("-m", "pytest")
    assert steps[-1][1][-2:] == ("-k", "merkle")


def test_every_program_names_its_package_and_purpose() -> None:
    for program in programs.PROGRAMS:
        assert programs.named(program.name) is program
        assert program.remedy.split() == ["apt-get", "install", "-y", *program.packages]
        assert program.purpose
    with pytest.raises(KeyError):
        programs.named("no such program")


def program_at(folder: Path) -> Path:
    folder.mkdir(parents=True)
    program = folder / "an-unusual-program"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    return program


def test_a_program_off_the_path_is_found_in_its_newest_version(tmp_path: Path) -> None:
    program_at(tmp_path / "9" / "bin")
    newest = program_at(tmp_path / "15" / "bin")
    row = Program("x", ("an-unusual-program",), ("x",), "is found", folders=str(tmp_path / "*" / "bin"))
    assert row.path == str(newest)


def test_a_program_on_the_path_comes_before_one_off_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program_at(tmp_path / "15" / "bin")
    chosen = program_at(tmp_path / "chosen")
    monkeypatch.setenv("PATH", str(chosen.parent))
    row = Program("x", ("an-unusual-program",), ("x",), "is found", folders=str(tmp_path / "*" / "bin"))
    assert row.path == str(chosen)


def test_a_program_without_what_it_needs_counts_as_missing(tmp_path: Path) -> None:
    program_at(tmp_path / "1" / "bin")
    row = Program(
        "x",
        ("an-unusual-program",),
        ("x", "x-library"),
        "is found",
        folders=str(tmp_path / "*" / "bin"),
        needs=str(tmp_path / "library"),
    )
    assert row.path is None
    assert row.remedy.endswith("x x-library")
    (tmp_path / "library").mkdir()
    assert row.path is not None


@pytest.mark.needs("softhsm2", "swtpm")
def test_the_test_command_brings_what_speaks_to_tokens() -> None:
    """Modules of tests that lack a package skip as a whole; where CI runs, this one says so."""
    assert programs.named("softhsm2").path
    assert programs.named("swtpm").path
