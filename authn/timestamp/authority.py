"""A time-stamp authority (RFC 3161, RFC 5816): a request in, a reply out, no socket and no clock of its own.

Gives times in whole seconds, accurate to one second if its clock is; the habits are those of
ETSI EN 319 421 and 422. It refuses to answer while its clock is behind a time it already gave
or that is on record elsewhere, while `doubt` names a reason not to believe the clock, and once
its key's time of use is over. What `record` cannot put on record does not leave.
Nobody here can tell a clock that was wrong from the beginning; `authn.timestamp.clock` can,
if sources are asked. Whether the certificate was withdrawn is the operator's to know.
"""

import hashlib
import itertools
import re
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.serialization import Encoding

from authn import der
from authn.errors import (
    CertificateError,
    KeyFileError,
    MalformedDerError,
    MalformedRequestError,
    SelfCheckError,
    TimestampError,
)
from authn.keys import Algorithm, KeyProvider
from authn.profile import Profile, check_profile
from authn.timestamp.clock import ACCURACY, floor_doubt
from authn.timestamp.doubling import signer_of
from authn.timestamp.request import TimeStampRequest, UnknownHashError

SERIALS_AT_ONCE = 1 << 16
# How long a key stamps where its certificate does not say (EN 319 421, 7.6.3: shorter than the certificate).
KEY_USE = timedelta(days=3 * 366)

# PKIFailureInfo (RFC 3161, 2.4.2)
BAD_ALGORITHM = 0
BAD_REQUEST = 2
BAD_DATA_FORMAT = 5
TIME_NOT_AVAILABLE = 14
UNACCEPTED_POLICY = 15
UNACCEPTED_EXTENSION = 16
SYSTEM_FAILURE = 25

