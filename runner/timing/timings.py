"""How long one trial takes: from finished runs of the same kind, or from similar ones by the operations of a step."""

from __future__ import annotations

import functools
import json
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NewType

import numpy as np
import torch

from cplearn.config.trial import TrialSettings
from cplearn.data import Dataset, Split
from cplearn.errors import InputError
from cplearn.training import operations
from runner.planning.plan import Job
from sweeps.record import EVALUATION_SECONDS, TRAIN_SECONDS, DatasetUse, param_value
from sweeps.settings import nested

TimingKey = NewType("TimingKey", str)
"""What decides a trial's time apart from its epochs, as text; trials of one key are of one kind."""

TimingSource = Literal["finished runs", "timed steps", "similar runs"]

WITHOUT_EFFECT = {"dataset", "image_size", "seed", "epochs", "optimizer.schedule", "common_random_numbers"}
"""Settings that do not decide the time of an epoch. The images do, and count by the data set's fingerprint."""

FEW_RUNS, CALIBRATED, SIMILAR_RUNS, LEAST_RANGE = 1.3, 1.5, 2.0, 1.05
"""Factors by which a trial's time may be off where one or two runs, a few timed steps, or only similar runs are known;
and by which it may be off at least."""

MOST_SIMILAR = 3  # Kinds of similar runs of which operations are counted, which takes a training step each.
OPERATION_IMAGES = 4  # Images of that step; operations grow with the images, and a large batch takes long.


@dataclass(frozen=True)
class Timing:
    """Seconds of an epoch and of the evaluation of a trial, and what they rest on.

    Most trials of the kind take between `low` and `high` times these seconds. `runs` says how many were looked at.
    """

    epoch: float
    evaluation: float
    low: float
    high: float
    source: TimingSource
    runs: int

    def seconds(self, epochs: int) -> float:
        """Seconds of a trial that trains for so many epochs and is then evaluated."""
        return epochs * self.epoch + self.evaluation


@dataclass(frozen=True)
class TimedTrial:
    """A trial whose time is known: its kind, its settings, the size of its data, and its seconds."""

    key: TimingKey
    trial: TrialSettings
    data: Mapping[str, int]
    epoch: float
    evaluation: float


def timing_key(job: Job) -> TimingKey:
    """The kind of a job."""
    return _key(job.trial, job.fingerprint)


def _key(trial: TrialSettings, fingerprint: str) -> TimingKey:
    # None stands for a number that is not used, or for a default that the images decide.
    deciding = {
        key: value
        for key, value in trial.flat().items()
        if key not in WITHOUT_EFFECT and value is not None and not isinstance(value, float)
    }
    return TimingKey(json.dumps([fingerprint, deciding], sort_keys=True))


def timed_trials(records: Iterable[Mapping[str, Any]], hardware: Mapping[str, str]) -> list[TimedTrial]:
    """The finished runs among `records` (see `reports.store.timed_runs`) on hardware with all of these tags."""
    trials = []
    for record in records:
        metrics, tags = record["metrics"], record["tags"]
        if not (hardware.items() <= tags.items() and {TRAIN_SECONDS, EVALUATION_SECONDS} <= metrics.keys()):
            continue
        try:
            trial = TrialSettings.read(nested({key: param_value(text) for key, text in record["params"].items()}))
        except InputError:
            continue  # Another version of this program made the run.
        epoch = metrics[TRAIN_SECONDS] / max(trial.epochs, 1)
        key = _key(trial, tags["fingerprint"])
        trials.append(TimedTrial(key, trial, record["data"], epoch, metrics[EVALUATION_SECONDS]))
    return trials


def timing_of(job: Job, use: DatasetUse, trials: Sequence[TimedTrial]) -> Timing | None:
    """The time of a job by trials of its kind, else by others of its backbone, scaled by operations and images; None if
    there are none."""
    key = timing_key(job)
    source: TimingSource = "finished runs"
    low, high = 1 / FEW_RUNS, FEW_RUNS
    seconds = [(trial.epoch, trial.evaluation) for trial in trials if trial.key == key]
    if len(seconds) >= 3:
        ends = np.percentile([10 * epoch + evaluation for epoch, evaluation in seconds], [10, 50, 90])
        low, high = min(float(ends[0] / ends[1]), 1 / LEAST_RANGE), max(float(ends[2] / ends[1]), LEAST_RANGE)
    elif not seconds:
        source, low, high = "similar runs", 1 / SIMILAR_RUNS, SIMILAR_RUNS
        similar: dict[TimingKey, TimedTrial] = {}
        for trial in trials:
            if trial.data and trial.trial.backbone.name == job.trial.backbone.name:
                similar.setdefault(trial.key, trial)
        scaled = [_scaled(trial, job.trial, use) for trial in list(similar.values())[:MOST_SIMILAR]]
        seconds = [pair for pair in scaled if pair is not None]
    if not seconds:
        return None
    epoch, evaluation = (statistics.median(values) for values in zip(*seconds, strict=True))
    return Timing(epoch, evaluation, low, high, source, len(seconds))


def _scaled(other: TimedTrial, trial: TrialSettings, use: DatasetUse) -> tuple[float, float] | None:
    """Seconds of an epoch and an evaluation of `trial` from those of another; None where they do not compare."""
    images = other.data["train_images"] + other.data["test_images"]
    evaluation = other.evaluation * (use.train_images + use.test_images) / images
    if not trial.method.trains:
        return 0.0, evaluation
    try:
        work, other_work = (
            _step_operations(json.dumps(settings.canonical()), data["channels"], data["image_size"])
            * data["train_images"]
            for settings, data in ((trial, use.profile()), (other.trial, other.data))
        )
    except InputError:
        return None  # A step of few images is not possible, or the data has another shape.
    return (other.epoch * work / other_work, evaluation) if other_work else None


@functools.lru_cache(maxsize=256)
def _step_operations(settings: str, channels: int, image_size: int) -> int:
    """Floating-point operations of a training step on a few images of this shape, as torch counts them."""
    few = {"batch_size": OPERATION_IMAGES, "train_images": None, "test_images": None}
    n = 2 * OPERATION_IMAGES
    split = Split(torch.zeros(n, channels, image_size, image_size, dtype=torch.uint8), torch.arange(n) % 2)
    dataset = Dataset("shape", split, split, ("0", "1"), "shape", 0.5, 0.5, "made up")
    return operations(TrialSettings.read({**json.loads(settings), **few}), dataset)
