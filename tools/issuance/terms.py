"""The terms of an enrolment: what was agreed when its challenge was given.

Their digest names the enrolment, and the challenge was recorded for that name: so the service
needs no memory of its own between two requests, and terms that were changed are no longer those
the challenge was given for.
"""

import hashlib
import re
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from authn.attestation.judgement import Kind
from authn.identity import Lifetime
from storage.payload import canonical

_DIGEST = re.compile(r"[0-9a-f]{64}")
_DEVICE = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
_FIELDS = frozenset({"challenge", "device", "kinds", "lifetime", "product", "title"})


class Title(StrEnum):
    """By what right a device enrols."""

    TOKEN = "token"  # noqa: S105 - the word, no token
    RENEWAL = "renewal"


@dataclass(frozen=True, slots=True)
class Terms:
    """For whom, as what, by what right; `challenge` is the SHA-256 of the challenge, in hex."""

    challenge: str
    device: str
    product: str
    lifetime: Lifetime
    title: Title
    kinds: tuple[Kind, ...]

    def __post_init__(self) -> None:
        if not _DIGEST.fullmatch(self.challenge) or not _DEVICE.fullmatch(self.device):
            raise ValueError("these are no terms")
        if not 1 <= len(self.product) <= 64 or not self.product.isprintable():
            raise ValueError("these are no terms")

    def fields(self) -> dict[str, Any]:
        """The terms as JSON has them."""
        return {
            "challenge": self.challenge,
            "device": self.device,
            "kinds": [kind.value for kind in self.kinds],
            "lifetime": self.lifetime.value,
            "product": self.product,
            "title": self.title.value,
        }

    @property
    def identity(self) -> str:
        """The enrolment's name: SHA-256 of the terms in canonical form."""
        return hashlib.sha256(b"lightseal/enrolment/v1\0" + canonical(self.fields())).hexdigest()

    @classmethod
    def parse(cls, fields: Any) -> "Terms":
        """Read terms; raises `ValueError`. Whether anybody agreed to them is not known."""
        if not isinstance(fields, dict) or fields.keys() != _FIELDS:
            raise ValueError("these are no terms")
        if not isinstance(fields["kinds"], list) or len(fields["kinds"]) > len(Kind):
            raise ValueError("these are no terms")
        texts = [fields[name] for name in _FIELDS - {"kinds"}]
        if not all(isinstance(text, str) for text in [*texts, *fields["kinds"]]):
            raise ValueError("these are no terms")
        return cls(
            fields["challenge"],
            fields["device"],
            fields["product"],
            Lifetime(fields["lifetime"]),
            Title(fields["title"]),
            tuple(map(Kind, fields["kinds"])),
        )
