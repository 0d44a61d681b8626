"""Identities made for one run of the tests: a signer's chain and, apart from it, a time-stamper's."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes

from authn import identity, keys
from authn.profile import Profile
from authn.timestamp.authority import Authority, Safeguards, never_doubt, no_floor, serials_from
from authn.trust import Purpose, TrustList

STAMPING_POLICY = "1.3.6.1.4.1.62558.1.1"
OCSP_URL = "http://127.0.0.1:8888/ocsp/"


@dataclass(frozen=True, slots=True)
class SignerKit:
    """A root, an issuing authority and a device."""

    at: datetime
    root_key: keys.SigningKey
    root: x509.Certificate
    issuing_key: keys.SigningKey
    issuing: x509.Certificate
    key: keys.SigningKey
    leaf: x509.Certificate

    @property
    def chain(self) -> tuple[x509.Certificate, ...]:
        return (self.leaf, self.issuing)

    @property
    def signers(self) -> TrustList:
        return TrustList.parse(identity.pem_chain(self.root), "lab", Purpose.SIGNING, Profile.POLICY)


@dataclass(frozen=True, slots=True)
class StampKit:
    """A time-stamp root and a unit."""

    at: datetime
    root_key: keys.SigningKey
    root: x509.Certificate
    key: keys.SigningKey
    leaf: x509.Certificate

    @property
    def time_stampers(self) -> TrustList:
        return TrustList.parse(
            identity.pem_chain(self.root), "lab clock", Purpose.TIME_STAMPING, Profile.TIME_STAMPING
        )

    def authority(self, clock: Callable[[], datetime] | None = None) -> Authority:
        return Authority(
            self.key,
            (self.leaf,),
            STAMPING_POLICY,
            clock or (lambda: datetime.now(UTC)),
            serials_from(time.time_ns()),
            Safeguards(never_doubt, no_floor),
        )


def _serial() -> int:
    return x509.random_serial_number() | 1 << 64


@pytest.fixture(scope="session")
def signer_kit() -> SignerKit:
    at = datetime.now(UTC).replace(microsecond=0)
    root_key, issuing_key, key = keys.generate_p384(), keys.generate_p384(), keys.generate_p256()
    name = identity.Subject("DE", "Lightseal Lab", "Lab Root")
    root = identity.plan_root(name, root_key.public_key, _serial(), at).sign(root_key)
    issuing = identity.plan_issuing_ca(
        identity.Subject("DE", "Lightseal Lab", "Lab Devices 1"),
        issuing_key.public_key,
        _serial(),
        at,
        issuer=root,
        ocsp_url=OCSP_URL,
    ).sign(root_key)
    leaf = identity.plan_claim_signing(
        identity.Subject("DE", "Lightseal Lab", "Lab Camera"),
        key.public_key,
        _serial(),
        at,
        issuer=issuing,
        ocsp_url=OCSP_URL,
    ).sign(issuing_key)
    return SignerKit(at, root_key, root, issuing_key, issuing, key, leaf)


@pytest.fixture(scope="session")
def stamp_kit() -> StampKit:
    at = datetime.now(UTC).replace(microsecond=0)
    root_key, key = keys.generate_p384(), keys.generate_p256()
    name = identity.Subject("DE", "Lightseal Lab", "Lab Clock Root")
    root = identity.plan_time_stamping_root(name, root_key.public_key, _serial(), at).sign(root_key)
    leaf = identity.plan_time_stamping(
        identity.Subject("DE", "Lightseal Lab", "Lab Clock 1"),
        key.public_key,
        _serial(),
        at,
        issuer=root,
        ocsp_url=OCSP_URL,
    ).sign(root_key)
    return StampKit(at, root_key, root, key, leaf)


Remake = Callable[..., x509.Certificate]


@pytest.fixture(scope="session")
def remake() -> Remake:
    """Make a certificate again with something changed: the way flawed ones are made here."""

    def make(
        certificate: x509.Certificate,
        issuer_key: keys.SigningKey,
        *,
        put: Sequence[tuple[x509.ExtensionType, bool]] = (),
        drop: Sequence[x509.ObjectIdentifier] = (),
        subject: x509.Name | None = None,
        issuer: x509.Name | None = None,
        public_key: object = None,
        not_before: datetime | None = None,
        not_after: datetime | None = None,
        digest: hashes.HashAlgorithm | None = None,
    ) -> x509.Certificate:
        builder = (
            x509.CertificateBuilder()
            .subject_name(certificate.subject if subject is None else subject)
            .issuer_name(certificate.issuer if issuer is None else issuer)
            .public_key(public_key or certificate.public_key())
            .serial_number(_serial())
            .not_valid_before(not_before or certificate.not_valid_before_utc)
            .not_valid_after(not_after or certificate.not_valid_after_utc)
        )
        left_out = {*drop, *(value.oid for value, _ in put)}
        for extension in certificate.extensions:
            if extension.oid not in left_out:
                builder = builder.add_extension(extension.value, extension.critical)
        for value, critical in put:
            builder = builder.add_extension(value, critical)
        return builder.sign(issuer_key.private, digest or hashes.SHA384())

    return make
