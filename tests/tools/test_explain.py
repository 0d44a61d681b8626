"""Every code has a text of its own, in plain words that claim no more than the check behind them."""

import ast
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from authn.evidence import Code
from tools.errors import UsageError
from tools.explain import UnknownCodeError, codes, explain
from tools.verdict import Headline, sentence

ROOT = Path(__file__).parents[2]
# DESIGN, section 2: words that never stand alone in any output, and their like.
FORBIDDEN = re.compile(r"\b(authentic|real|fake|verified|trusted|genuine|truthful|safe)\b", re.IGNORECASE)
ANSWERS = [*Code, *Headline]


def sentences(text: str) -> list[str]:
    return [part for part in re.split(r"(?<=[.:])\s+", text) if part]


def codes_in_source() -> dict[str, list[str]]:
    """Each `code = "..."` in a class body, and the remedies beside it: the source, read without importing it."""
    found: dict[str, list[str]] = {}
    for path in sorted(
        path for part in ("authn", "detector", "storage", "tools") for path in (ROOT / part).rglob("*.py")
    ):
        if path.name == "bootstrap.py":  # runs before anything is installed, and prints for itself
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.ClassDef):
                continue
            values: dict[str, str] = {}
            for statement in node.body:
                target = (
                    statement.targets[0]
                    if isinstance(statement, ast.Assign)
                    else statement.target
                    if isinstance(statement, ast.AnnAssign)
                    else None
                )
                value = getattr(statement, "value", None)
                if (
                    isinstance(target, ast.Name)
                    and isinstance(value, ast.Constant)
                    and isinstance(value.value, str)
                ):
                    values[target.id] = value.value
            if "code" in values and node.name.endswith("Error"):
                found.setdefault(values["code"], []).append(values.get("remedy", ""))
    return found


@pytest.mark.parametrize("code", ANSWERS)
def test_every_answer_has_a_text_of_two_to_eight_sentences(code: Code | Headline) -> None:
    assert 2 <= len(sentences(explain(code.value))) <= 8
    assert explain(code.value).endswith(".")


@pytest.mark.parametrize("code", list(Code))
def test_every_finding_says_what_its_failure_means(code: Code) -> None:
    assert re.search(r"\b[Ww]hen (this|it) fails\b", explain(code.value))


@pytest.mark.parametrize("code", list(Headline))
def test_a_headline_is_explained_beside_what_it_does_not_say(code: Headline) -> None:
    assert explain(code.value).startswith(sentence(code))
    assert "It does not say:" in explain(code.value)


def test_no_text_denies_a_proven_time_that_came_too_late() -> None:
    assert "lies after the certificate's end" in explain("SIGNER_EXPIRED_TIME_UNPROVEN")
    assert "the signature may be older" in explain("signer.valid_at")
    assert "used outside its dates" not in explain("signer.valid_at")


def test_an_identity_is_explained_as_nobody_s_word_for_other_statements() -> None:
    assert "nobody's word for the other statements" in explain("identity.recognised")


def test_no_two_codes_share_a_text() -> None:
    texts = [explain(code.value) for code in ANSWERS]
    assert len(set(texts)) == len(texts)


def test_no_text_uses_a_word_that_promises_too_much() -> None:
    assert not [code for code in codes() if FORBIDDEN.search(explain(code))]


def test_every_error_of_the_product_is_explained_with_its_remedy() -> None:
    for code, remedies in codes_in_source().items():
        assert all(remedy in explain(code) for remedy in remedies)
    assert {"home-missing", "proof-invalid", "signature-malformed", "policy-malformed"} <= set(codes())


def test_a_code_of_two_errors_is_explained_with_both_remedies() -> None:
    assert "time service" in explain("clock-unsafe")
    assert "begin a new home" in explain("clock-unsafe")


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("time.provem", "time.proven"),
        ("intact-signer-recognised", "INTACT_SIGNER_RECOGNISED"),
        ("no_credential", "NO_CREDENTIALS"),
        ("home.missing", "home-missing"),
    ],
)
def test_a_misspelt_code_leads_to_the_right_one(typed: str, meant: str) -> None:
    with pytest.raises(UnknownCodeError, match=re.escape(meant)) as caught:
        explain(typed)
    assert isinstance(caught.value, UsageError)
    assert (caught.value.code, bool(caught.value.remedy)) == ("code-unknown", True)


@given(st.text(max_size=300))
def test_any_text_is_explained_or_refused_on_one_line(text: str) -> None:
    try:
        assert explain(text)
    except UnknownCodeError as error:
        assert len(str(error).splitlines()) == 1  # noqa: PT017 (either way is an answer)
