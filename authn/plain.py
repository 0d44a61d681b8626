"""Make text from a file safe to show on one line.

Removes what could hide or reorder other text: control characters, line breaks,
and the bidirectional formatting characters of Unicode UAX 9. Does not escape
for HTML or JSON; the renderer of each does.
"""

import unicodedata

_DROPPED = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}


def plain(text: str, limit: int) -> str:
    """Return `text` in at most `limit` characters, without formatting characters."""
    if len(text) <= limit and text.isascii() and text.isprintable():
        return " ".join(text.split())  # what most texts are, and ten times as fast
    kept = "".join(
        " " if character in "\t\n\r" else character
        for character in text[: 8 * limit]
        if character in "\t\n\r" or unicodedata.category(character) not in _DROPPED
    )
    joined = " ".join(kept.split())
    return joined if len(joined) <= limit else joined[: limit - 1] + "…"
