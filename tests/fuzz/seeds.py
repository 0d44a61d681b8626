"""What fuzzing starts from: the test vectors of `authn` and `storage`, and parts of them.

The same bytes every time, so that a run can be repeated: what has to be signed
here is signed with Ed25519 under a fixed key, which leaves nothing to chance.
"""

import base64
import binascii
import functools
import importlib.util
import io
import json
import struct
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import cbor2
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ed25519
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import ocsp
from cryptography.x509.oid import NameOID
from PIL import Image

from authn import cose, jumbf
from authn.timestamp import unverified
from authn.timestamp.request import TimeStampRequest
from storage import payload
from storage.note import VerifierKey

MEDIA = Path(__file__).parents[1] / "authn" / "vectors"
RECORDS = Path(__file__).parents[1] / "storage" / "vectors"
MADE_AT = datetime(2030, 1, 1, tzinfo=UTC)


@functools.cache
def forge() -> Any:
    spec = importlib.util.spec_from_file_location("forge", MEDIA / "forge.py")
    if spec is None or spec.loader is None:
        raise ImportError("tests/authn/vectors/forge.py is not there")
    module = sys.modules.setdefault("forge", importlib.util.module_from_spec(spec))
    if not hasattr(module, "Draft"):
        spec.loader.exec_module(module)
    return module


@functools.cache
def key() -> VerifierKey:
    return VerifierKey.parse((RECORDS / "key.txt").read_text().strip())


def drafts() -> Iterator[bytes]:
    created = {"actions": [{"action": "c2pa.created", "when": "2026-01-01T00:00:00Z"}]}
    camera = {"@context": {"exif": "http://ns.adobe.com/exif/1.0/"}, "exif:Make": "x"}
    ingredient = {
        "dc:title": "t",
        "dc:format": "image/jpeg",
        "instanceID": "x",
        "relationship": "parentOf",
        "activeManifest": {"url": "self#jumbf=/c2pa/urn:c2pa:1", "hash": bytes(32)},
        "validationResults": {"activeManifest": {"success": [{"code": "x", "url": "y"}], "failure": []}},
    }
    data_hash = {"exclusions": [{"start": 20, "length": 40}], "alg": "sha256", "hash": bytes(32), "pad": b""}
    bmff = {"exclusions": [{"xpath": "/uuid", "data": [{"offset": 8, "value": b"x"}]}], "hash": bytes(32)}
    parts = {"boxes": [{"names": ["C2PA"], "hash": b"", "pad": b""}], "alg": "sha256"}
    stamp = {"sigTst2": {"tstTokens": [{"val": b"x"}]}, "rVals": {"ocspVals": [b"x"]}}
    bound = ({"url": "self#jumbf=c2pa.assertions/x", "hash": bytes(32), "alg": "sha256"},)
    for fields, held, header in (
        ({}, [["c2pa.actions.v2", created]], {}),
        ({"redacted_assertions": ["self#jumbf=/c2pa/u/c2pa.assertions/x"]}, [], stamp),
        ({"gathered_assertions": list(bound)}, [["stds.exif", camera]], {"x5chain": b"x"}),
        ({"alg": "sha512"}, [["c2pa.actions.v2", created], ["c2pa.ingredient.v3", ingredient]], {}),
        ({}, [["c2pa.hash.data__1", data_hash]], {}),
        ({}, [["c2pa.hash.bmff.v3", bmff]], {}),
        ({}, [["c2pa.hash.boxes", parts]], {}),
        ({}, [["cawg.identity", {"signer_payload": {"sig_type": "x"}, "signature": b"x", "pad1": b""}]], {}),
        ({}, [["c2pa.time-stamp", {"urn:c2pa:1": b"x"}], ["cawg.training-mining", {"entries": {}}]], {}),
    ):
        yield cbor2.dumps([fields, held, header])


def files(folder: Path, *patterns: str) -> Iterator[bytes]:
    for pattern in patterns:
        for path in sorted(folder.glob(pattern)):
            yield path.read_bytes()


@functools.cache
def stores() -> tuple[bytes, ...]:
    found = []
    for data in files(MEDIA, "*.jpg"):
        at = data.index(b"\xff\xeb") + 12
        found.append(data[at : at + int.from_bytes(data[at : at + 4], "big")])
    return tuple(found)


def claims() -> Iterator[bytes]:
    for store in stores():
        for manifest in jumbf.parse(store):
            yield manifest.claim
            yield from (held.content for held in manifest.assertions if held.type == b"cbor")


def signatures() -> Iterator[bytes]:
    """One box with a token and one without; the rest differ in bytes that mean nothing."""
    boxes = [manifest.signature for store in stores() for manifest in jumbf.parse(store)]
    stamped = [box for box in boxes if b"sigTst2" in box]
    yield from (stamped[0], next(box for box in boxes if b"sigTst2" not in box))


