"""Requests for certificates: a key and its signature, and nothing else that counts."""

import subprocess
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import given, settings
from hypothesis import strategies as st

from authn import der, identity, keys
from authn.csr import MAX_REQUEST, RequestError, RequestSignatureError, make_request, read_request
from authn.errors import IssuanceError, KeyNotOursError
from authn.identity import spki_of

KINDS = [keys.generate_p256, keys.generate_p384, keys.generate_ed25519]


@pytest.fixture(scope="module")
def request_bytes() -> bytes:
    return make_request(keys.generate_p256())


@pytest.mark.parametrize("kind", KINDS)
def test_a_request_is_read_as_the_key_that_made_it(kind) -> None:
    key = kind()
    assert spki_of(read_request(make_request(key))) == spki_of(key.public_key)


@pytest.mark.needs("openssl")
@pytest.mark.parametrize("kind", KINDS)
def test_another_program_verifies_it(kind, tmp_path: Path) -> None:
    path = tmp_path / "request.der"
    path.write_bytes(make_request(kind()))
    done = subprocess.run(
        ["openssl", "req", "-inform", "DER", "-in", path, "-verify", "-noout"],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert "OK" in done.stderr + done.stdout


def test_no_request_and_no_certificate_is_made_for_a_key_that_needs_no_private_key(signer_kit) -> None:
    """The identity of the curve: R = A and s = 0 sign every request, and every claim after it."""
    point = (1).to_bytes(32, "little")
    algorithm = der.sequence(der.oid("1.3.101.112"))
    wanted = der.sequence(
        der.integer(0),
        der.sequence(),
        der.sequence(algorithm, der.tagged(3, b"\0", point)),
        der.tagged(0xA0),
    )
    forged = der.sequence(wanted, algorithm, der.tagged(3, b"\0", point + bytes(32)))
    assert x509.load_der_x509_csr(forged).is_signature_valid
    with pytest.raises(KeyNotOursError, match="small order"):
        read_request(forged)
    with pytest.raises((KeyNotOursError, IssuanceError)):
        identity.plan_claim_signing(
            identity.Subject("DE", "Lightseal Lab", "Lab Camera"),
            ed25519.Ed25519PublicKey.from_public_bytes(point),
            1 << 100,
            signer_kit.at,
            issuer=signer_kit.issuing,
            ocsp_url="http://127.0.0.1:8888/ocsp/",
        )


def test_wishes_are_not_heard() -> None:
    private = ec.generate_private_key(ec.SECP256R1())
    wished = (
        x509.CertificateSigningRequestBuilder()
        .subject_name(x509.Name([x509.NameAttribute(x509.NameOID.SERIAL_NUMBER, "unit 17")]))
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(private, hashes.SHA256())
        .public_bytes(Encoding.DER)
    )
    assert spki_of(read_request(wished)) == spki_of(private.public_key())


def test_a_key_that_did_not_sign_is_not_certified(request_bytes: bytes) -> None:
    key, other = keys.generate_p256(), keys.generate_p256()
    mine, theirs = spki_of(key.public_key), spki_of(other.public_key)
    forged = make_request(key).replace(mine, theirs)
    with pytest.raises(RequestSignatureError):
        read_request(forged)
    broken = request_bytes[:-1] + bytes([request_bytes[-1] ^ 1])
    with pytest.raises(RequestError):
        read_request(broken)


@pytest.mark.parametrize("kind", ["rsa-1024", "rsa-3072", "p-192", "p-521", "k-256"])
def test_a_key_of_another_kind_is_refused(kind: str) -> None:
    private = {
        "rsa-1024": lambda: rsa.generate_private_key(65537, 1024),  # noqa: S505 - weak on purpose
        "rsa-3072": lambda: rsa.generate_private_key(65537, 3072),
        "p-192": lambda: ec.generate_private_key(ec.SECP192R1()),
        "p-521": lambda: ec.generate_private_key(ec.SECP521R1()),
        "k-256": lambda: ec.generate_private_key(ec.SECP256K1()),
    }[kind]()
    request = (
        x509.CertificateSigningRequestBuilder()
        .subject_name(x509.Name([]))
        .sign(private, hashes.SHA256())
        .public_bytes(Encoding.DER)
    )
    with pytest.raises((KeyNotOursError, RequestError)):
        read_request(request)


def test_size_is_looked_at_before_anything_else(request_bytes: bytes) -> None:
    with pytest.raises(RequestError, match="at most"):
        read_request(request_bytes + bytes(MAX_REQUEST))
    with pytest.raises(RequestError):
        read_request(request_bytes + b"\0")


@given(st.data())
@settings(max_examples=300, deadline=None)
def test_nothing_but_its_own_errors_leaves_it(data: st.DataObject) -> None:
    made = bytearray(_SAMPLE)
    for _ in range(data.draw(st.integers(1, 4))):
        made[data.draw(st.integers(0, len(made) - 1))] = data.draw(st.integers(0, 255))
    try:
        read_request(bytes(made[: data.draw(st.integers(0, len(made)))]))
    except (RequestError, KeyNotOursError):
        return
    assert bytes(made) == _SAMPLE


_SAMPLE = make_request(keys.generate_p256())
