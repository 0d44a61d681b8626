"""A run over an archive: its rows, its status, and the rules it is held to."""

import io
import json
import os
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from authn.profile import Profile
from tools.archive import check_archive, on_terminal, piped, silent
from tools.check import Beliefs, Chosen, beliefs
from tools.errors import OutputExistsError, RunForeignError, UsageError
from tools.home import Home


def now() -> datetime:
    return datetime.now(UTC)


@pytest.fixture
def held(home: Home) -> Iterator[Beliefs]:
    with beliefs(home, Chosen(), now()) as opened:
        yield opened


@pytest.fixture
def tree(tmp_path: Path, signed: Path, altered: Path) -> Path:
    folder = tmp_path / "tree"
    (folder / "below").mkdir(parents=True)
    (folder / "a.jpg").write_bytes(signed.read_bytes())
    (folder / "below" / "b.jpg").write_bytes(altered.read_bytes())
    return folder


def rows(path: Path) -> dict[str, str]:
    found = [json.loads(line) for line in path.read_text().splitlines()]
    assert len({row["path"] for row in found}) == len(found)
    return {Path(row["path"]).name: row["headline"] for row in found}


def test_a_run_answers_each_file_once_however_often_it_is_started(
    held: Beliefs, tree: Path, tmp_path: Path
) -> None:
    out = tmp_path / "rows.jsonl"
    first = check_archive((tree,), "one", out, held, 1, silent())
    before = out.read_bytes()
    again = check_archive((tree,), "one", out, held, 1, silent())
    assert rows(out) == {"a.jpg": "INTACT_SIGNER_RECOGNISED", "b.jpg": "CHANGED_AFTER_SIGNING"}
    assert (first.exit_status, again.exit_status) == (0, 0)
    assert out.read_bytes() == before
    assert (again.summary.earlier, again.summary.now) == (2, 0)


def test_a_file_that_was_not_checked_shows_in_the_status(held: Beliefs, tree: Path, tmp_path: Path) -> None:
    (tree / "empty.jpg").touch()
    (tree / "gone.jpg").symlink_to(tmp_path / "nowhere")
    done = check_archive((tree,), "one", tmp_path / "rows.jsonl", held, 1, silent())
    assert done.exit_status == 21
    found = rows(tmp_path / "rows.jsonl")
    assert (found["empty.jpg"], found["gone.jpg"]) == ("NOT_CHECKED", "NOT_CHECKED")


def test_rows_made_under_other_lists_are_never_mixed(
    held: Beliefs, home: Home, tree: Path, tmp_path: Path
) -> None:
    out = tmp_path / "rows.jsonl"
    check_archive((tree,), "one", out, held, 1, silent())
    stampers = tmp_path / "stampers.pem"
    stampers.write_bytes(home.own_lists()[1].pem)
    with (
        beliefs(home, Chosen(signers=stampers, profile=Profile.POLICY), now()) as others,
        pytest.raises(RunForeignError),
    ):
        check_archive((tree,), "one", out, others, 1, silent())


@pytest.mark.parametrize("teller", [on_terminal, piped])
def test_progress_is_told_where_it_was_asked_for(
    held: Beliefs, tree: Path, tmp_path: Path, teller: object
) -> None:
    stream = io.StringIO()
    check_archive((tree,), "one", tmp_path / "rows.jsonl", held, 1, teller(stream))  # type: ignore[operator]
    assert stream.getvalue().strip().rpartition("\x1b[K")[2].startswith("one")
    assert "changed after signing 1" in stream.getvalue()


@pytest.mark.parametrize("name", ["", "a\x1b[31m\nX", "../x", "A", "-x", "a\n", "x" * 65])
def test_a_run_s_name_is_plain_wherever_the_rows_go(
    held: Beliefs, tree: Path, tmp_path: Path, name: str
) -> None:
    with pytest.raises(UsageError, match="a run's name is"):
        check_archive((tree,), name, tmp_path / "out" / "rows.jsonl", held, 1, silent())
    assert list(tmp_path.iterdir()) == [tree]


def test_what_is_no_results_file_is_refused_with_nothing_beside_it(
    held: Beliefs, tree: Path, tmp_path: Path
) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "mine").write_text("holiday")
    before = sorted(tmp_path.iterdir())
    for place in (Path(), Path("/dev/full"), tree, tmp_path / "pipe", tmp_path / "mine"):
        with pytest.raises(OutputExistsError):
            check_archive((tree,), "one", place, held, 1, silent())
    assert sorted(tmp_path.iterdir()) == before
