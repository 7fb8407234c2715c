"""This program against what a user would take instead: a plain loop as solo-learn and lightly have it, and Ray Tune."""

from __future__ import annotations

import os
import re
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import closing
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from benchmarks import plain
from benchmarks.commands import BETA, CommandFailed, Workplace, workplace
from benchmarks.measure import Goal, Pair, Part, alternate
from benchmarks.step import random_images
from cplearn import data
from cplearn.config.trial import TrialSettings
from cplearn.data import Dataset
from cplearn.training import TrialTraining
from runner.machine import resources
from runner.machine.environment import in_worker
from sweeps.record import EVALUATION_SECONDS, TRAIN_SECONDS

LARGE, HALF, SMALL, BEYOND = (Goal("at least", bound) for bound in (1.2, 2.0, 3.0, 3.0))
PEERS = {"plain loop": plain.cplearn, "lightly": plain.lightly}
EPOCHS = 2


def run(quick: bool) -> Part:
    """Whole epochs and whole commands, in turns."""
    rows = in_worker(epochs, 1 if quick else 3, 64 if quick else 128)
    return Part(
        "Against a plain loop, and against Ray Tune",
        "Epochs: images a second of `TrialTraining.train_epoch` over those of `benchmarks.plain`: transforms of "
        "torchvision on PIL images in a DataLoader worker, torch modules in channels_last, each view through the "
        "network by itself, the same loss (tested), the same memory settings, two threads. CPU: processor seconds an "
        "image, workers included. ResNet-18: CIFAR stem with padding 2, batch 64, recipe solo-cifar, tanh, c = 16,384, "
        "random 32x32 images; digits: ResNet-8 slim, c = 2,048. lightly, where it is installed: Barlow Twins with its "
        "head, loss and transforms in the same loop. Sweep: the whole command for nine values of β on the "
        f"digits, {EPOCHS} epochs, two slots, beside the same trials as Ray Tune's documentation teaches it "
        "(`benchmarks.tune_sweep`); beyond training is what is left of each command's seconds after those of its "
        "trials, divided by the slots.",
        [*rows, *sweep_rows(quick)],
    )


def epochs(repeats: int, images: int) -> list[Pair]:
    """Images a second of both sides, the first epoch apart, which warms up."""
    torch.set_num_threads(2)
    large = {
        "dataset": "cifar10",
        "backbone": {"name": "resnet18", "stem_padding": 2},
        "augment": {"recipe": "solo-cifar"},
        "method": {"form": "tanh", "codes": 16384},
    }
    small = {"dataset": "digits", "method": {"form": "tanh", "codes": 2048}}
    twins = {**large, "method": {"name": "barlow_twins", "hidden_dim": 2048, "embedding_dim": 2048}}
    many, digits = random_images(images), data.load("digits")
    cases: list[tuple[str, str, dict[str, Any], Dataset, Goal]] = [
        ("plain loop", "ResNet-18, float32", large, many, LARGE),
        ("plain loop", "digits, ResNet-8 slim", small, digits, SMALL),
    ]
    if resources.bfloat16():
        cases.append(("plain loop", "ResNet-18, bfloat16", {**large, "precision": "bfloat16"}, many, HALF))
    if find_spec("lightly"):
        cases.append(("lightly", "Barlow Twins, ResNet-18, float32", twins, many, LARGE))
    rows = []
    for other, label, settings, dataset, goal in cases:
        trial = TrialSettings.read({**settings, "epochs": repeats + 1, "evaluation": {"watch_images": 0}})
        sides = {"this program": TrialTraining(trial, dataset).train_epoch, other: PEERS[other](trial, dataset).epoch}
        trained = len(dataset.train.images) // trial.batch_size * trial.batch_size
        spent: dict[str, list[float]] = {name: [] for name in sides}
        timed = {name: partial(_rate, call, trained, spent[name]) for name, call in sides.items()}
        first, second = (values[1:] for values in alternate(timed, repeats + 1).values())
        names = ("this program", other)
        rows.append(Pair(label, "images/s", names, first, second, goal))
        cpu = [[1000 * seconds for seconds in values[1:]] for values in spent.values()]
        rows.append(Pair(f"{label}: CPU", "ms an image", names[::-1], cpu[1], cpu[0]))
    return rows


def _rate(epoch: Callable[[], object], images: int, spent: list[float]) -> float:
    """Images a second of an epoch; `spent` gets its processor seconds an image, of ended workers too."""
    start, before = time.perf_counter(), sum(os.times()[:4])
    epoch()
    spent.append((sum(os.times()[:4]) - before) / images)
    return images / (time.perf_counter() - start)


def sweep_rows(quick: bool) -> list[Pair]:
    """The seconds of both commands, and of what is beyond the training of their trials."""
    sides = {"Ray Tune": _tune, "this program": _sweep}
    whole: dict[str, list[float]] = {name: [] for name in sides}
    beyond: dict[str, list[float]] = {name: [] for name in sides}
    slots = resources.local(resources.Resources(1, 0, 1))[1]
    for name, side in sides.items():
        with workplace() as place:
            seconds, trained = side(place, 1 if quick else EPOCHS)
        whole[name].append(seconds)
        beyond[name].append(seconds - trained / slots)
    names = ("Ray Tune", "this program")
    return [
        Pair("sweep, nine β on digits", "s", names, whole[names[0]], whole[names[1]]),
        Pair("sweep, beyond training", "s", names, beyond[names[0]], beyond[names[1]], BEYOND),
    ]


def _sweep(place: Workplace, epochs: int) -> tuple[float, float]:
    """Seconds of the command, and of its trials."""
    file = place.folder / "nine.yaml"
    file.write_text(BETA.read_text(encoding="utf-8").partition("baselines:")[0], encoding="utf-8")
    taken = place.seconds("sweep", str(file), "--epochs", str(epochs), "--gpus-per-trial", "0")
    with closing(sqlite3.connect(place.database)) as store:
        names = (TRAIN_SECONDS, EVALUATION_SECONDS)
        (trained,) = store.execute("SELECT sum(value) FROM latest_metrics WHERE key IN (?, ?)", names).fetchone()
    return taken, trained


def _tune(place: Workplace, epochs: int) -> tuple[float, float]:
    command = [sys.executable, "-m", "benchmarks.tune_sweep", place.uri, str(epochs)]
    root = str(Path(__file__).parents[1])
    environment = {name: text for name, text in os.environ.items() if name != "RAY_ADDRESS"}
    environment |= {"PYTHONPATH": root, "HOME": str(place.folder), "CPLEARN_DATA": str(place.folder)}
    start = time.perf_counter()
    done = subprocess.run(command, cwd=place.folder, env=environment, capture_output=True, text=True, check=False)
    taken = time.perf_counter() - start
    trained = re.search(r"^trained (\S+)$", done.stdout, re.MULTILINE)
    if done.returncode or not trained:
        raise CommandFailed(f"benchmarks.tune_sweep ended with status {done.returncode}: {done.stderr[-500:]}")
    return taken, float(trained[1])
