"""A time-stamp authority (RFC 3161): a request in, a reply out, no socket and no clock of its own.

Gives times in whole seconds, accurate to one second if its clock is. It refuses
to answer while its clock is behind a time it already gave. Nobody else watches
the clock here; record every token in the ledger, so that a wrong one shows.
"""

import hashlib
import itertools
import threading
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import utils
from cryptography.hazmat.primitives.serialization import Encoding

from authn import der
from authn.errors import CertificateError, MalformedRequestError
from authn.keys import Algorithm, KeyProvider
from authn.profile import Profile, check_profile
from authn.timestamp.request import TimeStampRequest, UnknownHashError

ACCURACY_SECONDS = 1

# PKIFailureInfo (RFC 3161, 2.4.2)
BAD_ALGORITHM = 0
BAD_DATA_FORMAT = 5
TIME_NOT_AVAILABLE = 14
UNACCEPTED_POLICY = 15

_SIGNED_DATA = der.oid("1.2.840.113549.1.7.2")
_TST_INFO = der.oid("1.2.840.113549.1.9.16.1.4")
_CONTENT_TYPE = der.oid("1.2.840.113549.1.9.3")
_MESSAGE_DIGEST = der.oid("1.2.840.113549.1.9.4")
_SIGNING_CERTIFICATE_V2 = der.oid("1.2.840.113549.1.9.16.2.47")
_ALGORITHMS = {
    Algorithm.ES256: ("sha256", "2.16.840.1.101.3.4.2.1", "1.2.840.10045.4.3.2"),
    Algorithm.ES384: ("sha384", "2.16.840.1.101.3.4.2.2", "1.2.840.10045.4.3.3"),
}


def serials_from(started_ns: int) -> Iterator[int]:
    """Serial numbers never given before, if `started_ns` is this start's clock in nanoseconds.

    A crash loses nothing: the next start is later, by more than the 65 536
    numbers per nanosecond that nobody can use up.
    """
    return itertools.count(started_ns << 16)


class Authority:
    """One time-stamp unit: a key, its certificates, a policy and a clock."""

    def __init__(
        self,
        key: KeyProvider,
        chain: Sequence[x509.Certificate],
        policy: str,
        clock: Callable[[], datetime],
        serials: Iterator[int],
    ) -> None:
        leaf = chain[0]
        if key.algorithm not in _ALGORITHMS or leaf.public_key() != key.public_key:
            raise CertificateError("the time-stamp unit's certificate is not for its key")
        if broken := check_profile((leaf,), Profile.TIME_STAMPING, leaf.not_valid_before_utc):
            raise CertificateError(f"the time-stamp unit's certificate does not fit: {broken[0].explanation}")
        self._key = key
        self._leaf = leaf
        self._policy = policy
        self._clock = clock
        self._serials = serials
        self._last: datetime | None = None
        self._lock = threading.Lock()
        self._hash, hash_oid, signature_oid = _ALGORITHMS[key.algorithm]
        self._hash_algorithm = der.sequence(der.oid(hash_oid))
        self._signature_algorithm = der.sequence(der.oid(signature_oid))
        self._signer = der.sequence(leaf.issuer.public_bytes(), der.integer(leaf.serial_number))
        self._certificates = der.tagged(0xA0, *sorted(item.public_bytes(Encoding.DER) for item in chain))
        # RFC 5816: the signer's certificate, named by its SHA-256, which as the default is not written.
        certificate_id = der.sequence(
            der.octets(hashlib.sha256(leaf.public_bytes(Encoding.DER)).digest()),
            der.sequence(
                der.sequence(der.tagged(0xA4, leaf.issuer.public_bytes())), der.integer(leaf.serial_number)
            ),
        )
        self._attributes = (
            _attribute(_CONTENT_TYPE, _TST_INFO),
            _attribute(_SIGNING_CERTIFICATE_V2, der.sequence(der.sequence(certificate_id))),
        )

    def respond(self, query: bytes) -> bytes:
        """Answer a TimeStampReq with a TimeStampResp, granted or with the reason for a refusal."""
        # 1. The question (RFC 3161, 2.4.1).
        try:
            request = TimeStampRequest.parse(query)
        except UnknownHashError as error:
            return _refusal(BAD_ALGORITHM, str(error))
        except MalformedRequestError as error:
            return _refusal(BAD_DATA_FORMAT, str(error))
        if request.policy not in (None, self._policy):
            return _refusal(UNACCEPTED_POLICY, "this authority stamps under another policy")

        # 2. The time and the serial number, in one step, so that both only grow.
        with self._lock:
            now = self._clock().astimezone(UTC)
            if self._last is not None and now < self._last:
                return _refusal(TIME_NOT_AVAILABLE, "the clock ran backwards")
            if not self._leaf.not_valid_before_utc <= now <= self._leaf.not_valid_after_utc:
                return _refusal(TIME_NOT_AVAILABLE, "the time-stamp unit's certificate is not valid now")
            self._last, serial = now, next(self._serials)

        # 3. The statement (2.4.2).
        statement = der.sequence(
            der.integer(1),
            der.oid(self._policy),
            request.imprint,
            der.integer(serial),
            der.generalized_time(now),
            der.sequence(der.integer(ACCURACY_SECONDS)),
            b"" if request.nonce is None else der.integer(request.nonce),
        )

        # 4. The signature over its digest and our certificate (RFC 5652, 5.4; RFC 5816).
        digest = hashlib.new(self._hash, statement).digest()
        attributes = sorted((*self._attributes, _attribute(_MESSAGE_DIGEST, der.octets(digest))))
        signature = self._key.sign(der.tagged(der.SET, *attributes))
        half = len(signature) // 2
        pair = int.from_bytes(signature[:half], "big"), int.from_bytes(signature[half:], "big")
        signer = der.sequence(
            der.integer(1),
            self._signer,
            self._hash_algorithm,
            der.tagged(0xA0, *attributes),
            self._signature_algorithm,
            der.octets(utils.encode_dss_signature(*pair)),
        )
        signed = der.sequence(
            der.integer(3),
            der.set_of(self._hash_algorithm),
            der.sequence(_TST_INFO, der.tagged(0xA0, der.octets(statement))),
            self._certificates if request.wants_certificate else b"",
            der.set_of(signer),
        )
        return der.sequence(
            der.sequence(der.integer(0)), der.sequence(_SIGNED_DATA, der.tagged(0xA0, signed))
        )


def _refusal(bit: int, text: str) -> bytes:
    flags = (1 << (7 - bit % 8)).to_bytes(bit // 8 + 1, "big")
    return der.sequence(
        der.sequence(
            der.integer(2),
            der.sequence(der.tagged(der.UTF8_STRING, text.encode())),
            der.tagged(der.BIT_STRING, bytes((7 - bit % 8,)), flags),
        )
    )


def _attribute(kind: bytes, value: bytes) -> bytes:
    return der.sequence(kind, der.tagged(der.SET, value))
