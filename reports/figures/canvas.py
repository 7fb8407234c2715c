"""What all figures share: their files, their style, and how rows become panels, lines and names."""

import itertools
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import matplotlib
import matplotlib.style
import numpy as np
import pandas as pd
import yaml
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter

from reports import spelling
from reports.store import SweepResult
from sweeps.record import BASELINE

T = TypeVar("T")

STYLE = Path(__file__).with_name("paper.mplstyle")
CYCLE = list(matplotlib.rc_params_from_file(STYLE, use_default_template=False)["axes.prop_cycle"])
CAPTIONS = yaml.safe_load(STYLE.with_name("captions.yaml").read_text(encoding="utf-8"))
GREY = "0.35"
PAGE_WIDTH = 6.9  # Inches of text on a page; three panels stand side by side.
PANEL_WIDTH, PANEL_HEIGHT = PAGE_WIDTH / 3, 2.1
MOST_PANELS = 6
MOST_LETTERS = 40  # Of a name in a figure.
DPI = 200
ARM = "arm"  # The axis of a sweep's manifest that holds names of methods instead of a setting's values.


@dataclass(frozen=True)
class Plot:
    """A figure ready to be drawn: `name` of its files, its numbers (the CSV), and how these are drawn. Its title and
    caption are those of its name, or of `entry`, in captions.yaml; `words` fill their braces."""

    name: str
    numbers: pd.DataFrame = field(repr=False)
    draw_numbers: Callable[[pd.DataFrame], Figure] = field(repr=False)
    words: Mapping[str, object] = field(default_factory=dict)
    entry: str = ""

    @property
    def title(self) -> str:
        return CAPTIONS[self.entry or self.name]["title"].format_map(self.words)

    @property
    def caption(self) -> str:
        return CAPTIONS[self.entry or self.name]["caption"].format_map(self.words)

    def draw(self) -> Figure:
        return self.draw_numbers(self.numbers)

    def write(self, folder: Path) -> list[Path]:
        """Write <name>.png, .pdf and .csv; equal numbers give equal bytes."""
        png, pdf, csv = (folder / f"{self.name}.{kind}" for kind in ("png", "pdf", "csv"))
        csv.write_text(spelling.frame_text(self.numbers), encoding="utf-8")
        with matplotlib.style.context(STYLE), warnings.catch_warnings():
            # Letters that the font lacks become boxes; the other files have them.
            warnings.filterwarnings("ignore", "Glyph .* missing from font")
            figure = self.draw()
            figure.savefig(png, dpi=DPI, metadata={"Software": None})
            figure.set_layout_engine("none")  # It is laid out already, which takes half of the time of drawing.
            figure.savefig(pdf, metadata={"Creator": None, "Producer": None, "CreationDate": None})
        return [png, pdf, csv]


def names(result: SweepResult, runs: pd.DataFrame) -> dict[Any, str]:
    """A short name for each table row of `runs`: `β = 0.1`, `SwAV`, `CPLearn, c = 128`; axes of one value are left
    out. Baselines and trials without axes keep their label."""
    rows = runs.drop_duplicates("row").set_index("row").sort_index()
    parts: dict[Any, list[str]] = {row: [] for row in rows.index}
    for (axis, listed), heading in zip(result.axes.items(), spelling.headings(list(result.axes)), strict=True):
        for row, value, text in zip(rows.index, rows[axis], spelling.values(rows[axis].tolist()), strict=True):
            if len(listed) > 1 and (value is not None or None in listed) and rows["role"][row] != BASELINE:
                parts[row].append(text if axis == ARM else f"{heading} = {text}")
    return {row: ", ".join(parts[row]) or label for row, label in rows["label"].items()}


def literal(text: str) -> str:
    """A name as Matplotlib can draw it, on one line and no longer than `MOST_LETTERS`. The style switches off formulas
    between dollar signs; a label that began with an underscore would be missing in the legend."""
    text = spelling.one_line(text)
    text = text if len(text) <= MOST_LETTERS else f"{text[: MOST_LETTERS - 12]}…{text[-11:]}"
    return f" {text}" if text.startswith("_") else text


def spread(items: Sequence[T], most: int) -> list[T]:
    """At most `most` of the items, evenly spaced, the first and the last among them."""
    if len(items) <= most:
        return list(items)
    return [items[round(place)] for place in np.linspace(0, len(items) - 1, most)]


def colours(count: int) -> list[dict[str, Any]]:
    """How to draw each of `count` lines: the style's cycle as far as it goes, else steps of a scale from dark to
    light, which the colour-blind can order too."""
    if count <= len(CYCLE):
        return CYCLE[:count]
    scale, shapes = matplotlib.colormaps["viridis"], itertools.cycle(style["marker"] for style in CYCLE)
    places = np.linspace(0, 0.88, count)
    return [{"color": scale(at), "marker": shape, "linestyle": "-"} for at, shape in zip(places, shapes, strict=False)]


def lines(numbers: pd.DataFrame, x: str, y: str, **axis: Any) -> Figure:
    """One panel with a line for each `row` of `numbers`, its legend on the right. `axis` goes to `Axes.set`; points
    are marked as long as there are few."""
    figure = Figure(figsize=(PAGE_WIDTH * 0.75, 2.6))
    axes = figure.add_subplot()
    rows = list(numbers.groupby("row", sort=False))
    for (label, line), style in zip(rows, colours(len(rows)), strict=True):
        marked = style["marker"] if len(numbers) <= 12 * len(rows) else ""
        axes.plot(line[x], line[y], label=literal(str(label)), **{**style, "marker": marked})
    axes.set(**axis)
    for scale, along in ((axes.get_xscale(), axes.xaxis), (axes.get_yscale(), axes.yaxis)):
        if scale == "log":
            spell_ticks(along)
    figure.legend(*axes.get_legend_handles_labels(), loc="outside right upper")
    return figure


def panels(count: int, height: float) -> tuple[Figure, list[Axes]]:
    """A figure of `count` equal panels, three in a line."""
    columns = min(count, 3)
    lines = -(-count // columns)
    figure = Figure(figsize=(PANEL_WIDTH * columns, height * lines))
    return figure, [figure.add_subplot(lines, columns, place + 1) for place in range(count)]


def spell_ticks(axis: Any) -> None:
    """Plain numbers on a logarithmic axis."""
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())


def bare(axes: Axes) -> None:
    """An image has no ticks and no grid."""
    axes.set_xticks([])
    axes.set_yticks([])
    axes.grid(False)
    axes.spines[:].set_visible(False)
