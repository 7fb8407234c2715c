"""Files that belong to a tracking store but that MLflow does not keep; whether folders can be written to."""

from __future__ import annotations

import hashlib
import os
import tempfile
from pathlib import Path

from cplearn.errors import InputError
from sweeps.addresses import store_file


def companion(uri: str, kind: str) -> Path:
    """The file `kind` of the tracking store at `uri`: beside its own file if it is SQLite, else in the user's cache
    folder, where a server goes by what it holds (`reports.store.identity`)."""
    if uri.startswith("sqlite"):
        path = store_file(uri)
        return path.with_name(f"{path.name}.{kind}")
    name = hashlib.blake2b(uri.encode(), digest_size=8).hexdigest()
    return cache_folder() / f"{name}.{kind}"


def cache_folder() -> Path:
    """This program's folder among the user's caches; it need not exist."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "cplearn")


def check_folder(option: str, folder: Path) -> None:
    """Raise InputError, with the option that names it, unless a folder can be written to; creates nothing."""
    existing = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    try:
        tempfile.TemporaryFile(dir=existing).close()
    except OSError as error:
        raise InputError(f"{option} {folder}: cannot write there ({error.strerror})") from None
