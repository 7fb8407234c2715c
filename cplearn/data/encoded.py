"""What all sources of encoded images share: facts, fingerprints, decoded copies, decoding on demand, and locks.

Images are decoded once, at the size that is wanted, into a memory-mapped cache ("cached"), or whenever they are used
("on-demand", see `cplearn.data.image_files`). Either way every image is decoded once when its source is first read, so
that a damaged one is found before anything is trained. What that tells is remembered until the source changes.
"""

import hashlib
import json
import logging
import os
import time
from abc import abstractmethod
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from itertools import islice, pairwise
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np
import torch

from cplearn.data import cache, catalogue, image_files, splits
from cplearn.data.dataset import Dataset, Request, Source, Split
from cplearn.data.image_files import Damaged, Encoded, ImageFiles
from cplearn.data.splits import HIDDEN, Arranged, Item, Skipped
from cplearn.errors import InputError

MIXED_SIZE = 64  # Side in pixels if none is asked for and the images do not share one.
LARGEST_SIZE = 1024  # Largest side in pixels that is taken from the images; as many as a trial can ask for.
SAMPLE = 500  # Training images that tell mean and standard deviation of a data set that is decoded on demand.
BLOCK = 256
THREADED_BYTES = 16 * 1024
"""Mean size of an encoded image above which threads pay; they slow the decoding of small ones down."""
SETTLED_NS = 2 * 10**9
"""Age of a file from which an unchanged modification time means unchanged content on every file system."""

T = TypeVar("T")


class Stamp(NamedTuple):
    """What tells that a file has not changed; `name` is as seen from the folder that was searched, with slashes."""

    name: str
    bytes: int
    mtime_ns: int


class Contents(NamedTuple):
    """The images of a source in its order, the `names` of classes that are numbered, and what was skipped."""

    items: list[Item]
    names: Sequence[str] | None
    skipped: Skipped


@dataclass(frozen=True)
class Facts:
    """What opening every image tells; remembered with the `state` of the source that it belongs to."""

    state: str
    content: str
    channels: int
    own_size: int | None
    extents: dict[str, list[tuple[int, int] | None]]  # Height and width of each image; None of one that is damaged.
    modes: dict[str, dict[str, int]]  # How many images of each split have each of Pillow's modes.
    skipped: Skipped  # The damaged images, each with what is wrong with it.
    twins: list[str]  # The images of the test split that are in the training split too, byte by byte.

    def readable(self, split: str, values: Sequence[T]) -> list[T]:
        """Those of the values of a split that belong to images which can be decoded."""
        return [value for value, extent in zip(values, self.extents[split], strict=True) if extent]


