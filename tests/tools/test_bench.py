"""What the bench reports, and that its verdict on itself is computed and not written."""

import json
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from authn.container import check_whole
from authn.media import Kind, Media
from detector.frames import decode_fully
from tools import bench, bench_ledger, timing
from tools.bench import Plan, measure, noise_jpeg, noise_wav
from tools.figures import SCHEMA, Budget, Machine, Report, Row, Side, State

LOG = bench_ledger.Plan(bench_ledger.SQLITE, (500, 1_500), 3, 3, 1, 0.2, 0.2)
TINY = Plan((20_000, 90_000), 30_000, 3, 2, (LOG,), 1, 4, 1)
FIGURES = st.lists(st.floats(1e-6, 1e9), min_size=1, max_size=40).map(tuple)
MACHINE = Machine("a processor", 2, "yes", "a system", "3.11", (("a", "1"),), "ext4", "2026-01-01", (0.5,))


@pytest.fixture(scope="module")
def folder() -> Path:
    return Path(tempfile.gettempdir())


@pytest.fixture(scope="module")
def report(folder: Path) -> Report:
    before = set(folder.glob("lightseal-bench-*"))
    measured = measure(TINY)
    assert set(folder.glob("lightseal-bench-*")) <= before, "the temporary folder is left behind"
    return measured


def test_every_promise_has_its_row(report: Report) -> None:
    promised = [
        ("verify, JPEG of 0.0", Side.AT_MOST, 3.5),
        ("verify, JPEG of 0.1", Side.AT_MOST, 3.5),
        ("verify, JPEG of 0.0", Side.AT_MOST, 1.25),
        ("verify, JPEG of 0.1", Side.AT_MOST, 1.25),
        ("verify, WAV", Side.AT_MOST, 2.5),
        ("verify, WAV", Side.AT_MOST, 1.25),
        ("sign, JPEG", Side.AT_MOST, 1.5),
        ("SQLite: append, durable", Side.AT_LEAST, 5000),
        ("time-stamp authority", Side.AT_MOST, 3),
        ("lightseal --help", Side.AT_MOST, 150),
        ("batch of 4, one worker", Side.AT_MOST, 1),
        ("batch of 4, rate of two workers", Side.AT_LEAST, 1.8),
    ]
    for name, side, value in promised:
        assert [row for row in report.rows if row.name.startswith(name) and row.budget == Budget(side, value)]


def test_no_two_rows_say_the_same(report: Report) -> None:
    assert len({(row.name, row.floor) for row in report.rows}) == len(report.rows)


def test_figures_are_positive_where_nothing_was_taken_off(report: Report) -> None:
    for row in report.rows:
        if row.unit in ("entries/s", "us") or (row.unit == "x" and "workers" not in row.name):
            assert min(row.samples) > 0, row.name


def test_the_header_says_where_and_when(report: Report) -> None:
    machine = report.machine
    assert machine.processor
    assert machine.cores >= 1
    assert machine.python.startswith("3.")
    assert {"lightseal", "c2pa-python", "C2PA SDK", "cryptography", "sqlalchemy", "SQLite"} <= set(
        dict(machine.libraries)
    )
    header = report.as_text().partition("\n\n")[0]
    for each in (machine.processor, machine.python, machine.file_system, machine.began):
        assert each in header


