"""The question to a time-stamp authority (RFC 3161, 2.4.1)."""

import re
from dataclasses import dataclass

from authn import der
from authn.errors import MalformedDerError, MalformedRequestError

MAX_REQUEST = 64 << 10

HASHES = {
    "2.16.840.1.101.3.4.2.1": "sha256",
    "2.16.840.1.101.3.4.2.2": "sha384",
    "2.16.840.1.101.3.4.2.3": "sha512",
}
DIGEST_SIZES = {"sha256": 32, "sha384": 48, "sha512": 64}
_OIDS = {name: oid for oid, name in HASHES.items()}
_DOTTED = re.compile(r"[0-2](?:\.(?:0|[1-9][0-9]{0,9})){1,20}")


class UnknownHashError(MalformedRequestError):
    """The request's digest is made with a hash we do not accept."""

    code = "timestamp-request-hash"
    remedy = "Ask with a SHA-256, SHA-384 or SHA-512 digest."


@dataclass(frozen=True, slots=True)
class TimeStampRequest:
    """A digest to be dated. The authority never sees what was hashed."""

    digest: bytes
    hash: str = "sha256"
    nonce: int | None = None
    policy: str | None = None
    wants_certificate: bool = True
    imprint: bytes = b""

    def __post_init__(self) -> None:
        if self.hash not in DIGEST_SIZES:
            raise UnknownHashError("a digest is made with a hash that is not accepted")
        if len(self.digest) != DIGEST_SIZES[self.hash]:
            raise MalformedRequestError("a digest does not have its hash's length")
        if self.nonce is not None and not 0 <= self.nonce < 1 << 256:
            raise MalformedRequestError("a nonce is negative or longer than 256 bits")
        if self.policy is not None and not _DOTTED.fullmatch(self.policy):
            raise MalformedRequestError("a policy is not an object identifier")
        if not self.imprint:
            object.__setattr__(self, "imprint", encode_imprint(self.hash, self.digest))

    def encode(self) -> bytes:
        """The TimeStampReq in DER."""
        return der.sequence(
            der.integer(1),
            self.imprint,
            b"" if self.policy is None else der.oid(self.policy),
            b"" if self.nonce is None else der.integer(self.nonce),
            der.tagged(der.BOOLEAN, b"\xff") if self.wants_certificate else b"",
        )

    @classmethod
    def parse(cls, data: bytes) -> "TimeStampRequest":
        """Read a TimeStampReq without extensions; the algorithm's parameters may be absent or NULL."""
        try:
            fields = der.parse(data, MAX_REQUEST).fields()
            if fields.take(der.INTEGER).to_integer() != 1:
                raise MalformedRequestError("a request is not of version 1")
            imprint = fields.take(der.SEQUENCE)
            policy, nonce, wants = fields.maybe(der.OID), fields.maybe(der.INTEGER), fields.maybe(der.BOOLEAN)
            fields.end()
            if wants is not None and not wants.to_boolean():
                raise MalformedRequestError("a request writes out a default, which DER forbids")
            hash_oid, digest = read_imprint(imprint)
            if hash_oid not in HASHES:
                raise UnknownHashError("a digest is made with a hash that is not accepted")
            return cls(
                digest,
                HASHES[hash_oid],
                None if nonce is None else nonce.to_integer(),
                None if policy is None else policy.to_oid(),
                wants is not None,
                imprint.encoded,
            )
        except MalformedDerError as error:
            raise MalformedRequestError(f"a request cannot be read: {error}") from error


def encode_imprint(hash_name: str, digest: bytes) -> bytes:
    """A MessageImprint, with the NULL parameters that most clients expect."""
    algorithm = der.sequence(der.oid(_OIDS[hash_name]), der.tagged(der.NULL))
    return der.sequence(algorithm, der.octets(digest))


def read_imprint(imprint: der.Element) -> tuple[str, bytes]:
    """The hash's identifier and the digest of a MessageImprint, not judged."""
    fields = imprint.fields()
    algorithm, digest = fields.take(der.SEQUENCE), fields.take(der.OCTET_STRING)
    fields.end()
    return read_algorithm(algorithm), digest.content


def read_algorithm(algorithm: der.Element) -> str:
    """The identifier of an AlgorithmIdentifier whose parameters are absent or NULL."""
    fields = algorithm.fields()
    oid = fields.take(der.OID)
    parameters = fields.maybe(der.NULL)
    fields.end()
    if parameters is not None and parameters.content:
        raise MalformedDerError("a NULL has content")
    return oid.to_oid()
