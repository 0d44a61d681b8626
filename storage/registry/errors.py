"""What keeps the registry from answering, split into its database, its rows and who asks."""

from storage.errors import Error


class RegistryError(Error):
    """The registry itself cannot be used."""

    code = "registry-unusable"
    remedy = "Keep a copy of the registry and see what the disk or the database server says."


class RegistryMissingError(RegistryError):
    """There is no registry where one was named."""

    code = "registry-missing"
    remedy = "Check the path, or create a registry there first."


class RegistryAddressError(RegistryMissingError):
    """The address names no database that we could use."""

    code = "registry-address"
    remedy = "Give sqlite:///PATH, or postgresql://HOST/DATABASE without a password."


class RegistryForeignError(RegistryError):
    """The database is no registry, or one of another revision."""

    code = "registry-foreign"
    remedy = "Use the version of Lightseal that made this registry; an earlier one cannot read it."


class RegistryDamagedError(RegistryError):
    """The registry contradicts itself, so nothing may be built on it."""

    code = "registry-damaged"
    remedy = "Stop enrolling and receiving, keep a copy of the file, and restore the registry from a backup."


class RegistryBusyError(RegistryError):
    """Another process held the registry for longer than we wait."""

    code = "registry-busy"
    remedy = "Try again; if it stays busy, look for a process that hangs with the registry open."


class RegistryFullError(RegistryError):
    """There was no room to record; nothing was recorded."""

    code = "registry-disk-full"
    remedy = "Free some space where the registry lies and try again."


class RegistryReadOnlyError(RegistryError):
    """The registry was opened, or is stored, so that it cannot be written."""

    code = "registry-read-only"
    remedy = "Work as the user who owns the registry, or as a member of the database's registry role."


class RegistryUnreachableError(RegistryError):
    """The database server did not answer, or went away; what was being recorded may be there or not."""

    code = "registry-unreachable"
    remedy = "See that the server runs and ask again; a token or a nonce may be used up by now."


class RegistryUnsafeError(RegistryError):
    """The database may lose what it said was written."""

    code = "registry-unsafe"
    remedy = "Set fsync and full_page_writes to on: a forgotten nonce or number can be used twice."


class RegistryDriverMissingError(RegistryError):
    """The package that speaks to this kind of database is not installed."""

    code = "registry-driver-missing"
    remedy = "Install it: pip install 'lightseal[postgres]'."


class MalformedRowError(Error):
    """What is to be recorded does not have the form of a row."""

    code = "row-malformed"
    remedy = "Report this with the version from 'lightseal --version': it was to be refused earlier."


class KnownError(Error):
    """Something else is recorded under this name already."""

    code = "name-known"
    remedy = "Choose another name; what was recorded is not replaced."


class UnknownError(Error):
    """The registry has no such row."""

    code = "row-unknown"
    remedy = "Look the name up again."


class ProductKnownError(KnownError):
    """There is another product of this name."""

    code = "product-known"


class ProductUnknownError(UnknownError):
    """There is no product of this name."""

    code = "product-unknown"
    remedy = "Register the product first."


class DeviceKnownError(KnownError):
    """There is another device of this name."""

    code = "device-known"


class DeviceUnknownError(UnknownError):
    """There is no device of this name."""

    code = "device-unknown"
    remedy = "Enrol the device first."


class CertificateKnownError(KnownError):
    """The issuer used this serial before, or the certificate is recorded with other words."""

    code = "certificate-known"
    remedy = "Issue with a fresh random serial."


class CertificateUnknownError(UnknownError):
    """No such certificate was issued here."""

    code = "certificate-unknown"


class EvidenceUnknownError(UnknownError):
    """There is no such evidence."""

    code = "evidence-unknown"


class OperatorKnownError(KnownError):
    """There is another operator of this name, or with this key."""

    code = "operator-known"
    remedy = "Give every person a name and a key of their own: two people with one key are one."


