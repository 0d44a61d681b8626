"""Withdrawal in one command: who may, what is recorded first, and what verifiers of this home see at once."""

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from authn.evidence import Revocation
from authn.keys import generate_ed25519, generate_p256, store_key
from authn.public_key import public_pem, read_public_key
from authn.revocation import Statuses, check_revocation
from authn.withdrawal import Reason
from storage.entry import Kind
from storage.payload import parse
from storage.registry.errors import CertificateUnknownError, DeviceUnknownError, OperatorUnknownError
from storage.registry.rows import Role, Status, Target, TargetKind
from tools.founding import create_home
from tools.home import Home
from tools.issuance.own import enrol
from tools.online import Cache
from tools.revoking import (
    OperatorRefusedError,
    ProposalError,
    Signature,
    Signed,
    add_operator,
    carry_out,
    dismiss_operator,
    enough,
    propose,
    sign,
    target_of,
)
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
    for name, role in roles.items():
        add_operator(home, name, public_pem(keys[name].public_key), role, now())
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
    again = office.command("revoke", "approve", tmp_path / "p.json", "--by", f"ann={uris['ann']}")
    assert (again.returncode, "operator-refused" in again.stderr) == (1, True)
    done = office.command("revoke", "approve", tmp_path / "p.json", "--by", f"bob={uris['bob']}")
    assert done.returncode == 0, done.stderr
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
