"""Judge whether certificates are of the kind their purpose demands.

Three profiles. `POLICY` is the C2PA Certificate Policy v0.2, strict, for signers.
`SPECIFICATION` is C2PA 2.2, section 14.5.1, for media signed before the policy.
`TIME_STAMPING` is RFC 3161, section 2.3. Every rule that is broken is named.
Beside them stand the roles, to which an authority of ours holds one certificate
before it lets it out: the same rules, and some that only bind whoever issues.

Does not build a path, and believes nothing a certificate says: a stranger can
make certificates that fit a profile. Of an authority only what the profile says
of authorities is judged; its dates and its signature are the path's business.
The policy's record of a conforming product is checked for its form if present
and not demanded, since a private authority has none to name.
"""

import functools
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import TypeVar

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import (
    AuthorityInformationAccessOID,
    ExtendedKeyUsageOID,
    NameOID,
    SignatureAlgorithmOID,
)

from authn import der
from authn.chain import unknown_critical, unreadable, weak_key, weak_signature
from authn.errors import MalformedDerError

MAX_CHAIN = 16

_CLAIM_SIGNING = x509.ObjectIdentifier("1.3.6.1.4.1.62558.2.1")
_DOCUMENT_SIGNING = x509.ObjectIdentifier("1.3.6.1.5.5.7.3.36")
_COMPANIONS = frozenset({ExtendedKeyUsageOID.EMAIL_PROTECTION, _DOCUMENT_SIGNING})
_SIGNING = _COMPANIONS | {_CLAIM_SIGNING}
_POLICY = x509.ObjectIdentifier("1.3.6.1.4.1.62558.1.1")
_LEVEL = x509.ObjectIdentifier("1.3.6.1.4.1.62558.3")
_RECORD = x509.ObjectIdentifier("1.3.6.1.4.1.62558.4")
_LEVELS = {
    der.oid("1.3.6.1.4.1.62558.3.10"): timedelta(days=366),
    der.oid("1.3.6.1.4.1.62558.3.20"): timedelta(days=90),
}
_AUTHORITY_LIFE = timedelta(days=1827)
_NAMES = (NameOID.COUNTRY_NAME, NameOID.ORGANIZATION_NAME, NameOID.COMMON_NAME)
_NAMES_ALLOWED = frozenset(
    {*_NAMES, NameOID.ORGANIZATIONAL_UNIT_NAME, NameOID.LOCALITY_NAME, NameOID.STATE_OR_PROVINCE_NAME}
)
_RECORD_FORM = re.compile(rb"\x0c\x24[0-9a-f]{8}-(?:[0-9a-f]{4}-){3}[0-9a-f]{12}")
_UNIQUE_IDS = frozenset({0x81, 0x82})


class Profile(StrEnum):
    """Which rules certificates are held to."""

    POLICY = "c2pa-certificate-policy-0.2"
    SPECIFICATION = "c2pa-specification-2"
    TIME_STAMPING = "rfc3161-time-stamping"


class Role(StrEnum):
    """What one certificate is issued for."""

    ROOT = "root"
    ISSUING = "issuing"
    CLAIM_SIGNER = "claim-signer"
    TIME_STAMPING_ROOT = "time-stamping-root"
    TIME_STAMPER = "time-stamper"
    RESPONDER = "ocsp-responder"


@dataclass(frozen=True, slots=True)
class Violation:
    """One broken rule: its stable name, a sentence, and whose certificate."""

    rule: str
    explanation: str
    subject: str


def check_profile(chain: Sequence[x509.Certificate], profile: Profile, at: datetime) -> tuple[Violation, ...]:
    """Every rule of `profile` that `chain` breaks at `at`; the leaf comes first.

    A last certificate that names itself as its issuer is taken for a root; roots
    are believed by configuration and judged by nothing here.
    """
    if not chain or len(chain) > MAX_CHAIN:
        return (Violation("chain-length", f"a chain has 1 to {MAX_CHAIN} certificates", "chain"),)
    found: list[Violation] = []
    for position, certificate in enumerate(chain):
        which = "signer" if position == 0 else f"authority {position}"
        if reason := unreadable(certificate):
            found.append(Violation("unreadable", f"the certificate of {which} {reason}", which))
            continue
        if position == 0:
            rules = _LEAF_RULES[profile]
        elif position == len(chain) - 1 and certificate.subject == certificate.issuer:
            continue
        else:
            rules = _AUTHORITY_RULES[profile] if position == 1 else _UPPER_RULES[profile]
        dated = _dates(certificate, at) if position == 0 else ()
        found += [
            Violation(name, f"the certificate {text}", which)
            for name, text in (*dated, *_standing(certificate, rules))
        ]
    return tuple(found)


