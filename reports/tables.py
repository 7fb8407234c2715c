"""The table of a sweep: computed once as `Table`, then written as markdown or LaTeX."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import pandas as pd

from reports import aggregate, metrics, text
from reports.metrics import Metric, TableSpec
from reports.store import SweepResult

STATES = {"FAILED": "failed", "KILLED": "stopped", "RUNNING": "running", "MISSING": "missing"}
"""How a trial without a result is called; where a whole row has none, the first of these that applies stands in it."""
UNDEFINED = "–"
ERROR_LENGTH = 100


@dataclass(frozen=True)
class Cell:
    """One number of a table. `mean` and `std` are spelled as printed. `n` is the number of seeds behind them where that is
    fewer than the table's, else None. Where there is no number, `mean` says why and `empty` is True."""

    mean: str
    std: str | None = None
    n: int | None = None
    bold: bool = False
    empty: bool = False


@dataclass(frozen=True)
class Source:
    """A run behind a row; `run_id` is None where the trial has no run."""

    seed: int
    key: str
    run_id: str | None
    status: str


@dataclass(frozen=True)
class Row:
    """`head` has the value of each axis; of a baseline its name alone, which spans the axes. `label` says the same in one
    text, for notes."""

    head: tuple[str, ...]
    label: str
    cells: tuple[Cell, ...]
    sources: tuple[Source, ...]


@dataclass(frozen=True)
class Table:
    """`headings` are those of the axes, `columns` those that have a value in some row. Baselines come before the sweep's own
    rows. `caption` and `notes` are sentences in plain text, `origin` says what the numbers were made with."""

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
    """The runs with a column `row`: the table row of each trial, counted in the order of the table. Baselines come first, in
    the order of the manifest; then points, in the order of the axes' values."""
    runs = result.runs
    names = {label: place for place, label in enumerate(dict.fromkeys(runs.loc[runs["role"] == "baseline", "label"]))}
    orders = [{repr(value): place for place, value in enumerate(values)} for values in result.axes.values()]

    def place(role: str, label: str, point: Sequence[Any]) -> tuple[Any, ...]:
        if role == "baseline":
            return 0, names[label]
        # Told apart by their text too, in case a point has a value that the axis does not list.
        spelled = map(repr, point)
        return 1, *((order.get(value, len(order)), value) for order, value in zip(orders, spelled, strict=True))

    points = runs[list(result.axes)].to_numpy(dtype=object).tolist()
    places = list(map(place, runs["role"], runs["label"], points))
    rank = {known: row for row, known in enumerate(sorted(set(places)))}
    return runs.assign(row=[rank[one] for one in places])


def make_table(result: SweepResult, spec: TableSpec = metrics.SWEEP_TABLE) -> Table:
    """The table of a sweep on one data set, over the seeds that the sweep declares."""
    runs = number_rows(result)
    summary = aggregate.summarise(runs, [metric.name for metric in spec.columns])
    columns = tuple(metric for metric in spec.columns if summary.n[metric.name].any())
    n = len(result.seeds)
    names = metrics.headings(list(result.axes))
    by_row = [group for _, group in runs.groupby("row")]
    is_trial = pd.Series([group["role"].iloc[0] != "baseline" for group in by_row])
    cells = [
        _column(
            metric, *(frame[metric.name].sort_index() for frame in (summary.mean, summary.std, summary.n)), is_trial, n
        )
        for metric in columns
    ]
    spelled = [text.values(runs.drop_duplicates("row").sort_values("row")[axis].tolist()) for axis in result.axes]
    rows = []
    for row, group in enumerate(by_row):
        first = group.iloc[0]
        point = tuple(axis[row] for axis in spelled)
        label = ", ".join(f"{name} = {value}" for name, value in zip(names, point, strict=True)) or str(first["label"])
        state = next((word for status, word in STATES.items() if status in set(group["status"])), UNDEFINED)
        nothing = Cell(UNDEFINED if "FINISHED" in set(group["status"]) else state, empty=True)
        rows.append(
            Row(
                head=point or (label,) if is_trial[row] else (str(first["label"]),),
                label=label if is_trial[row] else str(first["label"]),
                cells=tuple(column[row] or nothing for column in cells),
                sources=tuple(
                    Source(int(run.seed), run.key, None if pd.isna(run.run_id) else run.run_id, run.status)
                    for run in group.itertuples()
                ),
            )
        )
    baselines = tuple(row for row, trial in zip(rows, is_trial, strict=True) if not trial)
    return Table(
        sweep=result.sweep,
        dataset=_dataset_name(result.dataset),
        slug=result.slug,
        n=n,
        headings=tuple(names) or ("trial",),
        columns=columns,
        baselines=baselines,
        rows=tuple(rows[len(baselines) :]),
        caption=tuple(_caption(result, n, columns, any(cell.bold for row in rows for cell in row.cells))),
        notes=tuple(_notes(runs, rows, columns, summary.n, n, names)),
        origin=tuple(_origin(result)),
    )


