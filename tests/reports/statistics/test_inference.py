"""Statistics over few seeds, checked on numbers that can be done by hand and by simulation."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from reports.statistics import inference as statistics
from reports.statistics.inference import contest, holm, p_values, summarise


def test_four_values_make_two_numbers() -> None:
    both = [number for values in ([0.5, 0.7], [0.2, 0.2]) if (number := summarise(values))]
    # The standard deviation of (a, b) is |a - b| / √2, and the 97.5 % point of Student's t with one degree is 12.706.
    assert (both[0].mean, both[0].std, both[0].n, both[0].method) == (
        pytest.approx(0.6),
        pytest.approx(0.2 / math.sqrt(2)),
        2,
        "t",
    )
    assert (both[0].low, both[0].high) == (pytest.approx(0.6 - 1.2706, abs=1e-4), pytest.approx(0.6 + 1.2706, abs=1e-4))
    assert (both[1].std, both[1].low, both[1].high) == (0, 0.2, 0.2)


def test_one_value_has_neither_spread_nor_interval() -> None:
    assert summarise([]) is None
    assert summarise([0.5]) == statistics.Number(0.5, None, 1, None, None, None)


@pytest.mark.parametrize(("n", "method"), [(3, "t"), (9, "t"), (10, "bootstrap-t"), (20, "bootstrap-t")])
def test_an_interval_covers_the_mean_as_often_as_it_says(n: int, method: str) -> None:
    values = np.random.default_rng(0).normal(size=(400, n))
    numbers = [number for row in values if (number := summarise(row.tolist()))]
    assert {number.method for number in numbers} == {method}
    covered = np.mean([number.low <= 0 <= number.high for number in numbers])  # type: ignore[operator]
    # 0.95 within three standard errors; the percentile bootstrap covers 0.74 at n = 3 and 0.90 at n = 10.
    assert covered == pytest.approx(0.95, abs=3 * math.sqrt(0.95 * 0.05 / 400))


@pytest.mark.parametrize("bootstrap", [False, True])
def test_the_paired_test_is_that_of_the_library(bootstrap: bool) -> None:
    first, second = np.random.default_rng(1).normal([[0.0], [0.5]], 1, size=(2, 25))
    expected = stats.ttest_rel(first, second).pvalue
    (p,) = p_values((first - second)[None], bootstrap)
    assert p == pytest.approx(expected, rel=0.3 if bootstrap else 1e-12)


@pytest.mark.parametrize(
    ("differences", "expected"),
    [([0.1, 0.1, 0.1], 0.25), ([-0.1] * 5, 0.0625), ([0.0, 0.0, 0.0], 1), ([0.1, -0.1], 1)],
)
def test_equal_differences_are_judged_by_their_signs(differences: list[float], expected: float) -> None:
    assert p_values(np.array([differences]))[0] == pytest.approx(expected)


def test_holm_by_hand() -> None:
    p = np.array([0.03, 0.01, 0.04])
    assert holm(p, 3).tolist() == pytest.approx([0.06, 0.03, 0.06])
    assert holm(p, 6).tolist() == pytest.approx([0.15, 0.06, 0.16])
    assert holm(np.array([0.5]), 9).tolist() == [1]


CLEAR = [[0.90, 0.91, 0.92], [0.50, 0.511, 0.519], [0.10, 0.109, 0.121]]


def test_a_clear_winner_is_best_alone_and_the_direction_counts() -> None:
    assert contest(CLEAR, "higher").best == (True, False, False)
    assert contest(CLEAR, "lower").best == (False, False, True)


def test_rows_that_cannot_be_told_apart_are_best_together() -> None:
    close = [[0.90, 0.91, 0.92], [0.91, 0.90, 0.915], [0.10, 0.109, 0.121]]
    assert contest(close, "higher").best == (True, True, False)


def test_pairing_finds_what_the_spread_over_seeds_hides() -> None:
    seeds = np.random.default_rng(2).normal(0.5, 0.1, size=5)
    noise = np.random.default_rng(3).normal(0, 0.001, size=5)
    rows = [(seeds + 0.02 + noise).tolist(), seeds.tolist()]
    assert stats.ttest_ind(*rows).pvalue > 0.5
    assert contest(rows, "higher").best == (True, False)


@pytest.mark.parametrize(
    "rows",
    [[], [[0.9, 0.8]], [[0.9], [0.1]], [[0.9, 0.9], None], [[0.5, 0.6], [0.6, 0.5]], [[0.5, 0.5], [0.5, 0.5]]],
    ids=["none", "one row", "one seed", "no rival", "a tie", "equal"],
)
def test_without_a_supported_difference_there_is_no_best(rows: list[list[float] | None]) -> None:
    assert not any(contest(rows, "higher").best)


def test_who_does_not_compete_is_not_best() -> None:
    assert contest([None, *CLEAR], "higher").best == (False, True, False, False)


@pytest.mark.parametrize(("rows", "seeds"), [(5, 3), (9, 3), (9, 5), (5, 12), (9, 10)])
def test_equal_rows_are_told_apart_in_at_most_five_per_cent(rows: int, seeds: int) -> None:
    generator = np.random.default_rng(0)
    tries = 300
    wrong = sum(any(contest(generator.normal(size=(rows, seeds)).tolist(), "higher").best) for _ in range(tries))
    assert wrong / tries <= 0.05 + 2 * math.sqrt(0.05 * 0.95 / tries)


def test_what_could_be_supported_at_all() -> None:
    # Of two rows over two seeds: 12.706 standard errors of the mean, which is the deviation over √2.
    assert statistics.least_supported(2, 2) == pytest.approx(12.706 / math.sqrt(2), rel=1e-4)
    assert statistics.least_supported(5, 3) == pytest.approx(8.14, abs=0.02)


def test_many_rows_over_many_seeds_still_have_a_best() -> None:
    values = np.random.default_rng(4).normal(0, 0.01, size=(60, 10))
    values[7] += 1
    outcome = contest(values.tolist(), "higher")
    assert [place for place, best in enumerate(outcome.best) if best] == [7]
    assert outcome.method == "t", "pairs too many for the resamples"


@pytest.mark.parametrize("n", [3, 12])
def test_equal_values_have_an_interval_of_one_point(n: int) -> None:
    """Though their mean differs from them in its last digits."""
    number = summarise([0.1 + 0.2 + 1 / 3] * n)
    assert number is not None
    assert (number.std, number.low, number.high) == (0, number.mean, number.mean)
