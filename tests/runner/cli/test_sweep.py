"""The main job at small size: real Ray Tune, a real MLflow store, real tables."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import ray
from mlflow import MlflowClient

import cplearn
import runner
from runner.cli.console import sigterm_as_interrupt
from runner.events import Listener, TrialResult
from runner.execution.contract import ExecutionOptions
from runner.execution.execute import execute
from runner.machine.resources import Resources
from runner.planning.plan import SCHEMA, Job, make_plan
from runner.tracking.views import addresses
from support import ROOT, below, run_cli, uri, working
from sweeps.errors import UserError
from sweeps.spec import read_sweep

SWEEP = """
sweep: tiny
description: two β values for the tests
settings:
  epochs: 2
  method: {codes: 32, embedding_dim: 16}
  backbone: {name: resnet8-slim, width: 4}
  evaluation: {kmeans_restarts: 1}
axes: {method.beta: [0.1, 1]}
baselines: {random backbone: {method: untrained}}
"""


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    """One local Ray with two CPUs and a logical GPU for all tests of this file."""
    ray.init("local", num_cpus=2, num_gpus=1, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a sweep file, its own tracking store and its own results."""
    folder = tmp_path_factory.mktemp("workplace")
    (folder / "tiny.yaml").write_text(SWEEP)
    return folder


def trial_runs(folder: Path) -> list[Any]:
    client = MlflowClient(uri(folder))
    experiment = client.get_experiment_by_name("cplearn")
    return list(client.search_runs([experiment.experiment_id], "tags.`cplearn.kind` = 'trial'"))


@pytest.fixture(scope="module")
def finished(cluster: None, workplace: Path) -> tuple[Path, str]:
    """The workplace after one sweep with `--gpus-per-trial 0`, and what the command printed."""
    code, output = run_cli(workplace, "sweep", "tiny.yaml", "--results", "results", "--gpus-per-trial", "0")
    assert code == 0, output
    return workplace, output


def test_a_sweep_ends_with_its_tables(finished: tuple[Path, str]) -> None:
    folder, output = finished
    results = folder / "results" / "tiny" / "digits"
    for name in ("table.md", "table.tex", "runs.csv"):
        assert (results / name).stat().st_size > 0, name
    assert list((results / "figures").glob("*.png"))
    assert list((results / "figures").glob("*.pdf"))
    assert "3 trials to run" in output
    assert "3/3" in output
    assert "random backbone" in output
    rows = pd.read_csv(results / "runs.csv")
    assert sorted(rows["label"]) == ["beta=0.1", "beta=1", "random backbone"]
    assert set(rows["status"]) == {"FINISHED"}
    assert str(round(rows["probe/accuracy"].max(), 3)) in (results / "table.md").read_text()


def test_runs_hold_all_that_is_promised(finished: tuple[Path, str]) -> None:
    folder, _ = finished
    client = MlflowClient(uri(folder))
    runs = {run.data.tags["cplearn.label"]: run for run in trial_runs(folder)}
    run = runs["beta=0.1"]
    assert run.info.status == "FINISHED"
    assert run.data.params["method.beta"] == "0.1"
    assert run.data.params["dataset"] == "digits"
    history = client.get_metric_history(run.info.run_id, "train/loss")
    assert [metric.step for metric in history] == [1, 2]
    assert {"train/invariance", "train/prior", "probe/accuracy", "codes/ami", "time/wall_s"} <= run.data.metrics.keys()
    tags = run.data.tags
    named = {"key", "fingerprint", "device", "versions"}
    assert {*(f"cplearn.{name}" for name in named), "mlflow.parentRunId"} <= tags.keys()
    assert tags["cplearn.threads"] == "1"
    assert run.inputs.dataset_inputs[0].dataset.digest == tags["cplearn.fingerprint"]
    parent = client.get_run(tags["mlflow.parentRunId"])
    assert parent.info.status == "FINISHED"
    assert parent.data.tags["cplearn.sweep"] == "tiny"
    note = parent.data.tags["mlflow.note.content"]
    assert note.startswith("two β values for the tests")
    assert addresses(parent.info.experiment_id, parent.data.tags["cplearn.sweep_key"])["charts"] in note


