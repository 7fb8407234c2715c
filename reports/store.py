"""The one module that reads MLflow: which trials have finished, the results of a sweep, the files of a model.

All of it goes through searches that return many runs with their params, tags and last metrics, never through one call a
run, and works on a local SQLite file and on a remote tracking server alike.
"""

from __future__ import annotations

import difflib
import gc
import json
import os
import re
import socket
import sqlite3
import tempfile
import urllib.request
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.error import HTTPError
from urllib.parse import quote

import pandas as pd

from reports.errors import ReportError

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

T = TypeVar("T")

MANIFEST_VERSION = 1
PAGE = 1000
LOOKUPS = 50
"""Up to so many keys are asked for one by one; for more, reading every trial of the experiment is quicker."""

SWEEP_RUNS = "tags.`cplearn.kind` = 'sweep'"
TRIAL_RUNS = "tags.`cplearn.kind` = 'trial'"
OWN_COLUMNS = ("kind", "key", "sweep", "dataset", "role", "label", "fingerprint", "error")
"""Tags `cplearn.*` that have a column of their own in a frame of runs, or need none."""


class NothingThere(ReportError):
    """The store, or the experiment in it, does not exist."""


@dataclass(frozen=True)
class SweepResult:
    """What a sweep has given on one data set.

    `axes` maps dotted settings to their values in the order of the table. `runs` has one row for each trial that the
    sweep declares, run or not, in the order of the manifest, with the columns

    - `run_id`, `key`, `status`: FINISHED, FAILED, KILLED, RUNNING, or MISSING where no run has the trial's key. Of
      several runs of a key the newest finished one counts, else the newest;
    - `sweep`: the sweep under which that run was made, which may be another; `started`: UTC, ISO 8601;
    - `dataset`, `fingerprint`, `role` (trial or baseline), `label`, `seed`;
    - one column for each axis under its dotted name, None for baselines;
    - `error`: the end of the failure's message;
    - `params.*` and `tags.*`: text, as logged (of the tags, those that start with `cplearn.`);
    - each metric under its own name, `probe/accuracy` for instance: the last value that was logged.

    `search` is what the sweep file says of a search, None where a grid or random draws were run.
    """

    sweep: str
    description: str
    dataset: str
    slug: str
    axes: dict[str, list[Any]]
    seeds: list[int]
    about: dict[str, Any]
    parent: str
    runs: pd.DataFrame = field(repr=False)
    search: dict[str, Any] | None = None


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

    A store or experiment that does not exist yet knows none. Raises ReportError if it cannot be read.
    """
    try:
        client, experiment = _open(uri)
    except NothingThere:
        return {}
    if keys is None or len(keys) > LOOKUPS:
        found = _known_in_file(resolve(uri), experiment)
        if found is not None:
            return found if keys is None else {key: run for key, run in found.items() if key in keys}
    with _readable(uri):
        return _newest(client, experiment, keys, _known_run)


def finished_runs(uri: str | None = None, keys: Collection[str] | None = None) -> dict[str, str]:
    """The run id of the newest finished run of each trial key; arguments and errors as for `known_runs`."""
    return {key: run.run_id for key, run in known_runs(uri, keys).items() if run.status == "FINISHED"}


def timed_runs(uri: str | None, method: str, fingerprint: str | None = None, most: int = 200) -> list[dict[str, Any]]:
    """Newest finished trials of a method, on any data or on one, at most `most`: what estimates of time start from.

    Each is a plain dict: `params` and `tags` (those of `cplearn.*`, without the prefix) are text, `metrics` the last
    values, `data` what the run says of its data's size. Empty without a store; raises ReportError if it is unreadable.
    """
    try:
        client, experiment = _open(uri)
    except NothingThere:
        return []
    query = f"{TRIAL_RUNS} AND attributes.status = 'FINISHED' AND params.`method.name` = '{method}'"
    query += f" AND tags.`cplearn.fingerprint` = '{fingerprint}'" if fingerprint else ""
    with _readable(uri), _no_garbage_collection():
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

    Keys that have finished are left out. A store or experiment that does not exist yet has none. Raises ReportError if
    it cannot be read.
    """
    try:
        client, experiment = _open(uri)
    except NothingThere:
        return {}
    with _readable(uri):
        runs = _newest(client, experiment, keys, lambda run: (run.info.status, run.data.tags))
    return {
        key: tags.get("cplearn.error", "")
        for key, (status, tags) in runs.items()
        if status == "FAILED" and tags.get("cplearn.failure") == "diverged"
    }


