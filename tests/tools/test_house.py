"""What may lie where, and what must not be written in any file."""

import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FOLDERS = {"authn", "detector", "storage", "tests", "tools"}
FILES = {"pyproject.toml", "README.md", "LICENSE", "CHANGELOG.md"}
MACHINE_PATH = re.compile(r"(?<![\w.:/$}<>-])/(?:root|work|home|Users|tmp)/\w")


def tracked() -> list[Path]:
    """Every file of the project: what git keeps, or what lies here where git keeps nothing yet."""
    git = shutil.which("git")
    if git is not None and (ROOT / ".git").exists():
        listed = subprocess.run(
            [git, "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False
        )
        paths = [Path(name) for name in listed.stdout.split("\0") if name]
        if paths:
            return [path for path in paths if (ROOT / path).is_file()]
    here = (path.relative_to(ROOT) for path in ROOT.rglob("*") if path.is_file())
    return [path for path in here if "__pycache__" not in path.parts and not path.parts[0].startswith(".")]


def test_the_top_level_holds_what_was_agreed_and_nothing_else() -> None:
    paths = tracked()
    tops = {path.parts[0] for path in paths if not path.parts[0].startswith(".")}
    assert tops <= FOLDERS | FILES
    assert tops >= FOLDERS | (FILES - {"CHANGELOG.md"})
    assert (ROOT / ".ci" / "run").is_file()


def test_tests_holds_no_package_that_would_hide_a_real_one() -> None:
    assert not list((ROOT / "tests").rglob("__init__.py"))


def test_no_file_names_a_place_on_somebody_s_machine() -> None:
    offenders = []
    for path in tracked():
        try:
            text = (ROOT / path).read_text("utf-8")
        except UnicodeDecodeError:
            continue
        offenders += [f"{path}: {line}" for line in text.splitlines() if MACHINE_PATH.search(line)]
    assert offenders == []


def test_no_file_names_a_package_index() -> None:
    settings = re.compile(r"(?i)index[-_]url\s*=\s*[\"']?https?:|--(extra-)?index-url[ =]https?:")
    texts = [ROOT / "pyproject.toml", ROOT / "tools" / "constraints.txt", *(ROOT / "tools").glob("*.py")]
    assert [path.name for path in texts if settings.search(path.read_text("utf-8"))] == []


def test_ci_runs_exactly_the_test_command_of_the_readme() -> None:
    script = (ROOT / ".ci" / "run").read_text("utf-8").splitlines()
    command = script[-1].removeprefix("exec ")
    assert script[:-1] == ["#!/usr/bin/env bash", "set -eu", 'cd "$(dirname "$0")/.."']
    assert (ROOT / ".ci" / "run").stat().st_mode & 0o111 == 0o111
    readme = (ROOT / "README.md").read_text("utf-8")
    blocks = re.findall(r"^```\w*\n(.*?)^```", readme, re.MULTILINE | re.DOTALL)
    commands = [
        line.split("#")[0].strip().removeprefix("$ ") for block in blocks for line in block.splitlines()
    ]
    tests = [line for line in commands if line.startswith("python3 -m tools test")]
    assert tests
    assert set(tests) == {command}


def test_every_requirement_is_pinned() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    extras = project["project"]["optional-dependencies"]
    lines = [*project["build-system"]["requires"], *project["project"]["dependencies"]]
    lines += [line for extra, requirements in extras.items() if extra != "gpu" for line in requirements]
    names = {re.split(r"[^\w.-]", line, maxsplit=1)[0].lower() for line in lines}
    pins = (ROOT / "tools" / "constraints.txt").read_text("utf-8").splitlines()
    pinned = {line.partition("==")[0] for line in pins if "==" in line and not line.startswith("#")}
    assert names <= pinned


@pytest.mark.parametrize(("ci", "outcome"), [("", "1 skipped"), ("true", "1 error")])
def test_a_missing_program_skips_with_its_line_and_fails_in_ci(tmp_path: Path, ci: str, outcome: str) -> None:
    shutil.copy(ROOT / "tests" / "conftest.py", tmp_path)
    probe = 'import pytest\n@pytest.mark.needs("openssl")\ndef test_it(): assert True\n'
    (tmp_path / "test_probe.py").write_text(probe)
    (tmp_path / "pytest.ini").write_text("[pytest]\naddopts = -ra --strict-markers\n")
    environment = {"PATH": str(tmp_path), "PYTHONPATH": str(ROOT), "CI": ci}
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", str(tmp_path)]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert outcome in done.stdout
    assert "apt-get install -y openssl" in done.stdout


def test_the_licence_is_apache_2_in_full() -> None:
    text = (ROOT / "LICENSE").read_text("utf-8")
    assert re.search(r"Apache License\s+Version 2\.0, January 2004", text)
    assert all(f"\n   {number}. " in text for number in range(1, 10))
    assert "END OF TERMS AND CONDITIONS" in text
