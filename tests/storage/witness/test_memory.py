import hashlib
import os
import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.mldsa import MLDSA44PrivateKey, MLDSA44PublicKey
from hypothesis import given
from hypothesis import strategies as st

from storage.checkpoint import Checkpoint, open_checkpoint
from storage.cosignature import cosigners
from storage.errors import MalformedError
from storage.merkle import EMPTY_ROOT, TILE_WIDTH, Frontier, Tree, leaf_hash
from storage.note import Algorithm, Note, Signature, VerifierKey
from storage.witness.memory import (
    MAX_REFUSALS,
    MAX_REQUEST_BYTES,
    SIZE,
    Answer,
    CosigningKey,
    MalformedRequestError,
    Request,
    Witness,
    WitnessError,
    WitnessExistsError,
    WitnessForeignError,
    WitnessKeyError,
    WitnessLostError,
)

NOON = datetime(2026, 11, 25, 12, tzinfo=UTC)


def private(name: str) -> Ed25519PrivateKey:
    return Ed25519PrivateKey.from_private_bytes(hashlib.sha256(name.encode()).digest())


def verify(public: bytes, signature: bytes, message: bytes) -> bool:
    try:
        if len(public) == 32:
            Ed25519PublicKey.from_public_bytes(public).verify(signature, message)
        else:
            MLDSA44PublicKey.from_public_bytes(public).verify(signature, message)
    except InvalidSignature:
        return False
    return True


def root_of(leaves: list[bytes]) -> bytes:
    frontier = Frontier()
    for leaf in leaves:
        frontier.append(leaf)
    return frontier.root()


@dataclass
class ToyLog:
    """A log of 300 entries that can tell another history from some entry on."""

    name: str = "log.example"
    forked_at: int = 300
    story: str = "another"
    leaves: list[bytes] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.leaves = [
            leaf_hash(f"{'one' if n < self.forked_at else self.story} {n}".encode()) for n in range(300)
        ]

    @property
    def key(self) -> VerifierKey:
        return VerifierKey(self.name, private(self.name).public_key().public_bytes_raw())

    def sign(self, text: str) -> Signature:
        return Signature(self.name, self.key.key_id, private(self.name).sign(text.encode()))

    def note(self, size: int) -> Note:
        text = str(Checkpoint(self.name, size, root_of(self.leaves[:size])))
        return Note(text, (self.sign(text),))

    def proof(self, old: int, size: int) -> tuple[bytes, ...]:
        def tile(level: int, number: int, width: int) -> bytes:
            span = TILE_WIDTH**level
            starts = range(number * TILE_WIDTH * span, (number * TILE_WIDTH + width) * span, span)
            return b"".join(root_of(self.leaves[start : start + span]) for start in starts)

        return Tree(size, tile).consistency(old)

    def request(self, old: int, size: int) -> bytes:
        return bytes(Request(old, self.proof(old, size), self.note(size)))


def witness_key(
    name: str = "witness.example", *, sign: Callable[[bytes], bytes] | None = None
) -> CosigningKey:
    secret = private(name)
    key = VerifierKey(name, secret.public_key().public_bytes_raw(), Algorithm.COSIGNATURE_ED25519)
    return CosigningKey(key, sign or secret.sign)


LOG = ToyLog()
KEY = witness_key()
LOGS = {LOG.name: [LOG.key], "other.example": [ToyLog("other.example").key]}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "witness.db"


@pytest.fixture
def witness(path: Path) -> Iterator[Witness]:
    with Witness.create(path, [KEY], LOGS, verify) as made:
        yield made


def require_cosigned(answer: Answer, note: Note, at: datetime) -> None:
    assert (answer.status, answer.content_type) == (200, "text/plain; charset=utf-8")
    (signer,) = cosigners(bytes(note) + answer.body, [KEY.key], verify)
    assert signer.at == int(at.timestamp())


def seen_size(witness: Witness, log: ToyLog = LOG) -> int:
    """Ask as the specification says: with an old size that cannot be right."""
    answer = witness.add_checkpoint(bytes(Request(299, log.proof(299, 300), log.note(300))), NOON)
    assert (answer.status, answer.content_type) == (409, SIZE)
    return int(answer.body)


