"""From a sweep to jobs: trials that know their data, their key and their place, checked before anything starts; and
their states: which have finished, can go on, or are new."""

import json
import math
import os
import shlex
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cplearn.data
from cplearn import outside, training
from cplearn.config import trial as config
from cplearn.data import catalogue
from cplearn.errors import InputError
from cplearn.evaluate import protocol
from runner.planning import criteria
from sweeps import spec
from sweeps.collapse import Sizes, StopRule
from sweeps.errors import UserError
from sweeps.file import CollapseSettings, SchedulerSettings
from sweeps.loading import parse
from sweeps.record import BASELINE, LEFT_ALONE, DatasetUse, Manifest, ManifestTrial, TrialRecord, TrialState, state_of
from sweeps.settings import sweep_key, trial_key


@dataclass(frozen=True)
class Job:
    """A trial to be run: what, on which data, and under which key its result is kept."""

    key: str
    trial: config.TrialSettings
    dataset: str
    fingerprint: str
    role: str
    label: str
    point: dict[str, Any]
    transfer: tuple[tuple[str, str], ...] = ()  # Name and fingerprint of each data set of `evaluation.transfer`.
    stop_rule: StopRule | None = None
    """When it is stopped on collapse; None: never, as baselines, what learns from labels and what is not watched."""

    @property
    def name(self) -> str:
        """Short text for listings, `beta=0.1 seed=0` for instance."""
        return f"{self.label} seed={self.trial.seed}".strip()


@dataclass(frozen=True)
class Plan:
    """A sweep with its data, ready to run."""

    sweep: spec.Sweep
    key: str
    datasets: list[DatasetUse]
    jobs: list[Job]
    modules: list[str]  # The code from outside that trials name by a module, as paths: other machines do not have it.
    make: Callable[[spec.SweepTrial], Job] = field(repr=False)
    """The job of a further trial, one that a search suggests; raises InputError where the trial does not fit its
    data."""

    def add(self, jobs: Iterable[Job]) -> None:
        """Take up trials that a search has suggested; one that is there already stays where it is."""
        keys = {job.key for job in self.jobs}
        self.jobs.extend(job for job in jobs if job.key not in keys)

    def use_of(self, job: Job) -> DatasetUse:
        """The data set of a job."""
        return next(use for use in self.datasets if use.fingerprint == job.fingerprint)

    @property
    def stopper(self) -> str:
        """Who stops trials early, empty if nobody: under another name or another rule the same trial may go on."""
        return f"{self.sweep.name}: {self.sweep.scheduler}" if self.sweep.scheduler else ""

    def shared(self) -> dict[str, Any]:
        """The settings that all trials have in common, baselines aside, by their dotted names."""
        flats = [job.trial.flat() for job in self.jobs if job.role != BASELINE]
        first, varied = flats[0] if flats else {}, {"seed", *self.axes()}
        alike = {key for key in first.keys() - varied if all(flat.get(key, ...) == first[key] for flat in flats)}
        return {key: value for key, value in first.items() if key in alike}

    def axes(self) -> dict[str, list[Any]]:
        """The values of each axis in their order; those of a search are the ones it has suggested."""
        if self.sweep.space is None:
            return self.sweep.axes
        axes: dict[str, list[Any]] = {}
        for key in self.sweep.space.axes:
            values = dict.fromkeys(job.point[key] for job in self.jobs if key in job.point)
            axes[key] = sorted(values, key=lambda value: (isinstance(value, str), value is None, value))
        return axes

    def manifest(self) -> Manifest:
        """What a report needs to know about the sweep beyond the runs: axes, seeds, and the keys of its trials."""
        sweep = self.sweep
        trials = [ManifestTrial(j.key, j.dataset, j.role, j.label, j.point, j.trial.seed) for j in self.jobs]
        return Manifest(
            sweep=sweep.name,
            description=sweep.description,
            source=sweep.source,
            axes=self.axes(),
            seeds=sweep.seeds,
            datasets=self.datasets,
            trials=trials,
            search=sweep.search.model_dump() if sweep.search else None,
            tables=sweep.tables,
        )


