"""Figures of tables: of those over several data sets mean ranks with the critical difference, and interquartile means;
of those about grids accuracy against the weight of each method, and how criteria order and choose."""

from collections.abc import Iterator

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from reports.figures import canvas
from reports.figures.canvas import PAGE_WIDTH, PANEL_HEIGHT, Plot
from reports.metrics import METRICS
from reports.statistics import across, inference
from reports.tables.grid import Grid
from reports.tables.model import Table
from reports.tables.study import Study

LEAST_DATASETS, LEAST_ROWS = 3, 3  # With fewer no two mean ranks can differ by the critical difference.
ROW_HEIGHT = 0.2  # Inches.
COLUMNS = ("dataset", "method", "setting", "value", "relative", "n", "mean", "std", "low", "high", "collapsed")
CRITERION_COLUMNS = ("quantity", "dataset", "method", "criterion", "n", "mean", "std", "low", "high")


def plots(table: Table, grid: Grid) -> Iterator[Plot]:
    """The figures of a table about grids, or of one over enough data sets; `grid` has the trials behind it."""
    if not isinstance(grid, Study):
        numbers = rank_numbers(scores := grid.scores())
        if len(numbers):
            yield Plot("ranks", numbers, draw_ranks)
            yield Plot("interquartile-means", mean_numbers(scores), draw_means)
    elif any(row.block for row in table.rows):
        numbers = criterion_numbers(table)
        if len(numbers):
            yield Plot("criteria", numbers, draw_criteria)
    else:
        numbers = sensitivity_numbers(grid.points())
        if numbers["relative"].gt(0).any():
            yield Plot("sensitivity", numbers, draw_sensitivity)


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


def sensitivity_numbers(points: pd.DataFrame) -> pd.DataFrame:
    """A row for each setting of each method's weight: `value`, `relative` (the value over that of the best mean; NaN
    where the best is 0), `n`, `mean`, `std`, `low`, `high` of the accuracy over seeds, and the share `collapsed`.

    `points` has a row for each run, see `Study.points`. The best setting is one over as many seeds as any other.
    """
    rows = []
    for (dataset, method, setting), grid in points.groupby(["dataset", "method", "setting"], sort=False):
        by_value = grid.groupby("value")["accuracy"]
        full = by_value.count() == by_value.count().max()
        means = by_value.mean()[full]
        best = float(means.index[int(means.to_numpy().argmax())])
        for value in sorted(grid["value"].unique().tolist()):
            runs = grid[grid["value"] == value]
            number = inference.summarise(runs.sort_values("seed")["accuracy"].tolist())
            assert number is not None
            summary = (number.n, number.mean, number.std, number.low, number.high, runs["collapsed"].mean())
            rows.append((dataset, method, setting, value, value / best if best else np.nan, *summary))
    return pd.DataFrame(rows, columns=list(COLUMNS)).astype({"std": float, "low": float, "high": float})


def draw_sensitivity(numbers: pd.DataFrame) -> Figure:
    """A panel for each data set, a line for each method, the weight on a logarithmic axis."""
    shown = numbers[numbers["relative"] > 0]
    datasets = list(shown["dataset"].unique())
    figure = Figure(figsize=(PAGE_WIDTH, 2.9 * len(datasets)))
    styles = dict(zip(methods := list(shown["method"].unique()), canvas.colours(len(methods)), strict=True))
    for place, dataset in enumerate(datasets):
        axes = figure.add_subplot(len(datasets), 1, place + 1)
        for method, line in shown[shown["dataset"] == dataset].groupby("method", sort=False):
            style, label = styles[str(method)], canvas.literal(f"{method}, {line['setting'].iloc[0]}")
            line = line.sort_values("relative")
            axes.plot(line["relative"], line["mean"], label=label, **style)
            several = line[line["n"] > 2]
            axes.vlines(several["relative"], several["low"], several["high"], color=style["color"], linewidth=0.7)
            gone = line[line["collapsed"] >= 0.5]
            axes.plot(gone["relative"], gone["mean"], **{**style, "linestyle": "none"}, markerfacecolor="white")
        axes.set(xscale="log", xlabel="weight relative to its best setting", ylabel="linear accuracy", title=dataset)
        canvas.spell_ticks(axes.xaxis)
    handles = {
        label: handle for axes in figure.axes for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)
    }
    figure.legend(list(handles.values()), list(handles), loc="outside right upper")
    return figure


def criterion_numbers(table: Table) -> pd.DataFrame:
    """A row for each cell with a number: `quantity`, `dataset`, `method`, `criterion`, and the number over seeds."""
    rows = []
    for row in table.rows:
        dataset, method = (row.head if len(row.head) > 1 else ("", row.label))[:2]
        for column, cell in zip(table.columns, row.cells, strict=True):
            if number := cell.number:
                summary = (number.n, number.mean, number.std, number.low, number.high)
                rows.append((row.block, dataset, method, column.short, *summary))
    return pd.DataFrame(rows, columns=list(CRITERION_COLUMNS)).astype({"std": float, "low": float, "high": float})


def draw_criteria(numbers: pd.DataFrame) -> Figure:
    """A line of panels for each data set, a panel for each quantity: criteria side by side, a dot for each method."""
    datasets, quantities, methods, criteria = (
        list(numbers[name].unique()) for name in ("dataset", "quantity", "method", "criterion")
    )
    styles = dict(zip(methods, canvas.colours(len(methods)), strict=True))
    figure = Figure(figsize=(PAGE_WIDTH, (PANEL_HEIGHT + 0.4) * len(datasets)))
    for place, (dataset, quantity) in enumerate((d, q) for d in datasets for q in quantities):
        axes = figure.add_subplot(len(datasets), len(quantities), place + 1)
        there = numbers[(numbers["dataset"] == dataset) & (numbers["quantity"] == quantity)]
        for number, (method, dots) in enumerate(there.groupby("method", sort=False)):
            shift = (number - (len(methods) - 1) / 2) * 0.7 / len(methods)
            x = dots["criterion"].map(criteria.index) + shift
            style = styles[str(method)]
            axes.plot(x, dots["mean"], label=canvas.literal(str(method)), **{**style, "linestyle": "none"})
            several = dots["n"] > 2
            axes.vlines(x[several], dots["low"][several], dots["high"][several], color=style["color"], linewidth=0.7)
        words = [canvas.literal(name) for name in criteria]
        axes.set_xticks(range(len(criteria)), words, rotation=35, ha="right")
        axes.set_title(f"{quantity}\n{dataset}" if len(datasets) > 1 else quantity)
        if there["mean"].lt(0).any():
            axes.axhline(0, color=canvas.GREY, linewidth=0.6)
    figure.legend(*figure.axes[0].get_legend_handles_labels(), loc="outside right upper")
    return figure
