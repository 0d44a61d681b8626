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
    return Sighting(source, timedelta(seconds=ahead), timedelta(seconds=within), shown(steady))


def shown(steady: float, moved: timedelta = timedelta()) -> Reading:
    """Both clocks at a moment: the one that dates is `moved` from where it ran on from."""
    return Reading(AT + timedelta(seconds=steady) + moved, steady)


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
        ([("a", 1.0), ("b", -1.0)], True),  # with what they leave open, 1.5 s off
        ([("a", 1.1), ("b", -1.1)], False),
        ([("a", 0.0)], False),
        ([("a", 0.0), ("a", 0.0)], False),  # one source does not become two by talking twice
        ([], False),
    ],
)
def test_a_quorum_of_sources_decides(heard: list[tuple[str, float]], *, good: bool) -> None:
    said = sources_doubt([sighting(*each) for each in heard], shown(10), Tolerances(quorum=2))
    assert (said is None) == good


def test_only_the_last_word_of_a_source_counts_and_only_while_it_is_fresh() -> None:
    one = Tolerances(quorum=1)
    assert sources_doubt([sighting("a", 0, 10), sighting("a", 99, 20)], shown(20), one)
    assert sources_doubt([sighting("a", 99, 10), sighting("a", 0, 20)], shown(20), one) is None
    assert sources_doubt([sighting("a", 0, 20)], shown(20 + 300), one) is None
    assert sources_doubt([sighting("a", 0, 20)], shown(20 + 301), one)


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


class Told:
    """A clock that dates and can be set, beside one that nobody sets, and sources that say how it is off."""

    def __init__(self, tolerances: Tolerances) -> None:
        self.steady = Steady()
        self.set_by = timedelta()
        self.watch = Watch(self.wall, self.steady, tolerances)

    @property
    def wall(self) -> datetime:
        return AT + timedelta(seconds=self.steady()) + self.set_by

    def says(self, source: str, ahead: float = 0.0, within: float = 0.5) -> Sighting:
        now = Reading(self.wall, self.steady())
        return Sighting(source, timedelta(seconds=ahead), timedelta(seconds=within), now)

    def hear(self, *sightings: Sighting) -> None:
        self.watch.hear(sightings, self.wall)

    @property
    def doubt(self) -> str | None:
        return self.watch.doubt(self.wall)


def test_sources_settle_a_step_of_the_clock_and_nobody_else_does() -> None:
    told = Told(Tolerances(quorum=2))
    assert told.doubt  # nobody was heard yet
    told.hear(told.says("a"), told.says("b"))
    assert told.doubt is None
    told.set_by = timedelta(seconds=30)
    assert told.doubt
    told.hear(told.says("a"), told.says("b", -30))
    assert told.doubt
    told.hear(told.says("b"))  # one at a time is no quorum at one moment
    assert told.doubt
    told.hear(told.says("a"), told.says("b"))
    assert told.doubt is None
    told.set_by = timedelta()
    assert told.doubt


def test_without_a_quorum_no_number_of_sources_settles_a_step() -> None:
    """Nobody who has to agree is not everybody who agrees."""
    told = Told(Tolerances(quorum=0))
    told.set_by = timedelta(hours=2)
    for heard in ((), (told.says("a"),), (told.says("a"), told.says("b"))):
        told.hear(*heard)
        assert told.doubt, heard


@pytest.mark.parametrize("hours", [2, -2])
def test_a_clock_that_is_set_after_the_sources_spoke_is_not_settled_by_what_they_said(hours: int) -> None:
    told = Told(Tolerances(quorum=2))
    told.hear(told.says("a"), told.says("b"))
    told.steady.seconds += 60
    said = told.says("a"), told.says("b")
    told.steady.seconds += 1
    told.set_by = timedelta(hours=hours)  # while a third source keeps us waiting
    told.steady.seconds += 2.5
    told.hear(*said)
    for _ in range(2):
        assert "was set" in (told.doubt or "")
        told.steady.seconds += 58
    told.set_by = timedelta()
    assert told.doubt is None


def test_what_the_sources_confirmed_is_where_drift_is_counted_from() -> None:
    """Not from what the clock showed when their words were put together: small steps would add up."""
    told = Told(Tolerances(quorum=1))
    said = told.says("a")
    told.set_by = timedelta(seconds=0.4)
    told.hear(said)
    assert told.doubt is None
    told.set_by = timedelta(seconds=0.8)
    assert "was set forward by 0.800 s" in (told.doubt or "")


def test_sources_that_spoke_before_and_after_the_clock_was_set_are_no_quorum() -> None:
    told = Told(Tolerances(quorum=2))
    told.hear(told.says("a"), told.says("b"))
    before = told.says("a")
    told.steady.seconds += 1
    told.set_by = timedelta(hours=2)
    told.hear(before, told.says("b"))  # which alone says that the clock is right now
    assert "was set forward by 7200.000 s" in (told.doubt or "")


def test_what_a_source_said_before_the_clock_was_set_counts_no_more_after_others_settled_it() -> None:
    told = Told(Tolerances(quorum=2))
    told.hear(told.says("a"), told.says("b"), told.says("c"))
    told.set_by = timedelta(seconds=30)
    told.hear(told.says("a"), told.says("b"))
    assert told.doubt is None
    told.hear(told.says("b", 7200))  # the other one that agreed before, `c`, spoke of another clock
    assert "1 of 3 outside sources" in (told.doubt or "")


@given(st.floats(0, 20), st.floats(0, 20), st.floats(-20, 20))
def test_a_source_that_counts_leaves_no_more_open_than_the_accuracy_and_the_bound(
    ahead: float, within: float, true: float
) -> None:
    tolerances = Tolerances()
    assert tolerances.accuracy == SECOND  # as tokens state it
    said = sighting("slow", ahead, within=within)
    # Whatever the source's word allows for is what our clock may be off by.
    if said.agrees(tolerances) and abs(true - ahead) <= within:
        assert abs(true) <= 1.5 + 1e-5
    assert not sighting("slow", 2.9, within=2.0).agrees(tolerances)
    assert sighting("quick", 0.5, within=1.0).agrees(tolerances)


def test_a_source_that_takes_long_to_answer_does_not_count_however_right_it_is() -> None:
    told = Told(Tolerances(quorum=1))
    told.hear(told.says("slow", 0.0, within=2.0))
    assert told.doubt
    told.hear(told.says("slow", 0.0, within=1.0))
    assert told.doubt is None


def test_sources_that_fall_silent_stop_it() -> None:
    told = Told(Tolerances(quorum=1))
    told.hear(told.says("a"))
    told.steady.seconds += 299
    assert told.doubt is None
    told.steady.seconds += 2
    assert "0 of 0 outside sources" in (told.doubt or "")
