"""Your own images in a folder, however they lie there; and ImageNet-100, whose test split is in val.

Splits are folders called train or training, and test, testing, val, valid or validation. The class of an image is the
path of the folder that it lies in, below its split, without the parts that all classes share; of a folder in a class
folder, the class of the upper one. Class folders lie equally deep. Images that lie otherwise are a heap without labels:
directly in the folder, or at different depths. Names of classes are compared in Unicode's composed form (NFC), since
macOS writes the decomposed one. Classes are sorted by name, images by class and path. Links are followed unless they
lead back to a folder above them, so a loop ends.

A file labels.csv or labels.tsv beside the images overrides what folders say of them. Its first line names its columns:
`path` (relative to the folder, with forward slashes), and `label`, `split` or both; others are ignored. With a column
`label`, labels come from the file alone: an image without an entry has none. With a column `split`, so do splits: an
image without an entry is not in the test split.

The data set is greyscale if the mode of every image is, else RGB; for the pixels see `cplearn.data.image_files`.
"""

import csv
import functools
import os
import posixpath
import stat
import unicodedata
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from cplearn.data import splits
from cplearn.data.dataset import Request
from cplearn.data.encoded import Contents, EncodedSource, Stamp
from cplearn.data.image_files import Encoded
from cplearn.data.splits import HIDDEN, Item, Skipped, shown, skip
from cplearn.errors import InputError

