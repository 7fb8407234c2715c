"""Best points of a search, and their table."""

from __future__ import annotations

import math
from typing import Any

import pandas as pd
import pytest

from reports.statistics.inference import best_first
from reports.store import SweepResult
from reports.tables import table_of_sweep
from reports.tables.sweep import MOST_SUGGESTED


@pytest.mark.parametrize(
    ("values", "objectives", "order"),
    [
        ({"a": [1, 3, 2]}, {"a": "maximize"}, [1, 2, 0]),
        ({"a": [1, 3, 2]}, {"a": "minimize"}, [0, 2, 1]),
        ({"a": [1, math.nan, 2]}, {"a": "maximize"}, [2, 0, 1]),
        # 0 and 2 beat each other in one objective each; 1 is beaten by 2, and 3 by all.
        ({"a": [3, 1, 2, 0], "b": [1, 2, 3, 0]}, {"a": "maximize", "b": "maximize"}, [0, 2, 1, 3]),
        ({"a": [3, 1, 2, 0], "b": [1, 2, 3, 0]}, {"a": "maximize", "b": "minimize"}, [0, 3, 2, 1]),
        ({"a": [1, 2]}, {"a": "maximize", "absent": "maximize"}, [0, 1]),
    ],
)
def test_the_best_points_come_first(values: dict[str, Any], objectives: dict[str, str], order: list[int]) -> None:
    assert best_first(pd.DataFrame(values), objectives) == order


def result(objectives: dict[str, str], points: int) -> SweepResult:
    """A search of so many points, of which a higher x is better; the last one was stopped."""
    runs = [
        {
            "run_id": f"{x:032x}",
            "key": f"{x:016x}",
            "status": "FINISHED" if x < points - 1 else "KILLED",
            "sweep": "s",
            "started": "2026-01-01T00:00:00+00:00",
            "dataset": "digits",
            "fingerprint": "f",
            "role": "trial",
            "label": f"x={x}",
            "seed": 0,
            "method.x": x,
            "error": None if x < points - 1 else "stopped early by asha after epoch 3 of 9",
            "validation/accuracy": x / 100 if x < points - 1 else math.nan,
            "probe/accuracy": x / 200 if x < points - 1 else math.nan,
        }
        for x in range(points)
    ]
    frame = pd.DataFrame.from_records(runs)
    frame["method.x"] = frame["method.x"].astype(object)
    about = {"fingerprint": "f", "test_images": 10}
    search = {"objectives": objectives}
    return SweepResult("s", "", "digits", "digits", {"method.x": [*range(points)]}, [0], about, "p", frame, search)


def test_a_long_search_is_a_short_table_that_says_so() -> None:
    table = table_of_sweep(result({"validation/accuracy": "maximize"}, 30))
    assert [row.head[0] for row in table.rows] == [str(x) for x in range(28, 28 - MOST_SUGGESTED, -1)]
    assert [column.name for column in table.columns] == ["validation/accuracy", "probe/accuracy"]
    assert "The best 20 of 30 suggestions are shown; runs.csv has all." in table.notes
    assert "to maximize validation/accuracy, and stand best first by that" in " ".join(table.caption)
    assert "no model was selected" not in " ".join(table.caption)


def test_what_was_stopped_early_is_no_result_and_comes_last() -> None:
    table = table_of_sweep(result({"validation/accuracy": "minimize"}, 5))
    assert [row.head[0] for row in table.rows] == ["0", "1", "2", "3", "4"]
    assert {cell.mean for cell in table.rows[-1].cells} == {"stopped"}
    assert any("stopped early by asha after epoch 3 of 9" in note for note in table.notes)


def test_a_search_by_the_test_split_is_called_so() -> None:
    caption = " ".join(table_of_sweep(result({"probe/accuracy": "maximize"}, 5)).caption)
    assert "The search has seen the test split (probe/accuracy), so the best rows are too good" in caption
