"""A table as data: its trials, where each number stands, which trials are behind it, and how it is printed."""

import functools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import pandas as pd

from reports import spelling
from reports.metrics import Metric
from reports.statistics.inference import Number
from sweeps.record import BASELINE, PARAMS, Tag, param_value

STATES = {"FAILED": "failed", "KILLED": "stopped", "RUNNING": "running", "SCHEDULED": "running", "MISSING": "missing"}
"""How a trial without a result is called; in a cell without any result stands the first of these that applies."""
UNDEFINED = "–"
Preference = Literal["higher", "lower", "nearest 1"]
FINISHED, STOPPED = "FINISHED", "KILLED"


@dataclass(frozen=True)
class Source:
    """A trial behind a cell; `run_id` is None where it has no run."""

    seed: int
    key: str
    run_id: str | None
    status: str


@dataclass(frozen=True)
class Cell:
    """One number of a table: first what it is made of, then, filled in from the runs, what it is. A number that is
    computed from several metrics of its runs, and not the mean of `metric`, lists them in `made_of`.

    Cells of one `contest` are compared with each other; None does not compete. `expected` is the number of seeds of the
    cell's column. `published` is the number printed elsewhere for it, `comparable` whether for the same setting.

    `mean` and `std` are spelled as printed. Where there is no number, `mean` says why and `empty` is True; of trials
    that were stopped on a collapse it has in parentheses what they had reached, and `collapsed` is True. `n` is the
    number of seeds where that is to be said. `difference` is ours minus the published. `number` has full precision.
    """

    metric: str = ""
    sources: tuple[Source, ...] = ()
    contest: str | None = None
    expected: int = 0
    published: float | None = None
    comparable: bool = True
    made_of: tuple[str, ...] = ()
    mean: str = ""
    std: str | None = None
    n: int | None = None
    bold: bool = False
    empty: bool = False
    collapsed: bool = False
    difference: str | None = None
    number: Number | None = None

    @property
    def printed(self) -> str:
        """Mean, spread and number of seeds, as far as they are to be said."""
        return self.mean + (f" ± {self.std}" if self.std else "") + (f" (n={self.n})" if self.n else "")


@dataclass(frozen=True)
class Column:
    """A column: `heading` in full; in LaTeX and HTML `short`, under the headings `groups` that neighbours share. `name`
    is the metric's in a table whose columns are metrics."""

    name: str
    heading: str
    groups: tuple[str, ...]
    short: str


@dataclass(frozen=True)
class Row:
    """One row of a table: `head` has the value of each heading; a baseline's name stands alone and spans them. `label`
    says the same in one text. Rows of one `block` stand under its name. `sources` are the trials behind the row where
    all cells share them, `n` then the number of those with a result where that is fewer than the table's but not none.
    """

    head: tuple[str, ...]
    label: str
    n: int | None
    cells: tuple[Cell, ...]
    sources: tuple[Source, ...] = ()
    block: str = ""

    @property
    def is_named(self) -> bool:
        return self.head == (self.label,)

    def where(self, column: Column) -> str:
        """The name of its cell in a column, in full."""
        return ", ".join(filter(None, [self.block, self.label, column.heading]))


@dataclass(frozen=True)
class Candidate:
    """A value that a selection could take, with its trials and their mean of the criterion."""

    value: str
    sources: tuple[Source, ...]
    score: float | None = None


@dataclass(frozen=True)
class Choice:
    """A value chosen by the mean of `criterion` over seeds: of a setting `over` (of several, separated by commas), for
    the cells `where`. `chosen` is None where no candidate has the criterion, or for the reason `barred`; `tied` are
    others that are as good."""

    where: str
    over: str
    criterion: str
    better: Preference
    candidates: tuple[Candidate, ...]
    chosen: str | None
    barred: str = ""
    tied: tuple[str, ...] = ()


