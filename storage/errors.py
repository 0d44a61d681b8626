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


class LedgerOutdatedError(LedgerForeignError):
    """The database was made by an earlier version, and nobody brought it up to date yet."""

    code = "ledger-outdated"
    remedy = "Run 'lightseal ledger migrate'; it changes no entry and compares the root before and after."


class LedgerAddressError(LedgerMissingError):
    """The address names no database that we could use."""

    code = "ledger-address"
    remedy = (
        "Give sqlite:///PATH or postgresql://HOST/DATABASE, without a password: PostgreSQL takes it from a"
        " password file or PGPASSWORD."
    )


class LedgerUnreachableError(LedgerError):
    """The database server did not answer, or went away; what was being recorded may be there or not."""

    code = "ledger-unreachable"
    remedy = "See that the server runs and submit the same records again: none is ever recorded twice."


class NotRememberedError(LedgerError):
    """The entries are recorded, and the guard could not be told of them."""

    code = "ledger-not-remembered"
    remedy = "Put right what the sentence says of the guard, and submit the same records again: they keep their indices."


class LedgerUnsafeError(LedgerError):
    """The database may lose what it said was written."""

    code = "ledger-unsafe"
    remedy = "Set fsync and full_page_writes to on; a log that loses what it published tells two histories."


class LedgerFrozenError(LedgerError):
    """The ledger was closed for ever; its entries and proofs stay valid."""

    code = "ledger-frozen"
    remedy = "Record in the ledger that follows it; 'lightseal init --after CHECKPOINT' begins one."


class LedgerSealedError(LedgerError):
    """Payloads were asked for, and the ledger was opened without the keys that open them."""

    code = "ledger-sealed"
    remedy = "Ask where the home with the ledger's keyring lies."


class DriverMissingError(LedgerError):
    """The package that speaks to this kind of database is not installed."""

    code = "ledger-driver-missing"
    remedy = "Install it: pip install 'lightseal[postgres]'."


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


class FileFailedError(LedgerError):
    """A file beside the database could not be read, written or synced."""

    code = "ledger-file-failed"
    remedy = "Look at the disk; submit the same records again when it is sound: none is ever recorded twice."


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


class ConflictingRecordError(Error):
    """The same payload and salt were recorded before, as another kind or for another key."""

    code = "record-conflicting"
    remedy = "Draw a fresh salt for every record; a salt that is used twice hides nothing."


class UnknownEntryError(Error):
    """The ledger has no such entry."""

    code = "entry-unknown"
    remedy = "Look the entry up again; indices are counted from 0."


class EmptyLedgerError(UnknownEntryError):
    """Nothing was recorded yet, so there is no checkpoint."""

    code = "ledger-empty"
    remedy = "Record something first."


class NotWitnessedError(EmptyLedgerError):
    """No checkpoint was cosigned by enough witnesses yet."""

    code = "ledger-not-witnessed"
    remedy = "Have the newest one cosigned: 'lightseal ledger cosign --witnesses POLICY'."


class ErasedEntryError(UnknownEntryError):
    """The entry is there, but its payload and salt were erased."""

    code = "entry-erased"
    remedy = "Ask whoever kept the receipt from before the erasure; it is still valid."


class ErasureUnfinishedError(LedgerError):
    """What was to be forgotten is forgotten, and no entry says so yet."""

    code = "erasure-unfinished"
    remedy = "Put right what the sentence says and erase the same entry again, so that the log says so."


class LedgerExistsError(LedgerError):
    """There is a ledger where one was to be put back."""

    code = "ledger-exists"
    remedy = "Move the ledger that is there away first, and keep it: a backup never replaces one."


class UnerasableError(Error):
    """The entry says what happened to the log itself, and hides nobody's secret."""

    code = "entry-unerasable"
    remedy = "Erase the entry that holds what is to be forgotten."


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
