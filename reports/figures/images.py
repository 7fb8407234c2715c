"""Images: those of the most used codes, and nearest neighbours by the features."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from reports.figures import canvas
from reports.figures.canvas import Plot
from reports.figures.samples import Sample, of_each

MOST_GRIDS = 3
FRAME = "#D55E00"
Arrays = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Grid:
    """Lines of images of one row of the table; `words` stand before the lines, `numbers` says which images these are,
    `picture` shows them, and `framed` (lines, columns) says which of them have a frame."""

    name: str
    words: list[str]
    picture: np.ndarray
    framed: np.ndarray
    numbers: pd.DataFrame


def code_numbers(arrays: Arrays) -> pd.DataFrame:
    """Columns `code`, `used` (images that have it), `place` (0: nearest to the code's mean), `image`, `class`."""
    codes = arrays["top_codes"]
    used = (arrays["codes"] == codes[:, None]).sum(1)
    return _image_numbers(arrays, {"code": codes, "used": used}, arrays["code_images"])


def neighbour_numbers(arrays: Arrays) -> pd.DataFrame:
    """Columns `query`, `query_class`, `place` (0: the query itself), `image`, `class`."""
    queries = arrays["queries"]
    heads = {"query": queries, "query_class": arrays["labels"][queries]}
    return _image_numbers(arrays, heads, np.column_stack([queries, arrays["neighbours"]]))


def _image_numbers(arrays: Arrays, heads: Mapping[str, np.ndarray], images: np.ndarray) -> pd.DataFrame:
    """What the lines of images (lines, places) have in common, and their images; -1 stands for no image."""
    line, place = np.nonzero(images >= 0)
    shown = images[line, place]
    columns = {name: values[line] for name, values in heads.items()}
    return pd.DataFrame({**columns, "place": place, "image": shown, "class": arrays["labels"][shown]}).astype("int64")


def montage(arrays: Arrays, numbers: pd.DataFrame, lines: str, columns: int) -> np.ndarray:
    """One picture (height, width, 3) uint8 of the thumbnails in `numbers`: a line for each value of its column `lines`,
    in their order, `columns` of them by `place`, a white gap of two pixels between them."""
    thumbnails = arrays["thumbnails"]
    height, width = thumbnails.shape[2] + 2, thumbnails.shape[3] + 2
    line, values = pd.factorize(numbers[lines])
    picture = np.full((height * len(values), width * columns, 3), 255, np.uint8)
    pixels = thumbnails[np.searchsorted(arrays["shown"], numbers["image"].to_numpy())].transpose(0, 2, 3, 1)
    for top, left, thumbnail in zip(line * height, numbers["place"] * width, pixels, strict=True):
        picture[top + 1 : top + height - 1, left + 1 : left + width - 1] = thumbnail
    return picture


def marks(numbers: pd.DataFrame, lines: str, expected: pd.Series, columns: int) -> np.ndarray:
    """Where (line, place) an image is of another class than is expected of its line; -1 is no class."""
    line, values = pd.factorize(numbers[lines])
    is_wrong = np.zeros((len(values), columns), dtype=bool)
    usual = numbers[lines].map(expected)
    is_wrong[line, numbers["place"].to_numpy()] = (numbers["class"] != usual) & (numbers["class"] >= 0) & (usual >= 0)
    return is_wrong


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
        panel.set_title(canvas.literal(grid.name))
    return figure


def plots(samples: Sequence[Sample]) -> Iterator[Plot]:
    """Both figures, of those samples that have thumbnails."""
    having = [sample for sample in samples if "thumbnails" in sample.arrays]
    coded = of_each(having, "top_codes", MOST_GRIDS, _code_grid)
    near = of_each(having, "thumbnails", MOST_GRIDS, _neighbour_grid)
    if coded:
        yield Plot("code-images", pd.concat(grid.numbers for grid in coded), lambda _: draw(coded))
    if near:
        yield Plot("neighbours", pd.concat(grid.numbers for grid in near), lambda _: draw(near))


def _code_grid(sample: Sample) -> Grid:
    numbers = code_numbers(sample.arrays)
    usual = numbers.groupby("code")["class"].agg(lambda classes: classes.mode()[0])
    words = numbers.drop_duplicates("code")["used"].map("{:,}".format)
    return _grid(sample, numbers, "code", list(words), usual)


def _neighbour_grid(sample: Sample) -> Grid:
    numbers = neighbour_numbers(sample.arrays)
    classes = numbers.drop_duplicates("query").set_index("query")["query_class"]
    words = [f"class {label}" if label >= 0 else f"image {query}" for query, label in classes.items()]
    return _grid(sample, numbers, "query", words, classes)


def _grid(sample: Sample, numbers: pd.DataFrame, lines: str, words: list[str], expected: pd.Series) -> Grid:
    columns = sample.arrays["neighbours"].shape[1] + 1
    framed = marks(numbers, lines, expected, columns)
    picture = montage(sample.arrays, numbers, lines, columns)
    numbers.insert(0, "row", sample.name)
    return Grid(sample.name, words, picture, framed, numbers)