SCHEMA = spec.Schema(
    lambda settings: config.TrialSettings.read(_absolute(settings)), config.TrialSettings.flat, config.list_keys()
)
"""What `sweeps` must know of a trial's settings; the two packages meet only here."""


def make_plan(sweep: spec.Sweep, data_root: Path | None = None, ranks: int = 1) -> Plan:
    """The plan of a sweep whose trials run in so many processes each. Fetches and decodes the data sets where that has
    not been done.

    Raises InputError if a data set is not to be had, if a trial does not fit it or cannot be split among the processes,
    and if trials do not have the metrics that a search or a scheduler goes by.
    """
    datasets: dict[tuple[Any, ...], cplearn.data.Dataset] = {}

    def make(declared: spec.SweepTrial) -> Job:
        trial: config.TrialSettings = declared.settings
        request = trial.data_request()
        use = tuple(request.values())
        if use not in datasets:
            datasets[use] = cplearn.data.load(**request, root=data_root)
            if not datasets[use].classes:
                criteria.check_without_labels(sweep, datasets[use].name)
        training.check(trial, datasets[use], ranks)
        others = protocol.load_transfer(trial, datasets[use].image_size, data_root)
        identity = trial.identity() | trial.code_from_outside()
        if others:
            identity["evaluation.transfer"] = sorted([_name_in_keys(other.name), other.fingerprint] for other in others)
        return Job(
            key=trial_key(identity, datasets[use].fingerprint, config.NUMERICS),
            trial=trial,
            dataset=datasets[use].slug,
            fingerprint=datasets[use].fingerprint,
            role=declared.role,
            label=declared.label,
            point=declared.point,
            transfer=tuple((other.name, other.fingerprint) for other in others),
            stop_rule=_stop_rule(sweep.scheduler, declared, datasets[use]),
        )

    jobs: dict[str, Job] = {}
    for job in map(make, sweep.trials):
        jobs.setdefault(job.key, job)
    checked = [job.trial for job in jobs.values() if job.role != "baseline"]
    if sweep.space and sweep.search:
        for dataset in sweep.space.datasets:
            for probe in sweep.space.probes(dataset, sweep.seeds[0]):
                job = make(probe)
                checked.append(job.trial)
                criteria.check_objectives(sweep.search.objectives, job.trial, job.transfer)
    if sweep.scheduler:
        criteria.check_scheduler(sweep.scheduler, checked)
    uses = {}
    names: dict[str, str] = {}
    for (name, *_), data in datasets.items():
        for mark in (data.fingerprint, data.slug):
            if names.setdefault(mark, name) != name:
                raise InputError(
                    f"{names[mark]} and {name} hold the same images, so they are one data set twice; leave one out"
                )
        size = (len(data.train.images), len(data.test.images), data.channels, data.image_size)
        uses[data.fingerprint] = DatasetUse(name, data.slug, data.fingerprint, data.source, *size, data.n_classes)
    shared = json.loads(json.dumps(sweep.shared))
    key = sweep_key(sweep.name, _absolute(shared), list(uses))
    everyone = [*checked, *(job.trial for job in jobs.values())]
    named = {name.rpartition(" ")[2] for trial in everyone for name in trial.code_from_outside()}
    return Plan(sweep, key, list(uses.values()), list(jobs.values()), outside.paths(named), make)


