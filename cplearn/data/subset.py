"""A part of a data set, the same part whoever asks: for trials at a small scale."""

from __future__ import annotations

import dataclasses
import hashlib
import json

import torch
from torch import Tensor

from cplearn.data.dataset import Dataset, Split
from cplearn.errors import InputError


def limit(dataset: Dataset, train: int | None, test: int | None) -> Dataset:
    """`dataset` with `train` training and `test` test images, evenly spread over classes and files; None: all.

    Unlabelled images are reduced as the training images are. The fingerprint becomes that of the part. Raises
    InputError if there are not so many images, or fewer than one a class would be left.
    """
    train_split, test_split = (
        _limit(dataset, *given) for given in (("train", dataset.train, train), ("test", dataset.test, test))
    )
    everything = dataset.with_unlabelled
    if everything is not None and train is not None:
        labelled = len(dataset.train.labels)
        unlabelled = len(everything.labels) - labelled
        kept = unlabelled * train // labelled
        further = labelled + torch.arange(kept) * unlabelled // max(1, kept)
        everything = _take(everything, torch.cat([_spread(dataset.train.labels, train), further]))
    text = json.dumps([dataset.fingerprint, train, test])
    fingerprint = hashlib.blake2b(text.encode(), digest_size=16).hexdigest()
    return dataclasses.replace(
        dataset, train=train_split, test=test_split, with_unlabelled=everything, fingerprint=fingerprint
    )


def _limit(dataset: Dataset, name: str, split: Split, count: int | None) -> Split:
    if count is None:
        return split
    if not dataset.n_classes <= count <= len(split.labels):
        raise InputError(
            f"{name}_images {count}: {dataset.name} has {len(split.labels)} such images of {dataset.n_classes} "
            "classes; choose a number between these two",
            key=f"{name}_images",
        )
    return _take(split, _spread(split.labels, count))


def _spread(labels: Tensor, count: int) -> Tensor:
    """Rows of `count` images in their order: evenly spaced over the images sorted by class."""
    by_class = labels.sort(stable=True).indices
    return by_class[torch.arange(count) * len(labels) // count].sort().values


def _take(split: Split, rows: Tensor) -> Split:
    images = split.images[rows] if isinstance(split.images, Tensor) else split.images.take(rows)
    return Split(images, split.labels[rows])
