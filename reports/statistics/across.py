"""What several data sets say together: mean ranks with the critical difference between them, and interquartile means.

Pure functions of a frame of scores with the columns `row`, `dataset`, `seed` and `value`, one metric at a time. Only
data sets on which every row has a value count, since a rank among fewer rows is another number.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from reports.statistics.inference import LEVEL, Better

RESAMPLES = 2_000


def complete_means(scores: pd.DataFrame) -> pd.DataFrame:
    """Means over seeds, a row for each `row` and a column for each data set on which all rows have a value."""
    means = scores.pivot_table(index="row", columns="dataset", values="value", aggfunc="mean", sort=False)
    return means.dropna(axis="columns")


def mean_ranks(means: pd.DataFrame, better: Better) -> pd.Series:
    """The mean rank of each row over the columns, 1 being the best; equal values share their mean rank (Demsar, JMLR
    2006, section 3.2.2).

    >>> mean_ranks(pd.DataFrame([[0.9, 0.8], [0.9, 0.7], [0.1, 0.2]]), "higher").tolist()
    [1.25, 1.75, 3.0]
    """
    return means.rank(ascending=better == "lower").mean(axis=1)


def friedman(ranks: pd.Series, datasets: int) -> float:
    """The p-value that all rows are equally good: Friedman's test of mean ranks, in the form of Iman and Davenport, an
    F distribution with k - 1 and (k - 1)(N - 1) degrees of freedom (Demsar 2006, equations of section 3.2.2)."""
    from scipy.special import fdtrc

    k, n = len(ranks), datasets
    chi = 12 * n / (k * (k + 1)) * (float((ranks**2).sum()) - k * (k + 1) ** 2 / 4)
    left = n * (k - 1) - chi
    return 0.0 if left <= 0 else float(fdtrc(k - 1, (k - 1) * (n - 1), (n - 1) * chi / left))


def critical_difference(rows: int, datasets: int, level: float = LEVEL) -> float:
    """Mean ranks that differ by less are not told apart: Nemenyi's test, q sqrt(k (k + 1) / (6 N)), where q is the
    quantile of the studentized range of k means over the root of 2 (Demsar 2006, section 3.2.2)."""
    from scipy.stats import studentized_range  # It takes a second to import.

    q = float(studentized_range.ppf(1 - level, rows, np.inf)) / math.sqrt(2)
    return q * math.sqrt(rows * (rows + 1) / (6 * datasets))


def cliques(ranks: Sequence[float], difference: float) -> list[tuple[int, int]]:
    """The first and last of each largest group of sorted mean ranks that lie within the critical difference.

    >>> cliques([1.0, 1.5, 2.2, 4.0], 1.0)
    [(0, 1), (1, 2)]
    """
    reach = [max(j for j in range(len(ranks)) if ranks[j] - first < difference) for first in ranks]
    return [(i, j) for i, j in enumerate(reach) if j > i and (i == 0 or reach[i - 1] < j)]


def interquartile_mean(values: Any) -> float:
    """The mean of the middle half of all values, a quarter cut off at each end (Agarwal et al., NeurIPS 2021).

    >>> interquartile_mean([[1, 2, 3, 4], [5, 6, 7, 100]])
    4.5
    """
    from scipy.stats import trim_mean  # It takes a second to import.

    return float(trim_mean(values, 0.25, axis=None))


def interquartile_interval(by_dataset: Sequence[Sequence[float]], resamples: int = RESAMPLES) -> tuple[float, float]:
    """The 95 % interval of the interquartile mean of the values of all data sets: percentiles of a bootstrap that draws
    seeds anew within each data set (stratified; Agarwal et al. 2021). With few seeds it is too narrow."""
    from scipy.stats import trim_mean

    generator = np.random.default_rng(0)
    drawn = [generator.choice(values, (resamples, len(values))) for values in by_dataset]
    low, high = np.quantile(trim_mean(np.concatenate(drawn, axis=1), 0.25, axis=1), [LEVEL / 2, 1 - LEVEL / 2])
    return float(low), float(high)
