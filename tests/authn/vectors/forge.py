"""Makes signed files, sound and flawed, to examine verifiers with.

Two writers: `sdk_signed` lets the SDK write, as a producer would. `Draft` writes
every byte of a JPEG's record itself, so that it can break any single rule and
keep all others; what it writes unbroken, the SDK and a second verifier accept.
Run as a program (`PYTHONPATH=. python tests/authn/vectors/forge.py`), it makes the files of this folder again.
"""

import binascii
import dataclasses
import hashlib
import io
import json
import struct
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import c2pa
import cbor2
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ed25519, padding, rsa, utils
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import ocsp
from PIL import Image

from authn import der, identity, keys
from authn.profile import Profile
from authn.signer import Lists
from authn.timestamp.authority import Authority, Safeguards, never_doubt, no_floor, serials_from
from authn.timestamp.request import TimeStampRequest
from authn.trust import Purpose, TrustList

OCSP_URL = "http://127.0.0.1:8888/ocsp/"
POLICY = "1.3.6.1.4.1.62558.1.1"
CAPTURE = "http://cv.iptc.org/newscodes/digitalsourcetype/digitalCapture"
JPEG, PNG, MP4, WAV = "image/jpeg", "image/png", "video/mp4", "audio/wav"


# --- Who signs


@dataclass(frozen=True)
class Who:
    """A key and the chain that goes with it; they need not belong together."""

    key: Any
    chain: tuple[x509.Certificate, ...]

    @property
    def pem(self) -> str:
        return identity.pem_chain(*self.chain).decode()

    def sign(self, message: bytes) -> bytes:
        if isinstance(self.key, rsa.RSAPrivateKey):
            return self.key.sign(message, padding.PSS(padding.MGF1(hashes.SHA256()), 32), hashes.SHA256())
        if isinstance(self.key, ed25519.Ed25519PrivateKey):
            return self.key.sign(message)
        return self.key.sign(message)

    @property
    def algorithm(self) -> int:
        kinds = ((rsa.RSAPrivateKey, -37), (ed25519.Ed25519PrivateKey, -8))
        return next((number for kind, number in kinds if isinstance(self.key, kind)), -7)


@dataclass(frozen=True)
class House:
    """A root, an issuing authority, and a camera under it."""

    root_key: keys.SigningKey
    root: x509.Certificate
    issuing_key: keys.SigningKey
    issuing: x509.Certificate
    camera: Who


@dataclass(frozen=True)
class Clock:
    """A time-stamping root and a unit under it."""

    root_key: keys.SigningKey
    root: x509.Certificate
    unit: Who

    def authority(self, at: datetime) -> Authority:
        unwatched = Safeguards(never_doubt, no_floor)
        return Authority(self.unit.key, self.unit.chain[:1], POLICY, lambda: at, serials_from(1), unwatched)

    def token(self, at: datetime, message: bytes) -> bytes:
        query = TimeStampRequest(hashlib.sha256(message).digest()).encode()
        return token_of(self.authority(at).respond(query))


def token_of(reply: bytes) -> bytes:
    """The token in a granted TimeStampResp, which begins with a status of five bytes."""
    head = 4 if reply[1] == 0x82 else 3
    return reply[head + 5 :]


def house(at: datetime, name: str = "Lab", days: int = 90, ocsp_url: str = OCSP_URL) -> House:
    root_key, issuing_key, key = keys.generate_p384(), keys.generate_p384(), keys.generate_p256()
    root = identity.plan_root(
        identity.Subject("DE", name, f"{name} Root"), root_key.public_key, serial(), at
    ).sign(root_key)
    issuing = identity.plan_issuing_ca(
        identity.Subject("DE", name, f"{name} Devices"),
        issuing_key.public_key,
        serial(),
        at,
        issuer=root,
        ocsp_url=ocsp_url,
    ).sign(root_key)
    leaf = identity.plan_claim_signing(
        identity.Subject("DE", name, f"{name} Camera"),
        key.public_key,
        serial(),
        at,
        issuer=issuing,
        ocsp_url=ocsp_url,
        days=days,
    ).sign(issuing_key)
    return House(root_key, root, issuing_key, issuing, Who(key, (leaf, issuing)))


