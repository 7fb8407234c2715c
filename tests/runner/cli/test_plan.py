"""`cplearn plan` against a real store, and a sweep that keeps to a budget."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from reports.statistics import inference
from runner.events import TrialResult
from runner.machine.resources import Resources, hardware
from runner.planning.plan import SCHEMA, Plan, make_plan
from runner.tracking.tracker import Tracker
from support import run_cli, uri
from sweeps.record import STATES
from sweeps.spec import read_sweep

SWEEP = """
sweep: tiny
settings:
  epochs: 2
  method: {codes: 32, embedding_dim: 16}
  backbone: {name: resnet8-slim, width: 4}
  evaluation: {kmeans_restarts: 1}
axes: {method.beta: [0.1, 0.5, 1]}
baselines: {random backbone: {method: untrained}}
seeds: 2
"""
NONE = dict.fromkeys(STATES, 0)
METRICS = {"time/train_s": 20.0, "time/evaluation_s": 5.0, "probe/accuracy": 0.9}


def as_json(folder: Path, *arguments: str) -> dict[str, Any]:
    code, output = run_cli(folder, "plan", "tiny.yaml", "--json", "--gpus-per-trial", "0", *arguments)
    assert code == 0, output
    answer: dict[str, Any] = json.loads(output)
    return answer


def planned(folder: Path) -> Plan:
    (folder / "tiny.yaml").write_text(SWEEP)
    return make_plan(read_sweep(folder / "tiny.yaml", SCHEMA), folder / "data")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with two finished trials, a failed, a diverged and a running one of eight, written by the tracker."""
    folder = tmp_path_factory.mktemp("plan")
    plan = planned(folder)
    tracker = Tracker(uri(folder), plan)
    tags = hardware(Resources(1, 0), remote=False)
    for job in plan.jobs[:5]:
        tracker.started(job)
    for job in plan.jobs[:2]:
        trained = METRICS if job.trial.method.trains else METRICS | {"time/train_s": 0.0}
        tracker.finished(job, TrialResult(trained, {"diagnostics.json": b"{}"}, tags))
    tracker.failed(plan.jobs[2], "Traceback\nValueError: [the disk] was full", "exception")
    tracker.failed(plan.jobs[4], "the loss became nan in epoch 1", "diverged")
    tracker.writes.close()
    return folder


def test_states_are_counted_and_explained(folder: Path) -> None:
    answer = as_json(folder)
    assert answer["counts"] == NONE | {"new": 3, "reused": 2, "failed": 1, "running": 1, "diverged": 1}
    details = {(trial["state"], trial["detail"].partition(" since")[0]) for trial in answer["trials"]}
    assert details == {
        ("new", ""),
        ("reused", "from tiny"),
        ("failed", "ValueError: [the disk] was full"),
        ("diverged", "the loss became nan in epoch 1"),
        ("running", "in tiny"),
    }
    assert len(answer["to_run"]) == 5
    again = as_json(folder, "--retry-failed")
    assert again["counts"] == NONE | {"new": 3, "reused": 2, "failed": 2, "running": 1}
    assert len(again["to_run"]) == 6
    assert as_json(folder, "--force")["counts"]["reused"] == 0


def test_times_are_those_of_finished_runs(folder: Path) -> None:
    answer = as_json(folder)
    assert answer["unknown_trials"] == 0
    assert {timing["source"] for timing in answer["timings"]} == {"finished runs"}
    # Left are five trainings of 25 s; one baseline has finished, the other cannot.
    assert answer["device_s"]["middle"] == pytest.approx(5 * 25)
    assert answer["device_s"]["low"] < answer["device_s"]["middle"] < answer["device_s"]["high"]
    assert answer["device"] == "CPU core"
    longer = as_json(folder, "--epochs", "20", "--budget", "420s")
    # The baselines do not train, so epochs change nothing about them: one is reused.
    assert longer["counts"] == NONE | {"new": 6, "reused": 1, "diverged": 1}
    assert longer["device_s"]["middle"] == pytest.approx(6 * 205)
    seeds = {trial["key"]: trial["seed"] for trial in longer["trials"]}
    held = longer["within_budget"]
    assert 2 <= len(held) < 6
    assert {seeds[key] for key in held[:2]} == {0}


