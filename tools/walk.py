"""List the files under the given paths, lazily, in sorted order, silent about none.

Links inside a tree are not followed: where a link points into the same tree, its target is
met anyway; any other link, and all that is neither file nor folder, is a finding. The names
of the folders on the way down are held in memory, and of no others.
"""
# Names stay exactly as the kernel spells them, and a million of them are not wrapped in objects.
# ruff: noqa: PTH110, PTH118, PTH208

import enum
import functools
import os
import stat
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass


class Skip(enum.StrEnum):
    """Why a path was not opened."""

    MISSING = "missing"
    FOLDER_UNREADABLE = "folder-unreadable"
    LINK_BROKEN = "link-broken"
    LINK_LEAVES_TREE = "link-leaves-tree"
    NOT_A_FILE = "not-a-file"


@dataclass(frozen=True, slots=True)
class Skipped:
    """A path that was met and not opened."""

    path: str
    reason: Skip
    detail: str


def walk(roots: Iterable[str], but: Collection[str] = ()) -> Iterator[str | Skipped]:
    """Every regular file under `roots`, by its real path, except those in `but`.

    Roots that overlap give the same file again; the caller knows what it has had.
    """
    for root in roots:
        real = os.path.realpath(root)
        for found in _visit(real, real):
            if (found.path if isinstance(found, Skipped) else found) not in but:
                yield found


def count(roots: Iterable[str], but: Collection[str] = ()) -> int:
    """How many paths `walk` gives; files that come or go meanwhile are not known."""
    return sum(1 for _ in walk(roots, but))


def _visit(top: str, root: str) -> Iterator[str | Skipped]:
    """Depth first with a stack of our own: a tree may be deeper than Python's."""
    pending: list[Iterator[str]] = [iter((top,))]
    while pending:
        path = next(pending[-1], None)
        if path is None:
            pending.pop()
            continue
        try:
            mode = os.lstat(path).st_mode
            if stat.S_ISDIR(mode):
                names = sorted(os.listdir(path), key=os.fsencode)
                pending.append(map(functools.partial(os.path.join, path), names))
                continue
        except FileNotFoundError:
            yield Skipped(path, Skip.MISSING, "there is nothing of that name")
            continue
        except OSError as error:
            yield Skipped(path, Skip.FOLDER_UNREADABLE, error.strerror or "unknown reason")
            continue
        if stat.S_ISREG(mode):
            yield path
        elif stat.S_ISLNK(mode):
            yield from _link(path, root)
        else:
            yield Skipped(path, Skip.NOT_A_FILE, "neither a file nor a folder")


def _link(path: str, root: str) -> Iterator[Skipped]:
    target = os.path.realpath(path)
    if not os.path.exists(target):
        yield Skipped(path, Skip.LINK_BROKEN, "it points to nothing")
    elif target != root and not target.startswith(os.path.join(root, "")):
        yield Skipped(path, Skip.LINK_LEAVES_TREE, "it points out of the tree")
