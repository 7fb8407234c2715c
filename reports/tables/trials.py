"""Trials with their settings, and their metrics, from a frame of runs as `reports.store` reads it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pandas as pd

from reports import spelling
from reports.tables.model import FINISHED, Source
from sweeps.record import BASELINE, PARAMS, Tag, param_value

Values = Mapping[str, Mapping[str, float]]
"""Run id to the metrics of the run."""


@dataclass(frozen=True)
class Trial:
    """A trial with its settings as values.

    `reason` is the last line of its error. `name` is that of its row where no dimension places it, such as a baseline
    of a sweep.
    """

    source: Source
    settings: Mapping[str, Any]
    reason: str
    name: str = ""

    @property
    def is_finished(self) -> bool:
        return self.source.status == FINISHED


def from_runs(runs: pd.DataFrame) -> list[Trial]:
    """The trials of a frame by their settings, in its order; a trial without any setting has no place in a table."""
    return [trial for trial in _trials(runs, ()) if trial.settings.keys() - {"dataset", *EXTRA}]


def from_sweep(runs: pd.DataFrame, axes: Sequence[str]) -> list[Trial]:
    """The trials of a sweep by its axes, in the order of the frame. Baselines have a name, all trials of a sweep
    without axes too."""
    names = runs["label"].where((runs["role"] == BASELINE) | (not axes), "")
    return [replace(trial, name=name) for trial, name in zip(_trials(runs, axes), names, strict=True)]


def metric_values(runs: pd.DataFrame, names: Sequence[str]) -> dict[str, dict[str, float]]:
    """These metrics of every finished run; what a run has not logged is not a number."""
    finished = runs[runs["status"] == FINISHED]
    records: Any = finished.reindex(columns=list(names)).astype(float).to_dict("records")
    return dict(zip(finished["run_id"], records, strict=True))


EXTRA = ("data fingerprint", "numerics")
"""What trials must agree in beside their settings."""


def _trials(runs: pd.DataFrame, axes: Sequence[str]) -> list[Trial]:
    params = [name for name in map(str, runs.columns) if name.startswith(PARAMS)]
    fixed = ["seed", "key", "run_id", "status", "error", "dataset", "fingerprint", Tag.NUMERICS.column]
    frame = runs.reindex(columns=[*fixed, *params, *axes])
    parsed: dict[str, Any] = {}  # Thousands of trials have few different texts.
    trials = []
    for row in frame.to_numpy(dtype=object).tolist():
        seed, key, run_id, status, error, dataset, *extra = row[: len(fixed)]
        settings: dict[str, Any] = {}
        for name, text in zip(params, row[len(fixed) :], strict=False):
            if isinstance(text, str):
                if text not in parsed:
                    parsed[text] = param_value(text)
                settings[name.removeprefix(PARAMS)] = parsed[text]
        settings |= {"dataset": dataset, **dict(zip(EXTRA, extra, strict=True))}
        settings |= dict(zip(axes, row[len(fixed) + len(params) :], strict=True))
        source = Source(int(seed), key, run_id if isinstance(run_id, str) else None, status)
        trials.append(Trial(source, settings, spelling.last_line(error)))
    return trials
