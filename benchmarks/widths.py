"""Packs against lone trials on one CPU core, from small steps to large ones: where `--packing auto` packs, and whether
it should."""

from __future__ import annotations

from functools import partial

import torch

from benchmarks.gpu import speed
from benchmarks.measure import Pair, Part, alternate
from benchmarks.step import random_images
from cplearn import data
from cplearn.config.trial import TrialSettings
from cplearn.data import Dataset
from cplearn.training import Pack, footprint
from runner.machine.environment import in_worker
from runner.planning.packing import BUSY, MEMORY_SHARE, widest

BETAS = (0.1, 0.5, 1, 5)
WIDTHS = (8, 16, 32)
"""Of ResNet-8 slim; the last is its usual one."""


def run(quick: bool) -> Part:
    """Steps a second of a pack, times its members, over those of a lone trial."""
    widths, repeats, images = ((4,), 2, 128) if quick else (WIDTHS, 5, 320)
    return Part(
        "Packs over lone trials, by the size of a step",
        f"Steps a second of an epoch of `Pack.train_epoch`, times the members, on one thread without a GPU; a pack of "
        f"{len(BETAS)} and a lone trial take turns. ResNet-8 slim at several widths, c = 2,048, on digits and "
        "on random 32x32 images. In brackets the operations of one member's step and what `--packing auto` does: it "
        f"packs steps of less than {BUSY / 1e9:g} GFLOP.",
        in_worker(compare, widths, repeats, images),
    )


def compare(widths: tuple[int, ...], repeats: int, images: int) -> list[Pair]:
    """One pair for each data set and width; `images` is the number of random images."""
    torch.set_num_threads(1)
    cases = [
        (dataset, settings, width)
        for dataset, settings in ((data.load("digits"), "digits"), (random_images(images), "cifar10"))
        for width in widths
    ]
    return [_compare(dataset, settings, width, repeats) for dataset, settings, width in cases]


def _compare(dataset: Dataset, named: str, width: int, repeats: int) -> Pair:
    backbone = {"name": "resnet8-slim", "width": width}
    settings = {"dataset": named, "epochs": repeats + 1, "backbone": backbone}
    trials = [TrialSettings.read({**settings, "method": {"codes": 2048, "beta": beta}}) for beta in BETAS]
    cost = footprint(trials[0], dataset)
    packed = widest(cost, cost.memory * len(BETAS) / MEMORY_SHARE, on_gpu=False) > 1
    packs = {"pack": Pack(trials, dataset), "alone": Pack(trials[:1], dataset)}
    speeds = alternate({name: partial(speed, pack) for name, pack in packs.items()}, repeats + 1)
    # The first turn warms up.
    pack, alone = (values[1:] for values in speeds.values())
    label = f"{dataset.name}, width {width} ({cost.operations / 1e9:.2g} GFLOP, {'packed' if packed else 'alone'})"
    return Pair(label, "member-steps/s", (f"pack of {len(BETAS)}", "alone"), pack, alone)
