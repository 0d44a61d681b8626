"""Ask for a certificate and read such a request (RFC 2986).

A request is a public key and the proof that its sender has the private one.
Nothing else in it counts: what a certificate says is decided by whoever issues
it, so a subject and extensions that were asked for are neither used nor kept.
Whether the key may be certified at all, and for whom, is decided elsewhere.
"""

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import Encoding

from authn import der
from authn.custody.adapter import private_key
from authn.errors import CertificateError, KeyNotOursError, MalformedDerError
from authn.keys import Algorithm, KeyProvider, PublicKey, algorithm_of
from authn.statement import UNREADABLE

MAX_REQUEST = 8 << 10

_DIGESTS: dict[Algorithm, hashes.SHA256 | hashes.SHA384] = {
    Algorithm.ES256: hashes.SHA256(),
    Algorithm.ES384: hashes.SHA384(),
}


class RequestError(CertificateError):
    """A certificate request that proves nothing."""

    code = "csr-unusable"
    remedy = "Make a new request with the key that is to be certified: P-256, P-384 or Ed25519."


class RequestSignatureError(RequestError):
    """The request was not signed with the key that it asks for."""

    code = "csr-signature"


def make_request(key: KeyProvider) -> bytes:
    """The request for a certificate of `key`, in DER: no name, no wishes, one signature."""
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
    return builder.sign(private_key(key), _DIGESTS.get(key.algorithm)).public_bytes(Encoding.DER)


def read_request(data: bytes) -> PublicKey:
    """The key that a request in DER asks for, if the request is signed with it."""
    if len(data) > MAX_REQUEST:
        raise RequestError(f"a certificate request has at most {MAX_REQUEST >> 10} KiB")
    try:
        der.parse(data, MAX_REQUEST).fields()
        request = x509.load_der_x509_csr(data)
        public_key = request.public_key()
    except (MalformedDerError, *UNREADABLE) as error:
        raise RequestError("the certificate request cannot be read") from error
    if not isinstance(public_key, ec.EllipticCurvePublicKey | ed25519.Ed25519PublicKey):
        raise KeyNotOursError("a key is neither on P-256 nor P-384 nor Ed25519")
    algorithm_of(public_key)
    if not _holds(request, public_key):
        raise RequestSignatureError("the request was not signed with the key that it asks for")
    return public_key


def _holds(request: x509.CertificateSigningRequest, public_key: PublicKey) -> bool:
    signed, signature = request.tbs_certrequest_bytes, request.signature
    try:
        if isinstance(public_key, ed25519.Ed25519PublicKey):
            public_key.verify(signature, signed)
            return True
        digest = request.signature_hash_algorithm
        if not isinstance(digest, hashes.SHA256 | hashes.SHA384 | hashes.SHA512):
            return False
        public_key.verify(signature, signed, ec.ECDSA(digest))
    except (InvalidSignature, *UNREADABLE):
        return False
    return True
