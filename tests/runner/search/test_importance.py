"""Which setting matters, on functions whose answer is known."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest

from frames import result
from reports.figures import importance
from runner.search.importance import importances

GRID = [
    {"method.beta": beta, "optimizer.lr": lr, "augment.recipe": recipe, "warm": warm}
    for beta, lr, recipe, warm in itertools.product((0.01, 0.1, 1, 10), (0.1, 0.2), ("paper", "none"), (True, None))
]


def test_the_setting_that_the_values_follow_matters() -> None:
    found = importances(GRID, [float(point["method.beta"]) ** 0.5 for point in GRID])
    assert next(iter(found)) == "method.beta"
    assert found["method.beta"] > 0.95
    assert sum(found.values()) == pytest.approx(1)
    assert found.keys() == GRID[0].keys()


def test_effects_that_add_up_share_the_variance() -> None:
    """Two settings of two values each, one with twice the effect of the other: their variances are 4 to 1."""
    values = [2.0 * (point["augment.recipe"] == "none") + (point["optimizer.lr"] == 0.2) for point in GRID]
    found = importances(GRID, values)
    assert found["augment.recipe"] == pytest.approx(0.8, abs=0.05)
    assert found["optimizer.lr"] == pytest.approx(0.2, abs=0.05)
    assert found == importances(GRID, values), "equal trials give equal numbers"


def test_a_sweep_with_two_settings_has_the_figure(tmp_path: Path) -> None:
    axes = {"method.beta": [0.1, 1, 10], "method.codes": [16, 32, 64]}
    points = [dict(zip(axes, values, strict=True)) for values in itertools.product(*axes.values())]
    trials = [{**point, "probe/accuracy": point["method.codes"] / 100} for point in points]
    trials += [{"label": "raw pixels", "probe/accuracy": 0.1}, {**points[0], "status": "FAILED"}]
    (plot,) = importance.plots(result(axes, trials), importances)
    assert plot.numbers["metric"].unique().tolist() == ["probe/accuracy"]
    assert plot.numbers["setting"].tolist() == ["method.codes", "method.beta"]
    assert plot.numbers["trials"].tolist() == [9, 9]
    assert plot.numbers["importance"].iloc[0] > 0.9
    assert all(path.stat().st_size > 100 for path in plot.write(tmp_path))
    assert not list(importance.plots(result({"method.beta": [0.1, 1, 10]}, trials[:3]), importances))
