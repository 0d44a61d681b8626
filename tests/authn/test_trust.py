import hashlib
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from authn.errors import CertificateError
from authn.identity import pem_chain
from authn.profile import Profile
from authn.trust import MAX_ANCHORS, MAX_LIST_BYTES, Purpose, TrustList

# The library warns of names and numbers that break RFC 5280; for us they are an answer.
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


def parse(pem: bytes) -> TrustList:
    return TrustList.parse(pem, "lab", Purpose.SIGNING, Profile.POLICY)


def test_a_list_knows_the_digest_of_its_file(signer_kit, stamp_kit) -> None:
    pem = b"# two roots\n\n" + pem_chain(signer_kit.root, stamp_kit.root)
    found = parse(pem)
    assert found.anchors == (signer_kit.root, stamp_kit.root)
    assert found.sha256 == hashlib.sha256(pem).digest()
    assert parse(pem_chain(*found.anchors)).anchors == found.anchors


def test_windows_line_ends_are_the_same_list(signer_kit) -> None:
    assert parse(pem_chain(signer_kit.root).replace(b"\n", b"\r\n")).anchors == (signer_kit.root,)


def test_a_list_without_anybody_is_only_made_on_purpose() -> None:
    for pem in (b"", b"# nobody\n", b"\n"):
        with pytest.raises(CertificateError):
            parse(pem)
    for purpose in Purpose:
        empty = TrustList.empty(purpose)
        assert empty.anchors == ()
        assert empty.purpose is purpose


@pytest.mark.parametrize(
    ("flaw", "spoil"),
    [
        ("text before", lambda pem: b"subject=CN\n" + pem),
        ("text after", lambda pem: pem + b"garbage"),
        ("text between", lambda pem: pem + b"x\n" + pem),
        ("twice", lambda pem: pem + pem),
        ("cut", lambda pem: pem[:-30]),
        ("a letter lost", lambda pem: pem[:100] + pem[101:]),
        ("a bit of it flipped", lambda pem: pem[:31] + b"A" + pem[32:]),
        ("key", lambda pem: pem.replace(b"CERTIFICATE", b"PRIVATE KEY")),
        ("not ASCII", lambda pem: b"# \xc3\xa9\n" + pem),
        ("padding", lambda pem: pem.replace(b"-----END", b"====\n-----END")),
    ],
)
def test_anything_else_in_a_list_is_refused(signer_kit, flaw, spoil) -> None:
    with pytest.raises(CertificateError):
        parse(spoil(pem_chain(signer_kit.root)))
    assert flaw


def test_a_list_has_limits_before_it_has_a_parser(signer_kit) -> None:
    with pytest.raises(CertificateError, match="larger"):
        parse(b"#" * (MAX_LIST_BYTES + 1))
    with pytest.raises(CertificateError, match=str(MAX_ANCHORS)):
        parse(pem_chain(signer_kit.root) * (MAX_ANCHORS + 1))


def test_purpose_and_profile_belong_together(signer_kit) -> None:
    pem = pem_chain(signer_kit.root)
    for purpose, profile in (
        (Purpose.SIGNING, Profile.TIME_STAMPING),
        (Purpose.TIME_STAMPING, Profile.POLICY),
        (Purpose.TIME_STAMPING, Profile.SPECIFICATION),
    ):
        with pytest.raises(CertificateError):
            TrustList.parse(pem, "lab", purpose, profile)


@given(st.binary(max_size=300))
def test_hostile_lists_raise_only_our_own_error(body: bytes) -> None:
    for pem in (body, b"-----BEGIN CERTIFICATE-----\n" + body + b"\n-----END CERTIFICATE-----\n"):
        with suppress(CertificateError):
            parse(pem)


@given(st.integers(0, 10_000), st.integers(0, 7))
def test_a_list_with_a_flipped_bit_raises_only_our_own_error(signer_kit, position: int, bit: int) -> None:
    pem = bytearray(pem_chain(signer_kit.root))
    pem[position % len(pem)] ^= 1 << bit
    with suppress(CertificateError):
        parse(bytes(pem))
