import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from authn import der, identity, keys
from authn.errors import CertificateError
from authn.profile import Profile
from authn.timestamp.request import TimeStampRequest, encode_imprint
from authn.timestamp.token import check_token
from authn.trust import Purpose, TrustList

# The library warns of names and numbers that break RFC 5280; for us they are an answer.
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")

MESSAGE = b"the signature of a claim"
TST_INFO = der.oid("1.2.840.113549.1.9.16.1.4")
SHA256 = der.sequence(der.oid("2.16.840.1.101.3.4.2.1"))
ECDSA_SHA256 = der.sequence(der.oid("1.2.840.10045.4.3.2"))


def attribute(oid: str, *values: bytes) -> bytes:
    return der.sequence(der.oid(oid), der.tagged(der.SET, *values))


def named(certificate: x509.Certificate, *, name: str = "sha256", digest: bytes | None = None) -> bytes:
    """A signingCertificateV2 that names `certificate` (RFC 5035)."""
    raw = certificate.public_bytes(Encoding.DER)
    algorithm = b"" if name == "sha256" else encode_imprint(name, hashlib.new(name).digest())[2:17]
    found = hashlib.new(name, raw).digest() if digest is None else digest
    return attribute(
        "1.2.840.113549.1.9.16.2.47", der.sequence(der.sequence(der.sequence(algorithm, der.octets(found))))
    )


@dataclass(frozen=True, slots=True)
class FaultyAuthority:
    """Makes tokens by hand, with whatever fault a test wants; without one they are good."""

    sign: Callable[[bytes], bytes]
    leaf: x509.Certificate
    gen_time: datetime
    signer: x509.Certificate | None = None
    certificates: tuple[x509.Certificate, ...] | None = None
    message: bytes = MESSAGE
    hash: str = "sha256"
    extra: tuple[bytes, ...] = ()
    naming: bytes | None = field(default=None)
    kind: bytes = TST_INFO
    content_type: bytes = TST_INFO
    digest: bytes | None = None
    after: bytes = b""
    before_time: bytes = b""
    signature_algorithm: bytes = ECDSA_SHA256
    signer_copies: int = 1
    version: int = 3

    def token(self) -> bytes:
        statement = der.sequence(
            der.integer(1),
            der.oid("1.2.3.4"),
            encode_imprint(self.hash, hashlib.new(self.hash, self.message).digest()),
            der.integer(77),
            der.generalized_time(self.gen_time),
            self.after,
        )
        naming = named(self.leaf) if self.naming is None else self.naming
        digest = hashlib.sha256(statement).digest() if self.digest is None else self.digest
        attributes = sorted(
            part
            for part in (
                attribute("1.2.840.113549.1.9.3", self.content_type),
                attribute("1.2.840.113549.1.9.4", der.octets(digest)),
                naming,
                *self.extra,
            )
            if part
        )
        who = self.signer or self.leaf
        signer = der.sequence(
            der.integer(1),
            der.sequence(who.issuer.public_bytes(), der.integer(who.serial_number)),
            SHA256,
            der.tagged(0xA0, *attributes),
            self.signature_algorithm,
            der.octets(self.sign(der.tagged(der.SET, *attributes))),
        )
        held = (self.leaf,) if self.certificates is None else self.certificates
        return der.sequence(
            der.oid("1.2.840.113549.1.7.2"),
            der.tagged(
                0xA0,
                der.sequence(
                    der.integer(self.version),
                    der.set_of(SHA256),
                    der.sequence(self.kind, der.tagged(0xA0, der.octets(statement))),
                    der.tagged(0xA0, *sorted(item.public_bytes(Encoding.DER) for item in held)),
                    der.set_of(*[signer] * self.signer_copies),
                ),
            ),
        )


@pytest.fixture
def make(stamp_kit) -> Callable[..., bytes]:
    def token(**faults) -> bytes:
        wanted = {
            "sign": lambda data: stamp_kit.key.private.sign(data, ec.ECDSA(hashes.SHA256())),
            "leaf": stamp_kit.leaf,
            "gen_time": stamp_kit.at,
        } | faults
        return FaultyAuthority(**wanted).token()

    return token


