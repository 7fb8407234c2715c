"""A store whose folder was copied or moved, whose files are gone, or whose experiment was deleted."""

from __future__ import annotations

import shlex
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner
from mlflow import MlflowClient
from mlflow.cli import cli
from mlflow.tracking._tracking_service import utils as mlflow_internals

from reports import store
from runner.events import TrialResult
from runner.machine.resources import describe
from runner.planning.plan import Job, Plan
from runner.tracking.database import update_artifact_addresses
from runner.tracking.tracker import Tracker
from stores import Writer, declare, empty_store, make_job, make_plan, sqlite
from support import run_cli
from sweeps.errors import UserError
from sweeps.record import MANIFEST_FILE

AXES = {"method.beta": [0.1, 1, 3]}
JOBS = [make_job(declare("digits", f"β={beta}", {"method.beta": beta}, 0)) for beta in AXES["method.beta"]]
PLAN = make_plan("tiny", "", AXES, "digits", JOBS)


def sweep(folder: Path, plan: Plan, jobs: list[Job]) -> Tracker:
    """A sweep in the project of a folder in which these jobs finish, as a command of its own would run it."""
    # MLflow remembers for the life of a process where the files of a run lie.
    mlflow_internals._artifact_repos_cache.clear()
    tracker = Tracker(sqlite(folder), plan)
    for job in jobs:
        tracker.started(job)
        tracker.finished(job, TrialResult({}, {"model/config.json": b"{}", "diagnostics.json": b"{}"}, describe("cpu")))
    tracker.close("FINISHED")
    mlflow_internals._artifact_repos_cache.clear()
    return tracker


