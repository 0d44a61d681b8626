import base64
import hashlib
from pathlib import Path

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.mldsa import MLDSA44PublicKey
from hypothesis import given
from hypothesis import strategies as st

from storage.errors import (
    MalformedCheckpointError,
    MalformedKeyError,
    MalformedNoteError,
    NoteSignatureError,
)
from storage.note import (
    MAX_KEY_TEXT,
    MAX_NOTE_BYTES,
    Algorithm,
    Note,
    Signature,
    VerifierKey,
    checkpoint_lines,
    is_key_name,
    open_note,
    signed_note,
    statement,
)

VECTORS = Path(__file__).parent / "vectors"

names = st.text(st.characters(exclude_categories=["C", "Z"], exclude_characters="+"), min_size=1, max_size=20)
texts = st.text(st.characters(exclude_categories=["Cc", "Cs"]) | st.just("\n"), max_size=60).map(
    lambda text: text + "\n"
)
signatures = st.builds(
    Signature, names, st.binary(min_size=4, max_size=4), st.binary(min_size=1, max_size=70)
)
notes = st.builds(Note, texts, st.lists(signatures, min_size=1, max_size=4).map(tuple))


@given(notes)
def test_a_note_reads_back_as_it_was_written(note: Note) -> None:
    assert Note.parse(bytes(note)) == note


@given(
    st.binary(max_size=200)
    | notes.map(bytes).flatmap(
        lambda data: st.builds(
            lambda at, byte: data[:at] + byte + data[at + 1 :],
            st.integers(0, len(data)),
            st.binary(max_size=2),
        )
    )
)
def test_reading_a_note_accepts_what_it_would_write_or_raises_its_own_error(data: bytes) -> None:
    try:
        assert bytes(Note.parse(data)) == data
    except MalformedNoteError:
        pass


@given(names, st.binary(min_size=32, max_size=32))
def test_a_verifier_key_reads_back_as_it_was_written(name: str, public: bytes) -> None:
    key = VerifierKey(name, public)
    try:
        assert VerifierKey.parse(str(key)) == key
    except MalformedKeyError:
        # Only a key that the test below shows to be worthless may be refused.
        y = int.from_bytes(public, "little") & (1 << 255) - 1
        assert y >= 2**255 - 19 or edwards_order_divides_eight(y)


@given(
    st.text(max_size=80)
    | st.builds(
        lambda *parts: "+".join(parts),
        names,
        st.text("0123456789abcdef", min_size=8, max_size=8),
        st.binary(max_size=34).map(lambda b: base64.b64encode(b).decode()),
    )
)
def test_reading_a_verifier_key_raises_only_its_own_error(text: str) -> None:
    try:
        assert str(VerifierKey.parse(text)) == text
    except MalformedKeyError:
        pass


P = 2**255 - 19
D = -121665 * pow(121666, -1, P) % P