def clock(at: datetime, name: str = "Lab", ocsp_url: str = OCSP_URL) -> Clock:
    root_key, key = keys.generate_p384(), keys.generate_p256()
    root = identity.plan_time_stamping_root(
        identity.Subject("DE", name, f"{name} Clock Root"), root_key.public_key, serial(), at
    ).sign(root_key)
    leaf = identity.plan_time_stamping(
        identity.Subject("DE", name, f"{name} Clock"),
        key.public_key,
        serial(),
        at,
        issuer=root,
        ocsp_url=ocsp_url,
    ).sign(root_key)
    return Clock(root_key, root, Who(key, (leaf,)))


def serial() -> int:
    return x509.random_serial_number() | 1 << 64


def remade(
    certificate: x509.Certificate,
    issuer_key: keys.SigningKey,
    *,
    put: Sequence[tuple[x509.ExtensionType, bool]] = (),
    drop: Sequence[x509.ObjectIdentifier] = (),
    issuer: x509.Name | None = None,
    public_key: Any = None,
    not_before: datetime | None = None,
    not_after: datetime | None = None,
) -> x509.Certificate:
    """`certificate` again with something changed."""
    builder = (
        x509.CertificateBuilder()
        .subject_name(certificate.subject)
        .issuer_name(issuer or certificate.issuer)
        .public_key(public_key or certificate.public_key())
        .serial_number(serial())
        .not_valid_before(not_before or certificate.not_valid_before_utc)
        .not_valid_after(not_after or certificate.not_valid_after_utc)
    )
    left_out = {*drop, *(value.oid for value, _ in put)}
    for extension in certificate.extensions:
        if extension.oid not in left_out:
            builder = builder.add_extension(extension.value, extension.critical)
    for value, critical in put:
        builder = builder.add_extension(value, critical)
    return builder.sign(issuer_key.private, hashes.SHA384())


def lists(
    signers: Iterable[x509.Certificate],
    time_stampers: Iterable[x509.Certificate] = (),
    profile: Profile = Profile.POLICY,
) -> Lists:
    stamping = tuple(time_stampers)
    signing = TrustList.parse(identity.pem_chain(*signers), "lab signers", Purpose.SIGNING, profile)
    clocks = [identity.pem_chain(*stamping)] if stamping else []
    return Lists(
        (signing,),
        tuple(
            TrustList.parse(pem, "lab clocks", Purpose.TIME_STAMPING, Profile.TIME_STAMPING) for pem in clocks
        ),
    )


ANY_BINDING = {"exclusions": [], "name": "n", "alg": "sha256", "hash": bytes(32), "pad": b""}


# --- What is signed


def picture(kind: str = "JPEG", seed: int = 1) -> bytes:
    """A small picture that no two seeds share."""
    image = Image.new("RGB", (48, 32))
    stream = hashlib.shake_256(bytes([seed])).digest(48 * 32)
    image.putdata([(value, (value * 3) % 256, 255 - value) for value in stream])
    out = io.BytesIO()
    image.save(out, kind)
    return out.getvalue()


def film() -> bytes:
    """The boxes of an MP4 with one empty track list and some payload; nobody needs to play it."""
    mvhd = atom(b"mvhd", bytes(12), struct.pack(">II", 1000, 1000), bytes(76), struct.pack(">I", 2))
    return (
        atom(b"ftyp", b"isom", bytes(4), b"isommp41")
        + atom(b"moov", mvhd)
        + atom(b"mdat", hashlib.shake_256(b"film").digest(2000))
    )


def atom(kind: bytes, *content: bytes) -> bytes:
    body = b"".join(content)
    return struct.pack(">I", 8 + len(body)) + kind + body


