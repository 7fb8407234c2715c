"""Runs by the keys of their trials: which have finished, failed or been stopped, and what they have recorded."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Collection, Mapping
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, TypeVar, cast
from urllib.parse import quote

from reports.store.connection import (
    NothingThere,
    connect,
    no_garbage_collection,
    open_experiment,
    readable,
    resolve,
    search,
)
from sweeps.addresses import store_file
from sweeps.record import TRIAL, Failure, Status, Tag, TrialRecord

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

T = TypeVar("T")

LOOKUPS = 50
"""Up to so many keys are asked for one by one; for more, reading every trial of the experiment is quicker."""

TRIAL_RUNS = "tags.`cplearn.kind` = 'trial'"
RECORD_TAGS = (Tag.KEY, Tag.SWEEP, Tag.FAILURE, Tag.ERROR, Tag.STOPPED_BY)
OWN_COLUMNS = ("kind", "key", "sweep", "dataset", "role", "label", "fingerprint", "error")
"""Tags `cplearn.*` that have a column of their own in a frame of runs, or need none."""


@dataclass(frozen=True)
class KnownRun:
    """The run that counts for a trial's key: the newest finished one, else the newest.

    `status` is MLflow's; `started` is UTC, ISO 8601; `sweep` is the sweep under which it was made, `error` the end
    of a failure's message, `stopped_by` the sweep and scheduler that stopped it early, all empty where there is none.
    """

    run_id: str
    status: str
    started: str
    sweep: str
    error: str
    stopped_by: str = ""


def known_runs(uri: str | None = None, keys: Collection[str] | None = None) -> dict[str, KnownRun]:
    """The run that counts for each trial key; of all keys, or of `keys`.

    A store or experiment that does not exist yet knows none. Raises UserError if it cannot be read.
    """
    try:
        client, experiment = open_experiment(uri)
    except NothingThere:
        return {}
    if keys is None or len(keys) > LOOKUPS:
        found = _known_in_file(resolve(uri), experiment)
        if found is not None:
            return found if keys is None else {key: run for key, run in found.items() if key in keys}
    with readable(uri):
        return newest(client, experiment, keys, _known_run)


def finished_runs(uri: str | None = None, keys: Collection[str] | None = None) -> dict[str, str]:
    """The run id of the newest finished run of each trial key; arguments and errors as for `known_runs`."""
    return {key: run.run_id for key, run in known_runs(uri, keys).items() if run.status == "FINISHED"}


def trial_records(
    uri: str | None = None, keys: Collection[str] | None = None, metrics: Collection[str] = ()
) -> dict[str, TrialRecord]:
    """The run that counts for each trial key that has one, of all keys or of `keys`, with its last values of `metrics`.

    A store or experiment that does not exist yet has none. Raises UserError if it cannot be read.
    """
    if keys is not None and not keys:
        return {}
    try:
        client, experiment = open_experiment(uri)
    except NothingThere:
        return {}
    records = _records_in_file(resolve(uri), experiment, keys, metrics)
    if records is None:
        with readable(uri):
            records = newest(client, experiment, keys, lambda run: _trial_record(run, metrics))
    return records


def timed_runs(uri: str | None, method: str, fingerprint: str | None = None, most: int = 200) -> list[dict[str, Any]]:
    """Newest finished trials of a method, on any data or on one, at most `most`: what estimates of time start from.

    Each is a plain dict: `params` and `tags` (those of `cplearn.*`, without the prefix) are text, `metrics` the last
    values, `data` what the run says of its data's size. Empty without a store; raises UserError if it is unreadable.
    """
    try:
        client, experiment = open_experiment(uri)
    except NothingThere:
        return []
    query = f"{TRIAL_RUNS} AND attributes.status = 'FINISHED' AND params.`method.name` = '{method}'"
    query += f" AND tags.`cplearn.fingerprint` = '{fingerprint}'" if fingerprint else ""
    with readable(uri), no_garbage_collection():
        return [_timed(run) for run in client.search_runs([experiment], query, max_results=most)]


def _timed(run: Run) -> dict[str, Any]:
    inputs = run.inputs.dataset_inputs if run.inputs else []
    return {
        "params": dict(run.data.params),
        "tags": {k.removeprefix("cplearn."): text for k, text in run.data.tags.items() if k.startswith("cplearn.")},
        "metrics": dict(run.data.metrics),
        "data": json.loads(inputs[0].dataset.profile or "{}") if inputs else {},
    }


def diverged_runs(uri: str | None, keys: Collection[str]) -> dict[str, str]:
    """The failure of each trial key whose newest run has diverged: a loss that is no longer finite.

    Keys that have finished are left out. A store or experiment that does not exist yet has none. Raises UserError if
    it cannot be read.
    """
    try:
        client, experiment = open_experiment(uri)
    except NothingThere:
        return {}
    with readable(uri):
        runs = newest(client, experiment, keys, lambda run: (run.info.status, run.data.tags))
    return {
        key: tags.get("cplearn.error", "")
        for key, (status, tags) in runs.items()
        if status == "FAILED" and tags.get("cplearn.failure") == "diverged"
    }


def metric_histories(uri: str | None, metric: str, keys: Collection[str]) -> dict[str, dict[int, float]]:
    """A metric after each epoch for every trial key that has a run, of the run that counts; epochs from 1.

    A store or experiment that does not exist yet has none. Raises UserError if it cannot be read.
    """
    runs = known_runs(uri, keys)
    if not runs:
        return {}
    client = connect(uri)
    with readable(uri):
        return {
            key: {one.step: one.value for one in client.get_metric_history(run.run_id, metric)}
            for key, run in runs.items()
        }


def read_keys(uri: str | None, keys: Collection[str]) -> dict[str, dict[str, Any]]:
    """For each of the keys that has a run, the record of the one that counts: `run_id`, `status`, `params.*`, `tags.*`,
    and each metric under its name. Raises UserError if the store cannot be read."""
    client, experiment = open_experiment(uri)
    with readable(uri):
        return newest(client, experiment, keys, record)


def recorded(uri: str | None, keys: Collection[str]) -> dict[str, dict[str, Any]]:
    """`read_keys`, where a store or experiment that does not exist yet has none."""
    try:
        return read_keys(uri, keys) if keys else {}
    except NothingThere:
        return {}


def record(run: Run) -> dict[str, Any]:
    tags = {key.removeprefix("cplearn."): text for key, text in run.data.tags.items() if key.startswith("cplearn.")}
    return {
        "run_id": run.info.run_id,
        "status": run.info.status,
        "sweep": tags.get("sweep"),
        "started": _iso(run.info.start_time),
        "fingerprint": tags.get("fingerprint"),
        "error": tags.get("error"),
        **{f"params.{name}": text for name, text in run.data.params.items()},
        **{f"tags.{name}": text for name, text in tags.items() if name not in OWN_COLUMNS},
        **run.data.metrics,
    }


def placed(run: Run) -> dict[str, Any]:
    """What a manifest would say of a trial."""
    tags = {name: run.data.tags.get(f"cplearn.{name}") for name in ("dataset", "role", "label")}
    return {**tags, "seed": int(run.data.params.get("seed", 0))}


def newest(
    client: MlflowClient, experiment: str, keys: Collection[str] | None, keep: Callable[[Run], T]
) -> dict[str, T]:
    """What `keep` makes of the run that counts for each key: the newest finished one, else the newest."""
    queries = [TRIAL_RUNS]
    if keys is not None and len(keys) <= LOOKUPS:
        queries = [f"{TRIAL_RUNS} AND tags.`cplearn.key` = '{key}'" for key in sorted(keys)]
    best: dict[str, tuple[tuple[bool, int, str], T]] = {}
    for query in queries:
        for run in search(client, experiment, query):
            key = run.data.tags.get("cplearn.key")
            if key is None or (keys is not None and key not in keys):
                continue
            rank = (run.info.status == "FINISHED", run.info.start_time, run.info.run_id)
            if key not in best or rank > best[key][0]:
                best[key] = (rank, keep(run))
    return {key: kept for key, (_, kept) in best.items()}


def _known_run(run: Run) -> KnownRun:
    tags = run.data.tags
    started = _iso(run.info.start_time)
    sweep, error, stopped_by = (tags.get(f"cplearn.{name}", "") for name in ("sweep", "error", "stopped_by"))
    return KnownRun(run.info.run_id, run.info.status, started, sweep, error, stopped_by)


def _known_in_file(uri: str, experiment: str) -> dict[str, KnownRun] | None:
    records = _records_in_file(uri, experiment, None, ())
    if records is None:
        return None
    return {
        key: KnownRun(run.run_id, run.status, run.started, run.sweep, run.error, run.stopped_by)
        for key, run in records.items()
    }


def _trial_record(run: Run, metrics: Collection[str]) -> TrialRecord:
    tags = (run.data.tags.get(tag, "") for tag in RECORD_TAGS)
    values = {name: run.data.metrics[name] for name in metrics if name in run.data.metrics}
    return _make_record(run.info.run_id, run.info.status, run.info.start_time, *tags, metrics=values)


def _make_record(
    run_id: str,
    status: str,
    start: int,
    key: str,
    *texts: str | None,
    metrics: Mapping[str, float],
) -> TrialRecord:
    """A record from a run's start in milliseconds and its `RECORD_TAGS`."""
    sweep, failure, error, stopped_by = (text or "" for text in texts)
    return TrialRecord(
        key, run_id, cast(Status, status), sweep, _iso(start), cast(Failure, failure), error, stopped_by, metrics
    )


