"""Ranks and interquartile means over data sets: published examples, and what can be checked by hand."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from reports.statistics import across

C45 = [
    [0.763, 0.768, 0.771, 0.798],
    [0.599, 0.591, 0.590, 0.569],
    [0.954, 0.971, 0.968, 0.967],
    [0.628, 0.661, 0.654, 0.657],
    [0.882, 0.888, 0.886, 0.898],
    [0.936, 0.931, 0.916, 0.931],
    [0.661, 0.668, 0.609, 0.685],
    [0.583, 0.583, 0.563, 0.625],
    [0.775, 0.838, 0.866, 0.875],
    [1.000, 1.000, 1.000, 1.000],
    [0.940, 0.962, 0.965, 0.962],
    [0.619, 0.666, 0.614, 0.669],
    [0.972, 0.981, 0.975, 0.9749],  # Printed alike, .975, and ranked second and third.
    [0.957, 0.978, 0.946, 0.970],
]
"""AUC of C4.5, C4.5+m, C4.5+cf and C4.5+m+cf on 14 data sets (Demsar, JMLR 2006, table 6)."""


@pytest.mark.parametrize(("rows", "q"), [(2, 1.960), (3, 2.343), (4, 2.569), (5, 2.728), (8, 3.031), (10, 3.164)])
def test_quantiles_are_those_of_the_published_table(rows: int, q: float) -> None:
    """Demsar 2006, table 5a."""
    scale = np.sqrt(rows * (rows + 1) / (6 * 10))
    assert across.critical_difference(rows, 10) / scale == pytest.approx(q, abs=1e-3)


def test_the_published_example_comes_out() -> None:
    """Demsar 2006, sections 3.2.1 and 3.2.2: mean ranks, F = 3.69 with 3 and 39 degrees of freedom, critical
    differences 1.25 and 1.12."""
    ranks = across.mean_ranks(pd.DataFrame(C45).T, "higher")
    assert ranks.tolist() == pytest.approx([3.143, 2.000, 2.893, 1.964], abs=5e-4)
    assert across.friedman(ranks, 14) == pytest.approx(stats.f.sf(3.69, 3, 39), abs=2e-4)
    assert across.critical_difference(4, 14) == pytest.approx(1.25, abs=0.005)
    assert across.critical_difference(4, 14, 0.1) == pytest.approx(1.12, abs=0.005)
    # At the level .1 the two variants that tune their parameter m are better than plain C4.5, and no more is said.
    assert across.cliques(sorted(ranks), 1.12) == [(0, 2), (2, 3)]


def test_ranks_are_those_of_friedman_in_scipy() -> None:
    values = pd.DataFrame(np.random.default_rng(0).normal(size=(5, 12)))
    ranks = across.mean_ranks(values, "higher")
    assert ranks.sum() == pytest.approx(15)
    chi = stats.friedmanchisquare(*values.to_numpy()).statistic
    expected = stats.f.sf((11 * chi) / (12 * 4 - chi), 4, 44)
    assert across.friedman(ranks, 12) == pytest.approx(expected)
    assert across.mean_ranks(-values, "lower").tolist() == ranks.tolist()


def test_interquartile_means_are_trimmed_means() -> None:
    values = np.random.default_rng(0).normal(size=(6, 5))
    assert across.interquartile_mean(values) == pytest.approx(stats.trim_mean(values, 0.25, axis=None))


def test_the_interval_draws_within_each_data_set() -> None:
    """Data sets whose seeds agree have no spread, however far apart they are; else it is about that of the mean."""
    assert across.interquartile_interval([[0.1] * 3, [0.9] * 3]) == pytest.approx((0.5, 0.5))
    values = np.random.default_rng(0).normal(size=(1, 400))
    low, high = across.interquartile_interval(values.tolist())
    assert low < across.interquartile_mean(values) < high
    # The variance of a trimmed mean that cuts 25 % at each end is about 1.19 / n for normal values.
    assert high - low == pytest.approx(2 * 1.96 * np.sqrt(1.19 / 400), rel=0.15)


def test_a_data_set_without_a_row_does_not_count() -> None:
    scores = pd.DataFrame(
        [(row, dataset, 0, 0.5) for row in "ab" for dataset in ("x", "y") if (row, dataset) != ("b", "y")],
        columns=["row", "dataset", "seed", "value"],
    )
    assert list(across.complete_means(scores).columns) == ["x"]
