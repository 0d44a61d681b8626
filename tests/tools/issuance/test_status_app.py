"""The responder and the lists over HTTP, against a server process, read by our verifier and by openssl."""

import base64
import http.client
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import quote, urlsplit

import pytest

from authn.chain import read_certificate
from authn.device import encoded
from authn.evidence import Revocation
from authn.identity import pem_chain
from authn.ocsp import ocsp_request
from authn.revocation import Statuses, check_revocation
from authn.withdrawal import MALFORMED, TRY_LATER, UNAUTHORIZED, Reason
from storage.registry.rows import TargetKind
from tools.founding import create_home
from tools.home import Home
from tools.issuance.own import enrol
from tools.revoking import Signed, carry_out, propose, target_of
from tools.rotation import rotate
from tools.status import MOST_KEPT, StatusDesk, status_desk
from tools.status_lists import STATUS, list_path, look_after, publish, renew_responders

ROOT = Path(__file__).parents[3]
SERVER = """
import sys
from datetime import UTC, datetime
from pathlib import Path
from starlette.applications import Starlette
from tools.home import open_home
from tools.serving import serve
from tools.status import status_desk
from tools.status_app import routes
now = lambda: datetime.now(UTC)
home = open_home(Path(sys.argv[1]))
with status_desk(home, now) as desk:
    app = Starlette(routes=routes(home, desk, now))
    app.router.redirect_slashes = False
    serve(app, "127.0.0.1", 0, lambda line: print(line, flush=True))
"""


def now() -> datetime:
    return datetime.now(UTC)


@dataclass(frozen=True)
class Server:
    home: Home
    url: str

    def ask(self, path: str, body: bytes | None = None) -> tuple[int, dict[str, str], bytes]:
        connection = http.client.HTTPConnection(urlsplit(self.url).netloc, timeout=30)
        try:
            headers = {} if body is None else {"Content-Type": "application/ocsp-request"}
            connection.request("GET" if body is None else "POST", path, body, headers)
            response = connection.getresponse()
            return response.status, {k.lower(): v for k, v in response.getheaders()}, response.read()
        finally:
            connection.close()


