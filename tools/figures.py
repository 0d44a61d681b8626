"""Figures and the budgets they are held to: types, and how a report of them reads.

Measures nothing; `tools.bench` and `tools.bench_ledger` do.
"""

import json
import statistics
from dataclasses import dataclass
from enum import StrEnum

SCHEMA = "lightseal-bench/1"

NOT_MEASURED = ("detector: there is none yet",)
"""Budgets of the design that no row here speaks of."""


class Side(StrEnum):
    """On which side of its value a budget is kept."""

    AT_MOST = "<="
    AT_LEAST = ">="


class State(StrEnum):
    """Whether the median keeps the budget; SHOWN is for what has none."""

    OK = "ok"
    OVER = "over"
    SHOWN = "shown"


@dataclass(frozen=True, slots=True)
class Budget:
    """What was promised of a figure."""

    side: Side
    value: float

    def state(self, median: float) -> State:
        """Compare the median alone; the spread is for the reader."""
        match self.side:
            case Side.AT_MOST:
                return State.OK if median <= self.value else State.OVER
            case Side.AT_LEAST:
                return State.OK if median >= self.value else State.OVER


@dataclass(frozen=True, slots=True)
class Row:
    """One figure: a sample per pair or repetition, and what the floor and we took in seconds."""

    name: str
    floor: str
    unit: str
    samples: tuple[float, ...]
    budget: Budget | None = None
    floor_seconds: float | None = None
    our_seconds: float | None = None

    @property
    def median(self) -> float:
        """The middle sample."""
        return statistics.median(self.samples)

    @property
    def quartiles(self) -> tuple[float, float]:
        """Between these lies the middle half of the samples."""
        if len(self.samples) < 2:
            return self.median, self.median
        low, _, high = statistics.quantiles(self.samples, n=4, method="inclusive")
        return low, high

    @property
    def state(self) -> State:
        """Whether the budget is kept."""
        return State.SHOWN if self.budget is None else self.budget.state(self.median)


@dataclass(frozen=True, slots=True)
class Machine:
    """Where and when the figures are true. `sha_extensions` is the processor's own SHA-256."""

    processor: str
    cores: int
    sha_extensions: str
    system: str
    python: str
    libraries: tuple[tuple[str, str], ...]
    file_system: str
    began: str
    load: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Report:
    """Every row of one run, the machine, and what was promised or asked for and not measured."""

    machine: Machine
    load_after: tuple[float, ...]
    seconds: float
    rows: tuple[Row, ...]
    not_measured: tuple[str, ...] = NOT_MEASURED

    def as_json(self) -> str:
        """One object on one line; samples are left out, their number is not."""
        machine = {name: getattr(self.machine, name) for name in Machine.__slots__}
        document = {
            "schema": SCHEMA,
            "machine": {**machine, "libraries": dict(self.machine.libraries)},
            "load_after": self.load_after,
            "seconds": self.seconds,
            "rows": [_document(row) for row in self.rows],
            "not_measured": self.not_measured,
        }
        return json.dumps(document, sort_keys=True)

    def as_text(self) -> str:
        """A header, then one line per row: the median, the middle half, the budget, the floor."""
        machine = self.machine
        libraries = ", ".join(f"{name} {found}" for name, found in machine.libraries)
        cells = [_cells(row) for row in self.rows]
        widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
        return "\n".join(
            [
                f"{machine.processor}, {machine.cores} cores, SHA extensions {machine.sha_extensions}",
                f"{machine.system}, Python {machine.python}, temporary folder on {machine.file_system}",
                libraries,
                f"began {machine.began}, took {self.seconds:.0f} s, load {_loads(machine.load)} before"
                f" and {_loads(self.load_after)} after",
                "Each figure is the median; in brackets the quartiles. x is ours over the floor, per pair.",
                "",
                *(
                    "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
                    for line in cells
                ),
                *(f"not measured  {what}" for what in self.not_measured),
            ]
        )


def _document(row: Row) -> dict[str, object]:
    return {
        "name": row.name,
        "floor": row.floor,
        "unit": row.unit,
        "median": row.median,
        "quartiles": row.quartiles,
        "range": (min(row.samples), max(row.samples)),
        "count": len(row.samples),
        "budget": None if row.budget is None else {"side": row.budget.side, "value": row.budget.value},
        "state": row.state,
        "floor_seconds": row.floor_seconds,
        "our_seconds": row.our_seconds,
    }


def _cells(row: Row) -> tuple[str, ...]:
    low, high = (_figure(value) for value in row.quartiles)
    budget = "" if row.budget is None else f"{row.budget.side} {row.budget.value:g}"
    took = ""
    if row.floor_seconds is not None and row.our_seconds is not None:
        took = f" ({_duration(row.floor_seconds)}; ours {_duration(row.our_seconds)})"
    return (
        row.state,
        row.name,
        f"{_figure(row.median)} {row.unit}",
        f"[{low}..{high}]",
        budget,
        f"floor: {row.floor}{took}",
    )


def _figure(value: float) -> str:
    return f"{value:.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def _duration(seconds: float) -> str:
    return f"{_figure(seconds * 1e3)} ms" if seconds >= 1e-3 else f"{_figure(seconds * 1e6)} us"


def _loads(load: tuple[float, ...]) -> str:
    return "/".join(f"{value:.2f}" for value in load) or "unknown"
