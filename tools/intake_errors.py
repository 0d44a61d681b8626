"""Why a capture is not taken in, where it is the capture's own fault and not its request's."""

from typing import ClassVar

from tools.errors import Error


class CaptureRefusedError(Error):
    """A capture is not taken in; nothing was recorded of it."""

    code: ClassVar[str] = "capture-refused"
    remedy: ClassVar[str] = "Hand in the file as the device signed it."


class CommitmentMismatchError(CaptureRefusedError):
    """The opening that was sent does not open the commitment in the claim."""

    code = "commitment-mismatch"
    remedy = "Send the opening that the device kept beside this very capture."


class CheckpointForeignError(CaptureRefusedError):
    """The checkpoint in the claim is none that this service's log signed and published."""

    code = "checkpoint-foreign"
    remedy = "Capture with the checkpoint of the service that the device reports to, or with none."


class CertificateForeignError(CaptureRefusedError):
    """The capture was signed with a certificate that belongs to another device, or to none known here."""

    code = "certificate-foreign"
    remedy = "Let the device that signed the capture hand it in."


class KeyExpiredError(CaptureRefusedError):
    """The certificate of the key that signed the request is not valid now."""

    code = "key-expired"
    remedy = "Renew the device's certificate with 'lightseal device join', then hand the captures in."


class UntrustedIssuerError(CaptureRefusedError):
    """The certificate that signed the capture leads to no authority of this service."""

    code = "untrusted-issuer"
    remedy = "Hand the capture in to the service that enrolled the device."


class CertificateProfileError(CaptureRefusedError):
    """The certificate that signed the capture is not of the kind that may sign claims here."""

    code = "certificate-profile"
    remedy = "Enrol the device with this service; its authority issues certificates of the right kind."


class CredentialsMissingError(CaptureRefusedError):
    """The file carries no signed record."""

    code = "credentials-missing"
    remedy = "Capture the file with 'lightseal capture' on the device that made it."


class PastError(CaptureRefusedError):
    """The file has a past: more than the one manifest of a capture."""

    code = "capture-has-a-past"
    remedy = "Hand in the capture itself; what was made of it later is signed with 'lightseal sign'."


class ClaimSignatureError(CaptureRefusedError):
    """The signature of the claim does not hold, or its assertions are not those that it names."""

    code = "claim-signature"
    remedy = "Hand in the file as the device signed it; this one was damaged or made up."


class NotACaptureError(CaptureRefusedError):
    """The claim says something else than that one picture was captured."""

    code = "action-not-allowed"
    remedy = "Only captures are handed in; sign everything else with 'lightseal sign'."


class NoPlaceError(CaptureRefusedError):
    """The claim does not say where it stands in a chain of captures."""

    code = "capture-unchained"
    remedy = "Capture with 'lightseal capture', which numbers what it signs."


class MediaChangedError(CaptureRefusedError):
    """The file is not, or not wholly, the one that was signed."""

    code = "media-changed"
    remedy = "Look for the original on the device; its record can be handed in alone, with --hash-only."


class MediaIncompleteError(CaptureRefusedError):
    """The file is empty or cut short."""

    code = "media-incomplete"
    remedy = "Send the whole file; if the device holds no more of it, send its record with --hash-only."


class MediaTrailingError(CaptureRefusedError):
    """Bytes follow the end of the media."""

    code = "media-trailing-data"
    remedy = "Send the file as the device signed it, without what was added behind it."


class MediaTypeError(CaptureRefusedError):
    """The file is of another type than was announced."""

    code = "media-type-mismatch"
    remedy = "Announce the type that the file has."


class MediaUnsupportedError(CaptureRefusedError):
    """The file is of no type that a capture can have."""

    code = "unsupported-media"
    remedy = "Hand in pictures, films or sound as the device signed them, or the record alone."
