"""`lightseal ca`, as its users start it: a rotation with the root elsewhere, and a bundle."""

from datetime import UTC, datetime
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from tools.cli_ca import ca
from tools.home import Home


@pytest.fixture
def run(fresh_home: Home):
    def started(*words: object, said: str | None = None) -> Result:
        return CliRunner().invoke(ca, [str(word) for word in words], input=said, obj=fresh_home.path)

    return started


def done(result: Result) -> str:
    assert result.exit_code == 0, (result.output, result.exception)
    return result.stdout


def test_a_new_authority_through_a_ceremony(run, fresh_home: Home, tmp_path: Path) -> None:
    home = fresh_home.path
    request, out = tmp_path / "request.json", tmp_path / "out"
    assert "issuing-2" in done(run("rotate", "--request", request))
    words = (
        *("ceremony", out, "--root", f"file:{home / 'keys' / 'root.pem'}", "--request", request),
        *("--certificate", home / "certificates" / "root.pem"),
        *("--authority", home / "certificates" / "issuing.pem"),
        *("--operator", "Ada", "--operator", "Grace", "--clock", datetime.now(UTC).isoformat()),
    )
    transcript = done(run(*words, said="y\ny\n"))
    assert transcript == (out / "transcript.txt").read_text()
    assert done(run("rotate", "--install", out / "issuing-2.pem")) == "issuing-2 issues from now on.\n"
    old, new = done(run("list")).splitlines()
    assert "answers until" in old
    assert "issuing-2    issues;" in new


@pytest.mark.parametrize("said", ["n\n", "y\nn\n", ""])
def test_who_says_no_has_the_last_word(run, tmp_path: Path, said: str) -> None:
    words = ("--operator", "Ada", "--operator", "Grace", "--clock", datetime.now(UTC).isoformat())
    place = f"file:{tmp_path / 'root.pem'}"
    result = run("ceremony", tmp_path / "out", "--root", place, "--organisation", "Lab", *words, said=said)
    assert result.exit_code != 0
    assert not (tmp_path / "out").exists()


def test_rotation_where_the_root_is_at_hand(run, fresh_home: Home) -> None:
    assert done(run("rotate")) == "issuing-2 issues from now on.\n"
    assert fresh_home.issuers() == ("issuing", "issuing-2")


def test_a_bundle_is_published_and_checked(run, fresh_home: Home, tmp_path: Path) -> None:
    made = done(run("bundle", tmp_path / "bundle"))
    assert made.startswith("version 1 of ")
    assert done(run("bundle", tmp_path / "bundle", "--check", fresh_home.log)) == made
    assert run("bundle", tmp_path / "bundle", "--check", fresh_home.log, "--after", 1).exit_code != 0


def test_options_that_contradict_each_other_are_refused(run, tmp_path: Path) -> None:
    assert run("rotate", "--install", tmp_path / "a", "--request", tmp_path / "b").exit_code != 0
    (tmp_path / "mine").write_text("kept")
    assert run("rotate", "--request", tmp_path / "mine").exit_code != 0
    assert (tmp_path / "mine").read_text() == "kept"