def test_the_run_of_a_sweep_says_what_its_trials_share_and_which_is_best(finished: tuple[Path, str]) -> None:
    folder, _ = finished
    runs = {run.data.tags["cplearn.label"]: run for run in trial_runs(folder)}
    parent = MlflowClient(uri(folder)).get_run(runs["beta=1"].data.tags["mlflow.parentRunId"]).data
    assert {name: parent.metrics[f"trials/{name}"] for name in ("planned", "finished", "failed")} == {
        "planned": 3,
        "finished": 3,
        "failed": 0,
    }
    assert parent.tags["cplearn.criterion"] == "probe/accuracy"
    best = max((runs[f"beta={beta}"] for beta in ("0.1", "1")), key=lambda run: run.data.metrics["probe/accuracy"])
    assert parent.tags["cplearn.best"] == f"digits: β = {float(best.data.params['method.beta']):g}"
    for name in ("probe/accuracy", "codes/ami", "collapse/codes_used"):
        assert parent.metrics[f"best/{name}"] == pytest.approx(best.data.metrics[name])
    shared = {name: value for name, value in best.data.params.items() if name not in ("method.beta", "seed")}
    assert parent.params == shared


def test_a_run_id_becomes_a_working_model(finished: tuple[Path, str], monkeypatch: pytest.MonkeyPatch) -> None:
    folder, _ = finished
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri(folder))
    run = next(run for run in trial_runs(folder) if run.data.tags["cplearn.label"] == "beta=1")
    model = cplearn.load(run.info.run_id)
    assert model.trial.method.beta == 1
    images = cplearn.data.load("digits", folder / "data").test.images
    codes = model.codes(model.embeddings(model.features(images)))
    assert codes.unique().numel() == run.data.metrics["collapse/codes_used"]
    with pytest.raises(cplearn.errors.InputError, match="neither a folder with a model nor a known run"):
        cplearn.load("0123456789abcdef0123456789abcdef")