def files(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def held(folder: Path, tracker: Tracker, job: Job) -> set[str]:
    """The artifacts of a job's run as MLflow's own pages list them."""
    return {file.path for file in MlflowClient(sqlite(folder)).list_artifacts(tracker.runs[job.key].run_id)}


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project with a store in which one trial has finished, and not the current directory."""
    elsewhere, folder = tmp_path / "elsewhere", tmp_path / "my #1 prõject"
    for made in (elsewhere, folder):
        made.mkdir()
    monkeypatch.chdir(elsewhere)
    shutil.copy(empty_store(), folder / "mlflow.db")
    return folder


def test_the_files_of_runs_lie_beside_the_database(project: Path) -> None:
    tracker = sweep(project, PLAN, JOBS[:1])
    run = project / "mlruns" / tracker.runs[JOBS[0].key].run_id
    assert (run / "artifacts" / "model" / "config.json").is_file()
    assert not list(Path.cwd().iterdir())


def test_a_sweep_in_a_copy_leaves_the_original_alone(project: Path) -> None:
    first = sweep(project, PLAN, JOBS[:1])
    before = files(project)
    copy = project / "copy"
    shutil.copytree(project, project.parent / "copy")
    (project.parent / "copy").rename(copy)  # A copy may lie within the original, too.
    second = sweep(copy, PLAN, JOBS[1:2])
    assert {path: content for path, content in files(project).items() if copy not in path.parents} == before
    assert second.parent == first.parent
    for tracker, job in ((first, JOBS[0]), (second, JOBS[1])):
        assert held(copy, tracker, job) == {"model", "diagnostics.json"}
    shutil.rmtree(copy)
    assert store.read_sweep(sqlite(project), "tiny")[0].runs["status"].tolist() == ["FINISHED", "MISSING", "MISSING"]


def test_a_project_that_was_moved_is_read_and_goes_on(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = sweep(project, PLAN, JOBS[:1])
    moved = project.parent / "moved"
    project.rename(moved)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", sqlite(moved))
    database = (moved / "mlflow.db").read_bytes()
    run = first.runs[JOBS[0].key].run_id
    assert store.download_model(run) == moved / "mlruns" / run / "artifacts" / "model"
    assert store.artifact_reader(None)(run, "diagnostics.json") == b"{}"
    assert store.read_sweep(None, "tiny")[0].runs["status"].tolist() == ["FINISHED", "MISSING", "MISSING"]
    assert (moved / "mlflow.db").read_bytes() == database, "a reader changes nothing"
    update_artifact_addresses(sqlite(moved))  # As `cplearn ui` does.
    assert held(moved, first, JOBS[0]) == {"model", "diagnostics.json"}
    second = sweep(moved, PLAN, JOBS[1:2])
    assert held(moved, second, JOBS[1]) == {"model", "diagnostics.json"}
    assert not project.exists()


def test_the_database_alone_may_be_copied(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files are then read where they are, and nothing is written there."""
    first = sweep(project, PLAN, JOBS[:1])
    before = files(project)
    copy = project.parent / "copy"
    copy.mkdir()
    shutil.copy(project / "mlflow.db", copy)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", sqlite(copy))
    run = first.runs[JOBS[0].key].run_id
    assert store.download_model(run).is_relative_to(project)
    second = sweep(copy, PLAN, JOBS[1:2])
    assert files(project) == before
    assert store.download_model(run).is_relative_to(project)
    assert store.download_model(second.runs[JOBS[1].key].run_id).is_relative_to(copy)
    assert store.read_sweep(None, "tiny")[0].parent == second.parent != first.parent


def test_what_was_deleted_to_free_disk_is_said(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tracker = sweep(project, PLAN, JOBS[:1])
    monkeypatch.setenv("MLFLOW_TRACKING_URI", sqlite(project))
    run = tracker.runs[JOBS[0].key].run_id
    shutil.rmtree(project / "mlruns" / run)
    with pytest.raises(LookupError, match=f"run {run} in .* has no model: its files have been deleted"):
        store.download_model(run)
    assert store.artifact_reader(None)(run, "diagnostics.json") is None
    assert store.read_sweep(None, "tiny")[0].runs["status"].tolist() == ["FINISHED", "MISSING", "MISSING"]
    manifest = project / "mlruns" / tracker.parent / "artifacts" / MANIFEST_FILE
    for content in (b"", b"{", b"\xff\x00", b"[" * 100_000, manifest.read_bytes()[:-40]):
        manifest.write_bytes(content)
        with pytest.raises(UserError, match=r"the manifest of run .* is damaged .*; run the sweep again to write it"):
            store.read_sweep(None, "tiny")
    manifest.unlink()
    with pytest.raises(UserError, match=r"sweep 'tiny' in .* has no manifest\.json; run the sweep again to write it"):
        store.read_sweep(None, "tiny")


def test_a_damaged_manifest_does_not_keep_other_sweeps_from_their_reports(project: Path) -> None:
    writer = Writer(sqlite(project), project / "artifacts")
    for name in ("whole", "damaged"):
        trial = declare("digits", name, {}, 0)
        writer.trial(name, trial, metrics={"probe/accuracy": 0.5})
        parent = writer.sweep(name, "", {}, "digits", [trial])
    (project / "artifacts" / parent / "artifacts" / MANIFEST_FILE).write_text("[")
    for options in ([], ["--dataset", "digits"]):
        status, output = run_cli(project, "report", *options)
        assert status == 0, output
        assert f"note   the manifest of run {parent} is damaged" in output
        assert {path.name for path in (project / "results").iterdir()} == {"whole"}
        shutil.rmtree(project / "results")
    status, output = run_cli(project, "report", "damaged", "--dataset", "digits")
    assert (status, output.count("\n")) == (2, 1), output


def test_a_deleted_experiment_stays_deleted_until_its_owner_restores_it(project: Path) -> None:
    tracker = sweep(project, PLAN, JOBS[:1])
    uri = sqlite(project)
    MlflowClient(uri).delete_experiment(tracker.experiment)
    with pytest.raises(UserError, match=r"the experiment 'cplearn' in .* has been deleted") as refused:
        store.trial_records(uri)
    command = str(refused.value).partition("restore it: ")[2]
    variable, program, *words = shlex.split(command)
    assert program == "mlflow"
    done = CliRunner().invoke(cli, words, env=dict([variable.split("=", 1)]))
    assert done.exit_code == 0, done.output
    assert list(store.trial_records(uri)) == [JOBS[0].key]
