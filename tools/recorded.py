"""Add what a ledger, or a receipt, knows of one file.

Runs in the parent, over what a worker found. Every proof is checked before it
counts. Does not date anything: an entry's time is its operator's word.
"""

import dataclasses
from collections.abc import Sequence

import storage.errors
from authn.evidence import Code, Credentials, Custody, Finding, Provenance
from authn.keys import verify_ed25519
from storage.ledger import Ledger
from storage.note import VerifierKey
from storage.payload import parse as parse_payload
from storage.receipt import Receipt
from tools.examine import Examined
from tools.verdict import Ledger as LedgerState
from tools.verdict import Recorded


def weigh(
    found: Examined, ledger: Ledger | None, key: VerifierKey | None, receipt: Receipt | None
) -> Recorded:
    """Ask a receipt, else the ledger, about the asset; every proof is checked before it counts."""
    if found.provenance is None:
        return Recorded(LedgerState.NOT_CHECKED)
    if receipt is not None:
        return _by_receipt(found.provenance, key, receipt)
    if ledger is None or key is None:
        return Recorded(LedgerState.NOT_CHECKED)
    with ledger.at_once():
        if found.provenance.credentials is Credentials.PRESENT:
            return _by_ledger(found.provenance, ledger, key)
        return _by_bytes(found, ledger, key)


def _by_receipt(provenance: Provenance, key: VerifierKey | None, receipt: Receipt) -> Recorded:
    if key is None:
        finding = Finding.fails(
            Code.LEDGER_INCLUDED, "a receipt was given, but no ledger key to check it with"
        )
        return Recorded(LedgerState.NOT_CHECKED, findings=(finding,))
    try:
        receipt.check((key,), verify_ed25519)
    except storage.errors.Error as error:
        return Recorded(
            LedgerState.CONFLICTING,
            findings=(Finding.fails(Code.LEDGER_INCLUDED, f"the receipt does not hold: {error}"),),
        )
    return _compared(provenance, receipt, key)


def _by_ledger(provenance: Provenance, ledger: Ledger, key: VerifierKey) -> Recorded:
    if provenance.identity is None:
        return Recorded(LedgerState.UNKNOWN)
    indices = ledger.find("claim", provenance.identity.claim)
    if indices:
        receipt = ledger.prove(indices[0])
        receipt.check((key,), verify_ed25519)
        recorded = _compared(provenance, receipt, key)
        issued, custody = _issuance(provenance, ledger)
        return dataclasses.replace(recorded, issued_index=issued, custody=custody)
    similar = ledger.find("binding", provenance.identity.binding)
    if similar:
        finding = Finding.fails(
            Code.LEDGER_INCLUDED, f"entry {similar[0]} records the same media under another claim"
        )
        return Recorded(
            LedgerState.SIMILAR, similar[0], ledger.entry(similar[0]).logged_at, key.name, findings=(finding,)
        )
    finding = Finding.fails(Code.LEDGER_INCLUDED, f"the ledger {key.name} has no entry for this signature")
    return Recorded(LedgerState.UNKNOWN, origin=key.name, findings=(finding,))


def _by_bytes(found: Examined, ledger: Ledger, key: VerifierKey) -> Recorded:
    indices = ledger.find("media", bytes.fromhex(found.sha256)) if found.sha256 else ()
    if not indices:
        finding = Finding.fails(Code.LEDGER_INCLUDED, f"the ledger {key.name} does not know these bytes")
        return Recorded(LedgerState.UNKNOWN, origin=key.name, findings=(finding,))
    receipt = ledger.prove(indices[0])
    receipt.check((key,), verify_ed25519)
    finding = Finding.holds(
        Code.LEDGER_INCLUDED,
        f"entry {indices[0]} of {key.name} records exactly these bytes as what was signed",
    )
    return Recorded(LedgerState.SIMILAR, indices[0], receipt.entry.logged_at, key.name, findings=(finding,))


def _compared(provenance: Provenance, receipt: Receipt, key: VerifierKey) -> Recorded:
    """Whether a proven entry is about this very signature."""
    payload = parse_payload(receipt.payload)
    identity, certificate = provenance.identity, provenance.certificate
    index, logged_at = receipt.proof.index, receipt.entry.logged_at
    same = (
        identity is not None
        and certificate is not None
        and payload.get("claim") == identity.claim.hex()
        and payload.get("binding") == identity.binding.hex()
        and payload.get("signature") == identity.signature.hex()
        and payload.get("certificate") == certificate.sha256
    )
    if same:
        finding = Finding.holds(
            Code.LEDGER_INCLUDED,
            f"entry {index} of {key.name} records this signature; its inclusion was proven",
        )
        return Recorded(LedgerState.INCLUDED, index, logged_at, key.name, findings=(finding,))
    finding = Finding.fails(Code.LEDGER_INCLUDED, f"entry {index} of {key.name} is about another signature")
    return Recorded(LedgerState.CONFLICTING, index, logged_at, key.name, findings=(finding,))


def _issuance(provenance: Provenance, ledger: Ledger) -> tuple[int | None, Custody | None]:
    """Where the certificate's issuance is logged, and what was known then of its key's custody."""
    if provenance.certificate is None:
        return None, None
    indices: Sequence[int] = ledger.find("spki", bytes.fromhex(provenance.certificate.key_sha256))
    payload = ledger.payload(indices[0]) if indices else None
    if payload is None:
        return None, None
    custody = parse_payload(payload).get("custody")
    return indices[0], next((member for member in Custody if member.value == custody), None)
