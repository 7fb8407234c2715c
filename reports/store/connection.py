"""The way into MLflow: a client of a store, pages of runs, files of runs, and errors as sentences."""

from __future__ import annotations

import gc
import http.client
import logging
import os
import re
import shlex
import socket
import sqlite3
import tempfile
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, cast
from urllib.parse import quote

from sweeps.addresses import experiment_name, folder_meant, local_folder, resolve, store_file, without_secrets
from sweeps.errors import StoreError, UserError
from sweeps.record import MODEL_FOLDER
from sweeps.retries import Repeated
from sweeps.secrets import reason_of

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

PAGE = 1000


class NothingThere(StoreError):
    """The store, or the experiment in it, does not exist."""


def runs_at(uri: str | None) -> str:
    """The address that the page of a run of the experiment starts with; empty where the store is a file."""
    address = resolve(uri)
    if not address.startswith("http"):
        return ""
    return f"{without_secrets(address).rstrip('/')}/#/experiments/{open_experiment(uri)[1]}/runs/"


def shown(uri: str | None) -> str:
    """The store for a message, without a password."""
    return "the MLflow store " + without_secrets(resolve(uri))


def open_experiment(uri: str | None) -> tuple[MlflowClient, str]:
    """A client and the id of the experiment; raises NothingThere or StoreError."""
    client = connect(uri)
    name = experiment_name()
    with readable(shown(uri)):
        experiment = client.get_experiment_by_name(name)
    if experiment is not None and experiment.lifecycle_stage == "deleted":
        restore = f"mlflow experiments restore --experiment-id {experiment.experiment_id}"
        raise StoreError(
            f"the experiment {name!r} in {shown(uri)} has been deleted; set MLFLOW_EXPERIMENT_NAME to another name, or "
            f"restore it: MLFLOW_TRACKING_URI={shlex.quote(without_secrets(resolve(uri)))} {restore}"
        )
    if experiment is None:
        raise NothingThere(f"no experiment {name!r} in {shown(uri)}; run a sweep first, or set MLFLOW_EXPERIMENT_NAME")
    return client, experiment.experiment_id


def connect(uri: str | None) -> MlflowClient:
    """A client of a store that is there, which asks a server again where it has no answer; raises NothingThere or
    StoreError."""
    address = resolve(uri)
    if address.startswith("sqlite"):
        _check_database(address)
    elif address.startswith("http"):
        _check_server(address)
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
    logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)  # It shows the tracebacks of what it raises.
    from mlflow import MlflowClient

    try:
        with readable(shown(uri)):
            client = MlflowClient(address)
    except StoreError as error:
        if re.search("out-of-date database schema|locate revision", str(error)):
            raise StoreError(
                f"{shown(uri)} was written by another version of MLflow; copy the database, then run: "
                f"mlflow db upgrade {without_secrets(address)}"
            ) from error
        raise
    # SQLite waits for a lock by itself, and other faults of a file stay.
    return client if address.startswith("sqlite") else cast("MlflowClient", Repeated(client, shown(uri)))


def identity(uri: str) -> str:
    """By what claims and studies know a store, however its address is spelled: of a server the experiment that it
    holds, if there is one. A file is known by its path anyway, and PostgreSQL keeps both itself."""
    if uri.startswith(("sqlite", "postgresql")):
        return uri
    try:
        client, experiment_id = open_experiment(uri)
    except NothingThere:
        return uri
    with readable(shown(uri)):
        experiment = client.get_experiment(experiment_id)
    return f"experiment {experiment_id} of {experiment.creation_time} at {experiment.artifact_location}"


@contextmanager
def readable(what: str) -> Iterator[None]:
    """Turn errors of MLflow, of databases and their drivers, of files, and of what they hold into a StoreError that
    `what` cannot be read."""
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    try:
        yield
    except UserError:
        raise
    except (MlflowException, SQLAlchemyError, ImportError, OSError, ValueError, TypeError, LookupError) as error:
        raise StoreError(f"{what} cannot be read: {reason_of(error)}") from error


