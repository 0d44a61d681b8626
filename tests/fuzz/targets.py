"""What is fuzzed: every reader of bytes from outside, what it may raise, and what must hold of its answer.

A target is a function of bytes. It may return, or raise one of its refusals;
anything else is a finding: another exception, a broken property, a crash, a hang.
The seeds are the test vectors beside these tests, and what lies in `corpus`.
Readers of what devices and operators send are in `device_targets`.
"""

import functools
import io
import itertools
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import cbor2
import seeds
from cryptography.hazmat.primitives.serialization import Encoding
from device_targets import DEVICE_TARGETS
from target import HERE, BrokenPropertyError, Target, must

from authn import attached, cbor, claim, claims, cose, crl, der, errors, jumbf, keys, ocsp
from authn.cawg import check_identities
from authn.chain import read_certificate, unknown_critical, unreadable, weak_key, weak_signature
from authn.container import check_whole
from authn.locate import locate
from authn.manifest import Sdk
from authn.media import Kind, Media
from authn.plain import plain
from authn.profile import Profile, check_profile
from authn.revocation import Statuses, check_revocation, status_addresses
from authn.signer import Lists, certificate_facts
from authn.timestamp import unverified
from authn.timestamp.request import TimeStampRequest
from authn.timestamp.token import check_token
from authn.trust import Purpose, TrustList
from authn.verify import verify_media
from detector.metadata import read_metadata
from storage import payload
from storage.checkpoint import Checkpoint, open_checkpoint
from storage.entry import Entry
from storage.errors import MalformedError, MalformedKeyError, NoteSignatureError, ProofError
from storage.note import Note, VerifierKey, open_note
from storage.proof import InclusionProof
from storage.receipt import Receipt
from tools.acceptance import AcceptancePolicy, PolicyError

__all__ = ["HERE", "MAX_INPUT", "TARGETS", "Target"]

AT = datetime(2030, 1, 1, tzinfo=UTC)
MAX_INPUT = 96 << 10


# --- The signed record


def _jumbf(data: bytes) -> None:
    manifests = jumbf.parse(data)
    must(jumbf.parse(bytes(data)) == manifests, "a store is read in one way")
    must(len({manifest.label for manifest in manifests}) == len(manifests), "labels are unique")
    must(len(jumbf.manifests_of(data)) == len(manifests), "both readers count the same manifests")
    for assertion in itertools.chain.from_iterable(manifest.assertions for manifest in manifests):
        must(assertion.content in assertion.box, "an assertion's content is what its hash covers")
        must(b"brob" in data or assertion.box in data, "an assertion is a part of the store")


def _claim(data: bytes) -> None:
    manifests = jumbf.parse(data)
    redacted = claim.redactions(manifests)
    for manifest in manifests:
        faults = tuple(claim.mismatches(manifest, redacted))
        must(all(fault.isascii() and len(fault) < 40 for fault in faults), "faults are codes")


def _statements(data: bytes) -> None:
    """Everything that is read from assertions besides their hashes."""
    manifests = jumbf.parse(data)
    for manifest in manifests:
        said = claims.read_claims(manifest)
        must(repr(said).isprintable(), "what a signer says can be shown")
        must(len(repr(said)) < 100_000, "what a signer says is bounded")
        attached.later_tokens(manifests, manifest.label)
        identities, findings = check_identities(manifest, _identity_lists(), AT)
        must(all(identity.problem for identity in identities), "nobody signed for this record")
        must(repr((identities, findings)).isprintable(), "what is said of identities can be shown")
    attached.stapled_answers(manifests)


@functools.cache
def _identity_lists() -> tuple[TrustList, ...]:
    pem = (seeds.MEDIA / "signers.pem").read_bytes()
    return (TrustList.parse(pem, "people", Purpose.IDENTITY, Profile.SPECIFICATION),)


def _cbor(data: bytes) -> None:
    value = cbor.decode(data)
    # Through another writer and back: what was understood can be said again, and means the same.
    must(
        repr(cbor.decode(cbor2.dumps(_for_cbor2(value)))) == repr(value), "CBOR means the same, written again"
    )


def _for_cbor2(value: Any) -> Any:
    match value:
        case cbor.Tag():
            return cbor2.CBORTag(value.number, _for_cbor2(value.value))
        case list():
            return [_for_cbor2(item) for item in value]
        case dict():
            return {key: _for_cbor2(item) for key, item in value.items()}
        case _:
            return value


