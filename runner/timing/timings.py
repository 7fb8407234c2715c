"""How long one trial takes: from finished runs of the same kind, or from similar ones by the operations of a step.

A trial takes `epochs * Timing.epoch + Timing.evaluation` seconds. Pure functions over records of finished runs
(`reports.store.timed_runs`), which the caller brings.
"""

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

WITHOUT_EFFECT = {"dataset", "image_size", "seed", "epochs", "optimizer.schedule", "common_random_numbers"}
"""Settings that do not decide the time of an epoch. The images do, and count by the data set's fingerprint."""

FEW_RUNS, CALIBRATED, SIMILAR_RUNS, LEAST_RANGE = 1.3, 1.5, 2.0, 1.05
"""Factors by which a trial's time may be off where one or two runs, a few timed steps, or only similar runs are known;
and by which it may be off at least."""

MOST_SIMILAR = 3
"""Most kinds of similar runs of which operations are counted, since that takes a training step each."""

OPERATION_IMAGES = 4
"""Images of the step whose operations are counted; operations grow with the images, and a large batch takes long."""


@dataclass(frozen=True)
class Timing:
    """Seconds of an epoch and of the evaluation of a trial, and what they rest on.

    Most trials of the kind take between `low` and `high` times these seconds. `runs` says how many were looked at.
    """

    epoch: float
    evaluation: float
    low: float
    high: float
    source: Literal["finished runs", "timed steps", "similar runs"]
    runs: int

    def seconds(self, epochs: int) -> float:
        """Seconds of a trial that trains for so many epochs and is then evaluated."""
        return epochs * self.epoch + self.evaluation


@dataclass(frozen=True)
class TimedTrial:
    """A trial whose time is known: its settings under dotted keys, the size of its data, and its seconds."""

    settings: Mapping[str, Any]
    fingerprint: str
    data: Mapping[str, int]
    epoch: float
    evaluation: float


def timing_key(job: Job) -> TimingKey:
    """The kind of a job."""
    return _key(job.fingerprint, job.trial.flat())


def deciding_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Of dotted settings those that decide a trial's time: all but plain float numbers and those `WITHOUT_EFFECT`.

    >>> deciding_settings({"batch_size": 64, "optimizer.lr": 0.1, "optimizer.clip": None, "seed": 3})
    {'batch_size': 64}
    """
    # None stands for a number that is not used, or for a default that the images decide.
    return {
        key: value
        for key, value in settings.items()
        if key not in WITHOUT_EFFECT and value is not None and not isinstance(value, float)
    }


def timed_trials(records: Iterable[Mapping[str, Any]], hardware: Mapping[str, str]) -> list[TimedTrial]:
    """The finished runs among `records` on the same hardware: of `hardware`, every tag that is given must be equal."""
    trials = []
    for record in records:
        # Older runs: without a number of ranks they had one, and the time of a pack is no trial's time.
        metrics, tags = record["metrics"], {"ranks": "1", "pack_width": "1", **record["tags"]}
        alike = all(tags.get(key) == text for key, text in {**hardware, "pack_width": "1"}.items())
        if alike and {TRAIN_SECONDS, EVALUATION_SECONDS} <= metrics.keys():
            settings = {key: param_value(text) for key, text in record["params"].items()}
            epoch = metrics[TRAIN_SECONDS] / max(settings.get("epochs", 0), 1)
            fingerprint = tags.get("fingerprint", "")
            trials.append(TimedTrial(settings, fingerprint, record["data"], epoch, metrics[EVALUATION_SECONDS]))
    return trials


def timing_of(job: Job, use: DatasetUse, trials: Iterable[TimedTrial]) -> Timing | None:
    """The time of a job by trials of its kind, else by others of its backbone, scaled by operations and images; None if
    there are none."""
    wanted = deciding_settings(job.trial.flat())
    same: list[tuple[float, float]] = []
    similar: dict[str, TimedTrial] = {}
    for trial in trials:
        deciding = deciding_settings(trial.settings)
        # A setting that a run of an older version lacks is taken to be equal.
        equal = deciding.keys() <= wanted.keys() and all(
            deciding.get(key, wanted[key]) == wanted[key] for key in wanted
        )
        if equal and trial.fingerprint == job.fingerprint:
            same.append((trial.epoch, trial.evaluation))
        elif deciding.get("backbone.name") == job.trial.backbone.name:
            similar.setdefault(_key(trial.fingerprint, trial.settings), trial)
    if not same:
        scaled = [_scaled(trial, job.trial, use) for trial in list(similar.values())[:MOST_SIMILAR]]
        seconds = [pair for pair in scaled if pair is not None]
        return _timing(seconds, 1 / SIMILAR_RUNS, SIMILAR_RUNS, "similar runs") if seconds else None
    low, high = 1 / FEW_RUNS, FEW_RUNS
    if len(same) >= 3:
        ends = np.percentile([10 * epoch + evaluation for epoch, evaluation in same], [10, 50, 90])
        low, _, high = (float(end / ends[1]) for end in ends) if ends[1] else (1.0, 1.0, 1.0)
    return _timing(same, min(low, 1 / LEAST_RANGE), max(high, LEAST_RANGE), "finished runs")


def _key(fingerprint: str, settings: Mapping[str, Any]) -> TimingKey:
    return TimingKey(json.dumps([fingerprint, deciding_settings(settings)], sort_keys=True))


def _timing(
    seconds: Sequence[tuple[float, float]], low: float, high: float, source: Literal["finished runs", "similar runs"]
) -> Timing:
    epoch, evaluation = (statistics.median(values) for values in zip(*seconds, strict=True))
    return Timing(epoch, evaluation, low, high, source, len(seconds))


def _scaled(other: TimedTrial, trial: TrialSettings, use: DatasetUse) -> tuple[float, float] | None:
    """Seconds of an epoch and an evaluation of `trial` from those of another; None where they do not compare."""
    try:
        reference, data = TrialSettings.read(nested(dict(other.settings))), other.data
        images = data["train_images"], data["test_images"]
        evaluation = other.evaluation * (use.train_images + use.test_images) / sum(images)
        if not trial.method.trains:
            return 0.0, evaluation
        work = step_operations(trial, use.channels, use.image_size) * use.train_images
        other_work = step_operations(reference, data["channels"], data["image_size"]) * images[0]
    except (InputError, KeyError):
        return None  # The run was made by another version of this program, or its data has another shape.
    return (other.epoch * work / other_work, evaluation) if other_work else None


def step_operations(trial: TrialSettings, channels: int, image_size: int) -> int:
    """Floating-point operations of a training step on a few images of this shape, as torch counts them."""
    few = {**trial.canonical(), "batch_size": OPERATION_IMAGES, "train_images": None, "test_images": None, "seed": 0}
    return _operations(json.dumps(few, sort_keys=True), channels, image_size)


@functools.lru_cache(maxsize=256)
def _operations(settings: str, channels: int, image_size: int) -> int:
    n = 2 * OPERATION_IMAGES
    split = Split(torch.zeros(n, channels, image_size, image_size, dtype=torch.uint8), torch.arange(n) % 2)
    dataset = Dataset("shape", split, split, ("0", "1"), "shape", 0.5, 0.5, "made up")
    return operations(TrialSettings.read(json.loads(settings)), dataset)
