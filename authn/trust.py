"""The lists of whom an examiner believes.

A list has one purpose. Who may date a signature may not make one, and the other
way round: the lists are separate objects, and no function looks in both.
"""

import base64
import binascii
import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum

from cryptography import x509

from authn.chain import read_certificate, unreadable
from authn.errors import CertificateError
from authn.profile import Profile

MAX_LIST_BYTES = 1 << 20
MAX_ANCHORS = 1000

_PEM = re.compile(
    rb"-----BEGIN CERTIFICATE-----\r?\n([A-Za-z0-9+/=\r\n]+)-----END CERTIFICATE-----[ \t]*(?:\r?\n|\Z)"
)
_REMARK = re.compile(rb"[ \t]*(?:#[ -~\t]*)?(?:\r?\n|\Z)")


class Purpose(StrEnum):
    """What the certificates under a list may do."""

    SIGNING = "signing"
    TIME_STAMPING = "time-stamping"


@dataclass(frozen=True, slots=True)
class TrustList:
    """Anchors for one purpose; `sha256` is the digest of the file they came from."""

    name: str
    purpose: Purpose
    profile: Profile
    anchors: tuple[x509.Certificate, ...]
    sha256: bytes

    def __post_init__(self) -> None:
        if (self.profile is Profile.TIME_STAMPING) is not (self.purpose is Purpose.TIME_STAMPING):
            raise CertificateError(f"the profile {self.profile} is not for {self.purpose}")

    @classmethod
    def parse(cls, pem: bytes, name: str, purpose: Purpose, profile: Profile) -> "TrustList":
        """Read a list that holds certificates, lines that start with #, and nothing else."""
        if len(pem) > MAX_LIST_BYTES:
            raise CertificateError(f"the trust list {name} is larger than {MAX_LIST_BYTES} bytes")
        anchors = tuple(_certificates(pem, name))
        if not anchors:
            raise CertificateError(f"the trust list {name} has no certificate")
        if len(set(anchors)) != len(anchors):
            raise CertificateError(f"the trust list {name} has a certificate twice")
        return cls(name, purpose, profile, anchors, hashlib.sha256(pem).digest())

    @classmethod
    def empty(cls, purpose: Purpose) -> "TrustList":
        """The list of somebody who believes nobody."""
        profile = Profile.TIME_STAMPING if purpose is Purpose.TIME_STAMPING else Profile.POLICY
        return cls("empty", purpose, profile, (), hashlib.sha256().digest())


def _certificates(pem: bytes, name: str) -> Iterator[x509.Certificate]:
    position = count = 0
    while position < len(pem):
        if remark := _REMARK.match(pem, position):
            position = remark.end()
            continue
        block = _PEM.match(pem, position)
        if block is None:
            raise CertificateError(
                f"the trust list {name} has something that is no certificate at byte {position}"
            )
        count += 1
        if count > MAX_ANCHORS:
            raise CertificateError(f"the trust list {name} has more than {MAX_ANCHORS} certificates")
        yield _certificate(block[1], f"certificate {count} of the trust list {name}")
        position = block.end()


def _certificate(body: bytes, which: str) -> x509.Certificate:
    text = b"".join(body.split())
    try:
        raw = base64.b64decode(text, validate=True)
        certificate = read_certificate(raw)
    except (CertificateError, binascii.Error) as error:
        raise CertificateError(f"{which} cannot be read") from error
    if base64.b64encode(raw) != text:
        raise CertificateError(f"{which} is not in the one form base64 has")
    if reason := unreadable(certificate):
        raise CertificateError(f"{which} {reason}")
    return certificate