def square_root(square: int) -> int | None:
    """RFC 8032, 5.1.3, steps 2 and 3."""
    root = pow(square, (P + 3) // 8, P)
    if root * root % P != square % P:
        root = root * pow(2, (P - 1) // 4, P) % P
    return root if root * root % P == square % P else None


def edwards_order_divides_eight(y: int) -> bool:
    """Whether three doublings (RFC 8032, 5.1.4, affine) of a point at `y` end in the neutral element."""
    x = square_root((y * y - 1) * pow(D * y * y + 1, -1, P) % P)
    if x is None:
        return False
    for _ in range(3):
        t = D * x * x * y * y
        x, y = 2 * x * y * pow(1 + t, -1, P) % P, (y * y + x * x) * pow(1 - t, -1, P) % P
    return (x, y) == (0, 1)


def test_the_keys_under_which_anything_verifies_are_refused() -> None:
    # Beyond y = 0, 1 and -1 there are the points whose double has y = 0: x^2 = -y^2, so D y^4 + 2 y^2 = 1.
    inner = square_root(1 + D)
    assert inner is not None
    roots = [square_root((sign * inner - 1) * pow(D, -1, P)) for sign in (1, -1)]
    small = {0, 1, P - 1} | {y for root in roots if root is not None for y in (root, P - root)}
    assert len(small) == 5
    for y in small:
        assert edwards_order_divides_eight(y)
        for flag in (0, 1 << 255):
            with pytest.raises(MalformedKeyError):
                VerifierKey.parse(str(VerifierKey("name", (y | flag).to_bytes(32, "little"))))
    # P + 3 is 3, written in a second way.
    assert VerifierKey.parse(str(VerifierKey("name", (3).to_bytes(32, "little"))))
    with pytest.raises(MalformedKeyError):
        VerifierKey.parse(str(VerifierKey("name", (P + 3).to_bytes(32, "little"))))


def test_a_verifier_key_of_another_type_or_hash_is_refused(log) -> None:
    name, key_id, encoded = str(log.key).split("+", 2)
    assert VerifierKey.parse(f"{name}+{key_id}+{encoded}") == log.key
    cosigner = base64.b64encode(b"\4" + log.key.public).decode()
    for text in (
        f"{name}+{key_id}+{cosigner}",
        f"{name}x+{key_id}+{encoded}",
        f"{name}+{key_id.upper()}0+{encoded}",
        f"{name}+{key_id}+{encoded}\n",
        f"{name} {key_id} {encoded}",
    ):
        with pytest.raises(MalformedKeyError):
            VerifierKey.parse(text)


def typed(name: str, data: bytes) -> str:
    """A verifier key by signed-note, Signatures: its type's byte and its key are `data`."""
    key_id = hashlib.sha256(name.encode() + b"\n" + data).digest()[:4]
    return f"{name}+{key_id.hex()}+{base64.b64encode(data).decode()}"


@pytest.mark.parametrize("kind", range(256))
def test_the_types_of_verifier_keys_are_three_and_each_has_one_length(kind: int, log) -> None:
    accepted = []
    for size in (0, 31, 32, 33, 64, 1311, 1312, 1313):
        public = (log.key.public * 42)[:size]
        text = typed("name", bytes([kind]) + public)
        try:
            key = VerifierKey.parse(text)
        except MalformedKeyError:
            continue
        assert (key.name, key.public, key.algorithm, str(key)) == ("name", public, kind, text)
        accepted.append(size)
    assert accepted == {1: [32], 4: [32], 6: [1312]}.get(kind, [])


def test_a_key_serves_a_log_or_a_cosigner_by_its_type(log) -> None:
    ed25519, witness = (typed("name", bytes([kind]) + log.key.public) for kind in (1, 4))
    ml_dsa = typed("name", b"\6" + log.key.public * 41)
    for text in (ed25519, ml_dsa):
        assert str(VerifierKey.parse_log(text)) == text
    for text in (witness, ml_dsa):
        assert str(VerifierKey.parse_cosigner(text)) == text
    with pytest.raises(MalformedKeyError):
        VerifierKey.parse_log(witness)
    with pytest.raises(MalformedKeyError):
        VerifierKey.parse_cosigner(ed25519)


@pytest.mark.parametrize("kind", [1, 4])
def test_the_keys_of_small_order_are_refused_for_witnesses_too(kind: int) -> None:
    for y in (0, 1, P - 1, P, P + 1, 2**255 - 1):
        with pytest.raises(MalformedKeyError):
            VerifierKey.parse(typed("name", bytes([kind]) + y.to_bytes(32, "little")))


def test_an_ml_dsa_key_under_which_anybody_signs_is_refused() -> None:
    rho = hashlib.sha256(b"rho").digest()
    assert VerifierKey.parse(typed("name", b"\6" + rho + bytes(1279) + b"\1"))
    with pytest.raises(MalformedKeyError):
        VerifierKey.parse(typed("name", b"\6" + rho + bytes(1280)))


def test_a_name_too_long_to_be_signed_is_refused_with_ml_dsa(log) -> None:
    public = log.key.public * 41
    assert VerifierKey.parse(typed("é" * 127, b"\6" + public))
    for name in ("é" * 128, "x" * 256):
        with pytest.raises(MalformedKeyError):
            VerifierKey.parse(typed(name, b"\6" + public))


def test_a_verifier_key_longer_than_any_is_refused_unread(log) -> None:
    with pytest.raises(MalformedKeyError, match="longer"):
        VerifierKey.parse(typed("x" * MAX_KEY_TEXT, b"\1" + log.key.public))


CHECKPOINT = f"log.example\n7\n{base64.b64encode(bytes(31) + b'7').decode()}\n"


def test_each_type_signs_what_its_specification_says() -> None:
    """tlog-cosignature, both signed messages, written out byte by byte."""
    ed25519, witness = (VerifierKey("w", bytes(32), Algorithm(kind)) for kind in (1, 4))
    ml_dsa = VerifierKey("witness", bytes(1312), Algorithm.ML_DSA_44)
    assert statement(CHECKPOINT, ed25519, 0) == CHECKPOINT.encode()
    assert statement(CHECKPOINT, witness, 1679315147) == (
        b"cosignature/v1\ntime 1679315147\n" + CHECKPOINT.encode()
    )
    assert statement(CHECKPOINT, ml_dsa, 1679315147) == (
        b"subtree/v1\n\x00"
        b"\x07witness"
        b"\x00\x00\x00\x00\x64\x18\x50\xcb"
        b"\x0blog.example"
        b"\x00\x00\x00\x00\x00\x00\x00\x00"
        b"\x00\x00\x00\x00\x00\x00\x00\x07" + bytes(31) + b"7"
    )


def test_extension_lines_are_signed_or_the_checkpoint_is_not() -> None:
    extended = CHECKPOINT + "extension\n"
    assert statement(extended, VerifierKey("w", bytes(32), Algorithm.COSIGNATURE_ED25519), 1).endswith(
        extended.encode()
    )
    with pytest.raises(MalformedCheckpointError):
        statement(extended, VerifierKey("w", bytes(1312), Algorithm.ML_DSA_44), 1)


@pytest.mark.parametrize("size", ["0", "1", "9223372036854775807"])
def test_the_size_of_any_log_is_read(size: str) -> None:
    text = CHECKPOINT.replace("\n7\n", f"\n{size}\n")
    assert checkpoint_lines(text + "a\nb\n") == ("log.example", int(size), bytes(31) + b"7", ("a", "b"))


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("\n7\n", "\n07\n"),
        ("\n7\n", "\n+7\n"),
        ("\n7\n", "\n-7\n"),
        ("\n7\n", "\n 7\n"),
        ("\n7\n", "\n7_0\n"),
        ("\n7\n", "\n\u0667\n"),
        ("\n7\n", "\n9223372036854775808\n"),
        ("\n7\n", "\n" + "9" * 5000 + "\n"),
        ("\n7\n", "\n7\r\n"),
        ("\n7\n", "\n\n"),
        ("\n7\n", "\n7\n\n"),
        ("log.example\n", ""),
        ("log.example\n", "\n"),
        ("=\n", "=\n\n"),
        ("=\n", "="),
        ("=\n", "\n"),
        ("AAA", "AA"),
        ("AAA", "AAAAAAA"),
    ],
)
def test_what_is_no_checkpoint_cannot_be_cosigned(old: str, new: str) -> None:
    text = CHECKPOINT.replace(old, new, 1)
    assert text != CHECKPOINT
    for key in (
        VerifierKey("w", bytes(32), Algorithm.COSIGNATURE_ED25519),
        VerifierKey("w", bytes(1312), Algorithm.ML_DSA_44),
    ):
        with pytest.raises(MalformedCheckpointError):
            statement(text, key, 1)


