"""Where studies are kept: beside the tracking store, in a database of their own."""

from __future__ import annotations

import functools
import re
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

import optuna
from sqlalchemy import create_engine, inspect, make_url
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.pool import NullPool
from sqlalchemy.schema import CreateSchema

from cplearn.errors import InputError
from runner.durability.store_paths import companion

optuna.logging.set_verbosity(optuna.logging.WARNING)

DATABASE_SCHEMA = "cplearn_studies"
"""The schema of studies in a PostgreSQL database; MLflow and Optuna each keep their version in a table of one name."""


def beside(uri: str) -> str:
    """The address of the studies that belong to a tracking store: a SQLite file beside a SQLite file, a schema of the
    same PostgreSQL database; for any other store a file in the user's cache folder."""
    if uri.startswith("postgresql"):
        url = make_url(uri).update_query_dict({"options": f"-csearch_path={DATABASE_SCHEMA}"})
        return url.render_as_string(hide_password=False)
    return f"sqlite:///{companion(uri, 'studies')}"


@functools.cache
def opened(address: str) -> optuna.storages.RDBStorage:
    """The storage at an address; makes its file or schema where there is none."""
    if path := _file(address):
        path.parent.mkdir(parents=True, exist_ok=True)
    else:
        with create_engine(address, poolclass=NullPool).begin() as connection:
            connection.execute(CreateSchema(DATABASE_SCHEMA, if_not_exists=True))
    return optuna.storages.RDBStorage(address)


def names(address: str) -> list[str]:
    """The names of all studies at an address; creates nothing."""
    path = _file(address)
    exists = path.is_file() if path else inspect(create_engine(address, poolclass=NullPool)).has_schema(DATABASE_SCHEMA)
    return optuna.get_all_study_names(opened(address)) if exists else []


def of_name(name: str, known: Collection[str]) -> list[str]:
    """The studies of a name, the oldest first; those that were begun anew end in ` #2` and so on.

    >>> of_name("beta", ["beta #10", "beta #2", "betas", "beta"])
    ['beta', 'beta #2', 'beta #10']
    """
    studies = [study for study in known if re.fullmatch(rf"{re.escape(name)}( #\d+)?", study)]
    return sorted(studies, key=lambda study: (len(study), study))


@contextmanager
def reachable() -> Iterator[None]:
    """An error of the studies' database is one sentence, without its address."""
    try:
        yield
    except (SQLAlchemyError, optuna.exceptions.StorageInternalError, OSError) as error:
        # What the database itself says; SQLAlchemy adds the statement and Optuna hides it.
        cause = error.__cause__ if isinstance(error, optuna.exceptions.StorageInternalError) else error
        reason = " ".join(str(getattr(cause, "orig", None) or type(cause).__name__).split())
        raise InputError(f"the studies beside the tracking store cannot be used: {reason}") from error


def _file(address: str) -> Path | None:
    """The file of a SQLite address; None for a server."""
    return Path(address.partition(":///")[2]) if address.startswith("sqlite:") else None
