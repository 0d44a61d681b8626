"""Signed notes (c2sp.org/signed-note): Ed25519, and the two timestamped types of tlog-cosignature.

Pure. Signing and verifying are callables handed in: this module knows where a
signature stands in a note and what it is a signature over, not how one is made.
A note proves that the holder of a key signed a text; it does not prove when, nor
that nobody was shown another text. A time inside a signature is its signer's word.
"""

import hashlib
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import IntEnum

from storage import base64text
from storage.errors import (
    MalformedCheckpointError,
    MalformedKeyError,
    MalformedNoteError,
    NoteSignatureError,
)

MAX_NOTE_BYTES = 1 << 20
MAX_SIGNATURES = 100

MAX_KEY_TEXT = 1 << 12
MAX_TIME = (1 << 63) - 1
_MAX_SIZE = 1 << 63

# verify(public, signature, message) says whether the signature is good; it must not raise for a bad one.
# 32 bytes of `public` are an Ed25519 key and 1312 an ML-DSA-44 key: the trusted key decides, never the note.
Verify = Callable[[bytes, bytes, bytes], bool]

_PRIME = 2**255 - 19
# The y coordinates of the eight points of small order on Curve25519 (RFC 8032, 5.1): under such a
# key one signature verifies for many messages.
_ORDER_EIGHT = 0x05FC536D880238B13933C6D305ACDFD5F098EFF289F4C345B027B2C28F95E826
_SMALL_ORDER = frozenset({0, 1, _PRIME - 1, _ORDER_EIGHT, _PRIME - _ORDER_EIGHT})
_MAX_VECTOR = 255
_SIZE = re.compile(r"0|[1-9][0-9]{0,18}", re.ASCII)
_SIGNATURE_LINE = re.compile(r"— (\S+) (\S+)")


class Algorithm(IntEnum):
    """The signature types we know (signed-note, Signature types): how a key signs a note."""

    ED25519 = 0x01
    COSIGNATURE_ED25519 = 0x04
    ML_DSA_44 = 0x06


# A log signs its checkpoints with plain Ed25519 or, as tlog-checkpoint (Signatures) recommends, with an
# ML-DSA-44 cosignature under its own name. Type 0x04 is a witness's alone.
LOG_ALGORITHMS = frozenset({Algorithm.ED25519, Algorithm.ML_DSA_44})
COSIGNER_ALGORITHMS = frozenset({Algorithm.COSIGNATURE_ED25519, Algorithm.ML_DSA_44})
_PUBLIC_BYTES = {Algorithm.ED25519: 32, Algorithm.COSIGNATURE_ED25519: 32, Algorithm.ML_DSA_44: 1312}
_SIGNATURE_BYTES = {Algorithm.ED25519: 64, Algorithm.COSIGNATURE_ED25519: 64, Algorithm.ML_DSA_44: 2420}


@dataclass(frozen=True, slots=True)
class VerifierKey:
    """A name, the public key that signs for it, and how it signs."""

    name: str
    public: bytes
    algorithm: Algorithm = Algorithm.ED25519

    @classmethod
    def parse(cls, text: str) -> "VerifierKey":
        """Read `name+hash+key`, accepting only what `str` would write.

        Says nothing of what the key may sign: see `parse_log` and `parse_cosigner`.
        """
        if len(text) > MAX_KEY_TEXT:
            raise MalformedKeyError(f"The verifier key is longer than {MAX_KEY_TEXT} characters.")
        try:
            name, key_id, encoded = text.split("+", 2)
            data = base64text.decode(encoded)
            key = cls(name, data[1:], Algorithm(int.from_bytes(data[:1], "big")))
        except ValueError as error:
            raise MalformedKeyError(
                "The verifier key is not of the form name+hash+key, of type 1, 4 or 6."
            ) from error
        if len(key.public) != _PUBLIC_BYTES[key.algorithm]:
            raise MalformedKeyError("The verifier key does not have the length of its type.")
        if not is_key_name(name) or key.key_id.hex() != key_id:
            raise MalformedKeyError("The verifier key's name and hash do not fit its key.")
        if key.algorithm is Algorithm.ML_DSA_44 and len(name.encode()) > _MAX_VECTOR:
            raise MalformedKeyError("The verifier key's name is too long for what the key signs.")
        if _signs_for_anybody(key):
            raise MalformedKeyError("The verifier key is one under which anything would verify.")
        return key

    @classmethod
    def parse_log(cls, text: str) -> "VerifierKey":
        """Read a key that may sign checkpoints as their log: type 0x01 or 0x06."""
        key = cls.parse(text)
        if key.algorithm not in LOG_ALGORITHMS:
            raise MalformedKeyError("The verifier key is a witness's, and no log signs with it.")
        return key

    @classmethod
    def parse_cosigner(cls, text: str) -> "VerifierKey":
        """Read a key that may cosign checkpoints: type 0x04 or 0x06."""
        key = cls.parse(text)
        if key.algorithm not in COSIGNER_ALGORITHMS:
            raise MalformedKeyError("The verifier key is a log's, and no witness signs with it.")
        return key

    @property
    def key_id(self) -> bytes:
        """The first four bytes of SHA-256(name, LF, type, key)."""
        return hashlib.sha256(self.name.encode() + b"\n" + self._typed).digest()[:4]

    @property
    def _typed(self) -> bytes:
        return bytes([self.algorithm]) + self.public

    def __str__(self) -> str:
        return f"{self.name}+{self.key_id.hex()}+{base64text.encode(self._typed)}"