def _records_in_file(
    uri: str, experiment: str, keys: Collection[str] | None, metrics: Collection[str]
) -> dict[str, TrialRecord] | None:
    """`trial_records` of a SQLite file by one query; None if the store is none, or not laid out as expected.

    MLflow's search returns runs with all they hold: of 10,000 trials that takes 8 s, this a quarter of a second.
    """
    if not uri.startswith("sqlite:"):
        return None
    names = [tag.short for tag in RECORD_TAGS]
    columns = ", ".join(f"{name}.value" for name in names)
    joins = " ".join(
        f"LEFT JOIN tags AS {name} ON {name}.run_uuid = runs.run_uuid AND {name}.key = '{tag}'"
        for name, tag in zip(names, RECORD_TAGS, strict=True)
    )
    # Ordered so that the last row of a key, which stays in the dict, is the one that counts.
    runs = f"""
        SELECT runs.run_uuid, runs.status, runs.start_time, {columns} FROM runs
        JOIN tags AS kind ON kind.run_uuid = runs.run_uuid AND kind.key = '{Tag.KIND}' AND kind.value = '{TRIAL}'
        {joins} WHERE runs.experiment_id = :experiment AND runs.lifecycle_stage = 'active' AND key.value IS NOT NULL
        AND (:keys IS NULL OR key.value IN (SELECT value FROM json_each(:keys)))
        ORDER BY runs.status = 'FINISHED', runs.start_time, runs.run_uuid
    """
    last = """
        SELECT run_uuid, key, CASE WHEN is_nan THEN 'nan' ELSE value END FROM latest_metrics
        WHERE key IN (SELECT value FROM json_each(:metrics))
        AND run_uuid IN (SELECT value FROM json_each(:runs))
    """
    asked = {"experiment": int(experiment), "keys": None if keys is None else json.dumps(list(keys))}
    try:
        with closing(sqlite3.connect(f"file:{quote(str(store_file(uri)))}?mode=ro", uri=True)) as connection:
            rows = {row[3]: row for row in connection.execute(runs, asked)}
            values: dict[str, dict[str, float]] = {row[0]: {} for row in rows.values()}
            if metrics:
                of = {"metrics": json.dumps(list(metrics)), "runs": json.dumps(list(values))}
                for run_id, name, value in connection.execute(last, of):
                    values[run_id][name] = float(value)
    except (sqlite3.Error, ValueError):
        return None
    return {key: _make_record(*row, metrics=values[row[0]]) for key, row in rows.items()}


def _iso(milliseconds: int) -> str:
    return datetime.fromtimestamp(milliseconds / 1000, UTC).isoformat(timespec="seconds")
