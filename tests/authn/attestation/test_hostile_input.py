"""Every vector, damaged: nothing but the one error leaves, and nothing damaged proves anything."""

import base64
import json
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import cbor2
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from authn import der
from authn.attestation import android, app_attest, key_description, roots
from authn.attestation.judgement import Evidence, Judgement, Kind
from authn.attestation.status_list import StatusList
from authn.errors import EvidenceError
from authn.evidence import Custody

# A negative serial inside an authority key identifier is a warning today and a ValueError tomorrow.
pytestmark = pytest.mark.filterwarnings("ignore::cryptography.utils.CryptographyDeprecationWarning")

AT = datetime(2026, 11, 20, 12, tzinfo=UTC)
NASTY = (
    b"\x84\xff\xff\xff\xff",
    b"\x80",
    b"\x30\x80" * 200,
    b"\xa1\x82\x01\x00" * 100,
    der.tagged(2, b"\x7f" + b"\xff" * 4000),
    b"\x9b\x40\0\0\0\0\0\0\0",
    b"\x81" * 200,
    b"\xbf\xff\xff\xff\x7f",
    b"\x00" * 64,
)
EDIT = st.tuples(
    st.sampled_from(["flip", "flip", "flip", "flip", "cut", "drop", "insert", "replace", "end"]),
    st.integers(0, 1 << 20),
    st.integers(1, 255),
    st.sampled_from(NASTY),
)
EDITS = st.lists(EDIT, min_size=1, max_size=3)
FEW = settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], database=None
)
MORE = settings(FEW, max_examples=150)


def damaged(data: bytes, edits: Sequence[tuple[str, int, int, bytes]]) -> bytes:
    """Flip bits, cut, drop, insert and overwrite, with lengths that lie, depth and big integers."""
    for edit, place, mask, nasty in edits:
        at = place % max(len(data), 1)
        match edit:
            case "flip":
                data = data[:at] + bytes(byte ^ mask for byte in data[at : at + 1]) + data[at + 1 :]
            case "cut":
                data = data[:at]
            case "drop":
                data = data[:at] + data[at + mask % 8 + 1 :]
            case "insert":
                data = data[:at] + nasty + data[at:]
            case "replace":
                data = data[:at] + nasty + data[at + len(nasty) :]
            case _:
                data += nasty
    return data


def judged(chain: Sequence[bytes], expectation: android.Expectation, at: datetime) -> Judgement | None:
    try:
        return android.judge(android.evidence(chain), expectation, at)
    except EvidenceError:
        return None


def trial(chain: Sequence[bytes], edits, which: int, expectation: android.Expectation, at: datetime) -> None:
    place = which % len(chain)
    changed = [*chain[:place], damaged(chain[place], edits), *chain[place + 1 :]]
    judgement = judged(changed, expectation, at)
    if changed != list(chain) and judgement is not None:
        assert judgement.custody is Custody.E0
        assert judgement.refused


@MORE
@given(edits=EDITS, which=st.integers(0, 4))
def test_a_damaged_chain_of_our_own_proves_nothing(edits, which: int, maker, at) -> None:
    leaf = maker.leaf(maker.describe())
    for chain in (maker.remote(leaf), maker.factory(leaf)):
        trial(chain, edits, which, maker.expectation(), at)


