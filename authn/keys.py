"""Keep private keys, and sign with them.

A `KeyProvider` is whatever can sign without giving its key away: here a key in
a file; tokens, TPMs, programs and services are in `authn.custody`. Every signature
that a provider's `sign` returns was verified under its public key. A time-stamp unit whose
key is a file signs past it (`authn.timestamp.doubling`): its signatures are made twice and
compared, and of them the first, and every 64th after it, are verified. Python cannot wipe memory: a key in a file is in this
process too, and proves nothing of custody (evidence label E0).
"""

import os
import re
import stat
from contextlib import suppress
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Protocol

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, mldsa, utils
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    KeySerializationEncryption,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)

from authn.errors import KeyExposedError, KeyFileError, KeyLockedError, KeyNotOursError, SelfCheckError

MIN_PASSPHRASE = 16
ML_DSA_44_PUBLIC = 1312
_MAX_KEY_FILE = 64 << 10
_MAX_SECRET = 1024
_PKCS8 = re.compile(rb"\s*-----BEGIN (?:ENCRYPTED )?PRIVATE KEY-----\r?\n")

PublicKey = ec.EllipticCurvePublicKey | ed25519.Ed25519PublicKey
PrivateKey = ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey


class Algorithm(StrEnum):
    """How a key signs, by the names COSE and the C2PA SDK use."""

    ES256 = "es256"
    ES384 = "es384"
    EDDSA = "ed25519"


class Keeping(StrEnum):
    """Where a key is said to be kept; what of that is proven is another question (`authn.attestation`)."""

    SOFTWARE = "software"
    TOKEN = "token"  # noqa: S105 - where the key is, not the key
    TPM = "tpm"
    KMS = "kms"
    EXTERNAL = "external"


class KeyProvider(Protocol):
    """Signs with a key that it does not hand out."""

    @property
    def keeping(self) -> Keeping:
        """Where the key is said to be kept."""
        ...

    @property
    def algorithm(self) -> Algorithm:
        """How the key signs."""
        ...

    @property
    def public_key(self) -> PublicKey:
        """The key that verifies."""
        ...

    def sign(self, data: bytes) -> bytes:
        """Sign `data`: r and s side by side for ECDSA, 64 bytes for Ed25519.

        Hashes as the algorithm says (SHA-256 for P-256, SHA-384 for P-384). Verified before it is
        returned; several threads may call at once.
        """
        ...

    def close(self) -> None:
        """Let go of what was opened; closing twice is harmless."""
        ...


@dataclass(frozen=True, slots=True)
class SigningKey:
    """A key in this process's memory."""

    private: PrivateKey = field(repr=False)
    public_key: PublicKey = field(repr=False)
    algorithm: Algorithm

    @classmethod
    def of(cls, private: PrivateKey) -> "SigningKey":
        """Hold `private`, if it is of a kind we sign with."""
        return cls(private, private.public_key(), algorithm_of(private.public_key()))

    @property
    def keeping(self) -> Keeping:
        """In this process."""
        return Keeping.SOFTWARE

    def close(self) -> None:
        """Nothing is open."""

    def sign(self, data: bytes) -> bytes:
        """Sign `data`; a signature that does not verify raises and is thrown away."""
        if isinstance(self.private, ed25519.Ed25519PrivateKey):
            signature = self.private.sign(data)
        else:
            digest, size = _ECDSA[self.algorithm]
            r, s = utils.decode_dss_signature(self.private.sign(data, ec.ECDSA(digest)))
            signature = r.to_bytes(size, "big") + s.to_bytes(size, "big")
        if not signature_holds(self.public_key, self.algorithm, signature, data):
            raise SelfCheckError("a signature did not verify under the key that made it")
        return signature


@dataclass(frozen=True, slots=True)
class LogKey:
    """An Ed25519 key that signs a log's checkpoints (C2SP signed-note)."""

    key: SigningKey

    def __post_init__(self) -> None:
        if self.key.algorithm is not Algorithm.EDDSA:
            raise KeyNotOursError("a log signs with an Ed25519 key, and this is none")

    @property
    def public(self) -> bytes:
        """The 32 bytes that verify."""
        return self.key.public_key.public_bytes(Encoding.Raw, PublicFormat.Raw)

    def sign(self, message: bytes) -> bytes:
        """Sign `message`: 64 bytes."""
        return self.key.sign(message)


