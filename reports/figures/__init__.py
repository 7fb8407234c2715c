"""Figures of a sweep, a module for each family.

In each, functions that compute numbers are apart from functions that draw them, and `plots` puts both together for
those runs that have what it takes; `notes` says what single runs lack. docs/figures.md says what each figure shows.
"""

from collections.abc import Iterator, Sequence

from reports.figures import canvas, curves, embeddings, images, importance, lines, of_tables, samples
from reports.figures.canvas import Plot
from reports.figures.importance import Importance
from reports.figures.samples import Reader, Sample, notes
from reports.store import SweepResult
from reports.tables import number_rows

__all__ = ["Importance", "Plot", "Reader", "notes", "plots", "read_samples", "table_plots"]

table_plots = of_tables.plots


def read_samples(result: SweepResult, reader: Reader) -> list[Sample]:
    """What figures of single runs are made of. `reader` fetches artifacts of runs; it is asked for those of at most 24
    runs, however large the sweep is."""
    runs = number_rows(result)
    return samples.read(runs, canvas.names(result, runs), reader)


def plots(result: SweepResult, shown: Sequence[Sample], importance_of: Importance | None = None) -> Iterator[Plot]:
    """Every figure that the runs of a sweep on one data set and these samples of them give, curves first; that of the
    importance of settings only with a function that computes it."""
    runs = number_rows(result)
    yield from curves.plots(result)
    if importance_of:
        yield from importance.plots(result, importance_of)
    yield from lines.entropy_plots(runs, canvas.names(result, runs))
    for family in (lines, embeddings, images):
        yield from family.plots(shown)
