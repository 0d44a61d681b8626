"""Judge whether a clock may date anything. Pure: what clocks and sources said comes in as values.

Three doubts, each enough to stop (ETSI EN 319 421, 7.7.2): the clock was set, which a clock
that nobody sets shows; it is behind a time that others have already witnessed; too few
outside sources agree with it. A clock that was wrong all along, with nobody asked, is not
noticed: ask somebody.

A source counts only while it leaves no more open than the accuracy that tokens state, and a
bound: our clock is then at most `accuracy + beyond` from the source's, however slowly it
answered. A Date is cut to its second and so leaves a second open by itself, which is why
the bound is not nothing: 1.5 s in all, of which a token states 1 s.
"""

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

ACCURACY = timedelta(seconds=1)
"""What tokens say of themselves (RFC 3161, 2.4.2, accuracy)."""


@dataclass(frozen=True, slots=True)
class Tolerances:
    """How far clocks may be apart, and how many outside sources have to agree, each heard how lately.

    `beyond` is how much more than `accuracy` a source that counts may leave open. With the default a
    clock that is right is always confirmed by a Date that takes half a second, there and back.
    """

    drift: timedelta = timedelta(milliseconds=500)
    accuracy: timedelta = ACCURACY
    beyond: timedelta = timedelta(milliseconds=500)
    quorum: int = 0
    fresh: timedelta = timedelta(minutes=5)


@dataclass(frozen=True, slots=True)
class Reading:
    """Two clocks read at once: the one that dates, and one that nobody sets, in seconds."""

    wall: datetime
    steady: float


@dataclass(frozen=True, slots=True)
class Sighting:
    """What one outside source said: how far it is ahead of our clock, give or take `within`.

    `at` is what our clocks showed when it was said: only of that clock it is said, and not of the
    same clock once it was set.
    """

    source: str
    ahead: timedelta
    within: timedelta
    at: Reading

    def agrees(self, tolerances: Tolerances) -> bool:
        """Whether our clock must be right by this source, and not only can be: a slow answer proves less."""
        return abs(self.ahead) + self.within <= tolerances.accuracy + tolerances.beyond

    def is_about(self, now: Reading, tolerances: Tolerances) -> bool:
        """Whether the clock was not set since."""
        return drift_doubt(self.at, now, tolerances) is None


def drift_doubt(start: Reading, now: Reading, tolerances: Tolerances) -> str | None:
    """Why the clock was set since `start`, if it was."""
    drift = (now.wall - start.wall).total_seconds() - (now.steady - start.steady)
    if abs(drift) <= tolerances.drift.total_seconds():
        return None
    return (
        f"the clock was set {'forward' if drift > 0 else 'back'} by {abs(drift):.3f} s while it was relied on"
    )


def floor_doubt(now: datetime, floor: datetime | None) -> str | None:
    """Why `now` cannot be, after what was witnessed or recorded before."""
    if floor is None or now >= floor:
        return None
    return f"the clock is {(floor - now).total_seconds():.1f} s behind a time that is already on record"


def sources_doubt(heard: Sequence[Sighting], now: Reading, tolerances: Tolerances) -> str | None:
    """Why too few of the outside sources stand behind the clock.

    The last word of each counts, while it is fresh, and as long as the clock was not set after it.
    """
    last = {each.source: each for each in sorted(heard, key=lambda each: each.at.steady)}
    fresh = [
        each for each in last.values() if now.steady - each.at.steady <= tolerances.fresh.total_seconds()
    ]
    agreeing = sum(each.agrees(tolerances) and each.is_about(now, tolerances) for each in fresh)
    if agreeing >= tolerances.quorum:
        return None
    return f"{agreeing} of {len(fresh)} outside sources heard lately agree with the clock, and {tolerances.quorum} must"


class Watch:
    """The doubts about one clock, kept up to date by whoever asks sources; safe between threads.

    `steady` reads, in seconds, a clock that nobody sets and that runs on through sleep. Sources
    that agree by quorum also settle a step of the clock: what it showed when the last of them
    answered becomes the new start. What it was set to after that, nobody has confirmed.
    Without sources a clock that was set stays in doubt until the unit is started again.
    """

    def __init__(self, wall: datetime, steady: Callable[[], float], tolerances: Tolerances) -> None:
        self._steady = steady
        self._tolerances = tolerances
        self._sightings: tuple[Sighting, ...] = ()
        self._changing = threading.Lock()
        self._start_at(Reading(wall, steady()))

    def hear(self, sightings: Sequence[Sighting], now: datetime) -> None:
        """Take in what sources just said of the clock, which shows `now`."""
        reading = Reading(now, self._steady())
        with self._changing:
            kept = {each.source: each for each in (*self._sightings, *sightings)}
            self._sightings = tuple(kept.values())
            tolerances = self._tolerances
            agreeing = [
                each for each in sightings if each.agrees(tolerances) and each.is_about(reading, tolerances)
            ]
            # Nobody is no quorum: without sources that have to agree, nothing settles a step.
            if tolerances.quorum and len({each.source for each in agreeing}) >= tolerances.quorum:
                self._start_at(max((each.at for each in agreeing), key=lambda at: at.steady))

    def doubt(self, now: datetime) -> str | None:
        """Why the clock, which shows `now`, may not date anything; nothing where it may."""
        steady = self._steady()
        # The common case costs one subtraction; the sentence is made where there is a doubt.
        if abs(now.timestamp() - steady - self._offset) > self._drift:
            return drift_doubt(self._start, Reading(now, steady), self._tolerances)
        if self._tolerances.quorum:
            return sources_doubt(self._sightings, Reading(now, steady), self._tolerances)
        return None

    def _start_at(self, start: Reading) -> None:
        self._start = start
        self._drift = self._tolerances.drift.total_seconds()
        self._offset = start.wall.timestamp() - start.steady
