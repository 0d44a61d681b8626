"""Hold a device's evidence against what its product demands.

One function for every kind, at enrolment and ever after: what is kept is judged again when a
list of withdrawn attestation certificates changes.
"""

import json
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

from authn.attestation import android, app_attest, tpm
from authn.attestation.judgement import Evidence, Judgement, Kind
from authn.attestation.status_list import MAX_BYTES, StatusList
from authn.attestation.tpm_credential import Activation, Credential
from authn.device import Certificate, read_chain
from authn.errors import CertificateError, EvidenceError
from authn.evidence import Custody
from authn.keys import Keeping
from tools.home import Home, content_of
from tools.issuance.enrolment import Door, Question
from tools.issuance.errors import AttestationRefusedError, RulesError
from tools.output import made_once

STATUS_LIST = "attestation-status.json"
_SECRET = "activation.secret"  # noqa: S105 - the name of a file
_SECRET_BYTES = 32
_NEVER = datetime(1970, 1, 1, tzinfo=UTC)
_VOUCHES = "operator-vouches"
_RULES = frozenset({"android", "app-attest", "tpm", _VOUCHES})


@dataclass(frozen=True, slots=True)
class Judging:
    """What a service holds evidence against. `secret` ties a TPM's answer to this service."""

    status: StatusList
    secret: bytes

    @classmethod
    def of_home(cls, home: Home) -> "Judging":
        """With the home's own status list and secret; without a list, one that is too old to enrol by."""
        place = home.path / STATUS_LIST
        status = StatusList.parse(content_of(place, MAX_BYTES)) if place.exists() else StatusList(_NEVER)
        return cls(status, made_once(home.path / "keys" / _SECRET, _SECRET_BYTES))

    def __call__(self, evidence: Evidence, question: Question, at: datetime) -> Judgement:
        """Judge evidence for an enrolment; an old status list is none."""
        if evidence.kind is Kind.ANDROID and self.status.stale(at):
            raise AttestationRefusedError(
                "status-list-stale", "the list of withdrawn attestation certificates is too old to enrol by"
            )
        return self.again(evidence, question, at)

    def again(self, evidence: Evidence, question: Question, at: datetime) -> Judgement:
        """Judge evidence that was taken in at `at`, by the list there is now."""
        rules = rules_of(question.rules)
        judgement = self._shown(evidence, question, rules, at)
        if judgement.custody is not Custody.E1 or question.door is Door.HOME or _vouched(rules):
            return judgement
        # E1 is the operator's word (`authn.attestation`), and this is only the device's.
        warnings = (*judgement.warnings, *judgement.broken)
        return replace(judgement, custody=Custody.E0, spki=b"", broken=(), warnings=warnings)

    def _shown(
        self, evidence: Evidence, question: Question, rules: dict[str, Any], at: datetime
    ) -> Judgement:
        match evidence.kind:
            case Kind.NONE:
                return Judgement(_claimed(evidence.data), b"", b"")
            case Kind.ANDROID:
                allowed = android.Rules.parse(rules.get("android", {}))
                expected = android.Expectation(question.challenge, question.spki, self.status, allowed)
                return android.judge(evidence, expected, at)
            case Kind.APP_ATTEST:
                bound = app_attest.client_data_hash(question.challenge, question.request)
                apps = app_attest.Rules.parse(rules.get("app-attest"))
                return app_attest.judge(evidence, app_attest.Expectation(bound, apps), at)
            case Kind.TPM:
                return tpm.judge(evidence, self._of_tpm(rules.get("tpm", {}), question), at)

    def credential(self, challenge: bytes, ek: bytes, ak: bytes) -> Credential:
        """What only the TPM that holds both keys (each a TPMT_PUBLIC) can open."""
        return Activation(self.secret, challenge).challenge(ek, ak)

    def _of_tpm(self, rules: Any, question: Question) -> tpm.Expectation:
        return tpm.Expectation(
            tpm.binding(question.challenge, question.spki),
            _certificates(rules, "roots"),
            _certificates(rules, "intermediates"),
            Activation(self.secret, question.challenge),
            question.spki,
        )


def rules_of(data: bytes) -> dict[str, Any]:
    """A product's rules: a part for each kind of evidence, and whether its operator vouches for every
    device that has a token; raises `EvidenceError`."""
    try:
        rules = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise EvidenceError("the product's rules cannot be read") from error
    if not isinstance(rules, dict) or rules.keys() - _RULES:
        raise EvidenceError(f"the product's rules have parts for {', '.join(sorted(_RULES))}, and no others")
    return rules


def require_rules(data: bytes) -> None:
    """Refuse rules that no evidence could be judged by."""
    try:
        rules = rules_of(data)
        _vouched(rules)
        android.Rules.parse(rules.get("android", {}))
        if "app-attest" in rules:
            app_attest.Rules.parse(rules["app-attest"])
        for name in ("roots", "intermediates"):
            _certificates(rules.get("tpm", {}), name)
    except EvidenceError as error:
        raise RulesError(str(error)) from error


def claim_of(keeping: Keeping) -> bytes:
    """What a device without evidence says of where its key is."""
    return b'{"keeping":"%s"}' % keeping.value.encode()


def _claimed(data: bytes) -> Custody:
    """E1 for a key that is said to be in a token; nothing shows it."""
    for keeping in Keeping:
        if data == claim_of(keeping):
            return Custody.E0 if keeping is Keeping.SOFTWARE else Custody.E1
    raise EvidenceError("what is said of where the key is kept cannot be read")


def _vouched(rules: dict[str, Any]) -> bool:
    """Whether the operator vouches for where devices of the product say that their keys are."""
    vouched = rules.get(_VOUCHES, False)
    if not isinstance(vouched, bool):
        raise EvidenceError(f"the product's rules say {_VOUCHES} with something else than true or false")
    return vouched


def _certificates(rules: Any, name: str) -> tuple[Certificate, ...]:
    texts = rules.get(name, []) if isinstance(rules, dict) else None
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise EvidenceError(f"the product's TPM rules must list {name} as PEM certificates")
    try:
        return tuple(certificate for text in texts for certificate in read_chain(text.encode()))
    except (CertificateError, UnicodeEncodeError) as error:
        raise EvidenceError(f"the product's TPM rules name {name} that cannot be read") from error