def _cose(data: bytes) -> None:
    signed = cose.parse(data, b"claim")
    must(signed.chain, "a signature has a certificate")
    must(signed.verifies(b"claim") in (True, False), "a signature verifies or does not")
    must((signed.stamp is not None) == (signed.stamp_count == 1), "one token counts, two do not")


# --- DER, certificates, time


def _der(data: bytes) -> None:
    waiting = [der.parse(data)]
    for _ in range(2000):
        if not waiting:
            break
        element = waiting.pop()
        must(der.tagged(element.tag, element.content) == element.encoded, "DER has one encoding")
        again = "a DER value is written as it was read"
        with _refused():
            must(der.integer(element.to_integer()) == element.encoded, again)
        with _refused():
            must(der.octets(element.to_octets()) == element.encoded, again)
        with _refused():
            must(der.oid(element.to_oid()) == element.encoded, again)
        with _refused():
            element.to_boolean()
        with _refused():
            must(element.to_time().tzinfo is UTC, "a time is in UTC")
        with _refused():
            waiting += element.children()


class _refused:  # noqa: N801 - reads as a phrase after "with"
    """Refusing a part is as good as reading it."""

    def __enter__(self) -> None: ...

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> bool:
        return kind is not None and issubclass(kind, errors.MalformedDerError)


def _certificate(data: bytes) -> None:
    certificate = read_certificate(data)
    must(certificate.public_bytes(Encoding.DER) == data, "a certificate is its bytes")
    if unreadable(certificate) is None:
        weak_key(certificate)
        weak_signature(certificate)
        unknown_critical(certificate)
        for profile in Profile:
            check_profile((certificate,), profile, AT)
        addresses = status_addresses(data)
        must(all(url.isascii() for url in (*addresses.ocsp, *addresses.crls)), "an address is ASCII")
        must(repr(certificate_facts(certificate)).isprintable(), "what a certificate says can be shown")


def _token(data: bytes) -> None:
    evidence = check_token(data, b"message", _lists().time_stampers, AT)
    must(not evidence.proven, "nothing here is a token over this message")
    unverified.parse(data)


def _request(data: bytes) -> None:
    must(TimeStampRequest.parse(data).encode() == data, "a request is written as it was read")


def _revocation_list(data: bytes) -> None:
    found = crl.said_of(data, *seeds.path(), AT)
    facts = check_revocation(seeds.path(), Statuses(crls=(data,)), AT, AT)
    must(found is None or facts.explanation.isprintable(), "what is said of withdrawal can be shown")
    crl.check_readable(data)
    must(crl.dated(data) is not None, "a list that can be read is dated")
    must(Statuses.parse_file(data).crls == (data,), "a list is told from an answer")


def _ocsp_answer(data: bytes) -> None:
    found = ocsp.said_of(data, *seeds.path(), AT)
    facts = check_revocation(seeds.path(), Statuses(answers=(data,)), AT, AT)
    must(found is None or facts.explanation.isprintable(), "what is said of withdrawal can be shown")
    ocsp.check_readable(data)
    must(ocsp.dated(data) is not None, "an answer that can be read is dated")
    must(Statuses.parse_file(data).answers == (data,), "an answer is told from a list")


def _status_file(data: bytes) -> None:
    found = Statuses.parse_file(data)
    must(len(found.crls) + len(found.answers) == 1, "a file is one list or one answer")
    must(found.merged(found) == found, "the same status twice is one status")
    must(len(found.digest) == 32, "statuses are named by a digest")
    check_revocation(seeds.path(), found, None, AT)


def _policy(data: bytes) -> None:
    policy = AcceptancePolicy.parse(data, "fuzz")
    must(repr(policy).isprintable(), "a policy can be shown")
    must(policy == AcceptancePolicy.parse(data, "fuzz"), "a policy is read in one way")


def _trust(data: bytes) -> None:
    listed = TrustList.parse(data, "fuzz", Purpose.SIGNING, Profile.SPECIFICATION)
    must(0 < len(listed.anchors) <= 1000, "anchors are counted")


# --- Media