@dataclass(frozen=True)
class Table:
    """A table over `n` seeds: baselines come before the other rows, `headings` are those of the row heads. `caption`,
    `statistics` and `notes` are sentences, `origin` says what the numbers were made with. `spec` is the hash of the
    specification; `slug` names the data set's folder, empty for a table over several. `runs_at` is the address on a
    tracking server that a run's page starts with. `compute` are the hours of each kind of device that its finished
    runs have taken."""

    sweep: str
    dataset: str
    slug: str
    n: int
    title: str
    headings: tuple[str, ...]
    columns: tuple[Column, ...]
    baselines: tuple[Row, ...]
    rows: tuple[Row, ...]
    caption: tuple[str, ...]
    notes: tuple[str, ...]
    origin: tuple[str, ...]
    metrics: dict[str, Metric]
    spec: str = ""
    statistics: tuple[str, ...] = ()
    choices: tuple[Choice, ...] = ()
    runs_at: str = ""
    compute: Mapping[str, float] = field(default_factory=dict)

    @property
    def all_rows(self) -> tuple[Row, ...]:
        return (*self.baselines, *self.rows)

    def cells(self) -> Iterator[tuple[Row, Column, Cell]]:
        """Each cell with its row and column, row by row."""
        for row in self.all_rows:
            for column, cell in zip(self.columns, row.cells, strict=True):
                yield row, column, cell

    def best(self) -> tuple[str, Row] | None:
        """The first metric by which rows can be ranked, and the row that is best by it; None if there is none. Neither
        baselines compete nor rows that lack seeds."""
        for place, column in enumerate(self.columns):
            better = self.metrics[column.name].better if column.name in self.metrics else None
            means = {row.label: row.cells[place].number for row in self.rows if row.n is None}
            scores = {label: number.mean for label, number in means.items() if number}
            if better and scores:
                label = (max if better == "higher" else min)(scores, key=lambda label: scores[label])
                return column.name, next(row for row in self.rows if row.label == label)
        return None

    def means(self, row: Row) -> dict[str, float]:
        """The numbers of a row in full precision, by the names of their columns."""
        cells = zip(self.columns, row.cells, strict=True)
        return {column.name: cell.number.mean for column, cell in cells if cell.number}

    @property
    def sources(self) -> dict[str, Source]:
        """All trials behind the table, those of choices too, by key."""
        groups = [row.sources for row in self.all_rows]
        groups += [cell.sources for row in self.all_rows for cell in row.cells]
        groups += [candidate.sources for choice in self.choices for candidate in choice.candidates]
        return {source.key: source for sources in groups for source in sources}


Values = Mapping[str, Mapping[str, float]]
"""Run id to the metrics of the run, see `metric_values`."""

EXTRA = ("data fingerprint", "numerics")  # What trials must agree in beside their settings.


@dataclass(frozen=True)
class Trial:
    """A trial with its settings as values, and the last line of its error as `reason`. `name` is that of its row where
    no dimension places it, such as a baseline of a sweep."""

    source: Source
    settings: Mapping[str, Any]
    reason: str
    name: str

    @property
    def is_finished(self) -> bool:
        return self.source.status == FINISHED

    def spelled(self, setting: str) -> str:
        return spelling.values([self.settings.get(setting)])[0]


def metric_values(runs: pd.DataFrame, names: Sequence[str]) -> dict[str, dict[str, float]]:
    """These metrics of every finished run, and of those that were stopped on a collapse, which have been measured as
    they stood then; what a run has not logged is not a number."""
    stopped = runs["status"].eq(STOPPED) & runs.reindex(columns=[Tag.COLLAPSE.column])[Tag.COLLAPSE.column].notna()
    measured = runs[runs["status"].eq(FINISHED) | stopped]
    records: Any = measured.reindex(columns=list(names)).astype(float).to_dict("records")
    return dict(zip(measured["run_id"], records, strict=True))


def read_trials(runs: pd.DataFrame, axes: Sequence[str] | None = None) -> list[Trial]:
    """The trials of a frame, in its order; in a sweep with the values of its axes. Baselines of a sweep have a name,
    all trials of a sweep without axes too."""
    has_name = (axes is not None) & ((runs["role"] == BASELINE) | (not axes))
    params = [name for name in map(str, runs.columns) if name.startswith(PARAMS)]
    fixed = ["seed", "key", "run_id", "status", "error", "dataset", "fingerprint", Tag.NUMERICS.column]
    frame = runs.reindex(columns=[*fixed, *params, *(axes or ())])
    parsed = functools.cache(param_value)  # Thousands of trials have few different texts.
    trials = []
    for name, row in zip(runs["label"].where(has_name, ""), frame.to_numpy(dtype=object).tolist(), strict=True):
        seed, key, run_id, status, error, dataset, *extra = row[: len(fixed)]
        texts = zip(params, row[len(fixed) :], strict=False)
        settings = {param.removeprefix(PARAMS): parsed(text) for param, text in texts if isinstance(text, str)}
        settings |= {"dataset": dataset, **dict(zip(EXTRA, extra, strict=True))}
        settings |= zip(axes or (), row[len(fixed) + len(params) :], strict=True)
        source = Source(int(seed), key, run_id if isinstance(run_id, str) else None, status)
        trials.append(Trial(source, settings, spelling.last_line(error), name))
    return trials