def _stop_rule(
    scheduler: SchedulerSettings | None, declared: spec.SweepTrial, dataset: cplearn.data.Dataset
) -> StopRule | None:
    trial: config.TrialSettings = declared.settings
    method, images = trial.method, trial.evaluation.watch_images
    watched = images and method.trains and not method.supervised and declared.role != BASELINE
    if not isinstance(scheduler, CollapseSettings) or not watched:
        return None
    # Where a method has no such setting (GEDI), its embedding is the projector's hidden layer.
    dimensions = getattr(method, "embedding_dim", getattr(method, "hidden_dim", math.nan))
    images = min(images, len(dataset.train.images))
    sizes = Sizes(dataset.n_classes, getattr(method, "codes", math.nan), dimensions, images)
    return StopRule(scheduler.kinds, scheduler.patience, scheduler.grace, trial.epochs, sizes)


def _name_in_keys(name: str) -> str:
    """The name of another data set in a trial's key: what is in it counts beside it, not where a folder lies."""
    family, colon, path = name.partition(":")
    return catalogue.slug(f"{family}:{os.path.realpath(path)}" if colon else family)


def _absolute(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings whose folders of images are named from the root, so that every worker finds them."""

    def absolute(name: Any) -> Any:
        return catalogue.absolute(name) if isinstance(name, str) else name

    resolved = dict(settings)
    if "dataset" in resolved:
        resolved["dataset"] = absolute(resolved["dataset"])
    evaluation = resolved.get("evaluation")
    if isinstance(evaluation, Mapping) and isinstance(evaluation.get("transfer"), list):
        resolved["evaluation"] = {**evaluation, "transfer": [absolute(name) for name in evaluation["transfer"]]}
    return resolved


def command(trial: config.TrialSettings) -> str:
    """The command that runs one trial alone, in one process: its data set and what differs from the defaults."""
    given = ["--dataset", trial.dataset]
    for key, value in sorted(trial.identity().items()):
        if key != "dataset":
            bare = isinstance(value, str) and _is_itself(value)
            given += ["--set", f"{key}={value if bare else json.dumps(value)}"]
    return shlex.join(["cplearn", "train", *given])


def _is_itself(word: str) -> bool:
    """Whether YAML takes a word without quotes for itself, not for a number or a list, say."""
    try:
        return parse(word, word) == word
    except UserError:
        return False


@dataclass(frozen=True)
class Surveyed:
    """A job, its state in the store, and a word on it: the sweep it is reused from, the end of a failure's message."""

    job: Job
    state: TrialState
    detail: str

    @property
    def is_left(self) -> bool:
        """Whether the trial is still to be run."""
        return self.state not in LEFT_ALONE


@dataclass(frozen=True)
class Searched:
    """How far the search on a data set is: `done` of its suggestions have ended, `asked` are known, of `trials`."""

    dataset: str
    study: str
    trials: int
    asked: int
    done: int

    def __str__(self) -> str:
        state = f"study {self.study}: {self.done} done" if self.study else "no study yet"
        begun = f", {self.asked - self.done} begun" if self.asked > self.done else ""
        return (
            f"Search on {self.dataset}: {self.trials} trials in all ({state}{begun}); "
            f"{max(0, self.trials - self.asked)} are still to be suggested."
        )


def survey(
    jobs: Sequence[Job],
    records: Mapping[str, TrialRecord],
    reached: Mapping[str, int],
    *,
    force: bool = False,
    retry_failed: bool = False,
    stopper: str = "",
) -> list[Surveyed]:
    """Each job with its state (see `sweeps.record.state_of`), from the records and the epochs of checkpoints by key."""
    surveyed = []
    for job in jobs:
        record, epoch = records.get(job.key), reached.get(job.key)
        state = state_of(record, force=force, retry_failed=retry_failed, stopper=stopper, reached=epoch)
        details = {"resumable": f"at epoch {epoch} of {job.trial.epochs}"}
        if record:
            details["stopped"] = "early, by this sweep's scheduler"
            details["reused"] = f"from {record.sweep}"
            details["running"] = f"in {record.sweep} since {record.started}, or lost"
            details["failed"] = (record.error.strip().splitlines() or ["without a message"])[-1]
            details["diverged"] = details["failed"]
        surveyed.append(Surveyed(job, state, details.get(state, "")))
    return surveyed
