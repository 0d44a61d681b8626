"""Why an enrolment or an issuance was refused, each with the status that HTTP has for it."""

from typing import ClassVar

import tools.errors


class Error(tools.errors.Error):
    """Something kept a device from getting its certificate; none was issued."""

    code: ClassVar[str] = "enrolment-refused"
    remedy: ClassVar[str] = "Ask the operator of the service what it wants of this device."
    status: ClassVar[int] = 403


class MalformedError(Error):
    """What was sent cannot be understood."""

    code = "request-malformed"
    remedy = "Send what the design page of tools.issuance describes; 'lightseal device join' does."
    status = 400


class TermsError(Error):
    """The terms are not those that the challenge was given for."""

    code = "terms-changed"
    remedy = "Send the terms back exactly as they came with the challenge."
    status = 400


class ProductRefusedError(Error):
    """The token or the device is of another product."""

    code = "product-refused"
    remedy = "Name the product that the token was made for, and ask the operator for another token."


class ProductReservedError(Error):
    """The signing service's own name was given as that of a product of devices."""

    code = "product-reserved"
    remedy = "Name another product; only the home itself signs under this name, and no device is it."


class RulesError(Error):
    """A product's rules are not such that evidence could be judged by them."""

    code = "rules-refused"
    remedy = "Correct the file of rules; 'lightseal product add --help' names its parts."
    status = 400


class ProductRevokedError(Error):
    """The product was withdrawn."""

    code = "product-revoked"
    remedy = "Nothing of this product is certified any more; bring out another version under its own name."


class LifetimeRefusedError(Error):
    """The product's certificates live for another time."""

    code = "lifetime-refused"
    remedy = "Ask without a lifetime: the product has one."


class DeviceTakenError(Error):
    """A device of that name exists, and nothing that only it has shows that this is it."""

    code = "device-exists"
    remedy = "Enrol without a name, or renew with the key that was certified before."
    status = 409


class DeviceSuspectError(Error):
    """Something about the device is for a person to look at."""

    code = "device-suspect"
    remedy = "The operator looks at the device, then runs 'lightseal device activate NAME' or revokes it."


class PinChangedError(DeviceSuspectError):
    """Another attestation key answers for the device than when it was enrolled first."""

    code = "attestation-pin-changed"


class CustodyTooLowError(Error):
    """The product wants better evidence of where the key is kept."""

    code = "custody-too-low"
    remedy = "Keep the key where the product wants it, and enrol with the evidence for that."


class AttestationRefusedError(Error):
    """The evidence breaks a rule; the sentence begins with the rule's name."""

    code = "attestation"
    remedy = "Enrol again with fresh evidence from the device itself, in the state the rule asks for."

    def __init__(self, rule: str, explanation: str) -> None:
        super().__init__(f"{rule}: {explanation}")
        self.rule = rule


class RenewalError(Error):
    """The proof that the device asks for itself does not hold."""

    code = "renewal-unproven"
    remedy = "Sign the challenge with the key whose certificate is to be renewed."
    status = 401


class KeyUnsuitableError(Error):
    """A key of a kind or strength that is not certified."""

    code = "key-too-weak"
    remedy = "Make a key on P-256 or P-384, or an Ed25519 key."
    status = 400


class RequestUnprovenError(Error):
    """A certificate request was not signed with the key that it asks for."""

    code = "csr-signature"
    remedy = "Make the request with the key that is to be certified."
    status = 400


class ApprovalRefusedError(Error):
    """The issuing authority does not accept the approval."""

    code = "approval-refused"
    remedy = "Look at the clocks of both authorities, and at which key 'ra' the home names."


class ClockUnsafeError(Error):
    """The clock stands before what was recorded last."""

    code = "clock-unsafe"
    remedy = (
        "Put the clock of the authority's machine right; nothing is issued while it is behind the ledger."
    )
    status = 503


class NotLoggedError(Error):
    """The ledger could not take the entry, so nothing was signed."""

    code = "ledger-unavailable"
    remedy = "Look at the ledger with 'lightseal doctor', then ask again with the same request."
    status = 503


class KeyUnavailableError(Error):
    """The authority's key could not be used."""

    code = "key-unavailable"
    remedy = "Look at the token that keeps the authority's key; what was logged is issued when it is back."
    status = 503


class SelfCheckFailedError(Error):
    """A certificate that was just made does not stand up to the rules; it was thrown away."""

    code = "signature-self-check"
    remedy = "Stop issuing and look at the authority's key: it did not make the signature it should."
    status = 500


class AuthorityUnreachableError(Error):
    """The issuing authority does not answer."""

    code = "authority-unreachable"
    remedy = "Start it with 'lightseal ca serve', then ask again with the same request."
    status = 503


class AuthorityBusyError(Error):
    """The issuing authority has too much to do."""

    code = "authority-busy"
    remedy = "Ask again in a few seconds."
    status = 503


class ServiceError(Error):
    """The service answered with something that is no answer."""

    code = "service-malformed"
    remedy = "Check the address of the service; it must be a Lightseal service of this version."
    status = 502


class RefusedElsewhereError(Error):
    """The other side refused for a reason that is not known here."""

    code = "refused-elsewhere"
    remedy = "Look at the log of the service that refused; its sentence is above."
    status = 500


class BodyTooLargeError(Error):
    """The body is larger than is read."""

    code = "too-large"
    remedy = "Ask for fewer certificates at a time."
    status = 413


class BodySlowError(Error):
    """The body did not come in time."""

    code = "too-slow"
    remedy = "Send the request in one piece."
    status = 408


class TooManyError(Error):
    """More is asked than is answered."""

    code = "too-many-requests"
    remedy = "Wait as long as Retry-After says, and send the request again."
    status = 429


class NotThereError(Error):
    """There is nothing under this path and method."""

    code = "not-found"
    remedy = "Enrol with POST /v1/enrolments, then POST /v1/enrolments/{id}."
    status = 404


class FailedError(Error):
    """The service failed in a way that nobody foresaw."""

    code = "failed"
    remedy = "Ask the operator to look at the service's log, and send the same request again."
    status = 500