@pytest.fixture
def failed(stamp_kit) -> Callable[..., set[str]]:
    """The rules a token breaks."""

    def rules(token: bytes, message: bytes = MESSAGE, at: datetime | None = None, listed=None) -> set[str]:
        evidence = check_token(token, message, (listed or stamp_kit.time_stampers,), at or stamp_kit.at)
        broken = {finding.rule for finding in evidence.findings if not finding.passed}
        assert evidence.proven is not bool(broken)
        assert bool(evidence.reason) is bool(broken)
        return broken

    return rules


OTHER = "second-implementation-agrees"


def test_a_token_made_by_hand_is_proven(make, failed, stamp_kit) -> None:
    assert failed(make()) == set()
    evidence = check_token(make(), MESSAGE, (stamp_kit.time_stampers,), stamp_kit.at)
    assert (evidence.gen_time, evidence.serial, evidence.policy) == (stamp_kit.at, 77, "1.2.3.4")
    assert (evidence.authority, evidence.accuracy) == ("Lab Clock 1", None)


@pytest.mark.parametrize("name", ["sha256", "sha384", "sha512"])
def test_each_accepted_hash_can_date_a_message(make, failed, name: str) -> None:
    assert failed(make(hash=name)) == set()


def test_other_bytes_are_not_dated(make, failed) -> None:
    assert failed(make(), b"other") == {"imprint-matches", OTHER}
    assert failed(make(message=b"other")) == {"imprint-matches", OTHER}


def test_a_weak_hash_dates_nothing(make, failed, stamp_kit) -> None:
    imprint = der.sequence(der.sequence(der.oid("1.3.14.3.2.26")), der.octets(hashlib.sha1(MESSAGE).digest()))  # noqa: S324
    good = encode_imprint("sha256", hashlib.sha256(MESSAGE).digest())
    weak = der.sequence(
        der.integer(1), der.oid("1.2.3.4"), imprint, der.integer(77), der.generalized_time(stamp_kit.at)
    )
    strong = der.sequence(
        der.integer(1), der.oid("1.2.3.4"), good, der.integer(77), der.generalized_time(stamp_kit.at)
    )
    assert len(weak) != len(strong)
    token = make(digest=hashlib.sha256(weak).digest())
    rebuilt = _replace_content(token, weak)
    assert {"imprint-matches"} <= failed(rebuilt)
    assert "statement-signed" not in failed(rebuilt)


def _replace_content(token: bytes, statement: bytes) -> bytes:
    envelope = der.parse(token).children()
    parts = list(envelope[1].children()[0].children())
    replaced = der.sequence(TST_INFO, der.tagged(0xA0, der.octets(statement)))
    body = [replaced if position == 2 else part.encoded for position, part in enumerate(parts)]
    return der.sequence(envelope[0].encoded, der.tagged(0xA0, der.sequence(*body)))


def test_a_stamper_outside_the_list_proves_nothing(make, failed, signer_kit) -> None:
    stranger = TrustList.parse(
        identity.pem_chain(signer_kit.root), "strangers", Purpose.TIME_STAMPING, Profile.TIME_STAMPING
    )
    assert failed(make(), listed=stranger) == {"authority-chain", OTHER}
    assert failed(make(), listed=TrustList.empty(Purpose.TIME_STAMPING)) == {"authority-chain", OTHER}


def test_a_list_for_signing_is_not_even_looked_at(make, signer_kit) -> None:
    with pytest.raises(CertificateError):
        check_token(make(), MESSAGE, (signer_kit.signers,), signer_kit.at)


