"""Read the few structures of a TPM 2.0 that evidence is made of (TPM 2.0 Library, Part 2).

Every length is checked before it is followed, nothing may be left over, and what we have no use for is
refused. Reading proves nothing: these bytes may come from anybody.
"""

import hashlib
from dataclasses import dataclass
from enum import IntFlag

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from authn.errors import EvidenceError

MAX_STRUCTURE = 4096

GENERATED = 0xFF544347  # TPM_GENERATED_VALUE: only a TPM signs with a restricted key what begins so
ATTEST_CERTIFY = 0x8017
ATTEST_NV = 0x8014
RSA = 0x0001
ECC = 0x0023
ECDSA = 0x0018
SHA256 = 0x000B
COUNTER = 1  # TPM_NT_COUNTER

_AES = 0x0006
_CFB = 0x0043
_NULL = 0x0010
_SHA384 = 0x000C
_DIGESTS: dict[int, tuple[str, type[hashes.SHA256 | hashes.SHA384]]] = {
    SHA256: ("sha256", hashes.SHA256),
    _SHA384: ("sha384", hashes.SHA384),
}
_CURVES: dict[int, type[ec.SECP256R1 | ec.SECP384R1]] = {0x0003: ec.SECP256R1, 0x0004: ec.SECP384R1}
_SCHEMES_WITHOUT_HASH = frozenset({_NULL, 0x0015})  # TPM_ALG_RSAES takes none
_SCHEMES_WITH_HASH = frozenset({0x0014, 0x0016, 0x0017, ECDSA, 0x0019})
_RSA_BITS = frozenset({2048, 3072, 4096})


class Attribute(IntFlag):
    """What a TPM promises of a key (Part 2, 8.3, TPMA_OBJECT)."""

    FIXED_TPM = 1 << 1
    FIXED_PARENT = 1 << 4
    SENSITIVE_DATA_ORIGIN = 1 << 5
    RESTRICTED = 1 << 16
    DECRYPT = 1 << 17
    SIGN = 1 << 18


@dataclass(frozen=True, slots=True)
class PublicArea:
    """A key as a TPM describes it (Part 2, 12.2.4, TPMT_PUBLIC)."""

    encoded: bytes
    kind: int
    name_algorithm: int
    attributes: int
    cipher_bits: int
    """The AES key that protects what lies below a storage key, in CFB; 0 for a key that stores nothing."""
    scheme: int
    scheme_digest: int
    key: ec.EllipticCurvePublicKey | rsa.RSAPublicKey | None
    """The key itself; None if the numbers are those of no key, as a point off its curve."""

    @property
    def name(self) -> bytes:
        """What a TPM calls the key: its name algorithm, and the digest of all of the above (Part 1, 16)."""
        return name_of(self.name_algorithm, self.encoded)

    def lacks(self, *attributes: Attribute) -> tuple[str, ...]:
        """Which of `attributes` the key does not have."""
        return tuple(_spelled(each) for each in attributes if not self.attributes & each)

    def has(self, *attributes: Attribute) -> tuple[str, ...]:
        """Which of `attributes` the key has."""
        return tuple(_spelled(each) for each in attributes if self.attributes & each)


@dataclass(frozen=True, slots=True)
class Attest:
    """What a TPM signed about itself (Part 2, 10.12.8, TPMS_ATTEST)."""

    kind: int
    extra: bytes
    """The caller's own words: the freshness, and what the statement is bound to."""
    name: bytes = b""
    """Of the key or the counter that the statement is about."""
    offset: int = 0
    contents: bytes = b""


@dataclass(frozen=True, slots=True)
class CounterArea:
    """A place in a TPM's memory as the TPM describes it (Part 2, 13.5, TPMS_NV_PUBLIC)."""

    index: int
    name: bytes
    kind: int
    written: bool
    size: int


def read_kind(data: bytes) -> int:
    """What kind of key a TPMT_PUBLIC says it is; nothing after that is read."""
    return _Reader(data, "a key's public area").number(2)


def read_public(data: bytes) -> PublicArea:
    """Read a TPMT_PUBLIC of an elliptic-curve or RSA key."""
    reader = _Reader(data, "a key's public area")
    kind, name_algorithm, attributes = reader.number(2), reader.number(2), reader.number(4)
    if name_algorithm not in _DIGESTS:
        raise EvidenceError("a key's name is neither by SHA-256 nor by SHA-384")
    reader.sized(64)
    bits = _read_cipher(reader)
    scheme, digest = _read_scheme(reader)
    if kind == ECC:
        key: ec.EllipticCurvePublicKey | rsa.RSAPublicKey | None = _read_point(reader)
    elif kind == RSA:
        key = _read_modulus(reader)
    else:
        raise EvidenceError(f"a key is of the kind {kind:#06x}, neither elliptic-curve nor RSA")
    reader.end()
    return PublicArea(data, kind, name_algorithm, attributes, bits, scheme, digest, key)


def read_attest(data: bytes) -> Attest:
    """Read a TPMS_ATTEST about a key or a counter; of another kind, only the kind and the caller's words.

    Whether it begins with TPM_GENERATED is `generated`'s question.
    """
    reader = _Reader(data, "an attestation")
    reader.number(4)
    kind = reader.number(2)
    reader.sized(66)
    extra = reader.sized(64)
    reader.take(25)  # TPMS_CLOCK_INFO and firmwareVersion, obfuscated for keys of the owner (Part 1, 36.7)
    if kind == ATTEST_CERTIFY:
        name, _ = reader.sized(66), reader.sized(66)
        reader.end()
        return Attest(kind, extra, name)
    if kind == ATTEST_NV:
        name, offset, contents = reader.sized(66), reader.number(2), reader.sized(2048)
        reader.end()
        return Attest(kind, extra, name, offset, contents)
    return Attest(kind, extra)


