"""Searches: studies that survive their driver, alone and under real Ray, MLflow and a killed process."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

import optuna
import pytest
from mlflow import MlflowClient

from cplearn.errors import InputError
from runner.events import TrialResult
from runner.planning.plan import SCHEMA, Job, Plan, make_plan
from runner.search import studies
from runner.search.search import Search
from sweeps.record import TrialRecord
from sweeps.spec import read_sweep

SWEEP = """
sweep: tiny
settings:
  epochs: 2
  method: {codes: 32, embedding_dim: 16}
  backbone: {name: resnet8-slim, width: 4}
  evaluation: {kmeans_restarts: 1}
axes:
  method.beta: {log_uniform: [0.05, 5]}
  optimizer.lr: [1e-3, 3e-3]
search: {name: optuna, trials: 8, startup: 4}
"""

Recorded = Mapping[str, TrialRecord]


def planned(folder: Path, text: str = SWEEP) -> Plan:
    (folder / "tiny.yaml").write_text(text)
    return make_plan(read_sweep(folder / "tiny.yaml", SCHEMA), folder / "data")


def place(folder: Path) -> str:
    return studies.beside(f"sqlite:///{folder / 'mlflow.db'}")


def begin(folder: Path, text: str = SWEEP, store: Recorded | None = None, **options: Any) -> Search:
    """A driver's search, with `store` as all that the tracking store knows."""
    folder.mkdir(exist_ok=True)
    known = store or {}

    def recall(keys: Collection[str]) -> Recorded:
        return {key: known[key] for key in keys if key in known}

    return Search(planned(folder, text), place(folder), recall, **options)


def score(job: Job) -> dict[str, float]:
    """Best at β = 1, a little different for each seed."""
    beta = job.trial.method.beta  # type: ignore[attr-defined]
    return {"validation/accuracy": 1 - abs(beta - 1) / 10 + job.trial.seed / 100, "select/rankme": beta}


def stored(jobs: Iterable[Job]) -> dict[str, TrialRecord]:
    """What the store has of jobs that have finished."""
    return {job.key: TrialRecord(job.key, "run", "FINISHED", metrics=score(job)) for job in jobs}


def drive(one: Search, most: int = 1000, end: Callable[[Job], None] | None = None) -> list[Job]:
    """Do what a driver does with at most so many jobs, one after the other."""
    done: list[Job] = []
    while len(done) < most and (job := one.more()):
        done.append(job)
        if end:
            end(job)
        else:
            one.finished(job, TrialResult(score(job)))
    return done


def trials(folder: Path, which: int = 0) -> list[optuna.trial.FrozenTrial]:
    names = sorted(optuna.get_all_study_names(place(folder)))
    return optuna.load_study(study_name=names[which], storage=place(folder)).trials


def states(folder: Path, which: int = 0) -> Counter[str]:
    return Counter(trial.state.name for trial in trials(folder, which))


def test_a_study_gets_the_mean_over_seeds_of_exactly_so_many_suggestions(tmp_path: Path) -> None:
    one = begin(tmp_path, SWEEP + "seeds: 3\n")
    assert one.to_come == 24
    jobs = drive(one)
    assert len({job.key for job in jobs}) == 24
    assert one.to_come == 0
    for trial in trials(tmp_path):
        own = [score(job)["validation/accuracy"] for job in jobs if job.key in trial.user_attrs["keys"]]
        assert len(own) == 3
        assert trial.value == pytest.approx(sum(own) / 3)
    assert states(tmp_path) == {"COMPLETE": 8}
    assert "Best of 8 complete suggestions on digits" in one.summary()
    assert {job.key for job in one.plan.jobs} == {job.key for job in jobs}
    assert len(one.plan.manifest().axes["method.beta"]) == 8


def test_it_learns(tmp_path: Path) -> None:
    """After its random start the sampler comes near the best point much more often than chance does."""
    near = {}
    for start in (10, 30):
        folder = tmp_path / str(start)
        drive(begin(folder, SWEEP.replace("trials: 8, startup: 4", f"trials: 30, startup: {start}")))
        near[start] = sum(abs(trial.params["method.beta"] - 1) < 0.2 for trial in trials(folder)[10:])
    assert near[10] > 2 * near[30]


