"""What the detector answers: a calibrated score in a band, or an abstention."""

from dataclasses import dataclass
from enum import StrEnum
from typing import NoReturn

from detector.errors import OperatingPointError


class Band(StrEnum):
    """All that can be said. There is no word here for "authentic"."""

    SIGNS_OF_SYNTHESIS = "signs of synthesis"
    INCONCLUSIVE = "inconclusive"
    NO_SIGNS_FOUND = "no signs found"
    NOT_APPLICABLE = "not applicable"
    NOT_RUN = "not run"


@dataclass(frozen=True, slots=True)
class OperatingPoint:
    """Where a model's scores are cut, and how often that was wrong on held-out media.

    At `threshold` and above lie the signs of synthesis; below `clear_below`,
    nothing was found; between them the score is inconclusive.
    `false_alarm_rate` is the share of photographs at or above `threshold`,
    `miss_rate` the share of synthesised pictures below `clear_below`, both
    measured on `measured_on` and true of nothing else.
    """

    threshold: float
    clear_below: float
    false_alarm_rate: float
    miss_rate: float
    measured_on: str

    def __post_init__(self) -> None:
        if not 0.0 <= self.clear_below <= self.threshold <= 1.0:
            raise OperatingPointError("The cuts are not in order between 0 and 1.")
        if not (0.0 <= self.false_alarm_rate <= 1.0 and 0.0 <= self.miss_rate <= 1.0):
            raise OperatingPointError("An error rate is not between 0 and 1.")
        if not self.measured_on:
            raise OperatingPointError("The operating point does not say what it was measured on.")


@dataclass(frozen=True, slots=True)
class Detection:
    """A calibrated score and all it takes to compute it again."""

    score: float
    at: OperatingPoint
    model_sha256: str
    frames_scored: int
    frames_total: int

    @property
    def band(self) -> Band:
        """Where the score lies at the operating point. A score that is no number is inconclusive."""
        if self.score >= self.at.threshold:
            return Band.SIGNS_OF_SYNTHESIS
        return Band.NO_SIGNS_FOUND if self.score < self.at.clear_below else Band.INCONCLUSIVE

    def __bool__(self) -> NoReturn:
        raise TypeError("A detection is an estimate; ask for its band.")


@dataclass(frozen=True, slots=True)
class Abstention:
    """Why there is no score."""

    band: Band
    reason: str

    def __post_init__(self) -> None:
        if self.band not in {Band.NOT_APPLICABLE, Band.NOT_RUN}:
            raise OperatingPointError(f"'{self.band}' needs a score.")

    def __bool__(self) -> NoReturn:
        raise TypeError("An abstention is an estimate not made; ask for its reason.")