def test_the_listing_names_every_trial(folder: Path) -> None:
    code, output = run_cli(folder, "plan", "tiny.yaml", "--gpus-per-trial", "0", "--list", "--budget", "4h")
    assert code == 0, output
    for job in planned(folder).jobs:
        assert job.key in output
        assert job.name in output
    assert "[the disk] was full" in output
    assert "Rests on: finished runs for 1 of 1 kind of trials." in output
    assert "digits seed 0: 4 of 4 trials" in output


def test_without_finished_runs_a_few_steps_are_timed_and_nothing_is_written(tmp_path: Path) -> None:
    planned(tmp_path)
    answer = as_json(tmp_path)
    assert answer["unknown_trials"] == 0
    assert {timing["source"] for timing in answer["timings"]} == {"timed steps"}
    assert 0 < answer["wall_s"]["low"] < answer["wall_s"]["high"]
    assert not (tmp_path / "mlflow.db").exists()
    assert not (tmp_path / "results").exists()


def test_seeds_that_tell_a_difference_are_counted_from_finished_runs(tmp_path: Path) -> None:
    plan = planned(tmp_path)
    noise = {(0.1, 0): 0.8, (0.1, 1): 0.81, (0.5, 0): 0.9, (0.5, 1): 0.93}
    tracker = Tracker(uri(tmp_path), plan)
    for job in plan.jobs:
        if accuracy := noise.get((job.point.get("method.beta", 0), job.trial.seed)):
            tracker.started(job)
            result = TrialResult(METRICS | {"probe/accuracy": accuracy}, {}, hardware(Resources(1, 0), remote=False))
            tracker.finished(job, result)
    tracker.writes.close()
    std = abs(0.10 - 0.12) / 2**0.5
    (found,) = as_json(tmp_path, "--resolve", "0.02")["resolve"]
    assert (found["rows"], found["pairs"], found["measured"], found["planned"]) == (3, 1, 2, 2)
    assert found["std"] == pytest.approx(std)
    assert found["seeds"] == inference.seeds_needed(0.02, std, 3)
    assert found["source"] == "this sweep"
    wider = as_json(tmp_path, "--resolve", "0.02", "--set", "method.beta=[0.2, 0.3]")["resolve"]
    assert (wider[0]["source"], wider[0]["std"]) == ("its methods on these data", pytest.approx(std))
    code, said = run_cli(tmp_path, "plan", "tiny.yaml", "--gpus-per-trial", "0", "--resolve", "0.02")
    assert code == 0
    assert f"digits: {found['seeds']} seeds tell a difference of 0.02 in Linear acc. between two of 3 rows" in said
    assert f"With {found['seeds']} seeds: Expected: " in said


def test_without_two_seeds_no_number_of_seeds_is_known(folder: Path) -> None:
    code, said = run_cli(folder, "plan", "tiny.yaml", "--gpus-per-trial", "0", "--resolve", "0.005")
    assert (code, "no two rows of finished runs have two seeds in common" in said) == (2, True), said
    code, said = run_cli(folder, "plan", "tiny.yaml", "--gpus-per-trial", "0", "--resolve", "0")
    assert (code, "--resolve 0: a difference is larger than 0" in said) == (2, True), said


def test_a_table_that_a_sweep_asks_for_and_there_is_not_is_said_before_anything_runs(tmp_path: Path) -> None:
    (tmp_path / "tiny.yaml").write_text(SWEEP + "tables: [sensitivty]\n")
    code, output = run_cli(tmp_path, "plan", "tiny.yaml")
    assert (code, "no table 'sensitivty'; did you mean 'sensitivity'?" in output) == (2, True), output


def test_a_sweep_begins_no_trial_that_its_budget_does_not_hold(folder: Path) -> None:
    # By the finished runs an epoch takes 10 s.
    many = ("tiny.yaml", "--gpus-per-trial", "0", "--epochs", "1000", "--budget", "1h")
    code, output = run_cli(folder, "sweep", *many)
    assert code == 1, output  # One of the trials has diverged.
    assert "Expected: " in output
    assert "Budget used up: 0 of 6 trials done" in output
    assert as_json(folder, "--epochs", "1000")["counts"] == NONE | {"new": 6, "reused": 1, "diverged": 1}
    assert (folder / "results" / "tiny" / "digits" / "table.md").is_file()
