"""Withdrawal in one command: who may, what is recorded first, and what verifiers of this home see at once."""

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from click.testing import CliRunner

from authn.custody.opening import open_provider
from authn.device import Certificate, encoded
from authn.errors import KeyFileError
from authn.evidence import Revocation
from authn.identity import key_id_of
from authn.keys import generate_ed25519, generate_p256, store_key
from authn.ocsp import ocsp_request
from authn.public_key import public_pem, read_public_key
from authn.revocation import Statuses, check_revocation
from authn.withdrawal import Reason
from storage.entry import Kind
from storage.note import signed_note
from storage.payload import canonical, parse
from storage.registry.errors import CertificateUnknownError, DeviceUnknownError, OperatorUnknownError
from storage.registry.registry import Registry
from storage.registry.rows import Role, Status, Target, TargetKind, Withdrawal
from tools.cli import lightseal
from tools.errors import UsageError
from tools.founding import create_home
from tools.home import Home
from tools.issuance.own import enrol
from tools.online import Cache
from tools.renewal import renew
from tools.revoking import (
    OperatorRefusedError,
    ProposalError,
    Signature,
    Signed,
    add_operator,
    carry_out,
    catch_up,
    describe,
    dismiss_operator,
    enough,
    naming_text,
    propose,
    sign,
    target_of,
)
from tools.status import status_desk
from tools.status_lists import list_path, publish, renew_responders, responder_of


def now() -> datetime:
    return datetime.now(UTC)


@pytest.fixture
def home(tmp_path: Path) -> Home:
    made = create_home(tmp_path / "h", "Test Newsroom", "http://127.0.0.1:8461/ocsp/", now())
    for name in ("cam", "other"):
        enrol(made, name, "Test Camera", now())
    enrol(made, "phone", "Test Phone", now())
    return made


def people(home: Home, **roles: Role):  # type: ignore[no-untyped-def]
    keys = {name: generate_ed25519() if name == "eve" else generate_p256() for name in roles}
    for number, (name, role) in enumerate(roles.items()):
        public = public_pem(keys[name].public_key)
        named = (
            None if number < 2 else Signature("ann", keys["ann"].sign(naming_text(home, name, public, role)))
        )
        add_operator(home, name, public, role, now(), named)
    return keys


def state(home: Home, name: str, signed_at: datetime | None = None) -> Revocation:
    """What verification with this home's kept lists says of a device."""
    kept = Cache(home.path / "status").read().statuses
    path = (*home.device(name).chain, home.certificate("root"))
    return check_revocation(path, kept, signed_at, now()).state


def last_entry(home: Home) -> tuple[Kind, dict[str, object]]:
    with home.ledger_to_read() as ledger:
        index = ledger.size - 1
        return ledger.entry(index).kind, parse(ledger.payload(index) or b"")


def signed_by(
    home: Home, keys, kind: TargetKind, name: str, reason: Reason = Reason.KEY_COMPROMISE
) -> Signed:  # type: ignore[no-untyped-def]
    signed = Signed(propose(home, target_of(home, kind, name), reason, None, now()), ())
    for person, key in keys.items():
        signed = sign(signed, person, key)
    return signed


def test_a_withdrawn_device_is_revoked_in_the_ledger_the_registry_and_the_list(home: Home) -> None:
    assert state(home, "cam") is Revocation.NOT_CHECKED
    entry, published = carry_out(home, signed_by(home, {}, TargetKind.DEVICE, "cam"), now())
    kind, payload = last_entry(home)
    assert (kind, payload["kind"], payload["name"], payload["reason"]) == (
        Kind.REVOKE,
        "device",
        "cam",
        "keyCompromise",
    )
    with home.ledger_to_read() as ledger:
        assert ledger.size - 1 == entry
        assert ledger.entry(entry).key == home.device("cam").pseudonym, "whoever watches the key sees it"
    with home.registry() as registry:
        assert registry.device("cam").status is Status.REVOKED
        assert registry.withdrawals()[0].entry == entry
    assert state(home, "cam") is Revocation.REVOKED_TIME_UNKNOWN
    assert state(home, "other") is Revocation.GOOD
    assert {each.authority for each in published} == {"issuing", "root", "time-root"}
    assert all(each.fault is None for each in published)


