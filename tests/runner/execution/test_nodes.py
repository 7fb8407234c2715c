"""Nodes of a cluster: their workers run the driver's code, and nodes without its libraries or data are left out."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from mlflow import MlflowClient
from PIL import Image
from ray.cluster_utils import Cluster

from cplearn.data import cache as decoded
from runner.execution.nodes import EQUAL, PRESENT, differences, facts
from support import run_cli

pytestmark = pytest.mark.timeout(600)
SWEEP = """
sweep: tiny
settings:
  epochs: 1
  method: {codes: 16, embedding_dim: 8}
  backbone: {name: resnet8-slim, width: 4}
  evaluation: {kmeans_restarts: 1}
  batch_size: 16
axes: {method.beta: [0.1, 0.2, 0.5, 1]}
"""


def sweep(folder: Path, address: str) -> tuple[int, str]:
    """Exit status and words of a sweep over the images in a folder, with this process as its driver."""
    (folder / "tiny.yaml").write_text(SWEEP)
    environment = {"RAY_ADDRESS": address, "XDG_CACHE_HOME": f"{folder}/cache"}
    options = ["--dataset", f"folder:{folder}/images", "--gpus-per-trial", "0"]
    with pytest.MonkeyPatch.context() as patch:
        for name, value in environment.items():
            patch.setenv(name, value)
        code, output = run_cli(folder, "sweep", "tiny.yaml", *options, "--checkpoints", f"file://{folder}/checkpoints")
    return code, " ".join(output.split())


def cache(folder: Path) -> list[Path]:
    return sorted(folder.glob("cache/*/dataset.json"))


@pytest.mark.long
def test_trials_run_on_sound_nodes_alone(tmp_path: Path) -> None:
    """Two nodes begin with empty caches, one has another torch, and one has other labels in its cache."""
    for split, label in [(s, c) for s in ("train", "test") for c in ("a", "b")]:
        folder = tmp_path / "images" / split / label
        folder.mkdir(parents=True)
        for i in range(32):
            Image.new("RGB", (32, 32), (i, 50 * (label == "a"), 3)).save(folder / f"{i}.png")
    cplearn = tmp_path / "old" / "cplearn"  # On every node: workers must not run it.
    cplearn.mkdir(parents=True)
    (cplearn / "__init__.py").write_text("raise RuntimeError('another version')\n")
    torch = tmp_path / "torch" / "torch-0.4.1.dist-info"
    torch.mkdir(parents=True)
    (torch / "METADATA").write_text("Metadata-Version: 2.1\nName: torch\nVersion: 0.4.1\n")
    paths = os.pathsep.join([str(tmp_path / "old"), os.environ.get("PYTHONPATH", "")])
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})

    def add(name: str, data: str, paths: str = paths) -> None:
        variables = {"CPLEARN_DATA": str(tmp_path / data), "PYTHONPATH": paths}
        cluster.add_node(num_cpus=1, node_name=name, env_vars=variables)

    try:
        add("outdated", "outdated", os.pathsep.join([str(torch.parent), paths]))
        code, output = sweep(tmp_path, cluster.address)
        assert code == 2, output
        known = facts()["torch"]
        assert f"node outdated is left out: torch there is 0.4.1, the driver's is {known}; give it" in output
        assert "no node is left that can hold a trial" in output
        assert "Traceback" not in output
        shutil.copytree(tmp_path / "data", tmp_path / "different")
        (about,) = cache(tmp_path / "different")
        labels = about.with_name("test-labels.npy")
        np.save(labels, 1 - np.load(labels))
        description = json.loads(about.read_text())
        train, test = (decoded._map(about.parent, split) for split in ("train", "test"))
        description = decoded.describe(train, test, description["classes"], "images with other labels")
        description["checksums"] = decoded._checksums(about.parent, description)
        about.write_text(json.dumps(description))
        add("different", "different")
        code, output = sweep(tmp_path, cluster.address)
        assert code == 2, output
        assert "node different is left out: the images or labels of folder:" in output
        for name in ("first", "second"):
            add(name, name)
        code, output = sweep(tmp_path, cluster.address)
    finally:
        cluster.shutdown()
    assert code == 0, output
    assert output.count("node outdated is left out: torch there is 0.4.1") == 1
    # Not at all, where the others have taken all trials before it was up.
    assert output.count("node different is left out") <= 1
    assert "Traceback" not in output
    assert [len(cache(tmp_path / name)) for name in ("first", "second", "outdated")] == [1, 1, 0]
    client = MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    runs = client.search_runs([client.get_experiment_by_name("cplearn").experiment_id])
    trials = [run for run in runs if run.data.tags["cplearn.kind"] == "trial"]
    assert Counter(run.info.status for run in trials) == {"FINISHED": 4}
    assert len({run.data.tags["cplearn.key"] for run in trials}) == 4
    # Both have begun some, see their caches; which of them ends these short trials depends on who starts first.
    assert {run.data.tags["cplearn.node"] for run in trials} <= {"first", "second"}


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({}, ""),
        ({"torch": "1.0"}, "torch there is 1.0, the driver's is "),
        ({"torch": None, "pyarrow": None}, "torch, pyarrow cannot be found there; give it the driver's environment"),
        ({"code": "0"}, "the code in /there there is not the driver's"),
        ({"pyarrow": "1.0"}, ""),
    ],
)
def test_what_a_node_must_have(change: dict[str, str | None], why: str) -> None:
    here = facts()
    assert here.keys() == {"code", *EQUAL, *PRESENT}
    there = {name: value for name, value in {**here, **change}.items() if value is not None}
    said = differences(here, there, Path("/there"))
    assert said.startswith(why)
    assert bool(said) == bool(why)


def test_a_cluster_that_is_not_there_is_one_sentence(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "runner.cli", "sweep", "tiny.yaml", "--epochs", "1"]
    (tmp_path / "tiny.yaml").write_text(SWEEP)
    done = subprocess.run(
        command,
        cwd=tmp_path,
        env={**os.environ, "RAY_ADDRESS": "127.0.0.1:1", "MLFLOW_TRACKING_URI": f"sqlite:///{tmp_path}/mlflow.db"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2, done.stderr
    assert "RAY_ADDRESS=127.0.0.1:1: this cluster cannot be joined" in done.stderr
    assert "Traceback" not in done.stderr
