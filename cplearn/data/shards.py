"""Tar files of images as the library `webdataset` writes them: wds:PATTERN, wds:/data/{train,test}-{000..003}.tar say.

Files of one name, up to its first dot, belong together: the image, and its label in .cls, or as `label` in .json. The
tar files are indexed once; then any image is read from its place. Names of files tell the splits.
"""

import glob
import json
import re
import tarfile
from collections.abc import Iterator, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from cplearn.data.dataset import Request
from cplearn.data.encoded import Contents, EncodedSource, Stamp, remember, stamp, unreadable
from cplearn.data.folder import SUFFIXES, is_hidden
from cplearn.data.image_files import Encoded, Stored
from cplearn.data.splits import Item, Skipped, skip, split_of
from cplearn.errors import InputError


class Sample(NamedTuple):
    """An image within a tar file: the number of the file, where its bytes begin and how many they are."""

    file: int
    name: str
    offset: int
    bytes: int
    label: str | None


class Shards(EncodedSource):
    def __init__(self, name: str, pattern: str) -> None:
        super().__init__(name, pattern, "wds")
        self.pattern, self.base = pattern, Path(re.split(r"[*?\[{]", pattern)[0] + "x").parent
        self.samples: list[Sample] = []
        self.files: list[Path] = []

    def stamps(self, request: Request) -> list[Stamp]:
        """Raises InputError if no file has such a name, or a file of a range is missing."""
        files: list[Path] = []
        for name in expanded(self.pattern):
            paths = sorted(glob.glob(name)) if glob.has_magic(name) else [name]
            files += [Path(path) for path in paths if Path(path) not in files]
        if not files:
            raise InputError(f"{self.pattern}: no files of such names; write wds:/data/train-*.tar, for instance")
        self.files = files
        return [stamp(path, self.base) for path in files]

    def contents(self, request: Request, stamps: list[Stamp]) -> Contents:
        """Raises InputError if a file is no tar file, is compressed or cut off, or if there is no image in any."""
        notes = request.root / "cache" / f"{self.owner}-index.json"
        skipped: Skipped = {}
        index: dict[str, Any] = {}
        with suppress(OSError, ValueError):
            index = json.loads(notes.read_text())
        if index.get("stamps") != [list(entry) for entry in stamps]:
            samples = [sample for i, path in enumerate(self.files) for sample in _index(path, i, skipped)]
            index = {"stamps": stamps, "samples": samples, "skipped": skipped}
            remember(notes, index, stamps)
        self.samples = [Sample(*sample) for sample in index["samples"]]
        if not self.samples:
            raise InputError(f"{self.pattern}: no images in these files")
        files = [(entry.name, split_of(entry.name)) for entry in stamps]
        placed = ((*files[sample.file], sample) for sample in self.samples)
        items = [Item(f"{file}: {sample.name}", _number(sample.label), split) for file, split, sample in placed]
        return Contents(items, None, index["skipped"])

    def read(self, rows: Sequence[int]) -> Iterator[Encoded]:
        for row in rows:
            sample = self.samples[row]
            path = self.files[sample.file]
            yield Stored(f"{path}: {sample.name}", partial(_bytes, path, sample))


def source(name: str, root: Path) -> Shards:
    return Shards(name, name.partition(":")[2])


def expanded(pattern: str) -> list[str]:
    """The patterns that braces stand for.

    >>> expanded("{train,val}-{08..10}.tar")[2:4]
    ['train-10.tar', 'val-08.tar']
    """
    braces = re.search(r"\{([^{}]*)\}", pattern)
    if not braces:
        return [pattern]
    span = re.fullmatch(r"(\d+)\.\.(\d+)", braces[1])
    words = braces[1].split(",")
    if span:
        words = [f"{i:0{len(span[1])}}" for i in range(int(span[1]), int(span[2]) + 1)]
    return [name for word in words for name in expanded(pattern[: braces.start()] + word + pattern[braces.end() :])]


def _index(path: Path, file: int, skipped: Skipped) -> list[Sample]:
    """The images of one tar file, in its order."""
    images: dict[str, Sample] = {}
    labels: dict[str, str] = {}
    try:
        with tarfile.open(path, "r:") as archive:
            for member in archive:
                folder, _, name = member.name.rpartition("/")
                stem, _, kind = name.partition(".")
                key, kind = f"{folder}/{stem}", kind.lower()
                if not member.isfile() or is_hidden(name):
                    continue
                if kind in ("cls", "json"):
                    file_of_label = archive.extractfile(member)
                    content = file_of_label.read().decode() if file_of_label else ""
                    label = content.strip() if kind == "cls" else json.loads(content).get("label")
                    if label is not None:
                        labels[key] = str(label)
                elif f".{kind.rpartition('.')[2]}" not in SUFFIXES:
                    skip(skipped, f"files .{kind}", f"{path.name}: {member.name}")
                elif key in images:
                    skip(skipped, "further images of a sample", f"{path.name}: {member.name}")
                elif not member.size:
                    skip(skipped, "empty files", f"{path.name}: {member.name}")
                else:
                    images[key] = Sample(file, member.name, member.offset_data, member.size, None)
            # tarfile takes a damaged header for the end, where two blocks of zeros should stand.
            with open(path, "rb") as content_of_file:
                content_of_file.seek(archive.offset)
                if content_of_file.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
                    raise tarfile.ReadError(f"damaged or cut off at byte {archive.offset:,}")
    except (OSError, tarfile.TarError, ValueError, AttributeError) as error:
        raise unreadable(path, "a tar file that is not compressed", error) from error
    return [sample._replace(label=labels.get(key)) for key, sample in images.items()]


def _number(label: str | None) -> str | int | None:
    return int(label) if label and re.fullmatch(r"-?\d+", label) else label


def _bytes(path: Path, sample: Sample) -> bytes:
    with open(path, "rb") as file:
        file.seek(sample.offset)
        return file.read(sample.bytes)