def verify_ml_dsa(public: bytes, signature: bytes, message: bytes) -> bool:
    try:
        MLDSA44PublicKey.from_public_bytes(public).verify(signature, message)
    except InvalidSignature:
        return False
    return True


def test_a_checkpoint_that_a_foreign_log_signed_with_ml_dsa_opens() -> None:
    # FiloSottile/torchwood @ fac5716b, cmd/litewitness/testdata/mldsa.txt: made by filippo.io/mldsa.
    key = VerifierKey.parse_log((VECTORS / "torchwood_ml_dsa_44.vkey").read_text(encoding="utf-8").strip())
    data = (VECTORS / "torchwood_ml_dsa_44.note").read_bytes()
    opened = open_note(data, [key], verify_ml_dsa)
    assert (opened.text.split("\n")[:2], opened.signers) == (["example.com/mldsa-log", "1"], (key,))
    for old, new in (
        (b"\n1\n", b"\n2\n"),
        (b"+zoE", b"/zoE"),
        (b"log\n", b"log2\n"),
        (b"38=\n", b"38=\nx\n"),
    ):
        changed = data.replace(old, new, 1)
        assert changed != data
        with pytest.raises(NoteSignatureError):
            open_note(changed, [key], verify_ml_dsa)
    # The name is signed, and not only looked up.
    renamed = VerifierKey("example.com/other", key.public, Algorithm.ML_DSA_44)
    (line,) = Note.parse(data).signatures
    moved = Note(opened.text, (Signature(renamed.name, renamed.key_id, line.value),))
    with pytest.raises(NoteSignatureError):
        open_note(bytes(moved), [renamed], verify_ml_dsa)


