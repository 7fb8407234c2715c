"""Tables for sweeps of every shape, from results that are written out here."""

from __future__ import annotations

import math
from typing import Any

import pytest

from frames import FULL, grid, result
from reports import tables
from reports.render import files, latex
from reports.tables.model import Cell


def printed(cell: Cell) -> tuple[str, str | None, int | None]:
    return cell.mean, cell.std, cell.n


def test_rows_stand_in_the_order_of_the_axes() -> None:
    axes = {"method.beta": [10, 0.1], "augment.recipe": ["b", "a"]}
    table = tables.table_of_sweep(result(axes, [{"label": "raw pixels", **FULL}, *reversed(grid(axes))]))
    assert table.headings == ("β", "recipe")
    assert [row.head for row in table.baselines] == [("raw pixels",)]
    assert [row.head for row in table.rows] == [("10", "b"), ("10", "a"), ("0.1", "b"), ("0.1", "a")]
    assert table.rows[0].label == "β = 10, recipe = b"


def test_a_sweep_without_axes_has_one_named_row() -> None:
    table = tables.table_of_sweep(result({}, [{"probe/accuracy": 0.9, "seed": seed} for seed in (0, 1)], seeds=2))
    assert [(row.head, row.label) for row in table.rows] == [(("point",), "point")]
    assert [printed(cell) for cell in table.rows[0].cells] == [("0.900", "0.000", None)]
    assert r"\multicolumn{1}{@{}l}{point} & 0.900 & {\tiny$\pm$.000}" in latex.to_latex(table)


def test_only_columns_with_a_value_are_there() -> None:
    axes = {"method.beta": [1, 2]}
    table = tables.table_of_sweep(result(axes, grid(axes, **{"probe/accuracy": 0.5})))
    assert [column.name for column in table.columns] == ["probe/accuracy"]
    assert not any("NMI" in sentence for sentence in table.caption)


@pytest.mark.parametrize(
    ("statuses", "shown", "n", "note"),
    [
        (["FINISHED", "FAILED"], "0.900", 1, "β = 1: seed 1 failed (Error: no)."),
        (["FAILED", "FAILED"], "failed", None, "β = 1: seeds 0, 1 failed (Error: no)."),
        (["KILLED", "MISSING"], "stopped", None, "β = 1: seed 0 stopped."),
        (["RUNNING", "MISSING"], "running", None, "β = 1: seed 1 missing."),
        (["MISSING", "MISSING"], "missing", None, "β = 1: seeds 0, 1 missing."),
    ],
)
def test_what_is_missing_is_marked(statuses: list[str], shown: str, n: int | None, note: str) -> None:
    trials = [
        {"method.beta": beta, "seed": seed, "status": status, "probe/accuracy": 0.9}
        | ({"error": "Traceback\n\nError: no.\n"} if status == "FAILED" else {})
        for beta, both in ((1, statuses), (2, ["FINISHED"] * 2))
        for seed, status in enumerate(both)
    ]
    table = tables.table_of_sweep(result({"method.beta": [1, 2]}, trials, seeds=2))
    row = table.rows[0]
    assert (row.cells[0].mean, row.cells[0].std, row.n) == (shown, None, n)
    assert note in table.notes
    assert row.cells[0].empty == (n is None)
    printed_table = latex.to_latex(table)
    assert shown in printed_table
    assert ("($n{=}1$)" in printed_table) == (n == 1)


def test_what_was_stopped_on_a_collapse_is_shown_as_it_stood_and_is_no_result() -> None:
    reason = "stopped on collapse after epoch 4 of 20: cluster collapse (few) at 3 measured epochs in a row"
    stopped = {"status": "KILLED", "tags.collapse": "cluster", "error": reason}
    trials = [
        *({"method.beta": 1, "seed": seed, "probe/accuracy": 0.8} for seed in (0, 1)),
        # Better than all others, by chance.
        *({"method.beta": 2, "seed": seed, "probe/accuracy": 0.95, **stopped} for seed in (0, 1)),
        {"method.beta": 3, "seed": 0, "probe/accuracy": 0.7},
        {"method.beta": 3, "seed": 1, "probe/accuracy": 0.99, **stopped},
        # Stopped by another rule, which measures nothing: what it has logged is of an earlier call.
        *({"method.beta": 4, "seed": seed, "probe/accuracy": 0.9, "status": "KILLED"} for seed in (0, 1)),
    ]
    table = tables.table_of_sweep(result({"method.beta": [1, 2, 3, 4]}, trials, seeds=2))
    cells = [row.cells[0] for row in table.rows]
    assert [printed(cell) for cell in cells] == [
        ("0.800", "0.000", None),
        ("(0.950)", None, None),
        ("0.700", None, None),
        ("stopped", None, None),
    ]
    assert [cell.empty for cell in cells] == [False, True, False, True]
    assert not cells[1].bold
    assert not any("0.95" in sentence for sentence in table.statistics)
    assert f"β = 2: seeds 0, 1 stopped ({reason})." in table.notes
    assert f"β = 3: seed 1 stopped ({reason})." in table.notes
    assert any(note.startswith("In parentheses: trials that were stopped on a collapse") for note in table.notes)
    for text in (latex.to_latex(table), files.to_markdown(table)):
        assert "(0.950)" in text


