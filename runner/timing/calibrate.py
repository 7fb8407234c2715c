"""Times a few training steps and a part of the evaluation of a pack on this machine; keeps nothing of it."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from pathlib import Path

import torch

import cplearn.data
from cplearn.data import Dataset
from cplearn.data.subset import limit
from cplearn.errors import InputError
from cplearn.training import Pack
from runner.machine.environment import WorkerLost, in_worker
from runner.planning.plan import Job
from runner.timing.estimate import Kind, Timing, calibrated, kind

SECONDS = 3.0
"""For the steps of one kind of pack, after a first step that does not count."""

STEPS = 20
IMAGES = 1_000
"""Of each split, at most, in an evaluation that is timed; more where there are many classes."""


def calibrate(
    packs: Sequence[Sequence[Job]], device: str, threads: int, data_root: Path | None, limit: float = 60.0
) -> dict[Kind, Timing]:
    """Timings of the kinds among `packs`, at least of the first, until `limit` seconds have passed.

    They are taken in a process like that of a trial, with `threads` threads. Raises InputError where a trial's data
    cannot be used, or the process is lost.
    """
    try:
        return in_worker(_calibrate_all, packs, device, threads, data_root, limit)
    except WorkerLost as error:
        raise InputError(f"the calibration ended without a result: {error}; plan without --calibrate") from None


def _calibrate_all(
    packs: Sequence[Sequence[Job]], device: str, threads: int, data_root: Path | None, limit: float
) -> dict[Kind, Timing]:
    end = time.monotonic() + limit
    torch.set_num_threads(threads)
    found: dict[Kind, Timing] = {}
    for pack in packs:
        if kind(pack) not in found and (not found or time.monotonic() < end):
            found[kind(pack)] = _calibrate(pack, device, data_root)
    return found


def _calibrate(jobs: Sequence[Job], device: str, data_root: Path | None) -> Timing:
    trials = [job.trial for job in jobs]
    dataset = cplearn.data.load(**trials[0].data_request(), root=data_root)
    pack = Pack(trials, dataset, device, data_root=data_root)
    steps = _steps(pack) if trials[0].method.trains and trials[0].epochs else []
    return calibrated(steps, pack.steps_per_epoch, len(jobs) * _evaluation(jobs[0], dataset, device))


def _steps(pack: Pack) -> list[float]:
    taken: list[float] = []
    begun = time.perf_counter()
    for step, (views, labels) in enumerate(pack.views.epoch(0)):
        loss, _ = pack._step(views, labels, step)
        loss.tolist()  # waits for the device
        now = time.perf_counter()
        taken.append(now - begun)
        begun = now
        if len(taken) > STEPS or (len(taken) > 1 and sum(taken[1:]) > SECONDS):
            break
    return taken[1:] or taken


def _evaluation(job: Job, dataset: Dataset, device: str) -> float:
    """Seconds of one member's evaluation: measured on some images of each split and on half of them, and from there to
    all by the power of the number that the two have shown."""
    whole = max(len(dataset.train.images), len(dataset.test.images))
    some = min(max(IMAGES, 10 * dataset.n_classes), whole)
    # The first evaluation of a process imports what it computes with.
    _evaluate(job, dataset, device, max(10 * dataset.n_classes, *job.trial.evaluation.gmm_components, 0))
    measured = _evaluate(job, dataset, device, some)
    if some == whole:
        return measured
    # k-NN grows with the square, the rest linearly.
    power = min(max(math.log2(measured / _evaluate(job, dataset, device, some // 2)), 1.0), 2.0)
    return measured * (whole / some) ** power


def _evaluate(job: Job, dataset: Dataset, device: str, images: int) -> float:
    smaller = limit(dataset, *(min(images, len(split.labels)) for split in (dataset.train, dataset.test)))
    # Nothing is trained, so neither batch nor warm-up has to fit.
    still = job.trial.optimizer.model_copy(update={"warmup_epochs": 0.0})
    fitting = {"epochs": 0, "batch_size": min(job.trial.batch_size, len(smaller.train.images)), "optimizer": still}
    pack = Pack([job.trial.model_copy(update=fitting)], smaller, device)
    start = time.perf_counter()
    pack.evaluate()
    return time.perf_counter() - start
