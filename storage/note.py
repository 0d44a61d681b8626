"""Signed notes (c2sp.org/signed-note), Ed25519 signatures only.

Pure. Signing and verifying are callables handed in: this module knows where a
signature stands in a note, not how one is made. A note proves that the holder of
a key signed a text; it does not prove when, nor that nobody was shown another text.
"""

import hashlib
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from storage import base64text
from storage.errors import MalformedKeyError, MalformedNoteError, NoteSignatureError

ED25519 = 1
MAX_NOTE_BYTES = 1 << 20
MAX_SIGNATURES = 100

# verify(public, signature, message) says whether the signature is good; it must not raise for a bad one.
Verify = Callable[[bytes, bytes, bytes], bool]

_PRIME = 2**255 - 19
# The y coordinates of the eight points of small order on Curve25519 (RFC 8032, 5.1): under such a
# key one signature verifies for many messages.
_ORDER_EIGHT = 0x05FC536D880238B13933C6D305ACDFD5F098EFF289F4C345B027B2C28F95E826
_SMALL_ORDER = frozenset({0, 1, _PRIME - 1, _ORDER_EIGHT, _PRIME - _ORDER_EIGHT})
_SIGNATURE_LINE = re.compile(r"— (\S+) (\S+)")


@dataclass(frozen=True, slots=True)
class VerifierKey:
    """A name and the Ed25519 public key that signs for it."""

    name: str
    public: bytes

    @classmethod
    def parse(cls, text: str) -> "VerifierKey":
        """Read `name+hash+key`, accepting only what `str` would write and only type 0x01."""
        try:
            name, key_id, encoded = text.split("+", 2)
            data = base64text.decode(encoded)
            key = cls(name, data[1:])
        except ValueError as error:
            raise MalformedKeyError("The verifier key is not of the form name+hash+key.") from error
        if data[:1] != bytes([ED25519]) or len(key.public) != 32:
            raise MalformedKeyError("The verifier key is not an Ed25519 note key.")
        if not is_key_name(name) or key.key_id.hex() != key_id:
            raise MalformedKeyError("The verifier key's name and hash do not fit its key.")
        y = int.from_bytes(key.public, "little") & (1 << 255) - 1
        if y >= _PRIME or y in _SMALL_ORDER:
            raise MalformedKeyError("The verifier key is one under which anything would verify.")
        return key

    @property
    def key_id(self) -> bytes:
        """The first four bytes of SHA-256(name, LF, type, key)."""
        return hashlib.sha256(self.name.encode() + b"\n" + bytes([ED25519]) + self.public).digest()[:4]

    def __str__(self) -> str:
        return f"{self.name}+{self.key_id.hex()}+{base64text.encode(bytes([ED25519]) + self.public)}"


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


def open_note(data: bytes, keys: Sequence[VerifierKey], verify: Verify) -> OpenedNote:
    """Return the text if at least one of `keys` signed it.

    Signatures by other keys are ignored; a wrong signature by a known key
    rejects the whole note. Of several by one key, the first one counts.
    """
    note = Note.parse(data)
    message = note.text.encode()
    signers: list[VerifierKey] = []
    seen: set[tuple[str, bytes]] = set()
    for signature in note.signatures:
        # Four bytes of hash can collide, so several keys may be meant.
        meant = [key for key in keys if (key.name, key.key_id) == (signature.name, signature.key_id)]
        if not meant or (signature.name, signature.key_id) in seen:
            continue
        seen.add((signature.name, signature.key_id))
        if len(signature.value) != 64:
            raise NoteSignatureError(f"The signature by {signature.name} does not have 64 bytes.")
        good = [key for key in meant if verify(key.public, signature.value, message)]
        if not good:
            raise NoteSignatureError(f"The signature by {signature.name} is wrong.")
        signers.append(good[0])
    if not signers:
        raise NoteSignatureError("No known key signed the note.")
    return OpenedNote(note.text, tuple(signers))


def signed_note(text: str, key: VerifierKey, signature: bytes) -> bytes:
    """Write `text` with one signature line; does not check the signature."""
    return bytes(Note(text, (Signature(key.name, key.key_id, signature),)))


def is_key_name(name: str) -> bool:
    """Whether `name` may name a key: not empty, printable, without spaces and plus signs."""
    return name.isprintable() and "+" not in name and name.split() == [name]


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
