"""The issuing authority: what it refuses, and that what it issued is what was logged, wherever it is killed."""

import json
import os
import secrets
import signal
import socket
import stat
import warnings
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from authn.approval import Approval
from authn.attestation.judgement import Kind
from authn.csr import make_request
from authn.errors import KeyGoneError
from authn.evidence import Custody
from authn.identity import Lifetime, key_id_of, spki_of
from authn.keys import KeyProvider, SigningKey, generate_p256, generate_p384
from storage.entry import Kind as EntryKind
from storage.payload import parse
from storage.registry.errors import KeyReusedError
from storage.registry.rows import Device, Status, Target
from tools.home import Home
from tools.issuance.authority import JOURNAL, Authority
from tools.issuance.authority_server import MAX_REQUEST, RemoteAuthority, answer, listening, socket_of
from tools.issuance.drill import run_drill
from tools.issuance.errors import (
    ApprovalRefusedError,
    AuthorityUnreachableError,
    ClockUnsafeError,
    KeyUnavailableError,
    NotLoggedError,
    SelfCheckFailedError,
)
from tools.issuance.order import Order, order_fields
from tools.issuance.terms import Terms, Title


def now() -> datetime:
    return datetime.now(UTC)


@dataclass(frozen=True)
class Wanting:
    """A key provider that behaves badly when it is asked to sign."""

    inner: SigningKey
    fault: Callable[[int], bytes | None]
    count: list[int]

    @property
    def keeping(self):  # type: ignore[no-untyped-def]
        return self.inner.keeping

    @property
    def algorithm(self):  # type: ignore[no-untyped-def]
        return self.inner.algorithm

    @property
    def public_key(self):  # type: ignore[no-untyped-def]
        return self.inner.public_key

    def sign(self, data: bytes) -> bytes:
        self.count[0] += 1
        return self.fault(self.count[0]) or self.inner.sign(data)

    def close(self) -> None:
        """Nothing is open."""


def ordered(
    home: Home,
    keys: int = 1,
    signer: KeyProvider | None = None,
    at: datetime | None = None,
    **changed: object,
) -> Order:
    """An order as the registration authority hands it over, with a device that it made known."""
    moment = (at or now()).replace(microsecond=0)
    device = f"device-{secrets.token_hex(4)}"
    product, lifetime = ("Pool Camera", Lifetime.ONE_TIME) if keys > 1 else ("Test Camera", Lifetime.STANDARD)
    with home.registry() as registry:
        registry.add_device(
            Device(device, product, secrets.token_bytes(32), Status.PENDING, None, "E0", moment)
        )
    terms = Terms(secrets.token_hex(32), device, product, lifetime, Title.TOKEN, (Kind.NONE,))
    made = [generate_p256() for _ in range(keys)]
    approval = Approval(
        terms.identity,
        home.organisation,
        product,
        lifetime,
        tuple(spki_of(key.public_key) for key in made),
        tuple(secrets.token_bytes(32) for _ in made),
        Custody.E0,
        bytes(32),
        moment,
    )
    approval = replace(approval, **changed)
    with closing(home.key("ra")) as ra:
        signed = approval.sign(ra if signer is None else signer)
    return Order(signed, terms, tuple(map(make_request, made)))


def authority(home: Home, key: KeyProvider | None = None, clock: Callable[[], datetime] = now) -> Authority:
    with closing(home.key("ra")) as ra:
        return Authority(home, key or home.key("issuing"), ra.public_key, clock, secrets.token_bytes)


def issued_and_logged(home: Home) -> tuple[set[str], set[str]]:
    """Serials of the registry's certificates and of the ledger's entries, below the issuing authority."""
    with home.registry() as registry:
        rows = registry.certificates(Target.of_ca(key_id_of(home.certificate("issuing"))))
    with home.ledger_to_read() as ledger:
        entries = [
            parse(ledger.payload(index) or b"")
            for index, entry in enumerate(ledger.entries(0, ledger.size))
            if entry.kind is EntryKind.ISSUE
        ]
    spkis = {row.spki_sha256.hex() for row in rows}
    founding = {"root", "issuing", "time-root", "time-stamping"}
    own = {f"{home.certificate(name).serial_number:x}" for name in founding}
    logged = {entry["serial"] for entry in entries} - own
    assert spkis <= {entry["spki"] for entry in entries}
    return {row.serial for row in rows}, logged


def test_an_order_is_carried_out_once_and_answered_again(own_office) -> None:  # type: ignore[no-untyped-def]
    order = ordered(own_office.home, 3)
    with authority(own_office.home) as ca:
        batch = ca.issue(order)
        assert len(batch.certificates) == 3
        assert ca.issue(order) == batch
        assert ca.recall(order.terms.identity, order.requests) == batch
        assert ca.recall(order.terms.identity, order.requests[:2]) is None
        assert ca.recall("0" * 64, order.requests) is None
    with authority(own_office.home) as ca:
        assert ca.issue(order) == batch
    issued, logged = issued_and_logged(own_office.home)
    assert issued == logged