@pytest.mark.parametrize(
    ("purposes", "critical", "others"),
    [
        ([ExtendedKeyUsageOID.TIME_STAMPING], False, {OTHER}),
        ([ExtendedKeyUsageOID.TIME_STAMPING, ExtendedKeyUsageOID.CODE_SIGNING], True, None),
        ([ExtendedKeyUsageOID.EMAIL_PROTECTION], True, {OTHER}),
    ],
)
def test_a_certificate_for_more_than_time_stamping_dates_nothing(
    make, failed, stamp_kit, remake, purposes, critical, others
) -> None:
    leaf = remake(stamp_kit.leaf, stamp_kit.root_key, put=[(x509.ExtendedKeyUsage(purposes), critical)])
    broken = failed(make(leaf=leaf))
    assert "authority-profile" in broken
    assert others is None or broken == {"authority-profile", *others}


def test_a_signature_that_names_no_certificate_is_caught_by_us_alone(make, failed) -> None:
    assert failed(make(naming=b"")) == {"certificate-named"}


def test_a_signature_that_names_another_certificate_is_caught_by_us_alone(make, failed, stamp_kit) -> None:
    assert failed(make(naming=named(stamp_kit.root))) == {"certificate-named"}
    assert failed(make(naming=named(stamp_kit.leaf, digest=b"x" * 32))) == {"certificate-named"}


def test_a_certificate_may_be_named_by_a_longer_hash(make, failed, stamp_kit) -> None:
    assert failed(make(naming=named(stamp_kit.leaf, name="sha384"))) == set()


def test_the_old_name_by_sha1_alone_is_not_enough(make, failed, stamp_kit) -> None:
    sha1 = hashlib.sha1(stamp_kit.leaf.public_bytes(Encoding.DER)).digest()  # noqa: S324
    old = attribute("1.2.840.113549.1.9.16.2.12", der.sequence(der.sequence(der.sequence(der.octets(sha1)))))
    assert failed(make(naming=old)) == {"certificate-named"}


def test_a_twin_certificate_with_the_same_key_is_told_apart(make, failed, stamp_kit, remake) -> None:
    twin = remake(stamp_kit.leaf, stamp_kit.root_key)
    assert failed(make(leaf=twin, naming=named(stamp_kit.leaf))) == {"certificate-named"}


def test_two_clocks_in_one_token_must_agree(make, failed, stamp_kit) -> None:
    def signing_time(moment: datetime) -> bytes:
        text = moment.strftime("%y%m%d%H%M%SZ").encode()
        return attribute("1.2.840.113549.1.9.5", der.tagged(der.UTC_TIME, text))

    assert failed(make(extra=(signing_time(stamp_kit.at),))) == set()
    assert failed(make(extra=(signing_time(stamp_kit.at - timedelta(seconds=1)),))) == {"signing-time-agrees"}
    assert failed(make(extra=(signing_time(stamp_kit.at - timedelta(days=8)),))) == {"signing-time-agrees"}


def test_a_time_in_the_future_is_not_proven(make, failed, stamp_kit) -> None:
    minute = timedelta(seconds=60)
    assert failed(make(gen_time=stamp_kit.at + minute)) == set()
    assert failed(make(gen_time=stamp_kit.at + minute + timedelta(seconds=1))) == {"time-not-in-future"}


def test_a_certificate_that_expired_since_still_dates(make, failed, stamp_kit, remake) -> None:
    day = timedelta(days=1)
    leaf = remake(
        stamp_kit.leaf, stamp_kit.root_key, not_before=stamp_kit.at, not_after=stamp_kit.at + 2 * day
    )
    token = make(leaf=leaf, gen_time=stamp_kit.at + day)
    assert failed(token, at=stamp_kit.at + 900 * day) == set()


def test_a_time_outside_the_certificates_dates_is_not_proven(make, failed, stamp_kit, remake) -> None:
    day = timedelta(days=1)
    leaf = remake(
        stamp_kit.leaf, stamp_kit.root_key, not_before=stamp_kit.at, not_after=stamp_kit.at + 2 * day
    )
    for moment in (stamp_kit.at + 3 * day, stamp_kit.at - timedelta(minutes=59)):
        broken = failed(make(leaf=leaf, gen_time=moment), at=stamp_kit.at + 9 * day)
        assert {"authority-profile", "authority-chain"} <= broken


