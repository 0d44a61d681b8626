"""Add what a ledger, or a receipt, knows of one file.

Runs in the parent, over what a worker found. An index only says where to look:
an entry counts when its commitment opens, its inclusion is proven under a
checkpoint that the log's key signed, and its payload is about this very file.
Does not date anything: an entry's time is its operator's word.
"""

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from enum import Enum, auto

import storage.errors
from authn.evidence import AssetId, CaptureStatement, Code, Credentials, Custody, Finding, Provenance
from authn.keys import verify_note
from storage.entry import Kind
from storage.ledger import Ledger
from storage.note import VerifierKey
from storage.payload import parse as parse_payload
from storage.policy import Policy
from storage.receipt import Receipt
from storage.registry.registry import Registry
from storage.registry.rows import Capture, Contradiction
from tools.bracket import bracket
from tools.captures import beginning
from tools.examine import Examined
from tools.verdict import Ledger as LedgerState
from tools.verdict import Recorded

# An index that somebody filled with lies must not become work without end.
_MOST_CANDIDATES = 64
_ABOUT = {
    Contradiction.PLACE: "it contradicts",
    Contradiction.CERTIFICATE: "its one-time certificate had been used up by",
}


@dataclass(frozen=True, slots=True)
class Standing:
    """What a registry says of one certificate: whose it is, what its key's evidence proves, since when it is withdrawn."""

    device: str
    evidence: str | None
    withdrawn_since: datetime | None


@dataclass(frozen=True, slots=True)
class Book:
    """A ledger opened for reading, its keys, and the issuances already proven from it.

    `registry` knows the devices of the ledger's own home; `witnesses` says whose cosignatures date a checkpoint.
    """

    ledger: Ledger
    keys: tuple[VerifierKey, ...]
    registry: Registry | None = None
    witnesses: Policy | None = None
    issuances: dict[str, tuple[int, Custody | None]] = field(default_factory=dict)
    standings: dict[str, "Standing | None"] = field(default_factory=dict)

    def close(self) -> None:
        """Let go of the databases."""
        self.ledger.close()
        if self.registry is not None:
            self.registry.close()


class _Match(Enum):
    """How a proven entry relates to a file."""

    THIS_SIGNATURE = auto()
    SAME_MEDIA = auto()
    OTHER = auto()


def weigh(
    found: Examined, book: Book | None, receipt: Receipt | None, keys: tuple[VerifierKey, ...]
) -> Recorded:
    """Ask the receipt if one was given, else the ledger; a proof that fails is an answer, not an accident."""
    if found.provenance is None:
        return Recorded(LedgerState.NOT_CHECKED)
    try:
        if receipt is not None:
            recorded = _by_receipt(found, receipt, keys)
        elif book is not None:
            with book.ledger.at_once():
                recorded = _by_ledger(found, found.provenance, book)
        else:
            recorded = Recorded(LedgerState.NOT_CHECKED)
        recorded = _bracketed(recorded, found.provenance, book, keys)
        if book is None:
            return recorded
        return _with_place(_with_issuance(recorded, found.provenance, book), found.provenance, book)
    except storage.errors.Error as error:
        return _silent(LedgerState.NOT_CHECKED, f"the ledger could not answer: {error}")


def _by_receipt(found: Examined, receipt: Receipt, keys: tuple[VerifierKey, ...]) -> Recorded:
    if not keys:
        return _silent(LedgerState.NOT_CHECKED, "a receipt was given, but no ledger key to check it with")
    try:
        origin = receipt.check(keys, verify_note).origin
    except storage.errors.Error as error:
        return _silent(LedgerState.CONFLICTING, f"the receipt does not hold: {error}")
    match = _match(found, receipt)
    if match is _Match.OTHER:
        said = f"the receipt is for entry {receipt.proof.index} of {origin}, which is about another file"
        return dataclasses.replace(
            _told(receipt, origin, LedgerState.CONFLICTING),
            findings=(Finding.fails(Code.LEDGER_INCLUDED, said),),
        )
    return _answer(match, receipt, origin)


