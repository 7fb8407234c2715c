"""Curves of a sweep: `curve` computes the numbers along one axis, `draw` draws them and computes nothing."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import matplotlib.style
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter

from reports import aggregate, metrics, text
from reports.store import SweepResult
from reports.tables import number_rows

STYLE = Path(__file__).with_name("paper.mplstyle")
MOST_SERIES = 6
DICTIONARY = "params.method.codes"
GREY = "0.35"


@dataclass(frozen=True)
class Panel:
    """Metrics that share a vertical axis, each with its text in the legend. The first leads: it alone is compared with the
    baselines, and it alone is drawn where each point of the other axes has a line of its own."""

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


@dataclass(frozen=True)
class Curve:
    """The numbers of a figure along one axis.

    `numbers` has a row for each point of each line: `panel`, `metric`, `line` (its text in the legend), `x`, `n`, `mean`,
    `std`, and a column `seed <s>` for each seed. Baselines have no `x`. Where no seed has a value, `n` is 0 and `mean` is
    NaN. `words` are the values of an axis without a scale, else empty. `joined` is false where neighbouring points
    differ in other axes too.
    """

    name: str
    heading: str
    words: tuple[str, ...]
    log: bool
    joined: bool
    numbers: pd.DataFrame = field(repr=False)


def curves(result: SweepResult) -> list[Curve]:
    """A curve along each axis that has several values; of a sweep without such an axis, its rows side by side. A curve without
    any number is left out."""
    several = [axis for axis, values in result.axes.items() if len(values) > 1]
    drawn = [curve(result, axis) for axis in several] or [curve(result, None)]
    return [one for one in drawn if len(one.numbers)]


def curve(result: SweepResult, axis: str | None) -> Curve:
    """The numbers along `axis`, one line for each point of the other axes; None puts the sweep's rows side by side."""
    runs = number_rows(result)
    if DICTIONARY in runs:
        runs[DICTIONARY] = pd.to_numeric(runs[DICTIONARY], errors="coerce")
    rows = runs.drop_duplicates("row").set_index("row").sort_index()
    is_trial = rows["role"] != "baseline"
    x = rows.loc[is_trial, axis or "label"]
    numeric = all(isinstance(value, int | float) and not isinstance(value, bool) for value in x)
    x = x.astype(float) if numeric else pd.Series(text.values(x.tolist()), x.index)
    series = _series(result, rows[is_trial], axis)
    apart = 1 < series.nunique() <= MOST_SERIES

    numbers = _statistics(runs, result.seeds)
    trial = numbers["row"].map(is_trial)
    leading = numbers["metric"].isin([panel.lead for panel in PANELS])
    known = numbers["metric"].isin(numbers.loc[trial & (numbers["n"] > 0), "metric"])
    numbers = numbers[known & np.where(trial, leading | (not apart), leading & (numbers["n"] > 0))]
    panels = {metric: (panel.title, name) for panel in PANELS for metric, name in panel.lines.items()}
    lines = numbers["row"].map(series) if apart else numbers["metric"].map({m: name for m, (_, name) in panels.items()})
    numbers.insert(0, "panel", numbers["metric"].map({metric: title for metric, (title, _) in panels.items()}))
    numbers.insert(2, "line", lines.where(trial[numbers.index], numbers["row"].map(rows["label"])))
    numbers.insert(3, "x", numbers["row"].map(x))
    order = numbers["metric"].map({metric: place for place, metric in enumerate(panels)})
    place = numbers["x"] if numeric else numbers["row"]
    numbers = numbers.assign(order=order, place=place.where(trial[numbers.index])).sort_values(
        ["order", "place", "row"]
    )

    names = dict(zip(result.axes, zip(metrics.leaves(list(result.axes)), metrics.headings(list(result.axes)))))
    key, heading = names[axis] if axis else ("rows", "")
    return Curve(
        name=re.sub(r"[^A-Za-z0-9_-]+", "-", key),
        heading=heading,
        words=() if numeric else tuple(dict.fromkeys(x)),
        log=bool(numeric and x.min() > 0 and x.max() >= 10 * x.min()),
        joined=bool(numeric and series.nunique() <= MOST_SERIES),
        numbers=numbers.drop(columns=["row", "order", "place"]).reset_index(drop=True),
    )


