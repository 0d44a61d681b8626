"""Logs built from the definition, served with faults, and followed."""

import functools
import hashlib
import itertools
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime, timedelta
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from storage.audit import Code
from storage.checkpoint import Checkpoint, open_checkpoint
from storage.entry import Entry, Kind
from storage.errors import Error, MalformedError, NoteSignatureError
from storage.foreign import follow
from storage.foreign.audit import Bodies, audit_onwards, audit_source
from storage.foreign.follow import (
    KEEP_EVERY,
    EquivocationError,
    ExtendedCheckpointError,
    FollowBusyError,
    Follower,
    FollowKeysError,
    FollowStateError,
    ForeignOtherLogError,
    ForeignRolledBackError,
    MalformedStateError,
    State,
    UnprovenEntryError,
    Unreadable,
    Use,
    watch,
)
from storage.foreign.proven import ProvenTiles, UnprovenTileError
from storage.foreign.source import (
    FolderSource,
    HttpSource,
    SourceAnswerError,
    SourceMissingError,
    SourceUnreachableError,
)
from storage.merkle import EMPTY_ROOT, Frontier, leaf_hash
from storage.note import VerifierKey

START = datetime(2026, 1, 1, tzinfo=UTC)


def spec_root(hashes: Sequence[bytes]) -> bytes:
    """MTH of RFC 6962, 2.1, over leaf hashes; slow, and only here."""
    if len(hashes) <= 1:
        return hashes[0] if hashes else hashlib.sha256().digest()
    split = 1 << (len(hashes) - 1).bit_length() - 1
    return hashlib.sha256(b"\1" + spec_root(hashes[:split]) + spec_root(hashes[split:])).digest()


