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

    def known(facts: _Facts) -> Dataset | None:
        if on_demand:
            return _read_on_demand(name, listing, facts, image_size, root)
        return cache.read(root, _key(facts, image_size), name, str(path))

    facts = _recall(notes, listing)
    dataset = known(facts) if facts else None
    if dataset is None:
        with cache.lock(root, owner):
            facts = _recall(notes, listing)
            if facts is None:
                facts = _inspect(listing)
                if on_demand:  # what is cached is checked after it was decoded
                    _check_unchanged(listing)
                _remember(notes, listing, facts)
            if known(facts) is None:
                if on_demand:
                    _measure(listing, facts, image_size, root)
                else:
                    _decode(listing, facts, image_size, root, owner)
            dataset = known(facts)
    assert dataset is not None
    return dataset


def _size(facts: _Facts, image_size: int | None) -> int:
    return image_size or facts.own_size or MIXED_SIZE


def _key(facts: _Facts, image_size: int | None) -> str:
    return f"{facts.content}-{_size(facts, image_size)}"


def _image_files(listing: _Listing, facts: _Facts, image_size: int | None, split: str) -> ImageFiles:
    paths, extents = [file.path for file in listing.splits[split]], torch.tensor(facts.extents[split])
    return ImageFiles(listing.path, paths, extents, facts.channels, _size(facts, image_size))


def _moments_file(root: Path, facts: _Facts, image_size: int | None) -> Path:
    return root / "cache" / f"{_key(facts, image_size)}-moments.json"


def _read_on_demand(name: str, listing: _Listing, facts: _Facts, image_size: int | None, root: Path) -> Dataset | None:
    """The data set whose images stay in their files; None if its mean and deviation are not known yet."""
    entry, moments = catalogue.entry(name), _moments_file(root, facts, image_size)
    if entry.mean is not None and entry.std is not None:
        mean, std = entry.mean, entry.std
    elif moments.exists():
        mean, std = json.loads(moments.read_text())
    else:
        return None
    train, test = (
        Split(_image_files(listing, facts, image_size, split), torch.tensor([file.label for file in files]))
        for split, files in listing.splits.items()
    )
    fingerprint = _digest(json.dumps(["on-demand", facts.content, _size(facts, image_size)]).encode())
    return Dataset(name, train, test, listing.classes, fingerprint, mean, std, str(listing.path))


def _measure(listing: _Listing, facts: _Facts, image_size: int | None, root: Path) -> None:
    """Keep mean and standard deviation of some training images, evenly spread, as evaluation shows them."""
    files = _image_files(listing, facts, image_size, "train")
    rows = torch.linspace(0, len(files) - 1, min(len(files), SAMPLE)).round().long()
    moments = cache.moments(files[rows].numpy())
    cache.check_moments(*moments, str(listing.path))
    target = _moments_file(root, facts, image_size)
    new = target.with_suffix(".new")
    new.write_text(json.dumps(moments))
    new.replace(target)


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
        entries = _scan(path / folder)
        inside = [_is_folder(entry) for entry in entries]
        classes[split] = _by_class(
            path / folder, [e.name for e, is_folder in zip(entries, inside, strict=True) if is_folder]
        )
        ignored += [f"{folder}/{e.name}" for e, is_folder in zip(entries, inside, strict=True) if not is_folder]
        if not classes[split]:
            raise InputError(f"{path / folder}: no class folders in it; put the images into one folder a class")
    names = list(classes["train"])
    if names != list(classes["test"]):
        raise InputError(f"{path}: train and test have different classes; {_difference(names, list(classes['test']))}")
    if len(names) == 1:
        raise InputError(f"{path}: only one class, {names[0]!r}; at least two are needed")
    splits: dict[str, list[_File]] = {}
    for split, folder_of in classes.items():
        splits[split] = []
        for label, class_name in enumerate(names):
            files, others = _list_class(path, f"{folders[split]}/{folder_of[class_name]}", label)
            splits[split] += files
            ignored += others
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


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError as error:  # a link to itself, for instance
        raise InputError(f"{entry.path}: cannot be opened ({error.strerror}); remove or repair it") from error


def _list_class(path: Path, folder: str, label: int) -> tuple[list[_File], list[str]]:
    files, others = [], []
    for entry in _scan(path / folder):
        if _is_folder(entry):
            raise InputError(
                f"{entry.path}: a folder inside a class folder; put its images directly into {path / folder}"
            )
        if os.path.splitext(entry.name)[1].lower() not in SUFFIXES:
            others.append(f"{folder}/{entry.name}")
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
    return files, others


def _scan(folder: Path) -> list[os.DirEntry[str]]:
    """The entries of a folder by name, without hidden ones."""
    try:
        with os.scandir(folder) as entries:
            return sorted((entry for entry in entries if not entry.name.startswith(".")), key=lambda entry: entry.name)
    except OSError as error:
        raise InputError(f"{folder}: cannot be listed ({error}); check its permissions") from error


def _difference(train: list[str], test: list[str]) -> str:
    only = {"train": sorted(set(train) - set(test)), "test": sorted(set(test) - set(train))}
    return "; ".join(f"only in {split}: {', '.join(names)}" for split, names in only.items() if names)


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
        new = notes.with_suffix(".new")
        new.write_text(json.dumps(asdict(facts)))
        new.replace(notes)


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


def _decode(listing: _Listing, facts: _Facts, image_size: int | None, root: Path, owner: str) -> None:
    size = _size(facts, image_size)
    with cache.building(root, _key(facts, image_size), owner) as folder:
        for split, files in listing.splits.items():
            images = _each(lambda file: decode.whole(listing.path / file.path, facts.channels, size), files)
            labels = [file.label for file in files]
            cache.write_split(folder, split, len(files), (image[None] for image in images), labels)
        _check_unchanged(listing)
        cache.write_description(folder, listing.classes, str(listing.path))


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
