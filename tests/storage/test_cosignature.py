import hashlib
from dataclasses import dataclass
from pathlib import Path

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.mldsa import MLDSA44PrivateKey, MLDSA44PublicKey
from hypothesis import given
from hypothesis import strategies as st

from storage import base64text
from storage.checkpoint import Checkpoint, open_checkpoint
from storage.cosignature import CosignatureTimeError, Cosigner, cosign, cosigners, sign_as_log
from storage.errors import (
    MalformedCheckpointError,
    MalformedKeyError,
    MalformedNoteError,
    NoteSignatureError,
)
from storage.note import Algorithm, Note, Signature, VerifierKey, open_note

VECTORS = Path(__file__).parent / "vectors"
TEXT = str(Checkpoint("log.example", 7, hashlib.sha256(b"root").digest()))
NOW = 1_800_000_000
LAST = 2**63 - 1


@dataclass(frozen=True)
class Keyed:
    """A key pair of one of the three types."""

    key: VerifierKey
    private: Ed25519PrivateKey | MLDSA44PrivateKey

    @classmethod
    def of(cls, name: str, algorithm: Algorithm) -> "Keyed":
        seed = hashlib.sha256(name.encode()).digest()
        private = (
            MLDSA44PrivateKey.from_seed_bytes(seed)
            if algorithm is Algorithm.ML_DSA_44
            else Ed25519PrivateKey.from_private_bytes(seed)
        )
        return cls(VerifierKey(name, private.public_key().public_bytes_raw(), algorithm), private)

    def sign(self, message: bytes) -> bytes:
        return self.private.sign(message)


ED25519 = Keyed.of("witness.example/ed25519", Algorithm.COSIGNATURE_ED25519)
ML_DSA = Keyed.of("witness.example/ml-dsa", Algorithm.ML_DSA_44)
LOG = Keyed.of("log.example", Algorithm.ED25519)
LOG_ML_DSA = Keyed.of("log.example", Algorithm.ML_DSA_44)
KEYS = [ED25519.key, ML_DSA.key]


def verify(public: bytes, signature: bytes, message: bytes) -> bool:
    kind = Ed25519PublicKey if len(public) == 32 else MLDSA44PublicKey
    try:
        kind.from_public_bytes(public).verify(signature, message)
    except InvalidSignature:
        return False
    return True


def written(*signatures: Signature, text: str = TEXT) -> bytes:
    return bytes(Note(text, signatures))


def stamped(signer: Keyed, at: int, message: bytes) -> Signature:
    """tlog-cosignature, Format: `timestamped_signature`, with whatever time and message."""
    return Signature(signer.key.name, signer.key.key_id, at.to_bytes(8, "big") + signer.sign(message))


def spec_ed25519(at: int, text: str = TEXT) -> bytes:
    """tlog-cosignature, Ed25519 signed message."""
    return "\n".join(("cosignature/v1", f"time {at}", text)).encode()


def spec_ml_dsa(name: str, at: int, origin: str, size: int, root: bytes) -> bytes:
    """tlog-cosignature, ML-DSA-44 signed message, field by field."""
    label = b"subtree/v1\n\0"
    cosigner_name = len(name.encode()).to_bytes(1, "big") + name.encode()
    log_origin = len(origin.encode()).to_bytes(1, "big") + origin.encode()
    timestamp, start, end = (number.to_bytes(8, "big") for number in (at, 0, size))
    return label + cosigner_name + timestamp + log_origin + start + end + root


@given(st.integers(1, LAST))
def test_an_ed25519_cosignature_is_as_specified(at: int) -> None:
    assert cosign(TEXT, ED25519.key, at, ED25519.sign) == stamped(ED25519, at, spec_ed25519(at))