def test_what_was_signed_before_the_compromise_stays_good(home: Home) -> None:
    since = now() - timedelta(hours=1)
    target = target_of(home, TargetKind.DEVICE, "cam")
    carry_out(home, Signed(propose(home, target, Reason.CESSATION, since, now()), ()), now())
    assert state(home, "cam", since - timedelta(minutes=5)) is Revocation.SIGNED_BEFORE
    assert state(home, "cam", since + timedelta(minutes=5)) is Revocation.REVOKED


def test_one_certificate_is_named_by_serial_or_digest(home: Home) -> None:
    leaf = home.device("cam").chain[0]
    by_serial = target_of(home, TargetKind.CERTIFICATE, f"{leaf.serial_number:X}")
    with home.registry() as registry:
        (row,) = registry.certificates(Target.of_device("cam"))
    assert by_serial == Target.of_certificate(row.sha256)
    assert target_of(home, TargetKind.CERTIFICATE, row.sha256.hex()) == by_serial
    with pytest.raises(CertificateUnknownError):
        target_of(home, TargetKind.CERTIFICATE, "ab" * 8)
    with pytest.raises(DeviceUnknownError):
        target_of(home, TargetKind.DEVICE, "nobody")


def test_a_product_takes_all_its_devices_with_it_and_no_other(home: Home) -> None:
    keys = people(home, ann=Role.REVOKER, bob=Role.REVOKER)
    carry_out(home, signed_by(home, keys, TargetKind.PRODUCT, "Test Camera"), now())
    assert state(home, "cam") is state(home, "other") is Revocation.REVOKED_TIME_UNKNOWN
    assert state(home, "phone") is Revocation.GOOD
    with home.registry() as registry:
        assert registry.withdrawals()[0].by == ("ann", "bob")


def test_an_authority_takes_everything_with_it(home: Home) -> None:
    keys = people(home, ann=Role.CA_OPERATOR, bob=Role.CA_OPERATOR)
    carry_out(home, signed_by(home, keys, TargetKind.CA, "issuing", Reason.CA_COMPROMISE), now())
    assert {state(home, name) for name in ("cam", "other", "phone")} == {Revocation.REVOKED_TIME_UNKNOWN}
    kept = Statuses.parse_file(list_path(home, "root").read_bytes())
    issuing, root = home.certificate("issuing"), home.certificate("root")
    assert check_revocation((issuing, root), kept, None, now()).state is Revocation.REVOKED_TIME_UNKNOWN


_SIGNERS: dict[str, tuple[str, ...]] = {
    "nobody": (),
    "one alone": ("ann",),
    "the same twice": ("ann",),
    "a stranger": ("ann", "mallory"),
    "a viewer": ("ann", "eve"),
    "a revoker for an authority": ("ann", "rob"),
    "another key": ("ann", "bob"),
    "another proposal": ("ann", "bob"),
    "dismissed": ("ann", "bob"),
    "too old": ("ann", "bob"),
    "another home": ("ann", "bob"),
}


def spoilt(home: Home, signed: Signed, fault: str) -> Signed:
    """What becomes of signatures that would do, where the fault is in them."""
    proposal, signatures = signed.proposal, signed.signatures
    match fault:
        case "the same twice":
            return Signed(proposal, (*signatures, *signatures))
        case "another proposal":
            return Signed(propose(home, proposal.target, Reason.SUPERSEDED, None, now()), signatures)
        case "another key":
            return Signed(proposal, (signatures[0], Signature("bob", signatures[0].signature)))
        case "another home":
            return Signed(replace(proposal, origin="elsewhere.local/1"), signatures)
        case _:
            return signed


@pytest.mark.parametrize("fault", list(_SIGNERS))
def test_who_may_not_withdraw_changes_nothing(home: Home, fault: str) -> None:
    keys = people(home, ann=Role.CA_OPERATOR, bob=Role.CA_OPERATOR, eve=Role.VIEWER, rob=Role.REVOKER)
    chosen = {name: keys.get(name) or generate_p256() for name in _SIGNERS[fault]}
    of_authority = fault == "a revoker for an authority"
    kind, name = (TargetKind.CA, "issuing") if of_authority else (TargetKind.PRODUCT, "Test Camera")
    signed = spoilt(home, signed_by(home, chosen, kind, name), fault)
    if fault == "dismissed":
        dismiss_operator(home, "bob", now())
    with home.ledger_to_read() as ledger:
        before = ledger.size
    with pytest.raises((OperatorRefusedError, ProposalError, OperatorUnknownError)):
        carry_out(home, signed, now() + timedelta(days=8 if fault == "too old" else 0))
    with home.ledger_to_read() as ledger, home.registry() as registry:
        assert ledger.size == before
        assert registry.withdrawals() == ()
    assert not list_path(home, "issuing").exists()


