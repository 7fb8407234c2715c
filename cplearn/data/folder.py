"""Your own images: PATH/train/<class>/* and PATH/test/<class>/*; and ImageNet-100, whose test split is in val.

Read are files with a suffix in `SUFFIXES`, in any case, directly in a class folder. Hidden files are ignored silently,
others with a logged warning; a folder inside a class folder is an error. Names of classes are compared in Unicode's
composed form (NFC), since macOS writes the decomposed one. Classes are sorted by name, images by class and file name.
The data set is greyscale if the mode of every image is, else RGB; for the pixels see `cplearn.data.image_files`.
"""

from __future__ import annotations

import json
import logging
import os
import stat
import unicodedata
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from cplearn.data import image_files
from cplearn.data.encoded import EncodedSource, Listing, digest
from cplearn.data.image_files import Encoded
from cplearn.data.source import Request
from cplearn.errors import InputError

SUFFIXES = {".bmp", ".gif", ".jfif", ".jpe", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"}


class _File(NamedTuple):
    path: str
    """Relative to PATH, with forward slashes."""
    label: int
    bytes: int
    mtime_ns: int


@dataclass(frozen=True)
class _Found:
    """What lies in a folder: classes, the files of each split, and other files that were ignored."""

    classes: tuple[str, ...]
    splits: dict[str, list[_File]]
    ignored: tuple[str, ...]


class Folder(EncodedSource):
    """The images of `folder:PATH` or of imagenet100."""

    def __init__(self, name: str, path: Path, test_folder: str) -> None:
        super().__init__(name, str(path), "folder")
        self.path, self.test_folder = path, test_folder
        self.found: _Found | None = None

    def listing(self, request: Request) -> Listing:
        """Raises InputError if the folder lacks train or test, a split has no classes, fewer than two or other ones
        than the other split, a class has no images, or imagenet100 is not there; it cannot be downloaded."""
        if self.name == "imagenet100" and not self.path.is_dir():
            raise InputError(
                f"{self.name} is not in {request.root}; make it of a full ImageNet by: cplearn data {self.name} "
                "--from PATH/TO/IMAGENET"
            )
        first, self.found = self.found is None, _list(self.path, self.test_folder)
        classes, splits, ignored = self.found.classes, self.found.splits, self.found.ignored
        if ignored and first:
            logging.getLogger(__name__).warning(
                f"{self.path}: ignored {len(ignored)} files without a suffix of images, {ignored[0]} for one; "
                f"read are {', '.join(sorted(SUFFIXES))}"
            )
        files = [file for files in splits.values() for file in files]
        return Listing(
            classes,
            {split: [file.label for file in files] for split, files in splits.items()},
            digest(json.dumps([image_files.VERSION, classes, splits]).encode()),
            max(file.mtime_ns for file in files),
            sum(file.bytes for file in files),
        )

    def images(self, split: str) -> Iterable[Encoded]:
        assert self.found is not None
        return (self.path / file.path for file in self.found.splits[split])

    def finder(self, split: str) -> Callable[[int], Encoded]:
        assert self.found is not None
        files = self.found.splits[split]
        return lambda row: self.path / files[row].path


def source(name: str, root: Path) -> Folder:
    if name == "imagenet100":
        return Folder(name, root / name, "val")
    return Folder(name, Path(name.partition(":")[2]), "test")


def _list(path: Path, test_folder: str) -> _Found:
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
    return _Found(tuple(names), splits, tuple(ignored))


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
