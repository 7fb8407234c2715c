"""Which code trains: the versions of packages and the commit of the checkout."""

from __future__ import annotations

import functools
import json
import subprocess
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import cplearn
from cplearn.config.trial import NUMERICS
from sweeps.record import Tag

PACKAGES = ("torch", "torchvision", "ray", "mlflow", "scikit-learn", "numpy", "cplearn-sweeps")


@functools.cache
def code_tags() -> dict[Tag, str]:
    """Tags of the code that trains: its numerics, its packages, and in a git checkout its commit and whether it had
    been edited."""
    versions = {}
    for package in PACKAGES:
        with suppress(PackageNotFoundError):
            versions[package] = version(package)
    tags = {Tag.NUMERICS: str(NUMERICS), Tag.VERSIONS: json.dumps(versions)}
    commit = _git("rev-parse", "HEAD")
    if commit is None:
        return tags
    edited = bool(_git("status", "--porcelain", "--untracked-files=no"))
    return tags | {Tag.MLFLOW_COMMIT: commit, Tag.GIT_COMMIT: commit, Tag.GIT_EDITED: str(edited).lower()}


def _git(*arguments: str) -> str | None:
    """What git prints in the folder of the trainer; None where it fails."""
    command, folder = ["git", *arguments], Path(cplearn.__file__).parent
    with suppress(OSError, subprocess.SubprocessError):
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=10, check=True)
        return done.stdout.strip()
    return None
