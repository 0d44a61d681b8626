"""What can keep `authn` from answering, split by whose fault it is.

A bad signature is an answer and never raised; see `authn.evidence`.
"""

from typing import ClassVar


class Error(Exception):
    """Something kept us from answering."""

    code: ClassVar[str] = "authn-error"
    remedy: ClassVar[str] = "Report this with the file's type and the version from 'lightseal --version'."


class MediaError(Error):
    """The media itself cannot be worked on."""

    code = "media-unusable"
    remedy = "Use the original file from the device."


class UnknownMediaError(MediaError):
    """The bytes are of no type that can carry credentials."""

    code = "media-type-unknown"
    remedy = (
        "Give a JPEG, PNG, WebP, TIFF, AVIF, HEIC, GIF, DNG, MP4, MOV, AVI, WAV, MP3, FLAC, PDF or SVG file."
    )


class EmptyMediaError(MediaError):
    """The file has no bytes."""

    code = "media-empty"
    remedy = "Copy the file again from the device; this copy holds nothing."


class TruncatedMediaError(MediaError):
    """The media ends before its own structure says it does."""

    code = "media-truncated"
    remedy = "Copy the file again from the device; a part of it is missing."


class TrailingBytesError(MediaError):
    """Bytes follow the end of the media."""

    code = "media-trailing-bytes"
    remedy = (
        "Take the file as the device wrote it. If its camera leaves such bytes, 'lightseal sign"
        " --with-trailing-bytes' signs it with them; as a device's own capture it is not signed."
    )


class MalformedMediaError(MediaError):
    """The media breaks the rules of its own format."""

    code = "media-malformed"
    remedy = "Use the original file from the device; this one was damaged, or is not what it begins like."


class MediaTooLargeError(MediaError):
    """The media is over a limit set before parsing."""

    code = "media-too-large"
    remedy = "Files over 4 GiB are not read; split the recording, or check its parts."


class KeyFileError(Error):
    """A key cannot be opened."""

    code = "key-unusable"
    remedy = "Check that the key file exists, belongs to you and has mode 0600."


class KeyExposedError(KeyFileError):
    """Other users of this machine could read the key."""

    code = "key-exposed"
    remedy = "Run 'chmod 600' on the key file; if others may have read it, revoke the device and enrol again."


class KeyLockedError(KeyFileError):
    """The key is encrypted and the passphrase does not open it, or the other way round."""

    code = "key-locked"
    remedy = "Give the passphrase this key was stored with, and none for a key stored without."


class KeyNotOursError(KeyFileError):
    """The key is of a kind that cannot do what it was opened for."""

    code = "key-wrong-kind"
    remedy = "Use a P-256 or P-384 key for signing media, and an Ed25519 key for a log."


class KeyAddressError(KeyFileError):
    """A key's URI cannot be understood, or holds a secret."""

    code = "key-address"
    remedy = (
        "Name a key as file:PATH, pkcs11:…?module-path=…&pin-source=file:PATH, tpm:PATH, exec:PROGRAM or"
        " awskms:ARN; a PIN never stands in it."
    )


class KeyGoneError(KeyFileError):
    """The token, the TPM, the program or the service that keeps the key does not answer, or lacks the key."""

    code = "key-gone"
    remedy = "Plug the token in, start the service, or check the key's name; then run the same command again."


class KeyDisabledError(KeyFileError):
    """Whoever keeps the key does not let it sign."""

    code = "key-disabled"
    remedy = "Ask the operator of the token or service to enable the key, or use another one."


class PinWrongError(KeyFileError):
    """The PIN does not open the token. It is never tried again by itself, since tokens lock."""

    code = "pin-wrong"
    remedy = (
        "Correct the file that pin-source names, and try once more; most tokens lock after three wrong PINs."
    )


class KeyBusyError(KeyFileError):
    """Whoever keeps the key has too much to do, or did not answer in time."""

    code = "key-busy"
    remedy = "Run the same command again in a moment; if it stays so, look at the token or service."


class ProviderMissingError(KeyFileError):
    """The package or module that speaks to the token is not installed."""

    code = "key-provider-missing"
    remedy = "Install the extra that the sentence names: lightseal[hsm], lightseal[tpm] or lightseal[kms]."


class EvidenceError(Error):
    """Evidence of where a key is kept cannot be read, or does not prove what it must."""

    code = "attestation"
    remedy = (
        "Enrol again with fresh evidence from the device itself; the sentence names the rule that failed."
    )


class CertificateError(Error):
    """A certificate or trust list cannot be read."""

    code = "certificate-malformed"
    remedy = "Give a file of PEM certificates."


class IssuanceError(CertificateError):
    """A certificate that the policy forbids was asked for; none was made."""

    code = "issuance-refused"
    remedy = "Change the request as the sentence says; the policy's limits cannot be lifted."


class TimestampError(Error):
    """The time-stamp authority did not answer with a token that stands."""

    code = "timestamp-failed"
    remedy = "Sign again later, or without a proven time: --no-timestamp."


class MalformedDerError(Error):
    """Bytes are not the DER that a time-stamp message must be."""

    code = "der-malformed"
    remedy = "Ask the time-stamp authority again; its message cannot be read."


class MalformedRequestError(TimestampError):
    """A time-stamp request cannot be read, or asks for what no authority should give."""

    code = "timestamp-request-malformed"
    remedy = "Send a TimeStampReq as RFC 3161 defines it, without extensions."


class SigningError(Error):
    """The media could not be signed; nothing was written."""

    code = "signing-failed"
    remedy = "Check the file with 'lightseal verify', and the device with 'lightseal device list'."


class SelfCheckError(SigningError):
    """A signature did not verify under the key that made it, and was thrown away."""

    code = "signature-self-check-failed"
    remedy = "Stop using this key and check the machine's memory; a faulty signature can reveal the key."


class StatusError(Error):
    """A file that should tell of withdrawn certificates cannot be read."""

    code = "status-unreadable"
    remedy = "Give one revocation list (DER or PEM) or one OCSP answer (DER), as its issuer publishes it."
