"""A policy asks for more than the headline does, and is never met by accident."""

import hashlib
import itertools
import re
from dataclasses import replace
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from authn.evidence import (
    Claims,
    Code,
    Content,
    Credentials,
    Custody,
    History,
    Panel,
    Provenance,
    Revocation,
    RevocationFacts,
    Signature,
    Signer,
    Window,
)
from tools import acceptance
from tools.acceptance import (
    MAX_POLICY_BYTES,
    AcceptancePolicy,
    PolicyError,
    RequiredHistory,
    RequiredLedger,
    RequiredRevocation,
    unmet,
)
from tools.verdict import Ledger, Recorded, decide

NOW = datetime(2026, 11, 20, 8, 14, 9, tzinfo=UTC)
STRICTEST = b"""[require]
time = true
ledger = "included"
revocation = "good"
custody = "E3"
history = "complete"
signer-lists = ["newsroom", "cameras"]
"""
MEETS_ALL = Provenance(
    Credentials.PRESENT,
    Content.INTACT,
    Signature.VALID,
    Signer.RECOGNISED,
    Window(None, NOW, "token"),
    RevocationFacts(Revocation.GOOD, "the issuer says that it stands", complete=True),
    History.COMPLETE,
    None,
    "newsroom",
    None,
    Claims(),
    (),
    (),
)
RECORDED = Recorded(Ledger.INCLUDED, custody=Custody.E3)
REFUSED = [
    b"",
    b"[require]\n",
    b"[require]\ntime = false\n",
    b"time = true\n",
    b"[require]\ntime = 1\n",
    b'[require]\ntime = "true"\n',
    b"[require]\ntimes = true\n",
    b"[require]\ntime = true\n[other]\n",
    b"require = true\n",
    b"[[require]]\ntime = true\n",
    b'[require]\nledger = "known"\n',
    b'[require]\nledger = ["included"]\n',
    b'[require]\nrevocation = "not checked"\n',
    b'[require]\ncustody = "E4"\n',
    b"[require]\ncustody = 3\n",
    b'[require]\nhistory = "partial"\n',
    b"[require]\nsigner-lists = []\n",
    b'[require]\nsigner-lists = "newsroom"\n',
    b"[require]\nsigner-lists = [1]\n",
    b"[require]\nsigner-lists = [0x" + b"f" * 20_000 + b"]\n",
    b"[require]\nsigner-lists = ['a', 0x" + b"f" * 20_000 + b"]\n",
    b"[require]\nsigner-lists = [{" + b"a." * 5000 + b"a = 1}]\n",
    b"[require]\nsigner-lists = [" + b"{a = " * 5000 + b"1" + b"}" * 5000 + b"]\n",
    b"[require]\ntime = " + b"{a = " * 5000 + b"\n",
    b"[require]\ncustody = 0x" + b"f" * 20_000 + b"\n",
    b'[require]\nsigner-lists = [""]\n',
    b'[require]\nsigner-lists = ["a", "a"]\n',
    b'[require]\nsigner-lists = ["a\\u202eb"]\n',
    b"[require]\ntime = true\ntime = true\n",
    b"[require]\ntime = \xff\n",
    b"[require]\ntime = " + b"9" * 5000 + b"\n",
    b"[require]\ntime = " + b"[" * 5000 + b"\n",
    b"[require]\ntime = true\n#" + b"x" * MAX_POLICY_BYTES,
]


def failing(policy: AcceptancePolicy, found: Provenance | None, recorded: Recorded = RECORDED) -> list[str]:
    return [finding.explanation for finding in unmet(policy, found, recorded) if not finding.passed]


def written(policy: AcceptancePolicy) -> bytes:
    """TOML for a policy, by hand."""
    lines = ["[require]"]
    lines += ["time = true"] if policy.time else []
    for key, value in (
        ("ledger", policy.ledger),
        ("revocation", policy.revocation),
        ("custody", policy.custody),
        ("history", policy.history),
    ):
        lines += [f'{key} = "{value}"'] if value else []
    if policy.signer_lists:
        lines.append(f"signer-lists = [{', '.join(map(repr, policy.signer_lists))}]")
    return "\n".join(lines).encode()


names = st.lists(
    st.text("abcdefghij-. ", min_size=1, max_size=20)
    .map(str.strip)
    .filter(lambda name: name and "  " not in name),
    unique=True,
    max_size=4,
)
policies = st.builds(
    AcceptancePolicy,
    st.just("p"),
    st.just(b""),
    st.booleans(),
    st.sampled_from([None, *RequiredLedger]),
    st.sampled_from([None, *RequiredRevocation]),
    st.sampled_from([None, *Custody]),
    st.sampled_from([None, *RequiredHistory]),
    names.map(tuple),
)


@given(policies)
def test_what_is_written_is_what_is_read(policy: AcceptancePolicy) -> None:
    data = written(policy)
    if data == b"[require]":
        with pytest.raises(PolicyError):
            AcceptancePolicy.parse(data, "p")
    else:
        expected = replace(policy, sha256=hashlib.sha256(data).digest())
        assert AcceptancePolicy.parse(data, "p") == expected


@given(
    st.binary(max_size=200)
    | st.text(max_size=200).map(lambda text: b"[require]\n" + text.encode("utf-8", "replace"))
)
def test_anything_else_raises_only_its_own_error(data: bytes) -> None:
    try:
        AcceptancePolicy.parse(data, "p")
    except PolicyError as error:
        assert str(error)  # noqa: PT017 (either way is an answer)


@pytest.mark.parametrize("data", REFUSED, ids=lambda data: data[:40].decode("latin-1"))
def test_a_policy_that_is_not_understood_in_full_is_refused(data: bytes) -> None:
    with pytest.raises(PolicyError) as caught:
        AcceptancePolicy.parse(data, "p")
    assert len(str(caught.value)) < 300


