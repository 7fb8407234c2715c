"""`cplearn evaluate`, and the other data sets of an evaluation in a sweep."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from cplearn import export as exported
from runner.cli import app
from runner.events import TrialResult
from runner.planning.plan import SCHEMA, Plan, make_plan
from runner.tracking.tracker import Tracker
from support import run_cli, uri
from sweeps.spec import read_sweep

SETTINGS = ["backbone.width=4", "batch_size=512", "method.codes=16", "evaluation.kmeans_restarts=1"]


def cplearn(*arguments: str, status: int = 0) -> str:
    result = CliRunner().invoke(app, list(arguments), env={"COLUMNS": "120"})
    assert result.exit_code == status, result.output
    return " ".join(result.output.split())


def metrics(output: str) -> dict[str, float]:
    return {name: float(value) for name, value in re.findall(r"(\w+/\S+) +(-?\d+\.\d{4})", output)}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two classes of colour images, 12 pixels wide: red and blue, 6 to train and 3 to test of each."""
    root = tmp_path_factory.mktemp("images") / "colours"
    generator = np.random.default_rng(0)
    for split, count in (("train", 6), ("test", 3)):
        for label, colour in (("red", [200, 20, 20]), ("blue", [20, 20, 200])):
            (root / split / label).mkdir(parents=True)
            for i in range(count):
                pixels = np.array(colour) + generator.integers(0, 50, (12, 12, 3))
                Image.fromarray(pixels.astype(np.uint8)).save(root / split / label / f"{i}.png")
    return root


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, float]]:
    """A model of the digits, and the metrics that were printed when it was made."""
    path = tmp_path_factory.mktemp("model")
    sets = [word for setting in SETTINGS for word in ("--set", setting)]
    return path / "model", metrics(cplearn("train", "-d", "digits", "-e", "1", *sets, "--save", str(path)))


def test_a_saved_model_has_the_metrics_of_its_training(trained: tuple[Path, dict[str, float]]) -> None:
    model, expected = trained
    found = metrics(cplearn("evaluate", str(model)))
    assert found.keys() == {name for name in expected if "time" not in name} | {"time/evaluation_s"}
    assert {k: v for k, v in found.items() if "time" not in k} == pytest.approx(
        {k: v for k, v in expected.items() if "time" not in k}, abs=0.02
    )


def test_on_another_data_set_with_other_probes(
    trained: tuple[Path, dict[str, float]], folder: Path, tmp_path: Path
) -> None:
    options = [
        "--set",
        "evaluation.probe=[sgd,lbfgs]",
        "--set",
        "evaluation.validation=0",
        "--data-root",
        str(tmp_path),
    ]
    found = metrics(cplearn("evaluate", str(trained[0]), "-d", f"folder:{folder}", *options))
    assert found["kmeans/clusters"] == 2
    assert {"probe/accuracy", "probe_sgd/accuracy", "codes/ami", "select/view_information"} <= found.keys()
    assert not any(name.startswith("validation/") or "top5" in name for name in found)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--set", "epochs=3"], "--set epochs: the model is trained; only evaluation.... can be set"),
        (["--set", "evaluation.probes=sgd"], "did you mean 'evaluation.probe'?"),
        (["--set", "evaluation.gmm_components=400"], "gmm_components 400 are more than the 360 test images of digits"),
        (["-d", "cifar"], "unknown dataset 'cifar'; did you mean 'cifar10'?"),
    ],
)
def test_a_mistake_is_one_sentence(trained: tuple[Path, dict[str, float]], arguments: list[str], message: str) -> None:
    output = cplearn("evaluate", str(trained[0]), *arguments, status=2)
    assert output.startswith("error:")
    assert message in output


def test_no_model_is_one_sentence(tmp_path: Path) -> None:
    assert "no model here" in cplearn("evaluate", str(tmp_path), status=2)


def plan(tmp_path: Path, transfer: str) -> Plan:
    path = tmp_path / "tiny.yaml"
    path.write_text(f"sweep: tiny\nsettings: {{epochs: 1, evaluation: {{transfer: {transfer}}}}}\nseeds: 1\n")
    return make_plan(read_sweep(path, SCHEMA), tmp_path / "data")


def test_what_is_in_the_other_data_sets_belongs_to_a_trials_key(
    tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder.parent)
    (without,), (here,) = plan(tmp_path, "[]").jobs, plan(tmp_path, "['folder:colours']").jobs
    assert here.trial.evaluation.transfer == [f"folder:{folder}"]
    elsewhere = tmp_path / "colours"
    shutil.copytree(folder, elsewhere)
    (same,) = plan(tmp_path, f"['folder:{elsewhere}']").jobs
    assert same.key == here.key != without.key
    (elsewhere / "train" / "red" / "0.png").unlink()
    (other,) = plan(tmp_path, f"['folder:{elsewhere}']").jobs
    assert other.key != here.key


def test_a_finished_run_is_exported_with_its_numbers(trained: tuple[Path, dict[str, float]], tmp_path: Path) -> None:
    folder, found = trained
    (tmp_path / "tiny.yaml").write_text("sweep: tiny\nsettings: {epochs: 1, backbone: {width: 4}}")
    plan = make_plan(read_sweep(tmp_path / "tiny.yaml", SCHEMA))
    tracker = Tracker(uri(tmp_path), plan)
    files = {f"model/{path.name}": path.read_bytes() for path in folder.iterdir()}
    tracker.started(plan.jobs[0])
    tracker.finished(plan.jobs[0], TrialResult({"probe/accuracy": found["probe/accuracy"]}, files))
    tracker.writes.close()
    run = tracker.runs[plan.jobs[0].key].run_id
    code, said = run_cli(tmp_path, "export", run, "--to", "out")
    assert code == 0, said
    card = (tmp_path / "out" / "README.md").read_text()
    assert f"| probe/accuracy | {found['probe/accuracy']:.4f} |" in card
    assert f"| run | {run} |" in card
    assert f"| trial key | {plan.jobs[0].key} |" in card
    assert exported.read(tmp_path / "out")(torch.zeros(1, 1, 8, 8)).shape == (1, 16)
    assert run_cli(tmp_path, "export", "0" * 32, "--to", "out")[0] == 2