def _whole(data: bytes) -> None:
    media = Media.of(io.BytesIO(data), "fuzz", 1 << 30)
    must(media.kind in Kind, "a kind is one of ours")
    check_whole(media)


def _locate(data: bytes) -> None:
    found = locate(Media.of(io.BytesIO(data), "fuzz", 1 << 30))
    must(found is None or found[4:8] == b"jumb", "what is located begins as a store does")
    must(found is None or len(found) <= len(data), "a store is no larger than its file")


def _metadata(data: bytes) -> None:
    media = Media.of(io.BytesIO(data), "fuzz", 1 << 30)
    found = read_metadata(media.stream, media.kind.value)
    must(repr(found).isprintable() and len(repr(found)) < 10_000, "metadata can be shown and is bounded")


def _plain(data: bytes) -> None:
    shown = plain(_text(data), 40)
    must(len(shown) <= 40 and shown.isprintable() and plain(shown, 40) == shown, "text is safe on one line")


@functools.cache
def _lists() -> Lists:
    signers = (seeds.MEDIA / "signers.pem").read_bytes()
    clocks = (seeds.MEDIA / "clocks.pem").read_bytes()
    return Lists(
        (TrustList.parse(signers, "lab", Purpose.SIGNING, Profile.POLICY),),
        (TrustList.parse(clocks, "lab clock", Purpose.TIME_STAMPING, Profile.TIME_STAMPING),),
    )


@functools.cache
def _sdk() -> Sdk:
    return Sdk()


@functools.cache
def _signed_at() -> datetime:
    return datetime.fromisoformat((seeds.MEDIA / "signed_at.txt").read_text().strip())


def _manifest(data: bytes) -> object:
    return _judged(Media.of(io.BytesIO(data), "fuzz", 1 << 30))


def _sidecar(data: bytes) -> object:
    media = Media.of(io.BytesIO(_picture()), "fuzz", 1 << 30)
    return _judged(replace(media, sidecar=data))


def _judged(media: Media) -> object:
    """Of media whose kind is known, verification always gives an answer; nothing in it is an error."""
    try:
        found = verify_media(media, _sdk(), _lists(), _signed_at() + timedelta(days=1))
    except errors.Error as error:
        raise BrokenPropertyError("an error where an answer belongs") from error
    must(found.findings, "every answer has its findings")
    for finding in found.findings:
        must(finding.explanation.isprintable(), "an explanation is safe on one line")
        must(len(finding.explanation) < 2000, "an explanation is bounded")
    return found.content, found.signature, found.signer, found.history


# --- A signer who means harm: the record is well made, whatever it says


@functools.cache
def _camera() -> Any:
    return seeds.forge().house(_signed_at() - timedelta(days=30)).camera


@functools.cache
def _picture() -> bytes:
    return bytes(seeds.forge().picture())


class NotADraftError(Exception):
    """The input says nothing that a signer could sign."""


def _hostile_signer(data: bytes) -> object:
    """The input is CBOR: claim fields, labels with assertions, unprotected header; all of it is signed."""
    try:
        value = cbor2.loads(data)
        fields, assertions, unprotected = value
        held = [(str(label), content) for label, content in assertions]
        ready = isinstance(fields, dict) and isinstance(unprotected, dict)
        boxed = [seeds.forge().cbor_assertion(label, content) for label, content in held[:50]]
        signed = (
            seeds.forge()
            .Draft(_picture(), _camera(), claim=fields, assertions=boxed, unprotected=unprotected)
            .write()
        )
    except Exception as error:
        raise NotADraftError(str(error)) from error
    if not ready:
        raise NotADraftError("no claim, or no header")
    return _manifest(signed)


# --- The ledger


def _text(data: bytes) -> str:
    return data.decode("utf-8", "surrogateescape")


def _believed(_public: bytes, _signature: bytes, _message: bytes) -> bool:
    return True


def _note(data: bytes) -> None:
    note = Note.parse(data)
    must(bytes(note) == data, "a note is written as it was read")
    must(open_note(data, [seeds.key()], _believed).text == note.text, "an opened note says what was signed")


def _verifier_key(data: bytes) -> None:
    must(str(VerifierKey.parse(_text(data))) == _text(data), "a verifier key is written as it was read")


def _checkpoint(data: bytes) -> None:
    must(str(Checkpoint.parse(_text(data))) == _text(data), "a checkpoint is written as it was read")


