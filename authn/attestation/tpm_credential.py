"""Make a challenge that only one TPM can answer, for one key (TPM2_MakeCredential in plain cryptography).

A secret is encrypted to a TPM's endorsement key and tied to the name of another key. A TPM gives it back
only if both keys are in it (TPM 2.0 Library, Part 1, clause 24; Annexes B.10.4 and C.6.4). That the first
key belongs to a TPM at all is what its certificate says, and the caller must have that checked.

This module is a door to the system's chance: each challenge has a seed or an ephemeral key of its own,
made here. It is no argument, since whoever could choose or repeat it could read the secret.
"""

import hashlib
import hmac
import json
import re
import secrets
from dataclasses import dataclass
from typing import Self

from cryptography.hazmat.decrepit.ciphers.modes import CFB
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES

from authn.attestation.tpm_structures import Attribute, digest_of, read_public, sized
from authn.errors import EvidenceError

SECRET_BYTES = 32
_MAX_CREDENTIAL = 8192
_IDENTITY = b"IDENTITY\0"
_ACTIVATION = b"lightseal/tpm-activation/v1\0"
_HEX = re.compile(r"(?:[0-9a-f]{2}){1,1024}")


@dataclass(frozen=True, slots=True)
class Credential:
    """The challenge on its way: the contents of a TPM2B_ID_OBJECT and of a TPM2B_ENCRYPTED_SECRET."""

    blob: bytes
    seed: bytes

    def encode(self) -> bytes:
        """As canonical JSON with hex."""
        return json.dumps(
            {"blob": self.blob.hex(), "seed": self.seed.hex()}, separators=(",", ":"), sort_keys=True
        ).encode()

    @classmethod
    def read(cls, data: bytes) -> Self:
        """Read what `encode` wrote, and nothing else."""
        if len(data) > _MAX_CREDENTIAL:
            raise EvidenceError("the challenge for the TPM is too large")
        try:
            found = json.loads(data)
            blob, seed = found["blob"], found["seed"]
            fits = all(isinstance(part, str) and _HEX.fullmatch(part) for part in (blob, seed))
            read = cls(bytes.fromhex(blob), bytes.fromhex(seed)) if fits else None
        except (ValueError, TypeError, LookupError, RecursionError) as error:
            raise EvidenceError("the challenge for the TPM cannot be read") from error
        if read is None or read.encode() != data:
            raise EvidenceError("the challenge for the TPM is not written as we write it")
        return read


@dataclass(frozen=True, slots=True)
class Activation:
    """A challenge that need not be remembered: its secret follows from the server's key and the nonce.

    The secret is another one for every nonce, endorsement key and attestation key, so whoever knows it
    had a TPM with just these two keys answer.
    """

    key: bytes
    nonce: bytes

    def __post_init__(self) -> None:
        if len(self.key) < SECRET_BYTES or not self.nonce:
            raise ValueError("a challenge needs a key of 32 bytes or more, and a nonce")

    def __repr__(self) -> str:
        return "Activation(...)"

    def secret(self, ek: bytes, ak: bytes) -> bytes:
        """What a TPM that holds `ek` and `ak`, each a TPMT_PUBLIC, must give back."""
        said = b"".join(len(part).to_bytes(4, "big") + part for part in (self.nonce, ek, ak))
        return hmac.digest(self.key, _ACTIVATION + said, "sha256")

    def challenge(self, ek: bytes, ak: bytes) -> Credential:
        """The challenge whose answer is `secret(ek, ak)`."""
        return make_credential(ek, ak, self.secret(ek, ak))


def make_credential(ek: bytes, ak: bytes, secret: bytes) -> Credential:
    """Encrypt `secret` for the TPM that holds both keys, each a TPMT_PUBLIC.

    Refuses an endorsement key that is no restricted decryption key. RSA and P-256 or P-384.
    """
    public, name = read_public(ek), read_public(ak).name
    if not public.cipher_bits or public.lacks(Attribute.RESTRICTED, Attribute.DECRYPT):
        raise EvidenceError("the endorsement key is no restricted decryption key")
    digest = hashlib.new(digest_of(public.name_algorithm).name)
    if not 0 < len(secret) <= digest.digest_size:
        raise ValueError("the secret must not be longer than the endorsement key's digest")
    # 1. A seed that only the endorsement key can open (Annex B.10.4 for RSA, C.6.4 for ECC).
    if isinstance(public.key, rsa.RSAPublicKey):
        function = digest_of(public.name_algorithm)
        seed = secrets.token_bytes(digest.digest_size)
        try:
            wrapped = public.key.encrypt(seed, padding.OAEP(padding.MGF1(function), function, _IDENTITY))
        except ValueError as error:  # an even modulus, for one
            raise EvidenceError("the endorsement key is no key") from error
    elif isinstance(public.key, ec.EllipticCurvePublicKey):
        seed, wrapped = _agree(public.key, digest.name)
    else:
        raise EvidenceError("the endorsement key is no key")
    # 2. From the seed, a key that encrypts for this name alone (Part 1, 24.4).
    cipher_key = _kdfa(digest.name, seed, b"STORAGE\0", name, public.cipher_bits)
    encryptor = Cipher(AES(cipher_key), CFB(bytes(16))).encryptor()
    encrypted = encryptor.update(sized(secret)) + encryptor.finalize()
    # 3. And a key that authenticates the secret together with the name (Part 1, 24.5).
    mac_key = _kdfa(digest.name, seed, b"INTEGRITY\0", b"", 8 * digest.digest_size)
    mac = hmac.digest(mac_key, encrypted + name, digest.name)
    return Credential(sized(mac) + encrypted, wrapped)


def _agree(key: ec.EllipticCurvePublicKey, digest: str) -> tuple[bytes, bytes]:
    """A seed agreed with an ephemeral key, and that key's point."""
    ephemeral = ec.generate_private_key(key.curve)
    size = (key.curve.key_size + 7) // 8
    theirs = key.public_numbers().x.to_bytes(size, "big")
    ours = ephemeral.public_key().public_numbers()
    x, y = ours.x.to_bytes(size, "big"), ours.y.to_bytes(size, "big")
    shared = ephemeral.exchange(ec.ECDH(), key)
    # KDFe (Part 1, 11.4.10.3); one round, since the seed has the size of the digest.
    seed = hashlib.new(digest, (1).to_bytes(4, "big") + shared + _IDENTITY + x + theirs).digest()
    return seed, sized(x) + sized(y)


def _kdfa(digest: str, key: bytes, label: bytes, context: bytes, bits: int) -> bytes:
    """KDFa (Part 1, 11.4.10.2); one round, since no key here is longer than the digest."""
    said = (1).to_bytes(4, "big") + label + context + bits.to_bytes(4, "big")
    return hmac.digest(key, said, digest)[: bits // 8]
