"""Training from end to end against the bare step: what augmentation, data and logging cost beside the model."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from benchmarks.measure import Goal, Pair, Part, alternate, seconds
from cplearn import augment, data
from cplearn.config.trial import TrialSettings
from cplearn.data import Dataset, Split
from cplearn.dictionary.products import product
from cplearn.methods.base import Batch, Progress
from cplearn.training import TrialTraining, operations
from runner.machine.environment import in_worker

GOAL = Goal("at least", 0.95)


def run(quick: bool) -> Part:
    """Images a second of `TrialTraining.train_epoch` over those of the bare step."""
    return Part(
        "Training from end to end over the bare step",
        "Images a second of one process. End to end: an epoch of `TrialTraining.train_epoch` (order, augmentation, "
        "step, schedules, logging), without the measurement of collapse that follows an epoch, whose cost the "
        "second row of each data set shows. Bare: as many times forward, loss, backward and optimiser on one batch "
        "that was augmented and normalised beforehand. The same model (ResNet-8 slim, c = 2,048, batch 64) does "
        "both in turn, on one thread, or on the GPU if there is one. 32x32: random images. Arithmetic: the "
        "operations of the bare step as torch counts them, beside those of a float32 product of two 1,024 x 1,024 "
        "matrices (`cplearn.dictionary.products`). Near 1, the step cannot be made faster on this device.",
        in_worker(compare, 2 if quick else 7, 256 if quick else 640),
    )


def compare(repeats: int, images: int) -> list[Pair]:
    """One pair for each data set; `images` is the number of random images."""
    torch.set_num_threads(1)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    slim = {"name": "resnet8-slim"}
    cases: list[tuple[dict[str, Any], Dataset]] = [
        ({"dataset": "digits"}, data.load("digits")),
        ({"dataset": "cifar10", "backbone": slim}, random_images(images)),
    ]
    rows = []
    for settings, dataset in cases:
        trial = TrialSettings.read({**settings, "epochs": repeats + 1, "method": {"codes": 2048}})
        evaluation = trial.evaluation.model_copy(update={"watch_images": 0})
        unwatched = TrialTraining(trial.model_copy(update={"evaluation": evaluation}), dataset, device)
        numbers = alternate(_sides(TrialTraining(trial, dataset, device), unwatched), repeats + 1)
        label = f"{dataset.name}, recipe {trial.augment.recipe}, {device}"
        # The first turn warms up.
        whole, alone, bare, reference = (values[1:] for values in numbers.values())
        rows.append(Pair(label, "images/s", ("end to end", "bare step"), alone, bare, GOAL))
        watched = f"{label}: collapse measured after every epoch"
        rows.append(Pair(watched, "images/s", ("measured", "not measured"), whole, alone, GOAL))
        work = operations(trial, dataset) / trial.batch_size
        rates = [images * work / 1e9 for images in bare]
        rows.append(Pair(f"{label}: arithmetic", "GFLOP/s", ("bare step", "matrix product"), rates, reference))
    return rows


def _sides(training: TrialTraining, unwatched: TrialTraining) -> dict[str, Callable[[], float]]:
    trial, model = training.trial, training.model
    generator = torch.Generator(training.device).manual_seed(0)
    batch = training.dataset.train.images[: trial.batch_size].to(training.device)
    images = model.prepare(augment.RECIPES[trial.augment.recipe](batch, generator).flatten(0, 1))
    labels = training.dataset.train.labels[: trial.batch_size].to(training.device)
    progress = Progress(0, training.steps_per_epoch, training.epochs)
    trained = training.steps_per_epoch * trial.batch_size

    def end_to_end(training: TrialTraining) -> float:
        return trained / seconds(training.train_epoch)

    def steps() -> None:
        model.train()
        for _ in range(training.steps_per_epoch):
            features = model.backbone(images).unflatten(0, (-1, trial.batch_size))
            loss, _ = model.method(Batch(features, labels, progress))
            loss.backward()
            training.optimizer.step()
            training.optimizer.zero_grad()
        loss.item()  # Waits for a GPU.

    matrix = torch.ones(1024, 1024, device=training.device)

    def products(times: int = 20) -> float:
        def multiply() -> None:
            for _ in range(times):
                result = product(matrix, matrix)
            result[0, 0].item()  # Waits for a GPU.

        return times * 2 * 1024**3 / seconds(multiply) / 1e9

    return {
        "watched": lambda: end_to_end(training),
        "end to end": lambda: end_to_end(unwatched),
        "bare step": lambda: trained / seconds(steps),
        "matrix product": products,
    }


def random_images(n: int, size: int = 32, classes: int = 10) -> Dataset:
    """A data set of `n` random RGB images to train on, and as many as there are classes to test on."""
    generator = torch.Generator().manual_seed(0)

    def split(count: int) -> Split:
        images = torch.randint(0, 256, (count, 3, size, size), generator=generator, dtype=torch.uint8)
        return Split(images, torch.arange(count) % classes)

    names = tuple(str(label) for label in range(classes))
    return Dataset("random 32x32", split(n), split(classes), names, "random", 0.48, 0.25, "a random generator")
