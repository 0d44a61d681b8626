"""Judge Android Key Attestation: is this key in a phone's hardware, made there for our app?

The evidence is the certificate chain that Android's key store gives, leaf first
and root last. The rules are those of android/keyattestation for the chain, and
for the key the table that the C2PA Certificate Policy 0.2 gives for Android;
where the policy prints tag 718 twice, the boot patch level is 719.

Not proven: that the phone was not taken over after it started, that the maker's
attestation keys did not leak before the status list says so, nor what the camera
saw. Which phone it is, is not asked.
"""

import base64
import hashlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from enum import Enum

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import NameOID

from authn.attestation import certificates, key_description, roots
from authn.attestation.judgement import Evidence, Judgement, Kind, Rule
from authn.attestation.key_description import Application, AuthorizationList, KeyDescription, Package
from authn.attestation.status_list import StatusList, serial_text
from authn.chain import weak_key, weak_signature
from authn.errors import EvidenceError
from authn.evidence import Custody
from authn.plain import plain

MAX_CHAIN = 10
STATEMENT = x509.ObjectIdentifier("1.3.6.1.4.1.11129.2.1.17")

_FORM = re.compile(rb'\{"x5c":\["[A-Za-z0-9+/]+={0,2}"(?:,"[A-Za-z0-9+/]+={0,2}")*\]\}')
_TEE, _STRONGBOX = 1, 2
_RSA, _EC = 1, 3
_SIGN, _VERIFY = 2, 3
_PSS = 3
_GENERATED = 0
_VERIFIED = 0
_SHA2 = frozenset({4, 5, 6})
_CURVES = {1: 256, 2: 384, 3: 521}
_RSA_SIZES = frozenset({2048, 3072, 4096})
_PATCH_MONTHS = 3
_PATCH_DAYS = 90
_NAME = re.compile(r"[A-Za-z0-9_.]{1,255}")
_DIGEST = re.compile(r"[0-9a-f]{64}")


class Provisioning(Enum):
    """How the attestation key came into the phone, with the length of the chain that follows from it."""

    FACTORY = 4
    REMOTE = 5


@dataclass(frozen=True, slots=True)
class Rules:
    """What a product demands. An app, signer or model that is named must match; none named proves none.

    The label E3 needs packages and signers, since it includes which app asked.
    """

    packages: frozenset[Package] = frozenset()
    signers: frozenset[bytes] = frozenset()
    brand: bytes | None = None
    manufacturer: bytes | None = None
    model: bytes | None = None

    @classmethod
    def parse(cls, value: object) -> "Rules":
        """Read a product's rules as decoded JSON: packages {name: [versions]}, signers [hex], brand, ..."""
        allowed = {"packages", "signers", "brand", "manufacturer", "model"}
        if not isinstance(value, dict) or value.keys() - allowed:
            raise EvidenceError("the product's Android rules have a field that is unknown")
        packages, signers = value.get("packages", {}), value.get("signers", [])
        if not isinstance(packages, dict) or not isinstance(signers, list) or bool(packages) != bool(signers):
            raise EvidenceError("the product's Android rules must name packages and signers, or neither")
        return cls(
            frozenset(_packages(packages)),
            frozenset(_signer(signer) for signer in signers),
            *(_identifier(value.get(name)) for name in ("brand", "manufacturer", "model")),
        )


@dataclass(frozen=True, slots=True)
class Expectation:
    """What the evidence must show. `spki` is the key that the certificate was requested for."""

    challenge: bytes
    spki: bytes
    status: StatusList
    rules: Rules = field(default_factory=Rules)
    roots: frozenset[bytes] = field(default_factory=roots.google_keys)
    """SHA-256 of each key that may stand at the root."""


def evidence(chain: Sequence[bytes]) -> Evidence:
    """Write a chain of DER certificates, leaf first, as evidence: canonical JSON."""
    text = ",".join(f'"{base64.b64encode(certificate).decode("ascii")}"' for certificate in chain)
    return Evidence(Kind.ANDROID, f'{{"x5c":[{text}]}}'.encode("ascii"))


