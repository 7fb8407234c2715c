"""Curves of a sweep: `curve` computes the numbers along one axis, `draw` draws them and computes nothing."""

import itertools
import math
import re
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from reports import spelling
from reports.figures import canvas
from reports.figures.canvas import ARM, GREY, PANEL_HEIGHT, PANEL_WIDTH, Plot
from reports.statistics import findings
from reports.statistics import inference as statistics
from reports.store import SweepResult
from reports.tables import number_rows
from reports.tables.sweep import has_labels
from sweeps.collapse import Collapse

MOST_SERIES = 6
DICTIONARY = findings.CODES
LEGEND_LINE = 0.16  # Inches.
LEAST_SPAN = 0.05
MOST_BESIDE, MOST_BELOW = 8, 60
"""Words that stand beside each other on the horizontal axis; more stand below each other, the best so many."""
ROW_HEIGHT = 0.17  # Inches.
LEAST_SEEDS = 3  # For a band: the interval of two values is so wide that it would hide the figure.


@dataclass(frozen=True)
class Panel:
    """Metrics that share a vertical axis, each with its text in the legend. The first leads: it alone is compared with
    the baselines, and it alone is drawn where each point of the other axes has a line of its own."""

    title: str
    lines: dict[str, str]
    log: bool = False

    @property
    def lead(self) -> str:
        return next(iter(self.lines))


PANELS = (
    Panel("Accuracy", {"probe/accuracy": "linear probe", "knn/accuracy": "k-NN"}),
    Panel("Codes against labels", {"codes/ami": "AMI", "codes/nmi": "NMI", "codes/nmi_chance": "NMI by chance"}),
    Panel("Codes in use", {"collapse/codes_used": "in use", DICTIONARY: "dictionary"}, log=True),
)
WITHOUT_LABELS = (
    Panel("Agreement of two views", {"select/view_information": "view information (nats)"}),
    Panel("Ranks", {"select/rankme": "RankMe (training)", "collapse/effective_rank": "effective rank (test)"}),
    PANELS[-1],
)
"""The panels where no image has a label."""


@dataclass(frozen=True)
class Curve:
    """The numbers of a figure along one axis.

    `numbers` has a row for each point of each line: `panel`, `metric`, `line` (its text in the legend), `x`, `n`,
    `mean`, `std`, `low` and `high` (the 95 % interval of the mean), `collapsed` (whether the trials there
    show cluster collapse), and a column `seed <s>` for each seed. Baselines have no `x`. Where no seed has a value, `n`
    is 0 and `mean` is NaN. `words` are the values of an axis without a scale, else empty. `joined` is false where
    neighbouring points differ in other axes too; `apart` says that the lines stand for points of the other axes.
    """

    panels: tuple[Panel, ...]

    name: str
    heading: str
    words: tuple[str, ...]
    log: bool
    joined: bool
    apart: bool
    numbers: pd.DataFrame = field(repr=False)


def curves(result: SweepResult) -> list[Curve]:
    """A curve along each axis that has several values; of a sweep without such an axis, or over methods, its rows side
    by side. A curve without any number is left out."""
    several = [None if axis == ARM else axis for axis, values in result.axes.items() if len(values) > 1]
    return [drawn for axis in several or [None] if len((drawn := curve(result, axis)).numbers)]


def plots(result: SweepResult) -> list[Plot]:
    """The curves, ready to be drawn."""

    def plot(curve: Curve) -> Plot:
        words = {"heading": curve.heading, "least_seeds": LEAST_SEEDS}
        return Plot(curve.name, curve.numbers, lambda _: draw(curve), words, "curve" if curve.heading else "rows")

    return list(map(plot, curves(result)))


