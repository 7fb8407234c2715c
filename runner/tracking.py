"""The one module that writes to MLflow: one parent run a sweep, one child run a trial, all from the driver process.

A single writer needs no locking, keeps credentials out of the workers, and lets a cluster's nodes run without a way to
the tracking server. What it writes (tags, params, metrics, artifacts) is what `reports.store` reads.
"""

from __future__ import annotations

import functools
import json
import logging
import os
import subprocess
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any
from urllib.parse import quote

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
# Two lines at the end of each run would be drawn into the live display.
os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")

from mlflow import MlflowClient
from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param, Run, RunStatus, RunTag, ViewType
from mlflow.utils.mlflow_tags import MLFLOW_DATASET_CONTEXT
from mlflow.utils.validation import MAX_TAG_VAL_LENGTH

from cplearn import config
from runner.plan import DatasetUse, Job, Plan

# The migrations of a fresh store are no news to its user.
logging.getLogger("mlflow").setLevel(logging.WARNING)
logging.getLogger("alembic").setLevel(logging.WARNING)

PACKAGES = ("torch", "torchvision", "ray", "mlflow", "scikit-learn", "numpy", "cplearn-sweeps")
ERROR_LINES = 20
MOST_COMPARED = 60


class Tracker:
    """Writes a sweep and its trials; a `runner.events.Listener`.

    Make it before any worker starts: opening a fresh SQLite store from several processes at once fails.
    """

    def __init__(self, uri: str, plan: Plan) -> None:
        self.client = MlflowClient(uri)
        self.plan = plan
        self.experiment = self._experiment()
        self.datasets = {use.fingerprint: use for use in plan.datasets}
        self.runs: dict[str, str] = {}
        self.widths: dict[str, int] = {}
        self.parent = self._parent()

    def _experiment(self) -> str:
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", "cplearn")
        known = self.client.get_experiment_by_name(name)
        if known is None:
            # The kind makes MLflow's interface open on the runs instead of its tools for language models.
            return self.client.create_experiment(name, tags={"mlflow.experimentKind": "custom_model_development"})
        if known.lifecycle_stage == "deleted":
            self.client.restore_experiment(known.experiment_id)
        return known.experiment_id

    def _parent(self) -> str:
        """The sweep's run: the one of an earlier invocation, if there is one, whose orphans are closed."""
        found = self._search(f"tags.`cplearn.sweep_key` = '{self.plan.key}'")
        if found:
            parent = found[0].info.run_id
            self.client.update_run(parent, status="RUNNING")
            for orphan in self._search(f"tags.`mlflow.parentRunId` = '{parent}' AND attributes.status = 'RUNNING'"):
                self._end(orphan.info.run_id, "KILLED")
        else:
            sweep = self.plan.sweep
            tags = {
                "cplearn.kind": "sweep",
                "cplearn.sweep": sweep.name,
                "cplearn.sweep_key": self.plan.key,
                "cplearn.dataset": ", ".join(use.slug for use in self.plan.datasets),
                "mlflow.note.content": sweep.description,
            }
            name = f"{sweep.name} · {tags['cplearn.dataset']}"
            parent = self.client.create_run(self.experiment, tags=tags | _source(), run_name=name).info.run_id
        self.client.log_dict(parent, self.plan.manifest(), "manifest.json")
        return parent

    def _search(self, query: str) -> list[Run]:
        return list(self.client.search_runs([self.experiment], query, ViewType.ACTIVE_ONLY, 1000))

    # Events of jobs.

    def planned(self, packs: Sequence[Sequence[Job]]) -> None:
        """Note the width of each job's pack: it explains its speed, though it does not change its numbers."""
        self.widths = {job.key: len(pack) for pack in packs for job in pack}

    def started(self, job: Job) -> None:
        use = self.datasets[job.fingerprint]
        tags = {
            "mlflow.parentRunId": self.parent,
            "cplearn.kind": "trial",
            "cplearn.key": job.key,
            "cplearn.sweep": self.plan.sweep.name,
            "cplearn.dataset": job.dataset,
            "cplearn.fingerprint": job.fingerprint,
            "cplearn.numerics": str(config.NUMERICS),
            "cplearn.role": job.role,
            "cplearn.label": job.label,
            "cplearn.pack_width": str(self.widths.get(job.key, 1)),
            "cplearn.versions": json.dumps(_versions()),
            "mlflow.note.content": f"{job.label}, seed {job.trial.seed}: sweep {self.plan.sweep.name} on {job.dataset}",
        }
        run = self.client.create_run(self.experiment, tags=tags | _source(), run_name=job.name)
        self.runs[job.key] = run.info.run_id
        params = [Param(key, _spell(value)) for key, value in job.trial.flat().items()]
        self.client.log_batch(run.info.run_id, params=params)
        self.client.log_inputs(run.info.run_id, datasets=[_dataset_input(use)])

    def epoch(self, job: Job, epoch: int, metrics: Mapping[str, float]) -> None:
        self._log(job, metrics, epoch)

    def finished(
        self, job: Job, metrics: Mapping[str, float], files: Mapping[str, bytes], hardware: Mapping[str, str]
    ) -> None:
        run = self.runs[job.key]
        wall = {"time/wall_s": metrics.get("time/train_s", 0.0) + metrics.get("time/evaluation_s", 0.0)}
        self._log(job, {**metrics, **wall}, job.trial.epochs)
        self.client.log_batch(run, tags=[RunTag(f"cplearn.{key}", value) for key, value in hardware.items()])
        with tempfile.TemporaryDirectory() as folder:
            for name, content in files.items():
                path = Path(folder, name)
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(content)
            self.client.log_artifacts(run, folder)
        # Last, so that a finished run is a complete one.
        self._end(run, "FINISHED")

    def failed(self, job: Job, reason: str) -> None:
        run = self.runs.get(job.key)
        if run is None:
            self.started(job)
            run = self.runs[job.key]
        last_lines = "\n".join(reason.splitlines()[-ERROR_LINES:])
        self.client.log_batch(run, tags=[RunTag("cplearn.error", last_lines[-4000:])])
        self._end(run, "FAILED")

    def close(self, status: str, failed: Iterable[str] = ()) -> None:
        """End the sweep's run and whatever still counts as running: status FINISHED, FAILED or KILLED."""
        for run in self._search(f"tags.`mlflow.parentRunId` = '{self.parent}' AND attributes.status = 'RUNNING'"):
            self._end(run.info.run_id, "KILLED")
        self.client.set_tag(self.parent, "mlflow.note.content", self._note())
        self._end(self.parent, status)

    def _note(self) -> str:
        """The sweep's description and, as long as it fits into an address, a link that compares its finished trials."""
        query = f"tags.`mlflow.parentRunId` = '{self.parent}' AND attributes.status = 'FINISHED'"
        found = [run.info.run_id for run in self._search(query) if run.data.tags.get("cplearn.role") == "trial"]
        text = self.plan.sweep.description
        if 1 < len(found) <= MOST_COMPARED:
            runs, experiments = (quote(json.dumps(ids)) for ids in (found, [self.experiment]))
            text += f"\n\n[Compare its {len(found)} trials](#/compare-runs?runs={runs}&experiments={experiments})"
        return text

    def _log(self, job: Job, metrics: Mapping[str, float], step: int) -> None:
        now = int(time.time() * 1000)
        batch = [Metric(name, value, now, step) for name, value in metrics.items()]
        self.client.log_batch(self.runs[job.key], metrics=batch)

    def _end(self, run: str, status: str) -> None:
        assert RunStatus.is_terminated(RunStatus.from_string(status))
        self.client.set_terminated(run, status)


