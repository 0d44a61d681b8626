"""The command when certificates were withdrawn: asked, kept, given as files, and dated by the ledger."""

import http.server
import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import ocsp

from authn.device import read_chain
from authn.keys import open_key
from tools.founding import create_home
from tools.home import Home
from tools.issuance.own import enrol
from tools.signing import sign_files

HOUR = timedelta(hours=1)


def now() -> datetime:
    return datetime.now(UTC)


@dataclass
class Responder:
    """An OCSP responder on the loopback; what it says is set by each test."""

    port: int = 0
    says: Callable[[bytes], bytes] | None = None
    asked: list[str] = field(default_factory=list)


@pytest.fixture
def responder() -> Iterator[Responder]:
    state = Responder()

    class Handler(http.server.BaseHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            state.asked.append(self.path)
            if state.says is None:
                self.send_error(503)
                return
            answer = state.says(body)
            self.send_response(200)
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        state.port = server.server_address[1]
        thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        yield state
        server.shutdown()
        thread.join()


@pytest.fixture
def asking(responder: Responder, tmp_path: Path) -> Home:
    """A home whose certificates name the responder, as its lists do."""
    url = f"http://127.0.0.1:{responder.port}/ocsp/"
    made = create_home(tmp_path / "asking", "Asking Newsroom", url, now())
    enrol(made, "cam", "Asking Camera", now())
    return made


def signed_by(home: Home, source: Path, folder: Path, *, timed: bool) -> Path:
    (line,) = sign_files(home, [source], folder, "cam", now, timed=timed)
    assert isinstance(line, str), line
    return folder / source.name


def answering(
    home: Home, since: datetime | None, reason: x509.ReasonFlags | None = x509.ReasonFlags.key_compromise
) -> Callable[[bytes], bytes]:
    """Answers by the issuing authority itself: withdrawn `since`, or good."""
    key = open_key(f"file:{home.path / 'keys' / 'issuing.pem'}", None).private
    (issuing,) = read_chain((home.path / "certificates" / "issuing.pem").read_bytes())

    def answer(query: bytes) -> bytes:
        asked = ocsp.load_der_ocsp_request(query)
        builder = ocsp.OCSPResponseBuilder().add_response_by_hash(
            asked.issuer_name_hash,
            asked.issuer_key_hash,
            asked.serial_number,
            asked.hash_algorithm,
            ocsp.OCSPCertStatus.GOOD if since is None else ocsp.OCSPCertStatus.REVOKED,
            now() - timedelta(minutes=1),
            now() + HOUR,
            since,
            None if since is None else reason,
        )
        named = builder.responder_id(ocsp.OCSPResponderEncoding.HASH, issuing)
        return named.sign(key, hashes.SHA384()).public_bytes(Encoding.DER)  # type: ignore[arg-type]

    return answer


def test_nobody_is_asked_unless_somebody_says_so(lightseal, asking, responder, own_samples, tmp_path) -> None:
    path = signed_by(asking, own_samples / "harbour.jpg", tmp_path / "out", timed=True)
    responder.says = answering(asking, None)
    done = lightseal("verify", path, home=asking)
    assert (done.returncode, responder.asked) == (0, [])
    assert "  revocation not checked\n" in done.stdout


def test_a_good_answer_is_dated_and_kept_for_later(
    lightseal, asking, responder, own_samples, tmp_path
) -> None:
    path = signed_by(asking, own_samples / "harbour.jpg", tmp_path / "out", timed=True)
    responder.says = answering(asking, None)
    done = lightseal("verify", "--online", "--json", path, home=asking)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)["proven"]["revocation"]
    assert found["state"] == "good"
    assert found["as_of"] is not None
    assert set(responder.asked) == {"/ocsp/"}
    responder.asked.clear()
    later = json.loads(lightseal("verify", "--json", path, home=asking).stdout)
    assert (later["proven"]["revocation"]["state"], responder.asked) == ("good", [])


def test_a_responder_that_is_down_changes_nothing_and_is_said(
    lightseal, asking, own_samples, tmp_path
) -> None:
    path = signed_by(asking, own_samples / "harbour.jpg", tmp_path / "out", timed=True)
    done = lightseal("verify", "--online", path, home=asking)
    assert done.returncode == 0
    assert "503" in done.stdout


@pytest.mark.parametrize("timed", [True, False])
def test_a_certificate_withdrawn_before_the_signature_is_rejected(
    lightseal, asking, responder, own_samples, tmp_path, timed
) -> None:
    path = signed_by(asking, own_samples / "harbour.jpg", tmp_path / "out", timed=timed)
    responder.says = answering(asking, now() - HOUR)
    done = lightseal("verify", "--online", path, home=asking)
    assert (done.returncode, "[SIGNER_REVOKED]" in done.stdout) == (13, True), done.stdout
    assert lightseal("verify", path, home=asking).returncode == 13


def test_a_signature_proven_older_stays_good(lightseal, asking, responder, own_samples, tmp_path) -> None:
    path = signed_by(asking, own_samples / "harbour.jpg", tmp_path / "out", timed=True)
    responder.says = answering(asking, now() + timedelta(seconds=30))
    done = lightseal("verify", "--online", "--json", path, home=asking)
    found = json.loads(done.stdout)
    assert (done.returncode, found["proven"]["revocation"]["state"]) == (0, "signed before revocation")


def test_without_a_reason_no_time_saves_a_signature(
    lightseal, asking, responder, own_samples, tmp_path
) -> None:
    path = signed_by(asking, own_samples / "harbour.jpg", tmp_path / "out", timed=True)
    responder.says = answering(asking, now() + timedelta(seconds=30), None)
    assert lightseal("verify", "--online", path, home=asking).returncode == 13


def test_without_a_token_only_the_ledger_can_say_that_it_is_older(
    lightseal, asking, responder, own_samples, tmp_path
) -> None:
    """Our own rule, which others do not share: without the ledger the same file is a withdrawn signer's."""
    path = signed_by(asking, own_samples / "harbour.jpg", tmp_path / "out", timed=False)
    responder.says = answering(asking, now() + timedelta(seconds=30))
    done = lightseal("verify", "--online", "--json", path, home=asking)
    found = json.loads(done.stdout)["proven"]["revocation"]
    assert (done.returncode, found["state"]) == (0, "signed before revocation, by the ledger's clock")
    (kept,) = (asking.path / "status").glob("*.status")
    lists = ["--signers", asking.path / "trust" / "signers.pem"]
    alone = lightseal("verify", *lists, "--revocations", kept, path)
    assert (alone.returncode, "[SIGNER_REVOKED]" in alone.stdout) == (13, True), alone.stdout


def test_a_host_that_no_list_names_is_never_asked(
    lightseal, asking, responder, own_samples, tmp_path
) -> None:
    path = signed_by(asking, own_samples / "harbour.jpg", tmp_path / "out", timed=True)
    for name, own in zip(("signers", "time-stampers"), asking.own_lists(), strict=True):
        (asking.path / "trust" / f"{name}.pem").write_bytes(own.pem)
    responder.says = answering(asking, now() - HOUR)
    done = lightseal("verify", "--online", path, home=asking)
    assert (done.returncode, responder.asked) == (0, [])
    assert "no trust list names it" in done.stdout


def test_a_file_that_is_no_list_is_an_error_with_a_code(lightseal, home, signed, tmp_path) -> None:
    bad = tmp_path / "bad.crl"
    bad.write_bytes(b"nothing")
    done = lightseal("verify", "--revocations", bad, signed, home=home)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("error[status-unreadable]")
