"""The table of one sweep on one data set: its rows are the points of the sweep."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from reports import metrics
from reports.metrics import Metric
from reports.render import text
from reports.statistics import aggregate
from reports.statistics import ranking as search
from reports.store import SweepResult
from reports.tables import fill, spec
from reports.tables.model import FINISHED, STATES, UNDEFINED, Cell, Column, Row, Source, Table
from reports.tables.spec import UNSEEN, TableSpec

REASON_LENGTH = 100
MOST_SUGGESTED = 20
"""Points of a search in its table, which has the best ones first; all are in runs.csv."""


def number_rows(result: SweepResult) -> pd.DataFrame:
    """The runs with a column `row`, the table row of each trial: baselines first, in the order of the manifest, then
    points, in the order of the axes' values, or those of a search the best first."""
    runs = result.runs
    names = list(dict.fromkeys(runs.loc[runs["role"] == "baseline", "label"]))
    orders = [{repr(value): place for place, value in enumerate(values)} for values in result.axes.values()]

    def place(role: str, label: str, point: Sequence[Any]) -> tuple[Any, ...]:
        if role == "baseline":
            return 0, names.index(label)
        # The text tells apart values that the axis does not list.
        spelled = map(repr, point)
        return 1, *((order.get(value, len(order)), value) for order, value in zip(orders, spelled, strict=True))

    points = runs[list(result.axes)].to_numpy(dtype=object).tolist()
    places = list(map(place, runs["role"], runs["label"], points))
    ordered = sorted(set(places))
    if result.search:
        ordered = _best_first(result, places, ordered)
    rank = {known: row for row, known in enumerate(ordered)}
    return runs.assign(row=[rank[one] for one in places])


def _best_first(result: SweepResult, places: Sequence[Any], ordered: Sequence[Any]) -> list[Any]:
    """Baselines as they are, then points by their means over all seeds."""
    assert result.search is not None
    points = [place for place in ordered if place[0]]
    row = {place: number for number, place in enumerate(ordered)}
    summary = aggregate.summarise(
        result.runs.assign(row=[row[place] for place in places]), list(result.search["objectives"])
    )
    means = summary.mean.where(summary.n == len(result.seeds)).loc[[row[place] for place in points]]
    best = search.best_first(means, result.search["objectives"])
    return [*(place for place in ordered if not place[0]), *(ordered[int(str(number))] for number in best)]


def make_table(result: SweepResult, table: TableSpec | None = None) -> Table:
    """The table of a sweep over the seeds that it declares. Numbers come from finished runs only.

    Best values are marked among the sweep's rows: baselines do not compete, nor do means over fewer seeds. Columns
    without any number are left out.
    """
    table = table or spec.read("sweep")
    runs = number_rows(result)
    shown = _objectives(result) | table.shown
    suggested = runs.loc[runs["role"] != "baseline", "row"].nunique() if result.search else 0
    runs = runs[runs["row"] < runs["row"].nunique() - max(0, suggested - MOST_SUGGESTED)]
    finished = runs[runs["status"] == FINISHED].reindex(columns=["run_id", *shown])
    finite = finished.drop(columns="run_id").astype(float).replace([np.inf, -np.inf], np.nan).notna().any()
    columns = [metric for metric in shown.values() if finite[metric.name]]
    firsts = runs.drop_duplicates("row").set_index("row").sort_index()
    names = metrics.headings(list(result.axes))
    points = list(zip(*(text.values(firsts[axis].tolist()) for axis in result.axes), strict=True))
    rows = []
    for place, (label, role, sources) in enumerate(zip(firsts["label"], firsts["role"], _sources(runs), strict=True)):
        is_point = role != "baseline"
        head = points[place] if points and is_point else (label,)
        if points and is_point:
            label = ", ".join(f"{name} = {value}" for name, value in zip(names, head, strict=True))
        cells = tuple(
            Cell(metric.name, sources, metric.name if is_point else None, expected=len(result.seeds))
            for metric in columns
        )
        rows.append(Row(head=head, label=label, n=None, cells=cells, sources=sources))
    first = int((firsts["role"] == "baseline").sum())
    records = finished.drop(columns="run_id").astype(float).to_dict("records")
    values: dict[str, Any] = dict(zip(finished["run_id"], records, strict=True))
    filled = fill.fill(
        Table(
            sweep=result.sweep,
            dataset=_dataset_name(result),
            slug=result.slug,
            n=len(result.seeds),
            title=f"{result.sweep} on {_dataset_name(result)}",
            headings=tuple(names) or ("trial",),
            columns=tuple(Column(one.name, one.heading, (one.group,), one.short) for one in columns),
            baselines=tuple(rows[:first]),
            rows=tuple(rows[first:]),
            caption=tuple(_caption(result, columns)),
            notes=(),
            origin=tuple(_origin(result)),
            metrics={metric.name: metric for metric in columns},
            spec=table.hash,
        ),
        values,
    )
    notes = list(_notes(runs, filled, columns, names))
    if suggested > MOST_SUGGESTED:
        notes.append(f"The best {MOST_SUGGESTED} of {suggested} suggestions are shown; runs.csv has all.")
    return dataclasses.replace(filled, notes=tuple(notes))


