"""Statistics over seeds, as pure functions of a frame of runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd


@dataclass(frozen=True)
class Summary:
    """Three frames of one shape, rows of a table by metrics: `mean`; `std`, the sample standard deviation (ddof=1), NaN
    for fewer than two values; and `n`, the number of finite values of finished runs behind both."""

    mean: pd.DataFrame
    std: pd.DataFrame
    n: pd.DataFrame


def summarise(runs: pd.DataFrame, metrics: Sequence[str]) -> Summary:
    """Mean, spread and number of values for each table row, in the order of their numbers, and metric.

    `runs` has a row for each trial, with the columns `row` (the table row it belongs to), `status`, and the metrics; a
    metric without a column counts as never logged. Only finished runs count. A value that is not finite is left out
    and so lowers `n`; it never enters a mean unseen.
    """
    rows = pd.Index(sorted(set(runs["row"])), name="row")
    finished = runs[runs["status"] == "FINISHED"]
    values = finished.reindex(columns=list(metrics)).astype(float)
    grouped = values.where(np.isfinite(values)).groupby(finished["row"])
    return Summary(
        mean=grouped.mean().reindex(rows),
        std=grouped.std(ddof=1).reindex(rows),
        n=grouped.count().reindex(rows, fill_value=0).astype(int),
    )
