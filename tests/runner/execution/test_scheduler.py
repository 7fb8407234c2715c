"""Early stopping: ASHA over jobs, alone and in real sweeps."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import ray
from mlflow import MlflowClient
from typer.testing import CliRunner

from cplearn.errors import InputError
from reports import store
from runner.cli import app
from runner.execution.tune_callbacks import Asha
from runner.planning.plan import SCHEMA, Job, make_plan
from sweeps.file import AshaSettings
from sweeps.spec import read_sweep

SWEEP = """
sweep: early
settings:
  epochs: 9
  batch_size: 128
  train_images: 512
  test_images: 100
  method: {codes: 32, embedding_dim: 16}
  backbone: {name: resnet8-slim, width: 4}
  evaluation: {kmeans_restarts: 1, kept_images: 0, online_probe: true}
axes: {optimizer.lr: [3e-3, 1e-5, 1e-6, 1e-7]}
scheduler: {name: asha, grace: 2, reduction: 2}
baselines: {other loss: {method: barlow_twins}}
"""
METRIC = "train/online_accuracy"


def planned(folder: Path, text: str = SWEEP) -> list[Job]:
    (folder / "early.yaml").write_text(text)
    return make_plan(read_sweep(folder / "early.yaml", SCHEMA), folder / "data").jobs


@pytest.mark.parametrize(
    ("grace", "reduction", "epochs", "rungs"),
    [(3, 3, 20, [3, 9]), (3, 3, 9, [3]), (1, 2, 9, [1, 2, 4, 8]), (5, 2, 5, []), (1, 4, 1000, [1, 4, 16, 64, 256])],
)
def test_rungs_are_where_trials_can_be_stopped(grace: int, reduction: int, epochs: int, rungs: list[int]) -> None:
    assert AshaSettings(name="asha", grace=grace, reduction=reduction).rungs(epochs) == rungs


@pytest.mark.parametrize("mode", ["max", "min"])
def test_only_the_best_of_those_at_a_rung_go_on(tmp_path: Path, mode: Any) -> None:
    first, second, third, fourth = (job for job in planned(tmp_path) if job.role == "trial")
    sign = 1 if mode == "max" else -1
    asha = Asha(AshaSettings(name="asha", mode=mode, grace=2, reduction=2))
    # Whoever comes first goes on; nothing is decided between rungs.
    assert not asha.stops(first, 1, {METRIC: sign * 0.0})
    assert not asha.stops(first, 2, {METRIC: sign * 0.5})
    assert not asha.stops(second, 1, {METRIC: sign * 0.0})
    assert asha.stops(second, 2, {METRIC: sign * 0.4})
    assert not asha.stops(third, 2, {METRIC: sign * 0.6})
    assert asha.stops(fourth, 2, {METRIC: sign * 0.45})
    assert asha.stopped == {second.key: 2, fourth.key: 2}
    assert not asha.stops(first, 4, {METRIC: sign * 0.7})
    assert asha.stops(third, 4, {METRIC: sign * 0.6})
    # After the last epoch only the evaluation is left.
    assert not asha.stops(first, 9, {METRIC: sign * 0.0})
    assert asha.why(third) == "stopped early by asha after epoch 4 of 9"


def test_what_was_seen_before_counts_and_is_not_decided_anew(tmp_path: Path) -> None:
    first, second, third, _ = (job for job in planned(tmp_path) if job.role == "trial")
    asha = Asha(AshaSettings(name="asha", grace=2, reduction=2))
    asha.remember(first, {1: 0.1, 2: 0.5, 3: 0.6, 4: 0.7})
    # It went on although it was worse, and so it does after its worker was lost, up to the next rung.
    asha.remember(second, {1: 0.0, 2: 0.2})
    assert not asha.stops(second, 2, {METRIC: 0.2})
    assert not asha.stops(second, 3, {METRIC: 0.2})
    assert asha.stops(second, 4, {METRIC: 0.3})
    assert asha.stops(third, 2, {METRIC: 0.3})


def test_data_sets_and_seeds_do_not_compete_and_baselines_take_no_part(tmp_path: Path) -> None:
    jobs = planned(tmp_path, SWEEP + "seeds: 2\n")
    zero, one = ([job for job in jobs if job.trial.seed == seed and job.role == "trial"] for seed in (0, 1))
    baseline = next(job for job in jobs if job.role == "baseline")
    asha = Asha(AshaSettings(name="asha", grace=2, reduction=2))
    assert not asha.stops(baseline, 2, {METRIC: 0.9})
    assert not asha.stops(zero[0], 2, {METRIC: 0.5})
    assert not asha.stops(one[0], 2, {METRIC: 0.1})
    assert not asha.stops(baseline, 2, {METRIC: 0.0})
    assert asha.stops(zero[1], 2, {METRIC: 0.4})
    assert asha.rungs(baseline) == []


def test_a_metric_that_is_not_logged_is_refused_with_those_that_are(tmp_path: Path) -> None:
    job = next(job for job in planned(tmp_path) if job.role == "trial")
    asha = Asha(AshaSettings(name="asha", metric="train/invarance"))
    with pytest.raises(InputError, match=r"not logged by method 'cplearn'; .* there are: train/invariance"):
        asha.stops(job, 1, {"train/loss": 1.0, "train/invariance": 1.0})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ((", online_probe: true", ""), "only logged with evaluation.online_probe: true"),
        (("asha, grace", "asha, metric: probe/accuracy, grace"), "measured once, after the last epoch"),
        (("grace: 2", "grace: 9"), "no trial has more epochs than that"),
    ],
)
def test_a_metric_that_cannot_be_there_is_refused_before_anything_starts(
    tmp_path: Path, change: tuple[str, str], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        planned(tmp_path, SWEEP.replace(*change))


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    """One local Ray for all sweeps of this file."""
    ray.init("local", num_cpus=2, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()


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
def test_a_stopped_trial_is_no_result_until_another_sweep_goes_on_with_it(cluster: None, tmp_path: Path) -> None:
    keys = {job.key: job for job in planned(tmp_path)}
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    # Far apart checkpoints: what is stopped leaves one nevertheless.
    output = cli(tmp_path, "sweep", "early.yaml", "--checkpoint-every", "600")
    known = store.trial_records(uri, keys)
    stopped = {key for key, run in known.items() if run.status == "KILLED"}
    assert 0 < len(stopped) < 4
    assert {run.status for key, run in known.items() if key not in stopped} == {"FINISHED"}
    client = MlflowClient(uri)
    for key in stopped:
        tags = client.get_run(known[key].run_id).data.tags
        assert tags["cplearn.stopped_by"].startswith("early: asha (train/online_accuracy max")
        reached = int(tags["cplearn.stopped_epoch"])
        assert reached in (2, 4, 8)
        assert len(client.get_metric_history(known[key].run_id, "train/loss")) == reached
        assert (tmp_path / "checkpoints" / f"{key}.{reached:06d}.ckpt").is_file()
    table = (tmp_path / "results" / "early" / "digits" / "table.md").read_text()
    assert table.count("| stopped |") >= len(stopped)

    assert f"{len(stopped)} stopped: early, by this sweep's scheduler" in (shown := cli(tmp_path, "plan", "early.yaml"))
    assert "Nothing is left to run." in shown
    assert f"0 trials to run, {5 - len(stopped)} finished before, {len(stopped)} stopped early before" in cli(
        tmp_path, "sweep", "early.yaml"
    )
    assert store.trial_records(uri, keys) == known

    # Another rule may decide otherwise, and so may the user.
    (tmp_path / "other.yaml").write_text(SWEEP.replace("grace: 2", "grace: 3"))
    other = json.loads(cli(tmp_path, "plan", "other.yaml", "--json"))
    assert other["counts"]["resumable"] == len(stopped)
    forced = json.loads(cli(tmp_path, "plan", "early.yaml", "--force", "--json"))
    assert forced["counts"]["new"] == 5

    (tmp_path / "whole.yaml").write_text(SWEEP.replace("sweep: early", "sweep: whole").replace("scheduler:", "#"))
    output = cli(tmp_path, "sweep", "whole.yaml")
    assert output.count("goes on after epoch") == len(stopped)
    after = store.trial_records(uri, keys)
    assert {key: run.run_id for key, run in after.items()} == {key: run.run_id for key, run in known.items()}
    assert {run.status for run in after.values()} == {"FINISHED"}
    for key in stopped:
        run = client.get_run(after[key].run_id)
        assert not {"cplearn.stopped_by", "cplearn.stopped_epoch", "cplearn.error"} & run.data.tags.keys()
        assert sorted(m.step for m in client.get_metric_history(run.info.run_id, "train/loss")) == list(range(1, 10))
