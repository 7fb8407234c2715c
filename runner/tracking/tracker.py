"""Writes a sweep and its trials to MLflow, all from the driver process.

A single writer needs no locking, keeps credentials out of the workers, and lets a cluster's nodes run without a way to
the tracking server. While the store is away, writes wait and are repeated, which does no harm: MLflow tells a metric
apart by run, name, step, time and value, and its time is that of the event.
"""

import functools
import logging
import time
import uuid
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from mlflow import MlflowClient
from mlflow.entities import Experiment, Metric, Param, Run, RunTag, ViewType
from mlflow.exceptions import MlflowException
from mlflow.utils import get_results_from_paginated_fn
from mlflow.utils.validation import MAX_TAG_VAL_LENGTH

from runner.durability.pending_writes import PendingWrites
from runner.events import FailureKind, History, Listener, TrialResult
from runner.planning.plan import Job, Plan
from runner.tracking.database import make_store
from runner.tracking.trial_run import TrialRun, code_tags, create_run
from runner.tracking.views import addresses, keep_view
from sweeps.addresses import ARTIFACTS, beside_store, experiment_name, local_folder, store_file
from sweeps.record import MANIFEST_FILE, REPORT_FOLDER, SWEEP, TRIAL, Tag, param_text, tag_is
from sweeps.retries import Repeated, is_transient, repeated

# The migrations of a fresh store are no news to its user; importing MLflow sets these levels anew.
for _name in ("mlflow", "alembic"):
    logging.getLogger(_name).setLevel(logging.WARNING)
logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)  # It shows the tracebacks of what it raises.

PAGE = 1000


