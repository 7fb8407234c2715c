"""From images with the labels and splits that their source tells to a training and a test split. Needs no torch."""

from __future__ import annotations

import hashlib
import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from cplearn.errors import InputError

TEST_SHARE = 0.2
"""Part of the images that becomes the test split where a source has none and a trial asks for no other part."""
NAMES = {"train": "train", "training": "train", "test": "test", "testing": "test"} | dict.fromkeys(
    ("val", "valid", "validation"), "val"
)
"""What people call the splits, in small letters."""
SHOWN = 3
"""Most names that a message shows of many."""

HIDDEN = "hidden and system files"
"""The reason for skipping what a user does not see, which is not worth a message."""
Skipped = dict[str, list[str]]
"""Reasons, and the names of what was skipped for each."""


class Item(NamedTuple):
    """An image before it is read. `name` tells it from all others of its source; `label` is the name of its class, None
    if it has none; `split` is "train", "val" or "test", None if the source does not say."""

    name: str
    label: str | None
    split: str | None


@dataclass(frozen=True)
class Arranged:
    """The two splits: numbers of items and labels (-1: none) of each, in order; `drawn` if the test split is ours."""

    classes: tuple[str, ...]
    rows: dict[str, list[int]]
    labels: dict[str, list[int]]
    drawn: bool
    skipped: Skipped = field(default_factory=dict)


def arrange(
    place: str, items: Sequence[Item], test_share: float | None = None, classes: Sequence[str] | None = None
) -> Arranged:
    """The splits of the items of `place`, each in the given order, images without labels behind the others.

    The validation split serves as the test split where there is no other, and is skipped where there is. Where a source
    has one split or none, a part `test_share` of every class becomes the test split, whichever images these are called:
    the same for equal names. Classes are sorted by name, unless `classes` gives their order; a single class tells
    nothing apart and counts as none. Where some images have labels, those without serve for training alone.

    Raises InputError if a split has no images, if the splits have different classes, or if a part is asked for where
    the source has a test split.
    """
    skipped: Skipped = {}
    found = sorted({item.label for item in items if item.label is not None})
    names = found if classes is None else [name for name in classes if name in set(found)]
    if len(names) == 1:
        skip(skipped, "labels, since there is one class only", names[0])
        names = []
    if len({item.split for item in items}) == 1:
        items = [item._replace(split=None) for item in items]
    number = {name: i for i, name in enumerate(names)}
    labels = [-1 if item.label is None else number.get(item.label, -1) for item in items]
    rows: dict[str, list[int]] = {"train": [], "test": []}
    second = "test" if any(item.split == "test" for item in items) else "val"
    for row, item in enumerate(items):
        if item.split not in (None, "train", second):
            skip(skipped, "images of a third split", item.name)
        elif item.split != second:
            rows["train"].append(row)
        elif names and labels[row] < 0:
            skip(skipped, "test images without a label", item.name)
        else:
            rows["test"].append(row)
    drawn = not rows["test"]
    if drawn:
        chosen = _draw(items, labels, rows["train"], TEST_SHARE if test_share is None else test_share, bool(names))
        rows = {"train": [row for row in rows["train"] if row not in chosen], "test": sorted(chosen)}
    elif test_share is not None:
        raise InputError(
            f"test_share {test_share}: {place} has a test split of its own; leave it out", key="test_share"
        )
    rows["train"].sort(key=lambda row: names != [] and labels[row] < 0)
    own = {split: [labels[row] for row in chosen] for split, chosen in rows.items()}
    check(place, names, own, drawn)
    return Arranged(tuple(names), rows, own, drawn, skipped)


def check(place: str, classes: Sequence[str], labels: dict[str, list[int]], drawn: bool) -> None:
    """Raise InputError if a split is empty, or lacks a class of the other; a drawn test split may lack some."""
    for split, own in labels.items():
        if not own:
            raise InputError(f"{place}: no images to {split}; at least one that can be read is needed in each split")
    present = {split: set(own) for split, own in labels.items()}
    lacking = {
        split: [name for i, name in enumerate(classes) if i not in present[split]]
        for split in (("train",) if drawn else ("test", "train"))
    }
    other = {"train": "test", "test": "train"}
    difference = "; ".join(f"only in {other[split]}: {', '.join(own)}" for split, own in lacking.items() if own)
    if difference:
        raise InputError(f"{place}: train and test have different classes; {difference}")


def _draw(items: Sequence[Item], labels: Sequence[int], rows: Sequence[int], share: float, labelled: bool) -> set[int]:
    """A part `share` of the rows of every class, at least one image of a class that has two."""
    by_label: dict[int, list[int]] = defaultdict(list)
    for row in rows:
        if labels[row] >= 0 or not labelled:
            by_label[labels[row]].append(row)

    def rank(row: int) -> bytes:
        return hashlib.blake2b(items[row].name.encode("utf-8", "surrogateescape"), digest_size=16).digest()

    chosen: set[int] = set()
    for own in by_label.values():
        count = min(max(1, round(share * len(own))), len(own) - 1)
        chosen.update(sorted(own, key=rank)[:count])
    return chosen


def split_of(name: str) -> str | None:
    """The split that a file belongs to by the words of its name.

    >>> split_of("data/train-00000-of-00002.parquet"), split_of("val/7.tar"), split_of("rest.tar")
    ('train', 'val', None)
    """
    found = [NAMES[word] for word in re.split(r"[^a-z]+", name.lower()) if word in NAMES]
    return found[-1] if found else None


def skip(skipped: Skipped, reason: str, name: str) -> None:
    skipped.setdefault(reason, []).append(name)


def tell(skipped: Skipped) -> str:
    """One sentence on what was skipped: counts, and the first names.

    >>> tell({"empty files": ["a.png", "b.png"]})
    'skipped 2 empty files (a.png, b.png)'
    """
    return "skipped " + "; ".join(f"{len(names):,} {reason} ({shown(names)})" for reason, names in skipped.items())


def shown(names: Sequence[str]) -> str:
    """The first names of many, readable whatever characters they have."""
    first = ", ".join(name if name.isprintable() else ascii(name) for name in names[:SHOWN])
    return f"{first}, ..." if len(names) > SHOWN else first
