"""The one package that reads MLflow: which trials have finished, the results of a sweep, the files of a model.

All of it goes through searches that return many runs with their params, tags and last metrics, never through one call a
run, and works on a local SQLite file and on a remote tracking server alike.
"""

from reports.store.artifacts import artifact_reader, download_model
from reports.store.connection import NothingThere, check, runs_at
from reports.store.sweeps import SweepResult, list_sweeps, read_sweep, read_trials
from reports.store.trials import (
    LOOKUPS,
    KnownRun,
    diverged_runs,
    finished_runs,
    known_runs,
    metric_histories,
    read_keys,
    recorded,
    timed_runs,
    trial_records,
)
from sweeps.addresses import experiment_name, resolve, without_secrets

__all__ = [
    "LOOKUPS",
    "KnownRun",
    "NothingThere",
    "SweepResult",
    "artifact_reader",
    "check",
    "diverged_runs",
    "download_model",
    "experiment_name",
    "finished_runs",
    "known_runs",
    "list_sweeps",
    "metric_histories",
    "read_keys",
    "read_sweep",
    "read_trials",
    "recorded",
    "resolve",
    "runs_at",
    "timed_runs",
    "trial_records",
    "without_secrets",
]
