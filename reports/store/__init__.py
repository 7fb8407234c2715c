"""The one package that reads MLflow: the records of trials, the results of a sweep, the files of a run.

It works on a local SQLite file and on a remote tracking server alike, by searches that return many runs at once. It
must not know tables and figures, nor how runs are written: their words stand in `sweeps.record`.
"""

from reports.store.connection import artifact_reader, download_model, identity, open_experiment, runs_at
from reports.store.sweeps import SweepResult, list_sweeps, read_runs, read_sweep, read_trials
from reports.store.trials import metric_histories, read_keys, read_run, timed_runs, trial_records

__all__ = [
    "SweepResult",
    "artifact_reader",
    "download_model",
    "identity",
    "list_sweeps",
    "metric_histories",
    "open_experiment",
    "read_keys",
    "read_run",
    "read_runs",
    "read_sweep",
    "read_trials",
    "runs_at",
    "timed_runs",
    "trial_records",
]
