"""The same images from five sources: five sweeps with the same numbers to the last digit."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
import ray

import containers
from runner.events import Listener, TrialResult
from runner.execution.contract import ExecutionOptions
from runner.execution.execute import execute
from runner.machine.resources import Resources
from runner.planning.plan import SCHEMA, Job, make_plan
from sweeps.spec import read_sweep

SWEEP = """
sweep: sources
description: three β values
settings:
  dataset: '{name}'
  epochs: 1
  batch_size: 50
  method: {{codes: 32, embedding_dim: 16}}
  backbone: {{name: resnet8-slim, width: 4}}
  evaluation: {{kmeans_restarts: 1}}
axes: {{method.beta: [0.1, 1, 10]}}
"""


class Metrics(Listener):
    """The metrics of every epoch and of the evaluation of each trial, but for times and speeds."""

    def __init__(self) -> None:
        self.numbers: dict[str, dict[str, float]] = {}

    def epoch(self, job: Job, epoch: int, metrics: dict[str, float]) -> None:
        own = {f"{name} after {epoch}": value for name, value in untimed(metrics).items()}
        self.numbers.setdefault(job.label, {}).update(own)

    def finished(self, job: Job, result: TrialResult) -> None:
        self.numbers[job.label].update(untimed(result.metrics))


def untimed(metrics: Mapping[str, float]) -> dict[str, float]:
    return {name: x for name, x in metrics.items() if not name.startswith("time/") and "per_second" not in name}


@pytest.fixture
def cluster() -> Iterator[None]:
    # With one CPU each sweep has one worker process, whose start takes longer than its three trials.
    ray.init("local", num_cpus=1, num_gpus=0, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()


def sweep(folder: Path, name: str) -> dict[str, dict[str, float]]:
    """The numbers of three values of β on a data set, with a data folder of its own."""
    folder.mkdir()
    (folder / "sources.yaml").write_text(SWEEP.format(name=name))
    plan = make_plan(read_sweep(folder / "sources.yaml", SCHEMA), folder / "data")
    metrics = Metrics()
    execute(plan.jobs, [metrics], ExecutionOptions(Resources(1, 0), str(folder / "data")))
    return metrics.numbers


@pytest.mark.long
@pytest.mark.timeout(900)
def test_five_sources_of_the_same_images_give_the_same_numbers(tmp_path: Path, cluster: None) -> None:
    names = containers.everywhere(tmp_path / "images", containers.pictures(500, 100))
    found = {form: sweep(tmp_path / form, name) for form, name in names.items()}
    assert found["folder"].keys() == {"beta=0.1", "beta=1", "beta=10"}
    assert all(len(metrics) > 30 for metrics in found["folder"].values())
    assert len({metrics["train/loss after 1"] for metrics in found["folder"].values()}) == 3
    for form in found:
        assert found[form] == found["folder"], form
