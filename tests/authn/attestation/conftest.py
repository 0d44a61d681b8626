"""Phones and makers of our own: chains and attestations with one thing wrong at a time."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

import cbor2
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from authn import der
from authn.attestation import android, app_attest
from authn.attestation.key_description import Package
from authn.attestation.status_list import StatusList

AT = datetime(2026, 11, 20, 12, tzinfo=UTC)
CHALLENGE = b"a challenge of thirty-two bytes.."
PACKAGE = Package("org.lightseal.camera", 7)
SIGNER = hashlib.sha256(b"the signer of the app").digest()
DEVICE_SERIAL = 0xC0FFEE


def explicit(number: int, *parts: bytes) -> bytes:
    """[number] EXPLICIT (X.690, 8.1.2.4): high numbers in groups of seven bits."""
    if number < 31:
        return der.tagged(0xA0 | number, *parts)
    groups = [number & 0x7F]
    while number := number >> 7:
        groups.append(number & 0x7F | 0x80)
    return b"\xbf" + bytes(reversed(groups)) + der.tagged(0, *parts)[1:]


def application(packages: Sequence[Package] = (PACKAGE,), signers: Sequence[bytes] = (SIGNER,)) -> bytes:
    named = [der.sequence(der.octets(p.name.encode()), der.integer(p.version)) for p in packages]
    return der.octets(der.sequence(der.set_of(*named), der.set_of(*map(der.octets, signers))))


def root_of_trust(locked: bytes = b"\xff", state: int = 0, key: bytes = b"boot key") -> bytes:
    return der.sequence(
        der.octets(key),
        der.tagged(1, locked),
        der.tagged(10, bytes([state])),
        der.octets(b"boot hash"),
    )


HARDWARE: dict[int, bytes] = {
    1: der.set_of(der.integer(2)),
    2: der.integer(3),
    3: der.integer(256),
    5: der.set_of(der.integer(4)),
    10: der.integer(1),
    503: der.tagged(5),
    702: der.integer(0),
    704: root_of_trust(),
    705: der.integer(160000),
    706: der.integer(202611),
    718: der.integer(20261105),
    719: der.integer(20261100),
}
SOFTWARE: dict[int, bytes] = {701: der.integer(1_771_979_841_867), 709: application()}


def authorizations(values: Mapping[int, bytes | None]) -> bytes:
    return b"".join(explicit(number, value) for number, value in values.items() if value is not None)


def _name(*pairs: tuple[x509.ObjectIdentifier, str]) -> x509.Name:
    return x509.Name([x509.NameAttribute(oid, value) for oid, value in pairs])


def _common(name: str) -> x509.Name:
    return _name((NameOID.COMMON_NAME, name), (NameOID.ORGANIZATION_NAME, "Google LLC"))


@dataclass(frozen=True)
class Party:
    name: x509.Name
    key: ec.EllipticCurvePrivateKey

    def certify(
        self,
        subject: "Party",
        serial: int,
        days: tuple[float, float] = (-30, 30),
        extensions: Sequence[x509.ExtensionType] = (),
        *,
        authority: bool | None = True,
        digest: hashes.HashAlgorithm | None = None,
    ) -> bytes:
        """A certificate; `days` are from AT, and `authority` None leaves the constraints out."""
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject.name)
            .issuer_name(self.name)
            .public_key(subject.key.public_key())
            .serial_number(serial)
            .not_valid_before(AT + timedelta(days=days[0]))
            .not_valid_after(AT + timedelta(days=days[1]))
        )
        if authority is not None:
            builder = builder.add_extension(x509.BasicConstraints(authority, None), critical=True)
        for extension in extensions:
            builder = builder.add_extension(extension, critical=False)
        return builder.sign(self.key, digest or hashes.SHA256()).public_bytes(serialization.Encoding.DER)


def _party(name: x509.Name, curve: ec.EllipticCurve) -> Party:
    return Party(name, ec.generate_private_key(curve))


def _spki(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.public_key().public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )


@dataclass(frozen=True)
class AndroidMaker:
    """A maker's root, its authorities, and one phone with one key."""

    root: Party = field(default_factory=lambda: _party(_common("Root"), ec.SECP384R1()))
    upper: Party = field(default_factory=lambda: _party(_common("Droid CA2"), ec.SECP384R1()))
    lower: Party = field(default_factory=lambda: _party(_common("Droid CA3"), ec.SECP256R1()))
    batch: Party = field(
        default_factory=lambda: _party(_name((NameOID.SERIAL_NUMBER, "87f4")), ec.SECP256R1())
    )
    device: Party = field(default_factory=lambda: _party(_common("device"), ec.SECP256R1()))
    key: Party = field(default_factory=lambda: _party(_common("Android Keystore Key"), ec.SECP256R1()))
    other: Party = field(default_factory=lambda: _party(_common("attacker"), ec.SECP256R1()))

    @property
    def spki(self) -> bytes:
        return _spki(self.key.key)

    @staticmethod
    def boot(key: bytes) -> dict[int, bytes]:
        """What the hardware's list says of a verified boot with this key."""
        return {704: root_of_trust(key=key)}

    @staticmethod
    def describe(
        hardware: Mapping[int, bytes | None] | None = None,
        software: Mapping[int, bytes | None] | None = None,
        levels: tuple[int, int] = (1, 1),
        challenge: bytes = CHALLENGE,
        extra: bytes = b"",
    ) -> bytes:
        """A KeyDescription; `extra` is added to the hardware's list as it is, None leaves a tag out."""
        return der.sequence(
            der.integer(300),
            der.tagged(10, bytes([levels[0]])),
            der.integer(300),
            der.tagged(10, bytes([levels[1]])),
            der.octets(challenge),
            der.octets(b""),
            der.sequence(authorizations({**SOFTWARE, **(software or {})})),
            der.sequence(authorizations({**HARDWARE, **(hardware or {})}), extra),
        )

    def leaf(self, description: bytes | None, days: tuple[float, float] = (-19000, 8000)) -> bytes:
        statement = (
            [] if description is None else [x509.UnrecognizedExtension(android.STATEMENT, description)]
        )
        return self.device.certify(self.key, 1, days, statement, authority=None)

    def remote(self, leaf: bytes, days: tuple[float, float] = (-5, 5)) -> list[bytes]:
        """The chain of a key provisioned over the network; `days` are the device certificate's."""
        return [
            leaf,
            self.lower.certify(self.device, DEVICE_SERIAL, days),
            self.upper.certify(self.lower, 0xB2),
            self.root.certify(self.upper, 0xA1),
            self.root.certify(self.root, 0xF9),
        ]

    def factory(self, leaf: bytes, days: tuple[float, float] = (-4000, -400)) -> list[bytes]:
        """The chain of a key from the factory; the device certificate is none of an authority, as some are."""
        return [
            leaf,
            self.batch.certify(self.device, 0x16580768335559031605, days, authority=False),
            self.root.certify(self.batch, 0x3882667606589968575, days),
            self.root.certify(self.root, 0xF9, days),
        ]

    def expectation(self, **changes: object) -> android.Expectation:
        values: dict[str, object] = {
            "challenge": CHALLENGE,
            "spki": self.spki,
            "status": StatusList(AT),
            "rules": android.Rules(frozenset({PACKAGE}), frozenset({SIGNER})),
            "roots": frozenset({hashlib.sha256(_spki(self.root.key)).digest()}),
        }
        return android.Expectation(**{**values, **changes})  # type: ignore[arg-type]


