"""Sweeps of code from outside: an installed package that is killed and goes on, and modules that a cluster is sent."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from mlflow import MlflowClient
from ray.cluster_utils import Cluster

from cplearn.config.trial import TrialSettings
from cplearn.distributed import Ranks
from outside_package import write_package
from runner.execution.contract import ExecutionOptions, TrialRequest
from runner.execution.nodes import Unfit
from runner.execution.ranks import build
from support import ROOT, run_cli, uri

pytestmark = pytest.mark.timeout(600)


@pytest.mark.long
def test_an_installed_package_is_swept_resumed_after_a_kill_and_reported(tmp_path: Path) -> None:
    """The package of docs/extend.md and its sweep, as a user has them."""
    write_package(tmp_path / "project")
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    subprocess.run([*install, "--target", tmp_path / "installed", tmp_path / "project"], check=True)
    (tmp_path / "shapes.yaml").write_bytes((tmp_path / "project" / "shapes.yaml").read_bytes())
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(tmp_path / "installed"), str(ROOT)]),
        "MLFLOW_TRACKING_URI": uri(tmp_path),
        "CPLEARN_DATA": str(tmp_path / "data"),
        "XDG_CACHE_HOME": str(tmp_path / "cache"),
    }

    def command(*words: str) -> list[str]:
        options = ["shapes.yaml", "--epochs", "40", "--gpus-per-trial", "0"]
        return [sys.executable, "-P", "-m", "runner.cli", words[0], *options, *words[1:]]

    def run(*words: str) -> str:
        done = subprocess.run(
            command(*words), cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return " ".join(done.stdout.split())

    driver = subprocess.Popen(command("sweep", "--checkpoint-every", "0"), cwd=tmp_path, env=environment)
    try:
        deadline = time.monotonic() + 200
        while not any(path.is_file() and path.stat().st_size for path in (tmp_path / "checkpoints").rglob("*")):
            assert driver.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.02)
    finally:
        driver.kill()
        driver.wait()
    output = run("sweep", "--checkpoint-every", "0")
    assert "goes on after epoch" in output
    assert "shapes on shapes" in output
    client = MlflowClient(uri(tmp_path))
    runs = client.search_runs([client.get_experiment_by_name("cplearn").experiment_id])
    finished = [run for run in runs if run.data.tags["cplearn.kind"] == "trial" and run.info.status == "FINISHED"]
    assert len({run.data.tags["cplearn.key"] for run in finished}) == 5
    assert {run.data.params["method.name"] for run in finished} == {"alignment", "untrained"}
    results = tmp_path / "results" / "shapes" / "shapes"
    assert "strided" in (results / "report.html").read_text()
    assert len(list((results / "figures").glob("*.png"))) > 3

    def counts() -> dict[str, int]:
        return json.loads(subprocess.check_output(command("plan", "--json"), cwd=tmp_path, env=environment))["counts"]

    assert counts()["reused"] == 5
    (about,) = (tmp_path / "installed").glob("my_lab-*.dist-info/METADATA")
    about.write_text(about.read_text().replace("Version: 1.0", "Version: 1.1"))
    assert counts()["new"] == 5, "another version of the package makes other trials"


@pytest.mark.long
def test_a_cluster_is_sent_the_modules_that_trials_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The node cannot import the package by itself; and it leaves the driver's node, which has no CPU, alone."""
    write_package(tmp_path)
    text = (tmp_path / "shapes.yaml").read_text()
    for name in ("alignment", "strided"):
        text = text.replace(f"name: {name}", f"name: my_lab.{name}")
    (tmp_path / "shapes.yaml").write_text(text.replace("dataset: shapes", "dataset: my_lab.shapes"))
    monkeypatch.syspath_prepend(str(tmp_path))
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    try:
        cluster.add_node(num_cpus=1, env_vars={"CPLEARN_DATA": str(tmp_path / "node")})
        monkeypatch.setenv("RAY_ADDRESS", cluster.address)
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
        options = ["--set", "backbone.layers=2", "--gpus-per-trial", "0", "--checkpoints", f"file://{tmp_path}/kept"]
        code, output = run_cli(tmp_path, "sweep", "shapes.yaml", *options)
    finally:
        cluster.shutdown()
    assert code == 0, output
    assert "done   3/3" in output or "done 3/3" in " ".join(output.split())
    assert (tmp_path / "results" / "shapes" / "my_lab.shapes" / "report.html").is_file()


@pytest.mark.parametrize(
    ("method", "code", "why"),
    [
        ("cplearn", {"cplearn.methods my_lab.alignment": "f00d"}, "the code of my_lab.alignment there is not what the"),
        ("my_lab_of_others.alignment", {}, "there is no module 'my_lab_of_others'"),
    ],
)
def test_a_node_with_other_code_from_outside_cannot_train(method: str, code: dict[str, str], why: str) -> None:
    settings = {**TrialSettings.read({}).canonical(), "method": {"name": method}}
    request = TrialRequest("key", settings, [("digits", "")], code, ExecutionOptions(), (), None, {})
    with pytest.raises(Unfit, match=why):
        build(request, "cpu", Ranks())
