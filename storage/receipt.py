"""Receipts: one file with which a stranger proves, offline, that something was recorded.

Pure. The proof inside is a c2sp.org/tlog-proof@v1 that public programs read as well.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass

from storage import base64text, payload
from storage.checkpoint import Checkpoint, open_checkpoint
from storage.entry import SALT_BYTES, Entry, commitment
from storage.errors import MalformedError, MalformedReceiptError, ProofError
from storage.merkle import verify_inclusion
from storage.note import VerifierKey, Verify
from storage.proof import InclusionProof

SCHEMA = "lightseal-receipt/1"
MAX_RECEIPT_BYTES = 256 << 10


@dataclass(frozen=True, slots=True)
class Receipt:
    """A payload, the salt that opens its entry, and the entry's way to a signed checkpoint."""

    payload: bytes
    salt: bytes
    entry: Entry
    proof: InclusionProof
    token: bytes | None = None

    @classmethod
    def parse(cls, text: str) -> "Receipt":
        """Read the text form, accepting only what `str` would write. Verifies nothing."""
        if len(text) > MAX_RECEIPT_BYTES:
            raise MalformedReceiptError(f"The receipt is larger than {MAX_RECEIPT_BYTES} bytes.")
        try:
            document = json.loads(text)
            token = document["token"]
            receipt = cls(
                payload.canonical(document["payload"]),
                base64text.decode(document["salt"]),
                Entry.parse(payload.canonical(document["entry"])),
                InclusionProof.parse(document["proof"]),
                None if token is None else base64text.decode(token),
            )
            same = document["schema"] == SCHEMA and len(receipt.salt) == SALT_BYTES and str(receipt) == text
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError, MalformedError) as error:
            raise MalformedReceiptError("The text is not a receipt.") from error
        if not same:
            raise MalformedReceiptError("The text is not a receipt as we would write it.")
        return receipt

    def check(self, keys: Sequence[VerifierKey], verify: Verify) -> Checkpoint:
        """Return the checkpoint under which this payload is provably recorded.

        Proves that the log whose key is in `keys` committed itself to this payload.
        Does not verify the token, nor that the payload describes any media, nor that
        others are shown the same log; the time in the entry is the operator's word.
        Raises `ProofError` where a step fails, and `MalformedError` for a signed
        note that holds no checkpoint.
        """
        # 1. The salt and the payload open the commitment.
        if commitment(self.salt, self.payload) != self.entry.commitment:
            raise ProofError("The payload is not the one that was recorded.")
        # 2. The log named by the checkpoint signed it (c2sp.org/tlog-checkpoint).
        checkpoint = open_checkpoint(self.proof.note, keys, verify)
        # 3. The entry is the leaf at its index of that tree (RFC 9162, 2.1.3.2).
        proof = self.proof
        verify_inclusion(self.entry.leaf, proof.index, checkpoint.size, proof.hashes, checkpoint.root)
        return checkpoint

    def __str__(self) -> str:
        document = {
            "entry": json.loads(self.entry.body),
            "payload": json.loads(self.payload),
            "proof": str(self.proof),
            "salt": base64text.encode(self.salt),
            "schema": SCHEMA,
            "token": None if self.token is None else base64text.encode(self.token),
        }
        return json.dumps(document, indent=2, sort_keys=True) + "\n"
