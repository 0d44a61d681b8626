"""Put together the evidence bundle of one report: what the worker kept, the ledger's proof, the lists."""

from datetime import UTC, datetime
from pathlib import Path

from authn.evidence import Signature, Signer
from authn.keys import verify_note
from storage.note import Algorithm, VerifierKey, open_note
from storage.receipt import Receipt
from tools.bundle import BundleContents, Seal, SignedClaim, Token, write_bundle
from tools.check import Beliefs
from tools.examine import Examined, Kept
from tools.home import SERVICE, Home
from tools.report import Report, as_json
from tools.verdict import Ledger


def bundle_up(
    path: Path, report: Report, found: Examined, held: Beliefs, receipt: Receipt | None, home: Home | None
) -> None:
    """Write the bundle of `report`; sealed by the home's signing service where there is a home."""
    provenance, recorded = report.verdict.provenance, report.verdict.recorded
    kept = found.kept
    if recorded.state not in (Ledger.INCLUDED, Ledger.SIMILAR):
        receipt = None  # one that is about something else would stand there as evidence
    elif receipt is None and recorded.index is not None and held.book:
        receipt = held.book.ledger.prove(recorded.index)
    recognised = provenance is not None and provenance.signer is Signer.RECOGNISED
    sound = provenance is not None and provenance.signature is Signature.VALID
    moment = report.engine.judged_at
    contents = BundleContents(
        as_json(report).encode() + b"\n",
        report.file,
        report.sha256,
        report.engine.checked_at,
        kept.store if kept else None,
        provenance.chain if provenance else (),
        SignedClaim(kept.claim, kept.message, kept.signature, kept.algorithm) if kept and sound else None,
        provenance.signer_list if provenance and recognised else None,
        (provenance.time.not_after if provenance else None) or moment,
        _tokens(kept) if kept else (),
        receipt,
        _log_key(receipt, held.keys) if receipt else None,
        held.policy.files,
    )
    if home is None:
        write_bundle(path, contents, None)
        return
    # The seal is dated when it is made; the report says when the file was checked.
    with home.ledger_to_read() as ledger:
        unit = home.authority(_now, ledger)
        unit.require_time()
        write_bundle(path, contents, Seal.of(home.device(SERVICE), unit, *home.own_lists()))


def _log_key(receipt: Receipt, keys: tuple[VerifierKey, ...]) -> VerifierKey | None:
    """Of the log's keys, one that signed this receipt's checkpoint, and that any program can check."""
    signers = open_note(receipt.proof.note, keys, verify_note).signers
    return next((key for key in signers if key.algorithm is Algorithm.ED25519), None)


def _tokens(kept: Kept) -> tuple[Token, ...]:
    return tuple(
        Token(f"signature-{number}", token.token, token.message, token.list, token.at)
        for number, token in enumerate(kept.tokens, 1)
    )


def _now() -> datetime:
    return datetime.now(UTC)