def metric_histories(uri: str | None, metric: str, keys: Collection[str]) -> dict[str, dict[int, float]]:
    """A metric after each epoch for every trial key that has a run, of the run that counts; epochs from 1.

    A store or experiment that does not exist yet has none. Raises ReportError if it cannot be read.
    """
    runs = known_runs(uri, keys)
    if not runs:
        return {}
    client = _connect(uri)
    with _readable(uri):
        return {
            key: {one.step: one.value for one in client.get_metric_history(run.run_id, metric)}
            for key, run in runs.items()
        }


def recorded(uri: str | None, keys: Collection[str]) -> dict[str, dict[str, Any]]:
    """`read_keys`, where a store or experiment that does not exist yet has none."""
    try:
        return read_keys(uri, keys) if keys else {}
    except NothingThere:
        return {}


def list_sweeps(uri: str | None = None, datasets: Collection[str] | None = None) -> list[str]:
    """Names of the sweeps in the store, the newest first; all, or those run on one of the data sets (slugs).

    Raises ReportError if the store cannot be read or holds no sweep.
    """

    def used(run: Run) -> set[str]:
        return set(run.data.tags.get("cplearn.dataset", "").split(", "))

    client, experiment = _open(uri)
    with _readable(uri):
        parents = _parents(client, experiment, uri)
    return [name for name, runs in parents.items() if datasets is None or any(used(r) & set(datasets) for r in runs)]


def read_sweep(uri: str | None, name: str, datasets: Collection[str] | None = None) -> list[SweepResult]:
    """The results of a sweep, one for each data set it was run on, or for those whose slugs are given.

    Where several parent runs have the sweep's name, each data set is taken from the newest one that declares it.

    Raises ReportError for an unknown name or data set (with the known ones), and if the store cannot be read.
    """
    client, experiment = _open(uri)
    with _readable(uri):
        known = _parents(client, experiment, uri)
        if name not in known:
            near = difflib.get_close_matches(name, known, 3, cutoff=0.5)
            hint = f"did you mean {' or '.join(map(repr, near))}? " if near else ""
            raise ReportError(f"no sweep {name!r} in {_shown(uri)}; {hint}known sweeps: {', '.join(sorted(known))}")
        declared: dict[str, tuple[str, Mapping[str, Any]]] = {}
        for parent in known[name]:
            manifest = _manifest(client, parent.info.run_id)
            for slug in dict.fromkeys(dataset["slug"] for dataset in manifest.get("datasets", [])):
                declared.setdefault(slug, (parent.info.run_id, manifest))
        if not declared:
            raise ReportError(f"sweep {name!r} in {_shown(uri)} has no manifest.json; run the sweep again to write it")
        if unknown := sorted(set(datasets or ()) - declared.keys()):
            raise ReportError(f"sweep {name!r} was not run on {unknown[0]!r}, only on: {', '.join(sorted(declared))}")
        wanted = {slug: found for slug, found in declared.items() if datasets is None or slug in datasets}
        keys = {t["key"] for slug, (_, manifest) in wanted.items() for t in manifest["trials"] if t["dataset"] == slug}
        runs = _newest(client, experiment, keys, _record)
    return [_result(slug, parent, manifest, runs) for slug, (parent, manifest) in sorted(wanted.items())]


def read_trials(uri: str | None, sweeps: Collection[str] | None = None) -> pd.DataFrame:
    """One row for each trial of the experiment, or of some sweeps: the columns of `SweepResult.runs`, axes apart.

    Of the whole experiment these are the trials that have a run. Of sweeps also those that were declared and have none:
    their settings are those of the same point at another seed, or if no seed has a run, unknown.

    Raises ReportError as `read_sweep` does, and where the experiment holds no trial.
    """
    if sweeps is not None:
        frames = []
        for result in (result for name in sweeps for result in read_sweep(uri, name)):
            settings = [name for name in result.runs if str(name).startswith("params.") and name != "params.seed"]
            known = result.runs.groupby("label")[settings].transform("first")
            frames.append(result.runs.drop(columns=list(result.axes)).assign(**result.runs[settings].fillna(known)))
        trials = pd.concat(frames, ignore_index=True)
        # A trial that several sweeps share is one trial.
        return trials.drop_duplicates("key", ignore_index=True)
    client, experiment = _open(uri)
    with _readable(uri):
        found = _newest(client, experiment, None, lambda run: _placed(run) | _record(run))
    if not found:
        raise ReportError(
            f"{_shown(uri)} holds no trial yet; run a sweep, for instance: cplearn sweep sweeps/beta.yaml"
        )
    return pd.DataFrame.from_records([{"key": key, **record} for key, record in found.items()])


