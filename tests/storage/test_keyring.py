import hashlib
import hmac
import os
import signal
import stat
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from authn.sealing import seal, unseal
from storage.errors import (
    DiskFullError,
    ErasedEntryError,
    LedgerDamagedError,
    ReadOnlyError,
    UnknownEntryError,
)
from storage.keyring import (
    LEVELS,
    Keyring,
    KeyringDamagedError,
    KeyringError,
    KeyringExistsError,
    KeyringExposedError,
    KeyringMissingError,
    Sealer,
)

on_disk = settings(max_examples=60, deadline=None)
SEED = hashlib.sha256(b"a seed for tests").digest()
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
indices = st.one_of(st.integers(0, 40), st.integers(0, (1 << LEVELS) - 1))


def spec_path(index: int) -> list[bytes]:
    """The secrets from the root to the entry, by Goldreich, Goldwasser and Micali; bit after bit."""
    secrets = [hashlib.sha256(SEED + b"lightseal/key/v1/root").digest()]
    for bit in f"{index:040b}":
        side = {"0": b"left", "1": b"right"}[bit]
        secrets.append(hashlib.sha256(secrets[-1] + b"lightseal/key/v1/" + side).digest())
    return secrets


def secrets_in(path: Path) -> dict[range, bytes]:
    """The secrets in a state file, by the entries that they cover."""
    found = {}
    for line in path.read_text().splitlines()[1:-1]:
        level, position, secret = line.split()
        start = int(position) * 2 ** int(level)
        found[range(start, start + 2 ** int(level))] = bytes.fromhex(secret)
    return found


def with_digest(text: str) -> bytes:
    return f"{text}sha256 {hashlib.sha256(text.encode()).hexdigest()}\n".encode()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "ledger.keys"


@pytest.fixture
def keyring(path: Path) -> Keyring:
    return Keyring.create(path, SEED)