def log_report(uri: str, sweep_run: str, dataset: str, files: Mapping[str, Path], table: str) -> None:
    """Add the report on one data set to a sweep's run, which has ended: `files` by their relative names under
    report/<dataset>/, and `table` (markdown) at the end of its notes, as long as they stay short enough to be kept."""
    client = MlflowClient(uri)
    for name, path in files.items():
        client.log_artifact(sweep_run, str(path), f"report/{dataset}/{name}".rpartition("/")[0])
    note = client.get_run(sweep_run).data.tags.get("mlflow.note.content", "")
    longer = f"{note}\n\n{table}\n\nFigures and findings: the artifact report/{dataset}/report.html\n".lstrip()
    if len(longer) <= MAX_TAG_VAL_LENGTH:
        client.set_tag(sweep_run, "mlflow.note.content", longer)


def _spell(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _dataset_input(use: DatasetUse) -> DatasetInput:
    dataset = Dataset(
        name=use.slug,
        digest=use.fingerprint,
        source_type="local",
        source=json.dumps({"uri": use.source}),
        profile=json.dumps({"train_images": use.train_images, "test_images": use.test_images}),
    )
    return DatasetInput(dataset, [InputTag(MLFLOW_DATASET_CONTEXT, "training")])


@functools.cache
def _versions() -> dict[str, str]:
    found = {}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


@functools.cache
def _source() -> dict[str, str]:
    """Commit of the code that trains, and whether it had been edited; empty outside a git checkout."""

    def git(*arguments: str) -> str | None:
        folder = Path(config.__file__).parent
        try:
            done = subprocess.run(
                ["git", *arguments], cwd=folder, capture_output=True, text=True, timeout=10, check=False
            )
        except (OSError, subprocess.TimeoutExpired):
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    commit = git("rev-parse", "HEAD")
    if commit is None:
        return {}
    edited = bool(git("status", "--porcelain", "--untracked-files=no"))
    return {"mlflow.source.git.commit": commit, "cplearn.git_commit": commit, "cplearn.git_edited": str(edited).lower()}
