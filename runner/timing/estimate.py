"""How long packs take and what their runs leave on disk: from finished runs on this hardware, or from timed steps.

Pure functions over plain records of finished runs (`reports.store.timed_runs`), which the caller brings. A pack's
seconds are `epochs * Timing.epoch + Timing.evaluation`; both are known, in this order,

1. from finished runs of the same kind: equal in every setting that costs time, on the same images, in a pack of the
   same width, on the same processor with the same number of threads;
2. from a calibration (`runner.timing.calibrate`), a few timed steps;
3. from other finished runs of the method on the same processor, scaled by operations and bytes (`cplearn.cost`).

Without any of them the time is unknown, and nothing is made up.
"""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch

from cplearn import cost
from cplearn.config.groups import KEPT_COMPONENTS
from cplearn.config.trial import TrialSettings
from cplearn.errors import InputError
from cplearn.model import Model
from runner.planning.plan import Job
from sweeps.record import DatasetUse, param_text
from sweeps.settings import nested

Record = Mapping[str, Any]
Kind = tuple[str, int]
"""What decides a pack's time, apart from its epochs: images and settings as text, and the number of members."""

FREE = {"epochs", "dataset", "image_size", "optimizer.schedule", "common_random_numbers"}
"""Settings without a say in the time of an epoch. The data set has its say by its images."""

DRAWS = 200
START = 8.0
"""Seconds until the first trial of a sweep trains: start of Ray and of its workers, measured on two CPU cores."""


@dataclass(frozen=True)
class Timing:
    """Seconds of an epoch and of the evaluation of a pack.

    `spread` is the standard deviation of the logarithm among runs of the kind, `doubt` that of what all of them share:
    how far the centre itself may be off. `source` says what it rests on, `runs` on how many.
    """

    epoch: float
    evaluation: float
    spread: float
    doubt: float
    source: Literal["finished runs", "calibration", "similar runs"]
    runs: int

    def seconds(self, epochs: int) -> float:
        """Of a pack that trains for `epochs` and is then evaluated."""
        return epochs * self.epoch + self.evaluation


@dataclass(frozen=True)
class Interval:
    """The 10th, 50th and 90th percentile."""

    low: float
    middle: float
    high: float


@dataclass(frozen=True)
class Estimate:
    """Of a set of packs: `wall` seconds from start to end, `busy` seconds added up over packs; `unknown` packs, whose
    time nothing is known of, are in neither."""

    wall: Interval
    busy: Interval
    unknown: int


def kind(pack: Sequence[Job]) -> Kind:
    """The kind of a pack, by its first member; the others differ in numbers only."""
    return json.dumps([pack[0].fingerprint, _costly(pack[0].trial)], sort_keys=True), len(pack)


def timing(
    pack: Sequence[Job], records: Iterable[Record], hardware: Mapping[str, str], use: DatasetUse
) -> Timing | None:
    """What finished runs say about a pack; None if nothing.

    Of `hardware` every tag that is given must be equal: device, device_name, threads and ranks, or fewer on a cluster.
    """
    # Runs without a number of ranks had one.
    tagged = [(r, {"ranks": "1", **r["tags"]}) for r in records if _timed(r)]
    records = [r for r, tags in tagged if all(tags.get(k) == text for k, text in hardware.items())]
    trial, costly = pack[0].trial, _costly(pack[0].trial)
    same = [
        record
        for record in records
        if record["tags"].get("fingerprint") == pack[0].fingerprint
        and record["tags"].get("pack_width", "1") == str(len(pack))
        and all(record["params"].get(key, text) == text for key, text in costly.items())
    ]
    if same:
        return _timing([_seconds(record) for record in same], "finished runs")
    scaled = [_scaled(record, trial, len(pack), use) for record in records]
    found = [seconds for seconds in scaled if seconds is not None]
    return _timing(found, "similar runs") if found else None


def calibrated(steps: Sequence[float], steps_per_epoch: int, evaluation: float) -> Timing:
    """Of the seconds of single steps and of an evaluation."""
    epoch = statistics.median(steps) * steps_per_epoch if steps else 0.0
    return Timing(epoch, evaluation, _spread(steps, 0.15), 0.25, "calibration", 1)


def simulate(
    packs: Sequence[Sequence[Job]],
    timings: Mapping[Kind, Timing],
    slots: int,
    generator: np.random.Generator,
    reached: Mapping[str, int] | None = None,
) -> Estimate:
    """Time of the packs on `slots` that take the next pack whenever one is free, by `DRAWS` draws from `generator`.

    `reached` maps keys to epochs that need no training any more.
    """
    doubts: dict[Kind, np.ndarray] = {}
    ends, busy, unknown = np.zeros((DRAWS, slots)), np.zeros(DRAWS), 0
    rows = np.arange(DRAWS)
    for pack in packs:
        of_kind = kind(pack)
        known = timings.get(of_kind)
        if known is None:
            unknown += 1
            continue
        if of_kind not in doubts:
            doubts[of_kind] = generator.normal(0, known.doubt, DRAWS)
        factor = np.exp(doubts[of_kind] + generator.normal(0, known.spread, DRAWS))
        seconds = known.seconds(epochs_left(pack, reached or {})) * factor
        busy += seconds
        ends[rows, ends.argmin(axis=1)] += seconds
    wall = ends.max(axis=1)
    wall[wall > 0] += START * np.exp(generator.normal(0, 0.3, DRAWS))[wall > 0]
    return Estimate(_interval(wall), _interval(busy), unknown)


