"""`cplearn plan` against a real store, and sweeps that keep to a budget."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from reports import store
from runner.machine.resources import Resources
from runner.planning import preview
from runner.planning.plan import SCHEMA, Plan, make_plan
from runner.tracking.tracker import Tracker
from support import run_cli, uri
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
NONE = dict.fromkeys(preview.STATES, 0)
METRICS = {"time/train_s": 20.0, "time/evaluation_s": 5.0, "probe/accuracy": 0.9}


def as_json(folder: Path, *arguments: str) -> dict[str, Any]:
    code, output = run_cli(folder, "plan", "tiny.yaml", "--json", "--gpus-per-trial", "0", *arguments)
    assert code == 0, output
    answer: dict[str, Any] = json.loads(output)
    return answer


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with two finished trials, a failed, a running and a stopped one of eight, written by the tracker."""
    folder = tmp_path_factory.mktemp("plan")
    plan = planned(folder)
    tracker = Tracker(uri(folder), plan)
    here = preview.Resources(1, 0)
    from runner.machine.resources import hardware

    tags = hardware(here, remote=False) | {"threads": "1"}
    for job in plan.jobs[:5]:
        tracker.started(job)
    for job in plan.jobs[:2]:
        trained = METRICS if job.trial.method.trains else METRICS | {"time/train_s": 0.0}
        tracker.finished(job, trained, {"diagnostics.json": b"{}"}, tags)
    tracker.failed(plan.jobs[2], "Traceback\nValueError: [the disk] was full", "exception")
    tracker.writes.close()
    tracker._end(tracker.runs[plan.jobs[4].key], "KILLED")
    return folder


def planned(folder: Path) -> Plan:
    (folder / "tiny.yaml").write_text(SWEEP)
    return make_plan(read_sweep(folder / "tiny.yaml", SCHEMA), folder / "data")


def test_states_are_counted_and_explained(folder: Path) -> None:
    answer = as_json(folder)
    assert answer["counts"] == {
        "new": 4,
        "reused": 2,
        "resumable": 0,
        "failed": 1,
        "running": 1,
        "stopped": 0,
        "diverged": 0,
    }
    told = {(trial["state"], trial["detail"].partition(" since")[0]) for trial in answer["trials"]}
    assert told == {
        ("new", ""),
        ("reused", "from tiny"),
        ("failed", "ValueError: [the disk] was full"),
        ("running", "in tiny"),
    }
    assert as_json(folder, "--force")["counts"]["reused"] == 0


def test_times_are_those_of_finished_runs(folder: Path) -> None:
    answer = as_json(folder)
    assert answer["unknown_packs"] == 0
    assert {t["source"] for t in answer["timings"]} == {"finished runs"}
    # Left are five trainings of 25 s and a baseline of 5 s.
    assert answer["device_s"]["middle"] == pytest.approx(130, rel=0.2)
    assert answer["device_s"]["low"] < answer["device_s"]["middle"] < answer["device_s"]["high"]
    assert answer["device"] == "CPU core"
    longer = as_json(folder, "--epochs", "20")
    # The baselines do not train, so epochs change nothing about them: one is reused, one was stopped before.
    assert longer["counts"] == {
        "new": 7,
        "reused": 1,
        "resumable": 0,
        "failed": 0,
        "running": 0,
        "stopped": 0,
        "diverged": 0,
    }
    assert longer["device_s"]["middle"] == pytest.approx(6 * 205 + 5, rel=0.2)


def test_what_has_diverged_is_left_alone_as_by_a_sweep(tmp_path: Path) -> None:
    plan = planned(tmp_path)
    tracker = Tracker(uri(tmp_path), plan)
    tracker.started(plan.jobs[2])
    tracker.failed(plan.jobs[2], "the loss became nan in epoch 1", "diverged")
    tracker.writes.close()
    answer = as_json(tmp_path)
    assert answer["counts"] == NONE | {"new": 7, "diverged": 1}
    assert sum(map(len, answer["packs"])) == 7
    assert ("diverged", "the loss became nan in epoch 1") in {(t["state"], t["detail"]) for t in answer["trials"]}
    again = as_json(tmp_path, "--retry-failed")
    assert again["counts"] == NONE | {"new": 7, "failed": 1}
    assert sum(map(len, again["packs"])) == 8


def test_a_budget_says_what_the_table_would_hold(folder: Path) -> None:
    held = as_json(folder, "--budget", "40s", "--packing", "off")["within_budget"]
    seeds = {trial["key"]: trial["seed"] for trial in as_json(folder)["trials"]}
    assert held
    assert len(held) < 6
    assert seeds[held[0]] == 0
    assert len(as_json(folder, "--budget", "4h")["within_budget"]) == 6


