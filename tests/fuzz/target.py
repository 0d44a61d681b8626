"""What a target of fuzzing is: a reader of bytes from outside, what it may raise, and where it starts from."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent


class BrokenPropertyError(AssertionError):
    """An answer was given, and it is wrong."""


@dataclass(frozen=True, slots=True)
class Target:
    """A reader: `run` may raise `refusals` and nothing else. `shape` names how its inputs are changed.

    What `run` returns tells kinds of answers apart, where there are several.
    """

    name: str
    run: Callable[[bytes], object]
    refusals: tuple[type[Exception], ...]
    shape: str
    made: Callable[[], Iterator[bytes]]
    cost: int = 1
    """How many times longer one input takes than those of the other readers, roughly."""

    def seeds(self) -> list[bytes]:
        """Every input to start from, in one order."""
        kept = sorted((HERE / "corpus" / self.name).glob("*"))
        return [*self.made(), *(path.read_bytes() for path in kept)]


def must(held: object, what: str) -> None:
    """State a property of an answer."""
    if not held:
        raise BrokenPropertyError(what)
