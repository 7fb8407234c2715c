"""From images with the labels and splits that their source tells to a training and a test split. Needs no torch."""

import hashlib
import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from cplearn.errors import InputError

TEST_SHARE = 0.2
"""Part of the images that becomes the test split where a source has none and a trial asks for no other part."""
NAMES = {"train": "train", "training": "train", "test": "test", "testing": "test"} | dict.fromkeys(
    ("val", "valid", "validation"), "val"
)
"""What people call the splits, in small letters."""
SHOWN = 3  # Most names that a message shows of many.
HIDDEN = "hidden and system files"  # The reason for skipping what a user does not see; it is not worth a message.
Skipped = dict[str, list[str]]  # Reasons, and the names of what was skipped for each.


class Item(NamedTuple):
    """An image before it is read. `name` tells it from all others of its source; `label` is a word or a number, None if
    it has none; `split` is "train", "val" or "test", None if the source does not say."""

    name: str
    label: Any
    split: str | None


@dataclass(frozen=True)
class Arranged:
    """The two splits: numbers of items and labels (-1: none) of each, in order; `drawn` if the test split is ours.
    `skipped` are the items that are in neither."""

    classes: tuple[str, ...]
    rows: dict[str, list[int]]
    labels: dict[str, list[int]]
    drawn: bool
    skipped: Skipped


def arrange(
    place: str, items: Sequence[Item], test_share: float | None = None, names: Sequence[str] | None = None
) -> Arranged:
    """The splits of the items of `place`, each in the given order, images without labels behind the others.

    The validation split serves as the test split where there is no other, and is skipped where there is. Where a source
    has one split or none, a part `test_share` of every class becomes the test split, whichever images these are called:
    the same for equal names. Classes are sorted, numbers before words, and numbers may be called as `names` says; a
    single class tells nothing apart and counts as none. Where some images have labels, those without serve for training
    alone.

    Raises InputError if a split has no images, if the splits have different classes, or if a part is asked for where
    the source has a test split.
    """
    skipped: Skipped = {}
    number, classes = class_numbers({item.label for item in items}, names)
    if len(classes) == 1:
        skip(skipped, "labels, since there is one class only", classes[0])
        number, classes = {}, []
    if len({item.split for item in items}) == 1:
        items = [item._replace(split=None) for item in items]
    labels = [number.get(item.label, -1) for item in items]
    rows: dict[str, list[int]] = {"train": [], "test": []}
    second = "test" if any(item.split == "test" for item in items) else "val"
    for row, item in enumerate(items):
        if item.split not in (None, "train", second):
            skip(skipped, "images of a third split", item.name)
        elif item.split != second:
            rows["train"].append(row)
        elif classes and labels[row] < 0:
            skip(skipped, "test images without a label", item.name)
        else:
            rows["test"].append(row)
    drawn = not rows["test"]
    if drawn:
        chosen = _draw(items, labels, rows["train"], TEST_SHARE if test_share is None else test_share, bool(classes))
        rows = {"train": [row for row in rows["train"] if row not in chosen], "test": sorted(chosen)}
    elif test_share is not None:
        raise InputError(
            f"test_share {test_share}: {place} has a test split of its own; leave it out", key="test_share"
        )
    rows["train"].sort(key=lambda row: bool(classes) and labels[row] < 0)
    labels_of = {split: [labels[row] for row in rows[split]] for split in rows}
    check(place, classes, labels_of, drawn)
    return Arranged(tuple(classes), rows, labels_of, drawn, skipped)


def class_numbers(labels: Iterable[Any], names: Sequence[str] | None = None) -> tuple[dict[Any, int], list[str]]:
    """The number of the class of each label, and the names of the classes in order.

    A missing label, an empty word or a negative number means no class, and has no number.

    >>> class_numbers({10, 2, -1, None})
    ({2: 0, 10: 1}, ['2', '10'])
    >>> class_numbers({1, 0}, ["cat", "dog"])
    ({0: 0, 1: 1}, ['cat', 'dog'])
    """
    words = {label for label in labels if isinstance(label, str) and label}
    numbers = {label for label in labels if label is not None and not isinstance(label, str) and label >= 0}
    order = [*sorted(numbers), *sorted(words)]
    called = {x: names[x] if names and x in numbers and x < len(names) else str(x) for x in order}
    place = {name: i for i, name in enumerate(dict.fromkeys(called.values()))}
    return {label: place[name] for label, name in called.items()}, list(place)


def check(place: str, classes: Sequence[str], labels: dict[str, list[int]], drawn: bool) -> None:
    """Raise InputError if a split is empty, or lacks a class of the other; a drawn test split may lack some."""
    for split, numbers in labels.items():
        if not numbers:
            raise InputError(f"{place}: no images to {split}; at least one that can be read is needed in each split")
    train, test = ({classes[label] for label in labels[split] if label >= 0} for split in ("train", "test"))
    alone = {"train": [] if drawn else [name for name in classes if name not in test]}
    alone["test"] = [name for name in classes if name not in train]
    difference = "; ".join(f"only in {split}: {', '.join(names)}" for split, names in alone.items() if names)
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
    for alike in by_label.values():
        count = min(max(1, round(share * len(alike))), len(alike) - 1)
        chosen.update(sorted(alike, key=rank)[:count])
    return chosen


def split_of(name: str) -> str | None:
    """The split that a file belongs to by the words of its name.

    >>> split_of("data/train-00000-of-00002.parquet"), split_of("val/7.tar"), split_of("rest.tar")
    ('train', 'val', None)
    """
    words = [word for word in re.split(r"[^a-z]+", name.lower()) if word in NAMES]
    return NAMES[words[-1]] if words else None


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
