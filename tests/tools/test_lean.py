"""Starting must be cheap, and every module must be importable."""

import json
import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
HEAVY = (
    "cryptography",
    "c2pa",
    "sqlalchemy",
    "numpy",
    "PIL",
    "cv2",
    "onnxruntime",
    "jinja2",
    "rfc3161_client",
)

IMPORT_ALL = """
import importlib, json, pkgutil
names = []
for package in ("authn", "detector", "storage", "tools"):
    names.append(package)
    found = pkgutil.walk_packages(importlib.import_module(package).__path__, package + ".")
    names.extend(module.name for module in found if not module.name.endswith("__main__"))
for name in names:
    importlib.import_module(name)
print(json.dumps(names))
"""

IMPORT_CLI = """
import json, sys
import tools.cli
print(json.dumps(sorted({name.partition(".")[0] for name in sys.modules})))
"""


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Byte code may be kept, in a place of our own, so that a second start is a second start."""
    dropped = ("PYTHONDONTWRITEBYTECODE", "PYTHONPATH")
    kept = {name: value for name, value in os.environ.items() if name not in dropped}
    return {**kept, "PYTHONPYCACHEPREFIX": str(tmp_path_factory.mktemp("bytecode"))}


def run(environment: dict[str, str], *arguments: str) -> str:
    command = [sys.executable, *arguments]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def processor_seconds(environment: dict[str, str], *arguments: str) -> float:
    """The processor time of one start, which a busy machine does not stretch as it does the clock."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    run(environment, *arguments)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def test_every_module_imports_without_a_warning_or_a_word(environment: dict[str, str]) -> None:
    printed = run(environment, "-W", "error", "-c", IMPORT_ALL)
    names = json.loads(printed)
    files = [
        path
        for package in ("authn", "detector", "storage", "tools")
        for path in (ROOT / package).rglob("*.py")
        # Neither what is handed to others, nor the steps that only Alembic runs.
        if not {"pages", "steps"} & set(path.parts)
    ]
    there = {
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__") for path in files
    }
    assert set(names) >= there - {"tools.__main__"}


def test_the_command_line_imports_nothing_heavy_to_answer_help(environment: dict[str, str]) -> None:
    loaded = json.loads(run(environment, "-c", IMPORT_CLI))
    assert "click" in loaded
    assert set(loaded).isdisjoint(HEAVY)


def test_help_is_printed_and_names_the_commands(environment: dict[str, str]) -> None:
    printed = run(environment, "-m", "tools", "--help")
    for command in ("demo", "sign", "verify", "doctor"):
        assert f"\n  {command} " in printed


def test_help_costs_at_most_150_ms_more_than_python_itself(environment: dict[str, str]) -> None:
    command = ("-c", "from tools.cli import main; main()", "--help")
    run(environment, *command)
    ours = min(processor_seconds(environment, *command) for _ in range(5))
    floor = min(processor_seconds(environment, "-c", "pass") for _ in range(5))
    assert ours - floor <= 0.150
