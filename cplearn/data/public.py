"""SVHN (without its extra split), CIFAR-10 and CIFAR-100 (fine labels), read and checked by torchvision.

The original files lie in the data folder as torchvision lays them out, so that earlier downloads are found:
train_32x32.mat and test_32x32.mat; cifar-10-python.tar.gz or the folder cifar-10-batches-py; cifar-100-python.tar.gz
or the folder cifar-100-python. What is missing is downloaded. Once decoded (see `cplearn.data.cache`) they are no
longer needed.
"""

from __future__ import annotations

import http.client
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np

from cplearn.data import Dataset, cache
from cplearn.errors import InputError

SIZE = 32
SOURCES = {
    "svhn": "http://ufldl.stanford.edu/housenumbers",
    "cifar10": "https://www.cs.toronto.edu/~kriz/cifar.html",
    "cifar100": "https://www.cs.toronto.edu/~kriz/cifar.html",
}
VERSION = 1
"""Of the decoded copies; raise it when the same files are to give other arrays."""
TIMEOUT = 30.0
"""Seconds of silence after which a download is given up."""


class _File(NamedTuple):
    """One file as published."""

    name: str
    url: str
    md5: str


class _Content(NamedTuple):
    train: cache.Arrays
    test: cache.Arrays
    classes: tuple[str, ...]


def load(name: str, root: Path, image_size: int | None, download: bool) -> Dataset:
    """The data set `name`, downloaded if need be by whichever process comes first.

    Raises InputError if `image_size` is neither None nor 32, if files are missing and cannot be downloaded (it names
    them and the folder they belong into), or if a file is not the published one.
    """
    if image_size not in (None, SIZE):
        raise InputError(
            f"image_size {image_size}: {name} has images of {SIZE}x{SIZE} pixels; leave it out", key="image_size"
        )
    key = f"{name}-v{VERSION}"
    dataset = cache.read(root, key, name, SOURCES[name])
    if dataset is None:
        with cache.lock(root, name):
            if not cache.location(root, key).exists():
                _decode(name, root, key, download)
            dataset = cache.read(root, key, name, SOURCES[name])
    assert dataset is not None
    return dataset


def _decode(name: str, root: Path, key: str, download: bool) -> None:
    content = _read_svhn(name, root, download) if name == "svhn" else _read_cifar(name, root, download)
    with cache.building(root, key, name) as folder:
        for split, (images, labels) in (("train", content.train), ("test", content.test)):
            cache.write_split(folder, split, len(images), [images], labels)
        cache.write_description(folder, content.classes, name)


def _read_svhn(name: str, root: Path, download: bool) -> _Content:
    from torchvision.datasets import SVHN

    published = {split: SVHN.split_list[split] for split in ("train", "test")}
    _fetch(name, root, [_File(file, url, md5) for url, file, md5 in published.values()], download)
    # torchvision turns the label 10 of the files into 0, the digit it stands for.
    splits = (SVHN(root, split) for split in published)
    train, test = (cache.Arrays(split.data, np.atleast_1d(split.labels)) for split in splits)
    return _Content(train, test, tuple("0123456789"))


def _read_cifar(name: str, root: Path, download: bool) -> _Content:
    from torchvision.datasets import CIFAR10, CIFAR100
    from torchvision.datasets.utils import check_integrity, extract_archive

    kind = CIFAR10 if name == "cifar10" else CIFAR100

    def read(folder: Path) -> _Content:
        splits = [kind(folder, train) for train in (True, False)]
        train, test = (
            cache.Arrays(split.data.transpose(0, 3, 1, 2), np.asarray(split.targets, np.int64)) for split in splits
        )
        return _Content(train, test, tuple(splits[0].classes))

    unpacked = root / kind.base_folder
    if unpacked.exists():
        parts = [*kind.train_list, *kind.test_list, (kind.meta["filename"], kind.meta["md5"])]
        bad = [part for part, md5 in parts if not check_integrity(unpacked / part, md5)]
        if bad:
            raise InputError(
                f"{unpacked}: {', '.join(bad)} missing or not as published (MD5); delete this folder and load again, "
                f"or unpack {kind.url} anew"
            )
        return read(root)
    _fetch(name, root, [_File(kind.filename, kind.url, kind.tgz_md5)], download)
    try:
        with cache.scratch(root, name) as folder:
            extract_archive(root / kind.filename, folder)
            return read(folder)
    except OSError as error:
        raise InputError(f"{root / kind.filename}: cannot be unpacked ({error}); free some space") from error


def _fetch(name: str, root: Path, files: list[_File], download: bool) -> None:
    """Make sure that `files` lie in `root`, as published. Files that are there are checked and never replaced."""
    from torchvision.datasets.utils import check_integrity, download_url

    for file in files:
        path = root / file.name
        if path.exists() and not check_integrity(path, file.md5):
            raise InputError(
                f"{path}: not the published file (its MD5 is not {file.md5}), perhaps an incomplete download; delete "
                f"it and load again, or replace it by {file.url}"
            )
    missing = [file for file in files if not (root / file.name).exists()]
    if missing and not download:
        raise _not_here(name, root, missing, "downloading is turned off")
    for i, file in enumerate(missing):
        try:
            # Under their final names there are only whole, verified files.
            with cache.scratch(root, name) as folder, _socket_timeout(TIMEOUT):
                download_url(file.url, folder, file.name, file.md5)
                (folder / file.name).rename(root / file.name)
        except (OSError, http.client.HTTPException) as error:
            raise _not_here(name, root, missing[i:], f"downloading it failed: {error}") from error
        except RuntimeError as error:  # torchvision's word for a wrong checksum
            raise _not_here(name, root, missing[i:], "what was downloaded is incomplete or altered") from error


def _not_here(name: str, root: Path, missing: list[_File], reason: str) -> InputError:
    files = " and ".join(f"{file.name} (from {file.url})" for file in missing)
    return InputError(f"{name} is not in {root} and {reason}; put {files} into {root}; nothing else was changed")


@contextmanager
def _socket_timeout(seconds: float) -> Iterator[None]:
    # torchvision sets none, and behind a firewall that drops packets its download would wait for ever.
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(seconds)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)