def search(client: MlflowClient, experiment: str, query: str, page_size: int = PAGE) -> Iterator[Run]:
    """The runs that a query finds, the newest first."""
    token = None
    while True:
        # A page is some 100,000 small objects at once, none of them garbage: without the collector, which looks through
        # them again and again, reading is three times as fast.
        gc.disable()
        try:
            page = client.search_runs([experiment], query, max_results=page_size, page_token=token)
        finally:
            gc.enable()
        yield from page
        if not (token := page.token):
            return


def artifact_reader(uri: str | None) -> Callable[[str, str], bytes | None]:
    """A function from a run's id and the path of a file among its artifacts to the file's bytes, None if it has no such
    file. It raises UserError if the store cannot be read."""
    client = connect(uri)

    def read(run_id: str, path: str) -> bytes | None:
        with readable(f"{path} of run {run_id} in {shown(uri)}"), tempfile.TemporaryDirectory() as scratch:
            if folder := local_folder(client.get_run(run_id).info.artifact_uri):
                file = folder_meant(folder, resolve(uri)) / path
                return file.read_bytes() if file.is_file() else None
            if path not in {file.path for file in client.list_artifacts(run_id, path.rpartition("/")[0] or None)}:
                return None
            return Path(client.download_artifacts(run_id, path, scratch)).read_bytes()

    return read


def download_model(run_id: str) -> Path:
    """A local folder with the model of a finished run: the store's own where that is local, else a temporary copy.

    Raises LookupError with one sentence if there is no such run or it has no model.
    """
    if not re.fullmatch(r"[0-9a-f]{32}", run_id):
        raise LookupError(f"{run_id!r} is not a run id, which has 32 hexadecimal digits")
    try:
        client = connect(None)
    except UserError as error:
        raise LookupError(str(error)) from None
    from mlflow.exceptions import MlflowException

    try:
        run = client.get_run(run_id)
        folder = local_folder(run.info.artifact_uri)
        if folder is None and MODEL_FOLDER in {file.path for file in client.list_artifacts(run_id)}:
            return Path(client.download_artifacts(run_id, MODEL_FOLDER))
    except MlflowException:
        raise LookupError(f"no run {run_id} in {shown(None)}") from None
    if folder and (model := folder_meant(folder, resolve()) / MODEL_FOLDER).is_dir():
        return model
    why = "its files have been deleted" if run.info.status == "FINISHED" else "it has not finished"
    raise LookupError(f"run {run_id} in {shown(None)} has no model: {why}")


def _check_database(uri: str) -> None:
    """MLflow would create a missing database, and its tables in an empty one; a reader must not."""
    path = store_file(uri)
    if not path.is_file():
        raise NothingThere(f"{shown(uri)} does not exist; run a sweep first, or set MLFLOW_TRACKING_URI")
    try:
        with closing(read_only(path)) as connection:
            tables = connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'experiments'").fetchall()
    except sqlite3.Error as error:
        raise StoreError(f"{shown(uri)} cannot be read: {error}") from None
    if not tables:
        raise NothingThere(f"{shown(uri)} is empty; run a sweep first, or set MLFLOW_TRACKING_URI")


def read_only(path: Path) -> sqlite3.Connection:
    """A connection to a database that it cannot change."""
    return sqlite3.connect(f"file:{quote(str(path))}?mode=ro", uri=True)


def _check_server(uri: str) -> None:
    """MLflow asks a server that does not answer again for minutes; a wrong address should be said at once."""
    try:
        # Without user and password, which urllib takes for a part of the host's name.
        urllib.request.urlopen(without_secrets(uri), timeout=10).close()
    except http.client.RemoteDisconnected:
        return  # It has cut this one connection; the calls that follow are repeated.
    except http.client.HTTPException:
        raise StoreError(f"{shown(uri)} is no MLflow server: what answers there does not speak HTTP") from None
    except OSError as error:  # An HTTPError too: such a server answers.
        if isinstance(getattr(error, "reason", error), ConnectionRefusedError | socket.gaierror):
            raise StoreError(f"{shown(uri)} does not answer; is it running, and is the address right?") from None
