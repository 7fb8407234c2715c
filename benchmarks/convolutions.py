"""The training step against its own convolutions: how much of it is their arithmetic, and what compiling it saves."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.measure import Goal, Measured, Pair, Part, alternate, seconds
from benchmarks.step import random_images
from cplearn import data
from cplearn.config.trial import TrialSettings
from cplearn.data import Dataset
from cplearn.training import TrialTraining
from runner.machine.environment import in_worker

LARGE, SMALL = Goal("at least", 0.75), Goal("at least", 0.6)


def run(quick: bool) -> Part:
    """Seconds of the convolutions by themselves over those of the step that contains them."""
    return Part(
        "The step over its own convolutions",
        "Seconds of one training step (views at hand; normalisation, forward, loss, backward, update) beside those of "
        "its backbone's convolutions by themselves, forward and backward, on the same inputs and weights, one thread, "
        "batch 64, c = 2,048. Near 1, nothing but the convolutions takes time. Compiled: the step with "
        "`torch.compile`, after its first call, whose seconds stand beside it; where a C++ compiler is installed.",
        in_worker(compare, 2 if quick else 5, quick),
    )


def compare(repeats: int, quick: bool) -> list[Pair | Measured]:
    """The rows of each network."""
    torch.set_num_threads(1)
    images = random_images(64)
    cases: list[tuple[str, dict[str, Any], Dataset, Goal]] = [
        ("digits, ResNet-8 slim", {"dataset": "digits"}, data.load("digits"), SMALL),
        ("32x32, ResNet-8 slim", {"dataset": "cifar10", "backbone": {"name": "resnet8-slim"}}, images, LARGE),
        ("32x32, ResNet-8, f = 128", {"dataset": "cifar10", "backbone": {"name": "resnet8"}}, images, LARGE),
    ]
    rows: list[Pair | Measured] = []
    for label, settings, dataset, goal in cases[: 1 if quick else None]:
        trial = TrialSettings.read({**settings, "epochs": 1, "method": {"codes": 2048}})
        training = TrialTraining(trial, dataset)
        views, labels = next(training.views.epoch(0))
        alone = convolutions_of(training.model.backbone, training.model.prepare(views[0]))

        def step(training: TrialTraining = training, views: Any = views, labels: Tensor = labels) -> float:
            return seconds(lambda: training.training_step(views, labels, 0))

        sides = {"convolutions": lambda call=alone: seconds(call), "step": step}
        first, second = (values[1:] for values in alternate(sides, repeats + 1).values())
        rows.append(Pair(label, "s", ("convolutions", "step"), first, second, goal))
        if shutil.which("g++") and goal is LARGE and not quick:
            rows += _compiled(label, trial, dataset, step, repeats)
    return rows


def convolutions_of(backbone: nn.Module, images: Tensor) -> Callable[[], None]:
    """A call that runs every convolution of a backbone by itself, forward and backward, on the inputs that it has when
    the backbone sees `images` (n, C, H, W). The first has no gradient of its input, as in training."""
    calls: list[tuple[nn.Conv2d, Tensor]] = []

    def keep(module: nn.Module, inputs: tuple[Tensor], output: Tensor) -> None:
        assert isinstance(module, nn.Conv2d)
        calls.append((module, inputs[0].detach().requires_grad_(inputs[0].requires_grad)))

    hooks = [layer.register_forward_hook(keep) for layer in backbone.modules() if isinstance(layer, nn.Conv2d)]
    backbone(images)
    for hook in hooks:
        hook.remove()

    def alone() -> None:
        for layer, x in calls:
            y = layer(x)
            y.backward(torch.ones_like(y))
            layer.weight.grad = x.grad = None

    return alone


def _compiled(
    label: str, trial: TrialSettings, dataset: Dataset, plain: Callable[[], float], repeats: int
) -> list[Pair | Measured]:
    training = TrialTraining(trial, dataset, compile=True)
    views, labels = next(training.views.epoch(0))

    def step() -> float:
        return seconds(lambda: training.training_step(views, labels, 0))

    first_call = step()
    step()
    numbers = alternate({"plain": plain, "compiled": step}, repeats)
    pair = Pair(f"{label}: compiled", "s", ("plain", "compiled"), numbers["plain"], numbers["compiled"])
    return [pair, Measured(f"{label}: first call of the compiled step", "s", [first_call])]