def _by_ledger(found: Examined, provenance: Provenance, book: Book) -> Recorded:
    """Look through all candidates for this signature first: whoever may add can put a lie before the truth."""
    conflicting: list[Receipt] = []
    similar: list[Receipt] = []
    misleading: list[int] = []
    origin = book.ledger.origin
    for index in _candidates(found, provenance, book.ledger):
        receipt = book.ledger.prove(index)
        receipt.check(book.keys, verify_note)
        match _match(found, receipt):
            case _Match.THIS_SIGNATURE:
                return _answer(_Match.THIS_SIGNATURE, receipt, origin)
            case _Match.SAME_MEDIA:
                similar.append(receipt)
            case _Match.OTHER if _is_of_claim(receipt, provenance):
                conflicting.append(receipt)
            case _Match.OTHER:
                misleading.append(index)
    if conflicting:
        index = conflicting[0].proof.index
        said = f"entry {index} of {origin} records this claim with another signature or certificate"
        return dataclasses.replace(
            _told(conflicting[0], origin, LedgerState.CONFLICTING),
            findings=(Finding.fails(Code.LEDGER_INCLUDED, said),),
        )
    if similar:
        return _answer(_Match.SAME_MEDIA, similar[0], origin)
    if misleading:
        said = f"the ledger's index names entry {misleading[0]} for this file, which is about something else"
        return _silent(LedgerState.UNKNOWN, f"{said}; run 'lightseal ledger audit'")
    said = "has no entry for this signature" if provenance.identity else "does not know these bytes"
    return dataclasses.replace(_silent(LedgerState.UNKNOWN, f"the ledger {origin} {said}"), origin=origin)


def _candidates(found: Examined, provenance: Provenance, ledger: Ledger) -> Iterator[int]:
    """Where the index says to look, each once: this claim first, then this media."""
    if provenance.identity is not None:
        claimed = _some(ledger.find("claim", provenance.identity.claim))
        bound = _some(ledger.find("binding", provenance.identity.binding))
        yield from dict.fromkeys((*claimed, *bound))
    elif found.sha256 is not None:
        yield from _some(ledger.find("media", bytes.fromhex(found.sha256)))


def _some(indices: tuple[int, ...]) -> tuple[int, ...]:
    """The oldest and the newest, where there are too many: lies fill one end more easily than both."""
    if len(indices) <= _MOST_CANDIDATES:
        return indices
    half = _MOST_CANDIDATES // 2
    return (*indices[:half], *indices[-half:])


def _match(found: Examined, receipt: Receipt) -> _Match:
    """What an entry is about, by its payload alone."""
    if receipt.entry.kind is not Kind.SIGN or found.provenance is None:
        return _Match.OTHER
    payload = parse_payload(receipt.payload)
    identity, certificate = found.provenance.identity, found.provenance.certificate
    if identity is None or certificate is None:
        absent = found.provenance.credentials is not Credentials.PRESENT
        same = found.sha256 is not None and payload.get("media") == found.sha256
        return _Match.SAME_MEDIA if absent and same else _Match.OTHER
    if (
        payload.get("claim") == identity.claim.hex()
        and payload.get("binding") == identity.binding.hex()
        and payload.get("signature") == identity.signature.hex()
        and payload.get("certificate") == certificate.sha256
    ):
        return _Match.THIS_SIGNATURE
    if payload.get("claim") != identity.claim.hex() and payload.get("binding") == identity.binding.hex():
        return _Match.SAME_MEDIA
    return _Match.OTHER


def _is_of_claim(receipt: Receipt, provenance: Provenance) -> bool:
    if receipt.entry.kind is not Kind.SIGN or provenance.identity is None:
        return False
    return parse_payload(receipt.payload).get("claim") == provenance.identity.claim.hex()


def _answer(match: _Match, receipt: Receipt, origin: str) -> Recorded:
    place = f"entry {receipt.proof.index} of {origin}"
    if match is _Match.THIS_SIGNATURE:
        finding = Finding.holds(
            Code.LEDGER_INCLUDED, f"{place} records this signature; its inclusion was proven"
        )
        return dataclasses.replace(_told(receipt, origin, LedgerState.INCLUDED), findings=(finding,))
    finding = Finding.holds(
        Code.LEDGER_INCLUDED,
        f"{place} records these bytes, by its signer's word, as what was signed; its inclusion was proven",
    )
    return dataclasses.replace(_told(receipt, origin, LedgerState.SIMILAR), findings=(finding,))


def _told(receipt: Receipt, origin: str, state: LedgerState) -> Recorded:
    return Recorded(state, receipt.proof.index, receipt.entry.logged_at, origin)


def _silent(state: LedgerState, said: str) -> Recorded:
    return Recorded(state, findings=(Finding.fails(Code.LEDGER_INCLUDED, said),))


def _with_issuance(recorded: Recorded, provenance: Provenance, book: Book) -> Recorded:
    """Where the certificate's issuance is logged, and what was recorded then of its key's custody."""
    if provenance.certificate is None:
        return recorded
    spki = provenance.certificate.key_sha256
    if spki not in book.issuances:
        for index in book.ledger.find("spki", bytes.fromhex(spki))[:_MOST_CANDIDATES]:
            receipt = book.ledger.prove(index)
            receipt.check(book.keys, verify_note)
            payload = parse_payload(receipt.payload)
            if receipt.entry.kind is Kind.ISSUE and payload.get("spki") == spki:
                custody = next((member for member in Custody if member.value == payload.get("custody")), None)
                book.issuances[spki] = index, custody
                break
        else:
            return recorded
    index, custody = book.issuances[spki]
    return dataclasses.replace(recorded, issued_index=index, custody=custody)


