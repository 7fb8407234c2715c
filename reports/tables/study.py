"""The table of a specification from the runs of the store; and tables about grids, a cell of which holds all settings
of a method's weight. Its number is computed from them seed by seed and then averaged over seeds; `statistics.grids` has
the numbers of one seed."""

import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pandas as pd

from reports import spelling
from reports.metrics import Metric
from reports.statistics import grids
from reports.tables.fill import rank
from reports.tables.grid import Grid, Place, sources_of
from reports.tables.model import EXTRA, Cell, Source, Table, Trial, metric_values, read_trials
from reports.tables.spec import CRITERION, Dimension, StudiedCriterion, StudySettings, TableSpec, Where, matches
from reports.tables.words import Subject
from sweeps.errors import UserError


def place_runs(runs: pd.DataFrame, table: TableSpec, where: Where | None = None) -> Grid:
    """The trials of runs (`store.read_trials`) in the cells of a table; `where` narrows its specification further.

    A cell holds the trials that agree in everything but the seed, in a table about grids also in the settings that span
    the grid. Numbers come from finished ones only.

    Raises UserError if no finished trial matches, and if the trials of a cell differ in a setting that no row or
    column tells, since a mean over different settings would mean nothing.
    """
    wanted: Where = {**table.where, **(where or {})}
    # A trial without any setting has no place.
    trials = [trial for trial in read_trials(runs) if trial.settings.keys() - {"dataset", *EXTRA}]
    matching = [trial for trial in trials if matches(trial.settings, wanted)]
    if table.study:
        grid: Grid = Study(table, table.study, runs, matching)
    else:
        names = [*table.shown, *([table.select.by] if table.select else [])]
        grid = Grid(table, runs, matching, metric_values(runs, names))
    if not any(trial.is_finished for trials_there in grid.cells.values() for trial in trials_there):
        asked = ", ".join(f"{key}={value}" for key, value in wanted.items())
        datasets = ", ".join(sorted({str(trial.settings["dataset"]) for trial in trials}))
        raise UserError(
            f"table {table.table!r}: none of the {len(trials)} trials found has finished and matches its rows"
            + (f" and {asked}" if asked else "")
            + (f"; the data sets are {datasets}" if "dataset" in wanted else "")
        )
    if table.select:
        grid.choose(table.select)
    grid.check_agreement()
    return grid


def study_values(runs: pd.DataFrame, study: StudySettings) -> dict[str, dict[str, float]]:
    """What the grids of a table are made of, by the run's id: metrics, criteria, and whether the run has collapsed."""
    names = [grids.ACCURACY, grids.AMI, *(criterion.by for criterion in study.criteria.values())]
    values = metric_values(runs, names)
    collapsed: Any = grids.run_collapses(runs[runs["run_id"].isin(values)]).to_dict("index")
    return {run_id: values[run_id] | collapsed[run_id] for run_id in values}