class OperatorUnknownError(UnknownError):
    """There is no operator of this name."""

    code = "operator-unknown"


class CaptureKnownError(KnownError):
    """The claim was recorded before, as something else."""

    code = "claim-known"
    remedy = "Look the claim up: it belongs to another device, or stands at another place of the chain."


class CaptureUnknownError(UnknownError):
    """No capture with this claim was recorded."""

    code = "capture-unknown"


class TwoPeopleError(Error):
    """A product or a CA is withdrawn by two people, never by one."""

    code = "two-people-needed"
    remedy = "Have a second operator confirm the withdrawal."


class RefusedError(Error):
    """What was shown does not entitle to what was asked; nothing was changed."""

    code = "refused"
    remedy = "Ask the service for a new one."


class TokenUnknownError(RefusedError):
    """Nobody issued this bootstrap token here."""

    code = "token-unknown"
    remedy = "Ask the operator of the service for a bootstrap token."


class TokenExpiredError(TokenUnknownError):
    """The bootstrap token was not used in time."""

    code = "token-expired"


class TokenUsedError(TokenUnknownError):
    """The bootstrap token was used before; each enrols one device."""

    code = "token-used"


class NonceUnknownError(RefusedError):
    """Nobody was given this challenge, or it has long expired."""

    code = "nonce-unknown"
    remedy = "Ask for a new challenge and answer it within its time."


class NonceExpiredError(NonceUnknownError):
    """The challenge or nonce is too old."""

    code = "nonce-expired"


class NonceWrongDeviceError(NonceUnknownError):
    """The challenge was given to somebody else, or for something else."""

    code = "nonce-wrong-device"


class NonceReplayedError(NonceUnknownError):
    """The challenge or nonce was used before."""

    code = "replayed-nonce"
    remedy = "Sign the request again, with a fresh nonce."


class KeyReusedError(RefusedError):
    """The public key was certified, or was to be, before; no key ever is twice."""

    code = "key-reused"
    remedy = "Make a new key on the device and enrol with that."


class PinConflictError(RefusedError):
    """The device's attestation is by another key than its first one."""

    code = "attestation-pin"
    remedy = (
        "Have a person look: the device was reset, or another one speaks for it. Enrol it under a new name."
    )


class StatusError(RefusedError):
    """A device does not go from its status to that one."""

    code = "status-transition"
    remedy = "Look at the device's status and its history; a revoked device never comes back."


class DevicePendingError(StatusError):
    """The device is not enrolled yet."""

    code = "device-pending"
    remedy = "Finish its enrolment first."


class DeviceSuspendedError(StatusError):
    """The device is suspended."""

    code = "device-suspended"
    remedy = "Ask the operator of the service why, and keep the captures meanwhile."


class DeviceRevokedError(StatusError):
    """The device is revoked."""

    code = "device-revoked"
    remedy = "Enrol the device anew, under another name and with another key."


class DeviceRetiredError(StatusError):
    """The device is retired."""

    code = "device-retired"
    remedy = "Enrol the device anew, under another name and with another key."


class CounterReusedError(RefusedError):
    """Another capture of the device has this number."""

    code = "counter-reused"
    remedy = "Look at the device's state: its counter was put back, or two programs use it at once."


class ChainBeginningError(RefusedError):
    """The capture numbered 1 names a predecessor."""

    code = "chain-beginning"
    remedy = "Look at the device's state: its counter was put back, and its chain was not."


class ForkError(RefusedError):
    """Two captures contradict each other about the device's chain; the device is suspect from now on."""

    code = "chain-fork"
    remedy = "Suspend the device and have a person look: its key may be used in two places."


class CertificateReusedError(ForkError):
    """Two captures were signed with a certificate that is for one; the device is suspect from now on."""

    code = "certificate-reused"
    remedy = "Suspend the device and have a person look: its folder may be used in two places."
