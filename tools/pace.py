"""So many a second in the long run, and so many at once: a bucket that fills with time."""

import threading
from collections.abc import Callable


class Pace:
    """One bucket for all who ask. Threads may share it; who is asking is not known here."""

    def __init__(self, per_second: float, burst: float, clock: Callable[[], float]) -> None:
        self._per_second, self._burst, self._clock = per_second, burst, clock
        self._left, self._then, self._alone = burst, clock(), threading.Lock()

    def wait(self) -> float:
        """Take one turn and return 0; where none is left, take none and return the seconds until there is one."""
        with self._alone:
            now = self._clock()
            self._left = min(self._burst, self._left + (now - self._then) * self._per_second)
            self._then = now
            if self._left < 1:
                return (1 - self._left) / self._per_second
            self._left -= 1
            return 0.0
