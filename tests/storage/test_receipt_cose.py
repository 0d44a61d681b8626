import hashlib
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import cbor2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from storage import payload
from storage.checkpoint import Checkpoint
from storage.entry import Entry, Kind, commitment
from storage.errors import (
    MalformedKeyError,
    MalformedReceiptError,
    NoteSignatureError,
    ProofError,
)
from storage.merkle import Tree, leaf_hash, node_hash
from storage.note import Algorithm, VerifierKey
from storage.proof import InclusionProof
from storage.receipt import Receipt
from storage.receipt_cose import MAX_COSE_BYTES, CoseReceipt, export

AT = datetime(2026, 1, 1, tzinfo=UTC)
SIZES = (1, 2, 3, 6, 7, 8, 9)
digests = st.binary(min_size=32, max_size=32)


def spec_root(leaves: list[bytes]) -> bytes:
    """RFC 6962, 2.1, word for word."""
    if len(leaves) == 1:
        return leaves[0]
    split = 1 << (len(leaves) - 1).bit_length() - 1
    return node_hash(spec_root(leaves[:split]), spec_root(leaves[split:]))


def recorded(log: Any, size: int) -> list[Receipt]:
    """The receipts of all entries of a log of this size."""
    contents = [payload.canonical({"number": number}) for number in range(size)]
    salts = [hashlib.sha256(b"salt %d" % number).digest() for number in range(size)]
    entries = [
        Entry(Kind.SIGN, commitment(salt, content), bytes(32), AT)
        for salt, content in zip(salts, contents, strict=True)
    ]
    leaves = [entry.leaf for entry in entries]
    note = log.sign(str(Checkpoint(log.name, size, spec_root(leaves))))
    tree = Tree(size, lambda _level, _number, _width: b"".join(leaves))
    return [
        Receipt(
            contents[index], salts[index], entries[index], InclusionProof(index, tree.inclusion(index), note)
        )
        for index in range(size)
    ]


def exported(log: Any, receipt: Receipt) -> CoseReceipt:
    return export(receipt, log.key, log.verify, log.private.sign)


def head(major: int, number: int) -> bytes:
    """RFC 8949, 3, for what is small: a major type and its argument."""
    if number < 24:
        return bytes([major << 5 | number])
    return bytes([major << 5 | 24, number]) if number < 256 else bytes([major << 5 | 25]) + number.to_bytes(2)


def text(value: str) -> bytes:
    return head(3, len(value.encode())) + value.encode()


def string(value: bytes) -> bytes:
    return head(2, len(value)) + value


@pytest.mark.parametrize("size", SIZES)
def test_an_exported_receipt_reads_back_and_leads_to_the_root_of_the_log(log: Any, size: int) -> None:
    receipts = recorded(log, size)
    root = spec_root([receipt.entry.leaf for receipt in receipts])
    for receipt in receipts:
        read = CoseReceipt.parse(bytes(exported(log, receipt)))
        assert read == exported(log, receipt)
        assert read.check(receipt.entry, log.key, log.verify) == root


def test_the_bytes_are_those_that_rfc_9942_describes(log: Any) -> None:
    receipt = recorded(log, 6)[4]
    protected = (
        b"\xa4\x01\x27"  # alg: EdDSA
        + (b"\x04" + string(log.key.key_id))  # kid
        + (b"\x0f\xa1\x01" + text(log.name))  # CWT claims: iss
        + b"\x19\x01\x8b\x01"  # vds: RFC9162_SHA256
    )
    path = receipt.proof.hashes
    proof = b"\x83\x06\x04" + head(4, len(path)) + b"".join(map(string, path))
    root = spec_root([item.entry.leaf for item in recorded(log, 6)])
    signature = log.private.sign(b"\x84" + text("Signature1") + string(protected) + b"\x40" + string(root))
    assert bytes(exported(log, receipt)) == (
        b"\xd2\x84"  # COSE_Sign1
        + string(protected)
        + (b"\xa1\x19\x01\x8c\xa1\x20\x81" + string(proof))  # vdp: one inclusion proof
        + b"\xf6"  # the payload is detached
        + string(signature)
    )


