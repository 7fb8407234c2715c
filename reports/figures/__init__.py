"""Figures of a sweep, a module for each family.

In each, functions that compute numbers are apart from functions that draw them, and `plots` puts both together for
those runs that have what it takes. docs/figures.md says what each figure shows.
"""

from __future__ import annotations

from collections.abc import Iterator

from reports.figures import canvas, curves, embeddings, images, lines, samples
from reports.figures.canvas import Plot
from reports.figures.samples import Reader
from reports.store import SweepResult
from reports.tables import number_rows

__all__ = ["Plot", "Reader", "plots"]


def plots(result: SweepResult, reader: Reader) -> Iterator[Plot]:
    """Every figure that the runs of a sweep on one data set give, curves first. `reader` fetches artifacts of runs; it
    is asked for those of at most 24 runs, however large the sweep is."""
    runs = number_rows(result)
    names = canvas.names(result, runs)
    yield from curves.plots(result)
    yield from lines.entropy_plots(runs, names)
    shown = samples.read(runs, names, reader)
    for family in (lines, embeddings, images):
        yield from family.plots(shown)
