"""A figure of which setting of a sweep or a search matters: the share of a metric's variance that each explains."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from reports import spelling
from reports.figures import canvas
from reports.figures.canvas import ARM, PAGE_WIDTH, Plot
from reports.metrics import METRICS
from reports.store import SweepResult
from sweeps.record import BASELINE

Importance = Callable[[Sequence[Mapping[str, Any]], Sequence[float]], dict[str, float]]
"""The importance of each setting, from the settings and the metric of each trial; reports import no library for it."""

SHOWN = ("probe/accuracy", "codes/ami")
LEAST_TRIALS = 8  # Fewer say little of a variance.


def plots(result: SweepResult, importance: Importance) -> Iterator[Plot]:
    """The figure, if at least two settings differ among enough finished trials."""
    numbers = importance_numbers(result, importance)
    if len(numbers):
        yield Plot("importance", numbers, draw_importance)


def importance_numbers(result: SweepResult, importance: Importance) -> pd.DataFrame:
    """Columns `metric`, `setting`, `importance` and `trials`: for each of SHOWN that trials have, the settings of
    several values that all trials have, the most important first."""
    runs = result.runs[result.runs["status"].eq("FINISHED") & result.runs["role"].ne(BASELINE)]
    varied = [axis for axis in result.axes if runs[axis].map(repr).nunique() > 1 and runs[axis].notna().all()]
    records = []
    for metric in SHOWN if len(varied) > 1 else ():
        values = runs.reindex(columns=[metric])[metric].astype(float)
        there = runs[np.isfinite(values)]
        values = values[there.index]
        if len(there) < LEAST_TRIALS or values.nunique() < 2:
            continue
        points: Any = there[varied].to_dict("records")
        for setting, share in importance(points, values.tolist()).items():
            records.append((metric, setting, share, len(there)))
    return pd.DataFrame(records, columns=["metric", "setting", "importance", "trials"])


def draw_importance(numbers: pd.DataFrame) -> Figure:
    """A panel for each metric, a bar for each setting."""
    metrics = list(numbers["metric"].unique())
    settings = list(dict.fromkeys(numbers["setting"]))
    names = dict(zip(settings, spelling.headings(settings), strict=True))
    figure = Figure(figsize=(PAGE_WIDTH, 0.8 + 0.25 * len(settings)))
    for axes, metric in zip(figure.subplots(1, len(metrics), squeeze=False)[0], metrics, strict=True):
        part = numbers[numbers["metric"] == metric]
        words = [canvas.literal("method" if setting == ARM else names[setting]) for setting in part["setting"]]
        axes.barh(range(len(part)), part["importance"], color=canvas.GREY, height=0.6)
        axes.set_yticks(range(len(part)), words)
        axes.invert_yaxis()
        title = f"{METRICS[metric].heading} ({part['trials'].iloc[0]} trials)"
        axes.set(xlim=(0, 1), xlabel="importance", title=title)
    return figure
