"""The data sets: images and labels of a training and a test split, whatever they come from.

`load` is the entry point, `source` what it loads from. Importing this package imports neither torch nor any library of
data sets, so that the command line starts quickly; each module named in `catalogue` imports what it needs.
"""

import dataclasses
import importlib
from pathlib import Path

from cplearn.data import catalogue
from cplearn.data.dataset import Dataset, Request, Source, Split, data_root, limit
from cplearn.errors import InputError

__all__ = ["Dataset", "Request", "Source", "Split", "data_root", "load", "source"]


def source(name: str, root: Path | None = None) -> Source:
    """Where the images of the data set `name` come from; reads nothing yet. `root` is the data folder.

    Raises InputError if there is no such data set.
    """
    return importlib.import_module(catalogue.entry(name).module).source(catalogue.absolute(name), data_root(root))


def load(
    name: str,
    root: Path | None = None,
    image_size: int | None = None,
    decode: str | None = None,
    *,
    train_images: int | None = None,
    test_images: int | None = None,
    test_share: float | None = None,
    download: bool = True,
) -> Dataset:
    """The data set `name`, one of `catalogue.names()`, as a `Request` of these arguments asks for it.

    `root` and `decode` ("cached" or "on-demand") are by default those of `data_root` and of the catalogue.
    `train_images` and `test_images` limit how many are used, see `limit`.

    Raises InputError if there is no such data set, if it cannot be had, or if its files are damaged.
    """
    entry = catalogue.entry(name)
    decode = decode or entry.decode[0]
    catalogue.check_decode(name, decode)
    if test_share is not None and not entry.takes:
        raise InputError(f"test_share {test_share}: {name} has a test split of its own; leave it out", key="test_share")
    size = entry.image_size if image_size is None else image_size
    request = Request(data_root(root), size, decode == "on-demand", test_share, download)
    dataset = source(name, request.root).load(request)
    dataset = dataclasses.replace(dataset, slug=catalogue.slug(dataset.name, dataset.fingerprint))
    return limit(dataset, train_images, test_images)