def spec_name(number: int, width: int) -> str:
    """The path elements of tlog-tiles for a tile of this number."""
    text = str(number)
    text = text.zfill(-(-len(text) // 3) * 3)
    parts = [text[at : at + 3] for at in range(0, len(text), 3)]
    path = "/".join([*("x" + part for part in parts[:-1]), parts[-1]])
    return path if width == 256 else f"{path}.p/{width}"


def files(bodies: Sequence[bytes]) -> dict[str, bytes]:
    """Every tile and bundle of a log of these entries, from the definition."""
    made = {}
    for number, at in enumerate(range(0, len(bodies), 256)):
        part = bodies[at : at + 256]
        packed = b"".join(len(body).to_bytes(2, "big") + body for body in part)
        made[f"tile/entries/{spec_name(number, len(part))}"] = packed
    row = [hashlib.sha256(b"\0" + body).digest() for body in bodies]
    for level in itertools.count():
        if not row:
            return made
        for number, at in enumerate(range(0, len(row), 256)):
            part = row[at : at + 256]
            made[f"tile/{level}/{spec_name(number, len(part))}"] = b"".join(part)
        row = [spec_root(row[at : at + 256]) for at in range(0, len(row) // 256 * 256, 256)]
    raise AssertionError


class Served:
    """A log in memory; `faults` says what is sent, or raised, instead."""

    def __init__(self, log: Any, bodies: Sequence[bytes]) -> None:
        self.files = files(bodies)
        self.asked: list[str] = []
        root = spec_root([hashlib.sha256(b"\0" + body).digest() for body in bodies])
        self.files["checkpoint"] = log.sign(str(Checkpoint(log.name, len(bodies), root)))
        self.faults: dict[str, bytes | Error] = {}

    def _get(self, name: str) -> bytes:
        self.asked.append(name)
        fault = self.faults.get(name)
        if isinstance(fault, Error):
            raise fault
        if fault is not None:
            return fault
        if name not in self.files:
            raise SourceMissingError(f"There is no {name}.")
        return self.files[name]

    def checkpoint(self) -> bytes:
        return self._get("checkpoint")

    def tile(self, level: int, number: int, width: int) -> bytes:
        return self._get(f"tile/{level}/{spec_name(number, width)}")

    def bundle(self, number: int, width: int) -> bytes:
        return self._get(f"tile/entries/{spec_name(number, width)}")

    def flip(self, name: str, at: int) -> None:
        data = bytearray(self.files[name])
        data[at] ^= 1
        self.faults[name] = bytes(data)

    def write(self, folder: Path) -> None:
        for name, data in self.files.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(data)


def numbered(count: int) -> list[bytes]:
    return [b"entry %d" % number for number in range(count)]


def entry(number: int, key: bytes = bytes(32), kind: Kind = Kind.SIGN) -> bytes:
    digest = hashlib.sha256(b"%d" % number).digest()
    return Entry(kind, digest, key, START + timedelta(seconds=number)).body


def opener(log: Any) -> Callable[[bytes], Checkpoint]:
    return lambda note: open_checkpoint(note, [log.key], log.verify)


def consumed(chunks: Iterable[follow.Chunk]) -> list[tuple[int, bytes]]:
    return [(chunk.start + at, body) for chunk in chunks for at, body in enumerate(chunk.bodies)]


@pytest.fixture
def state(tmp_path: Path) -> Path:
    return tmp_path / "log.state"


@pytest.fixture
def follower_of(log: Any, state: Path) -> Callable[[Any], Follower]:
    return lambda source: Follower(source, opener(log), state)


# --- Honest logs


@pytest.mark.parametrize("size", [0, 1, 2, 255, 256, 257, 511, 512, 700])
def test_every_entry_of_an_honest_log_is_handed_out_once(log, follower_of, size: int) -> None:
    bodies = numbered(size)
    follower = follower_of(Served(log, bodies))
    assert consumed(follower.advance()) == list(enumerate(bodies))
    assert consumed(follower.advance()) == []
    assert follower.state.consumed == size


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(sizes=st.lists(st.integers(0, 900), min_size=1, max_size=6).map(sorted))
def test_a_log_that_grows_in_steps_is_followed_to_its_root(log, tmp_path_factory, sizes: list[int]) -> None:
    state = tmp_path_factory.mktemp("state") / "log.state"
    bodies = numbered(sizes[-1])
    done = 0
    for size in sizes:
        follower = Follower(Served(log, bodies[:size]), opener(log), state)
        assert consumed(follower.advance()) == list(enumerate(bodies))[done:size]
        leaves = [hashlib.sha256(b"\0" + body).digest() for body in bodies[:size]]
        kept = follower.state
        assert Frontier(kept.consumed, kept.frontier).root() == spec_root(leaves)
        done = size


def test_a_log_of_three_levels_is_followed_through_its_tiles(log, state: Path) -> None:
    bodies = numbered(66_000)
    short, long = Served(log, bodies[:65_500]), Served(log, bodies)
    assert len(consumed(Follower(short, opener(log), state).advance())) == 65_500
    follower = Follower(long, opener(log), state)
    assert consumed(follower.advance_comparing_tiles()) == list(enumerate(bodies))[65_500:]
    assert "tile/2/000.p/1" in long.asked
    assert len(long.asked) < 20  # and not the log from its beginning


def test_tiles_of_leaf_hashes_are_not_fetched_where_bundles_are_right(log, follower_of) -> None:
    source = Served(log, numbered(1024))
    consumed(follower_of(source).advance())
    assert source.asked == ["checkpoint", "tile/1/000.p/4", *(f"tile/entries/00{n}" for n in range(4))]


def test_full_files_serve_where_the_log_removed_partial_ones(log, follower_of) -> None:
    bodies = numbered(600)
    old, new = Served(log, bodies[:300]), Served(log, bodies)
    new.files["checkpoint"] = old.files["checkpoint"]
    new.files["tile/1/000.p/1"] = old.files["tile/1/000.p/1"]
    assert consumed(follower_of(new).advance()) == list(enumerate(bodies[:300]))


def test_the_log_of_others_is_followed_from_nothing_to_its_newest_size(shared, log, state, tmp_path) -> None:
    vectors = shared("tessera-log.json")
    key = VerifierKey.parse(vectors["vkey"])
    tree = tmp_path / "tree"
    found: list[tuple[int, bytes]] = []
    for each in vectors["sizes"]:
        size = each["size"]
        for kind, field in (("0", "tile_0_000_hex"), ("entries", "entries_000_hex")):
            if size:
                path = tree / "tile" / kind / "000.p" / str(size)
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(bytes.fromhex(each[field]))
        tree.mkdir(exist_ok=True)
        (tree / "checkpoint").write_text(each["checkpoint"], encoding="utf-8")
        source = FolderSource(tree)
        follower = Follower(source, lambda note: open_checkpoint(note, [key], log.verify), state)
        found += consumed(follower.advance_comparing_tiles())
        assert len(found) == size
        report = audit_source(source, follower._open, Bodies.OPAQUE)
        assert (report.size, report.findings) == (size, ())
        with pytest.raises(NoteSignatureError):
            consumed(Follower(source, opener(log), tmp_path / "other.state").advance())
    assert [body.decode() for _, body in found] == [
        "one",
        "two",
        "three",
        "four",
        "five",
        "six",
        "seven",
        "eit",
    ]


class Quiet(SimpleHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        pass


def test_a_log_is_followed_over_http_as_from_its_folder(log, state: Path, tmp_path: Path) -> None:
    bodies = numbered(1000)
    folder = tmp_path / "public"
    Served(log, bodies).write(folder)
    with ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(folder))) as server:
        server.daemon_threads, server.block_on_close = True, False
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            with HttpSource(f"http://127.0.0.1:{server.server_port}") as source:
                assert consumed(Follower(source, opener(log), state).advance()) == list(enumerate(bodies))
                assert audit_source(source, opener(log), Bodies.OPAQUE).findings == ()
                (folder / "tile" / "entries" / "001").unlink()
                with pytest.raises(UnprovenEntryError, match="From entry 256 on"):
                    consumed(Follower(source, opener(log), tmp_path / "other.state").advance())
        finally:
            server.shutdown()
            thread.join()


# --- Faults in what is served


def found_until(chunks: Iterable[follow.Chunk]) -> tuple[list[tuple[int, bytes]], UnprovenEntryError]:
    found = []
    try:
        for chunk in chunks:
            found += consumed([chunk])
    except UnprovenEntryError as error:
        return found, error
    pytest.fail("everything was handed out as if it were proven")


@pytest.mark.parametrize("index", [0, 100, 255, 256, 511, 512, 699])
def test_an_altered_entry_is_named_and_nothing_of_its_bundle_handed_out(log, follower_of, index) -> None:
    bodies = numbered(700)
    other = [*bodies[:index], b"forged " + bodies[index], *bodies[index + 1 :]]
    source, forged = Served(log, bodies), files(other)
    name = f"tile/entries/{spec_name(index // 256, min(256, 700 - index // 256 * 256))}"
    source.faults[name] = forged[name]
    found, error = found_until(follower_of(source).advance())
    assert error.index == index
    assert found == list(enumerate(bodies[: index // 256 * 256]))


@pytest.mark.parametrize("name", ["tile/entries/000", "tile/entries/001", "tile/entries/002.p/188"])
@pytest.mark.parametrize(
    "fault", ["flipped length", "cut", "longer", "empty", "missing", "refused", "swapped"]
)
def test_a_bundle_that_is_not_the_one_asked_for_is_named(log, follower_of, name: str, fault: str) -> None:
    bodies = numbered(700)
    source = Served(log, bodies)
    start = {"tile/entries/000": 0, "tile/entries/001": 256, "tile/entries/002.p/188": 512}[name]
    data = source.files[name]
    other = source.files["tile/entries/000" if start else "tile/entries/001"]
    first_of_last = min(start + 255, 699)
    source.faults[name], index = {
        "flipped length": (bytes([data[0] ^ 1]) + data[1:], start),
        "cut": (data[:-1], first_of_last),
        "longer": (data + b"\0\0", min(start + 256, 700)),
        "empty": (b"", start),
        "missing": (SourceMissingError("gone"), start),
        "refused": (SourceAnswerError("too long"), start),
        "swapped": (other, start if start < 512 else 700),
    }[fault]
    found, error = found_until(follower_of(source).advance())
    assert found == list(enumerate(bodies[:start]))
    if fault == "flipped length":
        assert start <= error.index < start + 256
    else:
        assert error.index == index


def test_two_entries_that_changed_places_are_named(log, follower_of) -> None:
    bodies = numbered(300)
    swapped = [*bodies[:7], bodies[8], bodies[7], *bodies[9:]]
    source = Served(log, bodies)
    source.faults["tile/entries/000"] = files(swapped)["tile/entries/000"]
    assert found_until(follower_of(source).advance())[1].index == 7


@pytest.mark.parametrize("name", ["tile/0/002.p/188", "tile/1/000.p/2"])
@pytest.mark.parametrize("at", [0, 33, -1])
def test_nothing_is_handed_out_when_a_tile_at_the_edge_was_altered(log, follower_of, name, at) -> None:
    source = Served(log, numbered(700))
    source.flip(name, at)
    found, error = found_until(follower_of(source).advance())
    assert (found, error.index) == ([], 0)


@pytest.mark.parametrize("fault", [b"", bytes(31), bytes(33), SourceMissingError("gone")])
def test_nothing_is_handed_out_when_a_tile_at_the_edge_is_not_there(log, state, fault) -> None:
    bodies = numbered(700)
    consumed(Follower(Served(log, bodies[:300]), opener(log), state).advance())
    source = Served(log, bodies)
    source.faults["tile/0/002.p/188"] = fault
    found, error = found_until(Follower(source, opener(log), state).advance())
    assert found == []
    assert error.index == (300 if isinstance(fault, Error) else 512)


def test_a_full_tile_above_the_leaves_must_lead_to_the_checkpoint(log, state: Path) -> None:
    bodies = numbered(65_600)
    source = Served(log, bodies)
    source.flip("tile/1/000", 32 * 7)
    found, error = found_until(Follower(source, opener(log), state).advance())
    assert (found, error.index) == ([], 0)
    source.faults.clear()
    source.faults["tile/1/000"] = SourceMissingError("gone")
    found, error = found_until(Follower(source, opener(log), state).advance())
    assert (found, error.index) == ([], 0)


def test_a_tile_of_leaf_hashes_that_differs_is_refused_where_tiles_are_compared(log, state, tmp_path) -> None:
    bodies = numbered(700)
    source = Served(log, bodies)
    source.flip("tile/0/001", 5)
    assert consumed(Follower(source, opener(log), state).advance()) == list(enumerate(bodies))
    found, error = found_until(Follower(source, opener(log), tmp_path / "2.state").advance_comparing_tiles())
    assert found == list(enumerate(bodies[:256]))
    assert error.index == 256


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data(), size=st.integers(1, 600))
def test_no_altered_byte_leads_to_an_entry_that_was_not_logged(log, tmp_path_factory, data, size) -> None:
    bodies = numbered(size)
    source = Served(log, bodies)
    name = data.draw(st.sampled_from(sorted(source.files)))
    source.flip(name, data.draw(st.integers(0, len(source.files[name]) - 1)))
    follower = Follower(source, opener(log), tmp_path_factory.mktemp("state") / "log.state")
    found = []
    try:
        for chunk in follower.advance_comparing_tiles():
            found += consumed([chunk])
    except Error:
        assert found == list(enumerate(bodies))[: len(found)]
        assert len(found) < size or name.startswith("tile/0/")
    else:
        pytest.fail(f"{name} was altered and nobody noticed")


def test_an_unreachable_log_is_a_failure_and_no_accusation(log, follower_of) -> None:
    source = Served(log, numbered(700))
    for name in ("checkpoint", "tile/1/000.p/2", "tile/entries/001"):
        source.faults = {name: SourceUnreachableError("down")}
        with pytest.raises(SourceUnreachableError):
            consumed(follower_of(source).advance())
    source.faults = {}
    assert consumed(follower_of(source).advance())[-1][0] == 699


# --- Histories that do not agree


def test_a_smaller_log_than_before_is_refused(log, follower_of) -> None:
    bodies = numbered(300)
    consumed(follower_of(Served(log, bodies)).advance())
    for size in (0, 1, 256, 299):
        with pytest.raises(ForeignRolledBackError, match=f"{size} entries after it signed 300"):
            consumed(follower_of(Served(log, bodies[:size])).advance())
    assert follower_of(None).state.consumed == 300


@pytest.mark.parametrize("size", [300, 301, 700])
@pytest.mark.parametrize("index", [0, 255, 299])
def test_another_history_is_refused_and_both_notes_are_kept(log, follower_of, state, size, index) -> None:
    bodies = numbered(size)
    honest = Served(log, bodies[:300])
    consumed(follower_of(honest).advance())
    before = state.read_bytes()
    forged = Served(log, [*bodies[:index], b"forged", *bodies[index + 1 :]])
    with pytest.raises(EquivocationError) as caught:
        consumed(follower_of(forged).advance())
    assert [path.read_bytes() for path in caught.value.evidence] == [
        honest.files["checkpoint"],
        forged.files["checkpoint"],
    ]
    # 300 entries are perfect subtrees of 256, 32, 8 and 4.
    assert caught.value.first == (0 if size == 300 else {0: 0, 255: 0, 299: 296}[index])
    for path in caught.value.evidence:
        assert path.parent == state.parent
        opener(log)(path.read_bytes())
    assert state.read_bytes() == before
    with pytest.raises(EquivocationError):  # it does not grow with each attempt
        consumed(follower_of(forged).advance())
    assert len(list(state.parent.glob("*.note"))) == 2


def test_a_history_that_is_rewritten_above_what_was_consumed_is_refused(log, follower_of) -> None:
    bodies = numbered(700)
    chunks = follower_of(Served(log, bodies)).advance()
    next(chunks)
    chunks.close()
    assert follower_of(None).state.consumed == 0
    forged = Served(log, [*bodies[:650], b"forged", *bodies[651:], b"more"])
    with pytest.raises(EquivocationError):
        consumed(follower_of(forged).advance())


def test_a_checkpoint_that_changes_while_it_is_followed_does_not_disturb(log, follower_of) -> None:
    bodies = numbered(900)
    source = Served(log, bodies[:600])
    found = []
    for chunk in follower_of(source).advance():
        found += consumed([chunk])
        source.files |= Served(log, bodies).files
    assert found == list(enumerate(bodies[:600]))
    assert consumed(follower_of(source).advance()) == list(enumerate(bodies))[600:]


def test_a_log_that_swaps_its_tree_while_it_is_followed_is_refused(log, follower_of) -> None:
    bodies = numbered(900)
    source = Served(log, bodies)
    chunks = follower_of(source).advance()
    found = consumed([next(chunks)])
    source.files = Served(log, [b"other %d" % n for n in range(900)]).files
    more, error = found_until(chunks)
    assert found + more == list(enumerate(bodies[:256]))
    assert error.index == 256


def test_another_log_or_another_key_is_refused(log, other_log, follower_of, state) -> None:
    consumed(follower_of(Served(log, numbered(3))).advance())
    with pytest.raises(NoteSignatureError):
        consumed(follower_of(Served(other_log, numbered(4))).advance())
    elsewhere = type(log)(log.private, "elsewhere.example")
    both = Follower(
        Served(elsewhere, numbered(4)),
        lambda note: open_checkpoint(note, [log.key, elsewhere.key], log.verify),
        state,
    )
    with pytest.raises(ForeignOtherLogError):
        consumed(both.advance())


# --- The state


def test_a_chunk_that_was_not_consumed_is_handed_out_again(log, follower_of) -> None:
    bodies = numbered(700)
    source = Served(log, bodies)
    chunks = follower_of(source).advance()
    next(chunks)
    second = next(chunks)
    chunks.close()
    assert follower_of(source).state.consumed == 256
    assert next(iter(follower_of(source).advance())).start == second.start == 256


def test_the_checkpoint_is_remembered_before_anything_under_it_is_handed_out(log, follower_of) -> None:
    source = Served(log, numbered(700))
    chunks = follower_of(source).advance()
    next(chunks)
    chunks.close()
    assert follower_of(source).state.note == source.files["checkpoint"]
    with pytest.raises(ForeignRolledBackError):
        consumed(follower_of(Served(log, numbered(699))).advance())


def test_a_new_signature_on_the_same_tree_is_kept(log, follower_of) -> None:
    source = Served(log, numbered(5))
    consumed(follower_of(source).advance())
    source.files["checkpoint"] += "— witness.example AAAAAAAAAAAA\n".encode()
    assert consumed(follower_of(source).advance()) == []
    assert follower_of(source).state.note == source.files["checkpoint"]


def test_the_state_is_put_on_the_disk_now_and_then_while_chunks_are_consumed(log, follower_of) -> None:
    chunks = follower_of(Served(log, numbered(256 * 40))).advance()
    seen = [follower_of(None).state.consumed for _ in chunks]
    every = KEEP_EVERY * 256
    assert seen == [index // KEEP_EVERY * every for index in range(40)]
    assert follower_of(None).state.consumed == 256 * 40


def test_two_at_once_do_not_share_a_state(log, follower_of) -> None:
    source = Served(log, numbered(700))
    chunks = follower_of(source).advance()
    next(chunks)
    with pytest.raises(FollowBusyError):
        next(follower_of(source).advance())
    chunks.close()
    assert len(consumed(follower_of(source).advance())) == 700


def test_a_state_that_says_other_entries_than_its_note_is_refused(log, follower_of, state) -> None:
    source = Served(log, numbered(10))
    consumed(follower_of(source).advance())
    kept = follower_of(source).state
    for consumed_size, frontier in (
        (10, (bytes(32), kept.frontier[1])),
        (11, (*kept.frontier, bytes(32))),
        (2, (bytes(32),)),
    ):
        state.write_bytes(bytes(State(consumed_size, frontier, kept.note)))
        with pytest.raises(MalformedStateError):
            consumed(follower_of(source).advance())


def test_a_state_with_a_note_nobody_signed_is_refused(log, other_log, follower_of, state) -> None:
    source = Served(log, numbered(10))
    state.write_bytes(bytes(State(0, (), Served(other_log, numbered(10)).files["checkpoint"])))
    with pytest.raises(FollowKeysError):
        consumed(follower_of(source).advance())
    state.write_bytes(bytes(State(0, (), log.sign("no checkpoint\n"))))
    with pytest.raises(MalformedStateError):
        consumed(follower_of(source).advance())


def test_a_state_in_a_place_that_cannot_be_used_is_an_error(log, tmp_path: Path) -> None:
    source = Served(log, numbered(1))
    with pytest.raises(FollowStateError):
        consumed(Follower(source, opener(log), tmp_path / "nowhere" / "log.state").advance())
    (tmp_path / "folder").mkdir()
    with pytest.raises(FollowStateError):
        consumed(Follower(source, opener(log), tmp_path / "folder").advance())


def test_a_pipe_or_a_device_as_the_state_does_not_hold_us_up(log, tmp_path: Path) -> None:
    source = Served(log, numbered(1))
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "endless").symlink_to("/dev/zero")
    for name in ("pipe", "endless"):
        with pytest.raises(FollowStateError, match="is not a file"):
            consumed(Follower(source, opener(log), tmp_path / name).advance())
    with (tmp_path / "huge").open("wb") as huge:
        huge.truncate(3 << 30)
    with pytest.raises(MalformedStateError):
        consumed(Follower(source, opener(log), tmp_path / "huge").advance())


@given(st.integers(0, 1 << 62), st.binary(max_size=30))
def test_a_state_is_read_as_it_was_written(size: int, seed: bytes) -> None:
    frontier = tuple(hashlib.sha256(seed + bytes([n])).digest() for n in range(size.bit_count()))
    state = State(size, frontier, f"note {seed.hex()}\n\n— x y\n".encode())
    assert State.parse(bytes(state)) == state


@given(
    st.binary(max_size=200) | st.text(max_size=200).map(lambda text: b"lightseal/follow/v1\n" + text.encode())
)
def test_whatever_is_no_state_raises_only_its_own_error(data: bytes) -> None:
    try:
        state = State.parse(data)
    except MalformedStateError:
        return
    assert bytes(state) == data


CONSUMER = """
import sys, time
from pathlib import Path
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from storage.checkpoint import open_checkpoint
from storage.foreign.follow import Follower
from storage.note import VerifierKey
from storage.foreign.source import FolderSource

def verify(public, signature, message):
    try:
        Ed25519PublicKey.from_public_bytes(public).verify(signature, message)
    except InvalidSignature:
        return False
    return True

key = VerifierKey.parse(sys.argv[3])
follower = Follower(FolderSource(Path(sys.argv[1])), lambda note: open_checkpoint(note, [key], verify),
                    Path(sys.argv[2]))
for chunk in follower.advance():
    for at, body in enumerate(chunk.bodies):
        print(chunk.start + at, body.decode(), flush=True)
        time.sleep(float(sys.argv[4]))
"""


def test_killed_at_any_moment_it_goes_on_and_loses_nothing(log, state: Path, tmp_path: Path) -> None:
    bodies = numbered(20_000)
    folder = tmp_path / "public"
    Served(log, bodies).write(folder)
    lines: list[str] = []
    positions = [0]
    for kill in range(12):
        pause = "0" if kill == 11 else "0.00001"
        command = [sys.executable, "-c", CONSUMER, str(folder), str(state), str(log.key), pause]
        with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=Path(__file__).parents[3]) as process:
            assert process.stdout is not None
            taken = itertools.islice(process.stdout, 100 + 450 * kill if kill < 11 else 0)
            lines += [line.decode() for line in taken]
            if kill < 11:
                os.kill(process.pid, signal.SIGKILL)
            rest = process.stdout.read().decode().splitlines(keepends=True)
            lines += [line for line in rest if line.endswith("\n")]
        assert process.returncode == (-signal.SIGKILL if kill < 11 else 0)
        kept = Follower(FolderSource(folder), opener(log), state).state
        positions.append(kept.consumed if kept else 0)
        leaves = [leaf_hash(body) for body in bodies[: positions[-1]]]
        assert Frontier(positions[-1], kept.frontier if kept else ()).root() == spec_root(leaves)
    assert positions == sorted(positions)
    assert len(set(positions)) > 2
    assert positions[-1] == 20_000
    seen = {line.rstrip("\n") for line in lines if line}
    assert seen == {f"{index} {body.decode()}" for index, body in enumerate(bodies)}


# --- Watching for a key


def test_every_use_of_a_watched_key_is_reported_and_no_other(log, follower_of) -> None:
    mine, also, other = (hashlib.sha256(name).digest() for name in (b"mine", b"also", b"other"))
    keys = [other] * 700
    keys[3], keys[256], keys[699], keys[400] = mine, mine, also, also
    bodies = [entry(n, key, Kind.ISSUE if n == 3 else Kind.SIGN) for n, key in enumerate(keys)]
    uses = list(watch(follower_of(Served(log, bodies)), [mine, also]))
    assert uses == [
        Use(3, Kind.ISSUE, START + timedelta(seconds=3), mine),
        Use(256, Kind.SIGN, START + timedelta(seconds=256), mine),
        Use(400, Kind.SIGN, START + timedelta(seconds=400), also),
        Use(699, Kind.SIGN, START + timedelta(seconds=699), also),
    ]
    assert list(watch(follower_of(Served(log, bodies)), [mine, also])) == []


def test_an_alarm_that_was_not_taken_is_raised_again(log, follower_of) -> None:
    mine = hashlib.sha256(b"mine").digest()
    source = Served(log, [entry(n, mine if n in {300, 301} else bytes(32)) for n in range(700)])
    uses = watch(follower_of(source), [mine])
    assert next(uses).index == 300
    uses.close()
    assert [use.index for use in watch(follower_of(source), [mine])] == [300, 301]


def test_what_cannot_be_read_is_reported_as_it_may_hide_a_use(log, follower_of) -> None:
    mine = hashlib.sha256(b"mine").digest()
    source = Served(log, [entry(0, mine), b"{}", entry(2, mine)])
    found = list(watch(follower_of(source), [mine]))
    assert [type(each) for each in found] == [Use, Unreadable, Use]
    assert found[1].index == 1


# --- Auditing a whole foreign log


def test_an_honest_log_has_no_findings_and_its_root_is_derived(log) -> None:
    for size in (0, 1, 256, 257, 700):
        bodies = [entry(number) for number in range(size)]
        report = audit_source(Served(log, bodies), opener(log), Bodies.OURS)
        assert report.findings == ()
        assert (report.origin, report.size) == (log.name, size)
        assert report.root == spec_root([hashlib.sha256(b"\0" + body).digest() for body in bodies])


def codes(report: Any) -> list[tuple[Code, int]]:
    return [(each.code, each.index) for each in report.findings]


def test_an_audit_names_each_thing_that_is_wrong_and_goes_on(log) -> None:
    bodies = [entry(number) for number in range(700)]
    bodies[300], bodies[500] = b"not ours", entry(1)
    source = Served(log, bodies)
    source.flip("tile/0/001", 32 * 44)
    source.flip("tile/1/000.p/2", 32)
    source.faults["tile/0/000"] = SourceMissingError("gone")
    assert codes(audit_source(source, opener(log), Bodies.OURS)) == [
        (Code.TILE_MISSING, 0),
        (Code.ENTRY_MALFORMED, 300),
        (Code.ENTRY_TIME, 500),
        (Code.TILE_DIFFERS, 300),
        (Code.TILE_DIFFERS, 256),
    ]


def test_bodies_of_other_logs_are_not_read(log) -> None:
    assert audit_source(Served(log, numbered(300)), opener(log), Bodies.OPAQUE).findings == ()


def test_an_audit_names_the_entry_that_was_altered(log) -> None:
    bodies = [entry(number) for number in range(700)]
    source = Served(log, bodies)
    source.faults["tile/entries/001"] = files([*bodies[:400], entry(401), *bodies[401:]])["tile/entries/001"]
    report = audit_source(source, opener(log), Bodies.OURS)
    assert codes(report)[0] == (Code.TILE_DIFFERS, 400)
    assert (Code.CHECKPOINT_ROOT, 700) in codes(report)


def test_an_audit_ends_where_entries_cannot_be_read(log) -> None:
    bodies = numbered(700)
    source = Served(log, bodies)
    source.faults["tile/entries/001"] = source.files["tile/entries/001"][:-1]
    report = audit_source(source, opener(log), Bodies.OPAQUE)
    assert codes(report) == [(Code.ENTRY_MISSING, 511), (Code.CHECKPOINT_SIZE, 256)]
    assert report.root == spec_root([hashlib.sha256(b"\0" + body).digest() for body in bodies[:256]])
    source.faults["tile/entries/001"] = SourceMissingError("gone")
    assert codes(audit_source(source, opener(log), Bodies.OPAQUE))[0] == (Code.ENTRY_MISSING, 256)


def test_an_audit_of_an_unsigned_checkpoint_has_that_one_finding(log, other_log) -> None:
    source = Served(other_log, numbered(3))
    assert codes(audit_source(source, opener(log), Bodies.OPAQUE)) == [(Code.CHECKPOINT_SIGNATURE, 0)]
    source.files["checkpoint"] = b"<html>"
    assert codes(audit_source(source, opener(log), Bodies.OPAQUE)) == [(Code.CHECKPOINT_MALFORMED, 0)]


def test_an_audit_of_a_log_that_is_down_is_an_error(log) -> None:
    source = Served(log, numbered(300))
    source.faults["tile/entries/000"] = SourceUnreachableError("down")
    with pytest.raises(SourceUnreachableError):
        audit_source(source, opener(log), Bodies.OPAQUE)


def test_extension_lines_are_an_error_that_says_so_and_no_finding(log, other_log, follower_of, state) -> None:
    source = Served(log, [entry(number) for number in range(3)])
    text = source.files["checkpoint"].decode().partition("\n\n")[0] + "\nsomething more\n"
    source.files["checkpoint"] = log.sign(text)
    for ask in (
        lambda: audit_source(source, opener(log), Bodies.OURS),
        lambda: audit_onwards(follower_of(source), Bodies.OURS),
        lambda: consumed(follower_of(source).advance()),
    ):
        with pytest.raises(ExtendedCheckpointError, match="1 extension lines, which are not read"):
            ask()
    assert not state.exists()
    # Said by somebody else, they are nothing that this log wrote.
    source.files["checkpoint"] = other_log.sign(text)
    assert codes(audit_source(source, opener(log), Bodies.OURS)) == [(Code.CHECKPOINT_SIGNATURE, 0)]
    # A checkpoint that is wrong without them stays a finding.
    source.files["checkpoint"] = log.sign(f"{log.name}\n03\n{text.splitlines()[2]}\n")
    assert codes(audit_source(source, opener(log), Bodies.OURS)) == [(Code.CHECKPOINT_MALFORMED, 0)]


# --- Auditing what a foreign log gained


@pytest.mark.parametrize("read", [1, 5, 255, 256, 257, 512])
def test_an_audit_that_goes_on_finds_what_a_whole_one_finds(log, follower_of, read: int) -> None:
    bodies = [entry(number) for number in range(read)]
    first = audit_onwards(follower_of(Served(log, bodies)), Bodies.OURS)
    assert (first.findings, first.size, first.start) == ((), read, 0)
    bodies += [entry(number) for number in range(read, read + 400)]
    bodies[read + 20], bodies[read + 300] = b"not ours", entry(1)
    source = Served(log, bodies)
    kept = follower_of(source).state
    # Until somebody explains it, each audit finds it again.
    for _ in range(2):
        report = audit_onwards(follower_of(source), Bodies.OURS)
        assert codes(report) == [(Code.ENTRY_MALFORMED, read + 20), (Code.ENTRY_TIME, read + 300)]
        assert codes(report) == codes(audit_source(source, opener(log), Bodies.OURS))
        assert (report.origin, report.size) == (log.name, len(bodies))
        assert report.root == spec_root([hashlib.sha256(b"\0" + body).digest() for body in bodies])
        reached = follower_of(source).state
        assert kept.consumed <= reached.consumed <= read + 20
        assert reached.note == source.files["checkpoint"]


@pytest.mark.parametrize("read", [1, 5, 255, 256, 257, 512])
def test_times_do_not_go_back_across_the_state(log, follower_of, read: int) -> None:
    bodies = [entry(number) for number in range(10, read + 10)]
    assert audit_onwards(follower_of(Served(log, bodies)), Bodies.OURS).findings == ()
    bodies.append(entry(read + 8))
    source = Served(log, bodies)
    for _ in range(2):
        report = audit_onwards(follower_of(source), Bodies.OURS)
        assert (codes(report), report.start) == ([(Code.ENTRY_TIME, read)], read)


def test_the_entry_before_the_state_is_proven_like_any_other(log, follower_of) -> None:
    bodies = [entry(number) for number in range(256)]
    assert audit_onwards(follower_of(Served(log, bodies)), Bodies.OURS).findings == ()
    bodies.append(entry(1))
    source = Served(log, bodies)
    # It shows an older time than it signed, so that the new entry looks well.
    source.faults["tile/entries/000"] = files([*bodies[:255], entry(0)])["tile/entries/000"]
    with pytest.raises(UnprovenEntryError) as caught:
        audit_onwards(follower_of(source), Bodies.OURS)
    assert caught.value.index == 255


def test_what_a_log_gained_is_not_read_where_its_bodies_are_others(log, follower_of) -> None:
    for size in (300, 700):
        report = audit_onwards(follower_of(Served(log, numbered(size))), Bodies.OPAQUE)
        assert (report.findings, report.size) == ((), size)
    nothing_new = audit_onwards(follower_of(Served(log, numbered(700))), Bodies.OPAQUE)
    assert (nothing_new.origin, nothing_new.start, nothing_new.size) == (log.name, 700, 700)
    assert follower_of(None).state.consumed == 700


def test_an_unsigned_checkpoint_is_a_finding_when_going_on_too(other_log, follower_of, state) -> None:
    source = Served(other_log, numbered(3))
    assert codes(audit_onwards(follower_of(source), Bodies.OURS)) == [(Code.CHECKPOINT_SIGNATURE, 0)]
    source.files["checkpoint"] = b"<html>"
    assert codes(audit_onwards(follower_of(source), Bodies.OURS)) == [(Code.CHECKPOINT_MALFORMED, 0)]
    assert not state.exists()


# --- Proven tiles


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 700), st.data())
def test_a_proven_tree_knows_the_frontier_of_every_earlier_size(size: int, data: Any) -> None:
    bodies = numbered(size)
    made = files(bodies)
    leaves = [hashlib.sha256(b"\0" + body).digest() for body in bodies]
    tiles = ProvenTiles(
        size, spec_root(leaves), lambda level, n, width: made[f"tile/{level}/{spec_name(n, width)}"]
    )
    old = data.draw(st.integers(0, size))
    assert Frontier(old, tiles.peaks(old)).root() == spec_root(leaves[:old])
    for number in range(size // 256):
        assert b"".join(tiles.tile(0, number)) == made[f"tile/0/{spec_name(number, 256)}"]


def test_the_empty_tree_has_the_empty_root_and_no_other() -> None:
    def never(*_: int) -> bytes:
        raise AssertionError

    assert ProvenTiles(0, EMPTY_ROOT, never).peaks(0) == ()
    with pytest.raises(UnprovenTileError):
        ProvenTiles(0, bytes(32), never)


def test_every_error_has_a_code_of_its_own_and_a_remedy() -> None:
    kinds = [
        kind
        for kind in vars(follow).values()
        if isinstance(kind, type) and issubclass(kind, Error) and kind.__module__ == follow.__name__
    ]
    assert len({kind.code for kind in kinds}) == len(kinds) == 9
    assert all(kind.remedy.endswith(".") for kind in kinds)
    assert issubclass(MalformedStateError, MalformedError)
