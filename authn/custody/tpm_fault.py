"""Say in our own errors why a TPM did not do what it was asked (TPM 2.0 Library, Part 2, 6.6)."""

from enum import Enum, auto

from authn.errors import KeyBusyError, KeyDisabledError, KeyFileError, KeyGoneError, PinWrongError


class Fault(Enum):
    """Whose fault it is, as far as it makes a difference to us."""

    SILENT = auto()
    """The TPM did not answer, or not as a TPM that was started."""
    NO_ROOM = auto()
    """Three keys are loaded already."""
    BUSY = auto()
    ABSENT = auto()
    """What the command is about is not in the TPM."""
    FOREIGN = auto()
    """Wrapped by another TPM."""
    WRONG_PIN = auto()
    LOCKED = auto()
    OTHER = auto()


_WIRE = 0x0A  # the layer of the TCTI in a TSS2_RC; those of the TPM and of the resource manager are 0 and 11
_FAULTS = {
    0x100: Fault.SILENT,  # INITIALIZE
    0x101: Fault.SILENT,  # FAILURE
    0x902: Fault.NO_ROOM,  # OBJECT_MEMORY
    0x903: Fault.BUSY,  # SESSION_MEMORY
    0x904: Fault.BUSY,  # MEMORY
    0x908: Fault.BUSY,  # YIELDED
    0x90A: Fault.BUSY,  # TESTING
    0x920: Fault.BUSY,  # NV_RATE
    0x922: Fault.BUSY,  # RETRY
    0x08B: Fault.ABSENT,  # HANDLE
    **dict.fromkeys(range(0x910, 0x917), Fault.ABSENT),  # REFERENCE_H0 to H6
    0x09F: Fault.FOREIGN,  # INTEGRITY
    0x0A5: Fault.FOREIGN,  # BINDING
    0x08E: Fault.WRONG_PIN,  # AUTH_FAIL
    0x0A2: Fault.WRONG_PIN,  # BAD_AUTH
    0x921: Fault.LOCKED,  # LOCKOUT
}


def fault_of(code: int, bare: int) -> Fault:
    """The fault behind a TSS2_RC; `bare` is without the number of the handle, parameter or session it is about."""
    layer = code >> 16 & 0xFF
    if layer == _WIRE:
        return Fault.SILENT
    return _FAULTS.get(bare & 0xFFFF, Fault.OTHER) if layer in (0, 11) else Fault.OTHER


def refusal(fault: Fault, which: str, detail: str) -> KeyFileError:
    """The error to raise; `which` names the TPM, and `detail` is its library's own sentence."""
    match fault:
        case Fault.SILENT:
            return KeyGoneError(f"{which} does not answer")
        case Fault.NO_ROOM | Fault.BUSY:
            return KeyBusyError(f"{which} has no room, or too much to do")
        case Fault.ABSENT:
            return KeyGoneError(f"{which} does not have the key")
        case Fault.FOREIGN:
            return KeyGoneError(f"the key file is not of {which}, or from before it was cleared")
        case Fault.WRONG_PIN:
            return PinWrongError(f"{which} refused the PIN")
        case Fault.LOCKED:
            return KeyDisabledError(
                f"{which} locked itself after too many wrong PINs; it opens after a while"
            )
        case Fault.OTHER:
            return KeyFileError(f"{which} refused: {detail}")