def curve(result: SweepResult, axis: str | None) -> Curve:
    """The numbers along `axis`, one line for each point of the other axes; None puts the sweep's rows side by side."""
    runs = number_rows(result)
    panels = PANELS if has_labels(result) else WITHOUT_LABELS
    lines = [(panel.title, *line, line[0] == panel.lead) for panel in panels for line in panel.lines.items()]
    metrics = pd.DataFrame(lines, columns=["panel", "metric", "name", "leads"])
    if DICTIONARY in runs:
        runs[DICTIONARY] = pd.to_numeric(runs[DICTIONARY], errors="coerce")
    rows = runs.drop_duplicates("row").set_index("row").sort_index()
    rows["label"] = pd.Series(canvas.names(result, runs))
    if axis and None not in result.axes[axis]:  # Methods that do not have the setting are no points along it.
        rows = rows[(rows["role"] == "baseline") | rows[axis].notna()]
    is_trial = rows["role"] != "baseline"
    values = rows.loc[is_trial, axis or "label"].tolist()
    has_scale = all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)
    x = pd.Series(values if has_scale else spelling.values(values), rows.index[is_trial])
    series = _series(result, rows[is_trial], axis)
    apart = 1 < series.nunique() <= MOST_SERIES

    collapsed = findings.collapsed(findings.row_means(runs), result.about.get("test_images"))[Collapse.CLUSTER]
    of_rows = rows[["label"]].assign(x=x, series=series, collapsed=collapsed, trial=is_trial)
    numbers = _statistics(runs[runs["row"].isin(rows.index)], result.seeds, list(metrics["metric"]))
    numbers = numbers.join(metrics.reset_index(names="place").set_index("metric"), on="metric").join(of_rows, on="row")
    trial, leads = numbers["trial"].astype(bool), numbers["leads"]
    is_known = numbers["metric"].isin(numbers.loc[trial & (numbers["n"] > 0), "metric"])
    wanted = (trial & (leads | (not apart))) | (~trial & leads & (numbers["n"] > 0))
    line = (numbers["series"] if apart else numbers["name"]).where(trial, numbers["label"])
    along = (numbers["x"] if has_scale else numbers["row"]).where(trial)
    numbers = numbers.assign(line=line, along=along)[is_known & wanted].sort_values(["place", "along", "row"])
    columns = ["panel", "line", "x", "metric", "n", "mean", "std", "low", "high", "collapsed"]

    name, heading = "rows", ""
    if axis:
        place = list(result.axes).index(axis)
        name, heading = (names(list(result.axes))[place] for names in (spelling.leaves, spelling.headings))
    return Curve(
        panels=panels,
        name=re.sub(r"[^A-Za-z0-9_-]+", "-", name),
        heading=heading,
        words=() if has_scale else tuple(dict.fromkeys(x.tolist())),
        log=has_scale and min(values, default=0) > 0 and max(values) >= 10 * min(values),
        joined=has_scale and series.nunique() <= MOST_SERIES,
        apart=apart,
        numbers=numbers[[*columns, *numbers.filter(like="seed ")]].reset_index(drop=True),
    )


def draw(curve: Curve) -> Figure:
    """The figure of a curve, panels side by side: the mean, its 95 % interval where there are enough seeds, and each
    seed's value as a point. A cross on the axis marks a point without a result; cluster collapse is shaded."""
    panels = [panel for panel in curve.panels if panel.title in set(curve.numbers["panel"])]
    width = PANEL_WIDTH * len(panels)
    figure = Figure()
    grid = figure.add_gridspec(2, len(panels))
    drawn = [figure.add_subplot(grid[0, place]) for place in range(len(panels))]
    shown = _best_words(curve)
    is_list = len(curve.words) > MOST_BESIDE
    height = max(PANEL_HEIGHT, ROW_HEIGHT * len(shown.words) + 0.6) if is_list else PANEL_HEIGHT
    for axes, panel in zip(drawn, panels, strict=True):
        (_draw_rows if is_list else _draw_panel)(axes, shown, panel)
    if len(shown.words) < len(curve.words):
        drawn[0].set_title(f"{panels[0].title} (best {len(shown.words)} of {len(curve.words)})")
    # Legends have a row of their own below. Lines that mean the same in each panel need one legend only.
    if curve.apart:
        heights = [_draw_legend(figure.add_subplot(grid[1, :]), drawn[0], width)]
    else:
        below = [figure.add_subplot(grid[1, place]) for place in range(len(panels))]
        heights = [_draw_legend(legend, axes, PANEL_WIDTH) for legend, axes in zip(below, drawn, strict=True)]
    grid.set_height_ratios([height, max(heights)])
    figure.set_size_inches(width, height + max(heights))
    return figure