def test_a_witness_never_opens_a_note_as_its_log(log) -> None:
    witness = VerifierKey(log.name, log.key.public, Algorithm.COSIGNATURE_ED25519)
    value = (1).to_bytes(8, "big") + log.private.sign(statement(CHECKPOINT, witness, 1))
    cosigned = Note(CHECKPOINT, (Signature(witness.name, witness.key_id, value),))
    with pytest.raises(NoteSignatureError, match="No known key"):
        open_note(bytes(cosigned), [witness, log.key], log.verify)


def test_a_signed_note_opens_and_names_its_signer(log) -> None:
    opened = open_note(log.sign("one\n\ntwo\n"), [log.key], log.verify)
    assert (opened.text, opened.signers) == ("one\n\ntwo\n", (log.key,))


def test_signatures_by_strangers_are_ignored(log, other_log) -> None:
    note = Note.parse(log.sign("text\n"))
    stranger = Note.parse(other_log.sign("text\n")).signatures
    assert open_note(bytes(Note(note.text, stranger + note.signatures)), [log.key], log.verify).signers == (
        log.key,
    )
    with pytest.raises(NoteSignatureError):
        open_note(bytes(Note(note.text, stranger)), [log.key], log.verify)


def test_a_wrong_signature_by_a_known_key_rejects_the_note(log, other_log) -> None:
    good = Note.parse(log.sign("text\n")).signatures
    wrong = Note.parse(other_log.sign("other text\n")).signatures
    with pytest.raises(NoteSignatureError):
        open_note(bytes(Note("text\n", good + wrong)), [log.key, other_log.key], log.verify)
    short = Signature(log.name, log.key.key_id, good[0].value[:63])
    with pytest.raises(NoteSignatureError):
        open_note(bytes(Note("text\n", (short,))), [log.key], log.verify)


def test_the_first_signature_by_a_key_counts(log) -> None:
    note = Note.parse(log.sign("text\n"))
    wrong = Signature(log.name, log.key.key_id, bytes(64))
    opened = open_note(
        bytes(Note(note.text, (*note.signatures, *note.signatures, wrong))), [log.key], log.verify
    )
    assert opened.signers == (log.key,)
    with pytest.raises(NoteSignatureError):
        open_note(bytes(Note(note.text, (wrong, *note.signatures))), [log.key], log.verify)


def test_a_note_signed_for_another_text_does_not_open(log) -> None:
    signature = log.private.sign(b"text\n")
    open_note(signed_note("text\n", log.key, signature), [log.key], log.verify)
    with pytest.raises(NoteSignatureError):
        open_note(signed_note("text \n", log.key, signature), [log.key], log.verify)


@pytest.mark.parametrize(
    "flaw",
    [
        "carriage return",
        "tab",
        "no blank line",
        "no last newline",
        "hyphen",
        "two spaces",
        "plus",
        "too many",
        "too large",
        "not UTF-8",
        "empty signature",
    ],
)
def test_a_note_with_this_flaw_is_malformed(log, flaw: str) -> None:
    note = log.sign("text\n")
    line = note.partition(b"\n\n")[2]
    flawed = {
        "carriage return": note.replace(b"text", b"text\r"),
        "tab": note.replace(b"text", b"te\txt"),
        "no blank line": note.replace(b"\n\n", b"\n"),
        "no last newline": note[:-1],
        "hyphen": note.replace("—".encode(), b"-"),
        "two spaces": note.replace(b"log.example ", b"log.example  "),
        "plus": note.replace(b"log.example ", b"log+example "),
        "too many": note + 100 * line,
        "too large": b"x" * MAX_NOTE_BYTES + note,
        "not UTF-8": b"\xff" + note,
        "empty signature": bytes(Note("text\n", (Signature(log.name, log.key.key_id, b""),))),
    }[flaw]
    assert flawed != note
    with pytest.raises(MalformedNoteError):
        Note.parse(flawed)


def test_a_key_name_is_one_printable_word() -> None:
    assert is_key_name("log.example/2026")
    for name in ("", "a b", "a+b", "a\u00a0b", "a\u2028", "a\x7f", "a\n", "\ud800"):
        assert not is_key_name(name)


def test_published_notes_are_judged_as_published(shared, log) -> None:
    for case in shared("signed-notes.json"):
        keys = [VerifierKey.parse(text) for text in case["vkeys"]]
        try:
            opened = open_note(base64.b64decode(case["note_b64"]), keys, log.verify)
        except (MalformedNoteError, NoteSignatureError):
            assert not case["valid"], case["case"]
        else:
            assert case["valid"], case["case"]
            assert sorted(key.name for key in opened.signers) == sorted(case["signed_by"])
