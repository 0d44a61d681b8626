"""Our own check of a claim's signature (RFC 9052, 4.4; C2PA 2.2, section 13.2).

Verifies the signature under the key of the certificate that came with it, and
hands out the chain and the time-stamp tokens. Says nothing of whether the
certificate deserves belief; `authn.profile` and `authn.chain` do.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa, utils

from authn import cbor
from authn.chain import read_certificate, unreadable
from authn.errors import CertificateError, MediaError

MAX_CHAIN = 10
MAX_TOKEN = 64 << 10
MAX_ANSWERS = 8

_ECDSA: dict[int, hashes.HashAlgorithm] = {-7: hashes.SHA256(), -35: hashes.SHA384(), -36: hashes.SHA512()}
_CURVES = frozenset({"secp256r1", "secp384r1", "secp521r1"})
_PSS: dict[int, hashes.HashAlgorithm] = {-37: hashes.SHA256(), -38: hashes.SHA384(), -39: hashes.SHA512()}
_EDDSA = -8


class MalformedSignatureError(MediaError):
    """The signature box is not a COSE_Sign1 that can be checked."""

    code = "signature-malformed"


@dataclass(frozen=True, slots=True)
class Stamp:
    """A time-stamp token and the bytes its imprint must be over."""

    token: bytes
    message: bytes
    over_signature: bool


@dataclass(frozen=True, slots=True)
class ClaimSignature:
    """A COSE_Sign1 over a detached claim. Unverified."""

    protected: bytes
    algorithm: int
    signature: bytes
    chain: tuple[x509.Certificate, ...]
    chain_protected: bool
    stamp: Stamp | None
    stamp_count: int
    padding_empty: bool
    answers: tuple[bytes, ...] = ()
    """OCSP answers stapled to the signature (`rVals`)."""

    def message(self, claim: bytes) -> bytes:
        """The bytes that are signed: a Sig_structure that ends in the claim (RFC 9052, 4.4)."""
        return cbor.encode(["Signature1", self.protected, b"", claim])

    def verifies(self, claim: bytes) -> bool:
        """Whether the leaf's key signed exactly this claim, by an allowed algorithm."""
        try:
            return _verify(self.chain[0].public_key(), self.algorithm, self.signature, self.message(claim))
        except (InvalidSignature, UnsupportedAlgorithm, ValueError):
            return False


def parse(box: bytes, claim: bytes) -> ClaimSignature:
    """Take a claim signature box apart."""
    value = cbor.decode(box)
    if isinstance(value, cbor.Tag) and value.number == 18:
        value = value.value
    match value:
        case [bytes(protected), dict(unprotected), None | b"", bytes(signature)]:
            pass
        case _:
            raise MalformedSignatureError("the signature is not a COSE_Sign1 with a detached claim")
    header = cbor.decode(protected) if protected else {}
    if not isinstance(header, dict) or not isinstance(algorithm := header.get(1), int):
        raise MalformedSignatureError("the signature does not name its algorithm where it is protected")
    protected_chain = header.get(33, header.get("x5chain"))
    chain = (
        protected_chain if protected_chain is not None else unprotected.get(33, unprotected.get("x5chain"))
    )
    stamps = _stamps(unprotected, protected, signature, claim)
    return ClaimSignature(
        protected,
        algorithm,
        signature,
        _certificates(chain),
        protected_chain is not None,
        stamps[0] if len(stamps) == 1 else None,
        len(stamps),
        _padding_empty(unprotected),
        tuple(_answers(unprotected.get("rVals"))),
    )


def _certificates(value: cbor.Value) -> tuple[x509.Certificate, ...]:
    blobs = value if isinstance(value, list) else [value]
    if not 0 < len(blobs) <= MAX_CHAIN:
        raise MalformedSignatureError("the signature carries no certificate chain, or an endless one")
    try:
        chain = tuple(read_certificate(_bytes(blob)) for blob in blobs)
    except CertificateError as error:
        raise MalformedSignatureError("a certificate of the signature cannot be read") from error
    if reason := next(filter(None, map(unreadable, chain)), None):
        raise MalformedSignatureError(f"a certificate of the signature {reason}")
    return chain


def _bytes(blob: cbor.Value) -> bytes:
    if not isinstance(blob, bytes):
        raise MalformedSignatureError("a certificate of the signature is not bytes")
    return blob


def _stamps(
    unprotected: dict[str | int | bytes, cbor.Value], protected: bytes, signature: bytes, claim: bytes
) -> list[Stamp]:
    """C2PA 2.2, 10.3.2.5: sigTst2 dates the finished signature, the older sigTst only the claim."""
    found: list[Stamp] = []
    for name, payload in (("sigTst2", cbor.encode(signature)), ("sigTst", claim)):
        box = unprotected.get(name)
        tokens = box.get("tstTokens") if isinstance(box, dict) else None
        message = cbor.encode(["CounterSignature", protected, b"", payload])
        for token in tokens if isinstance(tokens, list) else []:
            value = token.get("val") if isinstance(token, dict) else None
            if isinstance(value, bytes) and len(value) <= MAX_TOKEN:
                found.append(Stamp(value, message, name == "sigTst2"))
    return found


def _answers(stapled: cbor.Value) -> Iterator[bytes]:
    listed = stapled.get("ocspVals") if isinstance(stapled, dict) else None
    for answer in listed[:MAX_ANSWERS] if isinstance(listed, list) else ():
        if isinstance(answer, bytes) and len(answer) <= MAX_TOKEN:
            yield answer


def _padding_empty(unprotected: dict[str | int | bytes, cbor.Value]) -> bool:
    pads = [unprotected.get("pad"), unprotected.get("pad2")]
    return all(pad is None or (isinstance(pad, bytes) and not any(pad)) for pad in pads)


def _verify(key: object, algorithm: int, signature: bytes, message: bytes) -> bool:
    if isinstance(key, ec.EllipticCurvePublicKey) and algorithm in _ECDSA:
        # C2PA 2.2, 13.2.1 allows each ECDSA algorithm with any of the three curves.
        size = (key.curve.key_size + 7) // 8
        if key.curve.name not in _CURVES or len(signature) != 2 * size:
            return False
        r, s = int.from_bytes(signature[:size], "big"), int.from_bytes(signature[size:], "big")
        key.verify(utils.encode_dss_signature(r, s), message, ec.ECDSA(_ECDSA[algorithm]))
        return True
    if isinstance(key, rsa.RSAPublicKey) and algorithm in _PSS:
        if key.key_size < 2048:
            return False
        hash_ = _PSS[algorithm]
        key.verify(signature, message, padding.PSS(padding.MGF1(hash_), hash_.digest_size), hash_)
        return True
    if isinstance(key, ed25519.Ed25519PublicKey) and algorithm == _EDDSA:
        key.verify(signature, message)
        return True
    return False
