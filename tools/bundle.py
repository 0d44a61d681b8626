"""One verdict's evidence in a .zip that a stranger checks offline, with public programs alone.

`HOWTO-VERIFY.md` inside has every command. The media itself is not in it, only its
digest. The seal is a signature over `SHA256SUMS` by the home's signing service and a
time-stamp token over the same bytes: it proves who put the bundle together and by
when, not that the verdict in it is right; the evidence beside it is for that.

The same contents make the same bytes, apart from the seal.
"""

import base64
import hashlib
import io
import json
import re
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from authn import der
from authn.device import Device
from authn.errors import TimestampError
from authn.keys import Algorithm, KeyProvider
from authn.timestamp.authority import Authority
from authn.timestamp.request import TimeStampRequest
from authn.trust import Purpose
from storage.note import VerifierKey
from storage.payload import parse as parse_payload
from storage.receipt import Receipt
from tools.output import Form, require_writable, write_whole
from tools.report import shown
from tools.trust import ListFile

HOWTO, SUMS = "HOWTO-VERIFY.md", "SHA256SUMS"
_COMMENT = b"Lightseal evidence bundle/1"
_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,39}")
_PAGES = Path(__file__).parent / "pages"
# The local header of the first member, stored and without extra fields, and its text up to what varies; then the
# end record whose comment is ours (PKZIP APPNOTE, 4.3.7 and 4.3.16). Times, digests and sizes are free.
_BEGINNING = HOWTO.encode() + (_PAGES / HOWTO).read_bytes().partition(b"{{")[0]
_FORM = Form(
    "bundle",
    re.compile(
        rb"(?s)PK\x03\x04\x14\0\0\0\0\0.{16}%b\0\0\0%b" % (bytes([len(HOWTO)]), re.escape(_BEGINNING))
    ),
    re.compile(rb"(?s)PK\x05\x06\0{4}.{12}%b\0%b\Z" % (bytes([len(_COMMENT)]), re.escape(_COMMENT))),
)

# COSE's numbers (RFC 9053, 2.1 and 2.2; RFC 8230, 2) as OpenSSL is told of them; None where it hashes itself.
_COSE = {-7: "sha256", -35: "sha384", -36: "sha512", -37: "sha256", -38: "sha384", -39: "sha512", -8: None}
_PSS = frozenset({-37, -38, -39})
_ECDSA = frozenset({-7, -35, -36})
_OURS = {Algorithm.ES256: -7, Algorithm.ES384: -35, Algorithm.EDDSA: -8}


@dataclass(frozen=True, slots=True)
class Token:
    """A time-stamp token and the bytes it dates; `list_name` and `at` only where it was found to stand."""

    name: str
    token: bytes
    message: bytes
    list_name: str | None
    at: datetime | None

    def __post_init__(self) -> None:
        if _NAME.fullmatch(self.name) is None:
            raise ValueError(f"{self.name!r} cannot name a file of a bundle")


@dataclass(frozen=True, slots=True)
class SignedClaim:
    """A claim, the bytes its signer signed (RFC 9052, 4.4), which end in it, and the signature as COSE has it."""

    claim: bytes
    message: bytes
    signature: bytes
    algorithm: int


@dataclass(frozen=True, slots=True)
class BundleContents:
    """What was found about one file, and all it takes to find it again.

    `signer_list` and `signer_at` are the list that recognises the signer, and the
    moment it was judged at; `claim` is given only where its signature verifies.
    """

    report_json: bytes
    media_name: str
    media_sha256: str | None
    checked_at: datetime
    store: bytes | None = None
    chain: tuple[bytes, ...] = ()
    claim: SignedClaim | None = None
    signer_list: str | None = None
    signer_at: datetime | None = None
    tokens: tuple[Token, ...] = ()
    receipt: Receipt | None = None
    log_key: VerifierKey | None = None
    lists: tuple[ListFile, ...] = ()


@dataclass(frozen=True, slots=True)
class Seal:
    """Who signs the bundle, who dates it, and the lists under which both are recognised."""

    key: KeyProvider
    chain_pem: bytes
    stamp: Callable[[bytes], bytes]
    signers: ListFile
    time_stampers: ListFile

    @classmethod
    def of(cls, device: Device, authority: Authority, signers: ListFile, time_stampers: ListFile) -> "Seal":
        """The seal of a home: its signing service and its own authority."""

        def stamp(message: bytes) -> bytes:
            return _token(authority.respond(TimeStampRequest(hashlib.sha256(message).digest()).encode()))

        return cls(device.key, device.chain_pem.encode(), stamp, signers, time_stampers)


