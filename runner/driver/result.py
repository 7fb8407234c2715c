"""What a call of a sweep finds to do, what has become of its trials so far, and what it has given in the end."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from runner.events import FailureKind, History, Listener, TrialResult
from runner.machine.resources import bfloat16
from runner.planning.plan import Job, Plan, Searched, Surveyed
from runner.timing.forecast import Forecast
from runner.timing.progress_estimate import ProgressEstimate
from sweeps.record import BEST, TRIALS, Tag, TrialRecord, TrialState

if TYPE_CHECKING:
    import pandas as pd

    from reports.build import Report


@dataclass(frozen=True)
class SweepSurvey:
    """What a call finds: the state of each trial, how far searches are, and the time and size of what is to be run.

    `wanted` are the keys of trials that should have finished in the end; a search leaves some of its own out.
    """

    plan: Plan
    trials: list[Surveyed]
    wanted: set[str]
    searched: list[Searched]
    forecast: Forecast

    @property
    def todo(self) -> list[Job]:
        """The jobs to run, in their order; a search brings all but the baselines by itself."""
        return [job for job in self.forecast.jobs if not self.searched or job.role == "baseline"]

    def of_state(self, *states: TrialState) -> list[Surveyed]:
        """The wanted trials in some states."""
        return [trial for trial in self.trials if trial.state in states and trial.job.key in self.wanted]

    @property
    def unused(self) -> str:
        """A sentence on what this processor could do, and no job that trains asks for; empty if there is nothing."""
        here = self.forecast.machine
        asked = {job.trial.precision for job in self.forecast.jobs if job.trial.epochs}
        unit = bfloat16() if here.memory is not None and here.hardware["device"] == "cpu" else ""
        if not unit or asked != {"float32"}:
            return ""
        return f"This processor has {unit}: with --set precision=bfloat16 steps take less time, and round otherwise."

    def __str__(self) -> str:
        """What is to be run in a few lines; the time only where it is known already."""
        plan, todo = self.plan, len(self.todo)
        before: dict[str, TrialState] = {"finished": "reused", "diverged": "diverged", "stopped early": "stopped"}
        again = "".join(f", {len(ts)} {word} before" for word, state in before.items() if (ts := self.of_state(state)))
        data = ", ".join(f"{use.slug} ({use.train_images:,} + {use.test_images:,} images)" for use in plan.datasets)
        lines = [f"Sweep {plan.sweep.name} on {data}: {todo:,} trial{'' if todo == 1 else 's'} to run{again}."]
        lines += [str(study) for study in self.searched]
        if self.forecast.jobs and (self.forecast.machine.memory is None or not self.forecast.unknown):
            lines.append(str(self.forecast))
        lines += [self.unused] if self.unused else []
        return "\n".join(lines)


@dataclass(frozen=True)
class Failure:
    """A trial that has no result, the text of its error, and the kind of it."""

    job: Job
    reason: str
    kind: FailureKind

    def __str__(self) -> str:
        return f"{self.job.dataset} {self.job.name} (key {self.job.key})"


class Tally(Listener):
    """Counts trials by what has become of them, and keeps the estimate of the time that is left up to date.

    `reused` trials had finished before. `to_come` says how many jobs a search may still suggest.
    """

    def __init__(
        self, jobs: Iterable[Job], reused: int, estimate: ProgressEstimate, to_come: Callable[[], int]
    ) -> None:
        self.keys = {job.key for job in jobs}
        self.reused, self.estimate, self.to_come = reused, estimate, to_come
        self.running: dict[str, Job] = {}
        self.done: list[Job] = []
        self.early: list[Job] = []
        self.failures: list[Failure] = []

    @property
    def total(self) -> int:
        """Trials of this call, as far as it is known yet."""
        return len(self.keys) + self.to_come()

    @property
    def ended(self) -> int:
        return len(self.done) + len(self.early) + len(self.failures)

    @property
    def left(self) -> int:
        """Trials that have not ended."""
        return self.total - self.ended

    def planned(self, jobs: Sequence[Job]) -> None:
        self.estimate.planned(jobs)
        self.keys |= {job.key for job in jobs}

    def started(self, job: Job) -> None:
        self.estimate.started(job)
        self.running[job.key] = job

    def resumed(self, job: Job, history: History) -> None:
        self.estimate.resumed(job, history[-1][0])

    def epoch(self, job: Job, epoch: int, metrics: Mapping[str, float]) -> None:
        self.estimate.epoch(job, epoch)

    def finished(self, job: Job, result: TrialResult) -> None:
        self._end(job)
        self.done.append(job)

    def failed(self, job: Job, reason: str, kind: FailureKind) -> None:
        self._end(job, failed=True)
        self.failures.append(Failure(job, reason, kind))

    def stopped(self, job: Job, epoch: int, reason: str, collapse: str = "", result: TrialResult | None = None) -> None:
        self._end(job, failed=True)
        self.early.append(job)

    def _end(self, job: Job, *, failed: bool = False) -> None:
        self.running.pop(job.key, None)
        self.estimate.ended(job, failed=failed)


def summary(
    plan: Plan, records: Mapping[str, TrialRecord], reports: Sequence[Report]
) -> tuple[dict[str, float], dict[Tag, str]]:
    """What the sweep's run says of all its trials: how many have ended how, and the point that is best in the report of
    each data set, as metrics and tags."""
    states = Counter(record.status for record in records.values())
    metrics = {f"{TRIALS}planned": float(len(plan.jobs))}
    metrics |= {f"{TRIALS}{status.lower()}": float(states[status]) for status in ("FINISHED", "FAILED")}
    best = [(report, *found) for report in reports if report.dataset and (found := report.table.best())]
    for report, _, row in best:
        place = BEST + (f"{report.dataset}/" if len(best) > 1 else "")
        metrics |= {place + name: mean for name, mean in report.table.means(row).items()}
    criteria = dict.fromkeys(criterion for _, criterion, _ in best)
    points = (f"{report.dataset}: {row.label}" for report, _, row in best)
    return metrics, {Tag.CRITERION: ", ".join(criteria), Tag.BEST: "; ".join(points)} if best else {}


@dataclass(frozen=True)
class SweepResult:
    """The reports of a sweep's data sets, the trials without a result, and whether all of its trials have ended."""

    reports: list[Report]
    failed: list[Failure]
    complete: bool

    @property
    def table(self) -> pd.DataFrame:
        """The report's table: a row for each point of the axes (of several data sets, for each of these), a column for
        each metric, means over the seeds."""
        import pandas as pd

        tables = {report.dataset: _table(report.folder / "table.csv") for report in self.reports if report.dataset}
        return next(iter(tables.values())) if len(tables) == 1 else pd.concat(tables, names=["dataset"])

    @property
    def runs(self) -> pd.DataFrame:
        """One row for each trial: its point, seed, status, settings and metrics."""
        import pandas as pd

        from reports.store.sweeps import COLUMNS

        texts = dict.fromkeys((*COLUMNS, "error"), str) | {"seed": int}  # A key may look like a number.
        files = [pd.read_csv(report.folder / "runs.csv", dtype=texts) for report in self.reports if report.dataset]
        return pd.concat(files, ignore_index=True)

    @property
    def report(self) -> Path:
        """The page with tables, figures and findings; of several data sets that of the first."""
        return self.reports[0].folder / "report.html"


def _table(path: Path) -> pd.DataFrame:
    """The cells of a table's file as rows and columns, in the order of the file."""
    import pandas as pd

    cells = pd.read_csv(path, dtype={"block": str}).fillna({"block": ""})
    index = ["block", "row"] if cells["block"].any() else ["row"]
    return cells.set_index([*index, "column"])["mean"].unstack(sort=False)