def read_keys(uri: str | None, keys: Collection[str]) -> dict[str, dict[str, Any]]:
    """For each of the keys that has a run, the record of the one that counts: `run_id`, `status`, `params.*`, `tags.*`,
    and each metric under its name. Raises ReportError if the store cannot be read."""
    client, experiment = _open(uri)
    with _readable(uri):
        return _newest(client, experiment, keys, _record)


def runs_at(uri: str | None) -> str:
    """The address that the page of a run of the experiment starts with; empty where the store is a file."""
    address = resolve(uri)
    if not address.startswith(("http:", "https:")):
        return ""
    return f"{without_secrets(address).rstrip('/')}/#/experiments/{_open(uri)[1]}/runs/"


def experiment_name() -> str:
    """The MLflow experiment that is read."""
    return os.environ.get("MLFLOW_EXPERIMENT_NAME", "cplearn")


def without_secrets(address: str) -> str:
    """A store's address without user, password and query; a password may hold any character, `@` and `/` too."""
    return address if address.startswith("sqlite") else re.sub(r"(://).*@", r"\1", address.partition("?")[0])


def download_model(run_id: str) -> Path:
    """A local folder with the model of a finished run: the store's own where that is local, else a temporary copy.

    Raises LookupError with one sentence if there is no such run or it has no model.
    """
    if not re.fullmatch(r"[0-9a-f]{32}", run_id):
        raise LookupError(f"{run_id!r} is not a run id, which has 32 hexadecimal digits")
    try:
        client = _connect(None)
    except ReportError as error:
        raise LookupError(str(error)) from None
    from mlflow.exceptions import MlflowException

    try:
        held = {file.path for file in client.list_artifacts(run_id)}
    except MlflowException:
        raise LookupError(f"no run {run_id} in {_shown(None)}") from None
    if "model" not in held:
        raise LookupError(f"run {run_id} in {_shown(None)} has no model; did it finish?")
    return Path(client.download_artifacts(run_id, "model"))


def artifact_reader(uri: str | None = None) -> Callable[[str, str], bytes | None]:
    """A function from a run's id and the path of a file among its artifacts to the file's bytes, None if it has no such
    file. It raises ReportError if the store cannot be read."""
    client = _connect(uri)
    from mlflow.exceptions import MlflowException

    def read(run_id: str, path: str) -> bytes | None:
        folder = path.rpartition("/")[0] or None
        try:
            if path not in {file.path for file in client.list_artifacts(run_id, folder)}:
                return None
            with tempfile.TemporaryDirectory() as scratch:
                return Path(client.download_artifacts(run_id, path, scratch)).read_bytes()
        except (MlflowException, OSError) as error:
            reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
            raise ReportError(f"{path} of run {run_id} in {_shown(uri)} cannot be read: {reason}") from error

    return read


def _result(slug: str, parent: str, manifest: Mapping[str, Any], runs: Mapping[str, dict[str, Any]]) -> SweepResult:
    about = next(dataset for dataset in manifest["datasets"] if dataset["slug"] == slug)
    axes: dict[str, list[Any]] = manifest["axes"]
    declared = [
        {
            "run_id": None,
            "key": trial["key"],
            "status": "MISSING",
            "sweep": None,
            "started": None,
            "dataset": slug,
            "fingerprint": about["fingerprint"],
            "role": trial["role"],
            "label": trial["label"],
            "seed": trial["seed"],
            **{axis: trial["point"].get(axis) for axis in axes},
            "error": None,
        }
        for trial in manifest["trials"]
        if trial["dataset"] == slug
    ]
    frame = pd.DataFrame.from_records([{**trial, **runs.get(trial["key"], {})} for trial in declared])
    for axis in axes:  # Beside the None of the baselines pandas would turn integers into floats.
        frame[axis] = pd.Series([trial[axis] for trial in declared], dtype=object)
    logged = [name for name in map(str, frame.columns) if name not in declared[0]]
    logged.sort(key=lambda name: (not name.startswith("params."), not name.startswith("tags."), name))
    return SweepResult(
        sweep=manifest["sweep"],
        description=manifest["description"],
        dataset=about["name"],
        slug=slug,
        axes=axes,
        seeds=manifest["seeds"],
        about=about,
        parent=parent,
        runs=frame[[*declared[0], *logged]],
        search=manifest.get("search"),
    )