def _signed_checkpoint(data: bytes) -> None:
    opened = open_checkpoint(data, [seeds.key()], _believed)
    must(data.startswith(str(opened).encode()), "a signed checkpoint begins with what it says")


def _proof(data: bytes) -> None:
    must(str(InclusionProof.parse(_text(data))) == _text(data), "a proof is written as it was read")


def _receipt(data: bytes) -> None:
    receipt = Receipt.parse(_text(data))
    must(str(receipt) == _text(data), "a receipt is written as it was read")
    # With a real check of the signature, only what the log signed passes.
    receipt.check([seeds.key()], keys.verify_ed25519)
    must(receipt.payload in seeds.recorded(), "only recorded payloads are proved")


def _entry(data: bytes) -> None:
    must(Entry.parse(data).body == data, "an entry is written as it was read")


def _payload(data: bytes) -> None:
    must(payload.canonical(payload.parse(data)) == data, "a payload is written as it was read")


# --- The table


def _every_kind() -> Iterator[bytes]:
    yield from (*seeds.pictures(), *seeds.others(), *seeds.media())


_MEDIA_ERRORS = (errors.MediaError,)
_UNPROVED = (MalformedError, ProofError)

TARGETS = {
    target.name: target
    for target in (
        Target("jumbf", _jumbf, _MEDIA_ERRORS, "boxes", lambda: iter(seeds.stores())),
        Target("claim", _claim, _MEDIA_ERRORS, "boxes", lambda: iter(seeds.stores())),
        Target("statements", _statements, _MEDIA_ERRORS, "boxes", seeds.held_stores),
        Target("cbor", _cbor, (cbor.MalformedCborError,), "cbor", seeds.claims),
        Target("cose", _cose, _MEDIA_ERRORS, "cbor", seeds.signatures),
        Target("der", _der, (errors.MalformedDerError,), "der", seeds.certificates),
        Target("certificate", _certificate, (errors.CertificateError,), "der", seeds.certificates),
        Target("token", _token, (errors.MalformedDerError,), "der", seeds.tokens),
        Target("request", _request, (errors.MalformedRequestError,), "der", seeds.requests),
        Target("crl", _revocation_list, (errors.StatusError,), "der", seeds.revocation_lists),
        Target("ocsp", _ocsp_answer, (errors.StatusError,), "der", seeds.ocsp_answers),
        Target("status_file", _status_file, (errors.StatusError,), "text", seeds.status_files),
        Target("policy", _policy, (PolicyError,), "text", seeds.policies),
        Target(
            "trust_list",
            _trust,
            (errors.CertificateError,),
            "text",
            lambda: seeds.files(seeds.MEDIA, "*.pem"),
        ),
        Target("container", _whole, _MEDIA_ERRORS, "media", _every_kind),
        Target("locate", _locate, _MEDIA_ERRORS, "media", _every_kind),
        Target("metadata", _metadata, _MEDIA_ERRORS, "media", seeds.pictures),
        Target("plain", _plain, (), "text", seeds.sentences),
        Target("manifest", _manifest, _MEDIA_ERRORS, "media", seeds.media, cost=10),
        Target("sidecar", _sidecar, _MEDIA_ERRORS, "boxes", lambda: iter(seeds.stores()), cost=10),
        Target("hostile_signer", _hostile_signer, (NotADraftError,), "cbor", seeds.drafts, cost=10),
        Target("note", _note, (MalformedError, NoteSignatureError), "text", seeds.notes),
        Target("verifier_key", _verifier_key, (MalformedKeyError,), "text", seeds.key_texts),
        Target("checkpoint", _checkpoint, (MalformedError,), "text", seeds.checkpoints),
        Target("signed_checkpoint", _signed_checkpoint, _UNPROVED, "text", seeds.notes),
        Target("proof", _proof, (MalformedError,), "text", seeds.part("proof")),
        Target("receipt", _receipt, _UNPROVED, "text", lambda: seeds.files(seeds.RECORDS, "receipt*.json")),
        Target("entry", _entry, (MalformedError,), "text", seeds.part("entry")),
        Target("payload", _payload, (MalformedError,), "text", seeds.part("payload", "entry")),
        *DEVICE_TARGETS,
    )
}
