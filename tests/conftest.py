"""Fixtures that several test files share."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
import torch
from torch import Tensor

from cplearn import methods, stacked
from cplearn.methods.base import Batch, Method, Progress

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.pop("COLUMNS", None)  # set by pytest-xdist, and it would wrap what commands print

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    """As in a worker with one CPU; more threads than idle cores make small problems many times slower."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def root() -> Path:
    """The repository."""
    return ROOT


def needs(program: str) -> pytest.MarkDecorator:
    """Skip where a program is missing on a user's machine; in CI its absence is a failure."""
    missing = shutil.which(program) is None and not os.environ.get("CI")
    return pytest.mark.skipif(missing, reason=f"{program} is not installed")


def normal(*shape: int, seed: int = 0) -> Tensor:
    """Standard normal numbers in float64."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


START = Progress(step=0, steps_per_epoch=4, epochs=3)


def batch_of(features: Tensor, labels: Tensor | None = None, progress: Progress = START) -> Batch:
    """A step's batch of features (K, V, n, F); the teacher, should a method ask for one, sees what the student sees."""
    members, _, n, _ = features.shape
    labels = torch.zeros(members, n, dtype=torch.long) if labels is None else labels
    return Batch(features, labels, progress, features[:, :2].detach())


def build_method(name: str, several: list[dict], features: int, classes: int = 3, seed: int = 0) -> Method:
    """A method in float64 with one member for each settings in `several`, weights drawn from seed, seed + 1, ..."""
    module = methods.get(name)
    generators = [torch.Generator().manual_seed(seed + k) for k in range(len(several))]
    method = module.Method([module.Settings(**s) for s in several], features, 8, generators, classes)
    stacked.initialise(method, generators)
    method.after_initialisation()
    return method.double()


LONGEST = ("test_runner_faults", "test_runner_sweep", "test_runner_search", "test_runner_preview", "test_runner_ranks")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Modules that take longest come first, so that two processes end at about the same time."""
    items.sort(key=lambda item: LONGEST.index(name) if (name := item.path.stem) in LONGEST else len(LONGEST))
