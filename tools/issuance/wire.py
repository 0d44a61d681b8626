"""Enrolment as JSON, the same on both sides of `POST /v1/enrolments`. Reading judges nothing."""

import base64
import re
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from authn.attestation.judgement import Evidence, Kind
from authn.errors import EvidenceError
from authn.evidence import Custody
from authn.identity import Lifetime
from tools.issuance.enrolment import Completion, Enrolled, Offer, Opening, Wish
from tools.issuance.errors import MalformedError, ServiceError
from tools.issuance.order import batch_fields, batch_of
from tools.issuance.terms import Terms

_HEX = re.compile(r"(?:[0-9a-f]{2}){1,8192}")
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
_MAX_WISHES = 100
_SALT_BYTES = 32
_UNREADABLE = (KeyError, TypeError, ValueError, EvidenceError)


@dataclass(frozen=True, slots=True)
class TpmKeys:
    """The endorsement key and the attestation key that a TPM offers, each a TPMT_PUBLIC."""

    ek: bytes
    ak: bytes


@dataclass(frozen=True, slots=True)
class Welcome:
    """What a device learns when it is enrolled: its certificates, and the ledger that has them."""

    enrolled: Enrolled
    log_keys: tuple[str, ...]
    checkpoint: str


def opening_fields(opening: Opening, tpm: TpmKeys | None) -> dict[str, Any]:
    """What a device begins with, as JSON has it."""
    return {
        "token": None if opening.token is None else opening.token.hex(),
        "product": opening.product,
        "device": opening.device,
        "lifetime": None if opening.lifetime is None else opening.lifetime.value,
        "kinds": [kind.value for kind in opening.kinds],
        "tpm": None if tpm is None else {"ek": tpm.ek.hex(), "ak": tpm.ak.hex()},
    }


def opening_of(fields: Any) -> tuple[Opening, TpmKeys | None]:
    """Read what a device begins with."""
    try:
        token, device, lifetime, tpm = (fields.get(name) for name in ("token", "device", "lifetime", "tpm"))
        kinds = tuple(dict.fromkeys(map(Kind, fields["kinds"])))
        product = fields["product"]
        if (
            not isinstance(product, str)
            or not product.isprintable()
            or not kinds
            or (device is None and token is None)
        ):
            raise MalformedError("a device names its product, its kinds of evidence, and a token or itself")
        if device is not None and not _NAME.fullmatch(device):
            raise MalformedError("a device's name is 1 to 64 of a-z, 0-9, dot, dash and underscore")
        return (
            Opening(
                None if token is None else _unhex(token),
                product,
                device,
                None if lifetime is None else Lifetime(lifetime),
                kinds,
            ),
            None if tpm is None else TpmKeys(_unhex(tpm["ek"]), _unhex(tpm["ak"])),
        )
    except (*_UNREADABLE, AttributeError) as error:
        raise MalformedError("this does not begin an enrolment") from error


def offer_fields(offer: Offer, credential: bytes | None) -> dict[str, Any]:
    """A challenge, as JSON has it."""
    return {
        "id": offer.terms.identity,
        "challenge": offer.challenge.hex(),
        "terms": offer.terms.fields(),
        "expires": offer.expires.isoformat(),
        "credential": None if credential is None else credential.decode(),
    }


def offer_of(fields: Any) -> tuple[Offer, bytes | None]:
    """Read a challenge that a service gave."""
    try:
        terms, credential = Terms.parse(fields["terms"]), fields["credential"]
        offer = Offer(_unhex(fields["challenge"]), terms, datetime.fromisoformat(fields["expires"]))
        return offer, None if credential is None else str(credential).encode()
    except _UNREADABLE as error:
        raise ServiceError("the service gave no challenge") from error


def completion_fields(completion: Completion) -> dict[str, Any]:
    """What a device sends for its challenge, as JSON has it."""
    proof = completion.proof
    return {
        "challenge": completion.challenge.hex(),
        "terms": completion.terms.fields(),
        "keys": [
            {
                "request": _text(wish.request),
                "evidence": {"kind": wish.evidence.kind.value, "data": _text(wish.evidence.data)},
            }
            for wish in completion.wishes
        ],
        "proof": None if proof is None else {"certificate": proof[0].hex(), "signature": _text(proof[1])},
    }


def completion_of(fields: Any) -> Completion:
    """Read what a device sent for its challenge."""
    try:
        keys, proof = fields["keys"], fields.get("proof")
        if not isinstance(keys, list) or not 1 <= len(keys) <= _MAX_WISHES:
            raise MalformedError(f"an enrolment is for 1 to {_MAX_WISHES} keys")
        wishes = tuple(
            Wish(
                _bytes(each["request"]),
                Evidence(Kind(each["evidence"]["kind"]), _bytes(each["evidence"]["data"])),
            )
            for each in keys
        )
        return Completion(
            _unhex(fields["challenge"]),
            Terms.parse(fields["terms"]),
            wishes,
            None if proof is None else (_unhex(proof["certificate"]), _bytes(proof["signature"])),
        )
    except (*_UNREADABLE, AttributeError) as error:
        raise MalformedError("this does not complete an enrolment") from error


def welcome_fields(welcome: Welcome) -> dict[str, Any]:
    """What a device is given, as JSON has it."""
    enrolled = welcome.enrolled
    return {
        "device": enrolled.device,
        "salt": enrolled.salt.hex(),
        "custody": enrolled.custody.value,
        "lifetime": enrolled.lifetime.value,
        "batch": batch_fields(enrolled.batch),
        "log_keys": list(welcome.log_keys),
        "checkpoint": welcome.checkpoint,
    }


def welcome_of(fields: Any) -> Welcome:
    """Read what a service gave; its certificates are readable, and not judged."""
    try:
        device, salt = fields["device"], _unhex(fields["salt"])
        if not isinstance(device, str) or not _NAME.fullmatch(device) or len(salt) != _SALT_BYTES:
            raise ServiceError("the service gave the device no name, or no salt")
        enrolled = Enrolled(
            device,
            salt,
            Custody(fields["custody"]),
            Lifetime(fields["lifetime"]),
            batch_of(fields["batch"]),
        )
        keys = fields["log_keys"]
        if not isinstance(keys, list):
            raise ServiceError("the service named no keys of its ledger")
        return Welcome(enrolled, tuple(map(str, keys)), str(fields["checkpoint"]))
    except (*_UNREADABLE, MalformedError) as error:
        raise ServiceError("the service gave no certificates") from error


def _unhex(text: Any) -> bytes:
    if not isinstance(text, str) or not _HEX.fullmatch(text):
        raise ValueError("this is not hex")
    return bytes.fromhex(text)


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _bytes(text: Any) -> bytes:
    if not isinstance(text, str):
        raise TypeError("bytes come as base64")
    return base64.b64decode(text, validate=True)
