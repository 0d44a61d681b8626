"""Check one file's credentials and say what each check found.

The plan, in the order of the code; every check that can run does run.

 1. Read the manifest store, with the SDK and with our own reader.
 2. The claim is well formed and its assertions are the ones it names (C2PA 2.2, 15.10).
 3. The media matches the hard binding, and the binding leaves nothing out (15.12).
 4. The claim's signature verifies: our own check and the SDK's must agree (15.7).
 5. A time-stamp token dates the signature, under the time-stampers' list alone (15.8).
 6. The signer's chain ends in the signers' list, at that time (14.4).
 7. The certificate is of the kind that may sign claims (14.5, or the certificate policy).
 8. Revocation: nobody was asked, and the answer says so.
 9. Every ingredient: what was recorded, and what is recomputed now (15.11).
10. What the signer says is copied into its own panel, never promoted.

Does not read the clock, open a socket, decode a pixel or look at a ledger.
"""

import hashlib
from datetime import datetime

from cryptography.hazmat.primitives.serialization import Encoding

from authn import cose, jumbf
from authn.binding import binding_hash, bound_manifest, check_binding, unjudged
from authn.claim import mismatches, redactions
from authn.errors import MediaError
from authn.evidence import (
    AssetId,
    Claims,
    Code,
    Credentials,
    Finding,
    History,
    Provenance,
    Revocation,
    Signature,
    Signer,
    Window,
)
from authn.history import check_history, is_fault
from authn.manifest import Reading, Sdk
from authn.media import Media
from authn.plain import plain
from authn.signer import Lists, certificate_facts, check_signer, check_time


def verify_media(media: Media, sdk: Sdk, lists: Lists, at: datetime) -> Provenance:
    """Run every check on `media` as of `at`; the states follow from the findings."""
    # 1. Read the manifest store.
    reading = sdk.read(media)
    if reading.credentials is not Credentials.PRESENT:
        return _nothing_to_check(reading.credentials, reading.reason)
    try:
        manifests = jumbf.parse(reading.store)
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
    window, token, time_finding = check_time(signed, lists.time_stampers, at)
    findings.append(time_finding)
    proven = window.not_after if signature is Signature.VALID else None

    # 6 and 7. Signer.
    signer, signer_findings = check_signer(signed.chain, lists.signers, proven, at)
    findings += signer_findings

    # 8. Revocation.
    findings.append(
        Finding.fails(Code.REVOCATION_CHECKED, "nobody was asked whether the certificate was withdrawn")
    )

    # 9. History.
    history, steps, history_finding = check_history(reading, manifests, lists, at)
    findings += [history_finding, _connected_finding(unjudged(media, reading, bound))]

    # 10. Claims.
    return Provenance(
        Credentials.PRESENT,
        content,
        signature,
        signer,
        window if signature is Signature.VALID else Window(),
        Revocation.NOT_CHECKED,
        history,
        certificate_facts(leaf),
        lists.signers.name if signer is Signer.RECOGNISED else None,
        AssetId(
            hashlib.sha256(active.claim).digest(),
            binding_hash(bound),
            hashlib.sha256(signed.signature).digest(),
        ),
        _claims(reading),
        steps,
        tuple(findings),
        tuple(certificate.public_bytes(Encoding.DER) for certificate in signed.chain),
        token,
    )


def _nothing_to_check(credentials: Credentials, reason: str) -> Provenance:
    code = Code.CREDENTIALS_READABLE if credentials is Credentials.UNREADABLE else Code.CREDENTIALS_PRESENT
    return Provenance(
        credentials,
        None,
        None,
        None,
        Window(),
        Revocation.NOT_CHECKED,
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


def _claims(reading: Reading) -> Claims:
    manifest = next((item for item in reading.manifests if item.label == reading.active), None)
    if manifest is None:
        return Claims()
    return Claims(
        manifest.title, manifest.generator, manifest.actions, manifest.source_types, manifest.claimed_at
    )
