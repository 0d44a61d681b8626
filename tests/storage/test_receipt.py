import dataclasses
import os
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from storage import payload
from storage.entry import Entry, Kind
from storage.errors import Error, MalformedReceiptError
from storage.note import Note, Signature, VerifierKey
from storage.proof import InclusionProof
from storage.receipt import MAX_RECEIPT_BYTES, Receipt

VECTORS = Path(__file__).parent / "vectors"
KEY = VerifierKey.parse((VECTORS / "key.txt").read_text().rstrip("\n"))
NOTE = bytes(Note("log.example\n1\nroot\n", (Signature("log.example", b"keys", b"signature"),)))
digests = st.binary(min_size=32, max_size=32)
receipts = st.builds(
    Receipt,
    st.dictionaries(st.text(st.characters(exclude_categories=["Cs"]), max_size=5), st.integers(0, 99)).map(
        payload.canonical
    ),
    digests,
    st.builds(Entry, st.sampled_from(Kind), digests, digests, st.just(datetime(2026, 1, 1, tzinfo=UTC))),
    st.builds(InclusionProof, st.integers(0, 99), st.lists(digests, max_size=3).map(tuple), st.just(NOTE)),
    st.none() | st.binary(max_size=40),
)
STANDING = {"receipt", "receipt_with_token"}
FLAWS = {
    "receipt_payload_changed": "proof-invalid",
    "receipt_salt_changed": "proof-invalid",
    "receipt_entry_redated": "proof-invalid",
    "receipt_index_changed": "proof-invalid",
    "receipt_proof_of_another_entry": "proof-invalid",
    "receipt_proof_too_short": "proof-invalid",
    "receipt_root_changed": "proof-invalid",
    "receipt_signed_by_another_key": "note-unverified",
    "receipt_of_another_log": "note-unverified",
    "receipt_spaces_added": "receipt-malformed",
    "receipt_field_twice": "receipt-malformed",
    "receipt_field_missing": "receipt-malformed",
    "receipt_field_added": "receipt-malformed",
    "receipt_of_next_version": "receipt-malformed",
    "receipt_cut": "receipt-malformed",
    "receipt_index_padded": "receipt-malformed",
    "receipt_fraction_in_payload": "receipt-malformed",
}


@given(receipts)
def test_a_receipt_reads_back_as_it_was_written(receipt: Receipt) -> None:
    assert Receipt.parse(str(receipt)) == receipt


@given(
    st.text(max_size=60)
    | receipts.map(str).flatmap(
        lambda text: st.builds(
            lambda at, new: text[:at] + new + text[at + 1 :], st.integers(0, len(text)), st.text(max_size=2)
        )
    )
)
def test_reading_accepts_what_it_would_write_or_raises_its_own_error(text: str) -> None:
    try:
        assert str(Receipt.parse(text)) == text
    except MalformedReceiptError:
        pass


@pytest.mark.parametrize("name", sorted(STANDING))
def test_a_receipt_proves_itself_with_nothing_but_the_key(name: str, log) -> None:
    receipt = Receipt.parse((VECTORS / f"{name}.json").read_text())
    checkpoint = receipt.check([KEY], log.verify)
    assert (checkpoint.origin, checkpoint.size) == (KEY.name, 5)
    assert payload.parse(receipt.payload) == {"claim": "é", "number": 3}


@pytest.mark.parametrize(("name", "code"), FLAWS.items())
def test_a_receipt_with_this_flaw_does_not_stand(name: str, code: str, log) -> None:
    with pytest.raises(Error) as caught:
        Receipt.parse((VECTORS / f"{name}.json").read_text()).check([KEY], log.verify)
    assert caught.value.code == code


def test_every_receipt_in_the_folder_is_judged() -> None:
    assert {path.stem for path in VECTORS.glob("receipt*.json")} == STANDING | set(FLAWS)


def test_a_receipt_is_worth_nothing_without_the_right_key(log) -> None:
    receipt = Receipt.parse((VECTORS / "receipt.json").read_text())
    for keys in ([], [log.key], [dataclasses.replace(log.key, name=KEY.name)]):
        with pytest.raises(Error) as caught:
            receipt.check(keys, log.verify)
        assert caught.value.code == "note-unverified"


@pytest.mark.parametrize(
    "text", ["[" * 100_000, '{"a":' * 40_000, "null", "[]", '{"token": 1}', " " * (MAX_RECEIPT_BYTES + 1)]
)
def test_hostile_json_is_only_malformed(text: str) -> None:
    with pytest.raises(MalformedReceiptError):
        Receipt.parse(text)


def test_the_vectors_are_what_their_script_makes(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    subprocess.run([sys.executable, VECTORS / "make.py", tmp_path], check=True, env=environment)
    made = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert made == {
        path.name: path.read_bytes() for path in VECTORS.iterdir() if path.suffix in {".json", ".txt"}
    }
