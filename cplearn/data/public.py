"""Public data sets, downloaded and checked: SVHN (without its extra split), CIFAR-10, CIFAR-100 (fine labels), STL-10
and Tiny ImageNet (its validation images are the test split). All but the last are read by torchvision.

The original files lie in the data folder as torchvision lays them out, so that earlier downloads are found:
train_32x32.mat and test_32x32.mat; cifar-10-python.tar.gz or the folder cifar-10-batches-py; cifar-100-python.tar.gz
or the folder cifar-100-python; stl10_binary.tar.gz or the folder stl10_binary; tiny-imagenet-200.zip or the folder
tiny-imagenet-200. What is missing is downloaded. Once decoded (see `cplearn.data.cache`) they are no longer needed.
"""

from __future__ import annotations

import http.client
import socket
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from cplearn.data import cache, decode
from cplearn.data.dataset import Dataset, check_size
from cplearn.errors import InputError

SIZES = {"svhn": 32, "cifar10": 32, "cifar100": 32, "stl10": 96, "tiny-imagenet": 64}
SOURCES = {
    "svhn": "http://ufldl.stanford.edu/housenumbers",
    "cifar10": "https://www.cs.toronto.edu/~kriz/cifar.html",
    "cifar100": "https://www.cs.toronto.edu/~kriz/cifar.html",
    "stl10": "https://cs.stanford.edu/~acoates/stl10",
    "tiny-imagenet": "http://cs231n.stanford.edu/tiny-imagenet-200.zip",
}
VERSION = 1
"""Of the decoded copies; raise it when the same files are to give other arrays."""
BLOCK = 4096
"""Images that are copied at a time."""
TIMEOUT = 30.0
"""Seconds of silence after which a download is given up."""


class _File(NamedTuple):
    """One file as published."""

    name: str
    url: str
    md5: str


TINY = _File("tiny-imagenet-200.zip", SOURCES["tiny-imagenet"], "90528d7ca1a48142e341f4ef8d21d0de")
TINY_IMAGES = {"train": 100_000, "val": 10_000}


class _Images(NamedTuple):
    """A split: `labels` (n,) int64, and its images as blocks (b, C, H, W) uint8, as many at once as suits their source.

    Of a training split, images with label -1, unlabelled ones, come last.
    """

    labels: npt.ArrayLike
    blocks: Iterable[np.ndarray]


class _Content(NamedTuple):
    train: _Images
    test: _Images
    classes: tuple[str, ...]


def load(name: str, root: Path, image_size: int | None, download: bool) -> Dataset:
    """The data set `name`, downloaded if need be by whichever process comes first.

    Raises InputError if `image_size` is neither None nor that of the data set, if files are missing and cannot be
    downloaded (it names them and the folder they belong into), or if a file is not the published one.
    """
    check_size(name, image_size, SIZES[name])
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
    readers = {"svhn": _read_svhn, "stl10": _read_stl10, "tiny-imagenet": _read_tiny_imagenet}
    with readers.get(name, _read_cifar)(name, root, download) as content, cache.building(root, key, name) as folder:
        for split, images in (("train", content.train), ("test", content.test)):
            labels = np.asarray(images.labels, np.int64)
            cache.write_split(folder, split, len(labels), images.blocks, labels)
        cache.write_description(folder, content.classes, name)


@contextmanager
def _read_svhn(name: str, root: Path, download: bool) -> Iterator[_Content]:
    from torchvision.datasets import SVHN

    published = {split: SVHN.split_list[split] for split in ("train", "test")}
    _fetch(name, root, [_File(file, url, md5) for url, file, md5 in published.values()], download)
    # torchvision turns the label 10 of the files into 0, the digit it stands for.
    splits = (SVHN(root, split) for split in published)
    train, test = (_Images(np.atleast_1d(split.labels), [split.data]) for split in splits)
    yield _Content(train, test, tuple("0123456789"))


@contextmanager
def _read_cifar(name: str, root: Path, download: bool) -> Iterator[_Content]:
    from torchvision.datasets import CIFAR10, CIFAR100

    kind = CIFAR10 if name == "cifar10" else CIFAR100
    parts = [*kind.train_list, *kind.test_list, (kind.meta["filename"], kind.meta["md5"])]
    with _unpacked(name, root, kind, parts, download) as folder:
        splits = [kind(folder, train) for train in (True, False)]
        train, test = (_Images(split.targets, [split.data.transpose(0, 3, 1, 2)]) for split in splits)
        yield _Content(train, test, tuple(splits[0].classes))


