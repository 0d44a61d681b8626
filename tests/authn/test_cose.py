"""The signature check against a writer of its own, and against everything a header can hold."""

from datetime import UTC, datetime
from typing import Any

import cbor2
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa, utils
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID
from hypothesis import given
from hypothesis import strategies as st

from authn import cose
from authn.cose import MalformedSignatureError
from authn.errors import MediaError
from authn.signer import certificate_facts

CLAIM = b"\xa1\x61a\x01"
NAME = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "n")])
SHA = {-7: hashes.SHA256(), -35: hashes.SHA384(), -36: hashes.SHA512()}
PSS = {-37: hashes.SHA256(), -38: hashes.SHA384(), -39: hashes.SHA512()}


def certificate(key: Any) -> bytes:
    """A certificate of no worth: only its key matters here."""
    builder = x509.CertificateBuilder(NAME, NAME, key.public_key(), 5)
    dated = builder.not_valid_before(datetime(2026, 1, 1, tzinfo=UTC)).not_valid_after(
        datetime(2027, 1, 1, tzinfo=UTC)
    )
    return dated.sign(ec.generate_private_key(ec.SECP256R1()), hashes.SHA256()).public_bytes(Encoding.DER)


def signed_with(key: Any, algorithm: int, message: bytes) -> bytes:
    """RFC 9053, 2.1 and 2.2; RFC 8230, 2."""
    if algorithm in SHA:
        r, s = utils.decode_dss_signature(key.sign(message, ec.ECDSA(SHA[algorithm])))
        size = (key.curve.key_size + 7) // 8
        return bytes(r.to_bytes(size, "big") + s.to_bytes(size, "big"))
    if algorithm in PSS:
        digest = PSS[algorithm]
        return bytes(key.sign(message, padding.PSS(padding.MGF1(digest), digest.digest_size), digest))
    return bytes(key.sign(message))


def boxed(key: Any, algorithm: int = -7, **unprotected: Any) -> bytes:
    protected = cbor2.dumps({1: algorithm, 33: certificate(key)})
    signature = signed_with(key, algorithm, cbor2.dumps(["Signature1", protected, b"", CLAIM]))
    return cbor2.dumps(cbor2.CBORTag(18, [protected, unprotected, None, signature]))


KEY = ec.generate_private_key(ec.SECP256R1())
BOX = boxed(KEY)
PROTECTED, _, _, SIGNATURE = cbor2.loads(BOX).value


@pytest.mark.parametrize(
    ("key", "algorithm"),
    [
        (KEY, -7),
        (ec.generate_private_key(ec.SECP384R1()), -35),
        (ec.generate_private_key(ec.SECP521R1()), -36),
        (ec.generate_private_key(ec.SECP384R1()), -7),
        (rsa.generate_private_key(65537, 2048), -37),
        (rsa.generate_private_key(65537, 2048), -39),
        (ed25519.Ed25519PrivateKey.generate(), -8),
    ],
    ids=["P-256", "P-384", "P-521", "P-384 with SHA-256", "PS256", "PS512", "Ed25519"],
)
def test_a_signature_over_the_claim_verifies_and_over_another_does_not(key: Any, algorithm: int) -> None:
    found = cose.parse(boxed(key, algorithm), CLAIM)
    assert found.verifies(CLAIM)
    assert not found.verifies(CLAIM + b"x")
    assert found.chain_protected


@pytest.mark.parametrize(
    ("key", "algorithm"),
    [
        (ec.generate_private_key(ec.SECP256K1()), -7),
        (rsa.generate_private_key(65537, 1024), -37),  # noqa: S505 - that it is weak is the point
    ],
    ids=["a curve C2PA does not list", "a short RSA key"],
)
def test_a_key_that_is_not_allowed_does_not_verify(key: Any, algorithm: int) -> None:
    assert not cose.parse(boxed(key, algorithm), CLAIM).verifies(CLAIM)


def test_the_named_algorithm_must_fit_the_key() -> None:
    for algorithm in (-35, -36, -37, -8, -257, 0, 5):
        protected = cbor2.dumps({1: algorithm, 33: certificate(KEY)})
        signature = signed_with(KEY, -7, cbor2.dumps(["Signature1", protected, b"", CLAIM]))
        assert not cose.parse(cbor2.dumps([protected, {}, None, signature]), CLAIM).verifies(CLAIM)


def test_a_der_signature_is_not_a_cose_signature() -> None:
    der = KEY.sign(cbor2.dumps(["Signature1", PROTECTED, b"", CLAIM]), ec.ECDSA(hashes.SHA256()))
    for wrong in (der, b"", bytes(64), SIGNATURE[:-1], SIGNATURE + b"\0", b"\xff" * 64):
        assert not cose.parse(cbor2.dumps([PROTECTED, {}, None, wrong]), CLAIM).verifies(CLAIM)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (b"\xa0\x03\x02\x01\x02\x02\x01\x05", b"\xa0\x03\x02\x01\x02\x02\x01\xfb"),
        (b"\xa0\x03\x02\x01\x02\x02\x01\x05", b"\xa0\x03\x02\x01\x03\x02\x01\x05"),
    ],
    ids=["negative serial number", "version 4"],
)
def test_a_certificate_that_is_read_with_a_warning_is_refused(before: bytes, after: bytes) -> None:
    assert BOX.count(before) == 1
    with pytest.raises(MalformedSignatureError):
        cose.parse(BOX.replace(before, after), CLAIM)