def collapsed_spans(curve: Curve) -> list[tuple[float, float]]:
    """From where to where on the horizontal axis all that was tried shows cluster collapse: half way to the
    neighbouring points (by ratio on a logarithmic axis), open where there is none."""
    points = curve.numbers[curve.numbers["x"].notna() & (curve.numbers["n"] > 0)]
    if points.empty:
        return []
    each = points.groupby("x", sort=False)["collapsed"].all()
    if curve.words:
        return [(place - 0.5, place + 0.5) for place, word in enumerate(curve.words) if each.get(word, False)]
    each = each.sort_index()
    x = np.log(each.index.to_numpy(float)) if curve.log else each.index.to_numpy(float)
    edges = np.concatenate([[-np.inf], (x[1:] + x[:-1]) / 2, [np.inf]])
    edges = np.exp(edges) if curve.log else edges
    # A span starts and ends where the shading changes.
    changes = np.flatnonzero(np.diff(np.pad(each.to_numpy(int), 1)))
    return [(float(edges[start]), float(edges[end])) for start, end in changes.reshape(-1, 2)]


def _statistics(runs: pd.DataFrame, seeds: list[int], names: list[str]) -> pd.DataFrame:
    """Columns `row`, `metric`, `n`, `mean`, `std`, `low`, `high`, `seed <s>`: one row for each table row and metric of
    `names`."""
    finished = runs[runs["status"] == "FINISHED"].reindex(columns=["row", "seed", *names])
    each = finished.melt(["row", "seed"], names, "metric").pivot_table("value", ["row", "metric"], "seed", sort=False)
    places = pd.MultiIndex.from_product([sorted(set(runs["row"])), names], names=["row", "metric"])
    each = each.reindex(index=places, columns=seeds).astype(float).replace([np.inf, -np.inf], np.nan)
    summaries = [statistics.summarise([x for x in values if x == x]) for values in each.to_numpy().tolist()]
    parts = ("n", "mean", "std", "low", "high")
    rows = [[getattr(summary, part, None) for part in parts] for summary in summaries]
    numbers = pd.DataFrame(rows, places, list(parts), dtype=float).fillna({"n": 0}).astype({"n": int})
    return numbers.join(each.rename(columns=lambda seed: f"seed {seed}")).reset_index()


def _series(result: SweepResult, rows: pd.DataFrame, axis: str | None) -> pd.Series:
    """What tells rows apart that share a value of `axis`: the values of the other axes, `c = 10` for instance."""
    others = [other for other, values in result.axes.items() if other != axis and axis is not None and len(values) > 1]
    headings = dict(zip(result.axes, spelling.headings(list(result.axes)), strict=True))
    parts = [f"{headings[other]} = " + pd.Series(spelling.values(rows[other].tolist()), rows.index) for other in others]
    return pd.Series([", ".join(part) for part in zip(*parts, strict=True)] if parts else "", rows.index, dtype=object)


def _best_words(curve: Curve) -> Curve:
    """The curve with at most `MOST_BELOW` words, those with the best values of the first panel's leader."""
    if len(curve.words) <= MOST_BELOW:
        return curve
    leading = curve.numbers[(curve.numbers["metric"] == curve.panels[0].lead) & curve.numbers["x"].notna()]
    best = set(leading.groupby("x")["mean"].max().nlargest(MOST_BELOW).index)
    numbers = curve.numbers[curve.numbers["x"].isna() | curve.numbers["x"].isin(best)]
    return replace(curve, words=tuple(word for word in curve.words if word in best), numbers=numbers)


def _split(curve: Curve, panel: Panel) -> tuple[list[pd.DataFrame], pd.DataFrame]:
    """The lines of a panel, intervals of too few seeds left out, and its baselines."""
    numbers = curve.numbers[curve.numbers["panel"] == panel.title].copy()
    numbers.loc[numbers["n"] < LEAST_SEEDS, ["low", "high"]] = np.nan
    is_point = numbers["x"].notna()
    return [line for _, line in numbers[is_point].groupby(["metric", "line"], sort=False)], numbers[~is_point]


def _draw_baselines(draw_line: Callable[..., Any], baselines: pd.DataFrame) -> None:
    dashes = itertools.cycle(("--", ":", "-."))
    for mean, name in zip(baselines["mean"], baselines["line"], strict=True):
        draw_line(mean, color=GREY, linestyle=next(dashes), linewidth=0.9, label=canvas.literal(name))


