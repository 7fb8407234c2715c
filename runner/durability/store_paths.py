"""Where the files lie that belong to a tracking store, but that MLflow does not keep."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from sweeps.addresses import store_file


def companion(uri: str, kind: str) -> Path:
    """The file `kind` of the tracking store at `uri`: beside its own file if it is SQLite, else in the user's cache
    folder."""
    if uri.startswith("sqlite:"):
        path = store_file(uri)
        return path.with_name(f"{path.name}.{kind}")
    name = hashlib.blake2b(uri.encode(), digest_size=8).hexdigest()
    return Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"), "cplearn", f"{name}.{kind}")