def epochs_left(pack: Sequence[Job], reached: Mapping[str, int]) -> int:
    """Epochs that a pack still has to train: those of the member that has got least far."""
    return pack[0].trial.epochs - min(reached.get(job.key, 0) for job in pack)


def stored_bytes(job: Job, use: DatasetUse) -> int:
    """Bytes that a finished run leaves: its model, laid out without memory, diagnostics, and rows in a SQLite store.

    Raises InputError if its model is too large to exist.
    """
    images = {"channels": use.channels, "image_size": use.image_size, "mean": 0.5, "std": 0.5, "classes": [""] * 10}
    try:
        with torch.device("meta"):
            model = Model([job.trial], images)
    except (RuntimeError, OverflowError, TypeError):
        large = [
            f"{key} {value}" for key, value in job.trial.flat().items() if isinstance(value, int) and value > 10**6
        ]
        raise InputError(f"a model with {' and '.join(large) or 'these settings'} is too large to lay out") from None
    weights = sum(tensor.nbytes + 400 for tensor in model.state_dict().values())
    diagnostics = 20 * (model.method.n_codes + model.backbone.features)
    # Vectors of the kept test images in half precision; labels and codes of all of them, which compress well.
    kept = min(job.trial.evaluation.kept_images, use.test_images)
    vector = min(KEPT_COMPONENTS, model.backbone.features) + job.trial.flat().get("method.embedding_dim", 0)
    arrays = 2 * kept * vector + 3 * use.test_images + 3_000
    # Measured on a store of 10,000 runs with five metrics an epoch.
    rows = 22_500 + 1_400 * job.trial.epochs
    return weights + diagnostics + arrays + rows + 4_000


def _interval(draws: np.ndarray) -> Interval:
    return Interval(*(float(value) for value in np.percentile(draws, [10, 50, 90])))


def _costly(trial: TrialSettings) -> dict[str, str]:
    """The settings that decide a trial's time, spelled as runs keep them."""
    return {key: param_text(value) for key, value in trial.pack_signature().items() if key not in FREE}


def _timed(record: Record) -> bool:
    return "time/train_s" in record["metrics"] and "time/evaluation_s" in record["metrics"]


def _seconds(record: Record) -> tuple[float, float]:
    """Of an epoch and of the evaluation, in a finished run."""
    metrics, epochs = record["metrics"], int(record["params"].get("epochs", 0))
    return metrics["time/train_s"] / epochs if epochs else 0.0, metrics["time/evaluation_s"]


def _timing(found: Sequence[tuple[float, float]], source: Literal["finished runs", "similar runs"]) -> Timing:
    epochs, evaluations = zip(*found, strict=True)
    few = len(found) < 3
    doubt = 0.5 if source == "similar runs" else 0.15 if few else 0.05
    whole = [10 * epoch + evaluation for epoch, evaluation in found]
    spread = 0.15 if few else _spread(whole, 0.03)
    return Timing(statistics.median(epochs), statistics.median(evaluations), spread, doubt, source, len(found))


def _spread(seconds: Sequence[float], least: float) -> float:
    logs = [math.log(value) for value in seconds if value > 0]
    return max(least, statistics.stdev(logs)) if len(logs) > 1 else least


def _scaled(record: Record, trial: TrialSettings, members: int, use: DatasetUse) -> tuple[float, float] | None:
    """Seconds of an epoch and an evaluation of `trial`, from those of another run; None where they do not compare."""
    data = record["data"]
    if not data.keys() >= {"train_images", "test_images", "channels", "image_size"}:
        return None
    try:
        other = TrialSettings.read(nested({key: _value(text) for key, text in record["params"].items()}))
    except InputError:
        return None  # made by another version of this program
    if (other.method.name, other.backbone.name) != (trial.method.name, trial.backbone.name):
        return None
    width = int(record["tags"].get("pack_width", 1))
    epoch, evaluation = _seconds(record)
    images = (use.train_images + use.test_images) / (data["train_images"] + data["test_images"])
    evaluation *= images * members / width
    if not trial.method.trains:
        return 0.0, evaluation
    try:
        mine = _work(trial, use.channels, use.image_size, members) * (use.train_images // trial.batch_size)
        its = _work(other, data["channels"], data["image_size"], width) * (data["train_images"] // other.batch_size)
    except InputError:
        return None  # a backbone, precision or optimiser that the cost model does not know
    return epoch * mine / its, evaluation


def _work(trial: TrialSettings, channels: int, image_size: int, members: int) -> float:
    """Operations of a step, with ten for each byte moved: about what processors do in the time that a byte takes."""
    if trial.method.name != "cplearn" or trial.precision in ("bfloat16", "float16"):
        # The cost model knows one method. Two trials of another still compare by their backbones.
        own = {k: v for k, v in trial.canonical().items() if k not in ("method", "precision")}
        trial = TrialSettings.read({**own, "method": "cplearn", "augment": {"recipe": trial.augment.recipe}})
    whole = cost.step(trial, channels, image_size, members)
    return whole.flops + 10 * whole.bytes


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text
