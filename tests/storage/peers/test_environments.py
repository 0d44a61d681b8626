"""What the peers are is fixed to the exact version, and what npm brings to the byte."""

import json
import re
from pathlib import Path

import pytest

HERE = Path(__file__).parent
PIN = re.compile(r"[a-z0-9-]+==[0-9][0-9a-z.]*( ; .+)?")


@pytest.mark.parametrize("path", sorted((HERE / "requirements").iterdir()), ids=lambda path: path.stem)
def test_every_requirement_is_pinned(path: Path) -> None:
    lines = path.read_text(encoding="utf-8").splitlines()
    assert lines
    assert [line for line in lines if PIN.fullmatch(line) is None] == []


def test_what_npm_brings_is_pinned_by_its_digest() -> None:
    wanted = json.loads((HERE / "node" / "package.json").read_text(encoding="utf-8"))["dependencies"]
    locked = json.loads((HERE / "node" / "package-lock.json").read_text(encoding="utf-8"))["packages"]
    assert locked.pop("")["dependencies"] == wanted
    for name, version in wanted.items():
        assert locked[f"node_modules/{name}"]["version"] == version
    assert all(package["integrity"].startswith("sha512-") for package in locked.values())
