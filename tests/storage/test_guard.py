import hashlib
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from storage.checkpoint import Checkpoint, open_checkpoint
from storage.errors import DiskFullError, LedgerError, MalformedError, MalformedNoteError, NoteSignatureError
from storage.guard import (
    KEPT,
    MAX_NOTE_BYTES,
    MAX_NOTES,
    Guard,
    GuardConflictError,
    GuardDamagedError,
    GuardError,
    GuardExistsError,
    GuardForeignError,
    GuardMissingError,
    RolledBackError,
)
from storage.merkle import EMPTY_ROOT, leaf_hash, node_hash

on_disk = settings(max_examples=60, deadline=None)
ORIGIN = "log.example"
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}


def root(size: int) -> bytes:
    """Some root; only `require` looks at how roots follow each other."""
    return hashlib.sha256(b"%d" % size).digest()


def note(size: int, of: bytes = b"", origin: str = ORIGIN) -> bytes:
    """A checkpoint that nobody signed: whether notes are checked is tested on its own."""
    return str(Checkpoint(origin, size, of or root(size))).encode()


def read(data: bytes) -> Checkpoint:
    return Checkpoint.parse(data.decode())


def record(data: bytes) -> bytes:
    return b"%d %s\n%s\n" % (len(data), hashlib.sha256(data).hexdigest().encode(), data)


def sizes_in(path: Path) -> list[int]:
    """The sizes in a guard, read by looking for notes alone."""
    return [int(part.split(b"\n")[1]) for part in path.read_bytes().split(b"\n" + ORIGIN.encode())[2:]]


def spec_root(leaves: Sequence[bytes]) -> bytes:
    """RFC 6962, 2.1, word for word."""
    if len(leaves) == 1:
        return leaf_hash(leaves[0])
    split = 1 << (len(leaves) - 1).bit_length() - 1
    return node_hash(spec_root(leaves[:split]), spec_root(leaves[split:]))


def spec_consistency(old: int, leaves: Sequence[bytes], *, known: bool = True) -> list[bytes]:
    """RFC 6962, 2.1.2, word for word: SUBPROOF(old, leaves, known)."""
    if old == len(leaves):
        return [] if known else [spec_root(leaves)]
    split = 1 << (len(leaves) - 1).bit_length() - 1
    if old <= split:
        return [*spec_consistency(old, leaves[:split], known=known), spec_root(leaves[split:])]
    return [*spec_consistency(old - split, leaves[split:], known=False), spec_root(leaves[:split])]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "guard"


@pytest.fixture
def guard(path: Path) -> Guard:
    return Guard.create(path, ORIGIN, read)


