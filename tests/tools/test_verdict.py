"""The headline follows from proven facts and nothing else."""

import ast
import inspect
import itertools
import re
from dataclasses import fields, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from authn.evidence import (
    Claims,
    Code,
    Content,
    Credentials,
    Custody,
    Finding,
    History,
    Panel,
    Provenance,
    Revocation,
    RevocationFacts,
    Signature,
    Signer,
    Step,
    Window,
)
from tools import verdict
from tools.verdict import (
    Headline,
    Ledger,
    Obstacle,
    Recorded,
    decide,
    exit_status,
    headline,
    not_proven,
    sentence,
)

# DESIGN, section 2, word for word.
STATUS = {
    "INTACT_SIGNER_RECOGNISED": 0,
    "NO_CREDENTIALS": 10,
    "MATCHES_RECORDED_CAPTURE": 10,
    "INTACT_SIGNER_UNKNOWN": 11,
    "SIGNER_EXPIRED_TIME_UNPROVEN": 11,
    "CHANGED_AFTER_SIGNING": 12,
    "SIGNED_PARTLY_COVERED": 12,
    "SIGNED_HISTORY_PROBLEM": 12,
    "SIGNER_REVOKED": 13,
    "SIGNER_REJECTED": 13,
    "CREDENTIALS_UNREADABLE": 14,
    "CREDENTIALS_ELSEWHERE": 14,
    "NOT_CHECKED": 15,
}
BANNED = re.compile(r"\b(authentic|real|fake|verified|trusted|genuine|true|safe|clean)\b", re.IGNORECASE)
# "true" stands only in what is not said.
DISCLAIMERS = ("that the scene is true",)

TEXTS = st.text(max_size=8)
MOMENTS = st.none() | st.datetimes(timezones=st.just(UTC))
CLAIMS = st.builds(
    Claims,
    st.none() | TEXTS,
    st.none() | TEXTS,
    st.lists(TEXTS).map(tuple),
    st.lists(st.sampled_from(["digitalCapture", "trainedAlgorithmicMedia", "x"])).map(tuple),
    st.none() | TEXTS,
)
FINDINGS = st.lists(
    st.builds(Finding, st.sampled_from(Code), st.booleans(), TEXTS, st.sampled_from(Panel)), max_size=4
).map(tuple)
PROVENANCES = st.builds(
    Provenance,
    credentials=st.sampled_from(Credentials),
    content=st.none() | st.sampled_from(Content),
    signature=st.none() | st.sampled_from(Signature),
    signer=st.none() | st.sampled_from(Signer),
    time=st.builds(Window, MOMENTS, MOMENTS, st.none() | TEXTS),
    revocation=st.builds(RevocationFacts, st.sampled_from(Revocation), since=MOMENTS),
    history=st.sampled_from(History),
    certificate=st.none(),
    signer_list=st.none() | TEXTS,
    identity=st.none(),
    claims=CLAIMS,
    steps=st.just(()),
    findings=FINDINGS,
)


def facts(**changes: object) -> Provenance:
    """A file of which everything holds, but for `changes`."""
    whole = Provenance(
        Credentials.PRESENT,
        Content.INTACT,
        Signature.VALID,
        Signer.RECOGNISED,
        Window(),
        RevocationFacts(),
        History.NONE,
        None,
        "signers",
        None,
        Claims(),
        (),
        (),
    )
    return replace(whole, **changes)  # type: ignore[arg-type]


def design_headline(found: Provenance, ledger: Ledger) -> str:
    """The worst fact that applies, as a list from worst to best; slow, and only here."""
    if found.credentials is not Credentials.PRESENT:
        known = ledger in (Ledger.INCLUDED, Ledger.SIMILAR)
        return {
            Credentials.NONE: "MATCHES_RECORDED_CAPTURE" if known else "NO_CREDENTIALS",
            Credentials.ELSEWHERE: "CREDENTIALS_ELSEWHERE",
            Credentials.UNREADABLE: "CREDENTIALS_UNREADABLE",
        }[found.credentials]
    worst_first = [
        ("CHANGED_AFTER_SIGNING", found.signature is not Signature.VALID),
        ("CHANGED_AFTER_SIGNING", found.content not in (Content.INTACT, Content.PARTLY_COVERED)),
        ("SIGNER_REVOKED", found.signer is Signer.REVOKED),
        ("SIGNER_REJECTED", found.signer is Signer.WRONG_KIND),
        ("SIGNED_PARTLY_COVERED", found.content is Content.PARTLY_COVERED),
        ("SIGNED_HISTORY_PROBLEM", found.history is History.PROBLEM),
        ("SIGNER_EXPIRED_TIME_UNPROVEN", found.signer is Signer.EXPIRED_TIME_UNPROVEN),
        ("INTACT_SIGNER_UNKNOWN", found.signer is not Signer.RECOGNISED),
        ("INTACT_SIGNER_RECOGNISED", True),
    ]
    return next(name for name, holds in worst_first if holds)


