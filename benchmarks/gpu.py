"""Fused training on a CUDA device: speed of each member and kernel launches a step, against the pack's width."""

from __future__ import annotations

from functools import partial

import torch
from torch.profiler import ProfilerActivity, profile

from benchmarks.measure import Measured, Pair, Part, alternate, seconds
from cplearn import data
from cplearn.config.trial import TrialSettings
from cplearn.training import Pack
from runner.machine.environment import in_worker

WIDTHS = (1, 2, 4, 8, 16, 32)
UNTRIED = "This part has never been run on a GPU so far; take its first numbers with care."


def run(quick: bool) -> Part:
    """Steps a second of the whole pack over those of one trial alone; skipped without CUDA."""
    title = "Fused training on a GPU"
    method = (
        "Digits, ResNet-8 slim, c = 2,048, batch 64. Speed: steps a second, times the members, of an epoch of "
        "`Pack.train_epoch`; packs of each width and the lone trial take turns. Launches: kernels that one step "
        "starts, by PyTorch's profiler."
    )
    if not torch.cuda.is_available():
        return Part(title, method, notes=[UNTRIED], skipped="This machine has no CUDA device.")
    widths, repeats = (WIDTHS[:2], 2) if quick else (WIDTHS, 5)
    return Part(title, method, in_worker(compare, widths, repeats, "cuda"), [UNTRIED])


def compare(widths: tuple[int, ...], repeats: int, device: str) -> list[Pair | Measured]:
    """Member-steps a second and launches for each width; the first width is the one compared with."""
    dataset = data.load("digits")
    packs = {}
    for width in widths:
        settings = {"dataset": "digits", "epochs": repeats + 2, "method": {"codes": 2048}}
        packs[width] = Pack([TrialSettings.read({**settings, "seed": seed}) for seed in range(width)], dataset, device)
    speeds = alternate({str(width): partial(speed, pack) for width, pack in packs.items()}, repeats + 1)
    # The first turn warms up.
    numbers = [values[1:] for values in speeds.values()]
    rows: list[Pair | Measured] = [
        Pair(f"width {width}", "member-steps/s", ("pack", f"width {widths[0]}"), own, numbers[0])
        for width, own in zip(widths, numbers, strict=True)
    ]
    rows += [Measured(f"width {width}: launches", "a step", [launches(pack)]) for width, pack in packs.items()]
    return rows


def speed(pack: Pack) -> float:
    """Steps a second of an epoch, times the members."""
    return len(pack.trials) * pack.steps_per_epoch / seconds(pack.train_epoch)


def launches(pack: Pack) -> float:
    """Kernels that a training step starts on the device, on average over one epoch; 0 on a CPU."""
    activities = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * torch.cuda.is_available()
    with profile(activities=activities) as recorded:
        pack.train_epoch()
    assert recorded.profiler is not None
    names = [event.name() for event in recorded.profiler.kineto_results.events()]
    started = sum(name.startswith(("cudaLaunchKernel", "cuLaunchKernel", "cudaGraphLaunch")) for name in names)
    return started / pack.steps_per_epoch