def test_only_the_registration_authority_approves(own_office) -> None:  # type: ignore[no-untyped-def]
    home = own_office.home
    before = issued_and_logged(home)
    good = ordered(home)
    wrong = [
        ordered(home, signer=generate_p256()),
        ordered(home, at=now() - timedelta(minutes=6)),
        ordered(home, at=now() + timedelta(minutes=6)),
        ordered(home, product="Pool Camera"),
        ordered(home, enrolment="ab" * 32),
        replace(good, requests=(make_request(generate_p256()),)),
        replace(good, terms=replace(good.terms, device="somebody-else")),
        replace(good, approval=good.approval[:-1]),
        replace(good, approval=good.approval.replace(b"E0", b"E3")),
        replace(good, approval=b""),
    ]
    with authority(home) as ca:
        for order in wrong:
            with pytest.raises(ApprovalRefusedError):
                ca.issue(order)
        assert issued_and_logged(home) == before
        ca.issue(good)


def test_a_key_of_another_authority_is_refused_at_the_start(own_office) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ApprovalRefusedError, match="issuing"):
        authority(own_office.home, generate_p384())


def test_nothing_is_signed_when_the_ledger_does_not_take_the_entry(own_office) -> None:  # type: ignore[no-untyped-def]
    home = own_office.home
    before = issued_and_logged(home)
    with authority(home) as ca:
        home.own.freeze("a test", now())
        order = ordered(home, 2)
        with pytest.raises(NotLoggedError):
            ca.issue(order)
        with pytest.raises(NotLoggedError):
            ca.recall(order.terms.identity, order.requests)
    assert issued_and_logged(home) == before
    with authority(home) as ca:
        assert ca.recall(order.terms.identity, order.requests) is None
    assert issued_and_logged(home) == before
    assert [each.name for each in (home.path / JOURNAL).glob("*.json")] == []


def test_nothing_is_issued_while_the_clock_is_behind_the_ledger(own_office) -> None:  # type: ignore[no-untyped-def]
    home = own_office.home
    before = issued_and_logged(home)
    past = now() - timedelta(hours=1)
    order = ordered(home, at=past)
    with authority(home, clock=lambda: past) as ca, pytest.raises(ClockUnsafeError):
        ca.issue(order)
    assert issued_and_logged(home) == before


def test_a_token_that_is_pulled_out_in_the_middle_leaves_no_half_batch(own_office) -> None:  # type: ignore[no-untyped-def]
    home = own_office.home

    def gone(count: int) -> None:
        if count > 2:
            raise KeyGoneError("the token does not answer")

    order = ordered(home, 5)
    with authority(home, Wanting(home.key("issuing"), gone, [0])) as ca, pytest.raises(KeyUnavailableError):  # type: ignore[arg-type]
        ca.issue(order)
    with authority(home) as ca:
        batch = ca.recall(order.terms.identity, order.requests)
    assert batch is not None
    assert len(batch.certificates) == 5
    issued, logged = issued_and_logged(home)
    assert issued == logged


def test_a_signature_by_another_key_makes_no_certificate(own_office) -> None:  # type: ignore[no-untyped-def]
    home, other = own_office.home, generate_p384()
    before = issued_and_logged(home)[0]
    lying = Wanting(home.key("issuing"), lambda _count: other.sign(b"something else"), [0])  # type: ignore[arg-type]
    order = ordered(home)
    with authority(home, lying) as ca, pytest.raises(SelfCheckFailedError):
        ca.issue(order)
    assert issued_and_logged(home)[0] == before


def test_a_key_is_certified_by_one_order_only(own_office) -> None:  # type: ignore[no-untyped-def]
    home = own_office.home
    first, second = ordered(home), ordered(home)
    key = Approval.parse(first.approval, home.key("ra").public_key, now()).keys
    forged = replace(Approval.parse(second.approval, home.key("ra").public_key, now()), keys=key)
    again = Order(forged.sign(home.key("ra")), second.terms, first.requests)
    with authority(home) as ca:
        ca.issue(first)
        before = issued_and_logged(home)
        with pytest.raises(KeyReusedError):
            ca.issue(again)
    assert issued_and_logged(home) == before


@pytest.mark.parametrize(
    "moment", ["before the journal", "first signature", "third signature", "last signature"]
)
def test_killed_at_any_point_it_finishes_what_was_logged_and_forgets_the_rest(
    own_office, moment: str
) -> None:  # type: ignore[no-untyped-def]
    home, order = own_office.home, ordered(own_office.home, 4)
    kill_at = {"first signature": 1, "third signature": 3, "last signature": 4}.get(moment)

    def key_fault(count: int) -> None:
        if count == kill_at:
            os.kill(os.getpid(), signal.SIGKILL)

    drawn = [0]

    def chance(size: int) -> bytes:
        drawn[0] += 1
        if kill_at is None and drawn[0] > 3:
            os.kill(os.getpid(), signal.SIGKILL)
        return secrets.token_bytes(size)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # the child goes on without the others' threads
        child = os.fork()
    if child == 0:
        try:
            key = Wanting(home.key("issuing"), key_fault, [0])  # type: ignore[arg-type]
            with closing(home.key("ra")) as ra, Authority(home, key, ra.public_key, now, chance) as ca:
                ca.issue(order)
        finally:
            os._exit(1)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status)
    assert os.WTERMSIG(status) == signal.SIGKILL
    with authority(home) as ca:
        issued, logged = issued_and_logged(home)
        assert issued == logged
        again = ca.issue(order)
        assert len(again.certificates) == 4
    issued, logged = issued_and_logged(home)
    assert issued == logged


