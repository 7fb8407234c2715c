"""Figures of tables about grids: accuracy against the weight of each method, and how criteria order and choose."""

from collections.abc import Iterator

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from reports.figures import canvas
from reports.figures.canvas import PAGE_WIDTH, PANEL_HEIGHT, Plot
from reports.statistics import inference
from reports.tables.model import Table

COLUMNS = ("dataset", "method", "setting", "value", "relative", "n", "mean", "std", "low", "high", "collapsed")
CRITERION_COLUMNS = ("quantity", "dataset", "method", "criterion", "n", "mean", "std", "low", "high")


def plots(table: Table, points: pd.DataFrame) -> Iterator[Plot]:
    """The figures of a table about grids; `points` are those of `tables.study.Study`."""
    if table.rows and any(row.block for row in table.rows):
        numbers = criterion_numbers(table)
        if len(numbers):
            yield Plot("criteria", numbers, draw_criteria)
        return
    numbers = sensitivity_numbers(points)
    if numbers["relative"].gt(0).any():
        yield Plot("sensitivity", numbers, draw_sensitivity)


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