def actions(*more: dict[str, Any], source: str = CAPTURE, **fields: Any) -> dict[str, Any]:
    created = {"action": "c2pa.created", "digitalSourceType": source, **fields}
    return {"label": "c2pa.actions.v2", "created": True, "data": {"actions": [created, *more]}}


# --- The SDK as the writer

_WRITING: dict[str, Any] = {
    "trust": {"trust_config": "1.3.6.1.5.5.7.3.4\n1.3.6.1.5.5.7.3.36\n1.3.6.1.4.1.62558.2.1"},
    "verify": {"remote_manifest_fetch": False, "ocsp_fetch": False, "verify_after_sign": False},
    "core": {"allowed_network_hosts": ["127.0.0.1"]},
    "builder": {"thumbnail": {"enabled": False}, "bmff_hash_exclude_free_and_skip_boxes": False},
}


def sdk_signed(
    media: bytes,
    who: Who,
    mime: str = JPEG,
    *,
    parent: bytes | None = None,
    intent: str = "edit",
    claim: dict[str, Any] | None = None,
    url: str | None = None,
    settings: dict[str, dict[str, Any]] | None = None,
) -> bytes:
    """What a producer with the SDK would write; with `parent`, as an edit or update of it."""
    body = {"claim_generator_info": [{"name": "lab", "version": "1"}], "title": "t"}
    body |= {"assertions": [] if parent else [actions()]} | (claim or {})
    chosen = {key: value | (settings or {}).get(key, {}) for key, value in _WRITING.items()}
    out = io.BytesIO()
    with (
        c2pa.Context.from_dict(chosen) as context,
        c2pa.Signer.from_callback(who.sign, c2pa.C2paSigningAlg.ES256, who.pem, url) as signer,
        c2pa.Builder(json.dumps(body), context) as builder,
    ):
        if parent is not None:
            builder.set_intent(c2pa.C2paBuilderIntent[intent.upper()])
            ingredient = json.dumps({"title": "parent", "relationship": "parentOf"})
            builder.add_ingredient(ingredient, mime, io.BytesIO(parent))
        builder.sign(signer, mime, io.BytesIO(media), out)
    return out.getvalue()


# --- Our own writer, for JPEG


