"""How many seeds a sweep needs to tell rows of its tables apart, from finished runs of it or of similar sweeps."""

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from reports import store
from reports.metrics import METRICS
from reports.statistics import inference
from runner.planning.plan import Plan
from sweeps.errors import UserError
from sweeps.record import BASELINE, PARAMS

METRIC = METRICS["probe/accuracy"]  # The metric whose differences are asked for.


@dataclass(frozen=True)
class Resolution:
    """What it takes on a data set to support a true `difference` between two of `rows` with a power of 80 %.

    `std` is the standard deviation of paired differences, of `pairs` of rows over `measured` seeds of the runs that
    `source` names. `seeds` is the number needed, None if it is beyond all means. `resolved` is the smallest difference
    that the `planned` seeds support.
    """

    dataset: str
    difference: float
    rows: int
    std: float
    pairs: int
    measured: int
    source: str
    seeds: int | None
    planned: int
    resolved: float

    def __str__(self) -> str:
        needed = f"{self.seeds} seeds" if self.seeds else f"more than {inference.MOST_SEEDS} seeds"
        planned = "One seed tells none"
        if self.planned > 1:
            planned = f"{self.planned} seeds, as planned, tell one of {self.resolved:.2g}"
        return (
            f"{self.dataset}: {needed} tell a difference of {self.difference:g} in {METRIC.heading} between two of "
            f"{self.rows} rows (paired, corrected over all pairs, power {inference.POWER:.0%}). {planned}. Paired "
            f"differences vary by {self.std:.2g} (standard deviation; {self.pairs} pairs of rows, {self.measured} "
            f"seeds, finished runs of {self.source})."
        )


def resolutions(uri: str, plan: Plan, difference: float) -> list[Resolution]:
    """The answer for each data set of a plan. Raises UserError where no finished runs show how much rows differ from
    seed to seed, and where there is nothing to compare."""
    if difference <= 0:
        raise UserError(f"--resolve {difference:g}: a difference is larger than 0, for instance 0.005")
    runs = store.read_trials(uri)
    runs = runs[runs["status"].eq("FINISHED") & runs["role"].ne(BASELINE)]
    return [_resolution(plan, dataset, runs, difference) for dataset in dict.fromkeys(u.slug for u in plan.datasets)]


def _resolution(plan: Plan, dataset: str, runs: pd.DataFrame, difference: float) -> Resolution:
    jobs = [job for job in plan.jobs if job.dataset == dataset and job.role != BASELINE]
    rows = plan.sweep.search.trials if plan.sweep.search else len({job.label for job in jobs})
    if rows < 2:
        raise UserError(f"--resolve: sweep {plan.sweep.name!r} has {rows} row on {dataset}, so nothing is compared")
    # This sweep's own trials come first, then all of the same methods on the data set.
    settings = [name for name in map(str, runs) if name.startswith(PARAMS) and name != f"{PARAMS}seed"]
    methods = {job.trial.method.name for job in jobs}
    of_sweep = runs["key"].isin({job.key for job in jobs})
    same = runs["dataset"].eq(dataset) & runs[f"{PARAMS}method.name"].isin(methods)
    for source, similar in (("this sweep", of_sweep), ("its methods on these data", same)):
        if spread := inference.paired_std(_by_row(runs[similar], settings)):
            std, pairs, measured = spread
            seeds = len(plan.sweep.seeds)
            needed = inference.seeds_needed(difference, std, rows)
            resolved = inference.difference_resolved(std, seeds, rows)
            return Resolution(dataset, difference, rows, std, pairs, measured, source, needed, seeds, resolved)
    raise UserError(
        f"--resolve: on {dataset} no two rows of finished runs have two seeds in common, so nothing shows how much "
        "they vary; run the sweep with --seeds 2 first, or a smaller one of the same methods"
    )


def _by_row(runs: pd.DataFrame, settings: Sequence[str]) -> pd.DataFrame:
    """Accuracies: a row for each group of runs that differ in the seed alone, a column for each seed."""
    rows = runs[list(settings)].fillna("").agg("\n".join, axis=1) if len(runs) else pd.Series(dtype=object)
    values = runs.reindex(columns=["seed", METRIC.name]).assign(row=rows)
    return values.pivot_table(index="row", columns="seed", values=METRIC.name, aggfunc="first")