@dataclass(frozen=True, slots=True)
class NoteKey:
    """An ML-DSA-44 key (FIPS 204) that signs notes beside an Ed25519 key, and never a capture."""

    private: mldsa.MLDSA44PrivateKey = field(repr=False)
    public: bytes = field(repr=False)

    @classmethod
    def of(cls, private: mldsa.MLDSA44PrivateKey) -> "NoteKey":
        """Hold `private` with the 1312 bytes that verify."""
        return cls(private, private.public_key().public_bytes_raw())

    def sign(self, message: bytes) -> bytes:
        """Sign `message`, with the empty context: 2420 bytes, other ones each time."""
        signature = self.private.sign(message)
        if not verify_ml_dsa_44(self.public, signature, message):
            raise SelfCheckError("a signature did not verify under the key that made it")
        return signature


def generate_p256() -> SigningKey:
    """A new key on P-256, for devices and time-stamp units."""
    return SigningKey.of(ec.generate_private_key(ec.SECP256R1()))


def generate_p384() -> SigningKey:
    """A new key on P-384, for certificate authorities."""
    return SigningKey.of(ec.generate_private_key(ec.SECP384R1()))


def generate_ed25519() -> SigningKey:
    """A new Ed25519 key, for logs."""
    return SigningKey.of(ed25519.Ed25519PrivateKey.generate())


def generate_ml_dsa_44() -> NoteKey:
    """A new ML-DSA-44 key, for notes."""
    return NoteKey.of(mldsa.MLDSA44PrivateKey.generate())


def algorithm_of(public_key: PublicKey) -> Algorithm:
    """How a key of this kind signs. Refuses an Ed25519 key under which anybody can sign, as of no kind of ours."""
    if isinstance(public_key, ed25519.Ed25519PublicKey):
        if not _proves(public_key.public_bytes_raw()):
            raise KeyNotOursError("an Ed25519 key is of small order, or not written in its one form")
        return Algorithm.EDDSA
    if public_key.curve.name in _CURVES:
        return _CURVES[public_key.curve.name]
    raise KeyNotOursError("a key is neither on P-256 nor P-384 nor Ed25519")


def signature_holds(public_key: PublicKey, algorithm: Algorithm, signature: bytes, data: bytes) -> bool:
    """Whether `signature`, in the form `KeyProvider.sign` returns, is one over `data`."""
    try:
        if isinstance(public_key, ed25519.Ed25519PublicKey):
            if not _proves(public_key.public_bytes_raw()):
                return False
            public_key.verify(signature, data)
        else:
            digest, size = _ECDSA[algorithm]
            if len(signature) != 2 * size:
                return False
            r, s = int.from_bytes(signature[:size], "big"), int.from_bytes(signature[size:], "big")
            public_key.verify(utils.encode_dss_signature(r, s), data, ec.ECDSA(digest))
    except InvalidSignature:
        return False
    return True


def verify_ed25519(public: bytes, signature: bytes, message: bytes) -> bool:
    """Whether 64 bytes are `public`'s signature over `message`.

    Refuses keys of small order and keys not in their one canonical form, under
    which a signature would prove nothing (RFC 8032, 5.1.7).
    """
    if len(public) != 32 or len(signature) != 64 or not _proves(public):
        return False
    try:
        ed25519.Ed25519PublicKey.from_public_bytes(public).verify(signature, message)
    except (InvalidSignature, ValueError):
        return False
    return True


def verify_ml_dsa_44(public: bytes, signature: bytes, message: bytes) -> bool:
    """Whether 2420 bytes are `public`'s signature over `message`, with the empty context.

    Refuses the keys whose t1 is 0, which need no private key to sign (FIPS 204, Algorithm 8, line 9).
    """
    if len(public) != ML_DSA_44_PUBLIC or not any(public[32:]):
        return False
    try:
        mldsa.MLDSA44PublicKey.from_public_bytes(public).verify(signature, message)
    except (InvalidSignature, ValueError):
        return False
    return True


def verify_note(public: bytes, signature: bytes, message: bytes) -> bool:
    """Whether `public` signed `message`: ML-DSA-44 if the key has 1312 bytes, else Ed25519.

    The key decides, so nothing in a note can choose how it is verified.
    """
    if len(public) == ML_DSA_44_PUBLIC:
        return verify_ml_dsa_44(public, signature, message)
    return verify_ed25519(public, signature, message)


def open_key(uri: str, passphrase: bytes | None = None) -> SigningKey:
    """Open the key that `uri` names: `file:PATH`, PKCS#8 in PEM.

    A file that anyone else may read is refused, since the key must then be
    taken for known.
    """
    private = _open_private(uri, passphrase)
    if not isinstance(private, ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey):
        raise KeyNotOursError("a key is neither on P-256 nor P-384 nor Ed25519")
    return SigningKey.of(private)


def open_note_key(uri: str, passphrase: bytes | None = None) -> NoteKey:
    """Open the ML-DSA-44 key that `uri` names, by the rules of `open_key`."""
    private = _open_private(uri, passphrase)
    if not isinstance(private, mldsa.MLDSA44PrivateKey):
        raise KeyNotOursError("a key is not an ML-DSA-44 key")
    return NoteKey.of(private)


