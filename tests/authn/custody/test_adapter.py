import copy
import os
import subprocess
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509 import ocsp

from authn import keys
from authn.custody.adapter import private_key
from authn.custody.opening import open_provider
from authn.errors import KeyGoneError, KeyNotOursError
from tools.softhsm import SoftHsm

NOW = datetime(2026, 11, 1, tzinfo=UTC)
DAY = timedelta(days=1)
NAME = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "Example CA")])
HASHES = {
    keys.Algorithm.ES256: hashes.SHA256(),
    keys.Algorithm.ES384: hashes.SHA384(),
    keys.Algorithm.EDDSA: None,
}


@pytest.fixture(scope="module")
def token(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SoftHsm]:
    pytest.importorskip("pkcs11", reason="needs python-pkcs11: pip install lightseal[hsm]")
    with SoftHsm(tmp_path_factory.mktemp("token")) as running:
        for algorithm in keys.Algorithm:
            running.generate(algorithm.value, algorithm)
        yield running


@pytest.fixture(params=list(keys.Algorithm))
def authority(request: pytest.FixtureRequest) -> keys.KeyProvider:
    """A key in a token, of each kind; tests that use it need softhsm2."""
    running: SoftHsm = request.getfixturevalue("token")
    return open_provider(running.uri(request.param.value))


def certificate(provider: keys.KeyProvider) -> x509.Certificate:
    return (
        x509.CertificateBuilder(NAME, NAME, provider.public_key, x509.random_serial_number(), NOW, NOW + DAY)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(provider.public_key), critical=False)
        .sign(private_key(provider), HASHES[provider.algorithm])
    )


def openssl(folder: Path, *arguments: str) -> str:
    done = subprocess.run(["openssl", *arguments], cwd=folder, capture_output=True, timeout=30, check=False)
    return (done.stdout + done.stderr).decode()


@pytest.mark.needs("softhsm2", "openssl")
def test_a_certificate_signed_in_a_token_stands(authority: keys.KeyProvider, tmp_path: Path) -> None:
    made = certificate(authority)
    made.verify_directly_issued_by(made)
    (tmp_path / "ca.pem").write_bytes(made.public_bytes(Encoding.PEM))
    moment = str(int((NOW + DAY / 2).timestamp()))
    said = openssl(tmp_path, "verify", "-attime", moment, "-check_ss_sig", "-CAfile", "ca.pem", "ca.pem")
    assert said == "ca.pem: OK\n"


@pytest.mark.needs("softhsm2", "openssl")
def test_a_request_signed_in_a_token_stands(authority: keys.KeyProvider, tmp_path: Path) -> None:
    builder = x509.CertificateSigningRequestBuilder(NAME)
    made = builder.sign(private_key(authority), HASHES[authority.algorithm])
    assert made.is_signature_valid
    (tmp_path / "request.pem").write_bytes(made.public_bytes(Encoding.PEM))
    assert "verify OK" in openssl(tmp_path, "req", "-in", "request.pem", "-verify", "-noout")


@pytest.mark.needs("softhsm2", "openssl")
def test_a_revocation_list_signed_in_a_token_stands(authority: keys.KeyProvider, tmp_path: Path) -> None:
    revoked = x509.RevokedCertificateBuilder(7, NOW, [])
    made = (
        x509.CertificateRevocationListBuilder(NAME, NOW, NOW + DAY)
        .add_revoked_certificate(revoked.build())
        .sign(private_key(authority), HASHES[authority.algorithm])
    )
    assert made.is_signature_valid(authority.public_key)
    assert not made.is_signature_valid(keys.generate_p256().public_key)
    (tmp_path / "list.pem").write_bytes(made.public_bytes(Encoding.PEM))
    (tmp_path / "ca.pem").write_bytes(certificate(authority).public_bytes(Encoding.PEM))
    said = openssl(tmp_path, "crl", "-in", "list.pem", "-CAfile", "ca.pem", "-noout")
    assert "verify OK" in said


