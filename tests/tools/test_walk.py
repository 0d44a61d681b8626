"""Every file once, in order, and nothing passed over in silence."""

import os
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from tools.walk import Skip, Skipped, count, walk


def listed(*roots: Path, but: tuple[str, ...] = ()) -> list[tuple[str, str]]:
    """What the walk gives, as path and reason, where a file's reason is `file`."""
    return [
        (each.path, str(each.reason)) if isinstance(each, Skipped) else (each, "file")
        for each in walk(map(str, roots), but)
    ]


def test_files_come_sorted_and_folders_in_their_place(tmp_path: Path) -> None:
    for name in ("b/2.jpg", "b/1.jpg", "a.jpg", "c.jpg", "b/deep/3.jpg"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    names = ["a.jpg", "b/1.jpg", "b/2.jpg", "b/deep/3.jpg", "c.jpg"]
    assert listed(tmp_path) == [(str(tmp_path / name), "file") for name in names]
    assert count([str(tmp_path)]) == 5


def test_links_lead_neither_out_nor_around(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    (tree / "sub").mkdir(parents=True)
    (tree / "sub" / "x.jpg").touch()
    (tmp_path / "secret.jpg").touch()
    (tmp_path / "tree-beside").mkdir()
    (tree / "again.jpg").symlink_to(tree / "sub" / "x.jpg")
    (tree / "beside").symlink_to(tmp_path / "tree-beside")
    (tree / "broken").symlink_to("nowhere")
    (tree / "circle").symlink_to("circle")
    (tree / "out.jpg").symlink_to("../secret.jpg")
    (tree / "sub" / "up").symlink_to("..")
    assert listed(tree) == [
        (str(tree / "beside"), Skip.LINK_LEAVES_TREE),
        (str(tree / "broken"), Skip.LINK_BROKEN),
        (str(tree / "circle"), Skip.LINK_BROKEN),
        (str(tree / "out.jpg"), Skip.LINK_LEAVES_TREE),
        (str(tree / "sub" / "x.jpg"), "file"),
    ]


def test_what_is_no_file_is_said_to_be_none(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    assert listed(tmp_path, tmp_path / "gone", tmp_path / "pipe" / "x") == [
        (str(tmp_path / "pipe"), Skip.NOT_A_FILE),
        (str(tmp_path / "gone"), Skip.MISSING),
        (str(tmp_path / "pipe" / "x"), Skip.FOLDER_UNREADABLE),
    ]


def test_a_root_is_named_by_its_real_path(tmp_path: Path) -> None:
    (tmp_path / "x.jpg").touch()
    (tmp_path / "link").symlink_to("x.jpg")
    same = [tmp_path / "x.jpg", tmp_path / "link", tmp_path / "no" / ".." / "x.jpg"]
    assert listed(*same) == [(str(tmp_path / "x.jpg"), "file")] * 3


def test_a_tree_deeper_than_the_interpreter_is_walked(tmp_path: Path) -> None:
    folders = [tmp_path]
    for _ in range(1200):
        folders.append(folders[-1] / "d")
        folders[-1].mkdir()
    (folders[-1] / "x.jpg").touch()
    found = listed(tmp_path)
    (folders[-1] / "x.jpg").unlink()
    for folder in reversed(folders[1:]):  # most programs that remove trees give up at such a depth
        folder.rmdir()
    assert found == [(str(folders[-1] / "x.jpg"), "file")]


def test_the_files_to_leave_out_are_left_out(tmp_path: Path) -> None:
    (tmp_path / "x.jpg").touch()
    (tmp_path / "rows.jsonl").touch()
    assert listed(tmp_path, but=(str(tmp_path / "rows.jsonl"),)) == [(str(tmp_path / "x.jpg"), "file")]


NAMES = st.sets(
    st.binary(min_size=1, max_size=8).filter(
        lambda name: not set(name) & set(b"/\0") and name not in (b".", b"..")
    ),
    max_size=6,
)


@given(names=NAMES)
def test_any_name_that_the_kernel_allows_survives(tmp_path_factory: object, names: set[bytes]) -> None:
    folder = tmp_path_factory.mktemp("names")  # type: ignore[attr-defined]
    for name in names:
        Path(folder, os.fsdecode(name)).touch()
    assert [os.fsencode(path) for path, _ in listed(folder)] == [
        os.path.join(os.fsencode(folder), name)  # noqa: PTH118
        for name in sorted(names)
    ]