def tokens() -> Iterator[bytes]:
    for box in signatures():
        stamp = cose.parse(box, b"").stamp
        if stamp is not None:
            yield stamp.token


def certificates() -> Iterator[bytes]:
    for box in signatures():
        yield from (certificate.public_bytes(Encoding.DER) for certificate in cose.parse(box, b"").chain)
    for token in tokens():
        yield from (item.public_bytes(Encoding.DER) for item in unverified.parse(token).certificates)


def requests() -> Iterator[bytes]:
    yield TimeStampRequest(bytes(32)).encode()
    yield TimeStampRequest(bytes(64), "sha512", 1 << 255, "1.3.6.1.4.1.62558.1.1", False).encode()  # noqa: FBT003


def media() -> Iterator[bytes]:
    yield from files(MEDIA, "sound.jpg", "two_*.jpg", "updated.jpg", "edit_of_changed.jpg", "film.mp4")


def documents() -> Iterator[dict[str, Any]]:
    for data in files(RECORDS, "receipt.json", "receipt_with_token.json"):
        yield json.loads(data)


@functools.cache
def recorded() -> frozenset[bytes]:
    return frozenset(payload.canonical(document["payload"]) for document in documents())


def part(*names: str) -> Callable[[], Iterator[bytes]]:
    def seeds() -> Iterator[bytes]:
        for document in documents():
            for name in names:
                part = document[name]
                yield part.encode() if isinstance(part, str) else payload.canonical(part)

    return seeds


def notes() -> Iterator[bytes]:
    for document in documents():
        yield document["proof"].partition("\n\n")[2].encode()


def checkpoints() -> Iterator[bytes]:
    for note in notes():
        yield note.partition(b"\n\n")[0] + b"\n"


def key_texts() -> Iterator[bytes]:
    yield str(key()).encode()
    for head in (b"", b"\x02"):
        yield b"example+00000000+" + base64.b64encode(head + bytes(32))


def sentences() -> Iterator[bytes]:
    yield "a\u202eb\u2066c\x00 d\n\té\U0001f600 ½".encode()
    yield binascii.hexlify(bytes(60))


# --- A record with every kind of assertion, unsigned


def held_stores() -> Iterator[bytes]:
    """A store for each draft, with what it says in assertions; its signature is another's."""
    signature = next(signatures())
    box, superbox = forge().jumbf_box, forge().superbox
    for draft in drafts():
        fields, held, _ = cbor2.loads(draft)
        boxed = [
            forge().cbor_assertion(label, _signed_by_someone(label, body, signature)) for label, body in held
        ]
        boxed.append(("x.json", superbox(b"json", "x.json", box(b"json", b'{"exif:Make":"x"}'))))
        listed = [{"url": f"self#jumbf=c2pa.assertions/{label}", "hash": bytes(32)} for label, _ in boxed]
        claim = {"claim_generator_info": {"name": "x"}, "alg": "sha256", "created_assertions": listed}
        yield superbox(
            b"c2pa",
            "c2pa",
            superbox(
                b"c2ma",
                "urn:c2pa:2",
                superbox(b"c2as", "c2pa.assertions", *(content for _, content in boxed)),
                superbox(b"c2cl", "c2pa.claim.v2", box(b"cbor", cbor2.dumps(claim | fields))),
                superbox(b"c2cs", "c2pa.signature", box(b"cbor", signature)),
            ),
        )


def _signed_by_someone(label: str, body: Any, signature: bytes) -> Any:
    return body | {"signature": signature} if label == "cawg.identity" else body


# --- Withdrawals


@functools.cache
def path() -> tuple[x509.Certificate, x509.Certificate]:
    """A certificate and its issuer, the same every time."""
    key = _signing_key()
    names = [x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]) for name in ("Root", "Leaf")]

    def certificate(subject: x509.Name, number: int) -> x509.CertificateBuilder:
        return (
            x509.CertificateBuilder(names[0], subject, key.public_key(), number)
            .not_valid_before(MADE_AT - timedelta(days=30))
            .not_valid_after(MADE_AT + timedelta(days=30))
            .add_extension(x509.BasicConstraints(ca=number == 1, path_length=None), critical=True)
        )

    return certificate(names[1], 2).sign(key, None), certificate(names[0], 1).sign(key, None)


def _signing_key() -> ed25519.Ed25519PrivateKey:
    return ed25519.Ed25519PrivateKey.from_private_bytes(bytes(32))


