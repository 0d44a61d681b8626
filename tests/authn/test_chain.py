import time
from datetime import timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import given
from hypothesis import strategies as st

from authn import keys
from authn.chain import MAX_PATH, build_chain, read_certificate, unreadable
from authn.errors import CertificateError
from authn.profile import Profile, check_profile

# The library warns of names and numbers that break RFC 5280; for us they are an answer.
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


def ca(path_length: int | None) -> tuple[x509.BasicConstraints, bool]:
    return (x509.BasicConstraints(ca=True, path_length=path_length), True)


def named(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, text)])


def identifies(key: keys.SigningKey) -> tuple[x509.SubjectKeyIdentifier, bool]:
    return (x509.SubjectKeyIdentifier.from_public_key(key.public_key), False)


def issued_by(key: keys.SigningKey) -> tuple[x509.AuthorityKeyIdentifier, bool]:
    return (x509.AuthorityKeyIdentifier.from_issuer_public_key(key.public_key), False)


def test_a_path_runs_from_leaf_to_anchor(signer_kit) -> None:
    found = build_chain(signer_kit.leaf, [signer_kit.issuing], [signer_kit.root], signer_kit.at)
    assert found.path == (signer_kit.leaf, signer_kit.issuing, signer_kit.root)
    assert found.reasons == ()
    assert found.reason == ""


def test_the_order_and_company_of_what_is_presented_do_not_matter(signer_kit, stamp_kit) -> None:
    presented = [stamp_kit.root, signer_kit.root, signer_kit.leaf, signer_kit.issuing, signer_kit.issuing]
    found = build_chain(signer_kit.leaf, presented, [stamp_kit.root, signer_kit.root], signer_kit.at)
    assert found.path == (signer_kit.leaf, signer_kit.issuing, signer_kit.root)


def test_an_authority_can_be_an_anchor(signer_kit) -> None:
    found = build_chain(signer_kit.leaf, [], [signer_kit.issuing], signer_kit.at)
    assert found.path == (signer_kit.leaf, signer_kit.issuing)


def test_nothing_is_believed_without_an_anchor(signer_kit, stamp_kit) -> None:
    for anchors in ([], [stamp_kit.root]):
        found = build_chain(signer_kit.leaf, [signer_kit.issuing, signer_kit.root], anchors, signer_kit.at)
        assert found.path is None
        assert found.reasons


def test_a_leaf_is_never_its_own_anchor(signer_kit, stamp_kit) -> None:
    assert build_chain(signer_kit.leaf, [], [signer_kit.leaf], signer_kit.at).path is None
    assert build_chain(stamp_kit.root, [], [stamp_kit.root], stamp_kit.at).path is None


