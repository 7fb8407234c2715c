"""Times a few training steps and a part of the evaluation of each kind of trial; run as a process of its own.

Standard input has the pickled request of `runner.timing.calibrate`; the answers go to standard output, a pickled pair
of key and timing, or of key and reason, for each kind.
"""

from __future__ import annotations

import math
import os
import pickle
import statistics
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

import cplearn.data
from cplearn.data import Dataset
from cplearn.data.subset import limit
from cplearn.errors import InputError
from cplearn.training import TrialTraining
from runner.planning.plan import Job
from runner.timing.timings import CALIBRATED, Timing, timing_key

STEPS = 20
GPU_SHARE = 0.25
"""Part of a GPU's memory that may be taken, so that trials that start meanwhile have the rest."""


def main() -> None:
    request: dict[str, Any] = pickle.load(sys.stdin.buffer)
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # What libraries print is no answer.
    hardware: dict[str, str] = request["hardware"]
    torch.set_num_threads(int(hardware["threads"]))
    if hardware["device"] != "cpu":
        torch.cuda.set_per_process_memory_fraction(GPU_SHARE)
    # Importing has taken its time before the first kind, and the first evaluation imports still more.
    end = None
    for job in request["jobs"]:
        if end and time.monotonic() > end:
            break
        try:
            each = min(3.0, request["seconds"] / 8)
            answer: Timing | str = time_steps(job, hardware, request["data_root"], each)
        except (InputError, RuntimeError) as error:
            answer = f"a step of {job.dataset} {job.name} fails: {(str(error).splitlines() or ['no message'])[0]}"
        pickle.dump((timing_key(job), answer), answers)
        answers.flush()
        end = end or time.monotonic() + 0.75 * request["seconds"]


def time_steps(job: Job, hardware: Mapping[str, str], data_root: Path | None, seconds: float) -> Timing:
    """The timing of a job from some of its steps and an evaluation on a part of its images, for `seconds` each."""
    device = hardware["device"]
    dataset = cplearn.data.load(**job.trial.data_request(), root=data_root)
    training = TrialTraining(job.trial, dataset, device, data_root=data_root)
    steps = _steps(training, seconds) if job.trial.method.trains and job.trial.epochs else [0.0]
    epoch = statistics.median(steps) * training.steps_per_epoch / int(hardware["ranks"])
    evaluation = _evaluation(job, dataset, device, data_root, seconds)
    return Timing(epoch, evaluation, 1 / CALIBRATED, CALIBRATED, "timed steps", 1)


def _steps(training: TrialTraining, seconds: float) -> list[float]:
    """Seconds of single steps, without the first where there is time for more."""
    taken: list[float] = []
    begun = time.perf_counter()
    for step, (views, labels) in enumerate(training.views.epoch(0)):
        loss, _ = training.training_step(views, labels, step)
        loss.item()  # It waits for the device.
        now = time.perf_counter()
        taken.append(now - begun)
        begun = now
        if len(taken) > STEPS or sum(taken) > seconds:
            break
    return taken[1:] or taken


def _evaluation(job: Job, dataset: Dataset, device: str, data_root: Path | None, seconds: float) -> float:
    """Seconds of an evaluation: of twice as many images each time while there is time, and from there to all images by
    the power of their number that the last two have shown."""
    whole = max(len(dataset.train.images), len(dataset.test.images))
    images = min(max(10 * dataset.n_classes, *job.trial.evaluation.gmm_components, 100), whole)
    # The first evaluation of a process imports what it computes with.
    _evaluate(job, dataset, device, data_root, images)
    before = spent = 0.0
    while True:
        measured = _evaluate(job, dataset, device, data_root, images)
        spent += measured
        if images >= whole:
            return measured
        if before and spent + 2 * measured > seconds:
            # k-NN grows with the square of the images, the rest linearly.
            power = min(max(math.log2(measured / before), 1.0), 2.0)
            return measured * (whole / images) ** power
        before, images = measured, min(2 * images, whole)


def _evaluate(job: Job, dataset: Dataset, device: str, data_root: Path | None, images: int) -> float:
    smaller = limit(dataset, *(min(images, len(split.labels)) for split in (dataset.train, dataset.test)))
    # Nothing is trained, so neither batch nor warm-up has to fit.
    still = job.trial.optimizer.model_copy(update={"warmup_epochs": 0.0})
    fitting = {"epochs": 0, "batch_size": min(job.trial.batch_size, len(smaller.train.images)), "optimizer": still}
    training = TrialTraining(job.trial.model_copy(update=fitting), smaller, device, data_root=data_root)
    start = time.perf_counter()
    training.evaluate()
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
