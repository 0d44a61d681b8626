"""Take a time-stamp token apart and believe nothing of it; `token` judges."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta

from cryptography import x509

from authn import der
from authn.chain import read_certificate
from authn.errors import CertificateError, MalformedDerError
from authn.timestamp.request import HASHES, read_algorithm, read_imprint

MAX_TOKEN = 64 << 10
MAX_CERTIFICATES = 10

CONTENT_TYPE = "1.2.840.113549.1.9.3"
MESSAGE_DIGEST = "1.2.840.113549.1.9.4"
SIGNING_TIME = "1.2.840.113549.1.9.5"
SIGNING_CERTIFICATE_V2 = "1.2.840.113549.1.9.16.2.47"
TST_INFO = "1.2.840.113549.1.9.16.1.4"
_SIGNED_DATA = "1.2.840.113549.1.7.2"


@dataclass(frozen=True, slots=True)
class UnverifiedStatement:
    """A TSTInfo, read and not believed."""

    policy: str
    hash_oid: str
    digest: bytes
    serial: int
    gen_time: datetime
    accuracy: timedelta | None
    nonce: int | None = None


@dataclass(frozen=True, slots=True)
class UnverifiedToken:
    """The parts of a token that matter, read and not believed."""

    statement: UnverifiedStatement
    content: bytes
    certificates: tuple[x509.Certificate, ...]
    issuer: bytes
    serial: int
    hash: str
    signed: bytes
    attributes: dict[str, der.Element]
    signature_algorithm: str
    signature: bytes


def parse(token: bytes) -> UnverifiedToken:
    """Read a TimeStampToken (RFC 5652, 5.1; RFC 3161, 2.4.2). Verifies nothing."""
    envelope = der.parse(token, MAX_TOKEN).fields()
    _expect_oid(envelope.take(der.OID), _SIGNED_DATA)
    signed_data = _explicit(envelope.take(0xA0)).fields()
    envelope.end()

    if signed_data.take(der.INTEGER).to_integer() != 3:
        raise MalformedDerError("its signed data is not of version 3")
    signed_data.take(der.SET)
    encapsulated = signed_data.take(der.SEQUENCE).fields()
    certificates, _revocations = signed_data.maybe(0xA0), signed_data.maybe(0xA1)
    signers = signed_data.take(der.SET).children()
    signed_data.end()
    if len(signers) != 1:
        raise MalformedDerError("it has not exactly one signer")

    _expect_oid(encapsulated.take(der.OID), TST_INFO)
    content = _explicit(encapsulated.take(0xA0)).to_octets()
    encapsulated.end()

    signer = signers[0].fields()
    if signer.take(der.INTEGER).to_integer() != 1:
        raise MalformedDerError("its signer is not of version 1")
    name = signer.take(der.SEQUENCE).fields()
    issuer, serial = name.take(der.SEQUENCE).encoded, name.take(der.INTEGER).to_integer()
    name.end()
    hash_oid = read_algorithm(signer.take(der.SEQUENCE))
    attributes = signer.take(0xA0)
    signature_algorithm = read_algorithm(signer.take(der.SEQUENCE))
    signature = signer.take(der.OCTET_STRING).content
    signer.maybe(0xA1)  # Unsigned attributes: nothing in them is protected, so nothing is read.
    signer.end()
    if hash_oid not in HASHES:
        raise MalformedDerError("it is signed over a hash that is not accepted")
    return UnverifiedToken(
        _parse_statement(content),
        content,
        tuple(_certificates(certificates)),
        issuer,
        serial,
        HASHES[hash_oid],
        bytes((der.SET,)) + attributes.encoded[1:],
        _parse_attributes(attributes),
        signature_algorithm,
        signature,
    )


def _parse_statement(content: bytes) -> UnverifiedStatement:
    fields = der.parse(content, MAX_TOKEN).fields()
    if fields.take(der.INTEGER).to_integer() != 1:
        raise MalformedDerError("its statement is not of version 1")
    policy = fields.take(der.OID).to_oid()
    hash_oid, digest = read_imprint(fields.take(der.SEQUENCE))
    serial = fields.take(der.INTEGER).to_integer()
    gen_time = fields.take(der.GENERALIZED_TIME).to_time()
    accuracy, ordering, nonce = (
        fields.maybe(der.SEQUENCE),
        fields.maybe(der.BOOLEAN),
        fields.maybe(der.INTEGER),
    )
    fields.maybe(0xA0)  # The authority's name for itself; the certificate's is the one that counts.
    extensions = fields.maybe(0xA1)
    fields.end()
    if ordering is not None:
        ordering.to_boolean()
    if extensions is not None:
        raise MalformedDerError("its statement has extensions, which are not understood")
    return UnverifiedStatement(
        policy,
        hash_oid,
        digest,
        serial,
        gen_time,
        None if accuracy is None else _accuracy(accuracy),
        None if nonce is None else nonce.to_integer(),
    )


def _accuracy(element: der.Element) -> timedelta:
    fields = element.fields()
    seconds, millis, micros = fields.maybe(der.INTEGER), fields.maybe(0x80), fields.maybe(0x81)
    fields.end()
    whole = 0 if seconds is None else seconds.to_integer()
    parts = [0 if part is None else _implicit_integer(part) for part in (millis, micros)]
    if not 0 <= whole <= 86_400 or not all(0 <= part < 1000 for part in parts):
        raise MalformedDerError("its accuracy is out of bounds")
    return timedelta(seconds=whole, milliseconds=parts[0], microseconds=parts[1])


def _parse_attributes(attributes: der.Element) -> dict[str, der.Element]:
    found: dict[str, der.Element] = {}
    for attribute in attributes.children():
        fields = attribute.fields()
        kind, values = fields.take(der.OID).to_oid(), fields.take(der.SET).children()
        fields.end()
        if kind in found or len(values) != 1:
            raise MalformedDerError("a signed attribute stands twice, or has not one value")
        found[kind] = values[0]
    return found


def _certificates(element: der.Element | None) -> Iterator[x509.Certificate]:
    children = () if element is None else element.children()
    if len(children) > MAX_CERTIFICATES:
        raise MalformedDerError(f"it holds more than {MAX_CERTIFICATES} certificates")
    for child in children:
        try:
            yield read_certificate(child.encoded)
        except CertificateError as error:
            raise MalformedDerError("a certificate in it cannot be read") from error


def _explicit(element: der.Element) -> der.Element:
    children = element.children()
    if len(children) != 1:
        raise MalformedDerError("an explicit tag holds not exactly one element")
    return children[0]


def _implicit_integer(element: der.Element) -> int:
    return der.parse(der.tagged(der.INTEGER, element.content)).to_integer()


def _expect_oid(element: der.Element, dotted: str) -> None:
    if element.to_oid() != dotted:
        raise MalformedDerError("it is not a token of the kind RFC 3161 defines")