@pytest.mark.parametrize("ended", [1, 3, 5])
def test_whoever_comes_after_a_killed_driver_goes_on_with_what_it_had_begun(tmp_path: Path, ended: int) -> None:
    first = begin(tmp_path)
    done = drive(first, ended)
    begun = [first.more(), first.more()]
    second = begin(tmp_path, store=stored(done))
    rest = drive(second)
    assert [job.key for job in rest[:2]] == [job.key for job in begun if job]
    assert states(tmp_path) == {"COMPLETE": 8}
    # Were its draws repeated, points would come twice.
    assert len({job.key for job in done + rest}) == 8
    assert len({trial.params["method.beta"] for trial in trials(tmp_path)}) == 8
    assert drive(begin(tmp_path, store=stored(done + rest))) == []


def test_a_longer_search_goes_on_and_a_driver_killed_while_asking_does_not_count(tmp_path: Path) -> None:
    done = drive(begin(tmp_path))
    study = optuna.load_study(study_name=None, storage=place(tmp_path))
    study.ask()
    more = drive(begin(tmp_path, SWEEP.replace("trials: 8", "trials: 11"), stored(done)))
    assert len(more) == 3
    assert states(tmp_path) == {"COMPLETE": 11, "FAIL": 1}


def test_what_has_finished_before_is_told_at_once_and_what_the_store_has_lost_is_run(tmp_path: Path) -> None:
    done = drive(begin(tmp_path / "a"))
    # The random start is the same, so its results are known.
    assert len(drive(begin(tmp_path / "b", store=stored(done[:4])))) == 4
    assert states(tmp_path / "b") == {"COMPLETE": 8}
    assert {job.key for job in drive(begin(tmp_path / "a", store=stored(done[:4])))} == {job.key for job in done[4:]}
    assert states(tmp_path / "a") == {"COMPLETE": 8}


def test_what_diverges_or_is_stopped_counts_and_its_other_seeds_are_not_begun(tmp_path: Path) -> None:
    one = begin(tmp_path, SWEEP + "seeds: 2\n")

    def end(job: Job) -> None:
        if job.trial.optimizer.lr > 2e-3:
            one.failed(job, "the loss became nan", "diverged")
        elif job.trial.method.beta > 1:  # type: ignore[attr-defined]
            one.stopped(job, 1, "stopped early")
        else:
            one.finished(job, TrialResult(score(job)))

    jobs = drive(one, end=end)
    found = states(tmp_path)
    assert found.total() == 8
    assert found["FAIL"] > 0
    assert found["COMPLETE"] > 0
    assert len(jobs) == 2 * found["COMPLETE"] + found["FAIL"] + found["PRUNED"]


def test_a_trial_whose_early_stop_the_store_has_lost_is_run_on(tmp_path: Path) -> None:
    one = begin(tmp_path)
    drive(one, end=lambda job: one.stopped(job, 1, "stopped early"))
    assert states(tmp_path) == {"PRUNED": 8}
    jobs = [job for study in one.studies for suggestion in study.suggestions() for job in suggestion.jobs]
    store = {job.key: TrialRecord(job.key, "run", "KILLED", stopped_by="a rule") for job in jobs}
    assert drive(begin(tmp_path, store=store)) == []
    store[jobs[3].key] = TrialRecord(jobs[3].key, "run", "KILLED")
    assert [job.key for job in drive(begin(tmp_path, store=store))] == [jobs[3].key]
    assert states(tmp_path) == {"PRUNED": 8}


def test_a_trial_that_raises_is_run_again_by_the_next_call(tmp_path: Path) -> None:
    one = begin(tmp_path)
    broken: list[Job] = []

    def end(job: Job) -> None:
        if broken:
            one.finished(job, TrialResult(score(job)))
        else:
            broken.append(job)
            one.failed(job, "OSError: no space left", "exception")

    done = drive(one, end=end)
    assert states(tmp_path) == {"COMPLETE": 7, "RUNNING": 1}
    known = stored(done[1:])
    known[broken[0].key] = TrialRecord(broken[0].key, "run", "FAILED", failure="exception")
    assert [job.key for job in drive(begin(tmp_path, store=known))] == [broken[0].key]
    assert states(tmp_path) == {"COMPLETE": 8}