def test_every_combination_of_facts_gets_the_worst_one_s_headline() -> None:
    combinations = itertools.product(
        Credentials, [None, *Content], [None, *Signature], [None, *Signer], History, Ledger
    )
    for credentials, content, signature, signer, history, ledger in combinations:
        found = facts(
            credentials=credentials, content=content, signature=signature, signer=signer, history=history
        )
        assert headline(found, ledger).value == design_headline(found, ledger)


def test_a_worse_fact_never_gives_a_lower_exit_status() -> None:
    for signer, history in itertools.product([None, *Signer], History):
        intact = exit_status(headline(facts(signer=signer, history=history), Ledger.UNKNOWN))
        partly = exit_status(
            headline(facts(signer=signer, history=history, content=Content.PARTLY_COVERED), Ledger.UNKNOWN)
        )
        unproblematic = exit_status(headline(facts(signer=signer), Ledger.UNKNOWN))
        assert partly >= intact >= unproblematic


@given(PROVENANCES, CLAIMS, FINDINGS, st.sampled_from(Ledger), st.sampled_from([None, *Custody]))
def test_what_the_signer_says_and_how_it_is_told_changes_no_headline(
    found: Provenance, claims: Claims, findings: tuple[Finding, ...], ledger: Ledger, custody: Custody | None
) -> None:
    retold = replace(found, claims=claims, findings=findings)
    assert headline(retold, ledger) is headline(found, ledger)
    recorded = Recorded(ledger, 7, datetime(2026, 1, 1, tzinfo=UTC), "log", 3, custody, findings)
    assert decide(retold, recorded, None).headline is decide(found, Recorded(ledger), None).headline


@given(PROVENANCES, st.sampled_from(Ledger))
def test_the_ledger_speaks_only_where_the_file_is_silent(found: Provenance, ledger: Ledger) -> None:
    if found.credentials is not Credentials.NONE:
        assert headline(found, ledger) is headline(found, Ledger.NOT_CHECKED)


def test_a_detector_is_not_in_the_room() -> None:
    tree = ast.parse(inspect.getsource(verdict))
    imported = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    imported |= {
        alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names
    }
    assert not {name for name in imported if name and name.split(".")[0] == "detector"}
    held = {field.name for kind in (Provenance, Recorded, verdict.Verdict) for field in fields(kind)}
    assert not held & {"score", "detection", "band", "estimate", "detector"}


@pytest.mark.parametrize("head", Headline)
def test_every_headline_has_its_sentence_its_status_and_what_it_does_not_say(head: Headline) -> None:
    assert exit_status(head) == STATUS[head.value]
    assert sentence(head)
    assert not_proven(head)
    assert all(not_proven(head))
    said = [line for line in (sentence(head), *not_proven(head)) if line not in DISCLAIMERS]
    assert not [line for line in said if BANNED.search(line)]


def test_the_headlines_are_those_of_the_design() -> None:
    assert {head.value for head in Headline} == set(STATUS)


def test_no_two_headlines_say_the_same() -> None:
    assert len({sentence(head) for head in Headline}) == len(Headline)


def test_a_sentence_says_unchanged_only_where_nothing_can_be_left_uncovered() -> None:
    for signer, history, content in itertools.product([None, *Signer], History, Content):
        head = headline(facts(signer=signer, history=history, content=content), Ledger.UNKNOWN)
        if sentence(head).startswith("Unchanged"):
            assert content is Content.INTACT


@pytest.mark.parametrize("head", Headline)
def test_a_verdict_has_no_truth_value(head: Headline) -> None:
    made = verdict.Verdict(head, None, Recorded(Ledger.UNKNOWN), None)
    with pytest.raises(TypeError, match="headline"):
        bool(made)


def test_a_file_without_evidence_was_not_checked_whatever_a_ledger_says() -> None:
    obstacle = Obstacle("file-unreadable", "it cannot be read", "Check the path.")
    for ledger in Ledger:
        made = decide(None, Recorded(ledger), obstacle)
        assert made.headline is Headline.NOT_CHECKED
        assert made.obstacle is obstacle