def test_the_example_in_the_documentation_is_a_policy() -> None:
    example = re.search(r"(?m)^    \[require\]\n(?:    .*\n)+", acceptance.__doc__ or "")
    assert example
    policy = AcceptancePolicy.parse(re.sub("(?m)^    ", "", example[0]).encode(), "example")
    assert (policy.time, policy.custody, policy.signer_lists) == (True, Custody.E1, ("newsroom",))


def test_evidence_that_has_everything_meets_the_strictest_policy() -> None:
    policy = AcceptancePolicy.parse(STRICTEST, "desk")
    (finding,) = unmet(policy, MEETS_ALL, RECORDED)
    assert (finding.code, finding.passed, finding.panel) == (Code.POLICY_MET, True, Panel.PROVEN)
    assert "desk" in finding.explanation


@pytest.mark.parametrize(
    ("found", "recorded", "said"),
    [
        (replace(MEETS_ALL, time=Window(NOW, None, "ledger")), RECORDED, "no time is proven"),
        (MEETS_ALL, replace(RECORDED, state=Ledger.SIMILAR), "similar capture known"),
        (MEETS_ALL, replace(RECORDED, state=Ledger.NOT_CHECKED), "not checked"),
        (replace(MEETS_ALL, revocation=RevocationFacts()), RECORDED, "nobody was asked"),
        (
            replace(MEETS_ALL, revocation=RevocationFacts(Revocation.SIGNED_BEFORE, "older")),
            RECORDED,
            "older",
        ),
        (MEETS_ALL, replace(RECORDED, custody=Custody.E2), "E2"),
        (MEETS_ALL, replace(RECORDED, custody=None), "nothing is known"),
        (replace(MEETS_ALL, history=History.PARTIAL), RECORDED, "partial"),
        (replace(MEETS_ALL, history=History.STARTS_WITHOUT), RECORDED, "starts without"),
        (replace(MEETS_ALL, signer_list="others"), RECORDED, "others"),
        (replace(MEETS_ALL, signer=Signer.REVOKED), RECORDED, "no list recognises"),
        (replace(MEETS_ALL, signer=Signer.NOT_RECOGNISED, signer_list=None), RECORDED, "no list recognises"),
    ],
)
def test_the_one_thing_that_is_missing_is_named_alone(
    found: Provenance, recorded: Recorded, said: str
) -> None:
    (explanation,) = failing(AcceptancePolicy.parse(STRICTEST, "desk"), found, recorded)
    assert said in explanation


@pytest.mark.parametrize(
    "found",
    [
        None,
        replace(MEETS_ALL, credentials=Credentials.NONE),
        replace(MEETS_ALL, credentials=Credentials.ELSEWHERE),
        replace(MEETS_ALL, credentials=Credentials.UNREADABLE),
        replace(MEETS_ALL, signature=Signature.BROKEN),
        replace(MEETS_ALL, signature=None),
        replace(MEETS_ALL, content=Content.CHANGED),
        replace(MEETS_ALL, content=Content.NOT_BOUND),
        replace(MEETS_ALL, content=None),
    ],
)
def test_nothing_is_met_by_a_file_whose_signature_does_not_stand(found: Provenance | None) -> None:
    """A transplanted record brings its recognised signer along, and must not profit from him."""
    assert len(failing(AcceptancePolicy.parse(STRICTEST, "desk"), found)) == 6


@pytest.mark.parametrize(("least", "held"), list(itertools.product(Custody, Custody)))
def test_custody_is_met_by_as_much_or_more(least: Custody, held: Custody) -> None:
    policy = AcceptancePolicy("p", b"", custody=least)
    assert (not failing(policy, MEETS_ALL, replace(RECORDED, custody=held))) is (held.value >= least.value)


@pytest.mark.parametrize("state", Revocation)
def test_revocation_is_met_by_the_issuer_s_word_alone(state: Revocation) -> None:
    found = replace(MEETS_ALL, revocation=RevocationFacts(state, "why", complete=True))
    partly = replace(MEETS_ALL, revocation=RevocationFacts(state, "only the leaf was asked"))
    good = AcceptancePolicy("p", b"", revocation=RequiredRevocation.GOOD)
    checked = AcceptancePolicy("p", b"", revocation=RequiredRevocation.CHECKED)
    assert (not failing(good, found)) is (state is Revocation.GOOD)
    assert failing(good, partly)
    assert (not failing(checked, found)) is (state is Revocation.GOOD or "before" in state.value)


@pytest.mark.parametrize("state", History)
def test_history_without_a_problem_is_less_than_a_complete_one(state: History) -> None:
    found = replace(MEETS_ALL, history=state)
    complete = AcceptancePolicy("p", b"", history=RequiredHistory.COMPLETE)
    no_problem = AcceptancePolicy("p", b"", history=RequiredHistory.NO_PROBLEM)
    assert (not failing(complete, found)) is (state in (History.COMPLETE, History.NONE))
    assert (not failing(no_problem, found)) is (state is not History.PROBLEM)


@given(policies, st.sampled_from(list(History)), st.sampled_from(list(Signer)), st.sampled_from(list(Ledger)))
def test_a_policy_leaves_the_headline_alone(
    policy: AcceptancePolicy, history: History, signer: Signer, ledger: Ledger
) -> None:
    found, recorded = replace(MEETS_ALL, history=history, signer=signer), replace(RECORDED, state=ledger)
    findings = unmet(policy, found, recorded)
    with_policy = decide(replace(found, findings=(*found.findings, *findings)), recorded, None)
    assert with_policy.headline is decide(found, recorded, None).headline
    assert {finding.code for finding in findings} == {Code.POLICY_MET}