def monitored(witness: Witness, name: str = "log.example") -> Answer:
    return witness.newest(hashlib.sha256(name.encode()).hexdigest())


def test_a_log_that_grows_is_cosigned_at_every_size(witness: Witness) -> None:
    old = 0
    for step, size in enumerate((0, 1, 2, 7, 8, 200, 256, 257, 300)):
        at = NOON + timedelta(seconds=step)
        require_cosigned(witness.add_checkpoint(LOG.request(old, size), at), LOG.note(size), at)
        served = monitored(witness).body
        assert open_checkpoint(served, [LOG.key], verify).size == size
        assert [signer.at for signer in cosigners(served, [KEY.key], verify)] == [int(at.timestamp())]
        old = size


def test_the_newest_cosigned_note_is_served_under_the_hash_of_its_origin_alone(witness: Witness) -> None:
    assert monitored(witness).status == 404
    witness.add_checkpoint(LOG.request(0, 5), NOON)
    assert monitored(witness).status == 200
    assert monitored(witness, "other.example").status == 404
    assert monitored(witness, "nobody.example").status == 404
    assert witness.newest("log.example").status == 404
    assert witness.newest(hashlib.sha256(b"log.example").hexdigest().upper()).status == 404


def test_both_kinds_of_keys_of_a_witness_cosign(path: Path) -> None:
    lattice = MLDSA44PrivateKey.from_seed_bytes(bytes(32))
    second = CosigningKey(
        VerifierKey("witness.example", lattice.public_key().public_bytes_raw(), Algorithm.ML_DSA_44),
        lattice.sign,
    )
    with Witness.create(path, [KEY, second], LOGS, verify) as witness:
        answer = witness.add_checkpoint(LOG.request(0, 9), NOON)
    signers = cosigners(bytes(LOG.note(9)) + answer.body, [KEY.key, second.key], verify)
    assert [signer.key for signer in signers] == [KEY.key, second.key]


NOTE = bytes(LOG.note(10)).decode()
HASH = "PlRNCrwHpqhGrupue0L7gxbjbMiKA9temvuZZDDpkaw="


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\n\n",
        NOTE.encode(),
        f"old 3\n{NOTE}".encode(),
        f"old 3\n{HASH}\n\n{NOTE}".replace("\n", "\r\n").encode(),
        f"old 3\r\n{HASH}\n\n{NOTE}".encode(),
        f"old 3\n{HASH}\r\n\n{NOTE}".encode(),
        f"old 03\n{HASH}\n\n{NOTE}".encode(),
        f"old 00\n\n{NOTE}".encode(),
        f"old +3\n{HASH}\n\n{NOTE}".encode(),
        f"old -1\n{HASH}\n\n{NOTE}".encode(),
        f"old  3\n{HASH}\n\n{NOTE}".encode(),
        f"old 3 \n{HASH}\n\n{NOTE}".encode(),
        f"Old 3\n{HASH}\n\n{NOTE}".encode(),
        f"old 1_0\n{HASH}\n\n{NOTE}".encode(),
        f"old ٣\n{HASH}\n\n{NOTE}".encode(),
        f"old {2**63}\n{HASH}\n\n{NOTE}".encode(),
        f"old {10**40}\n{HASH}\n\n{NOTE}".encode(),
        f"old 3\n{HASH[:-1]}\n\n{NOTE}".encode(),
        f"old 3\n{HASH[:-2]}x=\n\n{NOTE}".encode(),
        f"old 3\nAAAA\n\n{NOTE}".encode(),
        f"old 3\n*{HASH[1:]}\n\n{NOTE}".encode(),
        f"old 3\n {HASH}\n\n{NOTE}".encode(),
        f"old 3\n{HASH}\n{NOTE}".encode(),
        f"old 3\n{64 * (HASH + chr(10))}\n{NOTE}".encode(),
        f"old 3\n\n{HASH}\n\n{NOTE}".encode(),
        f"old 3\n{HASH}\n\n{NOTE[:-1]}".encode(),
        f"old 3\n{HASH}\n\n{NOTE}\n".encode(),
        f"old 3\n{HASH}\n\n{NOTE}".encode() + b"\xff",
        f"old 3\n{HASH}\n\n{NOTE.partition(chr(8212))[0]}".encode(),
    ],
)
def test_a_malformed_request_is_refused_as_a_bad_one(witness: Witness, body: bytes) -> None:
    answer = witness.add_checkpoint(body, NOON)
    assert answer.status == 400
    assert answer.body.endswith(b"\n")
    assert seen_size(witness) == 0


