"""From trials and a specification to a table: places the trials where rows and columns cross, chooses, and lays out."""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import pandas as pd

from reports import spelling
from reports.metrics import Metric
from reports.tables import fill, spec, words
from reports.tables.model import UNDEFINED, Candidate, Cell, Choice, Column, Row, Source, Table
from reports.tables.spec import AXES, METRIC, Dimension, TableSpec, Where, matches
from reports.tables.trials import Trial, Values, from_runs, metric_values
from reports.tables.words import Subject
from sweeps.errors import UserError
from sweeps.record import VALIDATION


@dataclass(frozen=True)
class Name:
    """The place of a row that has a name instead of values along the dimensions."""

    text: str


Place = tuple[Hashable, ...]
"""Values along the dimensions of the rows, or of the columns; of a row with a name only that."""


def table_of_runs(runs: pd.DataFrame, table: TableSpec, where: Where | None = None) -> Table:
    """The table of a specification from runs (`store.read_trials`); `where` narrows it further.

    A cell holds the trials that agree in everything but the seed. Numbers come from finished ones only.

    Raises UserError if no finished trial matches, and if the trials of a cell differ in a setting that no row or
    column tells, since a mean over different settings would mean nothing.
    """
    wanted: Where = {**table.where, **(where or {})}
    trials = from_runs(runs)
    grid = Grid(table, [trial for trial in trials if matches(trial.settings, wanted)])
    if not any(trial.is_finished for trials_there in grid.cells.values() for trial in trials_there):
        asked = ", ".join(f"{key}={value}" for key, value in wanted.items())
        raise UserError(
            f"table {table.table!r}: none of the {len(trials)} trials found has finished and matches its rows"
            + (f" and {asked}" if asked else "")
        )
    values = metric_values(runs, [*table.shown, *([table.select.by] if table.select else [])])
    grid.choose(values)
    grid.check_agreement()
    return grid.table(Subject(name=table.table, title=f"Table {table.table}", about=table.title), values)


