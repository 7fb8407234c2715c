"""The table of a sweep on one data set, as data: cells, rows, caption and notes in plain text."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from reports import aggregate, metrics, text
from reports.metrics import Metric, TableSpec
from reports.store import SweepResult

STATES = {"FAILED": "failed", "KILLED": "stopped", "RUNNING": "running", "SCHEDULED": "running", "MISSING": "missing"}
"""How a trial without a result is called; in a row without any result stands the first of these that applies."""
UNDEFINED = "–"
REASON_LENGTH = 100


@dataclass(frozen=True)
class Cell:
    """One number of a table.

    `mean` and `std` are spelled as printed. Where there is no number, `mean` says why and `empty` is True. `n` is the
    number of seeds behind the number where it differs from the row's, else None.
    """

    mean: str
    std: str | None = None
    n: int | None = None
    bold: bool = False
    empty: bool = False


@dataclass(frozen=True)
class Source:
    """A trial behind a row; `run_id` is None where it has no run."""

    seed: int
    key: str
    run_id: str | None
    status: str


@dataclass(frozen=True)
class Row:
    """One row of a table.

    `head` has the value of each axis; of a baseline its name alone, which spans the axes. `label` says the same in one
    text. `n` is the number of seeds with a result where that is fewer than the table's but not none, else None.
    """

    head: tuple[str, ...]
    label: str
    n: int | None
    cells: tuple[Cell, ...]
    sources: tuple[Source, ...]

    @property
    def is_named(self) -> bool:
        """Whether the head is a name instead of the values of the axes."""
        return self.head == (self.label,)


@dataclass(frozen=True)
class Table:
    """A table over `n` seeds.

    `headings` are those of the axes, `columns` the metrics that have a value in some row. Baselines come before the
    sweep's own rows. `caption` and `notes` are sentences, `origin` says what the numbers were made with.
    """

    sweep: str
    dataset: str
    slug: str
    n: int
    headings: tuple[str, ...]
    columns: tuple[Metric, ...]
    baselines: tuple[Row, ...]
    rows: tuple[Row, ...]
    caption: tuple[str, ...]
    notes: tuple[str, ...]
    origin: tuple[str, ...]


def number_rows(result: SweepResult) -> pd.DataFrame:
    """The runs with a column `row`, the table row of each trial: baselines first, in the order of the manifest, then
    points, in the order of the axes' values."""
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
    rank = {known: row for row, known in enumerate(sorted(set(places)))}
    return runs.assign(row=[rank[one] for one in places])


def make_table(result: SweepResult, spec: TableSpec = metrics.SWEEP_TABLE) -> Table:
    """The table of a sweep over the seeds that it declares. Numbers come from finished runs only.

    Best values are marked among the sweep's rows: baselines do not compete, nor do means over fewer seeds.
    """
    runs = number_rows(result)
    seeds = len(result.seeds)
    summary = aggregate.summarise(runs, [metric.name for metric in spec.columns])
    columns = [metric for metric in spec.columns if summary.n[metric.name].any()]
    firsts = runs.drop_duplicates("row").set_index("row").sort_index()
    is_trial = firsts["role"] != "baseline"
    bold = {
        metric.name: aggregate.best(
            summary.mean[metric.name].where(is_trial & (summary.n[metric.name] == seeds)).tolist(),
            metric.better,
            metric.decimals,
        )
        for metric in columns
    }
    names = metrics.headings(list(result.axes))
    points = list(zip(*(text.values(firsts[axis].tolist()) for axis in result.axes), strict=True))
    rows = []
    for row, (label, sources) in enumerate(zip(firsts["label"], _sources(runs), strict=True)):
        head = points[row] if points and is_trial[row] else (label,)
        finished = sum(source.status == "FINISHED" for source in sources)
        cells = []
        for metric in columns:
            mean, std, n = (getattr(summary, part)[metric.name][row] for part in ("mean", "std", "n"))
            cells.append(_cell(metric, mean, std, n, bold[metric.name][row], sources))
        rows.append(
            Row(
                head=head,
                label=", ".join(f"{name} = {value}" for name, value in zip(names, head, strict=True))
                if points and is_trial[row]
                else label,
                n=finished if 0 < finished < seeds else None,
                cells=tuple(cells),
                sources=tuple(sources),
            )
        )
    first = int((~is_trial).sum())
    return Table(
        sweep=result.sweep,
        dataset=_dataset_name(result),
        slug=result.slug,
        n=seeds,
        headings=tuple(names) or ("trial",),
        columns=tuple(columns),
        baselines=tuple(rows[:first]),
        rows=tuple(rows[first:]),
        caption=tuple(_caption(result, columns, any(map(any, bold.values())))),
        notes=tuple(_notes(runs, rows, columns, names, seeds)),
        origin=tuple(_origin(result)),
    )