@pytest.mark.parametrize(
    "text",
    [
        "log.example\n010\n{root}\n",
        "log.example\n9223372036854775808\n{root}\n",
        "log.example\n-1\n{root}\n",
        "log.example\n10\n{root}\nextension\n",
        "log.example\n10\nAAAA\n",
        "log.example\n10\n",
        "\n10\n{root}\n",
    ],
)
def test_a_malformed_checkpoint_is_refused_though_the_log_signed_it(witness: Witness, text: str) -> None:
    text = text.format(root=HASH)
    note = bytes(Note(text, (LOG.sign(text),)))
    assert witness.add_checkpoint(b"old 0\n\n" + note, NOON).status == 400
    assert seen_size(witness) == 0


def test_sixty_three_lines_of_proof_are_read_and_sixty_four_are_not(witness: Witness) -> None:
    lines = [b"%064d" % n for n in range(64)]
    proofs = [hashlib.sha256(line).digest() for line in lines]
    witness.add_checkpoint(LOG.request(0, 3), NOON)
    assert witness.add_checkpoint(bytes(Request(3, tuple(proofs[:63]), LOG.note(10))), NOON).status == 422
    assert witness.add_checkpoint(bytes(Request(3, tuple(proofs), LOG.note(10))), NOON).status == 400


def test_a_request_beyond_the_limit_is_not_read(witness: Witness) -> None:
    lines = tuple(Signature("somebody.example", b"abcd", bytes(2420)) for _ in range(50))
    note = Note(LOG.note(10).text, (*LOG.note(10).signatures, *lines))
    body = bytes(Request(0, (), note))
    assert len(body) > MAX_REQUEST_BYTES
    assert witness.add_checkpoint(body, NOON).status == 400


def test_an_unknown_origin_is_not_found(witness: Witness) -> None:
    assert witness.add_checkpoint(ToyLog("nobody.example").request(0, 5), NOON).status == 404


def test_a_checkpoint_that_only_strangers_signed_is_forbidden(witness: Witness) -> None:
    stranger = ToyLog("other.example")
    text = LOG.note(5).text
    note = Note(text, (stranger.sign(text),))
    assert witness.add_checkpoint(bytes(Request(0, (), note)), NOON).status == 403
    named = Note(text, (Signature(LOG.name, LOG.key.key_id, private("stranger").sign(text.encode())),))
    assert witness.add_checkpoint(bytes(Request(0, (), named)), NOON).status == 403
    assert seen_size(witness) == 0


def test_strangers_signatures_are_ignored_and_not_kept(witness: Witness) -> None:
    note = LOG.note(5)
    crowd = Note(note.text, (Signature("who.example", b"abcd", bytes(64)), *note.signatures))
    require_cosigned(witness.add_checkpoint(bytes(Request(0, (), crowd)), NOON), crowd, NOON)
    kept = Note.parse(monitored(witness).body)
    assert [line.name for line in kept.signatures] == [LOG.name, KEY.key.name]


def test_sixteen_signatures_of_nearly_5_kb_and_the_longest_proof_fit(witness: Witness) -> None:
    """Verifiers must accept 16 signatures, and post-quantum ones can have nearly 5 kB (signed-note, Format)."""
    note = LOG.note(10)
    names = [f"{'long-' * 10}{number}.example/log" for number in range(15)]
    lines = tuple(Signature(name, b"abcd", bytes(4999)) for name in names)
    request = Request(0, (bytes(32),) * 63, Note(note.text, (*note.signatures, *lines)))
    assert Request.parse(bytes(request)) == request
    asked = Request(0, (), request.note)
    require_cosigned(witness.add_checkpoint(bytes(asked), NOON), note, NOON)


def test_of_two_lines_by_the_log_the_verified_one_is_kept(witness: Witness) -> None:
    note = LOG.note(5)
    twice = Note(note.text, (*note.signatures, Signature(LOG.name, LOG.key.key_id, bytes(64))))
    require_cosigned(witness.add_checkpoint(bytes(Request(0, (), twice)), NOON), note, NOON)
    assert Note.parse(monitored(witness).body).signatures[:-1] == note.signatures


