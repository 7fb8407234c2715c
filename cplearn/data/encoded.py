"""What all sources of encoded images share: facts, fingerprints, decoded copies, decoding on demand, and locks.

Images are decoded once, at the size that is wanted, into a memory-mapped cache ("cached"), or whenever they are used
("on-demand", see `cplearn.data.image_files`). Either way every image is decoded once when its source is first read, so
that a damaged one is found before anything is trained. What that tells is remembered until the source changes.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch

from cplearn.data import cache, catalogue, image_files
from cplearn.data.dataset import Dataset, Split
from cplearn.data.image_files import Encoded, ImageFiles
from cplearn.data.source import Request, Source
from cplearn.errors import InputError

MIXED_SIZE = 64
"""Side in pixels if none is asked for and the images do not share one."""
LARGEST_SIZE = 1024
"""Largest side in pixels that is taken from the images; as many as a trial can ask for."""
SAMPLE = 500
"""Training images that tell mean and standard deviation of a data set that is decoded on demand."""
BLOCK = 256
THREADED_BYTES = 16 * 1024
"""Mean size of an encoded image above which threads pay; they slow the decoding of small ones down."""
SETTLED_NS = 2 * 10**9
"""Age of a file from which an unchanged modification time means unchanged content on every file system."""

T = TypeVar("T")


@dataclass(frozen=True)
class Listing:
    """What can be known of a data set without opening an image.

    `labels` are those of the images of "train" and "test", in order. `state` changes when an image is added, removed,
    renamed or written to. `newest_ns` is the last modification of a file, `bytes` the sum of all images.
    """

    classes: tuple[str, ...]
    labels: dict[str, list[int]]
    state: str
    newest_ns: int
    bytes: int

    @property
    def threaded(self) -> bool:
        return self.bytes >= THREADED_BYTES * sum(map(len, self.labels.values()))


@dataclass(frozen=True)
class Facts:
    """What opening every image tells; remembered with the `state` of the listing that it belongs to."""

    state: str
    content: str
    channels: int
    own_size: int | None
    extents: dict[str, list[tuple[int, int]]]
    """(height, width) of each image of each split, in pixels."""


class EncodedSource(Source):
    """A source of images that Pillow decodes. `owner` names its lock and its remembered facts in the data folder."""

    def __init__(self, name: str, place: str, kind: str) -> None:
        super().__init__(name, place)
        self.owner = f"{kind}-{digest(os.fsencode(place))}"

    @abstractmethod
    def listing(self, request: Request) -> Listing:
        """Classes, labels and state. Raises InputError if there is no data set here."""

    @abstractmethod
    def images(self, split: str) -> Iterable[Encoded]:
        """Every image of a split, in the order of the listing that was made last."""

    @abstractmethod
    def finder(self, split: str) -> Callable[[int], Encoded]:
        """The function that gives one image of a split by its row, whenever it is used."""

    def load(self, request: Request) -> Dataset:
        """The images at `request.image_size`; None: their own if all are square and equal, else 64 pixels.

        The fingerprint is that of the pixels if these are cached; on demand that of all images' contents, labels and
        classes, with the size in pixels. Raises InputError as `listing`, and if an image cannot be decoded.
        """
        root, image_size = request.root, request.image_size
        if image_size is not None and image_size < 1:
            raise InputError(f"image_size {image_size}: must be at least 1 pixel", key="image_size")
        listing = self.listing(request)
        notes = root / "cache" / f"{self.owner}.json"

        def attempt(locked: bool) -> Dataset | None:
            """The data set; None if something has to be read or written for it and the lock is not held."""
            facts = _recall(notes, listing)
            if facts is None:
                if not locked:
                    return None
                facts = self._inspect(request, listing)
                _remember(notes, listing, facts)
            size = image_size or facts.own_size or MIXED_SIZE
            if not image_size and size > LARGEST_SIZE:
                reason = "say at which size they are wanted, image_size 224 for instance"
                raise InputError(f"{self.place}: its images have {size} x {size} pixels; {reason}", key="image_size")
            if request.on_demand:
                return self._on_demand(request, listing, facts, size, locked)
            key = f"{facts.content}-{size}"
            dataset = cache.read(root, key, self.name, self.place)
            if dataset is None and locked:
                train, test = (
                    cache.Blocks(labels, self._decoded(request, listing, split, facts.channels, size))
                    for split, labels in listing.labels.items()
                )
                cache.write(root, key, self.owner, listing.classes, self.place, train, test)
                dataset = cache.read(root, key, self.name, self.place)
            return dataset

        dataset = attempt(locked=False)
        if dataset is None:
            with cache.lock(root, self.owner):
                dataset = attempt(locked=True)
        assert dataset is not None
        return dataset

    def _decoded(
        self, request: Request, listing: Listing, split: str, channels: int, size: int
    ) -> Iterator[np.ndarray]:
        images = self.images(split)
        yield from _each(lambda image: image_files.whole(image, channels, size)[None], images, listing.threaded)
        self._check_unchanged(request, listing)

    def _on_demand(self, request: Request, listing: Listing, facts: Facts, size: int, locked: bool) -> Dataset | None:
        """The images where they are; None if their mean and deviation are not known and the lock is not held."""
        train, test = (
            Split(
                ImageFiles(
                    self.finder(split),
                    torch.arange(len(labels)),
                    torch.tensor(facts.extents[split]),
                    facts.channels,
                    size,
                ),
                torch.tensor(labels),
            )
            for split, labels in listing.labels.items()
        )
        mean, std = catalogue.entry(self.name).mean, catalogue.entry(self.name).std
        if mean is None or std is None:
            moments_file = request.root / "cache" / f"{facts.content}-{size}-moments.json"
            if not moments_file.exists():
                if not locked:
                    return None
                # Of some images, evenly spread, as evaluation shows them.
                rows = torch.linspace(0, len(train.labels) - 1, min(len(train.labels), SAMPLE)).round().long()
                _write(moments_file, cache.moments(train.images[rows].numpy(), self.place))
            mean, std = json.loads(moments_file.read_text())
        fingerprint = digest(json.dumps(["on-demand", facts.content, size]).encode())
        return Dataset(self.name, train, test, listing.classes, fingerprint, mean, std, self.place)

    def _inspect(self, request: Request, listing: Listing) -> Facts:
        """Read every image once: its content's digest, its mode and its size."""
        content, greyscale = hashlib.blake2b(digest_size=16), True
        extents: dict[str, list[tuple[int, int]]] = {}
        content.update(json.dumps([image_files.VERSION, listing.classes]).encode())
        for split, labels in listing.labels.items():
            content.update(json.dumps([split, labels]).encode())
            extents[split] = []
            for own, extent, mode in _each(image_files.check, self.images(split), listing.threaded):
                content.update(own)
                extents[split].append(extent)
                greyscale &= mode in image_files.GREYSCALE
        (height, width), *others = {extent for own in extents.values() for extent in own}
        own_size = width if width == height and not others else None
        self._check_unchanged(request, listing)
        return Facts(listing.state, content.hexdigest(), 1 if greyscale else 3, own_size, extents)

    def _check_unchanged(self, request: Request, listing: Listing) -> None:
        if self.listing(request).state != listing.state:
            raise InputError(f"{self.place}: files changed while they were read; load again")


