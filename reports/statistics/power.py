"""How many seeds a table needs: the power of its paired test, from how much differences between rows vary.

The test is that of `inference.contest`: paired by seed, Student's t, Holm's correction over all pairs of rows. Counted
is its first and strictest step, level / pairs, so that the answer holds whatever the other rows are. From
`inference.FEW` seeds on tables take the bootstrap distribution of t, which is close to Student's for normal
differences.
"""

from __future__ import annotations

import itertools
import math

import numpy as np
import pandas as pd
from scipy.special import nctdtr  # scipy.stats takes a second to import

from reports.statistics.inference import LEVEL, _student

POWER = 0.8
MOST_SEEDS = 1000


def paired_std(values: pd.DataFrame) -> tuple[float, int, int] | None:
    """The standard deviation of differences between two rows at equal seeds, pooled over all pairs of rows, with the
    number of pairs and the largest number of seeds of a pair; None unless a pair has two seeds in common.

    `values` has a row for each table row and a column for each seed; what was not measured is not a number.

    >>> paired_std(pd.DataFrame([[0.1, 0.2, 0.3], [0.1, 0.1, 0.1]]))
    (0.1, 1, 3)
    """
    differences = [(first - second)[np.isfinite(first - second)] for first, second in _pairs(values)]
    usable = [each for each in differences if len(each) > 1]
    if not usable:
        return None
    squares = sum(float(((each - each.mean()) ** 2).sum()) for each in usable)
    freedom = sum(len(each) - 1 for each in usable)
    return round(math.sqrt(squares / freedom), 15), len(usable), max(map(len, usable))


def _pairs(values: pd.DataFrame) -> itertools.combinations:
    return itertools.combinations(values.to_numpy(dtype=float), 2)


def power(difference: float, std: float, seeds: int, rows: int) -> float:
    """The probability that the test over so many seeds supports a true difference between two of `rows`, whose paired
    differences are normal with standard deviation `std`: both tails of the noncentral t distribution with n - 1 degrees
    of freedom and noncentrality difference * sqrt(n) / std (Cohen, Statistical Power Analysis, 1988, chapter 2)."""
    beyond = _student(LEVEL / (2 * math.comb(rows, 2)), seeds - 1)
    shift = difference * math.sqrt(seeds) / std
    below = np.nan_to_num(nctdtr(seeds - 1, shift, -beyond))  # Too small to be computed where the shift is large.
    return float(1 - nctdtr(seeds - 1, shift, beyond) + below)


def seeds_needed(difference: float, std: float, rows: int) -> int | None:
    """The smallest number of seeds with a power of 80 %; None if more than `MOST_SEEDS` would be needed."""
    return next((n for n in range(2, MOST_SEEDS + 1) if std == 0 or power(difference, std, n, rows) >= POWER), None)


def difference_resolved(std: float, seeds: int, rows: int) -> float:
    """The smallest true difference that so many seeds support with a power of 80 %; infinite for one seed."""
    if seeds < 2:
        return math.inf
    low, high = 0.0, std
    while power(high, std, seeds, rows) < POWER:
        high *= 2
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (low, middle) if power(middle, std, seeds, rows) >= POWER else (middle, high)
    return high