def to_markdown(table: Table) -> str:
    """The table as GitHub-flavoured markdown, with caption, notes and the runs behind each row."""
    environment = _environment(md=text.markdown, cell=_markdown_cell)
    return environment.get_template("table.md.j2").render(table=table)


def to_latex(table: Table) -> str:
    """The table as a LaTeX float for \\input; it needs the package booktabs. The runs behind each row are in comments."""
    environment = _environment(
        tex=text.latex,
        symbol=text.latex_symbol,
        value=text.latex_value,
        comment=lambda words: " ".join(words.split()),
        **{
            "block_start_string": "<%",
            "block_end_string": "%>",
            "comment_start_string": "<#",
            "comment_end_string": "#>",
        },
        variable_start_string="<<",
        variable_end_string=">>",
    )
    columns = zip(*(row.cells for row in (*table.baselines, *table.rows)), strict=True)
    widest = [max((cell.std for cell in column if cell.std), key=len, default=None) for column in columns]
    return environment.get_template("table.tex.j2").render(
        table=table,
        groups=[(group, len(list(members))) for group, members in itertools.groupby(m.group for m in table.columns)],
        cells=lambda row: [_latex_cell(cell, spread) for cell, spread in zip(row.cells, widest, strict=True)],
        anchor=re.sub(r"[^A-Za-z0-9]+", "-", f"{table.sweep}-{table.slug}").strip("-"),
    )


def _column(
    metric: Metric, mean: pd.Series, std: pd.Series, n: pd.Series, is_trial: pd.Series, seeds: int
) -> list[Cell | None]:
    """The cells of a metric; None where there is no number."""
    bold = aggregate.best(mean.where(is_trial & (n == seeds)).tolist(), metric.better, metric.decimals)
    digits = f"z.{metric.decimals}f"
    return [
        Cell(
            mean=format(mean[row], digits),
            std=format(std[row], digits) if metric.spread and n[row] > 1 else None,
            n=int(n[row]) if n[row] < seeds else None,
            bold=bold[row],
        )
        if n[row]
        else None
        for row in range(len(mean))
    ]


def _caption(result: SweepResult, n: int, columns: Sequence[Metric], any_bold: bool) -> Iterator[str]:
    about = result.about
    yield f"Sweep {result.sweep} on {_dataset_name(result.dataset)}" + (
        f": {result.description.rstrip('.')}." if result.description else "."
    )
    if n > 1:
        yield f"Mean ± sample standard deviation over n = {n} seeds ({text.ranges(result.seeds)})."
    else:
        yield f"One seed ({result.seeds[0]}), so no spread is known."
    images = f" ({about['test_images']:,} images)" if "test_images" in about else ""
    epochs = _shared(result).get("epochs")
    last = f"the last of {epochs} epochs" if epochs else "the last epoch"
    yield f"All metrics are those of the test split{images} after {last}; no model was selected by them."
    if any_bold:
        incomplete = f" and cells over fewer than {n} seeds" if n > 1 else ""
        yield f"Bold: the best value of the sweep at the printed precision, ties together; baselines{incomplete} do not compete."
    if "codes/nmi" in {metric.name for metric in columns}:
        yield "NMI of the codes rises with the number of codes in use by chance alone (chance: NMI of shuffled codes), so no best is marked."


def _notes(
    runs: pd.DataFrame,
    rows: Sequence[Row],
    columns: Sequence[Metric],
    n: pd.DataFrame,
    seeds: int,
    names: Sequence[str],
) -> Iterator[str]:
    """What is missing from the table, and why: each reason once, with all rows and seeds that it concerns."""
    if any(cell.n for row in rows for cell in row.cells):
        yield f"A cell marked n is over so many seeds, not over {seeds}."
    if any(cell.mean == UNDEFINED for row in rows for cell in row.cells):
        yield f"{UNDEFINED}: not defined for this row, or not finite."
    gaps: dict[tuple[str, str], list[int]] = {}
    for (row, status, reason), group in runs.assign(reason=runs["error"].map(_last_line)).groupby(
        ["row", "status", "reason"]
    ):
        if status != "FINISHED":
            words = STATES.get(status, status.lower()) + (f" ({reason})" if reason else "")
            gaps.setdefault((words, _seeds(group["seed"])), []).append(row)
    finished = runs[runs["status"] == "FINISHED"]
    for metric in columns:
        logged = finished[finished["row"].map(n[metric.name]) > 0]
        for row, group in logged[~np.isfinite(logged[metric.name].astype(float))].groupby("row"):
            gaps.setdefault((f"no finite {metric.heading}", _seeds(group["seed"])), []).append(row)
    for (words, which), concerned in gaps.items():
        yield f"{_labels([rows[row] for row in concerned], names)}: {which} {words}."


