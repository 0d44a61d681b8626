"""What can keep a command from answering, split by who can put it right.

A file that is broken, hostile or unsigned is an answer and never raised; see `tools.verdict`.
"""

from typing import ClassVar


class Error(Exception):
    """Something kept the command from answering."""

    code: ClassVar[str] = "tools-error"
    remedy: ClassVar[str] = "Run 'lightseal doctor' and report what it prints."


class UsageError(Error):
    """The command was asked for something it cannot mean."""

    code = "usage"
    remedy = "Run the command with --help to see what it takes."


class OutputExistsError(Error):
    """A file already stands where the command would write."""

    code = "output-exists"
    remedy = "Name another output, or move the existing file away."


class DiskFullError(Error):
    """There is no room left to write; what was written before is kept."""

    code = "disk-full"
    remedy = "Free some space and run the same command again."


class NotAFileError(Error):
    """A folder was given where one file is wanted."""

    code = "not-a-file"
    remedy = "Give one file, or check the whole folder with 'lightseal batch'."


class UnreadableError(Error):
    """A file does not exist or may not be read."""

    code = "file-unreadable"
    remedy = "Check the path, and that you may read the file."


class UnwritableError(Error):
    """A file cannot be written."""

    code = "file-unwritable"
    remedy = "Check the folder, and that you may write there."


class ServiceUnreachableError(Error):
    """A service did not answer; what was to be sent waits where it is."""

    code = "service-unreachable"
    remedy = "Check the address and the network, then run the same command again; nothing is lost meanwhile."


class SystemRefusedError(Error):
    """The operating system refused something that no other error here is about."""

    code = "system-refused"
    remedy = "Read the reason in the sentence; 'lightseal doctor' shows what this machine offers."


class ClockBehindError(Error):
    """The clock shows a time before the certificates of this home were made."""

    code = "clock-unsafe"
    remedy = "Set the clock right with a time service; never turn it back to make this pass."


class CertificateOverError(Error):
    """The certificate that would sign is past its time."""

    code = "certificate-expired"
    remedy = "Enrol a device under a new name with 'lightseal device enrol', and sign with --device."


class AlreadySignedError(Error):
    """The file has a past, so no device may call it a new capture."""

    code = "already-signed"
    remedy = "Sign it without --device: the signing service then says that it received this file."


class MediaRefusedError(Error):
    """The worker that read the file says that it must not be signed."""

    def __init__(self, reason: str, code: str, remedy: str) -> None:
        super().__init__(reason)
        self.code = code  # type: ignore[misc]
        self.remedy = remedy  # type: ignore[misc]


class FileChangedError(Error):
    """The file was written to while it was being checked."""

    code = "file-changed"
    remedy = "Wait until nothing writes to the file any more, and check it again."


class UnreadableMediaError(Error):
    """The bytes follow no container's rules, so nobody can say whether they hold a signed record."""

    code = "media-unreadable"
    remedy = "Ask for the original file; this one is damaged, or is not what its first bytes say."


class HomeMissingError(Error):
    """There is no home with keys, lists and a ledger yet."""

    code = "home-missing"
    remedy = "Run 'lightseal init'."


class HomeDamagedError(Error):
    """The home exists, but a part of it is missing or cannot be read."""

    code = "home-damaged"
    remedy = "Run 'lightseal doctor'; restore the home from a backup rather than repairing it by hand."


class HomeOutdatedError(Error):
    """The home was made by an earlier version, and its ledger was not brought up to date."""

    code = "home-outdated"
    remedy = "Run 'lightseal ledger migrate'; it changes no entry and compares the root before and after."


class RotationError(Error):
    """The log's keys cannot be rotated from where they are."""

    code = "rotation-impossible"
    remedy = "'lightseal ledger rotate-key' begins a rotation, and with --finish ends it."


class WitnessMissingError(Error):
    """There is no witness where one was named."""

    code = "witness-missing"
    remedy = "Make one with 'lightseal witness create FOLDER --name NAME', or name its folder."


class AddressTakenError(Error):
    """Nothing can listen at this address."""

    code = "address-unusable"
    remedy = "Name another --host and --port; 0 takes any port that is free."


class BackupOldError(Error):
    """The backup does not contain all that the ledger acknowledged."""

    code = "backup-old"
    remedy = (
        "Look for a newer backup; where there is none, freeze what is left and begin a new log with --after."
    )


class BackupOtherError(Error):
    """The backup is another log's, or does not make a ledger that holds."""

    code = "backup-other"
    remedy = "Name the home whose log this is, or use another copy of the backup."


class HomeUnreadableError(UnreadableError):
    """The home exists, and this user may not read a part of it."""

    remedy = "Work as the user whose home it is, or have the owner put the permissions right."


class DeviceUnknownError(Error):
    """No device of that name is enrolled here."""

    code = "device-unknown"
    remedy = "Run 'lightseal device list' to see the enrolled devices."


class DeviceHeldError(Error):
    """The device is suspended, suspect, withdrawn or not ready, so nothing new is signed in its name."""

    code = "device-held"
    remedy = "See why with 'lightseal device captures NAME'; 'lightseal device activate' ends a suspension."


class DeviceExistsError(Error):
    """A device of that name is enrolled already."""

    code = "device-exists"
    remedy = "Choose another name; a device is never enrolled over another one."


class RunBusyError(Error):
    """Another process is working on this run."""

    code = "run-busy"
    remedy = "Wait for the other process to end, or choose another --run name."


class RunForeignError(Error):
    """The run was begun with other lists, another policy or another engine version."""

    code = "run-foreign"
    remedy = "Choose another --run name; rows made under different rules are never mixed."


class ResultsDamagedError(Error):
    """The saved results of a run were changed or damaged in a way that no interruption explains."""

    code = "results-damaged"
    remedy = "Keep the damaged files for inspection and start again under another --run name."


class WorkerDiedError(Error):
    """The process that read the file died or could not be started."""

    code = "worker-died"
    remedy = (
        "The file may be built to break its readers; do not open it elsewhere. Other files are not affected."
    )


class WorkerTimeoutError(Error):
    """Reading the file took longer than the limit."""

    code = "worker-timeout"
    remedy = (
        "The file may be built to keep its readers busy; ask for the original. Other files are not affected."
    )