@on_disk
@given(st.lists(st.integers(0, 30), max_size=40))
def test_the_newest_is_the_largest_in_whatever_order_it_came(sizes: list[int]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "guard"
        guard = Guard.create(path, ORIGIN, read)
        for size in sizes:
            guard.remember(note(size))
        expected = Checkpoint(ORIGIN, max(sizes), root(max(sizes))) if sizes else None
        assert guard.newest() == Guard.open(path, ORIGIN, read).newest() == expected
        assert sorted(sizes_in(path)) == sorted(set(sizes))


def test_one_guard_sees_what_another_remembered(guard: Guard, path: Path) -> None:
    other = Guard.open(path, ORIGIN, read)
    other.remember(note(3))
    assert guard.newest() == read(note(3))
    guard.remember(note(5))
    assert other.newest() == read(note(5))


def test_a_missing_guard_is_an_alarm_and_not_a_new_one(guard: Guard, path: Path) -> None:
    guard.remember(note(4))
    path.unlink()
    with pytest.raises(GuardMissingError):
        Guard.open(path, ORIGIN, read)
    with pytest.raises(GuardMissingError):
        guard.newest()
    with pytest.raises(GuardMissingError):
        guard.remember(note(5))
    assert not path.exists()


def test_a_guard_is_never_made_over_another(guard: Guard, path: Path) -> None:
    guard.remember(note(4))
    with pytest.raises(GuardExistsError):
        Guard.create(path, ORIGIN, read)
    assert guard.newest() == read(note(4))


def test_the_guard_of_another_log_is_refused(guard: Guard, path: Path) -> None:
    with pytest.raises(GuardForeignError):
        Guard.open(path, "other.example", read)
    with pytest.raises(GuardForeignError):
        guard.remember(note(1, origin="other.example"))
    assert guard.newest() is None


def test_two_roots_of_one_size_are_kept_and_refused_for_ever(guard: Guard, path: Path) -> None:
    for size in (3, 4, 5):
        guard.remember(note(size))
    with pytest.raises(GuardConflictError):
        guard.remember(note(4, root(99)))
    assert sizes_in(path) == [3, 4, 5, 4]
    before = path.read_bytes()
    for ask in (guard.newest, lambda: guard.remember(note(6)), lambda: Guard.open(path, ORIGIN, read)):
        with pytest.raises(GuardConflictError):
            ask()
    assert path.read_bytes() == before


def test_only_what_the_log_signed_is_remembered(log, path: Path) -> None:
    def opened(data: bytes) -> Checkpoint:
        return open_checkpoint(data, [log.key], log.verify)

    guard = Guard.create(path, log.name, opened)
    signed = log.sign(str(Checkpoint(log.name, 7, root(7))))
    forged = signed.replace(b"\n7\n", b"\n8\n")
    guard.remember(signed)
    with pytest.raises(NoteSignatureError):
        guard.remember(forged)
    assert Guard.open(path, log.name, opened).newest() == Checkpoint(log.name, 7, root(7))
    with path.open("ab") as file:
        file.write(record(forged))
    with pytest.raises(GuardDamagedError):
        Guard.open(path, log.name, opened)


def test_a_note_that_is_too_long_is_refused(path: Path) -> None:
    guard = Guard.create(path, ORIGIN, lambda data: read(data.rstrip(b" ")))
    guard.remember(note(1).ljust(MAX_NOTE_BYTES))
    with pytest.raises(MalformedNoteError):
        guard.remember(note(2).ljust(MAX_NOTE_BYTES + 1))
    with pytest.raises(MalformedError):
        guard.remember(b"")
    assert sizes_in(path) == [1]


def test_a_record_cut_anywhere_is_left_out_and_then_cut_off(path: Path) -> None:
    Guard.create(path, ORIGIN, read).remember(note(10))
    whole = path.read_bytes()
    last = record(note(11))
    for cut in range(len(last)):
        path.write_bytes(whole + last[:cut])
        guard = Guard.open(path, ORIGIN, read)
        assert guard.newest() == read(note(10))
        guard.remember(note(12))
        assert path.read_bytes() == whole + record(note(12))


@pytest.mark.parametrize(
    "tail",
    [bytes(1), bytes(500), record(note(11))[:-40] + bytes(40)],
    ids=["a zero", "zeros", "zeros within"],
)
def test_an_end_that_was_lengthened_but_not_written_is_a_cut_too(
    guard: Guard, path: Path, tail: bytes
) -> None:
    guard.remember(note(10))
    with path.open("ab") as file:
        file.write(tail)
    assert Guard.open(path, ORIGIN, read).newest() == read(note(10))
    guard.remember(note(12))
    assert sizes_in(path) == [10, 12]


@on_disk
@given(st.data())
def test_a_changed_byte_before_the_last_record_is_damage(data: st.DataObject) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "guard"
        guard = Guard.create(path, ORIGIN, read)
        guard.remember(note(10))
        end = path.stat().st_size
        guard.remember(note(11))
        state = bytearray(path.read_bytes())
        # The generation, a number, may be changed: it tells replacements apart, and proves nothing.
        header = f"lightseal-guard v1\n{ORIGIN}\n".encode()
        at = data.draw(st.integers(0, len(header) - 1) | st.integers(len(header) + 2, end - 1))
        state[at] ^= data.draw(st.integers(1, 255))
        path.write_bytes(state)
        with pytest.raises((GuardDamagedError, GuardForeignError)):
            Guard.open(path, ORIGIN, read)


@on_disk
@given(
    st.one_of(st.binary(max_size=300), st.binary(max_size=300).map(lambda end: b"lightseal-guard v1\n" + end))
)
def test_anything_else_is_refused_by_our_own_error(content: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "guard"
        path.write_bytes(content)
        with pytest.raises((GuardDamagedError, GuardForeignError)):
            Guard.open(path, ORIGIN, read)


def test_a_guard_that_became_shorter_is_damage_to_who_saw_it(guard: Guard, path: Path) -> None:
    guard.remember(note(10))
    before = path.read_bytes()
    guard.remember(note(11))
    path.write_bytes(before)
    with pytest.raises(GuardDamagedError):
        guard.newest()


def test_a_long_guard_is_replaced_by_its_largest_checkpoints(guard: Guard, path: Path) -> None:
    watching = Guard.open(path, ORIGIN, read)
    for size in range(2 * MAX_NOTES):
        guard.remember(note(size))
        if size % 50 == 0:
            assert watching.newest() == read(note(size))
        assert path.stat().st_size < MAX_NOTES * 220
    assert MAX_NOTES >= len(sizes_in(path)) >= KEPT
    assert sizes_in(path)[-KEPT:] == list(range(2 * MAX_NOTES - KEPT, 2 * MAX_NOTES))
    assert list(path.parent.iterdir()) == [path]
    with pytest.raises(GuardConflictError):
        watching.remember(note(2 * MAX_NOTES - KEPT, root(1)))


@on_disk
@given(st.integers(1, 40), st.integers(0, 40), st.integers(0, 40))
def test_the_ledger_must_go_on_from_what_was_remembered(old: int, more: int, fork: int) -> None:
    leaves = [b"%d" % number for number in range(old + more)]
    forked = [leaf + b"'" * (number >= fork) for number, leaf in enumerate(leaves)]
    with tempfile.TemporaryDirectory() as folder:
        guard = Guard.create(Path(folder) / "guard", ORIGIN, read)
        guard.remember(note(old, spec_root(leaves[:old])))

        def require(held: Sequence[bytes]) -> None:
            head = Checkpoint(ORIGIN, len(held), spec_root(held))
            guard.require(lambda: head, lambda old, new: spec_consistency(old, held[:new]))

        require(leaves)
        if fork < old:
            with pytest.raises(RolledBackError):
                require(forked)
        else:
            require(forked)
        if old > 1:
            with pytest.raises(RolledBackError):
                require(leaves[: old - 1])


def test_a_guard_that_remembers_nothing_asks_for_nothing(guard: Guard) -> None:
    def never(*_: object) -> Checkpoint:
        raise AssertionError("asked for the head")

    def no_proof(old: int, new: int) -> Sequence[bytes]:
        raise AssertionError(f"asked for a proof from {old} to {new}")

    guard.require(never, no_proof)


def test_the_head_is_read_after_the_guard(guard: Guard, path: Path) -> None:
    """Else one who appends between the two would look like a roll-back."""
    leaves = [b"a", b"b"]
    guard.remember(note(1, spec_root(leaves[:1])))
    other = Guard.open(path, ORIGIN, read)

    def head() -> Checkpoint:
        other.remember(note(2, spec_root(leaves)))
        return Checkpoint(ORIGIN, 1, spec_root(leaves[:1]))

    guard.require(head, lambda old, new: spec_consistency(old, leaves[:new]))


def test_threads_lose_no_record(guard: Guard, path: Path) -> None:
    def work(offset: int) -> None:
        for size in range(offset, 240, 8):
            guard.remember(note(size))

    threads = [threading.Thread(target=work, args=(offset,)) for offset in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(sizes_in(path)) == list(range(240))


REMEMBER = """
import hashlib, sys
from pathlib import Path
from storage.checkpoint import Checkpoint
from storage.guard import Guard
path, first, step, stop = Path(sys.argv[1]), *map(int, sys.argv[2:])
guard = Guard.open(path, "log.example", lambda data: Checkpoint.parse(data.decode()))
for size in range(first, stop, step):
    guard.remember(str(Checkpoint("log.example", size, hashlib.sha256(b"%d" % size).digest())).encode())
    print(size, flush=True)
"""


def start(script: str, *arguments: object) -> "subprocess.Popen[bytes]":
    command = [sys.executable, "-c", script, *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=ENVIRONMENT)


def test_processes_lose_no_record_to_a_replaced_file(guard: Guard, path: Path) -> None:
    count = 3 * 400
    running = [start(REMEMBER, path, first, 3, count) for first in range(3)]
    for process in running:
        out, err = process.communicate(timeout=120)
        assert len(out.splitlines()) == 400, err.decode()
    assert path.read_bytes().split(b"\n")[2] != b"0", "the file was never replaced"
    assert guard.newest() == read(note(count - 1))
    assert set(range(count - KEPT, count)) <= set(sizes_in(path))


def test_a_killed_process_loses_nothing_it_acknowledged(path: Path) -> None:
    Guard.create(path, ORIGIN, read)
    done = 0
    for pause in (0.0, 0.005, 0.017, 0.04, 0.15):
        process = start(REMEMBER, path, done, 1, 1 << 40)
        assert process.stdout is not None
        first = process.stdout.readline()
        time.sleep(pause)
        process.send_signal(signal.SIGKILL)
        rest, _ = process.communicate(timeout=60)
        acknowledged = [int(line) for line in (first + rest).splitlines()]
        newest = Guard.open(path, ORIGIN, read).newest()
        assert newest is not None
        assert acknowledged[-1] <= newest.size <= acknowledged[-1] + 1
        done = newest.size + 1


WITHOUT_ROOM = """
import hashlib, resource, sys
from pathlib import Path
from storage.checkpoint import Checkpoint
from storage.errors import DiskFullError
from storage.guard import Guard
path = Path(sys.argv[1])
guard = Guard.open(path, "log.example", lambda data: Checkpoint.parse(data.decode()))
resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size + 50, path.stat().st_size + 50))
try:
    guard.remember(str(Checkpoint("log.example", 2, hashlib.sha256(b"2").digest())).encode())
except DiskFullError as error:
    print(error.code, guard.newest().size)
"""


def test_a_full_disk_leaves_the_guard_as_it_was(guard: Guard, path: Path) -> None:
    guard.remember(note(1))
    before = path.read_bytes()
    out, err = start(WITHOUT_ROOM, path).communicate(timeout=60)
    assert out.decode().split() == [DiskFullError.code, "1"], err.decode()
    assert path.read_bytes() == before
    guard.remember(note(2))
    assert guard.newest() == read(note(2))


def test_every_error_has_its_own_code_and_remedy() -> None:
    errors = [GuardError, RolledBackError, *GuardError.__subclasses__()]
    assert len({error.code for error in errors}) == len(errors)
    assert len({error.remedy for error in errors}) == len(errors)


@pytest.mark.parametrize("place", ["pipe", "loop", "huge"])
def test_what_is_no_guard_is_neither_waited_for_nor_read(tmp_path: Path, place: str) -> None:
    path = tmp_path / "guard"
    if place == "pipe":
        os.mkfifo(path)
    elif place == "loop":
        path.symlink_to("guard")
    else:
        path.touch(mode=0o600)
        os.truncate(path, 3 << 30)
    with pytest.raises(LedgerError) as refused:
        Guard.open(path, "log.example", lambda _: Checkpoint("log.example", 0, EMPTY_ROOT))
    assert refused.value.remedy