@pytest.mark.parametrize(
    "text",
    [
        SWEEP.replace("5]", "6]"),
        SWEEP.replace("startup: 4", "objectives: {select/rankme: maximize}"),
        SWEEP.replace("epochs: 2", "epochs: 3"),
        SWEEP + "seeds: 2\n",
    ],
)
def test_another_space_objective_or_setting_begins_a_study_of_its_own_and_says_so(tmp_path: Path, text: str) -> None:
    said: list[str] = []
    drive(begin(tmp_path, say=said.append))
    assert said == []
    drive(begin(tmp_path, text, say=said.append))
    assert "are not those of its earlier study, so a new one begins" in said[0]
    assert len(optuna.get_all_study_names(place(tmp_path))) == 2


def test_another_length_seed_or_start_goes_on_with_the_study_and_force_begins_another(tmp_path: Path) -> None:
    drive(begin(tmp_path), 2)
    drive(begin(tmp_path, SWEEP.replace("startup: 4", "startup: 5, seed: 7")), 2)
    assert len(optuna.get_all_study_names(place(tmp_path))) == 1
    assert len(drive(begin(tmp_path, anew=True))) == 8
    first, second = sorted(optuna.get_all_study_names(place(tmp_path)))
    assert second == f"{first} #2"
    assert states(tmp_path, 1) == {"COMPLETE": 8}
    # From now on the newest one counts.
    assert studies.find(planned(tmp_path), place(tmp_path))[0].study.study_name == second  # type: ignore[union-attr]


def test_points_that_come_twice_run_once(tmp_path: Path) -> None:
    text = SWEEP.replace("{log_uniform: [0.05, 5]}", "[0.1, 0.5, 1, 2]").replace("trials: 8, startup: 4", "trials: 7")
    one = begin(tmp_path, text)
    waiting: list[Job] = []
    # Two at a time, so that a point can come again while it is under way.
    jobs: list[Job] = []
    while (job := one.more()) or waiting:
        if job:
            jobs.append(job)
            waiting.append(job)
        if len(waiting) == 2 or not job:
            ended = waiting.pop(0)
            one.finished(ended, TrialResult(score(ended)))
    assert states(tmp_path) == {"COMPLETE": 7}
    points = [tuple(trial.params.values()) for trial in trials(tmp_path)]
    assert len(jobs) == len({job.key for job in jobs}) == len(set(points))


def test_settings_that_do_not_go_together_count_as_failed(tmp_path: Path) -> None:
    axes = "epochs: {integers: [1, 9]}\n  optimizer.warmup_epochs: {integers: [0, 8]}"
    text = SWEEP.replace("  epochs: 2\n", "").replace("optimizer.lr: [1e-3, 3e-3]", axes)
    said: list[str] = []
    jobs = drive(begin(tmp_path, text, say=said.append))
    found = states(tmp_path)
    assert found.total() == 8
    assert found["FAIL"] == len(said) > 0
    assert found["COMPLETE"] == len(jobs) > 0
    assert "do not go together and counts as failed: " in said[0]
    assert "is longer than epochs" in said[0]
    assert drive(begin(tmp_path, text, stored(jobs))) == []


def test_several_objectives_give_a_front_and_the_test_split_is_named(tmp_path: Path) -> None:
    text = SWEEP.replace("startup: 4", "objectives: {validation/accuracy: maximize, select/rankme: maximize}")
    one = begin(tmp_path, text)
    drive(one)
    found = one.summary()
    assert "Pareto front of 8 complete suggestions" in found
    best = optuna.load_study(study_name=None, storage=place(tmp_path)).best_trials
    assert found.count("(suggestion ") == len(best) < 8
    assert "test split" not in found
    seen = begin(tmp_path / "other", SWEEP.replace("startup: 4", "objectives: {knn/accuracy: maximize}"))
    job = seen.more()
    assert job
    seen.finished(job, TrialResult({"knn/accuracy": 0.5}))
    assert "Chosen by the test split** (knn/accuracy)" in seen.summary()


def test_an_objective_that_no_trial_has_ends_the_search_in_one_sentence(tmp_path: Path) -> None:
    one = begin(tmp_path, SWEEP.replace("startup: 4", "objectives: {codes/ami: maximize}"))
    job = one.more()
    assert job
    with pytest.raises(InputError, match="'codes/ami' is not measured for method 'cplearn'"):
        one.finished(job, TrialResult({"probe/accuracy": 1.0}))


