"""scitt-cose verifies our COSE receipts (RFC 9942), for their entries and for no others."""

from typing import Any

import cbor2
import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from storage.checkpoint import Checkpoint
from storage.note import Note
from storage.receipt_cose import CoseReceipt, export

Claim = dict[str, str]


def question(log: Any, claims: list[Claim]) -> dict[str, object]:
    pem = log.private.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    return {"key": pem.decode(), "claims": claims}


def claim(receipt: bytes | CoseReceipt, entry: bytes) -> Claim:
    return {"receipt": bytes(receipt).hex(), "entry": entry.hex()}


@pytest.fixture
def exported(grown: Any, log: Any) -> list[tuple[CoseReceipt, bytes, str]]:
    """Every receipt of every size as a COSE receipt, with its entry and the root in the checkpoint."""
    return [
        (
            export(receipt, log.key, log.verify, log.private.sign),
            receipt.entry.body,
            Checkpoint.parse(Note.parse(receipt.proof.note).text).root.hex(),
        )
        for published in grown.at.values()
        for receipt in published.receipts
    ]


def test_it_accepts_every_receipt_and_finds_the_root_we_signed(
    scitt: tuple[str, ...], ask: Any, log: Any, exported: list[tuple[CoseReceipt, bytes, str]]
) -> None:
    claims = [claim(receipt, body) for receipt, body, _ in exported]
    assert len(claims) > 60
    assert ask(scitt, question(log, claims)) == [root for _, _, root in exported]


def test_it_refuses_every_receipt_for_another_entry(
    scitt: tuple[str, ...], ask: Any, log: Any, exported: list[tuple[CoseReceipt, bytes, str]]
) -> None:
    bodies = [body for _, body, _ in exported]
    others = [next(body for body in bodies if body != own) for own in bodies]
    claims = [claim(receipt, other) for (receipt, _, _), other in zip(exported, others, strict=True)]
    assert ask(scitt, question(log, claims)) == [None] * len(claims)


def test_it_refuses_a_changed_receipt_and_another_key(
    scitt: tuple[str, ...], ask: Any, log: Any, other_log: Any, exported: list[tuple[CoseReceipt, bytes, str]]
) -> None:
    receipt, body, root = exported[-1]
    data = bytes(receipt)
    protected, unprotected, _, value = cbor2.loads(data).value
    attached = cbor2.CBORTag(18, [protected, unprotected, bytes.fromhex(root), value])
    signature = data[:-1] + bytes([data[-1] ^ 1])
    path = data.replace(receipt.hashes[0], bytes(32))
    origin = data.replace(log.name.encode(), b"log.exomple")
    wrong = [signature, path, origin, cbor2.dumps(attached), data[1:], data + b"\0"]
    assert all(item != data for item in wrong)
    assert ask(scitt, question(log, [claim(item, body) for item in wrong])) == [None] * len(wrong)
    assert ask(scitt, question(other_log, [claim(data, body)])) == [None]
    assert ask(scitt, question(log, [claim(data, body)])) == [root]
