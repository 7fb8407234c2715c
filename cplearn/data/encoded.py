"""What all sources of encoded images share: facts, fingerprints, decoded copies, decoding on demand, and locks.

Images are decoded once, at the size that is wanted, into a memory-mapped cache ("cached"), or whenever they are used
("on-demand", see `cplearn.data.image_files`). Either way every image is decoded once when its source is first read, so
that a damaged one is found before anything is trained. What that tells is remembered until the source changes.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import time
from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from itertools import islice
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch

from cplearn.data import cache, catalogue, image_files, splits
from cplearn.data.dataset import Dataset, Split
from cplearn.data.image_files import Damaged, Encoded, ImageFiles
from cplearn.data.source import Request, Source
from cplearn.data.splits import HIDDEN, Arranged, Skipped
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
    """What can be known of a data set without opening an image: its splits, and what was `skipped`.

    `state` changes when an image is added, removed, renamed or written to. `newest_ns` is the last modification of a
    file, `bytes` the size of all images.
    """

    arranged: Arranged
    skipped: Skipped
    state: str
    newest_ns: int
    bytes: int

    @property
    def threaded(self) -> bool:
        return self.bytes >= THREADED_BYTES * sum(map(len, self.arranged.labels.values()))


@dataclass(frozen=True)
class Facts:
    """What opening every image tells; remembered with the `state` of the listing that it belongs to."""

    state: str
    content: str
    channels: int
    own_size: int | None
    extents: dict[str, list[tuple[int, int] | None]]
    """(height, width) of each image of each split, in pixels; None of one that is damaged, and so skipped."""
    modes: dict[str, dict[str, int]]
    """How many images of each split have each of Pillow's modes."""
    skipped: Skipped
    """The damaged images, each with what is wrong with it."""
    twins: list[str]
    """The images of the test split that are in the training split too, byte by byte."""