class EncodedSource(Source):
    """A source of images that Pillow decodes, numbered from 0 in the order of its files and of what is in them.

    `owner` names its lock and its remembered facts in the data folder. `arrange` says what the others are: the splits,
    what was skipped, and a `state` that changes when a file is added, removed, renamed or written to.
    """

    content: Contents
    arranged: Arranged
    skipped: Skipped
    state: str

    def __init__(self, name: str, place: str, kind: str) -> None:
        super().__init__(name, place)
        self.owner = f"{kind}-{digest(os.fsencode(place))}"
        self.files_seen: list[Stamp] = []

    @abstractmethod
    def stamps(self, request: Request) -> list[Stamp]:
        """The files, looked up anew. Raises InputError if there are none."""

    @abstractmethod
    def contents(self, request: Request, stamps: list[Stamp]) -> Contents:
        """What is in these files. Raises InputError if they are damaged, or no images are in them."""

    @abstractmethod
    def read(self, rows: Sequence[int]) -> Iterator[Encoded]:
        """Some images, one after the other; `rows` rise."""

    def finder(self, request: Request) -> Callable[[int], Encoded]:
        """The function that gives one image by its number, whenever it is used."""
        return lambda row: next(self.read([row]))

    def arrange(self, request: Request) -> None:
        """Look up what there is, without opening an image. Raises InputError if there is no data set here."""
        stamps = self.stamps(request)
        if not self.files_seen or stamps != self.files_seen:
            self.files_seen, self.content = stamps, self.contents(request, stamps)
        self.arranged = splits.arrange(self.place, self.content.items, request.test_share, self.content.names)
        self.skipped = self.content.skipped | self.arranged.skipped
        about = [image_files.VERSION, self.arranged.classes, self.arranged.labels, request.test_share, stamps]
        self.state = digest(json.dumps(about).encode())

    def images(self, split: str) -> Iterator[Encoded]:
        """Every image of a split, in order."""
        rows = self.arranged.rows[split]
        starts = [0, *(i for i in range(1, len(rows)) if rows[i] < rows[i - 1]), len(rows)]
        try:
            for start, end in pairwise(starts):  # one time through the files for each part that rises
                yield from self.read(rows[start:end])
        except InputError:
            raise
        except Exception as error:  # libraries that read damaged files raise almost anything
            raise unreadable(self.place, "what it was", error) from error

    def load(self, request: Request) -> Dataset:
        """The images at `request.image_size`; None: their own if all are square and equal, else 64 pixels.

        The fingerprint is that of the pixels if these are cached; on demand that of all images' contents, labels and
        classes, with the size in pixels. Raises InputError as `survey`.
        """
        root, image_size = request.root, request.image_size
        if image_size is not None and image_size < 1:
            raise InputError(f"image_size {image_size}: must be at least 1 pixel", key="image_size")
        facts = self.survey(request)
        self._tell(facts)
        size = image_size or facts.own_size or MIXED_SIZE
        if not image_size and size > LARGEST_SIZE:
            reason = "say at which size they are wanted, image_size 224 for instance"
            raise InputError(f"{self.place}: its images have {size} x {size} pixels; {reason}", key="image_size")
        if request.on_demand:
            return self._on_demand(request, facts, size)
        key = f"{facts.content}-{size}"

        def make() -> None:
            train, test = (
                cache.Blocks(facts.readable(split, labels), self._decoded(request, facts, split, size))
                for split, labels in self.arranged.labels.items()
            )
            cache.write(root, key, self.owner, self.arranged.classes, self.place, train, test)

        return cache.obtain(root, key, self.name, self.place, self.owner, make)

    def survey(self, request: Request) -> Facts:
        """What opening every image tells, which one process does while the others wait.

        Raises InputError as `arrange`, if an image has too many pixels or such without an agreed range, and if a split
        or a class has no image that can be decoded.
        """
        self.arrange(request)
        notes = request.root / "cache" / f"{self.owner}.json"
        if facts := _recall(notes, self.state):
            return facts
        with cache.lock(request.root, self.owner):
            facts = _recall(notes, self.state)
            if facts is None:
                facts = self._inspect(request)
                remember(notes, asdict(facts), self.files_seen)
        return facts

    def _tell(self, facts: Facts) -> None:
        log = logging.getLogger(__name__)
        skipped = self.skipped | facts.skipped
        if seen := {reason: names for reason, names in skipped.items() if reason != HIDDEN}:
            log.warning(f"{self.place}: {splits.tell(seen)}")
        if facts.twins:
            twins = f"{len(facts.twins):,} test images are in the training split too ({splits.shown(facts.twins)})"
            log.warning(f"{self.place}: {twins}")

    def _decoded(self, request: Request, facts: Facts, split: str, size: int) -> Iterator[np.ndarray]:
        pairs = zip(self.images(split), facts.extents[split], strict=True)
        images = (image for image, extent in pairs if extent)
        yield from self._each(lambda image: image_files.whole(image, facts.channels, size)[None], images)
        self._check_unchanged(request)

    def _on_demand(self, request: Request, facts: Facts, size: int) -> Dataset:
        find, both = self.finder(request), []
        for name, numbers in self.arranged.labels.items():
            lists = (self.arranged.rows[name], facts.extents[name], numbers)
            rows, extents, labels = (torch.tensor(facts.readable(name, values)) for values in lists)
            both.append(Split(ImageFiles(find, rows, extents, facts.channels, size), labels))
        train, test = both
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
        train, whole = cache.labelled_part(train)
        return Dataset(self.name, train, test, self.arranged.classes, fingerprint, mean, std, self.place, whole)

    def _inspect(self, request: Request) -> Facts:
        content, arranged = hashlib.blake2b(digest_size=16), self.arranged
        content.update(json.dumps([image_files.VERSION, arranged.classes]).encode())
        facts = Facts(self.state, "", 3, None, {}, {}, {}, [])
        kept: dict[str, list[int]] = {}
        digests: dict[str, list[bytes]] = {"train": [], "test": []}
        for split, labels in arranged.labels.items():
            extents: list[tuple[int, int] | None] = []
            modes: Counter[str] = Counter()
            in_training = set(digests["train"])
            for image in self._each(_check, self.images(split)):
                if isinstance(image, Damaged):
                    extents.append(None)
                    name = image.name.removeprefix(f"{self.place}/")
                    splits.skip(facts.skipped, "damaged images", f"{name}: {image.reason}")
                    continue
                name, digest_of_image, extent, mode = image
                extents.append(extent)
                modes[mode] += 1
                if digest_of_image in in_training and split == "test":
                    facts.twins.append(name.removeprefix(f"{self.place}/"))
                digests[split].append(digest_of_image)
            facts.extents[split], facts.modes[split] = extents, dict(modes)
            kept[split] = facts.readable(split, labels)
            content.update(json.dumps([split, kept[split]]).encode() + b"".join(digests[split]))
        if facts.skipped:
            splits.check(f"{self.place}: {splits.tell(facts.skipped)}", arranged.classes, kept, arranged.drawn)
        self._check_unchanged(request)
        (height, width), *others = {extent for extents in facts.extents.values() for extent in extents if extent}
        own_size = width if width == height and not others else None
        greyscale = all(mode in image_files.GREYSCALE for modes in facts.modes.values() for mode in modes)
        return replace(facts, content=content.hexdigest(), channels=1 if greyscale else 3, own_size=own_size)

    def _check_unchanged(self, request: Request) -> None:
        state = self.state
        self.arrange(request)
        if self.state != state:
            raise InputError(f"{self.place}: files changed while they were read; load again")

    def _each(self, function: Callable[[Encoded], T], images: Iterator[Encoded]) -> Iterator[T]:
        """`function` of every image, in order; in threads where that pays, a block at a time to bound the memory."""
        if sum(stamp.bytes for stamp in self.files_seen) < THREADED_BYTES * sum(map(len, self.arranged.rows.values())):
            yield from map(function, images)
            return
        with ThreadPoolExecutor(min(os.cpu_count() or 1, 16)) as pool:
            while block := list(islice(images, BLOCK)):
                yield from pool.map(function, block)


