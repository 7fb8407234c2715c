"""The way into MLflow: a store's address, a client of it, pages of runs, and its errors as sentences."""

from __future__ import annotations

import gc
import os
import re
import socket
import sqlite3
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING
from urllib.error import HTTPError
from urllib.parse import quote

from sweeps.addresses import experiment_name, resolve, store_file, without_secrets
from sweeps.errors import UserError

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

PAGE = 1000


class NothingThere(UserError):
    """The store, or the experiment in it, does not exist."""


def check(uri: str | None) -> None:
    """Raise UserError if the store cannot be read, or holds no experiment."""
    open_experiment(uri)


def runs_at(uri: str | None) -> str:
    """The address that the page of a run of the experiment starts with; empty where the store is a file."""
    address = resolve(uri)
    if not address.startswith(("http:", "https:")):
        return ""
    return f"{without_secrets(address).rstrip('/')}/#/experiments/{open_experiment(uri)[1]}/runs/"


def shown(uri: str | None) -> str:
    """The store's address for a message, without a password."""
    return "the MLflow store " + without_secrets(resolve(uri))


def open_experiment(uri: str | None) -> tuple[MlflowClient, str]:
    """A client and the id of the experiment; raises NothingThere or UserError."""
    client = connect(uri)
    name = experiment_name()
    with readable(uri):
        experiment = client.get_experiment_by_name(name)
    if experiment is None or experiment.lifecycle_stage == "deleted":
        raise NothingThere(f"no experiment {name!r} in {shown(uri)}; run a sweep first, or set MLFLOW_EXPERIMENT_NAME")
    return client, experiment.experiment_id


def connect(uri: str | None) -> MlflowClient:
    address = resolve(uri)
    if address.startswith("sqlite:"):
        _check_database(address)
    elif address.startswith(("http:", "https:")):
        _check_server(address)
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    from mlflow import MlflowClient

    with readable(uri):
        return MlflowClient(address)


@contextmanager
def readable(uri: str | None) -> Iterator[None]:
    from mlflow.exceptions import MlflowException

    try:
        yield
    except MlflowException as error:
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise UserError(f"{shown(uri)} cannot be read: {reason}") from error


def search(client: MlflowClient, experiment: str, query: str) -> Iterator[Run]:
    token = None
    while True:
        with no_garbage_collection():
            page = client.search_runs([experiment], query, max_results=PAGE, page_token=token)
        yield from page
        token = page.token
        if not token:
            return


@contextmanager
def no_garbage_collection() -> Iterator[None]:
    """A page of runs is some 100,000 small objects at once, none of them garbage: without the collector, which looks
    through them again and again, reading is three times as fast."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _check_database(uri: str) -> None:
    """MLflow would create a missing database, and its tables in an empty one; a reader must not."""
    path = store_file(uri)
    if not path.is_file():
        raise NothingThere(f"{shown(uri)} does not exist; run a sweep first, or set MLFLOW_TRACKING_URI")
    try:
        connection = sqlite3.connect(f"file:{quote(str(path))}?mode=ro", uri=True)
        tables = connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'experiments'").fetchall()
        connection.close()
    except sqlite3.Error as error:
        raise UserError(f"{shown(uri)} cannot be read: {error}") from None
    if not tables:
        raise NothingThere(f"{shown(uri)} is empty; run a sweep first, or set MLFLOW_TRACKING_URI")


def _check_server(uri: str) -> None:
    """MLflow asks a server that does not answer again for minutes; a wrong address should be said at once."""
    try:
        # Without user and password, which urllib takes for a part of the host's name.
        urllib.request.urlopen(re.sub(r"//[^/@]*@", "//", uri), timeout=10).close()
    except HTTPError:
        return  # It answers; the rest is between MLflow and the server.
    except OSError as error:
        if isinstance(getattr(error, "reason", error), ConnectionRefusedError | socket.gaierror):
            raise UserError(f"{shown(uri)} does not answer; is it running, and is the address right?") from None
