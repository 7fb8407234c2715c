"""Times a few training steps and a part of the evaluation of each kind of trial, beside the process that asks for it.

The timing process is a command of its own: it has the environment of a worker, leaves no threads, memory or random
state behind, and does not import the caller's main module again, as multiprocessing would.
"""

from __future__ import annotations

import contextlib
import io
import itertools
import math
import os
import pickle
import signal
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch

import cplearn.data
from cplearn.data.dataset import limit
from cplearn.errors import InputError
from cplearn.training import TrialTraining
from runner.machine.environment import worker_environment
from runner.planning.plan import Job
from runner.timing.timings import CALIBRATED, Timing, TimingKey, timing_key

STARTING = 120.0
"""Most seconds that the process may take beyond those it is given: on a busy machine its imports alone take half a
minute, and a step that has begun is waited for."""

STEPS = 20
GPU_SHARE = 0.25  # Of its memory, so that trials that start meanwhile have the rest.

PROCESS = [sys.executable, "-P", "-c", "from runner.timing.calibrate import answer_request; answer_request()"]


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
        self.request = pickle.dumps((jobs, hardware, data_root, seconds))
        self.process = subprocess.Popen(
            PROCESS,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=worker_environment(),
            start_new_session=True,  # An interrupt from the keyboard does not reach it.
        )
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
        timings: dict[TimingKey, Timing] = {}
        reasons: list[str] = []
        stream = io.BytesIO(output)
        with contextlib.suppress(EOFError, pickle.UnpicklingError):  # A killed process may leave half an answer.
            while True:
                key, answer = pickle.load(stream)
                if isinstance(answer, Timing):
                    timings[key] = answer
                else:
                    reasons.append(answer)
        status = self.process.returncode
        if len(timings) + len(reasons) == len(self.jobs):
            reasons.append("")
        elif status == -signal.SIGKILL:
            reasons.append("its steps take too long to be timed, or memory is short")
        elif status:
            reasons.append(f"the process that times a few steps ended with status {status}")
        else:
            reasons.append(f"not all kinds can be timed in {self.seconds:g} s")
        if not self.stopped:
            self.done(timings, reasons[0])


def answer_request() -> None:
    """The process of a `Calibration`: its pickled request comes through standard input; to standard output goes a
    pickled pair of key and timing, or of key and reason, for each job."""
    jobs, hardware, data_root, seconds = pickle.load(sys.stdin.buffer)
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "wb", buffering=0)
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # What libraries print is no answer.
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
        answers.write(pickle.dumps((timing_key(job), answer)))
        end = min(end, time.monotonic() + 0.75 * seconds)


def _time(job: Job, hardware: Mapping[str, str], data_root: Path | None, seconds: float) -> Timing:
    """The timing of a job from some of its steps and an evaluation on a part of its images, for `seconds` each."""
    dataset = cplearn.data.load(**job.trial.data_request(), root=data_root)
    training = TrialTraining(job.trial, dataset, hardware["device"], data_root=data_root)
    ends = [time.perf_counter()]
    has_steps = job.trial.method.trains and job.trial.epochs
    for step, (views, labels) in enumerate(training.views.epoch(0) if has_steps else ()):
        loss, _ = training.training_step(views, labels, step)
        loss.item()  # It waits for the device.
        ends.append(time.perf_counter())
        if step == STEPS or ends[-1] - ends[0] > seconds:
            break
    taken = [end - begun for begun, end in itertools.pairwise(ends)]
    # Where there is time for more, the first step does not count.
    step_seconds = statistics.median(taken[1:] or taken or [0.0])
    epoch = step_seconds * training.steps_per_epoch / int(hardware["ranks"])
    return Timing(epoch, _evaluation(training, data_root, seconds), 1 / CALIBRATED, CALIBRATED, "timed steps", 1)


def _evaluation(whole: TrialTraining, data_root: Path | None, seconds: float) -> float:
    """Seconds of an evaluation: of twice as many images each time while there is time, and from there to all images by
    the power of their number that the last two have shown."""
    trial, dataset = whole.trial, whole.dataset

    def measure(images: int) -> float:
        part = limit(dataset, *(min(images, len(split.labels)) for split in (dataset.train, dataset.test)))
        # Nothing is trained, so neither batch nor warm-up has to fit.
        still = trial.optimizer.model_copy(update={"warmup_epochs": 0.0})
        fitting = {"epochs": 0, "batch_size": min(trial.batch_size, len(part.train.images)), "optimizer": still}
        training = TrialTraining(trial.model_copy(update=fitting), part, whole.device, data_root=data_root)
        start = time.perf_counter()
        training.evaluate()
        return time.perf_counter() - start

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
