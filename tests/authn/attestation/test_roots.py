import hashlib
import json
from importlib import resources
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from authn.attestation import roots
from authn.errors import CertificateError


def data_of(name: str) -> bytes:
    return resources.files("authn.attestation").joinpath(name).read_bytes()


@pytest.mark.parametrize(("name", "pins"), [("google.pem", roots.GOOGLE), ("apple.pem", roots.APPLE)])
def test_the_roots_that_lie_beside_are_the_ones_pinned(name: str, pins: tuple[roots.Pin, ...]) -> None:
    found = x509.load_pem_x509_certificates(data_of(name))
    assert [hashlib.sha256(c.public_bytes(Encoding.DER)).hexdigest() for c in found] == [
        pin.certificate for pin in pins
    ]
    spki = [c.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo) for c in found]
    assert [hashlib.sha256(key).hexdigest() for key in spki] == [pin.key for pin in pins]
    for certificate in found:
        certificate.verify_directly_issued_by(certificate)
    text = data_of(name).decode()
    assert all(line.startswith("#") for line in text.split("-----BEGIN")[0].splitlines())


def test_a_root_that_is_not_pinned_is_refused() -> None:
    google, apple = data_of("google.pem"), data_of("apple.pem")
    for data in (b"", apple, google + apple, google.replace(b"MIIFHDCC", b"MIIFHDCD"), google[:500]):
        with pytest.raises(CertificateError):
            roots.parse(data, roots.GOOGLE)


def test_the_apple_root_is_the_one_that_apple_names() -> None:
    root = roots.apple_root()
    assert root.subject.rfc4514_string() == "ST=California,O=Apple Inc.,CN=Apple App Attestation Root CA"
    assert roots.key_digest(root).hex() == roots.APPLE[0].key


def test_the_google_roots_are_those_of_the_publishers_list(attestation_vectors: Path) -> None:
    texts = json.loads((attestation_vectors / "android_real" / "roots.json").read_text())
    found = {roots.key_digest(x509.load_pem_x509_certificate(text.encode())) for text in texts}
    assert found == roots.google_keys()
    assert len(found) == 2
