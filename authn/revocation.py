"""Whether an issuer withdrew a certificate (RFC 5280, sections 5 and 6.3; RFC 6960).

Asks nobody and has no clock: it judges what it is given, at the moment it is
given. A withdrawal counts however old the statement is. That there was none
counts only while the statement can be relied on, for it speaks of its own
moment. What a responder without id-pkix-ocsp-nocheck says is accepted, because
RFC 6960, 4.2.2.2.1 leaves that to the issuer; it is refused if a list of the
issuer's names the responder.
"""

import base64
import binascii
import hashlib
import itertools
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from cryptography import x509
from cryptography.x509.oid import AuthorityInformationAccessOID

from authn import crl, ocsp
from authn.chain import read_certificate, unreadable
from authn.errors import CertificateError, StatusError
from authn.evidence import Revocation, RevocationFacts
from authn.statement import TOLERANCE, UNREADABLE, Refusal, Said, Statement, moment, name_of

MAX_CRLS = 32
MAX_ANSWERS = 1024

_MAX_ADDRESSES = 4
_ADDRESS = re.compile(r"https?://[!-~]{1,1000}")
_PEM = re.compile(
    rb"-----BEGIN X509 CRL-----\r?\n([A-Za-z0-9+/=\r\n]+)-----END X509 CRL-----[ \t]*(?:\r?\n)?\Z"
)
# The greater counts, of several certificates and of several withdrawals of one.
_GRAVITY = {
    Revocation.GOOD: 0,
    Revocation.NOT_CHECKED: 1,
    Revocation.SIGNED_BEFORE_BY_LEDGER: 2,
    Revocation.SIGNED_BEFORE: 2,
    Revocation.DISOWNED: 3,
    Revocation.REVOKED_TIME_UNKNOWN: 4,
    Revocation.REVOKED: 5,
}


@dataclass(frozen=True, slots=True)
class Statuses:
    """What issuers said of withdrawals, as somebody handed it to us: CRLs and OCSP answers, each in DER.

    Unverified. Each counts only as far as its issuer's signature reaches.
    """

    crls: tuple[bytes, ...] = ()
    answers: tuple[bytes, ...] = ()

    @classmethod
    def parse_file(cls, data: bytes) -> "Statuses":
        """Read one revocation list in DER or PEM, or one OCSP answer in DER. Verifies nothing."""
        if len(data) > 2 * crl.MAX_CRL:
            raise StatusError("the file is too large for a revocation list")
        text = data.lstrip()
        if text.startswith(b"-----BEGIN"):
            data = _unwrap(text)
        # An OCSPResponse begins with an ENUMERATED, a CertificateList with a SEQUENCE.
        header = 2 + (data[1] & 0x7F if len(data) > 1 and data[1] & 0x80 else 0)
        if data[header : header + 1] == b"\x0a":
            ocsp.check_readable(data)
            return cls(answers=(data,))
        crl.check_readable(data)
        return cls(crls=(data,))

    def merged(self, other: "Statuses") -> "Statuses":
        """Both, each status once. Ours come first: of too many, the last are not read."""
        return Statuses(
            tuple(dict.fromkeys((*self.crls, *other.crls))),
            tuple(dict.fromkeys((*self.answers, *other.answers))),
        )

    @property
    def digest(self) -> bytes:
        """SHA-256 over the digests of all, in their order."""
        digests = (hashlib.sha256(data).digest() for data in (*self.crls, *self.answers))
        return hashlib.sha256(b"".join(digests)).digest()

    @property
    def dated(self) -> datetime | None:
        """The newest moment that any status claims to speak of, not verified."""
        claims = (*map(crl.dated, self.crls), *map(ocsp.dated, self.answers))
        return max((claim for claim in claims if claim is not None), default=None)


NO_STATUSES = Statuses()


@dataclass(frozen=True, slots=True)
class Addresses:
    """Where a certificate says that its issuer tells of withdrawals. Anybody can write any address there."""

    ocsp: tuple[str, ...] = ()
    crls: tuple[str, ...] = ()


