"""Public data sets, downloaded and checked: SVHN (without its extra split), CIFAR-10, CIFAR-100 (fine labels), STL-10
and Tiny ImageNet (its validation images are the test split). All but the last are read by torchvision.

The original files lie in the data folder as torchvision lays them out, so that earlier downloads are found:
train_32x32.mat and test_32x32.mat; cifar-10-python.tar.gz or the folder cifar-10-batches-py; cifar-100-python.tar.gz
or the folder cifar-100-python; stl10_binary.tar.gz or the folder stl10_binary; tiny-imagenet-200.zip or the folder
tiny-imagenet-200. What is missing is downloaded. Once decoded (see `cplearn.data.cache`) they are no longer needed.
"""

import http.client
import socket
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from cplearn.data import cache, image_files
from cplearn.data.cache import Blocks
from cplearn.data.dataset import Dataset, Request, Source, check_size
from cplearn.errors import InputError

SIZES = {"svhn": 32, "cifar10": 32, "cifar100": 32, "stl10": 96, "tiny-imagenet": 64}
SOURCES = {
    "svhn": "http://ufldl.stanford.edu/housenumbers",
    "cifar10": "https://www.cs.toronto.edu/~kriz/cifar.html",
    "cifar100": "https://www.cs.toronto.edu/~kriz/cifar.html",
    "stl10": "https://cs.stanford.edu/~acoates/stl10",
    "tiny-imagenet": "http://cs231n.stanford.edu/tiny-imagenet-200.zip",
}
VERSION = 1  # Of the decoded copies; raise it when the same files are to give other arrays.
BLOCK = 4096  # Images that are copied at a time.
TIMEOUT = 30.0  # Seconds of silence after which a download is given up.


class _File(NamedTuple):
    """One file as published."""

    name: str
    url: str
    md5: str


TINY = _File("tiny-imagenet-200.zip", SOURCES["tiny-imagenet"], "90528d7ca1a48142e341f4ef8d21d0de")
TINY_IMAGES = {"train": 100_000, "val": 10_000}

Content = tuple[Sequence[str], Blocks, Blocks]  # Classes, training and test split.


class Public(Source):
    """A public data set, downloaded if need be by whichever process comes first."""

    def load(self, request: Request) -> Dataset:
        """The data set from its decoded copy, else from the original files.

        Raises InputError if another size than its own is asked for, if files are missing and cannot be downloaded (it
        names them and the folder they belong into), or if a file is not the published one.
        """
        name, root, key = self.name, request.root, f"{self.name}-v{VERSION}"
        check_size(name, request.image_size, SIZES[name])
        readers = {"svhn": _read_svhn, "stl10": _read_stl10, "tiny-imagenet": _read_tiny_imagenet}

        def make() -> None:
            with cache.scratch(root, f"{name}-archive") as scratch:
                content = readers.get(name, _read_cifar)(name, root, scratch, request.download)
                cache.write(root, key, name, content[0], name, *content[1:])

        return cache.obtain(root, key, name, self.place, name, make)


def source(name: str, root: Path) -> Public:
    return Public(name, SOURCES[name])


# Each reader may unpack an archive into the folder `scratch`.


def _read_svhn(name: str, root: Path, scratch: Path, download: bool) -> Content:
    from torchvision.datasets import SVHN

    published = {split: SVHN.split_list[split] for split in ("train", "test")}
    _fetch(name, root, [_File(file, url, md5) for url, file, md5 in published.values()], download)
    # torchvision turns the label 10 of the files into 0, the digit it stands for.
    splits = (SVHN(root, split) for split in published)
    train, test = (Blocks(np.atleast_1d(split.labels), [split.data]) for split in splits)
    return "0123456789", train, test


def _read_cifar(name: str, root: Path, scratch: Path, download: bool) -> Content:
    from torchvision.datasets import CIFAR10, CIFAR100

    kind = CIFAR10 if name == "cifar10" else CIFAR100
    parts = [*kind.train_list, *kind.test_list, (kind.meta["filename"], kind.meta["md5"])]
    archive = _File(kind.filename, kind.url, kind.tgz_md5)
    folder = _unpacked(name, root, scratch, archive, kind.base_folder, parts, download)
    splits = [kind(folder, train) for train in (True, False)]
    train, test = (Blocks(split.targets, [split.data.transpose(0, 3, 1, 2)]) for split in splits)
    return splits[0].classes, train, test


