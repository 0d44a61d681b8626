"""Products, devices, evidence and operators."""

from dataclasses import replace
from datetime import timedelta
from itertools import product as pairs

import pytest

from storage.registry.errors import (
    DeviceKnownError,
    DeviceUnknownError,
    EvidenceUnknownError,
    KeyReusedError,
    MalformedRowError,
    OperatorKnownError,
    OperatorUnknownError,
    PinConflictError,
    ProductKnownError,
    ProductUnknownError,
    StatusError,
)
from storage.registry.registry import Registry
from storage.registry.rows import Device, Operator, Product, Role, Status, StatusChange

LATER = timedelta(hours=1)

# Written out again, from the words of the design.
MAY_BECOME = {
    "pending": {"active", "revoked", "retired"},
    "active": {"suspect", "suspended", "revoked", "retired"},
    "suspect": {"active", "suspended", "revoked", "retired"},
    "suspended": {"active", "suspect", "revoked", "retired"},
    "retired": {"revoked"},
    "revoked": set(),
}
WAYS = {
    "pending": (),
    "active": ("active",),
    "suspect": ("active", "suspect"),
    "suspended": ("active", "suspended"),
    "retired": ("retired",),
    "revoked": ("revoked",),
}


def test_a_product_keeps_its_words(registry, at) -> None:
    product = registry.product("Camera 1")
    registry.add_product(product)
    stricter = replace(product, minimum="E3", rules=b'{"patch":90}', since=at + LATER)
    with pytest.raises(ProductKnownError):
        registry.add_product(stricter)
    assert registry.product("Camera 1") == product
    assert [each.name for each in registry.products()] == ["Camera 1", "Phone 2"]
    with pytest.raises(ProductUnknownError):
        registry.product("Camera 9")


def test_a_device_comes_back_as_it_was_recorded(url, filled_url, digest, at) -> None:
    made = Device("Kamera ü 7", "Camera 1", digest("s"), Status.PENDING, digest("pin"), "E2", at)
    with Registry.open(filled_url) as registry:
        registry.add_device(made)
        registry.add_device(made)
    with Registry.open(url) as registry:
        assert registry.device("Kamera ü 7") == made
        assert [each.name for each in registry.devices()] == ["Kamera ü 7", "camera", "phone"]


def test_no_two_devices_share_a_name_or_a_salt(registry, digest, at) -> None:
    made = Device("third", "Camera 1", digest("s"), Status.PENDING, None, "E0", at)
    registry.add_device(made)
    for other in (
        replace(made, salt=digest("t")),
        replace(made, name="fourth"),
        replace(made, name="camera"),
    ):
        with pytest.raises(DeviceKnownError):
            registry.add_device(other)
    with pytest.raises(ProductUnknownError):
        registry.add_device(replace(made, name="fifth", salt=digest("u"), product="Camera 9"))
    with pytest.raises(StatusError):
        registry.add_device(replace(made, name="fifth", salt=digest("u"), status=Status.SUSPECT))
    with pytest.raises(DeviceUnknownError):
        registry.device("fifth")


def test_a_status_goes_only_where_it_may(registry, digest, at) -> None:
    assert set(MAY_BECOME) == {status.value for status in Status}
    for number, (before, after) in enumerate(pairs(MAY_BECOME, MAY_BECOME)):
        name = f"{before} to {after}"
        registry.add_device(Device(name, "Camera 1", digest(f"{number}"), Status.PENDING, None, "E0", at))
        for step in WAYS[before]:
            registry.set_status(name, Status(step), at, "on the way")
        if before == after or after in MAY_BECOME[before]:
            assert registry.set_status(name, Status(after), at, "a test").status == after
            assert registry.device(name).status == after
        else:
            with pytest.raises(StatusError):
                registry.set_status(name, Status(after), at, "a test")
            assert registry.device(name).status == before


def test_every_change_of_status_says_when_and_why(registry, at) -> None:
    registry.set_status("camera", Status.SUSPENDED, at, "lost in the field")
    registry.set_status("camera", Status.SUSPENDED, at + LATER, "said twice")
    registry.set_status("camera", Status.ACTIVE, at + 2 * LATER, "found again")
    assert registry.status_changes("camera") == (
        StatusChange("camera", Status.ACTIVE, Status.SUSPENDED, at, "lost in the field"),
        StatusChange("camera", Status.SUSPENDED, Status.ACTIVE, at + 2 * LATER, "found again"),
    )
    assert registry.status_changes("phone") == ()


def test_the_first_attestation_stays(registry, digest) -> None:
    assert registry.pin_device("camera", digest("ak"), "E2").pin == digest("ak")
    assert registry.pin_device("camera", digest("ak"), "E3").custody == "E3"
    with pytest.raises(PinConflictError):
        registry.pin_device("camera", digest("another ak"), "E3")
    assert (registry.device("camera").pin, registry.device("camera").custody) == (digest("ak"), "E3")