@dataclass(frozen=True)
class AppleMaker:
    """A root of App Attest's shape, its authority, and one app's key."""

    root: Party = field(default_factory=lambda: _party(_common("App Root"), ec.SECP384R1()))
    authority: Party = field(default_factory=lambda: _party(_common("App CA 1"), ec.SECP384R1()))
    key: Party = field(default_factory=lambda: _party(_common("app key"), ec.SECP256R1()))
    app: str = "TEAM123456.org.lightseal.camera"
    client_data_hash: bytes = hashlib.sha256(b"challenge and request").digest()

    @property
    def key_id(self) -> bytes:
        point = self.key.key.public_key().public_bytes(
            serialization.Encoding.X962, serialization.PublicFormat.UncompressedPoint
        )
        return hashlib.sha256(point).digest()

    @property
    def spki(self) -> bytes:
        return _spki(self.key.key)

    def attest(self, **changes: object) -> bytes:
        """An attestation object; each change is named after the field it sets."""
        values = {
            "app": self.app,
            "counter": 0,
            "aaguid": b"appattest".ljust(16, b"\0"),
            "credential": self.key_id,
            "days": (-1, 1),
            "ca": True,
            "client_data_hash": self.client_data_hash,
            **changes,
        }
        statement = (
            hashlib.sha256(str(values["app"]).encode()).digest()
            + b"\x40"
            + int(str(values["counter"])).to_bytes(4, "big")
            + bytes(values["aaguid"])  # type: ignore[call-overload]
            + b"\x00\x20"
            + bytes(values["credential"])  # type: ignore[call-overload]
        )
        nonce = hashlib.sha256(statement + bytes(values["client_data_hash"])).digest()  # type: ignore[call-overload]
        extension = values.get("extension", der.sequence(der.tagged(0xA1, der.octets(nonce))))
        leaf = self.authority.certify(
            self.key,
            5,
            values["days"],  # type: ignore[arg-type]
            [x509.UnrecognizedExtension(app_attest.NONCE, extension)] if extension else [],  # type: ignore[arg-type]
            authority=False,
        )
        above = self.root.certify(self.authority, 6, authority=bool(values["ca"]))
        document = {
            "fmt": values.get("fmt", "apple-appattest"),
            "attStmt": {"x5c": values.get("x5c", [leaf, above]), "receipt": b"receipt"},
            "authData": values.get("statement", statement),
        }
        return cbor2.dumps(document)

    def certificate(self) -> x509.Certificate:
        return x509.load_der_x509_certificate(self.root.certify(self.root, 7))

    def assertion(self, counter: int, app: str | None = None) -> bytes:
        statement = hashlib.sha256((app or self.app).encode()).digest() + b"\x40" + counter.to_bytes(4, "big")
        nonce = hashlib.sha256(statement + self.client_data_hash).digest()
        signature = self.key.key.sign(nonce, ec.ECDSA(hashes.SHA256()))
        return cbor2.dumps({"signature": signature, "authenticatorData": statement})

    def expectation(self, **changes: object) -> app_attest.Expectation:
        values: dict[str, object] = {
            "client_data_hash": self.client_data_hash,
            "rules": app_attest.Rules(frozenset({self.app})),
            "root": self.certificate(),
        }
        return app_attest.Expectation(**{**values, **changes})  # type: ignore[arg-type]


@pytest.fixture(scope="session")
def at() -> datetime:
    return AT


@pytest.fixture(scope="session")
def maker() -> AndroidMaker:
    return AndroidMaker()


@pytest.fixture(scope="session")
def apple() -> AppleMaker:
    return AppleMaker()


@pytest.fixture(scope="session")
def attestation_vectors(shared: Path) -> Path:
    return shared / "vectors" / "attestation"
