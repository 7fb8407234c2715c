"""The one module that writes to MLflow: one parent run a sweep, one child run a trial, all from the driver process.

A single writer needs no locking, keeps credentials out of the workers, and lets a cluster's nodes run without a way to
the tracking server. What it writes (tags, params, metrics, artifacts) is what `reports.store` reads.

While the store is away, entries wait in an outbox and are repeated. So each of them can be repeated without harm: a
metric is told apart by run, name, step, time and value, and its time is that of the event.
"""

from __future__ import annotations

import functools
import json
import logging
import os
import sqlite3
import subprocess
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import quote

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
# Two lines at the end of each run would be drawn into the live display.
os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
# The outbox repeats what fails; MLflow's own seven attempts would only make it wait for minutes at the end.
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")

from mlflow import MlflowClient
from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param, Run, RunStatus, RunTag, ViewType
from mlflow.exceptions import MlflowException
from mlflow.utils.mlflow_tags import MLFLOW_DATASET_CONTEXT
from mlflow.utils.validation import MAX_TAG_VAL_LENGTH

from cplearn.config import trial as config
from cplearn.errors import InputError
from runner.durability.outbox import Outbox
from runner.faults import FailureKind
from runner.planning.plan import Job, Plan, command
from sweeps.addresses import store_file
from sweeps.record import DatasetUse, param_text

# The migrations of a fresh store are no news to its user.
logging.getLogger("mlflow").setLevel(logging.WARNING)
logging.getLogger("alembic").setLevel(logging.WARNING)

PACKAGES = ("torch", "torchvision", "ray", "mlflow", "scikit-learn", "numpy", "cplearn-sweeps")
ERROR_LINES = 20
MOST_COMPARED = 60
STOP_TAGS = {"cplearn.stopped_by", "cplearn.stopped_epoch", "cplearn.error"}
"""What a run that was stopped early has until it goes on."""


def check_store(uri: str, shown: str) -> None:
    """Raise InputError, with one sentence, unless runs can be written to the store; creates nothing.

    `shown` is the store's address as messages may have it, without secrets.

    A file is tried out, a server only asked for by its address: whether it answers shows when it is read.
    """
    scheme = uri.partition(":")[0].partition("+")[0]
    if scheme not in ("sqlite", "http", "https", "postgresql", "mysql", "mssql", "databricks"):
        raise InputError(
            f"--tracking-uri {shown!r}: write sqlite:///PATH, http://HOST:PORT or another address of MLflow"
        )
    if uri.startswith("postgresql:") and find_spec("psycopg") is None:
        # What SQLAlchemy takes for the default depends on its version.
        raise InputError(
            f"--tracking-uri {shown!r}: the driver psycopg is not installed; write postgresql+psycopg2://..., "
            "whose driver comes with the extra postgresql"
        )
    if scheme != "sqlite":
        return
    path = store_file(uri)
    existing = path if path.exists() else path.parent
    try:
        if path.exists():
            with closing(sqlite3.connect(path, timeout=5)) as connection:
                connection.execute("BEGIN IMMEDIATE").close()
        else:
            tempfile.TemporaryFile(dir=existing).close()
    except (OSError, sqlite3.Error) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise InputError(f"--tracking-uri {shown!r}: cannot write there ({reason})") from None


def make_store(uri: str) -> None:
    """Make the tables of a SQLite store that does not exist yet; one driver at a time may do so.

    They are made under another name: a reader that met a file with some of its tables would try to make the rest.
    """
    path = store_file(uri)
    if not uri.startswith("sqlite") or (path.exists() and path.stat().st_size):
        return
    draft = path.with_name(f"{path.name}.making")
    draft.unlink(missing_ok=True)  # of a driver that was killed
    scheme, options = uri.partition(":///")[0], "".join(uri.partition("?")[1:])
    MlflowClient(f"{scheme}:///{draft}{options}").search_experiments(max_results=1)
    draft.replace(path)


PAGE = 1000
REFUSALS = {
    "BAD_REQUEST",
    "ENDPOINT_NOT_FOUND",
    "FEATURE_DISABLED",
    "INVALID_PARAMETER_VALUE",
    "INVALID_STATE",
    "PERMISSION_DENIED",
    "RESOURCE_ALREADY_EXISTS",
    "RESOURCE_DOES_NOT_EXIST",
    "UNAUTHENTICATED",
}
"""Errors that stay however often a write is repeated."""


