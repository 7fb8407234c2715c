"""What the tracker leaves in a real store when sweeps are cut off, go on, or share it."""

from __future__ import annotations

import shutil
import sqlite3
import subprocess
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import mlflow
import pytest
from mlflow import MlflowClient
from mlflow.entities import Metric
from mlflow.exceptions import MlflowException

from reports import store
from runner.events import TrialResult
from runner.planning.plan import SCHEMA, Plan, make_plan
from runner.tracking import database
from runner.tracking.tracker import Tracker
from runner.tracking.trial_run import code_tags
from stores import empty_store
from sweeps.addresses import experiment_name
from sweeps.record import Tag, tag_is
from sweeps.spec import read_sweep

SWEEP = """
sweep: tiny
settings: {epochs: 3, method: {codes: 32, embedding_dim: 16}, backbone: {name: resnet8-slim, width: 4}}
axes: {method.beta: [0.1, 1]}
"""
HISTORY = [(epoch, 1000 * epoch, {"train/loss": 1 / epoch, "train/prior": float(epoch)}) for epoch in (1, 2, 3)]
FINAL = {"probe/accuracy": 0.9, "time/train_s": 2.0, "time/evaluation_s": 1.0}
FILES = {"model/weights.pt": b"weights", "diagnostics.json": b"{}"}


@pytest.fixture(scope="module")
def plan(tmp_path_factory: pytest.TempPathFactory) -> Plan:
    file = tmp_path_factory.mktemp("plan") / "tiny.yaml"
    file.write_text(SWEEP)
    return make_plan(read_sweep(file, SCHEMA))