class Study(Grid):
    """Trials where the rows and columns of a table about grids cross.

    `derived` keeps the numbers of each cell by seed, `undefined` why there is none: reason to places and seeds. `parts`
    are the grids behind the cells of a row of means.
    """

    def __init__(self, table: TableSpec, study: StudySettings, runs: pd.DataFrame, trials: Sequence[Trial]) -> None:
        values = study_values(runs, study)
        logged = {name for run in values.values() for name, value in run.items() if math.isfinite(value)}
        self.study = study
        self.criteria = {name: each for name, each in study.criteria.items() if each.by in logged}
        # A trial stands at each criterion that is there for it.
        cases = {name: criterion.where for name, criterion in self.criteria.items()}
        criteria = Dimension(cases=cases or {"none": {}}, heading="Criterion")
        columns = [criteria if dimension.key == CRITERION else dimension for dimension in table.columns]
        super().__init__(table.model_copy(update={"columns": columns}), runs, trials, values)
        self.shown = {
            name: metric
            for name, metric in table.shown.items()
            if {*_needs(name)} - {"*"} <= logged and ("*" not in name or self.criteria)
        }
        stars = [metric for name, metric in self.shown.items() if name.endswith("/*")]
        each_criterion = [_of(metric, criterion) for metric in stars for criterion in self.criteria.values()]
        self.metrics = self.shown | {metric.name: metric for metric in each_criterion}
        self.may_differ |= set(study.over)
        self.seeds = tuple(sorted({trial.source.seed for trials in self.cells.values() for trial in trials}))
        self.derived: dict[tuple[str, tuple[Source, ...]], dict[int, float]] = {}
        self.undefined: dict[str, dict[str, list[int]]] = {}
        self.parts: dict[tuple[Place, Place], list[list[Trial]]] = {}

    def subject(self) -> Subject:
        return dataclasses.replace(super().subject(), seeds=self.seeds)

    def table(self, subject: Subject | None = None) -> Table:
        if self.study.mean:
            self._add_means(self.study.mean)
        return super().table(subject)

    def points(self) -> pd.DataFrame:
        """A row for each finished trial of a grid over one number: `dataset`, `method` (the row's name), `setting`, its
        `value`, `seed`, `accuracy` and whether it has `collapsed`."""
        records: dict[str, tuple[Any, ...]] = {}
        for (row, _), trials in self.cells.items():
            texts = zip(self.rows, self.row_texts[row], strict=False)
            method = ", ".join(text for dimension, text in texts if dimension.key != "dataset")
            over = self._varying(trials)
            for trial in trials if len(over) == 1 else []:
                value, run = trial.settings.get(over[0]), self.values.get(trial.source.run_id or "", {})
                accuracy, dataset = run.get(grids.ACCURACY, math.nan), trial.settings["dataset"]
                if trial.is_finished and isinstance(value, int | float) and math.isfinite(accuracy):
                    place = (spelling.SHOWN_AS.get(dataset, dataset), method, spelling.headings(over)[0], float(value))
                    records[trial.source.key] = (*place, trial.source.seed, accuracy, run["collapsed/any"])
        columns = ["dataset", "method", "setting", "value", "seed", "accuracy", "collapsed"]
        return pd.DataFrame(list(records.values()), columns=columns)

    def _add_means(self, name: str) -> None:
        """Add last rows, the means of the rows that differ in the innermost dimension only: methods on one data set."""
        for (row, column), trials in list(self.cells.items()):
            mean = (*row[:-1], name)
            self.row_texts.setdefault(mean, [*self.row_texts[row][:-1], name])
            self.parts.setdefault((mean, column), []).append(trials)
        self.cells |= {place: [trial for part in parts for trial in part] for place, parts in self.parts.items()}

    def _varying(self, trials: Sequence[Trial]) -> list[str]:
        return [key for key in self.study.over if len({trial.spelled(key) for trial in trials}) > 1]

    def _cell(self, row: Place, column: Place, metric: Metric | None, expected: int) -> Cell:
        assert metric is not None
        criterion = self.criteria.get(str(column[-1])) if column and metric.name.endswith("/*") else None
        if criterion:
            metric = _of(metric, criterion)
        trials = self.cells.get((row, column), [])
        if not trials:
            return super()._cell(row, column, metric, expected)
        judged = self.study.named(metric.name.partition("/")[2])
        if judged and not all(matches(trial.settings, judged.where) for trial in trials):
            return Cell()
        sources, parts = sources_of(trials), self.parts.get((row, column))
        contest = None if parts else self._contest(row, column, metric)
        self.derived[metric.name, sources] = (
            self._mean(metric.name, parts) if parts else self._each_seed(metric, trials, ", ".join(self.row_texts[row]))
        )
        return Cell(metric.name, sources, contest, expected, made_of=tuple(_needs(metric.name)))

    def _each_seed(self, metric: Metric, trials: Sequence[Trial], label: str) -> dict[int, float]:
        """The quantity of a grid at each seed where it is defined; elsewhere the reason is kept for the row's label."""
        over = self._varying(trials)
        settings = sorted(trials, key=lambda trial: [rank(trial.settings.get(key)) for key in over])
        criterion = self.study.named(metric.name.partition("/")[2])
        by_seed: dict[int, float] = {}
        for seed in self.seeds:
            runs = [self.values.get(t.source.run_id or "", {}) for t in settings if t.source.seed == seed]
            frame = pd.DataFrame([run for run in runs if math.isfinite(run.get(grids.ACCURACY, math.nan))])
            if frame.empty:
                continue
            value = grids.quantity(metric.name, frame, criterion.better if criterion else "higher")
            if isinstance(value, float):
                by_seed[seed] = value
            else:
                self.undefined.setdefault(value, {}).setdefault(label, []).append(seed)
        return by_seed

    def _mean(self, name: str, parts: Sequence[Sequence[Trial]]) -> dict[int, float]:
        """The mean over the grids that have the quantity at as many seeds as any of them."""
        each = [self.derived.get((name, sources_of(trials)), {}) for trials in parts]
        most = max(map(len, each))
        full = [values for values in each if len(values) == most]
        common = set.intersection(*(set(values) for values in full))
        return {seed: sum(values[seed] for values in full) / len(full) for seed in sorted(common)}

    def _applies(self, row: Place, column: Place) -> bool:
        """A criterion that is there for other methods only has no cell in the row."""
        if any(dimension.cases and set(dimension.cases) == set(self.criteria) for dimension in self.columns):
            return not any(
                at[:-1] == column[:-1] for (place, at), trials in self.cells.items() if place == row and trials
            )
        return super()._applies(row, column)

    def _by_seed(self, cell: Cell) -> Mapping[int, float]:
        return self.derived.get((cell.metric, cell.sources), {})

    def _notes(self) -> Iterator[str]:
        listed: dict[str, str] = {}
        for (row, column), trials in self.cells.items():
            over = self._varying(trials)
            if (row, column) not in self.parts and over:
                texts = spelling.values(sorted({trial.settings.get(over[0]) for trial in trials}, key=rank))
                listed.setdefault(", ".join(self.row_texts[row]), f"{spelling.headings(over)[0]} = {', '.join(texts)}")
        if listed:
            yield f"Settings: {'; '.join(f'{name}, {texts}' for name, texts in listed.items())}."
        placed = {trial.source.run_id or "" for trials in self.cells.values() for trial in trials}
        if stopped := sum(bool(self.values[run_id]["stopped"]) for run_id in placed & self.values.keys()):
            runs = "1 run was" if stopped == 1 else f"{stopped} runs were"
            yield f"{runs} stopped on a collapse before the last epoch and count in the shares of collapse alone."
        for reason, places in self.undefined.items():
            same: dict[tuple[int, ...], list[str]] = {}
            for label, seeds in places.items():
                same.setdefault(tuple(sorted(set(seeds))), []).append(label)
            for missing, labels in same.items():
                yield f"Not defined at {spelling.seeds(missing)} of {'; '.join(labels)}: {reason}."


def _needs(name: str) -> list[str]:
    """The metrics of a run that a quantity of grids is computed from."""
    kind, _, by = name.partition("/")
    return [*grids.BY_CRITERION[kind], by] if kind in grids.BY_CRITERION else [grids.ACCURACY]


def _of(metric: Metric, criterion: StudiedCriterion) -> Metric:
    """The metric in whose name a star stands for a criterion, of that criterion."""
    return dataclasses.replace(metric, name=metric.name.replace("*", criterion.by))
