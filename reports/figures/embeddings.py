"""The paper's Figure 4 (covariance of the embedding's dimensions, adjacency of test images); features in the plane."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from reports.figures import canvas
from reports.figures.canvas import Plot
from reports.figures.samples import Sample, of_each

MOST_PIXELS = 250  # About as many as a panel has in print.
MOST_CLASSES = 10
# Tol's muted colours, and black: ten that the colour-blind can tell apart, with the class's number written beside.
COLOURS = ("#332288", "#88CCEE", "#44AA99", "#117733", "#999933", "#DDCC77", "#CC6677", "#882255", "#AA4499", "#000000")


@dataclass(frozen=True)
class Matrix:
    """A square matrix of numbers in [-1, 1], at most 250 wide; `words` under it say of what, `numbers` are those of the
    CSV; `bounds` are the places between the classes, in entries of the matrix."""

    name: str
    words: str
    values: np.ndarray
    numbers: pd.DataFrame
    bounds: Sequence[float] = ()

    def __post_init__(self) -> None:
        self.numbers.insert(0, "row", self.name)


def covariance(embeddings: np.ndarray) -> np.ndarray:
    """Covariance (f, f) of embeddings (m, f) over the images, divided by the mean variance of its dimensions.

    So a diagonal matrix of equal variances, the optimum, is the identity, whatever the scale of the embedding.
    """
    centred = embeddings - embeddings.mean(0)
    matrix = centred.T @ centred / len(centred)
    return matrix / (np.trace(matrix) / len(matrix) or 1.0)


def unit(embeddings: np.ndarray) -> np.ndarray:
    """Rows of (m, f) scaled to length one; rows of zeros stay."""
    return embeddings / np.maximum(np.linalg.norm(embeddings, axis=1, keepdims=True), np.finfo(float).tiny)


def adjacency(embeddings: np.ndarray, order: np.ndarray, most: int = MOST_PIXELS) -> np.ndarray:
    """Cosine of each pair of embeddings (m, f) in the given order of rows, averaged over blocks of neighbouring rows
    where there are more than `most`. The mean cosine of two blocks is the product of their mean directions, so nothing
    of size m x m is ever made."""
    blocks = np.array_split(unit(embeddings)[order], min(most, len(order)))
    means = np.stack([block.mean(0) for block in blocks])
    return means @ means.T


def class_similarity(embeddings: np.ndarray, labels: np.ndarray) -> pd.DataFrame:
    """Mean cosine of two different images, for each pair of classes: columns `class`, `other`, `images`, `cosine`.

    A class of one image has no pair in itself: NaN.
    """
    directions = unit(embeddings)
    classes, counts = np.unique(labels, return_counts=True)
    sums = np.stack([directions[labels == label].sum(0) for label in classes])
    squares = [(directions[labels == label] ** 2).sum() for label in classes]
    totals = np.array([[first @ second for second in sums] for first in sums]) - np.diag(squares)
    pairs = np.outer(counts, counts) - np.diag(counts)
    cosines = totals / np.where(pairs > 0, pairs, np.nan)
    columns = {"class": classes.repeat(len(classes)), "other": np.tile(classes, len(classes))}
    return pd.DataFrame({**columns, "images": counts.repeat(len(classes)), "cosine": cosines.ravel()})


def dimension_numbers(matrix: np.ndarray) -> pd.DataFrame:
    """For each dimension of a covariance (f, f): its `variance` and the root mean square of its `covariance` with the
    others, both as `covariance` scales them."""
    variances = np.diag(matrix)
    rest = (matrix**2).sum(1) - variances**2
    others = np.sqrt(np.maximum(rest, 0) / max(1, len(matrix) - 1))
    return pd.DataFrame({"dimension": np.arange(len(matrix)), "variance": variances, "covariance": others})


def draw_matrices(matrices: Sequence[Matrix], bar: str) -> Figure:
    """The matrices side by side on one scale from -1 to 1, blue to red, which the colour-blind tell apart."""
    figure, axes = canvas.panels(len(matrices), height=2.35)
    steps = matplotlib.colormaps["RdBu_r"].resampled(21)  # Of 0.1 each; more only make larger files.
    for panel, matrix in zip(axes, matrices, strict=True):
        image = panel.imshow(matrix.values, cmap=steps, vmin=-1, vmax=1, interpolation="nearest", rasterized=True)
        for bound in matrix.bounds:
            panel.axhline(bound - 0.5, color="k", linewidth=0.25)
            panel.axvline(bound - 0.5, color="k", linewidth=0.25)
        canvas.bare(panel)
        panel.set_title(canvas.literal(matrix.name))
        panel.set_xlabel(matrix.words)
    figure.colorbar(image, ax=axes, label=bar, shrink=0.8, aspect=25)
    return figure


def components(features: np.ndarray, images: np.ndarray, labels: np.ndarray) -> tuple[pd.DataFrame, float]:
    """Columns `image`, `class`, `x`, `y`: the first two principal components of `features` (m, d), and their share of
    the variance. `images` and `labels` are (m,). The sign makes the entry farthest from zero positive; what has one
    dimension only lies on a line."""
    centred = features - features.mean(0)
    _, singular, directions = np.linalg.svd(centred, full_matrices=False)
    places = centred @ directions[:2].T
    places = np.pad(places, ((0, 0), (0, 2 - places.shape[1])))
    places = places * np.where(places[np.abs(places).argmax(0), range(2)] < 0, -1.0, 1.0)
    variance = float((singular**2).sum())
    share = float((singular[:2] ** 2).sum() / variance) if variance else 1.0
    return pd.DataFrame({"image": images, "class": labels, "x": places[:, 0], "y": places[:, 1]}), share


def draw_points(points: pd.DataFrame, shares: dict[str, float]) -> Figure:
    """A panel for each row; classes have colours, and their number at their median. Of more than ten classes ten are in
    colour and the others grey, as are images without a class (-1)."""
    rows = [(str(name), row) for name, row in points.groupby("row", sort=False)]
    figure, axes = canvas.panels(len(rows), height=2.3)
    labelled = points.loc[points["class"] >= 0, "class"]
    classes = canvas.spread(sorted(labelled.unique().tolist()), MOST_CLASSES)
    for panel, (name, row) in zip(axes, rows, strict=True):
        others = row[~row["class"].isin(classes)]
        panel.scatter(others["x"], others["y"], s=2, color="0.8", linewidths=0, rasterized=True)
        for label, colour in zip(classes, COLOURS, strict=False):
            members = row[row["class"] == label]
            panel.scatter(members["x"], members["y"], s=4, color=colour, linewidths=0, rasterized=True)
            if len(members):
                box = {"boxstyle": "round,pad=0.15", "facecolor": "white", "edgecolor": colour, "linewidth": 0.8}
                middle = members["x"].median(), members["y"].median()
                panel.annotate(str(label), middle, fontsize=6, ha="center", bbox=box)
        canvas.bare(panel)
        panel.set_title(canvas.literal(name))
        panel.set_xlabel(f"{shares[name]:.0%} of the variance")
    return figure


def plots(samples: Sequence[Sample]) -> Iterator[Plot]:
    """The matrices of those samples that have embeddings, and the projection of those that have features."""
    if pairs := of_each(samples, "embeddings", canvas.MOST_PANELS, _matrices):
        covariances, adjacencies = zip(*pairs, strict=True)
        yield Plot(
            "covariance",
            pd.concat(matrix.numbers for matrix in covariances),
            lambda _: draw_matrices(covariances, "covariance / mean variance"),
        )
        yield Plot(
            "adjacency",
            pd.concat(matrix.numbers for matrix in adjacencies),
            lambda _: draw_matrices(adjacencies, "cosine"),
            {"most": MOST_PIXELS},
        )
    if projections := of_each(samples, "features", canvas.MOST_PANELS, _projection):
        points = pd.concat(frame for frame, _, _ in projections)
        meant = (
            "colours and numbers are classes, the number stands at the class's median"
            if any(has_labels for _, _, has_labels in projections)
            else "no image has a label, so colours and numbers stand for the ten most used codes, 0 the most used"
        )
        shares = {str(frame["row"].iat[0]): share for frame, share, _ in projections}
        yield Plot("projection", points, lambda _: draw_points(points, shares), {"meant": meant})


def _matrices(sample: Sample) -> tuple[Matrix, Matrix]:
    """Covariance and adjacency."""
    embeddings, kept = sample.scaled("embeddings"), sample.arrays["kept"]
    labels = sample.arrays["labels"][kept]
    codes = sample.arrays["codes"][kept] if "codes" in sample.arrays else np.zeros_like(labels)
    full = covariance(embeddings)
    # Means of blocks would mix the diagonal with what is beside it.
    chosen = canvas.spread(range(len(full)), MOST_PIXELS)
    words = f"{len(full)} dimensions" if len(chosen) == len(full) else f"{len(chosen)} of {len(full)} dimensions"
    order = np.lexsort((codes, labels))
    values = adjacency(embeddings, order)
    starts = np.searchsorted(labels[order], np.unique(labels))[1:]
    bounds = (starts * len(values) / len(order)).tolist() if len(starts) < 20 else ()
    total = len(sample.arrays["labels"])
    images = f"{len(kept):,} images" if len(kept) == total else f"{len(kept):,} of {total:,} images"
    return (
        Matrix(sample.name, words, full[np.ix_(chosen, chosen)], dimension_numbers(full)),
        Matrix(sample.name, images, values, class_similarity(embeddings, labels), bounds),
    )


def _code_ranks(arrays: Mapping[str, np.ndarray]) -> np.ndarray:
    """For each test image the rank of its code by use, 0 for the most used; -1 beyond the ten most used, and where the
    method has no codes."""
    ranks = np.full(len(arrays["labels"]), -1)
    if "codes" in arrays:
        used, counts = np.unique(arrays["codes"], return_counts=True)
        for rank, code in enumerate(used[np.argsort(-counts, kind="stable")[:MOST_CLASSES]]):
            ranks[arrays["codes"] == code] = rank
    return ranks


def _projection(sample: Sample) -> tuple[pd.DataFrame, float, bool]:
    """The points, their share of the variance, and whether any image has a label.

    Principal components and no t-SNE: a linear map shows distances as they are, gives the same picture on every
    machine and takes no time."""
    kept, labels = sample.arrays["kept"], sample.arrays["labels"]
    has_labels = bool((labels >= 0).any())
    classes = (labels if has_labels else _code_ranks(sample.arrays))[kept]
    points, share = components(sample.scaled("features"), kept, classes)
    points.insert(0, "row", sample.name)
    return points, share, has_labels