@on_disk
@given(indices)
def test_a_key_is_the_leaf_of_the_tree_of_secrets(index: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        assert Keyring.create(Path(folder) / "k", SEED).key(index) == spec_path(index)[-1]


@on_disk
@given(
    st.lists(indices, max_size=12), st.lists(indices, min_size=1, max_size=20), st.sampled_from([1, 2, 12])
)
def test_forgetting_destroys_those_keys_and_changes_no_other(
    forgotten: list[int], probed: list[int], at_once: int
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "k"
        keyring = Keyring.create(path, SEED)
        for begin in range(0, len(forgotten), at_once):
            keyring.forget(*forgotten[begin : begin + at_once])
        left = secrets_in(path)
        # Nothing in the file lies above a forgotten entry, by place or by value.
        for index in forgotten:
            assert not any(index in covered for covered in left)
            assert not set(spec_path(index)) & set(left.values())
        # What is left covers everything else, once.
        assert sum(len(covered) for covered in left) == 2**LEVELS - len(set(forgotten))
        assert len(left) <= max(1, len(set(forgotten)) * LEVELS)
        for user in (keyring, Keyring.open(path)):
            for index in {*probed, *forgotten, *(index ^ 1 for index in forgotten)}:
                assert user.holds(index) == (index not in forgotten)
                if index in forgotten:
                    with pytest.raises(ErasedEntryError):
                        user.key(index)
                else:
                    assert user.key(index) == spec_path(index)[-1]


def test_a_range_can_be_forgotten_to_its_last_entry(keyring: Keyring, path: Path) -> None:
    keyring.forget(*range(64))
    assert len(secrets_in(path)) == LEVELS - 6
    assert not any(map(keyring.holds, range(64)))
    assert keyring.key(64) == spec_path(64)[-1]


def test_forgetting_again_changes_nothing(keyring: Keyring, path: Path) -> None:
    keyring.forget(7, 9)
    before = path.read_bytes()
    keyring.forget(9, 7, 9)
    keyring.forget()
    assert path.read_bytes() == before


def test_the_old_state_is_overwritten_where_it_lay(keyring: Keyring, path: Path, tmp_path: Path) -> None:
    old = tmp_path / "another name of the old file"
    old.hardlink_to(path)
    size = old.stat().st_size
    keyring.forget(3)
    assert old.read_bytes() == bytes(size)


def test_one_who_opened_the_keyring_before_learns_of_it(keyring: Keyring, path: Path) -> None:
    other = Keyring.open(path)
    assert [other.key(index) for index in (4, 5)] == [spec_path(index)[-1] for index in (4, 5)]
    keyring.forget(5)
    assert other.key(4) == spec_path(4)[-1]
    with pytest.raises(ErasedEntryError):
        other.key(5)
    other.forget(4)
    assert not keyring.holds(4)
    assert not keyring.holds(5)


def test_keys_in_a_row_cost_two_hashes_each(keyring: Keyring) -> None:
    keyring.key(0)
    derived = 0

    def count(frame: FrameType, event: str, _: object) -> None:
        nonlocal derived
        derived += event == "call" and frame.f_code.co_name == "_derive"

    sys.setprofile(count)
    try:
        for index in range(1, 4096):
            keyring.key(index)
    finally:
        sys.setprofile(None)
    assert 4096 < derived < 2 * 4096


def test_threads_get_the_keys_that_one_alone_would_get(keyring: Keyring) -> None:
    wrong: list[int] = []

    def work(offset: int) -> None:
        wrong.extend(i for i in range(offset, 1500, 7) if keyring.key(i) != spec_path(i)[-1])

    threads = [threading.Thread(target=work, args=(offset,)) for offset in range(4)]
    for thread in threads:
        thread.start()
    keyring.forget(1600)
    for thread in threads:
        thread.join()
    assert wrong == []


@pytest.mark.parametrize("index", [-1, 1 << LEVELS])
def test_an_index_outside_the_tree_is_of_no_entry(keyring: Keyring, path: Path, index: int) -> None:
    before = path.read_bytes()
    for ask in (keyring.key, keyring.holds, lambda index: keyring.forget(1, index)):
        with pytest.raises(UnknownEntryError):
            ask(index)
    assert path.read_bytes() == before


def test_a_seed_has_32_bytes(path: Path) -> None:
    with pytest.raises(ValueError, match="31"):
        Keyring.create(path, bytes(31))
    assert not path.exists()


def test_a_keyring_is_never_made_over_another(keyring: Keyring, path: Path) -> None:
    with pytest.raises(KeyringExistsError):
        Keyring.create(path, bytes(32))
    assert keyring.key(1) == spec_path(1)[-1]


def test_a_creation_that_a_crash_cut_short_can_be_repeated(path: Path) -> None:
    path.touch(0o600)
    path.with_name(path.name + ".new").write_text("half")
    with pytest.raises(KeyringDamagedError):
        Keyring.open(path)
    assert Keyring.create(path, SEED).key(2) == spec_path(2)[-1]


def test_a_missing_keyring_is_an_error_and_not_a_new_one(path: Path) -> None:
    with pytest.raises(KeyringMissingError):
        Keyring.open(path)
    keyring = Keyring.create(path, SEED)
    path.unlink()
    for ask in (keyring.key, keyring.holds, keyring.forget):
        with pytest.raises(KeyringMissingError):
            ask(1)
    assert not path.exists()


def test_only_the_owner_can_read_the_file(keyring: Keyring, path: Path) -> None:
    keyring.forget(1)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o601])
def test_a_file_that_others_can_reach_is_refused(path: Path, mode: int) -> None:
    Keyring.create(path, SEED)
    path.chmod(mode)
    with pytest.raises(KeyringExposedError):
        Keyring.open(path)


def test_a_folder_that_cannot_be_written_keeps_the_keys() -> None:
    """As nobody where we are root, whom permissions do not bind."""
    nobody = 65534 if os.geteuid() == 0 else os.geteuid()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "keyring"
        keyring = Keyring.create(path, SEED)
        os.chown(folder, nobody, -1)
        os.chown(path, nobody, -1)
        Path(folder).chmod(0o500)
        before = os.geteuid()
        os.seteuid(nobody)
        try:
            with pytest.raises(ReadOnlyError):
                keyring.forget(1)
        finally:
            os.seteuid(before)
            Path(folder).chmod(0o700)
        assert keyring.holds(1)


