"""Decoded data sets on disk: written once, then memory-mapped by every process that loads them.

    ROOT/cache/KEY/train-images.npy   (n, C, H, W) uint8
    ROOT/cache/KEY/train-labels.npy   (n,) int64; the same two for test
    ROOT/cache/KEY/dataset.json       classes, fingerprint, mean and std, and checksums of the other files

A folder KEY is complete if it exists: it is written under another name and renamed. Its files are compared with their
checksums when it is opened; a damaged copy is removed with a logged note, and the data set is decoded anew.
"""

import hashlib
import json
import logging
import os
import shutil
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from filelock import FileLock

from cplearn.data import catalogue
from cplearn.data.dataset import Dataset, Split
from cplearn.errors import InputError

DESCRIPTION = "dataset.json"
CHECKED_BYTES = 2**24  # Size of the blocks of which checksums are taken, each in a thread of its own.
COUNTED_IMAGES = 4096  # Images whose pixels are counted at a time.


class Arrays(NamedTuple):
    """A split: `images` (n, C, H, W) uint8, `labels` (n,) int64."""

    images: npt.NDArray[np.uint8]
    labels: npt.NDArray[np.int64]


class Blocks(NamedTuple):
    """A split to be written: `labels` (n,), and its images as blocks (b, C, H, W) uint8, as suits their source.

    Of a training split, images with label -1, unlabelled ones, come last.
    """

    labels: Sequence[int] | npt.NDArray[Any]
    blocks: Iterable[np.ndarray]


def lock(root: Path, owner: str) -> AbstractContextManager[object]:
    """Hold the lock `owner` of a data folder, across processes, until the end of the `with` block that this opens.

    Raises InputError if the folder cannot be written.
    """
    try:
        (root / "cache").mkdir(parents=True, exist_ok=True)
        return FileLock(root / "cache" / f"{owner}.lock").acquire()
    except OSError as error:
        raise InputError(f"{root}: the data folder cannot be written ({error}); set CPLEARN_DATA to another") from error


@contextmanager
def scratch(root: Path, owner: str) -> Iterator[Path]:
    """An empty folder that is gone afterwards; hold the lock `owner` around it."""
    folder = root / "cache" / f"{owner}.partial"
    shutil.rmtree(folder, ignore_errors=True)  # of a process that was killed
    folder.mkdir(parents=True)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def obtain(root: Path, key: str, name: str, place: str, owner: str, make: Callable[[], None]) -> Dataset:
    """The decoded data set `key`; if it is not there, `make` writes it, in one process while the others wait."""
    dataset = read(root, key, name, place)
    if dataset is None:
        with lock(root, owner):
            dataset = read(root, key, name, place)
            if dataset is None:
                make()
                dataset = read(root, key, name, place)
    assert dataset is not None
    return dataset


def write(root: Path, key: str, owner: str, classes: Sequence[str], source: str, train: Blocks, test: Blocks) -> None:
    """Write the cached folder `key`, while its caller holds the lock `owner`; the images are never all in memory.

    Raises InputError if the disk refuses, or if all training pixels are equal.
    """
    target = root / "cache" / key
    try:
        with scratch(root, owner) as folder:
            for split, images in (("train", train), ("test", test)):
                _write_images(folder / f"{split}-images.npy", len(images.labels), images.blocks)
                np.save(folder / f"{split}-labels.npy", np.asarray(images.labels, np.int64))
            facts = describe(_map(folder, "train"), _map(folder, "test"), classes, source)
            facts["checksums"] = _checksums(folder, facts)
            (folder / DESCRIPTION).write_text(json.dumps(facts, indent=2) + "\n")
            folder.rename(target)
    except OSError as error:
        if not target.exists():  # else another owner, with equal content, came first
            raise InputError(
                f"{target}: the decoded images cannot be written ({error}); free some space or set CPLEARN_DATA to "
                "another folder"
            ) from error


def _write_images(path: Path, n: int, blocks: Iterable[np.ndarray]) -> None:
    # Written, not mapped: on a full disk a write raises, where storing into a memory map would kill the process.
    with open(path, "wb") as file:
        for i, block in enumerate(blocks):
            if i == 0:
                header = {"descr": "|u1", "fortran_order": False, "shape": (n, *block.shape[1:])}
                np.lib.format.write_array_header_1_0(file, header)
            file.write(np.ascontiguousarray(block).data)
        file.flush()
        os.fsync(file.fileno())


