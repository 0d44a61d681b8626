"""Seal bytes under a key, so that changing one of them, or their place, shows.

AES-256-GCM (NIST SP 800-38D) with a random nonce of 96 bits in front. The nonce is
drawn and not counted, for an aborted transaction may use an entry's key again; a key
must not seal more than 2^32 times (8.3), and an entry's seals a handful. The length
of the plaintext is not hidden, and an older seal by the same key opens as well.
"""

import os

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from authn.errors import Error

KEY_BYTES = 32
NONCE_BYTES = 12
TAG_BYTES = 16


class SealBrokenError(Error, ValueError):
    """The sealed bytes were changed, or sealed by another key or for another place."""

    code = "seal-broken"
    remedy = "Restore these bytes, or the keyring that belongs to them, from the newest backup."


def seal(key: bytes, plaintext: bytes, associated: bytes) -> bytes:
    """Encrypt `plaintext`, and bind it to `associated`, which is not kept within."""
    nonce = os.urandom(NONCE_BYTES)
    return nonce + _cipher(key).encrypt(nonce, plaintext, associated)


def unseal(key: bytes, sealed: bytes, associated: bytes) -> bytes:
    """Return the plaintext; raise unless this key sealed these bytes for `associated`."""
    cipher = _cipher(key)
    if len(sealed) < NONCE_BYTES + TAG_BYTES:
        raise SealBrokenError(f"{len(sealed)} bytes are too few to be sealed.")
    try:
        return cipher.decrypt(sealed[:NONCE_BYTES], sealed[NONCE_BYTES:], associated)
    except InvalidTag as error:
        raise SealBrokenError("The sealed bytes do not belong to this key and place.") from error


def _cipher(key: bytes) -> AESGCM:
    if len(key) != KEY_BYTES:
        raise ValueError(f"a sealing key has {KEY_BYTES} bytes, not {len(key)}")
    return AESGCM(key)