def check_role(certificate: x509.Certificate, role: Role) -> tuple[Violation, ...]:
    """Every rule that `certificate` breaks at any time as one issued for `role`: stricter than a profile.

    Looks at one certificate. Not whether its issuer may issue it, and at no signature.
    """
    if reason := unreadable(certificate):
        return (Violation("unreadable", f"the certificate {reason}", role.value),)
    return tuple(
        Violation(name, f"the certificate {text}", role.value)
        for name, text in _standing(certificate, _ROLE_RULES[role])
    )


# --- What a rule looks at

_Value = TypeVar("_Value", bound=x509.ExtensionType)


@dataclass(frozen=True, slots=True)
class _Facts:
    """A certificate known to be readable, with its extensions at hand."""

    certificate: x509.Certificate

    def find(self, kind: type[_Value]) -> x509.Extension[_Value] | None:
        for extension in self.certificate.extensions:
            if isinstance(extension.value, kind):
                return x509.Extension(extension.oid, extension.critical, extension.value)
        return None

    def unrecognised(self, oid: x509.ObjectIdentifier) -> x509.Extension[x509.UnrecognizedExtension] | None:
        for extension in self.certificate.extensions:
            if extension.oid == oid and isinstance(extension.value, x509.UnrecognizedExtension):
                return x509.Extension(extension.oid, extension.critical, extension.value)
        return None

    @property
    def purposes(self) -> frozenset[x509.ObjectIdentifier]:
        found = self.find(x509.ExtendedKeyUsage)
        return frozenset(found.value) if found else frozenset()

    @property
    def life(self) -> timedelta:
        return self.certificate.not_valid_after_utc - self.certificate.not_valid_before_utc


Broken = Iterator[tuple[str, str]]
Rule = Callable[[_Facts], Broken]


# --- Rules of every profile


def _form(facts: _Facts) -> Broken:
    certificate = facts.certificate
    if certificate.version is not x509.Version.v3:
        yield "version", "is not of version 3"
    if not 0 < certificate.serial_number < 1 << 160:
        yield "serial-number", "has a serial number that is not positive or too long"
    try:
        fields = der.parse(certificate.tbs_certificate_bytes).fields().rest()
    except MalformedDerError:
        yield "encoding", "is not encoded in the one way DER allows"
    else:
        if any(field.tag in _UNIQUE_IDS for field in fields):
            yield "unique-identifiers", "has unique identifiers, which the profile forbids"
    if unknown := unknown_critical(certificate):
        yield "unknown-critical-extension", f"has a critical extension that is not understood ({unknown[0]})"


def _dates(certificate: x509.Certificate, at: datetime) -> Broken:
    if at < certificate.not_valid_before_utc:
        yield "not-yet-valid", f"is not valid before {certificate.not_valid_before_utc:%Y-%m-%d %H:%M:%S} UTC"
    if at > certificate.not_valid_after_utc:
        yield "expired", f"expired on {certificate.not_valid_after_utc:%Y-%m-%d %H:%M:%S} UTC"


# An archive shows the same few certificates over and over; they compare by their bytes.
@functools.lru_cache(1024)
def _standing(certificate: x509.Certificate, rules: tuple[Rule, ...]) -> tuple[tuple[str, str], ...]:
    """What a certificate breaks at any time."""
    facts = _Facts(certificate)
    return tuple(broken for rule in rules for broken in rule(facts))


def _algorithms(facts: _Facts) -> Broken:
    if reason := weak_key(facts.certificate):
        yield "key-algorithm", reason
    if reason := weak_signature(facts.certificate):
        yield "signature-algorithm", reason


