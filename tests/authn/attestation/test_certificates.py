import pytest

from authn import der
from authn.attestation import certificates
from authn.errors import EvidenceError


@pytest.fixture
def good(maker) -> bytes:
    return maker.root.certify(maker.upper, 9)


def test_a_certificate_is_read_with_what_it_says_of_others(maker, good: bytes) -> None:
    certificate = certificates.read(good, "it")
    root = certificates.read(maker.root.certify(maker.root, 1), "the root")
    assert certificates.authority(certificate)
    assert not certificates.authority(certificates.read(maker.leaf(None), "the leaf"))
    assert certificates.issued(root, certificate)
    assert not certificates.issued(certificate, root)
    impostor = type(maker.root)(maker.root.name, maker.other.key)
    named_alike = certificates.read(impostor.certify(impostor, 1), "the impostor")
    assert not certificates.issued(named_alike, certificate)


def test_the_one_octet_that_no_signature_covers_may_not_be_changed(good: bytes) -> None:
    signature = der.parse(good).children()[2]
    place = good.index(signature.encoded) + len(signature.encoded) - len(signature.content)
    assert good[place] == 0
    for bits in range(1, 8):
        with pytest.raises(EvidenceError):
            certificates.read(good[:place] + bytes([bits]) + good[place + 1 :], "it")


def test_what_is_no_certificate_is_named_in_the_error(good: bytes) -> None:
    inside = der.parse(good).children()
    for data in (
        b"",
        b"0\x00",
        good + b"\0",
        good[:-1],
        der.sequence(*(element.encoded for element in inside[:2])),
        der.sequence(*(element.encoded for element in inside), der.integer(0)),
        der.sequence(inside[0].encoded, inside[1].encoded, der.octets(inside[2].content)),
    ):
        with pytest.raises(EvidenceError, match="certificate 3"):
            certificates.read(data, "certificate 3")
