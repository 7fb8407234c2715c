"""Augmentation of whole batches against a pipeline that takes one PIL image at a time."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from PIL import Image
from torchvision import transforms as v1
from torchvision.transforms import v2

from benchmarks.measure import Goal, Pair, Part, alternate, calls_lasting, seconds
from cplearn import augment
from runner.machine.environment import in_worker

GOAL = Goal("at least", 12)
SIZE = 32


def run(quick: bool) -> Part:
    """Microseconds of CPU a view: per image over batched."""
    return Part(
        "Batched over per-image augmentation",
        "Microseconds of CPU time a view, one thread, random 32x32 RGB images. Batched: `cplearn.augment` on "
        "batches of 64 images. Per image: the same transforms by torchvision on PIL images, one after the other, "
        "ending in a stacked float tensor; in torchvision's first API and in its second.",
        in_worker(compare, 2 if quick else 9, 64 if quick else 256),
    )


def compare(repeats: int, n: int) -> list[Pair]:
    """One pair for each recipe and torchvision API, on `n` images."""
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (n, 3, SIZE, SIZE), generator=generator, dtype=torch.uint8)
    singles = [Image.fromarray(image.permute(1, 2, 0).numpy()) for image in images]
    rows = []
    for name in ("solo-cifar", "paper"):
        recipe = augment.RECIPES[name]
        batched = partial(_batched, recipe, images, generator)
        sides = {"batched": _microseconds(batched, n)}
        for api, pipelines in per_image(name).items():
            sides[api] = _microseconds(partial(_one_by_one, pipelines, singles), n)
        numbers = alternate(sides, repeats)
        rows += [
            Pair(f"{name}, {api}", "µs a view", ("per image", "batched"), numbers[api], numbers["batched"], GOAL)
            for api in list(sides)[1:]
        ]
    return rows


def _microseconds(call: Callable[[], object], n: int) -> Callable[[], float]:
    calls = calls_lasting(call, 0.2)
    return lambda: seconds(call, calls, time.process_time) / (2 * n) * 1e6


def _batched(recipe: augment.Recipe, images: torch.Tensor, generator: torch.Generator) -> None:
    for batch in images.split(64):
        recipe(batch, generator)


def _one_by_one(pipelines: Sequence[Callable[[Image.Image], torch.Tensor]], images: Sequence[Image.Image]) -> None:
    for pipeline in pipelines:
        torch.stack([pipeline(image) for image in images])


def per_image(name: str) -> dict[str, list[Any]]:
    """The recipe solo-cifar or paper as torchvision writes it: two pipelines, one a view, in either API."""
    apis: dict[str, tuple[Any, list[Any]]] = {
        "torchvision v1": (v1, [v1.ToTensor()]),
        "torchvision v2": (v2, [v2.ToImage(), v2.ToDtype(torch.float32, scale=True)]),
    }
    pipelines = {}
    for api, (t, to_tensor) in apis.items():
        flip = t.RandomHorizontalFlip()
        if name == "solo-cifar":
            crop = t.RandomResizedCrop(SIZE, (0.08, 1), interpolation=t.InterpolationMode.BICUBIC)
            base = [crop, t.RandomApply([t.ColorJitter(0.4, 0.4, 0.2, 0.1)], p=0.8), t.RandomGrayscale(0.2)]
            views = [[*base, flip], [*base, t.RandomSolarize(128, 0.2), flip]]
        else:
            jitter = t.RandomApply([t.ColorJitter(0.4, 0.4, 0.4, 0.1)], p=0.1)
            views = [[t.Pad(4, padding_mode="reflect"), jitter, t.RandomGrayscale(0.1), t.RandomCrop(SIZE), flip]] * 2
        pipelines[api] = [t.Compose([*view, *to_tensor]) for view in views]
    return pipelines
