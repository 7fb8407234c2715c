"""A file labels.csv or labels.tsv beside the images of a folder, which overrides what folders say of them.

Its first line names its columns: `path` (relative to the folder, with forward slashes), and `label`, `split` or both;
others are ignored. With a column `label`, labels come from the file alone: an image without an entry has none. With a
column `split`, so do splits: an image without an entry is not in the test split.
"""

from __future__ import annotations

import csv
import posixpath
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from cplearn.data.splits import NAMES as SPLITS
from cplearn.data.splits import shown
from cplearn.errors import InputError

NAMES = {"labels.csv": ",", "labels.tsv": "\t"}
"""Names of such a file, and what separates its columns."""


@dataclass(frozen=True)
class Table:
    """Label and split (None: not said) of the paths in a file."""

    file: Path
    rows: dict[str, tuple[str | None, str | None]]
    has_labels: bool
    has_splits: bool

    def of(self, path: str, label: str | None, split: str | None) -> tuple[str, str | None, str | None]:
        """The class to sort by, the label and the split of an image, whose folders say `label` and `split`."""
        given = self.rows.get(_normal(path), (None, None))
        label = given[0] if self.has_labels else label
        return label or "", label, given[1] if self.has_splits else split

    def check_all_used(self, paths: Iterable[str]) -> None:
        """Raise InputError if the file names an image that is not among `paths`."""
        missing = list(self.rows.keys() - {_normal(path) for path in paths})
        if missing:
            raise InputError(
                f"{self.file}: {len(missing):,} of {len(self.rows):,} paths are no images that could be read "
                f"({shown(sorted(missing))}); correct them, or remove these lines"
            )


def read(folder: Path) -> Table | None:
    """The table of a folder; None if it has none.

    Raises InputError if there are two, if one cannot be read, has no column `path`, names a path twice, or a split that
    is not known.
    """
    files = [folder / name for name in NAMES if (folder / name).is_file()]
    if not files:
        return None
    if len(files) == 2:
        raise InputError(f"{folder}: both {' and '.join(NAMES)} are here; remove one")
    file = files[0]
    rows: dict[str, tuple[str | None, str | None]] = {}
    try:
        with open(file, encoding="utf-8-sig", newline="") as lines:
            reader = csv.DictReader(lines, delimiter=NAMES[file.name], strict=True)
            columns = [name.strip().lower() for name in reader.fieldnames or []]
            if "path" not in columns or not {"label", "split"} & set(columns):
                raise InputError(f"{file}: its first line must name the columns path, and label, split or both")
            reader.fieldnames = columns
            for row in reader:
                path = _normal(row["path"] or "")
                split = (row.get("split") or "").strip()
                if split and split.lower() not in SPLITS:
                    known = ", ".join(SPLITS)
                    raise InputError(f"{file}, line {reader.line_num}: unknown split {split!r}; known are {known}")
                if path in rows:
                    raise InputError(f"{file}, line {reader.line_num}: {path!r} is named twice; remove one")
                rows[path] = ((row.get("label") or "").strip() or None, SPLITS.get(split.lower()))
    except (OSError, UnicodeError, csv.Error) as error:
        raise InputError(f"{file}: cannot be read ({error}); it must be a table in UTF-8") from error
    return Table(file, rows, "label" in columns, "split" in columns)


def _normal(path: str) -> str:
    return unicodedata.normalize("NFC", posixpath.normpath(path.strip()))
