"""Keep what a TPM wrapped: a key that only the TPM that made it can load.

The file is a `TSS2 PRIVATE KEY` in PEM, as tpm2-openssl and tpm2-tss-engine write and read it
(draft-woodhouse-cert-best-practice, "TPM Keys"): the key is encrypted for one TPM, and useless elsewhere.
Keys with policies, and keys to be imported, are refused.
"""

import base64
import os
import re
import stat
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from authn import der
from authn.attestation.tpm_structures import MAX_STRUCTURE, PublicArea, read_public, read_sized, sized
from authn.errors import EvidenceError, KeyExposedError, KeyFileError, KeyNotOursError, MalformedDerError

OWNER = 0x40000001
"""The parent is derived from the owner's seed each time, by the template that all these programs share."""

_LOADABLE = "2.23.133.10.1.3"
_PERSISTENT = range(0x81000000, 0x82000000)
_EMPTY_AUTH = 0xA0
_MAX_FILE = 64 << 10
_PEM = re.compile(
    rb"\s*-----BEGIN TSS2 PRIVATE KEY-----\r?\n([A-Za-z0-9+/=\r\n]{1,16384})-----END TSS2 PRIVATE KEY-----\s*"
)


@dataclass(frozen=True, slots=True)
class WrappedKey:
    """A key as it lies in a file: a TPMT_PUBLIC, and a private part that its TPM encrypted."""

    public: bytes
    private: bytes = field(repr=False)
    protected: bool
    """Whether using the key takes a PIN."""
    parent: int = OWNER

    @property
    def area(self) -> PublicArea:
        """The public part, read."""
        try:
            return read_public(self.public)
        except EvidenceError as error:
            raise KeyNotOursError("the key file is for a key of a kind that we do not use") from error

    @property
    def spki(self) -> bytes:
        """The public key in DER."""
        key = self.area.key
        if key is None:
            raise KeyFileError("the key file is for a point that is not on its curve")
        return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)

    def encode(self) -> bytes:
        """As PEM."""
        body = der.sequence(
            der.oid(_LOADABLE),
            der.tagged(_EMPTY_AUTH, der.tagged(der.BOOLEAN, b"\x00" if self.protected else b"\xff")),
            der.integer(self.parent),
            der.octets(sized(self.public)),
            der.octets(sized(self.private)),
        )
        text = base64.b64encode(body)
        lines = b"\n".join(text[start : start + 64] for start in range(0, len(text), 64))
        return b"-----BEGIN TSS2 PRIVATE KEY-----\n" + lines + b"\n-----END TSS2 PRIVATE KEY-----\n"

    @classmethod
    def read(cls, pem: bytes) -> Self:
        """Read a file of one such key. Whether its TPM is this one, only the TPM can say."""
        found = _PEM.fullmatch(pem)
        if found is None:
            raise KeyFileError("the key file is not a TSS2 PRIVATE KEY in PEM")
        try:
            body = base64.b64decode(b"".join(found[1].split()), validate=True)
            fields = der.parse(body).fields()
            kind = fields.take(der.OID).to_oid()
            (empty,) = fields.take(_EMPTY_AUTH).children()
            protected = not empty.to_boolean()
            parent = fields.take(der.INTEGER).to_integer()
            public, private = fields.take(der.OCTET_STRING), fields.take(der.OCTET_STRING)
            fields.end()
            key = cls(
                read_sized(public.to_octets(), MAX_STRUCTURE, "the key file"),
                read_sized(private.to_octets(), MAX_STRUCTURE, "the key file"),
                protected,
                parent,
            )
        except (ValueError, MalformedDerError, EvidenceError) as error:
            raise KeyFileError("the key file is not a TPM's key as others write it") from error
        if kind != _LOADABLE or (parent != OWNER and parent not in _PERSISTENT):
            raise KeyNotOursError(
                "the key file is for a key with a policy, to be imported, or of another parent"
            )
        return key


def read_wrapped(path: Path) -> WrappedKey:
    """Read a key file. One without a PIN must be its owner's alone, since whoever reads it may use the TPM with it."""
    try:
        with open(path, "rb", opener=_open_at_once) as file:
            found = os.fstat(file.fileno())
            if not stat.S_ISREG(found.st_mode):
                raise KeyFileError("the key is not a file")
            pem = file.read(_MAX_FILE + 1)
    except (OSError, ValueError) as error:  # a path may hold a NUL
        reason = error.strerror if isinstance(error, OSError) else "its name is no name"
        raise KeyFileError(f"the key file cannot be opened: {reason}") from error
    if len(pem) > _MAX_FILE:
        raise KeyFileError("the key file is too large for a key")
    key = WrappedKey.read(pem)
    if not key.protected and found.st_mode & 0o077:
        raise KeyExposedError(f"others may use the key file: its mode is {stat.S_IMODE(found.st_mode):04o}")
    return key


def store_wrapped(path: Path, key: WrappedKey) -> None:
    """Write a new key file, readable by its owner alone; never over another."""
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(handle, "wb") as file:
            file.write(key.encode())
            file.flush()
            os.fsync(file.fileno())
        folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except OSError as error:
        raise KeyFileError(f"the key file cannot be made: {error.strerror}") from error


def _open_at_once(path: str, flags: int) -> int:
    """A pipe in place of the file must not keep us waiting."""
    return os.open(path, flags | os.O_NONBLOCK | os.O_CLOEXEC)