SUFFIXES = {".bmp", ".gif", ".jfif", ".jpe", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"}
SYSTEM = {"__macosx", "@eadir", "$recycle.bin", "system volume information", "thumbs.db", "desktop.ini"}
"""Names that operating systems and network drives add to folders, in small letters."""
TABLES = {"labels.csv": ",", "labels.tsv": "\t"}  # Names of files of labels, and what separates their columns.
Parts = tuple[str, ...]


class Folder(EncodedSource):
    def __init__(self, name: str, path: Path) -> None:
        super().__init__(name, str(path), "folder")
        self.path = path
        self.table: Table | None = None
        self.folders: Mapping[str | None, str] = {}
        self.files: dict[str | None, list[Stamp]] = {}
        self.ignored: Skipped = {}
        self.paths: list[str] = []

    def stamps(self, request: Request) -> list[Stamp]:
        """Raises InputError if there is no folder, or no image in it; if labels.csv is not as it should be; and if
        imagenet100 is not there: it cannot be downloaded."""
        if not self.path.is_dir():
            raise InputError(
                f"{self.name} is not in {request.root}; make it of a full ImageNet by: cplearn data {self.name} "
                "--from PATH/TO/IMAGENET"
                if self.name == "imagenet100"
                else f"{self.path}: no such folder; dataset folder:PATH reads all images in a folder and below it"
            )
        self.ignored, self.table = {}, read_table(self.path)
        if self.name == "imagenet100":
            self.folders = {"train": "train", "test": "val"}
        elif self.table and self.table.has_splits:
            self.folders = {None: ""}
        else:
            self.folders = _split_folders(self.path, self.ignored)
        self.files = {split: list(_images(self.path, below, self.ignored)) for split, below in self.folders.items()}
        stamps = [file for files in self.files.values() for file in files]
        if not stamps:
            why = f"; {splits.tell(self.ignored)}" if self.ignored else ""
            raise InputError(f"{self.path}: no images in it; read are {', '.join(sorted(SUFFIXES))}{why}")
        return stamps + ([self.table.stamp] if self.table else [])

    def contents(self, request: Request, stamps: list[Stamp]) -> Contents:
        """Raises InputError if labels.csv names an image that is not there."""
        parts_of = {split: {self._parts(file, split) for file in files} for split, files in self.files.items()}
        classes = _classes(parts_of)
        # As ever: where class folders make the splits, images beside them are left out.
        two_splits = len(parts_of) > 1 and all(parts - {()} for parts in parts_of.values())
        in_classes = two_splits and len(set(classes.values())) > 1
        images: list[tuple[str, Item]] = []
        for split, files in self.files.items():
            for file in files:
                parts = self._parts(file, split)
                if not parts and in_classes and not (self.table and self.table.has_labels):
                    skip(self.ignored, "images beside class folders", file.name)
                else:
                    images.append((classes.get(parts, ""), Item(file.name, classes.get(parts), split)))
        if self.table:
            images = [self.table.of(item) for _, item in images]
            self.table.check_all_used({item.name for _, item in images})
        items = [item for _, item in sorted(images, key=lambda image: (image[0], image[1].name))]
        self.paths = [item.name for item in items]
        return Contents(items, None, self.ignored)

    def read(self, rows: Sequence[int]) -> Iterator[Encoded]:
        return (self.path / self.paths[row] for row in rows)

    def finder(self, request: Request) -> Callable[[int], Encoded]:
        path, paths = self.path, self.paths  # A data set holds on to them, not to all that a source knows of millions.
        return lambda row: path / paths[row]

    def _parts(self, file: Stamp, split: str | None) -> Parts:
        """The folders between that of a split and a file, in composed Unicode."""
        return _composed(file.name.rpartition("/")[0][len(self.folders[split]) :].strip("/"))


def source(name: str, root: Path) -> Folder:
    return Folder(name, root / name if name == "imagenet100" else Path(name.partition(":")[2]))


@functools.lru_cache(maxsize=4096)  # files of one folder come one after the other
def _composed(folder: str) -> Parts:
    return tuple(unicodedata.normalize("NFC", part) for part in folder.split("/")) if folder else ()


def _split_folders(path: Path, skipped: Skipped) -> Mapping[str | None, str]:
    """The folders of the two splits, or one for None if there are none; a folder that holds but one folder is that."""
    below, above = "", set()
    while True:
        visible = [entry for entry in _entries(path / below) if not is_hidden(entry.name)]
        folders = [entry.name for entry in visible if Path(entry.path).is_dir()]
        images = any(os.path.splitext(entry.name)[1].lower() in SUFFIXES for entry in visible)
        prefix = f"{below}/" if below else ""
        named: dict[str, str] = {}
        for name in sorted(folders, key=lambda name: (name not in splits.NAMES, name)):  # "train" before "Train"
            if name.lower() in splits.NAMES:
                named.setdefault(splits.NAMES[name.lower()], name)
        second = named.get("test", named.get("val"))
        if "train" in named and second:
            beside = [entry.name for entry in visible if entry.name not in (named["train"], second)]
            for name in beside:
                if prefix + name not in TABLES and (name in folders or images):
                    skip(skipped, "files and folders beside the splits", prefix + name)
            return {"train": prefix + named["train"], "test": prefix + second}
        identity = _identity((path / below).stat())
        if len(folders) != 1 or images or identity in above:
            return {None: below}
        above.add(identity)
        below = prefix + folders[0]


def _classes(folders: Mapping[str | None, set[Parts]]) -> dict[Parts, str]:
    """The class of each folder that images lie in; none where they are a heap.

    >>> _classes({None: {("a", "cats", "x"), ("a", "dogs", "x"), ("a", "dogs", "x", "more")}}).values()
    dict_values(['cats', 'dogs', 'dogs'])
    """
    every = {parts for of_split in folders.values() for parts in of_split}
    inside = every - {()}
    if () in every and None in folders:
        return {}
    roots = {parts: next(parts[:n] for n in range(1, len(parts) + 1) if parts[:n] in inside) for parts in inside}
    names: Collection[Parts] = set(roots.values())
    if len({len(parts) for parts in names}) != 1:
        return {}
    depth = len(next(iter(names)))
    differing = [i for i in range(depth) if len({parts[i] for parts in names}) > 1] or [depth - 1]
    return {parts: "/".join(root[differing[0] : differing[-1] + 1]) for parts, root in sorted(roots.items())}


def _images(folder: Path, below: str, skipped: Skipped) -> Iterator[Stamp]:
    """The image files in `folder`/`below` (empty: in `folder`) and all folders in there; others join `skipped`.

    Nothing is opened. Raises InputError if a folder cannot be listed.
    """
    above = frozenset(_identity(path.stat()) for path in (folder / below).parents if folder in (path, *path.parents))
    yield from _search(folder / below, f"{below}/" if below else "", skipped, above)


def _search(folder: Path, prefix: str, skipped: Skipped, above: frozenset[tuple[int, int]]) -> Iterator[Stamp]:
    above |= {_identity(folder.stat())}
    for entry in _entries(folder):
        path = prefix + entry.name
        if is_hidden(entry.name):
            skip(skipped, HIDDEN, path)
            continue
        try:
            status = entry.stat()
        except OSError:  # a link to nothing, or to itself
            skip(skipped, "links that lead nowhere", path)
            continue
        if stat.S_ISDIR(status.st_mode):
            if _identity(status) in above:
                skip(skipped, "links to a folder above them", path)
            else:
                yield from _search(Path(entry.path), f"{path}/", skipped, above)
        elif os.path.splitext(entry.name)[1].lower() not in SUFFIXES:
            if path not in TABLES:
                skip(skipped, "files without a suffix of images", path)
        elif not stat.S_ISREG(status.st_mode):
            skip(skipped, "no regular files", path)
        elif status.st_size == 0:
            skip(skipped, "empty files", path)
        else:
            yield Stamp(path, status.st_size, status.st_mtime_ns)


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    """What is in one folder, by name. Raises InputError if it cannot be listed."""
    try:
        with os.scandir(folder) as entries:
            return sorted(entries, key=lambda entry: entry.name)
    except OSError as error:
        raise InputError(f"{folder}: cannot be listed ({error.strerror}); check its permissions") from error


def is_hidden(name: str) -> bool:
    return name.startswith(".") or name.lower() in SYSTEM


def _identity(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino


@dataclass(frozen=True)
class Table:
    """Label and split (None: not said) of the paths in a file of labels."""

    file: Path
    stamp: Stamp
    rows: dict[str, tuple[str | None, str | None]]
    has_labels: bool
    has_splits: bool

    def of(self, item: Item) -> tuple[str, Item]:
        """The class to sort by, and the image with what the file says of it in place of what its folders say."""
        label, split = self.rows.get(_normal(item.name), (None, None))
        item = Item(item.name, label if self.has_labels else item.label, split if self.has_splits else item.split)
        return item.label or "", item

    def check_all_used(self, paths: Collection[str]) -> None:
        """Raise InputError if the file names an image that is not among `paths`."""
        missing = list(self.rows.keys() - {_normal(path) for path in paths})
        if missing:
            raise InputError(
                f"{self.file}: {len(missing):,} of {len(self.rows):,} paths are no images that could be read "
                f"({shown(sorted(missing))}); correct them, or remove these lines"
            )


def read_table(folder: Path) -> Table | None:
    """The file of labels of a folder; None if it has none.

    Raises InputError if there are two, if one cannot be read, has no column `path`, names a path twice, or a split that
    is not known.
    """
    files = [folder / name for name in TABLES if (folder / name).is_file()]
    if not files:
        return None
    if len(files) == 2:
        raise InputError(f"{folder}: both {' and '.join(TABLES)} are here; remove one")
    file = files[0]
    rows: dict[str, tuple[str | None, str | None]] = {}
    try:
        with open(file, encoding="utf-8-sig", newline="") as lines:
            status = os.fstat(lines.fileno())
            reader = csv.DictReader(lines, delimiter=TABLES[file.name], strict=True)
            columns = [name.strip().lower() for name in reader.fieldnames or []]
            if "path" not in columns or not {"label", "split"} & set(columns):
                raise InputError(f"{file}: its first line must name the columns path, and label, split or both")
            reader.fieldnames = columns
            for row in reader:
                path = _normal(row["path"] or "")
                split = (row.get("split") or "").strip()
                if split and split.lower() not in splits.NAMES:
                    known = ", ".join(splits.NAMES)
                    raise InputError(f"{file}, line {reader.line_num}: unknown split {split!r}; known are {known}")
                if path in rows:
                    raise InputError(f"{file}, line {reader.line_num}: {path!r} is named twice; remove one")
                rows[path] = ((row.get("label") or "").strip() or None, splits.NAMES.get(split.lower()))
    except (OSError, UnicodeError, csv.Error) as error:
        raise InputError(f"{file}: cannot be read ({error}); it must be a table in UTF-8") from error
    stamp = Stamp(file.name, status.st_size, status.st_mtime_ns)
    return Table(file, stamp, rows, "label" in columns, "split" in columns)


def _normal(path: str) -> str:
    return unicodedata.normalize("NFC", posixpath.normpath(path.strip()))