def jumbf_box(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", 8 + len(content)) + kind + content


def superbox(kind: bytes, label: str, *children: bytes) -> bytes:
    description = kind + bytes.fromhex("00110010800000aa00389b71") + b"\x03" + label.encode() + b"\0"
    return jumbf_box(b"jumb", jumbf_box(b"jumd", description) + b"".join(children))


def cbor_assertion(label: str, content: Any) -> tuple[str, bytes]:
    return label, superbox(b"cbor", label, jumbf_box(b"cbor", cbor2.dumps(content)))


Stamp = Callable[[bytes], bytes]


@dataclass
class Draft:
    """A record that is not written yet. Every field is a way to lie."""

    media: bytes
    who: Who
    label: str = "urn:c2pa:00000000-0000-4000-8000-000000000001"
    version: int = 2
    assertions: list[tuple[str, bytes]] = field(default_factory=list)
    claim: dict[str, Any] = field(default_factory=dict)
    undeclared: list[tuple[str, bytes]] = field(default_factory=list)
    before: list[bytes] = field(default_factory=list)
    stamps: list[Stamp] = field(default_factory=list)
    stamp_name: str = "sigTst2"
    unprotected: dict[str, Any] = field(default_factory=dict)
    exclude: list[tuple[int, int]] = field(default_factory=list)
    enlarge: int = 0
    binding_label: str | None = "c2pa.hash.data"
    reserve: int = 6000
    compress: Callable[[bytes], bytes] | None = None

    def write(self) -> bytes:
        """The file. `exclude` counts from the end of the record, as the attacker sees the media."""
        place = 20 if self.media[2:4] == b"\xff\xe0" else 2
        framed = len(segments(self._store(0, [])))
        while True:  # a compressed record's length is not known before it is signed
            exclusions = self._exclusions(place, framed)
            whole = self.media[:place] + bytes(framed) + self.media[place:]
            record = segments(self._store(hashed(whole, exclusions), exclusions))
            if len(record) == framed:
                return self.media[:place] + record + self.media[place:]
            framed = len(record)

    def _exclusions(self, place: int, framed: int) -> list[tuple[int, int]]:
        return [
            (place, framed + self.enlarge),
            *((place + framed + start, length) for start, length in self.exclude),
        ]

    def _store(self, digest: bytes | int, exclusions: list[tuple[int, int]]) -> bytes:
        binding = {
            "exclusions": [{"start": start, "length": length} for start, length in exclusions],
            "name": "jumbf manifest",
            "alg": "sha256",
            "hash": digest or bytes(32),
            "pad": b"",
        }
        held = list(self.assertions)
        if self.version == 2 and not any(label.startswith("c2pa.actions") for label, _ in held):
            data = {"actions": [{"action": "c2pa.created", "digitalSourceType": CAPTURE}]}
            held.append(cbor_assertion("c2pa.actions.v2", data))
        if self.binding_label:
            held.append(cbor_assertion(self.binding_label, binding))
        declared = [
            {"url": f"self#jumbf=c2pa.assertions/{name}", "hash": hashlib.sha256(box[8:]).digest()}
            for name, box in held
        ]
        claim = {
            "instanceID": "xmp:iid:1",
            "signature": f"self#jumbf=/c2pa/{self.label}/c2pa.signature",
            "alg": "sha256",
        }
        if self.version == 2:
            claim |= {"claim_generator_info": {"name": "forge"}, "created_assertions": declared}
        else:
            claim |= {"claim_generator": "forge", "dc:format": JPEG, "assertions": declared}
        encoded = cbor2.dumps(claim | self.claim)
        name = "c2pa.claim.v2" if self.version == 2 else "c2pa.claim"
        manifest = superbox(
            b"c2ma",
            self.label,
            superbox(b"c2as", "c2pa.assertions", *(box for _, box in [*held, *self.undeclared])),
            superbox(b"c2cl", name, jumbf_box(b"cbor", encoded)),
            superbox(b"c2cs", "c2pa.signature", jumbf_box(b"cbor", self._signature(encoded))),
        )
        if self.compress:
            manifest = superbox(b"c2cm", self.label, jumbf_box(b"brob", self.compress(manifest)))
        return superbox(b"c2pa", "c2pa", *self.before, manifest)

    def _signature(self, claim: bytes) -> bytes:
        chain = [certificate.public_bytes(Encoding.DER) for certificate in self.who.chain]
        protected = cbor2.dumps({1: self.who.algorithm, 33: chain if len(chain) > 1 else chain[0]})
        signature = self.who.sign(cbor2.dumps(["Signature1", protected, b"", claim]))
        payload = cbor2.dumps(signature) if self.stamp_name == "sigTst2" else claim
        message = cbor2.dumps(["CounterSignature", protected, b"", payload])
        unprotected = dict(self.unprotected)
        if self.stamps:
            unprotected[self.stamp_name] = {"tstTokens": [{"val": stamp(message)} for stamp in self.stamps]}
        for size in range(self.reserve, 0, -1):
            filled = {**unprotected, "pad": bytes(size)}
            box = cbor2.dumps(cbor2.CBORTag(18, [protected, filled, None, signature]))
            if len(box) <= self.reserve:
                return box
        raise ValueError("the reserve is too small")


def hashed(data: bytes, exclusions: Sequence[tuple[int, int]]) -> bytes:
    """SHA-256 of what no range excludes (C2PA 2.2, 9.2.1)."""
    left = bytearray(data)
    for start, length in sorted(exclusions, reverse=True):
        del left[start : start + length]
    return hashlib.sha256(left).digest()


def segments(store: bytes) -> bytes:
    """The APP11 segments that hold a store (ISO/IEC 18477-3, Annex B)."""
    size, out = 60_000, b""
    for number, position in enumerate(range(8, len(store), size), 1):
        piece = store[position : position + size]
        head = b"JP" + struct.pack(">HI", 1, number) + store[:8]
        out += b"\xff\xeb" + struct.pack(">H", 2 + len(head) + len(piece)) + head + piece
    return out


def record_range(jpeg: bytes) -> tuple[int, int]:
    """Where the APP11 segments of a JPEG begin and end."""
    start = end = jpeg.index(b"\xff\xeb")
    while jpeg[end : end + 2] == b"\xff\xeb":
        end += 2 + struct.unpack_from(">H", jpeg, end + 2)[0]
    return start, end


def stripped(jpeg: bytes) -> bytes:
    start, end = record_range(jpeg)
    return jpeg[:start] + jpeg[end:]


def stored(jpeg: bytes) -> bytes:
    """The store in a JPEG whose record is one segment."""
    start, end = record_range(jpeg)
    return jpeg[start + 12 : end]


def manifest_boxes(store: bytes) -> list[bytes]:
    """The manifests of a store, each as a whole box."""
    found, position = [], 8 + struct.unpack_from(">I", store, 8)[0]
    while position < len(store):
        (length,) = struct.unpack_from(">I", store, position)
        found.append(store[position : position + length])
        position += length
    return found


def chunk(kind: bytes, content: bytes) -> bytes:
    """A PNG chunk."""
    return (
        struct.pack(">I", len(content)) + kind + content + struct.pack(">I", binascii.crc32(kind + content))
    )


def flipped(data: bytes, position: int, bits: int = 1) -> bytes:
    out = bytearray(data)
    out[position] ^= bits
    return bytes(out)


# --- More than one file in a record, and what stands beside one


def sdk_made(
    media: bytes,
    who: Who,
    mime: str = JPEG,
    *,
    ingredients: Sequence[tuple[str, bytes]] = (),
    claim: dict[str, Any] | None = None,
    settings: dict[str, dict[str, Any]] | None = None,
    resources: Mapping[str, bytes] | None = None,
    remote: str | None = None,
) -> bytes:
    """What a producer with the SDK would write of several `ingredients`, each a relationship and a file.

    With `remote` the record stays out of the file, which names the address instead.
    """
    body = {"claim_generator_info": [{"name": "lab", "version": "1"}], "title": "t"}
    body |= {"assertions": [actions()]} | (claim or {})
    chosen = {key: value | (settings or {}).get(key, {}) for key, value in _WRITING.items()}
    out = io.BytesIO()
    with (
        c2pa.Context.from_dict(chosen) as context,
        c2pa.Signer.from_callback(who.sign, c2pa.C2paSigningAlg.ES256, who.pem) as signer,
        c2pa.Builder(json.dumps(body), context) as builder,
    ):
        for number, (relationship, file) in enumerate(ingredients):
            ingredient = {"title": f"file {number}", "relationship": relationship}
            builder.add_ingredient(json.dumps(ingredient), mime, io.BytesIO(file))
        for name, content in (resources or {}).items():
            builder.add_resource(name, io.BytesIO(content))
        if remote is not None:
            builder.set_no_embed()
            builder.set_remote_url(remote)
        builder.sign(signer, mime, io.BytesIO(media), out)
    return out.getvalue()


def token_by_hand(who: Who, at: datetime, message: bytes) -> bytes:
    """A token of any time by any certificate; the authority refuses to give most of those."""
    leaf, sha256 = who.chain[0], der.sequence(der.oid("2.16.840.1.101.3.4.2.1"))
    kind = der.oid("1.2.840.113549.1.9.16.1.4")
    statement = der.sequence(
        der.integer(1),
        der.oid(POLICY),
        der.sequence(sha256, der.octets(hashlib.sha256(message).digest())),
        der.integer(serial()),
        der.generalized_time(at),
    )

    def attribute(oid: str, value: bytes) -> bytes:
        return der.sequence(der.oid(oid), der.tagged(der.SET, value))

    raw = leaf.public_bytes(Encoding.DER)
    named = der.sequence(der.sequence(der.sequence(der.octets(hashlib.sha256(raw).digest()))))
    attributes = sorted(
        (
            attribute("1.2.840.113549.1.9.3", kind),
            attribute("1.2.840.113549.1.9.4", der.octets(hashlib.sha256(statement).digest())),
            attribute("1.2.840.113549.1.9.16.2.47", named),
        )
    )
    pair = who.sign(der.tagged(der.SET, *attributes))
    r, s = int.from_bytes(pair[:32], "big"), int.from_bytes(pair[32:], "big")
    signer = der.sequence(
        der.integer(1),
        der.sequence(leaf.issuer.public_bytes(), der.integer(leaf.serial_number)),
        sha256,
        der.tagged(0xA0, *attributes),
        der.sequence(der.oid("1.2.840.10045.4.3.2")),
        der.octets(utils.encode_dss_signature(r, s)),
    )
    signed = der.sequence(
        der.integer(3),
        der.set_of(sha256),
        der.sequence(kind, der.tagged(0xA0, der.octets(statement))),
        der.tagged(0xA0, raw),
        der.set_of(signer),
    )
    return der.sequence(der.oid("1.2.840.113549.1.7.2"), der.tagged(0xA0, signed))


def ocsp_answer(
    certificate: x509.Certificate,
    issuer: x509.Certificate,
    issuer_key: keys.SigningKey,
    at: datetime,
    revoked: datetime | None = None,
) -> bytes:
    """The issuer's own answer about a certificate, good or withdrawn since `revoked` for a stolen key."""
    status = ocsp.OCSPCertStatus.GOOD if revoked is None else ocsp.OCSPCertStatus.REVOKED
    return (
        ocsp.OCSPResponseBuilder()
        .add_response(
            cert=certificate,
            issuer=issuer,
            algorithm=hashes.SHA256(),
            cert_status=status,
            this_update=at - timedelta(hours=1),
            next_update=at + timedelta(days=7),
            revocation_time=revoked,
            revocation_reason=None if revoked is None else x509.ReasonFlags.key_compromise,
        )
        .responder_id(ocsp.OCSPResponderEncoding.HASH, issuer)
        .sign(issuer_key.private, hashes.SHA384())
        .public_bytes(Encoding.DER)
    )


def children(box: bytes) -> list[bytes]:
    """The boxes in a superbox, each whole; the first is its description."""
    found, position = [], 8
    while position < len(box):
        (length,) = struct.unpack_from(">I", box, position)
        found.append(box[position : position + length])
        position += length
    return found


def label_of(box: bytes) -> str:
    """The label of a superbox."""
    return children(box)[0][25:].partition(b"\0")[0].decode()


def without(manifest: bytes, label: str) -> bytes:
    """A manifest box that has lost the assertion `label`, with every length put right."""
    parts = children(manifest)
    for position, part in enumerate(parts[1:], 1):
        if label_of(part) == "c2pa.assertions":
            kept = [child for child in children(part)[1:] if label_of(child) != label]
            parts[position] = jumbf_box(b"jumb", b"".join((children(part)[0], *kept)))
    return jumbf_box(b"jumb", b"".join(parts))


def ingredient(manifest: bytes, *codes: str) -> tuple[str, bytes]:
    """A parent whose manifest is the box `manifest`; its maker says that the checks `codes` went well."""
    label = label_of(manifest)
    (signature,) = (part for part in children(manifest)[1:] if label_of(part) == "c2pa.signature")
    uri = f"self#jumbf=/c2pa/{label}"
    passed = [{"code": code, "url": f"{uri}/c2pa.assertions/c2pa.hash.data"} for code in codes]
    said = {"success": passed, "informational": [], "failure": []}
    content = {
        "dc:title": "parent",
        "dc:format": JPEG,
        "relationship": "parentOf",
        "validationResults": {"activeManifest": said},
        "activeManifest": {"url": uri, "hash": hashlib.sha256(manifest[8:]).digest()},
        "claimSignature": {
            "url": f"{uri}/c2pa.signature",
            "hash": hashlib.sha256(signature[8:]).digest(),
        },
    }
    return cbor_assertion("c2pa.ingredient.v3", content)


def opened(assertion: tuple[str, bytes], *more: dict[str, Any]) -> tuple[str, bytes]:
    """The actions of an edit that opened what `assertion` is about."""
    label, box = assertion
    link = {"url": f"self#jumbf=c2pa.assertions/{label}", "hash": hashlib.sha256(box[8:]).digest()}
    first = {"action": "c2pa.opened", "parameters": {"ingredients": [link]}}
    return cbor_assertion("c2pa.actions.v2", {"actions": [first, *more]})


def sound(seed: int = 1) -> bytes:
    """A quarter of a second of noise, as WAV."""
    samples = hashlib.shake_256(bytes([seed])).digest(4000)
    head = b"WAVEfmt " + struct.pack("<IHHIIHH", 16, 1, 1, 8000, 16000, 2, 16)
    body = head + b"data" + struct.pack("<I", len(samples)) + samples
    return b"RIFF" + struct.pack("<I", len(body)) + body


def with_address(jpeg: bytes, url: str) -> bytes:
    """A JPEG whose XMP says that its record is kept at `url` (C2PA 2.2, 11.5)."""
    xmp = (
        b"http://ns.adobe.com/xap/1.0/\0"
        b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
        b'<rdf:Description rdf:about="" xmlns:dcterms="http://purl.org/dc/terms/" dcterms:provenance="'
        + url.encode()
        + b'"/></rdf:RDF></x:xmpmeta>'
    )
    return jpeg[:20] + b"\xff\xe1" + struct.pack(">H", 2 + len(xmp)) + xmp + jpeg[20:]


# --- The files of this folder


def vectors(at: datetime) -> dict[str, bytes]:
    """Name and bytes of every file here; keys are thrown away with this process.

    The SDK signs with nothing that has expired, so `at` is the day they are made;
    `signed_at.txt` tells the tests which day that was.
    """
    lab, dial = house(at - timedelta(days=30)), clock(at - timedelta(days=30))
    picture_ = picture()
    good = Draft(picture_, lab.camera, stamps=[lambda message: dial.token(at, message)])
    whole = good.write()
    again = dataclasses.replace(good, label="urn:c2pa:00000000-0000-4000-8000-000000000002")
    return {
        "signed_at.txt": f"{at.isoformat()}\n".encode(),
        "signers.pem": identity.pem_chain(lab.root),
        "clocks.pem": identity.pem_chain(dial.root),
        "sound.jpg": whole,
        "pixel_changed.jpg": flipped(whole, len(whole) - 40),
        "two_tokens.jpg": dataclasses.replace(good, stamps=good.stamps * 2, reserve=9000).write(),
        "excludes_pixels.jpg": dataclasses.replace(good, enlarge=60).write(),
        "two_bindings.jpg": dataclasses.replace(
            good, assertions=[cbor_assertion("c2pa.hash.data__1", ANY_BINDING)]
        ).write(),
        "stray_manifest.jpg": dataclasses.replace(again, before=manifest_boxes(stored(whole))).write(),
        "edit_of_changed.jpg": sdk_signed(picture_, lab.camera, parent=flipped(whole, len(whole) - 40)),
        "updated.jpg": sdk_signed(whole, lab.camera, parent=whole, intent="update"),
        "film.mp4": sdk_signed(film(), lab.camera, MP4),
        "film_by_others.mp4": sdk_signed(
            film(), lab.camera, MP4, settings={"builder": {"bmff_hash_exclude_free_and_skip_boxes": True}}
        ),
    }


if __name__ == "__main__":
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent
    today = datetime.now(UTC).replace(microsecond=0)
    for name_, content_ in vectors(today).items():
        (folder / name_).write_bytes(content_)
