"""The demonstration ends with the five verdicts it promises."""

import json
import re
import time
from datetime import UTC, datetime
from pathlib import Path

import pytest

from tools.demo import run_demo
from tools.errors import OutputExistsError

EXPECTED = {
    "1-untouched.jpg": "INTACT_SIGNER_RECOGNISED",
    "2-one-bit-altered.jpg": "CHANGED_AFTER_SIGNING",
    "3-credentials-stripped.jpg": "MATCHES_RECORDED_CAPTURE",
    "4-credentials-of-another.jpg": "CHANGED_AFTER_SIGNING",
    "5-never-signed.jpg": "NO_CREDENTIALS",
}


def now() -> datetime:
    return datetime.now(UTC)


def test_the_demonstration_shows_what_it_promises(tmp_path: Path) -> None:
    began = time.monotonic()
    text = "\n".join(run_demo(tmp_path / "demo", now))
    assert time.monotonic() - began < 60
    assert dict(re.findall(r"^(\d-[a-z-]+\.jpg): .*\[([A-Z_]+)\]$", text, re.MULTILINE)) == EXPECTED
    rows = [json.loads(line) for line in (tmp_path / "demo" / "results.jsonl").read_text().splitlines()]
    assert {Path(row["path"]).name: row["headline"] for row in rows} == EXPECTED
    assert "0 divergences" in text
    page = (tmp_path / "demo" / "report.html").read_text("utf-8")
    assert re.findall(r'<p class="name"><code>([A-Z_]+)', page) == list(EXPECTED.values())
    assert page.count("data:image/jpeg;base64,") == len(EXPECTED)


def test_the_demonstration_leaves_only_its_page_where_nothing_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    lines = list(run_demo(None, now))
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]
    assert str(tmp_path / "report.html") in lines[-1]


def test_the_demonstration_keeps_nothing_in_a_folder_that_is_there(tmp_path: Path) -> None:
    with pytest.raises(OutputExistsError):
        list(run_demo(tmp_path, now))
    assert list(tmp_path.iterdir()) == []


def test_the_pictures_are_small(own_samples: Path) -> None:
    assert sum(path.stat().st_size for path in own_samples.iterdir()) < 1_000_000
