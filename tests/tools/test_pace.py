"""A bucket never gives more than its rate and its burst, and says how long it takes."""

import threading

from hypothesis import given
from hypothesis import strategies as st

from tools.pace import Pace


def test_who_asks_too_often_is_told_how_long_to_wait() -> None:
    moment = [0.0]
    pace = Pace(2.0, 3.0, lambda: moment[0])
    assert [pace.wait() for _ in range(4)] == [0, 0, 0, 0.5]
    moment[0] = 0.25
    assert pace.wait() == 0.25, "to have asked costs nothing"
    moment[0] = 0.5
    assert [pace.wait(), pace.wait()] == [0, 0.5]
    moment[0] = 1000.0
    assert [pace.wait() for _ in range(4)] == [0, 0, 0, 0.5], (
        "what was not used is not saved beyond the burst"
    )


@given(st.lists(st.floats(0, 2), max_size=60), st.sampled_from([0.5, 1.0, 4.0]), st.integers(1, 8))
def test_no_stretch_of_time_gets_more_than_its_burst_and_its_rate(
    steps: list[float], rate: float, burst: int
) -> None:
    moment, given_at = [0.0], []
    pace = Pace(rate, burst, lambda: moment[0])
    for step in steps:
        moment[0] += step
        if pace.wait() == 0:
            given_at.append(moment[0])
    for first in range(len(given_at)):
        for last in range(first, len(given_at)):
            stretch = given_at[last] - given_at[first]
            assert last - first + 1 <= burst + rate * stretch + 1e-6


def test_threads_together_get_no_more_than_one_would() -> None:
    pace, taken = Pace(1.0, 50.0, lambda: 0.0), []

    def ask() -> None:
        taken.extend(pace.wait() for _ in range(20))

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert taken.count(0) == 50