def _bracketed(
    recorded: Recorded, provenance: Provenance, book: Book | None, keys: tuple[VerifierKey, ...]
) -> Recorded:
    """What the checkpoint inside the claim proves of when it was made."""
    ledger, witnesses = (None, None) if book is None else (book.ledger, book.witnesses)
    found = bracket(provenance.capture, ledger, keys, witnesses)
    if found is None:
        return recorded
    return dataclasses.replace(
        recorded,
        not_before=found.at,
        not_before_source=found.source,
        findings=(*recorded.findings, found.finding),
    )


def _with_place(recorded: Recorded, provenance: Provenance, book: Book) -> Recorded:
    """Where in its device's chain a capture stands, and what its key's evidence proves by now."""
    if book.registry is None or provenance.identity is None or provenance.certificate is None:
        return recorded
    standing = _standing(book.registry, provenance.certificate.sha256, book.standings)
    if standing is None:
        return recorded
    custody = _rejudged(standing, recorded.custody)
    if custody is not recorded.custody:
        said = (
            f"the evidence of where the key is kept proves {custody.value if custody else 'nothing'} by now, and"
            f" proved {recorded.custody.value if recorded.custody else 'nothing'} when the certificate was issued"
        )
        finding = Finding.fails(Code.CUSTODY_STANDS, said)
        recorded = dataclasses.replace(recorded, custody=custody, findings=(*recorded.findings, finding))
    recorded = dataclasses.replace(recorded, withdrawn_since=standing.withdrawn_since)
    if provenance.capture is None:
        return recorded
    place, whole = _chained(book.registry, provenance.identity, provenance.capture, standing.device)
    finding = Finding(Code.CAPTURE_CHAIN, whole, place)
    return dataclasses.replace(recorded, place=place, findings=(*recorded.findings, finding))


def _standing(registry: Registry, digest: str, known: dict[str, Standing | None]) -> Standing | None:
    """What is asked once for each certificate of a run, whose lists do not change while it goes on either."""
    if digest not in known:
        certificate = registry.certificate_by_digest(bytes.fromhex(digest))
        if certificate is None:
            known[digest] = None
        else:
            evidence, withdrawal = registry.evidence_of(certificate), registry.withdrawal_of(certificate)
            known[digest] = Standing(
                certificate.device,
                None if evidence is None else evidence.custody,
                None if withdrawal is None else withdrawal.since,
            )
    return known[digest]


def _rejudged(standing: Standing, logged: Custody | None) -> Custody | None:
    """The lesser of what was logged and what its own key's evidence proves by now; it never gains by ageing."""
    if logged is None or standing.evidence is None:
        return logged
    newest = next((member for member in Custody if member.value == standing.evidence), Custody.E0)
    return min(logged, newest, key=lambda member: member.value)


def _chained(
    registry: Registry, identity: AssetId, statement: CaptureStatement, device: str
) -> tuple[str, bool]:
    """What the registry knows of a claim that says it is one of a chain; a claim it does not know is told so."""
    capture = registry.capture_by_claim(identity.claim)
    if capture is None:
        for fork in registry.forks(device):
            if fork.refused.claim == identity.claim:
                return (
                    f"refused when it was handed in: {_ABOUT[fork.about]} another capture of the device {device}",
                    False,
                )
        return (
            f"says that it is a capture of a chain; the registry of this home never got it from {device}",
            False,
        )
    if (capture.commitment, capture.signature, capture.device) != (
        statement.commitment,
        identity.signature,
        device,
    ):
        return "says that it stands elsewhere in a chain than the registry of this home has it", False
    return _place(registry, capture)


def _place(registry: Registry, capture: Capture) -> tuple[str, bool]:
    """The capture's number, and whether the chain around it is whole as far as it has arrived."""
    said = f"capture {capture.counter} of the device {capture.device}, by the registry of this home"
    gaps = registry.missing(capture.device)
    before = [numbers for numbers in gaps if numbers.stop == capture.counter]
    if before:
        said += f"; {_numbers(before[0])} right before it never arrived"
    elif gaps:
        said += f"; of the device's others {', '.join(map(_numbers, gaps[:4]))} never arrived"
    if (unknown := beginning(registry, capture.device)) is not None:
        said += f"; {unknown}"
    if registry.forks(capture.device):
        said += "; two captures of the device contradict each other"
    return said, not gaps and not registry.forks(capture.device)


def _numbers(numbers: range) -> str:
    first, last = numbers.start, numbers.stop - 1
    return f"capture {first}" if first == last else f"captures {first} to {last}"