def judge(evidence: Evidence, expectation: Expectation, at: datetime) -> Judgement:
    """Judge a chain as of `at`: dates and patch levels by that moment, withdrawal by the list's.

    Runs every check it can; raises EvidenceError for what cannot be read, and nothing else.
    """
    # 1. The certificates, within limits.
    chain = _read(evidence)
    serials = tuple(dict.fromkeys(serial_text(certificate.serial_number) for certificate in chain))
    refused = [*_chain_rules(chain, expectation.roots, at), *_withdrawn(serials, expectation.status)]
    warnings = _stale(expectation.status, at)
    # 2. The statement nearest to the root: whoever holds an attested key can certify further
    #    keys with statements of their own, below it.
    stated = [place for place, certificate in enumerate(chain) if _statement(certificate) is not None]
    if not stated:
        refused.append(Rule("no-statement", "no certificate of the chain states where its key is"))
        return Judgement(Custody.E0, b"", b"", tuple(refused), serials, warnings)
    place = stated[-1]
    if place != 0:
        refused.append(Rule("chain-extended", "an attested key certified another one below it"))
    description = key_description.read(_statement(chain[place]) or b"")
    spki = roots.spki_of(chain[place])
    # 3. What must hold for any label.
    refused += _key_rules(description, expectation, chain[place])
    refused += _application_rules(description.software.application, expectation.rules)
    refused += _model_rules(description.hardware, expectation.rules)
    # 4. What E3 needs besides.
    missing = [
        *_named(expectation.rules),
        *_boot_rules(description.hardware),
        *_patch_rules(description.hardware, at),
    ]
    broken = (*refused, *missing)
    if refused:
        return Judgement(Custody.E0, b"", b"", broken, serials, warnings)
    custody = Custody.E2 if missing else Custody.E3
    return Judgement(custody, spki, _pin(chain, description), broken, serials, warnings)


def _read(evidence: Evidence) -> tuple[x509.Certificate, ...]:
    if evidence.kind is not Kind.ANDROID or not _FORM.fullmatch(evidence.data):
        raise EvidenceError("the evidence is no Android certificate chain in the form that we write")
    texts = evidence.data[len(b'{"x5c":["') : -len(b'"]}')].split(b'","')
    if len(texts) > MAX_CHAIN:
        raise EvidenceError(f"the chain has more than {MAX_CHAIN} certificates")
    return tuple(_certificate(text, place) for place, text in enumerate(texts))


def _certificate(text: bytes, place: int) -> x509.Certificate:
    which = f"certificate {place} of the chain"
    try:
        data = base64.b64decode(text, validate=True)
    except ValueError as error:
        raise EvidenceError(f"{which} is not base64") from error
    if base64.b64encode(data) != text:
        raise EvidenceError(f"{which} is not in canonical base64")
    return certificates.read(data, which)


def _chain_rules(chain: Sequence[x509.Certificate], pinned: frozenset[bytes], at: datetime) -> Iterator[Rule]:
    if roots.key_digest(chain[-1]) not in pinned:
        yield Rule("root-unknown", "the chain does not end in a key that is pinned, whatever its name")
    provisioning = _provisioning(chain)
    if provisioning is None or len(chain) != provisioning.value:
        yield Rule("chain-length", f"{len(chain)} certificates are not what such a chain has")
    for place, certificate in enumerate(chain):
        issuer = chain[min(place + 1, len(chain) - 1)]
        if not certificates.issued(issuer, certificate):
            yield Rule("chain-signature", f"certificate {place} is not signed by the one above it")
        if weak_signature(certificate) or weak_key(issuer):
            yield Rule("chain-weak", f"certificate {place} is signed in a way that is not accepted any more")
        # Some factory attestation keys were certified as if they were no authority's.
        excused = place == 1 and provisioning is Provisioning.FACTORY
        if place and not excused and not certificates.authority(certificate):
            yield Rule("chain-authority", f"certificate {place} may not certify others")
    # The leaf's dates are whatever the phone wrote; the root is believed for its key. Factory
    # keys outlive their certificates, by their maker's own rule.
    for place, certificate in enumerate(chain[1:-1], 1):
        if at < certificate.not_valid_before_utc:
            yield Rule("chain-not-yet-valid", f"certificate {place} is not valid yet")
        if at > certificate.not_valid_after_utc and provisioning is not Provisioning.FACTORY:
            yield Rule(
                "chain-expired", f"certificate {place} expired on {certificate.not_valid_after_utc:%Y-%m-%d}"
            )


