"""Which of several withdrawals counts.

What is published of a certificate has one reason and one date, and all that was decided about
it must be in them. Pure: it is told what was withdrawn, and whom it concerns.
"""

from collections.abc import Iterable
from dataclasses import replace
from datetime import datetime

from storage.registry.rows import Withdrawal

HONEST_ENDS = frozenset({"affiliationChanged", "superseded", "cessationOfOperation"})
"""After these reasons what was signed before still counts (RFC 3161, 4). Any other leaves the key in doubt."""


def gravest(withdrawals: Iterable[Withdrawal]) -> Withdrawal | None:
    """Return the gravest, with the earliest moments of all: whoever obeys it believes nothing that any of them denies.

    A dishonest reason is graver than every honest one, however late it was given: whoever has the
    key dates what he signs as he likes. Of equals the earliest `since` counts, then a compromise
    before a mere end, then the earlier entry. The date is the earliest of all, since an honest end
    that came first is not undone by a later compromise: an invalidity date says since when a
    certificate is to be doubted for whatever cause (RFC 5280, 5.3.2).
    """
    ranked = sorted(withdrawals, key=_rank)
    if not ranked:
        return None
    compromised = any(each.compromised_since is not None for each in ranked)
    return replace(
        ranked[0],
        revoked_at=min(each.revoked_at for each in ranked),
        compromised_since=min(each.since for each in ranked) if compromised else None,
    )


def _rank(withdrawal: Withdrawal) -> tuple[bool, datetime, bool, int]:
    """The lesser is the graver."""
    return (
        withdrawal.reason in HONEST_ENDS,
        withdrawal.since,
        withdrawal.compromised_since is None,
        withdrawal.entry,
    )