@contextmanager
def serving(home: Home) -> Iterator[Server]:
    process = subprocess.Popen(
        [sys.executable, "-W", "error", "-c", SERVER, str(home.path)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )
    try:
        assert process.stdout is not None
        yield Server(home, process.stdout.readline().strip())
    finally:
        process.terminate()
        _, said = process.communicate(timeout=60)
        assert "Traceback" not in said


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    home = create_home(
        tmp_path_factory.mktemp("s") / "h", "Test Newsroom", "http://127.0.0.1:8461/ocsp/", now()
    )
    for name in ("good", "gone", "late"):
        enrol(home, name, "Test Camera", now())
    withdraw(home, "gone", None)
    renew_responders(home, now())
    with serving(home) as made:
        yield made


def withdraw(home: Home, device: str, since: datetime | None) -> None:
    target = target_of(home, TargetKind.DEVICE, device)
    carry_out(home, Signed(propose(home, target, Reason.KEY_COMPROMISE, since, now()), ()), now())


def request_for(home: Home, device: str) -> bytes:
    leaf, issuing = home.device(device).chain
    return ocsp_request(encoded(leaf), encoded(issuing))


def told(home: Home, device: str, answer: bytes) -> Revocation:
    path = home.device(device).chain
    return check_revocation(path, Statuses.parse_file(answer), None, now()).state


@pytest.mark.parametrize(
    ("device", "state"), [("good", Revocation.GOOD), ("gone", Revocation.REVOKED_TIME_UNKNOWN)]
)
def test_get_and_post_tell_the_same_and_our_verifier_believes_it(
    server: Server, device: str, state: Revocation
) -> None:
    request = request_for(server.home, device)
    status, headers, by_post = server.ask("/ocsp/", request)
    assert (status, headers["content-type"]) == (200, "application/ocsp-response")
    assert told(server.home, device, by_post) is state
    path = "/ocsp/" + quote(base64.b64encode(request).decode(), safe="")
    status, headers, by_get = server.ask(path)
    assert (status, headers["content-type"]) == (200, "application/ocsp-response")
    assert headers["cache-control"].startswith("public, max-age=")
    assert by_get == by_post, "one answer is signed for a window"
    bare = server.ask("/ocsp/" + base64.b64encode(request).decode())  # as clients that escape nothing send it
    assert bare[2] == by_get


def test_a_withdrawal_is_told_in_the_next_answer(server: Server) -> None:
    request = request_for(server.home, "late")
    assert told(server.home, "late", server.ask("/ocsp/", request)[2]) is Revocation.GOOD
    withdraw(server.home, "late", now() - timedelta(hours=2))
    assert told(server.home, "late", server.ask("/ocsp/", request)[2]) is Revocation.REVOKED_TIME_UNKNOWN


def test_authorities_and_the_time_stamp_unit_are_answered_for_as_well(server: Server) -> None:
    home = server.home
    for name, above in (("issuing", "root"), ("time-stamping", "time-root")):
        pair = home.certificate(name), home.certificate(above)
        _, _, answer = server.ask("/ocsp/", ocsp_request(*map(encoded, pair)))
        assert check_revocation(pair, Statuses.parse_file(answer), None, now()).state is Revocation.GOOD


def test_what_is_not_ours_or_no_request_is_told_so(server: Server, tmp_path: Path) -> None:
    stranger = create_home(tmp_path / "h", "Stranger", "http://127.0.0.1:8461/ocsp/", now())
    enrol(stranger, "x", "X", now())
    assert server.ask("/ocsp/", request_for(stranger, "x"))[2] == UNAUTHORIZED
    for body in (b"", b"\x30\x80", b"nonsense", b"\x30" * 4000):
        assert server.ask("/ocsp/", body)[2] == MALFORMED
    for text in ("", "%%%", "AAAA", "!" * 100, "MA" * 9000):
        assert server.ask(f"/ocsp/{text}")[2] == MALFORMED
    assert server.ask("/ocsp/", b"x" * 9000)[0] == 413


def test_a_certificate_that_was_never_issued_is_unknown(server: Server, tmp_path: Path) -> None:
    """An answer of `good` for whatever serial is asked for would vouch for planted certificates."""
    home = server.home
    leaf, issuing = (read_certificate(encoded(each)) for each in home.device("good").chain)
    planted = encoded(leaf).replace(
        leaf.serial_number.to_bytes(16, "big"), (leaf.serial_number ^ 5).to_bytes(16, "big"), 1
    )
    _, _, answer = server.ask("/ocsp/", ocsp_request(planted, encoded(issuing)))
    path = (read_certificate(planted), issuing)
    assert check_revocation(path, Statuses.parse_file(answer), None, now()).state is not Revocation.GOOD
    assert tmp_path.exists()


def test_lists_are_served_and_nothing_else_of_the_home(server: Server) -> None:
    publish(server.home, now())
    status, headers, data = server.ask("/crl/issuing.crl")
    assert (status, headers["content-type"]) == (200, "application/pkix-crl")
    assert told(server.home, "gone", data) is Revocation.REVOKED_TIME_UNKNOWN
    assert told(server.home, "good", data) is Revocation.GOOD
    for path in ("/crl/status.crl", "/crl/..%2Fkeys%2Froot.crl", "/crl/", "/crl/nobody.crl", "/"):
        assert server.ask(path)[0] == 404


def test_many_ask_at_once_and_all_are_answered(server: Server) -> None:
    request, found = request_for(server.home, "good"), []
    threads = [
        threading.Thread(target=lambda: found.append(server.ask("/ocsp/", request)[2])) for _ in range(16)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 16
    assert len(set(found)) <= 2  # two, if a window ended in between


@pytest.mark.needs("openssl")
def test_openssl_believes_the_answer_and_the_list(server: Server, tmp_path: Path) -> None:
    home = server.home
    chain = tmp_path / "chain.pem"
    chain.write_bytes(pem_chain(home.certificate("issuing"), home.certificate("root")))
    (tmp_path / "issuer.pem").write_bytes(pem_chain(home.certificate("issuing")))
    for device, expected in (("good", ": good"), ("gone", ": revoked")):
        (tmp_path / "leaf.pem").write_bytes(pem_chain(home.device(device).chain[0]))
        answer = server.ask("/ocsp/", request_for(home, device))[2]
        (tmp_path / "answer.der").write_bytes(answer)
        done = subprocess.run(
            [
                "openssl",
                "ocsp",
                "-respin",
                "answer.der",
                "-issuer",
                "issuer.pem",
                "-cert",
                "leaf.pem",
                "-CAfile",
                "chain.pem",
                "-no_nonce",
            ],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
        )
        assert "Response verify OK" in done.stderr
        assert expected in done.stdout
    publish(home, now())
    (tmp_path / "list.der").write_bytes(server.ask("/crl/issuing.crl")[2])
    done = subprocess.run(
        ["openssl", "crl", "-inform", "DER", "-in", "list.der", "-CAfile", "chain.pem", "-noout"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert "verify OK" in done.stderr


def test_answers_are_kept_for_a_window_and_never_too_many(tmp_path: Path) -> None:
    home = create_home(tmp_path / "h", "Test Newsroom", "http://127.0.0.1:8461/ocsp/", now())
    enrol(home, "cam", "Test Camera", now())
    renew_responders(home, now())
    at = now()
    with status_desk(home, lambda: at) as desk:
        request = request_for(home, "cam")
        first = desk.answer(request)
        assert desk.answer(request) == first
        assert desk.signed == 1
        at += timedelta(minutes=10)
        assert desk.answer(request) != first
        assert desk.signed == 2
        for number in range(300):
            desk.answer(b"\x30\x03\x02\x01" + bytes([number % 128]))
        assert isinstance(desk, StatusDesk)
        assert len(desk._kept) <= MOST_KEPT


def test_where_the_key_is_gone_clients_are_told_to_try_later(tmp_path: Path) -> None:
    home = create_home(tmp_path / "h", "Test Newsroom", "http://127.0.0.1:8461/ocsp/", now())
    enrol(home, "cam", "Test Camera", now())
    renew_responders(home, now())
    at = now()
    with status_desk(home, lambda: at) as desk:
        desk.answer(request_for(home, "cam"))
        for name in ("issuing", "root", "time-root"):
            (home.path / "keys" / f"{name}.pem").unlink()
        at += timedelta(days=15)
        assert desk.answer(request_for(home, "cam")) == b"\x30\x03\x0a\x01\x03"


def test_a_process_that_answers_opens_no_authority_s_key(tmp_path: Path) -> None:
    home = create_home(tmp_path / "h", "Test Newsroom", "http://127.0.0.1:8461/ocsp/", now())
    enrol(home, "cam", "Test Camera", now())
    look_after(home, now())
    kept = {path.name: path.read_bytes() for path in (home.path / STATUS).glob("*.status")}
    for name in ("issuing", "root", "time-root"):
        (home.path / "keys" / f"{name}.pem").write_bytes(b"whoever opens this complains")
    os.utime(list_path(home, "issuing"), (0, 0))
    with serving(home) as server:
        answer = server.ask("/ocsp/", request_for(home, "cam"))[2]
        assert told(home, "cam", answer) is Revocation.GOOD
        for name in ("issuing", "root", "time-root"):
            assert server.ask(f"/crl/{name}.crl")[2] == kept[f"own-{name}.status"]
    assert {path.name: path.read_bytes() for path in (home.path / STATUS).glob("*.status")} == kept


def test_lists_nobody_made_are_not_made_by_asking_for_them(tmp_path: Path) -> None:
    home = create_home(tmp_path / "h", "Test Newsroom", "http://127.0.0.1:8461/ocsp/", now())
    enrol(home, "cam", "Test Camera", now())
    with serving(home) as server:
        assert server.ask("/crl/issuing.crl")[0] == 404
        assert server.ask("/ocsp/", request_for(home, "cam"))[2] == TRY_LATER
        look_after(home, now())
        assert told(home, "cam", server.ask("/crl/issuing.crl")[2]) is Revocation.GOOD
        assert told(home, "cam", server.ask("/ocsp/", request_for(home, "cam"))[2]) is Revocation.GOOD


def test_after_a_rotation_the_running_responder_answers_for_the_new_authority(tmp_path: Path) -> None:
    home = create_home(tmp_path / "h", "Test Newsroom", "http://127.0.0.1:8461/ocsp/", now())
    enrol(home, "old", "Test Camera", now())
    look_after(home, now())
    with status_desk(home, now) as desk:
        assert told(home, "old", desk.answer(request_for(home, "old"))) is Revocation.GOOD
        rotate(home, None, now())
        look_after(home, now())
        enrol(home, "new", "Test Camera", now())
        for name in ("old", "new"):
            assert told(home, name, desk.answer(request_for(home, name))) is Revocation.GOOD


def test_a_root_whose_key_is_elsewhere_is_not_asked_to_sign(tmp_path: Path) -> None:
    home = create_home(tmp_path / "h", "Test Newsroom", "http://127.0.0.1:8461/ocsp/", now())
    elsewhere = replace(home, keys={"root": "exec:/nowhere/at/all"})
    assert look_after(elsewhere, now()) == ()
    assert list_path(home, "issuing").exists()
    assert not list_path(home, "root").exists()
    made = list_path(home, "issuing").read_bytes()
    assert look_after(home, now()) == ()
    assert list_path(home, "issuing").read_bytes() == made, "young, and nothing was withdrawn since"
    assert list_path(home, "root").exists()


@pytest.mark.needs("strace")
def test_the_whole_service_never_opens_an_authority_s_key(own_office, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    office, trace = own_office, tmp_path / "trace"
    enrol(office.home, "cam", "Test Camera", now())
    look_after(office.home, now())
    os.utime(list_path(office.home, "issuing"), (0, 0))
    (office.home.path / "certificates" / "status.pem").unlink()
    program = "from tools.cli import main; main()"
    command = [sys.executable, "-c", program, "--home", str(office.home.path), "serve", "--port", "0"]
    traced = ["strace", "-f", "-qq", "-e", "trace=open,openat,openat2", "-o", str(trace), *command]
    with subprocess.Popen(
        traced, stdout=subprocess.PIPE, text=True, cwd=ROOT, start_new_session=True
    ) as process:
        try:
            assert process.stdout is not None
            server = Server(office.home, process.stdout.readline().strip())
            assert server.ask("/ocsp/", request_for(office.home, "cam"))[0] == 200
            assert {server.ask(f"/crl/{name}.crl")[0] for name in ("issuing", "root", "time-root")} == {200}
        finally:
            os.killpg(process.pid, signal.SIGTERM)
    opened = trace.read_text()
    assert "/keys/status.pem" in opened, "the trace shows keys"
    for name in ("issuing", "root", "time-root"):
        assert f"/keys/{name}.pem" not in opened
