"""Draw lines on logarithmic axes as a small SVG picture; pure, and no more than the bench needs."""

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape
from itertools import pairwise

from tools.output import Form

_WIDTH, _HEIGHT = 480, 340
_LEFT, _RIGHT, _TOP, _BOTTOM = 62, 84, 52, 50
_LINE_HEIGHT = 15
_COLOURS = ("#0072b2", "#d55e00", "#00795c", "#7b4173")  # told apart by the colour-blind; dark on white
_DASHES = ("", "7 3", "2 3", "9 3 2 3")
_STEPS = (1, 2, 5)
_BEGINNING = '<svg xmlns="http://www.w3.org/2000/svg" data-by="lightseal bench"'
FORM = Form("chart", re.compile(re.escape(_BEGINNING).encode()), re.compile(rb"</svg>\s*\Z"))
"""By which a chart of ours is known, so that a new one replaces it and nothing else."""


@dataclass(frozen=True, slots=True)
class Series:
    """A line by its points; all coordinates are positive."""

    name: str
    points: tuple[tuple[float, float], ...]


@dataclass(frozen=True, slots=True)
class Panel:
    """Lines over the same axes, both logarithmic."""

    title: str
    across: str
    up: str
    series: tuple[Series, ...]


@dataclass(frozen=True, slots=True)
class _Axis:
    """One axis: from which to which value, and between which two places."""

    low: float
    high: float
    start: float
    stop: float

    def place(self, value: float) -> float:
        share = (math.log10(value) - math.log10(self.low)) / (math.log10(self.high) - math.log10(self.low))
        return self.start + share * (self.stop - self.start)

    def ticks(self, steps: Sequence[int]) -> list[float]:
        powers = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
        marks = [step * 10.0**power for power in powers for step in steps]
        return [mark for mark in marks if self.low * 0.999 <= mark <= self.high * 1.001]


def drawn(panels: Sequence[Panel]) -> str:
    """Return the picture: the panels side by side, black on white wherever it is shown."""
    width = _WIDTH * len(panels)
    names = "; ".join(panel.title for panel in panels)
    return "\n".join(
        (
            f'{_BEGINNING} viewBox="0 0 {width} {_HEIGHT}" role="img"'
            ' font-family="sans-serif" font-size="12" fill="#222">',
            f"<title>{escape(names)}</title>",
            f'<rect width="{width}" height="{_HEIGHT}" fill="#fff"/>',
            *(line for at, panel in enumerate(panels) for line in _panel(panel, at * _WIDTH)),
            "</svg>\n",
        )
    )


def _panel(panel: Panel, at: int) -> Iterator[str]:
    points = [point for series in panel.series for point in series.points]
    left, right, top, bottom = at + _LEFT, at + _WIDTH - _RIGHT, _TOP, _HEIGHT - _BOTTOM
    across = _Axis(*_decades([x for x, _ in points]), left, right)
    up = _Axis(*_rounded([y for _, y in points]), bottom, top)
    yield f'<text x="{left}" y="22" font-size="14" font-weight="bold">{escape(panel.title)}</text>'
    yield f'<text x="{left}" y="{top - 10}">{escape(panel.up)}</text>'
    middle = (left + right) / 2
    yield f'<text x="{middle:g}" y="{_HEIGHT - 12}" text-anchor="middle">{escape(panel.across)}</text>'
    yield '<g stroke="#ddd">'
    for mark in across.ticks((1,)):
        yield f'<path d="M{across.place(mark):.1f} {top}V{bottom}"/>'
    marks = up.ticks(_STEPS if up.high / up.low < 2000 else (1,))
    for mark in marks:
        yield f'<path d="M{left} {up.place(mark):.1f}H{right}"/>'
    yield "</g>"
    for mark in across.ticks((1,)):
        yield f'<text x="{across.place(mark):.1f}" y="{bottom + 18}" text-anchor="middle">{mark:,.0f}</text>'
    for mark in marks:
        yield f'<text x="{left - 7}" y="{up.place(mark) + 4:.1f}" text-anchor="end">{_figure(mark)}</text>'
    named = _spread([up.place(series.points[-1][1]) for series in panel.series])
    for number, (series, y) in enumerate(zip(panel.series, named, strict=True)):
        colour, dash = _COLOURS[number % len(_COLOURS)], _DASHES[number % len(_DASHES)]
        placed = [(across.place(across_), up.place(up_)) for across_, up_ in series.points]
        line = "L".join(f"{x:.1f} {y:.1f}" for x, y in placed)
        dashed = f' stroke-dasharray="{dash}"' if dash else ""
        yield f'<path d="M{line}" fill="none" stroke="{colour}" stroke-width="2"{dashed}/>'
        yield f'<g fill="{colour}">'
        yield from (f'<circle cx="{x:.1f}" cy="{y:.1f}" r="2.6"/>' for x, y in placed)
        at_end = f'x="{placed[-1][0] + 8:.1f}" y="{y + 4:.1f}"'
        halo = 'paint-order="stroke" stroke="#fff" stroke-width="4"'  # where another line goes on behind it
        yield f"<text {at_end} {halo}>{escape(series.name)}</text></g>"


def _decades(values: Sequence[float]) -> tuple[float, float]:
    """The powers of ten around the values."""
    low, high = math.floor(math.log10(min(values))), math.ceil(math.log10(max(values)))
    return 10.0**low, 10.0 ** max(high, low + 1)


def _rounded(values: Sequence[float]) -> tuple[float, float]:
    """The steps around the values, so that nothing lies on the edge."""
    powers = range(math.floor(math.log10(min(values))) - 1, math.ceil(math.log10(max(values))) + 2)
    steps = [step * 10.0**power for power in powers for step in _STEPS]
    return (
        max(step for step in steps if step < min(values)),
        min(step for step in steps if step > max(values)),
    )


def _spread(heights: Sequence[float]) -> list[float]:
    """Move labels down until none touches the one above."""
    placed = list(heights)
    order = sorted(range(len(placed)), key=placed.__getitem__)
    for above, below in pairwise(order):
        placed[below] = max(placed[below], placed[above] + _LINE_HEIGHT)
    return placed


def _figure(value: float) -> str:
    return f"{value:,.0f}" if value >= 1 else f"{value:.10f}".rstrip("0")
