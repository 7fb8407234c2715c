"""The same images from five sources: five sweeps with the same numbers to the last digit."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import ray
from mlflow import MlflowClient

import containers
from support import run_cli, uri

SWEEP = """
sweep: sources
description: three β values
settings:
  dataset: '{name}'
  epochs: 1
  batch_size: 50
  method: {{codes: 32, embedding_dim: 16}}
  backbone: {{name: resnet8-slim, width: 4}}
  evaluation: {{kmeans_restarts: 1, view_images: 0}}
axes: {{method.beta: [0.1, 1, 10]}}
"""


@pytest.fixture
def cluster() -> Iterator[None]:
    ray.init("local", num_cpus=2, num_gpus=0, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()


def numbers(folder: Path, name: str) -> dict[str, dict[str, float]]:
    """Every metric of each trial of a sweep in a store of its own, but for times."""
    folder.mkdir()
    (folder / "sources.yaml").write_text(SWEEP.format(name=name))
    status, output = run_cli(folder, "sweep", "sources.yaml", "--results", "results")
    assert status == 0, output
    client = MlflowClient(uri(folder))
    experiment = client.get_experiment_by_name("cplearn")
    runs = client.search_runs([experiment.experiment_id], "tags.`cplearn.kind` = 'trial'")
    return {
        run.data.params["method.beta"]: {
            key: value for key, value in run.data.metrics.items() if not key.startswith(("time/", "system/"))
        }
        for run in runs
    }


@pytest.mark.long
@pytest.mark.timeout(900)
def test_five_sources_of_the_same_images_give_the_same_numbers(tmp_path: Path, cluster: None) -> None:
    names = containers.everywhere(tmp_path / "images", containers.pictures(500, 100, 16))
    found = {form: numbers(tmp_path / form, name) for form, name in names.items()}
    assert found["folder"].keys() == {"0.1", "1", "10"}
    assert all(len(metrics) > 20 for metrics in found["folder"].values())
    assert len({metrics["train/loss"] for metrics in found["folder"].values()}) == 3
    for form in found:
        assert found[form] == found["folder"], form
