"""The run of one trial, as it is written step by step, and the tags of the code that trains."""

import functools
import json
import subprocess
import tempfile
import uuid
from collections.abc import Mapping
from contextlib import suppress
from http import HTTPStatus
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from mlflow import MlflowClient
from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param, Run, RunTag
from mlflow.exceptions import MlflowException
from mlflow.utils.mlflow_tags import MLFLOW_DATASET_CONTEXT

import cplearn
from cplearn.config.trial import NUMERICS
from runner.events import FailureKind, TrialResult
from runner.machine.environment import worker_environment
from runner.planning.plan import Job, Plan, command
from runner.tracking.logged_model import close_model, open_model
from sweeps import record
from sweeps.record import MODEL_FOLDER, WALL_SECONDS, Tag, param_text, tag_is

PACKAGES = ("torch", "torchvision", "ray", "mlflow", "scikit-learn", "numpy", "cplearn-sweeps")
ERROR_LINES = 20
ERROR_CHARACTERS = 4000
LONGEST_NAME = 250  # Of a run, in MLflow's databases.


class TrialRun:
    """One trial's run in an experiment: `before`, the run that was interrupted, or a new one.

    Each method is one pending write: it is called by the writing thread, `open` first, and may be called again after it
    has failed half-way.
    """

    def __init__(
        self, client: MlflowClient, experiment: str, parent: str, plan: Plan, job: Job, before: Run | None
    ) -> None:
        self.client, self.experiment, self.before = client, experiment, before
        self.name, self.epochs = job.name[:LONGEST_NAME], job.trial.epochs
        self.tags = {
            Tag.KIND: record.TRIAL,
            Tag.PARENT: parent,
            Tag.KEY: job.key,
            Tag.SWEEP: plan.sweep.name,
            Tag.DATASET: job.dataset,
            Tag.FINGERPRINT: job.fingerprint,
            Tag.ROLE: job.role,
            Tag.LABEL: job.label,
            Tag.COMMAND: command(job.trial),
            Tag.NOTE: f"{job.name}, of sweep {plan.sweep.name} on {job.dataset}",
            # Tells a run that a repeated write finds from those of earlier calls.
            Tag.ATTEMPT: uuid.uuid4().hex,
        } | code_tags()
        self.params = [Param(key, param_text(value)) for key, value in job.trial.flat().items()]
        use = plan.use_of(job)
        source, profile = json.dumps({"uri": use.source}), json.dumps(use.profile())
        dataset = Dataset(use.slug, use.fingerprint, "local", source, profile=profile)
        self.dataset = DatasetInput(dataset, [InputTag(MLFLOW_DATASET_CONTEXT, "training")])
        self.outdated_tags = [tag for tag in record.END_TAGS if before and tag in before.data.tags]
        self.is_complete = before is not None and WALL_SECONDS in before.data.metrics
        self.tried, self.model_tried = False, False
        self.own_settings, self.model_id = job.trial.identity(), ""
        self.logged_epochs: set[int] = set()
        self.run_id = ""  # The run's id in MLflow, as soon as it is open.

    def open(self) -> None:
        """Go on with the interrupted run, or begin one."""
        tried, self.tried = self.tried, True
        run = self.before or create_run(self.client, self.experiment, self.tags, self.name, again=tried)
        if self.before:
            self.client.update_run(run.info.run_id, status="RUNNING", name=self.name)
            self._log_tags(run.info.run_id, self.tags)
            for tag in self.outdated_tags:
                try:
                    self.client.delete_tag(run.info.run_id, tag)
                except MlflowException as error:
                    if error.get_http_status_code() != HTTPStatus.NOT_FOUND:  # Gone already, where an answer was lost.
                        raise
        self.run_id, self.start = run.info.run_id, run.info.start_time
        # An epoch is one write, so one of its metrics tells of all.
        history = self.client.get_metric_history(self.run_id, record.LOSS) if self.before else []
        self.logged_epochs = {metric.step for metric in history}
        self.client.log_batch(self.run_id, params=self.params)
        self.client.log_inputs(self.run_id, datasets=[self.dataset])

    def log_epoch(self, epoch: int, metrics: Mapping[str, float], when: int) -> None:
        """Add an epoch's metrics, which were measured at `when` (ms since 1970), unless the run has them."""
        if epoch not in self.logged_epochs:
            self._log_metrics(metrics, epoch, when)
            self.logged_epochs.add(epoch)

    def finish(self, result: TrialResult, when: int) -> None:
        """Add the result. The run ends last, so that a finished run is a complete one; it is a duplicate where another
        driver, whose claims this one does not see, has finished the trial meanwhile."""
        query = f"{tag_is(Tag.KEY, self.tags[Tag.KEY])} AND attributes.status = 'FINISHED'"
        for other in self.client.search_runs([self.experiment], query):
            if other.info.run_id != self.run_id and other.info.end_time > self.start:
                self._end("KILLED", {Tag.DUPLICATE_OF: other.info.run_id})
                return
        if has_model := any(name.startswith(f"{MODEL_FOLDER}/") for name in result.files):
            again, self.model_tried = self.model_tried, True
            place = (self.client, self.experiment, self.run_id, self.name)
            self.model_id = open_model(*place, self.own_settings, again=again)
        if not self.is_complete:
            wall = sum(result.metrics.get(name, 0.0) for name in (record.TRAIN_SECONDS, record.EVALUATION_SECONDS))
            self._log_metrics({**result.metrics, WALL_SECONDS: wall}, self.epochs, when)
        with tempfile.TemporaryDirectory() as folder:
            for name, content in result.files.items():
                path = Path(folder, name)
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(content)
            self.client.log_artifacts(self.run_id, folder)
        if has_model:
            close_model(self.client, self.run_id, self.model_id, self.epochs)
        self._end("FINISHED", _hardware(result))

    def fail(self, reason: str, kind: FailureKind) -> None:
        """End the run as FAILED, with the last lines of the reason."""
        last_lines = "\n".join(reason.splitlines()[-ERROR_LINES:])
        self._end("FAILED", {Tag.ERROR: last_lines[-ERROR_CHARACTERS:], Tag.FAILURE: kind})

    def stop(self, stopper: str, epoch: int, reason: str, collapse: str, result: TrialResult | None, when: int) -> None:
        """End the run as KILLED, tagged by whom and when: it is no result. One that was stopped on a collapse gets the
        metrics of the evaluation at that epoch, and a tag by which they are known to be of no whole training."""
        tags = {Tag.STOPPED_BY: stopper, Tag.STOPPED_EPOCH: str(epoch), Tag.ERROR: reason}
        if result:
            # Without the last of the final metrics: it would say that the run is complete.
            self._log_metrics(result.metrics, epoch, when)
            tags |= {Tag.COLLAPSE: collapse, **_hardware(result)}
        self._end("KILLED", tags)

    def _log_metrics(self, metrics: Mapping[str, float], step: int, when: int) -> None:
        # Those of a model stand beside it too, with the data that they were measured on.
        of = {"model_id": self.model_id, "dataset_name": self.dataset.dataset.name} if self.model_id else {}
        of |= {"dataset_digest": self.dataset.dataset.digest, "run_id": self.run_id} if self.model_id else {}
        batch = [Metric(name, value, when, step, **of) for name, value in metrics.items()]
        self.client.log_batch(self.run_id, metrics=batch)

    def _end(self, status: str, tags: Mapping[Tag, str]) -> None:
        self._log_tags(self.run_id, tags)
        self.client.set_terminated(self.run_id, status)

    def _log_tags(self, run_id: str, tags: Mapping[Tag, str]) -> None:
        self.client.log_batch(run_id, tags=[RunTag(str(tag), text) for tag, text in tags.items()])


