"""Of several withdrawals one reason and one date are published, and nothing that was decided is lost by it."""

from datetime import timedelta
from itertools import combinations, permutations

from storage.registry.gravity import gravest
from storage.registry.rows import Target, Withdrawal

DAY = timedelta(days=1)
HONEST = ("affiliationChanged", "superseded", "cessationOfOperation")  # RFC 3161, 4
DISHONEST = ("keyCompromise", "cACompromise", "privilegeWithdrawn", "unspecified")
TARGET = Target.of_device("camera")


def made(reason, at, revoked, compromised, entry=0) -> Withdrawal:
    since = None if compromised is None else at + compromised * DAY
    return Withdrawal(TARGET, reason, at + revoked * DAY, since, ("Ada",), entry)


def test_an_honest_end_that_came_first_does_not_hide_a_compromise(at) -> None:
    for honest in HONEST:
        for dishonest in DISHONEST:
            both = [made(honest, at, 1, None, 1), made(dishonest, at, 50, 30, 2)]
            for order in permutations(both):
                found = gravest(order)
                assert (found.reason, found.since, found.entry) == (dishonest, at + DAY, 2)


def test_a_compromise_gives_no_time_back_that_an_honest_end_took(at) -> None:
    found = gravest([made("superseded", at, 1, None), made("keyCompromise", at, 5, None)])
    assert (found.reason, found.revoked_at, found.compromised_since) == ("keyCompromise", at + DAY, None)
    found = gravest([made("superseded", at, 4, 1), made("keyCompromise", at, 3, None)])
    assert (found.reason, found.revoked_at, found.compromised_since) == (
        "keyCompromise",
        at + 3 * DAY,
        at + DAY,
    )


def test_what_is_published_denies_exactly_what_any_of_them_denies(at) -> None:
    """Whatever three were decided: a moment after one's `since` is after that of all, and honest means all honest."""
    several = [
        made(reason, at, revoked, compromised, number)
        for number, (reason, revoked, compromised) in enumerate(
            (reason, revoked, compromised)
            for reason in ("superseded", "cessationOfOperation", "keyCompromise", "privilegeWithdrawn")
            for revoked, compromised in ((1, None), (2, 0), (3, None), (3, 3), (4, 2))
        )
    ]
    for few in (*combinations(several, 1), *combinations(several, 2), *combinations(several, 3)):
        found = gravest(few)
        for day in range(6):
            moment = at + day * DAY
            assert (moment >= found.since) == any(moment >= each.since for each in few)
            assert (moment >= found.revoked_at) == any(moment >= each.revoked_at for each in few)
        assert (found.reason in HONEST) == all(each.reason in HONEST for each in few)
        assert found.reason in {each.reason for each in few}
        assert {gravest(order) for order in permutations(few)} == {found}
        if len(few) == 1:
            assert found == few[0]


def test_of_none_there_is_none() -> None:
    assert gravest([]) is None