def test_random_kills_leave_what_was_issued_equal_to_what_was_logged(own_office) -> None:  # type: ignore[no-untyped-def]
    found = run_drill(own_office.home, kills=4, seed=1)
    assert found.holds
    assert found.enrolled > 0
    assert len(found.issued) >= 8 * found.enrolled


def test_the_socket_is_closed_to_others_and_one_authority_answers(own_office) -> None:  # type: ignore[no-untyped-def]
    place = socket_of(own_office.home.path)
    with own_office.running("ca", "serve") as (line, _):
        assert line == str(place)
        assert stat.S_IMODE(place.parent.stat().st_mode) == 0o700
        assert stat.S_IMODE(place.stat().st_mode) == 0o600
        second = own_office.command("ca", "serve")
        assert second.returncode == 1
        assert "another authority answers" in second.stderr
        for said in (b"\n", b"[]\n", b"{}\n", b"nonsense\n", b'{"do":"issue"}\n', b'{"do":"recall"}\n', b""):
            assert _said(place, said)["error"] == "request-malformed"
        assert _said(place, b"x" * (MAX_REQUEST + 100))["error"] == "request-malformed"
        assert (
            _said(place, json.dumps({"do": "issue", "order": _forged(own_office.home)}).encode() + b"\n")[
                "error"
            ]
            == "approval-refused"
        )
        assert RemoteAuthority(place).issue(ordered(own_office.home)).certificates
    assert not place.exists()
    with pytest.raises(AuthorityUnreachableError):
        RemoteAuthority(place).recall("0" * 64, ())


def test_a_folder_that_others_may_enter_is_no_place_for_the_socket(tmp_path: Path) -> None:
    (tmp_path / "ca").mkdir(mode=0o755)
    with pytest.raises(Exception, match="closed to others"), listening(tmp_path / "ca" / "ca.sock"):
        pass


def test_while_no_authority_runs_enrolment_waits_and_is_answered_later(own_office) -> None:  # type: ignore[no-untyped-def]
    with own_office.running("ra", "serve", "--port", "0") as (url, _):
        own_office.url = url
        request = make_request(generate_p256())
        offer = own_office.begin("Test Camera")
        reply = own_office.complete(offer, request)
        assert (reply.status, reply.code) == (503, "authority-unreachable")
        with own_office.running("ca", "serve"):
            assert own_office.complete(offer, request).status == 201


def test_over_http_a_ledger_that_takes_nothing_and_a_clock_that_ran_back_issue_nothing(own_office) -> None:  # type: ignore[no-untyped-def]
    home = own_office.home
    with own_office.running("ca", "serve"), own_office.running("ra", "serve", "--port", "0") as (url, _):
        own_office.url = url
        before = issued_and_logged(home)
        home.own.record(EntryKind.POLICY, {"change": "a test"}, now() + timedelta(hours=1))
        reply = own_office.complete(own_office.begin("Test Camera"), make_request(generate_p256()))
        assert (reply.status, reply.code) == (503, "clock-unsafe")
        home.own.freeze("a test", now() + timedelta(hours=1))
        assert issued_and_logged(home) == before
    with own_office.running("ca", "serve"):
        assert issued_and_logged(home) == before


def test_over_http_a_frozen_ledger_issues_nothing_and_counts_agree_after_a_restart(own_office) -> None:  # type: ignore[no-untyped-def]
    home = own_office.home
    with own_office.running("ca", "serve"), own_office.running("ra", "serve", "--port", "0") as (url, _):
        own_office.url = url
        home.own.freeze("a test", now())
        before = issued_and_logged(home)
        reply = own_office.complete(own_office.begin("Test Camera"), make_request(generate_p256()))
        assert (reply.status, reply.code) == (503, "ledger-unavailable")
    with own_office.running("ca", "serve"):
        issued, logged = issued_and_logged(home)
    assert (issued, logged) == before
    assert issued == logged


def test_no_answer_is_anything_but_json_of_ours(own_office) -> None:  # type: ignore[no-untyped-def]
    with authority(own_office.home) as ca:
        for line in (
            b"",
            b"\xff",
            b"{" * 50000,
            b"null\n",
            b'{"do":["issue"]}\n',
            b'{"do":"issue","order":[]}\n',
        ):
            assert set(answer(ca, line)) == {"error", "reason", "remedy"}


def _forged(home: Home) -> dict[str, object]:
    return order_fields(ordered(home, signer=generate_p256()))


def _said(place: Path, line: bytes) -> dict[str, str]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(30)
        connection.connect(str(place))
        try:
            connection.sendall(line)
            connection.shutdown(socket.SHUT_WR)
        except OSError:
            pass
        said = b"".join(iter(lambda: connection.recv(65536), b""))
    return dict(json.loads(said))
