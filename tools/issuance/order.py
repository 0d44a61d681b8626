"""What is ordered from the issuing authority and what it delivers, and both as JSON. Reading judges nothing."""

import base64
import hashlib
from dataclasses import dataclass
from typing import Any

from authn.chain import read_certificate
from authn.errors import CertificateError
from tools.issuance.errors import MalformedError
from tools.issuance.terms import Terms


@dataclass(frozen=True, slots=True)
class Issued:
    """A certificate (DER), and the index of the entry that was there first."""

    certificate: bytes
    entry: int


@dataclass(frozen=True, slots=True)
class Batch:
    """What one enrolment was given, under the certificate (DER) of its issuer."""

    issuer: bytes
    certificates: tuple[Issued, ...]


@dataclass(frozen=True, slots=True)
class Order:
    """What the registration authority hands over: an approval, the terms it names, the requests."""

    approval: bytes
    terms: Terms
    requests: tuple[bytes, ...]

    @property
    def digest(self) -> str:
        """SHA-256 over the digests of the requests: by this an order is known again."""
        return requests_digest(self.requests)


def batch_fields(batch: Batch) -> dict[str, Any]:
    """A batch as JSON has it."""
    return {
        "issuer": _text(batch.issuer),
        "certificates": [
            {"certificate": _text(each.certificate), "entry": each.entry} for each in batch.certificates
        ],
    }


def batch_of(fields: Any) -> Batch:
    """Read a batch; raises `MalformedError`, and judges no certificate."""
    try:
        issued = tuple(
            Issued(_bytes(each["certificate"]), _index(each["entry"])) for each in fields["certificates"]
        )
        if not issued:
            raise MalformedError("the answer holds no certificates")
        batch = Batch(_bytes(fields["issuer"]), issued)
        for der in (batch.issuer, *(each.certificate for each in issued)):
            read_certificate(der)
    except (KeyError, TypeError, ValueError, CertificateError) as error:
        raise MalformedError("the answer holds no certificates") from error
    return batch


def order_fields(order: Order) -> dict[str, Any]:
    """An order as JSON has it."""
    return {
        "approval": _text(order.approval),
        "terms": order.terms.fields(),
        "requests": [_text(each) for each in order.requests],
    }


def order_of(fields: Any) -> Order:
    """Read an order; judges nothing of it."""
    try:
        requests = tuple(_bytes(each) for each in fields["requests"])
        return Order(_bytes(fields["approval"]), Terms.parse(fields["terms"]), requests)
    except (KeyError, TypeError, ValueError) as error:
        raise MalformedError("this is no order for certificates") from error


def requests_digest(requests: tuple[bytes, ...]) -> str:
    """SHA-256 over the digests of requests, in hex."""
    return hashlib.sha256(b"".join(hashlib.sha256(each).digest() for each in requests)).hexdigest()


def _index(value: Any) -> int:
    if type(value) is not int or value < 0:
        raise ValueError("an entry has a number")
    return value


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _bytes(text: Any) -> bytes:
    if not isinstance(text, str):
        raise TypeError("bytes come as base64")
    return base64.b64decode(text, validate=True)