def test_no_changed_bit_leads_to_another_root(log: Any) -> None:
    receipt = recorded(log, 7)[2]
    good = exported(log, receipt)
    data = bytes(good)
    root = good.check(receipt.entry, log.key, log.verify)
    refused = 0
    for at in range(len(data)):
        for bit in range(8):
            changed = data[:at] + bytes([data[at] ^ 1 << bit]) + data[at + 1 :]
            try:
                read = CoseReceipt.parse(changed)
                led = read.check(receipt.entry, log.key, log.verify)
            except (MalformedReceiptError, ProofError):
                refused += 1
                continue
            assert led == root
            assert replace(read, size=good.size, index=good.index) == good  # what no signature covers
    assert refused >= len(data) * 8 - 8


def test_size_and_index_are_the_sender_s_word(log: Any) -> None:
    receipt = recorded(log, 7)[2]
    good = exported(log, receipt)
    assert good.check(receipt.entry, log.key, log.verify) == replace(good, size=8).check(
        receipt.entry, log.key, log.verify
    )


def test_another_entry_is_refused(log: Any) -> None:
    receipts = recorded(log, 7)
    with pytest.raises(NoteSignatureError):
        exported(log, receipts[2]).check(receipts[3].entry, log.key, log.verify)


def test_another_key_of_the_same_name_is_refused(log: Any, other_log: Any) -> None:
    receipt = recorded(log, 7)[2]
    good = exported(log, receipt)
    with pytest.raises(NoteSignatureError):
        good.check(receipt.entry, other_log.key, log.verify)
    claimed = replace(good, key_id=other_log.key.key_id)
    with pytest.raises(NoteSignatureError):
        claimed.check(receipt.entry, other_log.key, log.verify)


def test_the_same_key_under_another_name_is_refused(log: Any) -> None:
    receipt = recorded(log, 7)[2]
    renamed = replace(log.key, name="other.example")
    good = exported(log, receipt)
    for claimed in (good, replace(good, origin=renamed.name, key_id=renamed.key_id)):
        with pytest.raises(NoteSignatureError):
            claimed.check(receipt.entry, renamed, log.verify)


def test_no_root_is_signed_that_the_log_had_not_signed(log: Any, other_log: Any) -> None:
    asked: list[bytes] = []
    forged = recorded(other_log, 7)[2]
    moved = recorded(log, 7)[2]
    moved = replace(moved, proof=replace(moved.proof, index=3))
    for receipt in (forged, moved):
        with pytest.raises(ProofError):
            export(receipt, log.key, log.verify, lambda message: asked.append(message) or b"")
    assert asked == []


def test_a_signature_by_another_key_is_not_exported(log: Any) -> None:
    stranger = type(log).named("stranger.example", b"a stranger's key")
    with pytest.raises(NoteSignatureError):
        export(recorded(log, 7)[2], log.key, log.verify, stranger.private.sign)


def test_a_key_of_another_type_neither_signs_nor_checks(log: Any) -> None:
    receipt = recorded(log, 7)[2]
    key = VerifierKey(log.name, bytes(1312), Algorithm.ML_DSA_44)
    with pytest.raises(MalformedKeyError):
        export(receipt, key, log.verify, log.private.sign)
    with pytest.raises(MalformedKeyError):
        exported(log, receipt).check(receipt.entry, key, log.verify)


def message(log: Any, alter: Callable[[dict[str, Any]], None]) -> bytes:
    """A receipt written by hand, with one part altered."""
    good = exported(log, recorded(log, 7)[2])
    parts: dict[str, Any] = {
        "header": {1: -8, 4: good.key_id, 15: {1: good.origin}, 395: 1},
        "proof": [good.size, good.index, list(good.hashes)],
        "more": {},
        "payload": None,
        "signature": good.signature,
        "tag": 18,
        "after": b"",
    }
    alter(parts)
    protected = cbor2.dumps(parts["header"], canonical=True)
    unprotected = {396: {-1: [cbor2.dumps(parts["proof"])]}, **parts["more"]}
    body = [protected, unprotected, parts["payload"], parts["signature"]]
    return cbor2.dumps(cbor2.CBORTag(parts["tag"], body)) + parts["after"]


def test_what_is_altered_below_is_accepted_when_nothing_is(log: Any) -> None:
    assert message(log, lambda _parts: None) == bytes(exported(log, recorded(log, 7)[2]))


