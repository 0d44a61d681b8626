"""A ceremony: the one occasion on which a root key signs, on a machine that is connected to nothing.

Two people, a clock of their own, and a transcript that names every file by its digest.
What is to be signed comes as a request, whose plan is in the ledger already: the certificate
is planned again here from the request's own fields, so what is signed is what was logged.
Nothing here can see that the machine is offline, nor that the two people are two.
"""

import base64
import binascii
import hashlib
import re
import secrets
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import ClassVar

from authn.csr import make_request, read_request
from authn.custody import uri
from authn.custody.opening import open_provider
from authn.device import Certificate, encoded, spki
from authn.errors import CertificateError
from authn.identity import CertificatePlan, Subject, pem_chain, plan_issuing_ca, plan_root, spki_of
from authn.keys import KeyProvider, SigningKey, generate_p384, read_secret, store_key
from authn.plain import plain
from authn.timestamp.clock import Reading, Tolerances, drift_doubt, floor_doubt
from authn.withdrawal import Reason, Withdrawn, build_crl, read_crl
from storage import payload
from storage.errors import MalformedError
from tools.errors import Error, OutputExistsError
from tools.output import built_beside

SCHEMA = "lightseal-ca-request/1"
MAX_REQUEST = 64 << 10
ROOT_LIST_LIFE = timedelta(days=366)

_APART = timedelta(minutes=5)
_OLDEST_REQUEST = timedelta(days=60)
_DRIFT = Tolerances(drift=timedelta(seconds=2))
_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,63}")
_PERSON = re.compile(r"[^\W_][\w .'-]{0,63}")
_FIELDS = frozenset(
    {"at", "common_name", "csr", "entry", "name", "ocsp_url", "organisation", "plan", "schema", "serial"}
)

# Who is asked, and what he is to say yes to.
Confirm = Callable[[str, str], bool]
Clock = Callable[[], Reading]


class CeremonyError(Error):
    """A ceremony that was not begun or not ended; no file of it was kept."""

    code: ClassVar[str] = "ceremony-refused"
    remedy: ClassVar[str] = "Put right what the sentence names, and begin again with both operators."


class CeremonyClockError(CeremonyError):
    """The clock of the machine cannot be right."""

    code: ClassVar[str] = "clock-unsafe"
    remedy: ClassVar[str] = "Set the machine's clock by a watch that you trust, in UTC, and begin again."


class RequestUnusableError(CeremonyError):
    """A request file that is not one of ours, or not the one that was logged."""

    code: ClassVar[str] = "ca-request-unusable"
    remedy: ClassVar[str] = "Make the request again with 'lightseal ca rotate --request FILE'."