@on_disk
@given(st.data())
def test_a_changed_byte_is_refused(data: st.DataObject) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "k"
        Keyring.create(path, SEED).forget(5)
        state = bytearray(path.read_bytes())
        state[data.draw(st.integers(0, len(state) - 1))] ^= data.draw(st.integers(1, 255))
        path.write_bytes(state)
        with pytest.raises(KeyringDamagedError):
            Keyring.open(path)


@on_disk
@given(st.one_of(st.binary(max_size=200), st.text(max_size=200).map(str.encode), st.integers(0, 3000)))
def test_anything_else_is_refused_by_our_own_error(content: bytes | int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "k"
        Keyring.create(path, SEED).forget(5)
        state = path.read_bytes()
        path.write_bytes(content if isinstance(content, bytes) else state[: content % len(state)])
        with pytest.raises(KeyringDamagedError):
            Keyring.open(path)


def bad_states() -> Iterator[tuple[str, list[str]]]:
    one, two = "11" * 32, "22" * 32
    yield "the whole tree and a part of it", [f"39 0 {one}", f"40 0 {two}"]
    yield "two siblings", [f"39 0 {one}", f"39 1 {two}"]
    yield "not in order", [f"39 1 {one}", f"38 0 {two}"]
    yield "twice the same", [f"39 1 {one}", f"39 1 {one}"]
    yield "a leading zero", [f"39 01 {one}"]
    yield "a sign", [f"39 +1 {one}"]
    yield "capital digits", [f"39 1 {'AA' * 32}"]
    yield "a secret cut short", [f"39 1 {one[2:]}"]
    yield "a level too high", [f"41 0 {one}"]
    yield "an enormous level", [f"999999999999 1 {one}"]
    yield "a negative level", [f"-1 1 {one}"]
    yield "a place beyond the last", [f"39 2 {one}"]
    yield "a negative place", [f"39 -1 {one}"]
    yield "an empty line", [f"39 1 {one}", ""]
    yield "a fourth word", [f"39 1 {one} "]


@pytest.mark.parametrize(
    ("lines"), [lines for _, lines in bad_states()], ids=[name for name, _ in bad_states()]
)
def test_a_state_that_we_would_not_write_is_refused_whatever_its_digest(
    keyring: Keyring, path: Path, lines: list[str]
) -> None:
    path.write_bytes(with_digest("\n".join(["lightseal-keyring v1", *lines, ""])))
    with pytest.raises(KeyringDamagedError):
        keyring.key(1)


def test_a_file_that_forgot_everything_is_a_keyring(keyring: Keyring, path: Path) -> None:
    path.write_bytes(with_digest("lightseal-keyring v1\n"))
    assert not keyring.holds(0)


FORGET = """
import sys
from pathlib import Path
from storage.keyring import Keyring
path, start, step, stop = Path(sys.argv[1]), *map(int, sys.argv[2:])
keyring = Keyring.open(path)
for index in range(start, stop, step):
    keyring.forget(index)
    print(index, flush=True)
"""


def start(script: str, *arguments: object) -> "subprocess.Popen[bytes]":
    command = [sys.executable, "-c", script, *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=ENVIRONMENT)


def test_a_killed_process_destroys_what_it_said_and_nothing_it_did_not_begin(path: Path) -> None:
    Keyring.create(path, SEED)
    done = 0
    for pause in (0.0, 0.003, 0.011, 0.02, 0.031):
        process = start(FORGET, path, done, 1, 1 << LEVELS)
        assert process.stdout is not None
        first = process.stdout.readline()
        time.sleep(pause)
        process.send_signal(signal.SIGKILL)
        rest, _ = process.communicate(timeout=60)
        acknowledged = [int(line) for line in (first + rest).splitlines()]
        assert acknowledged == list(range(done, done + len(acknowledged)))
        done += len(acknowledged)
        fresh = Keyring.open(path)
        assert not any(map(fresh.holds, range(done)))
        # The one it was about may be gone as well; those after it are not.
        for index in range(done + 1, done + 20):
            assert fresh.key(index) == spec_path(index)[-1]
        done += not fresh.holds(done)


def test_processes_that_forget_at_once_undo_nothing_of_each_other(keyring: Keyring, path: Path) -> None:
    running = [start(FORGET, path, offset, 4, 120) for offset in range(3)]
    for process in running:
        assert len(process.communicate(timeout=120)[0].splitlines()) == 30
        assert process.returncode == 0
    assert [index for index in range(120) if keyring.holds(index)] == [*range(3, 120, 4)]
    assert keyring.key(119) == spec_path(119)[-1]


WITHOUT_ROOM = """
import resource, sys
from pathlib import Path
from storage.errors import DiskFullError
from storage.keyring import Keyring
keyring = Keyring.open(Path(sys.argv[1]))
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
try:
    keyring.forget(1)
except DiskFullError as error:
    print(error.code, keyring.holds(1))
"""


def test_a_full_disk_leaves_the_keyring_as_it_was(keyring: Keyring, path: Path) -> None:
    before = path.read_bytes()
    out, err = start(WITHOUT_ROOM, path).communicate(timeout=60)
    assert out.decode().split() == [DiskFullError.code, "True"], err.decode()
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]
    keyring.forget(1)
    assert not keyring.holds(1)