def test_the_same_person_cannot_sign_twice(home: Home) -> None:
    signed = signed_by(home, {"ann": generate_p256()}, TargetKind.PRODUCT, "Test Camera")
    with pytest.raises(OperatorRefusedError):
        sign(signed, "ann", generate_p256())


def test_a_proposal_is_read_as_it_was_written_and_in_no_other_way(home: Home) -> None:
    signed = signed_by(home, {"ann": generate_p256()}, TargetKind.PRODUCT, "Test Camera")
    assert Signed.parse(signed.encode()) == signed
    assert not enough(signed)
    assert enough(Signed(signed.proposal, (*signed.signatures, Signature("bob", b"x"))))
    for data in (
        b"",
        b"{}",
        b"[]",
        b"\xff",
        signed.encode()[:-3],
        signed.encode().replace(b"seven", b"eight") + b"x",
    ):
        with pytest.raises(ProposalError):
            Signed.parse(data)


@pytest.mark.parametrize(
    ("field", "moment"),
    [
        ("since", timedelta(seconds=1)),
        ("since", timedelta(days=-1, microseconds=1)),
        ("since", None),
        ("proposed_at", timedelta(microseconds=1)),
        ("proposed_at", None),
    ],
)
def test_a_proposal_whose_moments_cannot_be_is_refused_as_it_is_read(
    home: Home, field: str, moment: timedelta | None
) -> None:
    """Before anything is in the ledger: a withdrawal that begins after it was decided would leave time to sign."""
    at = now().replace(microsecond=0)
    target = target_of(home, TargetKind.DEVICE, "cam")
    about = json.loads(Signed(propose(home, target, Reason.CESSATION, at, at), ()).encode())
    assert Signed.parse(json.dumps(about).encode()).proposal.since == at
    changed = at.replace(tzinfo=None) if moment is None else at + moment
    about["proposal"][field] = changed.isoformat()
    with pytest.raises(ProposalError):
        Signed.parse(json.dumps(about).encode())


def test_an_operator_is_in_the_ledger_and_shares_a_key_with_nobody(home: Home) -> None:
    key = generate_p256()
    add_operator(home, "ann", public_pem(key.public_key), Role.REVOKER, now())
    kind, payload = last_entry(home)
    assert (kind, payload["change"], payload["name"]) == (Kind.POLICY, "add-operator", "ann")
    for name, data in (("bob", public_pem(key.public_key)), ("ann", public_pem(generate_p256().public_key))):
        with pytest.raises(Exception, match=r"ann|key"):
            add_operator(home, name, data, Role.REVOKER, now())
    assert read_public_key(public_pem(key.public_key)) == key.public_key


def test_lists_are_made_again_with_a_greater_number_and_outlive_a_lost_one(home: Home) -> None:
    carry_out(home, signed_by(home, {}, TargetKind.DEVICE, "cam"), now())
    list_path(home, "issuing").unlink()
    assert state(home, "cam") is Revocation.NOT_CHECKED
    publish(home, now())
    assert state(home, "cam") is Revocation.REVOKED_TIME_UNKNOWN
    number = int((home.path / "status" / "crl-number").read_text())
    publish(home, now() - timedelta(minutes=30))
    assert int((home.path / "status" / "crl-number").read_text()) == number + 1


def test_a_list_whose_key_is_elsewhere_is_named_and_the_others_are_made(home: Home) -> None:
    (home.path / "keys" / "root.pem").unlink()
    published = {each.authority: each.fault for each in publish(home, now())}
    assert published["issuing"] is None
    assert published["root"] is not None


