"""Statistics over seeds, checked on matrices that can be done by hand."""

from __future__ import annotations

import math

import pandas as pd
import pytest

from reports.statistics.inference import by_row

NAN, INF = math.nan, math.inf


def frame(accuracy: list[float], status: list[str]) -> pd.DataFrame:
    """Two table rows, two seeds each."""
    return pd.DataFrame({"row": [0, 0, 1, 1], "status": status, "accuracy": accuracy, "codes": [1, 3, 10, 30]})


def test_four_runs_make_two_means() -> None:
    values = by_row(frame([0.5, 0.7, 0.2, 0.2], ["FINISHED"] * 4), ["accuracy", "codes"])
    assert values.mean().to_numpy().tolist() == [[pytest.approx(0.6), 2], [pytest.approx(0.2), 20]]
    # Sample standard deviation of (a, b) is |a - b| / sqrt(2).
    assert values.std().to_numpy().tolist() == [
        [pytest.approx(0.2 / math.sqrt(2)), pytest.approx(math.sqrt(2))],
        [0, pytest.approx(20 / math.sqrt(2))],
    ]
    assert values.count().to_numpy().tolist() == [[2, 2], [2, 2]]


@pytest.mark.parametrize("lost", ["FAILED", "KILLED", "RUNNING", "MISSING"])
def test_only_finished_runs_count(lost: str) -> None:
    values = by_row(frame([0.5, 0.7, 0.2, 0.4], ["FINISHED", lost, lost, lost]), ["accuracy"])
    assert values.count()["accuracy"].tolist() == [1, 0]
    assert values.mean()["accuracy"].tolist() == [0.5, pytest.approx(NAN, nan_ok=True)]
    assert values.std()["accuracy"].isna().all()


@pytest.mark.parametrize("value", [NAN, INF, -INF])
def test_a_value_that_is_not_finite_lowers_the_count(value: float) -> None:
    values = by_row(frame([0.5, value, value, value], ["FINISHED"] * 4), ["accuracy", "codes"])
    assert values.count().to_numpy().tolist() == [[1, 2], [0, 2]]
    assert values.mean()["accuracy"][0] == 0.5
    assert math.isnan(values.mean()["accuracy"][1])


def test_a_metric_that_was_never_logged_has_no_values() -> None:
    values = by_row(frame([0.5] * 4, ["FINISHED"] * 4), ["codes/ami"])
    assert values.count()["codes/ami"].tolist() == [0, 0]
    assert values.mean()["codes/ami"].isna().all()