def _provisioning(chain: Sequence[x509.Certificate]) -> Provisioning | None:
    """How the chain says it was provisioned: by the certificate below the root, which the root signed."""
    if len(chain) < 2:
        return None
    subject = chain[-2].subject
    if subject.get_attributes_for_oid(NameOID.SERIAL_NUMBER):
        return Provisioning.FACTORY
    names = {attribute.oid: attribute.value for attribute in subject}
    if (names.get(NameOID.COMMON_NAME), names.get(NameOID.ORGANIZATION_NAME)) == ("Droid CA2", "Google LLC"):
        return Provisioning.REMOTE
    return None


def _withdrawn(serials: Sequence[str], status: StatusList) -> Iterator[Rule]:
    for serial in serials:
        entry = status.of(serial)
        if entry is not None:
            why = f"{entry.status} {entry.reason}".strip()
            yield Rule("revoked", f"the maker withdrew the certificate {serial} ({why})")


def _stale(status: StatusList, at: datetime) -> tuple[Rule, ...]:
    if not status.stale(at):
        return ()
    return (Rule("status-list-stale", f"the list of withdrawn certificates is of {status.dated:%Y-%m-%d}"),)


def _statement(certificate: x509.Certificate) -> bytes | None:
    for extension in certificate.extensions:
        if extension.oid == STATEMENT and isinstance(extension.value, x509.UnrecognizedExtension):
            return extension.value.value
    return None


def _key_rules(
    description: KeyDescription, expectation: Expectation, certificate: x509.Certificate
) -> Iterator[Rule]:
    """The key's own part of the table; values count only from the list that the hardware enforces."""
    hardware = description.hardware
    if {description.level, description.keymint_level} - {_TEE, _STRONGBOX}:
        yield Rule("security-level", "the key or the statement was made in software")
    if description.challenge != expectation.challenge:
        yield Rule("challenge", "the statement answers another challenge")
    if roots.spki_of(certificate) != expectation.spki:
        yield Rule(
            "key-not-requested", "the attested key is not the one that a certificate was requested for"
        )
    if _SIGN not in hardware.purposes or hardware.purposes - {_SIGN, _VERIFY}:
        yield Rule("key-purpose", "the key is not for signing only")
    if not hardware.digests & _SHA2:
        yield Rule("key-digest", "the key does not hash what it signs: it signs any bytes of the right size")
    if hardware.origin != _GENERATED:
        yield Rule("key-origin", "the hardware does not say that it generated the key")
    yield from _algorithm_rules(hardware, certificate)


def _algorithm_rules(hardware: AuthorizationList, certificate: x509.Certificate) -> Iterator[Rule]:
    key = certificate.public_key()
    if hardware.algorithm == _RSA and isinstance(key, rsa.RSAPublicKey):
        if hardware.key_size not in _RSA_SIZES or key.key_size != hardware.key_size:
            yield Rule("key-size", "the RSA key has another size than stated, or none that is accepted")
        if _PSS not in hardware.paddings:
            yield Rule("key-padding", "the RSA key does not sign with PSS")
    elif hardware.algorithm == _EC and isinstance(key, ec.EllipticCurvePublicKey):
        if hardware.key_size not in _CURVES.values() or key.key_size != hardware.key_size:
            yield Rule(
                "key-size", "the elliptic-curve key has another size than stated, or none that is accepted"
            )
        if hardware.curve is None or _CURVES.get(hardware.curve) != key.key_size:
            yield Rule("key-curve", "the key is on another curve than stated")
        if not isinstance(key.curve, ec.SECP256R1 | ec.SECP384R1 | ec.SECP521R1):
            yield Rule("key-curve", "the key is on a curve that is not accepted")
    else:
        yield Rule(
            "key-algorithm", "the key is neither RSA nor elliptic-curve, or not of the algorithm stated"
        )


def _application_rules(application: Application | None, rules: Rules) -> Iterator[Rule]:
    if not rules.packages:
        return
    if application is None or not application.packages:
        yield Rule("app-missing", "the statement does not say which app asked for the key")
        return
    # A second package under the same user id could use the key as well.
    if foreign := application.packages - rules.packages:
        names = ", ".join(sorted(plain(f"{package.name} {package.version}", 80) for package in foreign)[:3])
        yield Rule("app-package", f"an app asked for the key that the product does not have: {names}")
    if not application.signers or application.signers - rules.signers:
        yield Rule("app-signer", "the app was signed by someone whom the product does not name")


