"""Images that lie inside larger files: what sources of Parquet files, tar shards, arrays and Hugging Face share."""

from __future__ import annotations

import json
from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

from cplearn.data import image_files, splits
from cplearn.data.encoded import EncodedSource, Listing, digest
from cplearn.data.image_files import Encoded
from cplearn.data.source import Request
from cplearn.data.splits import Arranged, Item, Skipped
from cplearn.errors import InputError


class Stamp(NamedTuple):
    """What tells that a file has not changed."""

    name: str
    bytes: int
    mtime_ns: int


class Contents(NamedTuple):
    """The images of a container in its order; `classes` if it has an order of its own, None: sorted by name."""

    items: list[Item]
    classes: list[str] | None
    skipped: Skipped


class Container(EncodedSource):
    """A source that numbers its images from 0, in the order of its files and of what is in them."""

    def __init__(self, name: str, place: str, kind: str) -> None:
        super().__init__(name, place, kind)
        self._known: tuple[list[Stamp], Contents] | None = None
        self.arranged: Arranged | None = None

    @abstractmethod
    def stamps(self) -> list[Stamp]:
        """The files, looked up anew. Raises InputError if there are none."""

    @abstractmethod
    def contents(self, request: Request, stamps: list[Stamp]) -> Contents:
        """What is in these files. Raises InputError if they are damaged, or no images are in them."""

    @abstractmethod
    def read(self, rows: Sequence[int]) -> Iterator[Encoded]:
        """Some images, one after the other; `rows` rise."""

    def listing(self, request: Request) -> Listing:
        stamps = self.stamps()
        if self._known is None or self._known[0] != stamps:
            self._known = stamps, self.contents(request, stamps)
        contents = self._known[1]
        self.arranged = splits.arrange(self.place, contents.items, request.test_share, contents.classes)
        about = [image_files.VERSION, self.arranged.classes, self.arranged.labels, request.test_share, stamps]
        state = digest(json.dumps(about).encode())
        newest, size = max(stamp.mtime_ns for stamp in stamps), sum(stamp.bytes for stamp in stamps)
        return Listing(self.arranged, contents.skipped, state, newest, size)

    def images(self, split: str) -> Iterable[Encoded]:
        assert self.arranged is not None
        rows = self.arranged.rows[split]
        starts = [0, *(i for i in range(1, len(rows)) if rows[i] < rows[i - 1]), len(rows)]
        try:
            for start, end in pairwise(starts):  # one time through the files for each part that rises
                yield from self.read(rows[start:end])
        except InputError:
            raise
        except Exception as error:  # libraries that read damaged files raise almost anything
            raise unreadable(self.place, "what it was", error) from error

    def finder(self, request: Request, split: str) -> Callable[[int], Encoded]:
        assert self.arranged is not None
        rows = self.arranged.rows[split]
        return lambda row: next(self.read([rows[row]]))


def stamp(path: Path, base: Path) -> Stamp:
    """The stamp of a file, called as seen from `base`. Raises InputError if it is not there."""
    try:
        status = path.stat()
    except OSError as error:
        raise InputError(f"{path}: cannot be opened ({error.strerror})") from error
    return Stamp(path.relative_to(base).as_posix(), status.st_size, status.st_mtime_ns)


def unreadable(path: object, kind: str, error: Exception) -> InputError:
    """What is said of a file that a library could not read, on one line."""
    return InputError(f"{path}: cannot be read as {kind} ({' '.join(str(error).split())}); it may be damaged")


def class_names(labels: Iterable[Any], names: Sequence[str] | None = None) -> tuple[list[str | None], list[str]]:
    """The class of each image, None if it has none, and all classes in order.

    Labels are words, or numbers that `names` may name; a missing or negative number means no class.

    >>> class_names([10, 2, -1, None])
    (['10', '2', None, None], ['2', '10'])
    >>> class_names([1, 0], ["cat", "dog"])
    (['dog', 'cat'], ['cat', 'dog'])
    """
    known: dict[Any, str | None] = {None: None, "": None}
    found = []
    for label in labels:
        if label not in known:
            number = not isinstance(label, str)
            if number and label < 0:
                known[label] = None
            else:
                known[label] = names[label] if names and number and label < len(names) else str(label)
        found.append(known[label])
    present = {label: name for label, name in known.items() if name is not None}
    return found, [present[label] for label in sorted(present, key=lambda label: (isinstance(label, str), label))]