def _check(image: Encoded) -> tuple[str, bytes, tuple[int, int], str] | Damaged:
    try:
        return str(image), *image_files.check(image)
    except Damaged as damaged:
        return damaged


def _recall(notes: Path, state: str) -> Facts | None:
    try:
        facts = Facts(**json.loads(notes.read_text()))
    except (OSError, ValueError, TypeError):
        return None
    return facts if facts.state == state else None


def remember(notes: Path, content: object, stamps: list[Stamp]) -> None:
    """Write to JSON what files hold, if their unchanged times prove that they are unchanged: one that is written twice
    within one tick of the file system's clock keeps its time."""
    if time.time_ns() - max(stamp.mtime_ns for stamp in stamps) >= SETTLED_NS:
        with suppress(OSError):  # this only saves time
            notes.parent.mkdir(parents=True, exist_ok=True)
            write_json(notes, content)


def write_json(path: Path, content: object) -> None:
    """Write JSON to `path`, whole or not at all."""
    new = path.with_suffix(".new")
    new.write_text(json.dumps(content))
    new.replace(path)


def digest(data: bytes) -> str:
    return hashlib.blake2b(data, digest_size=16).hexdigest()


def within(rows: Sequence[int], first: int, n: int) -> list[int]:
    """The places, from 0, of those of rising rows that are among the `n` from `first` on."""
    return [row - first for row in rows[bisect_left(rows, first) : bisect_left(rows, first + n)]]


def stamp(path: Path, base: Path) -> Stamp:
    """The stamp of a file as seen from `base`. Raises InputError if it is not there."""
    try:
        status = path.stat()
    except OSError as error:
        raise InputError(f"{path}: cannot be opened ({error.strerror})") from error
    return Stamp(path.relative_to(base).as_posix(), status.st_size, status.st_mtime_ns)


def unreadable(path: object, kind: str, error: Exception) -> InputError:
    """What is said of a file that a library could not read, on one line."""
    return InputError(f"{path}: cannot be read as {kind} ({' '.join(str(error).split())}); it may be damaged")
