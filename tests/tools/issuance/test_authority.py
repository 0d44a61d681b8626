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
from authn.device import encoded
from authn.errors import KeyGoneError
from authn.evidence import Custody
from authn.identity import Lifetime, key_id_of, spki_of
from authn.keys import KeyProvider, SigningKey, generate_p256, generate_p384
from storage.entry import Kind as EntryKind
from storage.ledger import Ledger
from storage.payload import parse
from storage.registry.errors import DeviceRevokedError, DeviceSuspendedError, KeyReusedError
from storage.registry.registry import Registry
from storage.registry.rows import Device, Status, Target, Withdrawal
from tools.errors import SystemRefusedError
from tools.home import Home
from tools.issuance.authority import JOURNAL, WAITS, Authority
from tools.issuance.authority_server import MAX_REQUEST, RemoteAuthority, answer, listening, socket_of
from tools.issuance.drill import run_drill
from tools.issuance.errors import (
    ApprovalRefusedError,
    AuthorityUnreachableError,
    ClockUnsafeError,
    DeviceSuspectError,
    KeyUnavailableError,
    MalformedError,
    NotLoggedError,
    ProductRevokedError,
    SelfCheckFailedError,
)
from tools.issuance.journal import Journal, JournalDamagedError
from tools.issuance.order import Order, order_fields
from tools.issuance.terms import Terms, Title
from tools.own_log import operator
from tools.rotation import rotate
from tools.status_lists import list_path, renew_responders, responder_of


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
        home.own.origin,
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
            if entry.kind is EntryKind.ISSUE and entry.key != operator(home.own.origin)  # the responders'
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
        ordered(home, origin="lightseal.example/another-home"),
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
    with authority(home) as ca, pytest.raises(NotLoggedError):
        ca.recall(order.terms.identity, order.requests)
    assert issued_and_logged(home) == before
    authority(home, clock=lambda: now() + WAITS + timedelta(minutes=1)).close()
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
    renew_responders(own_office.home, now())  # or they are among what is counted
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


class Interrupted(BaseException):
    """A crash, as far as one can be made without a process of its own."""


class Unrecorded:
    """A ledger that takes nothing, and answers what it is asked."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    def __getattr__(self, name: str) -> object:
        return getattr(self._ledger, name)

    def append(self, *_: object) -> object:
        raise OSError("the disk is away")


def waiting(home: Home, order: Order) -> None:
    """Leave the order pending: decided, reserved and not logged."""
    with authority(home) as ca:
        ledger = ca._ledger
        ca._ledger = Unrecorded(ledger)  # type: ignore[assignment]
        with pytest.raises(NotLoggedError):
            ca.issue(order)
        ca._ledger = ledger


@pytest.mark.parametrize("stopped", ["product", "authority", "device", "suspended", "suspect"])
@pytest.mark.parametrize("asked", ["issue", "recall"])
def test_what_waited_for_the_ledger_is_not_issued_once_it_was_withdrawn(
    own_office, stopped: str, asked: str
) -> None:  # type: ignore[no-untyped-def]
    home, order = own_office.home, ordered(own_office.home)
    waiting(home, order)
    before = issued_and_logged(home)
    at = now().replace(microsecond=0)
    targets = {
        "product": Target.of_product("Test Camera"),
        "authority": Target.of_ca(key_id_of(home.certificate("issuing"))),
        "device": Target.of_device(order.terms.device),
    }
    with home.registry() as registry:
        if stopped in targets:
            registry.add_withdrawal(
                Withdrawal(targets[stopped], "keyCompromise", at, None, ("ann", "bob"), 0)
            )
        else:
            registry.set_status(order.terms.device, Status.ACTIVE, at, "a test")
            registry.set_status(order.terms.device, Status(stopped), at, "a test")
    refused = (ProductRevokedError, DeviceRevokedError, DeviceSuspendedError, DeviceSuspectError)
    with authority(home) as ca, pytest.raises(refused):
        _ = ca.issue(order) if asked == "issue" else ca.recall(order.terms.identity, order.requests)
    assert issued_and_logged(home) == before


def test_what_waited_for_too_long_is_not_issued(own_office) -> None:  # type: ignore[no-untyped-def]
    home, order = own_office.home, ordered(own_office.home)
    waiting(home, order)
    clock = [now()]
    with authority(home, clock=lambda: clock[0]) as ca:
        clock[0] += WAITS + timedelta(minutes=1)
        with pytest.raises(ApprovalRefusedError, match="waited"):
            ca.recall(order.terms.identity, order.requests)
        assert ca.recall(order.terms.identity, order.requests) is None


@pytest.mark.parametrize("moment", ["before the keys are reserved", "after the keys are reserved"])
def test_an_enrolment_that_a_crash_cut_short_goes_on_with_its_own_reservation(
    own_office, moment: str
) -> None:  # type: ignore[no-untyped-def]
    home, order = own_office.home, ordered(own_office.home)

    class Crashing(Registry):
        def reserve_keys(self, *arguments: object) -> None:
            if moment == "after the keys are reserved":
                super().reserve_keys(*arguments)  # type: ignore[arg-type]
            raise Interrupted

    with authority(home) as ca:
        ca._registry.close()
        ca._registry = Crashing.open(home.registry_url)
        with pytest.raises(Interrupted):
            ca.issue(order)
    with authority(home) as ca:
        batch = ca.recall(order.terms.identity, order.requests)
        assert batch is not None
        assert ca.issue(order) == batch
    issued, logged = issued_and_logged(home)
    assert issued == logged


def test_a_crash_does_not_let_a_key_be_certified_twice(own_office) -> None:  # type: ignore[no-untyped-def]
    """The second order for a key is cut short where it cannot know yet that the key is another's."""
    home, ra = own_office.home, own_office.home.key("ra")
    first, second = ordered(home), ordered(home)
    keys = Approval.parse(first.approval, ra.public_key, now()).keys
    approval = replace(Approval.parse(second.approval, ra.public_key, now()), keys=keys)
    again = Order(approval.sign(ra), second.terms, first.requests)

    class Crashing(Registry):
        def reserve_keys(self, *_: object) -> None:
            raise Interrupted

    with authority(home) as ca:
        ca.issue(first)
        before = issued_and_logged(home)
        ca._registry.close()
        ca._registry = Crashing.open(home.registry_url)
        with pytest.raises(Interrupted):
            ca.issue(again)
    with authority(home) as ca:
        for _ in range(2):
            with pytest.raises(KeyReusedError):
                ca.issue(again)
    assert issued_and_logged(home) == before


