"""COSE receipts (RFC 9942): a receipt's proof in the form that COSE programs read.

Pure. A COSE receipt proves that the holder of the log's key signed a tree in which
the entry is a leaf, and nothing else. Against the receipt of `storage.receipt` it
leaves out the payload and the salt (so what the entry commits to is not shown), the
cosignatures of witnesses (so others may be shown another log) and the token (so it
has no time). The signature covers the root alone: that the log had `size` entries,
and this one at `index`, is the sender's word.

The log's note key signs it. No note can be taken for a COSE receipt or the reverse:
what is signed here begins with the byte 0x84, and the text of a note is UTF-8, in
which no text begins so.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import cbor2

from storage.checkpoint import MAX_SIZE
from storage.entry import Entry
from storage.errors import MalformedKeyError, MalformedReceiptError, NoteSignatureError, ProofError
from storage.merkle import HASH_BYTES, root_from_inclusion
from storage.note import Algorithm, VerifierKey, Verify, is_key_name
from storage.proof import MAX_HASHES
from storage.receipt import Receipt

MAX_COSE_BYTES = 8 << 10

_ALGORITHM, _KEY_ID, _CLAIMS = 1, 4, 15  # header parameters of RFC 9052, 3.1 and RFC 9597, 2
_STRUCTURE, _PROOFS = 395, 396  # vds and vdp, RFC 9942, 2
_ISSUER = 1  # the claim iss, RFC 8392, 3.1.1
_INCLUSION = -1  # an array of inclusion proofs, RFC 9942, 4.2
_EDDSA = -8  # RFC 9053, 2.2
_RFC9162_SHA256 = 1  # RFC 9942, 4.1
_COSE_SIGN1 = 18  # RFC 9052, 2; RFC 9942, 4.3

_KEY_ID_BYTES, _SIGNATURE_BYTES = 4, 64


@dataclass(frozen=True, slots=True)
class CoseReceipt:
    """A signed root, detached, and the path that leads to it from an entry that is not inside."""

    origin: str
    key_id: bytes
    size: int
    index: int
    hashes: tuple[bytes, ...]
    signature: bytes

    @classmethod
    def parse(cls, data: bytes) -> "CoseReceipt":
        """Read the binary form, accepting only what `bytes` would write. Verifies nothing."""
        if len(data) > MAX_COSE_BYTES:
            raise MalformedReceiptError(f"The COSE receipt is larger than {MAX_COSE_BYTES} bytes.")
        tag = _decoded(data)
        try:
            protected, unprotected, _, signature = tag.value
            header = _decoded(protected)
            (proof,) = unprotected[_PROOFS][_INCLUSION]
            size, index, hashes = _decoded(proof)
            receipt = cls(header[_CLAIMS][_ISSUER], header[_KEY_ID], size, index, tuple(hashes), signature)
            same = receipt._is_plain() and bytes(receipt) == data
        except (ValueError, TypeError, LookupError, AttributeError) as error:
            raise MalformedReceiptError("The bytes are not a COSE receipt.") from error
        if not same:
            raise MalformedReceiptError("The bytes are not a COSE receipt as we would write it.")
        return receipt

    def check(self, entry: Entry, key: VerifierKey, verify: Verify) -> bytes:
        """Return the root of a tree that `key` signed and in which `entry` is a leaf.

        Does not show what the entry commits to, nor when, nor that others are shown the
        same tree. Trees of other sizes can have the same path, so `size` and `index` are
        not proven.
        """
        _require_ed25519(key)
        # 1. The key is the one that the receipt names.
        if (self.origin, self.key_id) != (key.name, key.key_id):
            raise NoteSignatureError(f"{key.name} did not sign the COSE receipt, by its own word.")
        # 2. The detached payload is the root to which the entry leads (RFC 9942, 5.2.1).
        root = root_from_inclusion(entry.leaf, self.index, self.size, self.hashes)
        # 3. The log signed that root (RFC 9052, 4.4).
        if not verify(key.public, self.signature, _signed_bytes(key, root)):
            raise NoteSignatureError(f"The signature by {key.name} does not cover the entry's root.")
        return root

    def __bytes__(self) -> bytes:
        proof = _encoded([self.size, self.index, list(self.hashes)])
        unprotected = {_PROOFS: {_INCLUSION: [proof]}}
        message = [_protected(self.origin, self.key_id), unprotected, None, self.signature]
        return _encoded(cbor2.CBORTag(_COSE_SIGN1, message))

    def _is_plain(self) -> bool:
        """Whether every field has its type, where CBOR has several that read alike, and its limits."""
        return (
            (type(self.origin), type(self.size), type(self.index)) == (str, int, int)
            and is_key_name(self.origin)
            and 0 <= self.index < self.size < MAX_SIZE
            and len(self.hashes) <= MAX_HASHES
            and all(type(item) is bytes and len(item) == HASH_BYTES for item in self.hashes)
            and (type(self.key_id), len(self.key_id)) == (bytes, _KEY_ID_BYTES)
            and (type(self.signature), len(self.signature)) == (bytes, _SIGNATURE_BYTES)
        )


def export(receipt: Receipt, key: VerifierKey, verify: Verify, sign: Callable[[bytes], bytes]) -> CoseReceipt:
    """Sign the receipt's root in the form of RFC 9942, with the private half of `key`.

    Signs no root but one under a checkpoint that `key` has signed already: whoever hands
    in a receipt cannot make the log sign another tree.
    """
    _require_ed25519(key)
    checkpoint = receipt.check([key], verify)
    signature = sign(_signed_bytes(key, checkpoint.root))
    exported = CoseReceipt(
        key.name, key.key_id, checkpoint.size, receipt.proof.index, receipt.proof.hashes, signature
    )
    if exported.check(receipt.entry, key, verify) != checkpoint.root:
        raise ProofError("What was signed is not the root of the receipt.")
    return exported


def _protected(origin: str, key_id: bytes) -> bytes:
    """Encode the header that is signed, so that the log's name is signed too."""
    return _encoded(
        {_ALGORITHM: _EDDSA, _KEY_ID: key_id, _CLAIMS: {_ISSUER: origin}, _STRUCTURE: _RFC9162_SHA256}
    )


def _signed_bytes(key: VerifierKey, root: bytes) -> bytes:
    """Encode the Sig_structure of RFC 9052, 4.4, without external data."""
    return _encoded(["Signature1", _protected(key.name, key.key_id), b"", root])


def _encoded(value: object) -> bytes:
    """Write deterministic CBOR (RFC 8949, 4.2)."""
    return cbor2.dumps(value, canonical=True)


def _decoded(data: bytes) -> Any:
    try:
        return cbor2.loads(data)
    except cbor2.CBORError as error:
        raise MalformedReceiptError("The bytes are not CBOR.") from error


def _require_ed25519(key: VerifierKey) -> None:
    if key.algorithm is not Algorithm.ED25519:
        raise MalformedKeyError("Only an Ed25519 key signs COSE receipts.")