def draw(curve: Curve) -> Figure:
    """The figure of a curve, one panel beside the other: mean, a band of one standard deviation, and each seed's value as a
    point. A cross on the axis marks a point without any result."""
    panels = [panel for panel in PANELS if panel.title in set(curve.numbers["panel"])]
    with matplotlib.style.context(STYLE):
        figure = Figure(figsize=(2.3 * len(panels) + 0.1, 2.5))
        for axes, panel in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
            _draw_panel(axes, curve, panel)
    return figure


def write(curve: Curve, folder: Path) -> list[Path]:
    """Write <name>.png, .pdf and .csv; equal numbers give equal bytes."""
    png, pdf, csv = (folder / f"{curve.name}.{kind}" for kind in ("png", "pdf", "csv"))
    curve.numbers.to_csv(csv, index=False, lineterminator="\n")
    figure = draw(curve)
    with matplotlib.style.context(STYLE):
        figure.savefig(png, metadata={"Software": None})
        figure.savefig(pdf, metadata={"Creator": None, "Producer": None, "CreationDate": None})
    return [png, pdf, csv]


def _statistics(runs: pd.DataFrame, seeds: list[int]) -> pd.DataFrame:
    """Columns `row`, `metric`, `n`, `mean`, `std`, `seed <s>`: one row for each table row and metric of the panels."""
    names = [metric for panel in PANELS for metric in panel.lines]
    summary = aggregate.summarise(runs, names)
    statistics = {name: getattr(summary, name).rename_axis(columns="metric").stack() for name in ("n", "mean", "std")}
    finished = runs[runs["status"] == "FINISHED"].reindex(columns=["row", "seed", *names])
    each = finished.melt(["row", "seed"], names, "metric").pivot_table("value", ["row", "metric"], "seed", sort=False)
    each = each.reindex(columns=seeds).rename(columns=lambda seed: f"seed {seed}")
    return pd.DataFrame(statistics).join(each).reset_index()


def _series(result: SweepResult, rows: pd.DataFrame, axis: str | None) -> pd.Series:
    """What tells rows apart that share a value of `axis`: the values of the other axes, `c = 10` for instance."""
    others = [other for other, values in result.axes.items() if other != axis and axis is not None and len(values) > 1]
    headings = dict(zip(result.axes, metrics.headings(list(result.axes)), strict=True))
    parts = [f"{headings[other]} = " + pd.Series(text.values(rows[other].tolist()), rows.index) for other in others]
    return pd.Series([", ".join(part) for part in zip(*parts)] if parts else "", rows.index, dtype=object)


def _draw_panel(axes: Axes, curve: Curve, panel: Panel) -> None:
    numbers = curve.numbers[curve.numbers["panel"] == panel.title]
    points = numbers[numbers["x"].notna()]
    seeds = [name for name in numbers if name.startswith("seed ")]
    for _, line in points.groupby(["metric", "line"], sort=False):
        x = _horizontal(curve, line["x"])
        drawn = axes.plot(
            x, line["mean"], label=line["line"].iloc[0], **({} if curve.joined else {"linestyle": "none"})
        )[0]
        if curve.joined:
            axes.fill_between(
                x, line["mean"] - line["std"], line["mean"] + line["std"], color=drawn.get_color(), alpha=0.18, lw=0
            )
        if (line["n"] > 1).any():
            for seed in seeds:
                axes.plot(x, line[seed], ".", color=drawn.get_color(), markersize=2.5, alpha=0.7)
    empty = points[(points["metric"] == panel.lead) & (points["n"] == 0)]
    if len(empty):
        at = _horizontal(curve, empty["x"])
        axes.plot(at, [0.02] * len(at), "x", color=GREY, transform=axes.get_xaxis_transform(), label="no result")
    for (_, line), dashes in zip(numbers[numbers["x"].isna()].iterrows(), ("--", ":", "-.", "-") * 9, strict=False):
        axes.axhline(line["mean"], color=GREY, linestyle=dashes, linewidth=0.9, label=line["line"])

    axes.set_title(panel.title)
    axes.set_xlabel(curve.heading)
    if curve.words:
        axes.set_xticks(range(len(curve.words)), curve.words, rotation=0 if max(map(len, curve.words)) < 8 else 30)
        axes.margins(x=0.15)
    for scale, is_log in ((axes.xaxis, curve.log and not curve.words), (axes.yaxis, panel.log)):
        if is_log:
            scale._set_axes_scale("log")
            scale.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
            scale.set_minor_formatter(NullFormatter())
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.24), ncols=2, columnspacing=1.2)


def _horizontal(curve: Curve, x: pd.Series) -> list[Any]:
    return [curve.words.index(value) for value in x] if curve.words else x.tolist()