def _draw_panel(axes: Axes, curve: Curve, panel: Panel) -> None:
    """A panel with the points beside each other: bands where they are joined, bars elsewhere."""
    lines, baselines = _split(curve, panel)
    for place, line in enumerate(lines):
        x = _places(curve, line["x"], (place - (len(lines) - 1) / 2) * 0.12)
        (drawn,) = axes.plot(x, line["mean"], label=canvas.literal(line["line"].iloc[0]))
        if curve.joined:
            axes.fill_between(x, line["low"], line["high"], color=drawn.get_color(), alpha=0.18, linewidth=0)
        else:
            drawn.set_linestyle("none")
            axes.vlines(x, line["low"], line["high"], color=drawn.get_color(), linewidth=0.9)
        if (line["n"] > 1).any():
            for seed in line.filter(like="seed "):
                axes.plot(x, line[seed], ".", color=drawn.get_color(), markersize=2.5, alpha=0.7)
    points = pd.concat(lines)
    empty = points[(points["metric"] == panel.lead) & (points["n"] == 0)]
    if len(empty):
        x = _places(curve, empty["x"])
        axes.plot(x, [0.03] * len(x), "x", color=GREY, transform=axes.get_xaxis_transform(), label="no result")
    _draw_baselines(axes.axhline, baselines)

    axes.set_title(panel.title)
    axes.set_xlabel(curve.heading)
    if curve.words:
        words = list(map(canvas.literal, curve.words))
        slanted = max(map(len, words)) * len(words) > 30
        rotation, side = (35, "right") if slanted else (0, "center")
        axes.set_xticks(range(len(words)), words, rotation=rotation, ha=side)
        axes.set_xlim(-0.5, len(curve.words) - 0.5)
    elif curve.log:
        axes.set_xscale("log")
        canvas.spell_ticks(axes.xaxis)
    limits = axes.get_xlim()
    for start, end in collapsed_spans(curve):
        axes.axvspan(max(start, limits[0]), min(end, limits[1]), color="0.5", alpha=0.15, linewidth=0, zorder=0)
    axes.set_xlim(limits)
    if panel.log:
        axes.set_yscale("log")
        canvas.spell_ticks(axes.yaxis)
    else:
        bottom, top = axes.get_ylim()
        if top - bottom < LEAST_SPAN:  # Lest noise in the fourth decimal fill the panel.
            axes.set_ylim((bottom + top - LEAST_SPAN) / 2, (bottom + top + LEAST_SPAN) / 2)


def _draw_rows(axes: Axes, curve: Curve, panel: Panel) -> None:
    """A panel with the words below each other: the mean of each as a dot, its interval as a bar, collapse shaded."""
    lines, baselines = _split(curve, panel)
    for place, line in enumerate(lines):
        y = _places(curve, line["x"], (place - (len(lines) - 1) / 2) * 0.2)
        (drawn,) = axes.plot(
            line["mean"], y, linestyle="none", markersize=3.5, label=canvas.literal(line["line"].iloc[0])
        )
        axes.hlines(y, line["low"], line["high"], color=drawn.get_color(), linewidth=0.9)
    _draw_baselines(axes.axvline, baselines)
    for start, end in collapsed_spans(curve):
        axes.axhspan(start, end, color="0.5", alpha=0.15, linewidth=0, zorder=0)
    axes.set_title(panel.title)
    is_first = axes.get_subplotspec().is_first_col()  # type: ignore[union-attr]
    axes.set_yticks(range(len(curve.words)), [canvas.literal(word) if is_first else "" for word in curve.words])
    axes.set_ylim(len(curve.words) - 0.5, -0.5)
    if panel.log:
        axes.set_xscale("log")
        canvas.spell_ticks(axes.xaxis)


def _draw_legend(below: Axes, axes: Axes, width: float) -> float:
    """Draw the legend of `axes` in `below`, which is `width` inches wide; returns the height that it needs."""
    handles, labels = axes.get_legend_handles_labels()
    columns = max(1, int(width / (0.45 + 0.045 * max(map(len, labels)))))
    below.set_axis_off()
    legend = below.legend(handles, labels, loc="upper center", ncols=columns, columnspacing=1.0)
    legend.set_in_layout(False)
    return 0.1 + LEGEND_LINE * math.ceil(len(labels) / columns)


def _places(curve: Curve, x: pd.Series, shift: float = 0.0) -> list[float]:
    """Places on the axis; words stand at whole numbers, `shift` apart for each line."""
    return [curve.words.index(value) + shift for value in x] if curve.words else x.tolist()