class Grid:
    """Trials where the rows and columns of a specification cross.

    `cells` maps the places of a row and of a column to the trials there, `choices` to the choice that was made there.
    """

    def __init__(self, table: TableSpec, trials: Sequence[Trial]) -> None:
        self.spec = table
        self.published = spec.published(table.published) if table.published else None
        self.rows, self.columns = (
            [dimension for dimension in dimensions if dimension.key not in (METRIC, AXES)]
            for dimensions in (table.rows, table.columns)
        )
        self.reasons = {trial.source.key: trial.reason for trial in trials}
        self.choices: dict[tuple[Place, Place], Choice] = {}
        self.cells: dict[tuple[Place, Place], list[Trial]] = {}
        for trial in trials:
            rows = [(Name(trial.name),)] if trial.name else _places(self.rows, trial)
            for place in itertools.product(rows, _places(self.columns, trial)):
                self.cells.setdefault(place, []).append(trial)
        self.row_places = _ordered(self.rows, [row for row, _ in self.cells])
        self.column_places = _ordered(self.columns, [column for _, column in self.cells])
        self.row_texts = _texts(self.rows, self.row_places)
        self.column_texts = _texts(self.columns, self.column_places)

    def choose(self, values: Values) -> None:
        """Keep in each cell the trials with the best value of the setting that the specification wants chosen."""
        if (select := self.spec.select) is None:
            return
        for place, trials in self.cells.items():
            if choice := _candidates(trials, select, self.label(place)):
                self.choices[place] = choice = fill.choose(choice, values)
                spelled = [spelling.values([trial.settings.get(select.over)])[0] for trial in trials]
                self.cells[place] = [t for t, value in zip(trials, spelled, strict=True) if value == choice.chosen]

    def check_agreement(self) -> None:
        """Raise UserError if trials of one cell differ in more than the seed. A setting that one of them lacks is
        younger than that trial, which then has its default."""
        for place, trials in self.cells.items():
            differing: dict[str, list[str]] = {}
            for key in dict.fromkeys(key for trial in trials for key in trial.settings if key != "seed"):
                spelled = {_json(trial.settings[key]) for trial in trials if key in trial.settings}
                if len(spelled) > 1:
                    differing[key] = sorted(spelled)
            if differing:
                key, texts = next(iter(differing.items()))
                others = len(differing) - 1
                further = f" and {others} more setting{'s' if others > 1 else ''}" if others else ""
                results = [trial.settings[key] for trial in trials if trial.is_finished and key in trial.settings]
                example = _json(results[-1]) if results else texts[-1]
                raise UserError(
                    f"table {self.spec.table!r}: {self.label(place)} has trials that differ in {key} "
                    f"({', '.join(texts)}){further}; say which count, for instance --where {key}={example} or "
                    "--sweep NAME"
                )

    def table(self, subject: Subject, values: Values) -> Table:
        """The table with its numbers and sentences. Metrics that no run has are left out."""
        logged = {name for run in values.values() for name, value in run.items() if math.isfinite(value)}
        shown = {name: metric for name, metric in self.spec.shown.items() if name in logged}
        if not shown:
            raise UserError(f"table {self.spec.table!r}: no run has any of its metrics, {', '.join(self.spec.shown)}")
        in_blocks = self.spec.rows[0].key == METRIC
        heads = list(self._column_heads([None] if in_blocks else list(shown.values())))
        seeds = [len(subject.seeds) or self._most_trials(at) for at, _, _ in heads]
        blocks: list[Metric | None] = [*shown.values()] if in_blocks else [None]
        rows: list[Row] = []
        baselines: list[Row] = []
        for block in blocks:
            for place in self.row_places:
                row = self._row(place, block, [(at, metric) for at, metric, _ in heads], seeds)
                # A baseline within a block stands in it.
                (baselines if self._is_baseline(place) and not in_blocks else rows).append(row)
        cells = [cell for row in (*baselines, *rows) for cell in row.cells]
        n = max(cell.expected for cell in cells)
        published = [cell for cell in cells if cell.published is not None]
        empty = Table(
            sweep=subject.name,
            dataset=subject.dataset,
            slug=subject.slug,
            n=n,
            title=subject.title,
            headings=tuple(dimension.title for dimension in self.rows) or ("",),
            columns=tuple(column for _, _, column in heads),
            baselines=tuple(baselines),
            rows=tuple(rows),
            caption=tuple(words.caption(self.spec, subject, shown, n, published)),
            notes=(),
            origin=subject.origin,
            metrics=shown,
            spec=self.spec.hash,
            choices=tuple(self.choices.values()),
        )
        table = fill.fill(empty, values)
        # A row of a block whose metric is not defined for it says nothing: raw pixels have no codes.
        table = dataclasses.replace(table, rows=tuple(r for r in table.rows if not (r.block and _is_undefined(r))))
        return dataclasses.replace(table, notes=(*words.notes(table, self.reasons, values), *subject.notes))

    def label(self, place: tuple[Place, Place]) -> str:
        """The name of a cell."""
        return ", ".join([*self._spelled(place[0], self.row_texts), *self._spelled(place[1], self.column_texts)])

    def _spelled(self, place: Place, texts: Sequence[Mapping[Hashable, str]]) -> list[str]:
        if place and isinstance(place[0], Name):
            return [place[0].text]
        return [spelled[value] for spelled, value in zip(texts, place, strict=True)]

    def _column_heads(self, metrics: Sequence[Metric | None]) -> Iterator[tuple[Place, Metric | None, Column]]:
        """Each column with its place, its metric unless the rows are in blocks of metrics, and its heading."""
        for place in self.column_places:
            texts = self._spelled(place, self.column_texts)
            full = [
                text if dimension.explains_itself else f"{dimension.title} = {text}"
                for dimension, text in zip(self.columns, texts, strict=True)
            ]
            for metric in metrics:
                if metric:
                    heading = ", ".join([*full, metric.heading])
                    yield place, metric, Column(metric.name, heading, (*full, metric.group), metric.short)
                    continue
                short = "" if self.columns[-1].key == "dataset" else texts[-1]
                groups = (*full[:-1], self.columns[-1].title if short else full[-1])
                yield place, None, Column(", ".join(full), ", ".join(full), groups, short)

    def _row(
        self, place: Place, block: Metric | None, columns: Sequence[tuple[Place, Metric | None]], seeds: Sequence[int]
    ) -> Row:
        name = place[0].text if place and isinstance(place[0], Name) else ""
        texts = self._spelled(place, self.row_texts)
        cells = [
            self._cell(place, at, metric or block, expected)
            for (at, metric), expected in zip(columns, seeds, strict=True)
        ]
        shared = cells[0].sources if all(cell.sources == cells[0].sources for cell in cells) else ()
        full = [
            text if dimension.explains_itself else f"{dimension.title} = {text}"
            for dimension, text in zip(self.rows, texts, strict=False)
        ]
        heading = block.heading if block else ""
        label = name or ", ".join(full) or heading
        return Row(tuple(texts) or (heading,), label, None, tuple(cells), shared, heading)

    def _cell(self, row: Place, column: Place, metric: Metric | None, expected: int) -> Cell:
        assert metric is not None
        trials = self.cells.get((row, column), ())
        if not trials and not self._applies(row, column):
            return Cell()
        data = [
            text
            for dimension, text in zip(self.rows, self._spelled(row, self.row_texts), strict=False)
            if dimension.key == "dataset"
        ]
        group = self.published
        settings = {key: value for key, value in self.spec.where.items() if not isinstance(value, list)}
        for dimension, value in zip((*self.rows, *self.columns), (*row, *column), strict=False):
            settings |= dimension.definition(value) if group else {}
        choice = self.choices.get((row, column))
        return Cell(
            metric.name,
            tuple(sorted((trial.source for trial in trials), key=lambda source: source.seed)),
            None
            if self._is_baseline(row)
            else "; ".join([metric.name, *self._spelled(column, self.column_texts), *data]),
            expected=expected,
            published=group.find(settings, metric.name) if group else None,
            comparable=group is None or all(matches(trial.settings, group.setting) for trial in trials),
            mean="no choice" if choice and choice.chosen is None else "",
        )

    def _is_baseline(self, place: Place) -> bool:
        if place and isinstance(place[0], Name):
            return place[0].text in self.spec.baselines
        return any(d.cases and value in self.spec.baselines for d, value in zip(self.rows, place, strict=True))

    def _most_trials(self, column: Place) -> int:
        return max((len(trials) for (_, at), trials in self.cells.items() if at == column), default=0)

    def _applies(self, row: Place, column: Place) -> bool:
        """Whether a cell without trials could have one: a method without a dictionary has no dictionary's size."""
        others = [at for (place, at), trials in self.cells.items() if place == row and trials]
        return not others or not any(
            all((other[position] is None) != (value is None) for other in others)
            for position, value in enumerate(column)
        )