def _objectives(result: SweepResult) -> dict[str, Metric]:
    """What a search has aimed at: the first columns of its table."""
    objectives: Mapping[str, str] = result.search["objectives"] if result.search else {}
    return {
        name: metrics.METRICS.get(name)
        or Metric(name, name, "Objective", name, "higher" if direction == "maximize" else "lower")
        for name, direction in objectives.items()
    }


def _sources(runs: pd.DataFrame) -> list[tuple[Source, ...]]:
    """The trials behind each row, in the order of their seeds."""
    rows: list[list[Source]] = [[] for _ in range(runs["row"].max() + 1)]
    ordered = runs.sort_values("seed", kind="stable")[["row", "seed", "key", "run_id", "status"]]
    for row, seed, key, run_id, status in ordered.to_numpy(dtype=object).tolist():
        rows[row].append(Source(seed, key, run_id if isinstance(run_id, str) else None, status))
    return list(map(tuple, rows))


def _caption(result: SweepResult, columns: Sequence[Metric]) -> Iterator[str]:
    n = len(result.seeds)
    about = f": {result.description.rstrip('.')}" if result.description else ""
    yield f"Sweep {result.sweep} on {_dataset_name(result)}{about}."
    if n > 1:
        yield f"Mean ± sample standard deviation over n = {n} seeds ({text.ranges(result.seeds)})."
        if single := [metric.heading for metric in columns if not metric.spread]:
            yield f"Without spread: {', '.join(single)}."
    else:
        yield f"One seed ({result.seeds[0]}), n = 1, so no spread is known."
    images = f" ({result.about['test_images']:,} images)" if "test_images" in result.about else ""
    epochs = _shared(result).get("epochs")
    last = "one epoch" if str(epochs) == "1" else f"the last of {epochs} epochs" if epochs else "the last epoch"
    if result.search:
        yield from _chosen(result.search["objectives"], f"of the test split{images} after {last}")
    else:
        yield f"All metrics are those of the test split{images} after {last}; no model was selected by them."
    if any(row != "baseline" for row in result.runs["role"]) and len(result.axes):
        yield f"Baselines{f' and means over fewer than {n} seeds' if n > 1 else ''} are not compared with the rest."
    if any(metric.name == "codes/nmi" for metric in columns):
        yield "NMI of the codes is not ranked, as it rises by chance alone with the number of codes used"
        yield "(chance: NMI of shuffled codes)."


def _chosen(objectives: Mapping[str, str], which: str) -> Iterator[str]:
    aims = " and ".join(f"{direction} {name}" for name, direction in objectives.items())
    yield f"Points were suggested by Optuna (TPE) to {aims}, and stand best first by that."
    if seen := [name for name in objectives if not name.startswith((*UNSEEN, "time/"))]:
        yield (
            f"The search has seen the test split ({', '.join(seen)}), so the best rows are too good; other metrics are "
            f"those {which}."
        )
    else:
        yield f"All other metrics are those {which}; no point was suggested by them."


