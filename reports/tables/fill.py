"""From the runs behind a table's cells to its numbers, marks and statistics."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from reports import spelling
from reports.metrics import Metric
from reports.statistics import inference
from reports.statistics.inference import Contest, Number
from reports.tables.model import FINISHED, STATES, UNDEFINED, Cell, Choice, Row, Source, Table
from reports.tables.trials import Values


def fill(table: Table, values: Values) -> Table:
    """The table with the numbers, marks and statistics that follow from the runs behind its cells.

    Only finished runs count. A value that is not finite is left out and so lowers `n`; it never enters a mean unseen.
    """
    cells = [cell for row in table.all_rows for cell in row.cells]
    by_seed = [finite_values(cell.sources, cell.metric, values) for cell in cells]
    numbers = inference.summarise_each([list(finite.values()) for finite in by_seed])
    best, contests = _contests(table, cells, by_seed)
    filled = (
        _print(cell, number, bold, table.metrics.get(cell.metric))
        for cell, number, bold in zip(cells, numbers, best, strict=True)
    )
    rows = [_mark(row, tuple(itertools.islice(filled, len(row.cells)))) for row in table.all_rows]
    first = len(table.baselines)
    return dataclasses.replace(
        table,
        baselines=tuple(rows[:first]),
        rows=tuple(rows[first:]),
        statistics=tuple(_sentences(contests, any(best))),
        choices=tuple(choose(choice, values) for choice in table.choices),
    )


def choose(choice: Choice, values: Values) -> Choice:
    """The choice as its candidates' runs decide it: the best mean of the criterion over seeds, of equal ones the first,
    the others being `tied`.

    Only candidates over the largest number of seeds compete: a mean over fewer seeds is not comparable.
    """
    scored = []
    for candidate in choice.candidates:
        scores = list(finite_values(candidate.sources, choice.criterion, values).values())
        scored.append((len(scores), dataclasses.replace(candidate, score=float(np.mean(scores)) if scores else None)))
    most = max((count for count, _ in scored), default=0)
    rank = {"higher": lambda score: score, "lower": lambda score: -score, "nearest 1": lambda score: -abs(score - 1)}
    full = [
        (rank[choice.better](candidate.score), candidate.value)
        for count, candidate in scored
        if count == most and candidate.score is not None and not choice.barred
    ]
    best = max((worth for worth, _ in full), default=math.nan)
    # Equal values added up in another order differ in their last digits.
    winners = [value for worth, value in full if math.isclose(worth, best, rel_tol=1e-12, abs_tol=1e-15)]
    candidates, chosen = tuple(candidate for _, candidate in scored), winners[0] if winners else None
    return dataclasses.replace(choice, candidates=candidates, chosen=chosen, tied=tuple(winners[1:]))


def finite_values(sources: Sequence[Source], metric: str, values: Values) -> dict[int, float]:
    """The finite values of a metric by seed, of finished runs only."""
    by_seed = {}
    for source in sources:
        if source.status == FINISHED and source.run_id is not None:
            value = values.get(source.run_id, {}).get(metric, math.nan)
            if math.isfinite(value):
                by_seed[source.seed] = value
    return by_seed


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
        largest = max((by_seed[place] for place in places), key=lambda values: len(values))
        seeds = sorted(largest)
        if better is None or not seeds:
            continue
        rows = [by_seed[place] for place in places]
        outcome = inference.contest(
            [[row[seed] for seed in seeds] if row.keys() >= set(seeds) else None for row in rows], better
        )
        outcomes.append(outcome)
        for place, is_best in zip(places, outcome.best, strict=True):
            best[place] = is_best
    return best, outcomes


def _print(cell: Cell, number: Number | None, bold: bool, metric: Metric | None) -> Cell:
    """The cell as printed, but for the number of seeds."""
    if metric is None:  # Nothing could stand here.
        return dataclasses.replace(cell, empty=True)
    if number is None:
        statuses = {source.status for source in cell.sources}
        word = next((word for status, word in STATES.items() if status in statuses), STATES["MISSING"])
        mean = cell.mean or (UNDEFINED if FINISHED in statuses else word)
        return dataclasses.replace(cell, mean=mean, std=None, n=None, bold=False, empty=True, number=None)
    spread = spelling.number(number.std, metric) if metric.spread and number.std is not None else None
    difference = None
    if cell.published is not None and cell.comparable:
        difference = spelling.number(number.mean - cell.published, metric, "+")
    return dataclasses.replace(
        cell,
        mean=spelling.number(number.mean, metric),
        std=spread,
        bold=bold,
        empty=False,
        number=number,
        difference=difference,
    )


def _mark(row: Row, cells: tuple[Cell, ...]) -> Row:
    """Say where a number has fewer seeds than its column: once at the head if that holds for the row, else in cells."""
    shared = bool(row.sources)
    finished = sum(source.status == FINISHED for source in row.sources)
    marked = []
    for cell in cells:
        count = cell.number.n if cell.number else 0
        usual = finished if shared else cell.expected
        marked.append(dataclasses.replace(cell, n=count if 0 < count < usual else None))
    expected = max((cell.expected for cell in cells), default=0)
    return dataclasses.replace(row, cells=tuple(marked), n=finished if 0 < finished < expected else None)


def _sentences(contests: Sequence[Contest], any_best: bool) -> Iterator[str]:
    contests = [contest for contest in contests if contest.rows > 1]
    if not contests:
        return
    tested = [contest for contest in contests if contest.seeds > 1]
    if not tested:
        yield "One seed supports no difference between rows, so nothing is bold."
        return
    methods = {"t": "Student's t", "bootstrap-t": "bootstrap-t"}
    names = sorted({contest.method for contest in tested if contest.method}, reverse=True)
    used = " or ".join(methods[name] for name in names)
    test = f"paired by seed, {used} test, Holm's correction over all pairs of rows, level {inference.LEVEL}"
    if any_best:
        yield f"Bold: the best of a column, and whatever cannot be told from it ({test})."
    else:
        yield f"Nothing is bold, since no difference to the best is supported ({test})."
    largest = max(tested, key=lambda contest: (contest.rows, -contest.seeds))
    least = inference.least_supported(largest.rows, largest.seeds)
    if largest.method == "t":
        yield (
            f"With {largest.seeds} seeds and {largest.rows} rows, a difference must exceed {least:.1f} standard "
            "deviations of the paired differences to be supported."
        )
