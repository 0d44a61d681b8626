"""Backups written from ledgers in memory, read back, and forged in every way we could think of."""

import hashlib
import io
import itertools
import json
import os
import re
import resource
import signal
import stat
import subprocess
import sys
import tracemalloc
import zipfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from storage.backup import read as restore
from storage.backup import write as backup
from storage.backup.read import (
    BackupProofError,
    BackupUnreadableError,
    Entries,
    Head,
    MalformedBackupError,
    Published,
    Secrets,
    Witnessed,
    check,
    read,
)
from storage.backup.write import (
    MAX_SEALED_BYTES,
    BackupExistsError,
    BackupTooLargeError,
    BackupUnwritableError,
    DatedNote,
    SealedSecret,
    member_names,
    write,
)
from storage.checkpoint import Checkpoint, open_checkpoint
from storage.errors import (
    EmptyLedgerError,
    Error,
    LedgerDamagedError,
    MalformedError,
    NoteSignatureError,
    ProofError,
)
from storage.foreign.audit import Bodies, audit_source
from storage.foreign.follow import Follower
from storage.foreign.source import FolderSource
from storage.merkle import Frontier, leaf_hash


def spec_root(hashes: Sequence[bytes]) -> bytes:
    """MTH of RFC 6962, 2.1, over leaf hashes; slow, and only here."""
    if len(hashes) <= 1:
        return hashes[0] if hashes else hashlib.sha256().digest()
    split = 1 << (len(hashes) - 1).bit_length() - 1
    return hashlib.sha256(b"\1" + spec_root(hashes[:split]) + spec_root(hashes[split:])).digest()


class Ledger:
    """A snapshot in memory, with a checkpoint at each of `sizes`."""

    revision = "0002"

    def __init__(self, log: Any, bodies: Sequence[bytes], *sizes: int) -> None:
        self.origin, self.size, self.bodies = log.name, len(bodies), list(bodies)
        self.leaves = [leaf_hash(body) for body in bodies]
        sizes = sizes or ((len(bodies),) if bodies else ())
        frontier, roots = Frontier(), {}
        for leaf in self.leaves:
            frontier.append(leaf)
            roots[frontier.size] = frontier.root() if frontier.size in sizes else b""
        self.kept = [
            DatedNote(log.sign(str(Checkpoint(log.name, size, roots[size]))), 1000 + size) for size in sizes
        ]
        self.cosigned = [DatedNote(each.note + WITNESS, each.at) for each in self.kept[::2]]
        self.rows = [SealedSecret(index, b"sealed %d" % index) for index in range(0, self.size, 3)]

    def notes(self) -> Iterable[DatedNote]:
        return iter(self.kept)

    def witnessed(self) -> Iterable[DatedNote]:
        return iter(self.cosigned)

    def entries(self, start: int, stop: int) -> Iterable[bytes]:
        return iter(self.bodies[start:stop])

    def secrets(self, start: int, stop: int) -> Iterable[SealedSecret]:
        return (row for row in self.rows if start <= row.index < stop)

    def tile(self, level: int, number: int, width: int) -> bytes:
        each = 256**level
        first = number * 256 * each
        starts = range(first, first + width * each, each)
        return b"".join(spec_root(self.leaves[at : at + each]) for at in starts)


WITNESS = "— witness.example AAAAAAAAAAAA\n".encode()


def numbered(count: int) -> list[bytes]:
    return [b"entry %d" % number for number in range(count)]


def opener(log: Any) -> Callable[[bytes], Checkpoint]:
    return lambda note: open_checkpoint(note, [log.key], log.verify)


@pytest.fixture
def place(tmp_path: Path) -> Path:
    return tmp_path / "out" / "ledger.zip"


@pytest.fixture
def written(log: Any, place: Path) -> Path:
    """A sound backup of 600 entries and some checkpoints."""
    place.parent.mkdir()
    write(Ledger(log, numbered(600), 1, 256, 300, 599, 600), place)
    return place


# --- Sound backups


