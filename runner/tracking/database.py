"""The store that runs are written to: whether it can be written, and the making of a fresh one in SQLite."""

import os
import shutil
import sqlite3
import tempfile
from contextlib import closing, suppress
from importlib.util import find_spec

from cplearn.errors import InputError
from runner.machine.folders import cache_folder
from sweeps.addresses import beside_store, folder_meant, local_folder, store_file, without_secrets

SCHEMES = ("sqlite", "http", "https", "postgresql", "mysql", "mssql", "databricks")


def check_store(uri: str) -> None:
    """Raise InputError, with one sentence, unless runs can be written to the store; creates nothing.

    A file is tried out, a server is only checked for its address: whether it answers shows when it is read.
    """
    shown = f"--tracking-uri {without_secrets(uri)!r}"
    scheme = uri.partition(":")[0].partition("+")[0]
    if scheme not in SCHEMES:
        raise InputError(f"{shown}: write sqlite:///PATH, http://HOST:PORT or another address of MLflow")
    if uri.startswith("postgresql:") and find_spec("psycopg") is None:
        # Which driver SQLAlchemy takes when none is named depends on its version.
        raise InputError(
            f"{shown}: the driver psycopg is not installed; write postgresql+psycopg2://..., "
            "whose driver comes with the extra postgresql"
        )
    if scheme != "sqlite":
        return
    path = store_file(uri)
    try:
        if path.exists():
            with closing(sqlite3.connect(path, timeout=5)) as connection:
                connection.execute("BEGIN IMMEDIATE").close()
        else:
            tempfile.TemporaryFile(dir=path.parent).close()
    except (OSError, sqlite3.Error) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise InputError(f"{shown}: cannot write there ({reason})") from None


def make_store(uri: str) -> None:
    """Make the tables of a SQLite store that does not exist yet; one driver at a time may do so. One that was copied or
    moved learns where its files lie now.

    They are made under another name: a reader that met a file with some of its tables would try to make the rest. To
    make them takes MLflow seconds, so a copy of the empty store is kept for the next one.
    """
    path = store_file(uri)
    if not uri.startswith("sqlite"):
        return
    if path.exists() and path.stat().st_size:
        update_artifact_addresses(uri)
        return
    import mlflow

    draft = path.with_name(f"{path.name}.making")
    empty = cache_folder() / f"mlflow-{mlflow.__version__}.db"
    try:
        shutil.copyfile(empty, draft)
        with closing(sqlite3.connect(draft)) as connection:
            is_whole = connection.execute("SELECT version_num FROM alembic_version").fetchone() is not None
    except (OSError, sqlite3.Error):
        draft.unlink(missing_ok=True)  # A driver that was killed may have left one.
        is_whole = False
    scheme, options = uri.partition(":///")[0], "".join(uri.partition("?")[1:])
    mlflow.MlflowClient(f"{scheme}:///{draft}{options}").search_experiments(max_results=1)
    if not is_whole:
        with suppress(OSError, sqlite3.Error):
            empty.parent.mkdir(parents=True, exist_ok=True)
            part = empty.with_name(f"{empty.name}.{os.getpid()}")
            shutil.copyfile(draft, part)
            with closing(sqlite3.connect(part)) as connection, connection:
                # The default experiment names the folder of artifacts; MLflow makes it anew.
                connection.execute("DELETE FROM experiments")
            part.replace(empty)
    update_artifact_addresses(f"sqlite:///{draft}")
    draft.replace(path)


def update_artifact_addresses(uri: str) -> None:
    """Where a SQLite store was copied or moved with its files, write their new addresses into it: MLflow's own pages go
    by these, and so does what it writes. Raises InputError if they cannot be written."""
    if not uri.startswith("sqlite") or not store_file(uri).is_file():
        return
    try:
        with closing(sqlite3.connect(store_file(uri), timeout=60)) as connection, connection:
            if not connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'experiments'").fetchone():
                return
            # New runs never go to the old place; those whose files are there alone keep their addresses.
            columns = [("runs", "artifact_uri", folder_meant), ("logged_models", "artifact_location", folder_meant)]
            for table, column, place in [("experiments", "artifact_location", beside_store), *columns]:
                query = f"SELECT DISTINCT {column} FROM {table} WHERE {column} > ''"
                for (location,) in connection.execute(query).fetchall():
                    folder = local_folder(location)
                    if folder and (now := place(folder, uri)) != folder:
                        connection.execute(
                            f"UPDATE {table} SET {column} = ? WHERE {column} = ?", (now.as_uri(), location)
                        )
    except sqlite3.Error as error:
        raise InputError(f"{uri}: the addresses of its artifacts cannot be written ({error})") from None
