"""Addresses of tracking stores: which one is meant, which file it is, and how messages may show it."""

from __future__ import annotations

import os
import re
from pathlib import Path


def resolve(uri: str | None = None) -> str:
    """The store's address: `uri`, else MLFLOW_TRACKING_URI, else the SQLite file mlflow.db of the current directory."""
    # By its absolute path: to MLflow, a leftover folder `mlruns` would win over a mere default.
    return uri or os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{Path('mlflow.db').resolve()}"


def experiment_name() -> str:
    """The MLflow experiment that holds the runs: MLFLOW_EXPERIMENT_NAME, else `cplearn`."""
    return os.environ.get("MLFLOW_EXPERIMENT_NAME", "cplearn")


def store_file(uri: str) -> Path:
    """The file of a store in SQLite.

    >>> store_file("sqlite:////data/mlflow.db?timeout=60").as_posix()
    '/data/mlflow.db'
    """
    return Path(uri.partition(":///")[2].partition("?")[0])


def without_secrets(uri: str) -> str:
    """A store's address without user, password and query; a password may hold any character, `@` and `/` too.

    >>> without_secrets("postgresql://user:p@ss/word@host:5432/db?token=abc")
    'postgresql://host:5432/db'
    """
    return uri if uri.startswith("sqlite") else re.sub(r"(://).*@", r"\1", uri.partition("?")[0])
