"""Charts: every point is where its numbers say, and the picture needs nothing but itself."""

import math
import re
from itertools import pairwise
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tools.plot import FORM, Panel, Series, drawn

SVG = "{http://www.w3.org/2000/svg}"
POINTS = st.lists(
    st.tuples(st.floats(1, 1e7), st.floats(1e-3, 1e6)),
    min_size=1,
    max_size=12,
    unique_by=lambda point: point[0],
).map(tuple)


def panel(*series: Series) -> Panel:
    return Panel("Rates", "entries", "per second", series)


def circles(svg: str) -> list[tuple[float, float]]:
    root = ElementTree.fromstring(svg)  # noqa: S314 - ours, made above
    return [(float(each.attrib["cx"]), float(each.attrib["cy"])) for each in root.iter(f"{SVG}circle")]


@given(POINTS)
def test_places_are_linear_in_the_logarithms_of_the_numbers(points: tuple[tuple[float, float], ...]) -> None:
    placed = circles(drawn([panel(Series("a", points))]))
    assert len(placed) == len(points)
    for axis in (0, 1):
        wanted = [math.log10(point[axis]) for point in points]
        found = [place[axis] for place in placed]
        low, high = wanted.index(min(wanted)), wanted.index(max(wanted))
        if wanted[high] - wanted[low] < 0.1:
            continue
        scale = (found[high] - found[low]) / (wanted[high] - wanted[low])
        assert (scale > 0) == (axis == 0)
        for want, place in zip(wanted, found, strict=True):
            assert place == pytest.approx(found[low] + scale * (want - wanted[low]), abs=0.3)


@given(st.lists(POINTS, min_size=1, max_size=4))
def test_nothing_lies_outside_its_panel(lines: list[tuple[tuple[float, float], ...]]) -> None:
    svg = drawn([panel(Series("one", ((1, 1), (10, 10)))), panel(*(Series("b", line) for line in lines))])
    root = ElementTree.fromstring(svg)  # noqa: S314
    width, height = (float(side) for side in root.attrib["viewBox"].split()[2:])
    for x, y in circles(svg)[2:]:
        assert width / 2 < x < width
        assert 0 < y < height


def test_the_axes_are_labelled_with_what_stands_there() -> None:
    svg = drawn([panel(Series("SQLite", ((1_000, 3_000), (1_000_000, 9_000))))])
    root = ElementTree.fromstring(svg)  # noqa: S314
    texts = [text.text for text in root.iter(f"{SVG}text")]
    expected = ["Rates", "per second", "entries", "1,000", "10,000", "100,000", "1,000,000"]
    assert texts == [*expected, "2,000", "5,000", "10,000", "SQLite"]


def test_names_of_lines_that_end_together_do_not_cover_each_other() -> None:
    svg = drawn([panel(*(Series(f"line {number}", ((1, 5), (10, 7))) for number in range(4)))])
    root = ElementTree.fromstring(svg)  # noqa: S314
    named = sorted(
        float(text.attrib["y"]) for text in root.iter(f"{SVG}text") if (text.text or "").startswith("line")
    )
    assert len(named) == 4
    assert all(below - above >= 12 for above, below in pairwise(named))


def test_the_picture_is_small_black_on_white_and_asks_nobody_for_anything() -> None:
    line = tuple((10 ** (step / 8), 4000 + step) for step in range(24, 49))
    svg = drawn([panel(Series("a & b", line), Series("<c>", line)), panel(Series("d", line))])
    assert len(svg.encode()) < 20_000
    root = ElementTree.fromstring(svg)  # noqa: S314
    background = next(root.iter(f"{SVG}rect"))
    assert [background.attrib[name] for name in ("width", "height", "fill")] == [
        *root.attrib["viewBox"].split()[2:],
        "#fff",
    ]
    assert (
        re.findall(r"(?:href|url\(|<script|<style|https?:)", svg.replace("http://www.w3.org/2000/svg", ""))
        == []
    )


def test_a_chart_of_ours_is_known_as_one() -> None:
    svg = drawn([panel(Series("a", ((1, 1),)))]).encode()
    assert FORM.head.match(svg)
    assert FORM.tail.search(svg)
    assert not FORM.head.match(b'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 1 1"></svg>')
