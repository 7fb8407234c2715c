"""The model of a finished trial as a logged model of MLflow: its metrics, its data, and that MLflow loads it."""

from __future__ import annotations

import shutil
from pathlib import Path

import mlflow
import pytest
import torch
from mlflow import MlflowClient
from mlflow.entities import LoggedModel

from cplearn import data
from cplearn.model import Model
from runner.events import TrialResult
from runner.planning.plan import SCHEMA, make_plan
from runner.tracking.database import update_artifact_addresses
from runner.tracking.tracker import Tracker
from support import uri
from sweeps.spec import read_sweep


@pytest.fixture
def made(tmp_path: Path) -> tuple[Path, Model, str]:
    """A store with one finished trial; its folder, its model and the run's id."""
    folder = tmp_path / "store"
    folder.mkdir()
    (folder / "tiny.yaml").write_text("sweep: tiny\nsettings: {epochs: 1, backbone: {width: 4}, method.beta: 0.1}")
    plan = make_plan(read_sweep(folder / "tiny.yaml", SCHEMA))
    (job,) = plan.jobs
    images = {"channels": 1, "image_size": 8, "mean": 0.3, "std": 0.4, "classes": list("0123456789")}
    model = Model(job.trial, images).eval()
    model.save(tmp_path / "model")
    files = {f"model/{path.name}": path.read_bytes() for path in (tmp_path / "model").iterdir()}
    tracker = Tracker(uri(folder), plan)
    tracker.started(job)
    tracker.finished(job, TrialResult({"probe/accuracy": 0.875, "codes/ami": 0.5}, files))
    tracker.close("FINISHED")
    return folder, model, tracker.runs[job.key].run_id


def logged(folder: Path) -> LoggedModel:
    client = MlflowClient(uri(folder))
    (model,) = client.search_logged_models([client.get_experiment_by_name("cplearn").experiment_id])
    return model


def test_it_has_the_metrics_of_its_run_on_the_data(made: tuple[Path, Model, str]) -> None:
    folder, _, run_id = made
    model, run = logged(folder), MlflowClient(uri(folder)).get_run(run_id)
    assert (model.status, model.source_run_id, model.model_type) == ("READY", run_id, "backbone")
    metrics = {metric.key: metric for metric in model.metrics}
    assert {name: metric.value for name, metric in metrics.items()}.items() >= {
        "probe/accuracy": 0.875,
        "codes/ami": 0.5,
    }.items()
    assert metrics["probe/accuracy"].dataset_name == "digits"
    assert metrics["probe/accuracy"].dataset_digest == data.load("digits").fingerprint
    assert metrics["probe/accuracy"].run_id == run_id
    assert model.params["method.beta"] == "0.1"
    assert run.data.metrics["probe/accuracy"] == 0.875
    assert [output.model_id for output in run.outputs.model_outputs] == [model.model_id]


def test_mlflow_loads_it_also_where_the_store_was_moved(
    made: tuple[Path, Model, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, model, _ = made
    moved = tmp_path / "elsewhere"
    shutil.move(folder, moved)
    update_artifact_addresses(uri(moved))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri(moved))
    loaded = mlflow.pytorch.load_model(f"models:/{logged(moved).model_id}")
    images = torch.rand(3, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    assert isinstance(loaded, Model)
    assert not loaded.training
    assert torch.equal(loaded.features(images), model.features(images))
    files = [path for path in moved.rglob("models/*/artifacts/**/*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 5_000, "the weights are stored once, with the run"