def test_evidence_is_judged_again_and_every_judgement_stays(registry, digest, at) -> None:
    first = registry.add_evidence("camera", digest("key 1"), "tpm", b"statement", "E2", at, b"[]")
    other = registry.add_evidence("phone", digest("key 2"), "android-key", b"chain", "E3", at, b"[]")
    judged = registry.rejudge(first.id, "E0", at + LATER, b'["status-revoked"]')
    assert judged == replace(first, custody="E0", judged_at=at + LATER, broken=b'["status-revoked"]')
    assert registry.evidence("camera") == (judged,)
    assert registry.judgements(first.id) == (first, judged)
    assert registry.evidence_after(0, 10) == (judged, other)
    assert registry.evidence_after(0, 1) == (judged,)
    assert registry.evidence_after(first.id, 10) == (other,)
    for asked in (
        lambda: registry.rejudge(99, "E0", at, b"[]"),
        lambda: registry.judgements(99),
    ):
        with pytest.raises(EvidenceUnknownError):
            asked()
    with pytest.raises(MalformedRowError):
        registry.add_evidence("camera", digest("key"), "tpm", bytes((256 << 10) + 1), "E2", at, b"[]")
    with pytest.raises(MalformedRowError):
        registry.add_evidence("camera", b"key", "tpm", b"statement", "E2", at, b"[]")


def test_evidence_speaks_for_its_own_key_and_for_no_other_of_the_device(
    registry, make_certificate, at
) -> None:
    first, second, bare = (make_certificate(number) for number in (1, 2, 3))
    one = registry.add_evidence("camera", first.spki_sha256, "android-key", b"one", "E3", at, b"[]")
    other = registry.add_evidence("camera", second.spki_sha256, "android-key", b"two", "E3", at, b"[]")
    registry.add_certificates([first, second, bare])
    fallen = registry.rejudge(one.id, "E0", at + LATER, b'["revoked"]')
    assert registry.evidence_of(first) == fallen
    assert registry.evidence_of(second) == other
    assert registry.evidence_of(bare) is None
    assert registry.evidence_of(replace(second, device="phone")) is None


def test_what_came_last_before_a_key_was_certified_is_its_evidence_and_nothing_after(
    registry, make_certificate, at
) -> None:
    """Who may show more of a certified key could cover what fell."""
    one = make_certificate(1)
    registry.add_evidence("camera", one.spki_sha256, "none", b"tried", "E1", at, b"[]")
    kept = registry.add_evidence("camera", one.spki_sha256, "android-key", b"shown", "E3", at, b"[]")
    registry.add_certificates([one])
    for device in ("camera", "phone"):
        with pytest.raises(KeyReusedError):
            registry.add_evidence(device, one.spki_sha256, "android-key", b"fresh", "E3", at, b"[]")
    assert registry.evidence_of(one) == kept


def test_a_label_that_fell_takes_the_device_down_and_none_lifts_it(registry, digest, at) -> None:
    registry.pin_device("camera", digest("pin"), "E3")
    first = registry.add_evidence("camera", digest("key 1"), "android-key", b"one", "E3", at, b"[]")
    second = registry.add_evidence("camera", digest("key 2"), "android-key", b"two", "E3", at, b"[]")
    assert registry.device("camera").custody == "E3"
    registry.rejudge(second.id, "E2", at, b"[]")
    assert registry.device("camera").custody == "E2"
    registry.rejudge(first.id, "E0", at, b"[]")
    registry.rejudge(first.id, "E3", at, b"[]")
    assert registry.device("camera").custody == "E0"
    assert registry.pin_device("camera", digest("pin"), "E3").custody == "E3"


def test_every_operator_has_a_key_of_their_own(registry, at) -> None:
    ada = Operator("Ada", b"key of Ada", Role.REVOKER, at)
    registry.add_operator(ada)
    registry.add_operator(ada)
    for other in (replace(ada, name="Eve"), replace(ada, spki=b"another"), replace(ada, role=Role.VIEWER)):
        with pytest.raises(OperatorKnownError):
            registry.add_operator(other)
    assert registry.operators() == (ada,)
    gone = registry.dismiss_operator("Ada", at + LATER)
    assert registry.dismiss_operator("Ada", at + 2 * LATER) == gone == replace(ada, until=at + LATER)
    assert registry.operator("Ada") == gone
    with pytest.raises(OperatorKnownError):
        registry.add_operator(ada)
    with pytest.raises(OperatorUnknownError):
        registry.operator("Eve")


def test_times_come_back_to_the_microsecond_and_in_utc(registry, at) -> None:
    shifted = at.astimezone(None)
    registry.add_product(Product("Other", "Example", "session", "E0", b"{}", shifted))
    assert registry.product("Other").since == at
    assert registry.product("Other").since.utcoffset() == timedelta()
