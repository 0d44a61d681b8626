"""Run by the tests as a process of its own: `append_forever.py URL TAG BATCHES`.

Appends batches of three records to the ledger and prints each index and claim once
it is acknowledged. With 0 batches it goes on until it is killed.
"""

import hashlib
import itertools
import sys
from datetime import UTC, datetime

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from storage import payload
from storage.entry import Kind
from storage.ledger import Ledger, Lookup, Record
from storage.note import VerifierKey, signed_note


def main() -> None:
    """Append and acknowledge."""
    url, tag, batches = sys.argv[1:]
    private = Ed25519PrivateKey.from_private_bytes(hashlib.sha256(b"a key for tests").digest())
    key = VerifierKey("log.example", private.public_key().public_bytes_raw())

    def sign(text: str) -> bytes:
        return signed_note(text, key, private.sign(text.encode()))

    with Ledger.open(url) as ledger:
        for number in range(int(batches)) if int(batches) else itertools.count():
            claims = [f"{tag}.{number}.{part}" for part in range(3)]
            records = [
                Record(
                    Kind.SIGN,
                    payload.canonical({"claim": claim}),
                    hashlib.sha256(b"salt" + claim.encode()).digest(),
                    hashlib.sha256(b"key").digest(),
                    (Lookup("claim", claim.encode()),),
                )
                for claim in claims
            ]
            indices = ledger.append(records, datetime.now(UTC), sign)
            lines = "".join(f"{index} {claim}\n" for index, claim in zip(indices, claims, strict=True))
            sys.stdout.write(lines)
            sys.stdout.flush()


if __name__ == "__main__":
    main()
