"""Images: those of the most used codes, and nearest neighbours by the features."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from reports.figures import canvas
from reports.figures.canvas import Plot
from reports.figures.samples import Sample

MOST_GRIDS = 3
FRAME = "#D55E00"
Arrays = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Grid:
    """A picture of lines of images of one row of the table; `words` stand before the lines, `framed` (lines, columns)
    says which images have a frame, `numbers` which images these are."""

    name: str
    words: tuple[str, ...]
    picture: np.ndarray = field(repr=False)
    framed: np.ndarray = field(repr=False)
    numbers: pd.DataFrame = field(repr=False)


def code_numbers(arrays: Arrays) -> pd.DataFrame:
    """Columns `code`, `used` (images that have it), `place` (0: nearest to the code's mean), `image`, `class`."""
    used = [int((arrays["codes"] == code).sum()) for code in arrays["top_codes"]]
    rows = [
        (int(code), count, place, int(image), int(arrays["labels"][image]))
        for code, count, images in zip(arrays["top_codes"], used, arrays["code_images"], strict=True)
        for place, image in enumerate(images)
        if image >= 0
    ]
    return pd.DataFrame(rows, columns=["code", "used", "place", "image", "class"])


def neighbour_numbers(arrays: Arrays) -> pd.DataFrame:
    """Columns `query`, `query_class`, `place` (0: the query itself), `image`, `class`."""
    labels = arrays["labels"]
    rows = [
        (int(query), int(labels[query]), place, int(image), int(labels[image]))
        for query, images in zip(arrays["queries"], arrays["neighbours"], strict=True)
        for place, image in enumerate((query, *images))
        if image >= 0
    ]
    return pd.DataFrame(rows, columns=["query", "query_class", "place", "image", "class"])


def montage(arrays: Arrays, numbers: pd.DataFrame, lines: str, columns: int) -> np.ndarray:
    """One picture (height, width, 3) uint8 of the thumbnails in `numbers`: a line for each value of its column `lines`,
    in their order, `columns` of them by `place`, a white gap of two pixels between them."""
    thumbnails = arrays["thumbnails"]
    height, width = thumbnails.shape[2] + 2, thumbnails.shape[3] + 2
    order = {value: number for number, value in enumerate(numbers[lines].unique())}
    picture = np.full((height * len(order), width * columns, 3), 255, np.uint8)
    for value, place, image in numbers[[lines, "place", "image"]].to_numpy().tolist():
        top, left = order[value] * height, place * width
        pixels = thumbnails[np.searchsorted(arrays["shown"], image)].transpose(1, 2, 0)
        picture[top + 1 : top + height - 1, left + 1 : left + width - 1] = pixels
    return picture


def draw(grids: Sequence[Grid]) -> Figure:
    """The grids side by side."""
    lines = max(len(grid.words) for grid in grids)
    figure, axes = canvas.panels(len(grids), height=0.4 + 0.235 * lines)
    for panel, grid in zip(axes, grids, strict=True):
        height, width = grid.picture.shape[0] / len(grid.words), grid.picture.shape[1] / grid.framed.shape[1]
        panel.imshow(grid.picture, interpolation="nearest", rasterized=True)
        for line, place in np.argwhere(grid.framed):
            corner = place * width - 0.5, line * height - 0.5
            panel.add_patch(Rectangle(corner, width, height, fill=False, edgecolor=FRAME, linewidth=1.2))
        canvas.bare(panel)
        panel.set_yticks((np.arange(len(grid.words)) + 0.5) * height - 0.5, grid.words)
        panel.tick_params(length=0)
        panel.set_title(grid.name)
    return figure


def plots(samples: Sequence[Sample]) -> list[Plot]:
    """Both figures, of those samples that have thumbnails."""
    having = [s for s in samples if "thumbnails" in s.arrays]
    families = (
        (
            "code-images",
            "Images of the most used codes",
            "A line for each of the most used codes, with the number of test images that have it: those nearest to "
            "the mean embedding of the code, nearest first. Framed: of another class than most images of the line. One "
            "run a panel, its lowest seed.",
            [_code_grid(s) for s in canvas.spread([s for s in having if "top_codes" in s.arrays], MOST_GRIDS)],
        ),
        (
            "neighbours",
            "Nearest neighbours",
            "First column: a test image of each class; then the seven test images nearest to it by the cosine of the "
            "backbone features. Framed: of another class. One run a panel, its lowest seed.",
            [_neighbour_grid(s) for s in canvas.spread(having, MOST_GRIDS)],
        ),
    )
    return [
        Plot(name, title, caption, pd.concat([grid.numbers for grid in grids]), functools.partial(draw, grids))
        for name, title, caption, grids in families
        if grids
    ]


def _code_grid(sample: Sample) -> Grid:
    numbers = code_numbers(sample.arrays)
    usual = numbers.groupby("code")["class"].agg(lambda classes: classes.mode()[0])
    words = numbers.drop_duplicates("code")["used"].map("{:,}".format)
    return _grid(sample, numbers, "code", tuple(words), usual)


def _neighbour_grid(sample: Sample) -> Grid:
    numbers = neighbour_numbers(sample.arrays)
    classes = numbers.drop_duplicates("query").set_index("query")["query_class"]
    return _grid(sample, numbers, "query", tuple(f"class {label}" for label in classes), classes)


def _grid(sample: Sample, numbers: pd.DataFrame, lines: str, words: tuple[str, ...], expected: pd.Series) -> Grid:
    columns = sample.arrays["neighbours"].shape[1] + 1
    framed = marks(numbers, lines, expected, columns)
    picture = montage(sample.arrays, numbers, lines, columns)
    numbers.insert(0, "row", sample.name)
    return Grid(sample.name, words, picture, framed, numbers)


def marks(numbers: pd.DataFrame, lines: str, expected: pd.Series, columns: int) -> np.ndarray:
    """Where (line, place) an image is of another class than is expected of its line."""
    order = {value: number for number, value in enumerate(numbers[lines].unique())}
    is_wrong = np.zeros((len(order), columns), dtype=bool)
    wrong = numbers[numbers["class"] != numbers[lines].map(expected)]
    is_wrong[wrong[lines].map(order).to_numpy(dtype=int), wrong["place"].to_numpy(dtype=int)] = True
    return is_wrong
