"""Training on a CUDA device: steps a second and kernels that a step starts."""

from __future__ import annotations

import torch
from torch.profiler import ProfilerActivity, profile

from benchmarks.measure import Measured, Part, seconds
from cplearn import data
from cplearn.config.trial import TrialSettings
from cplearn.training import TrialTraining
from runner.machine.environment import in_worker

UNTRIED = "This part has never been run on a GPU so far; take its first numbers with care."


def run(quick: bool) -> Part:
    """Steps a second and launches a step; skipped without CUDA."""
    title = "Training on a GPU"
    method = (
        "Digits, ResNet-8 slim, c = 2,048, batch 64. Speed: steps a second of an epoch of `TrialTraining.train_epoch`. "
        "Launches: kernels that one step starts, by PyTorch's profiler."
    )
    if not torch.cuda.is_available():
        return Part(title, method, notes=[UNTRIED], skipped="This machine has no CUDA device.")
    return Part(title, method, in_worker(measure, 2 if quick else 5, "cuda"), [UNTRIED])


def measure(repeats: int, device: str) -> list[Measured]:
    """Steps a second of each of `repeats` epochs, after one that warms up, and launches a step of one more."""
    settings = {"dataset": "digits", "epochs": repeats + 2, "method": {"codes": 2048}}
    training = TrialTraining(TrialSettings.read(settings), data.load("digits"), device)
    speeds = [training.steps_per_epoch / seconds(training.train_epoch) for _ in range(repeats + 1)]
    return [Measured("speed", "steps/s", speeds[1:]), Measured("launches", "a step", [launches(training)])]


def launches(training: TrialTraining) -> float:
    """Kernels that a training step starts on the device, on average over one epoch; 0 on a CPU."""
    activities = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * torch.cuda.is_available()
    with profile(activities=activities) as recorded:
        training.train_epoch()
    assert recorded.profiler is not None
    names = [event.name() for event in recorded.profiler.kineto_results.events()]
    started = sum(name.startswith(("cudaLaunchKernel", "cuLaunchKernel", "cudaGraphLaunch")) for name in names)
    return started / training.steps_per_epoch
