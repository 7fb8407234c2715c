"""Your own images: PATH/train/<class>/* and PATH/test/<class>/*, decoded once into a memory-mapped cache.

Which files: those with a suffix in `SUFFIXES`, in any case, directly in a class folder. Hidden files are ignored
silently, other files with a logged warning; a folder inside a class folder is an error. Classes are sorted by name,
images by class and file name.

Which pixels: the first frame, turned as EXIF says. Transparent images are laid over white, 16-bit greyscale keeps its
high byte (as Pillow does for 16-bit colour), every other mode is what Pillow converts it to. The data set is greyscale
if the mode of every image is, else RGB. Images of another size than wanted are resized (bicubic, antialiased) so that
the shorter side fits, and cropped to the centre.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from cplearn.data import Dataset, cache
from cplearn.errors import InputError

VERSION = 1
"""Of the decoder; raise it when the same files are to give other pixels."""
SUFFIXES = {".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"}
MIXED_SIZE = 64
"""Side in pixels if none is asked for and the images do not share one."""
GREYSCALE = {"1", "L", "LA", "I", "I;16", "I;16B", "I;16L", "I;16N"}
TRANSPARENT = {"LA", "PA", "RGBA"}
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
    classes: tuple[str, ...]
    splits: dict[str, list[_File]]
    ignored: tuple[str, ...]

    @property
    def files(self) -> list[_File]:
        return [file for files in self.splits.values() for file in files]

    @property
    def state(self) -> str:
        """Digest that changes when a file is added, removed, renamed or written to, or when the decoder changes."""
        return _digest(json.dumps([VERSION, self.classes, self.splits]).encode())


@dataclass(frozen=True)
class _Facts:
    """What opening every image tells; remembered with the `state` of the listing that it belongs to."""

    state: str
    content: str
    channels: int
    own_size: int | None


def load(name: str, root: Path, image_size: int | None, download: bool) -> Dataset:
    """The images of `folder:PATH` at `image_size`; None: their own if all are square and equal, else 64 pixels.

    Raises InputError if PATH lacks train or test, a split has no classes, fewer than two or other ones than the other
    split, a class has no images, or a file cannot be decoded.
    """
    if image_size is not None and image_size < 1:
        raise InputError(f"image_size {image_size}: must be at least 1 pixel", key="image_size")
    path = Path(os.path.abspath(Path(name.partition(":")[2]).expanduser()))
    name, listing = f"folder:{path}", _list(path)
    owner = f"folder-{_digest(os.fsencode(path))}"
    notes = root / "cache" / f"{owner}.json"

    def cached(facts: _Facts) -> Dataset | None:
        return cache.read(root, _key(facts, image_size), name, str(path))

    facts = _recall(notes, listing)
    dataset = cached(facts) if facts else None
    if dataset is None:
        with cache.lock(root, owner):
            facts = _recall(notes, listing)
            if facts is None:
                facts = _inspect(listing)
                _remember(notes, listing, facts)
            if cached(facts) is None:
                _decode(listing, facts, image_size, root, owner)
            dataset = cached(facts)
    assert dataset is not None
    return dataset


def _size(facts: _Facts, image_size: int | None) -> int:
    return image_size or facts.own_size or MIXED_SIZE


def _key(facts: _Facts, image_size: int | None) -> str:
    return f"{facts.content}-{_size(facts, image_size)}"


def _list(path: Path) -> _Listing:
    if not path.is_dir():
        raise InputError(
            f"{path}: no such folder; dataset folder:PATH reads PATH/train/<class>/* and PATH/test/<class>/*"
        )
    ignored: list[str] = []
    classes: dict[str, list[str]] = {}
    for split in ("train", "test"):
        if not (path / split).is_dir():
            raise InputError(
                f"{path}: no folder {split!r} in it; expected train/<class>/* and test/<class>/*, with the same classes"
            )
        entries = _scan(path / split)
        classes[split] = [entry.name for entry in entries if entry.is_dir()]
        ignored += [f"{split}/{entry.name}" for entry in entries if not entry.is_dir()]
        if not classes[split]:
            raise InputError(f"{path / split}: no class folders in it; put the images into one folder a class")
    if classes["train"] != classes["test"]:
        raise InputError(f"{path}: train and test have different classes; {_difference(**classes)}")
    if len(classes["train"]) == 1:
        raise InputError(f"{path}: only one class, {classes['train'][0]!r}; at least two are needed")
    splits: dict[str, list[_File]] = {}
    for split, names in classes.items():
        splits[split] = []
        for label, class_name in enumerate(names):
            files, others = _list_class(path, f"{split}/{class_name}", label)
            splits[split] += files
            ignored += others
    return _Listing(path, tuple(classes["train"]), splits, tuple(ignored))


def _list_class(path: Path, folder: str, label: int) -> tuple[list[_File], list[str]]:
    files, others = [], []
    for entry in _scan(path / folder):
        if entry.is_dir():
            raise InputError(
                f"{entry.path}: a folder inside a class folder; put its images directly into {path / folder}"
            )
        if os.path.splitext(entry.name)[1].lower() not in SUFFIXES:
            others.append(f"{folder}/{entry.name}")
            continue
        try:
            status = entry.stat()
        except OSError as error:
            raise _unreadable(Path(entry.path), error) from error
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
    if listing.ignored:
        logging.getLogger(__name__).warning(
            "%s: ignored %d files that are no images, %s for one",
            listing.path,
            len(listing.ignored),
            listing.ignored[0],
        )
    digest, sizes, greyscale = hashlib.blake2b(digest_size=16), set(), True
    digest.update(json.dumps([VERSION, listing.classes]).encode())
    for split, files in listing.splits.items():
        digest.update(json.dumps([split, [file.label for file in files]]).encode())
        for content, size, mode in _each(lambda file: _read_header(listing.path / file.path), files):
            digest.update(content)
            sizes.add(size)
            greyscale &= mode in GREYSCALE
    width, height = next(iter(sizes))
    own_size = width if len(sizes) == 1 and width == height else None
    return _Facts(listing.state, digest.hexdigest(), 1 if greyscale else 3, own_size)


def _read_header(path: Path) -> tuple[bytes, tuple[int, int], str]:
    """Digest of the content, (width, height) and mode."""
    try:
        with open(path, "rb") as file:
            content = hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).digest()
        with Image.open(path) as image:
            return content, image.size, image.mode
    except Exception as error:  # decoders of damaged files raise almost anything
        raise _unreadable(path, error) from error


def _decode(listing: _Listing, facts: _Facts, image_size: int | None, root: Path, owner: str) -> None:
    size = _size(facts, image_size)
    with cache.building(root, _key(facts, image_size), owner) as folder:
        for split, files in listing.splits.items():
            images = _each(lambda file: _read_image(listing.path / file.path, facts.channels, size), files)
            labels = [file.label for file in files]
            cache.write_split(folder, split, len(files), (image[None] for image in images), labels)
        if _list(listing.path).state != listing.state:
            raise InputError(f"{listing.path}: files changed while they were read; load again")
        cache.write_description(folder, listing.classes, str(listing.path))


def _each(function: Callable[[_File], T], files: Sequence[_File]) -> Iterator[T]:
    """`function` of every file, in order; in threads where that pays, a block at a time to bound the memory."""
    if sum(file.bytes for file in files) < THREADED_BYTES * len(files):
        yield from map(function, files)
        return
    with ThreadPoolExecutor(min(os.cpu_count() or 1, 16)) as pool:
        for start in range(0, len(files), BLOCK):
            yield from pool.map(function, files[start : start + BLOCK])


def _read_image(path: Path, channels: int, size: int) -> np.ndarray:
    """One image (C, size, size) uint8."""
    try:
        with Image.open(path) as file:
            image = _convert(ImageOps.exif_transpose(file), "L" if channels == 1 else "RGB")
            pixels = np.asarray(ImageOps.fit(image, (size, size), Image.Resampling.BICUBIC))
    except Exception as error:  # decoders of damaged files raise almost anything
        raise _unreadable(path, error) from error
    return pixels[None] if channels == 1 else pixels.transpose(2, 0, 1)


def _convert(image: Image.Image, mode: str) -> Image.Image:
    """`image` in 8-bit `mode`, L or RGB."""
    if image.mode == "F":
        raise ValueError("floating-point pixels have no agreed range; save them with 8 or 16 bits")
    if image.mode.startswith("I"):
        values = np.asarray(image)
        if values.min() < 0 or values.max() >= 2**16:
            raise ValueError("pixels beyond 16 bits have no agreed range; save them with 8 or 16 bits")
        image = Image.fromarray((values >> 8).astype(np.uint8))
    elif image.mode in TRANSPARENT or "transparency" in image.info:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert(mode)


def _unreadable(path: Path, error: Exception) -> InputError:
    reason = "its format is not known" if isinstance(error, UnidentifiedImageError) else str(error)
    return InputError(f"{path}: cannot be read as an image ({reason}); repair or remove it")


def _digest(data: bytes) -> str:
    return hashlib.blake2b(data, digest_size=16).hexdigest()
