"""What a data set is, a source until it is loaded, and images and labels of two splits afterwards. Needs no torch.

`cplearn.data.source` finds the source of a name by the line that `cplearn.data.catalogue` has for it. Sources of files
that Pillow decodes share `cplearn.data.encoded`; others give arrays to `cplearn.data.cache`.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from abc import ABC, abstractmethod
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

    The images may be a copy-on-write memory map, of which processes share the pages. Images that are decoded on demand
    are no tensor; `len`, `shape` and `split` are what both have in common.
    """

    images: Tensor | ImageFiles
    labels: Tensor

    def take(self, rows: Tensor | slice) -> Split:
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


@dataclass(frozen=True)
class Request:
    """How a data set is wanted.

    `root` is the folder of downloads and decoded copies. `image_size` is the side in pixels, None: the images' own,
    which is the only one of images that do not lie in files.
    `on_demand` leaves images where they are until they are used. `test_share` is the part of the images that become the
    test split where a source has none, None: `cplearn.data.splits.TEST_SHARE`. Without `download`, nothing is fetched.
    """

    root: Path
    image_size: int | None = None
    on_demand: bool = False
    test_share: float | None = None
    download: bool = True


class Source(ABC):
    """One data set, wherever its images are kept.

    `name` is what a trial calls it, with a path from the root; `place` says where the images come from.
    """

    def __init__(self, name: str, place: str) -> None:
        self.name, self.place = name, place

    @abstractmethod
    def load(self, request: Request) -> Dataset:
        """The images of both splits with labels, classes, mean, deviation and a fingerprint that identifies them all.

        A data set that is asked for twice is the same, in any process; what is kept under `request.root` is whole or
        not there. Raises InputError if it is not to be had as requested.
        """


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
        rows = by_class[evenly_spaced(available, count)].sort().values
        changes[name] = split.take(rows)
        if name == "train" and dataset.with_unlabelled is not None:
            unlabelled = len(dataset.with_unlabelled.labels) - available
            further = available + evenly_spaced(unlabelled, unlabelled * count // available)
            changes["with_unlabelled"] = dataset.with_unlabelled.take(torch.cat([rows, further]))
    return dataclasses.replace(dataset, **changes)


def evenly_spaced(n: int, most: int) -> Tensor:
    """Indices (min(n, most),) of evenly spaced rows of n.

    >>> evenly_spaced(10, 4)
    tensor([0, 2, 5, 7])
    """
    import torch

    count = min(n, most)
    return torch.arange(count) * n // max(1, count)
