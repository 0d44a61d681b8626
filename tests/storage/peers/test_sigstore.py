"""The two verifiers of Sigstore follow our proofs of inclusion to the roots we signed."""

from collections.abc import Iterator
from typing import Any

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from storage import base64text
from storage.checkpoint import Checkpoint
from storage.note import Note

Claim = dict[str, Any]


@pytest.fixture(scope="module", params=["sigstore", "sigstore_js"])
def verifier(request: pytest.FixtureRequest) -> tuple[str, ...]:
    command: tuple[str, ...] = request.getfixturevalue(request.param)
    return command


@pytest.fixture
def claims(grown: Any) -> list[Claim]:
    """Every receipt of every size, in the words of a Rekor entry."""
    return [
        {
            "entry": base64text.encode(receipt.entry.body),
            "index": receipt.proof.index,
            "size": published.size,
            "hashes": list(map(base64text.encode, receipt.proof.hashes)),
            "root": base64text.encode(Checkpoint.parse(Note.parse(published.note).text).root),
            "note": published.note.decode(),
        }
        for published in grown.at.values()
        for receipt in published.receipts
    ]


def question(log: Any, claims: list[Claim]) -> dict[str, object]:
    public = log.private.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return {
        "name": log.name,
        "key": base64text.encode(public),
        "key_id": base64text.encode(log.key.key_id),
        "claims": claims,
    }


def flipped(text: str) -> str:
    data = base64text.decode(text)
    return base64text.encode(bytes([data[0] ^ 1]) + data[1:])


def lies(claim: Claim, other: Claim, log: Any, other_log: Any) -> Iterator[Claim]:
    """The claim with one thing wrong, each in another way."""
    note = Note.parse(claim["note"].encode())
    yield {**claim, "entry": flipped(claim["entry"])}
    yield {**claim, "hashes": [*claim["hashes"], claim["root"]]}
    for number, item in enumerate(claim["hashes"]):
        yield {**claim, "hashes": [*claim["hashes"][:number], flipped(item), *claim["hashes"][number + 1 :]]}
    yield {**claim, "hashes": claim["hashes"][:-1]} if claim["hashes"] else {**claim, "index": 1}
    yield {**claim, "index": claim["size"] - 1 - claim["index"] if claim["size"] % 2 == 0 else claim["size"]}
    yield {**claim, "note": other["note"]}
    yield {**claim, "note": other_log.sign(note.text).decode()}
    yield {**claim, "note": claim["note"].replace(f"\n{claim['size']}\n", f"\n{claim['size'] + 1}\n")}
    yield {**claim, "note": log.sign(str(Checkpoint(log.name, claim["size"], bytes(32)))).decode()}


def test_they_accept_every_receipt(
    verifier: tuple[str, ...], ask: Any, log: Any, claims: list[Claim]
) -> None:
    assert len(claims) > 60
    assert ask(verifier, question(log, claims)) == [""] * len(claims)


def test_they_refuse_whatever_is_altered(
    verifier: tuple[str, ...], ask: Any, log: Any, other_log: Any, claims: list[Claim]
) -> None:
    altered = []
    for claim in claims:
        other = next(other for other in claims if other["size"] != claim["size"])
        altered += lies(claim, other, log, other_log)
    answers = ask(verifier, question(log, altered))
    believed = [claim for claim, answer in zip(altered, answers, strict=True) if answer == ""]
    assert believed == []
