"""What a registration authority lets an issuing authority certify, signed.

The two are separate processes: whoever takes over the one that speaks with
strangers still cannot have a certificate made that it did not approve with a
key of its own. An approval holds for minutes. That it is used once is not
known here; the issuing authority keeps the keys that were certified.
"""

import base64
import binascii
import json
import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from authn.errors import Error, IssuanceError
from authn.evidence import Custody
from authn.identity import Lifetime, Subject
from authn.keys import KeyProvider, PublicKey, algorithm_of, signature_holds

MAX_APPROVAL = 128 << 10
MAX_KEYS = 100
LIFE = timedelta(minutes=5)
TOLERANCE = timedelta(seconds=60)

_CONTEXT = b"lightseal-approval-v1\n"
_ENROLMENT = re.compile(r"[0-9a-f]{16,64}")
_ORIGIN = re.compile(r"[!-~]{1,255}")
_MAX_SPKI = 256
_FIELDS = frozenset(
    {
        *("at", "custody", "enrolment", "evidence", "keys", "lifetime"),
        *("organisation", "origin", "product", "pseudonyms"),
    }
)


class ApprovalError(Error):
    """An approval that nobody who may gave, or that does not hold any more."""

    code = "approval-refused"
    remedy = "Start the enrolment again; an approval holds for five minutes and for one use."


@dataclass(frozen=True, slots=True)
class Approval:
    """That these keys may be certified for this product.

    `keys` are SubjectPublicKeyInfo in DER and `pseudonyms` what the ledger
    calls each of them. `evidence` is the SHA-256 of what the device proved
    with, as `custody` sums it up; both are the registration authority's word.
    `origin` names the log of the home whose authority is to certify: another
    one that knows the same registration key must refuse.
    """

    enrolment: str
    organisation: str
    product: str
    lifetime: Lifetime
    keys: tuple[bytes, ...]
    pseudonyms: tuple[bytes, ...]
    custody: Custody
    evidence: bytes
    at: datetime
    origin: str

    def __post_init__(self) -> None:
        try:
            Subject("XX", self.organisation, self.product)
        except IssuanceError as error:
            raise ApprovalError(f"the approval names what no certificate can: {error}") from error
        if not _ORIGIN.fullmatch(self.origin):
            raise ApprovalError("an approval names the log of one home by its origin")
        if not _ENROLMENT.fullmatch(self.enrolment):
            raise ApprovalError("an enrolment is named by 16 to 64 hexadecimal digits")
        if not 1 <= len(self.keys) <= MAX_KEYS or len(set(self.keys)) != len(self.keys):
            raise ApprovalError(f"an approval is for 1 to {MAX_KEYS} different keys")
        if self.lifetime is not Lifetime.ONE_TIME and len(self.keys) != 1:
            raise ApprovalError("only certificates for one capture each are approved many at once")
        if any(not 0 < len(key) <= _MAX_SPKI for key in self.keys):
            raise ApprovalError("a key in the approval is no key of ours")
        if len(self.pseudonyms) != len(self.keys) or any(len(name) != 32 for name in self.pseudonyms):
            raise ApprovalError("each key has one pseudonym of 32 bytes")
        if len(self.evidence) != 32:
            raise ApprovalError("evidence is named by its SHA-256")
        if self.at.utcoffset() != timedelta(0) or self.at.microsecond:
            raise ApprovalError("an approval is dated in whole seconds, UTC")

    def sign(self, ra_key: KeyProvider) -> bytes:
        """The approval with the registration authority's signature: two lines of text."""
        body = self._body()
        return body + b"\n" + base64.b64encode(ra_key.sign(_CONTEXT + body)) + b"\n"

    @classmethod
    def parse(cls, data: bytes, ra_public: PublicKey, at: datetime) -> "Approval":
        """Read an approval that the holder of `ra_public` signed and that holds at `at`.

        Accepts only what `sign` would write.
        """
        if len(data) > MAX_APPROVAL:
            raise ApprovalError("the approval is too large")
        body, _, rest = data.partition(b"\n")
        try:
            signature = base64.b64decode(rest.removesuffix(b"\n"), validate=True)
        except binascii.Error as error:
            raise ApprovalError("the approval has no signature") from error
        if not signature_holds(ra_public, algorithm_of(ra_public), signature, _CONTEXT + body):
            raise ApprovalError("the approval was not signed by the registration authority")
        approval = cls._read(body)
        if approval._body() + b"\n" + base64.b64encode(signature) + b"\n" != data:  # noqa: SLF001 (its own)
            raise ApprovalError("the approval is not written in the one way it can be")
        if not -TOLERANCE <= at - approval.at <= LIFE:
            raise ApprovalError("the approval is too old, or dated in the future")
        return approval

    def _body(self) -> bytes:
        fields = {
            "at": self.at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
            "custody": self.custody.value,
            "enrolment": self.enrolment,
            "evidence": self.evidence.hex(),
            "keys": [base64.b64encode(key).decode() for key in self.keys],
            "lifetime": self.lifetime.value,
            "organisation": self.organisation,
            "origin": self.origin,
            "product": self.product,
            "pseudonyms": [name.hex() for name in self.pseudonyms],
        }
        return json.dumps(fields, sort_keys=True, separators=(",", ":")).encode()

    @classmethod
    def _read(cls, body: bytes) -> "Approval":
        try:
            fields = json.loads(body)
            if not isinstance(fields, dict) or fields.keys() != _FIELDS:
                raise ApprovalError("the approval has other fields than it must")
            return cls(
                enrolment=str(fields["enrolment"]),
                organisation=str(fields["organisation"]),
                product=str(fields["product"]),
                lifetime=Lifetime(fields["lifetime"]),
                keys=tuple(base64.b64decode(key, validate=True) for key in fields["keys"]),
                pseudonyms=tuple(bytes.fromhex(name) for name in fields["pseudonyms"]),
                custody=Custody(fields["custody"]),
                evidence=bytes.fromhex(fields["evidence"]),
                at=datetime.strptime(fields["at"], "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC),
                origin=str(fields["origin"]),
            )
        except (ValueError, TypeError, RecursionError) as error:
            raise ApprovalError("the approval cannot be read") from error
