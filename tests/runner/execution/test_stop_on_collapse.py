"""Trials that collapse are stopped, evaluated as they stand, and marked; in real sweeps under real Ray."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
import ray
from mlflow import MlflowClient
from typer.testing import CliRunner

from listeners import Recorder
from reports import store
from runner.cli import app
from runner.events import TrialResult
from runner.execution.contract import ExecutionOptions
from runner.execution.execute import execute
from runner.machine.resources import Resources
from runner.planning.plan import SCHEMA, Job, make_plan
from sweeps.collapse import Sizes
from sweeps.spec import read_sweep

SWEEP = """
sweep: collapsing
settings:
  epochs: 8
  batch_size: 64
  test_images: 100
  method: {codes: 2048, embedding_dim: 128}
  optimizer: {lr: 3e-3}
  backbone: {name: resnet8-slim, width: 8}
  evaluation: {kmeans_restarts: 1, kept_images: 0}
axes: {method.beta: [0.25, 20.0]}
scheduler: {name: collapse, kinds: [cluster], patience: 2, grace: 1}
"""
BASELINES = """
baselines:
  supervised: {method: supervised}
  collapsing too: {method.beta: 21.0}
"""


def planned(folder: Path, text: str = SWEEP) -> list[Job]:
    (folder / "collapsing.yaml").write_text(text)
    return make_plan(read_sweep(folder / "collapsing.yaml", SCHEMA), folder / "data").jobs


def test_baselines_and_what_learns_from_labels_are_never_stopped(tmp_path: Path) -> None:
    rules = {job.label: job.stop_rule for job in planned(tmp_path, SWEEP + BASELINES)}
    assert [label for label, rule in rules.items() if rule is None] == ["supervised", "collapsing too"]
    rule = rules["beta=20"]
    assert rule is not None
    assert (rule.epochs, rule.sizes) == (8, Sizes(classes=10, codes=2048, dimensions=128, images=128))
    start, _, scheduler = SWEEP.partition("axes: {method.beta: [0.25, 20.0]}\n")
    jobs = planned(tmp_path, start + "arms: {labels: {settings: {method: supervised}}, codes: {}}\n" + scheduler)
    assert [(job.role, job.label, job.stop_rule is None) for job in jobs] == [
        ("trial", "labels", True),
        ("trial", "codes", False),
    ]
    assert planned(tmp_path, SWEEP.replace("scheduler:", "# "))[0].stop_rule is None


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    """One local Ray for all sweeps of this file."""
    ray.init("local", num_cpus=2, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()


class Interrupted(RuntimeError):
    """The driver has gone."""


class Ends(Recorder):
    """Notes where jobs were stopped, and can end the sweep after an epoch."""

    def __init__(self, interrupt_after: int = 0) -> None:
        super().__init__()
        self.stops: dict[str, tuple[int, str, str, Mapping[str, float]]] = {}
        self.interrupt_after = interrupt_after

    def epoch(self, job: Job, epoch: int, metrics: Mapping[str, float]) -> None:
        super().epoch(job, epoch, metrics)
        if epoch == self.interrupt_after:
            raise Interrupted

    def stopped(self, job: Job, epoch: int, reason: str, collapse: str = "", result: TrialResult | None = None) -> None:
        assert result is not None
        assert not result.files
        metrics = {name: value for name, value in result.metrics.items() if not name.startswith("time/")}
        self.stops[job.label] = epoch, reason, collapse, metrics


def stop(folder: Path, ranks: int) -> tuple[list[Job], Ends]:
    """The job that collapses, and what has become of it in so many processes."""
    jobs = [job for job in planned(folder, SWEEP.replace("patience: 2", "patience: 3")) if job.label == "beta=20"]
    through = Ends()
    execute(jobs, [through], ExecutionOptions(Resources(1, 0, ranks)))
    ((epoch, reason, kind, metrics),) = through.stops.values()
    assert 3 <= epoch < 8
    assert kind == "cluster"
    assert reason.startswith(f"stopped on collapse after epoch {epoch} of 8: cluster collapse")
    assert metrics["collapse/codes_used"] < 10
    assert 0 < metrics["probe/accuracy"] < 1
    assert len(through.logged) == epoch
    return jobs, through


@pytest.mark.long
@pytest.mark.timeout(600)
def test_a_trial_that_goes_on_is_stopped_where_it_would_have_been(cluster: None, tmp_path: Path) -> None:
    jobs, through = stop(tmp_path, 1)
    options = ExecutionOptions(Resources(1, 0), checkpoints=str(tmp_path / "checkpoints"), checkpoint_every=0)
    with pytest.raises(Interrupted):
        execute(jobs, [Ends(interrupt_after=2)], options)
    again = Ends()
    execute(jobs, [again], options)
    assert again.stops == through.stops
    # The worker may have been ahead of the driver; what it had trained is not trained again.
    assert len(again.logged) < len(through.logged) - 1
    assert again.logged == {key: through.logged[key] for key in again.logged}


@pytest.mark.long
@pytest.mark.timeout(900)
def test_a_trial_of_two_processes_is_stopped_too(cluster: None, tmp_path: Path) -> None:
    stop(tmp_path, 2)


def cli(folder: Path, *arguments: str) -> str:
    environment = {"MLFLOW_TRACKING_URI": f"sqlite:///{folder / 'mlflow.db'}", "CPLEARN_DATA": str(folder / "data")}
    before = Path.cwd()
    os.chdir(folder)
    try:
        result = CliRunner().invoke(app, [*arguments, "--gpus-per-trial", "0"], env=environment | {"COLUMNS": "160"})
    finally:
        os.chdir(before)
    assert result.exit_code == 0, result.output
    return " ".join(result.output.split())


@pytest.mark.long
@pytest.mark.timeout(600)
def test_a_sweep_stops_its_collapsed_trial_and_does_not_run_it_again(cluster: None, tmp_path: Path) -> None:
    jobs = {job.label: job.key for job in planned(tmp_path)}
    uri, collapsed = f"sqlite:///{tmp_path / 'mlflow.db'}", jobs["beta=20"]
    output = cli(tmp_path, "sweep", "collapsing.yaml", "--checkpoint-every", "600")
    known = store.trial_records(uri, set(jobs.values()))
    assert {label for label, key in jobs.items() if known[key].status == "FINISHED"} == jobs.keys() - {"beta=20"}
    client = MlflowClient(uri)
    run = client.get_run(known[collapsed].run_id)
    epoch = int(run.data.tags["cplearn.stopped_epoch"])
    assert 2 <= epoch < 8
    assert known[collapsed].status == "KILLED"
    assert run.data.tags["cplearn.collapse"] == "cluster"
    assert run.data.tags["cplearn.stopped_by"] == "collapsing: collapse (cluster, patience 2, grace 1)"
    why = f"stopped on collapse after epoch {epoch} of 8: cluster collapse (fewer codes in use than classes"
    assert run.data.tags["cplearn.error"].startswith(why)
    assert why in output

    def steps(name: str) -> list[int]:
        return sorted(point.step for point in client.get_metric_history(run.info.run_id, name))

    assert steps("train/loss") == steps("train/codes_used") == list(range(1, epoch + 1))
    assert steps("probe/accuracy") == [epoch]
    assert "time/wall_s" not in run.data.metrics
    table = (tmp_path / "results" / "collapsing" / "digits" / "table.md").read_text()
    assert f"({run.data.metrics['probe/accuracy']:.3f})" in table
    assert why in table
    assert "In parentheses: trials that were stopped on a collapse" in table

    assert "1 stopped: early, by this sweep's scheduler" in (shown := cli(tmp_path, "plan", "collapsing.yaml"))
    assert "Nothing is left to run." in shown
    cli(tmp_path, "sweep", "collapsing.yaml")
    assert store.trial_records(uri, set(jobs.values())) == known

    forced = json.loads(cli(tmp_path, "plan", "collapsing.yaml", "--force", "--json"))
    assert forced["counts"]["new"] == 2
    (tmp_path / "whole.yaml").write_text(SWEEP.replace("sweep: collapsing", "sweep: whole").replace("scheduler:", "#"))
    assert "goes on after epoch" in cli(tmp_path, "sweep", "whole.yaml")
    after = client.get_run(run.info.run_id)
    assert after.info.status == "FINISHED"
    assert not {"cplearn.stopped_by", "cplearn.stopped_epoch", "cplearn.collapse"} & after.data.tags.keys()
    assert steps("train/loss") == list(range(1, 9))
    assert steps("probe/accuracy") == [epoch, 8]
    assert "time/wall_s" in after.data.metrics