@dataclass(frozen=True, slots=True)
class AuthorityRequest:
    """What an online home asks a root to sign: an issuing authority, as it was planned and logged.

    `plan` is the digest that stands in the ledger at `entry`; both are the home's word,
    which whoever has the ledger can check. Believe the digest, not the file.
    """

    name: str
    organisation: str
    common_name: str
    csr: bytes
    serial: int
    at: datetime
    ocsp_url: str
    plan: bytes
    entry: int

    @classmethod
    def parse(cls, data: bytes) -> "AuthorityRequest":
        """Read a request file, accepting only what `bytes` would write."""
        if len(data) > MAX_REQUEST:
            raise RequestUnusableError("the request file is too large")
        try:
            fields = payload.parse(data.removesuffix(b"\n"))
            if fields.keys() != _FIELDS or fields["schema"] != SCHEMA:
                raise RequestUnusableError("the file is no request for an authority")
            request = cls(
                str(fields["name"]),
                str(fields["organisation"]),
                str(fields["common_name"]),
                base64.b64decode(str(fields["csr"]), validate=True),
                int(str(fields["serial"]), 16),
                datetime.strptime(str(fields["at"]), "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC),
                str(fields["ocsp_url"]),
                bytes.fromhex(str(fields["plan"])),
                int(str(fields["entry"])),
            )
        except (ValueError, TypeError, binascii.Error, MalformedError) as error:
            raise RequestUnusableError("the request file cannot be read") from error
        if bytes(request) != data or not _NAME.fullmatch(request.name):
            raise RequestUnusableError("the request file is not written in the one way it can be")
        return request

    def __bytes__(self) -> bytes:
        fields = {
            "at": f"{self.at.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}",
            "common_name": self.common_name,
            "csr": base64.b64encode(self.csr).decode(),
            "entry": self.entry,
            "name": self.name,
            "ocsp_url": self.ocsp_url,
            "organisation": self.organisation,
            "plan": self.plan.hex(),
            "schema": SCHEMA,
            "serial": f"{self.serial:x}",
        }
        return payload.canonical(fields) + b"\n"

    def planned(self, root: Certificate, predecessors: Sequence[Certificate]) -> CertificatePlan:
        """The certificate to come, planned again; refused unless it is the one whose digest was logged."""
        plan = plan_issuing_ca(
            Subject("XX", self.organisation, self.common_name),
            read_request(self.csr),
            self.serial,
            self.at,
            issuer=root,
            ocsp_url=self.ocsp_url,
            predecessors=predecessors,
        )
        if plan.digest != self.plan:
            raise RequestUnusableError("what the request asks for is not what it says was logged")
        return plan


def request_for(
    key: KeyProvider, plan: CertificatePlan, name: str, at: datetime, entry: int
) -> AuthorityRequest:
    """The request for a planned authority, once its plan is logged at `entry`."""
    return AuthorityRequest(
        name,
        plan.subject.organisation,
        plan.subject.common_name,
        make_request(key),
        plan.serial,
        at.replace(microsecond=0),
        plan.ocsp_url or "",
        plan.digest,
        entry,
    )


@dataclass(frozen=True, slots=True)
class Ceremony:
    """What is to be done. Without `root` a root is made, for `organisation`; else its certificate is at hand.

    `shown` is what a clock shows that is not this machine's. `previous` is the root's last
    list: without it the first one is written, and of two first ones nobody could tell
    which is newer.
    """

    root_uri: str
    operators: tuple[str, ...]
    shown: datetime
    organisation: str | None = None
    root: Certificate | None = None
    requests: tuple[bytes, ...] = ()
    predecessors: tuple[Certificate, ...] = ()
    previous: bytes | None = None
    withdrawals: tuple[Withdrawn, ...] = ()


def hold_ceremony(ceremony: Ceremony, place: Path, clock: Clock, confirm: Confirm) -> str:
    """Hold it, and return the transcript, which also lies with all that was made in the new folder `place`.

    1. The two people, the clocks, the output: refused before a key is touched.
    2. The root's key and certificate.
    3. What is asked for, planned again.
    4. Both people confirm what they see.
    5. The certificates and the list.
    6. The clock again; then a new root's key is kept, and the folder appears, whole.
    """
    # 1
    start = clock()
    at = start.wall
    requests = _require_ready(ceremony, place, at)
    said = Transcript()
    said.add(f"Operators: {ceremony.operators[0]} and {ceremony.operators[1]}")
    said.add(f"Clock of this machine: {at:%Y-%m-%d %H:%M:%S} UTC; another clock: {ceremony.shown:%H:%M:%S}")
    # 2
    made = _new_key(ceremony)
    with closing(open_provider(ceremony.root_uri) if made is None else made.key) as key:
        root = _root(ceremony, key, at)
        said.add(
            f"Root key: {key.algorithm}, kept as {key.keeping}, SHA-256 of its SPKI {_sha256(spki(root))}"
        )
        said.add(
            f"Root: {root.subject.rfc4514_string()}, {'opened' if ceremony.root is not None else 'made now'}"
        )
        said.add(
            f"Root certificate: until {root.not_valid_after_utc:%Y-%m-%d}, SHA-256 {_sha256(encoded(root))}"
        )
        # 3
        plans = [request.planned(root, ceremony.predecessors) for request in requests]
        for request, plan in zip(requests, plans, strict=True):
            said.add(
                f"To sign: {request.name}, {plan.subject.common_name}, serial {plan.serial:x}, until"
                f" {plan.not_after:%Y-%m-%d}, plan {plan.digest.hex()}, logged as entry {request.entry}"
            )
        number, entries = _to_list(ceremony, root)
        for entry in ceremony.withdrawals:
            said.add(
                f"To withdraw: serial {entry.serial:x}, {entry.reason}, not believed since {entry.since}"
            )
        # 4
        for name in ceremony.operators:
            if not confirm(name, str(said)):
                raise CeremonyError(f"{name} did not confirm")
            said.add(f"Confirmed: {name}")
        # 5
        files = {"root.pem": pem_chain(root)}
        for request, plan in zip(requests, plans, strict=True):
            files[f"{request.name}.pem"] = pem_chain(plan.sign(key))
        files["root.crl"] = build_crl(
            entries, issuer=root, key=key, number=number, at=at, life=ROOT_LIST_LIFE
        )
        # 6
        end = clock()
        if doubt := drift_doubt(start, end, _DRIFT):
            raise CeremonyClockError(doubt)
        said.add(f"List: number {number}, {len(entries)} withdrawn, until {at + ROOT_LIST_LIFE:%Y-%m-%d}")
        for name, data in files.items():
            said.add(f"File: {name}, {len(data)} bytes, SHA-256 {_sha256(data)}")
        said.add(f"Ended: {end.wall:%Y-%m-%d %H:%M:%S} UTC")
        transcript = said.ended(ceremony.operators)
        if made is not None:
            store_key(made.path, made.key, made.passphrase)
        with built_beside(place) as building:
            for name, data in (*files.items(), ("transcript.txt", transcript.encode())):
                (building / name).write_bytes(data)
        return transcript


@dataclass(slots=True)
class Transcript:
    """What was done, line by line."""

    lines: list[str] = field(default_factory=list)

    def add(self, line: str) -> None:
        """Write down one thing more; whatever it holds stays on its line."""
        self.lines.append(f"{len(self.lines) + 1:2}. {plain(line, 600)}")

    def ended(self, operators: Sequence[str]) -> str:
        """The whole text, its digest, and where to sign it on paper."""
        signatures = "".join(f"Signed: ____________________ ({name})\n" for name in operators)
        return f"{self}SHA-256 of the lines above: {_sha256(str(self).encode())}\n\n{signatures}"

    def __str__(self) -> str:
        return "Ceremony of a root of Lightseal\n" + "".join(f"{line}\n" for line in self.lines)


def read_withdrawal(text: str) -> Withdrawn:
    """Read SERIAL,REASON,REVOKED-AT[,COMPROMISED-SINCE], the serial in hex and the times in RFC 3339."""
    try:
        serial, reason, *dates = text.split(",")
        moments = [datetime.fromisoformat(date) for date in dates]
        if not 1 <= len(moments) <= 2 or any(moment.tzinfo is None for moment in moments):
            raise CeremonyError("a withdrawal has one or two times, each with its time zone")
        return Withdrawn(int(serial, 16), Reason(reason), *(moment.astimezone(UTC) for moment in moments))
    except ValueError as error:
        raise CeremonyError("a withdrawal is SERIAL,REASON,REVOKED-AT[,COMPROMISED-SINCE]") from error


def fresh_serial() -> int:
    """A serial number of 127 bits, all but one of them chance (RFC 5280, 4.1.2.2)."""
    return secrets.randbits(127) | 1 << 126


def _require_ready(ceremony: Ceremony, place: Path, at: datetime) -> tuple[AuthorityRequest, ...]:
    if place.exists() or place.is_symlink():
        raise OutputExistsError(f"something already stands at {place}")
    if len({name.casefold() for name in ceremony.operators}) != 2 or len(ceremony.operators) != 2:
        raise CeremonyError("a ceremony has two operators with different names")
    if not all(_PERSON.fullmatch(name) for name in ceremony.operators):
        raise CeremonyError("an operator's name is 1 to 64 letters, digits, dots, dashes and spaces")
    requests = tuple(map(AuthorityRequest.parse, ceremony.requests))
    if len({request.name for request in requests}) != len(requests):
        raise RequestUnusableError("two requests are for the same authority")
    _require_clock(ceremony, requests, at)
    return requests


def _require_clock(ceremony: Ceremony, requests: Sequence[AuthorityRequest], at: datetime) -> None:
    if abs(at - ceremony.shown) > _APART:
        raise CeremonyClockError(f"the machine's clock is {abs(at - ceremony.shown)} away from the other one")
    known = [request.at for request in requests]
    known += [item.not_valid_before_utc for item in ceremony.predecessors]
    if ceremony.root is not None:
        known.append(ceremony.root.not_valid_before_utc)
        if ceremony.previous is not None:
            known.append(read_crl(ceremony.previous, ceremony.root).this_update)
    if doubt := floor_doubt(at, max(known, default=None)):
        raise CeremonyClockError(doubt)
    for request in requests:
        if at - request.at > _OLDEST_REQUEST:
            raise RequestUnusableError(
                f"the request for {request.name} is older than {_OLDEST_REQUEST.days} days"
            )


@dataclass(frozen=True, slots=True)
class _NewKey:
    """A root's key that is not kept anywhere yet, and where it will be."""

    key: SigningKey
    path: Path
    passphrase: bytes | None


def _new_key(ceremony: Ceremony) -> _NewKey | None:
    """A new key where the root's is to be a file that is not there; nothing is written."""
    address = uri.parse(ceremony.root_uri)
    if not isinstance(address, uri.FileAddress) or address.path.exists():
        return None
    if ceremony.root is not None:
        raise CeremonyError("there is no key file for the root whose certificate was given")
    passphrase = None if address.pin_source is None else read_secret(address.pin_source)
    return _NewKey(generate_p384(), address.path, passphrase)


def _root(ceremony: Ceremony, key: KeyProvider, at: datetime) -> Certificate:
    if ceremony.root is not None:
        if spki(ceremony.root) != spki_of(key.public_key):
            raise CeremonyError("the key is not the one of the root whose certificate was given")
        return ceremony.root
    if ceremony.organisation is None:
        raise CeremonyError("a new root needs an organisation, and an old one its certificate")
    who = Subject("XX", ceremony.organisation, f"{ceremony.organisation} Root CA")
    return plan_root(who, key.public_key, fresh_serial(), at).sign(key)


def _to_list(ceremony: Ceremony, root: Certificate) -> tuple[int, tuple[Withdrawn, ...]]:
    if ceremony.previous is None:
        return 1, ceremony.withdrawals
    try:
        before = read_crl(ceremony.previous, root)
    except CertificateError as error:
        raise CeremonyError(f"the previous list cannot be used: {error}") from error
    return before.number + 1, (*before.entries, *ceremony.withdrawals)


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
