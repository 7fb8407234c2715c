"""Entropy of Gaussian mixtures fitted to the embeddings (intra-cluster collapse), over the number of components."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from reports.figures import canvas
from reports.figures.canvas import Plot
from reports.statistics import aggregate

ENTROPY = re.compile(r"gmm/entropy_(\d+)")


def numbers(runs: pd.DataFrame, row_names: Mapping[Any, str]) -> pd.DataFrame:
    """Columns `row`, `components`, `n`, `mean`, `std` of the metrics gmm/entropy_<k> over the seeds of each row.

    `runs` as `aggregate.summarise` takes them. Rows and numbers of components without any value are left out.
    """
    matches = [match for name in runs.columns if (match := ENTROPY.fullmatch(str(name)))]
    components = sorted((int(match[1]), match[0]) for match in matches)
    summary = aggregate.summarise(runs, [name for _, name in components])
    rows = [
        (row_names[row], k, int(summary.n[name][row]), summary.mean[name][row], summary.std[name][row])
        for row in summary.n.index
        for k, name in components
        if summary.n[name][row]
    ]
    return pd.DataFrame(rows, columns=["row", "components", "n", "mean", "std"])


def draw(numbers: pd.DataFrame) -> Figure:
    """The mean over seeds, a line for each row."""
    figure = canvas.lines(
        numbers, "components", "mean", xscale="log", xlabel="components of the mixture", ylabel="entropy (nats)"
    )
    figure.axes[0].set_xticks(sorted(numbers["components"].unique()))
    return figure


def plots(runs: pd.DataFrame, row_names: Mapping[Any, str]) -> list[Plot]:
    entropies = numbers(runs, row_names)
    shown = canvas.spread(entropies["row"].unique().tolist(), canvas.MOST_LINES)
    entropies = entropies[entropies["row"].isin(shown)]
    if entropies.empty:
        return []
    return [
        Plot(
            "mixture-entropy",
            "Entropy of Gaussian mixtures",
            "Entropy of a Gaussian mixture with diagonal covariances fitted to the test embeddings (scaled to length "
            "√f), by Monte Carlo, mean over seeds. Low for many components: little variation within the clusters, "
            "intra-cluster collapse; but a low value can come from another collapse too.",
            entropies,
            lambda: draw(entropies),
        )
    ]
