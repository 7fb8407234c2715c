"""Your own images: PATH/train/<class>/* and PATH/test/<class>/*; and ImageNet-100, whose test split is in val.

Read are files with a suffix in `SUFFIXES`, in any case, directly in a class folder. Hidden files are ignored silently,
others with a logged warning; a folder inside a class folder is an error. Names of classes are compared in Unicode's
composed form (NFC), since macOS writes the decomposed one. Classes are sorted by name, images by class and file name.
The data set is greyscale if the mode of every image is, else RGB; for the pixels see `cplearn.data.image_files`.

Images are decoded once, at the size that is wanted, into a memory-mapped cache ("cached"), or whenever they are used
("on-demand", see `cplearn.data.image_files`). Either way every image is decoded once when its folder is first read, so
that a damaged one is found before anything is trained.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import stat
import time
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np
import torch

from cplearn.data import cache, catalogue, image_files
from cplearn.data.dataset import Dataset, Split
from cplearn.data.image_files import ImageFiles
from cplearn.errors import InputError

SUFFIXES = {".bmp", ".gif", ".jfif", ".jpe", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"}
MIXED_SIZE = 64
"""Side in pixels if none is asked for and the images do not share one."""
LARGEST_SIZE = 1024
"""Largest side in pixels that is taken from the images; as many as a trial can ask for."""
SAMPLE = 500
"""Training images that tell mean and standard deviation of a data set that is decoded on demand."""
BLOCK = 256
THREADED_BYTES = 16 * 1024
"""Mean file size above which threads pay; they slow the decoding of small files down."""
SETTLED_NS = 2 * 10**9
"""Age of a file from which an unchanged modification time means unchanged content on every file system."""

T = TypeVar("T")


class _File(NamedTuple):
    path: str
    """Relative to PATH, with forward slashes."""
    label: int
    bytes: int
    mtime_ns: int


@dataclass(frozen=True)
class _Listing:
    """What can be known of a folder without opening an image."""

    path: Path
    test_folder: str
    classes: tuple[str, ...]
    splits: dict[str, list[_File]]
    ignored: tuple[str, ...]

    @property
    def state(self) -> str:
        """Digest that changes when a file is added, removed, renamed or written to, or when the decoder changes."""
        return _digest(json.dumps([image_files.VERSION, self.classes, self.splits]).encode())


@dataclass(frozen=True)
class _Facts:
    """What opening every image tells; remembered with the `state` of the listing that it belongs to."""

    state: str
    content: str
    channels: int
    own_size: int | None
    extents: dict[str, list[tuple[int, int]]]
    """(height, width) of each image of each split, in pixels."""


def load(name: str, root: Path, image_size: int | None, download: bool, on_demand: bool) -> Dataset:
    """The images of `folder:PATH` or of imagenet100, at `image_size`; None: their own if all are square and equal, else
    64 pixels.

    What the first call finds in the files is remembered until one is added, removed, renamed or written to. The
    fingerprint is that of the pixels if these are cached; on demand that
    of all files' contents, labels and classes, with the size in pixels.

    Raises InputError if PATH lacks train or test, a split has no classes, fewer than two or other ones than the other
    split, a class has no images, a file cannot be decoded, or imagenet100 is not there; it cannot be downloaded.
    """
    if name == "imagenet100":
        path, test_folder = root / name, "val"
        if not path.is_dir():
            raise InputError(
                f"{name} is not in {root}; make it of a full ImageNet by: cplearn data {name} --from PATH/TO/IMAGENET"
            )
    else:
        name = catalogue.absolute(name)
        path, test_folder = Path(name.partition(":")[2]), "test"
    if image_size is not None and image_size < 1:
        raise InputError(f"image_size {image_size}: must be at least 1 pixel", key="image_size")
    listing = _list(path, test_folder)
    if listing.ignored:
        logging.getLogger(__name__).warning(
            f"{path}: ignored {len(listing.ignored)} files without a suffix of images, {listing.ignored[0]} for one; "
            f"read are {', '.join(sorted(SUFFIXES))}"
        )
    owner = f"folder-{_digest(os.fsencode(path))}"
    notes = root / "cache" / f"{owner}.json"

    def attempt(locked: bool) -> Dataset | None:
        """The data set; None if something has to be read or written for it and the lock is not held."""
        facts = _recall(notes, listing)
        if facts is None:
            if not locked:
                return None
            facts = _inspect(listing)
            _remember(notes, listing, facts)
        size = image_size or facts.own_size or MIXED_SIZE
        if not image_size and size > LARGEST_SIZE:
            reason = "say at which size they are wanted, image_size 224 for instance"
            raise InputError(f"{path}: its images have {size} x {size} pixels; {reason}", key="image_size")
        if on_demand:
            return _on_demand(name, root, listing, facts, size, locked)
        key = f"{facts.content}-{size}"
        dataset = cache.read(root, key, name, str(path))
        if dataset is None and locked:
            train, test = (
                cache.Blocks([file.label for file in files], _decoded(listing, files, facts.channels, size))
                for files in listing.splits.values()
            )
            cache.write(root, key, owner, listing.classes, str(path), train, test)
            dataset = cache.read(root, key, name, str(path))
        return dataset

    dataset = attempt(locked=False)
    if dataset is None:
        with cache.lock(root, owner):
            dataset = attempt(locked=True)
    assert dataset is not None
    return dataset


def _decoded(listing: _Listing, files: list[_File], channels: int, size: int) -> Iterator[np.ndarray]:
    yield from _each(lambda file: image_files.whole(listing.path / file.path, channels, size)[None], files)
    _check_unchanged(listing)


def _on_demand(name: str, root: Path, listing: _Listing, facts: _Facts, size: int, locked: bool) -> Dataset | None:
    """The images in their files; None if their mean and deviation are not known and the lock is not held."""
    path = listing.path
    train, test = (
        Split(
            ImageFiles(path, [file.path for file in files], torch.tensor(facts.extents[split]), facts.channels, size),
            torch.tensor([file.label for file in files]),
        )
        for split, files in listing.splits.items()
    )
    mean, std = catalogue.entry(name).mean, catalogue.entry(name).std
    if mean is None or std is None:
        moments_file = root / "cache" / f"{facts.content}-{size}-moments.json"
        if not moments_file.exists():
            if not locked:
                return None
            # Of some images, evenly spread, as evaluation shows them.
            rows = torch.linspace(0, len(train.labels) - 1, min(len(train.labels), SAMPLE)).round().long()
            _write(moments_file, cache.moments(train.images[rows].numpy(), str(path)))
        mean, std = json.loads(moments_file.read_text())
    fingerprint = _digest(json.dumps(["on-demand", facts.content, size]).encode())
    return Dataset(name, train, test, listing.classes, fingerprint, mean, std, str(path))


def _list(path: Path, test_folder: str) -> _Listing:
    folders = {"train": "train", "test": test_folder}
    if not path.is_dir():
        raise InputError(
            f"{path}: no such folder; dataset folder:PATH reads PATH/train/<class>/* and PATH/{test_folder}/<class>/*"
        )
    ignored: list[str] = []
    classes: dict[str, dict[str, str]] = {split: {} for split in folders}
    for split, folder in folders.items():
        if not (path / folder).is_dir():
            raise InputError(
                f"{path}: no folder {folder!r} in it; expected train/<class>/* and {test_folder}/<class>/*, with the "
                "same classes"
            )
        inside, others = _scan(path / folder)
        if not inside:
            raise InputError(f"{path / folder}: no class folders in it; put the images into one folder a class")
        for entry in inside:
            name = unicodedata.normalize("NFC", entry.name)
            if name in classes[split]:
                raise InputError(
                    f"{path / folder}: two folders for the class {name!r}, in two Unicode forms; join them"
                )
            classes[split][name] = f"{folder}/{entry.name}"
        ignored += [f"{folder}/{entry.name}" for entry in others]
    names = sorted(classes["train"])
    only = {"train": sorted(set(names) - set(classes["test"])), "test": sorted(set(classes["test"]) - set(names))}
    difference = "; ".join(f"only in {split}: {', '.join(missing)}" for split, missing in only.items() if missing)
    if difference:
        raise InputError(f"{path}: train and test have different classes; {difference}")
    if len(names) == 1:
        raise InputError(f"{path}: only one class, {names[0]!r}; at least two are needed")
    splits = {
        split: [file for label, name in enumerate(names) for file in _list_class(path, by_class[name], label, ignored)]
        for split, by_class in classes.items()
    }
    return _Listing(path, test_folder, tuple(names), splits, tuple(ignored))


def _list_class(path: Path, folder: str, label: int, ignored: list[str]) -> list[_File]:
    """The images of a class; the names of other files join `ignored`."""
    inside, entries = _scan(path / folder)
    if inside:
        raise InputError(
            f"{inside[0].path}: a folder inside a class folder; put its images directly into {path / folder}"
        )
    files = []
    for entry in entries:
        if os.path.splitext(entry.name)[1].lower() not in SUFFIXES:
            ignored.append(f"{folder}/{entry.name}")
            continue
        try:
            status = entry.stat()
        except OSError as error:
            raise image_files.unreadable(Path(entry.path), error) from error
        if not stat.S_ISREG(status.st_mode):
            raise InputError(f"{entry.path}: not a regular file; remove it")
        files.append(_File(f"{folder}/{entry.name}", label, status.st_size, status.st_mtime_ns))
    if not files:
        raise InputError(f"{path / folder}: no images in this class folder; read are {', '.join(sorted(SUFFIXES))}")
    return files


def _scan(folder: Path) -> tuple[list[os.DirEntry[str]], list[os.DirEntry[str]]]:
    """The folders in a folder and what else is in it, each by name, without what is hidden."""
    folders: list[os.DirEntry[str]] = []
    others: list[os.DirEntry[str]] = []
    try:
        with os.scandir(folder) as entries:
            visible = sorted((entry for entry in entries if not entry.name.startswith(".")), key=lambda e: e.name)
    except OSError as error:
        raise InputError(f"{folder}: cannot be listed ({error}); check its permissions") from error
    for entry in visible:
        try:
            (folders if entry.is_dir() else others).append(entry)
        except OSError as error:  # a link to itself, for instance
            raise InputError(f"{entry.path}: cannot be opened ({error.strerror}); remove or repair it") from error
    return folders, others


def _recall(notes: Path, listing: _Listing) -> _Facts | None:
    try:
        facts = _Facts(**json.loads(notes.read_text()))
    except (OSError, ValueError, TypeError):
        return None
    return facts if facts.state == listing.state else None


def _remember(notes: Path, listing: _Listing, facts: _Facts) -> None:
    # A file that is written twice within one tick of the file system's clock keeps its modification time, so that of
    # a file just written proves nothing.
    newest = max(file.mtime_ns for files in listing.splits.values() for file in files)
    if time.time_ns() - newest >= SETTLED_NS:
        with suppress(OSError):  # this only saves time
            _write(notes, asdict(facts))


def _write(path: Path, content: object) -> None:
    """Write JSON to `path`, whole or not at all."""
    new = path.with_suffix(".new")
    new.write_text(json.dumps(content))
    new.replace(path)


def _inspect(listing: _Listing) -> _Facts:
    """Read every file once: its content's digest, its mode and its size."""
    digest, greyscale = hashlib.blake2b(digest_size=16), True
    extents: dict[str, list[tuple[int, int]]] = {}
    digest.update(json.dumps([image_files.VERSION, listing.classes]).encode())
    for split, files in listing.splits.items():
        digest.update(json.dumps([split, [file.label for file in files]]).encode())
        extents[split] = []
        for content, extent, mode in _each(lambda file: image_files.check(listing.path / file.path), files):
            digest.update(content)
            extents[split].append(extent)
            greyscale &= mode in image_files.GREYSCALE
    (height, width), *others = {extent for own in extents.values() for extent in own}
    own_size = width if width == height and not others else None
    _check_unchanged(listing)
    return _Facts(listing.state, digest.hexdigest(), 1 if greyscale else 3, own_size, extents)


def _check_unchanged(listing: _Listing) -> None:
    if _list(listing.path, listing.test_folder).state != listing.state:
        raise InputError(f"{listing.path}: files changed while they were read; load again")


def _each(function: Callable[[_File], T], files: Sequence[_File]) -> Iterator[T]:
    """`function` of every file, in order; in threads where that pays, a block at a time to bound the memory."""
    if sum(file.bytes for file in files) < THREADED_BYTES * len(files):
        yield from map(function, files)
        return
    with ThreadPoolExecutor(min(os.cpu_count() or 1, 16)) as pool:
        for start in range(0, len(files), BLOCK):
            yield from pool.map(function, files[start : start + BLOCK])


def _digest(data: bytes) -> str:
    return hashlib.blake2b(data, digest_size=16).hexdigest()