class Tracker(Listener):
    """Writes a sweep and its trials. A trial that was interrupted goes on in its own run, and what that run holds
    already is not written again.

    `claim` says of a key whether no other driver runs its trial; only the runs of such keys are taken for orphans.
    `anew` gives every trial a fresh run. `about` are tags of the sweep's run. `forget` is called with a key once its
    result is safe in the store. `say` shows a sentence.
    """

    def __init__(
        self,
        uri: str,
        plan: Plan,
        *,
        claim: Callable[[str], bool] = lambda key: True,
        anew: bool = False,
        about: Mapping[str, str] | None = None,
        forget: Callable[[str], None] = lambda key: None,
        say: Callable[[str], None] = lambda text: None,
    ) -> None:
        make_store(uri)
        self.uri = uri
        self.client = MlflowClient(uri)
        self.plan, self.claim, self.forget = plan, claim, forget
        self.attempt = uuid.uuid4().hex
        repeated(lambda: self._begin(about or {}))
        if anew:
            self.interrupted.clear()
        self.runs: dict[str, TrialRun] = {}
        self.remark = ""  # What the sweep's note says beside its description.
        self.writes = PendingWrites(is_transient, say)

    def _begin(self, about: Mapping[str, str]) -> None:
        self.experiment = open_experiment(self.client).experiment_id
        self.parent = self._sweep_run()
        for name, value in about.items():
            self.client.set_tag(self.parent, name, value)
        self.interrupted = self._end_orphans()

    def _is_in_place(self, run: Run) -> bool:
        """Whether what is written of a run does not go to another place, from where the database alone was copied."""
        folder = local_folder(run.info.artifact_uri)
        return folder is None or beside_store(folder, self.uri) == folder

    def _sweep_run(self) -> str:
        """The id of the sweep's run: the one of an earlier call if there is one."""
        if runs := list(filter(self._is_in_place, self._search(tag_is(Tag.SWEEP_KEY, self.plan.key)))):
            run_id = runs[0].info.run_id
            self.client.update_run(run_id, status="RUNNING")
            for other in runs[1:]:  # Made twice, when an answer was lost.
                if other.info.status == "RUNNING":
                    self.client.set_terminated(other.info.run_id, "KILLED")
        else:
            sweep = self.plan.sweep
            datasets = ", ".join(dict.fromkeys(use.slug for use in self.plan.datasets))
            tags = {
                Tag.KIND: SWEEP,
                Tag.SWEEP: sweep.name,
                Tag.SWEEP_KEY: self.plan.key,
                Tag.DATASET: datasets,
                Tag.NOTE: sweep.description,
                Tag.ATTEMPT: self.attempt,
            } | code_tags()
            run_id = create_run(self.client, self.experiment, tags, f"{sweep.name} · {datasets}").info.run_id
        self.client.log_dict(run_id, self.plan.manifest().to_dict(), MANIFEST_FILE)
        keep_view(self.client, self.experiment, self.plan.key, list(self.plan.axes()))
        return run_id

    def _end_orphans(self) -> dict[str, Run]:
        """End the runs whose driver has gone; returns the newest interrupted run of each trial's key."""
        newest: dict[str, Run] = {}
        keys = {job.key for job in self.plan.jobs}
        for status in ("RUNNING", "KILLED"):
            for run in self._search(f"{tag_is(Tag.KIND, TRIAL)} AND attributes.status = '{status}'"):
                key = run.data.tags.get(Tag.KEY, "")
                is_of_sweep = key in keys or run.data.tags.get(Tag.PARENT) == self.parent
                if not (is_of_sweep and self.claim(key)):
                    continue
                if status == "RUNNING":
                    self.client.set_terminated(run.info.run_id, "KILLED")
                    folder = local_folder(run.info.artifact_uri)
                    # Of files that MLflow was copying for the run when its driver was killed.
                    for part in folder.rglob(".artifact.uploading.*") if folder else ():
                        part.unlink(missing_ok=True)
                if self._is_in_place(run) and (key not in newest or run.info.start_time > newest[key].info.start_time):
                    newest[key] = run
        return newest

    def _search(self, query: str) -> list[Run]:
        runs: list[Run] = get_results_from_paginated_fn(
            lambda size, token: self.client.search_runs(
                [self.experiment], query, ViewType.ACTIVE_ONLY, size, None, token
            ),
            PAGE,
        )
        return runs

    def extended(self) -> None:
        """Write down that the plan has further trials."""
        manifest = self.plan.manifest().to_dict()
        self.writes.put(lambda: self.client.log_dict(self.parent, manifest, MANIFEST_FILE))

    def started(self, job: Job) -> None:
        """Open the job's run. A job whose worker was lost starts more than once, in one run."""
        if job.key not in self.runs:
            before = self.interrupted.get(job.key)
            self.runs[job.key] = TrialRun(self.client, self.experiment, self.parent, self.plan, job, before)
            self.writes.put(self.runs[job.key].open)

    def resumed(self, job: Job, history: History) -> None:
        for epoch, when, metrics in history:
            self.epoch(job, epoch, metrics, when)

    def epoch(self, job: Job, epoch: int, metrics: Mapping[str, float], when: int | None = None) -> None:
        self.writes.put(functools.partial(self.runs[job.key].log_epoch, epoch, metrics, when or _now()))

    def finished(self, job: Job, result: TrialResult) -> None:
        self.writes.put(functools.partial(self.runs[job.key].finish, result, _now()))
        self.writes.put(functools.partial(self.forget, job.key))

    def failed(self, job: Job, reason: str, kind: FailureKind) -> None:
        self.started(job)
        self.writes.put(functools.partial(self.runs[job.key].fail, reason, kind))
        if kind == "diverged":  # It would do so again; after another failure its checkpoints serve.
            self.writes.put(functools.partial(self.forget, job.key))

    def stopped(self, job: Job, epoch: int, reason: str, collapse: str = "", result: TrialResult | None = None) -> None:
        """The checkpoint of a trial that was stopped early stays: under another rule it may go on."""
        details = (self.plan.stopper, epoch, reason, collapse, result, _now())
        self.writes.put(functools.partial(self.runs[job.key].stop, *details))

    def close(self, status: str, patience: float | None = None) -> None:
        """End the sweep's run and what still counts as running, when all is written; status FINISHED, FAILED or KILLED.

        Waits for the store, `patience` seconds if given. Raises InputError if it stays away.
        """

        def write() -> None:
            attempts = {run.tags[Tag.ATTEMPT] for run in self.runs.values()} | {self.attempt}
            run_ids, other_driver = {run.run_id for run in self.runs.values()}, False
            for run in self._search("attributes.status = 'RUNNING'"):
                if run.info.run_id in run_ids:
                    self.client.set_terminated(run.info.run_id, "KILLED")
                elif run.data.tags.get(Tag.ATTEMPT) in attempts and run.info.run_id != self.parent:
                    self.client.delete_run(run.info.run_id)  # Made twice, the second time late.
                else:
                    other_driver |= run.data.tags.get(Tag.PARENT) == self.parent
            compare = f"[Compare its trials]({addresses(self.experiment, self.plan.key)['charts']})"
            note = "\n\n".join(filter(None, [self.plan.sweep.description, self.remark, compare]))
            self.client.set_tag(self.parent, Tag.NOTE, note)
            # Another driver that is still at work on this sweep will end it.
            if not other_driver:
                self.client.set_terminated(self.parent, status)

        self.writes.put(write)
        self.writes.close(patience)


