"""What a worker says of a file before it is signed, and how it opens one."""

import os
import sys
from pathlib import Path

import pytest

from authn.evidence import Credentials
from tools.errors import NotAFileError
from tools.examine import Prepared, Tail, obstacle, start_preparing
from tools.verdict import Obstacle


def prepared(path: Path | str) -> Prepared:
    found = start_preparing(Tail.REFUSED)(str(path))
    assert isinstance(found, Prepared), found
    return found


def refused(path: Path | str) -> Obstacle:
    found = start_preparing(Tail.REFUSED)(str(path))
    assert isinstance(found, Obstacle), found
    return found


def test_a_whole_picture_may_be_signed(plain_jpeg: Path) -> None:
    found = prepared(plain_jpeg)
    assert found.size == plain_jpeg.stat().st_size
    assert found.credentials is Credentials.NONE
    assert found.note == ""


def test_a_heic_without_its_decoder_may_be_signed_and_the_note_says_so(
    shared: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    found = prepared(shared / "samples" / "heic" / "IMG_2927.HEIC")
    assert "not decoded" in found.note
    assert "lightseal[heic]" in found.note


def test_a_heic_without_its_decoder_is_refused_when_its_structure_is_cut(
    shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    whole = (shared / "samples" / "heic" / "IMG_2927.HEIC").read_bytes()
    (tmp_path / "cut.heic").write_bytes(whole[:-1000])
    assert refused(tmp_path / "cut.heic").code == "media-truncated"


def test_a_folder_and_a_pipe_are_no_files(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.jpg")
    assert refused(tmp_path).code == "not-a-file"
    assert refused(tmp_path / "pipe.jpg").code == "not-a-file"


def test_a_name_with_a_nul_is_unreadable_and_says_why() -> None:
    found = refused("a\0b.jpg")
    assert found.code == "file-unreadable"
    assert "NUL" in found.reason


def test_a_reason_holds_nothing_that_reorders_a_line() -> None:
    found = obstacle(NotAFileError("a\u202eb\nc\x1b[2J"))
    assert found.reason == "ab c[2J"
    assert found.remedy == NotAFileError.remedy