def flipped(chain: Sequence[bytes], expectation: android.Expectation, at: datetime, step: int) -> None:
    """Each certificate, one bit of every `step`th byte; which bit goes round."""
    for place, certificate in enumerate(chain):
        for position in range(place, len(certificate), step):
            trial(chain, [("flip", position, 1 << position // step % 8, b"")], place, expectation, at)


def test_no_single_bit_of_a_chain_can_be_changed(maker, at) -> None:
    leaf = maker.leaf(maker.describe())
    for chain in (maker.remote(leaf), maker.factory(leaf)):
        assert android.judge(android.evidence(chain), maker.expectation(), at).custody is Custody.E3
        flipped(chain, maker.expectation(), at, step=5)


@MORE
@given(edits=EDITS)
def test_a_damaged_statement_that_is_signed_all_the_same_raises_nothing_foreign(edits, maker, at) -> None:
    """As a maker with a bug would sign it: here the rules see values that no phone should state."""
    judged(maker.remote(maker.leaf(damaged(maker.describe(), edits))), maker.expectation(), at)


NUMBERS = (
    st.integers(0, 2**64 - 1) | st.integers(0, 30_000_000) | st.sampled_from([0, 202611, 20261120, 99999999])
)


@MORE
@given(
    values=st.dictionaries(st.sampled_from([2, 3, 10, 702, 706, 718, 719]), NUMBERS, max_size=7),
    sets=st.dictionaries(st.sampled_from([1, 5, 6]), st.lists(NUMBERS, max_size=4), max_size=3),
    year=st.sampled_from([1, 2026, 9999]),
)
def test_numbers_that_no_phone_states_raise_nothing(values, sets, year: int, maker) -> None:
    hardware = {tag: der.integer(value) for tag, value in values.items()}
    hardware |= {tag: der.set_of(*map(der.integer, numbers)) for tag, numbers in sets.items()}
    chain = maker.factory(maker.leaf(maker.describe(hardware)))
    judgement = judged(chain, maker.expectation(), datetime(year, 12, 31, tzinfo=UTC))
    assert judgement is not None


@MORE
@given(edits=EDITS)
def test_a_damaged_envelope_proves_nothing(edits, maker, at) -> None:
    whole = android.evidence(maker.remote(maker.leaf(maker.describe())))
    data = damaged(whole.data, edits)
    try:
        judgement = android.judge(Evidence(Kind.ANDROID, data), maker.expectation(), at)
    except EvidenceError:
        return
    assert judgement.refused or data == whole.data


@MORE
@given(edits=EDITS)
def test_a_damaged_attestation_or_assertion_proves_nothing(edits, apple, at) -> None:
    whole = apple.attest()
    data = damaged(whole, edits)
    try:
        judgement = app_attest.judge(Evidence(Kind.APP_ATTEST, data), apple.expectation(), at)
        # The receipt is Apple's business, and the one part that nothing here covers.
        assert judgement.refused or _covered(data) == _covered(whole)
    except EvidenceError:
        pass
    good = apple.assertion(5)
    changed = damaged(good, edits)
    expectation = app_attest.AssertionExpectation(
        apple.spki, apple.client_data_hash, app_attest.Rules(frozenset({apple.app})), 4
    )
    try:
        assert app_attest.judge_assertion(changed, expectation).broken or changed == good
    except EvidenceError:
        pass


def _covered(data: bytes) -> tuple[object, ...]:
    document = cbor2.loads(data)
    return document["fmt"], tuple(document["attStmt"]["x5c"]), document["authData"]


@MORE
@given(data=st.binary(max_size=200))
def test_bytes_that_mean_nothing_raise_only_the_one_error(data: bytes, apple, maker, at) -> None:
    for read in (
        lambda: key_description.read(data),
        lambda: app_attest.judge(Evidence(Kind.APP_ATTEST, data), apple.expectation(), at),
        lambda: android.judge(Evidence(Kind.ANDROID, data), maker.expectation(), at),
        lambda: android.judge(android.evidence([data]), maker.expectation(), at),
    ):
        with pytest.raises(EvidenceError):
            read()


# The shared vectors.


def _chain(path: Path) -> list[bytes]:
    return [c.public_bytes(Encoding.DER) for c in x509.load_pem_x509_certificates(path.read_bytes())]


@FEW
@given(edits=EDITS, which=st.integers(0, 4))
def test_no_damaged_android_vector_proves_anything(edits, which: int, attestation_vectors: Path) -> None:
    folder = attestation_vectors / "android_synthetic"
    manifest = json.loads((folder / "manifest.json").read_text())
    (root,) = x509.load_pem_x509_certificates((folder / "test_root.pem").read_bytes())
    real = json.loads((attestation_vectors / "android_real" / "manifest.json").read_text())
    for name in manifest["vectors"]:
        chain = _chain(folder / f"{name}.pem")
        _try(chain, edits, which, manifest["challenge_hex"], manifest["judge_at"], roots.key_digest(root))
    for name, vector in real.items():
        chain = _chain(attestation_vectors / "android_real" / f"{name}.pem")
        _try(
            chain,
            edits,
            which,
            vector.get("challenge_hex", ""),
            vector.get("judge_at", "2025-05-01T00:00:00+00:00"),
        )


@pytest.mark.parametrize("name", ["tegu_sdk36_SB_EC_2026_ROOT", "sony-xperia10-iii_sdk33_TEE_EC"])
def test_no_single_bit_of_a_real_chain_can_be_changed(name: str, attestation_vectors: Path) -> None:
    folder = attestation_vectors / "android_real"
    vector = json.loads((folder / "manifest.json").read_text())[name]
    chain, at = _chain(folder / f"{name}.pem"), datetime.fromisoformat(vector["judge_at"])
    spki = roots.spki_of(x509.load_der_x509_certificate(chain[0]))
    expectation = android.Expectation(bytes.fromhex(vector["challenge_hex"]), spki, StatusList(at))
    whole = android.judge(android.evidence(chain), expectation, at)
    assert [rule.name for rule in whole.broken] == ["app-unnamed"]
    flipped(chain, expectation, at, step=9)


def _try(chain: list[bytes], edits, which: int, challenge: str, at: str, *pins: bytes) -> None:
    moment = datetime.fromisoformat(at)
    expectation = android.Expectation(
        bytes.fromhex(challenge),
        roots.spki_of(x509.load_der_x509_certificate(chain[0])),
        StatusList(moment),
        roots=frozenset(pins) or roots.google_keys(),
    )
    trial(chain, edits, which, expectation, moment)


@FEW
@given(edits=EDITS)
def test_no_damaged_statement_of_a_vector_raises_anything_foreign(edits, attestation_vectors: Path) -> None:
    for path in sorted(attestation_vectors.glob("android_*/*.pem")):
        leaf = x509.load_pem_x509_certificates(path.read_bytes())[0]
        for extension in leaf.extensions:
            if extension.oid == android.STATEMENT and isinstance(extension.value, x509.UnrecognizedExtension):
                try:
                    key_description.read(damaged(extension.value.value, edits))
                except EvidenceError:
                    pass


@FEW
@given(edits=EDITS)
def test_no_damaged_apple_vector_raises_anything_foreign(edits, attestation_vectors: Path) -> None:
    vectors = json.loads((attestation_vectors / "other_synthetic" / "app_attest_synthetic.json").read_text())
    real = json.loads((attestation_vectors / "app_attest_real" / "attestation-development.json").read_text())
    rules = app_attest.Rules(frozenset({"TEAM123456.org.example.capture"}))
    expectation = app_attest.Expectation(b"", rules)
    for text in (*(vector["attestation_b64"] for vector in vectors["attestations"]), real["attestation"]):
        try:
            data = damaged(base64.b64decode(text), edits)
            assert app_attest.judge(Evidence(Kind.APP_ATTEST, data), expectation, AT).refused
        except EvidenceError:
            pass
    for vector in vectors["assertions"]:
        spki = x509.load_pem_x509_certificate(vectors["root_pem"].encode())
        asked = app_attest.AssertionExpectation(roots.spki_of(spki), b"", rules, 4)
        try:
            assert app_attest.judge_assertion(
                damaged(base64.b64decode(vector["assertion_b64"]), edits), asked
            ).broken
        except EvidenceError:
            pass