@pytest.mark.parametrize(
    ("fault", "rules"),
    [
        ({"content_type": der.oid("1.2.840.113549.1.7.1")}, {"content-type-signed"}),
        ({"digest": b"x" * 32}, {"statement-signed", OTHER}),
        ({"sign": lambda _: b"\x30\x06\x02\x01\x01\x02\x01\x01"}, {"signature-valid", OTHER}),
        ({"sign": lambda _: b""}, {"signature-valid", OTHER}),
        ({"certificates": ()}, {"signer-present"}),
        ({"version": 1}, {"token-well-formed"}),
        ({"signer_copies": 0}, {"token-well-formed"}),
        ({"signer_copies": 2}, {"token-well-formed"}),
        ({"kind": der.oid("1.2.840.113549.1.7.1")}, {"token-well-formed"}),
        ({"after": der.tagged(0xA1, b"")}, {"token-well-formed"}),
        ({"after": der.sequence(der.integer(-1))}, {"token-well-formed"}),
        ({"after": der.sequence(der.tagged(0x80, b"\x03\xe8"))}, {"token-well-formed"}),
    ],
)  # fmt: skip
def test_one_fault_breaks_its_rule(make, failed, fault, rules) -> None:
    assert failed(make(**fault)) - {OTHER} == rules - {OTHER}


def test_an_attribute_that_stands_twice_is_refused(make, failed) -> None:
    doubled = attribute("1.2.840.113549.1.9.4", der.octets(b"x" * 32))
    assert failed(make(extra=(doubled,))) == {"token-well-formed"}


def test_another_key_than_the_certificates_signs_nothing(make, failed) -> None:
    stranger = keys.generate_p256()
    token = make(sign=lambda data: stranger.private.sign(data, ec.ECDSA(hashes.SHA256())))
    assert failed(token) == {"signature-valid", OTHER}


@pytest.mark.parametrize("oid", ["1.2.840.113549.1.1.11", "1.2.840.113549.1.1.1"])
def test_an_rsa_stamper_is_accepted(make, failed, stamp_kit, remake, oid: str) -> None:
    key = rsa.generate_private_key(65537, 2048)
    leaf = remake(
        stamp_kit.leaf,
        stamp_kit.root_key,
        public_key=key.public_key(),
        put=[(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), False)],
    )
    token = make(
        leaf=leaf,
        sign=lambda data: key.sign(data, padding.PKCS1v15(), hashes.SHA256()),
        signature_algorithm=der.sequence(der.oid(oid), der.tagged(der.NULL)),
    )
    assert failed(token) == set()


def test_accuracy_is_read_in_all_three_units(make, stamp_kit) -> None:
    accuracy = der.sequence(der.integer(2), der.tagged(0x80, b"\x05"), der.tagged(0x81, b"\x07"))
    evidence = check_token(make(after=accuracy), MESSAGE, (stamp_kit.time_stampers,), stamp_kit.at)
    assert evidence.proven
    assert evidence.accuracy == timedelta(seconds=2, milliseconds=5, microseconds=7)


def test_a_chain_with_an_authority_between_is_followed(make, failed, stamp_kit, remake) -> None:
    key = keys.generate_p384()
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "Lab Clocks Between")])
    roomy = remake(
        stamp_kit.root, stamp_kit.root_key, put=[(x509.BasicConstraints(ca=True, path_length=1), True)]
    )
    between = remake(
        roomy,
        stamp_kit.root_key,
        subject=name,
        public_key=key.public_key,
        put=[
            (x509.BasicConstraints(ca=True, path_length=0), True),
            (x509.SubjectKeyIdentifier.from_public_key(key.public_key), False),
        ],
    )
    leaf = remake(
        stamp_kit.leaf,
        key,
        issuer=name,
        put=[(x509.AuthorityKeyIdentifier.from_issuer_public_key(key.public_key), False)],
    )
    listed = TrustList.parse(identity.pem_chain(roomy), "lab", Purpose.TIME_STAMPING, Profile.TIME_STAMPING)
    assert failed(make(leaf=leaf, certificates=(leaf, between)), listed=listed) == set()
    assert "authority-chain" in failed(make(leaf=leaf), listed=listed)


