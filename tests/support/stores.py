"""Tracking stores for tests of reports, filled by the tracker that fills a user's."""

from __future__ import annotations

import atexit
import copy
import functools
import math
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

from mlflow import MlflowClient

from runner.events import TrialResult
from runner.machine.resources import describe
from runner.planning.plan import Job, Plan
from runner.tracking import trial_run
from runner.tracking.database import make_store
from runner.tracking.tracker import Tracker
from runner.tracking.trial_run import TrialRun
from sweeps.addresses import store_file
from sweeps.file import ResourceRequest
from sweeps.record import LOSS, TRAIN_SECONDS, TRIAL, WALL_SECONDS, DatasetUse
from sweeps.spec import Sweep

BETAS = [0.01, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10]
AWKWARD = "folder:/data/50% of_my|set #1 & {β}"
NUMBERS = iter(range(1_000_000))
COMMIT = "c0ffee"
"""The commit that runs are made by."""


@dataclass(frozen=True)
class Settings:
    """What the tracker needs of a trial's settings; their names and values may be any, awkward ones too."""

    dataset: str
    seed: int
    epochs: int
    others: Mapping[str, Any]

    def flat(self) -> dict[str, Any]:
        return {"dataset": self.dataset, "seed": self.seed, "epochs": self.epochs, **self.others}

    identity = flat


@functools.cache
def empty_store() -> Path:
    """A store without runs; MLflow takes seconds to make one."""
    folder = tempfile.mkdtemp()
    atexit.register(shutil.rmtree, folder)
    path = Path(folder, "mlflow.db")
    make_store(f"sqlite:///{path}")
    return path


@contextmanager
def made_by(commit: str) -> Iterator[None]:
    """Runs that are written meanwhile say that they were made by a commit of a clean checkout."""
    trial_run.code_tags.cache_clear()
    with patch.object(trial_run, "_git", lambda *arguments: "" if arguments[0] == "status" else commit):
        yield
    trial_run.code_tags.cache_clear()


class Writer:
    """Writes trials and sweeps one by one; a trial's key is `<data set>/<label>/<seed>`."""

    def __init__(self, uri: str, artifacts: Path | None = None, experiment: str = "cplearn") -> None:
        if uri.startswith("sqlite") and not store_file(uri).exists():
            shutil.copy(empty_store(), store_file(uri))
        self.uri = uri
        self.client = MlflowClient(uri)
        self.experiment = self.client.create_experiment(experiment, artifacts.as_uri() if artifacts else None)
        self.runs: dict[str, str] = {}

    def of(self, uri: str) -> Writer:
        """The writer of a copy of the store."""
        other = copy.copy(self)
        other.uri, other.client, other.runs = uri, MlflowClient(uri), dict(self.runs)
        return other

    def trial(
        self,
        sweep: str,
        trial: Mapping[str, Any],
        status: str = "FINISHED",
        error: str | None = None,
        metrics: Mapping[str, float] | None = None,
        settings: Mapping[str, Any] | None = None,
    ) -> str:
        """Write a trial of a sweep and return the id of its run."""
        final = dict(metrics or {})
        if WALL_SECONDS in final:
            final[TRAIN_SECONDS] = final.pop(WALL_SECONDS)
        job = make_job(trial, settings)
        plan = make_plan(sweep, "", {}, "digits", [job])
        with made_by(COMMIT):
            run = TrialRun(self.client, self.experiment, "none", plan, job, None)
        now = 1_700_000_000_000
        run.open()
        if status == "FINISHED":
            run.log_epoch(job.trial.epochs, {LOSS: 1.0}, now)
            run.finish(TrialResult(final, {}, describe("cpu")), now)
        else:
            assert status == "FAILED"
            run.log_epoch(job.trial.epochs, {LOSS: 1.0, **final}, now)
            run.fail(error or "", "diverged" if "FloatingPointError" in (error or "") else "exception")
        self.runs[job.key] = run.run_id
        return run.run_id

    def sweep(
        self, name: str, description: str, axes: Mapping[str, Sequence[Any]], dataset: str, trials: list[dict[str, Any]]
    ) -> str:
        """Write that a sweep has these trials, and return the id of its run; each call makes another run."""
        with made_by(COMMIT):
            tracker = Tracker(self.uri, make_plan(name, description, axes, dataset, [make_job(t) for t in trials]))
        tracker.close("FINISHED")
        return tracker.parent


def make_job(trial: Mapping[str, Any], settings: Mapping[str, Any] | None = None) -> Job:
    """The job of a trial as `declare` describes it, by 20 epochs unless its settings say otherwise."""
    given = {"dataset": "digits", "epochs": 20, "batch_size": 64, **(settings or {}), **trial["point"]}
    dataset, epochs = given.pop("dataset"), given.pop("epochs")
    chosen = Settings(dataset, trial["seed"], epochs, given)
    key, slug, role, label, point = (trial[name] for name in ("key", "dataset", "role", "label", "point"))
    return Job(key, chosen, slug, "f00d", role, label, point)  # type: ignore[arg-type]


def make_plan(name: str, description: str, axes: Mapping[str, Sequence[Any]], dataset: str, jobs: list[Job]) -> Plan:
    """A plan of these jobs on one data set, with a key of its own."""
    seeds = sorted({job.trial.seed for job in jobs})
    source, shared, resources = "", {}, ResourceRequest()
    sweep = Sweep(name, description, source, {key: list(of) for key, of in axes.items()}, seeds, shared, resources, [])
    use = DatasetUse(dataset, jobs[0].dataset, "f00d", "test", 1437, 360, 1, 8)
    return Plan(sweep, f"{name} {next(NUMBERS)}", [use], jobs, [], lambda declared: jobs[0])


def sqlite(folder: Path) -> str:
    return f"sqlite:///{folder / 'mlflow.db'}"


def baseline_metrics(accuracy: float) -> dict[str, float]:
    return {
        "probe/accuracy": accuracy,
        "knn/accuracy": accuracy - 0.01,
        "kmeans/nmi": 0.7,
        "kmeans/nmi_chance": 0.03,
        "kmeans/ami": 0.69,
        WALL_SECONDS: 0.5,
    }


def trial_metrics(beta: float, seed: int) -> dict[str, float]:
    """Numbers with the shape of a real sweep: a best β in the middle, few codes at the largest."""
    quality = 1 - 0.05 * math.log10(beta / 0.5) ** 2
    used = max(3, round(600 / (1 + 20 * beta)))
    nmi = 0.9 * quality
    return baseline_metrics(0.99 * quality + 0.002 * seed) | {
        "codes/nmi": nmi + 0.01 * seed,
        "codes/nmi_chance": 0.02 * math.log2(used),
        "codes/ami": nmi - 0.02 * math.log2(used) + 0.01 * seed,
        "codes/ari": 0.8 * quality,
        "codes/accuracy": 0.85 * quality,
        "codes/clusters": used,
        "collapse/codes_used": used + seed,
        "collapse/effective_rank": 8 + 4 * quality,
    }


def declare(dataset: str, label: str, point: Mapping[str, Any], seed: int, role: str = TRIAL) -> dict[str, Any]:
    """A trial as a sweep declares it."""
    key = f"{dataset}/{label}/{seed}"
    return {"key": key, "dataset": dataset, "role": role, "label": label, "point": dict(point), "seed": seed}