def read_private(path: Path, what: str) -> bytes:
    """Read a small file that nobody else may use; `what` names it in errors. Its content is not looked at."""
    try:
        with open(path, "rb", opener=_open_at_once) as file:
            found = os.fstat(file.fileno())
            if not stat.S_ISREG(found.st_mode):
                raise KeyFileError(f"the {what} is not a file")
            if found.st_mode & 0o077:
                raise KeyExposedError(
                    f"others may use the {what} file: its mode is {stat.S_IMODE(found.st_mode):04o}"
                )
            if found.st_uid not in (os.geteuid(), 0):
                raise KeyExposedError(f"the {what} file belongs to another user")
            data = file.read(_MAX_KEY_FILE + 1)
    except (OSError, ValueError) as error:  # a path may hold a NUL
        reason = error.strerror if isinstance(error, OSError) else "its name is no name"
        raise KeyFileError(f"the {what} file cannot be opened: {reason}") from error
    if len(data) > _MAX_KEY_FILE:
        raise KeyFileError(f"the {what} file is too large for a {what}")
    return data


def read_secret(path: Path) -> bytes:
    """Read a PIN or passphrase from a file that nobody else may use; one line break at its end is not in it."""
    line = read_private(path, "PIN").removesuffix(b"\n").removesuffix(b"\r")
    if not 1 <= len(line) <= _MAX_SECRET or b"\n" in line or b"\0" in line:
        raise KeyFileError("the PIN file does not hold one line with a PIN")
    return line


def store_key(path: Path, key: SigningKey | NoteKey, passphrase: bytes | None) -> None:
    """Write a new key file, readable by its owner alone; never over another.

    The format's key derivation is fast (PBKDF2 with 2 048 rounds), so a
    passphrase must be random, not memorable: at least 16 bytes.
    """
    if passphrase is not None and len(passphrase) < MIN_PASSPHRASE:
        raise KeyFileError(f"a passphrase for a key file needs {MIN_PASSPHRASE} random bytes or more")
    encryption: KeySerializationEncryption = (
        NoEncryption() if passphrase is None else BestAvailableEncryption(passphrase)
    )
    pem = key.private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption)
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise KeyFileError(f"the key file cannot be made: {error.strerror}") from error
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(pem)
            file.flush()
            os.fsync(file.fileno())
        _sync_folder(path.parent)
    except OSError as error:
        with suppress(OSError):
            path.unlink()
        raise KeyFileError(f"the key file cannot be written: {error.strerror}") from error


def _proves(public: bytes) -> bool:
    """Whether 32 bytes can be a key of which signatures prove anything: one canonical form, no small order."""
    y = int.from_bytes(public, "little") & ((1 << 255) - 1)
    return y < _P and y not in _SMALL_ORDER


def _open_private(uri: str, passphrase: bytes | None) -> PrivateKeyTypes:
    scheme, colon, path = uri.partition(":")
    if not colon or scheme != "file" or not path:
        raise KeyFileError("a key in a file is named by file:PATH")
    pem = read_private(Path(path.removeprefix("//")), "key")
    if not _PKCS8.match(pem):
        raise KeyFileError("the key file is not PKCS#8 in PEM")
    try:
        private = load_pem_private_key(pem, passphrase)
    except TypeError as error:
        raise KeyLockedError(
            "the key file is encrypted and no passphrase was given"
            if passphrase is None
            else "the key file is not encrypted, though a passphrase was given"
        ) from error
    except (ValueError, UnsupportedAlgorithm) as error:
        if b"ENCRYPTED" in pem[:64]:
            raise KeyLockedError("the passphrase does not open the key file") from error
        raise KeyFileError("the key file cannot be read as a key") from error
    return private


def _open_at_once(path: str, flags: int) -> int:
    """Open without waiting, as a FIFO would have us wait for its writer."""
    return os.open(path, flags | os.O_NONBLOCK)


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


_CURVES = {"secp256r1": Algorithm.ES256, "secp384r1": Algorithm.ES384}
_ECDSA: dict[Algorithm, tuple[hashes.HashAlgorithm, int]] = {
    Algorithm.ES256: (hashes.SHA256(), 32),
    Algorithm.ES384: (hashes.SHA384(), 48),
}

_P = (1 << 255) - 19
_ORDER_EIGHT = "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05"
_SMALL_ORDER = frozenset(
    {0, 1, _P - 1}
    | {
        int.from_bytes(bytes.fromhex(_ORDER_EIGHT), "little"),
        _P - int.from_bytes(bytes.fromhex(_ORDER_EIGHT), "little"),
    }
)
