import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from storage.errors import MalformedKeyError, MalformedNoteError, NoteSignatureError
from storage.note import (
    MAX_NOTE_BYTES,
    Note,
    Signature,
    VerifierKey,
    is_key_name,
    open_note,
    signed_note,
)

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