def _origin(result: SweepResult) -> Iterator[str]:
    finished = result.runs[result.runs["status"] == "FINISHED"]
    yield f"Data: {_dataset_name(result.dataset)}, fingerprint {result.about['fingerprint']}."
    if "tags.git_commit" in finished:
        edited = finished.get("tags.git_edited", pd.Series("false", finished.index)) == "true"
        commits = finished["tags.git_commit"].dropna() + edited.map({True: " with uncommitted edits", False: ""})
        yield f"Code: commit {', '.join(commits.unique())}."
    if "tags.device" in finished:
        yield f"Device: {', '.join(sorted(finished['tags.device'].dropna().unique()))}."
    if shared := _shared(result):
        yield f"Settings that all trials of the sweep share: {', '.join(f'{k}={v}' for k, v in shared.items())}."


def _shared(result: SweepResult) -> dict[str, str]:
    """The settings that are equal in all finished trials of the sweep, its data set and axes apart."""
    runs = result.runs[(result.runs["status"] == "FINISHED") & (result.runs["role"] != "baseline")]
    names = [name for name in runs if name.startswith("params.") and runs[name].nunique(dropna=False) == 1]
    values = {name.removeprefix("params."): runs[name].iloc[0] for name in names}
    apart = {"dataset", "seed", *result.axes}
    return {name: value for name, value in values.items() if name not in apart and not pd.isna(value)}


def _seeds(seeds: pd.Series) -> str:
    return f"{'seed' if len(seeds) == 1 else 'seeds'} {text.ranges(seeds.tolist())}"


def _labels(rows: Sequence[Row], names: Sequence[str], most: int = 12) -> str:
    if len(names) == 1 and all(row.label.startswith(f"{names[0]} = ") for row in rows):
        listed = f"{names[0]} = " + ", ".join(row.head[0] for row in rows[:most])
    else:
        listed = "; ".join(row.label for row in rows[:most])
    return listed + (f" and {len(rows) - most} more rows" if len(rows) > most else "")


def _last_line(error: Any) -> str:
    lines = error.strip().splitlines() if isinstance(error, str) else []
    last = lines[-1].strip().rstrip(".") if lines else ""
    return last if len(last) <= ERROR_LENGTH else last[: ERROR_LENGTH - 1] + "…"


def _dataset_name(name: str) -> str:
    """`folder:/data/my set` without the path, which means nothing to a reader."""
    return name.partition(":")[2].rstrip("/").rsplit("/", 1)[-1] or name


def _markdown_cell(cell: Cell) -> str:
    parts = [f"**{cell.mean}**" if cell.bold else cell.mean]
    parts += [f"± {cell.std}"] if cell.std else []
    parts += [f"(n={cell.n})"] if cell.n else []
    return " ".join(parts)


def _latex_cell(cell: Cell, widest: str | None) -> str:
    """`widest` is the column's widest spread; a number without one gets as much space, so that the means stay in line."""
    if cell.empty:
        return text.latex(cell.mean)
    mean = rf"\mathbf{{{cell.mean}}}" if cell.bold else cell.mean
    spread = rf"{{\scriptstyle\,\pm\,{cell.std}}}" if cell.std else ""
    fewer = rf"{{\scriptstyle\,(n{{=}}{cell.n})}}" if cell.n else ""
    space = rf"\phantom{{{{\scriptstyle\,\pm\,{widest}}}}}" if widest and not spread and not fewer else ""
    return f"${mean}{spread}{fewer}{space}$"


def _environment(**filters: Any) -> jinja2.Environment:
    options = {name: filters.pop(name) for name in list(filters) if name.endswith("_string")}
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).with_name("templates")),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,  # The output is no HTML; filters escape markdown and LaTeX.
        **options,
    )
    environment.filters.update(filters)
    return environment