def _no_authority(facts: _Facts) -> Broken:
    constraints = facts.find(x509.BasicConstraints)
    if constraints is not None and constraints.value.ca:
        yield "basic-constraints", "is one of an authority"
    usage = facts.find(x509.KeyUsage)
    if usage is None:
        yield "key-usage-missing", "does not say what its key is for"
        return
    if usage.value.key_cert_sign or usage.value.crl_sign:
        yield "key-usage-authority", "lets its key sign certificates"


def _issuer_named(facts: _Facts) -> Broken:
    issuer = facts.find(x509.AuthorityKeyIdentifier)
    if issuer is None or not issuer.value.key_identifier:
        yield "authority-key-id", "does not identify its issuer's key"
    elif issuer.critical:
        yield "authority-key-id", "has a critical identifier of its issuer's key"


def _authority(facts: _Facts) -> Broken:
    constraints, usage = facts.find(x509.BasicConstraints), facts.find(x509.KeyUsage)
    if constraints is None or not constraints.value.ca or not constraints.critical:
        yield "authority-basic-constraints", "is not one of an authority, though it issued another"
    if usage is None or not usage.value.key_cert_sign:
        yield "authority-key-usage", "does not let its key sign certificates"


# --- C2PA 2.2, 14.5.1


def _specification_usage(facts: _Facts) -> Broken:
    usage = facts.find(x509.KeyUsage)
    if usage is not None and not usage.value.digital_signature:
        yield "key-usage-bits", "does not let its key make signatures"


def _specification_purposes(facts: _Facts) -> Broken:
    if facts.find(x509.ExtendedKeyUsage) is None:
        yield "purpose-missing", "does not say for which purpose it was issued"
        return
    if ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE in facts.purposes:
        yield "purpose-any", "is for any purpose, which the profile forbids"
    if not facts.purposes & _SIGNING:
        yield "purpose", "was not issued for signing claims, documents or mail"
    if facts.purposes & _APART and len(facts.purposes) > 1:
        yield "purpose-mixed", "mixes time-stamping or status answers with another purpose"


def _authority_may_certify_signers(facts: _Facts) -> Broken:
    if facts.purposes and not facts.purposes & (_SIGNING | {ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE}):
        yield "authority-purpose", "is of an authority that may not certify signers"


# --- C2PA Certificate Policy v0.2, claim signing leaf


def _policy_subject(facts: _Facts) -> Broken:
    kinds = [attribute.oid for attribute in facts.certificate.subject]
    if any(kinds.count(kind) != 1 for kind in _NAMES):
        yield "subject-names", "does not name one country, one organisation and one product"
    if set(kinds) - _NAMES_ALLOWED:
        yield "subject-extra", "names more than a product, such as one device of it"
    if not all(str(attribute.value).isascii() for attribute in facts.certificate.subject):
        yield "subject-ascii", "has a name outside ASCII"


def _policy_usage(facts: _Facts) -> Broken:
    constraints, usage = facts.find(x509.BasicConstraints), facts.find(x509.KeyUsage)
    if constraints is None or not constraints.critical:
        yield "basic-constraints", "does not say, critically, that it is no authority's"
    if usage is None:
        return
    if not usage.critical:
        yield "key-usage-critical", "does not mark its key usage critical"
    value = usage.value
    wanted = value.digital_signature and value.content_commitment
    if not wanted or value.key_encipherment or value.data_encipherment or value.key_agreement:
        yield "key-usage-bits", "has a key usage that is not digital signature with non-repudiation alone"


def _policy_purposes(facts: _Facts) -> Broken:
    if facts.find(x509.ExtendedKeyUsage) is None:
        yield "purpose-missing", "does not say for which purpose it was issued"
        return
    if ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE in facts.purposes:
        yield "purpose-any", "is for any purpose, which the policy forbids"
    if _CLAIM_SIGNING not in facts.purposes:
        yield "purpose", "was not issued for signing claims"
    if not facts.purposes & _COMPANIONS:
        yield (
            "purpose-companion",
            "lacks the purpose of signing documents or mail, which the policy demands beside",
        )
    if facts.purposes & _APART:
        yield "purpose-mixed", "mixes time-stamping or status answers with another purpose"


