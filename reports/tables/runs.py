"""The table of a specification from the runs of the store."""

from __future__ import annotations

import dataclasses

import pandas as pd

from reports.statistics import compute
from reports.tables import model
from reports.tables.choice import Where
from reports.tables.grid import Grid
from reports.tables.model import Table, Values
from reports.tables.spec import TableSpec, matches
from reports.tables.study import Study, study_values
from sweeps.errors import UserError


def table_of_runs(runs: pd.DataFrame, table: TableSpec, where: Where | None = None) -> Table:
    """The table of a specification from runs (`store.read_trials`); `where` narrows it further.

    A cell holds the trials that agree in everything but the seed, in a table about grids also in the settings that span
    the grid. Numbers come from finished ones only.

    Raises UserError if no finished trial matches, and if the trials of a cell differ in a setting that no row or
    column tells, since a mean over different settings would mean nothing.
    """
    grid, values = place(runs, table, where)
    made = grid.table(grid.subject(), values)
    behind = runs[runs["key"].isin(made.sources) & runs["status"].eq(model.FINISHED)]
    return dataclasses.replace(made, compute=compute.device_hours(behind))


def study_points(runs: pd.DataFrame, table: TableSpec, where: Where | None = None) -> pd.DataFrame:
    """The runs behind a table about grids, see `Study.points`. Raises UserError as `table_of_runs` does."""
    grid, _ = place(runs, table, where)
    assert isinstance(grid, Study)
    return grid.points()


def table_scores(runs: pd.DataFrame, table: TableSpec, where: Where | None = None) -> pd.DataFrame:
    """The values behind a table by data set and seed, see `Grid.scores`. Raises UserError as `table_of_runs` does."""
    grid, values = place(runs, table, where)
    return grid.scores(values)


def place(runs: pd.DataFrame, table: TableSpec, where: Where | None = None) -> tuple[Grid, Values]:
    """The trials of `table_of_runs` in their cells, and the metrics of their runs."""
    wanted: Where = {**table.where, **(where or {})}
    # A trial without any setting has no place.
    trials = [trial for trial in model.read_trials(runs) if trial.settings.keys() - {"dataset", *model.EXTRA}]
    matching = [trial for trial in trials if matches(trial.settings, wanted)]
    values: Values = {}
    if table.study:
        values = study_values(runs, table.study)
        grid: Grid = Study(table, table.study, matching, values)
    else:
        grid = Grid(table, matching)
    if not any(trial.is_finished for trials_there in grid.cells.values() for trial in trials_there):
        asked = ", ".join(f"{key}={value}" for key, value in wanted.items())
        datasets = ", ".join(sorted({str(trial.settings["dataset"]) for trial in trials}))
        raise UserError(
            f"table {table.table!r}: none of the {len(trials)} trials found has finished and matches its rows"
            + (f" and {asked}" if asked else "")
            + (f"; the data sets are {datasets}" if "dataset" in wanted else "")
        )
    if not table.study:
        values = model.metric_values(runs, [*table.shown, *([table.select.by] if table.select else [])])
    if table.select:
        grid.choose(table.select, values)
    grid.check_agreement()
    return grid, values
