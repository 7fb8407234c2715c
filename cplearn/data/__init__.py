"""The data sets: images and labels of a training and a test split, whatever they come from.

`load` is the only entry point. Importing this package imports neither torch nor any library of data sets, so that the
command line starts quickly; each module named in `catalogue` imports what it needs.
"""

from __future__ import annotations

import importlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from cplearn.data import catalogue
from cplearn.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor

    from cplearn.data.image_files import ImageFiles

__all__ = ["Dataset", "Split", "data_root", "load"]


@dataclass(frozen=True, eq=False)
class Split:
    """`images` (n, C, H, W) uint8 and `labels` (n,) int64, both on the CPU; a label of -1 means none.

    The images may be a copy-on-write memory map: processes that load the same data set share its pages. Images that are
    decoded on demand are no tensor; `len`, `shape` and `split` are what both have in common.
    """

    images: Tensor | ImageFiles
    labels: Tensor


@dataclass(frozen=True, eq=False)
class Dataset:
    """A data set in memory, or on disk behind memory maps or files.

    `mean` and `std` are scalars for pixels in [0, 1]. `fingerprint` identifies images, labels and classes of all
    splits as used here, wherever they were read from; `source` says where that was. `with_unlabelled` is the training
    split and, behind it, images without labels, where a data set has such.
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

    def normalise(self, images01: Tensor) -> Tensor:
        """(x - mean) / std of float pixels in [0, 1], any shape."""
        return (images01 - self.mean) / self.std


def load(
    name: str,
    root: Path | None = None,
    image_size: int | None = None,
    decode: str | None = None,
    *,
    train_images: int | None = None,
    test_images: int | None = None,
    download: bool = True,
) -> Dataset:
    """The data set `name`, one of `catalogue.CATALOGUE` or folder:PATH.

    `root` is where downloads and decoded copies are kept, see `data_root`. `image_size` is the side in pixels to which
    the images of a folder are resized; other data sets accept their own size only. `decode` is "cached" or "on-demand",
    see `cplearn.data.folder`; by default the first that the catalogue lists. `train_images` and `test_images` limit how
    many are used, see `cplearn.data.subset`. Without `download`, a public data set must
    lie under `root` already. Loading again is cheap: what was decoded once is only mapped into memory.

    Raises InputError if there is no such data set, if it cannot be had, or if its files are damaged.
    """
    entry = catalogue.entry(name)
    decode = decode or entry.decode[0]
    if decode not in entry.decode:
        raise InputError(f"decode {decode!r}: {name} can only be {' or '.join(entry.decode)}", key="decode")
    module = importlib.import_module(f"cplearn.data.{entry.module}")
    size = entry.image_size if image_size is None else image_size
    # Only folders of files have the choice.
    choice = {"on_demand": decode == "on-demand"} if len(entry.decode) > 1 else {}
    dataset: Dataset = module.load(name, data_root(root), size, download, **choice)
    if train_images is None and test_images is None:
        return dataset
    from cplearn.data.subset import limit

    return limit(dataset, train_images, test_images)


def data_root(root: Path | None = None) -> Path:
    """The absolute path of the data folder: the argument, else the environment's CPLEARN_DATA, else ./data."""
    return Path(os.path.abspath(Path(root or os.environ.get("CPLEARN_DATA") or "data").expanduser()))
