"""Nothing that a file says may hide, reorder or flood what we say."""

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from authn.plain import plain


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("IMG\u202egpj.exe", "IMGgpj.exe"),
        ("a\u2066b\u2069c\u200fd\u061ce", "abcde"),
        ("two\r\nlines\tand  gaps", "two lines and gaps"),
        ("\x00\x1b[31mred\x7f\x9b", "[31mred"),
        ("zero\u200bwidth\ufeff\u00ad", "zerowidth"),
        ("line\u2028and\u2029paragraph", "lineandparagraph"),
        ("\ud800lone", "lone"),
        ("<b>kept & shown</b>", "<b>kept & shown</b>"),
        ("\u0645\u0631\u062d\u0628\u0627", "\u0645\u0631\u062d\u0628\u0627"),
    ],
)
def test_what_hides_or_reorders_text_is_taken_out(text: str, shown: str) -> None:
    assert plain(text, 40) == shown


def test_a_flood_is_cut_and_says_so() -> None:
    assert plain("A" * 10_000, 20) == "A" * 19 + "\u2026"
    assert plain("\u202e" * 10_000 + "A", 20) == ""


@given(st.text(max_size=400), st.integers(1, 60))
def test_any_text_becomes_one_printable_line_within_the_limit(text: str, limit: int) -> None:
    shown = plain(text, limit)
    assert len(shown) <= limit
    assert shown == shown.strip()
    assert all(unicodedata.category(character)[0] != "C" for character in shown)
    assert len(shown.splitlines()) <= 1
    assert plain(shown, limit) == shown
