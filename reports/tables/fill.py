"""From the runs behind a table's cells to its numbers, marks and statistics."""

import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from reports import spelling
from reports.metrics import Metric
from reports.statistics import grids, inference
from reports.statistics.inference import Contest
from reports.tables.model import (
    FINISHED,
    STATES,
    STOPPED,
    UNDEFINED,
    Candidate,
    Cell,
    Choice,
    Source,
    Table,
    Trial,
    Values,
)
from reports.tables.spec import Selection
from sweeps.record import VALIDATION


def fill(table: Table, values: Values, of_cell: Callable[[Cell], Mapping[int, float]]) -> Table:
    """The table with the numbers, marks and statistics that follow from the values by seed of each cell.

    Only finished runs count. A value that is not finite is left out and so lowers `n`; it never enters a mean unseen.
    """
    cells = [cell for row in table.all_rows for cell in row.cells]
    by_seed = [of_cell(cell) for cell in cells]
    best, contests = _contests(table, cells, by_seed)
    as_stood = [finite_values(cell.sources, cell.metric, values, STOPPED) for cell in cells]
    outcomes = zip(by_seed, as_stood, best, strict=True)
    rows = []
    for row in table.all_rows:
        finished = sum(source.status == FINISHED for source in row.sources)
        # Fewer seeds than the column has are said once at the head if that holds for the row, else in cells.
        filled = tuple(
            _print(cell, *next(outcomes), table.metrics.get(cell.metric), finished if row.sources else cell.expected)
            for cell in row.cells
        )
        expected = max(cell.expected for cell in row.cells)
        rows.append(dataclasses.replace(row, cells=filled, n=finished if 0 < finished < expected else None))
    first, sentences = len(table.baselines), tuple(_sentences(contests, any(best)))
    return dataclasses.replace(table, baselines=tuple(rows[:first]), rows=tuple(rows[first:]), statistics=sentences)


def choose(trials: Sequence[Trial], select: Selection, where: str, values: Values) -> Choice | None:
    """The choice among the trials of a cell: the best mean of the criterion over seeds, of equal ones the first, the
    others being `tied`. None where all trials have the same value of the settings that are to be chosen.

    Only candidates over the largest number of seeds compete: a mean over fewer seeds is not comparable.
    """
    over = [key for key in select.over if len({trial.spelled(key) for trial in trials}) > 1]
    if not over:
        return None
    groups: dict[str, list[Trial]] = {}
    for trial in sorted(trials, key=lambda trial: trial.source.seed):
        groups.setdefault(", ".join(map(trial.spelled, over)), []).append(trial)
    barred = ""
    if select.by.startswith(VALIDATION) and any(t.settings.get("method.name") == "supervised" for t in trials):
        barred = "since a supervised backbone was trained on the labels of the validation split"

    candidates: list[Candidate] = []
    competing: dict[int, dict[str, float]] = {}  # By the number of seeds.
    for text in sorted(groups, key=lambda text: [rank(groups[text][0].settings.get(key)) for key in over]):
        sources = tuple(trial.source for trial in groups[text])
        scores = list(finite_values(sources, select.by, values).values())
        candidates.append(Candidate(text, sources, float(np.mean(scores)) if scores else None))
        if scores and not barred:
            competing.setdefault(len(scores), {})[text] = grids.worth(float(np.mean(scores)), select.better)
    full = competing[max(competing)] if competing else {}
    # Equal values added up in another order differ in their last digits.
    winners = [
        text for text, score in full.items() if math.isclose(score, max(full.values()), rel_tol=1e-12, abs_tol=1e-15)
    ]
    chosen, tied = winners[0] if winners else None, tuple(winners[1:])
    return Choice(where, ", ".join(over), select.by, select.better, tuple(candidates), chosen, barred, tied)


def rank(value: Any) -> tuple[bool, Any]:
    """Orders the values of a setting: numbers by size, then words."""
    is_number = isinstance(value, int | float)
    return not is_number, value if is_number else str(value)