def generated(data: bytes) -> bool:
    """Whether an attestation begins with TPM_GENERATED_VALUE."""
    return data[:4] == GENERATED.to_bytes(4, "big")


def read_counter_area(data: bytes) -> CounterArea:
    """Read a TPMS_NV_PUBLIC."""
    reader = _Reader(data, "a counter's public area")
    index, algorithm, attributes = reader.number(4), reader.number(2), reader.number(4)
    reader.sized(64)
    size = reader.number(2)
    reader.end()
    if algorithm not in _DIGESTS:
        raise EvidenceError("a counter's name is neither by SHA-256 nor by SHA-384")
    return CounterArea(
        index, name_of(algorithm, data), attributes >> 4 & 0xF, bool(attributes & 1 << 29), size
    )


def name_of(algorithm: int, public: bytes) -> bytes:
    """The name that a TPM gives to what `public` describes (Part 1, 16)."""
    return algorithm.to_bytes(2, "big") + hashlib.new(_DIGESTS[algorithm][0], public).digest()


def digest_of(algorithm: int) -> hashes.SHA256 | hashes.SHA384:
    """The hash function behind an algorithm that `read_public` let pass."""
    return _DIGESTS[algorithm][1]()


def sized(data: bytes) -> bytes:
    """`data` with its length before it (Part 2, 10.4, TPM2B)."""
    return len(data).to_bytes(2, "big") + data


def read_sized(data: bytes, limit: int, what: str) -> bytes:
    """The bytes behind a length that are all there is."""
    reader = _Reader(data, what)
    content = reader.sized(limit)
    reader.end()
    return content


class _Reader:
    """Takes a structure apart from the front."""

    __slots__ = ("_data", "_position", "_what")

    def __init__(self, data: bytes, what: str) -> None:
        if len(data) > MAX_STRUCTURE:
            raise EvidenceError(f"{what} has more than {MAX_STRUCTURE} bytes")
        self._data, self._position, self._what = data, 0, what

    def take(self, count: int) -> bytes:
        taken = self._data[self._position : self._position + count]
        if len(taken) != count:
            raise EvidenceError(f"{self._what} ends early")
        self._position += count
        return taken

    def number(self, size: int) -> int:
        return int.from_bytes(self.take(size), "big")

    def sized(self, limit: int) -> bytes:
        size = self.number(2)
        if size > limit:
            raise EvidenceError(f"{self._what} has a part of {size} bytes where {limit} are allowed")
        return self.take(size)

    def end(self) -> None:
        if self._position != len(self._data):
            raise EvidenceError(f"bytes follow {self._what}")


def _read_cipher(reader: _Reader) -> int:
    """TPMT_SYM_DEF_OBJECT (Part 2, 11.1.7): the bits of AES in CFB, or 0 for none."""
    algorithm = reader.number(2)
    if algorithm == _NULL:
        return 0
    bits, mode = reader.number(2), reader.number(2)
    if algorithm != _AES or mode != _CFB or bits not in (128, 256):
        raise EvidenceError("a storage key protects by a cipher other than AES in CFB")
    return bits


def _read_scheme(reader: _Reader) -> tuple[int, int]:
    """TPMT_ECC_SCHEME or TPMT_RSA_SCHEME (Part 2, 11.2): the scheme and its digest, or 0."""
    scheme = reader.number(2)
    if scheme in _SCHEMES_WITHOUT_HASH:
        return scheme, 0
    if scheme not in _SCHEMES_WITH_HASH:
        raise EvidenceError(f"a key has the scheme {scheme:#06x}, which is not accepted")
    return scheme, reader.number(2)


def _read_point(reader: _Reader) -> ec.EllipticCurvePublicKey | None:
    curve, derivation = reader.number(2), reader.number(2)
    if curve not in _CURVES or derivation != _NULL:
        raise EvidenceError("a key is neither on P-256 nor on P-384")
    x, y = reader.sized(48), reader.sized(48)
    try:
        return ec.EllipticCurvePublicNumbers(
            int.from_bytes(x, "big"), int.from_bytes(y, "big"), _CURVES[curve]()
        ).public_key()
    except ValueError:
        return None


def _read_modulus(reader: _Reader) -> rsa.RSAPublicKey | None:
    bits, exponent = reader.number(2), reader.number(4)
    modulus = reader.sized(512)
    if bits not in _RSA_BITS or exponent not in (0, 65537) or 8 * len(modulus) != bits:
        raise EvidenceError("an RSA key has a size or an exponent that is not accepted")
    try:
        return rsa.RSAPublicNumbers(65537, int.from_bytes(modulus, "big")).public_key()  # 0 means 2^16 + 1
    except ValueError:
        return None


def _spelled(attribute: Attribute) -> str:
    """As the specification spells it: fixedTPM, sensitiveDataOrigin."""
    first, *rest = str(attribute.name).split("_")
    return first.lower() + "".join(part if part == "TPM" else part.capitalize() for part in rest)
