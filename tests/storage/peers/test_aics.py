"""aics-tlog audits our log over HTTP; aics-witness cosigns it, and its client believes our witness."""

import json
import os
import re
import shutil
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from storage import base64text
from storage.checkpoint import Checkpoint
from storage.cosignature import cosigners
from storage.errors import NoteSignatureError
from storage.note import Algorithm, Note, Signature, VerifierKey
from storage.policy import Policy, QuorumMissingError, open_witnessed
from storage.witness.client import (
    Collected,
    RolledBackError,
    Submission,
    collect,
    over_http,
)
from storage.witness.memory import CosigningKey, Request, Witness

HERE = Path(__file__).parent
SECONDS = 20.0

Audit = Callable[..., dict[str, Any]]


@pytest.fixture
def audit(aics: Path, log: Any) -> Audit:
    """Run a command of aics-tlog, trusting our log's key, and return its report."""

    def run(command: str, *options: object, key: VerifierKey = log.key) -> dict[str, Any]:
        words = [str(aics / "aics-tlog"), command, "--log-key", str(key), *map(str, options)]
        done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=60)
        report: dict[str, Any] = json.loads(done.stdout)
        assert done.returncode == (0 if report["ok"] else 1)
        return report

    return run


@pytest.mark.parametrize("size", [1, 2, 7, 256, 257, 700, 70_000])
def test_aics_tlog_accepts_our_log_over_http(audit: Audit, served: Any, grown: Any, size: int) -> None:
    published = grown.at[size]
    with served(published.folder) as url:
        report = audit("verify-checkpoint", "--tiles", url)
        assert (report["ok"], report["size"], report["tiles_ok"]) == (True, size, True)
        for receipt in {published.receipts[0], published.receipts[len(published.receipts) // 2]}:
            index, leaf = receipt.proof.index, receipt.entry.leaf.hex()
            report = audit("verify-inclusion", "--tiles", url, "--index", index, "--leaf-hash", leaf)
            assert (report["ok"], report["proof_length"]) == (True, len(receipt.proof.hashes))


def test_aics_tlog_reads_our_entries_over_http(audit: Audit, served: Any, grown: Any, tmp_path: Path) -> None:
    published = grown.at[70_000]
    written = tmp_path / "entry"
    with served(published.folder) as url:
        for receipt in (published.receipts[0], published.receipts[-1]):
            report = audit(
                "verify-inclusion", "--tiles", url, "--index", receipt.proof.index, "--entry-out", written
            )
            assert report["ok"]
            assert written.read_bytes() == receipt.entry.body


@pytest.mark.parametrize(("old", "new"), [(1, 2), (3, 8), (256, 257), (255, 700), (700, 70_000)])
def test_aics_tlog_sees_that_our_log_only_grew(
    audit: Audit, served: Any, grown: Any, old: int, new: int
) -> None:
    with served(grown.at[new].folder) as url:
        before = grown.at[old].folder / "checkpoint"
        report = audit("verify-consistency", "--tiles", url, "--old-checkpoint", before)
        assert report["ok"], report


@pytest.mark.parametrize(("old", "new"), [(3, 8), (256, 700)])
def test_aics_tlog_follows_the_consistency_proofs_that_we_hand_out(
    audit: Audit, grown: Any, tmp_path: Path, old: int, new: int
) -> None:
    hashes = list(map(base64text.encode, grown.ledger.consistency(old, new)))
    roots = [base64text.encode(Checkpoint.parse(Note.parse(grown.at[n].note).text).root) for n in (old, new)]
    sizes = ("--old-size", old, "--new-size", new, "--old-root", roots[0], "--new-root", roots[1])
    proof = tmp_path / "proof"
    proof.write_text("\n".join(hashes) + "\n")
    assert audit("verify-consistency", *sizes, "--proof", proof)["ok"]
    proof.write_text("\n".join(hashes[:-1]) + "\n")
    assert not audit("verify-consistency", *sizes, "--proof", proof)["ok"]


@pytest.fixture
def copied(grown: Any, tmp_path: Path) -> Path:
    """A copy of the published log of 700 entries, to be tampered with."""
    return Path(shutil.copytree(grown.at[700].folder, tmp_path / "copied"))


@pytest.mark.parametrize("name", ["tile/0/002.p/188", "tile/1/000.p/2"])
def test_aics_tlog_refuses_a_tile_with_one_bit_changed(
    audit: Audit, served: Any, copied: Path, name: str
) -> None:
    data = bytearray((copied / name).read_bytes())
    data[40] ^= 1
    (copied / name).write_bytes(data)
    with served(copied) as url:
        assert not audit("verify-checkpoint", "--tiles", url)["ok"]


def test_aics_tlog_refuses_another_entry_another_key_and_another_history(
    audit: Audit, served: Any, grown: Any, log: Any, other_log: Any, tmp_path: Path
) -> None:
    published = grown.at[700]
    first, second = published.receipts[:2]
    forked = tmp_path / "forked"
    forked.write_bytes(log.sign(str(Checkpoint(log.name, 257, bytes(32)))))
    with served(published.folder) as url:
        place = ("--tiles", url, "--index", first.proof.index)
        assert audit("verify-inclusion", *place, "--leaf-hash", first.entry.leaf.hex())["ok"]
        assert not audit("verify-inclusion", *place, "--leaf-hash", second.entry.leaf.hex())["ok"]
        assert not audit("verify-checkpoint", "--tiles", url, key=other_log.key)["ok"]
        report = audit("verify-consistency", "--tiles", url, "--old-checkpoint", forked)
        assert "history was rewritten" in report["error"]


# --- aics-witness cosigns our log ---------------------------------------------------------------


@dataclass(frozen=True)
class Running:
    """A witness of theirs, while it runs."""

    url: str
    key: VerifierKey

    def policy(self, log: Any) -> Policy:
        return Policy.parse(f"log {log.key}\nwitness theirs {self.key} {self.url}\nquorum theirs\n")


@pytest.fixture
def witness(aics: Path, log: Any, tmp_path: Path) -> Iterator[Running]:
    """aics-witness with a new key, trusting our log."""
    place = {**os.environ, "AICS_WITNESS_CONFIG": str(tmp_path / "witness.json")}
    program = str(aics / "aics-witness")

    def run(*words: str) -> str:
        command = [program, *words]
        return subprocess.run(command, env=place, capture_output=True, text=True, check=True).stdout

    key = VerifierKey.parse_cosigner(run("init", "--name", "witness.example/theirs").strip())
    run("add-log", "--origin", log.name, "--vkey", str(log.key))
    serve = [program, "serve", "--listen", "127.0.0.1:0"]
    with subprocess.Popen(serve, env=place, stderr=subprocess.PIPE, text=True) as server:
        assert server.stderr is not None
        try:
            found = (re.search(r"listening on (http://\S+)", line) for line in server.stderr)
            yield Running(next(match[1] for match in found if match), key)
        finally:
            server.terminate()
            server.communicate(timeout=20)


@pytest.fixture
def collected(grown: Any, log: Any, witness: Running) -> Callable[..., Collected]:
    """Have their witness cosign a checkpoint of ours, with our client."""

    def run(new: int, old: int = 0, note: bytes | None = None) -> Collected:
        submission = Submission(
            grown.at[new].note if note is None else note,
            old,
            lambda size: grown.ledger.consistency(size, new),
        )
        policy = witness.policy(log)
        return collect(submission, policy, over_http(SECONDS), log.verify, datetime.now(UTC), SECONDS)

    return run


def test_aics_witness_cosigns_our_log_as_it_grows(
    collected: Callable[..., Collected], witness: Running, log: Any, audit: Audit, tmp_path: Path
) -> None:
    policy = witness.policy(log)
    for old, new in ((0, 1), (1, 7), (7, 256), (0, 700), (700, 70_000)):  # 0: it has to tell us what it saw
        note = collected(new, old).note
        witnessed = open_witnessed(note, policy, log.verify)
        assert witnessed.checkpoint.size == new
        (by,) = witnessed.cosigners
        assert by.key == witness.key
        assert abs(by.at - datetime.now(UTC).timestamp()) < 60
        (tmp_path / "note").write_bytes(note)
        options = ("--note", tmp_path / "note", "--witness-key", witness.key, "--quorum")
        assert audit("verify-checkpoint", *options, 1)["cosignatures"] == 1
        assert not audit("verify-checkpoint", *options, 2)["ok"]


def test_we_refuse_a_cosignature_of_theirs_that_was_altered(
    collected: Callable[..., Collected], witness: Running, log: Any
) -> None:
    note = Note.parse(collected(7).note)
    ours, theirs = note.signatures
    assert theirs.name == witness.key.name
    later = Signature(
        theirs.name, theirs.key_id, theirs.value[:7] + bytes([theirs.value[7] ^ 1]) + theirs.value[8:]
    )
    with pytest.raises(NoteSignatureError):
        cosigners(bytes(Note(note.text, (ours, later))), [witness.key], log.verify)
    with pytest.raises(QuorumMissingError):
        open_witnessed(bytes(Note(note.text, (ours,))), witness.policy(log), log.verify)


def test_aics_witness_refuses_a_fork_and_a_way_back(collected: Callable[..., Collected], log: Any) -> None:
    collected(700)
    for wrong in (
        log.sign(str(Checkpoint(log.name, 700, bytes(32)))),
        log.sign(str(Checkpoint(log.name, 701, bytes(32)))),
    ):
        with pytest.raises(RolledBackError):
            collected(700, 700, wrong)
    with pytest.raises(RolledBackError):
        collected(257)
    assert len(collected(700, 700).cosigners) == 1


def test_aics_witness_refuses_a_wrong_proof_and_a_wrong_signature(
    grown: Any, witness: Running, other_log: Any
) -> None:
    exchange = over_http(SECONDS)

    def status(old: int, proof: tuple[bytes, ...], note: bytes) -> int:
        body = bytes(Request(old, proof, Note.parse(note)))
        return exchange(f"{witness.url}/add-checkpoint", body).status

    proof = grown.ledger.consistency(257, 700)
    assert status(0, (), grown.at[257].note) == 200
    assert status(257, (bytes(32), *proof[1:]), grown.at[700].note) == 422
    assert status(257, proof[:-1], grown.at[700].note) == 422
    assert status(257, proof, other_log.sign(Note.parse(grown.at[700].note).text)) == 403
    assert status(257, proof, grown.at[700].note) == 200


# --- their programs believe our witness -----------------------------------------------------------


@pytest.fixture
def ours(log: Any, tmp_path: Path) -> Iterator[tuple[Witness, VerifierKey]]:
    """Our witness, trusting our log."""
    private = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
    public = private.public_key().public_bytes_raw()
    key = VerifierKey("witness.example/ours", public, Algorithm.COSIGNATURE_ED25519)
    cosigning = CosigningKey(key, private.sign)
    with Witness.create(tmp_path / "witness.db", [cosigning], {log.name: [log.key]}, log.verify) as made:
        yield made, key


def test_aics_tlog_accepts_what_our_witness_cosigned(
    audit: Audit, grown: Any, ours: tuple[Witness, VerifierKey], tmp_path: Path
) -> None:
    witness, key = ours
    note = Note.parse(grown.at[700].note)
    answer = witness.add_checkpoint(bytes(Request(0, (), note)), datetime.now(UTC))
    assert answer.status == 200
    cosigned = bytes(note) + answer.body
    path = tmp_path / "note"
    options = ("--note", path, "--witness-key", key, "--quorum", 1)
    path.write_bytes(cosigned)
    report = audit("verify-checkpoint", *options, "--max-age", 60)
    assert (report["ok"], report["cosignatures"]) == (True, 1)
    path.write_bytes(bytes(note))
    assert not audit("verify-checkpoint", *options)["ok"]
    (line,) = Note.parse(f"{note.text}\n".encode() + answer.body).signatures
    earlier = Signature(line.name, line.key_id, bytes(8) + line.value[8:])
    path.write_bytes(bytes(Note(note.text, (*note.signatures, earlier))))
    assert not audit("verify-checkpoint", *options)["ok"]


@contextmanager
def serving(witness: Witness) -> Iterator[str]:
    """Put HTTP before our witness, on this machine, while the block runs."""

    class Calls(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            answer = witness.add_checkpoint(body, datetime.now(UTC))
            self.send_response(answer.status)
            self.send_header("Content-Type", answer.content_type)
            self.send_header("Content-Length", str(len(answer.body)))
            self.end_headers()
            self.wfile.write(answer.body)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Calls) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


def test_the_client_of_aics_witness_submits_to_our_witness(
    aics: Path, ask: Any, grown: Any, log: Any, ours: tuple[Witness, VerifierKey]
) -> None:
    witness, key = ours
    command = (str(aics / "python"), str(HERE / "ask_aics_witness.py"))

    def submit(url: str, old: int, new: int, note: bytes | None = None) -> dict[str, str]:
        proof = map(base64text.encode, grown.ledger.consistency(old, new)) if old else ()
        text = (note or grown.at[new].note).decode()
        question = {"url": url, "witness": str(key), "note": text, "old": old, "proof": list(proof)}
        told: dict[str, str] = ask(command, question)
        return told

    with serving(witness) as url:
        for old, new in ((0, 7), (7, 257), (257, 70_000)):
            told = submit(url, old, new)
            assert told["refused"] == ""
            (by,) = cosigners(grown.at[new].note + told["lines"].encode(), [key], log.verify)
            assert by.key == key
        assert "WitnessAhead" in submit(url, 0, 257)["refused"]
        fork = log.sign(str(Checkpoint(log.name, 70_000, bytes(32))))
        assert submit(url, 70_000, 70_000, fork)["refused"] != ""
    assert len(witness.forks()) == 1
