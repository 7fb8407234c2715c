"""From trials and a specification to a table: places the trials where rows and columns cross, chooses, and lays out."""

import dataclasses
import itertools
import json
import math
import shlex
from collections.abc import Hashable, Iterable, Mapping, Sequence

import pandas as pd

from reports.metrics import Metric
from reports.statistics.compute import device_hours
from reports.tables import fill, spec, words
from reports.tables.model import FINISHED, UNDEFINED, Cell, Choice, Column, Row, Source, Table, Trial, Values
from reports.tables.spec import AXES, METRIC, Dimension, Selection, TableSpec, matches
from reports.tables.words import Subject
from sweeps.errors import UserError

Place = str | tuple[Hashable, ...]
"""Values along the dimensions of the rows, or of the columns; of a row that has a name instead, that."""


class Grid:
    """Trials where the rows and columns of a specification cross.

    `runs` is the frame that `trials` were read from, `values` their metrics. `cells` maps the places of a row and of a
    column to the trials there, `choices` to the choice that was made there; `row_texts` and `column_texts` have the
    places in order, with the text of each value. `shown` are the metrics of the specification that a run has, and
    `dashed`, which have a column although no run has them; `metrics` are those of all cells.
    """

    def __init__(
        self, table: TableSpec, runs: pd.DataFrame, trials: Sequence[Trial], values: Values, dashed: Sequence[str] = ()
    ) -> None:
        self.spec, self.runs, self.values, self.may_differ = table, runs, values, {"seed"}
        logged = {name for run in values.values() for name, value in run.items() if math.isfinite(value)}
        self.shown = {name: metric for name, metric in table.shown.items() if name in logged.union(dashed)}
        self.metrics = self.shown
        self.published = spec.published(table.published) if table.published else None
        self.rows, self.columns = (
            [dimension for dimension in dimensions if dimension.key not in (METRIC, AXES)]
            for dimensions in (table.rows, table.columns)
        )
        self.reasons = {trial.source.key: trial.reason for trial in trials}
        self.choices: dict[tuple[Place, Place], Choice] = {}
        self.cells: dict[tuple[Place, Place], list[Trial]] = {}
        for trial in trials:
            rows: Sequence[Place] = [trial.name] if trial.name else _places(self.rows, trial)
            for place in itertools.product(rows, _places(self.columns, trial)):
                self.cells.setdefault(place, []).append(trial)
        self.row_texts = _texts(self.rows, [row for row, _ in self.cells])
        self.column_texts = _texts(self.columns, [column for _, column in self.cells])

    def choose(self, select: Selection) -> None:
        """Keep in each cell the trials with the best value of the settings that are to be chosen."""
        for place, trials in self.cells.items():
            if choice := fill.choose(trials, select, self.label(place), self.values):
                self.choices[place] = choice
                kept = {source for each in choice.candidates if each.value == choice.chosen for source in each.sources}
                self.cells[place] = [trial for trial in trials if trial.source in kept]

    def check_agreement(self) -> None:
        """Raise UserError if trials of one cell differ in more than `may_differ`, the seed. A setting that one of them
        lacks is younger than that trial, which then has its default."""
        for place, trials in self.cells.items():
            spelled: dict[str, set[str]] = {}
            for key, value in (item for trial in trials for item in trial.settings.items()):
                spelled.setdefault(key, set()).add(json.dumps(value, sort_keys=True))
            if differing := [key for key, texts in spelled.items() if len(texts) > 1 and key not in self.may_differ]:
                key, *others = differing
                further = f" and {len(others)} more setting{'s' if len(others) > 1 else ''}" if others else ""
                texts = sorted(spelled[key])
                finished = [trial.settings[key] for trial in trials if trial.is_finished and key in trial.settings]
                example = json.dumps(finished[-1], sort_keys=True) if finished else texts[-1]
                option = shlex.join(["--where", f"{key}={example}"])
                raise UserError(
                    f"table {self.spec.table!r}: {self.label(place)} has trials that differ in {key} "
                    f"({', '.join(texts)}){further}; say which count, for instance {option} or --sweep NAME"
                )

    def table(self, subject: Subject | None = None) -> Table:
        """The table with its numbers and sentences. Metrics that no run has are left out."""
        subject, shown = subject or self.subject(), self.shown
        if not shown:
            raise UserError(f"table {self.spec.table!r}: no run has any of its metrics, {', '.join(self.spec.shown)}")
        in_blocks = self.spec.rows[0].key == METRIC
        metrics: list[list[Metric | None]] = [[None], [*shown.values()]]
        blocks, in_columns = reversed(metrics) if in_blocks else metrics
        heads = list(itertools.product(self.column_texts, in_columns))
        most = {at: max(len(trials) for (_, column), trials in self.cells.items() if column == at) for at, _ in heads}
        rows: list[Row] = []
        baselines: list[Row] = []
        for block in blocks:
            for place in self.row_texts:
                cells = [self._cell(place, at, metric or block, len(subject.seeds) or most[at]) for at, metric in heads]
                # A baseline within a block stands in it.
                group = baselines if self._is_baseline(place) and not in_blocks else rows
                group.append(self._row(place, block, cells))
        cells = [cell for row in (*baselines, *rows) for cell in row.cells]
        n = max(cell.expected for cell in cells)
        table = Table(
            sweep=subject.name,
            dataset=subject.dataset,
            slug=subject.slug,
            n=n,
            title=subject.title,
            headings=tuple(dimension.title for dimension in self.rows) or ("",),
            columns=tuple(self._column(at, metric) for at, metric in heads),
            baselines=tuple(baselines),
            rows=tuple(rows),
            caption=words.caption(self.spec, subject, shown, n, cells),
            notes=(),
            origin=subject.origin,
            metrics=self.metrics,
            spec=self.spec.hash,
            choices=tuple(self.choices.values()),
        )
        table = fill.fill(table, self.values, self._by_seed)
        if not self.spec.study:
            # A row of a block whose metric is not defined for it says nothing: raw pixels have no codes.
            kept = [
                row for row in table.rows if not row.block or any(c.mean != UNDEFINED for c in row.cells if c.metric)
            ]
            table = dataclasses.replace(table, rows=tuple(kept))
        behind = self.runs[self.runs["key"].isin(table.sources) & self.runs["status"].eq(FINISHED)]
        notes = (*words.notes(table, self.reasons, self.values), *self._notes(), *subject.notes)
        return dataclasses.replace(table, notes=notes, compute=device_hours(behind))

    def scores(self) -> pd.DataFrame:
        """The values of ranked metrics, baselines apart: `metric`, `group` and `row` (the column and the row without
        their data set), `dataset`, `seed`, `value`."""
        records = []
        for (row, column), trials in self.cells.items():
            if not trials or self._is_baseline(row):
                continue
            name, group = (
                ", ".join(d.labelled(text) for d, text in zip(along, texts, strict=False) if d.key != "dataset")
                for along, texts in ((self.rows, self.row_texts[row]), (self.columns, self.column_texts[column]))
            )
            for metric in self.shown.values():
                for seed, value in fill.finite_values(sources_of(trials), metric.name, self.values).items():
                    if metric.better:
                        records.append((metric.name, group, name, trials[0].settings["dataset"], seed, value))
        return pd.DataFrame(records, columns=["metric", "group", "row", "dataset", "seed", "value"])

    def subject(self) -> Subject:
        """What the table is about, where no sweep says it."""
        return Subject(name=self.spec.table, title=f"Table {self.spec.table}", about=self.spec.title)

    def _by_seed(self, cell: Cell) -> Mapping[int, float]:
        """The values of a cell, of which it shows the mean."""
        return fill.finite_values(cell.sources, cell.metric, self.values)

    def _notes(self) -> Iterable[str]:
        """More sentences below the table."""
        return ()

    def label(self, place: tuple[Place, Place]) -> str:
        """The name of a cell."""
        return ", ".join([*self.row_texts[place[0]], *self.column_texts[place[1]]])

    def _column(self, place: Place, metric: Metric | None) -> Column:
        texts = self.column_texts[place]
        full = [dimension.labelled(text) for dimension, text in zip(self.columns, texts, strict=True)]
        if metric:
            return Column(metric.name, ", ".join([*full, metric.heading]), (*full, metric.group), metric.short)
        innermost = self.columns[-1]
        short = "" if innermost.key == "dataset" else texts[-1]
        groups = (*full[:-1], innermost.title if short else full[-1])
        return Column(", ".join(full), ", ".join(full), groups, short)

    def _row(self, place: Place, block: Metric | None, cells: list[Cell]) -> Row:
        full = texts = self.row_texts[place]
        # In a table about grids the trials stand at the cells, beside what is computed from them.
        is_shared = not self.spec.study and all(cell.sources == cells[0].sources for cell in cells)
        if not isinstance(place, str):
            full = [dimension.labelled(text) for dimension, text in zip(self.rows, texts, strict=True)]
        heading = block.heading if block else ""
        return Row(
            tuple(texts) or (heading,),
            ", ".join(full) or heading,
            None,
            tuple(cells),
            cells[0].sources if is_shared else (),
            heading,
        )

    def _cell(self, row: Place, column: Place, metric: Metric | None, expected: int) -> Cell:
        assert metric is not None
        trials = self.cells.get((row, column), ())
        if not trials and not self._applies(row, column):
            return Cell()
        contest = None if self._is_baseline(row) else self._contest(row, column, metric)
        published, comparable = None, True
        if self.published:
            settings = {key: value for key, value in self.spec.where.items() if not isinstance(value, list)}
            for dimension, value in zip((*self.rows, *self.columns), (*row, *column), strict=True):
                settings |= dimension.definition(value)
            published = self.published.find(settings, metric.name)
            comparable = all(matches(trial.settings, self.published.setting) for trial in trials)
        choice = self.choices.get((row, column))
        return Cell(
            metric.name,
            sources_of(trials),
            contest,
            expected,
            published,
            comparable,
            mean="no choice" if choice and choice.chosen is None else "",
        )

    def _contest(self, row: Place, column: Place, metric: Metric) -> str:
        """What cells share that are compared: metric, column and data set."""
        texts = zip(self.rows, self.row_texts[row], strict=False)
        data = [text for dimension, text in texts if dimension.key == "dataset"]
        return "; ".join([metric.name, *self.column_texts[column], *data])

    def _is_baseline(self, place: Place) -> bool:
        if isinstance(place, str):
            return place in self.spec.baselines
        return any(d.cases and value in self.spec.baselines for d, value in zip(self.rows, place, strict=True))

    def _applies(self, row: Place, column: Place) -> bool:
        """Whether a cell without trials could have one: a method without a dictionary has no dictionary's size."""
        others = [at for (place, at), trials in self.cells.items() if place == row and trials]
        return not others or not any(
            all((other[position] is None) != (value is None) for other in others)
            for position, value in enumerate(column)
        )


def sources_of(trials: Iterable[Trial]) -> tuple[Source, ...]:
    return tuple(sorted((trial.source for trial in trials), key=lambda source: (source.seed, source.key)))


def _places(dimensions: Sequence[Dimension], trial: Trial) -> list[tuple[Hashable, ...]]:
    """Where a trial stands along dimensions; nowhere if it is none of the cases."""
    return list(itertools.product(*(dimension.values(trial.settings) for dimension in dimensions)))


def _texts(dimensions: Sequence[Dimension], places: Sequence[Place]) -> dict[Place, list[str]]:
    """The text of each value of each place; places with a name first, then by the ranks of their values."""
    distinct = dict.fromkeys(places)
    named = [place for place in distinct if isinstance(place, str)]
    valued = [place for place in distinct if not isinstance(place, str)]
    valued.sort(key=lambda place: [d.rank(value) for d, value in zip(dimensions, place, strict=True)])
    spelled = [d.texts(list(dict.fromkeys(place[at] for place in valued))) for at, d in enumerate(dimensions)]
    return {
        **{place: [place] for place in named},
        **{place: [texts[value] for texts, value in zip(spelled, place, strict=True)] for place in valued},
    }
