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
import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from urllib.parse import urlsplit

from cryptography import x509
from cryptography.x509.oid import AuthorityInformationAccessOID

from authn import crl, der, ocsp
from authn.chain import read_certificate, unreadable
from authn.errors import CertificateError, StatusError
from authn.evidence import Revocation, RevocationFacts
from authn.statement import TOLERANCE, UNREADABLE, Refusal, Said, Statement, moment, name_of

MAX_CRLS = crl.MAX_CRLS
MAX_ANSWERS = 1024
# After these reasons what was signed before still counts (RFC 3161, 4). After any other whoever
# has the key can write whatever he likes, and whatever time he likes.
HONEST_ENDS = frozenset({"affiliationChanged", "superseded", "cessationOfOperation"})

# Of so many lists the issuer's name is looked at; the rest is not.
_MAX_LISTS = 1024
_MAX_ADDRESSES = 4
_PORTS = {"http": 80, "https": 443}
# Lists write hosts in their headers, apart by spaces: nothing else may stand in one (RFC 3986, 3.2.2).
_HOST = re.compile(r"[a-z0-9._-]{1,253}|[0-9a-f:.]{2,45}")
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
    A leaf that nobody spoke for is not checked, unless what was said above takes
    it along. Above it silence is told, and `complete` is then false.
    """
    if not statuses.crls and not statuses.answers:
        return RevocationFacts()
    if len(path) < 2:
        return RevocationFacts(explanation="nobody is known who could have withdrawn the certificate")
    # 1. From the anchor down: whoever was withdrawn does not speak for those below.
    found: list[RevocationFacts] = []
    heard = True
    for depth, (certificate, issuer) in reversed(list(enumerate(itertools.pairwise(path)))):
        which = _called(depth, certificate)
        facts = _judge(certificate, issuer, which, statuses, signed_at, at)
        if not heard:
            facts = _unheard(which, facts)
        heard = heard and not _ends_trust(facts)
        found.insert(0, facts)

    # 2. The worst of those that were spoken for.
    silent = [depth for depth, facts in enumerate(found) if facts.state is Revocation.NOT_CHECKED]
    spoken = [facts for facts in found if facts.state is not Revocation.NOT_CHECKED]
    leaf = found[0]
    if not spoken:
        return leaf
    worst = max(spoken, key=_rank)

    # 3. What is known of those above does not speak for the leaf, unless it takes the leaf with it.
    if 0 in silent and not _ends_trust(worst):
        if worst.state is Revocation.GOOD:
            return leaf
        return replace(leaf, explanation=f"{leaf.explanation}; {worst.explanation}")
    if not silent:
        return replace(worst, complete=True)
    unknown = " and ".join(_called(depth, path[depth]).rstrip(",") for depth in silent)
    return replace(worst, explanation=f"{worst.explanation}; nothing is known about {unknown}")


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


def host_of(url: str) -> str | None:
    """Who would be contacted: in small letters, with the port where it is not the scheme's own.

    None for an address that is not of the web, that names nobody, or that names a user.
    """
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        return None
    if (
        not host
        or not _HOST.fullmatch(host)
        or parts.scheme not in _PORTS
        or "@" in parts.netloc
        or ("[" in parts.netloc) is not (":" in host)
        or "\\" in url
    ):
        return None
    written = f"[{host}]" if ":" in host else host
    return written if port in (None, _PORTS[parts.scheme]) else f"{written}:{port}"


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
    if unreadable(certificate) or unreadable(issuer):
        return _silent(which, "it cannot be taken apart")
    heard = _collect(certificate, issuer, statuses, at)
    facts = _weigh(certificate, which, heard, signed_at, at)
    if not heard.cut:
        return facts
    return replace(facts, explanation=f"{facts.explanation}; more statuses were given than are read")


def _weigh(
    certificate: x509.Certificate, which: str, heard: "_Heard", signed_at: datetime | None, at: datetime
) -> RevocationFacts:
    # 1. A withdrawal that cannot be taken back stands against everything else, however old it is.
    statements = heard.statements
    permanent = [statement for statement in statements if statement.permanent]
    if permanent:
        verdicts = [_withdrawn(which, statement, signed_at) for statement in permanent]
        return max(verdicts, key=lambda facts: (_rank(facts), facts.as_of, facts.explanation))

    # 2. A hold stands until something newer was said.
    newest = max(statements, key=_recency, default=None)
    if newest is None:
        nothing = "no status given is about it"
        reasons = dict.fromkeys(item.reason for item in heard.refusals[:3])
        return _silent(which, "; ".join(reasons) or nothing)
    if newest.said is Said.WITHDRAWN:
        return _withdrawn(which, newest, signed_at)

    # 3. Anything else counts while it can be relied on, and until something worse was said, whether
    # that can be relied on or not. (Holds before the newest statement were released.)
    faults = {item: _staleness(item, certificate, signed_at, at) for item in statements}
    usable = [
        item
        for item, fault in faults.items()
        if fault is None
        and not any(other.said > item.said and other.this_update >= item.this_update for other in statements)
    ]
    usable = [item for item in usable if item.said is not Said.WITHDRAWN]
    if not usable:
        return _silent(which, faults[newest] or "")
    latest = max(usable, key=_recency)
    if latest.said is Said.UNKNOWN:
        sentence = f"the issuer does not know {which.rstrip(',')}, according to the {latest.source}"
        return RevocationFacts(Revocation.DISOWNED, sentence, as_of=latest.this_update, source=latest.source)
    sentence = (
        f"{which} was not withdrawn as of {moment(latest.this_update)}, according to the {latest.source}"
    )
    return RevocationFacts(
        Revocation.GOOD, sentence + _note(latest), as_of=latest.this_update, source=latest.source
    )


def _rank(facts: RevocationFacts) -> tuple[int, bool, float]:
    """The greater is the worse: the graver, then the less honest end, then the earlier one."""
    return _GRAVITY[facts.state], facts.reason not in HONEST_ENDS, _earliness(facts.since)


def _recency(statement: Statement) -> tuple[datetime, Said, float, str]:
    """The greater is the newer; of one moment, the worse."""
    return statement.this_update, statement.said, _earliness(statement.since), statement.source


def _earliness(since: datetime | None) -> float:
    return math.inf if since is None else -since.timestamp()


def _ends_trust(facts: RevocationFacts) -> bool:
    """Whether the bearer of the key is no longer heard, nor what rests on the key believed for its own sake."""
    if facts.state is Revocation.SIGNED_BEFORE:
        return facts.reason not in HONEST_ENDS
    return _GRAVITY[facts.state] > _GRAVITY[Revocation.SIGNED_BEFORE]


def _unheard(which: str, facts: RevocationFacts) -> RevocationFacts:
    """What is left of an issuer's word when the issuer was itself withdrawn.

    Whoever has a stolen key can call his own certificates good, or end them
    late and honestly. Nobody gains by calling one withdrawn beyond all doubt,
    and that may have been said before the theft: so that alone is kept.
    """
    if facts.state is Revocation.REVOKED:
        return facts
    return _silent(which, "whoever issued it was itself withdrawn and is not heard")


@dataclass(frozen=True, slots=True)
class _Heard:
    """What was heard about one certificate, and whether something that may be about it was not read."""

    statements: tuple[Statement, ...]
    refusals: tuple[Refusal, ...]
    cut: bool


def _collect(
    certificate: x509.Certificate, issuer: x509.Certificate, statuses: Statuses, at: datetime
) -> _Heard:
    # Those that may be about it come first. What cannot be read may at least be named.
    named = [(crl.issuer_of(data), data) for data in statuses.crls[:_MAX_LISTS]]
    lists = [data for name, data in named if name == issuer.subject]
    serial = der.integer(certificate.serial_number)
    answers = [data for data in statuses.answers if serial in data]
    cut = len(statuses.crls) > _MAX_LISTS or len(lists) > MAX_CRLS or len(answers) > MAX_ANSWERS
    lists = [*lists, *(data for name, data in named if name is None)][:MAX_CRLS]
    answers = [*answers, *(data for data in statuses.answers if serial not in data)][:MAX_ANSWERS]

    said = [crl.said_of(data, certificate, issuer, at) for data in lists]
    for data in answers:
        said += _unless_withdrawn(ocsp.said_of(data, certificate, issuer, at), issuer, lists, at)
    return _Heard(
        tuple(item for item in said if isinstance(item, Statement)),
        tuple(item for item in said if isinstance(item, Refusal)),
        cut,
    )


def _unless_withdrawn(
    heard: tuple[Statement, ...] | Refusal | None,
    issuer: x509.Certificate,
    lists: Sequence[bytes],
    at: datetime,
) -> Sequence[Statement | Refusal | None]:
    """What was heard in one answer, unless its issuer withdrew the responder that said it."""
    if not isinstance(heard, tuple):
        return (heard,)
    delegate = heard[0].delegate
    if delegate is None:
        return heard
    for data in lists:
        about = crl.said_of(data, delegate, issuer, at)
        if isinstance(about, Statement) and about.said is Said.WITHDRAWN:
            return (Refusal("the certificate of the OCSP responder was itself withdrawn"),)
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