def test_no_sentence_in_the_code_uses_a_banned_word_alone() -> None:
    """Every string constant that reads as prose, docstrings apart; `bench` names measurements, not files."""
    offenders = []
    for package in ("authn", "detector", "storage", "tools"):
        for path in sorted((Path(__file__).parents[2] / package).rglob("*.py")):
            if path.name == "bench.py":
                continue
            tree = ast.parse(path.read_text("utf-8"))
            documentation = {
                id(node.body[0].value)
                for node in ast.walk(tree)
                if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef)
                and node.body
                and isinstance(node.body[0], ast.Expr)
            }
            offenders += [
                f"{path.name}:{node.lineno}: {node.value}"
                for node in ast.walk(tree)
                if isinstance(node, ast.Constant)
                and isinstance(node.value, str)
                and id(node) not in documentation
                and " " in node.value.strip()
                and node.value not in DISCLAIMERS
                and re.search(r"\b(authentic|real|fake|verified|trusted)\b", node.value, re.IGNORECASE)
            ]
    assert offenders == []


def test_a_history_tree_is_no_input_beyond_its_state() -> None:
    steps = (Step("a", "parentOf", Credentials.PRESENT, ("broken",)),)
    assert headline(facts(steps=steps), Ledger.UNKNOWN) is Headline.INTACT_SIGNER_RECOGNISED


# --- The window


AT = datetime(2026, 5, 1, tzinfo=UTC)


def bracketed(
    since: datetime | None, until: datetime | None, state: Revocation = Revocation.GOOD
) -> Provenance:
    found = facts(time=Window(None, until, "a token"), revocation=RevocationFacts(state))
    recorded = Recorded(Ledger.INCLUDED, not_before=since, not_before_source="a checkpoint")
    told = decide(found, recorded, None).provenance
    assert told is not None
    return told


def test_a_checkpoint_and_a_token_make_a_window() -> None:
    told = bracketed(AT, AT + timedelta(hours=1))
    assert told.time == Window(AT, AT + timedelta(hours=1), "a token", "a checkpoint")
    assert bracketed(AT, None).time == Window(AT, None, "a token", "a checkpoint")


def test_of_two_times_that_contradict_each_other_neither_is_proven() -> None:
    """The flaw would be to go on believing a token that dates the signature before the claim could exist."""
    told = bracketed(AT, AT - timedelta(seconds=1))
    assert told.time == Window()
    assert [item.code for item in told.findings if not item.passed] == [Code.TIME_NOT_BEFORE]


def test_a_withdrawn_signer_is_not_saved_by_a_time_that_contradicts_the_claim() -> None:
    told = bracketed(AT, AT - timedelta(days=1), Revocation.SIGNED_BEFORE)
    assert told.signer is Signer.REVOKED
    assert headline(told, Ledger.INCLUDED) is Headline.SIGNER_REVOKED
    assert bracketed(AT, AT + timedelta(days=1), Revocation.SIGNED_BEFORE).signer is Signer.RECOGNISED


@pytest.mark.parametrize(
    ("until", "signer", "state"),
    [
        (None, Signer.REVOKED, Revocation.REVOKED_TIME_UNKNOWN),
        (AT + timedelta(days=1), Signer.REVOKED, Revocation.REVOKED),
        (AT, Signer.REVOKED, Revocation.REVOKED),
        (AT - timedelta(seconds=1), Signer.RECOGNISED, Revocation.SIGNED_BEFORE),
    ],
)
@pytest.mark.parametrize("listed", [Revocation.GOOD, Revocation.NOT_CHECKED])
def test_what_the_home_withdrew_is_withdrawn_whatever_list_lies_there(
    until: datetime | None, signer: Signer, state: Revocation, listed: Revocation
) -> None:
    """The flaw would be to believe an old list that was put back over the registry beside it."""
    found = facts(time=Window(None, until, "a token"), revocation=RevocationFacts(listed))
    told = decide(found, Recorded(Ledger.UNKNOWN, withdrawn_since=AT), None).provenance
    assert told is not None
    assert (told.signer, told.revocation.state) == (signer, state)


def test_the_ledger_s_clock_saves_what_the_home_withdrew_later_and_no_token_dates() -> None:
    recorded = Recorded(Ledger.INCLUDED, logged_at=AT - timedelta(days=1), withdrawn_since=AT)
    told = decide(facts(), recorded, None).provenance
    assert told is not None
    assert told.revocation.state is Revocation.SIGNED_BEFORE_BY_LEDGER
    assert told.signer is Signer.RECOGNISED