@pytest.mark.parametrize(
    ("part", "value"),
    [
        ("tag", 98),
        ("payload", bytes(32)),
        ("payload", b""),
        ("more", {4: b"key"}),
        ("more", {394: []}),
        ("signature", bytes(63)),
        ("signature", "0" * 64),
        ("after", b"\xf6"),
        ("proof", [7, 2]),
        ("proof", [7, 2, [], 1]),
        ("proof", [7, 7, [bytes(32)]]),
        ("proof", [7, -1, [bytes(32)]]),
        ("proof", [7.0, 2, [bytes(32)]]),
        ("proof", [7, True, [bytes(32)]]),
        ("proof", [7, 2, [bytes(31)]]),
        ("proof", [7, 2, ["0" * 32]]),
        ("proof", [7, 2, [bytes(32)] * 64]),
        ("proof", [1 << 63, 2, [bytes(32)]]),
        ("proof", None),
        ("header", {}),
        ("header", None),
        ("header", {1: -8, 4: b"1234", 15: {1: "log.example"}, 395: 2}),
        ("header", {1: -7, 4: b"1234", 15: {1: "log.example"}, 395: 1}),
        ("header", {1: -8, 4: b"12345", 15: {1: "log.example"}, 395: 1}),
        ("header", {1: -8, 4: b"1234", 15: {1: "two words"}, 395: 1}),
        ("header", {1: -8, 4: b"1234", 15: {1: b"log.example"}, 395: 1}),
        ("header", {1: -8, 4: b"1234", 15: {1: "log.example", 6: 1}, 395: 1}),
        ("header", {1: -8, 2: [395], 4: b"1234", 15: {1: "log.example"}, 395: 1}),
    ],
)
def test_what_we_would_not_write_is_malformed(log: Any, part: str, value: object) -> None:
    with pytest.raises(MalformedReceiptError):
        CoseReceipt.parse(message(log, lambda parts: parts.update({part: value})))


def test_another_encoding_of_the_same_is_malformed(log: Any) -> None:
    data = bytes(exported(log, recorded(log, 7)[2]))
    assert data[:2] == b"\xd2\x84"
    for other in (
        data[1:],
        b"\xd8\x12" + data[1:],
        b"\xd2\x98\x04" + data[2:],
        b"\xd2\x9f" + data[2:] + b"\xff",
    ):
        with pytest.raises(MalformedReceiptError):
            CoseReceipt.parse(other)


def test_a_receipt_that_is_too_large_is_not_decoded() -> None:
    with pytest.raises(MalformedReceiptError, match="larger"):
        CoseReceipt.parse(b"\x81" * (MAX_COSE_BYTES + 1))


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.binary(max_size=40) | st.text(max_size=10),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.integers(-2, 400) | st.text(max_size=2), inner, max_size=4)
        | st.builds(cbor2.CBORTag, st.integers(0, 300), inner)
    ),
    max_leaves=12,
)
encoded = values.map(cbor2.dumps)
headers = st.fixed_dictionaries({396: st.fixed_dictionaries({-1: st.lists(encoded, max_size=2)})})
messages = st.builds(
    lambda *parts: cbor2.dumps(cbor2.CBORTag(18, list(parts))), encoded, headers | values, values, values
)


@given(st.binary(max_size=200) | encoded | messages)
def test_parsing_raises_only_its_own_error(data: bytes) -> None:
    try:
        read = CoseReceipt.parse(data)
    except MalformedReceiptError:
        return
    assert bytes(read) == data


@given(
    st.builds(
        CoseReceipt,
        st.from_regex(r"[a-z]{1,30}", fullmatch=True),
        st.binary(min_size=4, max_size=4),
        st.integers(1 << 20, (1 << 63) - 1),
        st.integers(0, 1 << 20).filter(lambda index: index < 1 << 20),
        st.lists(digests, max_size=63).map(tuple),
        st.binary(min_size=64, max_size=64),
    )
)
def test_a_receipt_reads_back_as_it_was_written(receipt: CoseReceipt) -> None:
    assert CoseReceipt.parse(bytes(receipt)) == receipt


def test_no_note_begins_as_what_is_signed_here(log: Any) -> None:
    signed: list[bytes] = []
    receipt = recorded(log, 7)[2]
    export(receipt, log.key, log.verify, lambda data: signed.append(data) or log.private.sign(data))
    assert len(signed) == 1
    with pytest.raises(UnicodeDecodeError):
        signed[0].decode()
    assert leaf_hash(receipt.entry.body) == receipt.entry.leaf