def test_an_old_size_beyond_the_checkpoint_is_a_bad_request(witness: Witness) -> None:
    witness.add_checkpoint(LOG.request(0, 8), NOON)
    assert witness.add_checkpoint(bytes(Request(8, (), LOG.note(5))), NOON).status == 400


def test_an_old_size_that_is_not_the_one_seen_is_answered_with_the_one_seen(witness: Witness) -> None:
    assert seen_size(witness) == 0
    witness.add_checkpoint(LOG.request(0, 8), NOON)
    for old, size in ((0, 8), (0, 9), (7, 9), (0, 5), (5, 5)):
        assert witness.add_checkpoint(LOG.request(old, size), NOON) == Answer(409, SIZE, b"8\n")


def test_a_proof_that_does_not_lead_there_is_refused(witness: Witness) -> None:
    proof = LOG.proof(7, 20)
    assert witness.add_checkpoint(bytes(Request(0, proof, LOG.note(7))), NOON).status == 422
    witness.add_checkpoint(LOG.request(0, 7), NOON)
    for wrong in ((), proof[:-1], (*proof, proof[0]), (proof[1], proof[0], *proof[2:]), LOG.proof(6, 20)):
        assert witness.add_checkpoint(bytes(Request(7, wrong, LOG.note(20))), NOON).status == 422
    assert witness.add_checkpoint(bytes(Request(7, proof, LOG.note(7))), NOON).status == 422
    assert seen_size(witness) == 7
    require_cosigned(witness.add_checkpoint(bytes(Request(7, proof, LOG.note(20))), NOON), LOG.note(20), NOON)


def test_an_empty_tree_has_one_root(witness: Witness) -> None:
    text = str(Checkpoint(LOG.name, 0, hashlib.sha256(b"no root of nothing").digest()))
    assert witness.add_checkpoint(b"old 0\n\n" + bytes(Note(text, (LOG.sign(text),))), NOON).status == 422
    assert LOG.note(0).text == str(Checkpoint(LOG.name, 0, EMPTY_ROOT))
    assert witness.add_checkpoint(LOG.request(0, 0), NOON).status == 200


def test_the_same_checkpoint_again_is_cosigned_again_with_the_new_time(witness: Witness) -> None:
    witness.add_checkpoint(LOG.request(0, 8), NOON)
    later = NOON + timedelta(seconds=5)
    require_cosigned(witness.add_checkpoint(LOG.request(8, 8), later), LOG.note(8), later)
    assert seen_size(witness) == 8


def test_a_fork_of_the_size_seen_is_refused_and_both_notes_are_kept(witness: Witness) -> None:
    witness.add_checkpoint(LOG.request(0, 8), NOON)
    forked = ToyLog(forked_at=5)
    for old in (8, 8, 0):
        answer = witness.add_checkpoint(bytes(Request(old, (), forked.note(8))), NOON)
        assert answer.status == 409
    (fork,) = witness.forks()
    seen, refused = (open_checkpoint(note, [LOG.key], verify) for note in (fork.seen, fork.refused))
    assert (seen.origin, seen.size) == (refused.origin, refused.size) == (LOG.name, 8)
    assert seen.root == root_of(LOG.leaves[:8])
    assert refused.root == root_of(forked.leaves[:8])
    assert seen.root != refused.root
    assert open_checkpoint(monitored(witness).body, [LOG.key], verify) == seen


def test_a_fork_is_answered_with_the_very_size_that_was_asked(witness: Witness) -> None:
    witness.add_checkpoint(LOG.request(0, 8), NOON)
    forked = bytes(Request(8, (), ToyLog(forked_at=5).note(8)))
    answer = witness.add_checkpoint(forked, NOON)
    assert (answer.status, answer.content_type, answer.body) == (409, SIZE, b"8\n")


