"""Check a whole archive (flow 3): the verify flow for every file, under a run's name."""

import shlex
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from tools.batch import Progress, Summary, Watch, progress_line, run_batch
from tools.check import LIMITS, Beliefs, Entry, reported, task
from tools.examine import Examined
from tools.home import require_run_name
from tools.report import as_json
from tools.results import Row, Run, require_results
from tools.supervisor import Reason, Supervisor
from tools.verdict import Headline, Obstacle
from tools.walk import Skip, count

_REMEDIES = {
    "worker": "The file exceeds our limits or breaks its readers; treat it as hostile and ask for the original.",
    "path": "Check the path, and that you may read it.",
}


@dataclass(frozen=True, slots=True)
class Telling:
    """How progress is told: by whom, how often, and whether the files are counted first."""

    tell: Callable[[str, Progress], None]
    seconds: float
    count: Callable[[Sequence[str], Collection[str]], int | None]
    end: Callable[[], None]


@dataclass(frozen=True, slots=True)
class Outcome:
    """A finished or interrupted run, in words."""

    text: str
    exit_status: int
    summary: Summary


def on_terminal(stream: TextIO) -> Telling:
    """One line that is written over."""

    def tell(name: str, progress: Progress) -> None:
        stream.write(f"\r\x1b[K{progress_line(name, progress)}")
        stream.flush()

    def end() -> None:
        stream.write("\n")
        stream.flush()

    return Telling(tell, 0.5, count, end)


def piped(stream: TextIO) -> Telling:
    """One line a minute."""

    def tell(name: str, progress: Progress) -> None:
        stream.write(f"{progress_line(name, progress)}\n")
        stream.flush()

    return Telling(tell, 60.0, lambda _roots, _but: None, lambda: None)


def silent() -> Telling:
    """Nothing."""
    return Telling(lambda _name, _progress: None, 3600.0, lambda _roots, _but: None, lambda: None)


def check_archive(
    paths: Sequence[Path], name: str, results: Path, held: Beliefs, workers: int, telling: Telling
) -> Outcome:
    """Give every file under `paths` its row in `results`; what the run has answered is not asked again."""
    require_run_name(name)
    roots = [str(path) for path in paths]
    run = Run(results, _fingerprint(name, held))
    require_results(run)
    results.parent.mkdir(parents=True, exist_ok=True)
    watch = Watch(
        lambda progress: telling.tell(name, progress), telling.seconds, telling.count(roots, run.own_paths)
    )

    def finish(_: str, found: Examined) -> Row:
        report = reported(found, held, None)
        return Row(report.verdict.headline.value, as_json(report))

    def failed(path: str, reason: Reason | Skip, detail: str) -> Row:
        kind = "worker" if isinstance(reason, Reason) else "path"
        obstacle = Obstacle(f"{kind}-{reason.value}", f"the file was not checked: {detail}", _REMEDIES[kind])
        report = reported(Examined(path, None, None, None, None, obstacle), held, None)
        return Row(report.verdict.headline.value, as_json(report))

    with Supervisor(task(Entry.PLAIN, held.policy), workers, LIMITS) as supervisor:
        try:
            summary = run_batch(roots, run, supervisor, finish, failed, watch)
        finally:
            telling.end()
    return Outcome(_told(name, results, roots, summary), _exit_status(summary), summary)


def _fingerprint(name: str, held: Beliefs) -> dict[str, str]:
    """What must be the same when a run goes on, or its rows would not mean the same."""
    engine = held.engine
    return {
        "run": name,
        "lightseal": engine.version,
        "c2pa": engine.sdk,
        **{
            f"list {number}": f"{list_} ({purpose}) {digest}"
            for number, (list_, purpose, digest) in enumerate(engine.lists)
        },
        "ledger": held.keys[0].name if held.keys else "none",
        "policy": held.acceptance.sha256.hex() if held.acceptance else "none",
        "statuses": held.policy.statuses.digest.hex(),
        "judged as of": "each check"
        if engine.judged_at == engine.checked_at
        else engine.judged_at.isoformat(),
    }


def _exit_status(summary: Summary) -> int:
    if summary.interrupted:
        return 130
    return 21 if summary.failed or summary.counts.get(Headline.NOT_CHECKED.value) else 0


def _told(name: str, results: Path, roots: Sequence[str], summary: Summary) -> str:
    lines = [
        f"{name}: {summary.total} files ({summary.earlier} answered earlier, {summary.now} now"
        f" in {summary.seconds:.1f} s)"
    ]
    lines += [
        f"  {number:>8}  {code}" for code, number in sorted(summary.counts.items(), key=lambda item: -item[1])
    ]
    if summary.earlier:
        lines.append("  the earlier answers are about the files as they were then; none was checked again")
    lines.append(f"  rows in {results}")
    if summary.interrupted:
        again = shlex.join(["lightseal", "batch", *roots, "--run", name, "--out", str(results)])
        lines.append(f"  interrupted; nothing is lost. Go on with: {again}")
    return "\n".join(lines)