def _policy_key_ids(facts: _Facts) -> Broken:
    own = facts.find(x509.SubjectKeyIdentifier)
    expected = x509.SubjectKeyIdentifier.from_public_key(facts.certificate.public_key())
    if own is None or own.critical:
        yield "subject-key-id", "does not identify its own key"
    elif own.value.digest != expected.digest:
        yield "subject-key-id", "identifies its own key in another way than RFC 5280, 4.2.1.2, method 1"


def _policy_named(facts: _Facts) -> Broken:
    policies = facts.find(x509.CertificatePolicies)
    if policies is None or all(policy.policy_identifier != _POLICY for policy in policies.value):
        yield "certificate-policy", "was not issued under the C2PA certificate policy"


def _policy_status(facts: _Facts) -> Broken:
    if not _asks_by_http(facts):
        yield "status-address", "names no address over http that answers whether it was withdrawn"


def _policy_level(facts: _Facts) -> Broken:
    level = facts.unrecognised(_LEVEL)
    longest = None if level is None or level.critical else _LEVELS.get(level.value.value)
    if longest is None:
        yield "assurance-level", "names no assurance level of the policy"
    if facts.life > (longest or max(_LEVELS.values())):
        yield "validity-too-long", f"is valid for {facts.life.days} days, more than its level allows"


def _policy_record(facts: _Facts) -> Broken:
    record = facts.unrecognised(_RECORD)
    if record is not None and (record.critical or not _RECORD_FORM.fullmatch(record.value.value)):
        yield "product-record", "names a record of conforming products in the wrong form"


# --- C2PA Certificate Policy v0.2, authorities


def _policy_authority(facts: _Facts) -> Broken:
    key, constraints = facts.certificate.public_key(), facts.find(x509.BasicConstraints)
    strong = (
        isinstance(key, ec.EllipticCurvePublicKey) and key.curve.name in ("secp384r1", "secp521r1")
    ) or (isinstance(key, rsa.RSAPublicKey) and key.key_size >= 3072)
    if not strong:
        yield "authority-key-algorithm", "is of an authority whose key is weaker than P-384 or RSA-3072"
    if facts.certificate.signature_algorithm_oid == SignatureAlgorithmOID.ED25519:
        yield "authority-signature-algorithm", "is of an authority and signed with Ed25519"
    usage = facts.find(x509.KeyUsage)
    if usage is not None and not (usage.critical and usage.value.crl_sign):
        yield (
            "authority-key-usage",
            "is of an authority whose key usage is not critical or lacks revocation lists",
        )
    if constraints is not None and constraints.value.path_length is None:
        yield "authority-path-length", "is of an authority without a limit on authorities below it"


def _policy_issuing(facts: _Facts) -> Broken:
    constraints = facts.find(x509.BasicConstraints)
    if constraints is not None and constraints.value.path_length not in (0, None):
        yield "authority-path-length", "issued a leaf, though it lets other authorities stand below it"
    if facts.life > _AUTHORITY_LIFE:
        yield (
            "authority-validity-too-long",
            f"is of an authority and valid for {facts.life.days} days, more than 1827",
        )
    if _CLAIM_SIGNING not in facts.purposes or not facts.purposes & _COMPANIONS:
        yield "authority-purpose", "is of an authority that may not certify claim signers"
    if not _asks_by_http(facts) and not _lists_by_http(facts):
        yield (
            "authority-status-address",
            "is of an authority and names no place that tells whether it was withdrawn",
        )


# --- RFC 3161, 2.3


def _stamping_usage(facts: _Facts) -> Broken:
    usage = facts.find(x509.KeyUsage)
    if usage is None:
        return
    value = usage.value
    if not (value.digital_signature or value.content_commitment):
        yield "key-usage-bits", "does not let its key make signatures"
    if value.key_encipherment or value.data_encipherment or value.key_agreement:
        yield "key-usage-bits", "lets its key do more than make signatures"


def _stamping_purpose(facts: _Facts) -> Broken:
    purposes = facts.find(x509.ExtendedKeyUsage)
    if purposes is None or list(purposes.value) != [ExtendedKeyUsageOID.TIME_STAMPING]:
        yield "purpose", "was not issued for time-stamping and nothing else"
    elif not purposes.critical:
        yield "purpose-critical", "does not mark its purpose critical"