def _read_stl10(name: str, root: Path, scratch: Path, download: bool) -> Content:
    from torchvision.datasets import STL10

    archive = _File(STL10.filename, STL10.url, STL10.tgz_md5)
    parts = [*STL10.train_list, *STL10.test_list]
    folder = _unpacked(name, root, scratch, archive, STL10.base_folder, parts, download)
    train, unlabelled, test = (STL10(folder, split) for split in ("train", "unlabeled", "test"))
    # The files hold 3 GB of columns; turning them into rows needs a copy, so it is done block by block.
    blocks = (images[i : i + BLOCK] for images in (train.data, unlabelled.data) for i in range(0, len(images), BLOCK))
    labels = np.concatenate([train.labels.astype(np.int64), np.full(len(unlabelled.data), -1)])
    return train.classes, Blocks(labels, blocks), Blocks(test.labels, [test.data])


def _read_tiny_imagenet(name: str, root: Path, scratch: Path, download: bool) -> Content:
    """train/<class>/images/*.JPEG, and val/images/*.JPEG with their classes in val/val_annotations.txt."""
    base = TINY.name.removesuffix(".zip")
    folder = _unpacked(name, root, scratch, TINY, base, [], download) / base
    try:
        classes = sorted((folder / "wnids.txt").read_text().split())
        number = {wnid: label for label, wnid in enumerate(classes)}
        annotations = (folder / "val" / "val_annotations.txt").read_text().splitlines()
        train = [
            (path, label)
            for wnid, label in number.items()
            for path in sorted((folder / "train" / wnid).glob("images/*.JPEG"))
        ]
        test = [
            (folder / "val" / "images" / image, number[wnid])
            for image, wnid in sorted(line.split("\t")[:2] for line in annotations)
        ]
    except (OSError, ValueError, KeyError) as error:
        raise InputError(f"{folder}: not Tiny ImageNet as published ({error}); unpack {TINY.url} anew") from error
    for split, files in (("train", train), ("val", test)):
        if len(files) != TINY_IMAGES[split]:
            raise InputError(
                f"{folder / split}: {len(files):,} images instead of {TINY_IMAGES[split]:,}; delete {folder} and load "
                f"again, or unpack {TINY.url} anew"
            )

    def images(files: list[tuple[Path, int]]) -> Blocks:
        pixels = (image_files.whole(path, 3, SIZES["tiny-imagenet"])[None] for path, _ in files)
        return Blocks([label for _, label in files], pixels)

    return classes, images(train), images(test)


def _unpacked(
    name: str, root: Path, scratch: Path, archive: _File, base: str, parts: list[tuple[str, str]], download: bool
) -> Path:
    """Where the folder `base` of an archive lies: in `root`, if its `parts` (name, MD5) are as published, or in
    `scratch`, extracted from the archive, which is downloaded if need be."""
    from torchvision.datasets.utils import check_integrity, extract_archive

    unpacked = root / base
    bad = [part for part, md5 in parts if unpacked.exists() and not check_integrity(unpacked / part, md5)]
    if bad:
        raise InputError(
            f"{unpacked}: {', '.join(bad)} missing or not as published (MD5); delete this folder and load again, or "
            f"unpack {archive.url} anew"
        )
    if unpacked.exists():
        return root
    _fetch(name, root, [archive], download)
    try:
        extract_archive(root / archive.name, scratch)
    except OSError as error:
        raise InputError(f"{root / archive.name}: cannot be unpacked ({error}); free some space") from error
    return scratch


def _fetch(name: str, root: Path, files: list[_File], download: bool) -> None:
    """Make sure that `files` lie in `root`, as published. Files that are there are checked and never replaced."""
    from torchvision.datasets.utils import check_integrity, download_url

    def not_here(missing: list[_File], reason: str) -> InputError:
        listed = " and ".join(f"{file.name} (from {file.url})" for file in missing)
        return InputError(f"{name} is not in {root} and {reason}; put {listed} into {root}; nothing else was changed")

    missing = [file for file in files if not (root / file.name).exists()]
    for file in files:
        if file not in missing and not check_integrity(root / file.name, file.md5):
            raise InputError(
                f"{root / file.name}: not the published file (its MD5 is not {file.md5}), perhaps an incomplete "
                f"download; delete it and load again, or replace it by {file.url}"
            )
    if missing and not download:
        raise not_here(missing, "downloading is turned off")
    before = socket.getdefaulttimeout()
    # torchvision sets none, and behind a firewall that drops packets it would wait for ever.
    socket.setdefaulttimeout(TIMEOUT)
    try:
        while missing:
            file = missing[0]
            # Under their final names there are only whole, verified files.
            with cache.scratch(root, name) as folder:
                download_url(file.url, folder, file.name, file.md5)
                (folder / file.name).rename(root / file.name)
            del missing[0]
    except (OSError, http.client.HTTPException) as error:
        raise not_here(missing, f"downloading it failed: {error}") from error
    except RuntimeError as error:  # torchvision's word for a wrong checksum
        raise not_here(missing, "what was downloaded is incomplete or altered") from error
    finally:
        socket.setdefaulttimeout(before)
