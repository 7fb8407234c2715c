"""What a run says of itself: the names of its tags, metrics and files, a sweep's manifest, and the state of a trial.

`runner.tracking` writes runs in these words and `reports.store` reads them; both import them from here, so that neither
can ask for what the other does not write.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from enum import StrEnum
from typing import Any, Literal, get_args

from sweeps.errors import StoreError, UserError, explain
from sweeps.loading import read_json

SWEEP, TRIAL, BASELINE = "sweep", "trial", "baseline"
"""A run is of kind SWEEP or TRIAL; a trial has the role TRIAL, or BASELINE where others are compared with it."""

PREFIX = "cplearn."  # The beginning of our own tags.


class Tag(StrEnum):
    """The tags that runs have; a run of an older version may lack some and have others."""

    KIND = "cplearn.kind"  # SWEEP or TRIAL.
    SWEEP = "cplearn.sweep"  # The name of the sweep that the run belongs to, or is.
    DATASET = "cplearn.dataset"  # The short name of the data set; of a sweep's run all of them, separated by ", ".
    NOTE = "mlflow.note.content"  # Text (markdown) that MLflow's pages show.

    # Of a sweep's run.
    SWEEP_KEY = "cplearn.sweep_key"  # Equal for all calls of one sweep.
    STUDY = "cplearn.study"  # The names of the Optuna studies of a search.
    BEST = "cplearn.best"  # The point that is best in the report of each data set.
    CRITERION = "cplearn.criterion"  # The metric by which it is best, as the mean over the seeds.

    # Of a trial's run: what it is.
    KEY = "cplearn.key"  # The trial's identity; trials of one key have equal numbers.
    PARENT = "mlflow.parentRunId"  # The run of the sweep that has started it.
    ROLE = "cplearn.role"  # TRIAL or BASELINE.
    LABEL = "cplearn.label"  # What sets the trial apart from the others of its sweep, without the seed.
    FINGERPRINT = "cplearn.fingerprint"  # A hash of the images and labels of the data set.
    COMMAND = "cplearn.command"  # The command that runs this trial alone.
    ATTEMPT = "cplearn.attempt"  # A number drawn for each start, by which a repeated write finds its run.

    # By which code it was made.
    NUMERICS = "cplearn.numerics"  # The version of the trainer's numerics.
    VERSIONS = "cplearn.versions"  # The versions of the packages that decide the numbers, as JSON.
    GIT_COMMIT = "cplearn.git_commit"
    GIT_EDITED = "cplearn.git_edited"  # "true" where the checkout had changes that were not committed.
    MLFLOW_COMMIT = "mlflow.source.git.commit"  # The commit once more, where MLflow's own pages look for it.

    # On what it ran.
    DEVICE = "cplearn.device"  # "cpu" or "cuda".
    DEVICE_NAME = "cplearn.device_name"  # The model of the processor or of the GPU.
    HOST = "cplearn.host"
    CPUS = "cplearn.cpus"  # Cores of the host.
    THREADS = "cplearn.threads"  # Threads of torch.
    RANKS = "cplearn.ranks"  # Processes that shared the trial.
    NODE = "cplearn.node"  # The name of the cluster's node, where a node has been given one.

    # How it ended, where it has no result.
    FAILURE = "cplearn.failure"  # A `Failure`.
    ERROR = "cplearn.error"  # The last lines of the failure's message.
    STOPPED_BY = "cplearn.stopped_by"  # The sweep and the scheduler that have stopped it early.
    STOPPED_EPOCH = "cplearn.stopped_epoch"  # The epoch after which it was stopped.
    COLLAPSE = "cplearn.collapse"  # The kind of collapse on which it was stopped; it was evaluated as it stood then.
    DUPLICATE_OF = "cplearn.duplicate_of"  # The run that finished the same trial meanwhile, for another driver.

    @property
    def short(self) -> str:
        """Without the prefix, `git_commit` for instance."""
        return self.removeprefix(PREFIX)

    @property
    def column(self) -> str:
        """Its column in the frames of `reports.store`, `tags.git_commit` for instance."""
        return f"tags.{self.short}"


def tag_is(tag: Tag, value: str) -> str:
    """The condition that a run has a tag's value, in the language of MLflow's searches.

    >>> tag_is(Tag.KIND, TRIAL)
    "tags.`cplearn.kind` = 'trial'"
    """
    return f"tags.`{tag}` = '{value}'"


# The tags that say on what a trial ran, and those that a run loses when it goes on after it was stopped.
HARDWARE = (Tag.DEVICE, Tag.DEVICE_NAME, Tag.HOST, Tag.CPUS, Tag.THREADS, Tag.RANKS, Tag.NODE)
END_TAGS = (Tag.FAILURE, Tag.ERROR, Tag.STOPPED_BY, Tag.STOPPED_EPOCH, Tag.COLLAPSE, Tag.DUPLICATE_OF)

# The beginnings of metrics that say nothing of the test data: of each epoch of training, on a part of the training
# data that is held out, of the training data without labels, and of time.
TRAIN, VALIDATION, SELECT, TIME = "train/", "validation/", "select/", "time/"
UNSEEN = (VALIDATION, SELECT, TRAIN)  # A setting may be chosen by these: none has seen the test data.
# So begin the metrics that need labels of the data that a trial was trained on.
NEED_LABELS = (
    "probe/",
    "probe_sgd/",
    "probe_adam/",
    "knn/",
    "codes/",
    "kmeans/",
    VALIDATION,
    f"{TRAIN}online_",
    f"{TRAIN}knn_",
)
LOSS = "train/loss"  # Every epoch of a training has it.
# Seconds of training, of evaluation and of both; the last is written with the final metrics.
TRAIN_SECONDS, EVALUATION_SECONDS, WALL_SECONDS = "time/train_s", "time/evaluation_s", "time/wall_s"

# Metrics of a sweep's run: how many of its trials have ended how, and what its best point has reached.
TRIALS, BEST = "trials/", "best/"

# Artifacts: of a sweep's run its `Manifest` and the reports by data set; of a trial's run the trained model, and what
# figures need beside the metrics.
MANIFEST_FILE, REPORT_FOLDER = "manifest.json", "report"
MODEL_FOLDER, DIAGNOSTICS_FILE, ARRAYS_FILE = "model", "diagnostics.json", "evaluation.npz"
PARAMS = "params."  # So begin the columns of settings in the frames of `reports.store`.


def param_text(value: Any) -> str:
    """A setting's value as the text that runs keep of it.

    >>> param_text(0.5), param_text(None), param_text("digits")
    ('0.5', 'null', 'digits')
    """
    return value if isinstance(value, str) else json.dumps(value, default=str)


def param_value(text: str) -> Any:
    """The setting's value that `param_text` has made a text of. A text that no number is spelled like is a text.

    >>> param_value("0.5"), param_value("null"), param_value("digits"), param_value("1e5")
    (0.5, None, 'digits', '1e5')
    """
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return text
    return value if param_text(value) == text else text


def dataset_slug(written: str, fingerprint: str) -> str:
    """The short name of a data set as a run tells it; for folders of images earlier versions left the digits out.

    >>> dataset_slug("digits", "98fe13"), dataset_slug("folder-birds", "1f3a9c0b")
    ('digits', 'folder-birds-1f3a9c')
    """
    complete = not written.startswith("folder-") or re.search("-[0-9a-f]{6}$", written)
    return written if complete else f"{written}-{fingerprint[:6]}"


@dataclass(frozen=True)
class DatasetUse:
    """A data set as a sweep uses it; `slug` is its short name, which serves as the name of a folder too. `classes` is 0
    where no image has a label; sweeps of earlier versions, whose images all had one, do not say it."""

    name: str
    slug: str
    fingerprint: str
    source: str
    train_images: int
    test_images: int
    channels: int
    image_size: int
    classes: int | None = None

    def profile(self) -> dict[str, int]:
        """The data's size, which runs say of their data; estimates of other runs start from it."""
        return {name: getattr(self, name) for name in ("train_images", "test_images", "channels", "image_size")}