def test_a_missing_authority_is_missed(signer_kit) -> None:
    found = build_chain(signer_kit.leaf, [], [signer_kit.root], signer_kit.at)
    assert found.reason == "no certificate of its issuer was presented or is listed"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"put": [(x509.BasicConstraints(ca=False, path_length=None), True)]}, "may not issue others"),
        ({"drop": [x509.BasicConstraints.oid]}, "may not issue others"),
        (
            {"put": [(x509.NameConstraints([x509.DNSName("example.org")], None), True)]},
            "not understood (2.5.29.30)",
        ),
        ({"put": [(x509.SubjectKeyIdentifier(b"x" * 20), False)]}, "key identifier is another"),
        ({"digest": hashes.SHA224()}, "algorithm that is not accepted"),
        ({"put": [(x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3"), b"\5\0"), True)]}, "(1.2.3)"),
    ],
)
def test_one_flaw_in_the_authority_breaks_the_path_and_is_named(signer_kit, remake, change, words) -> None:
    flawed = remake(signer_kit.issuing, signer_kit.root_key, **change)
    found = build_chain(signer_kit.leaf, [flawed], [signer_kit.root], signer_kit.at)
    assert found.path is None
    assert words in found.reason


def test_an_authority_whose_usage_lacks_certificates_breaks_the_path(signer_kit, remake) -> None:
    usage = signer_kit.leaf.extensions.get_extension_for_class(x509.KeyUsage).value
    flawed = remake(signer_kit.issuing, signer_kit.root_key, put=[(usage, True)])
    found = build_chain(signer_kit.leaf, [flawed], [signer_kit.root], signer_kit.at)
    assert "key usage" in found.reason


def test_a_signature_by_another_key_breaks_the_path(signer_kit, remake) -> None:
    forged = remake(signer_kit.leaf, keys.generate_p384())
    found = build_chain(forged, [signer_kit.issuing], [signer_kit.root], signer_kit.at)
    assert "does not verify" in found.reason


def test_dates_count_for_all_but_the_anchor(signer_kit, remake) -> None:
    day = timedelta(days=1)
    past = {"not_before": signer_kit.at - 9 * day, "not_after": signer_kit.at - day}
    old_issuing = remake(signer_kit.issuing, signer_kit.root_key, **past)
    old_leaf = remake(signer_kit.leaf, signer_kit.issuing_key, **past)
    young_leaf = remake(signer_kit.leaf, signer_kit.issuing_key, not_before=signer_kit.at + day)
    old_root = remake(signer_kit.root, signer_kit.root_key, **past)
    at, anchors = signer_kit.at, [signer_kit.root]
    assert "an issuing certificate expired" in build_chain(signer_kit.leaf, [old_issuing], anchors, at).reason
    assert "the certificate expired" in build_chain(old_leaf, [signer_kit.issuing], anchors, at).reason
    assert "not valid before" in build_chain(young_leaf, [signer_kit.issuing], anchors, at).reason
    found = build_chain(signer_kit.leaf, [signer_kit.issuing], [old_root], at)
    assert found.path is not None
    assert found.anchor_expired(at)
    assert not build_chain(signer_kit.leaf, [signer_kit.issuing], anchors, at).anchor_expired(at)


def test_path_lengths_are_kept(signer_kit, remake) -> None:
    key = keys.generate_p384()
    below = remake(
        signer_kit.issuing,
        signer_kit.issuing_key,
        subject=named("below"),
        issuer=signer_kit.issuing.subject,
        public_key=key.public_key,
        put=[identifies(key), issued_by(signer_kit.issuing_key)],
    )
    leaf = remake(signer_kit.leaf, key, issuer=named("below"), put=[issued_by(key)])
    found = build_chain(leaf, [below, signer_kit.issuing], [signer_kit.root], signer_kit.at)
    assert "more authorities" in found.reason
    longer = remake(signer_kit.issuing, signer_kit.root_key, put=[ca(1)])
    roomy = remake(signer_kit.root, signer_kit.root_key, put=[ca(2)])
    assert build_chain(leaf, [below, longer], [roomy], signer_kit.at).path == (leaf, below, longer, roomy)
    assert build_chain(leaf, [below, longer], [signer_kit.root], signer_kit.at).path is None


def _ladder(signer_kit, remake, rungs: int):
    """Authorities one below the other, without limits of their own."""
    above, above_key = remake(signer_kit.root, signer_kit.root_key, put=[ca(None)]), signer_kit.root_key
    anchor, presented = above, []
    for rung in range(rungs):
        key = keys.generate_p384()
        above = remake(
            signer_kit.issuing,
            above_key,
            subject=named(f"rung {rung}"),
            issuer=above.subject,
            public_key=key.public_key,
            put=[ca(None), identifies(key), issued_by(above_key)],
        )
        presented.append(above)
        above_key = key
    leaf = remake(signer_kit.leaf, above_key, issuer=above.subject, put=[issued_by(above_key)])
    return leaf, presented, anchor


def test_a_path_has_at_most_six_certificates(signer_kit, remake) -> None:
    leaf, presented, anchor = _ladder(signer_kit, remake, MAX_PATH - 2)
    found = build_chain(leaf, presented, [anchor], signer_kit.at)
    assert found.path is not None
    assert len(found.path) == MAX_PATH
    leaf, presented, anchor = _ladder(signer_kit, remake, MAX_PATH - 1)
    assert "longer than 6" in build_chain(leaf, presented, [anchor], signer_kit.at).reason


def test_a_maze_of_authorities_costs_a_bounded_number_of_steps(signer_kit, remake) -> None:
    # Sixteen certificates with one name and one key, each issuer of every other: 16! paths.
    key = keys.generate_p384()
    maze = [
        remake(
            signer_kit.issuing,
            key,
            subject=named("maze"),
            issuer=named("maze"),
            public_key=key.public_key,
            put=[ca(None), identifies(key), issued_by(key)],
        )
        for _ in range(16)
    ]
    leaf = remake(signer_kit.leaf, key, issuer=named("maze"), put=[issued_by(key)])
    started = time.perf_counter()
    found = build_chain(leaf, maze, [signer_kit.root], signer_kit.at)
    assert "64 steps" in found.reason
    assert time.perf_counter() - started < 2


def test_a_weak_anchor_is_of_no_use(signer_kit, remake) -> None:
    weak = rsa.generate_private_key(65537, 1024)  # noqa: S505 - that is the flaw
    anchor = remake(
        signer_kit.root,
        signer_kit.root_key,
        public_key=weak.public_key(),
        put=[(x509.SubjectKeyIdentifier.from_public_key(weak.public_key()), False)],
    )
    issuing = remake(signer_kit.issuing, keys.SigningKey(weak, weak.public_key(), keys.Algorithm.ES256),
                     put=[(x509.AuthorityKeyIdentifier.from_issuer_public_key(weak.public_key()), False)],
                     digest=hashes.SHA256())  # fmt: skip
    found = build_chain(signer_kit.leaf, [issuing], [anchor], signer_kit.at)
    assert "only 1024 bits" in found.reason


def test_a_certificate_with_rubbish_inside_is_an_answer(signer_kit, remake) -> None:
    rubbish = remake(
        signer_kit.leaf,
        signer_kit.issuing_key,
        drop=[x509.KeyUsage.oid],
        put=[(x509.UnrecognizedExtension(x509.KeyUsage.oid, b"rubbish"), True)],
    )
    assert unreadable(rubbish) == "cannot be taken apart"
    found = build_chain(rubbish, [signer_kit.issuing], [signer_kit.root], signer_kit.at)
    assert found.reason == "the certificate cannot be taken apart"
    assert build_chain(signer_kit.leaf, [rubbish], [signer_kit.root], signer_kit.at).path is None


@pytest.mark.parametrize("serial", [0, -1])
def test_a_serial_number_that_is_not_positive_is_refused(signer_kit, serial: int) -> None:
    raw = signer_kit.leaf.public_bytes(Encoding.DER)
    own = signer_kit.leaf.serial_number.to_bytes(signer_kit.leaf.serial_number.bit_length() // 8 + 1, "big")
    with pytest.raises(CertificateError):
        read_certificate(raw.replace(own, serial.to_bytes(len(own), "big", signed=True)))


def test_a_version_that_does_not_exist_is_refused(signer_kit) -> None:
    raw = signer_kit.leaf.public_bytes(Encoding.DER)
    assert raw.count(bytes.fromhex("a003020102")) == 1
    with pytest.raises(CertificateError):
        read_certificate(raw.replace(bytes.fromhex("a003020102"), bytes.fromhex("a003020117")))


@given(st.lists(st.tuples(st.integers(0, 5000), st.integers(0, 255)), min_size=1, max_size=3))
def test_a_mangled_certificate_is_an_answer_or_our_own_error(
    signer_kit, changes: list[tuple[int, int]]
) -> None:
    raw = bytearray(signer_kit.leaf.public_bytes(Encoding.DER))
    for position, value in changes:
        raw[position % len(raw)] = value
    if bytes(raw) == signer_kit.leaf.public_bytes(Encoding.DER):
        return
    try:
        mangled = read_certificate(bytes(raw))
    except CertificateError:
        return
    chain = build_chain(mangled, [signer_kit.issuing], [signer_kit.root], signer_kit.at)
    assert chain.path is None
    assert build_chain(signer_kit.leaf, [mangled], [signer_kit.root], signer_kit.at).path is None
    for profile in Profile:
        check_profile((mangled, mangled), profile, signer_kit.at)
