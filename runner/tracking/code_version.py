"""Which code trains: the versions of packages and the commit of the checkout."""

from __future__ import annotations

import functools
import json
import subprocess
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
    tags = {Tag.NUMERICS: str(NUMERICS), Tag.VERSIONS: json.dumps(_versions())}
    commit = _git("rev-parse", "HEAD")
    if commit is None:
        return tags
    edited = bool(_git("status", "--porcelain", "--untracked-files=no"))
    return tags | {Tag.MLFLOW_COMMIT: commit, Tag.GIT_COMMIT: commit, Tag.GIT_EDITED: str(edited).lower()}


def _versions() -> dict[str, str]:
    """The versions of those packages that are installed."""
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    return versions


def _git(*arguments: str) -> str | None:
    """What git prints in the folder of the trainer; None where it fails."""
    command, folder = ["git", *arguments], Path(cplearn.__file__).parent
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