def finite_values(sources: Sequence[Source], metric: str, values: Values, status: str = FINISHED) -> dict[int, float]:
    """The finite values of a metric by seed, of finished runs only, or of those with another status."""
    runs = {source.seed: values.get(source.run_id or "", {}) for source in sources if source.status == status}
    return {seed: run[metric] for seed, run in runs.items() if math.isfinite(run.get(metric, math.nan))}


def _contests(
    table: Table, cells: Sequence[Cell], by_seed: Sequence[Mapping[int, float]]
) -> tuple[list[bool], list[Contest]]:
    """Which cells are best, and each contest. Its seeds are those of its largest cell; a cell that lacks one of them
    does not compete, since a mean over other seeds is not comparable."""
    best = [False] * len(cells)
    entered: dict[str, list[int]] = {}
    for place, cell in enumerate(cells):
        if cell.contest is not None:
            entered.setdefault(cell.contest, []).append(place)
    outcomes = []
    for places in entered.values():
        better = table.metrics[cells[places[0]].metric].better
        rows = [by_seed[place] for place in places]
        largest = max(rows, key=len)
        seeds = sorted(largest)
        if better is None or not seeds:
            continue
        values = [[row[seed] for seed in seeds] if row.keys() >= set(seeds) else None for row in rows]
        outcomes.append(inference.contest(values, better))
        for place, is_best in zip(places, outcomes[-1].best, strict=True):
            best[place] = is_best
    return best, outcomes


def _print(
    cell: Cell,
    finite: Mapping[int, float],
    as_stood: Mapping[int, float],
    bold: bool,
    metric: Metric | None,
    usual: int,
) -> Cell:
    """The cell as printed; `as_stood` are the values of trials that were stopped, `usual` is the number of seeds that
    goes without saying."""
    if metric is None:  # Nothing could stand here.
        return dataclasses.replace(cell, empty=True)
    number = inference.summarise(list(finite.values()))
    reached = inference.summarise(list(as_stood.values()))
    if number is None and reached is not None and not cell.mean:
        return dataclasses.replace(cell, mean=f"({spelling.number(reached.mean, metric)})", empty=True, collapsed=True)
    if number is None:
        statuses = {source.status for source in cell.sources}
        word = next((word for status, word in STATES.items() if status in statuses), STATES["MISSING"])
        return dataclasses.replace(cell, mean=cell.mean or (UNDEFINED if FINISHED in statuses else word), empty=True)
    difference = None
    if cell.published is not None and cell.comparable:
        difference = spelling.number(number.mean - cell.published, metric, "+")
    return dataclasses.replace(
        cell,
        mean=spelling.number(number.mean, metric),
        std=spelling.number(number.std, metric) if metric.spread and number.std is not None else None,
        n=number.n if number.n < usual else None,
        bold=bold,
        number=number,
        difference=difference,
    )


def _sentences(contests: Sequence[Contest], any_best: bool) -> Iterator[str]:
    tested = [contest for contest in contests if contest.rows > 1 and contest.seeds > 1]
    if not tested:
        if any(contest.rows > 1 for contest in contests):
            yield "One seed supports no difference between rows, so nothing is bold."
        return
    methods = {"t": "Student's t", "bootstrap-t": "bootstrap-t"}
    used = " or ".join(methods[name] for name in sorted({str(contest.method) for contest in tested}, reverse=True))
    test = f"paired by seed, {used} test, Holm's correction over all pairs of rows, level {inference.LEVEL}"
    bold = "Bold: the best of a column, and whatever cannot be told from it"
    yield f"{bold if any_best else 'Nothing is bold, since no difference to the best is supported'} ({test})."
    largest = max(tested, key=lambda contest: (contest.rows, -contest.seeds))
    if largest.method == "t":
        least = inference.least_supported(largest.rows, largest.seeds)
        yield (
            f"With {largest.seeds} seeds and {largest.rows} rows, a difference must exceed {least:.1f} standard "
            "deviations of the paired differences to be supported."
        )