@given(
    st.integers(0, LAST),
    st.text(st.characters(exclude_categories=["C", "Z"]), min_size=1, max_size=20),
    st.integers(0, LAST),
    st.binary(min_size=32, max_size=32),
)
def test_an_ml_dsa_cosignature_is_over_what_is_specified(
    at: int, origin: str, size: int, root: bytes
) -> None:
    signed: list[bytes] = []

    def keep(message: bytes) -> bytes:
        signed.append(message)
        return b""

    cosign(str(Checkpoint(origin, size, root)), ML_DSA.key, at, keep)
    assert signed == [spec_ml_dsa(ML_DSA.key.name, at, origin, size, root)]


def test_cosigners_are_named_with_the_times_they_state() -> None:
    note = written(
        cosign(TEXT, ML_DSA.key, NOW + 1, ML_DSA.sign),
        sign_as_log(TEXT, LOG.key, LOG.sign),
        cosign(TEXT, ED25519.key, NOW, ED25519.sign),
    )
    assert cosigners(note, KEYS, verify) == (Cosigner(ML_DSA.key, NOW + 1), Cosigner(ED25519.key, NOW))
    assert cosigners(note, KEYS[:1], verify) == (Cosigner(ED25519.key, NOW),)
    assert cosigners(note, [], verify) == ()
    # A key of type 0x01 cosigns nothing, though it signed the note.
    assert cosigners(note, [LOG.key], verify) == ()


@pytest.mark.parametrize("at", [-1, 0, LAST + 1, 2**64])
def test_no_ed25519_cosignature_is_made_without_a_time(at: int) -> None:
    with pytest.raises(CosignatureTimeError):
        cosign(TEXT, ED25519.key, at, ED25519.sign)


@pytest.mark.parametrize("at", [-1, LAST + 1, 2**64])
def test_no_ml_dsa_cosignature_is_made_at_a_time_beyond_the_limits(at: int) -> None:
    with pytest.raises(CosignatureTimeError):
        cosign(TEXT, ML_DSA.key, at, ML_DSA.sign)


def test_the_last_second_can_be_cosigned_and_the_one_after_it_never_counts() -> None:
    for at, signatures in (
        (LAST, [(ED25519, spec_ed25519(LAST)), (ML_DSA, spec_ml_dsa_of_text(LAST))]),
        (LAST + 1, [(ED25519, spec_ed25519(LAST + 1)), (ML_DSA, spec_ml_dsa_of_text(LAST + 1))]),
    ):
        for signer, message in signatures:
            # Rightly signed: nothing but the time is wrong.
            note = written(stamped(signer, at, message))
            if at == LAST:
                assert cosigners(note, KEYS, verify) == (Cosigner(signer.key, at),)
            else:
                with pytest.raises(NoteSignatureError):
                    cosigners(note, KEYS, verify)


def spec_ml_dsa_of_text(at: int) -> bytes:
    origin, size, root = TEXT.split("\n")[:3]
    return spec_ml_dsa(ML_DSA.key.name, at, origin, int(size), base64text.decode_hash(root))


def test_a_time_of_zero_is_no_statement_by_ml_dsa_and_a_wrong_one_by_ed25519() -> None:
    note = written(cosign(TEXT, ML_DSA.key, 0, ML_DSA.sign))
    assert cosigners(note, KEYS, verify) == (Cosigner(ML_DSA.key, 0),)
    with pytest.raises(NoteSignatureError):
        cosigners(written(stamped(ED25519, 0, spec_ed25519(0))), KEYS, verify)


def test_a_time_with_leading_zeros_is_another_message() -> None:
    message = spec_ed25519(NOW).replace(b"time ", b"time 0")
    with pytest.raises(NoteSignatureError):
        cosigners(written(stamped(ED25519, NOW, message)), KEYS, verify)


@pytest.mark.parametrize("signer", [ED25519, ML_DSA])
def test_a_cosignature_is_for_one_checkpoint_and_one_time(signer: Keyed) -> None:
    good = cosign(TEXT, signer.key, NOW, signer.sign)
    assert cosigners(written(good), KEYS, verify) == (Cosigner(signer.key, NOW),)
    for text in (TEXT.replace("\n7\n", "\n8\n"), TEXT.replace("log.", "log2."), TEXT + "extension\n"):
        with pytest.raises(NoteSignatureError):
            cosigners(written(good, text=text), KEYS, verify)
    redated = Signature(good.name, good.key_id, (NOW + 1).to_bytes(8, "big") + good.value[8:])
    with pytest.raises(NoteSignatureError):
        cosigners(written(redated), KEYS, verify)