@pytest.mark.parametrize(("old", "proof"), [(8, 0), (0, 0), (8, 3)])
def test_a_fork_is_told_once_to_whoever_runs_the_witness(witness: Witness, old: int, proof: int) -> None:
    witness.add_checkpoint(LOG.request(0, 8), NOON)
    forked = bytes(Request(old, (bytes(32),) * proof, ToyLog(forked_at=5).note(8)))
    answers = [witness.add_checkpoint(forked, NOON) for _ in range(3)]
    assert [answer.kept for answer in answers] == [*witness.forks(), None, None]
    assert {answer.status for answer in answers} <= {409, 422}
    # What is only unproven, and what is refused for another reason, is no fork.
    for body in (ToyLog(forked_at=5).request(8, 20), LOG.request(0, 9), LOG.request(8, 9)):
        assert witness.add_checkpoint(body, NOON).kept is None


def test_a_fork_that_grew_further_cannot_be_proven_and_its_note_is_kept(witness: Witness) -> None:
    witness.add_checkpoint(LOG.request(0, 8), NOON)
    forked = ToyLog(forked_at=5)
    assert witness.add_checkpoint(forked.request(8, 20), NOON).status == 422
    assert witness.forks() == ()
    (kept,) = witness.unproven()
    assert open_checkpoint(kept.refused, [LOG.key], verify).size == 20
    assert seen_size(witness) == 8


def test_a_log_that_forks_for_ever_does_not_fill_the_disk(witness: Witness) -> None:
    witness.add_checkpoint(LOG.request(0, 2), NOON)
    for number in range(MAX_REFUSALS + 3):
        forked = ToyLog(forked_at=1, story=f"story {number}")
        assert witness.add_checkpoint(bytes(Request(2, (), forked.note(2))), NOON).status == 409
    assert len(witness.forks()) == MAX_REFUSALS


def test_a_clock_that_ran_back_cosigns_nothing_and_keeps_nothing(witness: Witness) -> None:
    witness.add_checkpoint(LOG.request(0, 8), NOON)
    before = NOON - timedelta(seconds=1)
    for body in (LOG.request(8, 8), LOG.request(8, 9), ToyLog("other.example").request(0, 4)):
        answer = witness.add_checkpoint(body, before)
        assert answer.status == 503
        assert b"ran back by 1 seconds" in answer.body
    assert seen_size(witness) == 8
    assert seen_size(witness, ToyLog("other.example")) == 0
    assert witness.add_checkpoint(LOG.request(8, 9), NOON).status == 200


def test_a_clock_at_the_epoch_cosigns_nothing(witness: Witness) -> None:
    assert witness.add_checkpoint(LOG.request(0, 8), datetime.fromtimestamp(0, UTC)).status == 503
    assert seen_size(witness) == 0


class SigningFailedError(Exception):
    pass


def test_what_was_seen_is_kept_before_anything_is_signed(path: Path) -> None:
    looks: list[tuple[int, bytes | None]] = []

    def failing(_message: bytes) -> bytes:
        with sqlite3.connect(path) as reader:
            looks.extend(reader.execute("SELECT size, cosigned FROM witness_seen"))
        reader.close()
        raise SigningFailedError

    with (
        Witness.create(path, [witness_key(sign=failing)], LOGS, verify) as witness,
        pytest.raises(SigningFailedError),
    ):
        witness.add_checkpoint(LOG.request(0, 8), NOON)
    assert looks == [(8, None)]
    with Witness.open(path, [KEY], LOGS, verify) as witness:
        assert monitored(witness).status == 404
        forked = ToyLog(forked_at=5)
        assert witness.add_checkpoint(bytes(Request(8, (), forked.note(8))), NOON).status == 409
        assert witness.add_checkpoint(LOG.request(8, 8), NOON).status == 200


KILLED = """
import hashlib, os, signal, sys
from datetime import UTC, datetime
from pathlib import Path
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from storage.note import Algorithm, VerifierKey
from storage.witness.memory import CosigningKey, Witness

def public(name):
    secret = Ed25519PrivateKey.from_private_bytes(hashlib.sha256(name.encode()).digest())
    return secret.public_key().public_bytes_raw()

def verify(key, signature, message):
    Ed25519PublicKey.from_public_bytes(key).verify(signature, message)
    return True

def die(message):
    os.kill(os.getpid(), signal.SIGKILL)

key = VerifierKey("witness.example", public("witness.example"), Algorithm.COSIGNATURE_ED25519)
logs = {"log.example": [VerifierKey("log.example", public("log.example"))]}
witness = Witness.open(Path(sys.argv[1]), [CosigningKey(key, die)], logs, verify)
witness.add_checkpoint(sys.stdin.buffer.read(), datetime.fromtimestamp(int(sys.argv[2]), UTC))
print("answered")
"""