def _stamping_key(facts: _Facts) -> Broken:
    if isinstance(facts.certificate.public_key(), ed25519.Ed25519PublicKey):
        yield "key-algorithm", "has an Ed25519 key, which the policy excludes for time-stamping"


def _authority_may_certify_stampers(facts: _Facts) -> Broken:
    allowed = {ExtendedKeyUsageOID.TIME_STAMPING, ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE}
    if facts.purposes and not facts.purposes & allowed:
        yield "authority-purpose", "is of an authority that may not certify time-stampers"


# --- What binds only whoever issues

_BASIC, _USAGE, _OWN, _ISSUER = (
    x509.BasicConstraints.oid,
    x509.KeyUsage.oid,
    x509.SubjectKeyIdentifier.oid,
    x509.AuthorityKeyIdentifier.oid,
)
_EVERY = frozenset({_BASIC, _USAGE, _OWN, _ISSUER})
_TOLD = _EVERY | {
    x509.CertificatePolicies.oid,
    x509.AuthorityInformationAccess.oid,
    x509.ExtendedKeyUsage.oid,
}


def _issued_form(facts: _Facts) -> Broken:
    certificate = facts.certificate
    if [attribute.oid for attribute in certificate.subject] != list(_NAMES):
        yield "subject-names", "does not name a country, an organisation and a product, and nothing else"
    if not 1 << 64 <= certificate.serial_number < 1 << 159:
        yield "serial-number", "has a serial number that is too short to be random, or too long"
    begins = certificate.not_valid_before_utc
    if (begins.minute, begins.second) != (0, 0):
        yield "not-before-hour", "does not begin on the hour, so that it tells when its key was made"
    if facts.life <= timedelta(0):
        yield "validity-negative", "ends before it begins"


def _life(longest: timedelta) -> Rule:
    def rule(facts: _Facts) -> Broken:
        if facts.life > longest:
            yield "validity-too-long", f"is valid for {facts.life.days} days, more than {longest.days}"

    return rule


def _extensions(*wanted: x509.ObjectIdentifier) -> Rule:
    def rule(facts: _Facts) -> Broken:
        found = sorted(extension.oid.dotted_string for extension in facts.certificate.extensions)
        if found != sorted(oid.dotted_string for oid in wanted):
            yield "extensions", "has other extensions than those that its kind has, each once"

    return rule


def _slash_at_the_end(facts: _Facts) -> Broken:
    # Some verifiers drop what follows the last slash before they ask (RFC 6960, A.1 leaves it open).
    found = facts.find(x509.AuthorityInformationAccess)
    if found is None or any(
        not isinstance(item.access_location, x509.UniformResourceIdentifier)
        or not item.access_location.value.endswith("/")
        for item in found.value
    ):
        yield "status-address", "names an address for its status that does not end in a slash"


def _own_root(facts: _Facts) -> Broken:
    if facts.certificate.subject != facts.certificate.issuer:
        yield "root-issuer", "is not issued under its own name"


def _answering(facts: _Facts) -> Broken:
    """C2PA Certificate Policy v0.2, OCSP responders; RFC 6960, 4.2.2.2."""
    purposes = facts.find(x509.ExtendedKeyUsage)
    if purposes is None or list(purposes.value) != [ExtendedKeyUsageOID.OCSP_SIGNING]:
        yield "purpose", "was not issued for status answers and nothing else"
    if facts.find(x509.OCSPNoCheck) is None:
        yield "no-check", "does not say that its own status is not to be asked for"
    usage = facts.find(x509.KeyUsage)
    if usage is not None and (not usage.critical or usage.value != _SIGNATURES_ALONE):
        yield "key-usage-bits", "has a key usage that is not, critically, digital signature alone"
    if isinstance(facts.certificate.public_key(), ed25519.Ed25519PublicKey):
        yield "key-algorithm", "has an Ed25519 key, which the policy excludes for status answers"