def _model_rules(hardware: AuthorizationList, rules: Rules) -> Iterator[Rule]:
    for name, wanted, stated in (
        ("brand", rules.brand, hardware.brand),
        ("manufacturer", rules.manufacturer, hardware.manufacturer),
        ("model", rules.model, hardware.model),
    ):
        if wanted is not None and stated != wanted:
            yield Rule(f"device-{name}", f"the hardware does not state the {name} that the product demands")


def _named(rules: Rules) -> Iterator[Rule]:
    if not rules.packages:
        yield Rule("app-unnamed", "the product names no app, so none was checked")


def _boot_rules(hardware: AuthorizationList) -> Iterator[Rule]:
    root = hardware.root_of_trust
    if root is None:
        yield Rule("boot-unknown", "the hardware does not say how the device booted")
        return
    if not root.locked:
        yield Rule("boot-unlocked", "the device's bootloader is unlocked")
    if root.boot_state != _VERIFIED:
        yield Rule("boot-unverified", "the device runs a system that its maker did not sign")


def _patch_rules(hardware: AuthorizationList, at: datetime) -> Iterator[Rule]:
    today = at.astimezone(UTC).date()
    month = _month(hardware.os_patch)
    if month is None or not 0 <= today.year * 12 + today.month - 1 - month <= _PATCH_MONTHS:
        yield Rule("os-patch", f"the system's patch level is not of this month or the {_PATCH_MONTHS} before")
    for name, level in (("vendor", hardware.vendor_patch), ("boot", hardware.boot_patch)):
        day = _day(level)
        if day is None or not 0 <= (today - day).days <= _PATCH_DAYS:
            yield Rule(f"{name}-patch", f"the {name} patch level is not of the last {_PATCH_DAYS} days")


def _month(level: int | None) -> int | None:
    """The months since year 0 of a level YYYYMM."""
    year, month = divmod(level or 0, 100)
    return year * 12 + month - 1 if 2000 <= year <= 9999 and 1 <= month <= 12 else None


def _day(level: int | None) -> date | None:
    """The day of a level YYYYMMDD; a maker that does not know the day writes 00."""
    months, day = divmod(level or 0, 100)
    if _month(months) is None:
        return None
    try:
        return date(months // 100, months % 100, max(day, 1))
    except ValueError:
        return None


def _pin(chain: Sequence[x509.Certificate], description: KeyDescription) -> bytes:
    """What stays the same when the device comes back; never only this device's own.

    A factory's attestation key does, and a batch of phones has it: the Android CDD, 9.11,
    has one shared among 100 000. A remotely provisioned one lives for weeks, so there it is
    the level and the key that the system is verified with: the same for every phone of a
    maker's line. Empty if the hardware states none, as where that key is all zeros.
    """
    if _provisioning(chain) is Provisioning.FACTORY:
        return hashlib.sha256(
            b"android-factory\0" + roots.spki_of(chain[-1]) + roots.spki_of(chain[1])
        ).digest()
    root = description.hardware.root_of_trust
    if root is None or len(set(root.boot_key)) < 2:
        return b""
    return hashlib.sha256(b"android-remote\0" + bytes([description.level]) + root.boot_key).digest()


def _packages(packages: dict[object, object]) -> Iterator[Package]:
    for name, versions in packages.items():
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            raise EvidenceError("a package in the product's Android rules has no name that may be")
        if not isinstance(versions, list) or not versions:
            raise EvidenceError(f"the product's Android rules name no version of {name}")
        for version in versions:
            if isinstance(version, bool) or not isinstance(version, int):
                raise EvidenceError(f"the product's Android rules name a version of {name} that is no number")
            yield Package(name, version)


def _signer(signer: object) -> bytes:
    if not isinstance(signer, str) or not _DIGEST.fullmatch(signer):
        raise EvidenceError("a signer in the product's Android rules is not a SHA-256 in lower-case hex")
    return bytes.fromhex(signer)


def _identifier(value: object) -> bytes | None:
    if value is None:
        return None
    if not isinstance(value, str) or not 0 < len(value) <= 64 or not value.isprintable():
        raise EvidenceError("a brand, manufacturer or model in the product's Android rules is not short text")
    return value.encode()