def open_experiment(client: MlflowClient) -> Experiment:
    """The experiment of the runs, which is made where need be."""
    name, uri = experiment_name(), client.tracking_uri
    if experiment := client.get_experiment_by_name(name):
        return experiment
    # MLflow's own choice would be the current directory, which has nothing to do with where the database lies.
    beside = store_file(uri).with_name(ARTIFACTS).as_uri() if uri.startswith("sqlite") else None
    # Another driver may be quicker, or MLflow asks again where it has lost the answer.
    with suppress(MlflowException):
        # The kind makes MLflow's interface open on the runs instead of its tools for language models.
        client.create_experiment(name, beside, {"mlflow.experimentKind": "custom_model_development"})
    return client.get_experiment_by_name(name)


def make_experiment(uri: str) -> None:
    """Make the experiment on a server, by which claims tell servers apart; drivers make other stores by turns, for
    which they need claims before."""
    if not uri.startswith(("sqlite", "postgresql")):
        repeated(lambda: open_experiment(MlflowClient(uri)))


def log_report(uri: str, sweep_run: str, dataset: str, files: Mapping[str, Path], table: str) -> None:
    """Add the report on one data set to a sweep's run, which has ended: `files` by their relative names under
    report/<dataset>/, and `table` (markdown) at the end of its notes, as long as they stay short enough to be kept. A
    table over several data sets has its folder in place of a data set."""
    client: MlflowClient = Repeated(MlflowClient(uri), "the tracking store")
    for name, path in files.items():
        client.log_artifact(sweep_run, str(path), f"{REPORT_FOLDER}/{dataset}/{name}".rpartition("/")[0])
    note = client.get_run(sweep_run).data.tags.get(Tag.NOTE, "")
    page = "report.html" if "report.html" in files else "table.html"
    longer = f"{note}\n\n{table}\n\nFigures and findings: the artifact {REPORT_FOLDER}/{dataset}/{page}\n".lstrip()
    if len(longer) <= MAX_TAG_VAL_LENGTH:
        client.set_tag(sweep_run, Tag.NOTE, longer)


def log_summary(
    uri: str, sweep_run: str, settings: Mapping[str, Any], metrics: Mapping[str, float], tags: Mapping[Tag, str]
) -> None:
    """Add to a sweep's run the settings that its trials share, metrics of all of them and tags. MLflow changes no
    setting of a run: one that the run has already stays."""
    client: MlflowClient = Repeated(MlflowClient(uri), "the tracking store")

    def write() -> None:
        params = client.get_run(sweep_run).data.params
        client.log_batch(
            sweep_run,
            [Metric(name, value, _now(), 0) for name, value in metrics.items()],
            [Param(key, param_text(value)) for key, value in settings.items() if key not in params],
            [RunTag(str(tag), text) for tag, text in tags.items()],
        )

    try:
        write()
    except MlflowException:  # Another driver of the sweep has ended too, and written the settings since they were read.
        write()


def _now() -> int:
    return int(time.time() * 1000)
