"""Runs by the keys of their trials: how far they are, and what they have recorded."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import closing
from datetime import UTC, datetime
from itertools import islice
from typing import TYPE_CHECKING, Any, TypeVar, cast

from reports.store.connection import NothingThere, connect, open_experiment, read_only, readable, search, shown
from sweeps.addresses import resolve, store_file
from sweeps.record import PARAMS, PREFIX, TRIAL, Failure, Status, Tag, TrialRecord, tag_is

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

T = TypeVar("T")

LOOKUPS = 50  # Up to so many keys are asked for one by one; for more, reading every trial of the experiment is quicker.

TRIAL_RUNS = tag_is(Tag.KIND, TRIAL)
RECORD_TAGS = (Tag.KEY, Tag.SWEEP, Tag.FAILURE, Tag.ERROR, Tag.STOPPED_BY)
OWN_COLUMNS = ("kind", "key", "sweep", "dataset", "role", "label", "fingerprint", "error")
"""Tags `cplearn.*` that have a column of their own in a frame of runs, or need none."""


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

    def make(run: Run) -> TrialRecord:
        values = {name: run.data.metrics[name] for name in metrics if name in run.data.metrics}
        tags = [run.data.tags.get(tag) for tag in RECORD_TAGS]
        return _make_record(run.info.run_id, run.info.status, run.info.start_time, tags, values)

    records = _records_in_file(resolve(uri), experiment, keys, metrics)
    with readable(shown(uri)):
        return newest(client, experiment, keys, make) if records is None else records


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
    if fingerprint:
        query += f" AND {tag_is(Tag.FINGERPRINT, fingerprint)}"
    with readable(shown(uri)):
        return [
            {"params": run.data.params, "tags": _tags(run), "metrics": run.data.metrics, "data": profile_of(run)}
            for run in islice(search(client, experiment, query, most), most)
        ]


def profile_of(run: Run) -> dict[str, Any]:
    """What a run says of its data's size (`sweeps.record.DatasetUse.profile`); empty where it says nothing."""
    inputs = run.inputs.dataset_inputs if run.inputs else []
    return json.loads(inputs[0].dataset.profile or "{}") if inputs else {}


def metric_histories(uri: str | None, metric: str, keys: Collection[str]) -> dict[str, dict[int, float]]:
    """A metric after each epoch for every trial key that has a run, of the run that counts; epochs from 1.

    A store or experiment that does not exist yet has none. Raises UserError if it cannot be read.
    """
    records = trial_records(uri, keys)
    if not records:
        return {}
    client = connect(uri)
    with readable(shown(uri)):
        return {
            key: {point.step: point.value for point in client.get_metric_history(record.run_id, metric)}
            for key, record in records.items()
        }


def read_keys(uri: str | None, keys: Collection[str]) -> dict[str, dict[str, Any]]:
    """For each of the keys that has a run, the `record` of the one that counts. Raises UserError if the store cannot be
    read."""
    client, experiment = open_experiment(uri)
    with readable(shown(uri)):
        return newest(client, experiment, keys, record)


def read_run(uri: str | None, run_id: str) -> dict[str, Any]:
    """The `record` of one run, with its trial's `key`. Raises UserError where there is none."""
    client = connect(uri)
    with readable(f"run {run_id} in {shown(uri)}"):
        run = client.get_run(run_id)
    return {"key": run.data.tags.get(Tag.KEY), **record(run)}


def record(run: Run) -> dict[str, Any]:
    """The columns of a run in a frame of runs: `run_id`, `status`, `params.*`, `tags.*`, each metric, and more."""
    tags = _tags(run)
    return {
        "run_id": run.info.run_id,
        "status": run.info.status,
        "sweep": tags.get("sweep"),
        "started": _iso(run.info.start_time),
        "fingerprint": tags.get("fingerprint"),
        "error": tags.get("error"),
        **{f"{PARAMS}{name}": text for name, text in run.data.params.items()},
        **{f"tags.{name}": text for name, text in tags.items() if name not in OWN_COLUMNS},
        **{name.replace("gmm/", "collapse/"): float(value) for name, value in run.data.metrics.items()},
    }


def newest(
    client: MlflowClient, experiment: str, keys: Collection[str] | None, keep: Callable[[Run], T]
) -> dict[str, T]:
    """What `keep` makes of the run that counts for each key: the newest finished one, else the newest."""
    queries = [TRIAL_RUNS]
    if keys is not None and len(keys) <= LOOKUPS:
        queries = [f"{TRIAL_RUNS} AND {tag_is(Tag.KEY, key)}" for key in sorted(keys)]
    best: dict[str, tuple[tuple[bool, int, str], T]] = {}
    for query in queries:
        for run in search(client, experiment, query):
            key = run.data.tags.get(Tag.KEY)
            if not isinstance(key, str) or (keys is not None and key not in keys):
                continue
            rank = (run.info.status == "FINISHED", run.info.start_time, run.info.run_id)
            if key not in best or rank > best[key][0]:
                best[key] = (rank, keep(run))
    return {key: kept for key, (_, kept) in best.items()}


def _make_record(
    run_id: str, status: str, start: int, tags: Sequence[str | None], metrics: Mapping[str, float]
) -> TrialRecord:
    """A record from a run's start in milliseconds and its `RECORD_TAGS`."""
    key, sweep, failure, error, stopped_by = (text or "" for text in tags)
    return TrialRecord(
        key, run_id, cast(Status, status), sweep, _iso(start), cast(Failure, failure), error, stopped_by, metrics
    )


def _records_in_file(
    uri: str, experiment: str, keys: Collection[str] | None, metrics: Collection[str]
) -> dict[str, TrialRecord] | None:
    """`trial_records` of a SQLite file by one query; None if the store is none, or not laid out as expected.

    MLflow's search returns runs with all they hold: of 10,000 trials that takes 8 s, this a quarter of a second.
    """
    if not uri.startswith("sqlite"):
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
        with closing(read_only(store_file(uri))) as connection:
            rows = {row[3]: row for row in connection.execute(runs, asked)}
            values: dict[str, dict[str, float]] = {row[0]: {} for row in rows.values()}
            if metrics:
                of = {"metrics": json.dumps(list(metrics)), "runs": json.dumps(list(values))}
                for run_id, name, value in connection.execute(last, of):
                    values[run_id][name] = float(value)
    except (sqlite3.Error, ValueError):
        return None
    return {
        key: _make_record(run_id, status, start, tags, values[run_id])
        for key, (run_id, status, start, *tags) in rows.items()
    }


def _tags(run: Run) -> dict[str, str]:
    """Our own tags without their prefix, those of other versions of this program too."""
    return {tag.removeprefix(PREFIX): text for tag, text in run.data.tags.items() if tag.startswith(PREFIX)}


def _iso(milliseconds: int) -> str:
    return datetime.fromtimestamp(milliseconds / 1000, UTC).isoformat(timespec="seconds")
