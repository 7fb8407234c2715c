"""Grids of four settings whose numbers can be checked by hand."""

from __future__ import annotations

import math

import pandas as pd
import pytest
from scipy.stats import spearmanr

from reports.statistics import grids

SETTINGS = pd.DataFrame(
    {
        "probe/accuracy": [0.5, 0.9, 0.8, 0.7],
        "codes/ami": [0.1, 0.2, 0.4, 0.3],
        "select/rankme": [40.0, 30.0, 20.0, 10.0],
        "select/alpha_req": [3.0, 1.2, 0.9, 2.0],
        "train/loss": [4.0, 1.0, 1.0, 3.0],
        "collapsed/any": [1.0, 0.0, 0.0, 1.0],
        "collapsed/cluster": [1.0, 0.0, 0.0, 0.0],
    }
)


@pytest.mark.parametrize(
    ("name", "better", "value"),
    [
        ("grid/settings", "higher", 4),
        ("grid/best", "higher", 0.9),
        ("grid/worst", "higher", 0.8),
        ("grid/mean", "higher", 0.85),
        ("grid/mean_all", "higher", 0.725),
        ("collapsed/any", "higher", 0.5),
        ("collapsed/cluster", "higher", 0.25),
        ("regret/select/rankme", "higher", 0.4),
        ("regret/select/alpha_req", "nearest 1", 0.1),
        ("regret/train/loss", "lower", 0.0),  # Of two equal losses the first.
        ("rank_accuracy/select/rankme", "higher", -0.2),
        ("rank_ami/select/rankme", "higher", -0.8),
        ("rank_accuracy/select/alpha_req", "nearest 1", 0.8),
    ],
)
def test_quantities_of_one_seed(name: str, better: str, value: float) -> None:
    assert grids.quantity(name, SETTINGS, better) == pytest.approx(value)


def test_ranks_are_those_of_scipy_where_values_are_equal() -> None:
    expected = spearmanr([-4, -1, -1, -3], SETTINGS["probe/accuracy"]).statistic
    assert grids.quantity("rank_accuracy/train/loss", SETTINGS, "lower") == pytest.approx(expected)


@pytest.mark.parametrize(
    ("name", "changed", "reason"),
    [
        ("grid/best", {"collapsed/any": 1.0}, "every setting has collapsed"),
        ("regret/select/rankme", {"select/rankme": math.nan}, "no run has select/rankme"),
        ("rank_accuracy/select/rankme", {"probe/accuracy": 0.9}, "all settings have the same linear accuracy"),
        ("rank_ami/select/rankme", {"select/rankme": 3.0}, "all settings have the same select/rankme"),
        ("rank_ami/select/rankme", {"codes/ami": [0.1, 0.2, math.nan, math.nan]}, "fewer than 3 settings have"),
    ],
)
def test_what_is_not_defined_says_why(name: str, changed: dict, reason: str) -> None:
    said = grids.quantity(name, SETTINGS.assign(**changed))
    assert isinstance(said, str)
    assert said.startswith(reason)


def test_a_setting_without_the_criterion_cannot_be_picked() -> None:
    partly = SETTINGS.assign(**{"select/rankme": [math.nan, 30.0, 20.0, 10.0]})
    assert grids.quantity("regret/select/rankme", partly) == 0


def test_runs_are_judged_by_the_rules_of_the_findings() -> None:
    well = {
        "status": "FINISHED",
        "kmeans/clusters": 10,
        "params.method.embedding_dim": "128",
        "params.method.codes": "64",
    }
    well |= {"collapse/embedding_std": 0.9, "collapse/effective_rank": 60, "collapse/codes_used": 40}
    few = {"collapse/codes_used": 3}
    runs = pd.DataFrame(
        [
            {**well, "run_id": "a", "dataset": "digits", "test_images": 360},
            {**well, "run_id": "b", "dataset": "digits", "test_images": 360, **few},
            {**well, "run_id": "c", "dataset": "digits", "test_images": 360, "collapse/effective_rank": 9},
            # Of five test images three different codes are most of what can be, and 9 of 128 dimensions too.
            {**well, "run_id": "d", "dataset": "tiny", "test_images": 5, **few, "collapse/effective_rank": 9},
            {**well, "run_id": "e", "dataset": "other", **few},
        ]
    )
    judged = grids.run_collapses(runs)
    kinds = {run: [kind.removeprefix("collapsed/") for kind in judged if judged[kind][run]] for run in "abcde"}
    assert kinds == {
        "a": [],
        "b": ["any", "cluster"],
        "c": ["any", "dimensional"],
        "d": [],
        "e": ["any", "cluster"],
    }