class EncodedSource(Source):
    """A source of images that Pillow decodes. `owner` names its lock and its remembered facts in the data folder."""

    def __init__(self, name: str, place: str, kind: str) -> None:
        super().__init__(name, place)
        self.owner = f"{kind}-{digest(os.fsencode(place))}"

    @abstractmethod
    def listing(self, request: Request) -> Listing:
        """What there is. Raises InputError if there is no data set here."""

    @abstractmethod
    def images(self, split: str) -> Iterable[Encoded]:
        """Every image of a split, in the order of the listing that was made last."""

    @abstractmethod
    def finder(self, request: Request, split: str) -> Callable[[int], Encoded]:
        """The function that gives one image of a split by its row, whenever it is used."""

    def load(self, request: Request) -> Dataset:
        """The images at `request.image_size`; None: their own if all are square and equal, else 64 pixels.

        The fingerprint is that of the pixels if these are cached; on demand that of all images' contents, labels and
        classes, with the size in pixels. Raises InputError as `survey`.
        """
        root, image_size = request.root, request.image_size
        if image_size is not None and image_size < 1:
            raise InputError(f"image_size {image_size}: must be at least 1 pixel", key="image_size")
        listing, facts = self.survey(request)
        self._tell(listing, facts)
        size = image_size or facts.own_size or MIXED_SIZE
        if not image_size and size > LARGEST_SIZE:
            reason = "say at which size they are wanted, image_size 224 for instance"
            raise InputError(f"{self.place}: its images have {size} x {size} pixels; {reason}", key="image_size")
        if request.on_demand:
            return self._on_demand(request, listing, facts, size)
        key = f"{facts.content}-{size}"

        def make() -> None:
            train, test = (
                cache.Blocks(_readable(labels, facts, split), self._decoded(request, listing, facts, split, size))
                for split, labels in listing.arranged.labels.items()
            )
            cache.write(root, key, self.owner, listing.arranged.classes, self.place, train, test)

        return cache.obtain(root, key, self.name, self.place, self.owner, make)

    def survey(self, request: Request) -> tuple[Listing, Facts]:
        """What there is, and what opening every image tells, which one process does while the others wait.

        Raises InputError as `listing`, if an image has too many pixels or such without an agreed range, and if a split
        or a class has no image that can be decoded.
        """
        listing = self.listing(request)
        notes = request.root / "cache" / f"{self.owner}.json"
        facts = _recall(notes, listing)
        if facts is None:
            with cache.lock(request.root, self.owner):
                facts = _recall(notes, listing)
                if facts is None:
                    facts = self._inspect(request, listing)
                    _remember(notes, listing, facts)
        return listing, facts

    def _tell(self, listing: Listing, facts: Facts) -> None:
        log = logging.getLogger(__name__)
        every = {**listing.skipped, **listing.arranged.skipped, **facts.skipped}
        if seen := {reason: names for reason, names in every.items() if reason != HIDDEN}:
            log.warning(f"{self.place}: {splits.tell(seen)}")
        if facts.twins:
            log.warning(
                f"{self.place}: {len(facts.twins):,} test images are in the training split too "
                f"({splits.shown(facts.twins)})"
            )

    def _decoded(self, request: Request, listing: Listing, facts: Facts, split: str, size: int) -> Iterator[np.ndarray]:
        pairs = zip(self.images(split), facts.extents[split], strict=True)
        images = (image for image, extent in pairs if extent)
        yield from _each(lambda image: image_files.whole(image, facts.channels, size)[None], images, listing.threaded)
        self._check_unchanged(request, listing)

    def _on_demand(self, request: Request, listing: Listing, facts: Facts, size: int) -> Dataset:
        """The images where they are."""

        def split(name: str, labels: Sequence[int]) -> Split:
            extents = [extent for extent in facts.extents[name] if extent]
            rows = torch.tensor(_readable(range(len(labels)), facts, name))
            images = ImageFiles(self.finder(request, name), rows, torch.tensor(extents), facts.channels, size)
            return Split(images, torch.tensor(_readable(labels, facts, name)))

        train, test = (split(name, labels) for name, labels in listing.arranged.labels.items())
        mean, std = catalogue.entry(self.name).mean, catalogue.entry(self.name).std
        if mean is None or std is None:
            moments_file = request.root / "cache" / f"{facts.content}-{size}-moments.json"
            if not moments_file.exists():
                with cache.lock(request.root, self.owner):
                    # Of some images, evenly spread, as evaluation shows them.
                    rows = torch.linspace(0, len(train.labels) - 1, min(len(train.labels), SAMPLE)).round().long()
                    write_json(moments_file, cache.moments(train.images[rows].numpy(), self.place))
            mean, std = json.loads(moments_file.read_text())
        fingerprint = digest(json.dumps(["on-demand", facts.content, size]).encode())
        classes = listing.arranged.classes
        train, whole = cache.labelled_part(train)
        return Dataset(self.name, train, test, classes, fingerprint, mean, std, self.place, whole)

    def _inspect(self, request: Request, listing: Listing) -> Facts:
        """Read every image once: its content's digest, its mode and its size."""
        content, arranged = hashlib.blake2b(digest_size=16), listing.arranged
        content.update(json.dumps([image_files.VERSION, arranged.classes]).encode())
        facts = Facts(listing.state, "", 3, None, {}, {}, {}, [])
        in_training: set[bytes] = set()
        for split, labels in arranged.labels.items():
            own: list[tuple[int, int] | None] = []
            modes: dict[str, int] = {}
            contents = []
            for found in _each(_check, self.images(split), listing.threaded):
                if isinstance(found, Damaged):
                    own.append(None)
                    name = found.name.removeprefix(f"{self.place}/")
                    splits.skip(facts.skipped, "damaged images", f"{name}: {found.reason}")
                    continue
                name, digest_of_image, extent, mode = found
                contents.append(digest_of_image)
                own.append(extent)
                modes[mode] = modes.get(mode, 0) + 1
                if split == "test" and digest_of_image in in_training:
                    facts.twins.append(name.removeprefix(f"{self.place}/"))
            facts.extents[split], facts.modes[split] = own, modes
            content.update(json.dumps([split, _readable(labels, facts, split)]).encode())
            for digest_of_image in contents:
                content.update(digest_of_image)
            in_training.update(contents)
        kept = {split: _readable(labels, facts, split) for split, labels in arranged.labels.items()}
        if facts.skipped:
            splits.check(f"{self.place}: {splits.tell(facts.skipped)}", arranged.classes, kept, arranged.drawn)
        self._check_unchanged(request, listing)
        (height, width), *others = {extent for own in facts.extents.values() for extent in own if extent}
        own_size = width if width == height and not others else None
        greyscale = all(mode in image_files.GREYSCALE for modes in facts.modes.values() for mode in modes)
        return replace(facts, content=content.hexdigest(), channels=1 if greyscale else 3, own_size=own_size)

    def _check_unchanged(self, request: Request, listing: Listing) -> None:
        if self.listing(request).state != listing.state:
            raise InputError(f"{self.place}: files changed while they were read; load again")


def _check(image: Encoded) -> tuple[str, bytes, tuple[int, int], str] | Damaged:
    try:
        return str(image), *image_files.check(image)
    except Damaged as damaged:
        return damaged


def _readable(values: Iterable[T], facts: Facts, split: str) -> list[T]:
    """Those of the values of a split that belong to images which can be decoded."""
    return [value for value, extent in zip(values, facts.extents[split], strict=True) if extent]


def _recall(notes: Path, listing: Listing) -> Facts | None:
    try:
        facts = Facts(**json.loads(notes.read_text()))
    except (OSError, ValueError, TypeError):
        return None
    return facts if facts.state == listing.state else None


def _remember(notes: Path, listing: Listing, facts: Facts) -> None:
    if is_settled(listing.newest_ns):
        with suppress(OSError):  # this only saves time
            write_json(notes, asdict(facts))


def is_settled(mtime_ns: int) -> bool:
    """Whether an unchanged modification time proves that files are unchanged, the last of which was written then: one
    that is written twice within one tick of the file system's clock keeps its time."""
    return time.time_ns() - mtime_ns >= SETTLED_NS


def write_json(path: Path, content: object) -> None:
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
