"""Time work and floor in turn, and make rows of figures from what it took."""

import statistics
import time
from collections.abc import Callable, Sequence

from tools.figures import Budget, Row, Side

NO_FLOOR = "none"
_PER_SECOND = {"s": 1.0, "ms": 1e3, "us": 1e6}


def seconds(work: Callable[[], object]) -> float:
    """How long the work takes, once."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def in_turn(rounds: int, *works: Callable[[], object]) -> list[tuple[float, ...]]:
    """Time each work once a round, in turn, after one round that does not count; one list for each work."""
    taken = [[seconds(work) for work in works] for _ in range(rounds + 1)][1:]
    return list(zip(*taken, strict=True))


def ratio(
    name: str, floor: str, floor_times: Sequence[float], times: Sequence[float], at_most: float | None
) -> Row:
    """A row of ours over the floor, within each pair."""
    return Row(
        name,
        floor,
        "x",
        tuple(ours / bare for bare, ours in zip(floor_times, times, strict=True)),
        None if at_most is None else Budget(Side.AT_MOST, at_most),
        statistics.median(floor_times),
        statistics.median(times),
    )


def absolute(name: str, unit: str, times: Sequence[float], at_most: float | None) -> Row:
    """A row of durations that stand for themselves."""
    budget = None if at_most is None else Budget(Side.AT_MOST, at_most)
    return Row(name, NO_FLOOR, unit, tuple(taken * _PER_SECOND[unit] for taken in times), budget)
