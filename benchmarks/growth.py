"""How the cost of a trial grows with its size, and that of a sweep with its trials."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
import yaml

from benchmarks.commands import workplace
from benchmarks.measure import Growth, Part, alternate, seconds
from cplearn import data, training
from cplearn.config.trial import TrialSettings
from cplearn.data import Dataset, Split
from runner.machine.environment import in_worker

SETTINGS: dict[str, Any] = {"dataset": "digits", "epochs": 2, "method": {"codes": 2048}}


def run(quick: bool) -> Part:
    """Seconds of a trial against images, epochs and codes, and of a sweep's command against trials."""
    repeats = 1 if quick else 3
    grids: dict[str, list[int]] = {
        "training images": [128, 256] if quick else [179, 359, 718, 1437],
        "epochs": [1, 2] if quick else [1, 2, 4, 8],
        "codes": [128, 1024] if quick else [128, 2048, 32768, 131072],
    }
    rows = [in_worker(trials_of, label, sizes, repeats, quick) for label, sizes in grids.items()]
    counts = [1, 2] if quick else [1, 4, 16]
    return Part(
        "How the cost grows",
        "Seconds of a trial, training and evaluation, in one process with one thread: digits, ResNet-8 slim, 1,437 "
        "images, 2 epochs, c = 2,048, f = 128, one of these varied at a time. Trials: seconds of the whole command "
        "`cplearn sweep`, one process a trial, 2 epochs each. The exponent is that of a power law through the "
        "medians; fixed costs (evaluation, the start of Ray) keep it below that of the growing part, so the one "
        "between the last two sizes stands beside it.",
        [*rows, Growth("trials of a sweep", counts, _commands(counts, repeats, quick))],
    )


def trials_of(label: str, sizes: list[int], repeats: int, quick: bool) -> Growth:
    """The growth with one quantity: `training images`, `epochs` or `codes`."""
    torch.set_num_threads(1)
    whole = data.load("digits")
    sides = {}
    for size in sizes:
        settings = {**SETTINGS, **({"backbone": {"width": 4}} if quick else {})}
        images = len(whole.train.images)
        if label == "training images":
            images = size
        elif label == "epochs":
            settings["epochs"] = size
        else:
            settings["method"] = {"codes": size}
        call = partial(training.train, TrialSettings.read(settings), _first(whole, images))
        sides[str(size)] = partial(seconds, call)
    next(iter(sides.values()))()  # Warms up.
    return Growth(label, sizes, list(alternate(sides, repeats).values()))


def _first(dataset: Dataset, images: int) -> Dataset:
    """The data set with its first training images only."""
    train = Split(dataset.train.images[:images], dataset.train.labels[:images])
    return Dataset(
        dataset.name,
        train,
        dataset.test,
        dataset.classes,
        dataset.fingerprint,
        dataset.mean,
        dataset.std,
        dataset.source,
    )


def _commands(counts: list[int], repeats: int, quick: bool) -> list[list[float]]:
    description: dict[str, Any] = {"sweep": "growth", "settings": SETTINGS, "axes": {"method.beta": [1]}}

    def command(count: int) -> float:
        with workplace() as place:
            (place.folder / "growth.yaml").write_text(yaml.safe_dump(description))
            alone = ["--gpus-per-trial", "0"]
            narrow = ["--set", "backbone.width=4"] if quick else []
            return place.seconds("sweep", "growth.yaml", "--seeds", str(count), *alone, *narrow)

    return list(alternate({str(count): partial(command, count) for count in counts}, repeats).values())