@pytest.mark.parametrize("size", [1, 2, 255, 256, 257, 511, 512, 700])
def test_a_backup_holds_the_ledger_and_nothing_else(log, tmp_path: Path, size: int) -> None:
    place = tmp_path / "ledger.zip"
    sizes = sorted({1, size // 2 or 1, size})
    ledger = Ledger(log, numbered(size), *sizes)
    facts = write(ledger, place)
    assert facts == check(place, opener(log))
    assert (facts.origin, facts.revision, facts.size) == (log.name, "0002", size)
    assert facts.root == spec_root(ledger.leaves)
    assert (facts.notes, facts.witnessed, facts.secrets) == (
        len(sizes),
        len(ledger.cosigned),
        len(ledger.rows),
    )
    parts = list(read(place, opener(log)))
    assert parts[0] == Head(log.name, "0002", size)
    entries = [part for part in parts if isinstance(part, Entries)]
    assert [body for part in entries for body in part.bodies] == ledger.bodies
    assert [part.start for part in entries] == list(range(0, size, 256))
    assert [part.signed for part in parts if isinstance(part, Published)] == ledger.kept
    assert [part.signed for part in parts if isinstance(part, Witnessed)] == ledger.cosigned
    assert [row for part in parts if isinstance(part, Secrets) for row in part.rows] == ledger.rows


def test_a_checkpoint_comes_after_the_entries_it_covers(log, written: Path) -> None:
    covered = 0
    for part in read(written, opener(log)):
        if isinstance(part, Entries):
            covered = part.start + len(part.bodies)
        elif isinstance(part, Published | Witnessed):
            assert part.checkpoint.size <= covered


def test_the_same_ledger_gives_the_same_bytes(log, written: Path, tmp_path: Path) -> None:
    write(Ledger(log, numbered(600), 1, 256, 300, 599, 600), tmp_path / "again.zip")
    assert (tmp_path / "again.zip").read_bytes() == written.read_bytes()


def test_only_its_owner_may_read_it(written: Path) -> None:
    assert stat.S_IMODE(written.stat().st_mode) == 0o600
    assert list(written.parent.iterdir()) == [written]


def test_public_tools_read_it_and_its_tree_is_a_log_to_follow(log, written: Path, tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-m", "zipfile", "-e", written, tmp_path / "tree"], check=True)
    sums = subprocess.run(
        ["sha256sum", "--check", "--strict", "SHA256SUMS"],
        cwd=tmp_path / "tree",
        check=True,
        capture_output=True,
    )
    names = {
        path.relative_to(tmp_path / "tree").as_posix()
        for path in (tmp_path / "tree").rglob("*")
        if path.is_file()
    }
    assert sums.stdout.count(b": OK\n") == len(names) - 1
    source = FolderSource(tmp_path / "tree")
    assert audit_source(source, opener(log), Bodies.OPAQUE).findings == ()
    follower = Follower(source, opener(log), tmp_path / "log.state")
    bodies = [body for chunk in follower.advance_comparing_tiles() for body in chunk.bodies]
    assert bodies == numbered(600)


def test_what_was_sealed_is_as_it_was_and_nothing_says_what_is_in_it(written: Path) -> None:
    with zipfile.ZipFile(written) as archive:
        rows = [json.loads(line) for line in archive.read("secrets.jsonl").splitlines()]
        assert b"keyring, which is not in here" in archive.read("README.txt")
    assert [row["index"] for row in rows] == list(range(0, 600, 3))
    assert {frozenset(row) for row in rows} == {frozenset({"index", "sealed"})}


def test_the_members_are_named_as_a_tree_of_that_size_has_them() -> None:
    names = list(member_names(70_000))
    full = [f"tile/{level}/" for level in (0, 1, 2)]
    assert len(set(names)) == len(names)
    assert [sum(name.startswith(each) for name in names) for each in full] == [274, 2, 1]
    assert {"tile/0/273.p/112", "tile/1/000", "tile/1/001.p/17", "tile/2/000.p/1"} <= set(names)
    assert sum(name.startswith("tile/entries/") for name in names) == 274


def test_writing_and_checking_take_a_flat_amount_of_memory(log, tmp_path: Path) -> None:
    ledger = Ledger(log, [b"%d" % n + bytes(8000) for n in range(8192)])
    tracemalloc.start()
    try:
        write(ledger, tmp_path / "ledger.zip")
        check(tmp_path / "ledger.zip", opener(log))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert (tmp_path / "ledger.zip").stat().st_size > 62 << 20
    assert peak < 16 << 20


# --- What is not written


def test_nothing_is_written_over(log, written: Path, tmp_path: Path) -> None:
    before = written.read_bytes()
    with pytest.raises(BackupExistsError):
        write(Ledger(log, numbered(1)), written)
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    with pytest.raises(BackupExistsError):
        write(Ledger(log, numbered(1)), tmp_path / "link")
    assert written.read_bytes() == before


def damaged(ledger: Ledger) -> Iterator[Ledger]:
    bodies, leaves, kept = list(ledger.bodies), list(ledger.leaves), list(ledger.kept)
    ledger.bodies[300] = b"forged"
    yield ledger
    ledger.bodies = [*bodies[:300], *bodies[301:]]
    yield ledger
    ledger.bodies = bodies
    ledger.leaves[300] = bytes(32)
    yield ledger
    ledger.leaves = leaves
    for notes in ([], kept[:-1], [*kept, DatedNote(b"no note", 1)], [*kept, DatedNote(b"\xff", 1)]):
        ledger.kept = notes
        yield ledger
    ledger.kept = kept
    ledger.origin = "elsewhere.example"
    yield ledger
    ledger.origin = "log.example"
    ledger.rows = [SealedSecret(0, bytes(MAX_SEALED_BYTES + 1))]
    yield ledger


def test_a_ledger_that_does_not_add_up_is_not_backed_up(log, tmp_path: Path) -> None:
    for ledger in damaged(Ledger(log, numbered(600), 1, 300, 600)):
        with pytest.raises(LedgerDamagedError):
            write(ledger, tmp_path / "ledger.zip")
        assert list(tmp_path.iterdir()) == []


def test_an_empty_ledger_and_a_far_too_large_one_are_refused(log, tmp_path: Path) -> None:
    with pytest.raises(EmptyLedgerError):
        write(Ledger(log, []), tmp_path / "ledger.zip")
    large = Ledger(log, numbered(1))
    large.size = 10**9
    with pytest.raises(BackupTooLargeError):
        write(large, tmp_path / "ledger.zip")
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_leaves_nothing(log, tmp_path: Path) -> None:
    ledger = Ledger(log, [bytes(1000)] * 600, 1, 600)
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    for room in (0, 1, 500, 100_000, 600_000):
        try:
            # A file may not grow further, as on a full disk; Python ignores the signal that comes with it.
            resource.setrlimit(resource.RLIMIT_FSIZE, (room, old[1]))
            with pytest.raises(BackupUnwritableError, match="no room is left"):
                write(ledger, tmp_path / "ledger.zip")
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, old)
        assert list(tmp_path.iterdir()) == []
    write(ledger, tmp_path / "ledger.zip")


def test_a_folder_that_is_not_there_is_an_error(log, tmp_path: Path) -> None:
    with pytest.raises(BackupUnwritableError):
        write(Ledger(log, numbered(1)), tmp_path / "nowhere" / "ledger.zip")


WRITER = """
import sys, time
from pathlib import Path
from storage.backup.write import DatedNote, write
from storage.derivation import DerivedTree

class Slow:
    origin, revision, size = "log.example", "0002", 256 * 100
    def notes(self): return [DatedNote(b"x", 1)]
    def witnessed(self): return []
    def secrets(self, start, stop): return []
    def tile(self, level, number, width): return tiles[level, number]
    def entries(self, start, stop):
        print(start, flush=True)
        time.sleep(0.02)
        return [b"%d" % n for n in range(start, stop)]

tree = DerivedTree()
tiles = {(t.level, t.number): t.hashes for n in range(Slow.size) for t in tree.append(b"%d" % n)}
write(Slow(), Path(sys.argv[1]))
"""


def test_a_writer_that_is_killed_leaves_no_backup_behind(log, tmp_path: Path) -> None:
    place = tmp_path / "ledger.zip"
    with subprocess.Popen(
        [sys.executable, "-c", WRITER, str(place)], stdout=subprocess.PIPE, cwd=Path(__file__).parents[3]
    ) as process:
        assert process.stdout is not None
        assert len(list(itertools.islice(process.stdout, 20))) == 20
        os.kill(process.pid, signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    assert not place.exists()
    assert all(path.name.startswith(".ledger.zip.") for path in tmp_path.iterdir())
    write(Ledger(log, numbered(3)), place)
    assert check(place, opener(log)).size == 3


# --- Forged backups


Members = dict[str, bytes]


def members(path: Path) -> Members:
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def pack(path: Path, content: Iterable[tuple[str, bytes]], compression: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in content:
            archive.writestr(zipfile.ZipInfo(name), data, compression)
    return path


def summed(content: Members) -> Members:
    """The members with their digests put right again, as a forger would."""
    sums = "".join(
        f"{hashlib.sha256(data).hexdigest()}  {name}\n"
        for name, data in content.items()
        if name != "SHA256SUMS"
    )
    return content | {"SHA256SUMS": sums.encode()}


def repacked(path: Path, out: Path, change: Callable[[Members], Members | None]) -> Path:
    content = members(path)
    changed = change(content)
    return pack(out, summed(content if changed is None else changed).items())


def test_a_sound_backup_that_was_packed_again_is_still_one(log, written: Path, tmp_path: Path) -> None:
    again = repacked(written, tmp_path / "again.zip", lambda content: content)
    assert check(again, opener(log)) == check(written, opener(log))


@pytest.mark.parametrize("name", [*member_names(600), "SHA256SUMS"])
def test_a_member_that_was_altered_or_left_out_is_refused(log, written: Path, tmp_path: Path, name) -> None:
    content = members(written)
    data = content[name]
    altered = pack(tmp_path / "1.zip", (content | {name: bytes([data[0] ^ 1]) + data[1:]}).items())
    longer = pack(tmp_path / "2.zip", (content | {name: data + b"\n"}).items())
    shorter = pack(tmp_path / "3.zip", (content | {name: data[:-1]}).items())
    absent = pack(tmp_path / "4.zip", (item for item in content.items() if item[0] != name))
    for path in (altered, longer, shorter, absent):
        with pytest.raises(MalformedBackupError):
            check(path, opener(log))


@pytest.mark.parametrize("name", ["tile/entries/000", "tile/entries/002.p/88"])
def test_an_altered_body_is_refused_with_its_digest_put_right(log, written, tmp_path, name) -> None:
    def change(content: Members) -> None:
        content[name] = content[name][:-1] + b"x"

    with pytest.raises(BackupProofError):
        check(repacked(written, tmp_path / "forged.zip", change), opener(log))


@pytest.mark.parametrize("name", ["tile/0/000", "tile/0/002.p/88", "tile/1/000.p/2"])
def test_an_altered_tile_is_refused_with_its_digest_put_right(log, written, tmp_path, name) -> None:
    def change(content: Members) -> None:
        content[name] = content[name][:-1] + bytes([content[name][-1] ^ 1])

    with pytest.raises(BackupProofError, match="Tile"):
        check(repacked(written, tmp_path / "forged.zip", change), opener(log))


def test_entries_written_anew_with_all_tiles_do_not_lead_to_the_signed_notes(log, written, tmp_path) -> None:
    forged = Ledger(log, [*numbered(599), b"forged"], 1, 256, 300, 599, 600)
    write(forged, tmp_path / "forger.zip")
    tree = members(tmp_path / "forger.zip")

    def change(content: Members) -> Members:
        return {name: tree[name] if name.startswith("tile/") else data for name, data in content.items()}

    with pytest.raises(BackupProofError, match="600 entries is not that"):
        check(repacked(written, tmp_path / "forged.zip", change), opener(log))


def test_a_note_that_another_key_signed_is_refused(log, other_log, written, tmp_path) -> None:
    with pytest.raises(NoteSignatureError):
        check(written, opener(other_log))

    def change(content: Members) -> None:
        note = other_log.sign(str(Checkpoint(log.name, 300, bytes(32)))).decode()
        lines = content["notes.jsonl"].splitlines(keepends=True)
        lines[2] = backup.line({"at": 1, "note": note})
        content["notes.jsonl"] = b"".join(lines)

    with pytest.raises(NoteSignatureError):
        check(repacked(written, tmp_path / "forged.zip", change), opener(log))


@pytest.mark.parametrize("name", ["notes.jsonl", "witnessed.jsonl"])
@pytest.mark.parametrize("size", [300, 301, 900])
def test_a_signed_note_of_another_root_or_beyond_the_end_is_refused(
    log, written, tmp_path, name, size
) -> None:
    def change(content: Members) -> None:
        note = log.sign(str(Checkpoint(log.name, size, bytes(32)))).decode()
        lines = {
            json.loads(line)["note"].split("\n")[1]: line for line in content[name].splitlines(keepends=True)
        }
        lines[str(size)] = backup.line({"at": 1, "note": note})
        content[name] = b"".join(line for _, line in sorted(lines.items(), key=lambda item: int(item[0])))

    with pytest.raises(BackupProofError):
        check(repacked(written, tmp_path / "forged.zip", change), opener(log))


@pytest.mark.parametrize(
    "change",
    [
        lambda lines: lines[::-1],
        lambda lines: [lines[0], *lines],
        lambda lines: [line.replace(b'"at":', b'"at":-') for line in lines],
        lambda lines: [line.replace(b'"at":', b'"at": ') for line in lines],
        lambda lines: [line.replace(b'"at":1', b'"at":true,"x":1') for line in lines],
        lambda lines: [line.replace(b'"at"', b'"by"') for line in lines],
        lambda lines: [b"[" * 100_000 + b"\n", *lines],
        lambda lines: [b"9" * 5000 + b"\n", *lines],
        lambda lines: [b"\xff\n", *lines],
        lambda lines: [b"\n", *lines],
        lambda lines: [b"x" * (5 << 20) + b"\n", *lines],
        lambda lines: [*lines, b'{"at":1'],
        lambda lines: [b'{"at":1,"note":"\\ud800"}\n', *lines],
    ],
)
def test_lines_that_are_not_as_we_would_write_them_are_refused(log, written, tmp_path, change) -> None:
    def changed(content: Members) -> None:
        content["notes.jsonl"] = b"".join(change(content["notes.jsonl"].splitlines(keepends=True)))
        content["witnessed.jsonl"] = b""

    with pytest.raises(MalformedBackupError):
        check(repacked(written, tmp_path / "forged.zip", changed), opener(log))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda notes, _: notes, "Nobody cosigned"),
        (
            lambda _, cosigned: [line.replace(b'"at":1', b'"at":2') for line in cosigned],
            "not the one published",
        ),
        (
            lambda _, cosigned: [re.sub(rb"\\u2014 log.example [^ ]+\\n", b"", cosigned[0], count=1)],
            "not|No key",
        ),
    ],
)
def test_a_note_that_nobody_cosigned_is_not_taken_for_witnessed(log, written, tmp_path, change, said) -> None:
    """Nor one with the published note's time or signature changed."""

    def changed(content: Members) -> None:
        notes, cosigned = (
            content[name].splitlines(keepends=True) for name in ("notes.jsonl", "witnessed.jsonl")
        )
        content["witnessed.jsonl"] = b"".join(change(notes, cosigned))

    with pytest.raises(ProofError, match=said):
        check(repacked(written, tmp_path / "forged.zip", changed), opener(log))


def test_a_witnessed_note_needs_the_published_one(log, written, tmp_path) -> None:
    def change(content: Members) -> None:
        content["notes.jsonl"] = b"".join(content["notes.jsonl"].splitlines(keepends=True)[1:])

    with pytest.raises(BackupProofError, match="witnessed checkpoint of 1 "):
        check(repacked(written, tmp_path / "forged.zip", change), opener(log))


def test_the_newest_note_cannot_be_left_out(log, written, tmp_path) -> None:
    def older(content: Members) -> None:
        content["notes.jsonl"] = b"".join(content["notes.jsonl"].splitlines(keepends=True)[:-1])
        content["witnessed.jsonl"] = b""

    with pytest.raises(BackupProofError, match="does not cover"):
        check(repacked(written, tmp_path / "1.zip", older), opener(log))

    def emptied(content: Members) -> None:
        content["notes.jsonl"] = content["witnessed.jsonl"] = b""

    with pytest.raises(BackupProofError, match="does not cover"):
        check(repacked(written, tmp_path / "2.zip", emptied), opener(log))

    def other(content: Members) -> None:
        content["checkpoint"] = json.loads(content["notes.jsonl"].splitlines()[0])["note"].encode()

    with pytest.raises(BackupProofError, match="not the newest"):
        check(repacked(written, tmp_path / "3.zip", other), opener(log))


@pytest.mark.parametrize(
    "rows",
    [
        [{"index": 1, "sealed": "AA=="}, {"index": 0, "sealed": "AA=="}],
        [{"index": 1, "sealed": "AA=="}, {"index": 1, "sealed": "AA=="}],
        [{"index": -1, "sealed": "AA=="}],
        [{"index": 600, "sealed": "AA=="}],
        [{"index": True, "sealed": "AA=="}],
        [{"index": 0, "sealed": "AB=="}],
        [{"index": 0, "sealed": "A"}],
        [{"index": 0, "sealed": None}],
        [{"index": 0}],
        [{"index": 0, "sealed": "", "more": 1}],
        [{"index": 0, "sealed": "A" * (4 << 20)}],
    ],
)
def test_sealed_rows_that_cannot_be_of_these_entries_are_refused(log, written, tmp_path, rows) -> None:
    def change(content: Members) -> None:
        content["secrets.jsonl"] = b"".join(map(backup.line, rows))

    with pytest.raises(MalformedBackupError):
        check(repacked(written, tmp_path / "forged.zip", change), opener(log))


@pytest.mark.parametrize(
    "fields",
    [
        {"format": "lightseal/backup/v2"},
        {"size": 599},
        {"size": 0},
        {"size": -1},
        {"size": 1 << 62},
        {"size": "600"},
        {"origin": "elsewhere.example"},
        {"more": 1},
        {"revision": "x" * 5000},
    ],
)
def test_a_head_that_says_something_else_is_refused(log, written, tmp_path, fields) -> None:
    def change(content: Members) -> None:
        content["backup.json"] = backup.line(json.loads(content["backup.json"]) | fields)

    with pytest.raises((MalformedBackupError, BackupProofError)):
        check(repacked(written, tmp_path / "forged.zip", change), opener(log))


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize(
    "name", ["checkpoint", "/etc/passwd", "../out", "tile/0/../000", "C:\\x", "more", "tile/", ""]
)
@pytest.mark.parametrize("first", [0, 5, 100])
def test_a_member_of_any_other_name_is_refused(log, written: Path, tmp_path: Path, name, first) -> None:
    content = list(members(written).items())
    content.insert(first, (name, b"x"))
    with pytest.raises(MalformedBackupError):
        check(pack(tmp_path / "forged.zip", content), opener(log))


def test_members_in_another_order_are_refused(log, written: Path, tmp_path: Path) -> None:
    content = dict(sorted(members(written).items()))
    with pytest.raises(MalformedBackupError):
        check(pack(tmp_path / "forged.zip", summed(content).items()), opener(log))


@pytest.mark.parametrize("compression", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_nothing_is_inflated(log, written: Path, tmp_path: Path, compression: int) -> None:
    content = members(written) | {"tile/entries/000": bytes(50 << 20)}
    bomb = pack(tmp_path / "bomb.zip", summed(content).items(), compression)
    assert bomb.stat().st_size < 1 << 20
    tracemalloc.start()
    try:
        with pytest.raises(MalformedBackupError, match="packed otherwise"):
            check(bomb, opener(log))
        assert tracemalloc.get_traced_memory()[1] < 4 << 20
    finally:
        tracemalloc.stop()


def test_a_member_larger_than_it_can_be_is_refused_before_it_is_read(log, written, tmp_path) -> None:
    for name in ("README.txt", "checkpoint", "backup.json", "SHA256SUMS", "tile/0/000", "tile/entries/000"):
        content = summed(members(written) | {name: bytes(20 << 20)})
        path = pack(tmp_path / "large.zip", (content | {name: bytes(20 << 20)}).items())
        tracemalloc.start()
        try:
            with pytest.raises(MalformedBackupError, match="larger"):
                check(path, opener(log))
            assert tracemalloc.get_traced_memory()[1] < 4 << 20
        finally:
            tracemalloc.stop()


def test_bytes_before_between_and_after_the_members_are_refused(log, written: Path, tmp_path: Path) -> None:
    data = written.read_bytes()
    directory = data.index(b"PK\1\2")
    second = data.index(b"PK\3\4", 4)
    forged = tmp_path / "forged.zip"
    for changed in (
        b"#!/bin/sh\n" + data,
        data + b"x",
        data[:-2] + b"\1\0x",
        data[:-2] + b"\1\0",
        data[:second] + b"hidden" + data[second:],
        data[:directory] + b"hidden" + data[directory:],
    ):
        forged.write_bytes(changed)
        with pytest.raises(MalformedBackupError):
            check(forged, opener(log))


@pytest.mark.parametrize(("at", "value"), [(8, 1), (8, 8), (9, 8), (10, 8), (10, 12)])
def test_a_member_that_claims_to_be_encrypted_or_packed_is_refused(
    log, written: Path, tmp_path: Path, at: int, value: int
) -> None:
    data = bytearray(written.read_bytes())
    data[data.index(b"PK\1\2") + at] = (
        value  # flags at 8, method at 10 of the list of members (APPNOTE, 4.3.12)
    )
    (tmp_path / "forged.zip").write_bytes(data)
    with pytest.raises(MalformedBackupError, match="packed otherwise"):
        check(tmp_path / "forged.zip", opener(log))


def test_a_member_with_room_beside_it_is_refused(log, written: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "forged.zip", "w") as archive:
        for name, data in members(written).items():
            info = zipfile.ZipInfo(name)
            info.extra = b"hi\6\0hidden" if name == "checkpoint" else b""
            archive.writestr(info, data)
    with pytest.raises(MalformedBackupError, match="packed otherwise"):
        check(tmp_path / "forged.zip", opener(log))


def test_members_that_share_their_bytes_are_refused(log, written: Path, tmp_path: Path) -> None:
    data = bytearray(written.read_bytes())
    first = data.index(b"PK\1\2")
    second = data.index(b"PK\1\2", first + 4)
    data[second + 42 : second + 46] = data[first + 42 : first + 46]  # both begin where the first one does
    (tmp_path / "forged.zip").write_bytes(data)
    with pytest.raises(MalformedBackupError):
        check(tmp_path / "forged.zip", opener(log))


def test_a_list_of_members_of_any_length_is_not_read(log, tmp_path: Path) -> None:
    path = tmp_path / "forged.zip"
    with path.open("wb") as file:
        file.truncate(1 << 31)  # sparse
        file.seek(0, os.SEEK_END)
        file.write(
            b"PK\5\6" + bytes(4) + b"\xff\xff\xff\xff" + ((1 << 31) - 1).to_bytes(4, "little") + bytes(6)
        )
    tracemalloc.start()
    try:
        with pytest.raises(MalformedBackupError, match="more members"):
            check(path, opener(log))
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


def test_what_is_no_backup_is_refused(log, tmp_path: Path) -> None:
    path = tmp_path / "file"
    empty = io.BytesIO()
    zipfile.ZipFile(empty, "w").close()
    for data in (b"", b"x", bytes(1000), b"PK\5\6" + bytes(18), empty.getvalue(), b"PK\5\6" + b"\xff" * 18):
        path.write_bytes(data)
        with pytest.raises(MalformedBackupError):
            check(path, opener(log))
    with pytest.raises(BackupUnreadableError):
        check(tmp_path / "nowhere", opener(log))
    with pytest.raises(BackupUnreadableError):
        check(tmp_path, opener(log))
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(BackupUnreadableError):
        check(tmp_path / "pipe", opener(log))


def test_a_backup_that_was_cut_off_anywhere_is_refused(log, written: Path, tmp_path: Path) -> None:
    data = written.read_bytes()
    for length in range(0, len(data), 997):
        (tmp_path / "cut.zip").write_bytes(data[:length])
        with pytest.raises(MalformedBackupError):
            check(tmp_path / "cut.zip", opener(log))


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_no_altered_byte_gives_other_facts_or_another_error(log, tmp_path_factory, data: Any) -> None:
    folder = tmp_path_factory.mktemp("flip")
    write(Ledger(log, numbered(3), 1, 3), folder / "ledger.zip")
    content = bytearray((folder / "ledger.zip").read_bytes())
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    sound = list(read(folder / "ledger.zip", opener(log)))
    (folder / "flipped.zip").write_bytes(content)
    try:
        parts = list(read(folder / "flipped.zip", opener(log)))
    except (MalformedError, ProofError):
        return
    assert parts == sound


def test_every_error_has_a_code_of_its_own_and_a_remedy() -> None:
    kinds = [
        kind
        for module in (backup, restore)
        for kind in vars(module).values()
        if isinstance(kind, type) and issubclass(kind, Error) and kind.__module__ == module.__name__
    ]
    assert len({kind.code for kind in kinds}) == len(kinds) == 6
    assert all(kind.remedy.endswith(".") for kind in kinds)