def _hardware(result: TrialResult) -> dict[Tag, str]:
    """The tags of what a trial ran on."""
    return {tag: result.hardware[tag.short] for tag in record.HARDWARE if tag.short in result.hardware}


def create_run(
    client: MlflowClient, experiment: str, tags: Mapping[Tag, str], name: str, *, again: bool = False
) -> Run:
    """A new run; with `again`, the one that an earlier call may have made whose answer was lost.

    Over HTTP, MLflow itself repeats a request without an answer, which makes a second run. So the runs of the attempt
    that the tags name are looked up, and one of them stays.
    """
    attempt = tag_is(Tag.ATTEMPT, tags[Tag.ATTEMPT])
    runs = client.search_runs([experiment], attempt) if again else []
    if not runs:
        runs = [client.create_run(experiment, tags=dict(tags), run_name=name[:LONGEST_NAME])]
        if client.tracking_uri.startswith("http"):
            runs = client.search_runs([experiment], attempt) or runs
    first, *others = sorted(runs, key=lambda run: (run.info.start_time, run.info.run_id))
    for other in others:
        client.delete_run(other.info.run_id)
    return first


@functools.cache
def code_tags() -> dict[Tag, str]:
    """Tags of the code that trains: its numerics, its packages, and where git keeps its files the commit and whether
    they had been edited. An installation inside another repository is not a part of that."""
    versions = {}
    for package in PACKAGES:
        with suppress(PackageNotFoundError):
            versions[package] = version(package)
    tags = {Tag.NUMERICS: str(NUMERICS), Tag.VERSIONS: json.dumps(versions)}
    if not _git("ls-files", "__init__.py") or (commit := _git("rev-parse", "HEAD")) is None:
        return tags
    edited = bool(_git("status", "--porcelain", "--untracked-files=no"))
    return tags | {Tag.MLFLOW_COMMIT: commit, Tag.GIT_COMMIT: commit, Tag.GIT_EDITED: str(edited).lower()}


def _git(*arguments: str) -> str | None:
    """What git prints in the folder of the trainer; None where it fails."""
    command, folder = ["git", *arguments], Path(cplearn.__file__).parent
    # A hook of git, for instance, sets variables that lead to another repository.
    environment = {name: value for name, value in worker_environment().items() if not name.startswith("GIT_")}
    with suppress(OSError, subprocess.SubprocessError):
        done = subprocess.run(
            command, cwd=folder, env=environment, capture_output=True, text=True, timeout=10, check=True
        )
        return done.stdout.strip()
    return None
