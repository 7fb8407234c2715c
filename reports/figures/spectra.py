"""Singular values of the embeddings' covariance (dimensional collapse) and the use of codes (cluster collapse)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from reports.figures import canvas
from reports.figures.canvas import Plot
from reports.figures.samples import Sample

FLOOR = 1e-10
"""Of the largest singular value: the covariance is computed in double precision, what is smaller is rounding."""


def spectrum_numbers(spectra: Sequence[tuple[str, Sequence[float]]]) -> pd.DataFrame:
    """Columns `row`, `rank` (from 1), `singular_value`, `log10`: all padded with zeros to the widest, whose log is NaN.

    Each spectrum is descending: of the covariance of embeddings that are scaled to [0, 1] by the extremes of the whole
    matrix, as in the paper. Embeddings padded with zeros have just these singular values, and zeros.
    """
    width = max((len(values) for _, values in spectra), default=0)
    frames = []
    for name, values in spectra:
        padded = np.pad(np.asarray(values, dtype=float), (0, width - len(values)))
        logarithm = np.log10(padded, where=padded > 0, out=np.full(width, np.nan))
        frames.append(
            pd.DataFrame({"row": name, "rank": np.arange(1, width + 1), "singular_value": padded, "log10": logarithm})
        )
    return pd.concat(frames) if frames else pd.DataFrame(columns=["row", "rank", "singular_value", "log10"])


def draw_spectrum(numbers: pd.DataFrame) -> Figure:
    """Log singular values by rank; a value of zero is drawn at the bottom."""
    least = np.log10(numbers["singular_value"].max() * FLOOR)
    shown = numbers.assign(log10=numbers["log10"].fillna(least).clip(lower=least))
    return canvas.lines(shown, "rank", "log10", xlabel="rank", ylabel="log$_{10}$ singular value")


def usage_numbers(counts: Sequence[tuple[str, Sequence[float]]]) -> pd.DataFrame:
    """Columns `row`, `codes` (available), `rank` (1: most used), `code`, `images`, `share`, of the used codes."""
    frames = []
    for name, count in counts:
        images = np.asarray(count, dtype=np.int64)
        order = np.argsort(-images, kind="stable")[: int((images > 0).sum())]
        ranks = np.arange(1, len(order) + 1)
        share = images[order] / max(1, images.sum())
        frames.append(
            pd.DataFrame(
                {
                    "row": name,
                    "codes": len(images),
                    "rank": ranks,
                    "code": order,
                    "images": images[order],
                    "share": share,
                }
            )
        )
    columns = ["row", "codes", "rank", "code", "images", "share"]
    return pd.concat(frames) if frames else pd.DataFrame(columns=columns)


def draw_usage(numbers: pd.DataFrame) -> Figure:
    """The share of the images that each used code has, by the code's rank, both axes logarithmic."""
    used = numbers.groupby("row", sort=False)["rank"].transform("max")
    named = numbers["row"] + " (" + used.map("{:,}".format) + " of " + numbers["codes"].map("{:,}".format) + ")"
    return canvas.lines(
        numbers.assign(row=named),
        *("rank", "share"),
        xscale="log",
        yscale="log",
        xlabel="code, most used first",
        ylabel="share of test images",
    )


def plots(samples: Sequence[Sample]) -> list[Plot]:
    figures = []
    spectra = [(s.name, s.diagnostics["singular_values"]) for s in samples if s.diagnostics.get("singular_values")]
    if any(any(values) for _, values in spectra):
        numbers = spectrum_numbers(canvas.spread(spectra, canvas.MOST_LINES))
        figures.append(
            Plot(
                "spectrum",
                "Singular values of the embedding covariance",
                "Logarithm of the singular values of the covariance of the test embeddings, scaled to [0, 1] by the "
                "extremes of the whole matrix and padded with zeros to a common width. A line that falls to the bottom "
                "early: dimensional collapse. One run a row, its lowest seed.",
                numbers,
                lambda: draw_spectrum(numbers),
            )
        )
    counts = [(s.name, s.diagnostics["code_counts"]) for s in samples if s.diagnostics.get("code_counts")]
    if counts:
        usage = usage_numbers(canvas.spread(counts, canvas.MOST_LINES))
        figures.append(
            Plot(
                "code-usage",
                "Use of the codes",
                "Share of the test images whose arg-max is a code, codes sorted by it; in brackets the codes in use, "
                "of those there are. A line that ends early: cluster collapse. One run a row, its lowest seed.",
                usage,
                lambda: draw_usage(usage),
            )
        )
    return figures
