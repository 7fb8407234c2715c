"""A server of which one request in five fails: every trial is there once, and nothing still counts as running."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from mlflow import MlflowClient
from mlflow.entities import ViewType

from erring import FAULTS, erring
from reports import store
from runner.durability import pending_writes
from runner.events import TrialResult
from runner.planning.plan import SCHEMA, make_plan
from runner.tracking.tracker import Tracker, log_report, make_experiment
from stores import empty_store, sqlite
from support import mlflow_server
from sweeps import retries
from sweeps.errors import UserError
from sweeps.record import LOSS, Tag
from sweeps.spec import read_sweep

SWEEP = """
sweep: tiny
settings: {epochs: 3, method: {codes: 32, embedding_dim: 16}, backbone: {name: resnet8-slim, width: 4}}
axes: {method.beta: [0.1, 1, 2, 3]}
"""
FILES = {"model/weights.pt": b"weights", "diagnostics.json": b"{}"}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("server")
    shutil.copy(empty_store(), folder / "mlflow.db")
    with mlflow_server(sqlite(folder), folder) as address:
        yield address


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Clients give up soon, and try again at once."""
    for name, value in {"TIMEOUT": "1", "BACKOFF_FACTOR": "0", "BACKOFF_JITTER": "0", "MAX_RETRIES": "2"}.items():
        monkeypatch.setenv(f"MLFLOW_HTTP_REQUEST_{name}", value)
    monkeypatch.setattr(retries, "PAUSES", (0.01,) * 5)
    monkeypatch.setattr(pending_writes, "FIRST_PAUSE", 0.01)
    monkeypatch.setattr(pending_writes, "LONGEST_PAUSE", 0.05)


def test_a_sweep_on_an_erring_server_is_written_once(server: str, tmp_path: Path) -> None:
    (tmp_path / "tiny.yaml").write_text(SWEEP)
    (tmp_path / "table.md").write_text("numbers")
    plan = make_plan(read_sweep(tmp_path / "tiny.yaml", SCHEMA))
    with erring(server) as proxy:
        make_experiment(proxy.address)
        tracker = Tracker(proxy.address, plan)
        for job in plan.jobs:
            tracker.started(job)
            for epoch in (1, 2, 3):
                tracker.epoch(job, epoch, {LOSS: 1 / epoch, "train/prior": float(epoch)})
        *finished, failed = plan.jobs
        for job in finished:
            tracker.finished(job, TrialResult({"probe/accuracy": 0.9}, FILES, {"device": "cpu"}))
        tracker.failed(failed, "Traceback\nValueError: no", "exception")
        proxy.settle()
        tracker.close("FINISHED")
        log_report(proxy.address, tracker.parent, "digits", {"table.md": tmp_path / "table.md"}, "| numbers |")
        assert set(proxy.met) == set(FAULTS)
        (read,) = store.read_sweep(proxy.address, "tiny")
        arrays = store.artifact_reader(proxy.address)
        assert [arrays(run_id, "diagnostics.json") for run_id in read.runs["run_id"][:3]] == [b"{}"] * 3
        assert read.runs["status"].tolist() == ["FINISHED"] * 3 + ["FAILED"]
        identities = {
            store.identity(address) for address in (proxy.address, server, server.replace("127.0.0.1", "localhost"))
        }
        assert len(identities) == 1, "claims of all spellings exclude each other"
        proxy.settle()
    client = MlflowClient(server)
    experiment = client.get_experiment_by_name("cplearn").experiment_id
    runs = client.search_runs([experiment])
    assert sorted((run.data.tags[Tag.KIND], run.info.status) for run in runs) == [
        ("sweep", "FINISHED"),
        ("trial", "FAILED"),
        *[("trial", "FINISHED")] * 3,
    ]
    assert {run.data.tags[Tag.KEY] for run in runs if Tag.KEY in run.data.tags} == {job.key for job in plan.jobs}
    assert client.search_runs([experiment], run_view_type=ViewType.DELETED_ONLY), "some were made twice"
    for run in runs:
        if run.data.tags[Tag.KIND] == "trial":
            steps = [metric.step for metric in client.get_metric_history(run.info.run_id, LOSS)]
            assert steps == [1, 2, 3], run.data.tags


def test_a_server_that_stays_away_is_one_sentence(server: str) -> None:
    with erring(server) as proxy:
        proxy.fault = lambda path: "500"  # type: ignore[method-assign]
        with pytest.raises(UserError, match=rf"the MLflow store {proxy.address} is away \(.*\); run the same command"):
            store.trial_records(proxy.address)
        with pytest.raises(UserError, match=r"the tracking store is away \(.*\); run the same command"):
            make_experiment(proxy.address)