def read(root: Path, key: str, name: str, source: str) -> Dataset | None:
    """The decoded data set `key`; None if it is not there, or was damaged and has been removed."""
    folder = root / "cache" / key
    if not folder.exists():
        return None
    try:
        facts = json.loads((folder / DESCRIPTION).read_text())
        train, test = (_map(folder, split) for split in ("train", "test"))
        written = facts.pop("checksums", None)  # earlier versions wrote none; then the fingerprint says the same
        same_pixels = written is None and fingerprint(train, test, facts["classes"]) == facts["fingerprint"]
        if not same_pixels and _checksums(folder, facts) != written:
            raise ValueError("its content does not fit its checksums")
        return assemble(name, source, train, test, facts)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, EOFError) as error:
        logging.getLogger(__name__).warning(
            f"{folder}: this decoded copy is damaged ({error}), so the data set is decoded anew"
        )
        _remove(folder)
        return None


def _checksums(folder: Path, facts: dict[str, Any]) -> dict[str, list[int]]:
    """CRC-32 of every block of each array in a folder, by the name of its file, and that of the `facts` beside them;
    computed in threads, without Python's lock: about a second for 3 GB that lie in memory already."""
    sums = {DESCRIPTION: [zlib.crc32(json.dumps(facts, sort_keys=True).encode())]}
    with ThreadPoolExecutor(min(os.cpu_count() or 1, 8)) as pool:
        for path in sorted(folder.glob("*.npy")):
            content = np.memmap(path, np.uint8, "r")
            blocks = (content[start : start + CHECKED_BYTES] for start in range(0, len(content), CHECKED_BYTES))
            sums[path.name] = list(pool.map(zlib.crc32, blocks))
    return sums


def _remove(folder: Path) -> None:
    """Remove a damaged copy. Other processes may have it mapped: they keep their pages."""
    grave = folder.with_name(f"{folder.name}.damaged-{os.getpid()}")
    try:
        with suppress(FileNotFoundError):  # another process was quicker
            folder.rename(grave)
    except OSError as error:
        raise InputError(f"{folder}: this decoded copy is damaged and cannot be removed ({error.strerror})") from error
    shutil.rmtree(grave, ignore_errors=True)


def describe(train: Arrays, test: Arrays, classes: Sequence[str], source: str) -> dict[str, Any]:
    """What is known of a data set beside its arrays. Raises InputError like `moments`."""
    mean, std = moments(train.images, source)
    return {"classes": list(classes), "fingerprint": fingerprint(train, test, classes), "mean": mean, "std": std}


def assemble(name: str, source: str, train: Arrays, test: Arrays, facts: dict[str, Any]) -> Dataset:
    """A Dataset of arrays; where the catalogue has a mean and a standard deviation, they replace those of `facts`.

    Unlabelled images are the last of `train` and have the label -1; where none has a label, all stay in the split.
    """
    entry = catalogue.entry(name)
    first, second = (Split(torch.from_numpy(images), torch.from_numpy(labels)) for images, labels in (train, test))
    first, with_unlabelled = labelled_part(first)
    mean = float(facts["mean"]) if entry.mean is None else entry.mean
    std = float(facts["std"]) if entry.std is None else entry.std
    classes, identity = tuple(facts["classes"]), str(facts["fingerprint"])
    return Dataset(name, first, second, classes, identity, mean, std, source, with_unlabelled)


def labelled_part(split: Split) -> tuple[Split, Split | None]:
    """A training split without its unlabelled images, which come last, and with them; None if it has none, or no
    others."""
    labelled = int((split.labels >= 0).sum())
    if labelled in (0, len(split.labels)):
        return split, None
    return split.take(slice(labelled)), split


def fingerprint(train: Arrays, test: Arrays, classes: Sequence[str]) -> str:
    """32 hexadecimal digits that identify images, labels (both in order) and class names."""
    shapes = [list(split.images.shape) for split in (train, test)]
    digest = hashlib.blake2b(json.dumps([list(classes), shapes]).encode(), digest_size=16)
    for images, labels in (train, test):
        digest.update(np.ascontiguousarray(images).data)
        digest.update(labels.astype("<i8").data)
    return digest.hexdigest()


def moments(images: npt.NDArray[np.uint8], source: str) -> tuple[float, float]:
    """Mean and (population) standard deviation of all pixels, scaled to [0, 1], without accumulated rounding.

    Raises InputError if all training pixels are equal: nothing could be normalised then, let alone learned.
    """
    counts = np.zeros(256, np.int64)
    for start in range(0, len(images), COUNTED_IMAGES):
        counts += np.bincount(images[start : start + COUNTED_IMAGES].reshape(-1), minlength=256)
    values, weights = np.arange(256) / 255, counts / counts.sum()
    mean = float(weights @ values)
    std = float(np.sqrt(weights @ (values - mean) ** 2))
    if std == 0:
        raise InputError(f"{source}: every training pixel has the value {round(255 * mean)}; check these images")
    return mean, std


def _map(folder: Path, split: str) -> Arrays:
    # Copy-on-write: torch wants writable memory, and the files must not change.
    return Arrays(np.load(folder / f"{split}-images.npy", mmap_mode="c"), np.load(folder / f"{split}-labels.npy"))