@given(FIGURES, st.sampled_from(Side), st.floats(1e-6, 1e9))
def test_a_budget_is_kept_by_the_median_and_by_nothing_else(
    samples: tuple[float, ...], side: Side, value: float
) -> None:
    row = Row("a row", "a floor", "x", samples, Budget(side, value))
    ordered = sorted(samples)
    middle = (ordered[(len(ordered) - 1) // 2] + ordered[len(ordered) // 2]) / 2
    kept = middle <= value if side is Side.AT_MOST else middle >= value
    assert row.state is (State.OK if kept else State.OVER)
    low, high = row.quartiles
    assert ordered[0] <= low <= high <= ordered[-1]


@pytest.mark.parametrize(
    ("samples", "budget", "state"),
    [
        ((9.0, 1.0, 1.5), Budget(Side.AT_MOST, 1.5), State.OK),
        ((1.0, 1.6, 1.7), Budget(Side.AT_MOST, 1.5), State.OVER),
        ((4999.0,), Budget(Side.AT_LEAST, 5000), State.OVER),
        ((5000.0,), Budget(Side.AT_LEAST, 5000), State.OK),
        ((1e9,), None, State.SHOWN),
    ],
)
def test_what_is_over_its_budget_is_called_so(
    samples: tuple[float, ...], budget: Budget | None, state: State
) -> None:
    row = Row("a row", "a floor", "x", samples, budget)
    text = Report(MACHINE, (), 1.0, (row,)).as_text()
    assert row.state is state
    (line,) = (line for line in text.splitlines() if " a row " in line)
    assert line.startswith(f"{state.value} ")


@given(FIGURES, st.sampled_from(Side), st.floats(1e-6, 1e9))
def test_the_json_alone_lets_a_reader_judge_again(
    samples: tuple[float, ...], side: Side, value: float
) -> None:
    row = Row("a row", "a floor", "x", samples, Budget(side, value), 0.5, 2.0)
    document = json.loads(Report(MACHINE, (1.0,), 3.0, (row,)).as_json())
    (read,) = document["rows"]
    assert read["state"] == Budget(Side(read["budget"]["side"]), read["budget"]["value"]).state(
        read["median"]
    )
    assert (read["median"], tuple(read["quartiles"])) == (row.median, row.quartiles)
    assert (*read["range"], read["count"]) == (min(samples), max(samples), len(samples))


def test_the_json_of_a_run_is_complete(report: Report) -> None:
    document = json.loads(report.as_json())
    assert document["schema"] == SCHEMA
    assert set(document["machine"]) == set(Machine.__slots__)
    assert [(row["name"], row["floor"]) for row in document["rows"]] == [
        (row.name, row.floor) for row in report.rows
    ]


def test_floor_and_figure_are_taken_in_turn_and_the_first_round_does_not_count() -> None:
    called: list[str] = []
    bare, ours = timing.in_turn(3, lambda: called.append("floor"), lambda: called.append("ours"))
    assert called == ["floor", "ours"] * 4
    assert len(bare) == len(ours) == 3


def test_a_ratio_is_taken_within_each_pair() -> None:
    row = timing.ratio("a row", "a floor", [1.0, 10.0, 2.0], [2.0, 30.0, 8.0], 3.5)
    assert row.samples == (2.0, 3.0, 4.0)
    assert (row.floor_seconds, row.our_seconds) == (2.0, 8.0)


@pytest.mark.parametrize("size", [1_000, 50_000, 400_000])
def test_the_generated_picture_is_whole_and_decodes(size: int, tmp_path: Path) -> None:
    path = tmp_path / "noise.jpg"
    path.write_bytes(noise_jpeg(size, np.random.default_rng(size)))
    with path.open("rb") as stream:
        media = Media.of(stream, path.name, 1 << 20)
        check_whole(media)
        found = decode_fully(stream, media.kind.value)
    assert media.kind is Kind.JPEG
    assert found.width == found.height
    assert media.size == pytest.approx(size, rel=0.2, abs=400)


def test_the_generated_sound_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "noise.wav"
    path.write_bytes(noise_wav(10_001, np.random.default_rng(1)))
    with path.open("rb") as stream:
        media = Media.of(stream, path.name, 1 << 20)
        check_whole(media)
    assert media.kind is Kind.WAV


@pytest.mark.parametrize(
    ("folder", "kind"),
    [("/", "ext4"), ("/data/a", "tmpfs"), ("/database", "ext4"), ("/srv/b", "xfs"), ("relative", "unknown")],
)
def test_the_file_system_is_that_of_the_nearest_mount(folder: str, kind: str) -> None:
    mounts = "none / rootfs rw 0 0\na / ext4 rw 0 0\nb /data tmpfs rw 0 0\nc /srv btrfs rw 0 0\nd /srv xfs rw 0 0\n"
    assert bench._file_system(Path(folder), mounts) == kind
