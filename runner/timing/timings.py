"""How long one trial takes: from finished runs of its kind, from a few steps timed in a process beside the caller's, or
from similar runs by the operations of a step."""

import functools
import itertools
import json
import math
import os
import signal
import statistics
import subprocess
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NewType

import numpy as np
import torch

import cplearn.data
from cplearn.config.trial import TrialSettings
from cplearn.data import Dataset, Split
from cplearn.data.dataset import limit
from cplearn.errors import InputError
from cplearn.training import TrialTraining, operations
from runner.machine.environment import answers, request, start_worker
from runner.planning.plan import Job
from runner.planning.quantities import Interval
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

    def seconds(self, epochs: int) -> Interval:
        """Seconds of a trial that trains for so many epochs and is then evaluated."""
        middle = epochs * self.epoch + self.evaluation
        return Interval(self.low * middle, middle, self.high * middle)


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
    settings = {key: value for key, value in trial.flat().items() if not isinstance(value, float | None)}
    deciding = {key: value for key, value in settings.items() if key not in WITHOUT_EFFECT}
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


STARTING = 120.0
"""Most seconds that the process may take beyond those it is given: on a busy machine its imports alone take half a
minute, and a step that has begun is waited for."""

STEPS = 20
GPU_SHARE = 0.25  # Of its memory, so that trials that start meanwhile have the rest.


class Calibration(threading.Thread):
    """Has these jobs, one of each kind, timed in the background: at least the first, the others until so many `seconds`
    have passed.

    Of trials of several ranks, the steps are timed in one process and divided by the number of ranks. The thread calls
    `done` with the timings, and with a clause that says why some kind has none; it is empty where all have one.
    """

    def __init__(
        self,
        jobs: Sequence[Job],
        hardware: Mapping[str, str],
        data_root: Path | None,
        seconds: float,
        done: Callable[[Mapping[TimingKey, Timing], str], None],
    ) -> None:
        super().__init__(daemon=True)
        self.jobs, self.seconds, self.done, self.stopped = jobs, seconds, done, False
        self.request = request(timed_kinds, jobs, hardware, data_root, seconds)
        self.process = start_worker(quiet=True)
        self.start()

    def stop(self) -> None:
        """End the process at once; `done` is not called any more."""
        self.stopped = True
        self.process.kill()

    def run(self) -> None:
        try:
            output, _ = self.process.communicate(self.request, self.seconds + STARTING)
        except subprocess.TimeoutExpired:
            self.process.kill()
            output, _ = self.process.communicate()
        kinds: dict[TimingKey, Timing | str] = dict(answer for answer, error in answers(output) if not error)
        timings = {key: timing for key, timing in kinds.items() if isinstance(timing, Timing)}
        reasons = [reason for reason in kinds.values() if isinstance(reason, str)]
        status = self.process.returncode
        if len(kinds) == len(self.jobs):
            reasons.append("")
        elif status == -signal.SIGKILL:
            reasons.append("its steps take too long to be timed, or memory is short")
        elif status:
            reasons.append(f"the process that times a few steps ended with status {status}")
        else:
            reasons.append(f"not all kinds can be timed in {self.seconds:g} s")
        if not self.stopped:
            self.done(timings, reasons[0])


def timed_kinds(
    jobs: Sequence[Job], hardware: Mapping[str, str], data_root: Path | None, seconds: float
) -> Iterator[tuple[TimingKey, Timing | str]]:
    """The key of each job with its timing, or with a clause that says why it has none."""
    os.nice(19)  # Ray and the first workers start meanwhile.
    torch.set_num_threads(int(hardware["threads"]))
    if hardware["device"] != "cpu":
        torch.cuda.set_per_process_memory_fraction(GPU_SHARE)
    # Importing has taken its time before the first kind, and the first evaluation imports still more.
    end = math.inf
    for job in jobs:
        if time.monotonic() > end:
            break
        try:
            answer: Timing | str = _time(job, hardware, data_root, min(3.0, seconds / 8))
        except (InputError, RuntimeError) as error:
            answer = f"a step of {job.dataset} {job.name} fails: {(str(error).splitlines() or ['no message'])[0]}"
        yield timing_key(job), answer
        end = min(end, time.monotonic() + 0.75 * seconds)


def _time(job: Job, hardware: Mapping[str, str], data_root: Path | None, seconds: float) -> Timing:
    """The timing of a job from some of its steps and an evaluation on a part of its images, for `seconds` each."""
    dataset = cplearn.data.load(**job.trial.data_request(), root=data_root)
    training = TrialTraining(job.trial, dataset, hardware["device"], data_root=data_root)
    clock = _clock(hardware)
    ends = [clock()]
    has_steps = job.trial.method.trains and job.trial.epochs
    for step, (views, labels) in enumerate(training.views.epoch(0) if has_steps else ()):
        training.training_step(views, labels, step)[0].item()  # It waits for the device.
        ends.append(clock())
        if step == STEPS or ends[-1] - ends[0] > seconds:
            break
    taken = [end - begun for begun, end in itertools.pairwise(ends)]
    # Where there is time for more, the first step does not count.
    step_seconds = statistics.median(taken[1:] or taken or [0.0])
    epoch = step_seconds * training.steps_per_epoch / int(hardware["ranks"])
    return Timing(epoch, _evaluation(training, data_root, seconds, clock), 1 / CALIBRATED, CALIBRATED, "timed steps", 1)


def _clock(hardware: Mapping[str, str]) -> Callable[[], float]:
    """The clock that times steps: on a CPU seconds that this thread computes, since other work of the sweep's start may
    take turns with it."""
    return time.thread_time if hardware["device"] == "cpu" else time.perf_counter


def _evaluation(whole: TrialTraining, data_root: Path | None, seconds: float, clock: Callable[[], float]) -> float:
    """Seconds of an evaluation: of twice as many images each time while there is time, and from there to all images by
    the power of their number that the last two have shown."""
    trial, dataset = whole.trial, whole.dataset

    def measure(images: int) -> float:
        part = limit(dataset, *(min(images, len(split.labels)) for split in (dataset.train, dataset.test)))
        # Nothing is trained, so neither batch nor warm-up has to fit.
        still = trial.optimizer.model_copy(update={"warmup_epochs": 0.0})
        fitting = {"epochs": 0, "batch_size": min(trial.batch_size, len(part.train.images)), "optimizer": still}
        training = TrialTraining(trial.model_copy(update=fitting), part, whole.device, data_root=data_root)
        start = clock()
        training.evaluate()
        return clock() - start

    most = max(len(dataset.train.images), len(dataset.test.images))
    images = min(max(10 * dataset.n_classes, *trial.evaluation.gmm_components, 100), most)
    measure(images)  # The first evaluation of a process imports what it computes with.
    taken = [measure(images)]
    while images < most and (len(taken) == 1 or sum(taken) + 2 * taken[-1] <= seconds):
        images = min(2 * images, most)
        taken.append(measure(images))
    if images == most:
        return taken[-1]
    # k-NN grows with the square of the images, the rest linearly.
    power = min(max(math.log2(taken[-1] / taken[-2]), 1.0), 2.0)
    return taken[-1] * (most / images) ** power