def check_revocation(
    path: tuple[x509.Certificate, ...], statuses: Statuses, signed_at: datetime | None, at: datetime
) -> RevocationFacts:
    """The worst that `statuses` proves of `path`, leaf first and anchor last, for a signature made by `signed_at`.

    `signed_at` is a proven bound and nothing less; without one it is None. The
    anchor itself is not judged: it is believed because somebody configured it.
    """
    if not statuses.crls and not statuses.answers:
        return RevocationFacts()
    if len(path) < 2:
        return RevocationFacts(explanation="nobody is known who could have withdrawn the certificate")
    found = [
        _judge(certificate, issuer, _called(depth, certificate), statuses, signed_at, at)
        for depth, (certificate, issuer) in enumerate(itertools.pairwise(path))
    ]
    leaf, above = found[0], found[1:]
    worst = max(found, key=lambda facts: _GRAVITY[facts.state])
    silent = [facts for facts in above if facts.state is Revocation.NOT_CHECKED]
    if worst.state is Revocation.NOT_CHECKED and leaf.state is Revocation.GOOD:
        others = "the certificate above it" if len(silent) == 1 else "certificates above it"
        return replace(leaf, explanation=f"{leaf.explanation}; nothing is known about {others}")
    if worst is not leaf and leaf.state is Revocation.NOT_CHECKED:
        return replace(worst, explanation=f"{worst.explanation}; nothing is known about the one below it")
    return worst


def status_addresses(certificate: bytes) -> Addresses:
    """The http addresses in a certificate in DER: of OCSP responders, and of lists by its own issuer."""
    parsed = read_certificate(certificate)
    if reason := unreadable(parsed):
        raise CertificateError(f"a certificate {reason}")
    responders: list[str] = []
    lists: list[str] = []
    for extension in parsed.extensions:
        if isinstance(extension.value, x509.AuthorityInformationAccess):
            responders += _addresses(
                entry.access_location
                for entry in extension.value
                if entry.access_method == AuthorityInformationAccessOID.OCSP
            )
        elif isinstance(extension.value, x509.CRLDistributionPoints):
            lists += _addresses(
                name
                for point in extension.value
                if point.crl_issuer is None
                for name in point.full_name or ()
            )
    return Addresses(tuple(responders[:_MAX_ADDRESSES]), tuple(lists[:_MAX_ADDRESSES]))


def _addresses(names: Iterable[x509.GeneralName]) -> list[str]:
    return [
        name.value
        for name in names
        if isinstance(name, x509.UniformResourceIdentifier) and _ADDRESS.fullmatch(name.value)
    ]


def _unwrap(text: bytes) -> bytes:
    block = _PEM.fullmatch(text)
    if block is None:
        raise StatusError("the file is not one revocation list in PEM")
    try:
        return base64.b64decode(b"".join(block[1].split()), validate=True)
    except binascii.Error as error:
        raise StatusError("the revocation list is not in base64") from error


# --- One certificate


def _called(depth: int, certificate: x509.Certificate) -> str:
    return (
        "the certificate" if depth == 0 else f"the certificate of {_subject(certificate)}, which issued it,"
    )


def _subject(certificate: x509.Certificate) -> str:
    try:
        return name_of(certificate.subject)
    except UNREADABLE:
        return "an authority"


def _judge(
    certificate: x509.Certificate,
    issuer: x509.Certificate,
    which: str,
    statuses: Statuses,
    signed_at: datetime | None,
    at: datetime,
) -> RevocationFacts:
    # 1. Collect the statements that count.
    if unreadable(certificate) or unreadable(issuer):
        return _silent(which, "it cannot be taken apart")
    statements, refusals = _collect(certificate, issuer, statuses, at)

    # 2. A withdrawal that cannot be taken back stands against everything else, however old it is.
    permanent = [statement for statement in statements if statement.permanent]
    if permanent:
        verdicts = [_withdrawn(which, statement, signed_at) for statement in permanent]
        return max(verdicts, key=lambda facts: _GRAVITY[facts.state])

    # 3. A hold stands until something newer was said.
    newest = max(statements, key=lambda item: (item.this_update, item.said), default=None)
    if newest is None:
        nothing = "no status given is about it"
        return _silent(which, "; ".join(dict.fromkeys(item.reason for item in refusals[:3])) or nothing)
    if newest.said is Said.WITHDRAWN:
        return _withdrawn(which, newest, signed_at)

    # 4. Anything else counts while it can be relied on. (Holds before the newest statement were released.)
    faults = {item: _staleness(item, certificate, signed_at, at) for item in statements}
    usable = [item for item, fault in faults.items() if fault is None and item.said is not Said.WITHDRAWN]
    held = max((item.this_update for item in statements if item.said is Said.WITHDRAWN), default=None)
    usable = [item for item in usable if held is None or item.this_update > held]
    if not usable:
        return _silent(which, faults[newest] or "")
    latest = max(usable, key=lambda item: (item.this_update, item.said))
    if latest.said is Said.UNKNOWN:
        sentence = f"the issuer does not know {which.rstrip(',')}, according to the {latest.source}"
        return RevocationFacts(Revocation.DISOWNED, sentence, as_of=latest.this_update, source=latest.source)
    sentence = (
        f"{which} was not withdrawn as of {moment(latest.this_update)}, according to the {latest.source}"
    )
    return RevocationFacts(
        Revocation.GOOD, sentence + _note(latest), as_of=latest.this_update, source=latest.source
    )