def test_after_a_rotation_a_running_authority_issues_from_the_new_one(own_office) -> None:  # type: ignore[no-untyped-def]
    home, waits = own_office.home, ordered(own_office.home)
    waiting(home, waits)
    with authority(home) as ca:
        rotate(home, None, now())
        batch = ca.issue(ordered(home))
        assert batch.issuer == encoded(home.certificate("issuing-2"))
        before = ca.recall(waits.terms.identity, waits.requests)
        assert before is not None
        assert before.issuer == encoded(home.certificate("issuing")), "as it was decided"


def test_a_journal_that_is_damaged_is_named_and_nothing_foreign_is_raised(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "j")
    enrolment = "ab" * 16
    for data in (
        b'{"a":"' + b"x" * (2 << 20) + b'"}',
        b"",
        b"{",
        b"[]",
        b"{}",
        b"\xff",
        b"[" * 100_000,
        b'{"batch":{},"requests":"0"}',
    ):
        for state in ("pending", "done"):
            (tmp_path / "j" / f"{enrolment}.{state}.json").write_bytes(data)
        with pytest.raises(JournalDamagedError, match="pending"):
            journal.pending(enrolment)
        with pytest.raises(JournalDamagedError, match="pending"):
            list(journal.all_pending())
        with pytest.raises(JournalDamagedError, match="done"):
            journal.done(enrolment, now() - timedelta(hours=1))


def test_what_could_not_be_read_again_is_not_written(own_office) -> None:  # type: ignore[no-untyped-def]
    home, order = own_office.home, ordered(own_office.home)
    with authority(home) as ca:
        case = ca._decide(Approval.parse(order.approval, home.key("ra").public_key, now()), order, now())
    journal = Journal(home.path / JOURNAL)
    huge = replace(case, order=replace(order, requests=(b"x" * (2 << 20),)))
    with pytest.raises(MalformedError):
        journal.begin(huge)
    assert journal.pending(order.terms.identity) is None
    journal.begin(case)
    assert journal.pending(order.terms.identity) == case


def test_an_ordinary_file_in_the_place_of_the_socket_is_left_alone(tmp_path: Path) -> None:
    place = tmp_path / "ca" / "thesis.txt"
    place.parent.mkdir(mode=0o700)
    place.write_text("kept")
    with pytest.raises(SystemRefusedError, match="no socket"), listening(place):
        pass
    assert place.read_text() == "kept"


def test_a_running_authority_keeps_lists_and_responders(own_office) -> None:  # type: ignore[no-untyped-def]
    home = own_office.home
    with own_office.running("ca", "serve"):
        for name in ("issuing", "root", "time-root"):
            assert list_path(home, name).exists()
            assert home.certificate(responder_of(name)).issuer == home.certificate(name).subject


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