@pytest.mark.parametrize("signer", [ED25519, ML_DSA])
@pytest.mark.parametrize("cut", [slice(None, 1), slice(None, 8), slice(None, -1), slice(8, None)])
def test_a_cosignature_of_another_length_is_wrong(signer: Keyed, cut: slice) -> None:
    good = cosign(TEXT, signer.key, NOW, signer.sign)
    for value in (good.value[cut], good.value + good.value[cut]):
        with pytest.raises(NoteSignatureError):
            cosigners(written(Signature(good.name, good.key_id, value)), KEYS, verify)


def test_a_plain_signature_is_no_cosignature_and_the_other_way_about() -> None:
    plain = VerifierKey(ED25519.key.name, ED25519.key.public)
    cosignature = cosign(TEXT, ED25519.key, NOW, ED25519.sign)
    signature = ED25519.sign(TEXT.encode())
    with pytest.raises(NoteSignatureError):
        cosigners(written(Signature(plain.name, ED25519.key.key_id, bytes(8) + signature)), KEYS, verify)
    for value in (cosignature.value, cosignature.value[8:]):
        with pytest.raises(NoteSignatureError):
            open_note(written(Signature(plain.name, plain.key_id, value)), [plain], verify)


def test_the_name_of_a_cosigner_is_signed_by_ml_dsa_and_not_by_ed25519() -> None:
    """tlog-cosignature, Ed25519 signed message: why no key may serve two witnesses."""
    for signer, moves in ((ED25519, True), (ML_DSA, False)):
        other = VerifierKey("other.example", signer.key.public, signer.key.algorithm)
        good = cosign(TEXT, signer.key, NOW, signer.sign)
        note = written(Signature(other.name, other.key_id, good.value))
        if moves:
            assert cosigners(note, [other], verify) == (Cosigner(other, NOW),)
        else:
            with pytest.raises(NoteSignatureError):
                cosigners(note, [other], verify)


def test_the_first_cosignature_of_a_key_counts_and_a_wrong_one_is_fatal() -> None:
    first, second = (cosign(TEXT, ED25519.key, at, ED25519.sign) for at in (NOW, NOW + 1))
    wrong = Signature(first.name, first.key_id, bytes(72))
    assert cosigners(written(first, second, first, wrong), KEYS, verify) == (Cosigner(ED25519.key, NOW),)
    with pytest.raises(NoteSignatureError):
        cosigners(written(wrong, first), KEYS, verify)


def test_lines_by_unknown_keys_are_ignored_even_where_a_name_or_a_hash_is_known() -> None:
    good = cosign(TEXT, ED25519.key, NOW, ED25519.sign)
    strangers = (
        Signature(good.name, bytes(4), bytes(72)),
        Signature("other.example", good.key_id, bytes(72)),
        Signature("other.example", bytes(4), b"x"),
    )
    assert cosigners(written(*strangers, good), KEYS, verify) == (Cosigner(ED25519.key, NOW),)
    assert cosigners(written(*strangers), KEYS, verify) == ()


@given(st.data())
def test_no_byte_of_a_cosigned_checkpoint_can_be_changed(data: st.DataObject) -> None:
    good = written(cosign(TEXT, ED25519.key, NOW, ED25519.sign))
    at = data.draw(st.integers(0, len(good) - 1))
    changed = (
        good[:at]
        + data.draw(st.binary(max_size=2).filter(lambda new: new != good[at : at + 1]))
        + good[at + 1 :]
    )
    try:
        found = cosigners(changed, KEYS, verify)
    except (MalformedNoteError, NoteSignatureError):
        return
    # Only by another name, or another hash, is it somebody unknown's.
    assert found == ()
    (line,) = Note.parse(changed).signatures
    assert (line.name, line.key_id) != (ED25519.key.name, ED25519.key.key_id)


