"""A public key is certified at most once, ever."""

from collections import Counter
from dataclasses import replace

import pytest

from storage.registry.errors import (
    CertificateKnownError,
    DeviceUnknownError,
    KeyReusedError,
    MalformedRowError,
)
from storage.registry.registry import Registry
from storage.registry.rows import Target


def test_of_thirty_who_want_one_key_certified_one_wins(thirty, digest, at) -> None:
    answers = thirty(
        lambda registry, number: registry.reserve_key(digest("key"), ("camera", "phone")[number % 2], at)
    )
    assert Counter(answers) == {None: 1, "key-reused": 29}


def test_of_thirty_certificates_for_one_key_one_is_recorded(thirty, filled_url, make_certificate) -> None:
    def issue(registry: Registry, number: int) -> str:
        issued = replace(make_certificate(number), spki_sha256=make_certificate(0).spki_sha256)
        registry.add_certificates([issued])
        return "recorded"

    assert Counter(thirty(issue)) == {"recorded": 1, "key-reused": 29}
    with Registry.open(filled_url) as registry:
        assert len(registry.certificates(Target.of_device("camera"))) == 1


def test_a_key_is_reserved_once_for_the_same_device_as_well(registry, digest, at) -> None:
    registry.reserve_key(digest("key"), "camera", at)
    for device in ("camera", "phone"):
        with pytest.raises(KeyReusedError):
            registry.reserve_key(digest("key"), device, at)


def test_a_pool_of_keys_is_reserved_whole_or_not_at_all(registry, digest, at) -> None:
    pool = [digest(f"key {number}") for number in range(300)]
    with pytest.raises(KeyReusedError):
        registry.reserve_keys([*pool, pool[0]], "camera", at)
    registry.reserve_key(pool[299], "phone", at)
    with pytest.raises(KeyReusedError):
        registry.reserve_keys(pool, "camera", at)
    registry.reserve_keys(pool[:299], "camera", at)
    with pytest.raises(DeviceUnknownError):
        registry.reserve_key(digest("other"), "nobody", at)


def test_certificates_are_found_by_all_that_they_are_called(registry, make_certificate) -> None:
    first, second = make_certificate(1), make_certificate(2)
    third = make_certificate(3, device="phone", product="Phone 2", issuer=b"another issuer")
    registry.add_certificates([first, second])
    registry.add_certificates([third, first])
    assert registry.certificate(b"issuer", second.serial) == second
    assert registry.certificate(b"another issuer", second.serial) is None
    assert registry.certificate_by_digest(third.sha256) == third
    assert registry.certificates(Target.of_certificate(first.sha256)) == (first,)
    assert registry.certificates(Target.of_device("camera")) == (first, second)
    assert registry.certificates(Target.of_product("Phone 2")) == (third,)
    assert registry.certificates(Target.of_ca(b"issuer")) == (first, second)


def test_nothing_is_recorded_when_one_of_several_is_refused(registry, at, make_certificate) -> None:
    registry.reserve_key(make_certificate(2).spki_sha256, "phone", at)
    with pytest.raises(KeyReusedError):
        registry.add_certificates([make_certificate(1), make_certificate(2)])
    assert registry.certificates(Target.of_device("camera")) == ()
    # Nor is its key taken.
    registry.reserve_key(make_certificate(1).spki_sha256, "phone", at)


def test_a_serial_and_a_certificate_are_used_once(registry, make_certificate) -> None:
    first = make_certificate(1)
    registry.add_certificates([first])
    with pytest.raises(CertificateKnownError):
        registry.add_certificates([replace(first, entry=9)])
    with pytest.raises(CertificateKnownError):
        registry.add_certificates([replace(make_certificate(2), serial=first.serial)])
    registry.add_certificates([replace(make_certificate(2), serial=first.serial, issuer_key_id=b"other")])


@pytest.mark.parametrize(
    "serial", ["", "0", "0a", "A1", "f" * 41, "zz not hex", "ag", "a1\n", "\u0661", "-1"]
)
def test_a_serial_is_written_in_one_way(make_certificate, serial: str) -> None:
    with pytest.raises(MalformedRowError):
        replace(make_certificate(1), serial=serial)