@dataclass(frozen=True, slots=True)
class Signature:
    """One signature line: somebody's, not yet anybody's we know."""

    name: str
    key_id: bytes
    value: bytes

    def __str__(self) -> str:
        return f"— {self.name} {base64text.encode(self.key_id + self.value)}\n"


@dataclass(frozen=True, slots=True)
class Note:
    """A text and its signature lines, parsed and not verified."""

    text: str
    signatures: tuple[Signature, ...]

    @classmethod
    def parse(cls, data: bytes) -> "Note":
        """Read a note, accepting only what `bytes` would write. Verifies nothing."""
        if len(data) > MAX_NOTE_BYTES:
            raise MalformedNoteError(f"The note is larger than {MAX_NOTE_BYTES} bytes.")
        try:
            decoded = data.decode()
        except UnicodeDecodeError as error:
            raise MalformedNoteError("The note is not UTF-8.") from error
        if any(character < " " and character != "\n" for character in decoded):
            raise MalformedNoteError("The note holds a control character.")
        text, blank, block = decoded.rpartition("\n\n")
        lines = block.split("\n")
        if not blank or lines.pop():
            raise MalformedNoteError("The note does not end in signature lines.")
        if not 1 <= len(lines) <= MAX_SIGNATURES:
            raise MalformedNoteError(f"The note does not hold 1 to {MAX_SIGNATURES} signatures.")
        return cls(text + "\n", tuple(_signature(line) for line in lines))

    def __bytes__(self) -> bytes:
        return f"{self.text}\n{''.join(map(str, self.signatures))}".encode()


@dataclass(frozen=True, slots=True)
class OpenedNote:
    """A text, and the known keys whose signatures over it were checked."""

    text: str
    signers: tuple[VerifierKey, ...]


@dataclass(frozen=True, slots=True)
class Signing:
    """A known key, and the time its checked signature claims: 0 where it claims none."""

    key: VerifierKey
    at: int


def open_note(data: bytes, keys: Sequence[VerifierKey], verify: Verify) -> OpenedNote:
    """Return the text if at least one of `keys` signed it; a witness's key (0x04) never counts.

    Signatures by other keys are ignored; a wrong signature by a known key
    rejects the whole note. Of several by one key, the first one counts.
    """
    note = Note.parse(data)
    signed = signings(note, [key for key in keys if key.algorithm in LOG_ALGORITHMS], verify)
    if not signed:
        raise NoteSignatureError("No known key signed the note.")
    return OpenedNote(note.text, tuple(signing.key for signing in signed))


def signings(note: Note, keys: Sequence[VerifierKey], verify: Verify) -> tuple[Signing, ...]:
    """Whichever of `keys` signed the note, in the order of its lines; rules as in `open_note`."""
    signed: list[Signing] = []
    seen: set[tuple[str, bytes]] = set()
    for signature in note.signatures:
        # Four bytes of hash can collide, so several keys may be meant.
        meant = [key for key in keys if (key.name, key.key_id) == (signature.name, signature.key_id)]
        if not meant or (signature.name, signature.key_id) in seen:
            continue
        seen.add((signature.name, signature.key_id))
        good = [
            signing for key in meant if (signing := _signing(note.text, key, signature, verify)) is not None
        ]
        if not good:
            raise NoteSignatureError(f"The signature by {signature.name} is wrong.")
        signed.append(good[0])
    return tuple(signed)


