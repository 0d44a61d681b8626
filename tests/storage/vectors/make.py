"""Make the vectors beside this file: `python tests/storage/vectors/make.py [folder]`.

Tree hashes and proofs are written from the definitions in RFC 6962, 2.1, without
`storage`. The receipts are made by `storage` with a key that everybody knows.
"""

import dataclasses
import hashlib
import json
import sys
from datetime import UTC, datetime
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from storage import payload
from storage.checkpoint import Checkpoint
from storage.entry import Entry, Kind, commitment
from storage.note import VerifierKey, signed_note
from storage.proof import InclusionProof
from storage.receipt import Receipt

ORIGIN = "log.example/vectors"
LEAVES = [hashlib.sha256(bytes([number])).digest()[:number] for number in range(12)]


def mth(leaves: list[bytes]) -> bytes:
    """MTH(D[n]), RFC 6962, 2.1."""
    if not leaves:
        return hashlib.sha256().digest()
    if len(leaves) == 1:
        return hashlib.sha256(b"\0" + leaves[0]).digest()
    k = 1 << (len(leaves) - 1).bit_length() - 1
    return hashlib.sha256(b"\1" + mth(leaves[:k]) + mth(leaves[k:])).digest()


def path(m: int, leaves: list[bytes]) -> list[bytes]:
    """PATH(m, D[n]), RFC 6962, 2.1.1."""
    if len(leaves) == 1:
        return []
    k = 1 << (len(leaves) - 1).bit_length() - 1
    if m < k:
        return [*path(m, leaves[:k]), mth(leaves[k:])]
    return [*path(m - k, leaves[k:]), mth(leaves[:k])]


def subproof(m: int, leaves: list[bytes], whole: int) -> list[bytes]:
    """SUBPROOF(m, D[n], b), RFC 6962, 2.1.2."""
    if m == len(leaves):
        return [] if whole else [mth(leaves)]
    k = 1 << (len(leaves) - 1).bit_length() - 1
    if m <= k:
        return [*subproof(m, leaves[:k], whole), mth(leaves[k:])]
    return [*subproof(m - k, leaves[k:], 0), mth(leaves[:k])]


def tree() -> str:
    """Write every root, inclusion proof and consistency proof of a small tree."""
    sizes = range(1, len(LEAVES) + 1)
    document = {
        "leaves": [leaf.hex() for leaf in LEAVES],
        "roots": [mth(LEAVES[:size]).hex() for size in (0, *sizes)],
        "inclusion": [
            {"index": m, "size": n, "path": [item.hex() for item in path(m, LEAVES[:n])]}
            for n in sizes
            for m in range(n)
        ],
        "consistency": [
            {"old": m, "new": n, "path": [item.hex() for item in subproof(m, LEAVES[:n], 1)]}
            for n in sizes
            for m in range(1, n + 1)
        ],
    }
    return json.dumps(document, indent=1) + "\n"


def receipts() -> dict[str, str]:
    """Write one receipt that stands, and one for each way in which it would not."""
    private = Ed25519PrivateKey.from_private_bytes(hashlib.sha256(b"a key everybody knows").digest())
    other = Ed25519PrivateKey.from_private_bytes(hashlib.sha256(b"another key").digest())
    key = VerifierKey(ORIGIN, private.public_key().public_bytes_raw())
    at = datetime(2026, 11, 25, 8, 0, tzinfo=UTC)
    salts = [hashlib.sha256(b"salt" + bytes([number])).digest() for number in range(5)]
    payloads = [payload.canonical({"claim": "é", "number": number}) for number in range(5)]
    entries = [
        Entry(Kind.SIGN, commitment(salt, data), hashlib.sha256(b"pseudonym").digest(), at)
        for salt, data in zip(salts, payloads, strict=True)
    ]
    bodies = [entry.body for entry in entries]

    def note(root: bytes, signer: Ed25519PrivateKey, origin: str = ORIGIN) -> bytes:
        text = str(Checkpoint(origin, len(bodies), root))
        return signed_note(text, key, signer.sign(text.encode()))

    proof = InclusionProof(3, tuple(path(3, bodies)), note(mth(bodies), private))
    good = Receipt(payloads[3], salts[3], entries[3], proof)
    elsewhere = dataclasses.replace(proof, note=note(mth(bodies), private, "log.example/elsewhere"))
    flawed = {
        "receipt": good,
        "receipt_with_token": dataclasses.replace(good, token=b"a token, which nobody verifies here"),
        "receipt_payload_changed": dataclasses.replace(good, payload=payloads[2]),
        "receipt_salt_changed": dataclasses.replace(good, salt=salts[2]),
        "receipt_entry_redated": dataclasses.replace(
            good, entry=dataclasses.replace(entries[3], logged_at=at.replace(year=2025))
        ),
        "receipt_index_changed": dataclasses.replace(good, proof=dataclasses.replace(proof, index=2)),
        "receipt_proof_of_another_entry": dataclasses.replace(
            good, proof=dataclasses.replace(proof, hashes=tuple(path(2, bodies)))
        ),
        "receipt_proof_too_short": dataclasses.replace(
            good, proof=dataclasses.replace(proof, hashes=proof.hashes[:-1])
        ),
        "receipt_root_changed": dataclasses.replace(
            good, proof=dataclasses.replace(proof, note=note(mth(bodies[:4]), private))
        ),
        "receipt_signed_by_another_key": dataclasses.replace(
            good, proof=dataclasses.replace(proof, note=note(mth(bodies), other))
        ),
        "receipt_of_another_log": dataclasses.replace(good, proof=elsewhere),
    }
    written = {f"{name}.json": str(receipt) for name, receipt in flawed.items()}
    text = written["receipt.json"]
    written |= {
        "receipt_spaces_added.json": text.replace('": ', '" : ', 1),
        "receipt_field_twice.json": text.replace('"token": null', '"token": null,\n  "token": null'),
        "receipt_field_missing.json": text.replace(',\n  "token": null', ""),
        "receipt_field_added.json": text.replace('"token": null', '"token": null,\n  "trusted": true'),
        "receipt_of_next_version.json": text.replace("lightseal-receipt/1", "lightseal-receipt/2"),
        "receipt_cut.json": text[: len(text) // 2],
        "receipt_index_padded.json": text.replace("index 3", "index 03"),
        "receipt_fraction_in_payload.json": text.replace('"number": 3', '"number": 3.0'),
        "key.txt": f"{key}\n",
    }
    return written


def main() -> None:
    """Write all files into the folder given, or beside this script."""
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent
    for name, text in {"tree.json": tree(), **receipts()}.items():
        (folder / name).write_text(text, encoding="utf-8", newline="\n")


if __name__ == "__main__":
    main()
