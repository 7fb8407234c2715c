"""What is understood of images before anything is trained: splits, classes, sizes, modes, and what is skipped."""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from cplearn.data import Request, catalogue, data_root, source
from cplearn.data.encoded import EncodedSource, Facts
from cplearn.data.splits import Skipped, shown
from cplearn.errors import InputError

MOST_CLASSES = 20  # Names of classes that are listed.


class SplitRow(NamedTuple):
    """One split in words: counts, range of sizes (width x height) and how many images have each of Pillow's modes."""

    split: str
    images: int
    unlabelled: int
    classes: int
    per_class: str
    sizes: str
    modes: str


class Report(NamedTuple):
    """What a source holds. `drawn` is whether the test split is drawn by us; `twins` are test images that the training
    split has too."""

    name: str
    classes: tuple[str, ...]
    drawn: bool
    splits: list[SplitRow]
    skipped: Skipped
    twins: list[str]

    def sentences(self) -> Iterator[str]:
        """What stands below the tables."""
        if self.classes:
            more = f" and {len(self.classes) - MOST_CLASSES:,} more" if len(self.classes) > MOST_CLASSES else ""
            names = ", ".join(name if name.isprintable() else ascii(name) for name in self.classes[:MOST_CLASSES])
            yield f"Classes: {names}{more}."
        else:
            yield "No classes: everything that needs no labels is measured."
        if self.drawn:
            yield "There is no test split, so a part of the images is taken for it: see the setting test_share."
        if self.twins:
            yield f"{len(self.twins):,} test images are in the training split too: {shown(self.twins)}."


def check(name: str, root: Path | None = None, test_share: float | None = None) -> Report:
    """The report on a data set; `name` may be the path of a folder too. Every image is opened, none is kept.

    Raises InputError if there is no such data set, if nothing of it can be used, or if it is a public one.
    """
    if name.partition(":")[0] not in {written.partition(":")[0] for written in catalogue.names()}:
        name = f"folder:{name}"
    images = source(name, root)
    if not isinstance(images, EncodedSource):
        raise InputError(f"{name} is always the same: cplearn data {name} prints its sizes")
    facts = images.survey(Request(data_root(root), test_share=test_share))
    arranged = images.arranged
    rows = [_row(split, labels, facts) for split, labels in arranged.labels.items()]
    return Report(images.name, arranged.classes, arranged.drawn, rows, images.skipped | facts.skipped, facts.twins)


def _row(split: str, labels: list[int], facts: Facts) -> SplitRow:
    extents = facts.extents[split]
    kept = facts.readable(split, labels)
    counts = Counter(label for label in kept if label >= 0)
    sizes = sorted({(extent[1], extent[0]) for extent in extents if extent}, key=lambda size: size[0] * size[1])
    return SplitRow(
        split,
        len(kept),
        len(kept) - counts.total(),
        len(counts),
        _range([str(count) for count in sorted(counts.values())]),
        _range([f"{width} x {height}" for width, height in sizes]),
        ", ".join(f"{count:,} {mode}" for mode, count in sorted(facts.modes[split].items())),
    )


def _range(values: list[str]) -> str:
    if not values:
        return "-"
    return values[0] if values[0] == values[-1] else f"{values[0]} to {values[-1]}"
