"""Ranks and interquartile means of a table over data sets: their numbers, and what is drawn."""

from __future__ import annotations

from pathlib import Path

import matplotlib.style
import pandas as pd
import pytest

from reports.figures import canvas, of_tables
from reports.tables import place_runs
from reports.tables.spec import TableSpec

METHODS = {"swav": 0.5, "vicreg": 0.6, "cplearn": 0.9, "raw": 0.4}
DATASETS = ("digits", "svhn", "cifar10", "cifar100")
SPEC = TableSpec(
    table="own",
    title="Own",
    rows=[{"heading": "Method", "cases": {name: {"method.name": name} for name in METHODS}}],
    columns=[{"key": "dataset"}, {"key": "metric"}],
    metrics=["probe/accuracy", "codes/nmi"],
    baselines=["raw"],
)


def trials(leave_out: tuple[str, str] = ("", "")) -> pd.DataFrame:
    """Two seeds of each method on each data set; the order of the two worse methods turns on the last."""
    rows = []
    for method, accuracy in METHODS.items():
        for place, dataset in enumerate(DATASETS):
            for seed in (0, 1):
                value = accuracy + 0.01 * seed + (0.2 if (method, dataset) == ("swav", "cifar100") else 0)
                key = f"{method}-{dataset}-{seed}"
                run = {"key": key, "run_id": key, "status": "FINISHED", "seed": seed, "dataset": dataset, "error": None}
                run |= {"role": "trial", "label": method, "fingerprint": str(place), "params.method.name": method}
                if (method, dataset) != leave_out:
                    rows.append(run | {"probe/accuracy": value, "codes/nmi": value})
    return pd.DataFrame(rows)


def test_ranks_are_over_data_sets_without_baselines_and_unranked_metrics() -> None:
    numbers = of_tables.rank_numbers(place_runs(trials(), SPEC).scores())
    assert set(numbers["metric"]) == {"probe/accuracy"}
    assert dict(zip(numbers["row"], numbers["mean_rank"], strict=True)) == {"cplearn": 1, "vicreg": 2.25, "swav": 2.75}
    assert set(numbers["n"]) == {4}
    assert numbers["critical_difference"].iloc[0] == pytest.approx(2.343 * (12 / 24) ** 0.5, abs=1e-3)
    # 1.75 from the first to the last is more than the critical difference of 1.66.
    assert numbers["joined"].tolist() == ["1", "1 2", "2"]


def test_means_are_those_of_the_middle_half() -> None:
    numbers = of_tables.mean_numbers(place_runs(trials(), SPEC).scores()).set_index("row")
    assert numbers["values"].tolist() == [8, 8, 8]
    assert numbers["iqm"]["cplearn"] == pytest.approx(0.905)
    assert numbers["low"]["cplearn"] == pytest.approx(0.9)
    assert numbers["high"]["cplearn"] == pytest.approx(0.91)


def test_a_data_set_that_a_row_lacks_is_left_out() -> None:
    numbers = of_tables.rank_numbers(place_runs(trials(("swav", "svhn")), SPEC).scores())
    assert set(numbers["datasets"]) == {"digits cifar10 cifar100"}
    few = trials()
    grid = place_runs(few[few["dataset"].isin(DATASETS[:2])], SPEC)
    assert not list(of_tables.plots(grid.table(), grid))


def test_both_figures_are_drawn(tmp_path: Path) -> None:
    grid = place_runs(trials(), SPEC)
    plots = list(of_tables.plots(grid.table(), grid))
    assert [plot.name for plot in plots] == ["ranks", "interquartile-means"]
    with matplotlib.style.context(canvas.STYLE):
        (axes,) = plots[0].draw().axes
    assert [label.get_text() for label in axes.get_yticklabels()] == ["cplearn", "vicreg", "swav"]
    assert axes.yaxis_inverted()
    for plot in plots:
        assert all(path.stat().st_size > 100 for path in plot.write(tmp_path))