_SIGNED_DATA = der.oid("1.2.840.113549.1.7.2")
_TST_INFO = der.oid("1.2.840.113549.1.9.16.1.4")
_CONTENT_TYPE = der.oid("1.2.840.113549.1.9.3")
_MESSAGE_DIGEST = der.oid("1.2.840.113549.1.9.4")
_SIGNING_CERTIFICATE_V2 = der.oid("1.2.840.113549.1.9.16.2.47")
_ALGORITHMS = {
    Algorithm.ES256: ("sha256", "2.16.840.1.101.3.4.2.1", "1.2.840.10045.4.3.2"),
    Algorithm.ES384: ("sha384", "2.16.840.1.101.3.4.2.2", "1.2.840.10045.4.3.3"),
}
_GRANTED = der.sequence(der.integer(0))
_ACCURACY = der.sequence(der.integer(ACCURACY // timedelta(seconds=1)))


class UnsafeClockError(TimestampError):
    """No time can be given: the clock cannot be relied on."""

    code = "clock-unsafe"
    remedy = (
        "Set the clock right with a time service and start again; never turn it to make this pass. If it was a wrong"
        " clock that dated what is on record, wait until that time has come."
    )


class RecordingError(TimestampError):
    """A token could not be put on record, so it did not leave."""

    code = "timestamp-unrecorded"
    remedy = "See that the ledger can be written to; then ask again."


class SerialsError(TimestampError):
    """No serial number can be had of which it is known that nobody has it."""

    code = "timestamp-serials"
    remedy = "See that the file of serial numbers can be written to; never bring an older copy of it back."


@dataclass(frozen=True, slots=True)
class Issued:
    """A token that was made and has not left yet."""

    token: bytes
    imprint: bytes
    serial: int
    gen_time: datetime

    @property
    def sha256(self) -> str:
        """The token's digest in hex."""
        return hashlib.sha256(self.token).hexdigest()


def serials_from(started_ns: int) -> Iterator[int]:
    """Serial numbers never given before, if `started_ns` is this start's clock in nanoseconds.

    A crash loses nothing: the next start is later, by more than the 65 536
    numbers per nanosecond that nobody can use up. A clock that was set back can
    give numbers again; `Reserved` cannot.
    """
    return itertools.count(started_ns << 16)


class Reserved:
    """Serial numbers from blocks: `reserve(count)` returns the first of `count` numbers that nobody else ever gets.

    It must be durable before it returns, and raises `SerialsError` where it cannot be; a crash
    wastes what was left of a block. Not safe between threads: the authority takes turns.
    """

    def __init__(self, reserve: Callable[[int], int]) -> None:
        self._reserve = reserve
        self._next = self._end = 0

    def __iter__(self) -> Iterator[int]:
        return self

    def __next__(self) -> int:
        """The next number."""
        if self._next == self._end:
            self._next = self._reserve(SERIALS_AT_ONCE)
            self._end = self._next + SERIALS_AT_ONCE
        self._next += 1
        return self._next - 1


def never_doubt(_: datetime) -> None:
    """For a clock that nobody watches."""


def no_floor() -> None:
    """For an authority that knows of no other record."""


def kept_nowhere(_: Issued) -> None:
    """For an authority whose caller records the token itself."""


@dataclass(frozen=True, slots=True)
class Safeguards:
    """What keeps an authority from stamping falsely.

    `doubt(now)` names a reason not to believe the clock; `floor` returns a time that no token may
    lie before; both are asked for every token and have to answer at once. `record` puts a token
    on record, durably, before it leaves, and raises `RecordingError` where it cannot. To do without
    a doubt or a floor has to be said, with `never_doubt` and `no_floor`.
    """

    doubt: Callable[[datetime], str | None]
    floor: Callable[[], datetime | None]
    record: Callable[[Issued], None] = kept_nowhere


@dataclass(frozen=True, slots=True)
class _Frame:
    """What is the same in all tokens of the same sizes, in the order in which it stands."""

    granting: bytes
    opening: bytes
    signer: bytes
    closing: bytes


class Authority:
    """One time-stamp unit: a key, its certificates, a policy, a clock and its safeguards. Threads may share it."""

    def __init__(
        self,
        key: KeyProvider,
        chain: Sequence[x509.Certificate],
        policy: str,
        clock: Callable[[], datetime],
        serials: Iterator[int],
        safeguards: Safeguards,
    ) -> None:
        _require_fitting(key, chain)
        leaf = chain[0]
        self._sign = signer_of(key)
        self._policy = policy
        self._clock = clock
        self._serials = serials
        self._safeguards = safeguards
        self._begins, self._ends = stamping_period(leaf)
        self._last: datetime | None = None
        self._dated = datetime.min.replace(tzinfo=UTC), b""
        self._lock = threading.Lock()
        # As many as there are lengths of nonces and signatures: a few hundred at most.
        self._frames: dict[tuple[int, int, int], _Frame] = {}
        self._hash, hash_oid, signature_oid = _ALGORITHMS[key.algorithm]
        self._prepare(leaf, chain, der.sequence(der.oid(hash_oid)), der.sequence(der.oid(signature_oid)))

    def _prepare(
        self, leaf: x509.Certificate, chain: Sequence[x509.Certificate], hashing: bytes, signing: bytes
    ) -> None:
        """Write once what is the same in every token."""
        issuer_and_serial = der.sequence(leaf.issuer.public_bytes(), der.integer(leaf.serial_number))
        # RFC 5816: the signer's certificate, named by its SHA-256, which as the default is not written.
        certificate_id = der.sequence(
            der.octets(hashlib.sha256(leaf.public_bytes(Encoding.DER)).digest()),
            der.sequence(
                der.sequence(der.tagged(0xA4, leaf.issuer.public_bytes())), der.integer(leaf.serial_number)
            ),
        )
        # A SET OF is sorted (X.690, 11.6). The digest is last in its attribute, and no two begin alike before it.
        digest = bytes(hashlib.new(self._hash).digest_size)
        attributes = sorted(
            (
                _attribute(_CONTENT_TYPE, _TST_INFO),
                _attribute(_SIGNING_CERTIFICATE_V2, der.sequence(der.sequence(certificate_id))),
                _attribute(_MESSAGE_DIGEST, der.octets(digest)),
            )
        )
        self._signed_before, self._signed_after = der.tagged(der.SET, *attributes)[1:].split(digest)
        self._statement_head = der.integer(1) + der.oid(self._policy)
        self._signer_head = der.integer(1) + issuer_and_serial + hashing + b"\xa0"
        self._signer_tail = signing
        self._signed_head = der.integer(3) + der.set_of(hashing)
        self._certificates = der.tagged(0xA0, *sorted(item.public_bytes(Encoding.DER) for item in chain))

    def respond(self, query: bytes) -> bytes:
        """Answer a TimeStampReq with a TimeStampResp, granted or with the reason for a refusal."""
        # 1. The question (RFC 3161, 2.4.1).
        usual = _USUAL.fullmatch(query)
        if usual is not None and query[1] == len(query) - 2 and _is_nonce(usual[2]):
            imprint, nonce, wanted = usual[1], usual[2] or b"", usual[3] is not None
        else:
            try:
                request = TimeStampRequest.parse(query)
            except MalformedRequestError as error:
                return refusal(_fault_of(query, error), str(error))
            if request.policy not in (None, self._policy):
                return refusal(UNACCEPTED_POLICY, "this authority stamps under another policy")
            imprint, wanted = request.imprint, request.wants_certificate
            nonce = b"" if request.nonce is None else der.integer(request.nonce)
        certificates = self._certificates if wanted else b""

        # 2. The time and the serial number, in one step, so that both only grow.
        safeguards = self._safeguards
        with self._lock:
            now = self._clock()
            if doubt := self._doubt(now):
                return refusal(TIME_NOT_AVAILABLE, doubt)
            try:
                serial = next(self._serials)
            except SerialsError as error:
                return refusal(SYSTEM_FAILURE, str(error))
            self._last = now
            second = now.replace(microsecond=0)
            if second != self._dated[0]:
                self._dated = second.astimezone(UTC), der.generalized_time(second)
            gen_time, dated = self._dated

        # 3. The statement (2.4.2).
        statement = der.tagged(
            der.SEQUENCE, self._statement_head, imprint, der.integer(serial), dated, _ACCURACY, nonce
        )

        # 4. The signature over its digest and our certificate (RFC 5652, 5.4; RFC 5816).
        digest = hashlib.new(self._hash, statement).digest()
        attributes = self._signed_before + digest + self._signed_after
        try:
            signature = self._sign(b"\x31" + attributes)
        except (KeyFileError, SelfCheckError) as error:
            return refusal(SYSTEM_FAILURE, _FAULTS[type(error) is SelfCheckError])
        sizes = len(statement), len(signature), len(certificates)
        frame = self._frames.get(sizes) or self._framed(*sizes)
        token = b"".join(
            (frame.opening, statement, certificates, frame.signer, attributes, frame.closing, signature)
        )

        # 5. On record, or it does not leave.
        try:
            safeguards.record(Issued(token, imprint, serial, gen_time))
        except RecordingError:
            return refusal(SYSTEM_FAILURE, "the token could not be recorded")
        return frame.granting + token

    def require_time(self) -> None:
        """Raise `UnsafeClockError`, which says more to people here than a refusal can, if the clock is unsafe now.

        Promises nothing for later; each request is judged again.
        """
        with self._lock:
            if doubt := self._clock_doubt(self._clock()):
                raise UnsafeClockError(f"no time can be given: {doubt}")

    def _framed(self, statement: int, signature: int, certificates: int) -> "_Frame":
        """What stands around statement, certificates and signature of these sizes (RFC 5652, 5.1 and 5.3)."""
        closing = self._signer_tail + _opened(der.OCTET_STRING, b"", signature)
        attributes = len(self._signed_before) + hashlib.new(self._hash).digest_size + len(self._signed_after)
        rest = attributes + len(closing) + signature
        signer = _opened(der.SET, _opened(der.SEQUENCE, self._signer_head, rest), rest)
        content = _opened(0xA0, _opened(der.OCTET_STRING, b"", statement), statement)
        content = _opened(der.SEQUENCE, _TST_INFO + content, statement)
        rest += statement + certificates + len(signer)
        signed = _opened(der.SEQUENCE, self._signed_head + content, rest)
        opening = _opened(der.SEQUENCE, _SIGNED_DATA + _opened(0xA0, signed, rest), rest)
        granting = _opened(der.SEQUENCE, _GRANTED, len(opening) + rest)
        return self._frames.setdefault(
            (statement, signature, certificates), _Frame(granting, opening, signer, closing)
        )

    def _doubt(self, now: datetime) -> str | None:
        """Why no time can be given now."""
        if not self._begins <= now <= self._ends:
            return "the time-stamp unit's certificate, or its key's time of use, does not cover this moment"
        return self._clock_doubt(now)

    def _clock_doubt(self, now: datetime) -> str | None:
        """Why the clock cannot be relied on; the order is that of cost."""
        if self._last is not None and now < self._last:
            return "the clock ran backwards"
        # A token says the whole second, so it is the second that must not lie below what is on record.
        if reason := floor_doubt(now.replace(microsecond=0), self._safeguards.floor()):
            return reason
        return self._safeguards.doubt(now)


def stamping_period(leaf: x509.Certificate) -> tuple[datetime, datetime]:
    """From when until when the key may stamp: its certificate's private key usage period, or else `KEY_USE`."""
    begins, ends = leaf.not_valid_before_utc, leaf.not_valid_after_utc
    try:
        period = leaf.extensions.get_extension_for_class(x509.PrivateKeyUsagePeriod).value
    except x509.ExtensionNotFound:
        return begins, min(ends, begins + KEY_USE)
    if period.not_before is not None:
        begins = max(begins, period.not_before.replace(tzinfo=UTC))
    if period.not_after is not None:
        ends = min(ends, period.not_after.replace(tzinfo=UTC))
    return begins, ends


def _require_fitting(key: KeyProvider, chain: Sequence[x509.Certificate]) -> None:
    """Refuse to start under a certificate that no verifier would accept (RFC 3161, 2.3; EN 319 422, 6)."""
    if not chain or key.algorithm not in _ALGORITHMS or chain[0].public_key() != key.public_key:
        raise CertificateError("the time-stamp unit's certificate is not for its key")
    if broken := check_profile(chain[:1], Profile.TIME_STAMPING, chain[0].not_valid_before_utc):
        raise CertificateError(f"the time-stamp unit's certificate does not fit: {broken[0].explanation}")
    for lower, upper in itertools.pairwise(chain):
        try:
            lower.verify_directly_issued_by(upper)
        except (ValueError, TypeError, InvalidSignature) as error:
            raise CertificateError("the time-stamp unit's certificates are not a chain") from error


# --- 1. The question

# What nearly every client sends: SHA-256, parameters absent or NULL, no policy, perhaps a nonce. The
# rest, and all that is wrong, is for `TimeStampRequest.parse`, which must read these just the same.
_SHA256 = rb"\x06\x09\x60\x86\x48\x01\x65\x03\x04\x02\x01"
_USUAL = re.compile(
    rb"\x30.\x02\x01\x01"
    rb"(\x30\x31\x30\x0d"
    + _SHA256
    + rb"\x05\x00\x04\x20.{32}|\x30\x2f\x30\x0b"
    + _SHA256
    + rb"\x04\x20.{32})"
    rb"(\x02[\x01-\x20].{1,32}?)?"
    rb"(\x01\x01\xff)?",
    re.DOTALL,
)


def _is_nonce(element: bytes | None) -> bool:
    """Whether this is no nonce, or one in its shortest form that is not negative."""
    if element is None:
        return True
    size, first = element[1], element[2]
    return size == len(element) - 2 and first < 0x80 and (first != 0 or size == 1 or element[3] >= 0x80)


def _fault_of(query: bytes, error: MalformedRequestError) -> int:
    """Which of RFC 3161's reasons it is: a hash, an extension, another version, or no request at all."""
    if isinstance(error, UnknownHashError):
        return BAD_ALGORITHM
    try:
        fields = der.parse(query, len(query)).fields()
        version = fields.take(der.INTEGER).to_integer()
        last = fields.rest()[-1:]
    except MalformedDerError:
        return BAD_DATA_FORMAT
    if version != 1:
        return BAD_REQUEST
    return UNACCEPTED_EXTENSION if last and last[0].tag == 0xA0 else BAD_DATA_FORMAT


_FAULTS = ("the unit's key cannot be used now", "the unit's key made a faulty signature")


def refusal(bit: int, text: str) -> bytes:
    """A TimeStampResp that says no: one reason of RFC 3161, and a sentence."""
    flags = (1 << (7 - bit % 8)).to_bytes(bit // 8 + 1, "big")
    return der.sequence(
        der.sequence(
            der.integer(2),
            der.sequence(der.tagged(der.UTF8_STRING, text.encode())),
            der.tagged(der.BIT_STRING, bytes((7 - bit % 8,)), flags),
        )
    )


def _opened(tag: int, begun: bytes, size: int) -> bytes:
    """An element that begins with `begun` and goes on for `size` bytes, up to there."""
    whole = der.tagged(tag, begun, bytes(size))
    return whole[: len(whole) - size]


def _attribute(kind: bytes, value: bytes) -> bytes:
    return der.sequence(kind, der.tagged(der.SET, value))
