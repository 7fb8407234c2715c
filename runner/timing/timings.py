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

from cplearn.config.trial import TrialSettings
from cplearn.errors import InputError
from runner.planning.plan import Job
from sweeps.record import DatasetUse, param_value
from sweeps.settings import nested

TimingKey = NewType("TimingKey", str)
"""What decides a trial's time apart from its epochs, as text: the images and some settings. Trials of one key are of
one kind."""

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

    @functools.cached_property
    def deciding(self) -> dict[str, Any]:
        return deciding_settings(self.settings)


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


def timing_key(job: Job) -> TimingKey:
    """The kind of a job."""
    return TimingKey(json.dumps([job.fingerprint, deciding_settings(job.trial.flat())], sort_keys=True))


def timed_trials(records: Iterable[Mapping[str, Any]], hardware: Mapping[str, str]) -> list[TimedTrial]:
    """The finished runs among `records` on the same hardware: of `hardware`, every tag that is given must be equal."""
    trials = []
    for record in records:
        metrics = record["metrics"]
        # Older runs: without a number of ranks they had one, and the time of a pack is no trial's time.
        tags = {"ranks": "1", "pack_width": "1", **record["tags"]}
        if not {"time/train_s", "time/evaluation_s"} <= metrics.keys() or tags["pack_width"] != "1":
            continue
        if all(tags.get(key) == text for key, text in hardware.items()):
            settings = {key: param_value(text) for key, text in record["params"].items()}
            epochs = settings.get("epochs") or 0
            epoch = metrics["time/train_s"] / epochs if epochs else 0.0
            fingerprint = tags.get("fingerprint", "")
            trials.append(TimedTrial(settings, fingerprint, record["data"], epoch, metrics["time/evaluation_s"]))
    return trials


def same_timing(job: Job, trials: Iterable[TimedTrial]) -> Timing | None:
    """The time of a job by trials of its kind; None if there is none."""
    deciding = deciding_settings(job.trial.flat())
    same = [trial for trial in trials if trial.fingerprint == job.fingerprint and _equal(trial.deciding, deciding)]
    return _summary([(trial.epoch, trial.evaluation) for trial in same], "finished runs") if same else None


def similar_timing(job: Job, use: DatasetUse, trials: Iterable[TimedTrial]) -> Timing | None:
    """The time of a job by other trials of its backbone, scaled by operations and images; None if there is none."""
    kinds: dict[str, TimedTrial] = {}
    for trial in trials:
        if trial.settings.get("backbone.name") == job.trial.backbone.name and trial.data.keys() >= set(SHAPE):
            kinds.setdefault(json.dumps([trial.fingerprint, trial.deciding], sort_keys=True), trial)
    scaled = [_scaled(trial, job.trial, use) for trial in list(kinds.values())[:MOST_SIMILAR]]
    seconds = [pair for pair in scaled if pair is not None]
    return _summary(seconds, "similar runs") if seconds else None


def _equal(recorded: Mapping[str, Any], wanted: Mapping[str, Any]) -> bool:
    """Whether two trials are of one kind; a setting that a run of an older version lacks is taken to be equal."""
    return recorded.keys() <= wanted.keys() and all(recorded.get(key, value) == value for key, value in wanted.items())


def _summary(
    seconds: Sequence[tuple[float, float]], source: Literal["finished runs", "timed steps", "similar runs"]
) -> Timing:
    epoch, evaluation = (statistics.median(values) for values in zip(*seconds, strict=True))
    low, high = 1 / FEW_RUNS, FEW_RUNS
    if source == "similar runs":
        low, high = 1 / SIMILAR_RUNS, SIMILAR_RUNS
    elif len(seconds) >= 3:
        low, middle, high = np.percentile([10 * epoch + evaluation for epoch, evaluation in seconds], [10, 50, 90])
        low, high = (float(value / middle) if middle else 1.0 for value in (low, high))
    return Timing(epoch, evaluation, min(low, 1 / LEAST_RANGE), max(high, LEAST_RANGE), source, len(seconds))


SHAPE = ("train_images", "test_images", "channels", "image_size")


def _scaled(other: TimedTrial, trial: TrialSettings, use: DatasetUse) -> tuple[float, float] | None:
    """Seconds of an epoch and an evaluation of `trial` from those of another; None where they do not compare."""
    data = other.data
    evaluation = other.evaluation * (use.train_images + use.test_images) / (data["train_images"] + data["test_images"])
    if not trial.method.trains:
        return 0.0, evaluation
    try:
        reference = TrialSettings.read(nested(dict(other.settings)))
        if not reference.method.trains or not other.epoch:
            return None
        work = step_operations(trial, use.channels, use.image_size) * use.train_images
        known_work = step_operations(reference, data["channels"], data["image_size"]) * data["train_images"]
    except InputError:
        return None  # The run was made by another version of this program, or its data has another shape.
    return (other.epoch * work / known_work, evaluation) if known_work else None


def step_operations(trial: TrialSettings, channels: int, image_size: int) -> int:
    """Floating-point operations of a training step on a few images of this shape, as torch counts them."""
    few = {**trial.canonical(), "batch_size": OPERATION_IMAGES, "train_images": None, "test_images": None}
    return _operations(json.dumps(few | {"seed": 0}, sort_keys=True), channels, image_size)


@functools.lru_cache(maxsize=256)
def _operations(settings: str, channels: int, image_size: int) -> int:
    import torch

    from cplearn.data import Dataset, Split
    from cplearn.training import footprint

    n = 2 * OPERATION_IMAGES
    split = Split(torch.zeros(n, channels, image_size, image_size, dtype=torch.uint8), torch.arange(n) % 2)
    dataset = Dataset("shape", split, split, ("0", "1"), "shape", 0.5, 0.5, "made up")
    return footprint(TrialSettings.read(json.loads(settings)), dataset).operations