def statement(text: str, key: VerifierKey, at: int) -> bytes:
    """What `key` signs to say `text`; types 0x04 and 0x06 say it as of `at` (POSIX seconds).

    They sign checkpoints only. Type 0x06 would leave extension lines unsigned, so it signs
    no checkpoint that has any: here we are stricter than the specification.
    """
    match key.algorithm:
        case Algorithm.ED25519:
            # signed-note, Ed25519 signatures.
            return text.encode()
        case Algorithm.COSIGNATURE_ED25519:
            # tlog-cosignature, Ed25519 signed message.
            checkpoint_lines(text)
            return f"cosignature/v1\ntime {at}\n{text}".encode()
        case Algorithm.ML_DSA_44:
            # tlog-cosignature, ML-DSA-44 signed message: of a checkpoint, so `start` is 0.
            origin, size, root, extension = checkpoint_lines(text)
            if extension:
                raise MalformedCheckpointError("The checkpoint has lines that ML-DSA-44 would not sign.")
            if len(origin.encode()) > _MAX_VECTOR:
                raise MalformedCheckpointError("The checkpoint's origin is too long to be signed.")
            return b"".join(
                (
                    b"subtree/v1\n\0",
                    _vector(key.name),
                    at.to_bytes(8, "big"),
                    _vector(origin),
                    bytes(8),
                    size.to_bytes(8, "big"),
                    root,
                )
            )


def checkpoint_lines(text: str) -> tuple[str, int, bytes, tuple[str, ...]]:
    """The origin, size, root and extension lines of any log's checkpoint (tlog-checkpoint, Note text)."""
    lines = text.split("\n")
    if lines.pop() or len(lines) < 3 or not all(lines):
        raise MalformedCheckpointError("The text is not a checkpoint.")
    origin, size, root, *extension = lines
    if not _SIZE.fullmatch(size) or int(size) >= _MAX_SIZE:
        raise MalformedCheckpointError("The checkpoint's size is not a number as we would write it.")
    try:
        return origin, int(size), base64text.decode_hash(root), tuple(extension)
    except ValueError as error:
        raise MalformedCheckpointError("The checkpoint's root is not a hash.") from error


def signed_note(text: str, key: VerifierKey, signature: bytes) -> bytes:
    """Write `text` with one signature line; does not check the signature."""
    return bytes(Note(text, (Signature(key.name, key.key_id, signature),)))


def is_time(key: VerifierKey, at: int) -> bool:
    """Whether `key` may sign as of `at` (tlog-cosignature, Format): not beyond 2^63 - 1.

    Type 0x04 always states a time, so 0 is none for it. Type 0x06 states none by 0, and
    type 0x01 has no other.
    """
    match key.algorithm:
        case Algorithm.ED25519:
            return at == 0
        case Algorithm.COSIGNATURE_ED25519:
            return 1 <= at <= MAX_TIME
        case Algorithm.ML_DSA_44:
            return 0 <= at <= MAX_TIME


def is_key_name(name: str) -> bool:
    """Whether `name` may name a key: not empty, printable, without spaces and plus signs."""
    return name.isprintable() and "+" not in name and name.split() == [name]


def _signing(text: str, key: VerifierKey, signature: Signature, verify: Verify) -> Signing | None:
    stamped = 0 if key.algorithm is Algorithm.ED25519 else 8
    if len(signature.value) != stamped + _SIGNATURE_BYTES[key.algorithm]:
        return None
    # tlog-cosignature, Format: a big-endian timestamp, then the signature.
    at = int.from_bytes(signature.value[:stamped], "big")
    if not is_time(key, at):
        return None
    try:
        message = statement(text, key, at)
    except MalformedCheckpointError:
        return None
    return Signing(key, at) if verify(key.public, signature.value[stamped:], message) else None


def _vector(text: str) -> bytes:
    """An opaque vector of 1 to 255 bytes (RFC 8446, 3.4)."""
    data = text.encode()
    return bytes([len(data)]) + data


def _signs_for_anybody(key: VerifierKey) -> bool:
    """Whether signatures under `key` can be made without a private key."""
    if key.algorithm is Algorithm.ML_DSA_44:
        # With t1 = 0 the challenge drops out of FIPS 204, Algorithm 8, line 9.
        return not any(key.public[32:])
    y = int.from_bytes(key.public, "little") & (1 << 255) - 1
    return y >= _PRIME or y in _SMALL_ORDER


def _signature(line: str) -> Signature:
    matched = _SIGNATURE_LINE.fullmatch(line)
    if matched is None or not is_key_name(matched[1]):
        raise MalformedNoteError("A signature line is malformed.")
    try:
        data = base64text.decode(matched[2])
    except ValueError as error:
        raise MalformedNoteError("A signature is not canonical base64.") from error
    if len(data) < 5:
        raise MalformedNoteError("A signature is too short.")
    return Signature(matched[1], data[:4], data[4:])
