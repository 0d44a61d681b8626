"""The lists of whom an examiner believes.

A list has one purpose. Who may date a signature may not make one, and the other
way round: the lists are separate objects, and no function looks in both.

A list is one text file: certificates in PEM, lines that start with #, and nothing
else. It may say of itself, in a header, what it is for; a header that is there is
read strictly and must be what `described` would write. The header is no proof: it
binds whoever chose to believe the file, and the file's digest covers it. Nobody
checks here that a list is the one its publisher has, nor that its anchors are worth
belief.
"""

import base64
import binascii
import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime
from enum import StrEnum

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.x509.oid import AuthorityInformationAccessOID, NameOID

from authn.chain import read_certificate, unreadable
from authn.errors import CertificateError
from authn.plain import plain
from authn.profile import Profile
from authn.revocation import host_of

MAX_LIST_BYTES = 1 << 20
MAX_ANCHORS = 1000
MAX_HOSTS = 64
MAX_FRESH_DAYS = 3650

_FIRST_LINE = "# lightseal trust list 1"
_ANY_FIRST_LINE = re.compile(rb"^[ \t]*#[ \t]*lightseal[ \t]+trust[ \t]+list\b", re.IGNORECASE | re.MULTILINE)
_PEM = re.compile(
    rb"-----BEGIN CERTIFICATE-----\r?\n([A-Za-z0-9+/=\r\n]+)-----END CERTIFICATE-----[ \t]*(?:\r?\n|\Z)"
)
_REMARK = re.compile(rb"[ \t]*(?:#[ -~\t]*)?(?:\r?\n|\Z)")

_LINE = re.compile(r"# ([a-z-]+): ([!-~](?:[ -~]*[!-~])?)")
_FORMS = {
    "name": re.compile(r"[!-~](?:[ -~]{0,98}[!-~])?"),
    "purpose": re.compile(r"[a-z-]{1,20}"),
    "profile": re.compile(r"[a-z-]{1,20}"),
    "version": re.compile(r"[!-~]{1,64}"),
    "dated": re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}"),
    "fresh-days": re.compile(r"[1-9][0-9]{0,3}"),
    "source": re.compile(r"https?://[!-~]{1,400}"),
    "hosts": re.compile(r"[!-~]+(?: [!-~]+)*"),
}
_HOST = re.compile(r"[a-z0-9](?:[a-z0-9.-]{0,251}[a-z0-9])?(?::[1-9][0-9]{0,4})?")


class Purpose(StrEnum):
    """What the certificates under a list may do."""

    SIGNING = "signing"
    TIME_STAMPING = "time-stamping"
    IDENTITY = "identity"


_PROFILE_WORDS = {
    Profile.POLICY: "policy",
    Profile.SPECIFICATION: "specification",
    Profile.TIME_STAMPING: "time-stamping",
}
_PROFILES = {
    Purpose.SIGNING: (Profile.POLICY, Profile.SPECIFICATION),
    Purpose.TIME_STAMPING: (Profile.TIME_STAMPING,),
    Purpose.IDENTITY: (Profile.SPECIFICATION,),
}


@dataclass(frozen=True, slots=True)
class AnchorFacts:
    """What an anchor's certificate says of itself; it is believed because it is listed."""

    subject: str
    not_before: datetime
    not_after: datetime
    sha256: str