def _notes(runs: pd.DataFrame, table: Table, columns: Sequence[Metric], names: Sequence[str]) -> Iterator[str]:
    """What is missing from the table and why: each reason once, with the rows and seeds that it concerns."""
    rows = table.all_rows
    cells = [cell for row in rows for cell in row.cells]
    if any(row.n for row in rows) or any(cell.n for cell in cells):
        yield f"(n=k): a mean over k seeds instead of {table.n}."
    if any(cell.mean == UNDEFINED for cell in cells):
        yield f"A dash ({UNDEFINED}): not defined for this row, or not finite."
    errors = dict(zip(runs["key"], runs["error"], strict=True))
    gaps: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        absent: dict[str, list[int]] = {}
        for source in row.sources:
            if source.status != "FINISHED":
                reason = _last_line(errors[source.key])
                absent.setdefault(STATES[source.status] + (f" ({reason})" if reason else ""), []).append(source.seed)
        for words, which in absent.items():
            gaps.setdefault((words, fill.seeds(which)), []).append(row)
    finished = runs[runs["status"] == "FINISHED"]
    for place, metric in enumerate(columns):
        infinite = finished[~np.isfinite(finished[metric.name].astype(float))]
        for number, row in enumerate(rows):
            if row.cells[place].n:
                which = infinite.loc[infinite["row"] == number, "seed"].tolist()
                gaps.setdefault((f"no finite {metric.heading}", fill.seeds(which)), []).append(row)
    for (words, which_seeds), concerned in gaps.items():
        yield f"{_labels(concerned, names)}: {which_seeds} {words}."


def _origin(result: SweepResult) -> Iterator[str]:
    finished = result.runs[result.runs["status"] == "FINISHED"]
    yield f"Data: {_dataset_name(result)}, fingerprint {result.about['fingerprint']}."
    if "tags.git_commit" in finished:
        edited = finished.get("tags.git_edited", pd.Series("false", finished.index)) == "true"
        commits = finished["tags.git_commit"] + edited.map({True: " with uncommitted edits", False: ""})
        yield f"Code: commit {', '.join(sorted(commits.dropna().unique()))}."
    if "tags.device" in finished:
        yield f"Device: {', '.join(sorted(finished['tags.device'].dropna().unique()))}."
    if shared := _shared(result):
        listed = ", ".join(f"{name}={value}" for name, value in shared.items())
        yield f"Settings that all trials of the sweep share: {listed}."


def _shared(result: SweepResult) -> Mapping[str, str]:
    """The settings that are equal in all finished trials of the sweep, its data set and axes apart."""
    runs = result.runs[(result.runs["status"] == "FINISHED") & (result.runs["role"] != "baseline")]
    apart = {f"params.{name}" for name in ("dataset", "seed", *result.axes)}
    names = [name for name in map(str, runs.columns) if name.startswith("params.") and name not in apart]
    equal = [name for name in names if runs[name].nunique() == 1 and runs[name].notna().all()]
    return {name.removeprefix("params."): str(runs[name].iloc[0]) for name in equal}


def _labels(rows: Sequence[Row], names: Sequence[str], most: int = 12) -> str:
    if len(names) == 1 and not any(row.is_named for row in rows):
        listed = f"{names[0]} = " + ", ".join(row.head[0] for row in rows[:most])
    else:
        listed = "; ".join(row.label for row in rows[:most])
    return listed + (f" and {len(rows) - most} more rows" if len(rows) > most else "")


def _last_line(error: Any) -> str:
    lines = error.strip().splitlines() if isinstance(error, str) else []
    last = lines[-1].strip().rstrip(".") if lines else ""
    return last if len(last) <= REASON_LENGTH else last[: REASON_LENGTH - 1] + "…"


def _dataset_name(result: SweepResult) -> str:
    """`folder:/data/my set` without the path, which means nothing to a reader."""
    return result.dataset.partition(":")[2].rstrip("/").rsplit("/", 1)[-1] or result.dataset