@dataclass(frozen=True)
class ManifestTrial:
    """A trial that a sweep declares: its place in the sweep, and the key under which its run is found."""

    key: str
    dataset: str
    role: str
    label: str
    point: dict[str, Any]
    seed: int


MANIFEST_VERSION = 1


class ManifestError(StoreError):
    """The manifest of a sweep's run cannot be read."""


@dataclass(frozen=True)
class Manifest:
    """What a sweep's run says beyond the runs of its trials, which need not exist yet.

    `axes` maps dotted settings to their values in order, `search` is what the sweep file says of a search, if it does;
    `tables` are written with the sweep's report.
    """

    sweep: str
    description: str
    source: str
    axes: dict[str, list[Any]]
    seeds: list[int]
    datasets: list[DatasetUse]
    trials: list[ManifestTrial]
    search: dict[str, Any] | None = None
    tables: list[str] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        document = {"version": MANIFEST_VERSION, **asdict(self)}
        for key in ("search", "tables"):
            if not document[key]:
                del document[key]
        return document

    @classmethod
    def read(cls, content: bytes, whose: str) -> "Manifest":
        """The manifest whose `to_dict` is `content`, in JSON; raises ManifestError, with `whose` in its sentence."""
        from pydantic import TypeAdapter, ValidationError  # Not above: `cplearn --help` has no use for it.

        try:
            document = read_json(content, "it")
            version = document.get("version") if isinstance(document, dict) else MANIFEST_VERSION
            if version != MANIFEST_VERSION:
                raise ManifestError(
                    f"the manifest of {whose} has version {version!r}, this program reads {MANIFEST_VERSION}; use the "
                    "version of the program that wrote it"
                )
            manifest = TypeAdapter(cls).validate_python(document)
        except ManifestError:
            raise
        except (UserError, ValidationError) as error:
            damage = explain(error, []) if isinstance(error, ValidationError) else error
            raise ManifestError(
                f"the manifest of {whose} is damaged ({damage}); run the sweep again to write it"
            ) from None
        slugs = {use.slug: dataset_slug(use.slug, use.fingerprint) for use in manifest.datasets}
        datasets = [replace(use, slug=slugs[use.slug]) for use in manifest.datasets]
        trials = [replace(trial, dataset=slugs.get(trial.dataset, trial.dataset)) for trial in manifest.trials]
        return replace(manifest, datasets=datasets, trials=trials)