@dataclass(frozen=True, slots=True)
class TrustList:
    """Anchors for one purpose; `sha256` is the digest of the file they came from.

    `hosts` may be asked, and nobody else, whether a certificate under the list was
    withdrawn. `None` stands for what the file does not say.
    """

    name: str
    purpose: Purpose
    profile: Profile
    anchors: tuple[x509.Certificate, ...]
    sha256: bytes
    version: str | None = None
    dated: date | None = None
    fresh_days: int | None = None
    source: str | None = None
    hosts: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.profile not in _PROFILES[self.purpose]:
            raise CertificateError(f"the profile {self.profile} is not for {self.purpose}")
        if self.fresh_days is not None and self.dated is None:
            raise CertificateError(f"the trust list {self.name} says how long it is fresh, and not from when")

    @classmethod
    def parse(cls, pem: bytes, name: str, purpose: Purpose, profile: Profile) -> "TrustList":
        """Read a list for `purpose`, with or without a header.

        A header decides on the name and the profile; `name` and `profile` are for
        a list that does not say. One that is for another purpose is refused.
        """
        head, body = _split(pem, name)
        if head is None:
            header = _Header(name, purpose, profile)
        else:
            header = _Header.parse(head, name)
            if header.purpose is not purpose:
                raise CertificateError(f"the trust list {name} is for {header.purpose}, not for {purpose}")
        return _assembled(header, body, pem)

    @classmethod
    def read(cls, data: bytes) -> "TrustList":
        """Read a list that says of itself what it is."""
        head, body = _split(data, "in this file")
        if head is None:
            raise CertificateError(f"the trust list has no header: its first line is not '{_FIRST_LINE}'")
        return _assembled(_Header.parse(head, "in this file"), body, data)

    @classmethod
    def empty(cls, purpose: Purpose) -> "TrustList":
        """The list of somebody who believes nobody."""
        return cls("empty", purpose, _PROFILES[purpose][0], (), hashlib.sha256().digest())

    def holds(self, anchor: bytes) -> bool:
        """Whether the certificate (DER) is one of the anchors."""
        return any(held.public_bytes(serialization.Encoding.DER) == anchor for held in self.anchors)

    def stale(self, at: datetime) -> bool:
        """Whether the list is older at `at` than it says it may be; one that does not say never is."""
        if self.dated is None or self.fresh_days is None:
            return False
        return at.astimezone(UTC).date().toordinal() >= self.dated.toordinal() + self.fresh_days

    def described(self) -> bytes:
        """The list as a file that says of itself what it is; `sha256` is the digest of another one."""
        header = _Header(
            self.name,
            self.purpose,
            self.profile,
            self.version,
            self.dated,
            self.fresh_days,
            self.source,
            self.hosts,
        )
        text = str(header)
        if _Header.parse(text, self.name) != header:
            raise CertificateError(f"the trust list {self.name} cannot be described")
        return text.encode() + b"".join(
            b"\n# " + _subject(anchor).encode("ascii", "backslashreplace") + b"\n" + _pem(anchor)
            for anchor in self.anchors
        )

    def anchor_facts(self) -> tuple[AnchorFacts, ...]:
        """What is to be shown of the anchors, in the order of the file."""
        return tuple(
            AnchorFacts(
                _subject(anchor),
                anchor.not_valid_before_utc,
                anchor.not_valid_after_utc,
                hashlib.sha256(anchor.public_bytes(serialization.Encoding.DER)).hexdigest(),
            )
            for anchor in self.anchors
        )

    def status_hosts(self) -> tuple[str, ...]:
        """The hosts that the anchors themselves name for asking whether they were withdrawn."""
        urls = (url for anchor in self.anchors for url in _status_urls(anchor))
        return tuple(sorted({host for url in urls if (host := host_of(url)) is not None}))