def require_writable_bundle(path: Path) -> None:
    """Refuse now a place where `write_bundle` would not write."""
    require_writable(path, _FORM)


def write_bundle(path: Path, contents: BundleContents, seal: Seal | None) -> None:
    """Write the bundle whole or not at all; only an earlier bundle of ours is replaced."""
    require_writable_bundle(path)
    write_whole(path, bundle(contents, seal), _FORM)


def bundle(contents: BundleContents, seal: Seal | None) -> bytes:
    """The bundle's bytes."""
    lists = _list_files(contents, seal)
    members = _evidence(contents, lists)
    if seal is not None:
        members["signer.pem"] = seal.chain_pem
    members[HOWTO] = _howto(contents, lists, seal).encode()
    # The digests are over everything else; the seal is over the digests.
    sums = "".join(
        f"{hashlib.sha256(data).hexdigest()}  {name}\n" for name, data in sorted(members.items())
    ).encode()
    members[SUMS] = sums
    if seal is not None:
        members[f"{SUMS}.sig"] = _as_openssl(seal.key.sign(sums), _OURS[seal.key.algorithm])
        members[f"{SUMS}.tst"] = seal.stamp(sums)
    return _zip(members, contents.checked_at)


def _evidence(contents: BundleContents, lists: dict[str, ListFile]) -> dict[str, bytes]:
    members = {"report.json": contents.report_json}
    if contents.store is not None:
        members["manifest.c2pa"] = contents.store
    if contents.chain:
        members["chain.pem"] = b"".join(map(_pem, contents.chain))
    if contents.claim is not None:
        members["claim/claim.cbor"] = contents.claim.claim
        members["claim/signed.bin"] = contents.claim.message
        members["claim/signature.bin"] = _as_openssl(contents.claim.signature, contents.claim.algorithm)
    for token in contents.tokens:
        members[f"tokens/{token.name}.tst"] = token.token
        members[f"tokens/{token.name}.data"] = token.message
    if contents.receipt is not None:
        members["ledger/receipt.txt"] = str(contents.receipt).encode()
        members["ledger/proof.txt"] = str(contents.receipt.proof).encode()
        members["ledger/check.py"] = (_PAGES / "check-receipt.py").read_bytes()
    if contents.log_key is not None:
        members["ledger/log.vkey"] = f"{contents.log_key}\n".encode()
    described = [
        {
            "file": file,
            "name": held.name,
            "purpose": held.purpose.value,
            "sha256": hashlib.sha256(held.pem).hexdigest(),
        }
        for file, held in lists.items()
    ]
    members["lists.json"] = json.dumps(described, indent=1).encode() + b"\n"
    return members | {file: held.pem for file, held in lists.items()}


_STEMS = {
    Purpose.SIGNING: "signers",
    Purpose.TIME_STAMPING: "time-stampers",
    Purpose.IDENTITY: "identities",
}


def _list_files(contents: BundleContents, seal: Seal | None) -> dict[str, ListFile]:
    """A file name for each list; their own names are somebody's words and name no file."""
    held = (*contents.lists, *((seal.signers, seal.time_stampers) if seal else ()))
    files: dict[str, ListFile] = {}
    for copy in dict.fromkeys(held):
        stem = _STEMS[copy.purpose]
        count = sum(other.purpose is copy.purpose for other in files.values())
        files[f"lists/{stem}-{count + 1}.pem" if count else f"lists/{stem}.pem"] = copy
    return files


def _file_of(lists: dict[str, ListFile], name: str | None, purpose: Purpose) -> str | None:
    """The file of the list that the verdict names, among those of its purpose."""
    return next((file for file, held in lists.items() if (held.name, held.purpose) == (name, purpose)), None)


# --- The instructions


