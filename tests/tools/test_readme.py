"""README's commands are run, and what it shows is what they print."""

import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from tools.cli import lightseal as program
from tools.verdict import Headline, exit_status

ROOT = Path(__file__).parents[2]
# What takes long, and has tests of its own.
LONG = {"demo", "bench", "batch"}


@pytest.fixture(scope="module")
def readme() -> str:
    return (ROOT / "README.md").read_text("utf-8")


def blocks(text: str, kind: str) -> list[str]:
    return re.findall(rf"^```{kind}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


def commands(text: str) -> list[str]:
    """Every command of the console blocks, continued lines joined, without the prompt."""
    joined = "\n".join(blocks(text, "console")).replace("\\\n", " ")
    return [line.removeprefix("$ ").strip() for line in joined.splitlines() if line.strip()]


def paths_of(group: click.Group, prefix: str) -> Iterator[str]:
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            yield from paths_of(command, f"{prefix} {name}")
        else:
            yield f"{prefix} {name}"


@pytest.fixture
def shell(tmp_path: Path, environment: dict[str, str], own_samples: Path) -> dict[str, str]:
    """A folder with what a reader has: a photograph, the command, and no home yet."""
    folder = tmp_path / "bin"
    folder.mkdir()
    (folder / "lightseal").write_text(
        f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -c "from tools.cli import main; main()" "$@"\n'
    )
    (folder / "lightseal").chmod(0o755)
    shutil.copy(own_samples / "harbour.jpg", tmp_path / "photo.jpg")
    home = str(tmp_path / "home")
    return {**environment, "PATH": f"{folder}:{environment['PATH']}", "LIGHTSEAL_HOME": home}


def test_the_commands_work_in_the_order_in_which_they_are_read(
    readme: str, shell: dict[str, str], tmp_path: Path
) -> None:
    ran = []
    for line in commands(readme):
        words = line.split()
        if words[0] != "lightseal" or words[1] in LONG:
            continue
        done = subprocess.run(
            ["/bin/sh", "-c", line], cwd=tmp_path, env=shell, capture_output=True, text=True, check=False
        )
        assert (line, done.returncode, done.stderr) == (line, 0, "")
        ran.append(words[1])
        if words[1] == "init":
            for name in ("signers.pem", "time-stampers.pem"):
                shutil.copy(tmp_path / "home" / "trust" / name, tmp_path / name)
            key = re.findall(r"ledger key\s+(\S+)", done.stdout)[0]
            (tmp_path / "log.vkey").write_text(key + "\n")
    assert ran[0] == "init"
    assert {"init", "device", "sign", "verify"} <= set(ran)


def test_the_verdict_that_is_shown_has_the_lines_that_are_printed(
    readme: str, shell: dict[str, str], tmp_path: Path
) -> None:
    (example,) = [
        block for block in blocks(readme, "text") if Headline.INTACT_SIGNER_RECOGNISED.value in block
    ]
    for line in (
        "lightseal init",
        'lightseal device enrol cam-1 --product "Northwind Camera M3"',
        "lightseal sign photo.jpg --device cam-1 --out signed",
    ):
        subprocess.run(["/bin/sh", "-c", line], cwd=tmp_path, env=shell, capture_output=True, check=True)
    printed = subprocess.run(
        ["lightseal", "verify", "signed/photo.jpg"],
        cwd=tmp_path,
        env=shell,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert [without_accidents(line) for line in example.splitlines()] == [
        without_accidents(line) for line in printed.splitlines()
    ]


def without_accidents(line: str) -> str:
    """A printed line without moments, entry numbers and the name of one ledger."""
    line = re.sub(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", "TIME", line)
    return re.sub(r"lightseal\.local/\w+", "LEDGER", re.sub(r"entry \d+", "entry N", line))


@pytest.mark.parametrize("path", sorted(paths_of(program, "lightseal")))
def test_every_command_is_named(readme: str, path: str) -> None:
    """A sub-command may be named beside its sisters: `lightseal ledger checkpoint`, `show`."""
    last = path.rsplit(maxsplit=1)[-1]
    group = " ".join(path.split()[:-1])
    named = path in readme or any(f"`{last}`" in line and group in line for line in readme.splitlines())
    assert named, path


def test_no_command_is_named_that_does_not_exist(readme: str) -> None:
    known = {path.split()[1] for path in paths_of(program, "lightseal")}
    named = set(re.findall(r"`lightseal ([a-z]+)", readme)) | {
        line.split()[1] for line in commands(readme) if line.startswith("lightseal ")
    }
    assert named
    assert named <= known


def test_every_exit_status_is_told(readme: str) -> None:
    told = {int(number) for number in re.findall(r"\b(\d{1,2})\b", readme)}
    assert {exit_status(head) for head in Headline} <= told


def test_pictures_that_are_shown_are_there(readme: str) -> None:
    shown = re.findall(r"!\[[^\]]+\]\(([^)]+)\)", readme)
    assert shown
    assert [path for path in shown if not (ROOT / path).is_file()] == []


def test_nothing_is_left_to_be_filled_in(readme: str) -> None:
    assert not re.search(r"^[A-Z_]{6,}$", readme, re.MULTILINE)
