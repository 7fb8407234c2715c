"""The report of a sweep of 2,000 runs."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

import yaml

from benchmarks.commands import Workplace, workplace
from benchmarks.measure import Goal, Measured, Part
from cplearn import data, training
from runner.events import TrialResult
from runner.machine.environment import in_worker
from runner.planning.plan import SCHEMA, Plan, make_plan
from runner.tracking.tracker import Tracker
from sweeps.spec import read_sweep

GOAL = Goal("at most", 20)
VALUES, SEEDS = 200, 10


def run(quick: bool) -> Part:
    """Seconds of `cplearn report` over a store that the tracker has filled."""
    values, seeds = (3, 2) if quick else (VALUES, SEEDS)
    with workplace() as place:
        filling = in_worker(fill, place.folder, values, seeds)
        # Into a new folder each time: a report is not written again where nothing has changed.
        taken = [place.seconds("report", "bench", "--results", f"results-{i}") for i in range(1 if quick else 3)]
    runs = values * seeds
    return Part(
        f"The report of {runs:,} runs",
        f"Seconds of the whole command `cplearn report` on a SQLite store of one sweep: {values} values of β, "
        f"{seeds} seeds, all finished. The store is filled through the tracker that sweeps use; each run holds the "
        "settings of its own, and the two epochs, metrics and diagnostics of one short training on the digits.",
        [
            Measured(f"report, {runs:,} runs", "s", taken, GOAL),
            Measured(f"writing one run, mean of {runs:,}", "s", [filling / runs]),
        ],
    )


def fill(folder: Path, values: int, seeds: int) -> float:
    """Write a sweep `bench` of `values` x `seeds` finished trials to the workplace's store.

    Returns the seconds of the runs, without making the store.
    """
    description = {
        "sweep": "bench",
        "settings": {
            "dataset": "digits",
            "epochs": 2,
            "backbone": {"name": "resnet8-slim", "width": 4},
            "method": {"codes": 128},
        },
        "axes": {"method.beta": [round(0.01 * 1.03**i, 6) for i in range(values)]},
        "seeds": seeds,
    }
    file = folder / "bench.yaml"
    file.write_text(yaml.safe_dump(description))
    plan = make_plan(read_sweep(file, SCHEMA), folder / "data")
    return _write(Tracker(Workplace(folder).uri, plan), plan)


def _write(tracker: Tracker, plan: Plan) -> float:
    """Seconds that the runs took, without making the store and the training."""
    epochs: list[dict[str, float]] = []
    with tempfile.TemporaryDirectory() as scratch:
        outcome = training.train(
            plan.jobs[0].trial,
            data.load("digits"),
            log=lambda metrics, epoch: epochs.append(metrics),
            save_to=Path(scratch),
        )
        files = {"diagnostics.json": Path(scratch, "diagnostics.json").read_bytes()}
    start = time.perf_counter()
    for job in plan.jobs:
        tracker.started(job)
        for epoch, metrics in enumerate(epochs, start=1):
            tracker.epoch(job, epoch, metrics)
        tracker.finished(job, TrialResult(outcome.metrics, files, {"device": "cpu"}))
    # Only then is everything written: entries go through the tracker's pending writes.
    tracker.close("FINISHED")
    return time.perf_counter() - start