def _placed(run: Run) -> dict[str, Any]:
    """What a manifest would say of a trial."""
    tags = {name: run.data.tags.get(f"cplearn.{name}") for name in ("dataset", "role", "label")}
    return {**tags, "seed": int(run.data.params.get("seed", 0))}


def _record(run: Run) -> dict[str, Any]:
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


def _newest(
    client: MlflowClient, experiment: str, keys: Collection[str] | None, keep: Callable[[Run], T]
) -> dict[str, T]:
    """What `keep` makes of the run that counts for each key: the newest finished one, else the newest."""
    queries = [TRIAL_RUNS]
    if keys is not None and len(keys) <= LOOKUPS:
        queries = [f"{TRIAL_RUNS} AND tags.`cplearn.key` = '{key}'" for key in sorted(keys)]
    best: dict[str, tuple[tuple[bool, int, str], T]] = {}
    for query in queries:
        for run in _search(client, experiment, query):
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
    """`known_runs` of all keys from a SQLite file by one query; None if it is none, or not laid out as expected.

    MLflow's search returns runs with all they hold: of 10,000 trials that takes 8 s, this a quarter of a second.
    """
    if not uri.startswith("sqlite:"):
        return None
    # Ordered so that the last row of a key, which stays in the dict, is the one that counts.
    query = """
        SELECT key.value, runs.run_uuid, runs.status, runs.start_time, sweep.value, error.value,
            stopped.value
        FROM runs
        JOIN tags AS kind ON kind.run_uuid = runs.run_uuid AND kind.key = 'cplearn.kind' AND kind.value = 'trial'
        JOIN tags AS key ON key.run_uuid = runs.run_uuid AND key.key = 'cplearn.key'
        LEFT JOIN tags AS sweep ON sweep.run_uuid = runs.run_uuid AND sweep.key = 'cplearn.sweep'
        LEFT JOIN tags AS error ON error.run_uuid = runs.run_uuid AND error.key = 'cplearn.error'
        LEFT JOIN tags AS stopped ON stopped.run_uuid = runs.run_uuid AND stopped.key = 'cplearn.stopped_by'
        WHERE runs.experiment_id = ? AND runs.lifecycle_stage = 'active'
        ORDER BY runs.status = 'FINISHED', runs.start_time, runs.run_uuid
    """
    try:
        with closing(sqlite3.connect(f"file:{quote(_file(uri))}?mode=ro", uri=True)) as connection:
            rows = connection.execute(query, (int(experiment),)).fetchall()
    except (sqlite3.Error, ValueError):
        return None
    return {
        key: KnownRun(run_id, status, _iso(start), sweep or "", error or "", stopped or "")
        for key, run_id, status, start, sweep, error, stopped in rows
    }


def _iso(milliseconds: int) -> str:
    return datetime.fromtimestamp(milliseconds / 1000, UTC).isoformat(timespec="seconds")


def _file(uri: str) -> str:
    """The path in the address of a SQLite store."""
    return uri.partition(":///")[2].partition("?")[0]


def _parents(client: MlflowClient, experiment: str, uri: str | None) -> dict[str, list[Run]]:
    """The parent runs of each sweep's name; raises ReportError if there is none.

    The one that was worked on last comes first: a parent goes on when its sweep is invoked again.
    """
    parents: dict[str, list[Run]] = {}
    runs = _search(client, experiment, SWEEP_RUNS)
    for run in sorted(runs, key=lambda run: max(run.info.start_time, run.info.end_time or 0), reverse=True):
        parents.setdefault(run.data.tags.get("cplearn.sweep", ""), []).append(run)
    if not parents:
        raise ReportError(f"{_shown(uri)} holds no sweep yet; run one, for instance: cplearn sweep sweeps/beta.yaml")
    return parents