_SIGNATURES_ALONE = x509.KeyUsage(
    digital_signature=True,
    content_commitment=False,
    key_encipherment=False,
    data_encipherment=False,
    key_agreement=False,
    key_cert_sign=False,
    crl_sign=False,
    encipher_only=False,
    decipher_only=False,
)

# --- Which rules make a profile

_APART = frozenset({ExtendedKeyUsageOID.TIME_STAMPING, ExtendedKeyUsageOID.OCSP_SIGNING})

_EVERY_LEAF: tuple[Rule, ...] = (_form, _algorithms, _no_authority)
_EVERY_AUTHORITY: tuple[Rule, ...] = (_form, _algorithms, _authority)
_LEAF_RULES: dict[Profile, tuple[Rule, ...]] = {
    Profile.POLICY: (
        *_EVERY_LEAF,
        _issuer_named,
        _policy_subject,
        _policy_usage,
        _policy_purposes,
        _policy_key_ids,
        _policy_named,
        _policy_status,
        _policy_level,
        _policy_record,
    ),
    Profile.SPECIFICATION: (*_EVERY_LEAF, _issuer_named, _specification_usage, _specification_purposes),
    Profile.TIME_STAMPING: (*_EVERY_LEAF, _stamping_usage, _stamping_purpose, _stamping_key),
}
_UPPER_RULES: dict[Profile, tuple[Rule, ...]] = {
    Profile.POLICY: (*_EVERY_AUTHORITY, _issuer_named, _policy_authority, _policy_key_ids),
    Profile.SPECIFICATION: (*_EVERY_AUTHORITY, _authority_may_certify_signers),
    Profile.TIME_STAMPING: (*_EVERY_AUTHORITY, _authority_may_certify_stampers),
}
_AUTHORITY_RULES: dict[Profile, tuple[Rule, ...]] = {
    **_UPPER_RULES,
    Profile.POLICY: (*_UPPER_RULES[Profile.POLICY], _policy_issuing, _policy_named),
}

_EVERY_ISSUED: tuple[Rule, ...] = (_issued_form, _issuer_named, _policy_key_ids)
_EVERY_ROOT: tuple[Rule, ...] = (
    *_EVERY_AUTHORITY,
    *_EVERY_ISSUED,
    _policy_authority,
    _own_root,
    _life(timedelta(days=7305)),
    _extensions(*_EVERY),
)
_ROLE_RULES: dict[Role, tuple[Rule, ...]] = {
    Role.ROOT: _EVERY_ROOT,
    Role.ISSUING: (
        *_AUTHORITY_RULES[Profile.POLICY],
        *_EVERY_ISSUED,
        _extensions(*_TOLD),
        _slash_at_the_end,
    ),
    Role.CLAIM_SIGNER: (
        *_LEAF_RULES[Profile.POLICY],
        *_EVERY_ISSUED,
        _extensions(*_TOLD, _LEVEL),
        _slash_at_the_end,
    ),
    Role.TIME_STAMPING_ROOT: _EVERY_ROOT,
    Role.TIME_STAMPER: (
        *_LEAF_RULES[Profile.TIME_STAMPING],
        *_EVERY_ISSUED,
        _policy_named,
        _life(timedelta(days=4110)),
        _extensions(*_TOLD),
        _slash_at_the_end,
    ),
    Role.RESPONDER: (
        *_EVERY_LEAF,
        *_EVERY_ISSUED,
        _answering,
        _life(timedelta(days=31)),
        _extensions(*_EVERY, x509.ExtendedKeyUsage.oid, x509.OCSPNoCheck.oid),
    ),
}


def _asks_by_http(facts: _Facts) -> bool:
    found = facts.find(x509.AuthorityInformationAccess)
    return found is not None and any(
        description.access_method == AuthorityInformationAccessOID.OCSP
        and _is_http(description.access_location)
        for description in found.value
    )


def _lists_by_http(facts: _Facts) -> bool:
    found = facts.find(x509.CRLDistributionPoints)
    return found is not None and any(
        _is_http(name) for point in found.value for name in point.full_name or ()
    )


def _is_http(name: x509.GeneralName) -> bool:
    return isinstance(name, x509.UniformResourceIdentifier) and name.value.startswith("http://")