def test_responders_are_certified_once_and_each_is_logged(home: Home) -> None:
    with home.ledger_to_read() as ledger:
        before = ledger.size
    assert set(renew_responders(home, now())) == {"issuing", "root", "time-root"}
    assert renew_responders(home, now()) == ()
    assert set(renew_responders(home, now() + timedelta(days=11))) == {"issuing", "root", "time-root"}
    with home.ledger_to_read() as ledger:
        kinds = [entry.kind for entry in ledger.entries(before, ledger.size)]
    assert kinds == [Kind.ISSUE] * 6
    assert home.certificate(responder_of("issuing")).issuer == home.certificate("issuing").subject


def test_two_people_withdraw_a_product_in_one_command_or_with_a_file_in_between(
    own_office, tmp_path: Path
) -> None:  # type: ignore[no-untyped-def]
    office, uris = own_office, {}
    for name in ("ann", "bob"):
        store_key(tmp_path / f"{name}.pem", generate_p256(), None)
        uris[name] = f"file:{tmp_path / name}.pem"
        made = office.command("operator", "key", uris[name], "--out", tmp_path / f"{name}.pub")
        assert made.returncode == 0, made.stderr
        assert office.command("operator", "add", name, tmp_path / f"{name}.pub").returncode == 0
    alone = ("revoke", "product", "Test Camera", "--reason", "key-compromise")
    assert office.command(*alone).returncode == 2
    one = office.command(*alone, "--by", f"ann={uris['ann']}", "--proposal", tmp_path / "p.json")
    assert one.returncode == 0, one.stderr
    assert "Nothing is withdrawn yet" in one.stdout
    again = office.command("revoke", "approve", tmp_path / "p.json", "--by", f"ann={uris['ann']}", "--yes")
    assert (again.returncode, "operator-refused" in again.stderr) == (1, True)
    done = office.command("revoke", "approve", tmp_path / "p.json", "--by", f"bob={uris['bob']}", "--yes")
    assert done.returncode == 0, done.stderr
    assert "product Test Camera: 0 certificates of 0 devices" in done.stdout
    both = [part for name in ("ann", "bob") for part in ("--by", f"{name}={uris[name]}")]
    since = "2026-01-01T00:00:00Z"
    done = office.command(
        "revoke", "product", "Pool Camera", "--reason", "superseded", "--since", since, *both
    )
    assert done.returncode == 0, done.stderr
    listed = office.command("revoke", "list").stdout.splitlines()
    assert [line.split("\t")[:3] for line in listed] == [
        ["product", "Test Camera", "keyCompromise"],
        ["product", "Pool Camera", "superseded"],
    ]
    assert json.loads((tmp_path / "p.json").read_text())["signatures"][0]["operator"] == "ann"


def test_a_withdrawn_product_enrols_nobody(own_office) -> None:  # type: ignore[no-untyped-def]
    home = own_office.home
    token = own_office.token("Test Camera")
    keys = people(home, ann=Role.REVOKER, bob=Role.REVOKER)
    carry_out(home, signed_by(home, keys, TargetKind.PRODUCT, "Test Camera"), now())
    with own_office.running("ra", "serve", "--port", "0") as (url, _):
        own_office.url = url
        reply = own_office.begin("Test Camera", token)
    assert (reply.status, reply.code) == (403, "product-revoked")


class Interrupted(BaseException):
    """A crash, as far as one can be made without a process of its own."""


@pytest.mark.parametrize(
    "kind", [TargetKind.DEVICE, TargetKind.CERTIFICATE, TargetKind.PRODUCT, TargetKind.CA]
)
def test_what_a_crash_left_in_the_ledger_alone_is_carried_out_afterwards(
    home: Home, kind: TargetKind
) -> None:
    keys = people(home, ann=Role.CA_OPERATOR, bob=Role.CA_OPERATOR)
    name = {
        TargetKind.DEVICE: "cam",
        TargetKind.CERTIFICATE: f"{home.device('cam').chain[0].serial_number:x}",
        TargetKind.PRODUCT: "Test Camera",
        TargetKind.CA: "issuing",
    }[kind]
    crashing = replace(home)
    signed = signed_by(home, keys if kind in (TargetKind.PRODUCT, TargetKind.CA) else {}, kind, name)
    interrupt(crashing, signed)
    assert home.registry().withdrawals() == ()
    assert state(home, "cam") is Revocation.NOT_CHECKED
    (entry,) = catch_up(home)
    publish(home, now())
    assert state(home, "cam") is Revocation.REVOKED_TIME_UNKNOWN
    with home.registry() as registry, home.ledger_to_read() as ledger:
        (row,) = registry.withdrawals()
        assert (row.entry, row.target, row.revoked_at) == (
            entry,
            signed.proposal.target,
            ledger.entry(entry).logged_at,
        )
        assert row.by == (tuple(keys) if kind in (TargetKind.PRODUCT, TargetKind.CA) else ("console",))
    assert catch_up(home) == (), "once"


