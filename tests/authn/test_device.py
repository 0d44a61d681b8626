"""A device is a key, a chain and a name in the ledger that only its owner can find."""

import hashlib
from typing import Any

import pytest
from cryptography import x509
from hypothesis import given
from hypothesis import strategies as st

from authn.device import Device, pseudonym, read_chain, spki
from authn.errors import CertificateError


@pytest.fixture
def device(signer_kit: Any) -> Device:
    return Device("camera", signer_kit.key, signer_kit.chain, b"s" * 32)


def test_the_chain_travels_as_pem_leaf_first_and_without_the_root(device: Device, signer_kit: Any) -> None:
    chain = tuple(x509.load_pem_x509_certificates(device.chain_pem.encode()))
    assert chain == (signer_kit.leaf, signer_kit.issuing)
    assert read_chain(device.chain_pem.encode()) == chain


def test_the_pseudonym_is_the_salted_digest_of_the_key(device: Device, signer_kit: Any) -> None:
    key = spki(signer_kit.leaf)
    assert device.pseudonym == hashlib.sha256(b"lightseal/key/v1\0" + b"s" * 32 + key).digest()


def test_another_salt_or_key_is_another_pseudonym(device: Device, signer_kit: Any) -> None:
    key = spki(signer_kit.leaf)
    others = {pseudonym(b"t" * 32, key), pseudonym(b"s" * 32, spki(signer_kit.issuing))}
    assert len(others | {device.pseudonym}) == 3


@given(st.binary(max_size=200))
def test_any_bytes_are_refused_with_our_own_error(pem: bytes) -> None:
    with pytest.raises(CertificateError) as caught:
        read_chain(pem)
    assert caught.value.code == "certificate-malformed"