def test_a_witness_killed_between_keeping_and_answering_knows_what_it_saw(path: Path) -> None:
    Witness.create(path, [KEY], LOGS, verify).close()
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])}
    killed = subprocess.run(
        [sys.executable, "-c", KILLED, str(path), str(int(NOON.timestamp()))],
        input=LOG.request(0, 8),
        env=environment,
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert (killed.returncode, killed.stdout) == (-signal.SIGKILL, b""), killed.stderr
    with Witness.open(path, [KEY], LOGS, verify) as witness:
        # The log knows of no answer, asks again, is told the size, and gets its cosignature.
        assert witness.add_checkpoint(LOG.request(0, 8), NOON) == Answer(409, SIZE, b"8\n")
        forked = bytes(Request(8, (), ToyLog(forked_at=5).note(8)))
        assert witness.add_checkpoint(forked, NOON).status == 409
        require_cosigned(witness.add_checkpoint(LOG.request(8, 8), NOON), LOG.note(8), NOON)
        assert len(witness.forks()) == 1


def at_once(asks: list[Callable[[], Answer]]) -> list[Answer]:
    start, answers = threading.Barrier(len(asks)), []

    def run(ask: Callable[[], Answer]) -> None:
        start.wait()
        answers.append(ask())

    threads = [threading.Thread(target=run, args=(ask,)) for ask in asks]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(answers) == len(asks)
    return answers


def test_of_identical_requests_at_once_one_wins_and_the_others_learn_the_size(witness: Witness) -> None:
    body = LOG.request(0, 8)
    answers = at_once([lambda: witness.add_checkpoint(body, NOON)] * 12)
    assert sorted(answer.status for answer in answers) == [200] + [409] * 11
    assert {answer.body for answer in answers if answer.status == 409} == {b"8\n"}


def test_of_conflicting_requests_at_once_one_tree_is_cosigned_even_through_two_doors(
    witness: Witness, path: Path
) -> None:
    stories = [ToyLog(forked_at=0, story=f"story {n}") for n in range(6)]
    with Witness.open(path, [KEY], LOGS, verify) as second:
        doors = [witness, second] * 3
        bodies = [story.request(0, 8) for story in stories]
        answers = at_once(
            [partial(door.add_checkpoint, body, NOON) for door, body in zip(doors, bodies, strict=True)]
        )
        assert sorted(answer.status for answer in answers) == [200] + [409] * 5
        served = open_checkpoint(monitored(witness).body, [LOG.key], verify)
        (winner,) = (story for story in stories if root_of(story.leaves[:8]) == served.root)
        assert len(witness.forks()) == 5

        bodies = [winner.request(8, 20 + n) for n in range(6)]
        answers = at_once(
            [partial(door.add_checkpoint, body, NOON) for door, body in zip(doors, bodies, strict=True)]
        )
        assert sorted(answer.status for answer in answers) == [200] + [409] * 5
        size = open_checkpoint(monitored(witness).body, [LOG.key], verify).size
        assert {answer.body for answer in answers if answer.status == 409} == {b"%d\n" % size}


def test_a_key_that_signs_slowly_does_not_put_an_older_note_before_monitors(path: Path) -> None:
    signing, release = threading.Event(), threading.Event()

    def slow_once(message: bytes) -> bytes:
        if not signing.is_set():
            signing.set()
            assert release.wait(20)
        return KEY.sign(message)

    with Witness.create(path, [witness_key(sign=slow_once)], LOGS, verify) as witness:
        first = threading.Thread(target=witness.add_checkpoint, args=(LOG.request(0, 8), NOON))
        first.start()
        assert signing.wait(20)
        assert witness.add_checkpoint(LOG.request(8, 20), NOON).status == 200
        release.set()
        first.join()
        assert open_checkpoint(monitored(witness).body, [LOG.key], verify).size == 20


def test_a_witness_that_lost_its_database_does_not_begin_anew(path: Path) -> None:
    with pytest.raises(WitnessLostError):
        Witness.open(path, [KEY], LOGS, verify)
    assert list(path.parent.iterdir()) == []
    Witness.create(path, [KEY], LOGS, verify).close()
    for file in path.parent.glob("witness.db*"):
        if not file.name.endswith(".key"):
            file.unlink()
    with pytest.raises(WitnessLostError):
        Witness.open(path, [KEY], LOGS, verify)
    with pytest.raises(WitnessLostError) as lost:
        Witness.create(path, [KEY], LOGS, verify)
    assert "retire this witness key" in lost.value.remedy
    assert not path.exists()


def test_a_witness_is_not_created_over_another(witness: Witness, path: Path) -> None:
    witness.add_checkpoint(LOG.request(0, 8), NOON)
    with pytest.raises(WitnessExistsError):
        Witness.create(path, [KEY], LOGS, verify)
    assert seen_size(witness) == 8


def test_a_database_of_another_key_or_another_program_is_refused(witness: Witness, path: Path) -> None:
    with pytest.raises(WitnessForeignError):
        Witness.open(path, [witness_key("second.example")], LOGS, verify)
    other = path.with_name("other.db")
    with sqlite3.connect(other) as database:
        database.execute("CREATE TABLE witness_seen (origin TEXT)")
    database.close()
    with pytest.raises(WitnessForeignError):
        Witness.open(other, [KEY], LOGS, verify)
    other.write_bytes(b"not a database, but long enough to be looked at as one" * 100)
    with pytest.raises(WitnessError):
        Witness.open(other, [KEY], LOGS, verify)
    assert seen_size(witness) == 0


def test_a_log_cannot_be_its_own_witness(path: Path) -> None:
    own = CosigningKey(
        VerifierKey("witness.example", LOG.key.public, Algorithm.COSIGNATURE_ED25519), private(LOG.name).sign
    )
    for keys in ([own], [KEY, KEY], []):
        with pytest.raises(WitnessKeyError):
            Witness.create(path, keys, LOGS, verify)
    assert not path.exists()


def test_the_database_itself_refuses_to_go_back(witness: Witness, path: Path) -> None:
    witness.add_checkpoint(LOG.request(0, 8), NOON)
    witness.add_checkpoint(bytes(Request(8, (), ToyLog(forked_at=5).note(8))), NOON)
    database = sqlite3.connect(path)
    for statement in (
        "UPDATE witness_seen SET size = 7",
        "UPDATE witness_seen SET time = time - 1",
        "UPDATE witness_seen SET root = zeroblob(32)",
        "DELETE FROM witness_seen",
        "UPDATE witness_refused SET note = seen",
        "DELETE FROM witness_refused",
    ):
        with pytest.raises(sqlite3.IntegrityError):
            database.execute(statement)
    database.close()


def test_every_connection_waits_for_the_disk(witness: Witness) -> None:
    assert witness._database.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    assert witness._database.execute("PRAGMA synchronous").fetchone() == (2,)


hashes = st.binary(min_size=32, max_size=32)
requests = st.builds(
    Request,
    st.integers(0, 2**63 - 1),
    st.lists(hashes, max_size=63).map(tuple),
    st.sampled_from([LOG.note(0), LOG.note(10), ToyLog("nobody.example").note(4)]),
)


@given(requests)
def test_a_request_reads_back_as_it_was_written(request: Request) -> None:
    assert Request.parse(bytes(request)) == request


@given(
    st.binary(max_size=100)
    | requests.map(bytes).flatmap(
        lambda data: st.builds(
            lambda at, byte: data[:at] + byte + data[at + 1 :],
            st.integers(0, len(data)),
            st.binary(max_size=2),
        )
    )
)
def test_reading_a_request_accepts_what_it_would_write_or_raises_its_own_error(data: bytes) -> None:
    try:
        assert bytes(Request.parse(data)) == data
    except MalformedError:
        pass


def test_a_proof_line_error_names_itself() -> None:
    with pytest.raises(MalformedRequestError) as refused:
        Request.parse(b"old 3\nAAAA\n\n" + bytes(LOG.note(10)))
    assert refused.value.code == "add-checkpoint-malformed"
