"""What every test may ask for: a program of the system, and the shared vectors."""

import os
from importlib.util import find_spec
from pathlib import Path

import pytest

from tools import programs


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "needs(*names): programs from tools/programs.py that the test calls")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    known = {program.name for program in programs.PROGRAMS}
    for item in items:
        unknown = {name for mark in item.iter_markers("needs") for name in mark.args} - known
        if unknown:
            raise pytest.UsageError(f"{item.nodeid} needs {unknown}, which tools/programs.py does not list")


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip with the line that installs what is missing; where CI says that nothing may be missing, fail."""
    names = [name for mark in item.iter_markers("needs") for name in mark.args]
    missing = [program for program in map(programs.named, names) if not _there(program)]
    if not missing:
        return
    reason = f"needs {', '.join(program.name for program in missing)}: " + "; ".join(
        program.remedy for program in missing
    )
    if os.environ.get("CI") == "true":
        pytest.fail(f"CI must not skip this; {reason}", pytrace=False)
    pytest.skip(reason)


def _there(program: programs.Program) -> bool:
    return program.path is not None and (not program.module or find_spec(program.module) is not None)


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of shared vectors and samples, beside the checkout or where LIGHTSEAL_SHARED says."""
    beside = Path(__file__).parents[1].parent / "shared"
    folder = Path(os.environ.get("LIGHTSEAL_SHARED", beside))
    if not folder.is_dir():
        pytest.skip(f"the shared vectors are not at {folder}; name their folder in LIGHTSEAL_SHARED")
    return folder
