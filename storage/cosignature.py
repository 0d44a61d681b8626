"""Cosignatures (c2sp.org/tlog-cosignature): what a witness, or a log with ML-DSA-44, says of a checkpoint.

Pure. A cosignature proves that its cosigner held the checkpoint to be consistent with all
it had seen of that log, and, with a time, that it was the largest it had seen by its own
clock. It does not prove that the clock was right, nor anything of the entries.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from storage.errors import Error, MalformedKeyError
from storage.note import (
    COSIGNER_ALGORITHMS,
    LOG_ALGORITHMS,
    Note,
    Signature,
    VerifierKey,
    Verify,
    checkpoint_lines,
    is_time,
    signings,
    statement,
)

# sign(message) returns the bare signature: 64 bytes for Ed25519, 2420 for ML-DSA-44.
Sign = Callable[[bytes], bytes]


class CosignatureTimeError(Error):
    """The time is none at which this key can cosign."""

    code = "cosignature-time-unusable"
    remedy = "Set the witness's clock right: it must give seconds since 1970, beyond 0."


@dataclass(frozen=True, slots=True)
class Cosigner:
    """A key whose cosignature was checked, and the time it states: 0 if it states none (ML-DSA-44 only)."""

    key: VerifierKey
    at: int


def cosign(text: str, key: VerifierKey, at: int, sign: Sign) -> Signature:
    """Cosign a checkpoint's text as of `at` (POSIX seconds).

    Whoever calls has checked the checkpoint's consistency; this function cannot.
    """
    if key.algorithm not in COSIGNER_ALGORITHMS:
        raise MalformedKeyError("A key of type 0x01 signs notes and cosigns none.")
    if not is_time(key, at):
        raise CosignatureTimeError(f"{key.name} cannot cosign as of {at}.")
    # tlog-cosignature, Format: the timestamp, big-endian, then the signature.
    return Signature(key.name, key.key_id, at.to_bytes(8, "big") + sign(statement(text, key, at)))


def sign_as_log(text: str, key: VerifierKey, sign: Sign) -> Signature:
    """Sign a checkpoint's text as the log it names (tlog-checkpoint, Signatures).

    With ML-DSA-44 the signature is a cosignature under the log's own name that states no time:
    a log's checkpoint carries none.
    """
    if key.algorithm not in LOG_ALGORITHMS:
        raise MalformedKeyError("A key of type 0x04 is a witness's, and no log signs with it.")
    if checkpoint_lines(text)[0] != key.name:
        raise MalformedKeyError("The key's name is not the origin of the checkpoint.")
    stamp = b"" if key.algorithm not in COSIGNER_ALGORITHMS else bytes(8)
    return Signature(key.name, key.key_id, stamp + sign(statement(text, key, 0)))


def cosigners(note: bytes, keys: Sequence[VerifierKey], verify: Verify) -> tuple[Cosigner, ...]:
    """Whichever of `keys` cosigned the checkpoint in a signed note; perhaps nobody.

    Does not look at the log's signature, nor at the clock: a time may lie in the future. Lines by
    other keys are ignored, and a wrong one by a known key raises `NoteSignatureError`. Of several
    by one key, the first one counts.
    """
    known = [key for key in keys if key.algorithm in COSIGNER_ALGORITHMS]
    return tuple(Cosigner(signing.key, signing.at) for signing in signings(Note.parse(note), known, verify))