Status = Literal["FINISHED", "FAILED", "KILLED", "RUNNING"]
"""How far a run is, in MLflow's words; a killed one may go on."""

Failure = Literal["", "diverged", "exception", "lost", "memory"]
"""Why a run has failed: the loss is no longer finite, the trial has raised an exception, its worker or node was lost,
memory did not suffice. Empty if it has not."""

TrialState = Literal["new", "reused", "resumable", "failed", "running", "stopped", "diverged"]
STATES: tuple[TrialState, ...] = get_args(TrialState)
LEFT_ALONE: tuple[TrialState, ...] = ("reused", "stopped", "diverged")  # All others are run.


@dataclass(frozen=True)
class TrialRecord:
    """The run that counts for a trial's key: the newest finished one, else the newest.

    `started` is in UTC (ISO 8601), `error` the end of a failure's message, `stopped_by` the sweep and scheduler that
    have stopped it early. `metrics` are the last values of those that were asked for, as far as the run has them.
    """

    key: str
    run_id: str
    status: Status
    sweep: str = ""
    started: str = ""
    failure: Failure = ""
    error: str = ""
    stopped_by: str = ""
    metrics: Mapping[str, float] = field(default_factory=dict)


def state_of(
    record: TrialRecord | None,
    *,
    force: bool = False,
    retry_failed: bool = False,
    stopper: str = "",
    reached: int | None = None,
) -> TrialState:
    """The state of a trial for a sweep, from the run that counts for its key (None: it has no run).

    `force` runs everything anew, `retry_failed` what has diverged too. `stopper` is the sweep's own scheduler: what
    another one has stopped early goes on. `reached` is the last epoch of the trial's checkpoint, if it has one.

    >>> state_of(TrialRecord("k", "r", "FINISHED"))
    'reused'
    >>> state_of(TrialRecord("k", "r", "KILLED"), reached=3)
    'resumable'
    """
    if record and not force:
        if record.status == "FINISHED":
            return "reused"
        if record.status == "KILLED" and stopper and record.stopped_by == stopper:
            return "stopped"
        if record.status == "FAILED" and record.failure == "diverged" and not retry_failed:
            return "diverged"
    if reached is not None and not force:
        return "resumable"
    if record and record.status == "RUNNING":
        return "running"
    return "failed" if record and record.status == "FAILED" else "new"