def interrupt(home: Home, signed: Signed) -> None:
    """Carry out, and die between the ledger and the registry."""

    class Crashing(Registry):
        def add_withdrawal(self, _: Withdrawal) -> None:
            raise Interrupted

    class CrashingHome(Home):
        def registry(self) -> Registry:
            return Crashing.open(self.registry_url)

    with pytest.raises(Interrupted):
        carry_out(
            CrashingHome(home.path, home.own, home.organisation, home.ocsp_url, home.keys), signed, now()
        )


def test_publishing_carries_out_what_was_interrupted(own_office) -> None:  # type: ignore[no-untyped-def]
    home = own_office.home
    enrol(home, "cam", "Test Camera", now())
    interrupt(home, signed_by(home, {}, TargetKind.DEVICE, "cam"))
    done = own_office.command("revoke", "publish")
    assert done.returncode == 0, done.stderr
    assert "withdrawn, as the ledger has it" in done.stdout
    assert state(home, "cam") is Revocation.REVOKED_TIME_UNKNOWN


def test_the_authority_carries_out_what_was_interrupted_before_it_issues(own_office) -> None:  # type: ignore[no-untyped-def]
    home = own_office.home
    enrol(home, "cam", "Test Camera", now())
    interrupt(home, signed_by(home, {}, TargetKind.DEVICE, "cam"))
    with own_office.running("ca", "serve"):
        assert state(home, "cam") is Revocation.REVOKED_TIME_UNKNOWN


def test_an_entry_that_somebody_else_added_withdraws_nothing(home: Home) -> None:
    """Writers may add entries of this kind; they know how ours look, and cannot sign for them."""
    fields = {
        **propose(home, target_of(home, TargetKind.DEVICE, "cam"), Reason.SUPERSEDED, None, now()).fields(),
        "by": ["console"],
    }
    stranger = generate_ed25519()
    text = f"lightseal withdrawal\n{canonical(fields).decode()}\n"
    forged = signed_note(text, home.own.newest, stranger.sign(text.encode())).decode()[len(text) + 1 :]
    for word in (None, "", "nonsense", 7, forged):
        added = fields if word is None else {**fields, "word": word}
        home.own.record(Kind.REVOKE, added, now())
    home.own.record(Kind.REVOKE, {"schema": "another"}, now())
    assert catch_up(home) == ()
    with home.registry() as registry:
        assert registry.withdrawals() == ()


def test_a_renewed_time_stamp_unit_stays_withdrawn_and_can_be_withdrawn_later(home: Home) -> None:
    keys = people(home, ann=Role.CA_OPERATOR, bob=Role.CA_OPERATOR)
    first = home.certificate("time-stamping")
    carry_out(home, signed_by(home, keys, TargetKind.CA, "time-stamping"), now())
    second, _ = renew(home, now())
    renew(home, now())
    with pytest.raises(UsageError, match=r"issuing, time-stamping-1, time-stamping-2, time-stamping$"):
        target_of(home, TargetKind.CA, "nobody")
    assert target_of(home, TargetKind.CA, "time-stamping-1") == Target.of_ca(key_id_of(first))
    assert "Unit 2" in describe(home, target_of(home, TargetKind.CA, "time-stamping-2"))
    assert unit_states(home, first, second) == (True, False)
    carry_out(home, signed_by(home, keys, TargetKind.CA, "time-stamping-2"), now())
    assert unit_states(home, first, second) == (True, True)


