"""What an estimate may say, and that nobody can mistake it for a yes."""

import dataclasses
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from detector.detection import Abstention, Band, Detection, OperatingPoint
from detector.errors import OperatingPointError

POINT = OperatingPoint(0.8, 0.3, 0.01, 0.2, "held-out photographs, 2024")


def detection(score: float, at: OperatingPoint = POINT) -> Detection:
    return Detection(score, at, "00" * 32, 1, 1)


@pytest.mark.parametrize(
    ("score", "band"),
    [
        (1.0, Band.SIGNS_OF_SYNTHESIS),
        (0.8, Band.SIGNS_OF_SYNTHESIS),
        (0.7999, Band.INCONCLUSIVE),
        (0.3, Band.INCONCLUSIVE),
        (0.2999, Band.NO_SIGNS_FOUND),
        (0.0, Band.NO_SIGNS_FOUND),
        (math.nan, Band.INCONCLUSIVE),
    ],
)
def test_the_band_is_where_the_score_lies(score, band):
    assert detection(score).band is band


@given(st.floats(0, 1), st.floats(0, 1), st.floats(0, 1), st.floats(0, 1))
def test_a_higher_score_never_shows_fewer_signs(one, two, low, high):
    point = dataclasses.replace(POINT, clear_below=min(low, high), threshold=max(low, high))
    order = [Band.NO_SIGNS_FOUND, Band.INCONCLUSIVE, Band.SIGNS_OF_SYNTHESIS]
    bands = [order.index(detection(score, point).band) for score in sorted((one, two))]
    assert bands == sorted(bands)


def test_no_band_says_that_a_picture_can_be_believed():
    assert {str(band) for band in Band} == {
        "signs of synthesis", "inconclusive", "no signs found", "not applicable", "not run"
    }  # fmt: skip


@pytest.mark.parametrize("estimate", [detection(0.9), Abstention(Band.NOT_RUN, "no model is installed")])
def test_an_estimate_has_no_truth_value(estimate):
    with pytest.raises(TypeError, match="estimate"):
        bool(estimate)


@pytest.mark.parametrize("band", [Band.SIGNS_OF_SYNTHESIS, Band.INCONCLUSIVE, Band.NO_SIGNS_FOUND])
def test_an_abstention_says_nothing_that_needs_a_score(band):
    with pytest.raises(OperatingPointError):
        Abstention(band, "because")


@pytest.mark.parametrize(
    "wrong",
    [
        {"threshold": 0.2},
        {"threshold": 1.1},
        {"clear_below": -0.1},
        {"threshold": math.nan},
        {"false_alarm_rate": 2.0},
        {"miss_rate": -1.0},
        {"measured_on": ""},
    ],
)
def test_an_operating_point_that_contradicts_itself_is_refused(wrong):
    with pytest.raises(OperatingPointError):
        dataclasses.replace(POINT, **wrong)