@contextmanager
def _read_stl10(name: str, root: Path, download: bool) -> Iterator[_Content]:
    from torchvision.datasets import STL10

    with _unpacked(name, root, STL10, [*STL10.train_list, *STL10.test_list], download) as folder:
        train, unlabelled, test = (STL10(folder, split) for split in ("train", "unlabeled", "test"))
        # The files hold 3 GB of columns; turning them into rows needs a copy, so it is done block by block.
        blocks = (
            images[i : i + BLOCK] for images in (train.data, unlabelled.data) for i in range(0, len(images), BLOCK)
        )
        labels = np.concatenate([train.labels.astype(np.int64), np.full(len(unlabelled.data), -1)])
        yield _Content(_Images(labels, blocks), _Images(test.labels, [test.data]), tuple(train.classes))


@contextmanager
def _read_tiny_imagenet(name: str, root: Path, download: bool) -> Iterator[_Content]:
    base = TINY.name.removesuffix(".zip")
    if (root / base).is_dir():
        yield _tiny_content(root / base)
        return
    with _extracted(name, root, TINY, download) as folder:
        yield _tiny_content(folder / base)


def _tiny_content(folder: Path) -> _Content:
    """train/<class>/images/*.JPEG, and val/images/*.JPEG with their classes in val/val_annotations.txt."""
    try:
        classes = sorted((folder / "wnids.txt").read_text().split())
        annotations = (folder / "val" / "val_annotations.txt").read_text().splitlines()
        number = {wnid: label for label, wnid in enumerate(classes)}
        labelled: dict[str, list[tuple[Path, int]]] = {"train": [], "val": []}
        for wnid in classes:
            paths = sorted((folder / "train" / wnid).glob("images/*.JPEG"))
            labelled["train"] += [(path, number[wnid]) for path in paths]
        for image, wnid in sorted(line.split("\t")[:2] for line in annotations):
            labelled["val"].append((folder / "val" / "images" / image, number[wnid]))
    except (OSError, ValueError, KeyError) as error:
        raise InputError(f"{folder}: not Tiny ImageNet as published ({error}); unpack {TINY.url} anew") from error
    for split, files in labelled.items():
        if len(files) != TINY_IMAGES[split]:
            raise InputError(
                f"{folder / split}: {len(files):,} images instead of {TINY_IMAGES[split]:,}; delete {folder} and load "
                f"again, or unpack {TINY.url} anew"
            )

    def images(split: str) -> _Images:
        pixels = (decode.whole(path, 3, SIZES["tiny-imagenet"])[None] for path, _ in labelled[split])
        return _Images([label for _, label in labelled[split]], pixels)

    return _Content(images("train"), images("val"), tuple(classes))


@contextmanager
def _unpacked(name: str, root: Path, kind: Any, parts: list[tuple[str, str]], download: bool) -> Iterator[Path]:
    """A folder with the unpacked archive of a data set of torchvision, whose `parts` (name, MD5) are as published."""
    from torchvision.datasets.utils import check_integrity

    unpacked = root / kind.base_folder
    if unpacked.exists():
        bad = [part for part, md5 in parts if not check_integrity(unpacked / part, md5)]
        if bad:
            raise InputError(
                f"{unpacked}: {', '.join(bad)} missing or not as published (MD5); delete this folder and load again, "
                f"or unpack {kind.url} anew"
            )
        yield root
        return
    with _extracted(name, root, _File(kind.filename, kind.url, kind.tgz_md5), download) as folder:
        yield folder


@contextmanager
def _extracted(name: str, root: Path, archive: _File, download: bool) -> Iterator[Path]:
    """A scratch folder with the content of an archive, which is downloaded if need be."""
    from torchvision.datasets.utils import extract_archive

    _fetch(name, root, [archive], download)
    with cache.scratch(root, f"{name}-archive") as folder:
        try:
            extract_archive(root / archive.name, folder)
        except OSError as error:
            raise InputError(f"{root / archive.name}: cannot be unpacked ({error}); free some space") from error
        yield folder


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
    before = socket.getdefaulttimeout()
    for i, file in enumerate(missing):
        try:
            # Under their final names there are only whole, verified files.
            with cache.scratch(root, name) as folder:
                # torchvision sets none, and behind a firewall that drops packets it would wait for ever.
                socket.setdefaulttimeout(TIMEOUT)
                download_url(file.url, folder, file.name, file.md5)
                (folder / file.name).rename(root / file.name)
        except (OSError, http.client.HTTPException) as error:
            raise _not_here(name, root, missing[i:], f"downloading it failed: {error}") from error
        except RuntimeError as error:  # torchvision's word for a wrong checksum
            raise _not_here(name, root, missing[i:], "what was downloaded is incomplete or altered") from error
        finally:
            socket.setdefaulttimeout(before)


def _not_here(name: str, root: Path, missing: list[_File], reason: str) -> InputError:
    files = " and ".join(f"{file.name} (from {file.url})" for file in missing)
    return InputError(f"{name} is not in {root} and {reason}; put {files} into {root}; nothing else was changed")
