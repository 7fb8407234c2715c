"""How many seeds a difference needs: against published numbers, and against simulated tables."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest

from reports.statistics import inference


@pytest.mark.parametrize(("effect", "pairs"), [(0.2, 199), (0.5, 34), (0.8, 15)])
def test_two_rows_need_the_pairs_of_the_tables(effect: float, pairs: int) -> None:
    """Of a paired t test at the level .05 with power .80, as G*Power gives them (Faul et al. 2007)."""
    assert inference.seeds_needed(effect, 1.0, 2) == pairs


def test_the_power_is_that_of_the_published_example() -> None:
    """The manual of G*Power, after Cohen (1969, p. 48): 50 pairs that correlate by .55, means apart by .4."""
    assert inference.power(0.4, math.sqrt(2 * (1 - 0.55)), 50, 2) == pytest.approx(0.832114, abs=1e-6)


@pytest.mark.parametrize(("rows", "seeds", "effect"), [(2, 5, 1.5), (2, 9, 1.0), (5, 8, 2.0)])
def test_simulated_differences_are_supported_as_often(rows: int, seeds: int, effect: float) -> None:
    draws = np.random.default_rng(0).normal(effect, 1, size=(20_000, seeds))
    supported = inference.p_values(draws) * math.comb(rows, 2) <= inference.LEVEL
    assert supported.mean() == pytest.approx(inference.power(effect, 1.0, seeds, rows), abs=0.01)


def test_simulated_tables_tell_their_two_best_rows_apart() -> None:
    """Seeds shift all rows alike, so only differences count. The two best rows are told apart in four of five tables,
    or somewhat more often, since the other rows are far below them."""
    std, difference, generator = 0.01, 0.02, np.random.default_rng(0)
    needed = inference.seeds_needed(difference, std, 4)
    assert needed is not None
    assert needed < inference.FEW
    apart = 0
    for _ in range(1000):
        values = np.array([[0.9], [0.9 - difference], [0.5], [0.4]]) + generator.normal(0, 0.1, needed)
        values = values + generator.normal(0, std / math.sqrt(2), size=(4, needed))
        best = inference.contest(values.tolist(), "higher").best
        apart += best[0] and not best[1]
    assert 0.78 <= apart / 1000 <= 0.95


def test_the_spread_is_that_of_paired_differences() -> None:
    generator = np.random.default_rng(0)
    seeds, noise = generator.normal(0, 1, 500), generator.normal(0, 0.1, (3, 500))
    found = inference.paired_std(pd.DataFrame(seeds + noise))
    assert found is not None
    assert found[0] == pytest.approx(0.1 * math.sqrt(2), rel=0.05)
    assert found[1:] == (3, 500)
    assert inference.paired_std(pd.DataFrame([[0.1, np.nan], [np.nan, 0.2]])) is None
    assert inference.paired_std(pd.DataFrame([[0.1, 0.2]])) is None


def test_the_smallest_difference_is_that_of_the_power() -> None:
    resolved = inference.difference_resolved(0.01, 5, 9)
    assert inference.power(resolved, 0.01, 5, 9) == pytest.approx(inference.POWER, abs=1e-6)
    assert inference.seeds_needed(resolved * 1.0001, 0.01, 9) == 5
    assert inference.difference_resolved(0.01, 1, 9) == math.inf
    assert inference.seeds_needed(1e-6, 1.0, 2) is None
    assert inference.seeds_needed(0.1, 0.0, 2) == 2
