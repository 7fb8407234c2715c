"""Values over seeds by the rows of a table, and the order of a search's points, as pure functions of frames."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

if TYPE_CHECKING:
    from pandas.core.groupby import DataFrameGroupBy


def by_row(runs: pd.DataFrame, metrics: Sequence[str]) -> DataFrameGroupBy:
    """The values of some metrics, grouped by table row, for pandas' `mean`, `std` (ddof=1) and `count`.

    `runs` has a row for each trial, with the columns `row` (the table row it belongs to), `status`, and the metrics; a
    metric without a column counts as never logged. A value of an unfinished run, or that is not finite, does not count.
    """
    values = runs.reindex(columns=list(metrics)).astype(float)
    return values.where(np.isfinite(values).mul(runs["status"] == "FINISHED", axis=0)).groupby(runs["row"])


def best_first(means: pd.DataFrame, objectives: Mapping[str, str]) -> list[Hashable]:
    """The index of `means`, the best point first.

    `objectives` maps columns to maximize or minimize. With several, the points that no other one beats in all come
    first (the Pareto front), then those that only these beat, and so on; within a front the first objective decides.
    Points without a finite value of each objective come last, in the order given.

    >>> best_first(pd.DataFrame({"accuracy": [0.7, 0.9, 0.8]}), {"accuracy": "maximize"})
    [1, 2, 0]
    """
    upwards = [1.0 if direction == "maximize" else -1.0 for direction in objectives.values()]
    values: np.ndarray = means.reindex(columns=list(objectives)).to_numpy(dtype=float) * upwards
    is_complete = np.all(np.isfinite(values), axis=1)
    left = np.flatnonzero(is_complete)
    ordered: list[int] = []
    while len(left):
        points = values[left]
        no_worse = np.all(points[None] >= points[:, None], axis=2)
        better = np.any(points[None] > points[:, None], axis=2)
        is_beaten = np.any(no_worse & better, axis=1)
        front = left[~is_beaten]
        ordered += front[np.argsort(-values[front, 0], kind="stable")].tolist()
        left = left[is_beaten]
    return [means.index[place] for place in [*ordered, *np.flatnonzero(~is_complete).tolist()]]