def test_extension_lines_of_a_foreign_log_are_cosigned_by_ed25519_alone() -> None:
    extended = TEXT + "extension\n"
    note = written(cosign(extended, ED25519.key, NOW, ED25519.sign), text=extended)
    assert cosigners(note, KEYS, verify) == (Cosigner(ED25519.key, NOW),)
    with pytest.raises(NoteSignatureError):
        cosigners(note.replace(b"extension", b"extended!"), KEYS, verify)
    with pytest.raises(MalformedCheckpointError):
        cosign(extended, ML_DSA.key, NOW, ML_DSA.sign)


def test_what_is_no_checkpoint_is_not_cosigned() -> None:
    for signer in (ED25519, ML_DSA):
        for text in ("", "text\n", TEXT[:-1], TEXT + "\n", TEXT.replace("\n7\n", "\n07\n"), f"\n{TEXT}"):
            with pytest.raises(MalformedCheckpointError):
                cosign(text, signer.key, NOW, signer.sign)
    with pytest.raises(MalformedCheckpointError):
        cosign(TEXT.replace("log.example", "é" * 128), ML_DSA.key, NOW, ML_DSA.sign)


def test_a_key_of_the_wrong_kind_signs_nothing() -> None:
    with pytest.raises(MalformedKeyError):
        cosign(TEXT, LOG.key, NOW, LOG.sign)
    with pytest.raises(MalformedKeyError):
        sign_as_log(TEXT.replace("log.example", ED25519.key.name), ED25519.key, ED25519.sign)
    for signer in (LOG, LOG_ML_DSA):
        with pytest.raises(MalformedKeyError, match="origin"):
            sign_as_log(TEXT.replace("log.example", "other.example"), signer.key, signer.sign)


def test_a_log_signs_with_both_kinds_and_either_opens_its_checkpoint() -> None:
    lines = (sign_as_log(TEXT, LOG.key, LOG.sign), sign_as_log(TEXT, LOG_ML_DSA.key, LOG_ML_DSA.sign))
    assert lines[0].value == LOG.sign(TEXT.encode())
    for keys in ([LOG.key], [LOG_ML_DSA.key], [LOG.key, LOG_ML_DSA.key]):
        assert str(open_checkpoint(written(*lines), keys, verify)) == TEXT
        assert open_note(written(*lines), keys, verify).signers == tuple(keys)
    # With both keys known, a wrong one of the two rejects the note whatever the other says.
    for number in (0, 1):
        wrong = Signature(lines[number].name, lines[number].key_id, bytes(len(lines[number].value)))
        with pytest.raises(NoteSignatureError):
            open_checkpoint(written(wrong, lines[1 - number]), [LOG.key, LOG_ML_DSA.key], verify)


def test_a_witness_with_ml_dsa_does_not_sign_for_the_log() -> None:
    # torchwood @ 8e5bbd3c, policy_test.go: a good signature under another origin is not enough.
    note = written(cosign(TEXT, ML_DSA.key, NOW, ML_DSA.sign))
    with pytest.raises(NoteSignatureError, match=r"No key of log\.example"):
        open_checkpoint(note, [ML_DSA.key], verify)