@pytest.fixture
def uri(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    # Files of runs lie in the current directory.
    monkeypatch.chdir(tmp_path)
    shutil.copy(empty_store(), tmp_path / "mlflow.db")
    return f"sqlite:///{tmp_path / 'mlflow.db'}"


def test_a_fresh_store_appears_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who met some of its tables would make the rest: one in five readers failed so while a store was made."""
    path = tmp_path / "mlflow.db"
    making: list[bool] = []

    class Watched(MlflowClient):
        def search_experiments(self, *args: Any, **kwargs: Any) -> Any:
            found = super().search_experiments(*args, **kwargs)
            making.append(path.exists())
            return found

    monkeypatch.setattr(mlflow, "MlflowClient", Watched)
    database.make_store(f"sqlite:///{path}")
    assert making == [False], "it is not there before its last table is"
    assert [one.name for one in tmp_path.iterdir()] == ["mlflow.db"]
    assert store.trial_records(f"sqlite:///{path}") == {}
    made = path.read_bytes()
    database.make_store(f"sqlite:///{path}")
    assert path.read_bytes() == made, "a store that is there stays as it is"


def test_a_store_whose_making_was_cut_off_is_made_anew(tmp_path: Path) -> None:
    (tmp_path / "mlflow.db").touch()
    (tmp_path / "mlflow.db.making").write_bytes(b"half of a table")
    database.make_store(f"sqlite:///{tmp_path / 'mlflow.db'}")
    assert [path.name for path in tmp_path.iterdir()] == ["mlflow.db"]
    assert MlflowClient(f"sqlite:///{tmp_path / 'mlflow.db'}").search_experiments()


@pytest.mark.parametrize("damage", [b"", b"half of a table", None])
def test_the_kept_empty_store_serves_the_next_one_unless_it_is_damaged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: bytes | None
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        monkeypatch.chdir(tmp_path / name)
        database.make_store(f"sqlite:///{tmp_path / name}/mlflow.db")
        (experiment,) = MlflowClient(f"sqlite:///{tmp_path / name}/mlflow.db").search_experiments()
        assert experiment.artifact_location == f"{tmp_path / name}/mlruns/0"
        (kept,) = (tmp_path / "cache" / "cplearn").iterdir()
        if damage is not None:
            kept.write_bytes(damage)


def test_the_commit_is_that_of_the_repository_which_has_the_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def make(folder: Path) -> str:
        """The commit of a new repository, in whose working tree an installation lies."""
        file = folder / "lib" / "cplearn" / "__init__.py"
        file.parent.mkdir(parents=True)
        file.touch()
        person = ["-c", "user.name=Ann", "-c", "user.email=ann@example.org"]
        for arguments in (["init", "-q"], [*person, "commit", "-q", "--allow-empty", "-m", folder.name]):
            subprocess.run(["git", *arguments], cwd=folder, check=True)
        return subprocess.run(["git", "rev-parse", "HEAD"], cwd=folder, capture_output=True, text=True).stdout.strip()

    commit, _ = make(tmp_path / "here"), make(tmp_path / "there")
    monkeypatch.setattr("cplearn.__file__", str(tmp_path / "here" / "lib" / "cplearn" / "__init__.py"))
    # As a hook of the other repository would have it.
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "there" / ".git"))
    assert Tag.GIT_COMMIT not in code_tags.__wrapped__(), "the repository does not keep the installation"
    command = ["git", f"--git-dir={tmp_path}/here/.git", f"--work-tree={tmp_path}/here", "add", "lib"]
    subprocess.run(command, check=True, cwd=tmp_path / "here")
    assert code_tags.__wrapped__()[Tag.GIT_COMMIT] == commit


def test_an_experiment_without_a_name_is_the_usual_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "")
    assert experiment_name() == "cplearn"


def test_a_failing_database_is_no_traceback_on_the_terminal(uri: str, capfd: pytest.CaptureFixture[str]) -> None:
    """MLflow would show one for each write, while another process has locked the database for instance."""
    client = MlflowClient(uri)
    run_id = client.create_run("0").info.run_id
    with closing(sqlite3.connect(uri.removeprefix("sqlite:///"))) as connection, connection:
        connection.execute("DROP TABLE latest_metrics")
    with pytest.raises(MlflowException, match="no such table"):
        client.log_metric(run_id, "loss", 1.0)
    assert "".join(capfd.readouterr()) == ""


def runs(uri: str, kind: str = "trial") -> list[Any]:
    client = MlflowClient(uri)
    experiment = client.get_experiment_by_name("cplearn")
    return list(client.search_runs([experiment.experiment_id], tag_is(Tag.KIND, kind)))


def cut_off(tracker: Tracker) -> None:
    """Leave the store as a driver does that is killed: what was told is written, nothing is ended."""
    tracker.writes.close()


def values(uri: str, run: str, name: str) -> list[tuple[int, float]]:
    return [(one.step, one.value) for one in MlflowClient(uri).get_metric_history(run, name)]


@pytest.mark.parametrize("finals", [False, True], ids=["in the training", "after the final metrics"])
def test_an_interrupted_trial_goes_on_in_its_own_run(uri: str, plan: Plan, finals: bool) -> None:
    job = plan.jobs[0]
    first = Tracker(uri, plan)
    first.started(job)
    for epoch, _, metrics in HISTORY[:2]:
        first.epoch(job, epoch, metrics)
    cut_off(first)
    (before,) = runs(uri)
    assert before.info.status == "RUNNING"
    if finals:
        written = {**FINAL, "time/wall_s": 3.0}
        first.client.log_batch(before.info.run_id, [Metric(name, value, 5, 3) for name, value in written.items()])

    part = Path(urlsplit(before.info.artifact_uri).path, "model", ".artifact.uploading.x1")
    part.parent.mkdir(parents=True)
    part.touch()

    forgotten: list[str] = []
    second = Tracker(uri, plan, forget=forgotten.append)
    assert [run.info.status for run in runs(uri)] == ["KILLED"]
    assert not part.exists()
    second.started(job)
    # The checkpoint is behind the store by an epoch, and its worker is lost once more.
    second.resumed(job, HISTORY[:1])
    second.epoch(job, *HISTORY[1][::2])
    second.started(job)
    second.resumed(job, HISTORY[:2])
    second.epoch(job, *HISTORY[2][::2])
    second.finished(job, TrialResult(FINAL, FILES, {"device": "cpu"}))
    second.close("FINISHED")
    (after,) = runs(uri)
    assert (after.info.run_id, after.info.status) == (before.info.run_id, "FINISHED")
    assert values(uri, after.info.run_id, "train/loss") == [(epoch, 1 / epoch) for epoch in (1, 2, 3)]
    assert values(uri, after.info.run_id, "probe/accuracy") == [(3, 0.9)]
    assert values(uri, after.info.run_id, "time/wall_s") == [(3, 3.0)]
    assert {file.path for file in second.client.list_artifacts(after.info.run_id)} == {"model", "diagnostics.json"}
    assert forgotten == [job.key]
    assert [run.info.status for run in runs(uri, "sweep")] == ["FINISHED"]


def test_epochs_that_only_the_checkpoint_knows_are_made_up_for(uri: str, plan: Plan) -> None:
    """The store was away when the driver was killed, or the trial goes on under another store."""
    job = plan.jobs[0]
    tracker = Tracker(uri, plan)
    tracker.started(job)
    tracker.resumed(job, HISTORY)
    tracker.close("KILLED")
    (run,) = runs(uri)
    history = tracker.client.get_metric_history(run.info.run_id, "train/prior")
    assert [(one.step, one.timestamp, one.value) for one in history] == [(e, 1000 * e, float(e)) for e in (1, 2, 3)]


def test_of_several_interrupted_runs_the_newest_goes_on(uri: str, plan: Plan) -> None:
    job = plan.jobs[0]
    ids = []
    for _ in range(2):
        tracker = Tracker(uri, plan, anew=True)
        tracker.started(job)
        tracker.close("KILLED")
        ids += [run.info.run_id for run in runs(uri) if run.info.run_id not in ids]
    tracker = Tracker(uri, plan)
    tracker.started(job)
    tracker.finished(job, TrialResult(FINAL, FILES, {}))
    tracker.close("FINISHED")
    assert {run.info.run_id: run.info.status for run in runs(uri)} == {ids[0]: "KILLED", ids[1]: "FINISHED"}


def test_a_failed_trial_keeps_its_run_and_another_attempt_gets_a_new_one(uri: str, plan: Plan) -> None:
    job = plan.jobs[0]
    forgotten: list[str] = []
    for kind in ("exception", "diverged"):
        tracker = Tracker(uri, plan, forget=forgotten.append)
        tracker.failed(job, "Traceback\nValueError: no", kind)  # type: ignore[arg-type]
        tracker.close("FAILED")
    found = sorted(run.data.tags[Tag.FAILURE] for run in runs(uri))
    assert found == ["diverged", "exception"]
    assert {run.data.tags[Tag.ERROR] for run in runs(uri)} == {"Traceback\nValueError: no"}
    assert all(run.data.tags[Tag.COMMAND].startswith("cplearn train --dataset digits") for run in runs(uri))
    # After an exception the code may be mended, and the checkpoint still serves.
    assert forgotten == [job.key]


def test_what_another_driver_runs_is_left_alone(uri: str, plan: Plan) -> None:
    busy, idle = plan.jobs
    first = Tracker(uri, plan)
    first.started(busy)
    cut_off(first)
    second = Tracker(uri, plan, claim=lambda key: key != busy.key)
    second.started(idle)
    second.finished(idle, TrialResult(FINAL, FILES, {}))
    second.close("FINISHED")
    assert {run.data.tags[Tag.KEY]: run.info.status for run in runs(uri)} == {
        busy.key: "RUNNING",
        idle.key: "FINISHED",
    }
    # The sweep is over when the last of its drivers says so.
    assert [run.info.status for run in runs(uri, "sweep")] == ["RUNNING"]
    third = Tracker(uri, plan)
    third.close("FINISHED")
    assert sorted(run.info.status for run in runs(uri)) == ["FINISHED", "KILLED"]
    assert [run.info.status for run in runs(uri, "sweep")] == ["FINISHED"]


def test_a_trial_that_has_finished_elsewhere_meanwhile_is_a_duplicate(uri: str, plan: Plan) -> None:
    """Two drivers whose claims do not see each other."""
    job = plan.jobs[0]
    first = Tracker(uri, plan)
    first.started(job)
    first.epoch(job, *HISTORY[0][::2])
    second = Tracker(uri, plan, claim=lambda key: False)
    second.started(job)
    for tracker in (second, first):
        tracker.finished(job, TrialResult(FINAL, FILES))
        tracker.close("FINISHED")
    counted, duplicate = sorted(runs(uri), key=lambda run: run.info.status)
    assert (counted.info.status, duplicate.info.status) == ("FINISHED", "KILLED")
    assert duplicate.data.tags[Tag.DUPLICATE_OF] == counted.info.run_id == second.runs[job.key].run_id
    assert store.trial_records(uri, [job.key])[job.key].run_id == counted.info.run_id
    # Run again on purpose, it is none.
    third = Tracker(uri, plan, anew=True)
    third.started(job)
    third.finished(job, TrialResult(FINAL, FILES))
    third.close("FINISHED")
    assert sorted(run.info.status for run in runs(uri)) == ["FINISHED", "FINISHED", "KILLED"]


def test_a_write_that_is_repeated_counts_once(uri: str, plan: Plan) -> None:
    """Pending writes rely on it: a write may have been carried out although its answer was lost."""
    tracker = Tracker(uri, plan)
    tracker.started(plan.jobs[0])
    tracker.close("KILLED")
    (run,) = runs(uri)
    for _ in range(2):
        tracker.client.log_batch(run.info.run_id, [Metric("probe/accuracy", 0.5, 7, 3)])
    assert values(uri, run.info.run_id, "probe/accuracy") == [(3, 0.5)]
