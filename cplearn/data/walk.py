"""The image files in a folder and below it, and what else lies there and why it is skipped.

Nothing is opened. Links are followed unless they lead back to a folder above them, so a loop ends.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from cplearn.data.splits import HIDDEN, Skipped, skip
from cplearn.errors import InputError

SUFFIXES = {".bmp", ".gif", ".jfif", ".jpe", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"}
SYSTEM = {"__macosx", "@eadir", "$recycle.bin", "system volume information", "thumbs.db", "desktop.ini"}
"""Names that operating systems and network drives add to folders, in small letters."""


class File(NamedTuple):
    """An image file; `path` is relative to the folder that was searched, with forward slashes."""

    path: str
    bytes: int
    mtime_ns: int


def entries(folder: Path) -> list[os.DirEntry[str]]:
    """What is in one folder, by name. Raises InputError if it cannot be listed."""
    try:
        with os.scandir(folder) as found:
            return sorted(found, key=lambda entry: entry.name)
    except OSError as error:
        raise InputError(f"{folder}: cannot be listed ({error.strerror}); check its permissions") from error


def is_hidden(name: str) -> bool:
    return name.startswith(".") or name.lower() in SYSTEM


def images(folder: Path, below: str, skipped: Skipped) -> Iterator[File]:
    """The image files in `folder`/`below` (empty: in `folder`) and all folders in there; others join `skipped`.

    Raises InputError if a folder cannot be listed.
    """
    above = frozenset(_identity(path.stat()) for path in (folder / below).parents if folder in (path, *path.parents))
    yield from _search(folder / below, f"{below}/" if below else "", skipped, above)


def _identity(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino


def _search(folder: Path, prefix: str, skipped: Skipped, above: frozenset[tuple[int, int]]) -> Iterator[File]:
    above |= {_identity(folder.stat())}
    for entry in entries(folder):
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
            skip(skipped, "files without a suffix of images", path)
        elif not stat.S_ISREG(status.st_mode):
            skip(skipped, "no regular files", path)
        elif status.st_size == 0:
            skip(skipped, "empty files", path)
        else:
            yield File(path, status.st_size, status.st_mtime_ns)