def _sources(runs: pd.DataFrame) -> list[list[Source]]:
    """The trials behind each row, in the order of their seeds."""
    rows: list[list[Source]] = [[] for _ in range(runs["row"].max() + 1)]
    ordered = runs.sort_values("seed", kind="stable")[["row", "seed", "key", "run_id", "status"]]
    for row, seed, key, run_id, status in ordered.to_numpy(dtype=object).tolist():
        rows[row].append(Source(seed, key, run_id if isinstance(run_id, str) else None, status))
    return rows


def _cell(metric: Metric, mean: float, std: float, n: int, bold: bool, sources: Sequence[Source]) -> Cell:
    found = {source.status for source in sources}
    if not n:
        missing = (
            next(word for status, word in STATES.items() if status in found) if "FINISHED" not in found else UNDEFINED
        )
        return Cell(missing, empty=True)
    finished = sum(source.status == "FINISHED" for source in sources)
    digits = f"z.{metric.decimals}f"  # z: no minus sign before a zero
    spread = format(std, digits) if metric.spread and n > 1 else None
    return Cell(format(mean, digits), spread, int(n) if n < finished else None, bold)


def _caption(result: SweepResult, columns: Sequence[Metric], any_bold: bool) -> Iterator[str]:
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
    last = f"the last of {epochs} epochs" if epochs else "the last epoch"
    yield f"All metrics are those of the test split{images} after {last}; no model was selected by them."
    if any_bold:
        fewer = f" and means over fewer than {n} seeds" if n > 1 else ""
        yield "Bold: best value of the sweep at the printed precision, ties together;"
        yield f"baselines{fewer} do not compete."
    if any(metric.name == "codes/nmi" for metric in columns):
        yield "NMI of the codes is not ranked, as it rises by chance alone with the number of codes used"
        yield "(chance: NMI of shuffled codes)."


def _notes(
    runs: pd.DataFrame, rows: Sequence[Row], columns: Sequence[Metric], names: Sequence[str], seeds: int
) -> Iterator[str]:
    """What is missing from the table and why: each reason once, with the rows and seeds that it concerns."""
    cells = [cell for row in rows for cell in row.cells]
    if any(row.n for row in rows) or any(cell.n for cell in cells):
        yield f"(n=k): a mean over k seeds instead of {seeds}."
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
            gaps.setdefault((words, _seeds(which)), []).append(row)
    finished = runs[runs["status"] == "FINISHED"]
    for place, metric in enumerate(columns):
        infinite = finished[~np.isfinite(finished[metric.name].astype(float))]
        for number, row in enumerate(rows):
            if row.cells[place].n:
                which = infinite.loc[infinite["row"] == number, "seed"].tolist()
                gaps.setdefault((f"no finite {metric.heading}", _seeds(which)), []).append(row)
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


def _seeds(seeds: Sequence[int]) -> str:
    return f"{'seed' if len(seeds) == 1 else 'seeds'} {text.ranges(seeds)}"


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