@pytest.mark.needs("softhsm2", "openssl")
def test_an_ocsp_answer_signed_in_a_token_stands(token: SoftHsm, tmp_path: Path) -> None:
    for algorithm in (keys.Algorithm.ES256, keys.Algorithm.ES384):
        authority = open_provider(token.uri(algorithm.value))
        issuer = certificate(authority)
        builder = ocsp.OCSPResponseBuilder().add_response(
            issuer, issuer, hashes.SHA256(), ocsp.OCSPCertStatus.GOOD, NOW, NOW + DAY, None, None
        )
        made = (
            builder.responder_id(ocsp.OCSPResponderEncoding.HASH, issuer)
            .certificates([issuer])
            .sign(private_key(authority), HASHES[algorithm])
        )
        assert isinstance(authority.public_key, ec.EllipticCurvePublicKey)
        assert made.signature_hash_algorithm is not None
        authority.public_key.verify(
            made.signature, made.tbs_response_bytes, ec.ECDSA(made.signature_hash_algorithm)
        )
        (tmp_path / "answer.der").write_bytes(made.public_bytes(Encoding.DER))
        (tmp_path / "ca.pem").write_bytes(issuer.public_bytes(Encoding.PEM))
        said = openssl(
            tmp_path, "ocsp", "-respin", "answer.der", "-CAfile", "ca.pem", "-issuer", "ca.pem", "-sha256",
            "-cert", "ca.pem", "-partial_chain", "-attime", str(int((NOW + DAY / 2).timestamp())),
        )  # fmt: skip
        assert "Response verify OK" in said
        assert "ca.pem: good" in said or "WARNING: Status times invalid" in said


def test_a_key_in_memory_signs_through_the_adapter_as_well() -> None:
    for make in (keys.generate_p256, keys.generate_p384, keys.generate_ed25519):
        made = certificate(make())
        made.verify_directly_issued_by(made)


def test_another_hash_than_the_keys_own_is_refused() -> None:
    for make, digest in ((keys.generate_p256, hashes.SHA384()), (keys.generate_p384, hashes.SHA256())):
        builder = x509.CertificateSigningRequestBuilder(NAME)
        with pytest.raises(KeyNotOursError):
            builder.sign(private_key(make()), digest)


def test_an_error_of_the_provider_leaves_the_builder_and_nothing_is_built() -> None:
    class Gone:
        keeping = keys.Keeping.TOKEN
        algorithm = keys.Algorithm.ES256
        public_key = keys.generate_p256().public_key

        def sign(self, data: bytes) -> bytes:
            raise KeyGoneError(f"gone before {len(data)} bytes were signed")

        def close(self) -> None:
            """Nothing is open."""

    with pytest.raises(KeyGoneError, match="gone before"):
        certificate(Gone())


@pytest.mark.parametrize("make", [keys.generate_p256, keys.generate_ed25519])
def test_the_adapted_key_signs_and_does_nothing_else(make) -> None:
    provider = make()
    adapted: Any = private_key(provider)
    assert adapted.public_key() == provider.public_key
    assert copy.copy(adapted) is adapted
    assert copy.deepcopy(adapted) is adapted
    with pytest.raises(KeyNotOursError):
        adapted.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    if isinstance(adapted, ed25519.Ed25519PrivateKey):
        provider.public_key.verify(adapted.sign(b"x"), b"x")
        with pytest.raises(KeyNotOursError):
            adapted.private_bytes_raw()
        return
    assert (adapted.key_size, adapted.curve.name) == (256, "secp256r1")
    signature = adapted.sign(b"x", ec.ECDSA(hashes.SHA256()))
    provider.public_key.verify(signature, b"x", ec.ECDSA(hashes.SHA256()))
    with pytest.raises(InvalidSignature):
        provider.public_key.verify(signature, os.urandom(4), ec.ECDSA(hashes.SHA256()))
    with pytest.raises(KeyNotOursError):
        adapted.exchange(ec.ECDH(), keys.generate_p256().public_key)
    with pytest.raises(KeyNotOursError):
        adapted.private_numbers()
