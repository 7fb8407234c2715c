"""What a data set is: images and labels of a training and a test split. Needs no torch."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cplearn.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor

    from cplearn.data.image_files import ImageFiles


@dataclass(frozen=True, eq=False)
class Split:
    """`images` (n, C, H, W) uint8 and `labels` (n,) int64, both on the CPU; a label of -1 means none.

    The images may be a copy-on-write memory map: processes that load the same data set share its pages. Images that are
    decoded on demand are no tensor; `len`, `shape` and `split` are what both have in common.
    """

    images: Tensor | ImageFiles
    labels: Tensor

    def take(self, rows: Tensor | slice) -> Split:
        """The images of `rows`, in that order."""
        from cplearn.data.image_files import ImageFiles

        images = self.images.take(rows) if isinstance(self.images, ImageFiles) else self.images[rows]
        return Split(images, self.labels[rows])


@dataclass(frozen=True, eq=False)
class Dataset:
    """A data set in memory, or on disk behind memory maps or files.

    `mean` and `std` are scalars for pixels in [0, 1]. `fingerprint` identifies images, labels and classes of all
    splits as used here, wherever they were read from; `source` says where that was. `with_unlabelled` is the training
    split and, behind it, images without labels, where a data set has such. `slug` is the short name of the whole data
    set, of which this may be a part (see `limit`).
    """

    name: str
    train: Split
    test: Split
    classes: tuple[str, ...]
    fingerprint: str
    mean: float
    std: float
    source: str
    with_unlabelled: Split | None = None
    slug: str = ""

    @property
    def pretrain(self) -> Split:
        """What self-supervised training sees: the training split, with the unlabelled images where there are any."""
        return self.with_unlabelled or self.train

    @property
    def channels(self) -> int:
        """1 (greyscale) or 3 (RGB)."""
        return self.train.images.shape[1]

    @property
    def image_size(self) -> int:
        """Side of the square images in pixels."""
        return self.train.images.shape[-1]

    @property
    def n_classes(self) -> int:
        return len(self.classes)


def data_root(root: Path | None = None) -> Path:
    """The absolute path of the data folder: the argument, else the environment's CPLEARN_DATA, else ./data."""
    return Path(os.path.abspath(os.path.expanduser(root or os.environ.get("CPLEARN_DATA") or "data")))


def check_size(name: str, image_size: int | None, size: int) -> None:
    """Raise InputError if another size than that of its images is asked of a data set."""
    if image_size not in (None, size):
        raise InputError(
            f"image_size {image_size}: {name} has images of {size}x{size} pixels; leave it out", key="image_size"
        )


def limit(dataset: Dataset, train: int | None, test: int | None) -> Dataset:
    """`dataset` with `train` training and `test` test images, evenly spread over classes and files; None: all.

    A part is the same whoever asks. Unlabelled images are reduced as the training images are. The fingerprint becomes
    that of the part. Raises InputError if there are not so many images, or fewer than one a class would be left.
    """
    if train is None and test is None:
        return dataset
    import torch

    text = json.dumps([dataset.fingerprint, train, test])
    changes: dict[str, Any] = {"fingerprint": hashlib.blake2b(text.encode(), digest_size=16).hexdigest()}
    for name, split, count in (("train", dataset.train, train), ("test", dataset.test, test)):
        if count is None:
            continue
        available = len(split.labels)
        if not dataset.n_classes <= count <= available:
            raise InputError(
                f"{name}_images {count}: {dataset.name} has {available} such images of {dataset.n_classes} classes; "
                "choose a number between these two",
                key=f"{name}_images",
            )
        # Evenly spaced over the images sorted by class, and then in their order.
        by_class = split.labels.sort(stable=True).indices
        rows = by_class[torch.arange(count) * available // count].sort().values
        changes[name] = split.take(rows)
        if name == "train" and dataset.with_unlabelled is not None:
            unlabelled = len(dataset.with_unlabelled.labels) - available
            kept = unlabelled * count // available
            further = available + torch.arange(kept) * unlabelled // max(1, kept)
            changes["with_unlabelled"] = dataset.with_unlabelled.take(torch.cat([rows, further]))
    return dataclasses.replace(dataset, **changes)