def test_equal_gaps_share_a_note() -> None:
    axes = {"method.beta": list(range(1, 21))}
    trials = [{**trial, "status": "FINISHED" if trial["method.beta"] < 3 else "MISSING"} for trial in grid(axes)]
    table = tables.table_of_sweep(result(axes, trials))
    assert table.notes == ("β = 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14 and 6 more rows: seed 0 missing.",)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_value_that_is_not_finite_is_said(value: float) -> None:
    trials = [{"method.beta": beta, "seed": seed, **FULL} for beta in (1, 2) for seed in (0, 1)]
    trials[1]["codes/ami"] = value
    table = tables.table_of_sweep(result({"method.beta": [1, 2]}, trials, seeds=2))
    cells = dict(zip((column.name for column in table.columns), table.rows[0].cells, strict=True))
    assert printed(cells["codes/ami"]) == ("0.700", None, 1)
    assert printed(cells["codes/nmi"]) == ("0.800", "0.000", None)
    assert "β = 1: seed 1 no finite AMI (codes)." in table.notes
    assert "0.700 (n=1)" in files.to_markdown(table)


def test_a_zero_has_no_sign() -> None:
    axes = {"method.beta": [1]}
    table = tables.table_of_sweep(result(axes, grid(axes, **{"codes/ami": -0.0001})))
    assert table.rows[0].cells[0].mean == "0.000"


def test_neither_baselines_nor_single_seeds_are_best() -> None:
    accuracy = {1: (0.5, 0.51, 0.52), 2: (0.4, 0.411, 0.419), 3: (0.9, 0.91, None)}
    trials: list[dict[str, Any]] = [{"label": "raw pixels", "seed": seed, "probe/accuracy": 1.0} for seed in range(3)]
    for beta, values in accuracy.items():
        for seed, value in enumerate(values):
            status = "MISSING" if value is None else "FINISHED"
            trials.append({"method.beta": beta, "seed": seed, "status": status, "probe/accuracy": value})
    table = tables.table_of_sweep(result({"method.beta": [1, 2, 3]}, trials, seeds=3))
    assert [row.cells[0].bold for row in table.all_rows] == [False, True, False, False]
    assert "Baselines and means over fewer than 3 seeds are not compared with the rest." in table.caption
    assert "| **0.510** ± 0.010 |" in files.to_markdown(table)
    (bold, least) = table.statistics
    assert bold.startswith(
        "Bold: the best of a column, and whatever cannot be told from it (paired by seed, Student's t test"
    )
    # Two rows over three seeds: 4.303, the 97.5 % point of t with two degrees, over √3.
    assert least.startswith("With 3 seeds and 2 rows, a difference must exceed 2.5 standard deviations")


def test_one_seed_supports_nothing() -> None:
    trials = [{"method.beta": beta, "probe/accuracy": accuracy} for beta, accuracy in ((1, 0.9), (2, 0.1))]
    table = tables.table_of_sweep(result({"method.beta": [1, 2]}, trials))
    assert not any(row.cells[0].bold for row in table.rows)
    assert table.statistics == ("One seed supports no difference between rows, so nothing is bold.",)


def test_commits_and_edits_are_named() -> None:
    axes = {"method.beta": [1, 2]}
    first, second = ({**trial, "tags.git_commit": commit} for trial, commit in zip(grid(axes), "ba", strict=True))
    trials = [{**first, "tags.git_edited": "true"}, {**second, "tags.git_edited": "false"}]
    assert "Code: commit a, b with uncommitted edits." in tables.table_of_sweep(result(axes, trials)).origin