def _manifest(client: MlflowClient, run_id: str) -> Mapping[str, Any]:
    """The manifest of a parent run; empty if the sweep was stopped before it was written."""
    if "manifest.json" not in {file.path for file in client.list_artifacts(run_id)}:
        return {}
    with tempfile.TemporaryDirectory() as folder:
        path = client.download_artifacts(run_id, "manifest.json", folder)
        manifest: dict[str, Any] = json.loads(Path(path).read_text(encoding="utf-8"))
    if manifest.get("version") != MANIFEST_VERSION:
        raise ReportError(
            f"the manifest of run {run_id} has version {manifest.get('version')!r}, this program reads "
            f"{MANIFEST_VERSION}; use the version of the program that wrote it"
        )
    return manifest


def _search(client: MlflowClient, experiment: str, query: str) -> Iterator[Run]:
    token = None
    while True:
        with _no_garbage_collection():
            page = client.search_runs([experiment], query, max_results=PAGE, page_token=token)
        yield from page
        token = page.token
        if not token:
            return


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    """A page of runs is some 100,000 small objects at once, none of them garbage: without the collector, which looks
    through them again and again, reading is three times as fast."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _open(uri: str | None) -> tuple[MlflowClient, str]:
    """A client and the id of the experiment; raises NothingThere or ReportError."""
    client = _connect(uri)
    name = experiment_name()
    with _readable(uri):
        experiment = client.get_experiment_by_name(name)
    if experiment is None or experiment.lifecycle_stage == "deleted":
        raise NothingThere(f"no experiment {name!r} in {_shown(uri)}; run a sweep first, or set MLFLOW_EXPERIMENT_NAME")
    return client, experiment.experiment_id


def _connect(uri: str | None) -> MlflowClient:
    address = resolve(uri)
    if address.startswith("sqlite:"):
        _check_database(address)
    elif address.startswith(("http:", "https:")):
        _check_server(address)
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    from mlflow import MlflowClient

    with _readable(uri):
        return MlflowClient(address)


def resolve(uri: str | None = None) -> str:
    """The store's address: `uri`, else MLFLOW_TRACKING_URI, else the SQLite file mlflow.db of the current directory.

    The file is named by its absolute path: to MLflow, a leftover folder `mlruns` would win over a mere default.
    """
    return uri or os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{Path('mlflow.db').resolve()}"


def _shown(uri: str | None) -> str:
    """The store's address for a message, without a password."""
    return "the MLflow store " + without_secrets(resolve(uri))


def _check_database(uri: str) -> None:
    """MLflow would create a missing database, and its tables in an empty one; a reader must not."""
    path = Path(_file(uri))
    if not path.is_file():
        raise NothingThere(f"{_shown(uri)} does not exist; run a sweep first, or set MLFLOW_TRACKING_URI")
    try:
        connection = sqlite3.connect(f"file:{quote(str(path))}?mode=ro", uri=True)
        tables = connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'experiments'").fetchall()
        connection.close()
    except sqlite3.Error as error:
        raise ReportError(f"{_shown(uri)} cannot be read: {error}") from None
    if not tables:
        raise NothingThere(f"{_shown(uri)} is empty; run a sweep first, or set MLFLOW_TRACKING_URI")


def _check_server(uri: str) -> None:
    """MLflow asks a server that does not answer again for minutes; a wrong address should be said at once."""
    try:
        # Without user and password, which urllib takes for a part of the host's name.
        urllib.request.urlopen(re.sub(r"//[^/@]*@", "//", uri), timeout=10).close()
    except HTTPError:
        return  # It answers; the rest is between MLflow and the server.
    except OSError as error:
        if isinstance(getattr(error, "reason", error), ConnectionRefusedError | socket.gaierror):
            raise ReportError(f"{_shown(uri)} does not answer; is it running, and is the address right?") from None


@contextmanager
def _readable(uri: str | None) -> Iterator[None]:
    from mlflow.exceptions import MlflowException

    try:
        yield
    except MlflowException as error:
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise ReportError(f"{_shown(uri)} cannot be read: {reason}") from error
