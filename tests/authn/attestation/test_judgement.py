import hashlib

import pytest

from authn.attestation.judgement import MAX_EVIDENCE, Evidence, Judgement, Kind, Rule
from authn.errors import EvidenceError
from authn.evidence import Custody

RULE = Rule("a-rule", "it broke")


def test_evidence_is_named_by_its_bytes_and_bounded() -> None:
    evidence = Evidence(Kind.NONE, b"x" * MAX_EVIDENCE)
    assert evidence.sha256 == hashlib.sha256(evidence.data).digest()
    with pytest.raises(EvidenceError):
        Evidence(Kind.NONE, b"x" * (MAX_EVIDENCE + 1))


def test_only_a_judgement_that_proves_nothing_and_says_why_is_refused() -> None:
    assert Judgement(Custody.E0, b"", b"", (RULE,)).refused
    assert not Judgement(Custody.E0, b"", b"").refused
    assert not Judgement(Custody.E2, b"", b"", (RULE,)).refused


@pytest.mark.parametrize("custody", list(Custody))
def test_a_judgement_meets_what_it_proves_and_less(custody: Custody) -> None:
    judgement = Judgement(custody, b"", b"")
    assert [judgement.meets(minimum) for minimum in Custody] == [
        list(Custody).index(minimum) <= list(Custody).index(custody) for minimum in Custody
    ]
    assert not any(Judgement(Custody.E0, b"", b"", (RULE,)).meets(minimum) for minimum in Custody)