# FiloSottile/sunlight @ f50dfb88, cmd/skylight/testdata/witness: checkpoints as its witness and its
# mirror keep them. The log's own line is of type 0x05 (RFC 6962) or absent.
SUNLIGHT = (
    (
        "witness.example.org+b8a2cf20+BFLN3yikSfFkVAJtrnh/CiY3Zozkoy7clp+P7XB28qUN",
        "rome2026h1.example.org\n300\nlCkHUpkmVBEms2r2T1K6Og69+wUuuN3MIEW1/ezu2v0=\n\n"
        "— rome2026h1.example.org kVB1JgAAAZtxtEwABAMARzBFAiEAi+mTa2xjL1IdWpH82OeciGsGvwRAP+f1WkfKaSZCfFEC"
        "IHoNPZ/Q3y6UNzvKOO9cuLr6V16vPNfhwhle9f6r5H/Z\n"
        "— witness.example.org uKLPIAAAAABpVGeAhm2bOvKc3LaB9PFN1ruG19Y5yqslmcAAbhftnn1Zznmo0LXFZq4LGvqKqLX8"
        "jWlwLKasxEGTLIqAVusneCBmBw==\n",
    ),
    (
        "mirror.example.org+3fb148ef+BAAjjch9GyYz0sJsJx7ALhbdAtz2ov0unbzSl1vMp94O",
        "rome2026h1.example.org\n300\ngw31yQrqZZCcEOPrzX+bpy3nJ6QgngTKn8G1m0i62uU=\n\n"
        "— mirror.example.org P7FI7wAAAABpVGeAjA1S4pJm6MbcXjX7UUImu4azZtrfcVW2uyr/LXIYlwEJzXC0N0EiZkbqfLdX"
        "t/4gVEEuGmxJjAfXKMCISpsJAg==\n",
    ),
)


@pytest.mark.parametrize(("vkey", "note"), SUNLIGHT)
def test_cosignatures_of_a_foreign_witness_hold(vkey: str, note: str) -> None:
    key = VerifierKey.parse_cosigner(vkey)
    assert cosigners(note.encode(), [key], verify) == (Cosigner(key, 1767139200),)
    with pytest.raises(NoteSignatureError):
        cosigners(note.replace("\n300\n", "\n301\n").encode(), [key], verify)


def test_an_ml_dsa_checkpoint_of_a_foreign_log_is_a_cosignature_that_states_no_time() -> None:
    # FiloSottile/torchwood @ fac5716b, cmd/litewitness/testdata/mldsa.txt.
    key = VerifierKey.parse((VECTORS / "torchwood_ml_dsa_44.vkey").read_text(encoding="utf-8").strip())
    note = (VECTORS / "torchwood_ml_dsa_44.note").read_bytes()
    assert cosigners(note, [key], verify) == (Cosigner(key, 0),)
    assert open_checkpoint(note, [key], verify).size == 1


def test_the_example_of_the_specification_reads_as_it_says() -> None:
    """tlog-cosignature's example. Its keys are not published, so its signatures are not checked here."""
    note = Note.parse(
        "example.com/behind-the-sofa\n20852163\nCsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=\n\n"
        "— example.com/behind-the-sofa Az3grlgtzPICa5OS8npVmf1Myq/5IZniMp+ZJurmRDeOoRDe4URYN7u5/Zhcyv2q1gGz"
        "Gku9nTo+zyWE+xeMcTOAYQ8=\n"
        "— witness.example.com/w1 jWbPPwAAAABkGFDLEZMHwSRaJNiIDoe9DYn/zXcrtPHeolMI5OWXEhZCB9dlrDJsX3b2oyin"
        "1nPZqhf5nNo0xUe+mbIUBkBIfZ+qnA==\n".encode()
    )
    log, witness = note.signatures
    assert (len(log.value), len(witness.value)) == (64, 72)
    assert int.from_bytes(witness.value[:8], "big") == 1679315147


def test_a_cosignature_by_a_witness_nobody_knows_leaves_a_public_log_as_it_was(shared) -> None:
    (case,) = [case for case in shared("rekor2.json") if case["case"] == "rekor2-checkpoint-cosigned"]
    note = case["tlog_entries"][0]["inclusionProof"]["checkpoint"]["envelope"].encode()
    keys = [
        VerifierKey(
            trusted["baseUrl"].removeprefix("https://"),
            base64text.decode(trusted["publicKey"]["rawBytes"])[-32:],
        )
        for trusted in case["trusted_tlogs"]
        if trusted["publicKey"]["keyDetails"] == "PKIX_ED25519"
    ]
    assert open_checkpoint(note, keys, verify).size == 736
    assert cosigners(note, keys + KEYS, verify) == ()
