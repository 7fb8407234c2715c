"""Your own images: PATH/train/<class>/* and PATH/test/<class>/*.

Which files: those with a suffix in `SUFFIXES`, in any case, directly in a class folder. Hidden files are ignored
silently, other files with a logged warning whenever the folder is read; a folder inside a class folder is an error.
Names of classes are compared in Unicode's composed form (NFC), since macOS writes the decomposed one. Classes are
sorted by name, images by class and file name. Which pixels: see `cplearn.data.decode`. The data set is greyscale if the
mode of every image is, else RGB.

Images are either decoded once, at the size that is wanted, into a memory-mapped cache ("cached"), or every time they
are used ("on-demand"): then nothing is written, random crops are cut from the full resolution, and the data set may be
larger than memory and disk (see `cplearn.data.image_files`). Either way every image is decoded once when its folder is
first read, so that a damaged one is found before anything is trained.
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

import torch

from cplearn.data import cache, catalogue, decode
from cplearn.data.dataset import Dataset, Split
from cplearn.data.image_files import ImageFiles
from cplearn.errors import InputError

SUFFIXES = {".bmp", ".gif", ".jfif", ".jpe", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"}
MIXED_SIZE = 64
"""Side in pixels if none is asked for and the images do not share one."""
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
    def files(self) -> list[_File]:
        return [file for files in self.splits.values() for file in files]

    @property
    def state(self) -> str:
        """Digest that changes when a file is added, removed, renamed or written to, or when the decoder changes."""
        return _digest(json.dumps([decode.VERSION, self.classes, self.splits]).encode())


@dataclass(frozen=True)
class _Facts:
    """What opening every image tells; remembered with the `state` of the listing that it belongs to."""

    state: str
    content: str
    channels: int
    own_size: int | None
    extents: dict[str, list[tuple[int, int]]]
    """(height, width) of each image of each split, in pixels."""


def load(name: str, root: Path, image_size: int | None, download: bool, on_demand: bool = False) -> Dataset:
    """The images of `folder:PATH` at `image_size`; None: their own if all are square and equal, else 64 pixels.

    Raises InputError if PATH lacks train or test, a split has no classes, fewer than two or other ones than the other
    split, a class has no images, or a file cannot be decoded.
    """
    path = Path(os.path.abspath(Path(name.partition(":")[2]).expanduser()))
    return read(f"folder:{path}", path, root, image_size, on_demand)


def read(
    name: str, path: Path, root: Path, image_size: int | None, on_demand: bool, test_folder: str = "test"
) -> Dataset:
    """The data set `name` of the images below `path`, whose test split lies in `test_folder`; raises as `load` does.

    The first call reads every file: content, size and mode. What it found is remembered in the data folder until a file
    is added, removed, renamed or written to. The fingerprint is that of the pixels if these are cached; on demand that
    of all files' contents, labels and classes, with the size in pixels.
    """
    if image_size is not None and image_size < 1:
        raise InputError(f"image_size {image_size}: must be at least 1 pixel", key="image_size")
    listing = _list(path, test_folder)
    if listing.ignored:
        logging.getLogger(__name__).warning(
            "%s: ignored %d files without a suffix of images, %s for one; read are %s",
            path,
            len(listing.ignored),
            listing.ignored[0],
            ", ".join(sorted(SUFFIXES)),
        )
    owner = f"folder-{_digest(os.fsencode(path))}"
    notes = root / "cache" / f"{owner}.json"

    def source(facts: _Facts) -> _Source:
        return _Source(name, listing, facts, image_size or facts.own_size or MIXED_SIZE, root, on_demand)

    facts = _recall(notes, listing)
    dataset = source(facts).read() if facts else None
    if dataset is None:
        with cache.lock(root, owner):
            facts = _recall(notes, listing)
            if facts is None:
                facts = _inspect(listing)
                if on_demand:  # what is cached is checked after it was decoded
                    _check_unchanged(listing)
                _remember(notes, listing, facts)
            dataset = source(facts).read()
            if dataset is None:
                source(facts).prepare(owner)
                dataset = source(facts).read()
    assert dataset is not None
    return dataset


@dataclass(frozen=True)
class _Source:
    """The images of a folder at one size, cached or decoded on demand."""

    name: str
    listing: _Listing
    facts: _Facts
    size: int
    root: Path
    on_demand: bool

    @property
    def key(self) -> str:
        return f"{self.facts.content}-{self.size}"

    @property
    def moments_file(self) -> Path:
        return self.root / "cache" / f"{self.key}-moments.json"

    def image_files(self, split: str) -> ImageFiles:
        paths, extents = [file.path for file in self.listing.splits[split]], torch.tensor(self.facts.extents[split])
        return ImageFiles(self.listing.path, paths, extents, self.facts.channels, self.size)

    def read(self) -> Dataset | None:
        """The data set; None if it is not decoded yet, or if its mean and deviation are not known."""
        if not self.on_demand:
            return cache.read(self.root, self.key, self.name, str(self.listing.path))
        entry = catalogue.entry(self.name)
        if entry.mean is not None and entry.std is not None:
            mean, std = entry.mean, entry.std
        elif self.moments_file.exists():
            mean, std = json.loads(self.moments_file.read_text())
        else:
            return None
        train, test = (
            Split(self.image_files(split), torch.tensor([file.label for file in files]))
            for split, files in self.listing.splits.items()
        )
        fingerprint = _digest(json.dumps(["on-demand", self.facts.content, self.size]).encode())
        return Dataset(self.name, train, test, self.listing.classes, fingerprint, mean, std, str(self.listing.path))

    def prepare(self, owner: str) -> None:
        """Decode all images; or keep mean and deviation of some, evenly spread, as evaluation shows them."""
        listing, channels, source = self.listing, self.facts.channels, str(self.listing.path)
        if self.on_demand:
            files = self.image_files("train")
            rows = torch.linspace(0, len(files) - 1, min(len(files), SAMPLE)).round().long()
            _write(self.moments_file, cache.moments(files[rows].numpy(), source))
            return
        with cache.building(self.root, self.key, owner) as folder:
            for split, members in listing.splits.items():
                labels = [file.label for file in members]
                images = _each(lambda file: decode.whole(listing.path / file.path, channels, self.size)[None], members)
                cache.write_split(folder, split, len(labels), images, labels)
            _check_unchanged(listing)
            cache.write_description(folder, listing.classes, source)


def _list(path: Path, test_folder: str) -> _Listing:
    folders = {"train": "train", "test": test_folder}
    if not path.is_dir():
        raise InputError(
            f"{path}: no such folder; dataset folder:PATH reads PATH/train/<class>/* and PATH/{test_folder}/<class>/*"
        )
    ignored: list[str] = []
    classes: dict[str, dict[str, str]] = {}
    for split, folder in folders.items():
        if not (path / folder).is_dir():
            raise InputError(
                f"{path}: no folder {folder!r} in it; expected train/<class>/* and {test_folder}/<class>/*, with the "
                "same classes"
            )
        inside, others = _scan(path / folder)
        classes[split] = _by_class(path / folder, [entry.name for entry in inside])
        ignored += [f"{folder}/{entry.name}" for entry in others]
        if not inside:
            raise InputError(f"{path / folder}: no class folders in it; put the images into one folder a class")
    names = list(classes["train"])
    if names != list(classes["test"]):
        only = {"train": sorted(set(names) - set(classes["test"])), "test": sorted(set(classes["test"]) - set(names))}
        difference = "; ".join(f"only in {split}: {', '.join(missing)}" for split, missing in only.items() if missing)
        raise InputError(f"{path}: train and test have different classes; {difference}")
    if len(names) == 1:
        raise InputError(f"{path}: only one class, {names[0]!r}; at least two are needed")
    splits: dict[str, list[_File]] = {split: [] for split in folders}
    for split, files in splits.items():
        for label, class_name in enumerate(names):
            files += _list_class(path, f"{folders[split]}/{classes[split][class_name]}", label, ignored)
    return _Listing(path, test_folder, tuple(names), splits, tuple(ignored))


def _by_class(folder: Path, names: list[str]) -> dict[str, str]:
    """The folders of one split by the names of their classes, in the order of the latter."""
    by_class: dict[str, str] = {}
    for name in names:
        composed = unicodedata.normalize("NFC", name)
        if composed in by_class:
            raise InputError(f"{folder}: two folders for the class {composed!r}, in two Unicode forms; join them")
        by_class[composed] = name
    return dict(sorted(by_class.items()))


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
            raise decode.unreadable(Path(entry.path), error) from error
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
            visible = [entry for entry in entries if not entry.name.startswith(".")]
    except OSError as error:
        raise InputError(f"{folder}: cannot be listed ({error}); check its permissions") from error
    for entry in sorted(visible, key=lambda entry: entry.name):
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
    if time.time_ns() - max(file.mtime_ns for file in listing.files) < SETTLED_NS:
        return
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
    digest.update(json.dumps([decode.VERSION, listing.classes]).encode())
    for split, files in listing.splits.items():
        digest.update(json.dumps([split, [file.label for file in files]]).encode())
        extents[split] = []
        for content, extent, mode in _each(lambda file: _read_once(listing.path / file.path), files):
            digest.update(content)
            extents[split].append(extent)
            greyscale &= mode in decode.GREYSCALE
    different = {extent for own in extents.values() for extent in own}
    height, width = next(iter(different))
    own_size = width if len(different) == 1 and width == height else None
    return _Facts(listing.state, digest.hexdigest(), 1 if greyscale else 3, own_size, extents)


def _read_once(path: Path) -> tuple[bytes, tuple[int, int], str]:
    """Digest of the content, (height, width) and mode of an image that can be decoded."""
    try:
        with open(path, "rb") as file:
            content = hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).digest()
    except OSError as error:
        raise decode.unreadable(path, error) from error
    return content, *decode.check(path)


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