def _recall(notes: Path, listing: Listing) -> Facts | None:
    try:
        facts = Facts(**json.loads(notes.read_text()))
    except (OSError, ValueError, TypeError):
        return None
    return facts if facts.state == listing.state else None


def _remember(notes: Path, listing: Listing, facts: Facts) -> None:
    # A file that is written twice within one tick of the file system's clock keeps its modification time, so that of
    # a file just written proves nothing.
    if time.time_ns() - listing.newest_ns >= SETTLED_NS:
        with suppress(OSError):  # this only saves time
            _write(notes, asdict(facts))


def _write(path: Path, content: object) -> None:
    """Write JSON to `path`, whole or not at all."""
    new = path.with_suffix(".new")
    new.write_text(json.dumps(content))
    new.replace(path)


def _each(function: Callable[[Encoded], T], images: Iterable[Encoded], threaded: bool) -> Iterator[T]:
    """`function` of every image, in order; in threads where that pays, a block at a time to bound the memory."""
    if not threaded:
        yield from map(function, images)
        return
    remaining = iter(images)
    with ThreadPoolExecutor(min(os.cpu_count() or 1, 16)) as pool:
        while block := list(islice(remaining, BLOCK)):
            yield from pool.map(function, block)


def digest(data: bytes) -> str:
    return hashlib.blake2b(data, digest_size=16).hexdigest()