def _collect(
    certificate: x509.Certificate, issuer: x509.Certificate, statuses: Statuses, at: datetime
) -> tuple[list[Statement], list[Refusal]]:
    lists, answers = statuses.crls[:MAX_CRLS], statuses.answers[:MAX_ANSWERS]
    heard = [crl.said_of(data, certificate, issuer, at) for data in lists]
    heard += [
        _unless_withdrawn(ocsp.said_of(data, certificate, issuer, at), issuer, lists, at) for data in answers
    ]
    return (
        [item for item in heard if isinstance(item, Statement)],
        [item for item in heard if isinstance(item, Refusal)],
    )


def _unless_withdrawn(
    heard: Statement | Refusal | None, issuer: x509.Certificate, lists: Sequence[bytes], at: datetime
) -> Statement | Refusal | None:
    """What was heard, unless its issuer withdrew the responder that said it."""
    if not isinstance(heard, Statement) or heard.delegate is None:
        return heard
    for data in lists:
        about = crl.said_of(data, heard.delegate, issuer, at)
        if isinstance(about, Statement) and about.said is Said.WITHDRAWN:
            return Refusal("the certificate of the OCSP responder was itself withdrawn")
    return heard


def _note(statement: Statement) -> str:
    if statement.delegate is None or any(
        isinstance(extension.value, x509.OCSPNoCheck) for extension in statement.delegate.extensions
    ):
        return ""
    return ", whose responder may itself have been withdrawn"


def _staleness(
    statement: Statement, certificate: x509.Certificate, signed_at: datetime | None, at: datetime
) -> str | None:
    """Why a statement cannot be relied on for this signature, if it cannot."""
    # "Good" is only said of living certificates (RFC 6960, 2.2; RFC 5280, 3.3), unless the issuer says more.
    over = certificate.not_valid_after_utc
    if statement.this_update > over and (statement.remembers is None or statement.remembers > over):
        return f"the {statement.source} is from after its expiry, when nothing more is said of withdrawals"
    if signed_at is not None:
        if signed_at <= statement.ends:
            return None
        return (
            f"the newest status, the {statement.source}, expired on {moment(statement.ends)}, "
            "before the time that is proven for the signature"
        )
    if at - TOLERANCE <= statement.ends:
        return None
    return (
        f"the newest status, the {statement.source}, expired on {moment(statement.ends)}, "
        "and no time is proven for the signature"
    )


def _withdrawn(which: str, statement: Statement, signed_at: datetime | None) -> RevocationFacts:
    """The table: a withdrawal, against the proven time of the signature."""
    since, reason = statement.since, statement.reason
    if since is None or reason is None:
        state, since = Revocation.REVOKED, None
        rest = "without a reason, so nothing says since when it was not to be believed"
    else:
        begun = f"({reason}) and is not to be believed since {moment(since)}"
        if signed_at is None:
            state = Revocation.REVOKED_TIME_UNKNOWN
            rest = f"{begun}, and no time is proven for the signature"
        elif signed_at < since:
            state = Revocation.SIGNED_BEFORE
            rest = f"{begun}, and the signature is proven to be older"
        else:
            state = Revocation.REVOKED
            rest = f"{begun}, and the signature is not proven to be older"
    sentence = f"{which} was withdrawn {rest}, according to the {statement.source}"
    return RevocationFacts(state, sentence, statement.this_update, since, reason, statement.source)


def _silent(which: str, reason: str) -> RevocationFacts:
    sentence = f"whether {which.rstrip(',')} was withdrawn is not known: {reason}"
    return RevocationFacts(explanation=sentence)
