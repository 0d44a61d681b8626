"""A watched file is given out when it is complete, once, whatever it is called."""

import os
from pathlib import Path

import pytest

from tools.camera.watch import Watch, digest_of
from tools.errors import NotAFileError, UnreadableError


def looked(watch: Watch, at: float) -> list[str]:
    return [path.name for path in watch.look(at)]


def test_a_file_is_given_out_when_it_stopped_growing(tmp_path: Path) -> None:
    watch, path = Watch(tmp_path, 2), tmp_path / "a.jpg"
    path.write_bytes(b"one")
    assert looked(watch, 0) == []
    path.write_bytes(b"one, two")
    assert looked(watch, 3) == [], "it grew"
    assert looked(watch, 4) == [], "not long enough ago"
    assert looked(watch, 5) == ["a.jpg"]
    assert looked(watch, 9) == [], "once"


def test_a_file_that_changed_after_it_was_given_out_is_given_out_again(tmp_path: Path) -> None:
    watch, path = Watch(tmp_path, 1), tmp_path / "a.jpg"
    path.write_bytes(b"half")
    list(watch.look(0))
    assert looked(watch, 1) == ["a.jpg"]
    path.write_bytes(b"half and whole")
    assert looked(watch, 2) == []
    assert looked(watch, 3) == ["a.jpg"]


def test_a_name_that_is_used_again_is_another_file(tmp_path: Path) -> None:
    watch, path = Watch(tmp_path, 1), tmp_path / "DSC_0001.JPG"
    path.write_bytes(b"first")
    list(watch.look(0))
    assert looked(watch, 1) == ["DSC_0001.JPG"]
    path.unlink()
    assert looked(watch, 2) == []
    path.write_bytes(b"other")
    list(watch.look(3))
    assert looked(watch, 4) == ["DSC_0001.JPG"]


def test_drafts_links_empty_files_and_other_types_are_left_alone(tmp_path: Path) -> None:
    outside = tmp_path / "outside.jpg"
    outside.write_bytes(b"x")
    card = tmp_path / "card"
    (card / ".trash").mkdir(parents=True)
    (card / ".trash" / "t.jpg").write_bytes(b"x")
    (card / ".draft.jpg").write_bytes(b"x")
    (card / "notes.txt").write_bytes(b"x")
    (card / "empty.jpg").touch()
    (card / "link.jpg").symlink_to(outside)
    os.mkfifo(card / "pipe.jpg")
    (card / "DCIM").mkdir()
    (card / "DCIM" / "b.jpg").write_bytes(b"x")
    watch = Watch(card, 1)
    list(watch.look(0))
    (card / "pipe.jpg").unlink()
    assert looked(watch, 1) == ["b.jpg"]


def test_what_lies_there_like_a_capture_and_is_none_is_named_once(tmp_path: Path) -> None:
    card = tmp_path / "card"
    card.mkdir()
    (card / "good.jpg").write_bytes(b"x")
    (card / ".draft.jpg").touch()
    (card / "notes.txt").touch()
    (card / "empty.jpg").touch()
    (card / "link.jpg").symlink_to(tmp_path / "nowhere.jpg")
    os.mkfifo(card / "pipe.jpg")
    watch = Watch(card, 2)

    def said(at: float) -> list[tuple[str, str]]:
        return [(path.name, why) for path, why in watch.passed_over(at)]

    assert said(0) == [], "a file that is just being made is empty too"
    assert said(1) == []
    expected = [
        ("empty.jpg", "it is empty"),
        ("link.jpg", "a link is not followed"),
        ("pipe.jpg", "it is no file"),
    ]
    assert said(2) == expected
    assert said(3) == said(100) == [], "once"
    (card / "empty.jpg").write_bytes(b"x")
    (card / "link.jpg").unlink()
    assert said(101) == []
    (card / "link.jpg").symlink_to(tmp_path / "nowhere.jpg")
    said(102)
    assert said(104) == [("link.jpg", "a link is not followed")], "another one, by the same name"


def test_a_folder_that_is_none_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(NotAFileError):
        list(Watch(tmp_path / "nowhere", 1).look(0))
    with pytest.raises(UnreadableError):
        digest_of(tmp_path / "nowhere.jpg")
