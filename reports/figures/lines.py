"""Figures with a line for each row: singular values of the embeddings' covariance (dimensional collapse), the use of
codes (cluster collapse), and entropies of mixtures fitted to the embeddings (intra-cluster collapse)."""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from reports.figures import canvas
from reports.figures.canvas import Plot
from reports.figures.samples import Sample
from reports.statistics import inference

MOST_LINES = 12
ENTROPY = re.compile(r"(collapse|paper)/entropy_(\d+)")
SCALED = "scaled to [0, 1] by the extremes of the whole matrix"
MIXTURES = {
    "collapse": ("mixture-entropy", "scaled to length √f"),
    "paper": ("mixture-entropy-paper", f"{SCALED} and padded with zeros to 2,048 dimensions"),
}
"""The figure of each measure, ours and that of the authors' script, and how it scales the embeddings."""
SPECTRA = {"singular_values": "spectrum", "paper_singular_values": "spectrum-paper"}
FLOOR = 1e-10
"""Of the largest singular value: the covariance is computed in double precision, what is smaller is rounding."""


def spectrum_numbers(spectra: Sequence[tuple[str, Sequence[float]]]) -> pd.DataFrame:
    """Columns `row`, `rank` (from 1), `singular_value`, `log10`: all padded with zeros to the widest, whose log is NaN.

    Each spectrum is descending: of the covariance of embeddings that are scaled to [0, 1] by the extremes of the whole
    matrix, as in the paper. Embeddings padded with zeros have just these singular values, and zeros.
    """
    width = max(len(values) for _, values in spectra)
    frames = []
    for name, values in spectra:
        padded = np.pad(np.asarray(values, dtype=float), (0, width - len(values)))
        frames.append(pd.DataFrame({"row": name, "rank": np.arange(1, width + 1), "singular_value": padded}))
    numbers = pd.concat(frames)
    return numbers.assign(log10=np.log10(numbers["singular_value"].where(numbers["singular_value"] > 0)))


def draw_spectrum(numbers: pd.DataFrame) -> Figure:
    """Log singular values by rank; a value of zero is drawn at the bottom."""
    least = np.log10(numbers["singular_value"].max() * FLOOR)
    shown = numbers.assign(log10=numbers["log10"].fillna(least).clip(lower=least))
    return canvas.lines(shown, "rank", "log10", xlabel="rank", ylabel="log₁₀ singular value")


def usage_numbers(counts: Sequence[tuple[str, Sequence[float]]]) -> pd.DataFrame:
    """Columns `row`, `codes` (available), `rank` (1: most used), `code`, `images`, `share`, of the used codes."""
    frames = []
    for name, count in counts:
        images = np.asarray(count, dtype=np.int64)
        order = np.argsort(-images, kind="stable")[: np.count_nonzero(images)]
        columns = {"row": name, "codes": len(images), "rank": np.arange(1, len(order) + 1), "code": order}
        frames.append(pd.DataFrame({**columns, "images": images[order], "share": images[order] / max(1, images.sum())}))
    return pd.concat(frames)


def draw_usage(numbers: pd.DataFrame) -> Figure:
    """The share of the images that each used code has, by the code's rank, both axes logarithmic."""
    used = numbers.groupby("row", sort=False)["rank"].transform("max")
    named = numbers["row"] + " (" + used.map("{:,}".format) + " of " + numbers["codes"].map("{:,}".format) + ")"
    axis = {"xscale": "log", "yscale": "log", "xlabel": "code, most used first", "ylabel": "share of test images"}
    return canvas.lines(numbers.assign(row=named), "rank", "share", **axis)


def entropy_numbers(runs: pd.DataFrame, row_names: Mapping[Any, str], measure: str = "collapse") -> pd.DataFrame:
    """Columns `row`, `components`, `n`, `mean`, `std` of the metrics <measure>/entropy_<k> over the seeds of each row.

    `runs` as `inference.by_row` takes them. Rows and numbers of components without any value are left out.
    """
    matches = (ENTROPY.fullmatch(str(name)) for name in runs)
    components = sorted((int(match[2]), match[0]) for match in matches if match and match[1] == measure)
    values = inference.by_row(runs, [name for _, name in components])
    counts, means, spreads = values.count(), values.mean(), values.std()
    rows = [
        (row_names[row], k, counts[name][row], means[name][row], spreads[name][row])
        for row in counts.index
        for k, name in components
        if counts[name][row]
    ]
    return pd.DataFrame(rows, columns=["row", "components", "n", "mean", "std"])


def draw_entropies(numbers: pd.DataFrame) -> Figure:
    """The mean over seeds by the number of components."""
    axis = {"xscale": "log", "xlabel": "components of the mixture", "ylabel": "entropy (nats)"}
    figure = canvas.lines(numbers, "components", "mean", **axis)
    figure.axes[0].set_xticks(sorted(numbers["components"].unique()))
    return figure


def entropy_plots(runs: pd.DataFrame, row_names: Mapping[Any, str]) -> Iterator[Plot]:
    """The entropies of mixtures by the number of components, by our measure and by the paper's."""
    for measure, (figure, scaled) in MIXTURES.items():
        entropies = entropy_numbers(runs, row_names, measure)
        shown = canvas.spread(entropies["row"].unique().tolist(), MOST_LINES)
        entropies = entropies[entropies["row"].isin(shown)]
        if len(entropies):
            yield Plot(figure, entropies, draw_entropies, {"scaled": scaled})


def plots(samples: Sequence[Sample]) -> Iterator[Plot]:
    """The spectra and the use of codes."""

    def shown(key: str) -> list[tuple[str, Sequence[float]]]:
        return canvas.spread([(s.name, s.diagnostics[key]) for s in samples if s.diagnostics.get(key)], MOST_LINES)

    for key, figure in SPECTRA.items():
        spectra = shown(key)
        if any(any(values) for _, values in spectra):
            yield Plot(figure, spectrum_numbers(spectra), draw_spectrum, {"scaled": SCALED})
    if counts := shown("code_counts"):
        yield Plot("code-usage", usage_numbers(counts), draw_usage)
