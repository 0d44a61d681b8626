from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from authn.timestamp.clock import (
    Reading,
    Sighting,
    Tolerances,
    Watch,
    drift_doubt,
    floor_doubt,
    sources_doubt,
)

AT = datetime(2026, 11, 25, 12, tzinfo=UTC)
SECOND = timedelta(seconds=1)


class Steady:
    """A clock that nobody sets; the test moves it on."""

    def __init__(self) -> None:
        self.seconds = 1000.0

    def __call__(self) -> float:
        return self.seconds


def sighting(source: str, ahead: float, steady: float = 0, within: float = 0.5) -> Sighting:
    return Sighting(source, timedelta(seconds=ahead), timedelta(seconds=within), steady)


@given(st.floats(-7200, 7200), st.floats(0, 1e6))
def test_a_clock_is_doubted_exactly_when_it_was_set_by_more_than_the_tolerance(
    set_by: float, later: float
) -> None:
    now = Reading(AT + timedelta(seconds=later + set_by), 5 + later)
    doubt = drift_doubt(Reading(AT, 5), now, Tolerances())
    if abs(set_by) < 0.4999:
        assert doubt is None
    elif abs(set_by) > 0.5001:
        assert doubt is not None
        assert ("forward" if set_by > 0 else "back") in doubt


def test_a_clock_is_doubted_below_what_is_on_record() -> None:
    assert floor_doubt(AT, None) is None
    assert floor_doubt(AT, AT) is None
    assert floor_doubt(AT, AT - SECOND) is None
    assert floor_doubt(AT, AT + timedelta(microseconds=1)) is not None


@pytest.mark.parametrize(
    ("heard", "good"),
    [
        ([("a", 0.0), ("b", 0.2), ("c", 7200.0)], True),
        ([("a", 0.0), ("b", -7200.0), ("c", 7200.0)], False),
        ([("a", 1.5), ("b", -1.5)], True),  # a Date is cut to its second
        ([("a", 1.6), ("b", -1.6)], False),
        ([("a", 0.0)], False),
        ([("a", 0.0), ("a", 0.0)], False),  # one source does not become two by talking twice
        ([], False),
    ],
)
def test_a_quorum_of_sources_decides(heard: list[tuple[str, float]], *, good: bool) -> None:
    said = sources_doubt([sighting(*each) for each in heard], 10, Tolerances(quorum=2))
    assert (said is None) == good


def test_only_the_last_word_of_a_source_counts_and_only_while_it_is_fresh() -> None:
    one = Tolerances(quorum=1)
    assert sources_doubt([sighting("a", 0, 10), sighting("a", 99, 20)], 20, one)
    assert sources_doubt([sighting("a", 99, 10), sighting("a", 0, 20)], 20, one) is None
    assert sources_doubt([sighting("a", 0, 20)], 20 + 300, one) is None
    assert sources_doubt([sighting("a", 0, 20)], 20 + 301, one)


def test_a_watch_doubts_a_clock_that_was_set_until_it_is_set_right() -> None:
    steady = Steady()
    watch = Watch(AT, steady, Tolerances())
    steady.seconds += 3600
    right = AT + timedelta(hours=1)
    assert watch.doubt(right) is None
    for wrong in (-7200, -0.6, 0.6, 7200):
        said = watch.doubt(right + timedelta(seconds=wrong))
        assert said is not None
        assert f"{abs(wrong):.3f} s" in said
    assert watch.doubt(right + timedelta(seconds=0.4)) is None


def test_a_machine_that_slept_under_a_clock_that_did_not_run_on_is_doubted() -> None:
    watch = Watch(AT, Steady(), Tolerances())
    assert watch.doubt(AT + timedelta(minutes=10))


def test_sources_settle_a_step_of_the_clock_and_nobody_else_does() -> None:
    steady = Steady()
    watch = Watch(AT, steady, Tolerances(quorum=2))
    assert watch.doubt(AT)  # nobody was heard yet
    watch.hear([sighting("a", 0, steady()), sighting("b", 0, steady())], AT)
    assert watch.doubt(AT) is None
    stepped = AT + timedelta(seconds=30)
    assert watch.doubt(stepped)
    watch.hear([sighting("a", 0, steady()), sighting("b", -30, steady())], stepped)
    assert watch.doubt(stepped)
    watch.hear([sighting("b", 0, steady())], stepped)  # one at a time is no quorum at one moment
    assert watch.doubt(stepped)
    watch.hear([sighting("a", 0, steady()), sighting("b", 0, steady())], stepped)
    assert watch.doubt(stepped) is None
    assert watch.doubt(AT)


def test_sources_that_fall_silent_stop_it() -> None:
    steady = Steady()
    watch = Watch(AT, steady, Tolerances(quorum=1))
    watch.hear([sighting("a", 0, steady())], AT)
    steady.seconds += 299
    assert watch.doubt(AT + 299 * SECOND) is None
    steady.seconds += 2
    said = watch.doubt(AT + 301 * SECOND)
    assert said is not None
    assert "0 of 0 outside sources" in said
