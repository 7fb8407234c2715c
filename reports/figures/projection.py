"""Features of the test images in two dimensions.

Principal components and no t-SNE: a linear map shows distances as they are, gives the same picture on every machine
and takes no time. What it shows of a row is the two largest directions; its caption says how much of the variance.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from reports.figures import canvas
from reports.figures.canvas import Plot
from reports.figures.samples import Sample

MOST_CLASSES = 10
# Tol's muted colours, and black: ten that the colour-blind can tell apart, with the class's number written beside.
COLOURS = ("#332288", "#88CCEE", "#44AA99", "#117733", "#999933", "#DDCC77", "#CC6677", "#882255", "#AA4499", "#000000")


def numbers(features: np.ndarray, images: np.ndarray, labels: np.ndarray) -> tuple[pd.DataFrame, float]:
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


def draw(points: pd.DataFrame, shares: dict[str, float]) -> Figure:
    """A panel for each row; classes have colours, and their number at their median. Of more than ten classes ten are in
    colour and the others grey."""
    rows = [(str(name), row) for name, row in points.groupby("row", sort=False)]
    figure, axes = canvas.panels(len(rows), height=2.3)
    classes = canvas.spread(sorted(points["class"].unique().tolist()), MOST_CLASSES)
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
        panel.set_title(name)
        panel.set_xlabel(f"{shares[name]:.0%} of the variance")
    return figure


def plots(samples: Sequence[Sample]) -> Iterator[Plot]:
    having = canvas.spread([s for s in samples if "features" in s.arrays], canvas.MOST_PANELS)
    if not having:
        return
    frames, shares = [], {}
    for sample in having:
        kept = sample.arrays["kept"]
        frame, shares[sample.name] = numbers(sample.scaled("features"), kept, sample.arrays["labels"][kept])
        frames.append(frame.assign(row=sample.name))
    points = pd.concat(frames)[["row", "image", "class", "x", "y"]]
    yield Plot(
        "projection",
        "Features in two dimensions",
        "First two principal components of the backbone features of test images; colours and numbers are classes, "
        "the number stands at the class's median. One run a panel, its lowest seed.",
        points,
        lambda: draw(points, shares),
    )