def test_an_authority_for_signers_cannot_vouch_for_a_clock(
    make, failed, stamp_kit, signer_kit, remake
) -> None:
    leaf = remake(
        stamp_kit.leaf,
        signer_kit.issuing_key,
        issuer=signer_kit.issuing.subject,
        put=[(x509.AuthorityKeyIdentifier.from_issuer_public_key(signer_kit.issuing_key.public_key), False)],
    )
    listed = TrustList.parse(
        identity.pem_chain(signer_kit.root), "mixed up", Purpose.TIME_STAMPING, Profile.TIME_STAMPING
    )
    token = make(leaf=leaf, certificates=(leaf, signer_kit.issuing))
    assert failed(token, listed=listed) - {OTHER} == {"authority-chain"}


def test_every_flipped_bit_of_a_token_breaks_it_or_changes_nothing_it_says(stamp_kit) -> None:
    """A flip outside what the signature covers may go unseen, but then the evidence is the same.

    Not covered are: the list of digest algorithms, the parameters of algorithms,
    and whatever an attacker could also leave out.
    """
    reply = stamp_kit.authority(lambda: stamp_kit.at).respond(
        TimeStampRequest(hashlib.sha256(MESSAGE).digest(), nonce=5).encode()
    )
    token = der.parse(reply).children()[1].encoded
    good = check_token(token, MESSAGE, (stamp_kit.time_stampers,), stamp_kit.at)
    assert good.proven
    unseen = 0
    for position in range(len(token)):
        flipped = bytearray(token)
        flipped[position] ^= 1 << (position * 5 % 8)
        found = check_token(bytes(flipped), MESSAGE, (stamp_kit.time_stampers,), stamp_kit.at)
        if found.proven:
            unseen += 1
            assert found == good
    assert unseen <= 8


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(data=st.data())
def test_a_mangled_token_is_an_answer_and_never_an_error(stamp_kit, make, data) -> None:
    token = bytearray(make())
    for _ in range(data.draw(st.integers(1, 4))):
        start = data.draw(st.integers(0, 2000)) % len(token)
        token[start : start + data.draw(st.integers(0, 8))] = data.draw(st.binary(max_size=8))
    evidence = check_token(bytes(token), MESSAGE, (stamp_kit.time_stampers,), stamp_kit.at)
    assert evidence.proven is (evidence.reason == "")


@given(st.binary(max_size=200))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_hostile_bytes_are_an_answer_and_never_an_error(stamp_kit, data: bytes) -> None:
    for token in (data, der.sequence(der.oid("1.2.840.113549.1.7.2"), der.tagged(0xA0, der.sequence(data)))):
        assert not check_token(token, MESSAGE, (stamp_kit.time_stampers,), stamp_kit.at).proven


def test_a_token_over_the_limit_is_not_read(stamp_kit) -> None:
    evidence = check_token(b"\x30" * (65 << 10), MESSAGE, (stamp_kit.time_stampers,), stamp_kit.at)
    assert evidence.reason == "the time-stamp token cannot be read: more than 65536 bytes"


@pytest.mark.parametrize("case", ["sha256", "sha384", "sha512", "invalid-signature"])
def test_the_tokens_of_a_public_authority_are_judged_rightly(shared, case: str) -> None:
    folder = shared / "vectors" / "tlog" / "tsa" / "sigstage"
    root = x509.load_pem_x509_certificates((folder / "ts_chain.pem").read_bytes())[1]
    listed = TrustList.parse(
        identity.pem_chain(root), "sigstage", Purpose.TIME_STAMPING, Profile.TIME_STAMPING
    )
    reply = (folder / f"response-{case}.tsr").read_bytes()
    token = der.parse(reply).children()[1].encoded
    at = datetime(2026, 1, 1, tzinfo=UTC)
    evidence = check_token(token, b"hello", (listed,), at)
    assert evidence.proven is (case != "invalid-signature"), evidence.reason
    assert evidence.authority == "sigstore-tsa"
    assert not check_token(token, b"hello!", (listed,), at).proven