def revocation_lists() -> Iterator[bytes]:
    for serial in (2, 3):
        entry = (
            x509.RevokedCertificateBuilder(serial, MADE_AT - timedelta(days=2))
            .add_extension(x509.CRLReason(x509.ReasonFlags.key_compromise), critical=False)
            .add_extension(x509.InvalidityDate(MADE_AT - timedelta(days=3)), critical=False)
        )
        built = (
            x509.CertificateRevocationListBuilder(path()[1].subject, MADE_AT, MADE_AT + timedelta(days=1))
            .add_revoked_certificate(entry.build())
            .add_extension(x509.CRLNumber(1), critical=False)
        )
        yield built.sign(_signing_key(), None).public_bytes(Encoding.DER)


def ocsp_answers() -> Iterator[bytes]:
    leaf, issuer = path()
    for status, since in ((ocsp.OCSPCertStatus.GOOD, None), (ocsp.OCSPCertStatus.REVOKED, MADE_AT)):
        reason = None if since is None else x509.ReasonFlags.key_compromise
        built = (
            ocsp.OCSPResponseBuilder()
            .add_response(leaf, issuer, hashes.SHA1(), status, MADE_AT, None, since, reason)  # noqa: S303
            .responder_id(ocsp.OCSPResponderEncoding.HASH, issuer)
            .certificates([issuer])
        )
        yield built.sign(_signing_key(), None).public_bytes(Encoding.DER)
    yield ocsp.OCSPResponseBuilder.build_unsuccessful(ocsp.OCSPResponseStatus.TRY_LATER).public_bytes(
        Encoding.DER
    )


def status_files() -> Iterator[bytes]:
    """Lists and answers as files: in DER, and a list in PEM too."""
    yield from revocation_lists()
    yield from ocsp_answers()
    lines = base64.encodebytes(next(revocation_lists()))
    yield b"-----BEGIN X509 CRL-----\n" + lines + b"-----END X509 CRL-----\n"


def policies() -> Iterator[bytes]:
    """Every key of a policy, and every kind of value."""
    yield (
        b'[require]\ntime = true\nledger = "included"\nrevocation = "good"\n'
        b'history = "complete"\nsigner-lists = ["lab", "\\u00e9"]\n'
    )
    yield b"[require]\ntime = true\n"
    yield b'[require]\nsigner-lists = ["lab"]\ntime = false\n'


# --- Pictures that say where they were taken

_XMP = (
    b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
    b'<rdf:Description xmlns:xmp="http://ns.adobe.com/xap/1.0/" xmp:CreatorTool="t">'
    b"<xmp:CreateDate>2026-01-01</xmp:CreateDate></rdf:Description></rdf:RDF></x:xmpmeta>"
)


def pictures() -> Iterator[bytes]:
    exif = Image.Exif()
    exif[271] = "Make"
    exif.get_ifd(0x8769)[36867] = "2026:01:01 00:00:00"
    exif.get_ifd(0x8825).update({1: "N", 2: (1.0, 2.0, 3.0), 3: "E", 4: (4.0, 5.0, 6.0)})
    for form in ("JPEG", "PNG", "WEBP", "TIFF", "GIF"):
        out = io.BytesIO()
        more = {} if form in ("TIFF", "GIF") else {"xmp": _XMP}
        Image.new("RGB", (8, 8), "red").save(out, form, exif=exif, **more)
        yield out.getvalue()


def others() -> Iterator[bytes]:
    """The smallest whole file of the kinds that no picture library writes."""
    yield b'<svg xmlns="http://www.w3.org/2000/svg"><g id="a">b</g></svg>'
    yield b"%PDF-1.7\n1 0 obj\n<<>>\nendobj\nxref\n0 1\nstartxref\n29\n%%EOF\n"
    yield b"ID3\4\0\0\0\0\0\5title" + (b"\xff\xfb\x90\x00" + bytes(413)) * 2
    wave = (
        b"WAVEfmt " + struct.pack("<IHHIIHH", 16, 1, 1, 8000, 16000, 2, 16) + b"data" + struct.pack("<I", 4)
    )
    yield b"RIFF" + struct.pack("<I", len(wave) + 4) + wave + bytes(4)
    atom = forge().atom
    location = bytes([0, 0, 0, 0, 0x44, 0]) + struct.pack(">HHHHII", 1, 1, 0, 1, 0, 30)
    yield atom(b"ftyp", b"heic", bytes(4), b"mif1") + atom(b"meta", bytes(4), atom(b"iloc", location))
    table = atom(b"stco", bytes(4) + struct.pack(">II", 1, 40))
    track = atom(b"trak", atom(b"mdia", atom(b"minf", atom(b"stbl", table))))
    yield atom(b"ftyp", b"isom", bytes(8)) + atom(b"mdat", bytes(40)) + atom(b"moov", track)
    frame = b"\xff\xf8\x69\x08\0\xdd" + bytes(4) + b"\xa3\xfa"
    yield b"fLaC\x80\0\0\x22" + struct.pack(">HH", 16, 16) + bytes(30) + frame
