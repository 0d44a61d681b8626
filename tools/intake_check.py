"""What a worker finds in a capture that a device hands in: the whole file, or its signed record alone.

Runs in a process that can die: the bytes are a stranger's. A capture is a file, or the record
of one, with exactly one manifest, whose signer says `c2pa.created` as a capture and commits
to a place in a chain. Where only the record comes, nobody here saw the media, and whether it
matches is not checked. Withdrawals, devices and chains are the registry's to know.
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from pathlib import Path

from authn import cose, jumbf
from authn.binding import binding_hash
from authn.capture_chain import read_statement
from authn.claim import mismatches
from authn.claims import read_claims
from authn.container import check_whole
from authn.errors import EmptyMediaError, TrailingBytesError, TruncatedMediaError, UnknownMediaError
from authn.evidence import AssetId, CaptureStatement, Claims, Code, Content, Signature, Signer
from authn.locate import locate
from authn.manifest import Sdk
from authn.media import Media
from authn.plain import plain
from authn.signer import Lists, SignerAnswer, certificate_facts, check_signer
from authn.verify import MAX_ASSERTIONS, verify_media
from detector.frames import LIMITS as PIXELS
from detector.frames import decode_fully
from tools.examine import OURS, Policy, obstacle
from tools.intake_errors import (
    CaptureRefusedError,
    CertificateProfileError,
    ClaimSignatureError,
    CredentialsMissingError,
    MediaChangedError,
    MediaIncompleteError,
    MediaTrailingError,
    MediaTypeError,
    MediaUnsupportedError,
    NoPlaceError,
    NotACaptureError,
    PastError,
    UntrustedIssuerError,
)
from tools.verdict import Obstacle

CREATED, DIGITAL_CAPTURE = "c2pa.created", "digitalCapture"


class Handed(StrEnum):
    """What was handed in."""

    WHOLE = "whole"
    RECORD = "record"


@dataclass(frozen=True, slots=True)
class Upload:
    """A file to be looked at; `mime` is what its sender calls it."""

    path: str
    handed: Handed
    mime: str
    at: datetime


@dataclass(frozen=True, slots=True)
class Checked:
    """A sound capture. `signature` is the raw one of the claim, which a later token is over."""

    identity: AssetId
    certificate: str
    statement: CaptureStatement
    signature: bytes


def start(policy: Policy) -> Callable[[Upload], Checked | Obstacle]:
    """Make a worker ready that looks at uploads with the lists of `policy`, each as of its own moment."""
    sdk, parsed = Sdk(), policy.lists()

    def check(upload: Upload) -> Checked | Obstacle:
        try:
            if upload.handed is Handed.RECORD:
                return _record(_content(upload.path), parsed, upload.at)
            return _whole(upload, sdk, parsed)
        except (TruncatedMediaError, EmptyMediaError) as error:
            return obstacle(MediaIncompleteError(str(error)))
        except TrailingBytesError as error:
            return obstacle(MediaTrailingError(str(error)))
        except UnknownMediaError as error:
            return obstacle(MediaUnsupportedError(str(error)))
        except OURS as error:
            return obstacle(error)

    return check


def _content(path: str) -> bytes:
    """The record, as far as a record can be long."""
    with Path(path).open("rb") as stream:
        data = stream.read(jumbf.MAX_STORE + 1)
    if not data:
        raise MediaIncompleteError("the record has no bytes")
    return data


def _whole(upload: Upload, sdk: Sdk, lists: Lists) -> Checked:
    with Path(upload.path).open("rb", buffering=0) as stream:
        # 1. A file that is whole, of the type that it is said to be, and decodes.
        media = Media.of(stream, "upload", 4 << 30)
        if media.kind.value != upload.mime:
            raise MediaTypeError(f"the file is {media.kind.value}, not what was announced")
        check_whole(media)
        if media.kind.is_image:
            media.stream.seek(0)
            decode_fully(media.stream, media.kind.value, PIXELS)
        # 2. Its record, by our own reader alone.
        store = locate(media)
        if store is None:
            raise CredentialsMissingError("the file carries no signed record")
        found = _record(store, lists, upload.at)
        # 3. The file against it, by both readers.
        provenance = verify_media(media, sdk, lists, upload.at)
        if provenance.identity != found.identity or provenance.signature is not Signature.VALID:
            raise jumbf.MalformedStoreError("two readers disagree about the file's record")
        if provenance.content is not Content.INTACT or provenance.steps:
            raise MediaChangedError("the file is not, or not wholly, the one that was signed")
        return found


def _record(store: bytes, lists: Lists, at: datetime) -> Checked:
    manifests = jumbf.parse(store)
    if len(manifests) != 1:
        raise PastError("a capture has one manifest, and this has several")
    active = manifests[0]
    if len(active.assertions) > MAX_ASSERTIONS:
        raise jumbf.MalformedStoreError("the record has too many assertions")
    signed = cose.parse(active.signature, active.claim)
    if next(mismatches(active, frozenset()), None) is not None or not signed.verifies(active.claim):
        raise ClaimSignatureError("the signature of the claim does not hold")
    signer = check_signer(signed.chain, lists, None, at)
    # A device may have been without a network until its certificate ended. What it captured is recorded all
    # the same, and dated by its arrival; a verdict says that no time is proven at which the certificate was valid.
    if signer.state not in (Signer.RECOGNISED, Signer.EXPIRED_TIME_UNPROVEN):
        raise _stranger(signer)
    if not _is_capture(read_claims(active)):
        raise NotACaptureError("the claim does not say of one capture that it was created")
    statement = read_statement(active)
    if statement is None:
        raise NoPlaceError("the claim does not say where it stands in a chain of captures")
    identity = AssetId(
        hashlib.sha256(active.claim).digest(),
        binding_hash(active),
        hashlib.sha256(signed.signature).digest(),
    )
    return Checked(identity, certificate_facts(signed.chain[0]).sha256, statement, signed.signature)


def _is_capture(claims: Claims) -> bool:
    return claims.actions == (CREATED,) and claims.source_types == (DIGITAL_CAPTURE,) and not claims.gathered


def _stranger(signer: SignerAnswer) -> CaptureRefusedError:
    """Why the signer is nobody here: what failed."""
    failed = [finding for finding in signer.findings if not finding.passed]
    said = plain("; ".join(finding.explanation for finding in failed) or signer.state.value, 300)
    if signer.state is Signer.WRONG_KIND or any(each.code is Code.SIGNER_PROFILE for each in failed):
        return CertificateProfileError(said)
    return UntrustedIssuerError(said)
