"""What a machine is, for those who read its numbers elsewhere."""

from __future__ import annotations

import os
import platform
import subprocess
from importlib.metadata import version
from pathlib import Path
from typing import Any

from runner.machine import resources

PACKAGES = ("torch", "torchvision", "ray", "mlflow", "numpy", "scikit-learn", "pillow")


def describe() -> dict[str, Any]:
    """CPU, cores, memory, system, versions, GPU (None without one), git commit, and the load before the benchmark."""
    import torch

    return {
        "cpu": resources.cpu(),
        "cores": os.cpu_count(),
        "memory_gib": round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30, 1),
        "system": platform.platform(),
        "python": platform.python_version(),
        **{package: version(package) for package in PACKAGES},
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "commit": _commit(),
        "load": round(os.getloadavg()[0], 2),
    }


def _commit() -> str | None:
    """The commit of this code, marked if files had been edited; None outside a git checkout."""
    commit = _output("git", "rev-parse", "HEAD")
    edited = commit and _output("git", "status", "--porcelain", "--untracked-files=no")
    return f"{commit} (edited)" if edited else commit


def _output(*command: str) -> str | None:
    try:
        done = subprocess.run(
            command, cwd=Path(__file__).parent, capture_output=True, text=True, timeout=10, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