def test_an_unprotected_chain_never_replaces_the_protected_one() -> None:
    other = certificate(ec.generate_private_key(ec.SECP256R1()))
    for name in (33, "x5chain"):
        found = cose.parse(cbor2.dumps([PROTECTED, {name: other}, None, SIGNATURE]), CLAIM)
        assert found.verifies(CLAIM)
        assert found.chain[0].public_bytes(Encoding.DER) == cbor2.loads(PROTECTED)[33]


@pytest.mark.parametrize(
    "box",
    [
        cbor2.dumps([]),
        cbor2.dumps([PROTECTED, {}, CLAIM, SIGNATURE]),
        cbor2.dumps([PROTECTED, {}, None]),
        cbor2.dumps([PROTECTED, [], None, SIGNATURE]),
        cbor2.dumps(cbor2.CBORTag(98, [PROTECTED, {}, None, SIGNATURE])),
        cbor2.dumps([b"", {}, None, SIGNATURE]),
        cbor2.dumps([cbor2.dumps({1: "ES256"}), {}, None, SIGNATURE]),
        cbor2.dumps([cbor2.dumps({33: certificate(KEY)}), {1: -7}, None, SIGNATURE]),
        cbor2.dumps([cbor2.dumps({1: -7}), {}, None, SIGNATURE]),
        cbor2.dumps([cbor2.dumps({1: -7, 33: []}), {}, None, SIGNATURE]),
        cbor2.dumps([cbor2.dumps({1: -7, 33: [5]}), {}, None, SIGNATURE]),
        cbor2.dumps([cbor2.dumps({1: -7, 33: b"no certificate"}), {}, None, SIGNATURE]),
        cbor2.dumps([cbor2.dumps({1: -7, 33: [certificate(KEY)] * (cose.MAX_CHAIN + 1)}), {}, None, b""]),
    ],
    ids=[f"box {number}" for number in range(13)],  # the bytes hold keys made anew each time
)
def test_what_is_no_detached_signature_with_a_chain_is_refused(box: bytes) -> None:
    with pytest.raises(MalformedSignatureError):
        cose.parse(box, CLAIM)


def test_the_two_kinds_of_tokens_are_over_different_bytes() -> None:
    """C2PA 2.2, 10.3.2.5."""
    newer = cose.parse(boxed(KEY, sigTst2={"tstTokens": [{"val": b"t"}]}), CLAIM)
    older = cose.parse(boxed(KEY, sigTst={"tstTokens": [{"val": b"t"}]}), CLAIM)
    assert newer.stamp is not None
    assert older.stamp is not None
    assert (newer.stamp.over_signature, older.stamp.over_signature) == (True, False)
    assert newer.stamp.message == cbor2.dumps(
        ["CounterSignature", newer.protected, b"", cbor2.dumps(newer.signature)]
    )
    assert older.stamp.message == cbor2.dumps(["CounterSignature", older.protected, b"", CLAIM])


@pytest.mark.parametrize(
    ("header", "count"),
    [
        ({"sigTst2": {"tstTokens": [{"val": b"a"}, {"val": b"b"}]}}, 2),
        ({"sigTst2": {"tstTokens": [{"val": b"a"}]}, "sigTst": {"tstTokens": [{"val": b"b"}]}}, 2),
        ({"sigTst2": {"tstTokens": [{"val": 5}, 7, {}]}}, 0),
        ({"sigTst2": {"tstTokens": b"a"}}, 0),
        ({"sigTst2": [b"a"]}, 0),
        ({"sigTst2": {"tstTokens": [{"val": bytes(cose.MAX_TOKEN + 1)}]}}, 0),
    ],
)
def test_only_one_token_is_a_token(header: dict[str, Any], count: int) -> None:
    found = cose.parse(boxed(KEY, **header), CLAIM)
    assert (found.stamp, found.stamp_count) == (None, count)


@pytest.mark.parametrize(
    ("header", "empty"),
    [
        ({}, True),
        ({"pad": bytes(9)}, True),
        ({"pad": bytes(9), "pad2": bytes(2)}, True),
        ({"pad": b"\0\1"}, False),
        ({"pad": bytes(9), "pad2": b"x"}, False),
        ({"pad": "text"}, False),
    ],
)
def test_padding_is_zeros_or_it_is_reported(header: dict[str, Any], *, empty: bool) -> None:
    assert cose.parse(boxed(KEY, **header), CLAIM).padding_empty is empty


@given(st.binary(max_size=200))
def test_any_bytes_are_refused_with_our_own_error(data: bytes) -> None:
    for box in (
        data,
        cbor2.dumps([data, {}, None, data]),
        cbor2.dumps([cbor2.dumps({1: -7, 33: data}), {}, None, b""]),
    ):
        with pytest.raises(MediaError):
            cose.parse(box, CLAIM)


@given(st.integers(0, len(BOX) - 1), st.integers(0, 255))
def test_a_changed_byte_is_refused_or_can_be_shown(position: int, value: int) -> None:
    """Whatever parses can be shown; and it verifies only if nothing that counts was changed."""
    box = BOX[:position] + bytes([value]) + BOX[position + 1 :]
    try:
        found = cose.parse(box, CLAIM)
    except MediaError:
        return
    certificate_facts(found.chain[0])
    if found.verifies(CLAIM):
        assert (found.protected, found.signature) == (PROTECTED, SIGNATURE)
