"""What reports read is what the tracker has written."""

from __future__ import annotations

import math
import shutil

import pytest

from reports import store
from reports.render import page
from reports.tables.sweep import shared_settings
from runner.events import TrialResult
from runner.machine.resources import describe
from runner.planning.plan import SCHEMA, make_plan
from runner.tracking.tracker import Tracker
from stores import empty_store, sqlite
from sweeps.addresses import without_secrets
from sweeps.record import HARDWARE, LOSS, Tag, TrialRecord
from sweeps.spec import read_sweep

SWEEP = """
sweep: tiny
description: Two numbers of beta
settings: {epochs: 1, method: {codes: 32, embedding_dim: 16}, backbone: {name: resnet8-slim, width: 4}}
axes: {method.beta: [0.1, 1, 2, 3, 4]}
seeds: 1
"""
RESULT = {"probe/accuracy": 0.9, "codes/nmi": math.nan, "time/train_s": 2.0, "time/evaluation_s": 1.0}


@pytest.fixture(scope="module")
def tracker(tmp_path_factory: pytest.TempPathFactory) -> Tracker:
    """A sweep as the tracker leaves it: a trial that has finished, one that has diverged, one that was stopped early,
    one that was interrupted, one that was never begun."""
    folder = tmp_path_factory.mktemp("store")
    shutil.copy(empty_store(), folder / "mlflow.db")
    (folder / "tiny.yaml").write_text(SWEEP)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)  # Files of runs lie in the current directory.
        tracker = Tracker(sqlite(folder), make_plan(read_sweep(folder / "tiny.yaml", SCHEMA)))
        finished, diverged, stopped, interrupted, _ = tracker.plan.jobs
        tracker.planned(tracker.plan.jobs)
        for job in (finished, stopped, interrupted):
            tracker.started(job)
            tracker.epoch(job, 1, {LOSS: 0.5})
        tracker.finished(finished, TrialResult(RESULT, {"model/config.json": b"{}"}, describe("cpu")))
        tracker.failed(diverged, "Traceback\nFloatingPointError: the loss became nan", "diverged")
        tracker.stopped(stopped, 1, "the worst of three")
        tracker.close("FINISHED")
    return tracker


@pytest.fixture(scope="module")
def uri(tracker: Tracker) -> str:
    return str(tracker.client.tracking_uri)


def test_a_report_says_what_the_trials_ran_on(uri: str) -> None:
    (result,) = store.read_sweep(uri, "tiny")
    hardware = describe("cpu")
    facts = dict(page.facts(result))
    for tag in HARDWARE:
        if tag is not Tag.NODE:  # Only nodes of a cluster that were given a name have one.
            assert facts[tag.short.replace("_", " ").capitalize()].startswith(hardware[tag.short])
    size = "1,437 training and 360 test images, 10 classes"
    assert facts["Data"] == f"digits ({size}), fingerprint {result.about['fingerprint']}"
    assert "torch " in facts["Versions"]
    assert facts["Time"].startswith("3 s of training and evaluation")
    assert facts["Started"]
    assert facts["Sweep's run"] == result.parent
    assert all(facts.values())
    settings = shared_settings(result)
    assert (settings["method.codes"], settings["backbone.name"]) == ("32", "resnet8-slim")


def test_each_way_to_read_a_trial_gives_the_same_record(
    uri: str, tracker: Tracker, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = [job.key for job in tracker.plan.jobs]
    asked = ["codes/nmi", "no/metric", "probe/accuracy"]
    records = store.trial_records(uri, keys, asked)
    finished, diverged, stopped, interrupted = (records[key] for key in keys[:4])
    assert records.keys() == set(keys[:4])
    assert (finished.status, finished.sweep, finished.failure) == ("FINISHED", "tiny", "")
    assert finished.metrics["probe/accuracy"] == 0.9
    assert math.isnan(finished.metrics["codes/nmi"])
    assert "no/metric" not in finished.metrics
    assert (diverged.status, diverged.failure) == ("FAILED", "diverged")
    assert diverged.error.endswith("the loss became nan")
    assert (stopped.status, stopped.error) == ("KILLED", "the worst of three")
    assert (interrupted.status, interrupted.stopped_by) == ("KILLED", "")
    assert store.trial_records(uri, keys[3:]) == {keys[3]: TrialRecord(**{**vars(interrupted), "metrics": {}})}
    assert store.trial_records(uri).keys() == records.keys()
    assert store.trial_records(uri, []) == {}
    assert store.trial_records("sqlite:////no/such/mlflow.db", keys) == {}
    # As from a server, through MLflow's own search.
    monkeypatch.setattr("reports.store.trials._records_in_file", lambda *arguments: None)
    assert repr(store.trial_records(uri, keys, asked)) == repr({key: records[key] for key in sorted(records)})
    monkeypatch.setattr("reports.store.trials.LOOKUPS", 0)
    assert store.trial_records(uri, keys).keys() == records.keys()


def test_metrics_of_each_epoch_and_times_are_read(uri: str, tracker: Tracker) -> None:
    finished, diverged, *_ = tracker.plan.jobs
    histories = store.metric_histories(uri, LOSS, {finished.key, diverged.key})
    assert histories == {finished.key: {1: 0.5}, diverged.key: {}}
    (timed,) = store.timed_runs(uri, "cplearn", finished.fingerprint)
    assert timed["metrics"]["time/wall_s"] == 3.0
    assert timed["data"] == {"train_images": 1437, "test_images": 360, "channels": 1, "image_size": 8}
    assert timed["tags"]["threads"] == describe("cpu")["threads"]
    assert store.timed_runs(uri, "cplearn", "other data") == []


@pytest.mark.parametrize(
    ("address", "shown"),
    [
        ("https://user:p@ss@host/mlflow", "https://host/mlflow"),
        ("postgresql://user:p/w@host:5432/db", "postgresql://host:5432/db"),
        ("https://host/mlflow?token=abc", "https://host/mlflow"),
        ("http://127.0.0.1:5000", "http://127.0.0.1:5000"),
        ("sqlite:////home/me@work/mlflow.db", "sqlite:////home/me@work/mlflow.db"),
    ],
)
def test_an_address_is_shown_without_what_opens_it(address: str, shown: str) -> None:
    assert without_secrets(address) == shown
