"""Who could have signed, and by when: one claim signature against our lists.

Time is judged under the time-stampers' list alone, the certificate under the
signers' list alone, at the proven time or else at the moment asked for. Does
not ask whether a certificate was withdrawn.
"""

import hashlib
from dataclasses import dataclass
from datetime import datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import NameOID

from authn import cose
from authn.chain import build_chain
from authn.evidence import CertificateFacts, Code, Finding, Signer, Window
from authn.plain import plain
from authn.profile import Profile, check_profile
from authn.timestamp.token import check_token
from authn.trust import TrustList


@dataclass(frozen=True, slots=True)
class Lists:
    """Whom the examiner believes: about signatures, and, apart from it, about time."""

    signers: TrustList
    time_stampers: TrustList


def check_time(
    signed: cose.ClaimSignature, time_stampers: TrustList, at: datetime
) -> tuple[Window, bytes | None, Finding]:
    """The window that a token proves, the token, and the finding."""
    if signed.stamp_count > 1:
        return (
            Window(),
            None,
            Finding.fails(Code.TIME_PROVEN, "two time-stamp tokens contradict the format; neither counts"),
        )
    if signed.stamp is None:
        return (
            Window(),
            None,
            Finding.fails(Code.TIME_PROVEN, "no time-stamp token: nothing proves when this was signed"),
        )
    if not signed.stamp.over_signature:
        return (
            Window(),
            signed.stamp.token,
            Finding.fails(
                Code.TIME_PROVEN,
                "the time-stamp token is of the older kind that dates the claim, not the signature",
            ),
        )
    evidence = check_token(signed.stamp.token, signed.stamp.message, time_stampers, at)
    if not evidence.proven or evidence.gen_time is None:
        return Window(), signed.stamp.token, Finding.fails(Code.TIME_PROVEN, evidence.reason)
    latest = evidence.gen_time + (evidence.accuracy or timedelta())
    return (
        Window(
            None, latest, f"time-stamp token by {plain(evidence.authority, 80)}, list {time_stampers.name}"
        ),
        signed.stamp.token,
        Finding.holds(
            Code.TIME_PROVEN,
            f"a time-stamp token by {plain(evidence.authority, 80)} dates the signature",
        ),
    )


def check_signer(
    chain: tuple[x509.Certificate, ...], signers: TrustList, proven: datetime | None, at: datetime
) -> tuple[Signer, list[Finding]]:
    """Judge the certificate at the proven time, or now where none is proven.

    A certificate under the list is held to the list's profile along the path that
    was found, so that nothing a stranger adds to the chain matters. One that is not
    is held to what C2PA asks of any signer: it is unknown, and rarely worse.
    """
    leaf, moment = chain[0], proven or at
    path = build_chain(leaf, chain[1:], signers.anchors, moment)
    # Out of date, perhaps, but issued by somebody we believe?
    issued = path.path or build_chain(leaf, chain[1:], signers.anchors, leaf.not_valid_before_utc).path
    violations = (
        check_profile((leaf,), Profile.SPECIFICATION, moment)
        if issued is None
        else check_profile(issued, signers.profile, moment)
    )
    dated = [violation for violation in violations if violation.rule in ("expired", "not-yet-valid")]
    kind = [violation for violation in violations if violation not in dated]
    when = "at the proven time" if proven else "now, since no time is proven"
    findings = [
        Finding(
            Code.SIGNER_CHAIN,
            path.path is not None,
            f"the certificate's chain ends in the list {signers.name}"
            if path.path is not None
            else f"the certificate's chain does not end in the list {signers.name}: {path.reason}",
        ),
        Finding(
            Code.SIGNER_PROFILE,
            not kind,
            "the certificate is of the kind that may sign claims"
            if not kind
            else "; ".join(violation.explanation for violation in kind[:3]),
        ),
        Finding(
            Code.SIGNER_VALID_AT,
            not dated,
            f"the certificate is valid {when}"
            if not dated
            else f"the certificate is not valid {when}: {dated[0].explanation}",
        ),
    ]
    if kind:
        return Signer.WRONG_KIND, findings
    if path.path is not None and not dated:
        return Signer.RECOGNISED, findings
    if dated and issued is not None:
        return Signer.EXPIRED_TIME_UNPROVEN, findings
    return Signer.NOT_RECOGNISED, findings


def _name(name: x509.Name, kind: x509.ObjectIdentifier) -> str:
    values = name.get_attributes_for_oid(kind)
    return plain(str(values[0].value), 80) if values else ""


def certificate_facts(certificate: x509.Certificate) -> CertificateFacts:
    """What a certificate says of itself, made safe to show."""
    return CertificateFacts(
        _name(certificate.subject, NameOID.COMMON_NAME),
        _name(certificate.subject, NameOID.ORGANIZATION_NAME),
        _name(certificate.issuer, NameOID.COMMON_NAME),
        f"{certificate.serial_number:x}",
        certificate.fingerprint(hashes.SHA256()).hex(),
        hashlib.sha256(
            certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        ).hexdigest(),
        certificate.not_valid_before_utc,
        certificate.not_valid_after_utc,
    )