class Tracker:
    """Writes a sweep and its trials; a `runner.events.Listener`.

    Make it before any worker starts: opening a fresh SQLite store from several processes at once fails. A trial that
    was interrupted goes on in its own run, and what that run holds already is not written again.

    `claim` says of a key whether no other driver runs its trial; only such runs are taken for orphans. `anew` gives
    every trial a fresh run. `about` are tags of the sweep's run. `forget` is called with a key once its result is safe
    in the store. `say` shows a sentence.
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
        self.client = MlflowClient(uri)
        self.plan, self.claim, self.anew, self.forget = plan, claim, anew, forget
        self.experiment = self._experiment()
        self.datasets = {use.fingerprint: use for use in plan.datasets}
        self.begun: set[str] = set()
        # From here on only the outbox's thread uses these.
        self.runs: dict[str, str] = {}
        self.logged: dict[str, set[int]] = {}
        self.complete: set[str] = set()
        self.remark = ""
        """What the sweep's note says beside its description."""
        self.parent = self._parent()
        for name, value in (about or {}).items():
            self.client.set_tag(self.parent, name, value)
        self.interrupted = self._interrupted()
        self.outbox = Outbox(_transient, say)

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
        """The sweep's run: the one of an earlier invocation, if there is one."""
        found = next(self._search(f"tags.`cplearn.sweep_key` = '{self.plan.key}'"), None)
        if found:
            parent = found.info.run_id
            self.client.update_run(parent, status="RUNNING")
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
        self.client.log_dict(parent, self.plan.manifest().to_dict(), "manifest.json")
        return parent

    def _interrupted(self) -> dict[str, Run]:
        """The newest run of each trial that was killed or whose driver has gone; such orphans are closed."""
        newest: dict[str, Run] = {}
        own = {job.key for job in self.plan.jobs}
        for status in ("RUNNING", "KILLED"):
            for run in self._search(f"tags.`cplearn.kind` = 'trial' AND attributes.status = '{status}'"):
                key = run.data.tags.get("cplearn.key", "")
                if key not in own and run.data.tags.get("mlflow.parentRunId") != self.parent:
                    continue
                if not self.claim(key):
                    continue
                if status == "RUNNING":
                    self._end(run.info.run_id, "KILLED")
                if key not in newest or run.info.start_time > newest[key].info.start_time:
                    newest[key] = run
        return {} if self.anew else newest

    def _search(self, query: str) -> Iterator[Run]:
        token = None
        while True:
            page = self.client.search_runs([self.experiment], query, ViewType.ACTIVE_ONLY, PAGE, page_token=token)
            yield from page
            token = page.token
            if not token:
                return

    def extended(self) -> None:
        """Write down that the plan has further trials."""
        manifest = self.plan.manifest().to_dict()
        self.outbox.put(lambda: self.client.log_dict(self.parent, manifest, "manifest.json"))

    # Events of jobs.

    def planned(self, jobs: Sequence[Job]) -> None:
        pass

    def started(self, job: Job) -> None:
        # A job whose worker was lost starts more than once.
        if job.key not in self.begun:
            self.begun.add(job.key)
            self._open(job)

    def resumed(self, job: Job, history: Sequence[tuple[int, int, Mapping[str, float]]]) -> None:
        """Make up for epochs that the trial's checkpoint knows and its run does not."""
        for epoch, when, metrics in history:
            self._log_epoch(job, epoch, metrics, when)

    def epoch(self, job: Job, epoch: int, metrics: Mapping[str, float]) -> None:
        self._log_epoch(job, epoch, metrics, _now())

    def noted(self, job: Job, text: str) -> None:
        pass

    def finished(
        self, job: Job, metrics: Mapping[str, float], files: Mapping[str, bytes], hardware: Mapping[str, str]
    ) -> None:
        wall = metrics.get("time/train_s", 0.0) + metrics.get("time/evaluation_s", 0.0)
        batch = _batch({**metrics, "time/wall_s": wall}, job.trial.epochs, _now())
        tags = [RunTag(f"cplearn.{key}", value) for key, value in {**hardware, "pack_width": "1"}.items()]

        def write() -> None:
            run = self.runs[job.key]
            if job.key not in self.complete:
                self.client.log_batch(run, metrics=batch)
            self.client.log_batch(run, tags=tags)
            with tempfile.TemporaryDirectory() as folder:
                for name, content in files.items():
                    path = Path(folder, name)
                    path.parent.mkdir(parents=True, exist_ok=True)
                    path.write_bytes(content)
                self.client.log_artifacts(run, folder)
            # Last, so that a finished run is a complete one.
            self._end(run, "FINISHED")
            self.forget(job.key)

        self.outbox.put(write)

    def failed(self, job: Job, reason: str, kind: FailureKind) -> None:
        self.started(job)
        last_lines = "\n".join(reason.splitlines()[-ERROR_LINES:])
        tags = [RunTag("cplearn.error", last_lines[-4000:]), RunTag("cplearn.failure", kind)]

        def write() -> None:
            self.client.log_batch(self.runs[job.key], tags=tags)
            self._end(self.runs[job.key], "FAILED")
            if kind == "diverged":
                self.forget(job.key)

        self.outbox.put(write)

    def stopped(self, job: Job, epoch: int, reason: str) -> None:
        """End the run as KILLED, tagged by whom and when: it is no result, and its checkpoint stays."""
        told = {"cplearn.stopped_by": self.plan.stopper, "cplearn.stopped_epoch": str(epoch)}
        tags = [RunTag(name, text) for name, text in (told | {"cplearn.error": reason}).items()]

        def write() -> None:
            self.client.log_batch(self.runs[job.key], tags=tags)
            self._end(self.runs[job.key], "KILLED")

        self.outbox.put(write)

    def close(self, status: str, patience: float | None = None) -> None:
        """End the sweep's run and what still counts as running, when all is written; status FINISHED, FAILED or KILLED.

        Waits for the store, `patience` seconds if given. Raises InputError if it stays away.
        """

        def write() -> None:
            own, others = set(self.runs.values()), False
            for run in self._search("tags.`cplearn.kind` = 'trial' AND attributes.status = 'RUNNING'"):
                if run.info.run_id in own:
                    self._end(run.info.run_id, "KILLED")
                else:
                    others |= run.data.tags.get("mlflow.parentRunId") == self.parent
            self.client.set_tag(self.parent, "mlflow.note.content", self._note())
            # Another driver that is still at work on this sweep will end it.
            if not others:
                self._end(self.parent, status)

        self.outbox.put(write)
        self.outbox.close(patience)

    def _open(self, job: Job) -> None:
        """Go on with the job's interrupted run, or begin one."""
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
            "cplearn.command": command(job.trial),
            "cplearn.pack_width": "1",
            "cplearn.versions": json.dumps(_versions()),
            "mlflow.note.content": f"{job.name}, of sweep {self.plan.sweep.name} on {job.dataset}",
            # Tells a run that a repeated write finds from those of earlier invocations.
            "cplearn.attempt": uuid.uuid4().hex,
        } | _source()
        params = [Param(key, param_text(value)) for key, value in job.trial.flat().items()]
        before = self.interrupted.get(job.key)
        tried = False
        gone: set[str] = set()

        def write() -> None:
            nonlocal tried
            run = before
            if run is None and tried:
                run = next(self._search(f"tags.`cplearn.attempt` = '{tags['cplearn.attempt']}'"), None)
            tried = True
            if run is None:
                run = self.client.create_run(self.experiment, tags=tags, run_name=job.name)
            else:
                self.client.update_run(run.info.run_id, status="RUNNING", name=job.name)
                self.client.log_batch(run.info.run_id, tags=[RunTag(name, text) for name, text in tags.items()])
                for name in STOP_TAGS & run.data.tags.keys() - gone:
                    self.client.delete_tag(run.info.run_id, name)
                    gone.add(name)
            self.runs[job.key] = run.info.run_id
            # An epoch is one write, so one of its metrics tells of all.
            history = self.client.get_metric_history(run.info.run_id, "train/loss") if before else []
            self.logged[job.key] = {metric.step for metric in history}
            if before and "time/wall_s" in before.data.metrics:
                self.complete.add(job.key)
            self.client.log_batch(run.info.run_id, params=params)
            self.client.log_inputs(run.info.run_id, datasets=[_dataset_input(use)])

        self.outbox.put(write)

    def _log_epoch(self, job: Job, epoch: int, metrics: Mapping[str, float], when: int) -> None:
        batch = _batch(metrics, epoch, when)

        def write() -> None:
            if epoch not in self.logged[job.key]:
                self.client.log_batch(self.runs[job.key], metrics=batch)
                self.logged[job.key].add(epoch)

        self.outbox.put(write)

    def _note(self) -> str:
        """The sweep's description and, as long as it fits into an address, a link that compares its finished trials."""
        query = f"tags.`mlflow.parentRunId` = '{self.parent}' AND attributes.status = 'FINISHED'"
        found = [run.info.run_id for run in self._search(query) if run.data.tags.get("cplearn.role") == "trial"]
        text = "\n\n".join(filter(None, [self.plan.sweep.description, self.remark]))
        if 1 < len(found) <= MOST_COMPARED:
            runs, experiments = (quote(json.dumps(ids)) for ids in (found, [self.experiment]))
            text += f"\n\n[Compare its {len(found)} trials](#/compare-runs?runs={runs}&experiments={experiments})"
        return text

    def _end(self, run: str, status: str) -> None:
        assert RunStatus.is_terminated(RunStatus.from_string(status))
        self.client.set_terminated(run, status)


def _transient(error: BaseException) -> bool:
    """Whether a write may succeed when it is repeated: the store is away, locked or overloaded."""
    if isinstance(error, MlflowException):
        return error.error_code not in REFUSALS
    return isinstance(error, OSError)


def _now() -> int:
    return int(time.time() * 1000)


def _batch(metrics: Mapping[str, float], step: int, when: int) -> list[Metric]:
    return [Metric(name, value, when, step) for name, value in metrics.items()]


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


def _dataset_input(use: DatasetUse) -> DatasetInput:
    dataset = Dataset(
        name=use.slug,
        digest=use.fingerprint,
        source_type="local",
        source=json.dumps({"uri": use.source}),
        profile=json.dumps(use.profile()),
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
