"""Check one file's credentials and say what each check found.

The plan, in the order of the code; every check that can run does run.

 1. Read the manifest store, with the SDK and with our own reader.
 2. The claim is well formed and its assertions are the ones it names (C2PA 2.2, 15.10).
 3. The media matches the hard binding, and the binding leaves nothing out (15.12).
 4. The claim's signature verifies: our own check and the SDK's must agree (15.7).
 5. Time-stamp tokens date the signature, under the time-stampers' lists alone (15.8).
 6. The signer's chain ends in a signers' list, at that time (14.4).
 7. The certificate is of the kind that may sign claims (14.5, or the certificate policy).
 8. Nobody whose word counts withdrew it: stapled answers and what the examiner gave (15.9).
 9. Every ingredient: what was recorded, and what is recomputed now (15.11).
10. What the signer says, and who else signed for it, goes into its own panel, never promoted.

Does not read the clock, open a socket, decode a pixel or look at a ledger.
"""

import hashlib
from datetime import datetime

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from authn import cose, jumbf
from authn.attached import later_tokens, stapled_answers
from authn.binding import binding_hash, bound_manifest, check_binding, unjudged
from authn.capture_chain import read_statement
from authn.cawg import check_identities
from authn.claim import mismatches, redactions, taken_out
from authn.claims import read_claims
from authn.errors import MediaError
from authn.evidence import (
    AssetId,
    Claims,
    Code,
    Credentials,
    Finding,
    History,
    Provenance,
    RevocationFacts,
    Signature,
    Window,
)
from authn.history import check_history, is_fault
from authn.locate import locate
from authn.manifest import Reading, Sdk
from authn.media import Media
from authn.plain import plain
from authn.signer import Lists, certificate_facts, check_signer, check_time, nobody

MAX_ASSERTIONS = 1000


def verify_media(media: Media, sdk: Sdk, lists: Lists, at: datetime) -> Provenance:
    """Run every check on `media` as of `at`; the states follow from the findings."""
    # 1. Read the manifest store. The SDK's work grows with the square of the assertions, so they are counted first.
    try:
        store = locate(media)
        located = () if store is None else jumbf.parse(store)
    except MediaError as error:
        return _nothing_to_check(Credentials.UNREADABLE, str(error))
    most = max((len(manifest.assertions) for manifest in located), default=0)
    if most > MAX_ASSERTIONS:
        return _nothing_to_check(
            Credentials.UNREADABLE,
            f"the signed record has {most} assertions in one manifest; more than {MAX_ASSERTIONS} are not checked",
        )
    reading = sdk.read(media)
    if reading.credentials is not Credentials.PRESENT:
        return _nothing_to_check(reading.credentials, reading.reason)
    try:
        manifests = located if reading.store == store else jumbf.parse(reading.store)
        active = manifests[-1]
        signed = cose.parse(active.signature, active.claim)
    except MediaError as error:
        return _nothing_to_check(Credentials.UNREADABLE, str(error))
    if active.label != reading.active:
        return _nothing_to_check(Credentials.UNREADABLE, "two readers disagree on which manifest is active")
    leaf = signed.chain[0]
    findings = [
        Finding.holds(Code.CREDENTIALS_PRESENT, reading.reason),
        Finding.holds(Code.CREDENTIALS_READABLE, "the signed record can be taken apart by two readers"),
    ]

    # 2. Claim and assertions.
    faults = [status.code for status in reading.failures if is_fault(status.code)]
    faults += sorted(set(mismatches(active, redactions(manifests))))
    findings.append(_claim_finding(faults))

    # 3. Binding.
    bound = bound_manifest(reading, active, manifests)
    content, binding_findings = check_binding(media, reading, bound)
    findings += binding_findings

    # 4. Signature.
    signature = _signature(signed, active, reading)
    findings.append(
        Finding(
            Code.SIGNATURE_VALID,
            signature is Signature.VALID and not faults,
            "the claim's signature verifies under the key of its certificate"
            if signature is Signature.VALID
            else "the claim's signature does not verify",
        )
    )
    if faults:
        signature = Signature.BROKEN
    findings.append(
        Finding(
            Code.SIGNATURE_PADDING_EMPTY,
            signed.padding_empty,
            "the signature's padding is empty"
            if signed.padding_empty
            else "bytes that no signature protects stand in the signature's padding",
        )
    )

    # 5. Time.
    lists = lists.with_answers((*signed.answers, *stapled_answers(manifests)))
    time = check_time(signed, later_tokens(manifests, active.label), lists, at)
    sound = signature is Signature.VALID
    proven = time.signature.not_after if sound else None
    undated = Finding.fails(Code.TIME_PROVEN, "the signature does not hold, so there is nothing to date")
    findings.append(time.finding if sound else undated)

    # 6, 7 and 8. Signer, kind of certificate, withdrawal. A chain that was copied beside somebody else's
    #    signature is nobody's.
    signer = check_signer(signed.chain, lists, proven, at) if sound else nobody()
    findings += signer.findings

    # 9. History.
    history, steps, history_finding = check_history(reading, manifests, lists, at, signer.state)
    findings += [history_finding, _connected_finding(unjudged(media, reading, bound))]

    # 10. Claims.
    identities, identity_findings = check_identities(active, lists.identities, at, lists.statuses, proven)
    findings += identity_findings
    return Provenance(
        Credentials.PRESENT,
        content,
        signature,
        signer.state,
        time.signature if sound else Window(),
        signer.revocation,
        history,
        certificate_facts(leaf),
        signer.list,
        AssetId(
            hashlib.sha256(active.claim).digest(),
            binding_hash(bound),
            hashlib.sha256(signed.signature).digest(),
        ),
        read_claims(active),
        steps,
        tuple(findings),
        time.claim if sound else Window(),
        identities,
        taken_out(manifests, active.label),
        tuple(_der(path) for path in (signer.path, time.path) if sound and path),
        _der(signed.chain),
        time.token,
        read_statement(active),
    )


def _der(path: tuple[x509.Certificate, ...]) -> tuple[bytes, ...]:
    return tuple(certificate.public_bytes(Encoding.DER) for certificate in path)


def _nothing_to_check(credentials: Credentials, reason: str) -> Provenance:
    code = Code.CREDENTIALS_READABLE if credentials is Credentials.UNREADABLE else Code.CREDENTIALS_PRESENT
    return Provenance(
        credentials,
        None,
        None,
        None,
        Window(),
        RevocationFacts(explanation="there is no signer whose certificate could have been withdrawn"),
        History.NONE,
        None,
        None,
        None,
        Claims(),
        (),
        (Finding.fails(code, reason),),
    )


def _claim_finding(faults: list[str]) -> Finding:
    if faults:
        return Finding.fails(
            Code.ASSERTIONS_MATCH,
            f"the claim and its assertions do not agree ({plain(', '.join(faults), 120)})",
        )
    return Finding.holds(Code.ASSERTIONS_MATCH, "every assertion is the one the claim names")


def _connected_finding(strays: int) -> Finding:
    if strays:
        return Finding.fails(
            Code.HISTORY_CONNECTED,
            f"{strays} more records in the file belong to nothing it was made from; they were not judged",
        )
    return Finding.holds(Code.HISTORY_CONNECTED, "no record outside the file's history was found in it")


def _signature(signed: cose.ClaimSignature, active: jumbf.ManifestBoxes, reading: Reading) -> Signature:
    refused = any(status.code.startswith("claimSignature.") for status in reading.failures)
    return Signature.VALID if signed.verifies(active.claim) and not refused else Signature.BROKEN
