"""What a home's registry knows of a device's chain of captures, as lines for people."""

from collections.abc import Iterator

from storage.registry.registry import Registry
from storage.registry.rows import Contradiction, Fork
from tools.report import iso_no_later


def describe(registry: Registry, name: str) -> Iterator[str]:
    """The device, each capture by number, every gap in its place, and what contradicts itself."""
    device, chain = registry.device(name), registry.captures(name)
    gaps, forks = registry.missing(name), registry.forks(name)
    yield f"{name}\t{device.status}\t{len(chain)} captures received, {sum(map(len, gaps))} missing, {len(forks)} forks"
    if (said := beginning(registry, name)) is not None:
        yield said
    for capture in chain:
        for gap in (each for each in gaps if each.stop == capture.counter):
            yield f"{_numbers(gap)}\tMISSING: never handed in"
        entry = "not recorded yet" if capture.entry is None else f"entry {capture.entry}"
        yield f"{capture.counter}\t{entry}\treceived {iso_no_later(capture.at)}\tclaim {capture.claim.hex()}"
    for fork in forks:
        yield f"{fork.refused.counter}\tFORK: {_against(fork)}"
    yield "after the last capture: nobody here knows whether there are more"


def beginning(registry: Registry, name: str) -> str | None:
    """What cannot be known of a chain that does not begin with 1; None where there is nothing to say."""
    first = registry.chain_beginning(name)
    if first in (None, 1):
        return None
    return f"the chain begins with capture {first}; whether there were earlier ones nobody here knows"


def _against(fork: Fork) -> str:
    refused, other = fork.refused.claim.hex(), fork.against.hex()
    match fork.about:
        case Contradiction.PLACE:
            return f"claim {refused} contradicts claim {other}"
        case Contradiction.CERTIFICATE:
            return f"claim {refused} has the one-time certificate of claim {other}"


def _numbers(gap: range) -> str:
    last = gap.stop - 1
    return str(gap.start) if gap.start == last else f"{gap.start}-{last}"
