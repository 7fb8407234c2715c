"""Your own images in a folder, however they lie there; and ImageNet-100, whose test split is in val.

Splits are folders called train or training, and test, testing, val, valid or validation. The class of an image is the
path of the folder that it lies in, below its split, without the parts that all classes share; of a folder in a class
folder, the class of the upper one. Class folders lie equally deep. Images that lie otherwise are a heap without labels:
directly in the folder, or at different depths. Names of classes are compared in Unicode's composed form (NFC), since
macOS writes the decomposed one. Classes are sorted by name, images by class and path. A file labels.csv says otherwise,
see `cplearn.data.labels_file`.

The data set is greyscale if the mode of every image is, else RGB; for the pixels see `cplearn.data.image_files`.
"""

from __future__ import annotations

import functools
import json
import os
import unicodedata
from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path

from cplearn.data import image_files, labels_file, splits, walk
from cplearn.data.encoded import EncodedSource, Listing, digest
from cplearn.data.image_files import Encoded
from cplearn.data.source import Request
from cplearn.data.splits import Item, Skipped, skip
from cplearn.errors import InputError

Parts = tuple[str, ...]


class Folder(EncodedSource):
    """The images of `folder:PATH` or of imagenet100."""

    def __init__(self, name: str, path: Path) -> None:
        super().__init__(name, str(path), "folder")
        self.path = path
        self.paths: dict[str, list[str]] = {}

    def listing(self, request: Request) -> Listing:
        """Raises InputError if there is no folder, no image, or nothing that makes two splits; if labels.csv is not as
        it should be; and if imagenet100 is not there: it cannot be downloaded."""
        if not self.path.is_dir():
            raise InputError(
                f"{self.name} is not in {request.root}; make it of a full ImageNet by: cplearn data {self.name} "
                "--from PATH/TO/IMAGENET"
                if self.name == "imagenet100"
                else f"{self.path}: no such folder; dataset folder:PATH reads all images in a folder and below it"
            )
        skipped: Skipped = {}
        table = labels_file.read(self.path)
        if self.name == "imagenet100":
            folders: Mapping[str | None, str] = {"train": "train", "test": "val"}
        elif table and table.has_splits:
            folders = {None: ""}
        else:
            folders = _split_folders(self.path, skipped)
        files = {split: list(walk.images(self.path, folder, skipped)) for split, folder in folders.items()}
        for name in labels_file.NAMES:  # it has no suffix of images, and is no image
            _forget(skipped, name)
        if not any(files.values()):
            raise InputError(
                f"{self.path}: no images in it; read are {', '.join(sorted(walk.SUFFIXES))}{_why(skipped)}"
            )
        parts_of = {split: {_folder_of(file.path, folders[split]) for file in own} for split, own in files.items()}
        classes = _classes(parts_of)
        # As ever: where class folders make the splits, images beside them are left out.
        in_classes = len(set(classes.values())) > 1 and all(own - {()} for own in parts_of.values()) and len(files) > 1
        found: list[tuple[str, str | None, str | None, walk.File]] = []
        for split, own in files.items():
            for file in own:
                parts = _folder_of(file.path, folders[split])
                if not parts and in_classes and not (table and table.has_labels):
                    skip(skipped, "images beside class folders", file.path)
                else:
                    found.append((classes.get(parts, ""), classes.get(parts), split, file))
        if table:
            found = [(*table.of(file.path, label, split), file) for _, label, split, file in found]
            table.check_all_used(file.path for *_, file in found)
        found.sort(key=lambda entry: (entry[0], entry[-1].path))
        items = [Item(file.path, label, split) for _, label, split, file in found]
        arranged = splits.arrange(self.place, items, request.test_share)
        self.paths = {split: [found[row][-1].path for row in rows] for split, rows in arranged.rows.items()}
        state = {
            split: [(found[row][-1].path, label, *found[row][-1][1:]) for row, label in zip(rows, labels, strict=True)]
            for (split, rows), labels in zip(arranged.rows.items(), arranged.labels.values(), strict=True)
        }
        return Listing(
            arranged,
            skipped,
            digest(json.dumps([image_files.VERSION, arranged.classes, state]).encode()),
            max(file.mtime_ns for *_, file in found),
            sum(file.bytes for *_, file in found),
        )

    def images(self, split: str) -> Iterable[Encoded]:
        return (self.path / path for path in self.paths[split])

    def finder(self, request: Request, split: str) -> Callable[[int], Encoded]:
        paths = self.paths[split]
        return lambda row: self.path / paths[row]


