"""Files of runs: models and whatever else a run has kept."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Callable
from pathlib import Path

from reports.store.connection import connect, shown
from sweeps.errors import UserError
from sweeps.record import MODEL_FOLDER


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
        held = {file.path for file in client.list_artifacts(run_id)}
    except MlflowException:
        raise LookupError(f"no run {run_id} in {shown(None)}") from None
    if MODEL_FOLDER not in held:
        raise LookupError(f"run {run_id} in {shown(None)} has no model; did it finish?")
    return Path(client.download_artifacts(run_id, MODEL_FOLDER))


def artifact_reader(uri: str | None = None) -> Callable[[str, str], bytes | None]:
    """A function from a run's id and the path of a file among its artifacts to the file's bytes, None if it has no such
    file. It raises UserError if the store cannot be read."""
    client = connect(uri)
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
            raise UserError(f"{path} of run {run_id} in {shown(uri)} cannot be read: {reason}") from error

    return read