def test_packs_are_shown_with_what_keeps_them_apart(folder: Path) -> None:
    code, output = run_cli(
        folder, "plan", "tiny.yaml", "--gpus-per-trial", "0", "--packing", "9", "--set", "method.codes=[16,32]"
    )
    assert code == 0, output
    assert output.count("Trained together in packs: ") == output.count("Trained together") == 1
    assert "Kept in separate packs by: method.codes." in output
    together = as_json(folder, "--packing", "9")["packs"]
    apart = as_json(folder, "--packing", "9", "--budget", "1h")["packs"]
    assert max(map(len, together)) == 5
    assert max(map(len, apart)) == 3, "under a budget a pack holds one seed"


def test_the_plan_says_why_a_cpu_gets_no_packs(folder: Path) -> None:
    code, output = run_cli(
        folder, "plan", "tiny.yaml", "--gpus-per-trial", "0", "--packing", "auto", "--set", "backbone.width=128"
    )
    assert code == 0, output
    alone = "Every trial is trained alone; on a CPU, --packing auto packs steps of less than 2 GFLOP only."
    assert alone in " ".join(output.split())


def test_what_no_run_tells_is_unknown_until_calibrated(tmp_path: Path) -> None:
    planned(tmp_path)
    code, output = run_cli(tmp_path, "plan", "tiny.yaml", "--gpus-per-trial", "0")
    assert code == 0, output
    assert "unknown time" in output
    answer = as_json(tmp_path, "--calibrate")
    assert answer["unknown_packs"] == 0
    assert {t["source"] for t in answer["timings"]} == {"calibration"}
    assert 0 < answer["wall_s"]["low"] < answer["wall_s"]["high"] < 600
    assert not (tmp_path / "mlflow.db").exists()
    assert not (tmp_path / "results").exists()


def test_the_listing_names_every_trial(folder: Path) -> None:
    code, output = run_cli(folder, "plan", "tiny.yaml", "--gpus-per-trial", "0", "--list")
    assert code == 0
    for job in planned(folder).jobs:
        assert job.key in output
        assert job.name in output
    assert "[the disk] was full" in output


def test_a_file_and_a_server_would_tell_the_same(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    quick = store.known_runs(uri(folder))
    assert len(quick) == 5
    monkeypatch.setattr(store.trials, "_known_in_file", lambda uri, experiment: None)
    assert store.known_runs(uri(folder)) == quick
    assert store.known_runs(uri(folder), set(quick)) == quick


def test_a_resumable_trial_comes_with_its_epoch(tmp_path: Path) -> None:
    jobs = planned(tmp_path).jobs
    placed = preview.place(jobs, {}, {jobs[1].key: 1})
    assert [(one.state, one.detail) for one in placed[:2]] == [("new", ""), ("resumable", "at epoch 1 of 2")]


def test_a_sweep_stops_at_its_budget_and_goes_on_next_time(tmp_path: Path) -> None:
    """The trials of 100,000 epochs cannot end; the baselines can, and the table is made of them."""
    (tmp_path / "tiny.yaml").write_text(SWEEP.replace("epochs: 2", "epochs: 100000"))
    code, output = run_cli(tmp_path, "sweep", "tiny.yaml", "--gpus-per-trial", "0", "--budget", "75s")
    assert code == 0, output
    assert "Budget used up:" in output
    assert "random backbone" in (tmp_path / "results" / "tiny" / "digits" / "table.md").read_text()
    states = {key: run.status for key, run in store.known_runs(uri(tmp_path)).items()}
    assert "FINISHED" in states.values()
    assert "RUNNING" not in states.values()
    code, output = run_cli(tmp_path, "sweep", "tiny.yaml", "--gpus-per-trial", "0", "--epochs", "1", "--budget", "1h")
    assert code == 0, output
    assert "Budget used up" not in output
    assert as_json(tmp_path, "--epochs", "1")["counts"]["new"] == 0


@pytest.mark.parametrize(
    ("resources", "devices"),
    [(Resources(2, 0), ("CPU core", 2)), (Resources(2, 0, 3), ("CPU core", 6)), (Resources(2, 8), ("GPU", 8))],
)
def test_a_pack_occupies_what_all_of_its_processes_have(resources: Resources, devices: tuple[str, float]) -> None:
    assert preview.forecast([], {}, resources, 1, 0, {}).devices == devices
