"""Follow a Lightseal receipt to the root of its log; needs nothing but Python 3.

    python3 check.py RECEIPT VERIFIER-KEY NOTE SIGNATURE

Proves that the payload is under the root in the log's checkpoint, and prints the
payload. Whether the log signed that checkpoint is left to a program with Ed25519:
the text it signed is written to NOTE, and its signature to SIGNATURE.
"""

import base64
import hashlib
import json
import sys
from pathlib import Path
from typing import Any


def _main(receipt_path: Path, key_path: Path, note_path: Path, signature_path: Path) -> None:
    receipt = json.loads(receipt_path.read_text(encoding="ascii"))
    name, key_id, key = key_path.read_text(encoding="utf-8").strip().split("+", 2)

    # 1. The salt and the payload open the entry's commitment.
    entry = receipt["entry"]
    committed = _sha256(b"lightseal/commit/v1\0" + _bytes(receipt["salt"]) + _canonical(receipt["payload"]))
    _require(holds=committed == _bytes(entry["commit"]), said="the payload is not the one that was recorded")

    # 2. The proof (c2sp.org/tlog-proof) and the checkpoint in it (c2sp.org/tlog-checkpoint).
    head, _, note = receipt["proof"].partition("\n\n")
    header, index, *path = head.split("\n")
    _require(holds=header == "c2sp.org/tlog-proof@v1", said="the proof is of another kind")
    text, _, signatures = note.rpartition("\n\n")
    origin, size, root = text.split("\n")[:3]
    _require(holds=origin == name, said="the checkpoint is of another log")

    # 3. From the leaf to the root (RFC 9162, 2.1.3.2).
    place, last = int(index.split(" ")[1]), int(size) - 1
    _require(holds=0 <= place <= last, said="the entry lies outside the tree")
    node = _sha256(b"\0" + _canonical(entry))
    for step in map(_bytes, path):
        _require(holds=last > 0, said="the path is too long")
        if place % 2 or place == last:
            node = _sha256(b"\1" + step + node)
            while place and place % 2 == 0:
                place, last = place // 2, last // 2
        else:
            node = _sha256(b"\1" + node + step)
        place, last = place // 2, last // 2
    _require(holds=last == 0, said="the path is too short")
    _require(holds=node == _bytes(root), said="the path leads to another root")

    # 4. The signature line of the key (c2sp.org/signed-note), for others to check.
    known = _sha256(name.encode() + b"\n" + _bytes(key))[:4]
    _require(holds=known.hex() == key_id, said="the key does not fit its name")
    lines = (line.split(" ") for line in signatures.splitlines())
    values = [_bytes(encoded) for _, signer, encoded in lines if signer == name]
    ours = [value[4:] for value in values if value[:4] == known]
    _require(holds=bool(ours), said="the log of this key did not sign the checkpoint")
    note_path.write_bytes(text.encode() + b"\n")
    signature_path.write_bytes(ours[0])

    said = {"log": name, "index": int(index.split(" ")[1]), "logged_at": entry["time"], **receipt["payload"]}
    for field, value in said.items():
        sys.stdout.write(f"{_on_one_line(field)} {_on_one_line(value)}\n")


def _sha256(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()


def _bytes(text: str) -> bytes:
    return base64.b64decode(text, validate=True)


def _canonical(fields: Any) -> bytes:
    return json.dumps(fields, sort_keys=True, separators=(",", ":")).encode("ascii")


def _on_one_line(value: Any) -> str:
    return json.dumps(value).strip('"')


def _require(*, holds: bool, said: str) -> None:
    if not holds:
        sys.exit(f"check.py: {said}")


if __name__ == "__main__":
    _main(*map(Path, sys.argv[1:]))