def unit_states(home: Home, *units: Certificate) -> tuple[bool, ...]:
    """Which units are withdrawn, as the list and the responder say alike."""
    publish(home, now())
    renew_responders(home, now())
    root = home.certificate("time-root")
    listed = Statuses.parse_file(list_path(home, "time-root").read_bytes())
    found = []
    with status_desk(home, now) as desk:
        for unit in units:
            answer = Statuses.parse_file(desk.answer(ocsp_request(encoded(unit), encoded(root))))
            states = {check_revocation((unit, root), each, None, now()).state for each in (listed, answer)}
            assert len(states) == 1
            found.append(states != {Revocation.GOOD})
    return tuple(found)


def test_a_third_operator_is_named_by_one_of_the_first_two(home: Home) -> None:
    keys = people(home, ann=Role.REVOKER, bob=Role.CA_OPERATOR)
    public, other = (public_pem(generate_p256().public_key) for _ in range(2))

    def named(by: str, role: Role, name: str = "eve", key: bytes = public) -> Signature:
        return Signature(by, keys[by].sign(naming_text(home, name, key, role)))

    wrong = [
        (Role.REVOKER, None),
        (Role.REVOKER, named("ann", Role.REVOKER, "mallory")),
        (Role.REVOKER, named("ann", Role.REVOKER, key=other)),
        (Role.REVOKER, Signature("bob", named("ann", Role.REVOKER).signature)),
        (Role.REVOKER, Signature("eve", named("ann", Role.REVOKER).signature)),
        (Role.CA_OPERATOR, named("bob", Role.REVOKER)),
        (Role.CA_OPERATOR, named("ann", Role.CA_OPERATOR)),
    ]
    for role, by in wrong:
        with pytest.raises(OperatorRefusedError):
            add_operator(home, "eve", public, role, now(), by)
    dismiss_operator(home, "ann", now())
    with pytest.raises(OperatorRefusedError):
        add_operator(home, "eve", public, Role.REVOKER, now(), named("ann", Role.REVOKER))
    add_operator(home, "eve", public, Role.CA_OPERATOR, now(), named("bob", Role.CA_OPERATOR))
    assert last_entry(home)[1]["by"] == "bob"


@pytest.fixture
def alone(own_office, tmp_path: Path):  # type: ignore[no-untyped-def]
    """A command in an office whose operators are ann and bob, and a proposal that ann made."""
    uris = {}
    for name in ("ann", "bob"):
        store_key(tmp_path / f"{name}.pem", generate_p256(), None)
        uris[name] = f"file:{tmp_path / name}.pem"
        public = public_pem(open_provider(uris[name]).public_key)
        add_operator(own_office.home, name, public, Role.CA_OPERATOR, now())
    place, by = tmp_path / "p.json", ("--by", f"ann={uris['ann']}")
    words = ("revoke", "ca", "issuing", "--reason", "ca-compromise", *by, "--proposal", place)
    made = own_office.command(*words)
    assert made.returncode == 0, made.stderr
    return own_office, uris, place, words


def test_who_approves_sees_what_it_takes_and_is_asked_before_the_key_is_opened(alone) -> None:  # type: ignore[no-untyped-def]
    office, _, place, _ = alone
    enrol(office.home, "cam", "Test Camera", now())
    words = ["revoke", "approve", str(place), "--by", "bob=file:/nowhere/key.pem"]
    answered = CliRunner().invoke(lightseal, ["--home", str(office.home.path), *words], input="n\n")
    assert answered.exit_code == 1
    assert "authority issuing, Test Newsroom Claim Signing CA: 2 certificates of 2 devices" in answered.output
    assert "signed by ann" in answered.output
    assert "error[" not in answered.output, "the key was not opened"
    answered = CliRunner().invoke(lightseal, ["--home", str(office.home.path), *words], input="y\n")
    assert isinstance(answered.exception, KeyFileError) or "error[" in answered.output
    with office.home.registry() as registry:
        assert registry.withdrawals() == ()


def test_no_command_here_writes_over_a_file(alone, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    office, uris, place, words = alone
    kept = place.read_bytes()
    again = office.command(*words)
    assert again.returncode != 0
    assert place.read_bytes() == kept
    (tmp_path / "thesis.txt").write_text("kept")
    done = office.command("operator", "key", uris["ann"], "--out", tmp_path / "thesis.txt")
    assert (done.returncode != 0, "already there" in done.stderr) == (True, True)
    assert (tmp_path / "thesis.txt").read_text() == "kept"
