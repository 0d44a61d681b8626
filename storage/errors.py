"""What can keep `storage` from answering, split by whose fault it is.

A ledger that was tampered with is an answer of `storage.audit`; the errors here
are raised where going on would record or hand out something untrue.
"""

from typing import ClassVar


class Error(Exception):
    """Something kept the ledger from answering."""

    code: ClassVar[str] = "storage-error"
    remedy: ClassVar[str] = "Report this with the version from 'lightseal --version'."


class LedgerError(Error):
    """The ledger itself cannot be used."""

    code = "ledger-unusable"
    remedy = "Run 'lightseal ledger audit' and keep a copy of the file before changing anything."


class LedgerMissingError(LedgerError):
    """There is no ledger where one was named."""

    code = "ledger-missing"
    remedy = "Check the path, or create a ledger there first."


class LedgerForeignError(LedgerError):
    """The database is not this ledger: another schema revision, or another origin."""

    code = "ledger-foreign"
    remedy = "Use the version of Lightseal that made this ledger, or name the origin it was created with."


class LedgerDamagedError(LedgerError):
    """The ledger contradicts itself, so nothing may be built on it."""

    code = "ledger-damaged"
    remedy = (
        "Stop writing, keep a copy, see what 'lightseal ledger audit' still reads, and restore from a backup."
    )


class LedgerBusyError(LedgerError):
    """Another process held the ledger for longer than we wait."""

    code = "ledger-busy"
    remedy = "Try again; if it stays busy, look for a process that hangs with the ledger open."


class DiskFullError(LedgerError):
    """There was no room to record; nothing was recorded."""

    code = "ledger-disk-full"
    remedy = "Free some space where the ledger lies and try again."


class ReadOnlyError(LedgerError):
    """The ledger was opened, or is stored, so that it cannot be written."""

    code = "ledger-read-only"
    remedy = "Open the ledger for writing, as the user who owns the file."


class ClockError(Error):
    """The clock ran back: recording now would date an entry before its predecessor."""

    code = "clock-unsafe"
    remedy = (
        "Set the clock right and record again; never turn it back to make this pass. If it was a wrong clock that"
        " dated the newest entry, begin a new home: this ledger goes on only when that time has come."
    )


class UnknownEntryError(Error):
    """The ledger has no such entry."""

    code = "entry-unknown"
    remedy = "Look the entry up again; indices are counted from 0."


class EmptyLedgerError(UnknownEntryError):
    """Nothing was recorded yet, so there is no checkpoint."""

    code = "ledger-empty"
    remedy = "Record something first."


class ErasedEntryError(UnknownEntryError):
    """The entry is there, but its payload and salt were erased."""

    code = "entry-erased"
    remedy = "Ask whoever kept the receipt from before the erasure; it is still valid."


class ProofError(Error):
    """A proof does not lead where it must."""

    code = "proof-invalid"
    remedy = "Do not rely on the record; ask the log's operator for a new receipt and keep this one."


class NoteSignatureError(ProofError):
    """No known key signed the note, or a known key's signature is wrong."""

    code = "note-unverified"
    remedy = "Check that you have the log's verifier key from a source you trust."


class MalformedError(Error):
    """Bytes from outside are not what they should be."""

    code = "malformed"
    remedy = "Get the file again from where it was made; do not repair it by hand."


class MalformedNoteError(MalformedError):
    """Not a signed note as we would write it."""

    code = "note-malformed"


class MalformedKeyError(MalformedError):
    """Not a verifier key for Ed25519 notes, or a key under which anything verifies."""

    code = "verifier-key-malformed"
    remedy = "Give the log's verifier key as published: name+hash+key, on one line."


class MalformedCheckpointError(MalformedError):
    """Not a checkpoint as we would write it."""

    code = "checkpoint-malformed"


class MalformedProofError(MalformedError):
    """Not an inclusion proof as we would write it."""

    code = "proof-malformed"


class MalformedEntryError(MalformedError):
    """Not a ledger entry as we would write it."""

    code = "entry-malformed"


class MalformedPayloadError(MalformedError):
    """Not a canonical JSON object, or too large."""

    code = "payload-malformed"


class MalformedReceiptError(MalformedError):
    """Not a receipt as we would write it."""

    code = "receipt-malformed"
