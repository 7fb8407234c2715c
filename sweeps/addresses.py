"""Addresses of tracking stores: which one is meant, which file it is, and how messages may show it."""

import os
import re
from pathlib import Path
from urllib.parse import unquote, urlsplit

from sweeps import secrets
from sweeps.errors import UserError

ARTIFACTS = "mlruns"  # The folder beside a SQLite store that holds the files of its runs.


def resolve(uri: str | None = None) -> str:
    """The store's address: `uri`, else MLFLOW_TRACKING_URI, else the SQLite file mlflow.db of the current directory.

    From now on no text shows what is secret in it. Raises UserError where it cannot be told what is a password.
    """
    # By its absolute path: to MLflow, a leftover folder `mlruns` would win over a mere default.
    address = uri or os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{Path('mlflow.db').resolve()}"
    secrets.know(address)
    if re.match(r"https?://[^/?#]*[/?#].*@", address):
        raise UserError(
            f"the tracking store {without_secrets(address)!r}: in a user or password, write / as %2F, ? as %3F, # as "
            "%23 and @ as %40"
        )
    return address


def experiment_name() -> str:
    """The MLflow experiment that holds the runs: MLFLOW_EXPERIMENT_NAME, else `cplearn`."""
    return os.environ.get("MLFLOW_EXPERIMENT_NAME") or "cplearn"


def store_file(uri: str) -> Path:
    """The file of a store in SQLite, the same one whatever links or relative path the address takes to it.

    >>> store_file("sqlite:////data/./mlflow.db?timeout=60").as_posix()
    '/data/mlflow.db'
    """
    return Path(uri.partition(":///")[2].partition("?")[0]).resolve()


def local_folder(location: str) -> Path | None:
    """The folder of an address of artifacts, a path or file:///PATH; None of one that is not local."""
    parts = urlsplit(location)
    if parts.scheme not in ("", "file"):
        return None
    return Path(unquote(parts.path) if parts.scheme else location)


def folder_meant(folder: Path, uri: str) -> Path:
    """The folder that a store means when it names one.

    MLflow keeps absolute paths, so a SQLite store that was copied or moved names the folder where it was. Its files are
    taken from beside the database, unless there are none and those at the old place are still there.
    """
    beside = beside_store(folder, uri)
    return beside if beside.exists() or not folder.exists() else folder


def beside_store(folder: Path, uri: str) -> Path:
    """The same place in the folder `mlruns` beside a SQLite store; the folder itself if it is in no `mlruns`.

    >>> beside_store(Path("/old/mlruns/1/run/artifacts"), "sqlite:////new/mlflow.db").as_posix()
    '/new/mlruns/1/run/artifacts'
    """
    if not uri.startswith("sqlite") or ARTIFACTS not in folder.parts:
        return folder
    depth = folder.parts[::-1].index(ARTIFACTS) + 1
    return store_file(uri).parent.joinpath(*folder.parts[-depth:])


def without_secrets(uri: str) -> str:
    """A store's address without user, password and query; a password may hold any character, `@` and `/` too.

    >>> without_secrets("postgresql://user:p@ss/word@host:5432/db?token=abc")
    'postgresql://host:5432/db'
    """
    return uri if uri.startswith("sqlite") else re.sub(r"(://).*@", r"\1", uri, flags=re.DOTALL).partition("?")[0]
