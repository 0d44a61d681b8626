"""Where a capture stands in its device's chain, and what contradicts that. Pure.

A chain is what one device, with one key, one counter and one memory, makes: every capture
has a larger counter than the one before and names its link. Captures arrive in any order, and
some never; what has arrived must still be a part of one such chain.

That the link is the hash of the predecessor, the counter, the media and the checkpoint was
checked where the capture was read. Here links are compared, not computed.
"""

from dataclasses import dataclass

from storage.registry.rows import GENESIS, Capture


@dataclass(frozen=True, slots=True)
class Neighbours:
    """What has arrived already and could contradict a capture; each is None where there is none."""

    twin: Capture | None
    """It has the same counter."""
    sibling: Capture | None
    """It names the same predecessor."""
    double: Capture | None
    """It has the same link."""
    below: Capture | None
    """Of those with a smaller counter, the one with the largest."""
    above: Capture | None
    """Of those with a larger counter, the one with the smallest."""
    predecessor: Capture | None
    """Its link is what the capture names."""
    successor: Capture | None
    """It names the link of the capture."""


def contradicting(capture: Capture, around: Neighbours) -> Capture | None:
    """Return one that cannot be in the same chain as the capture; None where there is none.

    A twin alone is no fork: a counter may be put back without a second device.
    """
    below, above = around.below, around.above
    # 1. Nothing has two successors, nor two captures one link.
    if (contradiction := around.sibling or around.double) is not None:
        return contradiction
    if around.twin is not None:
        return None
    # 2. A chain begins once, and before everything else.
    if capture.previous == GENESIS and below is not None:
        return below
    if above is not None and above.previous == GENESIS:
        return above
    # 3. What it names, and what names it, are next to it: between them nothing was captured.
    if around.predecessor is not None and around.predecessor != below:
        return around.predecessor
    if around.successor is not None and around.successor != above:
        return around.successor
    # 4. And what is next to it by number is next to it by link.
    if below is not None and below.counter == capture.counter - 1 and below.link != capture.previous:
        return below
    if above is not None and above.counter == capture.counter + 1 and above.previous != capture.link:
        return above
    # 5. Between two that are tied to each other there is no room.
    if above is not None and below is not None and above.previous == below.link:
        return above
    return None


def gap(capture: Capture, below: Capture | None) -> range:
    """Return the numbers right before the capture that have not arrived.

    A number is missing also where the links go on over it: the counter counted something
    that nobody has seen.
    """
    if below is not None:
        return range(below.counter + 1, capture.counter)
    return range(capture.counter if capture.previous == GENESIS else 1, capture.counter)