@pytest.fixture
def sealer(keyring: Keyring) -> Sealer:
    return Sealer(keyring, seal, unseal)


def test_a_sealed_row_opens_where_it_was_sealed(sealer: Sealer) -> None:
    sealed = sealer.seal(12, b"payload and salt", "log.example")
    assert b"payload" not in sealed
    assert sealer.unseal(12, sealed, "log.example") == b"payload and salt"


@pytest.mark.parametrize(("index", "origin"), [(13, "log.example"), (12, "log.example2"), (12, "")])
def test_a_row_in_anothers_place_is_damage(sealer: Sealer, index: int, origin: str) -> None:
    sealed = sealer.seal(12, b"payload and salt", "log.example")
    with pytest.raises(LedgerDamagedError):
        sealer.unseal(index, sealed, origin)


def test_the_place_is_bound_even_if_the_keys_were_the_same(sealer: Sealer) -> None:
    same = Sealer(
        sealer.keyring,
        lambda _, plain, place: seal(SEED, plain, place),
        lambda _, sealed, place: unseal(SEED, sealed, place),
    )
    sealed = same.seal(12, b"row", "log.example")
    assert same.unseal(12, sealed, "log.example") == b"row"
    for index, origin in ((13, "log.example"), (12, "log.exampl")):
        with pytest.raises(LedgerDamagedError):
            same.unseal(index, sealed, origin)


def test_a_forgotten_row_is_erased_and_not_damaged(sealer: Sealer) -> None:
    sealed = sealer.seal(12, b"row", "log.example")
    sealer.keyring.forget(12)
    with pytest.raises(ErasedEntryError):
        sealer.unseal(12, sealed, "log.example")
    with pytest.raises(ErasedEntryError):
        sealer.seal(12, b"row", "log.example")


def test_what_an_entry_is_found_by_is_blinded_by_a_key_of_its_own(sealer: Sealer) -> None:
    digest = hashlib.sha256(b"a picture").digest()
    key = spec_path((1 << LEVELS) - 1)[-1]
    expected = hmac.new(key, b"lightseal/lookup/v1\0media\0" + digest, hashlib.sha256).digest()[:16]
    assert sealer.tag("media", digest) == expected
    sealer.forget(12)
    again = Sealer(sealer.keyring, seal, unseal)
    assert again.tag("media", digest) == expected
    assert again.tag("claim", digest) != expected
    assert not sealer.keyring.holds(12)
    assert key.hex() not in repr(sealer)


def test_every_error_has_its_own_code_and_remedy() -> None:
    errors = KeyringError.__subclasses__()
    assert len({error.code for error in [KeyringError, *errors]}) == len(errors) + 1
    assert len({error.remedy for error in [KeyringError, *errors]}) == len(errors) + 1
