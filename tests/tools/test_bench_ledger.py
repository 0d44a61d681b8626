"""The ledger's bench: what it promises to measure is measured, and what it checks is checked. No times here."""

import dataclasses
import os
from collections import Counter
from pathlib import Path

import pytest

from tools import bench_ledger, postgres
from tools.bench_ledger import POSTGRESQL, SQLITE, Batch, Measured, Plan
from tools.figures import Budget, Row, Side, State

TINY = Plan(SQLITE, (500, 1_500), 3, 3, 1, 0.3, 0.6)
MISSING = "NOT CHECKED against PostgreSQL; install it: apt-get install -y postgresql"
ENGINES = [
    SQLITE,
    pytest.param(POSTGRESQL, marks=pytest.mark.skipif(postgres.programs() is None, reason=MISSING)),
]
PROMISED = (
    (": append, durable, batches of 1024", Side.AT_LEAST, 5000),
    (": time of an append, at 1,500 entries over that at 1,500", Side.AT_MOST, 2),
    (", 1,500 entries: inclusion proof, ledger just opened", Side.AT_MOST, 2),
    (", 500 entries: proof checked", Side.AT_MOST, 50),
    (", 1,500 entries: proof checked", Side.AT_MOST, 50),
    (": one submission, durable, through the sequencer", Side.AT_MOST, 15),
    (": one submission over HTTP", Side.AT_MOST, 15),
    (": added over HTTP by 64 clients", Side.AT_LEAST, 2000),
    (": the same, p99", Side.AT_MOST, 150),
    (": 10 times that for 0.6 s: 429 without Retry-After", Side.AT_MOST, 0),
    (": 10 times that for 0.6 s: p99", Side.AT_MOST, 1000),
)


@pytest.fixture(scope="module", params=ENGINES)
def measured(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Measured:
    plan = dataclasses.replace(TINY, engine=request.param)
    return bench_ledger.measure([plan], tmp_path_factory.mktemp("bench") / "logs")


def engine(measured: Measured) -> str:
    (growth,) = measured.growths
    return growth.engine


def row(measured: Measured, start: str) -> Row:
    (found,) = [row for row in measured.rows if row.name.startswith(start)]
    return found


def test_every_promise_has_its_row(measured: Measured) -> None:
    for start, side, value in PROMISED:
        assert row(measured, engine(measured) + start).budget == Budget(side, value)
    assert measured.not_measured == ()


def test_no_two_rows_say_the_same(measured: Measured) -> None:
    assert len({(row.name, row.floor) for row in measured.rows}) == len(measured.rows)


def test_what_was_acknowledged_is_there_exactly_once_and_the_audit_finds_nothing(measured: Measured) -> None:
    kept = [row for row in measured.rows if "acknowledged" in row.name or "the audit of" in row.name]
    assert [(row.samples, row.state) for row in kept] == [((0.0,), State.OK)] * 2
    for strange in ("429 without Retry-After", "neither 201 nor 429"):
        assert [row.samples for row in measured.rows if strange in row.name] == [(0.0,)]


def test_the_ledger_grew_to_the_sizes_that_were_asked_for(measured: Measured) -> None:
    (growth,) = measured.growths
    assert [proofs.size for proofs in growth.proofs] == list(TINY.sizes)
    assert growth.batches[-1].size == TINY.sizes[-1]
    for before, after in zip(growth.batches, growth.batches[1:], strict=False):
        assert after.size - before.size == after.entries
    for proofs in growth.proofs:
        for taken in (proofs.cold, proofs.warm, proofs.verified, proofs.checked, proofs.consistency):
            assert len(taken) == TINY.rounds
            assert min(taken) > 0
    assert 0 < growth.body < growth.stored


def test_the_chart_is_drawn_from_the_same_numbers(measured: Measured) -> None:
    svg = measured.chart()
    assert svg.count("<circle") == sum(1 for _ in bench_ledger._curve(measured.growths[0])) + 3 * len(
        TINY.sizes
    )
    for label in (engine(measured), "cold", "warm", "verify", "entries/s"):
        assert f">{label}</text>" in svg


def test_an_entry_that_is_lost_or_doubled_would_be_counted(tmp_path: Path) -> None:
    """The flaw it would catch: a check of the acknowledged that is content with anything."""
    with bench_ledger._bed(SQLITE, tmp_path / "bed") as bed, bed.home.ledger() as ledger:
        one, other = bench_ledger.record(), bench_ledger.record()
        (index,) = ledger.append([one], bench_ledger._now(), bed.home.sign_note)
        truth = index, one.commitment.hex()
        cases = {
            (truth,): 0.0,
            (truth, truth): 1.0,
            ((index - 1, one.commitment.hex()),): 1.0,
            ((index + 1, one.commitment.hex()),): 1.0,
            (truth, (index, other.commitment.hex())): 1.0,
        }
        for acknowledged, lost in cases.items():
            site = bench_ledger._Site("http://127.0.0.1:1", "token", tmp_path, Counter(acknowledged))
            assert next(bench_ledger._kept_rows(bed, site)).samples == (lost,)


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="this system pins no process to a core")
@pytest.mark.skipif(postgres.programs() is None, reason=MISSING)
def test_the_server_shares_the_one_core_that_is_measured(tmp_path: Path) -> None:
    before = os.sched_getaffinity(0)
    with bench_ledger._pinned():
        (core,) = os.sched_getaffinity(0)
        with postgres.running(tmp_path) as server:
            assert os.sched_getaffinity(server.pid) == {core}
    assert os.sched_getaffinity(0) == before


def test_the_pace_counts_slow_batches_for_as_long_as_they_took() -> None:
    batches = [Batch(10 * number, 10, 1.0) for number in range(1, 16)] + [Batch(160, 10, 5.0)]
    assert bench_ledger._pace(batches) == 160 / 20
    assert bench_ledger._rates(batches) == (10.0, 80 / 12)
    assert bench_ledger._rates(batches[:3]) == (10.0,)


def test_what_is_not_installed_is_not_measured_and_said_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgres, "programs", lambda: None)
    measured = bench_ledger.measure([dataclasses.replace(TINY, engine=POSTGRESQL)], tmp_path / "logs")
    assert measured.rows == ()
    (said,) = measured.not_measured
    assert said.startswith("ledger on PostgreSQL: ")
    assert "apt-get install" in said