def test_an_identical_call_is_neither_planned_nor_reported_again(finished: tuple[Path, str]) -> None:
    """Torch, Ray and Matplotlib take seconds to import, and are not needed to see that nothing has changed."""
    folder, output = finished
    written = {path: path.stat().st_ino for path in (folder / "results" / "tiny").rglob("*")}
    arguments = ("sweep", "tiny.yaml", "--results", "results", "--gpus-per-trial", "0")
    code = f"""if True:
        import sys
        from runner.cli import app
        try:
            app({arguments!r})
        finally:
            print([name for name in ("torch", "ray", "matplotlib", "sklearn") if name in sys.modules])
    """
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=folder,
        env=os.environ
        | {"MLFLOW_TRACKING_URI": uri(folder), "CPLEARN_DATA": str(folder / "data"), "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    said, *table, loaded = done.stdout.rstrip().splitlines()
    assert said == "Sweep tiny: 0 trials to run, 3 finished before; nothing has changed since."
    assert "random backbone" in "\n".join(table)
    assert table[-1].rstrip() in output, "where the report lies"
    assert loaded == "[]"
    assert {path: path.stat().st_ino for path in (folder / "results" / "tiny").rglob("*")} == written
    next(path for path in written if path.name == "table.md").unlink()
    again, output = run_cli(folder, *arguments)
    assert again == 0, output
    assert "on digits" in output
    assert (folder / "results" / "tiny" / "digits" / "table.md").is_file()


def test_running_again_repeats_nothing_and_an_enlarged_grid_runs_what_is_new(finished: tuple[Path, str]) -> None:
    folder, _ = finished
    before = {run.info.run_id for run in trial_runs(folder)}
    # As if the last driver had been killed between the end of a trial and the end of its checkpoint.
    left = folder / "checkpoints" / f"{trial_runs(folder)[0].data.tags['cplearn.key']}.000002.ckpt"
    left.parent.mkdir(exist_ok=True)
    left.touch()
    code, output = run_cli(folder, "sweep", "tiny.yaml", "--set", "method.beta=[0.1, 1, 5]", "--gpus-per-trial", "0")
    assert code == 0, output
    assert list(left.parent.iterdir()) == []
    assert "1 trial to run, 3 finished before" in output
    after = {run.info.run_id for run in trial_runs(folder)}
    assert before < after
    assert len(after) == len(before) + 1
    parents = {run.data.tags["mlflow.parentRunId"] for run in trial_runs(folder)}
    assert len(parents) == 1
    assert "5" in (folder / "results" / "tiny" / "digits" / "table.md").read_text()


def test_the_way_in_from_python(
    finished: tuple[Path, str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The same sweep from Python repeats nothing, prints what is new, and gives table and runs as frames."""
    folder, _ = finished
    monkeypatch.chdir(folder)
    options: dict[str, Any] = {"gpus": 0, "tracking_uri": uri(folder), "data_root": folder / "data"}
    result = runner.sweep("tiny.yaml", settings={"method.beta": [0.1, 1]}, **options)
    assert "0 trials to run, 3 finished before" in capsys.readouterr().out
    assert list(result.table.index) == ["random backbone", "β = 0.1", "β = 1"]
    best = max(run.data.metrics["probe/accuracy"] for run in trial_runs(folder))
    assert result.table["Linear acc."].max() == pytest.approx(best)
    assert sorted(result.runs["label"]) == ["beta=0.1", "beta=1", "random backbone"]
    assert (result.failed, result.complete, result.report.name) == ([], True, "report.html")
    assert result.report.stat().st_size > 0
    further = runner.sweep("tiny.yaml", dataset="digits", epochs=1, seeds=1, quiet=True, **options)
    assert capsys.readouterr().out == ""
    assert len(further.table) == 3
    with pytest.raises(UserError, match=r"did you mean 'method.beta'"):
        runner.sweep("tiny.yaml", settings={"beta": 1}, **options)


@pytest.mark.long
def test_a_failing_trial_leaves_the_others_alone_and_is_named(cluster: None, tmp_path: Path) -> None:
    (tmp_path / "tiny.yaml").write_text(SWEEP.replace("method.beta: [0.1, 1]", "optimizer.lr: [1e-3, 1e38]"))
    code, output = run_cli(tmp_path, "sweep", "tiny.yaml", "--gpus-per-trial", "0")
    assert code == 1
    assert "failed: digits lr=1e+38 seed=0" in output
    assert "1 of 3 trials failed; the others are kept" in output
    status = {run.data.tags["cplearn.label"]: run for run in trial_runs(tmp_path)}
    assert [status[label].info.status for label in ("lr=0.001", "lr=1e+38")] == ["FINISHED", "FAILED"]
    assert "the loss became" in status["lr=1e+38"].data.tags["cplearn.error"]
    assert "failed" in (tmp_path / "results" / "tiny" / "digits" / "table.md").read_text()


class Order(Listener):
    """Notes the order of events, and how many trials run at once."""

    def __init__(self) -> None:
        self.events: list[tuple[str, str]] = []
        self.running: set[str] = set()
        self.most = 0

    def started(self, job: Job) -> None:
        self.events.append(("started", job.label))
        self.running.add(job.key)
        self.most = max(self.most, len(self.running))

    def epoch(self, job: Job, epoch: int, metrics: Mapping[str, float]) -> None:
        self.events.append((f"epoch {epoch}", job.label))

    def finished(self, job: Job, result: TrialResult) -> None:
        self.running.discard(job.key)
        self.events.append(("finished", job.label))
        assert {"model/config.json", "model/weights.pt", "diagnostics.json", "evaluation.npz"} == result.files.keys()

    def failed(self, job: Job, reason: str, kind: str) -> None:
        self.running.discard(job.key)
        self.events.append(("failed", job.label))


def jobs(folder: Path, text: str = SWEEP) -> list[Job]:
    (folder / "tiny.yaml").write_text(text)
    return make_plan(read_sweep(folder / "tiny.yaml", SCHEMA), folder / "data").jobs


@pytest.mark.long
@pytest.mark.parametrize(("gpus", "most"), [(0.5, 2), (1, 1)])
def test_gpus_are_shared_as_asked(cluster: None, tmp_path: Path, gpus: float, most: int) -> None:
    """On the one logical GPU, halves run side by side and wholes one after the other."""
    recorder = Order()
    # Two equally long trials, long enough that both workers are up before one ends.
    text = SWEEP.replace("epochs: 2", "epochs: 15\n  batch_size: 256").partition("baselines:")[0]
    execute(jobs(tmp_path, text), [recorder], ExecutionOptions(Resources(1, gpus)))
    assert recorder.most == most
    assert recorder.events.index(("started", "beta=1")) < recorder.events.index(("epoch 1", "beta=1"))
    assert recorder.events.index(("epoch 15", "beta=1")) < recorder.events.index(("finished", "beta=1"))


def test_a_listener_that_gives_up_ends_the_sweep_in_its_own_words(cluster: None, tmp_path: Path) -> None:
    """A tracking store that stays away for good, for instance."""

    class Broken(Order):
        def epoch(self, job: Job, epoch: int, metrics: Mapping[str, float]) -> None:
            raise cplearn.errors.InputError("the store does not come back")

    recorder = Broken()
    text = SWEEP.replace("epochs: 2", "epochs: 100000").partition("baselines:")[0]
    with pytest.raises(cplearn.errors.InputError, match=r"^the store does not come back$"):
        execute(jobs(tmp_path, text), [recorder], ExecutionOptions(Resources(1, 0)))
    assert "failed" not in [event for event, _ in recorder.events]


def test_more_than_the_cluster_has_is_refused(cluster: None, tmp_path: Path) -> None:
    with pytest.raises(cplearn.errors.InputError, match="a trial asks for 64 CPUs and 0 GPUs, but the nodes have 2"):
        execute(jobs(tmp_path), [Order()], ExecutionOptions(Resources(64, 0)))


def test_data_that_disappears_before_the_trials_is_one_sentence(cluster: None, tmp_path: Path) -> None:
    from PIL import Image

    for split, label in [(s, c) for s in ("train", "test") for c in ("a", "b")]:
        folder = tmp_path / "images" / split / label
        folder.mkdir(parents=True)
        for i in range(40):
            Image.new("RGB", (8, 8), (i, 50 * (label == "a"), 3)).save(folder / f"{i}.png")
    planned = jobs(
        tmp_path, SWEEP.replace("settings:", f"settings:\n  dataset: folder:{tmp_path}/images\n  batch_size: 16")
    )
    (tmp_path / "images").rename(tmp_path / "gone")
    recorder = Order()
    with pytest.raises(cplearn.errors.InputError, match=r"^no node is left .*; node .* is left out: .*/images.*$"):
        execute(planned, [recorder], ExecutionOptions(Resources(1, 0), str(tmp_path / "data")))
    assert "finished" not in [event for event, _ in recorder.events]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["sweep", "none.yaml"], "none.yaml: no such sweep file"),
        (["sweep", "tiny.yaml", "--set", "beta=1"], "unknown key 'beta'; did you mean 'method.beta'?"),
        (["sweep", "tiny.yaml", "--set", "beta"], "write it as key=value"),
        (["sweep", "tiny.yaml", "--dataset", "svnh"], "unknown dataset 'svnh'; did you mean 'svhn'?"),
        (["sweep", "tiny.yaml", "--cpus-per-trial", "0"], "CPUs per trial must be at least 1"),
        (["sweep", "tiny.yaml", "--gpus-per-trial", "1.5"], "a fraction of one or a whole number"),
        (["sweep", "tiny.yaml", "--results", "/proc/none"], "cannot write there"),
        (["train", "--set", "method.codes=1"], "method.codes: must be greater than or equal to 2"),
        (["data", "folder:nowhere"], "nowhere"),
        (["settings", "cplern"], "did you mean 'cplearn'?"),
        (["report", "tiny"], "mlflow.db"),
    ],
)
def test_a_users_mistake_is_one_sentence_and_status_2(tmp_path: Path, arguments: list[str], message: str) -> None:
    (tmp_path / "tiny.yaml").write_text(SWEEP)
    code, output = run_cli(tmp_path, *arguments)
    assert code == 2, output
    assert message in " ".join(output.split())
    assert "Traceback" not in output
    assert not list(tmp_path.glob("ml*"))


def test_one_trial_in_this_process(tmp_path: Path) -> None:
    arguments = [
        "--epochs",
        "1",
        "--set",
        "backbone.width=4",
        "--set",
        "method.codes=16",
        "--save",
        str(tmp_path / "m"),
    ]
    code, output = run_cli(tmp_path, "train", *arguments)
    assert code == 0, output
    assert "probe/accuracy" in output
    assert cplearn.load(tmp_path / "m" / "model").trial.epochs == 1


def test_data_and_settings_are_listed(tmp_path: Path) -> None:
    assert "folder:PATH" in run_cli(tmp_path, "data")[1]
    assert "1,437 training and 360 test images" in run_cli(tmp_path, "data", "digits")[1]
    assert re.search(r"backbone.width +256 ", run_cli(tmp_path, "settings", "--dataset", "cifar100")[1])


@pytest.mark.long
def test_an_existing_cluster_is_used(cluster: None, tmp_path: Path) -> None:
    """RAY_ADDRESS sends the sweep to a cluster that goes on running afterwards."""
    (tmp_path / "tiny.yaml").write_text(SWEEP)
    environment = {**os.environ, "MLFLOW_TRACKING_URI": uri(tmp_path), "CPLEARN_DATA": str(tmp_path / "data")}
    command = [sys.executable, "-m", "runner.cli", "sweep", "tiny.yaml", "--gpus-per-trial", "0.5"]
    environment["RAY_ADDRESS"] = ray.get_runtime_context().gcs_address
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(trial_runs(tmp_path)) == 3
    # The logical GPU exists on that cluster alone.
    assert ray.cluster_resources()["GPU"] == 1


def test_the_interface_of_a_store_that_is_a_server_is_that_server(tmp_path: Path) -> None:
    code, output = run_cli(tmp_path, "ui", "--tracking-uri", "http://ann:sesame@tracking.example:5000")
    assert code == 0
    assert output == "The tracking store is a server already: open http://tracking.example:5000\n"


@pytest.mark.parametrize("command", [["settings"], ["plan", "tiny.yaml"]])
def test_modules_of_the_user_do_not_replace_ours_in_a_command(tmp_path: Path, command: list[str]) -> None:
    (tmp_path / "tiny.yaml").write_text(SWEEP)
    for name in ("runner", "cplearn", "sweeps", "reports"):
        (tmp_path / f"{name}.py").write_text("raise ImportError('of the user')\n")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT)])}
    words = [sys.executable, "-P", "-c", "from cplearn_sweeps import main; main()", *command]
    done = subprocess.run(words, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_ctrl_c_stops_a_sweep_cleanly(tmp_path: Path) -> None:
    """A process of its own, as a user's shell would start it."""
    (tmp_path / "tiny.yaml").write_text(SWEEP.replace("epochs: 2", "epochs: 100000"))
    environment = {**os.environ, "MLFLOW_TRACKING_URI": uri(tmp_path), "CPLEARN_DATA": str(tmp_path / "data")}
    environment.pop("RAY_ADDRESS", None)
    command = [sys.executable, "-m", "runner.cli", "sweep", "tiny.yaml", "--results", "r"]
    process = subprocess.Popen(
        command, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    try:
        assert process.stdout
        seen = ""
        while "done" not in seen:
            line = process.stdout.readline()
            assert line, seen
            seen += line
        while len(trial_runs(tmp_path)) < 2:  # until a second trial has begun
            time.sleep(0.2)
        started = below(process.pid)
        process.send_signal(signal.SIGINT)
        time.sleep(0.5)
        process.send_signal(signal.SIGINT)  # Somebody is impatient, while it cleans up.
        output, _ = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130, output
    assert "run the same command again" in output
    assert "Traceback" not in output
    while started & working():
        time.sleep(0.1)
    statuses = {run.data.tags["cplearn.label"]: run.info.status for run in trial_runs(tmp_path)}
    assert statuses.pop("random backbone") == "FINISHED"
    assert set(statuses.values()) == {"KILLED"}
    client = MlflowClient(uri(tmp_path))
    experiment = client.get_experiment_by_name("cplearn").experiment_id
    (parent,) = client.search_runs([experiment], "tags.`cplearn.kind` = 'sweep'")
    assert parent.info.status == "KILLED"


def test_a_second_interrupt_does_not_disturb_the_cleaning_up() -> None:
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    cleaned = []

    def work() -> None:
        with sigterm_as_interrupt():
            try:
                signal.raise_signal(signal.SIGTERM)
            finally:
                signal.raise_signal(signal.SIGINT)
                cleaned.append(True)

    try:
        with pytest.raises(KeyboardInterrupt):
            work()
        assert cleaned
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