def _howto(contents: BundleContents, lists: dict[str, ListFile], seal: Seal | None) -> str:
    from jinja2 import Environment, PackageLoader, StrictUndefined  # noqa: PLC0415 (slow to import)

    # Plain text, so nothing is escaped; every string is either ours, a digest or on one line.
    environment = Environment(  # noqa: S701
        loader=PackageLoader("tools", "pages"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    claim, receipt = contents.claim, contents.receipt
    files = {held: file for file, held in lists.items()}
    return environment.get_template(HOWTO).render(
        name=shown(contents.media_name),
        media=contents.media_sha256,
        chain=bool(contents.chain),
        store=contents.store is not None,
        claim=_check_command(claim.algorithm, "claim-key.pem", "claim/signature.bin", "claim/signed.bin")
        if claim and contents.chain
        else None,
        signers=_file_of(lists, contents.signer_list, Purpose.SIGNING),
        signer_at=_epoch(contents.signer_at or contents.checked_at),
        tokens=[
            {
                "name": token.name,
                "list": _file_of(lists, token.list_name, Purpose.TIME_STAMPING),
                "at": _epoch(token.at or contents.checked_at),
                "over_signature": claim is not None
                and claim.algorithm in _ECDSA
                and claim.signature in token.message,
            }
            for token in contents.tokens
        ],
        recorded=_recorded(contents, receipt) if receipt and contents.log_key else None,
        sealed=seal
        and {
            "command": _check_command(_OURS[seal.key.algorithm], "bundle-key.pem", f"{SUMS}.sig", SUMS),
            "signers": files[seal.signers],
            "time_stampers": files[seal.time_stampers],
            "at": _epoch(contents.checked_at),
        },
    )


def _recorded(contents: BundleContents, receipt: Receipt) -> dict[str, bool]:
    """Which of the entry's digests are those of the evidence beside it."""
    payload = parse_payload(receipt.payload)
    return {
        "certificate": bool(contents.chain)
        and payload.get("certificate") == hashlib.sha256(contents.chain[0]).hexdigest(),
        "claim": contents.claim is not None
        and payload.get("claim") == hashlib.sha256(contents.claim.claim).hexdigest(),
        "media": contents.media_sha256 is not None and payload.get("media") == contents.media_sha256,
    }


def _check_command(algorithm: int, key: str, signature: str, message: str) -> str:
    """The one line with which OpenSSL checks a signature of this kind."""
    if (hash_name := _COSE[algorithm]) is None:
        return f"openssl pkeyutl -verify -pubin -inkey {key} -rawin -in {message} -sigfile {signature}"
    pss = " -sigopt rsa_padding_mode:pss -sigopt rsa_pss_saltlen:digest" if algorithm in _PSS else ""
    return f"openssl dgst -{hash_name}{pss} -verify {key} -signature {signature} {message}"


def _epoch(moment: datetime) -> int:
    return int(moment.timestamp())


# --- Encodings


def _as_openssl(signature: bytes, algorithm: int) -> bytes:
    """ECDSA signatures as DER (RFC 3279, 2.2.3), which COSE writes as r and s side by side; others as they are."""
    if algorithm not in _ECDSA:
        return signature
    half = len(signature) // 2
    return der.sequence(
        der.integer(int.from_bytes(signature[:half], "big")),
        der.integer(int.from_bytes(signature[half:], "big")),
    )


def _pem(certificate: bytes) -> bytes:
    """A certificate as text (RFC 7468, 5)."""
    text = base64.b64encode(certificate)
    lines = b"".join(text[start : start + 64] + b"\n" for start in range(0, len(text), 64))
    return b"-----BEGIN CERTIFICATE-----\n" + lines + b"-----END CERTIFICATE-----\n"


def _token(reply: bytes) -> bytes:
    """The token of a reply (RFC 3161, 2.4.2)."""
    fields = der.parse(reply).fields()
    fields.take(der.SEQUENCE)
    token = fields.maybe(der.SEQUENCE)
    if token is None:
        raise TimestampError("the home's authority refused to date the bundle")
    return token.encoded


def _zip(members: dict[str, bytes], at: datetime) -> bytes:
    """Sorted, stored and dated alike: compressors differ from one machine to the next."""
    moment = at.astimezone(UTC)
    date = (*moment.timetuple()[:5], moment.second) if 1980 <= moment.year <= 2107 else (1980, 1, 1, 0, 0, 0)
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_STORED) as archive:
        archive.comment = _COMMENT
        for name, data in sorted(members.items()):
            member = zipfile.ZipInfo(name, date)
            member.create_system, member.external_attr = 3, 0o100644 << 16
            archive.writestr(member, data)
    return out.getvalue()