def _places(dimensions: Sequence[Dimension], trial: Trial) -> list[Place]:
    """Where a trial stands along dimensions; nowhere if it is none of the cases."""
    return list(itertools.product(*(dimension.values(trial.settings) for dimension in dimensions)))


def _ordered(dimensions: Sequence[Dimension], places: Sequence[Place]) -> list[Place]:
    """Distinct places, those with a name first, then by the ranks of their values."""

    def rank(place: Place) -> list[tuple[object, ...]]:
        if place and isinstance(place[0], Name):
            return []
        return [dimension.rank(value) for dimension, value in zip(dimensions, place, strict=True)]

    return sorted(dict.fromkeys(places), key=rank)


def _texts(dimensions: Sequence[Dimension], places: Sequence[Place]) -> list[dict[Hashable, str]]:
    """For each dimension the text of each value along it."""
    valued = [place for place in places if not (place and isinstance(place[0], Name))]
    return [d.texts(list(dict.fromkeys(place[at] for place in valued))) for at, d in enumerate(dimensions)]


def _candidates(trials: Sequence[Trial], select: spec.Selection, where: str) -> Choice | None:
    """The choice to be made among the trials of a cell; None where they agree."""
    groups: dict[str, list[Source]] = {}
    values = {}
    for trial in trials:
        value = trial.settings.get(select.over)
        (spelled,) = spelling.values([value])
        values[spelled] = value
        groups.setdefault(spelled, []).append(trial.source)
    if len(groups) < 2:
        return None
    ranked = sorted(groups, key=lambda text: (not isinstance(values[text], int | float), values[text], text))
    candidates = tuple(Candidate(text, tuple(sorted(groups[text], key=lambda s: s.seed))) for text in ranked)
    barred = ""
    if select.by.startswith(VALIDATION) and any(t.settings.get("method.name") == "supervised" for t in trials):
        barred = "since a supervised backbone was trained on the labels of the validation split"
    return Choice(where, select.over, select.by, select.better, candidates, None, barred)


def _is_undefined(row: Row) -> bool:
    return {cell.mean for cell in row.cells if cell.metric} <= {UNDEFINED}


def _json(value: object) -> str:
    return json.dumps(value, sort_keys=True)
