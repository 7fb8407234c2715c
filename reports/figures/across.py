"""Figures of tables over several data sets: mean ranks with the critical difference, and interquartile means."""

from collections.abc import Iterator

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from reports.figures import canvas
from reports.figures.canvas import PAGE_WIDTH, Plot
from reports.metrics import METRICS
from reports.statistics import across

LEAST_DATASETS, LEAST_ROWS = 3, 3  # With fewer no two mean ranks can differ by the critical difference.
ROW_HEIGHT = 0.2  # Inches.


def plots(scores: pd.DataFrame) -> Iterator[Plot]:
    """The figures of a table's scores (`Grid.scores`), if these are on enough data sets."""
    numbers = rank_numbers(scores)
    if numbers.empty:
        return
    yield Plot("ranks", numbers, draw_ranks)
    yield Plot("interquartile-means", mean_numbers(scores), draw_means)


def rank_numbers(scores: pd.DataFrame) -> pd.DataFrame:
    """A row for each metric, group of columns and row of the table: `datasets` in words, `mean_rank`,
    `critical_difference`, `friedman_p`, and `joined`, the numbers of the bars that the row is part of."""
    records = []
    for metric, group, _, means in _groups(scores):
        ranks = across.mean_ranks(means, METRICS[metric].better or "higher").sort_values(kind="stable")
        n = means.shape[1]
        difference, p = across.critical_difference(len(ranks), n), across.friedman(ranks, n)
        bars = across.cliques(ranks.tolist(), difference)
        for place, (row, rank) in enumerate(ranks.items()):
            joined = " ".join(str(number) for number, (i, j) in enumerate(bars, start=1) if i <= place <= j)
            datasets = " ".join(map(str, means.columns))
            records.append((metric, group, row, datasets, n, rank, difference, p, joined))
    columns = ["metric", "group", "row", "datasets", "n", "mean_rank", "critical_difference", "friedman_p", "joined"]
    return pd.DataFrame(records, columns=columns)


def mean_numbers(scores: pd.DataFrame) -> pd.DataFrame:
    """A row for each metric, group of columns and row of the table: `iqm`, the interquartile mean over the same data
    sets as its rank, with its interval `low` to `high`, and the number of `values`."""
    records = []
    for metric, group, part, means in _groups(scores):
        there = part[part["dataset"].isin(means.columns)]
        for row in means.index:
            values = [list(each) for _, each in there[there["row"] == row].groupby("dataset")["value"]]
            flat = np.concatenate(values)
            low, high = across.interquartile_interval(values)
            records.append((metric, group, row, len(flat), across.interquartile_mean(flat), low, high))
    return pd.DataFrame(records, columns=["metric", "group", "row", "values", "iqm", "low", "high"])


def _groups(scores: pd.DataFrame) -> Iterator[tuple[str, str, pd.DataFrame, pd.DataFrame]]:
    """Metric, group of columns, its scores and its means, of each with enough data sets and rows."""
    for (metric, group), part in scores.groupby(["metric", "group"], sort=False):
        means = across.complete_means(part)
        if means.shape[0] >= LEAST_ROWS and means.shape[1] >= LEAST_DATASETS:
            yield str(metric), str(group), part, means


def _panels(numbers: pd.DataFrame) -> tuple[Figure, list[tuple[str, pd.DataFrame]]]:
    """A figure with a line of space for each row of its panels, and the title and numbers of each."""
    parts = [
        (canvas.literal(", ".join(filter(None, [METRICS[str(metric)].heading, str(group)]))), part)
        for (metric, group), part in numbers.groupby(["metric", "group"], sort=False)
    ]
    heights = [len(part) * ROW_HEIGHT + 0.8 for _, part in parts]
    figure = Figure(figsize=(PAGE_WIDTH * 0.75, sum(heights)))
    for axes in figure.subplots(len(parts), 1, squeeze=False, gridspec_kw={"height_ratios": heights})[:, 0]:
        axes.invert_yaxis()
    return figure, parts


def draw_ranks(numbers: pd.DataFrame) -> Figure:
    """A panel for each metric: rows from the best down, bars that join what is not told apart, the scale of the CD."""
    figure, parts = _panels(numbers)
    for axes, (title, part) in zip(figure.axes, parts, strict=True):
        places, ranks = np.arange(len(part)), part["mean_rank"].to_numpy()
        axes.plot(ranks, places, "o", color="black", markersize=4)
        axes.set_yticks(places, [canvas.literal(str(row)) for row in part["row"]])
        difference, p = part["critical_difference"].iloc[0], part["friedman_p"].iloc[0]
        end = max(len(part), ranks.max())
        for number, (i, j) in enumerate(across.cliques(ranks.tolist(), difference)):
            axes.vlines(end + 0.25 * (number + 1), i - 0.2, j + 0.2, color=canvas.GREY, linewidth=3)
        axes.hlines(-0.9, 1, 1 + difference, color="black", linewidth=1.5)
        axes.text(1 + difference, -0.9, f"  CD {difference:.2f}", va="center", fontsize="small")
        axes.set_ylim(len(part) - 0.5, -1.4)
        axes.set(title=f"{title} ({part['n'].iloc[0]} data sets, p = {p:.2g})", xlabel="mean rank")
    return figure


def draw_means(numbers: pd.DataFrame) -> Figure:
    """A panel for each metric: a dot and an interval for each row, in the order of the table."""
    figure, parts = _panels(numbers)
    for axes, (title, part) in zip(figure.axes, parts, strict=True):
        places = np.arange(len(part))
        axes.hlines(places, part["low"], part["high"], color=canvas.GREY, linewidth=2)
        axes.plot(part["iqm"], places, "o", color="black", markersize=4)
        axes.set_yticks(places, [canvas.literal(str(row)) for row in part["row"]])
        axes.set(title=title, xlabel="interquartile mean")
    return figure