def source(name: str, root: Path) -> Folder:
    return Folder(name, root / name if name == "imagenet100" else Path(name.partition(":")[2]))


def _split_folders(path: Path, skipped: Skipped) -> Mapping[str | None, str]:
    """The folders of the two splits, or one for None if there are none; a folder that holds but one folder is that."""
    below, above = "", set()
    while True:
        visible = [entry for entry in walk.entries(path / below) if not walk.is_hidden(entry.name)]
        folders = [entry.name for entry in visible if Path(entry.path).is_dir()]
        images = any(os.path.splitext(entry.name)[1].lower() in walk.SUFFIXES for entry in visible)
        prefix = f"{below}/" if below else ""
        named: dict[str, str] = {}
        for name in sorted(folders, key=lambda name: (name not in splits.NAMES, name)):  # "train" before "Train"
            if name.lower() in splits.NAMES:
                named.setdefault(splits.NAMES[name.lower()], name)
        second = named.get("test", named.get("val"))
        if "train" in named and second:
            for entry in visible:
                if entry.name not in (named["train"], second) and (entry.name in folders or images):
                    skip(skipped, "files and folders beside the splits", prefix + entry.name)
            return {"train": prefix + named["train"], "test": prefix + second}
        status = (path / below).stat()
        if len(folders) != 1 or images or (status.st_dev, status.st_ino) in above:
            return {None: below}
        above.add((status.st_dev, status.st_ino))
        below = prefix + folders[0]


def _folder_of(path: str, base: str) -> Parts:
    """The folders between `base` and a file, in composed Unicode."""
    return _parts(path.rpartition("/")[0], base)


@functools.lru_cache(maxsize=4096)  # files of one folder come one after the other
def _parts(folder: str, base: str) -> Parts:
    inside = folder[len(base) :].strip("/")
    return tuple(unicodedata.normalize("NFC", part) for part in inside.split("/")) if inside else ()


def _classes(folders: Mapping[str | None, set[Parts]]) -> dict[Parts, str]:
    """The class of each folder that images lie in; none where they are a heap.

    >>> _classes({None: {("a", "cats", "x"), ("a", "dogs", "x"), ("a", "dogs", "x", "more")}}).values()
    dict_values(['cats', 'dogs', 'dogs'])
    """
    every = {parts for own in folders.values() for parts in own}
    inside = every - {()}
    if () in every and None in folders:
        return {}
    roots = {parts: next(parts[:n] for n in range(1, len(parts) + 1) if parts[:n] in inside) for parts in inside}
    names: Collection[Parts] = set(roots.values())
    if len({len(parts) for parts in names}) != 1:
        return {}
    depth = len(next(iter(names)))
    first = next((i for i in range(depth) if len({parts[i] for parts in names}) > 1), depth - 1)
    last = next((i for i in reversed(range(depth)) if len({parts[i] for parts in names}) > 1), depth - 1)
    return {parts: "/".join(root[first : last + 1]) for parts, root in sorted(roots.items())}


def _forget(skipped: Skipped, name: str) -> None:
    for reason, names in list(skipped.items()):
        skipped[reason] = [other for other in names if other != name]
        if not skipped[reason]:
            del skipped[reason]


def _why(skipped: Skipped) -> str:
    return f"; {splits.tell(skipped)}" if skipped else ""