def test_jobs_of_another_driver_are_waited_for(tmp_path: Path) -> None:
    one = begin(tmp_path)
    taken: set[str] = set()

    def claim(key: str) -> bool:
        if not taken:
            taken.add(key)
        return key not in taken

    one.claim = claim
    assert len(drive(one)) == 7
    assert [job.key for job in one.elsewhere] == list(taken)
    one.claim = lambda key: True
    assert [job.key for job in drive(one)] == list(taken)
    assert states(tmp_path) == {"COMPLETE": 8}


def test_studies_lie_beside_their_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert studies.beside(f"sqlite:///{tmp_path}/mlflow.db") == f"sqlite:///{tmp_path}/mlflow.db.studies"
    address = studies.beside("postgresql://me:s%40cret@host/base")
    assert address.startswith("postgresql://me:s%40cret@host/base?options=-csearch_path%3Dcplearn_studies")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert studies.beside("http://host:5000").startswith(f"sqlite:///{tmp_path}/cplearn/")


def test_a_damaged_file_of_studies_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "mlflow.db.studies").write_bytes(random.Random(0).randbytes(8192))
    with pytest.raises(InputError, match="studies beside the tracking store cannot be used: file is not a database"):
        begin(tmp_path)


KILLED = """
sweep: killed
settings:
  epochs: 6
  train_images: 600
  batch_size: 64
  method: {codes: 32, embedding_dim: 16}
  backbone: {name: resnet8-slim, width: 4}
  evaluation: {kmeans_restarts: 1, kept_images: 0, online_probe: true}
axes:
  method.beta: {log_uniform: [0.05, 5]}
  optimizer.lr: {log_uniform: [1e-5, 1e-2]}
search: {name: optuna, trials: 5, startup: 3}
scheduler: {name: asha, grace: 2, reduction: 2}
"""


@pytest.mark.long
@pytest.mark.timeout(600)
def test_a_search_whose_driver_is_killed_ends_with_exactly_its_trials(tmp_path: Path) -> None:
    (tmp_path / "killed.yaml").write_text(KILLED)
    store = f"sqlite:///{tmp_path / 'mlflow.db'}"
    environment = {**os.environ, "MLFLOW_TRACKING_URI": store, "CPLEARN_DATA": str(tmp_path / "data")}
    environment.pop("RAY_ADDRESS", None)
    command = [sys.executable, "-m", "runner.cli", "sweep", "killed.yaml", "--checkpoint-every", "0"]
    process = subprocess.Popen(
        [*command, "--gpus-per-trial", "0"], cwd=tmp_path, env=environment, stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout
        seen = ""
        while "done" not in seen and "early" not in seen.partition("Expected")[2]:
            line = process.stdout.readline()
            assert line, seen
            seen += line
        process.send_signal(signal.SIGKILL)
    finally:
        process.kill()
        process.wait()
    assert "RUNNING" in states(tmp_path)
    time.sleep(2)

    given = [*command, "--gpus-per-trial", "0"]
    done = subprocess.run(given, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "5 trials in all (study killed · digits" in " ".join(done.stdout.split())
    found = states(tmp_path)
    assert found["COMPLETE"] + found["PRUNED"] == found.total() == 5
    assert found["COMPLETE"] > 0
    client = MlflowClient(store)
    runs = list(client.search_runs([client.get_experiment_by_name("cplearn").experiment_id]))
    trials_of = [run for run in runs if run.data.tags["cplearn.kind"] == "trial"]
    assert len({run.data.tags["cplearn.key"] for run in trials_of}) == len(trials_of) == 5
    # A trial that the study knew as stopped, and the store did not yet, went on and may have finished.
    ended = Counter(run.info.status for run in trials_of)
    assert found["COMPLETE"] <= ended["FINISHED"] <= found["COMPLETE"] + 1
    assert ended["FINISHED"] + ended["KILLED"] == 5
    for run in trials_of:
        epochs = sorted(metric.step for metric in client.get_metric_history(run.info.run_id, "train/loss"))
        last = int(run.data.tags.get("cplearn.stopped_epoch", 6))
        assert epochs == list(range(1, last + 1))
    (parent,) = (run for run in runs if run.data.tags["cplearn.kind"] == "sweep")
    assert parent.data.tags["cplearn.study"].startswith("killed · digits · ")
    assert f"Best of {found['COMPLETE']} complete suggestions" in parent.data.tags["mlflow.note.content"]
    report = (tmp_path / "results" / "killed" / "digits" / "table.md").read_text()
    assert "stand best first by that" in report
