"""What is withdrawn, by which of several withdrawals, and how many people it took."""

from dataclasses import replace
from datetime import timedelta
from itertools import permutations

import pytest

from storage.registry.errors import (
    CertificateUnknownError,
    DeviceUnknownError,
    MalformedRowError,
    ProductUnknownError,
    TwoPeopleError,
)
from storage.registry.rows import Status, StatusChange, Target, TargetKind, Withdrawal, Withdrawn

DAY = timedelta(days=1)


@pytest.fixture
def withdraw(registry, at):
    """Record a withdrawal on a day, compromised since another or since none."""

    def withdrawn(target: Target, revoked: int, compromised: int | None, entry: int = 0) -> Withdrawal:
        since = None if compromised is None else at + compromised * DAY
        reason = "superseded" if compromised is None else "keyCompromise"
        made = Withdrawal(target, reason, at + revoked * DAY, since, ("Ada", "Ben"), entry)
        registry.add_withdrawal(made)
        return made

    return withdrawn


def test_the_earliest_compromise_of_certificate_device_product_and_ca_counts(
    registry, withdraw, make_certificate
) -> None:
    targets = [
        lambda one: Target.of_certificate(one.sha256),
        lambda one: Target.of_device(one.device),
        lambda one: Target.of_product(one.product),
        lambda one: Target.of_ca(one.issuer_key_id),
    ]
    one, other = make_certificate(1), make_certificate(2, "phone", "Phone 2", b"another issuer")
    registry.add_certificates([one, other])
    assert registry.withdrawal_of(one) is None
    gravest = None
    for day, target in zip((4, 3, 2, 1), targets, strict=True):
        gravest = withdraw(target(one), 9, day)
        assert registry.withdrawal_of(one) == gravest
    withdraw(targets[0](one), 9, 8)
    assert registry.withdrawal_of(one) == gravest
    assert registry.withdrawal_of(other) is None


@pytest.mark.parametrize("order", list(permutations(range(3))))
def test_the_gravest_does_not_depend_on_the_order_of_recording(
    registry, withdraw, make_certificate, order
) -> None:
    """An end without a compromise counts from its own moment on: a later compromise gives no time back."""
    one = make_certificate(1)
    registry.add_certificates([one])
    made = [(1, None), (5, 3), (2, 2)]
    for number in order:
        withdraw(Target.of_certificate(one.sha256), *made[number], entry=number)
    found = registry.withdrawal_of(one)
    assert (found.entry, found.reason) == (2, "keyCompromise")
    assert found.since == found.revoked_at == registry.withdrawals()[order.index(0)].since
    assert [each.entry for each in registry.withdrawals()] == list(order)


def test_products_and_cas_take_two_people(registry, at) -> None:
    for target in (Target.of_product("Camera 1"), Target.of_ca(b"issuer")):
        for by in (("Ada",), ("Ada", "Ada")):
            with pytest.raises(TwoPeopleError):
                registry.add_withdrawal(Withdrawal(target, "cACompromise", at, None, by, 1))
    assert registry.withdrawals() == ()
    with pytest.raises(MalformedRowError):
        Withdrawal(Target.of_device("camera"), "superseded", at, None, (), 1)


def test_nothing_counts_only_from_after_it_was_decided(at) -> None:
    for reason in ("superseded", "keyCompromise"):
        with pytest.raises(MalformedRowError):
            Withdrawal(Target.of_device("camera"), reason, at, at + timedelta(microseconds=1), ("Ada",), 1)
        assert Withdrawal(Target.of_device("camera"), reason, at, at, ("Ada",), 1).since == at


def test_a_withdrawn_device_is_revoked_at_once(registry, at) -> None:
    made = Withdrawal(Target.of_device("camera"), "keyCompromise", at, at - DAY, ("Ada",), 4)
    registry.add_withdrawal(made)
    registry.add_withdrawal(made)
    assert registry.withdrawals() == (made,)
    assert registry.device("camera").status is Status.REVOKED
    change = StatusChange("camera", Status.ACTIVE, Status.REVOKED, at, "keyCompromise")
    assert registry.status_changes("camera") == (change,)
    again = Withdrawal(Target.of_device("camera"), "keyCompromise", at + DAY, at - 2 * DAY, ("Ben",), 5)
    registry.add_withdrawal(again)
    assert registry.withdrawals() == (made, again)


def test_what_nobody_knows_is_not_withdrawn(registry, at, digest) -> None:
    for target, error in (
        (Target.of_certificate(digest("nothing")), CertificateUnknownError),
        (Target.of_device("nobody"), DeviceUnknownError),
        (Target.of_product("Camera 9"), ProductUnknownError),
    ):
        with pytest.raises(error):
            registry.add_withdrawal(Withdrawal(target, "superseded", at, None, ("Ada", "Ben"), 1))
    with pytest.raises(MalformedRowError):
        Target(TargetKind.CERTIFICATE, "ABCD")


def test_a_list_has_what_is_withdrawn_and_not_expired(registry, withdraw, make_certificate, at) -> None:
    mine = [make_certificate(number) for number in range(3)]
    phones = [make_certificate(number, "phone", "Phone 2") for number in (3, 4)]
    strange = make_certificate(5, "phone", "Phone 2", b"another issuer")
    registry.add_certificates([*mine, *phones, strange])
    assert registry.withdrawn(b"issuer", at) == ()
    one = withdraw(Target.of_certificate(mine[1].sha256), 9, 8)
    product = withdraw(Target.of_product("Phone 2"), 9, 7)
    assert registry.withdrawn(b"issuer", at) == (
        Withdrawn(mine[1], one),
        Withdrawn(phones[0], product),
        Withdrawn(phones[1], product),
    )
    device = withdraw(Target.of_device("camera"), 5, None)
    listed = registry.withdrawn(b"issuer", at)
    both = replace(one, revoked_at=device.revoked_at, compromised_since=device.since)
    assert [each.withdrawal for each in listed] == [device, both, device, product, product]
    issuer = withdraw(Target.of_ca(b"issuer"), 9, -1)
    assert {each.withdrawal for each in registry.withdrawn(b"issuer", at)} == {
        replace(issuer, revoked_at=device.revoked_at),
        issuer,
    }
    assert registry.withdrawn(b"another issuer", at) == (Withdrawn(strange, product),)
    for each in registry.withdrawn(b"issuer", at):
        assert registry.withdrawal_of(each.certificate) == each.withdrawal
    assert len(registry.withdrawn(b"issuer", at + 30 * DAY)) == 5
    assert registry.withdrawn(b"issuer", at + 30 * DAY + timedelta(microseconds=1)) == ()