@dataclass(frozen=True, slots=True)
class _Header:
    """What a list says of itself, in the one form it can be written."""

    name: str
    purpose: Purpose
    profile: Profile
    version: str | None = None
    dated: date | None = None
    fresh_days: int | None = None
    source: str | None = None
    hosts: tuple[str, ...] = ()

    def __str__(self) -> str:
        told = {
            "name": self.name,
            "purpose": self.purpose.value,
            "profile": _PROFILE_WORDS[self.profile],
            "version": self.version,
            "dated": self.dated,
            "fresh-days": self.fresh_days,
            "source": self.source,
            "hosts": " ".join(self.hosts) or None,
        }
        lines = [f"# {key}: {value}" for key, value in told.items() if value is not None]
        return "\n".join([_FIRST_LINE, *lines, ""])

    @classmethod
    def parse(cls, text: str, name: str) -> "_Header":
        """Read the header of the list `name`, accepting only what `str` would write."""
        first, *lines, _ = text.split("\n")
        if first != _FIRST_LINE:
            raise CertificateError(
                f"the header of the trust list {name} does not begin with '{_FIRST_LINE}' and nothing else"
            )
        told: dict[str, str] = {}
        for line in lines:
            match = _LINE.fullmatch(line)
            if match is None or match[1] not in _FORMS:
                raise CertificateError(
                    f"the header of the trust list {name} has a line that does not belong there: "
                    f"'{plain(line, 60)}'"
                )
            if match[1] in told:
                raise CertificateError(
                    f"the header of the trust list {name} says twice what its {match[1]} is"
                )
            told[match[1]] = match[2]
        for key, form in _FORMS.items():
            if key in told and form.fullmatch(told[key]) is None:
                raise CertificateError(
                    f"the header of the trust list {name} has a {key} that cannot be: '{plain(told[key], 60)}'"
                )
        try:
            parsed = cls._of(told)
        except (KeyError, ValueError) as error:
            raise CertificateError(
                f"the header of the trust list {name} lacks a name, a purpose or a profile, or has a wrong one"
            ) from error
        if str(parsed) != text:
            raise CertificateError(
                f"the header of the trust list {name} has its lines in another order, or a wrong date or number"
            )
        return parsed

    @classmethod
    def _of(cls, told: dict[str, str]) -> "_Header":
        hosts = tuple(told["hosts"].split(" ")) if "hosts" in told else ()
        if len(set(hosts)) != len(hosts) or len(hosts) > MAX_HOSTS or not all(map(_HOST.fullmatch, hosts)):
            raise ValueError(hosts)
        fresh_days = int(told["fresh-days"]) if "fresh-days" in told else None
        if fresh_days is not None and fresh_days > MAX_FRESH_DAYS:
            raise ValueError(fresh_days)
        (profile,) = (key for key, word in _PROFILE_WORDS.items() if word == told["profile"])
        return cls(
            told["name"],
            Purpose(told["purpose"]),
            profile,
            told.get("version"),
            date.fromisoformat(told["dated"]) if "dated" in told else None,
            fresh_days,
            told.get("source"),
            hosts,
        )


def _split(data: bytes, name: str) -> tuple[str | None, bytes]:
    """The header, if there is one, and the rest. A header in the wrong place is no remark."""
    if len(data) > MAX_LIST_BYTES:
        raise CertificateError(f"the trust list {name} is larger than {MAX_LIST_BYTES} bytes")
    first_lines = [match.start() for match in _ANY_FIRST_LINE.finditer(data)]
    if not first_lines:
        return None, data
    head, gap, body = data.partition(b"\n\n")
    if first_lines != [0] or not gap:
        raise CertificateError(
            f"the trust list {name} has a header that does not stand at its top"
            " or does not end with an empty line"
        )
    return head.decode("ascii", "replace") + "\n", body


def _assembled(header: _Header, body: bytes, whole: bytes) -> TrustList:
    anchors = tuple(_certificates(body, header.name))
    if not anchors:
        raise CertificateError(f"the trust list {header.name} has no certificate")
    if len(set(anchors)) != len(anchors):
        raise CertificateError(f"the trust list {header.name} has a certificate twice")
    return TrustList(
        header.name,
        header.purpose,
        header.profile,
        anchors,
        hashlib.sha256(whole).digest(),
        header.version,
        header.dated,
        header.fresh_days,
        header.source,
        header.hosts,
    )


def _certificates(pem: bytes, name: str) -> Iterator[x509.Certificate]:
    position = count = 0
    while position < len(pem):
        if remark := _REMARK.match(pem, position):
            position = remark.end()
            continue
        block = _PEM.match(pem, position)
        if block is None:
            raise CertificateError(
                f"the trust list {name} has something that is no certificate: "
                f"'{plain(pem[position : position + 80].decode('ascii', 'replace'), 40)}'"
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


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


def _subject(certificate: x509.Certificate) -> str:
    return plain(certificate.subject.rfc4514_string({NameOID.EMAIL_ADDRESS: "emailAddress"}), 200)


def _status_urls(certificate: x509.Certificate) -> Iterator[str]:
    for extension in certificate.extensions:
        places: list[x509.GeneralName] = []
        if isinstance(extension.value, x509.AuthorityInformationAccess):
            places = [
                access.access_location
                for access in extension.value
                if access.access_method == AuthorityInformationAccessOID.OCSP
            ]
        elif isinstance(extension.value, x509.CRLDistributionPoints):
            places = [name for point in extension.value for name in point.full_name or ()]
        yield from (place.value for place in places if isinstance(place, x509.UniformResourceIdentifier))
