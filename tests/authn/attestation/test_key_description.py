import pytest

from authn import der
from authn.attestation import key_description
from authn.attestation.key_description import Package
from authn.errors import EvidenceError


def test_a_statement_is_read_field_by_field(maker) -> None:
    found = key_description.read(maker.describe(levels=(2, 1), challenge=b"c"))
    assert (found.version, found.level, found.keymint_version, found.keymint_level) == (300, 2, 300, 1)
    assert found.challenge == b"c"
    hardware = found.hardware
    assert (hardware.purposes, hardware.digests, hardware.paddings) == ({2}, {4}, set())
    assert (hardware.algorithm, hardware.key_size, hardware.curve, hardware.origin) == (3, 256, 1, 0)
    assert (hardware.os_patch, hardware.vendor_patch, hardware.boot_patch) == (202611, 20261105, 20261100)
    assert hardware.root_of_trust is not None
    assert (hardware.root_of_trust.locked, hardware.root_of_trust.boot_state) == (True, 0)
    assert hardware.application is None
    assert found.software.application is not None
    assert found.software.application.packages == {Package("org.lightseal.camera", 7)}


def test_tags_and_members_out_of_order_are_read_all_the_same(maker) -> None:
    late = (
        b"\xbf\x85\x43" + der.tagged(0, der.octets(b"late"))[1:]
    )  # [707] would follow, [709] and [4] did not
    assert key_description.read(maker.describe(software={707: None}, hardware={702: None})) is not None
    swapped = maker.describe(
        {1: der.tagged(der.SET, der.integer(3), der.integer(2)), 4: der.set_of(der.integer(1))}
    )
    assert key_description.read(swapped).hardware.purposes == {2, 3}
    with pytest.raises(EvidenceError, match="707"):
        key_description.read(maker.describe(extra=late))


ORIGIN = b"\xbf\x85\x3e\x03" + der.integer(0)
BROKEN_HARDWARE = {
    "a tag twice": ORIGIN,
    "a tag that the schema does not have": b"\xbf\x87\x67\x03" + der.integer(0),
    "a tag number of more bytes than it needs": b"\xbf\x80\x85\x3e\x03" + der.integer(0),
    "a low tag number in the high form": b"\xbf\x08\x03" + der.integer(0),
    "a tag number without an end": b"\xbf\xff\xff\xff\xff",
    "a tag number cut short": b"\xbf\x85",
    "a tag without a length": b"\xbf\x85\x3f",
    "a tag that is primitive": b"\x88\x01\x00",
    "a universal tag": der.integer(1),
    "an indefinite length": b"\xa8\x80" + der.integer(0) + b"\0\0",
    "a length with a leading zero": b"\xa8\x82\x00\x03" + der.integer(0),
    "a length that need not be long": b"\xa8\x81\x03" + der.integer(0),
    "a length of four gibibytes": b"\xa8\x84\xff\xff\xff\xff" + der.integer(0),
    "a length over the end": b"\xa8\x04" + der.integer(0),
    "a length cut short": b"\xa8\x82\xff",
    "nothing in a tag": b"\xa8\x00",
    "two elements in a tag": b"\xa8\x06" + der.integer(0) * 2,
    "text where a number must be": b"\xa8\x03" + der.octets(b"0"),
    "a negative number": b"\xa8\x03" + der.integer(-1),
    "a number of 65 bits": der.tagged(0xA8, der.integer(1 << 64)),
    "a number of 32,000 bits": der.tagged(0xA8, der.tagged(2, b"\x7f" + b"\xff" * 4000)),
    "a flag that says something": b"\xa7\x03" + der.integer(1),
    "a set that is a sequence": der.tagged(0xA4, der.sequence(der.integer(1))),
}


@pytest.mark.parametrize("case", BROKEN_HARDWARE)
def test_what_two_readers_could_read_differently_is_refused(case: str, maker) -> None:
    with pytest.raises(EvidenceError):
        key_description.read(maker.describe(extra=BROKEN_HARDWARE[case]))


def test_the_largest_number_is_read(maker) -> None:
    found = key_description.read(maker.describe({706: der.integer(2**64 - 1)}))
    assert found.hardware.os_patch == 2**64 - 1


def test_a_tag_that_only_the_system_adds_is_passed_over(maker) -> None:
    assert (
        key_description.read(maker.describe(software={999: der.sequence()})).software.application is not None
    )


BROKEN_VALUES = {
    "locked is neither true nor false": {704: der.sequence(
        der.octets(b"k"), der.tagged(1, b"\x01"), der.tagged(10, b"\0"))},
    "boot state of two bytes": {704: der.sequence(
        der.octets(b"k"), der.tagged(1, b"\xff"), der.tagged(10, b"\0\0"))},
    "root of trust with a field more": {704: der.sequence(
        der.octets(b"k"), der.tagged(1, b"\xff"), der.tagged(10, b"\0"), der.octets(b"h"), der.integer(1))},
    "application that is no sequence": {709: der.octets(b"app")},
    "package name that is not ASCII": {709: der.octets(der.sequence(
        der.set_of(der.sequence(der.octets(b"\xff"), der.integer(1))), der.set_of()))},
}  # fmt: skip


@pytest.mark.parametrize("case", BROKEN_VALUES)
def test_a_value_of_another_form_is_refused(case: str, maker) -> None:
    with pytest.raises(EvidenceError):
        key_description.read(maker.describe(BROKEN_VALUES[case]))


@pytest.mark.parametrize(
    "data",
    [b"", b"0", b"0\x00", der.sequence(der.integer(0)), der.integer(1), b"\x30\x80\0\0", b"\x30" * 5000],
)
def test_what_is_no_statement_is_refused(data: bytes, maker) -> None:
    with pytest.raises(EvidenceError):
        key_description.read(data)
    with pytest.raises(EvidenceError):
        key_description.read(maker.describe() + data + b"\0")
